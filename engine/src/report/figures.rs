//! How numbers are written: as many digits as they deserve.

use super::ReportData;
use crate::gate::Gain;

/// How many decimals scores of one run get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimals(usize);

impl Decimals {
    /// Two significant digits of the noise; where there is none, or none is
    /// known, enough to tell the smallest gain from zero.
    pub fn of(data: &ReportData) -> Self {
        let noise = data.noise.as_ref().map(|n| n.sd).filter(|sd| *sd > 0.0);
        let kept =
            data.points.iter().filter_map(|p| p.gain.as_ref()).map(|g| g.mean).filter(|mean| *mean > 0.0);
        Self::for_step(noise.or_else(|| kept.min_by(f64::total_cmp)))
    }

    fn for_step(step: Option<f64>) -> Self {
        match step.filter(|s| s.is_finite() && *s > 0.0) {
            None => Self(4),
            // Between 2 and 8, so the cast cannot truncate.
            Some(step) => Self((1.0 - step.log10().floor()).clamp(2.0, 8.0) as usize),
        }
    }

    /// `1.2345`; `–` for what is not finite.
    pub fn score(self, value: f64) -> String {
        if !value.is_finite() {
            return "–".into();
        }
        if value.abs() >= 1e9 {
            return format!("{value:.4e}");
        }
        let text = format!("{value:.*}", self.0);
        let zero = text.bytes().all(|b| matches!(b, b'-' | b'0' | b'.'));
        if zero { text.trim_start_matches('-').to_owned() } else { text }
    }

    /// `1.2345`, or `–` where there is none.
    pub fn optional(self, value: Option<f64>) -> String {
        value.map_or_else(|| "–".into(), |v| self.score(v))
    }

    /// `+0.0123`.
    pub fn signed(self, value: f64) -> String {
        let text = self.score(value);
        if value.is_finite() && !text.starts_with('-') { format!("+{text}") } else { text }
    }

    /// `+0.0123 ± 0.0045`: a mean and half its 95 % interval.
    pub fn gain(self, gain: &Gain) -> String {
        format!("{} ± {}", self.signed(gain.mean), self.score((gain.high - gain.low) / 2.0))
    }
}

/// `12 %`, `0.34 %`: a share of a whole, 0 to 1.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        p if !p.is_finite() => "–".into(),
        p if p == 0.0 || p.abs() >= 9.95 => format!("{p:.0} %"),
        p if p.abs() >= 0.995 => format!("{p:.1} %"),
        p => format!("{p:.2} %"),
    }
}

/// `845 ms`, `3.4 s`, `12 min 30 s`, `3 h 5 min`.
pub fn duration(us: u64) -> String {
    let seconds = us / 1_000_000;
    match seconds {
        0 if us < 1000 => format!("{us} µs"),
        0 => format!("{} ms", us / 1000),
        1..=99 => format!("{:.1} s", us as f64 / 1e6),
        100..=5999 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `1.23 T`: three digits and a prefix.
pub fn count(value: u64) -> String {
    const PREFIXES: [(f64, &str); 5] = [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")];
    let x = value as f64;
    match PREFIXES.iter().find(|(unit, _)| x >= *unit * 0.9995) {
        None => grouped(value),
        Some((unit, prefix)) => {
            let x = x / unit;
            let decimals = if x >= 99.95 {
                0
            } else if x >= 9.995 {
                1
            } else {
                2
            };
            format!("{x:.decimals$} {prefix}")
        }
    }
}

/// `12,345`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `3 seeds`, `1 seed`.
pub fn of(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// `2026-03-09 14:05 UTC`. Days to a date as in H. Hinnant, "chrono-compatible
/// low-level date algorithms", `civil_from_days`.
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, in_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", in_day / 3600, in_day % 3600 / 60)
}

/// A path as a word of a shell command.
pub fn shell_word(path: &std::path::Path) -> String {
    let text = crate::diff::cleaned(&path.to_string_lossy());
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn digits_follow_the_noise() {
        assert_eq!(Decimals::for_step(Some(0.0069)).score(2.30512), "2.3051");
        assert_eq!(Decimals::for_step(Some(0.3)).score(2.30512), "2.31");
        assert_eq!(Decimals::for_step(Some(1e-30)).score(1.0), "1.00000000");
        assert_eq!(Decimals::for_step(None).signed(-0.0), "+0.0000");
        assert_eq!(Decimals::for_step(None).signed(-0.00001), "+0.0000");
        assert_eq!(Decimals::for_step(None).score(f64::NAN), "–");
        assert_eq!(Decimals::for_step(Some(f64::INFINITY)).score(-3e300), "-3.0000e300");
    }

    #[test]
    fn amounts_are_written_for_people() {
        let durations = [12, 845_000, 3_400_000, 750_000_000, 11_100_000_000].map(duration);
        assert_eq!(durations, ["12 µs", "845 ms", "3.4 s", "12 min 30 s", "3 h 5 min"]);
        let counts = [0, 12_345, 999_999, 1_234_000_000, u64::MAX].map(count);
        assert_eq!(counts, ["0", "12,345", "1.00 M", "1.23 G", "18.4 E"]);
        assert_eq!([0.0, 0.0034, 0.05, 0.5, f64::NAN].map(percent), ["0 %", "0.34 %", "5.0 %", "50 %", "–"]);
        assert_eq!(of(1, "seed", "seeds") + &of(1000, "seed", "seeds"), "1 seed1,000 seeds");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_773_065_100_000), "2026-03-09 14:05 UTC");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01 00:00 UTC");
    }

    #[test]
    fn a_path_stays_one_word() {
        assert_eq!(shell_word(Path::new("runs/gpt-1")), "runs/gpt-1");
        assert_eq!(shell_word(Path::new("a b'c")), r"'a b'\''c'");
        assert_eq!(shell_word(Path::new("x\n;rm")), r"'x\u{a};rm'");
    }
}
