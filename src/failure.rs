//! What a person is told when something did not work, and what a script can branch on.
//!
//! Every module has its own small error enum; on the way out each becomes a [`Failure`]: a kind (which is the
//! exit code), the object, the cause, and the next step. Nobody matches on text.

use std::fmt;

/// The documented kinds; the number is the process's exit code (`docs/CLI.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something went wrong that none of the other kinds names.
    Failed = 1,
    /// The command, the configuration or the target asked for makes no sense here.
    Usage = 2,
    /// The target was not reached, or the verdict is below what was asked.
    NotReached = 4,
    /// Policy or approval says no.
    Refused = 5,
    /// Missing, altered, or sealed with a key that is not here.
    Integrity = 6,
    /// The store or the server is out of reach; try again.
    Unreachable = 7,
}

/// A failure with its object, its cause and the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    /// What it happened to: an object's name, a file, a server, a flag.
    pub object: String,
    /// Why, in one sentence, lower case, no final stop.
    pub cause: String,
    /// What to do now, in one sentence.
    pub next: String,
}

impl Failure {
    pub fn new(kind: Kind, object: impl Into<String>, cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind, object: object.into(), cause: cause.into(), next: next.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.cause)
    }
}

impl std::error::Error for Failure {}

/// An error and everything below it as one line: `outer: inner: innermost`.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        below = error.source();
    }
    line
}

/// A task that panicked: a defect of lifeboat's own, told as such.
#[must_use]
pub fn panicked(error: tokio::task::JoinError) -> Failure {
    Failure::new(
        Kind::Failed,
        "lifeboat",
        format!("a worker stopped unexpectedly: {error}"),
        "run the command again; report it with the log if it happens twice",
    )
}
