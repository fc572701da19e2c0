//! The restore itself: whether it worked, reached what was asked, used no key but the tenant's and the cluster's, and was in time.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use serde_json::json;

use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::{self, Failure};
use crate::ids::Scope;
use crate::restore::Restored;

pub const WORKED: Kind = Kind { id: "restore.worked", layer: Layer::Restore, grade: Grade::E2 };
pub const REACHED: Kind = Kind { id: "restore.reached", layer: Layer::Restore, grade: Grade::E2 };
pub const KEYS: Kind = Kind { id: "restore.keys", layer: Layer::Restore, grade: Grade::E2 };
pub const IN_TIME: Kind = Kind { id: "restore.in_time", layer: Layer::Restore, grade: Grade::E2 };
pub const DESTROYED: Kind = Kind { id: "sandbox.destroyed", layer: Layer::Sandbox, grade: Grade::E2 };

/// What a restore that failed means.
#[must_use]
pub fn broken(failure: &Failure) -> Seen {
    let gate = match failure.kind {
        failure::Kind::Integrity => Verdict::Invalid,
        // What was asked for does not come back: nobody gets into it.
        failure::Kind::NotReached => Verdict::LockedOut,
        failure::Kind::Failed | failure::Kind::Usage | failure::Kind::Refused | failure::Kind::Unreachable => {
            Verdict::Inconclusive
        }
    };
    Seen::failed(gate, format!("the restore failed: {failure}"))
        .with(json!({ "kind": failure.kind, "next": failure.next }))
}

#[must_use]
pub fn reached(restored: &Restored) -> Seen {
    let (asked, reached) = (&restored.asked, &restored.reached);
    let facts = json!({ "target": restored.target, "reached": reached });
    if restored.met {
        Seen::passed(format!("asked for {asked}, reached {}", reached.lsn)).with(facts)
    } else {
        Seen::failed(Verdict::LockedOut, format!("asked for {asked}, and reached only {}", reached.lsn)).with(facts)
    }
}

/// Which keys were used is what the reader counted, not what was meant.
#[must_use]
pub fn keys(opened: &BTreeSet<Scope>, allowed: &BTreeSet<Scope>) -> Seen {
    let list = |scopes: Vec<&Scope>| scopes.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let foreign: Vec<&Scope> = opened.difference(allowed).collect();
    let seen = if foreign.is_empty() {
        Seen::passed(format!("keys used: {}; nobody else's", list(opened.iter().collect())))
    } else {
        Seen::failed(Verdict::Exposed, format!("keys of others were used: {}", list(foreign)))
    };
    seen.with(json!({ "opened": opened }))
}

/// Time to the first sign-in where one was tried, else to the running server, against the tenant's objective.
#[must_use]
pub fn in_time(rto: Option<SignedDuration>, server_up: f64, first_sign_in: Option<f64>) -> Seen {
    let Some(rto) = rto else { return Seen::not_asked("no rto is configured for this tenant") };
    let (took, what) = first_sign_in.map_or((server_up, "the server ran"), |took| (took, "somebody signed in"));
    let allowed = rto.as_secs_f64();
    let facts = json!({ "took_seconds": took, "allowed_seconds": allowed });
    if took <= allowed {
        Seen::passed(format!("{what} after {took:.0} s; {allowed:.0} s are allowed")).with(facts)
    } else {
        Seen::failed(Verdict::LockedOut, format!("{what} only after {took:.0} s; {allowed:.0} s are allowed"))
            .with(facts)
    }
}

/// How the sandbox ended: processes ended, and whether its folder is gone.
#[must_use]
pub fn destroyed(ended_processes: Option<usize>, folder_gone: bool) -> Seen {
    let facts = json!({ "ended_processes": ended_processes, "folder_gone": folder_gone });
    let seen = match (ended_processes, folder_gone) {
        (Some(number), true) => {
            let what = if number == 1 { "1 process".to_owned() } else { format!("{number} processes") };
            Seen::passed(format!("the sandbox is gone: {what} ended, none left, its folder removed"))
        }
        (Some(_), false) => Seen::failed(Verdict::Exposed, "restored data was left in the sandbox's folder"),
        (None, _) => Seen::failed(Verdict::Inconclusive, "it could not be shown that the sandbox's processes ended"),
    };
    seen.with(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    #[test]
    fn a_damaged_backup_is_invalid_and_a_machine_in_trouble_proves_nothing() {
        let gate = |kind| broken(&Failure::new(kind, "pack", "altered", "")).gate;
        assert_eq!(gate(failure::Kind::Integrity), Some(Verdict::Invalid));
        assert_eq!(gate(failure::Kind::NotReached), Some(Verdict::LockedOut));
        assert_eq!(gate(failure::Kind::Unreachable), Some(Verdict::Inconclusive));
    }

    #[test]
    fn another_tenant_s_key_exposes() {
        let scope = |text: &str| text.parse::<Scope>().unwrap();
        let allowed = BTreeSet::from([scope("tenant/acme"), scope("cluster/main")]);
        assert_eq!(keys(&allowed, &allowed).outcome, Outcome::Passed);
        let opened = BTreeSet::from([scope("tenant/acme"), scope("tenant/globex")]);
        assert_eq!(keys(&opened, &allowed).gate, Some(Verdict::Exposed));
    }

    #[test]
    fn too_late_is_locked_out_and_the_sign_in_is_what_counts() {
        let rto = Some(SignedDuration::from_secs(60));
        assert_eq!(in_time(rto, 10.0, Some(59.0)).outcome, Outcome::Passed);
        assert_eq!(in_time(rto, 10.0, Some(61.0)).gate, Some(Verdict::LockedOut));
        assert_eq!(in_time(rto, 61.0, None).gate, Some(Verdict::LockedOut));
        assert_eq!(in_time(None, 61.0, None).outcome, Outcome::NotAsked);
    }

    #[test]
    fn what_is_left_of_a_sandbox_is_said() {
        assert_eq!(destroyed(Some(9), true).outcome, Outcome::Passed);
        assert_eq!(destroyed(Some(9), false).gate, Some(Verdict::Exposed));
        assert_eq!(destroyed(None, true).gate, Some(Verdict::Inconclusive));
    }
}
