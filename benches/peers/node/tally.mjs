// What the Node.js peers share: their orders, the count of executions, the report.
// The same as rust/tally/src/lib.rs and python/tally.py.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

export const orders = JSON.parse(process.env.PEER_ORDERS);

// A JSON object of `payload_bytes` bytes that carries the task's number.
export function payload(n) {
  const bare = JSON.stringify({ n, text: "" }).length;
  return { n, text: "x".repeat(Math.max(0, orders.payload_bytes - bare)) };
}

export function batches(total, size) {
  const all = [];
  for (let first = 0; first < total; first += size) {
    const last = Math.min(total, first + size);
    all.push(Array.from({ length: last - first }, (_, i) => first + i));
  }
  return all;
}

// Counts executions by task. The clock starts with the first.
export class Tally {
  counts = new Uint32Array(orders.tasks);
  distinct = 0;
  started = undefined;

  ran(n) {
    this.started ??= performance.now();
    if (this.counts[n]++ === 0) this.distinct += 1;
  }

  // Waits until every task ran and `open` (tasks not durably finished) answers 0.
  async drained(open) {
    const limit = performance.now() + orders.limit_seconds * 1000;
    while (this.distinct < orders.tasks && performance.now() < limit) await sleep(2);
    let left = await open();
    while (left > 0 && performance.now() < limit) {
      await sleep(2);
      left = await open();
    }
    const seconds = (performance.now() - (this.started ?? limit)) / 1000;
    return { tasks: orders.tasks - left, unfinished: left, seconds };
  }

  // To be asked after the workers have stopped.
  verdict(unfinished) {
    let [ran, doubled] = [0, 0];
    for (const count of this.counts) {
      ran += count > 0 ? 1 : 0;
      doubled += Math.max(0, count - 1);
    }
    return { lost: Math.max(0, orders.tasks - unfinished - ran), doubled };
  }
}

// `callers` callers in a closed loop; `submit` resolves when its task is durable.
export async function single(submit) {
  const until = performance.now() + orders.seconds * 1000;
  const started = performance.now();
  let next = 0;
  await Promise.all(
    Array.from({ length: orders.callers }, async () => {
      while (performance.now() < until) await submit(next++);
    }),
  );
  return { tasks: next, seconds: (performance.now() - started) / 1000 };
}

// One caller, one call of `submit` per batch.
export async function batch(submit) {
  const started = performance.now();
  for (const numbers of batches(orders.tasks, orders.batch)) await submit(numbers);
  return { tasks: orders.tasks, seconds: (performance.now() - started) / 1000 };
}

// What the store holds against what was acknowledged.
export function stored(acknowledged, { rows, distinct }) {
  return { lost: Math.max(0, acknowledged - distinct), doubled: Math.max(0, rows - distinct) };
}

export const pool = (max) => new pg.Pool({ connectionString: orders.url, max });

export async function one(db, sql) {
  const { rows } = await db.query(sql);
  return Object.fromEntries(Object.entries(rows[0]).map(([key, value]) => [key, Number(value)]));
}

export async function durability(db) {
  const { rows } = await db.query(
    "SELECT current_setting('synchronous_commit') AS commit, current_setting('fsync') AS fsync",
  );
  return `synchronous_commit=${rows[0].commit}, fsync=${rows[0].fsync}`;
}

function version(name) {
  const entry = createRequire(import.meta.url).resolve(name);
  const root = entry.slice(0, entry.lastIndexOf(`/node_modules/${name}/`));
  return JSON.parse(readFileSync(`${root}/node_modules/${name}/package.json`)).version;
}

export function report(name, fields) {
  process.stdout.write(`${JSON.stringify({ version: version(name), unfinished: 0, ...fields })}\n`);
}
