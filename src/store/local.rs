//! A folder as a store: one file per object, its lock in a file of its own.
//!
//! ```text
//! <root>/<name>                 the object, mode 0440, modified = created
//! <root>/<name>#<n>             object_store's staging file: not an object, swept after a killed process
//! <root>/@locks/<name>@lock     {"retained_until": "...", "held": false}
//! <root>/@locks/<name>@next     the lock file's next content, before the rename
//! <root>/@locks/<folder>/@mutex held (flock) by whoever changes anything in <folder>
//! ```
//! `@` and `#` are in no object's name, so nothing here can be taken for an object.
//!
//! States of a name: nothing; lock only (a `put` is on its way, or was killed); lock and object. The order of writing
//! (lock durable, then object; on removal object, then lock) is the invariant: **no object without its lock**. An
//! object that is found without a readable one was tampered with or copied by hand, and is not removed.
//!
//! Durable: object_store 0.14 does not sync unless told (`with_fsync`); then it syncs the file, links it into place and
//! syncs the folder, and it syncs the folders it makes. It does not sync those that another process has just made, so
//! all folders are made and synced here first.
//!
//! It is not a vault: locks bind lifeboat, not the machine's root ([`Store::promises`]). Name a folder *inside* a
//! mount, not the mount point, which when unmounted is an empty folder like a new store's.

use std::fs::{File, FileTimes, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use jiff::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::{GetOptions, GetResultPayload, ObjectStore as _, PutMode};
use tokio::sync::Semaphore;

use super::{Listed, LockState, Promises, Store, StoreError, Version, check_name, check_range};
use crate::clock::Clock;

mod locks;
#[cfg(test)]
mod tests;
mod walk;

/// The one version that a name has here.
const ONLY_VERSION: &str = "1";

/// How many changes are under way at a time. Each holds a blocking thread (perhaps waiting for a mutex) and needs a
/// second one for a moment; tokio has 512, so they never wait for each other.
const CHANGES_AT_ONCE: usize = 16;

/// How many entries of a listing are read ahead of who takes them.
const LIST_BATCH: usize = 500;

/// A store in a local folder.
#[derive(Debug, Clone)]
pub struct LocalStore {
    folder: Arc<Folder>,
    changes: Arc<Semaphore>,
    clock: Clock,
}

impl LocalStore {
    /// Opens the folder at `path`, which must exist; an empty one is a new store. Nothing is written.
    ///
    /// # Errors
    /// `Unreachable` when there is no such folder, it cannot be read, or something else is in its place.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        let place = path.display().to_string();
        let gone =
            |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Unreachable { name: place.clone(), source };
        let root = path.canonicalize().map_err(|error| gone(error.into()))?;
        let found = std::fs::read_dir(&root).and_then(|_| root.metadata()).map_err(|error| gone(error.into()))?;
        let files = LocalFileSystem::new_with_prefix(&root).map_err(|error| gone(error.into()))?.with_fsync(true);
        let locks = locks::Locks::new(root.clone());
        let folder = Folder { identity: (found.dev(), found.ino()), root, files, locks };
        Ok(Self { folder: Arc::new(folder), changes: Arc::new(Semaphore::new(CHANGES_AT_ONCE)), clock })
    }

    /// Runs `change` on a checked name, where it may block. It runs to its end even when nobody waits for it any more.
    async fn change<T: Send + 'static>(
        &self,
        name: &str,
        change: impl FnOnce(&Folder, &str) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (folder, owned) = (self.folder.clone(), name.to_owned());
        let turn =
            self.changes.clone().acquire_owned().await.map_err(|error| other(name, "the store is closed", error))?;
        let work = move || {
            let _turn = turn;
            folder.check_root()?;
            change(&folder, &owned)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| other(name, "the work was cut short", error))?
    }
}

#[async_trait]
impl Store for LocalStore {
    fn place(&self) -> String {
        self.folder.root.display().to_string()
    }

    fn promises(&self) -> Promises {
        let caveats = [
            "locks are files beside the objects: whoever may write to this folder (root, or the account lifeboat runs \
             as) can lift them, change objects and set their times",
            "it is one machine: keep a second copy elsewhere",
        ];
        Promises {
            create_only: true,
            locks_enforced: false,
            lacks: Vec::new(),
            caveats: caveats.map(str::to_owned).to_vec(),
        }
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.clock.now())
    }

    async fn put(&self, name: &str, bytes: Bytes, locked_until: Timestamp) -> Result<Version, StoreError> {
        check_name(name)?;
        let clock = self.clock.clone();
        self.change(name, move |folder, name| folder.put(name, bytes, locked_until, clock.now())).await?;
        Ok(Version(ONLY_VERSION.to_owned()))
    }

    async fn get(&self, name: &str, version: Option<&Version>, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        check_asked(name, version)?;
        let found = match self.folder.files.get_opts(&name.into(), GetOptions::default()).await {
            Ok(found) => found,
            // A folder of that name, or a part of it that is an object, is no object either.
            Err(error)
                if matches!(error, object_store::Error::NotFound { .. })
                    || cause_below(&error).is_some_and(|cause| is_absence(&cause)) =>
            {
                self.folder.check_root()?;
                return Err(StoreError::NotFound { name: name.to_owned() });
            }
            Err(error) => return Err(from_files(name, error)),
        };
        let range = check_range(name, range, found.meta.size)?;
        let GetResultPayload::File(file, _) = found.payload else {
            return Err(StoreError::Other { name: name.to_owned(), what: "is not a file".to_owned(), source: None });
        };
        let reading = tokio::task::spawn_blocking(move || read(&file, range)).await;
        let bytes = reading.map_err(|error| other(name, "the reading was cut short", error))?;
        bytes.map_err(|error| from_io(name, error))
    }

    fn list<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<Listed, StoreError>> {
        let walk = walk::Walk::new(self.folder.clone(), prefix);
        let batches = stream::unfold(Some(walk), |walk| async {
            let mut walk = walk?;
            let work = move || {
                let batch: Vec<_> = walk.by_ref().take(LIST_BATCH).collect();
                let more = batch.len() == LIST_BATCH;
                (batch, more.then_some(walk))
            };
            Some(match tokio::task::spawn_blocking(work).await {
                Ok(read) => read,
                Err(error) => (vec![Err(other("the listing", "was cut short", error))], None),
            })
        });
        batches.flat_map(stream::iter).boxed()
    }

    async fn lock_state(&self, name: &str, version: &Version) -> Result<LockState, StoreError> {
        check_asked(name, Some(version))?;
        self.change(name, Folder::lock_state).await
    }

    async fn extend(&self, name: &str, version: &Version, until: Timestamp) -> Result<(), StoreError> {
        check_asked(name, Some(version))?;
        let extended =
            move |state: LockState| LockState { retained_until: state.retained_until.max(Some(until)), ..state };
        self.change(name, move |folder, name| folder.change_lock(name, extended)).await
    }

    async fn hold(&self, name: &str, version: &Version, held: bool) -> Result<(), StoreError> {
        check_asked(name, Some(version))?;
        self.change(name, move |folder, name| folder.change_lock(name, |state| LockState { held, ..state })).await
    }

    async fn remove(&self, name: &str, version: &Version) -> Result<(), StoreError> {
        check_asked(name, Some(version))?;
        let clock = self.clock.clone();
        self.change(name, move |folder, name| folder.remove(name, &clock)).await
    }
}

/// The folder as files. Everything here blocks, and is called from blocking threads only.
#[derive(Debug)]
struct Folder {
    root: PathBuf,
    /// Device and inode of the root when it was opened: another file system in its place is not this store.
    identity: (u64, u64),
    files: LocalFileSystem,
    locks: locks::Locks,
}

impl Folder {
    /// Is the root still what was opened?
    fn check_root(&self) -> Result<(), StoreError> {
        let gone = match self.root.metadata() {
            Ok(found) if (found.dev(), found.ino()) == self.identity => return Ok(()),
            Ok(_) => io::Error::other("another folder is in its place; is it still mounted?"),
            Err(error) => error,
        };
        Err(StoreError::Unreachable { name: self.root.display().to_string(), source: gone.into() })
    }

    /// Whether there is such an object; a folder of that name is none.
    fn holds(&self, name: &str) -> Result<bool, StoreError> {
        match self.root.join(name).symlink_metadata() {
            Ok(found) => Ok(found.is_file()),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(from_io(name, error)),
        }
    }

    fn put(&self, name: &str, bytes: Bytes, until: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        let _mutex = self.locks.enter(name)?;
        let path = self.root.join(name);
        if self.holds(name)? {
            // Whoever wrote it may have been killed before it was durable; "exists" must be true after a power cut too.
            locks::sync_parent(&path).map_err(|error| from_io(name, error))?;
            return Err(StoreError::Exists { name: name.to_owned() });
        }
        if path.is_dir() {
            let what = "is a folder of other objects already".to_owned();
            return Err(StoreError::Other { name: name.to_owned(), what, source: None });
        }
        self.locks.write(name, &LockState { retained_until: Some(until), held: false })?;
        let location = name.into();
        let putting = self.files.put_opts(&location, bytes.into(), PutMode::Create.into());
        if let Err(error) = tokio::runtime::Handle::current().block_on(putting) {
            // An error can come after the object is in place (syncing the folder): then its lock stays.
            if matches!(self.holds(name), Ok(false)) {
                self.locks.forget(name);
            }
            return Err(from_files(name, error));
        }
        let finish = File::open(&path).and_then(|file| {
            file.set_times(FileTimes::new().set_modified(now.into()))?;
            file.set_permissions(Permissions::from_mode(0o440))
        });
        if let Err(error) = finish {
            // The object is there and durable. Only the guard against accidents is missing.
            tracing::warn!(object = name, %error, "cannot set the object's mode and time");
        }
        Ok(())
    }

    fn lock_state(&self, name: &str) -> Result<LockState, StoreError> {
        let absent = || StoreError::NotFound { name: name.to_owned() };
        if !self.holds(name)? {
            return Err(absent());
        }
        match self.locks.read(name) {
            // Removed between the two looks.
            Err(_) if !self.holds(name)? => Err(absent()),
            state => state,
        }
    }

    fn change_lock(&self, name: &str, change: impl FnOnce(LockState) -> LockState) -> Result<(), StoreError> {
        self.lock_state(name)?; // before the mutex, which makes folders: not for a name that nobody put
        let _mutex = self.locks.enter(name)?;
        let state = self.lock_state(name)?;
        let changed = change(state.clone());
        if changed == state { Ok(()) } else { self.locks.write(name, &changed) }
    }

    fn remove(&self, name: &str, clock: &Clock) -> Result<(), StoreError> {
        self.lock_state(name)?;
        let _mutex = self.locks.enter(name)?;
        let state = self.lock_state(name)?;
        // The time is taken inside the mutex: waiting for it must not make a lock look older.
        if state.binds(clock.now()) {
            return Err(StoreError::Locked { name: name.to_owned(), until: state.end() });
        }
        let path = self.root.join(name);
        let removed = std::fs::remove_file(&path).and_then(|()| locks::sync_parent(&path));
        removed.map_err(|error| from_io(name, error))?;
        self.locks.forget(name);
        Ok(())
    }
}

/// Is it a name, and the one version that a name can have?
fn check_asked(name: &str, version: Option<&Version>) -> Result<(), StoreError> {
    check_name(name)?;
    match version {
        Some(version) if version.0 != ONLY_VERSION => Err(StoreError::NotFound { name: name.to_owned() }),
        _ => Ok(()),
    }
}

fn read(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let bytes = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, range.start)?;
    Ok(buffer.into())
}

/// No such file, or a part of the path is a file: either way there is no such object.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn other(name: &str, what: &str, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Other { name: name.to_owned(), what: what.to_owned(), source: Some(Box::new(source)) }
}

/// What a file system's error means to a caller (errno(3)).
fn from_io(name: &str, source: io::Error) -> StoreError {
    use io::ErrorKind as K;
    let name = name.to_owned();
    match source.kind() {
        K::StorageFull | K::QuotaExceeded => StoreError::Full { name, source },
        K::NotConnected
        | K::HostUnreachable
        | K::NetworkDown
        | K::NetworkUnreachable
        | K::TimedOut
        | K::StaleNetworkFileHandle => StoreError::Unreachable { name, source: Box::new(source) },
        // EIO: the disk or the server behind it failed.
        _ if source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            StoreError::Unreachable { name, source: Box::new(source) }
        }
        _ => StoreError::Other { name, what: "the file system refused".to_owned(), source: Some(Box::new(source)) },
    }
}

/// The same for what came through object_store.
fn from_files(name: &str, error: object_store::Error) -> StoreError {
    match cause_below(&error) {
        _ if matches!(error, object_store::Error::AlreadyExists { .. }) => StoreError::Exists { name: name.to_owned() },
        Some(cause) => from_io(name, cause),
        None => other(name, "the file system refused", error),
    }
}

/// The system's error below one of object_store's, whose own types are private.
fn cause_below(error: &object_store::Error) -> Option<io::Error> {
    let mut below: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = below {
        if let Some(code) = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(io::Error::from_raw_os_error(code));
        }
        below = cause.source();
    }
    None
}
