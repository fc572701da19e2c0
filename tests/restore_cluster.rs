//! A recovered database loaded into a running cluster beside the live one; and what may not come along, with nothing left after.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use support::cluster::{Cluster, Options};
use support::estate::{CLUSTER, Estate, Outcome};
use support::fingerprint;
use support::tenants::{self, Tenant};

/// Everything that a refused or failed load could leave behind.
fn traces(cluster: &Cluster, estate: &Estate) -> Vec<String> {
    let sql =
        "SELECT 'database ' || datname FROM pg_database UNION ALL SELECT 'role ' || rolname FROM pg_roles ORDER BY 1";
    let mut found: Vec<String> = cluster.psql("postgres", sql).lines().map(str::to_owned).collect();
    for folder in [cluster.filestore.clone(), estate.dir().join("state/sandboxes")] {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    found.sort();
    found
}

fn load(estate: &Estate, tenant: &str, at: &str, name: &str) -> Outcome {
    estate.run(&["restore", tenant, "--at", at, "--into-cluster", CLUSTER, "--as", name])
}

#[test]
fn a_tenant_is_loaded_beside_its_live_database_as_its_own_role_and_what_could_act_on_others_is_refused() {
    // acme has unaccent made immutable, as Odoo's trigram indexes need it.
    let tenant = if tenants::missing().is_none() { Tenant::Acme } else { Tenant::Initech };
    let cluster = Cluster::start(Options { tenants: vec![tenant], ..Options::default() });
    let name = tenant.name();
    let estate = Estate::new(&cluster, &[tenant], "");
    estate.run(&["backup"]).expect(0);
    let good = cluster.server.insert_lsn();
    let before = fingerprint::take(&cluster.server, name);
    cluster.psql(name, "UPDATE res_partner SET comment = 'after' WHERE id = (SELECT min(id) FROM res_partner)");
    make_it_risky(&cluster, name);
    estate.run(&["stream", "--once"]).expect(0);
    let traces_before = traces(&cluster, &estate);

    refuses_what_could_act_on_others(&cluster, &estate, name);
    assert_eq!(traces(&cluster, &estate), traces_before, "a refusal left something");

    load(&estate, name, &good, "beside").done();
    let after = fingerprint::take(&cluster.server, "beside");
    assert_eq!(fingerprint::differences(&before, &after), Vec::<String>::new());
    let missing = fingerprint::missing_attachments(&cluster.server, "beside", &cluster.filestore.join("beside"));
    assert_eq!(missing, Vec::<String>::new());
    tenants::amcheck(&cluster.server, "beside");
    it_is_the_tenants(&cluster, tenant);

    let taken = load(&estate, name, &good, "beside").expect(5);
    assert!(taken.json["error"]["cause"].as_str().unwrap().contains("exists"), "{:#}", taken.json);
    let nobody = estate.run(&[
        "restore",
        name,
        "--at",
        &good,
        "--into-cluster",
        CLUSTER,
        "--as",
        "fourth",
        "--owner",
        "postgres",
    ]);
    assert_eq!(nobody.expect(5).json["error"]["object"], "role postgres");
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'fourth'"), "0");
}

/// An event trigger, an extension that reaches out, a server to reach: all after the good moment.
fn make_it_risky(cluster: &Cluster, name: &str) {
    cluster.psql(
        name,
        "CREATE FUNCTION evil() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';\n\
         CREATE EVENT TRIGGER evil ON ddl_command_start EXECUTE FUNCTION evil();\n\
         CREATE EXTENSION dblink; CREATE EXTENSION postgres_fdw;\n\
         CREATE SERVER outside FOREIGN DATA WRAPPER postgres_fdw;",
    );
}

fn refuses_what_could_act_on_others(cluster: &Cluster, estate: &Estate, name: &str) {
    let refused = load(estate, name, "latest", "beside").expect(5);
    let error = refused.json["error"].to_string();
    for risky in ["event-trigger:evil", "extension dblink", "extension postgres_fdw", "server:outside"] {
        assert!(error.contains(risky), "{risky} is not named: {error}");
    }
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'beside'"), "0");
}

fn it_is_the_tenants(cluster: &Cluster, tenant: Tenant) {
    let (role, _) = tenant.role();
    let ask = |database: &str, sql: &str| cluster.psql(database, sql);
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'beside'";
    assert_eq!(ask("postgres", owner), role);
    let others = format!(
        "SELECT c.relname, pg_get_userbyid(c.relowner) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = 'public' AND pg_get_userbyid(c.relowner) <> '{role}' \
         AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')"
    );
    assert_eq!(ask("beside", &others), "", "owned by somebody else");
    assert_eq!(ask("postgres", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'lifeboat_load%'"), "0");
    for same in [
        "SELECT extname FROM pg_extension WHERE extname NOT IN ('dblink', 'postgres_fdw', 'amcheck') ORDER BY 1",
        "SELECT proname, provolatile FROM pg_proc WHERE proname = 'unaccent' ORDER BY oid",
        "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'",
        "SELECT datcollate, datctype, pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()",
        "SELECT has_database_privilege('lifeboat', current_database(), 'CREATE')",
    ] {
        assert_eq!(ask("beside", same), ask(tenant.name(), same), "{same}");
    }
    assert_eq!(ask("beside", "SELECT count(*) FROM pg_event_trigger"), "0");
}
