//! `lifeboat key split`: the custody key, sealed to every allowed group of custodians; and the identities that lie on this machine, into the keys stores.

use std::collections::BTreeMap;
use std::path::PathBuf;

use age::x25519::Identity;
use serde_json::json;

use super::custody;
use super::open_scope::{Holding, holders};
use crate::authority::custody::{CustodyError, generation};
use crate::authority::deposit::deposit;
use crate::authority::key_name::KeyName;
use crate::authority::key_stores::KeyStores;
use crate::authority::opening::Custody;
use crate::cli::context::Context;
use crate::cli::outcome::Report;
use crate::config::{Config, Role};
use crate::failure::Failure;
use crate::ids::Scope;
use crate::repo::identities::read_identity;
use crate::watch;

/// Make the custody key, seal it to every allowed group of custodians, and put this machine's identities under it
///
/// Run it once, when [keys.custody] is written; and again when custodians change, with enough of those who were: a new custody key
/// then follows the old one. Identities in the folder of `keys.identities` that no keys store has are sealed to it and put
/// into both. They stay in the folder: take it off the machine yourself.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key split\n  \
    lifeboat key split --with alice.key --with bob.key      after carol has left")]
pub struct Split {
    #[command(flatten)]
    holding: Holding,
    /// Make another custody key although the custodians are as they were
    #[arg(long)]
    pub anew: bool,
}

pub(super) async fn split(args: &Split, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let stores = custody::needed(context, &config, Role::Writer).await?;
    let wanted = custody::of_config(&config)?;
    let (rule, pinned) = (custody::rule(wanted)?, custody::pinned(wanted)?);
    let known = generation::current(&stores, None).await?;
    let (lock, now) = (config.keys.lock, context.clock.now());
    let changed = known.as_ref().is_none_or(|known| known.rule != rule) || args.anew;
    let generation = match known {
        Some(known) if !changed => known,
        Some(known) => {
            let opened = Custody::open(&stores, holders(&args.holding)?).await?;
            let trouble = || CustodyError::Damaged { name: format!("custody/{}", known.number) };
            let earlier = opened.key(known.number).ok_or_else(trouble)?;
            generation::make(&stores, &rule, Some(&earlier), lock, now).await?
        }
        None => generation::make(&stores, &rule, None, lock, now).await?,
    };
    if pinned.is_some_and(|pinned| pinned != generation.recipient) {
        let next = format!("set [keys.custody] recipient = \"{}\"", generation.recipient);
        watch::warn(&*context.watch, "custody", "the configuration pins another custody key than this one", next);
    }
    let found = on_this_machine(&config, &stores).await?;
    deposit(&stores, &custody::seals(&config, &generation)?, &found, lock).await?;
    let mut text = format!("custody {}: {}\n", generation.number, generation.recipient);
    text += if changed { "made, and " } else { "as it was, and " };
    text += &format!("opened by any of these groups together ({}):\n", generation.rule.allowed.len());
    for group in &generation.rule.allowed {
        text += &format!("  {}\n", group.join(" + "));
    }
    for (scope, epoch) in found.keys() {
        text += &format!("put {scope} epoch {epoch} into both keys stores\n");
    }
    if generation.number > 1 && changed {
        text += "\nWhoever left may still open, with others, what he copied. `lifeboat key rotate SCOPE...` puts\n\
                 what is sealed from now on out of his reach.\n";
    }
    text += &format!("\nPin it: [keys.custody] recipient = \"{}\"\n", generation.recipient);
    let deposited: Vec<_> = found.keys().map(|(scope, epoch)| json!({ "scope": scope, "epoch": epoch })).collect();
    let fields = json!({
        "custody": generation.number, "recipient": generation.recipient.to_string(), "made": changed,
        "groups": generation.rule.allowed, "deposited": deposited,
    });
    Ok(Report::new(fields, text))
}

/// The identities of this machine's folder that no keys store has.
async fn on_this_machine(config: &Config, stores: &KeyStores) -> Result<BTreeMap<(Scope, u32), Identity>, Failure> {
    let mut found = BTreeMap::new();
    let Some(folder) = &config.keys.identities else { return Ok(found) };
    let there = stores.names("").await?;
    let mut scopes = config.scopes();
    scopes.extend(super::list::spares_in(folder));
    for scope in scopes {
        for epoch in super::list::epochs(folder, &scope) {
            let name = KeyName::Scope { scope: scope.clone(), epoch };
            if !there.contains(&name) {
                let path: PathBuf = crate::repo::identities::identity_path(folder, &scope, epoch);
                found.insert((scope.clone(), epoch), read_identity(&path)?);
            }
        }
    }
    Ok(found)
}
