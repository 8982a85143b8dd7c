// graphile-worker, tuned as its manual's page on performance says for no-op jobs: a local
// queue filled in batches and completions written in batches. It deletes finished jobs.

import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { Tally, batch, batches, durability, one, orders, payload, pool, report, single, stored } from "./tally.mjs";

const logger = new Logger(() => (level, message) => {
  if (level === "error" || level === "warning") console.error(message);
});
const db = pool(orders.callers);
db.on("error", (error) => console.error(error));
const utils = await makeWorkerUtils({ pgPool: db, logger });
await utils.migrate();
const add = (numbers) =>
  utils.addJobs(numbers.map((n) => ({ identifier: "noop", payload: payload(n) })));

const outcome = { durability: await durability(db) };
if (orders.workload === "drain") {
  for (const numbers of batches(orders.tasks, 500)) await add(numbers);
  await db.query("VACUUM ANALYZE");
  const concurrency = 24;
  const tally = new Tally();
  const runner = await run({
    taskList: { noop: async ({ n }) => tally.ran(n) },
    noHandleSignals: true,
    preset: {
      worker: {
        connectionString: orders.url,
        maxPoolSize: concurrency + 2,
        concurrentJobs: concurrency,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        logger,
      },
    },
  });
  const open = async () =>
    (await one(db, "SELECT count(*) AS open FROM graphile_worker._private_jobs")).open;
  Object.assign(outcome, await tally.drained(open));
  await runner.stop();
  Object.assign(outcome, tally.verdict(outcome.unfinished), {
    batch: 500,
    tuning: "concurrentJobs 24, localQueue 500, completeJobBatchDelay 0",
  });
} else {
  const submitted =
    orders.workload === "single"
      ? await single((n) => utils.addJob("noop", payload(n)))
      : await batch(add);
  const held = await one(
    db,
    "SELECT count(*) AS rows, count(DISTINCT payload->>'n') AS distinct FROM graphile_worker._private_jobs",
  );
  Object.assign(outcome, submitted, stored(submitted.tasks, held), {
    batch: orders.workload === "single" ? 1 : orders.batch,
    tuning: orders.workload === "single" ? `addJob, pool of ${orders.callers}` : "addJobs",
  });
}
report("graphile-worker", outcome);
await utils.release();
await db.end();
