//! Whether the server runs under the settings that lifeboat wrote, and none that were captured with the data.
//!
//! A captured `archive_command`, `restore_command` or preload library would run somebody else's program. The server itself is asked
//! which files it read and what its settings are; the captured files lie beside the data directory, unread.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::PgConnection;

use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::Failure;
use crate::postgres::sql;

pub const KIND: Kind = Kind { id: "sandbox.captured", layer: Layer::Sandbox, grade: Grade::E1 };

/// Settings by which captured data could run code or reach out, as the running server must show them.
const CLOSED: [(&str, &str); 12] = [
    ("archive_mode", "off"),
    ("archive_command", "(disabled)"), // how it is shown while archive_mode is off
    ("archive_library", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("primary_conninfo", ""),
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("dynamic_library_path", "$libdir"),
    ("listen_addresses", ""),
    ("max_logical_replication_workers", "0"),
];

/// What the server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Running {
    pub settings: BTreeMap<String, String>,
    /// The files that settings were read from.
    pub files: Vec<String>,
}

/// Asks the server behind `connection`, whose data directory is `pgdata` and whose WAL lies in `wal`.
///
/// # Errors
/// When it does not answer.
pub async fn ask(connection: &mut PgConnection, dir: &Path) -> Result<Seen, Failure> {
    let what = "the server's settings";
    let rows = sql::text_rows(connection, what, "SELECT name, setting FROM pg_catalog.pg_settings").await?;
    let pair = |row: Vec<Option<String>>| match <[_; 2]>::try_from(row) {
        Ok([Some(name), setting]) => Some((name, setting.unwrap_or_default())),
        _ => None,
    };
    let read = "SELECT sourcefile FROM pg_catalog.pg_file_settings WHERE sourcefile IS NOT NULL \
                UNION SELECT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL ORDER BY 1";
    let files = sql::text_rows(connection, what, read).await?;
    let running = Running {
        settings: rows.into_iter().filter_map(pair).collect(),
        files: files.into_iter().flatten().flatten().collect(),
    };
    let captured = std::fs::read_dir(dir.join("captured")).into_iter().flatten().flatten();
    let mut captured: Vec<String> = captured.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    captured.sort();
    Ok(judge(&running, &dir.join("pgdata"), &dir.join("wal"), &captured))
}

#[must_use]
pub fn judge(running: &Running, pgdata: &Path, wal: &Path, captured: &[String]) -> Seen {
    let mut wrong = Vec::new();
    let setting = |name: &str| running.settings.get(name).map(String::as_str);
    for (name, wanted) in CLOSED {
        // One that this version does not have (archive_library came with 15) cannot do harm.
        if setting(name).is_some_and(|found| found != wanted) {
            wrong.push(format!("{name} is not what lifeboat wrote"));
        }
    }
    // Ours copies from the folder beside the data directory, quoted as recover.rs does.
    let ours = format!("cp --sparse=always -- '{}/", wal.to_string_lossy().replace('\'', "'\\''").replace('%', "%%"));
    if setting("restore_command").is_none_or(|command| !command.starts_with(&ours)) {
        wrong.push("restore_command is not what lifeboat wrote".to_owned());
    }
    for (name, file) in
        [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")]
    {
        if setting(name).is_none_or(|found| Path::new(found) != pgdata.join(file)) {
            wrong.push(format!("{name} lies elsewhere"));
        }
    }
    let foreign = running.files.iter().filter(|file| Path::new(file) != pgdata.join("postgresql.conf"));
    wrong.extend(foreign.map(|file| format!("settings were read from {file}")));
    let seen = if wrong.is_empty() {
        let aside = if captured.is_empty() {
            "none was captured".to_owned()
        } else {
            format!("{} lie unread beside it", captured.join(", "))
        };
        Seen::passed(format!("the server runs under lifeboat's configuration only; {aside}"))
    } else {
        Seen::failed(Verdict::Exposed, format!("captured configuration may be in force: {}", super::few(&wrong)))
    };
    seen.with(serde_json::json!({ "files": running.files, "captured": captured, "wrong": wrong }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    fn ours() -> Running {
        let mut settings: BTreeMap<String, String> =
            CLOSED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        for (name, value) in [
            ("restore_command", "cp --sparse=always -- '/box/wal/%f' '%p'"),
            ("config_file", "/box/pgdata/postgresql.conf"),
            ("hba_file", "/box/pgdata/pg_hba.conf"),
            ("ident_file", "/box/pgdata/pg_ident.conf"),
        ] {
            settings.insert(name.to_owned(), value.to_owned());
        }
        Running { settings, files: vec!["/box/pgdata/postgresql.conf".to_owned()] }
    }

    fn judged(running: &Running) -> Seen {
        judge(running, Path::new("/box/pgdata"), Path::new("/box/wal"), &["postgresql.conf".to_owned()])
    }

    #[test]
    fn our_own_settings_pass() {
        assert_eq!(judged(&ours()).outcome, Outcome::Passed);
    }

    #[test]
    fn every_captured_setting_file_or_place_is_noticed() {
        let plants = [
            ("archive_mode", "on"),
            ("archive_command", "curl evil"),
            ("restore_command", "curl evil"),
            ("shared_preload_libraries", "evil"),
            ("session_preload_libraries", "evil"),
            ("hba_file", "/etc/pg_hba.conf"),
        ];
        for (name, value) in plants {
            let mut running = ours();
            running.settings.insert(name.to_owned(), value.to_owned());
            assert_eq!(judged(&running).gate, Some(Verdict::Exposed), "{name}");
        }
        let mut running = ours();
        running.files.push("/box/pgdata/postgresql.auto.conf".to_owned());
        assert_eq!(judged(&running).gate, Some(Verdict::Exposed));
    }

    #[test]
    fn a_server_that_says_nothing_has_proven_nothing() {
        assert_eq!(judged(&Running::default()).gate, Some(Verdict::Exposed));
    }
}
