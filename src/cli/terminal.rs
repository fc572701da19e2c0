//! What the terminal can show: width, colour, and text that cannot harm it.
//!
//! Names come from databases and stores that may be hostile: control characters are written out, so that no name can
//! move the cursor, change colours or fake a line.

use std::fmt::Write as _;
use std::io::IsTerminal;

/// How an output is to be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// In columns; `None` where the output is no terminal and lines may be as long as they like.
    pub width: Option<usize>,
    pub colour: bool,
}

impl Page {
    /// No colours, no width: for files, pipes and tests.
    pub const PLAIN: Self = Self { width: None, colour: false };

    #[must_use]
    pub fn of(output: &(impl IsTerminal + std::os::fd::AsFd)) -> Self {
        if !output.is_terminal() {
            return Self::PLAIN;
        }
        let width = rustix::termios::tcgetwinsize(output).map_or(80, |size| usize::from(size.ws_col));
        let colour = wanted(std::env::var_os("NO_COLOR"), std::env::var_os("TERM"));
        // A width of 0 is what a terminal says that does not know.
        Self { width: Some(if width == 0 { 80 } else { width }), colour }
    }

    /// `text` in a tone, where colours are shown.
    #[must_use]
    pub fn paint(self, tone: Tone, text: &str) -> String {
        match (self.colour, tone.code()) {
            (true, Some(code)) => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            _ => text.to_owned(),
        }
    }
}

/// <https://no-color.org>: set and not empty means no colour.
fn wanted(no_color: Option<std::ffi::OsString>, term: Option<std::ffi::OsString>) -> bool {
    no_color.is_none_or(|value| value.is_empty()) && term.is_none_or(|term| term != "dumb")
}

/// What a text means; the colour follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Warning,
    Bad,
    Faint,
    Strong,
}

impl Tone {
    /// ECMA-48 SGR parameters.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Warning => Some("33"),
            Self::Bad => Some("1;31"),
            Self::Faint => Some("2"),
            Self::Strong => Some("1"),
        }
    }
}

/// `text` with every control and direction-changing character written out; line ends stay.
#[must_use]
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (letter.is_control() && letter != '\n') || turns {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(letter));
        } else {
            out.push(letter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_cannot_drive_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\rc\u{202e}d\u{9b}e"), "a\\u{1b}[2Jb\\u{d}c\\u{202e}d\\u{9b}e");
        assert_eq!(harmless("Škoda\nzweite"), "Škoda\nzweite");
    }

    #[test]
    fn colour_is_shown_where_it_is_wanted_only() {
        assert!(wanted(None, Some("xterm".into())) && wanted(Some("".into()), None));
        assert!(!wanted(Some("1".into()), None) && !wanted(None, Some("dumb".into())));
        assert_eq!(Page::PLAIN.paint(Tone::Bad, "x"), "x");
        assert_eq!(Page { width: None, colour: true }.paint(Tone::Good, "x"), "\u{1b}[32mx\u{1b}[0m");
    }
}
