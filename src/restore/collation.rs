//! Collations that sort otherwise here than where the indexes were built: found, reindexed, said.
//!
//! `datcollversion` and `collversion` remember the operating system's version (documentation, "ALTER COLLATION", Notes). An
//! index over text in another order answers wrongly without a word, so a difference is mended before anybody may query.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::recover::Recovered;
use crate::failure::Failure;
use crate::ids::DbOid;
use crate::postgres::sql;
use crate::watch::{Watch, note};

/// A database whose indexes were rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refreshed {
    pub database: String,
    /// What differs: the database's own collation, or named ones.
    pub collations: Vec<String>,
}

const DEFAULTS: &str = "SELECT oid::text, datname::text, coalesce(datcollversion <> pg_database_collation_actual_version(oid), false)::text \
    FROM pg_database WHERE datallowconn ORDER BY datname";

const NAMED: &str = "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname) FROM pg_collation c \
    JOIN pg_namespace n ON n.oid = c.collnamespace \
    WHERE c.collversion IS NOT NULL AND c.collversion <> pg_collation_actual_version(c.oid) ORDER BY 1";

/// Databases that people made have OIDs from here on (`FirstNormalObjectId`).
const FIRST_NORMAL_OID: u32 = 16_384;

/// Rebuilds the indexes of every database (of those in `present`, where not all are) whose collations have another version here.
///
/// # Errors
/// Of the server.
pub async fn refresh(
    recovered: &Recovered,
    connection: &mut PgConnection,
    present: Option<&BTreeSet<DbOid>>,
    watch: &dyn Watch,
) -> Result<Vec<Refreshed>, Failure> {
    let mut refreshed = Vec::new();
    for row in sql::text_rows(connection, "collation versions", DEFAULTS).await? {
        let [Some(oid), Some(database), differs] = row.as_slice() else { continue };
        // An absent tenant's database is still listed, and has no files.
        let oid = DbOid(oid.parse().unwrap_or_default());
        if oid.0 >= FIRST_NORMAL_OID && present.is_some_and(|present| !present.contains(&oid)) {
            continue;
        }
        let mut inside = recovered.connect(database).await?;
        let named = sql::text_rows(&mut inside, "collation versions", NAMED).await?;
        let named: Vec<String> = named.into_iter().flatten().flatten().collect();
        let own = differs.as_deref() == Some("true");
        if !own && named.is_empty() {
            continue;
        }
        let quoted = sql::quoted_name(database);
        sql::execute(&mut inside, database, &format!("REINDEX DATABASE {quoted}")).await?;
        let mut collations = named.clone();
        if own {
            sql::execute(&mut inside, database, &format!("ALTER DATABASE {quoted} REFRESH COLLATION VERSION")).await?;
            collations.insert(0, "default".to_owned());
        }
        for collation in &named {
            sql::execute(&mut inside, collation, &format!("ALTER COLLATION {collation} REFRESH VERSION")).await?;
        }
        note(
            watch,
            format!("database {database}"),
            format!("indexes rebuilt: other collation version ({})", collations.join(", ")),
        );
        refreshed.push(Refreshed { database: database.clone(), collations });
    }
    Ok(refreshed)
}
