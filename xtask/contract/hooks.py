"""Nobody waits a minute for a lease that never comes, and no submission is the repetition of another."""

import uuid

import schemathesis

WAIT_MS_MAX = 60_000
SHORT_MS = 50


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    wait = body.get("wait_ms") if isinstance(body, dict) else None
    # What the document forbids stays as it is.
    if isinstance(wait, int) and SHORT_MS < wait <= WAIT_MS_MAX:
        body["wait_ms"] = SHORT_MS
    # A repetition is answered with the first, whatever else it says.
    key = body.get("idempotency_key") if isinstance(body, dict) else None
    if isinstance(key, str) and 1 <= len(key) < 36:
        body["idempotency_key"] = str(uuid.uuid4())
