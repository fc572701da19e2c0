//! People in evidence go by pseudonyms: `p-` and eight hex digits of a digest under the tenant's key.
//!
//! The same person has the same pseudonym in every drill of the tenant, and nobody without the tenant's key can tell who it is.
//! The names stay in [`Pseudonyms`], for the terminal of somebody who had the key to run the drill.

use std::collections::BTreeMap;

use crate::access::compare::Difference;
use crate::access::reader::Keyed;
use crate::access::roster::Roster;

/// Pseudonyms by login. Not serialised, on purpose.
#[derive(Clone, Default)]
pub struct Pseudonyms(BTreeMap<String, String>);

impl std::fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pseudonyms({})", self.0.len())
    }
}

impl Pseudonyms {
    /// Takes in everybody of `rosters`.
    pub fn add(&mut self, key: Keyed<'_>, rosters: &[&Roster]) {
        for person in rosters.iter().flat_map(|roster| &roster.people) {
            self.add_login(key, &person.login);
        }
    }

    pub fn add_login(&mut self, key: Keyed<'_>, login: &str) {
        if login.is_empty() {
            return;
        }
        let digest = key.digest("pseudonym", login.as_bytes()).to_string();
        self.0.insert(login.to_owned(), format!("p-{}", digest.get(..8).unwrap_or_default()));
    }

    /// A difference without names.
    #[must_use]
    pub fn hide(&self, difference: &Difference) -> Difference {
        Difference {
            class: difference.class,
            who: self.hide_in(&difference.who),
            what: self.hide_in(&difference.what),
            detail: self.hide_in(&difference.detail),
        }
    }

    /// `text` with every login, where it stands as a word of its own, replaced. The longest first: a login may be part of another.
    #[must_use]
    pub fn hide_in(&self, text: &str) -> String {
        replace_words(text, self.0.iter().map(|(login, pseudonym)| (login.as_str(), pseudonym.as_str())))
    }

    /// The names again.
    #[must_use]
    pub fn show_in(&self, text: &str) -> String {
        replace_words(text, self.0.iter().map(|(login, pseudonym)| (pseudonym.as_str(), login.as_str())))
    }
}

/// Replaces words in one pass, so that what was put in is not looked at again.
fn replace_words<'a>(text: &str, words: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut words: Vec<(&str, &str)> = words.collect();
    words.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
    let (mut out, mut rest, mut before) = (String::with_capacity(text.len()), text, None);
    while let Some(letter) = rest.chars().next() {
        let free = |next: Option<char>| next.is_none_or(|letter| !in_a_login(letter));
        let found = words.iter().find_map(|(from, to)| {
            let after = rest.strip_prefix(from)?;
            let mut next = after.chars();
            // A full stop ends a sentence where nothing of a word follows it.
            let ends = match next.next() {
                Some('.') => free(next.next()),
                other => free(other),
            };
            (free(before) && ends).then_some((*to, after, from.chars().next_back()))
        });
        match found {
            Some((to, after, last)) => {
                out.push_str(to);
                (rest, before) = (after, last);
            }
            None => {
                out.push(letter);
                (rest, before) = (&rest[letter.len_utf8()..], Some(letter));
            }
        }
    }
    out
}

/// Letters that a login is made of, so that one inside a longer word is left alone (`admin` in `base.group_admin`).
fn in_a_login(letter: char) -> bool {
    letter.is_alphanumeric() || "._@-+".contains(letter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::identity::tests::{person, roster};
    use super::*;
    use crate::access::compare::Class;
    use crate::access::roster::PersonKind;

    fn of(logins: &[&str]) -> Pseudonyms {
        let people = logins.iter().map(|login| person(login, PersonKind::Internal, &[], &[])).collect();
        let mut pseudonyms = Pseudonyms::default();
        pseudonyms.add(Keyed(&[7; 32]), &[&roster(people)]);
        pseudonyms
    }

    #[test]
    fn no_name_is_left_in_a_difference_and_groups_stay_readable() {
        let pseudonyms = of(&["admin", "peter@initech.test"]);
        let difference = Difference {
            class: Class::Gain,
            who: "peter@initech.test".to_owned(),
            what: "group base.group_admin".to_owned(),
            detail: "peter@initech.test is now in group base.group_admin, as admin, or admin.".to_owned(),
        };
        let hidden = pseudonyms.hide(&difference);
        assert!(!format!("{hidden:?}").contains("peter"), "{hidden:?}");
        assert_eq!(hidden.what, "group base.group_admin");
        assert_eq!(hidden.detail.matches("p-").count(), 3);
        assert_eq!(pseudonyms.show_in(&hidden.detail), difference.detail);
    }

    #[test]
    fn a_login_within_another_is_not_cut_out_of_it() {
        let pseudonyms = of(&["bill", "bill@x.test", "bill.b"]);
        for login in ["bill", "bill@x.test", "bill.b"] {
            let hidden = pseudonyms.hide_in(&format!("{login} left"));
            assert!(hidden.starts_with("p-") && hidden.ends_with(" left") && hidden.len() == 15, "{hidden}");
        }
        assert_eq!(pseudonyms.hide_in("mr-bill billion"), "mr-bill billion");
    }

    #[test]
    fn another_tenant_s_key_gives_another_pseudonym() {
        let mut other = Pseudonyms::default();
        other.add_login(Keyed(&[8; 32]), "bill");
        assert_ne!(other.hide_in("bill"), of(&["bill"]).hide_in("bill"));
    }

    proptest! {
        #[test]
        fn hiding_never_panics_and_leaves_texts_without_logins_alone(text in "[ a-cäß.@']{0,40}") {
            prop_assert_eq!(of(&["zoe"]).hide_in(&text), text.clone());
            let _ = of(&["a", "aa", "ä"]).hide_in(&text);
        }
    }
}
