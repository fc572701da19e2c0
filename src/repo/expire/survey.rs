//! One look at every name: which scopes there are and what lies in them, hold markers, and what is not of this format.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;

use super::policy::{Reason, Verdict};
use crate::ids::Scope;
use crate::repo::erasure;
use crate::repo::name::Name;
use crate::repo::witness::HEADS;
use crate::store::{Listed, Store, StoreError};

/// What a scope's prefix may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Folder {
    Points,
    Sets,
    Packs,
    Spans,
    Readmes,
}

#[derive(Debug, Default)]
pub(super) struct Survey {
    pub scopes: BTreeMap<Scope, BTreeSet<Folder>>,
    /// Every version of a hold's marker.
    pub markers: Vec<Listed>,
    /// Whether drills of the store have left something.
    pub canaries: bool,
    /// Whether another store's chain heads are kept here.
    pub heads: bool,
}

impl Survey {
    /// # Errors
    /// The store's.
    pub async fn of(store: &dyn Store, mut foreign: impl FnMut(Verdict) + Send) -> Result<Self, StoreError> {
        let mut survey = Self::default();
        let mut listing = store.list("");
        while let Some(listed) = listing.try_next().await? {
            let (scope, folder) = match listed.name.parse() {
                Ok(Name::Pack { scope, .. }) => (scope, Folder::Packs),
                Ok(Name::Set(set, _)) => (set.scope, Folder::Sets),
                Ok(Name::Point(point, _)) => (point.scope, Folder::Points),
                Ok(Name::Span { scope, .. }) => (scope, Folder::Spans),
                Ok(Name::Readme { scope, .. }) => (scope, Folder::Readmes),
                Ok(Name::Hold(_)) => {
                    survey.markers.push(listed);
                    continue;
                }
                Ok(Name::Canary { .. }) => {
                    survey.canaries = true;
                    continue;
                }
                // Judged where their folder is gone through.
                Ok(name) if is_wal(&name) => continue,
                Err(_) if listed.name.starts_with(erasure::PREFIX) => {
                    foreign(Verdict::of(&listed, Reason::Ledger));
                    continue;
                }
                Err(_) if listed.name.starts_with(HEADS) => {
                    survey.heads = true;
                    continue;
                }
                // What this version does not know, or knows as none of its business, is nobody's garbage.
                Ok(_) | Err(_) => {
                    foreign(Verdict::of(&listed, Reason::Foreign));
                    continue;
                }
            };
            survey.scopes.entry(scope).or_default().insert(folder);
        }
        Ok(survey)
    }

    /// The scopes that have something of this kind.
    pub fn with(&self, folder: Folder) -> impl Iterator<Item = (&Scope, &BTreeSet<Folder>)> {
        self.scopes.iter().filter(move |(_, folders)| folders.contains(&folder))
    }
}

fn is_wal(name: &Name) -> bool {
    matches!(name, Name::Stretch(..))
}
