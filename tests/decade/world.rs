//! An estate through the years: what is done to it, and what was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use lifeboat::clock::Clock;
use lifeboat::ids::{Lsn, Scope, SystemId, Timeline};
use lifeboat::repo::ceremony::Ceremony;
use lifeboat::repo::envelope::{ObjectRef, Verified, Wal};
use lifeboat::repo::error::RepoError;
use lifeboat::repo::expire::{self, ExpireError, Options};
use lifeboat::repo::hold;
use lifeboat::repo::identities::Identities;
use lifeboat::repo::name;
use lifeboat::repo::reader::Reader;
use lifeboat::repo::set::SetKind;
use lifeboat::repo::set_writer::{FileMeta, StoredSet};
use lifeboat::repo::sign::Signers;
use lifeboat::repo::stretch::{NewStretch, SPAN_BYTES};
use lifeboat::repo::writer::{NewPoint, NewSet, Writer, WriterOptions};
use lifeboat::store::Store;
use lifeboat::store::failing::{Failing, Fault};
use lifeboat::store::memory::MemoryStore;
use lifeboat::watch::Quiet;

use super::DAY;
use super::dice::Dice;
use super::slow::Slow;

const CLASSES: [(u64, i32); 4] = [(70, 35), (15, 91), (10, 400), (5, 7 * 365)];
pub const PITR: i32 = 35;
const TAIL: i32 = 7;
pub const SLACK: SignedDuration = DAY;
const FILE_PIECE: usize = 3000;

#[derive(Debug, Default)]
pub struct Counts {
    pub sets: u64,
    pub points: u64,
    pub stretches: u64,
    pub crashes: u64,
    pub expirations: u64,
    pub removed: u64,
    pub holds: u64,
    pub read_back: u64,
    /// Backups that ended because the janitor was first.
    pub overtaken: u64,
}

pub struct World {
    pub dice: Dice,
    pub store: Arc<MemoryStore>,
    /// The store's and the janitor's clock; the writer's is up to ten minutes off.
    truth: Clock,
    host: Clock,
    folder: tempfile::TempDir,
    ceremony: Ceremony,
    rebase: SignedDuration,
    wal: Vec<Verified>,
    lsn: u64,
    /// Envelopes that must be there until a time.
    pub promised: BTreeMap<String, Timestamp>,
    /// What a set's file reads as: the seeds of its pieces.
    pub contents: BTreeMap<String, Vec<u64>>,
    pub points: Vec<Verified>,
    /// What was there when a scope's hold was last renewed.
    pub held: BTreeMap<Scope, BTreeSet<String>>,
    /// When the last whole expire of this step began, if nothing was let go since.
    pub swept: Option<Timestamp>,
    /// Parsed envelopes by version.
    pub parsed: BTreeMap<String, Vec<ObjectRef>>,
    pub counts: Counts,
}

pub fn tenants() -> [Scope; 2] {
    [Scope::Tenant("acme".into()), Scope::Tenant("globex".into())]
}
pub fn cluster() -> Scope {
    Scope::Cluster("main".into())
}

/// What a run on a store may end with: nothing wrong, a planned crash, or the janitor having been first.
#[derive(Debug)]
enum Ended {
    Whole,
    Crashed,
    Overtaken,
}

impl World {
    pub fn new(mut dice: Dice) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [acme, globex] = tenants();
        let ceremony = Ceremony::new_estate(&[acme, globex, cluster()], 0).unwrap();
        let at = |name: &str| folder.path().join(name);
        ceremony.write(&at("writer.json"), &at("keys"), &at("signers")).unwrap();
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let (truth, host) = (Clock::set_to(start), Clock::set_to(start));
        let store = Arc::new(MemoryStore::new(truth.clone()));
        let rebase = DAY * if dice.percent(50) { 35 } else { 400 };
        Self {
            dice,
            store,
            truth,
            host,
            folder,
            ceremony,
            rebase,
            wal: Vec::new(),
            lsn: 0,
            promised: BTreeMap::new(),
            contents: BTreeMap::new(),
            points: Vec::new(),
            held: BTreeMap::new(),
            swept: None,
            parsed: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.truth.now()
    }

    pub fn reader(&self, keys: bool) -> Reader {
        let at = |name: &str| self.folder.path().join(name);
        let signers = Arc::new(Signers::read(&at("signers")).unwrap());
        let keys = keys.then(|| at("keys"));
        Reader::open(self.store.clone(), signers, Arc::new(Identities::open(keys.as_deref())))
    }

    /// Days go by, and clocks drift apart; now and then nobody does anything for weeks.
    pub fn pass_time(&mut self) {
        let hours = if self.dice.percent(4) { self.dice.within(240, 1200) } else { self.dice.within(6, 330) };
        let hour = SignedDuration::from_hours(i64::try_from(hours).unwrap());
        self.truth.advance(hour);
        let off = i64::try_from(self.dice.within(0, 1200)).unwrap() - 600;
        self.host.advance(self.truth.now().duration_since(self.host.now()) + SignedDuration::from_secs(off));
    }

    /// The store as one run sees it: slow, and perhaps dying in the middle.
    fn store_for_run(&mut self, crash_percent: u64, calls: u64) -> (Arc<dyn Store>, bool) {
        let minutes = if self.dice.percent(20) { self.dice.within(1, 20) } else { 0 };
        let clocks = vec![self.truth.clone(), self.host.clone()];
        let call_takes = SignedDuration::from_mins(i64::try_from(minutes).unwrap());
        let slow: Arc<dyn Store> = Arc::new(Slow { inner: self.store.clone(), clocks, call_takes });
        if !self.dice.percent(crash_percent) {
            return (slow, false);
        }
        let fault = Fault::Crash { call: self.dice.within(1, calls), done: self.dice.percent(50) };
        (Arc::new(Failing::new(slow, vec![fault])), true)
    }

    fn writer(&self, store: Arc<dyn Store>) -> Writer {
        let options = WriterOptions {
            pack_bytes: 64 << 10,
            threads: 1,
            slack: SLACK,
            rebase: self.rebase,
            ..WriterOptions::default()
        };
        Writer::open(store, Arc::new(self.ceremony.bundle.clone()), self.host.clone(), options).unwrap()
    }

    fn host_until(&self, days: i32) -> Timestamp {
        self.host.now() + DAY * days
    }

    pub async fn step(&mut self) {
        self.swept = None;
        self.stream().await;
        if self.dice.percent(55) {
            self.backup().await;
        }
        if self.dice.percent(25) {
            self.expire(15).await;
        }
        // An incident is over after some weeks.
        if self.dice.percent(if self.held.is_empty() { 2 } else { 30 }) {
            self.hold_or_unhold().await;
        }
    }

    /// A tail or two, then the stretch that covers them; which may stay away.
    async fn stream(&mut self) {
        let (store, crashes) = self.store_for_run(10, 12);
        let writer = self.writer(store);
        let from = self.lsn;
        let tails = self.dice.within(0, 3);
        let whole = self.dice.percent(85);
        let to = from + self.dice.within(10, 100);
        let mut pieces: Vec<(bool, u64, u64)> = (0..tails).map(|n| (true, from + n * 4, from + n * 4 + 4)).collect();
        if whole || tails == 0 {
            pieces.push((false, from, to));
        }
        for (tail, from, to) in pieces {
            let new = self.stretch(tail, from, to);
            let (promised, days) = (self.now(), if tail { TAIL } else { PITR });
            match writer.write_stretch(new).await {
                Ok(stored) => {
                    self.counts.stretches += 1;
                    self.promised.insert(stored.envelope.name.clone(), promised + DAY * days);
                    self.wal.push(stored.envelope);
                    self.lsn = self.lsn.max(to);
                }
                Err(error) => return self.ended(crashes, false, error),
            }
        }
    }

    fn stretch(&mut self, tail: bool, from: u64, to: u64) -> NewStretch {
        let wal = Wal {
            system_id: SystemId(7_300_000_000_000_000_001),
            timeline: Timeline(1),
            history: name::history(Timeline(1), b""),
            from: Lsn(from),
            to: Lsn(to),
            last_record: None,
            first_commit_time: None,
            last_commit_time: None,
            commits: 0,
            server_clock: Some(self.now()),
            bindings: Vec::new(),
            quarantined: false,
            spans: Vec::new(),
        };
        let [acme, globex] = tenants();
        let large = if self.dice.percent(10) { SPAN_BYTES } else { 100 };
        let members = vec![(cluster(), vec![7; 100]), (acme, vec![8; large]), (globex, vec![9; 10])];
        let locked_until = self.host_until(if tail { TAIL } else { PITR });
        NewStretch { cluster: cluster(), source: "main".into(), tail, wal, members, locked_until }
    }

    /// As `src/backup` does it: sets, extended WAL, points. At times the janitor runs across it.
    async fn backup(&mut self) {
        let (store, crashes) = self.store_for_run(15, 90);
        let writer = self.writer(store);
        let crossed = self.dice.percent(20);
        let days = self.class();
        let promised = self.now() + DAY * days;
        let until = self.host_until(days) + SLACK;
        let mut scopes = vec![cluster()];
        scopes.extend(tenants().into_iter().filter(|_| self.dice.percent(80)));
        let seeds: Vec<(Scope, Vec<u64>)> =
            scopes.into_iter().map(|scope| (scope.clone(), self.pieces(&scope))).collect();
        let young = self.now() - DAY * (TAIL - 2);
        let start = self.wal.len().saturating_sub(3);
        let wal: Vec<Verified> = self.wal[start..].iter().filter(|piece| piece.created > young).cloned().collect();
        let work = back_up(&writer, &seeds, &wal, until);
        let outcome = if crossed {
            let (janitor, began) = (self.janitor(self.store.clone()), self.now());
            let (made, expired) = tokio::join!(work, janitor);
            self.count_expired(expired, began, false);
            made
        } else {
            work.await
        };
        let Made { sets, points, error } = outcome;
        self.counts.sets += sets.len() as u64;
        for (set, (_, seeds)) in sets.iter().zip(&seeds) {
            self.contents.insert(set.envelope_name.clone(), seeds.clone());
        }
        for point in points {
            self.counts.points += 1;
            self.promised.insert(point.name.clone(), promised);
            for named in point.objects.iter().filter(|object| object.name.ends_with(".envelope.json")) {
                let until = self.promised.entry(named.name.clone()).or_insert(promised);
                *until = promised.max(*until);
            }
            self.points.push(point);
        }
        if let Some(error) = error {
            self.ended(crashes, crossed, error);
        }
    }

    /// What a scope's file is made of today: mostly what it was, here and there something new.
    fn pieces(&mut self, scope: &Scope) -> Vec<u64> {
        let day = self.now().as_second() / 86_400;
        (0..5_u64)
            .map(|slot| {
                let age = u64::try_from(day).unwrap() / (20 * (slot + 1));
                slot << 32 | age << 8 | scope.to_string().len() as u64
            })
            .collect()
    }

    fn class(&mut self) -> i32 {
        let mut thrown = self.dice.within(0, 100);
        for (share, days) in CLASSES {
            if thrown < share {
                return days;
            }
            thrown -= share;
        }
        CLASSES[0].1
    }

    fn ended(&mut self, crashes: bool, crossed: bool, error: RepoError) {
        let ended = match &error {
            RepoError::Store(_) | RepoError::Stopped if crashes => Ended::Crashed,
            RepoError::Missing { .. } | RepoError::Store(_) if crossed => Ended::Overtaken,
            _ => Ended::Whole,
        };
        match ended {
            Ended::Crashed => self.counts.crashes += 1,
            Ended::Overtaken => self.counts.overtaken += 1,
            Ended::Whole => panic!("without a planned crash: {error}"),
        }
    }

    fn janitor(&self, store: Arc<dyn Store>) -> impl Future<Output = Result<u64, ExpireError>> + use<> {
        let longest = DAY * (7 * 365 + PITR + 3);
        let options = Options { dry_run: false, only: None, longest, tail_lock: DAY * TAIL };
        let (signers, clock) = (self.reader(false).signers, self.truth.clone());
        async move {
            let expired = expire::run(store, signers, &clock, options, &mut |_| {}).await?;
            Ok(expired.removed().objects)
        }
    }

    pub async fn expire(&mut self, crash_percent: u64) {
        let (store, crashes) = self.store_for_run(crash_percent, 300);
        let began = self.now();
        let expired = self.janitor(store).await;
        self.count_expired(expired, began, crashes);
    }

    fn count_expired(&mut self, expired: Result<u64, ExpireError>, began: Timestamp, crashes: bool) {
        match expired {
            Ok(removed) => {
                self.counts.expirations += 1;
                self.counts.removed += removed;
                self.swept = Some(began);
            }
            Err(error) => {
                assert!(crashes, "{error}");
                self.counts.crashes += 1;
            }
        }
    }

    async fn hold_or_unhold(&mut self) {
        let [acme, globex] = tenants();
        let scope = if self.dice.percent(50) { acme } else { globex };
        let reader = self.reader(false);
        match hold::list(&*self.store, Some(&scope)).await.unwrap().first() {
            Some(open) => {
                // What was held is garbage from now on, until the next expire.
                self.swept = None;
                hold::close(&reader, open).await.unwrap();
                self.held.remove(&scope);
            }
            None => {
                hold::open(&reader, &scope, "an incident").await.unwrap();
                self.counts.holds += 1;
                let prefix = format!("{scope}/");
                let names = self.store.names().into_iter().filter(|name| name.starts_with(&prefix));
                // Of what is garbage already nothing was promised.
                let sets = names.filter(|name| name.ends_with(".envelope.json"));
                self.held.insert(scope, sets.collect());
            }
        }
    }

    pub async fn release_all(&mut self) {
        for open in hold::list(&*self.store, None).await.unwrap() {
            hold::close(&self.reader(false), &open).await.unwrap();
        }
        self.held.clear();
    }

    pub fn content(seeds: &[u64]) -> Vec<u8> {
        seeds.iter().flat_map(|seed| Dice::noise(*seed, FILE_PIECE)).collect()
    }

    pub fn skip(&self, days: i32) {
        self.truth.advance(DAY * days);
        self.host.advance(DAY * days);
    }
}

#[derive(Default)]
struct Made {
    sets: Vec<StoredSet>,
    points: Vec<Verified>,
    error: Option<RepoError>,
}

async fn back_up(writer: &Writer, seeds: &[(Scope, Vec<u64>)], wal: &[Verified], until: Timestamp) -> Made {
    let mut made = Made::default();
    made.error = fill(writer, seeds, wal, until, &mut made).await.err();
    made
}

async fn fill(
    writer: &Writer,
    seeds: &[(Scope, Vec<u64>)],
    wal: &[Verified],
    until: Timestamp,
    made: &mut Made,
) -> Result<(), RepoError> {
    for (scope, seeds) in seeds {
        let (source, kind) = ("base-main".to_owned(), SetKind::BaseBackup);
        let new = NewSet { scope: scope.clone(), source, kind, locked_until: until };
        let mut set = writer.begin_set(new, &Quiet::default()).await?;
        let pieces: Vec<Vec<u8>> = seeds.iter().map(|seed| Dice::noise(*seed, FILE_PIECE)).collect();
        let filled = tokio::task::spawn_blocking(move || {
            set.start_file(FileMeta { path: "file".into(), mode: 0o600, ..FileMeta::default() })?;
            for piece in pieces {
                set.piece(Bytes::from(piece))?;
            }
            set.end_file(BTreeMap::new())?;
            Ok::<_, RepoError>(set)
        });
        made.sets.push(filled.await.unwrap()?.finish(serde_json::Value::Null).await?);
    }
    for stretch in wal {
        writer.extend_envelope(stretch, until).await?;
    }
    let extended = |stretch: &Verified| {
        let reference = stretch.reference();
        ObjectRef { locked_until: reference.locked_until.max(until), ..reference }
    };
    let (shared, own) = made.sets.split_first().unwrap();
    for set in own {
        let new = NewPoint {
            scope: set.envelope.scope.clone(),
            sets: vec![shared.envelope.reference(), set.envelope.reference()],
            stretches: wal.iter().map(extended).collect(),
            body: serde_json::Value::Null,
            facts: serde_json::Value::Null,
            locked_until: until,
        };
        made.points.push(writer.write_point(new).await?);
    }
    Ok(())
}
