// pg-boss, tuned for a backlog: four workers with batches of 200 that fetch again at once
// while a batch came back full. It keeps completed jobs.

import { PgBoss } from "pg-boss";
import { Tally, batch, batches, durability, one, orders, payload, pool, report, single, stored } from "./tally.mjs";

const queue = "noop";
const db = pool(2);
const boss = new PgBoss({ connectionString: orders.url, max: 20, supervise: false, schedule: false });
boss.on("error", (error) => console.error(error));
await boss.start();
await boss.createQueue(queue);
const add = (numbers) => boss.insert(queue, numbers.map((n) => ({ data: payload(n) })));

const outcome = { durability: await durability(db) };
if (orders.workload === "drain") {
  for (const numbers of batches(orders.tasks, 500)) await add(numbers);
  await db.query("VACUUM ANALYZE");
  const tally = new Tally();
  await boss.work(
    queue,
    { batchSize: 200, localConcurrency: 4, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 },
    async (jobs) => {
      for (const job of jobs) tally.ran(job.data.n);
    },
  );
  const open = async () =>
    (await one(db, "SELECT count(*) AS open FROM pgboss.job WHERE state < 'completed' AND name = 'noop'")).open;
  Object.assign(outcome, await tally.drained(open));
  await boss.offWork(queue);
  Object.assign(outcome, tally.verdict(outcome.unfinished), {
    batch: 200,
    tuning: "batchSize 200, localConcurrency 4, burstWhenBatchFull",
  });
} else {
  const submitted =
    orders.workload === "single" ? await single((n) => boss.send(queue, payload(n))) : await batch(add);
  const held = await one(
    db,
    "SELECT count(*) AS rows, count(DISTINCT data->>'n') AS distinct FROM pgboss.job WHERE name = 'noop'",
  );
  Object.assign(outcome, submitted, stored(submitted.tasks, held), {
    batch: orders.workload === "single" ? 1 : orders.batch,
    tuning: orders.workload === "single" ? "send, pool of 20" : "insert",
  });
}
report("pg-boss", outcome);
await boss.stop({ graceful: true, timeout: 5000 });
await db.end();
