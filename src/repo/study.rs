//! What a worker finds out about a piece: zeros, known from the set before, seen in this set, or new and compressed.
//!
//! Runs on the pool's threads. Content of the set before is reused only when its pack is young enough and is locked long enough, or
//! could be made so: the store orders that extension and the janitor's delete, so whichever comes first is safe.
//! Which pack a new chunk lies in is decided elsewhere, in order; here it is only claimed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;

use super::chunk::{ChunkId, ChunkKey, is_zero};
use super::chunk_map::ChunkMap;
use super::error::RepoError;
use super::fetch;
use super::pack::OWN_FRAME_BYTES;
use super::pool::Tools;
use super::writer::Shared;

/// Claimed by a piece that has no place yet.
pub(super) const UNPLACED: u32 = u32::MAX;

/// What the workers need to know of the set.
pub(super) struct Known {
    pub shared: Arc<Shared>,
    pub runtime: tokio::runtime::Handle,
    pub chunk_key: ChunkKey,
    pub old: ChunkMap,
    /// For each old pack: whether it may be reused, found out when it is first wanted.
    pub usable: Vec<OnceLock<bool>>,
    /// New chunks of this set, with the number of their pack.
    pub new: Mutex<HashMap<ChunkId, u32>>,
    /// Until when packs must be locked.
    pub until: Timestamp,
    pub began: Timestamp,
    /// The first pack that could not be stored.
    pub trouble: Mutex<Option<RepoError>>,
}

/// What a worker found out about a piece.
pub(super) struct Studied {
    pub content: Bytes,
    pub id: ChunkId,
    pub fate: Fate,
}

pub(super) enum Fate {
    Zero,
    /// In an old pack, at this position of the old map.
    Old(usize),
    /// Claimed by another piece of this set.
    Seen,
    Small,
    Frame(Vec<u8>),
}

impl Known {
    pub fn study(&self, tools: &mut Tools, content: Bytes) -> Result<Studied, RepoError> {
        if is_zero(&content) {
            return Ok(Studied { content, id: ChunkId([0; 32]), fate: Fate::Zero });
        }
        let id = self.chunk_key.id(&content);
        let fate = if let Some(at) = self.old.find(&id).filter(|at| self.may_reuse(*at)) {
            Fate::Old(at)
        } else if !self.claim(id) {
            Fate::Seen
        } else if content.len() < OWN_FRAME_BYTES {
            Fate::Small
        } else {
            Fate::Frame(tools.member_frame(id, &content)?)
        };
        Ok(Studied { content, id, fate })
    }

    /// Whether nobody in this set has had this content before.
    fn claim(&self, id: ChunkId) -> bool {
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        let before = new.len();
        new.entry(id).or_insert(UNPLACED);
        new.len() > before
    }

    /// The pack of a chunk that is new in this set; only the calling thread places, so it stays true.
    pub fn place_of(&self, id: ChunkId) -> u32 {
        self.new.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied().unwrap_or(UNPLACED)
    }

    pub fn placed(&self, id: ChunkId, pack: u32) {
        self.new.lock().unwrap_or_else(PoisonError::into_inner).insert(id, pack);
    }

    /// Whether the pack of an old chunk is young enough, and locked long enough or made so. The store orders this
    /// extension and the janitor's delete: when the pack is gone, or going, its chunks are written anew.
    fn may_reuse(&self, at: usize) -> bool {
        let Some((_, pack)) = self.old.chunks.get(at) else { return false };
        let (Some(usable), Some(pack)) = (self.usable.get(*pack as usize), self.old.packs.get(*pack as usize)) else {
            return false;
        };
        *usable.get_or_init(|| {
            let oldest = self.began.checked_sub(self.shared.options.rebase).unwrap_or(Timestamp::MIN);
            if pack.born < oldest {
                return false;
            }
            let (store, object) = (&*self.shared.store, &pack.object);
            let kept = async {
                if object.locked_until >= self.until {
                    // Locked or not: what was lost or cut must not be built upon.
                    return fetch::is_there(store, object).await;
                }
                fetch::extend(store, &object.name, Some(object.bytes), self.until).await
            };
            match self.runtime.block_on(kept) {
                Ok(()) => true,
                Err(error) => {
                    let (pack, error) = (&pack.object.name, crate::failure::chain(&error));
                    tracing::info!(pack, error, "a pack cannot be kept any longer; its chunks are written anew");
                    false
                }
            }
        })
    }
}
