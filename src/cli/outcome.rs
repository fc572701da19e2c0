//! What a command comes to: for people, for scripts, and as an exit code.
//!
//! | outcome | exit code |
//! |---|---|
//! | `ok` | 0 |
//! | `warnings` | 3: done, and a finding says what a person should know |
//! | `refused` | 5 |
//! | `failed` | the failure's kind: 1, 2, 4, 6, 7 |

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::terminal::{Page, Tone, harmless};
use crate::failure::{Failure, Kind};
use crate::watch::{Finding, Level};

/// Done, with warnings.
const WARNINGS: u8 = 3;

/// What a command has to say at its end.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The command's own fields for `--json`.
    pub json: Map<String, Value>,
    /// Tables and sentences for stdout, lines ended.
    pub text: String,
    /// Findings besides those that went through the watch.
    pub findings: Vec<Finding>,
    /// Set when the command has something to report and failed all the same: a restore that did not reach its target.
    pub failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    Warnings,
    Failed,
    Refused,
}

impl Report {
    /// A report of a command that did what it was asked.
    ///
    /// `fields` must be a JSON object, as `json!({...})` makes it; anything else is put under `result`.
    #[must_use]
    pub fn new(fields: Value, text: impl Into<String>) -> Self {
        let json = match fields {
            Value::Object(fields) => fields,
            other => Map::from_iter([("result".to_owned(), other)]),
        };
        Self { json, text: text.into(), ..Self::default() }
    }

    /// The same report of a command that did not.
    #[must_use]
    pub fn failed(self, failure: Failure) -> Self {
        Self { failure: Some(failure), ..self }
    }

    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match &self.failure {
            Some(failure) if failure.kind == Kind::Refused => Outcome::Refused,
            Some(_) => Outcome::Failed,
            None if self.findings.iter().any(|finding| finding.level == Level::Warning) => Outcome::Warnings,
            None => Outcome::Ok,
        }
    }

    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (&self.failure, self.outcome()) {
            (Some(failure), _) => failure.kind as u8,
            (None, Outcome::Warnings) => WARNINGS,
            (None, _) => 0,
        }
    }

    /// The one object of `--json`. What is agreed for every command comes last, so that no field can hide it.
    #[must_use]
    pub fn to_json(&self, command: &str) -> Value {
        let mut object = self.json.clone();
        let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
        set("command", json!(command));
        set("outcome", json!(self.outcome()));
        set("exit_code", json!(self.exit_code()));
        set("findings", json!(self.findings));
        if let Some(Failure { kind, object, cause, next }) = &self.failure {
            set("error", json!({ "kind": kind, "object": object, "cause": cause, "next": next }));
        }
        Value::Object(object)
    }
}

impl From<Failure> for Report {
    fn from(failure: Failure) -> Self {
        Self::default().failed(failure)
    }
}

/// A failure as people read it on stderr.
#[must_use]
pub fn told(failure: &Failure, page: Page) -> String {
    let error = page.paint(Tone::Bad, "error:");
    let line = format!("{}: {}", harmless(&failure.object), harmless(&failure.cause));
    match failure.next.as_str() {
        "" => format!("{error} {line}\n"),
        next => format!("{error} {line}\n  next: {}\n", harmless(next)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: Kind) -> Report {
        Failure::new(kind, "tenant acme", "no such tenant", "check the name").into()
    }

    #[test]
    fn every_kind_has_its_exit_code_and_only_refusals_are_refused() {
        let kinds = [
            (Kind::Failed, 1, Outcome::Failed),
            (Kind::Usage, 2, Outcome::Failed),
            (Kind::NotReached, 4, Outcome::Failed),
            (Kind::Refused, 5, Outcome::Refused),
            (Kind::Integrity, 6, Outcome::Failed),
            (Kind::Unreachable, 7, Outcome::Failed),
        ];
        for (kind, code, outcome) in kinds {
            assert_eq!((failed(kind).exit_code(), failed(kind).outcome()), (code, outcome), "{kind:?}");
        }
        assert_eq!(Report::default().exit_code(), 0);
    }

    #[test]
    fn a_warning_makes_exit_code_3_a_notice_does_not_and_a_failure_goes_before_both() {
        let finding = |level| Finding { level, object: "a".into(), what: "b".into(), next: String::new() };
        let mut report = Report { findings: vec![finding(Level::Notice)], ..Report::default() };
        assert_eq!((report.exit_code(), report.outcome()), (0, Outcome::Ok));
        report.findings.push(finding(Level::Warning));
        assert_eq!((report.exit_code(), report.outcome()), (3, Outcome::Warnings));
        let report = report.failed(Failure::new(Kind::NotReached, "acme", "not reached", "try later"));
        assert_eq!((report.exit_code(), report.outcome()), (4, Outcome::Failed));
    }

    #[test]
    fn the_agreed_fields_are_there_and_cannot_be_hidden() {
        let report = Report::new(json!({ "tenant": "acme", "outcome": "fine", "exit_code": 0 }), "");
        let report = report.failed(Failure::new(Kind::NotReached, "acme", "not reached", "try later"));
        let expected = json!({
            "command": "restore", "outcome": "failed", "exit_code": 4, "tenant": "acme", "findings": [],
            "error": { "kind": "not_reached", "object": "acme", "cause": "not reached", "next": "try later" },
        });
        assert_eq!(report.to_json("restore"), expected);
    }

    #[test]
    fn people_read_object_cause_and_next_step() {
        let failure = Failure::new(Kind::Usage, "tenant \u{1b}x", "no such tenant", "check the name");
        assert_eq!(told(&failure, Page::PLAIN), "error: tenant \\u{1b}x: no such tenant\n  next: check the name\n");
    }
}
