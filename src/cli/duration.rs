//! Durations as people write them on the command line.

/// `30s`, `15m`, `1h` or `2d`, in milliseconds.
///
/// # Errors
/// What to write instead.
pub fn parse_ms(text: &str) -> Result<u64, String> {
    let unit = text.chars().last().filter(char::is_ascii_lowercase);
    let ms = match unit {
        Some('s') => 1_000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        _ => return Err("end it with s, m, h or d, such as 1h".into()),
    };
    let number = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let number: u64 = number.parse().map_err(|_| "start it with a number, such as 1h")?;
    number.checked_mul(ms).ok_or_else(|| "too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(parse_ms("90s"), Ok(90_000));
        assert_eq!(parse_ms("1h"), Ok(3_600_000));
        assert_eq!(parse_ms("2d"), Ok(172_800_000));
        for bad in ["", "1", "h", "-1h", "1w", "1.5h", "99999999999999999999d"] {
            assert!(parse_ms(bad).is_err(), "{bad}");
        }
    }
}
