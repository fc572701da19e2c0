//! The repository as a whole: what goes in comes out, what is damaged is named, what died half-way hurts nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jiff::SignedDuration;

use super::envelope::{Binding, Verified, Wal};
use super::error::RepoError;
use super::key::KeyError;
use super::name;
use super::reader::What;
use super::set_writer::{FileMeta, Other};
use super::stretch::NewStretch;
use super::testing::{Estate, acme, cluster, fill, globex, noise};
use super::window::chain;
use super::writer::NewPoint;
use crate::failure::{Failure, Kind};
use crate::ids::{DbOid, Lsn, Scope, SystemId};
use crate::store::counting::Counting;
use crate::store::failing::{Answer, Failing, Fault};
use crate::store::{Store, counting::Op};
use crate::watch::Quiet;

fn files() -> Vec<(&'static str, Vec<u8>)> {
    let mut holed = noise(3, 300_000);
    holed[131_072..262_144].fill(0);
    vec![
        ("base/1/empty", Vec::new()),
        ("base/1/small", b"hello".to_vec()),
        ("base/1/zeros", vec![0; 400_000]),
        ("base/1/large", noise(1, 700_000)),
        ("base/1/same", noise(1, 700_000)),
        ("base/2/holed", holed),
        ("base/2/text", b"select 1;\n".repeat(20_000)),
    ]
}

async fn extract(estate: &Estate, set: &Verified) -> Result<BTreeMap<String, Vec<u8>>, RepoError> {
    let target = tempfile::tempdir().unwrap();
    let reader = estate.reader();
    let body = reader.body(set).await?;
    let everything = |entry: &super::set::FileEntry| Some(PathBuf::from(&entry.path));
    reader.extract(&body, target.path(), everything, &Quiet::default()).await?;
    let mut found = BTreeMap::new();
    for entry in body.entries()? {
        let path = entry?.path;
        found.insert(path.clone(), std::fs::read(target.path().join(path)).unwrap());
    }
    Ok(found)
}

fn as_map(files: &[(&str, Vec<u8>)]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(path, content)| ((*path).to_owned(), content.clone())).collect()
}

async fn only_set(estate: &Estate, scope: &Scope) -> Verified {
    let mut listing = estate.reader().envelopes(scope, What::Sets).await.unwrap();
    assert!(listing.bad.is_empty(), "{:?}", listing.bad);
    assert_eq!(listing.good.len(), 1);
    listing.good.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_in_comes_out() {
    let estate = Estate::new();
    let stored = estate.backup(acme(), &files()).await;
    assert_eq!(stored.reused_bytes, 700_000, "the same content is stored once");
    assert_eq!(stored.zero_bytes, 400_000 + 131_072, "zeros are not stored");
    let set = only_set(&estate, &acme()).await;
    assert_eq!(set.reference(), stored.envelope.reference());
    assert_eq!(extract(&estate, &set).await.unwrap(), as_map(&files()));
    assert!(set.objects.iter().filter(|o| o.name.contains("/packs/")).count() > 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_times_directories_links_and_holes_come_back() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let estate = Estate::new();
    let mut set = estate.writer().begin_set(estate.new_set(acme()), &Quiet::default()).await.unwrap();
    let (tags, mtime) = (BTreeMap::new(), Some("2020-01-02T03:04:05Z".parse().unwrap()));
    let meta = |path: &str, mode| FileMeta { path: path.into(), mode, bytes: None, mtime, tags: tags.clone() };
    set.other(meta("d", 0o500), Other::Dir).unwrap();
    set.start_file(meta("d/file", 0o400)).unwrap();
    for _ in 0..20 {
        set.piece(vec![0; 1 << 20].into()).unwrap();
    }
    set.piece(Bytes::from_static(b"end")).unwrap();
    set.end_file(BTreeMap::from([("sha1".to_owned(), "x".to_owned())])).unwrap();
    set.other(meta("d/link", 0o777), Other::Link { target: "file".into() }).unwrap();
    set.finish(serde_json::Value::Null).await.unwrap();
    let (target, reader) = (tempfile::tempdir().unwrap(), estate.reader());
    let body = reader.body(&only_set(&estate, &acme()).await).await.unwrap();
    let all = |entry: &super::set::FileEntry| Some(PathBuf::from(&entry.path));
    reader.extract(&body, target.path(), all, &Quiet::default()).await.unwrap();
    let file = std::fs::metadata(target.path().join("d/file")).unwrap();
    assert_eq!((file.permissions().mode() & 0o7777, file.len(), file.mtime()), (0o400, (20 << 20) + 3, 1_577_934_245));
    assert!(file.blocks() * 512 < 1 << 20, "zeros take no room");
    assert_eq!(std::fs::metadata(target.path().join("d")).unwrap().permissions().mode() & 0o7777, 0o500);
    assert_eq!(std::fs::read_link(target.path().join("d/link")).unwrap(), PathBuf::from("file"));
    let tagged = body.entries().unwrap().filter_map(Result::ok).find(|entry| entry.path == "d/file").unwrap();
    assert_eq!(tagged.tags["sha1"], "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_set_stores_only_what_changed_and_keeps_what_it_reuses() {
    let estate = Estate::new();
    let first = estate.backup(acme(), &files()).await;
    estate.clock.advance(SignedDuration::from_hours(24));
    let mut changed = files();
    changed[3].1[200_000] ^= 1;
    let second = estate.backup(acme(), &changed).await;
    assert_eq!(second.new_bytes, 131_072);
    assert!(second.stored_bytes < first.stored_bytes / 3, "{} of {}", second.stored_bytes, first.stored_bytes);
    assert_eq!(second.envelope.previous, Some(first.envelope.link()));
    for object in &second.envelope.objects {
        let until = estate.locked_until(&object.name);
        assert!(until > second.envelope.locked_until, "{} is outlived", object.name);
    }
    assert_eq!(extract(&estate, &second.envelope).await.unwrap(), as_map(&changed));
    let third = estate.backup(acme(), &changed).await;
    assert_eq!((third.new_bytes, third.files), (0, 7));
    assert_eq!(extract(&estate, &third.envelope).await.unwrap(), as_map(&changed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_gone_or_too_old_is_written_anew() {
    let estate = Estate::new();
    let first = estate.backup(acme(), &files()).await;
    let pack = &first.envelope.objects[0].name;
    estate.drop_object(pack);
    estate.clock.advance(SignedDuration::from_hours(24));
    let second = estate.backup(acme(), &files()).await;
    assert!(second.new_bytes > 0 && second.reused_bytes > 700_000);
    assert_eq!(extract(&estate, &second.envelope).await.unwrap(), as_map(&files()));
    estate.clock.advance(SignedDuration::from_hours(24 * 36));
    let third = estate.backup(acme(), &files()).await;
    assert_eq!(third.new_bytes, first.new_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_chunk_map_makes_the_next_backup_full_and_says_so() {
    let estate = Estate::new();
    let first = estate.backup(acme(), &files()).await;
    estate.drop_object(&estate.named(".chunks.age"));
    let watch = Quiet::default();
    let set = estate.writer().begin_set(estate.new_set(acme()), &watch).await.unwrap();
    assert!(watch.findings()[0].what.contains("chunk map cannot be used"), "{:?}", watch.findings());
    let second = fill(set, &files()).await.finish(serde_json::Value::Null).await.unwrap();
    assert_eq!(second.new_bytes, first.new_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_envelope_or_chunk_map_is_not_built_upon() {
    let estate = Estate::with(false);
    let first = estate.backup(acme(), &files()).await;
    let stranger = super::ceremony::Ceremony::new_estate(&[acme()], 0).unwrap();
    let forged = first.envelope_name.replace("20261122", "20991122");
    let text = String::from_utf8(estate.bytes(&first.envelope_name)).unwrap();
    let text = text.replace(&first.envelope_name, &forged);
    let signature = super::sign::sign(&stranger.bundle.signing, text.as_bytes()).unwrap();
    estate.memory.put(&forged, text.into(), estate.until(1)).await.unwrap();
    estate.memory.put(&name::signature(&forged), signature.into(), estate.until(1)).await.unwrap();
    let second = estate.backup(acme(), &files()).await;
    assert_eq!(second.envelope.previous, Some(first.envelope.link()));
    let listing = estate.reader().envelopes(&acme(), What::Sets).await.unwrap();
    assert_eq!(listing.good.len(), 2);
    assert!(matches!(&listing.bad[..], [(name, RepoError::Signature { .. })] if *name == forged));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_works_where_no_identity_is() {
    let estate = Estate::new();
    std::fs::remove_dir_all(estate.folder.path().join("keys")).unwrap();
    estate.backup(acme(), &files()).await;
    estate.clock.advance(SignedDuration::from_hours(1));
    assert_eq!(estate.backup(acme(), &files()).await.new_bytes, 0, "even incrementally");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_or_with_another_nothing_opens_and_the_listing_still_works() {
    let estate = Estate::new();
    estate.backup(acme(), &files()).await;
    let set = only_set(&estate, &acme()).await;
    let error = estate.reader_of(estate.memory.clone(), None).body(&set).await.unwrap_err();
    assert!(matches!(error, RepoError::Key(KeyError::Absent { .. })));
    assert_eq!(Failure::from(error).kind, Kind::Integrity);
    let keys = estate.folder.path().join("keys");
    std::fs::copy(keys.join("tenant/globex/1.age"), keys.join("tenant/acme/1.age")).unwrap();
    let failure: Failure = estate.reader().body(&set).await.unwrap_err().into();
    assert_eq!(failure.kind, Kind::Integrity);
    assert!(failure.next.contains("tenant/acme"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_any_object_is_an_integrity_error_that_names_it() {
    let estate = Estate::new();
    estate.backup(acme(), &files()).await;
    let set = only_set(&estate, &acme()).await;
    let needed: Vec<String> =
        set.objects.iter().map(|o| o.name.clone()).filter(|name| !name.ends_with(".chunks.age")).collect();
    assert!(needed.len() > 3);
    for (at, object) in needed.iter().enumerate() {
        let whole = estate.memory.snapshot();
        let other = estate.bytes(&needed[(at + 1) % needed.len()]);
        type Damage = Box<dyn FnOnce(&mut Vec<u8>)>;
        let damages: [Damage; 3] = [
            Box::new(|bytes| bytes[500] ^= 1),
            Box::new(|bytes| bytes.truncate(bytes.len() - 1)),
            Box::new(move |bytes| *bytes = other),
        ];
        for damage in damages {
            estate.damage(object, damage);
            expect_integrity(&estate, &set, object).await;
            estate.memory.roll_back(&whole);
        }
        estate.drop_object(object);
        expect_integrity(&estate, &set, object).await;
        estate.memory.roll_back(&whole);
    }
    assert_eq!(extract(&estate, &set).await.unwrap(), as_map(&files()), "whole again");
}

async fn expect_integrity(estate: &Estate, set: &Verified, object: &str) {
    let failure: Failure = extract(estate, set).await.unwrap_err().into();
    assert_eq!((failure.kind, failure.object.as_str()), (Kind::Integrity, object), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_envelope_or_signature_is_listed_as_bad_and_never_used() {
    let estate = Estate::new();
    let stored = estate.backup(acme(), &files()).await;
    let (envelope, signature) = (stored.envelope_name.clone(), name::signature(&stored.envelope_name));
    for object in [&envelope, &signature] {
        let whole = estate.memory.snapshot();
        estate.damage(object, |bytes| bytes[100] ^= 1);
        let listing = estate.reader().envelopes(&acme(), What::Sets).await.unwrap();
        assert_eq!((listing.good.len(), listing.bad[0].0.as_str()), (0, envelope.as_str()));
        estate.memory.roll_back(&whole);
    }
    let whole = estate.memory.snapshot();
    estate.drop_object(&signature);
    let listing = estate.reader().envelopes(&acme(), What::Sets).await.unwrap();
    assert!(matches!(&listing.bad[..], [(_, RepoError::Unsigned { .. })]));
    estate.memory.roll_back(&whole);
    estate.drop_object(&envelope);
    let listing = estate.reader().envelopes(&acme(), What::Sets).await.unwrap();
    assert!(listing.good.is_empty() && listing.bad.is_empty(), "without its envelope nothing was committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_on_top_of_any_object_is_seen_through() {
    let estate = Estate::with(false);
    estate.backup(acme(), &files()).await;
    for name in estate.memory.names() {
        let mut junk = estate.bytes(&name);
        junk[50] ^= 1;
        estate.memory.put(&name, junk.into(), estate.until(1)).await.unwrap();
        estate.memory.put(&name, Bytes::from_static(b"junk"), estate.until(1)).await.unwrap();
    }
    let set = only_set(&estate, &acme()).await;
    assert_eq!(extract(&estate, &set).await.unwrap(), as_map(&files()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenants_restore_reads_no_object_of_another() {
    let estate = Estate::new();
    estate.backup(acme(), &files()).await;
    estate.backup(globex(), &files()).await;
    estate.writer().write_stretch(stretch(&estate, 0, 100, 3 << 20)).await.unwrap();
    let counting = Arc::new(Counting::new(estate.memory.clone()));
    let reader = estate.reader_of(counting.clone(), Some(&estate.folder.path().join("keys")));
    let set = reader.envelopes(&acme(), What::Sets).await.unwrap().good.remove(0);
    let body = reader.body(&set).await.unwrap();
    reader.read_files(&body, 1 << 20, |_| true, |_, _| {}).await.unwrap();
    let stretch = reader.stretches(SystemId(7), None).await.unwrap().good.remove(0);
    reader.span(&stretch, &acme()).await.unwrap().unwrap();
    for name in counting.names_read() {
        assert!(name.starts_with("tenant/acme/") || name.starts_with("wal/"), "{name}");
    }
    let bundle = counting.calls().into_iter().filter(|call| call.op == Op::Get && call.name.ends_with(".bundle.tar"));
    assert_eq!(bundle.count(), 0, "acme's share is large: the bundle holds others' only");
    assert_eq!(reader.identities.opened(), BTreeSet::from([acme()]));
    assert!(
        estate.memory.names().iter().any(|name| name.starts_with("tenant/globex/packs/")),
        "there was something to read"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_call_commits_nothing_or_all() {
    for call in 1..40 {
        for done in [false, true] {
            let estate = Estate::new();
            let failing = Arc::new(Failing::new(estate.memory.clone(), vec![Fault::Crash { call, done }]));
            let writer = estate.writer_to(failing.clone());
            let outcome = async {
                let mut set = writer.begin_set(estate.new_set(acme()), &Quiet::default()).await?;
                let work = move || {
                    set.start_file(FileMeta { path: "f".into(), ..FileMeta::default() })?;
                    for seed in 0..8 {
                        set.piece(noise(seed, 128 << 10).into())?;
                    }
                    set.end_file(BTreeMap::new()).map(|()| set)
                };
                tokio::task::spawn_blocking(work).await.unwrap()?.finish(serde_json::Value::Null).await
            };
            let committed = outcome.await.is_ok();
            let listing = estate.reader().envelopes(&acme(), What::Sets).await.unwrap();
            assert!(listing.bad.is_empty());
            assert!(listing.good.len() <= 1 && (!committed || listing.good.len() == 1));
            for set in &listing.good {
                assert_eq!(extract(&estate, set).await.unwrap()["f"].len(), 8 << 17);
            }
            estate.backup(acme(), &files()).await;
            if failing.calls() < call {
                return;
            }
        }
    }
    panic!("the set was never written without a crash");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_of_a_set_come_in_order_and_paths_stay_inside() {
    let estate = Estate::new();
    let mut set = estate.writer().begin_set(estate.new_set(acme()), &Quiet::default()).await.unwrap();
    assert!(matches!(set.piece(Bytes::from_static(b"x")), Err(RepoError::OutOfOrder { .. })));
    assert!(matches!(set.end_file(BTreeMap::new()), Err(RepoError::OutOfOrder { .. })));
    let at = |path: &str| FileMeta { path: path.into(), ..FileMeta::default() };
    assert!(matches!(set.start_file(at("../x")), Err(RepoError::BadPath { .. })));
    set.start_file(at("x")).unwrap();
    assert!(matches!(set.start_file(at("y")), Err(RepoError::OutOfOrder { .. })));
    assert!(matches!(set.finish(serde_json::Value::Null).await, Err(RepoError::OutOfOrder { .. })));
    assert!(estate.memory.names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extraction_writes_only_below_its_root_and_over_nothing() {
    let estate = Estate::new();
    let stored = estate.backup(acme(), &files()).await;
    let (target, reader) = (tempfile::tempdir().unwrap(), estate.reader());
    let body = reader.body(&stored.envelope).await.unwrap();
    for path in ["/etc/x", "../x", "a/../../x"] {
        let to = |_: &super::set::FileEntry| Some(PathBuf::from(path));
        let error = reader.extract(&body, &target.path().join("in"), to, &Quiet::default()).await.unwrap_err();
        assert!(matches!(error, RepoError::BadPath { .. }), "{path}: {error}");
    }
    std::fs::write(target.path().join("there"), b"mine").unwrap();
    let small = |entry: &super::set::FileEntry| (entry.bytes == 5).then(|| PathBuf::from("there"));
    let error = reader.extract(&body, target.path(), small, &Quiet::default()).await.unwrap_err();
    assert!(matches!(error, RepoError::Taken { .. }));
    assert_eq!(std::fs::read(target.path().join("there")).unwrap(), b"mine");
    let twice = |_: &super::set::FileEntry| Some(PathBuf::from("one"));
    assert!(matches!(
        reader.extract(&body, target.path(), twice, &Quiet::default()).await,
        Err(RepoError::Taken { .. })
    ));
}

fn stretch(estate: &Estate, from: u64, to: u64, acme_bytes: usize) -> NewStretch {
    let wal = Wal {
        last_record: Some(Lsn(to - 1)),
        last_commit_time: Some(jiff::Timestamp::UNIX_EPOCH),
        commits: 3,
        bindings: vec![Binding { oid: DbOid(16384), scope: acme(), from_lsn: Lsn(0), to_lsn: None }],
        ..estate.wal(from, to)
    };
    let members = vec![(cluster(), noise(from, 1000)), (acme(), noise(to, acme_bytes)), (globex(), noise(9, 50))];
    let (cluster, source, locked_until) = (cluster(), "main".into(), estate.until(35));
    NewStretch { cluster, source, tail: false, wal, members, locked_until }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scope_reads_its_share_of_a_stretch_and_needs_no_other_key() {
    let estate = Estate::new();
    for (from, to, bytes) in [(0, 100, 2 << 20), (100, 200, 10)] {
        estate.writer().write_stretch(stretch(&estate, from, to, bytes)).await.unwrap();
    }
    let listing = estate.reader().stretches(SystemId(7), None).await.unwrap();
    let found = chain(&listing.good);
    assert_eq!((found.windows.len(), found.windows[0].to), (1, Lsn(200)));
    assert!(found.unlinked.is_empty() && found.forks.is_empty());
    std::fs::remove_file(estate.folder.path().join("keys/tenant/globex/1.age")).unwrap();
    let reader = estate.reader();
    for (at, bytes) in [(0, 2 << 20), (1, 10)] {
        let envelope = &listing.good[at];
        let to = envelope.wal.as_ref().unwrap().to.0;
        assert_eq!(reader.span(envelope, &acme()).await.unwrap().unwrap(), noise(to, bytes));
        assert!(reader.span(envelope, &globex()).await.is_err());
        assert_eq!(reader.span(envelope, &Scope::Spare(1)).await.unwrap(), None);
    }
    let own = estate.memory.names().into_iter().filter(|name| name.starts_with("tenant/acme/wal/")).count();
    assert_eq!(own, 1, "only the large share is an object of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_a_bundle_or_a_span_is_named() {
    let estate = Estate::new();
    let stored = estate.writer().write_stretch(stretch(&estate, 0, 100, 2 << 20)).await.unwrap();
    for (part, scope) in [(".bundle.tar", cluster()), (".span.zst.age", acme())] {
        let object = estate.named(part);
        let whole = estate.memory.snapshot();
        estate.damage(&object, |bytes| bytes[600] ^= 1);
        let failure: Failure = estate.reader().span(&stored.envelope, &scope).await.unwrap_err().into();
        assert_eq!((failure.kind, failure.object.as_str()), (Kind::Integrity, object.as_str()));
        estate.drop_object(&object);
        let failure: Failure = estate.reader().span(&stored.envelope, &scope).await.unwrap_err().into();
        assert_eq!((failure.kind, failure.object.as_str()), (Kind::Integrity, object.as_str()));
        estate.memory.roll_back(&whole);
        assert!(estate.reader().span(&stored.envelope, &scope).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stretch_can_be_tried_again_whatever_happened_to_the_first_attempt() {
    for call in 1..30 {
        for done in [false, true] {
            let estate = Estate::new();
            let failing = Arc::new(Failing::new(estate.memory.clone(), vec![Fault::Crash { call, done }]));
            let first = estate.writer_to(failing.clone()).write_stretch(stretch(&estate, 0, 100, 2 << 20)).await;
            estate.clock.advance(SignedDuration::from_secs(1));
            let second = estate.writer().write_stretch(stretch(&estate, 0, 100, 2 << 20)).await.unwrap();
            assert!(first.is_err() || second.was_there, "call {call}");
            let listing = estate.reader().stretches(SystemId(7), None).await.unwrap();
            assert!(listing.bad.is_empty());
            assert_eq!(listing.good.len(), 1, "call {call}");
            assert_eq!(estate.reader().span(&listing.good[0], &acme()).await.unwrap().unwrap(), noise(100, 2 << 20));
            if first.is_ok() && failing.calls() < call {
                return;
            }
        }
    }
    panic!("the stretch was never written without a crash");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_got_lost_is_not_a_second_stretch() {
    let estate = Estate::new();
    let lost = Fault::DoneButUnanswered { op: Op::Put, nth: 4, answer: Answer::Unreachable };
    let writer = estate.writer_to(Arc::new(Failing::new(estate.memory.clone(), vec![lost])));
    assert!(writer.write_stretch(stretch(&estate, 0, 100, 2 << 20)).await.is_err());
    assert!(writer.write_stretch(stretch(&estate, 0, 100, 2 << 20)).await.unwrap().was_there);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_wal_at_the_same_range_is_refused() {
    let estate = Estate::new();
    estate.writer().write_stretch(stretch(&estate, 0, 100, 10)).await.unwrap();
    let mut other = stretch(&estate, 0, 100, 10);
    other.wal.commits = 4;
    let error = estate.writer().write_stretch(other).await.unwrap_err();
    assert!(matches!(error, RepoError::Fork { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_is_three_objects_however_large_its_shares_are() {
    let estate = Estate::new();
    estate.writer().write_stretch(stretch(&estate, 0, 100, 10)).await.unwrap();
    let before = estate.memory.names().len();
    let tail = NewStretch { tail: true, ..stretch(&estate, 100, 200, 2 << 20) };
    let tail = estate.writer().write_stretch(tail).await.unwrap();
    assert_eq!(estate.memory.names().len() - before, 3, "{:?}", estate.memory.names());
    assert_eq!(tail.envelope.objects.len(), 1);
    assert_eq!(estate.reader().span(&tail.envelope, &acme()).await.unwrap().unwrap(), noise(200, 2 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn tails_are_a_chain_of_their_own() {
    let estate = Estate::new();
    let writer = estate.writer();
    let stretch_one = writer.write_stretch(stretch(&estate, 0, 100, 10)).await.unwrap();
    let tail = |from, to| NewStretch { tail: true, ..stretch(&estate, from, to, 10) };
    let first = writer.write_stretch(tail(100, 110)).await.unwrap();
    let second = estate.writer().write_stretch(tail(110, 120)).await.unwrap();
    let stretch_two = estate.writer().write_stretch(stretch(&estate, 100, 120, 10)).await.unwrap();
    assert_eq!(first.envelope.previous, None);
    assert_eq!(second.envelope.previous, Some(first.envelope.link()));
    assert_eq!(stretch_two.envelope.previous, Some(stretch_one.envelope.link()));
    let listing = estate.reader().stretches(SystemId(7), None).await.unwrap();
    assert_eq!(chain(&listing.good).windows[0].members.len(), 2, "stretches are preferred");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_holds_its_sets_and_wal_as_long_as_itself() {
    let estate = Estate::new();
    let set = estate.backup(acme(), &files()).await;
    let wal = estate.writer().write_stretch(stretch(&estate, 0, 100, 2 << 20)).await.unwrap();
    let locked_until = estate.until(400);
    let (body, facts) = (serde_json::json!({"lsn": "0/64"}), serde_json::json!({"class": "monthly"}));
    let (sets, stretches) = (vec![set.envelope.reference()], vec![wal.envelope.reference()]);
    let new = NewPoint { scope: acme(), sets, stretches, body: body.clone(), facts, locked_until };
    let point = estate.writer().write_point(new).await.unwrap();
    for name in estate.memory.names() {
        assert!(estate.locked_until(&name) >= locked_until, "{name} is outlived by the point");
    }
    let reader = estate.reader();
    let listed = reader.envelopes(&acme(), What::Points).await.unwrap().good.remove(0);
    assert_eq!((listed.link(), reader.point_body(&listed).await.unwrap()), (point.link(), body));
    let named = reader.envelope(listed.object("main/").map_or(&listed.objects[1], |o| o)).await.unwrap();
    assert_eq!(named.link(), set.envelope.link());
    let later = estate.until(500);
    estate.writer().extend_envelope(&listed, later).await.unwrap();
    for name in estate.memory.names() {
        assert!(estate.locked_until(&name) >= later, "{name} was not extended with the point");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_recovered_with_the_standard_tools_alone() {
    let estate = Estate::new();
    let stored = estate.backup(acme(), &files()).await;
    let folder = estate.folder.path();
    for name in estate.memory.names() {
        let path = folder.join("bucket").join(&name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, estate.bytes(&name)).unwrap();
    }
    let script = include_str!("../../docs/recover-set.sh");
    std::fs::write(folder.join("recover-set.sh"), script).unwrap();
    let out = std::process::Command::new("bash")
        .arg("recover-set.sh")
        .args(["bucket", &stored.envelope_name, "keys/tenant/acme/1.age", "signers", "out"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for (path, content) in files() {
        assert!(std::fs::read(folder.join("out").join(path)).unwrap() == content, "{path}");
    }
}
