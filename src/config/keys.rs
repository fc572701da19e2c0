//! `[keys]`: files of keys on this machine, the two keys stores, and who may open together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::SignedDuration;

use super::item::{Item, plain_name};
use super::nearest::hint;
use super::store::{StoreConfig, store};
use super::table::Table;

/// So many allowed subsets at most: each is a file in both keys stores, and a list that people read.
pub const MOST_SUBSETS: usize = 256;

/// Files of keys, and where the sealed ones are kept. The machine that backs up has `writer` only; the one that restores has `identities` as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The writer bundle: opens nothing.
    pub writer: Option<PathBuf>,
    /// The folder of scope identities: opens data.
    pub identities: Option<PathBuf>,
    /// Who may sign envelopes, in `ssh-keygen`'s `allowed_signers` format.
    pub signers: PathBuf,
    /// How long a key file stays locked after the last renewal.
    pub lock: SignedDuration,
    /// None, or two under different administrators.
    pub stores: BTreeMap<String, StoreConfig>,
    /// There when `stores` are.
    pub custody: Option<CustodyConfig>,
    /// The age recipient of the machine that drills without asking custodians; for tenants that say so.
    pub drill_host: Option<String>,
    /// That machine's age identity file.
    pub drill_identity: Option<PathBuf>,
    /// The SSH key that signs erasures; `ssh-keygen` uses it, so it may be one of an agent or of hardware.
    pub eraser: Option<PathBuf>,
}

/// Who may open the custody key, and in which company.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustodyConfig {
    /// Age recipients by the custodian's name.
    pub custodians: BTreeMap<String, String>,
    /// Every group that is enough, written out; each in the order of its names.
    pub allowed: BTreeSet<Vec<String>>,
    /// The custody key's recipient, pinned: keys stores that agree on another one are not believed.
    pub recipient: Option<String>,
    /// Who has not proved his key for so long is spoken of.
    pub proof: SignedDuration,
}

pub(super) fn keys(table: Table<'_>) -> Keys {
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    let stores: BTreeMap<String, StoreConfig> = (table.named("stores").into_iter())
        .map(|(name, item)| {
            if let Err(what) = plain_name(&name) {
                item.report(what);
            }
            (name, store(item.table()))
        })
        .collect();
    let keys = Keys {
        writer: table.take("writer", Item::path),
        identities: table.take("identities", Item::path),
        signers: table.need("signers", Item::path).unwrap_or_default(),
        lock: table.take("lock", Item::some_duration).unwrap_or_else(|| days(30)),
        custody: table.optional_table("custody").map(|table| custody(table, days(90))),
        drill_host: table.take("drill_host", recipient),
        drill_identity: table.take("drill_identity", Item::path),
        eraser: table.take("eraser", Item::path),
        stores,
    };
    let places: Vec<&StoreConfig> = keys.stores.values().collect();
    match places.as_slice() {
        [] if keys.custody.is_some() => table.report("custody", "needs two [keys.stores.NAME] to keep its keys in"),
        [] => {}
        [one, other] if one == other => table.report("stores", "both are the same place: whoever loses one loses both"),
        [_, _] if keys.custody.is_none() => table.report("stores", "need [keys.custody]: who may open what lies there"),
        [_, _] => {}
        more => {
            let what = format!("are {}: there must be two, under different administrators", more.len());
            table.report("stores", what);
        }
    }
    table.finish();
    keys
}

fn custody(table: Table<'_>, proof: SignedDuration) -> CustodyConfig {
    let custodians: BTreeMap<String, String> = (table.named("custodians").into_iter())
        .filter_map(|(name, item)| {
            if let Err(what) = plain_name(&name) {
                item.report(what);
            }
            Some((name, item.read(recipient)?))
        })
        .collect();
    let distinct: BTreeSet<&String> = custodians.values().collect();
    if distinct.len() < custodians.len() {
        table.report("custodians", "two of them have the same recipient: that is one person, not two");
    }
    let threshold = table.take("threshold", |item| item.whole(1..65));
    let mut allowed: BTreeSet<Vec<String>> =
        table.list("allowed", |item| group(item, &custodians)).into_iter().collect();
    match (threshold, allowed.is_empty()) {
        (Some(_), false) => table.report("threshold", "stands beside `allowed`: give one of the two"),
        (None, true) => table.report("", "says neither `threshold` nor `allowed`: who is enough together?"),
        (Some(k), true) => match expand(custodians.keys(), k as usize) {
            Ok(groups) => allowed = groups,
            Err(what) => table.report("threshold", what),
        },
        (None, false) if allowed.len() > MOST_SUBSETS => {
            table.report("allowed", format!("has more than {MOST_SUBSETS} groups: nobody can keep track of them"));
        }
        (None, false) => {}
    }
    for name in custodians.keys().filter(|name| !allowed.is_empty() && !allowed.iter().flatten().any(|n| n == *name)) {
        table.report("custodians", format!("'{name}' is in no allowed group"));
    }
    let custody = CustodyConfig {
        custodians,
        allowed,
        recipient: table.take("recipient", recipient),
        proof: table.take("proof", Item::some_duration).unwrap_or(proof),
    };
    table.finish();
    custody
}

fn group(item: &Item<'_>, custodians: &BTreeMap<String, String>) -> Result<Vec<String>, String> {
    let names = item.list(|item| {
        let name = item.text()?;
        if custodians.contains_key(&name) || item.document.broken {
            return Ok(name);
        }
        let known = custodians.keys().map(String::as_str);
        Err(format!("there is no custodian '{name}'{}", hint(&name, known)))
    });
    let group: BTreeSet<String> = names.iter().cloned().collect();
    match group.len() {
        0 => Err("is empty".to_owned()),
        n if n < names.len() => Err("names somebody twice".to_owned()),
        _ => Ok(group.into_iter().collect()),
    }
}

/// Every group of `k`, written out.
fn expand<'a>(names: impl Iterator<Item = &'a String>, k: usize) -> Result<BTreeSet<Vec<String>>, String> {
    let names: Vec<&String> = names.collect();
    if k > names.len() {
        return Err(format!("is {k}, and there are {} custodians", names.len()));
    }
    // What is kept at every step can still be completed, each to another group: so it is never more than the end has.
    let mut groups: Vec<Vec<String>> = vec![Vec::new()];
    for (at, name) in names.iter().enumerate() {
        let left = names.len() - at - 1;
        let with: Vec<Vec<String>> = (groups.iter().filter(|group| group.len() < k))
            .map(|group| group.iter().chain([*name]).cloned().collect())
            .collect();
        groups.extend(with);
        groups.retain(|group| group.len() + left >= k);
        if groups.len() > MOST_SUBSETS {
            return Err(format!("makes more than {MOST_SUBSETS} groups: have fewer custodians"));
        }
    }
    Ok(groups.into_iter().collect())
}

/// An age recipient. A secret key put here by mistake is not repeated.
fn recipient(item: &Item<'_>) -> Result<String, String> {
    let text = item.text()?;
    let parsed: Result<age::x25519::Recipient, _> = text.parse();
    parsed.map(|_| text).map_err(|_| "is not an age recipient (age1...)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_every_group_of_that_size_and_nothing_else() {
        let names: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        let shown = |k| -> Vec<String> { expand(names.iter(), k).unwrap().into_iter().map(|g| g.concat()).collect() };
        assert_eq!(shown(1), ["a", "b", "c", "d"]);
        assert_eq!(shown(2), ["ab", "ac", "ad", "bc", "bd", "cd"]);
        assert_eq!(shown(3), ["abc", "abd", "acd", "bcd"]);
        assert_eq!(shown(4), ["abcd"]);
        assert!(expand(names.iter(), 5).is_err());
    }

    #[test]
    fn a_list_that_nobody_can_read_is_refused_before_it_is_made() {
        let names: Vec<String> = (0..60).map(|n| format!("c{n:02}")).collect();
        assert!(expand(names.iter(), 30).is_err());
        assert_eq!(expand(names.iter(), 1).unwrap().len(), 60);
        assert_eq!(expand(names.iter(), 60).unwrap().len(), 1);
    }
}
