//! `lifeboat points`: what can be restored.

use super::context::Context;
use super::outcome::Report;
use crate::failure::{Failure, Kind};

/// Show what can be restored: windows, gaps, sizes, locks
///
/// Around a time: the commits and what they touched, to find the moment before the damage.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat points                           every tenant\n  \
    lifeboat points acme\n  \
    lifeboat points acme --around 2026-11-21T14:05")]
pub struct Args {
    /// One tenant [default: all]
    pub tenant: Option<String>,
    /// A time (with its offset, or in the estate's zone), an LSN, a restore point's name, or `latest`
    #[arg(long, value_name = "WHEN")]
    pub around: Option<String>,
}

/// Lists.
///
/// # Errors
/// Always, until the lead connects it.
pub async fn run(_args: Args, _context: &Context) -> Result<Report, Failure> {
    Err(Failure::new(Kind::Failed, "lifeboat points", "not connected", "wait for the next version"))
}
