//! Random bytes planted in one tenant, and the search for them wherever they must not be.
//!
//! Every marker is random, so no compressor hides it. The search finds fragments too: any 15 bytes of a binary marker
//! hold one of its aligned 8-byte windows; of a text any 16 letters are found, of anything's hex any 31. All are
//! 64 random bits and more: eight hex digits, which are 32, were found by chance among the hashes of a body.
//! Files are searched as they are, and again decompressed where they are zstd frames. What is sealed cannot be
//! searched: search what was opened.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::cluster::Server;
use super::{random, random_text};

#[derive(Debug, Clone)]
pub struct Marker {
    /// Where it was planted.
    pub place: &'static str,
    pub bytes: Vec<u8>,
    /// Any byte may occur in it; otherwise only letters and digits do.
    binary: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Markers {
    pub planted: Vec<Marker>,
    /// The prepared transaction left open, by its gid.
    pub prepared: Option<String>,
}

/// Where a piece of a marker was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub place: &'static str,
    pub file: PathBuf,
    pub offset: usize,
}

const WINDOW: usize = 8;
const TEXT_WINDOW: usize = 16;
const SIEVE: usize = 1 << 24;

impl Markers {
    fn text(&mut self, place: &'static str, letters: usize) -> String {
        let text = random_text(letters);
        self.planted.push(Marker { place, bytes: text.clone().into_bytes(), binary: false });
        text
    }

    fn binary(&mut self, place: &'static str, bytes: usize) -> String {
        let bytes = random(bytes);
        let hex = hex::encode(&bytes);
        self.planted.push(Marker { place, bytes, binary: true });
        hex
    }

    /// Plants a new set in `database`; once before and once after a base backup puts them in files and in WAL.
    pub fn plant(&mut self, server: &Server, database: &str) {
        let table = format!("t{}", self.text("a table's name", 40).replace('-', "_"));
        self.planted.last_mut().expect("just planted").bytes = table.clone().into_bytes();
        let mut sql = format!(
            "CREATE TABLE \"{table}\" (id bigserial, row_text text, toast bytea);\n\
             ALTER TABLE \"{table}\" ALTER toast SET STORAGE EXTERNAL;\n\
             CREATE INDEX ON \"{table}\" (md5(row_text));\n\
             COMMENT ON TABLE \"{table}\" IS '{}';\n",
            self.text("a comment", 32)
        );
        let row = self.text("a row", 32);
        let toast = self.binary("EXTERNAL TOAST", 6000);
        writeln!(sql, "INSERT INTO \"{table}\" (row_text, toast) VALUES ('{row}', '\\x{toast}');").unwrap();
        let dead = self.text("a deleted row", 32);
        writeln!(
            sql,
            "INSERT INTO \"{table}\" (row_text) VALUES ('{dead}'); DELETE FROM \"{table}\" WHERE row_text = '{dead}';"
        )
        .unwrap();
        let aborted = self.text("a rolled-back row", 32);
        writeln!(sql, "BEGIN; INSERT INTO \"{table}\" (row_text) VALUES ('{aborted}'); ROLLBACK;").unwrap();
        writeln!(sql, "SELECT lo_from_bytea(0, '\\x{}');", self.binary("a large object", 512)).unwrap();
        let message = self.text("a logical message", 40);
        writeln!(sql, "SELECT pg_logical_emit_message(false, 'm', '{message}');").unwrap();
        let message = self.text("a transactional logical message", 40);
        writeln!(sql, "SELECT pg_logical_emit_message(true, 'm', '{message}');").unwrap();
        if self.prepared.is_none() {
            let (gid, inside) = (self.text("a prepared transaction's gid", 40), self.text("a prepared row", 32));
            writeln!(
                sql,
                "BEGIN; INSERT INTO \"{table}\" (row_text) VALUES ('{inside}'); PREPARE TRANSACTION '{gid}';"
            )
            .unwrap();
            self.prepared = Some(gid);
        }
        server.psql(database, &sql);
        // The index holds what no row does: the sum of the row's text.
        let indexed = server.psql(database, &format!("SELECT md5('{row}')"));
        self.planted.push(Marker { place: "an index", bytes: indexed.into_bytes(), binary: false });
        server.psql(database, "CHECKPOINT");
    }

    /// Commits the transaction that [`Markers::plant`] left open; its gid goes into the commit record.
    pub fn commit_prepared(&mut self, server: &Server, database: &str) {
        if let Some(gid) = self.prepared.take() {
            server.psql(database, &format!("COMMIT PREPARED '{gid}'"));
        }
    }

    /// Searches every file below `folders`. Reads them whole: meant for some hundred megabytes.
    pub fn search(&self, folders: &[&Path]) -> Vec<Found> {
        let index = self.index();
        let mut found = Vec::new();
        let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| folder.to_path_buf()).collect();
        while let Some(path) = waiting.pop() {
            let kind = std::fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            if kind.is_dir() {
                waiting.extend(std::fs::read_dir(&path).expect("a folder").flatten().map(|entry| entry.path()));
            } else if kind.is_file() {
                let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                self.scan(&index, &path, &bytes, &mut found);
                if bytes.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
                    let opened = zstd::decode_all(&bytes[..]).expect("a zstd file decompresses");
                    self.scan(&index, &path, &opened, &mut found);
                }
            }
        }
        found
    }

    /// Searches bytes that a test has at hand.
    pub fn search_bytes(&self, name: &str, bytes: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        self.scan(&self.index(), Path::new(name), bytes, &mut found);
        found
    }

    /// Each aligned window of each marker, to the marker it is of.
    fn index(&self) -> Index {
        assert!(!self.planted.is_empty(), "nothing was planted");
        let mut index = Index { binary: HashMap::new(), text: HashMap::new(), sieve: vec![false; SIEVE] };
        for (number, marker) in self.planted.iter().enumerate() {
            let hex = hex::encode(&marker.bytes).into_bytes();
            let text: &[u8] = if marker.binary { &[] } else { &marker.bytes };
            for window in hex.chunks_exact(TEXT_WINDOW).chain(text.windows(TEXT_WINDOW)) {
                index.sieve[first_four(window)] = true;
                index.text.insert(window.try_into().expect("a window's length"), number);
            }
            for window in marker.bytes.chunks_exact(WINDOW).filter(|_| marker.binary) {
                index.sieve[first_four(window)] = true;
                index.binary.insert(window.try_into().expect("a window's length"), number);
            }
        }
        index
    }

    fn scan(&self, index: &Index, file: &Path, bytes: &[u8], found: &mut Vec<Found>) {
        for (offset, window) in bytes.windows(WINDOW).enumerate() {
            // Four bytes decide nearly always; the maps are asked about the rest.
            if index.sieve[first_four(window)] {
                let text = bytes.get(offset..offset + TEXT_WINDOW).and_then(|text| index.text.get(text));
                if let Some(number) = text.or_else(|| index.binary.get(window)) {
                    found.push(Found { place: self.planted[*number].place, file: file.to_owned(), offset });
                }
            }
        }
    }
}

struct Index {
    binary: HashMap<[u8; WINDOW], usize>,
    text: HashMap<[u8; TEXT_WINDOW], usize>,
    sieve: Vec<bool>,
}

/// Where the sieve says whether any marker's window begins with these bytes.
fn first_four(window: &[u8]) -> usize {
    let four = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
    (four.wrapping_mul(0x9E37_79B1) >> 8) as usize % SIEVE
}
