//! `doctor --attack`: the honesty drill, its table, and its record, which `backup` and `stream` go by.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Args, Checks};
use crate::cli::context::Context;
use crate::cli::table::{Cell, Table};
use crate::cli::terminal::{Page, Tone};
use crate::cli::{open, trusted};
use crate::config::{Config, Role, StoreConfig};
use crate::failure::{self, Failure, Kind};
use crate::repo::name::Stamp;
use crate::store::Store as _;
use crate::store::honesty::s3::{Locks, Trouble};
use crate::store::honesty::{self, Outcome, Record, Trial, Verdict, verdict};
use crate::store::local::LocalStore;
use crate::store::s3::{Access, S3Store};

const CHECK: &str = "honesty";

/// Long enough that a put is over before its lock is.
const LAPSE: SignedDuration = SignedDuration::from_secs(3);

/// The drill takes some ten seconds; its canaries must outlast it.
const SHORTEST: SignedDuration = SignedDuration::from_secs(60);

/// A drill that was made.
pub(super) struct Tried(Record);

pub(super) async fn run(config: &Config, context: &Context, args: &Args, checks: &mut Checks) -> Option<Tried> {
    let made = async {
        let (place, trials) = drill(config, context, args).await?;
        let record = Record::new(place, context.clock.now(), trials);
        record.write(&trusted::folder(config))?;
        Ok::<_, Failure>(record)
    };
    match made.await {
        Ok(record) => {
            judge(&record, checks);
            Some(Tried(record))
        }
        Err(failure) => {
            checks.fail(CHECK, failure);
            None
        }
    }
}

async fn drill(config: &Config, context: &Context, args: &Args) -> Result<(String, Vec<Trial>), Failure> {
    let stamp = Stamp::new(context.clock.now())
        .map_err(|error| Failure::new(Kind::Failed, "random bytes", error.to_string(), "run the command again"))?
        .to_string();
    let lock = args.lock.max(SHORTEST);
    context.watch.stage("attacking the store", None);
    match &config.store {
        StoreConfig::Local { path } => {
            let store = LocalStore::open(path, context.clock.clone())?;
            Ok((store.place(), honesty::drill_local(&store, &stamp, lock).await?))
        }
        StoreConfig::S3(bucket) => {
            let mut options = open::s3_options(bucket, Role::Writer);
            if let Some(profile) = &args.profile {
                options.access = Access::Profile(profile.clone());
            }
            let store = S3Store::open(options).await?;
            let now: Timestamp = store.now().await?;
            let drilled = honesty::s3::drill(&store.target(), &stamp, now, Locks { lock, lapse: LAPSE }).await;
            Ok((store.place(), drilled.map_err(|trouble| failed(store.place(), &trouble))?))
        }
    }
}

fn failed(place: String, trouble: &Trouble) -> Failure {
    let (kind, next) = match trouble {
        Trouble::Unreachable(_) => {
            (Kind::Unreachable, "check the store's address and network, then run the command again")
        }
        _ => (Kind::Refused, "use a bucket with versioning and Object Lock, and a credential that may put"),
    };
    Failure::new(kind, format!("store {place}"), failure::chain(trouble), next)
}

fn judge(record: &Record, checks: &mut Checks) {
    let place = &record.place;
    let names = |outcome| {
        let of = record.trials.iter().filter(|trial| trial.outcome == outcome).map(|trial| trial.attack.name());
        of.collect::<Vec<_>>().join(", ")
    };
    match verdict(&record.trials) {
        Verdict::Honest => checks.fine(CHECK, place, "kept every lock, against a credential that may try everything"),
        Verdict::Unproven => checks.complain(
            CHECK,
            place,
            format!("kept what was tried; not tried with enough rights: {}", names(Outcome::CouldNotTry)),
            "once, run it with --profile of whoever administers the bucket",
        ),
        Verdict::Lies => {
            let what = format!("does not keep its locks: {}", names(Outcome::Lied));
            let next = "use another store; backup and stream refuse this one unless accept_dishonest is set";
            checks.fail(CHECK, Failure::new(Kind::Refused, format!("store {place}"), what, next));
        }
    }
}

impl Tried {
    pub(super) fn text(&self, page: Page) -> String {
        let mut table = Table::new(&["attack", "outcome", "detail"]);
        for trial in &self.0.trials {
            let (word, tone) = match trial.outcome {
                Outcome::Refused => ("refused", Tone::Good),
                Outcome::SeenThrough => ("seen through", Tone::Good),
                Outcome::Lied => ("lied", Tone::Bad),
                Outcome::CouldNotTry => ("not tried", Tone::Warning),
            };
            table.row([Cell::from(trial.attack.name()), Cell::toned(word, tone), trial.detail.as_str().into()]);
        }
        format!("\n{}", table.draw(page))
    }

    pub(super) fn json(&self) -> Value {
        let Record { time, trials, .. } = &self.0;
        json!({ "time": time, "verdict": verdict(trials), "trials": trials })
    }
}
