//! Sorts a base backup's members into the scopes' sets, on a thread of its own, checking pages on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::super::{Backup, wait};
use crate::config::Cluster;
use crate::failure::{Failure, Kind};
use crate::ids::{DbOid, Lsn, Scope, SystemId};
use crate::postgres::base_backup::{ArchiveReader, Member, MemberKind, walk};
use crate::postgres::owner::FileOwner;
use crate::postgres::relation::{PageCheck, RelationFile};
use crate::repo::envelope::Binding;
use crate::repo::reader::Reader;
use crate::repo::set::SetKind;
use crate::repo::set_writer::{FileMeta, Other, SetWriter};
use crate::repo::writer::{NewSet, Writer};
use crate::stream::bindings::Database;
use crate::watch::{Watch, warn};

/// Relation files are cut into pieces of this size: a multiple of the page, so that a changed page changes one piece.
/// 128 KiB is the middle of the 64 to 256 that the format allows: a smaller piece stores less anew for a changed page and costs
/// more ids. Chosen, not measured.
pub const PIECE_BYTES: usize = 128 << 10;
/// A directory of a database that neither the server's listing nor the WAL has named after so long belongs to no database.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(10);
/// A database that the server lists is somebody's: how long the stream may take to say whose, however loaded the machine is.
const LISTED_PATIENCE: Duration = Duration::from_secs(600);
/// More bad pages of one file than this are counted, not listed.
const LISTED_PER_FILE: usize = 20;

/// A page whose checksum was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadBlock {
    pub file: String,
    pub block: u32,
}

/// Knows each database's scope at the start of the backup.
#[derive(Debug, Clone)]
pub struct Router {
    cluster: Scope,
    residue: Scope,
    shared: BTreeSet<DbOid>,
    bound: BTreeMap<DbOid, Scope>,
    /// What the server listed when the backup began.
    listed: BTreeSet<DbOid>,
    /// The tenants wanted; `None` when all are.
    pub only: Option<Vec<Scope>>,
}

impl Router {
    pub fn new(cluster: &str, databases: &[Database], bindings: &[Binding], only: Option<Vec<Scope>>) -> Self {
        let system = databases.iter().filter(|database| database.name == "postgres").map(|database| database.oid);
        Self {
            cluster: Scope::Cluster(cluster.to_owned()),
            residue: Scope::Residue(cluster.to_owned()),
            // template1, template0 and, since 15, postgres have fixed OIDs (pg_database.dat).
            shared: [1, 4, 5].into_iter().map(DbOid).chain(system).collect(),
            bound: bindings.iter().map(|binding| (binding.oid, binding.scope.clone())).collect(),
            listed: databases.iter().map(|database| database.oid).collect(),
            only,
        }
    }

    /// The scope of a database's files; `None` when nobody has named it yet.
    #[must_use]
    pub fn scope_of(&self, oid: DbOid) -> Option<Scope> {
        if self.shared.contains(&oid) { Some(self.cluster.clone()) } else { self.bound.get(&oid).cloned() }
    }

    fn wanted(&self, scope: &Scope) -> bool {
        let all = |only: &Vec<Scope>| !matches!(scope, Scope::Tenant(_)) || only.contains(scope);
        self.only.as_ref().is_none_or(all)
    }
}

/// What sorting left: a writer per scope, not finished yet.
pub struct Sorted {
    pub sets: BTreeMap<Scope, SetWriter>,
    pub bad_pages: BTreeMap<Scope, Vec<BadBlock>>,
    pub router: Router,
}

/// See the module's page.
pub struct Sorter {
    runtime: Handle,
    writer: Arc<Writer>,
    reader: Arc<Reader>,
    watch: Arc<dyn Watch>,
    router: Router,
    source: String,
    start_lsn: Lsn,
    locked_until: Timestamp,
    wal: (SystemId, String),
    sets: BTreeMap<Scope, SetWriter>,
    bad_pages: BTreeMap<Scope, Vec<BadBlock>>,
    current: Option<Scope>,
}

impl Sorter {
    pub fn new(
        backup: &Backup<'_>,
        cluster: &Cluster,
        router: Router,
        start_lsn: Lsn,
        locked_until: Timestamp,
        system_id: SystemId,
        history: &str,
    ) -> Self {
        Self {
            runtime: Handle::current(),
            writer: Arc::clone(&backup.writer),
            reader: Arc::clone(&backup.reader),
            watch: Arc::clone(&backup.watch),
            router,
            source: super::source(&cluster.name),
            start_lsn,
            locked_until,
            wal: (system_id, history.to_owned()),
            sets: BTreeMap::new(),
            bad_pages: BTreeMap::new(),
            current: None,
        }
    }

    /// Sorts archives until the sender is gone.
    pub fn run(mut self, archives: &mpsc::Receiver<(Option<u32>, ArchiveReader)>) -> Result<Sorted, Failure> {
        while let Ok((tablespace, archive)) = archives.recv() {
            walk(archive, tablespace, |member, body| self.sort(member, body)).map_err(Failure::from)?;
        }
        Ok(Sorted { sets: self.sets, bad_pages: self.bad_pages, router: self.router })
    }

    fn sort(&mut self, member: &Member, body: &mut dyn Read) -> Result<(), Failure> {
        let Some(scope) = self.scope_for(member)? else { return Ok(()) };
        if !self.router.wanted(&scope) || self.writer.erased(&scope) {
            return Ok(());
        }
        self.enter(&scope)?;
        let meta = FileMeta {
            path: stored_path(member),
            mode: member.mode,
            bytes: Some(member.bytes),
            mtime: i64::try_from(member.modified).ok().and_then(|second| Timestamp::from_second(second).ok()),
            tags: BTreeMap::new(),
        };
        let Some(set) = self.sets.get_mut(&scope) else { return Ok(()) };
        match &member.kind {
            MemberKind::Folder => return Ok(set.other(meta, Other::Dir)?),
            MemberKind::Link { target } => return Ok(set.other(meta, Other::Link { target: target.clone() })?),
            MemberKind::File => set.start_file(meta)?,
        }
        let mut check = relation_of(member).map(|relation| PageCheck::new(relation, self.start_lsn));
        let mut left = member.bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let mut piece = set.buffer(length);
            body.read_exact(&mut piece).map_err(|error| archive_broke(&error))?;
            if let Some(check) = &mut check {
                check.update(&piece);
            }
            set.piece(piece.freeze())?;
            self.watch.advance(length as u64);
            left -= length as u64;
        }
        set.end_file(BTreeMap::new())?;
        if let Some(check) = check {
            self.judge(member, &scope, check);
        }
        Ok(())
    }

    /// Whose set a member goes to; `None` for what is left out.
    fn scope_for(&mut self, member: &Member) -> Result<Option<Scope>, Failure> {
        match member.owner {
            FileOwner::Cluster => Ok(Some(self.router.cluster.clone())),
            FileOwner::Database(oid) => self.scope_of_database(oid).map(Some),
            FileOwner::Residue(reason) => {
                if reason.is_alarming() {
                    let what = format!("{reason}: it is kept sealed, and no restore brings it back");
                    warn(&*self.watch, &member.path, what, "move it out of the data directory");
                }
                Ok(Some(self.router.residue.clone()))
            }
            FileOwner::Skip(reason) => {
                if reason.is_alarming() {
                    warn(&*self.watch, &member.path, format!("left out: {reason}"), "look at it on the server");
                }
                Ok(None)
            }
        }
    }

    /// A database that was made while the backup ran is named by the WAL within moments; a folder that nothing ever names
    /// is what a crashed `CREATE DATABASE` left.
    fn scope_of_database(&mut self, oid: DbOid) -> Result<Scope, Failure> {
        let began = Instant::now();
        loop {
            if let Some(scope) = self.router.scope_of(oid) {
                return Ok(scope);
            }
            let listed = self.router.listed.contains(&oid);
            if listed && began.elapsed() > LISTED_PATIENCE {
                let next = "look at what `lifeboat stream` says, then run the backup again";
                let cause = "the server has this database, and the stored WAL does not say whose it is";
                return Err(Failure::new(Kind::Unreachable, format!("database {oid}"), cause, next));
            }
            if !listed && began.elapsed() > UNKNOWN_PATIENCE {
                let what = "belongs to no database that the server or its WAL knows; it is sealed apart as residue";
                warn(&*self.watch, format!("base/{oid}"), what, "look at the folder on the server");
                self.router.bound.insert(oid, self.router.residue.clone());
                continue;
            }
            let newest = self.runtime.block_on(wait::newest_bindings(&self.reader, self.wal.0, &self.wal.1))?;
            // One that was made and dropped meanwhile has an end; what is in force comes first.
            let (ended, in_force): (Vec<_>, Vec<_>) = newest.into_iter().partition(|binding| binding.to_lsn.is_some());
            for binding in in_force.into_iter().chain(ended) {
                self.router.bound.entry(binding.oid).or_insert(binding.scope);
            }
            if self.router.scope_of(oid).is_none() {
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }

    /// Opens the scope's set where it is new; closes the pack of the one just left, so that few are open at a time.
    fn enter(&mut self, scope: &Scope) -> Result<(), Failure> {
        if self.current.as_ref() != Some(scope) {
            if let Some(left) = self.current.take().and_then(|left| self.sets.get_mut(&left)) {
                left.flush()?;
            }
            self.current = Some(scope.clone());
        }
        if !self.sets.contains_key(scope) {
            let new = NewSet {
                scope: scope.clone(),
                source: self.source.clone(),
                kind: SetKind::BaseBackup,
                locked_until: self.locked_until,
            };
            let set = self.runtime.block_on(self.writer.begin_set(new, &*self.watch))?;
            self.sets.insert(scope.clone(), set);
        }
        Ok(())
    }

    fn judge(&mut self, member: &Member, scope: &Scope, check: PageCheck) {
        let report = check.finish();
        if report.bad_pages == 0 {
            return;
        }
        let path = stored_path(member);
        let blocks: Vec<u32> = report.bad.iter().take(LISTED_PER_FILE).map(|bad| bad.block).collect();
        let what = format!("{} damaged page(s): block {blocks:?}", report.bad_pages);
        warn(&*self.watch, &path, what, "the backup is kept and marked; restore that relation from an earlier point");
        let list = self.bad_pages.entry(scope.clone()).or_default();
        list.extend(blocks.into_iter().map(|block| BadBlock { file: path.clone(), block }));
    }
}

/// The path in the set: the one in the data directory, a tablespace's files below its link.
fn stored_path(member: &Member) -> String {
    match member.tablespace {
        Some(oid) => format!("pg_tblspc/{oid}/{}", member.path),
        None => member.path.clone(),
    }
}

/// The relation that a member is a file of, by its name and place.
fn relation_of(member: &Member) -> Option<RelationFile> {
    let (folder, name) = member.path.rsplit_once('/')?;
    let holds_relations = folder == "global" || folder.starts_with("base/") || member.tablespace.is_some();
    if holds_relations { RelationFile::parse(name) } else { None }
}

fn archive_broke(error: &std::io::Error) -> Failure {
    Failure::new(
        crate::failure::Kind::Unreachable,
        "base backup",
        format!("the stream broke off: {error}"),
        "run the backup again",
    )
}
