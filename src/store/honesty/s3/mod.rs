//! The drill of a bucket: what whoever has this credential could do to what is locked there.
//!
//! It speaks S3 directly, because [`crate::store::Store`] has no words for an attack. One file per kind of attack; each has
//! a canary of its own ([`canary`]), and believes what it finds afterwards and not what it was answered.
//!
//! A refused delete does not say whether the lock or a missing right refused it. So one canary is locked for seconds
//! only, and deleted when that has lapsed: who may not do even that has not tried the lock ([`Rights`]).

use aws_sdk_s3::Client;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant, sleep};

use super::{Attack, Outcome, Trial};

mod answer;
mod bucket;
mod canary;
mod checksum;
mod delete;
mod hide;
mod hold;
mod parts;
mod race;
mod retention;

pub use answer::Trouble;
pub(in crate::store) use answer::{Answer, answer};
use canary::{Canary, Ground};
pub(in crate::store) use checksum::NO_MD5;

/// A bucket, and the way in.
#[derive(Debug, Clone)]
pub struct Target {
    pub client: Client,
    pub bucket: String,
    /// Put before every object's name, without a slash at its ends; empty for none.
    pub prefix: String,
}

impl Target {
    /// The key of the object that a store calls `name`.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }
}

/// How long canaries are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locks {
    /// Longer than the drill takes.
    pub lock: SignedDuration,
    /// Of those that must lapse while it runs.
    pub lapse: SignedDuration,
}

/// After this long past a lock's end, a delete that is still refused is refused for want of a right.
const LAPSED: Duration = Duration::from_secs(5);

/// What the credential may do where nothing is locked; `None` where that could not be seen.
#[derive(Debug, Clone, Copy, Default)]
struct Rights {
    delete: Option<bool>,
}

/// What an attack came to.
type Came = Result<(Outcome, String), Trouble>;

/// Attacks the bucket at canaries named by `stamp`; `now` is the store's time.
///
/// # Errors
/// When not even a canary can be put there.
pub async fn drill(target: &Target, stamp: &str, now: Timestamp, locks: Locks) -> Result<Vec<Trial>, Trouble> {
    let ground = Ground { target, stamp, began: Instant::now(), now, locks };
    // The first one shows whether there is anything to attack; the two that must lapse are put early.
    let lapsing = ground.plant("lapsing", locks.lapse).await?;
    let held = hold::plant(&ground).await;
    let mut trials = Vec::new();
    let mut tell = |attack, came| trials.push(told(attack, came));
    tell(Attack::BornUnlocked, retention::born(&ground).await);
    tell(Attack::Shorten, retention::shorten(&ground).await);
    tell(Attack::DowngradeMode, retention::downgrade(&ground).await);
    tell(Attack::PastDate, retention::past_date(&ground).await);
    tell(Attack::Overwrite, hide::overwrite(&ground).await);
    tell(Attack::HideByMarker, hide::marker(&ground).await);
    tell(Attack::OverwriteInParts, parts::overwrite(&ground).await);
    tell(Attack::PartsUnlocked, parts::locked(&ground).await);
    tell(Attack::RaceCreateOnly, race::race(&ground).await);
    tell(Attack::WrongChecksum, checksum::wrong(&ground).await);
    tell(Attack::DeleteVersion, delete::version(&ground).await);
    tell(Attack::DeleteMany, delete::many(&ground).await);
    tell(Attack::BypassDelete, delete::bypass(&ground).await);
    tell(Attack::SuspendVersioning, bucket::suspend_versioning(&ground).await);
    tell(Attack::RemoveLockConfiguration, bucket::remove_lock_configuration(&ground).await);
    let rights = Rights { delete: Some(may_delete(&ground, &lapsing).await) };
    tell(Attack::DeleteHeld, hold::delete(&ground, held, rights.delete).await);
    for trial in &mut trials {
        without_right(trial, rights);
    }
    trials.sort_by_key(|trial| trial.attack);
    Ok(trials)
}

fn told(attack: Attack, came: Came) -> Trial {
    let (outcome, detail) = came.unwrap_or_else(|trouble| (Outcome::CouldNotTry, trouble.to_string()));
    Trial { attack, outcome, detail }
}

/// A refusal that a missing right explains is no proof of a lock.
fn without_right(trial: &mut Trial, rights: Rights) {
    let deletes = matches!(trial.attack, Attack::DeleteVersion | Attack::DeleteMany | Attack::BypassDelete);
    if deletes && trial.outcome == Outcome::Refused && rights.delete != Some(true) {
        trial.outcome = Outcome::CouldNotTry;
        trial.detail = "not tried with enough rights: this credential deletes nothing, locked or not".into();
    }
}

/// Whether a version whose lock has lapsed can be deleted: tried until it is, or until the lock has long lapsed.
async fn may_delete(ground: &Ground<'_>, lapsing: &Canary) -> bool {
    let end = ground.instant(lapsing.until);
    loop {
        sleep(end.saturating_duration_since(Instant::now()).max(Duration::from_millis(200))).await;
        if matches!(delete::one(ground, lapsing, false).await, Ok(Answer::Yes(_)))
            && !ground.there(lapsing).await.unwrap_or(true)
        {
            return true;
        }
        if end.elapsed() > LAPSED {
            return false;
        }
    }
}
