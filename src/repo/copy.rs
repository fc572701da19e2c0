//! The second copy: everything that live envelopes name, from one store into another, without opening anything.
//!
//! ```text
//! inventory   which envelopes of the source are believed and alive, what the copy has        copy/inventory.rs
//! plan        which of them are wanted, and what is missing or locked too short (pure)       copy/plan.rs
//! chains      of each folder its envelopes in order: their objects some links ahead, then signature, envelope
//! points      the same, after everything else: they name envelopes                           copy/carry.rs
//! ```
//! Invariants, at the copy, at every moment: an envelope names only what is there, and is never locked longer than that; no lock is
//! shorter than the source's was when it was read. A killed run leaves objects that nobody names; the next one takes them as they are.
//!
//! It copies bytes whose SHA-256 a believed envelope gives. What else lies in the source (junk versions, delete markers, lapsed
//! envelopes, tails that stretches cover) stays there. Memory: the source's envelopes, 16 bytes for each object of the copy, and
//! [`Options::bytes_under_way`]. What the copy has at the right name and size is not read again: `lifeboat verify` reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use super::error::RepoError;
use super::sign::Signers;
use crate::failure::{self, Failure, Kind};
use crate::ids::Scope;
use crate::store::{Store, StoreError};
use crate::watch::{self, Watch};

mod carry;
mod inventory;
mod plan;
#[cfg(test)]
pub(super) mod tests;

use carry::Carrier;
use inventory::{Present, Source};
use plan::Plan;

/// How many chains are copied at once.
const CHAINS: usize = 8;

/// What is to be copied, and how much at once.
#[derive(Debug, Clone)]
pub struct Options {
    /// Only what restores these tenants: their sets and points, the sets that those name, and all WAL. Empty: everything.
    pub tenants: Vec<Scope>,
    /// Scopes whose keys were destroyed: their sets and points are not copied any more.
    pub erased: BTreeSet<(Scope, u32)>,
    /// Bytes of objects that may be in memory at once; a larger object goes alone.
    pub bytes_under_way: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { tenants: Vec::new(), erased: BTreeSet::new(), bytes_under_way: 256 << 20 }
    }
}

/// A store that gets what another one has. See the module's page.
#[derive(Debug, Clone)]
pub struct Copy {
    pub from: Arc<dyn Store>,
    pub to: Arc<dyn Store>,
    /// What people call the copy.
    pub name: String,
    pub signers: Arc<Signers>,
    pub options: Options,
}

/// What a run did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Envelopes that came to the copy, with everything they name.
    pub envelopes: u64,
    /// Objects that came, besides envelopes and signatures, and their bytes.
    pub objects: u64,
    pub bytes: u64,
    /// Locks made longer, because the source's were.
    pub extended: u64,
    pub held: u64,
    /// Envelopes that the copy had already, in full.
    pub there: u64,
    /// Sets and points of scopes whose keys were destroyed.
    pub erased: u64,
    /// Tails and heartbeats of which later WAL says the same.
    pub covered: u64,
    /// Envelopes that lapsed and were removed from the source meanwhile.
    pub gone: Vec<String>,
    pub damaged: Vec<Damaged>,
    /// Names where envelopes lie that are not believed.
    pub bad: Vec<String>,
}

/// An envelope that was not copied, and the object because of which.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damaged {
    pub object: String,
    pub envelope: String,
    pub what: String,
}

/// What goes wrong while copying, and on which side.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    From(#[from] RepoError),
    #[error("copy {copy}: {source}")]
    To {
        copy: String,
        #[source]
        source: StoreError,
    },
    #[error("{name}: the copy holds other bytes at this name")]
    Occupied { name: String },
    #[error("{name}: was not copied, and is needed")]
    NotCopied { name: String },
}

impl CopyError {
    /// Whether it is about one envelope's objects, and the next envelope can be copied all the same.
    fn is_damage(&self) -> bool {
        match self {
            Self::Occupied { .. } | Self::NotCopied { .. } => true,
            Self::From(error) => !matches!(error, RepoError::Store(_) | RepoError::Stopped),
            Self::To { .. } => false,
        }
    }

    fn object(&self) -> Option<&str> {
        match self {
            Self::Occupied { name } | Self::NotCopied { name } => Some(name),
            Self::From(RepoError::Missing { name } | RepoError::Altered { name, .. }) => Some(name),
            Self::From(_) | Self::To { .. } => None,
        }
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::From(error) => error.into(),
            CopyError::To { copy, source } => {
                let Self { kind, object, cause, next } = source.into();
                Self::new(kind, format!("copy {copy}: {object}"), cause, next)
            }
            CopyError::Occupied { name } => {
                let next = "find out who put them there; move them aside, then run `lifeboat copy` again";
                Self::new(Kind::Integrity, name, "the copy holds other bytes at this name", next)
            }
            CopyError::NotCopied { name } => {
                Self::new(Kind::Integrity, name, "was not copied, and is needed", "see what was said about it")
            }
        }
    }
}

impl Copy {
    /// Copies what is missing, and lengthens what is locked too short.
    ///
    /// Expected flow: run after run, each takes up where the last one ended, however it ended.
    /// Guarantees: the invariants of the module's page; nothing of the source is changed.
    /// Assumptions: the copy may be written to by other runs of this at the same time.
    ///
    /// # Errors
    /// Of either store. Damage of single objects is in [`Copied::damaged`] and no error: everything else was copied.
    pub async fn run(&self, watch: &dyn Watch) -> Result<Copied, CopyError> {
        let (source, present, plan) = self.survey(watch).await?;
        let carrier = Carrier::new(self, &source, &present, &plan, watch);
        watch.stage(&format!("copying to {}", self.name), Some(plan.missing_bytes));
        for chains in [&plan.chains, &plan.points] {
            let each: Vec<_> = chains.iter().map(|chain| carrier.chain(chain)).collect();
            futures::stream::iter(each).buffer_unordered(CHAINS).try_collect::<Vec<()>>().await?;
        }
        Ok(carrier.done(self.said(&source, &plan)))
    }

    /// What [`Copy::run`] would do; nothing is written.
    ///
    /// # Errors
    /// Of either store.
    pub async fn plan(&self, watch: &dyn Watch) -> Result<Copied, CopyError> {
        let (source, _, plan) = self.survey(watch).await?;
        let (envelopes, objects, bytes) = (plan.new_envelopes, plan.missing_objects, plan.missing_bytes);
        Ok(Copied { envelopes, objects, bytes, ..self.said(&source, &plan) })
    }

    async fn survey(&self, watch: &dyn Watch) -> Result<(Source, Present, Plan), CopyError> {
        watch.stage("reading the envelopes", None);
        let source = Source::read(&*self.from, &self.signers, &self.options).await?;
        let present = Present::read(self).await?;
        for (name, error) in &source.bad {
            let what = format!("is not believed, and is not copied: {}", failure::chain(error));
            watch::warn(watch, name, what, "find out who put it there; what it names is not trusted");
        }
        let plan = Plan::of(&source.live, &present, &self.options);
        Ok((source, present, plan))
    }

    fn said(&self, source: &Source, plan: &Plan) -> Copied {
        let bad = source.bad.iter().map(|(name, _)| name.clone()).collect();
        Copied { there: plan.there, erased: plan.erased, covered: plan.covered, bad, ..Copied::default() }
    }

    fn to_error(&self, source: StoreError) -> CopyError {
        CopyError::To { copy: self.name.clone(), source }
    }
}
