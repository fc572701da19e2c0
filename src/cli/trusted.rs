//! Before anything is written to the estate's store: what its last honesty drill said.

use std::path::PathBuf;

use super::context::Context;
use crate::config::{Config, StoreConfig};
use crate::failure::{Failure, Kind};
use crate::store::honesty::{Gate, Record, gate};
use crate::watch::{self, Finding, Level};

/// Where the drills of stores are remembered.
#[must_use]
pub fn folder(config: &Config) -> PathBuf {
    config.state_dir.join("honesty")
}

/// What the last drill means for the store at `place`; a folder of this machine promises nothing that a drill could prove,
/// and is only refused for a lie. A record that cannot be read counts as none, and is spoken of.
#[must_use]
pub fn judged(context: &Context, config: &Config, place: &str) -> (Option<Record>, Gate) {
    let record = Record::read(&folder(config), place).unwrap_or_else(|error| {
        let failure = Failure::from(error);
        watch::warn(&*context.watch, failure.object, failure.cause, failure.next);
        None
    });
    let gate = match &config.store {
        StoreConfig::S3(store) => gate(record.as_ref(), context.clock.now(), store.accept_dishonest),
        StoreConfig::Local { .. } => match gate(record.as_ref(), context.clock.now(), false) {
            refused @ Gate::Refuse { .. } => refused,
            _ => Gate::Open,
        },
    };
    (record, gate)
}

/// What a person who only looks is told.
#[must_use]
pub fn finding(gate: Gate, place: &str) -> Option<Finding> {
    match gate {
        Gate::Open => None,
        Gate::Warn { what, next } | Gate::Refuse { what, next } => {
            Some(Finding { level: Level::Warning, object: format!("store {place}"), what, next })
        }
    }
}

/// Lets pass, warns, or refuses to write to the store at `place`.
///
/// # Errors
/// `Refused`, for a store that lied and that the configuration does not accept.
pub fn check(context: &Context, config: &Config, place: &str) -> Result<(), Failure> {
    match judged(context, config, place).1 {
        Gate::Open => Ok(()),
        Gate::Warn { what, next } => {
            watch::warn(&*context.watch, format!("store {place}"), what, next);
            Ok(())
        }
        Gate::Refuse { what, next } => Err(Failure::new(Kind::Refused, format!("store {place}"), what, next)),
    }
}
