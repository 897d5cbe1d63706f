import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { DEFAULT_FACTS } from "../../src/demo/imds/tree.ts";
import { ADDRESSES } from "../../src/demo/network.ts";
import { type Running, signal } from "../../src/demo/run.ts";
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
import { SHOW_PROGRAMS } from "./support/attack.ts";

/**
 * The agent's listening socket has a queue of connections that it has not accepted. Alice wants those of the proxy that are in
 * it, or before it, when the agent ends; and she wants to listen there without ever having called bind(2).
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
const AT = [ADDRESSES.agent, String(ADDRESSES.agentPort)];
const FORGED = /impostor/i;

/** What successor.py says. */
interface Succession {
  readonly refused: number;
  readonly accepted: number;
  readonly seen: readonly string[];
}

describeAsRoot("the agent's queue", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  let asked = 0;
  beforeAll(async () => {
    proxied = await startProxiedNode({ show: SHOW_PROGRAMS });
    node = proxied.node;
    // Closed connections would keep the port from who binds nothing, for a minute each.
    await sysctl("net.ipv4.tcp_max_tw_buckets=0");
    await node.agent?.set({ fault: "refuse" });
    await proxied.proxy.stop();
    await proxied.restart();
  });
  afterAll(() => node?.stop());

  /** Something that the proxy has to ask the agent for. */
  const ask = () => getWithToken(node, BOB, `/latest/meta-data/tags/instance/n${asked++}`);
  const sysctl = (setting: string) => mustExec(node, ROOT, ["sysctl", "-qw", setting]);
  async function program(who: Who, name: string, ...args: string[]): Promise<Running> {
    const argv = ["/usr/bin/python3", `/run/attack/${name}.py`, ...args];
    const running = node.spawn({ ...who, argv, timeoutMs: 0 });
    await eventually(`${name} says what came of it`, () => running.stdout() !== "");
    expect(running.stdout()).toMatch(/^(?:listening|ready)\n/);
    return running;
  }
  async function end(running: Running): Promise<void> {
    running.kill("SIGKILL");
    await running.done;
  }
  /** Ends a process that was stopped, and wakes nsenter, which stopped with it. */
  async function endStopped(running: Running): Promise<void> {
    const parent = Number(readFileSync(`/proc/${running.pid()}/stat`, "utf8").split(") ")[1]?.split(" ")[1]);
    running.kill("SIGKILL");
    signal(parent, "SIGCONT");
    await running.done;
  }
  async function report(alice: Running): Promise<Succession> {
    alice.kill("SIGTERM");
    return JSON.parse((await alice.done).stdout.trim().split("\n").at(-1) ?? "") as Succession;
  }
  /** Sockets of the node that are in a state, with the agent's port at the other end. */
  async function towards(state: string): Promise<number> {
    const filter = ["state", state, "dst", `${ADDRESSES.agent}:${ADDRESSES.agentPort}`];
    return (await mustExec(node, ROOT, ["ss", "-Htn", ...filter])).split("\n").filter(Boolean).length;
  }
  const isServed = async () => (await ask()).status === 200;

  describe("with alice bound beforehand, SO_REUSEADDR and SO_REUSEPORT on both sides, and migration of requests on", () => {
    // What keeps her from answering anybody stands for itself (agent.test.ts): here the proxy has to tell her by itself.
    beforeAll(async () => {
      await letPeopleAnswer(node);
      await sysctl("net.ipv4.tcp_migrate_req=1");
    });

    /** Bob asks again and again while something happens; what he was answered. */
    async function whileAsking(happens: () => Promise<void>): Promise<CurlAnswer[]> {
      const answers: CurlAnswer[] = [];
      let over = false;
      const asking = (async () => {
        while (!over) answers.push(await ask());
      })();
      try {
        await happens();
      } finally {
        over = true;
      }
      await asking;
      return answers;
    }
    async function backAgain(): Promise<void> {
      const next = await program(ROOT, "impostor", ...AT, "SO_REUSEADDR");
      await eventually("bob is served as soon as the agent is back", isServed);
      await end(next);
    }

    test("a connection that waits in the queue of a stopped agent does not become hers when that is killed", async () => {
      const alice = await program(ALICE, "successor", ...AT);
      const agent = await program(ROOT, "impostor", ...AT, "SO_REUSEADDR", "SO_REUSEPORT");
      alice.kill("SIGUSR1");
      await eventually("alice tries", () => alice.stdout().includes("refused"));
      agent.kill("SIGSTOP");
      const answers = await whileAsking(async () => {
        await eventually("the proxy's connection waits", async () => (await towards("established")) > 0);
        await endStopped(agent);
        await eventually("alice listens", () => alice.stdout().includes("listening"));
        await ask();
      });
      expect(answers.filter(({ status, body }) => status !== 503 || FORGED.test(body))).toEqual([]);
      const { refused, seen } = await report(alice);
      expect(seen).toEqual([]);
      // She tried while the agent listened.
      expect(refused).toBeGreaterThan(0);
      await backAgain();
    }, 180_000);

    /** For how long it is tried: on a busy machine the second SYN, a second after the first, finds the agent still there. */
    const TRIED_MS = 120_000;
    test("a connection that found the queue full reaches her with its second SYN, and she is not sent a byte", async () => {
      /** @returns whether she got the connection. */
      const attempt = async (): Promise<boolean> => {
        const alice = await program(ALICE, "successor", ...AT);
        const agent = await program(ROOT, "impostor", ...AT, "SO_REUSEADDR", "SO_REUSEPORT", "backlog=0");
        agent.kill("SIGSTOP");
        // A queue of 0 has one place (sk_acceptq_is_full).
        const connect = `import socket, time\ns = socket.create_connection(("${AT[0]}", ${AT[1]}))\ntime.sleep(600)`;
        const first = node.spawn({ ...ROOT, argv: ["/usr/bin/python3", "-c", connect], timeoutMs: 0 });
        await eventually("the queue is full", async () => (await towards("established")) > 0);
        alice.kill("SIGUSR1");
        const answers = await whileAsking(async () => {
          await eventually(
            "the proxy's connection has no place",
            async () => (await towards("syn-sent")) > 0,
          );
          await endStopped(agent);
          await eventually("alice listens", () => alice.stdout().includes("listening"));
          await eventually("it has come somewhere", async () => (await towards("syn-sent")) === 0);
        });
        expect(answers.filter(({ status, body }) => status !== 503 || FORGED.test(body))).toEqual([]);
        const { accepted, seen } = await report(alice);
        expect(seen).toEqual([]);
        await end(first);
        await backAgain();
        return accepted > 0;
      };
      let happened = false;
      const startedMs = performance.now();
      while (!happened && performance.now() < startedMs + TRIED_MS) happened = await attempt();
      expect(happened).toBe(true);
      await eventually("the log says so", () =>
        proxied.proxy.output().includes("somebody answers in the upstream's place"),
      );
    }, 240_000);

    test("an agent that closes its listener and opens another loses what was in the queue, and is believed", async () => {
      for (let round = 0; round < 3; round++) {
        const agent = await program(ROOT, "impostor", ...AT, "SO_REUSEADDR");
        agent.kill("SIGSTOP");
        const answers = await whileAsking(async () => {
          await eventually("the proxy's connection waits", async () => (await towards("established")) > 0);
          await endStopped(agent);
          await backAgain();
        });
        // Its own answer, or none.
        expect(answers.filter(({ status }) => status !== 200 && status !== 503)).toEqual([]);
      }
    }, 180_000);
  });

  test("listen(2) without bind(2) gives alice the port, at every address, and neither the proxy nor root a byte of hers", async () => {
    await applyRules(node);
    const range = (await mustExec(node, ROOT, ["sysctl", "-n", "net.ipv4.ip_local_port_range"])).trim();
    // Among 28,000 ports it takes her as many sockets; here it is the only one.
    await sysctl(`net.ipv4.ip_local_port_range=${ADDRESSES.agentPort} ${ADDRESSES.agentPort}`);
    const alice = await program(ALICE, "successor", ...AT, "unbound");
    try {
      alice.kill("SIGUSR1");
      await eventually("alice listens", () => alice.stdout().includes("listening"));
    } finally {
      await sysctl(`net.ipv4.ip_local_port_range=${range}`);
    }
    const [bob, root] = await Promise.all([
      ask(),
      curl(node, ROOT, `${IMDS4}/latest/meta-data/instance-type`, ["--max-time", "2"]),
    ]);
    // 28: root's time was over, since nothing of hers leaves.
    expect([bob.status, FORGED.test(bob.body), root.exitCode]).toEqual([503, false, 28]);
    expect((await report(alice)).seen).toEqual([]);
  }, 180_000);

  test("connections that alice has begun from its place to every port of root's and the proxy's keep nobody from it once it is back", async () => {
    await applyRules(node);
    const range = (await mustExec(node, ROOT, ["sysctl", "-n", "net.ipv4.ip_local_port_range"])).trim();
    // Among 28,000 ports it takes her as many sockets for each address.
    const [first, last] = [40_000, 40_063];
    await sysctl(`net.ipv4.ip_local_port_range=${first} ${last}`);
    const rootAsks = () => curl(node, ROOT, `${IMDS4}/latest/meta-data/instance-type`, ["--max-time", "2"]);
    /** She begins hers, the agent comes back, and somebody asks: what she holds of it then. */
    async function whileShe(happens: () => Promise<void>): Promise<{ holds: number }> {
      const from = [ADDRESSES.agent, ADDRESSES.node4];
      const alice = await program(ALICE, "crossing", ...AT, String(first), String(last), ...from);
      const agent = await program(ROOT, "impostor", ...AT, "SO_REUSEADDR");
      try {
        await happens();
        return JSON.parse(alice.stdout().split("\n")[1] ?? "") as { holds: number };
      } finally {
        await end(alice);
        await end(agent);
      }
    }
    try {
      const { holds } = await whileShe(async () => {
        await eventually("root is served", async () => (await rootAsks()).exitCode === 0);
        await eventually("bob is served", isServed);
      });
      expect(holds).toBe(0);
      await letPeopleAnswer(node, "wall");
      const without = await whileShe(async () => {
        await eventually(
          "root's request finds her in its way",
          async () => (await rootAsks()).exitCode === 28,
        );
      });
      expect(without.holds).toBeGreaterThan(0);
    } finally {
      await sysctl(`net.ipv4.ip_local_port_range=${range}`);
      await applyRules(node);
    }
  }, 240_000);

  test("an agent that listens by MPTCP, as programs in Go do, is asked and believed", async () => {
    const agent = await program(ROOT, "impostor", ...AT, "SO_REUSEADDR", "mptcp");
    try {
      const instanceType = () => getWithToken(node, BOB, "/latest/meta-data/instance-type");
      let answer = await instanceType();
      // It has half a second to accept a connection, which a busy machine may take from it: then it is asked again.
      await eventually("it is asked and believed", async () => {
        answer = await instanceType();
        return answer.status === 200;
      });
      expect(answer.body).not.toBe(DEFAULT_FACTS.instanceType);
    } finally {
      await end(agent);
    }
  });

  test("alice who listens there by MPTCP is not", async () => {
    const alice = await program(ALICE, "impostor", ...AT, "SO_REUSEADDR", "mptcp");
    try {
      const answer = await ask();
      expect([answer.status, FORGED.test(answer.body)]).toEqual([503, false]);
      expect(alice.stdout()).toBe("listening\n");
    } finally {
      await end(alice);
    }
  });
});
