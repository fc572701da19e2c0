//! Attacks that delete a locked version: plainly, in a list, and with the header that lifts governance locks.

use aws_sdk_s3::types::{Delete, ObjectIdentifier, ObjectLockMode};

use super::canary::{Canary, Ground};
use super::{Answer, Came, Target, Trouble, answer};
use crate::store::honesty::{Attack, Outcome};

pub(super) async fn version(ground: &Ground<'_>) -> Came {
    let canary = ground.canary(Attack::DeleteVersion).await?;
    let said = one(ground, &canary, false).await?;
    ground.survives(&canary, &said).await
}

/// Deletes exactly this version.
pub(super) async fn one(ground: &Ground<'_>, canary: &Canary, bypass: bool) -> Result<Answer<()>, Trouble> {
    let Target { client, bucket, .. } = ground.target;
    let asked = client.delete_object().bucket(bucket).key(&canary.key).version_id(&canary.version);
    let asked = if bypass { asked.bypass_governance_retention(true) } else { asked };
    Ok(match answer(asked.send().await)? {
        Answer::Yes(_) => Answer::Yes(()),
        Answer::Denied => Answer::Denied,
        Answer::No(code) => Answer::No(code),
    })
}

/// The request answers 200 and says in its body what it refused.
pub(super) async fn many(ground: &Ground<'_>) -> Came {
    let canary = ground.canary(Attack::DeleteMany).await?;
    let unable = |error: aws_sdk_s3::error::BuildError| Trouble::Unable(error.to_string());
    let which = ObjectIdentifier::builder().key(&canary.key).version_id(&canary.version).build().map_err(unable)?;
    let list = Delete::builder().objects(which).build().map_err(unable)?;
    let Target { client, bucket, .. } = ground.target;
    let asked = client.delete_objects().bucket(bucket).delete(list).bypass_governance_retention(true);
    let said = match answer(asked.send().await)? {
        Answer::Yes(done) => match done.errors().first() {
            Some(error) => Answer::No(error.code().unwrap_or("refused").to_owned()),
            None => Answer::Yes(()),
        },
        Answer::Denied => Answer::Denied,
        Answer::No(code) => Answer::No(code),
    };
    ground.survives(&canary, &said).await
}

/// Only who may lift a governance lock has tried whether a compliance lock holds against him.
pub(super) async fn bypass(ground: &Ground<'_>) -> Came {
    let right = may_bypass(ground).await?;
    let canary = ground.canary(Attack::BypassDelete).await?;
    let said = one(ground, &canary, true).await?;
    let (outcome, detail) = ground.survives(&canary, &said).await?;
    if outcome == Outcome::Refused && !right {
        return Err(Trouble::NoRight("lift governance locks"));
    }
    Ok((outcome, detail))
}

/// Whether this credential deletes what is locked in GOVERNANCE mode.
async fn may_bypass(ground: &Ground<'_>) -> Result<bool, Trouble> {
    let (key, until) = (ground.key("governance"), ground.after(ground.locks.lock));
    let put = ground.locked(&key, ObjectLockMode::Governance, until);
    let Answer::Yes(done) = answer(put.send().await)? else { return Ok(false) };
    let governed = Canary { key, version: done.version_id.unwrap_or_default(), until };
    Ok(matches!(one(ground, &governed, true).await?, Answer::Yes(())) && !ground.there(&governed).await?)
}
