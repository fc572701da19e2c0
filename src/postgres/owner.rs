//! Whose a file of a data directory is.
//!
//! | where | whose |
//! |---|---|
//! | `base/<oid>/`, `PG_.../<oid>/` of a tablespace, `pg_twophase/` by content, `pg_logical/mappings/` by name | that database's |
//! | `global/`, transaction state, configuration, labels, the folders themselves | the cluster's |
//! | server logs, statistics, core files, links, and **every name that is not known here** | nobody's: residue |
//! | WAL (it comes only through the splitter), and what the server makes anew at every start | left out |
//!
//! When unsure, residue: it gets a key that no tenant holds (`docs/FORMAT.md`, Scopes), and those cases that a person
//! should look at say so ([`Residue::is_alarming`]). System databases are databases here; that they belong to the
//! cluster is the caller's mapping. Names: documentation, "Database File Layout"; what a base backup leaves out:
//! "Streaming Replication Protocol", `BASE_BACKUP`, and `basebackup.c`.

use std::fmt;

use super::relation::{RelationFile, is_temporary};
use crate::ids::DbOid;

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileOwner {
    Database(DbOid),
    Cluster,
    Residue(Residue),
    Skip(Skip),
}

/// Why a file is in nobody's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Residue {
    /// Holds statements of all tenants.
    ServerLog,
    /// Cumulative statistics, and extensions' (`pg_stat_statements` keeps query texts). Recovery throws them away.
    Statistics,
    /// Logical decoding's snapshots; base backups carry no slots that could use them.
    DecodingSnapshot,
    /// What an earlier backup or recovery left lying, or what would make a restored server a standby.
    Leftover,
    /// Memory of a server process, of any database.
    CoreFile,
    /// A link that is not a tablespace's.
    ForeignLink,
    /// Should be a prepared transaction and does not look like one.
    UnreadablePrepared,
    /// A name that PostgreSQL does not use: a backup script's, an operator's, an extension's.
    Unknown,
}

impl Residue {
    /// Whether a person should be told.
    #[must_use]
    pub fn is_alarming(self) -> bool {
        match self {
            Self::ServerLog | Self::Statistics | Self::DecodingSnapshot | Self::Leftover => false,
            Self::CoreFile | Self::ForeignLink | Self::UnreadablePrepared | Self::Unknown => true,
        }
    }
}

impl fmt::Display for Residue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServerLog => "a server log, which holds statements of every tenant",
            Self::Statistics => "statistics, which recovery throws away",
            Self::DecodingSnapshot => "a snapshot of logical decoding, of no use without its slot",
            Self::Leftover => "a leftover of an earlier backup or recovery",
            Self::CoreFile => "a core file: the memory of a server process",
            Self::ForeignLink => "a link that is not a tablespace's",
            Self::UnreadablePrepared => "not readable as a prepared transaction",
            Self::Unknown => "a name that PostgreSQL does not use",
        })
    }
}

/// Why a file is not kept at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// WAL, and the archiver's notes: WAL is kept by the stream, split by tenant.
    Wal,
    /// Made anew at every start, or empty after one; the server itself leaves these out of base backups.
    Transient,
    /// The name is not text; nothing PostgreSQL makes is named so.
    UnreadableName,
}

impl Skip {
    /// Whether a person should be told.
    #[must_use]
    pub fn is_alarming(self) -> bool {
        self == Self::UnreadableName
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wal => "WAL, which comes through the stream",
            Self::Transient => "made anew at every start",
            Self::UnreadableName => "a name that is not text",
        })
    }
}

/// How many bytes of a file [`owner_of`] may want to see.
pub const HEAD_BYTES: usize = 16;

/// Whose the file or folder `path` is: relative to the data directory, or to the tablespace's folder when `tablespace`
/// is its OID. `head` is the file's first [`HEAD_BYTES`] (empty for folders); it matters for prepared transactions only.
#[must_use]
pub fn owner_of(path: &str, tablespace: Option<u32>, head: &[u8]) -> FileOwner {
    let parts: Vec<&str> = path.split('/').collect();
    if tablespace.is_some() {
        return in_tablespace(&parts);
    }
    match parts.as_slice() {
        [name] => top_level(name),
        ["base", rest @ ..] => by_database(rest),
        // A tablespace that is a folder in place (allow_in_place_tablespaces), or just its folder or link.
        ["pg_tblspc", oid, rest @ ..] if number(oid).is_some() => in_tablespace(rest),
        ["global", name] => in_global(name),
        ["pg_xact" | "pg_commit_ts", name] if is_slru(name) => FileOwner::Cluster,
        ["pg_multixact", "members" | "offsets"] => FileOwner::Cluster,
        ["pg_multixact", "members" | "offsets", name] if is_slru(name) => FileOwner::Cluster,
        ["pg_twophase", _] => prepared(head),
        ["pg_logical", rest @ ..] => in_logical(rest),
        ["pg_stat", ..] => FileOwner::Residue(Residue::Statistics),
        ["pg_wal", "archive_status" | "summaries"] => FileOwner::Cluster,
        ["pg_wal", ..] => FileOwner::Skip(Skip::Wal),
        [
            "pg_dynshmem" | "pg_notify" | "pg_replslot" | "pg_serial" | "pg_snapshots" | "pg_stat_tmp" | "pg_subtrans",
            ..,
        ] => FileOwner::Skip(Skip::Transient),
        ["log" | "pg_log", ..] => FileOwner::Residue(Residue::ServerLog),
        [.., name] if is_core(name) => FileOwner::Residue(Residue::CoreFile),
        _ => FileOwner::Residue(Residue::Unknown),
    }
}

fn top_level(name: &str) -> FileOwner {
    match name {
        // Folders that must be there for the server to start.
        "base" | "global" | "pg_commit_ts" | "pg_dynshmem" | "pg_logical" | "pg_multixact" | "pg_notify"
        | "pg_replslot" | "pg_serial" | "pg_snapshots" | "pg_stat" | "pg_stat_tmp" | "pg_subtrans" | "pg_tblspc"
        | "pg_twophase" | "pg_wal" | "pg_xact" => FileOwner::Cluster,
        "PG_VERSION" | "backup_label" | "tablespace_map" => FileOwner::Cluster,
        // Kept for people to look at; never read by a server that lifeboat starts.
        "postgresql.conf" | "postgresql.auto.conf" | "pg_hba.conf" | "pg_ident.conf" => FileOwner::Cluster,
        // The running server's process id, command line and log names.
        "postmaster.pid" | "postmaster.opts" | "current_logfiles" | "current_logfiles.tmp" => {
            FileOwner::Skip(Skip::Transient)
        }
        "postgresql.auto.conf.tmp" | "pg_internal.init" => FileOwner::Skip(Skip::Transient),
        "backup_label.old" | "tablespace_map.old" | "backup_manifest" | "recovery.signal" | "standby.signal"
        | "recovery.done" | "lost+found" => FileOwner::Residue(Residue::Leftover),
        "log" | "pg_log" => FileOwner::Residue(Residue::ServerLog),
        name if is_core(name) => FileOwner::Residue(Residue::CoreFile),
        _ => FileOwner::Residue(Residue::Unknown),
    }
}

/// Inside `base/`, or inside the version folder of a tablespace.
fn by_database(parts: &[&str]) -> FileOwner {
    match parts {
        [] => FileOwner::Cluster,
        // Sort and hash spills of any database.
        [name, ..] if name.starts_with("pgsql_tmp") => FileOwner::Skip(Skip::Transient),
        [oid, ..] => number(oid).map_or(FileOwner::Residue(Residue::Unknown), |oid| FileOwner::Database(DbOid(oid))),
    }
}

/// Inside a tablespace's folder: `PG_15_202209061/<database>/...`.
fn in_tablespace(parts: &[&str]) -> FileOwner {
    match parts {
        [] => FileOwner::Cluster,
        [version, rest @ ..] if is_version_folder(version) => by_database(rest),
        _ => FileOwner::Residue(Residue::Unknown),
    }
}

fn in_global(name: &str) -> FileOwner {
    match name {
        "pg_control" | "pg_filenode.map" => FileOwner::Cluster,
        name if name.starts_with("pg_internal.init") || is_temporary(name) => FileOwner::Skip(Skip::Transient),
        name if RelationFile::parse(name).is_some() => FileOwner::Cluster,
        name if is_core(name) => FileOwner::Residue(Residue::CoreFile),
        _ => FileOwner::Residue(Residue::Unknown),
    }
}

fn in_logical(parts: &[&str]) -> FileOwner {
    match parts {
        ["mappings" | "snapshots" | "replorigin_checkpoint"] => FileOwner::Cluster,
        ["snapshots", _] => FileOwner::Residue(Residue::DecodingSnapshot),
        // map-<database>-<relation>-<lsn>_<lsn>-<xid>-<xid>, in hex (rewriteheap.h); database 0: shared catalogs.
        ["mappings", name] => {
            let oid = name.strip_prefix("map-").and_then(|rest| rest.split('-').next());
            match oid.and_then(|oid| u32::from_str_radix(oid, 16).ok()) {
                Some(0) => FileOwner::Cluster,
                Some(oid) => FileOwner::Database(DbOid(oid)),
                None => FileOwner::Residue(Residue::Unknown),
            }
        }
        _ => FileOwner::Residue(Residue::Unknown),
    }
}

/// A prepared transaction's file begins with `TwoPhaseFileHeader`: magic, length, xid, database (4 bytes each)
/// (`twophase.c`).
fn prepared(head: &[u8]) -> FileOwner {
    const MAGIC: [u8; 4] = 0x57F9_4534_u32.to_le_bytes();
    match head.first_chunk::<HEAD_BYTES>() {
        Some(&[a, b, c, d, _, _, _, _, _, _, _, _, e, f, g, h]) if [a, b, c, d] == MAGIC => {
            match u32::from_le_bytes([e, f, g, h]) {
                0 => FileOwner::Residue(Residue::UnreadablePrepared),
                oid => FileOwner::Database(DbOid(oid)),
            }
        }
        _ => FileOwner::Residue(Residue::UnreadablePrepared),
    }
}

/// An OID as PostgreSQL names folders by it.
fn number(text: &str) -> Option<u32> {
    let fine = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if fine { text.parse().ok() } else { None }
}

/// `slru.c`: 4 to 6 hex digits; 15 in the long names of 17 and newer.
fn is_slru(name: &str) -> bool {
    matches!(name.len(), 4..=6 | 15) && name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

fn is_core(name: &str) -> bool {
    name == "core" || name.strip_prefix("core.").is_some_and(|rest| !rest.is_empty())
}

fn is_version_folder(name: &str) -> bool {
    let numbers = name.strip_prefix("PG_").and_then(|rest| rest.split_once('_'));
    numbers.is_some_and(|(major, catalog)| number(major).is_some() && number(catalog).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(path: &str) -> FileOwner {
        owner_of(path, None, b"")
    }

    #[test]
    fn what_lies_in_a_databases_folder_is_that_databases() {
        for path in ["base/16401", "base/16401/2619", "base/16401/PG_VERSION", "base/16401/odd name", "base/16401/core"]
        {
            assert_eq!(owner(path), FileOwner::Database(DbOid(16401)), "{path}");
        }
        for path in ["PG_15_202209061/16401", "PG_15_202209061/16401/17000.1"] {
            assert_eq!(owner_of(path, Some(16400), b""), FileOwner::Database(DbOid(16401)), "{path}");
            assert_eq!(owner(&format!("pg_tblspc/16400/{path}")), FileOwner::Database(DbOid(16401)), "{path}");
        }
    }

    #[test]
    fn what_all_databases_need_is_the_clusters() {
        for path in [
            "PG_VERSION",
            "backup_label",
            "postgresql.auto.conf",
            "base",
            "global",
            "global/pg_control",
            "global/1262",
            "global/1262_vm",
            "pg_xact/0000",
            "pg_multixact/offsets/0000",
            "pg_commit_ts/001A",
            "pg_wal",
            "pg_wal/archive_status",
            "pg_logical/replorigin_checkpoint",
            "pg_tblspc/16400",
            "pg_twophase",
        ] {
            assert_eq!(owner(path), FileOwner::Cluster, "{path}");
        }
        assert_eq!(owner_of("PG_15_202209061", Some(16400), b""), FileOwner::Cluster);
    }

    #[test]
    fn a_prepared_transaction_is_its_databases_by_content() {
        let mut head = 0x57F9_4534_u32.to_le_bytes().to_vec();
        head.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        head.extend_from_slice(&16401_u32.to_le_bytes());
        assert_eq!(owner_of("pg_twophase/000002E5", None, &head), FileOwner::Database(DbOid(16401)));
        for damaged in [&b""[..], &head[..15], &[0; 16]] {
            let owner = owner_of("pg_twophase/000002E5", None, damaged);
            assert_eq!(owner, FileOwner::Residue(Residue::UnreadablePrepared));
        }
    }

    #[test]
    fn a_mapping_of_logical_decoding_is_its_databases_by_name() {
        let path = "pg_logical/mappings/map-4011-4eb-0_16B3748-2e5-2e6";
        assert_eq!(owner(path), FileOwner::Database(DbOid(0x4011)));
        assert_eq!(owner("pg_logical/mappings/map-0-4eb-0_16B3748-2e5-2e6"), FileOwner::Cluster);
        assert_eq!(owner("pg_logical/mappings/other"), FileOwner::Residue(Residue::Unknown));
    }

    #[test]
    fn what_nobody_knows_is_residue_and_says_so() {
        for path in [
            "postgresql.conf.bak",
            "server.key",
            "conf.d",
            "conf.d/50.conf",
            "base/backup",
            "base/016401/1",
            "base/0",
            "global/dump.sql",
            "pg_xact/old",
            "pg_xact/0000.bak",
            "pg_tblspc/x/1",
            "pg_tblspc/16400/stray",
            "new/thing",
            "pg_logical/other",
        ] {
            let owner = owner(path);
            assert_eq!(owner, FileOwner::Residue(Residue::Unknown), "{path}");
        }
        assert_eq!(owner_of("stray/16401/1", Some(16400), b""), FileOwner::Residue(Residue::Unknown));
        assert!(Residue::Unknown.is_alarming());
    }

    #[test]
    fn logs_statistics_and_memory_are_in_no_tenants_part() {
        assert_eq!(owner("log/postgresql-Mon.log"), FileOwner::Residue(Residue::ServerLog));
        assert_eq!(owner("pg_stat/pgss_query_texts.stat"), FileOwner::Residue(Residue::Statistics));
        assert_eq!(owner("core.4711"), FileOwner::Residue(Residue::CoreFile));
        assert_eq!(owner("pg_wal/000000010000000000000001"), FileOwner::Skip(Skip::Wal));
        assert_eq!(owner("pg_replslot/x/state"), FileOwner::Skip(Skip::Transient));
        assert_eq!(owner("base/pgsql_tmp/pgsql_tmp123.0"), FileOwner::Skip(Skip::Transient));
        assert_eq!(owner("postmaster.opts"), FileOwner::Skip(Skip::Transient));
    }
}
