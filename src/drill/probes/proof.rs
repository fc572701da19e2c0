//! Whether the sandbox proved, before anything started in it, that it has no way out.

use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::sandbox::Proof;

pub const KIND: Kind = Kind { id: "sandbox.proof", layer: Layer::Sandbox, grade: Grade::E2 };

#[must_use]
pub fn judge(proof: &Proof) -> Seen {
    let failed: Vec<&str> = proof.failed().map(|check| check.name.as_str()).collect();
    let seen = if proof.holds() {
        Seen::passed(format!("{} checks from inside and outside found no way out", proof.checks.len()))
    } else if failed.is_empty() {
        Seen::failed(Verdict::Exposed, "nothing was checked: the sandbox proved nothing")
    } else {
        Seen::failed(Verdict::Exposed, format!("the sandbox has a way out: {}", super::few(&failed)))
    };
    seen.with(&proof.checks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;
    use crate::sandbox::ProofCheck;

    fn proof(passed: &[bool]) -> Proof {
        let check = |passed: &bool| ProofCheck { name: "tcp".into(), passed: *passed, detail: String::new() };
        Proof { checks: passed.iter().map(check).collect() }
    }

    #[test]
    fn one_failed_check_or_none_at_all_is_no_proof() {
        assert_eq!(judge(&proof(&[true, true])).outcome, Outcome::Passed);
        assert_eq!(judge(&proof(&[true, false])).gate, Some(Verdict::Exposed));
        assert_eq!(judge(&proof(&[])).gate, Some(Verdict::Exposed));
    }
}
