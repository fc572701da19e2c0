//! The freshness witness: what a second copy knows of the newest envelopes, against what the first store shows.
//!
//! A store that is rolled back, or that withholds its newest, shows a repository that is whole and old: nothing in it can tell. A copy can. For
//! each chain (a folder, and in it each writer) the newest envelope that the copy knows is looked for in the store. It knows them
//! from the envelopes that were copied, and from **heads**: envelopes with their signatures under `heads/`, without what they name,
//! which can be published every minute (`lifeboat copy --heads`).
//!
//! An envelope that a copy knows, whose signed lock would still run by the copy's clock, and that the store does not list: the store was rolled
//! back, or withholds it. One that the store lists and whose bytes are wrong is damage, not this. Without a copy that answers,
//! freshness is unproven; with one it is proven up to what the copy knows, and no further.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::envelope::Verified;
use super::error::RepoError;
use super::fetch::{self, Candidates, REQUESTS};
use super::name::{PointName, SetName};
use super::sign::Signers;
use crate::failure::{Failure, Kind, chain};
use crate::ids::{Digest, Scope};
use crate::store::either::Place;
use crate::store::{Store, StoreError};
use crate::watch::Watch;

/// Below this lie envelopes that are here only to be known, each under its full name.
pub const HEADS: &str = "heads/";

/// A lock that ends sooner than this may have been taken for lapsed already by a store whose clock goes ahead.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// How many envelopes of one folder are tried before a believed one is given up on: forgers may pile up names.
const TRIES: usize = 64;

/// How many lapsed ones of one folder are read in the search for one that is withheld.
const LAPSED: usize = 512;

/// What of a repository is looked at.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Whose sets and points.
    pub scopes: Vec<Scope>,
    /// Whose sets and WAL.
    pub clusters: Vec<Scope>,
}

impl About {
    fn prefixes(&self) -> Vec<String> {
        let scopes = self.scopes.iter().flat_map(|scope| [SetName::prefix(scope, None), PointName::prefix(scope)]);
        let clusters = self.clusters.iter().map(|scope| SetName::prefix(scope, None));
        scopes.chain(clusters).chain(std::iter::once("wal/".to_owned())).collect()
    }

    fn concerns(&self, envelope: &Verified) -> bool {
        envelope.wal.is_none() || self.clusters.contains(&envelope.scope)
    }
}

/// The newest envelope of a chain that somebody knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Head {
    pub name: String,
    pub sha256: Digest,
    pub writer: String,
    pub time: Timestamp,
    /// As the envelope says; the store may have locked it longer since.
    pub locked_until: Timestamp,
}

impl From<&Verified> for Head {
    fn from(envelope: &Verified) -> Self {
        Self {
            name: envelope.name.clone(),
            sha256: envelope.digest,
            writer: envelope.writer.clone(),
            // A writer can say that he begins in a thousand years: nothing is begun after it arrived.
            time: envelope.time.min(envelope.created),
            locked_until: envelope.locked_until,
        }
    }
}

/// What one store shows, by folder.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The names of envelopes that it lists.
    pub names: BTreeMap<String, BTreeSet<String>>,
    /// The newest believed one of each folder.
    pub heads: BTreeMap<String, Head>,
}

/// What one copy knows.
#[derive(Debug, Clone)]
pub struct Testimony {
    pub copy: String,
    /// The copy's own clock.
    pub now: Timestamp,
    /// Of each folder the newest believed envelope, and the newest believed one that the store does not list although its lock runs.
    pub heads: BTreeMap<String, Vec<Head>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// Nothing that a copy knows is missing.
    Proven,
    /// No copy could be asked.
    Unproven,
    /// Something that a copy knows is missing although its lock would still run.
    RolledBack,
}

/// A chain of which the store shows less than a copy knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The folder in which the chain lies.
    pub chain: String,
    pub writer: String,
    /// The newest that the store shows there; none when it shows nothing.
    pub shown: Option<Head>,
    pub known: Head,
    pub copy: String,
}

/// What is to be thought of what a store shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub freshness: Freshness,
    /// When the newest envelope was begun that the store shows.
    pub newest_seen: Option<Timestamp>,
    /// When the newest envelope was begun that a copy knows: freshness is proven up to here.
    pub witnessed: Option<Timestamp>,
    /// The copies that answered.
    pub copies: Vec<String>,
    pub lost: Vec<Lost>,
}

/// Compares. Pure.
#[must_use]
pub fn judge(shown: &Shown, testimonies: &[Testimony]) -> Verdict {
    let mut lost: Vec<Lost> = Vec::new();
    for testimony in testimonies {
        for (folder, heads) in &testimony.heads {
            let listed = shown.names.get(folder);
            let runs = |head: &&Head| runs(head.locked_until, testimony.now);
            let is_lost = |head: &&Head| !listed.is_some_and(|names| names.contains(&head.name));
            let Some(head) = heads.iter().filter(runs).filter(is_lost).max_by(|a, b| a.name.cmp(&b.name)) else {
                continue;
            };
            lost.push(Lost {
                chain: folder.clone(),
                writer: head.writer.clone(),
                shown: shown.heads.get(folder).cloned(),
                known: head.clone(),
                copy: testimony.copy.clone(),
            });
        }
    }
    let freshness = match (testimonies.is_empty(), lost.is_empty()) {
        (_, false) => Freshness::RolledBack,
        (true, true) => Freshness::Unproven,
        (false, true) => Freshness::Proven,
    };
    let known = testimonies.iter().flat_map(|testimony| testimony.heads.values().flatten());
    Verdict {
        freshness,
        newest_seen: shown.heads.values().map(|head| head.time).max(),
        witnessed: known.map(|head| head.time).max(),
        copies: testimonies.iter().map(|testimony| testimony.copy.clone()).collect(),
        lost,
    }
}

impl Verdict {
    /// Refuses to take what the store shows for the newest there is.
    ///
    /// # Errors
    /// `Integrity`, naming the chain and both heads.
    pub fn refuse(&self) -> Result<(), Failure> {
        let Some(lost) = self.lost.first() else { return Ok(()) };
        let shown = lost.shown.as_ref().map_or("nothing", |head| head.name.as_str());
        let (name, known, copy, writer) = (&lost.known.name, lost.known.time, &lost.copy, &lost.writer);
        let cause = format!(
            "the store was rolled back, or withholds its newest: it shows {shown}, and copy {copy} knows {name}, which {writer} began at {known}"
        );
        let next = "find out what happened to the store; --accept-rollback goes on with what the store and the copies have together";
        Err(Failure::new(Kind::Integrity, lost.chain.clone(), cause, next))
    }

    /// One sentence for people.
    #[must_use]
    pub fn said(&self) -> String {
        let time = |time: Option<Timestamp>| time.map_or_else(|| "never".to_owned(), |time| time.to_string());
        match self.freshness {
            Freshness::Proven => {
                format!("fresh: {} knows nothing newer; proven up to {}", self.copies.join(", "), time(self.witnessed))
            }
            Freshness::Unproven => format!("newest seen at {}, freshness unproven", time(self.newest_seen)),
            Freshness::RolledBack => {
                let chains: Vec<&str> = self.lost.iter().map(|lost| lost.chain.as_str()).collect();
                format!("rolled back: a copy knows newer envelopes in {}", chains.join(", "))
            }
        }
    }
}

/// Asks the store and every copy, and compares.
///
/// # Errors
/// The store's. A copy that does not answer is no witness, which `watch` is told.
pub async fn look(
    store: &dyn Store,
    copies: &[Place],
    signers: &Arc<Signers>,
    about: &About,
    watch: &dyn Watch,
) -> Result<Verdict, RepoError> {
    let named = envelopes(store, "", about).await?;
    let mut shown = Shown::default();
    for (folder, candidates) in &named {
        shown.names.insert(folder.clone(), candidates.keys().cloned().collect());
        let newest = newest(store, signers, candidates).await?;
        shown.heads.extend(newest.map(|envelope| (folder.clone(), Head::from(&envelope))));
    }
    let mut testimonies = Vec::new();
    for place in copies {
        match testimony(place, signers, about, &shown).await {
            Ok(testimony) => testimonies.push(testimony),
            Err(RepoError::Store(error)) => {
                crate::watch::note(watch, format!("copy {}", place.name), format!("is no witness: {}", chain(&error)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(judge(&shown, &testimonies))
}

async fn testimony(place: &Place, signers: &Signers, about: &About, shown: &Shown) -> Result<Testimony, RepoError> {
    let store = &*place.store;
    let now = store.now().await?;
    let mut heads: BTreeMap<String, Vec<Head>> = BTreeMap::new();
    for below in ["", HEADS] {
        for (folder, candidates) in envelopes(store, below, about).await? {
            let listed = shown.names.get(&folder);
            let hidden = |name: &str| !listed.is_some_and(|names| names.contains(name));
            let known = heads.entry(folder.clone()).or_default();
            // Shorter locks lapse before longer ones: behind a day's point that went, a month's may be withheld.
            let counts = |envelope: &Verified| runs(envelope.locked_until, now) || !about.concerns(envelope);
            for wanted in [
                newest(store, signers, &candidates).await?,
                newest_of(store, signers, arrivals(&candidates, hidden), REQUESTS, counts).await?,
            ] {
                known.extend(wanted.iter().filter(|envelope| about.concerns(envelope)).map(Head::from));
            }
        }
    }
    Ok(Testimony { copy: place.name.clone(), now, heads })
}

type Arrivals<'a> = Vec<(&'a String, &'a Candidates)>;

/// The envelopes that `wanted` wants, newest first: by when the store says that they arrived. A name may say anything, and one far ahead would
/// stay the newest for ever.
fn arrivals(candidates: &BTreeMap<String, Candidates>, wanted: impl Fn(&str) -> bool) -> Arrivals<'_> {
    let mut found: Arrivals<'_> = candidates.iter().filter(|(name, _)| wanted(name)).collect();
    let arrived = |candidates: &Candidates| candidates.envelopes.first().map(|listed| listed.created);
    found.sort_by(|a, b| (arrived(b.1), b.0).cmp(&(arrived(a.1), a.0)));
    found
}

/// The newest envelope that is believed.
async fn newest(
    store: &dyn Store,
    signers: &Signers,
    candidates: &BTreeMap<String, Candidates>,
) -> Result<Option<Verified>, RepoError> {
    newest_of(store, signers, arrivals(candidates, |_| true), 1, |_| true).await
}

/// The first that is believed and counts, `ahead` of them read at once.
async fn newest_of(
    store: &dyn Store,
    signers: &Signers,
    among: Arrivals<'_>,
    ahead: usize,
    counts: impl Fn(&Verified) -> bool,
) -> Result<Option<Verified>, RepoError> {
    let reads = among
        .into_iter()
        .map(|(name, candidates)| async move { (name, fetch::envelope(store, signers, name, candidates).await) });
    let reads: Vec<_> = reads.collect();
    let mut reads = futures::stream::iter(reads).buffered(ahead);
    let (mut strangers, mut lapsed) = (0, 0);
    while let Some((name, read)) = reads.next().await {
        match read {
            Ok(envelope) if counts(&envelope) => return Ok(Some(envelope)),
            Ok(_) => lapsed += 1,
            Err(RepoError::Store(error)) => return Err(error.into()),
            Err(error) => {
                tracing::debug!(name, error = chain(&error), "no head");
                strangers += 1;
            }
        }
        if strangers >= TRIES || lapsed >= LAPSED {
            break;
        }
    }
    Ok(None)
}

/// Whether what is locked until then must be there at `now`.
fn runs(locked_until: Timestamp, now: Timestamp) -> bool {
    locked_until.duration_since(now) > SKEW
}

type Folders = BTreeMap<String, BTreeMap<String, Candidates>>;

/// The envelopes `below` a prefix of the store, by folder and full name.
async fn envelopes(store: &dyn Store, below: &str, about: &About) -> Result<Folders, RepoError> {
    let mut folders = Folders::new();
    for prefix in about.prefixes() {
        for (name, candidates) in fetch::candidates(store, &format!("{below}{prefix}")).await? {
            let name = name.strip_prefix(below).unwrap_or(&name);
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            folders.entry(format!("{folder}/")).or_default().insert(name.to_owned(), candidates);
        }
    }
    Ok(folders)
}

/// Publishes the newest believed envelope of each folder of `from` below [`HEADS`] of `to`. Gives how many were new there.
///
/// # Errors
/// Of either store.
pub async fn publish(from: &dyn Store, to: &dyn Store, signers: &Signers) -> Result<u64, RepoError> {
    let mut folders: BTreeMap<String, BTreeMap<String, Candidates>> = BTreeMap::new();
    for (name, candidates) in fetch::candidates(from, "").await? {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        if !name.starts_with(HEADS) {
            folders.entry(folder).or_default().insert(name, candidates);
        }
    }
    let known: BTreeSet<String> = to.list(HEADS).map_ok(|listed| listed.name).try_collect().await?;
    let (now, mut published) = (to.now().await?, 0);
    for candidates in folders.values() {
        let Some(envelope) = newest(from, signers, candidates).await? else { continue };
        let name = format!("{HEADS}{}", envelope.name);
        if known.contains(&name) || envelope.locked_until <= now {
            continue;
        }
        let Some(found) = candidates.get(&envelope.name) else { continue };
        let read = fetch::read_envelope(from, signers, &envelope.name, found).await?;
        for (version, suffix) in [(read.signature, ".sig"), (read.envelope, "")] {
            match to.put(&format!("{name}{suffix}"), version.bytes, envelope.locked_until).await {
                Ok(_) | Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        published += 1;
    }
    Ok(published)
}

#[cfg(test)]
mod tests;
