import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { parseConfig } from "../../src/config/load.ts";
import type { Running } from "../../src/demo/run.ts";
import { curl, IMDS4, mustExec, startTestNode } from "../support/node.ts";
import { tokenOf } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";

/** Alice attacks the one who looks on: root, who runs `imdsproxy observe`. */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const FILE = "/run/seen/observed.json";

/** Asks with ever new User-Agents and paths, as fast as it can. */
const MANY = `
import http.client
for i in range(60):
    connection = http.client.HTTPConnection("169.254.169.254", timeout=40)
    for j in range(10):
        connection.request("GET", f"/latest/meta-data/none-{i}-{j}", headers={"User-Agent": f"agent-{i}-{j}"})
        connection.getresponse().read()
    connection.close()
`;
describeAsRoot("alice, whom observe sees:", () => {
  let node: SimulatedNode;
  let one: Running;
  let token = "";
  let report = "";
  const show = async (...flags: string[]) =>
    mustExec(node, ROOT, ["imdsproxy", "observe", "--file", FILE, "--show", ...flags]);

  beforeAll(async () => {
    node = await startTestNode();
    node.write("/run/seen/many.py", MANY);
    one = node.spawn({ ...ROOT, argv: ["imdsproxy", "observe", "--file", FILE], timeoutMs: 0 });
    while (!one.stderr().includes("listening;")) await Bun.sleep(10);

    const evil = "/tmp/\x1b]0;x\x07\n  - name: evil";
    await mustExec(node, ALICE, ["cp", "/usr/bin/curl", evil]);
    const hostile = ["-s", "-o", "/dev/null", "-A", "\x1b[2Jagent", "-H", "X-Secret: hunter2", "--url"];
    await mustExec(node, ALICE, [evil, ...hostile, `${IMDS4}/latest/user-data`]);
    await mustExec(node, ALICE, ["/usr/bin/python3", "/run/seen/many.py"]);
    token = await tokenOf(node, ALICE);
    const list = "/latest/meta-data/iam/security-credentials";
    const header = ["-H", `X-aws-ec2-metadata-token: ${token}`];
    await curl(node, ALICE, `${IMDS4}${list}/${node.roleName}`, header);
    // Bob is seen as ever.
    await curl(node, { user: "bob" }, `${IMDS4}/latest/meta-data/instance-id`);
    one.kill("SIGINT");
    report = (await one.done).stdout;
  });
  afterAll(() => node?.stop());

  test("fools neither terminal nor draft", async () => {
    for (const text of [report, await show(), await show("--json")]) expect(text).toMatch(/^[\n -~]*$/);
    const draft = await mustExec(node, ROOT, ["imdsproxy", "observe", "--file", FILE, "--suggest"]);
    expect(draft).toMatch(/^[\n -~]*$/);
    expect(parseConfig(draft, "draft").rules.map(({ name }) => name)).toEqual(["alice"]);
  });
  test("one user does not fill the list, and bob is in it", async () => {
    const { callers } = JSON.parse(await show("--json")) as {
      callers: { uid: number; requests: number; categories: unknown[]; userAgents: unknown[] }[];
    };
    for (const { categories, userAgents } of callers) {
      expect(categories.length).toBeLessThanOrEqual(33);
      expect(userAgents.length).toBeLessThanOrEqual(9);
    }
    expect(callers.some(({ uid, requests }) => uid === 2002 && requests === 1)).toBe(true);
    const hers = callers.filter(({ uid }) => uid === 2001);
    expect(hers.reduce((sum, { requests }) => sum + requests, 0)).toBe(600 + 1 + 2);
  });
  test("finds no secret of hers or of the node's in the file, which is root's alone", async () => {
    const file = readFileSync(node.path(FILE), "utf8");
    for (const secret of [
      token,
      node.roleName,
      node.secrets.role.secretAccessKey,
      node.secrets.marker,
      "hunter2",
    ])
      expect(file).not.toContain(secret);
    expect((await node.exec({ ...ALICE, argv: ["cat", FILE] })).exitCode).not.toBe(0);
  });
});
