//! Holds: nothing of a scope lapses while an incident is open.
//!
//! An open hold is a marker, `<scope>/holds/<time>-<rand>.hold.json`, with a **legal hold on the marker itself**: only the holder's credential can
//! set or lift one, so no signature is needed to believe it. It says since when and why. While it is open,
//! - [`open`] has put a legal hold on every version that the scope's points and WAL need, transitively, so that the store keeps them;
//! - expire removes nothing of the scope, and nothing of its WAL, held or not ([`super::expire`]).
//!
//! What is written later is locked from birth as always, and nobody but the holder may hold it: [`renew`] does, and has to run more
//! often than the shortest lock (of tails) lasts. [`close`] lifts what no other open hold needs, then the marker's own hold: locks run on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::envelope::{FORMAT, Verified};
use super::error::RepoError;
use super::fetch::{self, REQUESTS};
use super::identities::Identities;
use super::name::{self, HoldName, Name, Stamp};
use super::reader::{Reader, What};
use super::sign::Signers;
use super::window::chain;
use crate::ids::{Scope, SystemId};
use crate::store::{Listed, Store, StoreError};

/// How long a marker is locked; the hold on it is what keeps it.
const MARKER_LOCK: SignedDuration = SignedDuration::from_mins(1);

/// What a marker holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    format: u32,
    scope: Scope,
    opened: Timestamp,
    reason: String,
}

/// A hold that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    pub scope: Scope,
    pub opened: Timestamp,
    pub reason: String,
    /// The marker's name.
    pub marker: String,
    #[serde(skip)]
    version: Listed,
}

/// What a hold covers now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Covered {
    pub envelopes: u64,
    pub objects: u64,
    pub bytes: u64,
    /// Named, and not in the store.
    pub missing: u64,
}

/// What became free when a hold was lifted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// Versions on which the hold was lifted, and their bytes.
    pub objects: u64,
    pub bytes: u64,
    /// Of these, those that no lock covers any more.
    pub free_now: u64,
    /// When the last of the others is free.
    pub last: Option<Timestamp>,
    /// When each point is free.
    pub points: BTreeMap<String, Option<Timestamp>>,
    /// Left held, because another open hold needs them.
    pub shared: u64,
}

/// The open holds of a scope, or of all.
///
/// # Errors
/// The store's.
pub async fn list(store: &dyn Store, scope: Option<&Scope>) -> Result<Vec<Hold>, RepoError> {
    let mut holds = Vec::new();
    // Markers lie in scopes, which all begin with one of these.
    let prefixes: Vec<String> = match scope {
        Some(scope) => vec![HoldName::prefix(scope)],
        None => vec!["tenant/".to_owned(), "cluster/".to_owned()],
    };
    for prefix in prefixes {
        let mut listing = store.list(&prefix);
        while let Some(listed) = listing.try_next().await? {
            let Ok(Name::Hold(name)) = listed.name.parse() else { continue };
            if store.lock_state(&listed.name, &listed.version).await?.held {
                holds.push(read(store, name.scope, listed).await?);
            }
        }
    }
    Ok(holds)
}

/// A marker that is held is open, whatever has become of its text.
async fn read(store: &dyn Store, scope: Scope, listed: Listed) -> Result<Hold, RepoError> {
    let bytes = store.get(&listed.name, Some(&listed.version), None).await?;
    let marker: Option<Marker> = serde_json::from_slice(&bytes).ok();
    let marker = marker.filter(|marker| marker.scope == scope);
    let (opened, reason) = marker.map_or_else(
        || (listed.created, "(its marker cannot be read)".to_owned()),
        |marker| (marker.opened, marker.reason),
    );
    Ok(Hold { scope, opened, reason, marker: listed.name.clone(), version: listed })
}

/// Opens a hold on `scope`, or renews the one that is open, whose reason then stays.
///
/// # Errors
/// The store's; then the hold may be open and incomplete: run it again.
pub async fn open(reader: &Reader, scope: &Scope, reason: &str) -> Result<(Hold, Covered), RepoError> {
    let store = &*reader.store;
    let hold = match list(store, Some(scope)).await?.into_iter().next() {
        Some(hold) => hold,
        None => mark(store, scope, reason).await?,
    };
    let covered = renew(reader, &hold).await?;
    Ok((hold, covered))
}

async fn mark(store: &dyn Store, scope: &Scope, reason: &str) -> Result<Hold, RepoError> {
    let opened = store.now().await?;
    let name = HoldName { scope: scope.clone(), stamp: Stamp::new(opened)? }.to_string();
    let marker = Marker { format: FORMAT, scope: scope.clone(), opened, reason: reason.to_owned() };
    let bytes = serde_json::to_vec_pretty(&marker).map_err(|error| RepoError::Compress(error.into()))?;
    let length = bytes.len() as u64;
    let until = opened.checked_add(MARKER_LOCK).unwrap_or(Timestamp::MAX);
    let version = store.put(&name, Bytes::from(bytes), until).await?;
    store.hold(&name, &version, true).await?;
    let version = Listed { name: name.clone(), version, bytes: length, created: opened, current: true };
    Ok(Hold { scope: scope.clone(), opened, reason: reason.to_owned(), marker: name, version })
}

/// Puts a legal hold on everything that the scope of an open hold needs by now.
///
/// # Errors
/// The store's; run it again.
pub async fn renew(reader: &Reader, hold: &Hold) -> Result<Covered, RepoError> {
    let needs = Needs::of(reader, &hold.scope).await?;
    let store = &*reader.store;
    // Objects first: an envelope that is held never names what is not.
    let objects = cover(store, &needs.objects).await?;
    let envelopes = cover(store, &needs.envelopes).await?;
    Ok(Covered {
        envelopes: envelopes.objects,
        objects: objects.objects + envelopes.objects,
        bytes: objects.bytes + envelopes.bytes,
        missing: objects.missing + envelopes.missing,
    })
}

async fn cover(store: &dyn Store, names: &BTreeMap<String, Option<u64>>) -> Result<Covered, RepoError> {
    let each: Vec<_> = names.iter().map(|(name, bytes)| hold_one(store, name, *bytes)).collect();
    let covered = stream::iter(each).buffer_unordered(REQUESTS);
    covered
        .try_fold(Covered::default(), |sum, bytes| async move {
            Ok(match bytes {
                Some(bytes) => Covered { objects: sum.objects + 1, bytes: sum.bytes + bytes, ..sum },
                None => Covered { missing: sum.missing + 1, ..sum },
            })
        })
        .await
}

/// Holds every version that may be the one; gives its size, `None` when there is none.
async fn hold_one(store: &dyn Store, name: &str, bytes: Option<u64>) -> Result<Option<u64>, RepoError> {
    let mut held = None;
    for listed in fetch::versions(store, name).await? {
        if bytes.is_some_and(|bytes| bytes != listed.bytes) {
            continue;
        }
        match store.hold(name, &listed.version, true).await {
            Ok(()) => held = Some(listed.bytes),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(held)
}

/// Closes a hold: lifts what no other open hold needs, and its own marker's last.
///
/// Legal holds that somebody else set on the same objects, by hand, are lifted too: the store does not say whose they are.
///
/// # Errors
/// The store's; then the hold is still open: run it again.
pub async fn close(reader: &Reader, hold: &Hold) -> Result<Freed, RepoError> {
    let store = &*reader.store;
    let mut others = BTreeSet::new();
    for other in list(store, None).await?.into_iter().filter(|other| other.scope != hold.scope) {
        let needs = Needs::of(reader, &other.scope).await?;
        others.extend(needs.objects.into_keys().chain(needs.envelopes.into_keys()));
    }
    let mut prefixes = vec![format!("{}/", hold.scope)];
    for scope in named_scopes(reader, &hold.scope).await? {
        prefixes.push(format!("{scope}/"));
    }
    for system in systems(&reader.store, &reader.signers, &hold.scope).await? {
        prefixes.push(format!("wal/{system}/"));
        prefixes.extend(span_prefixes(reader, system).await?);
    }
    prefixes.sort();
    prefixes.dedup();
    let mut freed = Freed::default();
    let mut markers = Vec::new();
    for prefix in &prefixes {
        let marker = |listed: &Listed| matches!(listed.name.parse(), Ok(Name::Hold(_)));
        let states = store.list(prefix).map(|listed| async {
            let listed = listed?;
            let lock = store.lock_state(&listed.name, &listed.version).await?;
            Ok::<_, StoreError>((listed, lock))
        });
        let mut held = std::pin::pin!(states.buffer_unordered(REQUESTS));
        while let Some((listed, lock)) = held.try_next().await? {
            if !lock.held {
                continue;
            }
            if marker(&listed) {
                markers.push(listed);
                continue;
            }
            if others.contains(&listed.name) {
                freed.shared += 1;
                continue;
            }
            store.hold(&listed.name, &listed.version, false).await?;
            freed.count(&listed, lock.retained_until, reader.store.now().await?);
        }
    }
    let own = HoldName::prefix(&hold.scope);
    for marker in markers.iter().filter(|marker| marker.name.starts_with(&own)) {
        store.hold(&marker.name, &marker.version, false).await?;
    }
    Ok(freed)
}

impl Freed {
    fn count(&mut self, listed: &Listed, until: Option<Timestamp>, now: Timestamp) {
        self.objects += 1;
        self.bytes += listed.bytes;
        match until.filter(|until| *until > now) {
            Some(until) => self.last = self.last.max(Some(until)),
            None => self.free_now += 1,
        }
        if listed.name.ends_with(".envelope.json") && matches!(listed.name.parse(), Ok(Name::Point(..))) {
            self.points.insert(listed.name.clone(), until);
        }
    }
}

/// Everything that a scope's points and WAL need: names, and the size of the version that is meant where it is known.
struct Needs {
    objects: BTreeMap<String, Option<u64>>,
    envelopes: BTreeMap<String, Option<u64>>,
}

impl Needs {
    async fn of(reader: &Reader, scope: &Scope) -> Result<Self, RepoError> {
        let mut needs = Self { objects: BTreeMap::new(), envelopes: BTreeMap::new() };
        let mut systems = BTreeSet::new();
        for point in reader.envelopes(scope, What::Points).await?.good {
            for object in point.objects.iter().filter(|object| object.name.ends_with(".envelope.json")) {
                if let Ok(Name::Stretch(stretch, _)) = object.name.parse() {
                    systems.insert(stretch.system_id);
                }
                // One that is damaged is not needed any more: nothing can be restored with it.
                match reader.envelope(object).await {
                    Ok(named) => needs.add(&named),
                    Err(RepoError::Store(error)) => return Err(error.into()),
                    Err(error) => tracing::warn!(object.name, error = crate::failure::chain(&error), "not held"),
                }
            }
            needs.add(&point);
        }
        for set in reader.envelopes(scope, What::Sets).await?.good {
            needs.add(&set);
        }
        for system in systems {
            let stored = reader.stretches(system, None).await?.good;
            let windows = chain(&stored).windows;
            for envelope in windows.iter().flat_map(|window| &window.members).filter_map(|at| stored.get(*at)) {
                needs.add(envelope);
            }
        }
        Ok(needs)
    }

    fn add(&mut self, envelope: &Verified) {
        for object in envelope.objects.iter().filter(|object| !object.name.ends_with(".envelope.json")) {
            self.objects.insert(object.name.clone(), Some(object.bytes));
        }
        self.objects.insert(name::signature(&envelope.name), None);
        self.envelopes.insert(envelope.name.clone(), Some(envelope.bytes));
    }
}

/// The systems whose WAL a scope's points name.
///
/// # Errors
/// The store's.
pub(super) async fn systems(
    store: &Arc<dyn Store>,
    signers: &Arc<Signers>,
    scope: &Scope,
) -> Result<BTreeSet<SystemId>, RepoError> {
    let reader = Reader::open(Arc::clone(store), Arc::clone(signers), Arc::new(Identities::open(None)));
    let points = reader.envelopes(scope, What::Points).await?.good;
    let names = points.iter().flat_map(|point| &point.objects).filter_map(|object| object.name.parse().ok());
    Ok(names
        .filter_map(|name| match name {
            Name::Stretch(stretch, _) => Some(stretch.system_id),
            _ => None,
        })
        .collect())
}

/// The other scopes in which a scope's points name sets.
async fn named_scopes(reader: &Reader, scope: &Scope) -> Result<BTreeSet<Scope>, RepoError> {
    let points = reader.envelopes(scope, What::Points).await?.good;
    let names = points.iter().flat_map(|point| &point.objects).filter_map(|object| object.name.parse().ok());
    Ok(names
        .filter_map(|name| match name {
            Name::Set(set, _) if set.scope != *scope => Some(set.scope),
            _ => None,
        })
        .collect())
}

/// Where the spans of a system's stretches lie, in whichever scope.
async fn span_prefixes(reader: &Reader, system: SystemId) -> Result<BTreeSet<String>, RepoError> {
    let stretches = reader.stretches(system, None).await?.good;
    let spans = stretches.iter().filter_map(|stretch| stretch.wal.as_ref()).flat_map(|wal| &wal.spans);
    let own = spans.filter(|span| span.offset.is_none());
    Ok(own.map(|span| format!("{}/wal/{system}/", span.scope)).collect())
}
