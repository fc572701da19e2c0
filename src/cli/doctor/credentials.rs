//! The credentials that this machine has for the store: what each really can, against what its role needs.

use jiff::Timestamp;
use serde_json::json;

use super::{Args, Checks};
use crate::cli::context::Context;
use crate::cli::open;
use crate::config::{Config, Role, S3Config, StoreConfig};
use crate::failure::{self, Failure, Kind};
use crate::repo::name::Stamp;
use crate::store::credential::{Complaint, Right, judge, probe};
use crate::store::s3::S3Store;

const CHECK: &str = "credential";

/// As which this machine mostly acts: it makes backups where the writer bundle is.
pub(super) fn role_here(config: &Config, args: &Args) -> Role {
    let makes = config.keys.writer.as_deref().is_some_and(std::path::Path::exists);
    args.role.unwrap_or(if makes { Role::Writer } else { Role::Reader })
}

/// The roles whose credentials are judged: those that have a profile of their own, else the one this machine acts as.
fn roles(store: &S3Config, config: &Config, args: &Args) -> Vec<Role> {
    // The eraser's work is in the keys stores, which have policies of their own.
    let own = || store.profiles.keys().copied().filter(|role| *role != Role::KeyEraser).collect::<Vec<_>>();
    match args.role {
        Some(role) => vec![role],
        None if own().is_empty() => vec![role_here(config, args)],
        None => own(),
    }
}

/// Probes each; nothing is changed.
pub(super) async fn check(config: &Config, context: &Context, args: &Args, now: Timestamp, checks: &mut Checks) {
    let StoreConfig::S3(store) = &config.store else { return };
    let mut told = Vec::new();
    for role in roles(store, config, args) {
        let object = match store.profile_for(role) {
            Some(profile) => format!("{} (profile {profile})", role.name()),
            None => role.name().to_owned(),
        };
        let probed = async {
            let opened = S3Store::open(open::s3_options(store, role)).await?;
            let stamp = Stamp::new(context.clock.now()).map_err(|error| {
                Failure::new(Kind::Failed, "random bytes", error.to_string(), "run the command again")
            })?;
            probe(&opened.target(), &stamp.to_string(), now).await.map_err(|error| {
                let next = "check the store's address and network, then run the command again";
                Failure::new(Kind::Unreachable, object.clone(), failure::chain(&error), next)
            })
        };
        let found = match probed.await {
            Ok(found) => found,
            Err(failure) => {
                checks.fail(CHECK, failure);
                continue;
            }
        };
        let complaints = judge(role, &found);
        for complaint in &complaints {
            checks.complain(CHECK, &object, complaint.said(), next(*complaint, role, store));
        }
        let unseen: Vec<&str> =
            Right::ALL.into_iter().filter(|right| !found.contains_key(right)).map(Right::said).collect();
        if complaints.is_empty() {
            let said = match unseen.as_slice() {
                [] => "may what it needs; nothing more was found".to_owned(),
                unseen => format!("nothing wrong was found; not seen is whether it may {}", unseen.join(", ")),
            };
            checks.fine(CHECK, &object, said);
        }
        told.push(json!({ "role": role, "may": found, "unseen": unseen, "complaints": complaints }));
    }
    checks.fields.insert("credentials".to_owned(), told.into());
}

fn next(complaint: Complaint, role: Role, store: &S3Config) -> String {
    match complaint {
        Complaint::TooMuch(_) => {
            // AWS needs no address.
            let dialect = if store.endpoint.is_some() { "ceph" } else { "aws" };
            format!("give it the policy of `lifeboat init --print-policies {dialect} --role {}`", role.name())
        }
        Complaint::Missing(_) => "add the right, or use the role's own credential".to_owned(),
    }
}
