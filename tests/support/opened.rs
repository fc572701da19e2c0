//! What a run of lifeboat read of the store, opened with the standard tools and with the keys it was given.
//!
//! The list of calls is the store wrapper's (`LIFEBOAT_STORE_LOG`); the bytes are cut out of the store here, and opened by
//! `age`. What those keys do not open was read and not understood, which is reported too: nothing but envelopes may be clear.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::estate::{Estate, Outcome};

/// One thing that was read, as it was and opened.
pub struct Piece {
    pub name: String,
    pub content: Vec<u8>,
}

#[derive(Default)]
pub struct Opened {
    pub pieces: Vec<Piece>,
    /// Sealed, read, and not opened by any of the keys.
    pub closed: Vec<String>,
}

/// Opens everything that `outcome` read, with the identities of `scopes`.
pub fn of(estate: &Estate, outcome: &Outcome, scopes: &[&str]) -> Opened {
    let keys: Vec<PathBuf> = scopes.iter().map(|scope| estate.identities.join(scope).join("1.age")).collect();
    let mut opened = Opened::default();
    let (objects, mut seen) = (estate.objects(), BTreeSet::new());
    for call in outcome.store_calls.iter().filter(|call| call["op"] == "get" && call["ok"] == true) {
        let name = call["name"].as_str().expect("a name");
        let bytes = std::fs::read(objects.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let end = |which: &str| call["range"][which].as_u64().map(|at| usize::try_from(at).expect("an offset"));
        let range = end("start").unwrap_or(0)..end("end").unwrap_or(bytes.len());
        if seen.insert((name.to_owned(), range.start, range.end)) {
            opened.take(name, &bytes[range], &keys);
        }
    }
    opened
}

/// Opens every object of the store whose name begins with `prefix`, and every member of a bundle, that the key of `scope` opens.
pub fn everything(estate: &Estate, scope: &str) -> Opened {
    let keys = [estate.identities.join(scope).join("1.age")];
    let mut opened = Opened::default();
    for (name, path) in super::damage::objects(estate.objects(), |name| name.contains(".age") || name.ends_with(".tar"))
    {
        if name.contains('@') || !(name.starts_with(scope) || name.ends_with(".bundle.tar")) {
            continue;
        }
        let bytes = std::fs::read(path).expect("an object");
        if !name.ends_with(".bundle.tar") {
            opened.take(&name, &bytes, &keys);
            continue;
        }
        let mut archive = tar::Archive::new(&bytes[..]);
        for member in archive.entries().expect("a bundle is a tar archive") {
            let mut member = member.expect("a member");
            let (mut sealed, inside) = (Vec::new(), member.path().expect("its name").display().to_string());
            std::io::Read::read_to_end(&mut member, &mut sealed).expect("its content");
            opened.take(&format!("{name}:{inside}"), &sealed, &keys);
        }
    }
    opened
}

const SEALED: &[u8] = b"age-encryption.org/v1";
const ZSTD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];

impl Opened {
    fn take(&mut self, name: &str, bytes: &[u8], keys: &[PathBuf]) {
        if !bytes.starts_with(SEALED) {
            self.pieces.push(Piece { name: name.to_owned(), content: bytes.to_vec() });
            return;
        }
        match age(bytes, keys) {
            Some(plain) if plain.starts_with(ZSTD) => {
                let content = zstd::decode_all(&plain[..]).unwrap_or_else(|error| panic!("{name}: {error}"));
                self.pieces.push(Piece { name: name.to_owned(), content });
            }
            Some(content) => self.pieces.push(Piece { name: name.to_owned(), content }),
            None => self.closed.push(name.to_owned()),
        }
    }

    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.content.len()).sum()
    }

    /// The pieces that hold any of `texts`, as "name: text".
    pub fn holding(&self, texts: &[String]) -> Vec<String> {
        let folder = super::scratch();
        let write = |(number, piece): (usize, &Piece)| {
            std::fs::write(folder.path().join(format!("{number}")), &piece.content).expect("a copy to search");
        };
        self.pieces.iter().enumerate().for_each(write);
        texts_in(folder.path(), texts)
    }
}

fn age(sealed: &[u8], keys: &[PathBuf]) -> Option<Vec<u8>> {
    let mut command = Command::new("age");
    command.arg("-d");
    for key in keys {
        command.arg("-i").arg(key);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("age");
    let (mut input, sealed) = (child.stdin.take().expect("its input"), sealed.to_vec());
    // It stops reading when no key fits: that is its answer, not ours to fail on.
    let feeder = std::thread::spawn(move || drop(input.write_all(&sealed)));
    let output = child.wait_with_output().expect("age");
    feeder.join().expect("the feeder");
    output.status.success().then_some(output.stdout)
}

/// Which of `texts` occur in which file below `folder`, by `grep` over the raw bytes.
pub fn texts_in(folder: &Path, texts: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let output = Command::new("grep").args(["-rlaF", "-e", text]).arg(folder).output().expect("grep");
        assert!(output.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&output.stderr));
        found.extend(String::from_utf8_lossy(&output.stdout).lines().map(|file| format!("{file}: {text}")));
    }
    found
}
