//! What lifeboat and the agent say to each other, and how it travels.
//!
//! The **lifeline** is a pair of connected sockets (unix(7), `SOCK_SEQPACKET`); the agent holds one end as its standard
//! input. Each packet carries one file descriptor: the agent's end of a new **conversation** (`SOCK_STREAM`), made by
//! lifeboat. So nothing is listened on and nothing has a path that restored data could put a link at. A conversation is one
//! request and one reply, each a 4-byte big-endian length and that much JSON; after `connect` it is the connection itself.
//! When the lifeline's outer end is closed, by intent or because lifeboat died, the agent ends, and all inside with it.
//!
//! Nothing the agent says is trusted once something else runs inside; no descriptor ever comes out.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use super::Spawn;
use super::proof::{Outside, ProofCheck};

/// The longest request or reply; a host with very many sockets makes the longest.
pub const LONGEST_BYTES: u32 = 4 << 20;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Make the checks; before this, nothing is spawned.
    Prove {
        outside: Outside,
    },
    Spawn(Spawn),
    /// Answered when the process has ended.
    Wait {
        id: u64,
    },
    Signal {
        id: u64,
        signal: Signal,
    },
    /// From the reply on, the conversation is a connection to 127.0.0.1:`port`.
    Connect {
        port: u16,
    },
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    Proof { checks: Vec<ProofCheck> },
    Started { id: u64 },
    Ended { status: Status },
    Done,
    Refused { why: String },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl Status {
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }
}

/// The signals that can be sent to a process inside. PostgreSQL: terminate is a smart, interrupt a fast, quit an immediate shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    Terminate,
    Interrupt,
    Quit,
    HangUp,
    Kill,
}

/// Writes one request or reply.
///
/// # Errors
/// When it is longer than [`LONGEST_BYTES`], or the other side is gone.
pub fn write_frame(to: &mut impl Write, frame: &impl serde::Serialize) -> io::Result<()> {
    to.write_all(&framed(frame)?)
}

/// One request or reply as it travels.
pub fn framed(frame: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(frame)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST_BYTES);
    let length =
        length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a request or reply that is too long"))?;
    Ok([&length.to_be_bytes()[..], &body].concat())
}

/// Reads one request or reply, and not a byte more.
///
/// # Errors
/// When the other side is gone, or what came is too long or not understood.
pub fn read_frame<T: serde::de::DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut body = vec![0; body_bytes(length)?];
    from.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// How long the body is that a frame's first four bytes announce.
pub fn body_bytes(length: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(length);
    if length > LONGEST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a request or reply that is too long"));
    }
    Ok(length as usize)
}

/// Hands the other end of a conversation to the agent.
///
/// # Errors
/// When the agent is gone (`EPIPE`) or takes nothing any more (`EAGAIN`).
pub fn hand_over(lifeline: impl AsFd, conversation: impl AsFd) -> io::Result<()> {
    let descriptors = [conversation.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(lifeline, &[io::IoSlice::new(b"c")], &mut ancillary, flags)?;
    Ok(())
}

/// Waits for the next conversation; `None` when the lifeline was closed. A packet without one is skipped.
///
/// # Errors
/// When the lifeline cannot be read.
pub fn next_conversation(lifeline: impl AsFd) -> io::Result<Option<OwnedFd>> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut packet = [0; 16];
        let into = &mut [io::IoSliceMut::new(&mut packet)];
        let received = match rustix::net::recvmsg(&lifeline, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        if descriptor.is_some() {
            return Ok(descriptor);
        }
    }
}

/// Reads up to four bytes and who sent them, by the kernel's word (`SO_PASSCRED` must be set): process number as seen from here, and uid.
///
/// # Errors
/// When nothing comes.
pub fn first_bytes_and_sender(conversation: impl AsFd) -> io::Result<([u8; 4], i32, u32)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4];
    let into = &mut [io::IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(&conversation, into, &mut ancillary, RecvFlags::WAITALL)?;
    if received.bytes != bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let sender = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some((sender.pid.as_raw_nonzero().get(), sender.uid.as_raw())),
        _ => None,
    });
    let (pid, uid) = sender.ok_or_else(|| io::Error::other("the agent did not show who it is"))?;
    Ok((bytes, pid, uid))
}
