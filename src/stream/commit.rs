//! Makes tails and stretches durable, one at a time and in order; says how far the store's WAL reaches.
//!
//! The envelope of each names the hash of the one before, so order is the format's, not a convenience. While one is being
//! stored the next is sealed and the receiver reads on. A failure here ends the stream: nothing after it may be acknowledged.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};

use super::gather::Gathered;
use crate::clock::Clock;
use crate::failure::Failure;
use crate::ids::{Lsn, Scope, SystemId, Timeline};
use crate::postgres::wal::extent;
use crate::repo::envelope::{Binding, Wal};
use crate::repo::stretch::{NewStretch, SealedStretch};
use crate::repo::writer::Writer;

/// What is constant for one stream.
#[derive(Debug, Clone)]
pub struct Line {
    pub cluster: String,
    pub system_id: SystemId,
    pub timeline: Timeline,
    pub history: String,
}

/// How long what is stored stays locked.
#[derive(Debug, Clone)]
pub struct Locks {
    pub clock: Clock,
    pub stretch: SignedDuration,
    pub tail: SignedDuration,
}

impl Locks {
    fn until(&self, tail: bool) -> Timestamp {
        let lasts = if tail { self.tail } else { self.stretch };
        self.clock.now().checked_add(lasts).unwrap_or(Timestamp::MAX)
    }
}

/// One thing to store.
#[derive(Debug)]
pub struct Job {
    pub tail: bool,
    pub wal: Gathered,
    pub bindings: Vec<Binding>,
    /// The server's clock when the last of it arrived.
    pub server_clock: Timestamp,
}

/// How far the store's WAL reaches, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    pub to: Lsn,
    pub stretches_to: Lsn,
}

/// A job whose shares are sealed.
struct Sealed {
    tail: bool,
    to: Lsn,
    stretch: SealedStretch,
}

/// Stores jobs until the sender is dropped.
///
/// Guarantees: `durable` only moves when the envelope is stored; jobs are stored in the order they were sent.
/// Errors: the first job that could not be stored; later ones are not tried.
pub async fn run(
    writer: Arc<Writer>,
    line: Line,
    locks: Locks,
    jobs: mpsc::Receiver<Job>,
    durable: watch::Sender<Durable>,
) -> Result<(), Failure> {
    let (ready, mut sealed) = mpsc::channel(1);
    let sealing = tokio::spawn(seal(Arc::clone(&writer), line, locks, jobs, ready));
    while let Some(Sealed { tail, to, stretch }) = sealed.recv().await {
        writer.store_stretch(stretch).await?;
        durable.send_modify(|so_far| {
            so_far.to = to;
            if !tail {
                so_far.stretches_to = to;
            }
        });
    }
    sealing.await.map_err(crate::failure::panicked)?
}

/// Seals jobs in their order, one ahead of what is being stored. Ends when the jobs do, or nobody stores any more.
async fn seal(
    writer: Arc<Writer>,
    line: Line,
    locks: Locks,
    mut jobs: mpsc::Receiver<Job>,
    ready: mpsc::Sender<Sealed>,
) -> Result<(), Failure> {
    while let Ok(permit) = ready.reserve().await {
        let job = tokio::select! {
            job = jobs.recv() => job,
            () = ready.closed() => None,
        };
        let Some(job) = job else { break };
        let (tail, to) = (job.tail, job.wal.to);
        let (line, until) = (line.clone(), locks.until(tail));
        let stretch = tokio::task::spawn_blocking(move || prepare(&line, job, until));
        let stretch = writer.seal_stretch(stretch.await.map_err(crate::failure::panicked)?).await?;
        permit.send(Sealed { tail, to, stretch });
    }
    Ok(())
}

fn prepare(line: &Line, job: Job, locked_until: Timestamp) -> NewStretch {
    let wal = job.wal;
    NewStretch {
        tail: job.tail,
        wal: Wal {
            system_id: line.system_id,
            timeline: line.timeline,
            history: line.history.clone(),
            from: wal.from,
            to: wal.to,
            last_record: wal.last_record,
            first_commit_time: wal.first_commit,
            last_commit_time: wal.greatest_commit,
            commits: wal.commits,
            server_clock: Some(job.server_clock),
            bindings: job.bindings,
            quarantined: wal.quarantined,
            spans: Vec::new(),
        },
        cluster: Scope::Cluster(line.cluster.clone()),
        source: line.cluster.clone(),
        locked_until,
        members: wal.members.into_iter().map(|(scope, part)| (scope, extent::encode(&part))).collect(),
    }
}
