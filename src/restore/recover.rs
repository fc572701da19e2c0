//! Recovery in the sandbox: an assembled data directory becomes a running server, or the reason why not.
//!
//! The WAL laid beside it ends exactly at the target, so recovery runs to the end of what there is: no recovery target whose
//! meaning a server could stretch. What was reached is read from the server's log and compared with what our own reading of
//! the WAL says must be the last record.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::door::{Door, PORT, socket_in};
use crate::config::{SandboxConfig, SandboxKind};
use crate::failure::{Failure, Kind};
use crate::ids::Lsn;
use crate::postgres::binaries::Binaries;
use crate::postgres::connect::Server;
use crate::postgres::control::ControlFile;
use crate::postgres::recovery_log::RecoveryLog;
use crate::postgres::server::{self, AtTarget, LocalAccess, RecoveryPlan, RecoveryTarget, ServerError};
use crate::sandbox::{Destroyed, Layout, Owner, Process, Sandbox, Spawn};
use crate::watch::Watch;

/// A day: replay of a large window takes its time; a server that dies is noticed at once.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
const STOP_WITHIN: Duration = Duration::from_secs(600);
/// In MiB; enough for replay, small beside the source's.
const SHARED_BUFFERS: u32 = 128;
const LOG: &str = "server.log";

/// What an assembled folder holds, and what must come out of it.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// The sandbox's folder: `pgdata/`, `wal/`.
    pub dir: PathBuf,
    pub superuser: String,
    pub major: u32,
    /// Where the last record to replay begins and ends.
    pub last_record: Lsn,
    pub end: Lsn,
    pub last_commit: Option<Timestamp>,
    pub timeline: crate::ids::Timeline,
}

impl Assembled {
    #[must_use]
    pub fn pgdata(&self) -> PathBuf {
        self.dir.join("pgdata")
    }
}

/// A recovered server, running in its sandbox.
pub struct Recovered {
    pub sandbox: Arc<Sandbox>,
    pub assembled: Assembled,
    pub binaries: Binaries,
    /// The superuser's way in, through the door.
    pub server: Server,
    door: Door,
    process: Process,
}

/// Starts recovery in a new sandbox and waits for its end.
///
/// Expected flow: the data directory and the WAL are in place, captured configuration is not.
/// Guarantees: nothing is started before the sandbox has proven that it has no way out; on success the server has replayed
/// exactly up to [`Assembled::last_record`].
/// Errors: `NotReached` when it stopped earlier; `Integrity` when the server says that something is damaged.
pub async fn recover(
    assembled: Assembled,
    config: &SandboxConfig,
    binaries: Binaries,
    read_only: Vec<PathBuf>,
    watch: &dyn Watch,
) -> Result<Recovered, Failure> {
    watch.stage("recovery", None);
    let owner = Owner::of(&config.user)?;
    let socket_folder = assembled.dir.join("sockets");
    let plan = plan(&assembled)?;
    let pgdata = assembled.pgdata();
    server::write_configuration(&pgdata, &plan)?;
    hand_over(&assembled.dir, owner)?;

    let mut layout = Layout::new(&assembled.dir)?;
    layout.user.clone_from(&config.user);
    layout.read_only = read_only;
    if !binaries.folder.starts_with("/usr") {
        layout.read_only.push(binaries.folder.clone());
    }
    let sandbox = Arc::new(Sandbox::start(layout, kind_of(config.kind)).await?);
    let argv = server::start_arguments(&binaries, &pgdata, &plan)?;
    let spawn = Spawn {
        argv: argv.into_iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        env: Vec::new(),
        cwd: None,
        log: LOG.into(),
    };
    let process = sandbox.spawn(spawn).await?;
    let alive = Arc::new(AtomicBool::new(true));
    tokio::spawn({
        let (process, alive) = (process.clone(), Arc::clone(&alive));
        async move {
            let _ended = process.wait().await;
            alive.store(false, Ordering::Relaxed);
        }
    });
    let door = Door::open(Arc::clone(&sandbox), socket_in(&socket_folder))?;
    let server = door.server(&assembled.superuser);
    let recovered = Recovered { sandbox, assembled, binaries, server, door, process };
    let waited = server::wait_until_recovered(&recovered.server, recovered.assembled.major, PATIENCE, || {
        alive.load(Ordering::Relaxed)
    })
    .await;
    recovered.judge(waited)?;
    Ok(recovered)
}

fn kind_of(kind: SandboxKind) -> crate::sandbox::Kind {
    match kind {
        SandboxKind::Auto => crate::sandbox::Kind::Auto,
        SandboxKind::Bubblewrap => crate::sandbox::Kind::Bubblewrap,
        SandboxKind::Namespaces => crate::sandbox::Kind::Namespaces,
    }
}

fn plan(assembled: &Assembled) -> Result<RecoveryPlan, Failure> {
    let path = assembled.pgdata().join("global/pg_control");
    let content = std::fs::read(&path).map_err(|error| {
        Failure::new(Kind::Integrity, path.display().to_string(), error.to_string(), "restore from another point")
    })?;
    Ok(RecoveryPlan {
        control: ControlFile::parse(&content)?,
        target: RecoveryTarget::Latest,
        at_target: AtTarget::Promote,
        timeline: Some(assembled.timeline),
        restore_command: restore_command(&assembled.dir.join("wal"))?,
        // Seen from the data directory, where the server goes at once: a socket's path may have 107 bytes (unix(7)), and the
        // folder that a restore goes to has any length.
        socket_folder: PathBuf::from("../sockets"),
        port: PORT,
        access: LocalAccess::Trust,
        autovacuum: false,
        // The folder is synced once, when it is delivered.
        fsync: false,
        shared_buffers: SHARED_BUFFERS,
    })
}

/// `%f` and `%p` are the server's; our own path must not be taken for them, nor for words of the shell.
fn restore_command(wal: &Path) -> Result<String, Failure> {
    let text = wal.to_str().filter(|text| !text.chars().any(char::is_control)).ok_or_else(|| {
        let cause = "the folder's name cannot be written into a configuration";
        Failure::new(Kind::Usage, wal.display().to_string(), cause, "choose a folder with a plain name")
    })?;
    let quoted = text.replace('\'', "'\\''").replace('%', "%%");
    Ok(format!("cp --sparse=always -- '{quoted}/%f' '%p'"))
}

/// The sandbox's user gets the folder; nobody else may look in (PostgreSQL insists on 0700, `checkDataDir`).
fn hand_over(dir: &Path, owner: Owner) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Kind::Failed, dir.display().to_string(), error.to_string(), "check the folder's rights")
    };
    for folder in [dir.to_owned(), dir.join("pgdata")] {
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(owner.give(dir)?)
}

/// A server's log that is longer than this is read from its beginning only so far; recovery says what matters in few lines.
const LOG_BYTES: u64 = 16 << 20;

impl Recovered {
    fn read_log(&self) -> Result<RecoveryLog, Failure> {
        use std::io::Read as _;
        let mut text = Vec::new();
        let file = self.sandbox.open(Path::new(LOG))?;
        file.take(LOG_BYTES).read_to_end(&mut text).map_err(|error| super::assemble::disk(Path::new(LOG), &error))?;
        Ok(RecoveryLog::of(&String::from_utf8_lossy(&text)))
    }

    /// Compares what the server says it replayed with what it had to replay.
    fn judge(&self, waited: Result<(), ServerError>) -> Result<(), Failure> {
        let log = self.read_log()?;
        if let Err(error) = waited {
            let failure = Failure::from(error);
            let said = log.failures.join("; ");
            let cause = if said.is_empty() { failure.cause } else { format!("{}: {said}", failure.cause) };
            let kind = if log.missing_folder.is_some() { Kind::Integrity } else { failure.kind };
            return Err(Failure::new(kind, "recovered server", cause, failure.next));
        }
        let wanted = self.assembled.last_record;
        match log.redo_done {
            Some(replayed) if replayed == wanted => Ok(()),
            Some(replayed) => Err(Failure::new(
                Kind::NotReached,
                "recovery",
                format!("stopped at the record at {replayed}; the last one to replay is at {wanted}"),
                "restore from another point, or from the second copy",
            )),
            None => Err(Failure::new(
                Kind::NotReached,
                "recovery",
                "the server does not say what it replayed",
                "see the server's log in the sandbox's folder",
            )),
        }
    }

    /// A connection of the superuser's, with the settings that outrank captured ones.
    ///
    /// # Errors
    /// When the server is gone.
    pub async fn connect(&self, database: &str) -> Result<sqlx::PgConnection, Failure> {
        let settings = server::guarded_settings(self.assembled.major);
        Ok(crate::postgres::sql::connect_with(&self.server, database, &settings).await?)
    }

    /// The server as programs inside the sandbox reach it.
    #[must_use]
    pub fn inside(&self) -> Server {
        let host = self.assembled.dir.join("sockets").to_string_lossy().into_owned();
        Server { host, ..self.server.clone() }
    }

    /// Runs a program inside with the superuser's way to the server.
    ///
    /// # Errors
    /// When it cannot be started, or does not end with 0: with the end of what it said.
    pub async fn run(&self, argv: Vec<std::ffi::OsString>, log: &str) -> Result<String, Failure> {
        let words: Vec<String> = argv.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let program = words.first().cloned().unwrap_or_default();
        let env = vec![("PGOPTIONS".to_owned(), server::guarded_environment(self.assembled.major))];
        let exit = self.sandbox.run(Spawn { argv: words, env, cwd: None, log: log.into() }).await?;
        if exit.status.success() {
            return Ok(exit.tail);
        }
        Err(Failure::new(
            Kind::Failed,
            program,
            format!("{:?}: {}", exit.status, exit.tail.trim()),
            "see the message; the sandbox's folder has the whole log",
        ))
    }

    /// Stops the server in order and ends the sandbox; the folder stays.
    ///
    /// # Errors
    /// When the server does not stop, or something of the sandbox is left running.
    pub async fn stop(self) -> Result<Assembled, Failure> {
        let argv = server::stop_arguments(&self.binaries, &self.assembled.pgdata(), STOP_WITHIN)?;
        self.run(argv, "stop.log").await?;
        self.process.wait().await?;
        self.end().await
    }

    /// Ends the sandbox with everything in it, the server included; the folder stays.
    ///
    /// # Errors
    /// When something of it is left running.
    pub async fn end(self) -> Result<Assembled, Failure> {
        let assembled = self.assembled.clone();
        let _ended = self.destroy().await?;
        Ok(assembled)
    }

    /// As [`Recovered::end`], with the proof that nothing is left; none where somebody still speaks to the server: then the drop of
    /// the last holder kills it.
    ///
    /// # Errors
    /// When something of it is left running.
    pub async fn destroy(self) -> Result<Option<Destroyed>, Failure> {
        let Self { sandbox, door, .. } = self;
        drop(door);
        // The door's task held the sandbox too; it is gone after its abort was seen.
        let mut shared = sandbox;
        for _ in 0..100 {
            match Arc::try_unwrap(shared) {
                Ok(sandbox) => return Ok(Some(sandbox.destroy().await?)),
                Err(still) => shared = still,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(None)
    }
}
