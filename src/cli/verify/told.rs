//! What a verification says at its end.

use serde_json::json;

use super::scopes_said;
use crate::cli::context::Context;
use crate::cli::outcome::Report;
use crate::cli::table::{Cell, Table};
use crate::cli::terminal::{Tone, harmless};
use crate::config::size::shown;
use crate::config::{Config, when};
use crate::failure::{Failure, Kind};
use crate::repo::verify::{self, Amount, Finding, Grade, Options};
use crate::watch;

/// More pieces of damage than this are counted and not listed: a store that lost everything says so in a line.
const MOST: usize = 1000;

/// The report; failed, with `Integrity`, where there is damage.
pub fn report(
    found: &verify::Report,
    options: &Options,
    copy: Option<&str>,
    context: &Context,
    config: &Config,
) -> Report {
    let (damage, warnings): (Vec<&Finding>, Vec<&Finding>) =
        found.findings.iter().partition(|finding| finding.grade == Grade::Damage);
    let speaks_for = speaks_for(options, copy);
    let mut report = Report::new(
        json!({
            "level": options.level, "part": options.part.to_string(), "speaks_for": speaks_for,
            "scopes": options.scopes, "copy": copy, "counts": found.counts, "newest_seen": found.newest,
            "damage_count": damage.len(), "damage": damage.iter().take(MOST).collect::<Vec<_>>(),
        }),
        text(found, &damage, &speaks_for, context, config),
    );
    report.findings.extend(warnings.iter().take(MOST).map(|finding| watch::Finding {
        level: watch::Level::Warning,
        object: finding.object.clone(),
        what: format!("{}: {}", finding.what.said(), finding.detail),
        next: finding.next.to_owned(),
    }));
    match failure(&damage) {
        Some(failure) => report.failed(failure),
        None => report,
    }
}

fn speaks_for(options: &Options, copy: Option<&str>) -> String {
    let level: u8 = options.level.into();
    let whole = match level {
        0 => String::new(),
        _ => format!(", {} of the bytes", options.part),
    };
    let place = copy.map(|name| format!(", copy {name}")).unwrap_or_default();
    let since = options.not_since.map(|since| format!(", not those found right since {since}")).unwrap_or_default();
    format!("level {level}{whole}{since}, {}{place}", scopes_said(&options.scopes))
}

fn failure(damage: &[&Finding]) -> Option<Failure> {
    let first = damage.first()?;
    let more = match damage.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more pieces of damage"),
    };
    let cause = format!("{}: {}{more}", first.what.said(), first.detail);
    Some(Failure::new(Kind::Integrity, first.object.clone(), cause, first.next))
}

fn text(found: &verify::Report, damage: &[&Finding], speaks_for: &str, context: &Context, config: &Config) -> String {
    let counts = &found.counts;
    let mut table = Table::new(&["", "objects", "bytes"]);
    let mut row = |what: &str, amount: Amount| {
        if amount.objects > 0 {
            table.row([what.into(), Cell::number(amount.objects), Cell::number(shown(amount.bytes))]);
        }
    };
    row("named by live envelopes", counts.named);
    row("read, and right", counts.right);
    row("opened, and right", counts.opened);
    for (whose, amount) in &counts.not_opened {
        row(&format!("not opened: sealed to {whose}"), *amount);
    }
    row("named by nobody", counts.unnamed);
    let mut text = table.draw(context.page);
    for finding in damage.iter().take(MOST) {
        let what = context.page.paint(Tone::Bad, &format!("{} {}", harmless(&finding.object), finding.what.said()));
        text += &format!("{what}\n  {}\n  next: {}\n", harmless(&finding.detail), finding.next);
    }
    text +=
        &format!("{} envelopes, {} of them lapsed; this speaks for {speaks_for}\n", counts.envelopes, counts.lapsed);
    if let Some(newest) = found.newest {
        text += &format!("newest seen: {}\n", when::in_zone(newest, &config.estate.timezone));
    }
    text
}
