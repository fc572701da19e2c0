//! The name that was probably meant.

/// The one of `known` that is closest to `name`, when it is close enough to be what was meant: at most a third of its
/// letters differ (Damerau-Levenshtein), or one begins with the other.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            let letters = name.chars().count().max(candidate.chars().count());
            let begins = lower.len() >= 3 && candidate.len() >= 3;
            *distance * 3 <= letters.max(3) || begins && (candidate.starts_with(&lower) || lower.starts_with(candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean 'main'?`, or what there is to choose from, or nothing.
pub fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(meant) = nearest(name, known.clone()) {
        return format!("; did you mean '{meant}'?");
    }
    let mut all: Vec<&str> = known.into_iter().collect();
    all.sort_unstable();
    if all.is_empty() {
        return String::new();
    }
    let shown: Vec<&str> = all.iter().take(SHOWN).copied().collect();
    let more = if all.len() > shown.len() { ", ..." } else { "" };
    format!("; there is: {}{more}", shown.join(", "))
}

/// As many names as still help: more would hide the message.
const SHOWN: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_name_and_another_word_does_not() {
        let known = ["acme", "globex", "initech"];
        assert_eq!(nearest("amce", known), Some("acme"));
        assert_eq!(nearest("Globex", known), Some("globex"));
        assert_eq!(nearest("init", known), Some("initech"));
        assert_eq!(nearest("umbrella", known), None);
    }

    #[test]
    fn without_a_near_name_the_known_ones_are_listed() {
        assert_eq!(hint("umbrella", ["globex", "acme"]), "; there is: acme, globex");
        assert_eq!(hint("umbrella", []), "");
    }
}
