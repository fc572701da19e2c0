//! One tenant, back to a moment, by a person with the bucket, two keys and the standard tools: what `docs/BY-HAND.md` says, word for word.
//!
//! The commands are taken out of the text that lies in the store as `README.txt`, the scripts are those that lie beside it, and no lifeboat
//! can be found: `PATH` holds only what the text asks for. The store's folder is a copy with the prefixes that a tenant's own credential
//! reaches.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lifeboat::ids::Lsn;
use lifeboat::postgres::wal::extent::{Extent, encode};
use lifeboat::postgres::wal::{Part, merge};
use support::cluster::{Cluster, Options, Server};
use support::estate::{CLUSTER, Estate};
use support::process::{give, run, unprivileged};
use support::tenants::Tenant;
use support::workload::{Moment, Workload};
use support::{BIN, folder, random, scratch};

/// What the text asks for, and what a shell script is made of; `age` and PostgreSQL besides.
const TOOLS: [&str; 46] = [
    "age",
    "awk",
    "bash",
    "basename",
    "basenc",
    "cat",
    "chmod",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "dirname",
    "echo",
    "find",
    "fold",
    "grep",
    "head",
    "jq",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "od",
    "openssl",
    "printf",
    "rm",
    "sed",
    "sh",
    "sha1sum",
    "sha256sum",
    "sleep",
    "sort",
    "split",
    "ssh-keygen",
    "stat",
    "tail",
    "tar",
    "touch",
    "tr",
    "truncate",
    "unshare",
    "wc",
    "xargs",
    "zstd",
    "ln",
];

/// What a person sits before: the copy of the store, the two keys, the signers file, an empty place.
struct Desk {
    dir: tempfile::TempDir,
    ours: &'static str,
}

#[test]
fn a_tenant_comes_back_to_a_moment_by_the_commands_of_the_text_alone() {
    let ours = Tenant::Initech.name();
    let cluster = Cluster::start(Options::default());
    // A database of somebody else's: it is listed in the cluster's share, and its files must not be missed.
    cluster.psql("postgres", "CREATE DATABASE umbrella");
    let estate = Estate::in_folder(&cluster, &[Tenant::Initech], "");
    let workload = Workload::start(&cluster, &[ours], Duration::from_millis(20));
    let stream = estate.stream(&cluster);
    estate.run(&["backup"]).done();
    workload.advance(ours, 8);
    let moment = workload.moment(ours);
    workload.advance(ours, 8);
    workload.stop();
    estate.wait_for_wal(&cluster, &cluster.server.insert_lsn());
    estate.end_stream(stream);

    let desk = Desk::set(&estate, ours);
    let steps = desk.steps(&moment);
    desk.refuses_what_was_altered(&steps);
    let out = desk.run(&steps.concat()).unwrap_or_else(|said| panic!("{said}\n{}", desk.log()));
    // Before a commit or an abort: the workload makes both.
    assert!(out.contains("recovery stopping before "), "{out}");
    desk.comes_back_as(&moment);
}

impl Desk {
    fn set(estate: &Estate, ours: &'static str) -> Self {
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        for prefix in [format!("tenant/{ours}"), format!("cluster/{CLUSTER}"), "wal".to_owned()] {
            copy(&estate.store.join(&prefix), &at("bucket").join(&prefix));
        }
        for scope in [format!("tenant/{ours}"), format!("cluster/{CLUSTER}")] {
            copy(&estate.identities.join(&scope), &at("keys").join(&scope));
        }
        run(Command::new("cp").arg(estate.dir().join("allowed_signers")).arg(at("signers")));
        tools(&at("bin"), TOOLS.iter());
        give(dir.path());
        Self { dir, ours }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Settings of this desk's, then every `sh` block of the text that lies in the store.
    fn steps(&self, moment: &Moment) -> Vec<String> {
        let text = std::fs::read_to_string(self.at("bucket").join(format!("tenant/{}/README.txt", self.ours))).unwrap();
        assert_eq!(text, include_str!("../docs/BY-HAND.md"), "the store holds another text than docs/");
        let mut steps = vec![format!(
            "export PATH={0}/bin\nBUCKET={0}/bucket KEYS={0}/keys SIGNERS={0}/signers TENANT={1} CLUSTER={CLUSTER}\n\
             WHEN={2} WORK={0}/work PGBIN={BIN} ISOLATED='{3}'\n",
            self.dir.path().display(),
            self.ours,
            moment.time,
            isolation(&text),
        )];
        steps.extend(blocks(&text, "sh"));
        assert!(steps.len() > 10, "the text's commands were not found");
        steps
    }

    /// What was said on standard output, or all that was said when a command failed.
    fn run(&self, commands: &str) -> Result<String, String> {
        let mut bash = unprivileged("/bin/bash");
        bash.arg("-c").arg(commands).env("HOME", self.dir.path());
        for name in ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"] {
            bash.env_remove(name);
        }
        let output = bash.output().expect("bash");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{}\n{out}\n{err}", output.status)) }
    }

    /// Bits changed in the point, in a script, in the WAL: the commands end there, each at its own step.
    fn refuses_what_was_altered(&self, steps: &[String]) {
        let files = |step: &&String| !step.contains(".role == \"base\"");
        let without_files = steps.iter().filter(files).cloned().collect::<String>();
        let without_files = without_files.split("controlled()").next().unwrap();
        for (part, said) in [
            ("/points/.*[.]envelope[.]json$", "NOT BELIEVED"),
            ("/lay-wal[.]sh$", "lay-wal.sh: FAILED"),
            ("^wal/[^/]*/[^/]*/[^/]*[.]bundle[.]tar$", "span.age: FAILED"),
        ] {
            let find = "find \"$0\" -type f -printf '%P\\n' | grep -E \"$1\" | sort | tail -1";
            let name = run(Command::new("bash").args(["-c", find]).arg(self.at("bucket")).arg(part));
            let path = self.at("bucket").join(name.trim());
            let good = std::fs::read(&path).unwrap();
            let mut bad = good.clone();
            // Every member of a bundle is hit, ours among them.
            bad.iter_mut().skip(200).step_by(199).for_each(|byte| *byte ^= 1);
            // Written over in place: owner, rights and the time by which signatures are judged stay near enough.
            std::fs::write(&path, bad).unwrap();
            let refused = self.run(without_files).expect_err(&format!("{name} was altered and nobody minded"));
            assert!(refused.contains(said), "{name}: {refused}");
            std::fs::write(&path, good).unwrap();
            run(Command::new("rm").arg("-rf").arg(self.at("work")));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at("work/server.log")).unwrap_or_default()
    }

    fn comes_back_as(&self, moment: &Moment) {
        let server = Server { socket: self.at("work/socket"), port: 5432 };
        let found = folder::differences(&server, &self.at("work/filestore").join(self.ours), moment);
        let databases = folder::databases(&server);
        // What the text leaves running is ended here, whatever was found.
        run(unprivileged(&format!("{BIN}/pg_ctl")).args(["stop", "-m", "fast", "-D"]).arg(self.at("work/pgdata")));
        assert!(found.is_empty(), "{found:#?}");
        assert_eq!(databases, [self.ours, "postgres"], "others are still listed");
        assert!(self.at("work").join(format!("{}.dump", self.ours)).metadata().unwrap().len() > 100_000);
    }
}

/// A stretch of noise at `from`, and two shares of it: many extents of few bytes, by turns.
fn stretch(from: u64, bytes: usize, extents: usize) -> (Part, [Part; 2]) {
    let cluster = Part { extents: vec![Extent { at: Lsn(from), bytes: random(bytes).into() }], mixed: vec![] };
    let mut shares = [Part::default(), Part::default()];
    let room = bytes / extents;
    for number in 0..extents {
        let (at, length) = (from + (number * room) as u64, 1 + (number * 7) % room);
        shares[number % 2].extents.push(Extent { at: Lsn(at), bytes: random(length).into() });
    }
    shares[0].mixed.push(Lsn(from + 8));
    (cluster, shares)
}

/// Where a stretch begins, its opened shares by file name, where it ends.
type Opened = (u64, Vec<(&'static str, Vec<u8>)>, u64);

/// Runs the script on `stretches` below `dir`; the laid WAL from `from` on, or what was said.
fn lay(dir: &Path, path: &Path, stretches: &[Opened]) -> Result<Vec<u8>, String> {
    let at = |name: &str| dir.join(name);
    for name in ["spans", "wal"] {
        std::fs::remove_dir_all(at(name)).ok(); // of the run before
    }
    for (from, shares, to) in stretches {
        let folder = at("spans").join(format!("{from:016X}-{to:016X}"));
        std::fs::create_dir_all(&folder).unwrap();
        shares.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/lay-wal.sh");
    let mut sh = Command::new("/bin/sh");
    sh.arg(script).args([at("spans"), at("wal")]).args(["1048576", "1", "7300000000000000001"]).env("PATH", path);
    let output = sh.output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let mut names: Vec<PathBuf> = std::fs::read_dir(at("wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let all: Vec<u8> = names.iter().flat_map(|name| std::fs::read(name).unwrap()).collect();
    Ok(all[(stretches[0].0 % (1 << 20)) as usize..].to_vec())
}

#[test]
fn the_script_lays_what_lifeboat_lays_and_refuses_what_is_not_whole() {
    let dir = scratch();
    let (first, second) = (0x16_B374_D848, 0x16_B374_D848 + 2_000_000);
    let (one, two) = (stretch(first, 2_000_000, 20_000), stretch(second, 300_008, 50));
    let mut wanted = Vec::new();
    for (cluster, shares) in [&one, &two] {
        let plain = shares.clone().map(|share| Part { mixed: vec![], ..share });
        wanted.extend(merge::merge(cluster, &[&plain[0], &plain[1]]).unwrap());
    }
    let spans = |(cluster, shares): &(Part, [Part; 2])| {
        vec![("cluster", encode(cluster)), ("1", encode(&shares[0])), ("2", encode(&shares[1]))]
    };
    let end = second + 300_008;
    let good = [(first, spans(&one), second), (second, spans(&two), end)];
    let path = PathBuf::from(std::env::var_os("PATH").unwrap());
    let laid = lay(dir.path(), &path, &good).unwrap();
    assert!(laid[..wanted.len()] == wanted && laid[wanted.len()..].iter().all(|byte| *byte == 0));

    // Without basenc: older systems.
    let old = dir.path().join("old");
    tools(&old, TOOLS.iter().filter(|tool| **tool != "basenc"));
    let short = stretch(first, 30_008, 20);
    let one_more = [(first, spans(&short), first + 30_008)];
    assert!(lay(dir.path(), &old, &one_more).unwrap() == lay(dir.path(), &path, &one_more).unwrap());

    let mut cut = good.clone();
    cut[0].1[1].1.truncate(5000);
    let mut beyond = good.clone();
    beyond[1].1[1].1.clone_from(&good[0].1[1].1);
    let mut mixed = good.clone();
    mixed[0].1[2].1.clone_from(&good[0].1[1].1);
    let gap = [good[0].clone(), (second + 8, spans(&two), end + 8)];
    for (bad, said) in [
        (cut.to_vec(), "lies outside"),
        (beyond.to_vec(), "lies outside"),
        (mixed.to_vec(), "need lifeboat"),
        (gap.to_vec(), "nothing between"),
    ] {
        let refused = lay(dir.path(), &path, &bad).expect_err(said);
        assert!(refused.contains(said), "{said}: {refused}");
    }
}

/// The text's own setting where this machine lets an ordinary user have a network of his own; none otherwise.
fn isolation(text: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix("ISOLATED=\"")).expect("the setting");
    let words = line.split('"').next().unwrap();
    let mut tried = unprivileged("/bin/sh");
    let works = tried.args(["-c", &format!("{words} true")]).output().is_ok_and(|output| output.status.success());
    if works {
        return words.to_owned();
    }
    let test = "a_tenant_comes_back_to_a_moment_by_the_commands_of_the_text_alone";
    support::skip(test, "no network namespace for an ordinary user here: the server ran without one");
    String::new()
}

/// The code blocks of a Markdown text that are marked with exactly `mark`.
fn blocks(text: &str, mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("```") {
            let block: String =
                lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            if name == mark {
                found.push(block);
            }
        }
    }
    found
}

/// A folder with these tools and no others.
fn tools<'a>(folder: &Path, names: impl Iterator<Item = &'a &'a str>) {
    std::fs::create_dir_all(folder).unwrap();
    for name in names {
        let found = run(Command::new("sh").args(["-c", "command -v \"$0\" || true", name]));
        // What the shell has itself needs no file.
        if found.starts_with('/') {
            std::os::unix::fs::symlink(found.trim(), folder.join(name)).unwrap();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}
