//! What a credential really can, against what its role needs: too much is a complaint, and so is too little.
//!
//! [`probe`] asks the bucket by requests that change nothing, whatever the answer: they name what does not exist, or say what
//! makes no sense, so that an allowed one is refused for that and a forbidden one for want of a right; a policy that is taken all the same is put back. [`judge`] is pure.
//!
//! Not seen this way: the right to make delete markers and to lift governance locks, which only a deed shows; the honesty
//! drill does both at a canary.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ids::Role;

mod probe;

pub use probe::probe;

/// Something a credential can or cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    List,
    /// Sealed data, and not envelopes only.
    ReadBackups,
    Put,
    ExtendLocks,
    SetHolds,
    RemoveVersions,
    ChangeVersioning,
    ChangeLockConfiguration,
    ChangeLifecycle,
    ChangePolicy,
}

impl Right {
    pub const ALL: [Self; 10] = [
        Self::List,
        Self::ReadBackups,
        Self::Put,
        Self::ExtendLocks,
        Self::SetHolds,
        Self::RemoveVersions,
        Self::ChangeVersioning,
        Self::ChangeLockConfiguration,
        Self::ChangeLifecycle,
        Self::ChangePolicy,
    ];

    /// As it follows "may".
    #[must_use]
    pub const fn said(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::ReadBackups => "read backups",
            Self::Put => "put objects",
            Self::ExtendLocks => "change locks",
            Self::SetHolds => "set and lift legal holds",
            Self::RemoveVersions => "remove versions",
            Self::ChangeVersioning => "change the bucket's versioning",
            Self::ChangeLockConfiguration => "change the bucket's lock configuration",
            Self::ChangeLifecycle => "change the bucket's lifecycle",
            Self::ChangePolicy => "change the bucket's policy",
        }
    }

    /// Whether `role` needs it in the store of backups.
    #[must_use]
    pub const fn is_needed_by(self, role: Role) -> bool {
        match self {
            Self::List => true,
            Self::ReadBackups => matches!(role, Role::Reader | Role::Verifier),
            Self::Put | Self::ExtendLocks => matches!(role, Role::Writer),
            Self::SetHolds => matches!(role, Role::Holder),
            Self::RemoveVersions => matches!(role, Role::Janitor),
            Self::ChangeVersioning | Self::ChangeLockConfiguration | Self::ChangeLifecycle | Self::ChangePolicy => {
                false
            }
        }
    }
}

/// What was found; a right that is not in it could not be seen.
pub type Found = BTreeMap<Right, bool>;

/// What is wrong with a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "complaint", content = "right")]
pub enum Complaint {
    TooMuch(Right),
    Missing(Right),
}

impl Complaint {
    /// In words, about a credential.
    #[must_use]
    pub fn said(self) -> String {
        match self {
            Self::TooMuch(right) => format!("may {}, and needs not", right.said()),
            Self::Missing(right) => format!("may not {}, and must", right.said()),
        }
    }
}

/// What a credential that acts as `role` has too much and lacks.
#[must_use]
pub fn judge(role: Role, found: &Found) -> Vec<Complaint> {
    let complaint = |(right, has): (&Right, &bool)| match (right.is_needed_by(role), has) {
        (true, false) => Some(Complaint::Missing(*right)),
        (false, true) => Some(Complaint::TooMuch(*right)),
        _ => None,
    };
    found.iter().filter_map(complaint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(has: bool) -> Found {
        Right::ALL.into_iter().map(|right| (right, has)).collect()
    }

    #[test]
    fn who_can_do_everything_can_do_too_much_in_every_role() {
        for role in Role::ALL {
            let complaints = judge(role, &all(true));
            for right in [Right::ChangePolicy, Right::ChangeVersioning, Right::ChangeLifecycle] {
                assert!(complaints.contains(&Complaint::TooMuch(right)), "{role:?} {right:?}");
            }
            assert!(!complaints.iter().any(|complaint| matches!(complaint, Complaint::Missing(_))), "{role:?}");
        }
        assert!(judge(Role::Writer, &all(true)).contains(&Complaint::TooMuch(Right::RemoveVersions)));
        assert!(judge(Role::Writer, &all(true)).contains(&Complaint::TooMuch(Right::ReadBackups)));
        assert!(judge(Role::Reader, &all(true)).contains(&Complaint::TooMuch(Right::Put)));
    }

    #[test]
    fn who_has_exactly_what_the_role_needs_is_not_spoken_of() {
        for role in Role::ALL {
            let found = Right::ALL.into_iter().map(|right| (right, right.is_needed_by(role))).collect();
            assert_eq!(judge(role, &found), [], "{role:?}");
        }
    }

    #[test]
    fn what_could_not_be_seen_is_no_complaint_and_what_is_missing_is_one() {
        assert_eq!(judge(Role::Writer, &Found::new()), []);
        let found = Found::from([(Right::Put, false)]);
        assert_eq!(judge(Role::Writer, &found), [Complaint::Missing(Right::Put)]);
        assert_eq!(judge(Role::Reader, &found), []);
    }
}
