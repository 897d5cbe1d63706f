import { describe, expect, test } from "bun:test";
import { ImdsProxyError } from "../../src/errors.ts";
import { judged } from "../../src/service/given-object.ts";

const ROLE = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";
const RULES = `role: ${ROLE} # of all\n`;
const WHOLE = `${RULES}exempt: [alice]\n`;
const sha = (text: string) => new Bun.CryptoHasher("sha256").update(text).digest("hex");

function taking(text: string, sha256: string | null, installed: string | null = null): string {
  try {
    return judged(Buffer.from(text), { url: "s3://bucket/key", sha256, installed });
  } catch (error) {
    if (error instanceof ImdsProxyError) return `refused: ${error.problem}`;
    throw error;
  }
}

describe("setup --config s3://…", () => {
  test("takes a configuration whole where its hash is named, in whichever case", () => {
    expect(taking(WHOLE, sha(WHOLE))).toBe(WHOLE);
    expect(taking(WHOLE, sha(WHOLE).toUpperCase())).toBe(WHOLE);
  });
  test("refuses one that has another hash", () => {
    expect(taking(WHOLE, sha(RULES))).toBe(
      `refused: s3://bucket/key has the SHA-256 ${sha(WHOLE)}, and --config-sha256 is ${sha(RULES)}`,
    );
  });
  test("takes no key of the node's own without a hash", () => {
    expect(taking(WHOLE, null)).toBe(
      "refused: s3://bucket/key has the keys exempt, and only role, rules, tests are taken from S3 or SSM without a hash",
    );
    for (const text of [`<<: { exempt: [alice] }\n`, `config: {}\n`, `"\\x65xempt": [alice]\n`])
      expect(taking(text, null)).toStartWith("refused: ");
  });
  test("puts role and rules beside the keys that the node has, and takes away those of before", () => {
    const installed = `# ours\nexempt: [root, dcv]\nrole: arn:aws:iam::842413447717:role/Old\nrules: [{ name: a, role: none }]\n`;
    expect(taking(RULES, null, installed)).toBe(`# ours\nexempt: [ root, dcv ]\nrole: ${ROLE} # of all\n`);
  });
  test("takes nothing that is no text", () => {
    const found = () => judged(Buffer.from([0xff]), { url: "u", sha256: null, installed: null });
    expect(found).toThrow("u is not text in UTF-8");
  });
});
