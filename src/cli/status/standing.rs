//! How one tenant stands against its objectives.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::table::Cell;
use crate::cli::terminal::Tone;
use crate::config::{Config, Tenant};
use crate::failure::Failure;
use crate::ids::Scope;
use crate::point::stored::Stored;
use crate::repo::envelope::{EnvelopeKind, Verified};
use crate::repo::reader::{Reader, What};
use crate::watch::{Finding, Level};

/// How one tenant stands, by the store's clock.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    /// Seconds of commits that would be lost now: since the server's clock at the end of the stored WAL.
    data_at_risk_seconds: Option<i64>,
    /// Seconds since the filestore was last taken or shipped.
    files_at_risk_seconds: Option<i64>,
    last_point: Option<Timestamp>,
    last_drill: Option<LastDrill>,
    /// WAL that exists only as tails, and for how long.
    tails_only_seconds: Option<i64>,
    forks: usize,
    /// Names where envelopes of points, sets or WAL lie and none is believed.
    not_believed: usize,
    /// Pieces of WAL that were stored and cannot be used.
    hidden: usize,
}

#[derive(Debug, Clone, Serialize)]
struct LastDrill {
    time: Timestamp,
    verdict: String,
}

/// A stretch that is stored as tails only for longer than this means that no stretch is being written.
const TAILS_ONLY: i64 = 3600;

impl Standing {
    /// Reads it from the store; no key is used.
    ///
    /// # Errors
    /// The store's.
    pub async fn of(reader: &Reader, config: &Config, tenant: &Tenant, now: Timestamp) -> Result<Self, Failure> {
        let scope = Scope::Tenant(tenant.id.clone());
        let stored = Stored::read(reader, std::slice::from_ref(&scope)).await?;
        let age = |time: Timestamp| now.duration_since(time).as_secs().max(0);
        let newest = stored.runs.iter().max_by_key(|run| run.run.clock());
        let sets = reader.envelopes(&scope, What::Sets).await?;
        let of_files = |set: &&Verified| set.source.starts_with("filestore-") || set.source.starts_with("files-");
        // A run has a tail only where no stretch says the same: at its end, or where a stretch was lost.
        let oldest_tail = newest.and_then(|run| run.envelopes.iter().find(|e| e.kind == EnvelopeKind::Tail));
        Ok(Self {
            data_at_risk_seconds: newest.and_then(|run| run.run.clock()).map(age),
            files_at_risk_seconds: match tenant.filestore {
                Some(_) => sets.good.iter().filter(of_files).map(|set| set.time).max().map(age),
                None => None,
            },
            last_point: stored.points.iter().map(|point| point.facts.time).max(),
            last_drill: last_drill(&config.drill.dir, &tenant.id),
            tails_only_seconds: oldest_tail.map(|tail| age(tail.time)),
            forks: stored.forks.len(),
            not_believed: stored.bad.len() + sets.bad.len(),
            hidden: stored.hidden.len(),
        })
    }

    /// What a person should know.
    #[must_use]
    pub fn judge(&self, tenant: &Tenant) -> Vec<Finding> {
        let mut list = Vec::new();
        let mut warn = |what: String, next: &str| {
            list.push(Finding {
                level: Level::Warning,
                object: format!("tenant {}", tenant.id),
                what,
                next: next.to_owned(),
            });
        };
        if self.last_point.is_none() {
            warn("has no recovery point".into(), "run `lifeboat backup`");
        }
        let objective = tenant.rpo.map(|rpo| rpo.as_secs());
        let missed = |at_risk: Option<i64>| objective.zip(at_risk).is_some_and(|(limit, seconds)| seconds > limit);
        if missed(self.data_at_risk_seconds) {
            let what =
                format!("{} of data are at risk, more than the objective allows", ago(self.data_at_risk_seconds));
            warn(what, "check that `lifeboat stream` runs");
        }
        if self.tails_only_seconds.is_some_and(|seconds| seconds > TAILS_ONLY) {
            let what = format!("WAL stored {} ago exists only as tails", ago(self.tails_only_seconds));
            warn(what, "check that `lifeboat stream` runs; it extends their locks when it starts");
        }
        if self.not_believed > 0 || self.hidden > 0 {
            let what =
                format!("{} envelopes are not believed, {} pieces of WAL are hidden", self.not_believed, self.hidden);
            warn(what, "see `lifeboat points`, and run `lifeboat verify`");
        }
        if self.forks > 0 {
            warn("two writers have stored different WAL".into(), "see `lifeboat points`; nothing is restored past it");
        }
        list
    }

    /// The row of the table.
    #[must_use]
    pub fn row(&self, tenant: &Tenant) -> Vec<Cell> {
        let limit = tenant.rpo.map(|rpo| rpo.as_secs());
        let toned = |seconds: Option<i64>| {
            let late = limit.zip(seconds).is_some_and(|(limit, seconds)| seconds > limit);
            Cell::toned(ago(seconds), if late { Tone::Warning } else { Tone::Plain })
        };
        let drill = self.last_drill.as_ref();
        vec![
            tenant.id.as_str().into(),
            toned(self.data_at_risk_seconds),
            Cell::from(ago(self.files_at_risk_seconds)),
            limit.map(|seconds| ago(Some(seconds))).unwrap_or_else(|| "none set".into()).into(),
            self.last_point.map(|time| time.to_string()).unwrap_or_else(|| "never".into()).into(),
            drill.map(|drill| drill.time.to_string()).unwrap_or_else(|| "never".into()).into(),
            drill.map(|drill| drill.verdict.clone()).unwrap_or_default().into(),
        ]
    }
}

/// Seconds as people say them.
pub fn ago(seconds: Option<i64>) -> String {
    match seconds {
        None => "-".into(),
        Some(seconds @ 0..120) => format!("{seconds} s"),
        Some(seconds @ 120..7200) => format!("{} min", seconds / 60),
        Some(seconds @ 7200..172_800) => format!("{} h", seconds / 3600),
        Some(seconds) => format!("{} d", seconds / 86_400),
    }
}

/// The newest evidence of a tenant on this machine (`<tenant>-<time>.json`).
fn last_drill(folder: &Path, tenant: &str) -> Option<LastDrill> {
    let prefix = format!("{tenant}-");
    let names = std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let of_tenant = |name: &String| {
        let stamp = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".json"));
        stamp.is_some_and(|stamp| stamp.starts_with(|c: char| c.is_ascii_digit()))
    };
    let newest = names.filter(of_tenant).max()?;
    let text = std::fs::read(folder.join(newest)).ok()?;
    let evidence: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let field = |name: &str| evidence.get(name).and_then(serde_json::Value::as_str);
    Some(LastDrill { time: field("time")?.parse().ok()?, verdict: field("verdict")?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ages_are_said_in_the_unit_a_person_would_use() {
        let said: Vec<_> = [0, 119, 120, 7199, 7200, 172_800].map(|seconds| ago(Some(seconds))).into();
        assert_eq!(said, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
        assert_eq!(ago(None), "-");
    }

    #[test]
    fn the_newest_evidence_counts_and_only_the_tenants_own() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, verdict: &str| {
            let text = json!({ "time": "2026-11-22T08:00:00Z", "verdict": verdict }).to_string();
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        put("acme-20261121T080000Z.json", "LOCKED_OUT");
        put("acme-20261122T080000Z.json", "SURVIVES[odoo]");
        put("acme-eu-20261123T080000Z.json", "INVALID");
        assert_eq!(last_drill(folder.path(), "acme").unwrap().verdict, "SURVIVES[odoo]");
        assert!(last_drill(folder.path(), "globex").is_none());
    }
}
