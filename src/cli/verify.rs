//! `lifeboat verify`: the repository, level by level.
//!
//! Levels 0 and 1 read no key and no identity. The catalog says what was read when; without one everything counts as never read. A run
//! that found damage ends with 6, and says of what it speaks: the level, the part, the scopes it could not open.

mod told;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::SignedDuration;

use super::context::Context;
use super::outcome::Report;
use super::recall::{self, Remembered};
use super::{fresh, key, open};
use crate::catalog::{CatalogError, VerifiedRow};
use crate::config::store::PRIMARY;
use crate::config::{Config, duration};
use crate::failure::{Failure, chain};
use crate::ids::{Lsn, Scope};
use crate::point::PointBody;
use crate::postgres::wal::extent;
use crate::repo::envelope::Wal;
use crate::repo::reader::Reader;
use crate::repo::verify::{self, Knows, LastRead, Level, Options, Outcome, Part, Seen, Shortest};
use crate::watch::{self, Finding};

/// Verify the repository: what is there, whether it is what it was, whether it opens
///
/// Level 0 looks at envelopes, chains, listing and locks; level 1 reads bytes and checks their SHA-256; level 2 opens what the keys of
/// this machine open. Each includes those before it; levels 0 and 1 need no key.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat verify --level 0                  every day: envelopes, listing, locks\n  \
    lifeboat verify --part next/30             every day: in a month every byte was read\n  \
    lifeboat verify --part 3/30                a part by name, the same on every machine\n  \
    lifeboat verify --level 2 --scope tenant/acme\n  \
    lifeboat verify --copy second              a second copy instead")]
pub struct Args {
    /// 0 envelopes and listing, 1 bytes, 2 contents
    #[arg(long, value_name = "LEVEL", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub level: u8,
    /// Read only part N of M, chosen by name, or with `next/M` the Mth part that was not read for longest [default: all]
    #[arg(long, value_name = "N/M")]
    pub part: Option<Part>,
    /// Do not read again what this machine found right within this time
    #[arg(long, value_name = "AGE", value_parser = duration::duration)]
    pub since: Option<SignedDuration>,
    /// Only this scope, and the WAL it is in; may be given several times
    #[arg(long = "scope", value_name = "SCOPE")]
    pub scopes: Vec<Scope>,
    /// A copy instead of the estate's store
    #[arg(long, value_name = "NAME")]
    pub copy: Option<String>,
}

/// Verifies. Needs a key for level 2 only.
///
/// # Errors
/// Of the store. Damage is `Integrity`, with everything that was found in the report.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let level = match args.level {
        0 => Level::Listing,
        1 => Level::Bytes,
        _ => Level::Contents,
    };
    let reader = open::verifier(context, &config, args.copy.as_deref(), level == Level::Contents).await?;
    let memory = recall::remembering(context, &config, &*reader.store).await;
    let mut options = options(&args, &config, level);
    if let Some(since) = args.since {
        options.not_since = context.clock.now().checked_sub(since).ok();
    }
    if let Some(memory) = &memory {
        remember(memory, &mut options).await;
    }
    let found = verify::run(&reader, &options, &*context.watch).await?;
    if let Some(memory) = &memory
        && let Err(error) = note(memory, &reader, &options, &found, context).await
    {
        tracing::warn!(error = chain(&error), "what was read cannot be noted in the catalog");
    }
    let mut report = told::report(&found, &options, args.copy.as_deref(), context, &config);
    renew_keys(&mut report, context, &config).await;
    if args.copy.as_deref().is_some_and(|name| name != PRIMARY) {
        return Ok(report);
    }
    let about = open::about(config.tenants.values());
    match open::freshness(context, &config, &about).await {
        Ok(verdict) => Ok(fresh::judged(report, &verdict)),
        // What was found counts all the same.
        Err(Failure { object, cause, next, .. }) => {
            let what = format!("whether it shows the newest could not be asked: {cause}");
            report.findings.push(Finding { level: watch::Level::Warning, object, what, next });
            Ok(report)
        }
    }
}

/// The locks of key files roll on with every run. When they do not, what was verified still counts.
async fn renew_keys(report: &mut Report, context: &Context, config: &Config) {
    match key::renew::roll(context, config).await {
        Ok(None) => {}
        Ok(Some(renewed)) => {
            report.json.insert("keys_renewed".to_owned(), renewed.files.into());
            report.text += &format!("renewed the locks of {} key files\n", renewed.files);
        }
        Err(Failure { object, cause, next, .. }) => {
            let what = format!("the locks of key files were not renewed: {cause}");
            report.findings.push(Finding { level: watch::Level::Warning, object, what, next });
        }
    }
}

fn options(args: &Args, config: &Config, level: Level) -> Options {
    let retention = &config.retention;
    let point = retention.classes.values().min().copied().unwrap_or(retention.pitr);
    Options {
        level,
        part: args.part.unwrap_or_default(),
        not_since: None,
        scopes: args.scopes.iter().cloned().collect(),
        shortest: Shortest { point, stretch: retention.pitr.min(point), tail: retention.tail_lock },
        last_read: LastRead::new(),
        seen: Vec::new(),
        knows: Knows { span: Arc::new(span), point: Arc::new(point_body) },
    }
}

/// What the catalog knows. Nothing is left out on its word but the reading again of what was just read.
async fn remember(memory: &Remembered, options: &mut Options) {
    let known = async { Ok::<_, CatalogError>((memory.0.verified().await?, memory.0.seen().await?)) };
    match known.await {
        Ok((verified, seen)) => {
            let right = verified.into_iter().filter(|row| is_right(&row.outcome));
            options.last_read = right.map(|row| (row.name, row.time)).collect();
            let seen = seen.into_iter();
            options.seen =
                seen.map(|row| Seen { name: row.name, sha256: row.sha256, locked_until: row.locked_until }).collect();
        }
        Err(error) => tracing::warn!(error = chain(&error), "the catalog cannot be read"),
    }
}

fn is_right(outcome: &str) -> bool {
    [Outcome::Right, Outcome::Healed].iter().any(|right| outcome == word(*right))
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Right => "right",
        Outcome::Healed => "healed",
        Outcome::Altered => "altered",
        Outcome::Gone => "gone",
    }
}

async fn note(
    memory: &Remembered,
    reader: &Reader,
    options: &Options,
    found: &verify::Report,
    context: &Context,
) -> Result<(), CatalogError> {
    let prefixes: Vec<String> = match options.scopes.is_empty() {
        true => vec![String::new()],
        false => options.scopes.iter().map(|scope| format!("{scope}/")).chain(["wal/".to_owned()]).collect(),
    };
    memory.mirror(&prefixes, &found.envelopes).await?;
    let time = context.clock.now();
    let rows = found.read.iter().map(|checked| VerifiedRow {
        name: checked.name.clone(),
        version: checked.version.as_ref().map(|version| version.0.clone()).unwrap_or_default(),
        sha256: checked.sha256,
        level: options.level.into(),
        time,
        outcome: word(checked.outcome).to_owned(),
    });
    memory.0.note_verified(&rows.collect::<Vec<_>>()).await?;
    let now = reader.store.now().await.unwrap_or(time);
    memory.0.tidy(now).await
}

/// A share of WAL lies inside its stretch, and the cluster's covers all of it.
fn span(wal: &Wal, scope: &Scope, plain: &[u8]) -> Result<(), String> {
    let part = extent::decode(plain).map_err(|error| chain(&error))?;
    let mut at: Option<Lsn> = None;
    for extent in &part.extents {
        if extent.at < wal.from || extent.end() > wal.to {
            return Err(format!("an extent at {} lies outside its stretch, {} to {}", extent.at, wal.from, wal.to));
        }
        if matches!(scope, Scope::Cluster(_)) && extent.at != at.unwrap_or(wal.from) {
            return Err(format!("the cluster's WAL is not whole before {}", extent.at));
        }
        at = Some(extent.end());
    }
    match scope {
        Scope::Cluster(_) if at.unwrap_or(wal.from) != wal.to => {
            Err(format!("the cluster's WAL ends before {}", wal.to))
        }
        _ => Ok(()),
    }
}

fn point_body(body: &serde_json::Value) -> Result<(), String> {
    serde_json::from_value::<PointBody>(body.clone()).map(|_| ()).map_err(|error| error.to_string())
}

/// The scopes of a run, in words.
fn scopes_said(scopes: &BTreeSet<Scope>) -> String {
    let named: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    if named.is_empty() { "every scope".to_owned() } else { named.join(", ") }
}
