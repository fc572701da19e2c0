//! `expire`, `hold` and `unhold` as they are run: the binary on a store in a folder, with locks of seconds.
//!
//! The sets and points are written by the library: what a server is backed up into is `tests/crash.rs`'s and others' matter.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use lifeboat::clock::Clock;
use lifeboat::ids::Scope;
use lifeboat::repo::ceremony::Ceremony;
use lifeboat::repo::envelope::Verified;
use lifeboat::repo::set::SetKind;
use lifeboat::repo::set_writer::{FileMeta, StoredSet};
use lifeboat::repo::writer::{NewPoint, NewSet, Writer, WriterOptions};
use lifeboat::store::local::LocalStore;
use lifeboat::watch::Quiet;
use serde_json::Value;

const CONFIG: &str = r#"
state_dir = "state"
[estate]
name = "test"
[store]
kind = "local"
path = "store"
[keys]
signers = "allowed_signers"
[clusters.main]
host = "/nowhere"
user = "nobody"
[tenants.acme]
cluster = "main"
databases = ["acme"]
[retention]
pitr = "2s"
slack = "1s"
tail_lock = "1s"
[retention.classes]
daily = "2s"
weekly = "2s"
monthly = "2s"
yearly = "1h"
"#;

struct Estate {
    dir: tempfile::TempDir,
    writer: Writer,
}

fn acme() -> Scope {
    Scope::Tenant("acme".into())
}

/// Keys of the writer and the signers; no identity stays on the machine.
fn estate() -> Estate {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("store")).unwrap();
    std::fs::write(at("lifeboat.toml"), CONFIG).unwrap();
    let ceremony = Ceremony::new_estate(&[acme()], 0).unwrap();
    ceremony.write(&at("writer.json"), &at("identities"), &at("allowed_signers")).unwrap();
    std::fs::remove_dir_all(at("identities")).unwrap();
    let store = Arc::new(LocalStore::open(&at("store"), Clock::system()).unwrap());
    let options = WriterOptions { threads: 1, slack: SignedDuration::from_secs(1), ..WriterOptions::default() };
    let writer = Writer::open(store, Arc::new(ceremony.bundle), Clock::system(), options).unwrap();
    Estate { dir, writer }
}

fn now() -> Timestamp {
    Clock::system().now()
}

impl Estate {
    async fn set(&self, source: &str, content: &[u8], locked_until: Timestamp) -> StoredSet {
        let new = NewSet { scope: acme(), source: source.into(), kind: SetKind::Filestore, locked_until };
        let mut set = self.writer.begin_set(new, &Quiet::default()).await.unwrap();
        let content = Bytes::copy_from_slice(content);
        let filled = tokio::task::spawn_blocking(move || {
            set.start_file(FileMeta { path: "file".into(), mode: 0o600, ..FileMeta::default() }).unwrap();
            set.piece(content).unwrap();
            set.end_file(BTreeMap::new()).unwrap();
            set
        });
        filled.await.unwrap().finish(Value::Null).await.unwrap()
    }

    async fn point(&self, set: &StoredSet, locked_until: Timestamp) -> Verified {
        let new = NewPoint {
            scope: acme(),
            sets: vec![set.envelope.reference()],
            stretches: Vec::new(),
            body: Value::Null,
            facts: Value::Null,
            locked_until,
        };
        self.writer.write_point(new).await.unwrap()
    }

    /// Runs the binary; its JSON must agree with its exit code.
    fn run(&self, args: &[&str], code: i32) -> Value {
        let mut command = self.command();
        let output = command.arg("--json").args(args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!((output.status.code(), json["exit_code"].as_i64()), (Some(code), Some(code.into())), "{json:#}");
        json
    }

    fn table(&self, args: &[&str]) -> String {
        String::from_utf8(self.command().args(args).output().unwrap().stdout).unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.arg("--config").arg(self.dir.path().join("lifeboat.toml")).stdin(Stdio::null());
        command
    }

    fn holds(&self, name: &str) -> bool {
        self.dir.path().join("store").join(name).is_file()
    }

    fn files(&self) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
        }
        let store = self.dir.path().join("store");
        let folders = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
        folders.filter(|path| path.is_dir() && !path.ends_with("@locks")).map(|path| count(&path)).sum()
    }
}

/// A lock that is awaited; several runs of the binary, on a busy machine, fit into it.
const SHORT: SignedDuration = SignedDuration::from_secs(7);

/// Until a lock has really lapsed, slack included.
async fn lapsed(until: Timestamp) {
    let end = until + SignedDuration::from_secs(1);
    while now() <= end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn count(json: &Value, reason: &str) -> u64 {
    json["counts"][reason]["objects"].as_u64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_lapsed_goes_a_dry_run_says_so_first_and_no_key_is_on_the_machine() {
    let estate = estate();
    let (soon, later) = (now() + SHORT, now() + SignedDuration::from_hours(1));
    let (short, long) = (estate.set("a", b"short", soon).await, estate.set("b", b"long", later).await);
    let (gone, stays) = (estate.point(&short, soon).await, estate.point(&long, later).await);
    let all = estate.files();
    let early = estate.run(&["expire"], 0);
    assert_eq!((early["removed"]["objects"].as_u64(), estate.files()), (Some(0), all), "{early:#}");
    lapsed(soon).await;

    let said = estate.run(&["expire", "--dry-run"], 0);
    assert_eq!(estate.files(), all);
    let named: Vec<&str> = said["objects"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert!(named.contains(&gone.name.as_str()) && !named.contains(&stays.name.as_str()), "{said:#}");
    let told = estate.table(&["-v", "expire", "--dry-run"]);
    assert!(told.contains(&gone.name) && told.contains("goes: its time has come"), "{told}");
    assert!(told.contains("would be removed") && !told.contains(&stays.name), "{told}");

    let did = estate.run(&["expire"], 0);
    assert_eq!((&did["removed"], &did["counts"]), (&said["removed"], &said["counts"]));
    assert_eq!(estate.files() as u64, all as u64 - did["removed"]["objects"].as_u64().unwrap());
    assert!(!estate.holds(&gone.name) && estate.holds(&stays.name) && estate.holds(&long.envelope_name));
    for object in &long.envelope.objects {
        assert!(estate.holds(&object.name));
    }
    assert_eq!(estate.run(&["expire"], 0)["removed"]["objects"].as_u64(), Some(0), "again: nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_on_hold_keeps_everything_until_it_is_lifted() {
    let estate = estate();
    let soon = now() + SHORT;
    let set = estate.set("a", b"content", soon).await;
    let point = estate.point(&set, soon).await;
    estate.run(&["hold", "acme"], 2); // no reason given
    estate.run(&["unhold", "acme"], 2);
    let held = estate.run(&["hold", "acme", "--reason", "INC-4711"], 0);
    assert_eq!(held["holds"][0]["hold"]["reason"], "INC-4711");
    assert_eq!(held["holds"][0]["covered"]["missing"], 0);
    let late = estate.set("b", b"written later", soon).await;
    lapsed(soon).await;
    let expired = estate.run(&["expire"], 0);
    assert_eq!((expired["removed"]["objects"].as_u64(), &expired["held"][0]), (Some(0), &Value::from("tenant/acme")));
    assert!(estate.holds(&point.name) && estate.holds(&late.envelope_name));
    assert!(count(&expired, "hold_open") > 0, "{expired:#}");

    let renewed = estate.run(&["hold", "--renew"], 0);
    assert!(renewed["holds"][0]["covered"]["objects"].as_u64() > held["holds"][0]["covered"]["objects"].as_u64());
    assert!(estate.table(&["status"]).contains("INC-4711"));
    let points = estate.run(&["points", "acme"], 3); // its facts are this test's, not a backup's
    assert_eq!(points["tenants"]["acme"]["holds"][0]["reason"], "INC-4711");

    let freed = estate.run(&["unhold", "acme"], 0);
    assert_eq!(freed["freed"]["free_now"], freed["freed"]["objects"]);
    assert!(freed["freed"]["points"].as_object().unwrap().contains_key(&point.name));
    assert!(estate.table(&["hold"]).contains("nothing is on hold"));
    lapsed(now() + SignedDuration::from_secs(0)).await;
    estate.run(&["expire"], 0);
    assert!(!estate.holds(&point.name) && !estate.holds(&set.envelope_name));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_took_longer_than_it_is_kept_is_not_committed() {
    let estate = estate();
    let soon = now() + SignedDuration::from_millis(300);
    let new = NewSet { scope: acme(), source: "a".into(), kind: SetKind::Filestore, locked_until: soon };
    let set = estate.writer.begin_set(new, &Quiet::default()).await.unwrap();
    lapsed(soon).await;
    let error = set.finish(Value::Null).await.unwrap_err();
    assert!(error.to_string().contains("was to be kept until"), "{error}");
    estate.run(&["expire"], 0);
    assert_eq!(estate.files(), 0, "what it had written is garbage");
}
