//! Which roster the restored database is compared with: what should be, and for which moment that is true.
//!
//! At a point's own LSN it is the roster captured with the point: nothing may differ. Where the store knows a later roster of that
//! database it is that one, too: going back must not revive what was taken away since. At any other target it is the newest
//! roster there is. Digests are keyed by the tenant, so the key comes with each.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use super::identity::Moment;
use crate::access::reader::Keyed;
use crate::access::roster::Roster;
use crate::access::{Capture, odoo};
use crate::backup::tenant::ROSTER_KEY;
use crate::clock::Clock;
use crate::failure::{Failure, Kind};
use crate::ids::{Lsn, Scope};
use crate::point::SetRole;
use crate::repo::envelope::Verified;
use crate::repo::reader::{Reader, What};
use crate::restore::Brought;

/// Far more than the largest roster seen (acme: 1 MB).
const ROSTER_BYTES: u64 = 256 << 20;

/// A roster with the key that its digests were taken under.
pub struct Expected {
    pub roster: Roster,
    pub key: Zeroizing<[u8; 32]>,
    pub moment: Moment,
}

/// Finds and opens the rosters that `database` of a restore is compared with: none when the store has none, two where it knows
/// a later state than the one that is restored.
///
/// # Errors
/// As [`Reader::body`]; `Integrity` when one is no roster.
pub async fn find(reader: &Reader, brought: &Brought, database: &str) -> Result<Vec<Expected>, Failure> {
    let target = brought.chosen.lsn;
    let role = SetRole::Access(format!("odoo/{database}"));
    let mut found = Vec::new();
    let of_point = brought.opened.bodies.iter().flat_map(|body| &body.sets).find(|set| set.role == role);
    if let Some(reference) = of_point {
        let of_point = open(reader, &reader.envelope(&reference.envelope).await?, target).await?;
        found.extend(Some(of_point).filter(|expected| expected.moment == Moment::Same));
    }
    let mut newest: Option<Verified> = None;
    for scope in brought.chosen.scopes.iter().filter(|scope| matches!(scope, Scope::Tenant(_))) {
        let listing = reader.envelopes(scope, What::Sets).await?;
        let of_database = listing.good.into_iter().filter(|set| set.source == format!("access-odoo-{database}"));
        newest = newest.into_iter().chain(of_database).max_by_key(|set| set.time);
    }
    if let Some(set) = newest {
        let newest = open(reader, &set, target).await?;
        // The point's own explains everything, unless something later is known.
        if found.is_empty() || newest.moment == Moment::Earlier {
            found.push(newest);
        }
    }
    Ok(found)
}

async fn open(reader: &Reader, set: &Verified, target: Lsn) -> Result<Expected, Failure> {
    let body = reader.body(set).await?;
    let mut text = Vec::new();
    reader.read_files(&body, ROSTER_BYTES, |entry| entry.path == "roster.json", |_, content| text = content).await?;
    let roster: Roster = serde_json::from_slice(&text).map_err(|error| {
        let next = "drill another point, or take a new one: `lifeboat backup`";
        Failure::new(Kind::Integrity, set.name.clone(), format!("holds no roster that can be read: {error}"), next)
    })?;
    let moment = moment(&roster, target);
    Ok(Expected { roster, key: body.header.chunk_key.derive(ROSTER_KEY), moment })
}

fn moment(roster: &Roster, target: Lsn) -> Moment {
    match roster.lsn {
        Some(lsn) if lsn == target => Moment::Same,
        Some(lsn) if lsn > target => Moment::Earlier,
        // A roster that does not say when it was true explains nothing.
        Some(_) | None => Moment::Later,
    }
}

/// Captures the roster of the restored database, comparable with `expected`.
///
/// # Errors
/// As [`odoo::capture`].
pub async fn capture_restored(
    brought: &Brought,
    expected: &Expected,
    tenant: &str,
    database: &str,
    clock: &Clock,
) -> Result<Roster, Failure> {
    let was = expected.roster.as_of;
    let as_of = state_time(expected.moment, was, brought.recovered.assembled.last_commit);
    let mut connection = brought.recovered.connect(database).await?;
    let asked = Capture { tenant: Some(tenant), key: Keyed(&expected.key), captured_at: clock.now(), as_of };
    Ok(odoo::capture(&mut connection, asked).await?)
}

/// The time of the restored state, as the comparison needs it: before, at or after the roster's.
fn state_time(moment: Moment, was: Timestamp, last_commit: Option<Timestamp>) -> Timestamp {
    let just_before = was.checked_sub(SignedDuration::from_secs(1)).unwrap_or(was);
    match moment {
        Moment::Same => was,
        // Two clocks are compared here (the capturing machine's and the server's); the WAL's order is what is known.
        Moment::Earlier => last_commit.map_or(just_before, |commit| commit.min(just_before)),
        Moment::Later => last_commit.map_or(was, |commit| commit.max(was)),
    }
}

/// What of a roster goes into evidence: numbers and versions, nobody's name.
#[must_use]
pub fn facts(roster: &Roster) -> BTreeMap<String, serde_json::Value> {
    let credentials: usize = roster.people.iter().map(|person| person.credentials.len()).sum();
    BTreeMap::from([
        ("captured_at".to_owned(), serde_json::json!(roster.captured_at)),
        ("as_of".to_owned(), serde_json::json!(roster.as_of)),
        ("lsn".to_owned(), serde_json::json!(roster.lsn)),
        ("people".to_owned(), roster.people.len().into()),
        ("credentials".to_owned(), credentials.into()),
        ("groups".to_owned(), roster.groups.len().into()),
        ("policies".to_owned(), roster.policies.len().into()),
        ("facts".to_owned(), serde_json::json!(roster.facts)),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::roster;
    use super::*;

    #[test]
    fn the_moment_is_told_by_positions_in_the_wal() {
        let mut at = roster(Vec::new());
        assert_eq!(moment(&at, Lsn(5)), Moment::Later);
        at.lsn = Some(Lsn(5));
        assert_eq!(moment(&at, Lsn(5)), Moment::Same);
        assert_eq!(moment(&at, Lsn(4)), Moment::Earlier);
        assert_eq!(moment(&at, Lsn(6)), Moment::Later);
    }

    #[test]
    fn an_earlier_state_is_earlier_whatever_the_clocks_say() {
        let was: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let ahead: Timestamp = "2026-11-21T13:00:00Z".parse().unwrap();
        assert!(state_time(Moment::Earlier, was, Some(ahead)) < was);
        assert!(state_time(Moment::Earlier, was, None) < was);
        assert_eq!(state_time(Moment::Same, was, Some(ahead)), was);
        assert_eq!(state_time(Moment::Later, was, Some(ahead)), ahead);
    }
}
