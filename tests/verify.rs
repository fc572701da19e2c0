//! `lifeboat verify` and the catalog, as an operator and a CronJob run them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use jiff::SignedDuration;
use lifeboat::catalog::{Catalog, FILE};
use lifeboat::clock::Clock;
use lifeboat::ids::{Lsn, Scope, SystemId, Timeline};
use lifeboat::repo::ceremony::Ceremony;
use lifeboat::repo::envelope::Wal;
use lifeboat::repo::name;
use lifeboat::repo::set::SetKind;
use lifeboat::repo::set_writer::FileMeta;
use lifeboat::repo::stretch::NewStretch;
use lifeboat::repo::writer::{NewPoint, NewSet, Writer, WriterOptions};
use lifeboat::store::Store as _;
use lifeboat::store::local::LocalStore;
use lifeboat::watch::Quiet;
use serde_json::{Value, json};
use support::cluster::{Cluster, Options};
use support::damage::{Damage, objects};
use support::estate::Estate;
use support::tenants::Tenant;

/// How many stretches of WAL the repository of most tests has.
const STRETCHES: u64 = 12;

/// A configuration and a store that a writer filled; no server anywhere.
struct Ground {
    folder: tempfile::TempDir,
    writer: Writer,
    clock: Clock,
}

struct Ran {
    code: i32,
    json: Value,
    calls: Vec<Value>,
}

impl Ran {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{:#}", self.json);
        assert_eq!(self.json["exit_code"], code);
        self
    }
    /// The objects that were read, each as often as it was.
    fn read(&self) -> Vec<&str> {
        let gets = self.calls.iter().filter(|call| call["op"] == "get");
        gets.filter_map(|call| call["name"].as_str()).collect()
    }
}

fn acme() -> Scope {
    Scope::Tenant("acme".into())
}

impl Ground {
    async fn new(stretches: u64) -> Self {
        let folder = support::scratch();
        let at = |name: &str| folder.path().join(name);
        let text = "state_dir = \"state\"\n[estate]\nname = \"test\"\n[store]\nkind = \"local\"\npath = \"store\"\n[keys]\n\
                    writer = \"writer.json\"\nidentities = \"keys\"\nsigners = \"signers\"\n[clusters.main]\nhost = \"/none\"\n\
                    user = \"u\"\n[tenants.acme]\ncluster = \"main\"\ndatabases = [\"acme\"]\n\
                    [tenants.globex]\ncluster = \"main\"\ndatabases = [\"globex\"]\n";
        fs::write(at("lifeboat.toml"), text).unwrap();
        fs::create_dir(at("store")).unwrap();
        let scopes = [acme(), Scope::Tenant("globex".into()), Scope::Cluster("main".into())];
        let ceremony = Ceremony::new_estate(&scopes, 0).unwrap();
        ceremony.write(&at("writer.json"), &at("keys"), &at("signers")).unwrap();
        let clock = Clock::system();
        let store = Arc::new(LocalStore::open(&at("store"), clock.clone()).unwrap());
        let options = WriterOptions { threads: 1, ..WriterOptions::default() };
        let writer = Writer::open(store, Arc::new(ceremony.bundle), clock.clone(), options).unwrap();
        let ground = Self { folder, writer, clock };
        let set = ground.set(&acme(), b"some content").await;
        for number in 0..stretches {
            ground.stretch(number * 100, number * 100 + 100).await;
        }
        ground.point(set).await;
        ground
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn set(&self, scope: &Scope, content: &'static [u8]) -> lifeboat::repo::envelope::ObjectRef {
        let until = self.clock.now() + SignedDuration::from_hours(24);
        let new =
            NewSet { scope: scope.clone(), source: "main".into(), kind: SetKind::BaseBackup, locked_until: until };
        let mut set = self.writer.begin_set(new, &Quiet::default()).await.unwrap();
        let filling = move || {
            set.start_file(FileMeta { path: "f".into(), mode: 0o600, ..FileMeta::default() }).unwrap();
            set.piece(Bytes::from_static(content)).unwrap();
            set.end_file(BTreeMap::new()).unwrap();
            set
        };
        let set = tokio::task::spawn_blocking(filling).await.unwrap();
        set.finish(Value::Null).await.unwrap().envelope.reference()
    }

    async fn stretch(&self, from: u64, to: u64) {
        let wal = Wal {
            system_id: SystemId(7),
            timeline: Timeline(1),
            history: name::history(Timeline(1), b""),
            from: Lsn(from),
            to: Lsn(to),
            last_record: None,
            first_commit_time: None,
            last_commit_time: None,
            commits: 0,
            server_clock: Some(self.clock.now()),
            bindings: Vec::new(),
            quarantined: false,
            spans: Vec::new(),
        };
        let members = vec![(acme(), b"no extents".to_vec())];
        let (cluster, locked_until) =
            (Scope::Cluster("main".into()), self.clock.now() + SignedDuration::from_hours(24));
        let new = NewStretch { cluster, source: "main".into(), tail: false, wal, members, locked_until };
        self.writer.write_stretch(new).await.unwrap();
    }

    async fn point(&self, set: lifeboat::repo::envelope::ObjectRef) {
        let time = self.clock.now();
        let facts = json!({ "cluster": "main", "system_id": "7", "timeline": 1, "server_version": 150000,
            "segment_bytes": 16 << 20, "history": name::history(Timeline(1), b""), "label": "x", "start_lsn": "0/0",
            "stop_lsn": "0/10", "stop_time": time, "lsn": "0/10", "time": time, "class": "daily", "whole": true });
        let locked_until = time + SignedDuration::from_hours(24);
        let (sets, stretches, body) = (vec![set], Vec::new(), json!({}));
        let point = NewPoint { scope: acme(), sets, stretches, body, facts, locked_until };
        self.writer.write_point(point).await.unwrap();
    }

    fn command(&self, arguments: &[&str], log: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.arg("--config").arg(self.at("lifeboat.toml")).arg("--json").args(arguments);
        command.env("LIFEBOAT_STORE_LOG", log).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let log = tempfile::NamedTempFile::new().unwrap();
        let output = self.command(arguments, log.path()).output().unwrap();
        let lines = fs::read_to_string(log.path()).unwrap();
        let calls = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let json = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        Ran { code: output.status.code().unwrap(), json, calls }
    }

    fn store(&self) -> PathBuf {
        self.at("store")
    }
}

/// The catalog's mirror of a store, as text.
async fn dump(state: &Path, store: &Path) -> String {
    let place = LocalStore::open(store, Clock::system()).unwrap().place();
    let (catalog, _) = Catalog::open(state, &place).await.unwrap();
    let dump = catalog.dump().await.unwrap();
    catalog.close().await.unwrap();
    dump
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_0_and_1_run_with_no_key_on_the_machine_and_say_what_they_speak_for() {
    let ground = Ground::new(STRETCHES).await;
    fs::remove_dir_all(ground.at("keys")).unwrap();
    fs::remove_file(ground.at("writer.json")).unwrap();
    let envelopes = STRETCHES + 2;
    let level0 = ground.run(&["verify", "--level", "0"]).expect(0);
    assert_eq!(level0.json["counts"]["envelopes"], envelopes);
    assert_eq!(
        (&level0.json["speaks_for"], &level0.json["freshness"]),
        (&json!("level 0, every scope"), &json!("unproven"))
    );
    assert!(level0.json["newest_seen"].is_string());
    assert!(level0.read().iter().all(|name| name.contains(".envelope.json")), "{:?}", level0.read());
    let level1 = ground.run(&["verify"]).expect(0);
    let sealed = objects(&ground.store(), |name| name.ends_with(".age") || name.ends_with(".tar"));
    let read: BTreeSet<&str> = level1.read().into_iter().filter(|name| !name.contains(".envelope.json")).collect();
    assert_eq!(read, sealed.iter().map(|(name, _)| name.as_str()).collect());
    assert_eq!(level1.json["counts"]["right"]["objects"], sealed.len());
    assert_eq!(level1.json["counts"]["opened"]["objects"], 0);
    // Level 2 without a key opens nothing and says so.
    let level2 = ground.run(&["verify", "--level", "2"]).expect(0);
    assert_eq!(level2.json["counts"]["opened"]["objects"], 0);
    assert!(level2.json["counts"]["not_opened"]["tenant/acme"]["objects"].as_u64().unwrap() > STRETCHES);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_ends_with_6_and_its_name_and_a_gap_with_3() {
    let ground = Ground::new(3).await;
    let (name, path) = objects(&ground.store(), |name| !name.starts_with('@') && name.contains("/packs/")).remove(0);
    let damage = Damage::flip(&path);
    ground.run(&["verify", "--level", "0"]).expect(0);
    let found = ground.run(&["verify"]).expect(6);
    assert_eq!((&found.json["error"]["object"], &found.json["error"]["kind"]), (&json!(name), &json!("integrity")));
    assert_eq!(
        (&found.json["damage"][0]["what"], &found.json["damage"][0]["grade"]),
        (&json!("altered"), &json!("damage"))
    );
    drop(damage);
    // What was found wrong is not taken for read.
    ground.run(&["verify", "--since", "1d"]).expect(0);
    let again = ground.run(&["verify", "--since", "1d"]).expect(0);
    assert_eq!(again.json["counts"]["right"]["objects"], 0);
    let damage = Damage::remove(&path);
    let found = ground.run(&["verify", "--level", "0", "--scope", "tenant/acme"]).expect(6);
    assert_eq!(found.json["damage"][0]["what"], "missing");
    ground.run(&["verify", "--level", "0", "--scope", "tenant/globex"]).expect(0);
    drop(damage);
    ground.stretch(900, 1000).await;
    let gap = ground.run(&["verify", "--level", "0"]).expect(3);
    assert_eq!(gap.json["damage_count"], 0);
    assert!(gap.json["findings"][0]["what"].as_str().unwrap().contains("0/12C to 0/384"), "{:#}", gap.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_this_machine_saw_and_that_is_gone_before_its_lock_is_damage_until_it_lapses() {
    let ground = Ground::new(3).await;
    ground.run(&["verify", "--level", "0"]).expect(0);
    // The newest point, with its signature: nothing else in the store tells.
    let gone = objects(&ground.store(), |name| {
        !name.starts_with('@') && name.contains("/points/") && name.contains(".envelope.json")
    });
    assert_eq!(gone.len(), 2);
    gone.iter().for_each(|(_, path)| fs::remove_file(path).unwrap());
    for _ in 0..2 {
        let found = ground.run(&["verify", "--level", "0"]).expect(6);
        assert_eq!(
            (&found.json["damage"][0]["what"], &found.json["damage"][0]["object"]),
            (&json!("taken_away"), &json!(gone[0].0))
        );
    }
    fs::remove_file(ground.at("state").join(FILE)).unwrap();
    let found = ground.run(&["verify", "--level", "0"]).expect(0);
    assert_eq!(found.json["freshness"], "unproven", "without a witness, that is what is said");
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_of_a_quarter_each_read_everything_within_a_round() {
    let ground = Ground::new(STRETCHES).await;
    let all = objects(&ground.store(), |name| name.ends_with(".age") || name.ends_with(".tar"));
    let mut read: Vec<String> = Vec::new();
    for turn in 0..4 {
        let ran = ground.run(&["verify", "--part", "next/4"]).expect(0);
        let of_turn: Vec<&str> = ran.read().into_iter().filter(|name| !name.contains(".envelope.json")).collect();
        assert!(!of_turn.is_empty() && of_turn.len() < all.len(), "turn {turn}: {} of {}", of_turn.len(), all.len());
        read.extend(of_turn.into_iter().map(str::to_owned));
    }
    let names: BTreeSet<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(read.iter().map(String::as_str).collect::<BTreeSet<_>>(), names);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_is_not_read_again_by_commands_that_look() {
    let ground = Ground::new(STRETCHES).await;
    for command in ["status", "points"] {
        let _ = fs::remove_file(ground.at("state").join(FILE));
        let (first, second) = (ground.run(&[command]), ground.run(&[command]));
        println!(
            "{command}: {} objects read with an empty catalog, {} with a full one, of {STRETCHES} stretches",
            first.read().len(),
            second.read().len()
        );
        assert!(first.read().len() as u64 >= 2 * STRETCHES, "{command}");
        assert_eq!(second.read(), Vec::<&str>::new(), "{command}");
        let plain = |ran: &Ran| {
            (
                ran.code,
                ran.json["tenants"]["acme"]["windows"].clone(),
                ran.json["tenants"]["acme"]["last_point"].clone(),
            )
        };
        assert_eq!(plain(&first), plain(&second), "{command}");
    }
    // What the store has lost is not shown for having been read before.
    let (name, path) = objects(&ground.store(), |name| {
        !name.starts_with('@') && name.contains("/points/") && name.ends_with("envelope.json")
    })
    .remove(0);
    let damage = Damage::remove(&path);
    assert_eq!(ground.run(&["points", "acme"]).json["tenants"]["acme"]["points"], json!([]), "{name}");
    drop(damage);
    let damage = Damage::flip(&path);
    let said = ground.run(&["points", "acme"]).expect(3);
    assert!(said.json["findings"][0]["object"].as_str().is_some_and(|object| object == name), "{:#}", said.json);
    drop(damage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_is_deleted_garbled_or_not_writable_costs_time_only() {
    let ground = Ground::new(3).await;
    let state = ground.at("state");
    ground.run(&["verify"]).expect(0);
    let whole = dump(&state, &ground.store()).await;
    assert!(whole.lines().count() > 5);
    for way in ["deleted", "garbled", "cut", "a folder"] {
        let file = state.join(FILE);
        for ending in ["-wal", "-shm"] {
            let _ = fs::remove_file(state.join(format!("{FILE}{ending}")));
        }
        match way {
            "deleted" => fs::remove_file(&file).unwrap(),
            "garbled" => fs::write(&file, vec![0xA5; 50_000]).unwrap(),
            "cut" => fs::File::options().write(true).open(&file).unwrap().set_len(5000).unwrap(),
            _ => {
                fs::remove_file(&file).unwrap();
                fs::create_dir(&file).unwrap();
            }
        }
        // A damaged file may be noticed only by the query, which removes it; the next command begins anew.
        ground.run(&["verify"]).expect(0);
        ground.run(&["points"]).expect(0);
        if way == "a folder" {
            ground.run(&["catalog", "rebuild"]).expect(1);
            fs::remove_dir(&file).unwrap();
        }
        ground.run(&["catalog", "rebuild"]).expect(0);
        assert_eq!(dump(&state, &ground.store()).await, whole, "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_killed_at_any_moment_and_two_at_once_end_with_the_same_catalog() {
    let ground = Ground::new(STRETCHES).await;
    let state = ground.at("state");
    ground.run(&["catalog", "rebuild"]).expect(0);
    let whole = dump(&state, &ground.store()).await;
    for after in [0, 3, 11, 2 * STRETCHES as usize] {
        // Killed when so many calls on the store were made.
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child = ground.command(&["catalog", "rebuild"], log.path()).stdout(Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && fs::read_to_string(log.path()).unwrap().lines().count() < after {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
        ground.run(&["points"]).expect(0);
        let pair = [(); 2].map(|()| {
            let log = tempfile::NamedTempFile::new().unwrap();
            let child = ground.command(&["catalog", "rebuild"], log.path()).stdout(Stdio::null()).spawn().unwrap();
            (child, log)
        });
        for (mut child, _log) in pair {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(dump(&state, &ground.store()).await, whole, "killed after {after} calls");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_busy_history_the_catalog_that_was_kept_is_the_one_that_is_rebuilt_and_all_opens() {
    let cluster = Cluster::start(Options::default());
    let estate = Estate::in_folder(&cluster, &[Tenant::Initech], "");
    estate.tune("flush_interval = \"100ms\"\nstretch_interval = \"1h\"\nheartbeat = \"1h\"");
    let state = estate.dir().join("state");
    estate.run(&["backup"]).expect(0);
    estate.run(&["status"]).done();
    cluster.psql("initech", "CREATE TABLE much AS SELECT n, md5(n::text) AS x FROM generate_series(1, 30000) n");
    estate.run(&["stream", "--once"]).expect(0);
    estate.run(&["points"]).expect(0);
    estate.run(&["verify", "--level", "0"]).expect(0);
    cluster.psql("initech", "CREATE TABLE late AS SELECT 1 AS x");
    estate.run(&["backup"]).expect(0);
    let level2 = estate.run(&["verify", "--level", "2"]).expect(0);
    let counts = &level2.json["counts"];
    assert!(counts["opened"]["objects"].as_u64().unwrap() > 10, "{counts:#}");
    assert_eq!(counts["not_opened"].as_object().unwrap().keys().collect::<Vec<_>>(), ["the writer"]);
    let kept = dump(&state, &estate.store).await;
    assert_eq!(
        kept.lines().filter(|line| line.starts_with("envelope ")).count() as u64,
        counts["envelopes"].as_u64().unwrap()
    );
    estate.run(&["catalog", "rebuild"]).expect(0);
    assert_eq!(dump(&state, &estate.store).await, kept);
    fs::remove_file(state.join(FILE)).unwrap();
    estate.run(&["catalog", "rebuild"]).expect(0);
    assert_eq!(dump(&state, &estate.store).await, kept);
}
