//! One shared cluster, changes in every tenant, a stream and a backup beside them: what comes back, and what was opened for it.
//!
//! One test, because the estate that all of it is asked of takes most of the time. Without acme and globex, initech alone is
//! brought back, and what needs a second tenant is left out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lifeboat::ids::{Lsn, Scope};
use lifeboat::postgres::wal::{Part, extent, merge};
use lifeboat::repo::identities::Identities;
use lifeboat::repo::reader::Reader;
use lifeboat::repo::sign::Signers;
use lifeboat::repo::window::chain;
use support::cluster::{BACKUP_USER, Cluster, Options};
use support::estate::{CLUSTER, Estate, Outcome};
use support::fingerprint::{self, State};
use support::folder::{self, Folder};
use support::markers::Markers;
use support::oracle::Oracle;
use support::tenants::{self, Tenant};
use support::workload::{Moment, Workload};
use support::{compare, opened};

/// The estate of the test and what happened in it.
struct Scene {
    cluster: Cluster,
    estate: Estate,
    /// The tenant that comes back; the others must not.
    ours: &'static str,
    others: Vec<&'static str>,
    markers: Markers,
    /// Whether a restore was searched for markers already.
    searched: Cell<bool>,
    begun: Instant,
}

#[test]
fn a_tenant_comes_back_to_any_moment_and_nobody_elses_data_is_opened() {
    let mut scene = Scene::set();
    let mut oracle = Oracle::begin(&scene.cluster);
    let names: Vec<&str> = std::iter::once(scene.ours).chain(scene.others.iter().copied()).collect();
    let workload = Workload::start(&scene.cluster, &names, Duration::from_millis(20));
    workload.advance(scene.ours, 4);

    let stream = scene.estate.stream(&scene.cluster);
    scene.plant();
    let backup = scene.estate.run(&["backup"]).done();
    // On a slow machine the workload's own parameters may change at each reading of the roster, which is said.
    let warned =
        backup.json["findings"].as_array().into_iter().flatten().filter(|finding| finding["level"] == "warning");
    let others: Vec<_> = warned.filter(|finding| !finding["object"].to_string().contains("access of")).collect();
    assert!(others.is_empty(), "{}\n{:#}", backup.stderr, backup.json);
    scene.say("backed up under load");
    assert_eq!(backup.json["backups"][0]["points"].as_array().unwrap().len(), names.len());

    workload.advance(scene.ours, 8);
    let by_lsn = workload.moment(scene.ours);
    scene.plant();
    workload.advance(scene.ours, 8);
    let by_time = workload.moment(scene.ours);
    workload.advance(scene.ours, 8);
    scene.remember_others_in_statistics();
    let last = workload.moment(scene.ours);
    if let Some(other) = scene.others.first() {
        scene.markers.commit_prepared(&scene.cluster.server, other);
    }
    workload.advance(scene.ours, 8);
    workload.stop();
    let production = scene.production(&names);
    let end = scene.cluster.server.insert_lsn();
    scene.estate.wait_for_wal(&scene.cluster, &end);
    oracle.wait_for(&end);
    let ended = scene.estate.end_stream(stream);
    assert_eq!(ended["outcome"], "ok", "{ended:#}");
    oracle.stop_receiving();
    scene.say("streamed");

    scene.merged_wal_is_what_the_server_sent(&oracle);
    scene.say("merged WAL compared");
    scene.restores_with_our_keys_alone(&by_time, &by_time.time, None);
    scene.restores_with_our_keys_alone(&by_lsn, &by_lsn.lsn, Some(&oracle));
    scene.restores_with_our_keys_alone(&last, &last.lsn, None);
    scene.say("three moments restored");
    scene.restores_the_whole_cluster(&oracle, &end, &production);
    scene.say("cluster restored");
    scene.a_destroyed_key_takes_one_tenant_only(&end, &production);
    scene.say("restored beside a destroyed key");
    assert_eq!(scene.production(&names), production, "production changed");
}

impl Scene {
    fn set() -> Self {
        let tenants = match tenants::missing() {
            None => tenants::ALL.to_vec(),
            Some(why) => {
                support::skip("restores beside other tenants", why);
                vec![Tenant::Initech]
            }
        };
        let begun = Instant::now();
        let cluster = Cluster::start(Options { tenants: tenants.clone(), ..Options::default() });
        let names: Vec<&'static str> = tenants.iter().map(|tenant| tenant.name()).collect();
        // What many estates have: a role that every tenant's role is in, and a person who may enter two of them.
        cluster.psql("postgres", "CREATE ROLE platform; CREATE ROLE dba_of_all LOGIN PASSWORD 'dba-pw'");
        for name in &names {
            cluster.psql("postgres", &format!("GRANT platform TO odoo_{name}; GRANT odoo_{name} TO dba_of_all"));
        }
        let estate = Estate::new(&cluster, &tenants, "");
        estate.tune("flush_interval = \"200ms\"\nstretch_bytes = \"3MiB\"");
        let (markers, searched) = (Markers::default(), Cell::new(false));
        let scene = Self { cluster, estate, ours: names[0], others: names[1..].to_vec(), markers, searched, begun };
        scene.say("estate set up");
        scene
    }

    fn say(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.begun.elapsed().as_secs_f32());
    }

    fn plant(&mut self) {
        if let Some(other) = self.others.first() {
            self.markers.plant(&self.cluster.server, other);
        }
    }

    /// ANALYZE keeps samples of the shared catalogs, verifiers included, in the database it runs in.
    fn remember_others_in_statistics(&self) {
        for database in [self.ours, "postgres"] {
            self.cluster.psql(database, "ANALYZE pg_authid, pg_database, pg_db_role_setting, pg_auth_members");
        }
    }

    fn production(&self, names: &[&str]) -> BTreeMap<String, State> {
        let take = |name: &&str| ((*name).to_owned(), fingerprint::take(&self.cluster.server, name));
        let mut all: BTreeMap<String, State> = names.iter().map(take).collect();
        let sql = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database \
                   UNION ALL SELECT string_agg(rolname || coalesce(rolpassword, ''), ',' ORDER BY rolname) FROM pg_authid";
        let listed = self.cluster.psql("postgres", sql);
        let nothing = State { tables: BTreeMap::new(), sequences: BTreeMap::new() };
        all.insert(listed, nothing);
        all
    }

    /// The names and verifiers of roles that have no rights in our tenant's database.
    fn foreign_secrets(&self) -> Vec<String> {
        let kept = format!("'postgres', 'platform', 'dba_of_all', '{BACKUP_USER}', 'odoo_{}'", self.ours);
        let sql = format!(
            "SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL AND rolname NOT IN ({kept}) \
             UNION ALL SELECT rolname::text FROM pg_roles WHERE oid >= 16384 AND rolname NOT IN ({kept})"
        );
        let mut all: Vec<String> = self.cluster.psql("postgres", &sql).lines().map(str::to_owned).collect();
        assert!(all.len() >= 2 * self.others.len(), "{all:?}");
        all.extend(self.others.iter().map(ToString::to_string));
        all
    }

    fn restore(&self, what: &[&str], at: &str, to: &Folder) -> Outcome {
        let mut arguments = vec!["restore"];
        arguments.extend(what);
        arguments.extend(["--at", at, "--to", to.text()]);
        self.estate.run(&arguments)
    }

    fn restores_with_our_keys_alone(&self, moment: &Moment, at: &str, oracle: Option<&Oracle>) {
        let (tenant, cluster) = (format!("tenant/{}", self.ours), format!("cluster/{CLUSTER}"));
        let ours = [tenant.as_str(), cluster.as_str()];
        let to = Folder::planned();
        let outcome = self.estate.with_only(&ours, || self.restore(&[self.ours], at, &to)).expect(0);
        self.report_says_what_happened(&outcome, &to, moment, &ours);
        self.nothing_of_others(&outcome, &to, &ours);
        if let Some(oracle) = oracle {
            let witness = oracle.restore_to(&moment.lsn);
            let oid = self.cluster.server.database_oid(self.ours);
            let report = compare::database(&witness.data, &to.pgdata(), oid);
            assert!(report.files > 500, "{} files were compared", report.files);
            let after: Lsn = moment.lsn.parse().unwrap();
            let real =
                |line: &&String| is_of_people(line) && !self.is_page_pruned_by_a_reader(line, &to, self.ours, after);
            assert_eq!(report.differences.iter().filter(real).collect::<Vec<_>>(), Vec::<&String>::new());
        }
        let running = to.start();
        assert_eq!(
            folder::databases(&running.server),
            ["postgres", self.ours].map(str::to_owned).into_iter().rev().collect::<Vec<_>>()
        );
        let found = folder::differences(&running.server, &to.filestore(self.ours), moment);
        assert_eq!(found, Vec::<String>::new(), "restored to {at}");
    }

    /// With every key nothing is tidied away: every file of every tenant is the witness's, the system catalogs' too.
    fn every_file_is_the_witness_s(&self, oracle: &Oracle, to: &Folder, end: &str) {
        let (witness, target) = (oracle.restore_to(end), end.parse().unwrap());
        for name in std::iter::once(&self.ours).chain(&self.others) {
            let oid = self.cluster.server.database_oid(name);
            let report = compare::database(&witness.data, &to.pgdata(), oid);
            let real = |line: &&String| !self.is_page_pruned_by_a_reader(line, to, name, target);
            assert_eq!(report.differences.iter().filter(real).collect::<Vec<_>>(), Vec::<&String>::new(), "{name}");
        }
    }

    /// Reading a page may tidy it (`heap_page_prune_opt`). Of the tenant's tables, lifeboat reads only the one that names the
    /// files, and any session reads catalogs; the page then carries an LSN from after the target, which no record of the source's could have given it.
    fn is_page_pruned_by_a_reader(&self, line: &str, to: &Folder, database: &str, target: Lsn) -> bool {
        let words: Vec<&str> = line.split([' ', ':']).collect();
        let [file, "block", block, ..] = words[..] else { return false };
        if file.contains('_') {
            return false; // the fork of another kind: nobody tidies it by reading
        }
        let oid = self.cluster.server.database_oid(database);
        let named = self.cluster.psql(database, &format!("SELECT pg_filenode_relation(0, {file})"));
        let bytes = std::fs::read(to.pgdata().join(format!("base/{oid}/{file}"))).unwrap();
        let page = &bytes[block.parse::<usize>().unwrap() * 8192..];
        let half = |at: usize| u64::from(u32::from_le_bytes(page[at..at + 4].try_into().unwrap()));
        (named == "ir_attachment" || named.starts_with("pg_")) && Lsn(half(0) << 32 | half(4)) > target
    }

    fn report_says_what_happened(&self, outcome: &Outcome, to: &Folder, moment: &Moment, scopes: &[&str]) {
        let report = to.report();
        for field in ["tenant", "asked", "reached", "met", "scopes_opened", "objects_read", "databases", "filestore"] {
            assert!(!report[field].is_null(), "{field} is missing: {report:#}");
            assert_eq!(report[field], outcome.json[field], "{field}");
        }
        assert_eq!(report["met"], true);
        assert_eq!(report["databases"], serde_json::json!([self.ours]));
        let mut opened: Vec<&str> =
            report["scopes_opened"].as_array().unwrap().iter().filter_map(|scope| scope.as_str()).collect();
        opened.sort_unstable();
        let mut wanted = scopes.to_vec();
        wanted.sort_unstable();
        assert_eq!(opened, wanted);
        let lsn = |value: &serde_json::Value| value.as_str().unwrap().parse::<Lsn>().unwrap();
        let last: jiff::Timestamp = report["reached"]["last_commit_time"].as_str().unwrap().parse().unwrap();
        assert!(last <= moment.time.parse().unwrap(), "{report:#}");
        if report["asked"] == moment.lsn {
            assert_eq!(report["target"], moment.lsn);
        }
        assert!(lsn(&report["reached"]["lsn"]) <= lsn(&report["target"]), "{report:#}");
    }

    /// Neither what was fetched, opened with the keys that were there, nor what was written holds anything of others'.
    fn nothing_of_others(&self, outcome: &Outcome, to: &Folder, scopes: &[&str]) {
        let opened = opened::of(&self.estate, outcome, scopes);
        assert_eq!(opened.closed, Vec::<String>::new(), "was fetched although it is sealed to others");
        assert!(opened.bytes() > 10 << 20, "only {} bytes were opened", opened.bytes());
        let foreign = |name: &&str| !scopes.iter().any(|scope| name.starts_with(scope)) && !name.starts_with("wal/");
        let fetched: Vec<&str> = outcome.read().into_iter().filter(foreign).collect();
        assert_eq!(fetched, Vec::<&str>::new(), "lies in others' scopes");
        if self.others.is_empty() {
            return;
        }
        assert_eq!(opened::texts_in(&to.pgdata(), &self.foreign_secrets()), Vec::<String>::new());
        if self.searched.replace(true) {
            return; // the search goes over every byte: once is enough
        }
        for piece in &opened.pieces {
            assert_eq!(self.markers.search_bytes(&piece.name, &piece.content), Vec::new());
        }
        assert_eq!(self.markers.search(&[&to.path]), Vec::new());
    }

    /// With every key, what the store has is bit for bit what `pg_receivewal` received beside it.
    fn merged_wal_is_what_the_server_sent(&self, oracle: &Oracle) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (from, merged, markers) = runtime.block_on(merged_wal(&self.estate));
        let (first, received) = received_wal(oracle);
        assert!(first <= from, "the witness began at {first}, the store at {from}");
        let offset = usize::try_from(from.since(first)).unwrap();
        let witness = &received[offset..];
        let different = merged.iter().zip(witness).position(|(ours, theirs)| ours != theirs);
        assert_eq!(different.map(|at| from.plus(at as u64).to_string()), None, "the first byte that differs");
        assert!(merged.len() <= witness.len() && merged.len() > 1 << 20, "{} bytes of {}", merged.len(), witness.len());
        assert!(markers > 1 + self.others.len(), "{markers} scopes took part");
        if !self.others.is_empty() {
            assert!(!self.markers.search_bytes("merged WAL", &merged).is_empty(), "the markers never were in the WAL");
        }
    }

    fn restores_the_whole_cluster(&self, oracle: &Oracle, end: &str, production: &BTreeMap<String, State>) {
        let to = Folder::planned();
        let outcome = self.restore(&["--all", "--cluster", CLUSTER], end, &to).expect(0);
        assert_eq!(outcome.json["met"], true);
        self.every_file_is_the_witness_s(oracle, &to, end);
        let running = to.start();
        for name in std::iter::once(&self.ours).chain(&self.others) {
            let found = fingerprint::differences(&production[*name], &fingerprint::take(&running.server, name));
            assert_eq!(found, Vec::<String>::new(), "{name}");
            let missing = fingerprint::missing_attachments(&running.server, name, &to.filestore(name));
            assert_eq!(missing, Vec::<String>::new(), "{name}");
            tenants::amcheck(&running.server, name);
        }
    }

    fn a_destroyed_key_takes_one_tenant_only(&self, end: &str, production: &BTreeMap<String, State>) {
        let Some(shredded) = self.others.first() else { return };
        self.estate.shred_key(&format!("tenant/{shredded}"));
        let to = Folder::planned();
        let refused = self.restore(&[shredded], end, &to).expect(6);
        let error = &refused.json["error"];
        assert!(error.to_string().contains(&format!("tenant/{shredded}")), "{error:#}");
        assert!(error["cause"].as_str().unwrap().contains("key") && error["next"] != "", "{error:#}");
        assert!(!to.path.exists(), "something was left behind");
        for name in std::iter::once(&self.ours).chain(&self.others[1..]) {
            let to = Folder::planned();
            self.restore(&[name], end, &to).expect(0);
            let running = to.start();
            let found = fingerprint::differences(&production[*name], &fingerprint::take(&running.server, name));
            assert_eq!(found, Vec::<String>::new(), "{name}");
        }
    }
}

/// Whether a line of the comparison is about a relation of people's: the catalogs' files are numbered below 16384
/// (`FirstNormalObjectId`) until they are rewritten, which happens to `pg_statistic` when others are forgotten.
fn is_of_people(line: &str) -> bool {
    let number: String = line.chars().take_while(char::is_ascii_digit).collect();
    number.parse::<u32>().is_ok_and(|number| number >= 16_384) && !line.ends_with("only in the second")
}

/// The store's WAL with all keys, from its first byte; and how many scopes had a share in it.
async fn merged_wal(estate: &Estate) -> (Lsn, Vec<u8>, usize) {
    let store = estate.open_store().await;
    let signers = std::sync::Arc::new(Signers::read(&estate.dir().join("allowed_signers")).unwrap());
    let reader = Reader::open(store, signers, std::sync::Arc::new(Identities::open(Some(&estate.identities))));
    let points =
        reader.envelopes(&Scope::Tenant("initech".into()), lifeboat::repo::reader::What::Points).await.unwrap();
    let system_id = serde_json::from_value(points.good[0].facts["system_id"].clone()).unwrap();
    let listing = reader.stretches(system_id, None).await.unwrap();
    assert!(listing.bad.is_empty(), "{:?}", listing.bad);
    let found = chain(&listing.good);
    assert_eq!((found.windows.len(), found.gaps.len(), found.forks.len()), (1, 0, 0), "{found:?}");
    let (mut merged, mut scopes) = (Vec::new(), std::collections::BTreeSet::new());
    for member in &found.windows[0].members {
        let envelope = &listing.good[*member];
        let wal = envelope.wal.as_ref().unwrap();
        assert_eq!(found.windows[0].from.plus(merged.len() as u64), wal.from);
        let (mut cluster, mut others): (Option<Part>, Vec<Part>) = (None, Vec::new());
        for span in &wal.spans {
            let part = extent::decode(&reader.span(envelope, &span.scope).await.unwrap().unwrap()).unwrap();
            scopes.insert(span.scope.clone());
            if span.scope == envelope.scope { cluster = Some(part) } else { others.push(part) }
        }
        let others: Vec<&Part> = others.iter().collect();
        let bytes = merge::merge(&cluster.unwrap(), &others).unwrap();
        assert_eq!(bytes.len() as u64, wal.to.since(wal.from), "{}", envelope.name);
        merged.extend(bytes);
    }
    (found.windows[0].from, merged, scopes.len())
}

/// What `pg_receivewal` wrote, from its first segment on.
fn received_wal(oracle: &Oracle) -> (Lsn, Vec<u8>) {
    const SEGMENT: u64 = 16 << 20;
    let mut names: Vec<String> = std::fs::read_dir(oracle.wal())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.len() >= 24 && !name.ends_with(".history"))
        .collect();
    names.sort();
    let number = |name: &str| {
        let part = |from: usize| u64::from_str_radix(&name[from..from + 8], 16).unwrap();
        part(8) * (0x1_0000_0000 / SEGMENT) + part(16)
    };
    let first = number(&names[0]);
    let mut bytes = Vec::new();
    for (index, name) in names.iter().enumerate() {
        assert_eq!(number(name), first + index as u64, "{names:?}");
        bytes.extend(std::fs::read(oracle.wal().join(name)).unwrap());
    }
    (Lsn(first * SEGMENT), bytes)
}
