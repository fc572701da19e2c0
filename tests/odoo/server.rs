//! One PostgreSQL server for all tests of this program, stopped and removed when it ends, however it ends.
//!
//! Each Odoo database is loaded once; a test that changes one gets a copy of its own.

use std::collections::BTreeSet;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _};

const NOBODY: u32 = 65534;

pub struct Server {
    folder: PathBuf,
    /// Closed by the system when this program ends; then the shell that waits for it cleans up.
    _open: ChildStdin,
    /// What is loaded already, and how many copies were made.
    loaded: Mutex<(BTreeSet<String>, u32)>,
}

/// What a roster and a filestore are read from.
const READ: &[&str] = &[
    "auth_oauth_provider",
    "auth_passkey_key",
    "auth_totp_device",
    "fetchmail_server",
    "ir_attachment",
    "ir_config_parameter",
    "ir_mail_server",
    "ir_model",
    "ir_model_access",
    "ir_model_data",
    "ir_module_module",
    "ir_rule",
    "res_company",
    "res_company_users_rel",
    "res_groups",
    "res_groups_implied_rel",
    "res_groups_users_rel",
    "res_users",
    "res_users_apikeys",
    "rule_group_rel",
];

static RUNNING: OnceLock<Server> = OnceLock::new();

/// Runs `postgres` ("$@") until standard input ends, then stops it (SIGQUIT: at once) and removes its folder.
const KEEPER: &str = r#"folder=$1; shift; "$@" & read -r _; kill -QUIT $!; wait; rm -rf "$folder""#;

/// Where initech is, or the others; none (and a line on stderr) when they are not on this machine.
pub fn data(tenant: &str) -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = if tenant == "initech" {
        repository.join("tests/data/initech")
    } else {
        let shared = std::env::var_os("LIFEBOAT_SHARED").map_or_else(|| repository.join("../shared"), PathBuf::from);
        shared.join("odoo")
    };
    if place.join(format!("{tenant}.dump.zst")).exists() {
        return Some(place);
    }
    eprintln!("skipped: no {tenant}.dump.zst in {} (set LIFEBOAT_SHARED)", place.display());
    None
}

/// A tenant's JSON file: `expected`, `fixtures`.
pub fn json(tenant: &str, what: &str) -> serde_json::Value {
    let file = data(tenant).unwrap().join(format!("{tenant}.{what}.json"));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

impl Server {
    pub fn start() -> &'static Self {
        RUNNING.get_or_init(Self::new)
    }

    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("lifeboat-odoo-").tempdir().unwrap().keep();
        chown(&folder, Some(NOBODY), Some(NOBODY)).ok();
        let data = folder.join("data");
        run(tool("initdb", &folder)
            .args(["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data));
        let postgres = tool("postgres", &folder);
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&folder).arg(postgres.get_program()).args(postgres.get_args());
        keeper.arg("-D").arg(&data).arg("-k").arg(&folder);
        let quick =
            ["listen_addresses=", "fsync=off", "full_page_writes=off", "wal_level=minimal", "max_wal_senders=0"];
        for setting in quick.iter().chain(&["autovacuum=off", "max_locks_per_transaction=1024"]) {
            keeper.args(["-c", setting]);
        }
        keeper.env("HOME", &folder).current_dir(&folder).env_remove("PGDATA");
        #[allow(clippy::zombie_processes)] // it ends after this program, which is its point
        let mut keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { folder, _open: keeper.stdin.take().unwrap(), loaded: Mutex::default() };
        for _ in 0..1800 {
            if server.tool("psql").args(["-qc", "SELECT 1"]).output().unwrap().status.success() {
                run(server.tool("psql").arg("-qf").arg(data_file("initech", "roles.sql")));
                return server;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server does not start");
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = tool(name, &self.folder);
        command.env("PGHOST", &self.folder).env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command
    }

    /// `tenant`'s database, to be read only. Of the big ones only the tables that these tests read: seconds, not a minute.
    pub fn database(&self, tenant: &str) -> String {
        if tenant == "initech" {
            // A database that somebody is connected to cannot be copied.
            return self.copy();
        }
        self.load_once(tenant, &READ.iter().flat_map(|table| ["-t", table]).collect::<Vec<_>>())
    }

    fn load_once(&self, tenant: &str, only: &[&str]) -> String {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.0.insert(tenant.to_owned()) {
            self.load(tenant, only);
        }
        tenant.to_owned()
    }

    /// A copy of initech of one's own.
    pub fn copy(&self) -> String {
        let initech = self.load_once("initech", &[]);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.1 += 1;
        let name = format!("copy{}", loaded.1);
        run(self.tool("createdb").args(["-T", &initech, &name]));
        name
    }

    /// As `odoo/load.sh` does it.
    fn load(&self, tenant: &str, only: &[&str]) {
        let owner = format!("odoo_{}", tenant.split('-').next().unwrap());
        run(self
            .tool("createdb")
            .args(["-T", "template0", "-E", "UTF8", "--lc-collate=C", "--lc-ctype=C.UTF-8"])
            .args(["-O", &owner, tenant]));
        run(self
            .tool("psql")
            .args(["-qd", tenant, "-c", "CREATE EXTENSION pg_trgm", "-c", "CREATE EXTENSION unaccent"])
            .args(["-c", "ALTER FUNCTION unaccent(text) IMMUTABLE"]));
        let dump = self.folder.join(format!("{tenant}.dump"));
        let compressed = std::fs::read(data_file(tenant, &format!("{tenant}.dump.zst"))).unwrap();
        std::fs::write(&dump, zstd::decode_all(&compressed[..]).unwrap()).unwrap();
        run(self
            .tool("pg_restore")
            .args(["--exit-on-error", "--single-transaction", "-d", tenant])
            .args(only)
            .arg(&dump));
    }

    /// An empty database; its name.
    pub fn empty(&self, name: &str) -> String {
        run(self.tool("createdb").arg(name));
        name.to_owned()
    }

    pub async fn connect(&self, database: &str) -> PgConnection {
        self.connect_as(database, "postgres").await
    }

    pub async fn connect_as(&self, database: &str, role: &str) -> PgConnection {
        let options = PgConnectOptions::new_without_pgpass().socket(&self.folder).username(role);
        options.database(database).connect().await.unwrap()
    }
}

/// Runs any statements.
pub async fn sql(connection: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await.unwrap();
}

fn data_file(tenant: &str, file: &str) -> PathBuf {
    data(tenant).unwrap().join(file)
}

/// A server tool of the newest major that is here, not as root (PostgreSQL refuses root).
fn tool(name: &str, home: &Path) -> Command {
    let majors = ["18", "17", "16", "15"].map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    let path = majors.iter().map(|bin| bin.join(name)).find(|path| path.exists()).unwrap_or_else(|| name.into());
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    command.current_dir(home).env("HOME", home).env_remove("PGDATA").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
