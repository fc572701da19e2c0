//! The unprivileged user that everything in a sandbox runs as.
//!
//! A caller who is root becomes this user before anything is built (a real change of uid, not only a mapped
//! one); an ordinary caller stays who they are. Root is refused either way.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::SandboxError;

/// A user and group of this machine, neither of them root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// Who a sandbox asked for with `user` runs as: that user of `/etc/passwd` when the caller is root,
    /// else the caller.
    ///
    /// # Errors
    /// [`SandboxError::NoUser`] when there is no such user, or it is root.
    pub fn of(user: &str) -> Result<Self, SandboxError> {
        let uid = rustix::process::geteuid().as_raw();
        if uid != 0 {
            return Ok(Self { uid, gid: rustix::process::getegid().as_raw() });
        }
        let unknown = || SandboxError::NoUser { user: user.to_owned() };
        let passwd = fs::read_to_string("/etc/passwd").map_err(|_| unknown())?;
        let owner = find(&passwd, user).ok_or_else(unknown)?;
        if owner.uid == 0 || owner.gid == 0 {
            return Err(unknown());
        }
        Ok(owner)
    }

    /// Gives `dir` and all that lies in it to this user, following no link. For the restored files that root
    /// wrote and the sandboxed server must own; to be called before the sandbox starts.
    ///
    /// # Errors
    /// When something cannot be opened or given away; the error names the deepest folder.
    pub fn give(self, dir: &Path) -> Result<(), SandboxError> {
        let here = |source: rustix::io::Errno| SandboxError::Io { what: dir.to_owned(), source: source.into() };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = rustix::fs::open(dir, flags, Mode::empty()).map_err(here)?;
        let mut folders = vec![top];
        while let Some(folder) = folders.pop() {
            self.give_entries(&folder, &mut folders).map_err(here)?;
            rustix::fs::fchown(&folder, Some(self.user()), Some(self.group())).map_err(here)?;
        }
        Ok(())
    }

    fn give_entries(self, folder: &OwnedFd, below: &mut Vec<OwnedFd>) -> rustix::io::Result<()> {
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                below.push(rustix::fs::openat(folder, name, flags, Mode::empty())?);
            } else {
                let no_follow = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(folder, name, Some(self.user()), Some(self.group()), no_follow)?;
            }
        }
        Ok(())
    }

    fn user(self) -> rustix::fs::Uid {
        rustix::fs::Uid::from_raw(self.uid)
    }

    fn group(self) -> rustix::fs::Gid {
        rustix::fs::Gid::from_raw(self.gid)
    }
}

/// `name:password:uid:gid:...`, as in passwd(5).
fn find(passwd: &str, user: &str) -> Option<Owner> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != user {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Owner { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_his_whole_name_only() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnobodyelse:x:7:8::/:/\nnobody:x:65534:65533::/:/\nbad\n";
        assert_eq!(find(passwd, "nobody"), Some(Owner { uid: 65534, gid: 65533 }));
        assert_eq!(find(passwd, "nobo"), None);
        assert_eq!(find(passwd, "bad"), None);
    }

    #[test]
    fn root_is_never_the_owner_of_a_sandbox() {
        if rustix::process::geteuid().is_root() {
            assert!(matches!(Owner::of("root"), Err(SandboxError::NoUser { .. })));
        }
    }

    #[test]
    fn giving_a_folder_away_does_not_follow_links_out_of_it() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        use std::os::unix::fs::MetadataExt as _;
        let outside = tempfile::NamedTempFile::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("deep")).unwrap();
        fs::write(dir.path().join("deep/file"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("deep/link")).unwrap();
        Owner { uid: 65534, gid: 65534 }.give(dir.path()).unwrap();
        assert_eq!(fs::metadata(dir.path().join("deep/file")).unwrap().uid(), 65534);
        assert_eq!(fs::metadata(dir.path()).unwrap().uid(), 65534);
        assert_eq!(fs::metadata(outside.path()).unwrap().uid(), 0);
    }
}
