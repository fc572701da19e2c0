//! What is on this machine: PostgreSQL servers, and Odoo's filestores. Only looks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::config::tenant::SYSTEM_DATABASES;
use crate::failure::chain;

/// Where distributions put sockets (Debian, RHEL; PostgreSQL's own default).
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// Odoo's `data_dir/filestore`, below a home folder (Odoo's own default) or as packaged.
const FILESTORES: [&str; 4] = [
    "/var/lib/odoo/.local/share/Odoo/filestore",
    "/var/lib/odoo/filestore",
    "/opt/odoo/.local/share/Odoo/filestore",
    "/opt/odoo/data/filestore",
];
/// A server that does not answer in this time is not asked again.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server that was found, and what it holds, or why that could not be asked.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    /// Names of databases that are no templates and no system databases.
    pub(super) databases: Result<Vec<String>, String>,
    /// The password was in `PGPASSWORD`.
    pub(super) password_in_env: bool,
}

/// The server that `PGHOST` names, else every one with a socket in a usual place.
pub(super) async fn servers() -> Vec<Server> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    // Reads PGHOST, PGPORT, PGUSER, PGPASSWORD, PGPASSFILE, PGSSLMODE as libpq does.
    let named = PgConnectOptions::new();
    if set("PGHOST") || set("PGHOSTADDR") {
        return vec![ask(named).await];
    }
    let mut found = Vec::new();
    for (folder, port) in sockets(&SOCKET_FOLDERS.map(Path::new)) {
        found.push(ask(named.clone().socket(&folder).port(port)).await);
    }
    found
}

/// Folder and port of every PostgreSQL socket (`.s.PGSQL.<port>`), in order.
fn sockets(folders: &[&Path]) -> Vec<(PathBuf, u16)> {
    let mut found = Vec::new();
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let port = name.to_str().and_then(|name| name.strip_prefix(".s.PGSQL.")).and_then(|port| port.parse().ok());
            if let Some(port) = port {
                found.push(((*folder).to_owned(), port));
            }
        }
    }
    found.sort();
    found
}

async fn ask(options: PgConnectOptions) -> Server {
    let host = match options.get_socket() {
        Some(folder) => folder.display().to_string(),
        None => options.get_host().to_owned(),
    };
    let (port, user) = (options.get_port(), options.get_username().to_owned());
    let databases = match tokio::time::timeout(PATIENCE, databases(options)).await {
        Ok(Ok(names)) => Ok(names),
        Ok(Err(error)) => Err(format!("cannot be asked for its databases as {user}: {}", chain(&error))),
        Err(_) => Err(format!("does not answer within {} seconds", PATIENCE.as_secs())),
    };
    let password_in_env = std::env::var_os("PGPASSWORD").is_some_and(|value| !value.is_empty());
    Server { host, port, user, databases, password_in_env }
}

async fn databases(options: PgConnectOptions) -> Result<Vec<String>, sqlx::Error> {
    let options = match options.get_database() {
        Some(_) => options,
        None => options.database("postgres"),
    };
    let mut connection = options.disable_statement_logging().connect().await?;
    let query = "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1";
    let names: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(names.into_iter().filter(|name| !SYSTEM_DATABASES.contains(&name.as_str())).collect())
}

/// Odoo's filestore folders that exist here.
pub(super) fn filestores() -> Vec<PathBuf> {
    let home = std::env::home_dir().map(|home| home.join(".local/share/Odoo/filestore"));
    home.into_iter().chain(FILESTORES.map(PathBuf::from)).filter(|folder| folder.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_name_and_locks_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".s.PGSQL.5433", ".s.PGSQL.5432", ".s.PGSQL.5432.lock", ".s.PGSQL.x", "5432"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = sockets(&[Path::new("/nowhere"), dir.path()]);
        assert_eq!(found, [(dir.path().to_owned(), 5432), (dir.path().to_owned(), 5433)]);
    }
}
