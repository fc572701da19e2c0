//! `lifeboat doctor`: is everything set up so that backups are made, kept and restorable? Changes nothing, except that
//! `--attack` tries the store's locks at canaries of its own.
//!
//! Every check is made whatever the others came to. A complaint is a warning (exit code 3); what cannot be used at all is a
//! failure of its kind, the first one found; a store that lies is refused (5).

use serde_json::{Value, json};

use super::context::Context;
use super::outcome::Report;
use super::table::{Cell, Table};
use super::terminal::Tone;
use crate::config::{Role, duration};
use crate::failure::Failure;
use crate::watch::{Finding, Level};

mod attack;
mod clusters;
mod credentials;
mod keys;
mod store;

/// Check the configuration, servers, keys, clocks, credentials and the store
///
/// Changes nothing. With --attack, the store's locks are tried at objects made for it, which lapse; the settings of the
/// bucket are tried too, and put back where the store lets them be changed, which no honest one does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat doctor\n  \
    lifeboat doctor --attack\n  \
    lifeboat doctor --attack --profile bucket-admin    what an administrator's credential could do")]
pub struct Args {
    /// Try what an attacker would try, at canaries; backup and stream refuse a store that fails
    #[arg(long)]
    pub attack: bool,
    /// The AWS profile that attacks: the more it may, the more is proven [default: the writer's]
    #[arg(long, value_name = "NAME", requires = "attack")]
    pub profile: Option<String>,
    /// How long the canaries stay locked
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::duration, requires = "attack")]
    pub lock: jiff::SignedDuration,
    /// Judge this machine's credential as this role's [default: those of [store.profiles], else the writer's where the
    /// writer bundle is, else the reader's]
    #[arg(long, value_name = "ROLE", value_parser = role)]
    pub role: Option<Role>,
}

/// A role by its name.
///
/// # Errors
/// With the names there are.
pub(super) fn role(text: &str) -> Result<Role, String> {
    let names = Role::ALL.map(Role::name).join(", ");
    Role::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| format!("there is: {names}"))
}

/// Looks at everything.
///
/// # Errors
/// When the configuration cannot be read. What else is wrong is in the report.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let mut checks = Checks::default();
    checks.fine("configuration", config.path.display(), "can be read");
    clusters::check(&config, &mut checks).await;
    keys::check(&config, context, &mut checks);
    keys::stores(&config, context, &mut checks).await;
    let looked = store::check(&config, context, &args, &mut checks).await;
    let tried = match (args.attack, looked) {
        (true, true) => attack::run(&config, context, &args, &mut checks).await,
        _ => None,
    };
    Ok(checks.report(context, tried))
}

/// What was checked, and what came of it.
#[derive(Default)]
struct Checks {
    rows: Vec<(&'static str, String, State, String)>,
    findings: Vec<Finding>,
    failure: Option<Failure>,
    /// More fields for `--json`.
    fields: serde_json::Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Warning,
    Failed,
}

impl Checks {
    fn fine(&mut self, check: &'static str, object: impl ToString, detail: impl Into<String>) {
        self.rows.push((check, object.to_string(), State::Ok, detail.into()));
    }

    fn complain(
        &mut self,
        check: &'static str,
        object: impl ToString,
        what: impl Into<String>,
        next: impl Into<String>,
    ) {
        let (object, what) = (object.to_string(), what.into());
        self.rows.push((check, object.clone(), State::Warning, what.clone()));
        self.findings.push(Finding { level: Level::Warning, object, what, next: next.into() });
    }

    /// The first failure is the command's; the others are shown.
    fn fail(&mut self, check: &'static str, failure: Failure) {
        self.rows.push((check, failure.object.clone(), State::Failed, failure.cause.clone()));
        self.failure.get_or_insert(failure);
    }

    fn report(mut self, context: &Context, tried: Option<attack::Tried>) -> Report {
        let mut table = Table::new(&["check", "object", "state", "what"]);
        for (check, object, state, detail) in &self.rows {
            let (word, tone) = match state {
                State::Ok => ("ok", Tone::Good),
                State::Warning => ("warning", Tone::Warning),
                State::Failed => ("failed", Tone::Bad),
            };
            table.row([Cell::from(*check), object.as_str().into(), Cell::toned(word, tone), detail.as_str().into()]);
        }
        let mut text = table.draw(context.page);
        let rows = self.rows.iter().map(|(check, object, state, detail)| {
            json!({ "check": check, "object": object, "state": state, "detail": detail })
        });
        self.fields.insert("checks".to_owned(), rows.collect());
        if let Some(tried) = tried {
            text += &tried.text(context.page);
            self.fields.insert("drill".to_owned(), tried.json());
        }
        let report = Report { findings: self.findings, ..Report::new(Value::Object(self.fields), text) };
        match self.failure {
            Some(failure) => report.failed(failure),
            None => report,
        }
    }
}
