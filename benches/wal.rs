//! How fast WAL is split: `cargo bench --bench wal`. Real WAL of three databases under pgbench, one thread.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../tests/wal_fixture/mod.rs"]
mod wal_fixture;

use std::path::PathBuf;
use std::time::Instant;

use lifeboat::ids::{Lsn, SystemId, Timeline};
use lifeboat::postgres::wal::merge::merge;
use lifeboat::postgres::wal::version::Version;
use lifeboat::postgres::wal::{Part, Splitter, Start};
use wal_fixture::{Known, Server};

const SEGMENT_BYTES: u32 = 16 << 20;
const RUNS: usize = 5;

fn main() {
    let (id, from, wal) = load();
    let start = Start {
        at: from,
        record_aligned: false,
        previous_record: None,
        system_id: Some(SystemId(id)),
        timeline: Timeline(1),
        segment_bytes: SEGMENT_BYTES,
        version: Version::of_major(15).unwrap(),
    };
    let megabytes = wal.len() as f64 / 1e6;
    for piece in [8_192, 131_072, 1 << 20] {
        let mut seconds: Vec<f64> = (0..RUNS).map(|_| split(start, &wal, piece, 8 << 20)).collect();
        seconds.sort_by(f64::total_cmp);
        let rates = [seconds[RUNS - 1], seconds[RUNS / 2], seconds[0]].map(|seconds| (megabytes / seconds).round());
        println!("split, fed by {piece} bytes, taken every 8 MiB: {rates:?} MB/s (worst, median, best)");
    }
    let owners = Known {
        bound: [1, 4, 5].map(|oid| (lifeboat::ids::DbOid(oid), lifeboat::postgres::wal::Owner::Cluster)).into(),
        next: 0,
        events: vec![],
    };
    let mut splitter = Splitter::new(start, owners).unwrap();
    splitter.feed(start.at, &wal).unwrap();
    let split = splitter.take().unwrap();
    println!("{megabytes:.0} MB, {} records of {} bytes on average", split.records, wal.len() as u64 / split.records);
    for (slot, part) in &split.tenants {
        println!(
            "tenant {slot}: {} extents, {:.1} %",
            part.extents.len(),
            part.wal_bytes() as f64 / wal.len() as f64 * 100.0
        );
    }
    let parts: Vec<&Part> = split.tenants.values().chain([&split.residue]).collect();
    let begun = Instant::now();
    let merged = merge(&split.cluster, &parts).unwrap();
    println!("merge of all: {:.0} MB/s", merged.len() as f64 / 1e6 / begun.elapsed().as_secs_f64());
}

fn split(start: Start, wal: &[u8], piece: usize, take_every: u64) -> f64 {
    let owners = Known {
        bound: [1, 4, 5].map(|oid| (lifeboat::ids::DbOid(oid), lifeboat::postgres::wal::Owner::Cluster)).into(),
        next: 0,
        events: vec![],
    };
    let begun = Instant::now();
    let mut splitter = Splitter::new(start, owners).unwrap();
    let (mut at, mut taken) = (start.at, start.at);
    let mut records = 0;
    for bytes in wal.chunks(piece) {
        splitter.feed(at, bytes).unwrap();
        at = at.plus(bytes.len() as u64);
        if splitter.complete_to().since(taken) >= take_every {
            taken = splitter.complete_to();
            records += splitter.take().map_or(0, |split| split.records);
        }
    }
    records += splitter.finish().0.map_or(0, |split| split.records);
    assert!(records > 100_000);
    begun.elapsed().as_secs_f64()
}

/// About a gigabyte, made once.
fn load() -> (u64, Lsn, Vec<u8>) {
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("wal-bench");
    if !cache.join("id").exists() {
        std::fs::create_dir_all(&cache).unwrap();
        let settings = "wal_level = replica\nmax_wal_size = 8GB\nwal_keep_size = 8GB\ncheckpoint_timeout = 1h";
        let mut server = Server::init(16, settings);
        server.start();
        for name in ["one", "two", "three"] {
            server.sql("postgres", &[&format!("create database {name}")]);
            server.pgbench(&["-i", "-I", "dtGvp", "-s", "12"], name).wait().unwrap();
        }
        let runs = ["one", "two", "three"].map(|name| server.pgbench(&["-n", "-c", "2", "-t", "15000"], name));
        for mut run in runs {
            run.wait().unwrap();
        }
        server.sql("postgres", &["checkpoint"]);
        let id = server.sql("postgres", &["select system_identifier from pg_control_system()"]);
        server.stop();
        let (from, wal) = server.wal();
        std::fs::write(cache.join("wal"), wal).unwrap();
        std::fs::write(cache.join("id"), format!("{id} {}", from.0)).unwrap();
    }
    let text = std::fs::read_to_string(cache.join("id")).unwrap();
    let (id, from) = text.split_once(' ').unwrap();
    (id.parse().unwrap(), Lsn(from.parse().unwrap()), std::fs::read(cache.join("wal")).unwrap())
}
