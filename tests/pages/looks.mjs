// How pages look: accessible, within the width of a phone, and as they are kept.

import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { axe, check, pixelmatch, PNG } from "./browser.mjs";

const KEPT = join(dirname(fileURLToPath(import.meta.url)), "kept");
// How far a colour may be from the kept one, 0 to 1: versions of the browser smooth fonts a
// little differently.
const COLOUR_TOLERANCE = 0.2;
// Which part of a picture may differ by more: less than one button's words.
const PIXELS_TOLERANCE = 0.001;

// Rules of WCAG 2.2 A and AA.
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

export async function accessible(page, name) {
  // Injected by the test, past the page's policy.
  await page.evaluate(`window.axe || (() => { ${axe} })()`);
  const found = await page.evaluate((values) => window.axe.run(document, { runOnly: { type: "tag", values } }), RULES);
  const lines = found.violations.map(
    (it) => `${it.id}: ${it.help}\n      ${it.nodes.map((node) => `${node.html} ${node.failureSummary}`).slice(0, 4).join("\n      ")}`
  );
  check(lines.length === 0, `${name} is not accessible:\n    ${lines.join("\n    ")}`);
}

export async function fits(page, name) {
  const seen = await page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    const scrolls = (it) => it && (["auto", "scroll", "hidden"].includes(getComputedStyle(it).overflowX) || scrolls(it.parentElement));
    const wide = [...document.querySelectorAll("body *")].filter(
      (it) => it.getBoundingClientRect().right > width + 1 && !scrolls(it.parentElement)
    );
    return { content: document.documentElement.scrollWidth, width, wide: wide.slice(0, 3).map((it) => it.outerHTML.slice(0, 160)) };
  });
  check(seen.content <= seen.width, `${name} is ${seen.content} pixels wide on a screen of ${seen.width}:\n    ${seen.wide.join("\n    ")}`);
}

// Times, ids and figures become the same on every run; what a page is made of stays. It is a copy
// that is looked at: nothing changes it any more.
async function frozen(page) {
  await page.evaluate(async () => {
    // The scripts of the page find nothing any more that they could change.
    const found = document.querySelector.bind(document);
    document.querySelector = (selector) => (["#live", "#main"].includes(selector) ? null : found(selector));
    document.body.replaceWith(document.body.cloneNode(true));
    document.documentElement.dataset.live = "live";
    const live = found("#live");
    live.dataset.state = "live";
    live.textContent = "live";
    const fixed = (text) =>
      text
        .replace(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "00000000-0000-7000-8000-000000000000")
        .replace(/\b[0-9a-f]{32}\b/g, "0".repeat(32))
        .replace(/\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+Z)?/g, "2026-01-01 00:00:00")
        .replace(/\b\d\d:\d\d:\d\d\b/g, "00:00:00")
        .replace(/\b\d+ (min|h|d) \d+ (s|min|h)\b/g, "1 s")
        .replace(/\b[\d,.]+ (µs|ms|s|min)\b/g, "1 s")
        .replace(/\b[\d,.]+ (B|KiB|MiB)\b/g, "1 KiB")
        .replace(/(< )?\b\d+ %/g, "0 %");
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) node.nodeValue = fixed(node.nodeValue);
    const all = (selector) => document.querySelectorAll(selector);
    for (const it of all("time")) (it.textContent = "00:00:00"), it.removeAttribute("data-ago");
    for (const it of all(".id, .id a")) if (!it.children.length) it.textContent = "00000000";
    for (const it of all("td.number, .figure")) if (!it.children.length) it.textContent = "0";
    for (const it of all(".tile .hint, .legend")) it.textContent = "…";
    for (const it of all("[data-moving]")) it.textContent = "…";
    for (const it of all("svg.line > *, .chart polyline, .chart text, rect.fill, rect.due")) it.remove();
    for (const it of all(".fresh")) it.classList.remove("fresh");
    found("#notices").replaceChildren();
    // What was a minute ago, and how the machine is just now.
    for (const it of all(".alerts li")) if (!/answer/.test(it.textContent)) it.remove();
    for (const it of all(".alerts")) found(".title .lead").textContent = "…";
    const style = new CSSStyleSheet();
    style.replaceSync(
      `* { font-family: "DejaVu Sans" !important; animation: none !important; transition: none !important;
           caret-color: transparent !important; scrollbar-width: none !important }`
    );
    document.adoptedStyleSheets.push(style);
    window.scrollTo(0, 0);
    document.activeElement?.blur();
    await document.fonts.ready;
  });
}

// Compares the page with the picture that is kept of it; with REGROW_PAGES_KEEP it is taken anew.
export async function asKept(page, name, report) {
  await frozen(page);
  const shot = await page.screenshot({ animations: "disabled" });
  const kept = join(KEPT, `${name}.png`);
  if (process.env.REGROW_PAGES_KEEP) {
    mkdirSync(KEPT, { recursive: true });
    // Packed as tightly as can be: they stay in the repository.
    writeFileSync(kept, PNG.sync.write(PNG.sync.read(shot), { colorType: 2, deflateLevel: 9, filterType: -1 }));
    return null;
  }
  check(existsSync(kept), `there is no ${kept}; take it by \`cargo xtask pages --keep\``);
  const [now, then] = [PNG.sync.read(shot), PNG.sync.read(readFileSync(kept))];
  const difference = new PNG({ width: now.width, height: now.height });
  const same = now.width === then.width && now.height === then.height;
  const differ = same
    ? pixelmatch(now.data, then.data, difference.data, now.width, now.height, { threshold: COLOUR_TOLERANCE })
    : Infinity;
  const part = differ / (now.width * now.height);
  const files = [join(report, `${name}.png`), join(report, `${name}.difference.png`)];
  for (const file of files) rmSync(file, { force: true });
  if (part <= PIXELS_TOLERANCE) return null;
  mkdirSync(report, { recursive: true });
  writeFileSync(files[0], shot);
  if (same) writeFileSync(files[1], PNG.sync.write(difference));
  const how = same ? `${(part * 100).toFixed(2)} % of its pixels` : `${now.width}×${now.height} instead of ${then.width}×${then.height}`;
  return `${name}: ${how}; see ${files.join(" and ")}, kept is ${kept}`;
}
