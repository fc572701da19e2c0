//! A database as a person compares it: per table the row count and a sum, per sequence the last value.
//!
//! The sum is that of the test data's `expected.json`: MD5 over the sorted MD5s of the rows as text. Taken in one
//! REPEATABLE READ snapshot, so that it is of one moment even while others write.

use std::collections::BTreeMap;
use std::path::Path;

use sha1::{Digest as _, Sha1};

use super::cluster::Server;

/// Table to (rows, MD5 over the rows).
pub type Tables = BTreeMap<String, (u64, String)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub tables: Tables,
    /// Sequence to its last value; `None` while nobody has called it.
    pub sequences: BTreeMap<String, Option<i64>>,
}

/// Recovery may leave a sequence ahead by what one WAL record logs in advance (`SEQ_LOG_VALS`, sequence.c).
const SEQUENCE_AHEAD: i64 = 32;

const QUERY: &str = r#"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT format('SELECT ''t'', %L, count(*), md5(coalesce(string_agg(md5(t::text), '''' ORDER BY md5(t::text)), '''')) FROM %I.%I t',
              c.relname, n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') ORDER BY c.relname \gexec
SELECT 's', sequencename, coalesce(last_value::text, '') FROM pg_sequences WHERE schemaname = 'public';
COMMIT;"#;

/// Takes the state of `database`; some hundred tables take about a second.
pub fn take(server: &Server, database: &str) -> State {
    let (mut tables, mut sequences) = (BTreeMap::new(), BTreeMap::new());
    for line in server.psql(database, QUERY).lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        match columns[..] {
            ["t", name, rows, sum] => {
                tables.insert(name.to_owned(), (rows.parse().expect("a count"), sum.to_owned()));
            }
            ["s", name, last] => {
                sequences.insert(name.to_owned(), last.parse().ok());
            }
            _ => panic!("not a fingerprint's line: {line}"),
        }
    }
    State { tables, sequences }
}

/// The state that came with the test data.
pub fn expected(tenant: super::tenants::Tenant) -> State {
    let json = tenant.expected();
    let object = |name: &str| json[name].as_object().expect("an object").clone();
    let tables = object("tables")
        .into_iter()
        .map(|(name, value)| (name, (value[0].as_u64().expect("rows"), value[1].as_str().expect("a sum").to_owned())));
    let sequences = object("sequences").into_iter().map(|(name, value)| (name, value.as_i64()));
    State { tables: tables.collect(), sequences: sequences.collect() }
}

/// What a restore got wrong, one line each; empty when it is the same.
///
/// Tables must be equal. A sequence may be ahead by [`SEQUENCE_AHEAD`], never behind: that would hand out a number twice.
pub fn differences(source: &State, restored: &State) -> Vec<String> {
    let mut found = Vec::new();
    for name in source.tables.keys().chain(restored.tables.keys().filter(|name| !source.tables.contains_key(*name))) {
        match (source.tables.get(name), restored.tables.get(name)) {
            (Some(was), Some(is)) if was == is => {}
            (was, is) => found.push(format!("table {name}: {was:?} became {is:?}")),
        }
    }
    for (name, was) in &source.sequences {
        let is = restored.sequences.get(name).copied().flatten();
        let fits = match (*was, is) {
            (Some(was), Some(is)) => (was..=was + SEQUENCE_AHEAD).contains(&is),
            // Called and rolled back: the call counts, as far as it was logged.
            (None, is) => is.is_none_or(|is| is <= SEQUENCE_AHEAD + 1),
            (Some(_), None) => false,
        };
        if !fits {
            found.push(format!("sequence {name}: {was:?} became {is:?}"));
        }
    }
    found
}

/// Every file of a tenant's filestore (`<root>/<database>`) with its SHA-1, which must be its name.
pub fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for shelf in std::fs::read_dir(folder).expect("a filestore").flatten() {
        let shelf_name = shelf.file_name().to_string_lossy().into_owned();
        if shelf_name.len() != 2 {
            continue; // checklist/: markers, not content
        }
        for file in std::fs::read_dir(shelf.path()).expect("a shelf").flatten() {
            let name = format!("{shelf_name}/{}", file.file_name().to_string_lossy());
            let sum = hex::encode(Sha1::digest(std::fs::read(file.path()).expect("a file")));
            found.insert(name, sum);
        }
    }
    found
}

/// The attachments that `database` references and `folder` does not hold with the right content, one line each.
pub fn missing_attachments(server: &Server, database: &str, folder: &Path) -> Vec<String> {
    let here = files(folder);
    let sql = "SELECT DISTINCT store_fname, checksum FROM ir_attachment WHERE store_fname IS NOT NULL ORDER BY 1";
    let rows = server.psql(database, sql);
    assert!(!rows.is_empty(), "{database} references no attachment");
    let wrong = rows.lines().filter(|row| {
        let (name, checksum) = row.split_once('\t').expect("two columns");
        here.get(name).is_none_or(|sum| sum != checksum)
    });
    wrong.map(str::to_owned).collect()
}
