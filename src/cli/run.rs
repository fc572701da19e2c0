//! From arguments to an exit code: parse, run one command, say how it ended.
//!
//! With `--json` exactly one object reaches stdout whatever happens: wrong arguments, `--help`, a failure and a panic
//! included. A result that could not be written is a failure too.

use std::ffi::OsString;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::json;

use super::context::Context;
use super::outcome::{Report, told};
use super::progress::Progress;
use super::terminal::Page;
use super::{
    Command, Lifeboat, backup, catalog, copy, demo, doctor, drill, expire, hold, init, key, logs, points, restore,
    status, stream, verify,
};
use crate::clock::Clock;
use crate::failure::{Failure, Kind};

/// After the command has ended, what still runs gets this long before the process goes.
const GRACE: Duration = Duration::from_secs(5);

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    leave_no_core();
    let args: Vec<OsString> = std::env::args_os().collect();
    // The agent is started inside a sandbox: it gets no configuration, no threads and no runtime of ours.
    if args.get(1).is_some_and(|first| first == crate::sandbox::COMMAND) {
        let words: Vec<String> = args.iter().skip(2).map(|word| word.to_string_lossy().into_owned()).collect();
        return super::sandbox_agent::run(&words);
    }
    match Lifeboat::try_parse_from(&args) {
        Ok(asked) => run(asked),
        Err(error) => not_parsed(&args, &error),
    }
}

/// A process that holds keys must not leave its memory on a disk when it dies. What it starts inherits this.
fn leave_no_core() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // To lower a limit is always allowed; where it is not even known, there is no core either.
    let _ = setrlimit(Resource::Core, none);
}

fn run(asked: Lifeboat) -> ExitCode {
    logs::start(asked.verbose);
    let (json, name) = (asked.json, asked.command.name());
    let progress = Arc::new(Progress::new(json, asked.verbose));
    let page = Page::of(&std::io::stdout());
    let mut context = Context::new(asked.config, Clock::system(), progress.clone(), json, page);
    context.verbose = asked.verbose > 0;
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| in_runtime(asked.command, &context)));
    let mut report = match ended {
        Ok(Ok(report)) => report,
        Ok(Err(failure)) => failure.into(),
        Err(_) => panicked(name).into(),
    };
    for finding in progress.close() {
        if !report.findings.contains(&finding) {
            report.findings.push(finding);
        }
    }
    say(name, &report, json)
}

fn panicked(name: &str) -> Failure {
    let cause = "lifeboat itself is at fault; what it was doing is above";
    Failure::new(Kind::Failed, format!("lifeboat {name}"), cause, "report it with those lines")
}

fn in_runtime(command: Command, context: &Context) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        let next = "check the limits on processes and open files";
        Failure::new(Kind::Failed, "this machine", format!("no threads can be started: {error}"), next)
    })?;
    let report = runtime.block_on(Box::pin(dispatch(command, context)));
    runtime.shutdown_timeout(GRACE);
    report
}

async fn dispatch(command: Command, context: &Context) -> Result<Report, Failure> {
    // Each is boxed: one command's state must not make the others' futures as large.
    match command {
        Command::Init(args) => Box::pin(init::run(args, context)).await,
        Command::Key(args) => Box::pin(key::run(args, context)).await,
        Command::Backup(args) => Box::pin(backup::run(args, context)).await,
        Command::Stream(args) => Box::pin(stream::run(args, context)).await,
        Command::Points(args) => Box::pin(points::run(args, context)).await,
        Command::Status(args) => Box::pin(status::run(args, context)).await,
        Command::Copy(args) => Box::pin(copy::run(args, context)).await,
        Command::Restore(args) => Box::pin(restore::run(args, context)).await,
        Command::Doctor(args) => Box::pin(doctor::run(args, context)).await,
        Command::Drill(args) => Box::pin(drill::run(args, context)).await,
        Command::Expire(args) => Box::pin(expire::run(args, context)).await,
        Command::Hold(args) => Box::pin(hold::run(args, context)).await,
        Command::Unhold(args) => Box::pin(hold::lift(args, context)).await,
        Command::Verify(args) => Box::pin(verify::run(args, context)).await,
        Command::Catalog(args) => Box::pin(catalog::run(args, context)).await,
        Command::Demo(args) => Box::pin(demo::run(args, context)).await,
    }
}

fn say(name: &str, report: &Report, json: bool) -> ExitCode {
    let stdout = if json { format!("{}\n", report.to_json(name)) } else { report.text.clone() };
    if let (Some(failure), false) = (&report.failure, json) {
        let _ = write!(std::io::stderr(), "{}", told(failure, Page::of(&std::io::stderr())));
    }
    written(&stdout, report.exit_code())
}

/// Writes to stdout; what nobody could read did not succeed. People who stop reading (`| head`) are another matter.
fn written(text: &str, exit_code: u8) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    let result = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe && exit_code == 0 => {
            let next = "make room where stdout goes, then run the command again";
            let failure = Failure::new(Kind::Failed, "stdout", format!("cannot be written: {error}"), next);
            let _ = write!(std::io::stderr(), "{}", told(&failure, Page::PLAIN));
            ExitCode::from(Kind::Failed as u8)
        }
        _ => ExitCode::from(exit_code),
    }
}

/// Wrong arguments, or `--help` and `--version`, which clap treats alike.
fn not_parsed(args: &[OsString], error: &clap::Error) -> ExitCode {
    let asks = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let wants_json = args.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    if !wants_json {
        // Clap draws its own colours and usage; 2 is its code for wrong arguments, as it is ours.
        let _ = error.print();
        return ExitCode::from(if asks { 0 } else { Kind::Usage as u8 });
    }
    let name = command_asked(args);
    let report =
        if asks { Report::new(json!({ "text": error.render().to_string() }), "") } else { usage(&name, error).into() };
    say(&name, &report, true)
}

/// Clap's message without its usage lines, which `--help` has.
fn usage(name: &str, error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let said = text.split("\nUsage:").next().unwrap_or_default().trim();
    let said = said.split("\n\n").next().unwrap_or_default();
    let cause: Vec<&str> = said.trim_start_matches("error: ").split_whitespace().collect();
    let cause = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing".to_owned(),
        _ => cause.join(" "),
    };
    let object = format!("lifeboat {name}").trim_end().to_owned();
    Failure::new(Kind::Usage, object.clone(), cause, format!("see `{object} --help`"))
}

/// The command that was meant, as far as the arguments tell; empty when they do not.
fn command_asked(args: &[OsString]) -> String {
    let mut words = args.iter().skip(1).filter_map(|arg| arg.to_str());
    let tree = Lifeboat::command();
    let Some(found) = words.find_map(|word| tree.find_subcommand(word)) else { return String::new() };
    match words.find_map(|word| found.find_subcommand(word)) {
        Some(below) => format!("{} {}", found.get_name(), below.get_name()),
        None => found.get_name().to_owned(),
    }
}
