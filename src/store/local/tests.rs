use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use futures::TryStreamExt as _;
use jiff::SignedDuration;

use super::*;
use crate::failure::{Failure, Kind};
use crate::store::contract;

const DAY: SignedDuration = SignedDuration::from_hours(24);

struct Fixture {
    folder: tempfile::TempDir,
    clock: Clock,
    store: LocalStore,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::set_to("2026-11-22T08:00:00Z".parse().unwrap());
    let store = LocalStore::open(folder.path(), clock.clone()).unwrap();
    Fixture { folder, clock, store }
}

impl Fixture {
    async fn put(&self, name: &str) -> Result<Version, StoreError> {
        self.store.put(name, Bytes::from_static(b"bytes"), self.clock.now() + DAY).await
    }
    fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }
}

async fn names(store: &LocalStore) -> Result<Vec<String>, StoreError> {
    store.list("").map_ok(|entry| entry.name).try_collect().await
}

fn only() -> Version {
    Version(ONLY_VERSION.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract() {
    let Fixture { folder, clock, .. } = fixture();
    let make =
        || async { LocalStore::open(folder.path(), clock.clone()).map(|store| Arc::new(store) as Arc<dyn Store>) };
    contract::check(make, &clock, "c").await.unwrap();
}

#[tokio::test]
async fn it_keeps_the_contract_on_one_thread_too() {
    let Fixture { folder, clock, .. } = fixture();
    let make =
        || async { LocalStore::open(folder.path(), clock.clone()).map(|store| Arc::new(store) as Arc<dyn Store>) };
    contract::check(make, &clock, "c").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_changes_than_threads_end() {
    let fixture = fixture();
    let puts = (0..700).map(|n| {
        let fixture = &fixture;
        async move { fixture.put(&format!("a/{n}")).await }
    });
    assert!(futures::future::join_all(puts).await.iter().all(Result::is_ok));
    assert_eq!(names(&fixture.store).await.unwrap().len(), 700, "more than a listing reads at a time");
}

#[tokio::test]
async fn a_missing_folder_is_out_of_reach_and_named() {
    let fixture = fixture();
    let error = LocalStore::open(&fixture.file("nowhere"), fixture.clock.clone()).unwrap_err();
    assert!(matches!(&error, StoreError::Unreachable { name, .. } if name.ends_with("nowhere")), "{error:?}");
    assert_eq!(Failure::from(error).kind, Kind::Unreachable);
    std::fs::write(fixture.file("file"), "").unwrap();
    let error = LocalStore::open(&fixture.file("file"), fixture.clock.clone()).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_folder_that_goes_away_is_out_of_reach_for_every_call_and_is_not_made_anew() {
    for replaced in [false, true] {
        let fixture = fixture();
        fixture.put("a/b").await.unwrap();
        let root = fixture.file("");
        let aside = root.with_file_name(format!("{}.aside", root.file_name().unwrap().display()));
        std::fs::rename(&root, &aside).unwrap();
        if replaced {
            std::fs::create_dir(&root).unwrap();
        }
        let until = fixture.clock.now();
        let errors = [
            fixture.put("a/c").await.err(),
            fixture.store.get("a/b", None, None).await.err(),
            fixture.store.lock_state("a/b", &only()).await.err(),
            fixture.store.extend("a/b", &only(), until).await.err(),
            fixture.store.hold("a/b", &only(), true).await.err(),
            fixture.store.remove("a/b", &only()).await.err(),
            names(&fixture.store).await.err(),
        ];
        for (call, error) in errors.iter().enumerate() {
            assert!(matches!(error, Some(StoreError::Unreachable { .. })), "call {call}: {error:?}");
        }
        if replaced {
            assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "nothing was written where a mount was");
            std::fs::remove_dir(&root).unwrap();
        }
        std::fs::rename(&aside, &root).unwrap();
        assert_eq!(names(&fixture.store).await.unwrap(), ["a/b"], "it works again when the folder is back");
    }
}

#[tokio::test]
async fn opening_and_reading_write_nothing() {
    let fixture = fixture();
    assert!(names(&fixture.store).await.unwrap().is_empty());
    assert!(fixture.store.get("a", None, None).await.is_err());
    assert!(fixture.store.lock_state("a", &only()).await.is_err());
    assert!(fixture.store.extend("a/b", &only(), fixture.clock.now()).await.is_err());
    assert_eq!(std::fs::read_dir(fixture.folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_object_is_read_only_and_as_old_as_the_clock_says() {
    let fixture = fixture();
    fixture.put("a/b").await.unwrap();
    assert_eq!(fixture.file("a/b").metadata().unwrap().permissions().mode() & 0o7777, 0o440);
    let listed: Vec<_> = fixture.store.list("").try_collect().await.unwrap();
    assert_eq!(listed[0].created, fixture.clock.now());
}

#[tokio::test]
async fn what_is_not_an_object_is_never_listed() {
    let fixture = fixture();
    fixture.put("a/b").await.unwrap();
    std::fs::write(fixture.file("a/b#1"), "half").unwrap();
    std::fs::write(fixture.file("a/c d"), "a stranger's").unwrap();
    std::fs::create_dir(fixture.file("empty")).unwrap();
    symlink("/etc", fixture.file("etc")).unwrap();
    symlink("/etc/hostname", fixture.file("a/link")).unwrap();
    symlink("..", fixture.file("a/loop")).unwrap();
    assert_eq!(names(&fixture.store).await.unwrap(), ["a/b"]);
}

#[tokio::test]
async fn half_written_files_are_swept_by_the_next_put_there_and_nothing_else_is() {
    let fixture = fixture();
    fixture.put("a/b").await.unwrap();
    let (half, strangers) = (["a/x#1", "a/x#23", "@locks/a/x@next"], ["a/x#", "a/#1#", "a/x#y", "a/#x"]);
    for path in half.iter().chain(&strangers) {
        std::fs::write(fixture.file(path), "half").unwrap();
    }
    let reopened = LocalStore::open(fixture.folder.path(), fixture.clock.clone()).unwrap();
    reopened.put("a/c", Bytes::new(), fixture.clock.now()).await.unwrap();
    assert!(half.iter().all(|path| !fixture.file(path).exists()));
    assert!(strangers.iter().all(|path| fixture.file(path).exists()));
}

#[tokio::test]
async fn a_lock_without_an_object_is_no_object_and_is_replaced() {
    let fixture = fixture();
    // What a process leaves that was killed between the lock and the object.
    let far = LockState { retained_until: Some(fixture.clock.now() + DAY * 999), held: true };
    drop(fixture.store.folder.locks.enter("a/b").unwrap());
    fixture.store.folder.locks.write("a/b", &far).unwrap();
    assert!(names(&fixture.store).await.unwrap().is_empty());
    assert!(matches!(fixture.store.lock_state("a/b", &only()).await, Err(StoreError::NotFound { .. })));
    let version = fixture.put("a/b").await.unwrap();
    let wanted = LockState { retained_until: Some(fixture.clock.now() + DAY), held: false };
    assert_eq!(fixture.store.lock_state("a/b", &version).await.unwrap(), wanted);
}

#[tokio::test]
async fn an_object_whose_lock_is_missing_or_damaged_counts_as_locked() {
    let fixture = fixture();
    let version = fixture.store.put("a", Bytes::new(), fixture.clock.now()).await.unwrap();
    fixture.clock.advance(DAY);
    let lock = fixture.file("@locks/a@lock");
    let whole = std::fs::read(&lock).unwrap();
    let damaged: [Option<&[u8]>; 5] = [
        None,
        Some(b""),
        Some(&whole[..whole.len() - 1]),
        Some(b"{}x"),
        Some(br#"{"retained_until":null,"held":false,"x":1}"#),
    ];
    for content in damaged {
        match content {
            None => std::fs::remove_file(&lock).unwrap(),
            Some(content) => std::fs::write(&lock, content).unwrap(),
        }
        for error in [
            fixture.store.remove("a", &version).await.unwrap_err(),
            fixture.store.lock_state("a", &version).await.unwrap_err(),
            fixture.store.hold("a", &version, false).await.unwrap_err(),
            fixture.store.extend("a", &version, fixture.clock.now()).await.unwrap_err(),
        ] {
            assert!(matches!(&error, StoreError::Other { what, .. } if what.contains("counts as locked")), "{error:?}");
        }
    }
    std::fs::write(&lock, whole).unwrap();
    fixture.store.remove("a", &version).await.unwrap();
}

#[tokio::test]
async fn a_removed_name_can_be_put_again_and_leaves_nothing_of_the_old_lock() {
    let fixture = fixture();
    let version = fixture.store.put("a/b", Bytes::new(), fixture.clock.now()).await.unwrap();
    fixture.clock.advance(DAY);
    fixture.store.remove("a/b", &version).await.unwrap();
    assert!(!fixture.file("@locks/a/b@lock").exists());
    fixture.put("a/b").await.unwrap();
    assert_eq!(fixture.store.get("a/b", None, None).await.unwrap(), "bytes");
}

#[tokio::test]
async fn a_name_that_a_folder_or_an_object_is_in_the_way_of_is_refused_and_harms_neither() {
    let fixture = fixture();
    fixture.put("a/b").await.unwrap();
    for name in ["a", "a/b/c"] {
        let error = fixture.put(name).await.unwrap_err();
        assert!(matches!(error, StoreError::Other { .. }), "{error:?}");
    }
    assert_eq!(names(&fixture.store).await.unwrap(), ["a/b"]);
    // The suffixes of lock files cannot meet the names of others.
    for name in ["c", "c.json/d", "clock/d", "c.lock"] {
        fixture.put(name).await.unwrap();
    }
    assert_eq!(names(&fixture.store).await.unwrap(), ["a/b", "c", "c.json/d", "c.lock", "clock/d"]);
}

#[tokio::test]
async fn folders_deeper_than_any_name_are_passed_over() {
    let fixture = fixture();
    fixture.put("a/b").await.unwrap();
    let deep = fixture.file(&vec!["x".repeat(crate::store::PART_BYTES); 6].join("/"));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), "a stranger's").unwrap();
    assert_eq!(names(&fixture.store).await.unwrap(), ["a/b"]);
}

#[test]
fn a_full_disk_is_recognised_through_object_stores_own_errors() {
    for (code, full, unreachable) in
        [(28, true, false), (122, true, false), (5, false, true), (116, false, true), (13, false, false)]
    {
        // ENOSPC, EDQUOT, EIO, ESTALE, EACCES
        let wrapped = object_store::Error::Generic { store: "x", source: Box::new(io::Error::from_raw_os_error(code)) };
        let error = from_files("a", wrapped);
        assert_eq!(matches!(error, StoreError::Full { .. }), full, "{error:?}");
        assert_eq!(matches!(error, StoreError::Unreachable { .. }), unreachable, "{error:?}");
    }
}

/// Runs one of the ignored tests below in a process of its own, told about `folder`.
fn another_process(wrap: &[&str], test: &str, folder: &Path) -> Command {
    let me = std::env::current_exe().unwrap();
    let mut words = wrap.iter().map(std::ffi::OsString::from).chain([me.into()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["--ignored", "--exact", &format!("store::local::tests::{test}")]);
    command.env("LIFEBOAT_TEST_FOLDER", folder).stdout(Stdio::null());
    command
}

fn told_folder() -> PathBuf {
    std::env::var_os("LIFEBOAT_TEST_FOLDER").expect("only run by another test").into()
}

#[tokio::test]
async fn a_process_killed_at_any_moment_leaves_whole_locked_objects() {
    let folder = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    for round in 1..=12 {
        let mut child = another_process(&[], "puts_until_killed", folder.path()).spawn().unwrap();
        let store = LocalStore::open(folder.path(), Clock::system()).unwrap();
        let known = found.len();
        while found.len() < known + round {
            assert!(child.try_wait().unwrap().is_none(), "the other process ended by itself");
            found = names(&store).await.unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        found = names(&store).await.unwrap();
        for name in &found {
            let bytes = store.get(name, None, None).await.unwrap();
            assert!(bytes.len() == 200_000 && bytes.iter().all(|byte| *byte == bytes[0]), "{name} is not whole");
            assert!(matches!(store.remove(name, &only()).await, Err(StoreError::Locked { .. })), "{name} has no lock");
        }
        // The kernel has let go of the dead process's mutex.
        store.put(&format!("a/after-{round}"), vec![0; 200_000].into(), Clock::system().now() + DAY).await.unwrap();
        found = names(&store).await.unwrap();
    }
    let staged = |path: &Path| {
        std::fs::read_dir(path).unwrap().any(|entry| entry.unwrap().file_name().to_str().unwrap().contains('#'))
    };
    assert!(!staged(&folder.path().join("a")), "the last put swept what the killed ones left");
}

#[tokio::test]
#[ignore = "run by the test above in a process of its own"]
async fn puts_until_killed() {
    let store = LocalStore::open(&told_folder(), Clock::system()).unwrap();
    for n in 0_u64.. {
        let name = format!("a/{}-{n}", std::process::id());
        store.put(&name, vec![n as u8; 200_000].into(), Clock::system().now() + DAY).await.unwrap();
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_breaks_the_listing_instead_of_shortening_it() {
    let fixture = fixture();
    for name in ["a/b", "c/d", "e/f"] {
        fixture.put(name).await.unwrap();
    }
    std::fs::set_permissions(fixture.folder.path(), Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(fixture.file("c"), Permissions::from_mode(0o000)).unwrap();
    // Root may read everything: then somebody else looks.
    let nobody: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let wrap = if rustix::process::geteuid().is_root() { nobody } else { &[] };
    let status = another_process(wrap, "lists_until_refused", fixture.folder.path()).status().unwrap();
    std::fs::set_permissions(fixture.file("c"), Permissions::from_mode(0o755)).unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
#[ignore = "run by the test above in a process of its own"]
async fn lists_until_refused() {
    let store = LocalStore::open(&told_folder(), Clock::system()).unwrap();
    let listed: Vec<_> = store.list("").collect().await;
    let [Ok(first), Err(StoreError::Other { name, .. })] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!((first.name.as_str(), name.as_str()), ("a/b", "c/"));
}

#[test]
fn a_real_full_disk_and_a_real_unmount_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let wrap = ["unshare", "--user", "--map-root-user", "--mount"];
    let status = another_process(&wrap, "fills_and_unmounts", folder.path()).status().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
#[ignore = "run by the test above in namespaces of its own"]
async fn fills_and_unmounts() {
    let folder = told_folder();
    let run = |program: &str, args: &[&str]| {
        assert!(Command::new(program).args(args).arg(&folder).status().unwrap().success());
    };
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "none"]);
    let store = LocalStore::open(&folder, Clock::system()).unwrap();
    let until = Clock::system().now() + DAY;
    let error = store.put("a/large", vec![1; 2 << 20].into(), until).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(names(&store).await.unwrap().is_empty());
    assert!(!folder.join("@locks/a/large@lock").exists());
    store.put("a/small", Bytes::from_static(b"x"), until).await.unwrap();

    run("umount", &["-l"]);
    let error = store.put("a/b", Bytes::new(), until).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(matches!(store.get("a/small", None, None).await, Err(StoreError::Unreachable { .. })));
    assert!(matches!(names(&store).await, Err(StoreError::Unreachable { .. })));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing was written under the mount point");
}

const RACED: usize = 150;

#[tokio::test]
async fn two_processes_that_extend_and_remove_agree_who_was_first() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path(), Clock::system()).unwrap();
    let mut child = another_process(&[], "removes_as_soon_as_it_can", folder.path()).spawn().unwrap();
    let past = Clock::system().now() - DAY;
    let mut kept = Vec::new();
    for n in 0..RACED {
        let name = format!("a/{n:03}");
        // The other process is already waiting for this one.
        store.put(&name, Bytes::new(), past).await.unwrap();
        match store.extend(&name, &only(), past + DAY * 2).await {
            Ok(()) => kept.push(name),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(names(&store).await.unwrap(), kept, "what was extended is there, the others were removed first");
}

#[tokio::test]
#[ignore = "run by the test above in a process of its own"]
async fn removes_as_soon_as_it_can() {
    let store = LocalStore::open(&told_folder(), Clock::system()).unwrap();
    for n in 0..RACED {
        loop {
            match store.remove(&format!("a/{n:03}"), &only()).await {
                Ok(()) | Err(StoreError::Locked { .. }) => break,
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}
