//! What is wrong with a `lifeboat.toml`: everything at once, each with its line, its key and what to write instead.
//!
//! A message never repeats a value that could be a secret: keys are named, values only where they are names,
//! durations or sizes.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Kind, chain};

/// One thing that is wrong, in one line of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Counted from 1.
    pub line: usize,
    /// The key with its tables: `tenants.acme.cluster`; empty for a mistake in the TOML itself.
    pub key: String,
    /// Lower case, no final stop.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigErrors {
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file was read to its end; `problems` is not empty and in the order of lines.
    #[error("{}: {}", path.display(), list(problems))]
    Wrong { path: PathBuf, problems: Vec<Problem> },
}

fn list(problems: &[Problem]) -> String {
    match problems {
        [one] => one.to_string(),
        many => {
            let lines: String = many.iter().map(|problem| format!("\n  {problem}")).collect();
            format!("{} things are wrong{lines}", many.len())
        }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        match errors {
            ConfigErrors::Unreadable { path, source } => Self::new(
                Kind::Usage,
                path.display().to_string(),
                format!("cannot be read: {source}"),
                "name the configuration with --config, or write one with `lifeboat init`",
            ),
            ConfigErrors::Wrong { path, problems } => Self::new(
                Kind::Usage,
                path.display().to_string(),
                list(&problems),
                "correct the lines named; `docs/CONFIG.md` lists every key",
            ),
        }
    }
}

/// A secret that the configuration points at and that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: the secret cannot be read", path.display())]
    SecretUnreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: the secret is open to everybody on this machine (mode {mode:04o})", path.display())]
    SecretOpen { path: PathBuf, mode: u32 },
    #[error("{place}: {what}")]
    SecretUnusable { place: String, what: &'static str },
    #[error("{name}: the environment variable that holds the secret is not set")]
    SecretNotSet { name: String },
    #[error("{reference}: secret references are not supported by this version")]
    SecretReference { reference: String },
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let (object, next) = match &error {
            ConfigError::SecretUnreadable { path, .. } => {
                (shown(path), "check that the file exists and that this user may read it".to_owned())
            }
            ConfigError::SecretOpen { path, .. } => (shown(path), format!("run `chmod o= {}`", path.display())),
            ConfigError::SecretUnusable { place, .. } => {
                (place.clone(), "put the secret there as one line of text".to_owned())
            }
            ConfigError::SecretNotSet { name } => {
                (name.clone(), format!("set {name}, or keep the secret in a file: {{ file = \"...\" }}"))
            }
            ConfigError::SecretReference { reference } => {
                (reference.clone(), "use { file = \"...\" } or { env = \"...\" }".to_owned())
            }
        };
        let line = chain(&error);
        let cause = line.strip_prefix(&format!("{object}: ")).unwrap_or(&line).to_owned();
        Self::new(Kind::Usage, object, cause, next)
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
