//! A folder that `lifeboat restore --to` made, started and looked at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::cluster::{Running, Server};
use super::process::give;
use super::workload::{Moment, last_number};
use super::{fingerprint, scratch, tenants};

/// `DIR`: `pgdata/`, `filestore/<database>/`, `restore.json`.
pub struct Folder {
    pub path: PathBuf,
    dir: TempDir,
}

impl Folder {
    /// A place for a restore to go to; the folder itself is not there yet.
    pub fn planned() -> Self {
        let dir = scratch();
        Self { path: dir.path().join("to"), dir }
    }

    pub fn text(&self) -> &str {
        self.path.to_str().expect("a plain path")
    }

    pub fn pgdata(&self) -> PathBuf {
        self.path.join("pgdata")
    }

    pub fn filestore(&self, database: &str) -> PathBuf {
        self.path.join("filestore").join(database)
    }

    pub fn report(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path.join("restore.json")).expect("restore.json")).expect("JSON")
    }

    /// Starts the server with nothing changed but its access rules: the tests' user is nobody of the cluster's.
    pub fn start(&self) -> Running {
        let (data, socket) = (self.pgdata(), self.dir.path().join("s"));
        std::fs::create_dir_all(&socket).expect("a folder for the socket");
        std::fs::write(data.join("pg_hba.conf"), "local all all trust\n").expect("its access rules");
        give(&data);
        give(&socket);
        Running::start(&data, &socket, 5432)
    }
}

/// What a restored tenant is not as it was at `moment`; empty when all is as it was.
pub fn differences(server: &Server, files: &Path, moment: &Moment) -> Vec<String> {
    let database = &moment.tenant;
    let mut found = fingerprint::differences(&moment.state, &fingerprint::take(server, database));
    let number = last_number(server, database);
    if number != moment.number {
        found.push(format!("the last transaction was {}, restored {number}", moment.number));
    }
    found.extend(fingerprint::missing_attachments(server, database, files));
    let restored: BTreeMap<String, String> = fingerprint::files(files);
    let foreign = restored.iter().filter(|(name, sum)| moment.files.get(*name) != Some(*sum));
    found.extend(foreign.map(|(name, _)| format!("file {name} was not there with that content")));
    tenants::amcheck(server, database);
    found
}

/// The databases that a server lists, besides the templates.
pub fn databases(server: &Server) -> Vec<String> {
    let sql = "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1";
    server.psql("postgres", sql).lines().map(str::to_owned).collect()
}
