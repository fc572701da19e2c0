//! Expire: removing what no lock covers and nothing living names. Needs no key, and no right but list, get and delete.
//!
//! ```text
//! 1 survey   every name: which scopes there are, what is not of this format, which holds are open
//! 2 points   by scope: those that stay protect the sets, the stretches and the readmes they name
//! 3 sets     by scope: those that stay protect their packs; then the scope's packs
//! 4 loose    readmes; canaries of the store's drills; another store's chain heads
//! 5 wal      stretches and tails: those that stay protect their spans; then the spans, by scope
//! ```
//! What is believed (a signature by somebody in the signers file) and whose lock runs **stays**, and so does what it names, whatever
//! locks say. What goes, goes from the top down: the envelope, its signature, then what it named. So no envelope ever names what is gone, and a
//! crash leaves only garbage for the next run. What is not named lives by its own lock: the packs of a backup under way are safe by theirs.
//!
//! Decided by the store's clock and by windows of time, never by counts: a flood of forged points pushes nothing out. Nothing that is
//! forged keeps anything for longer than a true envelope could: see [`policy`].
//!
//! Bounds: one scope's pack names, the estate's span names (16 bytes each), and [`group::CROWD`] versions of one commit are held at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};

use super::error::RepoError;
use super::fetch::REQUESTS;
use super::hold;
use super::name::{Name, ReadmeFile};
use super::sign::Signers;
use super::witness::HEADS;
use crate::clock::Clock;
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::store::{Listed, Store, StoreError};

mod group;
mod judge;
mod names;
pub mod policy;
mod survey;
#[cfg(test)]
mod tests;

pub use policy::{Reason, Verdict};

use names::Names;
use survey::{Folder, Survey};

/// How far this machine's clock and the store's may be apart. Locks are judged by the store's; a host that disagrees by more is a
/// sign that one of them is wrong, and then nothing is deleted.
pub const CLOCKS_APART: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug, thiserror::Error)]
pub enum ExpireError {
    #[error("this machine says {host}, the store says {store}")]
    Clocks { host: Timestamp, store: Timestamp },
    #[error(transparent)]
    Repo(#[from] RepoError),
}

impl From<StoreError> for ExpireError {
    fn from(error: StoreError) -> Self {
        Self::Repo(error.into())
    }
}

impl From<ExpireError> for Failure {
    fn from(error: ExpireError) -> Self {
        match error {
            ExpireError::Repo(error) => error.into(),
            ExpireError::Clocks { .. } => {
                let next = "set this machine's clock; when it is right, the store's cannot be trusted to judge locks";
                Self::new(Kind::Refused, "clock", error.to_string(), next)
            }
        }
    }
}

/// What to remove, and what is known of how things are kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Judge and tell, remove nothing.
    pub dry_run: bool,
    /// Remove nothing outside this scope's prefix.
    pub only: Option<Scope>,
    /// The longest that a true envelope can be locked, from its arrival: no envelope protects anything for longer.
    pub longest: SignedDuration,
    /// How long tails are locked at least: younger ones are not even read.
    pub tail_lock: SignedDuration,
}

/// Objects and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    pub objects: u64,
    pub bytes: u64,
}

/// What a run found and did.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Expired {
    /// The store's time, by which everything was judged.
    pub at: Timestamp,
    pub counts: BTreeMap<Reason, Count>,
    /// Scopes with an open hold.
    pub held: Vec<Scope>,
}

impl Expired {
    /// What was removed, or would be.
    #[must_use]
    pub fn removed(&self) -> Count {
        let gone = self.counts.iter().filter(|(reason, _)| reason.removes());
        gone.fold(Count::default(), |sum, (_, count)| Count {
            objects: sum.objects + count.objects,
            bytes: sum.bytes + count.bytes,
        })
    }
}

/// Receives every verdict.
pub type Sink<'a> = &'a mut (dyn FnMut(Verdict) + Send);

/// One run, at one time.
struct Expire {
    store: Arc<dyn Store>,
    signers: Arc<Signers>,
    options: Options,
    now: Timestamp,
}

/// Removes what nobody needs and nothing locks.
///
/// Expected flow: the janitor's credential; any number of writers and readers at the same time, other janitors too.
/// Guarantees: nothing is removed that a lock or a hold covers, or that a believed envelope names which stays.
/// Assumptions: the store keeps its locks (`doctor --attack`); the signers file is the estate's.
///
/// # Errors
/// `Clocks` before anything is removed; the store's, when what was removed so far stays removed. A refused delete is counted.
pub async fn run(
    store: Arc<dyn Store>,
    signers: Arc<Signers>,
    clock: &Clock,
    options: Options,
    sink: Sink<'_>,
) -> Result<Expired, ExpireError> {
    let (now, host) = (store.now().await?, clock.now());
    if now.duration_since(host).abs() > CLOCKS_APART {
        return Err(ExpireError::Clocks { host, store: now });
    }
    let expire = Expire { store, signers, options, now };
    let mut tally = Tally { expired: Expired { at: now, ..Expired::default() }, sink };
    expire.everything(&mut tally).await?;
    Ok(tally.expired)
}

struct Tally<'a> {
    expired: Expired,
    sink: Sink<'a>,
}

impl Tally<'_> {
    fn add(&mut self, verdict: Verdict) {
        let count = self.expired.counts.entry(verdict.reason).or_default();
        count.objects += 1;
        count.bytes += verdict.bytes;
        (self.sink)(verdict);
    }

    /// What was too much to look at singly.
    fn crowd(&mut self, crowd: Count) {
        if crowd.objects > 0 {
            let count = self.expired.counts.entry(Reason::Crowded).or_default();
            count.objects += crowd.objects;
            count.bytes += crowd.bytes;
        }
    }
}

impl Expire {
    async fn everything(&self, tally: &mut Tally<'_>) -> Result<(), ExpireError> {
        let survey = Survey::of(&*self.store, |foreign| tally.add(foreign)).await?;
        let mut open = Vec::new();
        for marker in &survey.markers {
            if let Some(verdict) = self.judge_marker(marker, &mut open).await? {
                tally.add(verdict);
            }
        }
        tally.expired.held.clone_from(&open);
        let mut by_points = Names::default();
        for (scope, _) in survey.with(Folder::Points) {
            let prefix = format!("{scope}/points/");
            let held = open.contains(scope);
            self.groups(&prefix, self.may_remove(Some(scope)), &Names::default(), &|_| held, &mut by_points, tally)
                .await?;
        }
        // The WAL that held tenants need, told by what their points name.
        let held_wal = self.held_systems(&open).await?;
        for (scope, folders) in &survey.scopes {
            let mut packs = Names::default();
            let held = open.contains(scope);
            if folders.contains(&Folder::Sets) {
                let prefix = format!("{scope}/sets/");
                self.groups(&prefix, self.may_remove(Some(scope)), &by_points, &|_| held, &mut packs, tally).await?;
            }
            if folders.contains(&Folder::Packs) && self.may_remove(Some(scope)) {
                self.leaves(&format!("{scope}/packs/"), &packs, held, tally).await?;
            }
        }
        for (scope, _) in survey.with(Folder::Readmes) {
            if self.may_remove(Some(scope)) {
                for file in ReadmeFile::ALL {
                    self.leaves(&file.prefix(scope), &by_points, open.contains(scope), tally).await?;
                }
            }
        }
        if survey.canaries && self.may_remove(None) {
            self.leaves("canary/", &Names::default(), false, tally).await?;
        }
        if survey.heads && self.may_remove(None) {
            self.leaves(HEADS, &Names::default(), false, tally).await?;
        }
        let mut spans = Names::default();
        let held = |stem: &str| held_wal.iter().any(|prefix| stem.starts_with(prefix.as_str()));
        self.groups("wal/", self.may_remove(None), &by_points, &held, &mut spans, tally).await?;
        for (scope, _) in survey.with(Folder::Spans) {
            if self.may_remove(Some(scope)) {
                self.leaves(&format!("{scope}/wal/"), &spans, open.contains(scope), tally).await?;
            }
        }
        Ok(())
    }

    /// Whether this run is about the scope (or, with `None`, about the WAL that scopes share).
    fn may_remove(&self, scope: Option<&Scope>) -> bool {
        self.options.only.is_none() || self.options.only.as_ref() == scope
    }

    async fn held_systems(&self, open: &[Scope]) -> Result<Vec<String>, ExpireError> {
        let mut prefixes = Vec::new();
        for scope in open {
            let systems = hold::systems(&self.store, &self.signers, scope).await?;
            prefixes.extend(systems.into_iter().map(|system| format!("wal/{system}/")));
        }
        Ok(prefixes)
    }

    /// Judges every commit below `prefix`; what those that stay name is added to `names`.
    async fn groups(
        &self,
        prefix: &str,
        may_remove: bool,
        named: &Names,
        held: &(dyn Fn(&str) -> bool + Sync),
        names: &mut Names,
        tally: &mut Tally<'_>,
    ) -> Result<(), ExpireError> {
        let groups = group::groups(self.store.list(prefix));
        let judged = groups.map(|group| async {
            let group = group?;
            let held = held(&group.stem);
            self.judge_group(group, named, held, may_remove).await
        });
        let mut judged = std::pin::pin!(judged.buffer_unordered(REQUESTS));
        while let Some(outcome) = judged.try_next().await? {
            outcome.named.iter().for_each(|object| names.add(&object.name, object.bytes));
            if may_remove {
                tally.crowd(outcome.crowd);
                outcome.verdicts.into_iter().for_each(|verdict| tally.add(verdict));
            }
        }
        Ok(())
    }

    /// Judges what commits elsewhere name: packs, spans, readmes; and canaries and heads, which nobody names.
    async fn leaves(&self, prefix: &str, names: &Names, held: bool, tally: &mut Tally<'_>) -> Result<(), ExpireError> {
        let listing = self.store.list(prefix).try_filter(|listed| std::future::ready(is_leaf(listed)));
        let judged = listing.map(|listed| async move {
            let listed = listed?;
            match names.contains(&listed.name, listed.bytes) {
                true => Ok::<_, ExpireError>(Verdict::of(&listed, Reason::Named)),
                false if held => Ok(Verdict::of(&listed, Reason::HoldOpen)),
                false => self.judge_alone(&listed, Reason::Unnamed).await,
            }
        });
        let mut judged = std::pin::pin!(judged.buffer_unordered(REQUESTS));
        while let Some(verdict) = judged.try_next().await? {
            tally.add(verdict);
        }
        Ok(())
    }
}

fn is_leaf(listed: &Listed) -> bool {
    listed.name.starts_with(HEADS)
        || matches!(
            listed.name.parse(),
            Ok(Name::Pack { .. } | Name::Span { .. } | Name::Readme { .. } | Name::Canary { .. })
        )
}

/// So that the compiler names the type of a listing.
type Listing<'a> = std::pin::Pin<Box<dyn Stream<Item = Result<Listed, StoreError>> + Send + 'a>>;
