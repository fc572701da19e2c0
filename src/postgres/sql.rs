//! Ordinary SQL through sqlx: a connection to one database of a [`Server`], and answers as texts.
//!
//! Two kinds of servers are spoken to. The source, as the configured role: [`connect`]. A recovered one, whose
//! catalogs are hostile: [`connect_with`] and the settings of `server::guarded_settings`, which come with the session
//! and therefore outrank what `ALTER ROLE` and `ALTER DATABASE ... SET` left in the catalogs.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow, PgSslMode};
use sqlx::{AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, PgConnection, Row as _, ValueRef as _};

use super::connect::{Server, SslMode};
use super::wire::Fault;
use crate::failure::{Failure, Kind};
use crate::ids::Lsn;

/// From the first packet to a usable session.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error("{server}, database {database}: cannot connect")]
    Connect {
        server: String,
        database: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("{server}, database {database}: no connection within {} s", CONNECT_WITHIN.as_secs())]
    Silent { server: String, database: String },
    #[error("{server}: {fault}")]
    Settings {
        server: String,
        #[source]
        fault: Fault,
    },
    #[error("{what}: the query failed")]
    Query {
        /// What was asked, in words.
        what: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("{what}: the answer has no {wanted}")]
    Answer { what: String, wanted: &'static str },
}

impl SqlError {
    /// The server's SQLSTATE, where it answered at all.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => {
                source.as_database_error().and_then(|error| error.code()).map(std::borrow::Cow::into_owned)
            }
            Self::Silent { .. } | Self::Settings { .. } | Self::Answer { .. } => None,
        }
    }
}

impl SqlError {
    /// The server's message, where it answered at all.
    fn said(&self) -> Option<&str> {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => {
                source.as_database_error().map(sqlx::error::DatabaseError::message)
            }
            Self::Silent { .. } | Self::Settings { .. } | Self::Answer { .. } => None,
        }
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        let refused = error.sqlstate();
        let (object, kind, next) = match &error {
            SqlError::Connect { server, .. } => match refused.as_deref() {
                Some("28P01") => (server.clone(), Kind::Usage, "check the password file and the role's password"),
                Some("28000") => (server.clone(), Kind::Usage, "let the role in by pg_hba.conf"),
                Some("3D000") => (server.clone(), Kind::Usage, "check the database's name"),
                None | Some("53300" | "57P01" | "57P02" | "57P03") => {
                    (server.clone(), Kind::Unreachable, "check that the server runs, then try again")
                }
                Some(_) => (server.clone(), Kind::Failed, "see the server's message and its log"),
            },
            SqlError::Silent { server, .. } => {
                (server.clone(), Kind::Unreachable, "check that the server runs, then try again")
            }
            SqlError::Settings { server, .. } => (server.clone(), Kind::Usage, "correct it in lifeboat.toml"),
            SqlError::Query { what, .. } => (what.clone(), Kind::Failed, "see the server's message and its log"),
            SqlError::Answer { what, .. } => (what.clone(), Kind::Failed, "check the server's version"),
        };
        let cause = match error.said() {
            // The server's own words; sqlx adds the line of PostgreSQL's source.
            Some(said) => format!("{error}: {said}"),
            None => crate::failure::chain(&error),
        };
        let cause = [": ", ", "].iter().find_map(|end| cause.strip_prefix(&format!("{object}{end}"))).unwrap_or(&cause);
        Self::new(kind, object, cause, next)
    }
}

/// Connects to `database` of `server`.
///
/// # Errors
/// When the server is out of reach or does not let the role in.
pub async fn connect(server: &Server, database: &str) -> Result<PgConnection, SqlError> {
    connect_with(server, database, &[]).await
}

/// As [`connect`], with run-time settings for the session. They outrank the server's configuration files and the
/// settings of roles and databases.
///
/// # Errors
/// As [`connect`]; or when the role may not change a setting.
pub async fn connect_with(
    server: &Server,
    database: &str,
    settings: &[(&str, &str)],
) -> Result<PgConnection, SqlError> {
    let options = options(server, database)?.options(settings.iter().copied());
    let place = server.place();
    match tokio::time::timeout(CONNECT_WITHIN, PgConnection::connect_with(&options)).await {
        Ok(connected) => {
            connected.map_err(|source| SqlError::Connect { server: place, database: database.to_owned(), source })
        }
        Err(_) => Err(SqlError::Silent { server: place, database: database.to_owned() }),
    }
}

/// sqlx begins with what `PG*` variables of the environment say; everything that matters is set over it here, so that
/// what `lifeboat.toml` says is what is meant (`sslmode`, for one).
fn options(server: &Server, database: &str) -> Result<PgConnectOptions, SqlError> {
    let mode = match (server.sslmode, &server.ca_file) {
        (SslMode::Disable, _) => PgSslMode::Disable,
        (SslMode::Prefer, None) => PgSslMode::Prefer,
        (SslMode::Require, None) => PgSslMode::Require,
        (SslMode::Prefer | SslMode::Require | SslMode::VerifyCa, Some(_)) => PgSslMode::VerifyCa,
        (SslMode::VerifyFull, Some(_)) => PgSslMode::VerifyFull,
        (mode @ (SslMode::VerifyCa | SslMode::VerifyFull), None) => {
            let fault = Fault::NoCaFile { mode: mode.name() };
            return Err(SqlError::Settings { server: server.place(), fault });
        }
    };
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(server.port)
        .username(&server.user)
        .database(database)
        .application_name(&server.application_name)
        .ssl_mode(mode)
        .password(server.password.as_ref().map_or("", |password| password.as_str()))
        .disable_statement_logging();
    options = if server.is_local() { options.socket(&server.host) } else { options.host(&server.host) };
    if let Some(path) = &server.ca_file {
        options = options.ssl_root_cert(path);
    }
    Ok(options)
}

/// Runs a query made of constants and checked names; every column comes back as text (`None` for NULL), so cast what is
/// not text in the query itself (`oid::text`). `what` says in words what is asked, for messages.
///
/// # Errors
/// When the server refuses, or a column is not text.
pub async fn text_rows(
    connection: &mut PgConnection,
    what: &str,
    query: &str,
) -> Result<Vec<Vec<Option<String>>>, SqlError> {
    let failed = |source| SqlError::Query { what: what.to_owned(), source };
    let rows = sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(connection).await.map_err(failed)?;
    rows.iter().map(|row| texts(row).map_err(failed)).collect()
}

/// The simple protocol delivers texts whatever the type is; sqlx would insist on the type's own decoder.
fn texts(row: &PgRow) -> Result<Vec<Option<String>>, sqlx::Error> {
    (0..row.columns().len())
        .map(|index| {
            let value = row.try_get_raw(index)?;
            if value.is_null() {
                return Ok(None);
            }
            let text = value
                .as_str()
                .map_err(|source| sqlx::Error::ColumnDecode { index: row.column(index).name().to_owned(), source })?;
            Ok(Some(text.to_owned()))
        })
        .collect()
}

/// Runs a statement made of constants and quoted names; its rows are thrown away.
///
/// # Errors
/// When the server refuses.
pub async fn execute(connection: &mut PgConnection, what: &str, statement: &str) -> Result<(), SqlError> {
    let failed = |source| SqlError::Query { what: what.to_owned(), source };
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.map(|_| ()).map_err(failed)
}

/// The first column of the first row.
///
/// # Errors
/// When the query fails or answers nothing.
pub async fn value(connection: &mut PgConnection, what: &str, query: &str) -> Result<String, SqlError> {
    let rows = text_rows(connection, what, query).await?;
    let value = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
    value.ok_or_else(|| SqlError::Answer { what: what.to_owned(), wanted: "value" })
}

/// The server's clock.
///
/// # Errors
/// When the query fails or the answer is no time.
pub async fn clock(connection: &mut PgConnection) -> Result<jiff::Timestamp, SqlError> {
    let query = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let text = value(connection, "the server's clock", query).await?;
    text.parse().map_err(|_| SqlError::Answer { what: "the server's clock".to_owned(), wanted: "time" })
}

/// A name as SQL reads it, whatever is in it: `"a""b"`.
#[must_use]
pub fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL reads it, with `standard_conforming_strings` on or off: `'it''s'`, ` E'a\\b'`.
#[must_use]
pub fn quoted_text(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// What `pg_replication_slots` says of a physical slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFacts {
    pub active: bool,
    /// The oldest WAL it keeps.
    pub restart: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost` (documentation, `pg_replication_slots`).
    pub wal_status: Option<String>,
    /// WAL the server may still write before the slot is in danger, in bytes; `None` when nothing limits it.
    pub safe_bytes: Option<i64>,
}

/// The facts of the slot `name`; `None` when there is none of that name.
///
/// # Errors
/// When the query fails.
pub async fn slot_facts(connection: &mut PgConnection, name: &str) -> Result<Option<SlotFacts>, SqlError> {
    let what = format!("replication slot {name}");
    let query = format!(
        "SELECT active::text, restart_lsn::text, wal_status, safe_wal_size::text \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        quoted_text(name)
    );
    let rows = text_rows(connection, &what, &query).await?;
    let Some(row) = rows.into_iter().next() else { return Ok(None) };
    let [active, restart, wal_status, safe_bytes] =
        <[_; 4]>::try_from(row).map_err(|_| SqlError::Answer { what, wanted: "four columns" })?;
    Ok(Some(SlotFacts {
        active: active.as_deref() == Some("true"),
        restart: restart.and_then(|lsn| lsn.parse().ok()),
        wal_status,
        safe_bytes: safe_bytes.and_then(|bytes| bytes.parse().ok()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_leave_their_quotes() {
        assert_eq!(quoted_name("a\"; DROP"), "\"a\"\"; DROP\"");
        assert_eq!(quoted_text("it's"), "'it''s'");
        assert_eq!(quoted_text("\\'"), " E'\\\\'''");
    }
}
