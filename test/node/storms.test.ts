import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import type { CurlAnswer } from "../support/node.ts";
import {
  credentialsOf,
  eventually,
  getWithToken,
  givenCredentials,
  type ProxiedNode,
  startProxiedNode,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

/**
 * What other files do not try of an STS, an upstream or a machine that fails: docs/scale.md has the table. On one node, with a user for
 * each test.
 */

const USERS = Array.from({ length: 8 }, (_, index) => ({ name: `user${index}`, uid: 3000 + index }));
let next = 0;
const someone = () => ({ user: USERS[next++ % USERS.length]?.name ?? "" });
const LEAF = "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole";
const SECOND = 1_000;

interface Given {
  readonly AccessKeyId: string;
  readonly Expiration: string;
}
const given = (answer: CurlAnswer): Given => JSON.parse(answer.body) as Given;

describeAsRoot("in a storm", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({ users: USERS });
    node = proxied.node;
  });
  afterAll(() => node?.stop());
  beforeEach(async () => {
    await node.sts.set({ fault: { kind: "none" }, sessionSeconds: null });
    await node.agent?.set({ fault: "none" });
  });
  const isServed = (who: { user: string }) =>
    eventually(
      `${who.user} is served`,
      async () => (await credentialsOf(node, who)).body.includes("AccessKeyId"),
      90_000,
    );

  test("credentials that are over when STS gives them are given to nobody, and the next ones are", async () => {
    const who = someone();
    await node.sts.set({ sessionSeconds: -10 });
    const answer = await getWithToken(node, who, LEAF);
    expect([answer.status, answer.body.includes("AccessKeyId")]).toEqual([503, false]);
    await node.sts.set({ sessionSeconds: null });
    await isServed(who);
  }, 240_000);

  test("a session is served until its end while STS is away, and not a moment longer; then callers are told, and served once it is back", async () => {
    const who = someone();
    // A minute is held back of each session, so this one lives four seconds.
    await node.sts.set({ sessionSeconds: 64 });
    let endsMs = Date.parse(given(await givenCredentials(node, who)).Expiration);
    await node.sts.set({ fault: { kind: "drop" } });
    await eventually("it is over", async () => {
      const sentMs = Date.now();
      const answer = await getWithToken(node, who, LEAF);
      if (answer.status === 200) {
        // Where this machine was slow, STS may have given another just before.
        endsMs = Date.parse(given(answer).Expiration);
        expect(endsMs).toBeGreaterThan(sentMs);
        return false;
      }
      expect(answer.status).toBe(503);
      // The end is told in whole seconds.
      expect(Date.now()).toBeGreaterThan(endsMs - SECOND);
      return true;
    });
    await node.sts.set({ sessionSeconds: null });
    await node.sts.set({ fault: { kind: "none" } });
    await isServed(who);
  }, 240_000);

  test("the upstream is gone: who has a session keeps it, who has none is told, and is served once it is back", async () => {
    const [had, late] = [someone(), someone()];
    const first = given(await givenCredentials(node, had));
    await node.agent?.set({ fault: "refuse" });
    // The SDK in the proxy has the node's credentials, and does not need the upstream until they are about to end.
    await proxied.proxy.stop();
    await proxied.restart();
    expect((await getWithToken(node, late, LEAF)).status).toBe(503);
    await node.agent?.set({ fault: "none" });
    await isServed(late);
    await isServed(had);
    await node.agent?.set({ fault: "refuse" });
    const again = given(await credentialsOf(node, had));
    expect(again.AccessKeyId).not.toBe(first.AccessKeyId);
    expect(given(await credentialsOf(node, had)).AccessKeyId).toBe(again.AccessKeyId);
  }, 240_000);

  test("the node's own credentials are replaced, and STS takes the old ones no more: the new ones are fetched", async () => {
    const who = someone();
    await node.agent?.clearLog();
    await node.sts.set({ fault: { kind: "error", status: 403, code: "ExpiredToken" } });
    expect((await getWithToken(node, who, LEAF)).status).toBe(503);
    // Whoever asked may have been told to come back before STS's answer was there.
    await eventually("the node's own credentials are fetched", async () =>
      ((await node.agent?.log()) ?? []).some(({ target }) =>
        target.includes(`security-credentials/${node.roleName}`),
      ),
    );
    await node.sts.set({ fault: { kind: "none" } });
    await isServed(who);
  }, 240_000);

  test("the machine sleeps: who waited is answered, and sessions are served as before", async () => {
    const who = someone();
    const first = given(await givenCredentials(node, who));
    process.kill(proxied.proxy.pid, "SIGSTOP");
    let waiting: Promise<CurlAnswer>;
    try {
      waiting = credentialsOf(node, who);
      await Bun.sleep(SECOND);
    } finally {
      process.kill(proxied.proxy.pid, "SIGCONT");
    }
    expect(given(await waiting).AccessKeyId).toBe(first.AccessKeyId);
    expect(given(await credentialsOf(node, who)).AccessKeyId).toBe(first.AccessKeyId);
  }, 240_000);
});
