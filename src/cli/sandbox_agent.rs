//! `lifeboat sandbox-agent`: the process inside a sandbox. Hidden; started by `sandbox::Sandbox`, never by a person.
//!
//! `serve` is the agent itself, with the lifeline as its standard input. `build` furnishes namespaces that bubblewrap did not
//! make, by the list of paths in its argument, and becomes `serve`.

use std::process::ExitCode;

use crate::failure::chain;
use crate::sandbox::{BUILD, SERVE, agent, build};

/// Runs the half that `arguments` (what follows `sandbox-agent`) name. Must be the first thing that this process does.
#[allow(clippy::print_stderr)] // read by the process outside, which has no other way to learn why it failed
pub fn run(arguments: &[String]) -> ExitCode {
    let ended = match arguments {
        [half] if half == SERVE => agent::serve().map_err(|error| chain(&error)),
        [half, plan] if half == BUILD => build::build(plan).map(|never| match never {}).map_err(|error| chain(&error)),
        _ => Err("this command is for lifeboat's own use".to_owned()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("lifeboat sandbox-agent: {cause}");
            ExitCode::FAILURE
        }
    }
}
