import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { curl, IMDS4, IMDS6 } from "../support/node.ts";
import { eventually, startProxiedNode, TOKEN_HEADER, TTL_HEADER, tokenOf } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

const alice = { user: "alice" };
const bob = { user: "bob" };
const TOKEN_PATH = "/latest/api/token";
const A_LEAF = "/latest/meta-data/placement/region";

describeAsRoot("tokens through the redirect", () => {
  let node: SimulatedNode;
  beforeAll(async () => {
    ({ node } = await startProxiedNode({}, { imds: { tokens: "required" } }));
  });
  afterAll(() => node.stop());

  const put = (ttl: string | null, more: readonly string[] = [], path = TOKEN_PATH) =>
    curl(node, alice, IMDS4 + path, [
      "-X",
      "PUT",
      ...(ttl === null ? [] : ["-H", `${TTL_HEADER}: ${ttl}`]),
      ...more,
    ]);
  const get = (token: string | null, who: { user: string } = alice, base = IMDS4) =>
    curl(node, who, base + A_LEAF, token === null ? [] : ["-H", `${TOKEN_HEADER}: ${token}`]);

  describe("the PUT", () => {
    for (const ttl of ["1", "60", "21600"]) {
      test(`with a TTL of ${ttl} is 200 text/plain, 56 characters, the TTL echoed, never chunked`, async () => {
        const { status, headers, body } = await put(ttl);
        expect(status).toBe(200);
        expect(body).toMatch(/^[\x21-\x7e]{56}$/);
        expect(headers.get(TTL_HEADER)).toBe(ttl);
        expect(headers.get("content-type")).toBe("text/plain");
        expect(headers.get("content-length")).toBe("56");
        expect(headers.get("transfer-encoding")).toBeNull();
        expect(headers.get("server")).toBe("EC2ws");
      });
    }

    for (const ttl of [null, "0", "21601", "abc", "60.5", "-1", "", "1e3", "0x10", "99999999999999999999"]) {
      test(`with a TTL of ${JSON.stringify(ttl)} is 400 with a page`, async () => {
        const { status, headers, body } = await put(ttl);
        expect(status).toBe(400);
        expect(headers.get("content-type")).toBe("text/html");
        expect(body).toContain("<title>400 - Bad Request</title>");
      });
    }

    test("with X-Forwarded-For is 403", async () => {
      expect((await put("60", ["-H", "X-Forwarded-For: 10.0.0.1"])).status).toBe(403);
    });

    test("of another version is 403", async () => {
      expect((await put("60", [], "/2021-03-23/api/token")).status).toBe(403);
    });

    test("with Expect: 100-continue is 417", async () => {
      expect((await put("60", ["-H", "Expect: 100-continue"])).status).toBe(417);
    });

    test("for a Host that is no name of the metadata service is 403", async () => {
      expect((await put("60", ["-H", "Host: rebound.example"])).status).toBe(403);
    });
  });

  for (const method of ["GET", "POST", "DELETE", "PATCH"]) {
    test(`${method} on the token path is 405 with Allow, and empty`, async () => {
      const { status, headers, body } = await curl(node, alice, IMDS4 + TOKEN_PATH, ["-X", method]);
      expect([status, body]).toEqual([405, ""]);
      expect(headers.get("allow")).toContain("PUT");
    });
  }

  describe("the GET", () => {
    test("with one's own token is 200, with the time that the token has left", async () => {
      const { status, headers, body } = await get(await tokenOf(node, alice, 60));
      expect([status, body]).toEqual([200, "us-west-2"]);
      const left = Number(headers.get(TTL_HEADER));
      expect(left).toBeGreaterThan(0);
      expect(left).toBeLessThanOrEqual(60);
    });

    test("with a token from the IPv4 address is 200 at the IPv6 address", async () => {
      expect((await get(await tokenOf(node, alice, 60), alice, IMDS6)).status).toBe(200);
    });

    test("without a token is 401 where tokens are required", async () => {
      expect((await get(null)).status).toBe(401);
    });

    test("with another user's token is 401", async () => {
      const token = await tokenOf(node, bob, 60);
      expect((await get(token, alice)).status).toBe(401);
      expect((await get(token, bob)).status).toBe(200);
    });

    test("with another user's token is 401 also where its owner is answered the same bytes in between", async () => {
      const token = await tokenOf(node, bob, 21_600);
      for (let round = 0; round < 3; round++) {
        expect((await get(token, bob)).status).toBe(200);
        expect((await get(token, bob)).status).toBe(200);
        expect((await get(token, alice)).status).toBe(401);
      }
    });

    test("with a token of the node's own service is 401", async () => {
      const { body } = await curl(node, { user: "root" }, IMDS4 + TOKEN_PATH, [
        "-X",
        "PUT",
        "-H",
        `${TTL_HEADER}: 60`,
      ]);
      expect(body).toHaveLength(56);
      expect((await get(body)).status).toBe(401);
    });

    test("with a token of which one character is another is 401", async () => {
      const token = await tokenOf(node, alice, 60);
      for (const at of [0, 5, 28, 50]) {
        const other = token[at] === "A" ? "B" : "A";
        expect((await get(token.slice(0, at) + other + token.slice(at + 1))).status).toBe(401);
      }
    });

    for (const token of ["x", "A".repeat(56), "A".repeat(4000), "%00"]) {
      test(`with the token ${token.slice(0, 8)} of ${token.length} characters is 401`, async () => {
        expect((await get(token)).status).toBe(401);
      });
    }

    test("with an expired token is 401", async () => {
      const token = await tokenOf(node, alice, 1);
      for (let tries = 0; tries < 100; tries++) {
        const { status } = await get(token);
        if (status === 401) return;
        expect(status).toBe(200);
        await Bun.sleep(100);
      }
      throw new Error("a token of one second is still good after ten");
    });
  });

  test("HEAD has the headers of GET and no body", async () => {
    const token = await tokenOf(node, alice, 60);
    const { status, headers, body } = await curl(node, alice, IMDS4 + A_LEAF, [
      "--head",
      "-H",
      `${TOKEN_HEADER}: ${token}`,
    ]);
    expect([status, headers.get("content-length"), body]).toEqual([200, "9", ""]);
  });

  for (const method of ["POST", "PUT", "DELETE", "OPTIONS"]) {
    test(`${method} on metadata is refused without data`, async () => {
      const token = await tokenOf(node, alice, 60);
      const answer = await curl(node, alice, IMDS4 + A_LEAF, [
        "-X",
        method,
        "-H",
        `${TOKEN_HEADER}: ${token}`,
      ]);
      expect(answer.status).toBeGreaterThanOrEqual(400);
      expect(answer.status).not.toBe(401);
      expect(answer.body).not.toContain("us-west-2");
    });
  }
});

describeAsRoot("tokens where the node's own service does not require them", () => {
  let node: SimulatedNode;
  beforeAll(async () => {
    ({ node } = await startProxiedNode());
  });
  afterAll(() => node.stop());

  test("auto lets a request without a token pass, and still refuses a bad one", async () => {
    // 503 until the proxy knows what the service wants, which it asks at its start.
    let first = await curl(node, alice, IMDS4 + A_LEAF);
    await eventually("the proxy knows what the service wants", async () => {
      if (first.status !== 503) return true;
      first = await curl(node, alice, IMDS4 + A_LEAF);
      return false;
    });
    expect(first.body).toBe("us-west-2");
    expect((await curl(node, alice, IMDS4 + A_LEAF, ["-H", `${TOKEN_HEADER}: x`])).status).toBe(401);
  });
});
