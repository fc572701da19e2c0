//! Somebody watching: how the library tells progress and findings without printing.
//!
//! The library calls; `cli/` draws bars, keeps the list for `--json`, and turns findings into exit code 3.

use std::sync::{Mutex, PoisonError};

/// Something a person should know although the work went on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// `notice` changes nothing; `warning` makes the outcome `warnings` (exit code 3).
    pub level: Level,
    /// What it is about: a database, a file, a block.
    pub object: String,
    pub what: String,
    /// What to do about it; empty when there is nothing to do.
    pub next: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Notice,
    Warning,
}

/// Receives what happens, from any thread; must be quick.
pub trait Watch: Send + Sync {
    /// A new stage begins; `total_bytes` where it is known.
    fn stage(&self, name: &str, total_bytes: Option<u64>);
    /// `bytes` more of the current stage are done.
    fn advance(&self, bytes: u64);
    fn finding(&self, finding: Finding);
}

/// Keeps the findings and draws nothing: for tests and for callers that only want the list.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<Vec<Finding>>);

impl Quiet {
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Watch for Quiet {
    fn stage(&self, _name: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn finding(&self, finding: Finding) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }
}

/// Reports a warning.
pub fn warn(watch: &dyn Watch, object: impl Into<String>, what: impl Into<String>, next: impl Into<String>) {
    watch.finding(Finding { level: Level::Warning, object: object.into(), what: what.into(), next: next.into() });
}

/// Reports a notice.
pub fn note(watch: &dyn Watch, object: impl Into<String>, what: impl Into<String>) {
    watch.finding(Finding { level: Level::Notice, object: object.into(), what: what.into(), next: String::new() });
}
