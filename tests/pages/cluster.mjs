// Three nodes that found a cluster: what one shows of the others, handing over by a button, and a
// node that dies and comes back.

import { check, sure, text, told, until } from "./browser.mjs";
import { accessible, fits } from "./looks.mjs";

export const cluster = ({ browser, urls, apis, please }) => {
  const [ash, birch] = [urls.ash, urls.birch];
  const owner = async (id) => (await apis.ash.get(`/v1/agents/${id}`)).placed;

  return {
    async "the others are seen: their state, their trees and their agents"() {
      const page = await browser.open(ash, "/cluster");
      for (const name of ["ash", "birch", "cedar"]) {
        await page.locator(`#node-${name} .pill`).getByText("up", { exact: true }).waitFor();
      }
      await until("all are connected", () => apis.ash.get("/v1/cluster/nodes"), ({ nodes }) =>
        nodes.filter((node) => node.session?.state === "ready").length === 2
      );
      await accessible(page, "/cluster of three");
      await browser.go(page, `${ash}/tree`);
      await page.getByRole("region", { name: "Tree of birch" }).getByText("worker-1").first().waitFor();
      await page.getByRole("region", { name: "Tree of cedar" }).getByText("worker-1").first().waitFor();
      await browser.go(page, `${ash}/agents?q=cedar`);
      await page.locator("#own-cedar-worker-1").waitFor();
      await page.setViewportSize({ width: 390, height: 844 });
      for (const path of ["/cluster", "/tree", "/agents", "/"]) {
        await browser.go(page, ash + path);
        await fits(page, `${path} of three`);
      }
      await page.close();
    },

    async "a task of another node is listed, searched, shown with its steps, and ordered from here"() {
      const abroad = await apis.birch.submit({ kind: "voyage", goal: "Sail around the cape" });
      const { epoch } = await apis.birch.lease("voyage");
      await apis.birch.settle(abroad.id, "steps", { epoch, key: "set out", input: null, output: "on the way" });
      const page = await browser.open(ash, "/tasks?q=around the cape");
      const row = page.locator(`#t-${abroad.id}`);
      await row.getByText("birch", { exact: true }).waitFor();
      await accessible(page, "/tasks of three");
      await row.getByRole("link", { name: "Sail around the cape" }).click();
      await text(page, "in the queue of node");
      await page.locator("#live[data-state=live]").waitFor();
      await page.locator(".title .pill").getByText("running").waitFor();
      await accessible(page, "a task of another node");
      await page.getByRole("link", { name: "set out", exact: true }).click();
      await text(page, "on the way");
      await browser.go(page, `${ash}/tasks/${abroad.id}`);
      await apis.birch.settle(abroad.id, "release", { epoch });
      await page.locator(".title .pill").getByText("waiting for a worker").waitFor();
      await page.getByRole("button", { name: "Cancel" }).click();
      await sure(page);
      await told(page, "Cancel asked for");
      await page.locator(".title .pill").getByText("cancelled").waitFor();
      check((await apis.birch.get(`/v1/tasks/${abroad.id}`)).state === "cancelled", "it was not cancelled where it is");
      await page.close();
    },

    async "the agents of another node are gone through page by page"() {
      const page = await browser.open(ash, "/tree?node=birch&path=root/agents");
      await text(page, /^1 to \d+ of \d+\.$/);
      await page.locator("#main b").getByText("worker-1", { exact: true }).waitFor();
      await page.close();
    },

    async "an agent is handed over from one node to another by the button"() {
      const page = await browser.open(ash, "/agents");
      await page.locator("#new-id").fill("scout");
      await page.getByRole("button", { name: "Start", exact: true }).last().click();
      await told(page, "It is placed");
      await page.locator("#placed-scout .pill").getByText("runs").waitFor();
      const from = (await until("the scout runs", () => owner("scout"), (it) => it?.state === "owned")).node;
      const to = from === "birch" ? "cedar" : "birch";
      await browser.go(page, `${ash}/agents/scout`);
      await page.locator("#to-scout").selectOption(to);
      await page.getByRole("button", { name: "Hand over" }).click();
      await told(page, "It moves");
      await page.locator(".title").getByText(`on ${to}`).waitFor();
      await page.locator(".title .pill").getByText("runs").waitFor();
      await until("the scout runs there", () => owner("scout"), (it) => it?.node === to && it?.state === "owned");
      await page.close();
    },

    async "a node is drained, kept out and released, and the pages of another one follow"() {
      const page = await browser.open(birch, "/cluster");
      const card = page.locator("#node-cedar");
      await card.getByRole("button", { name: "Drain" }).click();
      await sure(page);
      await card.locator(".pill").getByText("draining").waitFor();
      await card.getByRole("button", { name: "Release" }).click();
      await card.locator(".pill").getByText("up", { exact: true }).waitFor();
      await card.getByRole("button", { name: "Quarantine" }).click();
      await sure(page);
      await card.locator(".pill").getByText(/quarantine|kept out/).waitFor();
      await card.getByRole("button", { name: "Release" }).click();
      await card.locator(".pill").getByText(/^(up|on probation)$/).waitFor();
      await page.close();
    },

    async "a node that dies is seen to be gone, its agent goes on elsewhere, and it comes back"() {
      const placed = await until("the scout runs", () => owner("scout"), (it) => it?.state === "owned");
      // Never the node that is looked at.
      if (placed.node === "ash") {
        await apis.ash.call("POST", "/v1/agents/scout/handoff", { to: "cedar" });
        await until("the scout runs on cedar", () => owner("scout"), (it) => it?.node === "cedar" && it?.state === "owned");
      }
      const dying = (await owner("scout")).node;
      const page = await browser.open(ash, "/cluster");
      please("kill", dying);
      await page.locator(`#node-${dying} .pill`).getByText(/not heard|away|quarantine/).waitFor();
      await browser.go(page, `${ash}/agents/scout`);
      await page.locator(".title").getByText(/on (ash|birch|cedar)/).and(page.locator(`.title :not(:text("on ${dying}"))`)).first().waitFor();
      await until("the scout goes on", () => owner("scout"), (it) => it?.node && it.node !== dying && it.state === "owned");
      please("start", dying);
      await browser.go(page, `${ash}/cluster`);
      await page.locator(`#node-${dying} .pill`).getByText(/^(up|on probation)$/).waitFor();
      await text(page, "3 nodes are known");
      check(dying !== "ash", "the wrong node died");
      await page.close();
    },
  };
};
