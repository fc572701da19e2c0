//! The end of a sandbox, and the proof of it: no process that was inside is left.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::process::{Pid, PidfdFlags};

use super::{Sandbox, SandboxError};

/// How long the kernel may take to end what ran inside; a process in the middle of a large write takes its time.
const PATIENCE: Duration = Duration::from_secs(30);

/// That a sandbox is gone. Having one means that no process of it is left.
#[derive(Debug)]
#[must_use = "the folder is still there; remove_dir removes it"]
pub struct Destroyed {
    /// How many processes were ended, the agent among them.
    pub ended_processes: usize,
    dir: PathBuf,
}

impl Destroyed {
    /// Removes the sandbox's folder with all in it, following no link; nobody is left who could change it meanwhile.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_dir(self) -> Result<(), SandboxError> {
        remove(&self.dir).map_err(|source| SandboxError::Io { what: self.dir, source: source.into() })
    }
}

/// Removes a tree without descending into it: what lies two deep is moved up to `dir` first, so that neither the stack nor
/// open files limit how deep hostile data may nest its folders (`std::fs::remove_dir_all` gives up at about a thousand).
fn remove(dir: &Path) -> rustix::io::Result<()> {
    let folder = |at: BorrowedFd<'_>, name: &CStr| {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The owner may have locked himself out; following no link is safe, for what is here was listed as a folder and nobody is left to swap it.
        rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
        rustix::fs::openat(at, name, flags, Mode::empty())
    };
    let top = rustix::fs::open(dir, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut moved = 0_u64;
    loop {
        let (folders, files) = entries(&top)?;
        for name in &files {
            rustix::fs::unlinkat(&top, name, AtFlags::empty())?;
        }
        if folders.is_empty() {
            return rustix::fs::rmdir(dir);
        }
        for name in &folders {
            let below = folder(top.as_fd(), name)?;
            let (deeper, files) = entries(&below)?;
            for file in &files {
                rustix::fs::unlinkat(&below, file, AtFlags::empty())?;
            }
            for name in &deeper {
                folder(below.as_fd(), name)?;
                move_up(&below, name, &top, &mut moved)?;
            }
            rustix::fs::unlinkat(&top, name, AtFlags::REMOVEDIR)?;
        }
    }
}

/// Moves a folder to `top` under a number that is free there.
fn move_up(from: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> rustix::io::Result<()> {
    loop {
        *moved += 1;
        match rustix::fs::renameat_with(from, name, top, moved.to_string(), RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => {}
            other => return other,
        }
    }
}

/// The folders and the other things in a folder.
fn entries(folder: &OwnedFd) -> rustix::io::Result<(Vec<CString>, Vec<CString>)> {
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_owned();
        match entry.file_type() {
            _ if name.as_c_str() == c"." || name.as_c_str() == c".." => {}
            FileType::Directory => folders.push(name),
            _ => files.push(name),
        }
    }
    Ok((folders, files))
}

impl Sandbox {
    /// Ends everything inside and looks whether anything is left.
    ///
    /// # Errors
    /// [`SandboxError::Left`] when there is; the folder must not be reused then.
    pub async fn destroy(self) -> Result<Destroyed, SandboxError> {
        let ended_processes = members(&self.processes).len();
        kill(&self.agent);
        let mut ended = self.launched.ended.clone();
        // An error here is a keeper that is gone, and its process with it; the count below decides.
        let _ = tokio::time::timeout(PATIENCE, ended.wait_for(|ended| *ended)).await;
        let mut waited = Duration::ZERO;
        loop {
            let pids = members(&self.processes);
            if pids.is_empty() {
                return Ok(Destroyed { ended_processes, dir: self.plan.dir.clone() });
            }
            if waited >= PATIENCE {
                return Err(SandboxError::Left { pids });
            }
            waited += Duration::from_millis(20);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The host's processes that are in process namespace `namespace`. One that another user runs cannot be looked at by an ordinary
/// caller, and cannot be in a sandbox of theirs.
fn members(namespace: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let inside =
        |pid: &u32| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|link| link.as_os_str() == namespace);
    pids.filter(inside).collect()
}

/// The process namespace that process `pid` is in.
pub fn process_namespace(pid: i32) -> io::Result<String> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/pid"))?.display().to_string())
}

/// Takes hold of a process, so that its number cannot come to mean another.
pub fn hold(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Ends a held process; one that has ended already is left so. Process 1 of a namespace takes all others with it (pid_namespaces(7)).
pub fn kill(process: &OwnedFd) {
    let _ = rustix::process::pidfd_send_signal(process, rustix::process::Signal::KILL);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed_and_links_out_of_it_are_not_followed() {
        let kept = tempfile::tempdir().unwrap();
        fs::write(kept.path().join("file"), "kept").unwrap();
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("box");
        fs::create_dir(&dir).unwrap();
        fs::create_dir_all(dir.join("1/2/3")).unwrap();
        fs::create_dir_all(dir.join("2/2")).unwrap();
        std::os::unix::fs::symlink(kept.path(), dir.join("1/link")).unwrap();
        fs::set_permissions(dir.join("2/2"), fs::Permissions::from_mode(0o0)).unwrap();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(&dir, flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "deep", flags, Mode::empty()).unwrap();
        }
        drop(at);
        remove(&dir).unwrap();
        assert!(!dir.exists());
        assert_eq!(fs::read_to_string(kept.path().join("file")).unwrap(), "kept");
    }
}
