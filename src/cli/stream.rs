//! `lifeboat stream`: WAL into the store until told to stop.

use super::context::Context;
use super::outcome::Report;
use crate::failure::{Failure, Kind};
use crate::ids::Lsn;

/// Carry WAL (and new filestore files) into the store until told to stop
///
/// SIGTERM and SIGINT drain what has arrived and end with 0. With --json, one JSON object per line; the last one says
/// how it ended.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat stream                           every cluster of the estate\n  \
    lifeboat stream --cluster main")]
pub struct Args {
    /// Only this cluster [default: all]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Go as far as this position and end
    #[arg(long, value_name = "LSN", hide = true, conflicts_with = "once")]
    pub until: Option<Lsn>,
    /// Catch up with the server and end
    #[arg(long, hide = true)]
    pub once: bool,
}

/// Streams.
///
/// # Errors
/// Always, until the lead connects it.
pub async fn run(_args: Args, _context: &Context) -> Result<Report, Failure> {
    Err(Failure::new(Kind::Failed, "lifeboat stream", "not connected", "wait for the next version"))
}
