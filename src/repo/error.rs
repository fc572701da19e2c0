//! What goes wrong with a repository: which object, and how it is wrong.
//!
//! Missing, altered, cut, swapped, or sealed with a key that is not here: all of that is `Kind::Integrity`, exit code 6.

use std::path::PathBuf;

use super::chunk::ChunkId;
use super::envelope::EnvelopeError;
use super::key::KeyError;
use super::pack::PackError;
use super::seal::SealError;
use super::sign::SignError;
use crate::failure::{self, Failure, Kind};
use crate::ids::{Digest, Scope};
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{name}: an envelope names it and it is not in the store")]
    Missing { name: String },
    #[error("{name}: its bytes are not those that were stored (their SHA-256 is not {wanted})")]
    Altered { name: String, wanted: Digest },
    #[error("{name}: there is no signature beside it")]
    Unsigned { name: String },
    #[error("{name}: its signature is not believed")]
    Signature {
        name: String,
        #[source]
        source: SignError,
    },
    #[error("{name}: not an envelope that can be acted on")]
    Envelope {
        name: String,
        #[source]
        source: EnvelopeError,
    },
    /// Sealed bytes that do not open, with the scope whose key was tried.
    #[error("{name}: does not open with the key of {scope}")]
    Seal {
        name: String,
        scope: Scope,
        #[source]
        source: SealError,
    },
    #[error("{name}: not a pack")]
    Pack {
        name: String,
        #[source]
        source: PackError,
    },
    #[error("{name}: line {line} of the body: {what}")]
    Body { name: String, line: u64, what: String },
    #[error("{name}: the chunk {chunk} is not in it")]
    NoChunk { name: String, chunk: ChunkId },
    #[error("{name}: the chunk {chunk} holds other content than its id says")]
    WrongChunk { name: String, chunk: ChunkId },
    /// A path in a body, or asked for, that must not be written.
    #[error("'{path}': {why}")]
    BadPath { path: String, why: &'static str },
    #[error("{path}: exists already", path = path.display())]
    Taken { path: PathBuf },
    #[error("{path}: cannot be written", path = path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("'{path}' has {bytes} bytes, more than the {limit} that may be held in memory")]
    TooLong { path: String, bytes: u64, limit: u64 },
    #[error("{name}: another stretch of WAL lies at this range already, and it is not the same")]
    Fork { name: String },
    #[error("{name}: was to be kept until {until}, which came before it was whole")]
    Overdue { name: String, until: jiff::Timestamp },
    /// A caller's mistake: the verbs of a writer come in an order.
    #[error("{what}")]
    OutOfOrder { what: &'static str },
    #[error("compressing failed")]
    Compress(#[source] std::io::Error),
    #[error("compressed bytes did not read back: this machine's memory or its zstd cannot be trusted")]
    ReadBack,
    #[error("a worker stopped before its work was done")]
    Stopped,
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

impl From<getrandom::Error> for RepoError {
    fn from(error: getrandom::Error) -> Self {
        Self::Random(error)
    }
}

const SECOND_COPY: &str = "look for it in the second copy, or choose another point";

impl From<RepoError> for Failure {
    fn from(error: RepoError) -> Self {
        let cause = failure::chain(&error);
        let (kind, object, next) = match error {
            RepoError::Store(error) => return error.into(),
            RepoError::Key(error) => return error.into(),
            RepoError::Seal { scope, name, source: SealError::WrongKey } => (
                Kind::Integrity,
                name,
                format!("bring the right key of {scope}; this one is another's or another epoch's"),
            ),
            RepoError::Missing { name }
            | RepoError::Altered { name, .. }
            | RepoError::Seal { name, .. }
            | RepoError::Pack { name, .. }
            | RepoError::Body { name, .. }
            | RepoError::NoChunk { name, .. }
            | RepoError::WrongChunk { name, .. } => (Kind::Integrity, name, SECOND_COPY.to_owned()),
            RepoError::Unsigned { name } | RepoError::Signature { name, .. } | RepoError::Envelope { name, .. } => {
                let next = "find out who put it there; what it names is not trusted";
                (Kind::Integrity, name, next.to_owned())
            }
            RepoError::BadPath { path, .. } => {
                (Kind::Integrity, path, "nothing is written outside the target; find out how it came there".to_owned())
            }
            RepoError::Taken { path } => {
                (Kind::Usage, path.display().to_string(), "choose an empty target; nothing is overwritten".to_owned())
            }
            RepoError::Io { path, .. } => {
                (Kind::Failed, path.display().to_string(), "check room and rights there, then run it again".to_owned())
            }
            RepoError::TooLong { path, .. } => (Kind::Failed, path, "extract it to a file instead".to_owned()),
            RepoError::Fork { name } => {
                let next = "two writers stream one history: stop one, and choose which of the two to believe";
                (Kind::Integrity, name, next.to_owned())
            }
            RepoError::Overdue { name, .. } => {
                (Kind::Failed, name, "keep this class for longer than a backup takes, then run it again".to_owned())
            }
            RepoError::ReadBack => (Kind::Failed, "memory".to_owned(), "test this machine's memory".to_owned()),
            RepoError::OutOfOrder { .. } | RepoError::Compress(_) | RepoError::Stopped | RepoError::Random(_) => {
                (Kind::Failed, "repository".to_owned(), "run the command again".to_owned())
            }
        };
        let cause = cause.strip_prefix(&format!("{object}: ")).unwrap_or(&cause).to_owned();
        Self::new(kind, object, cause, next)
    }
}
