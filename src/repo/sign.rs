//! SSH signatures (OpenSSH `PROTOCOL.sshsig`) over envelopes, and the file that says whose are believed.
//!
//! Armored, namespace `lifeboat-envelope`, SHA-512: `ssh-keygen -Y verify -f signers -I WRITER -n lifeboat-envelope -s X.sig < X`
//! says the same as [`Signers::verify`]. The signers file is OpenSSH's `allowed_signers` (ssh-keygen(1), ALLOWED SIGNERS):
//! `writer-1a2b3c4d namespaces="lifeboat-envelope" ssh-ed25519 AAAA...`. Options this module does not know are refused: a
//! restriction that is read over is no restriction.

use crate::failure::{Failure, Kind};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use ssh_key::{HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};

/// The namespace of envelope signatures: a signature made for anything else is not one.
pub const NAMESPACE: &str = "lifeboat-envelope";

/// Why a signature was not made or not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("{path}: the signers file cannot be read", path = path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: line {line}: {what}", path = path.display())]
    BadLine { path: PathBuf, line: usize, what: String },
    #[error("the signature is not an SSH signature")]
    NotASignature(#[source] ssh_key::Error),
    #[error("nobody in the signers file made this signature at {time} (its key is {fingerprint})")]
    Unknown { fingerprint: String, time: Timestamp },
    #[error("the signature does not belong to these bytes")]
    Wrong(#[source] ssh_key::Error),
    #[error("it could not be signed")]
    Signing(#[source] ssh_key::Error),
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Self {
        let cause = crate::failure::chain(&error);
        let next = "check [keys] signers in lifeboat.toml: an allowed_signers file with the writer's line";
        Self::new(Kind::Usage, "signers", cause, next)
    }
}

/// Signs `message`; armored, as `ssh-keygen -Y sign` writes it.
///
/// # Errors
/// `Signing`, when the key cannot sign.
pub fn sign(key: &PrivateKey, message: &[u8]) -> Result<String, SignError> {
    let signature = key.sign(NAMESPACE, HashAlg::Sha512, message).map_err(SignError::Signing)?;
    signature.to_pem(LineEnding::LF).map_err(SignError::Signing)
}

/// One believed key, with the interval of times it is believed in.
#[derive(Debug, Clone)]
struct Signer {
    name: String,
    key: PublicKey,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
}

/// Whose signatures are believed.
#[derive(Debug, Clone, Default)]
pub struct Signers(Vec<Signer>);

impl Signers {
    /// Reads an `allowed_signers` file.
    ///
    /// # Errors
    /// `Unreadable`, or `BadLine` for anything but a well-formed line, a comment or an empty line.
    pub fn read(path: &Path) -> Result<Self, SignError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| SignError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Parses the text of an `allowed_signers` file; `path` is for messages.
    ///
    /// # Errors
    /// `BadLine`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, SignError> {
        Self::parse_lines(text, path, NAMESPACE, false)
    }

    /// The signers of another namespace. A line without namespaces, which OpenSSH takes for all, is not enough here: what such a signature
    /// does must be granted expressly.
    ///
    /// # Errors
    /// `Unreadable`, `BadLine`.
    pub fn read_for(path: &Path, namespace: &str) -> Result<Self, SignError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| SignError::Unreadable { path: path.to_owned(), source })?;
        Self::parse_lines(&text, path, namespace, true)
    }

    fn parse_lines(text: &str, path: &Path, namespace: &str, expressly: bool) -> Result<Self, SignError> {
        let mut signers = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |what| SignError::BadLine { path: path.to_owned(), line: number + 1, what };
            signers.extend(signers_of_line(line, namespace, expressly).map_err(bad)?);
        }
        Ok(Self(signers))
    }

    /// Believes one key only, whenever it signed: what a writer knows, its own.
    #[must_use]
    pub fn only(name: &str, key: &PublicKey) -> Self {
        Self(vec![Signer { name: name.to_owned(), key: key.clone(), after: None, before: None }])
    }

    /// Checks that `armored` is a signature over `message` by a signer believed at `time` (the store's creation time
    /// of the object); gives the signer's name.
    ///
    /// # Errors
    /// `NotASignature`, `Unknown` or `Wrong`.
    pub fn verify(&self, message: &[u8], armored: &[u8], time: Timestamp) -> Result<&str, SignError> {
        self.verify_for(NAMESPACE, message, armored, time)
    }

    /// [`Signers::verify`] for a signature of another namespace.
    ///
    /// # Errors
    /// As there.
    pub fn verify_for(
        &self,
        namespace: &str,
        message: &[u8],
        armored: &[u8],
        time: Timestamp,
    ) -> Result<&str, SignError> {
        let signature = SshSig::from_pem(armored).map_err(SignError::NotASignature)?;
        let signer = self
            .0
            .iter()
            .filter(|signer| signer.key.key_data() == signature.public_key())
            .find(|signer| signer.after.is_none_or(|t| t <= time) && signer.before.is_none_or(|t| time < t));
        let signer = signer.ok_or_else(|| SignError::Unknown {
            fingerprint: signature.public_key().fingerprint(HashAlg::Sha256).to_string(),
            time,
        })?;
        signer.key.verify(namespace, message, &signature).map_err(SignError::Wrong)?;
        Ok(&signer.name)
    }
}

/// The signer of one line; none when the line is for other namespaces only.
fn signers_of_line(line: &str, namespace: &str, expressly: bool) -> Result<Option<Signer>, String> {
    let words = split_quoted(line);
    let (name, mut rest) = words.split_first().ok_or("the line is empty")?;
    let mut signer_times = (None, None);
    let mut believed = !expressly;
    if let Some((options, after)) = rest.split_first()
        && !is_key_type(options)
    {
        for option in split_options(options) {
            match option.split_once('=') {
                Some(("namespaces", list)) => {
                    let patterns = list.trim_matches('"').split(',');
                    believed = if expressly {
                        patterns.into_iter().any(|p| p == namespace)
                    } else {
                        patterns.into_iter().any(|pattern| matches_namespace(pattern, namespace))
                    };
                }
                Some(("valid-after", time)) => signer_times.0 = Some(openssh_time(time)?),
                Some(("valid-before", time)) => signer_times.1 = Some(openssh_time(time)?),
                _ => return Err(format!("the option '{option}' is not supported")),
            }
        }
        rest = after;
    }
    let [kind, key, ..] = rest else {
        return Err("there is no key".into());
    };
    let key = PublicKey::from_openssh(&format!("{kind} {key}")).map_err(|error| format!("the key: {error}"))?;
    let name = (*name).trim_matches('"').to_owned();
    Ok(believed.then_some(Signer { name, key, after: signer_times.0, before: signer_times.1 }))
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "sk-", "ecdsa-", "rsa-"].iter().any(|start| word.starts_with(start))
}

fn matches_namespace(pattern: &str, namespace: &str) -> bool {
    pattern == namespace
        || pattern == "*"
        || pattern.strip_suffix('*').is_some_and(|start| namespace.starts_with(start))
}

/// Splits at blanks outside double quotes.
fn split_quoted(line: &str) -> Vec<&str> {
    split_outside_quotes(line, |c| c.is_ascii_whitespace())
}

fn split_options(options: &str) -> Vec<&str> {
    split_outside_quotes(options, |c| c == ',')
}

fn split_outside_quotes(text: &str, separates: impl Fn(char) -> bool) -> Vec<&str> {
    let mut quoted = false;
    text.split(|c| {
        quoted ^= c == '"';
        !quoted && separates(c)
    })
    .filter(|word| !word.is_empty())
    .collect()
}

/// `YYYYMMDD[Z]` or `YYYYMMDDHHMM[SS][Z]`; taken as UTC with or without the Z (`OpenSSH` takes local time without it).
fn openssh_time(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("'{text}' is not a time like 20261122Z or 202611220724Z");
    let digits = text.trim_matches('"').trim_end_matches('Z');
    let full = match digits.len() {
        8 => format!("{digits}000000"),
        12 => format!("{digits}00"),
        14 => digits.to_owned(),
        _ => return Err(wrong()),
    };
    jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", &full)
        .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
        .map(|time| time.timestamp())
        .map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn key() -> PrivateKey {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        PrivateKey::new(ssh_key::private::Ed25519Keypair::from_seed(&seed).into(), "writer").unwrap()
    }

    fn line(name: &str, options: &str, key: &PrivateKey) -> String {
        format!("{name} {options} {}", key.public_key().to_openssh().unwrap())
    }

    fn now() -> Timestamp {
        "2026-11-22T07:24:00Z".parse().unwrap()
    }

    fn parse(text: &str) -> Result<Signers, SignError> {
        Signers::parse(text, Path::new("signers"))
    }

    #[test]
    fn ssh_keygen_verifies_our_signature() {
        let (key, folder) = (key(), tempfile::tempdir().unwrap());
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("signers"), line("w1", "namespaces=\"lifeboat-envelope\"", &key)).unwrap();
        std::fs::write(at("sig"), sign(&key, b"{\"format\":1}").unwrap()).unwrap();
        std::fs::write(at("message"), b"{\"format\":1}").unwrap();
        let status = Command::new("ssh-keygen")
            .args(["-Y", "verify", "-I", "w1", "-n", NAMESPACE])
            .arg("-f")
            .arg(at("signers"))
            .arg("-s")
            .arg(at("sig"))
            .stdin(std::fs::File::open(at("message")).unwrap())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[test]
    fn a_signature_by_ssh_keygen_is_believed() {
        let (key, folder) = (key(), tempfile::tempdir().unwrap());
        let at = |name: &str| folder.path().join(name);
        key.write_openssh_file(&at("key"), LineEnding::LF).unwrap();
        std::fs::write(at("message"), b"hello").unwrap();
        let args = ["-q", "-Y", "sign", "-n", NAMESPACE, "-f"];
        let status = Command::new("ssh-keygen").args(args).arg(at("key")).arg(at("message")).status().unwrap();
        assert!(status.success());
        let signers = parse(&line("w1", "", &key)).unwrap();
        assert_eq!(signers.verify(b"hello", &std::fs::read(at("message.sig")).unwrap(), now()).unwrap(), "w1");
    }

    #[test]
    fn altered_bytes_strangers_and_other_namespaces_are_not_believed() {
        let (key, stranger) = (key(), key());
        let signers = parse(&line("w1", "namespaces=\"file,lifeboat-*\"", &key)).unwrap();
        let good = sign(&key, b"hello").unwrap();
        assert_eq!(signers.verify(b"hello", good.as_bytes(), now()).unwrap(), "w1");
        assert!(matches!(signers.verify(b"hellO", good.as_bytes(), now()), Err(SignError::Wrong(_))));
        let strange = sign(&stranger, b"hello").unwrap();
        assert!(matches!(signers.verify(b"hello", strange.as_bytes(), now()), Err(SignError::Unknown { .. })));
        let other = key.sign("file", HashAlg::Sha512, b"hello").unwrap().to_pem(LineEnding::LF).unwrap();
        assert!(matches!(signers.verify(b"hello", other.as_bytes(), now()), Err(SignError::Wrong(_))));
        assert!(matches!(signers.verify(b"hello", b"junk", now()), Err(SignError::NotASignature(_))));
        let elsewhere = parse(&line("w1", "namespaces=\"file\"", &key)).unwrap();
        assert!(matches!(elsewhere.verify(b"hello", good.as_bytes(), now()), Err(SignError::Unknown { .. })));
    }

    #[test]
    fn a_signer_is_believed_only_within_his_time() {
        let key = key();
        let good = sign(&key, b"hello").unwrap();
        let within = parse(&line("w1", "valid-after=\"20261101\",valid-before=\"202611220725Z\"", &key)).unwrap();
        assert!(within.verify(b"hello", good.as_bytes(), now()).is_ok());
        let lapsed = parse(&line("w1", "valid-before=20261122", &key)).unwrap();
        assert!(lapsed.verify(b"hello", good.as_bytes(), now()).is_err());
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error_with_its_number() {
        let key = key();
        for bad in
            ["w1", "w1 ssh-ed25519 junk", &line("w1", "cert-authority", &key), &line("w1", "valid-after=x", &key)]
        {
            let error = parse(&format!("# comment\n\n{bad}\n")).unwrap_err();
            assert!(matches!(error, SignError::BadLine { line: 3, .. }), "{bad}: {error}");
        }
    }
}
