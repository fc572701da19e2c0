//! Level 0, the objects: everything that a live envelope names is there, has its size, and is locked as long as the envelope.
//!
//! No key, no content. What counts is how long the store itself says that a version is locked, not what an envelope says; an envelope whose
//! lock is shorter than it says was not protected as its writer believed. Envelopes whose lock has lapsed ask for nothing any more: the
//! janitor may be removing what they name.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use super::finding::{Finding, What};
use super::survey::Survey;
use crate::repo::envelope::ObjectRef;
use crate::repo::error::RepoError;
use crate::repo::fetch::{REQUESTS, ReadEnvelope};
use crate::repo::reader::Reader;
use crate::store::{Listed, LockState, StoreError};

/// An object that live envelopes name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub object: ObjectRef,
    /// The latest end among the locks of those that name it, and what they were promised.
    pub until: Timestamp,
    /// A held envelope names it.
    pub held: bool,
    /// The envelope that needs it longest.
    pub by: String,
}

/// What level 0 leaves for the others.
#[derive(Debug, Default)]
pub struct Needs {
    /// By name; those found missing or of another size are not in it any more.
    pub present: BTreeMap<String, Need>,
    /// Every name that a believed envelope gives, lapsed ones included.
    pub named: BTreeSet<String>,
    /// Positions in [`Survey::good`] whose lock runs, or that are held.
    pub live: Vec<usize>,
    pub lapsed: u64,
    /// How many versions were asked for their lock.
    pub locks_read: u64,
    pub findings: Vec<Finding>,
}

/// Checks what the survey found against the locks of the store.
///
/// # Errors
/// The store's.
pub async fn check(reader: &Reader, survey: &Survey, now: Timestamp) -> Result<Needs, RepoError> {
    let mut needs = Needs::default();
    let mut wanted: BTreeMap<String, Need> = BTreeMap::new();
    for (at, state) in envelope_locks(reader, survey).await?.into_iter().enumerate() {
        let (Some(read), Some((own, signature))) = (survey.good.get(at), state) else { continue };
        let envelope = &read.verified;
        needs.locks_read += 2;
        needs.named.extend(envelope.objects.iter().map(|object| object.name.clone()));
        let end = own.retained_until.unwrap_or(envelope.envelope.locked_until);
        let promised = envelope.envelope.locked_until;
        if promised > now && !own.held && own.retained_until.is_none_or(|until| until < promised) {
            needs.findings.push(short(&envelope.name, &own, promised, "it says so itself"));
        }
        let live = own.held || end.max(promised) > now;
        if !live {
            needs.lapsed += 1;
            continue;
        }
        needs.live.push(at);
        if !signature.held && signature.retained_until.is_none_or(|until| until < end) {
            needs.findings.push(short(&read.signature.listed.name, &signature, end, "its envelope is"));
        }
        for object in envelope.objects.iter().filter(|object| survey.covers(&object.name)) {
            let until = end.max(object.locked_until);
            let need = Need { object: object.clone(), until, held: own.held, by: envelope.name.clone() };
            needs.findings.extend(join(&mut wanted, need));
        }
    }
    check_objects(reader, survey, wanted, now, &mut needs).await?;
    Ok(needs)
}

fn short(name: &str, state: &LockState, until: Timestamp, who: &str) -> Finding {
    let has = match state.retained_until {
        Some(until) => format!("until {until}"),
        None => "not at all".to_owned(),
    };
    Finding::new(What::ShortLock, name, format!("it is locked {has}, and must be until {until}: {who}"))
}

/// Adds a need to those of the same object.
fn join(wanted: &mut BTreeMap<String, Need>, need: Need) -> Option<Finding> {
    let Some(known) = wanted.get_mut(&need.object.name) else {
        wanted.insert(need.object.name.clone(), need);
        return None;
    };
    let same = (known.object.sha256, known.object.bytes) == (need.object.sha256, need.object.bytes);
    known.held |= need.held;
    let other = std::mem::replace(&mut known.by, need.by.clone());
    if need.until <= known.until {
        known.by.clone_from(&other);
    }
    known.until = known.until.max(need.until);
    (!same).then(|| Finding::new(What::Contradiction, &need.object.name, format!("by {other} and by {}", need.by)))
}

/// The lock of each envelope and of its signature; `None` where one went meanwhile.
async fn envelope_locks(reader: &Reader, survey: &Survey) -> Result<Vec<Option<(LockState, LockState)>>, RepoError> {
    let each = survey.good.iter().map(|read: &ReadEnvelope| async move {
        let own = lock(reader, &read.envelope.listed).await?;
        let signature = lock(reader, &read.signature.listed).await?;
        Ok::<_, RepoError>(own.zip(signature))
    });
    let each: Vec<_> = each.collect();
    futures::stream::iter(each).buffered(REQUESTS).try_collect().await
}

async fn lock(reader: &Reader, listed: &Listed) -> Result<Option<LockState>, RepoError> {
    match reader.store.lock_state(&listed.name, &listed.version).await {
        Ok(state) => Ok(Some(state)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn check_objects(
    reader: &Reader,
    survey: &Survey,
    wanted: BTreeMap<String, Need>,
    now: Timestamp,
    needs: &mut Needs,
) -> Result<(), RepoError> {
    let each = wanted.into_values().map(|need| async move {
        let found = look(reader, survey, &need, now).await?;
        Ok::<_, RepoError>((need, found))
    });
    let each: Vec<_> = each.collect();
    let mut looked = futures::stream::iter(each).buffered(REQUESTS);
    while let Some((need, found)) = looked.try_next().await? {
        needs.locks_read += found.locks_read;
        let there = !found.findings.iter().any(|finding| matches!(finding.what, What::Missing | What::WrongSize));
        needs.findings.extend(found.findings);
        if there && !found.gone {
            needs.present.insert(need.object.name.clone(), need);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Looked {
    findings: Vec<Finding>,
    locks_read: u64,
    /// The envelope that needed it went meanwhile.
    gone: bool,
}

/// One object against what is asked of it. Of several versions of the right size the best locked one counts here; which of them
/// has the right bytes only level 1 can tell.
async fn look(reader: &Reader, survey: &Survey, need: &Need, now: Timestamp) -> Result<Looked, RepoError> {
    let mut looked = Looked::default();
    let name = &need.object.name;
    let versions = survey.again(reader, name).await?;
    let mut best: Option<LockState> = None;
    for listed in versions.iter().filter(|listed| listed.bytes == need.object.bytes) {
        let Some(state) = lock(reader, listed).await? else { continue };
        looked.locks_read += 1;
        if best.as_ref().is_none_or(|best| (state.held, state.retained_until) > (best.held, best.retained_until)) {
            best = Some(state);
        }
    }
    let Some(best) = best else {
        // The janitor removes an envelope before what it names.
        looked.gone = crate::repo::fetch::versions(&*reader.store, &need.by).await?.is_empty();
        if !looked.gone {
            looked.findings.push(absent(need, &versions));
        }
        return Ok(looked);
    };
    if !best.held && best.retained_until.is_none_or(|until| until < need.until) {
        looked.findings.push(short(name, &best, need.until, &format!("{} names it", need.by)));
    } else if need.held && !best.binds(now) {
        let detail = format!("{} is held and names it, and nothing holds it in place", need.by);
        looked.findings.push(Finding::new(What::ShortLock, name, detail));
    }
    let (current, right) = (versions.iter().find(|v| v.current), |v: &Listed| v.bytes == need.object.bytes);
    match current {
        None => looked.findings.push(Finding::new(What::Healed, name, "a delete marker lies on top")),
        Some(current) if !right(current) => {
            let detail = format!("the newest version has {} bytes instead of {}", current.bytes, need.object.bytes);
            looked.findings.push(Finding::new(What::Healed, name, detail));
        }
        Some(_) => {}
    }
    Ok(looked)
}

fn absent(need: &Need, versions: &[Listed]) -> Finding {
    let (name, by) = (&need.object.name, &need.by);
    if versions.is_empty() {
        return Finding::new(What::Missing, name, format!("{by} names it"));
    }
    let sizes: Vec<String> = versions.iter().take(4).map(|listed| listed.bytes.to_string()).collect();
    let detail = format!("{} bytes instead of {}, which {by} names", sizes.join(", "), need.object.bytes);
    Finding::new(What::WrongSize, name, detail)
}
