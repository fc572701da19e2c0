//! `lifeboat status`: the objectives and how they stand.

use super::context::Context;
use super::outcome::Report;
use crate::failure::{Failure, Kind};

/// Show the objectives and how they stand
///
/// For each tenant: what would be lost now, and how long ago a restore was proven.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat status\n  \
    lifeboat status --json | jq .outcome")]
pub struct Args {}

/// Looks.
///
/// # Errors
/// Always, until the lead connects it.
pub async fn run(_args: Args, _context: &Context) -> Result<Report, Failure> {
    Err(Failure::new(Kind::Failed, "lifeboat status", "not connected", "wait for the next version"))
}
