import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { assumed, eventually, givenCredentials, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

const [ALICE, BOB, CAROL] = ["alice", "bob", "carol"].map((user) => ({ user })) as [
  { user: string },
  { user: string },
  { user: string },
];
const USERS = [
  { name: "alice", uid: 2001 },
  { name: "bob", uid: 2002 },
  { name: "carol", uid: 2003 },
];

describeAsRoot("after a restart", () => {
  test("the sessions of who asked before are made anew, before they ask again, killed or stopped", async () => {
    const proxied = await startProxiedNode({ users: USERS });
    const { node } = proxied;
    const file = node.path("/var/lib/imdsproxy/callers.json");
    const kept = () => (existsSync(file) ? readFileSync(file, "utf8") : "");
    // The proxy tries its default role at each start, at a time of its own.
    const users = async () =>
      (await assumed(node)).map((name) => name.split("@")[0]).filter((name) => name !== "imdsproxy-check");
    try {
      expect((await givenCredentials(node, ALICE)).status).toBe(200);
      await eventually("alice is written down", () => kept().includes("[2001,null,"));
      await proxied.proxy.stop("SIGKILL");
      await node.sts.clearLog();
      await proxied.restart();
      // Within half a minute, at a moment of chance.
      await eventually("alice's is made", async () => (await users()).includes("alice"), 90_000);
      expect(await users()).toEqual(["alice"]);

      expect((await givenCredentials(node, BOB)).status).toBe(200);
      await proxied.proxy.stop();
      expect(kept()).toContain("[2002,null,");
      await node.sts.clearLog();
      await proxied.restart();
      await eventually(
        "both are made",
        async () => (await users()).filter((name) => name === "alice" || name === "bob").length === 2,
        90_000,
      );
      expect(await users()).not.toContain(CAROL.user);
      await node.sts.clearLog();
      expect((await givenCredentials(node, BOB)).status).toBe(200);
      expect(await users()).toEqual([]);
      expect(kept()).not.toMatch(/alice|bob|SESSION|ASIA/);
    } finally {
      await node.stop();
    }
  }, 300_000);
});
