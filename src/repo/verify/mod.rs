//! Verifying the repository: what is there, whether it is what it was, whether it opens.
//!
//! | level | speaks for | needs |
//! |---|---|---|
//! | 0 | envelopes and listing: signatures, chains, windows of WAL; every named object is there, has its size, is locked long enough | the signers file |
//! | 1 | and the SHA-256 of the objects read | the same |
//! | 2 | and that what the keys of this machine open, opens to what its envelope and body say | identities |
//!
//! Each level includes those before it. Levels 0 and 1 never look for a key. What was not looked at is never counted as
//! verified: a run says which part it read, and which scopes it could not open.
//!
//! Nothing here can tell that the whole store was rolled back to an older state: freshness needs a witness elsewhere. What the
//! caller remembers having seen ([`Seen`]) is one, as far as it goes.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use serde::Serialize;

use super::error::RepoError;
use super::fetch::{self, ReadEnvelope};
use super::name::Name;
use super::reader::Reader;
use crate::ids::Scope;
use crate::watch::Watch;

pub mod contents;
pub mod finding;
pub mod links;
pub mod locks;
mod opening;
pub mod part;
pub mod sums;
pub mod survey;
#[cfg(test)]
mod tests;

pub use contents::Knows;
pub use finding::{Finding, Grade, What};
pub use links::{Links, Seen, Shortest};
pub use part::{LastRead, Part};
pub use sums::{Checked, Outcome};
pub use survey::Survey;

use locks::{Need, Needs};

/// How many objects are being read at once; each may be a pack, held whole.
pub(super) const READS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "u8")]
pub enum Level {
    Listing,
    Bytes,
    Contents,
}

impl From<Level> for u8 {
    fn from(level: Level) -> Self {
        level as Self
    }
}

/// What is asked of one run.
#[derive(Clone)]
pub struct Options {
    pub level: Level,
    /// What is read, at levels 1 and 2; level 0 always looks at everything, and level 2 always at bodies and points.
    pub part: Part,
    /// Objects found right since then are not read again.
    pub not_since: Option<Timestamp>,
    /// Only these scopes' objects and the WAL they are in; empty for all.
    pub scopes: BTreeSet<Scope>,
    pub shortest: Shortest,
    /// What the caller remembers: when each object was last found right, and which envelopes were seen.
    pub last_read: LastRead,
    pub seen: Vec<Seen>,
    pub knows: Knows,
}

/// How much of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    pub objects: u64,
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// What a run looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub envelopes: u64,
    /// Envelopes whose lock has run out: the next `expire` takes them.
    pub lapsed: u64,
    /// Objects that live envelopes name.
    pub named: Amount,
    /// Versions that no believed envelope names: junk, what a killed run left, or what is being written.
    pub unnamed: Amount,
    /// Objects whose bytes were read and are right.
    pub right: Amount,
    /// Objects that opened to what they should hold; the bytes are those stored.
    pub opened: Amount,
    /// By scope, what is sealed to a key that is not on this machine.
    pub not_opened: BTreeMap<String, Amount>,
    /// Asked of the store.
    pub locks_read: u64,
    /// Read from the store, envelopes left out.
    pub read_bytes: u64,
}

/// What a run found. Empty `findings` mean that all it speaks for is well.
#[derive(Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub counts: Counts,
    /// When the newest believed envelope arrived, by the store's clock; whether there was a newer one nobody here can tell.
    pub newest: Option<Timestamp>,
    /// Every object whose bytes were read: for the caller's memory.
    pub read: Vec<Checked>,
    /// Every envelope that is believed: for the same.
    pub envelopes: Vec<ReadEnvelope>,
}

impl Report {
    /// The worst of the findings.
    #[must_use]
    pub fn grade(&self) -> Option<Grade> {
        self.findings.iter().map(|finding| finding.grade).max()
    }
}

/// Looks at the repository; changes nothing in it.
///
/// # Errors
/// The store's, when it does not answer: nothing is known then. What is wrong with the repository is in the report.
pub async fn run(reader: &Reader, options: &Options, watch: &dyn Watch) -> Result<Report, RepoError> {
    watch.stage("reading envelopes", None);
    let survey = Survey::make(reader, &options.scopes).await?;
    let now = reader.store.now().await?;
    watch.stage("checking locks", None);
    let needs = locks::check(reader, &survey, now).await?;
    let mut report = Report { newest: newest(&survey), ..Report::default() };
    count(&survey, &needs, &mut report.counts);
    judge_links(reader, &survey, options, now, &mut report.findings).await?;
    report.findings.extend(needs.findings.iter().cloned());
    if options.level >= Level::Bytes {
        read(reader, &survey, &needs, options, watch, &mut report).await?;
    }
    report.findings.sort_by(|a, b| (b.grade, &a.object, a.what).cmp(&(a.grade, &b.object, b.what)));
    report.findings.dedup();
    report.envelopes = survey.good;
    Ok(report)
}

fn newest(survey: &Survey) -> Option<Timestamp> {
    survey.good.iter().map(|read| read.verified.created).max()
}

fn count(survey: &Survey, needs: &Needs, counts: &mut Counts) {
    counts.envelopes = survey.good.len() as u64;
    counts.lapsed = needs.lapsed;
    counts.locks_read = needs.locks_read;
    for need in needs.present.values() {
        counts.named.add(need.object.bytes);
    }
    let own: BTreeSet<&str> = survey
        .good
        .iter()
        .flat_map(|read| [read.envelope.listed.name.as_str(), read.signature.listed.name.as_str()])
        .collect();
    for (name, versions) in &survey.versions {
        if matches!(name.parse(), Ok(Name::Hold(_))) {
            continue;
        }
        let known = own.contains(name.as_str()) || needs.named.contains(name);
        // One version of what is named is what is named; the others are not.
        for listed in versions.iter().skip(usize::from(known)) {
            counts.unnamed.add(listed.bytes);
        }
    }
}

/// What the envelopes say of each other; suspicions that a second look does not confirm are dropped.
async fn judge_links(
    reader: &Reader,
    survey: &Survey,
    options: &Options,
    now: Timestamp,
    findings: &mut Vec<Finding>,
) -> Result<(), RepoError> {
    let (good, seen) = (survey.good.iter().map(|read| &read.verified).collect(), options.seen.as_slice());
    let (bad, lost, shortest) = (survey.bad.as_slice(), survey.lost.as_slice(), options.shortest);
    let suspicions = Links { good, bad, lost, seen, now, shortest }.judge();
    for suspicion in suspicions {
        let about = suspicion.about.as_str();
        let gone = !about.is_empty() && fetch::versions(&*reader.store, about).await?.is_empty();
        let came = match &suspicion.absent {
            // Listed and not believed is not "came": that has its own finding.
            Some(name) if !survey.versions.contains_key(name) && survey.covers(name) => {
                !fetch::versions(&*reader.store, name).await?.is_empty()
            }
            Some(name) => !survey.covers(name),
            None => false,
        };
        if !gone && !came {
            findings.push(suspicion.finding);
        }
    }
    Ok(())
}

/// Levels 1 and 2: the bytes of what is chosen, opened where that is asked.
async fn read(
    reader: &Reader,
    survey: &Survey,
    needs: &Needs,
    options: &Options,
    watch: &dyn Watch,
    report: &mut Report,
) -> Result<(), RepoError> {
    // Envelopes that points name were read whole already, signature and all.
    let plain = needs.present.values().filter(|need| !need.object.name.ends_with(".envelope.json"));
    let sizes: Vec<(&str, u64)> = plain.map(|need| (need.object.name.as_str(), need.object.bytes)).collect();
    let mut chosen: BTreeSet<String> =
        part::choose(options.part, &sizes, &options.last_read, options.not_since).into_iter().collect();
    if options.level < Level::Contents {
        let wanted = chosen.iter().filter_map(|name| needs.present.get(name));
        return read_sums(reader, survey, wanted.collect(), watch, report).await;
    }
    let bodies = needs.live.iter().filter_map(|at| contents::body_of(&survey.good.get(*at)?.verified));
    chosen.extend(bodies.map(|object| object.name.clone()).filter(|name| needs.present.contains_key(name)));
    opening::Opening { reader, survey, needs, knows: &options.knows, chosen, watch, report }.run().await
}

/// Level 1 alone.
async fn read_sums(
    reader: &Reader,
    survey: &Survey,
    wanted: Vec<&Need>,
    watch: &dyn Watch,
    report: &mut Report,
) -> Result<(), RepoError> {
    watch.stage("reading bytes", Some(wanted.iter().map(|need| need.object.bytes).sum()));
    let each: Vec<_> = wanted.into_iter().map(|need| sums::read(reader, survey, need)).collect();
    let mut reads = futures::stream::iter(each).buffer_unordered(READS);
    while let Some((checked, _)) = reads.try_next().await? {
        watch.advance(checked.bytes);
        report.note(checked);
    }
    Ok(())
}

impl Report {
    /// Takes in one object that was read.
    fn note(&mut self, checked: Checked) {
        self.counts.read_bytes += checked.read_bytes;
        if matches!(checked.outcome, Outcome::Right | Outcome::Healed) {
            self.counts.right.add(checked.bytes);
        }
        self.findings.extend(checked.findings.iter().cloned());
        self.read.push(checked);
    }
}
