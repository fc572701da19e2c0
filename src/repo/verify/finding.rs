//! What a verification finds wrong, where, and what to do about it.

use serde::Serialize;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Everything can be restored, and a person should know all the same.
    Warning,
    /// Something cannot be restored, or is not protected as it must be.
    Damage,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// An envelope names it and no version of it is there.
    Missing,
    /// Versions of it are there and none has the size that its envelope says.
    WrongSize,
    /// No version of it has the SHA-256 that its envelope says.
    Altered,
    /// Its lock ends before that of what names it, or before what was promised.
    ShortLock,
    /// It lies where envelopes lie and may not be acted on.
    NotBelieved,
    /// It was committed, its lock still runs, and it is not there.
    TakenAway,
    /// The envelope before it in its chain is not there, and cannot have lapsed yet.
    BrokenLink,
    /// Two stretches tell different WAL of one history.
    ForkedWal,
    /// Two envelopes follow the same one.
    ForkedChain,
    /// Two envelopes name one object and say different things of it.
    Contradiction,
    /// It is what its envelope says, and does not open to what it should hold.
    Unopenable,
    /// What is on top is wrong or hidden by a delete marker, and an older version is right.
    Healed,
    /// WAL is missing between two windows, and no envelope says that it was ever stored.
    Gap,
    /// A signature without its envelope: a commit that did not happen, or an envelope that was taken away.
    Unfinished,
}

impl What {
    #[must_use]
    pub fn grade(self) -> Grade {
        match self {
            Self::Healed | Self::Gap | Self::Unfinished | Self::ForkedChain => Grade::Warning,
            _ => Grade::Damage,
        }
    }

    /// In words, for a table.
    #[must_use]
    pub fn said(self) -> &'static str {
        match self {
            Self::Missing => "is missing",
            Self::WrongSize => "has another size",
            Self::Altered => "is altered",
            Self::ShortLock => "is locked too short",
            Self::NotBelieved => "is not believed",
            Self::TakenAway => "was taken away",
            Self::BrokenLink => "follows what is not there",
            Self::ForkedWal => "contradicts other WAL",
            Self::ForkedChain => "is one of two that follow the same",
            Self::Contradiction => "is named in two ways",
            Self::Unopenable => "does not open",
            Self::Healed => "is right in an older version only",
            Self::Gap => "WAL is missing",
            Self::Unfinished => "is signed and not there",
        }
    }

    /// What to do now.
    #[must_use]
    pub fn next(self) -> &'static str {
        match self {
            Self::Missing | Self::WrongSize | Self::Altered | Self::Unopenable => {
                "look for it in the second copy; make a new backup, since nothing that needs it can be restored"
            }
            Self::ShortLock => {
                "extend its lock with the store's own tools (in a copy, `lifeboat copy` does), and run `lifeboat doctor --attack`: the store may not keep its promises"
            }
            Self::NotBelieved => "find out who put it there; what it names is not trusted",
            Self::TakenAway | Self::BrokenLink => {
                "find out who removed it, look for it in the second copy, and make a new backup"
            }
            Self::ForkedWal => {
                "two writers stream one history: stop one, and end the wrong one's line in the signers file before that time (valid-before)"
            }
            Self::ForkedChain => "check that one writer at a time makes the backups of a source",
            Self::Contradiction => "find out which envelope is wrong, and who signed it",
            Self::Healed => "find out who put the newer version or the delete marker there; readers see through it",
            Self::Gap => "nothing in it can be reached; a base backup after it begins a new window",
            Self::Unfinished => "nothing, if a backup or a stream was killed then; it lapses with its lock",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub grade: Grade,
    pub what: What,
    /// An object's name.
    pub object: String,
    /// Why, as far as it is known: who names it, until when, which error.
    pub detail: String,
    pub next: &'static str,
}

impl Finding {
    #[must_use]
    pub fn new(what: What, object: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { grade: what.grade(), what, object: object.into(), detail: detail.into(), next: what.next() }
    }
}
