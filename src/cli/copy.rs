//! `lifeboat copy`: the second copy, nothing opened.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, json};

use super::context::Context;
use super::open;
use super::outcome::Report;
use super::table::{Cell, Table};
use crate::config::size::shown;
use crate::config::{Config, Role};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::repo::copy::{Copied, Copy, Options};
use crate::repo::erasure;
use crate::repo::sign::Signers;
use crate::repo::witness;
use crate::store::Store;

/// Copy what the store has to its second copies ([copies.NAME])
///
/// Opens nothing and needs no key. Every object is checked against its SHA-256 on the way and locked at least as long as at the
/// source. Takes up where the last run ended, however it ended.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat copy                          to every copy of the configuration\n  \
    lifeboat copy --to drawer --dry-run\n  \
    lifeboat copy --to offsite --tenant acme --tenant globex\n  \
    lifeboat copy --heads                  only what proves freshness: every minute")]
pub struct Args {
    /// One copy [default: all]
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,
    /// Only what restores this tenant, WAL of its neighbours included; may be repeated [default: everything]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Vec<String>,
    /// Say what would be copied, and copy nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Publish the newest envelope of each chain, and nothing that it names
    #[arg(long, conflicts_with_all = ["tenant", "dry_run"])]
    pub heads: bool,
}

/// Copies to one copy after the other; one that fails does not keep the next from its turn.
///
/// # Errors
/// `Usage` when there is no such copy. Damage and what a copy refuses are in the report, with its exit code.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let names: Vec<&String> = match &args.to {
        Some(name) => {
            config.copy(name)?;
            vec![name]
        }
        None => config.copies.keys().collect(),
    };
    if names.is_empty() {
        let next = "add [copies.NAME], as docs/CONFIG.md says";
        return Err(Failure::new(Kind::Usage, config.path.display().to_string(), "names no copy", next));
    }
    let tenants: Result<Vec<Scope>, Failure> =
        args.tenant.iter().map(|id| Ok(Scope::Tenant(config.tenant(id)?.id.clone()))).collect();
    let options = Options { tenants: tenants?, ..Options::default() };
    let mut table =
        Table::new(&["copy", "envelopes", "objects", "bytes", "locks extended", "there already", "damaged"]);
    let (mut copies, mut worst) = (Map::new(), None);
    for name in names {
        match one(name, &args, options.clone(), context, &config).await {
            Ok(Done::Heads(published)) => {
                table.row([name.as_str().into(), Cell::number(published)]);
                copies.insert(name.clone(), json!({ "heads": published }));
            }
            Ok(Done::Copied(copied)) => {
                table.row(row(name, &copied));
                worst = worse(worst, damage(name, &copied));
                copies.insert(name.clone(), json!(copied));
            }
            Err(failure) => {
                copies.insert(name.clone(), json!({ "error": { "object": failure.object, "cause": failure.cause } }));
                worst = worse(worst, Some(failure));
            }
        }
    }
    let note = if args.dry_run { "nothing was copied\n" } else { "" };
    let report = Report::new(json!({ "copies": copies, "dry_run": args.dry_run }), table.draw(context.page) + note);
    Ok(match worst {
        Some(failure) => report.failed(failure),
        None => report,
    })
}

enum Done {
    Copied(Copied),
    Heads(u64),
}

async fn one(name: &str, args: &Args, options: Options, context: &Context, config: &Config) -> Result<Done, Failure> {
    let from = open::store(context, config, Role::Reader).await?;
    let to = open::any(context, config.copy(name)?, Role::Writer).await?;
    let erased = if args.heads { BTreeSet::new() } else { ledger(&*from, &*to, args, context, config).await? };
    let options = Options { erased, ..options };
    let copy =
        Copy { from, to, name: name.to_owned(), signers: Arc::new(Signers::read(&config.keys.signers)?), options };
    if args.heads {
        return Ok(Done::Heads(witness::publish(&*copy.from, &*copy.to, &copy.signers).await?));
    }
    let watch = &*context.watch;
    Ok(Done::Copied(if args.dry_run { copy.plan(watch).await? } else { copy.run(watch).await? }))
}

/// The erasure ledger goes before all data; what either side knows to be erased is not copied.
async fn ledger(
    from: &dyn Store,
    to: &dyn Store,
    args: &Args,
    context: &Context,
    config: &Config,
) -> Result<BTreeSet<(Scope, u32)>, Failure> {
    if !args.dry_run {
        erasure::carry(from, to, &Signers::read_for(&config.keys.signers, erasure::NAMESPACE)?).await?;
    }
    let (here, there) = (open::ledger(context, config, from).await?, open::ledger(context, config, to).await?);
    Ok(here.erased().into_keys().chain(there.erased().into_keys()).collect())
}

fn row(name: &str, copied: &Copied) -> Vec<Cell> {
    vec![
        name.into(),
        Cell::number(copied.envelopes),
        Cell::number(copied.objects),
        Cell::number(shown(copied.bytes)),
        Cell::number(copied.extended),
        Cell::number(copied.there),
        Cell::number(copied.damaged.len()),
    ]
}

/// What was not copied because it is damaged.
fn damage(name: &str, copied: &Copied) -> Option<Failure> {
    let first = copied.damaged.first()?;
    let cause =
        format!("{}; {} envelopes were not copied to {name}, everything else was", first.what, copied.damaged.len());
    let next = "look for a good version in another copy; then run `lifeboat copy` again";
    Some(Failure::new(Kind::Integrity, first.object.clone(), cause, next))
}

/// Of two failures the one that a person must look at: damage before a place that does not answer.
fn worse(one: Option<Failure>, other: Option<Failure>) -> Option<Failure> {
    match (one, other) {
        (Some(one), Some(other)) if one.kind != Kind::Integrity && other.kind == Kind::Integrity => Some(other),
        (one, other) => one.or(other),
    }
}
