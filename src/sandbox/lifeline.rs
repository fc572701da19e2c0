//! Lifeboat's end of the lifeline: asking the agent, one conversation per question (`talk.rs`).

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::talk::{self, Reply, Request};

/// How long building the sandbox and making the checks may take together; a loaded machine needs seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The outer end. As long as it is open, the agent lives.
#[derive(Debug)]
pub struct Lifeline(OwnedFd);

/// Who answered the first question, by the kernel's word.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    /// The agent's number among the host's processes.
    pub pid: i32,
    pub uid: u32,
}

impl Lifeline {
    /// Makes a lifeline; the second value is the agent's end.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (outer, inner) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(outer), inner))
    }

    /// Asks the first question and learns who answers it. Blocks.
    ///
    /// # Errors
    /// When the agent is gone (`UnexpectedEof`), which is how a sandbox that could not be built shows.
    pub fn ask_first(&self, request: &Request) -> io::Result<(Reply, Sender)> {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        rustix::net::sockopt::set_socket_passcred(&ours, true)?;
        ours.set_read_timeout(Some(PATIENCE))?;
        talk::hand_over(&self.0, &theirs).map_err(gone)?;
        drop(theirs);
        talk::write_frame(&mut ours, request).map_err(gone)?;
        let (length, pid, uid) = talk::first_bytes_and_sender(&ours)?;
        let mut body = vec![0; talk::body_bytes(length)?];
        ours.read_exact(&mut body)?;
        Ok((serde_json::from_slice(&body)?, Sender { pid, uid }))
    }

    /// Asks, and keeps the conversation, which after `connect` is the connection.
    ///
    /// # Errors
    /// When the agent is gone or is not understood.
    pub async fn ask(&self, request: &Request) -> io::Result<(Reply, UnixStream)> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let theirs = theirs.into_std()?;
        theirs.set_nonblocking(false)?;
        talk::hand_over(&self.0, &theirs).map_err(gone)?;
        drop(theirs);
        ours.write_all(&talk::framed(request)?).await.map_err(gone)?;
        let mut length = [0; 4];
        ours.read_exact(&mut length).await?;
        let mut body = vec![0; talk::body_bytes(length)?];
        ours.read_exact(&mut body).await?;
        Ok((serde_json::from_slice(&body)?, ours))
    }
}

/// One name for all the ways in which the other side is not there any more.
fn gone(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => io::ErrorKind::UnexpectedEof.into(),
        _ => error,
    }
}
