//! The end of a sandbox, and the proof of it: no process that was inside is left.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

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
        fs::remove_dir_all(&self.dir).map_err(|source| SandboxError::Io { what: self.dir, source })
    }
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
