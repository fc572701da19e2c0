//! All that lies in the store, listed once, and the envelopes among it, read.
//!
//! A listing is no snapshot: while it runs, writers commit and the janitor removes. Names come in order, so an envelope can be seen whose
//! pack was put behind the listing's back. Whoever misses something looks again ([`Survey::again`]) before he says so.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _};

use crate::ids::Scope;
use crate::repo::error::RepoError;
use crate::repo::fetch::{self, Candidates, REQUESTS, ReadEnvelope};
use crate::repo::reader::Reader;
use crate::repo::witness::HEADS;
use crate::store::Listed;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Survey {
    /// The versions of each name, oldest first.
    pub versions: BTreeMap<String, Vec<Listed>>,
    pub good: Vec<ReadEnvelope>,
    /// What lies where envelopes lie and may not be acted on.
    pub bad: Vec<(String, RepoError)>,
    /// Names at which only a signature lies.
    pub lost: Vec<String>,
    /// Whose objects were looked at; empty for everybody's.
    pub scopes: BTreeSet<Scope>,
}

impl Survey {
    /// Lists the whole store (or these scopes' prefixes and `wal/`) and reads every envelope.
    ///
    /// # Errors
    /// The store's.
    pub async fn make(reader: &Reader, scopes: &BTreeSet<Scope>) -> Result<Self, RepoError> {
        let mut survey = Self { scopes: scopes.clone(), ..Self::default() };
        let mut prefixes: Vec<String> = scopes.iter().map(|scope| format!("{scope}/")).collect();
        prefixes.push(if scopes.is_empty() { String::new() } else { "wal/".to_owned() });
        for prefix in prefixes {
            let mut listing = reader.store.list(&prefix);
            while let Some(listed) = listing.try_next().await? {
                // Copies of envelopes that lie elsewhere, there for a witness only.
                if listed.name.starts_with(HEADS) {
                    continue;
                }
                survey.versions.entry(listed.name.clone()).or_default().push(listed);
            }
        }
        for versions in survey.versions.values_mut() {
            fetch::oldest_first(versions);
        }
        survey.read_envelopes(reader).await?;
        Ok(survey)
    }

    async fn read_envelopes(&mut self, reader: &Reader) -> Result<(), RepoError> {
        let mut named: BTreeMap<&str, Candidates> = BTreeMap::new();
        for (name, versions) in &self.versions {
            if let Some(envelope) = name.strip_suffix(".envelope.json.sig") {
                let envelope = name.get(..envelope.len() + ".envelope.json".len()).unwrap_or_default();
                named.entry(envelope).or_default().signatures.clone_from(versions);
            } else if name.ends_with(".envelope.json") {
                named.entry(name).or_default().envelopes.clone_from(versions);
            }
        }
        let reads = named.into_iter().map(|(name, candidates)| async move {
            if candidates.envelopes.is_empty() {
                return (name.to_owned(), None);
            }
            let read = fetch::read_envelope(&*reader.store, &reader.signers, name, &candidates).await;
            (name.to_owned(), Some(read))
        });
        let reads: Vec<_> = reads.collect();
        let mut reads = futures::stream::iter(reads).buffered(REQUESTS);
        let (mut good, mut bad, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        while let Some((name, read)) = reads.next().await {
            match read {
                None => lost.push(name),
                Some(Ok(read)) => good.push(read),
                Some(Err(RepoError::Store(error))) => return Err(error.into()),
                Some(Err(error)) => bad.push((name, error)),
            }
        }
        drop(reads);
        (self.good, self.bad, self.lost) = (good, bad, lost);
        Ok(())
    }

    /// Whether an object of this name would have been listed.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        let below = |scope: &Scope| name.strip_prefix(&scope.to_string()).is_some_and(|rest| rest.starts_with('/'));
        self.scopes.is_empty() || name.starts_with("wal/") || self.scopes.iter().any(below)
    }

    /// The versions of `name`, asked for again when the listing had none.
    ///
    /// # Errors
    /// The store's.
    pub async fn again(&self, reader: &Reader, name: &str) -> Result<Vec<Listed>, RepoError> {
        match self.versions.get(name) {
            Some(versions) => Ok(versions.clone()),
            None => fetch::versions(&*reader.store, name).await,
        }
    }
}
