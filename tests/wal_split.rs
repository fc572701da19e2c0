//! Splitting WAL of a real server: nothing lost, nothing shown to others, and every set of keys gives valid WAL.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wal_fixture;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use lifeboat::ids::{DbOid, Lsn};
use lifeboat::postgres::wal::commits::{CommitScan, EventKind};
use lifeboat::postgres::wal::extent::{decode, encode};
use lifeboat::postgres::wal::merge::merge;
use lifeboat::postgres::wal::notice::Notice;
use lifeboat::postgres::wal::segments::{SegmentWriter, segment_name};
use lifeboat::postgres::wal::touched::touched;
use lifeboat::postgres::wal::{Part, Slot, Split, Splitter, Start};
use wal_fixture::{A, B, BIN, C, Fixture};

fn everybody(split: &Split) -> Vec<&Part> {
    split.tenants.values().chain([&split.residue, &split.quarantine]).collect()
}

fn with_keys(split: &Split, slots: &[Slot]) -> Vec<u8> {
    let parts: Vec<_> = slots.iter().filter_map(|slot| split.tenants.get(slot)).collect();
    merge(&split.cluster, &parts).unwrap()
}

/// Where a later stretch may begin, about `share` of the way through.
fn boundary(fixture: &Fixture, share: f64) -> Start {
    let mut splitter = Splitter::new(fixture.start(), fixture.owners()).unwrap();
    let bytes = (fixture.wal.len() as f64 * share) as usize;
    splitter.feed(fixture.facts.from, &fixture.wal[..bytes]).unwrap();
    let split = splitter.take().unwrap();
    Start { at: split.to, record_aligned: true, previous_record: Some(split.last_record), ..fixture.start() }
}

#[test]
fn all_parts_together_are_the_original_bit_for_bit() {
    let fixture = Fixture::get();
    let split = fixture.split();
    assert!(merge(&split.cluster, &everybody(&split)).unwrap() == fixture.between(split.from, split.to));
    assert!(split.records > 20_000, "{}", split.records);
    assert_eq!(split.quarantined, []);
    for slot in [A, B, C] {
        assert!(split.tenants[&slot].wal_bytes() > 1 << 20, "{slot}");
        assert!(!split.tenants[&slot].mixed.is_empty(), "no lock record of several tenants in this run");
    }
    assert!(split.notices.iter().any(|notice| matches!(notice, Notice::Aborted { .. })), "no aborted record");
}

#[test]
fn the_split_goes_to_the_end_that_the_server_itself_finds() {
    let fixture = Fixture::get();
    let (split, tail) = {
        let mut splitter = Splitter::new(fixture.start(), fixture.owners()).unwrap();
        splitter.feed(fixture.facts.from, &fixture.wal).unwrap();
        splitter.finish()
    };
    let split = split.unwrap();
    let folder = tempfile::tempdir().unwrap();
    lay(&fixture, folder.path(), split.from, &fixture.wal, fixture.facts.from.plus(fixture.wal.len() as u64));
    let lines = waldump(&fixture, folder.path(), split.from, None);
    assert_eq!(lines.len() as u64, split.records);
    assert!(lines.last().unwrap().contains(&format!(
        "lsn: {:X}/{:08X}",
        split.last_record.0 >> 32,
        split.last_record.0
    )));
    assert_eq!(tail.at, split.to);
    assert!(tail.ended.is_some());
}

fn lay(fixture: &Fixture, folder: &Path, from: Lsn, wal: &[u8], end: Lsn) {
    let mut writer = SegmentWriter::new(folder, fixture.geometry()).unwrap();
    writer.lay(from, wal).unwrap();
    writer.finish(end).unwrap();
}

/// The lines of `pg_waldump` from the first record on; without an `end`, up to where it finds no more.
fn waldump(fixture: &Fixture, folder: &Path, from: Lsn, end: Option<Lsn>) -> Vec<String> {
    let mut command = Command::new(format!("{BIN}/pg_waldump"));
    command.arg("-p").arg(folder);
    if let Some(end) = end {
        command.args(["-s", &from.to_string(), "-e", &end.to_string()]);
    } else {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        command.arg(segment_name(&fixture.geometry(), from)).arg(names.max().unwrap());
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    match end {
        Some(_) => assert!(output.status.success(), "{errors}"),
        None => assert!(errors.contains("error in WAL record") || errors.is_empty(), "{errors}"),
    }
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Databases that a line of `pg_waldump` names as part of a relation.
fn databases_of(line: &str) -> BTreeSet<u32> {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(|c: char| !c.is_ascii_digit()).take(3).filter_map(|number| number.parse().ok()).collect()
    };
    let refs = line.split("rel ").skip(1).filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let paths = line.split("base/").skip(1);
    refs.filter_map(|rest| numbers(rest).get(1).copied())
        .chain(paths.filter_map(|rest| numbers(rest).first().copied()))
        .collect()
}

fn every_key_subset_is_valid(subsets: &[&[(&str, Slot)]]) {
    let fixture = Fixture::get();
    let split = fixture.split();
    for subset in subsets {
        let slots: Vec<_> = subset.iter().map(|(_, slot)| *slot).collect();
        let folder = tempfile::tempdir().unwrap();
        lay(&fixture, folder.path(), split.from, &with_keys(&split, &slots), split.to);
        let lines = waldump(&fixture, folder.path(), split.from, Some(split.to));
        assert_eq!(lines.len() as u64, split.records, "{subset:?}");
        let mut allowed = BTreeSet::from([0, 1, 4, 5]);
        allowed.extend(subset.iter().map(|(name, _)| fixture.facts.databases[*name]));
        for line in &lines {
            assert!(databases_of(line).is_subset(&allowed), "{subset:?}: {line}");
        }
        for (_, slot) in *subset {
            assert!(split.tenants[slot].wal_bytes() > 0);
        }
    }
}

#[test]
fn with_the_cluster_alone_or_one_key_wal_is_valid_and_names_nobody_else() {
    every_key_subset_is_valid(&[&[], &[("tenant_a", A)], &[("tenant_b", B)], &[("tenant_c", C)]]);
}

#[test]
fn with_several_keys_wal_is_valid_and_names_nobody_else() {
    let (a, b, c) = (("tenant_a", A), ("tenant_b", B), ("tenant_c", C));
    every_key_subset_is_valid(&[&[a, b], &[a, c], &[b, c]]);
}

#[test]
fn one_tenants_part_gives_valid_checksums_by_laying_bytes_alone() {
    let fixture = Fixture::get();
    let split = fixture.split();
    for slot in [A, B, C] {
        let mut by_hand = split.cluster.extents[0].bytes.to_vec();
        for extent in &decode(&encode(&split.tenants[&slot])).unwrap().extents {
            let at = extent.at.since(split.from) as usize;
            by_hand[at..at + extent.bytes.len()].copy_from_slice(&extent.bytes);
        }
        assert!(by_hand == with_keys(&split, &[slot]));
    }
}

#[test]
fn what_a_tenant_wrote_is_nowhere_but_in_its_own_part() {
    let fixture = Fixture::get();
    let split = fixture.split();
    let mut found = BTreeSet::new();
    // every marker begins with the same letters, so one pass is enough
    let finds = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes);
        let texts = text.match_indices("mk").filter_map(|(at, _)| text.get(at..at + 22));
        texts.filter(|text| fixture.facts.markers.iter().any(|marker| marker == text)).map(str::to_owned).collect()
    };
    let part = |part: &Part| -> BTreeSet<String> { part.extents.iter().flat_map(|e| finds(&e.bytes)).collect() };
    found.extend(part(&split.tenants[&B]));
    assert_eq!(found.len(), fixture.facts.markers.len(), "the markers are not all in the WAL at all");
    let others = split.tenants.iter().filter(|(slot, _)| **slot != B).map(|(_, part)| part);
    for other in others.chain([&split.cluster, &split.residue, &split.quarantine]) {
        assert_eq!(part(other), BTreeSet::new());
    }
}

#[test]
fn the_outcome_does_not_depend_on_how_the_bytes_arrive() {
    let fixture = Fixture::get();
    let mut sizes = std::iter::successors(Some(1_usize), |n| Some(n.wrapping_mul(6_364_136_223_846_793_005) >> 1 | 1));
    let start = boundary(&fixture, 0.7);
    let wal = fixture.between(start.at, fixture.end());
    let expected = {
        let mut splitter = Splitter::new(start, fixture.owners()).unwrap();
        splitter.feed(start.at, wal).unwrap();
        splitter.finish()
    };
    for most in [97, 8_192, 100_000, 1 << 20] {
        let mut splitter = Splitter::new(start, fixture.owners()).unwrap();
        let mut at = 0;
        while at < wal.len() {
            let size = (sizes.next().unwrap() % most + 1).min(wal.len() - at);
            splitter.feed(start.at.plus(at as u64), &wal[at..at + size]).unwrap();
            at += size;
        }
        assert!(splitter.finish() == expected, "pieces up to {most} bytes");
    }
}

#[test]
fn byte_by_byte_every_position_between_stretches_is_a_record_boundary() {
    let fixture = Fixture::get();
    let start = boundary(&fixture, 0.55);
    let wal = &fixture.between(start.at, fixture.end())[..150_000];
    let mut splitter = Splitter::new(start, fixture.owners()).unwrap();
    let mut merged = Vec::new();
    let mut previous = start.previous_record;
    for (n, byte) in wal.iter().enumerate() {
        splitter.feed(start.at.plus(n as u64), &[*byte]).unwrap();
        let Some(split) = splitter.take() else { continue };
        assert_eq!(split.from, start.at.plus(merged.len() as u64));
        let bytes = merge(&split.cluster, &everybody(&split)).unwrap();
        // each stretch stands alone
        let again = Start { at: split.from, previous_record: previous, ..start };
        let alone = wal_fixture::split_whole(again, fixture.owners(), &bytes);
        assert_eq!((alone.to, alone.records, alone.last_record), (split.to, split.records, split.last_record));
        previous = Some(split.last_record);
        merged.extend(bytes);
    }
    assert!(wal.starts_with(&merged) && wal.len() - merged.len() < 20_000);
}

#[test]
fn stretches_of_any_length_join_to_the_original() {
    let fixture = Fixture::get();
    let start = fixture.start();
    let mut splitter = Splitter::new(start, fixture.owners()).unwrap();
    let mut merged = Vec::new();
    for (n, piece) in fixture.wal.chunks(777_777).enumerate() {
        splitter.feed(start.at.plus(n as u64 * 777_777), piece).unwrap();
        let Some(split) = splitter.take() else { continue };
        let bytes = merge(&split.cluster, &everybody(&split)).unwrap();
        // what reads stretches can read each one of them
        if split.from > start.at {
            for event in CommitScan::new(fixture.geometry(), split.from, &bytes) {
                event.unwrap();
            }
        }
        merged.extend(bytes);
    }
    let (rest, tail) = splitter.finish();
    assert!(rest.is_none());
    merged.extend_from_slice(&tail.bytes);
    assert!(merged == fixture.wal);
}

#[test]
fn commits_and_restore_points_read_the_same_with_any_keys() {
    let fixture = Fixture::get();
    let start = boundary(&fixture, 0.02);
    let wal = fixture.between(start.at, fixture.end());
    let split = wal_fixture::split_whole(start, fixture.owners(), wal);
    let events = |bytes: &[u8]| -> Vec<_> {
        CommitScan::new(fixture.geometry(), split.from, bytes).map(Result::unwrap).collect()
    };
    let cluster = events(&split.cluster.extents[0].bytes);
    assert_eq!(cluster, events(&with_keys(&split, &[A])));
    assert_eq!(cluster, events(fixture.between(split.from, split.to)));
    let commits: Vec<_> = cluster.iter().filter(|e| matches!(e.kind, EventKind::Commit { .. })).collect();
    assert_eq!(commits.len() as u64, split.commits.count);
    assert_eq!(commits[0].time, split.commits.first);
    let point = cluster.iter().find(|e| e.kind == EventKind::RestorePoint { name: "before the storm".into() }).unwrap();
    let later = CommitScan::new(fixture.geometry(), split.from, &split.cluster.extents[0].bytes);
    let first = later.first_later_than(point.time.unwrap()).unwrap().unwrap();
    assert!(first.start >= point.end && first.time > point.time);
}

#[test]
fn a_transaction_is_counted_by_the_relations_it_changed() {
    let fixture = Fixture::get();
    let start = boundary(&fixture, 0.02);
    let wal = fixture.between(start.at, fixture.end());
    let split = wal_fixture::split_whole(start, fixture.owners(), wal);
    let found = touched(fixture.geometry(), split.from, &with_keys(&split, &[A])).unwrap();
    let a = DbOid(fixture.facts.databases["tenant_a"]);
    let of_a = found.iter().filter(|touched| touched.relations.keys().any(|(db, _)| *db == a));
    assert!(of_a.clone().count() > 20);
    assert!(of_a.flat_map(|touched| touched.relations.values()).any(|count| *count > 1_000));
    let foreign = [B, C]
        .map(|slot| if slot == B { "tenant_b" } else { "tenant_c" })
        .map(|name| DbOid(fixture.facts.databases[name]));
    assert!(found.iter().all(|touched| touched.relations.keys().all(|(db, _)| !foreign.contains(db))));
}

#[test]
fn databases_announce_their_beginning_and_end() {
    let fixture = Fixture::get();
    let mut splitter = Splitter::new(fixture.start(), fixture.owners()).unwrap();
    splitter.feed(fixture.facts.from, &fixture.wal).unwrap();
    let of_c = DbOid(fixture.facts.databases["of_c"]);
    let events = splitter.owners().events.clone();
    let created: Vec<_> = events.iter().filter(|(what, ..)| *what == "created").collect();
    // template0, postgres, three tenants, and three that came later
    assert_eq!(created.len(), 8, "{created:?}");
    let dropped: Vec<_> = events.iter().filter(|(what, ..)| *what == "dropped").collect();
    assert_eq!(dropped.len(), 2, "moving to another tablespace drops nothing: {dropped:?}");
    let split = splitter.take().unwrap();
    let c = DbOid(fixture.facts.databases["tenant_c"]);
    let copied =
        |notice: &&Notice| matches!(notice, Notice::CopiedFrom { db, source, .. } if (*db, *source) == (of_c, c));
    assert!(split.notices.iter().any(|notice| copied(&notice)));
}

/// `DROP DATABASE` commits in another database than the one it drops; a no-op there would bring the row back.
#[test]
fn the_commit_that_drops_a_database_stays_a_commit_for_everybody() {
    let fixture = Fixture::get();
    let split = fixture.split();
    let dropped: Vec<Lsn> = split
        .notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::Dropped { at, .. } => Some(*at),
            _ => None,
        })
        .collect();
    assert_eq!(dropped.len(), 2);
    let start = boundary(&fixture, 0.02);
    let at = start.at.since(split.from) as usize;
    let cluster = &split.cluster.extents[0].bytes[at..];
    let commits: Vec<_> = CommitScan::new(fixture.geometry(), start.at, cluster).map(Result::unwrap).collect();
    for at in dropped {
        let commit = commits.iter().find(|commit| commit.start > at).unwrap();
        assert!(matches!(commit.kind, EventKind::Commit { .. }));
        assert!(commit.start.since(at) < 8192);
    }
}

#[test]
fn segments_stop_at_the_target_and_begin_where_the_stretch_does() {
    let fixture = Fixture::get();
    let start = boundary(&fixture, 0.5);
    let split = wal_fixture::split_whole(start, fixture.owners(), fixture.between(start.at, fixture.end()));
    let wal = with_keys(&split, &[A]);
    let events: Vec<_> = CommitScan::new(fixture.geometry(), split.from, &wal).map(Result::unwrap).collect();
    let target = events[events.len() / 2].start;
    let folder = tempfile::tempdir().unwrap();
    lay(&fixture, folder.path(), split.from, &wal, target);
    let lines = waldump(&fixture, folder.path(), split.from, None);
    let lsn = |lsn: Lsn| format!("lsn: {:X}/{:08X}", lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF);
    assert!(lines[0].contains(&lsn(split.from)), "{}", lines[0]);
    assert!(!lines.iter().any(|line| line.contains(&lsn(target))));
    let last: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    for path in &last {
        assert_eq!(std::fs::metadata(path).unwrap().len(), u64::from(wal_fixture::SEGMENT_BYTES));
    }
    let name = segment_name(&fixture.geometry(), target);
    assert_eq!(last.iter().max().unwrap().file_name().unwrap().to_str().unwrap(), name);
    let bytes = std::fs::read(folder.path().join(name)).unwrap();
    assert!(bytes[(target.0 % u64::from(wal_fixture::SEGMENT_BYTES)) as usize..].iter().all(|byte| *byte == 0));
}
