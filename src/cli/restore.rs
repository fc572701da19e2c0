//! `lifeboat restore`: one tenant (or a whole cluster) as it was at a moment, beside what is there now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::context::Context;
use super::fresh;
use super::open;
use super::outcome::Report;
use super::table::Table;
use crate::config::size::shown;
use crate::config::{self, Config, When};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::repo::witness::{self, Shown, Verdict};
use crate::restore::choose::Subject;
use crate::restore::load::Into;
use crate::restore::plan::Plan;
use crate::restore::{Restore, Restored};

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
    /// Read this copy ([copies.NAME]) only, or `primary` [default: the store, and the copies where it fails]
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// Go on although the store shows less than a copy knows: with what both have together
    #[arg(long)]
    pub accept_rollback: bool,
    /// Show what would happen (scopes, keys, bytes, disk, time) and do nothing
    #[arg(long)]
    pub plan: bool,
}

/// Restores, or says what that would take.
///
/// # Errors
/// Everything that [`Restore`] refuses or finds.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let asked = When::parse(&args.at, &config.estate.timezone)?;
    let subject = match (&args.tenant, &args.cluster) {
        (Some(id), _) => Subject::Tenant(config.tenant(id)?.id.clone()),
        (None, Some(name)) => Subject::Cluster(config.cluster(name)?.name.clone()),
        (None, None) => {
            let next = "name one, or use --all --cluster NAME";
            return Err(Failure::new(Kind::Usage, "restore", "no tenant is named", next));
        }
    };
    let restore = Restore {
        config: &config,
        reader: match &args.from {
            Some(name) => open::reader_from(context, &config, name).await?,
            None => open::reader(context, &config).await?,
        },
        clock: context.clock.clone(),
        watch: Arc::clone(&context.watch),
    };
    let verdict = freshness(&args, &subject, &asked, context, &config).await?;
    if args.plan {
        let plan = restore.plan(subject, asked).await?;
        let text = planned(&plan, context);
        return Ok(fresh::told(Report::new(json!(plan), text), &verdict));
    }
    let restored = match (&args.to, &args.into_cluster) {
        (Some(to), _) => restore.to_folder(subject, asked, to).await?,
        (None, Some(cluster)) => into_cluster(&args, &restore, cluster, asked).await?,
        (None, None) => {
            let next = "add --to DIR, or --into-cluster NAME --as DATABASE";
            return Err(Failure::new(Kind::Usage, "restore", "no target is named", next));
        }
    };
    let report = fresh::told(Report::new(json!(restored), told(&restored, &args)), &verdict);
    Ok(match restored.failure() {
        Some(failure) => report.failed(failure),
        None => report,
    })
}

/// What the copies say of the store. `latest` needs to know that nothing newer is withheld; what lies at a given moment is what it is.
async fn freshness(
    args: &Args,
    subject: &Subject,
    asked: &When,
    context: &Context,
    config: &Config,
) -> Result<Verdict, Failure> {
    if args.from.is_some() {
        // One copy's word against another's says which of them is behind, not that anything was rolled back.
        return Ok(witness::judge(&Shown::default(), &[]));
    }
    let tenants = config.tenants.values().filter(|tenant| match subject {
        Subject::Tenant(id) => tenant.id == *id,
        Subject::Cluster(name) => tenant.cluster == *name,
    });
    let verdict = open::freshness(context, config, &open::about(tenants)).await?;
    if *asked == When::Latest && !args.accept_rollback {
        verdict.refuse()?;
    }
    Ok(verdict)
}

async fn into_cluster(args: &Args, restore: &Restore<'_>, cluster: &str, asked: When) -> Result<Restored, Failure> {
    let config = restore.config;
    let tenant = config.tenant(args.tenant.as_deref().unwrap_or_default())?;
    let cluster = config.cluster(cluster)?;
    let database = args.as_database.clone().unwrap_or_default();
    config::tenant::database_name(&database).map_err(|cause| {
        Failure::new(Kind::Usage, format!("--as {database}"), cause, "choose a plain name for the new database")
    })?;
    // On the disk that restores are configured for: a dump may be large.
    let scratch = config.sandbox.dir.join(format!("load-{}", std::process::id()));
    let into = Into {
        cluster,
        server: open::administrator(cluster)?,
        database,
        owner: args.owner.clone(),
        filestore: args.filestore_to.clone().or_else(|| tenant.filestore.clone()),
        scratch: scratch.clone(),
    };
    let restored = restore.into_cluster(tenant, asked, into).await;
    // The work folder cleans up after itself; what is left is the empty folder around it.
    let _gone = std::fs::remove_dir_all(&scratch);
    restored
}

fn planned(plan: &Plan, context: &Context) -> String {
    let mut table = Table::new(&["", ""]);
    let list = |scopes: &BTreeSet<Scope>| scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut row = |what: &str, value: String| table.row([what.into(), value.into()]);
    row("asked", plan.asked.clone());
    row("recovers to", plan.target.to_string());
    row("from base backup", plan.base.clone());
    row("keys needed", keys(&plan.epochs));
    row("keys missing here", if plan.keys_missing.is_empty() { "none".into() } else { list(&plan.keys_missing) });
    row("WAL to replay", shown(plan.replay_bytes));
    if plan.keys_missing.is_empty() {
        row("to fetch", format!("{} and the filestore", shown(plan.fetch_bytes)));
        row("disk", format!("{} and the filestore", shown(plan.disk_bytes)));
        row("time", format!("about {} s and the filestore", plan.guessed_seconds));
    }
    format!("{}nothing was done\n", table.draw(context.page))
}

/// `tenant/acme (epochs 1, 2), cluster/main`: the epoch of a key that was never rotated is not said.
fn keys(epochs: &BTreeMap<Scope, BTreeSet<u32>>) -> String {
    let each = epochs.iter().map(|(scope, epochs)| match epochs.iter().next_back() {
        Some(1) | None => scope.to_string(),
        Some(_) => {
            let numbers: Vec<String> = epochs.iter().map(u32::to_string).collect();
            format!("{scope} (epochs {})", numbers.join(", "))
        }
    });
    each.collect::<Vec<_>>().join(", ")
}

fn told(restored: &Restored, args: &Args) -> String {
    let files = &restored.filestore;
    let mut text = format!(
        "{} as of {}: reached {}{}, {} in {:.1} s\n",
        restored.tenant,
        restored.asked,
        restored.reached.lsn,
        restored.reached.last_commit_time.map(|time| format!(" (last commit {time})")).unwrap_or_default(),
        shown(restored.bytes_read),
        restored.seconds,
    );
    text += &format!("databases  {}\n", restored.databases.join(", "));
    text += &format!(
        "files      {} of {} ({} missing at source)\n",
        files.restored, files.referenced, files.missing_at_source
    );
    let opened: Vec<String> = restored.scopes_opened.iter().map(ToString::to_string).collect();
    text += &format!("keys used  {}\n", opened.join(", "));
    match (&restored.loaded, &args.to) {
        (Some(loaded), _) => {
            text += &format!(
                "loaded     {} tables, {} rows as {} on {}, owner {}\n",
                loaded.tables, loaded.rows, loaded.database, loaded.cluster, loaded.owner
            );
        }
        (None, Some(to)) => {
            let pgdata = to.join("pgdata");
            text += &format!("start it   pg_ctl -D {} -o '-k /tmp -p 5433' start\n", pgdata.display());
        }
        (None, None) => {}
    }
    text
}
