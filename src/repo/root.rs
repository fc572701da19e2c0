//! A folder that nothing is written outside of.
//!
//! Paths come from bodies, which are hostile until proven otherwise. Every path is walked part by part from the folder's own
//! descriptor without following a symbolic link; files are created exclusively; links are checked, and made when everything else is written.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::error::RepoError;
use super::set::check_path;

/// See the module's page.
pub(super) struct Root {
    folder: OwnedFd,
    path: PathBuf,
    /// Folders walked to lately: files come folder by folder, and a walk is an `openat` for each part.
    walked: Mutex<HashMap<String, Arc<OwnedFd>>>,
}

/// So many folders are remembered.
const WALKED: usize = 64;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Root {
    /// Opens a folder, made when it is not there.
    pub fn open(path: &Path) -> Result<Self, RepoError> {
        let io = |source| RepoError::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(io)?;
        let folder = rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()).map_err(|e| io(e.into()))?;
        Ok(Self { folder, path: path.to_owned(), walked: Mutex::default() })
    }

    fn error(&self, path: &str, error: Errno) -> RepoError {
        match error {
            Errno::EXIST => RepoError::Taken { path: self.path.join(path) },
            Errno::LOOP | Errno::NOTDIR => {
                RepoError::BadPath { path: path.to_owned(), why: "a part of it is no directory" }
            }
            error => RepoError::Io { path: self.path.join(path), source: error.into() },
        }
    }

    /// The folder a path lies in and its last part; missing folders are made.
    fn parent<'a>(&self, path: &'a str) -> Result<(Option<Arc<OwnedFd>>, &'a str), RepoError> {
        check_path(path).map_err(|why| RepoError::BadPath { path: path.to_owned(), why })?;
        let Some((folders, last)) = path.rsplit_once('/') else {
            return Ok((None, path));
        };
        if let Some(known) = self.walked().get(folders) {
            return Ok((Some(Arc::clone(known)), last));
        }
        let folder = Arc::new(self.walk(folders).map_err(|error| self.error(path, error))?);
        let mut walked = self.walked();
        if walked.len() >= WALKED {
            walked.clear();
        }
        walked.insert(folders.to_owned(), Arc::clone(&folder));
        Ok((Some(folder), last))
    }

    fn walked(&self) -> MutexGuard<'_, HashMap<String, Arc<OwnedFd>>> {
        self.walked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn walk(&self, folders: &str) -> Result<OwnedFd, Errno> {
        let mut at: Option<OwnedFd> = None;
        for part in folders.split('/') {
            let from = at.as_ref().unwrap_or(&self.folder);
            let open = || rustix::fs::openat(from, part, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
            let opened = match open() {
                Err(Errno::NOENT) => match rustix::fs::mkdirat(from, part, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => open(),
                    Err(error) => Err(error),
                },
                opened => opened,
            };
            at = Some(opened?);
        }
        at.ok_or(Errno::NOENT)
    }

    fn with_parent<T>(&self, path: &str, act: impl FnOnce(&OwnedFd, &str) -> Result<T, Errno>) -> Result<T, RepoError> {
        let (parent, last) = self.parent(path)?;
        act(parent.as_deref().unwrap_or(&self.folder), last).map_err(|error| self.error(path, error))
    }

    /// Makes a directory; one that is there already is fine.
    pub fn directory(&self, path: &str) -> Result<(), RepoError> {
        self.with_parent(path, |parent, last| match rustix::fs::mkdirat(parent, last, Mode::RWXU) {
            Err(Errno::EXIST) => {
                rustix::fs::openat(parent, last, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map(drop)
            }
            made => made,
        })
    }

    /// Makes a file of `bytes` bytes, all zero, which must not be there.
    pub fn create(&self, path: &str, bytes: u64) -> Result<(), RepoError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.with_parent(path, |parent, last| {
            let file = rustix::fs::openat(parent, last, flags, Mode::RUSR | Mode::WUSR)?;
            if bytes > 0 { rustix::fs::ftruncate(file, bytes) } else { Ok(()) }
        })
    }

    /// Opens a file that [`Root::create`] made.
    pub fn write(&self, path: &str) -> Result<File, RepoError> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.with_parent(path, |parent, last| rustix::fs::openat(parent, last, flags, Mode::empty())).map(File::from)
    }

    /// Sets mode and modification time of what was made here.
    pub fn settle(&self, path: &str, mode: u32, mtime: Option<Timestamp>) -> Result<(), RepoError> {
        self.with_parent(path, |parent, last| {
            rustix::fs::chmodat(parent, last, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
            let Some(mtime) = mtime else { return Ok(()) };
            let time = Timespec { tv_sec: mtime.as_second(), tv_nsec: i64::from(mtime.subsec_nanosecond().max(0)) };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(parent, last, &times, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Makes a symbolic link that stays inside.
    pub fn link(&self, path: &str, target: &str) -> Result<(), RepoError> {
        stays_inside(path, target).map_err(|why| RepoError::BadPath { path: path.to_owned(), why })?;
        self.with_parent(path, |parent, last| rustix::fs::symlinkat(target, parent, last))
    }

    /// Makes everything written here durable.
    pub fn sync(&self) -> Result<(), RepoError> {
        rustix::fs::syncfs(&self.folder).map_err(|error| self.error("", error))
    }
}

/// Whether a link at `path` to `target` leads to somewhere below the root: up only at its beginning, and not above.
fn stays_inside(path: &str, target: &str) -> Result<(), &'static str> {
    let folders = path.split('/').count() - 1;
    let down = target.trim_start_matches("../");
    let ups = (target.len() - down.len()) / 3;
    if ups > folders {
        return Err("a link that leads outside");
    }
    check_path(down).map_err(|_| "a link that leads outside")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_outside_are_refused() {
        for (path, target) in [
            ("a", "/etc/passwd"),
            ("a", "../x"),
            ("a/b", "../../x"),
            ("a/b", "c/../../../x"),
            ("a", ".."),
            ("a", ""),
            ("a/b", "../."),
        ] {
            assert!(stays_inside(path, target).is_err(), "{path} -> {target}");
        }
        for (path, target) in [("a", "b"), ("a/b", "../c"), ("a/b", "c/d")] {
            assert!(stays_inside(path, target).is_ok(), "{path} -> {target}");
        }
    }

    #[test]
    fn nothing_is_written_through_a_link_or_over_what_is_there() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
        std::fs::write(inside.path().join("there"), b"mine").unwrap();
        std::os::unix::fs::symlink(outside.path().join("new"), inside.path().join("dangling")).unwrap();
        let root = Root::open(inside.path()).unwrap();
        assert!(matches!(root.create("link/file", 1), Err(RepoError::BadPath { .. })));
        assert!(root.directory("link").is_err());
        assert!(matches!(root.create("there", 1), Err(RepoError::Taken { .. })));
        assert!(root.create("dangling", 1).is_err());
        assert!(root.write("dangling").is_err());
        for path in ["../x", "/x", "a/../../x"] {
            assert!(matches!(root.create(path, 1), Err(RepoError::BadPath { .. })), "{path}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert_eq!(std::fs::read(inside.path().join("there")).unwrap(), b"mine");
    }
}
