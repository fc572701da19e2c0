//! What only this machine knows: when bytes were last verified, and which envelopes it has seen. It cannot be rebuilt, and nothing
//! is believed on its word: the first decides what is read next, the second whether somebody should be asked.

use jiff::Timestamp;
use sqlx::{Connection as _, Row as _};

use super::{Catalog, CatalogError};
use crate::ids::Digest;

/// One object whose bytes were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRow {
    pub name: String,
    /// The version that was right; empty when none was.
    pub version: String,
    pub sha256: Digest,
    pub level: u8,
    pub time: Timestamp,
    /// `right`, `healed`, or what was wrong.
    pub outcome: String,
}

/// An envelope that was read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRow {
    pub name: String,
    pub sha256: Digest,
    pub locked_until: Timestamp,
}

impl Catalog {
    /// Notes what was read. The newest word on an object counts.
    ///
    /// # Errors
    /// `Garbled`, `Query`.
    pub async fn note_verified(&self, rows: &[VerifiedRow]) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock().await;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(self.failed())?;
        for row in rows {
            sqlx::query("INSERT OR REPLACE INTO verified VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")
                .bind(&self.store)
                .bind(&row.name)
                .bind(&row.version)
                .bind(row.sha256.to_string())
                .bind(i64::from(row.level))
                .bind(row.time.to_string())
                .bind(&row.outcome)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed())?;
        }
        transaction.commit().await.map_err(self.failed())
    }

    /// Every object of this store that was read, with how it ended.
    ///
    /// # Errors
    /// `Garbled`, `Query`.
    pub async fn verified(&self) -> Result<Vec<VerifiedRow>, CatalogError> {
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query("SELECT * FROM verified WHERE store = ?1 ORDER BY name")
            .bind(&self.store)
            .fetch_all(&mut *connection)
            .await
            .map_err(self.failed())?;
        let each = rows.iter().map(|row| {
            let level: i64 = row.try_get("level").map_err(self.failed())?;
            Ok(VerifiedRow {
                name: row.try_get("name").map_err(self.failed())?,
                version: row.try_get("version").map_err(self.failed())?,
                sha256: self.column(row, "sha256")?,
                level: u8::try_from(level).unwrap_or(u8::MAX),
                time: self.column(row, "time")?,
                outcome: row.try_get("outcome").map_err(self.failed())?,
            })
        });
        each.collect()
    }

    /// Every envelope that was seen in this store.
    ///
    /// # Errors
    /// `Garbled`, `Query`.
    pub async fn seen(&self) -> Result<Vec<SeenRow>, CatalogError> {
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query("SELECT name, sha256, locked_until FROM seen WHERE store = ?1 ORDER BY name, sha256")
            .bind(&self.store)
            .fetch_all(&mut *connection)
            .await
            .map_err(self.failed())?;
        let each = rows.iter().map(|row| {
            Ok(SeenRow {
                name: row.try_get("name").map_err(self.failed())?,
                sha256: self.column(row, "sha256")?,
                locked_until: self.column(row, "locked_until")?,
            })
        });
        each.collect()
    }

    /// Forgets envelopes whose lock ended before `now`, and what was verified of objects that no envelope of the mirror names.
    ///
    /// # Errors
    /// `Garbled`, `Query`.
    pub async fn tidy(&self, now: Timestamp) -> Result<(), CatalogError> {
        let lapsed: Vec<SeenRow> = self.seen().await?.into_iter().filter(|row| row.locked_until < now).collect();
        let mut connection = self.connection.lock().await;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(self.failed())?;
        for row in lapsed {
            sqlx::query("DELETE FROM seen WHERE store = ?1 AND name = ?2 AND sha256 = ?3")
                .bind(&self.store)
                .bind(&row.name)
                .bind(row.sha256.to_string())
                .execute(&mut *transaction)
                .await
                .map_err(self.failed())?;
        }
        sqlx::query("DELETE FROM verified WHERE store = ?1 AND name NOT IN (SELECT name FROM named WHERE store = ?1)")
            .bind(&self.store)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())
    }
}
