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
export const PATIENCE = 60_000;

export class Browser {
  static async start(base) {
    const profile = mkdtempSync(join(tmpdir(), "regrow-pages-"));
    const context = await chromium.launchPersistentContext(profile, {
      executablePath: process.env.REGROW_CHROMIUM ?? "/usr/bin/chromium",
      headless: true,
      baseURL: base,
      viewport: { width: 1280, height: 800 },
      colorScheme: "dark",
      timezoneId: "UTC",
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    });
    context.setDefaultTimeout(PATIENCE);
    return new Browser(context, profile, base);
  }

  constructor(context, profile, base) {
    Object.assign(this, { context, profile, base, wrong: [], forgiven: null });
  }

  // A page; whatever it complains about fails the test, unless the test expects it.
  async open(path) {
    const page = await this.context.newPage();
    page.on("pageerror", (error) => this.wrong.push(`${path}: ${error.message}`));
    page.on("console", (message) => {
      const text = message.text();
      if (!["error", "warning"].includes(message.type())) return;
      if (this.forgiven?.test(text)) return;
      this.wrong.push(`${path}: ${message.type()}: ${text}`);
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(this.base)) this.wrong.push(`${path} asked ${request.url()}`);
    });
    if (path) await this.go(page, path);
    return page;
  }

  async go(page, path) {
    const response = await page.goto(path);
    if (response.status() >= 400) throw new Error(`${path}: status ${response.status()}`);
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

export async function api(base, method, path, body, token) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const response = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  check(response.ok, `${method} ${path}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : null;
}
