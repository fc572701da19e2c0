//! Logs go to stderr: for people where it is a terminal, JSON otherwise. Only lifeboat's own are raised by `-v`: what
//! the libraries below say in detail (SQL, HTTP headers) may carry what must not be written down.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

pub(super) fn start(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let logs = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::new(format!("warn,lifeboat={level}")));
    // A second subscriber in one process (tests) is no reason to fail.
    let _ = if std::io::stderr().is_terminal() {
        logs.without_time().with_target(false).try_init()
    } else {
        logs.json().flatten_event(true).try_init()
    };
}
