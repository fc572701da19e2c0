//! Keys on a real cluster: a rotation in the middle of a tenant's history, and an erasure beside a tenant that stays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use std::process::Command;

use support::cluster::{BACKUP_USER, Cluster, Options};
use support::damage::objects;
use support::estate::{Estate, Outcome};
use support::folder::Folder;
use support::tenants::Tenant;

/// A second tenant, made of the first: what erasing the one must leave alone. Gives its part of the configuration.
fn hooli(cluster: &Cluster) -> String {
    cluster.psql("postgres", "CREATE DATABASE hooli TEMPLATE initech");
    cluster.psql("hooli", &format!("GRANT UPDATE ON ir_cron, ir_attachment TO {BACKUP_USER}"));
    let (from, to) = (cluster.filestore.join("initech"), cluster.filestore.join("hooli"));
    support::process::run(Command::new("cp").arg("-a").arg(from).arg(to));
    let filestore = cluster.filestore.display();
    format!("\n[tenants.hooli]\ncluster = \"main\"\ndatabases = [\"hooli\"]\nfilestore = \"{filestore}\"\n")
}

/// `[keys]` with two stores and two custodians, both needed, and the locks of a test.
fn under_custody(estate: &Estate) {
    let dir = estate.dir();
    let mut people = String::new();
    for name in ["alice", "bob"] {
        let key = dir.join(format!("{name}.key"));
        assert!(Command::new("age-keygen").arg("-o").arg(&key).output().unwrap().status.success());
        let public = Command::new("age-keygen").arg("-y").arg(&key).output().unwrap().stdout;
        people += &format!("{name} = \"{}\"\n", String::from_utf8(public).unwrap().trim());
    }
    for store in ["one", "two"] {
        std::fs::create_dir(dir.join(store)).unwrap();
    }
    let mut keygen = Command::new("ssh-keygen");
    assert!(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join("eraser")).status().unwrap().success());
    let public = std::fs::read_to_string(dir.join("eraser.pub")).unwrap();
    let signers = std::fs::read_to_string(dir.join("allowed_signers")).unwrap();
    std::fs::write(dir.join("allowed_signers"), format!("{signers}eraser namespaces=\"lifeboat-erasure\" {public}"))
        .unwrap();
    let stores: String =
        ["one", "two"].map(|name| format!("[keys.stores.{name}]\nkind = \"local\"\npath = \"{name}\"\n")).concat();
    let keys = "[keys]\neraser = \"eraser\"\n";
    let more = format!("\n{stores}[keys.custody]\nthreshold = 2\n[keys.custody.custodians]\n{people}");
    estate.edit(|text| text.replacen("[keys]\n", keys, 1) + &more);
}

fn open(estate: &Estate, scope: &str) -> Outcome {
    let [alice, bob] = ["alice", "bob"].map(|name| estate.dir().join(format!("{name}.key")).display().to_string());
    estate.run(&["key", "open", scope, "--with", &alice, "--with", &bob])
}

fn restore(estate: &Estate, tenant: &str, to: &Folder) -> Outcome {
    estate.run(&["restore", tenant, "--at", "latest", "--to", to.text()])
}

fn said(database: &str, to: &Folder) -> String {
    to.start().server.psql(database, "SELECT string_agg(x, ',' ORDER BY x) FROM said")
}

#[test]
fn a_rotation_may_lie_between_a_base_backup_and_the_moment_that_is_restored() {
    let cluster = Cluster::start(Options::default());
    let estate = Estate::new(&cluster, &[Tenant::Initech], "");
    cluster.psql("initech", "CREATE TABLE said (x text); INSERT INTO said VALUES ('epoch 1')");
    estate.run(&["backup"]).done();
    under_custody(&estate);
    estate.run(&["key", "split"]).done();

    // The base backup lies in epoch 1, what follows in epoch 2.
    estate.run(&["key", "rotate", "tenant/initech", "cluster/main"]).done();
    cluster.psql("initech", "INSERT INTO said VALUES ('epoch 2')");
    estate.run(&["stream", "--once"]).done();
    std::fs::remove_dir_all(&estate.identities).unwrap();
    let to = Folder::planned();
    let plan = |estate: &Estate| estate.run(&["restore", "initech", "--at", "latest", "--to", to.text(), "--plan"]);
    let planned = plan(&estate).done();
    assert_eq!(planned.json["epochs"]["tenant/initech"], serde_json::json!([1, 2]), "{:#}", planned.json);
    assert_eq!(planned.json["keys_missing"], serde_json::json!(["tenant/initech", "cluster/main"]));
    restore(&estate, "initech", &to).expect(6);
    for scope in ["tenant/initech", "cluster/main"] {
        open(&estate, scope).done();
    }
    assert_eq!(plan(&estate).done().json["keys_missing"], serde_json::json!([]));
    restore(&estate, "initech", &to).done();
    assert_eq!(said("initech", &to), "epoch 1,epoch 2");
    // The next backup cannot use the chunks of the epoch before, and says so.
    let full = estate.run(&["backup", "initech"]).done();
    let findings = full.json["findings"].to_string();
    assert!(findings.contains("this backup is a full one"), "{findings}");
}

#[test]
fn an_erasure_takes_one_tenant_and_no_other_and_no_copy_brings_it_back() {
    let cluster = Cluster::start(Options::default());
    let estate = &Estate::in_folder(&cluster, &[Tenant::Initech], &hooli(&cluster));
    cluster.psql("hooli", "CREATE TABLE said (x text); INSERT INTO said VALUES ('before')");
    estate.run(&["backup"]).done();
    under_custody(estate);
    estate.run(&["key", "split"]).done();
    let kept = estate.dir().join("kept");
    assert!(Command::new("cp").arg("-a").arg(&estate.identities).arg(&kept).status().unwrap().success());
    let sealed = |estate: &Estate| objects(&estate.store, |name| name.contains("tenant/initech/")).len();
    let before = sealed(estate);
    estate.run(&["key", "shred", "tenant/initech", "--yes", "tenant/initech"]).expect(3);
    assert!(!estate.identities.join("tenant/initech/1.age").exists());
    assert_eq!(sealed(estate), before, "the sealed data stays");

    // A copy that nobody registered turns up: lifeboat does not use it.
    std::fs::remove_dir_all(&estate.identities).unwrap();
    std::fs::rename(&kept, &estate.identities).unwrap();
    let to = Folder::planned();
    let refused = restore(estate, "initech", &to).expect(5);
    assert!(refused.json["error"]["cause"].as_str().unwrap().contains("was erased"), "{:#}", refused.json);
    assert!(!to.path.exists());
    assert!(
        estate.run(&["drill", "initech"]).expect(5).read().iter().all(|name| !name.contains("tenant/initech/packs"))
    );

    // Its database is still there and still changes: nothing of it is stored, and everybody else goes on.
    cluster.psql("initech", "CREATE TABLE said (x text); INSERT INTO said VALUES ('after')");
    cluster.psql("hooli", "INSERT INTO said VALUES ('after')");
    let streamed = estate.run(&["stream", "--once"]).done();
    assert!(streamed.json["findings"].to_string().contains("was erased"), "{:#}", streamed.json);
    estate.run(&["backup"]).done();
    assert_eq!(estate.run(&["backup", "initech"]).code, 2);
    assert_eq!(sealed(estate), before);
    let to = Folder::planned();
    restore(estate, "hooli", &to).done();
    assert_eq!(said("hooli", &to), "after,before");

    // The keys themselves go when their locks lapse, and until then that is said.
    let status = estate.run(&["status"]).expect(3);
    assert_eq!(status.json["erasures"][0]["stores"], serde_json::json!({ "one": false, "two": false }));
    assert!(status.json["findings"].to_string().contains("is not complete: keys store one, keys store two"));
}
