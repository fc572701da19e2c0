//! The catalog as the repository's memory: envelopes that this machine has read before are not read again.
//!
//! A catalog that cannot be used is as good as none: the work goes on, reads more, and the log says why. One that turns out to be
//! garbled is removed; the next command begins it anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::context::Context;
use crate::catalog::{Catalog, CatalogError, EnvelopeRow, Found, NamedRow, StoredVersion};
use crate::config::Config;
use crate::failure::chain;
use crate::repo::envelope::EnvelopeKind;
use crate::repo::name;
use crate::repo::recall::{ReadEnvelope, ReadVersion, Recall};
use crate::store::{Listed, Store, Version};
use crate::watch;

/// The catalog's rows of one store.
#[derive(Debug)]
pub struct Remembered(pub Catalog);

/// The memory of `store` on this machine; `None`, and a line in the log, where there can be none.
pub async fn remembering(context: &Context, config: &Config, store: &dyn Store) -> Option<Arc<Remembered>> {
    match opened(context, config, store).await {
        Ok(memory) => Some(Arc::new(memory)),
        Err(error) => {
            tracing::info!(error = chain(&error), "there is no catalog: every envelope is read");
            None
        }
    }
}

/// The same, for a command that is about the catalog.
///
/// # Errors
/// The catalog's.
pub async fn opened(context: &Context, config: &Config, store: &dyn Store) -> Result<Remembered, CatalogError> {
    let (catalog, found) = Catalog::open(&config.state_dir, &store.place()).await?;
    if let Found::BegunAnew { why } = found {
        let what = format!("was begun anew: {why}; what was verified when is forgotten");
        watch::note(&*context.watch, catalog.path().display().to_string(), what);
    }
    Ok(Remembered(catalog))
}

impl Remembered {
    fn failed(&self, error: &CatalogError) {
        tracing::warn!(error = chain(error), "the catalog cannot be used");
        if matches!(error, CatalogError::Garbled { .. })
            && let Err(error) = self.0.discard()
        {
            tracing::warn!(error = chain(&error), "and it cannot be removed");
        }
    }

    /// Makes the mirror, below these prefixes, exactly what was read.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn mirror(&self, prefixes: &[String], read: &[ReadEnvelope]) -> Result<(), CatalogError> {
        let mut known: BTreeMap<String, (StoredVersion, StoredVersion)> = BTreeMap::new();
        for prefix in prefixes {
            let rows = self.0.contents(prefix).await?;
            known.extend(rows.into_iter().map(|(name, envelope, signature)| (name, (envelope, signature))));
        }
        let came = read.iter().filter(|read| {
            let now = (stored(&read.envelope), stored(&read.signature));
            known.remove(&read.verified.name).is_none_or(|then| then != now)
        });
        let came: Vec<EnvelopeRow> = came.map(row).collect();
        let gone: Vec<String> = known.into_keys().collect();
        self.0.settle(&came, &gone).await
    }
}

#[async_trait]
impl Recall for Remembered {
    async fn recall(&self, prefix: &str) -> Vec<(ReadVersion, ReadVersion)> {
        match self.0.contents(prefix).await {
            Ok(rows) => rows
                .into_iter()
                .map(|(name, envelope, signature)| {
                    let signature = read(name::signature(&name), signature);
                    (read(name, envelope), signature)
                })
                .collect(),
            Err(error) => {
                self.failed(&error);
                Vec::new()
            }
        }
    }

    async fn settle(&self, came: &[ReadEnvelope], gone: &[String]) {
        let rows: Vec<EnvelopeRow> = came.iter().map(row).collect();
        if let Err(error) = self.0.settle(&rows, gone).await {
            self.failed(&error);
        }
    }
}

fn read(name: String, stored: StoredVersion) -> ReadVersion {
    let StoredVersion { version, created, content } = stored;
    let listed = Listed { name, version: Version(version), bytes: content.len() as u64, created, current: true };
    ReadVersion { listed, bytes: content.into() }
}

fn stored(read: &ReadVersion) -> StoredVersion {
    StoredVersion { version: read.listed.version.0.clone(), created: read.listed.created, content: read.bytes.to_vec() }
}

fn row(read: &ReadEnvelope) -> EnvelopeRow {
    let envelope = &read.verified.envelope;
    let kind = match envelope.kind {
        EnvelopeKind::Set => "set",
        EnvelopeKind::Point => "point",
        EnvelopeKind::Stretch => "stretch",
        EnvelopeKind::Tail => "tail",
    };
    let named = envelope.objects.iter().map(|object| NamedRow {
        name: object.name.clone(),
        sha256: object.sha256,
        bytes: object.bytes,
        locked_until: object.locked_until,
    });
    EnvelopeRow {
        name: envelope.name.clone(),
        kind: kind.to_owned(),
        scope: envelope.scope.clone(),
        source: envelope.source.clone(),
        time: envelope.time,
        locked_until: envelope.locked_until,
        sha256: read.verified.digest,
        envelope: stored(&read.envelope),
        signature: stored(&read.signature),
        named: named.collect(),
    }
}
