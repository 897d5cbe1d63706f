import { afterAll, beforeAll, expect, test } from "bun:test";
import { curl, mustExec } from "../support/node.ts";
import { eventually, getWithToken, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

const ALICE = { user: "alice" };
const ROOT = { user: "root" };
const LIST = "/latest/meta-data/iam/security-credentials/";

/** Sends bytes to the metadata address and prints the status line of the answer. */
const RAW = `
import socket, sys
s = socket.create_connection(("169.254.169.254", 80), 10)
s.sendall(sys.argv[1].encode().decode("unicode_escape").encode("latin1"))
answer = s.makefile("rb")
print(answer.readline().decode().strip())
`;

describeAsRoot("a refusal is seen by who runs the node:", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode(
      {},
      {
        metrics: { listen: "127.0.0.1:9254" },
        rules: [{ name: "not alice", match: { user: "alice" }, role: "none" }],
      },
    );
  });
  afterAll(() => proxied?.node.stop());

  const refusals = async (kind: string): Promise<number> => {
    const text = await mustExec(proxied.node, ROOT, ["curl", "-sf", "http://127.0.0.1:9254/metrics"]);
    return Number(
      new RegExp(`^imdsproxy_refusals_total\\{kind="${kind}"\\} (\\d+)$`, "m").exec(text)?.[1] ?? 0,
    );
  };
  const lines = (kind: RegExp) =>
    proxied.proxy
      .output()
      .split("\n")
      .filter((line) => kind.test(line));

  test("who gets no role by a rule is in the log once, with the rule's name, and each time in the metrics", async () => {
    for (let asks = 0; asks < 5; asks++) {
      expect((await getWithToken(proxied.node, ALICE, LIST)).status).toBe(404);
    }
    await eventually("all five are counted", async () => (await refusals("rule")) === 5);
    await eventually("the log says so", () => lines(/"refused"/).length > 0);
    const said = lines(/"refused"/);
    expect(said).toHaveLength(1);
    expect(JSON.parse(said[0] ?? "")).toMatchObject({
      decision: "refused",
      kind: "rule",
      rule: "not alice",
      reason: 'rule "not alice" gives no role',
      user: "alice",
      uid: 2001,
      imdsVersion: 2,
      route: "role-list",
      status: 404,
    });
  });

  test("a malformed head is in the log and in the metrics", async () => {
    const status = await mustExec(proxied.node, ALICE, ["/usr/bin/python3", "-c", RAW, "G\\r\\n\\r\\n"]);
    expect(status.trim()).toBe("HTTP/1.1 400 Bad Request");
    await eventually("it is counted", async () => (await refusals("malformed")) === 1);
    await eventually("the log says so", () =>
      lines(/"turned away"/)
        .join()
        .includes("the head of a request is malformed"),
    );
  });

  test("the token that s3fs-fuse asks for with an empty body in chunks is given, and the connection closed", async () => {
    const answer = await mustExec(proxied.node, ALICE, [
      "/usr/bin/python3",
      "-c",
      `${RAW}print(answer.read().decode("latin1"))`,
      "PUT /latest/api/token HTTP/1.1\\r\\nHost: 169.254.169.254\\r\\nTransfer-Encoding: chunked\\r\\n" +
        "X-aws-ec2-metadata-token-ttl-seconds: 21600\\r\\n\\r\\n0\\r\\n\\r\\n",
    ]);
    expect(answer).toStartWith("HTTP/1.1 200 OK\n");
    expect(answer).toMatch(/^Connection: close\r$/m);
    expect(answer.trim()).toMatch(/\r\n\r\n[\w-]{56}$/);
  });

  test("/healthz and /readyz say what is well, and /readyz what is not, to whoever asks", async () => {
    const probe = async (path: string) => {
      const { status, body } = await curl(proxied.node, ALICE, `http://127.0.0.1:9254${path}`);
      return [status, body];
    };
    await eventually("it is ready", async () => (await probe("/readyz"))[0] === 200);
    expect(await probe("/healthz")).toEqual([200, "[+]accepting ok\nhealthz check passed\n"]);
    await proxied.node.agent?.set({ fault: "error" });
    await eventually("it says that the upstream is away", async () => {
      const [status, body] = await probe("/readyz");
      return status === 503 && String(body).includes("[-]upstream failed: the node's own metadata service");
    });
    expect((await probe("/healthz"))[0]).toBe(200);
    await proxied.node.agent?.set({ fault: "none" });
    await eventually("it is ready again", async () => (await probe("/readyz"))[0] === 200);
    expect((await probe("/metrics/x"))[0]).toBe(404);
  });

  test("Prometheus's own linter finds no fault in the metrics of a proxy that has served", async () => {
    expect((await getWithToken(proxied.node, { user: "bob" }, LIST)).status).toBe(200);
    const text = await mustExec(proxied.node, ROOT, ["curl", "-sf", "http://127.0.0.1:9254/metrics"]);
    expect(text).toContain("imdsproxy_requests_total{");
    const lint = async (metrics: string) => {
      const run = Bun.spawn(["promtool", "check", "metrics"], {
        stdin: Buffer.from(metrics),
        stdout: "pipe",
        stderr: "pipe",
      });
      const said = (await new Response(run.stdout).text()) + (await new Response(run.stderr).text());
      return { exitCode: await run.exited, said };
    };
    expect(await lint(text)).toEqual({ exitCode: 0, said: "" });
    // It does find faults: a counter that is called as no counter is.
    const { exitCode, said } = await lint(text.replaceAll("imdsproxy_requests_total", "imdsproxy_requests"));
    expect([exitCode, said]).toEqual([3, expect.stringContaining("_total")]);
  });
});
