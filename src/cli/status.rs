//! `lifeboat status`: the objectives and how they stand.

mod copies;
mod standing;

use serde_json::json;

use super::context::Context;
use super::fresh;
use super::key::{self, standing::of_erasures};
use super::open;
use super::outcome::Report;
use super::table::Table;
use super::trusted;
use crate::config::store::PRIMARY;
use crate::config::{Config, Role};
use crate::failure::{Failure, Kind};
use crate::repo::hold;
use crate::store::honesty::verdict;

use copies::Reach;
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
    let ledger = open::ledger(context, &config, &*reader.store).await?;
    report.findings.extend(of_erasures(&ledger.erasures()));
    let keys = key::standing::Standing::of(context, &config, &ledger).await?;
    // Of the store alone: what the reader reads may be the store and its copies.
    let primary = open::places(context, &config, Role::Reader).await?.into_iter().find(|place| place.name == PRIMARY);
    let store = primary.map_or_else(|| reader.store.clone(), |primary| primary.store);
    let (promises, place) = (store.promises(), store.place());
    let (record, gate) = trusted::judged(context, &config, &place);
    report.findings.extend(trusted::finding(gate, &place));
    let attacked = record.map(|record| json!({ "time": record.time, "verdict": verdict(&record.trials) }));
    let mut fields =
        json!({ "tenants": tenants, "store": { "place": place, "promises": promises, "drill": attacked } });
    fields["erasures"] = json!(ledger.erasures());
    if let Some(keys) = keys {
        fields["keys"] = keys.json();
        report.findings.extend(keys.findings);
    }
    report.json = fields.as_object().cloned().unwrap_or_default();
    report.text = table.draw(context.page);
    let holds = hold::list(&*reader.store, None).await?;
    for hold in &holds {
        report.text += &format!("on hold: {} since {}: {}\n", hold.scope, hold.opened, hold.reason);
    }
    report.json.insert("holds".to_owned(), json!(holds));
    behind(&mut report, context, &config).await?;
    for caveat in &promises.caveats {
        report.text += &format!("store: {caveat}\n");
    }
    let verdict = open::freshness(context, &config, &open::about(config.tenants.values())).await?;
    Ok(fresh::told(report, &verdict))
}

/// How far each copy is behind.
async fn behind(report: &mut Report, context: &Context, config: &Config) -> Result<(), Failure> {
    if config.copies.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["copy", "newest point", "WAL behind", "by"]);
    let (mut copies, mut store) = (serde_json::Map::new(), Reach::default());
    for place in open::places(context, config, Role::Reader).await? {
        match Reach::of(context, &place, config).await {
            Ok(reach) if place.name == PRIMARY => store = reach,
            Ok(reach) => {
                let standing = copies::Standing::of(&place, reach, &store);
                table.row(standing.row(&place.name));
                copies.insert(place.name, json!(standing));
            }
            // That it does not answer has been said.
            Err(failure) if failure.kind == Kind::Unreachable => {}
            Err(failure) => return Err(failure),
        }
    }
    for name in config.copies.keys().filter(|name| !copies.contains_key(*name)).cloned().collect::<Vec<_>>() {
        table.row([name.as_str().into(), "out of reach".into()]);
        copies.insert(name, serde_json::Value::Null);
    }
    report.text += &table.draw(context.page);
    report.json.insert("copies".to_owned(), copies.into());
    Ok(())
}
