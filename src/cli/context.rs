//! What every command is given besides its arguments.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::terminal::Page;
use crate::clock::Clock;
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::watch::Watch;

/// Cheap to make: nothing is read before it is asked for.
pub struct Context {
    /// What `--config` said.
    pub named: Option<PathBuf>,
    config: OnceLock<Arc<Config>>,
    pub clock: Clock,
    pub watch: Arc<dyn Watch>,
    /// Stdout carries JSON: text is not needed.
    pub json: bool,
    /// `-v`: say more.
    pub verbose: bool,
    /// How tables are to be drawn on stdout.
    pub page: Page,
}

impl Context {
    #[must_use]
    pub fn new(named: Option<PathBuf>, clock: Clock, watch: Arc<dyn Watch>, json: bool, page: Page) -> Self {
        Self { named, config: OnceLock::new(), clock, watch, json, verbose: false, page }
    }

    /// The configuration, read at the first call.
    ///
    /// # Errors
    /// When there is none, or everything that is wrong with it.
    pub fn config(&self) -> Result<Arc<Config>, Failure> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let config = Arc::new(Config::load(&Config::find(self.named.as_deref())?)?);
        Ok(self.config.get_or_init(|| config).clone())
    }

    /// With `--json`: one line of JSON now, before the last one that says how the command ended. For `stream` only:
    /// every other command writes exactly one object.
    ///
    /// # Errors
    /// When nobody reads stdout any more.
    pub fn line(&self, event: Map<String, Value>) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", Value::Object(event)).and_then(|()| stdout.flush()).map_err(|error| {
            Failure::new(Kind::Failed, "stdout", error.to_string(), "read what is written, or leave out --json")
        })
    }

    /// Where `init` writes the configuration: the file named, whether or not it exists, else `./lifeboat.toml`.
    #[must_use]
    pub fn config_to_write(&self) -> PathBuf {
        let variable = std::env::var_os("LIFEBOAT_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
        self.named.clone().or(variable).unwrap_or_else(|| Path::new("lifeboat.toml").to_owned())
    }
}
