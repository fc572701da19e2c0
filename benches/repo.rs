//! How fast content goes through ids, zstd and seals into a set, again, and back.
//!
//! `cargo bench --bench repo [FOLDER]`: with a folder, its files (a data directory, a filestore); without, made-up pages
//! of which about a fifth is random. Into a local store in a temporary folder, whose speed counts too.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jiff::SignedDuration;
use lifeboat::clock::Clock;
use lifeboat::ids::Scope;
use lifeboat::repo::ceremony::Ceremony;
use lifeboat::repo::identities::Identities;
use lifeboat::repo::reader::Reader;
use lifeboat::repo::set::SetKind;
use lifeboat::repo::set_writer::{FileMeta, SetWriter};
use lifeboat::repo::sign::Signers;
use lifeboat::repo::writer::{NewSet, Writer, WriterOptions};
use lifeboat::store::local::LocalStore;
use lifeboat::watch::Quiet;

const PIECE_BYTES: usize = 128 << 10;
const MADE_UP_BYTES: usize = 1 << 30;

#[tokio::main]
async fn main() {
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let work = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| "/tmp".into())).unwrap();
    let at = |name: &str| work.path().join(name);
    let scope = Scope::Tenant("acme".into());
    let ceremony = Ceremony::new_estate(std::slice::from_ref(&scope), 0).unwrap();
    ceremony.write(&at("writer.json"), &at("keys"), &at("signers")).unwrap();
    std::fs::create_dir(at("store")).unwrap();
    let store = Arc::new(LocalStore::open(&at("store"), Clock::system()).unwrap());
    let bundle = Arc::new(ceremony.bundle);
    let writer = Writer::open(store.clone(), bundle, Clock::system(), WriterOptions::default()).unwrap();
    let mut stored = None;
    for round in ["first", "again"] {
        let locked_until = Clock::system().now() + SignedDuration::from_hours(1);
        let new = NewSet { scope: scope.clone(), source: "main".into(), kind: SetKind::BaseBackup, locked_until };
        let set = writer.begin_set(new, &Quiet::default()).await.unwrap();
        let (from, began) = (folder.clone(), Instant::now());
        let filled = tokio::task::spawn_blocking(move || match from {
            Some(folder) => fill_from(set, Path::new(&folder)),
            None => fill_made_up(set),
        });
        let (set, bytes) = filled.await.unwrap();
        let done = set.finish(serde_json::Value::Null).await.unwrap();
        report(round, bytes, began);
        println!("        stored {} MB, {} files", done.stored_bytes >> 20, done.files);
        stored = Some(done);
    }
    let signers = Arc::new(Signers::read(&at("signers")).unwrap());
    let reader = Reader::open(store, signers, Arc::new(Identities::open(Some(&at("keys")))));
    let began = Instant::now();
    let body = reader.body(&stored.unwrap().envelope).await.unwrap();
    let to = |entry: &lifeboat::repo::set::FileEntry| Some(PathBuf::from(&entry.path));
    let back = reader.extract(&body, &at("out"), to, &Quiet::default()).await.unwrap();
    report("back", back.bytes, began);
}

fn report(what: &str, bytes: u64, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    println!("{what:>6}: {} MB in {seconds:.2} s, {:.0} MB/s", bytes >> 20, bytes as f64 / 1e6 / seconds);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("        {}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap());
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn fill_from(mut set: SetWriter, folder: &Path) -> (SetWriter, u64) {
    let (mut folders, mut total) = (vec![folder.to_owned()], 0);
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                set.start_file(FileMeta { path: name, mode: 0o600, ..FileMeta::default() }).unwrap();
                let mut file = std::fs::File::open(&path).unwrap();
                loop {
                    let mut piece = Vec::with_capacity(PIECE_BYTES);
                    std::io::Read::read_to_end(&mut std::io::Read::take(&mut file, PIECE_BYTES as u64), &mut piece)
                        .unwrap();
                    if piece.is_empty() {
                        break;
                    }
                    total += piece.len() as u64;
                    set.piece(piece.into()).unwrap();
                }
                set.end_file(BTreeMap::new()).unwrap();
            }
        }
    }
    (set, total)
}

/// Pages of 8 KiB: a header, rows of which a part is random, free space.
fn fill_made_up(mut set: SetWriter) -> (SetWriter, u64) {
    let mut state = 88_172_645_463_325_252_u64;
    for number in 0..MADE_UP_BYTES / (64 << 20) {
        set.start_file(FileMeta { path: format!("base/{number}"), mode: 0o600, ..FileMeta::default() }).unwrap();
        for _ in 0..(64 << 20) / PIECE_BYTES {
            let mut piece = vec![0_u8; PIECE_BYTES];
            for row in piece.chunks_mut(64) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                row[..8].copy_from_slice(&(state & 0xFFFF).to_le_bytes());
                row[8..20].copy_from_slice(b"tenant/acme/");
                row[24..32].copy_from_slice(&state.to_le_bytes());
            }
            set.piece(Bytes::from(piece)).unwrap();
        }
        set.end_file(BTreeMap::new()).unwrap();
    }
    (set, MADE_UP_BYTES as u64)
}
