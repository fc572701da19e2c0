//! Level 2: what is stored opens to what it should hold.
//!
//! With the identities of this machine; what is sealed to others is counted as not opened and never as verified. A body is read to its end,
//! and says which chunks must lie in which pack; each pack is unpacked to its end, every id in it is computed again from its content, and
//! every chunk that a body needs is there with its length. Spans and points are opened, and handed to [`Knows`]: what a
//! stretch's extents or a point's fields mean is not the repository's matter.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::finding::{Finding, What};
use crate::failure::chain;
use crate::ids::{Digest, Scope};
use crate::repo::chunk::{ChunkId, ChunkKey};
use crate::repo::envelope::{EnvelopeKind, ObjectRef, Span, Verified, Wal};
use crate::repo::error::RepoError;
use crate::repo::identities::Identities;
use crate::repo::key::KeyError;
use crate::repo::pack::{self, PackError};
use crate::repo::reader::blocking;
use crate::repo::seal;
use crate::repo::set::{Piece, SetBody};

/// The largest body of a point, in bytes.
const POINT_BYTES: u64 = 64 << 20;

/// What of a stretch of WAL, given one scope's share, contradicts it.
pub type SpanCheck = Arc<dyn Fn(&Wal, &Scope, &[u8]) -> Result<(), String> + Send + Sync>;
/// What of a point's sealed fields makes no sense.
pub type PointCheck = Arc<dyn Fn(&serde_json::Value) -> Result<(), String> + Send + Sync>;

/// Those who know what is in it; handed in from above.
#[derive(Clone)]
pub struct Knows {
    pub span: SpanCheck,
    pub point: PointCheck,
}

/// What the bodies of a scope say must lie in a pack.
pub struct Wanted {
    scope: Scope,
    epoch: u32,
    key: ChunkKey,
    chunks: HashMap<ChunkId, u64>,
    body: String,
}

/// By the pack's name.
pub type Packs = BTreeMap<String, Wanted>;

/// How opening something ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Bytes of what was in it.
    Whole(u64),
    /// The scope's key is not on this machine.
    NoKey(Scope),
    Bad(Finding),
}

fn bad(name: &str, why: impl Into<String>) -> Opened {
    let why = why.into();
    let why = why.strip_prefix(&format!("{name}: ")).unwrap_or(&why).to_owned();
    Opened::Bad(Finding::new(What::Unopenable, name, why))
}

/// The identity, or what to say instead.
fn identity(identities: &Identities, name: &str, scope: &Scope, epoch: u32) -> Result<age::x25519::Identity, Opened> {
    identities.unlock(scope, epoch).map_err(|error| match error {
        KeyError::Absent { .. } => Opened::NoKey(scope.clone()),
        error => bad(name, chain(&error)),
    })
}

/// Opens the body of a set, and adds what it wants to `packs`.
///
/// # Errors
/// `Stopped`, when the work was cut short.
pub async fn body(
    identities: &Identities,
    set: &Verified,
    object: &ObjectRef,
    sealed: Bytes,
    packs: &mut Packs,
) -> Result<Opened, RepoError> {
    let key = match identity(identities, &object.name, &set.scope, set.epoch) {
        Ok(key) => key,
        Err(said) => return Ok(said),
    };
    let (name, epoch, objects) = (object.name.clone(), set.epoch, set.objects.clone());
    let read = blocking(move || {
        let plain = match seal::open_plain(&key, &sealed) {
            Ok(plain) => plain,
            Err(error) => return Ok(Err(chain(&error))),
        };
        let bytes = plain.len() as u64;
        Ok(SetBody::parse(&name, epoch, plain.into(), &objects)
            .and_then(|body| wanted(&body).map(|wanted| (body, wanted, bytes)))
            .map_err(|error| chain(&error)))
    });
    let (body, wanted, bytes) = match read.await? {
        Ok(read) => read,
        Err(why) => return Ok(bad(&object.name, why)),
    };
    if (&body.header.scope, &body.header.source) != (&set.scope, &set.source) {
        let why = format!("it is of {} {}", body.header.scope, body.header.source);
        return Ok(bad(&object.name, why));
    }
    for (pack, chunks) in wanted {
        let entry = packs.entry(pack).or_insert_with(|| Wanted {
            scope: set.scope.clone(),
            epoch,
            key: body.header.chunk_key.clone(),
            chunks: HashMap::new(),
            body: object.name.clone(),
        });
        if entry.key != body.header.chunk_key || entry.epoch != epoch {
            return Ok(bad(&object.name, format!("it shares a pack with {}, under another key", entry.body)));
        }
        for (id, length) in chunks {
            if *entry.chunks.entry(id).or_insert(length) != length {
                return Ok(bad(&object.name, format!("it and {} give the chunk {id} two lengths", entry.body)));
            }
        }
    }
    Ok(Opened::Whole(bytes))
}

fn wanted(body: &SetBody) -> Result<BTreeMap<String, HashMap<ChunkId, u64>>, RepoError> {
    let mut wanted: BTreeMap<String, HashMap<ChunkId, u64>> = BTreeMap::new();
    for entry in body.entries()? {
        for piece in entry?.chunks {
            if let Piece::Stored { id, pack, bytes } = piece
                && let Some(object) = body.packs.get(pack as usize)
            {
                // One entry per pack name; made once, then found.
                match wanted.get_mut(&object.name) {
                    Some(chunks) => drop(chunks.insert(id, bytes)),
                    None => drop(wanted.insert(object.name.clone(), HashMap::from([(id, bytes)]))),
                }
            }
        }
    }
    Ok(wanted)
}

/// Unpacks a pack to its end.
///
/// # Errors
/// `Stopped`, when the work was cut short.
pub async fn pack(identities: &Identities, name: &str, sealed: Bytes, wanted: Wanted) -> Result<Opened, RepoError> {
    let key = match identity(identities, name, &wanted.scope, wanted.epoch) {
        Ok(key) => key,
        Err(said) => return Ok(said),
    };
    let read = blocking(move || Ok(unpack(&key, &sealed, wanted))).await?;
    Ok(read.map_or_else(|why| bad(name, why), Opened::Whole))
}

fn unpack(key: &age::x25519::Identity, sealed: &[u8], mut wanted: Wanted) -> Result<u64, String> {
    let said = |error: PackError| chain(&error);
    let mut chunks = pack::open(key, sealed).map_err(|error| chain(&error))?;
    let mut bytes = 0;
    while let Some((id, content)) = chunks.next_chunk().map_err(said)? {
        if wanted.key.id(content) != id {
            return Err(format!("the chunk {id} holds other content than its id says"));
        }
        bytes += content.len() as u64;
        if let Some(length) = wanted.chunks.remove(&id)
            && length != content.len() as u64
        {
            return Err(format!("the chunk {id} has {} bytes; {} says {length}", content.len(), wanted.body));
        }
    }
    match wanted.chunks.keys().next() {
        Some(id) => Err(format!("the chunk {id}, which {} needs, is not in it", wanted.body)),
        None => Ok(bytes),
    }
}

/// Opens the sealed part of a point.
///
/// # Errors
/// `Stopped`, when the work was cut short.
pub async fn point(
    identities: &Identities,
    point: &Verified,
    object: &ObjectRef,
    sealed: Bytes,
    knows: &Knows,
) -> Result<Opened, RepoError> {
    let key = match identity(identities, &object.name, &point.scope, point.epoch) {
        Ok(key) => key,
        Err(said) => return Ok(said),
    };
    let check = Arc::clone(&knows.point);
    let read = blocking(move || {
        Ok(seal::open(&key, &sealed, POINT_BYTES).map_err(|error| chain(&error)).and_then(|plain| {
            let value = serde_json::from_slice(&plain).map_err(|error| error.to_string())?;
            check(&value).map(|()| plain.len() as u64)
        }))
    });
    Ok(read.await?.map_or_else(|why| bad(&object.name, why), Opened::Whole))
}

/// Opens one scope's share of a stretch; `stored` is the span's object, or the bundle it lies in.
///
/// # Errors
/// `Stopped`, when the work was cut short.
pub async fn span(
    identities: &Identities,
    wal: &Wal,
    span: &Span,
    stored: &Bytes,
    knows: &Knows,
) -> Result<Opened, RepoError> {
    let key = match identity(identities, &span.object, &span.scope, span.epoch) {
        Ok(key) => key,
        Err(said) => return Ok(said),
    };
    let start = span.offset.unwrap_or(0);
    let place = start.checked_add(span.bytes).filter(|end| *end <= stored.len() as u64);
    let Some(end) = place else {
        return Ok(bad(&span.object, format!("the share of {} would lie behind its end", span.scope)));
    };
    let sealed = stored.slice(start as usize..end as usize);
    let (wal, span, check) = (wal.clone(), span.clone(), Arc::clone(&knows.span));
    let (name, scope) = (span.object.clone(), span.scope.clone());
    let read = blocking(move || {
        if Digest::of(&sealed) != span.sha256 {
            return Ok(Err("its SHA-256 is not the one in the envelope".to_owned()));
        }
        Ok(seal::open(&key, &sealed, span.plain_bytes).map_err(|error| chain(&error)).and_then(|plain| {
            if plain.len() as u64 != span.plain_bytes {
                return Err(format!("it holds {} bytes instead of {}", plain.len(), span.plain_bytes));
            }
            check(&wal, &span.scope, &plain).map(|()| span.plain_bytes)
        }))
    });
    Ok(read.await?.map_or_else(|why| bad(&name, format!("the share of {scope}: {why}")), Opened::Whole))
}

/// The object of a set or a point that says what is in it.
#[must_use]
pub fn body_of(envelope: &Verified) -> Option<&ObjectRef> {
    match envelope.kind {
        EnvelopeKind::Set => envelope.object(".body.jsonl.zst.age"),
        EnvelopeKind::Point => envelope.object(".body.json.zst.age"),
        EnvelopeKind::Stretch | EnvelopeKind::Tail => None,
    }
}
