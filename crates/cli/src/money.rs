//! Money as people write it, and as the platform counts it: whole numbers of the smallest unit, a millionth.

/// Smallest units in one.
const UNITS: u64 = 1_000_000;
const DECIMALS: usize = 6;

/// Reads `12`, `0.05`; never by way of a number that rounds.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no amount; write 12 or 0.05, with at most {DECIMALS} decimals");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > DECIMALS || text.ends_with('.') || !digits(whole) || !digits(part) {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part: u64 = format!("{part:0<DECIMALS$}").parse().map_err(|_| wrong())?;
    whole.checked_mul(UNITS).and_then(|units| units.checked_add(part)).ok_or_else(wrong)
}

/// `0.05`, with two decimals at least.
pub(crate) fn text(units: u64) -> String {
    let (whole, part) = (units / UNITS, format!("{:06}", units % UNITS));
    let kept = part.trim_end_matches('0').len().max(2);
    format!("{whole}.{}", &part[..kept])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_counted() {
        for (written, units) in
            [("0", 0), ("12", 12_000_000), ("0.05", 50_000), ("1.000001", 1_000_001), ("18446744073709.551615", u64::MAX)]
        {
            assert_eq!(parse(written), Ok(units));
            assert_eq!(parse(&text(units)), Ok(units));
        }
        assert_eq!([text(0), text(50_000), text(1_234_567)], ["0.00", "0.05", "1.234567"]);
        for bad in
            ["", ".", "1.", ".5", "-1", "+1", "1e3", "1.0000001", "1,5", "18446744073709.551616", "99999999999999999999", "٣"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
