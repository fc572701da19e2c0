//! The rig judges others, so it is judged first: every helper finds what it should and stays quiet where it should.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::time::Duration;

use support::cluster::{Cluster, Options};
use support::damage::{self, Damage};
use support::markers::Markers;
use support::oracle::Oracle;
use support::tenants::{self, Tenant};
use support::workload::{Workload, last_number};
use support::{compare, fingerprint};

#[test]
fn a_loaded_tenant_equals_the_state_that_came_with_it() {
    let cluster = Cluster::start(Options::default());
    let here = fingerprint::take(&cluster.server, "initech");
    let expected = fingerprint::expected(Tenant::Initech);
    assert_eq!(fingerprint::differences(&expected, &here), Vec::<String>::new());
    assert_eq!(expected.tables.len(), 218);
    let missing = fingerprint::missing_attachments(&cluster.server, "initech", &cluster.filestore.join("initech"));
    assert_eq!(missing, Vec::<String>::new());
    tenants::amcheck(&cluster.server, "initech");
}

#[test]
fn one_changed_cell_one_lost_row_and_a_sequence_set_back_are_seen() {
    let cluster = Cluster::start(Options::default());
    let before = fingerprint::take(&cluster.server, "initech");
    cluster.psql("initech", "UPDATE res_partner SET comment = 'x' WHERE id = (SELECT min(id) FROM res_partner)");
    cluster.psql("initech", "DELETE FROM bus_bus WHERE id = (SELECT min(id) FROM bus_bus)");
    cluster.psql("initech", "SELECT setval('res_partner_id_seq', 1)");
    let found = fingerprint::differences(&before, &fingerprint::take(&cluster.server, "initech"));
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn all_three_tenants_load_into_one_cluster() {
    if let Some(why) = tenants::missing() {
        return support::skip("all_three_tenants_load_into_one_cluster", why);
    }
    let cluster = Cluster::start(Options { tenants: tenants::ALL.to_vec(), ..Options::default() });
    for tenant in tenants::ALL {
        let here = fingerprint::take(&cluster.server, tenant.name());
        assert_eq!(fingerprint::differences(&fingerprint::expected(tenant), &here), Vec::<String>::new());
    }
}

#[test]
fn a_cluster_starts_with_the_settings_asked_for() {
    let cluster = Cluster::start(Options {
        data_checksums: false,
        wal_level: "logical".to_owned(),
        port: 5999,
        settings: vec![("work_mem".to_owned(), "7MB".to_owned())],
        ..Options::default()
    });
    let sql = "SELECT current_setting('data_checksums'), current_setting('wal_level'), current_setting('port'), \
               current_setting('work_mem'), current_setting('listen_addresses')";
    assert_eq!(cluster.psql("postgres", sql), "off\tlogical\t5999\t7MB\t");
}

#[test]
fn a_crashed_cluster_comes_back_and_a_dropped_one_leaves_nothing() {
    let mut cluster = Cluster::start(Options::default());
    cluster.psql("initech", "CREATE TABLE kept AS SELECT 1 AS x");
    cluster.crash();
    assert_eq!(cluster.psql("initech", "SELECT x FROM kept"), "1");
    let folder = cluster.dir().to_owned();
    let pid = std::fs::read_to_string(cluster.data.join("postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap().to_owned();
    drop(cluster);
    assert!(!folder.exists());
    assert!(!Path::new("/proc").join(pid).exists());
}

#[test]
fn the_oracle_agrees_with_the_source_at_the_moment_and_with_itself_file_by_file() {
    let cluster = Cluster::start(Options::default());
    let workload = Workload::start(&cluster, &["initech"], Duration::from_millis(3));
    workload.advance("initech", 20);
    let mut early = Oracle::begin(&cluster);
    workload.advance("initech", 40);
    let base = support::scratch();
    let tool = || cluster.server.tool("pg_basebackup");
    support::process::run(tool().args(["-X", "none", "-c", "fast", "--no-sync", "-D"]).arg(base.path().join("data")));
    workload.advance("initech", 40);
    let moment = workload.moment("initech");
    workload.advance("initech", 10);
    let log = workload.stop();
    early.wait_for(&log["initech"].last().unwrap().lsn);
    early.stop_receiving();

    let restored = early.restore_to(&moment.lsn);
    // A second base backup, taken later, replayed to the same LSN: what differs must be only what is masked.
    let later = support::oracle::recover(base, &early.wal(), Some(&moment.lsn));
    later.start().stop();
    let oid = cluster.server.database_oid("initech");
    let report = compare::database(&restored.data, &later.data, oid);
    assert_eq!(report.differences, Vec::<String>::new());
    assert!(report.files > 800, "only {} files were compared", report.files);
    assert!(!compare::database(&restored.data, &cluster.data, oid).differences.is_empty(), "the source has gone on");

    let running = restored.start();
    let state = fingerprint::take(&running.server, "initech");
    assert_eq!(fingerprint::differences(&moment.state, &state), Vec::<String>::new());
    assert_eq!(last_number(&running.server, "initech"), moment.number);
    assert!(moment.number < log["initech"].last().unwrap().number);
}

#[test]
fn the_comparison_sees_one_changed_byte_of_a_row() {
    let mut cluster = Cluster::start(Options::default());
    cluster.psql("initech", "CREATE TABLE witness AS SELECT 'abcdefgh'::text AS x; CHECKPOINT;");
    let path = cluster.psql("initech", "SELECT pg_relation_filepath('witness')");
    let oid = cluster.server.database_oid("initech");
    cluster.stop();
    let copy = support::scratch();
    std::fs::create_dir(copy.path().join("base")).unwrap();
    let (from, to) = (cluster.data.join(format!("base/{oid}")), copy.path().join("base"));
    support::process::run(std::process::Command::new("cp").arg("-a").arg(from).arg(to));
    assert_eq!(compare::database(&cluster.data, copy.path(), oid).differences, Vec::<String>::new());
    let file = copy.path().join(path);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(8).position(|window| window == b"abcdefgh").unwrap();
    bytes[at + 3] = b'X';
    std::fs::write(&file, bytes).unwrap();
    let differences = compare::database(&cluster.data, copy.path(), oid).differences;
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert!(differences[0].contains("block 0"), "{differences:?}");
}

#[test]
fn markers_are_found_in_the_tenant_s_files_and_in_its_wal_and_nowhere_in_another_tenant() {
    let cluster = Cluster::start(Options::default());
    cluster.psql("postgres", "CREATE DATABASE other TEMPLATE template0");
    let mut markers = Markers::default();
    markers.plant(&cluster.server, "initech");
    let base = |name: &str| cluster.data.join(format!("base/{}", cluster.server.database_oid(name)));
    let in_files = markers.search(&[&base("initech")]);
    let in_wal = markers.search(&[&cluster.data.join("pg_wal")]);
    let in_gids = markers.search(&[&cluster.data.join("pg_twophase")]);
    for place in ["a row", "an index", "EXTERNAL TOAST", "a large object", "a table's name", "a comment"] {
        assert!(in_files.iter().any(|found| found.place == place), "{place} is not in the files");
        assert!(in_wal.iter().any(|found| found.place == place), "{place} is not in the WAL");
    }
    for place in ["a logical message", "a prepared transaction's gid", "a rolled-back row", "a deleted row"] {
        assert!(in_wal.iter().any(|found| found.place == place), "{place} is not in the WAL");
    }
    assert!(in_gids.iter().any(|found| found.place == "a prepared transaction's gid"));
    assert_eq!(markers.search(&[&base("other"), &cluster.data.join("global")]), Vec::new());
    markers.commit_prepared(&cluster.server, "initech");
    assert_eq!(cluster.psql("initech", "SELECT count(*) FROM pg_prepared_xacts"), "0");
}

#[test]
fn a_marker_is_found_in_part_in_hex_and_inside_a_zstd_file() {
    let cluster = Cluster::start(Options::default());
    let mut markers = Markers::default();
    markers.plant(&cluster.server, "initech");
    let planted = |place| markers.planted.iter().find(|marker| marker.place == place).unwrap().bytes.clone();
    let (row, toast) = (planted("a row"), planted("EXTERNAL TOAST"));
    assert!(!markers.search_bytes("part", &row[5..21]).is_empty());
    assert!(!markers.search_bytes("part", &toast[5..20]).is_empty());
    assert!(!markers.search_bytes("hex", hex::encode(&toast[5..21]).as_bytes()).is_empty());
    // What a body is full of, and what eight digits of a marker's hex were once found in.
    let hashes = hex::encode(support::random(4 << 20));
    assert!(markers.search_bytes("hashes", hashes.as_bytes()).is_empty());
    assert!(!markers.search_bytes("hex", hex::encode(&row).as_bytes()).is_empty());
    let folder = support::scratch();
    std::fs::write(folder.path().join("x.zst"), zstd::encode_all(&row[..], 1).unwrap()).unwrap();
    assert!(!markers.search(&[folder.path()]).is_empty());
    assert!(markers.search_bytes("random", &support::random(1 << 20)).is_empty());
}

#[test]
fn damage_is_done_and_undone() {
    let store = support::scratch();
    std::fs::create_dir_all(store.path().join("tenant/acme/packs/00")).unwrap();
    std::fs::write(store.path().join("tenant/acme/packs/00/1.tar.zst.age"), "first object").unwrap();
    std::fs::write(store.path().join("tenant/acme/packs/00/2.tar.zst.age"), "second object").unwrap();
    std::fs::create_dir(store.path().join(".locks")).unwrap();
    std::fs::write(store.path().join(".locks/1"), "not an object").unwrap();
    let objects = damage::objects(store.path(), |_| true);
    assert_eq!(objects.len(), 2);
    assert_eq!(damage::kind(&objects[0].0), "tar.zst.age");
    let [first, second] = [&objects[0].1, &objects[1].1];
    let text = || std::fs::read(first).ok();
    let ways: [&dyn Fn() -> Damage; 4] =
        [&|| Damage::flip(first), &|| Damage::shorten(first), &|| Damage::remove(first), &|| {
            Damage::swap(first, second)
        }];
    for way in ways {
        let damage = way();
        assert_ne!(text().as_deref(), Some(&b"first object"[..]));
        drop(damage);
        assert_eq!(text().as_deref(), Some(&b"first object"[..]));
    }
}
