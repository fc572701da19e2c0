//! A cache must never be trusted, never be in the way, and never stop anything.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::ids::{Digest, Scope};

fn time() -> Timestamp {
    "2026-11-22T07:24:00Z".parse().unwrap()
}

fn stored(version: &str, content: &[u8]) -> StoredVersion {
    StoredVersion { version: version.into(), created: time(), content: content.to_vec() }
}

fn row(number: u32) -> EnvelopeRow {
    let name = format!("tenant/acme/sets/main/{number:08}.envelope.json");
    let named = NamedRow {
        name: format!("tenant/acme/packs/{number}"),
        sha256: Digest::of(b"pack"),
        bytes: 7,
        locked_until: time(),
    };
    EnvelopeRow {
        sha256: Digest::of(name.as_bytes()),
        name,
        kind: "set".into(),
        scope: Scope::Tenant("acme".into()),
        source: "main".into(),
        time: time(),
        locked_until: time() + SignedDuration::from_hours(1),
        envelope: stored("v1", b"{}\0 not text \xFF"),
        signature: stored("v2", b"signed"),
        named: vec![named],
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn file(&self) -> PathBuf {
        self.0.path().join("state").join(FILE)
    }
    async fn open(&self) -> (Catalog, Found) {
        Catalog::open(&self.0.path().join("state"), "s3://one").await.unwrap()
    }
}

#[tokio::test]
async fn what_is_put_in_comes_back_and_a_dump_says_all_of_it() {
    let folder = Folder::new();
    let (catalog, found) = folder.open().await;
    assert_eq!(found, Found::New);
    catalog.settle(&[row(1), row(2)], &[]).await.unwrap();
    let contents = catalog.contents("tenant/acme/sets/").await.unwrap();
    assert_eq!(contents[0], (row(1).name, row(1).envelope, row(1).signature));
    assert_eq!((contents.len(), catalog.counts().await.unwrap()), (2, (2, 2)));
    assert_eq!(catalog.contents("tenant/acm/").await.unwrap().len(), 0);
    let dump = catalog.dump().await.unwrap();
    drop(catalog);
    let (catalog, found) = folder.open().await;
    assert_eq!((found, catalog.dump().await.unwrap()), (Found::Whole, dump.clone()));
    let mut other = row(2);
    other.named[0].bytes = 8;
    catalog.settle(&[other], &[]).await.unwrap();
    assert_ne!(catalog.dump().await.unwrap(), dump);
    catalog.settle(&[row(2)], &[]).await.unwrap();
    assert_eq!(catalog.dump().await.unwrap(), dump);
    catalog.settle(&[], &[row(1).name, row(2).name]).await.unwrap();
    assert_eq!(catalog.dump().await.unwrap(), "");
}

#[tokio::test]
async fn two_stores_share_the_file_and_nothing_else() {
    let folder = Folder::new();
    let (one, _) = folder.open().await;
    let (other, _) = Catalog::open(&folder.0.path().join("state"), "s3://other").await.unwrap();
    one.settle(&[row(1)], &[]).await.unwrap();
    let read = VerifiedRow {
        name: row(1).named[0].name.clone(),
        version: "v".into(),
        sha256: Digest::of(b"x"),
        level: 1,
        time: time(),
        outcome: "right".into(),
    };
    one.note_verified(std::slice::from_ref(&read)).await.unwrap();
    assert_eq!((other.contents("").await.unwrap().len(), other.seen().await.unwrap().len()), (0, 0));
    assert_eq!(other.verified().await.unwrap(), []);
    other.clear().await.unwrap();
    assert_eq!(one.verified().await.unwrap(), [read]);
    assert_eq!(one.contents("").await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_this_machine_alone_knows_outlives_a_rebuild_and_lapses_with_its_reason() {
    let folder = Folder::new();
    let (catalog, _) = folder.open().await;
    catalog.settle(&[row(1), row(2)], &[]).await.unwrap();
    let read = |n: u32| VerifiedRow {
        name: row(n).named[0].name.clone(),
        version: "v".into(),
        sha256: Digest::of(b"x"),
        level: 2,
        time: time(),
        outcome: "right".into(),
    };
    catalog.note_verified(&[read(1), read(2)]).await.unwrap();
    catalog.clear().await.unwrap();
    assert_eq!((catalog.seen().await.unwrap().len(), catalog.verified().await.unwrap().len()), (2, 2));
    catalog.settle(&[row(1)], &[]).await.unwrap();
    catalog.tidy(time()).await.unwrap();
    assert_eq!(catalog.verified().await.unwrap(), [read(1)], "the other is named by nobody any more");
    assert_eq!(catalog.seen().await.unwrap().len(), 2, "its lock runs: who took it away?");
    catalog.tidy(time() + SignedDuration::from_hours(2)).await.unwrap();
    assert_eq!(catalog.seen().await.unwrap(), []);
}

#[tokio::test]
async fn nobody_but_its_owner_can_read_it() {
    let folder = Folder::new();
    let (catalog, _) = folder.open().await;
    catalog.settle(&[row(1)], &[]).await.unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(folder.file().parent().unwrap()).unwrap() {
        let entry = entry.unwrap();
        files += 1;
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", entry.path().display());
    }
    assert_eq!(files, 3, "the file, its log and its index");
}

#[tokio::test]
async fn a_garbled_or_older_file_is_begun_anew_and_a_newer_one_is_left_alone() {
    for garbled in [b"not a database".to_vec(), vec![0; 4096], vec![0xAB; 20_000]] {
        let folder = Folder::new();
        let (catalog, _) = folder.open().await;
        sqlx::Connection::close(catalog.connection.into_inner()).await.unwrap();
        std::fs::write(folder.file(), &garbled).unwrap();
        let (catalog, found) = folder.open().await;
        assert!(matches!(found, Found::BegunAnew { .. }), "{found:?}");
        catalog.settle(&[row(1)], &[]).await.unwrap();
    }
    for (version, newer) in [(0_i64, false), (-3, false), (2, true)] {
        let folder = Folder::new();
        let (catalog, _) = folder.open().await;
        catalog.settle(&[row(1)], &[]).await.unwrap();
        let mut connection = catalog.connection.into_inner();
        let change = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {version}"));
        sqlx::raw_sql(change).execute(&mut connection).await.unwrap();
        sqlx::Connection::close(connection).await.unwrap();
        let before = std::fs::read(folder.file()).unwrap();
        let opened = Catalog::open(&folder.0.path().join("state"), "s3://one").await;
        if newer {
            assert!(matches!(opened, Err(CatalogError::Newer { found: 2, .. })), "{opened:?}");
            assert_eq!(std::fs::read(folder.file()).unwrap(), before);
        } else {
            assert!(matches!(opened.unwrap().1, Found::BegunAnew { .. }));
        }
    }
}

#[tokio::test]
async fn damage_further_in_is_told_as_such_and_the_file_can_be_thrown_away() {
    let folder = Folder::new();
    let (catalog, _) = folder.open().await;
    let rows: Vec<EnvelopeRow> = (0..300).map(row).collect();
    catalog.settle(&rows, &[]).await.unwrap();
    sqlx::Connection::close(catalog.connection.into_inner()).await.unwrap();
    let mut bytes = std::fs::read(folder.file()).unwrap();
    let from = 8 * 4096;
    bytes[from..].fill(0x5A);
    std::fs::write(folder.file(), bytes).unwrap();
    let (catalog, _) = folder.open().await;
    let error = catalog.contents("").await.unwrap_err();
    assert!(matches!(error, CatalogError::Garbled { .. }), "{error:?}");
    catalog.discard().unwrap();
    let (catalog, found) = folder.open().await;
    assert_eq!((found, catalog.contents("").await.unwrap().len()), (Found::New, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_at_once_lose_nothing() {
    let folder = Folder::new();
    let state = folder.0.path().join("state");
    // All of them make the file, its tables and rows at the same time.
    let writers = (0..6_u32).map(|writer| {
        let state = state.clone();
        tokio::spawn(async move {
            let (catalog, _) = Catalog::open(&state, "s3://one").await.unwrap();
            for number in 0..20 {
                catalog.settle(&[row(writer * 100 + number), row(7)], &[]).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let (catalog, _) = folder.open().await;
    // Row 7 is one of the first writer's own.
    assert_eq!(catalog.counts().await.unwrap(), (120, 120));
}

#[tokio::test]
async fn a_transaction_that_was_cut_short_changes_nothing() {
    let folder = Folder::new();
    let (catalog, _) = folder.open().await;
    catalog.settle(&[row(1)], &[]).await.unwrap();
    let before = catalog.dump().await.unwrap();
    {
        let mut connection = catalog.connection.lock().await;
        let mut transaction = sqlx::Connection::begin_with(&mut *connection, "BEGIN IMMEDIATE").await.unwrap();
        sqlx::raw_sql("DELETE FROM envelope").execute(&mut *transaction).await.unwrap();
        drop(transaction);
    }
    assert_eq!(catalog.dump().await.unwrap(), before);
}
