//! The collection held: Odoo's `_gc_file_store` kept from removing files while they are copied.
//!
//! The collection runs inside the cron job `base.autovacuum_job`. Cron workers take a job with
//! `FOR NO KEY UPDATE SKIP LOCKED` (Odoo `addons/base/models/ir_cron.py`), so a lock on that job's row makes them pass it
//! over, at once and without waiting. Where the row is locked already the collection may be under way: after a bounded
//! wait the **second line** is `LOCK TABLE ir_attachment IN ROW EXCLUSIVE MODE`, which conflicts with the collection's
//! `SHARE` lock and with nothing that Odoo does otherwise; but while a collection waits for it (10 s, then it gives up),
//! writers queue behind it.
//!
//! A hold is an open transaction: it keeps the row versions of this moment from being vacuumed, and it ends with the
//! connection. [`Hold::release`] therefore says whether it lasted. It needs a primary and the right to update `ir_cron`.

use std::time::Duration;

use sqlx::PgConnection;

use crate::failure::{Failure, Kind, chain};

/// How long to wait for the job's row, and how long for the table behind it.
pub const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// There is no `ir_attachment`: not an Odoo database, so there is no filestore to hold.
    #[error("database {database} is not an Odoo database: it has no table {table}")]
    NotOdoo { database: String, table: &'static str },
    #[error("database {database}: the collection could not be held within {waited:?}")]
    Busy { database: String, waited: Duration },
    #[error("database {database}: a hold needs the primary, this server is a standby")]
    Standby { database: String },
    #[error("database {database}: no right to lock {table}")]
    NoRight { database: String, table: &'static str },
    /// The transaction ended before it was released: files may have been collected meanwhile.
    #[error("database {database}: the hold on the collection was lost")]
    Lost {
        database: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("database {database}: cannot hold the collection")]
    Sql {
        database: String,
        #[source]
        source: sqlx::Error,
    },
}

impl From<HoldError> for Failure {
    fn from(error: HoldError) -> Self {
        let cause = chain(&error);
        let (kind, database, next) = match error {
            HoldError::NotOdoo { database, .. } => {
                (Kind::Usage, database, "remove the filestore from this database's configuration")
            }
            HoldError::Busy { database, .. } => {
                (Kind::Failed, database, "see pg_locks for who holds ir_cron or ir_attachment, then try again")
            }
            HoldError::Standby { database } => (Kind::Usage, database, "give the primary's address for this cluster"),
            HoldError::NoRight { database, .. } => {
                (Kind::Usage, database, "grant UPDATE on ir_cron and ir_attachment to the role that backs up")
            }
            HoldError::Lost { database, .. } => (Kind::Unreachable, database, "run the backup again"),
            HoldError::Sql { database, .. } => (Kind::Unreachable, database, "see the cause; then try again"),
        };
        Self::new(kind, format!("database {database}"), cause, next)
    }
}

/// What keeps the collection away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// The row of `base.autovacuum_job`: cron workers pass the job over. Nobody waits.
    CronRow,
    /// `ir_attachment` in `ROW EXCLUSIVE` mode: a collection waits 10 s and gives up, writers behind it.
    Attachments,
}

/// An open transaction that keeps the collection from removing files.
#[derive(Debug)]
pub struct Hold<'c> {
    /// The connection it lives on: use it to read rows under the hold, never to end the transaction.
    pub connection: &'c mut PgConnection,
    pub line: Line,
    /// Why it is not the first line; to be shown as a notice.
    pub note: Option<String>,
    database: String,
    /// This backend's start: the same at release, or the hold was lost.
    backend: String,
}

impl<'c> Hold<'c> {
    /// Holds the collection of the database `connection` is connected to, waiting [`PATIENCE`] at most for each line.
    ///
    /// Expected flow: take, read [`super::rows::referenced`], copy, [`Hold::release`].
    /// Guarantees: while it lasts, a file that a committed row references is not removed by Odoo.
    /// Assumptions: `connection` is in no transaction, and nobody ends this one.
    ///
    /// # Errors
    /// [`HoldError::NotOdoo`] where there are no attachments; [`HoldError::Busy`] where neither line could be had.
    pub async fn take(connection: &'c mut PgConnection) -> Result<Self, HoldError> {
        Self::take_within(connection, PATIENCE).await
    }

    /// [`Hold::take`] with another patience.
    ///
    /// # Errors
    /// As [`Hold::take`].
    pub async fn take_within(connection: &'c mut PgConnection, patience: Duration) -> Result<Self, HoldError> {
        let database: String = sqlx::query_scalar("SELECT pg_catalog.current_database()::text")
            .fetch_one(&mut *connection)
            .await
            .map_err(|source| HoldError::Sql { database: String::new(), source })?;
        match lock(connection, &database, patience).await {
            Ok((line, note, backend)) => Ok(Self { connection, line, note, database, backend }),
            Err(error) => {
                // The first error is the one to tell; a connection that cannot roll back is closed by its owner.
                let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
                Err(error)
            }
        }
    }

    /// Ends the hold.
    ///
    /// # Errors
    /// [`HoldError::Lost`] when it had ended before: what was copied must be checked against the rows again.
    pub async fn release(self) -> Result<(), HoldError> {
        let Self { connection, database, backend, .. } = self;
        let lost = |source| HoldError::Lost { database: database.clone(), source };
        let now = sqlx::query_scalar::<_, String>(BACKEND).fetch_one(&mut *connection).await.map_err(lost)?;
        sqlx::query("ROLLBACK").execute(&mut *connection).await.map_err(lost)?;
        if now == backend { Ok(()) } else { Err(lost(sqlx::Error::Protocol("the transaction was ended".into()))) }
    }
}

/// This backend, and the transaction it is in.
const BACKEND: &str = "SELECT pg_catalog.pg_backend_pid()::text || '/' || \
     coalesce(pg_catalog.pg_current_xact_id_if_assigned()::text, 'none')";

async fn lock(
    connection: &mut PgConnection,
    database: &str,
    patience: Duration,
) -> Result<(Line, Option<String>, String), HoldError> {
    let sql = |source| HoldError::Sql { database: database.to_owned(), source };
    sqlx::query("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").execute(&mut *connection).await.map_err(
        |source| match code(&source).as_deref() {
            Some("25006" | "0A000") => HoldError::Standby { database: database.to_owned() },
            _ => sql(source),
        },
    )?;
    settle(connection, patience).await.map_err(sql)?;
    let has = tables(connection).await.map_err(sql)?;
    if !has.attachments {
        return Err(HoldError::NotOdoo { database: database.to_owned(), table: "ir_attachment" });
    }
    let mut note = Some("it has no cron job base.autovacuum_job".to_owned());
    if has.crons {
        match cron_row(connection).await {
            Ok(true) => {
                let backend = sqlx::query_scalar(BACKEND).fetch_one(connection).await.map_err(sql)?;
                return Ok((Line::CronRow, None, backend));
            }
            Ok(false) => {}
            Err(source) if code(&source).as_deref() == Some("55P03") => {
                note = Some(format!("the collection's job is running, or held by another, for more than {patience:?}"));
            }
            Err(source) => return Err(refused(source, database, "ir_cron")),
        }
    }
    match attachments(connection).await {
        Ok(backend) => Ok((Line::Attachments, note, backend)),
        Err(source) if code(&source).as_deref() == Some("55P03") => {
            Err(HoldError::Busy { database: database.to_owned(), waited: patience * 2 })
        }
        Err(source) => Err(refused(source, database, "ir_attachment")),
    }
}

/// Bounds every wait, and keeps the idle transaction and its statements from being ended by the server's settings.
async fn settle(connection: &mut PgConnection, patience: Duration) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT pg_catalog.set_config('lock_timeout', $1, true), \
         pg_catalog.set_config('search_path', 'pg_catalog', true), \
         pg_catalog.set_config('statement_timeout', '0', true), \
         pg_catalog.set_config('idle_in_transaction_session_timeout', '0', true)",
    )
    .bind(format!("{}ms", patience.as_millis().max(1)))
    .execute(connection)
    .await?;
    Ok(())
}

struct Tables {
    attachments: bool,
    crons: bool,
}

/// Which of the tables are there as ordinary tables: locking a row of a view would run what its owner wrote into it.
async fn tables(connection: &mut PgConnection) -> Result<Tables, sqlx::Error> {
    let there: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace('public') \
         AND relname IN ('ir_attachment', 'ir_cron', 'ir_model_data')",
    )
    .fetch_all(connection)
    .await?;
    let has = |name: &str| there.iter().any(|table| table == name);
    Ok(Tables { attachments: has("ir_attachment"), crons: has("ir_cron") && has("ir_model_data") })
}

/// Locks the row of `base.autovacuum_job`; false when there is none. On a lock timeout the transaction stays usable.
async fn cron_row(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query("SAVEPOINT first_line").execute(&mut *connection).await?;
    let locked = sqlx::query(
        "SELECT id FROM public.ir_cron WHERE id = (SELECT res_id FROM public.ir_model_data \
         WHERE module = 'base' AND name = 'autovacuum_job' AND model = 'ir.cron') FOR NO KEY UPDATE",
    )
    .fetch_optional(&mut *connection)
    .await;
    if locked.is_err() {
        sqlx::query("ROLLBACK TO SAVEPOINT first_line").execute(connection).await?;
    }
    locked.map(|row| row.is_some())
}

async fn attachments(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query("LOCK TABLE ONLY public.ir_attachment IN ROW EXCLUSIVE MODE").execute(&mut *connection).await?;
    // A transaction id of its own, so that release can tell this transaction from a later one.
    sqlx::query("SELECT pg_catalog.pg_current_xact_id()").execute(&mut *connection).await?;
    sqlx::query_scalar(BACKEND).fetch_one(connection).await
}

fn refused(source: sqlx::Error, database: &str, table: &'static str) -> HoldError {
    let database = database.to_owned();
    match code(&source).as_deref() {
        Some("25006") => HoldError::Standby { database },
        Some("42501") => HoldError::NoRight { database, table },
        _ => HoldError::Sql { database, source },
    }
}

/// The server's SQLSTATE (PostgreSQL, Appendix A).
fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|e| e.code()).map(|c| c.into_owned())
}
