//! Relation files: what their names say, and whether their pages are whole.
//!
//! A relation is `<filenode>[_fsm|_vm|_init][.<segment>]`; a temporary one begins with `t<backend>_`. A segment has
//! [`SEGMENT_BLOCKS`] pages of [`PAGE_BYTES`]; a page's number counts through all segments (PostgreSQL documentation,
//! "Database File Layout"; `relpath.c`, `parse_filename_for_nontemp_relation`).
//!
//! [`PageCheck`] sees a file go by in pieces of any size and remembers pages whose checksum is wrong, by the rules of
//! `basebackup.c`: new pages have none; a page written after the backup began may be torn here and is mended by WAL. A
//! stream cannot be read twice, so a page torn at this very moment with an old LSN in its first half is reported too:
//! a bad page is a finding to confirm, not yet a verdict.

use super::checksum::page_checksum;
use crate::ids::Lsn;

/// `BLCKSZ`, as all packages build it; `control.rs` tells when a cluster differs.
pub const PAGE_BYTES: usize = 8192;
/// `RELSEG_SIZE`: 1 GiB of pages.
pub const SEGMENT_BLOCKS: u32 = 131_072;

/// Which of a relation's files it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    Main,
    FreeSpace,
    Visibility,
    /// The empty state of an unlogged relation.
    Init,
}

/// What a relation file's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFile {
    pub filenode: u32,
    pub fork: Fork,
    pub segment: u32,
}

impl RelationFile {
    /// Reads a file name (without folder); `None` for anything else, temporary relations included.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, segment) = match name.split_once('.') {
            Some((stem, segment)) => (stem, positive(segment)?),
            None => (name, 0),
        };
        let (filenode, fork) = match stem.split_once('_') {
            Some((filenode, "fsm")) => (filenode, Fork::FreeSpace),
            Some((filenode, "vm")) => (filenode, Fork::Visibility),
            Some((filenode, "init")) => (filenode, Fork::Init),
            Some(_) => return None,
            None => (stem, Fork::Main),
        };
        Some(Self { filenode: positive(filenode)?, fork, segment })
    }
}

/// A number as PostgreSQL prints it into names: no sign, no leading zero, not 0.
fn positive(text: &str) -> Option<u32> {
    let fine = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if fine { text.parse().ok() } else { None }
}

/// Whether a name is a temporary relation's: `t<backend>_<filenode>...`; the server leaves them out of base backups.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    name.strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(backend, rest)| positive(backend).is_some() && RelationFile::parse(rest).is_some())
}

/// A page whose checksum does not fit its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPage {
    /// Counted from the relation's beginning, through all segments.
    pub block: u32,
    pub lsn: Lsn,
    pub stored: u16,
    pub computed: u16,
}

/// Bad pages kept per file; a file of nothing but garbage needs no longer list.
const KEPT_BAD_PAGES: usize = 100;

/// Checks the pages of one relation file as it goes by.
#[derive(Debug)]
pub struct PageCheck {
    started: Lsn,
    block: u32,
    partial: Vec<u8>,
    bad: Vec<BadPage>,
    bad_pages: u64,
}

/// What a [`PageCheck`] saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageReport {
    /// The first hundred.
    pub bad: Vec<BadPage>,
    /// All of them.
    pub bad_pages: u64,
    /// Bytes after the last whole page; they are no page and were not checked.
    pub trailing_bytes: usize,
}

impl PageCheck {
    /// For the file `relation` of a backup that began at `started`.
    #[must_use]
    pub fn new(relation: RelationFile, started: Lsn) -> Self {
        let block = relation.segment.wrapping_mul(SEGMENT_BLOCKS);
        Self { started, block, partial: Vec::new(), bad: Vec::new(), bad_pages: 0 }
    }

    /// Takes the next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(PAGE_BYTES - self.partial.len()));
            self.partial.extend_from_slice(head);
            bytes = rest;
            if self.partial.len() < PAGE_BYTES {
                return;
            }
            let mut page = std::mem::take(&mut self.partial);
            self.look_at(&page);
            page.clear();
            self.partial = page;
        }
        let mut pages = bytes.chunks_exact(PAGE_BYTES);
        for page in &mut pages {
            self.look_at(page);
        }
        self.partial.extend_from_slice(pages.remainder());
    }

    /// What was found.
    #[must_use]
    pub fn finish(self) -> PageReport {
        PageReport { bad: self.bad, bad_pages: self.bad_pages, trailing_bytes: self.partial.len() }
    }

    /// Page header: LSN as two u32 (0), checksum u16 (8), flags, lower, `pd_upper` u16 (14; 0 in a new page)
    /// (documentation, "Database Page Layout").
    fn look_at(&mut self, page: &[u8]) {
        let block = self.block;
        self.block = block.wrapping_add(1);
        let Some(&[a, b, c, d, e, f, g, h, stored_low, stored_high, _, _, _, _, upper_low, upper_high]) =
            page.first_chunk()
        else {
            return;
        };
        let lsn = Lsn(u64::from(u32::from_le_bytes([a, b, c, d])) << 32 | u64::from(u32::from_le_bytes([e, f, g, h])));
        if (upper_low, upper_high) == (0, 0) || lsn >= self.started {
            return;
        }
        let stored = u16::from_le_bytes([stored_low, stored_high]);
        let Some(computed) = page_checksum(page, block) else { return };
        if stored != computed {
            self.bad_pages += 1;
            if self.bad.len() < KEPT_BAD_PAGES {
                self.bad.push(BadPage { block, lsn, stored, computed });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn file_names_are_read_as_postgresql_writes_them() {
        let file = |filenode, fork, segment| Some(RelationFile { filenode, fork, segment });
        assert_eq!(RelationFile::parse("16384"), file(16384, Fork::Main, 0));
        assert_eq!(RelationFile::parse("16384.2"), file(16384, Fork::Main, 2));
        assert_eq!(RelationFile::parse("16384_fsm"), file(16384, Fork::FreeSpace, 0));
        assert_eq!(RelationFile::parse("16384_vm.1"), file(16384, Fork::Visibility, 1));
        assert_eq!(RelationFile::parse("16384_init"), file(16384, Fork::Init, 0));
        for other in ["", "PG_VERSION", "pg_filenode.map", "016384", "16384.0", "16384.", "16384_x", "t3_16384", "+1"] {
            assert_eq!(RelationFile::parse(other), None, "{other}");
        }
        assert!(is_temporary("t3_16384") && is_temporary("t3_16384_fsm.1"));
        assert!(!is_temporary("template") && !is_temporary("t_1") && !is_temporary("16384"));
    }

    fn page(lsn: u64, block: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..PAGE_BYTES).map(|i| (i * 31 % 251) as u8).collect();
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        let sum = page_checksum(&page, block).unwrap();
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn a_bad_page_is_found_whatever_the_pieces_are() {
        let first = SEGMENT_BLOCKS;
        let mut file: Vec<u8> = (0..5).flat_map(|n| page(100, first + n)).collect();
        file[3 * PAGE_BYTES + 5000] ^= 1;
        for size in [1, 100, 8191, 8192, 8193, 20000, 50000] {
            let mut check = PageCheck::new(RelationFile::parse("1.1").unwrap(), Lsn(1000));
            file.chunks(size).for_each(|piece| check.update(piece));
            let report = check.finish();
            assert_eq!(report.bad_pages, 1, "pieces of {size}");
            assert_eq!(report.bad[0].block, first + 3);
            assert_eq!(report.trailing_bytes, 0);
        }
    }

    #[test]
    fn a_page_in_the_place_of_another_is_bad() {
        let mut check = PageCheck::new(RelationFile::parse("1").unwrap(), Lsn(1000));
        check.update(&page(100, 1));
        assert_eq!(check.finish().bad_pages, 1);
    }

    #[test]
    fn new_pages_and_pages_written_since_the_start_are_left_to_wal() {
        let mut check = PageCheck::new(RelationFile::parse("1").unwrap(), Lsn(1000));
        check.update(&[0; PAGE_BYTES]);
        let mut young = page(1000, 1);
        young[8000] ^= 1;
        check.update(&young);
        check.update(&[1; 10]);
        assert_eq!(check.finish(), PageReport { bad: Vec::new(), bad_pages: 0, trailing_bytes: 10 });
    }
}
