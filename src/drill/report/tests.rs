//! Pages of drills as they come; `LIFEBOAT_PAGES=DIR cargo test drill::report` writes them there, to be looked at.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::access::compare::Difference;
use crate::drill::grid::Grid;
use crate::drill::probe::Grade;
use crate::drill::pseudonym::Pseudonyms;
use crate::drill::{Clocks, verdict as judging};
use crate::ids::{Lsn, Timeline};
use crate::restore::Reached;

fn probe(id: &str, layer: Layer, grade: Grade, outcome: Outcome, gate: Option<Verdict>, detail: &str) -> Probe {
    let grade = (outcome != Outcome::NotAsked).then_some(grade);
    Probe { id: id.into(), layer, grade, outcome, gate, detail: detail.into(), seconds: 1.23, facts: Value::Null }
}

fn drill(probes: Vec<Probe>, grid: Grid, differences: Vec<Difference>) -> DrillReport {
    let verdict = judging::judge(&probes);
    let worst = grid.worst();
    let began = "2026-11-21T02:10:00Z".parse().unwrap();
    DrillReport {
        tenant: "acme".into(),
        estate: "shop".into(),
        layers: verdict.layers.clone(),
        reasons: verdict.reasons.clone(),
        verdict,
        grid,
        worst_cell: worst.map(|(domain, layer, state)| WorstCell { domain, layer, state }),
        probes,
        differences,
        clocks: Clocks { server_up: Some(12.3), first_sign_in: Some(31.0), total: 118.0 },
        asked: "16/B374D848".into(),
        target: Some(Lsn(0x16_B374_D848)),
        reached: Some(Reached { lsn: Lsn(0x16_B374_D848), last_commit_time: Some(began), timeline: Timeline(1) }),
        databases: vec!["acme".into()],
        scopes_opened: BTreeSet::from(["tenant/acme".parse().unwrap(), "cluster/main".parse().unwrap()]),
        objects_read: 41,
        bytes_read: 23_456_789,
        server_version: Some(150_018),
        lifeboat_version: "0.1.0".into(),
        began,
        ended: "2026-11-21T02:11:58Z".parse().unwrap(),
        kept: None,
        evidence: "/var/lib/lifeboat/drills/acme-20261121T021000Z.json".into(),
        report: "/var/lib/lifeboat/drills/acme-20261121T021000Z.html".into(),
        names: Pseudonyms::default(),
        broke: None,
    }
}

fn fine_probes() -> Vec<Probe> {
    use Grade::{AMaterial, AReal, E1, E2};
    use Layer::{Filestore, Odoo, Postgres, Restore, Sandbox};
    let passed = |id, layer, grade, detail| probe(id, layer, grade, Outcome::Passed, None, detail);
    vec![
        passed("restore.reached", Restore, E2, "asked for 16/B374D848, reached 16/B374D848"),
        passed("sandbox.proof", Sandbox, E2, "41 checks from inside and outside found no way out"),
        passed("filestore.attachments", Filestore, E2, "709 files of 709 referenced are here, each with its SHA-1"),
        passed("postgres.owner", Postgres, E1, "role odoo_acme may connect and read all 539 tables"),
        passed("odoo.gained", Odoo, AMaterial, "nobody can do more than he should"),
        passed("odoo.sign_in", Odoo, AReal, "a canary signed in with its real password, over RPC"),
        probe("restore.in_time", Restore, E2, Outcome::NotAsked, None, "no rto is configured for this tenant"),
    ]
}

fn full_grid() -> Grid {
    let mut grid = Grid::default();
    let people = [2, 0, 11, 1, 2];
    for (domain, number) in Domain::ALL.into_iter().zip(people) {
        grid.count(domain, Layer::Odoo, number, number, Grade::AMaterial);
        let role = usize::from(domain == Domain::Service);
        grid.count(domain, Layer::Postgres, role, role, Grade::E1);
    }
    grid.seen(Domain::Workforce, Layer::Odoo, State::Kept, Grade::AReal);
    grid
}

fn survives() -> DrillReport {
    drill(fine_probes(), full_grid(), Vec::new())
}

pub(in crate::drill) fn exposed() -> DrillReport {
    let mut grid = full_grid();
    grid.differs(Domain::Workforce, Layer::Odoo, Some(Verdict::Exposed));
    grid.differs(Domain::Partner, Layer::Odoo, Some(Verdict::LockedOut));
    let difference = |class, who: &str, detail: &str| Difference {
        class,
        who: who.into(),
        what: "group base.group_system".into(),
        detail: detail.into(),
    };
    let differences = vec![
        difference(Class::Gain, "p-3f2a9c01", "p-3f2a9c01 is now in group base.group_system (comes with another)"),
        difference(Class::Stale, "p-77ab01ee", "password of p-77ab01ee is an earlier one, which works again"),
        difference(Class::Loss, "p-0a11b2c3", "p-0a11b2c3 is archived and cannot sign in"),
    ];
    let mut probes = fine_probes();
    let failed = |id, gate, detail| probe(id, Layer::Odoo, Grade::AMaterial, Outcome::Failed, Some(gate), detail);
    probes.push(failed(
        "odoo.gained",
        Verdict::Exposed,
        "1 × more than should be: something gained (see what differs)",
    ));
    probes.push(failed("odoo.lost", Verdict::LockedOut, "1 × less than should be: something lost (see what differs)"));
    drill(probes, grid, differences)
}

fn inconclusive() -> DrillReport {
    let mut probes = fine_probes();
    let why = "no canary is configured ([[tenants.acme.signin]])";
    probes.push(probe("odoo.sign_in", Layer::Odoo, Grade::AReal, Outcome::NotAsked, Some(Verdict::Inconclusive), why));
    drill(probes, full_grid(), Vec::new())
}

fn invalid() -> DrillReport {
    let detail = "the restore failed: tenants/acme/packs/3f/3fa2: altered: its SHA-256 is not the envelope's";
    let broken = probe("restore.worked", Layer::Restore, Grade::E2, Outcome::Failed, Some(Verdict::Invalid), detail);
    let clocks = Clocks { total: 3.0, ..Clocks::default() };
    DrillReport { reached: None, clocks, ..drill(vec![broken], Grid::default(), Vec::new()) }
}

fn degraded() -> DrillReport {
    let mut probes = fine_probes();
    let detail = "2 unlogged tables came back empty: public.cache, public.session";
    let gate = Some(Verdict::Degraded);
    probes.push(probe("postgres.unlogged", Layer::Postgres, Grade::E1, Outcome::Failed, gate, detail));
    drill(probes, full_grid(), Vec::new())
}

#[test]
fn the_page_loads_nothing_and_runs_nothing() {
    for drill in [survives(), exposed(), inconclusive(), invalid(), degraded()] {
        let page = page(&drill).into_string();
        for outside in ["<script", "http://", "https://", "src=", "url(", "@import", "<link", "<img"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
        assert!(page.contains(&drill.verdict.verdict.name().replace('_', " ")));
    }
}

#[test]
fn restored_names_cannot_become_markup_or_turn_the_text() {
    let mut drill = exposed();
    drill.databases = vec!["<script>alert(1)</script>".into()];
    drill.probes[0].detail = "name \u{202e}gnp.exe \u{1b}[2J".into();
    let page = page(&drill).into_string();
    assert!(!page.contains("<script") && !page.contains('\u{202e}') && !page.contains('\u{1b}'));
    assert!(page.contains("\\u{202e}"));
}

#[test]
fn what_was_not_asked_is_listed_and_never_among_the_passed() {
    let page = page(&inconclusive()).into_string();
    let (asked, silent) = page.split_once("What was not asked").unwrap();
    assert!(silent.contains("no canary is configured") && silent.contains("(needed)"));
    assert!(!asked.split_once("What was asked").unwrap().1.contains("no canary"));
}

#[test]
fn the_worst_cell_is_named() {
    let page = page(&exposed()).into_string();
    assert!(page.contains("Worst cell: <b>workforce in odoo</b>"), "{page}");
}

#[test]
fn pages_can_be_written_out_to_be_looked_at() {
    let kept = std::env::var_os("LIFEBOAT_PAGES").map(std::path::PathBuf::from);
    let scratch = tempfile::tempdir().unwrap();
    let dir = kept.unwrap_or_else(|| scratch.path().to_owned());
    let pages = [
        ("survives", survives()),
        ("exposed", exposed()),
        ("inconclusive", inconclusive()),
        ("invalid", invalid()),
        ("degraded", degraded()),
    ];
    for (name, drill) in pages {
        let page = page(&drill).into_string();
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
        std::fs::write(dir.join(format!("{name}.html")), page).unwrap();
    }
}
