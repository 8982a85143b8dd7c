// The live pages in a real browser: every page, every control, what changes by itself, both
// themes, a phone, the keyboard, accessibility, and how it looks. Started by tests/pages.rs, which
// starts the nodes, and kills and starts those that are asked for.

import { Api, Browser, check } from "./browser.mjs";
import { alone } from "./alone.mjs";
import { cluster } from "./cluster.mjs";
import { pictures } from "./pictures.mjs";

const { REGROW_NODES, REGROW_TOKEN: token, REGROW_REPORT: report, REGROW_PAGES_ONLY: only } = process.env;
const urls = Object.fromEntries(REGROW_NODES.split(" ").map((pair) => pair.split("=")));
const apis = Object.fromEntries(Object.entries(urls).map(([name, url]) => [name, new Api(url)]));
const browser = await Browser.start();
const please = (verb, name) => console.log(`please: ${verb} ${name}`);
const world = { browser, urls, apis, token, report, please };

let failed = 0;
for (const group of [alone, cluster, pictures]) {
  const tests = Object.entries(group(world)).filter(([name]) => !only || name.includes(only));
  for (const [name, test] of tests) {
    const began = Date.now();
    const took = () => `${((Date.now() - began) / 1000).toFixed(1)} s`;
    try {
      browser.wrong.length = 0;
      await test();
      check(browser.wrong.length === 0, `the page complained:\n    ${browser.wrong.join("\n    ")}`);
      console.log(`ok: ${name} (${took()})`);
    } catch (error) {
      failed += 1;
      const wrong = browser.wrong.map((it) => `\n    the page complained: ${it}`).join("");
      console.log(`FAILED: ${name} (${took()})\n    ${error.stack ?? error}${wrong}`);
      const pages = browser.context.pages().slice(1);
      for (const [position, page] of pages.entries()) {
        const path = `${report}/failed-${failed}-${position}.png`;
        await page.screenshot({ path, timeout: 20_000 }).catch(() => {});
        console.log(`    what was seen of ${page.url()}: ${path}`);
        await page.close();
      }
    }
  }
}
await browser.stop();
console.log(failed ? `${failed} failed` : "all passed");
process.exit(failed ? 1 : 0);
