//! Laws that tie the checker and the Critic together.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::audit::{Inventory, Limits, Outcome, check_file, links_of, orphans};

fn tree(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().expect("a temporary directory");
    for (path, text) in files {
        write(dir.path(), path, text.as_bytes());
    }
    dir
}

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    fs::write(path, bytes).expect("a file");
}

fn site(root: &Path) -> Site {
    Site::open(root, &Limits::default()).expect("a site")
}

/// Findings of every file, orphans included.
fn audit(root: &Path) -> Vec<Finding> {
    let limits = Limits::default();
    let inventory = Inventory::take(root, &limits).expect("an inventory");
    let site = site(root);
    let reports: Vec<_> = inventory
        .files
        .iter()
        .map(|file| check_file(&site, &file.path))
        .collect();
    let mut findings = orphans(&inventory, links_of(&reports));
    findings.extend(reports.into_iter().flat_map(|report| report.findings));
    findings
}

fn rules(findings: &[Finding]) -> Vec<(Rule, &str, u32)> {
    findings
        .iter()
        .map(|f| (f.rule, f.path.as_str(), f.line))
        .collect()
}

/// One of everything that can be wrong.
const FAULTY: &str = "---\ntitle: x\n---\n# Guide\n\n[gone](gone.md) ![no](no.png) [far](#far)\n\
    [up](../../x.md) [case](OTHER.md) [other](other.md#nowhere)\n\n### Deep\n\n## Same\n\n## Same\n\n\
    TODO: finish\n\n```\nlet x;\n```\n\n<<<<<<< HEAD\na\n=======\nb\n>>>>>>> b\n\n\
    <a href=\"lost.html\">x</a>\n\n[ref]\n\n[ref]: missing\\_file.md\n\n> ```sh\n> quoted\n\ntext\n\n~~~sh\nnever closed\n";

fn faulty_tree() -> TempDir {
    let token = ["ghp_", "f7Kd02mXq9ZtLw83VbNs61RyPe45HcJuA0Gi"].concat();
    let dir = tree(&[
        ("README.md", "# Read\n\n[guide](docs/guide.md)\n"),
        ("docs/guide.md", &format!("{FAULTY}{token}\n")),
        ("docs/other.md", "# Other\n"),
        ("docs/alone.md", "# Alone\n"),
        ("notes.txt", "FIXME: x\nsecret = \"kD83mQx7ZtLw83Vb\"\n"),
    ]);
    write(dir.path(), "latin.md", b"# caf\xe9\n\n[r](README.md)\n");
    dir
}

#[test]
fn one_of_everything_is_found_and_confirmed() {
    let dir = faulty_tree();
    let findings = audit(dir.path());
    for rule in Rule::ALL
        .into_iter()
        .filter(|rule| *rule != Rule::OversizedFile)
    {
        assert!(
            findings.iter().any(|f| f.rule == rule),
            "{rule}: {:?}",
            rules(&findings)
        );
    }
    let verdicts = verify_all(&site(dir.path()), &findings);
    for (finding, verdict) in findings.iter().zip(verdicts) {
        assert_eq!(verdict, Verdict::Confirmed, "{finding:?}");
    }
}

#[test]
fn a_finding_whose_line_is_gone_is_rejected() {
    let dir = faulty_tree();
    for finding in audit(dir.path())
        .iter()
        .filter(|f| f.rule != Rule::OrphanFile)
    {
        let path = dir.path().join(&finding.path);
        let before = fs::read(&path).expect("a file");
        let text = String::from_utf8_lossy(&before);
        let kept: Vec<&str> = text
            .lines()
            .enumerate()
            .filter(|(at, _)| at + 1 != finding.line as usize)
            .map(|(_, line)| line)
            .collect();
        fs::write(&path, kept.join("\n")).expect("a file");
        // Even without looking at the digest, by what the file says.
        let verdict = judge_all(
            &site(dir.path()),
            std::slice::from_ref(finding),
            Strictness::AnyContent,
        );
        assert!(
            matches!(verdict[0], Verdict::Rejected { .. }),
            "{finding:?}: {verdict:?}"
        );
        let verdict = verify(&site(dir.path()), finding);
        assert!(
            matches!(
                verdict,
                Verdict::Rejected {
                    cause: RejectionCause::FileChanged,
                    ..
                }
            ),
            "{finding:?}: {verdict:?}"
        );
        fs::write(&path, before).expect("a file");
    }
}

#[test]
fn a_false_finding_is_disproved() {
    let dir = tree(&[
        (
            "a.md",
            "# A\n## B\n[b](b.md#b-1) `TODO: x`\n\n```sh\nx\n```\n",
        ),
        ("b.md", "# B\n\n# B\n\n[a](a.md)\n"),
    ]);
    let site = site(dir.path());
    assert_eq!(
        audit(dir.path()).len(),
        1,
        "only the duplicate heading of b.md"
    );
    let text = fs::read(dir.path().join("a.md")).expect("a file");
    for (rule, line, evidence) in [
        (Rule::BrokenLink, 3, "b.md#b-1"),
        (Rule::BrokenAnchor, 3, "b.md#b-1"),
        (Rule::LinkOutsideTree, 3, "b.md#b-1"),
        (Rule::SkippedHeadingLevel, 2, "B"),
        (Rule::DuplicateHeading, 2, "B"),
        (Rule::UnclosedCodeFence, 5, "```sh"),
        (Rule::CodeFenceWithoutLanguage, 5, "x"),
        (Rule::TodoMarker, 3, "[b](b.md#b-1) `TODO: x`"),
        (Rule::OversizedFile, 1, ""),
        (Rule::NotUtf8, 1, "byte 0xff"),
        (Rule::OrphanFile, 1, "a.md"),
    ] {
        let remark = crate::audit::finding::Remark::new(rule, line, evidence, String::new());
        let digest = ContentDigest::of(&text);
        let finding = crate::audit::finding::number("a.md", &digest, vec![remark]).remove(0);
        let verdict = verify(&site, &finding);
        assert!(
            matches!(
                verdict,
                Verdict::Rejected {
                    cause: RejectionCause::Disproved,
                    ..
                }
            ),
            "{rule}: {verdict:?}"
        );
    }
}

#[test]
fn a_repaired_target_rejects_the_finding_of_an_unchanged_file() {
    let dir = tree(&[("README.md", "[b](b.md) [c](c.md#x)\n"), ("c.md", "# Y\n")]);
    let findings = audit(dir.path());
    assert_eq!(
        rules(&findings),
        [
            (Rule::BrokenLink, "README.md", 1),
            (Rule::BrokenAnchor, "README.md", 1)
        ]
    );
    write(dir.path(), "b.md", b"# B\n");
    write(dir.path(), "c.md", b"# X\n");
    for verdict in verify_all(&site(dir.path()), &findings) {
        assert!(
            matches!(
                verdict,
                Verdict::Rejected {
                    cause: RejectionCause::Disproved,
                    ..
                }
            ),
            "{verdict:?}"
        );
    }
}

#[test]
fn files_that_vanish_grow_or_turn_into_pipes_are_outcomes() {
    let dir = tree(&[("a.md", "# A\n"), ("big.md", &"x".repeat(3000))]);
    let limits = Limits {
        file_bytes_max: 2048,
        ..Limits::default()
    };
    let site = Site::open(dir.path(), &limits).expect("a site");
    let big = check_file(&site, "big.md");
    assert_eq!(big.outcome, Outcome::Oversized);
    assert_eq!(verify(&site, &big.findings[0]), Verdict::Confirmed);
    fs::write(dir.path().join("big.md"), "small").expect("a file");
    assert!(matches!(
        verify(&site, &big.findings[0]),
        Verdict::Rejected { .. }
    ));
    assert_eq!(check_file(&site, "gone.md").outcome, Outcome::Vanished);
    for path in ["../a.md", "/etc/hosts.md", "docs/../../a.md", "", "a.rs"] {
        assert_eq!(check_file(&site, path).outcome, Outcome::Refused, "{path}");
    }
    fs::create_dir(dir.path().join("dir.md")).expect("a directory");
    assert_eq!(check_file(&site, "dir.md").outcome, Outcome::Refused);
}

#[cfg(unix)]
#[test]
fn symbolic_links_never_lead_out_of_the_tree() {
    let outside = tree(&[("secret.md", "# Secret\nTODO: x\n")]);
    let dir = tree(&[(
        "a.md",
        "[x](link.md) [y](loop/a.md) [z](dead.md) [w](out/nothing.md)\n",
    )]);
    let link = |to: &Path, name: &str| {
        std::os::unix::fs::symlink(to, dir.path().join(name)).expect("a symbolic link");
    };
    link(&outside.path().join("secret.md"), "link.md");
    link(dir.path(), "loop");
    link(Path::new("nowhere.md"), "dead.md");
    link(outside.path(), "out");
    let findings = audit(dir.path());
    assert_eq!(
        rules(&findings),
        [(Rule::BrokenLink, "a.md", 1)],
        "only the dangling one"
    );
    assert_eq!(findings[0].evidence, "dead.md");
    assert_eq!(
        check_file(&site(dir.path()), "link.md").outcome,
        Outcome::Refused
    );
    assert_eq!(
        check_file(&site(dir.path()), "out/secret.md").outcome,
        Outcome::Refused
    );
}

#[test]
fn planned_files_without_a_report_are_uncovered() {
    let dir = tree(&[("a.md", ""), ("b.md", "")]);
    let planned = ["a.md".to_owned(), "b.md".to_owned()];
    let reports = [check_file(&site(dir.path()), "a.md")];
    assert_eq!(uncovered(&planned, &reports), ["b.md"]);
}

/// Blocks of ordinary Markdown, right and wrong.
fn block() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "alpha",
        "Beta",
        "`gamma`",
        "*delta*",
        "größe",
        "TODO: epsilon",
        "[a](other.md)",
        "[b](gone.md)",
        "[c](#alpha)",
        "[d](other.md#beta)",
        "![e](e.png)",
        "<a href=\"f.md\">f</a>",
        "[g](<h i.md>)",
        "https://example.com",
        "_x_",
        "snake_case",
    ]);
    let words = prop::collection::vec(word, 1..6).prop_map(|words| words.join(" "));
    let info = prop::sample::select(vec!["", "rust", "sh"]);
    prop_oneof![
        4 => words.clone(),
        3 => (1..=6_usize, words.clone()).prop_map(|(n, text)| format!("{} {text}", "#".repeat(n))),
        1 => words.clone().prop_map(|text| format!("{text}\n---")),
        2 => (info.clone(), words.clone()).prop_map(|(i, text)| format!("```{i}\n{text}\n```")),
        1 => (info.clone(), words.clone()).prop_map(|(i, t)| format!("- item\n\n  ~~~{i}\n  {t}\n  ~~~")),
        1 => (info, words.clone()).prop_map(|(i, text)| format!("> ```{i}\n> {text}")),
        2 => prop::collection::vec(words.clone(), 1..4)
            .prop_map(|items| items.iter().map(|i| format!("- {i}")).collect::<Vec<_>>().join("\n")),
        1 => words.clone().prop_map(|text| format!("> {text}")),
        1 => words.clone().prop_map(|text| format!("<div>\n{text}\n</div>")),
        1 => words.clone().prop_map(|text| format!("    {text}")),
        1 => words.prop_map(|text| format!("| h |\n|---|\n| {text} |")),
        1 => Just("<<<<<<< HEAD\na\n=======\nb\n>>>>>>> x".to_owned()),
    ]
}

fn document() -> impl Strategy<Value = String> {
    (prop::collection::vec(block(), 0..14), any::<bool>()).prop_map(|(blocks, crlf)| {
        let text = blocks.join("\n\n") + "\n";
        if crlf {
            text.replace('\n', "\r\n")
        } else {
            text
        }
    })
}

/// Text that is full of Markdown's special characters.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "#",
        "##",
        " ",
        "  ",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "```",
        "~~~",
        "`",
        ">",
        "-",
        "1.",
        "*",
        "_",
        "[",
        "]",
        "(",
        ")",
        "](",
        "<",
        "<a href=",
        "\"",
        "'",
        "<!--",
        "-->",
        "---",
        "===",
        "|",
        "a",
        "TODO:",
        "é",
        "日",
        "\u{202e}",
        "\0",
        "{#id}",
        "&amp;",
        "\\",
        "%",
        "%zz",
        "..",
        "/",
        "[^1]",
        "[a]: b",
        "<<<<<<< x",
        "=======",
        "<h1>",
        "</h1>",
        "password=",
        "x1Y2z3A4b5C6d7E8",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

fn check_text(text: &[u8]) -> (TempDir, Vec<Finding>, u32) {
    let dir = tree(&[("other.md", "# Alpha\n")]);
    write(dir.path(), "docs/a.md", text);
    write(dir.path(), "other.md", b"# Alpha\n");
    let report = check_file(&site(dir.path()), "docs/a.md");
    (dir, report.findings, report.lines)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_bytes_give_a_report_whose_lines_exist(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (dir, findings, lines) = check_text(&bytes);
        for finding in &findings {
            prop_assert!(1 <= finding.line && finding.line <= lines.max(1), "{:?}", finding);
        }
        verify_all(&site(dir.path()), &findings);
    }

    #[test]
    fn any_markup_gives_a_report_whose_lines_exist(text in soup()) {
        let (dir, findings, lines) = check_text(text.as_bytes());
        for finding in &findings {
            prop_assert!(1 <= finding.line && finding.line <= lines.max(1), "{:?}", finding);
            prop_assert!(finding.evidence.chars().count() <= crate::audit::EVIDENCE_CHARS_MAX + 1);
            prop_assert!(!finding.evidence.chars().any(char::is_control));
        }
        verify_all(&site(dir.path()), &findings);
    }

    #[test]
    fn every_finding_about_an_unchanged_document_is_confirmed(text in document()) {
        let (dir, findings, _) = check_text(text.as_bytes());
        let verdicts = verify_all(&site(dir.path()), &findings);
        for (finding, verdict) in findings.iter().zip(verdicts) {
            prop_assert_eq!(verdict, Verdict::Confirmed, "{:?}", finding);
        }
    }

    #[test]
    fn ids_survive_lines_inserted_above(text in document(), above in 1..9_usize) {
        let (_dir, before, _) = check_text(text.as_bytes());
        let moved = format!("{}{text}", "plain words\n\n".repeat(above));
        let (_dir, after, _) = check_text(moved.as_bytes());
        let ids = |findings: &[Finding]| findings.iter().map(|f| f.id.clone()).collect::<Vec<_>>();
        prop_assert_eq!(ids(&before), ids(&after));
    }
}
