//! Which scope a database's bytes belong to, and from which LSN on.
//!
//! A binding is (database OID, scope, first LSN): OIDs are reused, databases are renamed and mapped later, so the OID
//! alone says nothing. The rules, in order:
//!
//! 1. The shared catalogs (0), `template1` (1), `template0` (4) and the database named `postgres` are the cluster's.
//! 2. A database that the configuration maps to a tenant is the tenant's, from the LSN at which it was seen.
//! 3. Any other gets a **spare** scope: a key of its own, made beforehand, and an alarm. Never the cluster's.
//! 4. With no spare left it goes to quarantine, with a louder alarm: nobody's restore needs a guess.
//!
//! Bindings travel in the envelopes of the WAL (`docs/FORMAT.md`); a restarted streamer and every backup read them there.
//! This is a value with pure rules; asking the server for names is the caller's.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{DbOid, Lsn, Scope};
use crate::postgres::wal::{Owner, Owners, Slot};
use crate::repo::envelope::Binding;

/// A database as `pg_database` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    pub oid: DbOid,
    pub name: String,
}

/// Something a person must hear about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// A database that nobody mapped was given a spare.
    Spare { oid: DbOid, scope: Scope },
    /// The pool of spares is empty: the database's bytes go to quarantine.
    NoSpareLeft { oid: DbOid },
    /// A database that had a spare is mapped now; what was written before stays under the spare.
    Rebound { oid: DbOid, name: String, was: Scope, now: Scope },
}

/// OIDs that PostgreSQL fixes for its own databases (`pg_database.dat`): template1, template0, and postgres since 15.
const SHARED: [u32; 4] = [0, 1, 4, 5];

/// The bindings in force while WAL is read, and those that ended since they were last written down.
#[derive(Debug)]
pub struct Bindings {
    quarantine: Scope,
    in_force: BTreeMap<DbOid, Binding>,
    ended: Vec<Binding>,
    shared: BTreeSet<DbOid>,
    /// Slot n of the splitter is `scopes[n]`.
    scopes: Vec<Scope>,
    free_spares: Vec<Scope>,
    alarms: Vec<Alarm>,
    unnamed: bool,
}

impl Bindings {
    /// Begins with what the newest envelope said (`known`; empty at the very first start) and the estate's spares.
    #[must_use]
    pub fn new(cluster: &str, known: &[Binding], spares: &[Scope]) -> Self {
        let used: BTreeSet<&Scope> = known.iter().map(|binding| &binding.scope).collect();
        let mut free_spares: Vec<Scope> = spares.iter().filter(|scope| !used.contains(scope)).cloned().collect();
        free_spares.reverse();
        Self {
            quarantine: Scope::Quarantine(cluster.to_owned()),
            in_force: known
                .iter()
                .filter(|binding| binding.to_lsn.is_none())
                .map(|binding| (binding.oid, binding.clone()))
                .collect(),
            ended: Vec::new(),
            shared: SHARED.into_iter().map(DbOid).collect(),
            scopes: Vec::new(),
            free_spares,
            alarms: Vec::new(),
            unnamed: false,
        }
    }

    /// Takes a listing of the server's databases and what the configuration says of each name; bindings that it adds
    /// or changes begin at `at`.
    pub fn learn(&mut self, databases: &[Database], scope_of: impl Fn(&str) -> Option<Scope>, at: Lsn) {
        self.unnamed = false;
        for database in databases {
            if SHARED.contains(&database.oid.0) || database.name == "postgres" {
                self.shared.insert(database.oid);
                continue;
            }
            let wanted = scope_of(&database.name);
            let bound = self.in_force.get(&database.oid).map(|binding| binding.scope.clone());
            match (bound, wanted) {
                (Some(was), Some(now)) if was != now => {
                    self.alarms.push(Alarm::Rebound {
                        oid: database.oid,
                        name: database.name.clone(),
                        was,
                        now: now.clone(),
                    });
                    self.bind(database.oid, now, at);
                }
                (Some(_), _) => {}
                (None, Some(scope)) => self.bind(database.oid, scope, at),
                (None, None) => self.bind_to_spare(database.oid, at),
            }
        }
    }

    /// Whether a database appeared in the WAL whose name has not been asked for yet.
    #[must_use]
    pub fn wants_names(&self) -> bool {
        self.unnamed
    }

    /// The scope that a slot of the splitter stands for.
    #[must_use]
    pub fn scope(&self, slot: Slot) -> &Scope {
        self.scopes.get(slot as usize).unwrap_or(&self.quarantine)
    }

    /// Everything in force now or since the last stretch, for the next envelope.
    ///
    /// An end is repeated until a stretch has it ([`Bindings::written_for_good`]): readers pass over the tails and
    /// heartbeats that a stretch covers, and a binding without its end would seem to last.
    #[must_use]
    pub fn write_down(&self) -> Vec<Binding> {
        let mut list: Vec<Binding> = self.in_force.values().chain(&self.ended).cloned().collect();
        list.sort_by_key(|binding| (binding.oid, binding.from_lsn));
        list
    }

    /// A stretch carries what [`Bindings::write_down`] said.
    pub fn written_for_good(&mut self) {
        self.ended.clear();
    }

    pub fn take_alarms(&mut self) -> Vec<Alarm> {
        std::mem::take(&mut self.alarms)
    }

    fn bind(&mut self, oid: DbOid, scope: Scope, from_lsn: Lsn) {
        self.end(oid, from_lsn);
        self.in_force.insert(oid, Binding { oid, scope, from_lsn, to_lsn: None });
    }

    fn end(&mut self, oid: DbOid, at: Lsn) {
        if let Some(before) = self.in_force.remove(&oid) {
            self.ended.push(Binding { to_lsn: Some(at), ..before });
        }
    }

    fn bind_to_spare(&mut self, oid: DbOid, at: Lsn) {
        let scope = match self.free_spares.pop() {
            Some(scope) => {
                self.alarms.push(Alarm::Spare { oid, scope: scope.clone() });
                scope
            }
            None => {
                self.alarms.push(Alarm::NoSpareLeft { oid });
                self.quarantine.clone()
            }
        };
        self.bind(oid, scope, at);
    }

    fn slot_of(&mut self, scope: &Scope) -> Slot {
        let found = self.scopes.iter().position(|known| known == scope);
        let index = found.unwrap_or_else(|| {
            self.scopes.push(scope.clone());
            self.scopes.len() - 1
        });
        Slot::try_from(index).unwrap_or(Slot::MAX)
    }
}

impl Owners for Bindings {
    fn owner(&mut self, db: DbOid, at: Lsn) -> Owner {
        if self.shared.contains(&db) {
            return Owner::Cluster;
        }
        if !self.in_force.contains_key(&db) {
            self.unnamed = true;
            self.bind_to_spare(db, at);
        }
        let scope = self.in_force.get(&db).map_or_else(|| self.quarantine.clone(), |binding| binding.scope.clone());
        Owner::Tenant(self.slot_of(&scope))
    }

    fn created(&mut self, db: DbOid, at: Lsn) {
        // An OID that comes back is another database: it must not inherit the dropped one's key.
        if !self.shared.contains(&db) {
            // Should its drop not have been seen: the two must not look like one database that was mapped later.
            self.end(db, Lsn(at.0.saturating_sub(1)));
            self.unnamed = true;
            self.bind_to_spare(db, at);
        }
    }

    fn dropped(&mut self, db: DbOid, at: Lsn) {
        self.end(db, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spares(count: u32) -> Vec<Scope> {
        (1..=count).map(Scope::Spare).collect()
    }

    fn mapped(name: &str) -> Option<Scope> {
        (name == "acme").then(|| Scope::Tenant("acme".into()))
    }

    fn database(oid: u32, name: &str) -> Database {
        Database { oid: DbOid(oid), name: name.into() }
    }

    fn scope_at(bindings: &mut Bindings, oid: u32, at: u64) -> Option<Scope> {
        match bindings.owner(DbOid(oid), Lsn(at)) {
            Owner::Cluster => None,
            Owner::Tenant(slot) => Some(bindings.scope(slot).clone()),
        }
    }

    #[test]
    fn what_nobody_mapped_gets_a_key_of_its_own_and_an_alarm() {
        let mut bindings = Bindings::new("main", &[], &spares(2));
        bindings.learn(&[database(5, "postgres"), database(16_384, "acme"), database(16_385, "who")], mapped, Lsn(100));
        assert_eq!(scope_at(&mut bindings, 5, 200), None);
        assert_eq!(scope_at(&mut bindings, 16_384, 200), Some(Scope::Tenant("acme".into())));
        assert_eq!(scope_at(&mut bindings, 16_385, 200), Some(Scope::Spare(1)));
        assert_eq!(bindings.take_alarms(), [Alarm::Spare { oid: DbOid(16_385), scope: Scope::Spare(1) }]);
    }

    #[test]
    fn an_unseen_oid_in_the_wal_never_becomes_the_clusters() {
        let mut bindings = Bindings::new("main", &[], &spares(1));
        assert_eq!(scope_at(&mut bindings, 20_000, 10), Some(Scope::Spare(1)));
        assert!(bindings.wants_names());
        assert_eq!(scope_at(&mut bindings, 20_001, 11), Some(Scope::Quarantine("main".into())));
        assert!(bindings.take_alarms().contains(&Alarm::NoSpareLeft { oid: DbOid(20_001) }));
    }

    #[test]
    fn a_reused_oid_does_not_inherit_the_dropped_databases_key() {
        let mut bindings = Bindings::new("main", &[], &spares(3));
        bindings.learn(&[database(16_384, "acme")], mapped, Lsn(100));
        bindings.dropped(DbOid(16_384), Lsn(200));
        bindings.created(DbOid(16_384), Lsn(300));
        assert_eq!(scope_at(&mut bindings, 16_384, 300), Some(Scope::Spare(1)));
        let written = bindings.write_down();
        let intervals: Vec<_> = written.iter().map(|b| (b.scope.to_string(), b.from_lsn.0)).collect();
        assert_eq!(intervals, [("tenant/acme".to_owned(), 100), ("spare/1".to_owned(), 300)]);
    }

    #[test]
    fn mapping_a_database_later_moves_only_what_comes_after() {
        let mut bindings = Bindings::new("main", &[], &spares(3));
        bindings.created(DbOid(16_400), Lsn(300));
        bindings.learn(&[database(16_400, "acme")], mapped, Lsn(400));
        assert_eq!(scope_at(&mut bindings, 16_400, 500), Some(Scope::Tenant("acme".into())));
        let written = bindings.write_down();
        assert_eq!(written.iter().map(|b| b.from_lsn.0).collect::<Vec<_>>(), [300, 400]);
    }

    #[test]
    fn an_end_is_said_again_until_a_stretch_has_it() {
        let mut bindings = Bindings::new("main", &[], &spares(1));
        bindings.created(DbOid(16_400), Lsn(300));
        bindings.dropped(DbOid(16_400), Lsn(400));
        let ends = |bindings: &Bindings| bindings.write_down().iter().map(|b| b.to_lsn).collect::<Vec<_>>();
        for _tail in 0..2 {
            assert_eq!(ends(&bindings), [Some(Lsn(400))]);
        }
        bindings.written_for_good();
        assert_eq!(ends(&bindings), []);
    }

    #[test]
    fn a_restarted_streamer_keeps_the_bindings_and_gives_out_other_spares() {
        let mut first = Bindings::new("main", &[], &spares(2));
        first.created(DbOid(16_400), Lsn(300));
        let mut second = Bindings::new("main", &first.write_down(), &spares(2));
        assert_eq!(scope_at(&mut second, 16_400, 500), Some(Scope::Spare(1)));
        assert_eq!(scope_at(&mut second, 16_401, 500), Some(Scope::Spare(2)));
    }
}
