//! What a command says about freshness: one sentence, two JSON fields, and a warning where the store was rolled back.

use serde_json::json;

use super::outcome::Report;
use crate::failure::Failure;
use crate::repo::witness::{Freshness, Verdict};
use crate::watch::{Finding, Level};

/// What to do about a store that was rolled back.
const NEXT: &str =
    "find out what happened to the store; nothing newer than it shows is restored without --accept-rollback";

/// As [`told`], of a command whose work is to find such a thing: it fails where nothing worse was found before.
#[must_use]
pub fn judged(report: Report, verdict: &Verdict) -> Report {
    let report = told(report, verdict);
    match verdict.refuse() {
        Err(failure) if report.failure.is_none() => report.failed(Failure { next: NEXT.to_owned(), ..failure }),
        _ => report,
    }
}

/// Adds it to a report.
#[must_use]
pub fn told(mut report: Report, verdict: &Verdict) -> Report {
    report.json.insert("freshness".to_owned(), json!(verdict.freshness));
    report.json.insert("witness".to_owned(), json!(verdict));
    report.text += &format!("{}\n", verdict.said());
    if verdict.freshness == Freshness::RolledBack {
        report.findings.extend(verdict.refuse().err().map(|failure| Finding {
            level: Level::Warning,
            object: failure.object,
            what: failure.cause,
            next: NEXT.to_owned(),
        }));
    }
    report
}
