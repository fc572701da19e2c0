//! Which envelopes are wanted in the copy, in which order, and what is missing there. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Options;
use super::inventory::{Live, Present, key};
use crate::repo::envelope::{EnvelopeKind, Verified, Wal};
use crate::repo::name;
use crate::repo::window;

/// What is to be done. Envelopes are numbers into the source's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Sets, stretches and tails, by folder, each folder in the order of its names.
    pub chains: Vec<Vec<usize>>,
    /// Points, which come after all of those.
    pub points: Vec<Vec<usize>>,
    pub new_envelopes: u64,
    pub missing_objects: u64,
    pub missing_bytes: u64,
    pub there: u64,
    pub erased: u64,
    pub covered: u64,
}

impl Plan {
    pub fn of(live: &[Live], present: &Present, options: &Options) -> Self {
        let mut plan = Self::default();
        let named = named_by_points(live, options);
        let covered = covered(live, &named);
        let mut counted = HashSet::new();
        let mut folders: BTreeMap<(bool, &str), Vec<usize>> = BTreeMap::new();
        for (at, each) in live.iter().enumerate() {
            let envelope = &each.signed.envelope;
            let sealed_to = (envelope.scope.clone(), envelope.epoch);
            if options.erased.contains(&sealed_to) && envelope.wal.is_none() {
                plan.erased += 1;
                continue;
            }
            if !selected(envelope, &named, options) {
                continue;
            }
            if covered.contains(&at) {
                plan.covered += 1;
                continue;
            }
            let missing = envelope.objects.iter().filter(|object| !present.has(object));
            let missing: Vec<_> = missing.filter(|object| counted.insert(key(&object.name, object.bytes))).collect();
            // Envelopes among them are counted as such.
            let bytes = missing.iter().filter(|object| !object.name.ends_with(".envelope.json"));
            plan.missing_objects += bytes.clone().count() as u64;
            plan.missing_bytes += bytes.map(|object| object.bytes).sum::<u64>();
            plan.new_envelopes += u64::from(!is_there(each, present));
            if is_whole(each, present) {
                plan.there += 1;
                continue;
            }
            let folder = envelope.name.rsplit_once('/').map_or("", |(folder, _)| folder);
            folders.entry((envelope.kind == EnvelopeKind::Point, folder)).or_default().push(at);
        }
        for ((is_point, _), mut links) in folders {
            links.sort_by_key(|at| live.get(*at).map(|each| each.signed.envelope.name.as_str()));
            if is_point { &mut plan.points } else { &mut plan.chains }.push(links);
        }
        plan
    }
}

/// The names of the envelopes that the wanted points need.
fn named_by_points<'a>(live: &'a [Live], options: &Options) -> BTreeSet<&'a str> {
    let wanted = |envelope: &&Verified| {
        envelope.kind == EnvelopeKind::Point
            && (options.tenants.is_empty() || options.tenants.contains(&envelope.scope))
    };
    let points = live.iter().map(|each| &each.signed.envelope).filter(wanted);
    points.flat_map(|point| &point.objects).map(|object| object.name.as_str()).collect()
}

fn selected(envelope: &Verified, named: &BTreeSet<&str>, options: &Options) -> bool {
    options.tenants.is_empty()
        || envelope.wal.is_some()
        || options.tenants.contains(&envelope.scope)
        || named.contains(envelope.name.as_str())
}

/// Tails of which a stretch, or a longer tail, has all; heartbeats after which others came. Not those that a point names.
fn covered(live: &[Live], named: &BTreeSet<&str>) -> BTreeSet<usize> {
    let wal: Vec<(usize, &Verified, &Wal)> = live
        .iter()
        .enumerate()
        .filter_map(|(at, each)| Some((at, &each.signed.envelope, each.signed.envelope.wal.as_ref()?)))
        .collect();
    let envelopes: Vec<Verified> = wal.iter().map(|(_, envelope, _)| (*envelope).clone()).collect();
    let windows = window::chain(&envelopes).windows;
    let mut needed: BTreeSet<usize> = windows.into_iter().flat_map(|window| window.members).collect();
    let mut newest: BTreeMap<&str, (usize, (crate::ids::Lsn, Option<jiff::Timestamp>))> = BTreeMap::new();
    for (at, (_, _, beat)) in wal.iter().enumerate().filter(|(_, (_, _, wal))| wal.from == wal.to) {
        let reach = (beat.to, beat.server_clock);
        if newest.get(beat.history.as_str()).is_none_or(|(_, known)| reach > *known) {
            newest.insert(&beat.history, (at, reach));
        }
    }
    needed.extend(newest.into_values().map(|(at, _)| at));
    let spare = |(at, (_, envelope, _)): &(usize, &(usize, &Verified, &Wal))| {
        envelope.kind == EnvelopeKind::Tail && !needed.contains(at) && !named.contains(envelope.name.as_str())
    };
    wal.iter().enumerate().filter(spare).map(|(_, (live_at, _, _))| *live_at).collect()
}

fn is_there(each: &Live, present: &Present) -> bool {
    let envelope = &each.signed.envelope;
    present.envelope(&envelope.name, envelope.bytes).is_some()
}

/// Whether the copy has the envelope, all it names, and locks as long.
fn is_whole(each: &Live, present: &Present) -> bool {
    let envelope = &each.signed.envelope;
    let Some(lock) = present.envelope(&envelope.name, envelope.bytes) else { return false };
    let signed = present.has_named(&name::signature(&envelope.name), each.signed.signature.bytes);
    let long_enough = lock.retained_until >= each.lock.retained_until && (lock.held || !each.lock.held);
    long_enough && signed && envelope.objects.iter().all(|object| present.has(object))
}
