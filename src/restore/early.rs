//! Attachments fetched and checked before anything is started.
//!
//! Which files a restore needs only the recovered rows can say. Nearly all of them lie in the filestore sets that the point names, and
//! in those shipped since: these are brought first, into a private folder beside the sandbox's, so that a damaged pack is found before
//! a server runs and nothing is read twice. What the rows do not want goes again with the folder; what they want besides, [`super::files`]
//! looks for in every set.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tempfile::TempDir;

use super::assemble::{Opened, Read, disk};
use crate::failure::Failure;
use crate::filestore::FileName;
use crate::ids::Scope;
use crate::point::SetRole;
use crate::repo::envelope::Verified;
use crate::repo::extract::Plan;
use crate::repo::reader::{Reader, What};
use crate::watch::Watch;

/// Files by database and name, each right when it was written. The folder goes when this is dropped.
#[derive(Debug)]
pub struct Early {
    folder: TempDir,
    pub read: Read,
}

impl Early {
    /// Fetches into a new folder in `beside`.
    ///
    /// # Errors
    /// `Integrity` naming a damaged object; of the disk.
    pub async fn fetch(reader: &Reader, opened: &Opened, beside: &Path, watch: &dyn Watch) -> Result<Self, Failure> {
        let folder =
            tempfile::Builder::new().prefix("files-").tempdir_in(beside).map_err(|error| disk(beside, &error))?;
        let mut plan = Plan::new(folder.path());
        let mut taken = BTreeSet::new();
        for (database, sets) in sets_of(reader, opened).await? {
            for set in sets {
                plan.add(&reader.body(&set).await?, |entry| {
                    // What was wrong at the source is evidence, and restored by nobody.
                    let name: FileName = entry.path.parse().ok().filter(|_| !entry.tags.contains_key("state"))?;
                    taken.insert((database.clone(), name)).then(|| Path::new(&database).join(&entry.path))
                })?;
            }
        }
        watch.stage("attachments", Some(plan.fetches().1));
        let extracted = reader.carry_out(plan, watch).await?;
        Ok(Self { folder, read: Read { objects: extracted.objects_read, bytes: extracted.bytes_read } })
    }

    fn place(&self, database: &str, name: &FileName) -> PathBuf {
        self.folder.path().join(database).join(name.to_string())
    }

    #[must_use]
    pub fn has(&self, database: &str, name: &FileName) -> bool {
        self.place(database, name).is_file()
    }

    /// Moves a file into the filestore at `target`; gives its size in bytes.
    ///
    /// # Errors
    /// Of the disk.
    pub fn give(&self, database: &str, name: &FileName, target: &Path) -> Result<u64, Failure> {
        let (from, to) = (self.place(database, name), target.join(name.to_string()));
        let moved = || {
            std::fs::create_dir_all(target.join(name.folder()))?;
            match std::fs::rename(&from, &to) {
                Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                    std::fs::copy(&from, &to).map(drop)?;
                }
                moved => moved?,
            }
            Ok(to.metadata()?.len())
        };
        moved().map_err(|error: std::io::Error| disk(&to, &error))
    }
}

/// Per database, the filestore set of the point and those shipped after it.
async fn sets_of(reader: &Reader, opened: &Opened) -> Result<Vec<(String, Vec<Verified>)>, Failure> {
    let mut found = Vec::new();
    for reference in opened.bodies.iter().flat_map(|body| &body.sets) {
        let SetRole::Filestore(database) = &reference.role else { continue };
        // A database of such a name has no folder of files either.
        if database.contains('/') || database.starts_with('.') {
            continue;
        }
        let whole = reader.envelope(&reference.envelope).await?;
        let mut sets = shipped_since(reader, &reference.scope, database, whole.time).await?;
        sets.insert(0, whole);
        found.push((database.clone(), sets));
    }
    Ok(found)
}

async fn shipped_since(
    reader: &Reader,
    scope: &Scope,
    database: &str,
    since: Timestamp,
) -> Result<Vec<Verified>, Failure> {
    let source = crate::stream::files::source(database);
    let listing = reader.envelopes(scope, What::Sets).await?;
    Ok(listing.good.into_iter().filter(|set| set.source == source && set.time >= since).collect())
}
