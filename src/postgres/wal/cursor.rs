//! Finding the next record in a run of WAL bytes, whole and checked, wherever page and segment ends cut it.
//!
//! States of a position: a record is complete; more bytes are needed (and up to where); the record there was
//! aborted by a crash and WAL goes on at a later page; valid WAL ends. The rules are those of PostgreSQL's
//! `xlogreader.c` (`XLogDecodeNextRecord`). Positions are LSNs: a position at a page's start lies before its header.

use super::WalError;
use super::error::End;
use super::page::{CONTINUES, Geometry, OVERWRITES, PAGE_BYTES, PageHeader};
use super::record::{self, HEADER_BYTES, Header};
use super::version::{INFO_SWITCH, rmgr};
use crate::ids::Lsn;

/// WAL bytes from a position on.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    pub from: Lsn,
    pub bytes: &'a [u8],
}

impl<'a> Window<'a> {
    /// The `count` bytes at `at`, if all are here.
    #[must_use]
    pub fn get(&self, at: Lsn, count: u64) -> Option<&'a [u8]> {
        let from = usize::try_from(at.0.checked_sub(self.from.0)?).ok()?;
        self.bytes.get(from..from.checked_add(usize::try_from(count).ok()?)?)
    }
}

/// Where a complete record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first byte of its header; what other records and functions call the record's LSN.
    pub start: Lsn,
    /// Behind its last byte.
    pub end: Lsn,
    /// Behind the padding to 8 bytes, and behind the rest of the segment after a switch: what PostgreSQL calls its end.
    pub next: Lsn,
    pub header: Header,
    /// No page header lies inside.
    pub in_one_piece: bool,
}

/// What is at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Record(Place),
    /// A crash cut the record at `start`; WAL goes on with the page at `resume`.
    Aborted {
        start: Lsn,
        resume: Lsn,
    },
    /// Nothing can be said before the bytes up to here have come.
    Need(Lsn),
    End(End),
}

/// What the next record is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Previous {
    /// The record before is here.
    At(Lsn),
    /// Not known: the record's word is taken, if it points backwards.
    Unknown,
}

/// Looks at `position` (the end of the record before). A record in several pieces is gathered into `scratch`.
///
/// # Errors
/// When this is WAL of another version, timeline, system or geometry.
pub fn step(
    geometry: &Geometry,
    window: Window<'_>,
    position: Lsn,
    previous: Previous,
    scratch: &mut Vec<u8>,
) -> Result<Step, WalError> {
    if !geometry.is_boundary(position) {
        return Err(WalError::Misaligned { at: position });
    }
    let place = match locate(geometry, window, position)? {
        Step::Record(place) => place,
        other => return Ok(other),
    };
    let whole = bytes_of(geometry, window, &place, scratch);
    let Some(header) = Header::read(whole) else { return Ok(Step::End(End::Cut)) };
    let previous_fits = match previous {
        Previous::At(lsn) => header.previous == lsn,
        Previous::Unknown => header.previous < place.start,
    };
    if !previous_fits {
        return Ok(Step::End(End::Previous(header.previous)));
    }
    if !geometry.version.has_rmgr(header.rmgr) {
        return Ok(Step::End(End::ResourceManager(header.rmgr)));
    }
    if !record::crc_is_right(whole) {
        return Ok(Step::End(End::Checksum));
    }
    let mut place = Place { header, ..place };
    if header.rmgr == rmgr::XLOG && header.info & 0xF0 == INFO_SWITCH {
        place.next = geometry.segment_end(place.next);
        if window.get(position, place.next.since(position)).is_none() {
            return Ok(Step::Need(place.next));
        }
    }
    Ok(Step::Record(place))
}

/// Follows a record's length over page ends without looking into it.
fn locate(geometry: &Geometry, window: Window<'_>, position: Lsn) -> Result<Step, WalError> {
    let mut at = position;
    if at.0.is_multiple_of(PAGE_BYTES) {
        match page(geometry, window, at)? {
            Page::Need(until) => return Ok(Step::Need(until)),
            Page::End(end) => return Ok(Step::End(end)),
            Page::Header(header) if header.flags & CONTINUES != 0 => {
                return Ok(Step::End(End::PageFlags(header.flags)));
            }
            Page::Header(_) => at = at.plus(geometry.header_bytes(at)),
        }
    }
    let start = at;
    let Some(total) = window.get(start, 4).and_then(|bytes| record::u32_at(bytes, 0)) else {
        return Ok(Step::Need(start.plus(8)));
    };
    // a body of one byte cannot hold any fragment
    match total {
        0 => return Ok(Step::End(End::ZeroLength)),
        1..=23 | 25 => return Ok(Step::End(End::Length(total))),
        _ => {}
    }
    let mut left = u64::from(total);
    let mut in_one_piece = true;
    loop {
        let here = left.min(PAGE_BYTES - at.0 % PAGE_BYTES);
        at = at.plus(here);
        left -= here;
        if left == 0 {
            break;
        }
        in_one_piece = false;
        match page(geometry, window, at)? {
            Page::Need(until) => return Ok(Step::Need(until)),
            Page::End(end) => return Ok(Step::End(end)),
            Page::Header(header) if header.flags & OVERWRITES != 0 => return Ok(Step::Aborted { start, resume: at }),
            Page::Header(header) if header.flags & CONTINUES == 0 || u64::from(header.rest_bytes) != left => {
                let expected = u32::try_from(left).unwrap_or(u32::MAX);
                return Ok(Step::End(End::Continuation { expected, found: header.rest_bytes }));
            }
            Page::Header(_) => at = at.plus(geometry.header_bytes(at)),
        }
    }
    let next = Lsn(at.0.next_multiple_of(8));
    if window.get(start, next.since(start)).is_none() {
        return Ok(Step::Need(next));
    }
    let header = Header { total_bytes: total, xid: 0, previous: Lsn(0), info: 0, rmgr: 0 };
    Ok(Step::Record(Place { start, end: at, next, header, in_one_piece }))
}

/// A page header, or why there is none.
pub(super) enum Page {
    Header(PageHeader),
    Need(Lsn),
    End(End),
}

pub(super) fn page(geometry: &Geometry, window: Window<'_>, at: Lsn) -> Result<Page, WalError> {
    let header_bytes = geometry.header_bytes(at);
    let Some(bytes) = window.get(at, header_bytes) else { return Ok(Page::Need(at.plus(header_bytes))) };
    Ok(match geometry.read(at, bytes)? {
        Ok(header) => Page::Header(header),
        Err(end) => Page::End(end),
    })
}

/// The record at `place` as one slice: straight from the window, or gathered into `scratch`.
pub fn bytes_of<'a>(geometry: &Geometry, window: Window<'a>, place: &Place, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let total = u64::from(place.header.total_bytes);
    if place.in_one_piece {
        return window.get(place.start, total).unwrap_or_default();
    }
    scratch.clear();
    for (at, count) in geometry.pieces(place.start, total) {
        scratch.extend_from_slice(window.get(at, count).unwrap_or_default());
    }
    scratch
}

/// Reads a stretch of WAL that begins at a record boundary, record by record.
pub struct Records<'a> {
    geometry: Geometry,
    window: Window<'a>,
    position: Lsn,
    previous: Previous,
    scratch: Vec<u8>,
}

impl<'a> Records<'a> {
    /// `from` is the end of a record (or a page's start before one), as in a [`super::Split`].
    #[must_use]
    pub fn new(geometry: Geometry, from: Lsn, bytes: &'a [u8]) -> Self {
        let window = Window { from, bytes };
        Self { geometry, window, position: from, previous: Previous::Unknown, scratch: Vec::new() }
    }

    /// The next record with its bytes; none at the end of the stretch.
    ///
    /// # Errors
    /// When the stretch stops inside a record or holds what is no valid record.
    #[allow(clippy::should_implement_trait)] // lends its own buffer, which an Iterator cannot
    pub fn next(&mut self) -> Result<Option<(Place, &[u8])>, WalError> {
        let to = self.window.from.plus(self.window.bytes.len() as u64);
        loop {
            if self.position >= to {
                return Ok(None);
            }
            let reason = match step(&self.geometry, self.window, self.position, self.previous, &mut self.scratch)? {
                Step::Record(place) => {
                    self.position = place.next;
                    self.previous = Previous::At(place.start);
                    let bytes = if place.in_one_piece {
                        self.window.get(place.start, u64::from(place.header.total_bytes)).unwrap_or_default()
                    } else {
                        &self.scratch
                    };
                    return Ok(Some((place, bytes)));
                }
                Step::Aborted { resume, .. } => {
                    self.position = resume;
                    continue;
                }
                Step::Need(_) => End::Cut,
                Step::End(reason) => reason,
            };
            return Err(WalError::Invalid { at: self.position, reason });
        }
    }
}

const _: () = assert!(HEADER_BYTES == 24, "the length check above counts on it");
