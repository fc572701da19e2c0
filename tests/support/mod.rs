//! What the integration tests stand on: real servers, real tenants, a workload, an independent oracle, damage.
//!
//! | file | what |
//! |---|---|
//! | `cluster` | a PostgreSQL 15 of its own, unprivileged, on a socket; stopped when dropped |
//! | `tenants` | acme, globex, initech, loaded once and kept as a template in the cache |
//! | `fingerprint` | a database as row counts and sums per table, as `expected.json` has it |
//! | `workload` | changes in every tenant, with chosen moments to come back to |
//! | `markers` | random bytes planted in one tenant, and the search for them everywhere else |
//! | `oracle` | `pg_basebackup` and `pg_receivewal`, restored by PostgreSQL alone |
//! | `compare` | two data directories, file by file, for one database |
//! | `folder` | a folder that a restore made, started and compared with a moment |
//! | `opened` | what a run read of the store, opened with `age` and `zstd` |
//! | `estate` | a `lifeboat.toml`, keys, a store (`bucket`: on S3); runs the binary |
//! | `damage` | one byte flipped, one object removed or swapped |
//! | `rgw`, `moto` | S3 servers: one that keeps its locks, one that does not; `s3` is what they share |
//! | `process` | commands that must succeed, commands killed at a random moment |
//! | `restored` | a restored folder, started |
//!
//! Nothing here uses lifeboat's own code to judge lifeboat, except `estate`, which runs the binary.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::io::Write as _;
use std::path::{Path, PathBuf};

pub mod bucket;
pub mod cluster;
pub mod compare;
pub mod damage;
pub mod estate;
pub mod fingerprint;
pub mod folder;
pub mod markers;
pub mod moto;
pub mod opened;
pub mod oracle;
pub mod process;
pub mod restored;
pub mod rgw;
pub mod s3;
pub mod tenants;
pub mod workload;

/// Where Debian's postgresql-15 keeps the server's tools.
pub const BIN: &str = "/usr/lib/postgresql/15/bin";

/// The user that servers run as when the tests run as root: PostgreSQL refuses root (Debian's `nobody`).
pub const NOBODY: u32 = 65534;

pub fn am_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What the repository carries: initech.
pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// The folder with the larger tenants: `LIFEBOAT_SHARED`, or `shared` beside the repository (or beside the folder that holds it).
pub fn shared() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("LIFEBOAT_SHARED").map(PathBuf::from);
    let beside = ["../shared", "../../shared"].map(|place| root.join(place));
    named.into_iter().chain(beside).find(|place| place.join("odoo/acme.dump.zst").is_file())
}

/// What is kept between runs, outside the repository; readable by [`NOBODY`] when the tests run as root.
pub fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    let of_user = || std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("lifeboat");
    let usual = || if am_root() { PathBuf::from("/var/cache/lifeboat") } else { of_user() };
    let place = std::env::var_os("LIFEBOAT_CACHE").map_or_else(usual, PathBuf::from);
    std::fs::create_dir_all(&place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    place
}

/// Says that a test did not run, and why; `scripts/test.sh` repeats it at the end.
pub fn skip(test: &str, why: &str) {
    eprintln!("skipped: {test}: {why}");
    if let Some(log) = std::env::var_os("LIFEBOAT_SKIP_LOG") {
        let mut log = std::fs::File::options().append(true).create(true).open(log).expect("the skip log");
        writeln!(log, "{test}: {why}").expect("the skip log");
    }
}

/// A temporary folder that an unprivileged server may pass through. The name is short: a socket's path has 107 bytes.
pub fn scratch() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::Builder::new().prefix("lb").rand_bytes(8).tempdir().expect("a temporary folder");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
    dir
}

/// `bytes` random bytes, and the same as text of 64 letters that no compressor shortens by much.
pub fn random(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    getrandom::fill(&mut out).expect("the system's random bytes");
    out
}

pub fn random_text(letters: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    random(letters).iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)])).collect()
}
