//! The demo's own PostgreSQL: in its folder, on a socket there, stopped when it is dropped.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Failure, Kind};
use crate::postgres::binaries::Binaries;
use crate::postgres::wal::version::KNOWN;
use crate::sandbox::Owner;

pub struct DemoCluster {
    pub folder: PathBuf,
    binaries: Binaries,
    /// Whom PostgreSQL, which refuses root, runs as.
    owner: Option<Owner>,
}

impl DemoCluster {
    /// Makes and starts it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or does not start.
    pub fn start(folder: &Path) -> Result<Self, Failure> {
        let path = std::env::var("PATH").unwrap_or_default();
        let newest = KNOWN.iter().rev().map(|version| Binaries::find(version.major, &[], &path));
        let binaries = newest
            .reduce(|best, next| best.or(next))
            .transpose()?
            .ok_or_else(|| Failure::new(Kind::Failed, "PostgreSQL", "no version is known", "report this defect"))?;
        let owner = if rustix::process::geteuid().is_root() { Some(Owner::of("nobody")?) } else { None };
        let cluster = Self { folder: folder.join("cluster"), binaries, owner };
        let open = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755));
        open.and_then(|()| std::fs::create_dir_all(cluster.sockets())).map_err(|error| cluster.disk(&error))?;
        for made in [cluster.folder.clone(), cluster.sockets()] {
            if let Some(owner) = owner {
                chown(&made, Some(owner.uid), Some(owner.gid)).map_err(|error| cluster.disk(&error))?;
            }
        }
        let data = cluster.folder.join("data");
        let data = data.to_string_lossy();
        cluster.tool(
            "initdb",
            &["-D", &data, "-U", "postgres", "-A", "trust", "--data-checksums", "-E", "UTF8", "--locale=C.UTF-8"],
        )?;
        let settings = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c max_slot_wal_keep_size=4GB -c fsync=off",
            cluster.sockets().display()
        );
        let log = cluster.folder.join("log");
        cluster.tool("pg_ctl", &["-D", &data, "-l", &log.to_string_lossy(), "-w", "-o", &settings, "start"])?;
        Ok(cluster)
    }

    #[must_use]
    pub fn sockets(&self) -> PathBuf {
        self.folder.join("sockets")
    }

    /// Runs SQL in a database, gives what it answers.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String, Failure> {
        self.tool("psql", &["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
    }

    /// Runs one of PostgreSQL's programs against this cluster.
    ///
    /// # Errors
    /// When it is not there or fails: with what it said.
    pub fn tool(&self, program: &'static str, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(self.binaries.program(program)?);
        command.args(arguments).env("PGHOST", self.sockets()).env("PGUSER", "postgres").stdin(Stdio::null());
        command.current_dir(&self.folder);
        if let Some(owner) = self.owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        // pg_ctl leaves its output with the server that it starts: nobody may wait for its end.
        if program == "pg_ctl" {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let done = command.output().map_err(|error| self.disk(&error))?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        let said = crate::sandbox::printable(&done.stderr);
        Err(Failure::new(
            Kind::Failed,
            program,
            said.trim().to_owned(),
            "see the log in the demo's folder (--dir DIR --keep)",
        ))
    }

    /// Gives a folder to whom the server runs as.
    ///
    /// # Errors
    /// When it cannot be given away.
    pub fn give(&self, folder: &Path) -> Result<(), Failure> {
        match self.owner {
            Some(owner) => Ok(owner.give(folder)?),
            None => Ok(()),
        }
    }

    pub(super) fn disk(&self, error: &std::io::Error) -> Failure {
        let next = "check the room and rights of the demo's folder";
        Failure::new(Kind::Failed, self.folder.display().to_string(), error.to_string(), next)
    }
}

impl Drop for DemoCluster {
    fn drop(&mut self) {
        let data = self.folder.join("data");
        let stopped = self.tool("pg_ctl", &["-D", &data.to_string_lossy(), "-m", "immediate", "-w", "stop"]);
        if let Err(failure) = stopped {
            tracing::warn!(%failure, "the demo's server was not stopped");
        }
    }
}
