//! Rows against files, counted: what `restore.json` says about a restored filestore.
//!
//! Every referenced file is read and its SHA-1 taken; nothing is changed. Files that no row wants are not its matter: a
//! restore brings none.

use serde::{Deserialize, Serialize};

use super::FileName;
use super::rows::Row;
use super::scan::{Filestore, ScanError};
use super::state::{FileState, judge};
use crate::watch::Watch;

/// How the rows stand. `referenced = restored + missing + mismatched`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reconciled {
    /// Distinct files that rows reference.
    pub referenced: u64,
    /// Those that are there and right.
    pub restored: u64,
    pub missing: u64,
    /// Those that are there and wrong, or no regular file.
    pub mismatched: u64,
    /// Bytes of the right ones.
    pub restored_bytes: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_names: Vec<FileName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mismatched_names: Vec<FileName>,
}

/// Reads every file that `rows` want and counts.
///
/// # Errors
/// When a file cannot be read although it is there: then nothing can be said.
pub fn reconcile(store: &Filestore, rows: &[Row], watch: &dyn Watch) -> Result<Reconciled, ScanError> {
    let mut counts = Reconciled::default();
    for row in rows {
        counts.referenced += 1;
        let name = row.store_fname;
        let read = match store.read(&name) {
            Ok(reading) => Some(reading.drain().map_err(|source| ScanError::Io { what: name.to_string(), source })?),
            Err(ScanError::Missing { .. }) => None,
            Err(ScanError::NotAFile { .. }) => {
                counts.wrong(name);
                continue;
            }
            Err(error) => return Err(error),
        };
        let bytes = read.map_or(0, |read| read.bytes);
        watch.advance(bytes);
        match judge(&name, Some(row), read.as_ref(), false) {
            Some(FileState::Ok) => {
                counts.restored += 1;
                counts.restored_bytes += bytes;
            }
            None | Some(FileState::Missing) => {
                counts.missing += 1;
                counts.missing_names.push(name);
            }
            Some(_) => counts.wrong(name),
        }
    }
    Ok(counts)
}

impl Reconciled {
    fn wrong(&mut self, name: FileName) {
        self.mismatched += 1;
        self.mismatched_names.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filestore::fetch::Target;
    use crate::filestore::state::Reading;
    use crate::watch::Quiet;

    #[test]
    fn right_missing_damaged_and_replaced_files_are_each_counted_once() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("acme");
        let mut target = Target::create(&path).unwrap();
        let mut rows = Vec::new();
        for n in 0..5_u8 {
            let content = [n; 10];
            let store_fname = FileName(Reading::new(&content[..]).drain().unwrap().sha1);
            target.place(&store_fname, &mut &content[..]).unwrap();
            rows.push(Row { store_fname, bytes: Some(10), rows: 1, disagree: 0 });
        }
        let store = target.finish().unwrap();
        let file = |n: usize| path.join(rows[n].store_fname.to_string());
        std::fs::remove_file(file(0)).unwrap();
        std::fs::write(file(1), b"short").unwrap();
        std::fs::remove_file(file(2)).unwrap();
        std::os::unix::fs::symlink(file(3), file(2)).unwrap();
        let counts = reconcile(&store, &rows, &Quiet::default()).unwrap();
        assert_eq!((counts.referenced, counts.restored, counts.missing, counts.mismatched), (5, 2, 1, 2));
        assert_eq!((counts.restored_bytes, counts.missing_names), (20, vec![rows[0].store_fname]));
    }
}
