//! Drills, end to end: a real cluster protected by the binary, restored in a real sandbox, asked, judged, destroyed.
//!
//! Each verdict is made to happen: by damage, by changes at the source, by a canary with a wrong password. The last tests turn the
//! sandbox's probes on a server that is not in one: they must notice.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use lifeboat::drill::ear::Ear;
use lifeboat::drill::probe::{Outcome as Answer, Seen};
use lifeboat::drill::probes::{captured, egress, indexes, owner, sequences, unlogged};
use lifeboat::drill::verdict::Verdict;
use lifeboat::postgres::connect::{Server, SslMode};
use lifeboat::postgres::sql;
use serde_json::Value;

use support::cluster::{Cluster, Options};
use support::damage::{self, Damage};
use support::estate::{Estate, Outcome};
use support::restored::processes_in;
use support::tenants;
use support::{shared, skip};

/// initech in a cluster of its own, with one recovery point.
struct Protected {
    estate: Estate,
    /// That point's own position.
    point: String,
    cluster: Cluster,
}

fn protected(options: Options, more: &str) -> Protected {
    let tenants = options.tenants.clone();
    let cluster = Cluster::start(options);
    let estate = Estate::in_folder(&cluster, &tenants, more);
    let made = estate.run(&["backup"]).expect(0).json;
    let point = made["backups"][0]["points"][0]["lsn"].as_str().unwrap_or_else(|| panic!("{made:#}")).to_owned();
    Protected { estate, point, cluster }
}

fn probe<'j>(json: &'j Value, id: &str) -> &'j Value {
    let found = json["probes"].as_array().unwrap().iter().find(|probe| probe["id"] == id);
    found.unwrap_or_else(|| panic!("no probe {id} in {json:#}"))
}

/// Every probe that was asked passed, or the test shows which did not.
#[track_caller]
fn all_passed(json: &Value) {
    let failed: Vec<_> =
        json["probes"].as_array().unwrap().iter().filter(|probe| probe["outcome"] == "failed").collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The record is there, private, complete, and names nobody; nothing of the sandbox is left.
#[track_caller]
fn recorded(estate: &Estate, outcome: &Outcome) {
    for field in ["evidence", "report"] {
        let path = PathBuf::from(outcome.json[field].as_str().unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        for name in ["peter", "bill@", "milton", "temp@", "Admin-4711", "Bill-pass"] {
            assert!(!text.contains(name), "{}: {name}", path.display());
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0);
    }
    let left = std::fs::read_dir(estate.dir().join("state/sandboxes")).unwrap().count();
    assert_eq!(left, 0, "a sandbox's folder is left");
    assert_eq!(processes_in(&estate.dir().join("state")), Vec::<String>::new());
}

#[test]
fn a_whole_tenant_survives_for_postgres_and_nothing_is_claimed_for_an_odoo_that_was_not_asked() {
    let ran = support::scratch();
    let marker = ran.path().join("archived");
    let command = format!("touch {}", marker.display());
    let options = Options {
        settings: vec![("archive_mode".into(), "on".into()), ("archive_command".into(), command)],
        ..Options::default()
    };
    support::process::give(ran.path());
    let protected = protected(options, "rto = \"1h\"\n");
    let estate = &protected.estate;
    // The source's own archiver ran it; from here on, whoever does runs what was captured.
    drop(protected.cluster);
    std::fs::remove_file(&marker).unwrap();

    let outcome = estate.run(&["drill", "initech"]).expect(0);
    let json = &outcome.json;
    assert_eq!((json["tenant"].as_str(), json["verdict"].as_str()), (Some("initech"), Some("SURVIVES[postgres]")));
    all_passed(json);
    assert_eq!(probe(json, "odoo.sign_in")["outcome"], "not_asked");
    assert_eq!(probe(json, "odoo.sign_in")["grade"], Value::Null);
    assert_eq!(probe(json, "restore.in_time")["outcome"], "passed");
    assert!(!marker.exists(), "the captured archive_command ran");
    let cell = &json["grid"]["platform_admin"]["odoo"];
    assert_eq!((cell["state"].as_str(), cell["grade"].as_str()), (Some("kept"), Some("A-material")));
    assert_eq!(json["reached"]["lsn"], json["target"]);
    assert_eq!(json["clocks"]["first_sign_in"], Value::Null);
    recorded(estate, &outcome);
}

/// Configuration lines for the Odoo that `scripts/setup.sh` installed; none where it is not here.
fn odoo(test: &str) -> Option<String> {
    let place = std::env::var_os("LIFEBOAT_ODOO").map(PathBuf::from);
    let usual = [Path::new("/var/cache/lifeboat/odoo19"), Path::new("/opt/odoo19")].map(Path::to_owned);
    let dir = place.into_iter().chain(usual).find(|dir| dir.join("venv/ready").exists());
    let (Some(dir), Some(shared)) = (dir, shared()) else {
        skip(test, "no Odoo on this machine (scripts/setup.sh installs one where ../shared is)");
        return None;
    };
    let server = shared.join("odoo/server").canonicalize().unwrap();
    Some(format!(
        "[[tenants.initech.signin]]\nlogin = \"admin\"\npassword = {{ file = \"canary.password\" }}\n\n\
         [drill.odoo]\ncommand = [\"{server}/serve.sh\", \"{dir}\", \"{{database}}\", \"{{role}}\", \"{{data_dir}}\", \
         \"{{port}}\"]\npaths = [\"{server}\", \"{dir}\"]\nstart_seconds = 120\n",
        server = server.display(),
        dir = dir.display(),
    ))
}

fn canary(estate: &Estate, password: &str) {
    let path = estate.dir().join("canary.password");
    std::fs::write(&path, password).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_real_odoo_lets_the_canary_in_and_a_canary_that_it_refuses_is_locked_out() {
    let Some(more) = odoo("drill with a real sign-in") else { return };
    let protected = protected(Options::default(), &more);
    let estate = &protected.estate;
    canary(estate, "initech-Admin-4711");
    let outcome = estate.run(&["drill", "initech"]).expect(0);
    let json = &outcome.json;
    all_passed(json);
    assert_eq!(json["verdict"], "SURVIVES[odoo,postgres]");
    for id in ["odoo.sign_in", "odoo.sign_in_form", "odoo.wrong_password"] {
        assert_eq!(probe(json, id)["grade"], "A-real", "{id}");
    }
    assert_eq!(probe(json, "odoo.attachment")["outcome"], "passed");
    assert_eq!(probe(json, "sandbox.server_action")["outcome"], "passed");
    assert_eq!(json["grid"]["platform_admin"]["odoo"]["grade"], "A-real");
    assert!(json["clocks"]["first_sign_in"].as_f64() > json["clocks"]["server_up"].as_f64());
    recorded(estate, &outcome);

    canary(estate, "not-the-password");
    let outcome = estate.run(&["drill", "initech"]).expect(4);
    assert_eq!(outcome.json["verdict"], "LOCKED_OUT");
    assert_eq!(probe(&outcome.json, "odoo.sign_in")["outcome"], "failed");
    assert_eq!(probe(&outcome.json, "odoo.wrong_password")["outcome"], "not_asked");
    assert_eq!(outcome.json["grid"]["platform_admin"]["odoo"]["state"], "locked_out");
    recorded(estate, &outcome);
}

#[test]
fn an_odoo_that_does_not_start_leaves_the_question_open() {
    let more = "[[tenants.initech.signin]]\nlogin = \"admin\"\npassword = { file = \"canary.password\" }\n\n\
                [drill.odoo]\ncommand = [\"/bin/false\", \"{database}\"]\n";
    let protected = protected(Options::default(), more);
    canary(&protected.estate, "initech-Admin-4711");
    let outcome = protected.estate.run(&["drill", "initech"]).expect(4);
    assert_eq!(outcome.json["verdict"], "INCONCLUSIVE");
    assert_eq!(probe(&outcome.json, "odoo.start")["outcome"], "failed");
    assert_eq!(probe(&outcome.json, "odoo.sign_in")["outcome"], "not_asked");
    recorded(&protected.estate, &outcome);
}

#[test]
fn going_back_before_a_revocation_is_exposed_and_the_newest_point_survives() {
    let protected = protected(Options::default(), "");
    let (estate, cluster) = (&protected.estate, &protected.cluster);
    cluster.psql(
        "initech",
        "DELETE FROM res_users_apikeys; UPDATE res_users SET active = false WHERE login LIKE 'bill@%'; \
         UPDATE res_users SET password = '$pbkdf2-sha512$600000$AAAA$BBBB' WHERE login LIKE 'peter@%'",
    );
    estate.run(&["backup"]).expect(0);
    let now = estate.run(&["drill", "initech"]).expect(0).json;
    assert_eq!(now["verdict"], "SURVIVES[postgres]");
    assert_ne!(now["target"].as_str(), Some(protected.point.as_str()));

    let outcome = estate.run(&["drill", "initech", "--at", &protected.point]).expect(4);
    let json = &outcome.json;
    assert_eq!(json["verdict"], "EXPOSED");
    assert_eq!(probe(json, "odoo.gained")["outcome"], "failed");
    assert_eq!(probe(json, "odoo.revived")["outcome"], "failed");
    assert_eq!(json["worst_cell"]["domain"], "workforce");
    assert!(json["differences"].as_array().unwrap().len() >= 3);
    recorded(estate, &outcome);
}

#[test]
fn what_changed_after_the_last_capture_nobody_can_judge() {
    let protected = protected(Options::default(), "");
    let (estate, cluster) = (&protected.estate, &protected.cluster);
    cluster.psql("initech", "UPDATE res_users SET active = true WHERE login LIKE 'milton@%'");
    cluster.psql("initech", "CREATE UNLOGGED TABLE x AS SELECT 1; ALTER TABLE x OWNER TO odoo_initech");
    // Transactional: its commit makes it durable, so that a stream that catches up has it.
    let mark = cluster.psql("initech", "SELECT pg_logical_emit_message(true, 'test', 'now')");
    estate.run(&["stream", "--once"]).expect(0);
    let outcome = estate.run(&["drill", "initech", "--at", &mark]).expect(4);
    assert_eq!(outcome.json["verdict"], "INCONCLUSIVE");
    assert_eq!(probe(&outcome.json, "odoo.gained")["gate"], "INCONCLUSIVE");
    assert_eq!(probe(&outcome.json, "postgres.unlogged")["gate"], "DEGRADED");
}

#[test]
fn a_damaged_object_is_invalid_and_there_is_evidence_of_it() {
    let protected = protected(Options::default(), "");
    let estate = &protected.estate;
    let packs = damage::objects(&estate.store, |name| {
        name.starts_with("tenant/") && name.contains("/packs/") && name.ends_with(".age")
    });
    let bytes = |(_, path): &&(String, PathBuf)| path.metadata().map_or(0, |meta| meta.len());
    // The largest holds the database, the smallest the roster, which is read after the server has started.
    let (largest, smallest) = (packs.iter().max_by_key(bytes), packs.iter().min_by_key(bytes));
    for (name, path) in [largest, smallest].map(Option::unwrap) {
        let damaged = Damage::flip(path);
        let outcome = estate.run(&["drill", "initech"]).expect(6);
        assert_eq!(outcome.json["verdict"], "INVALID");
        let why = outcome.json["reasons"][0]["detail"].as_str().unwrap();
        assert!(why.contains(name.rsplit('/').next().unwrap()), "{why}");
        recorded(estate, &outcome);
        drop(damaged);
    }

    let outcome = estate.without_key("tenant/initech", || estate.run(&["drill", "initech"])).expect(6);
    assert_eq!(outcome.json["verdict"], "INVALID");
    recorded(estate, &outcome);
    estate.run(&["drill", "initch"]).expect(2);
}

#[test]
fn a_tenant_of_a_shared_cluster_is_drilled_without_a_byte_of_the_others() {
    if let Some(why) = tenants::missing() {
        return skip("drill of a tenant in a shared cluster", why);
    }
    let protected = protected(Options { tenants: tenants::ALL.to_vec(), ..Options::default() }, "");
    let (estate, cluster) = (&protected.estate, &protected.cluster);
    cluster.psql("globex", "BEGIN; CREATE TABLE held (id int); PREPARE TRANSACTION 'globex-gid'");
    estate.run(&["backup"]).expect(0);
    let drill = || estate.run(&["drill", "initech"]);
    let outcome = estate.without_key("tenant/globex", drill).expect(0);
    all_passed(&outcome.json);
    let others = probe(&outcome.json, "postgres.others_absent");
    assert!(others["detail"].as_str().unwrap().contains("2 other databases"), "{others:#}");
    let text = std::fs::read_to_string(outcome.json["evidence"].as_str().unwrap()).unwrap();
    assert!(!text.contains("globex-gid") && !text.contains("tenant/globex"));
    cluster.psql("globex", "ROLLBACK PREPARED 'globex-gid'");
    recorded(estate, &outcome);
}

#[test]
fn a_kept_folder_is_named_and_nothing_runs_in_it() {
    let protected = protected(Options::default(), "");
    let outcome = protected.estate.run(&["drill", "initech", "--keep"]).expect(0);
    let kept = PathBuf::from(outcome.json["kept"].as_str().unwrap());
    assert!(kept.join("box/pgdata/PG_VERSION").is_file() && kept.join("files/filestore/initech").is_dir());
    assert_eq!(processes_in(&kept), Vec::<String>::new());
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o066, 0, "others could look in");
}

/// The superuser's way to a server that is in no sandbox.
fn open_server(cluster: &Cluster) -> Server {
    Server {
        host: cluster.server.socket.display().to_string(),
        port: cluster.server.port,
        user: "postgres".to_owned(),
        database: "postgres".to_owned(),
        password: None,
        sslmode: SslMode::Disable,
        ca_file: None,
        application_name: "test".to_owned(),
    }
}

#[tokio::test]
async fn the_probes_of_a_sandbox_notice_a_server_that_is_not_in_one() {
    let cluster = Cluster::start(Options::default());
    let server = open_server(&cluster);
    let seen = egress::ask(&server, 15, &Ear::open().unwrap()).await.unwrap();
    assert_eq!((seen.outcome, seen.gate), (Answer::Failed, Some(Verdict::Exposed)), "{seen:?}");
    let attempts = seen.facts["attempts"].as_array().unwrap();
    let got_through = attempts.iter().filter(|attempt| attempt["said"] == "got-through").count();
    assert!(got_through >= 1 && !seen.facts["heard"].as_array().unwrap().is_empty(), "{attempts:#?}");
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'lifeboat%'"), "0");

    let mut connection = sql::connect(&server, "postgres").await.unwrap();
    let seen = captured::ask(&mut connection, cluster.data.parent().unwrap()).await.unwrap();
    assert_eq!(seen.gate, Some(Verdict::Exposed), "{seen:?}");
}

#[tokio::test]
async fn the_probes_of_a_database_notice_what_is_wrong_with_it() {
    let cluster = Cluster::start(Options::default());
    let mut connection = sql::connect(&open_server(&cluster), "initech").await.unwrap();
    let passed = |seen: Seen| assert_eq!(seen.outcome, Answer::Passed, "{seen:?}");
    passed(indexes::ask(&mut connection).await.unwrap());
    passed(sequences::ask(&mut connection).await.unwrap());
    passed(unlogged::ask(&mut connection).await.unwrap());
    passed(owner::ask(&mut connection).await.unwrap().1);

    cluster.psql(
        "initech",
        "CREATE UNLOGGED TABLE cache (id serial); \
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'res_users_pkey'::regclass; \
         SELECT setval('res_users_id_seq', 1); \
         REVOKE ALL ON res_users FROM odoo_initech; ALTER TABLE res_users OWNER TO postgres",
    );
    assert_eq!(indexes::ask(&mut connection).await.unwrap().gate, Some(Verdict::Degraded));
    let sequences = sequences::ask(&mut connection).await.unwrap();
    assert_eq!(sequences.gate, Some(Verdict::Degraded));
    assert!(sequences.detail.contains("public.res_users.id"), "{sequences:?}");
    assert_eq!(unlogged::ask(&mut connection).await.unwrap().gate, Some(Verdict::Degraded));
    assert_eq!(owner::ask(&mut connection).await.unwrap().1.gate, Some(Verdict::LockedOut));
}
