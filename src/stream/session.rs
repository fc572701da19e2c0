//! One cluster's stream, set up from the configuration and the store: preflight, slot, position, and then the loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::commit::{Durable, Line, Locks};
use super::cut::Thresholds;
use super::files::{self, Followed, Shipping};
use super::preflight::{self, ServerFacts};
use super::receive::{self, Ended, Streaming, Until};
use super::{resume, slot};
use crate::backup::wait::history_of;
use crate::clock::Clock;
use crate::config::{Cluster, Config};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::postgres::connect::Server;
use crate::postgres::replication::Replication;
use crate::postgres::sql;
use crate::postgres::wal::version::Version;
use crate::postgres::wire::{Fault, WireError};
use crate::repo::envelope::{EnvelopeKind, Verified};
use crate::repo::error::RepoError;
use crate::repo::reader::Reader;
use crate::repo::window::chain;
use crate::repo::writer::Writer;
use crate::watch::Watch;

/// What a stream works with.
#[derive(Clone)]
pub struct Session {
    pub config: Arc<Config>,
    pub cluster: Cluster,
    pub server: Server,
    pub writer: Arc<Writer>,
    /// Reads envelopes; needs no key.
    pub reader: Arc<Reader>,
    pub clock: Clock,
    pub watch: Arc<dyn Watch>,
    /// Go on although WAL is lost for good between the store's end and what the server still has.
    pub accept_gap: bool,
    pub when_busy: WhenBusy,
}

/// What a stream does while another one uses the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenBusy {
    /// Takes over when the other ends: a new pod while the old one drains, or a stream started during a backup's own.
    Wait,
    Refuse,
}

impl Session {
    /// Checks the server, finds where to go on, and streams until told to stop (or caught up). `None` when it was told to stop while
    /// another stream had the slot.
    ///
    /// # Errors
    /// Of preflight (what to change), of a gap (its range), of the server or the store while streaming; `Refused` when another
    /// stream has the slot and this one is not to wait.
    pub async fn run(self, until: Until, stop: CancellationToken) -> Result<Option<Ended>, Failure> {
        loop {
            // Before the store is read: what the other one still writes must be seen.
            let patience = (self.when_busy == WhenBusy::Refuse).then_some(slot::PATIENCE);
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                free = slot::wait_until_free(&self.server, &self.cluster.slot, patience, &*self.watch) => free?,
            }
            let (streaming, position) = self.prepare().await?;
            let (durable, _) = watch::channel(Durable { to: position.at, stretches_to: position.at });
            let shipping_stop = stop.child_token();
            let shipping = self.ship_files(shipping_stop.clone());
            let ended = receive::run(streaming, position, durable, until, stop.clone()).await;
            shipping_stop.cancel();
            let shipped = shipping.await.map_err(crate::failure::panicked)?;
            match ended {
                // Somebody was quicker.
                Err(busy) if busy.kind == Kind::Refused && self.when_busy == WhenBusy::Wait => {}
                Err(failure) => return Err(failure),
                Ok(ended) => return shipped.map(|()| Some(ended)),
            }
        }
    }

    async fn prepare(&self) -> Result<(Streaming, resume::Position), Failure> {
        let mut connection = sql::connect(&self.server, &self.server.database).await?;
        let facts = self.preflight(&mut connection).await?;
        let mut replication = Replication::connect(&self.server).await?;
        let identity = replication.identify().await?;
        let history = history_of(&mut replication, identity.timeline).await?;

        let stored = self.reader.stretches(identity.system_id, Some(&history)).await?;
        self.keep_orphaned_tails(&stored.good).await?;
        let envelopes: Vec<_> = stored.good.iter().map(|verified| verified.envelope.clone()).collect();
        let spares = self.writer.spares();
        let begin = |restart| {
            let last = resume::last(&envelopes);
            resume::begin(last, restart, facts.segment_bytes, &self.cluster.name, &spares, self.accept_gap)
        };
        let lost = facts.slot.as_ref().is_some_and(|slot| slot.wal_status == "lost");
        if lost {
            // Judged before anything is changed: a gap is an error until somebody accepts it.
            begin(slot::would_begin(&mut connection).await?)?;
            slot::remove(&mut connection, &self.cluster.slot).await?;
        }
        if lost || facts.slot.is_none() {
            match replication.create_slot(&self.cluster.slot).await {
                // Another one made it at the same moment (SQLSTATE 42710, duplicate_object): it serves as well.
                Err(WireError { fault: Fault::Server { sqlstate, .. }, .. }) if sqlstate == "42710" => {}
                made => made?,
            }
        }
        drop(replication);
        let slot = sql::slot_facts(&mut connection, &self.cluster.slot).await?;
        let position = begin(slot.and_then(|slot| slot.restart).unwrap_or(identity.flush_lsn))?;
        let scopes: BTreeMap<String, Scope> = self.mapped();
        let streaming = Streaming {
            server: self.server.clone(),
            slot: self.cluster.slot.clone(),
            thresholds: Thresholds {
                stretch_bytes: self.cluster.stretch_bytes,
                stretch_age: unsigned(self.cluster.stretch_interval),
                flush_age: unsigned(self.cluster.flush_interval),
                flush_bytes: self.cluster.flush_bytes,
            },
            heartbeat: unsigned(self.cluster.heartbeat),
            line: Line {
                cluster: self.cluster.name.clone(),
                system_id: identity.system_id,
                timeline: identity.timeline,
                history,
            },
            segment_bytes: facts.segment_bytes,
            version: Version::of_major(facts.major())?,
            locks: Locks {
                clock: self.clock.clone(),
                stretch: self.config.retention.pitr,
                tail: self.config.retention.tail_lock,
            },
            writer: Arc::clone(&self.writer),
            scopes,
            watch: Arc::clone(&self.watch),
        };
        Ok((streaming, position))
    }

    async fn preflight(&self, connection: &mut sqlx::PgConnection) -> Result<ServerFacts, Failure> {
        let facts = ServerFacts::read(connection, &self.cluster.slot).await?;
        let unbounded = self.cluster.allow_unbounded_slot;
        for finding in preflight::judge(&facts, &self.server.place(), &self.cluster.slot, unbounded)? {
            self.watch.finding(finding);
        }
        Ok(facts)
    }

    /// Which of the cluster's databases are whose.
    fn mapped(&self) -> BTreeMap<String, Scope> {
        let ours = self.config.tenants.values().filter(|tenant| tenant.cluster == self.cluster.name);
        ours.flat_map(|tenant| {
            tenant.databases.iter().map(|database| (database.clone(), Scope::Tenant(tenant.id.clone())))
        })
        .collect()
    }

    /// Tails behind the last stretch will not be covered by one any more: they must last as long as stretches do.
    async fn keep_orphaned_tails(&self, stored: &[Verified]) -> Result<(), Failure> {
        // Where a stretch says the same, the tail is no part of a window.
        let windows = chain(stored).windows;
        let needed = windows.iter().flat_map(|window| &window.members).filter_map(|member| stored.get(*member));
        let until = self.clock.now().checked_add(self.config.retention.pitr).unwrap_or(Timestamp::MAX);
        // Not exactly a window's length is asked for: a restart a minute later must not extend everything again.
        let enough = until.checked_sub(SignedDuration::from_hours(24)).unwrap_or(until);
        let orphaned = needed.filter(|envelope| envelope.kind == EnvelopeKind::Tail);
        for tail in orphaned.filter(|tail| tail.locked_until < enough) {
            match self.writer.extend_envelope(tail, until).await {
                // What is lost already must not keep the stream from going on.
                Err(error @ (RepoError::Missing { .. } | RepoError::Altered { .. })) => {
                    let next = "look for it in the second copy, and take a base backup: `lifeboat backup`";
                    let what = format!("is damaged: {}", crate::failure::chain(&error));
                    crate::watch::warn(&*self.watch, &*tail.name, what, next);
                }
                extended => extended?,
            }
        }
        Ok(())
    }

    fn ship_files(&self, stop: CancellationToken) -> tokio::task::JoinHandle<Result<(), Failure>> {
        let ours = self.config.tenants.values().filter(|tenant| tenant.cluster == self.cluster.name);
        let followed: Vec<Followed> = ours
            .filter(|tenant| !self.writer.erased(&Scope::Tenant(tenant.id.clone())))
            .filter_map(|tenant| Some((tenant, tenant.filestore.as_ref()?)))
            .flat_map(|(tenant, parent)| {
                tenant.databases.iter().map(|database| Followed {
                    scope: Scope::Tenant(tenant.id.clone()),
                    database: database.clone(),
                    folder: parent.join(database),
                })
            })
            .collect();
        let shipping = Arc::new(Shipping {
            writer: Arc::clone(&self.writer),
            reader: Arc::clone(&self.reader),
            clock: self.clock.clone(),
            lock: self.config.retention.pitr,
            watch: Arc::clone(&self.watch),
        });
        tokio::spawn(files::run(shipping, followed, stop))
    }
}

fn unsigned(duration: SignedDuration) -> Duration {
    Duration::try_from(duration).unwrap_or_default()
}

/// Runs `work` with a stream beside it: a backup alone on a machine still has its WAL. Where another one streams, this one waits,
/// and takes over should that one end.
///
/// # Errors
/// Of `work`, or of the stream when that is what made `work` fail.
pub async fn beside<T>(session: Session, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // Before the work begins: what it would say of a server that is set up wrongly helps less.
    session.preflight(&mut sql::connect(&session.server, &session.server.database).await?).await?;
    let stop = CancellationToken::new();
    let session = Session { when_busy: WhenBusy::Wait, ..session };
    let mut streaming = tokio::spawn(session.run(Until::Stopped, stop.clone()));
    let mut work = std::pin::pin!(work);
    let worked = tokio::select! {
        worked = &mut work => worked,
        ended = &mut streaming => {
            ended.map_err(crate::failure::panicked)??;
            return Err(Failure::new(Kind::Failed, "stream", "ended before the backup did", "run the backup again"));
        }
    };
    stop.cancel();
    let streamed = streaming.await.map_err(crate::failure::panicked)?;
    let worked = worked?;
    streamed?;
    Ok(worked)
}
