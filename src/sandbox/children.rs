//! The processes that the agent started, and the collecting of all that end.
//!
//! As process 1 the agent inherits every orphan inside and must collect it. One thread waits for anything to end, *without*
//! collecting (`WNOWAIT`), and collects under the same lock that starting and signalling take: so a number in the table
//! is never that of another process, and the standard library's own wait for a failed start is not robbed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitIdOptions, WaitOptions};

use super::Spawn;
use super::launch::environment;
use super::talk::{Signal, Status};

/// The table; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Children(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    /// Something was started, or ended.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    running: HashMap<Pid, u64>,
    ended: HashMap<u64, Status>,
    started: u64,
}

impl Children {
    /// Starts a process with nothing but what `spawn` gives it. Its output is added to `spawn.log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn spawn(&self, spawn: &Spawn) -> io::Result<u64> {
        let (program, arguments) = spawn.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let log =
            fs::OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(nofollow).open(&spawn.log)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(environment(Path::new(&std::env::var_os("HOME").unwrap_or_default())))
            .envs(spawn.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        if let Some(folder) = &spawn.cwd {
            command.current_dir(folder);
        }
        let mut table = self.lock();
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        table.started += 1;
        let id = table.started;
        table.running.insert(pid, id);
        self.0.changed.notify_all();
        Ok(id)
    }

    /// Waits until process `id` has ended; `None` for one that was never started.
    #[must_use]
    pub fn wait(&self, id: u64) -> Option<Status> {
        let mut table = self.lock();
        loop {
            if id == 0 || id > table.started {
                return None;
            }
            if let Some(status) = table.ended.get(&id) {
                return Some(*status);
            }
            table = self.0.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends a signal; to one that has ended already, nothing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, id: u64, signal: Signal) -> io::Result<()> {
        let number = match signal {
            Signal::Terminate => rustix::process::Signal::TERM,
            Signal::Interrupt => rustix::process::Signal::INT,
            Signal::Quit => rustix::process::Signal::QUIT,
            Signal::HangUp => rustix::process::Signal::HUP,
            Signal::Kill => rustix::process::Signal::KILL,
        };
        let table = self.lock();
        match table.running.iter().find(|(_, running)| **running == id) {
            Some((pid, _)) => Ok(rustix::process::kill_process(*pid, number)?),
            None => Ok(()),
        }
    }

    /// Collects for ever; to be run in a thread of its own.
    pub fn collect(&self) {
        let anything =
            || rustix::process::waitid(rustix::process::WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        loop {
            match anything() {
                Err(rustix::io::Errno::CHILD) => self.until_something_runs(),
                Err(_) => {}
                Ok(_) => self.collect_ended(),
            }
        }
    }

    fn until_something_runs(&self) {
        let table = self.lock();
        let idle = |table: &mut Table| table.running.is_empty();
        drop(self.0.changed.wait_while(table, idle).unwrap_or_else(PoisonError::into_inner));
    }

    fn collect_ended(&self) {
        let mut table = self.lock();
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let how =
                status.exit_status().map(Status::Exited).or_else(|| status.terminating_signal().map(Status::Killed));
            if let (Some(id), Some(how)) = (table.running.remove(&pid), how) {
                table.ended.insert(id, how);
            }
        }
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
