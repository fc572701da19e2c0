//! Attacks on a lock itself: was there ever one, can it be shortened, weakened, dated back.

use aws_sdk_s3::types::ObjectLockRetentionMode;
use jiff::{SignedDuration, Timestamp};

use super::canary::{Canary, Ground};
use super::{Answer, Came, Trouble};
use crate::store::honesty::{Attack, Outcome};

/// A put with lock headers was answered with yes. Is there a lock?
pub(super) async fn born(ground: &Ground<'_>) -> Came {
    let canary = ground.canary(Attack::BornUnlocked).await?;
    Ok(match ground.lock(&canary).await? {
        Some((ObjectLockRetentionMode::Compliance, until)) if until >= canary.until => {
            (Outcome::Refused, format!("locked until {until}"))
        }
        Some((mode, until)) => {
            (Outcome::Lied, format!("asked for COMPLIANCE until {}, got {mode} until {until}", canary.until))
        }
        None => (Outcome::Lied, "lock headers are answered with yes, and nothing is locked".into()),
    })
}

pub(super) async fn shorten(ground: &Ground<'_>) -> Came {
    let canary = extended(ground, Attack::Shorten).await?;
    let sooner = ground.after(SignedDuration::from_secs(10));
    weakened(ground, &canary, ObjectLockRetentionMode::Compliance, sooner).await
}

/// To GOVERNANCE, later than before: only the mode is weaker.
pub(super) async fn downgrade(ground: &Ground<'_>) -> Came {
    let canary = extended(ground, Attack::DowngradeMode).await?;
    let later = canary.until.checked_add(SignedDuration::from_secs(60)).unwrap_or(canary.until);
    weakened(ground, &canary, ObjectLockRetentionMode::Governance, later).await
}

pub(super) async fn past_date(ground: &Ground<'_>) -> Came {
    let canary = extended(ground, Attack::PastDate).await?;
    let past = ground.time().checked_sub(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MIN);
    weakened(ground, &canary, ObjectLockRetentionMode::Compliance, past).await
}

/// A canary whose lock this credential could make longer: it has the right, so a refusal of less is the lock's.
async fn extended(ground: &Ground<'_>, attack: Attack) -> Result<Canary, Trouble> {
    let mut canary = ground.canary(attack).await?;
    let later = canary.until.checked_add(SignedDuration::from_secs(30)).unwrap_or(canary.until);
    match ground.retain(&canary, (ObjectLockRetentionMode::Compliance, later), false).await? {
        Answer::Yes(()) => canary.until = later,
        Answer::Denied => return Err(Trouble::NoRight("change locks")),
        Answer::No(code) => return Err(Trouble::Unable(format!("a lock cannot be extended: {code}"))),
    }
    Ok(canary)
}

async fn weakened(ground: &Ground<'_>, canary: &Canary, mode: ObjectLockRetentionMode, until: Timestamp) -> Came {
    let mut said = ground.retain(canary, (mode.clone(), until), false).await?;
    if !matches!(said, Answer::Yes(())) {
        said = ground.retain(canary, (mode, until), true).await?;
    }
    Ok(match (ground.lock(canary).await?, said) {
        (Some((ObjectLockRetentionMode::Compliance, end)), said) if end >= canary.until => match said {
            Answer::Yes(()) => (Outcome::SeenThrough, "answered with yes; the lock is as it was".into()),
            Answer::Denied => (Outcome::Refused, "denied".into()),
            Answer::No(code) => (Outcome::Refused, code),
        },
        (Some((mode, end)), _) => {
            (Outcome::Lied, format!("COMPLIANCE until {} became {mode} until {end}", canary.until))
        }
        (None, _) => (Outcome::Lied, format!("a lock until {} is gone", canary.until)),
    })
}
