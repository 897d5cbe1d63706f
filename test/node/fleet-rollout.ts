import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { fleetConfig, fleetKey, startNodeS3 } from "../support/fleet.ts";
import { eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

/**
 * Three nodes with one object that changes under load, with bad ones between: no answer is mixed of two objects, and none gives
 * the instance role. Not a part of the suite: `make test-fleet` (IMDSPROXY_ROLLOUTS=N: how many objects; default 20).
 */

const NODES = 3;
const ROLLOUTS = Number(process.env["IMDSPROXY_ROLLOUTS"] ?? 20);
const PROGRAM = readFileSync("test/support/stand-ins/asking.py", "utf8");

/** Of one generation: the names of rule, role and session all say which. */
const rules = (generation: number) => `rules:
  - name: g${generation}
    match: { user: alice }
    role: arn:aws:iam::842413447717:role/g${generation}
    sessionName: "g${generation}@{user}"
`;

describeAsRoot("a rollout", () => {
  test("under load: each answer is of one object, and none is open", async () => {
    const fleet = fleetKey();
    const nodes = await Promise.all(
      Array.from({ length: NODES }, async () => {
        const holder: { s3?: Awaited<ReturnType<typeof startNodeS3>> } = {};
        const proxied = await startProxiedNode(
          {},
          { role: null, config: fleetConfig(fleet.publicKey), imds: { tokens: "optional" } },
          async (node) => {
            holder.s3 = await startNodeS3(node);
          },
        );
        return { ...proxied, s3: holder.s3 as Awaited<ReturnType<typeof startNodeS3>> };
      }),
    );
    try {
      const fetching = async (object: string) =>
        Promise.all(
          nodes.map(async ({ node, s3 }) => {
            s3.put(object);
            const { exitCode } = await node.exec({
              user: "root",
              argv: ["/run/bin/imdsproxy", "config", "fetch"],
            });
            return exitCode;
          }),
        );
      const askers = nodes.map(({ node }) =>
        node.spawn({ user: "alice", argv: ["python3", "-c", PROGRAM, "/run/stop"], timeoutMs: 0 }),
      );
      const good = Array.from({ length: NODES }, () => 0);
      const bad = Array.from({ length: NODES }, () => 1);
      for (let generation = 1; generation <= ROLLOUTS; generation++) {
        const object = fleet.sign(generation, rules(generation));
        expect(await fetching(object)).toEqual(good);
        // Somebody changes it, cuts it off, or brings the one of before back.
        const attacks = [object.replace(`role/g${generation}`, "role/admin"), object.slice(0, -9)];
        if (generation > 1) attacks.push(fleet.sign(generation - 1, rules(generation - 1)));
        expect(await fetching(attacks[generation % attacks.length] ?? "")).toEqual(bad);
        await eventually(`every node has generation ${generation}`, async () =>
          nodes.every(({ proxy }) => proxy.output().includes(`"serial":${generation},`)),
        );
      }
      for (const { node } of nodes) node.write("/run/stop", "");
      const found = await Promise.all(askers.map(async ({ done }) => JSON.parse((await done).stdout)));
      const total: Record<string, number> = {};
      for (const counts of found as Record<string, number>[])
        for (const [key, count] of Object.entries(counts)) total[key] = (total[key] ?? 0) + count;
      // Before its first object a node refuses her.
      const mixed = Object.keys(total).filter(
        (key) => !/^(?:None None None|g(\d+) g\1 g\1@alice)$/.test(key),
      );
      const answers = Object.values(total).reduce((sum, count) => sum + count, 0);
      console.log(
        `${answers} answers of ${NODES} nodes over ${ROLLOUTS} objects, ${mixed.length} kinds mixed or open`,
      );
      expect(mixed).toEqual([]);
      expect(Object.keys(total).length).toBeGreaterThan(ROLLOUTS / 2);
    } finally {
      await Promise.all(nodes.map(({ node }) => node.stop()));
    }
  }, 600_000);
});
