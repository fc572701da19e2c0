//! What a restore would take: scopes and keys, bytes, disk; and whether there is room. Nothing is run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::Restore;
use super::assemble::{self, Opened};
use super::choose::{Chosen, Subject, choose};
use crate::config::When;
use crate::failure::{Failure, Kind};
use crate::ids::{Lsn, Scope};
use crate::point::stored::is_heartbeat;
use crate::repo::envelope::Verified;
use crate::repo::name::{Name, SetPart};
use crate::repo::reader::Reader;

/// The plan, for people and `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    pub tenant: String,
    pub asked: String,
    pub target: Lsn,
    /// The base backup it starts from, and the WAL to replay after it.
    pub base: String,
    pub replay_bytes: u64,
    pub scopes: BTreeSet<Scope>,
    /// Which of each scope's keys: several where it was rotated between the base backup and the target.
    pub epochs: BTreeMap<Scope, BTreeSet<u32>>,
    /// Scopes of which a key is not on this machine.
    pub keys_missing: BTreeSet<Scope>,
    pub fetch_bytes: u64,
    /// Disk for the data directory and its WAL; the filestore comes on top.
    pub disk_bytes: u64,
    /// By round rates; a plan's guess, not a promise.
    pub guessed_seconds: u64,
}

/// Bytes of WAL that replay goes through in a second, and bytes of files that are fetched and laid: low, so that the guess errs
/// on the slow side. Round numbers, not measurements: `guessed_seconds` says what it is.
const REPLAY_RATE: u64 = 100 << 20;
const FETCH_RATE: u64 = 100 << 20;
/// Starting the sandbox, recovery, tidying and stopping, whatever the size.
const FIXED_SECONDS: u64 = 8;

impl Restore<'_> {
    /// Plans; opens the point and set bodies where the keys are here.
    ///
    /// # Errors
    /// As choosing; a missing key is in the plan, not an error.
    pub async fn plan(&self, subject: Subject, asked: When) -> Result<Plan, Failure> {
        let tenant = match &subject {
            Subject::Tenant(id) => id.clone(),
            Subject::Cluster(name) => format!("cluster {name}"),
        };
        let chosen = choose(self.config, &self.reader, subject, asked).await?;
        let epochs = epochs_of(&self.reader, &chosen).await?;
        let missing = |(scope, epochs): &(&Scope, &BTreeSet<u32>)| {
            epochs.iter().any(|epoch| !self.reader.identities.has(scope, *epoch))
        };
        let keys_missing: BTreeSet<Scope> = epochs.iter().filter(missing).map(|(scope, _)| scope.clone()).collect();
        let wal_fetch = wal_bytes(&chosen);
        let (files_fetch, disk) = if keys_missing.is_empty() {
            let opened = assemble::open(&self.reader, &chosen).await?;
            (assemble::plan(&opened, Path::new("."))?.fetches().1, disk_bytes(&chosen, &opened))
        } else {
            (0, 0)
        };
        let replay_bytes = chosen.lsn.since(chosen.facts.start_lsn);
        let fetch_bytes = wal_fetch + files_fetch;
        Ok(Plan {
            tenant,
            asked: chosen.asked.understood(&self.config.estate.timezone),
            target: chosen.lsn,
            base: chosen.facts.label.clone(),
            replay_bytes,
            scopes: chosen.scopes.clone(),
            epochs,
            keys_missing,
            fetch_bytes,
            disk_bytes: disk,
            guessed_seconds: FIXED_SECONDS + replay_bytes / REPLAY_RATE + disk.max(fetch_bytes) / FETCH_RATE,
        })
    }
}

/// The epochs that the restore's objects of each scope are sealed to: of the points, the sets that they name, and the WAL.
async fn epochs_of(reader: &Reader, chosen: &Chosen) -> Result<BTreeMap<Scope, BTreeSet<u32>>, Failure> {
    let mut epochs: BTreeMap<Scope, BTreeSet<u32>> = BTreeMap::new();
    let mut add = |scope: &Scope, epoch: u32| {
        if chosen.scopes.contains(scope) {
            epochs.entry(scope.clone()).or_default().insert(epoch);
        }
    };
    for span in chosen.wal.iter().filter_map(|envelope| envelope.wal.as_ref()).flat_map(|wal| &wal.spans) {
        add(&span.scope, span.epoch);
    }
    for point in &chosen.points {
        add(&point.scope, point.envelope.epoch);
        for named in &point.envelope.objects {
            if let Ok(Name::Set(set, SetPart::Envelope)) = named.name.parse()
                && chosen.scopes.contains(&set.scope)
            {
                let envelope = reader.envelope(named).await?;
                add(&envelope.scope, envelope.epoch);
            }
        }
    }
    // Of which nothing has been stored yet.
    for scope in &chosen.scopes {
        epochs.entry(scope.clone()).or_insert_with(|| BTreeSet::from([1]));
    }
    Ok(epochs)
}

fn wal_bytes(chosen: &Chosen) -> u64 {
    let of_envelope = |envelope: &Verified| -> u64 {
        let spans = envelope.wal.iter().flat_map(|wal| &wal.spans);
        spans.filter(|span| chosen.scopes.contains(&span.scope)).map(|span| span.bytes).sum()
    };
    chosen.wal.iter().filter(|envelope| !is_heartbeat(envelope)).map(of_envelope).sum()
}

fn disk_bytes(chosen: &Chosen, opened: &Opened) -> u64 {
    let files: u64 = opened.base.iter().map(|(_, body)| body.totals.bytes).sum();
    // The WAL is laid sparsely; recovery copies each segment once more into pg_wal.
    files + chosen.lsn.since(chosen.facts.start_lsn) + 4 * u64::from(chosen.facts.segment_bytes)
}

/// Refuses to begin what the disk cannot hold.
///
/// # Errors
/// `Failed`, with what is needed and what there is.
pub fn refuse_without_room(chosen: &Chosen, opened: &Opened, dir: &Path) -> Result<(), Failure> {
    let needed = disk_bytes(chosen, opened);
    let Ok(disk) = rustix::fs::statvfs(dir) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed <= free {
        return Ok(());
    }
    let shown = crate::config::size::shown;
    Err(Failure::new(
        Kind::Failed,
        dir.display().to_string(),
        format!("the restore needs {}, the disk has {} left", shown(needed), shown(free)),
        "restore to a larger disk",
    ))
}
