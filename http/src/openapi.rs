//! The document of the surface (OpenAPI 3.1), from the same registration as its routes.
//!
//! Handlers say their parameters, bodies, answers and the problems that are their own; what holds
//! for many is added here: who may call (from the table that lets callers in), the problems that
//! every route can answer, request ids. A body with a field that is not named is refused.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Bytes;
use axum::http::{HeaderValue, Method};
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use crate::auth::needs::{self, Need};
use crate::error::Code;

/// The methods that an operation may have.
const METHODS: [&str; 4] = ["get", "post", "put", "delete"];
/// Problems of whoever calls any route.
const EVERYWHERE: [Code; 5] = [
    Code::InvalidParameter,
    Code::WrongHost,
    Code::Overloaded,
    Code::TimedOut,
    Code::Internal,
];
/// Of routes that need a token.
const GUARDED: [Code; 5] = [
    Code::TokenRequired,
    Code::TokenRefused,
    Code::BehindProxy,
    Code::TooManyAttempts,
    Code::StoreUnavailable,
];
/// Of requests that change something.
const CHANGING: [Code; 5] = [
    Code::CrossOrigin,
    Code::CsrfRefused,
    Code::Stopping,
    Code::DiskFull,
    Code::BodyTooSlow,
];
/// Of whatever reads a body, be it one that should be empty.
const WITH_BODY: [Code; 4] = [
    Code::InvalidJson,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
];

/// The document as it is served.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// Its JSON.
    pub(crate) text: Bytes,
    /// Changes when it does.
    pub(crate) etag: HeaderValue,
}

impl Document {
    /// Of what was registered.
    pub(crate) fn of(registered: &OpenApi) -> Self {
        let text = completed(registered).to_string();
        let etag = crate::revalidate::etag(text.as_bytes());
        Self {
            text: text.into(),
            etag,
        }
    }
}

/// The registered operations with what holds for many of them.
pub(crate) fn completed(registered: &OpenApi) -> Value {
    let mut document = serde_json::to_value(registered).unwrap_or_default();
    document["openapi"] = "3.1.0".into();
    document["info"] = json!({
        "title": "Regrow",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Supervised agents over a durable, leased queue. Failures are \
            `application/problem+json` with a stable `code`; docs/errors explains each.",
        "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
    });
    document["servers"] = json!([{ "url": "/" }]);
    document["components"]["securitySchemes"] = json!({
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "`regrow_...`, as `regrow token create` makes one. A node without any \
                listens to its own machine alone, and to everybody there.",
        },
        "session": {
            "type": "apiKey", "in": "cookie", "name": "regrow_session_7400",
            "description": "What `POST /session` gives a browser; the node's port is in its name.",
        },
        "csrf": {
            "type": "apiKey", "in": "header", "name": "x-csrf-token",
            "description": "Beside a session, for whatever changes something.",
        },
    });
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, item) in paths {
            for method in METHODS {
                if let Some(operation) = item.get_mut(method).and_then(Value::as_object_mut) {
                    complete(operation, method, path);
                }
            }
        }
    }
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        for (name, schema) in schemas {
            let is_object = schema.get("properties").is_some();
            if name.ends_with("Body") && is_object {
                schema["additionalProperties"] = false.into();
            }
        }
    }
    document
}

fn complete(operation: &mut Map<String, Value>, method: &str, path: &str) {
    let upper = method.to_uppercase();
    let verb = Method::from_bytes(upper.as_bytes()).unwrap_or_default();
    let need = needs::of(&verb, path).unwrap_or(Need::Token);
    // Comments begin with the route, for whoever reads the code.
    for member in ["summary", "description"] {
        if let Some(Value::String(text)) = operation.get_mut(member) {
            *text = without_route(text);
        }
    }
    operation.insert("operationId".into(), named(method, path).into());
    let security = match need {
        Need::Nothing => json!([]),
        Need::ReadFromAfar => json!([{}, { "token": [] }, { "session": [] }]),
        Need::Token | Need::Scope(_) if verb.is_safe() => {
            json!([{ "token": [] }, { "session": [] }])
        }
        Need::Token | Need::Scope(_) => json!([{ "token": [] }, { "session": [], "csrf": [] }]),
    };
    operation.insert("security".into(), security);
    operation.insert("x-regrow-scope".into(), needs::words(need).into());

    let mut codes: Vec<Code> = EVERYWHERE.to_vec();
    if need != Need::Nothing {
        codes.extend(GUARDED);
    }
    if matches!(need, Need::Scope(_) | Need::ReadFromAfar) {
        codes.push(Code::MissingScope);
    }
    if !verb.is_safe() {
        codes.extend(CHANGING);
        codes.extend(WITH_BODY);
    }
    if path.contains('{') {
        codes.push(Code::NotFound);
    }
    let own = operation.remove("x-regrow-codes").unwrap_or_default();
    let own = own.as_array().into_iter().flatten();
    let own = own.filter_map(|code| Code::ALL.into_iter().find(|it| it.as_str() == code));
    codes.extend(own);
    let names: BTreeSet<&str> = codes.iter().map(|code| code.as_str()).collect();
    operation.insert("x-regrow-codes".into(), json!(names));
    let mut by_status: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    for code in codes {
        let (name, status, title) = code.facts();
        let line = format!("`{name}`: {title}");
        by_status.entry(status.as_u16()).or_default().insert(line);
    }
    let responses = operation.entry("responses").or_insert_with(|| json!({}));
    let Some(responses) = responses.as_object_mut() else {
        return;
    };
    for (status, lines) in by_status {
        let lines: Vec<String> = lines.into_iter().collect();
        let answer = responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "description": lines.join("; ") }));
        answer["content"]["application/problem+json"]["schema"] =
            json!({ "$ref": "#/components/schemas/Problem" });
    }
    for answer in responses.values_mut() {
        answer["headers"]["x-request-id"] = json!({
            "description": "the id that the request came with, or was given",
            "schema": { "type": "string" },
        });
    }
}

/// What generated clients call an operation: `get_tasks_id` for `GET /v1/tasks/{id}`.
fn named(method: &str, path: &str) -> String {
    let plain = path.trim_start_matches("/v1").replace(['{', '}', '.'], "");
    let end = if path.ends_with('/') { "page" } else { "" };
    format!("{method}{}{end}", plain.replace('/', "_"))
}

/// A comment without the route that it begins with.
fn without_route(text: &str) -> String {
    let Some(rest) = text.strip_prefix('`') else {
        return text.to_owned();
    };
    let Some((route, rest)) = rest.split_once('`') else {
        return text.to_owned();
    };
    if !METHODS
        .iter()
        .any(|method| route.to_lowercase().starts_with(method))
    {
        return text.to_owned();
    }
    let rest = rest.trim_start_matches(':').trim();
    match rest.is_empty() {
        true => route.to_owned(),
        false => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        serde_json::from_str(&crate::openapi()).expect("JSON")
    }

    /// Every operation: method, path, and what is said of it.
    fn operations(document: &Value) -> Vec<(String, String, Value)> {
        let mut all = Vec::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                all.push((method.to_uppercase(), path.clone(), operation.clone()));
            }
        }
        all
    }

    #[test]
    fn every_route_is_in_the_document_and_nothing_else_is() {
        let document = document();
        let written: BTreeSet<(String, String)> = operations(&document)
            .into_iter()
            .map(|(method, path, _)| (method, path))
            .collect();
        // Pages have a table of their own.
        let known: BTreeSet<(String, String)> = needs::all()
            .map(|(method, path)| (method.to_owned(), path.to_owned()))
            .collect();
        let missing: Vec<_> = known.difference(&written).collect();
        assert!(missing.is_empty(), "not in the document: {missing:?}");
        let invented: Vec<_> = written.difference(&known).collect();
        assert!(
            invented.is_empty(),
            "nobody says what they need: {invented:?}"
        );
        assert!(80 < written.len(), "{}", written.len());
    }

    #[test]
    fn every_operation_says_what_it_is_who_may_and_how_it_fails() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (method, path, operation) in operations(&document) {
            let place = format!("{method} {path}");
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id.to_owned()), "{place}: {id} is another's");
            let summary = operation["summary"].as_str().unwrap_or_default();
            assert!(!summary.is_empty(), "{place} says nothing");
            assert!(operation["x-regrow-scope"].is_string(), "{place}");
            let responses = operation["responses"].as_object().expect("answers");
            let good = |status: &String| status.starts_with('2') || status.starts_with('3');
            assert!(responses.keys().any(good), "{place} never succeeds");
            for (status, answer) in responses {
                let described = answer["description"].as_str().unwrap_or_default();
                assert!(!described.is_empty(), "{place}: {status}");
            }
            // Each part of the path is described.
            let named: BTreeSet<&str> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|it| it["in"] == "path")
                .filter_map(|it| it["name"].as_str())
                .collect();
            let parts = path.split('/').filter_map(|part| part.strip_prefix('{'));
            let parts: BTreeSet<&str> = parts.filter_map(|it| it.strip_suffix('}')).collect();
            assert_eq!(named, parts, "{place}");
        }
    }

    #[test]
    fn every_code_that_an_operation_names_exists_and_every_reference_leads_somewhere() {
        let document = document();
        for (method, path, operation) in operations(&document) {
            for code in operation["x-regrow-codes"].as_array().expect("codes") {
                let known = Code::ALL.iter().find(|it| it.as_str() == code);
                let status = known.expect("a code").status().as_u16().to_string();
                let told = operation["responses"].get(&status);
                assert!(told.is_some(), "{method} {path}: {code}");
            }
        }
        let text = document.to_string();
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().expect("a pointer");
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn codes_that_handlers_name_are_none_that_nobody_knows() {
        // What is not known is left out of the document; here it is found in the source.
        for entry in
            std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/routes")).expect("routes")
        {
            let path = entry.expect("an entry").path();
            let source = std::fs::read_to_string(&path).expect("source");
            for part in source.split("\"x-regrow-codes\" = json!([").skip(1) {
                let list = part.split("])").next().expect("a list");
                for code in list.split('"').skip(1).step_by(2) {
                    let known = Code::ALL.iter().any(|it| it.as_str() == code);
                    assert!(known, "{}: {code}", path.display());
                }
            }
        }
    }

    #[test]
    fn a_comment_loses_the_route_that_it_begins_with_and_nothing_else() {
        for (text, expected) in [
            ("`GET /v1/tasks`: newest first.", "newest first."),
            ("`GET /v1/queue`", "GET /v1/queue"),
            ("`null` when nobody has.", "`null` when nobody has."),
            (
                "What was accepted is durable",
                "What was accepted is durable",
            ),
        ] {
            assert_eq!(without_route(text), expected);
        }
    }
}
