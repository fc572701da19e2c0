//! `lifeboat status`: the objectives and how they stand.

mod standing;

use serde_json::json;

use super::context::Context;
use super::open;
use super::outcome::Report;
use super::table::Table;
use super::trusted;
use crate::config::Role;
use crate::failure::Failure;
use crate::store::honesty::verdict;

use standing::Standing;

/// Show the objectives and how they stand
///
/// For each tenant: what would be lost now, and how long ago a restore was proven.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat status\n  \
    lifeboat status --json | jq .outcome")]
pub struct Args {}

/// Looks; needs no key.
///
/// # Errors
/// Of the store. A missed objective is a warning: exit code 3.
pub async fn run(_args: Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let reader = open::keyless_reader(context, &config, Role::Reader).await?;
    let now = reader.store.now().await?;
    let mut report = Report::default();
    let mut tenants = serde_json::Map::new();
    let head = ["tenant", "data at risk", "files at risk", "objective", "last point", "last drill", "verdict"];
    let mut table = Table::new(&head);
    for tenant in config.tenants.values() {
        let standing = Standing::of(&reader, &config, tenant, now).await?;
        report.findings.extend(standing.judge(tenant));
        table.row(standing.row(tenant));
        tenants.insert(tenant.id.clone(), json!(standing));
    }
    let (promises, place) = (reader.store.promises(), reader.store.place());
    let (record, gate) = trusted::judged(context, &config, &place);
    report.findings.extend(trusted::finding(gate, &place));
    let drill = record.map(|record| json!({ "time": record.time, "verdict": verdict(&record.trials) }));
    report.json = json!({ "tenants": tenants, "store": { "place": place, "promises": promises, "drill": drill } })
        .as_object()
        .cloned()
        .unwrap_or_default();
    report.text = table.draw(context.page);
    for caveat in &promises.caveats {
        report.text += &format!("store: {caveat}\n");
    }
    Ok(report)
}
