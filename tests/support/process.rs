//! Commands: run to the end and must succeed, or killed at a random moment.
//!
//! Everything is stopped by its own process id; nothing is ever looked up by name.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Runs to the end; standard output as text. A failure shows the command and what it said.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
    String::from_utf8(output.stdout).expect("text on standard output")
}

/// A command of PostgreSQL's own as [`super::NOBODY`] (when the tests run as root).
pub fn unprivileged(program: &str) -> Command {
    if !super::am_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={}", super::NOBODY), format!("--regid={}", super::NOBODY)]);
    command.args(["--clear-groups", program]).env("HOME", "/nonexistent").current_dir("/");
    command
}

/// Gives a folder and all in it to [`super::NOBODY`] (when the tests run as root).
pub fn give(path: &Path) {
    if super::am_root() {
        run(Command::new("chown").arg("-R").arg(format!("{0}:{0}", super::NOBODY)).arg(path));
    }
}

/// A child that never outlives the test.
pub struct Owned(pub Child);

impl Owned {
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// To one that has ended already, nothing: once it is waited for, its number is soon another's.
    pub fn signal(&mut self, signal: Signal) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // Whether or not it ends meanwhile: not yet waited for, the number stays its own.
            kill_process(Pid::from_child(&self.0), signal).ok();
        }
    }

    /// The exit status, when it ends within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("our own child") {
                return Some(status);
            }
            if begun.elapsed() > limit {
                return None;
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9` after `delay`; how it ended where it had ended by itself before.
    pub fn kill_after(mut self, delay: Duration) -> Option<ExitStatus> {
        let ended = self.wait(delay);
        self.signal(Signal::KILL);
        self.0.wait().expect("our own child");
        ended
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            self.0.wait().ok();
        }
    }
}

/// A random delay up to `longest`, to hit a process anywhere in its work.
pub fn random_delay(longest: Duration) -> Duration {
    let part = u16::from_le_bytes(super::random(2).try_into().expect("two bytes"));
    longest.mul_f64(f64::from(part) / f64::from(u16::MAX))
}
