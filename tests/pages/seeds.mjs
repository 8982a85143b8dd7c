// What there is to see on a node: tasks in every state that stays.

export async function seeded(api) {
  const seeds = {};
  seeds.translate = await api.submit({ kind: "translate", goal: "Translate the manual", priority: "high", tenant: "acme", payload: { page: 7 } });
  seeds.deploy = await api.submit({ kind: "deploy", goal: "Deploy to production", requires_approval: true });
  seeds.broken = await api.submit({ kind: "break", goal: "Break on purpose", max_attempts: 1 });
  const broken = await api.lease("break");
  await api.settle(seeds.broken.id, "fail", { epoch: broken.epoch, error: "the disk of the test is <full>" });
  seeds.family = await api.submit({ kind: "family", goal: "Publish the book" });
  const parent = await api.lease("family");
  await api.settle(seeds.family.id, "steps", {
    epoch: parent.epoch,
    key: "outline",
    input: { chapters: 3 },
    output: "one, two, three",
    cost: { usd: 0.012, tokens_in: 900, tokens_out: 120, calls: 1 },
  });
  await api.settle(seeds.family.id, "children", {
    epoch: parent.epoch,
    children: [
      { kind: "chapter", goal: "Write chapter one" },
      { kind: "chapter", goal: "Write chapter two" },
      { kind: "bind", goal: "Bind the book", after: [0, 1] },
    ],
  });
  return seeds;
}
