//! How the keys stand: for `key list`, `status` and `doctor`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::custody;
use crate::authority::custody::generation::{self, Generation};
use crate::authority::custody::{CustodyError, proof};
use crate::authority::key_stores::Inventory;
use crate::authority::upkeep::{Keep, Known, judge};
use crate::cli::context::Context;
use crate::config::{Config, Role};
use crate::failure::Failure;
use crate::ids::Scope;
use crate::repo::erasure::{Erasure, Ledger};
use crate::repo::key::WriterBundle;
use crate::watch::{Finding, Level};

/// What the keys stores hold, and what a person should know about it.
pub struct Standing {
    /// The names of the keys stores that answered.
    pub stores: Vec<String>,
    pub inventory: Inventory,
    pub keep: Keep,
    pub generation: Option<Generation>,
    pub proofs: BTreeMap<String, Option<Timestamp>>,
    pub findings: Vec<Finding>,
}

impl Standing {
    /// Looks at the keys stores; `None` where the configuration has none. One that does not answer is a warning. Opens nothing.
    ///
    /// # Errors
    /// When none answers, or one fails while it is read.
    pub async fn of(context: &Context, config: &Config, ledger: &Ledger) -> Result<Option<Self>, Failure> {
        let Some(wanted) = &config.keys.custody else { return Ok(None) };
        let stores = custody::answering(context, config, Role::Reader).await?;
        let rule = custody::rule(wanted)?;
        let mut findings = Vec::new();
        let mut warn = |failure: Failure| {
            let Failure { object, cause, next, .. } = failure;
            findings.push(Finding { level: Level::Warning, object, what: cause, next });
        };
        let inventory = stores.inventory().await?;
        let generation = match stores.0.len() {
            // With one store there is nobody to agree with.
            1 => generation::all(&stores).await?.into_iter().next(),
            _ => match generation::current(&stores, custody::pinned(wanted)?.as_ref()).await {
                Ok(Some(found)) => {
                    if found.rule != rule {
                        let what = custody::difference(&found.rule, &rule);
                        warn(CustodyError::Changed { what }.into());
                    }
                    Some(found)
                }
                Ok(None) => {
                    warn(CustodyError::lost(inventory.keys()).unwrap_or(CustodyError::None).into());
                    None
                }
                Err(error) => {
                    warn(error.into());
                    None
                }
            },
        };
        let last = proof::last(&stores, &inventory, &rule).await?;
        let proofs = rule.custodians.keys().map(|name| (name.clone(), last.get(name).copied())).collect();
        let keep = custody::keep(config, ledger, generation.as_ref());
        let mut now = Timestamp::MIN;
        for store in &stores.0 {
            now = now.max(store.now().await?);
        }
        let stores: Vec<String> = stores.0.into_iter().map(|store| store.name).collect();
        let (lock, proof, sealed) = (config.keys.lock, wanted.proof, sealed(config)?);
        let known = Known {
            inventory: &inventory,
            stores: &stores,
            keep: &keep,
            lock,
            sealed: &sealed,
            proofs: &proofs,
            proof,
            now,
        };
        findings.extend(judge(&known));
        Ok(Some(Self { stores, inventory, keep, generation, proofs, findings }))
    }

    /// For `--json`.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "stores": self.stores,
            "custody": self.generation.as_ref().map(|found| json!({
                "number": found.number, "recipient": found.recipient.to_string(), "groups": found.rule.allowed,
            })),
            "proofs": self.proofs,
        })
    }
}

/// What the writer of this machine seals to, where there is one.
fn sealed(config: &Config) -> Result<BTreeMap<Scope, u32>, Failure> {
    let writer = config.keys.writer.as_deref().filter(|path| path.exists());
    let bundle = writer.map(WriterBundle::read).transpose()?;
    Ok(bundle.into_iter().flat_map(|bundle| bundle.scopes).map(|(scope, keys)| (scope, keys.epoch)).collect())
}

/// What the ledger gives cause to say: erasures that are not complete.
#[must_use]
pub fn of_erasures(erasures: &[Erasure]) -> Vec<Finding> {
    let pending = erasures.iter().filter(|erasure| !erasure.complete());
    pending
        .map(|erasure| Finding {
            level: Level::Warning,
            object: erasure.scope.to_string(),
            what: format!("its erasure of {} is not complete: {}", erasure.requested, erasure.pending().join(", ")),
            next: "run `lifeboat key shred --pending` when locks have lapsed; have holders of copies confirm"
                .to_owned(),
        })
        .collect()
}
