//! Reading the repository: whoever has the keys, or only wants to see what there is.
//!
//! Listings need the signers file and no key. Opening asks [`Identities`] for exactly the scope that is opened, and fetches no object
//! of any other. Everything fetched is checked against what the signed envelope says before a byte of it is looked at.

use std::sync::Arc;

use futures::StreamExt as _;

use super::envelope::{ObjectRef, Span, Verified};
use super::error::RepoError;
use super::extract::{self, Extracted, Plan};
use super::fetch::{self, REQUESTS};
use super::identities::Identities;
use super::name::{Name, PointName, SetName, StretchName};
use super::recall::{Memory, Recall};
use super::seal;
use super::set::{FileEntry, SetBody};
use super::sign::Signers;
use crate::ids::{Digest, Scope, SystemId};
use crate::store::Store;
use crate::watch::Watch;

/// The largest body of a point, in bytes.
const POINT_BYTES: u64 = 64 << 20;

/// See the module's page. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    pub store: Arc<dyn Store>,
    pub signers: Arc<Signers>,
    pub identities: Arc<Identities>,
    /// What was read before, so that it need not be read again.
    pub recall: Option<Arc<dyn Recall>>,
}

/// Which envelopes of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Sets,
    Points,
}

/// What a listing found, in name order, which is the order of time or of position.
#[derive(Debug, Default)]
pub struct Listing {
    pub good: Vec<Verified>,
    /// What lies where envelopes lie and may not be acted on, with the reason.
    pub bad: Vec<(String, RepoError)>,
    /// Names at which only a signature lies: a commit that did not happen, or an envelope that was taken away.
    pub lost: Vec<String>,
}

impl Reader {
    #[must_use]
    pub fn open(store: Arc<dyn Store>, signers: Arc<Signers>, identities: Arc<Identities>) -> Self {
        Self { store, signers, identities, recall: None }
    }

    /// The same reader, which remembers envelopes.
    #[must_use]
    pub fn with_recall(self, recall: Arc<dyn Recall>) -> Self {
        Self { recall: Some(recall), ..self }
    }

    /// Every envelope in the store, in name order.
    ///
    /// # Errors
    /// The store's; a bad envelope is in the listing.
    pub async fn everything(&self) -> Result<Listing, RepoError> {
        self.list("").await
    }

    /// The set or point envelopes of a scope.
    ///
    /// # Errors
    /// The store's; a bad envelope is in the listing.
    pub async fn envelopes(&self, scope: &Scope, what: What) -> Result<Listing, RepoError> {
        self.list(&match what {
            What::Sets => SetName::prefix(scope, None),
            What::Points => PointName::prefix(scope),
        })
        .await
    }

    /// The stretch and tail envelopes of a system (of one history), by position.
    ///
    /// # Errors
    /// The store's; a bad envelope is in the listing.
    pub async fn stretches(&self, system_id: SystemId, history: Option<&str>) -> Result<Listing, RepoError> {
        let mut listing = self.list(&StretchName::prefix(system_id, history)).await?;
        listing.good.sort_by_key(|e| e.wal.as_ref().map(|wal| (wal.history.clone(), wal.from, wal.to)));
        Ok(listing)
    }

    /// The envelope of a history whose WAL reaches farthest; `None` when there is none.
    ///
    /// Decided by the names, so that one envelope is read and not all of them.
    ///
    /// # Errors
    /// The store's; an envelope that may not be believed is passed over.
    pub async fn newest_wal(&self, system_id: SystemId, history: &str) -> Result<Option<Verified>, RepoError> {
        let candidates = fetch::candidates(&*self.store, &StretchName::prefix(system_id, Some(history))).await?;
        let reach = |name: &str| match name.parse() {
            Ok(Name::Stretch(stretch, _)) => Some((stretch.to, stretch.from)),
            _ => None,
        };
        let mut named: Vec<_> = candidates.into_iter().filter_map(|(name, c)| Some((reach(&name)?, name, c))).collect();
        named.sort_by(|a, b| (b.0, &b.1).cmp(&(a.0, &a.1)));
        for (_, name, candidates) in named {
            match fetch::envelope(&*self.store, &self.signers, &name, &candidates).await {
                Ok(envelope) => return Ok(Some(envelope)),
                Err(RepoError::Store(error)) => return Err(error.into()),
                Err(error) => tracing::warn!(name, error = crate::failure::chain(&error), "not believed"),
            }
        }
        Ok(None)
    }

    async fn list(&self, prefix: &str) -> Result<Listing, RepoError> {
        // Before the listing: what is remembered and not listed is gone, not new.
        let mut memory = Memory::of(self.recall.as_deref(), prefix).await;
        let named = fetch::signed_names(&*self.store, prefix).await?;
        let (there, lost): (Vec<_>, Vec<_>) = named.into_iter().partition(|(_, found)| !found.envelopes.is_empty());
        let read = there.into_iter().map(|(name, candidates)| {
            let remembered = memory.believed(&self.signers, &name, &candidates);
            async move {
                let read = match remembered {
                    Some(read) => Ok((read, true)),
                    None => fetch::read_envelope(&*self.store, &self.signers, &name, &candidates)
                        .await
                        .map(|read| (read, false)),
                };
                (name, read)
            }
        });
        let read: Vec<_> = read.collect();
        let mut reads = futures::stream::iter(read).buffered(REQUESTS);
        let lost = lost.into_iter().map(|(name, _)| name).collect();
        let mut listing = Listing { lost, ..Listing::default() };
        while let Some((name, read)) = reads.next().await {
            match read {
                Ok((read, remembered)) => {
                    listing.good.push(read.verified.clone());
                    memory.keep(read, remembered);
                }
                Err(RepoError::Store(error)) => return Err(error.into()),
                Err(error) => listing.bad.push((name, error)),
            }
        }
        drop(reads);
        memory.settle().await;
        Ok(listing)
    }

    /// The one envelope that another names.
    ///
    /// # Errors
    /// `Missing`, `Altered`, `Unsigned`, `Signature`, `Envelope`, or the store's.
    pub async fn envelope(&self, reference: &ObjectRef) -> Result<Verified, RepoError> {
        let name = &reference.name;
        let found = fetch::candidates(&*self.store, name).await?;
        let missing = || RepoError::Missing { name: name.clone() };
        let envelope = fetch::envelope(&*self.store, &self.signers, name, found.get(name).ok_or_else(missing)?).await?;
        if envelope.digest == reference.sha256 {
            Ok(envelope)
        } else {
            Err(RepoError::Altered { name: name.clone(), wanted: reference.sha256 })
        }
    }

    /// The body of a set, read once to its end.
    ///
    /// # Errors
    /// `Key` when the scope's key is not here, `Seal` when it is another's, `Missing`, `Altered`, `Body`, or the store's.
    pub async fn body(&self, set: &Verified) -> Result<SetBody, RepoError> {
        let object = named(set, ".body.jsonl.zst.age")?;
        let identity = self.identities.unlock(&set.scope, set.epoch)?;
        let sealed = fetch::object(&*self.store, object).await?;
        let (name, scope, epoch) = (object.name.clone(), set.scope.clone(), set.epoch);
        let objects = set.objects.clone();
        let body = blocking(move || {
            let compressed = seal::open_plain(&identity, &sealed).map_err(|source| RepoError::Seal {
                name: name.clone(),
                scope,
                source,
            })?;
            SetBody::parse(&name, epoch, compressed.into(), &objects)
        })
        .await?;
        if (&body.header.scope, &body.header.source) == (&set.scope, &set.source) {
            Ok(body)
        } else {
            let what = format!("it is of {} {}", body.header.scope, body.header.source);
            Err(RepoError::Body { name: body.name, line: 1, what })
        }
    }

    /// The sealed part of a point.
    ///
    /// # Errors
    /// As [`Reader::body`].
    pub async fn point_body(&self, point: &Verified) -> Result<serde_json::Value, RepoError> {
        let object = named(point, ".body.json.zst.age")?;
        let plain = self.open_object(object, &point.scope, point.epoch, POINT_BYTES).await?;
        serde_json::from_slice(&plain).map_err(|error| RepoError::Body {
            name: object.name.clone(),
            line: error.line() as u64,
            what: error.to_string(),
        })
    }

    async fn open_object(
        &self,
        object: &ObjectRef,
        scope: &Scope,
        epoch: u32,
        limit: u64,
    ) -> Result<Vec<u8>, RepoError> {
        let identity = self.identities.unlock(scope, epoch)?;
        let sealed = fetch::object(&*self.store, object).await?;
        let (name, scope) = (object.name.clone(), scope.clone());
        blocking(move || {
            seal::open(&identity, &sealed, limit).map_err(|source| RepoError::Seal { name, scope, source })
        })
        .await
    }

    /// One scope's share of a stretch, `None` when it has none there.
    ///
    /// # Errors
    /// As [`Reader::body`].
    pub async fn span(&self, stretch: &Verified, scope: &Scope) -> Result<Option<Vec<u8>>, RepoError> {
        let spans = stretch.wal.iter().flat_map(|wal| &wal.spans);
        let Some(span) = spans.into_iter().find(|span| span.scope == *scope) else {
            return Ok(None);
        };
        let identity = self.identities.unlock(scope, span.epoch)?;
        let sealed = match span.offset {
            None => fetch::object(&*self.store, named(stretch, &span.object)?).await?,
            Some(offset) => self.member(named(stretch, &span.object)?, span, offset).await?,
        };
        let (name, scope, limit) = (span.object.clone(), scope.clone(), span.plain_bytes);
        let plain = blocking(move || {
            let error = |source| RepoError::Seal { name, scope, source };
            seal::open(&identity, &sealed, limit).map_err(error)
        });
        plain.await.map(Some)
    }

    /// One member of a bundle, without reading the others': of the version of the bundle that has it right.
    async fn member(&self, bundle: &ObjectRef, span: &Span, offset: u64) -> Result<bytes::Bytes, RepoError> {
        let altered = || RepoError::Altered { name: bundle.name.clone(), wanted: span.sha256 };
        let end = offset.checked_add(span.bytes).filter(|end| *end <= bundle.bytes).ok_or_else(altered)?;
        let versions = fetch::versions(&*self.store, &bundle.name).await?;
        if versions.is_empty() {
            return Err(RepoError::Missing { name: bundle.name.clone() });
        }
        for version in versions.iter().filter(|listed| listed.bytes == bundle.bytes) {
            match self.store.get(&bundle.name, Some(&version.version), Some(offset..end)).await {
                Ok(bytes) if Digest::of(&bytes) == span.sha256 => return Ok(bytes),
                Ok(_) | Err(crate::store::StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(altered())
    }

    /// Writes what `select` gives a place for below `root`, each pack fetched once. See [`Plan`] for what is refused.
    ///
    /// # Errors
    /// `BadPath`, `Taken`, `Io`, and as [`Reader::body`] for packs.
    pub async fn extract(
        &self,
        body: &SetBody,
        root: &std::path::Path,
        select: impl FnMut(&FileEntry) -> Option<std::path::PathBuf>,
        watch: &dyn Watch,
    ) -> Result<Extracted, RepoError> {
        let mut plan = Plan::new(root);
        plan.add(body, select)?;
        self.carry_out(plan, watch).await
    }

    /// Carries out a plan, which may draw on many sets.
    ///
    /// # Errors
    /// As [`Reader::extract`].
    pub async fn carry_out(&self, plan: Plan, watch: &dyn Watch) -> Result<Extracted, RepoError> {
        extract::carry_out(self, plan, watch).await
    }

    /// Reads selected files whole into memory, none larger than `limit` bytes; `sink` gets each one.
    ///
    /// # Errors
    /// `TooLong`, and as [`Reader::body`] for packs.
    pub async fn read_files(
        &self,
        body: &SetBody,
        limit: u64,
        select: impl FnMut(&FileEntry) -> bool,
        mut sink: impl FnMut(FileEntry, Vec<u8>),
    ) -> Result<(), RepoError> {
        for (entry, content) in extract::read_files(self, body, limit, select).await? {
            sink(entry, content);
        }
        Ok(())
    }
}

/// The object of an envelope that is named so, or ends so.
fn named<'a>(envelope: &'a Verified, suffix: &str) -> Result<&'a ObjectRef, RepoError> {
    envelope.object(suffix).ok_or_else(|| RepoError::Envelope {
        name: envelope.name.clone(),
        source: super::envelope::EnvelopeError::Contradicts { what: "it names no object for what it says it has" },
    })
}

/// Runs what computes for long where it holds nobody up.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RepoError> + Send + 'static,
) -> Result<T, RepoError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RepoError::Stopped)?
}
