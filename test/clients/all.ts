import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { isRoot } from "../support/root.ts";
import { type Bench, DENIED, type Held, type Outcome, REFUSED, someone, startBench } from "./bench.ts";
import { installClients, nameOf } from "./install.ts";
import { CLIENTS, type Client } from "./list.ts";
import { type Findings, reportOf } from "./report.ts";

/**
 * Real clients of nine languages through the redirect: `make test-clients`. Their versions are pinned, and what they do is
 * written to docs/clients.md. ONLY=id,id runs some of them and writes nothing.
 */

if (!isRoot) {
  process.stderr.write("test/clients needs root; run: sudo make test-clients\n");
  process.exit(1);
}
const only = (process.env["ONLY"] || undefined)?.split(",");
const chosen = CLIENTS.filter(({ id }) => only === undefined || only.includes(id));
const lacking = process.env["NOINST"]
  ? new Map<string, string>()
  : installClients((line) => process.stderr.write(`${line}\n`));
const there = chosen.filter(({ part }) => !lacking.has(nameOf(part)));
const INSTANCE = "SageMaker";
const LONG = 300_000;

const findings = new Map<string, Findings>(
  chosen.map((client) => [
    client.id,
    { client, version: "", lacking: lacking.get(nameOf(client.part)) ?? null },
  ]),
);
const note = (client: Client, found: Partial<Findings>) => {
  const before = findings.get(client.id);
  if (before !== undefined) findings.set(client.id, { ...before, ...found });
};

let bench: Bench;
beforeAll(async () => {
  bench = await startBench();
  for (const client of there) note(client, { version: await bench.version(client) });
  // The first call of STS loads the SDK; that is no client's first answer.
  const [first] = there;
  if (first !== undefined) await bench.once(first, someone());
}, LONG);
afterAll(async () => {
  await bench?.stop();
  if (only === undefined) writeFileSync("docs/clients.md", reportOf([...findings.values()], new Date()));
  else
    console.log(
      JSON.stringify([...findings.values()], (key, value) => (key === "output" ? undefined : value), 1),
    );
});

const secretFree = ({ output }: Outcome) => expect(output).not.toContain(bench.proxied.node.secrets.marker);
const isWell = (outcome: Outcome, who: string) =>
  expect({ who: outcome.who, output: outcome.who === who ? "" : outcome.output }).toEqual({
    who,
    output: "",
  });

describe("tokens are optional:", () => {
  for (const client of there) {
    test(
      `${client.id}: alice is alice`,
      async () => {
        const outcome = await bench.once(client, "alice");
        note(client, { optional: outcome.requests, well: outcome });
        isWell(outcome, "alice@i-0123456789abcdef0");
      },
      LONG,
    );

    test(
      `${client.id}: root is the instance role`,
      async () => {
        isWell(await bench.once(client, "root"), INSTANCE);
      },
      LONG,
    );

    for (const [user, kind] of [
      [REFUSED.name, "refused"],
      [DENIED.name, "denied"],
    ] as const) {
      test(
        `${client.id}: who is ${kind} gets nothing`,
        async () => {
          const outcome = await bench.once(client, user);
          note(client, { [kind]: outcome });
          expect(outcome.who).toBeNull();
          secretFree(outcome);
        },
        LONG,
      );
    }
  }
});

/** What is left to spare at 1.4 s is little on a busy machine: a client may need another user, and the report says so. */
const TRIES = 5;

async function firstTry(client: Client): Promise<number> {
  for (let tries = 1; ; tries++) {
    const user = someone();
    const outcome = await bench.once(client, user);
    if (outcome.who === `${user}@i-0123456789abcdef0`) return tries;
    if (tries === TRIES)
      throw new Error(`${client.id}: no credentials at the first try of ${TRIES} users\n${outcome.output}`);
  }
}

describe("tokens are optional, and STS takes 1.4 s:", () => {
  beforeAll(() => bench.proxied.node.sts.set({ delayMs: 1_400 }));
  afterAll(() => bench.proxied.node.sts.set({ delayMs: 0 }));
  for (const client of there) {
    test(
      `${client.id}: credentials at the first try`,
      async () => {
        note(client, { slowOptional: await firstTry(client) });
      },
      LONG,
    );
  }
});

describe("tokens are required:", () => {
  beforeAll(async () => {
    await bench.proxied.node.agent?.set({ tokens: "required" });
    await bench.proxied.node.imds.set({ tokens: "required" });
    await bench.configure({ imds: { tokens: "required" } });
    const [first] = there.filter(({ onlyV1 }) => onlyV1 === undefined);
    if (first !== undefined) await bench.once(first, someone());
  }, LONG);

  for (const client of there) {
    if (client.onlyV1) {
      test(
        `${client.id}: has no IMDSv2, and gets nothing`,
        async () => {
          const outcome = await bench.once(client, "alice");
          note(client, { required: outcome.requests });
          expect(outcome.who).toBeNull();
          expect((await bench.once(client, "root")).who).toBeNull();
        },
        LONG,
      );
      continue;
    }
    test(
      `${client.id}: alice is alice, root is the instance role`,
      async () => {
        const outcome = await bench.once(client, "alice");
        note(client, { required: outcome.requests });
        isWell(outcome, "alice@i-0123456789abcdef0");
        isWell(await bench.once(client, "root"), INSTANCE);
      },
      LONG,
    );
  }

  describe("and STS takes 1.4 s:", () => {
    beforeAll(() => bench.proxied.node.sts.set({ delayMs: 1_400 }));
    afterAll(() => bench.proxied.node.sts.set({ delayMs: 0 }));
    for (const client of there.filter(({ onlyV1 }) => onlyV1 === undefined)) {
      test(
        `${client.id}: credentials at the first try`,
        async () => {
          note(client, { slowRequired: await firstTry(client) });
        },
        LONG,
      );
    }
  });
});

describe("a client that keeps running:", () => {
  const held: { held: Held; user: string; key: string }[] = [];
  const long = there.filter(({ long }) => long);
  const nameIn = (user: string) => `${user}@i-0123456789abcdef0`;
  beforeAll(async () => {
    await bench.proxied.node.agent?.set({ tokens: "optional" });
    await bench.proxied.node.imds.set({ tokens: "optional" });
    await bench.configure({ imds: { tokens: "optional" } });
    // 60 s less are told to clients.
    await bench.proxied.node.sts.set({ sessionSeconds: 90 });
  }, LONG);
  afterAll(() => bench.proxied.node.sts.set({ sessionSeconds: null }));

  for (const client of long) {
    test(
      `${client.id}: has credentials`,
      async () => {
        const user = someone();
        const one = bench.hold(client, user);
        const { who, key } = await one.ask();
        expect(who).toBe(nameIn(user));
        held.push({ held: one, user, key });
      },
      LONG,
    );
  }
  test(
    "the proxy is restarted",
    async () => {
      await bench.configure({});
      // Its first call of STS loads the SDK, which takes seconds on a busy machine.
      const [first] = there;
      if (first !== undefined) await bench.once(first, someone());
    },
    LONG,
  );
  for (const client of long) {
    test(
      `${client.id}: goes on after the restart`,
      async () => {
        const one = held.find((candidate) => candidate.held.client === client);
        note(client, { restart: false });
        expect((await one?.held.ask())?.who).toBe(nameIn(one?.user ?? ""));
        note(client, { restart: true });
      },
      LONG,
    );
  }
  test(
    "every session of before has ended",
    async () => {
      const ends = [...bench.sessions().values()].map(({ endsMs }) => endsMs).filter(Number.isFinite);
      const last = Math.max(...ends.filter((endsMs) => endsMs < Date.now() + 120_000));
      while (Date.now() < last + 1000) await Bun.sleep(200);
    },
    LONG,
  );
  for (const client of long) {
    test(
      `${client.id}: has a new session when the old one has ended`,
      async () => {
        const one = held.find((candidate) => candidate.held.client === client);
        note(client, { end: false });
        if (one === undefined) throw new Error("it had no credentials before");
        if (client.keeps !== undefined) {
          // With the old key, which AWS refuses.
          const key = await one.held.ask().then(
            (now) => now.key,
            (error: Error) => (/InvalidClientTokenId|ExpiredToken/.test(error.message) ? one.key : error),
          );
          expect(key).toBe(one.key);
          return;
        }
        const now = await one.held.ask();
        expect(now.who).toBe(nameIn(one.user));
        expect(now.key).not.toBe(one.key);
        note(client, { end: true });
      },
      LONG,
    );
  }
});

describe("the proxy is away:", () => {
  beforeAll(async () => {
    await bench.proxied.proxy.stop();
  });
  for (const client of there) {
    test(
      `${client.id}: alice gets nothing`,
      async () => {
        const outcome = await bench.once(client, "alice", 200_000);
        note(client, { away: outcome });
        expect(outcome.who).toBeNull();
        secretFree(outcome);
      },
      LONG,
    );
  }
});
