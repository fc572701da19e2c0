//! New filestore files, shipped along with the WAL, so that `latest` means both.
//!
//! A poll looks at 256 folder times per database; what is new goes into a small set of its own (`files-<database>`), beside
//! the whole ones that backups make. A file that is not whole yet is taken at the next poll. This lowers the loss of files to
//! seconds; that none was missed, the next backup proves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::backup::files::{self, FilesTaken, Outcome};
use crate::clock::Clock;
use crate::failure::Failure;
use crate::filestore::FileName;
use crate::filestore::scan::{Filestore, Kind, ScanError};
use crate::filestore::watch::Changes;
use crate::ids::Scope;
use crate::repo::reader::{Reader, What};
use crate::repo::set::SetKind;
use crate::repo::writer::{NewSet, Writer};
use crate::watch::{Watch, warn};

/// How often the folders are looked at.
pub const POLL_EVERY: Duration = Duration::from_secs(5);
/// A file may carry a time from before it arrived (copied in, a clock that was set): files this much older than the last
/// whole set are taken to be in it.
const MARGIN: SignedDuration = SignedDuration::from_mins(60);
/// No more than this many files go into one set.
const AT_ONCE: usize = 10_000;

/// One database's filestore to follow.
#[derive(Debug, Clone)]
pub struct Followed {
    pub scope: Scope,
    pub database: String,
    pub folder: PathBuf,
}

/// The source's name of a database's shipped files.
#[must_use]
pub fn source(database: &str) -> String {
    format!("files-{database}")
}

/// What following needs.
pub struct Shipping {
    pub writer: Arc<Writer>,
    pub reader: Arc<Reader>,
    pub clock: Clock,
    /// How long what is shipped stays locked.
    pub lock: SignedDuration,
    pub watch: Arc<dyn Watch>,
}

/// Ships new files of `followed` until told to stop; once more at the end.
///
/// # Errors
/// Of the store. A folder that cannot be read is a warning, said once.
pub async fn run(shipping: Arc<Shipping>, followed: Vec<Followed>, stop: CancellationToken) -> Result<(), Failure> {
    let mut following = Vec::new();
    for one in followed {
        let changes = begin(&shipping, &one).await?;
        following.push((one, changes, false));
    }
    loop {
        let last = stop.is_cancelled();
        for (one, changes, complained) in &mut following {
            match look(one, changes).await? {
                Ok(new) => {
                    *complained = false;
                    ship(&shipping, one, changes, new).await?;
                }
                Err(_) if *complained => {}
                Err(cause) => {
                    *complained = true;
                    warn(
                        &*shipping.watch,
                        format!("filestore {}", one.folder.display()),
                        cause,
                        "give lifeboat's user access",
                    );
                }
            }
        }
        if last {
            return Ok(());
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
    }
}

/// What counts as known: what the last whole set must have. Before the first one: everything there is now, because that
/// backup will take it.
async fn begin(shipping: &Shipping, one: &Followed) -> Result<Changes, Failure> {
    let sets = shipping.reader.envelopes(&one.scope, What::Sets).await?;
    let whole = files::source(&one.database);
    let newest = sets.good.iter().filter(|set| set.source == whole).map(|set| set.time).max();
    let before = newest.map_or(Timestamp::MAX, |time| time.checked_sub(MARGIN).unwrap_or(time));
    let (folder, clock) = (one.folder.clone(), shipping.clock.clone());
    let known = tokio::task::spawn_blocking(move || -> Vec<FileName> {
        let Ok(store) = Filestore::open(&folder) else { return Vec::new() };
        let Ok(entries) = store.scan() else { return Vec::new() };
        let old = |modified: Option<Timestamp>| modified.is_none_or(|time| time <= before);
        entries
            .filter_map(|entry| match entry.kind {
                Kind::File(name) if old(entry.modified) => Some(name),
                _ => None,
            })
            .collect()
    })
    .await
    .map_err(crate::failure::panicked)?;
    Ok(Changes::since(known, clock))
}

/// The outer error is a defect; the inner one is the folder's.
async fn look(one: &Followed, changes: &mut Changes) -> Result<Result<Vec<FileName>, String>, Failure> {
    let folder = one.folder.clone();
    let mut taken = std::mem::replace(changes, Changes::since([], Clock::system()));
    let (back, found) = tokio::task::spawn_blocking(move || {
        let found = match Filestore::open(&folder) {
            Ok(store) => taken.poll(&store).map_err(|error| error.to_string()),
            // Not there yet: Odoo makes it with the first attachment.
            Err(ScanError::NoFolder { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        };
        (taken, found)
    })
    .await
    .map_err(crate::failure::panicked)?;
    *changes = back;
    Ok(found)
}

async fn ship(shipping: &Shipping, one: &Followed, changes: &mut Changes, new: Vec<FileName>) -> Result<(), Failure> {
    let (whole, unfinished) = whole_ones(one, new).await?;
    for name in unfinished {
        changes.again(name);
    }
    for names in whole.chunks(AT_ONCE) {
        let until = shipping.clock.now().checked_add(shipping.lock).unwrap_or(Timestamp::MAX);
        let asked = NewSet {
            scope: one.scope.clone(),
            source: source(&one.database),
            kind: SetKind::Filestore,
            locked_until: until,
        };
        let mut set = shipping.writer.begin_set(asked, &*shipping.watch).await?;
        let (folder, names, watch) = (one.folder.clone(), names.to_vec(), Arc::clone(&shipping.watch));
        let (set, again, taken) = tokio::task::spawn_blocking(move || -> Result<_, Failure> {
            let store = Filestore::open(&folder)?;
            let (mut taken, mut again) = (FilesTaken::default(), Vec::new());
            let quiet = crate::watch::Quiet::default();
            for name in names {
                match files::take_file(&mut set, &store, &name, &mut taken, &quiet)? {
                    Outcome::Stored | Outcome::Gone => {}
                    Outcome::Unreadable => again.push(name),
                }
            }
            watch.advance(taken.bytes);
            Ok((set, again, taken))
        })
        .await
        .map_err(crate::failure::panicked)??;
        let facts = serde_json::json!({ "database": one.database, "complete": false, "files": crate::backup::to_value(&taken)? });
        set.finish(facts).await?;
        for name in again {
            changes.again(name);
        }
    }
    Ok(())
}

/// Parts those that have the content their name says from those that do not, or not yet: Odoo writes under the final name. A file
/// that stays wrong must not make a set at every poll, so all are read before a set is begun; the next backup says what is wrong.
async fn whole_ones(one: &Followed, new: Vec<FileName>) -> Result<(Vec<FileName>, Vec<FileName>), Failure> {
    let folder = one.folder.clone();
    let read = move || {
        let (mut whole, mut unfinished) = (Vec::new(), Vec::new());
        let Ok(store) = Filestore::open(&folder) else { return (whole, new) };
        for name in new {
            let read = store.read(&name).map(|mut reading| {
                std::io::copy(&mut reading, &mut std::io::sink()).is_ok() && reading.finish().sha1 == name.0
            });
            match read {
                Ok(true) => whole.push(name),
                Err(ScanError::Missing { .. }) => {} // collected again already
                Ok(false) | Err(_) => unfinished.push(name),
            }
        }
        (whole, unfinished)
    };
    tokio::task::spawn_blocking(read).await.map_err(crate::failure::panicked)
}
