//! Two data directories, file by file, for one database.
//!
//! Both were recovered to the same LSN, from base backups taken at different times. PostgreSQL does not log
//! everything, so what it leaves out is masked here, as its own consistency check does (`bufmask.c`, `heap_mask`):
//!
//! | masked | why |
//! |---|---|
//! | `pd_checksum` | depends on the hint bits below, and on the block only when written |
//! | hint bits of tuples, `pd_flags`, `pd_prune_xid` | set by readers; logged at most once per checkpoint |
//! | command ids, combo flag | replay writes the first command id, the source the true one |
//! | the hole between `pd_lower` and `pd_upper` | unused; full-page images leave it out |
//! | dead marks of index entries | hints as well |
//! | the tuple of a sequence | logged 32 values ahead: an older copy replays to the logged value, a newer one has its own |
//! | `_fsm` files | not logged; rebuilt from hints |
//! | trailing zero pages; files of 0 bytes | extension is not logged; a dropped file is emptied first, removed at a checkpoint |
//! | `pg_internal.init` | a cache that the first session writes |
//!
//! `pd_lsn` is **not** masked: equal LSNs page by page say that the same last record touched it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const BLOCK: usize = 8192;
/// `PageHeaderData` up to the line pointers.
const HEADER: usize = 24;

/// What differs in `base/<oid>`, one line each; empty when the database is the same.
pub fn database(one: &Path, other: &Path, oid: u32) -> Report {
    let folder = |data: &Path| listing(&data.join(format!("base/{oid}")));
    let (left, right) = (folder(one), folder(other));
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let mut report = Report::default();
    for name in names {
        report.files += 1;
        match (left.get(name), right.get(name)) {
            (Some(a), Some(b)) => report.differences.extend(blocks(name, a, b)),
            (Some(only), None) | (None, Some(only)) if only.iter().all(|byte| *byte == 0) => {}
            (here, _) => report
                .differences
                .push(format!("{name}: only in the {}", if here.is_some() { "first" } else { "second" })),
        }
    }
    report
}

#[derive(Debug, Default)]
pub struct Report {
    pub files: usize,
    pub differences: Vec<String>,
}

fn listing(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = BTreeMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "pg_internal.init" && !name.contains("_fsm") {
            files.insert(name, std::fs::read(entry.path()).expect("a relation's file"));
        }
    }
    files
}

fn blocks(name: &str, a: &[u8], b: &[u8]) -> Vec<String> {
    if a == b {
        return Vec::new();
    }
    let is_relation = name.starts_with(|first: char| first.is_ascii_digit());
    if !is_relation {
        return vec![format!("{name}: differs")];
    }
    let shared = a.len().min(b.len());
    let longer = if a.len() > b.len() { a } else { b };
    let mut found = Vec::new();
    if longer[shared..].iter().any(|byte| *byte != 0) {
        found.push(format!("{name}: {} bytes against {}", a.len(), b.len()));
    }
    for (number, (a, b)) in a[..shared].chunks(BLOCK).zip(b[..shared].chunks(BLOCK)).enumerate() {
        let (a, b) = (masked(a), masked(b));
        if let Some(at) = a.iter().zip(&b).position(|(a, b)| a != b) {
            found.push(format!("{name} block {number}: first at byte {at}"));
        }
    }
    found
}

/// A page without what PostgreSQL does not log; see the table above.
fn masked(page: &[u8]) -> Vec<u8> {
    let mut page = page.to_vec();
    if page.len() < BLOCK || page.iter().all(|byte| *byte == 0) {
        return page;
    }
    let number = |page: &[u8], at: usize| usize::from(u16::from_le_bytes([page[at], page[at + 1]]));
    let (lower, upper, special) = (number(&page, 12), number(&page, 14), number(&page, 16));
    page[8..10].fill(0); // pd_checksum
    page[10..12].fill(0); // pd_flags: full, free lines, all visible
    page[20..24].fill(0); // pd_prune_xid
    if lower > HEADER && lower <= upper && upper <= BLOCK {
        page[lower..upper].fill(0);
    }
    let is_heap = special == BLOCK;
    let is_sequence = special == BLOCK - 8 && number(&page, special) == 0x1717; // SEQ_MAGIC, sequence.c
    if is_sequence {
        page[HEADER..special].fill(0);
        return page;
    }
    let is_index = (BLOCK - 64..BLOCK).contains(&special);
    for at in (HEADER..lower.min(BLOCK)).step_by(4).filter(|_| lower > HEADER && (is_heap || is_index)) {
        let pointer = u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        let (offset, flags) = ((pointer & 0x7FFF) as usize, pointer >> 15 & 3); // ItemIdData, itemid.h
        if is_heap && flags == 1 && offset + 23 <= BLOCK {
            mask_tuple(&mut page[offset..]);
        } else if is_index && flags == 3 {
            let normal = pointer & !(3 << 15) | 1 << 15;
            page[at..at + 4].copy_from_slice(&normal.to_le_bytes());
        }
    }
    if special == BLOCK - 16 {
        page[special + 12] &= !0x40; // BTP_HAS_GARBAGE, nbtree.h
    }
    page
}

/// `HeapTupleHeaderData`: command id at 8, infomask at 20 (htup_details.h).
fn mask_tuple(tuple: &mut [u8]) {
    tuple[8..12].fill(0);
    tuple[20] &= !0x20; // HEAP_COMBOCID
    let frozen = tuple[21] & 0x03 == 0x03; // both bits of xmin set: frozen, which is logged
    tuple[21] &= if frozen { !0x0C } else { !0x0F };
}
