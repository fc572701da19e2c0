//! An estate of its own: `lifeboat.toml`, keys, a local store or a bucket; and the binary, run as an operator runs it.
//!
//! Everything lies in one temporary folder, or is read from the cluster under test. Each run returns the one JSON
//! object that `--json` promises, so a test never reads a sentence made for people.
//!
//! `LIFEBOAT_TEST_STORE=s3` puts every store of [`Estate::new`] into a bucket of Ceph's gateway (`scripts/test.sh --s3` runs
//! the restore set so). A test that changes objects behind lifeboat's back, counts files, takes the folder away, or asserts what
//! only a folder does, asks for [`Estate::in_folder`]; one that only looks at objects reads [`Estate::objects`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lifeboat::clock::Clock;
use lifeboat::store::Store;
use lifeboat::store::honesty::{self, Outcome as Trial};
use lifeboat::store::local::LocalStore;
use lifeboat::store::s3::S3Store;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::bucket::Bucket;
use super::cluster::{BACKUP_PASSWORD, BACKUP_USER, Cluster};
use super::process::Owned;
use super::s3::Keys;
use super::scratch;
use super::tenants::Tenant;

/// The name of the one cluster.
pub const CLUSTER: &str = "main";

/// For a stream to begin, to bring WAL, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Estate {
    pub config: PathBuf,
    /// The local store's folder; for a bucket, where its objects are brought to be looked at.
    pub store: PathBuf,
    /// One folder per scope; moving it away is how a test takes keys from the machine.
    pub identities: PathBuf,
    bucket: Option<Bucket>,
    dir: TempDir,
}

/// What a run of the binary left behind.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    /// The object on standard output; `Null` where there was none.
    pub json: Value,
    pub stderr: String,
    /// What the store was asked for, one JSON object per call (the binary's own log of its store wrapper).
    pub store_calls: Vec<Value>,
}

impl Outcome {
    /// The run ended with `code`, or the test fails and shows what was said.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{:#}", self.stderr, self.json);
        assert_eq!(self.json["exit_code"].as_i64(), Some(code.into()), "the JSON says otherwise: {:#}", self.json);
        self
    }

    /// The run did what it was asked, perhaps with something to say (3).
    #[track_caller]
    pub fn done(self) -> Self {
        assert!([0, 3].contains(&self.code), "{}\n{:#}", self.stderr, self.json);
        self
    }

    /// The names of the objects that were read.
    pub fn read(&self) -> Vec<&str> {
        let gets = self.store_calls.iter().filter(|call| call["op"] == "get");
        gets.filter_map(|call| call["name"].as_str()).collect()
    }
}

impl Estate {
    /// Protects `tenants` of `cluster`; `more` is appended to the file as it is. Makes the keys.
    pub fn new(cluster: &Cluster, tenants: &[Tenant], more: &str) -> Self {
        match std::env::var("LIFEBOAT_TEST_STORE").as_deref() {
            Err(_) | Ok("local") => Self::in_folder(cluster, tenants, more),
            Ok("s3") => Self::in_bucket(cluster, tenants, more, Bucket::fresh()),
            Ok(other) => panic!("LIFEBOAT_TEST_STORE is 'local' or 's3', not '{other}'"),
        }
    }

    /// The same with a local store, whatever the environment says.
    pub fn in_folder(cluster: &Cluster, tenants: &[Tenant], more: &str) -> Self {
        Self::with_store(cluster, tenants, more, None)
    }

    /// The same in a bucket of `endpoint`, reached with `keys` as an AWS profile.
    pub fn on_s3(cluster: &Cluster, tenants: &[Tenant], more: &str, endpoint: &str, bucket: &str, keys: &Keys) -> Self {
        let bucket =
            Bucket { endpoint: endpoint.to_owned(), name: bucket.to_owned(), keys: keys.clone(), server: None };
        Self::in_bucket(cluster, tenants, more, bucket)
    }

    fn in_bucket(cluster: &Cluster, tenants: &[Tenant], more: &str, bucket: Bucket) -> Self {
        let place = bucket.place();
        let estate = Self::with_store(cluster, tenants, more, Some(bucket));
        estate.drilled(&place, Trial::Refused);
        estate
    }

    /// A folder with every object of the store, under its name. To be read only: a bucket's are copies.
    pub fn objects(&self) -> &Path {
        if let Some(bucket) = &self.bucket {
            bucket.bring(&self.store);
        }
        &self.store
    }

    /// The store, opened by lifeboat's own code with the estate's own credential.
    pub async fn open_store(&self) -> Arc<dyn Store> {
        match &self.bucket {
            None => Arc::new(LocalStore::open(&self.store, Clock::system()).expect("the store's folder")),
            Some(bucket) => Arc::new(S3Store::open(bucket.options()).await.expect("the bucket")),
        }
    }

    /// Remembers a drill of the store at `place` with one trial, as `lifeboat doctor --attack` would have made now.
    pub fn drilled(&self, place: &str, outcome: Trial) {
        let trial = honesty::Trial { attack: honesty::Attack::DeleteVersion, outcome, detail: String::new() };
        let record = honesty::Record::new(place.to_owned(), Clock::system().now(), vec![trial]);
        record.write(&self.dir().join("state/honesty")).expect("the record");
    }

    /// Without a bucket in a folder. The file with AWS profiles is `<dir>/aws`.
    fn with_store(cluster: &Cluster, tenants: &[Tenant], more: &str, bucket: Option<Bucket>) -> Self {
        let dir = scratch();
        let root = dir.path();
        if let Some(Bucket { keys, .. }) = &bucket {
            keys.write_profile(&root.join("aws"), &keys.user);
        }
        let store = bucket.as_ref().map_or_else(|| "kind = \"local\"\npath = \"store\"\n".to_owned(), Bucket::table);
        let secret = root.join("password");
        std::fs::write(&secret, BACKUP_PASSWORD).expect("the password's file");
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        let config = root.join("lifeboat.toml");
        std::fs::write(&config, text(cluster, tenants, &store) + more).expect("the configuration");
        std::fs::create_dir(root.join("store")).expect("the store's folder");
        for tenant in tenants {
            // To hold Odoo's collection while files are copied, as `docs` ask for.
            let grant = format!("GRANT UPDATE ON ir_cron, ir_attachment TO {BACKUP_USER}");
            cluster.psql(tenant.name(), &grant);
        }
        let estate = Self { config, store: root.join("store"), identities: root.join("identities"), bucket, dir };
        estate.make_keys();
        estate
    }

    /// Adds `keys` (lines that are not there yet) to the cluster's table.
    pub fn tune(&self, keys: &str) {
        let text = std::fs::read_to_string(&self.config).expect("the configuration");
        let head = format!("[clusters.{CLUSTER}]\n");
        std::fs::write(&self.config, text.replacen(&head, &format!("{head}{keys}\n"), 1)).expect("the configuration");
    }

    /// `init` leaves the configuration as it is and makes the keys of every scope that it names.
    fn make_keys(&self) {
        self.run(&["init", "--spares", "4"]).expect(0);
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with(arguments, &BTreeMap::new())
    }

    pub fn run_with(&self, arguments: &[&str], environment: &BTreeMap<&str, &str>) -> Outcome {
        let calls = tempfile::NamedTempFile::new().expect("a file for the store's calls");
        let mut command = self.command(arguments);
        command.env("LIFEBOAT_STORE_LOG", calls.path()).envs(environment);
        let output = command.stdin(Stdio::null()).output().expect("the binary starts");
        let lines = std::fs::read_to_string(calls.path()).expect("the store's calls");
        let store_calls = lines.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
        let stdout = String::from_utf8(output.stdout).expect("text");
        let json = outcome(arguments.first().expect("a command"), &stdout);
        let code = output.status.code().expect("it was not killed");
        Outcome { code, json, stderr: String::from_utf8_lossy(&output.stderr).into_owned(), store_calls }
    }

    /// Starts the binary and leaves it running, to be killed or drained; its output goes to `<dir>/<first word>.log`.
    pub fn spawn(&self, arguments: &[&str]) -> Owned {
        let log = self.dir().join(format!("{}.log", arguments.first().expect("a command")));
        let log = std::fs::File::options().append(true).create(true).open(log).expect("a log");
        let mut command = self.command(arguments);
        Owned::spawn(command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log))
    }

    /// Starts `stream` and waits until it holds the slot.
    pub fn stream(&self, cluster: &Cluster) -> Owned {
        let mut stream = self.spawn(&["stream"]);
        let begun = Instant::now();
        let held = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'lifeboat' AND active";
        while cluster.psql("postgres", held) != "1" {
            let ended = stream.wait(Duration::from_millis(50));
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "no stream: {}", self.log("stream"));
        }
        stream
    }

    /// Waits until the store's WAL reaches `lsn`, as the slot says, which never runs ahead of the store.
    pub fn wait_for_wal(&self, cluster: &Cluster, lsn: &str) {
        let begun = Instant::now();
        cluster.psql("postgres", "SELECT pg_logical_emit_message(true, 'test', 'flush')");
        let reached = format!("SELECT restart_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = 'lifeboat'");
        while cluster.psql("postgres", &reached) != "t" {
            assert!(begun.elapsed() < PATIENCE, "the store's WAL does not reach {lsn}: {}", self.log("stream"));
            sleep(Duration::from_millis(50));
        }
    }

    /// SIGTERM: drains and ends with 0, or with 3 where it had something to say.
    pub fn end_stream(&self, mut stream: Owned) -> Value {
        stream.signal(Signal::TERM);
        let status = stream.wait(PATIENCE).unwrap_or_else(|| panic!("no end: {}", self.log("stream")));
        assert!(matches!(status.code(), Some(0 | 3)), "{status}: {}", self.log("stream"));
        outcome("stream", &self.log("stream"))
    }

    /// What a command that was spawned has said so far.
    pub fn log(&self, command: &str) -> String {
        std::fs::read_to_string(self.dir().join(format!("{command}.log"))).unwrap_or_default()
    }

    /// Changes the configuration; every run reads it anew.
    pub fn edit(&self, change: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(&self.config).expect("the configuration");
        std::fs::write(&self.config, change(text)).expect("the configuration");
    }

    /// Takes everything but these scopes' identities off the machine while `what` runs.
    pub fn with_only<T>(&self, scopes: &[&str], what: impl FnOnce() -> T) -> T {
        let away = self.dir().join("all-identities");
        std::fs::rename(&self.identities, &away).expect("the identities go");
        for scope in scopes {
            let to = self.identities.join(scope);
            std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
            super::process::run(Command::new("cp").arg("-a").arg(away.join(scope)).arg(&to));
        }
        let result = what();
        std::fs::remove_dir_all(&self.identities).ok(); // not there when nothing was left here
        std::fs::rename(&away, &self.identities).expect("the identities come back");
        result
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        self.prepare(&mut command, arguments);
        command
    }

    /// Adds the arguments and the environment of a run to `command`, which starts the binary by whatever means.
    pub fn prepare(&self, command: &mut Command, arguments: &[&str]) {
        command.arg("--config").arg(&self.config).arg("--json").args(arguments);
        for name in ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "LIFEBOAT_CONFIG"] {
            command.env_remove(name);
        }
        // No AWS credentials but the estate's own, and nobody asked for any on the network.
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"] {
            command.env_remove(name);
        }
        command
            .env("AWS_SHARED_CREDENTIALS_FILE", self.dir().join("aws"))
            .env("AWS_CONFIG_FILE", self.dir().join("aws-config"));
        command.env("AWS_EC2_METADATA_DISABLED", "true");
    }

    /// Takes a scope's identities off the machine while `what` runs.
    pub fn without_key<T>(&self, scope: &str, what: impl FnOnce() -> T) -> T {
        let (here, away) = (self.identities.join(scope), self.dir().join("away"));
        std::fs::rename(&here, &away).unwrap_or_else(|error| panic!("{}: {error}", here.display()));
        let result = what();
        std::fs::rename(&away, &here).expect("the key comes back");
        result
    }

    /// Destroys a scope's identities for good.
    pub fn shred_key(&self, scope: &str) {
        std::fs::remove_dir_all(self.identities.join(scope)).expect("the scope's identities");
    }
}

/// The one object of standard output; `stream` speaks JSON Lines, and its last one says how it ended.
fn outcome(command: &str, stdout: &str) -> Value {
    let text = if command == "stream" { stdout.trim().lines().next_back().unwrap_or_default() } else { stdout.trim() };
    if text.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{command}: {error} in {stdout}"))
}

fn text(cluster: &Cluster, tenants: &[Tenant], store: &str) -> String {
    let mut text = format!(
        "state_dir = \"state\"\n\n[estate]\nname = \"test\"\n\n[store]\n{store}\n\
         [keys]\nwriter = \"writer.json\"\nidentities = \"identities\"\nsigners = \"allowed_signers\"\n\n\
         [clusters.{CLUSTER}]\nhost = \"{}\"\nport = {}\nuser = \"{BACKUP_USER}\"\npassword = {{ file = \"password\" }}\n\
         restore_user = \"postgres\"\n",
        cluster.server.socket.display(),
        cluster.server.port,
    );
    for tenant in tenants {
        let name = tenant.name();
        let filestore = cluster.filestore.display();
        write!(
            text,
            "\n[tenants.{name}]\ncluster = \"{CLUSTER}\"\ndatabases = [\"{name}\"]\nfilestore = \"{filestore}\"\n"
        )
        .expect("text");
    }
    text
}
