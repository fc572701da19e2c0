//! What a set's content is already stored as: the base of the next incremental backup.
//!
//! `....chunks.age`, sealed to the writer's own chunk-map identity (not to a scope): one JSON line (`format`, `scope`, `epoch`, `packs`, `chunks`),
//! then `chunks` records of 36 bytes, sorted: id (32 bytes), number of its pack (u32, little-endian). Ids have nothing to
//! compress. A reader never needs it; when it is lost, the next backup is a full one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::chunk::ChunkId;
use super::envelope::{FORMAT, ObjectRef};
use crate::ids::Scope;

const RECORD_BYTES: usize = 36;

/// A pack that content may be reused from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapPack {
    pub object: ObjectRef,
    /// When it was written: packs older than the rebase window are not reused.
    pub born: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MapHeader {
    format: u32,
    scope: Scope,
    epoch: u32,
    packs: Vec<MapPack>,
    chunks: u64,
}

/// Ids and where they are, sorted by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkMap {
    pub packs: Vec<MapPack>,
    /// Each id with the number of its pack.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl ChunkMap {
    /// The position of `id` among the chunks.
    #[must_use]
    pub fn find(&self, id: &ChunkId) -> Option<usize> {
        self.chunks.binary_search_by(|(known, _)| known.cmp(id)).ok()
    }

    /// # Errors
    /// When a name in it cannot be written as JSON.
    pub fn encode(&self, scope: &Scope, epoch: u32) -> Result<Vec<u8>, serde_json::Error> {
        let (packs, chunks) = (self.packs.clone(), self.chunks.len() as u64);
        let mut bytes = serde_json::to_vec(&MapHeader { format: FORMAT, scope: scope.clone(), epoch, packs, chunks })?;
        bytes.push(b'\n');
        bytes.reserve(self.chunks.len() * RECORD_BYTES);
        for (id, pack) in &self.chunks {
            bytes.extend_from_slice(&id.0);
            bytes.extend_from_slice(&pack.to_le_bytes());
        }
        Ok(bytes)
    }

    /// Reads a map of `scope` and `epoch`.
    ///
    /// # Errors
    /// Why it cannot be used, for a person.
    pub fn decode(bytes: &[u8], scope: &Scope, epoch: u32) -> Result<Self, String> {
        let end = bytes.iter().position(|b| *b == b'\n').ok_or("it has no header")?;
        let (line, rest) = bytes.split_at(end);
        let header: MapHeader = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if (header.format, &header.scope, header.epoch) != (FORMAT, scope, epoch) {
            return Err(format!("it is for {} epoch {}, format {}", header.scope, header.epoch, header.format));
        }
        let records = rest.get(1..).unwrap_or_default();
        let (records, left) = records.as_chunks::<RECORD_BYTES>();
        if !left.is_empty() || records.len() as u64 != header.chunks {
            return Err("it is cut short".into());
        }
        let mut chunks = Vec::with_capacity(records.len());
        for record in records {
            let (mut id, mut pack) = ([0; 32], [0; 4]);
            id.copy_from_slice(&record[..32]);
            pack.copy_from_slice(&record[32..]);
            chunks.push((ChunkId(id), u32::from_le_bytes(pack)));
        }
        if !chunks.is_sorted_by(|a, b| a.0 < b.0) {
            return Err("its ids are not in order".into());
        }
        if chunks.iter().any(|(_, pack)| *pack as usize >= header.packs.len()) {
            return Err("it names a pack that it does not list".into());
        }
        Ok(Self { packs: header.packs, chunks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use proptest::prelude::*;

    fn map() -> ChunkMap {
        let object = ObjectRef {
            name: "tenant/acme/packs/x".into(),
            sha256: Digest::of(b"x"),
            bytes: 1,
            locked_until: Timestamp::UNIX_EPOCH,
        };
        let packs = vec![MapPack { object, born: Timestamp::UNIX_EPOCH }];
        ChunkMap { packs, chunks: vec![(ChunkId([1; 32]), 0), (ChunkId([2; 32]), 0)] }
    }

    #[test]
    fn a_map_reads_back_and_finds_what_it_holds() {
        let bytes = map().encode(&Scope::Estate, 1).unwrap();
        let read = ChunkMap::decode(&bytes, &Scope::Estate, 1).unwrap();
        assert_eq!(read, map());
        assert_eq!(read.find(&ChunkId([2; 32])), Some(1));
        assert_eq!(read.find(&ChunkId([3; 32])), None);
    }

    #[test]
    fn a_map_of_another_scope_or_epoch_is_not_used() {
        let bytes = map().encode(&Scope::Estate, 1).unwrap();
        assert!(ChunkMap::decode(&bytes, &Scope::Estate, 2).is_err());
        assert!(ChunkMap::decode(&bytes, &Scope::Tenant("acme".into()), 1).is_err());
    }

    #[test]
    fn a_map_that_is_cut_unsorted_or_points_nowhere_is_not_used() {
        let mut bad = map();
        bad.chunks[1].1 = 1;
        assert!(ChunkMap::decode(&bad.encode(&Scope::Estate, 1).unwrap(), &Scope::Estate, 1).is_err());
        let mut bad = map();
        bad.chunks.reverse();
        assert!(ChunkMap::decode(&bad.encode(&Scope::Estate, 1).unwrap(), &Scope::Estate, 1).is_err());
        let bytes = map().encode(&Scope::Estate, 1).unwrap();
        for at in 0..bytes.len() {
            assert!(ChunkMap::decode(&bytes[..at], &Scope::Estate, 1).is_err(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ChunkMap::decode(&bytes, &Scope::Estate, 1);
        }
    }
}
