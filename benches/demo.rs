//! `regrow demo` as a whole process over 5,000 Markdown files, beside what reading the same
//! files costs without looking at them. Target: under 10 s.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::unwrap_used, reason = "a bench may stop at the first surprise")]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const FILES: usize = 5_000;
const ROUNDS: usize = 5;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    generate(&tree);
    let (mut demos, mut reads) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        reads.push(read_all(&tree));
        let data = dir.path().join(format!("data-{round}"));
        let started = Instant::now();
        let status = Command::new(env!("CARGO_BIN_EXE_regrow"))
            .arg("demo")
            .arg(&tree)
            .args(["--json", "--data-dir"])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "the demo ended with {status}");
        demos.push(started.elapsed());
    }
    let (demo, read) = (median(demos), median(reads));
    let per_file = demo.as_secs_f64() * 1e3 / FILES as f64;
    println!("regrow demo, {FILES} Markdown files, median of {ROUNDS} rounds");
    println!(
        "  whole process      {:>8.2} s   ({per_file:.3} ms per file; target 10 s)",
        demo.as_secs_f64()
    );
    println!("  reading the files  {:>8.2} s", read.as_secs_f64());
    println!(
        "  ratio              {:>8.1}",
        demo.as_secs_f64() / read.as_secs_f64()
    );
}

/// Realistic files: headings, prose, links to each other, code, tables, a few mistakes.
fn generate(tree: &Path) {
    for number in 0..FILES {
        let folder = tree.join(format!("part-{:02}", number % 50));
        fs::create_dir_all(&folder).unwrap();
        let mut text = format!("# Page {number}\n\n");
        for section in 0..8 {
            write!(text, "## Section {section}\n\n").unwrap();
            for line in 0..12 {
                let other = (number * 7 + section * 13 + line * 29) % FILES;
                let target = format!("../part-{:02}/page-{other}.md", other % 50);
                writeln!(
                    text,
                    "Line {line} of plain prose with `code` and *emphasis*, see \
                     [page {other}]({target}#section-{section}) for the rest of it.",
                )
                .unwrap();
            }
            text.push_str("\n```rust\nfn main() {}\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n");
        }
        if number % 40 == 0 {
            text.push_str("A [broken link](missing.md), and [another](#nowhere).\n");
        }
        fs::write(folder.join(format!("page-{number}.md")), text).unwrap();
    }
}

fn read_all(tree: &Path) -> Duration {
    let started = Instant::now();
    let mut bytes = 0;
    for folder in fs::read_dir(tree).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            bytes += fs::read(file.unwrap().path()).unwrap().len();
        }
    }
    assert!(0 < bytes);
    started.elapsed()
}

fn median(mut sample: Vec<Duration>) -> Duration {
    sample.sort();
    sample[sample.len() / 2]
}
