//! The mirror of the store's envelopes: bytes as they were read, and what they name.

use std::fmt::Write as _;

use jiff::Timestamp;
use sqlx::{Connection as _, Row as _, SqliteConnection};

use super::{Catalog, CatalogError, behind};
use crate::ids::{Digest, Scope};

/// A version as it was read from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    pub version: String,
    /// By the store's clock.
    pub created: Timestamp,
    pub content: Vec<u8>,
}

/// An object that an envelope names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRow {
    pub name: String,
    pub sha256: Digest,
    pub bytes: u64,
    pub locked_until: Timestamp,
}

/// A believed envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeRow {
    pub name: String,
    pub kind: String,
    pub scope: Scope,
    pub source: String,
    pub time: Timestamp,
    pub locked_until: Timestamp,
    pub sha256: Digest,
    pub envelope: StoredVersion,
    pub signature: StoredVersion,
    pub named: Vec<NamedRow>,
}

impl Catalog {
    /// What is remembered of the envelopes below `prefix`: name, envelope, signature.
    ///
    /// # Errors
    /// `Garbled`, `Query`.
    pub async fn contents(&self, prefix: &str) -> Result<Vec<(String, StoredVersion, StoredVersion)>, CatalogError> {
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query(
            "SELECT name, version, created, content, signature_version, signature_created, signature
             FROM envelope WHERE store = ?1 AND name >= ?2 AND name < ?3 ORDER BY name",
        )
        .bind(&self.store)
        .bind(prefix)
        .bind(behind(prefix))
        .fetch_all(&mut *connection)
        .await
        .map_err(self.failed())?;
        let each = rows.iter().map(|row| {
            let stored = |version: &str, created: &str, content: &str| {
                Ok::<_, CatalogError>(StoredVersion {
                    version: row.try_get(version).map_err(self.failed())?,
                    created: self.column(row, created)?,
                    content: row.try_get(content).map_err(self.failed())?,
                })
            };
            Ok((
                row.try_get("name").map_err(self.failed())?,
                stored("version", "created", "content")?,
                stored("signature_version", "signature_created", "signature")?,
            ))
        });
        each.collect()
    }

    /// Brings the mirror up to date: envelopes that were read, and the names of those that are no longer there (or believed).
    ///
    /// # Errors
    /// `Garbled`, `Query`; then nothing was changed.
    pub async fn settle(&self, came: &[EnvelopeRow], gone: &[String]) -> Result<(), CatalogError> {
        if came.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let mut connection = self.connection.lock().await;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(self.failed())?;
        for name in gone {
            self.forget(&mut transaction, name).await.map_err(self.failed())?;
        }
        for row in came {
            self.forget(&mut transaction, &row.name).await.map_err(self.failed())?;
            self.insert(&mut transaction, row).await.map_err(self.failed())?;
        }
        transaction.commit().await.map_err(self.failed())
    }

    /// Forgets the mirror of this store; what only this machine knows stays.
    ///
    /// # Errors
    /// `Garbled`, `Query`.
    pub async fn clear(&self) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock().await;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(self.failed())?;
        for query in ["DELETE FROM envelope WHERE store = ?1", "DELETE FROM named WHERE store = ?1"] {
            sqlx::query(query).bind(&self.store).execute(&mut *transaction).await.map_err(self.failed())?;
        }
        transaction.commit().await.map_err(self.failed())
    }

    async fn forget(&self, connection: &mut SqliteConnection, name: &str) -> Result<(), sqlx::Error> {
        let queries = [
            "DELETE FROM envelope WHERE store = ?1 AND name = ?2",
            "DELETE FROM named WHERE store = ?1 AND envelope = ?2",
        ];
        for query in queries {
            sqlx::query(query).bind(&self.store).bind(name).execute(&mut *connection).await?;
        }
        Ok(())
    }

    async fn insert(&self, connection: &mut SqliteConnection, row: &EnvelopeRow) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO envelope VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)")
            .bind(&self.store)
            .bind(&row.name)
            .bind(&row.kind)
            .bind(row.scope.to_string())
            .bind(&row.source)
            .bind(row.time.to_string())
            .bind(row.locked_until.to_string())
            .bind(row.sha256.to_string())
            .bind(&row.envelope.version)
            .bind(row.envelope.created.to_string())
            .bind(&row.envelope.content)
            .bind(&row.signature.version)
            .bind(row.signature.created.to_string())
            .bind(&row.signature.content)
            .execute(&mut *connection)
            .await?;
        for named in &row.named {
            // An envelope that names something twice says the same twice, or level 0 says that it does not.
            sqlx::query("INSERT OR IGNORE INTO named VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
                .bind(&self.store)
                .bind(&row.name)
                .bind(&named.name)
                .bind(named.sha256.to_string())
                .bind(i64::try_from(named.bytes).unwrap_or(i64::MAX))
                .bind(named.locked_until.to_string())
                .execute(&mut *connection)
                .await?;
        }
        sqlx::query("INSERT OR REPLACE INTO seen VALUES (?1, ?2, ?3, ?4)")
            .bind(&self.store)
            .bind(&row.name)
            .bind(row.sha256.to_string())
            .bind(row.locked_until.to_string())
            .execute(&mut *connection)
            .await?;
        Ok(())
    }

    /// The whole mirror of this store as text, the same for the same rows.
    ///
    /// # Errors
    /// `Garbled`, `Query`.
    pub async fn dump(&self) -> Result<String, CatalogError> {
        let mut connection = self.connection.lock().await;
        let queries = [
            "SELECT 'envelope ' || name || ' ' || kind || ' ' || scope || ' ' || source || ' ' || time || ' ' || locked_until
                || ' ' || sha256 || ' ' || version || ' ' || created || ' ' || hex(content) || ' ' || signature_version
                || ' ' || signature_created || ' ' || hex(signature) AS line
             FROM envelope WHERE store = ?1 ORDER BY name",
            "SELECT 'named ' || envelope || ' ' || name || ' ' || sha256 || ' ' || bytes || ' ' || locked_until AS line
             FROM named WHERE store = ?1 ORDER BY envelope, name",
        ];
        let mut text = String::new();
        for query in queries {
            let rows = sqlx::query(query).bind(&self.store).fetch_all(&mut *connection).await.map_err(self.failed())?;
            for row in rows {
                let line: String = row.try_get("line").map_err(self.failed())?;
                let _ = writeln!(text, "{line}");
            }
        }
        Ok(text)
    }

    /// How many envelopes, and objects named by them, the mirror has.
    ///
    /// # Errors
    /// `Garbled`, `Query`.
    pub async fn counts(&self) -> Result<(u64, u64), CatalogError> {
        let mut connection = self.connection.lock().await;
        let mut counts = [0_i64; 2];
        let queries = ["SELECT count(*) FROM envelope WHERE store = ?1", "SELECT count(*) FROM named WHERE store = ?1"];
        for (count, query) in counts.iter_mut().zip(queries) {
            *count =
                sqlx::query_scalar(query).bind(&self.store).fetch_one(&mut *connection).await.map_err(self.failed())?;
        }
        Ok((counts[0].unsigned_abs(), counts[1].unsigned_abs()))
    }
}
