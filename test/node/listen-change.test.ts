import { afterAll, beforeAll, expect, test } from "bun:test";
import { mustExec } from "../support/node.ts";
import {
  eventually,
  getWithToken,
  type ProxiedNode,
  startProxiedNode,
  testConfig,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

/** Another `listen` in the configuration of a node that works: users have their role all the time. */

const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;
const CONFIG = "/etc/imdsproxy/config.yaml";
const LIST = "/latest/meta-data/iam/security-credentials/";

describeAsRoot("where `listen` changes while the proxy and the watch run", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({}, { listen: "127.0.0.1:254" });
    await shell("imdsproxy iptables watch >/run/watch.log 2>&1 & echo $! >/run/watch.pid");
    await eventually("the rules are known", async () =>
      (await shell("cat /run/imdsproxy/rules.json 2>/dev/null || :")).includes('"tables"'),
    );
  });
  afterAll(async () => {
    await shell("kill $(cat /run/watch.pid)");
    await proxied?.node.stop();
  });

  const shell = (line: string) => mustExec(proxied.node, ROOT, ["sh", "-euc", line]);
  const textOf = (port: number) => JSON.stringify(testConfig(proxied.node, { listen: `127.0.0.1:${port}` }));
  const replace = async (port: number) => {
    proxied.node.write(`${CONFIG}.new`, textOf(port));
    await shell(`mv ${CONFIG}.new ${CONFIG}`);
  };
  const isServed = async () => expect((await getWithToken(proxied.node, ALICE, LIST)).status).toBe(200);
  const leadsTo = async (port: number) =>
    (await shell("iptables-save -t nat")).includes(`--to-destination 127.0.0.1:${port}`);
  /** Asks as alice until the rules lead to the port: she is served each time, before and after. */
  const servedUntil = async (port: number) => {
    await eventually(`the rules lead to ${port}`, async () => {
      await isServed();
      return leadsTo(port);
    });
    await isServed();
  };
  const log = () => shell("cat /run/watch.log");

  test("by another file that is renamed over it: the proxy listens there as well, and the rules follow", async () => {
    await isServed();
    await replace(300);
    await servedUntil(300);
    expect(proxied.proxy.output()).toContain('"listens at one more address"');
    const { stdout } = await proxied.node.exec({ ...ROOT, argv: ["imdsproxy", "status", "--json"] });
    expect(JSON.parse(stdout)).toMatchObject({ healthy: true, proxy: { running: true } });
    expect(JSON.parse(stdout).proxy.listen).toContain("127.0.0.1:300");
  });

  test("in the file itself: the rules wait until the proxy is told, and say so", async () => {
    const waits = "users are led to 127.0.0.1:300 until the proxy listens at 127.0.0.1:301";
    proxied.node.write(CONFIG, textOf(301));
    await eventually("the watch says that it waits", async () => {
      await isServed();
      return (await log()).includes(waits);
    });
    expect(await leadsTo(300)).toBe(true);
    // Not that the rules are wrong: to apply them would lead users where nobody listens.
    const rules = await proxied.node.exec({ ...ROOT, argv: ["imdsproxy", "iptables", "status"] });
    expect([rules.exitCode, rules.stdout]).toEqual([0, expect.stringContaining(waits)]);
    const status = JSON.parse(
      (await proxied.node.exec({ ...ROOT, argv: ["imdsproxy", "status", "--json"] })).stdout,
    );
    expect(status.rules.inPlace).toBe(true);
    expect(status.notes).toContainEqual(expect.stringContaining(waits));
    expect(status.summary).toContain("was changed since it was loaded");
    process.kill(proxied.proxy.pid, "SIGHUP");
    await servedUntil(301);
    expect((await log()).split(waits).length).toBe(2);
  });

  test("to a port that another program has: the rules stay, status says what is wrong, and the way back is served", async () => {
    const taker = proxied.node.spawn({
      ...ROOT,
      argv: [
        "/usr/bin/setpriv",
        "--reuid=65534",
        "--inh-caps=+net_bind_service",
        "--ambient-caps=+net_bind_service",
        "/usr/bin/python3",
        "-c",
        'import socket,time;s=socket.socket();s.bind(("127.0.0.1",302));s.listen();print("has it",flush=True);time.sleep(3600)',
      ],
      timeoutMs: 0,
    });
    try {
      await eventually("the port is taken", () => taker.stdout().includes("has it"));
      await replace(302);
      await eventually("status says so", async () => {
        await isServed();
        const { stdout } = await proxied.node.exec({ ...ROOT, argv: ["imdsproxy", "status", "--json"] });
        return stdout.includes("the proxy at 127.0.0.1:302 cannot be served");
      });
      expect(await leadsTo(301)).toBe(true);
      await replace(301);
      await eventually("nothing is wrong any more", async () => {
        await isServed();
        const { stdout } = await proxied.node.exec({ ...ROOT, argv: ["imdsproxy", "status", "--json"] });
        return JSON.parse(stdout).healthy;
      });
    } finally {
      taker.kill("SIGKILL");
      await taker.done;
    }
  });
});

describeAsRoot("where IPv6 is switched on after the proxy has started", () => {
  test("users of IPv6 are served soon", async () => {
    const proxied = await startProxiedNode({}, {}, async (node) => {
      await mustExec(node, ROOT, [
        "sysctl",
        "-qw",
        "net.ipv6.conf.all.disable_ipv6=1",
        "net.ipv6.conf.lo.disable_ipv6=1",
      ]);
    });
    try {
      expect(proxied.proxy.output()).not.toContain("[::1]");
      await mustExec(proxied.node, ROOT, [
        "sysctl",
        "-qw",
        "net.ipv6.conf.all.disable_ipv6=0",
        "net.ipv6.conf.lo.disable_ipv6=0",
      ]);
      await eventually("the proxy listens", async () =>
        (await mustExec(proxied.node, ROOT, ["ss", "-Hltn"])).includes("[::1]:254"),
      );
    } finally {
      await proxied.node.stop();
    }
  });
});
