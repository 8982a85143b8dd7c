//! Verbs about versions of code.

use std::fs;

use crate::served::{Node, Ran};

async fn stage(node: &Node, version: &str, file: &str, more: &[&str]) -> Ran {
    let mut arguments = vec!["code", "load", "--agent", "packer", "--version", version];
    arguments.extend(["--code", file, "--columns", "item,left"]);
    arguments.extend(more);
    node.regrow(&arguments).await
}

#[tokio::test]
async fn versions_are_loaded_shown_compared_and_taken_back() {
    let node = Node::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("fit.expression");
    let path = file.to_str().expect("text");
    fs::write(&file, "item - left\n").expect("writable");
    let empty = node.regrow(&["code", "list"]).await;
    assert!(empty.out.contains("no agent has code yet"), "{empty:?}");
    let loaded = stage(&node, "1.0.0", path, &["--promote", "--notes", "best fit"]).await;
    assert_eq!(loaded.code, 0, "{loaded:?}");
    assert!(
        loaded.out.contains("version 1.0.0 of agent packer"),
        "{loaded:?}"
    );
    assert!(loaded.out.contains("is active"), "{loaded:?}");
    fs::write(&file, "left - item").expect("writable");
    let loaded = stage(&node, "1.1.0", path, &[]).await;
    assert!(
        loaded.out.contains("promote it with: regrow code promote"),
        "{loaded:?}"
    );
    let taken = stage(&node, "1.0.0", path, &[]).await;
    assert_eq!(taken.code, 1);
    assert!(taken.err.contains("(version_exists)"), "{taken:?}");

    let diff = node.regrow(&["code", "diff", "--agent", "packer"]).await;
    assert!(diff.out.contains("-item - left\n+left - item"), "{diff:?}");
    let source = [
        "code",
        "show",
        "--agent",
        "packer",
        "--version",
        "1.0.0",
        "--source",
    ];
    assert_eq!(node.regrow(&source).await.out, "item - left\n");
    let shown = node.regrow(&source[..6]).await;
    assert!(
        shown.out.contains("best fit") && shown.out.contains("item, left"),
        "{shown:?}"
    );
    let promoted = node
        .regrow(&["code", "promote", "--agent", "packer", "--version", "1.1.0"])
        .await;
    assert!(
        promoted.out.contains("active 1.1.0, before that 1.0.0"),
        "{promoted:?}"
    );
    let back = node
        .regrow(&["code", "rollback", "--agent", "packer", "--json"])
        .await;
    assert_eq!(back.json()["active"], "1.0.0");
    let history = node.regrow(&["code", "history", "--agent", "packer"]).await;
    assert!(history.out.contains("rolled_back"), "{history:?}");
    let checked = node.regrow(&["code", "check", "--agent", "packer"]).await;
    assert_eq!(
        (checked.code, checked.out.trim()),
        (0, "2 sources are sound, 0 are not")
    );
    let unknown = node
        .regrow(&["code", "promote", "--agent", "packer", "--version", "9"])
        .await;
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.err.contains("it has 1.1.0, 1.0.0 (code_not_found)"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn what_is_exported_is_imported_by_another_node_and_nothing_that_was_changed_is() {
    let (node, other) = (Node::start().await, Node::start().await);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("fit.expression");
    let path = file.to_str().expect("text");
    for (version, text) in [("1", "item - left"), ("2", "left - item"), ("3", "left")] {
        fs::write(&file, text).expect("writable");
        assert_eq!(stage(&node, version, path, &[]).await.code, 0);
    }
    let promote = ["code", "promote", "--agent", "packer", "--version", "2"];
    assert_eq!(node.regrow(&promote).await.code, 0);
    let tar = dir.path().join("packer.tar");
    let out = tar.to_str().expect("text");
    let export = ["code", "export", "--agent", "packer", "--out", out];
    let exported = node.regrow(&export).await;
    assert_eq!(exported.code, 0, "{exported:?}");
    let again = node.regrow(&export).await;
    assert_eq!(again.code, 1, "it is not written over: {again:?}");
    let imported = other.regrow(&["code", "import", out, "--json"]).await;
    assert_eq!(imported.code, 0, "{imported:?}");
    assert_eq!(imported.json()["active"], "2");
    let versions = other
        .regrow(&["code", "versions", "--agent", "packer"])
        .await;
    assert!(
        versions.out.contains("active 2, before that -"),
        "{versions:?}"
    );
    let same = other.regrow(&[
        "code",
        "show",
        "--agent",
        "packer",
        "--version",
        "1",
        "--source",
    ]);
    assert_eq!(same.await.out, "item - left\n");

    let mut bytes = fs::read(&tar).expect("readable");
    let at = bytes
        .windows(11)
        .position(|text| text == b"item - left")
        .expect("the source");
    bytes[at..at + 11].copy_from_slice(b"left - evil");
    fs::write(&tar, bytes).expect("writable");
    let changed = other
        .regrow(&["code", "import", out, "--agent", "other"])
        .await;
    assert_eq!(changed.code, 2);
    assert!(changed.err.contains("was changed"), "{changed:?}");
    let nothing = other
        .regrow(&["code", "versions", "--agent", "other"])
        .await;
    assert_eq!(nothing.code, 1, "{nothing:?}");
}

#[tokio::test]
async fn wrong_files_and_flags_are_told_before_anything_is_sent() {
    let node = Node::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("code");
    let path = file.to_str().expect("text");
    let load = [
        "code",
        "load",
        "--agent",
        "a",
        "--version",
        "1",
        "--code",
        path,
    ];
    let missing = node.regrow(&load).await;
    assert_eq!(missing.code, 2);
    assert!(missing.err.contains("cannot be read"), "{missing:?}");
    fs::write(&file, "left").expect("writable");
    let bare = node.regrow(&load).await;
    assert_eq!(bare.code, 2);
    assert!(bare.err.contains("needs --columns"), "{bare:?}");
    fs::write(&file, b"\xff\xfe").expect("writable");
    let odd = node.regrow(&load).await;
    assert_eq!(odd.code, 2);
    assert!(
        odd.err.contains("neither a WebAssembly component nor text"),
        "{odd:?}"
    );
    let import = node.regrow(&["code", "import", path]).await;
    assert_eq!(import.code, 2, "{import:?}");
}
