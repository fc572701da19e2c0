//! `restore`: one tenant (or a cluster) as it was at a moment, beside what is there now.
//!
//! ```text
//! choose -> open -> early files, assemble -> recover (sandbox) -> files -> tidy -> hand over | load
//! envelopes  keys   objects                  the server runs      filestore  others go   a folder | a running cluster
//! ```
//!
//! Everything is fetched and checked before anything is started; everything is recovered in a sandbox; nothing that exists is
//! overwritten; what was reached is compared with what was asked. A restore that fails leaves nothing behind.

pub mod around;
pub mod assemble;
pub mod choose;
pub mod clean;
pub mod collation;
pub mod deliver;
pub mod door;
pub mod early;
pub mod files;
pub mod load;
pub mod missing;
pub mod outcome;
pub mod plan;
pub mod recover;
mod work;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::clock::Clock;
use crate::config::{Config, When};
use crate::failure::{Failure, Kind};
use crate::filestore::rows;
use crate::ids::DbOid;
use crate::postgres::binaries::Binaries;
use crate::postgres::sql;
use crate::repo::reader::Reader;
use crate::sandbox::Owner;
use crate::watch::Watch;

use assemble::{Opened, Read, disk};
use choose::{Chosen, Subject};
use deliver::Delivered;
use early::Early;
use files::FilesRestored;
use recover::Recovered;
use work::Work;

pub use outcome::{Reached, Restored};

/// What every restore works with.
pub struct Restore<'a> {
    pub config: &'a Config,
    pub reader: Reader,
    pub clock: Clock,
    pub watch: Arc<dyn Watch>,
}

/// A recovered cluster, its server running in the sandbox, nothing handed over yet.
pub struct Brought {
    pub recovered: Recovered,
    pub chosen: Chosen,
    pub opened: Opened,
    pub read: Read,
    pub databases: Vec<RecoveredDatabase>,
    early: Early,
    began: Instant,
}

/// A database of the tenant in the recovered cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredDatabase {
    pub oid: DbOid,
    pub name: String,
}

impl Restore<'_> {
    /// Brings `subject` up in a sandbox around `dir`, which must be new and private.
    ///
    /// # Errors
    /// Of choosing, of a damaged object (before anything is started), of recovery.
    pub async fn bring(
        &self,
        subject: Subject,
        asked: When,
        dir: &Path,
        read_only: Vec<PathBuf>,
    ) -> Result<Brought, Failure> {
        let began = Instant::now();
        self.watch.stage("reading what there is", None);
        let chosen = choose::choose(self.config, &self.reader, subject, asked).await?;
        chosen.findings.iter().for_each(|finding| self.watch.finding(finding.clone()));
        let opened = assemble::open(&self.reader, &chosen).await?;
        let binaries = self.binaries(&chosen.facts.cluster, opened.facts.server_version / 10_000)?;
        plan::refuse_without_room(&chosen, &opened, dir)?;
        let early = Early::fetch(&self.reader, &opened, dir.parent().unwrap_or(dir), &*self.watch).await?;
        let (assembled, mut read) = assemble::assemble(&self.reader, &chosen, &opened, dir, &*self.watch).await?;
        read.objects += early.read.objects;
        read.bytes += early.read.bytes;
        let recovered = recover::recover(assembled, &self.config.sandbox, binaries, read_only, &*self.watch).await?;
        let databases = find_databases(&recovered, &chosen).await?;
        Ok(Brought { recovered, chosen, opened, read, databases, early, began })
    }

    /// The server's programs for `major`.
    ///
    /// # Errors
    /// When they are not installed: with the package's name.
    pub fn binaries(&self, cluster: &str, major: u32) -> Result<Binaries, Failure> {
        let configured: Vec<PathBuf> =
            self.config.clusters.get(cluster).and_then(|c| c.bin.clone()).into_iter().collect();
        let path = std::env::var("PATH").unwrap_or_default();
        Ok(Binaries::find(major, &configured, &path)?)
    }

    /// Restores into `to`: `pgdata/`, `filestore/<database>/`, `captured/`, `restore.json`.
    ///
    /// Guarantees: on an error `to` is as it was.
    /// Errors: `Refused` when `to` is not empty; else as [`Restore::bring`].
    pub async fn to_folder(&self, subject: Subject, asked: When, to: &Path) -> Result<Restored, Failure> {
        let work = Work::begin(to)?;
        let brought = self.bring(subject, asked, &work.dir, Vec::new()).await?;
        let restored = self.finish_folder(brought, &work).await?;
        work.done()?;
        Ok(restored)
    }

    async fn finish_folder(&self, brought: Brought, work: &Work) -> Result<Restored, Failure> {
        let mut restored = brought.outcome(self);
        for database in &brought.databases {
            let target = work.to.join("filestore").join(&database.name);
            let (files, read) = self.fetch_files(&brought, database, &target).await?;
            restored.count(&files, read);
        }
        let wanted = brought.wanted();
        restored.delivered = deliver::tidy(&brought.recovered, wanted.as_ref(), &*self.watch).await?;
        let owner = final_owner()?;
        deliver::hand_over(brought.recovered, &work.to.join("pgdata"), owner).await?;
        let captured = work.dir.join("captured");
        if captured.exists() {
            std::fs::rename(&captured, work.to.join("captured")).map_err(|error| disk(&captured, &error))?;
        }
        restored.scopes_opened = self.reader.identities.opened();
        restored.seconds = brought.began.elapsed().as_secs_f64();
        let report = work.to.join("restore.json");
        let text = serde_json::to_vec_pretty(&crate::backup::to_value(&restored)?).unwrap_or_default();
        std::fs::write(&report, text).map_err(|error| disk(&report, &error))?;
        Ok(restored)
    }

    /// Fetches the filestore of one recovered database into `target`, by its own rows.
    ///
    /// # Errors
    /// As [`files::fetch`]. A database that is not Odoo's has no files, which is no error.
    pub async fn fetch_files(
        &self,
        brought: &Brought,
        database: &RecoveredDatabase,
        target: &Path,
    ) -> Result<(FilesRestored, Read), Failure> {
        if database.name.contains('/') || database.name.starts_with('.') {
            let next = "rename the database at the source; restore its files by hand";
            return Err(Failure::new(Kind::Refused, &*database.name, "is no name for a folder", next));
        }
        let mut connection = brought.recovered.connect(&database.name).await?;
        let found =
            sql::text_rows(&mut connection, "attachments", "SELECT to_regclass('public.ir_attachment')::text").await?;
        if found.into_iter().flatten().flatten().next().is_none() {
            return Ok((FilesRestored::default(), Read::default()));
        }
        let referenced = rows::referenced(&mut connection).await?;
        let have = files::Have { scopes: &brought.chosen.scopes, early: &brought.early };
        files::fetch(&self.reader, have, &database.name, &referenced, target, &*self.watch).await
    }
}

impl Brought {
    /// The databases that stay; `None` when all do.
    #[must_use]
    pub fn wanted(&self) -> Option<BTreeSet<DbOid>> {
        matches!(self.chosen.subject, Subject::Tenant(_)).then(|| self.chosen.databases.clone())
    }

    /// What this restore is so far: what was asked, and what recovery reached.
    #[must_use]
    pub fn outcome(&self, restore: &Restore<'_>) -> Restored {
        let assembled = &self.recovered.assembled;
        let tenant = match &self.chosen.subject {
            Subject::Tenant(id) => id.clone(),
            Subject::Cluster(name) => format!("cluster {name}"),
        };
        Restored {
            tenant,
            asked: self.chosen.asked.understood(&restore.config.estate.timezone),
            target: self.chosen.lsn,
            reached: Reached {
                lsn: assembled.end,
                last_commit_time: assembled.last_commit,
                timeline: assembled.timeline,
            },
            // `Recovered::judge` has compared the server's word with our reading of the WAL, and refused anything else.
            met: true,
            scopes_opened: restore.reader.identities.opened(),
            objects_read: self.read.objects,
            bytes_read: self.read.bytes,
            databases: self.databases.iter().map(|database| database.name.clone()).collect(),
            filestore: FilesRestored::default(),
            delivered: Delivered::default(),
            loaded: None,
            server_version: self.opened.facts.server_version,
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }
}

/// The wanted databases as the recovered cluster names them.
async fn find_databases(recovered: &Recovered, chosen: &Chosen) -> Result<Vec<RecoveredDatabase>, Failure> {
    let mut connection = recovered.connect("postgres").await?;
    let listed = crate::stream::receive::list_databases(&mut connection).await?;
    let ours = listed.into_iter().filter(|database| chosen.databases.contains(&database.oid));
    let databases: Vec<RecoveredDatabase> =
        ours.map(|database| RecoveredDatabase { oid: database.oid, name: database.name }).collect();
    if databases.is_empty() {
        let object = match &chosen.subject {
            Subject::Tenant(id) => format!("tenant {id}"),
            Subject::Cluster(name) => format!("cluster {name}"),
        };
        let cause = format!("had no database at {}", chosen.lsn);
        return Err(Failure::new(
            Kind::Usage,
            object,
            cause,
            "choose a moment at which it had one (`lifeboat points`)",
        ));
    }
    Ok(databases)
}

/// Who gets a restored data directory when root restores: the server's own user, where there is one.
fn final_owner() -> Result<Option<Owner>, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    Ok(Owner::of("postgres").or_else(|_| Owner::of("nobody")).map(Some)?)
}
