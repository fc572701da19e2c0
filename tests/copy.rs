//! The second copy on a real cluster: made without a key and in spite of kills, read where the store fails, and the witness against a store
//! that was set back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lifeboat::ids::Digest;
use serde_json::{Value, json};
use support::cluster::{Cluster, Options};
use support::damage::{Damage, kind, objects};
use support::estate::{Estate, Outcome};
use support::process::{random_delay, run};
use support::rgw::Rgw;
use support::s3;
use support::tenants::Tenant;

/// An estate with one point and WAL behind it; its copy is an empty folder.
struct Ground {
    cluster: Cluster,
    estate: Estate,
    drawer: PathBuf,
    target: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let cluster = Cluster::start(Options::default());
        let estate =
            Estate::in_folder(&cluster, &[Tenant::Initech], "\n[copies.drawer]\nkind = \"local\"\npath = \"drawer\"\n");
        let drawer = estate.dir().join("drawer");
        std::fs::create_dir(&drawer).expect("the copy's folder");
        estate.run(&["backup"]).expect(0);
        Self { cluster, estate, drawer, target: support::scratch() }
    }

    /// More WAL in the store.
    fn go_on(&self, table: &str) {
        self.cluster.psql("initech", &format!("CREATE TABLE {table} AS SELECT 1 AS x"));
        self.estate.run(&["stream", "--once"]).expect(0);
    }

    fn restore(&self, arguments: &[&str]) -> Outcome {
        let to = self.target.path().join("r");
        let mut all = vec!["restore", "initech", "--at", "latest", "--to", to.to_str().unwrap()];
        all.extend(arguments);
        let outcome = self.estate.run(&all);
        std::fs::remove_dir_all(&to).ok(); // not there when it failed
        outcome
    }
}

/// What an envelope of the folder names and the folder has not, or not right.
fn unsound(folder: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, path) in objects(folder, |name| name.ends_with(".envelope.json") && !name.starts_with('@')) {
        let envelope: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        if !folder.join(format!("{name}.sig")).is_file() {
            wrong.push(format!("{name}: its signature"));
        }
        for object in envelope["objects"].as_array().unwrap() {
            let bytes = std::fs::read(folder.join(object["name"].as_str().unwrap())).unwrap_or_default();
            if Digest::of(&bytes).to_string() != object["sha256"].as_str().unwrap() {
                wrong.push(format!("{name}: {}", object["name"]));
            }
        }
    }
    wrong
}

fn stored(folder: &Path) -> Vec<String> {
    objects(folder, |name| !name.starts_with('@') && !name.contains('#')).into_iter().map(|(name, _)| name).collect()
}

fn findings_about<'a>(outcome: &'a Outcome, object: &str) -> Vec<&'a Value> {
    let about = |finding: &&Value| finding["object"].as_str().is_some_and(|text| text.contains(object));
    outcome.json["findings"].as_array().unwrap().iter().filter(about).collect()
}

#[test]
fn a_copy_that_is_killed_again_and_again_is_sound_each_time_and_restores_when_it_is_done() {
    let ground = Ground::new();
    ground.go_on("late");
    let estate = &ground.estate;
    let planned = estate.run(&["copy", "--dry-run"]).expect(0);
    assert!(planned.json["copies"]["drawer"]["bytes"].as_u64().unwrap() > 1_000_000, "{:#}", planned.json);
    assert!(stored(&ground.drawer).is_empty(), "a dry run writes nothing");

    // Nothing that opens is on the machine while it copies.
    estate.with_only(&[], || {
        let begun = Instant::now();
        let ended = estate.spawn(&["copy"]).wait(Duration::from_secs(120)).expect("it ends");
        assert!(ended.success(), "{ended}: {}", estate.log("copy"));
        let takes = begun.elapsed();
        let whole = stored(&ground.drawer);
        run(std::process::Command::new("rm").arg("-rf").arg(&ground.drawer));
        std::fs::create_dir(&ground.drawer).unwrap();
        let mut killed = 0;
        for round in 0..10 {
            // The first as soon as it was started: that one at least is killed, however fast the others are.
            let delay = if round == 0 { Duration::ZERO } else { random_delay(takes) };
            match estate.spawn(&["copy"]).kill_after(delay) {
                None => killed += 1,
                Some(ended) => assert!(ended.success(), "{ended}: {}", estate.log("copy")),
            }
            assert_eq!(unsound(&ground.drawer), Vec::<String>::new());
        }
        eprintln!("copy: {killed} of 10 runs were killed, each within {takes:?}");
        assert!(killed > 0);
        estate.run(&["copy", "--to", "drawer"]).expect(0);
        assert_eq!(stored(&ground.drawer), whole);
        assert_eq!(unsound(&ground.drawer), Vec::<String>::new());
    });
    assert_eq!(estate.run(&["copy"]).expect(0).json["copies"]["drawer"]["objects"], 0);

    let from_copy = ground.restore(&["--from", "drawer"]).expect(0);
    assert_eq!(from_copy.json["met"], true);
    assert_eq!(from_copy.json["freshness"], "unproven");
    let points = estate.run(&["points"]).expect(0);
    assert_eq!(points.json["freshness"], "proven");
    assert_eq!(points.json["tenants"]["initech"]["points"][0]["found_in"], json!(["primary", "drawer"]));
    ground.go_on("later");
    let status = estate.run(&["status"]);
    let behind = status.json["copies"]["drawer"]["behind_bytes"].as_u64().unwrap();
    assert!(behind > 0, "{:#}", status.json["copies"]);
    assert_eq!(status.json["freshness"], "proven");
    estate.run(&["copy", "--to", "nowhere"]).expect(2);
}

#[test]
fn a_restore_heals_from_the_copy_and_says_what_it_healed() {
    let ground = Ground::new();
    let estate = &ground.estate;
    estate.run(&["copy"]).expect(0);
    // What a restore needs for certain: the tenant's base backup.
    let (_, envelope) = objects(&estate.store, |name| {
        name.starts_with("tenant/initech/sets/base-main/") && name.ends_with(".envelope.json")
    })
    .remove(0);
    let envelope: Value = serde_json::from_slice(&std::fs::read(envelope).unwrap()).unwrap();
    let of = |ending: &str| {
        let named = envelope["objects"].as_array().unwrap().iter().map(|object| object["name"].as_str().unwrap());
        let name = named.into_iter().find(|name| kind(name) == ending).unwrap_or_else(|| panic!("no {ending}"));
        (name.to_owned(), estate.store.join(name))
    };
    let (body, pack) = (of("body.jsonl.zst.age"), of("tar.zst.age"));
    {
        let (_flipped, _removed) = (Damage::flip(&pack.1), Damage::remove(&body.1));
        let healed = ground.restore(&[]).expect(3);
        assert_eq!(healed.json["met"], true);
        for (name, how) in [(&pack.0, "altered in primary"), (&body.0, "missing in primary")] {
            let said = findings_about(&healed, name);
            let what = said[0]["what"].as_str().unwrap();
            assert!(what.contains(how) && what.contains("drawer"), "{what}");
        }
        ground.restore(&["--from", "primary"]).expect(6);
    }
    // The store is gone as a whole.
    let away = estate.dir().join("away");
    std::fs::rename(&estate.store, &away).unwrap();
    let without = ground.restore(&[]).expect(3);
    assert_eq!((&without.json["met"], &without.json["freshness"]), (&Value::Bool(true), &Value::from("unproven")));
    assert_eq!(findings_about(&without, "primary").len(), 1, "{:#}", without.json["findings"]);
    estate.run(&["points"]).expect(3);
    estate.run(&["copy"]).expect(7);
    std::fs::rename(&away, &estate.store).unwrap();
    // And so is the copy: nothing is said but that nobody vouches for the store.
    std::fs::rename(&ground.drawer, &away).unwrap();
    let alone = estate.run(&["points"]).expect(0);
    assert_eq!(alone.json["freshness"], "unproven");
    assert_eq!(estate.run(&["status"]).json["copies"]["drawer"], Value::Null);
    std::fs::rename(&away, &ground.drawer).unwrap();

    // A damaged object keeps its envelope from a new copy, and says so.
    run(std::process::Command::new("rm").arg("-rf").arg(&ground.drawer));
    std::fs::create_dir(&ground.drawer).unwrap();
    let _flipped = Damage::flip(&pack.1);
    let copied = estate.run(&["copy"]).expect(6);
    assert_eq!(copied.json["error"]["object"], pack.0.as_str());
    assert_eq!(unsound(&ground.drawer), Vec::<String>::new());
}

#[test]
fn a_store_that_was_set_back_is_refused_for_latest_until_somebody_accepts_it() {
    let ground = Ground::new();
    let estate = &ground.estate;
    let old = estate.dir().join("old");
    run(std::process::Command::new("cp").arg("-a").arg(&estate.store).arg(&old));
    ground.go_on("newest");
    // The heads are enough to know; what they name is not there.
    estate.run(&["copy", "--heads"]).expect(0);
    assert_eq!(ground.restore(&["--plan"]).expect(0).json["freshness"], "proven");
    run(std::process::Command::new("rm").arg("-rf").arg(&estate.store));
    std::fs::rename(&old, &estate.store).unwrap();

    let refused = ground.restore(&[]).expect(6);
    let error = &refused.json["error"];
    assert!(error["object"].as_str().unwrap().starts_with("wal/"), "{error:#}");
    assert!(error["cause"].as_str().unwrap().contains("drawer"), "{error:#}");
    assert!(error["next"].as_str().unwrap().contains("--accept-rollback"), "{error:#}");
    let points = estate.run(&["points"]).expect(3);
    assert_eq!(points.json["freshness"], "rolled_back");
    assert!(!points.json["witness"]["lost"].as_array().unwrap().is_empty());
    let verified = estate.run(&["verify", "--level", "0"]).expect(6);
    assert_eq!(verified.json["freshness"], "rolled_back");
    let accepted = ground.restore(&["--accept-rollback"]).expect(3);
    assert_eq!(accepted.json["freshness"], "rolled_back");
}

#[test]
fn a_copy_in_another_users_bucket_has_the_stores_locks_and_restores() {
    let Some(rgw) = Rgw::get("a_copy_in_another_users_bucket_has_the_stores_locks_and_restores") else { return };
    let ground = Ground::new();
    let (estate, bucket, user) = (&ground.estate, rgw.bucket(), rgw.user());
    let actions = [
        "ListBucket",
        "ListBucketVersions",
        "GetBucketVersioning",
        "GetBucketObjectLockConfiguration",
        "PutObject",
        "PutObjectRetention",
        "GetObject",
        "GetObjectVersion",
        "GetObjectRetention",
        "GetObjectLegalHold",
    ];
    let policy = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": { "AWS": [user.arn()] },
        "Action": actions.map(|action| format!("s3:{action}")),
        "Resource": [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/*")],
    }] });
    s3::set_policy(&rgw.client(), &bucket, &policy);
    let credentials = estate.dir().join("aws");
    user.write_profile(&credentials, "copier");
    estate.edit(|text| {
        let endpoint = &rgw.endpoint;
        text + &format!(
            "\n[copies.offsite]\nkind = \"s3\"\nbucket = \"{bucket}\"\nprefix = \"shop\"\nendpoint = \"{endpoint}\"\nprofile = \"copier\"\n"
        )
    });
    let environment =
        BTreeMap::from([("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()), ("AWS_REGION", "us-east-1")]);
    let run = |arguments: &[&str]| estate.run_with(arguments, &environment);
    let copied = run(&["copy", "--to", "offsite"]).expect(0);
    assert!(copied.json["copies"]["offsite"]["envelopes"].as_u64().unwrap() > 3, "{:#}", copied.json);
    let again = run(&["copy", "--to", "offsite"]).expect(0);
    assert_eq!(
        (&again.json["copies"]["offsite"]["objects"], &again.json["copies"]["offsite"]["extended"]),
        (&json!(0), &json!(0))
    );

    // As the server says it: under COMPLIANCE, for as long as the folder's lock file says. (Objects belong to who put them.)
    let client = s3::client(&rgw.endpoint, &user);
    let locks = estate.store.join("@locks");
    let listed = s3::wait(client.list_objects_v2().bucket(&bucket).prefix("shop/").send()).unwrap();
    let names: Vec<&str> =
        listed.contents().iter().map(|object| object.key().unwrap().strip_prefix("shop/").unwrap()).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names.iter().step_by(names.len() / 20 + 1) {
        let lock: Value = serde_json::from_slice(&std::fs::read(locks.join(format!("{name}@lock"))).unwrap()).unwrap();
        let until: jiff::Timestamp = lock["retained_until"].as_str().unwrap().parse().unwrap();
        let head = s3::wait(client.head_object().bucket(&bucket).key(format!("shop/{name}")).send()).unwrap();
        assert_eq!(head.object_lock_mode().unwrap().as_str(), "COMPLIANCE", "{name}");
        let has = head.object_lock_retain_until_date().unwrap().secs();
        assert!(has >= until.as_second(), "{name}: {has} is before {until}");
    }

    let away = estate.dir().join("away");
    std::fs::rename(&estate.store, &away).unwrap();
    let to = ground.target.path().join("r");
    let restored = run(&["restore", "initech", "--at", "latest", "--to", to.to_str().unwrap()]).expect(3);
    assert_eq!(restored.json["met"], true);
}
