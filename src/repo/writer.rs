//! Putting things into the repository: what a backup machine does, without a key that opens data.
//!
//! A [`Writer`] seals, signs and commits; [`super::set_writer::SetWriter`] fills one set, `super::stretch` writes stretches of WAL. The order of every
//! commit: objects, signature, envelope. A crash anywhere before the envelope leaves objects that nobody names; their
//! locks lapse and they go. Objects are locked `slack` longer than the envelope that names them, so that it never outlives them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use super::chunk_map::ChunkMap;
use super::envelope::{Envelope, EnvelopeKind, FORMAT, ObjectRef, Previous, Verified};
use super::error::RepoError;
use super::key::WriterBundle;
use super::name::{self, Name, PointName, PointPart, SetName, Stamp};
use super::pool::{Gate, Pool};
use super::set::SetKind;
use super::set_writer::SetWriter;
use super::sign::{Signers, sign};
use super::{fetch, seal};
use crate::clock::Clock;
use crate::failure;
use crate::ids::{Digest, Scope};
use crate::store::Store;
use crate::watch::{self, Watch};

/// How a writer works.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// zstd level.
    pub level: i32,
    /// About how large a pack is stored, in bytes.
    pub pack_bytes: usize,
    /// Threads that hash and compress.
    pub threads: usize,
    /// How many sealed packs may be on their way at once; each holds its bytes.
    pub packs_under_way: usize,
    /// How much longer objects are locked than the envelope that names them.
    pub slack: SignedDuration,
    /// Packs older than this are not reused.
    pub rebase: SignedDuration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            level: 1,
            pack_bytes: 32 << 20,
            threads: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            packs_under_way: 3,
            slack: SignedDuration::from_hours(24),
            rebase: SignedDuration::from_hours(35 * 24),
        }
    }
}

/// See the module's page. Cheap to clone; clones share threads and bounds.
#[derive(Clone)]
pub struct Writer(pub(super) Arc<Shared>);

/// What all sets and stretches of one writer share.
pub(super) struct Shared {
    pub store: Arc<dyn Store>,
    pub bundle: Arc<WriterBundle>,
    pub clock: Clock,
    pub options: WriterOptions,
    pub pool: Pool,
    pub packs_under_way: Arc<Gate>,
    /// This writer's own signature, all that it needs to believe.
    pub own: Signers,
    /// The head of each chain, by the folder it lies in.
    pub heads: Mutex<HashMap<String, Arc<Head>>>,
    /// What this writer has seen lie in a scope's prefix for recovery by hand ([`super::readme`]).
    pub readmes: tokio::sync::Mutex<HashMap<Scope, Vec<ObjectRef>>>,
}

/// The newest envelope of a chain, once it was looked up. Held while one is committed: a chain has no branches.
pub(super) type Head = tokio::sync::Mutex<Option<Option<Previous>>>;

/// A set to begin.
#[derive(Debug, Clone)]
pub struct NewSet {
    pub scope: Scope,
    /// What is captured, a plain name: the cluster's, the filestore's.
    pub source: String,
    pub kind: SetKind,
    pub locked_until: Timestamp,
}

/// A recovery point to write: the sets and the WAL that belong together.
#[derive(Debug, Clone)]
pub struct NewPoint {
    pub scope: Scope,
    /// [`Verified::reference`] of each set's envelope; and what else is to be kept as long ([`Writer::leave_readme`]).
    pub sets: Vec<ObjectRef>,
    /// The same of each stretch that the point needs.
    pub stretches: Vec<ObjectRef>,
    /// Sealed.
    pub body: serde_json::Value,
    /// In clear: what a listing shows, and no more.
    pub facts: serde_json::Value,
    pub locked_until: Timestamp,
}

impl Writer {
    /// A writer into `store`. Opens no key file but the bundle it is given.
    ///
    /// # Errors
    /// `Compress`, when the threads cannot be started.
    pub fn open(
        store: Arc<dyn Store>,
        bundle: Arc<WriterBundle>,
        clock: Clock,
        options: WriterOptions,
    ) -> Result<Self, RepoError> {
        let pool = Pool::new(options.threads, options.level)?;
        let own = Signers::only(&bundle.writer, bundle.signing.public_key());
        let (packs_under_way, heads) = (Gate::new(options.packs_under_way.max(1)), Mutex::default());
        let readmes = tokio::sync::Mutex::default();
        Ok(Self(Arc::new(Shared { store, bundle, clock, options, pool, packs_under_way, own, heads, readmes })))
    }

    /// Begins a set, with the newest set of the same scope and source as its base.
    ///
    /// # Errors
    /// `Key` when the bundle does not know the scope, or the store's.
    pub async fn begin_set(&self, new: NewSet, watch: &dyn Watch) -> Result<SetWriter, RepoError> {
        let now = self.0.clock.now();
        let folder = SetName::prefix(&new.scope, Some(&new.source));
        let head = self.0.newest(&folder).await?;
        let map = match &head {
            Some(head) => self.0.chunk_map(head, &new.scope, watch).await?,
            None => ChunkMap::default(),
        };
        let name = SetName { scope: new.scope.clone(), source: new.source.clone(), stamp: Stamp::new(now)? };
        SetWriter::new(Arc::clone(&self.0), new, name, now, map)
    }

    /// The scopes made beforehand for databases that nobody mapped.
    #[must_use]
    pub fn spares(&self) -> Vec<Scope> {
        self.0.bundle.spares.clone()
    }

    /// Whether the scope was erased and not begun anew: nothing of it is stored, and everybody else goes on.
    #[must_use]
    pub fn erased(&self, scope: &Scope) -> bool {
        self.0.bundle.is_erased(scope)
    }

    /// A key for `purpose` that whoever opens the scope's sets can derive too, and nobody else.
    ///
    /// # Errors
    /// `Key` when the bundle does not know the scope.
    pub fn derived_key(&self, scope: &Scope, purpose: &str) -> Result<Zeroizing<[u8; 32]>, RepoError> {
        Ok(self.0.bundle.keys(scope)?.chunk_key.derive(purpose))
    }

    /// Writes a recovery point.
    ///
    /// # Errors
    /// `Key`, `Missing` when something it names is gone, or the store's.
    pub async fn write_point(&self, new: NewPoint) -> Result<Verified, RepoError> {
        let shared = &self.0;
        let keys = shared.bundle.keys(&new.scope)?;
        let time = shared.clock.now();
        let name = PointName { scope: new.scope.clone(), stamp: Stamp::new(time)? };
        let until = shared.with_slack(new.locked_until);
        let mut named = [new.sets, new.stretches].concat();
        let early = |o: &&ObjectRef| o.locked_until < new.locked_until;
        let too_early: Vec<ObjectRef> = named.iter().filter(early).cloned().collect();
        fetch::extend_all(&*shared.store, &too_early, until).await?;
        for object in &mut named {
            object.locked_until = object.locked_until.max(new.locked_until);
        }
        let body = serde_json::to_vec(&new.body).map_err(|error| RepoError::Compress(error.into()))?;
        let body = seal::seal(&keys.recipient, shared.options.level, &body)
            .map_err(|error| RepoError::Compress(std::io::Error::other(error)))?;
        named.insert(0, shared.put(name.part(PointPart::Body), body.into(), until).await?);
        let envelope = Envelope {
            format: FORMAT,
            kind: EnvelopeKind::Point,
            name: name.part(PointPart::Envelope),
            source: match &new.scope {
                Scope::Tenant(id) => id.clone(),
                other => other.to_string(),
            },
            scope: new.scope,
            epoch: keys.epoch,
            time,
            writer: shared.bundle.writer.clone(),
            previous: None,
            locked_until: new.locked_until,
            objects: named,
            wal: None,
            facts: new.facts,
            extra: std::collections::BTreeMap::new(),
        };
        shared.commit(envelope).await
    }

    /// Makes the locks of all that an envelope names, then of itself, end at `until` at the earliest.
    ///
    /// # Errors
    /// The first that could not be extended; what was extended stays so.
    pub async fn extend_envelope(&self, envelope: &Verified, until: Timestamp) -> Result<(), RepoError> {
        let (store, longer) = (&*self.0.store, self.0.with_slack(until));
        fetch::extend_all(store, &envelope.objects, longer).await?;
        fetch::extend(store, &name::signature(&envelope.name), None, longer).await?;
        fetch::extend(store, &envelope.name, Some(envelope.bytes), until).await
    }
}

impl Shared {
    /// When objects named by an envelope locked until `until` are locked until.
    pub fn with_slack(&self, until: Timestamp) -> Timestamp {
        until.checked_add(self.options.slack).unwrap_or(Timestamp::MAX)
    }

    /// Writes an object; gives how an envelope names it.
    pub async fn put(&self, name: String, bytes: Bytes, until: Timestamp) -> Result<ObjectRef, RepoError> {
        let (sha256, length) = (Digest::of(&bytes), bytes.len() as u64);
        self.store.put(&name, bytes, until).await?;
        Ok(ObjectRef { name, sha256, bytes: length, locked_until: until })
    }

    /// Links an envelope into its chain, signs it, and writes signature and envelope, in this order. This is the commit.
    ///
    /// What took longer than it was to be kept is not committed: the janitor may have what it names already.
    pub async fn commit(&self, mut envelope: Envelope) -> Result<Verified, RepoError> {
        if envelope.locked_until <= self.clock.now() {
            return Err(RepoError::Overdue { name: envelope.name, until: envelope.locked_until });
        }
        let folder = envelope.name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned() + "/";
        let known =
            Arc::clone(self.heads.lock().unwrap_or_else(PoisonError::into_inner).entry(folder.clone()).or_default());
        let mut head = known.lock().await;
        envelope.previous = match &*head {
            Some(head) => head.clone(),
            None => self.newest(&folder).await?.map(|newest| newest.link()),
        };
        let name = envelope.name.clone();
        let bytes = envelope.to_bytes().map_err(|source| RepoError::Envelope { name: name.clone(), source })?;
        let signature =
            sign(&self.bundle.signing, &bytes).map_err(|source| RepoError::Signature { name: name.clone(), source })?;
        let until = envelope.locked_until;
        // Until the store has answered nobody knows what the head is: who comes after an error looks it up again.
        *head = None;
        self.put(name::signature(&name), signature.into(), self.with_slack(until)).await?;
        let written = self.put(name, bytes.into(), until).await?;
        let (digest, bytes, signer) = (written.sha256, written.bytes, self.bundle.writer.clone());
        let verified = Verified { envelope, digest, bytes, signer, created: self.clock.now() };
        *head = Some(Some(verified.link()));
        Ok(verified)
    }

    /// The newest envelope of this writer in a chain's folder, none when there is none.
    pub async fn newest(&self, folder: &str) -> Result<Option<Verified>, RepoError> {
        let candidates = fetch::candidates(&*self.store, folder).await?;
        for (name, candidates) in candidates.iter().rev() {
            // Below a history's folder lies its tails', which is another chain.
            let parsed: Result<Name, _> = name.parse();
            if parsed.is_err() || name.rsplit_once('/').is_none_or(|(parent, _)| parent.len() + 1 != folder.len()) {
                continue;
            }
            match fetch::envelope(&*self.store, &self.own, name, candidates).await {
                Ok(verified) => return Ok(Some(verified)),
                Err(RepoError::Store(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::debug!(name, error = failure::chain(&error), "not a link of this writer's chain");
                }
            }
        }
        Ok(None)
    }

    /// What the set before holds; an empty map, and a warning, when that cannot be told.
    async fn chunk_map(&self, head: &Verified, scope: &Scope, watch: &dyn Watch) -> Result<ChunkMap, RepoError> {
        let lost = |what: String| {
            let next = "nothing to do: this backup is a full one";
            watch::warn(watch, head.name.clone(), format!("its chunk map cannot be used: {what}"), next);
            Ok(ChunkMap::default())
        };
        let epoch = self.bundle.keys(scope)?.epoch;
        let Some(object) = head.object(".chunks.age") else {
            return lost("the set has none".into());
        };
        let sealed = match fetch::object(&*self.store, object).await {
            Ok(sealed) => sealed,
            Err(error @ (RepoError::Missing { .. } | RepoError::Altered { .. })) => return lost(error.to_string()),
            Err(error) => return Err(error),
        };
        let plain = match seal::open_plain(&self.bundle.chunk_map, &sealed) {
            Ok(plain) => plain,
            Err(error) => return lost(failure::chain(&error)),
        };
        ChunkMap::decode(&plain, scope, epoch).or_else(lost)
    }
}
