//! The objects of a folder in name order, one folder's entries in memory per level.
//!
//! Names are ordered by their bytes, in which `/` lies after `-` and `.`: a folder sorts as its name with a slash, so
//! `a-b` comes before `a/b` as it does in S3. Only regular files whose path is an object's name are objects; lock and
//! staging files, symbolic links and anything else are passed over.
//!
//! A listing that ends without an error is whole: what cannot be read is an error, and a root that went away in
//! between is one too. An object that is put or removed meanwhile may or may not be in it.

use std::io;
use std::sync::Arc;
use std::vec;

use jiff::Timestamp;

use super::{Folder, ONLY_VERSION, from_io, is_absence};
use crate::store::{Listed, NAME_BYTES, StoreError, Version, is_part};

pub(super) struct Walk {
    folder: Arc<Folder>,
    prefix: String,
    /// What is left of each folder on the way down; a name that ends in `/` is a folder. `None` before the start.
    levels: Option<Vec<vec::IntoIter<String>>>,
    done: bool,
}

impl Walk {
    pub(super) fn new(folder: Arc<Folder>, prefix: &str) -> Self {
        Self { folder, prefix: prefix.to_owned(), levels: None, done: false }
    }

    /// The next object, or `None` at the end.
    fn step(&mut self) -> Result<Option<Listed>, StoreError> {
        let mut levels = match self.levels.take() {
            Some(levels) => levels,
            None => vec![self.first_level()?],
        };
        let mut found = None;
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.next() else {
                levels.pop();
                continue;
            };
            if name.ends_with('/') {
                levels.push(self.entries(&name)?);
            } else if let Some(listed) = self.look_at(name)? {
                found = Some(listed);
                break;
            }
        }
        self.levels = Some(levels);
        if found.is_none() {
            self.folder.check_root()?;
        }
        Ok(found)
    }

    /// The entries of the deepest folder that the prefix names. Nothing has a name under `../` or `/`.
    fn first_level(&self) -> Result<vec::IntoIter<String>, StoreError> {
        let above = self.prefix.rfind('/').map_or("", |slash| self.prefix.get(..=slash).unwrap_or(""));
        if above.len() <= NAME_BYTES && above.split_terminator('/').all(is_part) {
            return self.entries(above);
        }
        Ok(vec::IntoIter::default())
    }

    /// What lies in `folder` (empty, or ending in `/`) and begins with the prefix, in order.
    fn entries(&self, folder: &str) -> Result<vec::IntoIter<String>, StoreError> {
        let mut names = Vec::new();
        let mut read = || -> io::Result<()> {
            for entry in std::fs::read_dir(self.folder.root.join(folder))? {
                let entry = entry?;
                let file_name = entry.file_name();
                let Some(part) = file_name.to_str().filter(|part| is_part(part)) else { continue };
                let kind = match entry.file_type() {
                    // Removed since; the rest of the folder is still to be read.
                    Err(error) if is_absence(&error) => continue,
                    kind => kind?,
                };
                let slash = if kind.is_dir() { "/" } else { "" };
                let name = format!("{folder}{part}{slash}");
                if (kind.is_dir() || kind.is_file()) && name.starts_with(&self.prefix) && name.len() <= NAME_BYTES {
                    names.push(name);
                }
            }
            Ok(())
        };
        match read() {
            Err(error) if !is_absence(&error) => return Err(from_io(folder, error)),
            Err(_) | Ok(()) => {}
        }
        names.sort_unstable();
        Ok(names.into_iter())
    }

    fn look_at(&self, name: String) -> Result<Option<Listed>, StoreError> {
        let found = match self.folder.root.join(&name).symlink_metadata() {
            Ok(found) if found.is_file() => found,
            Ok(_) => return Ok(None),
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(from_io(&name, error)),
        };
        let modified = found.modified().map_err(|error| from_io(&name, error))?;
        let created = Timestamp::try_from(modified).map_err(|error| from_io(&name, io::Error::other(error)))?;
        let version = Version(ONLY_VERSION.to_owned());
        Ok(Some(Listed { name, version, bytes: found.len(), created, current: true }))
    }
}

impl Iterator for Walk {
    type Item = Result<Listed, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step().transpose();
        self.done = !matches!(step, Some(Ok(_)));
        step
    }
}
