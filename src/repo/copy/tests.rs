use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::*;
use crate::ids::{DbOid, Lsn, SystemId};
use crate::repo::envelope::{Binding, Verified, Wal};
use crate::repo::fetch;
use crate::repo::name;
use crate::repo::reader::{Reader, What};
use crate::repo::stretch::NewStretch;
use crate::repo::testing::{Estate, acme, cluster, fill, globex, noise};
use crate::repo::writer::{NewPoint, NewSet, Writer};
use crate::store::counting::{Counting, Op};
use crate::store::failing::{Answer, Failing, Fault};
use crate::store::memory::MemoryStore;
use crate::store::{Listed, LockState};
use crate::watch::{Finding, Level, Quiet};

/// An estate with a store and an empty copy, both in memory.
pub struct Ground {
    pub estate: Estate,
    pub source: Arc<MemoryStore>,
    pub copy: Arc<MemoryStore>,
}

impl Ground {
    pub fn new() -> Self {
        let estate = Estate::new();
        let store = || Arc::new(MemoryStore::new(estate.clock.clone()));
        let (source, copy) = (store(), store());
        Self { estate, source, copy }
    }

    pub fn writer(&self) -> Writer {
        self.estate.writer_to(self.source.clone())
    }

    pub fn signers(&self) -> Arc<Signers> {
        Arc::clone(&self.reader(self.source.clone()).signers)
    }

    pub fn reader(&self, store: Arc<dyn Store>) -> Reader {
        self.estate.reader_of(store, Some(&self.keys()))
    }

    fn keys(&self) -> std::path::PathBuf {
        self.estate.folder.path().join("keys")
    }

    pub fn job(&self) -> Copy {
        self.between(self.source.clone(), self.copy.clone())
    }

    fn between(&self, from: Arc<dyn Store>, to: Arc<dyn Store>) -> Copy {
        Copy { from, to, name: "drawer".into(), signers: self.signers(), options: Options::default() }
    }

    pub async fn set(&self, scope: Scope, seed: u64, days: i64) -> Verified {
        let new = NewSet { locked_until: self.estate.until(days), ..self.estate.new_set(scope) };
        let set = self.writer().begin_set(new, &Quiet::default()).await.unwrap();
        let files = [("base/1", noise(seed, 700_000)), ("base/2", noise(99, 300_000))];
        fill(set, &files).await.finish(serde_json::json!({})).await.unwrap().envelope
    }

    pub async fn wal(&self, from: u64, to: u64, tail: bool, days: i64) -> Verified {
        self.writer().write_stretch(self.stretch(from, to, tail, days)).await.unwrap().envelope
    }

    fn stretch(&self, from: u64, to: u64, tail: bool, days: i64) -> NewStretch {
        let wal = Wal {
            last_record: Some(Lsn(to.saturating_sub(1))),
            bindings: vec![Binding { oid: DbOid(16384), scope: acme(), from_lsn: Lsn(0), to_lsn: None }],
            ..self.estate.wal(from, to)
        };
        let members = if from == to {
            Vec::new()
        } else {
            vec![(cluster(), noise(from, 1000)), (acme(), noise(to, 1_200_000)), (globex(), noise(9, 50))]
        };
        let locked_until = self.estate.until(days);
        NewStretch { cluster: cluster(), source: "main".into(), tail, wal, members, locked_until }
    }

    pub async fn point(&self, scope: Scope, set: &Verified, wal: &Verified, days: i64) -> Verified {
        let new = NewPoint {
            scope,
            sets: vec![set.reference()],
            stretches: vec![wal.reference()],
            body: serde_json::json!({ "lsn": "0/64" }),
            facts: serde_json::json!({ "class": "daily" }),
            locked_until: self.estate.until(days),
        };
        self.writer().write_point(new).await.unwrap()
    }

    /// Two tenants' sets and points, a stretch, a tail behind it.
    pub async fn fill(&self) -> Vec<Verified> {
        let (one, other) = (self.set(acme(), 1, 35).await, self.set(globex(), 2, 35).await);
        let wal = self.wal(0, 100, false, 35).await;
        let points = [self.point(acme(), &one, &wal, 35).await, self.point(globex(), &other, &wal, 35).await];
        let tail = self.wal(100, 110, true, 7).await;
        [one, other, wal, tail].into_iter().chain(points).collect()
    }

    /// Whatever a believed envelope of the copy names is there, right, and locked as long as it.
    pub async fn assert_copy_is_sound(&self) {
        let signers = self.signers();
        for (name, candidates) in fetch::candidates(&*self.copy, "").await.unwrap() {
            let signed = fetch::signed(&*self.copy, &signers, &name, &candidates).await.unwrap();
            let until = self.lock(&self.copy, &signed.version).retained_until;
            assert!(self.lock(&self.copy, &signed.signature).retained_until >= until, "{name}.sig");
            for object in &signed.envelope.objects {
                let (_, listed) = fetch::located(&*self.copy, object).await.unwrap_or_else(|e| panic!("{name}: {e}"));
                assert!(self.lock(&self.copy, &listed).retained_until >= until, "{} under {name}", object.name);
            }
        }
    }

    pub fn lock(&self, store: &MemoryStore, listed: &Listed) -> LockState {
        futures::executor::block_on(store.lock_state(&listed.name, &listed.version)).unwrap()
    }

    /// No lock of the copy is shorter than the source's of the same object.
    fn assert_locks_are_as_long(&self) {
        let source: BTreeMap<String, Listed> =
            self.source.listed("").into_iter().map(|listed| (listed.name.clone(), listed)).collect();
        for listed in self.copy.listed("") {
            let (there, here) = (self.lock(&self.source, &source[&listed.name]), self.lock(&self.copy, &listed));
            assert!(here.retained_until >= there.retained_until && here.held == there.held, "{}", listed.name);
        }
    }
}

fn warned(watch: &Quiet, object: &str) -> Vec<Finding> {
    let about = |finding: &Finding| finding.level == Level::Warning && finding.object.contains(object);
    watch.findings().into_iter().filter(about).collect()
}

fn name_of(envelope: &Verified, suffix: &str) -> String {
    envelope.object(suffix).unwrap().name.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_live_comes_over_opens_there_and_comes_once() {
    let ground = Ground::new();
    let all = ground.fill().await;
    let planned = ground.job().plan(&Quiet::default()).await.unwrap();
    assert!(ground.copy.names().is_empty(), "a plan writes nothing");
    let copied = ground.job().run(&Quiet::default()).await.unwrap();
    assert_eq!(copied, planned);
    assert_eq!((copied.envelopes, copied.damaged.len()), (all.len() as u64, 0));
    assert_eq!(ground.copy.names(), ground.source.names());
    ground.assert_copy_is_sound().await;
    ground.assert_locks_are_as_long();

    let reader = ground.reader(ground.copy.clone());
    let set = reader.envelopes(&acme(), What::Sets).await.unwrap().good.remove(0);
    let out = tempfile::tempdir().unwrap();
    let body = reader.body(&set).await.unwrap();
    reader.extract(&body, out.path(), |file| Some(file.path.clone().into()), &Quiet::default()).await.unwrap();
    assert!(std::fs::read(out.path().join("base/1")).unwrap() == noise(1, 700_000));

    let counting = Arc::new(Counting::new(ground.copy.clone()));
    let again = ground.between(ground.source.clone(), counting.clone()).run(&Quiet::default()).await.unwrap();
    assert_eq!((again.envelopes, again.objects, again.there), (0, 0, all.len() as u64));
    assert!(counting.calls().iter().all(|call| !matches!(call.op, Op::Put | Op::Extend)));
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_holds_follow_the_source_at_the_next_run() {
    let ground = Ground::new();
    let all = ground.fill().await;
    ground.job().run(&Quiet::default()).await.unwrap();
    let later = ground.estate.until(400);
    let point = all.iter().find(|e| e.name.starts_with("tenant/acme/points/")).unwrap();
    ground.writer().extend_envelope(point, later).await.unwrap();
    let copied = ground.job().run(&Quiet::default()).await.unwrap();
    assert!(copied.extended > 5 && copied.objects == 0, "{copied:?}");
    ground.assert_locks_are_as_long();
    ground.assert_copy_is_sound().await;

    for listed in ground.source.listed("tenant/acme/") {
        ground.source.hold(&listed.name, &listed.version, true).await.unwrap();
    }
    let held = ground.job().run(&Quiet::default()).await.unwrap().held;
    assert_eq!(held as usize, ground.source.listed("tenant/acme/").len() - spans_of(&ground, "tenant/acme/wal/"));
}

/// Spans hang on the stretches' envelopes, which were not held.
fn spans_of(ground: &Ground, prefix: &str) -> usize {
    ground.source.listed(prefix).len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_takes_no_holds_is_told_once_and_is_copied_all_the_same() {
    let ground = Ground::new();
    ground.fill().await;
    for listed in ground.source.listed("tenant/acme/") {
        ground.source.hold(&listed.name, &listed.version, true).await.unwrap();
    }
    let refuses = |nth| Fault::Nth { op: Op::Hold, nth, answer: Answer::Locked };
    let to = Arc::new(Failing::new(ground.copy.clone(), (1..50).map(refuses).collect()));
    let watch = Quiet::default();
    let copied = ground.between(ground.source.clone(), to).run(&watch).await.unwrap();
    assert_eq!((copied.held, copied.envelopes), (0, 6));
    assert_eq!(warned(&watch, "drawer").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_dies_at_any_call_is_sound_and_the_next_run_completes_it() {
    let mut crashes = 0;
    for call in 1.. {
        let ground = Ground::new();
        let set = ground.set(acme(), 1, 35).await;
        let wal = ground.wal(0, 100, false, 35).await;
        ground.point(acme(), &set, &wal, 35).await;
        let plan = vec![Fault::Crash { call, done: call % 2 == 0 }];
        let to = Arc::new(Failing::new(ground.copy.clone(), plan));
        let dying = ground.between(ground.source.clone(), to.clone());
        let ended = dying.run(&Quiet::default()).await.is_ok();
        assert!(ended || to.calls() >= call, "call {call}");
        ground.assert_copy_is_sound().await;
        ground.job().run(&Quiet::default()).await.unwrap();
        assert_eq!(ground.copy.names(), ground.source.names(), "call {call}");
        ground.assert_copy_is_sound().await;
        ground.assert_locks_are_as_long();
        if ended {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 10, "{crashes}");
    println!("copy: {crashes} crash points tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_keeps_its_envelope_from_the_copy_and_nothing_else() {
    let ground = Ground::new();
    let all = ground.fill().await;
    let body = name_of(&all[0], ".body.jsonl.zst.age");
    let version = ground.source.listed(&body).remove(0).version;
    assert!(ground.source.alter(&body, &version, |bytes| bytes[7] ^= 1));
    let watch = Quiet::default();
    let copied = ground.job().run(&watch).await.unwrap();
    // The set, and the point that names it.
    let broken: Vec<&str> = copied.damaged.iter().map(|damaged| damaged.envelope.as_str()).collect();
    assert_eq!(broken.len(), 2, "{copied:?}");
    assert!(broken.contains(&all[0].name.as_str()) && copied.damaged.iter().any(|d| d.object == body));
    assert_eq!(copied.envelopes, 4);
    assert!(!warned(&watch, &body).is_empty());
    ground.assert_copy_is_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_object_of_the_copy_is_left_alone_when_the_source_loses_it() {
    let ground = Ground::new();
    let all = ground.fill().await;
    ground.job().run(&Quiet::default()).await.unwrap();
    let body = name_of(&all[0], ".body.jsonl.zst.age");
    let before = ground.copy.listed(&body);
    ground.source.drop_version(&body, &ground.source.listed(&body).remove(0).version);
    // Something new, so that the envelope is looked at again.
    ground.writer().extend_envelope(&all[2], ground.estate.until(300)).await.unwrap();
    let copied = ground.job().run(&Quiet::default()).await.unwrap();
    assert!(copied.damaged.is_empty());
    assert_eq!(ground.copy.listed(&body), before);
    ground.assert_copy_is_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hides_the_right_version_at_the_source_is_not_copied() {
    let ground = Ground::new();
    let all = ground.fill().await;
    let far = ground.estate.until(30_000);
    let pack = name_of(&all[0], ".tar.zst.age");
    ground.source.overwrite(&pack, "junk", far);
    ground.source.mark_deleted(&name_of(&all[0], ".body.jsonl.zst.age"));
    ground.source.overwrite(&all[2].name, "{}", far);
    ground.source.mark_deleted(&all[3].name);
    ground.source.overwrite("tenant/acme/sets/main/20261122T072400Z-00000000.envelope.json", "{}", far);
    let watch = Quiet::default();
    let copied = ground.job().run(&watch).await.unwrap();
    assert_eq!((copied.envelopes, copied.bad.len(), copied.damaged.len()), (6, 1, 0), "{copied:?}");
    assert_eq!(warned(&watch, "00000000.envelope.json").len(), 1);
    assert!(ground.copy.listed("").iter().all(|listed| listed.bytes > 4), "no junk came along");
    assert!(
        ground.copy.listed(&pack).iter().all(|listed| ground.lock(&ground.copy, listed).retained_until < Some(far))
    );
    ground.assert_copy_is_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_goes_from_the_source_meanwhile_is_a_note_and_no_damage() {
    let ground = Ground::new();
    let all = ground.fill().await;
    let (job, watch) = (ground.job(), Quiet::default());
    let (source, present, plan) = job.survey(&watch).await.unwrap();
    for name in [&all[3].name, &name::signature(&all[3].name), &all[3].objects[0].name] {
        ground.source.drop_version(name, &ground.source.listed(name).remove(0).version);
    }
    let carrier = Carrier::new(&job, &source, &present, &plan, &watch);
    for chain in plan.chains.iter().chain(&plan.points) {
        carrier.chain(chain).await.unwrap();
    }
    let copied = carrier.done(Copied::default());
    assert_eq!((copied.gone, copied.damaged.len(), copied.envelopes), (vec![all[3].name.clone()], 0, 5));
    assert!(warned(&watch, "").is_empty());
    ground.assert_copy_is_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_at_once_make_one_copy() {
    for create_only in [true, false] {
        let mut ground = Ground::new();
        if !create_only {
            ground.copy = Arc::new(MemoryStore::not_create_only(ground.estate.clock.clone()));
        }
        ground.fill().await;
        let (job, quiet) = (ground.job(), Quiet::default());
        let (one, other) = tokio::join!(job.run(&quiet), job.run(&quiet));
        assert!(one.unwrap().damaged.is_empty() && other.unwrap().damaged.is_empty());
        assert_eq!(ground.copy.names(), ground.source.names());
        ground.assert_copy_is_sound().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_by_other_bytes_in_the_copy_is_reported() {
    let ground = Ground::new();
    let all = ground.fill().await;
    let body = name_of(&all[0], ".body.jsonl.zst.age");
    ground.copy.put(&body, "other".into(), ground.estate.until(1)).await.unwrap();
    let copied = ground.job().run(&Quiet::default()).await.unwrap();
    assert!(copied.damaged.iter().any(|damaged| damaged.object == body && damaged.what.contains("other bytes")));
    assert_eq!(copied.envelopes, 4);
    ground.assert_copy_is_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tails_that_stretches_cover_and_old_heartbeats_stay_where_they_are() {
    let ground = Ground::new();
    for (from, to, tail) in [(0, 50, true), (50, 100, true), (0, 100, false), (100, 110, true), (110, 110, true)] {
        ground.wal(from, to, tail, 7).await;
        ground.estate.clock.advance(SignedDuration::from_secs(60));
    }
    let newest = ground.wal(110, 110, true, 7).await;
    let copied = ground.job().run(&Quiet::default()).await.unwrap();
    assert_eq!((copied.envelopes, copied.covered), (3, 3));
    assert!(ground.copy.names().contains(&newest.name));
    let reader = ground.reader(ground.copy.clone());
    let listing = reader.stretches(SystemId(7), None).await.unwrap();
    let windows = crate::repo::window::chain(&listing.good).windows;
    assert_eq!((windows.len(), windows[0].to), (1, Lsn(110)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_lapsed_is_not_copied_any_more() {
    let ground = Ground::new();
    ground.set(acme(), 1, 1).await;
    let lives = ground.set(acme(), 2, 35).await;
    ground.estate.clock.advance(SignedDuration::from_hours(48));
    let copied = ground.job().run(&Quiet::default()).await.unwrap();
    assert_eq!(copied.envelopes, 1);
    assert!(ground.copy.names().contains(&lives.name));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sets_and_points_of_erased_scopes_stay_away_and_neighbours_come() {
    let ground = Ground::new();
    ground.fill().await;
    let options = Options { erased: [(acme(), 1)].into(), ..Options::default() };
    let copied = Copy { options, ..ground.job() }.run(&Quiet::default()).await.unwrap();
    assert_eq!((copied.erased, copied.envelopes), (2, 4));
    assert!(
        ground.copy.names().iter().all(|name| !name.starts_with("tenant/acme/sets") && !name.contains("acme/points"))
    );
    ground.assert_copy_is_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenants_copy_restores_him_and_has_no_set_of_another() {
    let ground = Ground::new();
    ground.fill().await;
    let options = Options { tenants: vec![acme()], ..Options::default() };
    let copied = Copy { options, ..ground.job() }.run(&Quiet::default()).await.unwrap();
    // His set and point, the stretch and the tail.
    assert_eq!(copied.envelopes, 4);
    assert!(ground.copy.names().iter().all(|name| !name.starts_with("tenant/globex/sets")));
    ground.assert_copy_is_sound().await;
    let all = ground.job().run(&Quiet::default()).await.unwrap();
    assert_eq!(all.envelopes, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_larger_than_the_memory_allowed_goes_alone() {
    let ground = Ground::new();
    ground.fill().await;
    let options = Options { bytes_under_way: 1, ..Options::default() };
    let copied = Copy { options, ..ground.job() }.run(&Quiet::default()).await.unwrap();
    assert_eq!(copied.envelopes, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_silent_copy_ends_the_run_with_its_kind() {
    for (answer, kind) in [(Answer::Full, Kind::Failed), (Answer::Unreachable, Kind::Unreachable)] {
        let ground = Ground::new();
        ground.fill().await;
        let to = Arc::new(Failing::new(ground.copy.clone(), vec![Fault::Nth { op: Op::Put, nth: 3, answer }]));
        let error = ground.between(ground.source.clone(), to).run(&Quiet::default()).await.unwrap_err();
        let failure = Failure::from(error);
        assert_eq!(failure.kind, kind);
        assert!(failure.object.starts_with("copy drawer: "), "{failure}");
        ground.assert_copy_is_sound().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_with_a_long_lock_over_an_envelope_keeps_its_own_lock_from_nothing() {
    let ground = Ground::new();
    let all = ground.fill().await;
    ground.job().run(&Quiet::default()).await.unwrap();
    let (set, until) = (&all[0], ground.estate.until(90));
    ground.writer().extend_envelope(set, until).await.unwrap();
    let junk = vec![b' '; usize::try_from(set.bytes).unwrap()];
    ground.copy.overwrite(&set.name, junk, ground.estate.until(400));
    ground.job().run(&Quiet::default()).await.unwrap();
    let oldest = ground.copy.listed(&set.name).into_iter().rfind(|listed| listed.name == set.name).unwrap();
    let lock = ground.copy.lock_state(&set.name, &oldest.version).await.unwrap();
    assert!(lock.retained_until >= Some(until), "{lock:?}");
}
