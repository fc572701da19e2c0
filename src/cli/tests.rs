//! What the command line takes and what it refuses, before anything runs.

use clap::{CommandFactory as _, Parser as _};

use super::*;

fn parse(line: &str) -> Result<Lifeboat, clap::Error> {
    Lifeboat::try_parse_from(format!("lifeboat {line}").split(' '))
}

fn restore(line: &str) -> restore::Args {
    match parse(line).unwrap().command {
        Command::Restore(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_has_no_contradictions() {
    Lifeboat::command().debug_assert();
}

#[test]
fn the_global_options_are_taken_before_and_after_the_command() {
    for line in ["--json -v --config x.toml status", "status --json -v --config x.toml"] {
        let asked = parse(line).unwrap();
        assert!(asked.json && asked.verbose == 1 && asked.config.as_deref() == Some(std::path::Path::new("x.toml")));
    }
}

#[test]
fn a_restore_goes_to_a_folder_or_into_a_cluster_and_says_when() {
    let to = restore("restore acme --at latest --to /srv/acme --plan");
    assert_eq!((to.tenant.as_deref(), to.plan, to.all), (Some("acme"), true, false));
    let into = restore("restore acme --at 0/1 --into-cluster main --as old --owner odoo --filestore-to /srv/f");
    assert_eq!((into.into_cluster.as_deref(), into.as_database.as_deref()), (Some("main"), Some("old")));
    let all = restore("restore --all --cluster main --at latest --to /srv/main");
    assert!(all.all && all.tenant.is_none());
}

#[test]
fn a_restore_that_makes_no_sense_is_a_usage_error() {
    let lines = [
        "restore",
        "restore acme",
        "restore acme --at latest",
        "restore acme --to /srv",
        "restore --at latest --to /srv",
        "restore acme --at latest --to /srv --into-cluster main --as x",
        "restore acme --at latest --into-cluster main",
        "restore acme --at latest --to /srv --as x",
        "restore acme --at latest --to /srv --owner x",
        "restore acme --at latest --to /srv --cluster main",
        "restore acme --all --cluster main --at latest --to /srv",
        "restore --all --at latest --to /srv",
        "restore --all --cluster main --at latest --into-cluster main --as x",
        "drill acme --sandbox moon",
        "stream --until 16/XYZ",
        "key new",
        "key new tenant/../x",
        "init --name ../x",
        "frobnicate",
        "",
    ];
    for line in lines {
        let error = parse(line.trim()).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}: {error}");
    }
}

#[test]
fn every_command_has_examples_that_parse() {
    fn examples(command: &clap::Command, found: &mut Vec<String>) {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let before = found.len();
        for line in after.lines().filter(|line| line.starts_with("  ")) {
            let line = line.trim().split(" | ").next().unwrap_or_default();
            if let Some((_, args)) = line.split_once("lifeboat ") {
                found.push(args.split("   ").next().unwrap_or_default().trim().to_owned());
            } else {
                found.push(String::new()); // just `lifeboat`
            }
        }
        let leaf = command.get_subcommands().next().is_none();
        assert!(!leaf || found.len() > before, "{} has no example", command.get_name());
        command.get_subcommands().for_each(|below| examples(below, found));
    }
    let mut found = Vec::new();
    examples(&Lifeboat::command(), &mut found);
    assert!(found.len() > 15, "{found:?}");
    for line in found {
        parse(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

const MANUAL: &str = include_str!("../../docs/CLI.md");

#[test]
fn the_manual_names_every_command_and_every_option() {
    fn walk(command: &clap::Command, path: &str) {
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            if let Some(long) = argument.get_long().filter(|long| !["help", "version"].contains(long)) {
                assert!(MANUAL.contains(&format!("--{long}")), "--{long} of `{path}`");
            }
        }
        for below in command.get_subcommands() {
            let path = format!("{path} {}", below.get_name()).trim().to_owned();
            assert!(MANUAL.contains(&format!("`{path}")), "`{path}`");
            walk(below, &path);
        }
    }
    walk(&Lifeboat::command(), "");
}

#[test]
fn help_reads_like_this() {
    insta::assert_snapshot!("help", Lifeboat::command().term_width(100).render_help());
    let mut restore = Lifeboat::command().term_width(100).find_subcommand("restore").unwrap().clone();
    insta::assert_snapshot!("help_restore", restore.render_long_help());
}
