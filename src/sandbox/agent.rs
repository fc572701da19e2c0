//! The agent: process 1 inside a sandbox, and the only one there that lifeboat talks to.
//!
//! States: *unproven* (answers `prove`, refuses to start anything) → *proven* (starts, waits, signals, connects).
//! It ends when the lifeline does; being process 1, everything inside ends with it. It holds nothing that is worth having: the lifeline's
//! inner end and the conversations under way. It cannot be traced by what it starts, and no signal from inside ends it.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{DumpableBehavior, Resource, Rlimit};

use super::children::Children;
use super::talk::{Reply, Request, next_conversation, read_frame, write_frame};
use super::{Spawn, checks};

/// How many processes and threads may run inside: a fork bomb ends here, a busy Odoo does not.
const PROCESSES: u64 = 4096;

/// The value that keeps the kernel from dumping core to a file as well as to a program (`filter.rs`).
pub const CORE_BYTES: u64 = 1;

/// The agent could not begin, or lost its lifeline.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot {step} in the sandbox")]
    Begin { step: &'static str, source: io::Error },
    #[error("cannot filter system calls in the sandbox")]
    Filter { source: seccompiler::Error },
    #[error("the lifeline broke")]
    Lifeline { source: io::Error },
}

#[derive(Debug, Clone, Default)]
struct Agent {
    children: Children,
    proven: Arc<AtomicBool>,
}

/// Serves until the lifeline (standard input) ends. Must be called before anything else is opened or started in this process.
///
/// # Errors
/// When the process cannot be prepared, or the lifeline is not one.
pub fn serve() -> Result<(), AgentError> {
    close_inherited().map_err(|source| AgentError::Begin { step: "close inherited descriptors", source })?;
    limit().map_err(|source| AgentError::Begin { step: "set limits", source })?;
    super::filter::apply().map_err(|source| AgentError::Filter { source })?;
    let agent = Agent::default();
    let lifeline = io::stdin();
    while let Some(conversation) = next_conversation(&lifeline).map_err(|source| AgentError::Lifeline { source })? {
        let agent = agent.clone();
        // A conversation that cannot have a thread is closed, which its other side sees.
        let _ = std::thread::Builder::new().spawn(move || agent.converse(conversation));
    }
    Ok(())
}

/// Closes what whoever started lifeboat left open: it would reach past every namespace.
fn close_inherited() -> io::Result<()> {
    let numbers: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // The listing's own descriptor is among them, and closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

fn limit() -> io::Result<()> {
    let lower = |resource, to: u64| {
        let now = rustix::process::getrlimit(resource);
        let to = Some(now.maximum.map_or(to, |maximum| maximum.min(to)));
        rustix::process::setrlimit(resource, Rlimit { current: to, maximum: to })
    };
    lower(Resource::Core, CORE_BYTES)?;
    lower(Resource::Nproc, PROCESSES)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // When the machine runs out of memory, the sandbox goes before anything of the host's (proc(5)).
    std::fs::write("/proc/self/oom_score_adj", "1000")
}

impl Agent {
    /// One request, one reply. When either fails there is nobody to tell: the other side sees the end.
    fn converse(&self, conversation: OwnedFd) {
        let mut conversation = UnixStream::from(conversation);
        let reply = match read_frame(&mut conversation) {
            Ok(Request::Connect { port }) => match self.connect(port) {
                Ok(server) => {
                    if write_frame(&mut conversation, &Reply::Done).is_ok() {
                        pump(&conversation, &server);
                    }
                    return;
                }
                Err(why) => Reply::Refused { why },
            },
            Ok(request) => self.answer(request, &conversation),
            Err(error) => Reply::Refused { why: format!("not a request: {error}") },
        };
        let _ = write_frame(&mut conversation, &reply);
    }

    fn answer(&self, request: Request, conversation: &UnixStream) -> Reply {
        let result = match request {
            Request::Prove { outside } => {
                let own = [conversation.as_raw_fd()];
                return if self.proven.load(Ordering::SeqCst) {
                    Reply::Refused { why: "it has been proven before".into() }
                } else {
                    let checks = checks::all(&outside, &own);
                    self.settle(checks.iter().all(|check| check.passed));
                    Reply::Proof { checks }
                };
            }
            Request::Spawn(spawn) => self.spawn(&spawn),
            Request::Wait { id } => {
                self.children.wait(id).map(|status| Reply::Ended { status }).ok_or_else(|| format!("no process {id}"))
            }
            Request::Signal { id, signal } => {
                self.children.signal(id, signal).map(|()| Reply::Done).map_err(|error| error.to_string())
            }
            Request::Connect { .. } => Err("connects elsewhere".into()),
        };
        result.unwrap_or_else(|why| Reply::Refused { why })
    }

    /// From now on processes of the same user run beside the agent: none of them may look into it (prctl(2), `PR_SET_DUMPABLE`),
    /// and their ends are collected (not before: the checks wait for a program of their own).
    fn settle(&self, all_passed: bool) {
        let hidden = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok();
        let children = self.children.clone();
        let collecting = std::thread::Builder::new().spawn(move || children.collect()).is_ok();
        self.proven.store(all_passed && hidden && collecting, Ordering::SeqCst);
    }

    fn spawn(&self, spawn: &Spawn) -> Result<Reply, String> {
        if !self.proven.load(Ordering::SeqCst) {
            return Err("nothing starts before the sandbox is proven".into());
        }
        let id = self.children.spawn(spawn).map_err(|error| error.to_string())?;
        Ok(Reply::Started { id })
    }

    fn connect(&self, port: u16) -> Result<TcpStream, String> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|error| error.to_string())
    }
}

/// Carries bytes both ways until both sides have ended.
fn pump(outer: &UnixStream, inner: &TcpStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut to) = (outer, inner);
            let _ = io::copy(&mut from, &mut to);
            let _ = inner.shutdown(Shutdown::Write);
        });
        let (mut from, mut to) = (inner, outer);
        let _ = io::copy(&mut from, &mut to);
        let _ = outer.shutdown(Shutdown::Write);
    });
}
