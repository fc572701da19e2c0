//! Who may do what in the restored database, against the roster that says who should: in both directions, class by class.
//!
//! The comparison is one; what it found is asked per class, so that the report says "nobody gained anything" and "nobody lost
//! anything" separately. Equal digests are evidence of the material kind: no login is claimed here.

use serde_json::json;

use crate::access::compare::{Class, Difference};
use crate::access::roster::Roster;
use crate::drill::expected::facts;
use crate::drill::identity::{self, Domain, Moment};
use crate::drill::probe::{Grade, Kind, Layer, Probes, Seen};
use crate::drill::verdict::Verdict;

/// Class by class: the probe, and what it says when it passes.
const CLASSES: [(Class, Kind, &str); 5] = [
    (Class::Gain, kind("odoo.gained"), "nobody can do more than he should"),
    (Class::Stale, kind("odoo.revived"), "nothing that was replaced works again"),
    (Class::Downgrade, kind("odoo.weaker"), "nobody is let in by weaker means"),
    (Class::Loss, kind("odoo.lost"), "nobody has lost anything"),
    (Class::Changed, kind("odoo.changed"), "nothing else about access differs"),
];

const ADMINISTRATOR: Kind = Kind { id: "odoo.administrator", layer: Layer::Odoo, grade: Grade::AMaterial };

const fn kind(id: &'static str) -> Kind {
    Kind { id, layer: Layer::Odoo, grade: Grade::AMaterial }
}

/// What was compared.
pub struct Compared<'a> {
    pub expected: &'a Roster,
    pub found: &'a Roster,
    pub moment: Moment,
    /// With names; the details that go into probes are counted, not named.
    pub differences: &'a [Difference],
}

/// Adds the probes; `seconds` is what the comparison took.
pub fn add(probes: &mut Probes<'_>, compared: &Compared<'_>, seconds: f64) {
    for (class, kind, fine) in CLASSES {
        probes.add(kind, judge(class, fine, compared), seconds / 6.0);
    }
    probes.add(ADMINISTRATOR, administrator(compared.found), seconds / 6.0);
}

/// Nothing to compare with: the questions stay open, all of them.
pub fn add_missing(probes: &mut Probes<'_>, why: &str) {
    for (_, kind, _) in CLASSES {
        probes.add(kind, Seen::missing(why), 0.0);
    }
}

fn judge(class: Class, fine: &str, compared: &Compared<'_>) -> Seen {
    let domains = identity::domains(compared.expected, compared.found);
    let of_class: Vec<&Difference> = compared.differences.iter().filter(|d| d.class == class).collect();
    let weight = |d: &&Difference| identity::weigh(d, compared.moment, domains.get(&d.who).copied());
    let gate = of_class.iter().filter_map(weight).min();
    let when = match compared.moment {
        Moment::Same => "",
        Moment::Earlier => ", against what is known today",
        Moment::Later => ", since the last capture",
    };
    let seen = match (of_class.len(), gate) {
        (0, _) => Seen::passed(format!("{fine}{when}")),
        (number, Some(gate)) => Seen::failed(gate, format!("{}{when}", found(class, number))),
        (number, None) => Seen::passed(format!("{}, none of which gives or takes anything", found(class, number))),
    };
    let mut facts = json!({ "moment": compared.moment, "differences": of_class.len() });
    if class == Class::Gain {
        facts["expected"] = json!(self::facts(compared.expected));
        facts["found"] = json!(self::facts(compared.found));
    }
    seen.with(facts)
}

fn found(class: Class, number: usize) -> String {
    let what = match class {
        Class::Gain => "more than should be: something gained",
        Class::Stale => "replaced secrets work again",
        Class::Downgrade => "weaker ways in",
        Class::Loss => "less than should be: something lost",
        Class::Changed => "further differences",
    };
    format!("{number} × {what} (see what differs)")
}

/// Somebody must be able to administer what comes back.
fn administrator(found: &Roster) -> Seen {
    match identity::working_administrators(found, found.captured_at) {
        0 => Seen::failed(Verdict::LockedOut, "no administrator is left who could sign in by himself"),
        number => {
            let who = super::count(number, "administrator");
            Seen::passed(format!("{who} with a way to sign in ({})", Domain::PlatformAdmin.words()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::roster::{CredentialKind, PersonKind};
    use crate::drill::identity::tests::{person, roster};
    use crate::drill::probe::Outcome;
    use crate::drill::verdict::judge as verdict;
    use crate::watch::Quiet;

    fn verdict_of(differences: &[Difference], found: &Roster) -> Verdict {
        let quiet = Quiet::default();
        let mut probes = Probes::new(&quiet);
        let expected = roster(Vec::new());
        add(&mut probes, &Compared { expected: &expected, found, moment: Moment::Same, differences }, 0.6);
        // Some layer must have answered for a good verdict.
        let answered = Kind { id: "odoo.sign_in", layer: Layer::Odoo, grade: Grade::AReal };
        probes.add(answered, Seen::passed("in"), 0.0);
        verdict(&probes.made).verdict
    }

    fn with_admin() -> Roster {
        roster(vec![person("admin", PersonKind::Internal, &["base.group_system"], &[CredentialKind::Password])])
    }

    #[test]
    fn each_class_of_difference_reaches_the_verdict() {
        let cases = [
            (Class::Gain, Verdict::Exposed),
            (Class::Stale, Verdict::Exposed),
            (Class::Downgrade, Verdict::Exposed),
            (Class::Loss, Verdict::LockedOut),
            (Class::Changed, Verdict::Exposed),
        ];
        assert_eq!(verdict_of(&[], &with_admin()), Verdict::Survives);
        for (class, expected) in cases {
            let difference = Difference { class, who: "a".into(), what: "b".into(), detail: "c".into() };
            assert_eq!(verdict_of(&[difference], &with_admin()), expected, "{class:?}");
        }
    }

    #[test]
    fn without_an_administrator_everybody_is_locked_out() {
        assert_eq!(verdict_of(&[], &roster(Vec::new())), Verdict::LockedOut);
    }

    #[test]
    fn without_a_roster_nothing_can_be_said() {
        let quiet = Quiet::default();
        let mut probes = Probes::new(&quiet);
        add_missing(&mut probes, "no roster was captured");
        assert!(probes.made.iter().all(|probe| probe.outcome == Outcome::NotAsked));
        assert_eq!(verdict(&probes.made).verdict, Verdict::Inconclusive);
    }
}
