//! The folder of one drill, and its end.
//!
//! ```text
//! <sandbox.dir>/<tenant>-XXXXXX/   0711, ours
//!   box/                           the sandbox's own folder: data directory, WAL, sockets, logs, Odoo's data
//!   files/filestore/<database>/    the attachments, shown inside read-only
//! ```
//!
//! Attachments are fetched while the restored server runs, so they are not fetched into a folder that it can write: it could lay links
//! there for us to follow. Odoo gets a tree of links to them in its own, writable data folder.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Kind};

/// Removed when dropped, unless kept.
#[derive(Debug)]
pub struct Place {
    pub root: PathBuf,
    kept: bool,
}

impl Place {
    /// A new folder below `parent`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make(parent: &Path, tenant: &str) -> Result<Self, Failure> {
        let made = || {
            std::fs::create_dir_all(parent)?;
            let root = tempfile::Builder::new().prefix(&format!("{tenant}-")).tempdir_in(parent)?.keep();
            let place = Self { root: root.canonicalize()?, kept: false };
            // The sandbox's user passes through on the way to his own folder, and sees nothing.
            std::fs::set_permissions(&place.root, std::fs::Permissions::from_mode(0o711))?;
            std::fs::create_dir(place.sandbox())?;
            std::fs::create_dir_all(place.files())?;
            Ok(place)
        };
        made().map_err(|error: std::io::Error| {
            let next = "check [sandbox] dir: its rights, and the room on its disk";
            Failure::new(Kind::Failed, parent.display().to_string(), error.to_string(), next)
        })
    }

    /// The sandbox's folder.
    #[must_use]
    pub fn sandbox(&self) -> PathBuf {
        self.root.join("box")
    }

    /// Holds one folder per database.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.root.join("files/filestore")
    }

    /// Leaves it standing.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Removes it; nobody runs in it any more. Gives back whether nothing is left.
    #[must_use]
    pub fn clear(mut self) -> bool {
        self.kept = true;
        let _removed = std::fs::remove_dir_all(&self.root);
        !self.root.exists()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            let _removed = std::fs::remove_dir_all(&self.root);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_place_leaves_nothing_and_a_kept_one_stays() {
        let parent = tempfile::tempdir().unwrap();
        let place = Place::make(&parent.path().join("new"), "acme").unwrap();
        let root = place.root.clone();
        assert!(place.sandbox().is_dir() && place.files().is_dir());
        drop(place);
        assert!(!root.exists());

        let mut place = Place::make(parent.path(), "acme").unwrap();
        let root = place.root.clone();
        place.keep();
        drop(place);
        assert!(root.exists());
    }

    #[test]
    fn a_cleared_place_says_whether_it_is_gone() {
        let parent = tempfile::tempdir().unwrap();
        assert!(Place::make(parent.path(), "acme").unwrap().clear());
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
