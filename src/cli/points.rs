//! `lifeboat points`: what can be restored.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::context::Context;
use super::fresh;
use super::open;
use super::outcome::Report;
use super::table::{Cell, Table};
use crate::config::size::shown;
use crate::config::{Config, Role, When, when};
use crate::failure::{self, Failure, Kind};
use crate::ids::Scope;
use crate::point::stored::Stored;
use crate::repo::envelope::Verified;
use crate::repo::error::RepoError;
use crate::repo::hold;
use crate::repo::reader::What;
use crate::restore::Restore;
use crate::restore::around::Commit;
use crate::store::StoreError;
use crate::store::either::Place;
use crate::watch::{Finding, Level};

/// Show what can be restored: windows, gaps, sizes, locks
///
/// Around a time: the commits and what they touched, to find the moment before the damage.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat points                           every tenant\n  \
    lifeboat points acme\n  \
    lifeboat points acme --around 2026-11-21T14:05")]
pub struct Args {
    /// One tenant [default: all]
    pub tenant: Option<String>,
    /// A time (with its offset, or in the estate's zone), an LSN, a restore point's name, or `latest`
    #[arg(long, value_name = "WHEN")]
    pub around: Option<String>,
}

/// Lists what there is; needs no key. Around a moment it opens the tenant's WAL, and needs the keys.
///
/// # Errors
/// Of the store; around a moment, as a restore to it.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    match (&args.tenant, &args.around) {
        (Some(tenant), Some(around)) => show_around(context, &config, tenant, around).await,
        (None, Some(_)) => {
            let next = "name it: `lifeboat points TENANT --around WHEN`";
            Err(Failure::new(Kind::Usage, "--around", "is about one tenant", next))
        }
        (tenant, None) => list(context, &config, tenant.as_deref()).await,
    }
}

async fn list(context: &Context, config: &Config, tenant: Option<&str>) -> Result<Report, Failure> {
    let reader = open::keyless_reader(context, config, Role::Reader).await?;
    let ids: Vec<String> = match tenant {
        Some(id) => vec![config.tenant(id)?.id.clone()],
        None => config.tenants.keys().cloned().collect(),
    };
    let asked = ids.iter().filter_map(|id| config.tenants.get(id));
    let verdict = open::freshness(context, config, &open::about(asked)).await?;
    let places = open::places(context, config, Role::Reader).await?;
    let (mut tenants, mut text) = (serde_json::Map::new(), String::new());
    let mut report = Report::default();
    for id in ids {
        let scope = Scope::Tenant(id.clone());
        let stored = Stored::read(&reader, std::slice::from_ref(&scope)).await?;
        let sets = reader.envelopes(&scope, What::Sets).await?;
        for (name, error) in stored.bad.iter().chain(&sets.bad) {
            report.findings.push(not_believed(name, &failure::chain(error)));
        }
        for fork in &stored.forks {
            report.findings.push(not_believed(&fork.names.join(" and "), "they tell different WAL"));
        }
        let holds = hold::list(&*reader.store, Some(&scope)).await?;
        let found = Found::of(context, &places, config, &scope).await?;
        text += &drawn(&id, &stored, &sets.good, &found, config, context);
        for hold in &holds {
            text +=
                &format!("  on hold since {}: {}\n", when::in_zone(hold.opened, &config.estate.timezone), hold.reason);
        }
        let mut json = json_of(&stored, &sets.good, &found);
        if let Some(fields) = json.as_object_mut() {
            fields.insert("holds".to_owned(), json!(holds));
        }
        tenants.insert(id, json);
    }
    report.json = json!({ "tenants": tenants }).as_object().cloned().unwrap_or_default();
    report.text = text;
    Ok(fresh::told(report, &verdict))
}

/// In which places each point lies.
#[derive(Debug, Default)]
struct Found(BTreeMap<String, Vec<String>>);

impl Found {
    async fn of(context: &Context, places: &[Place], config: &Config, scope: &Scope) -> Result<Self, Failure> {
        let mut found = Self::default();
        for place in places {
            match open::reader_at(context, config, place).await?.envelopes(scope, What::Points).await {
                Ok(listing) => {
                    for point in listing.good {
                        found.0.entry(point.name.clone()).or_default().push(place.name.clone());
                    }
                }
                // That it does not answer has been said.
                Err(RepoError::Store(StoreError::Unreachable { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    fn at(&self, point: &str) -> &[String] {
        self.0.get(point).map(Vec::as_slice).unwrap_or_default()
    }
}

fn not_believed(name: &str, why: &str) -> Finding {
    Finding {
        level: Level::Warning,
        object: name.to_owned(),
        what: format!("is not believed: {why}"),
        next: "look at it and at the second copy; nothing is restored from it".to_owned(),
    }
}

fn json_of(stored: &Stored, sets: &[Verified], found: &Found) -> Value {
    let points: Vec<Value> = stored
        .points
        .iter()
        .map(|point| {
            json!({ "envelope": point.envelope.name, "locked_until": point.envelope.locked_until,
                "lsn": point.facts.lsn, "time": point.facts.time, "class": point.facts.class, "base": point.facts.label,
                "found_in": found.at(&point.envelope.name) })
        })
        .collect();
    let sets: Vec<Value> = sets
        .iter()
        .map(|set| {
            json!({ "envelope": set.name, "source": set.source, "time": set.time, "bytes": stored_bytes(set),
                "locked_until": set.locked_until })
        })
        .collect();
    let gaps: Vec<Value> = stored.gaps.iter().map(|gap| json!({ "from": gap.from, "to": gap.to })).collect();
    json!({ "windows": stored.windows(), "gaps": gaps, "points": points, "sets": sets })
}

/// What a set's envelope names in the store, packs that it shares with others included.
fn stored_bytes(set: &Verified) -> u64 {
    set.objects.iter().map(|object| object.bytes).sum::<u64>() + set.bytes
}

fn drawn(id: &str, stored: &Stored, sets: &[Verified], found: &Found, config: &Config, context: &Context) -> String {
    let zone = &config.estate.timezone;
    let windows = stored.windows();
    let mut text = format!("{id}\n");
    if windows.is_empty() {
        return text + "  nothing can be restored: there is no recovery point\n";
    }
    for window in &windows {
        let (from, to) = (when::in_zone(window.from.time, zone), when::in_zone(window.to.time, zone));
        text += &format!("  any moment from {from} ({}) to {to} ({})\n", window.from.lsn, window.to.lsn);
    }
    for gap in &stored.gaps {
        text += &format!("  no WAL between {} and {}\n", gap.from, gap.to);
    }
    let mut table = Table::new(&["  point", "lsn", "class", "locked until", "sets", "in"]);
    for point in &stored.points {
        let named = |set: &&Verified| point.envelope.objects.iter().any(|object| object.name == set.name);
        table.row([
            format!("  {}", when::in_zone(point.facts.time, zone)).into(),
            point.facts.lsn.to_string().into(),
            point.facts.class.as_str().into(),
            when::in_zone(point.envelope.locked_until, zone).into(),
            Cell::number(shown(sets.iter().filter(named).map(stored_bytes).sum())),
            found.at(&point.envelope.name).join(", ").into(),
        ]);
    }
    text + &table.draw(context.page)
}

async fn show_around(context: &Context, config: &Config, tenant: &str, around: &str) -> Result<Report, Failure> {
    let tenant = config.tenant(tenant)?;
    let restore = Restore {
        config,
        reader: open::reader(context, config).await?,
        clock: context.clock.clone(),
        watch: Arc::clone(&context.watch),
    };
    let asked = When::parse(around, &config.estate.timezone)?;
    let found = restore.around(&tenant.id, asked).await?;
    let mut table = Table::new(&["", "commit", "restore --at gives the state before it", "touched"]);
    // What autovacuum notes about tables is no damage; JSON has it all.
    let by_people = |commit: &&Commit| commit.touched.iter().any(|(name, _)| name != "pg_statistic");
    for commit in found.commits.iter().filter(by_people) {
        let touched: Vec<String> =
            commit.touched.iter().take(6).map(|(name, count)| format!("{name} {count}")).collect();
        let time = commit.time.map(|time| when::in_zone(time, &config.estate.timezone)).unwrap_or_default();
        let side = if commit.before < found.lsn { "" } else { ">" };
        table.row([side.into(), time.into(), commit.before.to_string().into(), touched.join(", ").into()]);
    }
    let text = format!("{}commits marked > come after {}\n", table.draw(context.page), found.asked);
    Ok(Report::new(json!(found), text))
}
