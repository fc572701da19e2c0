//! `lifeboat key open`: a scope's identity out of the keys stores, by enough of its custodians.

use std::path::{Path, PathBuf};

use age::x25519::{Identity, Recipient};
use serde_json::json;

use super::custody;
use crate::authority::opening::{Custody, Holders, epochs};
use crate::cli::context::Context;
use crate::cli::open;
use crate::cli::outcome::Report;
use crate::config::Role;
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::repo::ceremony::write_identity;
use crate::repo::identities::{identity_path, read_identity, scope_identity_text};
use crate::repo::key::KeyError;

/// Open a scope's key with enough of its custodians, and write it where a restore finds it
///
/// Identities are read from files, never from the command line. Without --out every epoch goes into the folder of
/// `keys.identities`. Custodians whose keys are on hardware open the custody key with plain age, each his layer, and give
/// the result with --custody-key. Take what was written away when the restore is done; what stays is to be registered.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key open tenant/acme --with alice.key --with bob.key\n  \
    lifeboat key open cluster/main --epoch 2 --with alice.key --with bob.key --out main.key\n  \
    lifeboat key open tenant/acme --custody-key custody.key")]
pub struct Open {
    pub scope: Scope,
    #[command(flatten)]
    holding: Holding,
    /// Which epoch [default: every one; with --out the newest]
    #[arg(long, value_name = "N")]
    pub epoch: Option<u32>,
    /// Write one epoch's identity to this new file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Which key it is, where the two keys stores hold different ones
    #[arg(long, value_name = "age1...")]
    pub recipient: Option<Recipient>,
}

/// How custodians bring what they have.
#[derive(Debug, clap::Args)]
pub struct Holding {
    /// A custodian's age identity file; once for each
    #[arg(long = "with", value_name = "FILE")]
    pub with: Vec<PathBuf>,
    /// The custody key itself, opened elsewhere with plain age
    #[arg(long, value_name = "FILE", conflicts_with = "with")]
    pub custody_key: Option<PathBuf>,
}

/// Reads what custodians brought.
///
/// # Errors
/// When a file cannot be read, is open to everybody, or holds no age identity.
pub(super) fn holders(holding: &Holding) -> Result<Holders, Failure> {
    if let Some(path) = &holding.custody_key {
        return Ok(Holders::CustodyKey(Box::new(read_identity(path)?)));
    }
    let read = holding.with.iter().map(|path| read_identity(path));
    Ok(Holders::Custodians(read.collect::<Result<Vec<Identity>, KeyError>>()?))
}

pub(super) async fn open(args: &Open, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let store = open::store(context, &config, Role::Reader).await?;
    let erased = open::ledger(context, &config, &*store).await?.erased();
    let stores = custody::answering(context, &config, Role::Reader).await?;
    let mut wanted: Vec<u32> = match args.epoch {
        Some(epoch) => vec![epoch],
        None => epochs(&stores, &args.scope).await?.into_iter().collect(),
    };
    if args.out.is_some() && args.epoch.is_none() {
        wanted = wanted.into_iter().next_back().into_iter().collect();
    }
    let since = |epoch: u32| erased.get(&(args.scope.clone(), epoch)).copied();
    if let Some((epoch, since)) = wanted.iter().find_map(|epoch| Some((*epoch, since(*epoch)?))) {
        return Err(KeyError::Erased { scope: args.scope.clone(), epoch, since }.into());
    }
    if wanted.is_empty() {
        let cause = "no keys store has a key of it";
        return Err(Failure::new(
            Kind::Integrity,
            args.scope.to_string(),
            cause,
            "check the name; see `lifeboat key list`",
        ));
    }
    let target = |epoch: u32| match (&args.out, &config.keys.identities) {
        (Some(out), _) => Ok(out.clone()),
        (None, Some(folder)) => Ok(identity_path(folder, &args.scope, epoch)),
        (None, None) => {
            let cause = "neither --out nor [keys] identities says where it is to go";
            Err(Failure::new(Kind::Usage, args.scope.to_string(), cause, "give --out FILE"))
        }
    };
    let opened = Custody::open(&stores, holders(&args.holding)?).await?;
    let (mut written, mut text) = (Vec::new(), String::new());
    for epoch in wanted {
        let path = target(epoch)?;
        let identity = opened.identity(&stores, &args.scope, epoch, args.recipient.as_ref()).await?;
        let new = write(&path, &args.scope, epoch, &identity)?;
        text += &format!(
            "{} {}: opens {}, epoch {epoch}\n",
            if new { "wrote" } else { "kept" },
            path.display(),
            args.scope
        );
        written.push(json!({ "epoch": epoch, "file": path, "recipient": identity.to_public().to_string() }));
    }
    let group =
        if opened.group.is_empty() { "whoever opened the custody key".to_owned() } else { opened.group.join(" and ") };
    tracing::info!(scope = %args.scope, by = group, "a scope's key was opened");
    text += &format!("\nOpened by {group}. Destroy these files when the restore is done.\n");
    Ok(Report::new(json!({ "scope": args.scope, "opened": written, "by": opened.group }), text))
}

/// True when it was written; false when the same is there already.
fn write(path: &Path, scope: &Scope, epoch: u32, identity: &Identity) -> Result<bool, Failure> {
    match write_identity(path, &scope_identity_text(scope, epoch, identity)) {
        Err(KeyError::Exists { .. }) if read_identity(path)?.to_public() == identity.to_public() => Ok(false),
        written => Ok(written.map(|()| true)?),
    }
}
