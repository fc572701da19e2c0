//! From "acme at five past two" to the sets, the WAL and the keys that this takes. Reads envelopes, and the cluster's share of
//! the stretch in which a time's first later commit lies; opens nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::missing;
use crate::config::{Cluster, Config, When};
use crate::failure::{Failure, Kind};
use crate::ids::{DbOid, Lsn, Scope};
use crate::point::bound;
use crate::point::stored::{Stored, StoredPoint, StoredRun};
use crate::point::target::{Target, resolve};
use crate::point::window::{self, PointFacts, Window};
use crate::postgres::wal::commits::{CommitScan, Event, EventKind};
use crate::postgres::wal::version::Version;
use crate::postgres::wal::{Geometry, extent, merge};
use crate::repo::envelope::{Binding, Verified};
use crate::repo::reader::Reader;
use crate::watch::Finding;

/// What to bring back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Tenant(String),
    /// Every tenant of a cluster, with all keys.
    Cluster(String),
}

/// What it takes.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub subject: Subject,
    pub asked: When,
    pub lsn: Lsn,
    /// The points of the base backup to start from: the tenant's, or one of each tenant.
    pub points: Vec<StoredPoint>,
    pub facts: PointFacts,
    /// The WAL from the base backup's start to the target, in order.
    pub wal: Vec<Verified>,
    /// The databases to bring back, and every scope that their bytes were sealed to on the way.
    pub databases: BTreeSet<DbOid>,
    pub scopes: BTreeSet<Scope>,
    pub windows: Vec<Window>,
    /// What a person must hear although the restore goes on.
    pub findings: Vec<Finding>,
}

impl Chosen {
    #[must_use]
    pub fn cluster_scope(&self) -> Scope {
        Scope::Cluster(self.facts.cluster.clone())
    }
}

/// Chooses.
///
/// # Errors
/// `Usage` when the target lies outside every window (with the windows there are) or there is no point at all;
/// `Integrity` when an envelope that is needed is damaged, the WAL has a fork, or part of it is quarantined.
pub async fn choose(config: &Config, reader: &Reader, subject: Subject, asked: When) -> Result<Chosen, Failure> {
    let tenants = tenants_of(config, &subject)?;
    let mut stored = Stored::read(reader, &tenants).await?;
    stored.refuse_forks()?;
    if matches!(subject, Subject::Cluster(_)) {
        // The base backup of some tenants lacks the others' files, and their WAL would have nothing to be replayed over.
        stored.points.retain(|point| point.facts.whole);
    }
    let (points, runs) = (stored.facts(), stored.plain_runs());
    let windows = window::windows(&points, &runs);
    if windows.is_empty() {
        return Err(missing::nothing_there(&named(&subject), &stored));
    }
    let found = find(reader, &stored, &asked, &windows).await?;
    let Some((run, lsn)) = found else {
        missing::refuse_hidden(&stored, &asked, &windows)?;
        return Err(outside(config, &subject, &asked, &windows));
    };
    if asked == When::Latest {
        missing::refuse_hidden(&stored, &asked, &windows)?;
    }
    let chosen_run = stored.runs.get(run).ok_or_else(|| outside(config, &subject, &asked, &windows))?;
    let base = window::base_for(&points, &chosen_run.run, lsn)
        .cloned()
        .ok_or_else(|| outside(config, &subject, &asked, &windows))?;
    let wal = covering(chosen_run, base.start_lsn, lsn);
    refuse_quarantined(&wal, lsn)?;
    let of_base = |point: &&StoredPoint| point.facts.label == base.label;
    let points: Vec<StoredPoint> = newest_of_each(stored.points.iter().filter(of_base));
    let (databases, scopes) = bound(&subject, &base, &chosen_run.envelopes, lsn);
    let findings = missing::findings(&stored, &asked, &base);
    Ok(Chosen { subject, asked, lsn, points, facts: base, wal, databases, scopes, windows, findings })
}

fn tenants_of(config: &Config, subject: &Subject) -> Result<Vec<Scope>, Failure> {
    Ok(match subject {
        Subject::Tenant(id) => vec![Scope::Tenant(config.tenant(id)?.id.clone())],
        Subject::Cluster(name) => {
            let cluster: &Cluster = config.cluster(name)?;
            let ours = config.tenants.values().filter(|tenant| tenant.cluster == cluster.name);
            ours.map(|tenant| Scope::Tenant(tenant.id.clone())).collect()
        }
    })
}

/// Two points of one base backup differ in when files were captured; the newest of each tenant serves.
fn newest_of_each<'a>(points: impl Iterator<Item = &'a StoredPoint>) -> Vec<StoredPoint> {
    let newest: BTreeMap<&Scope, &StoredPoint> = points.map(|point| (&point.scope, point)).collect();
    newest.into_values().cloned().collect()
}

async fn find(
    reader: &Reader,
    stored: &Stored,
    asked: &When,
    windows: &[Window],
) -> Result<Option<(usize, Lsn)>, Failure> {
    let Some(point) = stored.points.first() else { return Ok(None) };
    let geometry = geometry(&point.facts)?;
    match resolve(asked, windows, &stored.plain_runs()) {
        Target::Outside => Ok(None),
        Target::At { run, lsn } => Ok(Some((run, lsn))),
        Target::FirstCommitAfter { run, piece, time, not_before } => {
            let Some(stored_run) = stored.runs.get(run) else { return Ok(None) };
            for envelope in stored_run.envelopes.iter().skip(piece) {
                let later = events(reader, envelope, geometry).await?.into_iter().find(|event| {
                    matches!(event.kind, EventKind::Commit { .. })
                        && event.start >= not_before
                        && event.time.is_some_and(|then| then > time)
                });
                if let Some(event) = later {
                    return Ok(Some((run, event.start)));
                }
            }
            Ok(Some((run, stored_run.run.to())))
        }
        Target::Named { name } => {
            for window in windows.iter().rev() {
                let Some(stored_run) = stored.runs.get(window.run) else { continue };
                for envelope in stored_run.envelopes.iter().rev() {
                    let named = events(reader, envelope, geometry).await?.into_iter().rev().find(|event| {
                        matches!(&event.kind, EventKind::RestorePoint { name: found } if *found == name)
                            && event.end >= window.from.lsn
                    });
                    if let Some(event) = named {
                        return Ok(Some((window.run, event.end)));
                    }
                }
            }
            Ok(None)
        }
    }
}

/// Commits, aborts and restore points of a stretch, from the cluster's share alone.
///
/// # Errors
/// When the cluster's key is not here, or the span is damaged.
pub async fn events(reader: &Reader, envelope: &Verified, geometry: Geometry) -> Result<Vec<Event>, Failure> {
    let Some(wal) = &envelope.wal else { return Ok(Vec::new()) };
    let Some(span) = reader.span(envelope, &envelope.scope).await? else { return Ok(Vec::new()) };
    let part = extent::decode(&span)?;
    let bytes = merge::merge(&part, &[])?;
    CommitScan::new(geometry, wal.from, &bytes).map(|event| Ok(event?)).collect()
}

/// How the WAL of a point's cluster is written.
///
/// # Errors
/// When its PostgreSQL major is not known here.
pub fn geometry(facts: &PointFacts) -> Result<Geometry, Failure> {
    Ok(Geometry {
        version: Version::of_major(facts.server_version / 10_000)?,
        segment_bytes: facts.segment_bytes,
        timeline: facts.timeline,
        system_id: Some(facts.system_id),
    })
}

fn covering(run: &StoredRun, from: Lsn, to: Lsn) -> Vec<Verified> {
    let touches = |envelope: &&Verified| envelope.wal.as_ref().is_some_and(|wal| wal.to > from && wal.from < to);
    run.envelopes.iter().filter(touches).cloned().collect()
}

fn refuse_quarantined(wal: &[Verified], lsn: Lsn) -> Result<(), Failure> {
    let bad = wal.iter().find(|envelope| envelope.wal.as_ref().is_some_and(|wal| wal.quarantined && wal.from < lsn));
    match bad {
        None => Ok(()),
        Some(envelope) => Err(Failure::new(
            Kind::Integrity,
            envelope.name.clone(),
            "holds WAL of a kind that nobody knows; a restore past it would not be what the source was",
            "restore to a time before it, or from a base backup taken after it",
        )),
    }
}

/// The databases to bring back and the scopes their bytes lie under: by the bindings in the WAL, each with its interval.
fn bound(subject: &Subject, base: &PointFacts, run: &[Verified], lsn: Lsn) -> (BTreeSet<DbOid>, BTreeSet<Scope>) {
    let bindings: Vec<Binding> =
        run.iter().filter_map(|envelope| envelope.wal.as_ref()).flat_map(|wal| wal.bindings.clone()).collect();
    let owner = match subject {
        Subject::Tenant(id) => Some(Scope::Tenant(id.clone())),
        Subject::Cluster(_) => None,
    };
    let mut found = bound::bound(&bindings, owner.as_ref(), base.start_lsn, lsn);
    found.scopes.insert(Scope::Cluster(base.cluster.clone()));
    found.scopes.extend(owner);
    (found.databases, found.scopes)
}

fn outside(config: &Config, subject: &Subject, asked: &When, windows: &[Window]) -> Failure {
    let zone = &config.estate.timezone;
    let shown: Vec<String> = windows
        .iter()
        .map(|window| {
            let edge =
                |edge: &window::Edge| format!("{} ({})", crate::config::when::in_zone(edge.time, zone), edge.lsn);
            format!("{} to {}", edge(&window.from), edge(&window.to))
        })
        .collect();
    Failure::new(
        Kind::Usage,
        named(subject),
        format!("{} lies outside every window; there is {}", asked.understood(zone), shown.join(", and ")),
        "choose a moment inside a window (`lifeboat points` lists them)",
    )
}

fn named(subject: &Subject) -> String {
    match subject {
        Subject::Tenant(id) => format!("tenant {id}"),
        Subject::Cluster(name) => format!("cluster {name}"),
    }
}
