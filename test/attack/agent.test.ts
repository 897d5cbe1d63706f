import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { DEFAULT_FACTS } from "../../src/demo/imds/tree.ts";
import { ADDRESSES } from "../../src/demo/network.ts";
import type { Running } from "../../src/demo/run.ts";
import { type CurlAnswer, curl, IMDS4, mustExec } from "../support/node.ts";
import {
  applyRules,
  eventually,
  getWithToken,
  type ProxiedNode,
  startProxiedNode,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";
import { letPeopleAnswer } from "./support/agents-place.ts";
import { SHOW_PROGRAMS, whileStopped } from "./support/attack.ts";

/**
 * Alice wants to be HyperPod's agent to the proxy while the agent restarts: to see a token of the node's metadata service, or
 * to have her own answers believed, by the proxy or by other users. The agent itself may be stopped, slow, or gone.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
const AT = [ADDRESSES.agent, String(ADDRESSES.agentPort)];
const PLACE = AT.join(":");
/** What her programs make up: a word that no random token has by chance. */
const FORGED = /impostor/i;
/** The proxy's restarts in the first test: on a slow machine fewer, in the time that it has. */
const ROUNDS = 8;
const ROUNDS_MS = 90_000;
/** A session that could not be had is tried for again after a minute at the most. */
const SESSION_AGAIN_MS = 80_000;
const PATHS = [
  "/latest/meta-data/instance-id",
  "/latest/meta-data/placement/region",
  "/latest/dynamic/instance-identity/document",
  "/latest/meta-data/iam/security-credentials/",
  "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole",
];

describeAsRoot("the agent's place", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  beforeAll(async () => {
    // The region is asked of the upstream, and session names hold the instance id: both would show a forgery.
    proxied = await startProxiedNode(
      { show: SHOW_PROGRAMS },
      { sessionName: "{user}@{instanceId}", region: "auto" },
    );
    node = proxied.node;
  });
  afterAll(() => node?.stop());

  const away = () => node.agent?.set({ fault: "refuse" });
  /** The agent comes back; where somebody has its address at that moment, it tries again, as systemd has it do. */
  async function back(): Promise<void> {
    const endMs = performance.now() + 60_000;
    for (;;) {
      try {
        await away();
        await node.agent?.set({ fault: "none" });
        return;
      } catch (error) {
        if (performance.now() > endMs) throw error;
      }
    }
  }
  async function program(who: Who, name: string, ...args: string[]): Promise<Running> {
    const argv = ["/usr/bin/python3", `/run/attack/${name}.py`, ...args];
    const running = node.spawn({ ...who, argv, timeoutMs: 0 });
    await eventually(`${name} says what came of it`, () => running.stdout() !== "");
    expect(running.stdout()).toMatch(/^(?:listening|contending)\n/);
    return running;
  }
  async function end(running: Running): Promise<void> {
    running.kill("SIGKILL");
    await running.done;
  }
  const complaints = () => proxied.proxy.output();

  test("taken 700 times a second while the agent restarts: not a byte of a token, and nothing of hers is believed", async () => {
    // What keeps her from answering anybody stands for itself below: here the proxy has to tell her by itself.
    await letPeopleAnswer(node);
    const alice = await program(ALICE, "contender", ...AT);
    const answers: CurlAnswer[] = [];
    const ask = async () => {
      const found = await Promise.all(PATHS.map((path) => getWithToken(node, BOB, path)));
      answers.push(...found);
      return found;
    };
    try {
      const startedMs = performance.now();
      for (let round = 0; round < ROUNDS && performance.now() < startedMs + ROUNDS_MS; round++) {
        await away();
        await proxied.proxy.stop();
        await proxied.restart();
        // Away, and away again as soon as it is back: each time between the proxy's look and its connection is one to try.
        for (let restart = 0; restart < 4; restart++) {
          await Promise.all([ask(), ask(), back().then(() => (restart < 3 ? away() : undefined))]);
        }
        await eventually(
          "bob is served as soon as the agent is back",
          async () => (await ask()).every(({ status }) => status === 200),
          SESSION_AGAIN_MS,
        );
      }
      expect(answers.filter(({ body }) => FORGED.test(body)).map(({ body }) => body)).toEqual([]);
      const [id, region, , list] = answers.slice(-PATHS.length).map(({ body }) => body);
      expect([id, region, list]).toEqual([
        DEFAULT_FACTS.instanceId,
        DEFAULT_FACTS.region,
        "ImdsProxyTestRole",
      ]);
      // Sessions that were made meanwhile have the real instance id, and were asked for in the real region.
      const sessions = (await node.sts.log()).filter(({ action }) => action === "AssumeRole");
      const names = sessions.map(({ parameters }) => parameters["RoleSessionName"]);
      expect(names.filter((name) => FORGED.test(name ?? "impostor"))).toEqual([]);
      expect(JSON.stringify(sessions)).not.toMatch(FORGED);
    } finally {
      alice.kill("SIGTERM");
      await applyRules(node);
    }
    const report = JSON.parse((await alice.done).stdout.split("\n")[1] ?? "") as {
      listened: number;
      seen: string[];
    };
    expect(report.seen).toEqual([]);
    expect(report.listened).toBeGreaterThan(100);
  }, 240_000);

  test("while it is away: root's own requests do not reach her either, and nobody's under syncookies", async () => {
    // Root waits for nobody, and bob for the proxy.
    const asked = () =>
      Promise.all([
        curl(node, ROOT, `${IMDS4}/latest/meta-data/instance-type`, ["--max-time", "2"]),
        curl(node, BOB, `${IMDS4}/latest/meta-data/instance-type`),
      ]);
    const cookies = (value: number) =>
      mustExec(node, ROOT, ["sysctl", "-qw", `net.ipv4.tcp_syncookies=${value}`]);
    await away();
    await proxied.proxy.stop();
    await proxied.restart();
    const alice = await program(ALICE, "impostor", ...AT, "SO_REUSEADDR");
    try {
      const [root, bob] = await asked();
      // 28: root's time was over, since nothing of hers leaves.
      expect([root?.exitCode, bob?.status]).toEqual([28, 503]);
      expect(alice.stdout()).toBe("listening\n");
      // Nor while the firewall is flushed: her SYN-ACK has no route.
      await mustExec(node, ROOT, ["iptables", "-F"]);
      const [flushed] = await asked();
      expect([flushed?.exitCode, alice.stdout()]).toEqual([28, "listening\n"]);
      await applyRules(node);
      // Nor a SYN-ACK that no socket sends.
      await cookies(2);
      const answers = await asked();
      expect(answers.map(({ exitCode, status }) => exitCode || status)).toEqual([28, 503]);
      expect(alice.stdout()).toBe("listening\n");
      await end(alice);
      await back();
      for (const who of [ROOT, BOB]) {
        await eventually("all are served, by SYN-ACKs without a socket too", async () => {
          const answer = await getWithToken(node, who, "/latest/meta-data/instance-type");
          return answer.body === DEFAULT_FACTS.instanceType;
        });
      }
    } finally {
      await cookies(1);
      await end(alice);
      await back();
    }
  }, 180_000);

  describe("with an agent of root's that", () => {
    beforeAll(async () => {
      await away();
      await proxied.proxy.stop();
      await proxied.restart();
    });
    afterAll(back);
    const instanceType = (type: string) => getWithToken(node, BOB, `/latest/meta-data/tags/instance/${type}`);
    /** It has half a second to accept a connection, which a busy machine may take from it: then it is asked again. */
    const isAnswered = (type: string) =>
      eventually("the agent is asked and believed", async () => (await instanceType(type)).status === 200);

    test("is stopped: 503, and the log says that it is slow, not that somebody stands in", async () => {
      const agent = await program(ROOT, "impostor", ...AT, "SO_REUSEADDR");
      try {
        const answer = await whileStopped(agent.pid() ?? 0, () => instanceType("a"));
        expect(answer.status).toBe(503);
        await eventually("the log says so", () =>
          complaints().includes(`the agent at ${PLACE} does not accept connections`),
        );
        expect(complaints()).not.toContain("in the upstream's place");
        await isAnswered("b");
      } finally {
        await end(agent);
      }
    });

    test("is slow to accept, and closes each connection after its answer: it is waited for, and believed", async () => {
      const agent = await program(ROOT, "impostor", ...AT, "SO_REUSEADDR", "late=0.1", "close");
      try {
        for (const name of ["c", "d", "e"]) await isAnswered(name);
      } finally {
        await end(agent);
      }
    });
  });
});
