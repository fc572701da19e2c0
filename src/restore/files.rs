//! The filestore of a restore: the files that the recovered database references, from whatever set has them.
//!
//! The rows are asked of the recovered server, so they are hostile: a name that is not an attachment's is never made into a
//! path. Sets are read from the newest on, whole ones and shipped ones, until every wanted name is found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::assemble::{Read, disk};
use super::early::Early;
use crate::backup::files::{self, FilesTaken};
use crate::failure::Failure;
use crate::filestore::FileName;
use crate::filestore::fetch;
use crate::filestore::reconcile::{Reconciled, reconcile};
use crate::filestore::rows::Referenced;
use crate::filestore::scan::Filestore;
use crate::ids::Scope;
use crate::repo::envelope::Verified;
use crate::repo::extract::Plan;
use crate::repo::reader::{Reader, What};
use crate::repo::set::SetBody;
use crate::watch::{Watch, note, warn};

/// How the files of a restore stand; `restore.json` carries the sum over the databases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FilesRestored {
    /// Distinct names that rows reference.
    pub referenced: u64,
    pub restored: u64,
    /// Referenced, and in no set: lost by the backup.
    pub missing: u64,
    pub mismatched: u64,
    /// Referenced, and missing already when the backup was taken.
    pub missing_at_source: u64,
    pub bytes: u64,
    /// The first names of what is missing or mismatched.
    pub names: Vec<String>,
}

impl FilesRestored {
    pub fn add(&mut self, other: &Self) {
        self.referenced += other.referenced;
        self.restored += other.restored;
        self.missing += other.missing;
        self.mismatched += other.mismatched;
        self.missing_at_source += other.missing_at_source;
        self.bytes += other.bytes;
        self.names.extend(other.names.iter().cloned());
    }

    /// Whether every file is there that the backup could have.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.missing == 0 && self.mismatched == 0
    }
}

/// Where files may come from.
#[derive(Clone, Copy)]
pub struct Have<'a> {
    pub scopes: &'a BTreeSet<Scope>,
    /// What was fetched before the server was started.
    pub early: &'a Early,
}

/// Where a file lies: which body has it.
type Place = usize;

/// Fetches the files of one database into `target` (`.../filestore/<database>`), which must be new.
///
/// # Errors
/// `Integrity` naming a damaged object; `Refused` when the folder is there already.
pub async fn fetch(
    reader: &Reader,
    have: Have<'_>,
    database: &str,
    referenced: &Referenced,
    target: &Path,
    watch: &dyn Watch,
) -> Result<(FilesRestored, Read), Failure> {
    for name in &referenced.strange {
        warn(watch, name, "a row names a file that no attachment can have; it is not fetched", "look at that row");
    }
    let wanted: BTreeSet<FileName> = referenced.rows.iter().map(|row| row.store_fname).collect();
    let early: BTreeSet<FileName> = wanted.iter().filter(|name| have.early.has(database, name)).copied().collect();
    let still: BTreeSet<FileName> = wanted.difference(&early).copied().collect();
    let found = search(reader, have.scopes, database, &still).await?;
    let plan = fetch::plan(still.iter().copied(), &found.places, &found.missing);
    if target.exists() {
        return Err(fetch::FetchError::Exists { path: target.to_owned() }.into());
    }
    std::fs::create_dir_all(target).map_err(|error| disk(target, &error))?;

    let mut carried = Plan::new(target);
    for (index, body) in found.bodies.iter().enumerate() {
        let ours: BTreeSet<String> =
            plan.fetch.iter().filter(|(_, place)| *place == index).map(|(name, _)| name.to_string()).collect();
        let newest_whole = found.whole == Some(index);
        carried.add(body, |entry| {
            let marker = newest_whole && entry.path.starts_with("checklist/");
            (marker || ours.contains(&entry.path)).then(|| entry.path.clone().into())
        })?;
    }
    watch.stage(&format!("filestore of {database}"), Some(carried.fetches().1));
    let extracted = reader.carry_out(carried, watch).await?;
    let mut bytes = extracted.bytes;
    for name in &early {
        bytes += have.early.give(database, name, target)?;
    }

    let store = Filestore::open(target)?;
    let checked = reconcile(&store, &referenced.rows, watch)?;
    let restored = judge(&checked, &plan, bytes);
    if restored.missing_at_source > 0 {
        let what = format!("{} attachment(s) had no file when the backup was taken", restored.missing_at_source);
        note(watch, format!("filestore of {database}"), what);
    }
    Ok((restored, Read { objects: extracted.objects_read, bytes: extracted.bytes_read }))
}

fn judge(checked: &Reconciled, plan: &fetch::Plan<Place>, bytes: u64) -> FilesRestored {
    let at_source = plan.missing_at_source.len() as u64;
    let names = plan.missing_in_backup.iter().chain(&checked.mismatched_names).take(20).map(ToString::to_string);
    FilesRestored {
        referenced: checked.referenced,
        restored: checked.restored,
        missing: checked.missing.saturating_sub(at_source),
        mismatched: checked.mismatched,
        missing_at_source: at_source,
        bytes,
        names: names.collect(),
    }
}

/// The sets that have wanted files.
#[derive(Default)]
struct Found {
    bodies: Vec<SetBody>,
    places: BTreeMap<FileName, Place>,
    missing: BTreeSet<FileName>,
    /// The newest whole set, whose `checklist/` comes along.
    whole: Option<Place>,
}

async fn search(
    reader: &Reader,
    scopes: &BTreeSet<Scope>,
    database: &str,
    wanted: &BTreeSet<FileName>,
) -> Result<Found, Failure> {
    let sources = [files::source(database), crate::stream::files::source(database)];
    let mut sets: Vec<Verified> = Vec::new();
    for scope in scopes.iter().filter(|scope| matches!(scope, Scope::Tenant(_))) {
        let listing = reader.envelopes(scope, What::Sets).await?;
        sets.extend(listing.good.into_iter().filter(|set| sources.contains(&set.source)));
    }
    sets.sort_by_key(|set| std::cmp::Reverse(set.time));
    let mut found = Found::default();
    for set in sets {
        let is_whole = set.source == files::source(database);
        let needed = wanted.iter().any(|name| !found.places.contains_key(name));
        if !needed && (!is_whole || found.whole.is_some()) {
            continue;
        }
        let body = reader.body(&set).await?;
        let place = found.bodies.len();
        for entry in body.entries()? {
            let entry = entry?;
            // A file that was wrong or unreadable at the source is kept as evidence and never restored by its name.
            if entry.tags.contains_key("state") {
                continue;
            }
            if let Ok(name) = entry.path.parse::<FileName>()
                && wanted.contains(&name)
            {
                found.places.entry(name).or_insert(place);
            }
        }
        if is_whole {
            found.whole = found.whole.or(Some(place));
            let taken = body.totals.facts.get("files").cloned().unwrap_or_default();
            let taken: FilesTaken = serde_json::from_value(taken).unwrap_or_default();
            let lost = taken.missing_at_source.iter().chain(&taken.mismatched);
            found.missing.extend(lost.filter_map(|name| name.parse::<FileName>().ok()));
        }
        found.bodies.push(body);
    }
    Ok(found)
}
