//! What the database references: the files that must be there.
//!
//! One statement, so it is one snapshot whatever the transaction's isolation. A row's bytes are in exactly one place:
//! a file (`store_fname`), the row itself (`db_datas`), or elsewhere (`type` `url`, `cloud_storage` and the like), which
//! is reported as **external**: no backup of the filestore holds it. It reads `ir_attachment` and changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Row as _};

use super::FileName;
use crate::failure::{Failure, Kind, chain};

#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    #[error("the database has no table ir_attachment")]
    NotOdoo,
    /// A view or a foreign table in its place could run anything, or answer with another's rows.
    #[error("ir_attachment is not the ordinary table that Odoo makes")]
    NotATable,
    #[error("cannot read ir_attachment")]
    Sql(#[from] sqlx::Error),
}

impl From<RowsError> for Failure {
    fn from(error: RowsError) -> Self {
        let (kind, next) = match error {
            RowsError::NotOdoo => (Kind::Usage, "remove the filestore from this database's configuration"),
            RowsError::NotATable => (Kind::Refused, "find out who replaced the table"),
            RowsError::Sql(_) => (Kind::Unreachable, "see the cause; then try again"),
        };
        Self::new(kind, "ir_attachment", chain(&error), next)
    }
}

/// One file, as the rows that share it describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub store_fname: FileName,
    /// `file_size`; none when the rows say nothing.
    pub bytes: Option<u64>,
    /// How many rows share the file.
    pub rows: u64,
    /// Rows that disagree: a `checksum` that is not the name's, or another `file_size`.
    pub disagree: u64,
}

/// What the database references, and what of it no file holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Referenced {
    /// Sorted by name, each once.
    pub rows: Vec<Row>,
    pub counts: Counts,
    /// `store_fname` values that are no file's name (hostile, or of a version before 2-hex folders); at most 100, sorted.
    pub strange: Vec<String>,
}

/// Rows of `ir_attachment`, by where their bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Rows that name a file (also those with a strange name).
    pub with_file: u64,
    /// Rows whose name is no file's name.
    pub strange: u64,
    /// Rows that hold their bytes themselves; the database's backup has them.
    pub in_database: u64,
    /// Rows with neither, of type `binary`: zero bytes.
    pub empty: u64,
    /// Rows of other types, by type: `url`, `cloud_storage`… Their bytes are elsewhere and not backed up here.
    pub external: BTreeMap<String, u64>,
}

const STRANGE_KEPT: usize = 100;

/// The files that the database of `connection` references, and counts of everything else.
///
/// Leaves the session's `search_path` at `pg_catalog`.
///
/// # Errors
/// When the table is not there or not a table, or cannot be read.
pub async fn referenced(connection: &mut PgConnection) -> Result<Referenced, RowsError> {
    check(connection).await?;
    let rows = sqlx::query(
        "SELECT store_fname::text, file_size::bigint, lower(checksum::text), coalesce(type::text, ''), \
           db_datas IS NOT NULL, count(*) \
         FROM ONLY public.ir_attachment GROUP BY 1, 2, 3, 4, 5 ORDER BY 1",
    )
    .fetch_all(connection)
    .await?;
    let mut files = BTreeMap::new();
    let mut found = Referenced::default();
    for row in rows {
        let rows = u64::try_from(row.try_get::<i64, _>(5)?).unwrap_or(0);
        match row.try_get::<Option<String>, _>(0)?.filter(|name| !name.is_empty()) {
            Some(name) => {
                let bytes = row.try_get::<Option<i64>, _>(1)?.and_then(|b| u64::try_from(b).ok());
                found.count_file(&mut files, &name, bytes, row.try_get::<Option<String>, _>(2)?.as_deref(), rows);
            }
            None => found.counts.without_file(row.try_get(3)?, row.try_get(4)?, rows),
        }
    }
    found.rows = files.into_values().collect();
    Ok(found)
}

/// The database may be hostile: names resolve in `pg_catalog` alone, and only built-in types are read.
async fn check(connection: &mut PgConnection) -> Result<(), RowsError> {
    sqlx::query("SELECT pg_catalog.set_config('search_path', 'pg_catalog', false)").execute(&mut *connection).await?;
    let shape = sqlx::query(
        "SELECT relkind::text, (SELECT count(*) FROM pg_attribute WHERE attrelid = c.oid AND atttypid < 16384 \
           AND attname IN ('store_fname', 'file_size', 'checksum', 'type', 'db_datas')) \
         FROM pg_class c WHERE c.oid = to_regclass('public.ir_attachment')",
    )
    .fetch_optional(connection)
    .await?
    .ok_or(RowsError::NotOdoo)?;
    let ordinary = shape.try_get::<String, _>(0)? == "r" && shape.try_get::<i64, _>(1)? == 5;
    if ordinary { Ok(()) } else { Err(RowsError::NotATable) }
}

impl Referenced {
    fn count_file(
        &mut self,
        files: &mut BTreeMap<FileName, Row>,
        name: &str,
        bytes: Option<u64>,
        checksum: Option<&str>,
        rows: u64,
    ) {
        self.counts.with_file += rows;
        let Ok(store_fname) = name.parse::<FileName>() else {
            self.counts.strange += rows;
            if self.strange.len() < STRANGE_KEPT {
                self.strange.push(name.chars().take(200).collect());
            }
            return;
        };
        let row = files.entry(store_fname).or_insert(Row { store_fname, bytes, rows: 0, disagree: 0 });
        let right_sum = checksum.is_none_or(|sum| sum == store_fname.sha1());
        let right_size = bytes.is_none() || row.bytes.is_none() || bytes == row.bytes;
        row.rows += rows;
        row.bytes = row.bytes.or(bytes);
        if !(right_sum && right_size) {
            row.disagree += rows;
        }
    }
}

impl Counts {
    fn without_file(&mut self, kind: String, in_database: bool, rows: u64) {
        if in_database {
            self.in_database += rows;
        } else if kind == "binary" || kind.is_empty() {
            self.empty += rows;
        } else {
            *self.external.entry(kind).or_default() += rows;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "da/da39a3ee5e6b4b0d3255bfef95601890afd80709";

    #[test]
    fn rows_that_share_a_file_are_one_file_and_those_that_disagree_are_counted() {
        let (mut found, mut files) = (Referenced::default(), BTreeMap::new());
        let sum = NAME.split_once('/').map(|(_, sum)| sum);
        found.count_file(&mut files, NAME, Some(0), sum, 2);
        found.count_file(&mut files, NAME, Some(7), sum, 1);
        found.count_file(&mut files, NAME, Some(0), Some("beef"), 4);
        let row = files.into_values().next().unwrap();
        assert_eq!((row.rows, row.disagree, row.bytes), (7, 5, Some(0)));
    }

    #[test]
    fn a_hostile_name_is_counted_and_shown_but_never_becomes_a_file() {
        let (mut found, mut files) = (Referenced::default(), BTreeMap::new());
        for n in 0..1000 {
            found.count_file(&mut files, &format!("../../{n}/etc/passwd"), None, None, 1);
        }
        assert!(files.is_empty());
        assert_eq!((found.counts.strange, found.strange.len()), (1000, 100));
    }
}
