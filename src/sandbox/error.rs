//! What can go wrong with a sandbox, and what to do then.

use std::io;
use std::path::PathBuf;

use super::ProofCheck;
use crate::failure::{Failure, Kind, chain};

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("{name} is not installed")]
    NoTool { name: &'static str },
    #[error("there is no unprivileged user '{user}'")]
    NoUser { user: String },
    #[error("{path} cannot be part of a sandbox: {why}", path = path.display())]
    BadLayout { path: PathBuf, why: &'static str },
    #[error("cannot use {what}", what = what.display())]
    Io { what: PathBuf, source: io::Error },
    #[error("cannot start the sandbox")]
    Launch { source: io::Error },
    /// The tools were there, the sandbox did not come to be.
    #[error("the sandbox was not built: {said}")]
    Build { said: String, source: io::Error },
    #[error("cannot watch the sandbox from outside")]
    Witness { source: io::Error },
    /// Checks that did not pass. Nothing has run.
    #[error("the sandbox is not sealed: {}", list(failed))]
    NotSealed { failed: Vec<ProofCheck> },
    #[error("the sandbox has ended")]
    Gone { source: io::Error },
    /// The agent said no.
    #[error("the sandbox refused: {why}")]
    Refused { why: String },
    /// Something in the sandbox's folder is not what it should be, as an attacker would have it.
    #[error("{path} is not to be touched: {why}", path = path.display())]
    Trap { path: PathBuf, why: &'static str },
    #[error("{} processes of the sandbox are still there", pids.len())]
    Left { pids: Vec<u32> },
}

fn list(failed: &[ProofCheck]) -> String {
    let lines: Vec<_> = failed.iter().map(|check| format!("{} ({})", check.name, check.detail)).collect();
    lines.join("; ")
}

impl From<SandboxError> for Failure {
    fn from(error: SandboxError) -> Self {
        use SandboxError as E;
        let (kind, next) = match &error {
            E::NoTool { .. } => (Kind::Failed, "install bubblewrap and util-linux (setpriv, unshare)"),
            E::NoUser { .. } => (Kind::Usage, "name an existing user other than root for the sandbox"),
            E::BadLayout { .. } => (Kind::Usage, "choose another path"),
            E::Io { .. } => (Kind::Failed, "check that the path exists, and that the sandbox's user can reach it"),
            E::Launch { .. } | E::Witness { .. } => (Kind::Failed, "check the machine's limits, and try again"),
            E::Build { .. } => (
                Kind::Failed,
                "let unprivileged users make user namespaces, and the sandbox's user read lifeboat's binary and every path shown inside",
            ),
            E::NotSealed { .. } => (Kind::Refused, "close what the failed checks name; nothing was started"),
            E::Gone { .. } => (Kind::Failed, "look for a lack of memory on the machine, and start again"),
            E::Refused { .. } => (Kind::Failed, "look at the program's log in the sandbox's folder"),
            E::Trap { .. } => {
                (Kind::Refused, "treat the restored data as hostile: keep the folder, and tell whoever is responsible")
            }
            E::Left { .. } => {
                (Kind::Failed, "end these processes by hand before anything else is done with the folder")
            }
        };
        Self::new(kind, "sandbox", chain(&error), next)
    }
}
