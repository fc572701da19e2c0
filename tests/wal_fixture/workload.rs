//! What the fixture's cluster does: every kind of record that PostgreSQL 15 writes, if we know how to provoke it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lifeboat::ids::SystemId;

use super::{Facts, SEGMENT_BYTES, Server};

const SETTINGS: &str = "
wal_level = logical
max_prepared_transactions = 20
max_wal_size = 4GB
wal_keep_size = 2GB
checkpoint_timeout = 1h
allow_in_place_tablespaces = on
track_commit_timestamp = on
autovacuum = off
wal_writer_delay = 1ms
wal_buffers = 32kB
";

pub fn make(cache: &Path) {
    let mut server = Server::init(SEGMENT_BYTES >> 20, SETTINGS);
    server.start();
    let markers = Markers::new();
    for tenant in ["tenant_a", "tenant_b", "tenant_c"] {
        server.sql("postgres", &[&format!("create database {tenant}")]);
        server.sql(tenant, SCHEMA);
        fill(&server, tenant, &markers);
    }
    server.sql("tenant_b", &["select pg_create_logical_replication_slot('of_b', 'test_decoding')"]);
    compress(&server);
    maintain(&server, &markers);
    shared_locks_and_multixacts(&server);
    prepared(&server, &markers);
    come_and_go(&server, &markers);
    server.sql("tenant_b", &["select pg_drop_replication_slot('of_b')"]);
    server.sql("postgres", &["select pg_create_restore_point('before the storm')", "select pg_switch_wal()"]);
    storm(&mut server);
    let databases = server.sql("postgres", &["select datname, oid from pg_database"]);
    let databases = databases.lines().map(|line| line.split_once('|').unwrap());
    let databases: BTreeMap<String, u32> = databases.map(|(name, oid)| (name.into(), oid.parse().unwrap())).collect();
    let id = server.sql("postgres", &["select system_identifier from pg_control_system()"]);
    server.stop();
    let (from, wal) = server.wal();
    std::fs::write(cache.join("wal"), wal).unwrap();
    let facts = Facts { from, system_id: SystemId(id.parse().unwrap()), databases, markers: markers.all() };
    std::fs::write(cache.join("facts.json"), serde_json::to_vec(&facts).unwrap()).unwrap();
}

/// Random, incompressible, and readable in a dump.
pub struct Markers(String);

impl Markers {
    fn new() -> Self {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).unwrap();
        Self(hex::encode(seed))
    }
    pub fn of(&self, place: &str) -> String {
        format!("mk{}", &lifeboat::ids::Digest::of(format!("{}{place}", self.0).as_bytes()).to_string()[..20])
    }
    fn all(&self) -> Vec<String> {
        PLACES.iter().map(|place| self.of(place)).collect()
    }
}

const PLACES: &[&str] = &["row", "toast", "object", "gid", "gid aborted", "message", "relation", "column", "late"];

const SCHEMA: &[&str] = &[
    "create extension bloom",
    "create table t (id serial primary key, k text, v text, n int, p point, a int[], r int4range)",
    "alter table t alter v set storage external",
    "create index on t using hash (k)",
    "create index on t using gin (a)",
    "create index on t using gist (p)",
    "create index on t using spgist (k)",
    "create index on t using brin (n)",
    "create index on t using bloom (n)",
    "create index on t (k, n)",
    "create unlogged table u (x int primary key)",
    "create sequence s",
    "create materialized view m as select n, count(*) from t group by n",
    "create table parts (x int) partition by range (x)",
    "create table parts_1 partition of parts for values from (0) to (100)",
    "create table acc (id int primary key, n int) with (fillfactor = 50)",
    "insert into acc select n, 0 from generate_series(1, 2000) n",
];

fn fill(server: &Server, tenant: &str, markers: &Markers) {
    let mark = |place: &str| if tenant == "tenant_b" { markers.of(place) } else { format!("{tenant}{place}") };
    let insert = format!(
        "insert into t (k, v, n, p, a, r) select '{}' || n, repeat(md5(n::text), 3), n, point(n, -n), array[n, n % 7],
         int4range(n, n + 3) from generate_series(1, 1500) n",
        mark("row")
    );
    let toast = format!(
        "insert into t (k, v) select 'big', repeat('{}' || md5(n::text), 400) from generate_series(1, 5) n",
        mark("toast")
    );
    let object = format!("select lo_from_bytea(0, convert_to(repeat('{}', 2000), 'utf8'))", mark("object"));
    let relation = format!("create table {0} (x int); insert into {0} select generate_series(1, 9)", mark("relation"));
    let message = format!("select pg_logical_emit_message(true, 'p', '{}')", mark("message"));
    // one record over several segments
    let long = format!("select pg_logical_emit_message(false, 'p', repeat('{}', 100000))", mark("message"));
    let loose = format!("select pg_logical_emit_message(false, 'p', '{}')", mark("message"));
    server.sql(tenant, &[&insert, &toast, &object, &relation, &message, &loose, &long]);
    server.sql(
        tenant,
        &[
            "insert into u select generate_series(1, 50)",
            "select nextval('s') from generate_series(1, 100)",
            "refresh materialized view m",
            "insert into parts select generate_series(1, 99)",
            "notify somebody, 'something'",
            "listen somebody",
            "create temp table tt (x int); insert into tt values (1)",
        ],
    );
}

fn compress(server: &Server) {
    for how in ["pglz", "lz4", "zstd"] {
        server.sql("postgres", &[&format!("alter system set wal_compression = {how}"), "select pg_reload_conf()"]);
        for tenant in ["tenant_a", "tenant_b", "tenant_c"] {
            server.sql("postgres", &["checkpoint"]);
            server
                .sql(tenant, &["update t set n = n + 1 where id % 3 = 0", "update acc set n = n + 1 where id % 4 = 0"]);
        }
    }
    server.sql(
        "postgres",
        &[
            "alter system reset wal_compression",
            "alter system set wal_consistency_checking = 'all'",
            "select pg_reload_conf()",
        ],
    );
    for tenant in ["tenant_a", "tenant_b"] {
        server.sql(
            tenant,
            &[
                "update t set n = n + 1 where id % 50 = 0",
                "insert into t (k, a) select 'c' || n, array[n] from generate_series(1, 30) n",
            ],
        );
    }
    server.sql("postgres", &["alter system reset wal_consistency_checking", "select pg_reload_conf()"]);
}

fn maintain(server: &Server, markers: &Markers) {
    for tenant in ["tenant_a", "tenant_b"] {
        let column = if tenant == "tenant_b" { markers.of("column") } else { "col".into() };
        server.sql(
            tenant,
            &[
                "delete from t where id % 2 = 0",
                "vacuum t",
                "insert into t (k, a, p) select 'again' || n, array[n], point(n, n) from generate_series(1, 700) n",
                "vacuum freeze t",
                "delete from t where id > 1400",
                "vacuum (truncate) t",
                &format!("alter table t add column {column} text default 'x'"),
                "cluster t using t_pkey",
                "vacuum full t",
                "vacuum full pg_class",
                "vacuum full pg_authid",
                "vacuum full pg_type",
                &format!("reindex system {tenant}"),
                "begin; truncate parts; rollback",
                "truncate parts",
                "begin; create table gone (x int); insert into gone values (1); rollback",
                "create table soon (x int)",
                "drop table soon",
                &format!("comment on database {tenant} is 'a comment'"),
                "analyze",
                "do $$ begin for i in 1..80 loop begin insert into acc values (100000 + i, 1); exception when others then null; end; end loop; end $$",
                "do $$ begin for i in 1..80 loop begin insert into acc values (100000 + i, 1); exception when others then null; end; end loop; end $$",
                &format!("create role r_{tenant} login password 'secret'; drop role r_{tenant}"),
                "insert into t (k) select 'x' from generate_series(1, 20)",
            ],
        );
    }
}

fn shared_locks_and_multixacts(server: &Server) {
    let hold = |tenant: &str| {
        server.session(tenant, &["begin; lock table acc; lock table parts; select pg_sleep(60); commit"])
    };
    let mut sessions: Vec<_> = ["tenant_a", "tenant_b", "tenant_c", "tenant_a"].map(hold).into();
    for tenant in ["tenant_a", "tenant_b"] {
        for _ in 0..2 {
            let share = "begin; select id from t where id < 300 for share; select pg_sleep(0.5); commit";
            sessions.push(server.session(tenant, &[share]));
        }
    }
    let held = "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and granted and locktype = 'relation'";
    while server.sql("postgres", &[held]).parse::<u32>().unwrap() < 6 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let release = "select pg_terminate_backend(pid) from pg_stat_activity where query like 'begin; lock%'";
    server.sql("postgres", &["checkpoint", release]);
    for mut session in sessions {
        session.wait().unwrap();
    }
}

fn prepared(server: &Server, markers: &Markers) {
    for (tenant, gid, other) in [
        ("tenant_a", "gid of a".to_owned(), "other of a".to_owned()),
        ("tenant_b", markers.of("gid"), markers.of("gid aborted")),
    ] {
        let begin = |name: &str, work: &str| format!("begin; {work}; prepare transaction '{name}'");
        server.sql(
            tenant,
            &[
                &begin(&gid, "create table by_two (x int); insert into by_two values (1); drop table parts_1"),
                &format!("commit prepared '{gid}'"),
                &begin(&other, "create table by_none (x int); insert into by_none values (1)"),
                &format!("rollback prepared '{other}'"),
                &begin(&format!("{gid} open"), "insert into acc values (-7, 7)"),
            ],
        );
    }
}

fn come_and_go(server: &Server, markers: &Markers) {
    server.sql(
        "postgres",
        &[
            "create database by_log strategy wal_log",
            "create database by_copy strategy file_copy",
            "create database of_c template tenant_c strategy file_copy",
            "create tablespace elsewhere location ''",
            "alter database by_log set tablespace elsewhere",
            "alter role postgres set work_mem = '5MB'",
        ],
    );
    server.sql("by_log", &["create table t (x int); insert into t values (1)"]);
    server.sql("by_copy", &["create table t (x int); insert into t values (1)"]);
    // a session of a tenant drops somebody else's database
    server.sql("tenant_b", &["drop database by_copy"]);
    server.sql("postgres", &["drop database by_log", "drop tablespace elsewhere"]);
    let late = format!("insert into t (k) select '{}' || n from generate_series(1, 200) n", markers.of("late"));
    server.sql("tenant_b", &[&late, "vacuum full pg_attribute"]);
}

/// Crashes under load until some records were cut off in the middle.
fn storm(server: &mut Server) {
    let script = tempfile::NamedTempFile::new().unwrap();
    let lines = "\\set id random(1, 2000)\nupdate acc set n = n + 1 where id = :id;\n\
                 insert into t (k, v) values ('bench', repeat(md5(:id::text), 300));\n";
    std::fs::write(script.path(), lines).unwrap();
    let script = script.path().to_str().unwrap().to_owned();
    for round in 0..20_u64 {
        let arguments = ["-n", "-R", "100", "-c", "2", "-T", "5", "-f", &script];
        let mut load: Vec<_> = ["tenant_a", "tenant_b"].map(|tenant| server.pgbench(&arguments, tenant)).into();
        std::thread::sleep(Duration::from_millis(120));
        // a record of many pages, which the crash is likely to hit
        let long = "select pg_logical_emit_message(false, 'p', repeat(md5('long'), 120000)) from generate_series(1, 4)";
        load.push(server.session("tenant_b", &[long]));
        std::thread::sleep(Duration::from_millis(25 + 3 * round));
        server.crash();
        for load in &mut load {
            load.wait().unwrap();
        }
        server.start();
        server.sql("tenant_a", &["insert into acc values (500000 + (random() * 1e6)::int, 1)"]);
        if aborted_records(server) >= 3 {
            return;
        }
    }
}

/// Pages that say `XLP_FIRST_IS_OVERWRITE_CONTRECORD`.
fn aborted_records(server: &Server) -> usize {
    let (from, wal) = server.wal();
    let pages = wal.chunks_exact(8192).zip((from.0..).step_by(8192));
    pages.filter(|(page, at)| page[8..16] == at.to_le_bytes() && page[2] & 8 != 0).count()
}
