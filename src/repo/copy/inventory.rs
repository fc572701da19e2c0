//! What there is on both sides: the source's live envelopes, and what the copy has.

use std::collections::{BTreeMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use super::{Copy, CopyError, Options};
use crate::ids::Digest;
use crate::repo::envelope::ObjectRef;
use crate::repo::error::RepoError;
use crate::repo::fetch::{self, REQUESTS, Signed};
use crate::repo::name::SetName;
use crate::repo::sign::Signers;
use crate::repo::witness;
use crate::store::{Listed, LockState, Store, StoreError};

/// An envelope that is believed, and locked or held in the source.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub signed: Signed,
    pub lock: LockState,
}

/// The source's envelopes.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub live: Vec<Live>,
    pub bad: Vec<(String, RepoError)>,
}

impl Source {
    pub async fn read(store: &dyn Store, signers: &Signers, options: &Options) -> Result<Self, RepoError> {
        let now = store.now().await?;
        let mut named = BTreeMap::new();
        for prefix in prefixes(options) {
            named.extend(fetch::candidates(store, &prefix).await?);
        }
        let reads: Vec<_> = named
            .iter()
            .map(|(name, candidates)| async move {
                let read = match fetch::signed(store, signers, name, candidates).await {
                    Ok(signed) => live(store, signed, now).await,
                    Err(error) => Err(error),
                };
                (name, read)
            })
            .collect();
        let mut reads = futures::stream::iter(reads).buffered(REQUESTS);
        let mut source = Self::default();
        while let Some((name, read)) = reads.next().await {
            match read {
                Ok(live) => source.live.extend(live),
                Err(RepoError::Store(error)) => return Err(error.into()),
                Err(error) => source.bad.push((name.clone(), error)),
            }
        }
        Ok(source)
    }
}

/// What is looked at: everything, or the folders in which something of these tenants may lie.
fn prefixes(options: &Options) -> Vec<String> {
    if options.tenants.is_empty() {
        return vec![String::new()];
    }
    let own = options.tenants.iter().flat_map(|scope| [SetName::prefix(scope, None), format!("{scope}/points/")]);
    // Other scopes' sets that the points name: the clusters', and spares' whose database became the tenant's.
    own.chain(["cluster/", "spare/", "wal/"].map(str::to_owned)).collect()
}

/// The envelope with its lock; `None` where it has lapsed, or was removed since it was read.
async fn live(store: &dyn Store, signed: Signed, now: Timestamp) -> Result<Option<Live>, RepoError> {
    match store.lock_state(&signed.envelope.name, &signed.version.version).await {
        Ok(lock) => Ok(lock.binds(now).then_some(Live { signed, lock })),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the copy has, by name and size.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// The first half of SHA-256 over name and size, of every version.
    objects: HashSet<[u8; 16]>,
    /// The locks of envelopes that are there, by name and size: of several versions the shortest, since junk may be locked longer than what it lies on.
    envelopes: BTreeMap<(String, u64), LockState>,
}

impl Present {
    pub async fn read(copy: &Copy) -> Result<Self, CopyError> {
        let mut present = Self::default();
        let mut envelopes: Vec<Listed> = Vec::new();
        let mut listing = copy.to.list("");
        while let Some(listed) = listing.try_next().await.map_err(|error| copy.to_error(error))? {
            present.objects.insert(key(&listed.name, listed.bytes));
            if listed.name.ends_with(".envelope.json") && !listed.name.starts_with(witness::HEADS) {
                envelopes.push(listed);
            }
        }
        drop(listing);
        let reads: Vec<_> = envelopes
            .into_iter()
            .map(|listed| async move {
                match copy.to.lock_state(&listed.name, &listed.version).await {
                    Ok(lock) => Ok(Some(((listed.name, listed.bytes), lock))),
                    Err(StoreError::NotFound { .. }) => Ok(None),
                    Err(error) => Err(copy.to_error(error)),
                }
            })
            .collect();
        let locks: Vec<_> = futures::stream::iter(reads).buffer_unordered(REQUESTS).try_collect().await?;
        for (key, lock) in locks.into_iter().flatten() {
            let known = present.envelopes.entry(key).or_insert_with(|| lock.clone());
            known.retained_until = known.retained_until.min(lock.retained_until);
            known.held &= lock.held;
        }
        Ok(present)
    }

    pub fn envelope(&self, name: &str, bytes: u64) -> Option<&LockState> {
        self.envelopes.get(&(name.to_owned(), bytes))
    }

    pub fn has(&self, wanted: &ObjectRef) -> bool {
        self.has_named(&wanted.name, wanted.bytes)
    }

    pub fn has_named(&self, name: &str, bytes: u64) -> bool {
        self.objects.contains(&key(name, bytes))
    }
}

/// What an object is known by here.
pub(super) fn key(name: &str, bytes: u64) -> [u8; 16] {
    let Digest(digest) = Digest::of(format!("{name}\n{bytes}").as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    key
}
