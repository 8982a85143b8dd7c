//! How fast the audit is over 5,000 generated Markdown files, on one thread.
//!
//! Prints milliseconds per file for the inventory, the check and the second
//! look. `AUDIT_BENCH_FILES` changes the number of files. The tree is ordinary:
//! 4 to 12 KiB a file, 30 links each, a few of everything that can be wrong.

#![expect(clippy::print_stdout, reason = "a benchmark's result is its output")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use regrow_actors::audit::{
    Inventory, Limits, Site, Verdict, check_file, links_of, orphans, verify_all,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: usize = match std::env::var("AUDIT_BENCH_FILES") {
        Ok(files) => files.parse()?,
        Err(_unset) => 5_000,
    };
    let dir = tempfile::tempdir()?;
    generate(dir.path(), files)?;
    let limits = Limits::default();

    let began = Instant::now();
    let inventory = Inventory::take(dir.path(), &limits)?;
    let took_inventory = began.elapsed();

    let began = Instant::now();
    // One site for all batches, as workers of one process share it.
    let site = Site::open(dir.path(), &limits)?;
    let mut reports = Vec::new();
    for batch in inventory.batches(64, 4 << 20) {
        reports.extend(batch.iter().map(|path| check_file(&site, path)));
    }
    let mut findings = orphans(&inventory, links_of(&reports));
    findings.extend(
        reports
            .iter()
            .flat_map(|report| report.findings.iter().cloned()),
    );
    let took_check = began.elapsed();

    let began = Instant::now();
    let mut confirmed = 0;
    for batch in findings.chunks(2_000) {
        let site = Site::open(dir.path(), &limits)?;
        let verdicts = verify_all(&site, batch);
        confirmed += verdicts
            .iter()
            .filter(|verdict| **verdict == Verdict::Confirmed)
            .count();
    }
    let took_verify = began.elapsed();

    let mib = inventory.bytes() >> 20;
    println!(
        "{} files, {mib} MiB, {} findings, {confirmed} confirmed",
        files,
        findings.len()
    );
    show("inventory", took_inventory, inventory.files.len());
    show("check", took_check, inventory.files.len());
    show("verify", took_verify, inventory.files.len());
    Ok(())
}

fn show(what: &str, took: Duration, files: usize) {
    let seconds = took.as_secs_f64();
    let count = f64::from(u32::try_from(files).unwrap_or(u32::MAX));
    println!(
        "{what:>9}: {seconds:.3} s, {:.3} ms a file",
        1e3 * seconds / count
    );
}

/// Writes the tree: every file links to its neighbours.
fn generate(root: &Path, files: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut index = "# Index\n\n".to_owned();
    for number in 0..files {
        let directory = root.join(format!("part-{:03}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&directory)?;
        }
        let name = format!("page-{number:05}.md");
        fs::write(directory.join(&name), page(number, files)?)?;
        if number % 50 != 7 {
            writeln!(index, "- [page {number}](part-{:03}/{name})", number / 100)?;
        }
    }
    fs::write(root.join("README.md"), index)?;
    Ok(())
}

fn page(number: usize, files: usize) -> Result<String, std::fmt::Error> {
    let mut text = format!("---\ntitle: Page {number}\n---\n\n# Page {number}\n\n");
    for section in 0..(5 + number % 10) {
        let near = (number + 13 * section + 1) % files;
        writeln!(text, "## Section {section}\n")?;
        for line in 0..8 {
            writeln!(
                text,
                "The *supervisor* restarts child `{line}` after a crash, see [page {near}]\
                 (../part-{:03}/page-{near:05}.md#section-{}) and <https://example.com/{line}>.",
                near / 100,
                line % 5,
            )?;
        }
        writeln!(
            text,
            "\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```rust\nlet x = {section};\n```\n"
        )?;
    }
    if number % 10 == 3 {
        writeln!(
            text,
            "[gone](missing-{number}.md), [no](#nowhere)\n\n```\nplain\n```\n"
        )?;
    }
    if number % 25 == 4 {
        writeln!(
            text,
            "## Section 1\n\n#### Deep\n\nTODO: finish this page\n"
        )?;
    }
    Ok(text)
}
