//! The record of a drill: one JSON file with everything that was seen, and the page for people beside it.
//!
//! `<drill.dir>/<tenant>-<time>.json` and `.html`, mode 0640, never overwritten. No secret is in it, and people go by pseudonyms
//! (`pseudonym.rs`). The JSON is the report's own, each probe with the raw facts it was judged by.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{DrillReport, report};
use crate::failure::{Failure, Kind};

/// The version of the JSON's form.
const FORMAT: u32 = 1;

/// Writes both files and puts their paths into the report.
///
/// # Errors
/// When they cannot be written; then a drill has not happened.
pub fn write(dir: &Path, drill: &mut DrillReport) -> Result<(), Failure> {
    let failed = |path: &Path, error: &dyn std::error::Error| {
        let next = "check [drill] dir: its rights, and the room on its disk; then drill again";
        Failure::new(Kind::Failed, path.display().to_string(), crate::failure::chain(error), next)
    };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir);
    made.map_err(|error| failed(dir, &error))?;
    let (stem, mut json) = claim(dir, drill).map_err(|error| failed(dir, &error))?;
    drill.evidence = stem.with_extension("json");
    drill.report = stem.with_extension("html");
    let text = text(drill).map_err(|error| failed(&drill.evidence, &error))?;
    json.write_all(&text).and_then(|()| json.sync_all()).map_err(|error| failed(&drill.evidence, &error))?;
    let page = report::page(drill).into_string();
    let html =
        create(&drill.report).and_then(|mut file| file.write_all(page.as_bytes()).and_then(|()| file.sync_all()));
    html.map_err(|error| failed(&drill.report, &error))
}

/// Takes a name that nobody has; two drills of one tenant may end in the same second.
fn claim(dir: &Path, drill: &DrillReport) -> std::io::Result<(PathBuf, std::fs::File)> {
    let time = drill.began.strftime("%Y%m%dT%H%M%SZ");
    let mut number = 1;
    loop {
        let more = if number == 1 { String::new() } else { format!("-{number}") };
        let stem = dir.join(format!("{}-{time}{more}", drill.tenant));
        match create(&stem.with_extension("json")) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
            made => return made.map(|file| (stem, file)),
        }
    }
}

fn create(path: &Path) -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)
}

fn text(drill: &DrillReport) -> Result<Vec<u8>, serde_json::Error> {
    let mut value = serde_json::to_value(drill)?;
    if let Value::Object(fields) = &mut value {
        fields.insert("format".to_owned(), FORMAT.into());
        fields.insert("kind".to_owned(), "lifeboat drill evidence".into());
    }
    let mut text = serde_json::to_vec_pretty(&value)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::report::tests::exposed;
    use super::*;

    #[test]
    fn two_drills_of_one_second_leave_four_files_that_others_cannot_read() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("drills");
        let (mut one, mut two) = (exposed(), exposed());
        write(&dir, &mut one).unwrap();
        write(&dir, &mut two).unwrap();
        assert_ne!(one.evidence, two.evidence);
        for path in [&one.evidence, &one.report, &two.evidence, &two.report] {
            let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o027, 0, "{}: {mode:o}", path.display());
        }
        let value: Value = serde_json::from_slice(&std::fs::read(&one.evidence).unwrap()).unwrap();
        assert_eq!(value["verdict"], "EXPOSED");
        assert_eq!(value["evidence"].as_str(), one.evidence.to_str());
        assert!(value["grid"]["workforce"]["odoo"]["state"].is_string());
    }

    #[test]
    fn evidence_that_cannot_be_written_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(write(file.path(), &mut exposed()).is_err());
    }
}
