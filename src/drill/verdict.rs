//! The verdict over a drill's probes: gated, never an average, with its reasons. Pure.
//!
//! Each probe says what it alone forces; the verdict is the worst of these, in the order in which [`Verdict`] lists them. A positive
//! verdict names the identity layers that answered (`SURVIVES[odoo,postgres]`): one that was not asked is not among them,
//! and where none answered there is no positive verdict.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};

use super::probe::{Layer, Outcome, Probe};

/// The gates, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// The backup is damaged, or not what it says.
    Invalid,
    /// Somebody can do what he should not.
    Exposed,
    /// Somebody who must get in cannot, or not in time.
    LockedOut,
    /// It was not asked, or the answer proves nothing.
    Inconclusive,
    /// It works, and something is less than it was.
    Degraded,
    Survives,
}

impl Verdict {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "INVALID",
            Self::Exposed => "EXPOSED",
            Self::LockedOut => "LOCKED_OUT",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Degraded => "DEGRADED",
            Self::Survives => "SURVIVES",
        }
    }

    /// What it means, for somebody who reads it at night.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Invalid => "The backup is damaged, or is not what it says. Do not rely on it.",
            Self::Exposed => "The tenant comes back, and somebody could do what he should not.",
            Self::LockedOut => "The tenant comes back, and somebody who must get in cannot.",
            Self::Inconclusive => "The tenant may come back. Something that matters was not asked, or gave no answer.",
            Self::Degraded => "The tenant comes back, with something less than it had.",
            Self::Survives => "The tenant comes back; in the layers named, nobody was lost and nobody gained.",
        }
    }

    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::Survives | Self::Degraded)
    }
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    pub verdict: Verdict,
    pub probe: String,
    pub detail: String,
}

/// A verdict with the layers it speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    /// Identity layers that answered.
    pub layers: BTreeSet<Layer>,
    /// Worst first; empty where all is well.
    pub reasons: Vec<Reason>,
}

impl fmt::Display for Judgement {
    /// `SURVIVES[odoo,postgres]`; a negative verdict stands by itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verdict.name())?;
        if self.verdict.is_good() {
            let names: Vec<&str> = self.layers.iter().map(|layer| layer.name()).collect();
            write!(f, "[{}]", names.join(","))?;
        }
        Ok(())
    }
}

impl Serialize for Judgement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Judges.
#[must_use]
pub fn judge(probes: &[Probe]) -> Judgement {
    let mut reasons: Vec<Reason> = probes.iter().filter_map(reason).collect();
    let layers = answered(probes);
    if layers.is_empty() {
        let detail = "no layer answered: nobody was seen getting in".to_owned();
        reasons.push(Reason { verdict: Verdict::Inconclusive, probe: "verdict".to_owned(), detail });
    }
    reasons.sort_by_key(|reason| reason.verdict);
    let verdict = reasons.first().map_or(Verdict::Survives, |reason| reason.verdict);
    Judgement { verdict, layers, reasons }
}

fn reason(probe: &Probe) -> Option<Reason> {
    let gate = probe.gate.filter(|gate| *gate != Verdict::Survives);
    let verdict = match probe.outcome {
        Outcome::Passed => None,
        // A failure that names no gate is one that nobody thought about: nothing is proven then.
        Outcome::Failed => Some(gate.unwrap_or(Verdict::Inconclusive)),
        Outcome::NotAsked => gate,
    }?;
    Some(Reason { verdict, probe: probe.id.clone(), detail: probe.detail.clone() })
}

/// Identity layers of which some probe passed that the layer itself answered.
fn answered(probes: &[Probe]) -> BTreeSet<Layer> {
    let answers = |probe: &&Probe| {
        probe.outcome == Outcome::Passed
            && Layer::IDENTITY.contains(&probe.layer)
            && probe.grade.is_some_and(super::probe::Grade::answers)
    };
    probes.iter().filter(answers).map(|probe| probe.layer).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::probe::Grade;
    use super::*;

    fn probe(layer: Layer, grade: Grade, outcome: Outcome, gate: Option<Verdict>) -> Probe {
        let grade = (outcome != Outcome::NotAsked).then_some(grade);
        let (id, detail) = ("a.probe".to_owned(), "what was seen".to_owned());
        Probe { id, layer, grade, outcome, gate, detail, seconds: 0.0, facts: Value::Null }
    }

    fn fine() -> Vec<Probe> {
        vec![
            probe(Layer::Postgres, Grade::E1, Outcome::Passed, None),
            probe(Layer::Odoo, Grade::AReal, Outcome::Passed, None),
            probe(Layer::Filestore, Grade::E2, Outcome::Passed, None),
        ]
    }

    #[test]
    fn all_well_survives_and_names_the_layers_that_answered() {
        assert_eq!(judge(&fine()).to_string(), "SURVIVES[odoo,postgres]");
    }

    #[test]
    fn a_layer_that_was_only_compared_is_not_spoken_for() {
        let mut probes = fine();
        probes[1].grade = Some(Grade::AMaterial);
        assert_eq!(judge(&probes).to_string(), "SURVIVES[postgres]");
        probes[1].grade = Some(Grade::AProxy);
        assert_eq!(judge(&probes).to_string(), "SURVIVES[postgres]");
    }

    #[test]
    fn where_no_layer_answered_nothing_survives() {
        assert_eq!(judge(&[]).verdict, Verdict::Inconclusive);
        assert_eq!(judge(&fine()[2..]).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn each_gate_gives_its_verdict_and_the_worst_comes_first() {
        let gates = [Verdict::Degraded, Verdict::Inconclusive, Verdict::LockedOut, Verdict::Exposed, Verdict::Invalid];
        let mut probes = fine();
        for gate in gates {
            probes.push(probe(Layer::Odoo, Grade::E0, Outcome::Failed, Some(gate)));
            let judged = judge(&probes);
            assert_eq!((judged.verdict, judged.reasons[0].verdict), (gate, gate));
        }
        assert_eq!(judge(&probes).to_string(), "INVALID");
    }

    #[test]
    fn what_should_have_been_asked_is_never_green() {
        let mut probes = fine();
        probes.push(probe(Layer::Odoo, Grade::AReal, Outcome::NotAsked, Some(Verdict::Inconclusive)));
        assert_eq!(judge(&probes).verdict, Verdict::Inconclusive);
    }

    fn any_verdict() -> impl Strategy<Value = Verdict> {
        prop::sample::select(vec![
            Verdict::Invalid,
            Verdict::Exposed,
            Verdict::LockedOut,
            Verdict::Inconclusive,
            Verdict::Degraded,
            Verdict::Survives,
        ])
    }

    fn any_probe() -> impl Strategy<Value = Probe> {
        let layers = vec![Layer::Odoo, Layer::Postgres, Layer::Filestore, Layer::Sandbox, Layer::Restore];
        let grades = vec![Grade::E0, Grade::E1, Grade::E2, Grade::AMaterial, Grade::AProxy, Grade::AReal];
        let outcomes = vec![Outcome::Passed, Outcome::Failed, Outcome::NotAsked];
        (
            prop::sample::select(layers),
            prop::sample::select(grades),
            prop::sample::select(outcomes),
            prop::option::of(any_verdict()),
        )
            .prop_map(|(layer, grade, outcome, gate)| probe(layer, grade, outcome, gate))
    }

    proptest! {
        #[test]
        fn a_failed_probe_more_never_makes_it_better(
            probes in prop::collection::vec(any_probe(), 0..12), gate in prop::option::of(any_verdict()),
        ) {
            let before = judge(&probes).verdict;
            let mut more = probes.clone();
            more.push(probe(Layer::Odoo, Grade::AReal, Outcome::Failed, gate));
            prop_assert!(judge(&more).verdict <= before);
        }

        #[test]
        fn the_order_of_the_probes_decides_nothing(probes in prop::collection::vec(any_probe(), 0..12)) {
            let mut turned = probes.clone();
            turned.reverse();
            prop_assert_eq!(judge(&probes).to_string(), judge(&turned).to_string());
        }

        #[test]
        fn survival_means_that_no_probe_failed_and_some_layer_answered(
            probes in prop::collection::vec(any_probe(), 0..12),
        ) {
            let judged = judge(&probes);
            if judged.verdict == Verdict::Survives {
                prop_assert!(!judged.layers.is_empty() && judged.reasons.is_empty());
                prop_assert!(probes.iter().all(|probe| probe.outcome != Outcome::Failed));
            } else {
                prop_assert!(!judged.reasons.is_empty());
            }
        }

        #[test]
        fn a_verdict_speaks_for_no_layer_that_did_not_answer(probes in prop::collection::vec(any_probe(), 0..12)) {
            for layer in judge(&probes).layers {
                prop_assert!(probes.iter().any(|p| p.layer == layer
                    && p.outcome == Outcome::Passed && p.grade.is_some_and(Grade::answers)));
            }
        }
    }
}
