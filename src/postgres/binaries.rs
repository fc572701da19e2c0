//! The server's own programs, per major version.
//!
//! Looked for in this order: the configured folders, where Debian and Red Hat put them, `/opt`, then `PATH`. A folder
//! counts when its `postgres` says the wanted major (`postgres --version`): a path alone proves nothing. Nothing here
//! starts a server.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Kind};

/// Where the programs of one major version are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    pub major: u32,
    pub folder: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    #[error("no PostgreSQL {major} server programs, looked in {}", .looked_in.join(", "))]
    NotFound { major: u32, looked_in: Vec<String> },
    #[error("{program} is not in {}", .folder.display())]
    NoProgram { program: &'static str, major: u32, folder: PathBuf },
}

impl From<BinariesError> for Failure {
    fn from(error: BinariesError) -> Self {
        let cause = error.to_string();
        let (major, package) = match error {
            BinariesError::NotFound { major, .. } | BinariesError::NoProgram { major, program: "postgres", .. } => {
                (major, format!("postgresql-{major} (Debian) or postgresql{major}-server (Red Hat)"))
            }
            BinariesError::NoProgram { major, .. } => {
                (major, format!("postgresql-{major} (Debian) or postgresql{major}-contrib (Red Hat)"))
            }
        };
        let next = format!("install {package}, or name its folder in lifeboat.toml");
        Self::new(Kind::Failed, format!("PostgreSQL {major}"), cause, next)
    }
}

impl Binaries {
    /// Finds the programs of `major`; `configured` folders come first, `path` is the value of `PATH`.
    ///
    /// # Errors
    /// When no folder has them; the error lists where was looked.
    pub fn find(major: u32, configured: &[PathBuf], path: &str) -> Result<Self, BinariesError> {
        let usual = ["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/opt/postgresql/{}/bin", "/opt/pgsql-{}/bin"];
        let usual = usual.iter().map(|pattern| PathBuf::from(pattern.replace("{}", &major.to_string())));
        let on_path = path.split(':').filter(|folder| folder.starts_with('/')).map(PathBuf::from);
        let folders: Vec<PathBuf> = configured.iter().cloned().chain(usual).chain(on_path).collect();
        match folders.iter().find(|folder| major_in(folder) == Some(major)) {
            Some(folder) => Ok(Self { major, folder: folder.clone() }),
            None => {
                let looked_in = folders.iter().map(|folder| folder.display().to_string()).collect();
                Err(BinariesError::NotFound { major, looked_in })
            }
        }
    }

    /// The path of one program, such as `pg_dump`.
    ///
    /// # Errors
    /// When the folder lacks it (contrib programs come in a package of their own on some systems).
    pub fn program(&self, program: &'static str) -> Result<PathBuf, BinariesError> {
        let path = self.folder.join(program);
        if path.is_file() {
            return Ok(path);
        }
        Err(BinariesError::NoProgram { program, major: self.major, folder: self.folder.clone() })
    }
}

/// The major version of the server in `folder`: the first number of `postgres (PostgreSQL) 15.18 (Debian ...)`.
fn major_in(folder: &Path) -> Option<u32> {
    let postgres = folder.join("postgres");
    if !postgres.is_file() {
        return None;
    }
    let output = Command::new(postgres).arg("--version").env_clear().output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.strip_prefix("postgres (PostgreSQL) ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_installed_major_is_found_and_has_its_programs() {
        let binaries = Binaries::find(15, &[PathBuf::from("/nonexistent")], "").unwrap();
        assert_eq!(binaries.folder, Path::new("/usr/lib/postgresql/15/bin"));
        for program in ["postgres", "pg_ctl", "pg_dump", "pg_amcheck", "pg_controldata"] {
            binaries.program(program).unwrap();
        }
    }

    #[test]
    fn a_folder_of_another_major_does_not_count_and_the_package_is_named() {
        let configured = [PathBuf::from("/usr/lib/postgresql/15/bin")];
        let failure = Failure::from(Binaries::find(14, &configured, "relative:/usr/bin").unwrap_err());
        assert_eq!(failure.object, "PostgreSQL 14");
        assert!(failure.next.contains("postgresql-14"), "{}", failure.next);
        assert!(failure.cause.contains("/usr/lib/postgresql/14/bin"), "{}", failure.cause);
        assert!(!failure.cause.contains("relative"));
    }
}
