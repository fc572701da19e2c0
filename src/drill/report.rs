//! The page for people: one file, no scripts, nothing from elsewhere; the verdict is read in ten seconds.
//!
//! From the top: the verdict and why, asked and reached, who by where, what differs, what was asked, what was not. State is said in words and
//! signs, not by colour alone. Names in it come from restored data: control and direction-changing characters are written out.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::grid::{Cell, State};
use super::identity::Domain;
use super::probe::{Layer, Outcome, Probe};
use super::verdict::{Reason, Verdict};
use super::{DrillReport, WorstCell};
use crate::access::compare::Class;

const STYLE: &str = include_str!("report/style.css");
/// Nothing is loaded and nothing runs, whatever got into the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
/// More differences are in the evidence.
const MOST_DIFFERENCES: usize = 200;

/// The whole page.
#[must_use]
pub fn page(drill: &DrillReport) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (drill.verdict.verdict.name()) " · drill of " (safe(&drill.tenant)) }
                style { (PreEscaped(STYLE)) }
            }
            body { main {
                h1 { "Drill of tenant " b { (safe(&drill.tenant)) } ", estate " (safe(&drill.estate)) ", " (time(drill.began)) }
                (verdict(drill))
                (facts(drill))
                (grid(drill))
                (differences(drill))
                (probes(drill))
                (not_asked(drill))
                (footer(drill))
            } }
        }
    }
}

/// Text from restored data, safe to look at.
fn safe(text: &str) -> String {
    text.chars()
        .map(|letter| {
            let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if letter.is_control() || turns { letter.escape_unicode().to_string() } else { letter.to_string() }
        })
        .collect()
}

fn time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn tone(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Survives => "good",
        Verdict::Degraded | Verdict::Inconclusive => "warn",
        Verdict::Invalid | Verdict::Exposed | Verdict::LockedOut => "bad",
    }
}

fn verdict(drill: &DrillReport) -> Markup {
    let judged = &drill.verdict;
    let layers: Vec<&str> = judged.layers.iter().map(|layer| layer.name()).collect();
    let shown: Vec<&Reason> = drill.reasons.iter().take(4).collect();
    html! {
        section class={ "verdict " (tone(judged.verdict)) } {
            strong {
                (judged.verdict.name().replace('_', " "))
                @if judged.verdict.is_good() { span { " for " (layers.join(" and ")) } }
            }
            p { (judged.verdict.meaning()) }
            @if !shown.is_empty() {
                ul {
                    @for reason in &shown {
                        li { b class=(tone(reason.verdict)) { (reason.verdict.name().replace('_', " ")) } " " (safe(&reason.detail)) " " code { (safe(&reason.probe)) } }
                    }
                    @if drill.reasons.len() > shown.len() { li { "and " (drill.reasons.len() - shown.len()) " more, below" } }
                }
            }
        }
    }
}

fn facts(drill: &DrillReport) -> Markup {
    let seconds = |value: Option<f64>| value.map_or("–".to_owned(), duration);
    let reached = drill.reached.as_ref();
    let commit = reached.and_then(|reached| reached.last_commit_time).map(time);
    let passed = drill.probes.iter().filter(|probe| probe.outcome == Outcome::Passed).count();
    let asked = drill.probes.iter().filter(|probe| probe.outcome != Outcome::NotAsked).count();
    html! {
        dl {
            div { dt { "Asked for" } dd { (safe(&drill.asked)) } }
            div { dt { "Reached" } dd {
                (reached.map_or("nothing".to_owned(), |reached| reached.lsn.to_string()))
                @if let Some(commit) = commit { small { "last commit " (commit) } }
            } }
            div { dt { "Server running after" } dd { (seconds(drill.clocks.server_up)) } }
            div { dt { "First sign-in after" } dd { (seconds(drill.clocks.first_sign_in)) } }
            div { dt { "Drill took" } dd { (duration(drill.clocks.total)) } }
            div { dt { "Probes passed" } dd { (passed) " of " (asked) " asked" } }
        }
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 90.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{:.0} min {:02.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}

fn grid(drill: &DrillReport) -> Markup {
    let is_asked = |layer: Layer| Domain::ALL.iter().any(|d| drill.grid.cell(*d, layer).state != State::NotAsked);
    let class = |layer: Layer| if is_asked(layer) { "asked" } else { "unasked" };
    html! {
        h2 { "Who, by where" }
        div class="wide" { table class="grid" {
            thead { tr {
                th {}
                @for layer in Layer::IDENTITY { th class=(class(layer)) scope="col" {
                    (layer.name())
                    @if !is_asked(layer) { small { "not asked" } }
                } }
            } }
            tbody { @for domain in Domain::ALL { tr {
                th scope="row" { (domain.words()) }
                @for layer in Layer::IDENTITY {
                    td class=(class(layer)) { (cell(&drill.grid.cell(domain, layer), (domain, layer), drill.worst_cell)) }
                }
            } } }
        } }
        p { small {
            @match drill.worst_cell {
                Some(worst) if worst.state < State::Kept => { "Worst cell: " b { (worst.domain.words()) " in " (worst.layer.name()) } ", " (worst.state.words()) ". " }
                Some(_) => "No cell is worse than “kept”. ",
                None => "No cell was asked. ",
            }
            "Numbers: found of expected. Only A-real is a login; A-material says that stored verifiers are equal; E1 that the layer itself answered."
        } }
    }
}

fn cell(cell: &Cell, at: (Domain, Layer), worst: Option<WorstCell>) -> Markup {
    let (tone, sign) = match cell.state {
        State::Exposed | State::LockedOut => ("bad", "✗ "),
        State::Unclear | State::Degraded => ("warn", "! "),
        State::Kept => ("good", "✓ "),
        State::Nobody | State::NotAsked => ("none", ""),
    };
    let is_worst = worst.is_some_and(|worst| (worst.domain, worst.layer) == at && worst.state < State::Kept);
    let class = if is_worst { format!("cell {tone} worst") } else { format!("cell {tone}") };
    html! {
        span class=(class) {
            @if cell.state == State::NotAsked { "–" } @else { (sign) (cell.state.words()) }
            @if cell.expected + cell.found > 0 {
                small { (cell.found) "/" (cell.expected) @if let Some(grade) = cell.grade { " · " (grade.name()) } }
            }
        }
    }
}

fn differences(drill: &DrillReport) -> Markup {
    html! {
        h2 { "What differs" }
        @if drill.differences.is_empty() {
            p { "Nothing that was compared differs." }
        } @else {
            div class="wide" { table class="probes" {
                thead { tr { th { "Class" } th { "Who" } th { "What" } } }
                tbody { @for difference in drill.differences.iter().take(MOST_DIFFERENCES) { tr {
                    td class="mark" { (class_words(difference.class)) }
                    td { code { (safe(&difference.who)) } }
                    td class="detail" { (safe(&difference.detail)) }
                } } }
            } }
            @if drill.differences.len() > MOST_DIFFERENCES {
                p { small { "and " (drill.differences.len() - MOST_DIFFERENCES) " more, in the evidence" } }
            }
        }
    }
}

fn class_words(class: Class) -> &'static str {
    match class {
        Class::Gain => "gained",
        Class::Stale => "works again",
        Class::Downgrade => "weaker",
        Class::Loss => "lost",
        Class::Changed => "changed",
    }
}

fn probes(drill: &DrillReport) -> Markup {
    let mut asked: Vec<&Probe> = drill.probes.iter().filter(|probe| probe.outcome != Outcome::NotAsked).collect();
    // What failed first, each part in the order it was made.
    asked.sort_by_key(|probe| probe.outcome == Outcome::Passed);
    html! {
        h2 { "What was asked" }
        div class="wide" { table class="probes" {
            thead { tr { th { "" } th { "Probe" } th { "Evidence" } th { "What was seen" } th class="number" { "Seconds" } } }
            tbody { @for probe in asked { tr class=(if probe.outcome == Outcome::Failed { "failed" } else { "" }) {
                td class={ "mark " (if probe.outcome == Outcome::Failed { "bad" } else { "good" }) } {
                    (if probe.outcome == Outcome::Failed { "✗ failed" } else { "✓ passed" })
                }
                td { code { (safe(&probe.id)) } }
                td class="grade" { (probe.grade.map_or("", |grade| grade.name())) }
                td class="detail" { (safe(&probe.detail)) }
                td class="number" { @if probe.seconds >= 0.05 { (format!("{:.1}", probe.seconds)) } }
            } } }
        } }
    }
}

fn not_asked(drill: &DrillReport) -> Markup {
    let silent: Vec<&Probe> = drill.probes.iter().filter(|probe| probe.outcome == Outcome::NotAsked).collect();
    let layers = Layer::IDENTITY.into_iter().filter(|layer| !drill.layers.contains(layer));
    let layers: Vec<&str> = layers.map(Layer::name).collect();
    html! {
        h2 { "What was not asked" }
        p { "Layers that did not answer, for which this drill says nothing: " b { (layers.join(", ")) } "." }
        @if !silent.is_empty() {
            div class="wide" { table class="probes" { tbody { @for probe in silent { tr {
                td class="mark none" { "– not asked" }
                td { code { (safe(&probe.id)) } }
                td class="detail" {
                    (safe(&probe.detail))
                    @if probe.gate.is_some() { " " b class="warn" { "(needed)" } }
                }
            } } } } }
        }
    }
}

fn footer(drill: &DrillReport) -> Markup {
    let version = drill.server_version.map(|version| format!(", PostgreSQL {}.{}", version / 10_000, version % 10_000));
    let scopes: Vec<String> = drill.scopes_opened.iter().map(ToString::to_string).collect();
    html! {
        h2 { "Record" }
        p { small {
            "lifeboat " (drill.lifeboat_version) (version.unwrap_or_default()) " · " (time(drill.began)) " to " (time(drill.ended)) br;
            "databases: " (safe(&drill.databases.join(", "))) " · keys used: " (scopes.join(", ")) " · read: " (drill.objects_read) " objects, " (drill.bytes_read) " bytes" br;
            "evidence: " code { (safe(&drill.evidence.display().to_string())) } br;
            "People go by pseudonyms (p-…) made with the tenant's key; whoever runs the drill sees their names on the terminal."
        } }
    }
}

#[cfg(test)]
pub(super) mod tests;
