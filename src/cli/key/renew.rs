//! `lifeboat key renew`: the locks of key files, rolled on; what `verify` does with each run.

use serde_json::json;

use super::custody;
use crate::authority::custody::generation;
use crate::authority::upkeep::{self, Renewed};
use crate::cli::context::Context;
use crate::cli::open;
use crate::cli::outcome::Report;
use crate::config::{Config, Role};
use crate::failure::Failure;
use crate::watch;

/// Make the locks of all key files end a full `keys.lock` from now
///
/// `lifeboat verify` does this too. What is to go is left to lapse: erased keys, the drill host's copies of tenants that opted out, the groups of
/// earlier custody keys.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key renew\n  \
    lifeboat key renew --mend                 after one keys store was lost and begun anew")]
pub struct Renew {
    /// Copy what only one keys store has to the other
    #[arg(long)]
    pub mend: bool,
}

pub(super) async fn renew(args: &Renew, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let mut mended = Vec::new();
    if args.mend {
        let stores = custody::needed(context, &config, Role::Writer).await?;
        let keep = kept(context, &config, &stores).await?;
        let pinned = custody::pinned(custody::of_config(&config)?)?;
        mended = upkeep::mend(&stores, &keep, pinned.as_ref(), config.keys.lock).await?;
        if pinned.is_none() && generation::current(&stores, None).await?.is_none() {
            let what =
                "the manifest of the custody key was not copied: the configuration does not say which key it must name";
            let next = "set [keys.custody] recipient to the custody key's recipient (age1...), and run it again";
            watch::warn(&*context.watch, "custody", what, next);
        }
    }
    custody::of_config(&config)?;
    let renewed = roll(context, &config).await?.unwrap_or_default();
    let mut text: String = mended.iter().map(|name| format!("copied {name}\n")).collect();
    text += &format!("renewed the locks of {} key files, left {} to lapse\n", renewed.files, renewed.left);
    let mended: Vec<String> = mended.iter().map(ToString::to_string).collect();
    Ok(Report::new(json!({ "renewed": renewed.files, "left": renewed.left, "mended": mended }), text))
}

/// Renews the locks of all key files, as the verifier; `None` where there are no keys stores.
///
/// # Errors
/// When a keys store is out of reach or refuses.
pub(in crate::cli) async fn roll(context: &Context, config: &Config) -> Result<Option<Renewed>, Failure> {
    if config.keys.stores.is_empty() {
        return Ok(None);
    }
    // The one that answers is renewed although the other does not.
    let stores = custody::answering(context, config, Role::Verifier).await?;
    let keep = kept(context, config, &stores).await?;
    Ok(Some(upkeep::renew(&stores, &keep, config.keys.lock).await?))
}

async fn kept(
    context: &Context,
    config: &Config,
    stores: &crate::authority::key_stores::KeyStores,
) -> Result<upkeep::Keep, Failure> {
    let store = open::store(context, config, Role::Verifier).await?;
    let ledger = open::ledger(context, config, &*store).await?;
    // Without a generation that both agree on, every group is kept.
    let current = generation::current(stores, None).await.ok().flatten();
    Ok(custody::keep(config, &ledger, current.as_ref()))
}
