//! Several stores that hold the same repository, read as one: the estate's own, then its copies.
//!
//! ```text
//! version here        <place>:<version there>     place 0 is asked first
//! a listing           every version of every place that answers, by name; places in their order
//! a read by name      the first place that has the object
//! a read of a version that place's; when it is out of reach, whatever the others have at the name
//! ```
//! So whoever checks what he reads (`repo::fetch`) comes to the next place by himself when an object is missing or altered in one
//! of them. What was read elsewhere than in the first place is told, with object and place. A place that does not answer is left
//! alone from then on while others do.
//!
//! It is for reading: every change is refused. Writers are given the one store they write to.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use super::{Listed, LockState, Promises, Store, StoreError, Version};
use crate::failure::chain;
use crate::watch::{self, Watch};

/// One of several places, with the name that people gave it.
#[derive(Debug, Clone)]
pub struct Place {
    pub name: String,
    pub store: Arc<dyn Store>,
}

/// See the module's page.
pub struct Either {
    places: Vec<Place>,
    /// Which of them did not answer.
    down: Vec<AtomicBool>,
    watch: Arc<dyn Watch>,
}

impl std::fmt::Debug for Either {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Either").field("places", &self.places).finish_non_exhaustive()
    }
}

impl Either {
    /// `places` in the order in which they are asked; findings go to `watch`.
    #[must_use]
    pub fn new(places: Vec<Place>, watch: Arc<dyn Watch>) -> Self {
        let down = places.iter().map(|_| AtomicBool::new(false)).collect();
        Self { places, down, watch }
    }

    /// Those that answered so far, then the others: when all are silent, all are asked again.
    fn order(&self) -> Vec<(usize, &Place)> {
        let silent = |at: &usize| self.down.get(*at).is_some_and(|down| down.load(Ordering::Relaxed));
        let all: Vec<(usize, &Place)> = self.places.iter().enumerate().collect();
        let (first, last): (Vec<_>, Vec<_>) = all.into_iter().partition(|(at, _)| !silent(at));
        if first.is_empty() { last } else { first }
    }

    /// Notes that a place failed. One that does not answer is said once, and left alone while others are there to be read.
    fn failed(&self, at: usize, error: &StoreError) {
        let (Some(place), true) = (self.places.get(at), self.places.len() > 1) else { return };
        let what = if matches!(error, StoreError::Unreachable { .. }) {
            if self.down.get(at).is_none_or(|down| down.swap(true, Ordering::Relaxed)) {
                return;
            }
            format!("is out of reach, and is not read from: {}", chain(error))
        } else {
            format!("cannot be read there: {}", chain(error))
        };
        if at == 0 {
            let next = "check its address, network and credential; what the copies have can still be restored";
            watch::warn(&*self.watch, place_of(place), what, next);
        } else {
            watch::note(&*self.watch, place_of(place), what);
        }
    }

    fn at(&self, name: &str, version: &Version) -> Result<(usize, &Place, Version), StoreError> {
        let parsed = version.0.split_once(':').and_then(|(at, version)| {
            let at: usize = at.parse().ok()?;
            Some((at, self.places.get(at)?, Version(version.to_owned())))
        });
        parsed.ok_or_else(|| StoreError::NotFound { name: name.to_owned() })
    }

    /// Of the first place that has it; the first error where none has.
    async fn first(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let mut trouble = None;
        for (at, place) in self.order() {
            match place.store.get(name, None, range.clone()).await {
                Ok(bytes) => {
                    self.told(at, name, range, &bytes).await;
                    return Ok(bytes);
                }
                Err(error @ StoreError::BadName { .. }) => return Err(error),
                Err(error) => trouble = Some(self.worse(at, trouble, error)),
            }
        }
        Err(trouble.unwrap_or_else(|| StoreError::NotFound { name: name.to_owned() }))
    }

    /// Which of two errors is to be told: that a place is silent goes before that an object is not there.
    fn worse(&self, at: usize, before: Option<StoreError>, error: StoreError) -> StoreError {
        if is_silence(&error) {
            self.failed(at, &error);
        }
        match before {
            Some(before) if !matches!(before, StoreError::NotFound { .. }) => before,
            _ => error,
        }
    }

    /// Says that `name` was read in another place than the first, and why; nothing when the first has the same: which place's version came
    /// first, by two stores' clocks, says nothing about either.
    async fn told(&self, at: usize, name: &str, range: Option<Range<u64>>, bytes: &Bytes) {
        let (Some(first), Some(place)) = (self.places.first(), self.places.get(at)) else { return };
        if at == 0 || self.down.first().is_some_and(|down| down.load(Ordering::Relaxed)) {
            return;
        }
        let versions = first.store.list(name).try_filter(|listed| std::future::ready(listed.name == name));
        let versions: Vec<Listed> = match versions.try_collect().await {
            Ok(versions) => versions,
            Err(error) => return self.failed(0, &error),
        };
        let how = match versions.is_empty() {
            // An envelope may have lapsed and gone there; the witness judges whether it should have.
            true if name.ends_with(".envelope.json") || name.ends_with(".sig") => return,
            true => "missing",
            false => "altered",
        };
        for listed in &versions {
            let read = first.store.get(name, Some(&listed.version), range.clone()).await;
            if read.is_ok_and(|read| read == bytes) {
                return;
            }
        }
        let what = format!("is {how} in {}, and was read from {}", place_of(first), place_of(place));
        watch::warn(
            &*self.watch,
            name,
            what,
            "find out what happened there; `lifeboat verify` says what else is damaged",
        );
    }

    fn only_read(&self, name: &str) -> StoreError {
        let what = "copies are read through here, nothing is changed".to_owned();
        StoreError::Other { name: name.to_owned(), what, source: None }
    }
}

fn place_of(place: &Place) -> String {
    format!("{} ({})", place.name, place.store.place())
}

/// Whether the store itself failed, not the object.
fn is_silence(error: &StoreError) -> bool {
    matches!(error, StoreError::Unreachable { .. } | StoreError::Denied { .. } | StoreError::Other { .. })
}

#[async_trait]
impl Store for Either {
    fn place(&self) -> String {
        self.places.iter().map(place_of).collect::<Vec<_>>().join(", else ")
    }

    fn promises(&self) -> Promises {
        let nothing = || Promises { create_only: false, locks_enforced: false, lacks: Vec::new(), caveats: Vec::new() };
        self.places.first().map_or_else(nothing, |place| place.store.promises())
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        let mut trouble = None;
        for (at, place) in self.order() {
            match place.store.now().await {
                Ok(now) => return Ok(now),
                Err(error) => trouble = Some(self.worse(at, trouble, error)),
            }
        }
        Err(trouble.unwrap_or_else(|| StoreError::NotFound { name: "the clock".to_owned() }))
    }

    async fn put(&self, name: &str, _bytes: Bytes, _locked_until: Timestamp) -> Result<Version, StoreError> {
        Err(self.only_read(name))
    }

    async fn get(&self, name: &str, version: Option<&Version>, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let Some(version) = version else { return self.first(name, range).await };
        let (at, place, version) = self.at(name, version)?;
        match place.store.get(name, Some(&version), range.clone()).await {
            Ok(bytes) => {
                self.told(at, name, range, &bytes).await;
                Ok(bytes)
            }
            Err(error) if is_silence(&error) && self.places.len() > 1 => {
                self.failed(at, &error);
                self.first(name, range).await.map_err(|_| error)
            }
            Err(error) => Err(error),
        }
    }

    fn list<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<Listed, StoreError>> {
        let sides = self.order().into_iter().map(|(at, place)| Side {
            at,
            listing: place.store.list(prefix),
            head: None,
            ended: false,
        });
        let merge = Merge { either: self, sides: sides.collect(), failed: false };
        stream::unfold(merge, |mut merge| async {
            let step = merge.step().await?;
            Some((step, merge))
        })
        .boxed()
    }

    async fn lock_state(&self, name: &str, version: &Version) -> Result<LockState, StoreError> {
        let (_, place, version) = self.at(name, version)?;
        place.store.lock_state(name, &version).await
    }

    async fn extend(&self, name: &str, _version: &Version, _until: Timestamp) -> Result<(), StoreError> {
        Err(self.only_read(name))
    }

    async fn hold(&self, name: &str, _version: &Version, _held: bool) -> Result<(), StoreError> {
        Err(self.only_read(name))
    }

    async fn remove(&self, name: &str, _version: &Version) -> Result<(), StoreError> {
        Err(self.only_read(name))
    }
}

/// The listings of several places, merged by name.
struct Merge<'a> {
    either: &'a Either,
    sides: Vec<Side<'a>>,
    /// The last place broke off: the listing has ended with its error.
    failed: bool,
}

struct Side<'a> {
    at: usize,
    listing: BoxStream<'a, Result<Listed, StoreError>>,
    /// What comes next in it.
    head: Option<Listed>,
    ended: bool,
}

impl Merge<'_> {
    async fn step(&mut self) -> Option<Result<Listed, StoreError>> {
        if self.failed {
            return None;
        }
        let mut at = 0;
        loop {
            let last = self.sides.len() == 1;
            let Some(side) = self.sides.get_mut(at) else { break };
            if side.head.is_none() && !side.ended {
                match side.listing.next().await {
                    Some(Ok(listed)) => side.head = Some(listed),
                    None => side.ended = true,
                    Some(Err(error)) if last => {
                        self.failed = true;
                        return Some(Err(error));
                    }
                    Some(Err(error)) => {
                        self.either.failed(side.at, &error);
                        self.sides.remove(at);
                        continue;
                    }
                }
            }
            at += 1;
        }
        // The first of equals is the first place's.
        let next = self.sides.iter_mut().filter(|side| side.head.is_some()).min_by(|a, b| {
            let name = |side: &Side<'_>| side.head.as_ref().map(|listed| listed.name.clone());
            name(a).cmp(&name(b))
        })?;
        let listed = next.head.take()?;
        let version = Version(format!("{}:{}", next.at, listed.version.0));
        Some(Ok(Listed { version, ..listed }))
    }
}

#[cfg(test)]
mod tests;
