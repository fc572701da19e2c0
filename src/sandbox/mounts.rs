//! The kernel's list of this process's mounts (proc(5), `/proc/self/mountinfo`).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// One mount: where, with which per-mount options, of what kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub at: PathBuf,
    pub options: Vec<String>,
    pub kind: String,
}

/// All mounts of this process, by the `/proc` that is mounted at `proc`, in the order they were made: the last one at a place is the one that is seen.
///
/// # Errors
/// When `/proc` cannot be read or a line is not understood: a list with holes would prove nothing.
pub fn list(proc: &Path) -> io::Result<Vec<Mount>> {
    let text = std::fs::read(proc.join("self/mountinfo"))?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| parse(line).ok_or_else(|| io::Error::other("a mount that is not understood"))).collect()
}

/// `id parent major:minor root mount-point options optional-fields... - kind source super-options`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let at = PathBuf::from(OsString::from_vec(unescape(fields.nth(4)?)));
    let options = String::from_utf8_lossy(fields.next()?).split(',').map(str::to_owned).collect();
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mount { at, options, kind })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            out.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_with_a_space_in_its_name_is_read_whole() {
        let line = br"66 65 254:0 /usr /a\040b\134 ro,nosuid,relatime shared:1 master:2 - ext4 /dev/vda rw";
        let mount = parse(line).unwrap();
        assert_eq!(mount.at, PathBuf::from("/a b\\"));
        assert_eq!(mount.options, ["ro", "nosuid", "relatime"]);
        assert_eq!(mount.kind, "ext4");
    }

    #[test]
    fn a_line_that_is_cut_short_is_not_a_mount() {
        assert_eq!(parse(b"66 65 254:0 /usr /a ro"), None);
        assert_eq!(parse(b"66 65"), None);
    }

    #[test]
    fn this_process_has_a_root() {
        assert!(list(Path::new("/proc")).unwrap().iter().any(|mount| mount.at == Path::new("/")));
    }
}
