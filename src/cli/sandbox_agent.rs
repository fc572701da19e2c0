//! `lifeboat sandbox-agent`, hidden: what runs inside a sandbox. Another builder writes this file.

use std::process::ExitCode;

/// The agent's whole life.
#[must_use]
pub fn run() -> ExitCode {
    ExitCode::from(crate::failure::Kind::Failed as u8)
}
