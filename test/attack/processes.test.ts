import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { mustExec } from "../support/node.ts";
import { givenCredentials, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";
import { SHOW_PROGRAMS, victim } from "./support/attack.ts";
import { removeCgroup } from "./support/process-limit.ts";

/**
 * A node on which no process and no thread can be made any more. To the proxy that is the same as a limit of its own cgroup:
 * fork(2) and clone(2) fail with EAGAIN.
 */

const ROOT: Who = { user: "root" };
const BOB: Who = { user: "bob" };
/** Where the controller pids is: cgroup v1's own hierarchy, or v2. */
const HIERARCHY = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].find(
  (path) =>
    existsSync(`${path}/tasks`) ||
    (existsSync(`${path}/cgroup.subtree_control`) &&
      readFileSync(`${path}/cgroup.subtree_control`, "utf8").includes("pids")),
);

describeAsRoot("while no process and no thread can be made:", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  const cgroup = `${HIERARCHY}/imdsproxy-test-${process.pid}`;

  beforeAll(async () => {
    proxied = await startProxiedNode({ show: SHOW_PROGRAMS });
    node = proxied.node;
    await givenCredentials(node, BOB);
    await victim(node, BOB, 1, 5);
  });
  afterAll(async () => {
    await node?.stop();
    if (existsSync(cgroup)) {
      await removeCgroup(cgroup);
    }
  });

  test.skipIf(HIERARCHY === undefined)("users with a session are served, and root", async () => {
    mkdirSync(cgroup);
    writeFileSync(`${cgroup}/cgroup.procs`, String(proxied.proxy.pid));
    // Fewer than there are: what is there goes on, and nothing is added.
    writeFileSync(`${cgroup}/pids.max`, "1");
    const { failures, rounds } = await victim(node, BOB, 3, 5, undefined, 11);
    expect(failures).toEqual({});
    expect(rounds).toBeGreaterThan(10);
    const root = await mustExec(node, ROOT, [
      "curl",
      "-sf",
      "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    ]);
    expect(root).toContain(node.roleName);
    // The limit was there all the while.
    expect(readFileSync(`${cgroup}/pids.max`, "utf8").trim()).toBe("1");
    expect(Number(readFileSync(`${cgroup}/pids.current`, "utf8"))).toBeGreaterThan(1);
  });
});
