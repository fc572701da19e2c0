//! Reaching into a sandbox's folder from outside. What lies there was made by restored data and the programs that ran on it,
//! and whoever reaches in may be root: so no link is followed on any step of the way, only regular files are read (a
//! fifo would wait for ever), and only sockets of the sandbox's own user are connected to. openat2(2), `RESOLVE_NO_SYMLINKS`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags};
use tokio::net::UnixStream;

use super::{Owner, SandboxError};

/// A sandbox's folder, held open: whatever happens to its path, this is the same folder.
#[derive(Debug)]
pub struct Hands {
    dir: PathBuf,
    folder: OwnedFd,
}

impl Hands {
    /// Takes hold of `dir` for one sandbox: a folder, no link, that is the caller's or `owner`'s, and in no other sandbox. It is
    /// given to `owner`, closed to everybody else.
    ///
    /// # Errors
    /// [`SandboxError::BadLayout`] when it is not all of that: root could be led to give away somebody else's.
    pub fn on(dir: &Path, owner: Owner) -> Result<Self, SandboxError> {
        let bad = |why| SandboxError::BadLayout { path: dir.to_owned(), why };
        let failed = |source: rustix::io::Errno| SandboxError::Io { what: dir.to_owned(), source: source.into() };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(dir, flags, Mode::empty()) {
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                return Err(bad("it is not a folder, or a link to one"));
            }
            other => other.map_err(failed)?,
        };
        let belongs_to = rustix::fs::fstat(&folder).map_err(failed)?.st_uid;
        if belongs_to != owner.uid && belongs_to != rustix::process::geteuid().as_raw() {
            return Err(bad("it belongs to somebody else"));
        }
        rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| bad("another sandbox is using it"))?;
        hand_to(&folder, owner).map_err(|source| SandboxError::Io { what: dir.to_owned(), source })?;
        Ok(Self { dir: dir.to_owned(), folder })
    }

    /// Opens a file for reading; `path` is inside the folder, absolute or relative to it.
    ///
    /// # Errors
    /// [`SandboxError::Trap`] when it is not a plain file reached by plain folders.
    pub fn open(&self, path: &Path) -> Result<File, SandboxError> {
        let file = self.reach(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        self.demand(path, &file, FileType::RegularFile)?;
        Ok(File::from(file))
    }

    /// Connects to a socket, such as PostgreSQL's `.s.PGSQL.5432`. A path would not do: the sandbox could put a link to a server of the host there.
    ///
    /// # Errors
    /// [`SandboxError::Trap`] when it is no socket or not the sandbox's; [`SandboxError::Io`] when nobody listens.
    pub async fn connect(&self, path: &Path, owner: Owner) -> Result<UnixStream, SandboxError> {
        let socket = self.reach(path, OFlags::PATH)?;
        self.demand(path, &socket, FileType::Socket)?;
        let failed = |source| SandboxError::Io { what: path.to_owned(), source };
        let stream = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await.map_err(failed)?;
        let peer = stream.peer_cred().map_err(failed)?.uid();
        if peer != owner.uid {
            return Err(SandboxError::Trap { path: path.to_owned(), why: "another user listens there" });
        }
        Ok(stream)
    }

    /// Makes a folder for the sandbox's user, or takes the one that is there.
    ///
    /// # Errors
    /// [`SandboxError::Trap`] when something else is there.
    pub fn make_folder(&self, name: &str, owner: Owner) -> Result<PathBuf, SandboxError> {
        let path = self.dir.join(name);
        match rustix::fs::mkdirat(&self.folder, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(SandboxError::Io { what: path, source: error.into() }),
        }
        let folder = self.reach(Path::new(name), OFlags::RDONLY | OFlags::DIRECTORY)?;
        hand_to(&folder, owner).map_err(|source| SandboxError::Io { what: path.clone(), source })?;
        Ok(path)
    }

    fn reach(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, SandboxError> {
        let trap = |why| SandboxError::Trap { path: path.to_owned(), why };
        let below = path.strip_prefix(&self.dir).unwrap_or(path);
        if !below.components().all(|part| matches!(part, Component::Normal(_))) || below.as_os_str().is_empty() {
            return Err(trap("it is not a path inside the sandbox's folder"));
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.folder, below, flags, Mode::empty(), resolve).map_err(|error| match error {
            rustix::io::Errno::LOOP | rustix::io::Errno::XDEV => trap("a link is on the way"),
            other => SandboxError::Io { what: path.to_owned(), source: other.into() },
        })
    }

    fn demand(&self, path: &Path, found: &OwnedFd, wanted: FileType) -> Result<(), SandboxError> {
        let stat = rustix::fs::statat(found, "", AtFlags::EMPTY_PATH)
            .map_err(|source| SandboxError::Io { what: path.to_owned(), source: source.into() })?;
        if FileType::from_raw_mode(stat.st_mode) == wanted {
            return Ok(());
        }
        Err(SandboxError::Trap { path: path.to_owned(), why: "it is neither a plain file nor a socket, as asked" })
    }
}

fn hand_to(folder: &OwnedFd, owner: Owner) -> io::Result<()> {
    let stat = rustix::fs::fstat(folder)?;
    if stat.st_uid != owner.uid || stat.st_gid != owner.gid {
        let (user, group) = (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
        rustix::fs::fchown(folder, Some(user), Some(group))?;
    }
    Ok(rustix::fs::fchmod(folder, Mode::from_raw_mode(0o700))?)
}

/// Text from inside, without what a terminal would obey.
#[must_use]
pub fn printable(text: &[u8]) -> String {
    let hostile = |letter: char| letter.is_control() && letter != '\n' && letter != '\t';
    String::from_utf8_lossy(text).chars().map(|letter| if hostile(letter) { '\u{FFFD}' } else { letter }).collect()
}
