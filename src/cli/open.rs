//! The configuration made real: the store, the writer, the reader, the servers. Each command opens just what it needs, so
//! that a machine that only backs up never touches a key that opens data.

use std::path::Path;
use std::sync::Arc;

use super::context::Context;
use super::{key, recall};
use crate::authority::opening;
use crate::config::store::PRIMARY;
use crate::config::{self, Cluster, Config, Role, S3Config, StoreConfig, Tenant};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::postgres::connect::{Server, SslMode};
use crate::repo::erasure::{self, Ledger};
use crate::repo::error::RepoError;
use crate::repo::identities::{Identities, read_identity};
use crate::repo::key::WriterBundle;
use crate::repo::reader::Reader;
use crate::repo::sign::Signers;
use crate::repo::witness::{self, About, Shown, Verdict};
use crate::repo::writer::{Writer, WriterOptions};
use crate::store::Store;
use crate::store::counting::Counting;
use crate::store::either::{Either, Place};
use crate::store::local::LocalStore;
use crate::store::s3::{Access, S3Options, S3Store};
use crate::watch;

/// Names a file that gets one JSON line for every call on the store: what was read is checked from there, not from our word.
const STORE_LOG: &str = "LIFEBOAT_STORE_LOG";

/// The estate's store, reached as `role`.
///
/// # Errors
/// When it is out of reach.
pub async fn store(context: &Context, config: &Config, role: Role) -> Result<Arc<dyn Store>, Failure> {
    logged(any(context, &config.store, role).await?)
}

fn logged(store: Arc<dyn Store>) -> Result<Arc<dyn Store>, Failure> {
    match std::env::var_os(STORE_LOG).filter(|value| !value.is_empty()) {
        Some(log) => Ok(Arc::new(Counting::new(store).with_log(Path::new(&log))?)),
        None => Ok(store),
    }
}

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

/// Any place to keep things that a configuration names, reached as `role`.
///
/// # Errors
/// When it is out of reach.
pub async fn any(context: &Context, config: &StoreConfig, role: Role) -> Result<Arc<dyn Store>, Failure> {
    match config {
        StoreConfig::Local { path } => Ok(Arc::new(LocalStore::open(path, context.clock.clone())?)),
        StoreConfig::S3(config) => Ok(Arc::new(S3Store::open(s3_options(config, role)).await?)),
    }
}

/// How a bucket is reached as `role`.
#[must_use]
pub fn s3_options(config: &S3Config, role: Role) -> S3Options {
    let access = config.profile_for(role).map_or(Access::Chain, |profile| Access::Profile(profile.to_owned()));
    S3Options {
        prefix: config.prefix.clone(),
        region: config.region.clone(),
        endpoint: config.endpoint.clone(),
        path_style: config.path_style,
        ca_file: config.ca_file.clone(),
        access,
        requests: config.requests,
        ..S3Options::new(&config.bucket)
    }
}

/// A reader that can list and check, and opens what the identities on this machine open. It reads the estate's store, and where
/// that is damaged or out of reach the copies.
///
/// # Errors
/// When no store or the signers file can be read.
pub async fn reader(context: &Context, config: &Config) -> Result<Reader, Failure> {
    let store = logged(everywhere(context, config).await?)?;
    reader_of(context, config, store, Identities::open(config.keys.identities.as_deref())).await
}

/// [`reader`] of one store only: a copy, or [`PRIMARY`].
///
/// # Errors
/// As [`reader`], and when no copy is called so.
pub async fn reader_from(context: &Context, config: &Config, name: &str) -> Result<Reader, Failure> {
    let at = if name == PRIMARY { &config.store } else { config.copy(name)? };
    let store = logged(any(context, at, Role::Reader).await?)?;
    reader_of(context, config, store, Identities::open(config.keys.identities.as_deref())).await
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
    let reader = reader_of(context, config, store, Identities::open(None)).await?;
    match recall::remembering(context, config, &*reader.store).await {
        Some(memory) => Ok(reader.with_recall(memory)),
        None => Ok(reader),
    }
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
    reader_of(context, config, store, identities).await
}

/// A reader without keys of one place.
///
/// # Errors
/// When the signers file cannot be read.
pub fn reader_at(config: &Config, place: &Place) -> Result<Reader, Failure> {
    let signers = Arc::new(Signers::read(&config.keys.signers)?);
    Ok(Reader::open(Arc::clone(&place.store), signers, Arc::new(Identities::open(None))))
}

async fn everywhere(context: &Context, config: &Config) -> Result<Arc<dyn Store>, Failure> {
    if config.copies.is_empty() {
        return any(context, &config.store, Role::Reader).await;
    }
    Ok(Arc::new(Either::new(places(context, config, Role::Reader).await?, Arc::clone(&context.watch))))
}

/// What was erased is opened no more, whatever keys turn up.
async fn reader_of(
    context: &Context,
    config: &Config,
    store: Arc<dyn Store>,
    identities: Identities,
) -> Result<Reader, Failure> {
    let signers = Arc::new(Signers::read(&config.keys.signers)?);
    let erased = ledger(context, config, &*store).await?.erased();
    Ok(Reader::open(store, signers, Arc::new(identities.refusing(erased))))
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
        return reader_of(context, config, store, identities).await;
    };
    let tenant = config.tenant(tenant)?;
    let scopes = [Scope::Tenant(tenant.id.clone()), Scope::Cluster(tenant.cluster.clone())].into();
    let Some(stores) = key::stores(context, config, Role::Reader).await? else {
        return reader_of(context, config, store, identities).await;
    };
    let given = opening::by_drill_host(&stores, &read_identity(host)?, &scopes).await?;
    for (scope, epoch) in given.keys() {
        tracing::info!(%scope, epoch, "the drill host opened its copy of a key");
        watch::note(&*context.watch, scope.to_string(), format!("epoch {epoch} was opened with the drill host's key"));
    }
    reader_of(context, config, store, identities.with(given)).await
}

/// The writer.
///
/// # Errors
/// When the bundle is not configured or cannot be read, or the store is out of reach.
pub async fn writer(context: &Context, config: &Config) -> Result<Arc<Writer>, Failure> {
    let Some(path) = &config.keys.writer else {
        return Err(Failure::new(
            Kind::Usage,
            config.path.display().to_string(),
            "names no writer bundle, without which nothing can be sealed",
            "set [keys] writer to the file that `lifeboat init` made",
        ));
    };
    let mut bundle = WriterBundle::read(path)?;
    let options =
        WriterOptions { slack: config.retention.slack, rebase: config.retention.rebase, ..WriterOptions::default() };
    let store = store(context, config, Role::Writer).await?;
    // Nothing new is sealed to what was erased, also by a machine whose bundle still has its key.
    for (scope, epoch) in ledger(context, config, &*store).await?.erased().into_keys() {
        bundle.erase(&scope, epoch);
    }
    for scope in config.scopes().into_iter().filter(|scope| bundle.is_erased(scope)) {
        let next =
            "take it out of the configuration; where it is to be protected anew, make it a key with `lifeboat key new`";
        watch::warn(&*context.watch, scope.to_string(), "was erased: nothing of it is stored any more", next);
    }
    let bundle = Arc::new(bundle);
    Ok(Arc::new(Writer::open(store, bundle, context.clock.clone(), options)?))
}

/// How a cluster is reached for backup and stream.
///
/// # Errors
/// When its password cannot be read.
pub fn server(cluster: &Cluster) -> Result<Server, Failure> {
    Ok(Server {
        host: cluster.host.clone(),
        port: cluster.port,
        user: cluster.user.clone(),
        database: cluster.database.clone(),
        password: cluster.password.as_ref().map(config::Secret::read).transpose()?,
        sslmode: sslmode(cluster.sslmode),
        ca_file: cluster.ca_file.clone(),
        application_name: "lifeboat".to_owned(),
    })
}

/// How a cluster is reached by the administrator who loads a restored database.
///
/// # Errors
/// When the password cannot be read.
pub fn administrator(cluster: &Cluster) -> Result<Server, Failure> {
    let plain = server(cluster)?;
    match &cluster.restore_user {
        None => Ok(plain),
        Some(user) => {
            let password = cluster.restore_password.as_ref().map(config::Secret::read).transpose()?;
            Ok(Server { user: user.clone(), password, ..plain })
        }
    }
}

fn sslmode(mode: config::SslMode) -> SslMode {
    match mode {
        config::SslMode::Disable => SslMode::Disable,
        config::SslMode::Prefer => SslMode::Prefer,
        config::SslMode::Require => SslMode::Require,
        config::SslMode::VerifyCa => SslMode::VerifyCa,
        config::SslMode::VerifyFull => SslMode::VerifyFull,
    }
}

/// The clusters that a command is about: the one named, or all.
///
/// # Errors
/// When the name is not known (with the nearest one).
pub fn clusters<'a>(config: &'a Config, named: Option<&str>) -> Result<Vec<&'a Cluster>, Failure> {
    match named {
        Some(name) => Ok(vec![config.cluster(name)?]),
        None => Ok(config.clusters.values().collect()),
    }
}
