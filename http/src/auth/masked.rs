//! What an operator sent, as the record keeps it: without secrets, and short (pure).
//!
//! A member whose name speaks of a secret loses its text; so do tokens, bearer credentials and
//! passwords in addresses, wherever they stand. What is longer than [`BYTES_MAX`] ends with a
//! word that says so. A secret under an innocent name, and of no known form, is not noticed.

use serde_json::{Map, Value};

/// About as many bytes are kept of one body.
const BYTES_MAX: usize = 2_048;
/// Characters of one text.
const TEXT_MAX: usize = 200;
/// Deepest nesting.
const DEPTH_MAX: usize = 8;
/// What stands for a secret.
const HIDDEN: &str = "[hidden]";
/// What stands for the rest.
const REST: &str = "[...]";
/// Parts of names under which secrets stand.
const SECRET_NAMES: [&str; 10] = [
    "secret",
    "password",
    "passwd",
    "passphrase",
    "token",
    "apikey",
    "credential",
    "authorization",
    "cookie",
    "privatekey",
];
/// How secrets begin that carry their kind with them: ours, and others'.
const SECRET_WORDS: [&str; 9] = [
    "regrow_",
    "sk-",
    "ghp_",
    "gho_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "AKIA",
    "eyJ",
];
/// Shortest word that may be a secret of one of these kinds.
const SECRET_CHARS_MIN: usize = 16;

/// The body as it may be kept; `None` when there is none.
pub(crate) fn masked(body: &[u8]) -> Option<Value> {
    let body = body.trim_ascii();
    if body.is_empty() {
        return None;
    }
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return Some(format!("[{} bytes that are not JSON]", body.len()).into());
    };
    let mut left = BYTES_MAX;
    Some(kept(value, 0, false, &mut left))
}

fn kept(value: Value, depth: usize, secret: bool, left: &mut usize) -> Value {
    // As much as the shortest of values takes.
    *left = left.saturating_sub(4);
    if *left == 0 || DEPTH_MAX < depth {
        return REST.into();
    }
    match value {
        Value::String(_) if secret => HIDDEN.into(),
        Value::String(text) => {
            let text = shortened(&text);
            *left = left.saturating_sub(text.len());
            text.into()
        }
        Value::Array(values) => {
            let mut all = Vec::new();
            for value in values {
                if *left == 0 {
                    all.push(REST.into());
                    break;
                }
                all.push(kept(value, depth + 1, secret, left));
            }
            all.into()
        }
        Value::Object(members) => {
            let mut all = Map::new();
            for (name, value) in members {
                if *left == 0 {
                    all.insert(REST.to_owned(), Value::Null);
                    break;
                }
                let secret = secret || is_secret(&name);
                let name = shortened(&name);
                *left = left.saturating_sub(name.len());
                all.insert(name, kept(value, depth + 1, secret, left));
            }
            all.into()
        }
        Value::Number(number) => {
            *left = left.saturating_sub(number.to_string().len());
            Value::Number(number)
        }
        plain @ (Value::Null | Value::Bool(_)) => plain,
    }
}

fn is_secret(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let plain = letters.collect::<String>().to_ascii_lowercase();
    SECRET_NAMES.iter().any(|secret| plain.contains(secret))
}

/// The text without secrets, and cut short.
fn shortened(text: &str) -> String {
    let clean = without_secrets(text);
    let mut short: String = clean.chars().take(TEXT_MAX).collect();
    if short.len() < clean.len() {
        short.push_str(REST);
    }
    short
}

fn without_secrets(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut after_bearer = false;
    // Words end where neither tokens nor addresses go on; what separates them stays.
    for part in text.split_inclusive(|c: char| c.is_whitespace() || "\"'`,;()<>{}".contains(c)) {
        let word = part.trim_end_matches(|c: char| c.is_whitespace() || "\"'`,;()<>{}".contains(c));
        let end = &part[word.len()..];
        if after_bearer && !word.is_empty() {
            clean.push_str(HIDDEN);
        } else {
            clean.push_str(&without_secret(word));
        }
        clean.push_str(end);
        let scheme = ["bearer", "basic"]
            .iter()
            .any(|it| word.eq_ignore_ascii_case(it));
        after_bearer = scheme || (after_bearer && word.is_empty());
    }
    clean
}

fn without_secret(word: &str) -> String {
    // `task-` ends like a key of another begins; ours is like nothing else.
    let begins = |at: usize| {
        let before = word[..at].chars().next_back();
        let is_start = before.is_none_or(|c| !c.is_alphanumeric());
        let (ours, others) = SECRET_WORDS.split_at(1);
        let found = |secrets: &[&str]| secrets.iter().any(|it| word[at..].starts_with(it));
        found(ours) || (is_start && found(others))
    };
    if SECRET_CHARS_MIN <= word.len()
        && let Some((at, _)) = word.char_indices().find(|(at, _)| begins(*at))
    {
        return format!("{}{HIDDEN}", &word[..at]);
    }
    let Some((scheme, rest)) = word.split_once("://") else {
        return word.to_owned();
    };
    let rest = match rest.rsplit_once('@') {
        Some((_, host)) => format!("{HIDDEN}@{host}"),
        None => rest.to_owned(),
    };
    // Databases take passwords as parameters as well.
    let Some((address, query)) = rest.split_once('?') else {
        return format!("{scheme}://{rest}");
    };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}={HIDDEN}"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{scheme}://{address}?{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regrow_runtime::access::secret::Secret;
    use serde_json::json;

    use super::*;

    fn kept(body: &Value) -> Value {
        masked(body.to_string().as_bytes()).expect("a body")
    }

    #[test]
    fn what_says_something_is_kept_and_secrets_are_not() {
        let secret = Secret::generate();
        let body = json!({
            "max_size": 7,
            "limits": { "tokens": 1000, "usd": 2.5 },
            "token": secret.reveal(),
            "api_key": ["one", { "two": "three" }],
            "note": format!("use {} or Bearer abc, then", secret.reveal()),
            "kinds": ["task-of-the-longest-name", "key=sk-0123456789abcdef"],
            "to": "postgres://regrow:s3cret@db.example:5432/x?sslmode=require&password=s3cret",
            "config": { "Db-Password": "s3cret", "pause": null, "on": true },
        });
        assert_eq!(
            kept(&body),
            json!({
                "max_size": 7,
                "limits": { "tokens": 1000, "usd": 2.5 },
                "token": "[hidden]",
                "api_key": ["[hidden]", { "two": "[hidden]" }],
                "note": "use [hidden] or Bearer [hidden], then",
                "kinds": ["task-of-the-longest-name", "key=[hidden]"],
                "to": "postgres://[hidden]@db.example:5432/x?sslmode=require&password=[hidden]",
                "config": { "Db-Password": "[hidden]", "pause": null, "on": true },
            })
        );
        assert_eq!(masked(b" \n"), None);
        assert_eq!(
            masked(b"{\"token\": \"x"),
            Some(json!("[12 bytes that are not JSON]"))
        );
        let key = json!({ secret.reveal(): 1 });
        assert_eq!(kept(&key), json!({ "[hidden]": 1 }));
    }

    #[test]
    fn a_large_body_is_cut_short_and_says_so() {
        let many: Vec<String> = (0..10_000).map(|n| format!("name-{n}")).collect();
        let long = json!({ "text": "x".repeat(100_000), "names": many });
        let found = kept(&long).to_string();
        assert!(found.len() < 4 * BYTES_MAX, "{}", found.len());
        assert!(found.contains(REST) && found.contains("name-5"), "{found}");
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        assert!(kept(&deep).to_string().contains(REST));
    }

    /// Any JSON with a token somewhere in its texts.
    fn documents(secret: String) -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "\\PC{0,12}".prop_map(Value::from),
            Just(Value::from(secret.clone())),
            "[a-z :=(/]{0,8}".prop_map(move |before| format!("{before}{secret} end").into()),
            any::<i64>().prop_map(Value::from),
        ];
        text.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("\\PC{0,12}", inner, 0..6)
                    .prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    fn with_secret() -> impl Strategy<Value = (String, Value)> {
        "regrow_[0-9A-Za-z]{49}".prop_flat_map(|secret| {
            let documents = documents(secret.clone());
            documents.prop_map(move |body| (secret.clone(), body))
        })
    }

    proptest! {
        #[test]
        fn no_token_of_ours_is_kept_and_the_rest_is_short((secret, body) in with_secret()) {
            let found = kept(&body).to_string();
            prop_assert!(!found.contains(&secret), "{found}");
            prop_assert!(found.len() < 16 * BYTES_MAX, "{} bytes", found.len());
        }

        #[test]
        fn any_bytes_at_all_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = masked(&bytes);
        }
    }
}
