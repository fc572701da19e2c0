//! Reading allow-listed columns of a database that may be hostile, and taking digests instead of secrets.
//!
//! The tables belong to the tenant, and may be anything by now. So: one read-only snapshot; names resolve in `pg_catalog`
//! alone; each table is locked (`ACCESS SHARE`) before it is looked at, must be an ordinary table, and is read without its
//! children; a column of a type that is not built in (its cast to JSON would run) is never read, nor is one computed on reading;
//! row-level security may not filter. Secrets are hashed by the server (SHA-256), so that the value itself never leaves it, and
//! keyed here. Index expressions of a hostile owner can still run while a query is planned: on a live server, capture as a role that
//! may only read, not as a superuser ([`Reader::superuser`] tells).

use std::collections::{BTreeMap, BTreeSet};

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::AccessError;
use super::roster::Omitted;
use crate::ids::{Digest, Lsn};

/// How a column is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// As it is.
    Clear,
    /// Keyed digest of its SHA-256; nothing when it is NULL or empty.
    Digest,
    /// A password's digest, and its scheme and rounds.
    Password,
}

/// One allow-listed column.
pub type Field = (&'static str, Take);

/// One row, as far as it was taken.
#[derive(Debug, Clone, Default)]
pub struct Record(serde_json::Map<String, Value>);

impl Record {
    #[must_use]
    pub fn text(&self, column: &str) -> Option<String> {
        match self.0.get(column)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            // A translated text: English where there is one, else the first by language.
            Value::Object(by_language) => {
                let named = by_language.get("en_US").or_else(|| by_language.values().next())?;
                named.as_str().map(str::to_owned)
            }
            Value::Null | Value::Array(_) => None,
        }
    }

    #[must_use]
    pub fn number(&self, column: &str) -> Option<i64> {
        self.0.get(column)?.as_i64()
    }

    #[must_use]
    pub fn flag(&self, column: &str) -> Option<bool> {
        self.0.get(column)?.as_bool()
    }

    /// A `timestamp without time zone`, which Odoo writes in UTC.
    #[must_use]
    pub fn time(&self, column: &str) -> Option<Timestamp> {
        let civil: jiff::civil::DateTime = self.0.get(column)?.as_str()?.parse().ok()?;
        civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    }

    #[must_use]
    pub fn digest(&self, column: &str) -> Option<Digest> {
        self.0.get(column)?.as_str()?.parse().ok()
    }
}

/// A key for digests: the tenant's, for one epoch.
#[derive(Clone, Copy)]
pub struct Keyed<'k>(pub &'k [u8; 32]);

impl Keyed<'_> {
    /// HMAC-SHA256 of what `label` names; labels keep equal values in different fields apart.
    #[must_use]
    pub fn digest(self, label: &str, value: &[u8]) -> Digest {
        // HMAC takes keys of any length (RFC 2104), so this cannot fail; an all-zero digest would show itself at once.
        let Ok(mut mac) = Hmac::<sha2::Sha256>::new_from_slice(self.0) else { return Digest([0; 32]) };
        mac.update(label.as_bytes());
        mac.update(&[0]);
        mac.update(value);
        Digest(mac.finalize().into_bytes().into())
    }

    /// The digest that [`super::roster::Roster::key_check`] carries.
    #[must_use]
    pub fn check(self) -> Digest {
        self.digest("lifeboat roster", b"")
    }
}

impl std::fmt::Debug for Keyed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyed(..)")
    }
}

/// The columns of one table.
#[derive(Debug)]
struct Columns {
    readable: BTreeSet<String>,
    /// Of a type that is not built in, or computed on reading: never touched.
    untouched: BTreeSet<String>,
}

/// A read-only snapshot of one database, open on a connection of its own until [`Reader::finish`].
#[derive(Debug)]
pub struct Reader<'c> {
    connection: &'c mut PgConnection,
    keyed: Keyed<'c>,
    columns: BTreeMap<String, Columns>,
    pub database: String,
    pub lsn: Option<Lsn>,
    pub server_version: String,
    /// Whether the connection may do everything, which reading does not need.
    pub superuser: bool,
    pub omitted: Vec<Omitted>,
}

impl<'c> Reader<'c> {
    /// Opens the snapshot and locks those of `tables` (in `public`) that are there.
    ///
    /// # Errors
    /// [`AccessError::Strange`] when one of them is not an ordinary table.
    pub async fn begin(
        connection: &'c mut PgConnection,
        keyed: Keyed<'c>,
        tables: &[&'static str],
    ) -> Result<Self, AccessError> {
        let there = existing(connection, tables).await?;
        for statement in SETTINGS {
            sqlx::query(*statement).execute(&mut *connection).await?;
        }
        if !there.is_empty() {
            let list = there.iter().map(|name| format!("ONLY public.{name}")).collect::<Vec<_>>().join(", ");
            let lock = format!("LOCK TABLE {list} IN ACCESS SHARE MODE");
            // Only names from the caller's own static list are in it.
            sqlx::query(AssertSqlSafe(lock)).execute(&mut *connection).await?;
        }
        let columns = columns(connection, &there).await?;
        let about = sqlx::query(
            "SELECT current_database()::text, current_setting('server_version'), \
             current_setting('is_superuser') = 'on', \
             (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text",
        )
        .fetch_one(&mut *connection)
        .await?;
        Ok(Self {
            database: about.try_get(0)?,
            server_version: about.try_get(1)?,
            superuser: about.try_get(2)?,
            lsn: about.try_get::<Option<String>, _>(3)?.and_then(|lsn| lsn.parse().ok()),
            connection,
            keyed,
            columns,
            omitted: Vec::new(),
        })
    }

    #[must_use]
    pub fn has(&self, table: &str) -> bool {
        self.columns.contains_key(table)
    }

    #[must_use]
    pub fn has_column(&self, table: &str, column: &str) -> bool {
        self.columns.get(table).is_some_and(|columns| columns.readable.contains(column))
    }

    /// The rows of `table`, with those of `fields` that it has; none where it is not there. What else it has is noted
    /// in [`Reader::omitted`], technical columns (`create_uid` and the like) excepted.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn rows(&mut self, table: &'static str, fields: &[Field]) -> Result<Vec<Record>, AccessError> {
        self.rows_where(table, fields, "true").await
    }

    /// [`Reader::rows`] that meet an SQL condition; naming columns that are not there is an error.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn rows_where(
        &mut self,
        table: &'static str,
        fields: &[Field],
        condition: &'static str,
    ) -> Result<Vec<Record>, AccessError> {
        let Some(columns) = self.columns.get(table) else { return Ok(Vec::new()) };
        if let Some((name, _)) = fields.iter().find(|(name, _)| columns.untouched.contains(*name)) {
            return Err(AccessError::Strange { table: format!("{table}.{name}") });
        }
        let here: Vec<Field> = fields.iter().filter(|(name, _)| columns.readable.contains(*name)).copied().collect();
        let select = format!(
            "SELECT jsonb_build_object({})::text FROM ONLY public.{table} t WHERE {condition}",
            here.iter().map(|(name, take)| expression(name, *take)).collect::<Vec<_>>().join(", ")
        );
        // Built from static names alone: the table, the allow-listed columns, the condition.
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(select)).fetch_all(&mut *self.connection).await?;
        let keyed = self.keyed;
        let parse = |row: String| {
            let mut record =
                serde_json::from_str(&row).map_err(|source| AccessError::Row { table: table.to_owned(), source })?;
            key_digests(&mut record, table, &here, keyed);
            Ok(Record(record))
        };
        let records = rows.into_iter().map(parse).collect::<Result<Vec<_>, AccessError>>()?;
        self.note_omitted(table, fields);
        Ok(records)
    }

    /// Reads the server's own catalogs, in the same snapshot.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn catalog(&mut self, sql: &'static str) -> Result<Vec<PgRow>, AccessError> {
        Ok(sqlx::query(sql).fetch_all(&mut *self.connection).await?)
    }

    /// [`Reader::catalog`], of a statement in parts.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn catalog_of(&mut self, parts: &[&'static str]) -> Result<Vec<PgRow>, AccessError> {
        Ok(sqlx::query(AssertSqlSafe(parts.concat())).fetch_all(&mut *self.connection).await?)
    }

    /// Keyed digest of a value that the caller found outside the tables.
    #[must_use]
    pub fn digest(&self, label: &str, value: &[u8]) -> Digest {
        self.keyed.digest(label, value)
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn finish(self) -> Result<Vec<Omitted>, AccessError> {
        sqlx::query("ROLLBACK").execute(self.connection).await?;
        Ok(self.omitted)
    }

    fn note_omitted(&mut self, table: &str, fields: &[Field]) {
        let technical = ["id", "create_uid", "create_date", "write_uid", "write_date"];
        let taken = |name: &String| technical.contains(&name.as_str()) || fields.iter().any(|(f, _)| f == name);
        let Some(all) = self.columns.get(table) else { return };
        let columns: BTreeSet<String> =
            all.readable.iter().chain(&all.untouched).filter(|name| !taken(name)).cloned().collect();
        if !columns.is_empty() {
            self.omitted.push(Omitted { table: table.to_owned(), columns });
        }
    }
}

/// In this order; none of them fixes the snapshot, so that the locks come before it.
const SETTINGS: &[&str] = &[
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    "SET LOCAL search_path = pg_catalog",
    "SET LOCAL row_security = off",
    "SET LOCAL lock_timeout = '15s'",
    "SET LOCAL statement_timeout = '5min'",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL DateStyle = 'ISO, YMD'",
];

async fn existing(connection: &mut PgConnection, tables: &[&'static str]) -> Result<Vec<&'static str>, AccessError> {
    let mut there = Vec::new();
    for table in tables {
        let found: bool = sqlx::query_scalar("SELECT pg_catalog.to_regclass($1) IS NOT NULL")
            .bind(format!("public.{table}"))
            .fetch_one(&mut *connection)
            .await?;
        if found {
            there.push(*table);
        }
    }
    Ok(there)
}

/// The columns of each table. Virtual generated ones (`attgenerated` 'v', PostgreSQL 18) are computed on reading; types that are
/// not built in have oids from 16384 on (PostgreSQL `FirstNormalObjectId`).
async fn columns(
    connection: &mut PgConnection,
    tables: &[&'static str],
) -> Result<BTreeMap<String, Columns>, AccessError> {
    let mut by_table = BTreeMap::new();
    for table in tables {
        let strange = || AccessError::Strange { table: (*table).to_owned() };
        let kind: Option<String> = sqlx::query_scalar("SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)")
            .bind(format!("public.{table}"))
            .fetch_optional(&mut *connection)
            .await?;
        if kind.as_deref() != Some("r") {
            return Err(strange());
        }
        let rows = sqlx::query(
            "SELECT attname::text, atttypid < 16384 AND attgenerated <> 'v' FROM pg_attribute \
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
        )
        .bind(format!("public.{table}"))
        .fetch_all(&mut *connection)
        .await?;
        let mut columns = Columns { readable: BTreeSet::new(), untouched: BTreeSet::new() };
        for row in rows {
            let of = if row.try_get(1)? { &mut columns.readable } else { &mut columns.untouched };
            of.insert(row.try_get(0)?);
        }
        by_table.insert((*table).to_owned(), columns);
    }
    Ok(by_table)
}

/// What goes into the row's JSON for one column.
fn expression(name: &str, take: Take) -> String {
    let sum = format!("encode(sha256(convert_to(nullif(t.\"{name}\"::text, ''), 'UTF8')), 'hex')");
    match take {
        Take::Clear => format!("'{name}', to_jsonb(t.\"{name}\")"),
        Take::Digest => format!("'{name}', {sum}"),
        // passlib's modular form, `$scheme$rounds$…` (Odoo `res_users.py`); anything else is stored in clear.
        Take::Password => format!(
            "'{name}', {sum}, '{name} scheme', \
             CASE WHEN t.\"{name}\"::text ~ '^\\$[^$]*\\$[^$]*\\$.' \
             THEN coalesce(substring(t.\"{name}\"::text from '^\\$(pbkdf2-sha512|pbkdf2-sha256)\\$'), 'other') \
             WHEN t.\"{name}\"::text <> '' THEN 'plain' END, \
             '{name} rounds', substring(t.\"{name}\"::text from '^\\$pbkdf2-sha[0-9]+\\$([0-9]{{1,9}})\\$')"
        ),
    }
}

/// Replaces the server's sums by keyed ones.
fn key_digests(record: &mut serde_json::Map<String, Value>, table: &str, fields: &[Field], keyed: Keyed<'_>) {
    for (name, _) in fields.iter().filter(|(_, take)| *take != Take::Clear) {
        if let Some(Value::String(sum)) = record.get_mut(*name) {
            *sum = keyed.digest(&format!("{table}.{name}"), sum.as_bytes()).to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_depends_on_key_label_and_value_and_the_key_is_not_printed() {
        let (a, b) = ([1; 32], [2; 32]);
        let digest = |key, label, value: &[u8]| Keyed(key).digest(label, value);
        assert_eq!(digest(&a, "t.c", b"x"), digest(&a, "t.c", b"x"));
        assert_ne!(digest(&a, "t.c", b"x"), digest(&b, "t.c", b"x"));
        assert_ne!(digest(&a, "t.c", b"x"), digest(&a, "t.d", b"x"));
        assert_ne!(digest(&a, "t.c", b"x"), digest(&a, "t.c", b"y"));
        assert_eq!(format!("{:?}", Keyed(&a)), "Keyed(..)");
    }

    #[test]
    fn a_translated_text_is_read_in_english_where_there_is_some() {
        let record = |json: &str| Record(serde_json::from_str(json).unwrap());
        assert_eq!(record(r#"{"name":{"fr_FR":"Rôle","en_US":"Role"}}"#).text("name").unwrap(), "Role");
        assert_eq!(record(r#"{"name":{"fr_FR":"Rôle"}}"#).text("name").unwrap(), "Rôle");
        assert_eq!(record(r#"{"name":"Role"}"#).text("name").unwrap(), "Role");
        assert_eq!(record(r#"{"name":{}}"#).text("name"), None);
    }
}
