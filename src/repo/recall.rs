//! Envelopes that were read before: who remembers their bytes need not read them again.
//!
//! What is remembered is never believed for being remembered. It stands for a read only where the store lists the very same versions of
//! envelope and signature now (name, version, size, time of creation), and its signature is checked again against today's signers.
//! A memory that is wrong, old or hostile costs reads and nothing else; one that fails is as good as none.
//!
//! A restore and a verification do not use it: they are to see what the store holds.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::fetch::Candidates;
pub use super::fetch::{ReadEnvelope, ReadVersion};
use super::sign::Signers;
use crate::store::Listed;

/// Somebody who remembers. The implementation's failures are its own matter: it then remembers nothing.
#[async_trait]
pub trait Recall: Send + Sync + std::fmt::Debug {
    /// What is remembered below `prefix`: each envelope with its signature.
    async fn recall(&self, prefix: &str) -> Vec<(ReadVersion, ReadVersion)>;

    /// Envelopes that were read now, and the names of those that are no longer there or no longer believed.
    async fn settle(&self, came: &[ReadEnvelope], gone: &[String]);
}

/// One listing's dealings with whoever remembers.
pub(super) struct Memory<'a> {
    recall: Option<&'a dyn Recall>,
    known: BTreeMap<String, (ReadVersion, ReadVersion)>,
    /// Of those known, the ones that the store has as they were.
    stays: Vec<String>,
    came: Vec<ReadEnvelope>,
}

impl<'a> Memory<'a> {
    pub async fn of(recall: Option<&'a dyn Recall>, prefix: &str) -> Self {
        let known = match recall {
            Some(recall) => recall.recall(prefix).await,
            None => Vec::new(),
        };
        let known =
            known.into_iter().map(|(envelope, signature)| (envelope.listed.name.clone(), (envelope, signature)));
        Self { recall, known: known.collect(), stays: Vec::new(), came: Vec::new() }
    }

    /// The envelope at `name`, when it is remembered and the store still has it so.
    pub fn believed(&self, signers: &Signers, name: &str, candidates: &Candidates) -> Option<ReadEnvelope> {
        let (envelope, signature) = self.known.get(name)?;
        // The oldest version that is believed counts, so nothing may lie before it.
        let oldest = candidates.envelopes.first().filter(|listed| same(listed, &envelope.listed))?;
        let signed = candidates.signatures.iter().find(|listed| same(listed, &signature.listed))?;
        let now =
            |listed: &Listed, read: &ReadVersion| ReadVersion { listed: listed.clone(), bytes: read.bytes.clone() };
        ReadEnvelope::believe(signers, now(oldest, envelope), now(signed, signature)).ok()
    }

    /// An envelope that is believed, from memory or from the store.
    pub fn keep(&mut self, read: ReadEnvelope, remembered: bool) {
        if self.recall.is_none() {
            return;
        }
        if remembered {
            self.stays.push(read.verified.name.clone());
        } else {
            self.came.push(read);
        }
    }

    /// Tells whoever remembers what has changed.
    pub async fn settle(mut self) {
        let Some(recall) = self.recall else { return };
        for name in &self.stays {
            self.known.remove(name);
        }
        for read in &self.came {
            self.known.remove(&read.verified.name);
        }
        let gone: Vec<String> = self.known.into_keys().collect();
        recall.settle(&self.came, &gone).await;
    }
}

/// One and the same version: which of them is on top does not matter.
fn same(one: &Listed, other: &Listed) -> bool {
    (&one.name, &one.version, one.bytes, one.created) == (&other.name, &other.version, other.bytes, other.created)
}
