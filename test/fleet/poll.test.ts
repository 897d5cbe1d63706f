import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { generateKeyPairSync } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadWithObject, objectDirectory, parseFile } from "../../src/config/load.ts";
import { MOST_OBJECT_BYTES, publicKeyText, signObject } from "../../src/config/object.ts";
import { FULL_EVERY_MS, type PollResult, poll } from "../../src/fleet/poll.ts";
import { readPollState } from "../../src/fleet/store.ts";
import { S3_KEYS, type S3StandIn, startS3 } from "../support/stand-ins/s3.ts";
import { startSsm } from "../support/stand-ins/ssm.ts";

const key = generateKeyPairSync("ed25519").privateKey;
const other = generateKeyPairSync("ed25519").privateKey;
const role = (name: string) => `role: arn:aws:iam::842413447717:role/${name}\n`;
const object = (serial: number, text = role(`R${serial}`), more: object = {}) =>
  signObject(text, { key, fleet: "research", serial, ...more });

let s3: S3StandIn;
let base: string;
let nodes = 0;
let now = 1_000_000_000_000;
let configPath: string;
let directory: string;
let copy: string;

beforeAll(async () => {
  s3 = await startS3();
  base = mkdtempSync(join(tmpdir(), "imdsproxy-poll-"));
});
afterAll(async () => {
  await s3.stop();
  rmSync(base, { recursive: true });
});
beforeEach(() => {
  Object.assign(s3, { object: null, etag: '"1"', fault: null });
  s3.log.length = 0;
  const node = join(base, `node${nodes++}`);
  mkdirSync(node);
  configPath = join(node, "config.yaml");
  const stateDirectory = join(node, "state");
  const config = {
    source: "s3://bucket/rules.yaml",
    fleet: "research",
    publicKey: publicKeyText(key),
    endpoint: s3.endpoint,
  };
  writeFileSync(configPath, JSON.stringify({ stateDirectory, exempt: ["root"], config }));
  directory = objectDirectory({ stateDirectory });
  copy = join(directory, "object.yaml");
});

const file = () => parseFile(readFileSync(configPath, "utf8"), configPath);
const polling = (more: Partial<Parameters<typeof poll>[0]> = {}): Promise<PollResult> =>
  poll({
    file: file(),
    credentials: async () => ({ ...S3_KEYS, expiresAtMs: now + 3_600_000 }),
    region: async () => "us-west-2",
    gid: process.getgid?.() ?? 0,
    now: () => now,
    dryRun: false,
    ...more,
  });
/** Puts an object there, with an entity tag of its own. */
function put(text: string | Uint8Array | null) {
  s3.object = text;
  s3.etag = `"${Bun.hash(text ?? "")}"`;
}
const runs = () => loadWithObject({ path: configPath }).config.role?.split("/")[1] ?? null;
/** Polls, and expects a failure after which everything is as it was. */
async function refused(): Promise<string> {
  const before = existsSync(copy) ? readFileSync(copy) : null;
  const result = await polling();
  if (result.kind !== "failed") throw new Error(`it is ${result.kind}`);
  expect(existsSync(copy) ? readFileSync(copy) : null).toEqual(before);
  expect(readPollState(directory)?.problem?.what).toBe(result.what);
  return result.what;
}

describe("poll()", () => {
  test("takes the first object, and later ones, each with its serial", async () => {
    put(object(1));
    expect(await polling()).toMatchObject({ kind: "taken", serial: 1, before: null });
    put(object(5));
    expect(await polling()).toMatchObject({ kind: "taken", serial: 5, before: 1 });
    expect(runs()).toBe("R5");
    expect(readdirSync(directory).sort()).toEqual(["object.yaml", "state.json"]);
    expect([statSync(copy).mode & 0o777, statSync(directory).mode & 0o777]).toEqual([0o640, 0o755]);
  });

  test("asks for what has changed alone, and whole once an hour", async () => {
    put(object(1));
    await polling();
    expect(await polling()).toMatchObject({ kind: "unchanged", serial: 1 });
    now += FULL_EVERY_MS;
    expect(await polling()).toMatchObject({ kind: "unchanged", serial: 1 });
    await polling();
    expect(s3.log.map(({ ifNoneMatch }) => ifNoneMatch === null)).toEqual([true, false, true, false]);
  });

  test("asks whole where the copy is not what the entity tag was of", async () => {
    put(object(1));
    await polling();
    writeFileSync(copy, object(2));
    expect((await polling()).kind).toBe("failed");
    expect(s3.log.at(-1)?.ifNoneMatch).toBeNull();
  });

  test("a bucket that says 'unchanged' for ever keeps the node back for an hour at most", async () => {
    put(object(1));
    await polling();
    put(object(2));
    s3.fault = "lies-unchanged";
    expect(await polling()).toMatchObject({ kind: "unchanged", serial: 1 });
    now += FULL_EVERY_MS;
    expect(await refused()).toContain("S3 gives no object (status 304)");
    s3.fault = null;
    expect(await polling()).toMatchObject({ kind: "taken", serial: 2 });
  });

  test("an entity tag that stays although the object changes hides it for an hour at most", async () => {
    put(object(1));
    await polling();
    s3.object = object(2);
    expect((await polling()).kind).toBe("unchanged");
    now += FULL_EVERY_MS;
    expect(await polling()).toMatchObject({ kind: "taken", serial: 2 });
  });

  test("takes no lower serial, which is what somebody replays", async () => {
    put(object(7));
    await polling();
    put(object(6));
    expect(await refused()).toBe(
      "s3://bucket/rules.yaml has the serial 6, and this node has had 7: an older object is not taken again",
    );
    expect(runs()).toBe("R7");
  });

  test("takes no lower serial either where the copy is lost", async () => {
    put(object(7));
    await polling();
    rmSync(copy);
    put(object(6));
    expect(await refused()).toContain("this node has had 7");
    put(object(7));
    expect(await polling()).toMatchObject({ kind: "taken", serial: 7 });
  });

  test("nor where an older copy was put back by hand: not that one, and none between", async () => {
    put(object(5));
    await polling();
    const older = readFileSync(copy);
    put(object(7));
    await polling();
    writeFileSync(copy, older);
    for (const serial of [5, 6]) {
      put(object(serial));
      expect(await refused()).toContain(`has the serial ${serial}, and this node has had 7`);
    }
    expect(readPollState(directory)?.taken?.serial).toBe(7);
    put(object(7));
    expect(await polling()).toMatchObject({ kind: "taken", serial: 7, before: 5 });
  });

  test("nor where the poll was interrupted between the copy and what is known of it", async () => {
    put(object(5));
    await polling();
    writeFileSync(copy, object(7));
    put(object(6));
    expect(await refused()).toContain("this node has had 7");
    put(object(7));
    expect(await polling()).toMatchObject({ kind: "unchanged", serial: 7 });
    expect(readPollState(directory)?.taken?.serial).toBe(7);
  });

  test("nor where the copy cannot be used any more", async () => {
    put(object(7));
    await polling();
    const config = JSON.parse(readFileSync(configPath, "utf8"));
    config.tests = [{ given: { user: "a" }, expect: { role: role("R8").trim().slice(6) } }];
    writeFileSync(configPath, JSON.stringify(config));
    put(object(6));
    expect(await refused()).toContain("this node has had 7");
    put(object(8));
    expect(await polling()).toMatchObject({ kind: "taken", serial: 8 });
  });

  test("takes no other content of the same serial", async () => {
    put(object(7));
    await polling();
    put(object(7, role("Other")));
    expect(await refused()).toContain("has other content than the object of the same serial 7");
  });

  for (const [what, bad, said] of [
    ["what is no object", "role: x\n", "is not signed"],
    ["an object that is cut off", object(8).slice(0, -5), "signed by no key"],
    ["a wrong signature", object(8, role("R8"), { key: other }), "signed by no key"],
    ["another fleet's", object(8, role("R8"), { fleet: "other" }), "is signed for the fleet other"],
    [
      "a key of the node's own",
      object(8, `${role("R8")}exempt: [alice]\n`),
      "exempt must not stand in an object",
    ],
    [
      "one whose tests fail",
      object(8, `${role("R8")}tests: [{ given: { user: a }, expect: { role: none } }]\n`),
      "expects role none",
    ],
    ["one that gives a role to nobody", object(8, "rules: []\n"), "gives a role to nobody"],
    ["wrong YAML", object(8, "role: [\n"), "rules.yaml:3"],
    ["more than 1 MiB", "x".repeat(MOST_OBJECT_BYTES + 1), "more than 1048576 bytes"],
  ] as const)
    test(`takes nothing of ${what}`, async () => {
      put(object(7));
      await polling();
      put(bad);
      expect(await refused()).toContain(said);
      expect(runs()).toBe("R7");
      expect(readPollState(directory)?.succeededAtMs).toBe(now);
    });

  for (const [what, fault, said] of [
    ["is away", "gone", "S3"],
    ["refuses", { status: 403, code: "AccessDenied" }, "S3 refuses"],
    [
      "leads elsewhere",
      { status: 302, headers: { Location: "http://127.0.0.1:1/" } },
      "S3 answered with a redirect",
    ],
    ["has lost the object", { status: 404, code: "NoSuchKey" }, "no such object"],
  ] as const)
    test(`keeps the last good object where S3 ${what}`, async () => {
      put(object(7));
      await polling();
      s3.fault = fault;
      const found = await refused();
      if (said !== "S3") expect(found).toContain(said);
      expect(runs()).toBe("R7");
      s3.fault = null;
      expect((await polling()).kind).toBe("unchanged");
      expect(readPollState(directory)?.problem).toBeNull();
    });

  test("a node without the instance role's credentials keeps the last good object", async () => {
    put(object(7));
    await polling();
    const credentials = () => Promise.reject(Object.assign(new Error("secret"), { code: "ECONNREFUSED" }));
    const result = await polling({ credentials });
    expect(result.kind).toBe("failed");
    expect(JSON.stringify(result)).not.toContain("secret");
    expect(runs()).toBe("R7");
  });

  test("a dry run judges, and writes nothing", async () => {
    put(object(1));
    expect(await polling({ dryRun: true })).toMatchObject({ kind: "taken", serial: 1 });
    expect(existsSync(directory)).toBe(false);
  });

  test("takes the object anew after another fleet's: serials are a fleet's own", async () => {
    put(object(7));
    await polling();
    writeFileSync(configPath, readFileSync(configPath, "utf8").replace('"research"', '"second"'));
    put(object(1, role("S1"), { fleet: "second" }));
    expect(await polling()).toMatchObject({ kind: "taken", serial: 1 });
    expect(runs()).toBe("S1");
  });

  test("writes in no directory that others can write, and through no link", async () => {
    put(object(1));
    mkdirSync(directory);
    chmodSync(directory, 0o777);
    expect((await polling()).kind).toBe("failed");
    expect(readdirSync(directory)).toEqual([]);
    rmSync(directory, { recursive: true });
    const target = join(base, `elsewhere${nodes}`);
    mkdirSync(target);
    symlinkSync(target, directory);
    expect(await polling()).toMatchObject({
      kind: "failed",
      what: expect.stringContaining("cannot be kept in"),
    });
    expect(existsSync(join(target, "object.yaml"))).toBe(false);
  });

  test("what an interrupted poll left beside the copy is replaced, and a link there is not followed", async () => {
    put(object(1));
    mkdirSync(directory, { mode: 0o755 });
    writeFileSync(`${copy}.new`, "half");
    expect((await polling()).kind).toBe("taken");
    const victim = join(base, `victim${nodes}`);
    writeFileSync(victim, "mine");
    symlinkSync(victim, `${copy}.new`);
    put(object(2));
    expect((await polling()).kind).toBe("taken");
    expect(readFileSync(victim, "utf8")).toBe("mine");
    expect(readdirSync(directory).sort()).toEqual(["object.yaml", "state.json"]);
  });

  test("takes a parameter of SSM by the same rules, and judges it whole each time", async () => {
    const ssm = startSsm("/imdsproxy/rules");
    try {
      const config = JSON.parse(readFileSync(configPath, "utf8"));
      Object.assign(config.config, { source: "ssm:/imdsproxy/rules", endpoint: ssm.endpoint });
      writeFileSync(configPath, JSON.stringify(config));
      ssm.value = object(7);
      expect(await polling()).toMatchObject({ kind: "taken", serial: 7, before: null });
      expect(await polling()).toMatchObject({ kind: "unchanged", serial: 7 });
      ssm.value = object(6);
      expect(await refused()).toBe(
        "ssm:/imdsproxy/rules has the serial 6, and this node has had 7: an older object is not taken again",
      );
      ssm.value = object(8).replace("role/R8", "role/Admin");
      expect(await refused()).toContain("ssm:/imdsproxy/rules is signed by no key");
      ssm.value = null;
      expect(await refused()).toContain("ssm:/imdsproxy/rules: there is no such parameter in us-west-2");
      expect(runs()).toBe("R7");
      ssm.value = object(8);
      expect(await polling()).toMatchObject({ kind: "taken", serial: 8, before: 7 });
      expect(readPollState(directory)).toMatchObject({ etag: null, problem: null, taken: { serial: 8 } });
    } finally {
      await ssm.stop();
    }
  });
});
