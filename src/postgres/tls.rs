//! TLS to a PostgreSQL server: which certificates are accepted, and the hash that binds a password exchange to one.
//!
//! | sslmode | without `ca_file` | with `ca_file` |
//! |---|---|---|
//! | prefer, require | any certificate; its key must sign the handshake | as verify-ca |
//! | verify-ca | refused before connecting | signed by one of the file's, or itself in the file |
//! | verify-full | refused before connecting | the same, and made out to the host's name (subjectAltName) |
//!
//! A certificate that is itself in `ca_file` is accepted byte for byte, whatever its dates and constraints: the
//! operator named exactly this one (self-signed certificates of `openssl req -x509` say they are authorities, which
//! path validation refuses in a server). Not here: client certificates.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::Digest as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connect::{Server, SslMode};
use super::wire::Fault;

/// What is asked of a server's certificate.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Empty: any certificate will do.
    named: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    check_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// What `server`'s sslmode asks for; `None` for `disable`.
    ///
    /// # Errors
    /// When a file of certificates is needed and absent, or is not one.
    pub fn of(server: &Server) -> Result<Option<Self>, Fault> {
        let mode = server.sslmode;
        if mode == SslMode::Disable {
            return Ok(None);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        let mut named = Vec::new();
        if let Some(path) = &server.ca_file {
            let wrong = |source| Fault::CaFile { path: path.display().to_string(), source };
            let pem = std::fs::read(path).map_err(|error| wrong(error.into()))?;
            named = CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| wrong(error.into()))?;
            if named.is_empty() {
                return Err(wrong("there is no certificate in it".into()));
            }
            roots.add_parsable_certificates(named.iter().cloned());
        } else if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) {
            return Err(Fault::NoCaFile { mode: mode.name() });
        }
        let algorithms = provider.signature_verification_algorithms;
        let check_name = mode == SslMode::VerifyFull;
        Ok(Some(Self { named, roots: Arc::new(roots), check_name, algorithms, provider }))
    }

    /// Shakes hands over `stream`; also returns the hash for channel binding, where one is defined.
    ///
    /// # Errors
    /// When the certificate is not trusted or the handshake fails.
    pub async fn handshake(
        self,
        stream: TcpStream,
        host: &str,
    ) -> Result<(TlsStream<TcpStream>, Option<Vec<u8>>), Fault> {
        let failed = |what: rustls::Error| Fault::Tls(std::io::Error::other(what));
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            Err(error) if self.check_name => return Err(Fault::Tls(std::io::Error::other(error))),
            // Not a name that certificates can carry, and nobody asked for the name.
            Err(_) => ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()),
        };
        let config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .dangerous() // the name rustls gives to any verifier that is not its own
            .with_custom_certificate_verifier(Arc::new(self))
            .with_no_client_auth();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(Fault::Tls)?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let hash = certificate.and_then(|certificate| end_point_hash(certificate));
        Ok((stream, hash))
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.named.is_empty() {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate =
            ParsedCertificate::try_from(end_entity).map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
        if !self.named.iter().any(|named| named.as_ref() == end_entity.as_ref()) {
            let known = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, known)?;
        }
        if self.check_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The `tls-server-end-point` binding (RFC 5929, section 4.1): the certificate's hash, by the hash function of its own
/// signature, SHA-256 in place of MD5 and SHA-1. `None` where the signature names no single hash function.
fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let oid = signature_algorithm(certificate)?;
    let rsa = oid.strip_prefix(&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01]); // 1.2.840.113549.1.1
    let ecdsa = oid.strip_prefix(&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04]); // 1.2.840.10045.4
    match (rsa, ecdsa) {
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => Some(sha2::Sha256::digest(certificate).to_vec()),
        (Some([12]), _) | (_, Some([3, 3])) => Some(sha2::Sha384::digest(certificate).to_vec()),
        (Some([13]), _) | (_, Some([3, 4])) => Some(sha2::Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

/// The OID of a certificate's signature: `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE {
/// OBJECT IDENTIFIER, ... }, signatureValue }` (RFC 5280, section 4.1), DER.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (_, inside, _) = der(certificate)?;
    let (_, _, after_tbs) = der(inside)?;
    let (_, algorithm, _) = der(after_tbs)?;
    let (tag, oid, _) = der(algorithm)?;
    (tag == 0x06).then_some(oid)
}

/// The first DER element of `bytes`: its tag, its content, and what follows it.
fn der(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) =
            rest.split_at_checked(usize::from(first & 0x7F)).filter(|(digits, _)| digits.len() <= 4)?;
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_certificates_have_no_signature_algorithm() {
        for bytes in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80", b"\x30\x02\x30\x05", b"\x30\x00"] {
            assert_eq!(signature_algorithm(bytes), None, "{bytes:?}");
        }
    }
}
