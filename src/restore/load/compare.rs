//! What was loaded against what was dumped: the same tables with the same number of rows, the same sequences at the same
//! values, the same indexes and constraints. A load that lost something quietly is worse than one that failed.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::failure::{Failure, Kind};
use crate::postgres::sql;

/// What both sides have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    pub tables: u64,
    pub rows: u64,
    pub sequences: u64,
    pub indexes: u64,
    pub constraints: u64,
}

/// Everything below is counted without what extensions own: those are made anew on the target, perhaps in another version.
const OURS: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname NOT LIKE 'pg_temp%' \
    AND n.nspname NOT LIKE 'pg_toast_temp%' AND NOT EXISTS (SELECT 1 FROM pg_depend d \
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";

/// Compares; gives the counts.
///
/// # Errors
/// `Integrity`, with what differs (at most five of each); of the servers.
pub async fn equal(source: &mut PgConnection, target: &mut PgConnection, database: &str) -> Result<Counted, Failure> {
    let (before, after) = (facts(source).await?, facts(target).await?);
    let mut different: Vec<String> = Vec::new();
    for (name, value) in &before {
        match after.get(name) {
            Some(found) if found == value => {}
            Some(found) => different.push(format!("{name}: {value}, loaded {found}")),
            None => different.push(format!("{name}: not loaded")),
        }
    }
    different.extend(
        after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("{name}: not in the source")),
    );
    if different.is_empty() {
        return Ok(count(&after));
    }
    let shown = different.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
    let cause = format!("{} difference(s) between dumped and loaded: {shown}", different.len());
    Err(Failure::new(Kind::Integrity, format!("database {database}"), cause, "report this with the names above"))
}

fn count(facts: &BTreeMap<String, String>) -> Counted {
    let of = |kind: &str| facts.iter().filter(|(name, _)| name.starts_with(kind)).count() as u64;
    let rows =
        facts.iter().filter(|(name, _)| name.starts_with("table ")).filter_map(|(_, n)| n.parse::<u64>().ok()).sum();
    Counted {
        tables: of("table "),
        rows,
        sequences: of("sequence "),
        indexes: of("index "),
        constraints: of("constraint "),
    }
}

/// Every table with its rows, every sequence with its value, every index and constraint with its definition.
async fn facts(connection: &mut PgConnection) -> Result<BTreeMap<String, String>, Failure> {
    let mut facts = BTreeMap::new();
    let tables = format!(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND {OURS} ORDER BY 1"
    );
    let tables: Vec<String> = names(connection, &tables).await?.into_iter().map(|(name, _)| name).collect();
    // One query for many tables: a round trip for each of thousands would be most of the time.
    for some in tables.chunks(100) {
        let counts: Vec<String> = some
            .iter()
            .map(|table| format!("SELECT {}, count(*)::text FROM ONLY {table}", sql::quoted_text(table)))
            .collect();
        for (table, rows) in names(connection, &counts.join(" UNION ALL ")).await? {
            facts.insert(format!("table {table}"), rows);
        }
    }
    let sequences = "SELECT format('sequence %I.%I', schemaname, sequencename), coalesce(last_value::text, 'unused') FROM pg_sequences";
    facts.extend(names(connection, sequences).await?);
    let indexes = format!(
        "SELECT format('index %I.%I', n.nspname, c.relname), i.indisvalid::text || ' ' || pg_get_indexdef(c.oid) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_index i ON i.indexrelid = c.oid \
         WHERE c.relkind IN ('i', 'I') AND {OURS}"
    );
    facts.extend(names(connection, &indexes).await?);
    let constraints = format!(
        "SELECT format('constraint %I on %I.%I', k.conname, n.nspname, c.relname), pg_get_constraintdef(k.oid) \
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS}"
    );
    facts.extend(names(connection, &constraints).await?);
    Ok(facts)
}

async fn names(connection: &mut PgConnection, query: &str) -> Result<Vec<(String, String)>, Failure> {
    let rows = sql::text_rows(connection, "counting", query).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let mut values = row.into_iter();
            Some((values.next()??, values.next().flatten().unwrap_or_default()))
        })
        .collect())
}
