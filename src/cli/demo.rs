//! `lifeboat demo`: the tour on this machine.

use std::path::PathBuf;

use super::context::Context;
use super::outcome::Report;
use crate::failure::{Failure, Kind};

/// Take the tour on this machine
///
/// Three tenants, a disaster, a restore to the second before, a drill, in about a minute. Needs PostgreSQL on this machine and nothing else; touches no server that runs here.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat demo\n  \
    lifeboat demo --dir /tmp/tour --keep      and look around afterwards")]
pub struct Args {
    /// Where it takes place [default: a new temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave everything standing afterwards
    #[arg(long)]
    pub keep: bool,
}

/// Shows.
///
/// # Errors
/// Always, until the lead connects it.
pub async fn run(_args: Args, _context: &Context) -> Result<Report, Failure> {
    Err(Failure::new(Kind::Failed, "lifeboat demo", "not connected", "wait for the next version"))
}
