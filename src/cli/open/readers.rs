//! Readers, each of the places and with the keys that one kind of command needs.
//!
//! Who opens anything asks first what was erased ([`ledger`]); who has no keys opens nothing and asks nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::{any, logged, store};
use crate::authority::opening;
use crate::cli::context::Context;
use crate::cli::{key, recall};
use crate::config::store::PRIMARY;
use crate::config::{Config, Role, Tenant};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::repo::erasure::{self, Ledger};
use crate::repo::error::RepoError;
use crate::repo::identities::{Identities, read_identity};
use crate::repo::reader::Reader;
use crate::repo::sign::Signers;
use crate::repo::witness::{self, About, Shown, Verdict};
use crate::store::Store;
use crate::store::either::{Either, Place};
use crate::watch;

/// The estate's store and its copies, as far as they can be opened: the one that is read first comes first.
///
/// # Errors
/// When none can be.
pub async fn places(context: &Context, config: &Config, role: Role) -> Result<Vec<Place>, Failure> {
    let mut places = Vec::new();
    let mut trouble = None;
    let named = std::iter::once((PRIMARY, &config.store)).chain(config.copies.iter().map(|(name, at)| (&**name, at)));
    for (name, at) in named {
        match any(context, at, role).await {
            Ok(store) => places.push(Place { name: name.to_owned(), store }),
            Err(error) if config.copies.is_empty() => return Err(error),
            Err(error) if name == PRIMARY => {
                let what = format!("is out of reach, and is not read from: {}", error.cause);
                watch::warn(&*context.watch, format!("{name} ({})", error.object), what, &*error.next);
                trouble = Some(error);
            }
            // A disk in its drawer is no news; a credential that a copy refuses is, and no reason not to read the store.
            Err(error) if error.kind != Kind::Unreachable => {
                let what = format!("cannot be read: {}", error.cause);
                watch::warn(&*context.watch, format!("copy {name} ({})", error.object), what, &*error.next);
                trouble = trouble.or(Some(error));
            }
            Err(error) => {
                watch::note(&*context.watch, format!("copy {name}"), format!("is out of reach: {}", error.cause));
                trouble = trouble.or(Some(error));
            }
        }
    }
    match trouble {
        Some(trouble) if places.is_empty() => Err(trouble),
        _ => Ok(places),
    }
}

/// What the copies know of the newest envelopes, against what the estate's store shows.
///
/// # Errors
/// Of the store, unless copies can be read in its place: then nothing can be proven.
pub async fn freshness(context: &Context, config: &Config, about: &About) -> Result<Verdict, Failure> {
    let signers = Arc::new(Signers::read(&config.keys.signers)?);
    let mut places = places(context, config, Role::Reader).await?;
    if places.first().is_none_or(|place| place.name != PRIMARY) {
        return Ok(witness::judge(&Shown::default(), &[]));
    }
    let primary = places.remove(0);
    match witness::look(&*primary.store, &places, &signers, about, &*context.watch).await {
        Ok(verdict) => Ok(verdict),
        Err(RepoError::Store(_)) if !places.is_empty() => Ok(witness::judge(&Shown::default(), &[])),
        Err(error) => Err(error.into()),
    }
}

/// What decides what can be restored of these tenants: their scopes, and their clusters'.
#[must_use]
pub fn about<'a>(tenants: impl IntoIterator<Item = &'a Tenant>) -> About {
    let mut about = About::default();
    for tenant in tenants {
        about.scopes.push(Scope::Tenant(tenant.id.clone()));
        about.clusters.push(Scope::Cluster(tenant.cluster.clone()));
    }
    about.clusters.sort();
    about.clusters.dedup();
    about
}

/// A reader that can list and check, and opens what the identities on this machine open. It reads the estate's store, and where
/// that is damaged or out of reach the copies.
///
/// # Errors
/// When no store or the signers file can be read.
pub async fn reader(context: &Context, config: &Config) -> Result<Reader, Failure> {
    let store = logged(everywhere(context, config).await?)?;
    opening_reader(context, config, store, Identities::open(config.keys.identities.as_deref())).await
}

/// [`reader`] of one store only: a copy, or [`PRIMARY`].
///
/// # Errors
/// As [`reader`], and when no copy is called so.
pub async fn reader_from(context: &Context, config: &Config, name: &str) -> Result<Reader, Failure> {
    let at = if name == PRIMARY { &config.store } else { config.copy(name)? };
    let store = logged(any(context, at, Role::Reader).await?)?;
    let erased = erased_anywhere(context, config, &*store).await?;
    reader_of(config, store, Identities::open(config.keys.identities.as_deref()).refusing(erased))
}

/// What `store` knows to be erased, and any other place that answers: one may not have been copied to since.
async fn erased_anywhere(
    context: &Context,
    config: &Config,
    store: &dyn Store,
) -> Result<BTreeMap<(Scope, u32), Timestamp>, Failure> {
    let mut erased = ledger(context, config, store).await?.erased();
    let others = places(context, config, Role::Reader).await?.into_iter();
    for place in others.filter(|place| place.store.place() != store.place()) {
        match ledger(context, config, &*place.store).await {
            Ok(ledger) => erased.extend(ledger.erased()),
            Err(failure) => {
                let what = format!("its erasure ledger was not read: {}", failure.cause);
                watch::note(&*context.watch, place.name, what);
            }
        }
    }
    Ok(erased)
}

/// A reader without keys: for what runs on a machine that backs up (as `Role::Writer`, from the estate's store alone), or only looks.
///
/// # Errors
/// As [`reader`].
pub async fn keyless_reader(context: &Context, config: &Config, role: Role) -> Result<Reader, Failure> {
    let store = match role {
        Role::Reader => logged(everywhere(context, config).await?)?,
        _ => store(context, config, role).await?,
    };
    remembering(context, config, store).await
}

/// A reader for verifying one store, the estate's or a copy: what it holds, remembered by nobody. With identities only where it
/// is to open something.
///
/// # Errors
/// When the store or the signers file cannot be read, or no copy is called so.
pub async fn verifier(context: &Context, config: &Config, copy: Option<&str>, opens: bool) -> Result<Reader, Failure> {
    let at = match copy {
        Some(name) if name != PRIMARY => config.copy(name)?,
        _ => &config.store,
    };
    let store = logged(any(context, at, Role::Verifier).await?)?;
    let identities = Identities::open(config.keys.identities.as_deref().filter(|_| opens));
    let erased = if opens { erased_anywhere(context, config, &*store).await? } else { BTreeMap::new() };
    reader_of(config, store, identities.refusing(erased))
}

/// A reader without keys of one place; what it read before it need not read again.
///
/// # Errors
/// When the signers file cannot be read.
pub async fn reader_at(context: &Context, config: &Config, place: &Place) -> Result<Reader, Failure> {
    remembering(context, config, Arc::clone(&place.store)).await
}

async fn remembering(context: &Context, config: &Config, store: Arc<dyn Store>) -> Result<Reader, Failure> {
    let reader = reader_of(config, store, Identities::open(None))?;
    match recall::remembering(context, config, &*reader.store).await {
        Some(memory) => Ok(reader.with_recall(memory)),
        None => Ok(reader),
    }
}

async fn everywhere(context: &Context, config: &Config) -> Result<Arc<dyn Store>, Failure> {
    if config.copies.is_empty() {
        return any(context, &config.store, Role::Reader).await;
    }
    Ok(Arc::new(Either::new(places(context, config, Role::Reader).await?, Arc::clone(&context.watch))))
}

/// What was erased is opened no more, whatever keys turn up.
async fn opening_reader(
    context: &Context,
    config: &Config,
    store: Arc<dyn Store>,
    identities: Identities,
) -> Result<Reader, Failure> {
    let erased = ledger(context, config, &*store).await?.erased();
    reader_of(config, store, identities.refusing(erased))
}

fn reader_of(config: &Config, store: Arc<dyn Store>, identities: Identities) -> Result<Reader, Failure> {
    let signers = Arc::new(Signers::read(&config.keys.signers)?);
    Ok(Reader::open(store, signers, Arc::new(identities)))
}

/// What was erased, by those whom the signers file lets erase. Whoever opens anything asks this first.
///
/// # Errors
/// When the store or the signers file cannot be read.
pub async fn ledger(context: &Context, config: &Config, store: &dyn Store) -> Result<Ledger, Failure> {
    let erasers = Signers::read_for(&config.keys.signers, erasure::NAMESPACE)?;
    let ledger = Ledger::read(store, &erasers).await?;
    for name in &ledger.unbelieved {
        let next = "find out who put it there; an eraser needs a line of the signers file with namespaces=\"lifeboat-erasure\"";
        watch::warn(&*context.watch, name, "says that something was erased, and is not believed", next);
    }
    Ok(ledger)
}

/// The reader of a drill of `tenant`: where this machine is the drill host, it opens the copies that were sealed to it, and says so.
///
/// # Errors
/// As [`reader`], and of the keys stores.
pub async fn drill_reader(context: &Context, config: &Config, tenant: &str) -> Result<Reader, Failure> {
    let identities = Identities::open(config.keys.identities.as_deref());
    let store = logged(everywhere(context, config).await?)?;
    let Some(host) = &config.keys.drill_identity else {
        return opening_reader(context, config, store, identities).await;
    };
    let tenant = config.tenant(tenant)?;
    let scopes = [Scope::Tenant(tenant.id.clone()), Scope::Cluster(tenant.cluster.clone())].into();
    let Some(stores) = key::stores(context, config, Role::Reader).await? else {
        return opening_reader(context, config, store, identities).await;
    };
    let given = opening::by_drill_host(&stores, &read_identity(host)?, &scopes).await?;
    for (scope, epoch) in given.keys() {
        tracing::info!(%scope, epoch, "the drill host opened its copy of a key");
        watch::note(&*context.watch, scope.to_string(), format!("epoch {epoch} was opened with the drill host's key"));
    }
    opening_reader(context, config, store, identities.with(given)).await
}
