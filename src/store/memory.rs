//! A store in memory: honest through the trait, and with a back door for whoever plays its attacker.
//!
//! Versions, delete markers, COMPLIANCE locks and legal holds as a bucket with Object Lock has them, and a clock of its own: the one
//! it is given, plus a skew. So years can be simulated, with a host whose clock is not the store's. What [`Store`]'s calls do
//! keeps the contract. The other methods do what the store's owner, or somebody with another interface to it, could do: put junk on
//! top, hide, alter, drop, roll back. For tests; nothing here survives the process.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use jiff::{SignedDuration, Timestamp};

use super::{Listed, LockState, Promises, Store, StoreError, Version, check_name, check_range};
use crate::clock::Clock;

/// See the module's page.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Clock,
    create_only: bool,
    inside: Mutex<Inside>,
}

#[derive(Debug, Clone, Default)]
struct Inside {
    /// By name, oldest first; the last is on top.
    names: BTreeMap<String, Vec<Entry>>,
    /// Versions made so far: none is ever called like an earlier one.
    made: u64,
    skew: SignedDuration,
}

#[derive(Debug, Clone)]
struct Entry {
    version: Version,
    created: Timestamp,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Object { bytes: Bytes, lock: LockState },
    Marker,
}

/// Everything that a store held at one moment; see [`MemoryStore::roll_back`].
#[derive(Debug, Clone)]
pub struct Snapshot(BTreeMap<String, Vec<Entry>>);

impl MemoryStore {
    /// An empty store whose time is `clock`'s.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, create_only: true, inside: Mutex::default() }
    }

    /// One whose `put` makes another version of a name that is taken, as S3 without conditional writes does.
    #[must_use]
    pub fn not_create_only(clock: Clock) -> Self {
        Self { create_only: false, ..Self::new(clock) }
    }

    /// From now on the store's clock is the given one plus `skew`.
    pub fn set_skew(&self, skew: SignedDuration) {
        self.inside().skew = skew;
    }

    /// Every version of every object, in name order, newest first, as a listing has them.
    #[must_use]
    pub fn listed(&self, prefix: &str) -> Vec<Listed> {
        self.inside().listed(prefix)
    }

    /// The names that have a version.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.listed("").into_iter().map(|listed| listed.name).collect();
        names.dedup();
        names
    }

    /// Puts a version on top, whatever lies there.
    pub fn overwrite(&self, name: &str, bytes: impl Into<Bytes>, locked_until: Timestamp) -> Version {
        let now = self.time();
        let lock = LockState { retained_until: Some(locked_until), held: false };
        self.inside().push(name, now, What::Object { bytes: bytes.into(), lock })
    }

    /// Puts a delete marker on top: nobody finds the name any more who does not list versions.
    pub fn mark_deleted(&self, name: &str) {
        let now = self.time();
        self.inside().push(name, now, What::Marker);
    }

    /// Changes what a version holds, as a disk, or whoever owns it, can. False where there is no such version.
    pub fn alter(&self, name: &str, version: &Version, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut inside = self.inside();
        let Some((bytes, _)) = inside.object(name, version) else { return false };
        let mut altered = bytes.to_vec();
        change(&mut altered);
        *bytes = altered.into();
        true
    }

    /// Takes a version away in spite of its lock. False where there is no such version.
    pub fn drop_version(&self, name: &str, version: &Version) -> bool {
        self.inside().take_out(name, version)
    }

    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.inside().names.clone())
    }

    /// Makes the store what it was, as if the disks had been set back: later versions, locks and removals never happened.
    pub fn roll_back(&self, to: &Snapshot) {
        self.inside().names.clone_from(&to.0);
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self) -> Timestamp {
        let skew = self.inside().skew;
        let now = self.clock.now();
        now.checked_add(skew).unwrap_or(now)
    }
}

impl Inside {
    fn push(&mut self, name: &str, created: Timestamp, what: What) -> Version {
        self.made += 1;
        let version = Version(format!("v{}", self.made));
        self.names.entry(name.to_owned()).or_default().push(Entry { version: version.clone(), created, what });
        version
    }

    fn listed(&self, prefix: &str) -> Vec<Listed> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let below = self.names.range::<str, _>(from).take_while(|(name, _)| name.starts_with(prefix));
        let versions = below.flat_map(|(name, entries)| {
            let top = entries.len().saturating_sub(1);
            entries.iter().enumerate().rev().map(move |(at, entry)| (name, entry, at == top))
        });
        let objects = versions.filter_map(|(name, entry, current)| match &entry.what {
            What::Marker => None,
            What::Object { bytes, .. } => Some(Listed {
                name: name.clone(),
                version: entry.version.clone(),
                bytes: bytes.len() as u64,
                created: entry.created,
                current,
            }),
        });
        objects.collect()
    }

    fn object(&mut self, name: &str, version: &Version) -> Option<(&mut Bytes, &mut LockState)> {
        let entry = self.names.get_mut(name)?.iter_mut().find(|entry| entry.version == *version)?;
        match &mut entry.what {
            What::Object { bytes, lock } => Some((bytes, lock)),
            What::Marker => None,
        }
    }

    fn current(&self, name: &str) -> Option<Bytes> {
        match &self.names.get(name)?.last()?.what {
            What::Object { bytes, .. } => Some(bytes.clone()),
            What::Marker => None,
        }
    }

    fn take_out(&mut self, name: &str, version: &Version) -> bool {
        let Some(entries) = self.names.get_mut(name) else { return false };
        let before = entries.len();
        entries.retain(|entry| entry.version != *version);
        let taken = entries.len() < before;
        if entries.is_empty() {
            self.names.remove(name);
        }
        taken
    }
}

fn absent(name: &str) -> StoreError {
    StoreError::NotFound { name: name.to_owned() }
}

#[async_trait]
impl Store for MemoryStore {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn promises(&self) -> Promises {
        let caveats = vec!["it is gone when the process ends".to_owned()];
        Promises { create_only: self.create_only, locks_enforced: true, lacks: Vec::new(), caveats }
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.time())
    }

    async fn put(&self, name: &str, bytes: Bytes, locked_until: Timestamp) -> Result<Version, StoreError> {
        check_name(name)?;
        let now = self.time();
        if locked_until <= now {
            // As S3 answers: "The retain until date must be in the future".
            let what = format!("a lock until {locked_until} is in the past");
            return Err(StoreError::Other { name: name.to_owned(), what, source: None });
        }
        let mut inside = self.inside();
        if self.create_only && inside.current(name).is_some() {
            return Err(StoreError::Exists { name: name.to_owned() });
        }
        let lock = LockState { retained_until: Some(locked_until), held: false };
        Ok(inside.push(name, now, What::Object { bytes, lock }))
    }

    async fn get(&self, name: &str, version: Option<&Version>, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        check_name(name)?;
        let mut inside = self.inside();
        let found = match version {
            None => inside.current(name),
            Some(version) => inside.object(name, version).map(|(bytes, _)| bytes.clone()),
        };
        let bytes = found.ok_or_else(|| absent(name))?;
        let range = check_range(name, range, bytes.len() as u64)?;
        // Within the object's length, which is one of memory.
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }

    fn list<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<Listed, StoreError>> {
        stream::iter(self.listed(prefix).into_iter().map(Ok)).boxed()
    }

    async fn lock_state(&self, name: &str, version: &Version) -> Result<LockState, StoreError> {
        check_name(name)?;
        self.inside().object(name, version).map(|(_, lock)| lock.clone()).ok_or_else(|| absent(name))
    }

    async fn extend(&self, name: &str, version: &Version, until: Timestamp) -> Result<(), StoreError> {
        check_name(name)?;
        let mut inside = self.inside();
        let (_, lock) = inside.object(name, version).ok_or_else(|| absent(name))?;
        lock.retained_until = lock.retained_until.max(Some(until));
        Ok(())
    }

    async fn hold(&self, name: &str, version: &Version, held: bool) -> Result<(), StoreError> {
        check_name(name)?;
        let mut inside = self.inside();
        inside.object(name, version).ok_or_else(|| absent(name))?.1.held = held;
        Ok(())
    }

    async fn remove(&self, name: &str, version: &Version) -> Result<(), StoreError> {
        check_name(name)?;
        let now = self.time();
        let mut inside = self.inside();
        let (_, lock) = inside.object(name, version).ok_or_else(|| absent(name))?;
        if lock.binds(now) {
            return Err(StoreError::Locked { name: name.to_owned(), until: lock.end() });
        }
        inside.take_out(name, version);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::contract;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn clock() -> Clock {
        Clock::set_to("2026-11-22T08:00:00Z".parse().unwrap())
    }

    async fn put(store: &MemoryStore, text: &'static str) -> Version {
        let until = store.time() + HOUR;
        store.put("a", Bytes::from_static(text.as_bytes()), until).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_keeps_the_contract() {
        let clock = clock();
        for store in [MemoryStore::new(clock.clone()), MemoryStore::not_create_only(clock.clone())] {
            let store: Arc<dyn Store> = Arc::new(store);
            contract::check(|| async { Ok(store.clone()) }, &clock, "c").await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_keeps_the_contract_when_its_clock_is_not_the_hosts() {
        let clock = clock();
        let store = Arc::new(MemoryStore::new(clock.clone()));
        store.set_skew(-10 * HOUR);
        let make = || async { Ok(Arc::clone(&store) as Arc<dyn Store>) };
        contract::check(make, &clock, "c").await.unwrap();
    }

    #[tokio::test]
    async fn locks_lapse_by_the_stores_clock() {
        let clock = clock();
        let store = MemoryStore::new(clock.clone());
        let version = put(&store, "x").await;
        clock.advance(HOUR);
        store.set_skew(-HOUR);
        store.remove("a", &version).await.unwrap_err();
        store.set_skew(SignedDuration::ZERO);
        store.remove("a", &version).await.unwrap();
    }

    #[tokio::test]
    async fn what_an_attacker_lays_on_top_hides_and_leaves_the_version_below() {
        let store = MemoryStore::new(clock());
        let good = put(&store, "good").await;
        store.overwrite("a", "junk", store.time());
        assert_eq!(store.get("a", None, None).await.unwrap(), "junk");
        store.mark_deleted("a");
        assert!(matches!(store.get("a", None, None).await, Err(StoreError::NotFound { .. })));
        assert_eq!(store.get("a", Some(&good), None).await.unwrap(), "good");
        let listed = store.listed("a");
        assert_eq!(listed.iter().map(|l| (l.bytes, l.current)).collect::<Vec<_>>(), [(4, false), (4, false)]);
        assert_eq!(listed.last().unwrap().version, good);
    }

    #[tokio::test]
    async fn it_can_be_altered_robbed_and_rolled_back() {
        let store = MemoryStore::new(clock());
        let empty = store.snapshot();
        let version = put(&store, "good").await;
        assert!(store.alter("a", &version, |bytes| bytes.truncate(2)));
        assert_eq!(store.get("a", None, None).await.unwrap(), "go");
        let short = store.snapshot();
        assert!(store.drop_version("a", &version));
        assert!(!store.drop_version("a", &version) && store.names().is_empty());
        store.roll_back(&short);
        assert_eq!(store.names(), ["a"]);
        store.roll_back(&empty);
        assert!(store.names().is_empty());
        assert_ne!(put(&store, "again").await, version, "a version's name is not used twice");
    }
}
