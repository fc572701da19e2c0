//! A real PostgreSQL 15 for tests: as nobody, in a temporary folder, on a socket there; stopped when dropped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::connect::{Server, SslMode};

pub const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A command that runs as nobody when we are root (PostgreSQL refuses root).
pub fn as_nobody(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").stdin(Stdio::null()).current_dir("/");
    command
}

/// Runs to the end; the test fails with the program's own words when it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("start");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Gives a folder and what is in it to nobody.
pub fn give_to_nobody(path: &Path) {
    if rustix::process::geteuid().is_root() {
        run(Command::new("chown").arg("-R").arg("65534:65534").arg(path));
    }
}

/// A temporary folder that nobody owns, mode 0700.
pub fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("lifeboat-pg-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    give_to_nobody(folder.path());
    folder
}

/// A running server.
pub struct Postmaster(pub Child);

impl Postmaster {
    pub fn start(arguments: &[std::ffi::OsString], log: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        let mut command = as_nobody(&arguments[0]);
        command.args(&arguments[1..]).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap())
    }

    pub fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// SIGINT: fast shutdown; SIGQUIT: immediate, as a crash.
    pub fn stop(&mut self, signal: Signal) {
        if self.lives() {
            kill_process(Pid::from_child(&self.0), signal).unwrap();
            self.0.wait().unwrap();
        }
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop(Signal::QUIT);
        } else if self.lives() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::QUIT);
            let _ = self.0.wait();
        }
    }
}

/// A cluster of its own for one test.
pub struct Cluster {
    pub postmaster: Postmaster,
    pub folder: TempDir,
    pub port: u16,
}

impl Cluster {
    /// Page checksums on; `settings` are lines of `postgresql.conf`, `access` those of `pg_hba.conf` before trust.
    pub fn start(settings: &str, access: &str) -> Self {
        let folder = folder();
        let data = folder.path().join("data");
        let initdb = format!("{BIN}/initdb");
        run(as_nobody(initdb)
            .args(["-k", "-N", "-U", "postgres", "-A", "trust", "--no-locale", "-E", "UTF8", "-D"])
            .arg(&data));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let socket = folder.path().display();
        let conf = format!(
            "fsync=off\nautovacuum=off\nlisten_addresses=''\nunix_socket_directories='{socket}'\nport={port}\n\
             shared_buffers=16MB\nmax_prepared_transactions=5\nwal_keep_size=1GB\n{settings}\n"
        );
        let mut file = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        file.write_all(conf.as_bytes()).unwrap();
        let trust = "local all all trust\nlocal replication all trust\n";
        fs::write(data.join("pg_hba.conf"), format!("{access}\n{trust}")).unwrap();
        let mut cluster = Self { postmaster: Self::launch(&data, folder.path()), folder, port };
        cluster.wait();
        cluster
    }

    fn launch(data: &Path, folder: &Path) -> Postmaster {
        let arguments = [format!("{BIN}/postgres").into(), "-D".into(), data.into()];
        Postmaster::start(&arguments, &folder.join("log"))
    }

    fn wait(&mut self) {
        for _ in 0..1800 {
            let mut ready = as_nobody(format!("{BIN}/pg_isready"));
            ready.arg("-q").arg("-h").arg(self.folder.path()).arg("-p").arg(self.port.to_string());
            if ready.status().unwrap().success() {
                return;
            }
            assert!(self.postmaster.lives(), "{}", fs::read_to_string(self.folder.path().join("log")).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("not ready");
    }

    pub fn restart(&mut self) {
        self.postmaster = Self::launch(&self.data(), self.folder.path());
        self.wait();
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Runs SQL by psql and gives its unaligned output.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = as_nobody(format!("{BIN}/psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"]);
        psql.arg(self.folder.path()).arg("-p").arg(self.port.to_string());
        for statement in sql.split(";;") {
            psql.arg("-c").arg(statement);
        }
        run(&mut psql).trim_end().to_owned()
    }

    /// The server by its socket, as superuser without password.
    pub fn local(&self) -> Server {
        Server {
            host: self.folder.path().display().to_string(),
            port: self.port,
            user: "postgres".to_owned(),
            database: "postgres".to_owned(),
            password: None,
            sslmode: SslMode::Disable,
            ca_file: None,
            application_name: "lifeboat test".to_owned(),
        }
    }
}
