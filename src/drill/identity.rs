//! What the differences between two rosters mean: for whom, and how bad. Pure rules over values.
//!
//! **Domains** by simple rules: guests are partners; whoever administers the system is a platform administrator; who has API
//! keys and no password is a service; the software's own users are left out; everybody else is workforce. Break-glass
//! accounts cannot be told from a roster; nobody is one here.
//!
//! **Weights** depend on the moment. At the very moment of the capture nothing may differ. A state earlier than the roster loses
//! those who came since, which is what going back means; what it revives is exposed all the same. A state later than the
//! roster may differ by right or by wrong, and nobody can say.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::verdict::Verdict;
use crate::access::compare::{Class, Difference};
use crate::access::roster::{CredentialKind, Person, PersonKind, Roster};

/// Whoever is in it can do everything (`base.group_system` of Odoo).
const ADMINISTRATORS: &str = "base.group_system";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    PlatformAdmin,
    BreakGlass,
    Workforce,
    Service,
    Partner,
}

impl Domain {
    pub const ALL: [Self; 5] = [Self::PlatformAdmin, Self::BreakGlass, Self::Workforce, Self::Service, Self::Partner];

    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::PlatformAdmin => "administrators",
            Self::BreakGlass => "break-glass",
            Self::Workforce => "workforce",
            Self::Service => "services",
            Self::Partner => "partners",
        }
    }
}

/// Whose domain a person is in; none for the software's own users.
#[must_use]
pub fn domain(person: &Person) -> Option<Domain> {
    let has = |kind| person.credentials.iter().any(|credential| credential.kind == kind);
    let signs_in_himself = [CredentialKind::Password, CredentialKind::Passkey, CredentialKind::OauthLink];
    Some(match person.kind {
        PersonKind::System => return None,
        PersonKind::External => Domain::Partner,
        PersonKind::Internal if person.effective.contains(ADMINISTRATORS) => Domain::PlatformAdmin,
        PersonKind::Internal if has(CredentialKind::ApiKey) && !signs_in_himself.into_iter().any(has) => {
            Domain::Service
        }
        PersonKind::Internal => Domain::Workforce,
    })
}

/// The restored state against the moment for which the roster is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    Same,
    Earlier,
    Later,
}

/// What a difference forces on the verdict; nothing where it is only worth knowing.
#[must_use]
pub fn weigh(difference: &Difference, moment: Moment, domain: Option<Domain>) -> Option<Verdict> {
    let shapes_access = ["record rule", "model access", "group ", "oauth provider"];
    let unclear = shapes_access.iter().any(|kind| difference.what.starts_with(kind));
    match (moment, difference.class) {
        (Moment::Later, _) => Some(Verdict::Inconclusive),
        (_, Class::Gain | Class::Stale | Class::Downgrade) | (Moment::Same, Class::Changed) => Some(Verdict::Exposed),
        (Moment::Same, Class::Loss) => Some(Verdict::LockedOut),
        (Moment::Earlier, Class::Loss) if domain == Some(Domain::PlatformAdmin) => Some(Verdict::LockedOut),
        (Moment::Earlier, Class::Loss) => Some(Verdict::Degraded),
        (Moment::Earlier, Class::Changed) => unclear.then_some(Verdict::Inconclusive),
    }
}

/// Domains by login; of the roster that should be, and for who is only in the other, of that one.
#[must_use]
pub fn domains(expected: &Roster, found: &Roster) -> BTreeMap<String, Domain> {
    let people = found.people.iter().chain(&expected.people);
    people.filter_map(|person| Some((person.login.clone(), domain(person)?))).collect()
}

/// The active people of a roster, by domain.
#[must_use]
pub fn census(roster: &Roster) -> BTreeMap<Domain, BTreeSet<String>> {
    let mut census: BTreeMap<Domain, BTreeSet<String>> = BTreeMap::new();
    for person in roster.people.iter().filter(|person| person.active) {
        if let Some(domain) = domain(person) {
            census.entry(domain).or_default().insert(person.login.clone());
        }
    }
    census
}

/// How many active administrators of the system have some way to sign in by themselves.
#[must_use]
pub fn working_administrators(roster: &Roster, now: Timestamp) -> usize {
    let ways = [CredentialKind::Password, CredentialKind::Passkey, CredentialKind::OauthLink];
    let works = |person: &&Person| {
        person.active
            && domain(person) == Some(Domain::PlatformAdmin)
            && person.credentials.iter().any(|c| ways.contains(&c.kind) && c.usable(now))
    };
    roster.people.iter().filter(works).count()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::access::roster::{Credential, FORMAT};
    use crate::ids::Digest;

    pub(crate) fn credential(kind: CredentialKind) -> Credential {
        let digest = Some(Digest::of(b"secret"));
        Credential { kind, id: None, name: None, digest, scope: None, expires: None, strength: None }
    }

    pub(crate) fn person(login: &str, kind: PersonKind, groups: &[&str], credentials: &[CredentialKind]) -> Person {
        let groups: BTreeSet<String> = groups.iter().map(ToString::to_string).collect();
        Person {
            id: login.to_owned(),
            login: login.to_owned(),
            active: true,
            kind,
            effective: groups.clone(),
            groups,
            places: BTreeSet::new(),
            credentials: credentials.iter().copied().map(credential).collect(),
        }
    }

    pub(crate) fn roster(people: Vec<Person>) -> Roster {
        let time: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        Roster {
            format: FORMAT,
            layer: "odoo".to_owned(),
            tenant: None,
            database: None,
            captured_at: time,
            as_of: time,
            lsn: None,
            key_check: Digest::of(b"key"),
            facts: BTreeMap::new(),
            people,
            groups: Vec::new(),
            policies: Vec::new(),
            omitted: Vec::new(),
        }
    }

    fn difference(class: Class, what: &str) -> Difference {
        Difference { class, who: "peter".to_owned(), what: what.to_owned(), detail: String::new() }
    }

    #[test]
    fn everybody_gets_the_domain_that_the_rules_say() {
        use CredentialKind::{ApiKey, OauthLink, Password};
        use PersonKind::{External, Internal, System};
        let cases = [
            (person("guest", External, &[ADMINISTRATORS], &[Password]), Some(Domain::Partner)),
            (person("bot", System, &[ADMINISTRATORS], &[Password]), None),
            (person("root", Internal, &[ADMINISTRATORS], &[ApiKey]), Some(Domain::PlatformAdmin)),
            (person("svc", Internal, &[], &[ApiKey]), Some(Domain::Service)),
            (person("clerk", Internal, &[], &[ApiKey, Password]), Some(Domain::Workforce)),
            (person("sso", Internal, &[], &[ApiKey, OauthLink]), Some(Domain::Workforce)),
            (person("nothing", Internal, &[], &[]), Some(Domain::Workforce)),
        ];
        for (person, expected) in cases {
            assert_eq!(domain(&person), expected, "{}", person.login);
        }
    }

    #[test]
    fn at_the_moment_of_the_capture_any_difference_counts() {
        for class in [Class::Gain, Class::Stale, Class::Downgrade, Class::Changed] {
            assert_eq!(weigh(&difference(class, "x"), Moment::Same, None), Some(Verdict::Exposed));
        }
        assert_eq!(weigh(&difference(Class::Loss, "x"), Moment::Same, None), Some(Verdict::LockedOut));
    }

    #[test]
    fn going_back_loses_the_newer_people_but_exposes_what_it_revives() {
        let weigh = |class, what, domain| weigh(&difference(class, what), Moment::Earlier, domain);
        assert_eq!(weigh(Class::Loss, "user", Some(Domain::Workforce)), Some(Verdict::Degraded));
        assert_eq!(weigh(Class::Loss, "user", Some(Domain::PlatformAdmin)), Some(Verdict::LockedOut));
        assert_eq!(weigh(Class::Stale, "password", None), Some(Verdict::Exposed));
        assert_eq!(weigh(Class::Changed, "record rule 'x'", None), Some(Verdict::Inconclusive));
        assert_eq!(weigh(Class::Changed, "parameter 'x'", None), None);
    }

    #[test]
    fn what_changed_after_the_capture_cannot_be_judged() {
        for class in [Class::Gain, Class::Loss, Class::Stale, Class::Downgrade, Class::Changed] {
            assert_eq!(weigh(&difference(class, "x"), Moment::Later, None), Some(Verdict::Inconclusive));
        }
    }

    #[test]
    fn an_administrator_who_cannot_sign_in_is_no_way_in() {
        use CredentialKind::{ApiKey, Password};
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let admin =
            |credentials: &[CredentialKind]| person("admin", PersonKind::Internal, &[ADMINISTRATORS], credentials);
        assert_eq!(working_administrators(&roster(vec![admin(&[Password])]), now), 1);
        assert_eq!(working_administrators(&roster(vec![admin(&[ApiKey])]), now), 0);
        let archived = Person { active: false, ..admin(&[Password]) };
        assert_eq!(working_administrators(&roster(vec![archived]), now), 0);
    }
}
