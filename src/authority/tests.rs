//! Custody and keys stores under attack: too few, the wrong order, one store gone, one store lying, a ceremony killed at every call.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use age::x25519::Identity;

use super::custody::{CustodyError, generation, proof};
use super::deposit::{Seals, deposit};
use super::key_stores::KeyStoreError;
use super::opening::{self, Custody, Holders};
use super::testing::{Estate, LOCK, acme, globex};
use super::upkeep::{Keep, mend};
use crate::ids::Scope;
use crate::repo::identities::scope_identity_text;
use crate::repo::seal::seal_plain;
use crate::store::StoreError;
use crate::store::failing::Fault;

const TWO_OF_THREE: [&[&str]; 3] = [&["alice", "bob"], &["alice", "carol"], &["bob", "carol"]];

async fn same(estate: &Estate, custody: &Custody, scope: &Scope, epoch: u32, key: &Identity) -> bool {
    let opened = custody.identity(&estate.stores(), scope, epoch, None).await.unwrap();
    opened.to_public() == key.to_public()
}

#[tokio::test]
async fn every_allowed_group_opens_and_every_smaller_one_does_not() {
    let estate = Estate::new();
    let custody = estate.split(&estate.rule(&[&["alice", "bob"], &["alice", "carol", "dave"]])).await;
    let key = estate.key(&custody, &acme(), 1).await;
    let names = ["alice", "bob", "carol", "dave"];
    for mask in 0..16_u32 {
        let here: Vec<&str> = (0..4).filter(|at| mask & (1 << at) != 0).map(|at| names[at]).collect();
        let enough =
            here.contains(&"alice") && (here.contains(&"bob") || here.contains(&"carol") && here.contains(&"dave"));
        match estate.open(&here).await {
            Ok(opened) => assert!(enough && same(&estate, &opened, &acme(), 1, &key).await, "{here:?}"),
            Err(error) => assert!(!enough && matches!(error, CustodyError::NotEnough { .. }), "{here:?}: {error}"),
        }
    }
}

#[tokio::test]
async fn the_real_age_opens_the_chain_down_to_a_tenants_data() {
    let estate = Estate::new();
    let custody = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    let key = estate.key(&custody, &acme(), 1).await;
    std::fs::write(estate.path("sealed"), seal_plain(&key.to_public(), b"a tenant's bytes").unwrap()).unwrap();
    let (alice, bob) = (estate.key_file("alice"), estate.key_file("bob"));
    let script = format!(
        "set -e; cd {}; age -d -i {} two/custody/1/alice.bob.age | age -d -i {} > custody.key; \
         age -d -i custody.key one/tenant/acme/1.age > acme.key; age -d -i acme.key sealed",
        estate.folder.path().display(),
        alice.display(),
        bob.display()
    );
    let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(out.stdout, b"a tenant's bytes", "{}", String::from_utf8_lossy(&out.stderr));
    // What they opened by hand is taken as it is.
    let by_hand = crate::repo::identities::parse_identity(
        &std::fs::read_to_string(estate.path("custody.key")).unwrap(),
        std::path::Path::new("custody.key"),
    );
    let holders = Holders::CustodyKey(Box::new(by_hand.unwrap()));
    let opened = Custody::open(&estate.stores(), holders).await.unwrap();
    assert!(same(&estate, &opened, &acme(), 1, &key).await);
    // In the other order, or alone, it does not open.
    for order in [[&bob, &alice], [&alice, &alice]] {
        let [first, second] = order.map(|path| path.display().to_string());
        let script = format!(
            "age -d -i {first} {}/one/custody/1/alice.bob.age | age -d -i {second}",
            estate.folder.path().display()
        );
        let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(!out.status.success() && out.stdout.is_empty());
    }
}

#[tokio::test]
async fn one_store_alone_is_enough_to_open_and_not_to_seal() {
    let estate = Estate::new();
    let custody = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    let key = estate.key(&custody, &acme(), 1).await;
    for name in ["one", "two"] {
        let stores = estate.only(name);
        let opened = Custody::open(&stores, estate.holders(&["bob", "carol"])).await.unwrap();
        let found = opened.identity(&stores, &acme(), 1, None).await.unwrap();
        assert_eq!(found.to_public(), key.to_public());
        let seals = Seals { custody: custody.recipient.clone(), drill: None };
        let keys = BTreeMap::from([((globex(), 1), Identity::generate())]);
        let error = deposit(&stores, &seals, &keys, LOCK).await.unwrap_err();
        assert!(matches!(error, CustodyError::Stores(KeyStoreError::NotTwo { found: 1 })));
    }
}

#[tokio::test]
async fn a_store_that_is_down_refuses_the_ceremony_and_nothing_is_half_made() {
    let estate = Estate::new();
    let custody = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    for down in ["one", "two"] {
        let (stores, _) = estate.failing(down, &[Fault::Crash { call: 1, done: false }]);
        let seals = Seals { custody: custody.recipient.clone(), drill: None };
        let keys = BTreeMap::from([((acme(), 1), Identity::generate())]);
        let error = deposit(&stores, &seals, &keys, LOCK).await.unwrap_err();
        assert!(matches!(error, CustodyError::Stores(KeyStoreError::Store { .. })), "{error}");
        assert!(!estate.path("one/tenant").exists() && !estate.path("two/tenant").exists());
    }
}

#[tokio::test]
async fn a_ceremony_killed_at_any_call_leaves_a_working_state() {
    let estate = Estate::new();
    let first = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    let old = estate.key(&first, &acme(), 1).await;
    let mut points = 0;
    for failing in ["one", "two"] {
        for nth in 1.. {
            // A holder change that dies...
            let opened = estate.open(&["alice", "bob"]).await.unwrap();
            let newest = generation::current(&estate.stores(), None).await.unwrap().unwrap();
            let earlier = opened.key(newest.number).unwrap();
            let (stores, broken) = estate.failing(failing, &[Fault::Crash { call: nth, done: nth % 2 == 0 }]);
            let rule = estate.rule(&[&["alice", "bob"], &["alice", "dave"]]);
            let made = generation::make(&stores, &rule, Some(&earlier), LOCK, estate.clock.now()).await;
            // ...leaves the one before, whole, or the new one, whole: and the old keys open.
            let current = generation::current(&estate.stores(), None).await.unwrap().unwrap();
            let opened = Custody::open(&estate.stores(), estate.holders(&["alice", "bob"])).await.unwrap();
            assert!(opened.key(current.number).is_some(), "{failing} {nth}");
            assert!(same(&estate, &opened, &acme(), 1, &old).await, "{failing} {nth}");
            // And so does a new key that dies: its epoch is left alone, the next run takes another.
            let (stores, _) = estate.failing(failing, &[Fault::Crash { call: nth, done: nth % 2 == 0 }]);
            let epoch = estate.stores().next_epoch(&globex(), 0).await.unwrap();
            let seals = Seals { custody: current.recipient.clone(), drill: None };
            let keys = BTreeMap::from([((globex(), epoch), Identity::generate())]);
            let deposited = deposit(&stores, &seals, &keys, LOCK).await;
            points += 2;
            if deposited.is_ok() {
                let opened = opened.identity(&estate.stores(), &globex(), epoch, None).await.unwrap();
                assert_eq!(opened.to_public(), keys[&(globex(), epoch)].to_public());
            }
            if made.is_ok() && broken.calls() < nth {
                break;
            }
        }
    }
    let epoch = estate.stores().next_epoch(&globex(), 0).await.unwrap();
    let current = generation::current(&estate.stores(), None).await.unwrap().unwrap();
    let key = estate.key(&current, &globex(), epoch).await;
    assert!(same(&estate, &estate.open(&["alice", "dave"]).await.unwrap(), &globex(), epoch, &key).await);
    assert!(points > 40, "{points} crash points");
}

#[tokio::test]
async fn whoever_leaves_opens_nothing_new_and_the_others_everything() {
    let estate = Estate::new();
    let first = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    let old = estate.key(&first, &acme(), 1).await;
    let opened = estate.open(&["alice", "carol"]).await.unwrap();
    let rule = estate.rule(&[&["alice", "bob"], &["alice", "dave"], &["bob", "dave"]]);
    let second =
        generation::make(&estate.stores(), &rule, opened.key(1).as_ref(), LOCK, estate.clock.now()).await.unwrap();
    assert_eq!((second.number, generation::current(&estate.stores(), None).await.unwrap()), (2, Some(second.clone())));
    let new = estate.key(&second, &acme(), 2).await;
    let custody = estate.open(&["bob", "dave"]).await.unwrap();
    assert!(same(&estate, &custody, &acme(), 1, &old).await && same(&estate, &custody, &acme(), 2, &new).await);
    // Carol with an accomplice still has what they could open together before, and no more.
    std::fs::remove_dir_all(estate.path("one/custody/2")).unwrap();
    std::fs::remove_dir_all(estate.path("two/custody/2")).unwrap();
    let former = estate.open(&["alice", "carol"]).await.unwrap();
    assert!(same(&estate, &former, &acme(), 1, &old).await);
    assert!(matches!(former.identity(&estate.stores(), &acme(), 2, None).await, Err(CustodyError::Damaged { .. })));
}

#[tokio::test]
async fn one_administrator_alone_neither_begins_a_generation_nor_replaces_one() {
    let estate = Estate::new();
    let mine = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    // A whole generation of his own, in his store.
    let other = Estate::new();
    let his = other.split(&other.rule(&[&["alice"]])).await;
    for from in std::fs::read_dir(other.path("one/custody/1")).unwrap() {
        let from = from.unwrap();
        let to = estate.path("one/custody/2").join(from.file_name());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let text = std::fs::read(from.path()).unwrap();
        let text = String::from_utf8_lossy(&text).replace("\"custody\": 1", "\"custody\": 2");
        std::fs::write(to, text).unwrap();
    }
    assert_eq!(generation::current(&estate.stores(), None).await.unwrap(), Some(mine.clone()));
    assert!(generation::all(&estate.stores()).await.unwrap().iter().any(|found| found.recipient == his.recipient));
    let key = estate.key(&mine, &acme(), 1).await;
    assert!(same(&estate, &estate.open(&["alice", "bob"]).await.unwrap(), &acme(), 1, &key).await);
    // In the place of ours: nothing is sealed any more, and what was sealed opens from the other store.
    let forged = std::fs::read_to_string(estate.path("one/custody/2/manifest.json")).unwrap();
    std::fs::write(estate.path("one/custody/1/manifest.json"), forged.replace("\"custody\": 2", "\"custody\": 1"))
        .unwrap();
    let error = generation::current(&estate.stores(), None).await.unwrap_err();
    assert!(matches!(error, CustodyError::Disagree { .. }), "{error}");
    assert!(same(&estate, &estate.open(&["alice", "bob"]).await.unwrap(), &acme(), 1, &key).await);
    // Both together are caught by the pin.
    let manifest = std::fs::read(estate.path("one/custody/1/manifest.json")).unwrap();
    std::fs::write(estate.path("two/custody/1/manifest.json"), manifest).unwrap();
    let error = generation::current(&estate.stores(), Some(&mine.recipient)).await.unwrap_err();
    assert!(matches!(error, CustodyError::Disagree { .. }), "{error}");
}

#[tokio::test]
async fn beside_a_store_that_was_lost_no_other_custody_key_is_begun_and_mending_brings_back_the_one_there_is() {
    let estate = Estate::new();
    let rule = estate.rule(&TWO_OF_THREE);
    let custody = estate.split(&rule).await;
    let key = estate.key(&custody, &acme(), 1).await;
    let before = estate.stores().inventory().await.unwrap();
    for lost in ["one", "two"] {
        std::fs::remove_dir_all(estate.path(lost)).unwrap();
        std::fs::create_dir(estate.path(lost)).unwrap();
        assert_eq!(generation::current(&estate.stores(), None).await.unwrap(), None);
        let error = generation::make(&estate.stores(), &rule, None, LOCK, estate.clock.now()).await.unwrap_err();
        assert!(matches!(&error, CustodyError::Disagree { what } if what.contains("sealed keys")), "{error}");
        // Without the pin everything comes back but what says which key is the one.
        mend(&estate.stores(), &Keep::default(), None, LOCK).await.unwrap();
        assert_eq!(generation::current(&estate.stores(), None).await.unwrap(), None);
        mend(&estate.stores(), &Keep::default(), Some(&custody.recipient), LOCK).await.unwrap();
        assert_eq!(generation::current(&estate.stores(), None).await.unwrap(), Some(custody.clone()));
        assert!(estate.stores().inventory().await.unwrap().keys().eq(before.keys()));
        assert!(same(&estate, &estate.open(&["alice", "bob"]).await.unwrap(), &acme(), 1, &key).await);
    }
}

#[tokio::test]
async fn a_key_cannot_be_passed_off_as_another_scopes_or_epochs() {
    let estate = Estate::new();
    let custody = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    estate.key(&custody, &acme(), 1).await;
    estate.key(&custody, &globex(), 1).await;
    for store in ["one", "two"] {
        let globex = std::fs::read(estate.path(store).join("tenant/globex/1.age")).unwrap();
        std::fs::write(estate.path(store).join("tenant/acme/1.age"), globex).unwrap();
    }
    let opened = estate.open(&["alice", "bob"]).await.unwrap();
    let error = opened.identity(&estate.stores(), &acme(), 1, None).await.err().unwrap();
    assert!(matches!(error, CustodyError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_lies_about_a_key_is_outvoted_or_named() {
    let estate = Estate::new();
    let custody = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    let key = estate.key(&custody, &acme(), 1).await;
    let opened = estate.open(&["alice", "bob"]).await.unwrap();
    // His own key, sealed to the custody key, which anybody can do.
    let planted = Identity::generate();
    let sealed = seal_plain(&custody.recipient, scope_identity_text(&acme(), 1, &planted).as_bytes()).unwrap();
    std::fs::write(estate.path("one/tenant/acme/1.age"), sealed).unwrap();
    let stores = estate.stores();
    assert!(matches!(opened.identity(&stores, &acme(), 1, None).await, Err(CustodyError::Disagree { .. })));
    let wanted = opened.identity(&stores, &acme(), 1, Some(&key.to_public())).await.unwrap();
    assert_eq!(wanted.to_public(), key.to_public());
    // Junk does not even need a decision.
    std::fs::write(estate.path("one/tenant/acme/1.age"), b"junk").unwrap();
    assert!(same(&estate, &opened, &acme(), 1, &key).await);
}

#[tokio::test]
async fn a_file_that_does_not_read_back_is_not_sealed_to() {
    let estate = Estate::new();
    let custody = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    let flip = Fault::Flip { name_contains: "tenant/acme".into(), at: 20 };
    let (stores, _) = estate.failing("two", &[flip]);
    let seals = Seals { custody: custody.recipient.clone(), drill: None };
    let keys = BTreeMap::from([((acme(), 1), Identity::generate())]);
    let error = deposit(&stores, &seals, &keys, LOCK).await.unwrap_err();
    assert!(matches!(error, CustodyError::Stores(KeyStoreError::ReadBack { .. })), "{error}");
    assert_eq!(estate.stores().next_epoch(&acme(), 0).await.unwrap(), 2);
}

#[tokio::test]
async fn the_drill_host_opens_its_own_copies_and_nothing_else() {
    let estate = Estate::new();
    let custody = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    let host = Identity::generate();
    let drill = Some((host.to_public(), BTreeSet::from([acme()])));
    let seals = Seals { custody: custody.recipient.clone(), drill };
    let keys = BTreeMap::from([((acme(), 1), Identity::generate()), ((globex(), 1), Identity::generate())]);
    deposit(&estate.stores(), &seals, &keys, LOCK).await.unwrap();
    let asked = BTreeSet::from([acme(), globex()]);
    let opened = opening::by_drill_host(&estate.stores(), &host, &asked).await.unwrap();
    assert_eq!(opened.keys().collect::<Vec<_>>(), [&(acme(), 1)]);
    assert_eq!(opened[&(acme(), 1)].to_public(), keys[&(acme(), 1)].to_public());
    let stranger = opening::by_drill_host(&estate.stores(), &Identity::generate(), &asked).await.unwrap();
    assert!(stranger.is_empty());
}

#[tokio::test]
async fn key_files_are_locked_from_birth() {
    let estate = Estate::new();
    let custody = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    estate.key(&custody, &acme(), 1).await;
    for store in estate.stores().0 {
        for (name, versions) in store.names("").await.unwrap() {
            let error = store.store.remove(&name.to_string(), &versions[0].version).await.unwrap_err();
            assert!(matches!(error, StoreError::Locked { .. }), "{name}: {error}");
        }
    }
}

#[tokio::test]
async fn a_custodian_proves_his_key_once_per_challenge_and_nobody_for_him() {
    let estate = Estate::new();
    let rule = estate.rule(&TWO_OF_THREE);
    estate.split(&rule).await;
    let (stores, now) = (estate.stores(), estate.clock.now());
    let challenge = proof::challenge(&stores, &rule, "alice", LOCK, now).await.unwrap();
    std::fs::write(estate.path("challenge.age"), &challenge).unwrap();
    let answer = |who: &str| {
        let mut age = std::process::Command::new("age");
        let out = age.arg("-d").arg("-i").arg(estate.key_file(who)).arg(estate.path("challenge.age")).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(answer("bob").is_empty(), "it is sealed to alice alone");
    let right = answer("alice");
    for (who, text) in [("alice", "x"), ("alice", ""), ("bob", right.as_str())] {
        let error = proof::answer(&stores, &rule, who, text, LOCK, now).await.unwrap_err();
        assert!(matches!(error, CustodyError::WrongAnswer { .. }), "{who}: {error}");
    }
    let inventory = stores.inventory().await.unwrap();
    assert!(proof::last(&stores, &inventory, &rule).await.unwrap().is_empty());
    proof::answer(&stores, &rule, "alice", &right, LOCK, now).await.unwrap();
    let again = proof::answer(&stores, &rule, "alice", &right, LOCK, now).await.unwrap_err();
    assert!(matches!(again, CustodyError::WrongAnswer { .. }), "an answer that was seen proves nothing: {again}");
    let inventory = stores.inventory().await.unwrap();
    let last = proof::last(&stores, &inventory, &rule).await.unwrap();
    assert_eq!(last.keys().collect::<Vec<_>>(), ["alice"]);
    // A proof that only one store has counts for nothing.
    std::fs::remove_dir_all(estate.path("two/proofs")).unwrap();
    let inventory = stores.inventory().await.unwrap();
    assert!(proof::last(&stores, &inventory, &rule).await.unwrap().is_empty());
    let stranger = proof::challenge(&stores, &rule, "mallory", LOCK, now).await.unwrap_err();
    assert!(matches!(stranger, CustodyError::Stranger { .. }));
}

#[tokio::test]
async fn nothing_that_is_stored_or_said_shows_a_key() {
    let estate = Estate::new();
    let custody = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    estate.key(&custody, &acme(), 1).await;
    let opened = estate.open(&["alice", "bob"]).await.unwrap();
    let error = estate.open(&["alice"]).await.unwrap_err();
    let said = format!("{opened:?} {custody:?} {error:?} {error}");
    assert!(!said.contains("SECRET"), "{said}");
    for store in estate.stores().0 {
        for name in store.names("").await.unwrap().into_keys() {
            for bytes in store.read(&name).await.unwrap() {
                assert!(!bytes.windows(14).any(|w| w == b"AGE-SECRET-KEY"), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn the_last_number_there_is_put_into_one_store_ends_no_making_of_keys() {
    let estate = Estate::new();
    let custody = estate.split(&estate.rule(&TWO_OF_THREE)).await;
    estate.key(&custody, &acme(), 1).await;
    for name in ["tenant/acme/4294967295.age", "tenant/acme/2.age", "custody/4294967295/manifest.json"] {
        let until = estate.clock.now() + LOCK;
        estate.only("one").0[0].store.put(name, bytes::Bytes::from_static(b"junk"), until).await.unwrap();
    }
    assert_eq!(estate.stores().next_epoch(&acme(), 1).await.unwrap(), 3);
    assert_eq!(estate.stores().next_epoch(&acme(), 7).await.unwrap(), 8);
    let earlier = estate.open(&["alice", "bob"]).await.unwrap().key(1);
    let rule = estate.rule(&[&["alice", "bob"]]);
    let next = generation::make(&estate.stores(), &rule, earlier.as_ref(), LOCK, estate.clock.now()).await.unwrap();
    assert_eq!(next.number, 2);
}
