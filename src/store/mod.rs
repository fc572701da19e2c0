//! Bytes at names, with locks: all that lifeboat needs of a place to keep things.
//!
//! A store keeps immutable **versions** of named objects. Every version is **locked from birth** until a given
//! time; a lock can be extended and never shortened. The contract below is what `store/contract.rs` tries on
//! each implementation:
//!
//! - `put` is create-only: where the store can tell, a name that exists is refused with `Exists` and nothing
//!   changes. A reader must not rely on it: he takes the version whose hash is right.
//! - An object is there whole or not at all. When `put` returns, it is durable.
//! - `list` shows every version, hidden ones (under a delete marker) included, in name order.
//! - `extend` on a removed version fails with `NotFound`; `remove` of a locked or held one with `Locked`. The store
//!   orders the two: this is the garbage-collection lock (`docs/FORMAT.md`).
//! - Names are `/`-separated, relative, of `[A-Za-z0-9._-]` parts; no part is empty, `.` or `..` ([`check_name`]).
//! - A name is never at once an object and a folder of others (a local folder cannot keep both).
//! - A range that reaches beyond the object is `BadRange`, never a shorter answer; an empty range reads nothing.
//!
//! What a store cannot promise it says in [`Store::promises`]; nothing is assumed.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::failure::{Failure, Kind};

pub mod contract;
pub mod counting;
pub mod credential;
pub mod either;
pub mod failing;
pub mod honesty;
pub mod local;
pub mod memory;
pub mod policy;
pub mod s3;

/// Which version of an object; opaque, given by the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub String);

/// One version in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub version: Version,
    pub bytes: u64,
    /// When the store created it, by the store's clock.
    pub created: Timestamp,
    /// False where a newer version or a delete marker lies on top.
    pub current: bool,
}

/// What holds a version in place.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockState {
    pub retained_until: Option<Timestamp>,
    /// A legal hold, which has no end of its own.
    pub held: bool,
}

impl LockState {
    /// Whether the version may not be removed at `now`.
    #[must_use]
    pub fn binds(&self, now: Timestamp) -> bool {
        self.held || self.retained_until.is_some_and(|until| until > now)
    }

    /// When it ends, as it follows "until".
    #[must_use]
    pub fn end(&self) -> String {
        match (self.held, self.retained_until) {
            (false, Some(until)) => until.to_string(),
            _ => "its legal hold is lifted".to_owned(),
        }
    }
}

/// What a store can and cannot promise, in its own words; `doctor` and `status` show it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Promises {
    /// `put` refuses a name that exists, atomically.
    pub create_only: bool,
    /// Locks hold against everybody who has only the store's own interface.
    pub locks_enforced: bool,
    /// What it says itself that it lacks, so that nothing is written to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// What a person must know before trusting it with the only copy.
    pub caveats: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{name}: there is no such object")]
    NotFound { name: String },
    #[error("{name}: exists already")]
    Exists { name: String },
    #[error("{name}: locked until {until}")]
    Locked { name: String, until: String },
    #[error("{name}: the lock ends at {ends}, it cannot be shortened to {asked}")]
    Shortens { name: String, ends: Timestamp, asked: Timestamp },
    #[error("'{name}' is not an object's name")]
    BadName { name: String },
    #[error("{name}: bytes {start}..{end} asked of an object of {bytes}")]
    BadRange { name: String, start: u64, end: u64, bytes: u64 },
    #[error("{name}: no room left")]
    Full {
        name: String,
        #[source]
        source: std::io::Error,
    },
    /// The credential is wrong, or may not do it; no lock is in the way.
    #[error("{name}: {what}")]
    Denied { name: String, what: String },
    /// Requests are signed with the time, and the store believes none of this machine's.
    #[error("{name}: this machine's clock is too far from the store's")]
    Skewed { name: String },
    /// The store cannot keep what is put there as it must be kept.
    #[error("{name}: {what}")]
    Unfit { name: String, what: String },
    #[error("{name}: the store does not answer")]
    Unreachable {
        name: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{name}: {what}")]
    Other {
        name: String,
        what: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let cause = crate::failure::chain(&error);
        let (kind, name, next) = match &error {
            StoreError::NotFound { name } => {
                (Kind::Integrity, name, "look for it in the second copy, or restore from another point")
            }
            StoreError::Exists { name } => (Kind::Failed, name, "run the command again; a new name is chosen"),
            StoreError::Locked { name, .. } => {
                (Kind::Refused, name, "wait until the lock has lapsed; a hold is lifted with `lifeboat unhold`")
            }
            StoreError::Shortens { name, .. } => (Kind::Refused, name, "locks only ever grow"),
            StoreError::BadName { name } => {
                (Kind::Usage, name, "object names are relative, with parts of letters, digits, '.', '_' and '-'")
            }
            StoreError::BadRange { name, .. } => {
                (Kind::Integrity, name, "the object is shorter than its envelope says: look for it in the second copy")
            }
            StoreError::Full { name, .. } => (Kind::Failed, name, "make room in the store, then run the command again"),
            StoreError::Skewed { name } => (Kind::Refused, name, "set this machine's clock by NTP"),
            StoreError::Denied { name, .. } => (
                Kind::Refused,
                name,
                "check the credential and its rights (`lifeboat init --print-policies` writes the policies)",
            ),
            StoreError::Unfit { name, .. } => (
                Kind::Refused,
                name,
                "use a bucket that was made with versioning and Object Lock, on a store that honours them",
            ),
            StoreError::Unreachable { name, .. } => {
                (Kind::Unreachable, name, "check the store's address and network, then run the command again")
            }
            StoreError::Other { name, .. } => (Kind::Failed, name, "see the cause; then run the command again"),
        };
        let cause = cause.strip_prefix(&format!("{name}: ")).unwrap_or(&cause).to_owned();
        Self::new(kind, name.clone(), cause, next)
    }
}

/// The longest name, in bytes: what S3 takes as an object key (S3 API, `PutObject`, Key).
pub const NAME_BYTES: usize = 1024;

/// The longest part of a name, in bytes: below the 255 of Linux file systems, so that a local store can add a suffix.
pub const PART_BYTES: usize = 240;

/// Whether `part` may stand between two slashes of a name.
#[must_use]
pub fn is_part(part: &str) -> bool {
    !matches!(part, "" | "." | "..")
        && part.len() <= PART_BYTES
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Refuses what is not an object's name, before any store sees it.
///
/// # Errors
/// `BadName`.
pub fn check_name(name: &str) -> Result<(), StoreError> {
    if name.len() <= NAME_BYTES && name.split('/').all(is_part) {
        return Ok(());
    }
    Err(StoreError::BadName { name: name.to_owned() })
}

/// The bytes that `range` asks of an object of `bytes` bytes: all of them where it is `None`.
///
/// # Errors
/// `BadRange` when it reaches beyond the object or runs backwards.
pub fn check_range(name: &str, range: Option<Range<u64>>, bytes: u64) -> Result<Range<u64>, StoreError> {
    match range {
        None => Ok(0..bytes),
        Some(range) if range.start <= range.end && range.end <= bytes => Ok(range),
        Some(Range { start, end }) => Err(StoreError::BadRange { name: name.to_owned(), start, end, bytes }),
    }
}

/// A place to keep immutable, locked bytes. See the module's page for the contract.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Where this is, for people: a URL or a folder. No secrets.
    fn place(&self) -> String;

    fn promises(&self) -> Promises;

    /// The store's own clock.
    async fn now(&self) -> Result<Timestamp, StoreError>;

    /// Writes a new object, whole, locked until `locked_until`; returns its version.
    async fn put(&self, name: &str, bytes: Bytes, locked_until: Timestamp) -> Result<Version, StoreError>;

    /// Reads a version (the current one where `version` is `None`), all of it or the bytes of `range`.
    async fn get(&self, name: &str, version: Option<&Version>, range: Option<Range<u64>>) -> Result<Bytes, StoreError>;

    /// Every version of every object whose name begins with `prefix` (any text, a whole name included), in name order.
    fn list<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<Listed, StoreError>>;

    async fn lock_state(&self, name: &str, version: &Version) -> Result<LockState, StoreError>;

    /// Makes the lock end at `until`. A lock that ends later already is left as it is, which is no error.
    async fn extend(&self, name: &str, version: &Version, until: Timestamp) -> Result<(), StoreError>;

    /// Sets or lifts a legal hold.
    async fn hold(&self, name: &str, version: &Version, held: bool) -> Result<(), StoreError>;

    /// Removes one version for good; refused while a lock or a hold covers it.
    async fn remove(&self, name: &str, version: &Version) -> Result<(), StoreError>;
}
