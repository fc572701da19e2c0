//! Key files and the erasure ledger, damaged in every way: keys open from the other keys store, and what was erased stays erased.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use age::x25519::Identity;
use lifeboat::authority::custody::{Rule, generation};
use lifeboat::authority::deposit::{Seals, deposit};
use lifeboat::authority::key_stores::{KeyStore, KeyStores};
use lifeboat::authority::opening::{Custody, Holders};
use lifeboat::repo::erasure::{self, Event, Ledger};
use lifeboat::repo::sign::{NAMESPACE, Signers};
use lifeboat::store::either::{Either, Place};
use lifeboat::store::memory::MemoryStore;
use lifeboat::watch::Quiet;

use super::damage::{Victim, WAYS, Way};
use super::ground::{DAY, Ground, acme, globex};

fn both(one: Arc<MemoryStore>, two: Arc<MemoryStore>) -> KeyStores {
    let store = |name: &str, store| KeyStore { name: name.into(), store };
    KeyStores(vec![store("one", one), store("two", two)])
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_any_file_of_one_keys_store_keeps_nobody_from_his_keys() {
    let ground = Ground::empty();
    let plain = [(); 2].map(|()| Arc::new(MemoryStore::new(ground.clock.clone())));
    let stores = both(plain[0].clone(), plain[1].clone());
    let people: BTreeMap<String, Identity> =
        ["alice", "bob"].map(|name| (name.to_owned(), Identity::generate())).into();
    let custodians = people.iter().map(|(name, key)| (name.clone(), key.to_public())).collect();
    let rule = Rule { custodians, allowed: BTreeSet::from([people.keys().cloned().collect()]) };
    let custody = generation::make(&stores, &rule, None, DAY, ground.clock.now()).await.unwrap();
    let seals = Seals { custody: custody.recipient.clone(), drill: None };
    let keys: BTreeMap<_, _> = [acme(), globex()].map(|scope| ((scope, 1), Identity::generate())).into();
    deposit(&stores, &seals, &keys, DAY).await.unwrap();
    let (names, mut cells) = (plain[0].names(), 0);
    for name in &names {
        let other = names.iter().find(|other| *other != name).unwrap();
        let victim = Victim { kind: "key file", name: name.clone(), other: other.clone(), older: other.clone() };
        for way in WAYS {
            for damaged in 0..2 {
                let stores = [ground.fork(&plain[0]), ground.fork(&plain[1])];
                victim.damage(&stores[damaged], way);
                let stores = both(stores[0].clone(), stores[1].clone());
                let here = Holders::Custodians(people.values().cloned().collect());
                let opened = Custody::open(&stores, here).await.unwrap_or_else(|e| panic!("{name} {way:?}: {e:?}"));
                for ((scope, epoch), key) in &keys {
                    let found = opened.identity(&stores, scope, *epoch, None).await.unwrap();
                    assert_eq!(found.to_public(), key.to_public(), "{name} {way:?}");
                    cells += 1;
                }
            }
        }
    }
    eprintln!("keys: {cells} cells");
    assert!(cells >= 100, "{cells}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_stays_erased_or_the_damage_is_told_and_a_copy_of_the_ledger_heals_it() {
    let ground = Ground::empty();
    // The writer's key plays the eraser: the signers file says that it may.
    let line = std::fs::read_to_string(ground.path("signers")).unwrap().replace(NAMESPACE, erasure::NAMESPACE);
    std::fs::write(ground.path("erasers"), line).unwrap();
    let erasers = Signers::read_for(&ground.path("erasers"), erasure::NAMESPACE).unwrap();
    let sign = |bytes: &[u8]| {
        let signed = ground.bundle.signing.sign(erasure::NAMESPACE, ssh_key::HashAlg::Sha512, bytes).unwrap();
        signed.to_pem(ssh_key::LineEnding::LF).unwrap()
    };
    let mut names = Vec::new();
    for scope in [globex(), acme()] {
        let event = Event::Requested {
            epochs: BTreeSet::from([1]),
            stores: BTreeSet::from(["one".to_owned()]),
            copies: BTreeMap::new(),
        };
        let sign = async |bytes: &[u8]| Ok::<_, erasure::ErasureError>(sign(bytes));
        let times = (ground.clock.now(), ground.until(400));
        let entry = erasure::append(&*ground.store, &erasers, (&scope, None, event), times, sign).await.unwrap();
        names.push(entry.name);
        ground.clock.advance(DAY);
    }
    let mut cells = 0;
    for ending in ["", ".sig"] {
        let [older, name] = [0, 1].map(|at: usize| format!("{}{ending}", names[at]));
        let victim = Victim { kind: "erasure", name, other: older.clone(), older };
        for way in WAYS {
            let (store, copy) = (ground.fork(&ground.store), ground.fork(&ground.store));
            victim.damage(&store, way);
            let ledger = Ledger::read(&*store, &erasers).await.unwrap();
            let erased = ledger.erased().contains_key(&(acme(), 1));
            let told = ledger.unbelieved.contains(&names[1]);
            // An entry that is gone leaves its signature, as one that was never written does: only a copy knows better.
            assert!(erased || told || (way, ending) == (Way::Removed, ""), "{way:?} {ending}");
            assert!(erased || !way.spares_it(), "{way:?} {ending}");
            let place = |name: &str, store: Arc<MemoryStore>| Place { name: name.into(), store };
            let places = vec![place("primary", store), place("drawer", copy)];
            let either = Either::new(places, Arc::new(Quiet::default()));
            let ledger = Ledger::read(&either, &erasers).await.unwrap();
            assert!(ledger.erased().contains_key(&(acme(), 1)), "{way:?} {ending}");
            cells += 2;
        }
    }
    eprintln!("ledger: {cells} cells");
}
