//! `lifeboat drill`: a rehearsed restore with probes, a verdict and evidence.

use std::sync::Arc;

use serde_json::{Value, json};

use super::context::Context;
use super::open;
use super::outcome::Report;
use super::table::{Cell, Table};
use super::terminal::{Page, Tone, harmless};
use crate::config::When;
use crate::drill::probe::Outcome;
use crate::drill::verdict::Verdict;
use crate::drill::{self, DrillReport, Options};
use crate::failure::{Failure, Kind};
use crate::restore::Restore;
use crate::watch::warn;

/// Rehearse a restore in a sandbox and prove that people can still get in
///
/// Without --at it goes back to the newest recovery point, for which files and access were captured. The verdict is one of
/// SURVIVES and DEGRADED (exit code 0 or 3), INCONCLUSIVE, LOCKED_OUT, EXPOSED (4), INVALID (6). Evidence and a page for
/// people are written to [drill] dir.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat drill                            every tenant, at its newest recovery point\n  \
    lifeboat drill acme --at 2026-11-21T14:05+01:00\n  \
    lifeboat drill acme --keep                leave the restored folder to look around")]
pub struct Args {
    /// Tenants of the configuration [default: all]
    #[arg(value_name = "TENANT")]
    pub tenants: Vec<String>,
    /// The moment to go back to, as for `restore` [default: the newest recovery point]
    #[arg(long, value_name = "WHEN")]
    pub at: Option<String>,
    /// Where it runs
    #[arg(long, value_enum, default_value_t = Where::Local)]
    pub sandbox: Where,
    /// Leave the sandbox's folder (data directory, files, logs) when all in it has stopped
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Where {
    /// On this machine
    Local,
}

/// Drills the tenants one after the other; what one comes to does not keep the others from their turn.
///
/// # Errors
/// When nothing was drilled: no configuration, no such tenant, no store. A bad verdict is in the report.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let Where::Local = args.sandbox;
    let config = context.config()?;
    let at = args.at.as_deref().map(|at| When::parse(at, &config.estate.timezone)).transpose()?;
    let options = Options { at, keep: args.keep };
    let mut tenants: Vec<String> = if args.tenants.is_empty() {
        config.tenants.keys().cloned().collect()
    } else {
        args.tenants.iter().map(|id| Ok(config.tenant(id)?.id.clone())).collect::<Result<_, Failure>>()?
    };
    tenants.dedup();
    if tenants.is_empty() {
        let next = "add [tenants.NAME] to the configuration";
        return Err(Failure::new(Kind::Usage, config.path.display().to_string(), "names no tenant", next));
    }
    let mut drills = Vec::new();
    for tenant in &tenants {
        // A reader for each: what one drill opened must not be counted as another's.
        let restore = Restore {
            config: &config,
            reader: open::drill_reader(context, &config, tenant).await?,
            clock: context.clock.clone(),
            watch: Arc::clone(&context.watch),
        };
        let drilled = Box::pin(drill::run(&restore, tenant, &options)).await;
        if let Ok(drill) = &drilled
            && drill.verdict.verdict == Verdict::Degraded
        {
            let why = drill.reasons.first().map_or("", |reason| &reason.detail);
            let next = format!("read {}", drill.report.display());
            warn(&*context.watch, format!("drill of {tenant}"), format!("DEGRADED: {why}"), next);
        }
        drills.push((tenant.clone(), drilled));
    }
    Ok(told(drills, context))
}

type Drilled = (String, Result<DrillReport, Failure>);

/// One tenant's fields stand at the top; several stand in `drills`.
fn told(drills: Vec<Drilled>, context: &Context) -> Report {
    let failure = worst(&drills);
    let mut objects: Vec<Value> = drills.iter().map(|(tenant, drilled)| object(tenant, drilled)).collect();
    let text = drills.iter().map(|(_, drilled)| text(drilled, context.page)).collect::<Vec<_>>().join("\n");
    let fields = match (objects.len(), objects.pop()) {
        (1, Some(only)) => only,
        (_, last) => json!({ "drills": objects.into_iter().chain(last).collect::<Vec<_>>() }),
    };
    let report = Report::new(fields, text);
    match failure {
        Some(failure) => report.failed(failure),
        None => report,
    }
}

fn failure_of(drilled: &Result<DrillReport, Failure>) -> Option<Failure> {
    match drilled {
        Ok(drill) => drill.failure(),
        Err(failure) => Some(failure.clone()),
    }
}

/// The failure that a person must see first: damage, then what somebody can do or cannot, then the rest.
fn worst(drills: &[Drilled]) -> Option<Failure> {
    let rank = |failure: &Failure| match failure.kind {
        Kind::Integrity => 0,
        Kind::NotReached => 1,
        Kind::Refused => 2,
        Kind::Failed => 3,
        Kind::Usage => 4,
        Kind::Unreachable => 5,
    };
    drills.iter().filter_map(|(_, drilled)| failure_of(drilled)).min_by_key(rank)
}

fn object(tenant: &str, drilled: &Result<DrillReport, Failure>) -> Value {
    let failure = failure_of(drilled);
    let mut value = match drilled {
        Ok(drill) => json!(drill),
        Err(_) => json!({ "tenant": tenant, "verdict": Value::Null }),
    };
    if let Some(Failure { kind, object, cause, next }) = failure {
        value["failure"] = json!({ "kind": kind, "object": object, "cause": cause, "next": next });
    }
    value
}

fn text(drilled: &Result<DrillReport, Failure>, page: Page) -> String {
    let Ok(drill) = drilled else { return String::new() };
    // Names are for whoever sits here, not for a log that collects what is printed.
    let named = |text: &str| {
        let text = if page.width.is_some() { drill.names.show_in(text) } else { text.to_owned() };
        harmless(&text)
    };
    let judged = &drill.verdict;
    let tone = match judged.verdict {
        Verdict::Survives => Tone::Good,
        Verdict::Degraded | Verdict::Inconclusive => Tone::Warning,
        Verdict::Invalid | Verdict::Exposed | Verdict::LockedOut => Tone::Bad,
    };
    let mut out =
        format!("{}  {}\n{}\n", page.paint(tone, &judged.to_string()), drill.tenant, judged.verdict.meaning());
    for reason in &drill.reasons {
        out += &format!("  {} {} ({})\n", reason.verdict.name(), named(&reason.detail), reason.probe);
    }
    out.push('\n');
    out += &probes(drill, page);
    for difference in &drill.differences {
        out += &format!("  {}\n", named(&difference.detail));
    }
    let clock = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1} s"));
    let clocks = &drill.clocks;
    out += &format!(
        "\nserver up {}, first sign-in {}, all {:.1} s\n",
        clock(clocks.server_up),
        clock(clocks.first_sign_in),
        clocks.total
    );
    out += &format!("report    {}\nevidence  {}\n", drill.report.display(), drill.evidence.display());
    if let Some(kept) = &drill.kept {
        out += &format!("kept      {} (restored data in clear: remove it when you are done)\n", kept.display());
    }
    out
}

fn probes(drill: &DrillReport, page: Page) -> String {
    let mut table = Table::new(&["probe", "outcome", "evidence", "what was seen"]);
    for probe in &drill.probes {
        let tone = match probe.outcome {
            Outcome::Passed => Tone::Good,
            Outcome::Failed => Tone::Bad,
            Outcome::NotAsked => Tone::Faint,
        };
        let grade = probe.grade.map_or("", |grade| grade.name());
        let outcome = Cell::toned(probe.outcome.words(), tone);
        table.row([probe.id.as_str().into(), outcome, grade.into(), probe.detail.as_str().into()]);
    }
    table.draw(page)
}
