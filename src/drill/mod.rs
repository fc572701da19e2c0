//! A drill: one tenant restored into a sandbox, asked whether it works and who can get in, judged, and destroyed.
//!
//! | file | noun |
//! |---|---|
//! | [`rehearse`] | the order of steps, from the target to the sandbox's end |
//! | [`place`], [`ear`] | its folder; listeners on the host that nothing may reach |
//! | [`probe`], [`probes`] | one check; all of them, a file each |
//! | [`expected`], [`identity`] | the roster it is compared with; what differences mean |
//! | [`odoo`], [`http`] | a real Odoo inside; speaking to it from outside |
//! | [`verdict`], [`grid`] | the judgement, pure; who by where |
//! | [`pseudonym`], [`evidence`], [`report`] | people without names; the record for machines; the page for people |
//!
//! Everything restored is hostile. A drill changes nothing outside its own folder and the evidence folder, and what it could not
//! ask it never claims.

pub mod ear;
pub mod evidence;
pub mod expected;
pub mod grid;
pub mod http;
pub mod identity;
pub mod odoo;
pub mod place;
pub mod probe;
pub mod probes;
pub mod pseudonym;
mod rehearse;
pub mod report;
pub mod verdict;

use std::collections::BTreeSet;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use crate::access::compare::Difference;
use crate::config::When;
use crate::failure::{Failure, Kind};
use crate::ids::{Lsn, Scope};
use crate::point::stored::Stored;
use crate::restore::{Reached, Restore};

use grid::Grid;
use identity::Domain;
use probe::{Layer, Probe};
use pseudonym::Pseudonyms;
use verdict::{Judgement, Reason, Verdict};

/// What a drill is told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The moment to go back to; none: the newest point's own, for which files and access were captured.
    pub at: Option<When>,
    /// Leaves the sandbox's folder (data directory, files, logs) after the server has stopped.
    pub keep: bool,
}

/// How long things took, in seconds from the drill's begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Clocks {
    /// Until the recovered server answered.
    pub server_up: Option<f64>,
    /// Until a canary was signed in: time to first access.
    pub first_sign_in: Option<f64>,
    pub total: f64,
}

/// The worst cell of the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WorstCell {
    pub domain: Domain,
    pub layer: Layer,
    pub state: grid::State,
}

/// What a drill found: `drill --json`, and with more detail the evidence.
#[derive(Debug, Clone, Serialize)]
pub struct DrillReport {
    pub tenant: String,
    pub estate: String,
    pub verdict: Judgement,
    pub layers: BTreeSet<Layer>,
    pub reasons: Vec<Reason>,
    pub grid: Grid,
    pub worst_cell: Option<WorstCell>,
    pub probes: Vec<Probe>,
    /// Who differs how, without names.
    pub differences: Vec<Difference>,
    pub clocks: Clocks,
    pub asked: String,
    pub target: Option<Lsn>,
    pub reached: Option<Reached>,
    pub databases: Vec<String>,
    pub scopes_opened: BTreeSet<Scope>,
    pub objects_read: u64,
    pub bytes_read: u64,
    pub server_version: Option<u32>,
    pub lifeboat_version: String,
    pub began: Timestamp,
    pub ended: Timestamp,
    /// The sandbox's folder, where it was to be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
    pub evidence: PathBuf,
    pub report: PathBuf,
    /// Names for the terminal of whoever ran the drill; never written.
    #[serde(skip)]
    pub names: Pseudonyms,
    /// Set where the restore itself failed.
    #[serde(skip)]
    pub broke: Option<Failure>,
}

impl DrillReport {
    /// The failure that a drill with this verdict ends with: `SURVIVES` and `DEGRADED` are none.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        if let Some(failure) = &self.broke {
            let next = format!("{}; the evidence is {}", failure.next, self.evidence.display());
            return Some(Failure { next, ..failure.clone() });
        }
        let kind = match self.verdict.verdict {
            Verdict::Survives | Verdict::Degraded => return None,
            Verdict::Invalid => Kind::Integrity,
            Verdict::Exposed | Verdict::LockedOut | Verdict::Inconclusive => Kind::NotReached,
        };
        let why = self.reasons.first().map_or(self.verdict.verdict.meaning(), |reason| reason.detail.as_str());
        let cause = format!("{}: {why}", self.verdict.verdict.name());
        Some(Failure::new(kind, format!("drill of {}", self.tenant), cause, format!("read {}", self.report.display())))
    }
}

/// Drills one tenant, and writes its evidence.
///
/// Expected flow: the machine has the tenant's and the cluster's keys, and a sandbox's tools.
/// Guarantees: nothing of the restored data is left when it returns, unless it was to be kept; there is evidence of every drill that
/// began, also of one whose restore failed.
/// Errors: `Usage` before anything began (tenant, command, password), or when the evidence cannot be written. A bad verdict is no error.
pub async fn run(restore: &Restore<'_>, tenant: &str, options: &Options) -> Result<DrillReport, Failure> {
    let tenant = restore.config.tenant(tenant)?;
    if let Some(command) = &restore.config.drill.odoo {
        odoo::check(command)?;
        for sign_in in &tenant.signin {
            let _readable = sign_in.password.read()?;
        }
    }
    let began = restore.clock.now();
    let mut rehearsal = rehearse::Rehearsal::new(restore, tenant);
    let broke = Box::pin(rehearsal.run(options)).await.err();
    let mut report = rehearsal.into_report(began, broke);
    evidence::write(&restore.config.drill.dir, &mut report)?;
    Ok(report)
}

/// The newest point's own moment.
async fn newest_point(restore: &Restore<'_>, tenant: &str) -> Result<When, Failure> {
    let stored = Stored::read(&restore.reader, &[Scope::Tenant(tenant.to_owned())]).await?;
    // Without a point the restore says so, and why.
    Ok(stored.points.last().map_or(When::Latest, |point| When::Lsn(point.facts.lsn)))
}
