use futures::StreamExt as _;

use super::*;
use crate::repo::envelope::Envelope;
use crate::repo::name;
use crate::repo::reader::{Reader, What};
use crate::repo::set_writer::StoredSet;
use crate::repo::testing::{Estate, acme, cluster, fill, globex, noise};
use crate::repo::writer::NewPoint;
use crate::store::Store;
use crate::store::counting::{Counting, Op};
use crate::store::failing::{Answer, Failing, Fault};
use crate::store::memory::MemoryStore;
use crate::watch::Quiet;

const DAY: SignedDuration = SignedDuration::from_hours(24);

struct Fixture {
    estate: Estate,
    store: Arc<MemoryStore>,
}

fn fixture() -> Fixture {
    let estate = Estate::new();
    let store = Arc::new(MemoryStore::new(estate.clock.clone()));
    Fixture { estate, store }
}

fn options() -> Options {
    Options { dry_run: false, only: None, longest: DAY * 100, tail_lock: DAY * 7 }
}

impl Fixture {
    fn reader(&self) -> Reader {
        self.estate.reader_of(self.store.clone(), None)
    }

    fn pass(&self, days: i32) {
        self.estate.clock.advance(DAY * days);
    }

    async fn set(&self, scope: Scope, seed: u64, days: i64) -> StoredSet {
        let writer = self.estate.writer_to(self.store.clone());
        let new = crate::repo::writer::NewSet { locked_until: self.estate.until(days), ..self.estate.new_set(scope) };
        let set = writer.begin_set(new, &Quiet::default()).await.unwrap();
        let set = fill(set, &[("f", noise(seed, 300_000))]).await;
        set.finish(serde_json::Value::Null).await.unwrap()
    }

    async fn point(&self, sets: &[&StoredSet], days: i64) -> crate::repo::envelope::Verified {
        let new = NewPoint {
            scope: acme(),
            sets: sets.iter().map(|set| set.envelope.reference()).collect(),
            stretches: Vec::new(),
            body: serde_json::Value::Null,
            facts: serde_json::Value::Null,
            locked_until: self.estate.until(days),
        };
        self.estate.writer_to(self.store.clone()).write_point(new).await.unwrap()
    }

    async fn run_on(&self, store: Arc<dyn Store>, options: Options) -> Result<(Expired, Vec<Verdict>), ExpireError> {
        let mut verdicts = Vec::new();
        let signers = self.reader().signers;
        let mut sink = |verdict| verdicts.push(verdict);
        let expired = run(store, signers, &self.estate.clock, options, &mut sink).await?;
        Ok((expired, verdicts))
    }

    async fn expire(&self) -> Expired {
        self.run_on(self.store.clone(), options()).await.unwrap().0
    }

    async fn hold(&self, name: &str, held: bool) {
        for listed in self.store.listed(name) {
            self.store.hold(&listed.name, &listed.version, held).await.unwrap();
        }
    }

    /// Everything that the envelopes in the store name is there.
    fn whole(&self) {
        let names = self.store.names();
        for listed in self.store.listed("").iter().filter(|listed| listed.name.ends_with(".envelope.json")) {
            let bytes = futures::executor::block_on(self.store.get(&listed.name, Some(&listed.version), None)).unwrap();
            let Ok(envelope) = Envelope::parse(&bytes, &listed.name) else { continue };
            assert!(names.contains(&name::signature(&listed.name)), "{}", listed.name);
            for object in &envelope.objects {
                assert!(names.contains(&object.name), "{} names {}", listed.name, object.name);
            }
        }
    }
}

fn objects(expired: &Expired, reason: Reason) -> u64 {
    expired.counts.get(&reason).map_or(0, |count| count.objects)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_lapsed_goes_as_a_whole_and_what_has_not_stays_as_a_whole() {
    let fixture = fixture();
    let (short, long) = (fixture.set(acme(), 1, 10).await, fixture.set(acme(), 2, 50).await);
    fixture.point(&[&short], 10).await;
    fixture.point(&[&long], 50).await;
    let all = fixture.store.names();
    assert_eq!(fixture.expire().await.removed(), Count::default());
    fixture.pass(10);
    let closing = fixture.expire().await;
    assert_eq!((closing.removed(), objects(&closing, Reason::Closing)), (Count::default(), 1), "the slack still runs");
    fixture.pass(1);
    let expired = fixture.expire().await;
    fixture.whole();
    let left = fixture.store.names();
    assert_eq!(expired.removed().objects as usize, all.len() - left.len());
    let stem = short.envelope.name.trim_end_matches(".envelope.json");
    assert!(left.iter().all(|name| !name.starts_with(stem)));
    let reader = fixture.estate.reader_of(fixture.store.clone(), Some(&fixture.estate.folder.path().join("keys")));
    reader.body(&long.envelope).await.unwrap();
    fixture.pass(41);
    fixture.expire().await;
    assert_eq!(fixture.store.names(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_that_a_longer_set_reuses_outlive_the_set_that_made_them() {
    let fixture = fixture();
    fixture.set(acme(), 1, 10).await;
    let later = fixture.set(acme(), 1, 60).await;
    assert_eq!(later.new_bytes, 0);
    fixture.pass(15);
    assert!(fixture.expire().await.removed().objects > 0);
    fixture.whole();
    assert!(fixture.store.names().iter().any(|name| name.contains("/packs/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_on_a_point_keeps_all_that_it_needs_and_no_more() {
    let fixture = fixture();
    let (held, free) = (fixture.set(acme(), 1, 10).await, fixture.set(acme(), 2, 10).await);
    let shared = fixture.set(cluster(), 3, 10).await;
    let point = fixture.point(&[&held, &shared], 10).await;
    fixture.point(&[&free], 10).await;
    fixture.hold(&point.name, true).await;
    fixture.pass(20);
    fixture.expire().await;
    fixture.whole();
    let left = fixture.store.names();
    assert!(left.contains(&point.name) && left.contains(&held.envelope_name) && left.contains(&shared.envelope_name));
    assert!(!left.contains(&free.envelope_name));
    fixture.hold(&point.name, false).await;
    fixture.expire().await;
    assert_eq!(fixture.store.names(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_way_is_safe_by_its_locks_and_is_garbage_when_they_lapse() {
    let fixture = fixture();
    let writer = fixture.estate.writer_to(fixture.store.clone());
    let new = crate::repo::writer::NewSet { locked_until: fixture.estate.until(3), ..fixture.estate.new_set(acme()) };
    let set = fill(writer.begin_set(new, &Quiet::default()).await.unwrap(), &[("f", noise(1, 600_000))]).await;
    let set = tokio::task::spawn_blocking(|| {
        let mut set = set;
        set.flush().unwrap();
        set
    });
    let set = set.await.unwrap();
    while fixture.store.names().is_empty() {
        tokio::task::yield_now().await;
    }
    fixture.pass(3);
    let expired = fixture.expire().await;
    assert_eq!((expired.removed().objects, objects(&expired, Reason::Locked) > 0), (0, true));
    drop(set);
    fixture.pass(1);
    fixture.expire().await;
    assert_eq!(fixture.store.names(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_envelopes_and_floods_push_nothing_out_and_keep_nothing() {
    let fixture = fixture();
    let (old, good) = (fixture.set(acme(), 1, 10).await, fixture.set(acme(), 2, 30).await);
    let far: Timestamp = "9000-01-01T00:00:00Z".parse().unwrap();
    // Without the writer's key: an envelope that names the old packs, with a signature that is none.
    let mut forged = old.envelope.envelope.clone();
    forged.name = "tenant/acme/sets/main/29991231T000000Z-00000000.envelope.json".into();
    forged.locked_until = far;
    fixture.store.overwrite(&forged.name, forged.to_bytes().unwrap(), far);
    fixture.store.overwrite(&name::signature(&forged.name), "junk", far);
    // With it: the same, signed, and locked for ever.
    let mut signed = forged.clone();
    signed.name = "tenant/acme/sets/main/29991231T000000Z-11111111.envelope.json".into();
    let bytes = signed.to_bytes().unwrap();
    let signature = crate::repo::sign::sign(&fixture.estate.ceremony.bundle.signing, &bytes).unwrap();
    fixture.store.overwrite(&signed.name, bytes, far);
    fixture.store.overwrite(&name::signature(&signed.name), signature, far);
    let soon = fixture.estate.until(1);
    for n in 0..20_000 {
        fixture.store.overwrite(&format!("tenant/acme/points/29990101T000000Z-{n:08x}.envelope.json"), "{}", soon);
        fixture.store.overwrite(&format!("junk/{n}"), "x", soon);
    }
    for _ in 0..(group::CROWD + 10) {
        fixture.store.overwrite(&good.envelope_name, "junk on top", soon);
    }
    fixture.pass(20);
    let expired = fixture.expire().await;
    let left = fixture.store.names();
    assert!(left.contains(&good.envelope_name) && !left.contains(&old.envelope_name));
    assert_eq!(objects(&expired, Reason::Foreign), 20_000);
    assert_eq!(objects(&expired, Reason::Unbelieved) as usize, 20_000 + group::CROWD - 1);
    assert_eq!(objects(&expired, Reason::Crowded), 11);
    let reader = fixture.estate.reader_of(fixture.store.clone(), Some(&fixture.estate.folder.path().join("keys")));
    assert!(reader.envelopes(&acme(), What::Sets).await.unwrap().good.contains(&good.envelope));
    reader.body(&good.envelope).await.unwrap();
    // The signed one protects what it names for as long as a true one could, and not for ever.
    let pack = &old.envelope.objects.iter().find(|object| object.name.contains("/packs/")).unwrap().name;
    assert!(left.contains(pack));
    fixture.pass(90);
    let expired = fixture.expire().await;
    assert!(!fixture.store.names().contains(pack));
    assert_eq!(objects(&expired, Reason::Beyond), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_call_leaves_no_envelope_without_what_it_names() {
    let mut crashes = 0;
    for done in [false, true] {
        let fixture = fixture();
        let set = fixture.set(acme(), 1, 10).await;
        fixture.point(&[&set], 10).await;
        fixture.set(globex(), 2, 90).await;
        fixture.pass(20);
        let full = fixture.store.snapshot();
        let mut call = 1;
        loop {
            fixture.store.roll_back(&full);
            let failing = Arc::new(Failing::new(fixture.store.clone(), vec![Fault::Crash { call, done }]));
            let ended = fixture.run_on(failing, options()).await.is_ok();
            fixture.whole();
            fixture.expire().await;
            fixture.whole();
            assert!(fixture.store.names().iter().all(|name| name.starts_with("tenant/globex/")));
            if ended {
                break;
            }
            call += 1;
        }
        crashes += call - 1;
    }
    eprintln!("expire: {crashes} crash points tried");
    assert!(crashes > 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_delete_is_counted_and_what_the_envelope_names_stays() {
    let fixture = fixture();
    let set = fixture.set(acme(), 1, 10).await;
    fixture.point(&[&set], 10).await;
    fixture.pass(20);
    let plan = vec![Fault::Nth { op: Op::Remove, nth: 1, answer: Answer::Locked }];
    let (expired, verdicts) =
        fixture.run_on(Arc::new(Failing::new(fixture.store.clone(), plan)), options()).await.unwrap();
    assert_eq!((objects(&expired, Reason::Refused), expired.removed().objects), (1, 0), "{verdicts:?}");
    fixture.whole();
    fixture.expire().await;
    assert_eq!(fixture.store.names(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_the_run_then_does_and_changes_nothing() {
    let fixture = fixture();
    let set = fixture.set(acme(), 1, 10).await;
    fixture.point(&[&set], 10).await;
    fixture.set(globex(), 2, 90).await;
    fixture.pass(20);
    let before = fixture.store.names();
    let counting = Arc::new(Counting::new(fixture.store.clone()));
    let (said, mut first) = fixture.run_on(counting.clone(), Options { dry_run: true, ..options() }).await.unwrap();
    assert!(counting.calls().iter().all(|call| !matches!(call.op, Op::Remove | Op::Put | Op::Extend | Op::Hold)));
    assert_eq!(fixture.store.names(), before);
    let (did, mut second) = fixture.run_on(fixture.store.clone(), options()).await.unwrap();
    let key = |verdict: &Verdict| (verdict.name.clone(), verdict.version.clone());
    first.sort_by_key(key);
    second.sort_by_key(key);
    assert_eq!((said.counts, first), (did.counts, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_scope_is_expired_and_the_others_left_alone() {
    let fixture = fixture();
    fixture.set(acme(), 1, 10).await;
    fixture.set(globex(), 2, 10).await;
    fixture.pass(20);
    let only = Options { only: Some(acme()), ..options() };
    fixture.run_on(fixture.store.clone(), only).await.unwrap();
    assert!(fixture.store.names().iter().all(|name| name.starts_with("tenant/globex/")));
    assert!(!fixture.store.names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_judged_by_the_stores_clock_and_a_host_that_disagrees_is_refused() {
    let fixture = fixture();
    fixture.set(acme(), 1, 10).await;
    fixture.pass(11);
    fixture.store.set_skew(SignedDuration::from_mins(-4));
    assert_eq!(fixture.expire().await.removed().objects, 0, "by the store's clock the slack has not ended");
    for skew in [-6, 6] {
        fixture.store.set_skew(SignedDuration::from_mins(skew));
        let error = fixture.run_on(fixture.store.clone(), options()).await.unwrap_err();
        assert!(matches!(error, ExpireError::Clocks { .. }), "{error}");
        assert_eq!(Failure::from(error).kind, Kind::Refused);
    }
    fixture.store.set_skew(SignedDuration::from_mins(4));
    assert!(fixture.expire().await.removed().objects > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_of_this_format_is_nobodys_garbage() {
    let fixture = fixture();
    let soon = fixture.estate.until(1);
    let strange = ["tenant/acme/note.txt", "audit/w/1.envelope.json", "tenant/acme/1.age", "estate/erasures/1.json"];
    for name in strange {
        fixture.store.overwrite(name, "x", soon);
    }
    fixture.pass(1000);
    let expired = fixture.expire().await;
    assert_eq!((objects(&expired, Reason::Foreign), objects(&expired, Reason::Ledger)), (3, 1));
    assert_eq!(fixture.store.names().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn readmes_last_as_long_as_a_point_names_them_and_canaries_as_their_locks() {
    let fixture = fixture();
    let soon = fixture.estate.until(1);
    fixture.store.overwrite("canary/20261122T072400Z-1a2b3c4d/shorten", "x", soon);
    let readme = ReadmeFile::Readme.name(&acme(), Some("0badcafe"));
    fixture.store.overwrite(&readme, "x", soon);
    let named = fixture
        .estate
        .writer_to(fixture.store.clone())
        .leave_readme(&acme(), fixture.estate.until(10), &Quiet::default())
        .await;
    let point = NewPoint {
        scope: acme(),
        sets: named.clone(),
        stretches: Vec::new(),
        body: serde_json::json!({}),
        facts: serde_json::json!({}),
        locked_until: fixture.estate.until(10),
    };
    fixture.estate.writer_to(fixture.store.clone()).write_point(point).await.unwrap();
    assert_eq!(fixture.expire().await.removed().objects, 0);
    fixture.pass(5);
    fixture.expire().await;
    let left = |name: &str| fixture.store.names().iter().any(|listed| listed == name);
    assert!(!left(&readme) && !left("canary/20261122T072400Z-1a2b3c4d/shorten"), "{:?}", fixture.store.names());
    assert!(named.len() == 3 && named.iter().all(|object| left(&object.name)), "{:?}", fixture.store.names());
    fixture.pass(100);
    fixture.expire().await;
    assert_eq!(fixture.store.names(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn young_tails_are_not_read_and_old_ones_go() {
    let fixture = fixture();
    let writer = fixture.estate.writer_to(fixture.store.clone());
    let tail = crate::repo::testing::new_tail(&fixture.estate, 0, 100, 7);
    writer.write_stretch(tail).await.unwrap();
    let counting = Arc::new(Counting::new(fixture.store.clone()));
    fixture.run_on(counting.clone(), options()).await.unwrap();
    assert!(counting.calls().iter().all(|call| call.op != Op::Get && call.op != Op::LockState));
    fixture.pass(9);
    fixture.expire().await;
    assert_eq!(fixture.store.names(), Vec::<String>::new());
}

mod holds {
    use super::*;
    use crate::repo::hold;

    #[tokio::test(flavor = "multi_thread")]
    async fn while_a_hold_is_open_nothing_of_the_tenant_goes_and_others_are_as_before() {
        let fixture = fixture();
        let (mine, shared) = (fixture.set(acme(), 1, 10).await, fixture.set(cluster(), 3, 10).await);
        let point = fixture.point(&[&mine, &shared], 10).await;
        let other = fixture.set(globex(), 2, 10).await;
        let reader = fixture.reader();
        let (opened, covered) = hold::open(&reader, &acme(), "INC-1").await.unwrap();
        assert_eq!((covered.envelopes, covered.missing), (3, 0));
        assert_eq!(hold::list(&*fixture.store, None).await.unwrap(), std::slice::from_ref(&opened));
        // Written during the incident, and not renewed.
        let late = fixture.set(acme(), 4, 10).await;
        fixture.pass(200);
        let expired = fixture.expire().await;
        assert_eq!(expired.held, [acme()]);
        fixture.whole();
        let left = fixture.store.names();
        for kept in [&mine.envelope_name, &shared.envelope_name, &point.name, &late.envelope_name] {
            assert!(left.contains(kept), "{kept}");
        }
        assert!(!left.contains(&other.envelope_name));
        // The store keeps what was held even against a janitor of his own mind.
        for object in &mine.envelope.objects {
            for listed in fixture.store.listed(&object.name) {
                fixture.store.remove(&listed.name, &listed.version).await.unwrap_err();
            }
        }
        let freed = hold::close(&reader, &opened).await.unwrap();
        assert_eq!(freed.free_now, freed.objects);
        assert_eq!(freed.points, BTreeMap::from([(point.name.clone(), Some(point.locked_until))]));
        fixture.expire().await;
        assert_eq!(fixture.store.names(), Vec::<String>::new(), "marker included");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn closing_one_hold_leaves_what_another_needs() {
        let fixture = fixture();
        let shared = fixture.set(cluster(), 3, 10).await;
        fixture.point(&[&shared], 10).await;
        let new = NewPoint {
            scope: globex(),
            sets: vec![shared.envelope.reference()],
            stretches: Vec::new(),
            body: serde_json::Value::Null,
            facts: serde_json::Value::Null,
            locked_until: fixture.estate.until(10),
        };
        fixture.estate.writer_to(fixture.store.clone()).write_point(new).await.unwrap();
        let reader = fixture.reader();
        let (first, _) = hold::open(&reader, &acme(), "INC-1").await.unwrap();
        hold::open(&reader, &globex(), "INC-2").await.unwrap();
        let freed = hold::close(&reader, &first).await.unwrap();
        assert_eq!(freed.shared, shared.envelope.objects.len() as u64 + 2);
        fixture.pass(100);
        fixture.expire().await;
        fixture.whole();
        assert!(fixture.store.names().contains(&shared.envelope_name));
        assert!(fixture.store.names().iter().all(|name| !name.starts_with("tenant/acme/")));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn opening_twice_renews_and_a_marker_without_a_legal_hold_is_no_hold() {
        let fixture = fixture();
        fixture.set(acme(), 1, 10).await;
        let reader = fixture.reader();
        let (first, _) = hold::open(&reader, &acme(), "INC-1").await.unwrap();
        let later = fixture.set(acme(), 2, 10).await;
        let (again, covered) = hold::open(&reader, &acme(), "another").await.unwrap();
        assert_eq!((again, covered.envelopes), (first.clone(), 2));
        let version = &fixture.store.listed(&later.envelope_name)[0].version;
        assert!(fixture.store.lock_state(&later.envelope_name, version).await.unwrap().held);
        // Somebody who may put, and not hold.
        fixture.store.overwrite(
            "tenant/globex/holds/20261122T072400Z-00000000.hold.json",
            "{}",
            fixture.estate.until(1),
        );
        fixture.store.overwrite(&first.marker, "{}", fixture.estate.until(1));
        let open: Vec<_> = hold::list(&*fixture.store, None).await.unwrap();
        assert_eq!(open.iter().map(|hold| hold.reason.as_str()).collect::<Vec<_>>(), ["INC-1"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_hold_that_broke_off_is_completed_by_the_next_run_and_so_is_its_end() {
        let fixture = fixture();
        let set = fixture.set(acme(), 1, 10).await;
        fixture.point(&[&set], 10).await;
        let empty = fixture.store.snapshot();
        for call in 1.. {
            fixture.store.roll_back(&empty);
            let failing =
                Arc::new(Failing::new(fixture.store.clone(), vec![Fault::Crash { call, done: call % 2 == 0 }]));
            let broken = fixture.estate.reader_of(failing.clone(), None);
            let opened = hold::open(&broken, &acme(), "INC-1").await;
            let reader = fixture.reader();
            let (held, covered) = hold::open(&reader, &acme(), "INC-1").await.unwrap();
            assert_eq!(covered.envelopes, 2);
            if let Ok((held, _)) = opened {
                // The opening took all its calls: now the closing is broken off.
                let ended = hold::close(&broken, &held).await.is_ok();
                let left = hold::list(&*fixture.store, None).await.unwrap();
                assert!(!left.is_empty() || call % 2 == 0 || ended, "closed before all was lifted");
                for hold in &left {
                    hold::close(&reader, hold).await.unwrap();
                }
                let mut states = futures::stream::iter(fixture.store.listed(""));
                while let Some(listed) = states.next().await {
                    assert!(!fixture.store.lock_state(&listed.name, &listed.version).await.unwrap().held);
                }
                if ended {
                    break;
                }
            } else {
                hold::close(&reader, &held).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_without_any_decryption_key_and_reads_nothing_but_envelopes() {
    let fixture = fixture();
    let set = fixture.set(acme(), 1, 10).await;
    fixture.point(&[&set], 10).await;
    fixture.pass(5);
    let counting = Arc::new(Counting::new(fixture.store.clone()));
    std::fs::remove_dir_all(fixture.estate.folder.path().join("keys")).unwrap();
    fixture.run_on(counting.clone(), options()).await.unwrap();
    assert!(counting.names_read().iter().all(|name| name.contains(".envelope.json")), "{:?}", counting.names_read());
}

#[tokio::test]
async fn an_empty_store_is_expired_in_one_listing() {
    let fixture = fixture();
    assert_eq!(fixture.expire().await.counts, BTreeMap::new());
}
