//! The file of the catalog: making it, opening it, telling a garbled one.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{BUSY, CatalogError, LAYOUT, TABLES};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

/// Makes folder and file where they are not there; true when the file was not. Nobody but the owner reads it: it says which tenants
/// there are, and how much they have.
pub(super) fn prepare(path: &Path) -> Result<bool, CatalogError> {
    let failed = |source: io::Error| CatalogError::File { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // SQLite gives its own files beside it the same mode.
            std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
            Ok(false)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Removes the file and what SQLite keeps beside it.
pub(super) fn remove(path: &Path) -> Result<(), CatalogError> {
    for ending in ["-wal", "-shm", ""] {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CatalogError::File { path: PathBuf::from(name), source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Opens the file and sees to its tables.
pub(super) async fn connect(path: &Path) -> Result<SqliteConnection, CatalogError> {
    let failed = classified(path);
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        // A power cut may take the newest rows, never the file: they are read again.
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY)
        .disable_statement_logging();
    let mut connection = options.connect().await.map_err(&failed)?;
    if layout(&mut connection, path).await? == LAYOUT {
        return Ok(connection);
    }
    // Two processes may come here at once: the second finds what the first has made.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
    if layout(&mut transaction, path).await? != LAYOUT {
        sqlx::raw_sql(TABLES).execute(&mut *transaction).await.map_err(&failed)?;
        sqlx::query("PRAGMA user_version = 1").execute(&mut *transaction).await.map_err(&failed)?;
    }
    transaction.commit().await.map_err(&failed)?;
    Ok(connection)
}

/// The layout of what is there; 0 for an empty file.
async fn layout(connection: &mut SqliteConnection, path: &Path) -> Result<i64, CatalogError> {
    let failed = classified(path);
    // One statement, so that both are of one moment: another process may be making the tables just now.
    let (found, tables): (i64, i64) =
        sqlx::query_as("SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version")
            .fetch_one(&mut *connection)
            .await
            .map_err(&failed)?;
    match found {
        LAYOUT => Ok(LAYOUT),
        0 if tables == 0 => Ok(0),
        found if found > LAYOUT => Err(CatalogError::Newer { path: path.to_owned(), found }),
        found => Err(CatalogError::Garbled {
            path: path.to_owned(),
            source: sqlx::Error::Protocol(format!("it is of the older version {found}")),
        }),
    }
}

/// `Garbled` for what only a damaged or foreign file answers, `Query` for anything else.
pub(super) fn classified(path: &Path) -> impl Fn(sqlx::Error) -> CatalogError + use<> {
    let path = path.to_owned();
    move |source| {
        let code = source.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<u32>().ok());
        // SQLITE_ERROR (1: a table that should be there), SQLITE_CORRUPT (11), SQLITE_NOTADB (26), in the low byte.
        let garbled = matches!(code.map(|code| code & 0xFF), Some(1 | 11 | 26))
            || matches!(source, sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_));
        let path = path.clone();
        if garbled { CatalogError::Garbled { path, source } } else { CatalogError::Query { path, source } }
    }
}
