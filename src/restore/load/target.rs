//! The administrator's side of a load: a new database that nobody can reach until it is right, and the way back.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sqlx::PgConnection;
use zeroize::Zeroizing;

use super::inspect::{Contents, Verdict};
use super::{Into, entries};
use crate::failure::{Failure, Kind};
use crate::postgres::binaries::Binaries;
use crate::postgres::connect::Server;
use crate::postgres::sql;
use crate::restore::assemble::disk;
use crate::watch::{Watch, warn};

/// A database being made in a running cluster.
pub struct Target {
    server: Server,
    admin: PgConnection,
    pub major: u32,
    database: String,
    made: bool,
    loader: Option<Loader>,
    folder: Option<PathBuf>,
}

/// The role that loads: it belongs to this restore alone and is gone afterwards.
struct Loader {
    role: String,
    password: Zeroizing<String>,
}

impl Target {
    /// Connects, and refuses a name that is taken, and an owner that may not be one.
    ///
    /// # Errors
    /// `Refused` when the database or its filestore folder exists, or the owner named does not or is a superuser; of the
    /// server.
    pub async fn begin(into: &Into<'_>) -> Result<Self, Failure> {
        let server = into.server.clone();
        let mut admin = sql::connect(&server, &server.database).await?;
        let taken = format!("SELECT 1::text FROM pg_database WHERE datname = {}", sql::quoted_text(&into.database));
        let folder = into.filestore.as_ref().map(|parent| parent.join(&into.database));
        let next = "choose another name with --as; nothing is ever overwritten";
        if !sql::text_rows(&mut admin, "the list of databases", &taken).await?.is_empty() {
            let object = format!("database {} on {}", into.database, server.place());
            return Err(Failure::new(Kind::Refused, object, "exists already", next));
        }
        if let Some(folder) = folder.filter(|folder| folder.exists()) {
            return Err(Failure::new(Kind::Refused, folder.display().to_string(), "exists already", next));
        }
        let version =
            sql::value(&mut admin, "the server's version", "SELECT current_setting('server_version_num')").await?;
        let major = version.parse::<u32>().unwrap_or_default() / 10_000;
        let database = into.database.clone();
        let mut target = Self { server, admin, major, database, made: false, loader: None, folder: None };
        // The owner that was there is known only after recovery; one that was named is looked at before.
        if let Some(owner) = &into.owner {
            target.refuse_owner(owner).await?;
        }
        Ok(target)
    }

    /// Makes the empty database as the source's was, closed to everybody, with its extensions.
    ///
    /// # Errors
    /// `Refused` when the owner does not exist or is a superuser; of the server.
    pub async fn create(&mut self, owner: &str, contents: &Contents, verdict: &Verdict) -> Result<(), Failure> {
        self.refuse_owner(owner).await?;
        let name = sql::quoted_name(&self.database);
        let statement = format!(
            "CREATE DATABASE {name} TEMPLATE template0 OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {}",
            sql::quoted_name(owner),
            sql::quoted_text(&contents.encoding),
            sql::quoted_text(&contents.collate),
            sql::quoted_text(&contents.ctype),
        );
        self.run(&statement).await?;
        self.made = true;
        self.run(&format!("REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC")).await?;
        let mut inside = self.connect_new().await?;
        for extension in verdict.extensions.iter().filter(|extension| extension.name != "plpgsql") {
            let schema = sql::quoted_name(&extension.schema);
            let (what, named) = (format!("extension {}", extension.name), sql::quoted_name(&extension.name));
            if extension.schema != "public" && extension.schema != "pg_catalog" {
                let made = format!("CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {}", sql::quoted_name(owner));
                sql::execute(&mut inside, &what, &made).await?;
            }
            sql::execute(&mut inside, &what, &format!("CREATE EXTENSION {named} SCHEMA {schema}")).await?;
        }
        if let Some(schema) = &contents.immutable_unaccent {
            let statement = format!("ALTER FUNCTION {schema}.unaccent(text) IMMUTABLE");
            sql::execute(&mut inside, "function unaccent(text)", &statement).await?;
        }
        self.make_loader(owner).await
    }

    async fn refuse_owner(&mut self, owner: &str) -> Result<(), Failure> {
        let asked = format!("SELECT rolsuper::text FROM pg_roles WHERE rolname = {}", sql::quoted_text(owner));
        let rows = sql::text_rows(&mut self.admin, "the owner's role", &asked).await?;
        let (cause, next) = match rows.first().and_then(|row| row.first()).and_then(|value| value.as_deref()) {
            Some("false") => return Ok(()),
            Some(_) => {
                ("is a superuser: restored data is never loaded as one", "name the tenant's own role with --owner")
            }
            None => ("does not exist in the target cluster", "create the role, or name another with --owner"),
        };
        Err(Failure::new(Kind::Refused, format!("role {owner}"), cause, next))
    }

    async fn make_loader(&mut self, owner: &str) -> Result<(), Failure> {
        let random = || {
            let mut bytes = Zeroizing::new([0; 24]);
            getrandom::fill(&mut *bytes)
                .map_err(|error| Failure::new(Kind::Failed, "random numbers", error.to_string(), "try again"))?;
            Ok::<_, Failure>(Zeroizing::new(hex::encode(*bytes)))
        };
        let (suffix, password) = (random()?, random()?);
        let role = format!("lifeboat_load_{}", suffix.get(..8).unwrap_or_default());
        let statement = Zeroizing::new(format!(
            "CREATE ROLE {role} LOGIN NOINHERIT CONNECTION LIMIT 4 VALID UNTIL 'tomorrow' PASSWORD '{}' IN ROLE {}",
            *password,
            sql::quoted_name(owner)
        ));
        // The statement carries a password: the server must not log it, our errors must not show it.
        self.run("SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET password_encryption = 'scram-sha-256'")
            .await?;
        self.run(&statement).await?;
        let name = sql::quoted_name(&self.database);
        self.loader = Some(Loader { role: role.clone(), password });
        self.run(&format!("GRANT CONNECT, TEMPORARY ON DATABASE {name} TO {role}")).await
    }

    /// Loads the dump as the loader, in one transaction: all of it or nothing.
    ///
    /// # Errors
    /// What `pg_restore` says.
    pub async fn load(&mut self, binaries: &Binaries, dump: &Path, verdict: &Verdict) -> Result<(), Failure> {
        let Some(loader) = &self.loader else {
            return Err(Failure::new(Kind::Failed, "load", "no role was made for it", "report this defect"));
        };
        let program = binaries.program("pg_restore")?;
        let listed = tokio::process::Command::new(&program).arg("--list").arg(dump).output().await;
        let listed = listed.map_err(|error| disk(&program, &error))?;
        if !listed.status.success() {
            return Err(failed("pg_restore --list", &listed.stderr));
        }
        let folder = tempfile::Builder::new().prefix("lifeboat-load-").tempdir().map_err(|error| disk(dump, &error))?;
        let list = folder.path().join("list");
        let text = entries::wanted(&String::from_utf8_lossy(&listed.stdout), verdict);
        std::fs::write(&list, text).map_err(|error| disk(&list, &error))?;
        let pass = folder.path().join("pass");
        write_private(&pass, &pass_line(&loader.role, &loader.password))?;
        let mut command = tokio::process::Command::new(&program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("PGPASSFILE", &pass)
            .env("PGSSLMODE", self.server.sslmode.name())
            .arg("--single-transaction")
            .args([
                "--exit-on-error",
                "--no-owner",
                "--no-privileges",
                "--no-publications",
                "--no-subscriptions",
                "--no-tablespaces",
            ])
            .args(["--no-password", "--role", &self.owner_of_loader().await?])
            .arg("--use-list")
            .arg(&list)
            .args(["--host", &self.server.host, "--port", &self.server.port.to_string()])
            .args(["--username", &self.loader.as_ref().map(|loader| loader.role.clone()).unwrap_or_default()])
            .args(["--dbname", &connection_string(&self.database)])
            .arg(dump)
            .kill_on_drop(true);
        if let Some(ca) = &self.server.ca_file {
            command.env("PGSSLROOTCERT", ca);
        }
        let done = command.output().await.map_err(|error| disk(&program, &error))?;
        if done.status.success() { Ok(()) } else { Err(failed("pg_restore", &done.stderr)) }
    }

    async fn owner_of_loader(&mut self) -> Result<String, Failure> {
        let asked = format!(
            "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = {}",
            sql::quoted_text(&self.database)
        );
        Ok(sql::value(&mut self.admin, "the new database's owner", &asked).await?)
    }

    /// A connection of the administrator's to the new database.
    ///
    /// # Errors
    /// Of the server.
    pub async fn connect_new(&self) -> Result<PgConnection, Failure> {
        Ok(sql::connect(&self.server, &self.database).await?)
    }

    /// Notes a folder that this load is about to make, so that [`Target::undo`] removes it.
    ///
    /// # Errors
    /// `Refused` when it is there already.
    pub fn will_make(&mut self, folder: &Path) -> Result<(), Failure> {
        if folder.exists() {
            let next = "choose another name with --as, or another folder with --filestore-to";
            return Err(Failure::new(Kind::Refused, folder.display().to_string(), "exists already", next));
        }
        self.folder = Some(folder.to_owned());
        Ok(())
    }

    /// Lets the owner in, and takes the loader away.
    ///
    /// # Errors
    /// Of the server.
    pub async fn open(&mut self, owner: &str) -> Result<(), Failure> {
        self.drop_loader().await?;
        let name = sql::quoted_name(&self.database);
        self.run(&format!("GRANT CONNECT, TEMPORARY ON DATABASE {name} TO {}", sql::quoted_name(owner))).await
    }

    async fn drop_loader(&mut self) -> Result<(), Failure> {
        let Some(loader) = self.loader.take() else { return Ok(()) };
        if self.made {
            let name = sql::quoted_name(&self.database);
            self.run(&format!("REVOKE ALL ON DATABASE {name} FROM {}", loader.role)).await?;
        }
        self.run(&format!("DROP ROLE {}", loader.role)).await
    }

    /// Takes everything back: the database, the role, the folder. What cannot be taken back is said.
    pub async fn undo(&mut self, watch: &dyn Watch) {
        if self.made {
            let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", sql::quoted_name(&self.database));
            match self.run(&statement).await {
                Ok(()) => self.made = false,
                Err(failure) => warn(watch, format!("database {}", self.database), failure.cause, "drop it by hand"),
            }
        }
        if let Err(failure) = self.drop_loader().await {
            warn(watch, "the role of this load", failure.cause, "drop the role lifeboat_load_... by hand");
        }
        if let Some(folder) = self.folder.take().filter(|folder| folder.exists())
            && let Err(error) = std::fs::remove_dir_all(&folder)
        {
            warn(watch, folder.display().to_string(), error.to_string(), "remove it by hand");
        }
    }

    async fn run(&mut self, statement: &str) -> Result<(), Failure> {
        Ok(sql::execute(&mut self.admin, &format!("database {}", self.database), statement).await?)
    }
}

/// The database's name as a connection string, whatever letters it has.
fn connection_string(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// One line of a password file (documentation, "The Password File"): any server, any database, this role.
fn pass_line(role: &str, password: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("*:*:*:{role}:{password}\n"))
}

fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| disk(path, &error))
}

fn failed(program: &str, stderr: &[u8]) -> Failure {
    let said = crate::sandbox::printable(stderr.get(..4096.min(stderr.len())).unwrap_or_default());
    Failure::new(
        Kind::Failed,
        program,
        said.trim().to_owned(),
        "nothing was loaded; see the message, then restore again",
    )
}
