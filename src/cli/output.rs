//! What people read: aligned tables, relative times, and text that cannot play tricks on
//! the terminal. A reader that closes the pipe early is not an error.

use std::io::{self, ErrorKind, Write as _};
use std::time::Duration;

use regrow_runtime::clock::{Clock, Timestamp};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Writes `text` and a line break to standard output.
///
/// # Errors
///
/// When it cannot be written, unless because nobody reads any more.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Tells a person what goes on, on standard error: it is not the result.
pub(crate) fn note(text: &str) {
    // What nobody can see is no failure.
    let _ = writeln!(io::stderr().lock(), "{}", printable(text, true));
}

/// Explains a failure on standard error.
pub(crate) fn print_error(text: &str) {
    // There is nowhere left to complain.
    let _ = writeln!(io::stderr().lock(), "error: {}", printable(text, true));
}

/// Explains a failure on standard error to a program.
pub(crate) fn print_json_error(text: &str) {
    // There is nowhere left to complain.
    let _ = writeln!(
        io::stderr().lock(),
        "{}",
        serde_json::json!({ "error": text })
    );
}

/// The text without control characters: what a task says must not move the cursor.
pub(crate) fn printable(text: &str, lines: bool) -> String {
    let keep = |c: char| !c.is_control() || (lines && c == '\n');
    text.chars()
        .map(|c| if keep(c) { c } else { '\u{fffd}' })
        .collect()
}

/// One line of at most `max` characters.
pub(crate) fn line(text: &str, max: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = printable(&text, false);
    if text.chars().count() <= max {
        return text;
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Columns as wide as their widest cell; the last one is not padded.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let written = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let padding = width - cell.chars().count() + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', padding));
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![written(&mut head.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| written(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

/// Names and values below each other, the values aligned.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = facts.iter().map(|(name, value)| {
        let text = printable(value, true).replace('\n', &format!("\n{:width$}  ", ""));
        format!("{name:width$}  {text}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// JSON as a person reads it.
pub(crate) fn pretty(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()),
    }
}

/// How long ago an RFC 3339 instant was, or how far ahead it lies, in one unit.
pub(crate) fn relative(text: &str) -> String {
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
    match at {
        Some(millis) => relative_to(Timestamp(millis), Clock::system().now()),
        None => printable(text, false),
    }
}

fn relative_to(at: Timestamp, now: Timestamp) -> String {
    if at <= now {
        format!("{} ago", rough(now.since(at)))
    } else {
        format!("in {}", rough(at.since(now)))
    }
}

/// A duration in its largest unit.
pub(crate) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_do_not_trail() {
        let rows = [
            vec!["1".into(), "é".into(), String::new()],
            vec!["22".into(), "bbb".into(), "c".into()],
        ];
        let text = table(&["A", "BB", "C"], &rows);
        assert_eq!(text, "A   BB   C\n1   é\n22  bbb  c");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(line("a\x1b[2Jb\n c", 40), "a\u{fffd}[2Jb c");
        assert_eq!(line("abcdef", 4), "abc…");
        assert_eq!(facts(&[("k", "a\nb\x07".into())]), "k  a\n   b\u{fffd}");
    }

    #[test]
    fn times_are_told_in_one_unit() {
        let at = |ms| relative_to(Timestamp(10_000_000), Timestamp(ms));
        assert_eq!(at(10_000_400), "400 ms ago");
        assert_eq!(at(10_005_000), "5 s ago");
        assert_eq!(at(9_000_000), "in 16 min");
        assert_eq!(rough(Duration::from_secs(172_800)), "2 d");
    }
}
