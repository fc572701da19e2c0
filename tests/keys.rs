//! Keys as their custodians meet them: the real binary, real `age`, real `ssh-keygen`, two keys stores, and no server.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// An estate with two tenants, three custodians and an eraser; nothing in it is ever connected to.
struct House {
    dir: tempfile::TempDir,
}

struct Ran {
    code: i32,
    json: Value,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{:#}\n{}", self.json, self.stderr);
        self
    }
}

const CUSTODIANS: [&str; 4] = ["alice", "bob", "carol", "dave"];

impl House {
    /// With `lock` for key files; `[keys.custody]` says two of alice, bob and carol.
    fn new(lock: &str) -> Self {
        let house = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["store", "one", "two", "people"] {
            std::fs::create_dir(house.at(folder)).unwrap();
        }
        for name in CUSTODIANS {
            let made = Command::new("age-keygen").arg("-o").arg(house.key(name)).output().unwrap();
            assert!(made.status.success(), "{made:?}");
        }
        for name in ["eraser", "holder", "stranger"] {
            let mut keygen = Command::new("ssh-keygen");
            let made = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(house.at(&format!("people/{name}")));
            assert!(made.status().unwrap().success());
        }
        house.configure(lock, &["alice", "bob", "carol"], "threshold = 2", "");
        house
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn key(&self, name: &str) -> PathBuf {
        self.at(&format!("people/{name}.key"))
    }

    fn public(&self, name: &str) -> String {
        let out = Command::new("age-keygen").arg("-y").arg(self.key(name)).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    fn configure(&self, lock: &str, custodians: &[&str], groups: &str, keys: &str) {
        let named: String = custodians.iter().map(|name| format!("{name} = \"{}\"\n", self.public(name))).collect();
        let text = format!(
            "state_dir = \"state\"\n[estate]\nname = \"test\"\n[store]\nkind = \"local\"\npath = \"store\"\n\
             [keys]\nwriter = \"writer.json\"\nidentities = \"identities\"\nsigners = \"signers\"\nlock = \"{lock}\"\n\
             eraser = \"people/eraser\"\n{keys}\n\
             [keys.stores.one]\nkind = \"local\"\npath = \"one\"\n[keys.stores.two]\nkind = \"local\"\npath = \"two\"\n\
             [keys.custody]\n{groups}\n[keys.custody.custodians]\n{named}\
             [clusters.main]\nhost = \"/nowhere\"\nuser = \"backup\"\n\
             [tenants.acme]\ncluster = \"main\"\ndatabases = [\"acme\"]\ndrill_host = true\n\
             [tenants.globex]\ncluster = \"main\"\ndatabases = [\"globex\"]\n\
             [retention]\npitr = \"2s\"\nslack = \"0s\"\n[retention.classes]\ndaily = \"2s\"\nweekly = \"2s\"\nmonthly = \"2s\"\nyearly = \"2s\"\n"
        );
        std::fs::write(self.at("lifeboat.toml"), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.current_dir(self.dir.path()).env_remove("LIFEBOAT_CONFIG").stdin(Stdio::null());
        command.args(["--config", "lifeboat.toml", "--json"]).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        let output: Output = self.command(args).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let json: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout:?}"));
        let code = output.status.code().unwrap();
        assert_eq!(json["exit_code"], code);
        Ran { code, json, stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// Opens a scope's key with these custodians.
    fn open(&self, scope: &str, names: &[&str], out: &str) -> Ran {
        let keys: Vec<String> = names.iter().map(|name| self.key(name).display().to_string()).collect();
        let mut args = vec!["key", "open", scope, "--out", out];
        keys.iter().for_each(|key| args.extend(["--with", key]));
        self.run(&args)
    }

    /// Lets the eraser erase.
    fn trust_the_eraser(&self) {
        let key = std::fs::read_to_string(self.at("people/eraser.pub")).unwrap();
        let line = format!("eraser namespaces=\"lifeboat-erasure\" {key}");
        let signers = std::fs::read_to_string(self.at("signers")).unwrap();
        std::fs::write(self.at("signers"), signers + &line).unwrap();
    }

    /// Every file below `folder`, by its path, but locks.
    fn files(&self, folder: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.at(folder)];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next).into_iter().flatten() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.at(folder)).unwrap().display().to_string();
                match path.is_dir() {
                    true if name != "@locks" => folders.push(path),
                    true => {}
                    false => drop(found.insert(name)),
                }
            }
        }
        found
    }
}

fn scope<'a>(list: &'a Value, name: &str) -> &'a Value {
    list["scopes"].as_array().unwrap().iter().find(|scope| scope["scope"] == name).unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn init_puts_every_key_into_both_stores_and_none_on_this_machine() {
    let house = House::new("30d");
    house.run(&["init", "--spares", "1"]).expect(0);
    assert!(!house.at("identities").exists(), "nothing that opens lies here");
    assert_eq!((house.files("one"), mode(&house.at("writer.json"))), (house.files("two"), 0o600));
    let files = house.files("one");
    for name in ["tenant/acme/1.age", "tenant/globex/1.age", "cluster/main/1.age", "estate/1.age", "spare/1/1.age"] {
        assert!(files.contains(name), "{name} in {files:?}");
    }
    for name in ["alice.bob", "alice.carol", "bob.carol"] {
        assert!(files.contains(&format!("custody/1/{name}.age")), "{name} in {files:?}");
    }
    // Nobody has proved his key yet: that is said, and nothing else is wrong.
    let list = house.run(&["key", "list"]).expect(3);
    let acme = scope(&list.json, "tenant/acme");
    assert_eq!(
        (&acme["kept"]["one"][0], &acme["kept"]["two"][0], &acme["opens"]),
        (&1.into(), &1.into(), &false.into())
    );
    let objects: Vec<&str> =
        list.json["findings"].as_array().unwrap().iter().map(|finding| finding["object"].as_str().unwrap()).collect();
    assert_eq!(objects, ["custodian alice", "custodian bob", "custodian carol"]);
    house.run(&["key", "new", "tenant/acme"]).expect(2);
}

#[test]
fn where_a_keys_store_was_lost_no_key_is_made_until_the_stores_are_mended_under_the_pinned_custody_key() {
    let house = House::new("30d");
    house.run(&["init", "--spares", "0"]).expect(0);
    let (files, bundle) = (house.files("one"), std::fs::read(house.at("writer.json")).unwrap());
    let list = house.run(&["key", "list"]).expect(3);
    let pin = format!("recipient = \"{}\"", list.json["keys"]["custody"]["recipient"].as_str().unwrap());
    std::fs::remove_dir_all(house.at("two")).unwrap();
    std::fs::create_dir(house.at("two")).unwrap();
    for command in [&["key", "rotate", "tenant/acme"][..], &["key", "split"]] {
        let refused = house.run(command).expect(6);
        assert!(refused.json["error"]["next"].as_str().unwrap().contains("--mend"), "{:#}", refused.json);
    }
    assert_eq!((house.files("one"), std::fs::read(house.at("writer.json")).unwrap()), (files.clone(), bundle));
    let said = |ran: &Ran, word: &str| ran.json["findings"].to_string().contains(word);
    assert!(said(&house.run(&["key", "list"]).expect(3), "there are sealed keys"));
    assert!(said(&house.run(&["key", "renew", "--mend"]).expect(3), "[keys.custody] recipient"));
    house.configure("30d", &["alice", "bob", "carol"], &format!("threshold = 2\n{pin}"), "");
    house.run(&["key", "renew", "--mend"]).expect(0);
    assert_eq!(house.files("two"), files);
    house.run(&["key", "rotate", "tenant/acme"]).expect(0);
}

#[test]
fn a_quorum_opens_a_key_and_fewer_do_not_and_nothing_shows_it() {
    let house = House::new("30d");
    house.run(&["init", "--spares", "0"]).expect(0);
    let refused = house.open("tenant/acme", &["bob"], "acme.key").expect(5);
    assert!(refused.json["error"]["cause"].as_str().unwrap().contains("alice and bob"), "{:#}", refused.json);
    assert!(!house.at("acme.key").exists());
    house.open("tenant/acme", &["bob", "dave"], "acme.key").expect(5);
    let keys = ["carol", "bob"].map(|name| house.key(name).display().to_string());
    let opened =
        house.run(&["-vv", "key", "open", "tenant/acme", "--out", "acme.key", "--with", &keys[0], "--with", &keys[1]]);
    let opened = opened.expect(0);
    assert_eq!(mode(&house.at("acme.key")), 0o600);
    let secret = std::fs::read_to_string(house.at("acme.key")).unwrap();
    let secret = secret.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap();
    let said = format!("{}{}", opened.json, opened.stderr);
    assert!(!said.contains("AGE-SECRET-KEY") && !said.contains(&secret[20..]), "{said}");
    // It is the key that the bundle seals to.
    let bundle: Value = serde_json::from_slice(&std::fs::read(house.at("writer.json")).unwrap()).unwrap();
    assert_eq!(bundle["scopes"]["tenant/acme"]["recipient"], opened.json["opened"][0]["recipient"]);
    // Nothing is overwritten; the same again is no error.
    house.open("tenant/acme", &["alice", "bob"], "acme.key").expect(0);
    house.open("tenant/globex", &["alice", "bob"], "acme.key").expect(2);
    // Without --out it goes where a restore looks.
    house.run(&["key", "open", "tenant/globex", "--with", &keys[0], "--with", &keys[1]]).expect(0);
    assert_eq!(mode(&house.at("identities/tenant/globex/1.age")), 0o600);
}

#[test]
fn an_identity_file_that_everybody_may_read_is_refused() {
    let house = House::new("30d");
    house.run(&["init", "--spares", "0"]).expect(0);
    std::fs::set_permissions(house.key("alice"), std::fs::Permissions::from_mode(0o644)).unwrap();
    house.open("tenant/acme", &["alice", "bob"], "acme.key").expect(2);
}

#[test]
fn a_keys_store_that_is_down_refuses_new_keys_and_the_bundle_stays_as_it_was() {
    let house = House::new("30d");
    std::fs::rename(house.at("two"), house.at("away")).unwrap();
    house.run(&["init", "--spares", "0"]).expect(7);
    assert!(!house.at("writer.json").exists() && house.files("one").is_empty());
    std::fs::rename(house.at("away"), house.at("two")).unwrap();
    house.run(&["init", "--spares", "0"]).expect(0);
    let before = std::fs::read(house.at("writer.json")).unwrap();
    std::fs::rename(house.at("one"), house.at("away")).unwrap();
    house.run(&["key", "rotate", "tenant/acme"]).expect(7);
    assert_eq!(std::fs::read(house.at("writer.json")).unwrap(), before);
    // One store is enough to open.
    let opened = house.open("tenant/acme", &["alice", "bob"], "acme.key").expect(3);
    assert_eq!(opened.json["findings"][0]["object"], "keys store one");
}

#[test]
fn rotation_seals_to_the_next_epoch_and_the_earlier_ones_stay() {
    let house = House::new("30d");
    house.run(&["init", "--spares", "0"]).expect(0);
    let rotated = house.run(&["key", "rotate", "tenant/acme"]).expect(0);
    assert_eq!(rotated.json["rotated"][0]["epoch"], 2);
    let list = house.run(&["key", "list"]).expect(3);
    let acme = scope(&list.json, "tenant/acme");
    assert_eq!((&acme["epoch"], &acme["kept"]["one"]), (&2.into(), &serde_json::json!([1, 2])));
    let keys = ["alice", "bob"].map(|name| house.key(name).display().to_string());
    let opened = house.run(&["key", "open", "tenant/acme", "--with", &keys[0], "--with", &keys[1]]).expect(0);
    assert_eq!(opened.json["opened"].as_array().unwrap().len(), 2);
    house.run(&["key", "rotate", "tenant/nobody"]).expect(2);
}

#[test]
fn identities_from_before_go_under_custody_and_custodians_can_change() {
    let house = House::new("30d");
    // An estate that began without keys stores.
    let whole = std::fs::read_to_string(house.at("lifeboat.toml")).unwrap();
    let (begin, end) = (whole.find("[keys.stores.one]").unwrap(), whole.find("[clusters.main]").unwrap());
    std::fs::write(house.at("lifeboat.toml"), format!("{}{}", &whole[..begin], &whole[end..])).unwrap();
    house.run(&["init", "--spares", "1"]).expect(0);
    std::fs::write(house.at("lifeboat.toml"), whole).unwrap();
    let split = house.run(&["key", "split"]).expect(0);
    assert_eq!((&split.json["custody"], split.json["deposited"].as_array().unwrap().len()), (&1.into(), 7));
    std::fs::remove_dir_all(house.at("identities")).unwrap();
    house.open("tenant/acme", &["alice", "carol"], "first.key").expect(0);
    // Carol leaves, dave comes: nothing new is sealed before the custody key has followed.
    house.configure("30d", &["alice", "bob", "dave"], "allowed = [[\"alice\", \"bob\"], [\"bob\", \"dave\"]]", "");
    house.run(&["key", "rotate", "tenant/acme"]).expect(2);
    house.run(&["key", "split"]).expect(5);
    let keys = ["alice", "bob"].map(|name| house.key(name).display().to_string());
    let split = house.run(&["key", "split", "--with", &keys[0], "--with", &keys[1]]).expect(0);
    assert_eq!(split.json["custody"], 2);
    house.run(&["key", "rotate", "tenant/acme"]).expect(0);
    // Carol and alice still have what opened the first custody key, and nothing that opens what came after.
    house.open("tenant/acme", &["alice", "carol"], "second.key").expect(6);
    house.open("tenant/acme", &["alice", "dave"], "second.key").expect(5);
    house.open("tenant/acme", &["bob", "dave"], "second.key").expect(0);
    house.open("tenant/globex", &["bob", "dave"], "globex.key").expect(0);
}

#[test]
fn a_custodian_proves_his_key_and_status_forgets_his_warning() {
    let house = House::new("30d");
    house.run(&["init", "--spares", "0"]).expect(0);
    house.run(&["key", "prove", "alice", "--out", "challenge.age"]).expect(0);
    let answer = Command::new("age").args(["-d", "-i"]).arg(house.key("alice")).arg(house.at("challenge.age")).output();
    std::fs::write(house.at("answer"), answer.unwrap().stdout).unwrap();
    house.run(&["key", "prove", "bob", "--answer", "answer"]).expect(5);
    house.run(&["key", "prove", "alice", "--answer", "answer"]).expect(0);
    house.run(&["key", "prove", "alice", "--answer", "answer"]).expect(5);
    house.run(&["key", "prove", "mallory", "--out", "x"]).expect(2);
    let list = house.run(&["key", "list"]).expect(3);
    let said = list.json["findings"].to_string();
    assert!(!said.contains("custodian alice") && said.contains("custodian bob"), "{said}");
    assert!(list.json["keys"]["proofs"]["alice"].is_string());
}

#[test]
fn a_shredding_is_typed_twice_signed_by_an_eraser_and_complete_when_the_locks_have_lapsed() {
    // Several runs of the binary, on a busy machine, fit into a lock.
    let house = House::new("8s");
    house.run(&["init", "--spares", "0"]).expect(0);
    house.run(&["key", "shred", "tenant/acme"]).expect(5);
    house.run(&["key", "shred", "tenant/acme", "--yes", "tenant/globex"]).expect(5);
    // Whose line does not say so erases nothing, and leaves nothing behind.
    house.run(&["key", "shred", "tenant/acme", "--yes", "tenant/acme"]).expect(2);
    assert!(house.files("store").is_empty());
    house.trust_the_eraser();
    house.run(&["key", "open", "tenant/acme", "--with", "people/alice.key", "--with", "people/bob.key"]).expect(0);
    std::fs::copy(house.at("identities/tenant/acme/1.age"), house.at("forgotten-copy")).unwrap();
    std::fs::rename(house.at("two"), house.at("away")).unwrap();
    house.run(&["key", "shred", "tenant/acme", "--yes", "tenant/acme"]).expect(7);
    std::fs::rename(house.at("away"), house.at("two")).unwrap();
    assert!(house.files("store").is_empty(), "a store that does not answer is not left out of an erasure");
    house.run(&["key", "renew"]).expect(0);
    let plan = house.run(&["key", "shred", "tenant/acme", "--dry-run"]).expect(0);
    assert_eq!((plan.json["files"].as_array().unwrap().len(), &plan.json["here"]), (2, &serde_json::json!([1])));
    assert!(house.files("store").is_empty(), "a dry run writes nothing");
    let begun = house.run(&["key", "shred", "tenant/acme", "--yes", "tenant/acme"]).expect(3);
    assert_eq!(begun.json["complete"], false, "{:#}", begun.json);
    assert!(!house.at("identities/tenant/acme/1.age").exists());
    let bundle = std::fs::read_to_string(house.at("writer.json")).unwrap();
    let bundle: Value = serde_json::from_str(&bundle).unwrap();
    assert_eq!((&bundle["scopes"]["tenant/acme"], &bundle["erased"]["tenant/acme"]), (&Value::Null, &1.into()));
    // From the request on nobody opens it, also with a copy that was forgotten.
    house.open("tenant/acme", &["alice", "bob"], "again.key").expect(5);
    house.open("tenant/globex", &["alice", "bob"], "globex.key").expect(0);
    // It is renewed no more, and the others are.
    let renewed = house.run(&["key", "renew"]).expect(0);
    assert_eq!(renewed.json["left"], 2);
    std::thread::sleep(Duration::from_millis(8100));
    house.run(&["key", "renew"]).expect(0);
    let done = house.run(&["key", "shred", "--pending"]).expect(0);
    assert!(done.json["findings"].as_array().unwrap().is_empty());
    for store in ["one", "two"] {
        let files = house.files(store);
        assert!(!files.iter().any(|name| name.starts_with("tenant/acme/")), "{files:?}");
        assert!(files.contains("tenant/globex/1.age"));
    }
    let again = house.run(&["key", "shred", "tenant/acme", "--yes", "tenant/acme"]).expect(0);
    assert_eq!(again.json["complete"], true);
    // Begun anew, it is another epoch: what was erased stays erased.
    house.run(&["key", "new", "tenant/acme"]).expect(0);
    let bundle: Value = serde_json::from_slice(&std::fs::read(house.at("writer.json")).unwrap()).unwrap();
    assert_eq!(bundle["scopes"]["tenant/acme"]["epoch"], 2);
    house.open("tenant/acme", &["alice", "bob"], "new.key").expect(0);
    let refused = house.run(&["key", "open", "tenant/acme", "--epoch", "1", "--out", "x", "--with", "people/bob.key"]);
    refused.expect(5);
}

#[test]
fn registered_copies_are_confirmed_by_their_holders_and_by_nobody_else() {
    let house = House::new("1s");
    house.run(&["init", "--spares", "0"]).expect(0);
    house.trust_the_eraser();
    house.open("tenant/acme", &["alice", "bob"], "usb.key").expect(0);
    let register = |name: &str, more: &[&str]| {
        let args = [&["key", "register-copy", "tenant/acme", "--name", name, "--holder", "somebody"], more].concat();
        house.run(&args)
    };
    register("safe", &["--signer", "people/holder.pub"]).expect(0);
    register("usb", &[]).expect(0);
    register("usb", &[]).expect(1);
    register("Bad Name", &[]).expect(2);
    let begun = house.run(&["key", "shred", "tenant/acme", "--yes", "tenant/acme"]).expect(3);
    assert_eq!(begun.json["erasures"][0]["copies"], serde_json::json!({ "safe": false, "usb": false }));
    let plan = house.run(&["key", "shred", "tenant/acme", "--dry-run"]).expect(0);
    std::fs::write(house.at("words"), plan.json["statements"]["safe"].as_str().unwrap()).unwrap();
    let sign = |key: &str, namespace: &str| {
        let words = std::fs::File::open(house.at("words")).unwrap();
        let mut keygen = Command::new("ssh-keygen");
        let signed = keygen.args(["-q", "-Y", "sign", "-n", namespace, "-f"]).arg(house.at(key)).stdin(words);
        std::fs::write(house.at("sig"), signed.output().unwrap().stdout).unwrap();
    };
    let confirm = |more: &[&str]| house.run(&[&["key", "shred", "tenant/acme", "--confirm"], more].concat());
    for (key, namespace) in [("people/stranger", "lifeboat-copy"), ("people/holder", "file")] {
        sign(key, namespace);
        confirm(&["safe", "--signature", "sig"]).expect(5);
    }
    confirm(&["safe"]).expect(2);
    sign("people/holder", "lifeboat-copy");
    confirm(&["other", "--signature", "sig"]).expect(2);
    confirm(&["safe", "--signature", "sig"]).expect(3);
    // What is not that key is not deleted; what is, is.
    confirm(&["usb", "--file", "people/alice.key"]).expect(2);
    assert!(house.key("alice").exists());
    std::thread::sleep(Duration::from_millis(1100));
    let pending = house.run(&["key", "shred", "--pending"]).expect(3);
    assert!(pending.json["findings"][0]["what"].as_str().unwrap().ends_with("not complete: copy usb"));
    confirm(&["usb", "--file", "usb.key"]).expect(0);
    assert!(!house.at("usb.key").exists());
}

#[test]
fn an_erasure_that_no_eraser_signed_is_reported_and_erases_nothing() {
    let house = House::new("30d");
    house.run(&["init", "--spares", "0"]).expect(0);
    // Somebody who can write to the store, a taken-over writer among them, leaves an entry.
    let other = House::new("30d");
    other.run(&["init", "--spares", "0"]).expect(0);
    other.trust_the_eraser();
    other.run(&["key", "shred", "tenant/acme", "--yes", "tenant/acme"]).expect(3);
    let copied = Command::new("cp").arg("-a").arg(other.at("store/.")).arg(house.at("store")).status().unwrap();
    assert!(copied.success());
    let opened = house.open("tenant/acme", &["alice", "bob"], "acme.key").expect(3);
    assert!(opened.json["findings"][0]["what"].as_str().unwrap().contains("not believed"), "{:#}", opened.json);
    // Altered by a byte, a true one is not believed either.
    house.trust_the_eraser();
    let entry = other.files("store").into_iter().find(|name| name.ends_with(".json")).unwrap();
    let text = std::fs::read_to_string(other.at("store").join(&entry)).unwrap();
    std::fs::write(other.at("store").join(&entry), text.replace("tenant/acme", "tenant/globex")).unwrap();
    let keys = ["alice", "bob"].map(|name| other.key(name).display().to_string());
    let args = ["key", "open", "tenant/globex", "--out", "globex.key", "--with", &keys[0], "--with", &keys[1]];
    other.run(&args).expect(3);
}
