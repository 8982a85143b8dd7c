//! Numbers, times and states as people read them (pure).

use std::time::Duration;

use regrow_runtime::clock::Timestamp;
use regrow_runtime::queue::task::{TaskEventKind, TaskState};

/// A whole number in groups of three, such as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if 0 < position && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number of things: `1 task`, `12 tasks`.
pub(crate) fn several(number: u64, one: &str, many: &str) -> String {
    let name = if number == 1 { one } else { many };
    format!("{} {name}", count(number))
}

/// A number with as many decimals as say something.
pub(crate) fn decimal(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size < 100.0 && size.fract() == 0.0 => format!("{number:.0}"),
        size if size < 0.01 => format!("{number:.4}"),
        size if size < 10.0 => format!("{number:.2}"),
        size if size < 100.0 => format!("{number:.1}"),
        // Far within what the cast keeps.
        size => match number < 0.0 {
            true => format!("-{}", count(size.round() as u64)),
            false => count(size.round() as u64),
        },
    }
}

/// Part of a whole, such as `12 %`; what is not quite nothing or all does not look so.
pub(crate) fn percent(part: f64) -> String {
    let percent = part * 100.0;
    match percent {
        exact if exact <= 0.0 => "0 %".to_owned(),
        little if little < 1.0 => "< 1 %".to_owned(),
        most if (99.0..100.0).contains(&most) => "> 99 %".to_owned(),
        rest => format!("{rest:.0} %"),
    }
}

/// A duration in the two units that matter.
pub(crate) fn span(time: Duration) -> String {
    let millis = time.as_millis();
    let seconds = time.as_secs();
    match seconds {
        0 if millis == 0 && !time.is_zero() => format!("{} µs", time.as_micros()),
        0 => format!("{millis} ms"),
        1..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3_600 => two(seconds, 60, "min", 1, "s"),
        3_600..86_400 => two(seconds, 3_600, "h", 60, "min"),
        _ => two(seconds, 86_400, "d", 3_600, "h"),
    }
}

fn two(seconds: u64, large: u64, large_name: &str, small: u64, small_name: &str) -> String {
    let (whole, rest) = (seconds / large, seconds % large / small);
    match rest {
        0 => format!("{whole} {large_name}"),
        _ => format!("{whole} {large_name} {rest} {small_name}"),
    }
}

/// Milliseconds as a duration.
pub(crate) fn millis(millis: u64) -> String {
    span(Duration::from_millis(millis))
}

/// Seconds as measured, such as a quantile of a histogram.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds.is_finite() && 0.0 <= seconds {
        span(Duration::from_secs_f64(seconds.min(1e9)))
    } else {
        "unknown".to_owned()
    }
}

/// A number of bytes.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let (mut amount, mut unit) = (bytes as f64 / 1_024.0, UNITS[0]);
    for next in &UNITS[1..] {
        if amount < 1_024.0 {
            break;
        }
        (amount, unit) = (amount / 1_024.0, next);
    }
    format!("{} {unit}", decimal(amount))
}

/// Money, given in millionths of a dollar.
pub(crate) fn money(micros: u64) -> String {
    let dollars = micros as f64 / 1e6;
    match micros {
        0 => "$0".to_owned(),
        1..10_000 => format!("${dollars:.4}"),
        _ => format!("${dollars:.2}"),
    }
}

/// The time of the day, in UTC.
pub(crate) fn clock(at: Timestamp) -> String {
    let text = at.to_string();
    let time = text.split_once('T').map(|(_, time)| time);
    let time = time.and_then(|time| time.split_once(['.', 'Z']));
    time.map_or(text.clone(), |(time, _)| time.to_owned())
}

/// The day and the time of the day, in UTC.
pub(crate) fn day_and_clock(at: Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('T') {
        Some((day, _)) => format!("{day} {}", clock(at)),
        None => text,
    }
}

/// The beginning of a text, at most `max` characters of it.
pub(crate) fn beginning(text: &str, max: usize) -> String {
    let mut short: String = text.chars().take(max).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// How a state is said, and its tone.
pub(crate) fn state(state: TaskState) -> (&'static str, Tone) {
    match state {
        TaskState::Scheduled => ("scheduled", Tone::Calm),
        TaskState::Available => ("waiting for a worker", Tone::Calm),
        TaskState::Executing => ("running", Tone::Active),
        TaskState::Waiting => ("waiting for other tasks", Tone::Calm),
        TaskState::AwaitingApproval => ("waiting for a person", Tone::Attention),
        TaskState::Retryable => ("will be tried again", Tone::Attention),
        TaskState::Completed => ("completed", Tone::Good),
        TaskState::Discarded => ("given up", Tone::Bad),
        TaskState::Cancelled => ("cancelled", Tone::Quiet),
    }
}

/// How an event of a task is said.
pub(crate) fn event(kind: TaskEventKind) -> (&'static str, Tone) {
    match kind {
        TaskEventKind::Submitted => ("submitted", Tone::Calm),
        TaskEventKind::Available => ("may be claimed", Tone::Calm),
        TaskEventKind::Leased => ("a worker took it", Tone::Active),
        TaskEventKind::Released => ("handed back", Tone::Quiet),
        TaskEventKind::LeaseLost => ("lease lost", Tone::Bad),
        TaskEventKind::StepRecorded => ("step recorded", Tone::Good),
        TaskEventKind::Suspended => ("waits for its children", Tone::Calm),
        TaskEventKind::ApprovalAsked => ("asked a person", Tone::Attention),
        TaskEventKind::Approved => ("approved", Tone::Good),
        TaskEventKind::Denied => ("denied", Tone::Bad),
        TaskEventKind::BudgetCharged => ("budget charged", Tone::Calm),
        TaskEventKind::Carried => ("goes on on another node", Tone::Calm),
        TaskEventKind::Failed => ("attempt failed", Tone::Bad),
        TaskEventKind::CancelRequested => ("cancel asked for", Tone::Attention),
        TaskEventKind::Retried => ("tried again on request", Tone::Active),
        TaskEventKind::Completed => ("completed", Tone::Good),
        TaskEventKind::Discarded => ("given up", Tone::Bad),
        TaskEventKind::Cancelled => ("cancelled", Tone::Quiet),
    }
}

/// How something is coloured; never the only thing that tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tone {
    /// Over and of no concern.
    Quiet,
    /// Nothing in particular.
    Calm,
    /// At work.
    Active,
    /// As it should be.
    Good,
    /// Somebody should look.
    Attention,
    /// Something failed.
    Bad,
}

impl Tone {
    /// The class in the style sheet.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Calm => "calm",
            Self::Active => "active",
            Self::Good => "good",
            Self::Attention => "attention",
            Self::Bad => "bad",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_keep_what_says_something() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(number), text);
        }
        for (number, text) in [
            (0.0, "0"),
            (0.003, "0.0030"),
            (1.0, "1"),
            (-20.0, "-20"),
            (1.234, "1.23"),
            (45.67, "45.7"),
            (1_234.5, "1,235"),
            (-1_234.5, "-1,235"),
        ] {
            assert_eq!(decimal(number), text);
        }
        assert_eq!(several(1, "task", "tasks"), "1 task");
        assert_eq!(several(2_000, "task", "tasks"), "2,000 tasks");
    }

    #[test]
    fn what_is_not_quite_nothing_or_all_does_not_look_so() {
        for (part, text) in [
            (0.0, "0 %"),
            (0.001, "< 1 %"),
            (0.5, "50 %"),
            (0.999, "> 99 %"),
            (1.0, "100 %"),
            (1.2, "120 %"),
        ] {
            assert_eq!(percent(part), text);
        }
    }

    #[test]
    fn durations_name_the_two_units_that_matter() {
        for (time, text) in [
            (Duration::ZERO, "0 ms"),
            (Duration::from_micros(80), "80 µs"),
            (Duration::from_millis(850), "850 ms"),
            (Duration::from_millis(1_250), "1.2 s"),
            (Duration::from_secs(59), "59 s"),
            (Duration::from_secs(60), "1 min"),
            (Duration::from_secs(200), "3 min 20 s"),
            (Duration::from_secs(7_500), "2 h 5 min"),
            (Duration::from_secs(90_000), "1 d 1 h"),
        ] {
            assert_eq!(span(time), text);
        }
        assert_eq!(seconds(f64::NAN), "unknown");
    }

    #[test]
    fn amounts_have_units() {
        assert_eq!(bytes(100), "100 B");
        assert_eq!(bytes(1_536), "1.50 KiB");
        assert_eq!(bytes(512 << 20), "512 MiB");
        assert_eq!(money(0), "$0");
        assert_eq!(money(1_500), "$0.0015");
        assert_eq!(money(1_500_000), "$1.50");
    }

    #[test]
    fn instants_are_told_by_day_and_clock() {
        let at = Timestamp(1_763_631_000_125);
        assert_eq!(at.to_string(), "2025-11-20T09:30:00.125Z");
        assert_eq!(clock(at), "09:30:00");
        assert_eq!(day_and_clock(at), "2025-11-20 09:30:00");
        assert_eq!(clock(Timestamp(1_763_631_000_000)), "09:30:00");
    }
}
