//! `lifeboat restore`: one tenant (or a whole cluster) as it was at a moment, beside what is there now.

use std::path::PathBuf;

use super::context::Context;
use super::outcome::Report;
use crate::failure::{Failure, Kind};

/// Bring one tenant back as it was at a moment, beside what is there now
///
/// WHEN is a time (2026-11-21T14:05:00+01:00, or without an offset in the estate's zone, which is said back), an LSN
/// (16/B374D848), the name of a restore point, or `latest`. Nothing that exists is overwritten.
#[derive(Debug, clap::Args)]
#[command(override_usage = "lifeboat restore TENANT --at WHEN --to DIR [--plan]\n       \
    lifeboat restore TENANT --at WHEN --into-cluster NAME --as DATABASE [--owner ROLE] [--plan]\n       \
    lifeboat restore --all --cluster NAME --at WHEN --to DIR [--plan]")]
#[command(after_help = "Examples:\n  \
    lifeboat restore acme --at latest --to /srv/restore/acme --plan\n  \
    lifeboat restore acme --at 2026-11-21T14:05+01:00 --to /srv/restore/acme\n  \
    lifeboat restore acme --at 16/B374D848 --into-cluster main --as acme_before\n  \
    lifeboat restore --all --cluster main --at latest --to /srv/restore/main")]
pub struct Args {
    /// A tenant of the configuration
    #[arg(required_unless_present = "all")]
    pub tenant: Option<String>,
    /// The moment to go back to
    #[arg(long, value_name = "WHEN")]
    pub at: String,
    /// A new folder: gets pgdata/, filestore/<database>/ and restore.json
    #[arg(long, value_name = "DIR", required_unless_present = "into_cluster")]
    pub to: Option<PathBuf>,
    /// Load into this running cluster, as a new database
    #[arg(long, value_name = "NAME", conflicts_with = "to", requires = "as_database")]
    pub into_cluster: Option<String>,
    /// The new database's name
    #[arg(long = "as", id = "as_database", value_name = "DATABASE", requires = "into_cluster", conflicts_with = "to")]
    pub as_database: Option<String>,
    /// The role that will own the new database [default: as it was]
    #[arg(long, value_name = "ROLE", requires = "into_cluster", conflicts_with = "to")]
    pub owner: Option<String>,
    /// The folder that gets the new database's filestore [default: beside the live one]
    #[arg(long, value_name = "DIR", requires = "into_cluster", conflicts_with = "to")]
    pub filestore_to: Option<PathBuf>,
    /// A whole cluster with all its tenants
    #[arg(long, conflicts_with_all = ["tenant", "into_cluster"], requires = "cluster")]
    pub all: bool,
    /// Which cluster, with --all
    #[arg(long, value_name = "NAME", requires = "all", conflicts_with = "tenant")]
    pub cluster: Option<String>,
    /// Show what would happen (scopes, keys, bytes, disk, time) and do nothing
    #[arg(long)]
    pub plan: bool,
}

/// Restores.
///
/// # Errors
/// Always, until the lead connects it.
pub async fn run(_args: Args, _context: &Context) -> Result<Report, Failure> {
    Err(Failure::new(Kind::Failed, "lifeboat restore", "not connected", "wait for the next version"))
}
