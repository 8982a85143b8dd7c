// How pages look: accessible, within the width of a phone, and as they are kept.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { axe, check, pixelmatch, PNG } from "./browser.mjs";

const KEPT = join(dirname(fileURLToPath(import.meta.url)), "kept");
// Fonts are drawn a little differently by each version of the browser.
const COLOUR_TOLERANCE = 0.3;
const PIXELS_TOLERANCE = 0.02;

// Rules of WCAG 2.2 A and AA.
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

export async function accessible(page, name) {
  // Injected by the test, past the page's policy.
  await page.evaluate(axe);
  const found = await page.evaluate((values) => window.axe.run(document, { runOnly: { type: "tag", values } }), RULES);
  const lines = found.violations.map(
    (it) => `${it.id}: ${it.help}\n      ${it.nodes.map((node) => `${node.html} ${node.failureSummary}`).slice(0, 4).join("\n      ")}`
  );
  check(lines.length === 0, `${name} is not accessible:\n    ${lines.join("\n    ")}`);
}

export async function fits(page, name) {
  const [content, width] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  check(content <= width, `${name} is ${content} pixels wide on a screen of ${width}`);
}

// Times, ids and figures become the same on every run; what a page is made of stays.
async function frozen(page) {
  await page.evaluate(() => {
    const main = document.querySelector("#main");
    main._htmx?.sse?.abortController?.abort();
    main._htmx?.sse?.reader?.cancel();
    document.documentElement.dataset.live = "live";
    const live = document.querySelector("#live");
    live.dataset.state = "live";
    live.textContent = "live";
    const fixed = (text) =>
      text
        .replace(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "00000000-0000-7000-8000-000000000000")
        .replace(/\b[0-9a-f]{32}\b/g, "0".repeat(32))
        .replace(/\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+Z)?/g, "2026-01-01 00:00:00")
        .replace(/\b\d\d:\d\d:\d\d\b/g, "00:00:00")
        .replace(/\b[\d,.]+ (µs|ms|s|min)\b( \d+ s\b)?/g, "1 s")
        .replace(/#\w{32}/g, "");
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) node.nodeValue = fixed(node.nodeValue);
    for (const it of document.querySelectorAll("time")) (it.textContent = "00:00:00"), it.removeAttribute("data-ago");
    for (const it of document.querySelectorAll(".id, .id a")) if (!it.children.length) it.textContent = "00000000";
    for (const it of document.querySelectorAll("td.number, .figure")) it.textContent = "0";
    for (const it of document.querySelectorAll(".tile .hint, .legend")) it.textContent = "…";
    for (const it of document.querySelectorAll("svg.line > *, .chart polyline, .chart text, rect.fill")) it.remove();
    for (const it of document.querySelectorAll(".fresh")) it.classList.remove("fresh");
    document.querySelector("#notices").replaceChildren();
    const style = new CSSStyleSheet();
    style.replaceSync(
      '* { font-family: "DejaVu Sans" !important; animation: none !important; caret-color: transparent !important }'
    );
    document.adoptedStyleSheets.push(style);
    window.scrollTo(0, 0);
    document.activeElement?.blur();
  });
}

export async function asKept(page, name, report) {
  await frozen(page);
  const shot = await page.screenshot({ animations: "disabled" });
  const kept = join(KEPT, `${name}.png`);
  if (process.env.REGROW_PAGES_KEEP || !existsSync(kept)) {
    check(process.env.REGROW_PAGES_KEEP, `there is no ${kept}; make it with REGROW_PAGES_KEEP=1`);
    mkdirSync(KEPT, { recursive: true });
    writeFileSync(kept, shot);
    return;
  }
  const [now, then] = [PNG.sync.read(shot), PNG.sync.read(readFileSync(kept))];
  check(now.width === then.width && now.height === then.height, `${name} has another size than ${kept}`);
  const difference = new PNG({ width: now.width, height: now.height });
  const differ = pixelmatch(now.data, then.data, difference.data, now.width, now.height, { threshold: COLOUR_TOLERANCE });
  const part = differ / (now.width * now.height);
  if (part > PIXELS_TOLERANCE) {
    mkdirSync(report, { recursive: true });
    writeFileSync(join(report, `${name}.png`), shot);
    writeFileSync(join(report, `${name}.difference.png`), PNG.sync.write(difference));
    throw new Error(`${name} looks otherwise than it is kept: ${(part * 100).toFixed(2)} % of its pixels; see ${report}`);
  }
}
