//! When a call that failed is made again.

/// Most attempts; the last one is about a day after the first.
pub const ATTEMPTS: u32 = 11;
/// Pause after the first one.
const FIRST_MS: u64 = 5000;
/// Each pause is so much longer than the one before, up to the longest.
const FACTOR: u64 = 4;
const LONGEST_MS: u64 = 6 * 3_600_000;

/// The pause after so many attempts, with up to a quarter more by `chance`, so that many who were refused at once do not come back at
/// once; `None`: no further one.
pub fn pause_ms(attempts: u32, chance: u8) -> Option<u64> {
    if !(1..ATTEMPTS).contains(&attempts) {
        return None;
    }
    let pause = FACTOR.saturating_pow(attempts - 1).saturating_mul(FIRST_MS).min(LONGEST_MS);
    Some(pause + pause * u64::from(chance) / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_six_hours_and_end_after_about_a_day() {
        let pauses: Vec<u64> = (1..).map_while(|attempts| pause_ms(attempts, 0)).map(|ms| ms / 1000).collect();
        assert_eq!(pauses, [5, 20, 80, 320, 1280, 5120, 20480, 21600, 21600, 21600]);
        let whole = |chance| (1..).map_while(|attempts| pause_ms(attempts, chance)).sum::<u64>() / 3_600_000;
        assert_eq!((whole(0), whole(u8::MAX)), (25, 31));
        assert_eq!((pause_ms(0, 0), pause_ms(ATTEMPTS, 0), pause_ms(u32::MAX, 0)), (None, None, None));
    }

    #[test]
    fn chance_adds_a_quarter_at_the_most() {
        for attempts in 1..ATTEMPTS {
            let pause = pause_ms(attempts, 0).unwrap();
            for chance in 0..=u8::MAX {
                assert!((pause..=pause + pause / 4).contains(&pause_ms(attempts, chance).unwrap()));
            }
        }
    }
}
