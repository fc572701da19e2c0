//! acme, globex and initech: real Odoo 19 databases and filestores, loaded once and kept as a template.
//!
//! A template is the data directory of a cleanly stopped cluster and the filestores beside it, in the cache, named
//! by a hash of all that went into it. It is built in a folder of its own and renamed: it is there whole or not at all.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::cluster::{Cluster, Options, Server};
use super::process::{run, unprivileged};
use super::{BIN, am_root, cache, data, shared};

/// Changes with what a template is made of beside the dumps: settings, roles, order.
const RECIPE: &str = "1";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tenant {
    Acme,
    Globex,
    Initech,
}

/// All three, for clusters shared by several tenants.
pub const ALL: [Tenant; 3] = [Tenant::Acme, Tenant::Globex, Tenant::Initech];

impl Tenant {
    /// The tenant's id, and the name of its database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acme => "acme",
            Self::Globex => "globex",
            Self::Initech => "initech",
        }
    }

    /// The role that owns the database, with its test-only password (`roles.sql`).
    pub fn role(self) -> (String, String) {
        (format!("odoo_{}", self.name()), format!("{}-db-pw-1", self.name()))
    }

    /// A file of this tenant's test data: `dump.zst`, `filestore.tar.zst`, `expected.json`, `fixtures.json`.
    /// `None` where it lies in the shared folder and that is absent.
    pub fn file(self, ending: &str) -> Option<PathBuf> {
        let name = format!("{}.{ending}", self.name());
        let own = data().join(self.name()).join(&name);
        let beside = || shared().map(|shared| shared.join("odoo").join(name)).filter(|file| file.is_file());
        if own.is_file() { Some(own) } else { beside() }
    }

    pub fn expected(self) -> serde_json::Value {
        let path = self.file("expected.json").expect("the tenant's expected state");
        serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON")
    }
}

/// What a test that needs all three says when they are not here; `None` when they are.
pub fn missing() -> Option<&'static str> {
    let here = ALL.iter().all(|tenant| tenant.file("dump.zst").is_some());
    (!here).then_some("acme and globex lie in ../shared/odoo (or $LIFEBOAT_SHARED), which is absent")
}

/// The folder with `data/` and `filestore/` of a stopped cluster that holds `tenants`; built when it is not there.
pub fn template(tenants: &[Tenant]) -> PathBuf {
    let folder = cache().join("clusters");
    std::fs::create_dir_all(&folder).expect("the cache");
    let name = key(tenants);
    let done = folder.join(&name);
    let lock = File::create(folder.join(format!("{name}.lock"))).expect("a lock file");
    flock(&lock, FlockOperation::LockExclusive).expect("the lock");
    if !done.is_dir() {
        let cluster = Cluster::fresh(Options { tenants: tenants.to_vec(), ..Options::default() });
        for tenant in tenants {
            cluster.load(*tenant);
        }
        cluster.psql("postgres", "CHECKPOINT");
        let made = cluster.into_stopped();
        let draft = folder.join(format!("{name}.draft"));
        run(Command::new("rm").arg("-rf").arg(&draft));
        run(Command::new("cp").arg("-a").arg(made.path()).arg(&draft));
        std::fs::rename(&draft, &done).expect("the template takes its name");
    }
    done
}

fn key(tenants: &[Tenant]) -> String {
    let mut hash = Sha256::new();
    hash.update(RECIPE);
    hash.update(run(Command::new(format!("{BIN}/postgres")).arg("--version")));
    hash.update([u8::from(am_root())]);
    for tenant in tenants {
        for ending in ["dump.zst", "filestore.tar.zst"] {
            let path = tenant.file(ending).unwrap_or_else(|| panic!("{}.{ending} is not here", tenant.name()));
            hash.update(std::fs::read(path).expect("test data"));
        }
    }
    hex::encode(hash.finalize())[..16].to_owned()
}

/// What `load.sh` of the test data does: role, database, extensions first, dump, filestore.
///
/// The order matters: the trigram indexes need `unaccent(text)` to be immutable, which no dump carries.
pub fn load(server: &Server, tenant: Tenant, filestore: &Path) {
    let (name, (role, password)) = (tenant.name(), tenant.role());
    server.psql(
        "postgres",
        &format!(
            "CREATE ROLE {role} LOGIN CREATEDB PASSWORD '{password}';\n\
             CREATE DATABASE {name} OWNER {role} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8';"
        ),
    );
    server.psql(name, "CREATE EXTENSION IF NOT EXISTS pg_trgm");
    let dump = unpacked(&tenant.file("dump.zst").expect("the tenant's dump"));
    let list = run(server.tool("pg_restore").arg("-l").arg(dump.path()));
    if list.contains("EXTENSION - unaccent") {
        server.psql(name, "CREATE EXTENSION unaccent; ALTER FUNCTION unaccent(text) IMMUTABLE;");
    }
    run(server.tool("pg_restore").args(["--exit-on-error", "-j2", "-d", name]).arg(dump.path()));
    let files = File::open(tenant.file("filestore.tar.zst").expect("the tenant's filestore")).expect("readable");
    let mut archive = tar::Archive::new(zstd::Decoder::new(files).expect("zstd"));
    archive.unpack(filestore).expect("the archive holds one folder, named as the database");
    assert!(filestore.join(name).is_dir());
}

fn unpacked(path: &Path) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let packed = File::open(path).expect("readable");
    zstd::stream::copy_decode(packed, &mut file).expect("zstd");
    file
}

/// `pg_amcheck` with every check it has; fails the test when it finds anything.
pub fn amcheck(server: &Server, database: &str) {
    server.psql(database, "CREATE EXTENSION IF NOT EXISTS amcheck");
    let checks = ["--heapallindexed", "--parent-check", "--rootdescend", "--no-strict-names", "-d", database];
    let said = run(server.tool("pg_amcheck").args(checks));
    assert!(said.trim().is_empty(), "pg_amcheck {database}: {said}");
}

/// Whether this machine can run servers as the tests do.
pub fn server_version() -> String {
    run(unprivileged(&format!("{BIN}/postgres")).arg("--version"))
}
