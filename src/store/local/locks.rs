//! Lock files, and the mutex that orders changes to a folder across processes.
//!
//! A lock file is replaced (temporary file, sync, rename, sync of the folder), never written in place, so a reader sees
//! the old state or the new one. Who replaces or removes holds the folder's `@mutex` (flock(2)), a file that is never
//! removed: the inode one process waits on is the one that every other process locks. The kernel lets go of it when
//! its holder dies.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;

use super::{from_io, is_absence};
use crate::store::{LockState, StoreError, is_part};

/// The folder of all lock files, under the store's root.
const LOCKS: &str = "@locks";

#[derive(Debug)]
pub(super) struct Locks {
    root: PathBuf,
    /// Folders that this process knows to be durable and swept.
    prepared: Mutex<HashSet<PathBuf>>,
}

/// Held while something in one folder changes; let go when dropped.
pub(super) struct Entered(#[allow(dead_code)] File);

impl Locks {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, prepared: Mutex::default() }
    }

    /// Waits for the mutex of the folder that `name` lies in, both the object's and the lock's, which exist then.
    pub(super) fn enter(&self, name: &str) -> Result<Entered, StoreError> {
        self.enter_folder(name.rsplit_once('/').map_or("", |(folder, _)| folder)).map_err(|error| from_io(name, error))
    }

    fn enter_folder(&self, folder: &str) -> io::Result<Entered> {
        let objects = self.root.join(folder);
        let locks = self.root.join(LOCKS).join(folder);
        self.make_durable(&objects)?;
        self.make_durable(&locks)?;
        let mutex = File::options().create(true).truncate(false).write(true).open(locks.join("@mutex"))?;
        loop {
            match rustix::fs::flock(&mutex, FlockOperation::LockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.prepared().insert(objects.join("@swept"))
            && let Err(error) = sweep(&objects).and_then(|()| sweep(&locks))
        {
            tracing::warn!(folder, %error, "half-written files of a killed process take room here");
        }
        Ok(Entered(mutex))
    }

    /// Makes `folder` and everything above it, up to the root, and syncs each folder that holds one of them: also
    /// those found there, as whoever made them may not have come to syncing yet.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        if folder == self.root || (self.prepared().contains(folder) && folder.is_dir()) {
            return Ok(());
        }
        let above = folder.parent().unwrap_or(&self.root);
        self.make_durable(above)?;
        match std::fs::create_dir(folder) {
            Err(_) if folder.is_dir() => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            made => made?,
        }
        File::open(above)?.sync_all()?;
        self.prepared().insert(folder.to_owned());
        Ok(())
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of an object that is there. A lock file that is missing or damaged is an error: the lock might run.
    pub(super) fn read(&self, name: &str) -> Result<LockState, StoreError> {
        let lost = |what: &str, source: Option<Box<dyn std::error::Error + Send + Sync>>| StoreError::Other {
            name: name.to_owned(),
            what: format!("{what} ({}), so it counts as locked", self.path(name, "@lock").display()),
            source,
        };
        match std::fs::read(self.path(name, "@lock")) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| lost("its lock is damaged", Some(error.into())))
            }
            Err(error) if is_absence(&error) => Err(lost("its lock is missing", None)),
            Err(error) => Err(from_io(name, error)),
        }
    }

    /// Replaces the lock of `name`, durably. Needs the mutex.
    pub(super) fn write(&self, name: &str, state: &LockState) -> Result<(), StoreError> {
        let (next, path) = (self.path(name, "@next"), self.path(name, "@lock"));
        let replace = || {
            let mut file = File::create(&next)?;
            file.write_all(&serde_json::to_vec(state)?)?;
            file.sync_all()?;
            std::fs::rename(&next, &path)?;
            sync_parent(&path)
        };
        replace().map_err(|error| {
            let _ = std::fs::remove_file(&next);
            from_io(name, error)
        })
    }

    /// Removes the lock of an object that is not there any more. Needs the mutex. One that stays does no harm: the
    /// next `put` of that name replaces it.
    pub(super) fn forget(&self, name: &str) {
        if let Err(error) = std::fs::remove_file(self.path(name, "@lock")) {
            tracing::debug!(object = name, %error, "a lock file without an object stays");
        }
    }

    fn path(&self, name: &str, suffix: &str) -> PathBuf {
        self.root.join(LOCKS).join(format!("{name}{suffix}"))
    }
}

/// Makes a change to the folder that `path` lies in durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Removes what killed processes left half-written in `folder`. Needs the mutex, under which nobody is writing there.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_half_written) && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// `<part>#<n>`, as object_store names its staging files, or `<part>@next`.
fn is_half_written(file_name: &str) -> bool {
    let staged = |(part, n): (&str, &str)| is_part(part) && !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    file_name.split_once('#').is_some_and(staged) || file_name.strip_suffix("@next").is_some_and(is_part)
}
