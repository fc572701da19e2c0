//! `lifeboat stream`: WAL into the store until told to stop.

use std::sync::Arc;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::open;
use super::outcome::Report;
use super::trusted;
use crate::config::Role;
use crate::failure::{Failure, Kind};
use crate::stream::receive::Until;
use crate::stream::session::{Session, WhenBusy};

/// Carry WAL (and new filestore files) into the store until told to stop
///
/// SIGTERM and SIGINT drain what has arrived and end with 0. With --json, one JSON object per line; the last one says
/// how it ended.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat stream                           every cluster of the estate\n  \
    lifeboat stream --cluster main")]
pub struct Args {
    /// Only this cluster [default: all]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Begin anew although WAL is lost for good between the store's end and what the server still has
    #[arg(long)]
    pub accept_gap: bool,
    /// Catch up with the server and end
    #[arg(long)]
    pub once: bool,
}

/// Streams every cluster asked for, until all have ended.
///
/// # Errors
/// The first that fails ends the others, which drain.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let writer = open::writer(context, &config).await?;
    let reader = Arc::new(open::keyless_reader(context, &config, Role::Writer).await?);
    trusted::check(context, &config, &reader.store.place())?;
    let until = if args.once { Until::CaughtUp } else { Until::Stopped };
    let stop = stopped_by_signals()?;
    let mut running = JoinSet::new();
    for cluster in open::clusters(&config, args.cluster.as_deref())? {
        let session = Session {
            config: Arc::clone(&config),
            cluster: cluster.clone(),
            server: open::server(cluster)?,
            writer: Arc::clone(&writer),
            reader: Arc::clone(&reader),
            clock: context.clock.clone(),
            watch: Arc::clone(&context.watch),
            accept_gap: args.accept_gap,
            when_busy: if args.once { WhenBusy::Refuse } else { WhenBusy::Wait },
        };
        say(context, &cluster.name, "started")?;
        let (name, stop) = (cluster.name.clone(), stop.child_token());
        running.spawn(async move { (name, session.run(until, stop).await) });
    }
    let (mut ended, mut failure) = (serde_json::Map::new(), None);
    while let Some(joined) = running.join_next().await {
        let (name, result) = joined.map_err(crate::failure::panicked)?;
        say(context, &name, "ended")?;
        match result {
            Ok(end) => {
                ended.insert(name, json!(end));
            }
            Err(error) => {
                stop.cancel();
                failure = failure.or(Some(error));
            }
        }
    }
    let report = Report::new(json!({ "clusters": ended }), String::new());
    Ok(match failure {
        Some(failure) => report.failed(failure),
        None => report,
    })
}

fn say(context: &Context, cluster: &str, event: &str) -> Result<(), Failure> {
    let line = json!({ "cluster": cluster, "event": event });
    context.line(line.as_object().cloned().unwrap_or_default())
}

/// A token that SIGTERM and SIGINT cancel.
fn stopped_by_signals() -> Result<CancellationToken, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Kind::Failed, "signals", error.to_string(), "check the limits of this process")
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}
