//! Locks of key files that roll, and what a person should know about the keys.
//!
//! Each run of `verify` makes every lock end a full `lock` from then. When nobody renews, an attacker who waits could remove keys once the
//! locks have lapsed: so a renewal that was missed is a warning within a day, while four weeks are left. What is to go is not renewed: keys that were erased, the drill
//! host's copies of tenants that opted out, the groups of earlier custody generations.

use std::collections::{BTreeMap, BTreeSet};

use age::x25519::Recipient;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::custody::CustodyError;
use super::custody::generation::Generation;
use super::key_name::KeyName;
use super::key_stores::{Inventory, KeyStore, KeyStoreError, KeyStores, after};
use crate::ids::Scope;
use crate::store::StoreError;
use crate::watch::{Finding, Level};

/// `verify` is expected to renew this often; after as long again it is missed.
const EVERY: SignedDuration = SignedDuration::from_hours(24);

/// What is to be kept.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// By the ledger.
    pub erased: BTreeMap<(Scope, u32), Timestamp>,
    /// The scopes that opted in to the drill host.
    pub drill: BTreeSet<Scope>,
    /// The present generation of custody.
    pub custody: Option<u32>,
}

impl Keep {
    /// Whether a file's lock is to be renewed.
    #[must_use]
    pub fn keeps(&self, name: &KeyName) -> bool {
        let erased = |scope: &Scope, epoch: u32| self.erased.contains_key(&(scope.clone(), epoch));
        match name {
            KeyName::Scope { scope, epoch } => !erased(scope, *epoch),
            KeyName::Drill { scope, epoch } => self.drill.contains(scope) && !erased(scope, *epoch),
            // What is newer than the present generation is a ceremony that died, or one administrator's own.
            KeyName::Group { custody, .. } => self.custody.is_none_or(|present| *custody == present),
            KeyName::Earlier { custody, .. } | KeyName::Manifest { custody } => {
                self.custody.is_none_or(|present| *custody <= present)
            }
            KeyName::Copy { .. } => true,
            // Of use until the next proof, which is due long before.
            KeyName::Challenge { .. } | KeyName::Proof { .. } => false,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Renewed {
    pub files: usize,
    /// Left to lapse.
    pub left: usize,
}

/// Renews the locks of everything that is to be kept, in every store here. A store, or a file, that refuses keeps no other from being
/// renewed: one administrator who says no must not make the other's locks lapse.
///
/// # Errors
/// The first that failed, when everything else was renewed.
pub async fn renew(stores: &KeyStores, keep: &Keep, lock: SignedDuration) -> Result<Renewed, KeyStoreError> {
    let (mut renewed, mut trouble) = (Renewed::default(), None);
    for store in &stores.0 {
        if let Err(error) = renew_in(store, keep, lock, &mut renewed).await {
            trouble.get_or_insert(error);
        }
    }
    trouble.map_or(Ok(renewed), Err)
}

async fn renew_in(
    store: &KeyStore,
    keep: &Keep,
    lock: SignedDuration,
    renewed: &mut Renewed,
) -> Result<(), KeyStoreError> {
    let (until, mut trouble) = (after(store.now().await?, lock), None);
    for (name, versions) in store.names("").await? {
        if !keep.keeps(&name) {
            renewed.left += 1;
            continue;
        }
        match store.renew(&versions, until).await {
            Ok(()) => renewed.files += 1,
            Err(error @ KeyStoreError::Store { source: StoreError::Unreachable { .. }, .. }) => return Err(error),
            Err(error) => drop(trouble.get_or_insert(error)),
        }
    }
    trouble.map_or(Ok(()), Err)
}

/// Copies what only one store has to the other, as it lies there: after a store was lost and begun anew. A manifest only where it names the
/// `pinned` custody key: otherwise one administrator could make both agree on his own.
///
/// # Errors
/// `NotTwo`, or of the stores.
pub async fn mend(
    stores: &KeyStores,
    keep: &Keep,
    pinned: Option<&Recipient>,
    lock: SignedDuration,
) -> Result<Vec<KeyName>, CustodyError> {
    let [one, other] = stores.both()?;
    let mut mended = Vec::new();
    for (from, to) in [(one, other), (other, one)] {
        let there = to.names("").await?;
        for name in from.names("").await?.into_keys().filter(|name| keep.keeps(name) && !there.contains_key(name)) {
            let Some(bytes) = from.read(&name).await?.into_iter().next() else { continue };
            if let KeyName::Manifest { custody } = name
                && Generation::parse(&bytes, custody).map(|found| found.recipient).as_ref() != pinned
            {
                continue;
            }
            to.put(&name, &bytes, lock).await?;
            mended.push(name);
        }
    }
    Ok(mended)
}

/// What is known when the keys are judged.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub inventory: &'a Inventory,
    /// The names of the stores that answered.
    pub stores: &'a [String],
    pub keep: &'a Keep,
    pub lock: SignedDuration,
    /// What the writer seals to.
    pub sealed: &'a BTreeMap<Scope, u32>,
    /// When each custodian last proved his key; `None` for never.
    pub proofs: &'a BTreeMap<String, Option<Timestamp>>,
    pub proof: SignedDuration,
    pub now: Timestamp,
}

/// What a person should know. Pure.
#[must_use]
pub fn judge(known: &Known<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut warn = |object: String, what: String, next: &str| {
        findings.push(Finding { level: Level::Warning, object, what, next: next.to_owned() });
    };
    for (store, late) in late(known) {
        let (name, ends) = late.first;
        let what = match ends {
            Some(ends) if ends > known.now => {
                format!("{} locks were not renewed when due; that of {name} ends at {ends}", late.count)
            }
            _ => format!("{} key files have no lock any more, {name} among them: whoever may delete can", late.count),
        };
        warn(
            format!("keys store {store}"),
            what,
            "find out why `lifeboat verify` did not renew them, and run `lifeboat key renew`",
        );
    }
    for (name, held) in known.inventory.iter().filter(|(name, _)| known.keep.keeps(name)) {
        for store in known.stores.iter().filter(|store| !held.contains_key(*store)) {
            let next = "find out who took it away; `lifeboat key renew --mend` copies it from the other store";
            warn(name.to_string(), format!("is not in keys store {store}"), next);
        }
    }
    for (scope, epoch) in known.sealed {
        let name = KeyName::Scope { scope: scope.clone(), epoch: *epoch };
        if !known.inventory.contains_key(&name) && !known.keep.erased.contains_key(&(scope.clone(), *epoch)) {
            let next = "run `lifeboat key split` where its identity lies, or `lifeboat key rotate`";
            warn(scope.to_string(), format!("epoch {epoch} is sealed to, and its key is in no keys store"), next);
        }
    }
    for (custodian, last) in known.proofs {
        let what = match last {
            Some(last) if known.now.duration_since(*last) <= known.proof => continue,
            Some(last) => format!("last proved his key at {last}"),
            None => "has never proved that he has his key".to_owned(),
        };
        warn(format!("custodian {custodian}"), what, "run `lifeboat key prove NAME --out FILE` and send him the file");
    }
    findings
}

struct Late<'a> {
    count: usize,
    first: (&'a KeyName, Option<Timestamp>),
}

/// Per store, the files whose locks end earlier than a renewal in time would have made them; with the one that ends first.
fn late<'a>(known: &Known<'a>) -> BTreeMap<&'a str, Late<'a>> {
    // Short locks, as tests have them, are renewed more often.
    let missed = after(known.now, known.lock - (EVERY * 2).min(known.lock / 2));
    let mut late: BTreeMap<&str, Late<'a>> = BTreeMap::new();
    for (name, held) in known.inventory.iter().filter(|(name, _)| known.keep.keeps(name)) {
        for (store, held) in held {
            let ends = held.lock.retained_until;
            if ends.is_some_and(|ends| ends >= missed) {
                continue;
            }
            let found = late.entry(store).or_insert(Late { count: 0, first: (name, ends) });
            found.count += 1;
            if ends < found.first.1 {
                found.first = (name, ends);
            }
        }
    }
    late
}

/// Removes what is not to be kept and whose locks have lapsed: with the eraser's credential. What is locked still stays.
///
/// # Errors
/// Of the first store that fails; run again, it goes on.
pub async fn tidy(stores: &KeyStores, keep: &Keep) -> Result<usize, KeyStoreError> {
    let mut removed = 0;
    for store in &stores.0 {
        for (name, versions) in store.names("").await? {
            if keep.keeps(&name) {
                continue;
            }
            for listed in versions {
                match store.store.remove(&listed.name, &listed.version).await {
                    Ok(()) => removed += 1,
                    Err(StoreError::Locked { .. } | StoreError::NotFound { .. }) => {}
                    Err(source) => return Err(KeyStoreError::Store { store: store.name.clone(), source }),
                }
            }
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::{Estate, LOCK, acme, globex};
    use super::*;
    use crate::store::counting::Op;
    use crate::store::failing::{Answer, Fault};

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    async fn findings(estate: &Estate, keep: &Keep, sealed: &[(Scope, u32)]) -> Vec<String> {
        let stores = estate.stores();
        let inventory = stores.inventory().await.unwrap();
        let known = Known {
            inventory: &inventory,
            stores: &["one".to_owned(), "two".to_owned()],
            keep,
            lock: LOCK,
            sealed: &sealed.iter().cloned().collect(),
            proofs: &BTreeMap::new(),
            proof: DAY * 90,
            now: estate.clock.now(),
        };
        judge(&known).into_iter().map(|finding| format!("{}: {}", finding.object, finding.what)).collect()
    }

    async fn estate() -> Estate {
        let estate = Estate::new();
        let custody = estate.split(&estate.rule(&[&["alice", "bob"]])).await;
        estate.key(&custody, &acme(), 1).await;
        estate.key(&custody, &globex(), 1).await;
        estate
    }

    #[tokio::test]
    async fn a_renewal_that_was_missed_is_a_warning_within_a_day_and_while_the_locks_still_hold() {
        let (estate, keep) = (estate().await, Keep { custody: Some(1), ..Keep::default() });
        let sealed = [(acme(), 1), (globex(), 1)];
        assert_eq!(findings(&estate, &keep, &sealed).await, Vec::<String>::new());
        estate.clock.advance(DAY * 2);
        assert_eq!(findings(&estate, &keep, &sealed).await, Vec::<String>::new(), "a renewal may be a day late");
        estate.clock.advance(SignedDuration::from_mins(1));
        let said = findings(&estate, &keep, &sealed).await;
        assert!(said.len() == 2 && said[0].contains("keys store one: 4 locks were not renewed"), "{said:?}");
        renew(&estate.stores(), &keep, LOCK).await.unwrap();
        assert_eq!(findings(&estate, &keep, &sealed).await, Vec::<String>::new());
        estate.clock.advance(DAY * 31);
        let said = findings(&estate, &keep, &sealed).await;
        assert!(said[0].contains("have no lock any more"), "{said:?}");
    }

    #[tokio::test]
    async fn a_store_that_refuses_keeps_the_other_ones_locks_from_nothing() {
        let estate = estate().await;
        let keep = Keep { custody: Some(1), ..Keep::default() };
        for (fault, left) in [(Op::Extend, 3), (Op::Now, 0)] {
            estate.clock.advance(DAY);
            let plan = [Fault::Nth { op: fault, nth: 1, answer: Answer::Other }];
            let (stores, _) = estate.failing("one", &plan);
            renew(&stores, &keep, LOCK).await.unwrap_err();
            let inventory = estate.stores().inventory().await.unwrap();
            let fresh = |store: &str| {
                let held = inventory.values().filter_map(|held| held.get(store));
                held.filter(|held| held.lock.retained_until >= Some(estate.clock.now() + LOCK)).count()
            };
            assert_eq!((fresh("one"), fresh("two")), (left, 4), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn what_was_erased_or_replaced_lapses_and_goes_and_everything_else_is_renewed() {
        let estate = estate().await;
        let erased = BTreeMap::from([((acme(), 1), estate.clock.now())]);
        let keep = Keep { erased, custody: Some(2), ..Keep::default() };
        let renewed = renew(&estate.stores(), &keep, LOCK).await.unwrap();
        assert_eq!(
            renewed,
            Renewed { files: 4, left: 4 },
            "per store: one key and the manifest; one key and one group"
        );
        assert_eq!(tidy(&estate.stores(), &keep).await.unwrap(), 0, "locks still run");
        estate.clock.advance(DAY * 20);
        renew(&estate.stores(), &keep, LOCK).await.unwrap();
        estate.clock.advance(DAY * 11);
        assert_eq!(tidy(&estate.stores(), &keep).await.unwrap(), 4);
        let left: Vec<String> = estate.stores().names("").await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(left, ["tenant/globex/1.age", "custody/1/manifest.json"]);
    }

    #[tokio::test]
    async fn a_file_that_one_store_lost_is_said_and_mended_and_a_manifest_only_by_its_pin() {
        let estate = estate().await;
        let keep = Keep { custody: Some(1), ..Keep::default() };
        std::fs::remove_dir_all(estate.path("two")).unwrap();
        std::fs::create_dir(estate.path("two")).unwrap();
        let said = findings(&estate, &keep, &[(acme(), 2)]).await;
        assert!(said.contains(&"tenant/acme/1.age: is not in keys store two".to_owned()), "{said:?}");
        assert!(
            said.iter().any(|line| line.contains("epoch 2 is sealed to, and its key is in no keys store")),
            "{said:?}"
        );
        let mended = mend(&estate.stores(), &keep, None, LOCK).await.unwrap();
        assert!(!mended.contains(&KeyName::Manifest { custody: 1 }) && mended.len() == 3, "{mended:?}");
        let all = super::super::custody::generation::all(&estate.stores()).await.unwrap();
        let mended = mend(&estate.stores(), &keep, Some(&all[0].recipient), LOCK).await.unwrap();
        assert_eq!(mended, [KeyName::Manifest { custody: 1 }]);
        assert_eq!(findings(&estate, &keep, &[(acme(), 1)]).await, Vec::<String>::new());
    }
}
