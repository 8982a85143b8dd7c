// How pages look beside the pictures that are kept of them, on a node that nothing else touches.

import { check } from "./browser.mjs";
import { asKept } from "./looks.mjs";
import { seeded } from "./seeds.mjs";

export const pictures = ({ browser, urls, apis, report }) => ({
  async "pages look as they are kept, in both themes and on a phone"() {
    const [base, api] = [urls.still, apis.still];
    const seeds = await seeded(api);
    const shots = [
      ["overview", "/"],
      ["task", `/tasks/${seeds.family.id}`],
      ["queue", "/queue"],
      ["tasks", "/tasks?kind=chapter"],
      ["tree", "/tree"],
      ["new-task", "/tasks/new"],
      ["cluster", "/cluster"],
      ["agents", "/agents"],
      ["metrics", "/charts?q=regrow_tasks"],
    ];
    const page = await browser.open(base);
    const different = [];
    // What a loaded machine shows for a moment passes; what was changed stays.
    const look = async (name, path) => {
      let told;
      for (let tries = 0; tries < 8; tries++) {
        await browser.go(page, base + path);
        told = await asKept(page, name, report);
        if (!told) return;
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
      different.push(told);
    };
    for (const [name, path] of shots) await look(`${name}-dark`, path);
    await page.emulateMedia({ colorScheme: "light" });
    for (const [name, path] of shots.slice(0, 4)) await look(`${name}-light`, path);
    await page.setViewportSize({ width: 390, height: 844 });
    for (const [name, path] of shots.slice(0, 5)) await look(`${name}-phone`, path);
    await page.close();
    check(different.length === 0, `they look otherwise than they are kept:\n    ${different.join("\n    ")}`);
  },
});
