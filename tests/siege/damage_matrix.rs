//! Every kind of object, damaged in every way, under every command that reads: found and named, or healed, or of no matter; never silently wrong.
//!
//! Each command runs on a store with one damaged object, and its answer (every byte that a restore would lay, every point, every name) is held
//! against the answer of the undamaged store. An answer that differs must say what is damaged; one that is right, without a word, although what was
//! damaged is gone for good, must be so for a reason ([`harmless`]). The exceptions, commands that cannot see some damage, are in [`unseen`].

use std::collections::BTreeMap;

use futures::StreamExt as _;
use lifeboat::failure::Kind;
use lifeboat::repo::witness::Freshness;

use super::commands::{Answer, Command, Ended, Stores, is_unproven};
use super::damage::{Victim, WAYS, Way, victims};
use super::ground::Ground;

/// How a cell came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Exit code 6, the object named.
    Found,
    /// Less than the whole answer, and a word about what is damaged.
    Told,
    /// The right answer, and a word about the object.
    Healed,
    /// The right answer: the version that was written is still there, and was taken.
    SeenThrough,
    /// The right answer, for a reason.
    Harmless,
    /// What this command cannot see, and others do.
    Unseen,
    /// The right answer, by luck as far as anybody knows.
    Unexplained,
    Wrong,
}

const ALL: [Outcome; 8] = [
    Outcome::Found,
    Outcome::Told,
    Outcome::Healed,
    Outcome::SeenThrough,
    Outcome::Harmless,
    Outcome::Unseen,
    Outcome::Unexplained,
    Outcome::Wrong,
];

fn judge(victim: &Victim, way: Way, (command, copied): (Command, bool), ended: &Ended, truth: &Answer) -> Outcome {
    let named = ended.names(&victim.name);
    let Some(answer) = &ended.answer else {
        let found = ended.failure.as_ref().is_some_and(|failure| failure.kind == Kind::Integrity) && named;
        return if found { Outcome::Found } else { Outcome::Wrong };
    };
    // What is not removed is the safe side.
    let right = match command {
        Command::Expire => answer.keys().all(|name| truth.contains_key(name)),
        _ => answer == truth,
    };
    match right {
        true if named => Outcome::Healed,
        true if way.spares_it() => Outcome::SeenThrough,
        true if harmless(victim.kind, way, command).is_some() => Outcome::Harmless,
        true if copied && of_the_copy(victim.kind, way).is_some() => Outcome::Harmless,
        true => Outcome::Unexplained,
        false if named => Outcome::Told,
        false if unseen(victim.kind, way, command).is_some() => Outcome::Unseen,
        false => Outcome::Wrong,
    }
}

/// Why a command's answer is right although this is damaged for good and it says nothing.
fn harmless(kind: &str, way: Way, command: Command) -> Option<&'static str> {
    let is_envelope = kind.contains("envelope") || kind.contains("signature");
    let is_twin = kind.contains("beside a stretch") || kind.contains("with a tail");
    let is_last = kind.starts_with("last");
    let of_base = ["pack", "set", "point", "chunk map"].iter().any(|start| kind.starts_with(start));
    match command {
        Command::Points if !is_envelope => Some("reads envelopes; whether what they name is whole is verify's to say"),
        Command::Points if is_twin => Some("stretch and tail say the same"),
        Command::Latest | Command::Earlier if kind == "chunk map" => Some("only the next backup reads it"),
        Command::Latest if kind == "span" || is_twin => Some("before the base backup that it starts from"),
        Command::Latest if kind.contains("bundle") && way == Way::Flipped => Some("may be another tenant's share"),
        Command::Earlier if of_base => Some("of a base backup that it does not start from"),
        Command::Earlier if is_twin => Some("stretch and tail say the same"),
        Command::Earlier if is_last || kind == "bundle" || kind.starts_with("stretch") => Some("behind the target"),
        Command::Listing if !is_envelope && keeps_the_size(way) => Some("level 0 reads no bytes; level 1 does"),
        Command::Listing | Command::Bytes | Command::Contents if is_twin && way == Way::Removed => {
            Some("the WAL is there in the other")
        }
        Command::Copy if is_twin => Some("tails that stretches cover are not copied"),
        Command::Copy if is_envelope && way == Way::Removed => Some("what it held can be restored without it"),
        Command::Expire => Some("removes nothing that it would not remove of the whole store"),
        Command::Backup if kind == "pack of the database" => Some("what cannot be locked longer is written anew"),
        Command::Backup if kind.starts_with("set ") => Some("goes on from the set before"),
        Command::Backup => Some("reads heads and chunk maps"),
        Command::Stream => Some("goes on where the store ends, and the server sends the rest again"),
        _ => None,
    }
}

/// Why what was read from the copy is right without a word. `verify` of the store itself tells in each case.
fn of_the_copy(kind: &str, way: Way) -> Option<&'static str> {
    match way {
        Way::Removed if kind.contains("envelope") || kind.contains("signature") => {
            Some("one that is not in the store may have lapsed there: the witness judges that")
        }
        Way::Cut if kind.contains("bundle") => Some("this tenant's share of it is the same in both"),
        _ => None,
    }
}

/// Of some kinds an older one, or another's, has as many bytes.
fn keeps_the_size(way: Way) -> bool {
    matches!(way, Way::Flipped | Way::Swapped | Way::Replayed)
}

/// Why a command cannot see that its answer is not the whole one.
fn unseen(kind: &str, way: Way, command: Command) -> Option<&'static str> {
    let is_envelope = kind.contains("envelope");
    match command {
        Command::Copy if is_envelope && way == Way::Removed => {
            Some("what is not there cannot be copied; verify misses it, and so does the witness")
        }
        _ => None,
    }
}

struct Cell {
    kind: &'static str,
    way: Way,
    command: Command,
    outcome: Outcome,
    ended: Ended,
}

/// Every victim in every way under each of these commands; with a second copy that is whole, or without.
async fn matrix(commands: &[Command], copied: bool) {
    let ground = Ground::lived().await;
    let stores = || Stores { primary: ground.fork(&ground.store), copy: copied.then(|| ground.fork(&ground.store)) };
    let mut truths = BTreeMap::new();
    for command in commands {
        let ended = command.run(&ground, &stores()).await;
        assert!(ended.failure.is_none() && ended.told.is_empty(), "{command:?}: {ended:#?}");
        let truth = ended.answer.unwrap();
        // `verify` answers by finding nothing; every other command has something to lose.
        assert_eq!(truth.is_empty(), command.is_verify(), "{command:?}");
        truths.insert(*command, truth);
    }
    let victims = victims(&ground);
    let cells = victims.iter().flat_map(|victim| {
        WAYS.into_iter().flat_map(move |way| commands.iter().map(move |command| (victim, way, *command)))
    });
    let (ground, truths, stores) = (&ground, &truths, &stores);
    let run = cells.map(|(victim, way, command)| async move {
        let stores = stores();
        victim.damage(&stores.primary, way);
        let ended = command.run(ground, &stores).await;
        let outcome = judge(victim, way, (command, copied), &ended, &truths[&command]);
        Cell { kind: victim.kind, way, command, outcome, ended }
    });
    let cells: Vec<Cell> = futures::stream::iter(run).buffer_unordered(4).collect().await;
    assert_eq!(cells.len(), victims.len() * WAYS.len() * commands.len());
    print(&cells, commands, copied);
    let bad = |cell: &&Cell| matches!(cell.outcome, Outcome::Wrong | Outcome::Unexplained);
    let bad: Vec<&Cell> = cells.iter().filter(bad).collect();
    for Cell { kind, way, command, outcome, ended } in &bad {
        let (failure, told) = (&ended.failure, &ended.told);
        eprintln!("{outcome:?}: {} of a {kind} under {}: {failure:?} {told:?}", way.said(), command.said());
    }
    assert!(bad.is_empty(), "{} cells", bad.len());
    for command in commands.iter().filter(|_| copied) {
        let healed = |cell: &Cell| (cell.command, cell.outcome) == (*command, Outcome::Healed);
        assert!(cells.iter().any(healed), "the copy healed nothing for {}", command.said());
    }
}

fn print(cells: &[Cell], commands: &[Command], copied: bool) {
    for command in commands {
        let of = |outcome| cells.iter().filter(|cell| (cell.command, cell.outcome) == (*command, outcome)).count();
        let counts: Vec<String> = ALL.iter().map(|outcome| format!("{outcome:?} {}", of(*outcome))).collect();
        eprintln!("{}{}: {}", command.said(), if copied { ", with a copy" } else { "" }, counts.join(", "));
    }
    eprintln!("{} cells", cells.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_or_does_not_matter_to_points_stream_and_expire() {
    matrix(&[Command::Points, Command::Stream, Command::Expire], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_or_does_not_matter_to_a_restore() {
    matrix(&[Command::Latest, Command::Earlier], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_by_verify_at_the_level_that_can_see_it() {
    matrix(&[Command::Listing, Command::Bytes, Command::Contents], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_or_does_not_matter_to_copy_and_backup() {
    matrix(&[Command::Copy, Command::Backup], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_healed_by_the_second_copy() {
    matrix(&[Command::Points, Command::Latest, Command::Earlier], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_set_back_a_day_is_found_by_the_copy_and_unproven_without_one() {
    let ground = Ground::lived().await;
    let back = |prefix: &str| {
        let store = ground.fork(&ground.store);
        for listed in store.listed(prefix).iter().filter(|listed| !ground.first_day.contains(&listed.name)) {
            assert!(store.drop_version(&listed.name, &listed.version));
        }
        store
    };
    for prefix in ["", "tenant/acme/", "cluster/main/", "wal/"] {
        let alone = Stores { primary: back(prefix), copy: None };
        let copied = Stores { primary: back(prefix), copy: Some(ground.fork(&ground.store)) };
        // Alone: nothing can tell, and nothing says that it could.
        assert!(is_unproven(&alone.fresh(&ground).await), "{prefix}");
        // With a copy that knows more: refused, with the name of what is withheld; a moment of before can be restored.
        let verdict = copied.fresh(&ground).await;
        assert_eq!(verdict.freshness, Freshness::RolledBack, "{prefix}");
        let ended = Command::Latest.run(&ground, &copied).await;
        let failure = ended.failure.unwrap_or_else(|| panic!("{prefix}: taken for the newest"));
        assert_eq!(failure.kind, Kind::Integrity);
        assert!(failure.cause.contains("rolled back") && failure.object.starts_with(prefix), "{failure:?}");
        let truth = Command::Earlier.run(&ground, &Stores { primary: ground.fork(&ground.store), copy: None }).await;
        assert_eq!(Command::Earlier.run(&ground, &copied).await.answer, truth.answer, "{prefix}");
    }
}
