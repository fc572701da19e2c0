//! Against a real server: what the unit tests cannot know.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use zeroize::Zeroizing;

use super::backup_stream::{BackupEvent, BaseBackupOptions};
use super::base_backup::{Member, MemberKind, channel, walk};
use super::binaries::Binaries;
use super::connect::{Server, SslMode};
use super::control::{ControlFile, State, WalLevel};
use super::owner::FileOwner;
use super::recovery_log::RecoveryLog;
use super::relation::{PageCheck, PageReport, RelationFile};
use super::replication::Replication;
use super::rig::{BIN, Cluster, Postmaster, as_nobody, folder, give_to_nobody, run};
use super::server::{self, AtTarget, LocalAccess, RecoveryPlan, RecoveryTarget};
use super::wal_stream::WalEvent;
use super::wire::{Fault, WireError};
use super::{checksum, sql};
use crate::failure::{Failure, Kind};
use crate::ids::{DbOid, Lsn, Timeline};

/// All that a base backup brought.
struct Backup {
    started: Lsn,
    ended: Lsn,
    members: Vec<(Member, Vec<u8>)>,
}

async fn back_up(server: &Server) -> Backup {
    let options = BaseBackupOptions {
        label: "it's a test".to_owned(),
        fast_checkpoint: true,
        verify_on_server: false,
        max_rate_kib: None,
    };
    let mut stream = Replication::connect(server).await.unwrap().base_backup(&options).await.unwrap();
    let BackupEvent::Start { lsn: started, timeline, .. } = stream.next().await.unwrap() else { panic!("no start") };
    assert_eq!(timeline, Timeline(1));
    let mut members = Vec::new();
    let mut open = None;
    let ended = loop {
        match stream.next().await.unwrap() {
            BackupEvent::Data(bytes) => {
                let Some((sender, _)) = &mut open else { panic!("data outside an archive") };
                let sender: &mut super::base_backup::ArchiveSender = sender;
                assert!(sender.send(bytes).await);
            }
            BackupEvent::Progress(_) => {}
            event => {
                if let Some((sender, walking)) = open.take() {
                    assert!(sender.finish().await);
                    let walking: tokio::task::JoinHandle<Vec<(Member, Vec<u8>)>> = walking;
                    members.extend(walking.await.unwrap());
                }
                match event {
                    BackupEvent::Archive { tablespace } => {
                        let (sender, reader) = channel();
                        let oid = tablespace.map(|tablespace| tablespace.oid);
                        open = Some((sender, tokio::task::spawn_blocking(move || collect(reader, oid))));
                    }
                    BackupEvent::End { lsn, .. } => break lsn,
                    other => panic!("{other:?}"),
                }
            }
        }
    };
    // The connection is good for more afterwards.
    stream.into_replication().unwrap().identify().await.unwrap();
    Backup { started, ended, members }
}

fn collect(reader: impl std::io::Read, tablespace: Option<u32>) -> Vec<(Member, Vec<u8>)> {
    let mut members = Vec::new();
    let walked = walk(reader, tablespace, |member, body| {
        let mut content = Vec::new();
        body.read_to_end(&mut content).unwrap();
        members.push((member.clone(), content));
        Ok::<(), Infallible>(())
    });
    walked.unwrap();
    members
}

#[tokio::test]
async fn a_base_backup_is_what_pg_basebackup_gets_and_every_member_has_its_owner() {
    let cluster = Cluster::start("", "");
    let space = cluster.folder.path().join("space");
    fs::create_dir(&space).unwrap();
    give_to_nobody(&space);
    let sql = format!(
        "CREATE TABLESPACE space LOCATION '{}';;CREATE DATABASE acme;;CREATE DATABASE globex TABLESPACE space",
        space.display()
    );
    cluster.psql("postgres", &sql);
    let table = "CREATE TABLE t AS SELECT generate_series(1, 20000) AS n";
    cluster.psql("acme", table);
    cluster.psql("globex", table);
    cluster.psql("acme", "BEGIN; INSERT INTO t VALUES (0); PREPARE TRANSACTION 'acme''s secret'");
    fs::write(cluster.data().join("stray"), "x").unwrap();
    fs::write(cluster.data().join("server.key"), "x").unwrap();
    give_to_nobody(&cluster.data().join("stray"));
    give_to_nobody(&cluster.data().join("server.key"));
    let oid = |name: &str| {
        DbOid(
            cluster.psql("postgres", &format!("SELECT oid FROM pg_database WHERE datname = '{name}'")).parse().unwrap(),
        )
    };
    let (acme, globex) = (oid("acme"), oid("globex"));
    let space_oid: u32 =
        cluster.psql("postgres", "SELECT oid FROM pg_tablespace WHERE spcname = 'space'").parse().unwrap();

    let backup = back_up(&cluster.local()).await;
    assert!(backup.ended >= backup.started);

    // The same members as pg_basebackup gets, with the same content.
    let other = cluster.folder.path().join("other");
    run(as_nobody(format!("{BIN}/pg_basebackup"))
        .args(["-Ft", "-X", "none", "-c", "fast", "--no-manifest", "--no-sync", "-U", "postgres", "-D"])
        .arg(&other)
        .arg("-h")
        .arg(cluster.folder.path())
        .arg("-p")
        .arg(cluster.port.to_string()));
    let mut theirs = BTreeMap::new();
    for (file, tablespace) in [("base.tar".to_owned(), None), (format!("{space_oid}.tar"), Some(space_oid))] {
        for (member, content) in collect(fs::File::open(other.join(file)).unwrap(), tablespace) {
            theirs.insert((member.tablespace, member.path), content);
        }
    }
    let mut ours: BTreeMap<_, _> =
        backup.members.iter().map(|(member, content)| ((member.tablespace, member.path.clone()), content)).collect();
    // pg_basebackup asks for a file in place of the links.
    assert!(theirs.remove(&(None, "tablespace_map".to_owned())).is_some());
    assert!(ours.remove(&(None, format!("pg_tblspc/{space_oid}"))).is_some());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, content) in &ours {
        // These two say where and when the backup began.
        if !["backup_label", "global/pg_control"].contains(&name.1.as_str()) {
            assert!(**content == theirs[name], "{name:?} differs");
        }
    }

    let owner = |path: &str| backup.members.iter().find(|(member, _)| member.path == path).unwrap().0.owner;
    let prepared = backup.members.iter().find(|(member, _)| member.path.starts_with("pg_twophase/")).unwrap();
    assert_eq!(prepared.0.owner, FileOwner::Database(acme));
    assert_eq!(owner(&format!("base/{acme}/PG_VERSION")), FileOwner::Database(acme));
    assert_eq!(owner("backup_label"), FileOwner::Cluster);
    let in_space: Vec<_> = backup.members.iter().filter(|(member, _)| member.tablespace == Some(space_oid)).collect();
    assert!(in_space.iter().filter(|(member, _)| member.owner == FileOwner::Database(globex)).count() > 200);
    let link = backup.members.iter().find(|(member, _)| member.tablespace_link() == Some(space_oid)).unwrap();
    assert_eq!(link.0.kind, MemberKind::Link { target: space.display().to_string() });
    // Of a healthy cluster nothing is unknown but what was put there.
    let alarming = backup.members.iter().filter(|(member, _)| match member.owner {
        FileOwner::Residue(reason) => reason.is_alarming(),
        FileOwner::Skip(reason) => reason.is_alarming(),
        _ => false,
    });
    let alarming: Vec<_> = alarming.map(|(member, _)| member.path.as_str()).collect();
    assert_eq!(alarming.len(), 2, "{alarming:?}");
    assert!(alarming.contains(&"stray") && alarming.contains(&"server.key"));
}

#[tokio::test]
async fn wal_streamed_is_the_wal_in_the_servers_files() {
    let cluster = Cluster::start("", "");
    let mut replication = Replication::connect(&cluster.local()).await.unwrap();
    let identity = replication.identify().await.unwrap();
    assert_eq!(identity.timeline, Timeline(1));
    assert_eq!(replication.major(), 15);
    assert_eq!(replication.show("wal_segment_size").await.unwrap(), "16MB");
    assert!(replication.show("x; DROP").await.is_err());
    assert_eq!(replication.read_slot("lifeboat").await.unwrap(), None);
    replication.create_slot("lifeboat").await.unwrap();
    let again = replication.create_slot("lifeboat").await.unwrap_err();
    assert!(matches!(again.fault, Fault::Server { sqlstate, .. } if sqlstate == "42710"));
    // A refusal leaves the connection usable.
    let slot = replication.read_slot("lifeboat").await.unwrap().unwrap();
    let gone = replication.timeline_history(Timeline(2)).await.unwrap_err();
    assert_eq!(Failure::from(gone).kind, Kind::Integrity);
    let at = Lsn(slot.restart.unwrap().0 & !0xFF_FFFF);
    cluster.psql("postgres", "CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 60000) n");
    let end = replication.identify().await.unwrap().flush_lsn;
    assert!(end.since(at) > 32 << 20);
    let mut stream = replication.start_physical(Some("lifeboat"), at, Timeline(1)).await.unwrap();
    let mut bytes = Vec::new();
    while at.plus(bytes.len() as u64) < end {
        match stream.next().await.unwrap() {
            WalEvent::XLogData { bytes: piece, server_end, server_clock, .. } => {
                bytes.extend_from_slice(&piece);
                assert!(server_end >= end);
                let now = crate::clock::Clock::system().now();
                assert!(now.duration_since(server_clock).abs() < jiff::SignedDuration::from_hours(1));
            }
            WalEvent::Keepalive { .. } => {}
            event @ WalEvent::End { .. } => panic!("{event:?}"),
        }
    }
    for (index, piece) in bytes.chunks(16 << 20).enumerate() {
        let number = at.0 / (16 << 20) + index as u64;
        let file = fs::File::open(cluster.data().join(format!("pg_wal/00000001{:08X}{number:08X}", 0))).unwrap();
        let mut wanted = vec![0; piece.len()];
        file.read_exact_at(&mut wanted, 0).unwrap();
        assert!(piece == wanted, "segment {number}");
    }
    // What we tell as flushed is what the slot lets go.
    stream.status(end, end, end, true).await.unwrap();
    while !matches!(stream.next().await.unwrap(), WalEvent::Keepalive { .. }) {}
    let mut connection = sql::connect(&cluster.local(), "postgres").await.unwrap();
    let facts = sql::slot_facts(&mut connection, "lifeboat").await.unwrap().unwrap();
    assert!(facts.active && facts.restart == Some(end) && facts.wal_status.as_deref() == Some("reserved"), "{facts:?}");
    let told = "SELECT (reply_time > now() - interval '1 hour')::text FROM pg_stat_replication";
    let told = sql::text_rows(&mut connection, "reply time", told).await.unwrap();
    assert_eq!(told, [[Some("true".to_owned())]]);
    assert!(stream.into_replication().is_err());
}

#[tokio::test]
async fn a_server_that_goes_away_in_mid_stream_is_unreachable() {
    let mut cluster = Cluster::start("", "");
    let mut replication = Replication::connect(&cluster.local()).await.unwrap();
    let at = replication.identify().await.unwrap().flush_lsn;
    let mut stream = replication.start_physical(None, at, Timeline(1)).await.unwrap();
    cluster.postmaster.stop(Signal::QUIT);
    let error = loop {
        if let Err(error) = stream.next().await {
            break error;
        }
    };
    assert_eq!(Failure::from(error).kind, Kind::Unreachable);
    let gone = Replication::connect(&cluster.local()).await.unwrap_err();
    assert_eq!(Failure::from(gone).kind, Kind::Unreachable);
    // An orderly shutdown is no end of the timeline either.
    cluster.restart();
    let mut replication = Replication::connect(&cluster.local()).await.unwrap();
    let at = replication.identify().await.unwrap().flush_lsn;
    let mut stream = replication.start_physical(None, at, Timeline(1)).await.unwrap();
    let stopping = std::thread::spawn(move || cluster.postmaster.stop(Signal::INT));
    let mut seen = at;
    let error = loop {
        match stream.next().await {
            Ok(WalEvent::XLogData { at, bytes, .. }) => seen = at.plus(bytes.len() as u64),
            Ok(_) => {}
            Err(error) => break error,
        }
        // The server waits until everything it has is confirmed.
        let _ = stream.status(seen, seen, seen, false).await;
    };
    assert_eq!(Failure::from(error).kind, Kind::Unreachable);
    stopping.join().unwrap();
}

fn openssl(folder: &Path, arguments: &str) {
    run(Command::new("openssl").args(arguments.split(' ')).current_dir(folder));
}

#[tokio::test]
async fn passwords_and_certificates_are_checked_in_both_directions() {
    let access = "hostssl all scram all scram-sha-256\nhostssl replication scram all scram-sha-256\n\
                  host replication md5user all md5\nhostssl replication clear all password\n";
    let cluster = Cluster::start("listen_addresses='127.0.0.1'\npassword_encryption='scram-sha-256'", access);
    let keys = tempfile::tempdir().unwrap();
    openssl(keys.path(), "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 2");
    openssl(keys.path(), "req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.crt -subj /CN=other -days 2");
    openssl(keys.path(), "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost");
    fs::write(keys.path().join("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    let sign = "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -sha384 -extfile ext";
    openssl(keys.path(), &format!("{sign} -out server.crt"));
    for name in ["server.key", "server.crt"] {
        let path = cluster.data().join(name);
        fs::copy(keys.path().join(name), &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        give_to_nobody(&path);
    }
    let roles = "CREATE ROLE scram LOGIN REPLICATION PASSWORD 'right';;SET password_encryption = 'md5';;\
                 CREATE ROLE md5user LOGIN REPLICATION PASSWORD 'right';;CREATE ROLE clear LOGIN REPLICATION PASSWORD \
                 'right';;ALTER SYSTEM SET ssl = on;;SELECT pg_reload_conf()";
    cluster.psql("postgres", roles);
    let server = |host: &str, user: &str, password: &str, sslmode, ca: Option<&str>| Server {
        host: host.to_owned(),
        port: cluster.port,
        user: user.to_owned(),
        password: Some(Zeroizing::new(password.to_owned())),
        sslmode,
        ca_file: ca.map(|name| keys.path().join(name)),
        ..cluster.local()
    };
    let attempt = async |host: &str, user: &str, password: &str, sslmode, ca: Option<&str>| {
        let server = server(host, user, password, sslmode, ca);
        let mut replication = Replication::connect(&server).await?;
        replication.identify().await.map(|_| ())
    };
    let fault = |attempt: Result<(), WireError>| attempt.unwrap_err().fault;
    // The reload takes a moment to reach the postmaster.
    for _ in 0..1800 {
        if attempt("127.0.0.1", "scram", "right", SslMode::Require, None).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (host, sslmode, ca) in [
        ("127.0.0.1", SslMode::Prefer, None),
        ("127.0.0.1", SslMode::VerifyCa, Some("ca.crt")),
        ("localhost", SslMode::VerifyFull, Some("ca.crt")),
        // The very certificate, without its authority.
        ("localhost", SslMode::VerifyFull, Some("server.crt")),
    ] {
        attempt(host, "scram", "right", sslmode, ca).await.unwrap();
    }
    let untrusted = [
        ("127.0.0.1", SslMode::VerifyFull, Some("ca.crt")),
        ("localhost", SslMode::VerifyFull, Some("other.crt")),
        ("localhost", SslMode::VerifyCa, Some("other.crt")),
        ("localhost", SslMode::Require, Some("other.crt")),
    ];
    for (host, sslmode, ca) in untrusted {
        let refused = fault(attempt(host, "scram", "right", sslmode, ca).await);
        assert!(matches!(refused, Fault::Tls(_)), "{host} {sslmode:?}: {refused:?}");
    }
    let refused = fault(attempt("localhost", "scram", "right", SslMode::VerifyFull, None).await);
    assert!(matches!(refused, Fault::NoCaFile { .. }));
    let refused = fault(attempt("localhost", "scram", "right", SslMode::VerifyFull, Some("ca.key")).await);
    assert!(matches!(refused, Fault::CaFile { .. }), "{refused:?}");

    let wrong = attempt("127.0.0.1", "scram", "wrong", SslMode::Require, None).await.unwrap_err();
    let failure = Failure::from(wrong);
    assert!(failure.kind == Kind::Usage && failure.next.contains("password file"), "{failure:?}");
    assert!(!format!("{failure:?}").contains("wrong"), "{failure:?}");
    let none = Server { password: None, ..server("127.0.0.1", "scram", "", SslMode::Require, None) };
    assert!(matches!(Replication::connect(&none).await.unwrap_err().fault, Fault::NoPassword));

    attempt("127.0.0.1", "md5user", "right", SslMode::Require, None).await.unwrap();
    let refused = fault(attempt("127.0.0.1", "md5user", "right", SslMode::Disable, None).await);
    assert!(matches!(refused, Fault::PasswordInClear { method: "md5" }), "{refused:?}");
    attempt("127.0.0.1", "clear", "right", SslMode::Require, None).await.unwrap();

    // Ordinary SQL takes the same road.
    for (password, fine) in [("right", true), ("wrong", false)] {
        let server = server("localhost", "scram", password, SslMode::VerifyFull, Some("ca.crt"));
        assert_eq!(sql::connect(&server, "postgres").await.is_ok(), fine, "{password}");
    }
}

#[tokio::test]
async fn a_bad_page_is_found_by_file_and_block_and_good_pages_are_not() {
    let mut cluster = Cluster::start("", "");
    cluster.psql("postgres", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n;;CHECKPOINT");
    let path = cluster.psql("postgres", "SELECT pg_relation_filepath('t')");
    cluster.postmaster.stop(Signal::INT);
    let on_disk = fs::OpenOptions::new().read(true).write(true).open(cluster.data().join(&path)).unwrap();
    on_disk.write_all_at(b"damage", 7 * 8192 + 4000).unwrap();
    cluster.restart();
    let backup = back_up(&cluster.local()).await;
    let mut checked = 0;
    let mut found = Vec::new();
    for (member, content) in &backup.members {
        let Some(relation) = member.relation() else { continue };
        let mut check = PageCheck::new(relation, backup.started);
        content.chunks(32_768).for_each(|piece| check.update(piece));
        let PageReport { bad, trailing_bytes, .. } = check.finish();
        assert_eq!(trailing_bytes, 0);
        checked += content.len() / 8192;
        found.extend(bad.iter().map(|bad| (member.path.clone(), bad.block)));
    }
    assert!(checked > 2000);
    assert_eq!(found, [(path, 7)]);
}

#[test]
fn pg_control_reads_as_pg_controldata_says() {
    let mut cluster = Cluster::start("max_connections=77\nmax_worker_processes=11\nwal_level=logical", "");
    cluster.postmaster.stop(Signal::INT);
    let control = ControlFile::parse(&fs::read(cluster.data().join("global/pg_control")).unwrap()).unwrap();
    let text = run(as_nobody(format!("{BIN}/pg_controldata")).arg(cluster.data()));
    let said = |label: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{label} in {text}")).trim().to_owned()
    };
    assert_eq!(control.state, State::ShutDown);
    assert_eq!(control.wal_level, WalLevel::Logical);
    assert_eq!((control.max_connections, control.max_worker_processes), (77, 11));
    for (label, value) in [
        ("Database system identifier", control.system_id.to_string()),
        ("pg_control version number", control.control_version.to_string()),
        ("Catalog version number", control.catalog_version.to_string()),
        ("Latest checkpoint's REDO location", control.checkpoint_redo.to_string()),
        ("Latest checkpoint's TimeLineID", control.timeline.to_string()),
        ("max_connections setting", control.max_connections.to_string()),
        ("max_worker_processes setting", control.max_worker_processes.to_string()),
        ("max_wal_senders setting", control.max_wal_senders.to_string()),
        ("max_prepared_xacts setting", control.max_prepared_transactions.to_string()),
        ("max_locks_per_xact setting", control.max_locks_per_transaction.to_string()),
        ("Database block size", control.block_bytes.to_string()),
        ("Blocks per segment of large relation", control.segment_blocks.to_string()),
        ("WAL block size", control.wal_block_bytes.to_string()),
        ("Bytes per WAL segment", control.wal_segment_bytes.to_string()),
        ("Data page checksum version", control.checksum_version.to_string()),
    ] {
        assert_eq!(said(label), value, "{label}");
    }
    // Every page the server wrote carries the checksum we compute.
    let mut pages = 0;
    for entry in fs::read_dir(cluster.data().join("base/1")).unwrap() {
        let entry = entry.unwrap();
        if RelationFile::parse(&entry.file_name().to_string_lossy()).is_none() {
            continue;
        }
        for (block, page) in fs::read(entry.path()).unwrap().chunks(8192).enumerate() {
            if page[14..16] != [0, 0] {
                let stored = u16::from_le_bytes([page[8], page[9]]);
                assert_eq!(checksum::page_checksum(page, block as u32), Some(stored), "{:?} {block}", entry.path());
                pages += 1;
            }
        }
    }
    assert!(pages > 500);
}

/// Lays a backup down as a data directory, without captured configuration.
fn lay_down(backup: &Backup, data: &Path) {
    for (member, content) in &backup.members {
        let path = data.join(&member.path);
        match member.kind {
            MemberKind::Folder => fs::create_dir_all(&path).unwrap(),
            MemberKind::File if member.path.ends_with(".conf") => {}
            MemberKind::File => fs::write(&path, content).unwrap(),
            MemberKind::Link { .. } => panic!("no tablespaces here"),
        }
    }
    fs::set_permissions(data, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Streams from `at` until `end` and lays the WAL down as segments.
async fn archive_wal(server: &Server, at: Lsn, end: Lsn, archive: &Path) {
    let at = Lsn(at.0 & !0xFF_FFFF);
    let mut stream = Replication::connect(server).await.unwrap().start_physical(None, at, Timeline(1)).await.unwrap();
    let mut bytes = Vec::new();
    while at.plus(bytes.len() as u64) < end {
        if let WalEvent::XLogData { bytes: piece, .. } = stream.next().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
    }
    fs::create_dir(archive).unwrap();
    bytes.resize(bytes.len().next_multiple_of(16 << 20), 0);
    for (index, piece) in bytes.chunks(16 << 20).enumerate() {
        let number = at.0 / (16 << 20) + index as u64;
        fs::write(archive.join(format!("0000000100000000{number:08X}")), piece).unwrap();
    }
    give_to_nobody(archive);
}

/// The sandbox's work, done plainly.
fn run_arguments(arguments: &[std::ffi::OsString]) -> String {
    run(as_nobody(&arguments[0]).args(&arguments[1..]).env("PGOPTIONS", server::guarded_environment(15)))
}

#[tokio::test]
async fn a_recovered_server_stops_where_it_was_told_and_runs_nothing_captured() {
    let archived = folder();
    let archived = archived.path().join("archived");
    let archiving = format!("archive_mode=on\narchive_command='echo %f >> {}'", archived.display());
    let source = Cluster::start(&archiving, "");
    source.psql("postgres", "CREATE DATABASE acme;;CREATE ROLE evil SUPERUSER LOGIN");
    source.psql("postgres", "CREATE ROLE acme_user LOGIN PASSWORD 'acme''s own'");
    source.psql("postgres", "ALTER ROLE evil SET session_preload_libraries = 'nonexistent'");
    source.psql("acme", "CREATE TABLE t AS SELECT 1 AS n");
    let backup = back_up(&source.local()).await;
    source.psql("acme", "INSERT INTO t VALUES (2)");
    let target: Lsn = source.psql("acme", "SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    source.psql("acme", "INSERT INTO t VALUES (3)");
    let end: Lsn = source.psql("acme", "SELECT pg_current_wal_flush_lsn()").parse().unwrap();

    let place = folder();
    let data = place.path().join("data");
    let archive = place.path().join("archive");
    fs::create_dir(&data).unwrap();
    archive_wal(&source.local(), backup.started, end, &archive).await;
    lay_down(&backup, &data);
    let control = ControlFile::parse(&fs::read(data.join("global/pg_control")).unwrap()).unwrap();
    let mut plan = RecoveryPlan {
        control,
        target: RecoveryTarget::Lsn { lsn: target, inclusive: false },
        at_target: AtTarget::Promote,
        timeline: Some(Timeline(1)),
        restore_command: format!("cp '{}/%f' '%p'", archive.display()),
        socket_folder: place.path().to_owned(),
        port: 5432,
        access: LocalAccess::ScramExcept("postgres".to_owned()),
        autovacuum: false,
        fsync: false,
        shared_buffers: 16,
    };
    server::write_configuration(&data, &plan).unwrap();
    // Only for this test: look at the new timeline by replication, and at a role's own settings.
    let hba = fs::read_to_string(data.join("pg_hba.conf")).unwrap();
    fs::write(data.join("pg_hba.conf"), format!("local replication all trust\nlocal all evil trust\n{hba}")).unwrap();
    give_to_nobody(&data);
    let binaries = Binaries::find(15, &[], "").unwrap();
    let arguments = server::start_arguments(&binaries, &data, &plan).unwrap();
    let log = place.path().join("log");
    let mut postmaster = Postmaster::start(&arguments, &log);
    let server = Server { host: place.path().display().to_string(), port: 5432, ..source.local() };
    server::wait_until_recovered(&server, 15, Duration::from_secs(120), || postmaster.lives()).await.unwrap();

    let mut connection = sql::connect(&server, "acme").await.unwrap();
    let rows = sql::text_rows(&mut connection, "rows", "SELECT n FROM t ORDER BY n").await.unwrap();
    assert_eq!(rows, [[Some("1".to_owned())], [Some("2".to_owned())]]);
    let said = RecoveryLog::of(&fs::read_to_string(&log).unwrap());
    assert!(said.ready && said.failures.is_empty(), "{said:?}");
    assert!(said.redo_done.unwrap() <= target && said.last_commit.is_some() && said.stopped.is_some(), "{said:?}");
    assert_eq!(said.new_timeline, Some(Timeline(2)));
    let probe = Server { user: "acme_user".to_owned(), ..server.clone() };
    assert!(sql::connect(&probe, "acme").await.is_err());
    let probe = Server { password: Some(Zeroizing::new("acme's own".to_owned())), ..probe };
    sql::connect(&probe, "acme").await.unwrap();
    let archived = fs::read_to_string(archived).unwrap();
    assert!(!archived.is_empty() && archived.lines().all(|name| name.starts_with("00000001")), "{archived}");
    // A role's own settings would load a library at login; ours outrank them.
    let evil = Server { user: "evil".to_owned(), ..server.clone() };
    assert!(sql::connect(&evil, "acme").await.is_err());
    sql::connect_with(&evil, "acme", &server::guarded_settings(15)).await.unwrap();
    run_arguments(&server::check_arguments(&binaries, &server, "acme").unwrap());
    run_arguments(&server::dump_arguments(&binaries, &server, "acme", &place.path().join("dump")).unwrap());

    // The old timeline ends where the new one begins.
    let mut replication = Replication::connect(&server).await.unwrap();
    let history = replication.timeline_history(Timeline(2)).await.unwrap();
    assert_eq!(history.file_name, "00000002.history");
    let mut stream = replication.start_physical(None, Lsn(target.0 & !0xFF_FFFF), Timeline(1)).await.unwrap();
    let branch = loop {
        if let WalEvent::End { next, at } = stream.next().await.unwrap() {
            assert_eq!(next, Timeline(2));
            break at;
        }
    };
    assert!(branch <= target);
    let mut stream = stream.into_replication().unwrap().start_physical(None, branch, Timeline(1)).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), WalEvent::End { next: Timeline(2), at: branch });
    let mut stream = stream.into_replication().unwrap().start_physical(None, branch, Timeline(2)).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), WalEvent::XLogData { at, .. } if at == branch));

    drop((stream, connection));
    run_arguments(&server::stop_arguments(&binaries, &data, Duration::from_secs(60)).unwrap());
    assert!(!postmaster.lives());

    // A target beyond all WAL: the server gives up, and we know why.
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    lay_down(&backup, &data);
    plan.target = RecoveryTarget::Lsn { lsn: end.plus(1 << 30), inclusive: true };
    server::write_configuration(&data, &plan).unwrap();
    give_to_nobody(&data);
    let mut postmaster = Postmaster::start(&arguments, &log);
    let waited = server::wait_until_recovered(&server, 15, Duration::from_secs(120), || postmaster.lives()).await;
    assert!(matches!(waited, Err(server::ServerError::Stopped)), "{waited:?}");
    assert!(RecoveryLog::of(&fs::read_to_string(&log).unwrap()).target_not_reached);
}
