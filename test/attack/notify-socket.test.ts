import { afterAll, beforeAll, expect, test } from "bun:test";
import type { RunningProxy } from "../../src/demo/proxy.ts";
import type { Running } from "../../src/demo/run.ts";
import { eventually, givenCredentials, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";

/**
 * The socket by which services tell systemd that they are well is everybody's to write to. A user who keeps its queue full must not
 * have the proxy wait there, nor keep from systemd that it is well, or systemd would kill it.
 */

const SOCKET = "/run/notify";
const PAUSE = "/run/pause";

describeAsRoot("while alice keeps systemd's queue of notifications full,", () => {
  let node: SimulatedNode;
  let first: RunningProxy;
  const running: Running[] = [];
  const python = (user: string, ...argv: string[]): Running => {
    const one = node.spawn({ user, argv: ["/usr/bin/python3", ...argv], timeoutMs: 0 });
    running.push(one);
    return one;
  };

  beforeAll(async () => {
    ({ node, proxy: first } = await startProxiedNode({ show: SHOW_PROGRAMS }));
  });
  afterAll(async () => {
    for (const one of running) one.kill("SIGKILL");
    await node?.stop();
  });

  test("bob is served, and systemd is told in time that the proxy is well", async () => {
    const systemd = python("root", "/run/attack/notified.py", SOCKET, PAUSE);
    await eventually("it listens", async () => {
      const { exitCode } = await node.exec({ user: "root", argv: ["test", "-S", SOCKET] });
      return exitCode === 0;
    });
    await first.stop();
    // A message in 0.1 s.
    const env = { NOTIFY_SOCKET: SOCKET, WATCHDOG_USEC: "300000" };
    const proxy = await node.startProxy({ env });
    const told = () => systemd.stdout();
    await eventually("it is ready, and well", () => told().includes("0 READY=1\n0 WATCHDOG=1"));

    node.write(PAUSE, "");
    await eventually("systemd reads nothing", () => told().includes("paused"));
    const alice = python("alice", "/run/attack/notifier.py", SOCKET, "40");
    await eventually("its queue is full", () => alice.stdout().includes("full"));
    const before = told().length;
    for (let asked = 0; asked < 3; asked++) {
      const { status, body } = await givenCredentials(node, { user: "bob" });
      expect(status).toBe(200);
      expect(JSON.parse(body)).toMatchObject({ Code: "Success" });
    }

    await node.exec({ user: "root", argv: ["rm", PAUSE] });
    await eventually("it is told, while she goes on", () => told().slice(before).includes("0 WATCHDOG=1"));
    await proxy.stop();
  });
});
