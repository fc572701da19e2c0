//! The folder that a restore writes to, and what becomes of it when the restore fails: nothing stays.

use std::path::{Path, PathBuf};

use super::assemble::disk;
use crate::failure::{Failure, Kind};

/// The folder a restore goes to, and the private one in it that the sandbox gets.
pub struct Work {
    pub to: PathBuf,
    /// The sandbox's; gone at the end.
    pub dir: PathBuf,
    made: bool,
    kept: bool,
}

impl Work {
    /// Refuses a folder with anything in it.
    ///
    /// # Errors
    /// `Refused`, or of the disk.
    pub fn begin(to: &Path) -> Result<Self, Failure> {
        let made = match std::fs::read_dir(to) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    let interrupted = to.join("work").is_dir() && !to.join("restore.json").exists();
                    let (cause, next) = if interrupted {
                        ("holds a restore that was interrupted", "remove the folder, then restore again")
                    } else {
                        ("is not empty", "choose a new or empty folder; nothing is ever overwritten")
                    };
                    return Err(Failure::new(Kind::Refused, to.display().to_string(), cause, next));
                }
                false
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(to).map_err(|error| disk(to, &error))?;
                true
            }
            Err(error) => return Err(disk(to, &error)),
        };
        let to = to.canonicalize().map_err(|error| disk(to, &error))?;
        let work = Self { dir: to.join("work"), to, made, kept: false };
        std::fs::create_dir(&work.dir).map_err(|error| disk(&work.dir, &error))?;
        Ok(work)
    }

    /// The restore is whole: what it made stays.
    ///
    /// # Errors
    /// When the private folder cannot be removed.
    pub fn done(mut self) -> Result<(), Failure> {
        self.kept = true;
        std::fs::remove_dir_all(&self.dir).map_err(|error| disk(&self.dir, &error))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Nothing half-written stays; what cannot be removed is said by the error that brought us here.
        for name in ["work", "pgdata", "filestore", "captured", "restore.json"] {
            let path = self.to.join(name);
            let _gone = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
        if self.made {
            let _gone = std::fs::remove_dir(&self.to);
        }
    }
}
