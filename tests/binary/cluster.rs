//! Preparing a cluster.

use std::os::unix::fs::PermissionsExt;

use crate::node::{regrow, say};

#[test]
fn certificates_are_made_once_and_only_their_owner_can_read_them() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let certificates = dir.path().join("certificates");
    let make = |nodes: &[&str]| {
        let mut command = regrow();
        command.args(["cluster", "cert", "--json", "--dir"]);
        command.arg(&certificates).args(nodes);
        say(&mut command)
    };
    let made = make(&["n1", "n2"]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    let written: serde_json::Value = serde_json::from_str(&made.out).expect("JSON");
    assert_eq!(written["is_new_authority"], true);
    assert_eq!(written["nodes"][1]["name"], "n2");
    let key = written["nodes"][1]["key"].as_str().expect("a path");
    let mode = std::fs::metadata(key)
        .expect("written")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = std::fs::read(key).expect("readable");
    let again = make(&["n2"]);
    assert_eq!(again.code, Some(2));
    assert!(again.err.contains("is not overwritten"), "{}", again.err);
    assert_eq!(std::fs::read(key).expect("readable"), before);
    let later = make(&["n3"]);
    assert_eq!(later.code, Some(0), "{}", later.err);
    assert!(
        later.out.contains("\"is_new_authority\":false"),
        "{}",
        later.out
    );
    let address = make(&["10.0.0.1"]);
    assert_eq!(address.code, Some(2));
    assert!(
        address.err.contains("cannot be in a certificate"),
        "{}",
        address.err
    );
}
