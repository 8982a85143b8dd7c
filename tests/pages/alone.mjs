// A node alone: every page, every control, what changes by itself, the keyboard, signing in, and
// what is seen when the node dies.

import { check, sure, text, told, until } from "./browser.mjs";
import { accessible, fits } from "./looks.mjs";
import { seeded } from "./seeds.mjs";

export const alone = ({ browser, urls, apis, token, please }) => {
  const [base, api] = [urls.open, apis.open];
  const open = (path) => browser.open(base, path);
  const go = (page, path) => browser.go(page, base + path);
  let seeds;

  return {
    async "every page opens, stays live, is accessible in both themes and fits a phone"() {
      seeds = await seeded(api);
      const places = ["/", "/tree", "/tasks", "/tasks/new", "/queue", "/cluster", "/agents", "/events", "/memory", "/charts"];
      places.push(`/tasks/${seeds.family.id}`, `/tasks/${seeds.deploy.id}`, `/tasks/${seeds.family.id}/steps/outline`, "/agents/worker-1");
      const page = await open();
      for (const path of places) {
        await go(page, path);
        for (const colorScheme of ["light", "dark"]) {
          await page.emulateMedia({ colorScheme });
          await accessible(page, `${path} (${colorScheme})`);
        }
        await page.setViewportSize({ width: 390, height: 844 });
        await fits(page, path);
        await page.setViewportSize({ width: 1280, height: 800 });
      }
      await page.close();
    },

    async "a page becomes live however late each of its files arrives"() {
      const page = await open();
      let before = Promise.resolve();
      await page.route("**/assets/*.js", async (route) => {
        // Each comes well after the one before it has run.
        const turn = before.then(() => new Promise((resolve) => setTimeout(resolve, 300)));
        before = turn;
        await turn;
        await route.continue();
      });
      await go(page, "/queue");
      await page.unrouteAll({ behavior: "wait" });
      await page.close();
    },

    async "a task's page follows it from the queue to its end without being loaded again"() {
      const task = await api.submit({ kind: "follow", goal: "Be followed" });
      const page = await open(`/tasks/${task.id}`);
      await page.evaluate(() => (window.stayed = true));
      await text(page, "no worker asks for tasks of kind follow");
      const { epoch } = await api.lease("follow");
      await text(page, "holds its lease");
      const write = (output) => api.settle(task.id, "heartbeat", { epoch, lease_ms: 600_000, output });
      await write("Reading the first page …");
      await text(page, "Reading the first page …");
      await write(" and the second");
      await text(page, "Reading the first page … and the second");
      await api.settle(task.id, "steps", { epoch, key: "look", output: 1, input: null });
      await page.getByRole("link", { name: "look", exact: true }).waitFor();
      await api.settle(task.id, "complete", { epoch, result: { seen: "all of it" } });
      await text(page, "all of it");
      check(await page.evaluate(() => window.stayed), "the page was loaded again");
      await page.close();
    },

    async "what an agent logs about a task is seen on its page, and how long tasks wait in the charts"() {
      const task = await api.submit({ kind: "rehearsal.journey", goal: "Walk", max_attempts: 1, payload: { steps: "many" } });
      const page = await open(`/tasks/${task.id}`);
      await page.locator(".title .pill").getByText("given up").waitFor();
      const lines = page.getByRole("region", { name: "Log lines" });
      await lines.getByText(/attempt failed.*agent_id=worker-\d/).first().waitFor();
      await go(page, "/queue");
      const chart = page.getByRole("img", { name: /^Waiting for a worker: now p50/ });
      await chart.locator("polyline").first().waitFor();
      await page.close();
    },

    async "a supervisor's children are gone through page by page"() {
      const page = await open("/tree?path=root/agents");
      await text(page, /^1 to \d+ of \d+\.$/);
      await ordered(page, "worker-3", "Restart", "It is started anew");
      await page.close();
    },

    async "what a person types and opens survives what changes around it"() {
      const page = await open(`/tasks/${seeds.deploy.id}`);
      await page.locator("#note").fill("half a sentence");
      const list = await open("/tasks?kind=late");
      await list.locator("#q").fill("typing");
      await api.submit({ kind: "late", goal: "Come late" });
      await text(list, "Come late");
      check((await list.locator("#q").inputValue()) === "typing", "the search lost its text");
      check((await page.locator("#note").inputValue()) === "half a sentence", "the note lost its text");
      await list.close();
      await page.close();
    },

    async "tasks are searched, filtered, and found by id"() {
      const page = await open("/tasks");
      await page.keyboard.press("/");
      await page.keyboard.type("manual");
      await page.keyboard.press("Enter");
      await page.waitForURL(/q=manual/);
      await text(page, "Translate the manual");
      check((await page.locator("tbody tr").count()) === 1, "the search found more than one");
      await go(page, "/tasks");
      await page.locator("#state").selectOption("discarded");
      await page.waitForURL(/state=discarded/);
      await text(page, "the disk of the test is <full>");
      await go(page, "/tasks?q=nothing-is-called-this");
      await text(page, "No task is like that");
      await go(page, `/tasks?q=${seeds.family.id}`);
      await text(page, "Publish the book");
      await page.close();
    },

    async "a task is approved, cancelled and tried again from its page"() {
      const asked = await api.submit({ kind: "ask", goal: "Ask first", requires_approval: true });
      const page = await open(`/tasks/${asked.id}`);
      await page.locator("#note").fill("go ahead");
      await page.getByRole("button", { name: "Approve" }).click();
      await told(page, "Answered");
      await text(page, "waiting for a worker");
      await page.getByRole("button", { name: "Cancel" }).click();
      await page.locator("#question button[value=no]").click();
      check((await api.get(`/v1/tasks/${asked.id}`)).state === "available", "it was cancelled although it was not to be");
      await page.getByRole("button", { name: "Cancel" }).click();
      await sure(page);
      await told(page, "Cancel asked for");
      await page.locator(".title .pill").getByText("cancelled").waitFor();
      await page.getByRole("button", { name: "Try again" }).click();
      await told(page, "It is tried again");
      await page.locator(".title .pill").getByText("waiting for a person").waitFor();
      const denied = await api.submit({ kind: "ask", requires_approval: true });
      await go(page, `/tasks/${denied.id}`);
      await page.getByRole("button", { name: "Deny" }).click();
      await told(page, "Answered");
      await page.locator(".title .pill").getByText("cancelled").waitFor();
      await page.close();
    },

    async "the queue is paused, resumed, drained, resized and cleared"() {
      const page = await open("/queue");
      const standing = (words) => page.locator(".title .pill").getByText(words, { exact: true }).waitFor();
      await page.getByRole("button", { name: "Pause" }).click();
      await standing("paused");
      await page.getByRole("button", { name: "Resume" }).click();
      await standing("open");
      await page.getByRole("button", { name: "Drain" }).click();
      await sure(page);
      await standing("draining");
      const form = await open("/tasks/new");
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
      const dead = page.locator("#dead-" + seeds.broken.id);
      await dead.getByRole("button", { name: "Try again" }).click();
      await told(page, "It is tried again");
      await dead.waitFor({ state: "detached" });
      await page.getByRole("button", { name: "Clear" }).click();
      await page.locator("#question button[value=no]").click();
      check((await api.get(`/v1/tasks/${seeds.broken.id}`)).state === "available", "it was cleared although it was not to be");
      await page.getByRole("button", { name: "Clear" }).click();
      await sure(page);
      await told(page, "Cleared");
      await text(page, "Nothing waits for a worker");
      check((await api.get(`/v1/tasks/${seeds.broken.id}`)).state === "cancelled", "clearing left something");
      await page.close();
    },

    async "a task is submitted by the form, which says what is wrong and when the queue is full"() {
      const page = await open("/tasks/new");
      await page.locator("#payload").fill("{ not json");
      await page.getByRole("button", { name: "Submit" }).click();
      await page.locator(".problem").getByText("This is not JSON").waitFor();
      await page.locator("#payload").fill('{ "a": 1 }');
      await browser.forgiving(/status of 422/, async () => {
        await page.locator("#kind").fill("Not A Kind");
        await page.getByRole("button", { name: "Submit" }).click();
        await page.locator('[data-problem="kind"]').getByText("kind").or(page.locator("p[role=alert]").getByText("kind")).first().waitFor();
      });
      await api.submit({ kind: "filler" });
      await api.call("PUT", "/v1/queue/max_size", { max_size: 1 });
      await text(page, "The queue is full");
      await page.locator("#kind").fill("formed");
      await page.locator("#goal").fill("Come from the form");
      await browser.forgiving(/status of 429/, async () => {
        await page.getByRole("button", { name: "Submit" }).click();
        await page.locator("p[role=alert]").getByText("Try again in").waitFor();
      });
      await api.call("PUT", "/v1/queue/max_size", { max_size: null });
      await text(page, "There is room for");
      await page.getByRole("button", { name: "Submit" }).click();
      await page.waitForURL(/\/tasks\/[0-9a-f]{8}-/);
      await text(page, "Come from the form");
      await page.close();
    },

    async "an agent is stopped, started, restarted and killed, and its regrowth is seen"() {
      const page = await open("/tree");
      await ordered(page, "worker-2", "Kill", "It was killed");
      const row = rowOf(page, "worker-2");
      await row.locator("td").nth(4).getByText("1", { exact: true }).waitFor();
      await row.locator("td").nth(5).getByText("killed").waitFor();
      await ordered(page, "worker-2", "Stop", "It is stopped");
      await row.locator(".pill").getByText("stopped").waitFor();
      await ordered(page, "worker-2", "Start", "It is started");
      await row.locator(".pill").getByText(/running|regrown/).waitFor();
      await ordered(page, "worker-2", "Restart", "It is started anew");
      await row.locator(".pill").getByText(/running|regrown/).waitFor();
      await page.close();
    },

    async "what happens in the runtime and to tasks is seen as it happens"() {
      const page = await open("/events?of=runtime");
      await text(page, "Watched since");
      // Until somebody looked nothing was watched.
      await api.call("POST", "/v1/agents/worker-1/kill");
      await text(page, "child restarted");
      await go(page, "/events?of=tasks");
      const task = await api.submit({ kind: "happening" });
      await page.locator(`#main a[href="/tasks/${task.id}"]`).first().waitFor();
      await page.close();
    },

    async "an agent is placed, and its node is cordoned, released and asked what would be"() {
      const page = await open("/agents");
      await page.locator("#new-id").fill("scout");
      await page.getByRole("button", { name: "Start", exact: true }).last().click();
      await told(page, "It is placed");
      await page.locator("#placed-scout .pill").getByText("runs").waitFor();
      await go(page, "/agents/scout");
      await text(page, "Why it is where it is");
      await go(page, "/cluster");
      const card = page.locator("#node-open");
      await card.getByRole("button", { name: "Cordon" }).click();
      await card.locator(".pill").getByText("cordoned").waitFor();
      await card.getByRole("button", { name: "Release" }).click();
      await card.locator(".pill").getByText("up", { exact: true }).waitFor();
      await card.getByRole("link", { name: "What if it died?" }).click();
      await text(page, /If .* died now/);
      await page.getByRole("link", { name: "What would it move?" }).click();
      await text(page, "Nothing would move");
      await page.getByRole("button", { name: "Rebalance" }).click();
      await sure(page);
      await told(page, "Agents move");
      await page.close();
    },

    async "the keyboard alone reaches, orders and answers"() {
      const page = await open("/queue");
      const focused = () => page.evaluate(() => document.activeElement?.textContent?.trim() ?? "");
      const reach = async (words) => {
        for (let steps = 0; steps < 60; steps++) {
          if ((await focused()) === words) return;
          await page.keyboard.press("Tab");
        }
        check(false, `${words} is not reached by Tab; it ends at ${await focused()}`);
      };
      await page.keyboard.press("Tab");
      check((await focused()) === "Skip to the content", "the first Tab does not offer to skip");
      await page.keyboard.press("Enter");
      check(await page.evaluate(() => document.activeElement.id === "main"), "skipping does not lead to the content");
      await reach("Pause");
      await page.keyboard.press("Enter");
      await page.locator(".title .pill").getByText("paused").waitFor();
      await reach("Resume");
      await page.keyboard.press("Space");
      await page.locator(".title .pill").getByText("open", { exact: true }).waitFor();
      await reach("Drain");
      await page.keyboard.press("Enter");
      await page.locator("#question").waitFor();
      check((await focused()) === "Leave it", "the question does not suggest to leave it");
      await page.keyboard.press("Escape");
      await page.locator("#question").waitFor({ state: "hidden" });
      check(!(await api.get("/v1/queue")).draining, "it drains although it was not to");
      await page.close();
    },

    async "themes and keys"() {
      const page = await open("/");
      const theme = () => page.evaluate(() => document.documentElement.dataset.theme ?? "system");
      await page.locator("#theme").click();
      check((await theme()) === "dark", "the first click is not dark");
      await page.keyboard.press("d");
      check((await theme()) === "light", "the key is not light");
      await page.reload();
      check((await theme()) === "light", "the choice is forgotten");
      const ground = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
      check(ground === "rgb(246, 247, 249)", `light has the ground ${ground}`);
      await page.locator("#live[data-state=live]").waitFor();
      await page.keyboard.press("d");
      check((await theme()) === "system", "the third is not the system's");
      await page.keyboard.press("g");
      await page.keyboard.press("q");
      await page.waitForURL(/\/queue$/);
      await page.locator("#live[data-state=live]").waitFor();
      await page.keyboard.press("?");
      await page.locator("#keys").getByText("search on this page").waitFor();
      await page.keyboard.press("Escape");
      await page.locator("#keys").waitFor({ state: "hidden" });
      await page.close();
    },

    async "whoever has no token signs in, and out again"() {
      const page = await browser.open(urls.closed);
      await page.goto(`${urls.closed}/queue`);
      await page.waitForURL(/sign-in/);
      await accessible(page, "/sign-in");
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
      await page.locator(".title .pill").getByText("open", { exact: true }).waitFor();
      await page.getByRole("button", { name: "Sign out" }).click();
      await page.waitForURL(/sign-in/);
      await page.close();
    },

    async "a page says that it is not live when its node dies, and comes back with it"() {
      const page = await open("/tasks");
      await page.evaluate(() => (window.stayed = true));
      await browser.forgiving(/ERR_|Failed to load|network/i, async () => {
        please("kill", "open");
        await page.locator("#live[data-state=lost]").waitFor();
        please("start", "open");
        await page.locator("#live[data-state=live]").waitFor();
        await until("the node takes tasks", () => api.submit({ kind: "after", goal: "Come after the crash" }), () => true);
        await text(page, "Come after the crash");
        check(await page.evaluate(() => window.stayed), "the page was loaded again");
      });
      await page.close();
    },
  };
};

export const rowOf = (page, agent) => page.locator("tr", { has: page.getByRole("link", { name: agent, exact: true }) }).first();

// Opens the agent's menu and orders, and answers the question if there is one. A new life of the
// agent is a new line, whose menu is closed: then again.
export async function ordered(page, agent, name, done) {
  const row = rowOf(page, agent);
  const button = row.getByRole("button", { name, exact: true });
  await until(`${name} of ${agent} is ordered`, async () => {
    const menu = row.locator("details");
    if (!(await menu.evaluate((it) => it.open))) await menu.locator("summary").click({ timeout: 10_000 });
    await button.click({ timeout: 10_000 });
    return true;
  }, Boolean);
  if (await page.locator("#question").isVisible()) await sure(page);
  await told(page, done);
}
