//! `lifeboat hold` and `unhold`: nothing of a tenant lapses while an incident is open.

use serde_json::json;

use super::context::Context;
use super::open;
use super::outcome::Report;
use super::table::{Cell, Table};
use crate::config::size::shown;
use crate::config::{Role, when};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::repo::hold::{self, Covered, Freed, Hold};
use crate::watch::{Finding, Level};

/// Keep everything of a tenant while an incident is open
///
/// Sets a legal hold on all that its points and WAL need, and opens a hold that expire honours. Run --renew at least daily: what is
/// written during the incident is locked as always, and held from then on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat hold acme --reason INC-4711\n  \
    lifeboat hold --renew                     every open hold, for a CronJob\n  \
    lifeboat hold                             the open holds\n  \
    lifeboat unhold acme")]
pub struct Args {
    /// The tenant; also one that is no longer in the configuration
    #[arg(requires = "reason")]
    pub tenant: Option<String>,
    /// Why, for whoever finds it later; stored in clear
    #[arg(long, value_name = "TEXT", requires = "tenant")]
    pub reason: Option<String>,
    /// Cover what was written since, for every open hold
    #[arg(long, conflicts_with = "tenant")]
    pub renew: bool,
}

/// End a tenant's hold
///
/// Lifts what no other open hold needs, and says what becomes free and when. Locks run on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lifeboat unhold acme")]
pub struct UnholdArgs {
    /// The tenant
    pub tenant: String,
}

/// Opens, renews or shows.
///
/// # Errors
/// The store's; a hold that could not be completed is open, and is completed by running it again.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let reader = open::keyless_reader(context, &config, Role::Holder).await?;
    let mut done: Vec<(Hold, Option<Covered>)> = Vec::new();
    if let (Some(tenant), Some(reason)) = (&args.tenant, &args.reason) {
        let (hold, covered) = hold::open(&reader, &scope_of(tenant)?, reason).await?;
        done.push((hold, Some(covered)));
    } else {
        for hold in hold::list(&*reader.store, None).await? {
            let covered = if args.renew { Some(hold::renew(&reader, &hold).await?) } else { None };
            done.push((hold, covered));
        }
    }
    let mut table = Table::new(&["on hold", "since", "objects", "bytes", "reason"]);
    let mut findings = Vec::new();
    for (hold, covered) in &done {
        let number = |number: Option<String>| Cell::number(number.unwrap_or_default());
        table.row([
            hold.scope.to_string().into(),
            when::in_zone(hold.opened, &config.estate.timezone).into(),
            number(covered.map(|covered| covered.objects.to_string())),
            number(covered.map(|covered| shown(covered.bytes))),
            hold.reason.as_str().into(),
        ]);
        if let Some(missing) = covered.map(|covered| covered.missing).filter(|missing| *missing > 0) {
            findings.push(Finding {
                level: Level::Warning,
                object: hold.scope.to_string(),
                what: format!("{missing} objects that its envelopes name are not in the store and cannot be held"),
                next: "run `lifeboat verify`, and look for them in the second copy".to_owned(),
            });
        }
    }
    let holds: Vec<_> = done.iter().map(|(hold, covered)| json!({ "hold": hold, "covered": covered })).collect();
    let text = if done.is_empty() { "nothing is on hold\n".to_owned() } else { table.draw(context.page) };
    Ok(Report { findings, ..Report::new(json!({ "holds": holds }), text) })
}

/// Lifts a tenant's hold.
///
/// # Errors
/// `Usage` when there is none; the store's.
pub async fn lift(args: UnholdArgs, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let reader = open::keyless_reader(context, &config, Role::Holder).await?;
    let scope = scope_of(&args.tenant)?;
    let holds = hold::list(&*reader.store, Some(&scope)).await?;
    let Some(hold) = holds.first() else {
        let next = "see `lifeboat hold` for what is";
        return Err(Failure::new(Kind::Usage, scope.to_string(), "is not on hold", next));
    };
    let freed = hold::close(&reader, hold).await?;
    let text = drawn(&freed, &scope, &config.estate.timezone, context);
    Ok(Report::new(json!({ "hold": hold, "freed": freed }), text))
}

fn drawn(freed: &Freed, scope: &Scope, zone: &jiff::tz::TimeZone, context: &Context) -> String {
    let mut table = Table::new(&["point", "free from"]);
    for (name, until) in &freed.points {
        let free = until.map_or_else(|| "now".to_owned(), |until| when::in_zone(until, zone));
        table.row([name.as_str().into(), free.into()]);
    }
    let mut text = if freed.points.is_empty() { String::new() } else { table.draw(context.page) };
    let (objects, bytes) = (freed.objects, shown(freed.bytes));
    text += &format!("{scope} is no longer on hold: {objects} objects, {bytes}\n");
    text += &format!("{} of them are free now; the others when their locks end", freed.free_now);
    if let Some(last) = freed.last {
        text += &format!(", the last {}", when::in_zone(last, zone));
    }
    text += "\n";
    if freed.shared > 0 {
        text += &format!("{} objects stay held for other tenants on hold\n", freed.shared);
    }
    text
}

fn scope_of(tenant: &str) -> Result<Scope, Failure> {
    format!("tenant/{tenant}").parse().map_err(|error: crate::ids::IdError| {
        Failure::new(Kind::Usage, tenant, error.to_string(), "name a tenant, as in `lifeboat points`")
    })
}
