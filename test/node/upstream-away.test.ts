import { afterAll, beforeAll, expect, test } from "bun:test";
import { type CurlAnswer, curl, IMDS4 } from "../support/node.ts";
import { eventually, getWithToken, type ProxiedNode, startProxiedNode, tokenOf } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

const ALICE = { user: "alice" };
const LEAF = "/latest/meta-data/instance-type";

describeAsRoot("while the node's own metadata service is away", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode();
    node = proxied.node;
  });
  afterAll(() => node?.stop());

  /** The proxy starts anew and knows nothing: neither metadata nor what the service wants of tokens. */
  async function startAnew(): Promise<void> {
    await proxied.proxy.stop();
    await proxied.restart();
  }
  const withoutToken = (path = LEAF): Promise<CurlAnswer> => curl(node, ALICE, IMDS4 + path);
  /**
   * The proxy starts anew and answers its first request without a token so. It waits a second for what the service wants; where
   * this machine takes longer, the answer is 503, and it is tried again.
   */
  const startsWith = (status: number) =>
    eventually(`the first answer is ${status}`, async () => {
      await startAnew();
      const first = (await withoutToken()).status;
      expect([status, 503]).toContain(first);
      return first === status;
    });

  test("from the start: requests get 503 with Retry-After, with a token and without; a token is given", async () => {
    await node.agent?.set({ fault: "refuse" });
    await startAnew();
    for (const answer of [await withoutToken(), await getWithToken(node, ALICE, LEAF)]) {
      expect([answer.status, answer.headers.get("retry-after")]).toEqual([503, "1"]);
    }
    expect(await tokenOf(node, ALICE)).toHaveLength(56);
  });

  test("and comes back: that is noticed by itself, and requests without a token are answered", async () => {
    await node.agent?.set({ fault: "none" });
    const seen: number[] = [];
    await eventually("requests without a token are answered", async () => {
      const { status } = await withoutToken();
      seen.push(status);
      return status === 200;
    });
    expect(seen.filter((status) => status !== 200 && status !== 503)).toEqual([]);
  });

  test("after that: what it wants of tokens is still known, and what was asked before is answered", async () => {
    await node.agent?.set({ fault: "refuse" });
    expect((await withoutToken()).status).toBe(200);
    expect((await withoutToken("/latest/meta-data/tags/instance/Name")).status).toBe(503);
    await node.agent?.set({ fault: "none" });
  });

  test("and late by a moment as the proxy starts: the first request without a token is answered", async () => {
    await node.agent?.set({ delayMs: 300 });
    await startsWith(200);
    await node.agent?.set({ delayMs: 0 });
  });

  test("where it requires tokens, that is known from the first request on: 401, and not 503", async () => {
    await node.agent?.set({ tokens: "required" });
    await startsWith(401);
    await node.agent?.set({ fault: "refuse" });
    expect((await withoutToken()).status).toBe(401);
    await node.agent?.set({ fault: "none", tokens: "optional" });
  });
});
