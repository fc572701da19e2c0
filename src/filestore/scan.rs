//! What lies in one database's filestore folder, in name order, one subfolder in memory at a time.
//!
//! The folder belongs to whoever runs Odoo and may be hostile: everything is opened relative to the folder's own
//! descriptor, no link is followed (the folder itself included), and only what is a regular file under a [`FileName`] is
//! ever read. Everything else is reported and left alone. A file that goes away between the listing and the look is
//! reported too: the collection may be running.
//!
//! `checklist/` holds empty markers, the candidates for collection: names only, no content. A marker does not make its
//! file an orphan.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::{io, vec};

use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::FileName;
use super::state::Reading;
use crate::failure::{Failure, Kind as FailureKind, chain};

#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("{}: no such folder", path.display())]
    NoFolder { path: PathBuf },
    /// Following it could read another tenant's files as this one's.
    #[error("{}: is a link or no folder", path.display())]
    NotAFolder { path: PathBuf },
    #[error("{name}: is not there")]
    Missing { name: FileName },
    #[error("{name}: is not a regular file")]
    NotAFile { name: FileName },
    #[error("{what}: cannot be read")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
}

impl From<ScanError> for Failure {
    fn from(error: ScanError) -> Self {
        let cause = chain(&error);
        let (kind, object, next) = match &error {
            ScanError::NoFolder { path } => {
                (FailureKind::Usage, path.display().to_string(), "check the filestore's path in the configuration")
            }
            ScanError::NotAFolder { path } => {
                (FailureKind::Refused, path.display().to_string(), "configure the real path, without links")
            }
            ScanError::Missing { name } => {
                (FailureKind::Integrity, name.to_string(), "restore the file from an earlier point")
            }
            ScanError::NotAFile { name } => {
                (FailureKind::Refused, name.to_string(), "find out what replaced the file, and remove it")
            }
            ScanError::Io { what, .. } => {
                (FailureKind::Failed, what.clone(), "check the folder's permissions and disk")
            }
        };
        let cause = cause.strip_prefix(&format!("{object}: ")).unwrap_or(&cause).to_owned();
        Self::new(kind, object, cause, next)
    }
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the folder, for people; what is no UTF-8 is replaced.
    pub path: String,
    /// Length of a file; 0 for everything else.
    pub bytes: u64,
    pub modified: Option<Timestamp>,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file where Odoo puts them.
    File(FileName),
    /// A marker in `checklist/`.
    Checklist(FileName),
    /// A symbolic link, anywhere. Not followed.
    Symlink,
    /// Anything else, with what it is. Not read, not entered.
    Strange(&'static str),
    /// There when listed, gone when looked at.
    Vanished,
    /// Could not be looked at or listed.
    Unreadable(String),
}

/// One database's filestore folder, held open.
#[derive(Debug)]
pub struct Filestore {
    folder: OwnedFd,
    pub path: PathBuf,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Filestore {
    /// Opens `<data_dir>/filestore/<database>`; links above the last part are followed, it itself must be a folder.
    ///
    /// # Errors
    /// When it is missing, a link, no folder, or closed to us.
    pub fn open(path: &Path) -> Result<Self, ScanError> {
        match rustix::fs::open(path, FOLDER, Mode::empty()) {
            Ok(folder) => Ok(Self { folder, path: path.to_owned() }),
            Err(Errno::NOENT) => Err(ScanError::NoFolder { path: path.to_owned() }),
            Err(Errno::LOOP | Errno::NOTDIR | Errno::MLINK) => Err(ScanError::NotAFolder { path: path.to_owned() }),
            Err(errno) => Err(ScanError::Io { what: path.display().to_string(), source: errno.into() }),
        }
    }

    /// Everything in it, in name order. Sub-folders are listed one at a time, when their turn comes.
    ///
    /// # Errors
    /// When the folder itself cannot be listed.
    pub fn scan(&self) -> Result<Scan<'_>, ScanError> {
        let names = list(self.folder.as_fd())
            .map_err(|errno| ScanError::Io { what: self.path.display().to_string(), source: errno.into() })?;
        Ok(Scan { store: self, top: names.into_iter(), checklist: Vec::new().into_iter(), folder: None })
    }

    /// Opens one file for reading; its SHA-1 is taken on the way.
    ///
    /// # Errors
    /// When it is missing, no regular file, or closed to us.
    pub fn read(&self, name: &FileName) -> Result<Reading, ScanError> {
        let io = |errno: Errno| ScanError::Io { what: name.to_string(), source: errno.into() };
        let missing = |errno| match errno {
            Errno::NOENT => ScanError::Missing { name: *name },
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => ScanError::NotAFile { name: *name },
            errno => io(errno),
        };
        let folder = rustix::fs::openat(&self.folder, name.folder(), FOLDER, Mode::empty()).map_err(missing)?;
        // NONBLOCK: a pipe put there instead would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, name.sha1(), flags, Mode::empty()).map_err(missing)?;
        let stat = rustix::fs::fstat(&file).map_err(io)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(ScanError::NotAFile { name: *name });
        }
        Ok(Reading::new(file.into()))
    }
}

/// What [`super::watch`] asks: one of the 256 folders at a time.
impl Filestore {
    /// A folder's modification time (seconds, nanoseconds); none when it is not there.
    pub(super) fn folder_modified(&self, digits: u8) -> Result<Option<(i64, i64)>, ScanError> {
        match rustix::fs::statat(&self.folder, format!("{digits:02x}"), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(ScanError::Io { what: format!("{digits:02x}"), source: errno.into() }),
        }
    }

    /// The names of attachments' files in a folder, sorted. What else lies there is for the scan to report.
    pub(super) fn folder_names(&self, digits: u8) -> Result<Vec<FileName>, ScanError> {
        let folder = format!("{digits:02x}");
        let (_, names) = open_and_list(self.folder.as_fd(), Path::new(&folder), false)
            .map_err(|errno| ScanError::Io { what: folder.clone(), source: errno.into() })?;
        let known = |name: &Vec<u8>| FileName::from_parts(&folder, std::str::from_utf8(name).ok()?);
        Ok(names.iter().filter_map(known).collect())
    }
}

/// What [`super::fetch`] needs: sub-folders, opened and made without following a link.
impl Filestore {
    pub(super) fn open_below(&self, folder: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.folder, folder, FOLDER, Mode::empty())
    }

    pub(super) fn make_below(&self, folder: &str, mode: Mode) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.folder, folder, mode)
    }
}

/// The iterator of [`Filestore::scan`].
#[derive(Debug)]
pub struct Scan<'a> {
    store: &'a Filestore,
    top: vec::IntoIter<Vec<u8>>,
    /// The sub-folders of `checklist/` still to come.
    checklist: vec::IntoIter<Vec<u8>>,
    folder: Option<Folder>,
}

/// The sub-folder whose turn it is.
#[derive(Debug)]
struct Folder {
    fd: OwnedFd,
    /// `ab` or `checklist/ab`.
    path: String,
    /// Its own two digits.
    digits: String,
    markers: bool,
    names: vec::IntoIter<Vec<u8>>,
}

impl Iterator for Scan<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(folder) = &mut self.folder {
                match folder.names.next() {
                    Some(name) => return Some(folder.look(&name)),
                    None => self.folder = None,
                }
            }
            if let Some(name) = self.checklist.next() {
                if let Some(entry) = self.enter(&name, true) {
                    return Some(entry);
                }
                continue;
            }
            let name = self.top.next()?;
            let entry = if name == b"checklist" { self.enter_checklist() } else { self.enter(&name, false) };
            if entry.is_some() {
                return entry;
            }
        }
    }
}

impl Scan<'_> {
    /// Makes the sub-folder `name` the current one, or says why not.
    fn enter(&mut self, name: &[u8], markers: bool) -> Option<Entry> {
        let text = String::from_utf8_lossy(name);
        let path = if markers { format!("checklist/{text}") } else { text.clone().into_owned() };
        let below = if markers { Path::new("checklist").join(OsStr::from_bytes(name)) } else { text_path(name) };
        let digits = name.len() == 2 && name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !digits {
            return Some(self.strange(&below, path));
        }
        match open_and_list(self.store.folder.as_fd(), &below, markers) {
            Ok((fd, names)) => {
                self.folder = Some(Folder { fd, path, digits: text.into_owned(), markers, names: names.into_iter() });
                None
            }
            Err(errno) => Some(unopened(path, errno)),
        }
    }

    fn enter_checklist(&mut self) -> Option<Entry> {
        match open_and_list(self.store.folder.as_fd(), Path::new("checklist"), false) {
            Ok((_, names)) => {
                self.checklist = names.into_iter();
                None
            }
            Err(errno) => Some(unopened("checklist".to_owned(), errno)),
        }
    }

    /// What lies under a name that Odoo does not give.
    fn strange(&self, below: &Path, path: String) -> Entry {
        let mut entry = look(self.store.folder.as_fd(), below, path, FOREIGN);
        if entry.path == "filestore" && entry.kind == Kind::Strange("a folder") {
            // Odoo's own restore does this when the folder was there before (`service/db.py`, restore_db).
            entry.kind = Kind::Strange("a filestore nested by a restore over an existing folder");
        }
        entry
    }
}

impl Folder {
    fn look(&self, name: &[u8]) -> Entry {
        let text = String::from_utf8_lossy(name);
        let known = std::str::from_utf8(name).ok().and_then(|name| FileName::from_parts(&self.digits, name));
        let if_file = match known {
            Some(name) if self.markers => Kind::Checklist(name),
            Some(name) => Kind::File(name),
            None => FOREIGN,
        };
        look(self.fd.as_fd(), &text_path(name), format!("{}/{text}", self.path), if_file)
    }
}

const FOREIGN: Kind = Kind::Strange("a file with a name that Odoo does not give");

fn text_path(name: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(name))
}

/// What `below` is; `if_file` is what a regular file of its name is.
fn look(folder: BorrowedFd<'_>, below: &Path, path: String, if_file: Kind) -> Entry {
    let stat = match rustix::fs::statat(folder, below, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(errno) => return unopened(path, errno),
    };
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let kind = match file_type {
        FileType::RegularFile => if_file,
        FileType::Symlink => Kind::Symlink,
        FileType::Directory => Kind::Strange("a folder"),
        FileType::Fifo => Kind::Strange("a pipe"),
        FileType::Socket => Kind::Strange("a socket"),
        FileType::BlockDevice | FileType::CharacterDevice => Kind::Strange("a device"),
        _ => Kind::Strange("neither file nor folder"),
    };
    let bytes = if file_type.is_file() { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
    Entry { path, bytes, modified: modified(&stat), kind }
}

fn modified(stat: &rustix::fs::Stat) -> Option<Timestamp> {
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).ok()?;
    Timestamp::new(stat.st_mtime, nanoseconds).ok()
}

fn unopened(path: String, errno: Errno) -> Entry {
    let kind = match errno {
        Errno::NOENT => Kind::Vanished,
        Errno::LOOP => Kind::Symlink,
        Errno::NOTDIR => Kind::Strange("no folder, where a folder belongs"),
        errno => Kind::Unreadable(io::Error::from(errno).to_string()),
    };
    Entry { path, bytes: 0, modified: None, kind }
}

/// Opens a sub-folder without following a link at either step, and lists it.
fn open_and_list(root: BorrowedFd<'_>, below: &Path, markers: bool) -> Result<(OwnedFd, Vec<Vec<u8>>), Errno> {
    let open = |folder: BorrowedFd<'_>, name: &OsStr| match rustix::fs::openat(folder, name, FOLDER, Mode::empty()) {
        // O_DIRECTORY with O_NOFOLLOW says ENOTDIR for a link, too; tell the two apart for the report.
        Err(Errno::NOTDIR) if is_link(folder, name) => Err(Errno::LOOP),
        other => other,
    };
    let fd = if markers {
        let checklist = open(root, OsStr::new("checklist"))?;
        open(checklist.as_fd(), below.file_name().unwrap_or_default())?
    } else {
        open(root, below.as_os_str())?
    };
    let names = list(fd.as_fd())?;
    Ok((fd, names))
}

fn is_link(folder: BorrowedFd<'_>, name: &OsStr) -> bool {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_symlink())
}

/// The names in a folder, sorted by their bytes.
fn list(folder: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests;
