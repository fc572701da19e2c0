//! How far each copy is behind the store.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::standing::ago;
use crate::cli::context::Context;
use crate::cli::open;
use crate::cli::table::Cell;
use crate::config::Config;
use crate::config::size::shown;
use crate::failure::Failure;
use crate::ids::{Lsn, Scope};
use crate::point::stored::Stored;
use crate::store::either::Place;

/// What one store has.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Reach {
    newest_point: Option<Timestamp>,
    /// Where its WAL ends, by system and history.
    wal: BTreeMap<String, Lsn>,
    /// The server's clock there, at the latest.
    wal_clock: Option<Timestamp>,
}

/// One copy beside the store.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    #[serde(flatten)]
    reach: Reach,
    place: String,
    /// Seconds of WAL that the store has and the copy has not.
    behind_seconds: Option<i64>,
    behind_bytes: u64,
}

impl Reach {
    /// Reads it; no key is used.
    ///
    /// # Errors
    /// The store's.
    pub async fn of(context: &Context, place: &Place, config: &Config) -> Result<Self, Failure> {
        let scopes: Vec<Scope> = config.tenants.keys().map(|id| Scope::Tenant(id.clone())).collect();
        let stored = Stored::read(&open::reader_at(context, config, place).await?, &scopes).await?;
        let mut reach = Self { newest_point: stored.points.iter().map(|p| p.facts.time).max(), ..Self::default() };
        for run in stored.plain_runs() {
            let known = reach.wal.entry(format!("{}/{}", run.system_id, run.history)).or_default();
            *known = (*known).max(run.to());
            reach.wal_clock = reach.wal_clock.max(run.clock());
        }
        Ok(reach)
    }
}

impl Standing {
    #[must_use]
    pub fn of(place: &Place, reach: Reach, store: &Reach) -> Self {
        let end = |history: &String| reach.wal.get(history).copied().unwrap_or_default();
        let seconds = |store: Timestamp, copy: Timestamp| store.duration_since(copy).as_secs().max(0);
        Self {
            place: place.store.place(),
            behind_seconds: store.wal_clock.zip(reach.wal_clock).map(|(store, copy)| seconds(store, copy)),
            behind_bytes: store.wal.iter().map(|(history, lsn)| lsn.since(end(history))).sum(),
            reach,
        }
    }

    #[must_use]
    pub fn row(&self, name: &str) -> Vec<Cell> {
        let newest = self.reach.newest_point.map_or_else(|| "none".to_owned(), |time| time.to_string());
        vec![name.into(), newest.into(), ago(self.behind_seconds).into(), Cell::number(shown(self.behind_bytes))]
    }
}
