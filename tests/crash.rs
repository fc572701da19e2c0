//! kill -9 at random moments: what was acknowledged is in the store, what is half-made is listed nowhere, the next run
//! completes. And how a stream ends when it is told to, or when the server does.
//!
//! `LIFEBOAT_SEED` repeats a run's delays; each test prints its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat::ids::{Lsn, Scope, SystemId};
use lifeboat::point::stored::Stored;
use lifeboat::postgres::wal::{extent, merge};
use lifeboat::repo::envelope::{EnvelopeKind, ObjectRef, Verified};
use lifeboat::repo::identities::Identities;
use lifeboat::repo::reader::{Reader, What};
use lifeboat::repo::sign::Signers;
use lifeboat::repo::window::chain;
use rustix::process::Signal;
use sha1::{Digest as _, Sha1};

use support::cluster::{Cluster, Options};
use support::estate::Estate;
use support::fingerprint;
use support::process::Owned;
use support::restored::{processes_in, start};
use support::tenants::Tenant;
use support::workload::{Workload, last_number};

/// Small stretches and quick tails, so that a kill hits every step many times.
const QUICK: &str = "flush_interval = \"100ms\"\nstretch_interval = \"700ms\"\nstretch_bytes = \"1MiB\"";

/// For anything that is awaited: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// Delays that can be repeated (splitmix64).
struct Dice(u64);

impl Dice {
    fn new(test: &str) -> Self {
        let given = std::env::var("LIFEBOAT_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = given.unwrap_or_else(|| u64::from_le_bytes(support::random(8).try_into().expect("eight bytes")));
        eprintln!("{test}: LIFEBOAT_SEED={seed}");
        Self(seed)
    }

    /// The first of several: at once. That one at least is killed, however fast the machine is.
    fn delay_of(&mut self, round: usize, longest: Duration) -> Duration {
        if round == 0 { Duration::ZERO } else { self.delay(longest) }
    }

    fn delay(&mut self, longest: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        longest.mul_f64(((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// The store as the library shows it: envelopes that are signed and where they should be.
struct Library {
    runtime: tokio::runtime::Runtime,
    reader: Reader,
}

impl Library {
    fn of(estate: &Estate) -> Self {
        let signers = Arc::new(Signers::read(&estate.dir().join("allowed_signers")).unwrap());
        let identities = Arc::new(Identities::open(Some(&estate.identities)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = runtime.block_on(estate.open_store());
        Self { runtime, reader: Reader::open(store, signers, identities) }
    }

    /// The one window of WAL, in order; the test fails on a gap, a fork, or an envelope that is not believed.
    fn wal(&self, system: SystemId) -> (Lsn, Vec<Verified>) {
        let listing = self.runtime.block_on(self.reader.stretches(system, None)).unwrap();
        assert!(listing.bad.is_empty(), "{:?}", listing.bad);
        let found = chain(&listing.good);
        assert!(found.gaps.is_empty() && found.forks.is_empty(), "{:?} {:?}", found.gaps, found.forks);
        let Some(window) = found.windows.first() else { return (Lsn(0), Vec::new()) };
        assert_eq!(found.windows.len(), 1, "several windows, though no gap");
        (window.to, window.members.iter().map(|index| listing.good[*index].clone()).collect())
    }

    /// Up to when, by the server's clock, the WAL is there.
    fn covered(&self) -> jiff::Timestamp {
        let scope = Scope::Tenant("initech".to_owned());
        let stored = self.runtime.block_on(Stored::read(&self.reader, &[scope])).unwrap();
        stored.runs.iter().filter_map(|stored| stored.run.clock()).max().unwrap()
    }

    /// Every listed point, after each object that it names, directly or through an envelope, was read and compared.
    fn points(&self, tenants: &[&str]) -> Vec<String> {
        let scopes: Vec<Scope> = tenants.iter().map(|id| Scope::Tenant((*id).to_owned())).collect();
        let stored = self.runtime.block_on(Stored::read(&self.reader, &scopes)).unwrap();
        assert!(stored.bad.is_empty(), "{:?}", stored.bad);
        for point in &stored.points {
            let window = stored
                .runs
                .iter()
                .any(|stored| stored.run.from() <= point.facts.start_lsn && point.facts.lsn <= stored.run.to());
            assert!(window, "{} is listed and its WAL is not there", point.envelope.name);
            point.envelope.objects.iter().for_each(|object| self.whole(object));
        }
        stored.points.iter().map(|point| point.envelope.name.clone()).collect()
    }

    fn whole(&self, object: &ObjectRef) {
        let bytes = self.runtime.block_on(self.reader.store.get(&object.name, None, None));
        let bytes = bytes.unwrap_or_else(|error| panic!("{}: {error}", object.name));
        assert_eq!(lifeboat::ids::Digest::of(&bytes), object.sha256, "{}", object.name);
        if object.name.ends_with(".envelope.json") {
            let envelope = self.runtime.block_on(self.reader.envelope(object)).unwrap();
            envelope.objects.iter().for_each(|object| self.whole(object));
        }
    }

    /// All scopes of the window merged, compared with the server's own segments.
    fn equals(&self, wal: &[Verified], segments: &Path) -> u64 {
        let mut compared = 0;
        for envelope in wal {
            let said = envelope.wal.as_ref().unwrap();
            let mut parts = Vec::new();
            for span in &said.spans {
                let bytes = self.runtime.block_on(self.reader.span(envelope, &span.scope)).unwrap().unwrap();
                parts.push((span.scope.clone(), extent::decode(&bytes).unwrap()));
            }
            let (cluster, others): (Vec<_>, Vec<_>) =
                parts.into_iter().partition(|(scope, _)| matches!(scope, Scope::Cluster(_)));
            let others: Vec<_> = others.iter().map(|(_, part)| part).collect();
            let merged = merge::merge(&cluster[0].1, &others).unwrap();
            let theirs = read_wal(segments, said.from, merged.len());
            assert!(merged == theirs, "{} differs from pg_wal", envelope.name);
            compared += merged.len() as u64;
        }
        compared
    }
}

const SEGMENT: u64 = 16 << 20;

fn read_wal(folder: &Path, from: Lsn, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = from.0 + bytes.len() as u64;
        let (segment, offset) = (at / SEGMENT, usize::try_from(at % SEGMENT).unwrap());
        let name = format!("00000001{:08X}{:08X}", segment / 256, segment % 256);
        let file = std::fs::read(folder.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let end = file.len().min(offset + length - bytes.len());
        bytes.extend_from_slice(&file[offset..end]);
    }
    bytes
}

fn system_of(cluster: &Cluster) -> SystemId {
    cluster.psql("postgres", "SELECT system_identifier FROM pg_control_system()").parse().unwrap()
}

/// A server that keeps its WAL, so that it can be compared.
fn cluster() -> Cluster {
    let settings = vec![("wal_keep_size".to_owned(), "3GB".to_owned())];
    Cluster::start(Options { settings, ..Options::default() })
}

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap()
}

/// What the server believes to be durable; asked when nobody streams any more, so that it has heard everything.
fn acknowledged(cluster: &Cluster) -> Lsn {
    let asked = "SELECT active, restart_lsn FROM pg_replication_slots WHERE slot_name = 'lifeboat'";
    let begun = Instant::now();
    loop {
        match cluster.psql("postgres", asked).split_once('\t') {
            Some(("f", at)) if !at.is_empty() => return lsn(at),
            None => return Lsn(0),
            _ => assert!(begun.elapsed() < PATIENCE, "the slot stays in use"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The newest state of initech, into `to`.
fn restore(to: &Path) -> [&str; 6] {
    ["restore", "initech", "--at", "latest", "--to", to.to_str().unwrap()]
}

#[test]
fn a_stream_killed_at_any_moment_loses_nothing_acknowledged_and_leaves_no_gap_and_no_duplicate() {
    let mut dice = Dice::new("stream");
    let cluster = cluster();
    let estate = Estate::new(&cluster, &[Tenant::Initech], "");
    estate.tune(QUICK);
    estate.run(&["backup"]).done();
    let system = system_of(&cluster);
    let library = Library::of(&estate);
    let workload = Workload::start(&cluster, &["initech"], Duration::from_millis(1));
    let mut acked = Lsn(0);
    for _ in 0..8 {
        let stream = estate.spawn(&["stream"]);
        let ended = stream.kill_after(dice.delay(Duration::from_millis(2500)));
        assert!(ended.is_none(), "the stream ended by itself: {}", estate.log("stream"));
        acked = acknowledged(&cluster);
        let (durable, _) = library.wal(system);
        assert!(durable >= acked, "the server was told {acked}, the store's WAL ends at {durable}");
    }
    let log = workload.stop().remove("initech").unwrap();

    // What the store holds now, with no stream after the last kill.
    let target = support::scratch();
    let to = target.path().join("r");
    // Attachments of the last moments may not have been shipped yet: that is said (4), and the rows are all there.
    let restored = estate.run(&restore(&to));
    let unshipped = restored.json["filestore"]["missing"].as_u64().is_some_and(|missing| missing > 0);
    let fine = if unshipped { restored.code == 4 } else { [0, 3].contains(&restored.code) };
    assert!(fine, "{}\n{:#}", restored.stderr, restored.json);
    assert_eq!(restored.json["met"], true);
    assert!(lsn(restored.json["reached"]["lsn"].as_str().unwrap()) >= acked);
    let back = last_number(&start(&to).running.server, "initech");
    let promised = log.iter().filter(|commit| lsn(&commit.lsn) <= acked).map(|commit| commit.number).max();
    assert!(promised.is_some_and(|promised| back >= promised), "{back} came back, {promised:?} was acknowledged");
    assert!(log.iter().filter(|commit| commit.number > back).all(|commit| lsn(&commit.lsn) > acked));

    let end = lsn(&cluster.server.insert_lsn());
    estate.run(&["stream", "--once"]).expect(0);
    let (durable, wal) = library.wal(system);
    assert!(durable >= lsn(&log.last().unwrap().lsn), "{durable} of {end}");
    let compared = library.equals(&wal, &cluster.data.join("pg_wal"));
    assert!(compared > 1 << 20, "only {compared} bytes of WAL");
    assert!(wal.iter().any(|envelope| envelope.kind == EnvelopeKind::Stretch));
    // The next run has brought what the kills kept from being shipped.
    estate.run(&restore(&target.path().join("all"))).done();
}

#[test]
fn a_backup_killed_at_any_moment_lists_no_half_made_point_and_the_next_one_completes() {
    let mut dice = Dice::new("backup");
    let cluster = cluster();
    let estate = Estate::new(&cluster, &[Tenant::Initech], "");
    estate.tune(QUICK);
    let library = Library::of(&estate);
    let begun = Instant::now();
    estate.run(&["backup"]).done();
    let longest = begun.elapsed();
    assert_eq!(library.points(&["initech"]).len(), 1);
    let mut killed = 0;
    for round in 0..6 {
        cluster.psql(
            "initech",
            &format!("CREATE TABLE round_{round} AS SELECT n, md5(n::text) FROM generate_series(1, 2000) n"),
        );
        let before = library.points(&["initech"]);
        let ended = estate.spawn(&["backup"]).kill_after(dice.delay_of(round, longest));
        let after = library.points(&["initech"]);
        assert!(after.starts_with(&before), "{after:?}");
        match ended {
            None => killed += 1,
            Some(ended) => {
                assert!(matches!(ended.code(), Some(0 | 3)), "{ended}: {}", estate.log("backup"));
                assert_eq!(after.len(), before.len() + 1, "{}", estate.log("backup"));
            }
        }
    }
    assert!(killed > 0);
    let before = library.points(&["initech"]).len();
    estate.run(&["backup"]).done();
    assert_eq!(library.points(&["initech"]).len(), before + 1);
    library.wal(system_of(&cluster));
    let target = support::scratch();
    let to = target.path().join("r");
    estate.run(&restore(&to)).done();
    let there = start(&to);
    assert_eq!(
        fingerprint::differences(
            &fingerprint::take(&cluster.server, "initech"),
            &fingerprint::take(&there.running.server, "initech")
        ),
        Vec::<String>::new()
    );
}

#[test]
fn a_restore_killed_at_any_moment_leaves_nothing_running_and_nothing_that_claims_to_be_a_restore() {
    let mut dice = Dice::new("restore");
    let cluster = cluster();
    let estate = Estate::new(&cluster, &[Tenant::Initech], "");
    estate.run(&["backup"]).done();
    let target = support::scratch();
    let folder = |name: String| target.path().join(name);
    let begun = Instant::now();
    let whole = folder("whole".into());
    estate.run(&restore(&whole)).done();
    let longest = begun.elapsed();
    let mut killed = 0;
    for round in 0..6 {
        let to = folder(format!("k{round}"));
        if let Some(ended) = estate.spawn(&restore(&to)).kill_after(dice.delay_of(round, longest.mul_f64(0.95))) {
            assert!(matches!(ended.code(), Some(0 | 3)), "{ended}: {}", estate.log("restore"));
            continue;
        }
        killed += 1;
        let begun = Instant::now();
        while !processes_in(&to).is_empty() {
            assert!(begun.elapsed() < PATIENCE, "still running: {:?}", processes_in(&to));
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(!to.join("restore.json").exists(), "a killed restore claims to be one");
        // What lies there is not taken for a place to restore to, either.
        if std::fs::read_dir(&to).is_ok_and(|mut entries| entries.next().is_some()) {
            let again = estate.run(&restore(&to)).expect(5);
            assert_eq!(again.json["error"]["object"].as_str(), to.canonicalize().unwrap().to_str());
        }
    }
    assert!(killed > 0);
    let last = folder("last".into());
    estate.run(&restore(&last)).done();
    let there = start(&last);
    let source = fingerprint::take(&cluster.server, "initech");
    let state = fingerprint::take(&there.running.server, "initech");
    assert_eq!(fingerprint::differences(&source, &state), Vec::<String>::new());
}

/// Ends on SIGTERM by itself, and says how: the last line of what it wrote.
fn drained(estate: &Estate, mut stream: Owned) -> serde_json::Value {
    stream.signal(Signal::TERM);
    let status = stream.wait(PATIENCE).expect("it drains");
    assert!(status.code().is_some_and(|code| code == 0 || code == 3), "{status}: {}", estate.log("stream"));
    let log = estate.log("stream");
    let last = log.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).unwrap();
    assert_eq!(last["command"], "stream", "{log}");
    last
}

fn wait_until_streaming(cluster: &Cluster, stream: &mut Owned) {
    let begun = Instant::now();
    while cluster.psql("postgres", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") != "1" {
        assert!(stream.wait(Duration::ZERO).is_none(), "the stream has ended");
        assert!(begun.elapsed() < PATIENCE, "nobody streams");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_stream_told_to_stop_stores_what_it_has_and_one_whose_server_restarts_ends_with_7_and_goes_on_later() {
    let mut cluster = cluster();
    let estate = Estate::new(&cluster, &[Tenant::Initech], "");
    let (library, system) = (Library::of(&estate), system_of(&cluster));
    let mut stream = estate.spawn(&["stream"]);
    wait_until_streaming(&cluster, &mut stream);
    cluster.psql("initech", "CREATE TABLE kept AS SELECT n FROM generate_series(1, 1000) n");
    let committed = lsn(&cluster.server.insert_lsn());
    // No flush was due yet with the usual second; SIGTERM stores it all the same.
    std::thread::sleep(Duration::from_millis(200));
    let said = drained(&estate, stream);
    let (durable, _) = library.wal(system);
    assert!(durable >= committed, "{durable} of {committed}");
    assert_eq!(lsn(said["clusters"]["main"]["durable"].as_str().unwrap()), durable);
    assert!(acknowledged(&cluster) <= durable);

    let mut stream = estate.spawn(&["stream"]);
    wait_until_streaming(&cluster, &mut stream);
    cluster.psql("initech", "INSERT INTO kept SELECT n FROM generate_series(1, 1000) n");
    cluster.stop();
    let status = stream.wait(PATIENCE).expect("the stream ends with its server");
    assert_eq!(status.code(), Some(7), "{}", estate.log("stream"));
    let refused = estate.run(&["stream", "--once"]).expect(7);
    assert!(refused.json["error"]["next"].as_str().unwrap().contains("try again"), "{:#}", refused.json);
    cluster.start_again();
    cluster.psql("initech", "INSERT INTO kept VALUES (1)");
    let committed = lsn(&cluster.server.insert_lsn());
    estate.run(&["stream", "--once"]).expect(0);
    let (durable, wal) = library.wal(system);
    assert!(durable >= committed);
    library.equals(&wal, &cluster.data.join("pg_wal"));
}

#[test]
fn a_quiet_time_is_covered_by_heartbeats_and_new_files_come_back_without_a_new_backup() {
    let cluster = cluster();
    let estate = Estate::new(&cluster, &[Tenant::Initech], "");
    estate.tune("heartbeat = \"300ms\"");
    // Longer than a test: what is written belongs to the heartbeat alone.
    cluster.psql("postgres", "ALTER SYSTEM SET checkpoint_timeout = '1d'");
    cluster.psql("postgres", "ALTER SYSTEM SET autovacuum = off");
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    estate.run(&["backup"]).done();
    let library = Library::of(&estate);
    let mut stream = estate.spawn(&["stream"]);
    wait_until_streaming(&cluster, &mut stream);

    let files = cluster.filestore.join("initech");
    let (whole, half) = (attach(&cluster, &files, "whole", 1.0), attach(&cluster, &files, "half", 0.5));
    let (sets, _) = shipped_with(&library, &whole);
    assert!(!sets.contains(&half), "{sets:?}");
    finish(&files, &half, "half");
    let (_, count) = shipped_with(&library, &half);

    // Quiet from here on; a moment after the last commit is covered although no WAL came.
    let quiet = cluster
        .psql("postgres", "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    let begun = Instant::now();
    while library.covered() < quiet.parse().unwrap() {
        assert!(begun.elapsed() < PATIENCE, "no heartbeat covers {quiet}: {}", estate.log("stream"));
        std::thread::sleep(Duration::from_millis(50));
    }
    drained(&estate, stream);
    assert_eq!(shipped(&library).1, count, "sets without new files");
    let target = support::scratch();
    let to = target.path().join("r");
    let asked = ["restore", "initech", "--at", &quiet, "--to", to.to_str().unwrap()];
    let restored = estate.run(&asked).done();
    assert_eq!(restored.json["filestore"]["missing"], 0);
    for (name, text) in [(&whole, "whole"), (&half, "half")] {
        let content = std::fs::read(to.join("filestore/initech").join(name)).unwrap();
        assert_eq!(content, content_of(text), "{name}");
    }
}

fn content_of(text: &str) -> Vec<u8> {
    text.repeat(5000).into_bytes()
}

fn name_of(content: &[u8]) -> String {
    let sum = hex::encode(Sha1::digest(content));
    format!("{}/{sum}", &sum[..2])
}

/// Writes (a part of) an attachment's file under its final name, as Odoo does, and commits its row.
fn attach(cluster: &Cluster, files: &Path, text: &str, part: f64) -> String {
    let content = content_of(text);
    let name = name_of(&content);
    std::fs::create_dir_all(files.join(&name[..2])).unwrap();
    let there = (content.len() as f64 * part) as usize;
    std::fs::write(files.join(&name), &content[..there]).unwrap();
    let row = format!(
        "INSERT INTO ir_attachment (name, type, store_fname, checksum, file_size, mimetype, create_date) \
         VALUES ('{text}', 'binary', '{name}', '{}', {}, 'text/plain', now())",
        &name[3..],
        content.len()
    );
    cluster.psql("initech", &row);
    name
}

fn finish(files: &Path, name: &str, text: &str) {
    std::fs::write(files.join(name), content_of(text)).unwrap();
}

/// Waits until a shipped set holds `name` as a whole file; then what [`shipped`] gives.
fn shipped_with(library: &Library, name: &String) -> (Vec<String>, usize) {
    let begun = Instant::now();
    loop {
        let (sets, count) = shipped(library);
        if sets.contains(name) {
            return (sets, count);
        }
        assert!(begun.elapsed() < PATIENCE, "{name} is not shipped: {sets:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The names that the shipped sets hold as whole files, and how many such sets there are.
fn shipped(library: &Library) -> (Vec<String>, usize) {
    let scope = Scope::Tenant("initech".to_owned());
    let listing = library.runtime.block_on(library.reader.envelopes(&scope, What::Sets)).unwrap();
    let mut names = Vec::new();
    let sets: Vec<_> = listing.good.iter().filter(|set| set.source == "files-initech").collect();
    for set in &sets {
        let body = library.runtime.block_on(library.reader.body(set)).unwrap();
        let entries = body.entries().unwrap().map(Result::unwrap);
        names.extend(entries.filter(|entry| entry.tags.is_empty()).map(|entry| entry.path));
    }
    (names, sets.len())
}
