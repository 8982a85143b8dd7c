//! What of an answer may be handed on (pure).

use serde_json::{Value, json};

/// Fields that hold what tasks carry: their sizes are enough to understand a node.
const CARRIED: [&str; 9] = [
    "payload",
    "goal",
    "result",
    "input",
    "output",
    "question",
    "answer",
    "note",
    "idempotency_key",
];
/// Parts of names of fields whose texts nobody else may know.
const SECRET: [&str; 6] = [
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "api_key",
];

/// The value without what is carried, and without secrets.
pub(super) fn redacted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let value = match value {
                    Value::Null | Value::Bool(_) | Value::Number(_) => value,
                    _ if CARRIED.contains(&name.as_str()) => {
                        json!({ "left_out_bytes": value.to_string().len() })
                    }
                    Value::String(text) if is_secret(&name, &text) => "left out".into(),
                    other @ (Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                        redacted(other)
                    }
                };
                (name, value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(all) => Value::Array(all.into_iter().map(redacted).collect()),
        Value::String(text) => without_secrets(&text).into(),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
    }
}

/// Paths of files with secrets are none, and words such as `tokens` that count are numbers.
fn is_secret(name: &str, text: &str) -> bool {
    let name = name.to_lowercase();
    !name.ends_with("_file") && !text.is_empty() && SECRET.iter().any(|part| name.contains(part))
}

/// The text without passwords of addresses and without bearer tokens.
pub(super) fn without_secrets(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, behind) = rest.split_at(at + 3);
        kept.push_str(before);
        let end = behind.find(|c: char| c.is_whitespace() || "/?#\"'<>`".contains(c));
        let (host, after) = behind.split_at(end.unwrap_or(behind.len()));
        match host.rsplit_once('@') {
            Some((who, host)) => {
                let who = who.split(':').next().unwrap_or_default();
                kept.push_str(&format!("{who}:***@{host}"));
            }
            None => kept.push_str(host),
        }
        rest = after;
    }
    kept.push_str(rest);
    let words = kept.split_inclusive(|c: char| c.is_whitespace() || "\"'`,;=&?".contains(c));
    let mut after_bearer = false;
    let words = words.map(|word| {
        let bare = word.trim_end_matches(|c: char| c.is_whitespace() || "\"'`,;=&?".contains(c));
        let hidden =
            after_bearer && !bare.is_empty() || bare.starts_with("regrow_") && is_token(bare);
        after_bearer = bare.eq_ignore_ascii_case("bearer");
        match hidden {
            true => format!("***{}", &word[bare.len()..]),
            false => word.to_owned(),
        }
    });
    words.collect()
}

/// Long and with digits as tokens are, unlike names of metrics.
fn is_token(word: &str) -> bool {
    let is_drawn = |c: char| c.is_ascii_digit() || c.is_ascii_uppercase();
    32 < word.len() && !word.contains('{') && 4 < word.chars().filter(|c| is_drawn(*c)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tasks_carry_becomes_a_size_and_secrets_are_left_out() {
        let told = redacted(json!({
            "tasks": [{ "id": "a", "payload": { "card": "4111" }, "result": null }],
            "cluster.secret_file": "/etc/secret", "api_token": "abc", "tokens": 12,
            "error": "GET http://u:hunter2@h/p failed",
        }));
        assert_eq!(told["tasks"][0]["payload"], json!({ "left_out_bytes": 15 }));
        assert_eq!(told["tasks"][0]["result"], Value::Null);
        assert_eq!(told["cluster.secret_file"], "/etc/secret");
        assert_eq!(
            (&told["api_token"], &told["tokens"]),
            (&json!("left out"), &json!(12))
        );
        assert_eq!(told["error"], "GET http://u:***@h/p failed");
    }

    #[test]
    fn passwords_and_tokens_do_not_stand_in_texts() {
        for (text, kept) in [
            (
                "postgres://regrow:s3cret@db:5432/x?y=z",
                "postgres://regrow:***@db:5432/x?y=z",
            ),
            ("postgres://regrow@db/x", "postgres://regrow:***@db/x"),
            (
                "see http://h/p and amqp://a:b@c",
                "see http://h/p and amqp://a:***@c",
            ),
            (
                "authorization: Bearer abc.def, more",
                "authorization: Bearer ***, more",
            ),
            (
                "regrow_tasks_ended_total{state=\"completed\"} 4",
                "regrow_tasks_ended_total{state=\"completed\"} 4",
            ),
        ] {
            assert_eq!(without_secrets(text), kept);
        }
    }
}
