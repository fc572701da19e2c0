//! A small estate in memory: keys, stores, a clock that is set, and two days of two tenants' life in it.
//!
//! Day 1: a base backup of the cluster, acme and globex, with files and a roster of each; a point of each. Day 2: the same again, mostly reused.
//! WAL from before the first to after the last: stretches with bundles, one with a span of acme's, tails beside a stretch, and at the very
//! end tails alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use lifeboat::backup::base::{self, BaseFacts, DatabaseFact};
use lifeboat::clock::Clock;
use lifeboat::config::Config;
use lifeboat::ids::{DbOid, Lsn, Scope};
use lifeboat::point::{PointBody, PointDatabase, PointFacts, SetRole};
use lifeboat::postgres::wal::{Split, extent};
use lifeboat::repo::ceremony::Ceremony;
use lifeboat::repo::envelope::{Binding, ObjectRef, Verified, Wal};
use lifeboat::repo::error::RepoError;
use lifeboat::repo::expire;
use lifeboat::repo::identities::Identities;
use lifeboat::repo::key::WriterBundle;
use lifeboat::repo::name;
use lifeboat::repo::reader::Reader;
use lifeboat::repo::set::SetKind;
use lifeboat::repo::set_writer::{FileMeta, StoredSet};
use lifeboat::repo::sign::Signers;
use lifeboat::repo::stretch::NewStretch;
use lifeboat::repo::writer::{NewPoint, NewSet, Writer, WriterOptions};
use lifeboat::store::Store;
use lifeboat::store::memory::MemoryStore;
use lifeboat::watch::{Quiet, Watch};

use super::wal::{ACME, GLOBEX, SEGMENT_BYTES, SYSTEM, Server, TIMELINE};

pub const HOUR: SignedDuration = SignedDuration::from_hours(1);
pub const DAY: SignedDuration = SignedDuration::from_hours(24);
/// How long points, their sets and WAL are kept; tails.
pub const DAILY: i64 = 35;
pub const TAILS: i64 = 7;

/// Path and content of each file of a set.
pub type Files = BTreeMap<String, Vec<u8>>;

pub fn acme() -> Scope {
    Scope::Tenant("acme".into())
}
pub fn globex() -> Scope {
    Scope::Tenant("globex".into())
}
pub fn cluster() -> Scope {
    Scope::Cluster("main".into())
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

pub struct Ground {
    pub folder: tempfile::TempDir,
    pub clock: Clock,
    pub store: Arc<MemoryStore>,
    pub bundle: Arc<WriterBundle>,
    pub config: Config,
    pub server: Server,
    /// The base backups that were taken, oldest first.
    pub backups: Vec<Taken>,
    /// What the store had after the first day.
    pub first_day: BTreeSet<String>,
    /// Every stretch that was committed, in order.
    pub stretches: Vec<Verified>,
}

/// One base backup with its points.
#[derive(Clone)]
pub struct Taken {
    pub facts: PointFacts,
    pub points: BTreeMap<Scope, Verified>,
    pub stretch: Verified,
}

/// What the server wrote while a base backup was taken.
pub struct WalOfBackup {
    pub day: u64,
    pub start: Lsn,
    pub stop: Lsn,
    pub split: Split,
}

pub fn days(days: i64) -> SignedDuration {
    DAY * i32::try_from(days).unwrap()
}

/// How the janitor runs here.
pub fn expiring(dry_run: bool) -> expire::Options {
    expire::Options { dry_run, only: None, longest: days(DAILY + 1), tail_lock: days(TAILS) }
}

impl Ground {
    /// Keys and an empty store.
    pub fn empty() -> Self {
        Self::on(|clock| MemoryStore::new(clock.clone()))
    }

    pub fn on(store: impl FnOnce(&Clock) -> MemoryStore) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scopes = [acme(), globex(), cluster(), Scope::Estate, Scope::Residue("main".into())];
        let ceremony = Ceremony::new_estate(&scopes, 1).unwrap();
        let at = |name: &str| folder.path().join(name);
        ceremony.write(&at("writer.json"), &at("keys"), &at("signers")).unwrap();
        let clock = Clock::set_to("2026-11-22T07:24:00Z".parse().unwrap());
        let store = Arc::new(store(&clock));
        let text = "[estate]\nname = \"shop\"\n[store]\nkind = \"local\"\npath = \"store\"\n[keys]\nsigners = \"signers\"\n\
            identities = \"keys\"\n[clusters.main]\nhost = \"/tmp\"\nuser = \"backup\"\n\
            [tenants.acme]\ncluster = \"main\"\ndatabases = [\"acme\"]\n\
            [tenants.globex]\ncluster = \"main\"\ndatabases = [\"globex\"]\n";
        let config = Config::parse(text, &at("lifeboat.toml")).unwrap_or_else(|error| panic!("{error:?}"));
        let (server, bundle) = (Server::new(), Arc::new(ceremony.bundle));
        Self {
            folder,
            clock,
            store,
            bundle,
            config,
            server,
            backups: Vec::new(),
            first_day: BTreeSet::new(),
            stretches: Vec::new(),
        }
    }

    /// The two days of the module's page.
    pub async fn lived() -> Self {
        let mut ground = Self::empty();
        ground.live().await;
        ground
    }

    pub async fn live(&mut self) {
        self.work(1, 100);
        self.stream(&[false]).await;
        self.back_up(1).await;
        self.first_day = self.store.names().into_iter().collect();
        self.clock.advance(DAY);
        self.work(2, 1 << 20);
        self.stream(&[true, false]).await;
        self.back_up(2).await;
        self.clock.advance(HOUR);
        self.work(3, 300);
        self.stream(&[false]).await;
        self.work(4, 50);
        self.stream(&[true]).await;
        self.work(5, 50);
        self.stream(&[true]).await;
        self.clock.advance(HOUR);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn until(&self, days: i64) -> Timestamp {
        self.clock.now() + self::days(days)
    }

    /// What `store` holds, in one of its own that lets names be put again, as S3 does.
    pub fn fork(&self, store: &MemoryStore) -> Arc<MemoryStore> {
        let fork = MemoryStore::not_create_only(self.clock.clone());
        fork.roll_back(&store.snapshot());
        Arc::new(fork)
    }

    pub fn signers(&self) -> Arc<Signers> {
        Arc::new(Signers::read(&self.path("signers")).unwrap())
    }

    pub fn writer(&self) -> Writer {
        self.writer_to(self.store.clone())
    }

    pub fn writer_to(&self, store: Arc<dyn Store>) -> Writer {
        self.writer_with(store, Arc::clone(&self.bundle))
    }

    pub fn writer_with(&self, store: Arc<dyn Store>, bundle: Arc<WriterBundle>) -> Writer {
        let options = WriterOptions { pack_bytes: 64 << 10, threads: 1, ..WriterOptions::default() };
        Writer::open(store, bundle, self.clock.clone(), options).unwrap()
    }

    pub fn reader(&self) -> Reader {
        self.reader_of(self.store.clone())
    }

    /// One with every key.
    pub fn reader_of(&self, store: Arc<dyn Store>) -> Reader {
        self.reader_with(store, Some(&self.path("keys")))
    }

    pub fn reader_with(&self, store: Arc<dyn Store>, keys: Option<&Path>) -> Reader {
        Reader::open(store, self.signers(), Arc::new(Identities::open(keys)))
    }

    /// Both tenants do something of about `bytes` bytes, and commit.
    pub fn work(&mut self, seed: u64, bytes: usize) {
        // Compressible: large as WAL, small in the store.
        self.server.insert(ACME, &noise(seed, 97).repeat(bytes / 97 + 1));
        self.server.insert(GLOBEX, &noise(seed + 1000, 60));
        self.server.insert(DbOid(1), &noise(seed + 2000, 40));
        self.server.commit(self.clock.now());
    }

    /// Stores what the server wrote since the last time: once as each of `tails` says.
    pub async fn stream(&mut self, tails: &[bool]) {
        let split = self.server.take();
        let writer = self.writer();
        for tail in tails {
            let stored = writer.write_stretch(self.stretch(&split, *tail)).await.unwrap();
            self.stretches.push(stored.envelope);
        }
    }

    pub fn stretch(&self, split: &Split, tail: bool) -> NewStretch {
        let binding = |oid, scope| Binding { oid, scope, from_lsn: Lsn(0), to_lsn: None };
        let wal = Wal {
            system_id: SYSTEM,
            timeline: TIMELINE,
            history: name::history(TIMELINE, b""),
            from: split.from,
            to: split.to,
            last_record: Some(split.last_record),
            first_commit_time: split.commits.first,
            last_commit_time: split.commits.greatest,
            commits: split.commits.count,
            server_clock: Some(self.clock.now()),
            bindings: vec![binding(ACME, acme()), binding(GLOBEX, globex())],
            quarantined: false,
            spans: Vec::new(),
        };
        let owner = |slot: &u32| if *slot == 0 { acme() } else { globex() };
        let mut members = vec![(cluster(), extent::encode(&split.cluster))];
        members.extend(split.tenants.iter().map(|(slot, part)| (owner(slot), extent::encode(part))));
        if !split.residue.is_empty() {
            members.push((Scope::Residue("main".into()), extent::encode(&split.residue)));
        }
        let locked_until = self.until(if tail { TAILS } else { DAILY });
        NewStretch { cluster: cluster(), source: "main".into(), tail, wal, members, locked_until }
    }

    /// What lies on the disk of the source: most of it the same each day.
    pub fn content(day: u64) -> BTreeMap<(Scope, String), Files> {
        let base = base::source("main");
        let mut content = BTreeMap::new();
        let file = |path: &str, bytes: Vec<u8>| (path.to_owned(), bytes);
        let shared = vec![
            file("PG_VERSION", b"15\n".to_vec()),
            file("global/pg_control", noise(70 + day, 8192)),
            file("base/1/1259", noise(71, 90_000)),
            file("postgresql.conf", b"shared_preload_libraries = 'evil'\n".to_vec()),
        ];
        content.insert((cluster(), base.clone()), Files::from_iter(shared));
        for (scope, oid, seed) in [(acme(), ACME, 10), (globex(), GLOBEX, 20)] {
            let relation = |n: u64, bytes| file(&format!("base/{oid}/{}", 16_390 + n), noise(seed + n, bytes));
            // The first changes from day to day.
            let files = vec![
                file(&format!("base/{oid}/16389"), noise(seed * 100 + day, 70_000)),
                relation(1, 140_000),
                relation(2, 300),
                file(&format!("base/{oid}/16400"), vec![0; 16_384]),
            ];
            content.insert((scope.clone(), base.clone()), Files::from_iter(files));
            let id = scope.to_string().rsplit('/').next().unwrap().to_owned();
            let attachment = |n: u64| file(&format!("{n:02}/{n:040}"), noise(seed * 7 + n, 3000));
            let attachments = Files::from_iter((0..=day).map(attachment));
            content.insert((scope.clone(), format!("filestore-{id}")), attachments);
            let roster = file("roster.json", format!("{{\"people\":[\"{id} {day}\"]}}").into_bytes());
            content.insert((scope, format!("access-odoo-{id}")), Files::from_iter([roster]));
        }
        content
    }

    /// A base backup of everything with a point of each tenant, while the server goes on writing.
    pub async fn back_up(&mut self, day: u64) {
        let wal = self.wal_of_backup(day);
        let taken = self.back_up_with(&self.writer(), &wal, Self::content(day), &Quiet::default()).await.unwrap();
        self.stretches.push(taken.stretch.clone());
        self.backups.push(taken);
    }

    /// What the server writes while a base backup is taken.
    pub fn wal_of_backup(&mut self, day: u64) -> WalOfBackup {
        let start = self.server.at();
        self.work(100 + day, 200);
        let stop = self.server.at();
        WalOfBackup { day, start, stop, split: self.server.take() }
    }

    /// The same through any writer: WAL, sets, points, in this order.
    pub async fn back_up_with(
        &self,
        writer: &Writer,
        wal: &WalOfBackup,
        files: BTreeMap<(Scope, String), Files>,
        watch: &dyn Watch,
    ) -> Result<Taken, RepoError> {
        let stretch = writer.write_stretch(self.stretch(&wal.split, false)).await?.envelope;
        let facts = self.facts(wal.day, wal.start, wal.stop);
        let locked_until = self.until(DAILY);
        let mut sets: BTreeMap<(Scope, String), StoredSet> = BTreeMap::new();
        for ((scope, source), files) in &files {
            let kind = match source.as_str() {
                source if source.starts_with("base") => SetKind::BaseBackup,
                source if source.starts_with("files") => SetKind::Filestore,
                _ => SetKind::Access,
            };
            let new = NewSet { scope: scope.clone(), source: source.clone(), kind, locked_until };
            let facts = serde_json::to_value(self.base_facts(&facts)).unwrap();
            sets.insert((scope.clone(), source.clone()), store_set(writer, new, files, facts, watch).await?);
        }
        let mut points = BTreeMap::new();
        for (scope, oid) in [(acme(), ACME), (globex(), GLOBEX)] {
            if sets.keys().any(|(of, _)| *of == scope) {
                let new = self.point(&scope, oid, &facts, &sets, stretch.reference());
                points.insert(scope, writer.write_point(new).await?);
            }
        }
        Ok(Taken { facts, points, stretch })
    }

    /// acme's database and the cluster's share, and no more.
    pub fn little(day: u64) -> BTreeMap<(Scope, String), Files> {
        let mut content = Self::content(day);
        content.retain(|(scope, source), _| *scope != globex() && source.starts_with("base"));
        content
    }

    fn facts(&self, day: u64, start_lsn: Lsn, stop_lsn: Lsn) -> PointFacts {
        PointFacts {
            cluster: "main".into(),
            system_id: SYSTEM,
            timeline: TIMELINE,
            server_version: 150_018,
            segment_bytes: SEGMENT_BYTES,
            history: name::history(TIMELINE, b""),
            label: format!("lifeboat day {day}"),
            start_lsn,
            stop_lsn,
            stop_time: self.clock.now(),
            lsn: stop_lsn,
            time: self.clock.now(),
            class: "daily".into(),
            whole: true,
        }
    }

    fn base_facts(&self, facts: &PointFacts) -> BaseFacts {
        let database = |oid, name: &str| DatabaseFact {
            oid,
            name: name.into(),
            encoding: "UTF8".into(),
            collate: "C".into(),
            ctype: "C".into(),
            collation_version: None,
        };
        BaseFacts {
            cluster: "main".into(),
            label: facts.label.clone(),
            start_lsn: facts.start_lsn,
            stop_lsn: Some(facts.stop_lsn),
            stop_time: Some(facts.stop_time),
            server_version: facts.server_version,
            segment_bytes: SEGMENT_BYTES,
            superuser: "postgres".into(),
            databases: vec![database(ACME, "acme"), database(GLOBEX, "globex")],
            bad_pages: Vec::new(),
        }
    }

    fn point(
        &self,
        scope: &Scope,
        oid: DbOid,
        facts: &PointFacts,
        sets: &BTreeMap<(Scope, String), StoredSet>,
        stretch: ObjectRef,
    ) -> NewPoint {
        let id = scope.to_string().rsplit('/').next().unwrap().to_owned();
        let role = |set_scope: &Scope, source: &str| match source {
            _ if *set_scope == cluster() => Some(SetRole::ClusterBase),
            _ if set_scope != scope => None,
            source if source.starts_with("base") => Some(SetRole::Base),
            source if source.starts_with("files") => Some(SetRole::Filestore(id.clone())),
            _ => Some(SetRole::Access(format!("odoo/{id}"))),
        };
        let named: Vec<_> =
            sets.iter().filter_map(|((of, source), set)| Some(role(of, source)?.reference(set))).collect();
        let databases = vec![PointDatabase { oid, name: id.clone(), tables: BTreeMap::new() }];
        let envelopes = named.iter().map(|reference| reference.envelope.clone()).collect();
        let body = PointBody { tenant: id.clone(), facts: facts.clone(), databases, sets: named };
        NewPoint {
            scope: scope.clone(),
            sets: envelopes,
            stretches: vec![stretch],
            body: serde_json::to_value(body).unwrap(),
            facts: serde_json::to_value(facts).unwrap(),
            locked_until: self.until(DAILY),
        }
    }
}

/// Writes files, in pieces of 64 KiB, as one set.
pub async fn store_set(
    writer: &Writer,
    new: NewSet,
    files: &Files,
    facts: serde_json::Value,
    watch: &dyn Watch,
) -> Result<StoredSet, RepoError> {
    let mut set = writer.begin_set(new, watch).await?;
    let files = files.clone();
    let filling = move || {
        for (path, content) in files {
            set.start_file(FileMeta { path, mode: 0o640, ..FileMeta::default() })?;
            for piece in content.chunks(64 << 10) {
                set.piece(Bytes::copy_from_slice(piece))?;
            }
            set.end_file(BTreeMap::new())?;
        }
        Ok(set)
    };
    let filled: Result<_, RepoError> = tokio::task::spawn_blocking(filling).await.unwrap();
    filled?.finish(facts).await
}
