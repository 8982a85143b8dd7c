//! Verbs with which people decide.

use crate::served::Node;

#[tokio::test]
async fn people_decide_what_may_start_and_what_may_be_spent() {
    let node = Node::start().await;
    let nobody = node.regrow(&["approvals", "list"]).await;
    assert!(nobody.out.contains("nobody waits"), "{nobody:?}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let careful = r#"{"kind":"k","goal":"tidy up","requires_approval":true,"budget":{"usd":2}}"#;
    std::fs::write(file.path(), careful).expect("writable");
    let path = file.path().to_string_lossy().into_owned();
    let ran = node
        .regrow(&["run", "--file", &path, "--json"])
        .await
        .json();
    assert_eq!(ran["state"], "awaiting_approval");
    let open = node.regrow(&["approvals", "list"]).await;
    assert!(open.out.contains("tidy up"), "{open:?}");
    let listed = node.regrow(&["approvals", "list", "--json"]).await.json();
    let question = listed["approvals"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let id = ran["id"].as_str().expect("an id");
    let way_out = format!("regrow approvals approve {question}");
    for verb in ["explain", "show"] {
        let told = node.regrow(&["tasks", verb, id]).await;
        assert!(
            told.out.contains("tidy up") && told.out.contains(&way_out),
            "{told:?}"
        );
    }
    let yes = [
        "approvals",
        "approve",
        &question,
        "--by",
        "ada",
        "--note",
        "go",
    ];
    let approved = node.regrow(&yes).await;
    assert!(approved.out.contains("is approved by ada"), "{approved:?}");
    let again = node.regrow(&["approvals", "deny", &question]).await;
    assert_eq!(again.code, 1);
    assert!(again.err.contains("approved already"), "{again:?}");

    let none = node.regrow(&["budget", "show", "tenant:acme"]).await;
    assert_eq!(none.code, 1);
    assert!(none.err.contains("budget_not_found"), "{none:?}");
    let set = [
        "budget",
        "set",
        "tenant:acme",
        "--usd",
        "5",
        "--period",
        "day",
    ];
    let set = node.regrow(&set).await;
    assert!(set.out.contains("0 spent of 5"), "{set:?}");
    let listed = node.regrow(&["budget", "list"]).await;
    let task = format!("task:{}", ran["id"].as_str().expect("an id"));
    assert!(
        listed.out.contains("tenant:acme") && listed.out.contains(&task),
        "{listed:?}"
    );
    let wrong = node.regrow(&["budget", "set", "team:x"]).await;
    assert!(wrong.err.contains("is no budget's scope"), "{wrong:?}");
    for (flag, amount) in [("--usd", "-1"), ("--tokens", "-5"), ("--seconds", "NaN")] {
        let wrong = node.regrow(&["budget", "set", "node", flag, amount]).await;
        assert_eq!(wrong.code, 2, "{wrong:?}");
        assert!(wrong.err.contains("number, 0 or more"), "{wrong:?}");
    }
}
