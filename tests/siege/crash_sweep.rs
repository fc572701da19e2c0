//! A crash, and a call that gets no answer, at every call that backup, stream, expire, copy and shred make to a store.
//!
//! Four ways at each call: the process dies before it, or after it was carried out; or the call alone is unanswered, carried out or not, and the
//! process goes on with that error. After each the invariants hold: no envelope names what is not there or outlives it, nothing is half
//! committed (`verify` at level 0 finds no damage). Then the command runs again, and ends well.

use std::collections::BTreeMap;
use std::sync::Arc;

use age::x25519::Identity;
use lifeboat::authority::copies::{self, Copy as Registered};
use lifeboat::authority::deposit::{Seals, deposit};
use lifeboat::authority::key_stores::{KeyStore, KeyStores};
use lifeboat::authority::shred::{self, Shredder};
use lifeboat::clock::Clock;
use lifeboat::config::When;
use lifeboat::failure::Failure;
use lifeboat::repo::copy::{Copy, Options};
use lifeboat::repo::erasure::{self, Confirmed, Ledger};
use lifeboat::repo::expire;
use lifeboat::repo::sign::Signers;
use lifeboat::repo::verify::{Grade, Level};
use lifeboat::store::Store;
use lifeboat::store::failing::{Failing, Fault};
use lifeboat::store::memory::{MemoryStore, Snapshot};
use lifeboat::watch::Quiet;

use super::commands::{Stores, restore, verify_with};
use super::ground::{DAY, Ground, HOUR, acme, expiring};

const WAYS: [fn(u64) -> Fault; 4] = [
    |call| Fault::Crash { call, done: false },
    |call| Fault::Crash { call, done: true },
    |call| Fault::Timeout { call, done: false },
    |call| Fault::Timeout { call, done: true },
];

/// Tries each way at each call until a run makes fewer calls; `attempt` gives how many it made. Says how many there were.
async fn sweep(what: &str, attempt: impl AsyncFn(Fault) -> u64) {
    let attempt = &attempt;
    let each = WAYS.map(|fault| async move {
        for call in 1.. {
            if attempt(fault(call)).await < call {
                return call - 1;
            }
        }
        0
    });
    let points: u64 = futures::future::join_all(each).await.into_iter().sum();
    eprintln!("{what}: {points} crash points");
    assert!(points > 20, "{what} makes more calls than that");
}

/// A ground with one backup of acme, some WAL, and what the next runs will write.
async fn small() -> Ground {
    let mut ground = Ground::empty();
    ground.work(1, 100);
    ground.stream(&[false]).await;
    let wal = ground.wal_of_backup(1);
    let taken = ground.back_up_with(&ground.writer(), &wal, Ground::little(1), &Quiet::default()).await.unwrap();
    ground.backups.push(taken);
    ground.clock.advance(DAY);
    ground
}

fn on(snapshot: &Snapshot, clock: &Clock) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new(clock.clone()));
    store.roll_back(snapshot);
    store
}

async fn assert_invariants(ground: &Ground, store: &Arc<MemoryStore>, after: &str) {
    let report = verify_with(&ground.reader_with(store.clone(), None), Level::Listing, Vec::new()).await;
    let damage: Vec<_> = report.findings.iter().filter(|finding| finding.grade == Grade::Damage).collect();
    assert!(damage.is_empty(), "{after}: {damage:#?}");
}

async fn assert_restores(ground: &Ground, store: &Arc<MemoryStore>, at: When) {
    let stores = Stores { primary: store.clone(), copy: None };
    let ended = restore(ground, &stores, at).await;
    assert!(ended.failure.is_none(), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_dies_at_any_call_commits_whole_sets_only_and_the_next_one_ends_well() {
    let mut ground = small().await;
    let before = ground.store.snapshot();
    let wal = ground.wal_of_backup(2);
    let ground = &ground;
    let attempt = async |fault: Fault| {
        let store = on(&before, &ground.clock);
        let failing = Arc::new(Failing::new(store.clone(), vec![fault]));
        let writer = ground.writer_to(failing.clone());
        let first = ground.back_up_with(&writer, &wal, Ground::little(2), &Quiet::default()).await;
        assert_invariants(ground, &store, "the crash").await;
        let writer = ground.writer_to(store.clone());
        let again = ground.back_up_with(&writer, &wal, Ground::little(2), &Quiet::default()).await;
        again.unwrap_or_else(|error| panic!("after {:?}: {error:?}", first.err()));
        assert_invariants(ground, &store, "the next run").await;
        assert_restores(ground, &store, When::Latest).await;
        failing.calls()
    };
    sweep("backup", attempt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_dies_at_any_call_loses_no_wal_and_stores_none_twice() {
    let mut ground = small().await;
    let before = ground.store.snapshot();
    // Two tails and the stretch that says the same as the second; the first share is an object of its own.
    let pieces = [(1 << 20, true), (100, true), (100, false)].map(|(bytes, tail)| {
        ground.work(7, bytes);
        (ground.server.take(), tail)
    });
    let ground = &ground;
    let write = async |store: Arc<dyn Store>| -> Result<(), lifeboat::repo::error::RepoError> {
        let writer = ground.writer_to(store);
        for (split, tail) in &pieces {
            writer.write_stretch(ground.stretch(split, *tail)).await?;
        }
        Ok(())
    };
    let attempt = async |fault: Fault| {
        let store = on(&before, &ground.clock);
        let failing = Arc::new(Failing::new(store.clone(), vec![fault]));
        let first = write(failing.clone()).await;
        assert_invariants(ground, &store, "the crash").await;
        write(store.clone()).await.unwrap_or_else(|error| panic!("after {first:?}: {error:?}"));
        assert_invariants(ground, &store, "the next run").await;
        let reader = ground.reader_with(store.clone(), None);
        let found = reader.stretches(super::wal::SYSTEM, None).await.unwrap();
        let chain = lifeboat::repo::window::chain(&found.good);
        assert!(chain.forks.is_empty() && chain.gaps.is_empty() && found.bad.is_empty());
        assert_eq!(chain.windows.len(), 1);
        assert_eq!(chain.windows[0].to, ground.server.at());
        assert_eq!(found.good.len(), 5, "each piece is there once");
        failing.calls()
    };
    sweep("stream", attempt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expire_that_dies_at_any_call_leaves_no_envelope_without_what_it_names() {
    let mut ground = small().await;
    // A second point, which reuses packs of the first; then the first one's time comes, and its slack's.
    ground.clock.advance(HOUR * 4);
    let wal = ground.wal_of_backup(2);
    ground.back_up_with(&ground.writer(), &wal, Ground::little(2), &Quiet::default()).await.unwrap();
    ground.clock.advance(DAY * 35 - HOUR * 3);
    let before = ground.store.snapshot();
    let ground = &ground;
    let run = async |store: Arc<dyn Store>| {
        expire::run(store, ground.signers(), &ground.clock, expiring(false), &mut |_| {}).await
    };
    let whole = on(&before, &ground.clock);
    run(whole.clone()).await.unwrap();
    let left = whole.names();
    assert!(left.len() < ground.store.names().len() && left.iter().any(|name| name.contains("/points/")));
    let attempt = async |fault: Fault| {
        let store = on(&before, &ground.clock);
        let failing = Arc::new(Failing::new(store.clone(), vec![fault]));
        let first = run(failing.clone()).await;
        assert_invariants(ground, &store, "the crash").await;
        let again = run(store.clone()).await;
        again.unwrap_or_else(|error| panic!("after {:?}: {error:?}", first.err()));
        assert_eq!(store.names(), left, "the next run takes the rest, and no more");
        failing.calls()
    };
    sweep("expire", attempt).await;
    assert_restores(ground, &whole, When::Latest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_dies_at_any_call_of_either_store_is_whole_after_the_next_one() {
    let mut ground = Ground::empty();
    ground.work(1, 100);
    ground.stream(&[false]).await;
    let wal = ground.wal_of_backup(1);
    ground.back_up_with(&ground.writer(), &wal, Ground::little(1), &Quiet::default()).await.unwrap();
    let ground = &ground;
    let run = async |from: Arc<dyn Store>, to: Arc<dyn Store>| {
        let (name, signers, options) = ("drawer".to_owned(), ground.signers(), Options::default());
        Copy { from, to, name, signers, options }.run(&Quiet::default()).await
    };
    for fails in ["source", "copy"] {
        let attempt = async |fault: Fault| {
            let to = Arc::new(MemoryStore::new(ground.clock.clone()));
            let failing: Arc<Failing>;
            let first = if fails == "source" {
                failing = Arc::new(Failing::new(ground.store.clone(), vec![fault]));
                run(failing.clone(), to.clone()).await
            } else {
                failing = Arc::new(Failing::new(to.clone(), vec![fault]));
                run(ground.store.clone(), failing.clone()).await
            };
            assert_invariants(ground, &to, "the crash").await;
            let again = run(ground.store.clone(), to.clone()).await;
            let copied = again.unwrap_or_else(|error| panic!("after {:?}: {error:?}", first.err()));
            assert!(copied.damaged.is_empty() && copied.bad.is_empty(), "{copied:?}");
            assert_eq!(to.names(), ground.store.names());
            assert_invariants(ground, &to, "the next run").await;
            failing.calls()
        };
        sweep(&format!("copy, {fails} failing"), attempt).await;
    }
}

/// Two keys stores with acme's key, an eraser, and a store for the ledger.
struct Keys {
    stores: [Arc<MemoryStore>; 2],
    erasers: Signers,
    eraser: std::path::PathBuf,
}

impl Keys {
    async fn new(ground: &Ground) -> Self {
        let stores = [(); 2].map(|()| Arc::new(MemoryStore::new(ground.clock.clone())));
        let eraser = ground.path("eraser");
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "eraser", "-f"])
            .arg(&eraser)
            .status();
        assert!(made.unwrap().success());
        let public = std::fs::read_to_string(eraser.with_extension("pub")).unwrap();
        let line = format!("eraser namespaces=\"{}\" {public}", erasure::NAMESPACE);
        std::fs::write(ground.path("erasers"), line).unwrap();
        let erasers = Signers::read_for(&ground.path("erasers"), erasure::NAMESPACE).unwrap();
        let keys = Self { stores, erasers, eraser };
        let seals = Seals { custody: Identity::generate().to_public(), drill: None };
        let identities = BTreeMap::from([((acme(), 1), Identity::generate())]);
        deposit(&keys.plain(), &seals, &identities, DAY).await.unwrap();
        let copy = Registered::new(acme(), "safe".into(), "Alice".into(), None, ground.clock.now());
        copies::register(&keys.plain(), &copy, DAY).await.unwrap();
        keys
    }

    fn plain(&self) -> KeyStores {
        Self::of([self.stores[0].clone(), self.stores[1].clone()])
    }

    fn of(stores: [Arc<dyn Store>; 2]) -> KeyStores {
        let named = ["one", "two"].into_iter().zip(stores);
        KeyStores(named.map(|(name, store)| KeyStore { name: name.into(), store }).collect())
    }

    /// The whole of it: asked for, carried out, the copy confirmed.
    async fn shred(&self, ground: &Ground, ledger: &dyn Store, stores: &KeyStores) -> Result<bool, Failure> {
        let (now, locked_until) = (ground.clock.now(), ground.until(400));
        let shredder = Shredder { store: ledger, erasers: &self.erasers, key: &self.eraser, stores, now, locked_until };
        let erasure = shredder.request(&acme(), [1]).await?;
        for standing in shredder.advance(&erasure).await? {
            if let Some(trouble) = standing.trouble {
                return Err(Failure::new(lifeboat::failure::Kind::Unreachable, standing.store, trouble, ""));
            }
        }
        shredder.confirm(&erasure, "safe", Confirmed::Deleted { host: "here".into() }).await?;
        Ok(shredder.find(&acme()).await?.is_some_and(|erasure| erasure.complete()))
    }

    /// What the ledger says, held against what is there.
    async fn assert_true(&self, ledger: &dyn Store) {
        let ledger = Ledger::read(ledger, &self.erasers).await.unwrap();
        assert!(ledger.unbelieved.is_empty(), "{:?}", ledger.unbelieved);
        for erasure in ledger.erasures() {
            assert!(ledger.erased().contains_key(&(acme(), 1)));
            for store in &self.plain().0 {
                let left = shred::files(store, &erasure).await.unwrap();
                assert!(!erasure.stores[&store.name] || left.is_empty(), "it says that {} has lost it", store.name);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shredding_that_dies_at_any_call_of_any_store_never_says_more_than_was_done() {
    let ground = &Ground::empty();
    let mut keys = Keys::new(ground).await;
    // Nobody lifts locks: they lapse, then the keys go.
    ground.clock.advance(DAY * 2);
    let before = [keys.stores[0].snapshot(), keys.stores[1].snapshot()];
    for fails in ["ledger", "one", "two"] {
        let shared = tokio::sync::Mutex::new(&mut keys);
        let attempt = async |fault: Fault| {
            let mut keys = shared.lock().await;
            for (store, before) in keys.stores.iter().zip(&before) {
                store.roll_back(before);
            }
            keys.erasers = Signers::read_for(&ground.path("erasers"), erasure::NAMESPACE).unwrap();
            let ledger = Arc::new(MemoryStore::new(ground.clock.clone()));
            let inner: Arc<MemoryStore> = match fails {
                "ledger" => ledger.clone(),
                "one" => keys.stores[0].clone(),
                _ => keys.stores[1].clone(),
            };
            let failing = Arc::new(Failing::new(inner, vec![fault]));
            let (mut one, mut two): (Arc<dyn Store>, Arc<dyn Store>) = (keys.stores[0].clone(), keys.stores[1].clone());
            let mut book: Arc<dyn Store> = ledger.clone();
            match fails {
                "ledger" => book = failing.clone(),
                "one" => one = failing.clone(),
                _ => two = failing.clone(),
            }
            let first = keys.shred(ground, &*book, &Keys::of([one, two])).await;
            keys.assert_true(&*ledger).await;
            let again = keys.shred(ground, &*ledger, &keys.plain()).await;
            assert!(again.unwrap_or_else(|error| panic!("after {:?}: {error:?}", first.err())), "it is complete");
            keys.assert_true(&*ledger).await;
            failing.calls()
        };
        sweep(&format!("shred, {fails} failing"), attempt).await;
    }
}
