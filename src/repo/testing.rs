//! What the repository's own tests share: an estate with keys, and a versioned store in memory that can be damaged.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
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
use crate::store::{Listed, LockState, Promises, Store, StoreError, Version};
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

/// One version of an object in memory.
#[derive(Debug, Clone)]
pub struct Kept {
    pub bytes: Bytes,
    pub created: Timestamp,
    pub until: Timestamp,
}

/// Keeps versions, as S3 does: the last is on top, and a `put` on a taken name makes another unless `create_only`.
#[derive(Debug)]
pub struct Memory {
    pub objects: Mutex<BTreeMap<String, Vec<Kept>>>,
    pub clock: Clock,
    pub create_only: bool,
}

impl Memory {
    pub fn names(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }
    /// The one object whose name contains `part`.
    pub fn named(&self, part: &str) -> String {
        let mut found: Vec<String> = self.names().into_iter().filter(|name| name.contains(part)).collect();
        assert_eq!(found.len(), 1, "{part}: {found:?}");
        found.remove(0)
    }
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.objects.lock().unwrap()[name].last().unwrap().bytes.to_vec()
    }
    /// Replaces what is stored, as if the disk had.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.bytes(name);
        change(&mut bytes);
        self.objects.lock().unwrap().get_mut(name).unwrap().last_mut().unwrap().bytes = bytes.into();
    }
    pub fn drop_object(&self, name: &str) -> Vec<Kept> {
        self.objects.lock().unwrap().remove(name).unwrap()
    }
    pub fn restore(&self, name: &str, kept: Vec<Kept>) {
        self.objects.lock().unwrap().insert(name.to_owned(), kept);
    }
    fn with<T>(&self, name: &str, version: &Version, act: impl FnOnce(&mut Kept) -> T) -> Result<T, StoreError> {
        let mut objects = self.objects.lock().unwrap();
        let at: usize = version.0.parse().unwrap();
        let kept = objects.get_mut(name).and_then(|versions| versions.get_mut(at));
        kept.map(act).ok_or_else(|| StoreError::NotFound { name: name.to_owned() })
    }
}

#[async_trait]
impl Store for Memory {
    fn place(&self) -> String {
        "memory".into()
    }
    fn promises(&self) -> Promises {
        Promises { create_only: self.create_only, locks_enforced: true, caveats: Vec::new() }
    }
    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.clock.now())
    }
    async fn put(&self, name: &str, bytes: Bytes, locked_until: Timestamp) -> Result<Version, StoreError> {
        let mut objects = self.objects.lock().unwrap();
        let versions = objects.entry(name.to_owned()).or_default();
        if self.create_only && !versions.is_empty() {
            return Err(StoreError::Exists { name: name.to_owned() });
        }
        versions.push(Kept { bytes, created: self.clock.now(), until: locked_until });
        Ok(Version((versions.len() - 1).to_string()))
    }
    async fn get(&self, name: &str, version: Option<&Version>, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let top = self.objects.lock().unwrap().get(name).map_or(0, Vec::len).saturating_sub(1);
        let version = version.cloned().unwrap_or(Version(top.to_string()));
        let bytes = self.with(name, &version, |kept| kept.bytes.clone())?;
        let Some(range) = range else { return Ok(bytes) };
        if range.end > bytes.len() as u64 {
            let (name, length) = (name.to_owned(), bytes.len() as u64);
            return Err(StoreError::BadRange { name, start: range.start, end: range.end, bytes: length });
        }
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }
    fn list<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<Listed, StoreError>> {
        let objects = self.objects.lock().unwrap();
        let mut listed = Vec::new();
        for (name, versions) in objects.iter().filter(|(name, _)| name.starts_with(prefix)) {
            for (at, kept) in versions.iter().enumerate() {
                listed.push(Ok(Listed {
                    name: name.clone(),
                    version: Version(at.to_string()),
                    bytes: kept.bytes.len() as u64,
                    created: kept.created,
                    current: at + 1 == versions.len(),
                }));
            }
        }
        futures::stream::iter(listed).boxed()
    }
    async fn lock_state(&self, name: &str, version: &Version) -> Result<LockState, StoreError> {
        self.with(name, version, |kept| LockState { retained_until: Some(kept.until), held: false })
    }
    async fn extend(&self, name: &str, version: &Version, until: Timestamp) -> Result<(), StoreError> {
        self.with(name, version, |kept| kept.until = kept.until.max(until))
    }
    async fn hold(&self, _: &str, _: &Version, _: bool) -> Result<(), StoreError> {
        Ok(())
    }
    async fn remove(&self, name: &str, _: &Version) -> Result<(), StoreError> {
        self.objects.lock().unwrap().remove(name);
        Ok(())
    }
}

/// Keys in a folder, a store in memory, a clock that stands.
pub struct Estate {
    pub folder: tempfile::TempDir,
    pub ceremony: Ceremony,
    pub memory: Arc<Memory>,
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
        let memory = Arc::new(Memory { objects: Mutex::default(), clock: clock.clone(), create_only });
        Self { folder, ceremony, memory, clock }
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
    let wal = Wal {
        system_id: SystemId(7_300_000_000_000_000_001),
        timeline: Timeline(1),
        history: super::name::history(Timeline(1), b""),
        from: Lsn(from),
        to: Lsn(to),
        last_record: None,
        first_commit_time: None,
        last_commit_time: None,
        commits: 0,
        server_clock: Some(estate.clock.now()),
        bindings: Vec::new(),
        quarantined: false,
        spans: Vec::new(),
    };
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
