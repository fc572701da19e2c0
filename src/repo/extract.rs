//! Bringing files back, pack by pack.
//!
//! A [`Plan`] is made from bodies alone: which files go where, and what is wanted from which pack. Carrying it out fetches each pack once, a
//! few at a time, and writes every wanted chunk at its places. Before a byte is written its pack's SHA-256 was that
//! of the signed envelope and its id was recomputed. Zeros are not written: files are sparse where they were zero. Nothing but the
//! planned paths is made, nothing that exists is touched, and links come last. A failed extraction leaves what it had made so far.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;

use super::chunk::{ChunkId, ChunkKey};
use super::envelope::ObjectRef;
use super::error::RepoError;
use super::fetch;
use super::pack;
use super::reader::{Reader, blocking};
use super::root::Root;
use super::set::{EntryKind, FileEntry, Piece, SetBody};
use crate::ids::Scope;
use crate::watch::Watch;

/// How many packs are held at once: one being fetched while the cores work on the others, and no more than memory allows.
fn packs_under_way() -> usize {
    (std::thread::available_parallelism().map_or(2, std::num::NonZero::get) + 1).min(5)
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extracted {
    pub files: u64,
    /// Of the files.
    pub bytes: u64,
    pub objects_read: u64,
    /// Of the packs.
    pub bytes_read: u64,
}

/// Where the same chunk goes: the file's number and the offset in it.
type Places = Vec<(u32, u64)>;

/// What is wanted from one pack.
struct Wanted {
    object: ObjectRef,
    scope: Scope,
    epoch: u32,
    key: ChunkKey,
    chunks: HashMap<ChunkId, (u64, Places)>,
}

/// What is wanted from the packs of any number of sets.
#[derive(Default)]
struct Wants(BTreeMap<String, Wanted>);

impl Wants {
    /// Adds the pieces of one file of `body`, which will have the number `file`.
    fn add(&mut self, body: &SetBody, file: u32, entry: &FileEntry) -> Result<(), RepoError> {
        let mut offset = 0;
        for piece in &entry.chunks {
            if let Piece::Stored { id, pack, bytes } = piece {
                let bad = |what: &str| RepoError::Body { name: body.name.clone(), line: 0, what: what.to_owned() };
                let object = body.packs.get(*pack as usize).ok_or_else(|| bad("a piece lies in no pack"))?;
                let wanted = self.0.entry(object.name.clone()).or_insert_with(|| Wanted {
                    object: object.clone(),
                    scope: body.header.scope.clone(),
                    epoch: body.epoch,
                    key: body.header.chunk_key.clone(),
                    chunks: HashMap::new(),
                });
                let (length, places) = wanted.chunks.entry(*id).or_insert_with(|| (*bytes, Vec::new()));
                if *length != *bytes {
                    return Err(bad("one chunk is given two lengths"));
                }
                places.push((file, offset));
            }
            offset += piece.bytes();
        }
        Ok(())
    }
}

/// Files to bring back, and where to.
pub struct Plan {
    root: PathBuf,
    files: Vec<(String, FileEntry)>,
    wants: Wants,
    durable: bool,
}

impl Plan {
    /// A plan for files below `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), files: Vec::new(), wants: Wants::default(), durable: true }
    }

    /// Leaves it to the caller to make the files durable: he goes on changing them first, or throws them away.
    #[must_use]
    pub fn synced_by_caller(self) -> Self {
        Self { durable: false, ..self }
    }

    /// Adds the entries of a set for which `select` gives a path below the root; several sets may share a root.
    ///
    /// # Errors
    /// `Body`, or `BadPath` for a path that is not relative, plain UTF-8.
    pub fn add(
        &mut self,
        body: &SetBody,
        mut select: impl FnMut(&FileEntry) -> Option<PathBuf>,
    ) -> Result<(), RepoError> {
        for entry in body.entries()? {
            let mut entry = entry?;
            let Some(path) = select(&entry) else { continue };
            let Some(path) = path.to_str() else {
                return Err(RepoError::BadPath { path: path.display().to_string(), why: "not UTF-8" });
            };
            super::set::check_path(path).map_err(|why| RepoError::BadPath { path: path.to_owned(), why })?;
            self.wants.add(body, number(self.files.len())?, &entry)?;
            entry.chunks = Vec::new();
            self.files.push((path.to_owned(), entry));
        }
        Ok(())
    }

    /// How many bytes the planned files have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, entry)| entry.bytes).sum()
    }

    /// How many objects, and bytes of them, carrying it out fetches.
    #[must_use]
    pub fn fetches(&self) -> (u64, u64) {
        let packs = self.wants.0.values();
        (packs.len() as u64, packs.map(|wanted| wanted.object.bytes).sum())
    }

    fn of_kind(&self, kind: EntryKind) -> impl DoubleEndedIterator<Item = (&str, &FileEntry)> {
        self.files.iter().filter(move |(_, entry)| entry.kind == kind).map(|(path, entry)| (path.as_str(), entry))
    }

    /// Makes directories and files, the files with their length and without content.
    fn prepare(&self, root: &Root) -> Result<(), RepoError> {
        for (path, _) in self.of_kind(EntryKind::Dir) {
            root.directory(path)?;
        }
        self.of_kind(EntryKind::File).try_for_each(|(path, entry)| root.create(path, entry.bytes))
    }

    /// Links, modes and times; inner directories before outer ones, which may become read-only.
    fn settle(&self, root: &Root) -> Result<(), RepoError> {
        for (path, entry) in self.of_kind(EntryKind::File) {
            root.settle(path, entry.mode, entry.mtime)?;
        }
        for (path, entry) in self.of_kind(EntryKind::Link) {
            root.link(path, entry.target.as_deref().unwrap_or_default())?;
        }
        for (path, entry) in self.of_kind(EntryKind::Dir).rev() {
            root.settle(path, entry.mode, None)?;
        }
        if self.durable { root.sync() } else { Ok(()) }
    }
}

fn number(count: usize) -> Result<u32, RepoError> {
    u32::try_from(count).map_err(|_| RepoError::OutOfOrder { what: "more files than can be counted" })
}

pub(super) async fn carry_out(reader: &Reader, mut plan: Plan, watch: &dyn Watch) -> Result<Extracted, RepoError> {
    let wants = std::mem::take(&mut plan.wants);
    let done = Extracted {
        files: plan.of_kind(EntryKind::File).count() as u64,
        bytes: plan.bytes(),
        objects_read: wants.0.len() as u64,
        bytes_read: wants.0.values().map(|wanted| wanted.object.bytes).sum(),
    };
    let (root, plan) = blocking(move || {
        let root = Root::open(&plan.root)?;
        plan.prepare(&root)?;
        Ok((Arc::new(root), Arc::new(plan)))
    })
    .await?;
    let deliver = {
        let (root, plan) = (Arc::clone(&root), Arc::clone(&plan));
        move |last: &mut Option<(u32, std::fs::File)>, file: u32, offset: u64, content: &[u8]| {
            let (path, _) = plan.files.get(file as usize).ok_or(RepoError::Stopped)?;
            if last.as_ref().is_none_or(|(open, _)| *open != file) {
                *last = Some((file, root.write(path)?));
            }
            let (_, open) = last.as_ref().ok_or(RepoError::Stopped)?;
            open.write_all_at(content, offset).map_err(|source| RepoError::Io { path: plan.root.join(path), source })
        }
    };
    fetch_packs(reader, wants, deliver, watch).await?;
    blocking(move || plan.settle(&root)).await?;
    Ok(done)
}

/// Fetches packs and hands out their wanted chunks. `deliver` keeps what it likes per pack (`S`), such as an open file.
async fn fetch_packs<S: Default>(
    reader: &Reader,
    wants: Wants,
    deliver: impl Fn(&mut S, u32, u64, &[u8]) -> Result<(), RepoError> + Send + Sync + 'static,
    watch: &dyn Watch,
) -> Result<(), RepoError> {
    let deliver = Arc::new(deliver);
    let failed = AtomicBool::new(false);
    let packs = wants.0.into_values().map(|wanted| {
        let (deliver, failed) = (Arc::clone(&deliver), &failed);
        async move {
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let identity = reader.identities.unlock(&wanted.scope, wanted.epoch)?;
            let sealed = fetch::object(&*reader.store, &wanted.object).await?;
            let written = blocking(move || unpack(&identity, &sealed, wanted, &*deliver)).await?;
            watch.advance(written);
            Ok::<_, RepoError>(())
        }
    });
    let packs: Vec<_> = packs.collect();
    let mut packs = futures::stream::iter(packs).buffer_unordered(packs_under_way());
    // To the end also after an error: nobody may go on writing where the caller is about to clean up.
    let mut first = Ok(());
    while let Some(done) = packs.next().await {
        if done.is_err() && first.is_ok() {
            failed.store(true, Ordering::Relaxed);
            first = done;
        }
    }
    first
}

/// Delivers the wanted chunks of a pack, each checked against its id; gives how many bytes that was. Stops at the last wanted one:
/// the whole pack's SHA-256 is known to be right.
fn unpack<S: Default>(
    identity: &age::x25519::Identity,
    sealed: &[u8],
    mut wanted: Wanted,
    deliver: &impl Fn(&mut S, u32, u64, &[u8]) -> Result<(), RepoError>,
) -> Result<u64, RepoError> {
    let name = wanted.object.name.clone();
    let scope = &wanted.scope;
    let bad = |source| match source {
        pack::PackError::Seal(source) => RepoError::Seal { name: name.clone(), scope: scope.clone(), source },
        source => RepoError::Pack { name: name.clone(), source },
    };
    let mut chunks = pack::open(identity, sealed).map_err(|error| bad(error.into()))?;
    let (mut state, mut written) = (S::default(), 0);
    while !wanted.chunks.is_empty()
        && let Some((chunk, content)) = chunks.next_chunk().map_err(bad)?
    {
        let Some((bytes, places)) = wanted.chunks.remove(&chunk) else { continue };
        if content.len() as u64 != bytes || wanted.key.id(content) != chunk {
            return Err(RepoError::WrongChunk { name, chunk });
        }
        for (file, offset) in places {
            deliver(&mut state, file, offset, content)?;
            written += bytes;
        }
    }
    match wanted.chunks.into_keys().next() {
        Some(chunk) => Err(RepoError::NoChunk { name, chunk }),
        None => Ok(written),
    }
}

/// Reads the selected files of a set whole.
pub(super) async fn read_files(
    reader: &Reader,
    body: &SetBody,
    limit: u64,
    mut select: impl FnMut(&FileEntry) -> bool,
) -> Result<Vec<(FileEntry, Vec<u8>)>, RepoError> {
    let (mut wants, mut entries, mut contents) = (Wants::default(), Vec::new(), Vec::new());
    for entry in body.entries()? {
        let entry = entry?;
        if entry.kind != EntryKind::File || !select(&entry) {
            continue;
        }
        if entry.bytes > limit {
            return Err(RepoError::TooLong { path: entry.path, bytes: entry.bytes, limit });
        }
        wants.add(body, number(entries.len())?, &entry)?;
        let bytes = usize::try_from(entry.bytes).map_err(|_| RepoError::Stopped)?;
        contents.push(Mutex::new(vec![0; bytes]));
        entries.push(entry);
    }
    let contents = Arc::new(contents);
    let deliver = {
        let contents = Arc::clone(&contents);
        move |(): &mut (), file: u32, offset: u64, content: &[u8]| {
            let file = contents.get(file as usize).ok_or(RepoError::Stopped)?;
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let start = usize::try_from(offset).map_err(|_| RepoError::Stopped)?;
            let place = file.get_mut(start..start + content.len()).ok_or(RepoError::Stopped)?;
            place.copy_from_slice(content);
            Ok(())
        }
    };
    fetch_packs(reader, wants, deliver, &crate::watch::Quiet::default()).await?;
    let contents = Arc::into_inner(contents).ok_or(RepoError::Stopped)?;
    let contents = contents.into_iter().map(|content| content.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(entries.into_iter().zip(contents).collect())
}
