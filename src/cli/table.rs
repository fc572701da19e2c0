//! Tables that fit the terminal: columns as wide as needed, the widest ones cut with `…` where there is no room.
//!
//! Off a terminal nothing is cut. A cell is one line, whatever is put into it.

use super::terminal::{Page, Tone, harmless};

/// Between two columns.
const GAP: &str = "  ";
/// No column is made narrower than this: a screen that small gets long lines.
const LEAST: usize = 8;

#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    /// A cell with a meaning.
    pub fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { tone, ..Self::from(text.as_ref()) }
    }

    /// A number: aligned to the right.
    #[allow(clippy::needless_pass_by_value)] // numbers are passed by value
    pub fn number(value: impl ToString) -> Self {
        Self { right: true, ..Self::from(value.to_string()) }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self { text: harmless(text).replace('\n', " "), tone: Tone::Plain, right: false }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    #[must_use]
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the head are left out, missing ones are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut cells: Vec<Cell> = cells.into_iter().collect();
        cells.resize_with(self.head.len(), Cell::default);
        self.rows.push(cells);
    }

    /// The whole table, each line ended.
    #[must_use]
    pub fn draw(&self, page: Page) -> String {
        let head: Vec<Cell> = self.head.iter().map(|name| Cell { tone: Tone::Faint, ..Cell::from(*name) }).collect();
        let mut widths = vec![0; self.head.len()];
        for row in std::iter::once(&head).chain(&self.rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.text.chars().count().max(*width);
            }
        }
        if let Some(room) = page.width {
            narrow(&mut widths, room);
        }
        std::iter::once(&head).chain(&self.rows).map(|row| line(row, &widths, page)).collect()
    }
}

/// Takes from the widest column until all fit.
fn narrow(widths: &mut [usize], room: usize) {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > room {
        match widths.iter_mut().max() {
            Some(widest) if *widest > LEAST => *widest -= 1,
            _ => return,
        }
    }
}

fn line(row: &[Cell], widths: &[usize], page: Page) -> String {
    let mut line = String::new();
    let mut pending = 0;
    for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
        let text = cut(&cell.text, *width);
        let free = width.saturating_sub(text.chars().count());
        pending += if at == 0 { 0 } else { GAP.len() };
        if !text.is_empty() {
            pending += if cell.right { free } else { 0 };
            line.extend(std::iter::repeat_n(' ', pending));
            line += &page.paint(cell.tone, &text);
            pending = if cell.right { 0 } else { free };
        } else {
            pending += width;
        }
    }
    line.push('\n');
    line
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes() -> Table {
        let mut table = Table::new(&["tenant", "size", "note"]);
        table.row(["acme".into(), Cell::number("34.0 MiB"), "".into()]);
        table.row(["globex".into(), Cell::number("1 B"), Cell::toned("a gap before 16/B374D848", Tone::Warning)]);
        table
    }

    #[test]
    fn columns_align_and_lines_have_no_blanks_at_their_end() {
        let expected = "tenant  size      note\n\
                        acme    34.0 MiB\n\
                        globex       1 B  a gap before 16/B374D848\n";
        assert_eq!(sizes().draw(Page::PLAIN), expected);
    }

    #[test]
    fn what_does_not_fit_is_cut_in_the_widest_column() {
        let drawn = sizes().draw(Page { width: Some(32), colour: false });
        assert_eq!(drawn.lines().nth(2).unwrap(), "globex       1 B  a gap before …");
    }

    #[test]
    fn colours_surround_the_text_and_not_the_blanks() {
        let drawn = sizes().draw(Page { width: None, colour: true });
        assert!(drawn.contains("\u{1b}[33ma gap before 16/B374D848\u{1b}[0m\n"), "{drawn:?}");
    }

    #[test]
    fn a_cell_is_one_line_whatever_is_put_into_it() {
        let mut table = Table::new(&["name"]);
        table.row(["a\nb\u{1b}[2J".into(), "beyond the head".into()]);
        assert_eq!(table.draw(Page::PLAIN), "name\na b\\u{1b}[2J\n");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_a_page_of_usual_width(
            cells in prop::collection::vec("\\PC{0,60}", 0..40), width in 40_usize..200,
        ) {
            let mut table = Table::new(&["one", "two", "three", "four"]);
            for row in cells.chunks(4) {
                table.row(row.iter().map(|text| Cell::from(text.as_str())));
            }
            for line in table.draw(Page { width: Some(width), colour: false }).lines() {
                prop_assert!(line.chars().count() <= width);
            }
        }
    }
}
