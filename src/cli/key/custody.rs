//! The keys part of the configuration made real: the keys stores, who the custodians are, what is to be kept.

use std::collections::{BTreeMap, BTreeSet};

use age::x25519::Recipient;

use crate::authority::custody::generation::{self, Generation};
use crate::authority::custody::{CustodyError, Rule};
use crate::authority::deposit::Seals;
use crate::authority::key_stores::{KeyStore, KeyStores};
use crate::authority::upkeep::Keep;
use crate::cli::context::Context;
use crate::cli::open;
use crate::config::{Config, CustodyConfig, Role};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::repo::erasure::Ledger;
use crate::watch;

/// Both keys stores; `None` where the configuration has none.
///
/// # Errors
/// When one is out of reach.
pub async fn stores(context: &Context, config: &Config, role: Role) -> Result<Option<KeyStores>, Failure> {
    let mut stores = Vec::new();
    for (name, place) in &config.keys.stores {
        let store = open::any(context, place, role).await.map_err(|failure| of_store(name, failure))?;
        stores.push(KeyStore { name: name.clone(), store });
    }
    Ok((!stores.is_empty()).then_some(KeyStores(stores)))
}

/// As [`stores`], of a configuration that must have them.
///
/// # Errors
/// `Usage` when it has none; when one is out of reach.
pub(super) async fn needed(context: &Context, config: &Config, role: Role) -> Result<KeyStores, Failure> {
    stores(context, config, role).await?.ok_or_else(|| none(config))
}

/// Those that answer, with a warning for each that does not: for what one of them is enough for.
///
/// # Errors
/// `Usage` when there are none, `Unreachable` when none answers.
pub(super) async fn answering(context: &Context, config: &Config, role: Role) -> Result<KeyStores, Failure> {
    let mut stores = Vec::new();
    let mut silent = None;
    for (name, place) in &config.keys.stores {
        let opened = async {
            let store = open::any(context, place, role).await?;
            store.now().await?;
            Ok(store)
        };
        match opened.await {
            Ok(store) => stores.push(KeyStore { name: name.clone(), store }),
            Err(failure) => {
                let failure = of_store(name, failure);
                watch::warn(&*context.watch, &failure.object, &failure.cause, &failure.next);
                silent = Some(failure);
            }
        }
    }
    match (stores.is_empty(), silent) {
        (false, _) => Ok(KeyStores(stores)),
        (true, Some(failure)) => Err(failure),
        (true, None) => Err(none(config)),
    }
}

fn of_store(name: &str, failure: Failure) -> Failure {
    let cause = format!("{}: {}", failure.object, failure.cause);
    Failure { object: format!("keys store {name}"), cause, ..failure }
}

fn none(config: &Config) -> Failure {
    let cause = format!("{} has no keys stores", config.path.display());
    let next = "add two [keys.stores.NAME] and [keys.custody]; docs/CONFIG.md shows how";
    Failure::new(Kind::Usage, "keys.stores", cause, next)
}

fn recipient(text: &str) -> Result<Recipient, Failure> {
    // The configuration was checked; this is for whoever changes that check.
    text.parse().map_err(|what: &str| Failure::new(Kind::Usage, text, what, "give an age recipient"))
}

/// Who may open, by the configuration.
pub(super) fn rule(custody: &CustodyConfig) -> Result<Rule, Failure> {
    let named = custody.custodians.iter().map(|(name, text)| Ok((name.clone(), recipient(text)?)));
    let custodians: BTreeMap<String, Recipient> = named.collect::<Result<_, Failure>>()?;
    Ok(Rule { custodians, allowed: custody.allowed.clone() })
}

pub(super) fn of_config(config: &Config) -> Result<&CustodyConfig, Failure> {
    config.keys.custody.as_ref().ok_or_else(|| none(config))
}

pub(super) fn pinned(custody: &CustodyConfig) -> Result<Option<Recipient>, Failure> {
    custody.recipient.as_deref().map(recipient).transpose()
}

/// The custody key that is sealed to; made when there has never been one, which needs nobody's secret.
///
/// # Errors
/// `Changed` when the configuration names others than the keys stores have; as [`generation::current`].
pub(super) async fn ensured(context: &Context, config: &Config, stores: &KeyStores) -> Result<Generation, Failure> {
    let custody = of_config(config)?;
    let rule = rule(custody)?;
    let Some(current) = generation::current(stores, pinned(custody)?.as_ref()).await? else {
        let made = generation::make(stores, &rule, None, config.keys.lock, context.clock.now()).await?;
        return Ok(made);
    };
    if current.rule != rule {
        return Err(CustodyError::Changed { what: difference(&current.rule, &rule) }.into());
    }
    Ok(current)
}

/// How two rules differ, for people.
pub(super) fn difference(stored: &Rule, wanted: &Rule) -> String {
    let names = |rule: &Rule| rule.custodians.keys().cloned().collect::<Vec<_>>().join(", ");
    if stored.custodians != wanted.custodians {
        let same_names = stored.custodians.keys().eq(wanted.custodians.keys());
        let how = if same_names { ", of whom some have another key now" } else { "" };
        return format!("the keys stores have {}, the configuration {}{how}", names(stored), names(wanted));
    }
    let only = |one: &Rule, other: &Rule| {
        let groups: Vec<String> = one.allowed.difference(&other.allowed).map(|group| group.join(" + ")).collect();
        match groups.len() {
            0 => "nothing more".to_owned(),
            1..=4 => groups.join(", "),
            more => format!("{}, and {} more groups", groups[..3].join(", "), more - 3),
        }
    };
    format!("the keys stores alone allow {}; the configuration alone {}", only(stored, wanted), only(wanted, stored))
}

/// The scopes that the drill host may open: of the tenants that say so, with their clusters'.
fn drill_scopes(config: &Config) -> BTreeSet<Scope> {
    let opted = config.tenants.values().filter(|tenant| tenant.drill_host && config.keys.drill_host.is_some());
    opted.flat_map(|tenant| [Scope::Tenant(tenant.id.clone()), Scope::Cluster(tenant.cluster.clone())]).collect()
}

/// Whom new key files are sealed to.
pub(super) fn seals(config: &Config, generation: &Generation) -> Result<Seals, Failure> {
    let host = config.keys.drill_host.as_deref().map(recipient).transpose()?;
    Ok(Seals { custody: generation.recipient.clone(), drill: host.map(|host| (host, drill_scopes(config))) })
}

/// What is to be kept, and what is left to lapse.
pub(super) fn keep(config: &Config, ledger: &Ledger, custody: Option<&Generation>) -> Keep {
    let custody = custody.map(|generation| generation.number);
    Keep { erased: ledger.erased(), drill: drill_scopes(config), custody }
}
