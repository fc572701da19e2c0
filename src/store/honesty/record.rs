//! What the last drill of a store came to, on this machine: `<folder>/<hash of the store's place>.json`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Outcome, Trial};
use crate::failure::{self, Failure, Kind};
use crate::ids::Digest;

/// The one format there is.
const FORMAT: u32 = 1;

/// A drill that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// The store's, as [`crate::store::Store::place`] says it.
    pub place: String,
    pub time: Timestamp,
    pub trials: Vec<Trial>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{}: the store's last drill cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: is not the record of a drill of {place}", path.display())]
    Malformed { path: PathBuf, place: String },
    #[error("{}: the drill cannot be recorded", path.display())]
    Unwritten {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        let (path, next) = match &error {
            RecordError::Unreadable { path, .. } | RecordError::Malformed { path, .. } => {
                (path, "run `lifeboat doctor --attack`, which writes it anew")
            }
            RecordError::Unwritten { path, .. } => (path, "check state_dir and who may write there"),
        };
        let object = path.display().to_string();
        let cause = failure::chain(&error);
        let cause = cause.strip_prefix(&format!("{object}: ")).unwrap_or(&cause).to_owned();
        Self::new(Kind::Failed, object, cause, next)
    }
}

impl Record {
    #[must_use]
    pub fn new(place: String, time: Timestamp, trials: Vec<Trial>) -> Self {
        Self { format: FORMAT, place, time, trials }
    }

    /// The trials that the store failed.
    pub fn lies(&self) -> impl Iterator<Item = &Trial> {
        self.trials.iter().filter(|trial| trial.outcome == Outcome::Lied)
    }

    /// Where the record of the store at `place` lies.
    #[must_use]
    pub fn path(folder: &Path, place: &str) -> PathBuf {
        let hash = Digest::of(place.as_bytes()).to_string();
        folder.join(format!("{}.json", &hash[..32]))
    }

    /// The last drill of the store at `place`; `None` when there was none.
    ///
    /// # Errors
    /// `Unreadable`, `Malformed`.
    pub fn read(folder: &Path, place: &str) -> Result<Option<Self>, RecordError> {
        let path = Self::path(folder, place);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RecordError::Unreadable { path, source }),
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(record) if record.format == FORMAT && record.place == place => Ok(Some(record)),
            _ => Err(RecordError::Malformed { path, place: place.to_owned() }),
        }
    }

    /// Puts it in the place of the one before, whole or not at all.
    ///
    /// # Errors
    /// `Unwritten`.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, RecordError> {
        let path = Self::path(folder, &self.place);
        let write = || {
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|source| RecordError::Unwritten { path: path.clone(), source })?;
        Ok(path)
    }
}
