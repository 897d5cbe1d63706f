import { afterAll, beforeAll, expect, test } from "bun:test";
import { mustExec, startTestNode } from "../support/node.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

/** A kernel without routing rules by port (before linux 4.17), as far as uname(2) tells: setarch(8) has it say 2.6. */

const ROOT = { user: "root" } as const;

describeAsRoot("on a kernel that is too old for the second wall", () => {
  let node: SimulatedNode;
  const imdsproxy = (...args: string[]) =>
    node.exec({ ...ROOT, argv: ["setarch", "--uname-2.6", "imdsproxy", ...args] });

  beforeAll(async () => {
    node = await startTestNode();
  });
  afterAll(() => node?.stop());

  test("apply brings the rules, and says why there is no wall and how long a flush stays open", async () => {
    const before = await mustExec(node, ROOT, ["ip", "rule"]);
    const { exitCode, stderr } = await imdsproxy("iptables", "apply");
    expect([exitCode, stderr]).toEqual([
      0,
      expect.stringMatching(
        /^note: no second wall: linux 2\.6\.\S+ has no routing rules by port \(4\.17 has\): a flush of the firewall by others opens the node to every user until the watch has repaired it \(about 0\.1 s; iptables-legacy: up to 2 s; without the watch: for good\)$/m,
      ),
    ]);
    expect(await mustExec(node, ROOT, ["ip", "rule"])).toBe(before);
  });
  test("status says so too, and finds nothing wrong with it", async () => {
    const { exitCode, stdout } = await imdsproxy("iptables", "status");
    expect([exitCode, stdout]).toEqual([0, expect.stringContaining("linux 2.6.")]);
    const { wall } = JSON.parse((await imdsproxy("iptables", "status", "--json")).stdout) as {
      wall: { unavailable: string; problems: string[] };
    };
    expect([wall.unavailable.slice(0, 9), wall.problems]).toEqual(["linux 2.6", []]);
  });
  test("list and remove do without it", async () => {
    expect((await imdsproxy("iptables", "list")).exitCode).toBe(0);
    expect((await imdsproxy("iptables", "remove")).exitCode).toBe(0);
    expect(await mustExec(node, ROOT, ["iptables-save"])).not.toContain("IMDSPROXY");
  });
});
