//! The work itself: objects into the copy, some envelopes ahead, and each envelope after everything it names.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use super::inventory::{Live, Present, Source, key};
use super::plan::Plan;
use super::{Copied, Copy, CopyError, Damaged};
use crate::failure;
use crate::ids::Digest;
use crate::repo::envelope::ObjectRef;
use crate::repo::error::RepoError;
use crate::repo::{fetch, name};
use crate::store::{Listed, LockState, StoreError};
use crate::watch::{self, Watch};

/// Of how many envelopes of a chain the objects are on their way before the first is committed.
const AHEAD: usize = 4;
/// How many objects of one envelope are on their way at once.
const OBJECTS: usize = 8;
/// The unit in which memory is handed out.
const UNIT_BYTES: u64 = 1 << 10;

pub(super) struct Carrier<'a> {
    copy: &'a Copy,
    source: &'a Source,
    present: &'a Present,
    watch: &'a dyn Watch,
    memory: Semaphore,
    memory_units: u32,
    /// Objects that this run brought, or whose locks it compared: each once, whoever names it.
    cells: Mutex<HashMap<[u8; 16], Arc<OnceCell<()>>>>,
    /// Envelopes that the copy has in full.
    committed: Mutex<HashSet<String>>,
    tally: Tally,
    copied: Mutex<Copied>,
}

#[derive(Default)]
struct Tally {
    envelopes: AtomicU64,
    objects: AtomicU64,
    bytes: AtomicU64,
    extended: AtomicU64,
    held: AtomicU64,
    /// The credential may not hold, which was said.
    cannot_hold: AtomicBool,
}

impl<'a> Carrier<'a> {
    pub fn new(copy: &'a Copy, source: &'a Source, present: &'a Present, plan: &Plan, watch: &'a dyn Watch) -> Self {
        let units = (copy.options.bytes_under_way / UNIT_BYTES).clamp(1, 1 << 28);
        let memory_units = u32::try_from(units).unwrap_or(1 << 28);
        let under_way: HashSet<usize> = plan.chains.iter().chain(&plan.points).flatten().copied().collect();
        let whole = source.live.iter().enumerate().filter(|(at, each)| {
            let envelope = &each.signed.envelope;
            !under_way.contains(at) && present.envelope(&envelope.name, envelope.bytes).is_some()
        });
        let committed = whole.map(|(_, each)| each.signed.envelope.name.clone()).collect();
        Self {
            copy,
            source,
            present,
            watch,
            memory: Semaphore::new(memory_units as usize),
            memory_units,
            cells: Mutex::default(),
            committed: Mutex::new(committed),
            tally: Tally::default(),
            copied: Mutex::default(),
        }
    }

    /// What was done, added to what was known before.
    pub fn done(self, known: Copied) -> Copied {
        let mut did = self.copied.into_inner().unwrap_or_else(PoisonError::into_inner);
        did.gone.sort();
        did.damaged.sort();
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Copied {
            envelopes: count(&self.tally.envelopes),
            objects: count(&self.tally.objects),
            bytes: count(&self.tally.bytes),
            extended: count(&self.tally.extended),
            held: count(&self.tally.held),
            gone: did.gone,
            damaged: did.damaged,
            ..known
        }
    }

    /// The envelopes of one folder, in order. One that cannot be copied is noted, and the next one's turn comes.
    pub async fn chain(&self, links: &[usize]) -> Result<(), CopyError> {
        let ahead: Vec<_> = links
            .iter()
            .filter_map(|at| self.source.live.get(*at))
            .map(|live| async move { (live, self.objects(live).await) })
            .collect();
        let mut ahead = futures::stream::iter(ahead).buffered(AHEAD);
        while let Some((live, brought)) = ahead.next().await {
            let done = match brought {
                Ok(()) => self.commit(live).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => {}
                Err(error) if error.is_damage() => self.not_copied(live, &error).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn objects(&self, live: &Live) -> Result<(), CopyError> {
        let envelope = &live.signed.envelope;
        for named in envelope.objects.iter().filter(|object| object.name.ends_with(".envelope.json")) {
            if !lock(&self.committed).contains(&named.name) {
                return Err(CopyError::NotCopied { name: named.name.clone() });
            }
        }
        let objects = envelope.objects.iter().filter(|object| !object.name.ends_with(".envelope.json"));
        let each: Vec<_> = objects.map(|wanted| self.ensure(wanted, &live.lock)).collect();
        futures::stream::iter(each).buffer_unordered(OBJECTS).try_collect().await
    }

    /// The object is in the copy, locked at least as `envelope` and as in the source.
    async fn ensure(&self, wanted: &ObjectRef, envelope: &LockState) -> Result<(), CopyError> {
        let cell = Arc::clone(lock(&self.cells).entry(key(&wanted.name, wanted.bytes)).or_default());
        let bring = || async {
            if self.present.has(wanted) && self.align(wanted, envelope).await? {
                return Ok(());
            }
            self.carry(wanted, envelope).await
        };
        cell.get_or_try_init(bring).await?;
        Ok(())
    }

    /// Makes the lock of what the copy has as long as the source's. False when the copy has it no more.
    async fn align(&self, wanted: &ObjectRef, envelope: &LockState) -> Result<bool, CopyError> {
        let known = fetch::versions(&*self.copy.from, &wanted.name).await?;
        // The oldest of the right size is the one that was written; a later one may be junk with a lock of its own.
        let state = match known.iter().find(|listed| listed.bytes == wanted.bytes) {
            Some(listed) => self.lock_of(listed).await?,
            None => None,
        };
        if state.is_none() {
            let what = format!("is missing or cut in the source; copy {} has it", self.copy.name);
            watch::warn(self.watch, &*wanted.name, what, "find out what happened there: `lifeboat verify`");
        }
        self.lengthen(&wanted.name, wanted.bytes, &longest(envelope, state.as_ref())).await
    }

    async fn lock_of(&self, listed: &Listed) -> Result<Option<LockState>, CopyError> {
        match self.copy.from.lock_state(&listed.name, &listed.version).await {
            Ok(state) => Ok(Some(state)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(RepoError::from(error).into()),
        }
    }

    /// Makes every version of that size in the copy locked as `state` says. False when there is none.
    async fn lengthen(&self, name: &str, bytes: u64, state: &LockState) -> Result<bool, CopyError> {
        let to_error = |error| self.copy.to_error(error);
        let to = &self.copy.to;
        let found: Vec<Listed> = to
            .list(name)
            .try_filter(|listed| std::future::ready(listed.name == name && listed.bytes == bytes))
            .try_collect()
            .await
            .map_err(to_error)?;
        let mut there = false;
        for listed in found {
            let has = match to.lock_state(name, &listed.version).await {
                Err(StoreError::NotFound { .. }) => continue,
                has => has.map_err(to_error)?,
            };
            if let Some(until) = state.retained_until.filter(|until| has.retained_until.is_none_or(|has| has < *until))
            {
                match to.extend(name, &listed.version, until).await {
                    Err(StoreError::NotFound { .. }) => continue,
                    extended => extended.map_err(to_error)?,
                }
                self.tally.extended.fetch_add(1, Ordering::Relaxed);
            }
            there = true;
            if state.held && !has.held {
                self.hold(&listed).await?;
            }
        }
        Ok(there)
    }

    /// A legal hold, where the credential may; where it may not, that is said once.
    async fn hold(&self, listed: &Listed) -> Result<(), CopyError> {
        match self.copy.to.hold(&listed.name, &listed.version, true).await {
            Ok(()) => {
                self.tally.held.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error @ StoreError::Unreachable { .. }) => Err(self.copy.to_error(error)),
            Err(error) => {
                if !self.tally.cannot_hold.swap(true, Ordering::Relaxed) {
                    let what = format!("takes no legal holds from this credential: {}", failure::chain(&error));
                    let next = "run `lifeboat hold` on the copy with the holder's credential";
                    watch::warn(self.watch, format!("copy {}", self.copy.name), what, next);
                }
                Ok(())
            }
        }
    }

    async fn carry(&self, wanted: &ObjectRef, envelope: &LockState) -> Result<(), CopyError> {
        let _memory = self.memory(wanted.bytes).await?;
        let (bytes, listed) = fetch::located(&*self.copy.from, wanted).await?;
        let state = longest(envelope, self.lock_of(&listed).await?.as_ref());
        self.put(&wanted.name, bytes, &state).await?;
        self.tally.objects.fetch_add(1, Ordering::Relaxed);
        self.tally.bytes.fetch_add(wanted.bytes, Ordering::Relaxed);
        self.watch.advance(wanted.bytes);
        Ok(())
    }

    async fn memory(&self, bytes: u64) -> Result<SemaphorePermit<'_>, CopyError> {
        let units = u32::try_from(bytes / UNIT_BYTES + 1).unwrap_or(u32::MAX).min(self.memory_units);
        self.memory.acquire_many(units).await.map_err(|_| RepoError::Stopped.into())
    }

    /// Puts an object whose bytes were found right; when another run was first, makes sure that its lock is as long.
    async fn put(&self, name: &str, bytes: Bytes, state: &LockState) -> Result<(), CopyError> {
        let length = bytes.len() as u64;
        let until = state.retained_until.unwrap_or(Timestamp::UNIX_EPOCH);
        match self.copy.to.put(name, bytes, until).await {
            Ok(version) if state.held => {
                let (name, created) = (name.to_owned(), Timestamp::UNIX_EPOCH);
                self.hold(&Listed { name, version, bytes: length, created, current: true }).await
            }
            Ok(_) => Ok(()),
            Err(StoreError::Exists { .. }) if self.lengthen(name, length, state).await? => Ok(()),
            Err(StoreError::Exists { .. }) => Err(CopyError::Occupied { name: name.to_owned() }),
            Err(error) => Err(self.copy.to_error(error)),
        }
    }

    /// Signature, then envelope: exactly the bytes that were believed.
    async fn commit(&self, live: &Live) -> Result<(), CopyError> {
        let envelope = &live.signed.envelope;
        let (at, signed_at) = (&live.signed.version, &live.signed.signature);
        let (Some(bytes), Some(signature)) = (self.read(at).await?, self.read(signed_at).await?) else {
            return Err(RepoError::Missing { name: envelope.name.clone() }.into());
        };
        if Digest::of(&bytes) != envelope.digest {
            return Err(RepoError::Altered { name: envelope.name.clone(), wanted: envelope.digest }.into());
        }
        let state = longest(&live.lock, self.lock_of(signed_at).await?.as_ref());
        self.place(&name::signature(&envelope.name), signature, &state).await?;
        if self.place(&envelope.name, bytes, &live.lock).await? {
            self.tally.envelopes.fetch_add(1, Ordering::Relaxed);
        }
        lock(&self.committed).insert(envelope.name.clone());
        Ok(())
    }

    /// True when it was not there.
    async fn place(&self, name: &str, bytes: Bytes, state: &LockState) -> Result<bool, CopyError> {
        if self.present.has_named(name, bytes.len() as u64) && self.lengthen(name, bytes.len() as u64, state).await? {
            return Ok(false);
        }
        self.put(name, bytes, state).await.map(|()| true)
    }

    async fn read(&self, listed: &Listed) -> Result<Option<Bytes>, CopyError> {
        match self.copy.from.get(&listed.name, Some(&listed.version), None).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(RepoError::from(error).into()),
        }
    }

    /// Notes why an envelope was not copied: it lapsed and went meanwhile, or something is damaged.
    async fn not_copied(&self, live: &Live, error: &CopyError) -> Result<(), CopyError> {
        let (name, copy) = (&live.signed.envelope.name, &self.copy.name);
        if self.lock_of(&live.signed.version).await?.is_none() {
            watch::note(self.watch, name, format!("went from the source meanwhile, and was not copied to {copy}"));
            lock(&self.copied).gone.push(name.clone());
            return Ok(());
        }
        let object = error.object().unwrap_or(name).to_owned();
        let what = failure::chain(error);
        let what = what.strip_prefix(&format!("{object}: ")).unwrap_or(&what).to_owned();
        let next = "look for a good version in another copy; `lifeboat verify` says what else is damaged";
        watch::warn(self.watch, &*object, format!("{what}; {name} was not copied to {copy}"), next);
        lock(&self.copied).damaged.push(Damaged { object, envelope: name.clone(), what });
        Ok(())
    }
}

/// The later end of two locks; held where one is.
fn longest(one: &LockState, other: Option<&LockState>) -> LockState {
    let until = one.retained_until.max(other.and_then(|other| other.retained_until));
    LockState { retained_until: until, held: one.held || other.is_some_and(|other| other.held) }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
