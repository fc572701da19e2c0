//! A PostgreSQL 15 of the test's own: unprivileged, in a temporary folder, on a socket only.
//!
//! It starts from a template in the cache (`tenants`), so a start costs a copy. Templates share a system identifier:
//! two clusters of one test are told apart by their sockets. Dropping it stops the server at once (SIGQUIT, by
//! process id) and removes the folder. `fsync` is off: tests crash processes, never the machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{Owned, give, run, unprivileged};
use super::tenants::Tenant;
use super::{BIN, scratch, tenants};

/// What lifeboat connects as in tests: may replicate and read, owns nothing.
pub const BACKUP_USER: &str = "lifeboat";
pub const BACKUP_PASSWORD: &str = "lifeboat-test-pw";

const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Options {
    /// Loaded before the test begins.
    pub tenants: Vec<Tenant>,
    pub data_checksums: bool,
    /// `replica`, `logical` or `minimal`.
    pub wal_level: String,
    /// The socket's number; the server listens on no network.
    pub port: u16,
    /// More settings, last word.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tenants: vec![Tenant::Initech],
            data_checksums: true,
            wal_level: "replica".to_owned(),
            port: 5432,
            settings: Vec::new(),
        }
    }
}

/// Where a server answers, and its superuser's way in.
#[derive(Debug, Clone)]
pub struct Server {
    /// The folder with the socket.
    pub socket: PathBuf,
    pub port: u16,
}

impl Server {
    /// A tool of PostgreSQL's, pointed at this server as `postgres`.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(format!("{BIN}/{name}"));
        command.env("PGHOST", &self.socket).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        command.env("LC_ALL", "C.UTF-8").env_remove("PGPASSWORD").env_remove("PGDATABASE");
        command
    }

    /// Runs `sql` in one session; rows as lines, columns parted by tabs. Stops at the first error.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        use std::io::Write as _;
        let mut command = self.tool("psql");
        command.args(["-XAtq", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("psql");
        let mut input = child.stdin.take().expect("its input");
        let sql_bytes = sql.as_bytes().to_vec();
        let feeder = std::thread::spawn(move || input.write_all(&sql_bytes));
        let output = child.wait_with_output().expect("psql");
        feeder.join().expect("the feeder").ok(); // psql may stop reading at an error, which is shown below
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "psql -d {database}: {said}\n{sql}");
        String::from_utf8(output.stdout).expect("text").trim_end_matches('\n').to_owned()
    }

    /// The position that the next record will get.
    pub fn insert_lsn(&self) -> String {
        self.psql("postgres", "SELECT pg_current_wal_insert_lsn()")
    }

    pub fn database_oid(&self, database: &str) -> u32 {
        let oid = self.psql("postgres", &format!("SELECT oid FROM pg_database WHERE datname = '{database}'"));
        oid.parse().unwrap_or_else(|_| panic!("there is no database {database}"))
    }
}

/// A running server over a data directory; stopped at once when dropped.
pub struct Running {
    pub server: Server,
    pub data: PathBuf,
    pub log: PathBuf,
    child: Owned,
}

impl Running {
    /// Starts the server of `data` with its socket in `socket`, and waits until it takes connections.
    pub fn start(data: &Path, socket: &Path, port: u16) -> Self {
        let running = Self::spawn(data, socket, port);
        running.wait_until_ready();
        running
    }

    /// Starts without waiting: for a server that is meant to stop by itself.
    pub fn spawn(data: &Path, socket: &Path, port: u16) -> Self {
        let log = socket.join("server.log");
        let out = std::fs::File::options().append(true).create(true).open(&log).expect("the server's log");
        let mut command = unprivileged(&format!("{BIN}/postgres"));
        command.arg("-D").arg(data).arg("-k").arg(socket).args(["-p", &port.to_string(), "-c", "listen_addresses="]);
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("the log")).stderr(out);
        command.env("LC_ALL", "C.UTF-8");
        let child = Owned::spawn(&mut command);
        Self { server: Server { socket: socket.to_owned(), port }, data: data.to_owned(), log, child }
    }

    fn wait_until_ready(&self) {
        let begun = Instant::now();
        loop {
            let asked = self.server.tool("psql").args(["-XAtq", "-d", "postgres", "-c", "SELECT 1"]).output();
            if asked.expect("psql").status.success() {
                return;
            }
            assert!(begun.elapsed() < START_LIMIT && self.is_alive(), "the server did not start:\n{}", self.log_tail());
            sleep(Duration::from_millis(30));
        }
    }

    fn is_alive(&self) -> bool {
        // A zombie has no executable any more.
        std::fs::read_link(format!("/proc/{}/exe", self.child.0.id())).is_ok()
    }

    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Waits until recovery is over and the server takes writes.
    pub fn wait_for_promotion(&self, limit: Duration) {
        let begun = Instant::now();
        while self.server.psql("postgres", "SELECT pg_is_in_recovery()") != "f" {
            assert!(begun.elapsed() < limit && self.is_alive(), "still in recovery:\n{}", self.log_tail());
            sleep(Duration::from_millis(50));
        }
    }

    /// A clean stop: everything is on disk afterwards (SIGINT, "fast").
    pub fn stop(mut self) {
        self.child.signal(Signal::INT);
        assert!(self.child.wait(START_LIMIT).is_some(), "the server does not stop:\n{}", self.log_tail());
    }

    /// `kill -9` of the postmaster; its children notice and end by themselves.
    pub fn kill(mut self) {
        self.child.signal(Signal::KILL);
        self.child.wait(START_LIMIT).expect("a killed process ends");
        while std::fs::read_dir(&self.server.socket).is_ok() && self.has_children() {
            sleep(Duration::from_millis(20));
        }
    }

    /// Whether anybody still has the data directory's shared memory: the next start would be refused.
    fn has_children(&self) -> bool {
        let folder = std::fs::canonicalize(&self.data).expect("the data directory");
        let here = |pid: std::ffi::OsString| {
            std::fs::read_link(Path::new("/proc").join(pid).join("cwd")).is_ok_and(|cwd| cwd == folder)
        };
        std::fs::read_dir("/proc").expect("/proc").flatten().any(|entry| here(entry.file_name()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.signal(Signal::QUIT);
        self.child.wait(Duration::from_secs(10)); // what is left gets SIGKILL from `Owned`
    }
}

/// A cluster with tenants and their filestores.
pub struct Cluster {
    pub server: Server,
    pub data: PathBuf,
    /// Holds one folder per database, as Odoo's `<data_dir>/filestore` does.
    pub filestore: PathBuf,
    pub options: Options,
    running: Option<Running>,
    /// Last, so that it outlives the server.
    dir: TempDir,
}

impl Cluster {
    /// A copy of the template with `options.tenants`, started.
    pub fn start(options: Options) -> Self {
        let template = tenants::template(&options.tenants);
        let cluster = Self::prepare(options, |dir| {
            for part in ["data", "filestore"] {
                run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(template.join(part)).arg(dir));
            }
        });
        if !cluster.options.data_checksums {
            run(unprivileged(&format!("{BIN}/pg_checksums")).args(["--disable", "-D"]).arg(&cluster.data));
        }
        cluster.started()
    }

    /// A new cluster by `initdb`: what templates are made of.
    pub fn fresh(options: Options) -> Self {
        let cluster = Self::prepare(options, |dir| {
            for part in ["data", "filestore"] {
                std::fs::create_dir(dir.join(part)).expect("a folder");
            }
            give(&dir.join("data"));
            let mut initdb = unprivileged(&format!("{BIN}/initdb"));
            initdb.args(["-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync", "-k", "-D"]);
            run(initdb.arg(dir.join("data")));
        })
        .started();
        cluster.psql(
            "postgres",
            &format!(
                "CREATE ROLE {BACKUP_USER} LOGIN REPLICATION PASSWORD '{BACKUP_PASSWORD}' \
                 IN ROLE pg_read_all_data, pg_monitor"
            ),
        );
        cluster
    }

    fn prepare(options: Options, fill: impl FnOnce(&Path)) -> Self {
        let dir = scratch();
        fill(dir.path());
        let (data, socket) = (dir.path().join("data"), dir.path().join("s"));
        std::fs::create_dir(&socket).expect("a folder for the socket");
        give(&socket);
        std::fs::write(data.join("postgresql.auto.conf"), configuration(&options)).expect("its configuration");
        std::fs::write(data.join("pg_hba.conf"), HBA).expect("its access rules");
        let server = Server { socket, port: options.port };
        Self { server, data, filestore: dir.path().join("filestore"), options, running: None, dir }
    }

    fn started(mut self) -> Self {
        self.running = Some(Running::start(&self.data, &self.server.socket, self.server.port));
        self
    }

    /// The folder of this cluster; a test may put more into it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.server.psql(database, sql)
    }

    /// Loads a tenant into the running server: role, database, filestore.
    pub fn load(&self, tenant: Tenant) {
        tenants::load(&self.server, tenant, &self.filestore);
    }

    /// `kill -9` and start again: crash recovery.
    pub fn crash(&mut self) {
        self.running.take().expect("it runs").kill();
        self.running = Some(Running::start(&self.data, &self.server.socket, self.server.port));
    }

    /// Stops the server: out of reach from now on.
    pub fn stop(&mut self) {
        self.running.take().expect("it runs").stop();
    }

    /// Starts it again after [`Cluster::stop`], with what was changed in the meantime.
    pub fn start_again(&mut self) {
        self.running = Some(Running::start(&self.data, &self.server.socket, self.server.port));
    }

    /// Gives up the data directory of a cleanly stopped server, and the folder that holds it.
    pub(super) fn into_stopped(mut self) -> TempDir {
        self.stop();
        self.dir
    }
}

/// Local connections: the superuser freely, everybody else by password, as lifeboat has to.
const HBA: &str = "local all postgres trust\nlocal replication postgres trust\n\
                   local all all scram-sha-256\nlocal replication all scram-sha-256\n";

fn configuration(options: &Options) -> String {
    let mut text = format!("wal_level = {}\n", options.wal_level);
    // `minimal` forbids senders.
    let senders = if options.wal_level == "minimal" { 0 } else { 10 };
    for (name, value) in [
        ("max_wal_senders", senders.to_string().as_str()),
        ("max_replication_slots", "10"),
        ("max_slot_wal_keep_size", "4GB"),
        ("max_prepared_transactions", "10"),
        ("shared_buffers", "64MB"),
        ("max_wal_size", "1GB"),
        ("fsync", "off"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("log_line_prefix", "%m [%p] %d "),
    ] {
        writeln!(text, "{name} = '{value}'").expect("text");
    }
    for (name, value) in &options.settings {
        writeln!(text, "{name} = '{}'", value.replace('\'', "''")).expect("text");
    }
    text
}
