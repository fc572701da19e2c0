//! Somebody watching, for people: a bar for what takes long, and every finding said once.
//!
//! A bar appears on a terminal only, and only when its stage has lasted two seconds: short work needs no bar. It shows
//! bytes, rate and time left where the total is known. Findings are kept for the end of the command, where they make
//! exit code 3 and the list in JSON.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::terminal::{Page, Tone, harmless};
use crate::watch::{Finding, Level, Watch};

const APPEARS_AFTER: Duration = Duration::from_secs(2);
/// More findings than this are counted and not kept: hostile data must not fill the memory or the screen.
const MOST_FINDINGS: usize = 1000;

/// Draws bars and says findings on stderr.
pub struct Progress {
    state: Arc<Mutex<State>>,
    says: Says,
    page: Page,
}

/// How findings are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// `warning: ...` lines; notices as well.
    All,
    /// Warnings only: a CronJob is quiet when well.
    Warnings,
    /// To the log: stdout carries them as JSON.
    Log,
}

#[derive(Default)]
struct State {
    stage: Option<Stage>,
    findings: Vec<Finding>,
    dropped: u64,
}

struct Stage {
    name: String,
    total_bytes: Option<u64>,
    done_bytes: u64,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Bars where stderr is a terminal that no log shares.
    #[must_use]
    pub fn new(json: bool, verbose: u8) -> Self {
        let stderr = std::io::stderr();
        let says = match (json, stderr.is_terminal() || verbose > 0) {
            (true, _) => Says::Log,
            (false, true) => Says::All,
            (false, false) => Says::Warnings,
        };
        let state = Arc::<Mutex<State>>::default();
        if stderr.is_terminal() && verbose == 0 {
            let watched = Arc::downgrade(&state);
            // A stage that moves no bytes must appear as well, so somebody looks from time to time.
            std::thread::spawn(move || {
                while let Some(state) = watched.upgrade() {
                    lock(&state).stage.as_mut().map(Stage::appear_when_due);
                    drop(state);
                    std::thread::sleep(Duration::from_millis(250));
                }
            });
        }
        Self { state, says, page: Page::of(&stderr) }
    }

    /// Takes the bar away and gives back what was found.
    #[must_use]
    pub fn close(&self) -> Vec<Finding> {
        let mut state = lock(&self.state);
        state.leave_stage();
        let mut findings = std::mem::take(&mut state.findings);
        if state.dropped > 0 {
            findings.push(Finding {
                level: Level::Warning,
                object: "findings".to_owned(),
                what: format!("{} more were counted and not kept", state.dropped),
                next: "correct the ones listed, then run the command again".to_owned(),
            });
        }
        findings
    }

    fn say(&self, finding: &Finding, bar: Option<&ProgressBar>) {
        let Finding { level, object, what, next } = finding;
        let text = match (self.says, level) {
            (Says::Log, Level::Warning) => return tracing::warn!(object, next, "{what}"),
            (Says::Log, Level::Notice) | (Says::Warnings, Level::Notice) => {
                return tracing::info!(object, "{what}");
            }
            (_, Level::Warning) => {
                format!("{} {object}: {what}", self.page.paint(Tone::Warning, "warning:"))
            }
            (Says::All, Level::Notice) => format!("{} {object}: {what}", self.page.paint(Tone::Faint, "note:")),
        };
        let text = if next.is_empty() { text } else { format!("{text}\n  next: {next}") };
        let write = || {
            // When stderr is gone there is nobody to tell; the finding still makes the exit code.
            let _ = writeln!(std::io::stderr(), "{text}");
        };
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Watch for Progress {
    fn stage(&self, name: &str, total_bytes: Option<u64>) {
        tracing::info!(total_bytes, "{name}");
        let mut state = lock(&self.state);
        state.leave_stage();
        let name = harmless(name);
        state.stage = Some(Stage { name, total_bytes, done_bytes: 0, since: Instant::now(), bar: None });
    }

    fn advance(&self, bytes: u64) {
        if let Some(stage) = &mut lock(&self.state).stage {
            stage.done_bytes += bytes;
            if let Some(bar) = &stage.bar {
                bar.set_position(stage.done_bytes);
            }
        }
    }

    fn finding(&self, finding: Finding) {
        let finding = Finding { object: harmless(&finding.object), what: harmless(&finding.what), ..finding };
        let mut state = lock(&self.state);
        if state.findings.contains(&finding) {
            return;
        }
        if state.findings.len() >= MOST_FINDINGS {
            state.dropped += 1;
            return;
        }
        let bar = state.stage.as_ref().and_then(|stage| stage.bar.as_ref());
        self.say(&finding, bar);
        state.findings.push(finding);
    }
}

impl State {
    fn leave_stage(&mut self) {
        if let Some(bar) = self.stage.take().and_then(|stage| stage.bar) {
            bar.finish_and_clear();
        }
    }
}

impl Stage {
    fn appear_when_due(&mut self) {
        if let Some(bar) = &self.bar {
            bar.tick();
        } else if self.since.elapsed() >= APPEARS_AFTER {
            let bar = ProgressBar::new(self.total_bytes.unwrap_or(0)).with_message(self.name.clone());
            bar.set_style(style(self.total_bytes, self.done_bytes));
            let bar = bar.with_elapsed(self.since.elapsed()).with_position(self.done_bytes);
            bar.tick();
            self.bar = Some(bar);
        }
    }
}

fn style(total_bytes: Option<u64>, done_bytes: u64) -> ProgressStyle {
    let template = match (total_bytes, done_bytes) {
        (Some(_), _) => "{msg}  {bar:24} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left",
        (None, 0) => "{msg}  {spinner} {elapsed}",
        (None, _) => "{msg}  {spinner} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{note, warn};

    fn silent() -> Progress {
        Progress { state: Arc::default(), says: Says::Log, page: Page::PLAIN }
    }

    #[test]
    fn a_finding_is_kept_once_and_cannot_drive_the_terminal() {
        let progress = silent();
        warn(&progress, "db \u{1b}[2J", "strange", "look");
        warn(&progress, "db \u{1b}[2J", "strange", "look");
        note(&progress, "db", "fine");
        let findings = progress.close();
        assert_eq!(findings.len(), 2);
        assert_eq!(findings[0].object, "db \\u{1b}[2J");
    }

    #[test]
    fn a_flood_of_findings_is_counted_and_not_kept() {
        let progress = silent();
        for n in 0..MOST_FINDINGS + 7 {
            warn(&progress, format!("file {n}"), "strange", "");
        }
        let findings = progress.close();
        assert_eq!(findings.len(), MOST_FINDINGS + 1);
        assert!(findings[MOST_FINDINGS].what.starts_with("7 more"));
    }

    #[test]
    fn short_stages_draw_no_bar_and_long_ones_do() {
        let progress = silent();
        progress.stage("copying", Some(10));
        progress.advance(4);
        let mut state = lock(&progress.state);
        let stage = state.stage.as_mut().unwrap();
        stage.appear_when_due();
        assert!(stage.bar.is_none());
        stage.since -= APPEARS_AFTER;
        stage.appear_when_due();
        assert_eq!(stage.bar.as_ref().unwrap().position(), 4);
    }
}
