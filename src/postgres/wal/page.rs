//! The pages that WAL is written in.
//!
//! Every 8192 bytes begin with a header: magic u16, flags u16, timeline u32, the page's own LSN u64, bytes left
//! of a record begun earlier u32, 4 unused bytes. The first page of a segment adds: system identifier u64,
//! segment size u32, page size u32 (`access/xlog_internal.h`; little-endian machines only).
//! A header holds nothing of any database. What lies between headers is the business of `cursor`.

use super::error::End;
use super::version::Version;
use super::{WalError, record};
use crate::ids::{Lsn, SystemId, Timeline};

/// `XLOG_BLCKSZ`, the default and the only one read.
pub const PAGE_BYTES: u64 = 8192;
/// A header inside a segment (`SizeOfXLogShortPHD`).
pub const SHORT_HEADER_BYTES: u64 = 24;
/// A segment's first header (`SizeOfXLogLongPHD`).
pub const LONG_HEADER_BYTES: u64 = 40;

/// The page begins with the rest of a record (`XLP_FIRST_IS_CONTRECORD`).
pub const CONTINUES: u16 = 0x0001;
/// The header is a segment's first (`XLP_LONG_HEADER`).
pub const LONG: u16 = 0x0002;
/// The record begun on the page before was lost in a crash (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
pub const OVERWRITES: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

/// What all pages of one timeline's WAL have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub version: &'static Version,
    /// `wal_segment_size`, in bytes.
    pub segment_bytes: u32,
    /// Pages of earlier timelines are accepted too: a new timeline's first segment begins with a copy of the old.
    pub timeline: Timeline,
    /// Checked in the first page of every segment, where it is known.
    pub system_id: Option<SystemId>,
}

/// The part of a page header that varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    pub flags: u16,
    /// How much of a record begun earlier is still to come, this page included.
    pub rest_bytes: u32,
}

/// The page that `at` lies in.
#[must_use]
pub fn page_of(at: Lsn) -> Lsn {
    Lsn(at.0 - at.0 % PAGE_BYTES)
}

impl Geometry {
    /// # Errors
    /// [`WalError::SegmentBytes`] when the segment size is none that PostgreSQL allows.
    pub fn check_sizes(&self) -> Result<(), WalError> {
        let bytes = self.segment_bytes;
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            return Ok(());
        }
        Err(WalError::SegmentBytes { bytes })
    }

    /// Whether a record could begin or end at `at`; beyond the middle of all positions none can (and adding to
    /// such a position could overflow).
    #[must_use]
    pub fn is_boundary(&self, at: Lsn) -> bool {
        let in_page = at.0 % PAGE_BYTES;
        at.0.is_multiple_of(8) && at.0 < 1 << 63 && (in_page == 0 || in_page >= self.header_bytes(page_of(at)))
    }

    /// How long the header of the page at `page` is.
    #[must_use]
    pub fn header_bytes(&self, page: Lsn) -> u64 {
        if page.0.is_multiple_of(u64::from(self.segment_bytes)) { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES }
    }

    /// The start of the segment after the one `at` lies in; `at` itself when it is a segment's start.
    #[must_use]
    pub fn segment_end(&self, at: Lsn) -> Lsn {
        Lsn(at.0.next_multiple_of(u64::from(self.segment_bytes)))
    }

    /// Reads the header of the page at `page`; `bytes` holds it whole.
    ///
    /// # Errors
    /// The outer one when this is other WAL than it should be; the inner one when valid WAL ends here.
    pub fn read(&self, page: Lsn, bytes: &[u8]) -> Result<Result<PageHeader, End>, WalError> {
        let (Some(magic), Some(flags), Some(timeline), Some(address), Some(rest_bytes)) = (
            record::u16_at(bytes, 0),
            record::u16_at(bytes, 2),
            record::u32_at(bytes, 4),
            record::u64_at(bytes, 8),
            record::u32_at(bytes, 16),
        ) else {
            return Ok(Err(End::Cut));
        };
        if magic == 0 && address == 0 {
            return Ok(Err(End::EmptyPage));
        }
        if magic != self.version.page_magic {
            let found = Version::of_magic(magic, page)?.major;
            return Err(WalError::OtherMajor { at: page, found, expected: self.version.major });
        }
        if address != page.0 {
            return Ok(Err(End::PageAddress(Lsn(address))));
        }
        if timeline > self.timeline.0 {
            return Err(WalError::OtherTimeline { at: page, found: Timeline(timeline), expected: self.timeline });
        }
        let long = flags & LONG != 0;
        if flags & !ALL_FLAGS != 0 || long != (self.header_bytes(page) == LONG_HEADER_BYTES) {
            return Ok(Err(End::PageFlags(flags)));
        }
        if long {
            self.check_long(page, bytes)?;
        }
        Ok(Ok(PageHeader { flags, rest_bytes }))
    }

    fn check_long(&self, page: Lsn, bytes: &[u8]) -> Result<(), WalError> {
        let found = record::u64_at(bytes, 24).unwrap_or_default();
        if let Some(expected) = self.system_id.filter(|id| id.0 != found) {
            return Err(WalError::OtherSystem { at: page, found, expected: expected.0 });
        }
        let sizes = (record::u32_at(bytes, 32).unwrap_or_default(), record::u32_at(bytes, 36).unwrap_or_default());
        if sizes != (self.segment_bytes, PAGE_BYTES as u32) {
            return Err(WalError::OtherSizes {
                at: page,
                found: format!("{} byte segments and {} byte pages", sizes.0, sizes.1),
                expected: format!("{} and {PAGE_BYTES}", self.segment_bytes),
            });
        }
        Ok(())
    }

    /// Writes the header of the page at `page`, as the server would.
    #[must_use]
    pub fn write(&self, page: Lsn, header: PageHeader) -> Vec<u8> {
        let long = self.header_bytes(page) == LONG_HEADER_BYTES;
        let mut out = Vec::with_capacity(LONG_HEADER_BYTES as usize);
        out.extend(self.version.page_magic.to_le_bytes());
        out.extend((header.flags & !LONG | if long { LONG } else { 0 }).to_le_bytes());
        out.extend(self.timeline.0.to_le_bytes());
        out.extend(page.0.to_le_bytes());
        out.extend(header.rest_bytes.to_le_bytes());
        out.extend([0; 4]);
        if long {
            out.extend(self.system_id.map_or(0, |id| id.0).to_le_bytes());
            out.extend(self.segment_bytes.to_le_bytes());
            out.extend((PAGE_BYTES as u32).to_le_bytes());
        }
        out
    }

    /// Where the `bytes` of a record that starts at `start` lie: pieces between page headers.
    pub fn pieces(&self, start: Lsn, bytes: u64) -> impl Iterator<Item = (Lsn, u64)> + use<> {
        let geometry = *self;
        let (mut at, mut left) = (start, bytes);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            if at.0 % PAGE_BYTES == 0 {
                at = at.plus(geometry.header_bytes(at));
            }
            let here = left.min(PAGE_BYTES - at.0 % PAGE_BYTES);
            let piece = (at, here);
            at = at.plus(here);
            left -= here;
            Some(piece)
        })
    }
}
