//! The catalog: what this machine has read of a store, in `state_dir/catalog.sqlite`. A cache; losing it costs time only.
//!
//! ```text
//! envelope   the bytes of every believed envelope and of its signature, with the versions they were read from    rebuilt from the store
//! named      the objects that each of them names                                                          rebuilt from the store
//! verified   when the bytes of an object were last found right, or not        of this machine alone: decides what is read next
//! seen       every envelope until its lock ends, also when it is gone         of this machine alone: notices that it was taken away
//! ```
//! Every row is of one store (its place), so that a second copy has rows of its own. `envelope` and `named` are a mirror of the store:
//! `lifeboat catalog rebuild` makes the same rows ([`Catalog::dump`]). The other two cannot be rebuilt, and nothing is
//! believed or left out on their word.
//!
//! Invariant: nothing is believed because it is here. Whoever takes an envelope from the catalog has seen the same version in the store's listing,
//! and checks its signature again. One writer at a time (SQLite's own lock, WAL mode); a kill leaves a transaction done or not
//! done. A file of an older version or a garbled one is begun anew; one of a newer version is left alone. Mode 0600.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row as _, SqliteConnection};
use tokio::sync::Mutex;

use crate::failure::{Failure, Kind};

mod file;
mod memory;
mod mirror;
#[cfg(test)]
mod tests;

pub use memory::{SeenRow, VerifiedRow};
pub use mirror::{EnvelopeRow, NamedRow, StoredVersion};

/// The file's name below the state directory.
pub const FILE: &str = "catalog.sqlite";

/// `PRAGMA user_version` of the tables below; another number is another layout.
const LAYOUT: i64 = 1;

/// How long another process's writing is waited for.
const BUSY: Duration = Duration::from_secs(10);

const TABLES: &str = "
CREATE TABLE envelope (
    store TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, scope TEXT NOT NULL, source TEXT NOT NULL,
    time TEXT NOT NULL, locked_until TEXT NOT NULL, sha256 TEXT NOT NULL,
    version TEXT NOT NULL, created TEXT NOT NULL, content BLOB NOT NULL,
    signature_version TEXT NOT NULL, signature_created TEXT NOT NULL, signature BLOB NOT NULL,
    PRIMARY KEY (store, name)) WITHOUT ROWID;
CREATE TABLE named (
    store TEXT NOT NULL, envelope TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
    locked_until TEXT NOT NULL,
    PRIMARY KEY (store, envelope, name)) WITHOUT ROWID;
CREATE TABLE verified (
    store TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, sha256 TEXT NOT NULL, level INTEGER NOT NULL,
    time TEXT NOT NULL, outcome TEXT NOT NULL,
    PRIMARY KEY (store, name)) WITHOUT ROWID;
CREATE TABLE seen (
    store TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, locked_until TEXT NOT NULL,
    PRIMARY KEY (store, name, sha256)) WITHOUT ROWID;
";

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("{path}: cannot be used", path = path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: is of version {found}; this lifeboat knows version {LAYOUT}", path = path.display())]
    Newer { path: PathBuf, found: i64 },
    #[error("{path}: is garbled", path = path.display())]
    Garbled {
        path: PathBuf,
        #[source]
        source: sqlx::Error,
    },
    #[error("{path}: the query failed", path = path.display())]
    Query {
        path: PathBuf,
        #[source]
        source: sqlx::Error,
    },
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        let cause = crate::failure::chain(&error);
        let (path, kind, next) = match &error {
            CatalogError::File { path, .. } => (path, Kind::Failed, "check the state directory's room and rights"),
            CatalogError::Newer { path, .. } => {
                (path, Kind::Usage, "use the newer lifeboat, or remove the file: it is only a cache")
            }
            CatalogError::Garbled { path, .. } => (path, Kind::Failed, "remove the file: it is only a cache"),
            CatalogError::Query { path, .. } => (path, Kind::Failed, "run the command again"),
        };
        let object = path.display().to_string();
        let cause = cause.strip_prefix(&format!("{object}: ")).unwrap_or(&cause).to_owned();
        Self::new(kind, object, cause, next)
    }
}

/// What was found where the catalog should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Whole,
    /// There was none.
    New,
    /// It was garbled or of an older version, and was begun anew.
    BegunAnew {
        why: String,
    },
}

/// See the module's page. Reached through one connection; clones are not needed.
#[derive(Debug)]
pub struct Catalog {
    path: PathBuf,
    /// Which store the rows are of.
    store: String,
    connection: Mutex<SqliteConnection>,
}

impl Catalog {
    /// Opens the catalog below `state_dir` for the store at `store`; makes both when they are not there.
    ///
    /// # Errors
    /// `File`, `Newer`, `Query`.
    pub async fn open(state_dir: &Path, store: &str) -> Result<(Self, Found), CatalogError> {
        let path = state_dir.join(FILE);
        let mut found = if file::prepare(&path)? { Found::New } else { Found::Whole };
        let connection = match file::connect(&path).await {
            Ok(connection) => connection,
            Err(error @ (CatalogError::Newer { .. } | CatalogError::File { .. } | CatalogError::Query { .. })) => {
                return Err(error);
            }
            Err(garbled) => {
                found = Found::BegunAnew { why: crate::failure::chain(&garbled) };
                file::remove(&path)?;
                file::prepare(&path)?;
                file::connect(&path).await?
            }
        };
        Ok((Self { path, store: store.to_owned(), connection: Mutex::new(connection) }, found))
    }

    /// Closes the file and waits for it: SQLite removes its log by name, which must not be a successor's by then.
    ///
    /// # Errors
    /// `Query`.
    pub async fn close(self) -> Result<(), CatalogError> {
        let failed = self.failed();
        self.connection.into_inner().close().await.map_err(failed)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file: the next that opens it begins anew. For one that turned out to be garbled further in.
    ///
    /// # Errors
    /// `File`.
    pub fn discard(&self) -> Result<(), CatalogError> {
        file::remove(&self.path)
    }

    fn failed(&self) -> impl Fn(sqlx::Error) -> CatalogError + use<> {
        file::classified(&self.path)
    }

    /// A column that this module wrote as text; anything else is damage.
    fn column<T: FromStr>(&self, row: &SqliteRow, name: &str) -> Result<T, CatalogError> {
        let text: String = row.try_get(name).map_err(self.failed())?;
        text.parse().map_err(|_| CatalogError::Garbled {
            path: self.path.clone(),
            source: sqlx::Error::ColumnDecode { index: name.to_owned(), source: "not what was written".into() },
        })
    }
}

/// The end of the names that begin with `prefix`: `~` lies behind every letter that a name has.
fn behind(prefix: &str) -> String {
    format!("{prefix}~")
}
