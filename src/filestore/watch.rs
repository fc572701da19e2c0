//! New files in a filestore, noticed cheaply: for shipping attachments between two backups.
//!
//! Odoo only ever adds names to 256 folders, and a folder's modification time moves when a name comes or goes. A poll
//! therefore looks at 256 times, and lists only the folders whose time moved. Two names can come within one tick of a
//! coarse file system's clock (2 s at worst), and the second of them moves nothing: so a folder is listed once more
//! when 2 s have passed **on our own clock** since that time was first seen; the two clocks are never compared.
//!
//! Odoo writes straight to the final name, so a new file may be half there: a caller who reads something else than the
//! name says gives it back with [`Changes::again`]. What is kept is 20 bytes per file. This is an aid to speed:
//! the scan of the next backup is what proves that nothing was missed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::FileName;
use super::scan::{Filestore, ScanError};
use crate::clock::Clock;

/// The coarsest tick of a file system's times (FAT: 2 s; ext3, NFSv2: 1 s).
const TICK: SignedDuration = SignedDuration::from_secs(2);

/// What was seen up to now.
#[derive(Debug)]
pub struct Changes {
    clock: Clock,
    folders: BTreeMap<u8, Seen>,
    again: BTreeSet<FileName>,
    /// How many folders' times the last poll looked at, and how many it listed.
    pub last: Effort,
}

/// The work of one poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effort {
    pub looked: usize,
    pub listed: usize,
}

#[derive(Debug)]
struct Seen {
    /// The folder's modification time when it was last listed: seconds, nanoseconds.
    modified: (i64, i64),
    /// When that time was first seen, while the folder must be listed once more; by our clock.
    unsettled_since: Option<Timestamp>,
    /// Sorted.
    names: Vec<FileName>,
}

impl Changes {
    /// Begins with the files that are `known` already (those of the last backup); everything else will be new.
    pub fn since(known: impl IntoIterator<Item = FileName>, clock: Clock) -> Self {
        let mut folders: BTreeMap<u8, Seen> = BTreeMap::new();
        for name in known {
            let [first, ..] = name.0;
            let fresh = || Seen { modified: (i64::MIN, 0), unsettled_since: None, names: Vec::new() };
            folders.entry(first).or_insert_with(fresh).names.push(name);
        }
        for seen in folders.values_mut() {
            seen.names.sort_unstable();
        }
        Self { clock, folders, again: BTreeSet::new(), last: Effort::default() }
    }

    /// The files that came since the last poll, in name order, and those given back.
    ///
    /// # Errors
    /// When a folder cannot be looked at or listed. Nothing is lost: the next poll looks again.
    pub fn poll(&mut self, store: &Filestore) -> Result<Vec<FileName>, ScanError> {
        self.last = Effort::default();
        let mut new = Vec::new();
        for digits in 0..=u8::MAX {
            if let Err(error) = self.poll_folder(store, digits, &mut new) {
                self.again.extend(new);
                return Err(error);
            }
        }
        new.extend(std::mem::take(&mut self.again));
        new.sort_unstable();
        new.dedup();
        Ok(new)
    }

    /// Gives a name back: it was not whole, or could not be stored; the next poll yields it again.
    pub fn again(&mut self, name: FileName) {
        self.again.insert(name);
    }

    fn poll_folder(&mut self, store: &Filestore, digits: u8, new: &mut Vec<FileName>) -> Result<(), ScanError> {
        self.last.looked += 1;
        // The time is taken before the listing: what comes between the two moves the time once more.
        let Some(modified) = store.folder_modified(digits)? else {
            self.folders.remove(&digits);
            return Ok(());
        };
        let now = self.clock.now();
        let before = self.folders.get(&digits);
        let moved = before.is_none_or(|seen| seen.modified != modified);
        let settles = before.and_then(|seen| seen.unsettled_since).is_some_and(|t| now.duration_since(t) > TICK);
        if !moved && !settles {
            return Ok(());
        }
        self.last.listed += 1;
        let names = store.folder_names(digits)?;
        let known = before.map(|seen| seen.names.as_slice()).unwrap_or_default();
        new.extend(names.iter().filter(|name| known.binary_search(name).is_err()));
        let unsettled_since = moved.then_some(now);
        self.folders.insert(digits, Seen { modified, unsettled_since, names });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn name(n: u32) -> FileName {
        let mut sha1 = [0; 20];
        sha1[0] = u8::try_from(n % 256).unwrap();
        sha1[16..].copy_from_slice(&n.to_be_bytes());
        FileName(sha1)
    }

    fn put(root: &std::path::Path, name: FileName) {
        fs::create_dir_all(root.join(name.folder())).unwrap();
        fs::write(root.join(name.to_string()), b"x").unwrap();
    }

    fn clock() -> Clock {
        Clock::set_to(Timestamp::from_second(1_800_000_000).unwrap())
    }

    #[test]
    fn an_unchanged_folder_of_20_000_files_costs_256_looks_and_no_listing() {
        let root = tempfile::tempdir().unwrap();
        for n in 0..20_000 {
            put(root.path(), name(n));
        }
        let (store, clock) = (Filestore::open(root.path()).unwrap(), clock());
        let mut changes = Changes::since([], clock.clone());
        assert_eq!(changes.poll(&store).unwrap().len(), 20_000);
        assert_eq!(changes.poll(&store).unwrap(), []);
        clock.advance(SignedDuration::from_secs(3));
        assert_eq!(changes.poll(&store).unwrap(), []);
        assert_eq!(changes.last, Effort { looked: 256, listed: 256 }, "listed once more, to settle");
        clock.advance(SignedDuration::from_secs(3));
        assert_eq!(changes.poll(&store).unwrap(), []);
        assert_eq!(changes.last, Effort { looked: 256, listed: 0 });
        put(root.path(), name(20_000));
        assert_eq!(changes.poll(&store).unwrap(), [name(20_000)]);
        assert_eq!(changes.last, Effort { looked: 256, listed: 1 });
    }

    #[test]
    fn what_a_backup_has_already_is_not_new() {
        let root = tempfile::tempdir().unwrap();
        (0..10).for_each(|n| put(root.path(), name(n)));
        let store = Filestore::open(root.path()).unwrap();
        let mut changes = Changes::since((0..7).map(name), clock());
        assert_eq!(changes.poll(&store).unwrap(), [name(7), name(8), name(9)]);
    }

    #[test]
    fn a_second_file_within_one_tick_of_the_file_systems_clock_is_found_when_the_folder_settles() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), name(0));
        let (store, clock) = (Filestore::open(root.path()).unwrap(), clock());
        let mut changes = Changes::since([], clock.clone());
        assert_eq!(changes.poll(&store).unwrap(), [name(0)]);
        let folder = fs::File::open(root.path().join("00")).unwrap();
        let modified = folder.metadata().unwrap().modified().unwrap();
        put(root.path(), name(256));
        folder.set_modified(modified).unwrap();
        assert_eq!(changes.poll(&store).unwrap(), [], "the time has not moved");
        clock.advance(SignedDuration::from_secs(3));
        assert_eq!(changes.poll(&store).unwrap(), [name(256)]);
    }

    #[test]
    fn a_name_given_back_is_yielded_again_once() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), name(3));
        let store = Filestore::open(root.path()).unwrap();
        let mut changes = Changes::since([], clock());
        assert_eq!(changes.poll(&store).unwrap(), [name(3)]);
        changes.again(name(3));
        assert_eq!(changes.poll(&store).unwrap(), [name(3)]);
        assert_eq!(changes.poll(&store).unwrap(), []);
    }

    #[test]
    fn a_file_collected_and_written_again_is_new_again() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), name(3));
        let (store, clock) = (Filestore::open(root.path()).unwrap(), clock());
        let mut changes = Changes::since([], clock.clone());
        let mut settled = || {
            changes.poll(&store).unwrap();
            clock.advance(SignedDuration::from_secs(3));
        };
        settled();
        fs::remove_file(root.path().join(name(3).to_string())).unwrap();
        settled();
        put(root.path(), name(3));
        assert_eq!(changes.poll(&store).unwrap(), [name(3)]);
    }

    #[test]
    fn a_folder_that_is_a_link_is_an_error_and_loses_nothing_found_before() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), name(3));
        std::os::unix::fs::symlink("/etc", root.path().join("ff")).unwrap();
        let store = Filestore::open(root.path()).unwrap();
        let mut changes = Changes::since([], clock());
        assert!(changes.poll(&store).is_err());
        fs::remove_file(root.path().join("ff")).unwrap();
        assert_eq!(changes.poll(&store).unwrap(), [name(3)]);
    }
}
