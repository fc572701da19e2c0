//! What a person may ask a restore for, and what bad questions get; a backup on a machine that can open nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use std::process::Command;

use serde_json::Value;
use support::cluster::{Cluster, Options};
use support::estate::{CLUSTER, Estate, Outcome};
use support::fingerprint;
use support::folder::Folder;
use support::markers::Markers;
use support::opened;
use support::tenants::Tenant;

fn restore(estate: &Estate, tenant: &str, at: &str, to: &Folder) -> Outcome {
    estate.run(&["restore", tenant, "--at", at, "--to", to.text()])
}

fn error(outcome: &Outcome) -> String {
    outcome.json["error"].to_string()
}

/// A bad question is answered with exit code 2 and these words, and leaves nothing.
#[track_caller]
fn refused(outcome: Outcome, code: i32, to: &Folder, words: &[&str]) {
    let outcome = outcome.expect(code);
    for word in words {
        assert!(error(&outcome).contains(word), "'{word}' is not said: {}", error(&outcome));
    }
    assert_ne!(outcome.json["error"]["next"], Value::String(String::new()), "no next step");
    assert!(!to.path.exists(), "{} was left behind", to.path.display());
}

#[test]
fn a_named_point_and_latest_are_found_and_every_bad_question_gets_its_answer() {
    let cluster = Cluster::start(Options::default());
    let estate = Estate::new(&cluster, &[Tenant::Initech], "");
    let to = Folder::planned();
    refused(restore(&estate, "initech", "latest", &to), 2, &to, &["recovery point", "lifeboat backup"]);
    let too_early = cluster.server.insert_lsn();
    cluster.psql("initech", "CREATE TABLE said (x text)");
    estate.run(&["backup"]).expect(0);
    cluster.psql("initech", "INSERT INTO said VALUES ('before')");
    cluster.psql("postgres", "SELECT pg_create_restore_point('before-upgrade')");
    cluster.psql("initech", "INSERT INTO said VALUES ('after')");
    estate.run(&["stream", "--once"]).expect(0);

    for (at, wanted) in [("before-upgrade", "before"), ("latest", "before,after")] {
        let to = Folder::planned();
        let outcome = restore(&estate, "initech", at, &to).expect(0);
        assert_eq!((&outcome.json["asked"], &outcome.json["met"]), (&Value::from(at), &Value::from(true)));
        let running = to.start();
        assert_eq!(running.server.psql("initech", "SELECT string_agg(x, ',' ORDER BY x DESC) FROM said"), wanted);
    }

    let window = ["lies outside every window; there is", " to ", "lifeboat points"];
    refused(restore(&estate, "initech", &too_early, &to), 2, &to, &window);
    refused(restore(&estate, "initech", "2001-01-01T00:00:00Z", &to), 2, &to, &window);
    refused(restore(&estate, "initech", "2999-01-01T00:00:00Z", &to), 2, &to, &window);
    refused(restore(&estate, "initech", "FFFF/0", &to), 2, &to, &window);
    refused(restore(&estate, "initech", "before-downgrade", &to), 2, &to, &["before-downgrade"]);
    refused(restore(&estate, "initec", "latest", &to), 2, &to, &["initec", "did you mean 'initech'?"]);
    a_folder_with_something_in_it_is_left_alone(&estate);
    without_the_servers_programs_nothing_begins(&estate);
}

fn a_folder_with_something_in_it_is_left_alone(estate: &Estate) {
    let to = Folder::planned();
    std::fs::create_dir(&to.path).unwrap();
    std::fs::write(to.path.join("restore.json"), "mine").unwrap();
    std::fs::create_dir(to.pgdata()).unwrap();
    let outcome = restore(estate, "initech", "latest", &to).expect(5);
    assert!(error(&outcome).contains("not empty"), "{}", error(&outcome));
    assert_eq!(std::fs::read_to_string(to.path.join("restore.json")).unwrap(), "mine");
    assert_eq!(std::fs::read_dir(&to.path).unwrap().count(), 2);
}

/// The machine as it is, but for the folder that has PostgreSQL 15's programs.
fn without_the_servers_programs_nothing_begins(estate: &Estate) {
    let to = Folder::planned();
    let mut command = Command::new("bwrap");
    command.args(["--dev-bind", "/", "/", "--tmpfs", "/usr/lib/postgresql", env!("CARGO_BIN_EXE_lifeboat")]);
    estate.prepare(&mut command, &["restore", "initech", "--at", "latest", "--to", to.text()]);
    let output = command.output().expect("bwrap");
    let json: Value = serde_json::from_slice(&output.stdout).expect("one object");
    let said = json["error"].to_string();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{json:#}");
    assert!(said.contains("15") && said.contains("postgresql-15"), "{said}");
    assert!(!to.path.exists(), "{} was left behind", to.path.display());
}

#[test]
fn a_machine_that_opens_nothing_backs_up_and_an_unmapped_database_gets_a_key_of_its_own() {
    let cluster = Cluster::start(Options::default());
    cluster.psql("postgres", "CREATE DATABASE umbra TEMPLATE template0");
    let mut markers = Markers::default();
    markers.plant(&cluster.server, "umbra");
    let estate = Estate::new(&cluster, &[Tenant::Initech], "");

    let (first, second) = estate.with_only(&[], || {
        let first = estate.run(&["backup"]).expect(3);
        markers.plant(&cluster.server, "umbra");
        cluster
            .psql("initech", "UPDATE res_partner SET comment = 'second' WHERE id = (SELECT min(id) FROM res_partner)");
        (first, estate.run(&["backup"]).expect(0))
    });
    let oid = cluster.server.database_oid("umbra");
    let findings = first.json["findings"].to_string();
    assert!(findings.contains(&format!("database {oid}")) && findings.contains("spare/1"), "{findings}");
    let stored = |outcome: &Outcome| outcome.json["backups"][0]["stored_bytes"].as_u64().unwrap();
    assert!(stored(&second) * 10 < stored(&first), "{} after {}", stored(&second), stored(&first));
    assert!(second.json["backups"][0]["reused_bytes"].as_u64().unwrap() > 10 << 20, "{:#}", second.json);

    nothing_of_it_is_under(&estate, &markers, &format!("cluster/{CLUSTER}"));
    nothing_of_it_is_under(&estate, &markers, "tenant/initech");
    let spare = opened::everything(&estate, "spare/1");
    let there = spare.pieces.iter().any(|piece| !markers.search_bytes(&piece.name, &piece.content).is_empty());
    let names: Vec<_> = spare.pieces.iter().map(|piece| (&piece.name, piece.content.len())).collect();
    assert!(there, "the markers were backed up nowhere; under spare/1 was opened {names:?}, not {:?}", spare.closed);

    mapping_it_later_brings_it_back(&cluster, &estate, &mut markers);
}

fn nothing_of_it_is_under(estate: &Estate, markers: &Markers, scope: &str) {
    let opened = opened::everything(estate, scope);
    assert!(opened.bytes() > 1 << 20, "only {} bytes of {scope} were opened", opened.bytes());
    for piece in &opened.pieces {
        assert_eq!(markers.search_bytes(&piece.name, &piece.content), Vec::new(), "under {scope}");
    }
}

fn mapping_it_later_brings_it_back(cluster: &Cluster, estate: &Estate, markers: &mut Markers) {
    estate.edit(|text| text + &format!("\n[tenants.umbra]\ncluster = \"{CLUSTER}\"\ndatabases = [\"umbra\"]\n"));
    estate.run(&["init"]).expect(0);
    estate.run(&["backup", "umbra"]).done();
    markers.plant(&cluster.server, "umbra");
    markers.commit_prepared(&cluster.server, "umbra");
    let wanted = fingerprint::take(&cluster.server, "umbra");
    estate.run(&["stream", "--once"]).expect(0);
    let to = Folder::planned();
    restore(estate, "umbra", "latest", &to).done();
    let running = to.start();
    let found = fingerprint::differences(&wanted, &fingerprint::take(&running.server, "umbra"));
    assert_eq!(found, Vec::<String>::new());
    drop(running);
    a_backup_of_some_is_no_base_for_all(cluster, estate);
}

/// The newest base backup holds umbra alone: the cluster comes back from the one before it, which holds everything.
fn a_backup_of_some_is_no_base_for_all(cluster: &Cluster, estate: &Estate) {
    let names = ["initech", "umbra"];
    let wanted = names.map(|name| fingerprint::take(&cluster.server, name));
    let to = Folder::planned();
    estate.run(&["restore", "--all", "--cluster", CLUSTER, "--at", "latest", "--to", to.text()]).done();
    let running = to.start();
    for (name, wanted) in names.iter().zip(&wanted) {
        let found = fingerprint::differences(wanted, &fingerprint::take(&running.server, name));
        assert_eq!(found, Vec::<String>::new(), "{name}");
    }
}
