//! Frames: what goes over a connection to a PostgreSQL server, in both directions.
//!
//! A frame is a tag (1 byte), a length (4 bytes, big-endian, itself included) and a body (PostgreSQL documentation,
//! "Frontend/Backend Protocol", Message Formats). Frames are read into one buffer and handed out as slices of it,
//! without copying. Both [`Wire::next`] and [`Wire::flush`] can be dropped half-way and called again: nothing is lost.
//!
//! Not here: what the frames mean (`replication.rs`, `wal_stream.rs`, `backup_stream.rs`), who may connect (`auth.rs`).

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::failure::{Failure, Kind};

/// A byte stream in both directions: TCP, TLS or a Unix socket.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// No frame that lifeboat asks for is near this: WAL comes in 128 KiB, archives in 32 KiB. A longer one is an attack.
const LONGEST_FRAME_BYTES: usize = 16 << 20;
/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

/// What went wrong, and with which server.
#[derive(Debug, thiserror::Error)]
#[error("{server}: {fault}")]
pub struct WireError {
    /// `host:port` or the socket's path.
    pub server: String,
    #[source]
    pub fault: Fault,
}

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the server is out of reach")]
    Unreachable(#[source] io::Error),
    #[error("no answer within {seconds} s while {doing}")]
    Silent { doing: &'static str, seconds: u64 },
    #[error("the server closed the connection")]
    Closed,
    #[error("{severity} {sqlstate}: {message}")]
    Server { severity: String, sqlstate: String, message: String, detail: Option<String> },
    #[error("the server asks for a password and none is configured")]
    NoPassword,
    #[error("the server asks for the password by {method} over an unencrypted connection")]
    PasswordInClear { method: &'static str },
    #[error("the server asks for authentication method {code}, which lifeboat does not speak")]
    Method { code: u32 },
    #[error("the server could not prove that it knows the password")]
    ServerNotProven,
    #[error("the server does not speak TLS, sslmode={mode} wants it")]
    NoTls { mode: &'static str },
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("sslmode={mode} needs a file of certificates to trust")]
    NoCaFile { mode: &'static str },
    #[error("{path}: not a file of PEM certificates")]
    CaFile {
        path: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("'{name}' is not {wanted}")]
    BadName { name: String, wanted: &'static str },
    #[error("PostgreSQL {version} is too old: {what} needs {needs}")]
    TooOld { version: String, what: &'static str, needs: u32 },
    #[error("unexpected answer: {0}")]
    Protocol(String),
}

impl Fault {
    /// This fault, at `server`.
    pub fn at(self, server: &str) -> WireError {
        WireError { server: server.to_owned(), fault: self }
    }

    /// An `ErrorResponse`'s body: fields of one type byte and a text, each ended by a zero byte
    /// ("Error and Notice Message Fields").
    fn of_server(body: &[u8]) -> Self {
        let (mut severity, mut sqlstate, mut message, mut detail) = (String::new(), String::new(), String::new(), None);
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'V' => severity = text,
                b'S' if severity.is_empty() => severity = text,
                b'C' => sqlstate = text,
                b'M' => message = text,
                b'D' => detail = Some(text),
                _ => {}
            }
        }
        Self::Server { severity, sqlstate, message, detail }
    }

    /// Kind and next step. SQLSTATEs: PostgreSQL documentation, appendix A.
    fn advice(&self) -> (Kind, &'static str) {
        match self {
            Self::Unreachable(_) | Self::Silent { .. } | Self::Closed => (
                Kind::Unreachable,
                "check that the server runs and that its address and port are right, then try again",
            ),
            Self::Server { sqlstate, .. } => match sqlstate.as_str() {
                "28P01" => {
                    (Kind::Usage, "check the password file of this cluster in lifeboat.toml and the role's password")
                }
                "28000" => (
                    Kind::Usage,
                    "let the role in: a 'replication' line in pg_hba.conf and the role's REPLICATION attribute",
                ),
                "42501" => (Kind::Failed, "give the role the right that the message names"),
                "53300" => (Kind::Unreachable, "free a connection, or raise max_wal_senders, then try again"),
                "57P01" | "57P02" | "57P03" => (Kind::Unreachable, "wait until the server is up, then try again"),
                "58P01" => (Kind::Integrity, "the WAL asked for is gone from the server: take a new base backup"),
                _ => (Kind::Failed, "see the server's message and its log"),
            },
            Self::NoPassword => (Kind::Usage, "name a password file for this cluster in lifeboat.toml"),
            Self::PasswordInClear { .. } => {
                (Kind::Refused, "use sslmode=verify-full, or scram-sha-256 in the server's pg_hba.conf")
            }
            Self::Method { .. } => (Kind::Failed, "use scram-sha-256 in the server's pg_hba.conf for this role"),
            Self::ServerNotProven => {
                (Kind::Refused, "check that the address is the right server: somebody may be in between")
            }
            Self::NoTls { .. } => (Kind::Refused, "switch TLS on in the server (ssl=on), or choose another sslmode"),
            Self::Tls(_) => {
                (Kind::Refused, "check the server's certificate, its name, and the file of trusted certificates")
            }
            Self::NoCaFile { .. } | Self::CaFile { .. } => {
                (Kind::Usage, "set ca_file of this cluster in lifeboat.toml to a file of PEM certificates")
            }
            Self::BadName { .. } => (Kind::Usage, "correct the name"),
            Self::TooOld { .. } => (Kind::Failed, "upgrade the server"),
            Self::Protocol(_) => (Kind::Failed, "check that the address is a PostgreSQL server and not a pooler"),
        }
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        let (kind, next) = error.fault.advice();
        let mut cause = crate::failure::chain(&error.fault);
        if let Fault::Server { detail: Some(detail), .. } = &error.fault {
            cause = format!("{cause} ({detail})");
        }
        Self::new(kind, error.server, cause, next)
    }
}

/// One message.
#[derive(Debug, Clone)]
pub struct Frame {
    pub tag: u8,
    pub body: Bytes,
}

/// One row of a command's answer: texts, `None` for NULL.
pub type Row = Vec<Option<Bytes>>;

/// A connection, in frames.
pub struct Wire {
    stream: Box<dyn Duplex>,
    inbox: BytesMut,
    outbox: BytesMut,
    /// Where it leads, for messages.
    pub server: String,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Wire {
    pub fn new(stream: Box<dyn Duplex>, server: String) -> Self {
        Self { stream, inbox: BytesMut::with_capacity(READ_BYTES), outbox: BytesMut::new(), server }
    }

    /// What happened here, as an error that names the server.
    pub fn fault(&self, fault: Fault) -> WireError {
        fault.at(&self.server)
    }

    /// An answer that the protocol does not allow here.
    pub fn unexpected(&self, what: impl Into<String>) -> WireError {
        self.fault(Fault::Protocol(what.into()))
    }

    /// Where messages to the server are written; [`Wire::flush`] sends them.
    pub fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    /// Sends what the outbox holds. Can be dropped and called again.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        let sent = async {
            while self.outbox.has_remaining() {
                if self.stream.write_buf(&mut self.outbox).await? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            self.stream.flush().await
        }
        .await;
        sent.map_err(|source| self.fault(Fault::Unreachable(source)))
    }

    /// Waits for the next frame that carries meaning; notices and parameter reports are passed over, an error of the
    /// server becomes [`Fault::Server`]. Can be dropped and called again.
    ///
    /// # Errors
    /// When the server says so, closes, or sends what is no frame.
    pub async fn next(&mut self) -> Result<Frame, WireError> {
        self.next_with_parameters(&mut String::new()).await
    }

    /// As [`Wire::next`], and keeps the `server_version` that the server reports on the way.
    ///
    /// # Errors
    /// As [`Wire::next`].
    pub async fn next_with_parameters(&mut self, version: &mut String) -> Result<Frame, WireError> {
        loop {
            let frame = self.next_of_any_kind().await?;
            match frame.tag {
                b'E' => return Err(self.fault(Fault::of_server(&frame.body))),
                b'N' => tracing::debug!(server = %self.server, notice = %Fault::of_server(&frame.body), "notice"),
                b'S' => {
                    if let Some(value) = frame.body.strip_prefix(b"server_version\0") {
                        *version = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
                    }
                }
                b'A' => {}
                _ => return Ok(frame),
            }
        }
    }

    async fn next_of_any_kind(&mut self) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            // A new buffer only when this one is nearly used up: frames still held keep the old one alive.
            if self.inbox.capacity() - self.inbox.len() < READ_BYTES / 8 {
                self.inbox.reserve(READ_BYTES);
            }
            match self.stream.read_buf(&mut self.inbox).await {
                Ok(0) => return Err(self.fault(Fault::Closed)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(self.fault(Fault::Closed)),
                Err(error) => return Err(self.fault(Fault::Unreachable(error))),
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let Some(&[tag, a, b, c, d]) = self.inbox.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(4..=LONGEST_FRAME_BYTES).contains(&length) {
            return Err(self.unexpected(format!("a message of {length} bytes")));
        }
        if self.inbox.len() < length + 1 {
            return Ok(None);
        }
        let mut body = self.inbox.split_to(length + 1).freeze();
        body.advance(5);
        Ok(Some(Frame { tag, body }))
    }

    /// Puts a command into the outbox.
    ///
    /// # Errors
    /// When `text` holds a zero byte.
    pub fn ask(&mut self, text: &str) -> Result<(), WireError> {
        frontend::query(text, &mut self.outbox)
            .map_err(|_| Fault::Protocol("a command with a zero byte".to_owned()).at(&self.server))
    }

    /// Sends a command and collects its rows. After a refusal the connection is ready for the next command.
    ///
    /// # Errors
    /// When the server refuses, or the connection breaks.
    pub async fn command(&mut self, text: &str) -> Result<Vec<Row>, WireError> {
        self.ask(text)?;
        self.flush().await?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            match self.next().await {
                Ok(frame) => match frame.tag {
                    b'T' | b'C' | b'I' => {}
                    b'D' => rows.push(row(&frame.body).ok_or_else(|| self.unexpected("a broken row"))?),
                    b'Z' => return refused.map_or(Ok(rows), Err),
                    tag => return Err(self.unexpected(format!("message '{}' to a command", char::from(tag)))),
                },
                Err(error) if refused.is_none() && matches!(error.fault, Fault::Server { .. }) => refused = Some(error),
                // A fatal refusal closes the connection: the refusal is the news.
                Err(error) => return Err(refused.unwrap_or(error)),
            }
        }
    }
}

/// A `DataRow`'s body: a count (2 bytes), then for each column a length (4 bytes, -1 for NULL) and its text.
pub fn row(body: &Bytes) -> Option<Row> {
    let mut rest = body.clone();
    let columns = rest.try_get_u16().ok()?;
    let mut row = Row::new();
    for _ in 0..columns {
        match rest.try_get_i32().ok()? {
            -1 => row.push(None),
            length => {
                let length = usize::try_from(length).ok().filter(|length| *length <= rest.len())?;
                row.push(Some(rest.split_to(length)));
            }
        }
    }
    rest.is_empty().then_some(row)
}

/// A row's column as a value, when it is there and reads as one.
pub fn column<T: std::str::FromStr>(row: &Row, index: usize) -> Option<T> {
    std::str::from_utf8(row.get(index)?.as_ref()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn hear(bytes: &[u8]) -> Result<Frame, WireError> {
        let (mine, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        Wire::new(Box::new(mine), "there:5432".to_owned()).next().await
    }

    #[tokio::test]
    async fn an_error_of_the_server_keeps_its_state_and_its_text() {
        let body = b"SFEHLER\0VFATAL\0C28P01\0Mpassword authentication failed\0\0";
        let mut message = vec![b'E'];
        message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        message.extend_from_slice(body);
        let failure = Failure::from(hear(&message).await.unwrap_err());
        assert_eq!(failure.kind, Kind::Usage);
        assert_eq!(failure.object, "there:5432");
        assert_eq!(failure.cause, "FATAL 28P01: password authentication failed");
        assert!(failure.next.contains("password file"));
    }

    #[tokio::test]
    async fn a_length_out_of_reason_is_refused_before_memory_is_taken() {
        for length in [0_u32, 3, 0x7FFF_FFFF, 0xFFFF_FFFF] {
            let mut message = vec![b'D'];
            message.extend_from_slice(&length.to_be_bytes());
            assert!(matches!(hear(&message).await.unwrap_err().fault, Fault::Protocol(_)));
        }
    }

    #[tokio::test]
    async fn a_frame_cut_short_is_a_closed_connection() {
        assert!(matches!(hear(b"D\0\0\0\x09ab").await.unwrap_err().fault, Fault::Closed));
    }

    #[test]
    fn a_row_whose_lengths_lie_is_no_row() {
        assert_eq!(row(&Bytes::from_static(b"\0\x01\0\0\0\x02ab")).unwrap(), vec![Some(Bytes::from_static(b"ab"))]);
        assert_eq!(row(&Bytes::from_static(b"\0\x01\xff\xff\xff\xff")).unwrap(), vec![None]);
        for bad in [&b""[..], b"\0\x02\0\0\0\0", b"\0\x01\0\0\0\x03ab", b"\0\x01\xff\xff\xff\xfe", b"\0\0x"] {
            assert!(row(&Bytes::copy_from_slice(bad)).is_none(), "{bad:?}");
        }
    }
}
