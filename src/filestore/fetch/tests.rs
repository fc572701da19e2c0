use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

fn named(content: &[u8]) -> FileName {
    FileName(Reading::new(content).drain().unwrap().sha1)
}

fn target() -> (tempfile::TempDir, Target) {
    let above = tempfile::tempdir().unwrap();
    let target = Target::create(&above.path().join("filestore/acme")).unwrap();
    (above, target)
}

#[test]
fn a_file_is_placed_once_and_a_second_time_is_left_alone() {
    let (above, mut target) = target();
    let name = named(b"hello");
    assert_eq!(target.place(&name, &mut &b"hello"[..]).unwrap(), Placed::New);
    assert_eq!(target.place(&name, &mut &b"not even read"[..]).unwrap(), Placed::Right);
    target.finish().unwrap();
    assert_eq!(fs::read(above.path().join("filestore/acme").join(name.to_string())).unwrap(), b"hello");
}

#[test]
fn wrong_content_leaves_no_file_and_no_temporary_one() {
    let (above, mut target) = target();
    let name = named(b"hello");
    for wrong in [&b"hellp"[..], b"hell", b"", b"hello!"] {
        assert!(matches!(target.place(&name, &mut &wrong[..]), Err(FetchError::WrongContent { .. })));
    }
    let folder = above.path().join("filestore/acme").join(name.folder());
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn a_reader_that_fails_midway_leaves_nothing() {
    struct Breaks(u8);
    impl Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 3 { Err(io::Error::other("the pack ends here")) } else { Ok(buffer.len()) }
        }
    }
    let (above, mut target) = target();
    let name = named(b"hello");
    assert!(matches!(target.place(&name, &mut Breaks(0)), Err(FetchError::Content { .. })));
    assert_eq!(fs::read_dir(above.path().join("filestore/acme").join(name.folder())).unwrap().count(), 0);
}

#[test]
fn a_wrong_file_a_link_or_a_folder_in_the_way_is_replaced_and_its_target_untouched() {
    let (above, mut target) = target();
    let name = named(b"hello");
    let path = above.path().join("filestore/acme").join(name.to_string());
    let outside = above.path().join("outside");
    fs::write(&outside, b"hello").unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"hel").unwrap();
    assert_eq!(target.place(&name, &mut &b"hello"[..]).unwrap(), Placed::Replaced);
    fs::remove_file(&path).unwrap();
    symlink(&outside, &path).unwrap();
    assert_eq!(target.place(&name, &mut &b"hello"[..]).unwrap(), Placed::Replaced);
    assert!(path.symlink_metadata().unwrap().is_file());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(target.place(&name, &mut &b"hello"[..]).unwrap(), Placed::Replaced);
    assert_eq!(fs::read(outside).unwrap(), b"hello");
}

#[test]
fn a_wrong_file_is_gone_even_when_its_replacement_is_wrong_too() {
    let (above, mut target) = target();
    let name = named(b"hello");
    let path = above.path().join("filestore/acme").join(name.to_string());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"hel").unwrap();
    assert!(target.place(&name, &mut &b"nor this"[..]).is_err());
    assert!(!path.exists());
}

#[test]
fn a_temporary_file_or_link_left_by_a_crash_is_no_obstacle() {
    let (above, mut target) = target();
    let name = named(b"hello");
    let outside = above.path().join("outside");
    fs::write(&outside, b"keep").unwrap();
    let folder = above.path().join("filestore/acme").join(name.folder());
    fs::create_dir_all(&folder).unwrap();
    symlink(&outside, folder.join(format!(".lifeboat-{}", name.sha1()))).unwrap();
    assert_eq!(target.place(&name, &mut &b"hello"[..]).unwrap(), Placed::New);
    assert_eq!(fs::read(outside).unwrap(), b"keep");
}

#[test]
fn an_existing_folder_or_a_link_is_refused_and_never_nested_into() {
    let above = tempfile::tempdir().unwrap();
    fs::create_dir(above.path().join("acme")).unwrap();
    assert!(matches!(Target::create(&above.path().join("acme")), Err(FetchError::Exists { .. })));
    symlink(above.path().join("acme"), above.path().join("link")).unwrap();
    assert!(matches!(Target::create(&above.path().join("link")), Err(FetchError::Exists { .. })));
    assert!(Target::resume(&above.path().join("link")).is_err());
    assert_eq!(fs::read_dir(above.path().join("acme")).unwrap().count(), 0);
}

#[test]
fn a_sub_folder_that_is_a_link_is_not_written_through() {
    let (above, mut target) = target();
    let name = named(b"hello");
    let outside = above.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, above.path().join("filestore/acme").join(name.folder())).unwrap();
    assert!(target.place(&name, &mut &b"hello"[..]).is_err());
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

proptest! {
    #[test]
    fn every_referenced_name_is_planned_exactly_once(
        referenced in proptest::collection::vec(0_u8..40, 0..60),
        stored in proptest::collection::btree_set(0_u8..40, 0..40),
        missing in proptest::collection::btree_set(0_u8..40, 0..40),
    ) {
        let name = |n: u8| FileName([n; 20]);
        let stored: BTreeMap<_, _> = stored.into_iter().map(|n| (name(n), n)).collect();
        let missing: BTreeSet<_> = missing.into_iter().map(name).collect();
        let plan = plan(referenced.iter().copied().map(name), &stored, &missing);
        let wanted: BTreeSet<_> = referenced.into_iter().map(name).collect();
        let mut planned: Vec<_> = plan.fetch.iter().map(|(name, _)| *name).collect();
        planned.extend(&plan.missing_at_source);
        planned.extend(&plan.missing_in_backup);
        prop_assert_eq!(planned.len(), wanted.len());
        prop_assert_eq!(planned.into_iter().collect::<BTreeSet<_>>(), wanted);
        prop_assert!(plan.fetch.iter().all(|(name, place)| stored.get(name) == Some(place)));
        prop_assert!(plan.missing_at_source.iter().all(|name| missing.contains(name)));
        prop_assert!(plan.missing_in_backup.iter().all(|name| !stored.contains_key(name) && !missing.contains(name)));
    }
}
