//! When transactions ended: the positions that a point in time means, and named restore points.
//!
//! Times are PostgreSQL's `TimestampTz`: microseconds since 2000-01-01 UTC, i64. Works on the cluster's part
//! alone as well as on merged WAL, since a stub keeps its time and its transaction.

use jiff::Timestamp;

use super::WalError;
use super::cursor::Records;
use super::page::Geometry;
use super::record::{self, Header, u32_at, u64_at};
use super::version::{Content, Version};
use crate::ids::{DbOid, Lsn};

/// 2000-01-01 00:00 UTC in microseconds of the Unix epoch.
const EPOCH: i64 = 946_684_800_000_000;

/// How many commits a stretch holds, and when they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Commits {
    pub count: u64,
    /// The first one's time, in order of the WAL.
    pub first: Option<Timestamp>,
    /// The latest time. Times in WAL are not quite ascending.
    pub greatest: Option<Timestamp>,
}

impl Commits {
    pub(super) fn note(&mut self, version: &Version, header: &Header, main: &[u8]) {
        if version.content(header.rmgr, header.info) != Some(Content::Commit) {
            return;
        }
        let time = time_at(main, 0);
        self.count += 1;
        self.first = self.first.or(time);
        self.greatest = self.greatest.max(time);
    }
}

fn time_at(main: &[u8], at: usize) -> Option<Timestamp> {
    let micros = (u64_at(main, at)? as i64).checked_add(EPOCH)?;
    Timestamp::from_microsecond(micros).ok()
}

/// What ended, or was marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    Commit {
        subtransactions: Vec<u32>,
    },
    Abort {
        subtransactions: Vec<u32>,
    },
    /// `pg_create_restore_point`.
    RestorePoint {
        name: String,
    },
}

/// A commit, an abort or a restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Recovery that stops here has not seen it.
    pub start: Lsn,
    /// Recovery that stops here has.
    pub end: Lsn,
    /// None when the record's time is outside of what a calendar knows.
    pub time: Option<Timestamp>,
    /// The transaction; for a prepared one its own, not the session's that finished it.
    pub xid: u32,
    /// The session's database, where the record names it.
    pub database: Option<DbOid>,
    pub kind: EventKind,
}

/// The events of a stretch that begins at a record boundary.
pub struct CommitScan<'a> {
    records: Records<'a>,
    version: &'static Version,
}

impl<'a> CommitScan<'a> {
    #[must_use]
    pub fn new(geometry: Geometry, from: Lsn, bytes: &'a [u8]) -> Self {
        Self { records: Records::new(geometry, from, bytes), version: geometry.version }
    }

    /// The first commit later than `time`: its start is what that time means. None when there is none in here.
    ///
    /// # Errors
    /// When the stretch holds what is no valid record.
    pub fn first_later_than(self, time: Timestamp) -> Result<Option<Event>, WalError> {
        for event in self {
            let event = event?;
            if matches!(event.kind, EventKind::Commit { .. }) && event.time.is_some_and(|then| then > time) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

impl Iterator for CommitScan<'_> {
    type Item = Result<Event, WalError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (place, whole) = match self.records.next() {
                Ok(found) => found?,
                Err(error) => return Some(Err(error)),
            };
            let Some(content) = self.version.content(place.header.rmgr, place.header.info) else { continue };
            if !matches!(content, Content::Commit | Content::Abort | Content::RestorePoint) {
                continue;
            }
            let mut blocks = 0;
            let Ok(main_at) = record::parse(whole, self.version, |_| blocks += 1) else { continue };
            let main = whole.get(main_at).unwrap_or_default();
            if blocks > 0 {
                continue;
            }
            let (database, two_phase, kind) = match content {
                Content::RestorePoint => (None, None, EventKind::RestorePoint { name: name_at(main, 8) }),
                _ => {
                    let ends = Ending::read(main, place.header.info, content == Content::Commit, self.version);
                    let subtransactions = ends.subtransactions;
                    let kind = if content == Content::Commit {
                        EventKind::Commit { subtransactions }
                    } else {
                        EventKind::Abort { subtransactions }
                    };
                    (ends.database, ends.two_phase, kind)
                }
            };
            let xid = two_phase.unwrap_or(place.header.xid);
            let time = time_at(main, 0);
            return Some(Ok(Event { start: place.start, end: place.next, time, xid, database, kind }));
        }
    }
}

/// A zero-terminated text.
fn name_at(main: &[u8], at: usize) -> String {
    let text = main.get(at..).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// The parts of a commit or an abort that say which transactions ended (layout: [`super::stub`]).
#[derive(Default)]
struct Ending {
    database: Option<DbOid>,
    subtransactions: Vec<u32>,
    two_phase: Option<u32>,
}

impl Ending {
    fn read(main: &[u8], info: u8, is_commit: bool, version: &Version) -> Self {
        let mut ending = Self::default();
        let flags = if info & 0x80 == 0 { 0 } else { u32_at(main, 8).unwrap_or_default() };
        let mut at = 12;
        if flags & 1 != 0 {
            ending.database = u32_at(main, at).map(DbOid);
            at += 8;
        }
        let count = |at| u32_at(main, at).unwrap_or_default() as usize;
        if flags & 1 << 1 != 0 {
            ending.subtransactions = (0..count(at)).map_while(|n| u32_at(main, at + 4 + n * 4)).collect();
            at += 4 + 4 * count(at);
        }
        let lists = [(2, 12), (8, version.dropped_stats_bytes), (3, 16)];
        for (bit, entry_bytes) in lists.into_iter().filter(|(bit, _)| *bit != 3 || is_commit) {
            if flags & 1 << bit != 0 {
                at += 4 + entry_bytes * count(at);
            }
        }
        if flags & 1 << 4 != 0 {
            ending.two_phase = u32_at(main, at);
        }
        ending
    }
}
