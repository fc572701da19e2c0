//! The golden repositories: one per format version, written once, readable for ever.
//!
//! `tests/data/golden-1` holds every kind of object of format 1: sets of every kind, in scopes of five kinds, packs used again, chunk maps, two
//! epochs of a tenant's key, points, stretches with shares in bundles and of their own, a tail, a heartbeat, the readme of its day; with the
//! identities, the signers and the writer's bundle. Its locks are long past. Whatever lifeboat becomes, it reads this, and so do the
//! scripts that lie in it. It is never made again: what cannot read it is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod make;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use lifeboat::clock::Clock;
use lifeboat::ids::{Digest, Scope};
use lifeboat::repo::envelope::Verified;
use lifeboat::repo::identities::Identities;
use lifeboat::repo::key::WriterBundle;
use lifeboat::repo::name::{Name, SetPart};
use lifeboat::repo::reader::{Reader, What};
use lifeboat::repo::set::{EntryKind, SetKind};
use lifeboat::repo::set_writer::FileMeta;
use lifeboat::repo::sign::Signers;
use lifeboat::repo::writer::{NewSet, Writer, WriterOptions};
use lifeboat::store::local::LocalStore;
use lifeboat::watch::Quiet;
use serde_json::{Value, json};
use tempfile::TempDir;

#[tokio::test]
#[ignore = "makes a golden repository; see make.rs"]
async fn a_golden_repository_is_made_when_it_is_asked_for() {
    let to = make::asked().expect("LIFEBOAT_MAKE_GOLDEN names the folder");
    make::make(&to).await;
}

/// A copy, because keys must be their owner's alone, which git does not keep.
struct Golden {
    dir: TempDir,
    expected: BTreeMap<String, Value>,
}

impl Golden {
    fn copy() -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden-1");
        let dir = tempfile::tempdir().unwrap();
        shell("cp -R \"$0\"/. . && chmod -R go-rwx .", &[from.to_str().unwrap()], dir.path());
        let expected = serde_json::from_slice(&std::fs::read(dir.path().join("expected.json")).unwrap()).unwrap();
        Self { dir, expected }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> Arc<LocalStore> {
        // Ten years on: every lock in it has lapsed.
        let clock = Clock::set_to("2036-11-22T07:24:00Z".parse().unwrap());
        Arc::new(LocalStore::open(&self.at("store"), clock).unwrap())
    }

    fn reader(&self) -> Reader {
        let signers = Signers::read(&self.at("allowed_signers")).unwrap();
        Reader::open(self.store(), Arc::new(signers), Arc::new(Identities::open(Some(&self.at("identities")))))
    }

    /// Every object's name.
    fn names(&self) -> BTreeSet<String> {
        let listed = shell("find . -type f -not -path './@*' -printf '%P\\n'", &[], &self.at("store"));
        listed.lines().map(str::to_owned).collect()
    }

    async fn envelopes(&self, reader: &Reader) -> BTreeMap<String, Verified> {
        let scopes: BTreeSet<Scope> =
            self.expected.values().map(|value| value["scope"].as_str().unwrap().parse().unwrap()).collect();
        let mut listings = Vec::new();
        for scope in &scopes {
            listings.push(reader.envelopes(scope, What::Sets).await.unwrap());
            listings.push(reader.envelopes(scope, What::Points).await.unwrap());
        }
        listings.push(reader.stretches(lifeboat::ids::SystemId(7_300_000_000_000_000_001), None).await.unwrap());
        assert!(listings.iter().all(|listing| listing.bad.is_empty() && listing.lost.is_empty()), "{listings:?}");
        listings.into_iter().flat_map(|listing| listing.good).map(|found| (found.name.clone(), found)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_the_golden_repository_reads_as_it_was_written() {
    let golden = Golden::copy();
    let reader = golden.reader();
    let found = golden.envelopes(&reader).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), golden.expected.keys().collect::<Vec<_>>());
    for (name, envelope) in &found {
        let wanted = &golden.expected[name];
        let mut says = json!({
            "kind": envelope.kind, "scope": envelope.scope, "epoch": envelope.epoch, "source": envelope.source,
            "time": envelope.time, "signer": envelope.signer, "sha256": envelope.digest.to_string(),
            "objects": envelope.objects.iter().map(|object| &object.name).collect::<Vec<_>>(),
        });
        if wanted["body"].is_object() {
            says["body"] = body(&reader, envelope).await;
        } else if wanted["point"].is_object() {
            says["point"] = reader.point_body(envelope).await.unwrap();
            says["facts"] = envelope.facts.clone();
        } else {
            let mut spans = BTreeMap::new();
            for span in &envelope.wal.as_ref().unwrap().spans {
                let plain = reader.span(envelope, &span.scope).await.unwrap().unwrap();
                spans.insert(span.scope.to_string(), Digest::of(&plain).to_string());
            }
            says["spans"] = json!(spans);
        }
        let mut wanted = wanted.clone();
        wanted.as_object_mut().unwrap().remove("acme_over_cluster"); // the scripts' part
        assert_eq!(says, wanted, "{name}");
    }
}

async fn body(reader: &Reader, envelope: &Verified) -> Value {
    let body = reader.body(envelope).await.unwrap();
    let mut files: BTreeMap<String, Value> = BTreeMap::new();
    let every = |entry: &lifeboat::repo::set::FileEntry| entry.kind == EntryKind::File;
    let sum = |entry: lifeboat::repo::set::FileEntry, content: Vec<u8>| {
        assert_eq!((entry.mode, entry.tags["note"].as_str()), (0o600, "golden"));
        files.insert(entry.path, json!({"bytes": content.len(), "sha256": Digest::of(&content).to_string()}));
    };
    reader.read_files(&body, 1 << 20, every, sum).await.unwrap();
    let links = body.entries().unwrap().filter_map(Result::ok).filter_map(|entry| entry.target);
    assert_eq!(links.collect::<Vec<_>>(), ["/elsewhere"]);
    json!({"kind": body.header.kind, "facts": body.totals.facts, "files": files})
}

#[tokio::test]
async fn every_object_of_the_golden_repository_is_named_by_an_envelope_and_of_a_known_kind() {
    let golden = Golden::copy();
    let found = golden.envelopes(&golden.reader()).await;
    let mut named: BTreeSet<String> =
        found.values().flat_map(|envelope| &envelope.objects).map(|object| object.name.clone()).collect();
    named.extend(found.keys().flat_map(|name| [name.clone(), format!("{name}.sig")]));
    assert_eq!(golden.names(), named);
    for name in &named {
        assert_eq!(name.parse::<Name>().unwrap().to_string(), *name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_of_today_goes_on_where_the_golden_one_stopped() {
    let golden = Golden::copy();
    let bundle = WriterBundle::read(&golden.at("writer.json")).unwrap();
    // An hour after its last set, its packs are still young enough to be used.
    let clock = Clock::set_to("2026-11-23T09:24:00Z".parse().unwrap());
    let store = Arc::new(LocalStore::open(&golden.at("store"), clock.clone()).unwrap());
    let writer = Writer::open(store, Arc::new(bundle), clock.clone(), WriterOptions::default()).unwrap();
    let newest = golden.expected.iter().rfind(|(name, _)| name.starts_with("tenant/acme/sets/base-main/"));
    let (before, wanted) = newest.unwrap();
    let body = golden.reader().body(&golden.envelopes(&golden.reader()).await[before]).await.unwrap();
    let mut content = Vec::new();
    let one = |entry: &lifeboat::repo::set::FileEntry| entry.path == "base/16384/2619";
    golden.reader().read_files(&body, 1 << 20, one, |_, found| content = found).await.unwrap();
    let locked_until = "2027-01-01T00:00:00Z".parse().unwrap();
    let scope = Scope::Tenant("acme".into());
    let new = NewSet { scope, source: "base-main".into(), kind: SetKind::BaseBackup, locked_until };
    let mut set = writer.begin_set(new, &Quiet::default()).await.unwrap();
    let filling = move || {
        set.start_file(FileMeta { path: "base/16384/2619".into(), mode: 0o600, ..FileMeta::default() }).unwrap();
        for piece in content.chunks(64 << 10) {
            set.piece(bytes::Bytes::copy_from_slice(piece)).unwrap();
        }
        set.end_file(BTreeMap::new()).unwrap();
        set
    };
    let stored = tokio::task::spawn_blocking(filling).await.unwrap().finish(Value::Null).await.unwrap();
    assert_eq!((stored.new_bytes, stored.reused_bytes), (0, 150_000), "its chunk map was not read");
    let previous = stored.envelope.previous.as_ref().unwrap();
    assert_eq!((&previous.name, previous.sha256.to_string()), (before, wanted["sha256"].as_str().unwrap().to_owned()));
}

/// By the scripts and the commands that lie in it: nothing of today's but the standard tools.
#[test]
fn the_golden_repository_opens_with_the_scripts_of_its_own_day() {
    let golden = Golden::copy();
    for (name, wanted) in &golden.expected {
        let key = format!("identities/{}/{}.age", wanted["scope"].as_str().unwrap(), wanted["epoch"]);
        if let Some(files) = wanted["body"]["files"].as_object() {
            assert!(matches!(name.parse(), Ok(Name::Set(_, SetPart::Envelope))));
            let script =
                "rm -rf out && bash store/tenant/acme/recover-set.sh store \"$0\" \"$1\" allowed_signers out >&2";
            shell(script, &[name, &key], golden.dir.path());
            for (path, file) in files {
                let sum = shell("sha256sum <\"$0\" | cut -d ' ' -f 1", &[&format!("out/{path}")], golden.dir.path());
                assert_eq!(file["sha256"].as_str(), Some(sum.trim()), "{name}: {path}");
            }
        } else if wanted["point"].is_object() {
            let open = "age -d -i \"$1\" \"store/${0%.envelope.json}.body.json.zst.age\" | zstd -dc | jq -Sc .";
            let said: Value = serde_json::from_str(&shell(open, &[name, &key], golden.dir.path())).unwrap();
            assert_eq!(said, wanted["point"]);
        } else if let Some(merged) = wanted["acme_over_cluster"].as_str() {
            let sum = shell(LAY, &[name], golden.dir.path());
            assert_eq!(sum.trim(), merged, "{name}");
        }
    }
}

/// Opens the two shares of a stretch and lays one over the other; the sum of what lies between its ends.
const LAY: &str = r#"
    rm -rf spans wal
    range=${0##*/} && range=${range%%.*} && mkdir -p "spans/$range"
    for share in cluster/main tenant/acme; do
        jq -r --arg scope "$share" '.wal.spans[] | select(.scope == $scope) | "\(.object) \(.offset // 0) \(.bytes) \(.epoch)"' "store/$0" |
            while read -r object offset bytes epoch; do
                dd if="store/$object" iflag=skip_bytes,count_bytes skip="$offset" count="$bytes" status=none |
                    age -d -i "identities/$share/$epoch.age" | zstd -dc >"spans/$range/${share%/*}"
            done
    done
    sh store/tenant/acme/lay-wal.sh spans wal 16777216 1 7300000000000000001
    from=$((0x${range%-*})) to=$((0x${range#*-}))
    cat wal/* | tail -c +$((from % 16777216 + 1)) | dd iflag=count_bytes,fullblock count=$((to - from)) status=none | sha256sum | cut -d ' ' -f 1
"#;

fn shell(script: &str, arguments: &[&str], folder: &Path) -> String {
    let script = format!("set -e\n{script}");
    let output = Command::new("bash").arg("-c").arg(script).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
