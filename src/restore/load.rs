//! Loading a recovered database into a running cluster, beside the live one.
//!
//! The dump is made inside the sandbox, in custom format, and is hostile. What it may bring is decided first ([`inspect`]);
//! it is loaded in one transaction by a role of this restore alone, a member of the tenant's own and no superuser
//! ([`target`]); then both sides are counted and compared ([`compare`]). Until all of that is done nobody can connect to
//! the new database; on any error it is dropped again.

mod compare;
mod entries;
mod inspect;
mod target;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::choose::Subject;
use super::work::Work;
use super::{Brought, RecoveredDatabase, Restore, Restored};
use crate::config::{Cluster, Tenant, When};
use crate::failure::{Failure, Kind};
use crate::postgres::connect::Server;
use crate::postgres::server::dump_arguments;
use crate::watch::warn;

/// Where a restored database goes.
#[derive(Debug, Clone)]
pub struct Into<'a> {
    pub cluster: &'a Cluster,
    /// The administrator's way in.
    pub server: Server,
    pub database: String,
    /// Who will own it; the owner it had when not given.
    pub owner: Option<String>,
    /// The folder that gets `<database>/` with the files.
    pub filestore: Option<PathBuf>,
    /// Room for the work: the sandbox and the dump.
    pub scratch: PathBuf,
}

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loaded {
    pub cluster: String,
    pub database: String,
    pub owner: String,
    pub tables: u64,
    pub rows: u64,
    pub sequences: u64,
    pub indexes: u64,
    pub constraints: u64,
    pub extensions: Vec<String>,
    /// What the source had and the new database has not, each with its reason.
    pub left_out: Vec<String>,
    pub filestore: Option<PathBuf>,
}

impl Restore<'_> {
    /// Restores one database of `tenant` into a running cluster.
    ///
    /// Guarantees: on an error the target cluster and filestore are as they were.
    /// Errors: `Refused` when the new name is taken or the database holds what is not allowed; else as [`Restore::bring`].
    pub async fn into_cluster(&self, tenant: &Tenant, asked: When, into: Into<'_>) -> Result<Restored, Failure> {
        let mut admin = target::Target::begin(&into).await?;
        let work = Work::begin(&into.scratch)?;
        let subject = Subject::Tenant(tenant.id.clone());
        let brought = self.bring(subject, asked, &work.dir, Vec::new()).await?;
        let loaded = self.load(tenant, &brought, &into, &mut admin, &work).await;
        let mut restored = match loaded {
            Ok(restored) => restored,
            Err(failure) => {
                admin.undo(&*self.watch).await;
                return Err(failure);
            }
        };
        brought.recovered.end().await?;
        restored.scopes_opened = self.reader.identities.opened();
        restored.seconds = brought.began.elapsed().as_secs_f64();
        Ok(restored)
    }

    async fn load(
        &self,
        tenant: &Tenant,
        brought: &Brought,
        into: &Into<'_>,
        admin: &mut target::Target,
        work: &Work,
    ) -> Result<Restored, Failure> {
        let database = only_database(tenant, brought)?;
        let mut restored = brought.outcome(self);
        // Indexes built under another collation would be dumped as definitions only, but constraints are checked by them.
        let mut superuser = brought.recovered.connect("postgres").await?;
        restored.delivered.refreshed =
            super::collation::refresh(&brought.recovered, &mut superuser, brought.wanted().as_ref(), &*self.watch)
                .await?;
        let mut source = brought.recovered.connect(&database.name).await?;
        let contents = inspect::read(&mut source).await?;
        let verdict = inspect::judge(&contents, &tenant.allow_extensions, &tenant.allow)?;
        for left in &verdict.left_out {
            warn(&*self.watch, format!("database {}", into.database), format!("comes without {left}"), "");
        }

        self.watch.stage("dumping", None);
        let dump = work.dir.join("dump");
        let argv = dump_arguments(&brought.recovered.binaries, &brought.recovered.inside(), &database.name, &dump)?;
        brought.recovered.run(argv, "dump.log").await?;
        let dump = copy_out(brought, &dump, &work.to.join("dump"))?;

        self.watch.stage("loading", None);
        let owner = into.owner.clone().unwrap_or_else(|| contents.owner.clone());
        admin.create(&owner, &contents, &verdict).await?;
        let binaries = self.binaries(&into.cluster.name, admin.major)?;
        admin.load(&binaries, &dump, &verdict).await?;
        let mut target = admin.connect_new().await?;
        let counted = compare::equal(&mut source, &mut target, &into.database).await?;

        let filestore = into.filestore.as_ref().map(|parent| parent.join(&into.database));
        if let Some(folder) = &filestore {
            admin.will_make(folder)?;
            let (files, read) = self.fetch_files(brought, &database, folder).await?;
            restored.count(&files, read);
        }
        admin.open(&owner).await?;
        restored.databases = vec![into.database.clone()];
        restored.loaded = Some(Loaded {
            cluster: into.cluster.name.clone(),
            database: into.database.clone(),
            owner,
            tables: counted.tables,
            rows: counted.rows,
            sequences: counted.sequences,
            indexes: counted.indexes,
            constraints: counted.constraints,
            extensions: verdict.extensions.iter().map(|extension| extension.name.clone()).collect(),
            left_out: verdict.left_out.clone(),
            filestore: filestore.filter(|folder| folder.exists()),
        });
        Ok(restored)
    }
}

/// A tenant with several databases cannot become one.
fn only_database(tenant: &Tenant, brought: &Brought) -> Result<RecoveredDatabase, Failure> {
    match brought.databases.as_slice() {
        [one] => Ok(one.clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|database| database.name.as_str()).collect();
            Err(Failure::new(
                Kind::Usage,
                format!("tenant {}", tenant.id),
                format!("has {} databases ({}); --as names one", several.len(), names.join(", ")),
                "restore into a folder (`--to DIR`), and load from there",
            ))
        }
    }
}

/// Takes the dump out of the sandbox's reach, so that it cannot change while it is read.
fn copy_out(brought: &Brought, inside: &Path, outside: &Path) -> Result<PathBuf, Failure> {
    let mut from = brought.recovered.sandbox.open(inside)?;
    let copied = std::fs::File::create_new(outside).and_then(|mut to| std::io::copy(&mut from, &mut to));
    copied.map_err(|error| super::assemble::disk(outside, &error))?;
    Ok(outside.to_owned())
}
