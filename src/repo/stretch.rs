//! Writing a stretch of WAL: every scope's share sealed to it, one envelope over all.
//!
//! A share of [`SPAN_BYTES`] or more is an object of its own in its scope's prefix; the smaller ones are members of the stretch's
//! bundle, a tar of age files. A tail has no objects but its bundle: a flush costs the same few requests however many scopes wrote,
//! and however much; the stretch that covers it again gives large shares their own. The envelope says where each begins, so that a reader fetches his own and nobody else's.
//!
//! Writing one twice is fine: when the range is committed already and says the same, that one is the answer. When an
//! attempt died between its first object and its envelope, its plain name is taken; the next attempt gets another.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use super::envelope::{Envelope, EnvelopeKind, FORMAT, ObjectRef, Span, Verified, Wal};
use super::error::RepoError;
use super::fetch;
use super::name::{StretchName, StretchPart, random_hex};
use super::pack;
use super::seal;
use super::writer::{Shared, Writer};
use crate::ids::{Digest, Scope};
use crate::store::StoreError;

/// Shares of a stretch of at least this many bytes, before sealing, are objects of their own.
pub const SPAN_BYTES: usize = 1 << 20;
/// How often a name that is taken is changed.
const ATTEMPTS: u32 = 4;

/// A stretch, or a tail, to write.
#[derive(Debug, Clone)]
pub struct NewStretch {
    /// The cluster it comes from; the envelope's scope.
    pub cluster: Scope,
    /// The cluster's name; the envelope's source.
    pub source: String,
    pub tail: bool,
    /// What is said in clear; `spans` is filled in here.
    pub wal: Wal,
    /// Each scope's share, each scope once.
    pub members: Vec<(Scope, Vec<u8>)>,
    pub locked_until: Timestamp,
}

/// A stretch that is durable.
#[derive(Debug, Clone)]
pub struct StoredStretch {
    pub envelope: Verified,
    /// Bytes written to the store; 0 when it was there already.
    pub stored_bytes: u64,
    /// Whether an earlier attempt had committed it.
    pub was_there: bool,
}

/// A stretch whose shares are sealed, ready to be stored.
pub struct SealedStretch {
    new: NewStretch,
    members: Vec<Sealed>,
}

struct Sealed {
    scope: Scope,
    epoch: u32,
    bytes: Vec<u8>,
    plain_bytes: u64,
}

impl Writer {
    /// Writes a stretch. When this returns, it is durable and committed.
    ///
    /// # Errors
    /// As [`Writer::seal_stretch`] and [`Writer::store_stretch`].
    pub async fn write_stretch(&self, new: NewStretch) -> Result<StoredStretch, RepoError> {
        self.store_stretch(self.seal_stretch(new).await?).await
    }

    /// Seals the shares of a stretch; stores nothing.
    ///
    /// # Errors
    /// `Key` when the bundle lacks a scope that was not erased.
    pub async fn seal_stretch(&self, mut new: NewStretch) -> Result<SealedStretch, RepoError> {
        let members = self.0.seal_members(std::mem::take(&mut new.members)).await?;
        Ok(SealedStretch { new, members })
    }

    /// Stores a sealed stretch. When this returns, it is durable and committed.
    ///
    /// # Errors
    /// `Key` when the bundle lacks the cluster's scope, `Fork` when the range is committed with other WAL, or the store's.
    pub async fn store_stretch(&self, sealed: SealedStretch) -> Result<StoredStretch, RepoError> {
        let SealedStretch { new, members: sealed } = sealed;
        let NewStretch { cluster, source, tail, wal, locked_until, members: _ } = new;
        let time = self.0.clock.now();
        let shared = &self.0;
        let until = shared.with_slack(locked_until);
        let epoch = shared.bundle.keys(&cluster)?.epoch;
        let (system_id, history) = (wal.system_id, wal.history.clone());
        // Heartbeats of a quiet server have the same range again and again: their names differ from the start.
        let retry = if wal.from == wal.to { Some(random_hex()?) } else { None };
        let mut name = StretchName { system_id, history, tail, from: wal.from, to: wal.to, retry };
        let (own, bundled): (Vec<_>, Vec<_>) =
            sealed.into_iter().partition(|sealed| !tail && sealed.plain_bytes >= SPAN_BYTES as u64);
        let (mut spans, objects) = shared.put_spans(&name, own, until).await?;
        let (bundle, members) = bundle(bundled);
        let mut envelope = Envelope {
            format: FORMAT,
            kind: if tail { EnvelopeKind::Tail } else { EnvelopeKind::Stretch },
            name: String::new(),
            scope: cluster,
            epoch,
            source,
            time,
            writer: shared.bundle.writer.clone(),
            previous: None,
            locked_until,
            objects,
            wal: None,
            facts: serde_json::Value::Null,
            extra: std::collections::BTreeMap::new(),
        };
        let own_objects = envelope.objects.clone();
        spans.extend(members);
        for attempt in 1.. {
            let tried = async {
                envelope.name = name.part(StretchPart::Envelope);
                envelope.objects.clone_from(&own_objects);
                let bundle_name = name.part(StretchPart::Bundle);
                let mut wal = wal.clone();
                wal.spans.clone_from(&spans);
                for span in wal.spans.iter_mut().filter(|span| span.offset.is_some()) {
                    span.object.clone_from(&bundle_name);
                }
                envelope.wal = Some(wal);
                if !bundle.is_empty() {
                    envelope.objects.push(shared.put(bundle_name, bundle.clone(), until).await?);
                }
                shared.commit(envelope.clone()).await
            };
            match tried.await {
                Ok(envelope) => {
                    let stored_bytes = envelope.objects.iter().map(|o| o.bytes).sum::<u64>() + envelope.bytes;
                    return Ok(StoredStretch { envelope, stored_bytes, was_there: false });
                }
                Err(RepoError::Store(StoreError::Exists { .. })) if attempt < ATTEMPTS => {
                    if let Some(envelope) = shared.committed(&name, &wal).await? {
                        // It may be from long ago, and must last as long as what was asked for now.
                        if envelope.locked_until < locked_until {
                            self.extend_envelope(&envelope, locked_until).await?;
                        }
                        return Ok(StoredStretch { envelope, stored_bytes: 0, was_there: true });
                    }
                    name.retry = Some(random_hex()?);
                }
                Err(error) => return Err(error),
            }
        }
        Err(RepoError::Stopped)
    }
}

impl Shared {
    async fn seal_members(&self, members: Vec<(Scope, Vec<u8>)>) -> Result<Vec<Sealed>, RepoError> {
        let mut pending = Vec::with_capacity(members.len());
        // What was erased is kept no more, by anybody's key; the others' stretch must not wait for it.
        for (scope, plain) in members.into_iter().filter(|(scope, _)| !self.bundle.is_erased(scope)) {
            let keys = self.bundle.keys(&scope)?;
            let (recipient, epoch, level) = (keys.recipient.clone(), keys.epoch, self.options.level);
            pending.push(self.pool.run(move |_| {
                let plain_bytes = plain.len() as u64;
                let bytes = seal::seal(&recipient, level, &plain)
                    .map_err(|error| RepoError::Compress(std::io::Error::other(error)))?;
                Ok::<_, RepoError>(Sealed { scope, epoch, bytes, plain_bytes })
            }));
        }
        let wait = move || pending.into_iter().map(|sealed| sealed.wait()?).collect();
        tokio::task::spawn_blocking(wait).await.map_err(|_| RepoError::Stopped)?
    }

    /// Stores the shares that are objects of their own.
    async fn put_spans(
        &self,
        name: &StretchName,
        own: Vec<Sealed>,
        until: Timestamp,
    ) -> Result<(Vec<Span>, Vec<ObjectRef>), RepoError> {
        let puts = own.into_iter().map(|sealed| async move {
            let object_name = name.span(&sealed.scope, Digest::of(&sealed.bytes));
            let object = self.put(object_name, sealed.bytes.into(), until).await?;
            let span = Span {
                scope: sealed.scope,
                epoch: sealed.epoch,
                object: object.name.clone(),
                offset: None,
                bytes: object.bytes,
                sha256: object.sha256,
                plain_bytes: sealed.plain_bytes,
            };
            Ok::<_, RepoError>((span, object))
        });
        let puts: Vec<_> = puts.collect();
        let stored: Vec<(Span, ObjectRef)> = futures::stream::iter(puts).buffered(4).try_collect().await?;
        Ok(stored.into_iter().unzip())
    }

    /// The envelope that an earlier attempt committed for the same range.
    async fn committed(&self, name: &StretchName, wal: &Wal) -> Result<Option<Verified>, RepoError> {
        for (name, candidates) in fetch::candidates(&*self.store, &name.range()).await? {
            match fetch::envelope(&*self.store, &self.own, &name, &candidates).await {
                Ok(envelope) if envelope.wal.as_ref().is_some_and(|found| found.same_stretch(wal)) => {
                    return Ok(Some(envelope));
                }
                Ok(_) => return Err(RepoError::Fork { name }),
                Err(RepoError::Store(error)) => return Err(error.into()),
                Err(_) => {}
            }
        }
        Ok(None)
    }
}

/// The tar of the smaller shares, with where each one begins. Members: `<scope>/<epoch>.span.zst.age`.
fn bundle(members: Vec<Sealed>) -> (Bytes, Vec<Span>) {
    let (mut tar, mut spans) = (Vec::new(), Vec::new());
    for Sealed { scope, epoch, bytes, plain_bytes } in members {
        let offset = Some(tar.len() as u64 + 512);
        pack::append_tar_member(&mut tar, &format!("{scope}/{epoch}.span.zst.age"), &bytes);
        let (sha256, bytes) = (Digest::of(&bytes), bytes.len() as u64);
        spans.push(Span { scope, epoch, object: String::new(), offset, bytes, sha256, plain_bytes });
    }
    if !tar.is_empty() {
        tar.resize(tar.len() + 1024, 0);
    }
    (tar.into(), spans)
}
