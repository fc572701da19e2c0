//! A version under a legal hold must stay when its lock has lapsed.

use aws_sdk_s3::types::{ObjectLockLegalHold, ObjectLockLegalHoldStatus};
use tokio::time::sleep_until;

use super::canary::{Canary, Ground};
use super::{Answer, Came, Target, Trouble, answer, delete};
use crate::store::honesty::{Attack, Outcome};

/// A canary with a lock that lapses soon, and a hold.
pub(super) async fn plant(ground: &Ground<'_>) -> Result<Canary, Trouble> {
    let canary = ground.plant(Attack::DeleteHeld.name(), ground.locks.lapse).await?;
    match set(ground, &canary, ObjectLockLegalHoldStatus::On).await? {
        Answer::Yes(()) => Ok(canary),
        Answer::Denied => Err(Trouble::NoRight("set legal holds")),
        Answer::No(code) => Err(Trouble::Unable(code)),
    }
}

/// Deletes it when its lock has lapsed; lifts the hold in the end, so that the canary can go.
pub(super) async fn delete(ground: &Ground<'_>, held: Result<Canary, Trouble>, may_delete: Option<bool>) -> Came {
    let canary = held?;
    sleep_until(ground.instant(canary.until)).await;
    let said = delete::one(ground, &canary, true).await?;
    let came = ground.survives(&canary, &said).await?;
    set(ground, &canary, ObjectLockLegalHoldStatus::Off).await?;
    if came.0 == Outcome::Refused && may_delete != Some(true) {
        return Err(Trouble::NoRight("delete"));
    }
    delete::one(ground, &canary, false).await?;
    Ok(match came.0 {
        Outcome::Lied => (Outcome::Lied, "a version under a legal hold is gone".into()),
        _ => came,
    })
}

async fn set(ground: &Ground<'_>, canary: &Canary, status: ObjectLockLegalHoldStatus) -> Result<Answer<()>, Trouble> {
    let Target { client, bucket, .. } = ground.target;
    let hold = ObjectLockLegalHold::builder().status(status).build();
    let asked = client.put_object_legal_hold().bucket(bucket).key(&canary.key).version_id(&canary.version);
    Ok(match answer(asked.legal_hold(hold).send().await)? {
        Answer::Yes(_) => Answer::Yes(()),
        Answer::Denied => Answer::Denied,
        Answer::No(code) => Answer::No(code),
    })
}
