//! Unlogged tables: no WAL is written for them, so they come back empty, as PostgreSQL means them to. What was in them is lost.

use sqlx::PgConnection;

use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::Failure;
use crate::postgres::sql;

pub const KIND: Kind = Kind { id: "postgres.unlogged", layer: Layer::Postgres, grade: Grade::E1 };

/// Asks for them in the database that `connection` is connected to.
///
/// # Errors
/// When the server does not answer.
pub async fn ask(connection: &mut PgConnection) -> Result<Seen, Failure> {
    let list = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                WHERE c.relpersistence = 'u' AND c.relkind = 'r' ORDER BY 1";
    let rows = sql::text_rows(connection, "unlogged tables", list).await?;
    Ok(judge(&rows.into_iter().flatten().flatten().collect::<Vec<_>>()))
}

#[must_use]
pub fn judge(tables: &[String]) -> Seen {
    let seen = if tables.is_empty() {
        Seen::passed("no table is unlogged: none comes back empty")
    } else {
        let detail =
            format!("{} came back empty: {}", super::count(tables.len(), "unlogged table"), super::few(tables));
        Seen::failed(Verdict::Degraded, detail)
    };
    seen.with(tables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    #[test]
    fn what_no_wal_was_written_for_is_lost_and_said() {
        assert_eq!(judge(&[]).outcome, Outcome::Passed);
        assert_eq!(judge(&["public.cache".to_owned()]).gate, Some(Verdict::Degraded));
    }
}
