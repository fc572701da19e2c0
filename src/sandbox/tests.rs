//! The proof made where there is no sandbox, and an agent that is told nonsense.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::proof::{Outside, Proof, Witness};
use super::talk::{LONGEST_BYTES, Request, framed, read_frame};
use super::{Owner, Plan, ProofCheck, SandboxError, checks, printable};
use crate::failure::Failure;

fn plan() -> Plan {
    Plan {
        owner: Owner { uid: 65534, gid: 65534 },
        dir: std::env::temp_dir().join("lifeboat-no-such-folder"),
        read_only: Vec::new(),
        links: Vec::new(),
    }
}

/// The host as its own sandbox: told of the witness's sockets only, so that nobody else's are connected to.
fn outside(witness: &Witness) -> Outside {
    let own = |path: &PathBuf| path.to_string_lossy().contains("lifeboat-witness-");
    let socket_paths: Vec<_> = witness.outside.socket_paths.iter().filter(|path| own(path)).cloned().collect();
    assert!(!socket_paths.is_empty());
    Outside { socket_paths, ..witness.outside.clone() }
}

#[test]
fn outside_a_sandbox_nearly_every_check_fails() {
    let witness = Witness::open(&plan()).unwrap();
    let checks = checks::all(&outside(&witness), &[]);
    let passed: BTreeSet<_> = checks.iter().filter(|check| check.passed).map(|check| check.name.clone()).collect();
    // What may be so on a host too: no terminal, a limited user, no way to the internet.
    let may_pass = |name: &str| {
        ["no terminal", "loopback works inside", "no new privileges", "system call filter", "unprivileged user"]
            .contains(&name)
            || ["no capabilities", "no inherited descriptors", "no further user namespace", "no writing outside"]
                .contains(&name)
            || name.starts_with("no route to")
            || name == "only the loopback interface"
    };
    let wrongly: Vec<_> = passed.iter().filter(|name| !may_pass(name)).collect();
    assert!(wrongly.is_empty(), "{wrongly:?}");
    assert!(checks.len() - passed.len() > 15);
    assert!(!Proof { checks }.holds());
    let testimony = witness.testify(&plan(), i32::try_from(std::process::id()).unwrap(), 0);
    assert!(testimony.iter().all(|check| !check.passed), "{testimony:?}");
}

#[test]
fn a_proof_without_checks_does_not_hold() {
    assert!(!Proof { checks: Vec::new() }.holds());
    let check = |passed| ProofCheck::new("x", passed, "");
    assert!(Proof { checks: vec![check(true)] }.holds());
    assert!(!Proof { checks: vec![check(true), check(false)] }.holds());
}

#[test]
fn a_frame_that_announces_too_much_is_refused_before_it_is_read() {
    let mut hostile = (LONGEST_BYTES + 1).to_be_bytes().to_vec();
    hostile.extend(b"{}");
    assert!(read_frame::<Request>(&mut hostile.as_slice()).is_err());
    assert!(framed(&"x".repeat(LONGEST_BYTES as usize)).is_err());
}

#[test]
fn a_frame_cut_short_anywhere_is_an_error() {
    let whole = framed(&Request::Connect { port: 8069 }).unwrap();
    for length in 0..whole.len() {
        assert!(read_frame::<Request>(&mut whole.get(..length).unwrap()).is_err(), "{length}");
    }
    assert!(matches!(read_frame(&mut whole.as_slice()), Ok(Request::Connect { port: 8069 })));
}

#[test]
fn what_a_terminal_would_obey_is_not_printed() {
    assert_eq!(printable(b"a\x1b]0;x\x07\tb\r\n\xff\xc2\x9b"), "a\u{FFFD}]0;x\u{FFFD}\tb\u{FFFD}\n\u{FFFD}\u{FFFD}");
}

#[test]
fn an_environment_is_not_shown_by_debug() {
    let spawn = super::Spawn {
        argv: vec!["psql".into()],
        env: vec![("PGPASSWORD".into(), "hunter2".into())],
        cwd: None,
        log: "log".into(),
    };
    let shown = format!("{spawn:?}");
    assert!(shown.contains("PGPASSWORD") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_sandbox_that_is_not_sealed_is_a_refusal_that_names_the_check() {
    let failed = vec![ProofCheck::new("own net namespace", false, "the host's")];
    let failure = Failure::from(SandboxError::NotSealed { failed });
    assert_eq!(failure.kind, crate::failure::Kind::Refused);
    assert!(failure.cause.contains("own net namespace"));
}
