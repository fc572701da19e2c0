//! What each reading command does, in this process: what it answers, what it says beside, how it fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lifeboat::clock::Clock;
use lifeboat::config::When;
use lifeboat::failure::{Failure, Kind};
use lifeboat::ids::{Digest, Scope};
use lifeboat::point::stored::Stored;
use lifeboat::point::{PointBody, SetRole};
use lifeboat::repo::copy;
use lifeboat::repo::expire;
use lifeboat::repo::name;
use lifeboat::repo::reader::{Reader, What};
use lifeboat::repo::set::SetKind;
use lifeboat::repo::verify::{self, Grade, Knows, Level, Part, Shortest};
use lifeboat::repo::witness::{self, About, Freshness};
use lifeboat::repo::writer::NewSet;
use lifeboat::restore::assemble;
use lifeboat::restore::choose::{Subject, choose};
use lifeboat::store::either::{Either, Place};
use lifeboat::store::memory::MemoryStore;
use lifeboat::stream::resume;
use lifeboat::watch::{Level as Loud, Quiet};

use super::ground::{DAILY, Ground, TAILS, acme, cluster, days, expiring, globex, store_set};
use super::wal::{SEGMENT_BYTES, SYSTEM, TIMELINE};

/// Path and SHA-256 of each file, or whatever else a command answers: two answers are the same, or they are not.
pub type Answer = BTreeMap<String, String>;

/// The commands that read the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    Points,
    Latest,
    Earlier,
    Listing,
    Bytes,
    Contents,
    Copy,
    Expire,
    Backup,
    Stream,
}

impl Command {
    pub fn said(self) -> &'static str {
        match self {
            Self::Points => "points",
            Self::Latest => "restore latest",
            Self::Earlier => "restore earlier",
            Self::Listing => "verify 0",
            Self::Bytes => "verify 1",
            Self::Contents => "verify 2",
            Self::Copy => "copy",
            Self::Expire => "expire",
            Self::Backup => "backup",
            Self::Stream => "stream",
        }
    }

    pub fn is_verify(self) -> bool {
        matches!(self, Self::Listing | Self::Bytes | Self::Contents)
    }

    pub async fn run(self, ground: &Ground, stores: &Stores) -> Ended {
        match self {
            Self::Points => points(ground, stores).await,
            Self::Latest => restore(ground, stores, When::Latest).await,
            // Inside the stretch that is largest, from the first base backup.
            Self::Earlier => restore(ground, stores, When::Lsn(ground.backups[1].facts.start_lsn)).await,
            Self::Listing => verify(ground, stores, Level::Listing).await,
            Self::Bytes => verify(ground, stores, Level::Bytes).await,
            Self::Contents => verify(ground, stores, Level::Contents).await,
            Self::Copy => copy(ground, stores).await,
            Self::Expire => expire(ground, stores).await,
            Self::Backup => backup(ground, stores).await,
            Self::Stream => stream(ground, stores).await,
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// None when it failed.
    pub answer: Option<Answer>,
    pub failure: Option<Failure>,
    /// Warnings: what about, and what.
    pub told: Vec<(String, String)>,
}

impl Ended {
    fn of(answer: Result<Answer, Failure>, watch: &Quiet) -> Self {
        let told = watch.findings().into_iter().filter(|finding| finding.level == Loud::Warning);
        let told = told.map(|finding| (finding.object, finding.what)).collect();
        match answer {
            Ok(answer) => Self { answer: Some(answer), failure: None, told },
            Err(failure) => Self { answer: None, failure: Some(failure), told },
        }
    }

    /// Whether `name` is spoken of, as what failed or beside.
    pub fn names(&self, name: &str) -> bool {
        let name = name.trim_end_matches(".sig");
        let failed = self.failure.as_ref().is_some_and(|f| f.object.contains(name) || f.cause.contains(name));
        failed || self.told.iter().any(|(object, what)| object.contains(name) || what.contains(name))
    }
}

/// Stores to read, as the configuration would open them: the estate's own, and its copy where there is one.
pub struct Stores {
    pub primary: Arc<MemoryStore>,
    pub copy: Option<Arc<MemoryStore>>,
}

impl Stores {
    fn reader(&self, ground: &Ground, watch: &Arc<Quiet>) -> Reader {
        let Some(copy) = &self.copy else { return ground.reader_of(self.primary.clone()) };
        let place = |name: &str, store: &Arc<MemoryStore>| Place { name: name.into(), store: store.clone() };
        let places = vec![place("primary", &self.primary), place("drawer", copy)];
        ground.reader_of(Arc::new(Either::new(places, watch.clone())))
    }

    pub async fn fresh(&self, ground: &Ground) -> witness::Verdict {
        let copies: Vec<Place> =
            self.copy.iter().map(|copy| Place { name: "drawer".into(), store: copy.clone() }).collect();
        let about = About { scopes: vec![acme(), globex()], clusters: vec![cluster()] };
        witness::look(&*self.primary, &copies, &ground.signers(), &about, &Quiet::default()).await.unwrap()
    }
}

/// `points` and `status`: what can be restored.
async fn points(ground: &Ground, stores: &Stores) -> Ended {
    let watch = Arc::new(Quiet::default());
    let reader = stores.reader(ground, &watch);
    let listed = async {
        let stored = Stored::read(&reader, &[acme(), globex()]).await?;
        let mut answer = Answer::new();
        for point in &stored.points {
            answer.insert(point.envelope.name.clone(), point.facts.lsn.to_string());
        }
        for window in stored.windows() {
            answer.insert(format!("window {}", window.from.lsn), window.to.lsn.to_string());
        }
        let sets = [reader.envelopes(&acme(), What::Sets).await?, reader.envelopes(&globex(), What::Sets).await?];
        for set in sets.iter().flat_map(|listing| &listing.good) {
            answer.insert(set.name.clone(), set.digest.to_string());
        }
        let mut told: Vec<(String, String)> = Vec::new();
        let bad = stored.bad.iter().chain(sets.iter().flat_map(|listing| &listing.bad));
        told.extend(bad.map(|(name, error)| (name.clone(), error.to_string())));
        let lost = stored.lost_points.iter().chain(sets.iter().flat_map(|listing| &listing.lost));
        told.extend(lost.map(|name| (name.clone(), "only its signature is there".to_owned())));
        let hidden = stored.hidden.iter().chain(&stored.unfinished);
        told.extend(hidden.map(|hidden| (hidden.name.clone(), hidden.why.clone())));
        told.extend(stored.gaps.iter().map(|gap| (format!("{} to {}", gap.from, gap.to), "is missing".to_owned())));
        Ok::<_, Failure>((answer, told))
    };
    let listed = listed.await;
    let (answer, more) = match listed {
        Ok((answer, more)) => (Ok(answer), more),
        Err(failure) => (Err(failure), Vec::new()),
    };
    let mut ended = Ended::of(answer, &watch);
    ended.told.extend(more);
    ended
}

/// `restore acme`, until everything is laid and nothing is started; and the sets beside the base backup, read.
pub async fn restore(ground: &Ground, stores: &Stores, asked: When) -> Ended {
    let watch = Arc::new(Quiet::default());
    let reader = stores.reader(ground, &watch);
    let restored = async {
        if asked == When::Latest {
            stores.fresh(ground).await.refuse()?;
        }
        restored(ground, &reader, asked, &watch).await
    };
    Ended::of(restored.await, &watch)
}

async fn restored(ground: &Ground, reader: &Reader, asked: When, watch: &Quiet) -> Result<Answer, Failure> {
    let chosen = choose(&ground.config, reader, Subject::Tenant("acme".into()), asked).await?;
    for finding in &chosen.findings {
        lifeboat::watch::Watch::finding(watch, finding.clone());
    }
    let opened = assemble::open(reader, &chosen).await?;
    let folder = tempfile::tempdir().unwrap();
    let (assembled, _) = assemble::assemble(reader, &chosen, &opened, folder.path(), watch).await?;
    let mut answer = laid(folder.path());
    answer.insert("reached".into(), assembled.end.to_string());
    let newest: &PointBody = opened.bodies.last().unwrap();
    for reference in newest.sets.iter().filter(|set| !matches!(set.role, SetRole::ClusterBase | SetRole::Base)) {
        let set = reader.envelope(&reference.envelope).await?;
        answer.extend(files_of(reader, &set, &set.source).await?);
    }
    Ok(answer)
}

async fn files_of(reader: &Reader, set: &lifeboat::repo::envelope::Verified, below: &str) -> Result<Answer, Failure> {
    let body = reader.body(set).await?;
    let mut files = Answer::new();
    let sink = |entry: lifeboat::repo::set::FileEntry, content: Vec<u8>| {
        files.insert(format!("{below}/{}", entry.path), Digest::of(&content).to_string());
    };
    reader.read_files(&body, 8 << 20, |_| true, sink).await?;
    Ok(files)
}

/// What lies below a folder.
fn laid(root: &Path) -> Answer {
    let (mut waiting, mut found) = (vec![root.to_path_buf()], Answer::new());
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            if entry.path().is_dir() {
                waiting.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(root).unwrap().display().to_string();
                found.insert(name, Digest::of(&std::fs::read(entry.path()).unwrap()).to_string());
            }
        }
    }
    found
}

pub fn shortest() -> Shortest {
    Shortest { point: days(DAILY), stretch: days(DAILY), tail: days(TAILS) }
}

/// `verify`: fails where something is damaged, warns of the rest.
async fn verify(ground: &Ground, stores: &Stores, level: Level) -> Ended {
    let keys = (level == Level::Contents).then(|| ground.path("keys"));
    let reader = ground.reader_with(stores.primary.clone(), keys.as_deref());
    let report = verify_with(&reader, level, Vec::new()).await;
    let told = report.findings.iter().map(|f| (f.object.clone(), format!("{} {}", f.what.said(), f.detail))).collect();
    let damage = report.findings.iter().find(|finding| finding.grade == Grade::Damage);
    let failure = damage.map(|f| Failure::new(Kind::Integrity, f.object.clone(), f.detail.clone(), f.next));
    let answer = failure.is_none().then(Answer::new);
    Ended { answer, failure, told }
}

pub async fn verify_with(reader: &Reader, level: Level, seen: Vec<verify::Seen>) -> verify::Report {
    let point = |value: &serde_json::Value| {
        serde_json::from_value::<PointBody>(value.clone()).map(drop).map_err(|error| error.to_string())
    };
    let span = |_: &lifeboat::repo::envelope::Wal, _: &Scope, plain: &[u8]| {
        lifeboat::postgres::wal::extent::decode(plain).map(drop).map_err(|error| error.to_string())
    };
    let options = verify::Options {
        level,
        part: Part::All,
        not_since: None,
        scopes: std::collections::BTreeSet::new(),
        shortest: shortest(),
        last_read: verify::LastRead::new(),
        seen,
        knows: Knows { span: Arc::new(span), point: Arc::new(point) },
    };
    verify::run(reader, &options, &Quiet::default()).await.unwrap()
}

/// `copy` to an empty store: what can be restored from there.
async fn copy(ground: &Ground, stores: &Stores) -> Ended {
    let watch = Quiet::default();
    let to = Arc::new(MemoryStore::new(ground.clock.clone()));
    let copying = copy::Copy {
        from: stores.primary.clone(),
        to: to.clone(),
        name: "drawer".into(),
        signers: ground.signers(),
        options: copy::Options::default(),
    };
    let copied = match copying.run(&watch).await {
        Ok(copied) => copied,
        Err(error) => return Ended::of(Err(error.into()), &watch),
    };
    if let Some(damaged) = copied.damaged.first() {
        let failure = Failure::new(Kind::Integrity, &*damaged.object, &*damaged.what, "see `lifeboat verify`");
        return Ended::of(Err(failure), &watch);
    }
    let restored = restored(ground, &ground.reader_of(to), When::Latest, &Quiet::default()).await;
    Ended::of(restored, &watch)
}

/// The next base backup of acme, on top of what is there, and a look at what its set opens to.
async fn backup(ground: &Ground, stores: &Stores) -> Ended {
    let watch = Quiet::default();
    let writer = ground.writer_to(stores.primary.clone());
    let source = lifeboat::backup::base::source("main");
    let files = &Ground::content(3)[&(acme(), source.clone())];
    let new = NewSet { scope: acme(), source, kind: SetKind::BaseBackup, locked_until: ground.until(DAILY) };
    let answer = async {
        let stored = store_set(&writer, new, files, serde_json::Value::Null, &watch).await?;
        let reader = ground.reader_of(stores.primary.clone());
        let set = reader.envelope(&stored.envelope.reference()).await?;
        files_of(&reader, &set, "base").await
    };
    Ended::of(answer.await, &watch)
}

/// `expire --dry-run`, when tails have lapsed and nothing else: what would go.
async fn expire(ground: &Ground, stores: &Stores) -> Ended {
    let watch = Quiet::default();
    let later = Clock::set_to(ground.until(TAILS + 3));
    let store = Arc::new(MemoryStore::new(later.clone()));
    store.roll_back(&stores.primary.snapshot());
    let mut answer = Answer::new();
    let sink = &mut |verdict: expire::Verdict| {
        if verdict.reason.removes() {
            answer.insert(verdict.name, String::new());
        }
    };
    let expired = expire::run(store, ground.signers(), &later, expiring(true), sink).await;
    Ended::of(expired.map(|_| answer).map_err(Failure::from), &watch)
}

/// `stream`: it goes on where the store ends, and the server sends again what is not there; where the WAL ends then.
async fn stream(ground: &Ground, stores: &Stores) -> Ended {
    let watch = Quiet::default();
    let reader = ground.reader_with(stores.primary.clone(), None);
    let history = name::history(TIMELINE, b"");
    let begun = async {
        let stored = reader.stretches(SYSTEM, Some(&history)).await?;
        let envelopes: Vec<_> = stored.good.iter().map(|verified| verified.envelope.clone()).collect();
        let (last, slot) = (resume::last(&envelopes), ground.server.at());
        let position = resume::begin(last, slot, SEGMENT_BYTES, "main", &[], false)?;
        if let Some(split) = ground.server.again(position.at, position.previous_record) {
            let writer = ground.writer_to(stores.primary.clone());
            writer.write_stretch(ground.stretch(&split, false)).await?;
        }
        let end = reader.newest_wal(SYSTEM, &history).await?.and_then(|newest| Some(newest.wal.as_ref()?.to));
        assert_eq!(end, Some(ground.server.at()), "nothing may be left out");
        Ok(Answer::from([("ends".into(), format!("{end:?}"))]))
    };
    Ended::of(begun.await, &watch)
}

pub fn is_unproven(verdict: &witness::Verdict) -> bool {
    verdict.freshness == Freshness::Unproven && verdict.said().contains("freshness unproven")
}
