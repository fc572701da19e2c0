//! What is known of the cluster when its base backup is taken; sealed into the sets, needed to bring it up again.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::sorter::BadBlock;
use crate::config::Cluster;
use crate::failure::Failure;
use crate::ids::{DbOid, Lsn, Scope};
use crate::postgres::sql;
use crate::stream::bindings::Database;

/// Facts of a base backup; the cluster's set carries all of it, a tenant's only its own databases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFacts {
    pub cluster: String,
    pub label: String,
    pub start_lsn: Lsn,
    pub stop_lsn: Option<Lsn>,
    pub stop_time: Option<Timestamp>,
    /// `server_version_num`, e.g. 150018.
    pub server_version: u32,
    /// `wal_segment_size`, in bytes.
    pub segment_bytes: u32,
    /// The bootstrap superuser's name (OID 10), which the sandbox signs in as.
    pub superuser: String,
    pub databases: Vec<DatabaseFact>,
    /// Pages whose checksum was wrong when they were read.
    pub bad_pages: Vec<BadBlock>,
}

/// One database, with the collation its indexes were built under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFact {
    pub oid: DbOid,
    pub name: String,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    /// The operating system's collation version at the time; none for C.
    pub collation_version: Option<String>,
}

impl BaseFacts {
    pub(super) async fn read(
        connection: &mut PgConnection,
        databases: &[Database],
        cluster: &Cluster,
        label: &str,
        start_lsn: Lsn,
    ) -> Result<Self, Failure> {
        let server = sql::text_rows(
            connection,
            "the server's facts",
            "SELECT current_setting('server_version_num'), (SELECT rolname::text FROM pg_roles WHERE oid = 10), \
             (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size')",
        )
        .await?;
        let text = |index: usize| server.first().and_then(|row| row.get(index).cloned().flatten()).unwrap_or_default();
        let listed = sql::text_rows(
            connection,
            "the list of databases",
            "SELECT oid::text, datname::text, pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text, \
             pg_database_collation_actual_version(oid) FROM pg_database ORDER BY oid",
        )
        .await?;
        let fact = |row: &Vec<Option<String>>| {
            let text = |index: usize| row.get(index).cloned().flatten();
            let oid = DbOid(text(0)?.parse().ok()?);
            databases.iter().any(|database| database.oid == oid).then_some(())?;
            Some(DatabaseFact {
                oid,
                name: text(1)?,
                encoding: text(2)?,
                collate: text(3)?,
                ctype: text(4)?,
                collation_version: text(5),
            })
        };
        Ok(Self {
            cluster: cluster.name.clone(),
            label: label.to_owned(),
            start_lsn,
            stop_lsn: None,
            stop_time: None,
            server_version: text(0).parse().unwrap_or_default(),
            segment_bytes: text(2).parse().unwrap_or_default(),
            superuser: text(1),
            databases: listed.iter().filter_map(fact).collect(),
            bad_pages: Vec::new(),
        })
    }

    /// The facts that the set of `scope` carries: names of databases go to the cluster's share only, where `pg_database`
    /// lists them anyway.
    pub(super) fn for_scope(&self, scope: &Scope, stop_lsn: Lsn, stop_time: Timestamp, bad: &[BadBlock]) -> Self {
        let is_cluster = matches!(scope, Scope::Cluster(_));
        Self {
            stop_lsn: Some(stop_lsn),
            stop_time: Some(stop_time),
            databases: if is_cluster { self.databases.clone() } else { Vec::new() },
            bad_pages: bad.to_vec(),
            ..self.clone()
        }
    }

    pub(super) fn listed(&self) -> Vec<Database> {
        self.databases.iter().map(|fact| Database { oid: fact.oid, name: fact.name.clone() }).collect()
    }
}
