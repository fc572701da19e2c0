//! Logging in: the startup conversation up to the server's first "ready".
//!
//! SCRAM-SHA-256 (RFC 5802, 7677), bound to the TLS certificate where there is one (`tls-server-end-point`, RFC 5929);
//! MD5 and a clear password only inside TLS or over a Unix socket. A server that began SCRAM must finish it: one that
//! skips its own proof is refused, for it may be somebody else.

use bytes::{Buf as _, Bytes};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;
use zeroize::Zeroizing;

use super::connect::Server;
use super::wire::{Fault, Frame, Wire, WireError};

/// What is between us and the server.
#[derive(Debug)]
pub enum Peer {
    /// A Unix socket.
    Local,
    /// TCP without TLS.
    Clear,
    /// TLS; the hash of the server's certificate, where its signature algorithm defines one.
    Tls { certificate_hash: Option<Vec<u8>> },
}

/// Codes of `AuthenticationXXX` ("Message Formats").
mod code {
    pub const OK: u32 = 0;
    pub const CLEAR: u32 = 3;
    pub const MD5: u32 = 5;
    pub const SASL: u32 = 10;
    pub const SASL_CONTINUE: u32 = 11;
    pub const SASL_FINAL: u32 = 12;
}

/// Answers the server's questions until it is ready; returns the `server_version` it reported.
///
/// # Errors
/// When the server refuses, asks for what must not be sent, or does not prove itself.
pub async fn log_in(wire: &mut Wire, server: &Server, peer: &Peer) -> Result<String, WireError> {
    let mut version = String::new();
    loop {
        let frame = wire.next_with_parameters(&mut version).await?;
        match frame.tag {
            b'R' => answer(wire, server, peer, frame.body).await?,
            // The key for cancelling (not used), and a protocol minor version that the server does not know.
            b'K' | b'v' => {}
            b'Z' => return Ok(version),
            tag => return Err(wire.unexpected(format!("message '{}' at login", char::from(tag)))),
        }
    }
}

async fn answer(wire: &mut Wire, server: &Server, peer: &Peer, mut body: Bytes) -> Result<(), WireError> {
    let code = body.try_get_u32().map_err(|_| wire.unexpected("an empty question at login"))?;
    if code == code::OK {
        return Ok(());
    }
    if !matches!(code, code::CLEAR | code::MD5 | code::SASL) {
        return Err(wire.fault(Fault::Method { code }));
    }
    let password = server.password.as_ref().ok_or_else(|| wire.fault(Fault::NoPassword))?;
    if code == code::SASL {
        return scram(wire, password, peer, &body).await;
    }
    let method = if code == code::MD5 { "md5" } else { "clear text" };
    if matches!(peer, Peer::Clear) {
        return Err(wire.fault(Fault::PasswordInClear { method }));
    }
    let sent = if code == code::MD5 {
        let salt = body.first_chunk::<4>().ok_or_else(|| wire.unexpected("md5 without salt"))?;
        Zeroizing::new(md5_hash(server.user.as_bytes(), password.as_bytes(), *salt))
    } else {
        password.clone()
    };
    frontend::password_message(sent.as_bytes(), wire.outbox()).map_err(|_| zero_byte(wire))?;
    wire.flush().await
}

fn zero_byte(wire: &Wire) -> WireError {
    wire.fault(Fault::Protocol("a password with a zero byte in it cannot be sent".to_owned()))
}

/// The exchange of RFC 5802: client-first, server-first, client-final, server-final.
async fn scram(wire: &mut Wire, password: &Zeroizing<String>, peer: &Peer, offered: &[u8]) -> Result<(), WireError> {
    let offers = |wanted: &str| offered.split(|byte| *byte == 0).any(|name| name == wanted.as_bytes());
    let (mechanism, binding) = match peer {
        Peer::Tls { certificate_hash: Some(hash) } if offers(SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.clone()))
        }
        // "I could have bound, you did not offer": a server that did offer sees that somebody removed its offer.
        Peer::Tls { certificate_hash: Some(_) } => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        _ => (SCRAM_SHA_256, ChannelBinding::unsupported()),
    };
    if !offers(mechanism) {
        return Err(wire.unexpected("no password exchange that lifeboat speaks"));
    }
    let not_proven = |wire: &Wire| wire.fault(Fault::ServerNotProven);
    let mut scram = ScramSha256::new(password.as_bytes(), binding);
    frontend::sasl_initial_response(mechanism, scram.message(), wire.outbox()).map_err(|_| zero_byte(wire))?;
    wire.flush().await?;
    let first = sasl_part(wire, code::SASL_CONTINUE).await?;
    scram.update(&first).map_err(|_| not_proven(wire))?;
    frontend::sasl_response(scram.message(), wire.outbox()).map_err(|_| zero_byte(wire))?;
    wire.flush().await?;
    let last = sasl_part(wire, code::SASL_FINAL).await?;
    scram.finish(&last).map_err(|_| not_proven(wire))
}

async fn sasl_part(wire: &mut Wire, wanted: u32) -> Result<Bytes, WireError> {
    let Frame { tag, mut body } = wire.next().await?;
    match body.try_get_u32() {
        Ok(code) if tag == b'R' && code == wanted => Ok(body),
        Ok(code::OK) if tag == b'R' => Err(wire.fault(Fault::ServerNotProven)),
        _ => Err(wire.unexpected("something else in the middle of the password exchange")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::connect::SslMode;
    use super::*;

    fn server() -> Server {
        Server {
            host: "db".to_owned(),
            port: 5432,
            user: "lifeboat".to_owned(),
            database: String::new(),
            password: Some(Zeroizing::new("hunter2".to_owned())),
            sslmode: SslMode::Prefer,
            ca_file: None,
            application_name: String::new(),
        }
    }

    /// Plays a server that says `said` at once; returns our verdict and what we sent it.
    async fn converse(said: &[u8], peer: Peer) -> (Result<String, WireError>, Vec<u8>) {
        let (mine, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(said).await.unwrap();
        let mut wire = Wire::new(Box::new(mine), "db:5432".to_owned());
        let server = server();
        let verdict = tokio::select! {
            verdict = log_in(&mut wire, &server, &peer) => verdict,
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => Ok("still waiting".to_owned()),
        };
        drop(wire);
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.unwrap();
        (verdict, heard)
    }

    #[tokio::test]
    async fn a_password_never_goes_over_plain_tcp() {
        for question in [&b"R\0\0\0\x08\0\0\0\x03"[..], b"R\0\0\0\x0c\0\0\0\x05salt"] {
            let (verdict, heard) = converse(question, Peer::Clear).await;
            assert!(matches!(verdict.unwrap_err().fault, Fault::PasswordInClear { .. }));
            assert!(heard.is_empty());
        }
    }

    #[tokio::test]
    async fn a_server_that_skips_its_own_proof_is_refused() {
        let mut said = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0".to_vec();
        said.extend_from_slice(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I");
        let (verdict, heard) = converse(&said, Peer::Clear).await;
        assert!(matches!(verdict.unwrap_err().fault, Fault::ServerNotProven));
        assert!(!heard.windows(7).any(|window| window == b"hunter2"));
    }

    #[tokio::test]
    async fn kerberos_and_the_like_are_named_and_refused() {
        let (verdict, _) = converse(b"R\0\0\0\x08\0\0\0\x07", Peer::Local).await;
        assert!(matches!(verdict.unwrap_err().fault, Fault::Method { code: 7 }));
    }
}
