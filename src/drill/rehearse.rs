//! The order of a drill's steps.
//!
//! ```text
//! restore -> is it sealed? -> files -> who may do what -> Odoo, sign-ins -> is it sound? -> destroyed
//! ```
//!
//! The comparison of identities comes before Odoo starts, which changes rows; the long check of every page comes last, so that the
//! time to the first sign-in is what it would be in earnest. Odoo is not started in a sandbox that was found open.

mod sign_ins;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;

use super::ear::Ear;
use super::expected;
use super::grid::{self, Grid, State};
use super::identity::{self, Domain};
use super::place::Place;
use super::probe::{Grade, Layer, Outcome, Probes, Seen};
use super::probes::access::{self, Compared};
use super::probes::{attachments, captured, egress, indexes, others, owner, pages, prepared, proof, restored};
use super::probes::{sequences, unlogged};
use super::pseudonym::Pseudonyms;
use super::{Clocks, DrillReport, Options, WorstCell, newest_point, verdict};
use crate::access::compare::{self, Difference};
use crate::access::reader::Keyed;
use crate::access::roster::Roster;
use crate::config::Tenant;
use crate::failure::Failure;
use crate::postgres::sql;
use crate::restore::choose::Subject;
use crate::restore::{Brought, RecoveredDatabase, Restore, Restored};

/// A path that can be shown inside: `..` has no meaning there. One without it stays as it was typed, links included, for that
/// is how programs inside will ask for it.
fn without_dots(path: &Path) -> PathBuf {
    let dotted = path.components().any(|part| part == Component::ParentDir);
    if dotted { path.canonicalize().unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() }
}

/// A drill under way, and what it found so far.
pub(super) struct Rehearsal<'a> {
    restore: &'a Restore<'a>,
    tenant: &'a Tenant,
    begun: Instant,
    probes: Probes<'a>,
    grid: Grid,
    /// Without names.
    differences: Vec<Difference>,
    names: Pseudonyms,
    clocks: Clocks,
    asked: String,
    restored: Option<Restored>,
    kept: Option<PathBuf>,
}

impl<'a> Rehearsal<'a> {
    pub fn new(restore: &'a Restore<'a>, tenant: &'a Tenant) -> Self {
        Self {
            restore,
            tenant,
            begun: Instant::now(),
            probes: Probes::new(&*restore.watch),
            grid: Grid::default(),
            differences: Vec::new(),
            names: Pseudonyms::default(),
            clocks: Clocks::default(),
            asked: String::new(),
            restored: None,
            kept: None,
        }
    }

    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// From the target to the sandbox's end.
    ///
    /// # Errors
    /// When the restore itself fails; what was found before stays.
    pub async fn run(&mut self, options: &Options) -> Result<(), Failure> {
        let config = self.restore.config;
        let asked = match &options.at {
            Some(asked) => asked.clone(),
            None => newest_point(self.restore, &self.tenant.id).await?,
        };
        self.asked = asked.understood(&config.estate.timezone);
        let mut place = Place::make(&config.sandbox.dir, &self.tenant.id)?;
        let mut shown = vec![place.root.join("files")];
        shown.extend(config.drill.odoo.iter().flat_map(|command| command.paths.iter().map(|path| without_dots(path))));
        let subject = Subject::Tenant(self.tenant.id.clone());
        let brought = self.restore.bring(subject, asked, &place.sandbox(), shown).await?;
        self.clocks.server_up = Some(self.seconds());
        self.restored = Some(brought.outcome(self.restore));
        let asked_all = self.ask_all(&brought, &place).await;
        let ended = self.end(brought, &mut place, options.keep).await;
        let folder_gone = options.keep || place.clear();
        if !options.keep {
            self.probes.add(restored::DESTROYED, restored::destroyed(ended?, folder_gone), 0.0);
        } else {
            ended?;
            self.probes.add(restored::DESTROYED, Seen::not_asked("--keep: its folder was to stay"), 0.0);
        }
        asked_all
    }

    /// Ends the sandbox; how many processes were ended, where that could be shown.
    async fn end(&mut self, brought: Brought, place: &mut Place, keep: bool) -> Result<Option<usize>, Failure> {
        if keep {
            place.keep();
            self.kept = Some(place.root.clone());
            brought.recovered.stop().await?;
            return Ok(None);
        }
        let Some(destroyed) = brought.recovered.destroy().await? else { return Ok(None) };
        let ended = destroyed.ended_processes;
        destroyed.remove_dir()?;
        Ok(Some(ended))
    }

    async fn ask_all(&mut self, brought: &Brought, place: &Place) -> Result<(), Failure> {
        self.about_the_restore(brought);
        let ear = Ear::open()?;
        let sealed = self.about_the_sandbox(brought, &ear).await;
        for database in &brought.databases {
            let several = brought.databases.len() > 1;
            self.probes.about(several.then_some(database.name.as_str()));
            self.about_files(brought, place, database).await?;
            let role = self.about_the_owner(brought, database).await;
            if self.is_odoo(brought, database).await? {
                let canaries = self.about_access(brought, database).await;
                self.about_odoo(brought, place, database, &role, canaries.as_ref(), sealed.then_some(&ear)).await;
            }
            self.about_pages(brought, database).await;
        }
        self.probes.about(None);
        let in_time =
            restored::in_time(self.tenant.rto, self.clocks.server_up.unwrap_or_default(), self.clocks.first_sign_in);
        self.probes.add(restored::IN_TIME, in_time, 0.0);
        let opened = self.restore.reader.identities.opened();
        self.probes.add(restored::KEYS, restored::keys(&opened, &brought.chosen.scopes), 0.0);
        Ok(())
    }

    fn about_the_restore(&mut self, brought: &Brought) {
        let outcome = brought.outcome(self.restore);
        let seconds = self.seconds();
        self.probes.add(restored::REACHED, restored::reached(&outcome), seconds);
    }

    /// Whether the sandbox is sealed, as far as can be seen.
    async fn about_the_sandbox(&mut self, brought: &Brought, ear: &Ear) -> bool {
        let recovered = &brought.recovered;
        let proven = self.probes.add(proof::KIND, proof::judge(recovered.sandbox.proof()), 0.0);
        let dir = recovered.assembled.dir.clone();
        let ours: Vec<&str> = brought.databases.iter().map(|database| database.name.as_str()).collect();
        let captured = self
            .probes
            .make(captured::KIND, async { captured::ask(&mut recovered.connect("postgres").await?, &dir).await });
        let captured = captured.await;
        let others = async {
            let pgdata = recovered.assembled.pgdata();
            others::ask(&mut recovered.connect("postgres").await?, &pgdata, &brought.chosen.databases).await
        };
        self.probes.make(others::KIND, others).await;
        let prepared = async { prepared::ask(&mut recovered.connect("postgres").await?, &ours).await };
        self.probes.make(prepared::KIND, prepared).await;
        let tried =
            self.probes.make(egress::KIND, egress::ask(&recovered.server, recovered.assembled.major, ear)).await;
        [proven, captured, tried].iter().all(|outcome| *outcome == Outcome::Passed)
    }

    async fn about_files(
        &mut self,
        brought: &Brought,
        place: &Place,
        database: &RecoveredDatabase,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        let target = place.files().join(&database.name);
        let (files, read) = self.restore.fetch_files(brought, database, &target).await?;
        if let Some(restored) = &mut self.restored {
            restored.count(&files, read);
        }
        // Odoo reads them as the sandbox's user; nobody writes them.
        brought.recovered.sandbox.owner().give(&place.root.join("files"))?;
        self.probes.add(attachments::KIND, attachments::judge(&files), begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// The role that owns the database; empty where there is none.
    async fn about_the_owner(&mut self, brought: &Brought, database: &RecoveredDatabase) -> String {
        let mut role = String::new();
        let asked = self.probes.make(owner::KIND, async {
            let (owner, seen) = owner::ask(&mut brought.recovered.connect(&database.name).await?).await?;
            role = owner.role;
            Ok(seen)
        });
        asked.await;
        let state = self.probes.made.last().map_or(State::Unclear, |probe| grid::state_of(std::slice::from_ref(probe)));
        for domain in Domain::ALL {
            let one = usize::from(domain == Domain::Service);
            self.grid.count(domain, Layer::Postgres, one, one, Grade::E1);
        }
        self.grid.seen(Domain::Service, Layer::Postgres, state, Grade::E1);
        role
    }

    async fn is_odoo(&self, brought: &Brought, database: &RecoveredDatabase) -> Result<bool, Failure> {
        let mut connection = brought.recovered.connect(&database.name).await?;
        let query = "SELECT pg_catalog.to_regclass('public.res_users')::text";
        let found = sql::text_rows(&mut connection, "what kind of database it is", query).await?;
        Ok(found.into_iter().flatten().flatten().next().is_some())
    }

    /// Compares who may do what; gives back the restored roster where there was one to compare with.
    async fn about_access(&mut self, brought: &Brought, database: &RecoveredDatabase) -> Option<Roster> {
        let begun = Instant::now();
        let compared = match self.compare(brought, database).await {
            Ok(compared) if !compared.is_empty() => compared,
            none => {
                let seen = none.err().map(|failure| Seen::broken(&failure));
                let seen = seen.unwrap_or_else(|| Seen::missing("the store has no roster of this database"));
                access::add_none(&mut self.probes, &seen);
                return None;
            }
        };
        access::add(&mut self.probes, &compared, &self.names, begun.elapsed().as_secs_f64());
        for compared in &compared {
            self.fill_grid(compared);
            self.differences.extend(compared.differences.iter().map(|difference| self.names.hide(difference)));
        }
        self.count_people(compared.last()?);
        compared.into_iter().next_back().map(|compared| compared.found)
    }

    async fn compare(&mut self, brought: &Brought, database: &RecoveredDatabase) -> Result<Vec<Compared>, Failure> {
        let mut all = Vec::new();
        for expected in expected::find(&self.restore.reader, brought, &database.name).await? {
            let (tenant, clock) = (&self.tenant.id, &self.restore.clock);
            let found = expected::capture_restored(brought, &expected, tenant, &database.name, clock).await?;
            let differences = compare::compare(&expected.roster, &found)?;
            self.names.add(Keyed(&expected.key), &[&expected.roster, &found]);
            all.push(Compared { expected: expected.roster, found, moment: expected.moment, differences });
        }
        Ok(all)
    }

    fn count_people(&mut self, compared: &Compared) {
        let (should, is) = (identity::census(&compared.expected), identity::census(&compared.found));
        for domain in Domain::ALL {
            let size = |census: &BTreeMap<Domain, BTreeSet<String>>| census.get(&domain).map_or(0, BTreeSet::len);
            self.grid.count(domain, Layer::Odoo, size(&should), size(&is), Grade::AMaterial);
        }
    }

    fn fill_grid(&mut self, compared: &Compared) {
        let domains = identity::domains(&compared.expected, &compared.found);
        for difference in &compared.differences {
            let weight = compared.weigh(difference);
            match domains.get(&difference.who) {
                Some(domain) => self.grid.differs(*domain, Layer::Odoo, weight),
                // A rule or a group: it may touch anybody who is there.
                None => {
                    let there: BTreeSet<Domain> = domains.values().copied().collect();
                    there.into_iter().for_each(|domain| self.grid.differs(domain, Layer::Odoo, weight));
                }
            }
        }
    }

    async fn about_pages(&mut self, brought: &Brought, database: &RecoveredDatabase) {
        let (recovered, name) = (&brought.recovered, &database.name);
        let asked = async { indexes::ask(&mut recovered.connect(name).await?).await };
        self.probes.make(indexes::KIND, asked).await;
        let asked = async { sequences::ask(&mut recovered.connect(name).await?).await };
        self.probes.make(sequences::KIND, asked).await;
        let asked = async { unlogged::ask(&mut recovered.connect(name).await?).await };
        self.probes.make(unlogged::KIND, asked).await;
        self.probes.make(pages::KIND, pages::ask(recovered, name)).await;
    }

    /// Judges, and puts the report together.
    pub fn into_report(mut self, began: Timestamp, broke: Option<Failure>) -> DrillReport {
        let worked =
            broke.as_ref().map_or_else(|| Seen::passed("the tenant was restored into a sandbox"), restored::broken);
        self.clocks.total = self.seconds();
        self.probes.add(restored::WORKED, worked, self.clocks.total);
        let verdict = verdict::judge(&self.probes.made);
        let worst = self.grid.worst();
        let restored = self.restored;
        DrillReport {
            tenant: self.tenant.id.clone(),
            estate: self.restore.config.estate.name.clone(),
            layers: verdict.layers.clone(),
            reasons: verdict.reasons.clone(),
            verdict,
            grid: self.grid,
            worst_cell: worst.map(|(domain, layer, state)| WorstCell { domain, layer, state }),
            probes: self.probes.made,
            differences: self.differences,
            clocks: self.clocks,
            asked: self.asked,
            target: restored.as_ref().map(|restored| restored.target),
            reached: restored.as_ref().map(|restored| restored.reached.clone()),
            databases: restored.as_ref().map(|restored| restored.databases.clone()).unwrap_or_default(),
            scopes_opened: self.restore.reader.identities.opened(),
            objects_read: restored.as_ref().map_or(0, |restored| restored.objects_read),
            bytes_read: restored.as_ref().map_or(0, |restored| restored.bytes_read),
            server_version: restored.as_ref().map(|restored| restored.server_version),
            lifeboat_version: env!("CARGO_PKG_VERSION").to_owned(),
            began,
            ended: self.restore.clock.now(),
            kept: self.kept,
            evidence: PathBuf::new(),
            report: PathBuf::new(),
            names: self.names,
            broke,
        }
    }
}
