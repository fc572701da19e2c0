//! What can be wrong with WAL, or with the parts it was split into.

use std::path::PathBuf;

use crate::failure::{Failure, Kind, chain};
use crate::ids::{Lsn, Timeline};

/// Why WAL, a span or a segment directory is refused.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    #[error("WAL from {got} was given where {expected} comes next")]
    NotContiguous { expected: Lsn, got: Lsn },
    #[error("{at} is not where a record can start")]
    Misaligned { at: Lsn },
    #[error("the page at {at} has the unknown WAL version 0x{magic:04X}")]
    UnknownMagic { at: Lsn, magic: u16 },
    #[error("the page at {at} was written by PostgreSQL {found}, not {expected}")]
    OtherMajor { at: Lsn, found: u32, expected: u32 },
    #[error("PostgreSQL {major} writes WAL that this version does not read")]
    UnknownMajor { major: u32 },
    #[error("the page at {at} is of timeline {found}, which is later than {expected}")]
    OtherTimeline { at: Lsn, found: Timeline, expected: Timeline },
    #[error("the segment at {at} belongs to system {found}, not {expected}")]
    OtherSystem { at: Lsn, found: u64, expected: u64 },
    #[error("the segment at {at} is made of {found}, not of {expected}")]
    OtherSizes { at: Lsn, found: String, expected: String },
    #[error("{bytes} is not a WAL segment size (a power of two from 1 MiB to 1 GiB)")]
    SegmentBytes { bytes: u32 },
    #[error("no valid record at {at}: {reason}")]
    Invalid { at: Lsn, reason: End },
    #[error("the span is damaged at byte {offset}: {what}")]
    Span { offset: usize, what: &'static str },
    #[error("bytes at {at} lie outside the stretch from {from} to {to}")]
    Outside { at: Lsn, from: Lsn, to: Lsn },
    #[error("the cluster's part has a gap at {at}")]
    Gap { at: Lsn },
    #[error("WAL file {path}")]
    File { path: PathBuf, source: std::io::Error },
}

/// Why no record follows: the end of valid WAL, in PostgreSQL's own sense (`xlogreader.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum End {
    #[error("the length is zero")]
    ZeroLength,
    #[error("the length {0} is impossible")]
    Length(u32),
    #[error("the page header is empty")]
    EmptyPage,
    #[error("the page says it lies at {0}")]
    PageAddress(Lsn),
    #[error("the page's flags 0x{0:04X} are impossible there")]
    PageFlags(u16),
    #[error("a page goes on with {found} bytes of a record, not {expected}")]
    Continuation { expected: u32, found: u32 },
    #[error("the record before it is said to be at {0}")]
    Previous(Lsn),
    #[error("there is no resource manager {0}")]
    ResourceManager(u8),
    #[error("the checksum is wrong")]
    Checksum,
    #[error("the bytes stop inside it")]
    Cut,
}

impl From<WalError> for Failure {
    fn from(error: WalError) -> Self {
        let (kind, object, next) = match &error {
            WalError::UnknownMagic { .. } | WalError::OtherMajor { .. } | WalError::UnknownMajor { .. } => (
                Kind::Refused,
                "WAL".to_owned(),
                "use a lifeboat that knows this PostgreSQL major; WAL of an unknown version is never split by guess",
            ),
            WalError::SegmentBytes { .. } | WalError::Misaligned { .. } => {
                (Kind::Usage, "WAL".to_owned(), "start at a record boundary, with the server's wal_segment_size")
            }
            WalError::OtherSystem { .. } | WalError::OtherTimeline { .. } | WalError::OtherSizes { .. } => {
                (Kind::Refused, "WAL".to_owned(), "check that the source still points at the same cluster")
            }
            WalError::File { path, .. } => {
                (Kind::Failed, path.display().to_string(), "check the folder's space and permissions, then try again")
            }
            _ => (Kind::Integrity, "WAL".to_owned(), "fetch the stretch again from another copy; do not skip it"),
        };
        Self::new(kind, object, chain(&error), next)
    }
}
