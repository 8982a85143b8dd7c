#!/usr/bin/env python3
"""A Regrow worker in Python's standard library: counts the words of a file, `{"path": ...}`.

    REGROW_URL=http://127.0.0.1:7400 python3 worker.py

Where the node has tokens, REGROW_TOKEN holds one with the scope `work`.
"""
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request

NODE = os.environ.get("REGROW_URL", "http://127.0.0.1:7400")
TOKEN = os.environ.get("REGROW_TOKEN")
NAME = f"python-{os.getpid()}"
LEASE_MS = int(os.environ.get("LEASE_MS", "10000"))
stopping = threading.Event()


class Refused(Exception):
    """The node's answer is final, such as `stale_epoch`: the task is no longer ours."""


def call(path, patience=60.0, **body):
    """Posts, and repeats what is safe to repeat: every call carries its lease's epoch."""
    until = time.monotonic() + patience
    headers = {"Content-Type": "application/json"}
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    while True:
        request = urllib.request.Request(NODE + path, json.dumps(body).encode(), headers)
        pause = 0.5
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            problem = error.read().decode(errors="replace")
            if error.code not in (429, 503):
                raise Refused(f"{path}: {problem}") from None
            pause = min(float(error.headers.get("Retry-After") or pause), 5.0)
        except OSError as error:  # the node is away: it may be restarting
            problem = str(error)
        if until < time.monotonic() + pause:
            raise Refused(f"{path}: no answer within {patience:.0f} s, at last: {problem}")
        time.sleep(pause)


def keep(lease, lost, done):
    """Renews the lease until the work is done, or sets `lost` when it must stop."""
    path = f"/v1/leases/{lease['task']['id']}/heartbeat"
    while not done.wait(LEASE_MS / 3000):
        try:
            renewed = call(path, LEASE_MS / 1000, epoch=lease["epoch"], lease_ms=LEASE_MS)
        except Refused:
            return lost.set()
        if renewed["cancel_requested"]:
            return lost.set()


def count_words(payload, lost):
    """The work itself. It looks at `lost` often enough to stop when it is called off."""
    lines = words = 0
    with open(payload["path"], encoding="utf-8", errors="replace") as file:
        for line in file:
            if lost.is_set():
                raise InterruptedError("called off, or the lease was lost")
            lines, words = lines + 1, words + len(line.split())
    return {"lines": lines, "words": words, "by": NAME}


def run(lease):
    lost, done = threading.Event(), threading.Event()
    keeper = threading.Thread(target=keep, args=(lease, lost, done), daemon=True)
    keeper.start()
    path, epoch = f"/v1/leases/{lease['task']['id']}", lease["epoch"]
    try:
        result = count_words(lease["task"]["payload"], lost)
        call(path + "/complete", epoch=epoch, result=result)
    except Refused as refusal:
        print(f"{NAME}: not ours any more: {refusal}", flush=True)
    except Exception as error:  # whatever the work did wrong is the task's failure
        call(path + "/fail", epoch=epoch, error=f"{type(error).__name__}: {error}")
    finally:
        done.set()


def main():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    print(f"{NAME}: asks {NODE} for work", flush=True)
    while not stopping.is_set():
        for lease in call("/v1/leases", float("inf"), kinds=["count-words"], worker=NAME,
                          wait_ms=5000, lease_ms=LEASE_MS):
            try:
                run(lease)
            except Refused as refusal:
                print(f"{NAME}: {refusal}", flush=True)


main()
