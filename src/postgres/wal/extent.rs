//! One owner's share of a stretch of WAL, in memory and as the bytes that are sealed.
//!
//! The encoding, for the person with `dd` (all numbers little-endian):
//! ```text
//! lifeboat-span 1\n                16 bytes
//! u32 extents, u32 mixed           how many follow
//! u64 lsn                          once per mixed record
//! u64 lsn, u32 length, bytes       once per extent: lay the bytes at that position of the WAL
//! ```
//! Extents ascend and do not overlap. Laying one tenant's extents over the cluster's gives valid WAL, checksums
//! included. With several tenants, the CRCs of the mixed records must be computed again ([`super::merge`]).

use bytes::{BufMut, Bytes};

use super::WalError;
use super::record::{u32_at, u64_at};
use crate::ids::Lsn;

const MAGIC: &[u8] = b"lifeboat-span 1\n";

/// Original bytes at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    pub at: Lsn,
    pub bytes: Bytes,
}

impl Extent {
    /// Behind the last byte.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.at.plus(self.bytes.len() as u64)
    }
}

/// One owner's share of a stretch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// Ascending, without overlap.
    pub extents: Vec<Extent>,
    /// The starts of records of which only elements are here; their CRC depends on who else is laid.
    pub mixed: Vec<Lsn>,
}

impl Part {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty() && self.mixed.is_empty()
    }

    /// How many bytes of WAL are here.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes.len() as u64).sum()
    }
}

/// The bytes that are sealed. Extents of 4 GiB and more become several.
#[must_use]
pub fn encode(part: &Part) -> Vec<u8> {
    let pieces = || {
        part.extents.iter().flat_map(|extent| {
            let piece_bytes = u32::MAX as usize;
            let starts = (0..).map(move |n: u64| extent.at.plus(n * piece_bytes as u64));
            starts.zip(extent.bytes.chunks(piece_bytes))
        })
    };
    let mut out = Vec::with_capacity(MAGIC.len() + 8 + part.mixed.len() * 8 + part.wal_bytes() as usize);
    out.put_slice(MAGIC);
    out.put_u32_le(pieces().count() as u32);
    out.put_u32_le(part.mixed.len() as u32);
    for at in &part.mixed {
        out.put_u64_le(at.0);
    }
    for (at, bytes) in pieces() {
        out.put_u64_le(at.0);
        out.put_u32_le(bytes.len() as u32);
        out.put_slice(bytes);
    }
    out
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`WalError::Span`] when the bytes are not exactly that.
pub fn decode(span: &[u8]) -> Result<Part, WalError> {
    let whole = Bytes::copy_from_slice(span);
    let damaged = |offset, what| WalError::Span { offset, what };
    if !span.starts_with(MAGIC) {
        return Err(damaged(0, "not a span of version 1"));
    }
    let mut offset = MAGIC.len();
    let (Some(extents), Some(mixed)) = (u32_at(span, offset), u32_at(span, offset + 4)) else {
        return Err(damaged(offset, "cut short"));
    };
    offset += 8;
    let mut part = Part::default();
    for _ in 0..mixed {
        let at = u64_at(span, offset).ok_or(damaged(offset, "cut short"))?;
        part.mixed.push(Lsn(at));
        offset += 8;
    }
    let mut last_end = Lsn(0);
    for _ in 0..extents {
        let (Some(at), Some(length)) = (u64_at(span, offset), u32_at(span, offset + 8)) else {
            return Err(damaged(offset, "cut short"));
        };
        let from = offset + 12;
        let to = from + length as usize;
        if to > span.len() {
            return Err(damaged(offset, "cut short"));
        }
        if Lsn(at) < last_end || at.checked_add(u64::from(length)).is_none() {
            return Err(damaged(offset, "extents out of order"));
        }
        let extent = Extent { at: Lsn(at), bytes: whole.slice(from..to) };
        last_end = extent.end();
        part.extents.push(extent);
        offset = to;
    }
    if offset != span.len() {
        return Err(damaged(offset, "more bytes than extents"));
    }
    Ok(part)
}
