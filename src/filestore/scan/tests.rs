use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::filestore::state::Reading;

fn put(root: &Path, content: &[u8]) -> FileName {
    let name = FileName(Reading::new(content).drain().unwrap().sha1);
    fs::create_dir_all(root.join(name.folder())).unwrap();
    fs::write(root.join(name.to_string()), content).unwrap();
    name
}

fn mark(root: &Path, name: FileName) {
    fs::create_dir_all(root.join("checklist").join(name.folder())).unwrap();
    fs::write(root.join("checklist").join(name.to_string()), b"").unwrap();
}

fn kinds(root: &Path) -> Vec<(String, Kind)> {
    Filestore::open(root).unwrap().scan().unwrap().map(|entry| (entry.path, entry.kind)).collect()
}

#[test]
fn files_and_markers_come_in_name_order_and_read_with_their_sum() {
    let root = tempfile::tempdir().unwrap();
    let mut names: Vec<_> = (0..300_u32).map(|n| put(root.path(), &n.to_le_bytes())).collect();
    names.sort();
    mark(root.path(), names[0]);
    let store = Filestore::open(root.path()).unwrap();
    let entries: Vec<_> = store.scan().unwrap().collect();
    let found = |entry: &Entry| if let Kind::File(name) = entry.kind { Some(name) } else { None };
    assert_eq!(entries.iter().filter_map(found).collect::<Vec<_>>(), names);
    assert_eq!(entries.iter().filter(|e| e.kind == Kind::Checklist(names[0])).count(), 1);
    assert!(entries.iter().all(|e| e.modified.is_some() && (e.bytes == 4 || matches!(e.kind, Kind::Checklist(_)))));
    assert_eq!(store.read(&names[7]).unwrap().drain().unwrap().sha1, names[7].0);
}

#[test]
fn no_link_is_followed_anywhere() {
    let root = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let theirs = put(other.path(), b"another tenant's document");
    symlink(other.path().join(theirs.folder()), root.path().join(theirs.folder())).unwrap();
    let mine = put(root.path(), b"mine");
    let linked = FileName([mine.0[0]; 20]);
    symlink(other.path().join(theirs.to_string()), root.path().join(linked.to_string())).unwrap();
    symlink(other.path(), root.path().join("checklist")).unwrap();
    let kinds = kinds(root.path());
    assert_eq!(kinds.iter().filter(|(_, kind)| *kind == Kind::Symlink).count(), 3, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|(_, kind)| matches!(kind, Kind::File(_))).count(), 1);
    let store = Filestore::open(root.path()).unwrap();
    assert!(matches!(store.read(&theirs), Err(ScanError::NotAFile { .. })));
    assert!(matches!(store.read(&linked), Err(ScanError::NotAFile { .. })));
    let link = other.path().join("link");
    symlink(root.path(), &link).unwrap();
    assert!(matches!(Filestore::open(&link), Err(ScanError::NotAFolder { .. })));
}

#[test]
fn what_odoo_did_not_write_is_reported_and_not_read() {
    let root = tempfile::tempdir().unwrap();
    let name = put(root.path(), b"right");
    let folder = root.path().join(name.folder());
    fs::write(folder.join("notes.txt"), b"x").unwrap();
    fs::write(folder.join(OsStr::from_bytes(b"\xff\xfe")), b"x").unwrap();
    fs::create_dir(folder.join("0".repeat(40))).unwrap();
    fs::create_dir_all(root.path().join("filestore/aa")).unwrap();
    fs::write(root.path().join("zz"), b"x").unwrap();
    fs::write(root.path().join("0f"), b"a file where a folder belongs").unwrap();
    let pipe = FileName([name.0[0]; 20]);
    rustix::fs::mknodat(rustix::fs::CWD, root.path().join(pipe.to_string()), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let kinds = kinds(root.path());
    let strange: Vec<_> = kinds.iter().filter(|(_, kind)| matches!(kind, Kind::Strange(_))).collect();
    assert_eq!((strange.len(), kinds.len()), (7, 8), "{kinds:?}");
    assert!(kinds.iter().any(|(_, kind)| matches!(kind, Kind::Strange(what) if what.contains("nested"))));
    let store = Filestore::open(root.path()).unwrap();
    assert!(matches!(store.read(&pipe), Err(ScanError::NotAFile { .. })), "a pipe must not hang the reader");
}

#[test]
fn a_file_or_folder_that_goes_away_during_the_scan_is_reported_and_the_scan_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let (first, gone, last) = ([0x11; 20], [0x55; 20], [0x99; 20]);
    for sha1 in [first, gone, last] {
        let name = FileName(sha1);
        fs::create_dir_all(root.path().join(name.folder())).unwrap();
        fs::write(root.path().join(name.to_string()), b"x").unwrap();
    }
    let more = root.path().join("11").join(format!("11{}", "f".repeat(38)));
    fs::write(&more, b"x").unwrap();
    let store = Filestore::open(root.path()).unwrap();
    let mut scan = store.scan().unwrap();
    assert_eq!(scan.next().unwrap().kind, Kind::File(FileName(first)));
    fs::remove_file(&more).unwrap();
    fs::remove_dir_all(root.path().join("55")).unwrap();
    let kinds: Vec<_> = scan.map(|entry| entry.kind).collect();
    assert_eq!(kinds, [Kind::Vanished, Kind::Vanished, Kind::File(FileName(last))]);
    assert!(matches!(store.read(&FileName(gone)), Err(ScanError::Missing { .. })));
}

#[test]
fn a_folder_closed_to_us_is_reported_and_the_scan_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let name = put(root.path(), b"right");
    let closed = root.path().join(if name.folder() == "00" { "01" } else { "00" });
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let kinds = kinds(root.path());
    // Root may enter any folder; anybody else is told.
    let unreadable = kinds.iter().filter(|(_, kind)| matches!(kind, Kind::Unreadable(_))).count();
    assert_eq!(unreadable, usize::from(!rustix::process::geteuid().is_root()));
    assert!(kinds.iter().any(|(_, kind)| *kind == Kind::File(name)));
}

#[test]
fn a_damaged_file_is_told_by_its_sum() {
    let root = tempfile::tempdir().unwrap();
    let content = vec![9; 100_000];
    let name = put(root.path(), &content);
    let path = root.path().join(name.to_string());
    for damaged in [content[..50_000].to_vec(), Vec::new(), {
        let mut c = content.clone();
        c[99_999] ^= 1;
        c
    }] {
        fs::write(&path, &damaged).unwrap();
        let store = Filestore::open(root.path()).unwrap();
        let mut bytes = Vec::new();
        let mut reading = store.read(&name).unwrap();
        reading.read_to_end(&mut bytes).unwrap();
        assert_ne!(reading.finish().sha1, name.0);
        assert_eq!(bytes, damaged);
    }
}
