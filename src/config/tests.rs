//! Every way a `lifeboat.toml` can be wrong, with its line; and what a right one means.

use super::*;
use crate::failure::Kind;
use jiff::SignedDuration;
use proptest::prelude::*;

const SMALL: &str = r#"
[estate]
name = "shop"
[store]
kind = "local"
path = "store"
[keys]
signers = "keys/allowed_signers"
[clusters.main]
host = "/var/run/postgresql"
user = "backup"
[tenants.acme]
cluster = "main"
databases = ["acme"]
"#;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("/etc/shop/lifeboat.toml"))
}

fn small_with(more: &str) -> String {
    format!("{SMALL}{more}")
}

/// The problems of a text, one per line, as people see them.
fn wrong(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("nothing was found wrong with:\n{text}"),
        Err(ConfigErrors::Wrong { problems, .. }) => {
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        }
        Err(other) => panic!("{other}"),
    }
}

/// The one problem of [`SMALL`] with something after it; its line is counted from the end of `SMALL`.
fn wrong_after(more: &str) -> String {
    wrong(&small_with(more)).replace(&format!("line {}", SMALL.lines().count() + 1), "line +1")
}

#[test]
fn the_smallest_configuration_has_every_default() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.estate.timezone_name, "UTC");
    assert_eq!(config.store, StoreConfig::Local { path: "/etc/shop/store".into() });
    assert_eq!(config.keys.signers, Path::new("/etc/shop/keys/allowed_signers"));
    assert_eq!(config.state_dir, Path::new("/var/lib/lifeboat"));
    let main = config.cluster("main").unwrap();
    assert_eq!((main.port, main.database.as_str(), main.slot.as_str()), (5432, "postgres", "lifeboat"));
    assert_eq!((main.sslmode, main.allow_unbounded_slot), (SslMode::Prefer, false));
    assert_eq!((main.flush_bytes, main.stretch_bytes), (1 << 20, 16 << 20));
    assert_eq!(
        (main.flush_interval, main.stretch_interval),
        (SignedDuration::from_secs(1), SignedDuration::from_mins(5))
    );
    assert_eq!(config.tenant("acme").unwrap().tier, "standard");
    assert_eq!(config.retention.class("daily").unwrap(), SignedDuration::from_hours(35 * 24));
    assert_eq!(config.retention.class("yearly").unwrap(), SignedDuration::from_hours(7 * 365 * 24));
    assert_eq!(config.retention.tail_lock, SignedDuration::from_hours(7 * 24));
    assert_eq!((config.sandbox.user.as_str(), config.sandbox.kind), ("nobody", SandboxKind::Auto));
    assert_eq!(config.sandbox.dir, Path::new("/var/lib/lifeboat/sandboxes"));
    assert!(config.drill.odoo.is_none());
    assert_eq!(config.drill.dir, Path::new("/var/lib/lifeboat/drills"));
}

#[test]
fn an_empty_file_says_everything_that_is_missing() {
    let expected = "line 1: estate.name: is missing\nline 1: keys.signers: is missing\n\
                    line 1: store.kind: is missing\nline 1: store.path: is missing";
    assert_eq!(wrong(""), expected);
}

#[test]
fn many_mistakes_are_reported_at_once_each_with_its_line() {
    let text = r#"# line 1
[estate]
name = "My Shop"
timezone = "Mars/Olympus"
[store]
kind = "locl"
path = 7
[keys]
signers = "s"
writter = "w"
[clusters.main]
user = "backup"
port = 70000
[tenants.acme]
cluster = "mian"
databases = [
  "acme",
  "postgres",
]
rpo = "5 minutes"
[retention]
classes = { daily = "0s" }
[telemetry]
"#;
    let expected = "\
line 3: estate.name: 'My Shop' is not a plain name (a-z, 0-9, '-' and '_', at most 63, a letter or digit first)
line 4: estate.timezone: there is no time zone 'Mars/Olympus'; write one like \"Europe/Berlin\"
line 6: store.kind: 'locl' is not known; did you mean 'local'?
line 7: store.path: expected a string, found an integer
line 10: keys.writter: there is no such key; did you mean 'writer'?
line 11: clusters.main.host: is missing
line 13: clusters.main.port: 70000 is not between 1 and 65535
line 15: tenants.acme.cluster: there is no cluster 'mian'; did you mean 'main'?
line 18: tenants.acme.databases: 'postgres' is a system database: it belongs to the cluster, not to a tenant
line 20: tenants.acme.rpo: '5 minutes' is not a duration; write a number and a unit, like 90s, 12h, 35d or 7y
line 22: retention.classes.daily: must be more than zero
line 23: telemetry: there is no such key; there is: clusters, copies, drill, estate, keys, retention, sandbox, state_dir, store, tenants";
    assert_eq!(wrong(text), expected);
}

#[test]
fn a_failure_carries_the_kind_the_file_and_every_line() {
    let failure: Failure = parse(&small_with("a = 1\nb = 2\n")).unwrap_err().into();
    assert_eq!((failure.kind, failure.object.as_str()), (Kind::Usage, "/etc/shop/lifeboat.toml"));
    assert!(failure.cause.starts_with("2 things are wrong\n  line 15: tenants.acme.a: "), "{}", failure.cause);
}

#[test]
fn every_mistake_in_the_toml_itself_has_its_line_and_nothing_lost_with_it_is_called_missing() {
    let said = wrong("[estate]\nname = shop\n[store\nkind = \"local\"\n[keys]\nsigners = \"a\"\nsigners = \"b\"\n");
    let lines: Vec<&str> = said.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert!(lines.contains(&"line 2") && lines.contains(&"line 3") && lines.contains(&"line 7"), "{said}");
    assert!(!said.contains("missing"), "{said}");
}

/// [`SMALL`] with a bucket, and `more` in its table, which begins in line 4.
fn in_a_bucket(more: &str) -> String {
    SMALL.replace("kind = \"local\"\npath = \"store\"", &format!("kind = \"s3\"\nbucket = \"shop-backup\"\n{more}"))
}

#[test]
fn a_bucket_has_its_defaults_and_each_role_its_profile() {
    let StoreConfig::S3(plain) = parse(&in_a_bucket("")).unwrap().store else { panic!("a bucket") };
    assert_eq!((plain.path_style, plain.requests, plain.prefix.as_str()), (false, 16, ""));
    assert_eq!(plain.profile_for(Role::Writer), None);
    let more = "endpoint = \"https://s3.example.com:7480/\"\nca_file = \"ca.pem\"\nprefix = \"a/b\"\nprofile = \"all\"\n\
                profiles = { janitor = \"sweeper\" }\nrequests = 4";
    let StoreConfig::S3(full) = parse(&in_a_bucket(more)).unwrap().store else { panic!("a bucket") };
    assert!(full.path_style, "what is not AWS has no bucket in its host's name");
    assert_eq!(full.endpoint.as_deref(), Some("https://s3.example.com:7480"));
    assert_eq!(full.ca_file.as_deref(), Some(Path::new("/etc/shop/ca.pem")));
    assert_eq!((full.profile_for(Role::Janitor), full.profile_for(Role::Reader)), (Some("sweeper"), Some("all")));
}

#[test]
fn every_mistake_about_a_bucket_has_its_line() {
    for (more, word) in [
        ("prefix = \"/a\"", "prefix"),
        ("prefix = \"a/\"", "prefix"),
        ("prefix = \"a/../b\"", "prefix"),
        ("endpoint = \"s3.example.com\"", "URL"),
        ("endpoint = \"https://key:secret@s3.example.com\"", "password"),
        ("endpoint = \"https://s3.example.com/bucket\"", "URL"),
        ("path_style = \"yes\"", "path_style"),
        ("requests = 0", "requests"),
        ("requests = 257", "requests"),
        ("profiles = { cleaner = \"x\" }", "cleaner"),
        ("secret_key = \"x\"", "secret_key"),
        ("path = \"store\"", "path"),
    ] {
        let said = wrong(&in_a_bucket(more));
        assert!(said.contains("line 7") && said.contains(word), "{more}: {said}");
        assert!(!said.contains("key:secret"), "{said}");
    }
    for bucket in ["", "ab", "Shop", "-shop", "shop-", "a..b", "shop_backup", "a/b"] {
        let said = wrong(&in_a_bucket("").replace("shop-backup", bucket));
        assert!(said.contains("line 6") && said.contains("bucket"), "'{bucket}': {said}");
    }
}

#[test]
fn two_tenants_cannot_have_one_database_of_a_cluster() {
    let said = wrong_after("[tenants.globex]\ncluster = \"main\"\ndatabases = [\"globex\", \"acme\"]\n");
    let line = SMALL.lines().count() + 3;
    let expected =
        format!("line {line}: tenants.globex.databases: 'acme' of cluster 'main' belongs to tenant 'acme' already");
    assert_eq!(said, expected);
    let elsewhere = "[clusters.second]\nhost = \"db2\"\nuser = \"backup\"\n\
                     [tenants.globex]\ncluster = \"second\"\ndatabases = [\"acme\"]\n";
    assert!(parse(&small_with(elsewhere)).is_ok(), "the same name in another cluster is another database");
}

#[test]
fn a_tenant_cannot_list_a_database_twice_or_none_at_all() {
    let twice = wrong(&SMALL.replace("[\"acme\"]", "[\"acme\", \"acme\"]"));
    assert_eq!(twice, "line 14: tenants.acme.databases: 'acme' is listed twice");
    assert_eq!(wrong(&SMALL.replace("[\"acme\"]", "[]")), "line 14: tenants.acme.databases: is empty");
    let none = SMALL.replace("databases = [\"acme\"]\n", "");
    assert_eq!(wrong(&none), "line 12: tenants.acme.databases: is missing");
}

#[test]
fn a_databases_name_cannot_leave_the_filestore() {
    for name in ["..", ".", "a/b", "../other", "/etc"] {
        let said = wrong(&SMALL.replace("[\"acme\"]", &format!("[\"{name}\"]")));
        assert!(said.contains("cannot be the name of a folder"), "{name}: {said}");
    }
    assert!(wrong(&SMALL.replace("[\"acme\"]", r#"["a\u0000b"]"#)).contains("control characters"));
}

#[test]
fn names_of_tenants_and_clusters_are_plain_and_not_words_of_the_command_line() {
    for name in ["\"../x\"", "Acme", "\"a b\"", "\"\""] {
        let said = wrong(&SMALL.replace("[tenants.acme]", &format!("[tenants.{name}]")));
        assert!(said.starts_with("line 12: tenants") && said.contains("is not a plain name"), "{name}: {said}");
    }
    let said = wrong(&SMALL.replace("[tenants.acme]", "[tenants.resume]"));
    assert_eq!(said, "line 12: tenants.resume: 'resume' is a word of `lifeboat restore`; choose another name");
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_repeated() {
    let inline = [
        "restore_user = \"admin\"\nrestore_password = \"hunter2\"",
        "password = \"hunter2\"",
        "password = { value = \"hunter2\" }",
        "password = { env = \"hunter2!\" }",
        "password = { ref = \"hunter2\" }",
        "password = hunter2",
        "passwd = \"hunter2\"",
        "password = 'hunter2",
        "host = \"postgres://backup:hunter2@db/postgres\"",
        "host = \"host=db password=hunter2\"",
        "port = \"hunter2\"",
    ];
    for line in inline {
        let key = line.split(" = ").next().unwrap();
        let text = SMALL.replace("user = \"backup\"", &format!("user = \"backup\"\n{line}"));
        let text = if key == "host" { text.replacen("host = \"/var/run/postgresql\"\n", "", 1) } else { text };
        let errors = parse(&text).unwrap_err();
        let failure: Failure = match &errors {
            ConfigErrors::Wrong { path, problems } => {
                ConfigErrors::Wrong { path: path.clone(), problems: problems.clone() }.into()
            }
            ConfigErrors::Unreadable { .. } => panic!("{errors}"),
        };
        for said in [errors.to_string(), format!("{errors:?}"), format!("{failure:?}")] {
            assert!(!said.contains("hunter2"), "{line}: {said}");
        }
    }
    let text = SMALL.replace("user = \"backup\"", "user = \"backup\"\npassword = \"hunter2\"");
    assert_eq!(
        wrong(&text),
        "line 12: clusters.main.password: a secret must not stand in this file; \
         write { file = \"...\" }, { env = \"...\" } or { ref = \"vault:...\" }"
    );
}

#[test]
fn a_secret_says_exactly_one_place() {
    let with = |place: &str| SMALL.replace("user = \"backup\"", &format!("user = \"backup\"\npassword = {place}"));
    let secret = |place: &str| parse(&with(place)).unwrap().clusters.remove("main").unwrap().password.unwrap();
    assert_eq!(secret("{ file = \"pg.pass\" }"), Secret::File("/etc/shop/pg.pass".into()));
    assert_eq!(secret("{ env = \"PGPASSWORD\" }"), Secret::Env("PGPASSWORD".into()));
    assert_eq!(secret("{ ref = \"vault:kv/pg#password\" }"), Secret::Ref("vault:kv/pg#password".into()));
    assert!(wrong(&with("{}")).contains("says no place"));
    assert!(wrong(&with("{ file = \"a\", env = \"B\" }")).contains("says more than one place"));
    assert!(wrong(&with("{ fiel = \"a\" }")).contains("did you mean 'file'?"));
}

#[test]
fn what_single_values_cannot_show_is_checked_too() {
    let cases = [
        ("[retention]\npitr = \"8y\"\n", "retention.pitr: is longer than every class keeps"),
        ("[sandbox]\nuser = \"root\"\n", "sandbox.user: restored data never runs as root"),
        ("[drill.odoo]\ncommand = []\n", "drill.odoo.command: is empty"),
        ("allow = [\"trigger:x\"]\n", "'trigger' is nothing that can be allowed; there is: event-trigger,"),
        ("allow = [\"event_trigger:x\"]\n", "did you mean 'event-trigger'?"),
        ("allow = [\"server:\"]\n", "'server:' is not an exception like"),
        ("[[tenants.acme.signin]]\nlogin = \"canary\"\n", "tenants.acme.signin.password: is missing"),
        (
            "[clusters.b]\nhost = \"b\"\nuser = \"u\"\nflush_bytes = \"32MiB\"\n",
            "flush_bytes: is more than stretch_bytes",
        ),
        ("[clusters.b]\nhost = \"b\"\nuser = \"u\"\nslot = \"Life-boat\"\n", "is not a slot's name"),
        ("[clusters.b]\nhost = \"b\"\nuser = \"u\"\nrestore_password = { env = \"X\" }\n", "belongs to a restore_user"),
        ("[clusters]\nb = 1\n", "clusters.b: expected a table, found an integer"),
        ("[retention]\nclasses = 3\n", "retention.classes: expected a table, found an integer"),
    ];
    for (more, expected) in cases {
        let said = wrong_after(more);
        assert!(said.contains(expected), "{more}: {said}");
        assert_eq!(said.lines().count(), 1, "{more}: {said}");
    }
}

#[test]
fn a_database_has_its_tenants_scope_and_a_system_database_its_clusters() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.scope_of("main", "acme"), Some(Scope::Tenant("acme".into())));
    assert_eq!(config.scope_of("main", "template1"), Some(Scope::Cluster("main".into())));
    assert_eq!(config.scope_of("main", "Acme"), None);
    assert_eq!(config.scope_of("other", "acme"), None);
    assert_eq!(config.scope_of("other", "postgres"), None);
    let scopes: Vec<String> = config.scopes().iter().map(ToString::to_string).collect();
    assert_eq!(scopes, ["estate", "cluster/main", "residue/main", "quarantine/main", "tenant/acme"]);
}

#[test]
fn a_name_that_is_missed_is_answered_with_the_nearest() {
    let config = parse(SMALL).unwrap();
    for (failure, meant) in [
        (config.tenant("amce").unwrap_err(), "'acme'"),
        (config.cluster("mian").unwrap_err(), "'main'"),
        (config.retention.class("dayly").unwrap_err(), "'daily'"),
    ] {
        assert_eq!(failure.kind, Kind::Usage);
        assert!(failure.cause.contains(meant), "{failure}");
    }
}

#[test]
fn a_named_file_wins_and_without_any_the_next_step_is_init() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("lifeboat.toml");
    assert_eq!(find_among(Some("x.toml".into()), &[&here]).unwrap(), Path::new("x.toml"));
    let none = find_among(None, &[&here]).unwrap_err();
    assert!(none.kind == Kind::Usage && none.next.contains("lifeboat init"), "{none}");
    std::fs::write(&here, "").unwrap();
    assert_eq!(find_among(None, &[&dir.path().join("absent"), &here]).unwrap(), here);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let failure: Failure = Config::load(&dir.path().join("absent.toml")).unwrap_err().into();
    assert!(failure.kind == Kind::Usage && failure.object.ends_with("absent.toml"), "{failure}");
    let binary = dir.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    assert!(Config::load(&binary).is_err());
}

/// Recipients of nobody in particular.
const PEOPLE: [&str; 3] = [
    "age10gzcs9leg757x2phm6gaa3wnt5nkars4lew9lr6eawt4kscq8s9q5yzxqm",
    "age186nd2f3atem23jq0uangmy0a068skg08szlusdlgjllndvszpqps56nm68",
    "age1lcme3aztqw2zh4pdv63acum8ypu4g325z4a8qme7mynujfkdx4nq3vxtej",
];

fn custody(stores: &str, groups: &str) -> String {
    let [a, b, c] = PEOPLE;
    let people = format!("alice = \"{a}\"\nbob = \"{b}\"\ncarol = \"{c}\"\n");
    small_with(&format!("{stores}[keys.custody]\n{groups}\n[keys.custody.custodians]\n{people}"))
}

fn keys_store(name: &str, path: &str) -> String {
    format!("[keys.stores.{name}]\nkind = \"local\"\npath = \"{path}\"\n")
}

#[test]
fn custody_is_an_explicit_list_of_groups_however_it_is_written() {
    let stores = keys_store("one", "a") + &keys_store("two", "b");
    let keys = parse(&custody(&stores, "threshold = 2")).unwrap().keys;
    let listed = parse(&custody(&stores, "allowed = [[\"bob\", \"alice\"], [\"alice\", \"carol\"]]")).unwrap().keys;
    let groups = |keys: &Keys| -> Vec<String> {
        keys.custody.as_ref().unwrap().allowed.iter().map(|group| group.join("+")).collect()
    };
    assert_eq!(groups(&keys), ["alice+bob", "alice+carol", "bob+carol"]);
    assert_eq!(groups(&listed), ["alice+bob", "alice+carol"]);
    assert_eq!((keys.stores.len(), keys.lock), (2, SignedDuration::from_hours(24 * 30)));
}

#[test]
fn a_list_of_groups_that_nobody_can_read_is_refused_however_it_is_written() {
    let people: String =
        (0..9).map(|n| format!("c{n} = \"{}\"\n", age::x25519::Identity::generate().to_public())).collect();
    let group = |mask: u32| {
        let names = (0..9).filter(|n| mask & (1 << n) != 0).map(|n| format!("\"c{n}\""));
        format!("[{}]", names.collect::<Vec<_>>().join(", "))
    };
    let of = |groups: u32| {
        let listed: Vec<String> = (1..=groups).map(group).collect();
        let custody = format!("[keys.custody]\nallowed = [{}]\n[keys.custody.custodians]\n", listed.join(", "));
        small_with(&(keys_store("one", "a") + &keys_store("two", "b") + &custody + &people))
    };
    parse(&of(256)).unwrap();
    assert!(wrong(&of(257)).contains("more than 256 groups"));
}

#[test]
fn custody_that_protects_nobody_is_refused() {
    let stores = keys_store("one", "a") + &keys_store("two", "b");
    for (text, said) in [
        (custody(&stores, ""), "who is enough together"),
        (custody(&stores, "threshold = 4"), "there are 3 custodians"),
        (custody(&stores, "threshold = 2\nallowed = [[\"bob\"]]"), "give one of the two"),
        (custody(&stores, "allowed = [[\"bob\", \"alice\"]]"), "'carol' is in no allowed group"),
        (custody(&stores, "allowed = [[\"bob\", \"mallory\"]]"), "no custodian 'mallory'"),
        (custody(&stores, "allowed = [[\"bob\", \"bob\"]]"), "names somebody twice"),
        (custody(&stores, "threshold = 2").replace(PEOPLE[1], PEOPLE[0]), "one person, not two"),
        (custody(&stores, "threshold = 2").replace(PEOPLE[1], "AGE-SECRET-KEY-1X"), "is not an age recipient"),
        (custody("", "threshold = 2"), "needs two [keys.stores.NAME]"),
        (custody(&keys_store("one", "a"), "threshold = 2"), "there must be two"),
        (custody(&(keys_store("one", "a") + &keys_store("two", "a")), "threshold = 2"), "the same place"),
        (small_with(&stores), "need [keys.custody]"),
    ] {
        let problems = wrong(&text);
        assert!(problems.contains(said) && !problems.contains("SECRET"), "{said}: {problems}");
    }
}

#[test]
fn debug_shows_where_secrets_lie_and_no_values() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pg.pass"), "hunter2").unwrap();
    let text = SMALL.replace("user = \"backup\"", "user = \"backup\"\npassword = { file = \"pg.pass\" }");
    let config = Config::parse(&text, &dir.path().join("lifeboat.toml")).unwrap();
    let said = format!("{config:?}");
    assert!(said.contains("pg.pass") && !said.contains("hunter2"), "{said}");
}

const MANUAL: &str = include_str!("../../docs/CONFIG.md");

fn example() -> &'static str {
    let (_, rest) = MANUAL.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn the_example_of_the_manual_parses() {
    let config = parse(example()).unwrap();
    assert_eq!(config.estate.timezone_name, "Europe/Berlin");
    assert!(config.drill.odoo.is_some() && !config.tenants["acme"].signin.is_empty());
}

/// The readers are the only list of keys: asking every table for a key it does not have makes them say theirs.
#[test]
fn the_manual_names_every_key_and_the_example_shows_it() {
    let mut asked: String = "zzzzzzzz = 1\n".to_owned();
    for line in example().lines() {
        let line = line.replace("{ file =", "{ zzzzzzzz = 1, file =");
        asked += &format!("{line}\n");
        // Tables whose keys are names of the user's choosing.
        let names = ["[retention.classes]", "[keys.custody.custodians]"];
        if line.starts_with('[') && !names.contains(&line.as_str()) {
            asked += "zzzzzzzz = 1\n";
        }
    }
    let said = wrong(&asked);
    let keys: BTreeSet<&str> =
        said.lines().flat_map(|line| line.split_once("there is: ").unwrap().1.split(", ")).collect();
    assert!(keys.len() > 50, "{keys:?}");
    for key in keys {
        assert!(MANUAL.contains(&format!("`{key}`")) || MANUAL.contains(&format!("`[{key}")), "{key} is not described");
        if key == "ref" {
            continue; // not read by this version, so the example must not offer it
        }
        let shown = [format!("{key} ="), format!("[{key}"), format!(".{key}]"), format!(".{key}.")];
        assert!(shown.iter().any(|text| example().contains(text)), "{key} is not in the example");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_damaged_configuration_makes_it_panic_or_names_a_line_that_is_not_there(
        at in 0_usize..1000, replacement in "\\PC{0,3}", cut in 0_usize..5,
    ) {
        let mut text = example().to_owned();
        let at = text.char_indices().map(|(at, _)| at).nth(at).unwrap_or(text.len());
        let end = text[at..].char_indices().map(|(more, _)| at + more).nth(cut).unwrap_or(text.len());
        text.replace_range(at..end, &replacement);
        if let Err(ConfigErrors::Wrong { problems, .. }) = parse(&text) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(problem.line >= 1 && problem.line <= text.lines().count().max(1) + 1);
            }
        }
    }
}

#[test]
fn copies_are_stores_of_their_own_and_none_is_called_primary() {
    let config = parse(&small_with(
        "[copies.drawer]\nkind = \"local\"\npath = \"d\"\n[copies.offsite]\nkind = \"s3\"\nbucket = \"other\"\nprofile = \"copier\"\n",
    ))
    .unwrap();
    assert_eq!(config.copies["drawer"], StoreConfig::Local { path: "/etc/shop/d".into() });
    assert!(matches!(config.copy("offsite").unwrap(), StoreConfig::S3(bucket) if bucket.bucket == "other"));
    let unknown = config.copy("drawr").unwrap_err();
    assert!(unknown.cause.contains("did you mean 'drawer'") && unknown.next.contains("[copies.drawr]"), "{unknown:?}");
    let said = wrong_after("[copies.primary]\nkind = \"local\"\npath = \"d\"\n[copies.\"../x\"]\nkind = \"moon\"\n");
    assert!(said.contains("choose another name") && said.contains("copies.../x"), "{said}");
}
