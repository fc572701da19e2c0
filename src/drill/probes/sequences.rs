//! Whether every sequence stands at or beyond the greatest value in its column: one that lags makes the next insert fail.

use sqlx::PgConnection;

use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::Failure;
use crate::postgres::sql;

pub const KIND: Kind = Kind { id: "postgres.sequences", layer: Layer::Postgres, grade: Grade::E1 };

/// A sequence and the column it feeds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fed {
    /// `public.res_partner.id`
    pub column: String,
    /// None when it has given nothing yet.
    pub last: Option<i64>,
    pub greatest: Option<i64>,
}

/// Rising sequences owned by an integer column of an ordinary table (serial, identity).
const LIST: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(a.attname), \
     pg_catalog.pg_sequence_last_value(s.seqrelid)::text \
   FROM pg_catalog.pg_sequence s \
   JOIN pg_catalog.pg_depend d ON d.objid = s.seqrelid AND d.classid = 'pg_catalog.pg_class'::regclass \
     AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0 \
   JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind = 'r' \
   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
   JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND a.atttypid IN (20, 21, 23) \
   WHERE s.seqincrement > 0 AND NOT s.seqcycle ORDER BY 1, 2";

/// How many columns one statement asks about.
const AT_ONCE: usize = 100;

/// Asks in the database that `connection` is connected to.
///
/// # Errors
/// When the server does not answer.
pub async fn ask(connection: &mut PgConnection) -> Result<Seen, Failure> {
    let rows = sql::text_rows(connection, "sequences", LIST).await?;
    let mut fed = Vec::new();
    for rows in rows.chunks(AT_ONCE) {
        let known: Vec<(&String, &String, Option<i64>)> = rows.iter().filter_map(|row| known(row)).collect();
        let selects = known.iter().enumerate().map(|(at, (table, column, _))| {
            format!("SELECT {at}::text, pg_catalog.max({column})::text FROM ONLY {table}")
        });
        let query = selects.collect::<Vec<_>>().join(" UNION ALL ");
        for row in sql::text_rows(connection, "greatest values", &query).await? {
            let [Some(at), greatest] = row.as_slice() else { continue };
            let Some((table, column, last)) = at.parse().ok().and_then(|at: usize| known.get(at)) else { continue };
            let greatest = greatest.as_deref().and_then(|text| text.parse().ok());
            fed.push(Fed { column: format!("{table}.{column}"), last: *last, greatest });
        }
    }
    Ok(judge(&fed))
}

fn known(row: &[Option<String>]) -> Option<(&String, &String, Option<i64>)> {
    match row {
        [Some(table), Some(column), last] => Some((table, column, last.as_deref().and_then(|text| text.parse().ok()))),
        _ => None,
    }
}

#[must_use]
pub fn judge(fed: &[Fed]) -> Seen {
    let lags = |fed: &&Fed| fed.greatest.is_some_and(|greatest| greatest > fed.last.unwrap_or(0));
    let behind: Vec<&Fed> = fed.iter().filter(lags).collect();
    let seen = if behind.is_empty() {
        Seen::passed(format!("all {} sequences stand beyond their columns", fed.len()))
    } else {
        let names: Vec<&str> = behind.iter().map(|fed| fed.column.as_str()).collect();
        let detail = format!(
            "{} behind: the next insert fails in {}",
            super::count(behind.len(), "sequence"),
            super::few(&names)
        );
        Seen::failed(Verdict::Degraded, detail)
    };
    seen.with(behind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    fn fed(last: Option<i64>, greatest: Option<i64>) -> Fed {
        Fed { column: "public.t.id".to_owned(), last, greatest }
    }

    #[test]
    fn a_sequence_behind_its_column_degrades() {
        let fine =
            [fed(Some(9), Some(9)), fed(Some(40), Some(9)), fed(None, None), fed(Some(1), None), fed(None, Some(-5))];
        assert_eq!(judge(&fine).outcome, Outcome::Passed);
        assert_eq!(judge(&[fed(Some(8), Some(9))]).gate, Some(Verdict::Degraded));
        assert_eq!(judge(&[fed(None, Some(1))]).gate, Some(Verdict::Degraded));
    }
}
