//! What transactions changed: how many records per relation, for choosing a moment to go back to.
//!
//! Reads merged WAL of one stretch; in the cluster's part alone, other owners' records are no-ops and count for
//! nothing. Records are counted under the top-level transaction that committed them, within this stretch only.

use std::collections::BTreeMap;

use super::commits::{CommitScan, Event, EventKind};
use super::cursor::Records;
use super::page::Geometry;
use super::{WalError, record};
use crate::ids::{DbOid, Lsn};

/// Records per database and relation file.
pub type Counts = BTreeMap<(DbOid, u32), u64>;

/// A commit and the relations that its transaction's records changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    pub commit: Event,
    pub relations: Counts,
}

/// The commits of a stretch that begins at a record boundary, with what they changed; commits that changed no
/// block in it are left out.
///
/// # Errors
/// When the stretch holds what is no valid record.
pub fn touched(geometry: Geometry, from: Lsn, bytes: &[u8]) -> Result<Vec<Touched>, WalError> {
    let mut by_transaction: BTreeMap<u32, Counts> = BTreeMap::new();
    let mut records = Records::new(geometry, from, bytes);
    while let Some((place, whole)) = records.next()? {
        let mut last = None;
        // a malformed record has no owner and changes nothing: it is in quarantine
        let _ = record::parse(whole, geometry.version, |block| {
            let relation = (block.db, block.relation);
            if place.header.xid != 0 && last.replace(relation) != Some(relation) {
                *by_transaction.entry(place.header.xid).or_default().entry(relation).or_default() += 1;
            }
        });
    }
    let mut found = Vec::new();
    for event in CommitScan::new(geometry, from, bytes) {
        let event = event?;
        let EventKind::Commit { subtransactions } = &event.kind else { continue };
        let mut relations = Counts::new();
        for xid in subtransactions.iter().chain([&event.xid]) {
            for (relation, count) in by_transaction.remove(xid).unwrap_or_default() {
                *relations.entry(relation).or_default() += count;
            }
        }
        if !relations.is_empty() {
            found.push(Touched { commit: event, relations });
        }
    }
    Ok(found)
}
