import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { ADDRESSES } from "../../src/demo/network.ts";
import type { Running } from "../../src/demo/run.ts";
import { curl, IMDS4 } from "../support/node.ts";
import {
  credentialsOf,
  eventually,
  getWithToken,
  type ProxiedNode,
  startProxiedNode,
  TOKEN_HEADER,
  testConfig,
  tokenOf,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";

/** Alice wants to answer in the proxy's place, or in the place of what it asks; or to make what only it can make. */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
const ALICE_UID = 2001;

describeAsRoot("standing in", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({ show: SHOW_PROGRAMS });
    node = proxied.node;
  });
  afterAll(() => node?.stop());

  /** Alice takes a port; the first thing that comes of it. */
  async function impostor(address: string, port: number, ...options: string[]): Promise<Running> {
    const argv = ["/usr/bin/python3", "/run/attack/impostor.py", address, String(port), ...options];
    const running = node.spawn({ ...ALICE, argv, timeoutMs: 0 });
    await eventually("it says what came of it", () => running.stdout() !== "");
    return running;
  }
  const said = (running: Running) => running.stdout().split("\n")[0];
  /** `serve` with other flags; it must end by itself. */
  const refusedStart = (...flags: string[]) =>
    node.exec({ ...ROOT, argv: ["/run/bin/imdsproxy", "serve", ...flags], timeoutMs: 40_000 });

  const PLACES = [
    ["127.0.0.1"],
    ["127.0.0.1", "SO_REUSEPORT"],
    ["127.0.0.1", "SO_REUSEADDR"],
    ["0.0.0.0"],
    ["0.0.0.0", "SO_REUSEPORT"],
    ["127.0.0.2"],
    ["::1"],
    ["::", "SO_REUSEPORT"],
  ] as const;
  for (const up of [true, false]) {
    test(`for the proxy while it is ${up ? "there" : "down"}: its port is nobody's but root's`, async () => {
      if (!up) await proxied.proxy.stop();
      try {
        for (const [address, ...options] of PLACES) {
          const running = await impostor(address, 254, ...options);
          expect([address, ...options, said(running)]).toEqual([address, ...options, "EACCES"]);
        }
        // A port that is hers to take shows that the attempt is sound.
        const hers = await impostor("127.0.0.1", 9_988);
        expect(said(hers)).toBe("listening");
        hers.kill("SIGKILL");
        await hers.done;
        if (!up) expect((await curl(node, BOB, `${IMDS4}/latest/meta-data/`)).exitCode).toBe(7);
      } finally {
        if (!up) await proxied.restart();
      }
    });
  }

  test("with SO_REUSEPORT beside a proxy whose port is above 1023 and shared: the port is its uid's alone", async () => {
    await proxied.proxy.stop();
    const config = testConfig(node, { listen: "127.0.0.1:9988" });
    const high = await node.startProxy({ config, flags: ["--share-port"], port: 9_988 });
    try {
      await eventually("it warns of the port", () => high.output().includes("the port is above 1023"));
      const running = await impostor("127.0.0.1", 9_988, "SO_REUSEPORT");
      expect(said(running)).toBe("EADDRINUSE");
    } finally {
      await high.stop();
      node.write("/etc/imdsproxy/config.yaml", JSON.stringify(testConfig(node)));
      await proxied.restart();
    }
  });

  describe("for the agent, whose port is above 1023", () => {
    // Both places from which she would get what is sent to the agent.
    for (const address of [ADDRESSES.agent, "0.0.0.0"]) {
      test(`at ${address} while it is away: nobody gets anything that she made up`, async () => {
        await proxied.proxy.stop();
        await node.agent?.set({ fault: "refuse" });
        const alice = await impostor(address, ADDRESSES.agentPort);
        try {
          expect(said(alice)).toBe("listening");
          await proxied.restart();
          const answer = await getWithToken(
            node,
            BOB,
            "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole",
          );
          expect([answer.status, answer.body.includes("IMPOSTOR")]).toEqual([503, false]);
          const region = await getWithToken(node, BOB, "/latest/meta-data/placement/region");
          expect([region.status, region.body.includes("impostor")]).toEqual([503, false]);
          await eventually("the log says who it is", () =>
            proxied.proxy
              .output()
              .includes(`uid ${ALICE_UID} answers at ${ADDRESSES.agent}:${ADDRESSES.agentPort}`),
          );
          // The token of the agent and the names that we ask for are not hers to see either.
          expect(alice.stdout()).toBe("listening\n");
        } finally {
          alice.kill("SIGKILL");
          await alice.done;
          await node.agent?.set({ fault: "none" });
        }
        await eventually(
          "it heals once the agent is back",
          async () => {
            const { status, body } = await credentialsOf(node, BOB);
            return status === 200 && body.includes("SESSION/ImdsProxyTestRole/");
          },
          // A session that could not be had is tried for again after a minute at the most.
          80_000,
        );
      }, 240_000);
    }
    test("between two requests, on the proxy's own connections: the next answer is nobody's", async () => {
      await node.agent?.set({ fault: "refuse" });
      const alice = await impostor(ADDRESSES.agent, ADDRESSES.agentPort);
      try {
        // A category that is not in memory yet: it has to be asked for.
        const answer = await getWithToken(node, BOB, "/latest/meta-data/instance-type");
        expect([answer.status, answer.body.includes("impostor")]).toEqual([503, false]);
      } finally {
        alice.kill("SIGKILL");
        await alice.done;
        await node.agent?.set({ fault: "none" });
      }
    });
  });

  describe("what is the service's own", () => {
    test("state directory, key and configuration are not hers to read or to write", async () => {
      const script = [
        "cat /var/lib/imdsproxy/token.key",
        "ls /var/lib/imdsproxy",
        "touch /var/lib/imdsproxy/x",
        "rm -f /var/lib/imdsproxy/token.key",
        "mv /var/lib/imdsproxy /var/lib/y",
        "echo x >> /etc/imdsproxy/config.yaml",
        "rm -f /etc/imdsproxy/config.yaml",
      ];
      for (const line of script) {
        const { exitCode } = await node.exec({ ...ALICE, argv: ["sh", "-c", line] });
        expect([line, exitCode === 0]).toEqual([line, false]);
      }
      expect(readFileSync(node.path("/var/lib/imdsproxy/token.key"))).toHaveLength(32);
    });

    test("a configuration that others can change, or replace, stops the start", async () => {
      const text = JSON.stringify(testConfig(node));
      const path = (name: string) => node.path(name);
      const flagged = async (file: string, because: RegExp) => {
        const { exitCode, stderr } = await refusedStart("--config", file);
        expect([exitCode, stderr]).toEqual([1, expect.stringMatching(because)]);
        expect(stderr).toContain("make it root's own: chown root");
      };
      node.write("/etc/imdsproxy/open.yaml", text);
      chmodSync(path("/etc/imdsproxy/open.yaml"), 0o666);
      await flagged("/etc/imdsproxy/open.yaml", /open\.yaml can be changed by others: its mode is 666/);

      node.write("/etc/imdsproxy/alices.yaml", text);
      chownSync(path("/etc/imdsproxy/alices.yaml"), ALICE_UID, ALICE_UID);
      await flagged(
        "/etc/imdsproxy/alices.yaml",
        /alices\.yaml can be changed by others: it belongs to uid 2001/,
      );

      // Root's own file in a directory of hers: she cannot write it, and can put another in its place.
      node.write("/run/home/alice/config.yaml", text);
      await flagged(
        "/run/home/alice/config.yaml",
        /lies below \/run\/home\/alice, and that can be changed by others/,
      );

      node.write("/etc/imdsproxy/group/config.yaml", text);
      chmodSync(path("/etc/imdsproxy/group"), 0o775);
      await flagged(
        "/etc/imdsproxy/group/config.yaml",
        /lies below \/etc\/imdsproxy\/group, and that .* its mode is 775/,
      );

      // A link of hers to a file that is in order.
      symlinkSync("/etc/imdsproxy/config.yaml", path("/run/home/alice/link.yaml"));
      await flagged("/run/home/alice/link.yaml", /lies below \/run\/home\/alice/);
      unlinkSync(path("/run/home/alice/link.yaml"));
    });

    test("a state directory that others can write, or read the key in, stops the start", async () => {
      const flagged = async (directory: string, because: RegExp) => {
        const { exitCode, stderr } = await refusedStart(
          "--state-dir",
          directory,
          "--listen",
          "127.0.0.1:987",
        );
        expect([exitCode, stderr]).toEqual([1, expect.stringMatching(because)]);
      };
      const make = (directory: string, mode: number) => {
        mkdirSync(node.path(directory), { recursive: true });
        chmodSync(node.path(directory), mode);
      };
      make("/var/lib/open", 0o777);
      await flagged("/var/lib/open", /can be written by others/);
      make("/var/lib/hers", 0o700);
      chownSync(node.path("/var/lib/hers"), ALICE_UID, ALICE_UID);
      await flagged("/var/lib/hers", /belongs to uid 2001/);
      make("/run/home/alice/state", 0o700);
      await flagged("/run/home/alice/state", /below \/run\/home\/alice/);
      make("/var/lib/readable", 0o700);
      writeFileSync(node.path("/var/lib/readable/token.key"), new Uint8Array(32));
      chmodSync(node.path("/var/lib/readable/token.key"), 0o644);
      await flagged("/var/lib/readable", /can be read or written by others/);
    });
  });

  test("a token of hers is no use to bob, and nothing that she can compute makes one", async () => {
    const hers = await tokenOf(node, ALICE);
    const bobs = await tokenOf(node, BOB);
    const status = async (who: Who, token: string) =>
      (
        await curl(node, who, `${IMDS4}/latest/meta-data/placement/region`, [
          "-H",
          `${TOKEN_HEADER}: ${token}`,
        ])
      ).status;
    // The agent, which was away, has half a second to accept a connection.
    await eventually("the region is known again", async () => (await status(ALICE, hers)) === 200);
    expect([await status(ALICE, hers), await status(BOB, bobs)]).toEqual([200, 200]);
    expect([await status(BOB, hers), await status(ALICE, bobs)]).toEqual([401, 401]);

    const bytes = Buffer.from(hers, "base64url");
    const forged = [
      // A longer life; another format; the code of the empty key; each part of one and the rest of the other.
      Buffer.concat([bytes.subarray(0, 5), Buffer.from([0xff]), bytes.subarray(6)]),
      Buffer.concat([Buffer.from([2]), bytes.subarray(1)]),
      Buffer.concat([
        bytes.subarray(0, 10),
        new Bun.CryptoHasher("sha256", "").update(bytes.subarray(0, 10)).digest(),
      ]),
      Buffer.concat([bytes.subarray(0, 10), Buffer.from(bobs, "base64url").subarray(10)]),
      Buffer.alloc(42),
      Buffer.alloc(42, 0xff),
    ].map((forgery) => forgery.toString("base64url"));
    const spelled = [
      `${hers}=`,
      `${hers.slice(0, -1)}`,
      `${hers}A`,
      hers.toLowerCase(),
      hers.replaceAll("_", "/"),
      "A".repeat(56),
    ];
    for (const token of [...forged, ...spelled]) {
      // Made within one second, the two have the same end: then one of these is bob's own.
      if (token === hers || token === bobs) continue;
      expect([token.length, await status(ALICE, token)]).toEqual([token.length, 401]);
      expect([token.length, await status(BOB, token)]).toEqual([token.length, 401]);
    }
  });
});
