//! Whether every attachment row of the restored database has its file, with the SHA-1 that its name says.
//!
//! A wrong file is worse than a missing one (Odoo refuses to store that document again). Files that were missing at the source when the
//! backup was taken are said apart: no backup caused that.

use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::restore::files::FilesRestored;

pub const KIND: Kind = Kind { id: "filestore.attachments", layer: Layer::Filestore, grade: Grade::E2 };

#[must_use]
pub fn judge(files: &FilesRestored) -> Seen {
    let of = |number: u64| super::count(usize::try_from(number).unwrap_or(usize::MAX), "file");
    let at_source = match files.missing_at_source {
        0 => String::new(),
        number => format!("; {number} were missing at the source already"),
    };
    let seen = if files.complete() {
        let all = of(files.restored);
        Seen::passed(format!("{all} of {} referenced are here, each with its SHA-1{at_source}", files.referenced))
    } else {
        let names = super::few(&files.names);
        let detail = format!(
            "{} missing and {} wrong, of {}: {names}{at_source}",
            of(files.missing),
            files.mismatched,
            files.referenced
        );
        Seen::failed(Verdict::Invalid, detail)
    };
    seen.with(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    #[test]
    fn a_file_missing_or_wrong_invalidates_and_one_missing_at_the_source_does_not() {
        let fine = FilesRestored { referenced: 9, restored: 8, missing_at_source: 1, ..FilesRestored::default() };
        let seen = judge(&fine);
        assert_eq!(seen.outcome, Outcome::Passed);
        assert!(seen.detail.contains("1 were missing at the source"), "{}", seen.detail);
        assert_eq!(judge(&FilesRestored { missing: 1, ..fine.clone() }).gate, Some(Verdict::Invalid));
        assert_eq!(judge(&FilesRestored { mismatched: 1, ..fine }).gate, Some(Verdict::Invalid));
    }
}
