//! Locks follow the need, over ten simulated years: the real writer, reader, janitor and holds on a store in memory, with random schedules, classes,
//! reuse, crashes at any call, clocks that disagree, runs that take long and cross each other.
//!
//! After every step: (a) no envelope in the store outlives what it names; (b) nothing is gone inside the time it was promised for;
//! (c) live points read back, sampled; (d) nothing stays that nobody needs. `LIFEBOAT_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "decade/checks.rs"]
mod checks;
#[path = "decade/dice.rs"]
mod dice;
#[path = "decade/slow.rs"]
mod slow;
#[path = "decade/world.rs"]
mod world;

use std::time::Instant;

use jiff::SignedDuration;

use dice::Dice;
use world::World;

const DAY: SignedDuration = SignedDuration::from_hours(24);
const YEARS: i64 = 10;

async fn live_through(seed: u64, years: i64) {
    let began = Instant::now();
    let mut world = World::new(Dice(seed));
    let end = world.now() + DAY * i32::try_from(365 * years).unwrap();
    while world.now() < end {
        world.pass_time();
        world.step().await;
        world.check().await;
    }
    world.outlive_everything().await;
    let counts = &world.counts;
    eprintln!("seed {seed}: {years} years, {counts:?}, {:.1} s", began.elapsed().as_secs_f64());
    assert!(counts.points > 50 && counts.expirations > 50 && counts.crashes > 20, "{counts:?}");
    assert!(counts.removed > 1000 && counts.read_back > 50 && counts.holds > 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_ten_years_no_envelope_outlives_what_it_names_and_nothing_promised_is_gone() {
    live_through(dice::seed(), YEARS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: many decades, each with another seed"]
async fn over_many_decades() {
    let first = dice::seed();
    for seed in first..first + 20 {
        live_through(seed, YEARS).await;
    }
}
