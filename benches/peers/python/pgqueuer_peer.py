"""pgqueuer on asyncpg and uvloop: two queue managers with batches of 200, as in its own
benchmark. It moves finished jobs out of the queue into its log."""

import asyncio
import json
import logging
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer.db import AsyncpgDriver
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from tally import ORDERS, Tally, batch, batches, payload, report, single, stored

MANAGERS, BATCH = 2, 200


async def connect():
    return AsyncpgDriver(await asyncpg.connect(ORDERS["url"]))


async def main():
    logging.getLogger("pgqueuer").setLevel(logging.ERROR)
    control = await asyncpg.connect(ORDERS["url"])
    queries = Queries(AsyncpgDriver(control))
    await queries.install()

    async def add(numbers, to=queries):
        count = len(numbers)
        await to.enqueue(["noop"] * count, [payload(n) for n in numbers], [0] * count)

    settings = [await control.fetchval(f"SHOW {name}") for name in ("synchronous_commit", "fsync")]
    outcome = {"durability": "synchronous_commit={}, fsync={}".format(*settings)}
    if ORDERS["workload"] == "drain":
        for numbers in batches(ORDERS["tasks"], 500):
            await add(numbers)
        await control.execute("VACUUM ANALYZE")
        tally = Tally()
        managers = [QueueManager(Queries(await connect())) for _ in range(MANAGERS)]

        async def noop(job):
            tally.ran(json.loads(job.payload)["n"])

        for manager in managers:
            manager.entrypoint("noop")(noop)
        running = [
            asyncio.create_task(
                manager.run(batch_size=BATCH, dequeue_timeout=timedelta(seconds=1))
            )
            for manager in managers
        ]

        async def unfinished():
            return await control.fetchval("SELECT count(*) FROM pgqueuer")

        outcome |= await tally.drained(unfinished)
        for manager in managers:
            manager.shutdown.set()
        await asyncio.gather(*running)
        outcome |= tally.verdict(outcome["unfinished"])
        outcome |= {
            "batch": BATCH,
            "tuning": f"{MANAGERS} queue managers, batch_size {BATCH}, uvloop",
        }
    else:
        if ORDERS["workload"] == "single":
            drivers = [Queries(await connect()) for _ in range(ORDERS["callers"])]
            callers = [lambda n, to=to: to.enqueue("noop", payload(n)) for to in drivers]
            submitted = await single(callers)
            outcome |= {"batch": 1, "tuning": "enqueue, a connection per caller, uvloop"}
        else:
            submitted = await batch(add)
            outcome |= {"batch": ORDERS["batch"], "tuning": "enqueue of lists, uvloop"}
        held = await control.fetchrow(
            "SELECT count(*) AS rows, count(DISTINCT convert_from(payload, 'UTF8')::jsonb->>'n')"
            ' AS "distinct" FROM pgqueuer'
        )
        outcome |= submitted | stored(submitted["tasks"], held["rows"], held["distinct"])
    report("pgqueuer", outcome)


uvloop.run(main())
