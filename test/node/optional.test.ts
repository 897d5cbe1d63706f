import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Running } from "../../src/demo/run.ts";
import { curl, IMDS6, mustExec } from "../support/node.ts";
import {
  credentialsOf,
  eventually,
  givenCredentials,
  type ProxiedNode,
  startProxiedNode,
  testConfig,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";

/** What the proxy can be without: its users are served, it says what is missing, and takes it as soon as it can. */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
const METRICS = "http://127.0.0.1:9254/metrics";
const SERVED = "SESSION/ImdsProxyTestRole/";
/** A listener that could not be had is tried again after 1, 2, 4, 8, 16, and then each 30 s. */
const RETRIED_WITHIN_MS = 60_000;
const TIMEOUT_MS = 180_000;

describeAsRoot("what is optional", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({}, { metrics: { listen: "127.0.0.1:9254" } });
    node = proxied.node;
  });
  afterAll(() => node?.stop());

  const take = async (who: Who, address: string, port: number): Promise<Running> => {
    const family = address.includes(":") ? "AF_INET6" : "AF_INET";
    const line = `import socket,time; s=socket.socket(socket.${family}); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.bind(('${address}',${port})); s.listen(); print('taken',flush=True); time.sleep(600)`;
    const running = node.spawn({ ...who, argv: ["/usr/bin/python3", "-c", line], timeoutMs: 0 });
    await eventually(
      "the port is taken",
      () => running.stdout().includes("taken") || running.stderr() !== "",
    );
    expect(running.stderr()).toBe("");
    return running;
  };
  const give = async (running: Running) => {
    running.kill("SIGKILL");
    await running.done;
  };
  const status = async () =>
    (await node.exec({ ...ROOT, argv: ["/run/bin/imdsproxy", "iptables", "status"] })).stdout;
  const metrics = async () => (await curl(node, ROOT, METRICS, ["--max-time", "5"])).body;

  describe("metrics", () => {
    test(
      "alice takes their port: over three restarts everybody is served, and status says what is missing",
      async () => {
        await proxied.proxy.stop();
        const alice = await take(ALICE, "127.0.0.1", 9254);
        try {
          for (let round = 0; round < 3; round++) {
            await proxied.restart();
            expect((await givenCredentials(node, BOB)).body).toContain(SERVED);
            await eventually("the log says so", () =>
              proxied.proxy.output().includes("metrics cannot be served"),
            );
            const said = await status();
            expect(said).toContain("127.0.0.1:9254: the port is taken");
            expect(said).toContain("another metrics.listen, below 1024");
            if (round < 2) await proxied.proxy.stop(round === 0 ? "SIGTERM" : "SIGKILL");
          }
        } finally {
          await give(alice);
        }
        await eventually(
          "they are there once she is gone",
          async () => (await metrics()).includes("imdsproxy_requests_total"),
          RETRIED_WITHIN_MS,
        );
        expect(await status()).not.toContain("9254");
      },
      TIMEOUT_MS,
    );

    test("a reload while somebody else has the port changes nothing for callers", async () => {
      await proxied.proxy.stop();
      const alice = await take(ALICE, "127.0.0.1", 9254);
      try {
        await proxied.restart();
        process.kill(proxied.proxy.pid, "SIGHUP");
        await eventually("it is loaded", () => proxied.proxy.output().includes("was loaded again"));
        expect((await givenCredentials(node, BOB)).body).toContain(SERVED);
      } finally {
        await give(alice);
      }
    });

    test("an address that the node does not have is no end either", async () => {
      await proxied.proxy.stop();
      node.write(
        "/etc/imdsproxy/config.yaml",
        JSON.stringify(testConfig(node, { metrics: { listen: "10.99.99.99:9254" } })),
      );
      try {
        await proxied.restart();
        expect((await givenCredentials(node, BOB)).body).toContain(SERVED);
        expect(await status()).toContain("10.99.99.99:9254");
        await proxied.proxy.stop();
      } finally {
        node.write("/etc/imdsproxy/config.yaml", JSON.stringify(testConfig(node)));
        await proxied.restart();
      }
    });
  });

  test(
    "the IPv6 side: while somebody has its port, IPv4 is served, and IPv6 as soon as it is free",
    async () => {
      if (!node.ipv6) return;
      await proxied.proxy.stop();
      const other = await take(ROOT, "::1", 254);
      try {
        await proxied.restart();
        expect((await givenCredentials(node, BOB)).body).toContain(SERVED);
        expect(await status()).toContain("[::1]:254: the port is taken");
      } finally {
        await give(other);
      }
      await eventually(
        "IPv6 is served",
        async () => (await credentialsOf(node, BOB, IMDS6).catch(() => ({ body: "" }))).body.includes(SERVED),
        RETRIED_WITHIN_MS,
      );
    },
    TIMEOUT_MS,
  );

  test("a place for the key: on a full disk, tokens are of this process alone, and bob is served", async () => {
    await proxied.proxy.stop();
    await mustExec(node, ROOT, [
      "sh",
      "-ec",
      "mkdir -p /run/full && mount -t tmpfs -o size=4k,nr_inodes=2 none /run/full && touch /run/full/x",
    ]);
    const flags = ["--state-dir", "/run/full/imdsproxy"];
    const proxy = await node.startProxy({ flags });
    try {
      expect((await givenCredentials(node, BOB)).body).toContain(SERVED);
      await eventually("the log says so", () => proxy.output().includes("their key is only in memory"));
      expect(await status()).toContain("the key of the tokens is only in memory");
    } finally {
      await proxy.stop();
      await proxied.restart();
    }
  });
});
