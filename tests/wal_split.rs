//! Splitting WAL of a real server: nothing lost, nothing shown to others, and every set of keys gives valid WAL.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wal_fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use lifeboat::ids::{DbOid, Lsn};
use lifeboat::postgres::wal::commits::{CommitScan, EventKind};
use lifeboat::postgres::wal::cursor::Records;
use lifeboat::postgres::wal::extent::{decode, encode};
use lifeboat::postgres::wal::merge::merge;
use lifeboat::postgres::wal::notice::Notice;
use lifeboat::postgres::wal::segments::{SegmentWriter, segment_name};
use lifeboat::postgres::wal::{Owner, Part, Slot, Split, Splitter, Start, owner, record};
use wal_fixture::{A, B, BIN, C, Fixture, Known, split_whole};

fn everybody(split: &Split) -> Vec<&Part> {
    split.tenants.values().chain([&split.residue, &split.quarantine]).collect()
}

fn original(fixture: &Fixture, split: &Split) -> Vec<u8> {
    let offset = split.from.since(fixture.facts.from) as usize;
    fixture.wal[offset..offset + split.to.since(split.from) as usize].to_vec()
}

#[test]
fn all_parts_together_are_the_original_bit_for_bit() {
    let fixture = Fixture::get();
    let split = fixture.split();
    assert!(merge(&split.cluster, &everybody(&split)).unwrap() == original(&fixture, &split));
    println!("{} bytes, {} records, {:?}, {:?}", fixture.wal.len(), split.records, split.commits, split.notices);
    println!("residue {:?}", split.residue.extents.iter().map(|e| (e.at, e.bytes.len())).collect::<Vec<_>>());
    assert!(split.records > 20_000, "{}", split.records);
    assert_eq!(split.quarantined, []);
    for slot in [A, B, C] {
        assert!(split.tenants[&slot].wal_bytes() > 1 << 20, "{slot}");
    }
    assert!(split.tenants.values().any(|part| !part.mixed.is_empty()), "no mixed lock record in this run");
    assert!(
        split.notices.iter().any(|notice| matches!(notice, Notice::Aborted { .. })),
        "no aborted record in this run"
    );
}
