//! The rules of the house, read from the source: who may import whom, how long a file may be, who may print.
//!
//! The direction of imports is in `docs/ARCHITECTURE.md`; this is the same table as code. Test modules
//! (`#[cfg(test)]`, `tests.rs`, `testing.rs`) may see what they like and are not counted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Non-test lines a file may have (`style.md`: soft ceiling 400, hard ceiling 600, median under 150).
const HARD_CEILING_LINES: usize = 600;
const MEDIAN_LINES: usize = 150;

const FOUNDATION: [&str; 4] = ["ids", "clock", "failure", "watch"];
const POSTGRES_COLUMN: [&str; 4] = ["postgres", "filestore", "access", "sandbox"];
const STORE_COLUMN: [&str; 3] = ["authority", "repo", "store"];
/// The floor of those that make and use a recovery point; they may see each other.
const RECOVERY_POINT: u8 = 5;
/// From the top down: each may see those after it, and both columns.
const ABOVE: [(&str, u8); 9] = [
    ("cli", 0),
    ("serve", 1),
    ("scenario", 2),
    ("runbook", 3),
    ("drill", 4),
    ("backup", RECOVERY_POINT),
    ("stream", RECOVERY_POINT),
    ("restore", RECOVERY_POINT),
    ("point", RECOVERY_POINT),
];
const MAY_READ_CONFIG: [&str; 6] = ["cli", "drill", "backup", "stream", "restore", "point"];
/// They have the foundation and nothing else below them.
const ON_THE_FOUNDATION: [&str; 3] = ["config", "catalog", "schedule"];

/// Why `importer` may not see `imported`; `None` where it may.
fn objection(importer: &str, imported: &str) -> Option<String> {
    if importer == imported || FOUNDATION.contains(&imported) && !FOUNDATION.contains(&importer) {
        return None;
    }
    if importer == "main" {
        return (imported != "cli").then(|| "main.rs sees cli only".to_owned());
    }
    if FOUNDATION.contains(&importer) {
        return (!FOUNDATION.contains(&imported)).then(|| "the foundation sees nothing above it".to_owned());
    }
    if imported == "config" {
        return (!MAY_READ_CONFIG.contains(&importer)).then(|| "it may not read the configuration".to_owned());
    }
    let floor = |name: &str| ABOVE.iter().find(|(above, _)| *above == name).map(|(_, floor)| *floor);
    let column = |name: &str| POSTGRES_COLUMN.contains(&name) || STORE_COLUMN.contains(&name);
    if let Some(mine) = floor(importer) {
        let below = column(imported)
            || floor(imported).is_some_and(|theirs| theirs > mine || theirs == mine && mine == RECOVERY_POINT)
            || ["catalog", "schedule"].contains(&imported);
        return (!below).then(|| "it lies above, or beside".to_owned());
    }
    if POSTGRES_COLUMN.contains(&importer) {
        return (!POSTGRES_COLUMN.contains(&imported)).then(|| "the PostgreSQL column sees only itself".to_owned());
    }
    let step = |name: &str| STORE_COLUMN.iter().position(|part| *part == name);
    if let Some(mine) = step(importer) {
        return step(imported)
            .is_none_or(|theirs| theirs <= mine)
            .then(|| "authority sees repo, repo sees store, store sees neither".to_owned());
    }
    if ON_THE_FOUNDATION.contains(&importer) {
        return Some("it stands on the foundation alone".to_owned());
    }
    Some("it is no part of the house that tests/house.rs knows".to_owned())
}

/// A source file without its comments and its test module.
struct Source {
    /// `backup` for `src/backup.rs` and for everything in `src/backup/`.
    part: String,
    path: PathBuf,
    /// Non-test lines, comments included: what a reader has to scroll through.
    lines: usize,
    code: String,
}

fn read(root: &Path, path: &Path) -> Source {
    let text = fs::read_to_string(path).expect("a source file is readable text");
    let inner = path.strip_prefix(root).expect("it lies below the root");
    let first = inner.iter().next().expect("it has a name").to_string_lossy();
    let part = first.strip_suffix(".rs").unwrap_or(&first).to_owned();
    let shown = non_test(&text);
    let code = shown.lines().map(without_comment).collect::<Vec<_>>().join("\n");
    Source { part, path: inner.to_path_buf(), lines: shown.lines().count(), code }
}

/// Everything before the first test module; `mod tests;` of another file counts as such.
fn non_test(text: &str) -> &str {
    let mut search = 0;
    while let Some(found) = text[search..].find("#[cfg(test)]") {
        let at = search + found;
        let after = text[at + "#[cfg(test)]".len()..].trim_start();
        let after = after.strip_prefix("pub ").or_else(|| after.strip_prefix("pub(crate) ")).unwrap_or(after);
        if after.starts_with("mod ") && after.find('{').is_some_and(|open| open < after.find(';').unwrap_or(usize::MAX))
        {
            return &text[..at];
        }
        search = at + 1;
    }
    text
}

fn without_comment(line: &str) -> &str {
    // A `//` inside a string is rare and cutting there only hides the rest of that line from this test.
    line.find("//").map_or(line, |at| &line[..at])
}

fn sources(root: &Path) -> Vec<Source> {
    let mut folders = vec![root.to_path_buf()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "tests" {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") && name != "tests.rs" && name != "testing.rs" {
                found.push(read(root, &path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The top-level names a file reaches through `crate::` (or `lifeboat::` in main.rs), groups and globs included.
fn imports(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for root in ["crate::", "lifeboat::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = code[at + root.len()..].trim_start();
            if let Some(group) = rest.strip_prefix('{') {
                names.extend(members(group));
            } else if rest.starts_with('*') {
                names.insert("*".to_owned());
            } else {
                names.extend(word(rest));
            }
        }
    }
    names
}

fn word(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// The first word of each member of `{a, b::{c, d}, e}`, given what follows the brace.
fn members(group: &str) -> BTreeSet<String> {
    let (mut depth, mut fresh, mut names) = (0_u32, true, BTreeSet::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            '*' if fresh && depth == 0 => {
                names.insert("*".to_owned());
            }
            letter if fresh && depth == 0 && !letter.is_whitespace() => {
                names.extend(word(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn violations(root: &Path) -> Vec<String> {
    let sources = sources(root);
    let parts: BTreeSet<&str> = sources.iter().map(|source| source.part.as_str()).collect();
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.part != "lib") {
        for imported in imports(&source.code) {
            let path = source.path.display();
            if imported == "*" {
                found.push(format!("{path}: imports the whole crate, which hides what it needs"));
            } else if parts.contains(imported.as_str())
                && let Some(why) = objection(&source.part, &imported)
            {
                found.push(format!("{path}: sees {imported}: {why}"));
            }
        }
    }
    found
}

fn prints(root: &Path) -> Vec<String> {
    let macros = ["println!", "print!", "eprintln!", "eprint!", "dbg!"];
    let speaks = |source: &&Source| source.part != "cli" && macros.iter().any(|name| source.code.contains(name));
    sources(root).iter().filter(speaks).map(|source| format!("{}: prints", source.path.display())).collect()
}

fn median(mut lines: Vec<usize>) -> usize {
    lines.sort_unstable();
    lines.get(lines.len() / 2).copied().unwrap_or(0)
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// A little house of its own, to see the rules object.
fn house_of(files: &[(&str, &str)]) -> tempfile::TempDir {
    let house = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = house.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    house
}

#[test]
fn imports_point_downwards_and_the_two_columns_never_see_each_other() {
    let found = violations(&src());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_part_of_the_crate_has_a_place_in_the_table() {
    let known: BTreeSet<&str> = (ABOVE.iter().map(|(name, _)| *name))
        .chain(FOUNDATION)
        .chain(POSTGRES_COLUMN)
        .chain(STORE_COLUMN)
        .chain(ON_THE_FOUNDATION)
        .chain(["main", "lib"])
        .collect();
    for source in sources(&src()) {
        assert!(known.contains(source.part.as_str()), "{} has no place in tests/house.rs", source.path.display());
    }
}

#[test]
fn a_file_fits_a_reader_s_head() {
    let lines: BTreeMap<PathBuf, usize> = sources(&src()).into_iter().map(|s| (s.path, s.lines)).collect();
    for (path, lines) in &lines {
        assert!(*lines <= HARD_CEILING_LINES, "{}: {lines} lines without its tests", path.display());
    }
    let median = median(lines.values().copied().collect());
    assert!(median <= MEDIAN_LINES, "the median file has {median} lines without its tests");
}

#[test]
fn only_the_command_line_prints() {
    let found = prints(&src());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_rules_object_to_each_kind_of_wrong_import() {
    let wrong = [
        ("repo/pack.rs", "use crate::postgres::wal;\n", "repo/pack.rs: sees postgres"),
        ("postgres/wire.rs", "use crate::{ids::Lsn, store::Store};\n", "postgres/wire.rs: sees store"),
        ("store/local.rs", "fn f() { crate::repo::open() }\n", "store/local.rs: sees repo"),
        ("restore.rs", "use crate::drill;\n", "restore.rs: sees drill"),
        ("drill/mod.rs", "use crate::cli::table;\n", "drill/mod.rs: sees cli"),
        ("filestore/scan.rs", "use crate::config::Config;\n", "filestore/scan.rs: sees config"),
        ("ids.rs", "use crate::store::Version;\n", "ids.rs: sees store"),
        ("backup.rs", "use crate::*;\n", "backup.rs: imports the whole crate"),
    ];
    let every_part = ["repo", "postgres", "store", "drill", "cli", "config", "filestore"];
    for (file, text, objection) in wrong {
        let mut files: Vec<(String, &str)> = every_part.iter().map(|part| (format!("{part}/mod.rs"), "")).collect();
        files.push((file.to_owned(), text));
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let found = violations(house_of(&files).path());
        assert!(found.iter().any(|line| line.starts_with(objection)), "{file}: {text} gave {found:?}");
    }
}

#[test]
fn the_rules_let_pass_what_points_down_and_what_only_a_test_sees() {
    let house = house_of(&[
        ("store/mod.rs", "use crate::failure::Failure;\n"),
        ("failure.rs", ""),
        ("postgres/mod.rs", "// never crate::store\n#[cfg(test)]\nmod tests {\n use crate::store::Store;\n}\n"),
        ("backup.rs", "use crate::{postgres::wal, store, restore};\n"),
        ("restore.rs", "use crate::config::Config;\n"),
        ("config/mod.rs", ""),
        ("cli/mod.rs", "use crate::backup;\nfn f() { println!() }\n"),
    ]);
    assert_eq!(violations(house.path()), Vec::<String>::new());
    assert_eq!(prints(house.path()), Vec::<String>::new());
}

#[test]
fn the_rules_notice_a_print_below_the_command_line() {
    let house = house_of(&[("store/mod.rs", "fn f() { eprintln!(\"stored\"); }\n")]);
    assert_eq!(prints(house.path()), ["store/mod.rs: prints"]);
}
