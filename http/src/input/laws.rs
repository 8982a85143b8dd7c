//! Bodies, paths and headers of strangers: whatever comes is read or refused, never a panic.

use axum::http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::approval::ApprovalId;
use regrow_runtime::queue::budget::Scope;
use serde_json::{Map, Value};

use super::{Fields, OneOrMany};
use crate::amounts::{amounts, cost, limits};
use crate::routes::events::last_event_id;
use crate::routes::steps::offered;
use crate::routes::submit::task;

/// Any JSON, some of it extreme.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(Value::from(1e308)),
        any::<String>().prop_map(Value::from),
        "[0-9TZ:.+-]{0,30}".prop_map(Value::from),
        "[a-z0-9._-]{0,70}".prop_map(Value::from),
        Just(Value::from("normal")),
        Just(Value::from("2026-11-21T00:00:00Z")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{0,8}", inner, 0..4)
                .prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}

/// An object with the fields of a task, each of any form.
fn submission() -> impl Strategy<Value = Value> {
    let names = prop::sample::subsequence(
        vec![
            "kind",
            "payload",
            "goal",
            "priority",
            "class",
            "tenant",
            "idempotency_key",
            "run_at",
            "deadline_ms",
            "max_attempts",
            "depends_on",
            "expires_at",
            "expires_ms",
            "concurrency_key",
            "rate_key",
            "needs",
            "budget",
            "requires_approval",
            "on_child_failure",
            "stranger",
        ],
        0..20,
    );
    (names, prop::collection::vec(json(), 20)).prop_map(|(names, values)| {
        let pairs = names.into_iter().map(str::to_owned).zip(values);
        Value::Object(pairs.collect::<Map<_, _>>())
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_as_a_body_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(fields) = Fields::parse(&bytes) {
            let _ = fields.finish();
        }
        let _ = OneOrMany::parse(&bytes);
    }

    #[test]
    fn a_body_that_was_cut_or_changed_is_read_or_refused(
        body in submission(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = body.to_string().into_bytes();
        let at = at.index(bytes.len());
        let _ = OneOrMany::parse(&bytes[..at]);
        bytes[at] = byte;
        let _ = OneOrMany::parse(&bytes);
    }

    #[test]
    fn any_submission_is_a_task_or_says_all_that_is_wrong_with_it(body in submission()) {
        let Ok(mut fields) = Fields::parse(body.to_string().as_bytes()) else {
            // A number that JSON writes and nobody reads back.
            return Ok(());
        };
        let task = task(&mut fields, Timestamp(1_000));
        let stranger = body.get("stranger").is_some();
        match fields.finish() {
            Ok(()) => prop_assert!(!stranger, "nobody knows that field: {task:?}"),
            Err(refusal) => prop_assert!(!refusal.to_string().is_empty()),
        }
    }

    #[test]
    fn any_amounts_are_bounded_or_refused(body in json()) {
        let text = serde_json::json!({ "cost": body, "step": body, "grant": body }).to_string();
        let Ok(mut fields) = Fields::parse(text.as_bytes()) else {
            return Ok(());
        };
        let _ = (cost(&mut fields, "cost"), amounts(&mut fields, "grant"));
        let _ = fields.nested("step", |fields| (offered(fields), limits(fields)));
        let _ = fields.finish();
    }

    #[test]
    fn any_path_names_what_it_says_or_nothing(text in any::<String>()) {
        if let Ok(id) = text.parse::<TaskId>() {
            prop_assert_eq!(id.to_string().parse::<TaskId>().expect("its own text"), id);
        }
        if let Ok(id) = text.parse::<ApprovalId>() {
            prop_assert_eq!(id.to_string().parse::<ApprovalId>().expect("its own text"), id);
        }
        for text in [text.clone(), format!("tenant:{text}"), format!("task:{text}")] {
            if let Ok(scope) = text.parse::<Scope>() {
                prop_assert_eq!(scope.to_string().parse::<Scope>().expect("its own text"), scope);
            }
        }
    }

    #[test]
    fn a_stream_is_resumed_behind_a_number_or_not_at_all(
        line in prop::collection::vec(0x20_u8..0xff, 0..30),
        number in any::<u64>(),
    ) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&line) {
            headers.insert("last-event-id", value);
            let _ = last_event_id(&headers);
        }
        headers.insert("last-event-id", HeaderValue::from(number));
        prop_assert_eq!(last_event_id(&headers).expect("a number"), Some(number));
    }
}
