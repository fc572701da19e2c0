//! `lifeboat doctor`, the gate that its drill opens or shuts, and the printed policies, through the binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use lifeboat::store::honesty::Outcome;
use serde_json::Value;
use support::cluster::{Cluster, Options};
use support::estate::Estate;
use support::folder::Folder;
use support::moto::Moto;
use support::rgw::Rgw;
use support::s3::{self, Keys};
use support::tenants::Tenant;

/// The checks in `state`, each with its detail.
fn checks(json: &Value, state: &str) -> Vec<String> {
    let rows = json["checks"].as_array().expect("checks").iter().filter(|row| row["state"] == state);
    rows.map(|row| format!("{}: {}", row["check"].as_str().unwrap(), row["detail"].as_str().unwrap())).collect()
}

fn lies(json: &Value) -> Vec<&str> {
    let trials = json["drill"]["trials"].as_array().expect("trials").iter();
    trials.filter(|trial| trial["outcome"] == "lied").map(|trial| trial["attack"].as_str().unwrap()).collect()
}

#[test]
fn doctor_complains_about_identities_beside_a_writer_and_about_nothing_else_of_a_sound_estate() {
    let cluster = Cluster::start(Options::default());
    let estate = Estate::in_folder(&cluster, &[Tenant::Initech], "");
    let here = estate.run(&["doctor"]).expect(3);
    assert_eq!(checks(&here.json, "warning"), ["keys: opens backups, and lies on a machine that makes them"]);
    let away = estate.with_only(&[], || estate.run(&["doctor", "--attack"])).expect(0);
    assert_eq!(away.json["drill"]["verdict"], "honest", "{:#}", away.json);
    assert_eq!(estate.run(&["status"]).json["store"]["drill"]["verdict"], "honest");
    // One that is down does not keep the others from being looked at.
    let (port, wrong) = (format!("port = {}", cluster.server.port), "port = 1".to_owned());
    estate.edit(|text| text.replace(&port, &wrong));
    let down = estate.run(&["doctor"]).expect(7);
    assert!(checks(&down.json, "failed")[0].starts_with("cluster: "), "{:#}", down.json);
    assert!(checks(&down.json, "ok").iter().any(|row| row.starts_with("clock: ")), "{:#}", down.json);
}

#[test]
fn each_role_does_its_work_with_its_own_credential_under_the_printed_policies() {
    let test = "each_role_does_its_work_with_its_own_credential_under_the_printed_policies";
    let Some(rgw) = Rgw::get(test) else { return };
    let cluster = Cluster::start(Options::default());
    let bucket = rgw.bucket();
    let writer = rgw.user();
    let estate = Estate::on_s3(&cluster, &[Tenant::Initech], "", &rgw.endpoint, &bucket, &writer);
    let [reader, janitor, verifier, holder] = std::array::from_fn(|_| rgw.user());
    let roles = [("reader", &reader), ("janitor", &janitor), ("verifier", &verifier), ("holder", &holder)];
    let mut profiles = format!("prefix = \"shop\"\nprofiles = {{ writer = \"{}\"", writer.user);
    for (role, keys) in roles {
        keys.write_profile(&estate.dir().join("aws"), &keys.user);
        profiles += &format!(", {role} = \"{}\"", keys.user);
    }
    estate.edit(|text| text.replace(&format!("profile = \"{}\"", writer.user), &(profiles + " }")));
    estate.drilled(&format!("s3://{bucket}/shop at {}", rgw.endpoint), Outcome::Refused);
    let [of_writer, of_tenant] = [&["--role", "writer"][..], &["--tenant", "initech"]];
    let grants = roles[1..].iter().map(|(role, keys)| (vec!["--role", *role], *keys));
    let grants: Vec<(Vec<&str>, &Keys)> =
        [(of_writer.to_vec(), &writer), (of_tenant.to_vec(), &reader)].into_iter().chain(grants).collect();
    apply(&rgw, &bucket, &estate, &grants);

    estate.run(&["backup"]).expect(0);
    estate.run(&["stream", "--once"]).expect(0);
    estate.run(&["points", "initech"]).expect(0);
    let to = Folder::planned();
    estate.run(&["restore", "initech", "--at", "latest", "--to", to.text()]).expect(0);
    estate.run(&["hold", "initech", "--reason", "an incident"]).expect(0);
    let expired = estate.run(&["expire"]).expect(0);
    assert_eq!(expired.json["held"], serde_json::json!(["tenant/initech"]), "{:#}", expired.json);
    assert_eq!(expired.json["removed"]["objects"], 0, "{:#}", expired.json);
    estate.run(&["verify", "--level", "1"]).done();
    estate.run(&["unhold", "initech"]).expect(0);
    let doctor = estate.run(&["doctor", "--role", "writer"]).expect(3);
    let complaints = checks(&doctor.json, "warning");
    assert!(complaints.iter().all(|row| row.starts_with("keys: ")), "{complaints:?}");
    // What it put, the writer cannot read.
    let own = (format!("reader = \"{}\"", reader.user), format!("reader = \"{}\"", writer.user));
    estate.edit(|text| text.replace(&own.0, &own.1));
    let refused = estate.run(&["restore", "initech", "--at", "latest", "--to", Folder::planned().text()]).expect(5);
    assert!(refused.json["error"]["cause"].to_string().contains("may not"), "{:#}", refused.json);
}

/// Sets the bucket's policy to what `init --print-policies ceph` prints for each of `grants`, with its own user.
fn apply(rgw: &Rgw, bucket: &str, estate: &Estate, grants: &[(Vec<&str>, &Keys)]) {
    let mut statements = Vec::new();
    for (asked, keys) in grants {
        let printed = estate.run(&[&["init", "--print-policies", "ceph"], &asked[..]].concat()).expect(0);
        let policies = &printed.json["policies"];
        let user = policies["users"].as_object().unwrap().values().next().unwrap().as_str().unwrap();
        let text = policies["bucket_policy"]["Statement"].to_string();
        let text = text.replace(&format!("user/{user}\""), &format!("user/{}\"", keys.user));
        statements.extend(serde_json::from_str::<Vec<Value>>(&text).unwrap());
    }
    let policy = serde_json::json!({ "Version": "2012-10-17", "Statement": statements });
    s3::set_policy(&rgw.client(), bucket, &policy);
}

#[test]
fn a_store_that_lied_takes_no_backup_until_the_configuration_says_so_and_one_never_drilled_is_spoken_of() {
    let Some(rgw) = Rgw::get("a_store_that_lied_takes_no_backup_until_the_configuration_says_so") else { return };
    let cluster = Cluster::start(Options::default());
    let bucket = rgw.bucket();
    let estate = Estate::on_s3(&cluster, &[Tenant::Initech], "", &rgw.endpoint, &bucket, &rgw.keys);
    let place = format!("s3://{bucket} at {}", rgw.endpoint);
    estate.drilled(&place, Outcome::Lied);
    for command in [&["backup"][..], &["stream", "--once"]] {
        let refused = estate.run(command).expect(5);
        let cause = refused.json["error"]["cause"].as_str().unwrap();
        assert!(cause.contains("does not keep its locks") && cause.contains("delete-version"), "{cause}");
    }
    let listed = s3::wait(rgw.client().list_object_versions().bucket(&bucket).send()).unwrap();
    assert!(listed.versions().is_empty(), "something was written: {listed:?}");
    estate.edit(|text| text.replace("kind = \"s3\"\n", "kind = \"s3\"\naccept_dishonest = true\n"));
    let accepted = estate.run(&["backup"]).expect(3);
    assert!(accepted.json["findings"].to_string().contains("accept_dishonest is set"), "{:#}", accepted.json);
    std::fs::remove_dir_all(estate.dir().join("state/honesty")).unwrap();
    let unknown = estate.run(&["stream", "--once"]).expect(3);
    assert!(unknown.json["findings"].to_string().contains("never drilled"), "{:#}", unknown.json);
    // The drill of the owner, who may try everything, opens the gate.
    let drilled = estate.with_only(&[], || estate.run(&["doctor", "--attack", "--lock", "60s"]));
    assert_eq!(drilled.json["drill"]["verdict"], "honest", "{}\n{:#}", drilled.stderr, drilled.json);
    let complaints = checks(&drilled.json, "warning");
    assert!(complaints.contains(&"credential: may remove versions, and needs not".to_owned()), "{complaints:?}");
    estate.run(&["stream", "--once"]).expect(0);
}

#[test]
fn doctor_catches_a_lying_server_and_from_then_on_nothing_is_written_there() {
    let test = "doctor_catches_a_lying_server_and_from_then_on_nothing_is_written_there";
    let Some(moto) = Moto::start(test) else { return };
    let cluster = Cluster::start(Options::default());
    let bucket = moto.bucket();
    let estate = Estate::on_s3(&cluster, &[Tenant::Initech], "", &moto.endpoint, &bucket, &moto.keys);
    let caught = estate.run(&["doctor", "--attack", "--lock", "60s"]).expect(5);
    let all = ["shorten", "downgrade-mode", "past-date", "suspend-versioning", "wrong-checksum"];
    assert_eq!(lies(&caught.json), all, "{:#}", caught.json);
    let refused = estate.run(&["backup"]).expect(5);
    assert!(refused.json["error"]["cause"].to_string().contains("shorten"), "{:#}", refused.json);
}

#[test]
fn policies_are_printed_for_a_bucket_and_for_no_folder() {
    let cluster = Cluster::start(Options::default());
    let estate = Estate::in_folder(&cluster, &[Tenant::Initech], "");
    estate.run(&["init", "--print-policies", "aws"]).expect(2);
    let named = ["init", "--print-policies", "aws", "--bucket", "shop-backup/a", "--role", "janitor"];
    let printed = estate.run(&named).expect(0).json;
    let policy = &printed["policies"]["identity_policies"]["janitor"];
    assert!(policy.to_string().contains("arn:aws:s3:::shop-backup/a/*"), "{printed:#}");
    estate
        .run(&["init", "--print-policies", "aws", "--bucket", "b-b", "--role", "writer", "--tenant", "initech"])
        .expect(2);
    estate.run(&["init", "--print-policies", "aws", "--bucket", "b-b", "--tenant", "nobody"]).expect(2);
}
