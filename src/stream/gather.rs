//! What waits between two cuts: split WAL by scope, joined into the members of a tail or a stretch.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use jiff::Timestamp;

use crate::ids::{Lsn, Scope};
use crate::postgres::wal::{Extent, Part, Split};

/// One take of the splitter, with slots turned into scopes.
#[derive(Debug)]
pub struct Taken {
    pub from: Lsn,
    pub to: Lsn,
    pub last_record: Lsn,
    pub members: Vec<(Scope, Part)>,
    pub commits: u64,
    pub first_commit: Option<Timestamp>,
    pub greatest_commit: Option<Timestamp>,
    /// Whether some of it was not understood.
    pub quarantined: bool,
    /// When it arrived, for the age of what waits.
    pub arrived: Instant,
}

impl Taken {
    /// Names the owners of a split: `scope_of` is the bindings' table of slots.
    pub fn new(split: Split, cluster: &str, scope_of: impl Fn(u32) -> Scope, arrived: Instant) -> Self {
        let quarantined = !split.quarantine.is_empty();
        let mut members: BTreeMap<Scope, Part> = BTreeMap::new();
        let cluster_name = || cluster.to_owned();
        members.insert(Scope::Cluster(cluster_name()), split.cluster);
        for (slot, part) in split.tenants {
            join(&mut members, scope_of(slot), part);
        }
        join(&mut members, Scope::Residue(cluster_name()), split.residue);
        join(&mut members, Scope::Quarantine(cluster_name()), split.quarantine);
        Self {
            from: split.from,
            to: split.to,
            last_record: split.last_record,
            members: members.into_iter().collect(),
            commits: split.commits.count,
            first_commit: split.commits.first,
            greatest_commit: split.commits.greatest,
            quarantined,
            arrived,
        }
    }
}

/// Adds a part behind what the scope has already; empty parts leave no trace.
fn join(members: &mut BTreeMap<Scope, Part>, scope: Scope, part: Part) {
    if part.is_empty() {
        return;
    }
    let have = members.entry(scope).or_default();
    have.extents.extend(part.extents);
    have.mixed.extend(part.mixed);
}

/// Several takes as one: what a tail or a stretch is made of.
#[derive(Debug)]
pub struct Gathered {
    pub from: Lsn,
    pub to: Lsn,
    pub last_record: Option<Lsn>,
    pub members: BTreeMap<Scope, Part>,
    pub commits: u64,
    pub first_commit: Option<Timestamp>,
    pub greatest_commit: Option<Timestamp>,
    /// Whether some of it was not understood.
    pub quarantined: bool,
}

impl Gathered {
    /// No WAL at all: for a heartbeat.
    #[must_use]
    pub fn nothing_at(at: Lsn, last_record: Option<Lsn>) -> Self {
        Self {
            from: at,
            to: at,
            last_record,
            members: BTreeMap::new(),
            commits: 0,
            first_commit: None,
            greatest_commit: None,
            quarantined: false,
        }
    }

    /// Joins takes that follow each other; `None` where there are none.
    #[must_use]
    pub fn of(takes: &[Taken]) -> Option<Self> {
        let (first, last) = (takes.first()?, takes.last()?);
        let mut members: BTreeMap<Scope, Part> = BTreeMap::new();
        for take in takes {
            for (scope, part) in &take.members {
                join(&mut members, scope.clone(), part.clone());
            }
        }
        for part in members.values_mut() {
            coalesce(part);
        }
        Some(Self {
            from: first.from,
            to: last.to,
            last_record: Some(last.last_record),
            members,
            commits: takes.iter().map(|take| take.commits).sum(),
            first_commit: takes.iter().find_map(|take| take.first_commit),
            greatest_commit: takes.iter().filter_map(|take| take.greatest_commit).max(),
            quarantined: takes.iter().any(|take| take.quarantined),
        })
    }
}

/// Makes one extent of those that touch: the cluster's part of a stretch is a single one.
fn coalesce(part: &mut Part) {
    let mut joined: Vec<(Lsn, Vec<Bytes>)> = Vec::new();
    let mut end = None;
    for extent in part.extents.drain(..) {
        let next = Some(extent.end());
        match joined.last_mut() {
            Some((_, pieces)) if end == Some(extent.at) => pieces.push(extent.bytes),
            _ => joined.push((extent.at, vec![extent.bytes])),
        }
        end = next;
    }
    part.extents = joined.into_iter().map(|(at, pieces)| Extent { at, bytes: pieces.concat().into() }).collect();
}
