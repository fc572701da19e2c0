//! One check in a drill: what it asked, how, and what came of it.
//!
//! A probe is one file in `probes/` with a function that asks and a pure one that judges what was seen. What a probe forces on
//! the verdict ([`Seen::gate`]) is decided where it is judged; the verdict only takes the worst. A probe that could not be
//! asked is `not_asked` and never green; one that broke on the way is `failed`, and proves nothing either way.

use std::future::Future;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::verdict::Verdict;
use crate::failure::{self, Failure};
use crate::watch::Watch;

/// What is asked. The first six are the identity layers of the model (L1 to L6), for which a verdict can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    Idp,
    Odoo,
    Postgres,
    Kubernetes,
    Iam,
    Secrets,
    Filestore,
    Sandbox,
    Restore,
}

impl Layer {
    /// L1 to L6.
    pub const IDENTITY: [Self; 6] = [Self::Idp, Self::Odoo, Self::Postgres, Self::Kubernetes, Self::Iam, Self::Secrets];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idp => "idp",
            Self::Odoo => "odoo",
            Self::Postgres => "postgres",
            Self::Kubernetes => "kubernetes",
            Self::Iam => "iam",
            Self::Secrets => "secrets",
            Self::Filestore => "filestore",
            Self::Sandbox => "sandbox",
            Self::Restore => "restore",
        }
    }
}

/// How good the evidence is. The last three are of authentication; only the first of them is a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Grade {
    /// Declared: the configuration is equal.
    E0,
    /// The authority answered.
    E1,
    /// Observed: a real attempt.
    E2,
    /// The stored verifiers are equal.
    #[serde(rename = "A-material")]
    AMaterial,
    /// Somebody was let in without proving who he is: speaks of authorisation only.
    #[serde(rename = "A-proxy")]
    AProxy,
    /// A canary's real factor through the real flow.
    #[serde(rename = "A-real")]
    AReal,
}

impl Grade {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::E0 => "E0",
            Self::E1 => "E1",
            Self::E2 => "E2",
            Self::AMaterial => "A-material",
            Self::AProxy => "A-proxy",
            Self::AReal => "A-real",
        }
    }

    /// Whether the layer itself answered: an equal configuration or digest is no answer, a minted session no login.
    #[must_use]
    pub fn answers(self) -> bool {
        matches!(self, Self::E1 | Self::E2 | Self::AReal)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Passed,
    Failed,
    NotAsked,
}

impl Outcome {
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotAsked => "not asked",
        }
    }
}

/// What a probe saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub outcome: Outcome,
    /// What this alone forces on the verdict; nothing where it passed, or was not needed.
    pub gate: Option<Verdict>,
    /// One sentence that a tired person understands.
    pub detail: String,
    /// What was seen, raw, for the evidence; no secret and no person's name.
    pub facts: Value,
}

impl Seen {
    #[must_use]
    pub fn passed(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Passed, gate: None, detail: detail.into(), facts: Value::Null }
    }

    #[must_use]
    pub fn failed(gate: Verdict, detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, gate: Some(gate), detail: detail.into(), facts: Value::Null }
    }

    /// Nothing asks for it here.
    #[must_use]
    pub fn not_asked(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::NotAsked, gate: None, detail: detail.into(), facts: Value::Null }
    }

    /// It should have been asked and could not be: no verdict can be positive without it.
    #[must_use]
    pub fn missing(detail: impl Into<String>) -> Self {
        Self { gate: Some(Verdict::Inconclusive), ..Self::not_asked(detail) }
    }

    #[must_use]
    pub fn with(self, facts: impl Serialize) -> Self {
        Self { facts: serde_json::to_value(facts).unwrap_or_default(), ..self }
    }
}

/// A probe that was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probe {
    pub id: String,
    pub layer: Layer,
    /// None where nothing was asked.
    pub grade: Option<Grade>,
    pub outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Verdict>,
    pub detail: String,
    pub seconds: f64,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub facts: Value,
}

/// What a probe is, before it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub id: &'static str,
    pub layer: Layer,
    pub grade: Grade,
}

/// The probes of one drill, in the order they were made.
pub struct Probes<'w> {
    pub made: Vec<Probe>,
    watch: &'w dyn Watch,
    /// Put behind the ids of probes of one database where the tenant has several: `:acme_test`.
    suffix: String,
}

impl<'w> Probes<'w> {
    #[must_use]
    pub fn new(watch: &'w dyn Watch) -> Self {
        Self { made: Vec::new(), watch, suffix: String::new() }
    }

    /// From now on, probes are about this database.
    pub fn about(&mut self, database: Option<&str>) {
        self.suffix = database.map(|name| format!(":{name}")).unwrap_or_default();
    }

    /// Makes a probe. One that breaks has failed, and leaves the question open.
    pub async fn make(&mut self, kind: Kind, ask: impl Future<Output = Result<Seen, Failure>>) -> Outcome {
        self.watch.stage(&format!("probe {}{}", kind.id, self.suffix), None);
        let begun = Instant::now();
        let seen = ask.await.unwrap_or_else(|failure| Seen::broken(&failure));
        self.add(kind, seen, begun.elapsed().as_secs_f64())
    }

    /// Adds the same for several.
    pub fn add_all(&mut self, kinds: &[Kind], seen: &Seen) {
        for kind in kinds {
            self.add(*kind, seen.clone(), 0.0);
        }
    }

    /// Adds what was seen already.
    pub fn add(&mut self, kind: Kind, seen: Seen, seconds: f64) -> Outcome {
        let outcome = seen.outcome;
        self.made.push(Probe {
            id: format!("{}{}", kind.id, self.suffix),
            layer: kind.layer,
            grade: (outcome != Outcome::NotAsked).then_some(kind.grade),
            outcome,
            gate: seen.gate,
            detail: seen.detail,
            seconds,
            facts: seen.facts,
        });
        outcome
    }
}

impl Seen {
    /// A probe that broke: it proves nothing, unless it broke on damage.
    #[must_use]
    pub fn broken(failure: &Failure) -> Self {
        let gate = match failure.kind {
            failure::Kind::Integrity => Verdict::Invalid,
            _ => Verdict::Inconclusive,
        };
        Self::failed(gate, format!("could not be made: {failure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind as FailureKind;
    use crate::watch::Quiet;

    const KIND: Kind = Kind { id: "postgres.test", layer: Layer::Postgres, grade: Grade::E1 };

    #[tokio::test]
    async fn a_probe_that_breaks_has_failed_and_proves_nothing_but_damage() {
        let quiet = Quiet::default();
        let mut probes = Probes::new(&quiet);
        let broken = Failure::new(FailureKind::Unreachable, "server", "is gone", "");
        assert_eq!(probes.make(KIND, async { Err(broken) }).await, Outcome::Failed);
        assert_eq!(probes.made[0].gate, Some(Verdict::Inconclusive));
        assert_eq!(probes.made[0].detail, "could not be made: server: is gone");
        let damaged = Failure::new(FailureKind::Integrity, "pack", "was altered", "");
        assert_eq!(Seen::broken(&damaged).gate, Some(Verdict::Invalid));
    }

    #[tokio::test]
    async fn what_was_not_asked_has_no_grade() {
        let quiet = Quiet::default();
        let mut probes = Probes::new(&quiet);
        probes.about(Some("acme"));
        probes.make(KIND, async { Ok(Seen::not_asked("nobody configured it")) }).await;
        assert_eq!((probes.made[0].grade, probes.made[0].id.as_str()), (None, "postgres.test:acme"));
    }

    #[test]
    fn an_equal_digest_and_a_minted_session_are_no_answer() {
        let answers = [Grade::E1, Grade::E2, Grade::AReal];
        for grade in [Grade::E0, Grade::E1, Grade::E2, Grade::AMaterial, Grade::AProxy, Grade::AReal] {
            assert_eq!(grade.answers(), answers.contains(&grade), "{}", grade.name());
        }
    }
}
