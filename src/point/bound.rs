//! Whose a database is at a position, and every scope that its bytes were sealed to on the way there. Pure.
//!
//! A binding is (OID, scope, interval). A database that nobody had mapped lies under a spare first and under its tenant's key
//! from some LSN on: the two bindings meet, and both keys are needed. An OID that was dropped and used again is another
//! database: its bindings do not meet, and the earlier one's key is not asked for.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{DbOid, Lsn, Scope};
use crate::repo::envelope::Binding;

/// The databases of a restore, and the scopes that must be opened for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bound {
    pub databases: BTreeSet<DbOid>,
    pub scopes: BTreeSet<Scope>,
}

/// What belongs to `owner` (to anybody, when `None`) at `lsn`, for a replay that begins at `from`.
///
/// `bindings` are those of all envelopes of the run, later ones included: a mapping that came later says whose a spare is.
#[must_use]
pub fn bound(bindings: &[Binding], owner: Option<&Scope>, from: Lsn, lsn: Lsn) -> Bound {
    let mut found = Bound::default();
    for (oid, line) in lines(bindings) {
        let holds = |binding: &Binding| binding.from_lsn <= lsn && binding.to_lsn.is_none_or(|end| end > lsn);
        let Some(now) = line.iter().position(holds) else { continue };
        let onward = life(&line, now, 1);
        if owner.is_some_and(|owner| onward.iter().all(|binding| binding.scope != *owner)) {
            continue;
        }
        found.databases.insert(oid);
        let back = life(&line, now, -1);
        let needed = back.iter().filter(|binding| binding.to_lsn.is_none_or(|end| end > from));
        found.scopes.extend(needed.map(|binding| binding.scope.clone()));
    }
    found
}

/// Each OID's bindings in order, each once: an earlier envelope did not know yet where one ended.
fn lines(bindings: &[Binding]) -> BTreeMap<DbOid, Vec<Binding>> {
    let mut known: BTreeMap<(DbOid, Lsn), Binding> = BTreeMap::new();
    for binding in bindings {
        let one = known.entry((binding.oid, binding.from_lsn)).or_insert_with(|| binding.clone());
        one.to_lsn = one.to_lsn.or(binding.to_lsn);
    }
    let mut lines: BTreeMap<DbOid, Vec<Binding>> = BTreeMap::new();
    for ((oid, _), binding) in known {
        lines.entry(oid).or_default().push(binding);
    }
    lines
}

/// The bindings of one database from `now` on (or back): as long as one begins exactly where the one before ended.
fn life(line: &[Binding], now: usize, step: isize) -> Vec<&Binding> {
    let mut life: Vec<&Binding> = line.get(now).into_iter().collect();
    let mut at = now;
    while let Some(next) = at.checked_add_signed(step)
        && let (Some(here), Some(there)) = (line.get(at), line.get(next))
    {
        let (earlier, later) = if step > 0 { (here, there) } else { (there, here) };
        if earlier.to_lsn != Some(later.from_lsn) {
            break;
        }
        life.push(there);
        at = next;
    }
    life
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(oid: u32, scope: &str, from: u64, to: Option<u64>) -> Binding {
        Binding { oid: DbOid(oid), scope: scope.parse().unwrap(), from_lsn: Lsn(from), to_lsn: to.map(Lsn) }
    }

    fn asked(bindings: &[Binding], owner: &str, from: u64, lsn: u64) -> (Vec<u32>, Vec<String>) {
        let owner: Scope = owner.parse().unwrap();
        let found = bound(bindings, Some(&owner), Lsn(from), Lsn(lsn));
        (found.databases.iter().map(|oid| oid.0).collect(), found.scopes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_database_that_had_a_spare_first_takes_both_keys() {
        let line = [binding(1, "spare/1", 10, Some(20)), binding(1, "tenant/acme", 20, None)];
        assert_eq!(asked(&line, "tenant/acme", 5, 30), (vec![1], vec!["tenant/acme".into(), "spare/1".into()]));
        assert_eq!(
            asked(&line, "tenant/acme", 5, 15),
            (vec![1], vec!["spare/1".into()]),
            "mapped later, asked for before"
        );
        assert_eq!(asked(&line, "tenant/acme", 25, 30), (vec![1], vec!["tenant/acme".into()]), "replay begins after");
    }

    #[test]
    fn an_oid_used_again_by_another_tenant_never_asks_for_the_first_ones_key() {
        let line = [binding(1, "tenant/acme", 10, Some(20)), binding(1, "tenant/globex", 25, None)];
        assert_eq!(asked(&line, "tenant/globex", 5, 30), (vec![1], vec!["tenant/globex".into()]));
        assert_eq!(asked(&line, "tenant/acme", 5, 30), (vec![], vec![]), "acme's was dropped by then");
        assert_eq!(asked(&line, "tenant/acme", 5, 15), (vec![1], vec!["tenant/acme".into()]));
    }

    #[test]
    fn an_envelope_that_did_not_know_the_end_yet_does_not_make_the_binding_last() {
        let seen = [binding(1, "tenant/acme", 10, None), binding(1, "tenant/acme", 10, Some(20))];
        assert_eq!(asked(&seen, "tenant/acme", 5, 30), (vec![], vec![]));
    }

    #[test]
    fn with_all_keys_everything_that_is_there_comes() {
        let all =
            [binding(1, "tenant/acme", 10, None), binding(2, "spare/1", 10, None), binding(3, "spare/2", 10, Some(20))];
        let found = bound(&all, None, Lsn(5), Lsn(30));
        assert_eq!(found.databases, BTreeSet::from([DbOid(1), DbOid(2)]));
    }
}
