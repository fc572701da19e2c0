//! Are the keys here that should be, and none that should not?

use std::path::Path;

use super::Checks;
use crate::cli::context::Context;
use crate::cli::key::standing::{Standing, of_erasures};
use crate::cli::open;
use crate::config::{Config, Role};
use crate::failure::{self, Failure};
use crate::repo::key::WriterBundle;
use crate::repo::sign::{Signers, sign};

const CHECK: &str = "keys";

pub(super) fn check(config: &Config, context: &Context, checks: &mut Checks) {
    let signers = match Signers::read(&config.keys.signers) {
        Ok(signers) => Some(signers),
        Err(error) => {
            checks.fail(CHECK, error.into());
            None
        }
    };
    let here = config.keys.writer.as_deref().filter(|path| path.exists());
    if let Some(path) = here {
        match WriterBundle::read(path) {
            Err(error) => checks.fail(CHECK, error.into()),
            Ok(bundle) => writer(config, context, path, &bundle, signers.as_ref(), checks),
        }
    }
    let opens = config.keys.identities.as_deref().filter(|folder| holds_keys(folder));
    match (here, opens) {
        (Some(_), Some(folder)) => checks.complain(
            CHECK,
            folder.display(),
            "opens backups, and lies on a machine that makes them",
            "copy it to two places under different people, then take it off this machine",
        ),
        (None, Some(folder)) => checks.fine(CHECK, folder.display(), "opens backups; this machine makes none"),
        (Some(_), None) => checks.fine(CHECK, config.path.display(), "nothing on this machine opens a backup"),
        (None, None) => checks.fine(CHECK, config.path.display(), "this machine has no keys: it can look"),
    }
}

/// The keys stores, custody and erasures: what `status` says of them too.
pub(super) async fn stores(config: &Config, context: &Context, checks: &mut Checks) {
    if config.keys.custody.is_none() {
        return;
    }
    let standing = async {
        let store = open::store(context, config, Role::Reader).await?;
        let ledger = open::ledger(context, config, &*store).await?;
        let standing = Standing::of(context, config, &ledger).await?;
        Ok::<_, Failure>((standing, of_erasures(&ledger.erasures())))
    };
    match standing.await {
        Err(failure) => checks.fail(CHECK, failure),
        Ok((standing, mut findings)) => {
            if let Some(standing) = standing {
                if standing.findings.is_empty() {
                    checks.fine(CHECK, standing.stores.join(", "), "agree on every key, and their locks roll");
                }
                findings.extend(standing.findings);
            }
            for finding in findings {
                checks.complain(CHECK, finding.object, finding.what, finding.next);
            }
        }
    }
}

fn writer(
    config: &Config,
    context: &Context,
    path: &Path,
    bundle: &WriterBundle,
    signers: Option<&Signers>,
    checks: &mut Checks,
) {
    let missing: Vec<String> =
        config.scopes().iter().filter(|scope| !bundle.scopes.contains_key(scope)).map(ToString::to_string).collect();
    match missing.as_slice() {
        [] => checks.fine(CHECK, path.display(), "has a key of every scope"),
        missing => {
            let next = format!("run `lifeboat key new {}` where keys are made", missing.join(" "));
            checks.complain(CHECK, path.display(), format!("has no key of {}", missing.join(", ")), next);
        }
    }
    let Some(signers) = signers else { return };
    let believed = sign(&bundle.signing, b"lifeboat doctor")
        .and_then(|signature| signers.verify(b"lifeboat doctor", signature.as_bytes(), context.clock.now()).map(drop));
    match believed {
        Ok(()) => checks.fine(CHECK, config.keys.signers.display(), "believes this machine's writer"),
        Err(error) => {
            let cause = failure::chain(&error);
            let failure = Failure::from(error);
            checks
                .fail(CHECK, Failure { cause: format!("does not believe this machine's writer: {cause}"), ..failure });
        }
    }
}

/// Whether a key file lies anywhere below `folder`.
fn holds_keys(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries
        .flatten()
        .map(|entry| entry.path())
        .any(|path| path.extension().is_some_and(|extension| extension == "age") || path.is_dir() && holds_keys(&path))
}
