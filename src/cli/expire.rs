//! `lifeboat expire`: what nobody needs and nothing locks.

use std::sync::Arc;

use serde_json::json;

use super::context::Context;
use super::open;
use super::outcome::Report;
use super::table::{Cell, Table};
use crate::config::size::shown;
use crate::config::{Config, Role};
use crate::failure::Failure;
use crate::ids::Scope;
use crate::repo::expire::{self, Expired, Options, Reason, Verdict};
use crate::repo::sign::Signers;
use crate::watch::{Finding, Level};

/// The longest list of single objects, for `--json` and `--verbose`: the counts are whole.
const LISTED: usize = 100_000;

/// Remove what no lock covers and nobody needs
///
/// Needs no key. Only lapsed locks, judged by the store's clock; holds are honoured.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat expire --dry-run                 counts and bytes, by reason; removes nothing\n  \
    lifeboat expire --dry-run -v              each object that would go, or is kept for a special reason\n  \
    lifeboat expire\n  \
    lifeboat expire --scope tenant/acme       only below tenant/acme/\n  \
    lifeboat expire --copy drawer             a second copy, by its own locks and clock")]
pub struct Args {
    /// Say what would go, and why; remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Only this scope's prefix; the WAL that scopes share is left alone
    #[arg(long, value_name = "SCOPE")]
    pub scope: Option<Scope>,
    /// This copy instead of the store
    #[arg(long, value_name = "NAME")]
    pub copy: Option<String>,
}

/// Judges everything, and removes what goes.
///
/// # Errors
/// `Refused` when the clocks disagree; the store's.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let store = match args.copy.as_deref() {
        Some(name) => open::any(context, config.copy(name)?, Role::Janitor).await?,
        None => open::store(context, &config, Role::Janitor).await?,
    };
    let signers = Arc::new(Signers::read(&config.keys.signers)?);
    let options = Options { only: args.scope, ..options(&config, args.dry_run) };
    let (mut list, mut left_out) = (Vec::new(), 0_u64);
    let wanted = context.json || context.verbose;
    let mut sink = |verdict: Verdict| {
        if wanted && is_told(verdict.reason) {
            if list.len() < LISTED { list.push(verdict) } else { left_out += 1 }
        }
    };
    let expired = expire::run(store, signers, &context.clock, options, &mut sink).await?;
    let mut report = Report::new(
        json!({ "dry_run": args.dry_run, "at": expired.at, "counts": expired.counts, "removed": expired.removed(),
            "held": expired.held, "objects": list, "objects_left_out": left_out }),
        drawn(&expired, &list, args.dry_run, context),
    );
    report.findings = findings(&expired);
    Ok(report)
}

/// How things are kept, by the configuration.
fn options(config: &Config, dry_run: bool) -> Options {
    let retention = &config.retention;
    Options { dry_run, only: None, longest: retention.longest(), tail_lock: retention.tail_lock }
}

/// Whether single objects are listed: not those that are simply in use.
fn is_told(reason: Reason) -> bool {
    !matches!(reason, Reason::Live | Reason::Named)
}

fn drawn(expired: &Expired, list: &[Verdict], dry_run: bool, context: &Context) -> String {
    let mut text = String::new();
    if context.verbose && !list.is_empty() {
        let mut table = Table::new(&["object", "bytes", "why"]);
        for verdict in list {
            let said = verdict.reason.said();
            table.row([verdict.name.as_str().into(), Cell::number(shown(verdict.bytes)), said.into()]);
        }
        text = table.draw(context.page) + "\n";
    }
    let mut table = Table::new(&["", "objects", "bytes"]);
    for (reason, count) in &expired.counts {
        table.row([reason.said().into(), Cell::number(count.objects), Cell::number(shown(count.bytes))]);
    }
    let removed = expired.removed();
    let did = if dry_run { "would be removed" } else { "removed" };
    for scope in &expired.held {
        text += &format!("on hold: {scope}\n");
    }
    text + &table.draw(context.page) + &format!("{} objects, {} {did}\n", removed.objects, shown(removed.bytes))
}

fn findings(expired: &Expired) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut warn = |reason: Reason, what: &str, next: &str| {
        if let Some(count) = expired.counts.get(&reason) {
            found.push(Finding {
                level: Level::Warning,
                object: format!("{} objects", count.objects),
                what: what.to_owned(),
                next: next.to_owned(),
            });
        }
    };
    warn(
        Reason::Refused,
        "were free by the store's own word, and it refused to remove them",
        "check the janitor's right to delete versions; objects locked in the meantime are no trouble",
    );
    warn(
        Reason::Beyond,
        "are signed envelopes locked for longer than any class of the configuration",
        "unless a class was shortened, find out who signed them: `lifeboat expire --dry-run -v` names them",
    );
    found
}
