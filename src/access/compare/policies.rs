//! Groups and policies compared: what rules and grants give, and what differs about them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Class, List, enumerate};
use crate::access::roster::{Effect, Group, Policy};

/// What groups imply. Who gains or loses by it shows with the people; the group itself is only changed.
pub(super) fn groups(list: &mut List, before: &[Group], after: &[Group]) {
    let by_name = |groups: &[Group]| groups.iter().map(|g| (g.name.clone(), g.clone())).collect::<BTreeMap<_, _>>();
    let (before, after) = (by_name(before), by_name(after));
    for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let what = format!("group {name}");
        match (before.get(name), after.get(name)) {
            (Some(_), None) => list.add(Class::Changed, name, &what, format!("{what} is not there any more")),
            (None, Some(_)) => list.add(Class::Changed, name, &what, format!("{what} was not there before")),
            (Some(was), Some(is)) => {
                if was.implies != is.implies {
                    let (was, is) = (enumerate(&was.implies), enumerate(&is.implies));
                    list.add(Class::Changed, name, &what, format!("{what} brought {was} and brings {is}"));
                }
                attributes(list, name, &what, &was.attributes, &is.attributes);
            }
            (None, None) => {}
        }
    }
}

pub(super) fn compare(list: &mut List, before: &[Policy], after: &[Policy]) {
    let by_id = |policies: &[Policy]| {
        policies.iter().map(|p| ((p.kind.clone(), p.id.clone()), p.clone())).collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (by_id(before), by_id(after));
    for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let (was, is) = (before.get(key), after.get(key));
        let count = list.differences.len();
        grants(list, was, is);
        restriction(list, was, is);
        // What was said as a gain or a loss is not said again.
        let told = list.differences.len() > count;
        match (was, is) {
            (Some(was), Some(is)) => pair(list, was, is, told),
            (Some(was), None) if !told => presence(list, was, "is not there any more"),
            (None, Some(is)) if !told => presence(list, is, "was not there before"),
            _ => {}
        }
    }
}

/// What people call it.
fn name(policy: &Policy) -> String {
    match policy.attributes.get("model") {
        Some(model) => format!("{} '{}' on {model}", policy.kind, policy.name),
        None => format!("{} '{}'", policy.kind, policy.name),
    }
}

/// Who may do what by this policy alone.
fn given(policy: Option<&Policy>) -> BTreeMap<String, BTreeSet<String>> {
    let Some(policy) = policy.filter(|policy| policy.active && policy.effect == Effect::Grants) else {
        return BTreeMap::new();
    };
    // What is granted is granted on its model: another model is another grant.
    let model = policy.attributes.get("model");
    let grant = |grant: &String| model.map_or_else(|| grant.clone(), |model| format!("{grant} {model}"));
    let grants: BTreeSet<String> = policy.grants.iter().map(grant).collect();
    if policy.subjects.is_empty() {
        return BTreeMap::from([("everyone".to_owned(), grants)]);
    }
    policy.subjects.iter().map(|subject| (subject.clone(), grants.clone())).collect()
}

fn grants(list: &mut List, was: Option<&Policy>, is: Option<&Policy>) {
    let (before, after) = (given(was), given(is));
    let none = BTreeSet::new();
    for who in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (before.get(who).unwrap_or(&none), after.get(who).unwrap_or(&none));
        let lost: Vec<&String> = old.difference(new).collect();
        let gained: Vec<&String> = new.difference(old).collect();
        if let (Some(was), false) = (was, lost.is_empty()) {
            let detail = format!("{} does not give {who} {} any more", name(was), enumerate(lost));
            list.add(Class::Loss, who, name(was), detail);
        }
        if let (Some(is), false) = (is, gained.is_empty()) {
            let detail = format!("{} gives {who} {}", name(is), enumerate(gained));
            list.add(Class::Gain, who, name(is), detail);
        }
    }
}

/// A restriction that goes is a gain for everyone it held.
fn restriction(list: &mut List, was: Option<&Policy>, is: Option<&Policy>) {
    let restricts = |p: &&Policy| p.active && p.effect == Effect::Restricts;
    match (was.filter(restricts), is.filter(restricts)) {
        (Some(was), None) => {
            list.add(Class::Gain, "everyone", name(was), format!("{} restricts nobody any more", name(was)));
        }
        (None, Some(is)) => list.add(Class::Loss, "everyone", name(is), format!("{} restricts everyone", name(is))),
        _ => {}
    }
}

/// A policy that only one side has, and that gives and takes nothing by itself.
fn presence(list: &mut List, policy: &Policy, words: &str) {
    let state = if policy.active { "" } else { " (switched off)" };
    list.add(Class::Changed, &policy.id, name(policy), format!("{}{state} {words}", name(policy)));
}

fn pair(list: &mut List, was: &Policy, is: &Policy, told: bool) {
    let (who, what) = (is.id.as_str(), name(is));
    if was.active != is.active && !told {
        let words = if is.active { "was switched off and is on" } else { "was on and is switched off" };
        list.add(Class::Changed, who, &what, format!("{what} {words}"));
    }
    if was.effect != is.effect {
        let detail = format!("{what} {:?} now, {:?} before", is.effect, was.effect).to_lowercase();
        list.add(Class::Changed, who, &what, detail);
    }
    if was.name != is.name {
        list.add(Class::Changed, who, &what, format!("{what} was called '{}'", was.name));
    }
    if was.subjects != is.subjects && !told {
        let groups = |p: &Policy| if p.subjects.is_empty() { "everyone".into() } else { enumerate(&p.subjects) };
        let detail = format!("{what} was for {} and is for {}", groups(was), groups(is));
        list.add(Class::Changed, who, &what, detail);
    }
    // Rights of a policy that is switched off are dormant.
    if was.grants != is.grants && !told {
        list.add(Class::Changed, who, &what, format!("{what} would give {}", enumerate(&is.grants)));
    }
    attributes(list, who, &what, &was.attributes, &is.attributes);
    for field in was.digests.keys().chain(is.digests.keys()).collect::<BTreeSet<_>>() {
        // A field that is shown, too, has been told of.
        let told = was.attributes.get(field) != is.attributes.get(field);
        match (was.digests.get(field), is.digests.get(field)) {
            _ if told => {}
            (Some(old), Some(new)) if old != new => {
                let detail = format!("{field} of {what} {}", list.replaced_words());
                list.add(list.replaced(), who, &what, detail);
            }
            (Some(_), None) => list.add(Class::Changed, who, &what, format!("{what} has no {field} any more")),
            (None, Some(_)) => list.add(Class::Changed, who, &what, format!("{what} has a {field} now")),
            _ => {}
        }
    }
}

fn attributes(list: &mut List, who: &str, what: &str, was: &BTreeMap<String, String>, is: &BTreeMap<String, String>) {
    for field in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (was.get(field), is.get(field));
        if old != new {
            let words = |value: Option<&String>| value.map_or("not set".to_owned(), |value| format!("\"{value}\""));
            let detail = format!("{field} of {what} was {} and is {}", words(old), words(new));
            list.add(Class::Changed, who, what, detail);
        }
    }
}
