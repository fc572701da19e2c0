//! A filestore filled again: which files to bring, by what the recovered database references, and putting each in place.
//!
//! Planning is a pure function. Placing writes to a temporary name, checks the SHA-1, syncs, renames: a name never
//! has a wrong file, not even for a moment, and a wrong file that is there is replaced. A new filestore goes into a
//! folder that was not there before (Odoo's own restore nests into an existing one). Only [`FileName`]s become paths; every step is
//! relative to the folder's descriptor and follows no link.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::FileName;
use super::scan::{Filestore, ScanError};
use super::state::{Outcome, Reading};
use crate::failure::{Failure, Kind, chain};

/// What to bring, and what cannot be brought and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<T> {
    /// Sorted by name.
    pub fetch: Vec<(FileName, T)>,
    /// The backup recorded that these were missing when it was made: no restore can have them.
    pub missing_at_source: Vec<FileName>,
    /// Referenced, not known to be missing then, and in no set: a finding of its own.
    pub missing_in_backup: Vec<FileName>,
}

/// Decides for each referenced name. A set that has a file wins over a record that it was missing.
pub fn plan<T: Clone>(
    referenced: impl IntoIterator<Item = FileName>,
    stored: &BTreeMap<FileName, T>,
    recorded_missing: &BTreeSet<FileName>,
) -> Plan<T> {
    let mut plan = Plan { fetch: Vec::new(), missing_at_source: Vec::new(), missing_in_backup: Vec::new() };
    for name in referenced.into_iter().collect::<BTreeSet<_>>() {
        match stored.get(&name) {
            Some(place) => plan.fetch.push((name, place.clone())),
            None if recorded_missing.contains(&name) => plan.missing_at_source.push(name),
            None => plan.missing_in_backup.push(name),
        }
    }
    plan
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{}: is there already", path.display())]
    Exists { path: PathBuf },
    #[error("{name}: the content is not what the name says (SHA-1 {sha1}, {bytes} bytes)")]
    WrongContent { name: FileName, sha1: String, bytes: u64 },
    /// The stored content could not be read; nothing was placed.
    #[error("{name}: its content cannot be read")]
    Content {
        name: FileName,
        #[source]
        source: io::Error,
    },
    #[error("{what}: cannot be written")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Scan(#[from] ScanError),
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let cause = chain(&error);
        let (kind, object, next) = match error {
            FetchError::Scan(error) => return error.into(),
            FetchError::Exists { path } => {
                (Kind::Refused, path.display().to_string(), "choose another folder, or move this one away")
            }
            FetchError::WrongContent { name, .. } | FetchError::Content { name, .. } => {
                (Kind::Integrity, name.to_string(), "take the file from another set or the second copy")
            }
            FetchError::Io { what, .. } => (Kind::Failed, what, "check the folder's disk and permissions, then resume"),
        };
        let cause = cause.strip_prefix(&format!("{object}: ")).unwrap_or(&cause).to_owned();
        Self::new(kind, object, cause, next)
    }
}

/// What placing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    New,
    /// It was there and right; nothing was read of the content offered.
    Right,
    /// A wrong file, or something that is no file, was there.
    Replaced,
}

/// A filestore folder being filled.
#[derive(Debug)]
pub struct Target {
    store: Filestore,
    /// Sub-folders with renames that are not synced yet.
    touched: BTreeSet<String>,
}

/// Odoo's group may read, others may not.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);
const FOLDER_MODE: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP);

impl Target {
    /// Makes the folder `path`, which must not be there; what lies above it is made where needed.
    ///
    /// # Errors
    /// [`FetchError::Exists`] when it is there, empty or not.
    pub fn create(path: &Path) -> Result<Self, FetchError> {
        let io = |source| FetchError::Io { what: path.display().to_string(), source };
        if let Some(above) = path.parent() {
            std::fs::create_dir_all(above).map_err(io)?;
        }
        match rustix::fs::mkdir(path, FOLDER_MODE) {
            Ok(()) => Self::resume(path),
            Err(Errno::EXIST) => Err(FetchError::Exists { path: path.to_owned() }),
            Err(errno) => Err(io(errno.into())),
        }
    }

    /// Goes on with a folder that an earlier, interrupted run made. The caller's journal says that it did.
    ///
    /// # Errors
    /// When it is missing, a link or no folder.
    pub fn resume(path: &Path) -> Result<Self, FetchError> {
        Ok(Self { store: Filestore::open(path)?, touched: BTreeSet::new() })
    }

    /// Puts one file in place, or leaves the right one that is there.
    ///
    /// Guarantees: afterwards the name has content of its SHA-1, or an error is returned and the name has no file. A
    /// row's `file_size` is not asked: content of the right SHA-1 is the file, and such a row was wrong at the source.
    /// Assumptions: nobody else writes into the folder. Durable only after [`Target::finish`].
    ///
    /// # Errors
    /// [`FetchError::WrongContent`]; what reading or writing says.
    pub fn place(&mut self, name: &FileName, content: &mut dyn Read) -> Result<Placed, FetchError> {
        let folder = self.folder(name)?;
        let before = self.existing(name, &folder)?;
        if before == Placed::Right {
            return Ok(before);
        }
        let temporary = format!(".lifeboat-{}", name.sha1());
        let written = write(&folder, &temporary, name, content);
        let renamed = written.and_then(|()| {
            rustix::fs::renameat(&folder, &temporary, &folder, name.sha1()).map_err(|errno| io(name, errno))
        });
        if let Err(error) = renamed {
            remove(&folder, &temporary).map_err(|errno| io(name, errno))?;
            return Err(error);
        }
        self.touched.insert(name.folder());
        Ok(before)
    }

    /// Makes all renames durable.
    ///
    /// # Errors
    /// What syncing a folder says.
    pub fn finish(self) -> Result<Filestore, FetchError> {
        for digits in &self.touched {
            let folder = self.store.open_below(digits).map_err(|errno| named_io(digits, errno))?;
            rustix::fs::fsync(&folder).map_err(|errno| named_io(digits, errno))?;
        }
        let path = self.store.path.clone();
        let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all());
        sync(&path)
            .and_then(|()| path.parent().map_or(Ok(()), sync))
            .map_err(|source| FetchError::Io { what: path.display().to_string(), source })?;
        Ok(self.store)
    }

    /// The open sub-folder for `name`, made where it is missing.
    fn folder(&self, name: &FileName) -> Result<OwnedFd, FetchError> {
        let digits = name.folder();
        match self.store.make_below(&digits, FOLDER_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(named_io(&digits, errno)),
        }
        self.store.open_below(&digits).map_err(|errno| named_io(&digits, errno))
    }

    /// Looks at what has the name already; a wrong one is removed at once, so that it blocks no re-upload.
    fn existing(&self, name: &FileName, folder: &OwnedFd) -> Result<Placed, FetchError> {
        match self.store.read(name) {
            Err(ScanError::Missing { .. }) => return Ok(Placed::New),
            Ok(reading) => {
                let read = reading.drain().map_err(|source| FetchError::Io { what: name.to_string(), source })?;
                if read.sha1 == name.0 {
                    return Ok(Placed::Right);
                }
            }
            Err(ScanError::NotAFile { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        remove(folder, &name.sha1()).map_err(|errno| io(name, errno))?;
        Ok(Placed::Replaced)
    }
}

/// Writes, checks and syncs the temporary file.
fn write(folder: &OwnedFd, temporary: &str, name: &FileName, content: &mut dyn Read) -> Result<(), FetchError> {
    remove(folder, temporary).map_err(|errno| io(name, errno))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file: File =
        rustix::fs::openat(folder, temporary, flags, FILE_MODE).map_err(|errno| io(name, errno))?.into();
    let mut reading = Reading::new(content);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match reading.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(source) if source.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(FetchError::Content { name: *name, source }),
        };
        file.write_all(buffer.get(..read).unwrap_or_default())
            .map_err(|source| FetchError::Io { what: name.to_string(), source })?;
    }
    let Outcome { sha1, bytes } = reading.finish();
    if sha1 != name.0 {
        return Err(FetchError::WrongContent { name: *name, sha1: hex::encode(sha1), bytes });
    }
    file.sync_all().map_err(|source| FetchError::Io { what: name.to_string(), source })
}

/// Removes a file, a link or an empty folder; nothing to remove is fine.
fn remove(folder: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR),
        Err(errno) => Err(errno),
    }
}

fn io(name: &FileName, errno: Errno) -> FetchError {
    FetchError::Io { what: name.to_string(), source: errno.into() }
}

fn named_io(what: &str, errno: Errno) -> FetchError {
    FetchError::Io { what: what.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests;
