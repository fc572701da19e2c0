//! `lifeboat drill`: a rehearsed restore with probes, a verdict and evidence.

use super::context::Context;
use super::outcome::Report;
use crate::failure::{Failure, Kind};

/// Rehearse a restore in a sandbox and prove that people can still get in
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat drill                            every tenant, as of now\n  \
    lifeboat drill acme --at 2026-11-21T14:05+01:00\n  \
    lifeboat drill acme --keep                leave the sandbox standing to look around")]
pub struct Args {
    /// Tenants of the configuration [default: all]
    #[arg(value_name = "TENANT")]
    pub tenants: Vec<String>,
    /// The moment to go back to: as for `restore`
    #[arg(long, value_name = "WHEN", default_value = "latest")]
    pub at: String,
    /// Where it runs
    #[arg(long, value_enum, default_value_t = Where::Local)]
    pub sandbox: Where,
    /// Do not destroy the sandbox afterwards
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Where {
    /// On this machine
    Local,
}

/// Drills.
///
/// # Errors
/// Always, until the lead connects it.
pub async fn run(_args: Args, _context: &Context) -> Result<Report, Failure> {
    Err(Failure::new(Kind::Failed, "lifeboat drill", "not connected", "wait for the next version"))
}
