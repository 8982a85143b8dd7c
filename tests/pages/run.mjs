// The live pages in a real browser: every page, every control, what changes by itself, both
// themes, a phone, accessibility, and how it looks. Started by tests/pages.rs with a node that
// has work, one that asks for tokens, and an address where a node dies and comes back.

import { Browser, PATIENCE, api, check } from "./browser.mjs";
import { accessible, asKept, fits } from "./looks.mjs";

const { REGROW_OPEN: open, REGROW_CLOSED: closed, REGROW_TOKEN: token, REGROW_REPORT: report } = process.env;
const browser = await Browser.start(open);
const submit = (body) => api(open, "POST", "/v1/tasks", body);
const lease = async (kind) => (await api(open, "POST", "/v1/leases", { kinds: [kind], max: 1, wait_ms: 5000, lease_ms: 600_000 }))[0];
const settle = (id, verb, body) => api(open, "POST", `/v1/leases/${id}/${verb}`, body);
const text = (page, words) => page.locator("#main").getByText(words).first().waitFor();
const told = (page, words) => page.locator("#notices").getByText(words).first().waitFor();
const sure = async (page) => {
  await page.locator("#question button[value=yes]").click();
};

// ---- What there is to see ----

const seeds = {};
seeds.translate = await submit({ kind: "translate", goal: "Translate the manual", priority: "high", tenant: "acme", payload: { page: 7 } });
seeds.deploy = await submit({ kind: "deploy", goal: "Deploy to production", requires_approval: true });
seeds.broken = await submit({ kind: "break", goal: "Break on purpose", max_attempts: 1 });
const broken = await lease("break");
await settle(seeds.broken.id, "fail", { epoch: broken.epoch, error: "the disk of the test is <full>" });
seeds.family = await submit({ kind: "family", goal: "Publish the book" });
const parent = await lease("family");
await settle(seeds.family.id, "steps", {
  epoch: parent.epoch,
  key: "outline",
  input: { chapters: 3 },
  output: "one, two, three",
  cost: { usd: 0.012, tokens_in: 900, tokens_out: 120, calls: 1 },
});
await settle(seeds.family.id, "children", {
  epoch: parent.epoch,
  children: [
    { kind: "chapter", goal: "Write chapter one" },
    { kind: "chapter", goal: "Write chapter two" },
    { kind: "bind", goal: "Bind the book", after: [0, 1] },
  ],
});

const tests = {
  async "every page opens, stays live, is accessible in both themes and fits a phone"() {
    const places = ["/", "/tree", "/tasks", "/tasks/new", "/queue", "/cluster", "/agents", "/events", "/memory", "/charts"];
    places.push(`/tasks/${seeds.family.id}`, `/tasks/${seeds.deploy.id}`, `/tasks/${seeds.family.id}/steps/outline`, "/agents/worker-1");
    const page = await browser.open();
    for (const path of places) {
      await browser.go(page, path);
      for (const colorScheme of ["dark", "light"]) {
        await page.emulateMedia({ colorScheme });
        await accessible(page, `${path} (${colorScheme})`);
      }
      await page.setViewportSize({ width: 390, height: 844 });
      await fits(page, path);
      await page.setViewportSize({ width: 1280, height: 800 });
    }
    await page.close();
  },

  async "a task's page follows it from the queue to its end without being loaded again"() {
    const task = await submit({ kind: "follow", goal: "Be followed" });
    const page = await browser.open(`/tasks/${task.id}`);
    await page.evaluate(() => (window.stayed = true));
    await text(page, "no worker asks for tasks of kind follow");
    const { epoch } = await lease("follow");
    await text(page, "holds its lease");
    await settle(task.id, "steps", { epoch, key: "look", output: 1, input: null });
    await page.getByRole("link", { name: "look", exact: true }).waitFor();
    await settle(task.id, "complete", { epoch, result: { seen: "all of it" } });
    await text(page, "all of it");
    check(await page.evaluate(() => window.stayed), "the page was loaded again");
    await page.close();
  },

  async "what a person types and opens survives what changes around it"() {
    const page = await browser.open(`/tasks/${seeds.deploy.id}`);
    await page.locator("#note").fill("half a sentence");
    await api(open, "PUT", "/v1/budgets/tenant:acme", { usd: 5 });
    await submit({ kind: "noise" });
    const list = await browser.open("/tasks?kind=late");
    await list.locator("#q").fill("typing");
    await submit({ kind: "late", goal: "Come late" });
    await text(list, "Come late");
    check((await list.locator("#q").inputValue()) === "typing", "the search lost its text");
    check((await page.locator("#note").inputValue()) === "half a sentence", "the note lost its text");
    await list.close();
    await page.close();
  },

  async "tasks are searched, filtered, and found by id"() {
    const page = await browser.open("/tasks");
    await page.keyboard.press("/");
    await page.keyboard.type("manual");
    await page.keyboard.press("Enter");
    await page.waitForURL(/q=manual/);
    await text(page, "Translate the manual");
    check((await page.locator("tbody tr").count()) === 1, "the search found more than one");
    await page.goto("/tasks");
    await page.locator("#state").selectOption("discarded");
    await page.waitForURL(/state=discarded/);
    await text(page, "the disk of the test is <full>");
    await page.goto("/tasks?q=nothing-is-called-this");
    await text(page, "No task is like that");
    await page.goto(`/tasks?q=${seeds.family.id}`);
    await text(page, "Publish the book");
    await page.close();
  },

  async "a task is approved, cancelled and tried again from its page"() {
    const asked = await submit({ kind: "ask", goal: "Ask first", requires_approval: true });
    const page = await browser.open(`/tasks/${asked.id}`);
    await page.locator("#note").fill("go ahead");
    await page.getByRole("button", { name: "Approve" }).click();
    await told(page, "Answered");
    await text(page, "waiting for a worker");
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.locator("#question button[value=no]").click();
    check((await api(open, "GET", `/v1/tasks/${asked.id}`)).state === "available", "it was cancelled although it was not to be");
    await page.getByRole("button", { name: "Cancel" }).click();
    await sure(page);
    await told(page, "Cancel asked for");
    await text(page, "cancelled");
    await page.getByRole("button", { name: "Try again" }).click();
    await told(page, "It is tried again");
    await text(page, "waiting for a person");
    const denied = await submit({ kind: "ask", requires_approval: true });
    await browser.go(page, `/tasks/${denied.id}`);
    await page.getByRole("button", { name: "Deny" }).click();
    await told(page, "Answered");
    await text(page, "cancelled");
    await page.close();
  },

  async "the queue is paused, resumed, drained, resized and cleared"() {
    const page = await browser.open("/queue");
    await page.getByRole("button", { name: "Pause" }).click();
    await page.locator(".title .pill").getByText("paused").waitFor();
    await page.getByRole("button", { name: "Resume" }).click();
    await page.locator(".title .pill").getByText("open").waitFor();
    await page.getByRole("button", { name: "Drain" }).click();
    await sure(page);
    await page.locator(".title .pill").getByText("draining").waitFor();
    const form = await browser.open("/tasks/new");
    await text(form, "The queue is draining");
    await page.getByRole("button", { name: "Resume" }).click();
    await text(form, "There is room for");
    await form.close();
    await browser.forgiving(/status of 422/, async () => {
      await page.locator("#max_size").fill("many");
      await page.getByRole("button", { name: "Set", exact: true }).click();
      await page.locator(".problem").getByText("max_size").waitFor();
    });
    await page.locator("#max_size").fill("4321");
    await page.getByRole("button", { name: "Set", exact: true }).click();
    await text(page, "of 4,321 places taken");
    await page.locator("#max_size").fill("");
    await page.getByRole("button", { name: "Set", exact: true }).click();
    await text(page, "of 100,000 places taken");
    await page.locator("#dead-" + seeds.broken.id).getByRole("button", { name: "Try again" }).click();
    await told(page, "It is tried again");
    await page.locator("#dead-" + seeds.broken.id).waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Clear" }).click();
    await page.locator("#question button[value=no]").click();
    await page.close();
  },

  async "a task is submitted by the form, which says what is wrong and when the queue is full"() {
    const page = await browser.open("/tasks/new");
    await page.locator("#payload").fill("{ not json");
    await page.getByRole("button", { name: "Submit" }).click();
    await page.locator(".problem").getByText("This is not JSON").waitFor();
    await page.locator("#payload").fill('{ "a": 1 }');
    await browser.forgiving(/status of 422/, async () => {
      await page.locator("#kind").fill("Not A Kind");
      await page.getByRole("button", { name: "Submit" }).click();
      await page.locator('[data-problem="kind"]').getByText("kind").or(page.locator("p[role=alert]").getByText("kind")).first().waitFor();
    });
    await api(open, "PUT", "/v1/queue/max_size", { max_size: 1 });
    await text(page, "The queue is full");
    await page.locator("#kind").fill("formed");
    await page.locator("#goal").fill("Come from the form");
    await browser.forgiving(/status of 429/, async () => {
      await page.getByRole("button", { name: "Submit" }).click();
      await page.locator("p[role=alert]").getByText("Try again in").waitFor();
    });
    await api(open, "PUT", "/v1/queue/max_size", { max_size: null });
    await page.getByRole("button", { name: "Submit" }).click();
    await page.waitForURL(/\/tasks\/[0-9a-f]{8}-/);
    await text(page, "Come from the form");
    await page.close();
  },

  async "an agent is stopped, started, restarted and killed, and its regrowth is seen"() {
    const page = await browser.open("/tree");
    const row = page.locator("tr", { has: page.getByRole("link", { name: "worker-2", exact: true }) });
    const order = async (name, question) => {
      const menu = row.locator("details");
      if (!(await menu.evaluate((it) => it.open))) await menu.locator("summary").click();
      await row.getByRole("button", { name, exact: true }).click();
      if (question) await sure(page);
    };
    await order("Kill", true);
    await told(page, "It was killed");
    await row.locator("td").nth(5).getByText("killed").waitFor();
    await row.locator("td").nth(4).getByText("1", { exact: true }).waitFor();
    await order("Stop", true);
    await row.getByText("stopped", { exact: true }).waitFor();
    await order("Start");
    await row.locator(".pill").getByText(/running|regrown/).waitFor();
    await order("Restart");
    await told(page, "It is started anew");
    await page.close();
    const events = await browser.open("/events?of=runtime");
    await text(events, /Nothing has happened yet|child/);
    await events.close();
  },

  async "a node is cordoned, drained, kept out and released, and an agent is placed on it"() {
    const page = await browser.open("/agents");
    await page.locator("#new-id").fill("scout");
    await page.getByRole("button", { name: "Start", exact: true }).last().click();
    await told(page, "It is placed");
    await page.locator("#placed-scout .pill").getByText("runs").waitFor();
    await browser.go(page, "/agents/scout");
    await text(page, "Why it is where it is");
    await browser.go(page, "/cluster");
    const card = page.locator(".panel[id^=node-]").first();
    await card.getByRole("button", { name: "Cordon" }).click();
    await card.locator(".pill").getByText("cordoned").waitFor();
    await card.getByRole("button", { name: "Release" }).click();
    await card.locator(".pill").getByText("up").waitFor();
    await card.getByRole("link", { name: "What if it died?" }).click();
    await text(page, /If .* died now/);
    await page.getByRole("link", { name: "What would it move?" }).click();
    await text(page, "Nothing would move");
    await page.getByRole("button", { name: "Rebalance" }).click();
    await sure(page);
    await told(page, "Agents move");
    await page.close();
  },

  async "themes and keys"() {
    const page = await browser.open("/");
    const theme = () => page.evaluate(() => document.documentElement.dataset.theme ?? "system");
    await page.locator("#theme").click();
    check((await theme()) === "dark", "the first click is not dark");
    await page.keyboard.press("d");
    check((await theme()) === "light", "the key is not light");
    await page.reload();
    check((await theme()) === "light", "the choice is forgotten");
    const ground = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    check(ground === "rgb(246, 247, 249)", `light has the ground ${ground}`);
    await page.keyboard.press("d");
    await page.keyboard.press("g");
    await page.keyboard.press("q");
    await page.waitForURL(/\/queue$/);
    await page.keyboard.press("?");
    await page.locator("#keys").getByText("search on this page").waitFor();
    await page.keyboard.press("Escape");
    await page.keyboard.press("Tab");
    const first = await page.evaluate(() => document.activeElement.textContent);
    check(first.includes("Skip") || first.length > 0, "nothing is reached by the keyboard");
    await page.close();
  },

  async "whoever has no token signs in, and sees what his token may not do"() {
    const page = await browser.context.newPage();
    await page.goto(`${closed}/queue`);
    await page.waitForURL(/sign-in/);
    await browser.forgiving(/status of 40[01]/, async () => {
      await page.locator("#token").fill("regrow_wrong");
      await page.getByRole("button", { name: "Sign in" }).click();
      await page.locator(".problem").first().getByText(/token/i).waitFor();
    });
    await page.locator("#token").fill(token);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.waitForURL(/\/queue$/);
    await page.locator("#live[data-state=live]").waitFor();
    await page.getByRole("button", { name: "Pause" }).click();
    await page.locator(".title .pill").getByText("paused").waitFor();
    await page.getByRole("button", { name: "Resume" }).click();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.waitForURL(/sign-in/);
    await page.close();
  },

  async "a page says that it is not live when its node dies, and comes back with it"() {
    const page = await browser.open("/tasks");
    await browser.forgiving(/ERR_|Failed to load|network/i, async () => {
      console.log("please: kill");
      await page.locator("#live[data-state=lost]").waitFor();
      console.log("please: start");
      await page.locator("#live[data-state=live]").waitFor();
      const task = await submit({ kind: "after", goal: "Come after the crash" });
      await text(page, "Come after the crash");
      check(task.id.length > 0, "nothing was submitted");
    });
    await page.close();
  },

  async "pages look as they are kept"() {
    const shots = [
      ["overview", "/"],
      ["tree", "/tree"],
      ["tasks", "/tasks?kind=chapter"],
      ["task", `/tasks/${seeds.family.id}`],
      ["new-task", "/tasks/new"],
      ["queue", "/queue"],
      ["metrics", "/charts?q=regrow_restarts"],
    ];
    const page = await browser.open();
    for (const [name, path] of shots) {
      for (const colorScheme of ["dark", "light"]) {
        await page.emulateMedia({ colorScheme });
        await page.goto(path);
        await page.locator("#theme").waitFor();
        await asKept(page, `${name}-${colorScheme}`, report);
      }
    }
    await page.setViewportSize({ width: 390, height: 844 });
    await page.emulateMedia({ colorScheme: "dark" });
    for (const [name, path] of shots.slice(0, 4)) {
      await page.goto(path);
      await asKept(page, `${name}-phone`, report);
    }
    await page.close();
  },
};

let failed = 0;
const only = process.env.REGROW_PAGES_ONLY;
for (const [name, test] of Object.entries(tests)) {
  if (only && !name.includes(only)) continue;
  const began = Date.now();
  try {
    browser.wrong.length = 0;
    await test();
    check(browser.wrong.length === 0, `the page complained:\n    ${browser.wrong.join("\n    ")}`);
    console.log(`ok: ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED: ${name}\n    ${error.stack ?? error}`);
    for (const page of browser.context.pages().slice(1)) await page.close();
  }
}
await browser.stop();
console.log(failed ? `${failed} failed` : "all passed");
process.exit(failed ? 1 : 0);
