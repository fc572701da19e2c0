//! Attacks on the bucket's settings. Each is tried only where it can be read before, and is undone at once where it worked.

use aws_sdk_s3::types::{BucketVersioningStatus, ObjectLockConfiguration, ObjectLockEnabled, VersioningConfiguration};

use super::canary::Ground;
use super::{Answer, Came, Target, Trouble, answer};
use crate::store::honesty::{Attack, Outcome};

/// Without versions the next put would replace what is locked. Told by what a put is given: a status can say anything.
pub(super) async fn suspend_versioning(ground: &Ground<'_>) -> Came {
    let canary = ground.canary(Attack::SuspendVersioning).await?;
    let said = set_versioning(ground, BucketVersioningStatus::Suspended).await?;
    let suspended = ground.plant("suspended", ground.locks.lapse).await;
    let back = match &said {
        Answer::Yes(()) => set_versioning(ground, BucketVersioningStatus::Enabled).await,
        _ => Ok(Answer::Yes(())),
    };
    match (suspended, said) {
        (Ok(_), Answer::Denied) => Err(Trouble::NoRight("change versioning")),
        (Ok(_), said) => ground.survives(&canary, &said).await,
        (Err(_), _) => Ok((
            Outcome::Lied,
            match back {
                Ok(Answer::Yes(())) => "versioning could be suspended; it is on again".into(),
                _ => "versioning could be suspended, and is still off: switch it on".into(),
            },
        )),
    }
}

async fn set_versioning(ground: &Ground<'_>, status: BucketVersioningStatus) -> Result<Answer<()>, Trouble> {
    let Target { client, bucket, .. } = ground.target;
    let wanted = VersioningConfiguration::builder().status(status).build();
    let asked = client.put_bucket_versioning().bucket(bucket).versioning_configuration(wanted);
    Ok(match answer(asked.send().await)? {
        Answer::Yes(_) => Answer::Yes(()),
        Answer::Denied => Answer::Denied,
        Answer::No(code) => Answer::No(code),
    })
}

/// A lock configuration without its one word, "enabled".
pub(super) async fn remove_lock_configuration(ground: &Ground<'_>) -> Came {
    let canary = ground.canary(Attack::RemoveLockConfiguration).await?;
    let Some(before) = configuration(ground).await? else {
        return Ok((Outcome::Lied, "the bucket takes locks and is not set up for them".into()));
    };
    let said = configure(ground, ObjectLockConfiguration::builder().build()).await?;
    let after = configuration(ground).await?;
    if after.as_ref() != Some(&before) {
        configure(ground, before).await?;
    }
    match (after.and_then(|after| after.object_lock_enabled), said) {
        (Some(ObjectLockEnabled::Enabled), Answer::Denied) => Err(Trouble::NoRight("change the lock configuration")),
        (Some(ObjectLockEnabled::Enabled), said) => ground.survives(&canary, &said).await,
        _ => Ok((Outcome::Lied, "Object Lock could be switched off for the bucket".into())),
    }
}

async fn configuration(ground: &Ground<'_>) -> Result<Option<ObjectLockConfiguration>, Trouble> {
    let Target { client, bucket, .. } = ground.target;
    match answer(client.get_object_lock_configuration().bucket(bucket).send().await)? {
        Answer::Yes(found) => Ok(found.object_lock_configuration),
        Answer::Denied => Err(Trouble::NoRight("read the lock configuration")),
        Answer::No(_) => Ok(None),
    }
}

async fn configure(ground: &Ground<'_>, wanted: ObjectLockConfiguration) -> Result<Answer<()>, Trouble> {
    let Target { client, bucket, .. } = ground.target;
    let asked = client.put_object_lock_configuration().bucket(bucket).object_lock_configuration(wanted);
    Ok(match answer(asked.send().await)? {
        Answer::Yes(_) => Answer::Yes(()),
        Answer::Denied => Answer::Denied,
        Answer::No(code) => Answer::No(code),
    })
}
