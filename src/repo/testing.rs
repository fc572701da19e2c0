//! What the repository's own tests share: an estate with keys, a store in memory, and ways to damage what is in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};

use super::ceremony::Ceremony;
use super::envelope::Wal;
use super::identities::Identities;
use super::reader::Reader;
use super::set::SetKind;
use super::set_writer::{FileMeta, SetWriter, StoredSet};
use super::sign::Signers;
use super::stretch::NewStretch;
use super::writer::{NewSet, Writer, WriterOptions};
use crate::clock::Clock;
use crate::ids::{Lsn, Scope, SystemId, Timeline};
use crate::store::memory::MemoryStore;
use crate::store::{Store, Version};
use crate::watch::Quiet;

pub fn acme() -> Scope {
    Scope::Tenant("acme".into())
}
pub fn globex() -> Scope {
    Scope::Tenant("globex".into())
}
pub fn cluster() -> Scope {
    Scope::Cluster("main".into())
}

/// Keys in a folder, a store in memory, a clock that stands.
pub struct Estate {
    pub folder: tempfile::TempDir,
    pub ceremony: Ceremony,
    pub memory: Arc<MemoryStore>,
    pub clock: Clock,
}

impl Estate {
    pub fn new() -> Self {
        Self::with(true)
    }
    pub fn with(create_only: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ceremony = Ceremony::new_estate(&[acme(), globex(), cluster()], 1).unwrap();
        let at = |name: &str| folder.path().join(name);
        ceremony.write(&at("writer.json"), &at("keys"), &at("signers")).unwrap();
        let clock = Clock::set_to("2026-11-22T07:24:00Z".parse().unwrap());
        let memory = match create_only {
            true => MemoryStore::new(clock.clone()),
            false => MemoryStore::not_create_only(clock.clone()),
        };
        let memory = Arc::new(memory);
        Self { folder, ceremony, memory, clock }
    }
    /// The one object whose name contains `part`.
    pub fn named(&self, part: &str) -> String {
        let mut found: Vec<String> = self.memory.names().into_iter().filter(|name| name.contains(part)).collect();
        assert_eq!(found.len(), 1, "{part}: {found:?}");
        found.remove(0)
    }
    /// What lies on top at `name`. A store in memory answers at once.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.memory.get(name, None, None).now_or_never().unwrap().unwrap().to_vec()
    }
    /// When the lock of the one version of `name` ends.
    pub fn locked_until(&self, name: &str) -> Timestamp {
        let [version] = &self.versions(name)[..] else { panic!("{name} has not one version") };
        self.memory.lock_state(name, version).now_or_never().unwrap().unwrap().retained_until.unwrap()
    }
    /// Replaces what lies on top, as if the disk had.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.memory.alter(name, &self.versions(name)[0], change), "{name}");
    }
    pub fn drop_object(&self, name: &str) {
        let versions = self.versions(name);
        assert!(
            !versions.is_empty() && versions.iter().all(|version| self.memory.drop_version(name, version)),
            "{name}"
        );
    }
    /// Newest first.
    fn versions(&self, name: &str) -> Vec<Version> {
        let listed = self.memory.listed(name).into_iter().filter(|listed| listed.name == name);
        listed.map(|listed| listed.version).collect()
    }
    /// What a stretch says in clear, of a cluster in which nothing happened.
    pub fn wal(&self, from: u64, to: u64) -> Wal {
        Wal {
            system_id: SystemId(7),
            timeline: Timeline(1),
            history: super::name::history(Timeline(1), b""),
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
        }
    }
    pub fn until(&self, days: i64) -> Timestamp {
        self.clock.now() + SignedDuration::from_hours(24 * days)
    }
    pub fn writer(&self) -> Writer {
        self.writer_to(self.memory.clone())
    }
    pub fn writer_to(&self, store: Arc<dyn Store>) -> Writer {
        let options = WriterOptions { pack_bytes: 256 << 10, threads: 2, ..WriterOptions::default() };
        Writer::open(store, Arc::new(self.ceremony.bundle.clone()), self.clock.clone(), options).unwrap()
    }
    pub fn reader(&self) -> Reader {
        self.reader_of(self.memory.clone(), Some(&self.folder.path().join("keys")))
    }
    pub fn reader_of(&self, store: Arc<dyn Store>, keys: Option<&Path>) -> Reader {
        let signers = Signers::read(&self.folder.path().join("signers")).unwrap();
        Reader::open(store, Arc::new(signers), Arc::new(Identities::open(keys)))
    }
    pub fn new_set(&self, scope: Scope) -> NewSet {
        NewSet { scope, source: "main".into(), kind: SetKind::BaseBackup, locked_until: self.until(35) }
    }
    /// Writes files, in pieces of 128 KiB, as one set.
    pub async fn backup(&self, scope: Scope, files: &[(&str, Vec<u8>)]) -> StoredSet {
        let set = self.writer().begin_set(self.new_set(scope), &Quiet::default()).await.unwrap();
        fill(set, files).await.finish(serde_json::json!({"database": "acme"})).await.unwrap()
    }
}

pub async fn fill(mut set: SetWriter, files: &[(&str, Vec<u8>)]) -> SetWriter {
    let files: Vec<(String, Vec<u8>)> = files.iter().map(|(path, c)| ((*path).to_owned(), c.clone())).collect();
    let filling = move || {
        for (path, content) in files {
            set.start_file(FileMeta { path, mode: 0o640, ..FileMeta::default() }).unwrap();
            for piece in Bytes::from(content).chunks(128 << 10) {
                set.piece(Bytes::copy_from_slice(piece)).unwrap();
            }
            set.end_file(BTreeMap::new()).unwrap();
        }
        set
    };
    tokio::task::spawn_blocking(filling).await.unwrap()
}

/// A tail of the cluster's WAL, locked for `days`.
pub fn new_tail(estate: &Estate, from: u64, to: u64, days: i64) -> NewStretch {
    let wal = estate.wal(from, to);
    let members = vec![(cluster(), vec![7; 100]), (acme(), vec![8; 100])];
    let (source, locked_until) = ("main".to_owned(), estate.until(days));
    NewStretch { cluster: cluster(), source, tail: true, wal, members, locked_until }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}
