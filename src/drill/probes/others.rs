//! Whether other tenants' databases are absent: no file of theirs lies in the restored data directory.
//!
//! The shared catalogs still list them (a tenant's restore removes that before anything leaves the sandbox); their folders must not be
//! there, or be empty. Names are read from a folder that the restored server can write: numbers are taken from it, nothing is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sqlx::PgConnection;

use crate::config::tenant::SYSTEM_DATABASES;
use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::Failure;
use crate::ids::DbOid;
use crate::postgres::sql;

pub const KIND: Kind = Kind { id: "postgres.others_absent", layer: Layer::Postgres, grade: Grade::E1 };

/// Looks which databases have files below `pgdata`.
///
/// # Errors
/// When the server does not list its databases.
pub async fn ask(connection: &mut PgConnection, pgdata: &Path, wanted: &BTreeSet<DbOid>) -> Result<Seen, Failure> {
    let list = "SELECT oid::text, datname::text FROM pg_catalog.pg_database";
    let rows = sql::text_rows(connection, "the list of databases", list).await?;
    let pair = |row: &Vec<Option<String>>| match row.as_slice() {
        [Some(oid), Some(name)] => Some((DbOid(oid.parse().ok()?), name.clone())),
        _ => None,
    };
    let listed: BTreeMap<DbOid, String> = rows.iter().filter_map(pair).collect();
    Ok(judge(&with_files(pgdata), &listed, wanted))
}

/// Databases with files that are not empty, by the number of these.
fn with_files(pgdata: &Path) -> BTreeMap<DbOid, usize> {
    let mut folders = vec![pgdata.join("base")];
    // pg_tblspc/<space>/PG_15_202209061/<database>/
    for space in folders_in(&pgdata.join("pg_tblspc")) {
        folders.extend(folders_in(&space));
    }
    let mut found: BTreeMap<DbOid, usize> = BTreeMap::new();
    for folder in folders.iter().flat_map(|folder| folders_in(folder)) {
        let Some(oid) = folder.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let filled = entries.filter(|entry| entry.metadata().is_ok_and(|meta| meta.len() > 0)).count();
        if filled > 0 {
            *found.entry(DbOid(oid)).or_default() += filled;
        }
    }
    found
}

fn folders_in(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[must_use]
pub fn judge(found: &BTreeMap<DbOid, usize>, listed: &BTreeMap<DbOid, String>, wanted: &BTreeSet<DbOid>) -> Seen {
    let is_system = |oid: &DbOid| listed.get(oid).is_some_and(|name| SYSTEM_DATABASES.contains(&name.as_str()));
    let foreign: Vec<String> = found
        .iter()
        .filter(|(oid, _)| !wanted.contains(oid) && !is_system(oid))
        .map(|(oid, files)| format!("database {oid} ({})", super::count(*files, "file")))
        .collect();
    let absent = listed.keys().filter(|oid| !found.contains_key(oid)).count();
    let ours = wanted.iter().filter(|oid| found.contains_key(oid)).count();
    let seen = if !foreign.is_empty() {
        let detail = format!("files of another tenant were opened: {}", super::few(&foreign));
        Seen::failed(Verdict::Exposed, detail)
    } else if ours == 0 {
        Seen::failed(Verdict::Inconclusive, "the tenant's own database was not found either, so this proves nothing")
    } else {
        let others = super::count(absent, "other database");
        Seen::passed(match absent {
            0 => "no file of any other tenant's database is here; the cluster lists no other".to_owned(),
            _ => format!("the cluster lists {others}, and not a file of theirs is here"),
        })
    };
    seen.with(serde_json::json!({ "with_files": found, "wanted": wanted }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    fn listed() -> BTreeMap<DbOid, String> {
        [(1, "template1"), (5, "postgres"), (16400, "acme"), (16500, "globex")]
            .map(|(oid, name)| (DbOid(oid), name.to_owned()))
            .into()
    }

    fn found(oids: &[u32]) -> BTreeMap<DbOid, usize> {
        oids.iter().map(|oid| (DbOid(*oid), 3)).collect()
    }

    #[test]
    fn the_tenant_and_the_system_are_all_there_may_be() {
        let wanted = BTreeSet::from([DbOid(16400)]);
        assert_eq!(judge(&found(&[1, 5, 16400]), &listed(), &wanted).outcome, Outcome::Passed);
        assert_eq!(judge(&found(&[1, 5, 16400, 16500]), &listed(), &wanted).gate, Some(Verdict::Exposed));
        assert_eq!(judge(&found(&[1, 16400, 99999]), &listed(), &wanted).gate, Some(Verdict::Exposed));
        assert_eq!(judge(&found(&[]), &listed(), &wanted).gate, Some(Verdict::Inconclusive));
    }

    #[test]
    fn an_empty_folder_is_no_database_and_a_tablespace_is_looked_into() {
        let pgdata = tempfile::tempdir().unwrap();
        for folder in ["base/16400", "base/16500", "base/pgsql_tmp", "pg_tblspc/20000/PG_15_202209061/16600"] {
            std::fs::create_dir_all(pgdata.path().join(folder)).unwrap();
        }
        for file in ["base/16400/1", "pg_tblspc/20000/PG_15_202209061/16600/2"] {
            std::fs::write(pgdata.path().join(file), "x").unwrap();
        }
        std::fs::write(pgdata.path().join("base/16500/3"), "").unwrap();
        let found: Vec<DbOid> = with_files(pgdata.path()).into_keys().collect();
        assert_eq!(found, [DbOid(16400), DbOid(16600)]);
    }
}
