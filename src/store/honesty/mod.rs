//! Is this store honest? It is attacked at canaries, and what came of it is judged and remembered.
//!
//! A drill makes objects of its own under `canary/<time>-<rand>/<attack>`, locked for minutes, and tries on each what
//! an attacker with its credential would try ([`Attack`]). Nothing else in the store is touched, except that two attacks
//! ask for a change of the bucket's settings; a store that obeys has it undone at once. The canaries lapse.
//!
//! [`verdict`] and [`gate`] are pure: a store that lied takes no backups unless the configuration says so out loud.
//! The trials are remembered on this machine (`state_dir/honesty/`, [`Record`]); who owns the machine can forge them,
//! as he can everything else here.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

mod local;
mod record;
pub mod s3;
#[cfg(test)]
mod tests;

pub use local::drill as drill_local;
pub use record::{Record, RecordError};

/// A drill older than this no longer speaks for the store.
pub const STALE: SignedDuration = SignedDuration::from_hours(35 * 24);

/// What is tried. The name is what reports and the record say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// A put with lock headers is answered with yes; is the object locked?
    BornUnlocked,
    DeleteVersion,
    /// The same through the request that deletes many.
    DeleteMany,
    /// With the header that lifts governance locks, and the right to.
    BypassDelete,
    /// A delete marker on top.
    HideByMarker,
    /// Another object put at the same name.
    Overwrite,
    /// An upload in parts completed at the same name.
    OverwriteInParts,
    Shorten,
    DowngradeMode,
    PastDate,
    /// An upload in parts with lock headers: is it locked?
    PartsUnlocked,
    SuspendVersioning,
    RemoveLockConfiguration,
    /// Eight create-only puts at once.
    RaceCreateOnly,
    WrongChecksum,
    /// A version under a legal hold, after its lock has lapsed.
    DeleteHeld,
}

impl Attack {
    pub const ALL: [Self; 16] = [
        Self::BornUnlocked,
        Self::DeleteVersion,
        Self::DeleteMany,
        Self::BypassDelete,
        Self::HideByMarker,
        Self::Overwrite,
        Self::OverwriteInParts,
        Self::Shorten,
        Self::DowngradeMode,
        Self::PastDate,
        Self::PartsUnlocked,
        Self::SuspendVersioning,
        Self::RemoveLockConfiguration,
        Self::RaceCreateOnly,
        Self::WrongChecksum,
        Self::DeleteHeld,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BornUnlocked => "born-unlocked",
            Self::DeleteVersion => "delete-version",
            Self::DeleteMany => "delete-many",
            Self::BypassDelete => "bypass-delete",
            Self::HideByMarker => "hide-by-marker",
            Self::Overwrite => "overwrite",
            Self::OverwriteInParts => "overwrite-in-parts",
            Self::Shorten => "shorten",
            Self::DowngradeMode => "downgrade-mode",
            Self::PastDate => "past-date",
            Self::PartsUnlocked => "parts-unlocked",
            Self::SuspendVersioning => "suspend-versioning",
            Self::RemoveLockConfiguration => "remove-lock-configuration",
            Self::RaceCreateOnly => "race-create-only",
            Self::WrongChecksum => "wrong-checksum",
            Self::DeleteHeld => "delete-held",
        }
    }
}

/// What came of one attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The store said no, and nothing had changed.
    Refused,
    /// The store let it happen, and it does no harm: lifeboat looks at versions, sets locks again, depends on no race.
    SeenThrough,
    /// What the store had promised did not hold.
    Lied,
    /// Not tried, or not with enough rights to tell the lock from a missing right.
    CouldNotTry,
}

/// One attack and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    pub attack: Attack,
    pub outcome: Outcome,
    pub detail: String,
}

/// What a whole drill says about a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything was tried with enough rights, and held.
    Honest,
    /// What was tried held; some of it could not be tried.
    Unproven,
    /// Something did not hold.
    Lies,
}

/// The verdict over a drill's trials. A drill in which nothing could be tried proves nothing.
#[must_use]
pub fn verdict(trials: &[Trial]) -> Verdict {
    let any = |outcome| trials.iter().any(|trial| trial.outcome == outcome);
    if any(Outcome::Lied) {
        Verdict::Lies
    } else if trials.is_empty() || any(Outcome::CouldNotTry) {
        Verdict::Unproven
    } else {
        Verdict::Honest
    }
}

/// Whether a store may take what must not be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// Open, and a person should know why that is thin: what, and what to do.
    Warn {
        what: String,
        next: String,
    },
    Refuse {
        what: String,
        next: String,
    },
}

/// Decides whether `backup` and `stream` may write to a store, from its last drill.
///
/// `accept_dishonest` is the configuration's word that a store which lied is used all the same; it is repeated at every run.
#[must_use]
pub fn gate(record: Option<&Record>, now: Timestamp, accept_dishonest: bool) -> Gate {
    let drill = "run `lifeboat doctor --attack`".to_owned();
    let Some(record) = record else {
        return Gate::Warn { what: "was never drilled: whether it keeps its locks is not known".into(), next: drill };
    };
    let lies: Vec<&str> = record.lies().map(|trial| trial.attack.name()).collect();
    if !lies.is_empty() {
        let what = format!("does not keep its locks (drill of {}): {}", record.time, lies.join(", "));
        if accept_dishonest {
            let what = format!("{what}. It is used because accept_dishonest is set");
            return Gate::Warn { what, next: "use a store that keeps its locks".into() };
        }
        let next = "use another store, or say accept_dishonest = true in its table; then backups can be destroyed";
        return Gate::Refuse { what, next: next.into() };
    }
    let held = |trial: &Trial| trial.outcome != Outcome::CouldNotTry;
    if !record.trials.iter().any(held) {
        let next =
            "run `lifeboat doctor --attack --profile NAME` with the profile of whoever administers the bucket".into();
        return Gate::Warn { what: "was drilled with a credential that could try nothing".into(), next };
    }
    let age = now.duration_since(record.time);
    if age > STALE {
        let what = format!("was last drilled {} days ago", age.as_hours() / 24);
        return Gate::Warn { what, next: drill };
    }
    Gate::Open
}
