import { afterAll, beforeAll, expect, test } from "bun:test";
import { curl, IMDS4 } from "../support/node.ts";
import { givenCredentials, startProxiedNode, TOKEN_HEADER } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { attack, SHOW_PROGRAMS } from "./support/attack.ts";

const ALICE = { user: "alice" } as const;
const BOB = { user: "bob" } as const;
const SECONDS = 4;
/** More than there are places for answers that are kept within a second (http/encoded-answers.ts). */
const LIFETIMES = 600;

/** By the lifetime that was asked for: the one that the answer named, and the token. */
type Found = Record<string, [named: string, token: string][]>;
const tokensOf = (found: Found) =>
  Object.values(found).flatMap((answers) => answers.map(([, token]) => token));
/** Seconds since the epoch at which a token ends (src/imds/tokens.ts). */
const endOf = (token: string) => Buffer.from(token, "base64url").readUIntBE(1, 5);

describeAsRoot("users who ask for tokens of the same lifetimes in the same seconds", () => {
  let node: SimulatedNode;
  let startedSeconds: number;
  let alices: Found;
  let bobs: Found;
  beforeAll(async () => {
    ({ node } = await startProxiedNode({ show: SHOW_PROGRAMS }, { imds: { tokens: "required" } }));
    startedSeconds = Math.floor(Date.now() / 1000);
    const run = (who: typeof ALICE | typeof BOB) =>
      attack<Found>(node, who, "tokens_in_turns", [SECONDS, LIFETIMES]);
    [alices, bobs] = await Promise.all([run(ALICE), run(BOB)]);
  });
  afterAll(() => node.stop());

  test("are given tokens of their own, none of which the other was given", () => {
    const [hers, his] = [new Set(tokensOf(alices)), new Set(tokensOf(bobs))];
    expect(hers.size).toBeGreaterThan(2);
    expect(his.size).toBeGreaterThan(2);
    expect(hers.isDisjointFrom(his)).toBe(true);
  });

  test("are given the lifetime that they asked for, whatever was asked for before", () => {
    const endedSeconds = Date.now() / 1000;
    for (const [asked, answers] of [...Object.entries(alices), ...Object.entries(bobs)]) {
      for (const [named, token] of answers) {
        expect(named).toBe(asked);
        expect(endOf(token) - Number(asked)).toBeGreaterThanOrEqual(startedSeconds);
        expect(endOf(token) - Number(asked)).toBeLessThanOrEqual(endedSeconds);
      }
    }
  });

  test("cannot use each other's, and their own is good", async () => {
    const get = (who: typeof ALICE | typeof BOB, token: string) =>
      curl(node, who, `${IMDS4}/latest/meta-data/placement/region`, ["-H", `${TOKEN_HEADER}: ${token}`]);
    for (const [owner, other, found] of [
      [ALICE, BOB, alices],
      [BOB, ALICE, bobs],
    ] as const) {
      const token = tokensOf(found).at(-1) ?? "";
      expect((await get(owner, token)).status).toBe(200);
      expect((await get(other, token)).status).toBe(401);
      expect((await get(owner, token)).status).toBe(200);
    }
  });

  test("are given their own credentials while the other fills the second with answers that are kept", async () => {
    const filling = attack<Found>(node, ALICE, "tokens_in_turns", [SECONDS, LIFETIMES]);
    let isFilling = true;
    void filling.then(() => {
      isFilling = false;
    });
    const seen = new Set<string>();
    do {
      const { body } = await givenCredentials(node, BOB);
      seen.add((JSON.parse(body) as { AccessKeyId: string }).AccessKeyId);
    } while (isFilling);
    await filling;
    const [his, hers] = await Promise.all([givenCredentials(node, BOB), givenCredentials(node, ALICE)]);
    const keyOf = ({ body }: { body: string }) => (JSON.parse(body) as { AccessKeyId: string }).AccessKeyId;
    expect([...seen]).toEqual([keyOf(his)]);
    expect(keyOf(hers)).not.toBe(keyOf(his));
  });
});
