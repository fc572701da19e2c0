//! WAL of a real PostgreSQL 15 that did everything once, made once per change of this file and cached.
//!
//! Three tenants (`tenant_a`, `tenant_b`, `tenant_c`) and some databases that come and go. `tenant_b`'s content
//! is full of random markers. Segments are 1 MiB, so that many records are cut by a segment's end.
#![allow(dead_code)]

mod workload;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lifeboat::ids::{DbOid, Lsn, SystemId, Timeline};
use lifeboat::postgres::wal::version::Version;
use lifeboat::postgres::wal::{Geometry, Owner, Owners, Slot, Split, Splitter, Start};
use serde::{Deserialize, Serialize};

pub const BIN: &str = "/usr/lib/postgresql/15/bin";
pub const SEGMENT_BYTES: u32 = 1 << 20;
pub const A: Slot = 1;
pub const B: Slot = 2;
pub const C: Slot = 3;

/// A run of WAL and what is known about the cluster that wrote it.
pub struct Fixture {
    pub wal: Vec<u8>,
    pub facts: Facts,
}

#[derive(Serialize, Deserialize)]
pub struct Facts {
    pub from: Lsn,
    pub system_id: SystemId,
    pub databases: BTreeMap<String, u32>,
    /// Texts of `tenant_b` that must be nowhere else.
    pub markers: Vec<String>,
}

impl Fixture {
    pub fn get() -> Self {
        let sources = concat!(include_str!("mod.rs"), include_str!("workload.rs"));
        let key = lifeboat::ids::Digest::of(sources.as_bytes()).to_string();
        let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("wal-{}", &key[..16]));
        std::fs::create_dir_all(&cache).unwrap();
        let lock = File::create(cache.join("lock")).unwrap();
        lock.lock().unwrap();
        if !cache.join("facts.json").exists() {
            workload::make(&cache);
        }
        let facts: Facts = serde_json::from_slice(&std::fs::read(cache.join("facts.json")).unwrap()).unwrap();
        Self { wal: std::fs::read(cache.join("wal")).unwrap(), facts }
    }

    pub fn geometry(&self) -> Geometry {
        Geometry {
            version: Version::of_major(15).unwrap(),
            segment_bytes: SEGMENT_BYTES,
            timeline: Timeline(1),
            system_id: Some(self.facts.system_id),
        }
    }

    pub fn start(&self) -> Start {
        Start {
            at: self.facts.from,
            record_aligned: false,
            previous_record: None,
            system_id: Some(self.facts.system_id),
            timeline: Timeline(1),
            segment_bytes: SEGMENT_BYTES,
            version: Version::of_major(15).unwrap(),
        }
    }

    pub fn owners(&self) -> Known {
        let slot = |name: &str| match name {
            "tenant_a" => Some(Owner::Tenant(A)),
            "tenant_b" => Some(Owner::Tenant(B)),
            "tenant_c" => Some(Owner::Tenant(C)),
            _ => None,
        };
        let mut bound = BTreeMap::from([1, 4, 5].map(|oid| (DbOid(oid), Owner::Cluster)));
        for (name, oid) in &self.facts.databases {
            if let Some(owner) = slot(name) {
                bound.insert(DbOid(*oid), owner);
            }
        }
        Known { bound, next: 100, events: Vec::new() }
    }

    /// Behind the last byte.
    pub fn end(&self) -> Lsn {
        self.facts.from.plus(self.wal.len() as u64)
    }

    pub fn between(&self, from: Lsn, to: Lsn) -> &[u8] {
        let offset = |lsn: Lsn| lsn.since(self.facts.from) as usize;
        &self.wal[offset(from)..offset(to)]
    }

    /// The whole run as one stretch.
    pub fn split(&self) -> Split {
        split_whole(self.start(), self.owners(), &self.wal)
    }
}

pub fn split_whole(start: Start, owners: Known, wal: &[u8]) -> Split {
    let mut splitter = Splitter::new(start, owners).unwrap();
    splitter.feed(start.at, wal).unwrap();
    splitter.finish().0.unwrap()
}

/// Owners for tests: known databases, and a new slot for every other.
#[derive(Clone)]
pub struct Known {
    pub bound: BTreeMap<DbOid, Owner>,
    pub next: Slot,
    pub events: Vec<(&'static str, DbOid, Lsn)>,
}

impl Owners for Known {
    fn owner(&mut self, db: DbOid, _at: Lsn) -> Owner {
        let next = &mut self.next;
        *self.bound.entry(db).or_insert_with(|| {
            *next += 1;
            Owner::Tenant(*next)
        })
    }
    fn created(&mut self, db: DbOid, at: Lsn) {
        self.events.push(("created", db, at));
    }
    fn dropped(&mut self, db: DbOid, at: Lsn) {
        self.events.push(("dropped", db, at));
    }
}

/// A server of our own in a temporary folder, run by nobody, reached by its socket only.
pub struct Server {
    folder: tempfile::TempDir,
    running: Option<Child>,
}

impl Server {
    pub fn init(segment_megabytes: u32, settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("lifeboat-wal-").tempdir_in("/tmp").unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).unwrap();
        }
        let server = Self { folder, running: None };
        let status = unprivileged(&format!("{BIN}/initdb"))
            .args(["-k", "-N", "-A", "trust", "-U", "postgres", "--locale=C.UTF-8"])
            .arg(format!("--wal-segsize={segment_megabytes}"))
            .arg("-D")
            .arg(server.data())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        let conf = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\n{settings}\n",
            server.folder.path().display()
        );
        std::fs::write(server.data().join("postgresql.auto.conf"), conf).unwrap();
        server
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = unprivileged(&format!("{BIN}/postgres"));
        command.arg("-D").arg(self.data()).stdout(Stdio::null()).stderr(log).stdin(Stdio::null());
        self.running = Some(command.spawn().unwrap());
        for _ in 0..1500 {
            let ready = Command::new(format!("{BIN}/pg_isready"))
                .arg("-h")
                .arg(self.folder.path())
                .stdout(Stdio::null())
                .status()
                .unwrap();
            if ready.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap());
    }

    pub fn psql(&self, database: &str) -> Command {
        let mut command = Command::new(format!("{BIN}/psql"));
        command.args(["-XqtA", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database]);
        command.arg("-h").arg(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Runs statements (each `-c` is one transaction unless it says otherwise).
    pub fn sql(&self, database: &str, statements: &[&str]) -> String {
        let mut command = self.psql(database);
        for statement in statements {
            command.args(["-c", statement]);
        }
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{database}: {statements:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A session that goes on while others work.
    pub fn session(&self, database: &str, statements: &[&str]) -> Child {
        let mut command = self.psql(database);
        for statement in statements {
            command.args(["-c", statement]);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    pub fn pgbench(&self, arguments: &[&str], database: &str) -> Child {
        let mut command = Command::new(format!("{BIN}/pgbench"));
        command.arg("-h").arg(self.folder.path()).args(["-U", "postgres"]).args(arguments).arg(database);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Kills the server and all its processes as a power cut would.
    pub fn crash(&mut self) {
        let mut server = self.running.take().unwrap();
        let postmaster = server.id().to_string();
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
        let ids: Vec<_> = std::iter::once(postmaster.as_str()).chain(children.split_whitespace()).collect();
        Command::new("kill").arg("-9").args(&ids).stderr(Stdio::null()).status().unwrap();
        server.wait().unwrap();
        // shared memory is free again when the last child is gone
        for id in ids {
            while Path::new("/proc").join(id).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// The WAL files as one run of bytes.
    pub fn wal(&self) -> (Lsn, Vec<u8>) {
        let folder = self.data().join("pg_wal");
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|path| path.file_name().unwrap().len() == 24);
        names.sort();
        let segment_bytes = std::fs::metadata(&names[0]).unwrap().len();
        let first = names[0].file_name().unwrap().to_str().unwrap().to_owned();
        let half = |digits: &str| u64::from_str_radix(digits, 16).unwrap();
        let from = (half(&first[8..16]) << 32) + half(&first[16..]) * segment_bytes;
        (Lsn(from), names.iter().flat_map(|path| std::fs::read(path).unwrap()).collect())
    }

    pub fn stop(&mut self) {
        if let Some(mut server) = self.running.take() {
            Command::new("kill").arg("-INT").arg(server.id().to_string()).status().unwrap();
            server.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// PostgreSQL refuses to run as root.
fn unprivileged(program: &str) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
    command
}
