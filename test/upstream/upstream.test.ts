import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createInstanceSecrets } from "../../src/demo/imds/secrets.ts";
import { DEFAULT_FACTS } from "../../src/demo/imds/tree.ts";
import { ImdsProxyError } from "../../src/errors.ts";
import { Upstream } from "../../src/upstream/upstream.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { patientClock } from "../support/patient-clock.ts";
import { type FaultyImds, startFaultyImds } from "../support/stand-ins/imds.ts";

const MAC_PATH = "meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/vpc-id";
const secrets = createInstanceSecrets();
let service: FaultyImds;
let upstream: Upstream;

function endpointOf(standIn: FaultyImds) {
  const [endpoint] = standIn.endpoints();
  if (endpoint === undefined) throw new Error("it listens nowhere");
  return endpoint;
}

beforeEach(() => {
  service = startFaultyImds({ listen: [{ address: "127.0.0.1", port: 0 }], secrets });
  upstream = new Upstream({ endpoint: endpointOf(service), clock: patientClock });
});
afterEach(() => {
  upstream.close();
  service.stop();
});

/** A service that answers each request as told; what it was sent is kept, byte for byte. */
function scripted(answerTo: (line: string) => string) {
  const heads: string[] = [];
  const listener = Bun.listen<{ unread: string }>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(socket) {
        socket.data = { unread: "" };
      },
      data(socket, bytes) {
        socket.data.unread += bytes.toString("latin1");
        for (
          let end = socket.data.unread.indexOf("\r\n\r\n");
          end >= 0;
          end = socket.data.unread.indexOf("\r\n\r\n")
        ) {
          const head = socket.data.unread.slice(0, end);
          socket.data.unread = socket.data.unread.slice(end + 4);
          heads.push(head);
          socket.write(answerTo(head.split("\r\n")[0] ?? ""));
        }
      },
    },
  });
  const to = new Upstream({ endpoint: { address: "127.0.0.1", port: listener.port }, clock: patientClock });
  return {
    heads,
    upstream: to,
    stop: () => {
      to.close();
      listener.stop(true);
    },
  };
}

const reply = (status: number, body = "", headers: readonly string[] = []): string =>
  [`HTTP/1.1 ${status} X`, `Content-Length: ${body.length}`, ...headers, "", body].join("\r\n");
const TOKEN = reply(200, "t".repeat(56), ["X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600"]);

describe("read()", () => {
  test("asks for the plain path under a token, once for all requests, with nothing but our own headers", async () => {
    expect(await upstream.read("latest", "meta-data/instance-id")).toMatchObject({
      kind: "found",
      body: DEFAULT_FACTS.instanceId,
    });
    expect(await upstream.read("2021-03-23", "meta-data/placement/region")).toMatchObject({
      body: "us-west-2",
    });
    expect(service.log().map(({ method, target }) => `${method} ${target}`)).toEqual([
      "PUT /latest/api/token",
      "GET /latest/meta-data/instance-id",
      "GET /2021-03-23/meta-data/placement/region",
    ]);
    const names = service.log().flatMap(({ headers }) => headers.map(([name]) => name.toLowerCase()));
    expect(new Set(names)).toEqual(
      new Set([
        "host",
        "user-agent",
        "accept",
        "connection",
        "content-length",
        "x-aws-ec2-metadata-token",
        "x-aws-ec2-metadata-token-ttl-seconds",
      ]),
    );
  });

  test("writes a path as clients do: a MAC's colons as they are", async () => {
    expect(await upstream.read("latest", MAC_PATH)).toMatchObject({ kind: "found", body: "vpc-13627c23" });
    expect(service.log().at(-1)?.target).toBe(`/latest/${MAC_PATH}`);
  });

  test("asks for the root and for a version's own listing", async () => {
    expect((await upstream.read("", "")).kind).toBe("found");
    expect((await upstream.read("latest", "")).kind).toBe("found");
    expect(service.log().map(({ target }) => target)).toEqual(["/latest/api/token", "/", "/latest"]);
  });

  test("says that a path is absent by 404 alone", async () => {
    expect(await upstream.read("latest", "meta-data/none")).toEqual({ kind: "absent" });
    for (const status of [200, 301, 302, 307, 308, 400, 401, 403, 404, 405, 429, 500, 503]) {
      const one = scripted((line) =>
        line.startsWith("PUT")
          ? TOKEN
          : reply(status, "x", ["Location: http://127.0.0.1:1/latest/user-data"]),
      );
      const found = await one.upstream.read("latest", "meta-data/hostname");
      expect([status, found.kind]).toEqual([
        status,
        status === 200 ? "found" : status === 404 ? "absent" : "failed",
      ]);
      one.stop();
    }
  });

  test("goes nowhere that a redirect names, but once to its own path with a slash", async () => {
    const one = scripted((line) =>
      line.startsWith("PUT")
        ? TOKEN
        : line.includes("macs/ ")
          ? reply(200, "a/")
          : reply(301, "", ["Location: http://127.0.0.1:1/latest/user-data"]),
    );
    expect(await one.upstream.read("latest", "meta-data/network/interfaces/macs")).toMatchObject({
      kind: "found",
      body: "a/",
    });
    expect(one.heads.map((head) => head.split("\r\n")[0])).toEqual([
      "PUT /latest/api/token HTTP/1.1",
      "GET /latest/meta-data/network/interfaces/macs HTTP/1.1",
      "GET /latest/meta-data/network/interfaces/macs/ HTTP/1.1",
    ]);
    one.stop();
  });

  test("gets another token where the one it has is refused, and asks once more", async () => {
    let puts = 0;
    const one = scripted((line) =>
      line.startsWith("PUT")
        ? reply(200, String(++puts).repeat(56), ["X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600"])
        : one.heads.at(-1)?.includes(`X-aws-ec2-metadata-token: ${"2".repeat(56)}`)
          ? reply(200, "ok")
          : reply(401),
    );
    expect(await one.upstream.read("latest", "meta-data/hostname")).toMatchObject({ body: "ok" });
    expect(puts).toBe(2);
    one.stop();
  });

  test("speaks to a service without tokens, and asks again a minute later whether it has some", async () => {
    const clock = new FakeClock();
    const one = scripted((line) => (line.startsWith("PUT") ? reply(405) : reply(200, "ok")));
    const to = new Upstream({ endpoint: one.upstream.endpoint, clock });
    const puts = () => one.heads.filter((head) => head.startsWith("PUT")).length;
    for (let i = 0; i < 3; i++) expect((await to.read("latest", "meta-data/hostname")).kind).toBe("found");
    expect(puts()).toBe(1);
    expect(one.heads.at(-1)).not.toContain("metadata-token");
    await clock.advance(60_000);
    await to.read("latest", "meta-data/hostname");
    expect(puts()).toBe(2);
    to.close();
    one.stop();
  });

  test("takes no token that could be two lines, and no answer without end", async () => {
    for (const token of ["a\r\nX: y", "a b", "", "\x01", "t".repeat(1_025)]) {
      const one = scripted((line) => (line.startsWith("PUT") ? reply(200, token) : reply(200, "x")));
      expect((await one.upstream.read("latest", "meta-data/hostname")).kind).toBe("failed");
      expect(one.heads.some((head) => head.startsWith("GET"))).toBe(false);
      one.stop();
    }
    const endless = scripted((line) => (line.startsWith("PUT") ? TOKEN : reply(200, "x".repeat(1_100_000))));
    expect((await endless.upstream.read("latest", "meta-data/hostname")).kind).toBe("failed");
    endless.stop();
  });

  test("says that it failed where nobody answers, in words that hold nothing of an answer", async () => {
    service.set({ fault: "drop" });
    const dropped = await upstream.read("latest", "meta-data/hostname");
    expect(dropped).toMatchObject({ kind: "failed" });
    service.set({ fault: "refuse" });
    const refused = await upstream.read("latest", "meta-data/hostname");
    expect(refused.kind === "failed" ? refused.why : "").toContain("ECONNREFUSED");
  });

  const locked = [
    "meta-data/iam",
    "meta-data/iam/security-credentials/X",
    "meta-data/IAM/info",
    "meta-data/identity-credentials/ec2",
    "api/token",
    "meta-data/../user-data",
    "meta-data/./x",
    "meta-data/.../x",
    "meta-data//x",
    "/meta-data",
    "meta-data/",
    "meta-data/a b",
    "meta-data/a%2fb",
    "meta-data/a\r\nX: y",
    "meta-data/a?b",
    "meta-data/a#b",
    "meta-data/a;b",
    "meta-data/a\\b",
    "meta-data/\u0131am",
  ];
  for (const path of locked) {
    test(`never asks for ${JSON.stringify(path)}, whoever wants it`, async () => {
      await expect(upstream.read("latest", path)).rejects.toThrow("must not be asked for");
      await Bun.sleep(0);
      expect(service.log()).toEqual([]);
    });
  }
  for (const version of ["..", ".", "a/b", "latest\r\n", "latest ", "%6c", "?"]) {
    test(`never asks under the version ${JSON.stringify(version)}`, async () => {
      await expect(upstream.read(version, "meta-data/hostname")).rejects.toThrow("must not be asked for");
      await Bun.sleep(0);
      expect(service.log()).toEqual([]);
    });
  }
});

describe("credentials()", () => {
  test("are the instance role's", async () => {
    const found = await upstream.credentials();
    expect(found.secretAccessKey).toBe(secrets.role.secretAccessKey);
    expect(found.expiresAtMs).toBeGreaterThan(Date.now());
  });

  const bodies: [name: string, list: string, document: string][] = [
    ["no JSON", "Role", `{"SecretAccessKey": "${secrets.marker}"`],
    ["an incomplete document", "Role", JSON.stringify({ Code: "Success", SecretAccessKey: secrets.marker })],
    ["an error page for the list", "<html>\n", ""],
    ["a list of something else", `../../user-data?${secrets.marker}`, ""],
    ["an empty list", "", ""],
  ];
  for (const [name, list, document] of bodies) {
    test(`where there is ${name}: an error that quotes nothing of it`, async () => {
      const one = scripted((line) =>
        line.startsWith("PUT")
          ? TOKEN
          : line.includes("security-credentials/ ")
            ? reply(200, list)
            : reply(200, document),
      );
      const error = await one.upstream.credentials().then(
        () => null,
        (found: unknown) => found as Error,
      );
      expect(error).not.toBeNull();
      expect(`${error?.message}${error?.stack}${JSON.stringify(error)}`).not.toContain(secrets.marker);
      one.stop();
    });
  }

  test("where the document is null: the same error as for one that is none", async () => {
    const one = scripted((line) =>
      line.startsWith("PUT")
        ? TOKEN
        : line.includes("security-credentials/ ")
          ? reply(200, "Role")
          : reply(200, "null"),
    );
    const error = await one.upstream.credentials().catch((found: unknown) => found);
    expect(error).toBeInstanceOf(ImdsProxyError);
    expect((error as ImdsProxyError).problem).toContain("cannot be read (status 200)");
    one.stop();
  });

  test("where the node has no role: an error that says so", async () => {
    const one = scripted((line) => (line.startsWith("PUT") ? TOKEN : reply(404)));
    const error = await one.upstream.credentials().catch((found: unknown) => found);
    expect(error).toBeInstanceOf(ImdsProxyError);
    expect((error as ImdsProxyError).problem).toContain("has no role for this node");
    one.stop();
  });

  test("go past the proxy that HTTP_PROXY names: none may see them", async () => {
    const seen: string[] = [];
    const proxy = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch(request) {
        seen.push(request.url);
        return new Response("x");
      },
    });
    const { port } = endpointOf(service);
    const script = `
      import { Upstream } from ${JSON.stringify(`${import.meta.dir}/../../src/upstream/upstream.ts`)};
      import { patientClock } from ${JSON.stringify(`${import.meta.dir}/../support/patient-clock.ts`)};
      const upstream = new Upstream({ endpoint: { address: "127.0.0.1", port: ${port} }, clock: patientClock });
      const { accessKeyId } = await upstream.credentials();
      console.log(accessKeyId.length);
      process.exit(0);`;
    const url = `http://127.0.0.1:${proxy.port}`;
    const child = Bun.spawn([process.execPath, "-e", script], {
      env: { ...process.env, HTTP_PROXY: url, http_proxy: url, ALL_PROXY: url, NO_PROXY: "", no_proxy: "" },
      stdout: "pipe",
      stderr: "pipe",
    });
    expect((await new Response(child.stdout).text()).trim()).toBe("20");
    expect(seen).toEqual([]);
    await proxy.stop(true);
  });
});

describe("moveTo()", () => {
  /** A service that answers when it is told to, each with a token of its own. */
  function held(name: string) {
    const waiting: (() => void)[] = [];
    let free = false;
    const answerTo = (line: string): string =>
      line.startsWith("PUT")
        ? reply(200, name.repeat(56), ["X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600"])
        : line.endsWith("security-credentials/ HTTP/1.1")
          ? reply(200, `Role-${name}`)
          : line.includes("security-credentials/")
            ? reply(
                200,
                JSON.stringify({
                  AccessKeyId: name,
                  SecretAccessKey: name,
                  Token: name,
                  Expiration: "2099-01-01T00:00:00Z",
                }),
              )
            : reply(200, `of ${name}`);
    const heads: string[] = [];
    const listener = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        data(socket, bytes) {
          const head = bytes.toString("latin1");
          heads.push(head);
          const answer = () => void socket.write(answerTo(head.split("\r\n")[0] ?? ""));
          if (free) answer();
          else waiting.push(answer);
        },
      },
    });
    return {
      heads,
      endpoint: { address: "127.0.0.1", port: listener.port },
      asked: async (times: number) => {
        while (heads.length < times) await Bun.sleep(1);
      },
      /** Answers what has been asked so far. */
      answer: () => {
        for (const one of waiting.splice(0)) one();
      },
      /** Answers that, and everything from now on. */
      answerAll: () => {
        free = true;
        for (const one of waiting.splice(0)) one();
      },
      stop: () => listener.stop(true),
    };
  }

  for (const [what, requests] of [
    ["the token's request", 1],
    ["the request itself", 2],
  ] as const) {
    test(`with ${what} under way: the new service is asked, with a token of its own, and its answer counts`, async () => {
      const [a, b] = [held("a"), held("b")];
      const to = new Upstream({ endpoint: a.endpoint, clock: patientClock });
      b.answerAll();
      const found = to.read("latest", "meta-data/hostname");
      await a.asked(1);
      if (requests === 2) {
        a.answer();
        await a.asked(2);
      }
      to.moveTo(b.endpoint);
      a.answerAll();
      expect(await found).toMatchObject({ kind: "found", body: "of b" });
      expect(await to.read("latest", "meta-data/instance-id")).toMatchObject({ body: "of b" });
      expect(b.heads.filter((head) => head.includes("a".repeat(56)))).toEqual([]);
      expect(b.heads.filter((head) => head.includes("b".repeat(56)))).toHaveLength(2);
      for (const one of [to.close(), a.stop(), b.stop()]) void one;
    });
  }

  test("with the credentials' request under way: the credentials are the new service's", async () => {
    const [a, b] = [held("a"), held("b")];
    const to = new Upstream({ endpoint: a.endpoint, clock: patientClock });
    b.answerAll();
    const found = to.credentials();
    await a.asked(1);
    to.moveTo(b.endpoint);
    a.answerAll();
    expect((await found).accessKeyId).toBe("b");
    for (const one of [to.close(), a.stop(), b.stop()]) void one;
  });
});

describe("tokensRequired()", () => {
  test("is what the service does with a request that has none", async () => {
    expect(await upstream.tokensRequired()).toBe(false);
    service.set({ tokens: "required" });
    expect(await upstream.tokensRequired()).toBe(true);
    service.set({ fault: "error" });
    expect(await upstream.tokensRequired()).toBeNull();
    service.set({ fault: "refuse" });
    expect(await upstream.tokensRequired()).toBeNull();
  });

  test("is no also where the service has no listing: who wants a token says 401 before 404", async () => {
    for (const [status, required] of [
      [200, false],
      [404, false],
      [401, true],
      [403, null],
      [429, null],
      [500, null],
    ] as const) {
      const one = scripted(() => reply(status));
      expect([status, await one.upstream.tokensRequired()]).toEqual([status, required]);
      one.stop();
    }
  });
});
