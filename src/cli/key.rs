//! `lifeboat key`: the scopes' keys. No command prints a key.

use super::context::Context;
use super::outcome::Report;
use crate::failure::{Failure, Kind};
use crate::ids::Scope;

/// Make and list the keys of scopes
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    New(New),
    List(List),
}

/// Make the first key of a scope: a tenant or cluster that was added to the configuration
///
/// The writer bundle gets the half that seals, the folder of identities the half that opens. Nothing is overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key new tenant/globex\n  \
    lifeboat key new cluster/second residue/second quarantine/second")]
pub struct New {
    /// tenant/ID, cluster/NAME, residue/NAME, quarantine/NAME, estate or spare/N
    #[arg(value_name = "SCOPE", required = true)]
    pub scopes: Vec<Scope>,
}

/// List the scopes, and on which side of them this machine stands
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key list\n  \
    lifeboat key list --json | jq '.scopes[] | select(.opens)'")]
pub struct List {}

/// Makes or lists.
///
/// # Errors
/// Always, until the lead connects it.
pub async fn run(args: Args, _context: &Context) -> Result<Report, Failure> {
    let name = match args {
        Args::New(_) => "lifeboat key new",
        Args::List(_) => "lifeboat key list",
    };
    Err(Failure::new(Kind::Failed, name, "not connected", "wait for the next version"))
}
