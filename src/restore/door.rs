//! The one way to a sandboxed server: a socket of our own whose every connection is carried in through the sandbox.
//!
//! The server's socket lies in a folder that the sandbox's user can write. Whoever broke out of the server could put a link
//! there, to the production server's socket for one, and a client that follows paths would speak to production as root.
//! [`Sandbox::connect_socket`] follows no link and speaks to nobody but the sandbox's user; sqlx only takes paths. So it is
//! given a path in a folder that only we can write, and this carries the bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::failure::{Failure, Kind};
use crate::postgres::connect::{Server, SslMode};
use crate::sandbox::Sandbox;

/// The port in the socket's name; there is no TCP.
pub const PORT: u16 = 5432;

/// Open while it lives.
#[derive(Debug)]
pub struct Door {
    folder: tempfile::TempDir,
    carrying: JoinHandle<()>,
}

impl Door {
    /// Opens a door to the server whose socket lies at `inside`.
    ///
    /// # Errors
    /// When a folder or a socket cannot be made.
    pub fn open(sandbox: Arc<Sandbox>, inside: PathBuf) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(
                Kind::Failed,
                "socket folder",
                error.to_string(),
                "check the room and rights of the temporary folder",
            )
        };
        let folder = tempfile::Builder::new().prefix("lifeboat-door-").tempdir().map_err(failed)?;
        let listener = UnixListener::bind(socket_in(folder.path())).map_err(failed)?;
        let carrying = tokio::spawn(async move {
            while let Ok((mut outer, _)) = listener.accept().await {
                let (sandbox, inside) = (Arc::clone(&sandbox), inside.clone());
                tokio::spawn(async move {
                    match sandbox.connect_socket(&inside).await {
                        // An end of either side ends both; what it meant, the client's protocol says.
                        Ok(mut inner) => drop(tokio::io::copy_bidirectional(&mut outer, &mut inner).await),
                        Err(error) => tracing::debug!(%error, "the sandboxed server does not answer"),
                    }
                });
            }
        });
        Ok(Self { folder, carrying })
    }

    /// The server behind the door, as `user`.
    #[must_use]
    pub fn server(&self, user: &str) -> Server {
        Server {
            host: self.folder.path().to_string_lossy().into_owned(),
            port: PORT,
            user: user.to_owned(),
            database: "postgres".to_owned(),
            password: None,
            sslmode: SslMode::Disable,
            ca_file: None,
            application_name: "lifeboat".to_owned(),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

/// Where PostgreSQL puts its socket in a folder (`UNIXSOCK_PATH`).
#[must_use]
pub fn socket_in(folder: &Path) -> PathBuf {
    folder.join(format!(".s.PGSQL.{PORT}"))
}
