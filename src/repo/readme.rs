//! What a scope's prefix holds for the person who has the bucket, the keys, and no lifeboat.
//!
//! ```text
//! <scope>/README.txt       docs/BY-HAND.md, word for word
//! <scope>/lay-wal.sh       docs/lay-wal.sh
//! <scope>/recover-set.sh   docs/recover-set.sh
//! ```
//!
//! Nothing stored is overwritten, so the first edition keeps the plain name and a later one is `README-<sha8>.txt`: the first 8 digits of
//! its SHA-256. Points name the edition that they were written with: that locks it as long as they are, and signs it, so that whoever has
//! checked a point's signature may run the scripts. There is nothing secret and nothing of an estate's own in them.

use bytes::Bytes;
use jiff::Timestamp;

use super::envelope::ObjectRef;
use super::error::RepoError;
use super::fetch;
use super::name::ReadmeFile;
use super::writer::{Shared, Writer};
use crate::ids::{Digest, Scope};
use crate::store::StoreError;
use crate::watch::{Watch, warn};

/// The text of a file, as this version writes it.
#[must_use]
pub fn text(file: ReadmeFile) -> &'static str {
    match file {
        ReadmeFile::Readme => include_str!("../../docs/BY-HAND.md"),
        ReadmeFile::LayWal => include_str!("../../docs/lay-wal.sh"),
        ReadmeFile::RecoverSet => include_str!("../../docs/recover-set.sh"),
    }
}

impl Writer {
    /// Sees to it that the files lie in `scope`'s prefix, locked until `until` (and the slack) at the earliest; gives how a point names them.
    ///
    /// A file that cannot be left is a warning and not named: no backup fails for its leaflet. Costs a listing and a read per file once
    /// they are there, and nothing when this writer has just done it.
    pub async fn leave_readme(&self, scope: &Scope, until: Timestamp, watch: &dyn Watch) -> Vec<ObjectRef> {
        let (shared, until) = (&*self.0, self.0.with_slack(until));
        let mut left = shared.readmes.lock().await;
        if let Some(there) = left.get(scope).filter(|there| there.iter().all(|object| object.locked_until >= until)) {
            return there.clone();
        }
        let mut named = Vec::with_capacity(ReadmeFile::ALL.len());
        for file in ReadmeFile::ALL {
            match shared.leave(scope, file, until).await {
                Ok(object) => named.push(object),
                Err(error) => {
                    let what = format!("cannot be left for recovery by hand: {}", crate::failure::chain(&error));
                    let next = "see to the writer's rights at the store; the points are whole without it";
                    warn(watch, file.name(scope, None), what, next);
                }
            }
        }
        if named.len() == ReadmeFile::ALL.len() {
            left.insert(scope.clone(), named.clone());
        }
        named
    }
}

impl Shared {
    /// Under the plain name, or under its edition's where that is taken by another edition or by junk.
    async fn leave(&self, scope: &Scope, file: ReadmeFile, until: Timestamp) -> Result<ObjectRef, RepoError> {
        let bytes = Bytes::from_static(text(file).as_bytes());
        let sha256 = Digest::of(&bytes);
        let edition = sha256.to_string().get(..8).map(str::to_owned);
        let mut trouble = None;
        for edition in [None, edition.as_deref()] {
            let object =
                ObjectRef { name: file.name(scope, edition), sha256, bytes: bytes.len() as u64, locked_until: until };
            let mut found = fetch::object(&*self.store, &object).await;
            if matches!(found, Err(RepoError::Missing { .. })) {
                match self.put(object.name.clone(), bytes.clone(), until).await {
                    Ok(object) => return Ok(object),
                    // Another writer was quicker.
                    Err(RepoError::Store(StoreError::Exists { .. })) => {
                        found = fetch::object(&*self.store, &object).await;
                    }
                    Err(error) => return Err(error),
                }
            }
            let kept = match found {
                Ok(_) => fetch::extend(&*self.store, &object.name, Some(object.bytes), until).await,
                Err(error) => Err(error),
            };
            match kept {
                Ok(()) => return Ok(object),
                Err(error) => trouble = Some(error),
            }
        }
        Err(trouble.unwrap_or(RepoError::Stopped))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Estate, acme};
    use super::*;
    use crate::store::Store as _;
    use crate::watch::Quiet;

    #[tokio::test]
    async fn what_is_left_is_named_with_its_sum_and_locked_as_long_as_asked() {
        let estate = Estate::new();
        let named = estate.writer().leave_readme(&acme(), estate.until(35), &Quiet::default()).await;
        let names: Vec<&str> = named.iter().map(|object| &*object.name).collect();
        assert_eq!(names, ["tenant/acme/README.txt", "tenant/acme/lay-wal.sh", "tenant/acme/recover-set.sh"]);
        let later = estate.writer().leave_readme(&acme(), estate.until(400), &Quiet::default()).await;
        for (object, file) in later.iter().zip(ReadmeFile::ALL) {
            assert_eq!(estate.bytes(&object.name), text(file).as_bytes());
            assert_eq!(object.sha256, Digest::of(text(file).as_bytes()));
            assert!(estate.locked_until(&object.name) > estate.until(400), "{}", object.name);
        }
    }

    #[tokio::test]
    async fn another_edition_gets_a_name_of_its_own_and_the_first_keeps_its_own() {
        let estate = Estate::new();
        let old = Bytes::from_static(b"an older text");
        estate.memory.put("tenant/acme/README.txt", old.clone(), estate.until(35)).await.unwrap();
        for _ in 0..2 {
            let named = estate.writer().leave_readme(&acme(), estate.until(35), &Quiet::default()).await;
            let sha8 = &named[0].sha256.to_string()[..8];
            assert_eq!(named[0].name, format!("tenant/acme/README-{sha8}.txt"));
            assert_eq!(estate.memory.names().len(), 4);
        }
        assert_eq!(estate.bytes("tenant/acme/README.txt"), old);
    }

    #[tokio::test]
    async fn what_cannot_be_left_is_a_warning_and_is_not_named() {
        let estate = Estate::new();
        let edition = &Digest::of(text(ReadmeFile::Readme).as_bytes()).to_string()[..8];
        for name in ["tenant/acme/README.txt".to_owned(), format!("tenant/acme/README-{edition}.txt")] {
            estate.memory.put(&name, Bytes::from_static(b"junk"), estate.until(35)).await.unwrap();
        }
        let quiet = Quiet::default();
        let named = estate.writer().leave_readme(&acme(), estate.until(35), &quiet).await;
        assert_eq!(named.len(), 2);
        assert_eq!(quiet.findings().len(), 1);
    }

    #[test]
    fn the_format_says_the_sums_of_what_is_left() {
        let format = include_str!("../../docs/FORMAT.md");
        for file in ReadmeFile::ALL {
            let name = file.name(&Scope::Estate, None).replace("estate/", "");
            let line = format!("{}  {name}", Digest::of(text(file).as_bytes()));
            assert!(format.contains(&line), "docs/FORMAT.md, \"Readme\", must say:\n{line}");
        }
    }
}
