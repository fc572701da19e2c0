//! Level 1: the SHA-256 of what is stored. No key is needed, and none is looked for.
//!
//! An object is right when some version of it has the bytes that its envelope says, whichever version is on top; when that is not the
//! newest one, it is healed, and said.

use bytes::Bytes;

use super::finding::{Finding, What};
use super::locks::Need;
use super::survey::Survey;
use crate::ids::Digest;
use crate::repo::error::RepoError;
use crate::repo::fetch;
use crate::repo::reader::{Reader, blocking};
use crate::store::{Listed, StoreError, Version};

/// How the reading of one object ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Right,
    /// Right, in a version that is not the newest.
    Healed,
    Altered,
    /// It went while the run was under way.
    Gone,
}

/// One object that was read.
#[derive(Debug, Clone)]
pub struct Checked {
    pub name: String,
    /// The version that is right.
    pub version: Option<Version>,
    pub sha256: Digest,
    /// Its size.
    pub bytes: u64,
    /// Read from the store, wrong versions included.
    pub read_bytes: u64,
    pub outcome: Outcome,
    pub findings: Vec<Finding>,
}

/// Reads `need` until a version is right; gives its content as well.
///
/// # Errors
/// The store's.
pub async fn read(reader: &Reader, survey: &Survey, need: &Need) -> Result<(Checked, Option<Bytes>), RepoError> {
    let object = &need.object;
    let mut checked = Checked {
        name: object.name.clone(),
        version: None,
        sha256: object.sha256,
        bytes: object.bytes,
        read_bytes: 0,
        outcome: Outcome::Gone,
        findings: Vec::new(),
    };
    let versions = survey.again(reader, &object.name).await?;
    let (mut seen, mut content) = (false, None);
    for listed in in_order(&versions).filter(|listed| listed.bytes == object.bytes).take(fetch::VERSIONS) {
        let bytes = match reader.store.get(&listed.name, Some(&listed.version), None).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        seen = true;
        checked.read_bytes += bytes.len() as u64;
        let hashed = bytes.clone();
        if blocking(move || Ok(Digest::of(&hashed))).await? == object.sha256 {
            checked.version = Some(listed.version.clone());
            checked.outcome = if listed.current { Outcome::Right } else { Outcome::Healed };
            content = Some((bytes, listed));
            break;
        }
    }
    match &content {
        Some((_, listed)) => checked.findings.extend(beside(reader, need, &versions, listed).await?),
        None if seen => {
            checked.outcome = Outcome::Altered;
            let detail = format!("no version has the SHA-256 {}, which {} names", object.sha256, need.by);
            checked.findings.push(Finding::new(What::Altered, &object.name, detail));
        }
        None if !fetch::versions(&*reader.store, &need.by).await?.is_empty() => {
            let detail = format!("{} names it, and it went while it was being verified", need.by);
            checked.findings.push(Finding::new(What::Missing, &object.name, detail));
        }
        None => {}
    }
    Ok((checked, content.map(|(bytes, _)| bytes)))
}

/// What is on top first, then from the oldest on: a forger's come later.
fn in_order(versions: &[Listed]) -> impl Iterator<Item = &Listed> {
    versions.iter().filter(|v| v.current).chain(versions.iter().filter(|v| !v.current))
}

/// What there is to say of an object that is right in the version `right`.
async fn beside(reader: &Reader, need: &Need, versions: &[Listed], right: &Listed) -> Result<Vec<Finding>, RepoError> {
    let mut found = Vec::new();
    let name = &right.name;
    // That a newer version has another size, or that a delete marker lies on top, level 0 has said.
    if versions.iter().any(|listed| listed.current && listed.version != right.version && listed.bytes == right.bytes) {
        found.push(Finding::new(What::Healed, name, "the newest version has other bytes; an older one is right"));
    }
    let rivals = versions.iter().filter(|listed| listed.bytes == right.bytes).count();
    if rivals > 1 {
        // Level 0 took the best lock among them, which may be a forgery's.
        let state = reader.store.lock_state(name, &right.version).await?;
        if !state.held && state.retained_until.is_none_or(|until| until < need.until) {
            let detail =
                format!("the version with the right bytes is not locked until {}, as {} needs", need.until, need.by);
            found.push(Finding::new(What::ShortLock, name, detail));
        }
    }
    Ok(found)
}
