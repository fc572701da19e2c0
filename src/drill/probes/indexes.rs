//! Indexes that exist and are not used: invalid ones, left behind by a `CREATE INDEX CONCURRENTLY` that failed, or one that was
//! under way at that moment. Their table is slow, and a unique one keeps nothing unique.

use sqlx::PgConnection;

use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::Failure;
use crate::postgres::sql;

pub const KIND: Kind = Kind { id: "postgres.indexes", layer: Layer::Postgres, grade: Grade::E1 };

/// Asks for them in the database that `connection` is connected to.
///
/// # Errors
/// When the server does not answer.
pub async fn ask(connection: &mut PgConnection) -> Result<Seen, Failure> {
    let what = "indexes";
    let invalid = "SELECT c.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
                   WHERE NOT (i.indisvalid AND i.indisready AND i.indislive) AND c.relkind = 'i' ORDER BY 1";
    let rows = sql::text_rows(connection, what, invalid).await?;
    let names: Vec<String> = rows.into_iter().flatten().flatten().collect();
    let all = sql::value(connection, what, "SELECT count(*)::text FROM pg_catalog.pg_index").await?;
    Ok(judge(&names, &all))
}

#[must_use]
pub fn judge(invalid: &[String], all: &str) -> Seen {
    let seen = if invalid.is_empty() {
        Seen::passed(format!("all {all} indexes are in use"))
    } else {
        let detail = format!("{} of {all} indexes not in use: {}", invalid.len(), super::few(invalid));
        Seen::failed(Verdict::Degraded, detail)
    };
    seen.with(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    #[test]
    fn an_index_that_is_not_used_degrades() {
        assert_eq!(judge(&[], "12").outcome, Outcome::Passed);
        assert_eq!(judge(&["sale_order_idx".to_owned()], "12").gate, Some(Verdict::Degraded));
    }
}
