//! Makes a golden repository: by intent only, once per format version.
//!
//! ```text
//! LIFEBOAT_MAKE_GOLDEN=tests/data/golden-1 cargo test --test golden -- --ignored
//! ```
//!
//! What is expected of a reader is written down from what was put in, never from what a reader said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use lifeboat::clock::Clock;
use lifeboat::ids::{DbOid, Digest, Lsn, Scope, SystemId, Timeline};
use lifeboat::postgres::wal::extent::{Extent, encode};
use lifeboat::postgres::wal::{Part, merge};
use lifeboat::repo::ceremony::Ceremony;
use lifeboat::repo::chunk::ChunkKey;
use lifeboat::repo::envelope::{Binding, Verified, Wal};
use lifeboat::repo::key::{ScopeKeys, WriterBundle};
use lifeboat::repo::name;
use lifeboat::repo::set::SetKind;
use lifeboat::repo::set_writer::{FileMeta, Other, StoredSet};
use lifeboat::repo::stretch::NewStretch;
use lifeboat::repo::writer::{NewPoint, NewSet, Writer, WriterOptions};
use lifeboat::store::local::LocalStore;
use lifeboat::watch::Quiet;
use serde_json::{Value, json};

const SYSTEM: SystemId = SystemId(7_300_000_000_000_000_001);

/// The estate, and what a reader must find in it.
struct Maker {
    store: Arc<LocalStore>,
    clock: Clock,
    bundle: WriterBundle,
    expected: BTreeMap<String, Value>,
}

/// Writes a repository and its keys below `to`, which must not exist.
pub async fn make(to: &Path) {
    assert!(!to.exists(), "{}: a golden repository is never changed; make another beside it", to.display());
    std::fs::create_dir_all(to.join("store")).unwrap();
    let clock = Clock::set_to("2026-11-22T07:24:00Z".parse().unwrap());
    let mut ceremony =
        Ceremony::new_estate(&[acme(), cluster(), Scope::Estate, Scope::Residue("main".into())], 1).unwrap();
    let store = Arc::new(LocalStore::open(&to.join("store"), clock.clone()).unwrap());
    let mut maker = Maker { store, clock, bundle: ceremony.bundle.clone(), expected: BTreeMap::new() };
    let first = maker.first_epoch().await;
    let second = age::x25519::Identity::generate();
    let keys = ScopeKeys { epoch: 2, recipient: second.to_public(), chunk_key: ChunkKey::generate().unwrap() };
    ceremony.identities.insert((acme(), 2), second);
    ceremony.bundle.scopes.insert(acme(), keys);
    maker.bundle = ceremony.bundle.clone();
    maker.second_epoch(first).await;
    ceremony.write(&to.join("writer.json"), &to.join("identities"), &to.join("allowed_signers")).unwrap();
    let text = serde_json::to_string_pretty(&maker.expected).unwrap();
    std::fs::write(to.join("expected.json"), text + "\n").unwrap();
    let note = "Test keys: they open nothing but what lies beside them. See tests/golden/main.rs.\n";
    std::fs::write(to.join("README"), note).unwrap();
}

fn acme() -> Scope {
    Scope::Tenant("acme".into())
}

fn cluster() -> Scope {
    Scope::Cluster("main".into())
}

impl Maker {
    fn writer(&self) -> Writer {
        let options = WriterOptions { pack_bytes: 64 << 10, threads: 1, ..WriterOptions::default() };
        Writer::open(self.store.clone(), Arc::new(self.bundle.clone()), self.clock.clone(), options).unwrap()
    }

    fn until(&self) -> Timestamp {
        self.clock.now().checked_add(SignedDuration::from_hours(24 * 35)).unwrap()
    }

    /// A base backup of every kind of scope, WAL with all there is to it, a point.
    async fn first_epoch(&mut self) -> Vec<StoredSet> {
        let pages = noise(1, 150_000);
        let base = [("PG_VERSION", b"15\n".to_vec()), ("base/16384/2619", pages.clone()), ("base/16384/empty", vec![])];
        let holes = [noise(2, 8192), vec![0; 65_536], noise(3, 8192)].concat();
        let all: Vec<(&str, Vec<u8>)> = base.into_iter().chain([("base/16384/holes", holes)]).collect();
        let tenant = self.set(acme(), "base-main", SetKind::BaseBackup, &all).await;
        let shared =
            [("global/pg_control", noise(4, 8192)), ("backup_label", b"START WAL LOCATION: 0/2000028\n".to_vec())];
        let shared = self.set(cluster(), "base-main", SetKind::BaseBackup, &shared).await;
        self.set(Scope::Spare(1), "base-main", SetKind::BaseBackup, &[("base/16385/1259", noise(5, 8192))]).await;
        self.set(
            Scope::Residue("main".into()),
            "base-main",
            SetKind::BaseBackup,
            &[("pg_twophase/0000", noise(6, 100))],
        )
        .await;
        let files = self
            .set(
                acme(),
                "filestore-acme",
                SetKind::Filestore,
                &[("a9/a9993e364706816aba3e25717850c26c9cd0d89d", b"abc".to_vec())],
            )
            .await;
        self.set(Scope::Estate, "references", SetKind::References, &[("references.json", b"[]".to_vec())]).await;
        let roster = [("roster.json", b"{\"layer\": \"odoo\"}".to_vec())];
        let access = self.set(acme(), "access-odoo-acme", SetKind::Access, &roster).await;
        let stretch = self.stretch(false, 0x200_0028, 0x220_0000).await;
        self.stretch(true, 0x220_0000, 0x220_8000).await;
        self.heartbeat(0x220_8000).await;
        let sets = vec![tenant, shared, files, access];
        self.point(&sets, &[stretch]).await;
        sets
    }

    /// A day later, after a rotation: what did not change is stored anew under the new key, the other scopes go on.
    async fn second_epoch(&mut self, first: Vec<StoredSet>) {
        self.clock.advance(SignedDuration::from_hours(24));
        let pages = [noise(1, 140_000), noise(7, 10_000)].concat();
        let tenant = self.set(acme(), "base-main", SetKind::BaseBackup, &[("base/16384/2619", pages.clone())]).await;
        let shared =
            self.set(cluster(), "base-main", SetKind::BaseBackup, &[("global/pg_control", noise(4, 8192))]).await;
        self.clock.advance(SignedDuration::from_hours(1));
        // Nothing new but one file: packs of the set before are used again.
        let grown = [("base/16384/2619", pages), ("base/16384/new", noise(8, 9000))];
        let again = self.set(acme(), "base-main", SetKind::BaseBackup, &grown).await;
        assert!(again.reused_bytes > 0 && tenant.reused_bytes == 0);
        let stretch = self.stretch(false, 0x220_0000, 0x221_0000).await;
        self.point(&[again, shared, first[2].clone()], &[stretch]).await;
    }

    async fn set(&mut self, scope: Scope, source: &str, kind: SetKind, files: &[(&str, Vec<u8>)]) -> StoredSet {
        let new = NewSet { scope, source: source.into(), kind, locked_until: self.until() };
        let mut set = self.writer().begin_set(new, &Quiet::default()).await.unwrap();
        let owned: Vec<(String, Vec<u8>)> =
            files.iter().map(|(path, content)| ((*path).to_owned(), content.clone())).collect();
        let filling = move || {
            set.other(FileMeta { path: "pg_tblspc".into(), mode: 0o700, ..FileMeta::default() }, Other::Dir).unwrap();
            let link = FileMeta { path: "pg_tblspc/1".into(), mode: 0o777, ..FileMeta::default() };
            set.other(link, Other::Link { target: "/elsewhere".into() }).unwrap();
            for (path, content) in owned {
                let mtime = Some("2026-11-22T07:00:00Z".parse().unwrap());
                set.start_file(FileMeta { path, mode: 0o600, mtime, ..FileMeta::default() }).unwrap();
                for piece in content.chunks(64 << 10) {
                    set.piece(Bytes::copy_from_slice(piece)).unwrap();
                }
                set.end_file(BTreeMap::from([("note".into(), "golden".into())])).unwrap();
            }
            set
        };
        let set = tokio::task::spawn_blocking(filling).await.unwrap();
        let facts = json!({"what": "golden"});
        let stored = set.finish(facts.clone()).await.unwrap();
        let sums: BTreeMap<&str, Value> = files
            .iter()
            .map(|(path, content)| (*path, json!({"bytes": content.len(), "sha256": Digest::of(content).to_string()})))
            .collect();
        self.expect(&stored.envelope, json!({"body": {"kind": kind, "facts": facts, "files": sums}}));
        stored
    }

    /// A stretch with a share of its own object, shares in the bundle, a record that is mixed.
    async fn stretch(&mut self, tail: bool, from: u64, to: u64) -> Verified {
        let bytes = (to - from) as usize;
        let whole: Vec<u8> = noise(from, 4096).iter().copied().cycle().take(bytes).collect();
        let of_cluster = Part { extents: vec![Extent { at: Lsn(from), bytes: whole.into() }], mixed: vec![] };
        let at = |offset: u64, seed, length| Extent { at: Lsn(from + offset), bytes: noise(seed, length).into() };
        let of_acme = Part {
            extents: vec![at(100, 10, 300), at(0x4000, 11, 9001), at(bytes as u64 - 7, 12, 7)],
            mixed: vec![Lsn(from + 64)],
        };
        let of_spare = Part { extents: vec![at(0x7000, 13, 64)], mixed: vec![] };
        let merged = Digest::of(&merge::merge(&of_cluster, &[&Part { mixed: vec![], ..of_acme.clone() }]).unwrap());
        let members = [(cluster(), of_cluster), (acme(), of_acme), (Scope::Spare(1), of_spare)];
        let members: Vec<(Scope, Vec<u8>)> = members.into_iter().map(|(scope, part)| (scope, encode(&part))).collect();
        let sums: BTreeMap<String, String> =
            members.iter().map(|(scope, plain)| (scope.to_string(), Digest::of(plain).to_string())).collect();
        let stored = self.write_wal(tail, from, to, members).await;
        self.expect(&stored, json!({"spans": sums, "acme_over_cluster": merged.to_string()}));
        stored
    }

    async fn heartbeat(&mut self, at: u64) {
        let stored = self.write_wal(true, at, at, Vec::new()).await;
        self.expect(&stored, json!({"spans": {}}));
    }

    async fn write_wal(&self, tail: bool, from: u64, to: u64, members: Vec<(Scope, Vec<u8>)>) -> Verified {
        let now = Some(self.clock.now());
        let bound = |oid, scope| Binding { oid: DbOid(oid), scope, from_lsn: Lsn(0x200_0028), to_lsn: None };
        let wal = Wal {
            system_id: SYSTEM,
            timeline: Timeline(1),
            history: name::history(Timeline(1), b""),
            from: Lsn(from),
            to: Lsn(to),
            last_record: (from < to).then_some(Lsn(to - 64)),
            first_commit_time: now,
            last_commit_time: now,
            commits: 1,
            server_clock: now,
            bindings: vec![bound(16384, acme()), bound(16385, Scope::Spare(1))],
            quarantined: false,
            spans: Vec::new(),
        };
        let new =
            NewStretch { cluster: cluster(), source: "main".into(), tail, wal, members, locked_until: self.until() };
        self.writer().write_stretch(new).await.unwrap().envelope
    }

    async fn point(&mut self, sets: &[StoredSet], stretches: &[Verified]) {
        let (writer, quiet) = (self.writer(), Quiet::default());
        let mut named: Vec<_> = sets.iter().map(|set| set.envelope.reference()).collect();
        for scope in [acme(), cluster()] {
            named.extend(writer.leave_readme(&scope, self.until(), &quiet).await);
        }
        let (body, facts) = (json!({"tenant": "acme", "sets": sets.len()}), json!({"lsn": "0/2200000"}));
        let new = NewPoint {
            scope: acme(),
            sets: named,
            stretches: stretches.iter().map(Verified::reference).collect(),
            body: body.clone(),
            facts: facts.clone(),
            locked_until: self.until(),
        };
        let stored = writer.write_point(new).await.unwrap();
        self.expect(&stored, json!({"point": body, "facts": facts}));
    }

    fn expect(&mut self, envelope: &Verified, more: Value) {
        let mut value = json!({
            "kind": envelope.kind, "scope": envelope.scope, "epoch": envelope.epoch, "source": envelope.source,
            "time": envelope.time, "signer": envelope.signer, "sha256": envelope.digest.to_string(),
            "objects": envelope.objects.iter().map(|object| &object.name).collect::<Vec<_>>(),
        });
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.expected.insert(envelope.name.clone(), value);
    }
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// Where to, when somebody asked for it.
pub fn asked() -> Option<PathBuf> {
    std::env::var_os("LIFEBOAT_MAKE_GOLDEN").map(PathBuf::from)
}
