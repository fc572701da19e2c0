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
use crate::drill::pseudonym::Pseudonyms;
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

/// A restored roster compared with one that says who should be able to do what.
pub struct Compared {
    pub expected: Roster,
    pub found: Roster,
    pub moment: Moment,
    /// With names.
    pub differences: Vec<Difference>,
}

impl Compared {
    /// What a difference forces on the verdict.
    #[must_use]
    pub fn weigh(&self, difference: &Difference) -> Option<Verdict> {
        let domains = identity::domains(&self.expected, &self.found);
        identity::weigh(difference, self.moment, domains.get(&difference.who).copied())
    }
}

/// Adds the probes over all comparisons that were made; there is at least one. `seconds` is what they took.
pub fn add(probes: &mut Probes<'_>, compared: &[Compared], names: &Pseudonyms, seconds: f64) {
    let each = seconds / 6.0;
    for (class, kind, fine) in CLASSES {
        probes.add(kind, judge(class, fine, compared, names), each);
    }
    if let Some(last) = compared.last() {
        probes.add(ADMINISTRATOR, administrator(&last.found), each);
    }
}

/// No comparison was made: `seen` says why, for every question.
pub fn add_none(probes: &mut Probes<'_>, seen: &Seen) {
    probes.add_all(&CLASSES.map(|(_, kind, _)| kind), seen);
}

fn judge(class: Class, fine: &str, compared: &[Compared], names: &Pseudonyms) -> Seen {
    let of_class: Vec<(&Compared, &Difference)> = compared
        .iter()
        .flat_map(|compared| compared.differences.iter().map(move |difference| (compared, difference)))
        .filter(|(_, difference)| difference.class == class)
        .collect();
    let gate = of_class.iter().filter_map(|(compared, difference)| compared.weigh(difference)).min();
    let seen = match (of_class.first(), gate) {
        (None, _) => Seen::passed(format!("{fine}{}", against(compared.last().map(|compared| compared.moment)))),
        (Some((first, difference)), gate) => {
            let more = of_class.len() - 1;
            let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            let when = against(Some(first.moment));
            let detail = format!("{}{when}: {}{more}", words(class), names.hide_in(&difference.detail));
            match gate {
                Some(gate) => Seen::failed(gate, detail),
                None => Seen::passed(format!("{detail}; it gives and takes nothing by itself")),
            }
        }
    };
    let moments: Vec<Moment> = compared.iter().map(|compared| compared.moment).collect();
    let mut about = json!({ "moments": moments, "differences": of_class.len() });
    if class == Class::Gain {
        let rosters =
            |compared: &Compared| json!({ "expected": facts(&compared.expected), "found": facts(&compared.found) });
        about["rosters"] = json!(compared.iter().map(rosters).collect::<Vec<_>>());
    }
    seen.with(about)
}

/// With what it was compared, where that is not the moment itself.
fn against(moment: Option<Moment>) -> &'static str {
    match moment {
        None | Some(Moment::Same) => "",
        Some(Moment::Earlier) => ", against what is known since",
        Some(Moment::Later) => ", against the last capture before it",
    }
}

fn words(class: Class) -> &'static str {
    match class {
        Class::Gain => "somebody can do more than he should",
        Class::Stale => "something that was replaced works again",
        Class::Downgrade => "somebody is let in by weaker means",
        Class::Loss => "somebody lost something",
        Class::Changed => "something else differs",
    }
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
        let (expected, found, differences) = (roster(Vec::new()), found.clone(), differences.to_vec());
        let compared = Compared { expected, found, moment: Moment::Same, differences };
        add(&mut probes, &[compared], &Pseudonyms::default(), 0.6);
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
        add_none(&mut probes, &Seen::missing("no roster was captured"));
        assert!(probes.made.iter().all(|probe| probe.outcome == Outcome::NotAsked));
        assert_eq!(verdict(&probes.made).verdict, Verdict::Inconclusive);
    }
}
