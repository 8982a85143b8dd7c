// First paint of pages in Chromium, and how long they take to answer a person: figures, no checks.
//
// `node paint.mjs URL ROUNDS`, with REGROW_PAGES_PACKAGES naming where the packages are.

import { createRequire } from "node:module";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(join(process.env.REGROW_PAGES_PACKAGES, "package.json"));
const { chromium } = require("playwright-core");

const [base, rounds] = [process.argv[2], Number(process.argv[3] ?? 5)];
const PATHS = ["/", "/tree", "/tasks", "/queue", "/cluster", "/agents"];

const profile = mkdtempSync(join(tmpdir(), "regrow-paint-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.REGROW_CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  viewport: { width: 1280, height: 800 },
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"],
});
context.setDefaultTimeout(120_000);
const page = await context.newPage();

function median(sample) {
  return [...sample].sort((a, b) => a - b)[Math.floor(sample.length / 2)];
}

for (const path of PATHS) {
  const [painted, live, answered] = [[], [], []];
  for (let round = 0; round < rounds; round += 1) {
    const began = Date.now();
    await page.goto(base + path);
    await page.locator("#live[data-state=live]").waitFor();
    live.push(Date.now() - began);
    painted.push(
      await page.evaluate(
        () => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN,
      ),
    );
    // From a click on a link to the next page's first paint.
    const link = page.locator(`nav a:not([href="${path}"])`).first();
    const clicked = Date.now();
    await link.click();
    await page.waitForFunction(
      () => performance.getEntriesByName("first-contentful-paint").length > 0,
    );
    answered.push(Date.now() - clicked);
  }
  console.log(
    `in Chromium ${path.padEnd(10)} first paint ${median(painted).toFixed(0)} ms, live after ` +
      `${median(live)} ms, a click until the next page is painted ${median(answered)} ms ` +
      `(medians of ${rounds})`,
  );
}
await context.close();
rmSync(profile, { recursive: true, force: true });
