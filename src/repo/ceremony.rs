//! Making keys: a writer bundle, the identities that read what it writes, and the line that makes it believed.
//!
//! Keys exist in memory until [`Ceremony::write`] puts them where they belong: the bundle to the backup machine, the identities to
//! where custodians keep theirs, the signers line to every reader. Nothing that exists is overwritten; a bundle that grew
//! a scope is replaced whole by its superset.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use age::x25519::Identity;
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;
use zeroize::Zeroizing;

use super::chunk::ChunkKey;
use super::identities::{identity_path, scope_identity_text};
use super::key::{KeyError, ScopeKeys, WriterBundle};
use super::name::random_hex;
use super::sign::NAMESPACE;
use crate::ids::Scope;

/// Keys just made and not yet written down. Debug shows names only.
pub struct Ceremony {
    pub bundle: WriterBundle,
    /// The new identities, by scope and epoch.
    pub identities: BTreeMap<(Scope, u32), Identity>,
    /// The line of the `allowed_signers` file that makes this writer believed.
    pub signers_line: String,
    /// Whether the bundle existed before and only grew.
    grown: bool,
}

impl Ceremony {
    /// Makes a new writer with a key for each of `scopes`, and `spares` keys for databases nobody has mapped yet.
    ///
    /// # Errors
    /// `Random`, `Ssh`, or `Twice` when a scope is given twice.
    pub fn new_estate(scopes: &[Scope], spares: u32) -> Result<Self, KeyError> {
        let writer = format!("writer-{}", random_hex()?);
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut())?;
        let signing = PrivateKey::new(Ed25519Keypair::from_seed(&seed).into(), writer.clone())?;
        let (scope_keys, chunk_map) = (BTreeMap::new(), Identity::generate());
        let bundle = WriterBundle {
            writer,
            signing,
            chunk_map,
            scopes: scope_keys,
            spares: Vec::new(),
            erased: BTreeMap::new(),
        };
        let mut ceremony = Self::for_bundle(bundle)?;
        ceremony.grown = false;
        for scope in scopes {
            ceremony.add_scope(scope)?;
        }
        for number in 1..=spares {
            ceremony.add_scope(&Scope::Spare(number))?;
        }
        Ok(ceremony)
    }

    /// Begins a ceremony that adds to a bundle that exists.
    ///
    /// # Errors
    /// `Ssh`, when the signing key cannot be written out.
    pub fn for_bundle(bundle: WriterBundle) -> Result<Self, KeyError> {
        let public = bundle.signing.public_key().to_openssh()?;
        let signers_line = format!("{} namespaces=\"{NAMESPACE}\" {public}", bundle.writer);
        Ok(Self { bundle, identities: BTreeMap::new(), signers_line, grown: true })
    }

    /// Makes the first key of a scope. Where it had keys that were erased, the next epoch.
    ///
    /// # Errors
    /// `Twice` when it has one, `Random`.
    pub fn add_scope(&mut self, scope: &Scope) -> Result<(), KeyError> {
        if self.bundle.scopes.contains_key(scope) {
            return Err(KeyError::Twice { scope: scope.clone() });
        }
        self.add_epoch(scope, self.bundle.erased.get(scope).map_or(1, |epoch| epoch + 1))
    }

    /// Makes the key of `epoch` of a scope; the bundle seals with it from now on. A chunk key of its own goes with it: ids of one epoch
    /// mean nothing in another.
    ///
    /// # Errors
    /// `Random`.
    pub fn add_epoch(&mut self, scope: &Scope, epoch: u32) -> Result<(), KeyError> {
        let identity = Identity::generate();
        let keys = ScopeKeys { epoch, recipient: identity.to_public(), chunk_key: ChunkKey::generate()? };
        self.bundle.scopes.insert(scope.clone(), keys);
        if matches!(scope, Scope::Spare(_)) && !self.bundle.spares.contains(scope) {
            self.bundle.spares.push(scope.clone());
        }
        self.identities.insert((scope.clone(), epoch), identity);
        Ok(())
    }

    /// Writes everything down, durably: identities first, so that no bundle ever seals to a key that nobody has.
    ///
    /// # Errors
    /// `Exists` before anything is written when a new file is there already; `Io`.
    pub fn write(&self, bundle: &Path, identities: &Path, signers: &Path) -> Result<(), KeyError> {
        let exists = |path: &Path| KeyError::Exists { path: path.to_owned() };
        let files: Vec<_> = self
            .identities
            .iter()
            .map(|((scope, epoch), identity)| (identity_path(identities, scope, *epoch), scope, *epoch, identity))
            .collect();
        if let Some((path, ..)) = files.iter().find(|(path, ..)| path.exists()) {
            return Err(exists(path));
        }
        if !self.grown {
            for path in [bundle, signers] {
                if path.exists() {
                    return Err(exists(path));
                }
            }
        }
        for (path, scope, epoch, identity) in files {
            write_identity(&path, &scope_identity_text(scope, epoch, identity))?;
        }
        self.write_bundle(bundle, signers)
    }

    /// Writes down what a writer and its readers need, durably; the identities are somebody else's matter and must be safe by now.
    ///
    /// # Errors
    /// `Exists` when a new file is there already; `Io`.
    pub fn write_bundle(&self, bundle: &Path, signers: &Path) -> Result<(), KeyError> {
        if self.grown {
            return replace(bundle, self.bundle.to_text()?.as_bytes());
        }
        write_new(signers, format!("{}\n", self.signers_line).as_bytes(), 0o644)?;
        write_new(bundle, self.bundle.to_text()?.as_bytes(), 0o600)
    }
}

/// Writes an identity file, 0600, which must not be there.
///
/// # Errors
/// `Exists`, `Io`.
pub fn write_identity(path: &Path, text: &str) -> Result<(), KeyError> {
    write_new(path, text.as_bytes(), 0o600)
}

impl fmt::Debug for Ceremony {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ceremony").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
        _ => KeyError::Io { path: path.to_owned(), source },
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

/// Puts a grown bundle in the place of the old one, atomically.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let rand = random_hex()?;
    let beside = path.with_extension(format!("{rand}.new"));
    write_new(&beside, bytes, 0o600)?;
    std::fs::rename(&beside, path).map_err(|source| KeyError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::super::identities::Identities;
    use super::super::sign::Signers;
    use super::*;
    use crate::failure::{Failure, Kind};
    use age::secrecy::ExposeSecret as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn acme() -> Scope {
        Scope::Tenant("acme".into())
    }

    struct Places(tempfile::TempDir);
    impl Places {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }
        fn at(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join(name)
        }
        fn write(&self, ceremony: &Ceremony) -> Result<(), KeyError> {
            ceremony.write(&self.at("writer.json"), &self.at("keys"), &self.at("signers"))
        }
    }

    #[test]
    fn a_new_estate_reads_back_and_only_its_owner_may_read_it() {
        let places = Places::new();
        let made = Ceremony::new_estate(&[acme(), Scope::Estate], 2).unwrap();
        places.write(&made).unwrap();
        let bundle = WriterBundle::read(&places.at("writer.json")).unwrap();
        assert_eq!(bundle.spares, [Scope::Spare(1), Scope::Spare(2)]);
        assert_eq!(bundle.to_text().unwrap(), made.bundle.to_text().unwrap());
        let identities = Identities::open(Some(&places.at("keys")));
        let identity = identities.unlock(&acme(), 1).unwrap();
        assert_eq!(identity.to_public(), bundle.keys(&acme()).unwrap().recipient);
        assert_eq!(identities.opened().into_iter().collect::<Vec<_>>(), [acme()]);
        Signers::read(&places.at("signers")).unwrap();
        for file in ["writer.json", "keys/tenant/acme/1.age", "keys/estate/1.age"] {
            assert_eq!(std::fs::metadata(places.at(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let places = Places::new();
        places.write(&Ceremony::new_estate(&[acme()], 0).unwrap()).unwrap();
        let before = std::fs::read(places.at("writer.json")).unwrap();
        let again = Ceremony::new_estate(&[Scope::Estate], 0).unwrap();
        assert!(matches!(places.write(&again), Err(KeyError::Exists { .. })));
        assert_eq!(std::fs::read(places.at("writer.json")).unwrap(), before);
        assert!(!places.at("keys/estate").exists(), "nothing is written when anything is there");
    }

    #[test]
    fn a_bundle_grows_by_a_scope_and_keeps_the_others() {
        let places = Places::new();
        places.write(&Ceremony::new_estate(&[acme()], 0).unwrap()).unwrap();
        let mut grown = Ceremony::for_bundle(WriterBundle::read(&places.at("writer.json")).unwrap()).unwrap();
        assert!(matches!(grown.add_scope(&acme()), Err(KeyError::Twice { .. })));
        grown.add_scope(&Scope::Tenant("globex".into())).unwrap();
        places.write(&grown).unwrap();
        let bundle = WriterBundle::read(&places.at("writer.json")).unwrap();
        assert_eq!(bundle.scopes.len(), 2);
        assert!(places.at("keys/tenant/globex/1.age").exists());
    }

    #[test]
    fn an_absent_key_is_named_with_the_place_that_was_searched() {
        let places = Places::new();
        let failure: Failure = Identities::open(Some(&places.at("keys"))).unlock(&acme(), 1).err().unwrap().into();
        assert_eq!(failure.kind, Kind::Integrity);
        assert!(failure.cause.contains("the key of tenant/acme (epoch 1) is not here"), "{}", failure.cause);
        assert!(failure.cause.contains("keys/tenant/acme/1.age"), "{}", failure.cause);
        let failure: Failure = Identities::open(None).unlock(&acme(), 1).err().unwrap().into();
        assert_eq!(failure.kind, Kind::Integrity);
    }

    #[test]
    fn key_material_shows_neither_in_debug_nor_in_errors() {
        let made = Ceremony::new_estate(&[acme()], 1).unwrap();
        let text = made.bundle.to_text().unwrap();
        let shown = format!("{made:?} {:?}", made.bundle);
        assert!(!shown.contains("SECRET") && !shown.contains("PRIVATE"), "{shown}");
        let secret = made.bundle.chunk_map.to_string();
        let broken = text.replace("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-2");
        let error = WriterBundle::parse(&broken, Path::new("writer.json")).unwrap_err();
        let shown = format!("{error:?} {error}");
        assert!(!shown.contains(&secret.expose_secret()[20..]), "{shown}");
        let swapped = text.replace("\"epoch\": 1", &format!("\"epoch\": \"{}\"", secret.expose_secret()));
        let error = WriterBundle::parse(&swapped, Path::new("writer.json")).unwrap_err();
        assert!(!format!("{error:?} {error}").contains(secret.expose_secret()));
    }

    #[test]
    fn a_key_file_that_everybody_may_read_is_refused() {
        let places = Places::new();
        places.write(&Ceremony::new_estate(&[acme()], 0).unwrap()).unwrap();
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(places.at("keys/tenant/acme/1.age"), open).unwrap();
        let identities = Identities::open(Some(&places.at("keys")));
        assert!(matches!(identities.unlock(&acme(), 1), Err(KeyError::Exposed { .. })));
    }

    #[test]
    fn age_takes_an_identity_file_as_it_is() {
        let places = Places::new();
        let made = Ceremony::new_estate(&[acme()], 0).unwrap();
        places.write(&made).unwrap();
        let sealed = super::super::seal::seal_plain(&made.bundle.keys(&acme()).unwrap().recipient, b"hello").unwrap();
        std::fs::write(places.at("sealed"), sealed).unwrap();
        let mut age = std::process::Command::new("age");
        let out = age.arg("-d").arg("-i").arg(places.at("keys/tenant/acme/1.age")).arg(places.at("sealed")).output();
        assert_eq!(out.unwrap().stdout, b"hello");
    }
}
