//! `backup`: one recovery point of a cluster and its tenants.
//!
//! Order, and why:
//! 1. Preflight; a stream must run, or one is run here for as long as the backup takes.
//! 2. Base backup, split while it streams ([`base`]). It is consistent once WAL up to its stop LSN is replayed, so
//!    nothing is committed before that WAL is durable ([`wait`]).
//! 3. Per tenant: database first, then files, with Odoo's collection held ([`tenant`]); the access roster at the same LSN.
//! 4. The points, each naming its sets, written last; the locks of the WAL they need are extended first.
//!
//! A crash anywhere leaves objects that no envelope names; they lapse and go.

pub mod base;
pub mod files;
pub mod tenant;
pub mod wait;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::clock::Clock;
use crate::config::{Cluster, Config, Tenant};
use crate::failure::Failure;
use crate::ids::{Lsn, Scope};
use crate::point::stored::touches;
use crate::point::{PointBody, PointFacts};
use crate::postgres::connect::Server;
use crate::repo::envelope::{ObjectRef, Verified};
use crate::repo::reader::Reader;
use crate::repo::set_writer::StoredSet;
use crate::repo::writer::{NewPoint, Writer};
use crate::watch::Watch;

/// Tenants whose parts are taken within this time wait for their WAL together: each alone would wait for the stream's next flush.
const BATCH_FOR: Duration = Duration::from_secs(30);

/// What one backup works with.
pub struct Backup<'a> {
    pub config: &'a Config,
    pub writer: Arc<Writer>,
    /// Reads envelopes only; no key that opens data is needed.
    pub reader: Arc<Reader>,
    pub clock: Clock,
    pub watch: Arc<dyn Watch>,
    /// The retention class, which says when the point's locks end.
    pub class: String,
}

/// What a backup made, for people and `--json`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Made {
    pub cluster: String,
    pub label: String,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    pub points: Vec<MadePoint>,
    pub bytes: u64,
    pub stored_bytes: u64,
    pub reused_bytes: u64,
    pub files: u64,
    pub bad_pages: u64,
    pub locked_until: Timestamp,
    pub seconds: f64,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct MadePoint {
    pub tenant: String,
    pub lsn: Lsn,
    pub time: Timestamp,
    pub envelope: String,
    pub filestore: BTreeMap<String, files::FilesTaken>,
}

impl Backup<'_> {
    /// Backs up one cluster for `tenants` (all of the cluster's, or those named).
    ///
    /// Expected flow: a stream on this cluster is running and this process is not it.
    /// Guarantees: every listed point is whole and its WAL durable; on an error nothing is listed.
    /// Errors: of the server, the store, or a stream that does not come along.
    pub async fn run(&self, cluster: &Cluster, server: &Server, tenants: &[&Tenant]) -> Result<Made, Failure> {
        let began = Instant::now();
        let locked_until = self.locked_until()?;
        let wal = wait::StoredWal::of(cluster, server, Arc::clone(&self.reader)).await?;
        let wanted: Vec<Scope> = tenants.iter().map(|tenant| Scope::Tenant(tenant.id.clone())).collect();
        let of_cluster = |t: &&Tenant| t.cluster == cluster.name && !self.writer.erased(&Scope::Tenant(t.id.clone()));
        let all = tenants.len() == self.config.tenants.values().filter(of_cluster).count();
        let base = base::take(self, cluster, server, &wal, locked_until, (!all).then_some(wanted)).await?;
        wal.until(base.stop_lsn, &*self.watch).await?;
        let sets = base.finish().await?;

        let mut points = Vec::new();
        let mut bytes = sets.totals;
        let (mut batch, mut batch_began) = (Vec::new(), Instant::now());
        for (number, tenant) in tenants.iter().enumerate() {
            let taken = tenant::take(self, tenant, server, locked_until).await?;
            bytes.add(&taken.totals);
            batch.push((*tenant, taken));
            if number + 1 == tenants.len() || batch_began.elapsed() >= BATCH_FOR {
                points.extend(self.write_points(cluster, std::mem::take(&mut batch), &sets, &wal, locked_until).await?);
                batch_began = Instant::now();
            }
        }
        Ok(Made {
            cluster: cluster.name.clone(),
            label: sets.label.clone(),
            start_lsn: sets.start_lsn,
            stop_lsn: sets.stop_lsn,
            points,
            bytes: bytes.bytes,
            stored_bytes: bytes.stored_bytes,
            reused_bytes: bytes.reused_bytes,
            files: bytes.files,
            bad_pages: sets.bad_pages,
            locked_until,
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    fn locked_until(&self) -> Result<Timestamp, Failure> {
        let lifetime = self.config.retention.class(&self.class)?;
        let ends = self.clock.now().checked_add(lifetime).and_then(|end| end.checked_add(self.config.retention.slack));
        ends.map_err(|error| {
            Failure::new(
                crate::failure::Kind::Usage,
                format!("retention class {}", self.class),
                format!("does not end within the calendar: {error}"),
                "shorten it in lifeboat.toml",
            )
        })
    }

    /// Waits for the WAL of a batch of tenants and writes their points.
    async fn write_points(
        &self,
        cluster: &Cluster,
        batch: Vec<(&Tenant, tenant::Taken)>,
        sets: &base::BaseSets,
        wal: &wait::StoredWal,
        locked_until: Timestamp,
    ) -> Result<Vec<MadePoint>, Failure> {
        let Some(end) = batch.iter().map(|(_, taken)| taken.lsn).max() else { return Ok(Vec::new()) };
        wal.until(end, &*self.watch).await?;
        let stretches = wal.covering(sets.start_lsn, end).await?;
        for stretch in &stretches {
            self.writer.extend_envelope(stretch, locked_until).await?;
        }
        let mut points = Vec::with_capacity(batch.len());
        for one in batch {
            let to = one.1.lsn;
            let needed = stretches.iter().filter(|stretch| touches(stretch, sets.start_lsn, to));
            points.push(self.write_point(cluster, one, sets, &wal.history, needed, locked_until).await?);
        }
        Ok(points)
    }

    async fn write_point(
        &self,
        cluster: &Cluster,
        (tenant, taken): (&Tenant, tenant::Taken),
        sets: &base::BaseSets,
        history: &str,
        stretches: impl Iterator<Item = &Verified>,
        locked_until: Timestamp,
    ) -> Result<MadePoint, Failure> {
        let scope = Scope::Tenant(tenant.id.clone());
        let facts = PointFacts {
            cluster: cluster.name.clone(),
            system_id: sets.system_id,
            timeline: sets.timeline,
            server_version: sets.server_version,
            segment_bytes: sets.segment_bytes,
            history: history.to_owned(),
            label: sets.label.clone(),
            start_lsn: sets.start_lsn,
            stop_lsn: sets.stop_lsn,
            stop_time: sets.stop_time,
            lsn: taken.lsn,
            time: taken.time,
            class: self.class.clone(),
            whole: sets.whole,
        };
        let mut named = sets.for_tenant(&tenant.databases, &scope, &cluster.name);
        named.extend(taken.sets);
        let mut kept: Vec<ObjectRef> = named.iter().map(|(_, set)| set.envelope.reference()).collect();
        for prefix in [&scope, &Scope::Cluster(cluster.name.clone())] {
            kept.extend(self.writer.leave_readme(prefix, locked_until, &*self.watch).await);
        }
        let body = PointBody {
            tenant: tenant.id.clone(),
            facts: facts.clone(),
            databases: taken.databases,
            sets: named.iter().map(|(role, set)| role.reference(set)).collect(),
        };
        let stored = self
            .writer
            .write_point(NewPoint {
                scope,
                facts: to_value(&facts)?,
                body: to_value(&body)?,
                sets: kept,
                stretches: stretches.map(|stretch| locked(stretch, locked_until)).collect(),
                locked_until,
            })
            .await?;
        Ok(MadePoint {
            tenant: tenant.id.clone(),
            lsn: taken.lsn,
            time: taken.time,
            envelope: stored.name.clone(),
            filestore: taken.files,
        })
    }
}

/// How a point names an envelope whose lock was just extended.
fn locked(envelope: &Verified, until: Timestamp) -> ObjectRef {
    let reference = envelope.reference();
    ObjectRef { locked_until: reference.locked_until.max(until), ..reference }
}

/// Bytes and files of sets, added up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    pub bytes: u64,
    pub stored_bytes: u64,
    pub reused_bytes: u64,
    pub files: u64,
}

impl Totals {
    pub fn count(&mut self, set: &StoredSet) {
        self.bytes += set.new_bytes + set.reused_bytes + set.zero_bytes;
        self.stored_bytes += set.stored_bytes;
        self.reused_bytes += set.reused_bytes;
        self.files += set.files;
    }

    pub fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.stored_bytes += other.stored_bytes;
        self.reused_bytes += other.reused_bytes;
        self.files += other.files;
    }
}

/// A value as JSON; what cannot be JSON is a defect of ours, told as one.
pub(crate) fn to_value(value: &impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(|error| {
        Failure::new(crate::failure::Kind::Failed, "lifeboat", error.to_string(), "report this defect")
    })
}
