//! Where a secret lies. The configuration never holds one: it points at a file, an environment variable or a secret
//! store, and the value is read at the moment of use into memory that is wiped afterwards.
//!
//! `Debug` and every error show the place, never the value.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::ConfigError;

/// More than any password; a larger file is not the secret that was meant.
const MOST_BYTES: usize = 64 * 1024;

/// The place of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// A file with the secret as its one line; others on the machine must not be able to read it.
    File(PathBuf),
    /// An environment variable of the lifeboat process (never handed to a child).
    Env(String),
    /// `vault:path#field` and the like: accepted, so that one file can serve several versions; not read by this one.
    Ref(String),
}

impl Secret {
    /// Fetches the value; a line end at the end of a file is not part of it.
    ///
    /// # Errors
    /// When the place cannot be read, is open to others, is empty, or is a reference.
    pub fn read(&self) -> Result<Zeroizing<String>, ConfigError> {
        let value = match self {
            Self::File(path) => read_file(path)?,
            Self::Env(name) => {
                let found = std::env::var_os(name).ok_or_else(|| ConfigError::SecretNotSet { name: name.clone() })?;
                // A wrong encoding is reported without the bytes, which `VarError` would carry.
                Zeroizing::new(found.into_string().map_err(|_| self.unusable("the secret is not UTF-8 text"))?)
            }
            Self::Ref(reference) => return Err(ConfigError::SecretReference { reference: reference.clone() }),
        };
        if value.is_empty() {
            return Err(self.unusable("the secret is empty"));
        }
        if value.contains(['\n', '\r', '\0']) {
            return Err(self.unusable("the secret is more than one line of text"));
        }
        Ok(value)
    }

    /// The place, for people.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Env(name) => name.clone(),
            Self::Ref(reference) => reference.clone(),
        }
    }

    fn unusable(&self, what: &'static str) -> ConfigError {
        ConfigError::SecretUnusable { place: self.place(), what }
    }
}

/// Reads through one open file, so that what was checked is what is read.
fn read_file(path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    let unreadable = |source| ConfigError::SecretUnreadable { path: path.to_owned(), source };
    let unusable = |what| ConfigError::SecretUnusable { place: path.display().to_string(), what };
    // A fifo would wait for a writer for ever: look before opening.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unusable("the secret is not a file"));
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(ConfigError::SecretOpen { path: path.to_owned(), mode });
    }
    // Sized once: a growing buffer would leave copies behind that nobody wipes.
    let mut bytes = Zeroizing::new(vec![0; MOST_BYTES + 1]);
    let mut filled = 0;
    let mut file = file;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest).map_err(unreadable)? {
            0 => break,
            read => filled += read,
        }
    }
    if filled > MOST_BYTES {
        return Err(unusable("the secret is larger than 64 KiB"));
    }
    let text = bytes.get(..filled).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| unusable("the secret is not UTF-8 text"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, Secret) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, Secret::File(path))
    }

    #[test]
    fn a_file_gives_its_line_without_the_line_end() {
        for content in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            let (_dir, secret) = file(content.as_bytes(), 0o600);
            assert_eq!(secret.read().unwrap().as_str(), "correct horse");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o644, 0o604, 0o602, 0o601] {
            let (_dir, secret) = file(b"x", mode);
            assert!(matches!(secret.read(), Err(ConfigError::SecretOpen { mode: seen, .. }) if seen == mode));
        }
        let (_dir, secret) = file(b"x", 0o640);
        assert_eq!(secret.read().unwrap().as_str(), "x");
    }

    #[test]
    fn empty_long_and_binary_files_and_several_lines_are_refused() {
        for content in [&b""[..], b"\n", b"\xff\xfe", b"a\nb\n", b"a\0b", &[b'x'; MOST_BYTES + 1]] {
            let (_dir, secret) = file(content, 0o600);
            assert!(matches!(secret.read(), Err(ConfigError::SecretUnusable { .. })));
        }
        let (_dir, secret) = file(&[b'x'; MOST_BYTES], 0o600);
        assert_eq!(secret.read().unwrap().len(), MOST_BYTES);
    }

    #[test]
    fn a_folder_and_an_absent_file_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Secret::File(dir.path().into()).read(), Err(ConfigError::SecretUnusable { .. })));
        let absent = dir.path().join("absent");
        let failure: crate::failure::Failure = Secret::File(absent.clone()).read().unwrap_err().into();
        assert_eq!(failure.object, absent.display().to_string());
        assert_eq!(failure.kind, crate::failure::Kind::Usage);
    }

    #[test]
    fn an_unset_variable_and_a_reference_say_what_to_use_instead() {
        let unset = Secret::Env("LIFEBOAT_TEST_NOT_SET".into()).read().unwrap_err();
        assert!(matches!(unset, ConfigError::SecretNotSet { .. }));
        let reference = Secret::Ref("vault:kv/pg#password".into()).read().unwrap_err();
        let failure: crate::failure::Failure = reference.into();
        assert_eq!(failure.kind, crate::failure::Kind::Usage);
        assert!(failure.cause.contains("not supported by this version"), "{failure}");
        assert!(failure.next.contains("file") && failure.next.contains("env"), "{}", failure.next);
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_value() {
        let (_dir, secret) = file(b"hunter2\nhunter2", 0o600);
        let error = secret.read().unwrap_err();
        for text in [format!("{secret:?}"), format!("{error:?}"), error.to_string()] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
