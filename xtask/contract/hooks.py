"""What Schemathesis cannot know by the document alone.

Nobody waits a minute for a lease that never comes, and no submission is the repetition of another.
Calls about a lease or a task are mostly about one that exists: made for the call, so that it is
not answered with 404 alone. Which operations were answered with success is written down.
"""

import json
import os
import urllib.error
import urllib.request
import uuid

import schemathesis

WAIT_MS_MAX = 60_000
SHORT_MS = 50
KIND = "contract"
# Of so many calls about something, one is about whatever was made up.
MADE_UP = 4
STEP = "made"

URL = os.environ["REGROW_CONTRACT_URL"]
TOKEN = os.environ.get("REGROW_CONTRACT_TOKEN")

calls = 0


def ask(path, body, method="POST"):
    """What the node answers; None unless it is success."""
    headers = {"content-type": "application/json"}
    if TOKEN:
        headers["authorization"] = f"Bearer {TOKEN}"
    data = json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError:
        # The queue may be full, paused or draining by what was called before.
        return None


def open_queue():
    """Undoes what other calls did to the queue."""
    ask("/v1/queue/resume", {})
    ask("/v1/queue/max_size", {"max_size": 100_000}, "PUT")


def task():
    """The id of a task that waits."""
    for _ in range(2):
        made = ask("/v1/tasks", {"kind": KIND, "payload": 1})
        if made:
            return made["id"]
        open_queue()
    return None


def lease():
    """A task that was leased for this call, and its epoch."""
    for _ in range(2):
        ask("/v1/tasks", {"kind": KIND, "payload": 1})
        claim = {"kinds": [KIND], "max": 1, "lease_ms": 600_000, "wait_ms": SHORT_MS}
        given = ask("/v1/leases", claim)
        if given:
            return given[0]["task"]["id"], given[0]["epoch"]
        open_queue()
    return None, None


def is_id(text):
    try:
        return str(uuid.UUID(str(text))) == str(text).lower()
    except ValueError:
        return False


def exists(case):
    """Puts something that exists in the place of an id that nobody has."""
    path, parameters = case.operation.path, case.path_parameters or {}
    if not is_id(parameters.get("id")):
        # What the document forbids stays as it is.
        return
    global calls
    calls += 1
    if calls % MADE_UP == 0:
        return
    if path.startswith("/v1/leases/{id}"):
        found, epoch = lease()
        body = case.body
        if found and isinstance(body, dict) and isinstance(body.get("epoch"), int):
            body["epoch"] = epoch
    elif path.startswith("/v1/tasks/{id}"):
        found, epoch = (lease() if "steps" in path else (task(), None))
    else:
        return
    if not found:
        return
    parameters["id"] = found
    if "{key}" in path:
        ask(f"/v1/leases/{found}/steps", {"epoch": epoch, "key": STEP, "output": 1})
        parameters["key"] = STEP
    if "epoch" in (case.query or {}) and isinstance(case.query["epoch"], int):
        case.query["epoch"] = epoch


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
    exists(case)


@schemathesis.hook
def after_call(context, case, response):
    line = f"{response.status_code} {case.operation.method.upper()} {case.operation.path}\n"
    with open("answered.txt", "a") as answered:
        answered.write(line)
