//! `lifeboat backup`: one recovery point per tenant.

use std::sync::Arc;

use serde_json::json;

use super::context::Context;
use super::open;
use super::outcome::Report;
use super::table::{Cell, Table};
use super::trusted;
use crate::backup::{Backup, Made};
use crate::config::size::shown;
use crate::config::{Role, Tenant, when};
use crate::failure::Failure;
use crate::ids::Scope;
use crate::stream::session::{self, Session, WhenBusy};

/// Make one recovery point: base backup, filestore, access
///
/// Without names, every tenant of the estate. Where no stream runs, one runs beside the backup for as long as it takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat backup                           every tenant of every cluster\n  \
    lifeboat backup acme globex               these two\n  \
    lifeboat backup --cluster main --class monthly")]
pub struct Args {
    /// Tenants of the configuration [default: all]
    #[arg(value_name = "TENANT")]
    pub tenants: Vec<String>,
    /// Only this cluster's tenants
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// How long the point is kept: a name of [retention.classes]
    #[arg(long, value_name = "CLASS", default_value = "daily")]
    pub class: String,
}

/// Makes the points, cluster by cluster.
///
/// # Errors
/// The first cluster's that fails; those before it are done.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let writer = open::writer(context, &config).await?;
    let reader = Arc::new(open::keyless_reader(context, &config, Role::Writer).await?);
    trusted::check(context, &config, &reader.store.place())?;
    config.retention.class(&args.class)?;
    let named: Vec<&Tenant> = args.tenants.iter().map(|id| config.tenant(id)).collect::<Result<_, _>>()?;
    let mut made = Vec::new();
    for cluster in open::clusters(&config, args.cluster.as_deref())? {
        let of_cluster = |tenant: &&&Tenant| tenant.cluster == cluster.name;
        // Who was erased is passed over, with a warning from `open::writer`; asked for by name, he is an error.
        let there = |tenant: &&Tenant| !writer.erased(&Scope::Tenant(tenant.id.clone()));
        let all: Vec<&Tenant> = config.tenants.values().filter(there).collect();
        let asked = if named.is_empty() { &all } else { &named };
        let tenants: Vec<&Tenant> = asked.iter().filter(of_cluster).copied().collect();
        if tenants.is_empty() && !named.is_empty() {
            continue;
        }
        let server = open::server(cluster)?;
        let session = Session {
            config: Arc::clone(&config),
            cluster: cluster.clone(),
            server: server.clone(),
            writer: Arc::clone(&writer),
            reader: Arc::clone(&reader),
            clock: context.clock.clone(),
            watch: Arc::clone(&context.watch),
            accept_gap: false,
            when_busy: WhenBusy::Refuse,
        };
        let backup = Backup {
            config: &config,
            writer: Arc::clone(&writer),
            reader: Arc::clone(&reader),
            clock: context.clock.clone(),
            watch: Arc::clone(&context.watch),
            class: args.class.clone(),
        };
        made.push(Box::pin(session::beside(session, backup.run(cluster, &server, &tenants))).await?);
    }
    Ok(Report::new(json!({ "backups": made }), table(&made, context)))
}

fn table(made: &[Made], context: &Context) -> String {
    let mut table = Table::new(&["tenant", "point", "at", "read", "stored", "files", "bad pages"]);
    for backup in made {
        for point in &backup.points {
            let files: u64 = point.filestore.values().map(|files| files.files).sum();
            table.row([
                point.tenant.as_str().into(),
                when::in_zone(point.time, &context_zone(context)).into(),
                point.lsn.to_string().into(),
                Cell::number(shown(backup.bytes)),
                Cell::number(shown(backup.stored_bytes)),
                Cell::number(files),
                Cell::number(backup.bad_pages),
            ]);
        }
    }
    table.draw(context.page)
}

fn context_zone(context: &Context) -> jiff::tz::TimeZone {
    context.config().map_or(jiff::tz::TimeZone::UTC, |config| config.estate.timezone.clone())
}
