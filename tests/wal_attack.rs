//! Attacks on the split of a real server's WAL: content that changes, and bytes that are damaged.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wal_fixture;

use std::collections::BTreeMap;

use lifeboat::ids::{DbOid, Lsn, SystemId, Timeline};
use lifeboat::postgres::wal::cursor::Records;
use lifeboat::postgres::wal::merge::merge;
use lifeboat::postgres::wal::version::{Content, Version};
use lifeboat::postgres::wal::{Owner, Part, Split, Splitter, Start, WalError, owner, record};
use proptest::prelude::*;
use wal_fixture::{B, Fixture, Known, split_whole};

/// Random bytes, the same for the same seed.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 33) as u8;
        }
    }
    /// Never zero, so that a text stays as long as it is and a number stays one.
    fn fill_nonzero(&mut self, bytes: &mut [u8]) {
        self.fill(bytes);
        bytes.iter_mut().for_each(|byte| *byte |= 1);
    }
}

/// Changes everything in a record that is content of database `db`: nothing that says whose it is or how long.
fn scramble(record: &mut [u8], db: DbOid, noise: &mut Noise) {
    let version = Version::of_major(15).unwrap();
    let header = record::Header::read(record).unwrap();
    let mut of_db = Vec::new();
    let parsed = owner::blocks(record, version, |oid| {
        of_db.push(oid == db);
        Owner::Tenant(oid.0)
    })
    .unwrap();
    let main = parsed.main_at.clone();
    if parsed.blocks.is_some() {
        if of_db.iter().all(|of_db| *of_db) {
            let data_from = fragment_headers_end(record, version);
            noise.fill(&mut record[data_from..]);
        }
        return;
    }
    let u32_at = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let bytes = &mut record[main];
    match version.content(header.rmgr, header.info) {
        Some(Content::Database(at)) if u32_at(bytes, at) == db.0 => {
            let (before, behind) = bytes.split_at_mut(at);
            noise.fill(before);
            noise.fill(&mut behind[4..]);
        }
        Some(Content::Locks) => {
            for entry in bytes[4..].chunks_exact_mut(12).filter(|entry| u32_at(entry, 4) == db.0) {
                noise.fill_nonzero(&mut entry[..4]);
                noise.fill_nonzero(&mut entry[8..]);
            }
        }
        Some(Content::TransactionInvalidations) => invalidations(bytes, false, db, noise),
        Some(Content::StandbyInvalidations) => {
            let session = u32_at(bytes, 0) == db.0;
            if session {
                noise.fill(&mut bytes[9..12]);
            }
            invalidations(&mut bytes[12..], session, db, noise);
        }
        Some(content @ (Content::Commit | Content::Abort)) => transaction(bytes, header.info, content, db, noise),
        _ => {}
    }
}

/// Where the block data begins.
fn fragment_headers_end(record: &[u8], version: &Version) -> usize {
    let mut at = 24;
    let u16_at = |at: usize| usize::from(u16::from_le_bytes(record[at..at + 2].try_into().unwrap()));
    let mut data = 0;
    loop {
        if at + data >= record.len() {
            return at;
        }
        match record[at] {
            255 => return at + 2,
            254 => return at + 5,
            253 => at += 3,
            252 => at += 5,
            _ => {
                let flags = record[at + 1];
                data += u16_at(at + 2);
                at += 4;
                if flags & 0x10 != 0 {
                    data += u16_at(at);
                    let how = record[at + 4];
                    at += 5 + 2 * usize::from(how & version.image_compressed != 0 && how & version.image_has_hole != 0);
                }
                at += if flags & 0x80 == 0 { 16 } else { 4 };
            }
        }
    }
}

/// The entries of `db`, and the stack garbage between the fields of all, when the session is in `db`.
fn invalidations(list: &mut [u8], session: bool, db: DbOid, noise: &mut Noise) {
    let count = u32::from_le_bytes(list[..4].try_into().unwrap()) as usize;
    for entry in list[4..4 + count * 16].chunks_exact_mut(16) {
        let of_smgr = entry[0] as i8 == -3;
        let at = if of_smgr { 8 } else { 4 };
        if entry[at..at + 4] == db.0.to_le_bytes() {
            noise.fill(&mut entry[at + 4..]);
        }
        if session && !of_smgr {
            noise.fill(&mut entry[1..4]);
            noise.fill(&mut entry[12..16]);
        }
    }
}

fn transaction(bytes: &mut [u8], info: u8, content: Content, db: DbOid, noise: &mut Noise) {
    let u32_at = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    if info & 0x80 == 0 {
        return;
    }
    let flags = u32_at(bytes, 8);
    let mut at = 12;
    let session = (flags & 1 != 0).then(|| u32_at(bytes, at));
    at += 8 * usize::from(flags & 1 != 0);
    if flags & 2 != 0 {
        at += 4 + 4 * u32_at(bytes, at) as usize;
    }
    for (bit, size) in [(2, 12), (8, 12), (3, 16)] {
        if flags & 1 << bit == 0 || bit == 3 && content == Content::Abort {
            continue;
        }
        let count = u32_at(bytes, at) as usize;
        if bit == 3 {
            invalidations(&mut bytes[at..], session == Some(db.0), db, noise);
            at += 4 + count * size;
            continue;
        }
        for entry in bytes[at + 4..at + 4 + count * size].chunks_exact_mut(size) {
            let has_object = bit != 8 || entry[8..].iter().any(|byte| *byte != 0);
            if entry[4..8] == db.0.to_le_bytes() && has_object {
                noise.fill_nonzero(&mut entry[8..]);
            }
        }
        at += 4 + count * size;
    }
    if flags & 1 << 4 != 0 && flags & 1 << 7 != 0 && session == Some(db.0) {
        let text = &mut bytes[at + 4..];
        let length = text.iter().position(|byte| *byte == 0).unwrap();
        noise.fill_nonzero(&mut text[..length]);
    }
}

/// The stronger form of "no marker is found": whatever B wrote, nobody else's bytes change.
#[test]
fn the_parts_of_others_do_not_depend_on_what_a_tenant_wrote() {
    let fixture = Fixture::get();
    let b = DbOid(fixture.facts.databases["tenant_b"]);
    let whole = fixture.split();
    // from the first record on
    let first = Start { record_aligned: true, at: whole.notices.first().map(at_of).unwrap(), ..fixture.start() };
    let wal = fixture.between(first.at, whole.to);
    let geometry = fixture.geometry();
    let mut changed = wal.to_vec();
    let mut noise = Noise(42);
    let mut records = Records::new(geometry, first.at, wal);
    let mut scrambled = 0;
    while let Some((place, bytes)) = records.next().unwrap() {
        let mut copy = bytes.to_vec();
        scramble(&mut copy, b, &mut noise);
        if copy == bytes {
            continue;
        }
        scrambled += 1;
        record::seal(&mut copy);
        let mut rest = copy.as_slice();
        for (at, count) in geometry.pieces(place.start, copy.len() as u64) {
            let offset = at.since(first.at) as usize;
            changed[offset..offset + count as usize].copy_from_slice(&rest[..count as usize]);
            rest = &rest[count as usize..];
        }
    }
    assert!(scrambled > 10_000, "{scrambled}");
    let before = split_whole(first, fixture.owners(), wal);
    let after = split_whole(first, fixture.owners(), &changed);
    assert_eq!(after.to, before.to);
    assert!(after.tenants[&B] != before.tenants[&B]);
    assert!(after.cluster == before.cluster);
    assert!(after.residue == before.residue && after.quarantine == before.quarantine);
    for (slot, part) in before.tenants.iter().filter(|(slot, _)| **slot != B) {
        assert!(after.tenants[slot] == *part, "{slot}");
    }
}

fn at_of(notice: &lifeboat::postgres::wal::notice::Notice) -> Lsn {
    use lifeboat::postgres::wal::notice::Notice;
    match notice {
        Notice::Created { at, .. } => *at,
        other => panic!("the cluster begins by making template0, not {other:?}"),
    }
}

#[test]
fn a_gap_or_an_overlap_is_refused_by_both_positions() {
    let fixture = Fixture::get();
    let start = fixture.start();
    let mut splitter = Splitter::new(start, fixture.owners()).unwrap();
    splitter.feed(start.at, &fixture.wal[..100_000]).unwrap();
    for wrong in [0, 99_999, 100_001] {
        let error = splitter.feed(start.at.plus(wrong), &fixture.wal[..10]).unwrap_err();
        assert!(matches!(error, WalError::NotContiguous { expected, got }
            if expected == start.at.plus(100_000) && got == start.at.plus(wrong)));
    }
    // a refused call changes nothing
    splitter.feed(start.at.plus(100_000), &fixture.wal[100_000..200_000]).unwrap();
    assert!(splitter.complete_to() > start.at.plus(190_000));
}

#[test]
fn wal_of_another_system_timeline_version_or_segment_size_is_refused() {
    let fixture = Fixture::get();
    let refuse = |start: Start, wal: &[u8]| {
        let mut splitter = Splitter::new(start, fixture.owners()).unwrap();
        splitter.feed(start.at, wal).unwrap_err()
    };
    let start = fixture.start();
    let wal = &fixture.wal[..100_000];
    let error = refuse(Start { system_id: Some(SystemId(7)), ..start }, wal);
    assert!(matches!(error, WalError::OtherSystem { .. }));
    assert!(matches!(refuse(Start { timeline: Timeline(0), ..start }, wal), WalError::OtherTimeline { .. }));
    assert!(matches!(refuse(Start { segment_bytes: 2 << 20, ..start }, wal), WalError::OtherSizes { .. }));
    let mut other = wal.to_vec();
    other[0] = 0x18;
    assert!(matches!(refuse(start, &other), WalError::UnknownMagic { magic: 0xD118, .. }));
    let misaligned = Start { at: start.at.plus(100_004), record_aligned: true, ..start };
    assert!(matches!(Splitter::new(misaligned, fixture.owners()), Err(WalError::Misaligned { .. })));
}

/// A run of about 200 kB from the middle of the WAL.
struct Excerpt {
    start: Start,
    wal: Vec<u8>,
    owners: Known,
}

fn excerpt() -> &'static Excerpt {
    static EXCERPT: std::sync::OnceLock<Excerpt> = std::sync::OnceLock::new();
    EXCERPT.get_or_init(|| {
        let fixture = Fixture::get();
        let mut splitter = Splitter::new(fixture.start(), fixture.owners()).unwrap();
        splitter.feed(fixture.facts.from, &fixture.wal[..(60 << 20) / 100 * 90]).unwrap();
        let split = splitter.take().unwrap();
        let start =
            Start { at: split.to, record_aligned: true, previous_record: Some(split.last_record), ..fixture.start() };
        let wal = fixture.between(split.to, split.to.plus(200_000)).to_vec();
        Excerpt { start, wal, owners: fixture.owners() }
    })
}

fn everything(split: &Split, tail: &[u8]) -> Vec<u8> {
    let parts: Vec<&Part> = split.tenants.values().chain([&split.residue, &split.quarantine]).collect();
    let mut bytes = merge(&split.cluster, &parts).unwrap();
    bytes.extend_from_slice(tail);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A flipped bit ends valid WAL at or before the record it is in; what lies behind is never split.
    #[test]
    fn damage_ends_the_wal_and_nothing_behind_it_is_shared(at in 0_usize..200_000, bit in 0_u8..8) {
        let Excerpt { start, wal, owners } = excerpt();
        let mut damaged = wal.clone();
        damaged[at] ^= 1 << bit;
        let mut splitter = Splitter::new(*start, owners.clone()).unwrap();
        if splitter.feed(start.at, &damaged).is_err() {
            return Ok(()); // a page header of another version or timeline
        }
        let complete_to = splitter.complete_to();
        let (split, tail) = splitter.finish();
        if let Some(split) = split {
            prop_assert!(everything(&split, &tail.bytes) == damaged);
            // damage before the end went unnoticed only where nothing looks: padding, unused header bytes
            if start.at.plus(at as u64) < complete_to {
                let intact = split_whole(*start, owners.clone(), wal);
                let same_records = split.records == intact.records;
                prop_assert!(same_records, "a record with a flipped bit at {at} was accepted");
            }
        }
    }

    /// However it is cut and whatever is spliced in, nothing panics and nothing is lost.
    #[test]
    fn spliced_wal_is_split_refused_or_set_aside_but_never_lost(
        cut in 0_usize..200_000, from in 0_usize..200_000, length in 0_usize..20_000, junk in any::<u64>(), aligned in any::<bool>(),
    ) {
        let Excerpt { start, wal, owners } = excerpt();
        let mut spliced = wal[..cut].to_vec();
        spliced.extend_from_slice(&wal[from..(from + length).min(wal.len())]);
        let mut noise = vec![0; 64];
        Noise(junk).fill(&mut noise);
        spliced.extend(noise);
        spliced.extend_from_slice(wal.get(spliced.len()..).unwrap_or_default());
        let start = Start { record_aligned: aligned, ..*start };
        let mut splitter = Splitter::new(start, owners.clone()).unwrap();
        if splitter.feed(start.at, &spliced).is_err() {
            return Ok(());
        }
        let (split, tail) = splitter.finish();
        match split {
            Some(split) => prop_assert!(everything(&split, &tail.bytes) == spliced),
            None => prop_assert!(tail.bytes.len() == spliced.len()),
        }
    }

    /// Starting in the middle of a record, everything up to the next one is residue, and the rest is the same.
    #[test]
    fn a_start_inside_a_record_finds_the_next_page_that_begins_one(skip in 0_usize..150_000) {
        let Excerpt { start, wal, owners } = excerpt();
        let whole = split_whole(*start, owners.clone(), wal);
        let inside = Start { at: start.at.plus(skip as u64), record_aligned: false, previous_record: None, ..*start };
        let split = split_whole(inside, owners.clone(), &wal[skip..]);
        prop_assert_eq!(split.to, whole.to);
        prop_assert_eq!(split.last_record, whole.last_record);
        prop_assert!(everything(&split, &[]) == wal[skip..split.to.since(start.at) as usize]);
        let known: BTreeMap<_, _> = split.tenants.iter().map(|(slot, part)| (slot, part.wal_bytes())).collect();
        for (slot, bytes) in known {
            prop_assert!(whole.tenants[slot].wal_bytes() >= bytes);
        }
    }
}
