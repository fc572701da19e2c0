//! The isolated place a restore runs in: a PostgreSQL over hostile data, a real Odoo, and no way out.
//!
//! A [`Sandbox`] is a set of namespaces of its own (user, mounts, processes, network, IPC, host name) with an unprivileged
//! user in them, made by bubblewrap or, where that is missing, by util-linux. Lifeboat talks to the [`agent`] inside over a
//! [lifeline](lifeline); what runs inside is spawned by it and ends with it, however lifeboat ends.
//!
//! Invariant: [`Sandbox::start`] returns only after every check of the [`Proof`] has passed, and nothing starts inside before.
//! Everything that comes out (bytes, files, sockets) is hostile; reach for it through [`Sandbox::open`] and
//! [`Sandbox::connect_socket`], never by path.
//!
//! | file | what |
//! |---|---|
//! | `plan`, `owner` | what is visible inside; who runs there |
//! | `launch`, `build`, `loopback`, `filter` | making it: from outside, without bubblewrap, the network's one interface, system calls |
//! | `agent`, `children`, `talk`, `lifeline` | the process inside, what it started, what is said, our end |
//! | `proof`, `checks`, `mounts` | that there is no way out |
//! | `hands`, `destroy` | reaching in; the end, proven too |

pub mod agent;
pub mod build;
mod checks;
mod children;
mod destroy;
mod error;
mod filter;
mod hands;
mod launch;
mod lifeline;
mod loopback;
mod mounts;
mod owner;
mod plan;
mod proof;
mod talk;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixStream;

pub use destroy::Destroyed;
pub use error::SandboxError;
pub use hands::printable;
pub use launch::{BUILD, COMMAND, SERVE};
pub use owner::Owner;
pub use plan::Plan;
pub use proof::{Proof, ProofCheck};
pub use talk::{Signal, Status};

use hands::Hands;
use launch::Launched;
use lifeline::Lifeline;
use proof::Witness;
use talk::{Reply, Request};

/// What a sandbox is made of.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The sandbox's own folder, the only one it can write to; has the same path inside. Made when it is not there; what
    /// lies in it must belong to the sandbox's user ([`Owner::give`]).
    pub dir: PathBuf,
    /// More of the host to show, read-only: Odoo's code, a server's programs outside `/usr`.
    pub read_only: Vec<PathBuf>,
    /// Whom to become when the caller is root.
    pub user: String,
    /// lifeboat's own binary.
    pub agent: PathBuf,
}

impl Layout {
    /// A sandbox around `dir` that runs as `nobody` and shows nothing more of the host.
    ///
    /// # Errors
    /// When this program does not know where its own binary is.
    pub fn new(dir: &Path) -> Result<Self, SandboxError> {
        let agent = std::env::current_exe()
            .map_err(|source| SandboxError::Io { what: "lifeboat's own binary".into(), source })?;
        Ok(Self { dir: dir.to_owned(), read_only: Vec::new(), user: "nobody".into(), agent })
    }
}

/// What makes the namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// bubblewrap; util-linux when bubblewrap is missing or cannot build a sandbox here.
    Auto,
    Bubblewrap,
    /// A bubblewrap that the system does not keep in its usual places.
    BubblewrapAt(PathBuf),
    /// unshare and setpriv of util-linux.
    Namespaces,
}

/// A program to run inside.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct Spawn {
    /// The program, found inside, and its arguments.
    pub argv: Vec<String>,
    /// In addition to PATH, LANG and HOME, which it may replace.
    pub env: Vec<(String, String)>,
    /// Where it starts; the sandbox's folder when not given.
    pub cwd: Option<PathBuf>,
    /// Where its output goes, in the sandbox's folder (a relative path is relative to it); added to what is there.
    pub log: PathBuf,
}

impl fmt::Debug for Spawn {
    /// Without the values of the environment: they may be passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Spawn").field("argv", &self.argv).field("env", &names).field("log", &self.log).finish()
    }
}

/// How a program ended, and the end of its log, safe to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub status: Status,
    pub tail: String,
}

/// A proven sandbox. Dropping it ends everything inside; [`Sandbox::destroy`] also proves that.
#[derive(Debug)]
pub struct Sandbox {
    lifeline: Arc<Lifeline>,
    launched: Launched,
    hands: Hands,
    plan: Plan,
    proof: Proof,
    socket_dir: PathBuf,
    /// The agent as the host sees it.
    agent: OwnedFd,
    /// `pid:[...]`: what every process inside has in common.
    processes: String,
}

/// The end of a log that goes into an [`Exit`].
const TAIL_BYTES: u64 = 8 << 10;

impl Sandbox {
    /// Builds a sandbox and demands the proof.
    ///
    /// Guarantees: what is returned has passed every check, and nothing but the agent runs in it.
    ///
    /// # Errors
    /// [`SandboxError::NotSealed`] when a check fails; the sandbox is gone then. Else what could not be made.
    pub async fn start(layout: Layout, kind: Kind) -> Result<Self, SandboxError> {
        let started = tokio::task::spawn_blocking(move || match &kind {
            Kind::Auto => match Self::start_as(&layout, &Kind::Bubblewrap) {
                Err(error @ (SandboxError::NoTool { .. } | SandboxError::Build { .. })) => {
                    tracing::info!(%error, "no sandbox by bubblewrap, trying util-linux");
                    Self::start_as(&layout, &Kind::Namespaces)
                }
                other => other,
            },
            kind => Self::start_as(&layout, kind),
        });
        started.await.map_err(|error| SandboxError::Launch { source: io::Error::other(error) })?
    }

    fn start_as(layout: &Layout, kind: &Kind) -> Result<Self, SandboxError> {
        let owner = Owner::of(&layout.user)?;
        let made = std::fs::create_dir_all(&layout.dir);
        made.map_err(|source| SandboxError::Io { what: layout.dir.clone(), source })?;
        let unmade = |source| SandboxError::Io { what: std::env::temp_dir(), source };
        let etc = plan::made_up_etc(owner, &layout.dir).map_err(unmade)?;
        let plan = Plan::of(layout, owner, &etc.path().canonicalize().map_err(unmade)?)?;
        let hands = Hands::on(&plan.dir, owner)?;
        let socket_dir = hands.make_folder(plan::SOCKETS, owner)?;
        let witness = Witness::open(&plan).map_err(|source| SandboxError::Witness { source })?;
        let (lifeline, inner) = Lifeline::pair().map_err(|source| SandboxError::Launch { source })?;
        let launched = Launched::start(&plan, kind, inner)?;
        let request = Request::Prove { outside: witness.outside.clone() };
        let (reply, sender) = lifeline.ask_first(&request).map_err(|source| launched.not_built(source))?;
        let Reply::Proof { mut checks } = reply else { return Err(unexpected(reply)) };
        checks.extend(witness.testify(&plan, sender.pid, sender.uid));
        let processes = destroy::process_namespace(sender.pid).map_err(|source| SandboxError::Witness { source })?;
        let agent = destroy::hold(sender.pid).map_err(|source| SandboxError::Witness { source })?;
        let (lifeline, proof) = (Arc::new(lifeline), Proof { checks });
        let sandbox = Self { lifeline, launched, hands, plan, proof, socket_dir, agent, processes };
        if sandbox.proof.holds() {
            return Ok(sandbox);
        }
        destroy::kill(&sandbox.agent);
        sandbox.launched.wait();
        Err(SandboxError::NotSealed { failed: sandbox.proof.failed().cloned().collect() })
    }

    /// The checks that were made, all passed.
    #[must_use]
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Who everything inside runs as.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.plan.owner
    }

    /// The folder for the sandboxed server's sockets; connect to them with [`Sandbox::connect_socket`].
    #[must_use]
    pub fn socket_dir(&self) -> PathBuf {
        self.socket_dir.clone()
    }

    /// Starts a program inside and goes on.
    ///
    /// # Errors
    /// [`SandboxError::Refused`] when it cannot be started.
    pub async fn spawn(&self, spawn: Spawn) -> Result<Process, SandboxError> {
        let log = self.plan.dir.join(&spawn.log);
        let cwd = spawn.cwd.unwrap_or_else(|| self.plan.dir.clone());
        let spawn = Spawn { log: log.clone(), cwd: Some(cwd), ..spawn };
        match self.ask(&Request::Spawn(spawn)).await?.0 {
            Reply::Started { id } => Ok(Process { id, log, lifeline: Arc::clone(&self.lifeline) }),
            other => Err(unexpected(other)),
        }
    }

    /// Runs a program inside to its end. Dropping the future does not end the program.
    ///
    /// # Errors
    /// When it cannot be started or the sandbox ends first; a program that fails is an [`Exit`].
    pub async fn run(&self, spawn: Spawn) -> Result<Exit, SandboxError> {
        let process = self.spawn(spawn).await?;
        let status = process.wait().await?;
        Ok(Exit { status, tail: self.tail(&process.log)? })
    }

    /// The end of a log, safe to print.
    ///
    /// # Errors
    /// As [`Sandbox::open`].
    pub fn tail(&self, log: &Path) -> Result<String, SandboxError> {
        let mut file = self.open(log)?;
        let mut text = Vec::new();
        let read = file.metadata().and_then(|meta| {
            file.seek(io::SeekFrom::Start(meta.len().saturating_sub(TAIL_BYTES)))?;
            file.take(TAIL_BYTES).read_to_end(&mut text)
        });
        read.map_err(|source| SandboxError::Io { what: log.to_owned(), source })?;
        Ok(printable(&text))
    }

    /// Connects to what listens on 127.0.0.1:`port` inside.
    ///
    /// # Errors
    /// [`SandboxError::Refused`] when nothing listens there.
    pub async fn connect(&self, port: u16) -> Result<UnixStream, SandboxError> {
        match self.ask(&Request::Connect { port }).await? {
            (Reply::Done, connection) => Ok(connection),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Connects to a unix socket in the sandbox's folder, following no link and to nobody but the sandbox's user.
    ///
    /// # Errors
    /// [`SandboxError::Trap`] when it is something else; [`SandboxError::Io`] when it is not there or nobody listens.
    pub async fn connect_socket(&self, path: &Path) -> Result<UnixStream, SandboxError> {
        self.hands.connect(path, self.plan.owner).await
    }

    /// Opens a file of the sandbox's folder for reading, following no link. Its content is hostile.
    ///
    /// # Errors
    /// [`SandboxError::Trap`] when it is not a plain file; [`SandboxError::Io`] when it is not there.
    pub fn open(&self, path: &Path) -> Result<File, SandboxError> {
        self.hands.open(path)
    }

    async fn ask(&self, request: &Request) -> Result<(Reply, UnixStream), SandboxError> {
        self.lifeline.ask(request).await.map_err(|source| SandboxError::Gone { source })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        destroy::kill(&self.agent);
    }
}

/// A program running inside. Dropping it leaves it running.
#[derive(Debug, Clone)]
pub struct Process {
    id: u64,
    /// Where its output goes.
    pub log: PathBuf,
    lifeline: Arc<Lifeline>,
}

impl Process {
    /// Waits for its end; can be asked again.
    ///
    /// # Errors
    /// [`SandboxError::Gone`] when the sandbox ends first.
    pub async fn wait(&self) -> Result<Status, SandboxError> {
        match self.ask(Request::Wait { id: self.id }).await? {
            Reply::Ended { status } => Ok(status),
            other => Err(unexpected(other)),
        }
    }

    /// Sends it a signal; does nothing when it has ended.
    ///
    /// # Errors
    /// [`SandboxError::Gone`] when the sandbox has ended.
    pub async fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        match self.ask(Request::Signal { id: self.id, signal }).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, SandboxError> {
        let answer = self.lifeline.ask(&request).await;
        answer.map(|(reply, _)| reply).map_err(|source| SandboxError::Gone { source })
    }
}

fn unexpected(reply: Reply) -> SandboxError {
    match reply {
        Reply::Refused { why } => SandboxError::Refused { why: printable(why.as_bytes()) },
        _ => SandboxError::Refused { why: "the agent answered something else than was asked".into() },
    }
}
