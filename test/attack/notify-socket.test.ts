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
/** Makes a connection and keeps it. */
const CONNECT = "import socket,time; s=socket.create_connection(('169.254.169.254',80)); time.sleep(600)";
/** Sends a message, as systemd-notify(1) does: argv is the socket and the message. */
const SAY =
  "import socket,sys; socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM).sendto(sys.argv[2].encode(),sys.argv[1])";

describeAsRoot("systemd's queue of notifications:", () => {
  let node: SimulatedNode;
  let proxy: RunningProxy;
  let systemd: Running;
  const told = () => systemd.stdout();
  const running: Running[] = [];
  const python = (user: string, ...argv: string[]): Running => {
    const one = node.spawn({ user, argv: ["/usr/bin/python3", ...argv], timeoutMs: 0 });
    running.push(one);
    return one;
  };

  beforeAll(async () => {
    const proxied = await startProxiedNode({ show: SHOW_PROGRAMS });
    ({ node } = proxied);
    systemd = python("root", "/run/attack/notified.py", SOCKET, PAUSE);
    await eventually("it listens", async () => {
      const { exitCode } = await node.exec({ user: "root", argv: ["test", "-S", SOCKET] });
      return exitCode === 0;
    });
    await proxied.proxy.stop();
    // A message in 0.1 s.
    proxy = await node.startProxy({ env: { NOTIFY_SOCKET: SOCKET, WATCHDOG_USEC: "300000" } });
    await eventually("it is ready, and well", () => told().includes("0 READY=1\n0 WATCHDOG=1"));
  });
  afterAll(async () => {
    for (const one of running) one.kill("SIGKILL");
    await node?.stop();
  });

  test("while the proxy accepts no connection the log says so, and systemd is not told that it is well", async () => {
    // No descriptor is left: Bun's accept(2) fails, which Bun says to nobody.
    const files = (limits: string) =>
      expect(Bun.spawnSync(["prlimit", `--pid=${proxy.pid}`, `--nofile=${limits}`]).stderr.toString()).toBe(
        "",
      );
    files("1:4096");
    const bob = python("bob", "-c", CONNECT);
    await eventually("the log says why", () => /connections cannot be accepted.*EMFILE/.test(proxy.output()));
    // What root sends after that comes after all that the proxy had sent before.
    const mark = "0 MARK=1\n";
    await node.exec({ user: "root", argv: ["/usr/bin/python3", "-c", SAY, SOCKET, mark.slice(2, -1)] });
    await eventually("it has been read", () => told().includes(mark));
    const since = () => told().slice(told().indexOf(mark));
    // Ten times as long as from one message to the next.
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    expect(since()).toBe(mark);

    files("4096:4096");
    await eventually("systemd is told again", () => since().includes("0 WATCHDOG=1"));
    expect((await givenCredentials(node, { user: "bob" })).status).toBe(200);
    bob.kill("SIGKILL");
  });

  test("alice keeps it full: bob is served, and systemd is told in time that the proxy is well", async () => {
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
