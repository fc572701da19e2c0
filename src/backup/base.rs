//! The base backup: one stream from the server, sorted into a set per scope while it arrives.
//!
//! The network side (async) feeds archives to the sorter ([`sorter`], a thread), which reads members, checks pages, and
//! hands pieces to the scopes' set writers. Nothing touches a disk of ours. The sets are written ([`BaseCopy::finish`])
//! only when the caller has seen that the WAL up to the stop LSN is durable.

mod facts;
mod sorter;

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use super::wait::StoredWal;
use super::{Backup, Totals};
use crate::config::Cluster;
use crate::failure::{Failure, Kind};
use crate::ids::{Lsn, Scope, SystemId, Timeline};
use crate::point::SetRole;
use crate::postgres::backup_stream::{BackupEvent, BaseBackupOptions, BaseBackupStream};
use crate::postgres::base_backup::{ArchiveSender, channel};
use crate::postgres::connect::Server;
use crate::postgres::replication::Replication;
use crate::postgres::sql;
use crate::repo::name::Stamp;
use crate::repo::set_writer::{SetWriter, StoredSet};
use crate::stream::bindings::Database;

pub use facts::{BaseFacts, DatabaseFact};
use sorter::{Router, Sorted, Sorter};

/// How many sets are committed at a time: each is a few small objects, and waiting for the store is most of it.
const SETS_AT_ONCE: usize = 8;

/// A base backup that has arrived completely and is not committed yet.
pub struct BaseCopy {
    label: String,
    start_lsn: Lsn,
    pub stop_lsn: Lsn,
    stop_time: Timestamp,
    system_id: SystemId,
    timeline: Timeline,
    facts: BaseFacts,
    router: Router,
    sets: BTreeMap<Scope, SetWriter>,
    bad_pages: BTreeMap<Scope, Vec<sorter::BadBlock>>,
}

/// The sets of a committed base backup.
pub struct BaseSets {
    pub label: String,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    pub stop_time: Timestamp,
    pub system_id: SystemId,
    pub timeline: Timeline,
    pub server_version: u32,
    pub segment_bytes: u32,
    /// Whether all the cluster's tenants are in it.
    pub whole: bool,
    pub bad_pages: u64,
    pub totals: Totals,
    databases: Vec<Database>,
    router: Router,
    sets: BTreeMap<Scope, StoredSet>,
}

/// Takes a base backup; `only` names the tenants wanted where it is not all of them.
///
/// # Errors
/// Of the server, the store, or an archive that is broken or hostile. Nothing is committed.
pub async fn take(
    backup: &Backup<'_>,
    cluster: &Cluster,
    server: &Server,
    wal: &StoredWal,
    locked_until: Timestamp,
    only: Option<Vec<Scope>>,
) -> Result<BaseCopy, Failure> {
    let label = Stamp::new(backup.clock.now())
        .map_err(|error| Failure::new(Kind::Failed, "random numbers", error.to_string(), "run the backup again"))?
        .to_string();
    let replication = Replication::connect(server).await?;
    let options = BaseBackupOptions {
        label: format!("lifeboat {label}"),
        fast_checkpoint: true,
        verify_on_server: false,
        max_rate_kib: None,
    };
    let mut stream = replication.base_backup(&options).await?;
    let (start_lsn, timeline, total_kib) = match stream.next().await? {
        BackupEvent::Start { lsn, timeline, total_kib, .. } => (lsn, timeline, total_kib),
        other => return Err(out_of_order(&other)),
    };
    wal.until(start_lsn, &*backup.watch).await?;
    let mut connection = sql::connect(server, &server.database).await?;
    let databases = crate::stream::receive::list_databases(&mut connection).await?;
    let facts = BaseFacts::read(&mut connection, &databases, cluster, &label, start_lsn).await?;
    let bindings = wal.bindings_at(start_lsn).await?;

    backup.watch.stage("base backup", Some(total_kib * 1024));
    let router = Router::new(&cluster.name, &databases, &bindings, only);
    let sorter = Sorter::new(backup, cluster, router, start_lsn, locked_until, wal.system_id, &wal.history);
    let (stop_lsn, sorted) = pump(&mut stream, sorter).await?;
    let stop_time = sql::clock(&mut connection).await?;
    let Sorted { sets, bad_pages, router } = sorted;
    Ok(BaseCopy {
        label,
        start_lsn,
        stop_lsn,
        stop_time,
        system_id: wal.system_id,
        timeline,
        facts,
        router,
        sets,
        bad_pages,
    })
}

/// Passes archives from the network to the sorter's thread until the server says that it is done.
async fn pump(stream: &mut BaseBackupStream, sorter: Sorter) -> Result<(Lsn, Sorted), Failure> {
    let (archives, queue) = std::sync::mpsc::channel();
    let sorting = tokio::task::spawn_blocking(move || sorter.run(&queue));
    let mut open: Option<ArchiveSender> = None;
    let received = loop {
        let event = match stream.next().await {
            Ok(event) => event,
            Err(error) => break Err(Failure::from(error)),
        };
        match event {
            BackupEvent::Archive { tablespace } => {
                close(open.take()).await;
                let (sender, reader) = channel();
                open = Some(sender);
                // A sorter that failed says why below.
                if archives.send((tablespace.map(|space| space.oid), reader)).is_err() {
                    break Ok(None);
                }
            }
            BackupEvent::Data(bytes) => {
                let Some(sender) = &mut open else { break Err(out_of_order(&BackupEvent::Data(bytes))) };
                if !sender.send(bytes).await {
                    break Ok(None);
                }
            }
            BackupEvent::Progress(_) => {}
            BackupEvent::End { lsn, .. } => {
                close(open.take()).await;
                break Ok(Some(lsn));
            }
            other @ BackupEvent::Start { .. } => break Err(out_of_order(&other)),
        }
    };
    drop(open);
    drop(archives);
    let sorted = sorting.await.map_err(crate::failure::panicked)?;
    match received {
        // The server's own word comes first: what the sorter then says is only that the archive broke off.
        Err(failure) => Err(failure),
        Ok(Some(stop)) => Ok((stop, sorted?)),
        Ok(None) => sorted.and_then(|_| {
            Err(Failure::new(Kind::Failed, "base backup", "the sorter stopped before the end", "run the backup again"))
        }),
    }
}

async fn close(sender: Option<ArchiveSender>) {
    if let Some(sender) = sender {
        sender.finish().await;
    }
}

fn out_of_order(event: &BackupEvent) -> Failure {
    let what = match event {
        BackupEvent::Start { .. } => "a second start",
        BackupEvent::Archive { .. } => "an archive",
        BackupEvent::Data(_) => "data outside an archive",
        BackupEvent::Progress(_) => "progress",
        BackupEvent::End { .. } => "the end",
    };
    Failure::new(Kind::Failed, "base backup", format!("the server sent {what} out of order"), "run the backup again")
}

impl BaseCopy {
    /// Commits every scope's set. The caller has seen that WAL up to [`BaseCopy::stop_lsn`] is durable.
    ///
    /// # Errors
    /// Of the store. Sets that were committed before are whole, but no point names them.
    pub async fn finish(self) -> Result<BaseSets, Failure> {
        let mut sets = BTreeMap::new();
        let mut totals = Totals::default();
        let mut bad_pages = 0;
        let mut finishing = Vec::with_capacity(self.sets.len());
        for (scope, writer) in self.sets {
            let bad = self.bad_pages.get(&scope).map_or(&[] as &[_], Vec::as_slice);
            bad_pages += bad.len() as u64;
            let facts = super::to_value(&self.facts.for_scope(&scope, self.stop_lsn, self.stop_time, bad))?;
            finishing.push(async move { Ok::<_, Failure>((scope, writer.finish(facts).await?)) });
        }
        let mut finished = futures::stream::iter(finishing).buffer_unordered(SETS_AT_ONCE);
        while let Some((scope, stored)) = finished.try_next().await? {
            totals.count(&stored);
            sets.insert(scope, stored);
        }
        Ok(BaseSets {
            label: self.label,
            start_lsn: self.start_lsn,
            stop_lsn: self.stop_lsn,
            stop_time: self.stop_time,
            system_id: self.system_id,
            timeline: self.timeline,
            server_version: self.facts.server_version,
            segment_bytes: self.facts.segment_bytes,
            whole: self.router.only.is_none(),
            bad_pages,
            totals,
            databases: self.facts.listed(),
            router: self.router,
            sets,
        })
    }
}

impl BaseSets {
    /// The sets that a point of `tenant` names: the cluster's, its own, and those of spares that its databases had.
    #[must_use]
    pub fn for_tenant(&self, databases: &[String], tenant: &Scope, cluster: &str) -> Vec<(SetRole, StoredSet)> {
        let mut scopes = vec![tenant.clone()];
        for database in self.databases.iter().filter(|database| databases.contains(&database.name)) {
            if let Some(scope) = self.router.scope_of(database.oid).filter(|scope| !scopes.contains(scope)) {
                scopes.push(scope);
            }
        }
        let mut named: Vec<(SetRole, StoredSet)> = Vec::new();
        if let Some(set) = self.sets.get(&Scope::Cluster(cluster.to_owned())) {
            named.push((SetRole::ClusterBase, set.clone()));
        }
        named.extend(scopes.iter().filter_map(|scope| Some((SetRole::Base, self.sets.get(scope)?.clone()))));
        named
    }
}

/// The source's name of a cluster's base backups.
#[must_use]
pub fn source(cluster: &str) -> String {
    format!("base-{cluster}")
}
