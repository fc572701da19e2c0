//! The WAL that the store holds for a cluster: how far it reaches, and waiting until it reaches far enough.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Cluster;
use crate::failure::{Failure, Kind};
use crate::ids::{Lsn, SystemId, Timeline};
use crate::point::stored;
use crate::postgres::connect::Server;
use crate::postgres::replication::Replication;
use crate::repo::envelope::{Binding, Verified};
use crate::repo::reader::Reader;
use crate::watch::Watch;

/// How often the store is asked.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// A stream that brings nothing new for so long is not coming.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which WAL is meant, and where to ask.
pub struct StoredWal {
    pub cluster: String,
    pub system_id: SystemId,
    pub timeline: Timeline,
    pub history: String,
    reader: Arc<Reader>,
}

impl StoredWal {
    /// Asks the server which system and timeline this is.
    ///
    /// # Errors
    /// When the server is out of reach or refuses replication.
    pub async fn of(cluster: &Cluster, server: &Server, reader: Arc<Reader>) -> Result<Self, Failure> {
        let mut replication = Replication::connect(server).await?;
        let identity = replication.identify().await?;
        let history = history_of(&mut replication, identity.timeline).await?;
        Ok(Self {
            cluster: cluster.name.clone(),
            system_id: identity.system_id,
            timeline: identity.timeline,
            history,
            reader,
        })
    }

    /// Waits until the store's WAL reaches `lsn`.
    ///
    /// # Errors
    /// When nothing new arrives for two minutes: the stream is not running.
    pub async fn until(&self, lsn: Lsn, watch: &dyn Watch) -> Result<(), Failure> {
        let (mut seen, mut since) = (Lsn(0), Instant::now());
        let mut told = false;
        loop {
            let reached = stored::wal_end(&self.reader, self.system_id, &self.history).await?;
            if reached >= lsn {
                return Ok(());
            }
            if !told {
                watch.stage("waiting for WAL", None);
                told = true;
            }
            if reached > seen {
                (seen, since) = (reached, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                return Err(Failure::new(
                    Kind::Unreachable,
                    format!("WAL of cluster {}", self.cluster),
                    format!("the store's WAL ends at {reached}, the backup needs it up to {lsn}"),
                    format!("start `lifeboat stream --cluster {}`, then run the backup again", self.cluster),
                ));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// The envelopes that cover `[from, to]`: stretches, and tails where there is no stretch yet.
    ///
    /// # Errors
    /// When the store is out of reach or one of them is damaged.
    pub async fn covering(&self, from: Lsn, to: Lsn) -> Result<Vec<Verified>, Failure> {
        stored::covering(&self.reader, self.system_id, &self.history, from, to).await
    }

    /// The bindings in force at `lsn`, as the WAL that covers it says.
    ///
    /// # Errors
    /// As [`StoredWal::covering`].
    pub async fn bindings_at(&self, lsn: Lsn) -> Result<Vec<Binding>, Failure> {
        let envelopes = self.covering(lsn, lsn).await?;
        let holds = |binding: &&Binding| binding.from_lsn <= lsn && binding.to_lsn.is_none_or(|end| end > lsn);
        Ok(envelopes
            .iter()
            .filter_map(|envelope| envelope.wal.as_ref())
            .flat_map(|wal| wal.bindings.iter().filter(holds).cloned())
            .collect())
    }
}

/// The bindings that the newest stored WAL of a history names.
///
/// # Errors
/// When the store is out of reach.
pub async fn newest_bindings(reader: &Reader, system_id: SystemId, history: &str) -> Result<Vec<Binding>, Failure> {
    let listing = reader.stretches(system_id, Some(history)).await?;
    let newest = listing.good.iter().filter_map(|envelope| envelope.wal.as_ref()).max_by_key(|wal| wal.to);
    Ok(newest.map(|wal| wal.bindings.clone()).unwrap_or_default())
}

/// How WAL names call this timeline.
///
/// # Errors
/// When the server does not give its history file.
pub async fn history_of(replication: &mut Replication, timeline: Timeline) -> Result<String, Failure> {
    // Timeline 1 has no history file.
    if timeline.0 == 1 {
        return Ok(crate::repo::name::history(timeline, b""));
    }
    let file = replication.timeline_history(timeline).await?;
    Ok(crate::repo::name::history(timeline, &file.content))
}
