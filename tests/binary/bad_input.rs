//! Wrong configuration, wrong usage, unusable data: refused with the way out, nothing touched.

use std::fs;
use std::path::Path;

use crate::node::{NodeProcess, regrow, say};

/// Every file below a folder with its content.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_file())
        .map(|path| {
            let bytes = fs::read(&path).expect("readable");
            (path.display().to_string(), bytes)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_wrong_configuration_is_refused_whole_and_nothing_is_written() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("wrong.toml");
    let text = "[queue]\nmax_size = \"lots\"\n[htpp]\nlisten = 1\n[agents]\nlease = \"0s\"\n";
    fs::write(&file, text).expect("writable");
    let data = dir.path().join("data");
    let mut command = regrow();
    command
        .arg("node")
        .arg("--config")
        .arg(&file)
        .arg("--data-dir")
        .arg(&data);
    let said = say(command.env("REGROW_HTTP__LISTEN", "nowhere"));
    assert_eq!(said.code, Some(2), "{}", said.err);
    for expected in [
        "4 problems",
        "queue.max_size",
        "htpp.listen",
        "agents.lease",
        "\"nowhere\"",
    ] {
        assert!(
            said.err.contains(expected),
            "{expected} is missing in:\n{}",
            said.err
        );
    }
    assert!(
        !data.exists(),
        "the data directory was created all the same"
    );
}

#[test]
fn a_configuration_can_be_checked_and_shown_without_starting() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let data = dir.path().join("data");
    let said = say(regrow().args(["node", "--check", "--data-dir"]).arg(&data));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let mut command = regrow();
    command
        .args(["node", "--print-config", "--name", "n1", "--data-dir"])
        .arg(&data);
    let said = say(command.env("REGROW_QUEUE__MAX_SIZE", "77"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("name = \"n1\"  # --name"), "{}", said.out);
    assert!(
        said.out
            .contains("max_size = 77  # $REGROW_QUEUE__MAX_SIZE"),
        "{}",
        said.out
    );
    assert!(
        !data.exists(),
        "the data directory was created all the same"
    );
}

#[tokio::test]
async fn a_second_node_on_the_same_data_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = NodeProcess::start(dir.path(), &[]).await;
    let mut command = regrow();
    command
        .args(["node", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path());
    let said = say(&mut command);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("in use by process"), "{}", said.err);
    let tree = tempfile::tempdir().expect("temporary directory");
    let mut command = regrow();
    command.arg("demo").arg(tree.path()).arg("--data-dir");
    let said = say(command.arg(dir.path()));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("in use by process"), "{}", said.err);
    let (status, _) = node.get("/health/ready").await;
    assert_eq!(status, 200, "the first node suffered");
}

#[test]
fn a_corrupted_database_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("VERSION"), "1\n").expect("writable");
    fs::write(dir.path().join("regrow.db"), [0x5a; 8_192]).expect("writable");
    let before = fs::read(dir.path().join("regrow.db")).expect("readable");
    let mut command = regrow();
    command
        .args(["node", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path());
    let said = say(&mut command);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("is corrupted"), "{}", said.err);
    assert!(
        said.err.contains("restore it from a backup"),
        "{}",
        said.err
    );
    assert_eq!(
        fs::read(dir.path().join("regrow.db")).expect("readable"),
        before
    );
}

#[test]
fn data_of_a_newer_version_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("VERSION"), "2\n").expect("writable");
    let before = content(dir.path());
    let mut command = regrow();
    command
        .args(["node", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path());
    let said = say(&mut command);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("use the newer regrow"), "{}", said.err);
    let after = content(dir.path());
    assert!(before.iter().all(|one| after.contains(one)));
}

#[test]
fn a_data_directory_that_cannot_be_written_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("file"), "in the way").expect("writable");
    let mut command = regrow();
    command.args(["node", "--http", "127.0.0.1:0", "--data-dir"]);
    let said = say(command.arg(dir.path().join("file/data")));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("cannot be created"), "{}", said.err);
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut command = regrow();
    command
        .args(["node", "--http", &address, "--data-dir"])
        .arg(dir.path());
    let said = say(&mut command);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains(&address), "{}", said.err);
}

#[test]
fn a_demo_of_what_is_not_a_directory_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let data = dir.path().join("data");
    for path in ["/nonexistent/docs", "/dev/null"] {
        let said = say(regrow().args(["demo", path, "--data-dir"]).arg(&data));
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains(path), "{}", said.err);
    }
    assert!(
        !data.exists(),
        "the data directory was created all the same"
    );
}
