#!/usr/bin/env node
// A Regrow worker for Node.js 18 or newer, without packages: counts the words of a file,
// `{"path": ...}`.
//
//     REGROW_URL=http://127.0.0.1:7400 node worker.mjs
//
// Where the node has tokens, REGROW_TOKEN holds one with the scope `work`.
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const NODE = process.env.REGROW_URL ?? "http://127.0.0.1:7400";
const HEADERS = { "content-type": "application/json" };
if (process.env.REGROW_TOKEN) HEADERS.authorization = `Bearer ${process.env.REGROW_TOKEN}`;
const NAME = `node-${process.pid}`;
const LEASE_MS = Number(process.env.LEASE_MS ?? 10_000);
let stopping = false;

/** The node's answer is final, such as `stale_epoch`: the task is no longer ours. */
class Refused extends Error {}

/** Posts, and repeats what is safe to repeat: every call carries its lease's epoch. */
async function call(path, body, patienceMs = 60_000) {
  const until = Date.now() + patienceMs;
  for (;;) {
    let problem;
    let pauseMs = 500;
    try {
      const answer = await fetch(NODE + path, {
        method: "POST",
        headers: HEADERS,
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(60_000),
      });
      if (answer.ok) return await answer.json();
      problem = await answer.text();
      if (answer.status !== 429 && answer.status !== 503) throw new Refused(`${path}: ${problem}`);
      pauseMs = Math.min(1000 * Number(answer.headers.get("retry-after") ?? 0.5), 5_000);
    } catch (error) {
      if (error instanceof Refused) throw error;
      problem = error.cause ?? error; // the node is away: it may be restarting
    }
    if (until < Date.now() + pauseMs) throw new Refused(`${path}: no answer, at last: ${problem}`);
    await sleep(pauseMs);
  }
}

/** Renews the lease until the work is done, and calls the work off when it must stop. */
async function keep(lease, done, calledOff) {
  const path = `/v1/leases/${lease.task.id}/heartbeat`;
  const body = { epoch: lease.epoch, lease_ms: LEASE_MS };
  for (;;) {
    await sleep(LEASE_MS / 3, undefined, { signal: done }).catch(() => {});
    if (done.aborted) return;
    const renewed = await call(path, body, LEASE_MS).catch(() => null);
    if (renewed === null || renewed.cancel_requested) return calledOff.abort();
  }
}

/** The work itself; `signal` ends it when it is called off. */
async function countWords(payload, signal) {
  let lines = 0;
  let words = 0;
  const input = createReadStream(payload.path, { signal });
  const failed = new Promise((_, reject) => input.on("error", reject));
  const reader = createInterface({ input });
  const count = async () => {
    for await (const line of reader) {
      lines += 1;
      words += line.split(/\s+/).filter(Boolean).length;
    }
  };
  await Promise.race([count(), failed]);
  return { lines, words, by: NAME };
}

async function run(lease) {
  const [done, calledOff] = [new AbortController(), new AbortController()];
  const { epoch } = lease;
  const path = `/v1/leases/${lease.task.id}`;
  keep(lease, done.signal, calledOff);
  try {
    const result = await countWords(lease.task.payload, calledOff.signal);
    await call(`${path}/complete`, { epoch, result });
  } catch (error) {
    if (error instanceof Refused) console.log(`${NAME}: not ours any more: ${error.message}`);
    else await call(`${path}/fail`, { epoch, error: String(error) });
  } finally {
    done.abort();
  }
}

for (const name of ["SIGTERM", "SIGINT"]) process.on(name, () => (stopping = true));
console.log(`${NAME}: asks ${NODE} for work`);
while (!stopping) {
  const ask = { kinds: ["count-words"], worker: NAME, wait_ms: 5_000, lease_ms: LEASE_MS };
  for (const lease of await call("/v1/leases", ask, Infinity)) {
    await run(lease).catch((error) => console.log(`${NAME}: ${error.message}`));
  }
}
