//! `lifeboat catalog`: the cache of what this machine has read of the store.

use serde_json::json;

use super::context::Context;
use super::outcome::Report;
use super::{open, recall};
use crate::failure::{Failure, chain};
use crate::watch::{Finding, Level};

/// The cache of what was read of the store
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    Rebuild(Rebuild),
}

/// Make the catalog anew from the store alone
///
/// Nothing is lost without it but time. When bytes were last verified is of this machine alone: it is kept where the file is
/// readable, and cannot be made anew.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat catalog rebuild\n  \
    lifeboat catalog rebuild --copy second")]
pub struct Rebuild {
    /// Of a copy instead of the estate's store
    #[arg(long, value_name = "NAME")]
    pub copy: Option<String>,
}

/// Rebuilds; needs no key.
///
/// # Errors
/// Of the store, of the catalog's file.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let Args::Rebuild(args) = args;
    let config = context.config()?;
    let reader = open::verifier(context, &config, args.copy.as_deref(), false).await?;
    let memory = std::sync::Arc::new(recall::opened(context, &config, &*reader.store).await?);
    memory.0.clear().await?;
    let listing = reader.with_recall(memory.clone()).everything().await?;
    let (envelopes, named) = memory.0.counts().await?;
    let path = memory.0.path().display().to_string();
    let text = format!("{path}: {envelopes} envelopes, which name {named} objects\n");
    let mut report = Report::new(json!({ "path": path, "envelopes": envelopes, "objects_named": named }), text);
    report.findings.extend(listing.bad.iter().map(|(name, error)| Finding {
        level: Level::Warning,
        object: name.clone(),
        what: format!("is not believed, and is not in the catalog: {}", chain(error)),
        next: "see `lifeboat verify --level 0`".to_owned(),
    }));
    Ok(report)
}
