//! The configuration made real: the store, the writer, the reader, the servers. Each command opens just what it needs, so
//! that a machine that only backs up never touches a key that opens data.

use std::path::Path;
use std::sync::Arc;

mod readers;

pub use readers::{
    about, drill_reader, freshness, keyless_reader, ledger, places, reader, reader_at, reader_from, verifier,
};

use super::context::Context;
use crate::config::{self, Cluster, Config, Role, S3Config, StoreConfig};
use crate::failure::{Failure, Kind};
use crate::postgres::connect::{Server, SslMode};
use crate::repo::key::WriterBundle;
use crate::repo::writer::{Writer, WriterOptions};
use crate::store::Store;
use crate::store::counting::Counting;
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
