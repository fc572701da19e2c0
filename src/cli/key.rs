//! `lifeboat key`: the scopes' keys. No command prints a key, none takes one as an argument.

mod copies;
mod custody;
mod list;
mod make;
mod open_scope;
mod prove;
pub(super) mod renew;
mod shred;
mod split;
pub(super) mod standing;

use super::context::Context;
use super::outcome::Report;
use crate::config::{Config, nearest};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;

pub(super) use custody::stores;
pub(super) use make::make_missing;

/// Make, list, rotate and destroy the keys of scopes; open them with their custodians
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    New(make::New),
    List(list::List),
    Rotate(make::Rotate),
    Split(split::Split),
    Prove(prove::Prove),
    Open(open_scope::Open),
    Renew(renew::Renew),
    RegisterCopy(copies::RegisterCopy),
    Shred(shred::Shred),
}

impl Args {
    /// The command as it is typed, and as `command` in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::New(_) => "key new",
            Self::List(_) => "key list",
            Self::Rotate(_) => "key rotate",
            Self::Split(_) => "key split",
            Self::Prove(_) => "key prove",
            Self::Open(_) => "key open",
            Self::Renew(_) => "key renew",
            Self::RegisterCopy(_) => "key register-copy",
            Self::Shred(_) => "key shred",
        }
    }
}

/// Runs one of them.
///
/// # Errors
/// Of the command.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    match args {
        Args::New(args) => make::new(&args, context).await,
        Args::List(args) => list::list(&args, context).await,
        Args::Rotate(args) => make::rotate(&args, context).await,
        Args::Split(args) => split::split(&args, context).await,
        Args::Prove(args) => prove::prove(&args, context).await,
        Args::Open(args) => open_scope::open(&args, context).await,
        Args::Renew(args) => renew::renew(&args, context).await,
        Args::RegisterCopy(args) => copies::register(&args, context).await,
        Args::Shred(args) => shred::shred(&args, context).await,
    }
}

/// A key for a scope that the configuration does not have would never be used: it is a slip.
fn known(config: &Config, scope: &Scope) -> Result<(), Failure> {
    let scopes = config.scopes();
    if matches!(scope, Scope::Spare(_)) || scopes.contains(scope) {
        return Ok(());
    }
    let names: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    let hint = nearest::hint(&scope.to_string(), names.iter().map(String::as_str));
    let cause = format!("{} has no such scope{hint}", config.path.display());
    Err(Failure::new(Kind::Usage, scope.to_string(), cause, "add it to the configuration first"))
}
