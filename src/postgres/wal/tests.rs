//! The splitter against WAL made by hand: cuts at every place, crashes, records that nobody knows.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::cursor::Records;
use super::error::End;
use super::extent::{decode, encode};
use super::merge::merge;
use super::notice::Notice;
use super::owner::Reason;
use super::page::{CONTINUES, OVERWRITES, PAGE_BYTES, PageHeader};
use super::version::Version;
use super::*;
use crate::ids::{SystemId, Timeline};

const A: u32 = 16_384;
const B: u32 = 16_385;
const SECRET: &[u8] = b"nobody else may read this";

/// WAL as a server would write it.
struct Wal {
    geometry: Geometry,
    from: Lsn,
    bytes: Vec<u8>,
    previous: Lsn,
}

impl Wal {
    /// Begins `before_end` bytes before a segment's end.
    fn new(before_end: u64) -> Self {
        let geometry = Geometry {
            version: Version::of_major(15).unwrap(),
            segment_bytes: 1 << 20,
            timeline: Timeline(3),
            system_id: Some(SystemId(77)),
        };
        Self { geometry, from: Lsn((5 << 20) - before_end), bytes: Vec::new(), previous: Lsn(8) }
    }

    fn at(&self) -> Lsn {
        self.from.plus(self.bytes.len() as u64)
    }

    fn start(&self) -> Start {
        Start {
            at: self.from,
            record_aligned: true,
            previous_record: None,
            system_id: Some(SystemId(77)),
            timeline: Timeline(3),
            segment_bytes: 1 << 20,
            version: self.geometry.version,
        }
    }

    fn page(&mut self, flags: u16, rest_bytes: u32) {
        let page = self.at();
        let header = self.geometry.write(page, PageHeader { flags, rest_bytes });
        self.bytes.extend(header);
    }

    /// Writes a record, and returns where it starts.
    fn push(&mut self, rmgr: u8, info: u8, body: &[u8]) -> Lsn {
        if self.at().0.is_multiple_of(PAGE_BYTES) {
            self.page(0, 0);
        }
        let start = self.at();
        let mut record = Vec::new();
        record.extend((24 + body.len() as u32).to_le_bytes());
        record.extend(700_u32.to_le_bytes());
        record.extend(self.previous.0.to_le_bytes());
        record.extend([info, rmgr, 0, 0, 0, 0, 0, 0]);
        record.extend(body);
        record::seal(&mut record);
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            if self.at().0.is_multiple_of(PAGE_BYTES) {
                self.page(CONTINUES, rest.len() as u32);
            }
            let room = (PAGE_BYTES - self.at().0 % PAGE_BYTES) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = start;
        start
    }

    /// Loses the rest of the last record, `pages` page ends after its start; WAL goes on there.
    fn crash_in(&mut self, start: Lsn, previous: Lsn, pages: u64) {
        let resume = Lsn((start.0 / PAGE_BYTES + pages) * PAGE_BYTES);
        self.bytes.truncate(resume.since(self.from) as usize);
        self.previous = previous;
        self.page(OVERWRITES, 0);
        let mut body = vec![255, 16];
        body.extend(start.0.to_le_bytes());
        body.extend([0; 8]);
        self.push(0, 0xD0, &body);
    }

    fn insert(&mut self, db: u32, data: &[u8]) -> Lsn {
        self.push(10, 0x00, &blocks(&[db], data))
    }
    fn checkpoint(&mut self) -> Lsn {
        self.push(0, 0x10, &main(&[0; 88]))
    }
}

fn main(data: &[u8]) -> Vec<u8> {
    let mut body = match u8::try_from(data.len()) {
        Ok(length) => vec![255, length],
        Err(_) => [&[254][..], &(data.len() as u32).to_le_bytes()].concat(),
    };
    body.extend(data);
    body
}

/// One block reference per database; the data belongs to the first, and a little main data follows.
fn blocks(dbs: &[u32], data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (id, db) in dbs.iter().enumerate() {
        let length = if id == 0 { data.len() as u16 } else { 0 };
        body.extend([id as u8, if length > 0 { 0x20 } else { 0 }]);
        body.extend(length.to_le_bytes());
        for number in [1663, *db, 2619, 7] {
            body.extend(u32::to_le_bytes(number));
        }
    }
    body.extend([255, 3]);
    body.extend(data);
    body.extend([1, 2, 3]);
    body
}

#[derive(Clone)]
struct ByOid;

impl Owners for ByOid {
    fn owner(&mut self, db: DbOid, _at: Lsn) -> Owner {
        if db.0 < A { Owner::Cluster } else { Owner::Tenant(db.0 - A) }
    }
    fn created(&mut self, _db: DbOid, _at: Lsn) {}
    fn dropped(&mut self, _db: DbOid, _at: Lsn) {}
}

fn split(wal: &Wal) -> Split {
    let mut splitter = Splitter::new(wal.start(), ByOid).unwrap();
    splitter.feed(wal.from, &wal.bytes).unwrap();
    assert_eq!(splitter.ended(), None);
    splitter.finish().0.unwrap()
}

fn parts(split: &Split) -> Vec<&Part> {
    split.tenants.values().chain([&split.residue, &split.quarantine]).collect()
}

fn holds(part: &Part, needle: &[u8]) -> bool {
    part.extents.iter().any(|extent| extent.bytes.windows(needle.len()).any(|bytes| bytes == needle))
}

/// Lossless, valid with the cluster's part alone, and the same byte by byte.
fn assert_sound(wal: &Wal, split: &Split) {
    let whole = merge(&split.cluster, &parts(split)).unwrap();
    assert!(whole == wal.bytes[..whole.len()]);
    let mut alone = Records::new(wal.geometry, split.from, &split.cluster.extents[0].bytes);
    let mut records = 0;
    while alone.next().unwrap().is_some() {
        records += 1;
    }
    assert_eq!(records, split.records);
    for part in parts(split) {
        assert_eq!(decode(&encode(part)).unwrap(), *part);
    }
    let mut splitter = Splitter::new(wal.start(), ByOid).unwrap();
    for (n, byte) in wal.bytes.iter().enumerate() {
        splitter.feed(wal.from.plus(n as u64), &[*byte]).unwrap();
    }
    assert!(splitter.take().unwrap() == *split);
}

#[test]
fn a_record_may_be_cut_anywhere_by_the_end_of_a_page_or_segment() {
    for before_end in (8..=120).step_by(8).chain((8200..8300).step_by(8)) {
        let mut wal = Wal::new(before_end);
        wal.insert(A, SECRET);
        wal.insert(B, &[7; 90]);
        wal.insert(A, &[9; 20_000]);
        wal.checkpoint();
        let split = split(&wal);
        assert_sound(&wal, &split);
        assert_eq!(split.to, wal.at());
        assert!(!holds(&split.cluster, &SECRET[..8]) && !holds(&split.tenants[&1], &SECRET[..8]), "{before_end}");
    }
}

#[test]
fn a_record_over_several_segments_is_one_extent() {
    let mut wal = Wal::new(16);
    let mut message = vec![0; 3 << 20];
    message[..4].copy_from_slice(&B.to_le_bytes());
    wal.push(21, 0, &main(&message));
    wal.checkpoint();
    let split = split(&wal);
    assert_eq!(split.tenants[&1].extents.len(), 1);
    let whole = merge(&split.cluster, &parts(&split)).unwrap();
    assert!(whole == wal.bytes);
}

#[test]
fn of_a_record_lost_in_a_crash_only_the_length_and_predecessor_stay() {
    for before_end in [8, 16, 24, 40, 200, 8192 + 8, 8192 + 16, 8192 + 200] {
        for pages in [1, 2] {
            let mut wal = Wal::new(before_end);
            let previous = wal.previous;
            let lost = wal.insert(A, &SECRET.repeat(1000));
            wal.crash_in(lost, previous, pages);
            wal.insert(B, b"later");
            let split = split(&wal);
            assert_sound(&wal, &split);
            assert_eq!(split.to, wal.at());
            assert!(!holds(&split.cluster, &SECRET[..8]), "{before_end} {pages}");
            assert!(split.notices.contains(&Notice::Aborted { at: lost }));
        }
    }
}

#[test]
fn a_stretch_never_ends_between_a_lost_record_and_what_overwrites_it() {
    let mut wal = Wal::new(200);
    let first = wal.checkpoint();
    let lost = wal.insert(A, &[1; 9000]);
    wal.crash_in(lost, first, 1);
    let mut splitter = Splitter::new(wal.start(), ByOid).unwrap();
    for (n, byte) in wal.bytes.iter().enumerate() {
        splitter.feed(wal.from.plus(n as u64), &[*byte]).unwrap();
        assert!([wal.from, lost, wal.at()].contains(&splitter.complete_to()));
    }
    assert_eq!(splitter.complete_to(), wal.at());
}

#[test]
fn old_bytes_behind_the_end_are_handed_back_and_not_split() {
    let mut wal = Wal::new(3000);
    wal.insert(A, b"new");
    let end = wal.at();
    wal.previous = Lsn(99_992); // what a recycled segment still holds
    wal.insert(B, SECRET);
    let mut splitter = Splitter::new(wal.start(), ByOid).unwrap();
    splitter.feed(wal.from, &wal.bytes).unwrap();
    assert_eq!(splitter.ended(), Some(End::Previous(Lsn(99_992))));
    let (split, tail) = splitter.finish();
    assert_eq!(split.unwrap().to, end);
    assert_eq!((tail.at, tail.bytes.len()), (end, wal.bytes.len() - end.since(wal.from) as usize));
}

#[test]
fn after_a_switch_wal_goes_on_with_the_next_segment_and_stray_bytes_are_residue() {
    let mut wal = Wal::new(20_000);
    wal.insert(A, b"before");
    wal.push(0, 0x40, &[]);
    let junk = wal.bytes.len() + 5;
    wal.bytes.resize(20_000, 0);
    wal.bytes[junk..junk + SECRET.len()].copy_from_slice(SECRET);
    wal.insert(B, b"behind");
    let split = split(&wal);
    assert_sound(&wal, &split);
    assert_eq!((split.records, split.to), (3, wal.at()));
    assert!(holds(&split.residue, SECRET) && !holds(&split.cluster, SECRET));
}

#[test]
fn a_start_that_names_another_predecessor_ends_at_once() {
    let mut wal = Wal::new(3000);
    wal.insert(A, b"x");
    let start = Start { previous_record: Some(Lsn(16)), ..wal.start() };
    let mut splitter = Splitter::new(start, ByOid).unwrap();
    splitter.feed(wal.from, &wal.bytes).unwrap();
    assert_eq!(splitter.ended(), Some(End::Previous(Lsn(8))));
    assert!(splitter.take().is_none());
}

#[test]
fn until_a_first_record_everything_is_handed_back_as_it_came() {
    let mut wal = Wal::new(3 * PAGE_BYTES + 800);
    wal.insert(A, &SECRET.repeat(1500));
    let inside = Start { at: wal.from.plus(80), record_aligned: false, ..wal.start() };
    for length in [100, 9_000, 20_000, 30_000] {
        let mut splitter = Splitter::new(inside, ByOid).unwrap();
        let bytes = &wal.bytes[80..wal.bytes.len().min(length)];
        splitter.feed(inside.at, bytes).unwrap();
        assert_eq!((splitter.complete_to(), splitter.pending_bytes()), (inside.at, bytes.len() as u64));
        let (split, tail) = splitter.finish();
        assert!(split.is_none() && tail.bytes == bytes && tail.at == inside.at);
    }
}

#[test]
fn padding_behind_a_record_that_is_not_zero_is_residue() {
    let stray =
        [2, 0, 0, 0, 7, 0xCC, 0xCC, 0xCC, 0, 0, 0, 0, 1, 2, 3, 4, 9, 9, 9, 9, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    let invalidations = [&stray[..], &[8; 4]].concat();
    let mut wal = Wal::new(3000);
    for (rmgr, info, body) in
        [(1, 0x60, main(&invalidations)), (10, 0, blocks(&[A], b"1")), (10, 0, blocks(&[0], b"2"))]
    {
        wal.push(rmgr, info, &body);
        *wal.bytes.last_mut().unwrap() = 0xEE;
    }
    wal.checkpoint();
    let split = split(&wal);
    assert_sound(&wal, &split);
    assert!(!holds(&split.cluster, &[0xEE]) && !holds(&split.tenants[&0], &[0xEE]));
    assert!(!holds(&split.cluster, &[0xCC]) && split.quarantine.is_empty());
}

#[test]
fn moving_a_database_to_another_tablespace_neither_makes_nor_drops_it() {
    #[derive(Default)]
    struct Told(Vec<(bool, u32)>);
    impl Owners for Told {
        fn owner(&mut self, _db: DbOid, _at: Lsn) -> Owner {
            Owner::Tenant(self.0.len() as u32)
        }
        fn created(&mut self, db: DbOid, _at: Lsn) {
            self.0.push((true, db.0));
        }
        fn dropped(&mut self, db: DbOid, _at: Lsn) {
            self.0.push((false, db.0));
        }
    }
    let words = |words: &[u32]| main(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
    let mut wal = Wal::new(3000);
    wal.push(4, 0x10, &words(&[B, 1663])); // made: from here on slot 1
    wal.push(4, 0x00, &words(&[B, 9000, B, 1663])); // moved
    wal.push(4, 0x20, &words(&[B, 1, 1663]));
    wal.insert(B, b"first");
    wal.push(4, 0x20, &words(&[B, 2, 1663, 9000])); // dropped: the last record of slot 1
    wal.push(4, 0x00, &words(&[B, 1663, A, 1663])); // the OID again: slot 3
    wal.insert(B, b"second");
    let mut splitter = Splitter::new(wal.start(), Told::default()).unwrap();
    splitter.feed(wal.from, &wal.bytes).unwrap();
    assert_eq!(splitter.owners().0, [(true, B), (false, B), (true, B)]);
    let split = splitter.take().unwrap();
    assert_eq!(split.tenants.keys().copied().collect::<Vec<_>>(), [1, 3]);
    assert!(holds(&split.tenants[&1], b"first") && holds(&split.tenants[&3], b"second"));
}

#[test]
fn what_nobody_understands_goes_to_quarantine_and_is_told() {
    let mut wal = Wal::new(9000);
    wal.checkpoint();
    let custom = wal.push(200, 0x10, &main(SECRET));
    let future = wal.push(0, 0xC0, &main(SECRET));
    let both = wal.push(10, 0, &blocks(&[A, B], SECRET));
    let shared_and_tenant = wal.push(10, 0, &blocks(&[0, B], SECRET));
    let broken = wal.push(10, 0, &[7, 0x20, 255, 255, 1, 2, 3]);
    let empty = wal.push(130, 0, &[]);
    wal.insert(A, b"later");
    let split = split(&wal);
    assert_sound(&wal, &split);
    assert!(!holds(&split.cluster, SECRET) && split.residue.is_empty());
    let told = split.notices.iter().map(|notice| match notice {
        Notice::Unknown { at, reason, .. } => (*at, *reason),
        other => panic!("{other:?}"),
    });
    let told: Vec<_> = told.collect();
    use Reason::{BlocksOfSeveral, Malformed, NoRule};
    let expected = [
        (custom, NoRule),
        (future, NoRule),
        (both, BlocksOfSeveral),
        (shared_and_tenant, BlocksOfSeveral),
        (broken, Malformed),
        (empty, NoRule),
    ];
    assert_eq!(told, expected);
    assert_eq!(split.quarantined.iter().map(|(from, _)| *from).collect::<Vec<_>>(), expected.map(|(at, _)| at));
}

#[test]
fn an_extensions_record_with_blocks_belongs_to_their_owner() {
    let mut wal = Wal::new(9000);
    wal.push(200, 0x10, &blocks(&[B], SECRET));
    let split = split(&wal);
    assert!(holds(&split.tenants[&1], SECRET) && split.quarantine.is_empty());
}

fn locks(entries: &[(u32, u32, u32)]) -> Vec<u8> {
    let mut data = (entries.len() as u32).to_le_bytes().to_vec();
    for (xid, db, relation) in entries {
        data.extend([*xid, *db, *relation].map(u32::to_le_bytes).concat());
    }
    main(&data)
}

#[test]
fn a_list_of_locks_is_taken_apart_wherever_a_page_cuts_it() {
    for before_end in (8..160).step_by(8) {
        let mut wal = Wal::new(before_end);
        let at = wal.push(
            8,
            0,
            &locks(&[(701, A, 11), (702, 1, 12), (703, B, 13), (704, B, 14), (705, A, 15), (706, 0, 16)]),
        );
        let split = split(&wal);
        assert_sound(&wal, &split);
        assert_eq!(
            (split.cluster.mixed.as_slice(), split.tenants[&0].mixed.as_slice()),
            ([at].as_slice(), [at].as_slice())
        );
        for set in [vec![], vec![0], vec![1], vec![0, 1]] {
            let parts: Vec<_> = set.iter().map(|slot| &split.tenants[slot]).collect();
            let merged = merge(&split.cluster, &parts).unwrap();
            let mut records = Records::new(wal.geometry, split.from, &merged);
            let (_, record) = records.next().unwrap().unwrap();
            let relations: Vec<_> = record[30..].chunks(12).map(|entry| entry[8]).collect();
            let of = |slot, relation| if set.contains(&slot) { relation } else { 0 };
            assert_eq!(relations, [of(0, 11), 12, of(1, 13), of(1, 14), of(0, 15), 16]);
        }
    }
}

#[test]
fn locks_of_one_tenant_are_its_own_and_locks_of_the_cluster_stay() {
    let mut wal = Wal::new(3000);
    wal.push(8, 0, &locks(&[(701, A, 11), (702, A, 12)]));
    wal.push(8, 0, &locks(&[(701, 0, 11), (702, 5, 12)]));
    wal.push(8, 0, &main(&[9, 0, 0, 0, 1]));
    let split = split(&wal);
    assert_sound(&wal, &split);
    assert_eq!((split.tenants.len(), split.quarantined.len()), (1, 1));
    assert!(split.cluster.mixed.is_empty());
}

#[test]
fn parts_of_another_stretch_do_not_merge() {
    let mut wal = Wal::new(3000);
    wal.insert(A, b"x");
    let first = split(&wal);
    let mut other = Wal::new(9000);
    other.insert(A, b"x");
    let second = split(&other);
    assert!(matches!(merge(&first.cluster, &[&second.tenants[&0]]), Err(WalError::Outside { .. })));
    let gap =
        Part { extents: vec![first.cluster.extents[0].clone(), second.cluster.extents[0].clone()], mixed: vec![] };
    assert!(matches!(merge(&gap, &[]), Err(WalError::Gap { .. })));
    let nowhere = Part { extents: vec![], mixed: vec![Lsn(3)] };
    assert!(matches!(merge(&first.cluster, &[&nowhere]), Err(WalError::Outside { .. })));
}

#[test]
fn a_damaged_span_is_refused_or_reads_as_something_else_but_never_panics() {
    let mut wal = Wal::new(304);
    wal.push(8, 0, &locks(&[(701, A, 11), (702, B, 12)]));
    wal.insert(A, SECRET);
    let span = encode(&split(&wal).tenants[&0]);
    for cut in 0..span.len() {
        assert!(matches!(decode(&span[..cut]), Err(WalError::Span { .. })), "{cut}");
    }
    assert!(decode(&[&span[..], &[0]].concat()).is_err());
    for at in 0..span.len() {
        for value in [0, 1, 0x80, 0xFF] {
            let mut damaged = span.clone();
            damaged[at] = value;
            if let Ok(part) = decode(&damaged) {
                let _ = merge(&split(&wal).cluster, &[&part]);
            }
        }
    }
}

fn a_record() -> impl Strategy<Value = (u8, u8, Vec<u8>)> {
    let db = prop_oneof![Just(0), Just(1), Just(A), Just(B), Just(B + 1)];
    let body = proptest::collection::vec(any::<u8>(), 0..400);
    prop_oneof![
        4 => (db.clone(), proptest::collection::vec(any::<u8>(), 0..9000)).prop_map(|(db, data)| (10, 0, blocks(&[db], &data))),
        1 => (db.clone(), db.clone()).prop_map(|(one, two)| (11, 0, blocks(&[one, two], b"data"))),
        1 => proptest::collection::vec((1_u32..9, db, 1_u32..9), 0..6).prop_map(|entries| (8, 0, locks(&entries))),
        // hostile: any kind with any content
        3 => (0_u8..22, any::<u8>(), body.clone()).prop_map(|(rmgr, info, data)| (rmgr, info, main(&data))),
        1 => (0_u8..22, any::<u8>(), body).prop_map(|(rmgr, info, mut data)| {
            if data.len() == 1 { data.push(0) }
            (rmgr, info, data)
        }),
    ]
}

/// How far before a segment's end WAL may begin: anywhere a record can, so never inside a page's header.
fn a_start() -> impl Strategy<Value = u64> {
    (1_u64..3000).prop_map(|words| words * 8).prop_filter("inside a page header", |before_end| {
        let wal = Wal::new(*before_end);
        wal.geometry.is_boundary(wal.from)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_records_split_without_loss_and_leave_the_cluster_valid(
        records in proptest::collection::vec(a_record(), 1..25), before_end in a_start(),
    ) {
        let mut wal = Wal::new(before_end);
        for (rmgr, info, body) in records {
            // a switch ends the segment, which is shown elsewhere
            if rmgr != 0 || info & 0xF0 != 0x40 {
                wal.push(rmgr, info, &body);
            }
        }
        if wal.bytes.is_empty() {
            return Ok(());
        }
        let split = split(&wal);
        assert_sound(&wal, &split);
        prop_assert_eq!(split.to, wal.at());
        let counts: BTreeMap<_, _> = split.tenants.iter().map(|(slot, part)| (*slot, part.extents.len())).collect();
        for subset in [vec![0_u32], vec![1], vec![0, 1], vec![2, 1]] {
            let parts: Vec<_> = subset.iter().filter_map(|slot| split.tenants.get(slot)).collect();
            let merged = merge(&split.cluster, &parts).unwrap();
            let mut alone = Records::new(wal.geometry, split.from, &merged);
            let mut count = 0;
            while alone.next().unwrap().is_some() {
                count += 1;
            }
            prop_assert_eq!(count, split.records, "{:?} {:?}", subset, counts);
        }
    }
}
