//! Bad input and bad surroundings: a clear error with the next step, the right exit code, nothing half-written; and nothing that was
//! captured runs, nothing secret shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use support::cluster::{BACKUP_PASSWORD, Cluster, Options};
use support::damage::{Damage, objects};
use support::estate::{Estate, Outcome};
use support::fingerprint;
use support::process::{Owned, run};
use support::restored::start;
use support::tenants::Tenant;

/// For anything that is awaited: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// The error, after its form was checked: object, cause and next step are there.
#[track_caller]
fn refused(outcome: Outcome, code: i32) -> (String, String) {
    let outcome = outcome.expect(code);
    let text = |field: &str| outcome.json["error"][field].as_str().unwrap_or_default().to_owned();
    for field in ["kind", "object", "cause", "next"] {
        assert!(!text(field).is_empty(), "no {field}: {:#}", outcome.json);
    }
    (format!("{}: {}", text("object"), text("cause")), text("next"))
}

fn restore(to: &Path) -> [&str; 6] {
    ["restore", "initech", "--at", "latest", "--to", to.to_str().unwrap()]
}

fn estate(cluster: &Cluster) -> Estate {
    Estate::in_folder(cluster, &[Tenant::Initech], "")
}

/// How many points there are; what a failed command must not change.
fn points(estate: &Estate) -> usize {
    objects(&estate.store, |name| name.contains("/points/") && name.ends_with(".envelope.json")).len()
}

#[test]
fn a_wrong_password_a_stopped_server_and_an_absent_store_are_told_with_the_next_step() {
    let mut cluster = Cluster::start(Options::default());
    let estate = estate(&cluster);
    estate.run(&["backup"]).done();
    let before = objects(&estate.store, |_| true).len();

    let password = estate.dir().join("password");
    let damage = Damage::replace(&password, b"not-the-password");
    for command in [&["stream", "--once"][..], &["backup"]] {
        let (cause, next) = refused(estate.run(command), 2);
        assert!(cause.contains("password authentication failed"), "{cause}");
        assert!(!cause.contains("at line") && next.contains("password"), "{cause}, {next}");
    }
    drop(damage);

    cluster.stop();
    for command in [&["stream", "--once"][..], &["backup"]] {
        let (_, next) = refused(estate.run(command), 7);
        assert!(next.contains("try again"), "{next}");
    }
    assert_eq!(objects(&estate.store, |_| true).len(), before, "something was written");
    // The server is not needed to restore from its backup.
    let target = support::scratch();
    estate.run(&restore(&target.path().join("r"))).done();

    let away = estate.dir().join("away");
    std::fs::rename(&estate.store, &away).unwrap();
    let to = target.path().join("none");
    for command in [&["stream", "--once"][..], &["backup"], &restore(&to)] {
        let (cause, next) = refused(estate.run(command), 7);
        assert!(cause.contains("store") && next.contains("store"), "{cause}, {next}");
    }
    assert!(!to.exists() && !estate.store.exists());
    std::fs::rename(&away, &estate.store).unwrap();
    let full = target.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("theirs"), "x").unwrap();
    refused(estate.run(&restore(&full)), 5);
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 1);
}

#[test]
fn a_server_that_could_lose_wal_is_refused_by_the_name_of_the_setting() {
    let minimal = Cluster::start(Options { wal_level: "minimal".to_owned(), ..Options::default() });
    let estate_of_minimal = estate(&minimal);
    for command in [&["stream", "--once"][..], &["backup"]] {
        let (cause, next) = refused(estate_of_minimal.run(command), 2);
        assert!(cause.contains("wal_level") && next.contains("wal_level = replica"), "{cause}, {next}");
    }
    drop(minimal);

    let cluster = Cluster::start(Options::default());
    let estate = estate(&cluster);
    let keep = |value: &str| {
        cluster.psql("postgres", &format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{value}'"));
        cluster.psql("postgres", "SELECT pg_reload_conf()");
        let begun = Instant::now();
        while cluster.psql("postgres", "SELECT current_setting('max_slot_wal_keep_size')") != value {
            assert!(begun.elapsed() < PATIENCE, "the server does not take {value}");
        }
    };
    keep("-1");
    for command in [&["stream", "--once"][..], &["backup"]] {
        let (cause, next) = refused(estate.run(command), 2);
        assert!(cause.contains("max_slot_wal_keep_size") && next.contains("allow_unbounded_slot"), "{cause}, {next}");
    }
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0", "a slot was made");
    estate.tune("allow_unbounded_slot = true");
    estate.run(&["stream", "--once"]).expect(0);
    cluster.psql("postgres", "SELECT pg_drop_replication_slot('lifeboat')");
    keep("1GB");
    cluster.psql("postgres", "SELECT pg_create_physical_replication_slot('x' || n) FROM generate_series(1, 10) n");
    let (cause, next) = refused(estate.run(&["stream", "--once"]), 2);
    assert!(cause.contains("10 replication slots") && next.contains("max_replication_slots"), "{cause}, {next}");
    assert_eq!(points(&estate), 0);
}

#[test]
fn a_second_stream_is_refused_with_the_first_ones_name_or_waits_for_it() {
    let cluster = Cluster::start(Options::default());
    let estate = estate(&cluster);
    let streams = || cluster.psql("postgres", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'");
    let mut first = estate.spawn(&["stream"]);
    wait(&mut first, || streams() == "1");
    let (cause, next) = refused(estate.run(&["stream", "--once"]), 5);
    assert!(cause.contains("another stream") && cause.contains("lifeboat") && !next.is_empty(), "{cause}");
    assert_eq!(streams(), "1");
    // A backup needs no stream of its own then.
    estate.run(&["backup"]).done();
    let mut second = estate.spawn(&["stream"]);
    assert!(second.wait(Duration::from_secs(1)).is_none(), "it waits");
    drop(first); // kill -9
    wait(&mut second, || streams() == "1");
    second.signal(rustix::process::Signal::TERM);
    assert!(second.wait(PATIENCE).is_some_and(|status| status.code() == Some(0)));
    let mut waiting = estate.spawn(&["stream"]);
    wait(&mut waiting, || streams() == "1");
    let mut third = estate.spawn(&["stream"]);
    // Before it listens, the signal would simply end it.
    let listens = |id: u32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << (rustix::process::Signal::TERM.as_raw() - 1) != 0
    };
    let id = third.0.id();
    wait(&mut third, || listens(id));
    std::thread::sleep(Duration::from_millis(500));
    third.signal(rustix::process::Signal::TERM);
    assert!(third.wait(PATIENCE).is_some_and(|status| status.code() == Some(0)), "one that waits ends too");
}

#[track_caller]
fn wait(process: &mut Owned, until: impl Fn() -> bool) {
    let begun = Instant::now();
    while !until() {
        assert!(process.wait(Duration::from_millis(20)).is_none(), "the process has ended");
        assert!(begun.elapsed() < PATIENCE, "it does not come");
    }
}

#[test]
fn a_lost_slot_names_the_gap_and_once_accepted_makes_two_windows() {
    let settings = [("max_slot_wal_keep_size", "16MB"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let cluster = Cluster::start(Options { settings, ..Options::default() });
    let estate = estate(&cluster);
    estate.run(&["backup"]).done();
    let plan = |at: &str| estate.run(&["restore", "initech", "--at", at, "--to", "/nowhere", "--plan"]);
    let first = plan("latest").expect(0).json["target"].as_str().unwrap().to_owned();
    for round in 0..6 {
        cluster.psql("initech", &format!("CREATE TABLE lost_{round} AS SELECT 1; SELECT pg_switch_wal(); CHECKPOINT"));
    }
    let status = cluster.psql("postgres", "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'lifeboat'");
    assert_eq!(status, "lost", "the test's own ground");
    let before = objects(&estate.store, |_| true).len();
    for command in [&["stream", "--once"][..], &["backup"]] {
        let (cause, next) = refused(estate.run(command), 6);
        assert!(cause.contains(&first) && cause.contains("lost"), "no exact range: {cause}");
        assert!(next.contains("--accept-gap") && next.contains("lifeboat backup"), "{next}");
    }
    assert_eq!(objects(&estate.store, |_| true).len(), before);
    estate.run(&["stream", "--once", "--accept-gap"]).expect(0);
    // Newer WAL that no base backup reaches is told until there is one.
    let (cause, _) = refused(plan(&cluster.server.insert_lsn()), 2);
    assert!(cause.contains("outside every window"), "{cause}");
    estate.run(&["backup"]).done();
    let second = plan("latest").expect(0).json["target"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    plan(&first).expect(0);
    let (cause, _) = refused(plan("0/1"), 2);
    assert_eq!(cause.matches(" to ").count(), 2, "two windows: {cause}");
}

/// A small file system of its own, gone when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn on(folder: &Path, size: &str) -> Self {
        let option = format!("size={size},mode=0755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &option, "none"]).arg(folder));
        Self(folder.to_owned())
    }

    fn grow(&self, size: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.0));
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_under_the_store_or_the_target_fails_cleanly_and_the_next_run_completes() {
    if !support::am_root() {
        return support::skip("a_full_disk...", "mounting a small file system needs root");
    }
    let cluster = Cluster::start(Options::default());
    let estate = estate(&cluster);
    let disk = Tmpfs::on(&estate.store, "2m");
    let (cause, next) = refused(estate.run(&["backup"]), 1);
    assert!(cause.contains("no room") || cause.contains("full") || cause.contains("No space"), "{cause}");
    assert!(next.contains("room"), "{next}");
    assert_eq!(points(&estate), 0);
    disk.grow("200m");
    estate.run(&["backup"]).done();
    assert_eq!(points(&estate), 1);

    // A stream over a disk that fills up: what was not stored was not acknowledged.
    let used = run(Command::new("df").args(["-k", "--output=used"]).arg(&estate.store));
    let used: u64 = used.lines().last().unwrap().trim().parse().unwrap();
    disk.grow(&format!("{}k", used + 400));
    cluster.psql(
        "initech",
        "CREATE TABLE much AS SELECT md5(n::text) || md5((n + 1)::text) FROM generate_series(1, 100000) n",
    );
    let (_, next) = refused(estate.run(&["stream", "--once"]), 1);
    assert!(next.contains("room"), "{next}");
    disk.grow("200m");
    estate.run(&["stream", "--once"]).expect(0);

    let target = support::scratch();
    let small = target.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let room = Tmpfs::on(&small, "20m");
    let (cause, next) = refused(estate.run(&restore(&small)), 1);
    assert!(cause.contains("needs") || cause.contains("No space"), "{cause}");
    assert!(next.contains("disk") || next.contains("room"), "{next}");
    assert_eq!(std::fs::read_dir(&small).unwrap().count(), 0, "something is left");
    room.grow("2g");
    estate.run(&restore(&small)).done();
    let there = start(&small);
    assert_eq!(there.running.server.psql("initech", "SELECT count(*) FROM much"), "100000");
    drop(there);
}

#[test]
fn nothing_captured_is_executed_and_none_of_it_is_in_what_is_handed_over() {
    let planted = support::scratch();
    std::fs::set_permissions(planted.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let touch = |name: &str| format!("touch {}/{name}", planted.path().display());
    let settings = ["archive_command", "restore_command", "archive_cleanup_command", "recovery_end_command"];
    let mut settings: Vec<(String, String)> = settings.map(|name| (name.to_owned(), touch(name))).to_vec();
    settings.push(("ssl_passphrase_command".to_owned(), touch("ssl_passphrase_command")));
    settings.push(("shared_preload_libraries".to_owned(), "auto_explain".to_owned()));
    let cluster = Cluster::start(Options { settings, ..Options::default() });
    let trigger = format!(
        "CREATE FUNCTION evil() RETURNS event_trigger LANGUAGE plpgsql AS \
         $$ BEGIN COPY (SELECT 1) TO PROGRAM '{}'; END $$; CREATE EVENT TRIGGER evil ON ddl_command_end EXECUTE FUNCTION evil(); \
         ALTER EVENT TRIGGER evil ENABLE ALWAYS",
        touch("event_trigger")
    );
    let estate = estate(&cluster);
    estate.run(&["backup"]).done();
    // From here on the source itself lets nobody into the database: the libraries do not exist.
    cluster.psql("initech", &trigger);
    std::fs::remove_file(planted.path().join("event_trigger")).ok();
    cluster.psql("postgres", "ALTER DATABASE initech SET session_preload_libraries = 'no_such_library'");
    cluster.psql(
        "postgres",
        "ALTER ROLE odoo_initech SET session_preload_libraries = 'no_such_library'; \
         ALTER ROLE postgres SET session_preload_libraries = 'no_such_library_either'",
    );
    estate.run(&["stream", "--once"]).expect(0);

    let target = support::scratch();
    let to = target.path().join("r");
    let restored = estate.run(&restore(&to)).expect(3);
    let settings = restored.json["removed"]["settings"].as_array().unwrap();
    assert_eq!(settings.len(), 3, "{settings:?}");
    assert_eq!(std::fs::read_dir(planted.path()).unwrap().count(), 0, "something captured ran");
    let pgdata = to.join("pgdata");
    for name in ["postgresql.auto.conf", "recovery.signal", "standby.signal", "tablespace_map"] {
        let there = std::fs::read_to_string(pgdata.join(name)).unwrap_or_default();
        assert!(there.trim().is_empty(), "{name}: {there}");
    }
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        let text = std::fs::read_to_string(pgdata.join(name)).unwrap();
        assert!(
            !text.contains("touch") && !text.contains("auto_explain") && !text.contains("include"),
            "{name}: {text}"
        );
    }
    assert!(std::fs::read_to_string(to.join("captured/postgresql.auto.conf")).unwrap().contains("restore_command"));

    // Whoever starts it gets in, and loads nothing.
    let there = start(&to);
    assert_eq!(there.running.server.psql("initech", "SHOW session_preload_libraries"), "");
    drop(there);

    // Into a cluster: refused by name, and nothing of it is there.
    let mut reset = cluster.server.tool("psql");
    reset.env("PGOPTIONS", "-c session_preload_libraries=").args([
        "-d",
        "postgres",
        "-c",
        "ALTER ROLE postgres RESET ALL",
    ]);
    run(&mut reset);
    let into = ["restore", "initech", "--at", "latest", "--into-cluster", "main", "--as", "initech_before"];
    let (cause, next) = refused(estate.run(&into), 5);
    assert!(cause.contains("evil") && next.contains("event-trigger:evil"), "{cause}, {next}");
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'initech_before'"), "0");
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'lifeboat_load%'"), "0");
    assert!(!cluster.filestore.join("initech_before").exists());
    assert_eq!(std::fs::read_dir(planted.path()).unwrap().count(), 0, "something captured ran");
}

#[test]
fn hostile_names_of_databases_roles_and_files_do_no_harm() {
    let cluster = Cluster::start(Options::default());
    let odd = r#"a"b; -- '$(x)"#;
    let quoted = r#""a""b; -- '$(x)""#;
    cluster.psql("postgres", &format!("CREATE ROLE {quoted} LOGIN"));
    cluster.psql("postgres", &format!("CREATE DATABASE {quoted} OWNER {quoted}"));
    cluster.psql(odd, "CREATE TABLE t AS SELECT 42 AS x");
    cluster.psql("postgres", r#"CREATE DATABASE "nobody's; DROP""#);
    cluster.psql("postgres", r#"CREATE ROLE "stranger""; --" LOGIN PASSWORD 'x'"#);
    let more = format!("\n[tenants.odd]\ncluster = \"main\"\ndatabases = ['''{odd}''']\n");
    let estate = Estate::in_folder(&cluster, &[Tenant::Initech], &more);
    let files = cluster.filestore.join("initech");
    std::fs::write(files.join("line\nbreak"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", files.join("link")).unwrap();
    run(Command::new("mkfifo").arg(files.join("pipe")));

    let backup = estate.run(&["backup"]).expect(3);
    let text = backup.json["findings"].to_string();
    assert!(text.contains("symbolic link") && text.contains("belongs to no tenant"), "{text}");
    let target = support::scratch();
    let to = target.path().join("odd");
    let restored = estate.run(&["restore", "odd", "--at", "latest", "--to", to.to_str().unwrap()]).done();
    assert_eq!(restored.json["databases"], serde_json::json!([odd]));
    let there = start(&to);
    assert_eq!(there.running.server.psql(odd, "SELECT x FROM t"), "42");
    let left = there.running.server.psql("postgres", "SELECT datname FROM pg_database WHERE oid >= 16384");
    assert_eq!(left, odd);
    let roles = there.running.server.psql("postgres", "SELECT rolname FROM pg_roles WHERE oid >= 16384");
    assert!(roles.contains(odd) && !roles.contains("stranger"), "{roles}");
    drop(there);
    let to = target.path().join("initech");
    estate.run(&restore(&to)).done();
    let names = objects(&to.join("filestore/initech"), |_| true);
    assert!(names.iter().all(|(name, _)| !name.contains("link") && !name.contains("pipe") && !name.contains("break")));
    // A database of such a name beside the live one, and its way back.
    let into = ["restore", "initech", "--at", "latest", "--into-cluster", "main", "--as", odd];
    refused(estate.run(&into), 5);
    let free = r#"it's "new""#;
    estate.run(&["restore", "initech", "--at", "latest", "--into-cluster", "main", "--as", free]).done();
    let (source, copy) = (fingerprint::take(&cluster.server, "initech"), fingerprint::take(&cluster.server, free));
    assert_eq!(fingerprint::differences(&source, &copy), Vec::<String>::new());
    assert!(cluster.filestore.join(free).is_dir());
}

#[test]
fn a_target_whose_path_is_longer_than_a_sockets_may_be_works() {
    let cluster = Cluster::start(Options::default());
    let estate = estate(&cluster);
    estate.run(&["backup"]).done();
    let target = support::scratch();
    let to = target.path().join("a-folder-with-a-long-name-".repeat(5));
    estate.run(&restore(&to)).done();
    assert!(to.join("restore.json").exists());
}

/// What must be seen nowhere, and where it was looked for.
struct Lookout {
    secrets: Vec<String>,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    watcher: std::thread::JoinHandle<Vec<String>>,
}

impl Lookout {
    /// Looks at the command lines and environments of all processes from now on.
    fn begin(secrets: &[&str]) -> Self {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let secrets: Vec<String> = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        let (told, wanted) = (stop.clone(), secrets.clone());
        let watcher = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !told.load(std::sync::atomic::Ordering::Relaxed) {
                for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                    for part in ["cmdline", "environ"] {
                        let Ok(bytes) = std::fs::read(entry.path().join(part)) else { continue };
                        let text = String::from_utf8_lossy(&bytes);
                        if wanted.iter().any(|secret| text.contains(secret.as_str())) {
                            seen.push(format!("{} {part}: {text}", entry.path().display()));
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        Self { secrets, stop, watcher }
    }

    fn end(self) -> (Vec<String>, Vec<String>) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (self.watcher.join().unwrap(), self.secrets)
    }
}

#[test]
fn no_secret_shows_in_output_logs_command_lines_environments_or_clear_objects() {
    let settings = vec![("log_statement".to_owned(), "all".to_owned())];
    let cluster = Cluster::start(Options { settings, ..Options::default() });
    let estate = estate(&cluster);
    let admin = "administrator-secret-8c1f";
    std::fs::write(estate.dir().join("admin"), admin).unwrap();
    run(Command::new("chmod").arg("600").arg(estate.dir().join("admin")));
    // The superuser comes in by password too, so that there is one to lose.
    cluster
        .psql("postgres", &format!("SET log_statement = 'none'; CREATE ROLE boss SUPERUSER LOGIN PASSWORD '{admin}'"));
    let text = std::fs::read_to_string(&estate.config).unwrap();
    let text =
        text.replace("restore_user = \"postgres\"", "restore_user = \"boss\"\nrestore_password = { file = \"admin\" }");
    std::fs::write(&estate.config, text).unwrap();
    let identity = std::fs::read_to_string(estate.identities.join("tenant/initech/1.age")).unwrap();
    let identity = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY")).unwrap().to_owned();
    let verifier = cluster.psql("postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = 'odoo_initech'");

    let lookout = Lookout::begin(&[BACKUP_PASSWORD, admin, &identity, &verifier]);
    let target = support::scratch();
    let to = target.path().join("r");
    let mut outcomes = vec![
        estate.run(&["backup", "-vv"]).done(),
        estate.run(&["stream", "--once", "-vv"]).done(),
        estate.run(&["restore", "initech", "--at", "latest", "--to", to.to_str().unwrap(), "-vv"]).done(),
        estate.run(&["restore", "initech", "--at", "latest", "--into-cluster", "main", "--as", "copy", "-vv"]).done(),
    ];
    let damage = Damage::replace(&estate.dir().join("password"), admin.as_bytes());
    outcomes.push(estate.run(&["backup", "-vv"]).expect(2));
    drop(damage);
    let (seen, secrets) = lookout.end();
    assert_eq!(seen, Vec::<String>::new());
    for outcome in &outcomes {
        for text in [outcome.stderr.clone(), outcome.json.to_string()] {
            assert!(!secrets.iter().any(|secret| text.contains(secret)), "{text}");
        }
    }
    let in_clear =
        objects(&estate.store, |name| name.ends_with(".json") || name.ends_with(".sig") || name.ends_with(".txt"));
    assert!(!in_clear.is_empty());
    for (name, path) in objects(&estate.store, |_| true) {
        let bytes = std::fs::read(path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!secrets.iter().any(|secret| text.contains(secret.as_str())), "{name}");
    }
    let log = std::fs::read_to_string(cluster.server.socket.join("server.log")).unwrap();
    assert!(log.contains("pg_logical_emit_message"), "the test's own ground: statements are logged");
    assert!(!secrets.iter().any(|secret| log.contains(secret)));
    for line in log.lines().filter(|line| line.contains("lifeboat_load")) {
        assert!(!line.contains("PASSWORD"), "{line}");
    }
    let report: BTreeMap<String, Value> =
        serde_json::from_slice(&std::fs::read(to.join("restore.json")).unwrap()).unwrap();
    assert!(!secrets.iter().any(|secret| format!("{report:?}").contains(secret.as_str())));
}
