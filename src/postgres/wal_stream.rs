//! WAL as it is written: `START_REPLICATION` on a physical slot.
//!
//! The server sends `w` (a piece of WAL: start, server's end, server's clock, bytes) and `k` (keepalive: server's end,
//! clock, whether it wants an answer); we send `r` (written, flushed, applied, clock) (documentation, "Streaming
//! Replication Protocol"). `flushed` is a promise: **WAL before it may be removed by the server**, so it must never be
//! ahead of what is durable in the store. Pieces come in order and without gaps; anything else is an error here.
//!
//! Silence is answered with a question after [`ASK_AFTER`], and taken for death after [`DEAD_AFTER`], whatever the
//! server's own `wal_sender_timeout` is. At the end of a historic timeline the stream ends and names the next one.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use postgres_protocol::message::frontend;
use tokio::time::Instant;

use super::replication::Replication;
use super::wire::{Fault, Wire, WireError, column, row};
use crate::ids::{Lsn, Timeline};

/// After so long without a word the server is asked for one.
pub const ASK_AFTER: Duration = Duration::from_secs(10);
/// After so long without a word the server is taken for dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(40);

/// PostgreSQL counts microseconds from 2000-01-01 00:00 UTC.
const EPOCH_2000_MICROSECONDS: i64 = 946_684_800_000_000;

/// What the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalEvent {
    XLogData {
        at: Lsn,
        /// How far the server had written when it sent this.
        server_end: Lsn,
        server_clock: Timestamp,
        bytes: Bytes,
    },
    Keepalive {
        server_end: Lsn,
        server_clock: Timestamp,
        /// The server disconnects if it gets no [`WalStream::status`] soon.
        reply_requested: bool,
    },
    /// The timeline ended here and went on as `next`, from `at`. Take the connection back and start again on it.
    End { next: Timeline, at: Lsn },
}

/// WAL flowing in. Dropping it closes the connection.
#[derive(Debug)]
pub struct WalStream {
    replication: Replication,
    /// Where the next piece must begin.
    expected: Lsn,
    /// Written, flushed, applied: as last told to the server.
    told: [Lsn; 3],
    /// The server's clock, and when we learnt it: our answers are stamped in the server's own time.
    clock: Option<(i64, Instant)>,
    heard: Instant,
    asked: bool,
    ask_after: Duration,
    dead_after: Duration,
    ended: bool,
    /// What the server named at the end.
    following: Option<(Timeline, Lsn)>,
}

impl Replication {
    /// Starts the flow from `at` on `timeline`, keeping WAL by `slot` (or by luck, without one).
    ///
    /// # Errors
    /// When the WAL is gone (58P01), the slot is in use (55006) or unknown (42704).
    pub async fn start_physical(
        mut self,
        slot: Option<&str>,
        at: Lsn,
        timeline: Timeline,
    ) -> Result<WalStream, WireError> {
        let mut command = "START_REPLICATION".to_owned();
        if let Some(slot) = slot {
            self.check_slot_name(slot)?;
            command = format!("{command} SLOT {slot}");
        }
        self.wire.ask(&format!("{command} PHYSICAL {at} TIMELINE {timeline}"))?;
        self.wire.flush().await?;
        let heard = Instant::now();
        let told = [at; 3];
        let mut stream = WalStream {
            replication: self,
            expected: at,
            told,
            clock: None,
            heard,
            asked: false,
            ask_after: ASK_AFTER,
            dead_after: DEAD_AFTER,
            ended: false,
            following: None,
        };
        let frame = tokio::time::timeout(DEAD_AFTER, stream.wire().next()).await;
        match frame.map_err(|_| stream.silent())??.tag {
            b'W' => {}
            // Asked for WAL from the very end of a historic timeline: there is none, only the next timeline's name.
            b'T' => stream.ended = true,
            tag => return Err(stream.wire().unexpected(format!("message '{}' to START_REPLICATION", char::from(tag)))),
        }
        Ok(stream)
    }
}

impl WalStream {
    /// Waits for what comes next. Can be dropped and called again (in `select!`).
    ///
    /// # Errors
    /// When the server is gone, silent, or sends WAL with a gap.
    pub async fn next(&mut self) -> Result<WalEvent, WireError> {
        if self.ended {
            return self.end().await;
        }
        loop {
            // What a dropped call left half-sent goes first.
            self.wire().flush().await?;
            let patience = if self.asked { self.dead_after } else { self.ask_after };
            let until = self.heard + patience;
            match tokio::time::timeout_at(until, self.wire().next()).await {
                Err(_) if self.asked => return Err(self.silent()),
                Err(_) => {
                    self.asked = true;
                    self.queue_status(true);
                }
                Ok(frame) => {
                    let frame = frame?;
                    self.heard = Instant::now();
                    self.asked = false;
                    match frame.tag {
                        b'd' => return self.understand(frame.body),
                        b'c' => {
                            frontend::copy_done(self.wire().outbox());
                            self.ended = true;
                            return self.end().await;
                        }
                        // A server that shuts down says "COPY 0" when it has sent everything.
                        b'C' => return Err(self.wire().fault(Fault::Closed)),
                        tag => {
                            return Err(self.wire().unexpected(format!("message '{}' among WAL", char::from(tag))));
                        }
                    }
                }
            }
        }
    }

    /// Tells the server how far WAL is written, flushed (durable: the server may forget it) and applied. With
    /// `reply_requested` the server answers at once with a keepalive.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn status(
        &mut self,
        written: Lsn,
        flushed: Lsn,
        applied: Lsn,
        reply_requested: bool,
    ) -> Result<(), WireError> {
        self.told = [written, flushed, applied];
        self.queue_status(reply_requested);
        self.wire().flush().await
    }

    /// The connection, ready for the next command; only after [`WalEvent::End`].
    ///
    /// # Errors
    /// When the stream has not ended.
    pub fn into_replication(mut self) -> Result<Replication, WireError> {
        if self.ended { Ok(self.replication) } else { Err(self.wire().unexpected("the WAL stream has not ended")) }
    }

    fn wire(&mut self) -> &mut Wire {
        &mut self.replication.wire
    }

    fn silent(&mut self) -> WireError {
        let seconds = DEAD_AFTER.as_secs();
        self.wire().fault(Fault::Silent { doing: "waiting for WAL or a sign of life", seconds })
    }

    fn queue_status(&mut self, reply_requested: bool) {
        let now = self.clock.map_or(0, |(clock, heard)| {
            clock.saturating_add(i64::try_from(heard.elapsed().as_micros()).unwrap_or(i64::MAX))
        });
        let mut message = BytesMut::with_capacity(34);
        message.put_u8(b'r');
        for lsn in self.told {
            message.put_u64(lsn.0);
        }
        message.put_i64(now);
        message.put_u8(u8::from(reply_requested));
        let outbox = self.wire().outbox();
        outbox.put_u8(b'd');
        outbox.put_u32(4 + 34);
        outbox.put_slice(&message);
    }

    fn understand(&mut self, body: Bytes) -> Result<WalEvent, WireError> {
        match parse(body) {
            Some((event, clock)) => {
                self.clock = Some((clock, self.heard));
                if let WalEvent::XLogData { at, bytes, .. } = &event {
                    if *at != self.expected {
                        let expected = self.expected;
                        return Err(self.wire().unexpected(format!("WAL from {at} where {expected} comes next")));
                    }
                    self.expected = at.plus(bytes.len() as u64);
                }
                Ok(event)
            }
            None => Err(self.wire().unexpected("a message among WAL that is neither data nor keepalive")),
        }
    }

    /// After the last piece: one row (next timeline, where it begins), then "ready".
    async fn end(&mut self) -> Result<WalEvent, WireError> {
        self.wire().flush().await?;
        loop {
            let frame = self.wire().next().await?;
            match frame.tag {
                b'D' => {
                    self.following =
                        row(&frame.body).and_then(|row| Some((Timeline(column(&row, 0)?), column(&row, 1)?)));
                }
                b'T' | b'C' | b'c' | b'd' => {}
                b'Z' => break,
                tag => return Err(self.wire().unexpected(format!("message '{}' after WAL", char::from(tag)))),
            }
        }
        let (next, at) =
            self.following.ok_or_else(|| self.wire().unexpected("WAL ended and no next timeline was named"))?;
        Ok(WalEvent::End { next, at })
    }
}

/// A message inside the stream, and the server's raw clock in it.
fn parse(mut body: Bytes) -> Option<(WalEvent, i64)> {
    let stamp = |clock: i64| Timestamp::from_microsecond(clock.checked_add(EPOCH_2000_MICROSECONDS)?).ok();
    match body.try_get_u8().ok()? {
        b'w' => {
            let at = Lsn(body.try_get_u64().ok()?);
            let server_end = Lsn(body.try_get_u64().ok()?);
            let clock = body.try_get_i64().ok()?;
            Some((WalEvent::XLogData { at, server_end, server_clock: stamp(clock)?, bytes: body }, clock))
        }
        b'k' => {
            let server_end = Lsn(body.try_get_u64().ok()?);
            let clock = body.try_get_i64().ok()?;
            let reply_requested = body.try_get_u8().ok()? != 0;
            Some((WalEvent::Keepalive { server_end, server_clock: stamp(clock)?, reply_requested }, clock))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A stream that a played server has just begun; also the server's end of it.
    async fn begun() -> (WalStream, tokio::io::DuplexStream) {
        let (mine, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(b"W\0\0\0\x07\0\0\0").await.unwrap();
        let wire = Wire::new(Box::new(mine), "there:5432".to_owned());
        let replication = Replication { wire, server_version: "15.1".to_owned() };
        let mut stream = replication.start_physical(None, Lsn(0x100), Timeline(1)).await.unwrap();
        stream.ask_after = Duration::from_millis(20);
        stream.dead_after = Duration::from_millis(80);
        let asked = "START_REPLICATION PHYSICAL 0/100 TIMELINE 1";
        let mut heard = vec![0; asked.len() + 6];
        theirs.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard[5..5 + asked.len()], asked.as_bytes());
        (stream, theirs)
    }

    fn data(at: u64, bytes: &[u8]) -> Vec<u8> {
        let mut message = vec![b'd'];
        message.extend_from_slice(&(4 + 25 + bytes.len() as u32).to_be_bytes());
        message.push(b'w');
        message.extend_from_slice(&at.to_be_bytes());
        message.extend_from_slice(&[0; 16]);
        message.extend_from_slice(bytes);
        message
    }

    #[tokio::test]
    async fn a_silent_server_is_asked_for_a_sign_of_life_and_then_given_up() {
        let (mut stream, mut theirs) = begun().await;
        assert!(matches!(stream.next().await.unwrap_err().fault, Fault::Silent { .. }));
        let mut heard = [0; 39];
        theirs.read_exact(&mut heard).await.unwrap();
        assert_eq!((heard[0], heard[5], heard[38]), (b'd', b'r', 1));
        assert_eq!(heard[6..14], 0x100_u64.to_be_bytes());
    }

    #[tokio::test]
    async fn a_gap_or_a_repetition_in_the_wal_is_an_error() {
        for at in [0x100, 0x102, 0x104] {
            let (mut stream, mut theirs) = begun().await;
            theirs.write_all(&data(0x100, b"abc")).await.unwrap();
            theirs.write_all(&data(at, b"abc")).await.unwrap();
            stream.next().await.unwrap();
            assert!(matches!(stream.next().await.unwrap_err().fault, Fault::Protocol(_)), "{at:x}");
        }
    }

    #[tokio::test]
    async fn a_dropped_wait_loses_no_bytes() {
        let (mut stream, mut theirs) = begun().await;
        stream.ask_after = Duration::from_secs(60);
        let whole = data(0x100, b"abc");
        for byte in &whole {
            theirs.write_all(&[*byte]).await.unwrap();
            if let Ok(event) = tokio::time::timeout(Duration::from_millis(1), stream.next()).await {
                assert!(matches!(event.unwrap(), WalEvent::XLogData { bytes, .. } if &bytes[..] == b"abc"));
                return;
            }
        }
        let event = stream.next().await.unwrap();
        assert!(matches!(event, WalEvent::XLogData { bytes, .. } if &bytes[..] == b"abc"));
    }

    #[test]
    fn the_servers_clock_begins_in_the_year_2000() {
        let mut message = vec![b'k'];
        message.extend_from_slice(&0x16_B374_D848_u64.to_be_bytes());
        message.extend_from_slice(&86_400_000_000_i64.to_be_bytes());
        message.push(1);
        let (event, _) = parse(message.into()).unwrap();
        let wanted = WalEvent::Keepalive {
            server_end: Lsn(0x16_B374_D848),
            server_clock: "2000-01-02T00:00:00Z".parse().unwrap(),
            reply_requested: true,
        };
        assert_eq!(event, wanted);
    }

    #[test]
    fn messages_cut_short_and_clocks_out_of_range_are_refused() {
        let mut whole = vec![b'w'];
        whole.extend_from_slice(&[0; 24]);
        for length in 0..whole.len() {
            assert!(parse(Bytes::copy_from_slice(&whole[..length])).is_none());
        }
        assert!(parse(whole.clone().into()).is_some());
        whole[17..].copy_from_slice(&i64::MAX.to_be_bytes());
        assert!(parse(whole.into()).is_none());
    }
}
