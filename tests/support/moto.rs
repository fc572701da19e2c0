//! The bad S3 server: moto, which takes every lock and keeps few of them.
//!
//! Each test that wants it has one of its own, stopped when dropped.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::process::Owned;
use super::s3::{self, Keys};

const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Moto {
    pub endpoint: String,
    /// It asks nobody for a signature; any keys do.
    pub keys: Keys,
    _server: Owned,
}

impl Moto {
    /// A fresh server; `None` where moto is not installed, which is said.
    pub fn start(test: &str) -> Option<Self> {
        let home = super::cache().join("moto");
        if !home.join("ready").is_file() {
            super::skip(test, "moto is not installed (scripts/moto.sh)");
            return None;
        }
        let keys = Keys { user: "any".to_owned(), access_key: "any".to_owned(), secret_key: "any".to_owned() };
        let begun = Instant::now();
        loop {
            // Let go of for a moment, the port may become another's: then moto ends, and the next one is tried.
            let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
            let mut command = Command::new(home.join("venv/bin/moto_server"));
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut server = Owned::spawn(&mut command);
            while matches!(server.0.try_wait(), Ok(None)) {
                assert!(begun.elapsed() < START_LIMIT, "moto does not start");
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() && matches!(server.0.try_wait(), Ok(None))
                {
                    return Some(Self { endpoint: format!("http://127.0.0.1:{port}"), keys, _server: server });
                }
                sleep(Duration::from_millis(50));
            }
        }
    }

    pub fn client(&self) -> aws_sdk_s3::Client {
        s3::client(&self.endpoint, &self.keys)
    }

    /// A fresh bucket with versions and, as moto says, Object Lock.
    pub fn bucket(&self) -> String {
        s3::fresh_bucket(&self.client(), true)
    }
}
