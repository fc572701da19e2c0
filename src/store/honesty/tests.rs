//! The judgements over trials, and the drill of a folder.

use super::*;
use crate::clock::Clock;
use crate::store::local::LocalStore;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn trial(attack: Attack, outcome: Outcome) -> Trial {
    Trial { attack, outcome, detail: String::new() }
}

fn record(outcomes: &[Outcome]) -> Record {
    let trials = outcomes.iter().zip(Attack::ALL).map(|(&outcome, attack)| trial(attack, outcome)).collect();
    Record::new("s3://backups".into(), time("2026-11-01T00:00:00Z"), trials)
}

#[test]
fn one_lie_outweighs_everything_and_what_was_not_tried_is_not_proven() {
    use Outcome::{CouldNotTry, Lied, Refused, SeenThrough};
    assert_eq!(verdict(&record(&[Refused, SeenThrough]).trials), Verdict::Honest);
    assert_eq!(verdict(&record(&[Refused, CouldNotTry]).trials), Verdict::Unproven);
    assert_eq!(verdict(&record(&[Refused, CouldNotTry, Lied]).trials), Verdict::Lies);
    assert_eq!(verdict(&[]), Verdict::Unproven);
}

#[test]
fn a_store_that_lied_is_refused_unless_the_configuration_says_so_and_then_it_is_said_at_every_run() {
    let lied = record(&[Outcome::Refused, Outcome::Lied]);
    let now = time("2026-11-02T00:00:00Z");
    let Gate::Refuse { what, next } = gate(Some(&lied), now, false) else { panic!("it is let pass") };
    assert!(what.contains("delete-version") && !what.contains("born-unlocked"), "{what}");
    assert!(next.contains("accept_dishonest = true"), "{next}");
    let Gate::Warn { what, .. } = gate(Some(&lied), now, true) else { panic!("it is not said") };
    assert!(what.contains("delete-version") && what.contains("accept_dishonest"), "{what}");
    // A lie does not age.
    assert!(matches!(gate(Some(&lied), time("2036-11-02T00:00:00Z"), false), Gate::Refuse { .. }));
}

#[test]
fn a_store_never_drilled_or_long_ago_is_used_with_a_warning() {
    let good = record(&[Outcome::Refused, Outcome::CouldNotTry]);
    let what = |gate: Gate| match gate {
        Gate::Warn { what, .. } => what,
        other => panic!("{other:?}"),
    };
    let soon = time("2026-11-30T00:00:00Z");
    assert_eq!(gate(Some(&good), soon, false), Gate::Open);
    assert!(what(gate(None, soon, false)).contains("never drilled"));
    assert!(what(gate(Some(&good), time("2026-12-10T00:00:00Z"), false)).contains("39 days ago"));
    let nothing = record(&[Outcome::CouldNotTry, Outcome::CouldNotTry]);
    assert!(what(gate(Some(&nothing), soon, false)).contains("could try nothing"));
}

#[test]
fn a_record_is_found_by_its_place_and_by_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let record = record(&[Outcome::Refused]);
    let path = record.write(folder.path()).unwrap();
    assert_eq!(Record::read(folder.path(), "s3://backups").unwrap(), Some(record.clone()));
    assert_eq!(Record::read(folder.path(), "s3://others").unwrap(), None);
    // Copied over another's, it speaks for nobody.
    std::fs::copy(&path, Record::path(folder.path(), "s3://others")).unwrap();
    assert!(matches!(Record::read(folder.path(), "s3://others"), Err(RecordError::Malformed { .. })));
    std::fs::write(&path, "{").unwrap();
    assert!(matches!(Record::read(folder.path(), "s3://backups"), Err(RecordError::Malformed { .. })));
}

#[tokio::test]
async fn a_folder_keeps_its_locks_against_lifeboat() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path(), Clock::system()).unwrap();
    let trials = drill_local(&store, "20261122T072400Z-1a2b3c4d", SignedDuration::from_secs(60)).await.unwrap();
    assert_eq!(verdict(&trials), Verdict::Honest, "{trials:#?}");
    assert_eq!(trials.len(), 5);
}
