//! Attacks that put something on top of a locked version, so that whoever reads the newest is misled.

use aws_sdk_s3::types::ObjectLockMode;

use super::canary::{Canary, Ground};
use super::{Answer, Came, Target, answer, delete};
use crate::store::honesty::{Attack, Outcome};

/// Another object at the same name. It may be refused (create-only) or become a version of its own.
pub(super) async fn overwrite(ground: &Ground<'_>) -> Came {
    let canary = ground.canary(Attack::Overwrite).await?;
    let until = ground.after(ground.locks.lapse);
    let said = answer(ground.locked(&canary.key, ObjectLockMode::Compliance, until).send().await)?;
    if let Answer::Yes(done) = &said
        && done.version_id.as_deref() == Some(canary.version.as_str())
    {
        return Ok((Outcome::Lied, "another object was given the same version".into()));
    }
    ground.survives(&canary, &said).await
}

/// A delete without a version: makes a marker, where the credential may.
pub(super) async fn marker(ground: &Ground<'_>) -> Came {
    let canary = ground.canary(Attack::HideByMarker).await?;
    let Target { client, bucket, .. } = ground.target;
    let said = answer(client.delete_object().bucket(bucket).key(&canary.key).send().await)?;
    let came = ground.survives(&canary, &said).await;
    if let Answer::Yes(done) = said
        && let Some(version) = done.version_id
    {
        // Taken away again where that is allowed; a marker that stays hides a canary.
        let marker = Canary { key: canary.key, version, until: canary.until };
        let _ = delete::one(ground, &marker, false).await;
    }
    came
}
