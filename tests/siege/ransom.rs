//! Somebody with the writer's and the janitor's credentials, and root on the backup host: everything that he tries.
//!
//! He has the writer bundle (its signing key, its chunk-map identity, the hash keys), may put objects (on top of others too), extend locks, lay delete
//! markers and remove what no lock holds. He has no key that opens data, no second copy, no keys store, and cannot go behind the store's back.
//!
//! Shown: what was committed before he came restores exactly, to the byte, inside its retention, once his signing key is revoked; until then a restore is
//! right or refused by name. He reads nothing. What must alarm, does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use lifeboat::authority::key_name::KeyName;
use lifeboat::authority::key_stores::{Held, Inventory};
use lifeboat::authority::upkeep::{self, Keep, Known};
use lifeboat::backup::base;
use lifeboat::config::When;
use lifeboat::failure::Kind;
use lifeboat::ids::{Digest, Lsn, Scope};
use lifeboat::repo::chunk_map::ChunkMap;
use lifeboat::repo::envelope::{Envelope, EnvelopeKind, ObjectRef, Verified};
use lifeboat::repo::identities::Identities;
use lifeboat::repo::key::WriterBundle;
use lifeboat::repo::name::{PointName, PointPart, SetName, SetPart, Stamp, signature};
use lifeboat::repo::reader::{Reader, What};
use lifeboat::repo::sign::sign;
use lifeboat::repo::verify::{Grade, Level, Report, Seen, What as Wrong};
use lifeboat::repo::{expire, seal};
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{LockState, Store, StoreError};
use lifeboat::watch::Quiet;
use ssh_key::private::Ed25519Keypair;

use super::commands::{Answer, Stores, restore, verify_with};
use super::ground::{DAILY, DAY, Ground, HOUR, TAILS, acme, expiring, globex, noise};

/// What he has.
struct Thief {
    store: Arc<MemoryStore>,
    bundle: Arc<WriterBundle>,
}

impl Thief {
    fn of(ground: &Ground) -> Self {
        Self { store: ground.store.clone(), bundle: Arc::clone(&ground.bundle) }
    }

    async fn put(&self, name: String, bytes: Vec<u8>, until: Timestamp) -> ObjectRef {
        let (sha256, length) = (Digest::of(&bytes), bytes.len() as u64);
        self.store.overwrite(&name, bytes, until);
        ObjectRef { name, sha256, bytes: length, locked_until: until }
    }

    /// Signs what he likes, and puts it where it belongs.
    async fn commit(&self, envelope: &Envelope) {
        let bytes = envelope.to_bytes().unwrap();
        let signed = sign(&self.bundle.signing, &bytes).unwrap();
        let until = envelope.locked_until;
        self.put(signature(&envelope.name), signed.into_bytes(), until).await;
        self.put(envelope.name.clone(), bytes, until).await;
    }

    /// Every version, by the janitor's right; gives how many went.
    async fn remove_all(&self) -> usize {
        let mut gone = 0;
        for listed in self.store.listed("") {
            match self.store.remove(&listed.name, &listed.version).await {
                Ok(()) => gone += 1,
                Err(StoreError::Locked { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        gone
    }
}

/// A ground on a store that lets names be put again, as S3 does, with everything that can be restored of it.
async fn before_the_theft() -> (Ground, Truth) {
    let mut ground = Ground::on(|clock| MemoryStore::not_create_only(clock.clone()));
    ground.live().await;
    let truth = Truth::of(&ground).await;
    (ground, truth)
}

/// What each moment restores to.
struct Truth(Vec<(Lsn, Answer)>);

impl Truth {
    async fn of(ground: &Ground) -> Self {
        let mut moments: Vec<Lsn> = ground.backups.iter().map(|taken| taken.facts.lsn).collect();
        moments.extend([ground.backups[1].facts.start_lsn, last_stretch(ground), ground.server.at()]);
        let mut truth = Vec::new();
        for lsn in moments {
            truth.push((lsn, restored(ground, lsn).await.unwrap_or_else(|error| panic!("{error:?}"))));
        }
        Self(truth)
    }

    /// Every moment up to `end` restores to the same bytes.
    async fn assert_restores(&self, ground: &Ground, end: Lsn) {
        for (lsn, truth) in self.0.iter().filter(|(lsn, _)| *lsn <= end) {
            let answer = restored(ground, *lsn).await.unwrap_or_else(|error| panic!("{lsn}: {error:?}"));
            assert_eq!(answer, *truth, "{lsn}");
        }
    }
}

fn last_stretch(ground: &Ground) -> Lsn {
    let stretches = ground.stretches.iter().filter(|stretch| !stretch.name.contains("/tail/"));
    stretches.filter_map(|stretch| Some(stretch.wal.as_ref()?.to)).max().unwrap()
}

async fn restored(ground: &Ground, lsn: Lsn) -> Result<Answer, lifeboat::failure::Failure> {
    let stores = Stores { primary: ground.store.clone(), copy: None };
    let ended = restore(ground, &stores, When::Lsn(lsn)).await;
    ended.failure.map_or_else(|| Ok(ended.answer.unwrap()), Err)
}

/// Ends the writer's line of the signers file at `time`.
fn revoke(ground: &Ground, time: Timestamp) {
    let path = ground.path("signers");
    let line = std::fs::read_to_string(&path).unwrap();
    let ends = format!(",valid-before=\"{}\" ssh-ed25519", time.strftime("%Y%m%d%H%M%SZ"));
    let revoked = line.replacen(" ssh-ed25519", &ends, 1);
    assert_ne!(line, revoked);
    std::fs::write(path, revoked).unwrap();
}

/// A new signing key and chunk-map identity for the same scopes, believed from now on.
fn new_writer(ground: &Ground) -> Arc<WriterBundle> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    let signing = ssh_key::PrivateKey::new(Ed25519Keypair::from_seed(&seed).into(), "writer-new").unwrap();
    let line = format!("writer-new namespaces=\"lifeboat-envelope\" {}\n", signing.public_key().to_openssh().unwrap());
    let path = ground.path("signers");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + &line).unwrap();
    let chunk_map = age::x25519::Identity::generate();
    Arc::new(WriterBundle { writer: "writer-new".into(), signing, chunk_map, ..(*ground.bundle).clone() })
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A point of acme's, begun at `at` as he says, that names nothing that is of use.
async fn forged_point(ground: &Ground, thief: &Thief, at: Timestamp, until: Timestamp, lsn: Lsn) {
    let name = PointName { scope: acme(), stamp: Stamp::new(at).unwrap() };
    let body = seal::seal(&ground.bundle.keys(&acme()).unwrap().recipient, 1, b"{}").unwrap();
    let body = thief.put(name.part(PointPart::Body), body, until).await;
    let mut facts = ground.backups[1].facts.clone();
    (facts.lsn, facts.stop_lsn, facts.time, facts.label) = (lsn, lsn, at, "his".into());
    let envelope = Envelope {
        name: name.part(PointPart::Envelope),
        kind: EnvelopeKind::Point,
        scope: acme(),
        source: "acme".into(),
        time: at,
        previous: None,
        locked_until: until,
        objects: vec![body],
        facts: serde_json::to_value(facts).unwrap(),
        ..ground.backups[1].points[&acme()].envelope.clone()
    };
    thief.commit(&envelope).await;
}

/// Everything at once: deletes, markers, junk on top, shortened locks, forgeries, replays, a flood.
async fn rampage(ground: &Ground, thief: &Thief) {
    let (far, now) = (time("9999-01-01T00:00:00Z"), ground.clock.now());
    let old: Vec<_> = thief.store.listed("");
    assert_eq!(thief.remove_all().await, 0, "everything is locked");
    for listed in &old {
        thief.store.extend(&listed.name, &listed.version, now + HOUR).await.ok();
        let bytes = thief.store.get(&listed.name, Some(&listed.version), None).await.unwrap();
        let mut junk = bytes.to_vec();
        let middle = junk.len() / 2;
        junk[middle] ^= 1;
        thief.store.overwrite(&listed.name, junk, far);
        thief.store.overwrite(&listed.name, "pay me", now + HOUR);
        thief.store.mark_deleted(&listed.name);
    }
    // Points of the past and of the future, short and for ever, by the hundred.
    for (at, until) in
        [("2020-01-01T00:00:00Z", far), ("2099-01-01T00:00:00Z", far), ("2026-11-23T07:24:00Z", now + HOUR)]
    {
        forged_point(ground, thief, time(at), until, Lsn(u64::MAX / 4)).await;
    }
    for n in 0..200 {
        forged_point(ground, thief, now + SignedDuration::from_secs(n), far, Lsn(1000 + n as u64)).await;
    }
    // An old envelope as the newest: under a new name, signature and all.
    let taken = &ground.backups[0].points[&acme()];
    let newer = PointName { scope: acme(), stamp: Stamp::new(now).unwrap() }.part(PointPart::Envelope);
    for (from, to) in [(taken.name.clone(), newer.clone()), (signature(&taken.name), signature(&newer))] {
        let listed = old.iter().find(|listed| listed.name == from).unwrap();
        let bytes = thief.store.get(&from, Some(&listed.version), None).await.unwrap();
        thief.put(to, bytes.to_vec(), far).await;
    }
}

/// A stretch that tells other WAL where there is WAL already.
async fn forged_stretch(ground: &Ground, thief: &Thief) {
    let known = ground.stretches.iter().find(|stretch| !stretch.name.contains("/tail/")).unwrap();
    let mut forged = known.envelope.clone();
    let stem = forged.name.trim_end_matches(".envelope.json").to_owned();
    forged.name = format!("{stem}-0badcafe.envelope.json");
    let wal = forged.wal.as_mut().unwrap();
    wal.commits += 1;
    wal.server_clock = Some(time("2099-01-01T00:00:00Z"));
    forged.previous = None;
    thief.commit(&forged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_he_does_every_earlier_point_restores_once_his_key_is_revoked() {
    let (ground, truth) = before_the_theft().await;
    let theft = ground.clock.now();
    ground.clock.advance(HOUR);
    let thief = Thief::of(&ground);
    rampage(&ground, &thief).await;
    // Junk, markers, replays, points of any time: the moments of before restore as they did.
    truth.assert_restores(&ground, ground.server.at()).await;
    // Other WAL at the same place: refused, both named; nothing is guessed.
    forged_stretch(&ground, &thief).await;
    for (lsn, _) in &truth.0 {
        let failure = restored(&ground, *lsn).await.unwrap_err();
        assert_eq!(failure.kind, Kind::Integrity);
        assert!(failure.object.contains("0badcafe"), "{failure:?}");
    }
    let report = verify_with(&ground.reader_with(ground.store.clone(), None), Level::Bytes, Vec::new()).await;
    let said: BTreeSet<Wrong> = report.findings.iter().map(|finding| finding.what).collect();
    for alarm in [Wrong::Healed, Wrong::NotBelieved, Wrong::ForkedWal] {
        assert!(said.contains(&alarm), "{alarm:?} is not among {said:?}");
    }
    assert_eq!(report.grade(), Some(Grade::Damage));
    eprintln!("verify said: {said:?}, {} findings", report.findings.len());
    // He is revoked as of the theft: signers are judged by the time at which the store got what they signed.
    revoke(&ground, theft);
    truth.assert_restores(&ground, ground.server.at()).await;
    let listing = ground.reader().envelopes(&acme(), What::Points).await.unwrap();
    assert_eq!(listing.good.len(), 2, "no point of his counts, whatever time it claims");
    assert!(listing.bad.len() > 200, "and each is named");
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_days_without_renewals_cost_no_point_and_alarm() {
    let (ground, truth) = before_the_theft().await;
    let thief = Thief::of(&ground);
    let theft = ground.clock.now();
    let last_key_renewal = theft;
    // What verify remembers of the days before.
    let seen = seen(&verify_with(&ground.reader_with(ground.store.clone(), None), Level::Bytes, Vec::new()).await);
    assert!(seen.iter().any(|seen| seen.name.contains("/tail/")));
    let mut all = 0;
    // He stops everything, and takes away each day what no lock holds any more.
    for day in 1..=30 {
        ground.clock.advance(DAY);
        let gone = thief.remove_all().await;
        assert!(gone == 0 || day >= TAILS, "day {day}: {gone} versions");
        all += gone;
        if day < TAILS {
            truth.assert_restores(&ground, ground.server.at()).await;
        }
    }
    assert!(all > 0, "tails went when their locks had run out");
    // Tails are locked for a week; stretches and what points name, for the whole window.
    truth.assert_restores(&ground, last_stretch(&ground)).await;
    let now = ground.clock.now();
    // status: what is at risk, by the server's clock at the end of the stored WAL.
    let reader = ground.reader_with(ground.store.clone(), None);
    let stored = lifeboat::point::stored::Stored::read(&reader, &[acme()]).await.unwrap();
    let clock = stored.runs.iter().filter_map(|run| run.run.clock()).max().unwrap();
    assert!(now.duration_since(clock) > DAY * 29, "what status reckons from says that nothing came since");
    // verify, which remembers what it saw: the tails went when their time had come, and nothing that should be there is missing.
    let report = verify_with(&reader, Level::Bytes, seen).await;
    assert!(report.findings.iter().all(|finding| finding.grade == Grade::Warning), "{:#?}", report.findings);
    // The locks of key files, which nobody renewed: spoken of within two days, and not only when they have lapsed.
    for (days, word) in [(1, None), (3, Some("not renewed when due")), (31, Some("have no lock any more"))] {
        let said = key_findings(last_key_renewal, last_key_renewal + DAY * days);
        match word {
            None => assert!(said.is_empty(), "{said:?}"),
            Some(word) => assert!(said.iter().any(|what| what.contains(word)), "{days} days: {said:?}"),
        }
    }
}

/// What a machine remembers of what it read, as its catalog keeps it.
fn seen(report: &Report) -> Vec<Seen> {
    let verified = report.envelopes.iter().map(|read| &read.verified);
    let row = |one: &Verified| Seen { name: one.name.clone(), sha256: one.digest, locked_until: one.locked_until };
    verified.map(row).collect()
}

/// What is said about a key file whose lock of 30 days was last renewed then.
fn key_findings(renewed: Timestamp, now: Timestamp) -> Vec<String> {
    let lock = DAY * 30;
    let state = LockState { retained_until: Some(renewed + lock), held: false };
    let held = Held { versions: Vec::new(), lock: state };
    let name = KeyName::Scope { scope: acme(), epoch: 1 };
    let both = BTreeMap::from([("one".to_owned(), held.clone()), ("two".to_owned(), held)]);
    let inventory = Inventory::from([(name, both)]);
    let stores = ["one".to_owned(), "two".to_owned()];
    let (sealed, proofs) = (BTreeMap::new(), BTreeMap::new());
    let known = Known {
        inventory: &inventory,
        stores: &stores,
        keep: &Keep::default(),
        lock,
        sealed: &sealed,
        proofs: &proofs,
        proof: DAY * 90,
        now,
    };
    upkeep::judge(&known).into_iter().map(|finding| finding.what).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn he_opens_nothing_but_the_writers_own_chunk_maps() {
    let (ground, _) = before_the_theft().await;
    let (mut tried, mut opened) = (0, 0);
    for listed in ground.store.listed("") {
        let bytes = ground.store.get(&listed.name, Some(&listed.version), None).await.unwrap();
        for sealed in age_files(&listed.name, &bytes) {
            tried += 1;
            if let Ok(plain) = seal::open_plain(&ground.bundle.chunk_map, &sealed) {
                assert!(listed.name.ends_with(".chunks.age"), "{} opened", listed.name);
                let map = ChunkMap::decode(&plain, &scope_of(&listed.name), 1).unwrap();
                assert_eq!(plain.len(), plain.iter().position(|b| *b == b'\n').unwrap() + 1 + map.chunks.len() * 36);
                opened += 1;
            }
        }
        // In clear lie signed words, and nothing of what tenants have.
        for secret in [noise(10 + 2, 300), noise(1, 97), noise(10 * 7, 97), b"people".to_vec()] {
            let found = bytes.windows(secret.len().min(32)).any(|part| part == &secret[..secret.len().min(32)]);
            assert!(!found, "{} shows content", listed.name);
        }
    }
    assert!(opened > 0 && tried > opened, "{opened} of {tried}");
    eprintln!("{opened} of {tried} age files open: chunk maps");
    // The tool, given all that he has, gives no more.
    let reader = Reader::open(ground.store.clone(), ground.signers(), Arc::new(Identities::open(None)));
    let set = reader.envelopes(&acme(), What::Sets).await.unwrap().good.remove(0);
    assert!(reader.body(&set).await.is_err());
    assert!(reader.point_body(&ground.backups[0].points[&acme()]).await.is_err());
    assert!(reader.span(&ground.stretches[0], &globex()).await.is_err());
}

fn scope_of(name: &str) -> Scope {
    name.split('/').take(2).collect::<Vec<_>>().join("/").parse().unwrap()
}

/// The age files in an object: itself, or the members of a bundle.
fn age_files(name: &str, bytes: &Bytes) -> Vec<Vec<u8>> {
    if !name.ends_with(".bundle.tar") {
        return if name.ends_with(".age") { vec![bytes.to_vec()] } else { Vec::new() };
    }
    let mut archive = tar::Archive::new(bytes.as_ref());
    let members = archive.entries().unwrap().map(|entry| {
        let mut content = Vec::new();
        std::io::copy(&mut entry.unwrap(), &mut content).unwrap();
        content
    });
    members.collect()
}

/// A set of his: its chunk map says that what acme has lies in a pack of his.
async fn poison(ground: &Ground, thief: &Thief) -> String {
    let source = base::source("main");
    let listing = ground.reader_with(ground.store.clone(), None).envelopes(&acme(), What::Sets).await.unwrap();
    let newest = listing.good.into_iter().rfind(|set| set.source == source).unwrap();
    let map = newest.object(".chunks.age").unwrap();
    let sealed = ground.store.get(&map.name, None, None).await.unwrap();
    let plain = seal::open_plain(&thief.bundle.chunk_map, &sealed).unwrap();
    let mut map = ChunkMap::decode(&plain, &acme(), 1).unwrap();
    let far = time("2099-01-01T00:00:00Z");
    let junk = noise(666, 5000);
    let pack = thief.put(lifeboat::repo::name::pack(&acme(), Digest::of(&junk)), junk, far).await;
    for known in &mut map.packs {
        (known.object, known.born) = (pack.clone(), ground.clock.now());
    }
    let sealed = seal::seal_plain(&thief.bundle.chunk_map.to_public(), &map.encode(&acme(), 1).unwrap()).unwrap();
    let name = SetName { scope: acme(), source: source.clone(), stamp: Stamp::new(ground.clock.now()).unwrap() };
    let map = thief.put(name.part(SetPart::Chunks), sealed, far).await;
    let old_body = newest.object(".body.jsonl.zst.age").unwrap();
    let body = ground.store.get(&old_body.name, None, None).await.unwrap();
    let body = thief.put(name.part(SetPart::Body), body.to_vec(), far).await;
    let envelope = Envelope {
        name: name.part(SetPart::Envelope),
        time: ground.clock.now(),
        previous: Some(newest.link()),
        locked_until: far,
        objects: vec![body, map, pack.clone()],
        ..newest.envelope.clone()
    };
    thief.commit(&envelope).await;
    pack.name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_chunk_map_spoils_only_what_comes_after_and_level_2_names_it() {
    let (mut ground, truth) = before_the_theft().await;
    let theft = ground.clock.now();
    ground.clock.advance(HOUR);
    let his_pack = poison(&ground, &Thief::of(&ground)).await;
    // The next backup builds on it in good faith: it cannot read packs.
    ground.clock.advance(HOUR);
    let wal = ground.wal_of_backup(3);
    let writer = ground.writer();
    let spoilt = ground.back_up_with(&writer, &wal, Ground::content(3), &Quiet::default()).await.unwrap();
    let failure = restored(&ground, spoilt.facts.lsn).await.unwrap_err();
    assert_eq!(failure.kind, Kind::Integrity);
    assert!(format!("{failure:?}").contains(&his_pack), "{failure:?}");
    // Levels 0 and 1 see signed names and right hashes; level 2, which opens, names the pack.
    let keyless = ground.reader_with(ground.store.clone(), None);
    assert_eq!(verify_with(&keyless, Level::Bytes, Vec::new()).await.grade(), None);
    let report = verify_with(&ground.reader(), Level::Contents, Vec::new()).await;
    assert!(report.findings.iter().any(|f| f.what == Wrong::Unopenable && f.object == his_pack), "{report:#?}");
    // Everything of before is as it was; with his key revoked and a new one, the next backup builds on nothing of his.
    truth.assert_restores(&ground, last_stretch(&ground)).await;
    revoke(&ground, theft);
    let fresh = ground.writer_with(ground.store.clone(), new_writer(&ground));
    ground.clock.advance(HOUR);
    let watch = Quiet::default();
    let new = Ground::content(4);
    let set = lifeboat::repo::writer::NewSet {
        scope: acme(),
        source: base::source("main"),
        kind: lifeboat::repo::set::SetKind::BaseBackup,
        locked_until: ground.until(DAILY),
    };
    let files = &new[&(acme(), base::source("main"))];
    let stored = super::ground::store_set(&fresh, set, files, serde_json::Value::Null, &watch).await.unwrap();
    assert_eq!(stored.reused_bytes, 0, "nothing of what a revoked writer left is built upon");
    let body = ground.reader().body(&stored.envelope).await.unwrap();
    let mut back = BTreeMap::new();
    ground
        .reader()
        .read_files(&body, 8 << 20, |_| true, |entry, content| drop(back.insert(entry.path, content)))
        .await
        .unwrap();
    assert_eq!(back, *files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_pushes_nothing_out_and_keeps_nothing_in() {
    let (ground, truth) = before_the_theft().await;
    let good: BTreeSet<String> = ground.store.names().into_iter().filter(|name| !name.contains("/tail/")).collect();
    let thief = Thief::of(&ground);
    rampage(&ground, &thief).await;
    ground.clock.advance(DAY * 20);
    let options = expiring(false);
    let (store, signers) = (ground.store.clone(), ground.signers());
    let mut suspect = 0;
    let sink = &mut |verdict: expire::Verdict| suspect += usize::from(verdict.reason == expire::Reason::Beyond);
    expire::run(store.clone(), signers.clone(), &ground.clock, options.clone(), sink).await.unwrap();
    truth.assert_restores(&ground, last_stretch(&ground)).await;
    let left: BTreeSet<String> = ground.store.names().into_iter().collect();
    assert!(good.is_subset(&left), "{:?}", good.difference(&left).collect::<Vec<_>>());
    // When all of it has lapsed, his locks until 9999 keep his own objects and nothing else.
    ground.clock.advance(DAY * 60);
    let sink = &mut |verdict: expire::Verdict| suspect += usize::from(verdict.reason == expire::Reason::Beyond);
    expire::run(store, signers, &ground.clock, options, sink).await.unwrap();
    assert!(suspect > 200, "what is locked beyond any class is called suspect: {suspect}");
    let now = ground.clock.now();
    let mut listing = ground.store.list("");
    while let Some(listed) = listing.next().await {
        let listed = listed.unwrap();
        let lock = ground.store.lock_state(&listed.name, &listed.version).await.unwrap();
        assert!(lock.binds(now), "{} is kept by something of his", listed.name);
    }
}
