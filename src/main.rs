//! `lifeboat`

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((command, rest)) if command == lifeboat::sandbox::COMMAND => lifeboat::cli::sandbox_agent::run(rest),
        _ => ExitCode::SUCCESS,
    }
}
