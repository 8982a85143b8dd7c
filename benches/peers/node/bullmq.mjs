// BullMQ on a redis that flushes its log before it answers (appendfsync always). Two workers
// with a concurrency of 100. It keeps completed jobs, its default.

import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { Tally, batch, batches, orders, payload, report, single, stored } from "./tally.mjs";

const { hostname, port } = new URL(orders.url);
const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null };
const queue = new Queue("noop", { connection });
const redis = new Redis(connection);
const add = (numbers) => queue.addBulk(numbers.map((n) => ({ name: "noop", data: payload(n) })));

const settings = await redis.config("GET", "append*");
const setting = (name) => settings[settings.indexOf(name) + 1];
const outcome = {
  durability: `appendonly=${setting("appendonly")}, appendfsync=${setting("appendfsync")}`,
};
if (orders.workload === "drain") {
  for (const numbers of batches(orders.tasks, 500)) await add(numbers);
  const tally = new Tally();
  const workers = Array.from(
    { length: 2 },
    () => new Worker("noop", async (job) => tally.ran(job.data.n), { connection, concurrency: 100 }),
  );
  for (const worker of workers) worker.on("error", (error) => console.error(error));
  const open = async () => orders.tasks - (await queue.getCompletedCount());
  Object.assign(outcome, await tally.drained(open));
  await Promise.all(workers.map((worker) => worker.close()));
  Object.assign(outcome, tally.verdict(outcome.unfinished), {
    batch: 1,
    tuning: "2 workers, concurrency 100",
  });
} else {
  const submitted =
    orders.workload === "single" ? await single((n) => queue.add("noop", payload(n))) : await batch(add);
  const rows = await queue.getWaitingCount();
  const numbers = new Set();
  for (let first = 0; first < rows; first += 1000) {
    for (const job of await queue.getWaiting(first, first + 999)) numbers.add(job.data.n);
  }
  Object.assign(outcome, submitted, stored(submitted.tasks, { rows, distinct: numbers.size }), {
    batch: orders.workload === "single" ? 1 : orders.batch,
    tuning: orders.workload === "single" ? "add, one connection" : "addBulk",
  });
}
report("bullmq", outcome);
await queue.close();
redis.disconnect();
