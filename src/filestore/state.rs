//! One file, judged: what the row wants against what lies in the folder.
//!
//! A wrong file is worse than a missing one: Odoo refuses to store the document again ("The attachment collides with an
//! existing file"), while a missing one heals. So a file whose content is not its name's is a mismatch whether a row
//! wants it or not. Rows whose bytes are in the database, or elsewhere, have no file and are counted in
//! [`super::rows::Counts`].

use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha1::Digest as _;

use super::FileName;
use super::rows::Row;

/// A reader that takes the SHA-1 of what passes.
#[derive(Debug)]
pub struct Reading<R = File> {
    inner: R,
    sha1: sha1::Sha1,
    bytes: u64,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub sha1: [u8; 20],
    pub bytes: u64,
}

impl<R: Read> Reading<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, sha1: sha1::Sha1::new(), bytes: 0 }
    }

    /// The sum and length of what has been read up to here.
    #[must_use]
    pub fn finish(self) -> Outcome {
        Outcome { sha1: self.sha1.finalize().into(), bytes: self.bytes }
    }

    /// Reads what is left and keeps only its sum and length.
    ///
    /// # Errors
    /// What the reader below says.
    pub fn drain(mut self) -> io::Result<Outcome> {
        let mut buffer = vec![0; 64 * 1024];
        while self.read(&mut buffer)? != 0 {}
        Ok(self.finish())
    }
}

impl<R: Read> Read for Reading<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.sha1.update(buffer.get(..read).unwrap_or_default());
        self.bytes += read as u64;
        Ok(read)
    }
}

/// How one name stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum FileState {
    /// A row wants it, and it is right.
    Ok,
    /// A row wants it, and it is not there.
    Missing,
    /// It is there and wrong.
    Mismatch {
        /// What the content's SHA-1 is; the name says what it should be.
        sha1: String,
        bytes: u64,
        /// The row's `file_size`, where a row wants the file.
        wanted_bytes: Option<u64>,
        referenced: bool,
    },
    /// No row wants it, and the collection will remove it.
    OrphanListed,
    /// No row wants it, and nothing will ever remove it: left behind by a restore or an aborted upload.
    OrphanUnlisted,
}

/// Judges `name` by the row that wants it, by what was read of it, and by whether `checklist/` lists it.
///
/// None when there is neither row nor file (a stale marker).
#[must_use]
pub fn judge(name: &FileName, row: Option<&Row>, read: Option<&Outcome>, listed: bool) -> Option<FileState> {
    let Some(read) = read else {
        return row.map(|_| FileState::Missing);
    };
    let wanted_bytes = row.and_then(|row| row.bytes);
    if read.sha1 != name.0 || wanted_bytes.is_some_and(|wanted| wanted != read.bytes) {
        let sha1 = hex::encode(read.sha1);
        return Some(FileState::Mismatch { sha1, bytes: read.bytes, wanted_bytes, referenced: row.is_some() });
    }
    Some(match (row, listed) {
        (Some(_), _) => FileState::Ok,
        (None, true) => FileState::OrphanListed,
        (None, false) => FileState::OrphanUnlisted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: FileName, bytes: Option<u64>) -> Row {
        Row { store_fname: name, bytes, rows: 1, disagree: 0 }
    }

    #[test]
    fn every_combination_of_row_file_and_marker_has_one_judgement() {
        let right = Reading::new(&b"hello"[..]).drain().unwrap();
        let name = FileName(right.sha1);
        let wrong = Reading::new(&b"hell"[..]).drain().unwrap();
        let wanted = row(name, Some(5));
        let (sizeless, larger) = (row(name, None), row(name, Some(6)));
        let state = |row, read, listed| judge(&name, row, read, listed);
        assert_eq!(state(Some(&wanted), Some(&right), true), Some(FileState::Ok));
        assert_eq!(state(Some(&wanted), Some(&right), false), Some(FileState::Ok));
        assert_eq!(state(Some(&sizeless), Some(&right), false), Some(FileState::Ok));
        assert_eq!(state(Some(&wanted), None, true), Some(FileState::Missing));
        assert_eq!(state(None, Some(&right), true), Some(FileState::OrphanListed));
        assert_eq!(state(None, Some(&right), false), Some(FileState::OrphanUnlisted));
        assert_eq!(state(None, None, true), None);
        for row in [None, Some(&wanted)] {
            assert!(matches!(state(row, Some(&wrong), true), Some(FileState::Mismatch { bytes: 4, .. })));
        }
        assert!(matches!(
            state(Some(&larger), Some(&right), true),
            Some(FileState::Mismatch { wanted_bytes: Some(6), referenced: true, .. })
        ));
    }

    #[test]
    fn the_sum_is_of_what_was_read_however_it_was_read() {
        let data = vec![7_u8; 200_000];
        let mut reading = Reading::new(&data[..]);
        let mut small = [0; 3];
        assert_eq!(reading.read(&mut small).unwrap(), 3);
        let outcome = reading.drain().unwrap();
        assert_eq!(outcome, Reading::new(&data[..]).drain().unwrap());
        assert_eq!(outcome.bytes, 200_000);
    }
}
