//! Getting objects out of a store that may lie: the version whose hash or signature is right, whichever is on top.
//!
//! The quick way is one read of what is current. When that is not what the envelope says, every version is looked at
//! (a delete marker or a junk version on top hides nothing); only then is the object missing or altered.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use super::envelope::{Envelope, ObjectRef, Verified};
use super::error::RepoError;
use super::name;
use super::sign::Signers;
use super::witness::HEADS;
use crate::ids::Digest;
use crate::store::{Listed, Store, StoreError};

/// How many requests are under way at once, where many small objects are asked for.
pub const REQUESTS: usize = 16;
/// How many versions of one name are tried: a forger may pile up junk, not make us read it for ever.
pub const VERSIONS: usize = 64;

/// An object that an envelope names: the bytes with the right SHA-256.
///
/// # Errors
/// `Missing`, `Altered`, or the store's.
pub async fn object(store: &dyn Store, wanted: &ObjectRef) -> Result<Bytes, RepoError> {
    let right = |bytes: &Bytes| bytes.len() as u64 == wanted.bytes && Digest::of(bytes) == wanted.sha256;
    let seen = match store.get(&wanted.name, None, None).await {
        Ok(bytes) if right(&bytes) => return Ok(bytes),
        Ok(_) => true,
        Err(StoreError::NotFound { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    match located(store, wanted).await {
        Ok((bytes, _)) => Ok(bytes),
        Err(RepoError::Missing { name }) if seen => Err(RepoError::Altered { name, wanted: wanted.sha256 }),
        Err(error) => Err(error),
    }
}

/// As [`object`], with the version that has the right bytes: of several the oldest.
///
/// # Errors
/// As [`object`].
pub async fn located(store: &dyn Store, wanted: &ObjectRef) -> Result<(Bytes, Listed), RepoError> {
    let versions = versions(store, &wanted.name).await?;
    let any = !versions.is_empty();
    for listed in versions.into_iter().filter(|listed| listed.bytes == wanted.bytes).take(VERSIONS) {
        match store.get(&wanted.name, Some(&listed.version), None).await {
            Ok(bytes) if Digest::of(&bytes) == wanted.sha256 => return Ok((bytes, listed)),
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let name = wanted.name.clone();
    Err(if any { RepoError::Altered { name, wanted: wanted.sha256 } } else { RepoError::Missing { name } })
}

/// Every version of exactly `name`, oldest first.
///
/// # Errors
/// The store's.
pub async fn versions(store: &dyn Store, name: &str) -> Result<Vec<Listed>, RepoError> {
    let mut versions: Vec<Listed> =
        store.list(name).try_filter(|listed| std::future::ready(listed.name == name)).try_collect().await?;
    oldest_first(&mut versions);
    Ok(versions)
}

/// Puts versions in the order in which they came. A store's times are in seconds, and S3 lists what is newest first: of two with one
/// time the one that is listed later is older. Otherwise junk of the same second would come before what it was laid over.
pub fn oldest_first(versions: &mut [Listed]) {
    versions.reverse();
    versions.sort_by_key(|listed| listed.created);
}

/// Those of the versions of one name that are tried, in the order in which they are.
#[must_use]
pub fn tried(versions: &[Listed]) -> Vec<Listed> {
    let mut sorted = versions.to_vec();
    oldest_first(&mut sorted);
    sorted.truncate(VERSIONS);
    sorted
}

/// What lies at an envelope's name: versions of it and of its signature.
#[derive(Debug, Default, Clone)]
pub struct Candidates {
    pub envelopes: Vec<Listed>,
    pub signatures: Vec<Listed>,
}

/// Every envelope's name below `prefix` with its versions, in name order.
///
/// # Errors
/// The store's.
pub async fn candidates(store: &dyn Store, prefix: &str) -> Result<BTreeMap<String, Candidates>, RepoError> {
    let mut found = signed_names(store, prefix).await?;
    // A signature without its envelope is a commit that did not happen.
    found.retain(|_, candidates| !candidates.envelopes.is_empty());
    Ok(found)
}

/// As [`candidates`], with the names at which only a signature lies: of a commit that did not happen, or of an envelope that was
/// taken away.
///
/// # Errors
/// The store's.
pub async fn signed_names(store: &dyn Store, prefix: &str) -> Result<BTreeMap<String, Candidates>, RepoError> {
    let mut found: BTreeMap<String, Candidates> = BTreeMap::new();
    let mut listing = store.list(prefix);
    while let Some(listed) = listing.try_next().await? {
        // Copies of envelopes that lie elsewhere, there for a witness only.
        if listed.name.starts_with(HEADS) && !prefix.starts_with(HEADS) {
            continue;
        }
        if let Some(name) = listed.name.strip_suffix(".sig") {
            found.entry(name.to_owned()).or_default().signatures.push(listed);
        } else if listed.name.ends_with(".envelope.json") {
            found.entry(listed.name.clone()).or_default().envelopes.push(listed);
        }
    }
    for candidates in found.values_mut() {
        oldest_first(&mut candidates.envelopes);
        oldest_first(&mut candidates.signatures);
    }
    Ok(found)
}

/// A version as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadVersion {
    pub listed: Listed,
    pub bytes: Bytes,
}

/// An envelope that is believed, with what was read of it.
#[derive(Debug, Clone)]
pub struct ReadEnvelope {
    pub verified: Verified,
    pub envelope: ReadVersion,
    pub signature: ReadVersion,
}

impl ReadEnvelope {
    /// Believes what was read for `name`, when the signature is right and was right at the time the store gives. It may lie
    /// elsewhere: a witness keeps it below another prefix.
    ///
    /// # Errors
    /// `Signature`, `Envelope`.
    pub fn believe(
        signers: &Signers,
        name: &str,
        envelope: ReadVersion,
        signature: ReadVersion,
    ) -> Result<Self, RepoError> {
        let verified = verify(signers, name, &envelope.bytes, &signature.bytes, envelope.listed.created)?;
        Ok(Self { verified, envelope, signature })
    }
}

/// The envelope at `name` among its candidates: the oldest version that a believed signature covers.
///
/// # Errors
/// `Unsigned`, `Signature`, `Envelope`, or the store's.
pub async fn envelope(
    store: &dyn Store,
    signers: &Signers,
    name: &str,
    candidates: &Candidates,
) -> Result<Verified, RepoError> {
    read_envelope(store, signers, name, candidates).await.map(|read| read.verified)
}

/// An envelope with the very versions that were believed, which may lie under junk.
#[derive(Debug, Clone)]
pub struct Signed {
    pub envelope: Verified,
    pub version: Listed,
    pub signature: Listed,
}

/// As [`envelope`], with where it was found.
///
/// # Errors
/// As [`envelope`].
pub async fn signed(
    store: &dyn Store,
    signers: &Signers,
    name: &str,
    candidates: &Candidates,
) -> Result<Signed, RepoError> {
    let read = read_envelope(store, signers, name, candidates).await?;
    Ok(Signed { envelope: read.verified, version: read.envelope.listed, signature: read.signature.listed })
}

/// As [`envelope`], with what was read of it. A signature is read when it is needed: usually there is one.
///
/// # Errors
/// As [`envelope`].
pub async fn read_envelope(
    store: &dyn Store,
    signers: &Signers,
    name: &str,
    candidates: &Candidates,
) -> Result<ReadEnvelope, RepoError> {
    let mut trouble = RepoError::Unsigned { name: name.to_owned() };
    let mut signatures: Vec<ReadVersion> = Vec::new();
    let mut unread = candidates.signatures.iter().take(VERSIONS);
    for listed in candidates.envelopes.iter().take(VERSIONS) {
        let Some(bytes) = version(store, listed).await? else { continue };
        let envelope = ReadVersion { listed: listed.clone(), bytes };
        let mut at = 0;
        loop {
            if at == signatures.len() {
                let Some(listed) = unread.next() else { break };
                let Some(bytes) = version(store, listed).await? else { continue };
                signatures.push(ReadVersion { listed: listed.clone(), bytes });
            }
            let Some(signature) = signatures.get(at) else { break };
            match ReadEnvelope::believe(signers, name, envelope.clone(), signature.clone()) {
                Ok(read) => return Ok(read),
                Err(error) => trouble = error,
            }
            at += 1;
        }
    }
    Err(trouble)
}

/// The bytes of one version; `None` when it is gone, or longer than an envelope may be.
///
/// # Errors
/// The store's.
pub async fn version(store: &dyn Store, listed: &Listed) -> Result<Option<Bytes>, RepoError> {
    if listed.bytes > super::envelope::MAX_BYTES as u64 {
        return Ok(None);
    }
    match store.get(&listed.name, Some(&listed.version), None).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An envelope's bytes and a signature, found at `name`, believed or not.
///
/// # Errors
/// `Signature`, `Envelope`.
pub fn verify(
    signers: &Signers,
    name: &str,
    bytes: &[u8],
    signature: &[u8],
    created: Timestamp,
) -> Result<Verified, RepoError> {
    let signer = signers
        .verify(bytes, signature, created)
        .map_err(|source| RepoError::Signature { name: name.to_owned(), source })?;
    let envelope =
        Envelope::parse(bytes, name).map_err(|source| RepoError::Envelope { name: name.to_owned(), source })?;
    let (digest, bytes) = (Digest::of(bytes), bytes.len() as u64);
    Ok(Verified { envelope, digest, bytes, signer: signer.to_owned(), created })
}

/// Whether some version of an object has the size that its envelope says. Contents are not read.
///
/// # Errors
/// `Missing`, or the store's.
pub async fn is_there(store: &dyn Store, wanted: &ObjectRef) -> Result<(), RepoError> {
    let versions = versions(store, &wanted.name).await?;
    if versions.iter().any(|listed| listed.bytes == wanted.bytes) {
        return Ok(());
    }
    Err(RepoError::Missing { name: wanted.name.clone() })
}

/// Makes the lock of `name` end at `until` at the earliest. Contents are not read: a writer may not. Versions of another size are junk;
/// of those with the right size nobody can tell here which one is true, so all of them must be extended, or it does not count.
///
/// # Errors
/// `Missing`, or why the store would not.
pub async fn extend(store: &dyn Store, name: &str, bytes: Option<u64>, until: Timestamp) -> Result<(), RepoError> {
    let mut outcome = Err(RepoError::Missing { name: name.to_owned() });
    for listed in versions(store, name).await?.into_iter().filter(|listed| bytes.is_none_or(|b| b == listed.bytes)) {
        store.extend(name, &listed.version, until).await?;
        outcome = Ok(());
    }
    outcome
}

/// [`extend`] for what an envelope names, and for what that names where it is an envelope: never outlived by what points to it.
/// Objects first, envelopes after them.
///
/// # Errors
/// The first that could not be extended.
pub fn extend_all<'a>(
    store: &'a dyn Store,
    objects: &'a [ObjectRef],
    until: Timestamp,
) -> BoxFuture<'a, Result<(), RepoError>> {
    let mut each: Vec<BoxFuture<'a, Result<(), RepoError>>> = Vec::with_capacity(objects.len());
    for wanted in objects {
        each.push(Box::pin(extend_named(store, wanted, until)));
    }
    Box::pin(futures::stream::iter(each).buffer_unordered(REQUESTS).try_collect())
}

async fn extend_named(store: &dyn Store, wanted: &ObjectRef, until: Timestamp) -> Result<(), RepoError> {
    if wanted.name.ends_with(".envelope.json") {
        let bytes = object(store, wanted).await?;
        let parsed = Envelope::parse(&bytes, &wanted.name)
            .map_err(|source| RepoError::Envelope { name: wanted.name.clone(), source })?;
        extend_all(store, &parsed.objects, until).await?;
        extend(store, &name::signature(&wanted.name), None, until).await?;
    }
    extend(store, &wanted.name, Some(wanted.bytes), until).await
}
