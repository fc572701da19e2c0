//! Where a server is and how it is spoken to; opens the connection.
//!
//! Order: TCP or Unix socket, then TLS where `sslmode` wants it, then startup and password (`auth.rs`). Only one byte
//! is read before TLS begins, so nothing sent in clear can be mistaken for what the server said inside
//! (CVE-2021-23222). There is no falling back: when the server says it speaks TLS and the handshake fails, that is the end.

use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use super::auth::{self, Peer};
use super::tls;
use super::wire::{Duplex, Fault, Wire, WireError};

/// From the first packet to the server's "ready".
const CONNECT_SECONDS: u64 = 30;

/// How much of TLS is asked for; the meaning is libpq's (documentation, "SSL Mode Descriptions"), but `prefer` never
/// falls back after a failed handshake, and `prefer` and `require` check the certificate where `ca_file` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    /// As libpq writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// One PostgreSQL server and the role that lifeboat comes as.
#[derive(Clone)]
pub struct Server {
    /// A host name or address, or the folder of the Unix socket when it begins with `/`.
    pub host: String,
    pub port: u16,
    pub user: String,
    /// The database for ordinary SQL; replication connections need none.
    pub database: String,
    pub password: Option<Zeroizing<String>>,
    pub sslmode: SslMode,
    /// PEM certificates to trust; needed by `verify-ca` and `verify-full`.
    pub ca_file: Option<PathBuf>,
    pub application_name: String,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("place", &self.place())
            .field("user", &self.user)
            .field("database", &self.database)
            .field("sslmode", &self.sslmode)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Where it is, for people: `host:port` or the socket's path.
    #[must_use]
    pub fn place(&self) -> String {
        if self.is_local() {
            format!("{}/.s.PGSQL.{}", self.host.trim_end_matches('/'), self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Whether it is reached by a Unix socket.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host.starts_with('/')
    }

    /// Opens a connection and logs in, with `extra` startup parameters (such as `replication=true`).
    ///
    /// Returns the connection, ready for commands, and the version the server names.
    ///
    /// # Errors
    /// When the server is out of reach, not who it should be, or does not let the role in.
    pub async fn open(&self, extra: &[(&str, &str)]) -> Result<(Wire, String), WireError> {
        let limit = Duration::from_secs(CONNECT_SECONDS);
        match tokio::time::timeout(limit, Box::pin(self.open_unhurried(extra))).await {
            Ok(done) => done,
            Err(_) => Err(Fault::Silent { doing: "connecting", seconds: CONNECT_SECONDS }.at(&self.place())),
        }
    }

    async fn open_unhurried(&self, extra: &[(&str, &str)]) -> Result<(Wire, String), WireError> {
        let place = self.place();
        let (stream, peer) = self.dial().await.map_err(|fault| fault.at(&place))?;
        let mut wire = Wire::new(stream, place);
        let mut parameters = vec![("user", self.user.as_str()), ("client_encoding", "UTF8")];
        if !self.application_name.is_empty() {
            parameters.push(("application_name", &self.application_name));
        }
        parameters.extend_from_slice(extra);
        frontend::startup_message(parameters, wire.outbox())
            .map_err(|_| self.bad("a role or application name without zero bytes"))?;
        wire.flush().await?;
        let version = auth::log_in(&mut wire, self, &peer).await?;
        Ok((wire, version))
    }

    fn bad(&self, wanted: &'static str) -> WireError {
        Fault::BadName { name: self.user.clone(), wanted }.at(&self.place())
    }

    async fn dial(&self) -> Result<(Box<dyn Duplex>, Peer), Fault> {
        if self.is_local() {
            let stream = UnixStream::connect(self.place()).await.map_err(Fault::Unreachable)?;
            return Ok((Box::new(stream), Peer::Local));
        }
        // Read the trusted certificates first: a mistake in them is found without the server.
        let trust = tls::Trust::of(self)?;
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(Fault::Unreachable)?;
        stream.set_nodelay(true).map_err(Fault::Unreachable)?;
        keep_alive(&stream).map_err(Fault::Unreachable)?;
        let Some(trust) = trust else { return Ok((Box::new(stream), Peer::Clear)) };
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await.map_err(Fault::Unreachable)?;
        match stream.read_u8().await {
            Ok(b'S') => {
                let (stream, certificate_hash) = trust.handshake(stream, &self.host).await?;
                Ok((Box::new(stream), Peer::Tls { certificate_hash }))
            }
            Ok(b'N') if self.sslmode == SslMode::Prefer => Ok((Box::new(stream), Peer::Clear)),
            Ok(b'N') => Err(Fault::NoTls { mode: self.sslmode.name() }),
            Ok(_) => Err(Fault::Protocol("neither yes nor no to TLS".to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Fault::Closed),
            Err(error) => Err(Fault::Unreachable(error)),
        }
    }
}

/// Lets the kernel find out that a silent server is gone: a base backup may be silent for long (a slow checkpoint), and
/// its protocol has no heartbeat of its own. Gone is noticed within about a minute.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_never_shows_its_password() {
        let server = Server {
            host: "db".to_owned(),
            port: 5432,
            user: "lifeboat".to_owned(),
            database: "postgres".to_owned(),
            password: Some(Zeroizing::new("hunter2".to_owned())),
            sslmode: SslMode::Prefer,
            ca_file: None,
            application_name: "lifeboat".to_owned(),
        };
        assert!(!format!("{server:?}").contains("hunter2"));
        assert_eq!(server.place(), "db:5432");
    }
}
