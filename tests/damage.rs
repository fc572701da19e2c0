//! One byte flipped, one object removed, one swapped for another's, in each kind of object: exit code 6 naming the object,
//! nothing started, nothing left. What a restore does not need does not hurt it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use std::path::PathBuf;

use support::cluster::{Cluster, Options};
use support::damage::{Damage, objects};
use support::estate::{Estate, Outcome};
use support::process::run;
use support::restored::start;
use support::tenants::Tenant;

/// An estate with one point, a stretch behind it, and a last piece of WAL that exists as tails only.
struct Ground {
    cluster: Cluster,
    estate: Estate,
    target: tempfile::TempDir,
}

const WAYS: [&str; 3] = ["flipped", "removed", "swapped"];

impl Ground {
    fn new() -> Self {
        let cluster = Cluster::start(Options::default());
        let estate = Estate::in_folder(&cluster, &[Tenant::Initech], "");
        // Tails at once; the long stretch is never cut by age.
        estate.tune("flush_interval = \"100ms\"\nstretch_interval = \"1h\"\nheartbeat = \"1h\"");
        estate.run(&["backup"]).expect(0);
        // More than a share of its own needs, so that there is a span object as well as a bundle.
        cluster.psql(
            "initech",
            "CREATE TABLE much AS SELECT n, md5(n::text) || md5((n + 1)::text) AS x FROM generate_series(1, 30000) n",
        );
        estate.run(&["stream", "--once"]).expect(0);
        cluster.psql("initech", "CREATE TABLE late AS SELECT 1 AS x");
        let mut stream = estate.spawn(&["stream"]);
        let flushed = || objects(&estate.store, |name| name.contains("/tail/") && name.ends_with(".envelope.json"));
        let before = flushed().len();
        while flushed().len() <= before {
            assert!(stream.wait(std::time::Duration::from_millis(50)).is_none(), "the stream has ended");
        }
        drop(stream); // kill -9: the tails are all there is of the last piece
        Self { cluster, estate, target: support::scratch() }
    }

    fn to(&self) -> PathBuf {
        self.target.path().join("r")
    }

    fn restore(&self) -> Outcome {
        self.estate.run(&["restore", "initech", "--at", "latest", "--to", self.to().to_str().unwrap(), "-v"])
    }

    /// The newest object whose name satisfies `wanted`.
    fn newest(&self, what: &str, wanted: impl Fn(&str) -> bool) -> (String, PathBuf) {
        objects(&self.estate.store, wanted).pop().unwrap_or_else(|| panic!("there is no {what}"))
    }

    /// Some other object with another content, for a swap.
    fn other(&self, name: &str) -> PathBuf {
        let ending = name.rsplit_once('/').unwrap().1.split_once('.').unwrap().1.to_owned();
        let same_kind = |other: &str| other != name && other.ends_with(&ending);
        let any = |other: &str| other != name;
        objects(&self.estate.store, same_kind).pop().or_else(|| objects(&self.estate.store, any).pop()).unwrap().1
    }

    fn damage(&self, way: &str, name: &str, path: &std::path::Path) -> Damage {
        match way {
            "flipped" => Damage::flip(path),
            "removed" => Damage::remove(path),
            _ => Damage::swap(path, &self.other(name)),
        }
    }

    /// Each way of damage to the object is found, named, before a server runs, and nothing is left.
    fn every_way_is_found(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let (name, path) = self.newest(what, wanted);
        for way in WAYS {
            let damage = self.damage(way, &name, &path);
            let said = self.restore();
            let context = format!("{what} {way} ({name}): {}\n{:#}", said.stderr, said.json);
            assert_eq!(said.code, 6, "{context}");
            let error = &said.json["error"];
            let told = format!("{} {}", error["object"], error["cause"]);
            assert!(told.contains(name.trim_end_matches(".sig")), "{context}");
            assert!(error["next"].as_str().is_some_and(|next| !next.is_empty()), "{context}");
            assert!(!said.stderr.contains("\"message\":\"recovery\""), "a server was started: {context}");
            assert!(!self.to().exists(), "something is left: {context}");
            drop(damage);
        }
    }
}

#[test]
fn damage_in_any_object_that_a_restore_needs_is_found_before_anything_is_started() {
    let ground = Ground::new();
    let in_sets = |source: &'static str, ending: &'static str| {
        move |name: &str| name.contains(&format!("/sets/{source}/")) && name.ends_with(ending)
    };
    ground.every_way_is_found("pack of the cluster", |name| name.starts_with("cluster/main/packs/"));
    let database = ground.packs_of("base-main", "tenant/initech");
    ground.every_way_is_found("pack of the database", |name| database.iter().any(|pack| pack == name));
    let files = ground.packs_of("filestore-initech", "tenant/initech");
    ground.every_way_is_found("pack of the filestore", |name| files.iter().any(|pack| pack == name));
    ground.every_way_is_found("set's body", in_sets("base-main", ".body.jsonl.zst.age"));
    ground.every_way_is_found("filestore's body", in_sets("filestore-initech", ".body.jsonl.zst.age"));
    ground.every_way_is_found("set's envelope", in_sets("base-main", ".envelope.json"));
    ground.every_way_is_found("set's signature", in_sets("base-main", ".envelope.json.sig"));
    ground.every_way_is_found("filestore's envelope", in_sets("filestore-initech", ".envelope.json"));
    ground.every_way_is_found("point's body", |name| name.contains("/points/") && name.ends_with(".age"));
    ground.every_way_is_found("point's envelope", |name| name.contains("/points/") && name.ends_with(".envelope.json"));
    ground.every_way_is_found("point's signature", |name| name.contains("/points/") && name.ends_with(".sig"));
    let spans = ground.spans();
    ground.every_way_is_found("span", |name| spans.iter().any(|span| span == name));
    let stretch = |name: &str| name.starts_with("wal/") && !name.contains("/tail/");
    ground.every_way_is_found("bundle", |name| stretch(name) && name.ends_with(".bundle.tar"));
    ground.every_way_is_found("tail that no stretch covers", |name| name.contains("/tail/") && name.ends_with(".tar"));
    // All put right again: the same store restores, to the last row.
    let restored = ground.restore().expect(0);
    assert_eq!(restored.json["met"], true);
    let there = start(&ground.to());
    assert_eq!(
        there.running.server.psql("initech", "SELECT (SELECT count(*) FROM much), (SELECT x FROM late)"),
        "30000\t1"
    );
}

impl Ground {
    /// The shares that are objects of their own (of stretches: tails have none).
    fn spans(&self) -> Vec<String> {
        let stretches = objects(&self.estate.store, |name| {
            name.starts_with("wal/") && !name.contains("/tail/") && name.ends_with(".envelope.json")
        });
        stretches.iter().flat_map(|(_, path)| named_in(path)).filter(|name| name.contains(".span.")).collect()
    }

    /// The names of the packs that the newest set of a source has.
    fn packs_of(&self, source: &str, scope: &str) -> Vec<String> {
        let prefix = format!("{scope}/sets/{source}/");
        let (_, envelope) = self.newest(source, |name| name.starts_with(&prefix) && name.ends_with(".envelope.json"));
        named_in(&envelope).into_iter().filter(|name| name.contains("/packs/")).collect()
    }
}

/// The objects that an envelope names.
fn named_in(envelope: &std::path::Path) -> Vec<String> {
    let envelope: serde_json::Value = serde_json::from_slice(&std::fs::read(envelope).unwrap()).unwrap();
    let named = envelope["objects"].as_array().unwrap().iter();
    named.filter_map(|object| object["name"].as_str()).map(str::to_owned).collect()
}

#[test]
fn a_stretch_whose_envelope_is_damaged_is_told_and_tails_that_cover_it_serve_instead() {
    let ground = Ground::new();
    let is_stretch = |name: &str| name.starts_with("wal/") && !name.contains("/tail/");
    // The stretch with the span: a second one follows it, so without it the WAL has a hole.
    let (name, path) = ground.newest("stretch", |name| is_stretch(name) && name.ends_with(".envelope.json"));
    let tails = objects(&ground.estate.store, |name| name.contains("/tail/")).len();
    assert!(tails > 0);
    for way in WAYS {
        let damage = ground.damage(way, &name, &path);
        let said = ground.restore();
        // Either it is named, or tails hold the same WAL and the restore reaches the end all the same.
        match said.code {
            6 => assert!(said.json["error"].to_string().contains(&name), "{way}: {:#}", said.json),
            _ => {
                let said = said.done();
                assert!(said.json["findings"].to_string().contains(&name), "{way} and nothing said: {:#}", said.json);
                let there = start(&ground.to());
                assert_eq!(there.running.server.psql("initech", "SELECT x FROM late"), "1", "{way}");
                drop(there);
                std::fs::remove_dir_all(ground.to()).unwrap();
            }
        }
        drop(damage);
    }
}

#[test]
fn a_lost_chunk_map_hurts_no_restore_and_makes_the_next_backup_a_full_one_that_says_so() {
    let ground = Ground::new();
    for way in WAYS {
        let (name, path) = ground.newest("chunk map", |name| {
            name.starts_with("tenant/initech/sets/base-main/") && name.ends_with(".chunks.age")
        });
        let damage = ground.damage(way, &name, &path);
        let restored = ground.restore();
        assert_eq!(restored.code, 0, "{way}: {:#}", restored.json);
        std::fs::remove_dir_all(ground.to()).unwrap();
        let backup = ground.estate.run(&["backup"]).expect(3);
        let findings = backup.json["findings"].as_array().unwrap();
        let of_map =
            |finding: &&serde_json::Value| finding["what"].as_str().is_some_and(|what| what.contains("chunk map"));
        assert_eq!(findings.iter().filter(of_map).count(), 1, "{way}: {:#}", backup.json);
        drop(damage);
    }
    let backup = ground.estate.run(&["backup"]).expect(0);
    let made = &backup.json["backups"][0];
    assert!(made["reused_bytes"].as_u64() > made["stored_bytes"].as_u64(), "{made:#}");
}

#[test]
fn a_wrong_a_broken_and_an_absent_key_and_foreign_signers_are_told_apart() {
    let ground = Ground::new();
    let own = ground.estate.identities.join("tenant/initech/1.age");
    let others = ground.estate.identities.join("cluster/main/1.age");
    let cases: [(&str, Vec<u8>, i32, &str); 3] = [
        ("another scope's", std::fs::read(others).unwrap(), 6, "tenant/initech"),
        ("garbage", b"not a key\n".to_vec(), 6, "1.age"),
        ("empty", Vec::new(), 6, "1.age"),
    ];
    for (what, content, code, named) in cases {
        let damage = Damage::replace(&own, &content);
        let said = ground.restore();
        assert_eq!(said.code, code, "{what}: {:#}", said.json);
        assert!(said.json["error"].to_string().contains(named), "{what}: {:#}", said.json);
        assert!(!said.json.to_string().contains("AGE-SECRET") && !said.stderr.contains("AGE-SECRET"));
        assert!(!ground.to().exists(), "{what}");
        drop(damage);
    }
    let said = ground.estate.without_key("tenant/initech", || ground.restore()).expect(6);
    assert!(said.json["error"].to_string().contains("tenant/initech"), "{:#}", said.json);

    let signers = ground.estate.dir().join("allowed_signers");
    let stranger = support::scratch();
    let key = stranger.path().join("k");
    run(std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let line = format!(
        "somebody namespaces=\"lifeboat\" {}\n",
        public.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    );
    let damage = Damage::replace(&signers, line.as_bytes());
    let said = ground.restore().expect(6);
    assert!(said.json["error"]["next"].as_str().unwrap().contains("signers"), "{:#}", said.json);
    drop(damage);
    let damage = Damage::replace(&signers, b"no signer at all");
    let said = ground.restore().expect(2);
    assert!(said.json["error"].to_string().contains("allowed_signers"), "{:#}", said.json);
    drop(damage);
    ground.restore().expect(0);
    drop(ground.cluster);
}
