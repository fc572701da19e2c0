//! Where the store's WAL ends, and so where the stream goes on: no state of its own, only what is stored.
//!
//! A streamer that was killed at any moment finds here the end of the contiguous, durable, complete records. Tails after
//! the last stretch count: they will not be covered by a stretch any more, so their locks are extended to the window's.

use crate::failure::{Failure, Kind};
use crate::ids::Lsn;
use crate::repo::envelope::{Binding, Envelope};

/// Where to begin reading.
#[derive(Debug)]
pub struct Position {
    pub at: Lsn,
    /// Whether a record begins at `at`; the very first start begins at a segment's first byte instead.
    pub record_aligned: bool,
    pub previous_record: Option<Lsn>,
    pub bindings: super::bindings::Bindings,
}

/// What the newest envelope of a history says about going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    pub to: Lsn,
    pub last_record: Option<Lsn>,
    pub bindings: Vec<Binding>,
}

/// The end of the newest contiguous WAL among the envelopes of one history, sorted by LSN.
#[must_use]
pub fn last(envelopes: &[Envelope]) -> Option<Last> {
    envelopes.iter().filter_map(|envelope| envelope.wal.as_ref()).max_by_key(|wal| (wal.to, wal.from)).map(|wal| Last {
        to: wal.to,
        last_record: wal.last_record,
        bindings: wal.bindings.clone(),
    })
}

/// Where to begin, given what the store has and where the server's slot stands.
///
/// # Errors
/// When the server no longer keeps WAL from the store's end on: a gap, with its exact range.
pub fn begin(
    last: Option<Last>,
    slot_restart: Lsn,
    segment_bytes: u32,
    cluster: &str,
    spares: &[crate::ids::Scope],
    accept_gap: bool,
) -> Result<Position, Failure> {
    let bindings = |known: &[Binding]| super::bindings::Bindings::new(cluster, known, spares);
    let segment_start = Lsn(slot_restart.0 / u64::from(segment_bytes) * u64::from(segment_bytes));
    let Some(last) = last else {
        return Ok(Position {
            at: segment_start,
            record_aligned: false,
            previous_record: None,
            bindings: bindings(&[]),
        });
    };
    if segment_start <= last.to {
        return Ok(Position {
            at: last.to,
            record_aligned: true,
            previous_record: last.last_record,
            bindings: bindings(&last.bindings),
        });
    }
    if accept_gap {
        return Ok(Position {
            at: segment_start,
            record_aligned: false,
            previous_record: None,
            bindings: bindings(&last.bindings),
        });
    }
    Err(Failure::new(
        Kind::Integrity,
        format!("WAL of cluster {cluster}"),
        format!(
            "the server keeps nothing before {segment_start}, the store ends at {}: the WAL between is lost",
            last.to
        ),
        "accept it with `lifeboat stream --accept-gap`, then take a base backup at once: `lifeboat backup`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u32 = 0x100;

    fn stored(to: u64) -> Option<Last> {
        Some(Last { to: Lsn(to), last_record: Some(Lsn(to - 8)), bindings: vec![] })
    }

    #[test]
    fn the_first_start_begins_at_the_slots_segment() {
        let position = begin(None, Lsn(0x3F8), SEGMENT, "main", &[], false).expect("begins");
        assert_eq!((position.at, position.record_aligned), (Lsn(0x300), false));
    }

    #[test]
    fn a_restart_goes_on_exactly_where_the_store_ends() {
        let position = begin(stored(0x480), Lsn(0x3F8), SEGMENT, "main", &[], false).expect("begins");
        assert_eq!((position.at, position.record_aligned), (Lsn(0x480), true));
        assert_eq!(position.previous_record, Some(Lsn(0x478)));
    }

    #[test]
    fn a_gap_is_an_error_with_both_ends_until_it_is_accepted() {
        let failure = begin(stored(0x180), Lsn(0x3F8), SEGMENT, "main", &[], false).expect_err("a gap");
        assert_eq!(failure.kind, Kind::Integrity);
        assert!(failure.cause.contains("0/300") && failure.cause.contains("0/180"), "{}", failure.cause);
        let position = begin(stored(0x180), Lsn(0x3F8), SEGMENT, "main", &[], true).expect("begins anew");
        assert_eq!((position.at, position.record_aligned), (Lsn(0x300), false));
    }
}
