//! Why each object stays or goes: pure functions of what was seen, and of the store's time.
//!
//! An envelope protects what it names while its lock runs, but never for longer than a true one can be locked (its arrival plus
//! the longest time of the configuration): a signed envelope with a lock until 9999, by whoever stole the writer's key, stays
//! itself for as long as the store holds it, and keeps nothing else.

use jiff::{SignedDuration, Timestamp};

use crate::store::{Listed, LockState};

/// Why an object stays or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Stays: a believed envelope whose lock runs.
    Live,
    /// Stays: an envelope that stays names it, or it is that envelope's signature.
    Named,
    /// Stays: a legal hold lies on it.
    Held,
    /// Stays: a hold on its tenant is open.
    HoldOpen,
    /// Stays: an envelope whose lock has lapsed, and whose signature's (which lasts longer by the slack) has not.
    Closing,
    /// Stays: nothing names it and its lock runs: a backup under way, or garbage that is not free yet.
    Locked,
    /// Stays, and protects nothing: an envelope locked for longer than any class of the configuration.
    Beyond,
    /// Stays: an entry of the erasure ledger, which every later restore asks.
    Ledger,
    /// Stays: not an object of this format. Nobody but whoever put it there knows what it is for.
    Foreign,
    /// Stays for now: too many versions of one thing to judge them all in one run.
    Crowded,
    /// Stays: the store refused to remove it.
    Refused,
    /// Goes: an envelope, its signature and its own parts, whose time has come.
    Lapsed,
    /// Goes: its lock has lapsed and nothing that stays names it.
    Unnamed,
    /// Goes: lies where envelopes lie, is not believed, and its lock has lapsed.
    Unbelieved,
}

impl Reason {
    #[must_use]
    pub const fn removes(self) -> bool {
        matches!(self, Self::Lapsed | Self::Unnamed | Self::Unbelieved)
    }

    /// The reason as people read it in a table.
    #[must_use]
    pub const fn said(self) -> &'static str {
        match self {
            Self::Live => "kept: its lock runs",
            Self::Named => "kept: needed by what is kept",
            Self::Held => "kept: legal hold",
            Self::HoldOpen => "kept: its tenant is on hold",
            Self::Closing => "kept: lapsed, waits for the slack",
            Self::Locked => "kept: locked, named by nothing (yet)",
            Self::Beyond => "kept: locked longer than any class; suspect",
            Self::Ledger => "kept: the erasure ledger",
            Self::Foreign => "kept: not lifeboat's",
            Self::Crowded => "kept: too many versions for one run",
            Self::Refused => "kept: the store refused",
            Self::Lapsed => "goes: its time has come",
            Self::Unnamed => "goes: nothing needs it",
            Self::Unbelieved => "goes: not believed",
        }
    }
}

/// What becomes of one version of an object, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    pub name: String,
    pub version: String,
    pub bytes: u64,
    pub reason: Reason,
}

impl Verdict {
    #[must_use]
    pub fn of(listed: &Listed, reason: Reason) -> Self {
        Self { name: listed.name.clone(), version: listed.version.0.clone(), bytes: listed.bytes, reason }
    }
}

/// What is known of a believed envelope before the store is asked about its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// What it says of its own lock: true when it was signed, and locks only grow.
    pub says: Timestamp,
    /// When the store says it arrived.
    pub created: Timestamp,
    /// A point that stays names it.
    pub named: bool,
    /// A hold on its tenant is open.
    pub hold_open: bool,
}

impl Seen {
    fn protects_until(&self, lock: Timestamp, longest: SignedDuration) -> Timestamp {
        lock.min(self.created.checked_add(longest).unwrap_or(Timestamp::MAX))
    }

    /// Whether it stays for certain; `None` when the store has to be asked.
    #[must_use]
    pub fn at_once(&self, now: Timestamp, longest: SignedDuration) -> Option<Reason> {
        if self.protects_until(self.says, longest) > now {
            Some(Reason::Live)
        } else if self.named {
            Some(Reason::Named)
        } else if self.hold_open {
            Some(Reason::HoldOpen)
        } else {
            None
        }
    }

    /// What becomes of it, given its lock and its signature's.
    #[must_use]
    pub fn asked(&self, own: &LockState, signature: &LockState, now: Timestamp, longest: SignedDuration) -> Reason {
        let runs = |lock: &LockState| lock.retained_until.is_some_and(|end| self.protects_until(end, longest) > now);
        if own.held || signature.held {
            Reason::Held
        } else if runs(own) {
            Reason::Live
        } else if own.binds(now) {
            Reason::Beyond
        } else if runs(signature) {
            Reason::Closing
        } else {
            Reason::Lapsed
        }
    }
}

/// What becomes of what nothing names: its own lock decides; `free` is why it goes when that has lapsed.
#[must_use]
pub fn alone(lock: &LockState, now: Timestamp, free: Reason) -> Reason {
    match (lock.held, lock.binds(now)) {
        (true, _) => Reason::Held,
        (false, true) => Reason::Locked,
        (false, false) => free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn at(hours: i64) -> Timestamp {
        "2026-11-22T00:00:00Z".parse::<Timestamp>().unwrap() + HOUR * i32::try_from(hours).unwrap()
    }
    fn until(hours: i64) -> LockState {
        LockState { retained_until: Some(at(hours)), held: false }
    }
    fn seen(says: i64) -> Seen {
        Seen { says: at(says), created: at(0), named: false, hold_open: false }
    }

    #[test]
    fn an_envelope_stays_while_its_lock_runs_by_its_own_word_or_by_the_stores() {
        assert_eq!(seen(10).at_once(at(9), HOUR * 100), Some(Reason::Live));
        assert_eq!(seen(10).at_once(at(10), HOUR * 100), None);
        assert_eq!(seen(10).asked(&until(20), &until(21), at(10), HOUR * 100), Reason::Live);
        assert_eq!(seen(10).asked(&until(20), &until(21), at(20), HOUR * 100), Reason::Closing);
        assert_eq!(seen(10).asked(&until(20), &until(21), at(21), HOUR * 100), Reason::Lapsed);
    }

    #[test]
    fn a_hold_on_either_keeps_both() {
        let held = LockState { held: true, ..until(1) };
        assert_eq!(seen(1).asked(&held, &until(1), at(50), HOUR), Reason::Held);
        assert_eq!(seen(1).asked(&until(1), &held, at(50), HOUR), Reason::Held);
        assert_eq!(alone(&held, at(50), Reason::Unnamed), Reason::Held);
    }

    #[test]
    fn no_envelope_protects_for_longer_than_a_true_one_could() {
        let forged = seen(1_000_000);
        assert_eq!(forged.at_once(at(99), HOUR * 100), Some(Reason::Live));
        assert_eq!(forged.at_once(at(100), HOUR * 100), None);
        assert_eq!(forged.asked(&until(1_000_000), &until(1), at(100), HOUR * 100), Reason::Beyond);
        assert_eq!(forged.asked(&until(5), &until(1_000_000), at(100), HOUR * 100), Reason::Lapsed);
    }

    proptest! {
        #[test]
        fn nothing_goes_that_a_lock_or_a_hold_covers(
            says in 0..200_i64, own in 0..200_i64, signature in 0..200_i64, now in 0..200_i64, longest in 1..200_i32,
            held in any::<bool>(), named in any::<bool>(), hold_open in any::<bool>(),
        ) {
            let seen = Seen { named, hold_open, ..seen(says) };
            let lock = LockState { held, ..until(own) };
            let reason = seen.at_once(at(now), HOUR * longest)
                .unwrap_or_else(|| seen.asked(&lock, &until(signature), at(now), HOUR * longest));
            prop_assert!(!reason.removes() || !(lock.binds(at(now)) || named || hold_open));
            prop_assert!(!alone(&lock, at(now), Reason::Unnamed).removes() || !lock.binds(at(now)));
            // And nothing stays for ever: at the end of every lock, without a hold, it goes.
            if !held && !named && !hold_open {
                prop_assert_eq!(seen.at_once(at(1000), HOUR * longest), None);
                prop_assert!(seen.asked(&lock, &until(signature), at(1000), HOUR * longest).removes());
            }
        }
    }
}
