//! `lifeboat key list`: the scopes, on which side of them this machine stands, and where their keys are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::standing::{self, Standing};
use crate::authority::key_name::KeyName;
use crate::cli::context::Context;
use crate::cli::open;
use crate::cli::outcome::Report;
use crate::cli::table::{Cell, Table};
use crate::cli::terminal::Tone;
use crate::config::{Config, Role};
use crate::failure::Failure;
use crate::ids::Scope;
use crate::repo::erasure::Ledger;
use crate::repo::key::WriterBundle;
use crate::watch;

/// List the scopes, on which side of them this machine stands, and where their keys are kept
///
/// Looks into both keys stores where there are any; opens nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key list\n  \
    lifeboat key list --json | jq '.scopes[] | select(.opens)'")]
pub struct List {}

pub(super) async fn list(_: &List, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    // Without keys stores and without a store that answers, what lies on this machine is still worth a list.
    let ledger = match open::store(context, &config, Role::Reader).await {
        Err(_) if config.keys.stores.is_empty() => Ledger::default(),
        store => open::ledger(context, &config, &*store?).await?,
    };
    let standing = Standing::of(context, &config, &ledger).await?;
    let mut report = table(&config, context, standing.as_ref(), &ledger)?;
    if let Some(standing) = standing {
        report.findings.extend(standing.findings);
    }
    report.findings.extend(standing::of_erasures(&ledger.erasures()));
    Ok(report)
}

fn table(config: &Config, context: &Context, standing: Option<&Standing>, ledger: &Ledger) -> Result<Report, Failure> {
    let writer = config.keys.writer.as_deref().filter(|path| path.exists());
    let bundle = writer.map(WriterBundle::read).transpose()?;
    let sealed: BTreeMap<Scope, u32> =
        bundle.iter().flat_map(|bundle| &bundle.scopes).map(|(scope, keys)| (scope.clone(), keys.epoch)).collect();
    let erased: BTreeSet<Scope> = ledger.erased().into_keys().map(|(scope, _)| scope).collect();
    let configured = config.scopes();
    if bundle.is_some() {
        for scope in configured.iter().filter(|scope| !sealed.contains_key(scope)) {
            let next = format!("run `lifeboat key new {scope}` where keys are made");
            let what = match erased.contains(scope) {
                true => "was erased and has no new key: nothing of it can be stored",
                false => "has no key: nothing of it can be stored",
            };
            watch::warn(&*context.watch, scope.to_string(), what, next);
        }
    }
    let kept = standing.map(kept).unwrap_or_default();
    let scopes: BTreeSet<&Scope> = configured.iter().chain(sealed.keys()).chain(kept.keys()).chain(&erased).collect();
    let mut head = vec!["scope", "epoch", "seals", "opens"];
    head.extend(standing.map(|_| ["kept", "locked until"]).into_iter().flatten());
    let (mut table, mut listed) = (Table::new(&head), Vec::new());
    for scope in scopes {
        let epoch = sealed.get(scope).copied();
        let here = config.keys.identities.as_deref().map(|folder| epochs(folder, scope)).unwrap_or_default();
        let opens = if here.is_empty() { Cell::from("") } else { Cell::toned(numbers(&here), Tone::Warning) };
        let (number, seals) = epoch.map_or(("".into(), ""), |epoch| (Cell::number(epoch), "yes"));
        let kept = kept.get(scope).cloned().unwrap_or_default();
        let seals = if epoch.is_none() && erased.contains(scope) { "erased" } else { seals };
        let mut row = vec![scope.to_string().into(), number, seals.into(), opens];
        if standing.is_some() {
            row.extend([kept.shown().into(), kept.locked_until.map(day).unwrap_or_default().into()]);
        }
        table.row(row);
        listed.push(json!({
            "scope": scope, "epoch": epoch, "seals": epoch.is_some(), "opens": !here.is_empty(), "epochs_here": here,
            "kept": kept.epochs, "locked_until": kept.locked_until, "erased": erased.contains(scope),
        }));
    }
    let writer = bundle.map(|bundle| bundle.writer);
    let mut text = table.draw(context.page);
    if let Some(writer) = &writer {
        text += &format!("\nThis machine writes as {writer}.\n");
    }
    let mut fields = json!({ "writer": writer, "scopes": listed, "erasures": ledger.erasures() });
    if let Some(standing) = standing {
        text += &custodians(standing);
        fields["keys"] = standing.json();
    }
    Ok(Report::new(fields, text))
}

/// Which epochs of a scope each keys store has, and the earliest end of a lock that is to be renewed.
#[derive(Debug, Clone, Default)]
struct Kept {
    epochs: BTreeMap<String, BTreeSet<u32>>,
    locked_until: Option<Timestamp>,
}

impl Kept {
    /// `1, 2` when all stores have the same; otherwise by store.
    fn shown(&self) -> String {
        let mut each = self.epochs.values();
        let first = each.next();
        let listed = |epochs: &BTreeSet<u32>| numbers(&epochs.iter().copied().collect::<Vec<_>>());
        match first {
            Some(first) if self.epochs.len() > 1 && each.all(|other| other == first) => listed(first),
            _ => self
                .epochs
                .iter()
                .map(|(store, epochs)| format!("{store}: {}", listed(epochs)))
                .collect::<Vec<_>>()
                .join("; "),
        }
    }
}

fn kept(standing: &Standing) -> BTreeMap<Scope, Kept> {
    let mut found: BTreeMap<Scope, Kept> = BTreeMap::new();
    for (name, held) in &standing.inventory {
        let KeyName::Scope { scope, epoch } = name else { continue };
        let kept = found.entry(scope.clone()).or_default();
        for (store, held) in held {
            kept.epochs.entry(store.clone()).or_default().insert(*epoch);
            if standing.keep.keeps(name) {
                let ends = held.lock.retained_until;
                kept.locked_until = kept.locked_until.map_or(ends, |known| ends.map(|ends| ends.min(known)));
            }
        }
    }
    found
}

fn custodians(standing: &Standing) -> String {
    let mut text = match &standing.generation {
        Some(found) => {
            let groups: Vec<String> = found.rule.allowed.iter().map(|group| group.join(" + ")).collect();
            format!("\nCustody {} opens with {}.\n", found.number, groups.join(", or "))
        }
        None => "\nThere is no custody key that both keys stores have.\n".to_owned(),
    };
    for (name, proved) in &standing.proofs {
        let proved = proved.map_or("never proved his key".to_owned(), |time| format!("proved his key {}", day(time)));
        text += &format!("  {name} {proved}\n");
    }
    text
}

fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

/// Which epochs of `scope` can be opened with what lies in `folder` (`<folder>/<scope>/<epoch>.age`); nothing is read.
pub(super) fn epochs(folder: &Path, scope: &Scope) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(folder.join(scope.to_string())) else { return Vec::new() };
    let mut found: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".age")?.parse().ok()).collect();
    found.sort_unstable();
    found
}

fn numbers(numbers: &[u32]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The spares whose identities lie in `folder`.
pub(super) fn spares_in(folder: &Path) -> Vec<Scope> {
    let Ok(entries) = std::fs::read_dir(folder.join("spare")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Scope::Spare)).collect()
}
