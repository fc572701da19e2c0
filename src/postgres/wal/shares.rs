//! The parts of a stretch while it is being split.
//!
//! A part grows by bytes at ascending positions; bytes that follow each other are one extent. All of a part's
//! extents lie in one buffer, so that a million small ones cost no allocation each.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::BytesMut;

use super::Slot;
use super::commits::Commits;
use super::extent::{Extent, Part};
use super::notice::Notice;
use super::page::Geometry;
use crate::ids::Lsn;

/// A part being made: extents in one buffer.
#[derive(Default)]
pub(super) struct Growing {
    pub(super) bytes: BytesMut,
    pub(super) extents: Vec<(Lsn, usize)>,
    pub(super) mixed: Vec<Lsn>,
    /// Behind the last extent.
    pub(super) end: Lsn,
}

impl Growing {
    pub(super) fn push(&mut self, at: Lsn, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.bytes.extend_from_slice(bytes);
        match self.extents.last_mut() {
            Some((_, length)) if self.end == at => *length += bytes.len(),
            _ => self.extents.push((at, bytes.len())),
        }
        self.end = at.plus(bytes.len() as u64);
    }

    pub(super) fn finish(mut self) -> Part {
        let extents =
            self.extents.into_iter().map(|(at, length)| Extent { at, bytes: self.bytes.split_to(length).freeze() });
        Part { extents: extents.collect(), mixed: self.mixed }
    }
}

/// The parts of the stretch being made.
#[derive(Default)]
pub(super) struct Shares {
    pub(super) cluster_mixed: Vec<Lsn>,
    pub(super) tenants: BTreeMap<Slot, Growing>,
    pub(super) residue: Growing,
    pub(super) quarantine: Growing,
    pub(super) quarantined: Vec<(Lsn, Lsn)>,
    pub(super) records: u64,
    pub(super) commits: Commits,
    pub(super) notices: Vec<Notice>,
}

/// Pushes a range of a record to a part, wherever pages cut it.
pub(super) fn lay(geometry: &Geometry, part: &mut Growing, start: Lsn, record: &[u8], range: Range<usize>) {
    let mut offset = 0;
    for (at, count) in geometry.pieces(start, record.len() as u64) {
        let piece = offset..offset + count as usize;
        let (from, to) = (range.start.max(piece.start), range.end.min(piece.end));
        if from < to {
            part.push(at.plus((from - piece.start) as u64), record.get(from..to).unwrap_or_default());
        }
        offset = piece.end;
    }
}
