// A browser that reports everything that goes wrong in a page, and what all tests need of it.

import { createRequire } from "node:module";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

// The packages are beside the build, not beside this file.
const require = createRequire(join(process.env.REGROW_PAGES_PACKAGES, "package.json"));
const { chromium } = require("playwright-core");
export const axe = require("axe-core").source;
export const { PNG } = require("pngjs");
export const pixelmatch = require("pixelmatch").default ?? require("pixelmatch");

// Nothing waits longer, on however loaded a machine.
export const PATIENCE = 120_000;

export class Browser {
  static async start() {
    const profile = mkdtempSync(join(tmpdir(), "regrow-pages-"));
    const context = await chromium.launchPersistentContext(profile, {
      executablePath: process.env.REGROW_CHROMIUM ?? "/usr/bin/chromium",
      headless: true,
      viewport: { width: 1280, height: 800 },
      colorScheme: "dark",
      reducedMotion: "reduce",
      timezoneId: "UTC",
      locale: "en-US",
      timeout: PATIENCE,
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--font-render-hinting=none",
        "--disable-lcd-text",
      ],
    });
    context.setDefaultTimeout(PATIENCE);
    return new Browser(context, profile);
  }

  constructor(context, profile) {
    Object.assign(this, { context, profile, wrong: [], forgiven: null });
  }

  // A page of the node at `base`; whatever it complains about fails the test, unless the test
  // expects it.
  async open(base, path) {
    const page = await this.context.newPage();
    page.on("pageerror", (error) => this.wrong.push(`${page.url()}: ${error.stack ?? error}`));
    page.on("console", (message) => {
      const text = message.text();
      if (!["error", "warning"].includes(message.type())) return;
      if (this.forgiven?.test(text)) return;
      this.wrong.push(`${page.url()}: ${message.type()}: ${text}`);
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(base)) this.wrong.push(`${page.url()} asked ${request.url()}`);
    });
    if (path) await this.go(page, base + path);
    return page;
  }

  // Waits until the page stands and is live.
  async go(page, url) {
    const response = await page.goto(url);
    if (response.status() >= 400) throw new Error(`${url}: status ${response.status()}`);
    await page.locator("#live[data-state=live]").waitFor();
  }

  // While `what` runs, complaints like `pattern` are expected.
  async forgiving(pattern, what) {
    this.forgiven = pattern;
    try {
      await what();
    } finally {
      this.forgiven = null;
    }
  }

  async stop() {
    await this.context.close();
    rmSync(this.profile, { recursive: true, force: true });
  }
}

export function check(holds, text) {
  if (!holds) throw new Error(text);
}

// Asks until `wanted` holds of the answer.
export async function until(what, ask, wanted) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    let seen;
    try {
      seen = await ask();
      if (wanted(seen)) return seen;
    } catch (error) {
      seen = error;
    }
    check(Date.now() < deadline, `${what}: still ${seen instanceof Error ? seen.stack : JSON.stringify(seen)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

// The API of a node, past the browser.
export class Api {
  constructor(base, token) {
    Object.assign(this, { base, token });
  }

  async call(method, path, body) {
    const headers = { "content-type": "application/json" };
    if (this.token) headers.authorization = `Bearer ${this.token}`;
    const response = await fetch(this.base + path, { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    check(response.ok, `${method} ${path}: ${response.status} ${text}`);
    return text ? JSON.parse(text) : null;
  }

  get(path) {
    return this.call("GET", path);
  }

  submit(task) {
    return this.call("POST", "/v1/tasks", task);
  }

  // The task of a kind that waits, once there is one.
  async lease(kind) {
    const ask = () => this.call("POST", "/v1/leases", { kinds: [kind], max: 1, wait_ms: 2000, lease_ms: 600_000 });
    return (await until(`a lease of ${kind}`, ask, (leases) => leases.length === 1))[0];
  }

  settle(id, verb, body) {
    return this.call("POST", `/v1/leases/${id}/${verb}`, body);
  }
}

// What is done to a page again and again.
export const text = (page, words) => page.locator("#main").getByText(words).first().waitFor();
export const told = (page, words) => page.locator("#notices").getByText(words).first().waitFor();
export const sure = (page) => page.locator("#question button[value=yes]").click();
