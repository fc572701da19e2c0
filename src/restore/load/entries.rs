//! Which entries of a dump's table of contents are loaded.

use super::inspect::Verdict;

/// The entries of a dump's table of contents that are loaded: extensions are there already, and what must not come is left out.
#[must_use]
pub fn wanted(list: &str, verdict: &Verdict) -> String {
    let left: Vec<&str> =
        verdict.left_out.iter().filter_map(|left| left.split_once(':')).map(|(_, name)| name).collect();
    let unwanted = |line: &str| {
        let Some((_, entry)) = line.split_once("; ") else { return false };
        // "3079 16385 EXTENSION - pg_trgm ", "0 0 COMMENT - EXTENSION pg_trgm ", "3466 16999 EVENT TRIGGER - name owner"
        let words: Vec<&str> = entry.split_whitespace().skip(2).collect();
        match words.as_slice() {
            ["EXTENSION", ..] | ["COMMENT", "-", "EXTENSION", ..] | ["PUBLICATION" | "SUBSCRIPTION", ..] => true,
            ["EVENT", "TRIGGER", ..] | ["SERVER" | "USER", ..] => true,
            ["PROCEDURAL", "LANGUAGE", "-", name, ..] => left.contains(name),
            _ => false,
        }
    };
    list.lines().filter(|line| !unwanted(line)).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_and_what_reaches_out_are_not_loaded_and_tables_are() {
        let list = "; Archive\n\
            2; 3079 16385 EXTENSION - pg_trgm \n\
            5; 0 0 COMMENT - EXTENSION pg_trgm \n\
            9; 3466 99 EVENT TRIGGER - evil odoo\n\
            215; 1259 16400 TABLE public res_users odoo_acme\n";
        let kept = wanted(list, &Verdict::default());
        assert_eq!(kept, "; Archive\n215; 1259 16400 TABLE public res_users odoo_acme\n");
    }
}
