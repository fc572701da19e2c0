//! The store: is it there, does its clock agree with ours, what does it promise, and what did its last drill say?

use jiff::Timestamp;
use serde_json::json;

use super::{Args, Checks, credentials};
use crate::cli::context::Context;
use crate::cli::{open, trusted};
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::repo::expire::CLOCKS_APART;
use crate::store::Store;
use crate::store::honesty::{Gate, Outcome, verdict};

const CHECK: &str = "store";

/// Checks it; true when it can be reached.
pub(super) async fn check(config: &Config, context: &Context, args: &Args, checks: &mut Checks) -> bool {
    let role = credentials::role_here(config, args);
    let looked = async {
        let store = open::any(context, &config.store, role).await?;
        let now = store.now().await?;
        Ok::<_, Failure>((store, now))
    };
    let (store, now) = match looked.await {
        Ok(found) => found,
        Err(failure) => {
            checks.fail(CHECK, failure);
            return false;
        }
    };
    let place = store.place();
    match skewed(now, context.clock.now()) {
        None => checks.fine("clock", &place, "agrees with this machine's"),
        Some(what) => checks.complain("clock", &place, what, "set this machine's clock by NTP"),
    }
    let promises = store.promises();
    for lack in &promises.lacks {
        let next = "use a bucket that was made with versioning and Object Lock";
        checks.complain(CHECK, &place, format!("{lack}: nothing is written to it"), next);
    }
    for caveat in &promises.caveats {
        checks.fine(CHECK, &place, caveat.as_str());
    }
    if !args.attack {
        last_drill(config, context, &*store, checks);
    }
    credentials::check(config, context, args, now, checks).await;
    checks.fields.insert("store".to_owned(), json!({ "place": place, "promises": promises, "time": now }));
    true
}

fn last_drill(config: &Config, context: &Context, store: &dyn Store, checks: &mut Checks) {
    let place = store.place();
    let (record, gate) = trusted::judged(context, config, &place);
    if let Some(record) = &record {
        let said = json!({ "time": record.time, "verdict": verdict(&record.trials), "trials": record.trials });
        checks.fields.insert("drill".to_owned(), said);
    }
    match (gate, record) {
        (Gate::Warn { what, next }, _) => checks.complain("honesty", place, what, next),
        (Gate::Refuse { what, next }, _) => {
            checks.fail("honesty", Failure::new(Kind::Refused, format!("store {place}"), what, next));
        }
        (Gate::Open, Some(record)) => {
            let tried = record.trials.iter().filter(|trial| trial.outcome != Outcome::CouldNotTry).count();
            let said = match record.trials.len() - tried {
                0 => format!("kept its locks when drilled, {}", record.time),
                untried => format!("kept its locks in {tried} trials, {}; {untried} could not be tried", record.time),
            };
            checks.fine("honesty", place, said);
        }
        (Gate::Open, None) => checks.fine("honesty", place, "not drilled"),
    }
}

/// What is said of two clocks that differ by too much: locks and names are made by the host's, and `expire` refuses to judge.
fn skewed(store: Timestamp, host: Timestamp) -> Option<String> {
    let off = host.duration_since(store);
    let (seconds, word) = (off.as_secs().abs(), if off.is_negative() { "behind" } else { "ahead of" });
    (off.abs() > CLOCKS_APART).then(|| format!("this machine's clock is {seconds} s {word} the store's"))
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_clock_is_spoken_of_when_it_is_more_than_five_minutes_off_in_either_direction() {
        let store: Timestamp = "2026-11-22T08:00:00Z".parse().unwrap();
        let off = |seconds| skewed(store, store + SignedDuration::from_secs(seconds));
        assert_eq!((off(300), off(-300)), (None, None));
        assert_eq!(off(301).as_deref(), Some("this machine's clock is 301 s ahead of the store's"));
        assert_eq!(off(-301).as_deref(), Some("this machine's clock is 301 s behind the store's"));
    }
}
