use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::access::reader::Keyed;
use crate::access::roster::{Credential, CredentialKind, Effect, Group, Person, PersonKind, Policy, Strength};
use crate::ids::Digest;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap()
}

fn roster(people: Vec<Person>, policies: Vec<Policy>) -> Roster {
    Roster {
        format: FORMAT,
        layer: "odoo".to_owned(),
        tenant: Some("acme".to_owned()),
        database: Some("acme".to_owned()),
        captured_at: at(0),
        as_of: at(0),
        lsn: None,
        key_check: Keyed(&[7; 32]).check(),
        facts: BTreeMap::new(),
        people,
        groups: Vec::new(),
        policies,
        omitted: Vec::new(),
    }
    .sorted()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn ann() -> Person {
    Person {
        id: "5".to_owned(),
        login: "ann".to_owned(),
        active: true,
        kind: PersonKind::Internal,
        groups: set(["clerk"]),
        effective: set(["clerk", "user"]),
        places: set(["company:A#1"]),
        credentials: vec![credential(CredentialKind::Password, 1), credential(CredentialKind::Totp, 2)],
    }
}

fn credential(kind: CredentialKind, material: u8) -> Credential {
    let digest = Some(Digest([material; 32]));
    Credential { kind, id: None, name: None, digest, scope: None, expires: None, strength: None }
}

fn policy(effect: Effect) -> Policy {
    Policy {
        kind: "record rule".to_owned(),
        id: "base.rule".to_owned(),
        name: "own companies".to_owned(),
        active: true,
        effect,
        subjects: BTreeSet::new(),
        grants: set(["read"]),
        attributes: BTreeMap::from([("domain_force".to_owned(), "[('a', '=', 1)]".to_owned())]),
        digests: BTreeMap::from([("secret".to_owned(), Digest([1; 32]))]),
    }
}

/// The classes of what differs when `change` is done to Ann.
fn changed(change: impl FnOnce(&mut Person)) -> Vec<Class> {
    let mut other = ann();
    change(&mut other);
    let differences = compare(&roster(vec![ann()], vec![]), &roster(vec![other], vec![])).unwrap();
    differences.into_iter().map(|difference| difference.class).collect()
}

#[test]
fn what_a_person_wins_or_loses_is_told_by_class() {
    assert_eq!(changed(|_| {}), []);
    assert_eq!(changed(|p| p.active = false), [Class::Loss]);
    assert_eq!(changed(|p| p.effective = set(["clerk", "user", "admin"])), [Class::Gain]);
    assert_eq!(changed(|p| p.effective = set(["user"])), [Class::Loss]);
    assert_eq!(changed(|p| p.groups = set(["clerk", "user"])), [Class::Changed]);
    assert_eq!(changed(|p| p.places = set(["company:B#2"])), [Class::Gain, Class::Loss]);
    assert_eq!(changed(|p| p.credentials.push(credential(CredentialKind::ApiKey, 9))), [Class::Gain]);
    assert_eq!(changed(|p| p.credentials.truncate(1)), [Class::Downgrade]);
    assert_eq!(changed(|p| drop(p.credentials.remove(0))), [Class::Loss]);
    assert_eq!(changed(|p| p.login = "anna".to_owned()), [Class::Changed]);
    assert_eq!(changed(|p| p.kind = PersonKind::External), [Class::Changed]);
    assert_eq!(changed(|p| p.id = "6".to_owned()), [Class::Gain, Class::Loss], "another person of the same login");
}

#[test]
fn a_secret_that_differs_is_stale_when_the_state_is_an_earlier_one_and_renewed_otherwise() {
    let mut other = ann();
    other.credentials[0].digest = Some(Digest([8; 32]));
    let before = roster(vec![ann()], vec![policy(Effect::Describes)]);
    let mut secret = policy(Effect::Describes);
    secret.digests.insert("secret".to_owned(), Digest([2; 32]));
    let mut after = roster(vec![other], vec![secret]);
    let classes = |after: &Roster| compare(&before, after).unwrap().into_iter().map(|d| d.class).collect::<Vec<_>>();
    assert_eq!(classes(&after), [Class::Changed, Class::Changed]);
    after.as_of = at(-1);
    assert_eq!(classes(&after), [Class::Stale, Class::Stale]);
}

#[test]
fn a_weaker_hash_is_a_downgrade_and_a_stronger_one_is_not() {
    let with = |scheme: &str, rounds| {
        let mut person = ann();
        person.credentials[0].strength = Some(Strength { scheme: scheme.to_owned(), rounds });
        roster(vec![person], vec![])
    };
    let class = |a, b| compare(&a, &b).unwrap().first().map(|d| d.class);
    assert_eq!(class(with("pbkdf2-sha512", 600_000), with("pbkdf2-sha512", 25_000)), Some(Class::Downgrade));
    assert_eq!(class(with("pbkdf2-sha512", 25_000), with("pbkdf2-sha512", 600_000)), Some(Class::Changed));
    assert_eq!(class(with("scram-sha-256", 4096), with("md5", 0)), Some(Class::Downgrade));
}

#[test]
fn what_is_archived_or_expired_can_do_nothing_and_is_only_changed() {
    let mut archived = ann();
    archived.active = false;
    let mut other = archived.clone();
    other.effective = set(["admin"]);
    other.credentials.clear();
    let differences = compare(&roster(vec![archived], vec![]), &roster(vec![other], vec![])).unwrap();
    assert!(!differences.is_empty() && differences.iter().all(|d| d.class == Class::Changed), "{differences:?}");
    let expired = Credential { expires: Some(at(-1)), ..credential(CredentialKind::ApiKey, 3) };
    assert_eq!(changed(|p| p.credentials.push(expired)), [Class::Changed]);
}

#[test]
fn a_restriction_that_goes_is_a_gain_and_a_grant_that_goes_is_a_loss() {
    let class = |effect| {
        let mut off = policy(effect);
        off.active = false;
        let before = roster(vec![], vec![policy(effect)]);
        let classes = |after: &Roster| {
            compare(&before, after).unwrap().into_iter().map(|difference| difference.class).collect::<Vec<_>>()
        };
        let (off, gone) = (classes(&roster(vec![], vec![off])), classes(&roster(vec![], vec![])));
        assert_eq!(off, gone);
        off
    };
    assert_eq!(class(Effect::Restricts), [Class::Gain]);
    assert_eq!(class(Effect::Grants), [Class::Loss]);
    assert_eq!(class(Effect::Describes), [Class::Changed]);
}

#[test]
fn rosters_that_cannot_be_compared_are_refused() {
    let (a, mut b) = (roster(vec![], vec![]), roster(vec![], vec![]));
    b.key_check = Digest([0; 32]);
    assert!(matches!(compare(&a, &b), Err(AccessError::OtherKey)));
    b.layer = "postgres".to_owned();
    assert!(matches!(compare(&a, &b), Err(AccessError::OtherLayer { .. })));
    let mut newer = a.clone();
    newer.format = 2;
    assert!(matches!(compare(&a, &newer), Err(AccessError::OtherFormat(2))));
}

fn names(max: usize) -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set("[a-d]", 0..max)
}

fn any_credential() -> impl Strategy<Value = Credential> {
    let kinds = [
        CredentialKind::Password,
        CredentialKind::Totp,
        CredentialKind::ApiKey,
        CredentialKind::Passkey,
        CredentialKind::OauthLink,
    ];
    let strength = proptest::option::of(
        (proptest::sample::select(vec!["plain", "md5", "pbkdf2-sha512"]), 0_u32..3)
            .prop_map(|(scheme, rounds)| Strength { scheme: scheme.to_owned(), rounds }),
    );
    let expires = proptest::option::of((-2_i64..3).prop_map(at));
    let scope = proptest::option::of("[rs]");
    (proptest::sample::select(kinds.to_vec()), 0_u8..3, scope, expires, strength).prop_map(
        |(kind, material, scope, expires, strength)| Credential {
            scope,
            expires,
            strength,
            ..credential(kind, material)
        },
    )
}

/// Credentials as a database can hold them: one of a single kind, no material twice.
fn credentials() -> impl Strategy<Value = Vec<Credential>> {
    proptest::collection::vec(any_credential(), 0..4).prop_map(|all| {
        let key = |c: &Credential| (c.kind, c.digest.filter(|_| !c.kind.single()).map(|digest| digest.to_string()));
        all.into_iter().map(|c| (key(&c), c)).collect::<BTreeMap<_, _>>().into_values().collect()
    })
}

fn any_person() -> impl Strategy<Value = Person> {
    ("[1-4]", "[a-c]", any::<bool>(), names(3), names(4), names(3), credentials()).prop_map(
        |(id, login, active, groups, effective, places, credentials)| {
            let kind = PersonKind::Internal;
            Person { id, login, active, kind, groups, effective, places, credentials }
        },
    )
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let effect = proptest::sample::select(vec![Effect::Grants, Effect::Restricts, Effect::Describes]);
    ("[1-3]", any::<bool>(), effect, names(3), names(3), 0_u8..3, "[xy]").prop_map(
        |(id, active, effect, subjects, grants, secret, domain)| Policy {
            id,
            active,
            subjects,
            grants,
            attributes: BTreeMap::from([("domain_force".to_owned(), domain)]),
            digests: BTreeMap::from([("secret".to_owned(), Digest([secret; 32]))]),
            ..policy(effect)
        },
    )
}

fn any_roster() -> impl Strategy<Value = Roster> {
    let people = proptest::collection::vec(any_person(), 0..4);
    let policies = proptest::collection::vec(any_policy(), 0..4);
    let groups = proptest::collection::btree_map("[a-d]", names(3), 0..3);
    (people, policies, groups, -1_i64..2).prop_map(|(people, policies, groups, as_of)| {
        let people: BTreeMap<_, _> = people.into_iter().map(|person| (person.id.clone(), person)).collect();
        let policies: BTreeMap<_, _> = policies.into_iter().map(|policy| (policy.id.clone(), policy)).collect();
        let group = |(name, implies)| Group { name, implies, attributes: BTreeMap::new() };
        let mut roster = roster(people.into_values().collect(), policies.into_values().collect());
        roster.groups = groups.into_iter().map(group).collect();
        roster.as_of = at(as_of);
        roster
    })
}

/// Everything of a roster that comparing speaks of.
fn essence(roster: &Roster) -> (Vec<Person>, Vec<Group>, Vec<Policy>) {
    (roster.people.clone(), roster.groups.clone(), roster.policies.clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn equal_rosters_have_no_differences_and_unequal_ones_have_some(a in any_roster(), b in any_roster()) {
        prop_assert_eq!(compare(&a, &a).unwrap(), []);
        let differ = essence(&a) != essence(&b);
        prop_assert_eq!(!compare(&a, &b).unwrap().is_empty(), differ);
    }

    #[test]
    fn no_single_field_of_a_person_can_differ_unnoticed(a in any_person(), b in any_person(), field in 0..7) {
        let mut other = a.clone();
        match field {
            0 => other.active = b.active,
            1 => other.login = b.login,
            2 => other.groups = b.groups,
            3 => other.effective = b.effective,
            4 => other.places = b.places,
            5 => other.credentials = b.credentials,
            _ => {
                if let (Some(one), Some(from)) = (other.credentials.first_mut(), b.credentials.first()) {
                    one.strength = from.strength.clone();
                }
            }
        }
        let differ = a != other;
        let differences = compare(&roster(vec![a], vec![]), &roster(vec![other], vec![])).unwrap();
        prop_assert_eq!(!differences.is_empty(), differ);
    }

    #[test]
    fn losses_one_way_are_the_gains_the_other_way(a in any_roster(), b in any_roster()) {
        let of = |differences: Vec<Difference>, class| {
            let mut list: Vec<_> =
                differences.into_iter().filter(|d| d.class == class).map(|d| (d.who, d.what)).collect();
            list.sort();
            list
        };
        let (there, back) = (compare(&a, &b).unwrap(), compare(&b, &a).unwrap());
        prop_assert_eq!(of(there.clone(), Class::Loss), of(back.clone(), Class::Gain));
        prop_assert_eq!(of(there, Class::Gain), of(back, Class::Loss));
    }

    #[test]
    fn a_roster_reads_back_from_its_json(roster in any_roster()) {
        let json = serde_json::to_string(&roster).unwrap();
        prop_assert_eq!(serde_json::from_str::<Roster>(&json).unwrap(), roster);
    }
}
