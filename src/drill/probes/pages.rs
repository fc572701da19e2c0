//! Whether tables and indexes are sound: `pg_amcheck` over every row of the database, run inside the sandbox.

use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::Failure;
use crate::postgres::server;
use crate::restore::recover::Recovered;
use crate::sandbox::{Exit, Spawn, Status};

pub const KIND: Kind = Kind { id: "postgres.amcheck", layer: Layer::Postgres, grade: Grade::E2 };

/// Checks `database` of a recovered server.
///
/// # Errors
/// When the program is not there or cannot be started.
pub async fn ask(recovered: &Recovered, database: &str) -> Result<Seen, Failure> {
    let argv = server::check_arguments(&recovered.binaries, &recovered.inside(), database)?;
    let spawn = Spawn {
        argv: argv.into_iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        env: vec![("PGOPTIONS".to_owned(), server::guarded_environment(recovered.assembled.major))],
        cwd: None,
        log: "amcheck.log".into(),
    };
    Ok(judge(&recovered.sandbox.run(spawn).await?))
}

/// `pg_amcheck` ends with 2 when it found corruption, with 1 when it could not do its work (its `main`).
#[must_use]
pub fn judge(exit: &Exit) -> Seen {
    let said: Vec<&str> = exit.tail.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let seen = match exit.status {
        Status::Exited(0) if said.is_empty() => Seen::passed("every table and index is sound, row by row"),
        Status::Exited(0) => Seen::passed(format!("sound; pg_amcheck remarks: {}", super::few(&said))),
        Status::Exited(2) => {
            let detail =
                format!("pg_amcheck found damage: {}", said.first().copied().unwrap_or("it does not say where"));
            Seen::failed(Verdict::Invalid, detail)
        }
        Status::Exited(_) | Status::Killed(_) => {
            let last = said.last().copied().unwrap_or("it says nothing");
            Seen::failed(Verdict::Inconclusive, format!("pg_amcheck could not finish: {last}"))
        }
    };
    // What it says quotes no rows, only names of relations and positions.
    seen.with(serde_json::json!({ "status": exit.status, "said": said }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    #[test]
    fn damage_invalidates_and_a_check_that_broke_proves_nothing() {
        let exit = |status, tail: &str| Exit { status, tail: tail.to_owned() };
        assert_eq!(judge(&exit(Status::Exited(0), "")).outcome, Outcome::Passed);
        let damaged = judge(&exit(Status::Exited(2), "heap table \"acme.public.t\", block 0:\n line pointer\n"));
        assert_eq!(damaged.gate, Some(Verdict::Invalid));
        assert!(damaged.detail.contains("public.t"));
        assert_eq!(judge(&exit(Status::Exited(1), "error: no amcheck")).gate, Some(Verdict::Inconclusive));
        assert_eq!(judge(&exit(Status::Killed(9), "")).gate, Some(Verdict::Inconclusive));
    }
}
