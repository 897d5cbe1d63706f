import { afterAll, beforeAll, expect, test } from "bun:test";
import type { Who } from "../../src/demo/node.ts";
import { mustExec } from "../support/node.ts";
import { eventually, givenCredentials, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";

/** A user who interferes while the proxy starts. */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
/** The ports that the kernel chooses from, few, so that she meets the right one in each start and not in one of a thousand. */
const PORTS = [40_000, 40_015] as const;
const STARTS = 3;
/** How often she tries each of them after a start. */
const ROUNDS = 30;

describeAsRoot("while the proxy starts", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({ show: SHOW_PROGRAMS });
  });
  afterAll(() => proxied?.node.stop());

  test("connections to the port at which it identifies itself, reset at once, do not end it", async () => {
    const { node } = proxied;
    await proxied.proxy.stop();
    await mustExec(node, ROOT, ["sysctl", "-qw", `net.ipv4.ip_local_port_range=${PORTS.join(" ")}`]);
    const stop = "/dev/shm/stop";
    const argv = ["/usr/bin/python3", "/run/attack/hammer.py", ...PORTS.map(String), stop];
    const hammers = [0, 1].map(() => node.spawn({ ...ALICE, argv, timeoutMs: 0 }));
    const rounds = () => Math.min(...hammers.map(({ stdout }) => stdout().length));
    try {
      for (let start = 0; start < STARTS; start++) {
        await proxied.restart();
        const before = rounds();
        await eventually("alice has tried every port again", () => rounds() >= before + ROUNDS);
        const { exitCode, stderr } = await proxied.proxy.stop();
        expect([exitCode, stderr]).toEqual([0, expect.not.stringContaining("rror")]);
      }
    } finally {
      node.write(stop, "");
      await Promise.all(hammers.map(({ done }) => done));
      await mustExec(node, ROOT, ["sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 60999"]);
    }
    await proxied.restart();
    expect((await givenCredentials(node, ALICE)).status).toBe(200);
  }, 180_000);
});
