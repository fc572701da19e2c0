//! Laying parts over the cluster's: what a restore replays.
//!
//! The result is valid WAL for every set of parts; with all of them it is the original, bit for bit. Nothing is
//! classified here. Only the CRCs of mixed records are computed: they depend on whose elements are there.

use super::WalError;
use super::extent::Part;
use super::page::{LONG, LONG_HEADER_BYTES, PAGE_BYTES, SHORT_HEADER_BYTES};
use super::record::{self, CRC_AT, HEADER_BYTES, u16_at, u32_at};
use crate::ids::Lsn;

/// The WAL of one stretch, from the cluster's first byte to its last, with `others` laid over it.
///
/// # Errors
/// When the cluster's part has gaps, or another part lies outside of it (it is of another stretch).
pub fn merge(cluster: &Part, others: &[&Part]) -> Result<Vec<u8>, WalError> {
    let from = cluster.extents.first().map_or(Lsn(0), |extent| extent.at);
    let mut wal = Vec::with_capacity(cluster.wal_bytes() as usize);
    for extent in &cluster.extents {
        let at = from.plus(wal.len() as u64);
        if extent.at != at {
            return Err(WalError::Gap { at });
        }
        wal.extend_from_slice(&extent.bytes);
    }
    let to = from.plus(wal.len() as u64);
    for extent in others.iter().flat_map(|part| &part.extents) {
        let target = if extent.at < from || extent.end() > to {
            None
        } else {
            let offset = extent.at.since(from) as usize;
            wal.get_mut(offset..offset + extent.bytes.len())
        };
        target.ok_or(WalError::Outside { at: extent.at, from, to })?.copy_from_slice(&extent.bytes);
    }
    let mut mixed: Vec<Lsn> = others.iter().flat_map(|part| part.mixed.iter().copied()).collect();
    mixed.sort_unstable();
    mixed.dedup();
    for at in mixed {
        reseal(&mut wal, from, at).ok_or(WalError::Outside { at, from, to })?;
    }
    Ok(wal)
}

/// Computes the CRC of the record at `at` again, over page ends; none when it is not whole in here.
fn reseal(wal: &mut [u8], from: Lsn, at: Lsn) -> Option<()> {
    let first = usize::try_from(at.0.checked_sub(from.0)?).ok()?;
    let total = u32_at(wal, first)? as usize;
    let mut record = Vec::with_capacity(total.min(wal.len()));
    let mut crc_offsets = [0; HEADER_BYTES - CRC_AT];
    let mut offset = first;
    while record.len() < total {
        let in_page = from.plus(offset as u64).0 % PAGE_BYTES;
        if in_page == 0 {
            let long = u16_at(wal, offset + 2)? & LONG != 0;
            offset += (if long { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES }) as usize;
            continue;
        }
        let here = (total - record.len()).min((PAGE_BYTES - in_page) as usize);
        let piece = wal.get(offset..offset + here)?;
        for (n, crc_offset) in crc_offsets.iter_mut().enumerate() {
            if let Some(behind) = (CRC_AT + n).checked_sub(record.len()).filter(|behind| *behind < here) {
                *crc_offset = offset + behind;
            }
        }
        record.extend_from_slice(piece);
        offset += here;
    }
    if record.len() < HEADER_BYTES {
        return None;
    }
    for (byte, offset) in record::crc(&record).to_le_bytes().into_iter().zip(crc_offsets) {
        *wal.get_mut(offset)? = byte;
    }
    Some(())
}
