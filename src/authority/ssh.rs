//! Signing with a person's SSH key, by `ssh-keygen`: so that a passphrase is asked for where people are asked for it, and keys in an agent or on
//! hardware work. What is signed goes in on stdin; no secret passes through here.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use ssh_key::{PublicKey, SshSig};
use tokio::io::AsyncWriteExt as _;

use crate::failure::{self, Failure, Kind};

#[derive(Debug, thiserror::Error)]
pub enum SshError {
    #[error("ssh-keygen cannot be run")]
    Run(#[source] std::io::Error),
    #[error("ssh-keygen did not sign with {key}: {said}", key = key.display())]
    Refused { key: PathBuf, said: String },
}

impl From<SshError> for Failure {
    fn from(error: SshError) -> Self {
        let cause = failure::chain(&error);
        match error {
            SshError::Run(_) => Self::new(Kind::Failed, "ssh-keygen", cause, "install OpenSSH's client tools"),
            SshError::Refused { key, .. } => {
                Self::new(Kind::Usage, key.display().to_string(), cause, "check the key, its passphrase, or the agent")
            }
        }
    }
}

/// Signs `message` with `key` (a private key's file, or a public one's whose private half an agent has); armored.
///
/// # Errors
/// When ssh-keygen is not there or does not sign.
pub async fn sign(key: &Path, namespace: &str, message: &[u8]) -> Result<String, SshError> {
    let mut child = tokio::process::Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(SshError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may have ended already, with its reason on stderr: that is read below.
        let _ = stdin.write_all(message).await;
    }
    let output = child.wait_with_output().await.map_err(SshError::Run)?;
    let signature = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() && signature.starts_with("-----BEGIN SSH SIGNATURE-----") {
        return Ok(signature);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    Err(SshError::Refused { key: key.to_owned(), said })
}

/// Whether `armored` is a signature of `key` (an OpenSSH public key's line) over `message`.
#[must_use]
pub fn is_signed(key: &str, namespace: &str, message: &[u8], armored: &str) -> bool {
    let (Ok(key), Ok(signature)) = (PublicKey::from_openssh(key), SshSig::from_pem(armored)) else { return false };
    key.key_data() == signature.public_key() && key.verify(namespace, message, &signature).is_ok()
}
