//! Writing merged stretches as the WAL files that a server replays.
//!
//! The first stretch usually begins in the middle of a segment, without the page headers before it. They are made
//! up: from the segment's start on, every page says that it is the rest of a record which ends where the first
//! stretch begins, so that the server and `pg_waldump` find that place by themselves. What is not laid is zero
//! (sparse), which ends valid WAL. Files hold plaintext of whoever was merged: mode 0600, in a folder of the
//! caller's. Nothing is synced: this is a restore's scratch space.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::WalError;
use super::page::{CONTINUES, Geometry, PAGE_BYTES, PageHeader, page_of};
use crate::ids::Lsn;

/// Lays stretches one after the other into segment files.
pub struct SegmentWriter {
    folder: PathBuf,
    geometry: Geometry,
    first: Option<Lsn>,
    next: Lsn,
    open: Option<(u64, File)>,
    /// Segments before this one exist; a file that is there before it was made here is somebody else's.
    made: u64,
}

impl SegmentWriter {
    /// `geometry.system_id` goes into the page headers that are made up; replay compares it.
    ///
    /// # Errors
    /// [`WalError::SegmentBytes`].
    pub fn new(folder: &Path, geometry: Geometry) -> Result<Self, WalError> {
        geometry.check_sizes()?;
        Ok(Self { folder: folder.to_owned(), geometry, first: None, next: Lsn(0), open: None, made: 0 })
    }

    /// The file that holds `at` (`XLogFileName`).
    #[must_use]
    pub fn file_of(&self, at: Lsn) -> PathBuf {
        self.folder.join(segment_name(&self.geometry, at))
    }

    /// Lays `bytes` at `at`, where the last stretch stopped.
    ///
    /// # Errors
    /// A gap or an overlap, or a file that cannot be written.
    pub fn lay(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), WalError> {
        if self.first.is_none() {
            if !self.geometry.is_boundary(at) {
                return Err(WalError::Misaligned { at });
            }
            self.first = Some(at);
            self.next = at;
            self.lead_in(at)?;
        }
        if at != self.next {
            return Err(WalError::NotContiguous { expected: self.next, got: at });
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let segment_end = self.geometry.segment_end(self.next.plus(1));
            let here = usize::try_from(segment_end.since(self.next)).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_checked(here).unwrap_or((rest, &[]));
            self.write(self.next, now)?;
            self.next = self.next.plus(here as u64);
            rest = later;
        }
        Ok(())
    }

    /// Makes `end` the end of the WAL: what was laid behind it is zero again, segments behind it are gone.
    /// Existing files are never written to: the folder must hold no segment of this stretch before.
    ///
    /// # Errors
    /// When `end` was not laid, or a file cannot be written.
    pub fn finish(mut self, end: Lsn) -> Result<(), WalError> {
        let from = self.first.unwrap_or(end);
        if end < from || end > self.next {
            return Err(WalError::Outside { at: end, from, to: self.next });
        }
        let segment_bytes = u64::from(self.geometry.segment_bytes);
        let segment_end = self.geometry.segment_end(end);
        if end < segment_end && self.next > end {
            self.write(end, &[])?;
            if let Some((_, file)) = &self.open {
                let done = file.set_len(end.0 % segment_bytes).and_then(|()| file.set_len(segment_bytes));
                done.map_err(|source| WalError::File { path: self.file_of(end), source })?;
            }
        }
        let mut behind = segment_end;
        while behind < self.next {
            let path = self.file_of(behind);
            std::fs::remove_file(&path).map_err(|source| WalError::File { path, source })?;
            behind = behind.plus(segment_bytes);
        }
        Ok(())
    }

    /// Writes the headers of the pages from the segment's start to the one that `at` lies in.
    fn lead_in(&mut self, at: Lsn) -> Result<(), WalError> {
        let mut page = Lsn(at.0 - at.0 % u64::from(self.geometry.segment_bytes));
        while page < at {
            let body = page.plus(self.geometry.header_bytes(page));
            let rest_bytes = self.record_bytes_between(body, at);
            let flags = if rest_bytes > 0 { CONTINUES } else { 0 };
            let header = self.geometry.write(page, PageHeader { flags, rest_bytes });
            let room = page_of(page).plus(PAGE_BYTES).min(at).since(page) as usize;
            self.write(page, header.get(..header.len().min(room)).unwrap_or_default())?;
            page = page.plus(PAGE_BYTES);
        }
        Ok(())
    }

    /// How many bytes between two positions are not page headers.
    fn record_bytes_between(&self, from: Lsn, to: Lsn) -> u32 {
        let mut bytes = to.since(from);
        let mut page = page_of(from).plus(PAGE_BYTES);
        while page < to {
            bytes = bytes.saturating_sub(self.geometry.header_bytes(page));
            page = page.plus(PAGE_BYTES);
        }
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    fn write(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), WalError> {
        let segment_bytes = u64::from(self.geometry.segment_bytes);
        let (number, offset) = (at.0 / segment_bytes, at.0 % segment_bytes);
        let path = self.file_of(at);
        let fail = |source| WalError::File { path: path.clone(), source };
        let file = match &mut self.open {
            Some((open, file)) if *open == number => file,
            open => {
                let is_new = number >= self.made;
                let mut options = File::options();
                let file = options.write(true).create_new(is_new).mode(0o600).open(&path).map_err(fail)?;
                if is_new {
                    file.set_len(segment_bytes).map_err(fail)?;
                    self.made = number + 1;
                }
                &mut open.insert((number, file)).1
            }
        };
        file.write_all_at(bytes, offset).map_err(fail)
    }
}

/// The name of the segment that holds `at`: timeline, then the position in units of 4 GiB and of segments.
#[must_use]
pub fn segment_name(geometry: &Geometry, at: Lsn) -> String {
    let number = at.0 / u64::from(geometry.segment_bytes);
    let per_id = (1 << 32) / u64::from(geometry.segment_bytes);
    format!("{:08X}{:08X}{:08X}", geometry.timeline.0, number / per_id, number % per_id)
}
