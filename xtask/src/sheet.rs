//! `docs/spec-sheet.md`: a heading, and a section per bench.

const HEADING: &str = "# Figures

Written by `cargo xtask bench --write`. The machine is whatever it ran on, shared and noisy:
read ratios within one run, not absolute figures across runs.
";

/// The sheet with what a bench printed, in place of what it printed before; every other section
/// stays where it is.
pub(crate) fn with_figures(sheet: &str, bench: &str, cores: usize, figures: &str) -> String {
    let section = format!(
        "## {bench}\n\n{cores} cores.\n\n```text\n{}\n```\n",
        figures.trim_end()
    );
    let sheet = match sheet.is_empty() {
        true => HEADING,
        false => sheet,
    };
    let heading = format!("## {bench}\n");
    let (before, after) = match position(sheet, &heading) {
        Some(from) => {
            let rest = &sheet[from + heading.len()..];
            // What others write is set off by comments.
            let next = [position(rest, "## "), position(rest, "<!-- ")];
            let next = next.into_iter().flatten().min().unwrap_or(rest.len());
            (&sheet[..from], &rest[next..])
        }
        None => sheet.split_at(position(sheet, "<!-- ").unwrap_or(sheet.len())),
    };
    match after {
        "" => format!("{}\n\n{section}", before.trim_end()),
        _ => format!("{}\n\n{section}\n{after}", before.trim_end()),
    }
}

/// Where a line begins like this.
fn position(text: &str, start: &str) -> Option<usize> {
    match text.starts_with(start) {
        true => Some(0),
        false => text.find(&format!("\n{start}")).map(|at| at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_take_the_place_of_those_before_and_leave_the_others_alone() {
        let first = with_figures("", "a", 2, "1\n");
        assert!(first.starts_with("# Figures\n\n"), "{first}");
        let both = with_figures(&first, "b", 2, "2");
        let again = with_figures(&both, "a", 4, "3");
        assert!(
            again.contains("## a\n\n4 cores.\n\n```text\n3\n```\n\n## b\n"),
            "{again}"
        );
        assert!(
            again.ends_with("## b\n\n2 cores.\n\n```text\n2\n```\n"),
            "{again}"
        );
        assert!(!again.contains("1\n```"), "{again}");
        assert_eq!(with_figures(&again, "a", 4, "3"), again);
        let peers = "<!-- peers: begin -->\n\n## Others\n\nx\n\n<!-- peers: end -->\n";
        let all = format!("{again}\n{peers}");
        let wider = with_figures(&with_figures(&all, "b", 2, "5"), "c", 2, "6");
        assert!(
            wider.ends_with(&format!("## c\n\n2 cores.\n\n```text\n6\n```\n\n{peers}")),
            "{wider}"
        );
        assert!(wider.contains("```text\n5\n```"), "{wider}");
        // A name that begins another's is not it.
        let longer = with_figures(&with_figures("", "ab", 1, "x"), "a", 1, "y");
        assert!(
            longer.contains("## ab\n\n1 cores.\n\n```text\nx"),
            "{longer}"
        );
        assert!(
            longer.contains("## a\n\n1 cores.\n\n```text\ny"),
            "{longer}"
        );
    }
}
