//! Whether something inside the restored server can reach the host: tried, the way hostile data would.
//!
//! The server's superuser runs programs (`COPY ... FROM PROGRAM`) that connect to listeners of ours on the host by TCP and send
//! them a DNS question by UDP, and `dblink` connects out from within the server. Silence at the [`Ear`] alone proves nothing, so a
//! program must first be seen running. The extension is created in a scratch database, never in the tenant's.

use serde::Serialize;
use sqlx::PgConnection;

use crate::drill::ear::Ear;
use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::Failure;
use crate::postgres::connect::Server;
use crate::postgres::{server, sql};

pub const KIND: Kind = Kind { id: "sandbox.egress", layer: Layer::Sandbox, grade: Grade::E2 };

const SCRATCH: &str = "lifeboat_probe";
/// What a program says that got through.
const THROUGH: &str = "got-through";
/// What a program says that runs at all.
const RAN: &str = "ran-inside";

/// One way that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    pub how: String,
    /// What was seen inside.
    pub said: String,
}

/// Tries every way there is on a server that we are the superuser of.
///
/// # Errors
/// When the server cannot be asked at all; a way that it does not have is an attempt that says so.
pub async fn ask(at: &Server, major: u32, ear: &Ear) -> Result<Seen, Failure> {
    let mut connection = sql::connect_with(at, "postgres", &server::guarded_settings(major)).await?;
    let mut attempts = vec![attempt("a program runs", run(&mut connection, &format!("echo {RAN}")).await)];
    for address in ear.tcp() {
        let (ip, port) = (address.ip(), address.port());
        let command = format!("(exec 3<>/dev/tcp/{ip}/{port}) 2>&1 && echo {THROUGH}; true");
        attempts.push(attempt(format!("a program connects to {address}"), run(&mut connection, &command).await));
    }
    for address in ear.udp() {
        let (ip, port) = (address.ip(), address.port());
        // A DNS question for the root (RFC 1035, 4.1). That a datagram leaves says nothing; whether it arrives, the ear says.
        let question = r"printf '\000\001\001\000\000\001\000\000\000\000\000\000\000\000\002\000\001'";
        let command = format!("{question} 2>&1 >/dev/udp/{ip}/{port}; true");
        attempts.push(attempt(format!("a program asks {address} by DNS"), run(&mut connection, &command).await));
    }
    attempts.extend(extensions(at, major, &mut connection, ear).await?);
    // What is on its way arrives before we listen: loopback delivers while the sender runs.
    Ok(judge(&attempts, &ear.heard().iter().map(ToString::to_string).collect::<Vec<_>>()))
}

fn attempt(how: impl Into<String>, said: Result<String, Failure>) -> Attempt {
    Attempt { how: how.into(), said: said.unwrap_or_else(|failure| failure.cause) }
}

/// Runs a command of ours inside the server; what it said, as one line.
async fn run(connection: &mut PgConnection, command: &str) -> Result<String, Failure> {
    let program = sql::quoted_text(&format!("bash -c {}", shell_quoted(command)));
    let what = "a program inside the server";
    sql::execute(connection, what, "CREATE TEMP TABLE IF NOT EXISTS lifeboat_said (line text)").await?;
    sql::execute(connection, what, "TRUNCATE lifeboat_said").await?;
    // Delimiter and quote that no program of ours writes: every line is one value.
    let options = "(FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02', ENCODING 'SQL_ASCII')";
    sql::execute(connection, what, &format!("COPY lifeboat_said FROM PROGRAM {program} {options}")).await?;
    let lines = sql::text_rows(connection, what, "SELECT line FROM lifeboat_said").await?;
    let lines: Vec<String> = lines.into_iter().flatten().flatten().collect();
    Ok(lines.join("; "))
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

async fn extensions(
    at: &Server,
    major: u32,
    connection: &mut PgConnection,
    ear: &Ear,
) -> Result<Vec<Attempt>, Failure> {
    let what = "extensions that connect out";
    let there =
        sql::text_rows(connection, what, "SELECT name::text FROM pg_available_extensions WHERE name = 'dblink'");
    if there.await?.is_empty() {
        return Ok(vec![Attempt {
            how: "dblink connects out".to_owned(),
            said: "the extension is not here".to_owned(),
        }]);
    }
    sql::execute(connection, SCRATCH, &format!("DROP DATABASE IF EXISTS {SCRATCH}")).await?;
    sql::execute(connection, SCRATCH, &format!("CREATE DATABASE {SCRATCH} TEMPLATE template0")).await?;
    let tried = dblink(at, major, ear).await;
    sql::execute(connection, SCRATCH, &format!("DROP DATABASE {SCRATCH} WITH (FORCE)")).await?;
    tried
}

async fn dblink(at: &Server, major: u32, ear: &Ear) -> Result<Vec<Attempt>, Failure> {
    let mut inside = sql::connect_with(at, SCRATCH, &server::guarded_settings(major)).await?;
    sql::execute(&mut inside, "dblink", "CREATE EXTENSION dblink").await?;
    let mut attempts = Vec::new();
    for address in ear.tcp() {
        let (host, port) = (address.ip(), address.port());
        let target = sql::quoted_text(&format!("host={host} port={port} user=lifeboat dbname=x connect_timeout=2"));
        let said = match sql::value(&mut inside, "dblink", &format!("SELECT dblink_connect({target})")).await {
            Ok(_) => THROUGH.to_owned(),
            Err(error) => crate::failure::chain(&error),
        };
        attempts.push(Attempt { how: format!("dblink connects to {address}"), said });
    }
    Ok(attempts)
}

/// Judges what was tried by what the host heard.
#[must_use]
pub fn judge(attempts: &[Attempt], heard: &[String]) -> Seen {
    let through: Vec<&str> = attempts.iter().filter(|a| a.said.contains(THROUGH)).map(|a| a.how.as_str()).collect();
    let seen = if !through.is_empty() || !heard.is_empty() {
        let way = if through.is_empty() {
            format!("something arrived at {}", super::few(heard))
        } else {
            super::few(&through)
        };
        Seen::failed(Verdict::Exposed, format!("restored data can reach the host: {way}"))
    } else if !attempts.iter().any(|attempt| attempt.said.contains(RAN)) {
        Seen::failed(Verdict::Inconclusive, "no program ran inside the server, so that nothing got out proves nothing")
    } else {
        let ways = attempts.len().saturating_sub(1);
        Seen::passed(format!(
            "tried {ways} ways out of the running server (TCP, DNS, dblink); nothing reached the host"
        ))
    };
    seen.with(serde_json::json!({ "attempts": attempts, "heard": heard }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    fn said(how: &str, said: &str) -> Attempt {
        Attempt { how: how.to_owned(), said: said.to_owned() }
    }

    #[test]
    fn silence_counts_only_when_something_ran() {
        let ran = said("a program runs", RAN);
        let refused = said("a program connects", "connect: Connection refused");
        assert_eq!(judge(&[ran, refused.clone()], &[]).outcome, Outcome::Passed);
        assert_eq!(judge(&[refused], &[]).gate, Some(Verdict::Inconclusive));
        assert_eq!(judge(&[], &[]).gate, Some(Verdict::Inconclusive));
    }

    #[test]
    fn whoever_gets_through_or_is_heard_is_a_way_out() {
        let ran = said("a program runs", RAN);
        let through = said("dblink connects to 127.0.0.1:5", THROUGH);
        assert_eq!(judge(&[ran.clone(), through], &[]).gate, Some(Verdict::Exposed));
        assert_eq!(judge(&[ran], &["127.0.0.1:5".to_owned()]).gate, Some(Verdict::Exposed));
    }

    #[test]
    fn a_command_cannot_leave_its_quotes() {
        assert_eq!(shell_quoted("it's"), r"'it'\''s'");
    }
}
