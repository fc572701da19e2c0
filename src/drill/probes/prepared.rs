//! Whether transactions that others prepared (two-phase commit) wait in the restored server: they hold locks, and somebody else's
//! unfinished work. The tenant's own are as they were at that moment, for its people to decide.

use sqlx::PgConnection;

use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::Failure;
use crate::postgres::sql;

pub const KIND: Kind = Kind { id: "postgres.prepared", layer: Layer::Postgres, grade: Grade::E1 };

/// Asks for the database of each; their names (gid) may hold anything and are not read.
///
/// # Errors
/// When the server does not answer.
pub async fn ask(connection: &mut PgConnection, ours: &[&str]) -> Result<Seen, Failure> {
    let list = "SELECT database::text FROM pg_catalog.pg_prepared_xacts ORDER BY 1";
    let rows = sql::text_rows(connection, "prepared transactions", list).await?;
    let databases: Vec<String> = rows.into_iter().flatten().flatten().collect();
    Ok(judge(&databases, ours))
}

#[must_use]
pub fn judge(databases: &[String], ours: &[&str]) -> Seen {
    let (own, foreign): (Vec<&String>, Vec<&String>) =
        databases.iter().partition(|database| ours.contains(&database.as_str()));
    let seen = match (own.len(), foreign.len()) {
        (0, 0) => Seen::passed("no prepared transaction waits"),
        (own, 0) => {
            let what = super::count(own, "prepared transaction");
            Seen::passed(format!("{what} of the tenant's own, as at that moment; nobody else's"))
        }
        (_, foreign) => {
            let what = super::count(foreign, "prepared transaction");
            Seen::failed(Verdict::Exposed, format!("{what} of other databases came along"))
        }
    };
    seen.with(serde_json::json!({ "own": own.len(), "foreign": foreign.len() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    #[test]
    fn ours_may_wait_and_others_may_not() {
        let of = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(judge(&of(&[]), &["acme"]).outcome, Outcome::Passed);
        assert_eq!(judge(&of(&["acme"]), &["acme"]).outcome, Outcome::Passed);
        assert_eq!(judge(&of(&["acme", "globex"]), &["acme"]).gate, Some(Verdict::Exposed));
    }
}
