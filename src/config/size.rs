//! Sizes in bytes as people write them: `16MiB`, `512KiB`, `4096B`. Binary units only: `MB` means two things.

/// Unit and its bytes.
const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a whole number of bytes with its unit.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size; write a number with B, KiB, MiB, GiB or TiB, like 16MiB");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    number.checked_mul(*bytes).ok_or_else(|| format!("'{text}' is more than can be counted"))
}

/// Writes bytes for people, with three figures: `1.50 GiB`. For tables and messages; [`size`] does not read it.
#[must_use]
#[allow(clippy::cast_precision_loss)] // three figures are shown
pub fn shown(bytes: u64) -> String {
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) if *unit > 1 => {
            let value = bytes as f64 / *unit as f64;
            let places = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
            format!("{value:.places$} {name}")
        }
        _ => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_units() {
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("4096B"), Ok(4096));
        assert_eq!(size("2TiB"), Ok(2 << 40));
    }

    #[test]
    fn what_is_not_a_size_is_refused_with_an_example() {
        for text in ["", "16", "16MB", "16 MiB", "-1B", "1.5GiB", "MiB", "99999999999999999999B"] {
            assert!(size(text).unwrap_err().contains("16MiB"), "{text}");
        }
        assert!(size("99999999TiB").unwrap_err().contains("more than"));
    }

    #[test]
    fn people_see_three_figures() {
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1023), "1023 B");
        assert_eq!(shown(3 << 29), "1.50 GiB");
        assert_eq!(shown(34 << 20), "34.0 MiB");
        assert_eq!(shown(345 << 20), "345 MiB");
    }
}
