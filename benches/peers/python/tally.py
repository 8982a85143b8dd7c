"""What the Python peers share: their orders, the count of executions, the report.

The same as rust/tally/src/lib.rs and node/tally.mjs.
"""

import asyncio
import json
import os
import time
from importlib.metadata import version

ORDERS = json.loads(os.environ["PEER_ORDERS"])


def payload(n):
    """A JSON object of `payload_bytes` bytes that carries the task's number."""
    bare = len(json.dumps({"n": n, "text": ""}, separators=(",", ":")))
    text = "x" * max(0, ORDERS["payload_bytes"] - bare)
    return json.dumps({"n": n, "text": text}, separators=(",", ":")).encode()


def batches(total, size):
    for first in range(0, total, size):
        yield range(first, min(total, first + size))


class Tally:
    """Counts executions by task. The clock starts with the first."""

    def __init__(self):
        self.counts = [0] * ORDERS["tasks"]
        self.distinct = 0
        self.started = None

    def ran(self, n):
        if self.started is None:
            self.started = time.perf_counter()
        if self.counts[n] == 0:
            self.distinct += 1
        self.counts[n] += 1

    async def drained(self, unfinished):
        """Waits until every task ran and `unfinished` (in the store) answers 0."""
        limit = time.perf_counter() + ORDERS["limit_seconds"]
        while self.distinct < ORDERS["tasks"] and time.perf_counter() < limit:
            await asyncio.sleep(0.002)
        left = await unfinished()
        while left > 0 and time.perf_counter() < limit:
            await asyncio.sleep(0.002)
            left = await unfinished()
        seconds = time.perf_counter() - (self.started or limit)
        return {"tasks": ORDERS["tasks"] - left, "unfinished": left, "seconds": seconds}

    def verdict(self, unfinished):
        """To be asked after the workers have stopped."""
        ran = sum(1 for count in self.counts if count > 0)
        doubled = sum(max(0, count - 1) for count in self.counts)
        return {"lost": max(0, ORDERS["tasks"] - unfinished - ran), "doubled": doubled}


async def single(callers):
    """One closed loop per caller; each awaits that its task is durable."""
    started = time.perf_counter()
    until = started + ORDERS["seconds"]
    submitted = 0

    async def loop(submit):
        nonlocal submitted
        while time.perf_counter() < until:
            n = submitted
            submitted += 1
            await submit(n)

    await asyncio.gather(*(loop(submit) for submit in callers))
    return {"tasks": submitted, "seconds": time.perf_counter() - started}


async def batch(submit):
    """One caller, one call of `submit` per batch."""
    started = time.perf_counter()
    for numbers in batches(ORDERS["tasks"], ORDERS["batch"]):
        await submit(numbers)
    return {"tasks": ORDERS["tasks"], "seconds": time.perf_counter() - started}


def stored(acknowledged, rows, distinct):
    """What the store holds against what was acknowledged."""
    return {"lost": max(0, acknowledged - distinct), "doubled": max(0, rows - distinct)}


def report(name, fields):
    print(json.dumps({"version": version(name), "unfinished": 0, **fields}), flush=True)
