//! The data directory and the WAL of a restore, fetched, checked and laid out: nothing is started here.
//!
//! ```text
//! <dir>/pgdata/      the cluster's files and the wanted databases'; no captured configuration
//! <dir>/captured/    what was captured and is never executed: postgresql*.conf, pg_hba.conf, pg_ident.conf
//! <dir>/wal/         segments from the base backup's start, ending exactly at the target
//! ```
//!
//! Every object is checked against its signed envelope before a byte of it is used; a damaged one ends the restore here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::choose::{Chosen, Subject, geometry};
use super::recover::Assembled;
use crate::backup::base::{self, BaseFacts};
use crate::failure::{Failure, Kind};
use crate::ids::{Lsn, Scope};
use crate::point::{PointBody, SetReference, SetRole};
use crate::postgres::server::DECISIVE;
use crate::postgres::wal::commits::{CommitScan, EventKind};
use crate::postgres::wal::cursor::Records;
use crate::postgres::wal::segments::SegmentWriter;
use crate::postgres::wal::{Geometry, Part, extent, merge};
use crate::repo::envelope::Verified;
use crate::repo::extract::Plan;
use crate::repo::reader::{Reader, What};
use crate::repo::set::{FileEntry, SetBody};
use crate::watch::{Watch, warn};

/// The sets of a restore, opened.
pub struct Opened {
    pub bodies: Vec<PointBody>,
    pub base: Vec<(SetReference, SetBody)>,
    pub facts: BaseFacts,
}

/// What was read of the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Read {
    pub objects: u64,
    pub bytes: u64,
}

/// Opens the points and the base backup's sets.
///
/// # Errors
/// `Integrity`: a key that is not here, a damaged object, or a point without the cluster's share.
pub async fn open(reader: &Reader, chosen: &Chosen) -> Result<Opened, Failure> {
    let mut bodies = Vec::new();
    for point in &chosen.points {
        let value = reader.point_body(&point.envelope).await?;
        let body: PointBody =
            serde_json::from_value(value).map_err(|error| not_a_point(&point.envelope.name, &error))?;
        bodies.push(body);
    }
    let mut references: BTreeMap<String, SetReference> = BTreeMap::new();
    for reference in bodies.iter().flat_map(|body| &body.sets) {
        if matches!(reference.role, SetRole::ClusterBase | SetRole::Base) {
            references.insert(reference.envelope.name.clone(), reference.clone());
        }
    }
    let mut opened = Vec::new();
    for reference in references.into_values() {
        let envelope = reader.envelope(&reference.envelope).await?;
        opened.push((reference, reader.body(&envelope).await?));
    }
    if matches!(chosen.subject, Subject::Cluster(_)) {
        opened.extend(spares(reader, chosen, &opened).await?);
    }
    let of_cluster = opened.iter().find(|(reference, _)| reference.role == SetRole::ClusterBase);
    let facts = of_cluster.and_then(|(_, body)| serde_json::from_value(body.totals.facts.clone()).ok());
    let facts = facts.ok_or_else(|| {
        let object = format!("point {}", chosen.facts.label);
        Failure::new(Kind::Integrity, object, "names no readable cluster share", "restore from another point")
    })?;
    Ok(Opened { bodies, base: opened, facts })
}

/// With all keys: the shares of databases that no tenant's point names, of the same base backup.
async fn spares(
    reader: &Reader,
    chosen: &Chosen,
    have: &[(SetReference, SetBody)],
) -> Result<Vec<(SetReference, SetBody)>, Failure> {
    let mut found = Vec::new();
    let source = base::source(&chosen.facts.cluster);
    for scope in chosen.scopes.iter().filter(|scope| have.iter().all(|(reference, _)| reference.scope != **scope)) {
        for envelope in reader.envelopes(scope, What::Sets).await?.good.into_iter().filter(|set| set.source == source) {
            let body = reader.body(&envelope).await?;
            let facts: Option<BaseFacts> = serde_json::from_value(body.totals.facts.clone()).ok();
            if facts.is_some_and(|facts| facts.label == chosen.facts.label) {
                let envelope = envelope.reference();
                found.push((SetReference { role: SetRole::Base, scope: scope.clone(), envelope }, body));
            }
        }
    }
    Ok(found)
}

fn not_a_point(name: &str, error: &serde_json::Error) -> Failure {
    Failure::new(Kind::Integrity, name, format!("is not the body of a point: {error}"), "restore from another point")
}

/// Plans the files of the data directory below `dir`.
///
/// # Errors
/// When a set names a path that leads elsewhere.
pub fn plan(opened: &Opened, dir: &Path) -> Result<Plan, Failure> {
    // The server changes them without fsync; all is made durable at once, when it is delivered.
    let mut plan = Plan::new(dir).synced_by_caller();
    for (_, body) in &opened.base {
        plan.add(body, placed)?;
    }
    Ok(plan)
}

/// Where a file of a base backup goes; `None` for what a restore must not have.
fn placed(entry: &FileEntry) -> Option<PathBuf> {
    // Tablespaces become plain folders below pg_tblspc (in place, as allow_in_place_tablespaces makes them): the links
    // point at the source's own disks.
    let is_link = entry.target.is_some();
    // Kept beside, to be read by people: what decides how a server runs, and where the source's tablespaces were.
    if DECISIVE.contains(&entry.path.as_str()) || entry.path == "tablespace_map" {
        return Some(Path::new("captured").join(&entry.path));
    }
    (!is_link).then(|| Path::new("pgdata").join(&entry.path))
}

/// Fetches everything into `dir`, which must be new.
///
/// Guarantees: on success the folder holds exactly what the signed envelopes name, and WAL that ends at the target.
/// Errors: `Integrity` naming the object, or of the disk. What was laid stays for the caller to remove.
pub async fn assemble(
    reader: &Reader,
    chosen: &Chosen,
    opened: &Opened,
    dir: &Path,
    watch: &dyn Watch,
) -> Result<(Assembled, Read), Failure> {
    let mut read = Read::default();
    let files = plan(opened, dir)?;
    watch.stage("files", Some(files.fetches().1));
    let extracted = reader.carry_out(files, watch).await?;
    read.objects += extracted.objects_read;
    read.bytes += extracted.bytes_read;
    for (_, body) in &opened.base {
        for bad in serde_json::from_value::<BaseFacts>(body.totals.facts.clone()).into_iter().flat_map(|f| f.bad_pages)
        {
            let object = format!("{} block {}", bad.file, bad.block);
            warn(watch, object, "was damaged when the backup was taken", "restore that relation from an earlier point");
        }
    }
    prepare_folders(&dir.join("pgdata"), opened)?;

    let laid = lay_wal(reader, chosen, &dir.join("wal"), watch, &mut read).await?;
    let major = opened.facts.server_version / 10_000;
    Ok((
        Assembled {
            dir: dir.to_owned(),
            superuser: opened.facts.superuser.clone(),
            major,
            last_record: laid.last_record,
            end: laid.reached,
            last_commit: laid.last_commit,
            timeline: chosen.facts.timeline,
        },
        read,
    ))
}

/// Folders that a base backup carries as links or that a filtered one lacks.
fn prepare_folders(pgdata: &Path, opened: &Opened) -> Result<(), Failure> {
    let made = ["pg_wal", "pg_wal/archive_status", "pg_tblspc", "base", "global"];
    let spaces = opened.base.iter().flat_map(|(_, body)| body.entries()).flatten().filter_map(Result::ok);
    let spaces: Vec<String> = spaces.filter(|entry| entry.target.is_some()).map(|entry| entry.path).collect();
    for folder in made.iter().map(ToString::to_string).chain(spaces) {
        let path = pgdata.join(folder);
        std::fs::create_dir_all(&path).map_err(|error| disk(&path, &error))?;
    }
    Ok(())
}

struct Laid {
    last_record: Lsn,
    /// Behind the last record's bytes: where the laid WAL stops.
    end: Lsn,
    /// The same with its padding: what PostgreSQL and people call the position.
    reached: Lsn,
    last_commit: Option<jiff::Timestamp>,
}

async fn lay_wal(
    reader: &Reader,
    chosen: &Chosen,
    folder: &Path,
    watch: &dyn Watch,
    read: &mut Read,
) -> Result<Laid, Failure> {
    std::fs::create_dir(folder).map_err(|error| disk(folder, &error))?;
    let total: u64 = chosen.wal.iter().flat_map(|envelope| spans(envelope, chosen)).map(|span| span.bytes).sum();
    watch.stage("WAL", Some(total));
    let geometry = geometry(&chosen.facts)?;
    let mut writer = SegmentWriter::new(folder, geometry)?;
    let mut laid = Laid { last_record: Lsn(0), end: Lsn(0), reached: Lsn(0), last_commit: None };
    for envelope in &chosen.wal {
        let Some(wal) = &envelope.wal else { continue };
        let mut parts: Vec<(Scope, Part)> = Vec::new();
        for scope in &chosen.scopes {
            if let Some(span) = reader.span(envelope, scope).await? {
                parts.push((scope.clone(), extent::decode(&span)?));
            }
        }
        for span in spans(envelope, chosen) {
            read.objects += 1;
            read.bytes += span.bytes;
            watch.advance(span.bytes);
        }
        let (cluster, others): (Vec<_>, Vec<_>) = parts.iter().partition(|(scope, _)| *scope == chosen.cluster_scope());
        let Some((_, cluster)) = cluster.first() else { return Err(no_cluster_share(envelope)) };
        let others: Vec<&Part> = others.into_iter().map(|(_, part)| part).collect();
        let bytes = merge::merge(cluster, &others)?;
        look(&bytes, wal.from, geometry, chosen.lsn, &mut laid)?;
        writer.lay(wal.from, &bytes)?;
    }
    if laid.end == Lsn(0) {
        return Err(Failure::new(Kind::Integrity, "WAL", "there is none to replay", "restore from another point"));
    }
    writer.finish(laid.end)?;
    Ok(laid)
}

/// Which record is the last before the target, and the last commit before it.
fn look(bytes: &[u8], from: Lsn, geometry: Geometry, target: Lsn, laid: &mut Laid) -> Result<(), Failure> {
    let mut records = Records::new(geometry, from, bytes);
    while let Some((place, _)) = records.next()? {
        if place.end > target {
            break;
        }
        (laid.last_record, laid.end, laid.reached) = (place.start, place.end, place.next.min(target));
    }
    for event in CommitScan::new(geometry, from, bytes) {
        let event = event?;
        if event.end <= target && matches!(event.kind, EventKind::Commit { .. }) {
            laid.last_commit = event.time.or(laid.last_commit);
        }
    }
    Ok(())
}

fn spans<'a>(envelope: &'a Verified, chosen: &'a Chosen) -> impl Iterator<Item = &'a crate::repo::envelope::Span> {
    let spans = envelope.wal.iter().flat_map(|wal| &wal.spans);
    spans.filter(|span| chosen.scopes.contains(&span.scope))
}

fn no_cluster_share(envelope: &Verified) -> Failure {
    Failure::new(
        Kind::Integrity,
        envelope.name.clone(),
        "names no share of the cluster's, without which nothing can be replayed",
        "restore from the second copy, or to a time before it",
    )
}

pub(super) fn disk(path: &Path, error: &std::io::Error) -> Failure {
    let next = match error.kind() {
        std::io::ErrorKind::StorageFull => "make room on that disk (see `--plan` for how much), then restore again",
        _ => "check the folder's rights and disk, then restore again",
    };
    Failure::new(Kind::Failed, path.display().to_string(), error.to_string(), next)
}
