//! The good S3 server: Ceph's gateway, which keeps every lock.
//!
//! `scripts/rgw.sh` runs one for all tests of all processes, and stops it when nobody holds its `users` file any more;
//! the kernel lets go for a test that is killed. Each test has buckets and users of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use super::s3::{self, Keys};

pub struct Rgw {
    /// Plain HTTP.
    pub endpoint: String,
    /// The same over TLS, with a certificate that `ca_file` signed.
    pub tls_endpoint: String,
    pub ca_file: PathBuf,
    /// May do everything in the buckets that this test made.
    pub keys: Keys,
    /// Whether it is RGW 20: create-only puts and locks of multipart uploads are kept. The older one, of bookworm, keeps
    /// neither.
    pub recent: bool,
    _user: File,
}

impl Rgw {
    /// The running server; `None` where Ceph is not installed, which is said.
    pub fn get(test: &str) -> Option<Self> {
        if !super::cache().join("ceph/release").is_file() {
            super::skip(test, "Ceph is not installed (scripts/ceph.sh)");
            return None;
        }
        loop {
            let address = up();
            let user = File::options().append(true).create(true).open(&address["users"]).expect("the users file");
            flock(&user, FlockOperation::LockShared).expect("a shared lock");
            // Between its start and our lock it may have been stopped, as nobody's.
            if address == up() {
                let text = |name: &str| address[name].clone();
                let keys =
                    Keys { user: "admin".to_owned(), access_key: text("access_key"), secret_key: text("secret_key") };
                return Some(Self {
                    endpoint: text("endpoint"),
                    tls_endpoint: text("tls_endpoint"),
                    ca_file: text("ca_file").into(),
                    keys,
                    recent: address["release"] == "forky",
                    _user: user,
                });
            }
        }
    }

    /// A client of the owner.
    pub fn client(&self) -> aws_sdk_s3::Client {
        s3::client(&self.endpoint, &self.keys)
    }

    /// A fresh bucket with versions and Object Lock.
    pub fn bucket(&self) -> String {
        s3::fresh_bucket(&self.client(), true)
    }

    /// A new user who may do nothing until a bucket's policy names him ([`s3::set_policy`]).
    pub fn user(&self) -> Keys {
        let user = format!("u{}", hex::encode(super::random(6)));
        let keys = Keys {
            access_key: hex::encode(super::random(10)),
            secret_key: hex::encode(super::random(16)),
            user: user.clone(),
        };
        let secret = format!("--secret-key={}", keys.secret_key);
        let arguments = ["admin", "user", "create", &format!("--uid={user}"), &format!("--display-name={user}")];
        script(&[&arguments[..], &[&format!("--access-key={}", keys.access_key), &secret]].concat());
        keys
    }
}

fn up() -> BTreeMap<String, String> {
    let said = script(&["up"]);
    said.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn script(arguments: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rgw.sh");
    let mut command = Command::new(path);
    command.args(arguments).env("LIFEBOAT_CACHE", super::cache()).stdin(Stdio::null());
    super::process::run(&mut command)
}
