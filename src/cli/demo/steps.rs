//! The demo's steps: this same program, run as a user would, each command shown before its output.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::cluster::DemoCluster;
use super::odoo::TENANTS;
use crate::failure::{Failure, Kind};

pub struct Steps {
    program: PathBuf,
    folder: PathBuf,
    shown: bool,
}

/// A command in the background; told to stop when dropped.
pub struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return; // its number may be another's by now
        }
        let id = rustix::process::Pid::from_child(&self.0);
        // It drains and ends; one that does not is not waited for longer than its drain takes.
        let _told = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        for _ in 0..200 {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[allow(clippy::print_stdout)] // the tour is told as it happens
impl Steps {
    /// # Errors
    /// When this program does not know where it is.
    pub fn new(folder: &Path, shown: bool) -> Result<Self, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::new(Kind::Failed, "lifeboat", error.to_string(), "start it by its full path"))?;
        Ok(Self { program, folder: folder.to_owned(), shown })
    }

    pub fn say(&self, text: &str) {
        if self.shown {
            println!("\n== {text}");
        }
    }

    pub fn note(&self, text: &str) {
        if self.shown {
            println!("   {text}");
        }
    }

    /// Writes the configuration that the tour uses.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, cluster: &DemoCluster) -> Result<(), Failure> {
        let mut text = format!(
            "state_dir = \"state\"\n\n[estate]\nname = \"demo\"\n\n[store]\nkind = \"local\"\npath = \"store\"\n\n\
             [keys]\nwriter = \"keys/writer.json\"\nidentities = \"keys/identities\"\nsigners = \"keys/signers\"\n\n\
             [clusters.main]\nhost = {:?}\nuser = \"postgres\"\n",
            cluster.sockets().to_string_lossy()
        );
        for tenant in TENANTS {
            text += &format!(
                "\n[tenants.{tenant}]\ncluster = \"main\"\ndatabases = [\"{tenant}\"]\nfilestore = \"cluster/odoo/filestore\"\nrpo = \"5m\"\n"
            );
        }
        let store = self.folder.join("store");
        std::fs::create_dir_all(&store).and_then(|()| std::fs::write(self.config(), text)).map_err(|error| {
            Failure::new(
                Kind::Failed,
                self.config().display().to_string(),
                error.to_string(),
                "check the folder's rights",
            )
        })
    }

    fn config(&self) -> PathBuf {
        self.folder.join("lifeboat.toml")
    }

    fn command(&self, words: &[&str], json: bool) -> Command {
        if self.shown {
            println!("$ lifeboat {}", words.join(" "));
        }
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.config()).current_dir(&self.folder).stdin(Stdio::null());
        if json {
            command.arg("--json");
        }
        command.args(words);
        command
    }

    /// Runs a command to its end; what it prints is shown. Warnings are fine.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, words: &[&str]) -> Result<(), Failure> {
        let done = self.command(words, false).output().map_err(|error| self.not_run(words, &error.to_string()))?;
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        if self.shown {
            print!("{out}{err}");
        }
        match done.status.code() {
            Some(0 | 3) => Ok(()),
            _ => Err(self.not_run(words, err.trim())),
        }
    }

    /// Starts a command that goes on.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, words: &[&str]) -> Result<Background, Failure> {
        let log = std::fs::File::create(self.folder.join("stream.log"))
            .map_err(|error| self.not_run(words, &error.to_string()))?;
        let mut command = self.command(words, false);
        command.stdout(Stdio::null()).stderr(log);
        command.spawn().map(Background).map_err(|error| self.not_run(words, &error.to_string()))
    }

    /// Runs the drill; gives its JSON. A verdict below what was asked is a result here, not a failure.
    ///
    /// # Errors
    /// When there is no verdict.
    pub fn drill(&self, tenant: &str) -> Result<Value, Failure> {
        let words = ["drill", tenant];
        let done = self.command(&words, true).output().map_err(|error| self.not_run(&words, &error.to_string()))?;
        let told: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
        if told.get("verdict").is_none() {
            return Err(self.not_run(&words, String::from_utf8_lossy(&done.stderr).trim()));
        }
        if self.shown {
            for probe in told.get("probes").and_then(Value::as_array).into_iter().flatten() {
                let field = |name: &str| probe.get(name).and_then(Value::as_str).unwrap_or_default();
                println!("   {:<9} {:<28} {}", field("outcome"), field("id"), field("detail"));
            }
        }
        Ok(told)
    }

    fn not_run(&self, words: &[&str], cause: &str) -> Failure {
        let object = format!("lifeboat {}", words.join(" "));
        Failure::new(Kind::Failed, object, cause.to_owned(), "see the demo's folder (--dir DIR --keep)")
    }
}
