//! A recovered server: the configuration it starts with, the command lines, and waiting until it is there.
//!
//! The data directory is captured and hostile. Nothing in it decides how the server runs: its configuration files have
//! been moved away by the caller, and [`write_configuration`] refuses to begin while one is still there. What is
//! written loads no library, listens on no network, archives nothing, runs no subscription and reads no other file.
//! Settings that roles and databases carry in the catalogs are outranked per session: [`guarded_settings`].
//!
//! Running the programs is the sandbox's work; here are only their arguments. Documentation: "Recovery Target",
//! "Archive Recovery", "Shared Library Preloading".

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::binaries::{Binaries, BinariesError};
use super::connect::Server;
use super::control::ControlFile;
use super::sql::{self, SqlError};
use crate::failure::{Failure, Kind};
use crate::ids::{Lsn, Timeline};

/// How far to replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// All the WAL there is.
    Latest,
    /// As soon as the copy is consistent.
    Immediate,
    /// The record that begins at or after this position is the last one replayed (`inclusive`), or the first left out.
    Lsn {
        lsn: Lsn,
        inclusive: bool,
    },
    /// Transactions that committed by then (or before then).
    Time {
        time: Timestamp,
        inclusive: bool,
    },
    Transaction {
        xid: u32,
        inclusive: bool,
    },
    RestorePoint {
        name: String,
    },
}

/// What happens when the target is reached (`recovery_target_action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AtTarget {
    /// Begin a timeline of its own and take connections.
    #[default]
    Promote,
    /// Stop the server.
    Shutdown,
}

/// Who may connect, over the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAccess {
    /// Everybody who can reach the socket, as any role. The socket's folder must be 0700.
    Trust,
    /// Only this role without password; everybody else by SCRAM, as a probe from outside the sandbox does.
    ScramExcept(String),
}

/// How a recovered server is to run.
#[derive(Debug, Clone)]
pub struct RecoveryPlan {
    pub control: ControlFile,
    pub target: RecoveryTarget,
    pub at_target: AtTarget,
    /// The timeline to follow; `None`: the newest there is.
    pub timeline: Option<Timeline>,
    /// Copies WAL `%f` to `%p` (documentation, `restore_command`). Run by a shell inside the sandbox.
    pub restore_command: String,
    /// The folder of its Unix socket, mode 0700.
    pub socket_folder: PathBuf,
    pub port: u16,
    pub access: LocalAccess,
    /// Off until absent databases are dropped: the launcher would try one past its freeze age again and again.
    pub autovacuum: bool,
    /// Off only where the directory is thrown away afterwards.
    pub fsync: bool,
    /// In MiB.
    pub shared_buffers: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{}: a captured file is still in place", .path.display())]
    CapturedFile { path: PathBuf },
    #[error("{setting} cannot hold '{value}'")]
    Setting { setting: &'static str, value: String },
    #[error("{}: cannot be written", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the recovered server stopped before it was ready")]
    Stopped,
    #[error("the recovered server was not ready within {seconds} s")]
    NotReady { seconds: u64 },
    #[error(transparent)]
    Sql(#[from] SqlError),
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        let cause = crate::failure::chain(&error);
        let (kind, object, next) = match &error {
            ServerError::CapturedFile { path } => {
                (Kind::Refused, path.display().to_string(), "move captured configuration out of the data directory")
            }
            ServerError::Setting { setting, .. } => (Kind::Usage, (*setting).to_owned(), "choose a value of one line"),
            ServerError::Write { path, .. } => {
                (Kind::Failed, path.display().to_string(), "check room and rights of the sandbox's folder")
            }
            ServerError::Stopped => (Kind::Failed, "recovered server".to_owned(), "see its log for the reason"),
            ServerError::NotReady { .. } => {
                (Kind::NotReached, "recovered server".to_owned(), "see its log for how far it is; give it more time")
            }
            ServerError::Sql(_) => (Kind::Failed, "recovered server".to_owned(), "see its log for the reason"),
        };
        Self::new(kind, object, cause, next)
    }
}

/// Files of a data directory that decide how a server runs. None of them may be there when ours are written.
pub const DECISIVE: [&str; 7] = [
    "postgresql.conf",
    "postgresql.auto.conf",
    "pg_hba.conf",
    "pg_ident.conf",
    "standby.signal",
    "recovery.signal",
    "recovery.conf",
];

/// Writes `postgresql.conf`, `pg_hba.conf`, `pg_ident.conf` and `recovery.signal` into `pgdata`.
///
/// # Guarantees
/// Nothing is overwritten or followed: every file is created anew, mode 0600.
///
/// # Errors
/// When a captured file of that kind is still there, a value cannot be written as a setting, or writing fails.
pub fn write_configuration(pgdata: &Path, plan: &RecoveryPlan) -> Result<(), ServerError> {
    for name in DECISIVE {
        let path = pgdata.join(name);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(ServerError::CapturedFile { path });
        }
    }
    let configuration = configuration(plan)?;
    let access = host_based_access(&plan.access)?;
    let files = [("postgresql.conf", configuration), ("pg_hba.conf", access), ("pg_ident.conf", String::new())];
    for (name, content) in files {
        create(&pgdata.join(name), content.as_bytes())?;
    }
    create(&pgdata.join("recovery.signal"), b"")
}

fn create(path: &Path, content: &[u8]) -> Result<(), ServerError> {
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    written
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .map_err(|source| ServerError::Write { path: path.to_owned(), source })
}

/// Settings that close every way by which captured data could run code, reach out, or change what was restored.
const CLOSED: [(&str, &str); 22] = [
    ("listen_addresses", ""),
    ("ssl", "off"),
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("dynamic_library_path", "$libdir"),
    ("jit", "off"),          // compiles with a library of its own; a restore gains nothing by it
    ("archive_mode", "off"), // the source's archive must never see this server
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("primary_conninfo", ""),
    ("hot_standby", "off"),
    // Tablespaces are restored as plain folders in pg_tblspc; recovery panics at them otherwise (CheckTablespaceDirectory).
    ("allow_in_place_tablespaces", "on"),
    ("wal_level", "replica"),
    ("max_logical_replication_workers", "0"), // captured subscriptions stay asleep
    ("synchronous_standby_names", ""),        // nobody will ever confirm
    ("wal_recycle", "off"),                   // recycled segments would keep old bytes under new names
    ("logging_collector", "off"),             // the sandbox reads standard error
    ("log_destination", "stderr"),
    ("log_line_prefix", "%m [%p] "),
    ("log_timezone", "UTC"),
    ("lc_messages", "C"), // recovery_log.rs reads English
];

fn configuration(plan: &RecoveryPlan) -> Result<String, ServerError> {
    let control = &plan.control;
    let mut text = String::from("# Written by lifeboat for a recovered server. Captured configuration is not used.\n");
    let mut set = |name: &'static str, value: &str| -> Result<(), ServerError> {
        text.push_str(&format!("{name} = {}\n", quoted(name, value)?));
        Ok(())
    };
    for (name, value) in CLOSED {
        set(name, value)?;
    }
    set("unix_socket_directories", &plan.socket_folder.to_string_lossy())?;
    set("unix_socket_permissions", "0700")?;
    set("port", &plan.port.to_string())?;
    // Recovery needs room for what the source had room for.
    set("max_connections", &control.max_connections.to_string())?;
    set("max_worker_processes", &control.max_worker_processes.to_string())?;
    set("max_wal_senders", &control.max_wal_senders.to_string())?;
    set("max_prepared_transactions", &control.max_prepared_transactions.to_string())?;
    set("max_locks_per_transaction", &control.max_locks_per_transaction.to_string())?;
    set("track_commit_timestamp", on_off(control.track_commit_timestamp))?;
    set("autovacuum", on_off(plan.autovacuum))?;
    set("fsync", on_off(plan.fsync))?;
    set("shared_buffers", &format!("{}MB", plan.shared_buffers))?;
    set("restore_command", &plan.restore_command)?;
    set("recovery_target_timeline", &plan.timeline.map_or("latest".to_owned(), |timeline| timeline.to_string()))?;
    let action = match plan.at_target {
        AtTarget::Promote => "promote",
        AtTarget::Shutdown => "shutdown",
    };
    set("recovery_target_action", action)?;
    match &plan.target {
        RecoveryTarget::Latest => {}
        RecoveryTarget::Immediate => set("recovery_target", "immediate")?,
        RecoveryTarget::Lsn { lsn, inclusive } => {
            set("recovery_target_lsn", &lsn.to_string())?;
            set("recovery_target_inclusive", on_off(*inclusive))?;
        }
        RecoveryTarget::Time { time, inclusive } => {
            set("recovery_target_time", &time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string())?;
            set("recovery_target_inclusive", on_off(*inclusive))?;
        }
        RecoveryTarget::Transaction { xid, inclusive } => {
            set("recovery_target_xid", &xid.to_string())?;
            set("recovery_target_inclusive", on_off(*inclusive))?;
        }
        RecoveryTarget::RestorePoint { name } => set("recovery_target_name", name)?,
    }
    Ok(text)
}

fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

/// A value as `postgresql.conf` reads it: quotes doubled, backslashes doubled (`guc-file.l`, `DeescapeQuotedString`).
fn quoted(setting: &'static str, value: &str) -> Result<String, ServerError> {
    if value.chars().any(char::is_control) {
        return Err(ServerError::Setting { setting, value: value.escape_default().to_string() });
    }
    Ok(format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")))
}

fn host_based_access(access: &LocalAccess) -> Result<String, ServerError> {
    match access {
        LocalAccess::Trust => Ok("local all all trust\n".to_owned()),
        LocalAccess::ScramExcept(role) => {
            if role.chars().any(char::is_control) || role.contains('"') {
                return Err(ServerError::Setting { setting: "pg_hba.conf", value: role.escape_default().to_string() });
            }
            Ok(format!("local all \"{role}\" trust\nlocal all all scram-sha-256\n"))
        }
    }
}

/// Settings for every session on a recovered server, by `sql::connect_with` or [`guarded_environment`]: what a role or
/// a database carries in the captured catalogs would otherwise load libraries at login. Only a superuser may set them.
#[must_use]
pub fn guarded_settings(major: u32) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![("session_preload_libraries", ""), ("local_preload_libraries", ""), ("jit", "off")];
    if major >= 17 {
        // 17 brought triggers at login, and the switch for all event triggers.
        settings.push(("event_triggers", "off"));
    }
    settings
}

/// [`guarded_settings`] as the value of `PGOPTIONS`, for `pg_dump` and its kind.
#[must_use]
pub fn guarded_environment(major: u32) -> String {
    let settings: Vec<_> = guarded_settings(major).iter().map(|(name, value)| format!("-c {name}={value}")).collect();
    settings.join(" ")
}

/// `postgres -D <pgdata>`: stays in the foreground, logs to standard error. Command-line settings outrank every file.
///
/// # Errors
/// When the program is not there.
pub fn start_arguments(
    binaries: &Binaries,
    pgdata: &Path,
    plan: &RecoveryPlan,
) -> Result<Vec<OsString>, BinariesError> {
    let mut arguments: Vec<OsString> = vec![binaries.program("postgres")?.into(), "-D".into(), pgdata.into()];
    arguments.extend(["-k".into(), plan.socket_folder.clone().into(), "-p".into(), plan.port.to_string().into()]);
    arguments.extend(["-c".into(), "listen_addresses=".into()]);
    Ok(arguments)
}

/// `pg_ctl stop`: waits until the server is down; sessions are ended, data is flushed.
///
/// # Errors
/// When the program is not there.
pub fn stop_arguments(binaries: &Binaries, pgdata: &Path, wait: Duration) -> Result<Vec<OsString>, BinariesError> {
    let mut arguments: Vec<OsString> = vec![binaries.program("pg_ctl")?.into(), "stop".into(), "-D".into()];
    arguments.extend([pgdata.into(), "-m".into(), "fast".into(), "-w".into()]);
    arguments.extend(["-t".into(), wait.as_secs().max(1).to_string().into()]);
    Ok(arguments)
}

/// `pg_dump` of one database in custom format to `output`, without owners and rights (they are the target's).
///
/// # Errors
/// When the program is not there.
pub fn dump_arguments(
    binaries: &Binaries,
    server: &Server,
    database: &str,
    output: &Path,
) -> Result<Vec<OsString>, BinariesError> {
    let mut arguments: Vec<OsString> = vec![binaries.program("pg_dump")?.into()];
    arguments.extend(["--format=custom".into(), "--no-owner".into(), "--no-privileges".into()]);
    arguments.extend(["--no-subscriptions".into(), "--no-password".into(), "--file".into(), output.into()]);
    arguments.extend(to_database(server, database));
    Ok(arguments)
}

/// `pg_amcheck` of one database: heap against its indexes, every row. Needs the extension `amcheck`, which
/// `--install-missing` makes.
///
/// # Errors
/// When the program is not there.
pub fn check_arguments(binaries: &Binaries, server: &Server, database: &str) -> Result<Vec<OsString>, BinariesError> {
    let mut arguments: Vec<OsString> = vec![binaries.program("pg_amcheck")?.into()];
    arguments.extend(["--install-missing".into(), "--heapallindexed".into(), "--no-password".into()]);
    arguments.extend(to_database(server, database));
    // pg_amcheck's --dbname is a pattern; as last argument it takes a connection string.
    if let Some(name) = arguments.pop() {
        arguments.pop();
        arguments.push(name);
    }
    Ok(arguments)
}

/// Host, port, role and database. The name goes as a connection string: as it stands, whatever letters it has.
fn to_database(server: &Server, database: &str) -> Vec<OsString> {
    let name = format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut arguments: Vec<OsString> = vec!["--host".into(), server.host.clone().into()];
    arguments.extend(["--port".into(), server.port.to_string().into()]);
    arguments.extend(["--username".into(), server.user.clone().into(), "--dbname".into(), name.into()]);
    arguments
}

/// How often the server is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Waits until recovery is over and connections are taken (`pg_is_in_recovery()` is false). `lives` says whether the
/// server's process is still there: when it is not, waiting ends at once.
///
/// # Errors
/// When the server stopped, or was not ready within `patience`.
pub async fn wait_until_recovered(
    server: &Server,
    major: u32,
    patience: Duration,
    mut lives: impl FnMut() -> bool,
) -> Result<(), ServerError> {
    let until = Instant::now() + patience;
    loop {
        // Asked before connecting: a server that dies in between is found in the next round.
        let lived = lives();
        match recovered(server, major).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // 57P03: starting up, or in recovery without hot standby. No SQLSTATE: no socket yet.
            Err(error) if matches!(error.sqlstate().as_deref(), None | Some("57P03")) => {}
            Err(error) => return Err(error.into()),
        }
        if !lived {
            return Err(ServerError::Stopped);
        }
        if Instant::now() >= until {
            return Err(ServerError::NotReady { seconds: patience.as_secs() });
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn recovered(server: &Server, major: u32) -> Result<bool, SqlError> {
    use sqlx::Connection as _;
    // The first session is as hostile as any later one.
    let mut connection = sql::connect_with(server, &server.database, &guarded_settings(major)).await?;
    let rows = sql::text_rows(&mut connection, "recovery", "SELECT pg_catalog.pg_is_in_recovery()::text").await?;
    let _ = connection.close().await;
    Ok(rows.first().and_then(|row| row.first()).is_some_and(|answer| answer.as_deref() == Some("false")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_setting_cannot_leave_its_line() {
        assert_eq!(quoted("restore_command", r"cp 'a\b' %p").unwrap(), r"'cp ''a\\b'' %p'");
        assert!(quoted("restore_command", "x\narchive_mode = on").is_err());
        assert!(host_based_access(&LocalAccess::ScramExcept("a\" trust\n".to_owned())).is_err());
    }

    #[test]
    fn a_captured_file_still_in_place_is_refused_even_as_a_dangling_link() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/nonexistent", folder.path().join("postgresql.auto.conf")).unwrap();
        let refused = write_configuration(folder.path(), &plan());
        assert!(matches!(refused, Err(ServerError::CapturedFile { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    fn plan() -> RecoveryPlan {
        let mut content = vec![0; 8192];
        content[8..12].copy_from_slice(&1300_u32.to_le_bytes());
        content[228..232].copy_from_slice(&(16_u32 << 20).to_le_bytes());
        let crc = crc32c::crc32c(&content[..288]);
        content[288..292].copy_from_slice(&crc.to_le_bytes());
        RecoveryPlan {
            control: ControlFile::parse(&content).unwrap(),
            target: RecoveryTarget::Time { time: "2026-11-21T13:05:00.5Z".parse().unwrap(), inclusive: true },
            at_target: AtTarget::Promote,
            timeline: Some(Timeline(3)),
            restore_command: "false".to_owned(),
            socket_folder: "/tmp/s".into(),
            port: 5432,
            access: LocalAccess::Trust,
            autovacuum: false,
            fsync: true,
            shared_buffers: 128,
        }
    }

    #[test]
    fn a_target_in_time_is_written_with_its_zone_and_its_microseconds() {
        let text = configuration(&plan()).unwrap();
        assert!(text.contains("recovery_target_time = '2026-11-21 13:05:00.500000+00'\n"), "{text}");
        assert!(text.contains("recovery_target_timeline = '3'\n"));
        assert!(text.contains("shared_preload_libraries = ''\n"));
    }

    #[test]
    fn a_databases_name_reaches_the_programs_as_it_stands() {
        let binaries = Binaries::find(15, &[], "").unwrap();
        let server = Server {
            host: "/tmp/s".to_owned(),
            port: 5432,
            user: "postgres".to_owned(),
            database: "postgres".to_owned(),
            password: None,
            sslmode: super::super::connect::SslMode::Disable,
            ca_file: None,
            application_name: String::new(),
        };
        let arguments = dump_arguments(&binaries, &server, "o'brien host=evil", Path::new("/tmp/x")).unwrap();
        assert_eq!(arguments.last().unwrap(), "dbname='o\\'brien host=evil'");
    }
}
