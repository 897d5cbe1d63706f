import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { generateKeyPairSync, sign } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import {
  loadWithObject,
  merged,
  objectPath,
  parseConfig,
  parseFile,
  withObject,
} from "../../src/config/load.ts";
import {
  MOST_OBJECT_BYTES,
  OBJECT_KEYS,
  publicKeyOf,
  publicKeyText,
  signingKeyOf,
  signObject,
  verifyObject,
} from "../../src/config/object.ts";
import { parseS3Url, parseSsm, sourceText } from "../../src/config/remote.ts";
import { configSchema } from "../../src/config/schema.ts";
import { ImdsProxyError } from "../../src/errors.ts";
import { holds } from "../support/fuzz.ts";

const key = generateKeyPairSync("ed25519").privateKey;
const other = generateKeyPairSync("ed25519").privateKey;
const trust = { fleet: "research", publicKeys: [publicKeyText(key)] };
const ROLE = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";
const RULES = `role: ${ROLE}
rules:
  - name: guests
    match: { user: [guest] }
    role: none
tests:
  - given: { user: guest }
    expect: { role: none }
`;

const signed = (text = RULES, more: Partial<Parameters<typeof signObject>[1]> = {}) =>
  signObject(text, { key, fleet: "research", serial: 7, ...more });

/** The problem of an error of the configuration; null where there is none. */
function problem(work: () => unknown): string | null {
  try {
    work();
    return null;
  } catch (error) {
    if (error instanceof ImdsProxyError && error.code === "config") return error.problem;
    throw error;
  }
}
const verifying = (object: string | Uint8Array, asked = trust) =>
  problem(() => verifyObject(Buffer.from(object), asked, "object"));

const NODE = {
  config: { source: "s3://bucket/object.yaml", fleet: "research", publicKey: trust.publicKeys },
};
const nodeWith = (more: object = {}) => parseFile(JSON.stringify({ ...NODE, ...more }), "config.yaml");
const taking = (text: string, more: object = {}) =>
  problem(() => withObject(nodeWith(more), Buffer.from(signed(text)), "object"));

describe("verifyObject()", () => {
  test("takes what the fleet's key signed, with its serial and its hash", () => {
    const object = signed();
    const found = verifyObject(Buffer.from(object), trust, "object");
    expect(found).toEqual({
      fleet: "research",
      serial: 7,
      hash: new Bun.CryptoHasher("sha256").update(object).digest("hex"),
      text: object,
    });
  });

  test("takes the signature of one of two keys, while one replaces the other", () => {
    const both = { fleet: "research", publicKeys: [publicKeyText(other), publicKeyText(key)] };
    expect(verifying(signed(), both)).toBeNull();
  });

  test("refuses every object of which one byte was changed", () => {
    const bytes = Buffer.from(signed());
    holds(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, by) => {
        const changed = Buffer.from(bytes);
        changed[at] = (changed[at] ?? 0) ^ by;
        return verifying(changed) !== null;
      }),
      2_000,
    );
  });

  test("refuses an object that is cut off, at whichever byte", () => {
    const bytes = Buffer.from(signed());
    for (let length = 0; length < bytes.length; length++)
      if (verifying(bytes.subarray(0, length)) === null) throw new Error(`${length} bytes were taken`);
  });

  test("refuses what follows the signed bytes", () => {
    expect(verifying(`${signed()}\n`)).toContain("signed by no key");
  });

  test("refuses another's signature, and one that is for another serial or fleet than it says", () => {
    expect(verifying(signed(RULES, { key: other }))).toContain(
      "object is signed by no key of config.publicKey",
    );
    expect(verifying(signed().replace("serial=7", "serial=8"))).toContain("signed by no key");
    expect(verifying(signed(RULES, { fleet: "other" }).replace("fleet=other", "fleet=research"))).toContain(
      "signed by no key",
    );
  });

  test("refuses the right signature for another fleet", () => {
    expect(verifying(signed(RULES, { fleet: "production" }))).toBe(
      "object is signed for the fleet production, and config.fleet of this node is research",
    );
  });

  for (const [what, object] of [
    ["no signature", RULES],
    ["nothing", ""],
    ["a line of CR and LF", signed().replace("\n", "\r\n")],
    ["a byte order mark before it", `\ufeff${signed()}`],
    ["a space at the end of the first line", signed().replace("\n", " \n")],
    ["a serial with a zero before it", signed().replace("serial=7", "serial=07")],
    ["the serial 0", signed(RULES, { serial: 0 })],
    ["a fleet that is no name", signed(RULES, { fleet: "a b" })],
    ["a signature in the second line", `\n${signed()}`],
  ] as const)
    test(`refuses ${what}`, () => expect(verifying(object)).toContain("object is not signed"));

  test("refuses more than 1 MiB before it looks at the signature", () => {
    const large = signed(`${RULES}# ${"x".repeat(MOST_OBJECT_BYTES)}\n`);
    expect(verifying(large)).toBe(`object has ${large.length} bytes, and an object has at most 1048576`);
  });

  test("refuses what is no UTF-8, although it is signed", () => {
    const head = "# imdsproxy object 1 fleet=research serial=7";
    const body = Buffer.concat([Buffer.from("\nrole: "), Buffer.from([0xff, 0xfe])]);
    const signature = sign(null, Buffer.concat([Buffer.from(head), body]), key);
    const bytes = Buffer.concat([Buffer.from(`${head} signature=${signature.toString("base64")}`), body]);
    expect(verifying(bytes)).toBe("object is not text in UTF-8");
  });
});

describe("signObject()", () => {
  test("replaces an earlier signature", () => {
    expect(signed(signed(RULES, { serial: 6 }).split("\n").slice(1).join("\n"))).toBe(signed());
  });
});

test("what is signed is the object without ' signature=…', so that openssl can do it", () => {
  const unsignedBytes = Buffer.from(signed().replace(/ signature=\S+/, ""));
  const signature = / signature=(\S+)/.exec(signed())?.[1];
  expect(sign(null, unsignedBytes, key).toString("base64")).toBe(signature ?? "");
});

describe("keys", () => {
  test("a public key is taken as PEM, or as the line of it", () => {
    const line = publicKeyText(key);
    expect(publicKeyOf(`-----BEGIN PUBLIC KEY-----\n${line}\n-----END PUBLIC KEY-----\n`)).toBe(line);
    expect(publicKeyOf(line)).toBe(line);
  });
  test("what is no Ed25519 key is refused", () => {
    const rsa = generateKeyPairSync("rsa", { modulusLength: 1024 });
    const spki = (one: typeof rsa.publicKey) =>
      one.export({ format: "der", type: "spki" }).toString("base64");
    for (const text of [
      "",
      "x",
      "AAAA",
      spki(rsa.publicKey),
      `${publicKeyText(key)}AAAA`,
      "MCowBQYDK2VwAyEA",
    ])
      expect([text, publicKeyOf(text)]).toEqual([text, null]);
    const pem = rsa.privateKey.export({ format: "pem", type: "pkcs8" }).toString();
    expect(problem(() => signingKeyOf(pem, "KEY"))).toContain("KEY is no private key that signs objects");
    expect(problem(() => signingKeyOf("secret", "KEY"))).not.toContain("secret");
  });
});

describe("withObject()", () => {
  test("puts role and rules of the object beside the node's own keys", () => {
    const { config, serial } = withObject(
      nodeWith({ exempt: ["root", "dcv"] }),
      Buffer.from(signed()),
      "object",
    );
    expect([config.role, config.rules.length, config.exempt, serial]).toEqual([ROLE, 1, ["root", "dcv"], 7]);
  });

  test("refuses each key of the node's own, by its name and line", () => {
    const own = Object.keys(configSchema.shape).filter((one) => !OBJECT_KEYS.some((known) => known === one));
    expect(own).toEqual(
      expect.arrayContaining(["exempt", "containers", "listen", "upstream", "sts", "config"]),
    );
    for (const name of own) {
      expect(taking(`${RULES}${name}: null\n`)).toStartWith(
        `object:10: ${name} must not stand in an object: it is the node's own`,
      );
    }
  });

  for (const [what, text] of [
    ["by a merge key", `base: &base { exempt: [alice] }\n<<: *base\n${RULES}`],
    ["by __proto__", `__proto__: { exempt: [alice] }\n${RULES}`],
    ["by a quoted key", `"exempt": [alice]\n${RULES}`],
    ["by a second document", `${RULES}---\nexempt: [alice]\n`],
    ["by a key twice", `${RULES}role: ${ROLE}\n`],
  ] as const)
    test(`refuses a key of the node's ${what}`, () => expect(taking(text)).not.toBeNull());

  test("runs the object's tests, and names the line of the object", () => {
    expect(taking(RULES.replace("expect: { role: none }", `expect: { role: "${ROLE}" }`))).toStartWith(
      'object:8: tests[0] ("guest") expects role',
    );
  });

  test("runs the node's own tests as well, and names the line of the node's file", () => {
    const tests = [{ given: { user: "alice" }, expect: { role: "none" } }];
    expect(taking(RULES, { tests })).toStartWith('config.yaml:1: tests[0] ("alice") expects role none');
  });

  test("refuses rules that can never match, as in a file", () => {
    const rules = `role: ${ROLE}\nrules: [{ name: a, role: none }, { name: b, role: none }]\n`;
    expect(taking(rules)).toStartWith("object:3: rules[1]");
  });

  test("refuses an object that gives a role to nobody, unless one of its tests expects a refusal", () => {
    expect(taking("")).toContain("object gives a role to nobody");
    expect(taking("rules: [{ name: all, role: none }]\n")).toContain("object gives a role to nobody");
    const meant = "tests: [{ given: { user: alice }, expect: { role: none } }]\n";
    expect(taking(`rules: [{ name: all, role: none }]\n${meant}`)).toBeNull();
  });

  test("knows the node's cluster", () => {
    const rules = `role: ${ROLE}\nrules: [{ name: a, match: { user: a }, role: "${ROLE}", tags: { c: "{cluster}" } }]\n`;
    expect(taking(rules)).toContain("set the key cluster");
    expect(taking(rules, { cluster: "one" })).toBeNull();
  });

  test("quotes nothing of an object that is not signed", () => {
    expect(verifying(`exempt: [\u001b[2J]\n`)).not.toContain("\u001b");
  });
});

describe("a node's file with config", () => {
  test("has neither role nor rules: they would have two places", () => {
    expect(problem(() => nodeWith({ role: ROLE }))).toBe(
      "config.yaml:1: role must stand in the object that config.source names, and not here as well",
    );
    expect(problem(() => parseConfig(JSON.stringify(NODE), "config.yaml", { role: ROLE }))).toStartWith(
      "--role-arn must stand in the object",
    );
  });
  test("refuses everybody until it has the object", () => {
    const config = parseConfig(JSON.stringify(NODE), "config.yaml");
    expect([config.role, config.rules]).toEqual([null, []]);
    expect(config.config?.every).toBe(60);
  });
  for (const [key, value, right] of [
    ["source", "https://bucket/key", "must be an object of S3"],
    ["source", "s3://bucket", "must be an object of S3"],
    ["source", "s3://bucket/../key", "must be an object of S3"],
    ["source", "ssm:a b", "or a parameter of SSM"],
    ["every", "5s", "10s to 24h"],
    ["every", "25h", "10s to 24h"],
    ["every", 60, "must be text"],
    ["publicKey", "x", "must be an Ed25519 public key"],
    ["fleet", "a b", "letters, digits"],
    ["fleet", "", "letters, digits"],
    ["region", "nowhere", "must be a region"],
    ["endpoint", "ftp://x", "must be a URL"],
  ] as const)
    test(`refuses ${key}: ${JSON.stringify(value)}`, () =>
      expect(problem(() => nodeWith({ config: { ...NODE.config, [key]: value } }))).toContain(right));
});

describe("parseS3Url()", () => {
  test("takes a key of several segments, with spaces and dots", () =>
    expect(parseS3Url("s3://my.bucket-1/a/b c/.rules.yaml")).toEqual({
      bucket: "my.bucket-1",
      key: "a/b c/.rules.yaml",
    }));
  for (const text of [
    "s3://b/k",
    "s3://Bucket/k",
    "s3://a..b/k",
    "s3://10.0.0.1/k",
    "s3://bucket/",
    "s3://bucket/a//b",
    "s3://bucket/a/./b",
    "s3://bucket/é",
    "s3://bucket/a\\b",
    "s3://user@bucket/k",
  ])
    test(`refuses ${text}`, () => expect(parseS3Url(text)).toBeNull());
});

describe("parseSsm()", () => {
  const arn = (name: string) => `arn:aws-cn:ssm:cn-north-1:123456789012:parameter/${name}`;
  for (const [text, region] of [
    ["ssm:rules", null],
    ["ssm:/imdsproxy/west-2/rules.yaml", null],
    [`ssm:${arn("rules")}`, "cn-north-1"],
    [`ssm:${arn("imdsproxy/rules")}`, "cn-north-1"],
  ] as const)
    test(`takes ${text}`, () => {
      const found = parseSsm(text);
      expect(found).toEqual({ parameter: text.slice(4), region });
      expect(found === null ? null : sourceText(found)).toBe(text);
    });
  for (const text of [
    "ssm:",
    "ssm:/",
    "ssm:a/b",
    "ssm:/a//b",
    "ssm:/a/",
    "ssm:rules:3",
    "ssm://rules",
    "ssm:rules*",
    "ssm:rules\n",
    `ssm:${arn("a//b")}`,
    `ssm:${arn("rules:3")}`,
    `ssm:${arn("rules").replace("123456789012", "*")}`,
    `ssm:/${"a".repeat(1011)}`,
  ])
    test(`refuses ${JSON.stringify(text).slice(0, 80)}`, () => expect(parseSsm(text)).toBeNull());
});

describe("loadWithObject()", () => {
  let directory: string;
  let path: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "imdsproxy-object-"));
    path = join(directory, "config.yaml");
    const stateDirectory = join(directory, "state");
    writeFileSync(path, JSON.stringify({ ...NODE, stateDirectory }));
    mkdirSync(join(directory, "state-fleet"));
  });
  afterAll(() => rmSync(directory, { recursive: true }));
  const copy = () => objectPath({ stateDirectory: join(directory, "state") });

  test("without a copy of the object, everybody is refused", () => {
    rmSync(copy(), { force: true });
    const { config, object } = loadWithObject({ path });
    expect([config.role, config.rules, object]).toEqual([null, [], { kind: "missing", path: copy() }]);
  });
  test("with a copy, its role and rules are there", () => {
    writeFileSync(copy(), signed());
    const { config, object } = loadWithObject({ path });
    expect([config.role, object?.kind]).toEqual([ROLE, "good"]);
  });
  test("with a copy that was changed, everybody is refused, and it says why", () => {
    writeFileSync(copy(), signed().replace("guest]", "alice]"));
    const { config, object } = loadWithObject({ path });
    expect([config.role, config.rules, object?.kind]).toEqual([null, [], "unusable"]);
    expect(object).toMatchObject({ problem: expect.stringContaining("signed by no key") });
  });
  test("what is no file is unusable, and hangs nothing", () => {
    rmSync(copy(), { force: true });
    mkdirSync(copy());
    expect(loadWithObject({ path }).object).toMatchObject({ kind: "unusable" });
    rmSync(copy(), { recursive: true });
  });
});

test("an object is checked before it is signed, with the lines of the file", () => {
  expect(problem(() => merged(nodeWith(), "role: x\n", "rules.yaml"))).toStartWith(
    "rules.yaml:1: role must be",
  );
});
