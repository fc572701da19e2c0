//! Filling one set: files come in as pieces, sealed packs go out, a signed envelope ends it.
//!
//! The calling thread (a blocking one) hands pieces in; workers find each piece's id and compress what is new; the calling
//! thread takes results in order, places them in packs and writes the body. Bounded: about 16 MiB of pieces
//! with the workers, one pack open, `packs_under_way` sealed packs on their way. Whoever fills many sets in turn calls
//! [`SetWriter::flush`] when he leaves one.
//!
//! `study` says what a piece is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::chunk::{ChunkId, MAX_CHUNK_BYTES};
use super::chunk_map::{ChunkMap, MapPack};
use super::envelope::{Envelope, EnvelopeKind, FORMAT, ObjectRef, Verified};
use super::error::RepoError;
use super::name::{self, SetName, SetPart};
use super::pack::{OWN_FRAME_BYTES, SealedPack};
use super::packing::Packing;
use super::pool::Pending;
use super::seal;
use super::set::{BodyWriter, EntryKind, FileEntry, Header, Piece, check_path};
use super::study::{Fate, Known, Studied, UNPLACED};
use super::writer::{NewSet, Shared};

/// How many bytes of pieces may be with the workers.
const QUEUE_BYTES: usize = 16 << 20;
/// How many items (a small file is three) may wait to be placed: a small piece can be a slice that keeps a large buffer alive.
const QUEUE_ITEMS: usize = 384;
/// How many buffers are kept for the next pieces.
const SPARE_BUFFERS: usize = 16;

/// What is known of a file when it begins.
#[derive(Debug, Clone, Default)]
pub struct FileMeta {
    /// Relative, `/`-separated.
    pub path: String,
    pub mode: u32,
    /// What the source announces; what really comes is what is recorded.
    pub bytes: Option<u64>,
    pub mtime: Option<Timestamp>,
    pub tags: BTreeMap<String, String>,
}

/// What is not a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Other {
    Dir,
    Link { target: String },
}

/// A set that was committed.
#[derive(Debug, Clone)]
pub struct StoredSet {
    pub envelope_name: String,
    pub envelope_digest: crate::ids::Digest,
    /// The envelope itself; its `reference()` is what a point names.
    pub envelope: Verified,
    /// Bytes written to the store for it, envelope and body included.
    pub stored_bytes: u64,
    /// Content that was not in the store before.
    pub new_bytes: u64,
    /// Content that was there already, in older packs or earlier in this set; zeros not counted.
    pub reused_bytes: u64,
    /// Zeros, stored nowhere.
    pub zero_bytes: u64,
    pub files: u64,
    /// Objects that the envelope names.
    pub objects: usize,
}

/// What is waiting to be placed, in order.
enum Item {
    Start(FileMeta),
    Piece(usize, Pending<Result<Studied, RepoError>>),
    End(BTreeMap<String, String>),
    Other(FileEntry),
}

/// A pack that pieces of this set point to.
enum SetPack {
    /// One of the set before, by its number there.
    Old(usize),
    New(JoinHandle<Result<ObjectRef, RepoError>>),
    Open,
}

#[derive(Default)]
struct Counts {
    files: u64,
    new_bytes: u64,
    reused_bytes: u64,
    zero_bytes: u64,
}

/// See the module's page.
pub struct SetWriter {
    known: Arc<Known>,
    new: NewSet,
    name: SetName,
    body: Option<BodyWriter>,
    packing: Packing,
    queue: VecDeque<Item>,
    queued_bytes: usize,
    /// Buffers of pieces that are placed: a backup would otherwise ask for and give back each of them.
    spare: Vec<BytesMut>,
    in_file: bool,
    /// The file whose pieces are being placed.
    entry: Option<FileEntry>,
    packs: Vec<SetPack>,
    /// For each old pack its number in this set, once it is reused.
    old_numbers: Vec<Option<u32>>,
    /// Which chunks of the old map this set uses.
    old_used: Vec<bool>,
    counts: Counts,
}

impl SetWriter {
    pub(super) fn new(
        shared: Arc<Shared>,
        new: NewSet,
        name: SetName,
        began: Timestamp,
        old: ChunkMap,
    ) -> Result<Self, RepoError> {
        let keys = shared.bundle.keys(&new.scope)?;
        let chunk_key = keys.chunk_key.clone();
        let (recipient, level) = (keys.recipient.clone(), shared.options.level);
        let (scope, source, kind) = (new.scope.clone(), new.source.clone(), new.kind);
        let header = Header { format: FORMAT, scope, source, kind, chunk_key: chunk_key.clone() };
        let packing = Packing::new(keys.recipient.clone(), shared.options.pack_bytes);
        let until = shared.with_slack(new.locked_until);
        let (old_packs, old_chunks) = (old.packs.len(), old.chunks.len());
        let known = Known {
            shared,
            runtime: tokio::runtime::Handle::current(),
            chunk_key,
            old,
            usable: (0..old_packs).map(|_| OnceLock::new()).collect(),
            new: Mutex::default(),
            until,
            began,
            trouble: Mutex::default(),
        };
        Ok(Self {
            known: Arc::new(known),
            new,
            name,
            body: Some(BodyWriter::new(recipient, level, header)?),
            packing,
            queue: VecDeque::new(),
            queued_bytes: 0,
            spare: Vec::new(),
            in_file: false,
            entry: None,
            packs: Vec::new(),
            old_numbers: vec![None; old_packs],
            old_used: vec![false; old_chunks],
            counts: Counts::default(),
        })
    }

    /// Begins a file.
    ///
    /// # Errors
    /// `BadPath`, `OutOfOrder` inside another file, or what went wrong with earlier pieces.
    pub fn start_file(&mut self, meta: FileMeta) -> Result<(), RepoError> {
        self.check(&meta.path)?;
        self.in_file = true;
        self.queue.push_back(Item::Start(meta));
        self.settle(QUEUE_BYTES)
    }

    /// A buffer of `bytes` bytes for [`SetWriter::piece`], with anything in it: the caller fills it wholly.
    pub fn buffer(&mut self, bytes: usize) -> BytesMut {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(bytes, 0);
        buffer
    }

    /// The next piece of the file, at most [`MAX_CHUNK_BYTES`]. Blocks while too much is under way.
    ///
    /// # Errors
    /// `OutOfOrder` outside a file, or what went wrong with earlier pieces.
    pub fn piece(&mut self, content: Bytes) -> Result<(), RepoError> {
        if !self.in_file || content.len() > MAX_CHUNK_BYTES {
            return Err(RepoError::OutOfOrder { what: "a piece belongs inside a file, and may not be too long" });
        }
        if content.is_empty() {
            return Ok(());
        }
        let (known, bytes) = (Arc::clone(&self.known), content.len());
        let pending = self.known.shared.pool.run(move |tools| known.study(tools, content));
        self.queued_bytes += bytes;
        self.queue.push_back(Item::Piece(bytes, pending));
        self.settle(QUEUE_BYTES)
    }

    /// Ends the file; `tags` join those it began with.
    ///
    /// # Errors
    /// `OutOfOrder` outside a file.
    pub fn end_file(&mut self, tags: BTreeMap<String, String>) -> Result<(), RepoError> {
        if !std::mem::take(&mut self.in_file) {
            return Err(RepoError::OutOfOrder { what: "a file is ended that was not begun" });
        }
        self.queue.push_back(Item::End(tags));
        self.settle(QUEUE_BYTES)
    }

    /// A directory or a symbolic link.
    ///
    /// # Errors
    /// `BadPath`, `OutOfOrder` inside a file.
    pub fn other(&mut self, meta: FileMeta, what: Other) -> Result<(), RepoError> {
        self.check(&meta.path)?;
        let (kind, target) = match what {
            Other::Dir => (EntryKind::Dir, None),
            Other::Link { target } => (EntryKind::Link, Some(target)),
        };
        let FileMeta { path, mode, mtime, tags, .. } = meta;
        let entry = FileEntry { kind, path, mode, mtime, tags, target, ..FileEntry::default() };
        self.queue.push_back(Item::Other(entry));
        self.settle(QUEUE_BYTES)
    }

    fn check(&self, path: &str) -> Result<(), RepoError> {
        if self.in_file {
            return Err(RepoError::OutOfOrder { what: "a file begins before the one before it has ended" });
        }
        check_path(path).map_err(|why| RepoError::BadPath { path: path.to_owned(), why })
    }

    /// Closes the open pack: the stream has left this set, perhaps for long.
    ///
    /// # Errors
    /// What went wrong with earlier pieces.
    pub fn flush(&mut self) -> Result<(), RepoError> {
        self.settle(0)?;
        let closed = self.packing.close(&self.known.shared.pool)?;
        self.send(closed)?;
        self.spare = Vec::new();
        self.body.as_mut().map_or(Ok(()), BodyWriter::rest)
    }

    /// Places results from the front of the queue until at most `leave` bytes are with the workers (with 0: until it is empty).
    fn settle(&mut self, leave: usize) -> Result<(), RepoError> {
        if let Some(error) = self.known.trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        // Once over a bound, down to half of it: waiting for one place at a time would be a change of threads for each piece.
        let over = self.queued_bytes > leave || self.queue.len() > QUEUE_ITEMS;
        let (bytes, items) = if over { (leave / 2, QUEUE_ITEMS / 2) } else { (leave, QUEUE_ITEMS) };
        while self.queued_bytes > bytes
            || self.queue.len() > items
            || leave == 0
            || self.queue.front().is_some_and(Item::is_free)
        {
            let Some(item) = self.queue.pop_front() else { break };
            self.place(item)?;
            let full = self.packing.settle(&self.known.shared.pool)?;
            self.send(full)?;
        }
        Ok(())
    }

    fn place(&mut self, item: Item) -> Result<(), RepoError> {
        match item {
            Item::Start(meta) => {
                let FileMeta { path, mode, mtime, tags, .. } = meta;
                self.entry = Some(FileEntry { path, mode, mtime, tags, ..FileEntry::default() });
                Ok(())
            }
            Item::Piece(bytes, pending) => {
                self.queued_bytes -= bytes;
                let studied = pending.wait()??;
                let piece = self.place_piece(studied)?;
                if let Some(entry) = &mut self.entry {
                    entry.bytes += piece.bytes();
                    match (entry.chunks.last_mut(), piece) {
                        (Some(Piece::Zero { zero }), Piece::Zero { zero: more }) => *zero += more,
                        _ => entry.chunks.push(piece),
                    }
                }
                Ok(())
            }
            Item::End(tags) => match self.entry.take() {
                Some(mut entry) => {
                    entry.tags.extend(tags);
                    self.counts.files += 1;
                    self.write(entry)
                }
                None => Err(RepoError::OutOfOrder { what: "a file is ended that was not begun" }),
            },
            Item::Other(entry) => self.write(entry),
        }
    }

    fn write(&mut self, entry: FileEntry) -> Result<(), RepoError> {
        self.body.as_mut().ok_or(RepoError::Stopped)?.entry(entry)
    }

    fn place_piece(&mut self, studied: Studied) -> Result<Piece, RepoError> {
        let Studied { content, id, fate } = studied;
        let piece = self.place_content(&content, id, fate);
        if self.spare.len() < SPARE_BUFFERS
            && let Ok(buffer) = content.try_into_mut()
        {
            self.spare.push(buffer);
        }
        piece
    }

    fn place_content(&mut self, content: &Bytes, id: ChunkId, fate: Fate) -> Result<Piece, RepoError> {
        let bytes = content.len() as u64;
        let count = &mut self.counts;
        let pack = match fate {
            Fate::Zero => {
                count.zero_bytes += bytes;
                return Ok(Piece::Zero { zero: bytes });
            }
            Fate::Old(at) => {
                count.reused_bytes += bytes;
                self.reuse(at)?
            }
            Fate::Seen | Fate::Small | Fate::Frame(_) => match self.known.place_of(id) {
                // Whoever claimed it may come later in the queue: the first to arrive here places it.
                UNPLACED => {
                    count.new_bytes += bytes;
                    let pack = self.place_new(id, content, fate)?;
                    self.known.placed(id, pack);
                    pack
                }
                pack => {
                    count.reused_bytes += bytes;
                    pack
                }
            },
        };
        Ok(Piece::Stored { id, pack, bytes })
    }

    fn place_new(&mut self, id: ChunkId, content: &Bytes, fate: Fate) -> Result<u32, RepoError> {
        let pool = &self.known.shared.pool;
        let packs = &mut self.packs;
        let next = || {
            packs.push(SetPack::Open);
            u32::try_from(packs.len() - 1).unwrap_or(UNPLACED)
        };
        match fate {
            Fate::Frame(frame) => self.packing.place_frame(frame, content.len(), next),
            _ if content.len() < OWN_FRAME_BYTES => self.packing.place_small(pool, id, content, next),
            _ => {
                let again = content.clone();
                let frame = pool.run(move |tools| tools.member_frame(id, &again)).wait()??;
                self.packing.place_frame(frame, content.len(), next)
            }
        }
    }

    /// The number in this set of the pack that holds an old chunk.
    fn reuse(&mut self, at: usize) -> Result<u32, RepoError> {
        let (_, pack) = self.known.old.chunks.get(at).ok_or(RepoError::Stopped)?;
        if let Some(used) = self.old_used.get_mut(at) {
            *used = true;
        }
        let number = self.old_numbers.get_mut(*pack as usize).ok_or(RepoError::Stopped)?;
        Ok(*number.get_or_insert_with(|| {
            self.packs.push(SetPack::Old(*pack as usize));
            u32::try_from(self.packs.len() - 1).unwrap_or(UNPLACED)
        }))
    }

    /// Sends a finished pack to the store, waiting while too many are on their way.
    fn send(&mut self, finished: Option<(u32, SealedPack)>) -> Result<(), RepoError> {
        let Some((number, pack)) = finished else {
            return Ok(());
        };
        let pass = self.known.shared.packs_under_way.enter();
        let (known, name) = (Arc::clone(&self.known), name::pack(&self.new.scope, pack.digest));
        let task = self.known.runtime.spawn(async move {
            let bytes = pack.bytes.len() as u64;
            let stored = known.shared.store.put(&name, pack.bytes.into(), known.until).await;
            drop(pass);
            match stored {
                Ok(_) => Ok(ObjectRef { name, sha256: pack.digest, bytes, locked_until: known.until }),
                Err(error) => {
                    *known.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.into());
                    Err(RepoError::Stopped)
                }
            }
        });
        *self.packs.get_mut(number as usize).ok_or(RepoError::Stopped)? = SetPack::New(task);
        Ok(())
    }

    /// Waits for everything, then writes body and chunk map, then signature, then envelope.
    ///
    /// # Errors
    /// Whatever went wrong; then nothing was committed.
    pub async fn finish(mut self, facts: serde_json::Value) -> Result<StoredSet, RepoError> {
        if self.in_file {
            return Err(RepoError::OutOfOrder { what: "a set is finished inside a file" });
        }
        let flush = move || self.flush().map(|()| self);
        let mut this = tokio::task::spawn_blocking(flush).await.map_err(|_| RepoError::Stopped)??;
        let (packs, mut stored_bytes) = this.await_packs().await?;
        let known = Arc::clone(&this.known);
        let shared = &known.shared;
        let body = this.body.take().ok_or(RepoError::Stopped)?;
        let names = packs.iter().map(|pack| pack.object.name.clone()).collect();
        let (body, totals) = body.finish(names, facts)?;
        let map = this.chunk_map(packs.clone());
        let mut objects: Vec<ObjectRef> = packs.into_iter().map(|pack| pack.object).collect();
        let keys = shared.bundle.keys(&this.new.scope)?;
        let map = map.encode(&this.new.scope, keys.epoch).map_err(|error| RepoError::Compress(error.into()))?;
        let map = seal::seal_plain(&shared.bundle.chunk_map.to_public(), &map)
            .map_err(|error| RepoError::Compress(std::io::Error::other(error)))?;
        stored_bytes += (body.len() + map.len()) as u64;
        let put = |part, bytes: Vec<u8>| shared.put(this.name.part(part), bytes.into(), known.until);
        let (body, map) = futures::try_join!(put(SetPart::Body, body), put(SetPart::Chunks, map))?;
        objects.extend([body, map]);
        let objects_count = objects.len();
        let envelope = Envelope {
            format: FORMAT,
            kind: EnvelopeKind::Set,
            name: this.name.part(SetPart::Envelope),
            scope: this.new.scope,
            epoch: keys.epoch,
            source: this.new.source,
            time: known.began,
            writer: shared.bundle.writer.clone(),
            previous: None,
            locked_until: this.new.locked_until,
            objects,
            wal: None,
            facts: serde_json::json!({ "kind": this.new.kind, "files": this.counts.files, "bytes": totals.bytes }),
            extra: BTreeMap::new(),
        };
        let envelope = shared.commit(envelope).await?;
        Ok(StoredSet {
            envelope_name: envelope.name.clone(),
            envelope_digest: envelope.digest,
            stored_bytes: stored_bytes + envelope.bytes,
            new_bytes: this.counts.new_bytes,
            reused_bytes: this.counts.reused_bytes,
            zero_bytes: this.counts.zero_bytes,
            files: this.counts.files,
            objects: objects_count,
            envelope,
        })
    }

    /// Waits until every new pack is stored; gives all packs in the order pieces count them, and the bytes of the new ones.
    async fn await_packs(&mut self) -> Result<(Vec<MapPack>, u64), RepoError> {
        let (mut packs, mut stored_bytes) = (Vec::new(), 0);
        for pack in self.packs.drain(..) {
            packs.push(match pack {
                SetPack::Old(number) => {
                    let mut pack = self.known.old.packs.get(number).ok_or(RepoError::Stopped)?.clone();
                    pack.object.locked_until = pack.object.locked_until.max(self.known.until);
                    pack
                }
                SetPack::New(task) => match task.await {
                    Ok(Ok(object)) => {
                        stored_bytes += object.bytes;
                        MapPack { object, born: self.known.began }
                    }
                    _ => {
                        let trouble = self.known.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
                        return Err(trouble.unwrap_or(RepoError::Stopped));
                    }
                },
                SetPack::Open => return Err(RepoError::Stopped),
            });
        }
        Ok((packs, stored_bytes))
    }

    /// What this set holds, for the next one to reuse.
    fn chunk_map(&self, packs: Vec<MapPack>) -> ChunkMap {
        let new = self.known.new.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chunks: Vec<(ChunkId, u32)> = new.iter().map(|(id, pack)| (*id, *pack)).collect();
        let old = self.known.old.chunks.iter().zip(&self.old_used).filter(|(_, used)| **used);
        chunks.extend(old.filter_map(|((id, pack), _)| Some((*id, (*self.old_numbers.get(*pack as usize)?)?))));
        chunks.sort_unstable_by_key(|(id, _)| *id);
        chunks.dedup_by_key(|(id, _)| *id);
        ChunkMap { packs, chunks }
    }
}

impl Item {
    /// Whether placing it waits for nobody.
    fn is_free(&self) -> bool {
        !matches!(self, Self::Piece(..))
    }
}
