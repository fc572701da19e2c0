//! Starting a sandbox from outside: the command lines, and the thread that stays with the process.
//!
//! ```text
//! lifeboat ── setpriv (other user, no new privileges, dies with lifeboat) ── bwrap ──────────┬─ agent, process 1 of the
//!                                                                         └─ unshare ─ build ┘  new namespaces
//! ```
//!
//! Each arrow but the last is an `exec`, so there is one process outside (bwrap or unshare, unprivileged) and the agent
//! inside. "Dies with its parent" (prctl(2), `PR_SET_PDEATHSIG`) means the *thread* that started it: hence a thread of its own,
//! which does nothing but wait. The environment is emptied here, not by bwrap's `--clearenv`: that
//! leaves the first one readable in `/proc`.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Resource;
use tokio::sync::watch;

use super::agent::CORE_BYTES;
use super::plan::{AGENT, MEMORY_BYTES, Plan};
use super::{Kind, SandboxError};

/// The name of the hidden command, and its two halves.
pub const COMMAND: &str = "sandbox-agent";
pub const SERVE: &str = "serve";
pub const BUILD: &str = "build";

/// The process outside that holds the sandbox, waited for by a thread of its own.
#[derive(Debug)]
pub struct Launched {
    /// Becomes `true` when the process is gone and its status was collected.
    pub ended: watch::Receiver<bool>,
    /// What it and the agent wrote to their standard error.
    complaints: File,
}

impl Launched {
    /// Starts the sandbox, with `lifeline` as the agent's standard input.
    ///
    /// # Errors
    /// When a tool is missing or cannot be started. That the sandbox could not be *built* shows as the lifeline's end.
    pub fn start(plan: &Plan, kind: &Kind, lifeline: OwnedFd) -> Result<Self, SandboxError> {
        let mut command = command_line(plan, kind)?;
        let complaints = tempfile::tempfile().map_err(complaints_failed)?;
        command
            .env_clear()
            .envs(environment(&plan.dir))
            .current_dir("/")
            .stdin(lifeline)
            .stdout(Stdio::null())
            .stderr(complaints.try_clone().map_err(complaints_failed)?);
        let (started, start) = std::sync::mpsc::channel::<io::Result<()>>();
        let (end, ended) = watch::channel(false);
        let keeper = move || {
            let spawned = command.spawn();
            drop(command); // and with it our copy of the lifeline's inner end
            match spawned {
                Ok(mut child) => {
                    let _ = started.send(Ok(()));
                    let status: io::Result<ExitStatus> = child.wait();
                    tracing::debug!(?status, "the sandbox's outer process ended");
                    let _ = end.send(true);
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        };
        let failed = |source| SandboxError::Launch { source };
        std::thread::Builder::new().name("sandbox-keeper".into()).spawn(keeper).map_err(failed)?;
        start.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())).map_err(failed)?;
        Ok(Self { ended, complaints })
    }

    /// Waits a while for the process to end. Blocks.
    pub fn wait(&self) {
        for _ in 0..250 {
            if *self.ended.borrow() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The lifeline ended before the first answer: what the tool that should have built the sandbox said.
    #[must_use]
    pub fn not_built(&self, source: io::Error) -> SandboxError {
        self.wait();
        SandboxError::Build { said: self.complaints(), source }
    }

    /// The end of what was complained about, made safe to print.
    fn complaints(&self) -> String {
        let mut text = Vec::new();
        let mut file = &self.complaints;
        let length = file.metadata().map_or(0, |meta| meta.len());
        if file.seek(io::SeekFrom::Start(length.saturating_sub(4096))).is_ok() {
            let _ = file.take(4096).read_to_end(&mut text);
        }
        super::hands::printable(&text).trim().replace('\n', "; ")
    }
}

fn complaints_failed(source: io::Error) -> SandboxError {
    SandboxError::Io { what: std::env::temp_dir(), source }
}

/// All that anything inside has for an environment, unless it is spawned with more.
#[must_use]
pub fn environment(home: &Path) -> [(&'static str, PathBuf); 3] {
    [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".into()), ("LANG", "C.UTF-8".into()), ("HOME", home.to_owned())]
}

fn command_line(plan: &Plan, kind: &Kind) -> Result<Command, SandboxError> {
    let root = rustix::process::geteuid().is_root();
    let raise = root && rustix::process::getrlimit(Resource::Core).maximum == Some(0) && core_dumps_are_piped();
    let mut command = Command::new(tool(if raise { "prlimit" } else { "setpriv" })?);
    if raise {
        // 0 is not what forbids these (`filter.rs`), and only root can raise it.
        command.arg(format!("--core={CORE_BYTES}:{CORE_BYTES}")).arg(tool("setpriv")?);
    }
    command.args(["--no-new-privs", "--pdeathsig", "KILL"]);
    if root {
        command.arg(format!("--reuid={}", plan.owner.uid)).arg(format!("--regid={}", plan.owner.gid));
        command.args(["--clear-groups", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]);
    }
    command.arg("--");
    match kind {
        Kind::Auto | Kind::Bubblewrap => bubblewrap(&mut command, &tool("bwrap")?, plan),
        Kind::BubblewrapAt(path) => bubblewrap(&mut command, path, plan),
        Kind::Namespaces => namespaces(&mut command, &tool("unshare")?, plan)?,
    }
    Ok(command)
}

/// Whether the host starts a program for each crash (core(5)); when that cannot be read, it may.
pub fn core_dumps_are_piped() -> bool {
    std::fs::read("/proc/sys/kernel/core_pattern").map_or(true, |pattern| pattern.starts_with(b"|"))
}

/// bwrap(1), version 0.8 or later (`--disable-userns`).
fn bubblewrap(command: &mut Command, program: &Path, plan: &Plan) {
    command.arg(program);
    command.args(["--unshare-user", "--unshare-all", "--disable-userns", "--as-pid-1", "--die-with-parent"]);
    command.args(["--new-session", "--cap-drop", "ALL", "--hostname", "sandbox"]);
    command.args(["--proc", "/proc", "--dev", "/dev"]);
    for memory in ["/dev/shm", "/tmp"] {
        command.arg("--size").arg(MEMORY_BYTES.to_string()).args(["--perms", "1777", "--tmpfs", memory]);
    }
    for link in &plan.links {
        command.arg("--symlink").arg(&link.to).arg(&link.at);
    }
    for bind in &plan.read_only {
        command.arg("--ro-bind").arg(&bind.from).arg(&bind.at);
    }
    command.arg("--bind").arg(&plan.dir).arg(&plan.dir);
    command.args(["--remount-ro", "/dev", "--remount-ro", "/"]).arg("--chdir").arg(&plan.dir);
    command.args(["--", AGENT, COMMAND, SERVE]);
}

/// unshare(1) of util-linux makes the namespaces, [`super::build`] furnishes them.
fn namespaces(command: &mut Command, program: &Path, plan: &Plan) -> Result<(), SandboxError> {
    let agent = plan.read_only.iter().find(|bind| bind.at == Path::new(AGENT)).map(|bind| bind.from.clone());
    let plan_text = serde_json::to_string(plan).map_err(|error| SandboxError::Launch { source: error.into() })?;
    command.arg(program);
    command.args([
        "--user",
        "--map-current-user",
        "--keep-caps",
        "--net",
        "--pid",
        "--ipc",
        "--uts",
        "--mount",
        "--cgroup",
    ]);
    command.args(["--propagation", "private", "--fork", "--kill-child=SIGKILL", "--"]);
    command.args(agent).args([COMMAND, BUILD]).arg(plan_text);
    Ok(())
}

/// Finds a program where the system keeps its own; the caller's PATH has no say.
fn tool(name: &'static str) -> Result<PathBuf, SandboxError> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .ok_or(SandboxError::NoTool { name })
}
