//! What each level notices, kind of object by kind of damage; and what none of them may cry about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::ids::{Digest, Lsn};
use crate::repo::envelope::{Envelope, ObjectRef, Verified, Wal};
use crate::repo::name;
use crate::repo::sign::sign;
use crate::repo::stretch::NewStretch;
use crate::repo::testing::{Estate, acme, cluster, fill, globex, noise};
use crate::repo::writer::{NewPoint, Writer};
use crate::store::counting::Counting;
use crate::store::memory::MemoryStore;
use crate::store::{Listed, Store};
use crate::watch::Quiet;

/// A repository with every kind of object in it, in a store that attackers reach.
struct Ground {
    estate: Estate,
    store: Arc<MemoryStore>,
    sets: Vec<Verified>,
    stretches: Vec<Verified>,
}

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

impl Ground {
    async fn new() -> Self {
        let estate = Estate::new();
        let store = Arc::new(MemoryStore::not_create_only(estate.clock.clone()));
        let mut ground = Self { estate, store, sets: Vec::new(), stretches: Vec::new() };
        let writer = ground.writer();
        for (scope, seed) in [(acme(), 1), (acme(), 2), (globex(), 3)] {
            ground.set(&writer, scope, seed).await;
        }
        for (from, tail) in [(0, false), (100, false), (200, true)] {
            ground.stretch(&writer, from, tail).await;
        }
        let point = NewPoint {
            scope: acme(),
            sets: vec![ground.sets[1].reference()],
            stretches: vec![ground.stretches[1].reference()],
            body: serde_json::json!({ "tenant": "acme" }),
            facts: serde_json::Value::Null,
            locked_until: ground.estate.until(35),
        };
        writer.write_point(point).await.unwrap();
        ground.estate.clock.advance(MINUTE);
        ground
    }

    fn writer(&self) -> Writer {
        self.estate.writer_to(self.store.clone())
    }

    async fn set(&mut self, writer: &Writer, scope: crate::ids::Scope, seed: u64) {
        self.estate.clock.advance(MINUTE);
        let set = writer.begin_set(self.estate.new_set(scope), &Quiet::default()).await.unwrap();
        let files = [("a", noise(seed, 300 << 10)), ("b", noise(seed + 100, 1000)), ("zeros", vec![0; 200 << 10])];
        let set = fill(set, &files).await.finish(serde_json::Value::Null).await.unwrap();
        self.sets.push(set.envelope);
    }

    async fn stretch(&mut self, writer: &Writer, from: u64, tail: bool) {
        self.estate.clock.advance(MINUTE);
        let new = stretch(&self.estate, from, from + 100, tail);
        self.stretches.push(writer.write_stretch(new).await.unwrap().envelope);
    }

    fn reader(&self) -> Reader {
        self.estate.reader_of(self.store.clone(), Some(&self.estate.folder.path().join("keys")))
    }

    fn keyless(&self) -> Reader {
        self.estate.reader_of(self.store.clone(), None)
    }

    /// Level 0 and 1 without a key, level 2 with all.
    async fn verify(&self, level: Level) -> Report {
        let reader = if level == Level::Contents { self.reader() } else { self.keyless() };
        run(&reader, &options(level), &Quiet::default()).await.unwrap()
    }

    fn only(&self, name: &str) -> Listed {
        let mut found = self.store.listed(name);
        found.retain(|listed| listed.name == name);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found.remove(0)
    }

    /// The first name that ends so.
    fn named(&self, suffix: &str) -> String {
        let name = self.store.names().into_iter().find(|name| name.ends_with(suffix));
        name.unwrap_or_else(|| panic!("nothing ends with {suffix}"))
    }

    fn drop_object(&self, name: &str) {
        assert!(self.store.drop_version(name, &self.only(name).version));
    }

    fn alter(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.store.alter(name, &self.only(name).version, change));
    }

    /// Puts an envelope of the writer's, changed by `change`, in its own place, signed.
    async fn resign(&self, envelope: &Verified, change: impl FnOnce(&mut Envelope)) {
        let mut changed = envelope.envelope.clone();
        change(&mut changed);
        let bytes = changed.to_bytes().unwrap();
        let signature = sign(&self.estate.ceremony.bundle.signing, &bytes).unwrap();
        self.alter(&envelope.name, |b| *b = bytes);
        self.alter(&name::signature(&envelope.name), |b| *b = signature.into());
    }
}

fn stretch(estate: &Estate, from: u64, to: u64, tail: bool) -> NewStretch {
    let wal = Wal { last_record: Some(Lsn(to - 1)), commits: 3, ..estate.wal(from, to) };
    let members = vec![(cluster(), noise(from, 1000)), (acme(), noise(to, 1 << 20)), (globex(), noise(9, 50))];
    NewStretch { cluster: cluster(), source: "main".into(), tail, wal, members, locked_until: estate.until(35) }
}

fn shortest() -> Shortest {
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    Shortest { point: days(35), stretch: days(35), tail: days(7) }
}

fn options(level: Level) -> Options {
    Options {
        level,
        part: Part::All,
        not_since: None,
        scopes: BTreeSet::new(),
        shortest: shortest(),
        last_read: LastRead::new(),
        seen: Vec::new(),
        knows: Knows {
            span: Arc::new(|_, _, plain| if plain.is_empty() { Err("an empty share".into()) } else { Ok(()) }),
            point: Arc::new(|body| body["tenant"].as_str().map(|_| ()).ok_or_else(|| "no tenant".to_owned())),
        },
    }
}

fn whats(report: &Report) -> Vec<What> {
    report.findings.iter().map(|finding| finding.what).collect()
}

const LEVELS: [Level; 3] = [Level::Listing, Level::Bytes, Level::Contents];

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_repository_is_found_whole_and_only_what_was_looked_at_is_counted() {
    let ground = Ground::new().await;
    let packs = ground.store.names().iter().filter(|name| name.contains("/packs/")).count();
    // Chunk maps, bodies, the point's; spans and bundles; and the two envelopes that the point names.
    let objects = packs as u64 + 3 + 3 + 1 + 2 + 3 + 2;
    for level in LEVELS {
        let report = ground.verify(level).await;
        assert_eq!(report.findings, [], "{level:?}");
        assert_eq!((report.counts.envelopes, report.counts.lapsed), (7, 0));
        assert_eq!((report.counts.named.objects, report.counts.unnamed), (objects, Amount::default()));
        let read = if level == Level::Listing { 0 } else { objects - 2 };
        assert_eq!(report.counts.right.objects, read, "{level:?}");
        assert_eq!(report.counts.opened.objects, if level == Level::Contents { packs as u64 + 3 + 1 + 9 } else { 0 });
        let maps = report.counts.not_opened.get("the writer").map(|amount| amount.objects);
        assert_eq!(maps, (level == Level::Contents).then_some(3));
        assert_eq!(report.newest, Some(ground.estate.clock.now() - MINUTE));
    }
}

/// The kinds of objects, by how their names end.
const KINDS: [&str; 10] = [
    ".tar.zst.age",
    ".body.jsonl.zst.age",
    ".chunks.age",
    ".span.zst.age",
    ".bundle.tar",
    ".body.json.zst.age",
    "sets/main/{set}.envelope.json",
    "wal/{stretch}.envelope.json",
    "sets/main/{set}.envelope.json.sig",
    "wal/{stretch}.envelope.json.sig",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_to_every_kind_of_object_is_noticed_from_its_level_on_and_named() {
    let ground = Ground::new().await;
    let whole = ground.store.snapshot();
    for kind in KINDS {
        let name = match kind.split_once('{') {
            None => ground.named(kind),
            Some(("sets/main/", rest)) => {
                ground.sets[1].name.clone() + rest.strip_prefix("set}.envelope.json").unwrap()
            }
            Some((_, rest)) => ground.stretches[1].name.clone() + rest.strip_prefix("stretch}.envelope.json").unwrap(),
        };
        let is_envelope = name.contains(".envelope.json");
        for (way, first) in [("removed", 0), ("cut", 0), ("flipped", 1), ("swapped", 1), ("older", 1)] {
            match way {
                "removed" => ground.drop_object(&name),
                "cut" => ground.alter(&name, |bytes| bytes.truncate(bytes.len() - 20)),
                "flipped" => ground.alter(&name, |bytes| bytes[30] ^= 1),
                "swapped" => ground.alter(&name, |bytes| *bytes = noise(77, bytes.len())),
                _ => ground.alter(&name, |bytes| bytes.rotate_left(7)),
            }
            let first = if is_envelope { 0 } else { first };
            for level in LEVELS {
                let report = ground.verify(level).await;
                let at = format!("{kind} {way} at level {level:?}: {:#?}", report.findings);
                assert_eq!(report.grade(), (level as u8 >= first).then_some(Grade::Damage), "{at}");
                let about = name.trim_end_matches(".sig");
                let says = |f: &Finding| f.object.contains(about) || f.detail.contains(about);
                assert!((level as u8) < first || report.findings.iter().any(says), "{at}");
            }
            ground.store.roll_back(&whole);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_and_sealed_and_still_nonsense_is_noticed_by_opening_it() {
    let ground = Ground::new().await;
    let whole = ground.store.snapshot();
    let set = &ground.sets[0];
    let other = ground.sets[2].object(".tar.zst.age").unwrap();
    let body = set.object(".body.jsonl.zst.age").unwrap();
    let other_body = ground.sets[1].object(".body.jsonl.zst.age").unwrap();
    // A pack of globex under acme's name; a body of another set; noise.
    let cases = [
        (set.object(".tar.zst.age").unwrap().clone(), ground.store.get(&other.name, None, None).await.unwrap()),
        (body.clone(), ground.store.get(&other_body.name, None, None).await.unwrap()),
        (body.clone(), Bytes::from(noise(5, 5000))),
    ];
    for (object, bytes) in cases {
        ground.alter(&object.name, |b| *b = bytes.to_vec());
        let changed = ObjectRef { sha256: Digest::of(&bytes), bytes: bytes.len() as u64, ..object.clone() };
        for envelope in [&ground.sets[0], &ground.sets[1]] {
            let again = changed.clone();
            ground
                .resign(envelope, |e| {
                    e.objects.iter_mut().filter(|o| o.name == again.name).for_each(|o| *o = again.clone());
                })
                .await;
        }
        let (bytes, contents) = (ground.verify(Level::Bytes).await, ground.verify(Level::Contents).await);
        let of =
            |report: &Report| report.findings.iter().any(|f| f.object == object.name && f.what == What::Unopenable);
        assert!(!of(&bytes) && of(&contents), "{}: {:#?}", object.name, contents.findings);
        ground.store.roll_back(&whole);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_contradicts_its_stretch_is_noticed_by_those_who_know() {
    let ground = Ground::new().await;
    let mut options = options(Level::Contents);
    options.knows.span = Arc::new(|wal, scope, _| {
        if (wal.from, scope) == (Lsn(100), &globex()) { Err("an extent lies outside".to_owned()) } else { Ok(()) }
    });
    let report = run(&ground.reader(), &options, &Quiet::default()).await.unwrap();
    assert_eq!(whats(&report), [What::Unopenable]);
    assert!(report.findings[0].detail.contains("tenant/globex") && report.findings[0].detail.contains("outside"));
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_or_a_delete_marker_on_top_is_healed_and_said_with_the_name() {
    let ground = Ground::new().await;
    let whole = ground.store.snapshot();
    for kind in [".tar.zst.age", ".bundle.tar", ".chunks.age", ".body.json.zst.age"] {
        let name = ground.named(kind);
        let bytes = ground.only(&name).bytes as usize;
        for (way, first) in [("marker", 0), ("longer", 0), ("same size", 1)] {
            match way {
                "marker" => ground.store.mark_deleted(&name),
                "longer" => drop(ground.store.overwrite(&name, noise(1, bytes + 1), ground.estate.until(99))),
                _ => drop(ground.store.overwrite(&name, noise(1, bytes), ground.estate.until(99))),
            }
            for level in LEVELS {
                let report = ground.verify(level).await;
                let healed = report.findings.iter().any(|f| f.what == What::Healed && f.object == name);
                assert_eq!(healed, level as u8 >= first, "{name} {way} {level:?}: {:#?}", report.findings);
                assert_ne!(report.grade(), Some(Grade::Damage), "{name} {way} {level:?}: {:#?}", report.findings);
            }
            ground.store.roll_back(&whole);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_outlives_what_it_names_is_noticed() {
    let ground = Ground::new().await;
    let whole = ground.store.snapshot();
    let set = &ground.sets[0];
    let envelope = ground.only(&set.name);
    // Longer than the objects' slack of a day.
    ground.store.extend(&set.name, &envelope.version, ground.estate.until(40)).await.unwrap();
    let report = ground.verify(Level::Listing).await;
    let short: BTreeSet<&str> = report.findings.iter().map(|finding| finding.object.as_str()).collect();
    let mut expected: BTreeSet<&str> = set.objects.iter().map(|object| object.name.as_str()).collect();
    let signature = name::signature(&set.name);
    expected.insert(&signature);
    assert_eq!(short, expected);
    assert!(whats(&report).iter().all(|what| *what == What::ShortLock));
    // With the objects extended, and the signature, all is well.
    for name in expected {
        let listed = ground.only(name);
        ground.store.extend(name, &listed.version, ground.estate.until(41)).await.unwrap();
    }
    assert_eq!(ground.verify(Level::Listing).await.findings, []);
    // A forged version with a long lock does not stand in for the right one, once bytes are read.
    ground.store.roll_back(&whole);
    let version = ground.only(&set.name).version;
    ground.store.extend(&set.name, &version, ground.estate.until(40)).await.unwrap();
    for object in &set.objects {
        drop(ground.store.overwrite(&object.name, noise(1, object.bytes as usize), ground.estate.until(99)));
    }
    let report = ground.verify(Level::Bytes).await;
    let short = report.findings.iter().filter(|finding| finding.what == What::ShortLock);
    assert_eq!(short.count(), set.objects.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_shorter_than_the_envelope_says_is_noticed() {
    let ground = Ground::new().await;
    let before = ground.store.snapshot();
    ground.writer().extend_envelope(&ground.sets[0], ground.estate.until(70)).await.unwrap();
    let set = ground.sets[0].clone();
    ground.resign(&set, |envelope| envelope.locked_until = ground.estate.until(70)).await;
    assert_eq!(
        ground.verify(Level::Listing).await.grade(),
        Some(Grade::Damage),
        "the next link does not hold any more"
    );
    ground.store.roll_back(&before);
    ground.resign(&set, |envelope| envelope.locked_until = ground.estate.until(70)).await;
    let report = ground.verify(Level::Listing).await;
    assert!(
        report.findings.iter().any(|f| f.what == What::ShortLock && f.object == set.name),
        "{:#?}",
        report.findings
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_counts_as_a_lock_without_end_and_asks_for_what_it_covers() {
    let ground = Ground::new().await;
    let set = &ground.sets[1];
    ground.estate.clock.advance(SignedDuration::from_hours(24 * 60));
    assert_eq!(ground.verify(Level::Listing).await.findings, [], "all has lapsed, nothing is asked for");
    let envelope = ground.only(&set.name);
    ground.store.hold(&set.name, &envelope.version, true).await.unwrap();
    let report = ground.verify(Level::Listing).await;
    assert!(report.findings.iter().all(|f| f.what == What::ShortLock));
    assert!(!report.findings.is_empty());
    for name in set.objects.iter().map(|o| o.name.clone()).chain([name::signature(&set.name)]) {
        let version = ground.only(&name).version;
        ground.store.hold(&name, &version, true).await.unwrap();
    }
    assert_eq!(ground.verify(Level::Listing).await.findings, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_taken_out_of_a_chain_is_told_apart_from_one_that_has_lapsed() {
    let mut ground = Ground::new().await;
    let first = ground.sets[0].clone();
    ground.drop_object(&first.name);
    ground.drop_object(&name::signature(&first.name));
    let report = ground.verify(Level::Listing).await;
    assert_eq!(whats(&report), [What::BrokenLink]);
    assert_eq!(report.findings[0].object, ground.sets[1].name);
    assert!(report.findings[0].detail.contains(&first.name));
    // Thirty-six days later it has lapsed, like its successor; a new set keeps the chain.
    ground.estate.clock.advance(SignedDuration::from_hours(24 * 36));
    let writer = ground.writer();
    ground.set(&writer, acme(), 50).await;
    assert_eq!(ground.verify(Level::Listing).await.findings, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_envelope_taken_away_is_noticed_by_whoever_saw_it() {
    let ground = Ground::new().await;
    let newest = ground.sets[2].clone();
    ground.drop_object(&newest.name);
    let report = ground.verify(Level::Listing).await;
    assert_eq!(whats(&report), [What::Unfinished], "its signature alone is no proof that it was committed");
    ground.drop_object(&name::signature(&newest.name));
    assert_eq!(ground.verify(Level::Listing).await.findings, [], "without a witness nobody can tell");
    let seen = |locked_until| Seen { name: newest.name.clone(), sha256: newest.digest, locked_until };
    let mut options = options(Level::Listing);
    options.seen = vec![seen(ground.estate.until(34))];
    let report = run(&ground.keyless(), &options, &Quiet::default()).await.unwrap();
    assert_eq!((whats(&report), &report.findings[0].object), (vec![What::TakenAway], &newest.name));
    options.seen = vec![seen(ground.estate.clock.now())];
    let report = run(&ground.keyless(), &options, &Quiet::default()).await.unwrap();
    assert_eq!(report.findings, [], "it had lapsed");
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_is_missing_between_two_windows_is_a_gap_and_two_stories_are_a_fork() {
    let mut ground = Ground::new().await;
    let writer = ground.writer();
    ground.stretch(&writer, 400, false).await;
    let report = ground.verify(Level::Listing).await;
    assert_eq!(whats(&report), [What::Gap]);
    assert!(report.findings[0].detail.contains("0/12C to 0/190"), "{}", report.findings[0].detail);
    // The missing piece comes, and with it another that says something else of the last.
    ground.stretch(&writer, 300, false).await;
    assert_eq!(ground.verify(Level::Listing).await.findings, []);
    let mut other = stretch(&ground.estate, 350, 450, false);
    other.wal.commits = 4;
    writer.write_stretch(other).await.unwrap();
    let report = ground.verify(Level::Listing).await;
    assert!(whats(&report).contains(&What::ForkedWal), "{:#?}", report.findings);
    assert_eq!(report.grade(), Some(Grade::Damage));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_at_once_leave_a_fork_that_is_said_and_harms_nobody() {
    let mut ground = Ground::new().await;
    let (one, two) = (ground.writer(), ground.writer());
    let begin = |writer: &Writer| writer.clone();
    let first = begin(&one).begin_set(ground.estate.new_set(globex()), &Quiet::default()).await.unwrap();
    let second = begin(&two).begin_set(ground.estate.new_set(globex()), &Quiet::default()).await.unwrap();
    ground.sets.push(fill(first, &[("x", noise(1, 10))]).await.finish(serde_json::Value::Null).await.unwrap().envelope);
    // The second has looked its head up before: as another process would.
    two.write_point(NewPoint {
        scope: globex(),
        sets: Vec::new(),
        stretches: Vec::new(),
        body: serde_json::json!({ "tenant": "globex" }),
        facts: serde_json::Value::Null,
        locked_until: ground.estate.until(35),
    })
    .await
    .unwrap();
    drop(fill(second, &[("x", noise(2, 10))]).await.finish(serde_json::Value::Null).await.unwrap());
    let report = ground.verify(Level::Contents).await;
    assert!(report.grade() <= Some(Grade::Warning), "{:#?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_whose_set_is_not_the_one_it_was_made_with_is_noticed() {
    let ground = Ground::new().await;
    let set = ground.sets[1].clone();
    ground.resign(&set, |envelope| envelope.facts = serde_json::json!({ "x": 1 })).await;
    let report = ground.verify(Level::Listing).await;
    assert!(report.findings.iter().any(|f| f.object == set.name && f.grade == Grade::Damage), "{:#?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_names_is_counted_and_is_no_error() {
    let ground = Ground::new().await;
    let put = |name: &str, bytes: &'static [u8]| {
        let (store, name, until) = (ground.store.clone(), name.to_owned(), ground.estate.until(1));
        async move { store.put(&name, Bytes::from_static(bytes), until).await.unwrap() }
    };
    put("tenant/acme/README.txt", b"how to").await;
    put(&name::pack(&acme(), Digest::of(b"x")), b"left").await;
    let report = ground.verify(Level::Bytes).await;
    assert_eq!((report.findings.as_slice(), report.counts.unnamed), (&[][..], Amount { objects: 2, bytes: 10 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_to_others_is_listed_and_never_counted_as_opened() {
    let ground = Ground::new().await;
    let keys = ground.estate.folder.path().join("keys");
    std::fs::remove_dir_all(keys.join("tenant/globex")).unwrap();
    std::fs::remove_dir_all(keys.join("cluster")).unwrap();
    let report = ground.verify(Level::Contents).await;
    assert_eq!(report.findings, []);
    let closed: BTreeSet<&str> = report.counts.not_opened.keys().map(String::as_str).collect();
    assert_eq!(closed, BTreeSet::from(["cluster/main", "tenant/globex", "the writer"]));
    // Globex's body, packs and three shares.
    let packs = ground.store.names().iter().filter(|name| name.starts_with("tenant/globex/packs/")).count() as u64;
    assert_eq!(report.counts.not_opened["tenant/globex"].objects, 1 + packs + 3);
    let none = run(&ground.keyless(), &options(Level::Contents), &Quiet::default()).await.unwrap();
    assert_eq!((none.counts.opened, none.findings.as_slice()), (Amount::default(), &[][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_scope_is_verified_without_touching_anothers_prefix() {
    let ground = Ground::new().await;
    let counting = Arc::new(Counting::new(ground.store.clone()));
    let reader = ground.estate.reader_of(counting.clone(), Some(&ground.estate.folder.path().join("keys")));
    let mut options = options(Level::Contents);
    options.scopes = BTreeSet::from([acme()]);
    let report = run(&reader, &options, &Quiet::default()).await.unwrap();
    assert_eq!(report.findings, []);
    assert!(report.counts.opened.objects > 4);
    for call in counting.calls() {
        let name = call.name;
        assert!(
            name.is_empty() && call.op == crate::store::counting::Op::Now
                || name.starts_with("tenant/acme/")
                || name.starts_with("wal/"),
            "{name}"
        );
    }
    assert_eq!(reader.identities.opened(), BTreeSet::from([acme()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_round_read_every_object_exactly_once() {
    let ground = Ground::new().await;
    let all = ground.verify(Level::Bytes).await.counts.right.objects;
    let mut read: BTreeMap<String, u32> = BTreeMap::new();
    let mut options = options(Level::Bytes);
    for number in 1..=3 {
        options.part = Part::Nth { number, of: 3 };
        for checked in run(&ground.keyless(), &options, &Quiet::default()).await.unwrap().read {
            *read.entry(checked.name).or_default() += 1;
        }
    }
    assert_eq!(read.len() as u64, all);
    assert!(read.values().all(|times| *times == 1));
    // What the caller remembers as read lately is not read again.
    let now: Timestamp = ground.estate.clock.now();
    options.part = Part::All;
    options.last_read = read.into_keys().skip(1).map(|name| (name, now)).collect();
    options.not_since = Some(now - MINUTE);
    assert_eq!(run(&ground.keyless(), &options, &Quiet::default()).await.unwrap().read.len(), 1);
}
