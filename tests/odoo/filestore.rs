//! The filestore: what the database references, what the folder has, and the collection held.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat::filestore::FileName;
use lifeboat::filestore::fetch::{Target, plan};
use lifeboat::filestore::hold::{Hold, HoldError, Line};
use lifeboat::filestore::reconcile::reconcile;
use lifeboat::filestore::rows::{Row, RowsError, referenced};
use lifeboat::filestore::scan::{Filestore, Kind};
use lifeboat::filestore::state::{FileState, judge};
use lifeboat::watch::Quiet;

use crate::server::{Server, data, json, sql};

/// Unpacks a tenant's filestore (or what was added to it) below `root`.
fn unpack(tenant: &str, archive: &str, root: &Path) {
    let file = data(tenant).unwrap().join(archive);
    let plain = zstd::decode_all(std::fs::File::open(file).unwrap()).unwrap();
    tar::Archive::new(&plain[..]).unpack(root).unwrap();
}

/// Every name with its state, and how many markers there are.
fn states(folder: &Path, rows: &[Row]) -> (BTreeMap<FileName, FileState>, usize) {
    let store = Filestore::open(folder).unwrap();
    let (mut files, mut listed) = (BTreeMap::new(), BTreeSet::new());
    for entry in store.scan().unwrap() {
        match entry.kind {
            Kind::File(name) => drop(files.insert(name, store.read(&name).unwrap().drain().unwrap())),
            Kind::Checklist(name) => drop(listed.insert(name)),
            other => panic!("{}: {other:?}", entry.path),
        }
    }
    let by_name: BTreeMap<FileName, &Row> = rows.iter().map(|row| (row.store_fname, row)).collect();
    let names: BTreeSet<FileName> = files.keys().chain(by_name.keys()).copied().collect();
    let state = |name| judge(&name, by_name.get(&name).copied(), files.get(&name), listed.contains(&name));
    (names.into_iter().filter_map(|name| Some((name, state(name)?))).collect(), listed.len())
}

fn named(states: &BTreeMap<FileName, FileState>, wanted: impl Fn(&FileState) -> bool) -> Vec<String> {
    states.iter().filter(|(_, state)| wanted(state)).map(|(name, _)| name.to_string()).collect()
}

fn is_orphan(state: &FileState) -> bool {
    matches!(state, FileState::OrphanListed | FileState::OrphanUnlisted)
}

fn strings(value: &serde_json::Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn rows_files_orphans_and_markers_are_those_that_were_expected() {
    let server = Server::start();
    for tenant in ["initech", "globex"] {
        if data(tenant).is_none() {
            continue;
        }
        let root = tempfile::tempdir().unwrap();
        unpack(tenant, &format!("{tenant}.filestore.tar.zst"), root.path());
        let mut connection = server.connect(&server.database(tenant)).await;
        let found = referenced(&mut connection).await.unwrap();
        let expected = &json(tenant, "expected")["filestore"];
        assert_eq!(found.counts.with_file, expected["rows_with_store_fname"]);
        assert_eq!(found.rows.len(), expected["distinct_store_fname"]);
        assert_eq!((found.counts.strange, found.rows.iter().filter(|row| row.disagree > 0).count()), (0, 0));
        let (states, markers) = states(&root.path().join(tenant), &found.rows);
        assert_eq!(markers, expected["checklist_entries"]);
        assert_eq!(named(&states, |state| *state == FileState::Missing), strings(&expected["missing"]));
        assert_eq!(named(&states, is_orphan), strings(&expected["orphans"]));
        let unlisted = named(&states, |state| *state == FileState::OrphanUnlisted);
        assert_eq!(unlisted, strings(&expected["orphans_not_in_checklist"]));
        assert_eq!(named(&states, |state| matches!(state, FileState::Mismatch { .. })), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_database_paired_with_the_files_of_another_time_has_the_missing_files_and_orphans_that_were_measured() {
    let Some(shared) = data("acme-later") else { return };
    let server = Server::start();
    let (earlier, later) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for root in [&earlier, &later] {
        unpack("acme", "acme.filestore.tar.zst", root.path());
    }
    let removed = std::fs::read_to_string(shared.join("acme-later.filestore-removed.txt")).unwrap();
    for name in removed.lines() {
        std::fs::remove_file(later.path().join("acme").join(name)).unwrap();
    }
    unpack("acme", "acme-later.filestore-added.tar.zst", later.path());
    let folder = |root: &tempfile::TempDir| -> PathBuf { root.path().join("acme") };
    let skew: serde_json::Value =
        serde_json::from_slice(&std::fs::read(shared.join("acme.skew.json")).unwrap()).unwrap();
    let pairs = [
        ("acme", folder(&later), "database of acme with files of acme-later"),
        ("acme-later", folder(&earlier), "database of acme-later with files of acme"),
    ];
    for (tenant, folder, key) in pairs {
        let mut connection = server.connect(&server.database(tenant)).await;
        let found = referenced(&mut connection).await.unwrap();
        let (states, _) = states(&folder, &found.rows);
        assert_eq!(named(&states, |state| *state == FileState::Missing), strings(&skew[key]["missing"]), "{key}");
        assert_eq!(named(&states, is_orphan), strings(&skew[key]["orphans"]), "{key}");
        let counts = &found.counts;
        assert_eq!((counts.in_database, counts.empty, counts.external.get("url")), (1, 1, Some(&2)), "{key}");
    }
}

#[tokio::test]
async fn a_filestore_fetched_back_by_what_the_database_references_is_whole() {
    let server = Server::start();
    let root = tempfile::tempdir().unwrap();
    unpack("initech", "initech.filestore.tar.zst", root.path());
    let mut connection = server.connect(&server.copy()).await;
    let found = referenced(&mut connection).await.unwrap();
    let source = Filestore::open(&root.path().join("initech")).unwrap();
    // Two were not backed up; of one of them that was known.
    let (lost, known) = (found.rows[3].store_fname, found.rows[5].store_fname);
    let mut stored: BTreeMap<FileName, ()> = found.rows.iter().map(|row| (row.store_fname, ())).collect();
    stored.remove(&lost);
    stored.remove(&known);
    let plan = plan(found.rows.iter().map(|row| row.store_fname), &stored, &BTreeSet::from([known]));
    assert_eq!((plan.missing_at_source, plan.missing_in_backup), (vec![known], vec![lost]));
    let mut target = Target::create(&root.path().join("restored/initech")).unwrap();
    for (name, ()) in &plan.fetch {
        target.place(name, &mut source.read(name).unwrap()).unwrap();
    }
    let counts = reconcile(&target.finish().unwrap(), &found.rows, &Quiet::default()).unwrap();
    assert_eq!((counts.referenced, counts.restored, counts.missing, counts.mismatched), (31, 29, 2, 0));
}

/// How Odoo's cron worker looks for the collection's job (`ir_cron.py`, `_acquire_one_job`).
const WORKER: &str = "SELECT id FROM ir_cron WHERE id = (SELECT res_id FROM ir_model_data WHERE module = 'base' \
     AND name = 'autovacuum_job') FOR NO KEY UPDATE SKIP LOCKED";

async fn worker_gets_the_job(connection: &mut sqlx::PgConnection) -> bool {
    sqlx::query(WORKER).fetch_optional(connection).await.unwrap().is_some()
}

#[tokio::test]
async fn while_held_a_cron_worker_passes_the_collection_over_and_gets_it_afterwards() {
    let server = Server::start();
    let database = server.copy();
    let (mut ours, mut odoo) = (server.connect(&database).await, server.connect(&database).await);
    assert!(worker_gets_the_job(&mut odoo).await);
    let hold = Hold::take(&mut ours).await.unwrap();
    assert_eq!((hold.line, &hold.note), (Line::CronRow, &None));
    assert!(!worker_gets_the_job(&mut odoo).await);
    let found = referenced(hold.connection).await.unwrap();
    assert_eq!(found.rows.len(), 31, "rows can be read under the hold");
    hold.release().await.unwrap();
    assert!(worker_gets_the_job(&mut odoo).await);
}

#[tokio::test]
async fn a_collection_under_way_is_held_at_its_table_and_writers_are_not() {
    let server = Server::start();
    let database = server.copy();
    let (mut ours, mut odoo) = (server.connect(&database).await, server.connect(&database).await);
    sql(&mut odoo, &format!("BEGIN; {WORKER}")).await;
    let hold = Hold::take_within(&mut ours, Duration::from_millis(200)).await.unwrap();
    assert_eq!(hold.line, Line::Attachments);
    assert!(hold.note.as_ref().unwrap().contains("running"));
    sql(&mut odoo, "UPDATE ir_attachment SET description = 'x' WHERE id = (SELECT min(id) FROM ir_attachment)").await;
    let collects = sqlx::query("LOCK ir_attachment IN SHARE MODE NOWAIT").execute(&mut odoo).await;
    assert!(collects.is_err());
    hold.release().await.unwrap();
}

#[tokio::test]
async fn a_hold_that_cannot_be_had_gives_up_and_leaves_the_connection_usable() {
    let server = Server::start();
    let database = server.copy();
    let (mut ours, mut odoo) = (server.connect(&database).await, server.connect(&database).await);
    sql(&mut odoo, &format!("BEGIN; {WORKER}; LOCK ir_attachment IN SHARE MODE")).await;
    let busy = Hold::take_within(&mut ours, Duration::from_millis(100)).await;
    assert!(matches!(busy, Err(HoldError::Busy { .. })), "{busy:?}");
    sql(&mut odoo, "ROLLBACK").await;
    Hold::take(&mut ours).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_database_without_the_job_is_held_at_its_table_and_one_without_attachments_is_not_odoo() {
    let server = Server::start();
    let database = server.copy();
    let mut ours = server.connect(&database).await;
    sql(&mut ours, "DELETE FROM ir_model_data WHERE name = 'autovacuum_job'").await;
    let hold = Hold::take(&mut ours).await.unwrap();
    assert_eq!(hold.line, Line::Attachments);
    hold.release().await.unwrap();
    let mut other = server.connect(&server.empty("not_odoo")).await;
    assert!(matches!(Hold::take(&mut other).await, Err(HoldError::NotOdoo { .. })));
    assert!(matches!(referenced(&mut other).await, Err(RowsError::NotOdoo)));
}

#[tokio::test]
async fn a_hold_that_was_lost_says_so() {
    let server = Server::start();
    let database = server.copy();
    let (mut ours, mut other) = (server.connect(&database).await, server.connect(&database).await);
    let hold = Hold::take(&mut ours).await.unwrap();
    sql(hold.connection, "COMMIT; BEGIN").await;
    assert!(matches!(hold.release().await, Err(HoldError::Lost { .. })), "the transaction was another");
    let hold = Hold::take(&mut ours).await.unwrap();
    let ends = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
    );
    sql(&mut other, &ends).await;
    assert!(matches!(hold.release().await, Err(HoldError::Lost { .. })), "the connection is gone");
}

#[tokio::test]
async fn a_view_in_the_place_of_a_table_is_refused_and_never_run() {
    let server = Server::start();
    let database = server.copy();
    let mut connection = server.connect(&database).await;
    sql(
        &mut connection,
        // A sequence keeps what was taken from it, whatever the transaction's end.
        "CREATE SEQUENCE public.ran; \
         CREATE FUNCTION spy() RETURNS text LANGUAGE sql AS $$ SELECT nextval('public.ran')::text $$; \
         ALTER TABLE ir_attachment RENAME TO real_attachment; \
         CREATE VIEW ir_attachment AS SELECT spy() AS store_fname, 1 AS file_size, 'x' AS checksum, 'x' AS type, \
           NULL::bytea AS db_datas; \
         ALTER TABLE ir_cron RENAME TO real_cron; CREATE VIEW ir_cron AS SELECT id, spy() AS x FROM real_cron",
    )
    .await;
    assert!(matches!(referenced(&mut connection).await, Err(RowsError::NotATable)));
    assert!(matches!(Hold::take(&mut connection).await, Err(HoldError::NotOdoo { .. })));
    let ran: bool = sqlx::query_scalar("SELECT is_called FROM public.ran").fetch_one(&mut connection).await.unwrap();
    assert!(!ran);
}
