//! The part of a drill with a real Odoo: started over the restored database, every canary signed in, stopped.
//!
//! It is not started in a sandbox that was found open. The first canary also reads an attachment and runs the server action.

use std::time::Instant;

use super::Rehearsal;
use crate::access::roster::Roster;
use crate::config::{OdooCommand, SignIn};
use crate::drill::ear::Ear;
use crate::drill::grid;
use crate::drill::identity;
use crate::drill::odoo::{self, Odoo, Values};
use crate::drill::place::Place;
use crate::drill::probe::{Grade, Layer, Outcome, Seen};
use crate::drill::probes::{sign_in, webhook};
use crate::drill::verdict::Verdict;
use crate::failure::Failure;
use crate::restore::{Brought, RecoveredDatabase};

impl Rehearsal<'_> {
    /// A real Odoo, where one is configured. `ear` is none where the sandbox was found open.
    pub(super) async fn about_odoo(
        &mut self,
        brought: &Brought,
        place: &Place,
        database: &RecoveredDatabase,
        role: &str,
        roster: Option<&Roster>,
        ear: Option<&Ear>,
    ) {
        let all = [sign_in::START, sign_in::FORM, sign_in::RPC, sign_in::WRONG, sign_in::ATTACHMENT, webhook::KIND];
        let Some(command) = &self.restore.config.drill.odoo else {
            let why = "no Odoo is configured ([drill.odoo]): this drill does not speak for it";
            self.probes.add_all(&all, &Seen::not_asked(why));
            return;
        };
        let (Some(canary), Some(ear)) = (self.tenant.signin.first(), ear) else {
            let no_canary = format!("no canary is configured ([[tenants.{}.signin]])", self.tenant.id);
            let why = if ear.is_none() { "Odoo was not started: the sandbox was found open" } else { &no_canary };
            self.probes.add_all(&all, &Seen::missing(why));
            return;
        };
        let suffix = format!("{}:", database.name);
        let begun = Instant::now();
        match Box::pin(self.start_odoo(brought, place, database, role, command, canary, ear)).await {
            Ok((odoo, action)) => {
                let seen = Seen::passed("a real Odoo started over the restored database");
                self.probes.add(sign_in::START, seen, begun.elapsed().as_secs_f64());
                let several = brought.databases.len() > 1;
                for (number, canary) in (1..).zip(&self.tenant.signin) {
                    if number > 1 {
                        self.probes.about(Some(&format!("{}canary-{number}", if several { &suffix } else { "" })));
                    }
                    let hook = (number == 1).then_some((action, ear));
                    Box::pin(self.sign_in(brought, database, &odoo, canary, roster, hook)).await;
                }
                self.probes.about(several.then_some(database.name.as_str()));
                odoo.stop().await;
            }
            Err(failure) => {
                let seen = Seen::failed(Verdict::Inconclusive, format!("Odoo did not start: {failure}"));
                self.probes.add(sign_in::START, seen, begun.elapsed().as_secs_f64());
                self.probes.add_all(&all[1..], &Seen::missing("Odoo did not start"));
            }
        }
    }

    /// Starts Odoo; with it the id of the server action that was planted for the canary.
    #[allow(clippy::too_many_arguments)]
    async fn start_odoo<'s>(
        &self,
        brought: &'s Brought,
        place: &Place,
        database: &RecoveredDatabase,
        role: &str,
        command: &OdooCommand,
        canary: &SignIn,
        ear: &Ear,
    ) -> Result<(Odoo<'s>, Option<i64>), Failure> {
        self.restore.watch.stage(&format!("Odoo over {}", database.name), None);
        let recovered = &brought.recovered;
        let mut connection = recovered.connect(&database.name).await?;
        odoo::quiet(&mut connection).await?;
        let action = webhook::plant(&mut connection, &canary.login, ear).await?;
        let data_dir = place.sandbox().join("data");
        odoo::data_folder(&recovered.sandbox, &place.files(), &data_dir, &database.name).await?;
        let values = Values {
            database: database.name.clone(),
            role: role.to_owned(),
            data_dir,
            socket_dir: recovered.inside().host,
            port: command.port,
        };
        Ok((Odoo::start(recovered, command, &values).await?, action))
    }

    async fn sign_in(
        &mut self,
        brought: &Brought,
        database: &RecoveredDatabase,
        odoo: &Odoo<'_>,
        canary: &SignIn,
        roster: Option<&Roster>,
        hook: Option<(Option<i64>, &Ear)>,
    ) {
        let Ok(password) = canary.password.read() else {
            self.probes.add(sign_in::FORM, Seen::missing("the canary's password cannot be read any more"), 0.0);
            return;
        };
        let canary = sign_in::Canary { database: &database.name, login: &canary.login, password };
        let begun = Instant::now();
        let form = sign_in::fill_form(odoo.http, &canary).await;
        let first = self.probes.made.len();
        let outcome = self.probes.add(sign_in::FORM, sign_in::judge_form(&form), begun.elapsed().as_secs_f64());
        if outcome == Outcome::Passed {
            let seconds = self.seconds();
            self.clocks.first_sign_in.get_or_insert(seconds);
        }
        let rpc = async { Ok(sign_in::by_rpc(odoo.http, &canary, &form).await) };
        let by_rpc = self.probes.make(sign_in::RPC, rpc).await;
        if by_rpc == Outcome::Passed {
            let wrong = async { Ok(sign_in::with_wrong_password(odoo.http, &canary).await) };
            self.probes.make(sign_in::WRONG, wrong).await;
        } else {
            let vacuous = Seen::not_asked("it says nothing where the right password is not accepted either");
            self.probes.add(sign_in::WRONG, vacuous, 0.0);
        }
        let person = roster.and_then(|roster| roster.people.iter().find(|person| person.login == canary.login));
        if let Some(domain) = person.and_then(identity::domain) {
            let state = grid::state_of(self.probes.made.get(first..).unwrap_or_default());
            self.grid.seen(domain, Layer::Odoo, state, Grade::AReal);
        }
        match form {
            Ok(sign_in::Form::In(uid)) => {
                let attachment = async {
                    let mut connection = brought.recovered.connect(&database.name).await?;
                    sign_in::attachment(odoo.http, &canary, uid, &mut connection).await
                };
                self.probes.make(sign_in::ATTACHMENT, attachment).await;
                if let Some((action, ear)) = hook {
                    let asked = async { Ok(webhook::ask(odoo, &canary, uid, action, ear).await) };
                    self.probes.make(webhook::KIND, asked).await;
                }
            }
            _ => {
                let unseen = Seen::not_asked("the canary is not signed in");
                self.probes.add(sign_in::ATTACHMENT, unseen.clone(), 0.0);
                if hook.is_some() {
                    self.probes.add(webhook::KIND, unseen, 0.0);
                }
            }
        }
    }
}
