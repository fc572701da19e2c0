//! The command line: one file per command, and the only folder that prints.
//!
//! A command's `run` takes its arguments and a [`context::Context`] and returns a [`outcome::Report`] or a
//! [`crate::failure::Failure`]; `run.rs` turns either into tables or into one JSON object, and into the exit code.
//! What scripts rely on is written in `docs/CLI.md`.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};

pub mod backup;
pub mod catalog;
pub mod context;
pub mod copy;
pub mod demo;
pub mod doctor;
pub mod drill;
pub mod expire;
mod fresh;
pub mod hold;
pub mod init;
pub mod key;
mod logs;
pub mod open;
pub mod outcome;
pub mod points;
pub mod progress;
mod recall;
pub mod restore;
mod run;
pub mod sandbox_agent;
pub mod status;
pub mod stream;
pub mod table;
pub mod terminal;
#[cfg(test)]
mod tests;
pub mod trusted;
pub mod verify;

pub use run::main;

/// Backups that are proven by drills, and people who can still get in.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, max_term_width = 110, disable_help_subcommand = true)]
#[command(after_help = "Start with `lifeboat demo` (a tour on this machine) or `lifeboat init`.\n\
    Exit codes: 0 ok, 1 failed, 2 usage, 3 done with warnings, 4 target not reached,\n\
    5 refused, 6 integrity, 7 out of reach (try again).")]
pub struct Lifeboat {
    /// The configuration [default: $LIFEBOAT_CONFIG, ./lifeboat.toml, /etc/lifeboat/lifeboat.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write exactly one JSON object to stdout, whatever the outcome (JSON Lines for `stream`)
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on stderr; twice for details
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::Args),
    #[command(subcommand)]
    Key(key::Args),
    Backup(backup::Args),
    Stream(stream::Args),
    Points(points::Args),
    Status(status::Args),
    Copy(copy::Args),
    Restore(restore::Args),
    Drill(drill::Args),
    Expire(expire::Args),
    Hold(hold::Args),
    Unhold(hold::UnholdArgs),
    Verify(verify::Args),
    #[command(subcommand)]
    Catalog(catalog::Args),
    Doctor(doctor::Args),
    Demo(demo::Args),
}

impl Command {
    /// The command as it is typed, and as `command` in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Init(_) => "init",
            Self::Key(args) => args.name(),
            Self::Backup(_) => "backup",
            Self::Stream(_) => "stream",
            Self::Points(_) => "points",
            Self::Status(_) => "status",
            Self::Copy(_) => "copy",
            Self::Restore(_) => "restore",
            Self::Drill(_) => "drill",
            Self::Expire(_) => "expire",
            Self::Hold(_) => "hold",
            Self::Unhold(_) => "unhold",
            Self::Verify(_) => "verify",
            Self::Catalog(catalog::Args::Rebuild(_)) => "catalog rebuild",
            Self::Doctor(_) => "doctor",
            Self::Demo(_) => "demo",
        }
    }
}
