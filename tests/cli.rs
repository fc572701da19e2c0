//! The command line as scripts and people meet it: what reaches stdout and stderr, and the exit codes.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A run of the real binary in an empty folder, with nothing of this machine's own configuration.
fn lifeboat(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.args(args).current_dir(folder).env_clear().env("HOME", folder).env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null());
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    lifeboat(folder, args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The one JSON object of stdout; its exit code must be the process's.
fn json(output: &Output) -> Value {
    let stdout = text(&output.stdout);
    let value: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout:?}"));
    assert!(value.is_object());
    assert_eq!(value["exit_code"], output.status.code().unwrap(), "{value}");
    value
}

#[test]
fn wrong_arguments_are_one_json_object_too() {
    let dir = tempfile::tempdir().unwrap();
    for (args, command) in [
        (&["--json", "restore", "acme"][..], "restore"),
        (&["restore", "acme", "--json"], "restore"),
        (&["--json", "key", "new"], "key new"),
        (&["--json", "frobnicate"], ""),
        (&["--json"], ""),
        (&["--json", "restore", "--at", "latest", "a", "--to", "x", "--bogus"], "restore"),
    ] {
        let output = run(dir.path(), args);
        let value = json(&output);
        assert_eq!((output.status.code(), &value["outcome"]), (Some(2), &Value::from("failed")), "{args:?}");
        assert_eq!(value["command"], command, "{args:?}");
        let error = &value["error"];
        assert_eq!(error["kind"], "usage", "{args:?}");
        for field in ["object", "cause", "next"] {
            assert!(!error[field].as_str().unwrap().is_empty(), "{args:?}: {field} of {error}");
        }
        assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    }
}

#[test]
fn help_and_version_are_one_json_object_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for (args, part) in [(["--json", "--help"], "Usage:"), (["--json", "--version"], "lifeboat 0.")] {
        let value = json(&run(dir.path(), &args));
        assert_eq!((&value["outcome"], &value["exit_code"]), (&Value::from("ok"), &Value::from(0)));
        assert!(value["text"].as_str().unwrap().contains(part), "{value}");
    }
}

#[test]
fn an_argument_after_two_dashes_does_not_ask_for_json() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["frobnicate", "--", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("frobnicate"));
}

#[test]
fn people_get_the_error_on_stderr_and_nothing_on_stdout() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lifeboat.toml"), "[estate]\nnam = \"x\"\n").unwrap();
    let output = run(dir.path(), &["init"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("error: lifeboat.toml: 5 things are wrong\n  line 1: estate.name: is missing"), "{stderr}");
    assert!(stderr.contains("  line 2: estate.nam: there is no such key; did you mean 'name'?\n"), "{stderr}");
    assert!(stderr.contains("\n  next: correct the lines named"), "{stderr}");
    assert!(!stderr.contains('\u{1b}'), "no colours off a terminal: {stderr:?}");
}

#[test]
fn a_wrong_configuration_is_a_usage_error_in_json_with_every_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("other.toml"), "a = 1\nb = 2\n").unwrap();
    let value = json(&run(dir.path(), &["--config", "other.toml", "--json", "init"]));
    assert_eq!(value["error"]["object"], "other.toml");
    let cause = value["error"]["cause"].as_str().unwrap();
    assert!(cause.contains("line 1: a:") && cause.contains("line 2: b:"), "{cause}");
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = lifeboat(dir.path(), &["--json", "--version"]);
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("error: stdout: cannot be written"));
}

/// A real server with three databases, listening on a socket in a folder of its own.
struct Server {
    dir: tempfile::TempDir,
    process: std::process::Child,
}

const BIN: &str = "/usr/lib/postgresql/15/bin";

impl Server {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("lbcli").tempdir_in("/tmp").unwrap();
        let root = nix_root();
        if root {
            std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
        }
        let data = dir.path().join("data");
        let unprivileged = |program: &str| {
            let mut command = Command::new(format!("{BIN}/{program}"));
            command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if root {
                command.uid(65534).gid(65534);
            }
            command
        };
        let mut initdb = unprivileged("initdb");
        assert!(initdb.args(["-U", "admin", "-A", "trust", "-N", "-D"]).arg(&data).status().unwrap().success());
        let mut postgres = unprivileged("postgres");
        postgres.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"]).arg(dir.path());
        let server = Self { process: postgres.spawn().unwrap(), dir };
        let script = "CREATE DATABASE acme;\nCREATE DATABASE \"Globex \\ \"\"GmbH\"\"\";\nCREATE DATABASE list;\n";
        for _ in 0..1800 {
            if server.psql(script) {
                return server;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the server does not answer");
    }

    fn psql(&self, script: &str) -> bool {
        let mut psql = Command::new(format!("{BIN}/psql"));
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "admin", "-d", "postgres", "-h"]).arg(self.dir.path());
        let mut child = psql.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(script.as_bytes());
        child.wait().unwrap().success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let id = self.process.id().to_string();
        let _ = Command::new("kill").args(["-QUIT", &id]).status(); // immediate shutdown, of this server only
        let _ = self.process.wait();
    }
}

fn nix_root() -> bool {
    text(&Command::new("id").arg("-u").output().unwrap().stdout).trim() == "0"
}

#[test]
fn init_lists_the_databases_of_a_real_server_and_never_overwrites() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let filestore = dir.path().join(".local/share/Odoo/filestore");
    std::fs::create_dir_all(filestore.join("acme")).unwrap();
    let init = || {
        let mut command = lifeboat(dir.path(), &["--json", "init", "--name", "shop"]);
        command.env("PGHOST", server.dir.path()).env("PGUSER", "admin").env("PGPASSWORD", "hunter2").output().unwrap()
    };
    let first = init();
    let path = dir.path().join("lifeboat.toml");
    let written = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}: {first:?}"));
    let config = lifeboat::config::Config::parse(&written, &path).unwrap();
    assert_eq!(config.estate.name, "shop");
    assert_eq!(config.clusters["main"].host, server.dir.path().to_str().unwrap());
    assert_eq!(config.clusters["main"].user, "admin");
    assert_eq!(config.tenants["acme"].filestore.as_deref(), Some(filestore.as_path()));
    assert_eq!(config.tenants["globex----gmbh-"].databases, ["Globex \\ \"GmbH\""]);
    assert_eq!(config.tenants["list-2"].databases, ["list"]);
    for said in [&written, &text(&first.stdout), &text(&first.stderr)] {
        assert!(!said.contains("hunter2"), "{said}");
    }
    std::fs::write(&path, format!("{written}# mine\n")).unwrap();
    let first = json(&first);
    assert_eq!((&first["outcome"], &first["wrote"]), (&Value::from("ok"), &Value::from(true)), "{first}");
    assert_eq!(first["made"].as_array().unwrap().len(), 1 + 3 + 3 + 8, "estate, cluster, tenants, spares: {first}");
    let second = json(&init());
    assert_eq!(
        (&second["outcome"], &second["wrote"], &second["made"]),
        (&"ok".into(), &false.into(), &Value::Array(vec![]))
    );
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("# mine\n"));
}

const SMALL: &str = "[estate]\nname = \"shop\"\n[store]\nkind = \"local\"\npath = \"store\"\n\
    [keys]\nwriter = \"k/writer.json\"\nidentities = \"k/identities\"\nsigners = \"k/signers\"\n\
    [clusters.main]\nhost = \"db\"\nuser = \"backup\"\n\
    [tenants.acme]\ncluster = \"main\"\ndatabases = [\"acme\"]\n";

#[test]
fn keys_are_made_one_by_one_listed_and_never_made_twice() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lifeboat.toml"), SMALL).unwrap();
    let key = |args: &[&str]| run(dir.path(), &[&["--json", "key"], args].concat());
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(json(&key(&["new", "estate", "cluster/main", "residue/main", "quarantine/main"]))["outcome"], "ok");
    assert_eq!((mode("k"), mode("k/identities"), mode("k/writer.json")), (0o700, 0o700, 0o600));
    let listed = json(&key(&["list"]));
    assert_eq!((&listed["outcome"], &listed["exit_code"]), (&"warnings".into(), &3.into()), "acme has none: {listed}");
    assert_eq!(listed["findings"][0]["object"], "tenant/acme");
    assert_eq!(json(&key(&["new", "tenant/acme", "spare/1"]))["outcome"], "ok");
    let listed = json(&key(&["list"]));
    assert_eq!(listed["exit_code"], 0, "{listed}");
    assert_eq!(listed["scopes"].as_array().unwrap().len(), 6);
    assert!(listed["scopes"].as_array().unwrap().iter().all(|scope| scope["seals"] == true && scope["opens"] == true));
    let again = json(&key(&["new", "tenant/acme"]));
    assert_eq!((&again["exit_code"], &again["error"]["object"]), (&2.into(), &"tenant/acme".into()), "{again}");
    let slip = json(&key(&["new", "tenant/amce"]));
    assert!(slip["error"]["cause"].as_str().unwrap().contains("did you mean 'tenant/acme'?"), "{slip}");
    let table = text(&run(dir.path(), &["key", "list"]).stdout);
    assert!(table.starts_with("scope            epoch  seals  opens\n"), "{table}");
    for said in [table, listed.to_string()] {
        assert!(!said.contains("SECRET"), "{said}");
    }
}

#[test]
fn a_lost_writer_bundle_is_not_replaced_by_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lifeboat.toml"), SMALL).unwrap();
    assert_eq!(run(dir.path(), &["key", "new", "estate"]).status.code(), Some(0));
    std::fs::remove_file(dir.path().join("k/writer.json")).unwrap();
    let output = run(dir.path(), &["key", "new", "tenant/acme"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(!dir.path().join("k/writer.json").exists() && !dir.path().join("k/identities/tenant").exists());
}

#[test]
fn keys_made_at_the_same_time_all_reach_the_bundle() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lifeboat.toml"), SMALL).unwrap();
    let spares: Vec<String> = (1..=6).map(|n| format!("spare/{n}")).collect();
    let spawned: Vec<_> =
        spares.iter().map(|scope| lifeboat(dir.path(), &["key", "new", scope]).spawn().unwrap()).collect();
    for mut child in spawned {
        assert!(child.wait().unwrap().success());
    }
    let listed = json(&run(dir.path(), &["--json", "key", "list"]));
    let sealed = listed["scopes"].as_array().unwrap().iter().filter(|scope| scope["seals"] == true).count();
    assert_eq!(sealed, 6, "{listed}");
}

/// It waits for a writer of the pipe that is its configuration, and is looked at meanwhile.
#[test]
fn a_process_of_lifeboat_leaves_no_core() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("lifeboat.toml");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = lifeboat(dir.path(), &["--config", "lifeboat.toml", "points"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Opened here once it is open there: by then main has begun long ago.
    let writer = std::fs::File::options().write(true).open(&pipe).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    drop(writer);
    child.wait().unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}
