//! People compared: who can sign in, with what, and in which groups.

use std::collections::{BTreeMap, BTreeSet};

use super::{Class, List, enumerate};
use crate::access::roster::{Credential, CredentialKind, Person, Strength};

pub(super) fn compare(list: &mut List, before: &[Person], after: &[Person]) {
    let by_id = |people: &[Person]| people.iter().map(|p| (p.id.clone(), p.clone())).collect::<BTreeMap<_, _>>();
    let (before, after) = (by_id(before), by_id(after));
    for (id, was) in &before {
        match after.get(id) {
            None => gone(list, was),
            Some(is) => pair(list, was, is),
        }
    }
    for is in after.iter().filter(|(id, _)| !before.contains_key(*id)).map(|(_, is)| is) {
        new(list, is);
    }
}

fn gone(list: &mut List, was: &Person) {
    if was.active {
        list.add(Class::Loss, &was.login, "user", format!("{} is not there any more", was.login));
    } else {
        list.add(Class::Changed, &was.login, "user", format!("{}, who was archived, is not there any more", was.login));
    }
}

fn new(list: &mut List, is: &Person) {
    let groups = enumerate(&is.groups);
    if is.active {
        let detail = format!("{} was not there before and can sign in, with groups {groups}", is.login);
        list.add(Class::Gain, &is.login, "user", detail);
    } else {
        list.add(Class::Changed, &is.login, "user", format!("{} was not there before; archived", is.login));
    }
}

fn pair(list: &mut List, was: &Person, is: &Person) {
    let who = is.login.as_str();
    match (was.active, is.active) {
        (true, false) => list.add(Class::Loss, &was.login, "user", format!("{who} is archived and cannot sign in")),
        (false, true) => {
            let groups = enumerate(&is.groups);
            list.add(
                Class::Gain,
                who,
                "user",
                format!("{who} was archived and can sign in again, with groups {groups}"),
            );
        }
        _ => {}
    }
    if was.login != is.login {
        list.add(Class::Changed, who, "login", format!("{who} signed in as {} before", was.login));
    }
    if was.kind != is.kind {
        let detail = format!("{who} was {:?} and is {:?}", was.kind, is.kind).to_lowercase();
        list.add(Class::Changed, who, "kind of user", detail);
    }
    let live = was.active && is.active;
    memberships(list, was, is, live);
    places(list, was, is, live);
    credentials(list, was, is, live);
}

/// `class` while the person can sign in on both sides; otherwise nothing is given or taken by it.
fn if_live(live: bool, class: Class) -> Class {
    if live { class } else { Class::Changed }
}

fn memberships(list: &mut List, was: &Person, is: &Person, live: bool) {
    for group in was.effective.difference(&is.effective) {
        let how = if was.groups.contains(group) { "" } else { " (came with another)" };
        let detail = format!("{} is not in group {group} any more{how}", is.login);
        list.add(if_live(live, Class::Loss), &was.login, format!("group {group}"), detail);
    }
    for group in is.effective.difference(&was.effective) {
        let how = if is.groups.contains(group) { "" } else { " (comes with another)" };
        let detail = format!("{} is now in group {group}{how}", is.login);
        list.add(if_live(live, Class::Gain), &is.login, format!("group {group}"), detail);
    }
    if was.groups != is.groups && was.effective == is.effective {
        let detail =
            format!("{} was given {} and is given {}", is.login, enumerate(&was.groups), enumerate(&is.groups));
        list.add(Class::Changed, &is.login, "groups given", detail + ", which comes to the same");
    }
}

fn places(list: &mut List, was: &Person, is: &Person, live: bool) {
    for place in was.places.difference(&is.places) {
        list.add(if_live(live, Class::Loss), &was.login, place, format!("{} cannot reach {place} any more", is.login));
    }
    for place in is.places.difference(&was.places) {
        list.add(if_live(live, Class::Gain), &is.login, place, format!("{} can now reach {place}", is.login));
    }
}

/// Credentials by what makes them the same one: the kind alone where there is one at most, otherwise the material.
fn keyed(person: &Person) -> BTreeMap<(CredentialKind, String), &Credential> {
    let key = |credential: &Credential| {
        if credential.kind.single() {
            return String::new();
        }
        let material = credential.digest.map(|digest| digest.to_string());
        material.unwrap_or_else(|| format!("id {}", credential.id.as_deref().unwrap_or_default()))
    };
    person.credentials.iter().map(|credential| ((credential.kind, key(credential)), credential)).collect()
}

fn name(credential: &Credential) -> String {
    let kind = credential.kind.words();
    credential.name.as_ref().map_or_else(|| kind.to_owned(), |name| format!("{kind} '{name}'"))
}

fn credentials(list: &mut List, was: &Person, is: &Person, live: bool) {
    let (before, after) = (keyed(was), keyed(is));
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for key in keys {
        match (before.get(key), after.get(key)) {
            (Some(old), Some(new)) => credential(list, (was, old), (is, new), live),
            (Some(old), None) => credential_gone(list, was, old, live),
            (None, Some(new)) => credential_new(list, is, new, live),
            (None, None) => {}
        }
    }
}

fn credential_gone(list: &mut List, was: &Person, old: &Credential, live: bool) {
    let (who, what) = (&was.login, name(old));
    let class = match old.kind {
        CredentialKind::Totp => Class::Downgrade,
        _ if old.usable(list.now) => Class::Loss,
        _ => Class::Changed,
    };
    let detail = match class {
        Class::Downgrade => format!("{who} is not asked for a second factor any more"),
        Class::Loss => format!("{what} of {who} is not accepted any more"),
        _ => format!("{what} of {who}, which had expired, is not there any more"),
    };
    list.add(if_live(live, class), who, what, detail);
}

fn credential_new(list: &mut List, is: &Person, new: &Credential, live: bool) {
    let (who, what) = (&is.login, name(new));
    let (class, detail) = match new.kind {
        CredentialKind::Totp => (Class::Changed, format!("{who} is now asked for a second factor")),
        _ if !new.usable(list.now) => (Class::Changed, format!("{what} of {who} is there, but has expired")),
        _ if list.backwards => (Class::Gain, format!("{what} of {who} was taken away since and is accepted again")),
        _ => (Class::Gain, format!("{what} of {who} is accepted and was not there before")),
    };
    list.add(if_live(live, class), who, what, detail);
}

/// One credential that both sides have.
fn credential(list: &mut List, (was, old): (&Person, &Credential), (is, new): (&Person, &Credential), live: bool) {
    let (who, what) = (&is.login, name(new));
    if (old.digest, kind_id(old)) != (new.digest, kind_id(new)) {
        let detail = format!("{what} of {who} {}", list.replaced_words());
        list.add(if_live(live, list.replaced()), who, &what, detail);
    }
    if old.strength != new.strength {
        let below = matches!((&old.strength, &new.strength), (Some(old), Some(new)) if new.below(old));
        let class = if below { if_live(live, Class::Downgrade) } else { Class::Changed };
        let words = |strength: &Option<Strength>| match strength {
            Some(strength) => format!("{} with {} rounds", strength.scheme, strength.rounds),
            None => "something unknown".to_owned(),
        };
        let detail = format!("{what} of {who} is kept as {}, was {}", words(&new.strength), words(&old.strength));
        list.add(class, who, &what, detail);
    }
    reach(list, (was, old), (is, new), live);
    if old.name != new.name {
        list.add(Class::Changed, who, &what, format!("{what} of {who} was called {}", name(old)));
    }
}

/// A link's provider is part of what it proves; a row's id is not.
fn kind_id(credential: &Credential) -> Option<&str> {
    credential.id.as_deref().filter(|_| credential.kind == CredentialKind::OauthLink)
}

/// Scope and expiry: further is a gain, shorter a loss.
fn reach(list: &mut List, (was, old): (&Person, &Credential), (is, new): (&Person, &Credential), live: bool) {
    let words = |scope: &Option<String>| scope.clone().unwrap_or_else(|| "everything".to_owned());
    if old.scope != new.scope {
        let detail =
            format!("{} of {} is for {}, was for {}", name(new), is.login, words(&new.scope), words(&old.scope));
        match (&old.scope, &new.scope) {
            (Some(_), None) => list.add(if_live(live, Class::Gain), &is.login, name(new), detail),
            (None, _) => list.add(if_live(live, Class::Loss), &was.login, name(old), detail),
            _ => list.add(Class::Changed, &is.login, name(new), detail),
        }
    }
    if old.expires != new.expires {
        let end = |credential: &Credential| credential.expires.map_or("never".to_owned(), |time| time.to_string());
        let detail = format!("{} of {} ends {}, ended {}", name(new), is.login, end(new), end(old));
        let matters = live && (old.usable(list.now) || new.usable(list.now));
        let further = new.expires.is_none() || (old.expires.is_some() && new.expires > old.expires);
        match further {
            true => list.add(if_live(matters, Class::Gain), &is.login, name(new), detail),
            false => list.add(if_live(matters, Class::Loss), &was.login, name(old), detail),
        }
    }
}
