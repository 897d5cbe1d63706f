import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { TEST_ROLE } from "../support/node.ts";
import { assumed, givenCredentials, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { Who } from "../support/simulated-node.ts";

const ROOT = { user: "root" };
const USERS = Array.from({ length: 8 }, (_, index) => ({ name: `warm${index}`, uid: 3400 + index }));
let next = 0;
const someone = () => USERS[next++ % USERS.length]?.name ?? "";
const DENIED = {
  kind: "error",
  status: 403,
  code: "AccessDenied",
  message: `User: arn:aws:sts::842413447717:assumed-role/X/Y is not authorized to perform: sts:AssumeRole on resource: ${TEST_ROLE}`,
} as const;

describeAsRoot("imdsproxy warm", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode(
      { users: [...USERS, { name: "alice", uid: 2001 }, { name: "guest", uid: 2003 }] },
      { rules: [{ name: "guests", match: { user: "guest" }, role: "none" }] },
    );
  });
  afterAll(() => proxied?.node.stop());
  beforeEach(async () => {
    await proxied.node.sts.set({ fault: { kind: "none" }, delayMs: 0 });
    await proxied.node.sts.clearLog();
  });
  const warm = (who: Who, ...args: string[]) =>
    proxied.node.exec({ ...who, argv: ["/run/bin/imdsproxy", "warm", ...args] });
  const sessionsOf = async (user: string) =>
    (await assumed(proxied.node)).filter((name) => name.startsWith(`${user}@`));

  test("a user gets their own session ready: what they ask for next makes no call", async () => {
    const user = someone();
    const { exitCode, stdout } = await warm({ user });
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(
      new RegExp(`^${user} has a session of ${TEST_ROLE} as ${user}@i-0123456789abcdef0 until 20`),
    );
    expect((await givenCredentials(proxied.node, { user })).status).toBe(200);
    expect(await sessionsOf(user)).toHaveLength(1);
  });

  test("root gets any user's ready, by name and by uid, and is that user for it", async () => {
    for (const naming of [(user: string) => user, (user: string) => String(uidOf(user))]) {
      const user = someone();
      const { exitCode, stdout } = await warm(ROOT, naming(user), "--spread", "0.2", "--json");
      expect([exitCode, JSON.parse(stdout)]).toMatchObject([
        0,
        { warm: true, uid: uidOf(user), user, role: TEST_ROLE, error: null },
      ]);
      expect(stdout).not.toContain("SESSION/");
      expect(await sessionsOf(user)).toHaveLength(1);
    }
  });

  test("a slow STS is waited for", async () => {
    await proxied.node.sts.set({ delayMs: 4_000 });
    expect((await warm(ROOT, someone())).exitCode).toBe(0);
  });

  test("a denial ends with 1 and its reason, on the terminal and as JSON", async () => {
    await proxied.node.sts.set({ fault: DENIED });
    const user = someone();
    const { exitCode, stdout, stderr } = await warm(ROOT, user);
    expect([exitCode, stdout]).toEqual([1, ""]);
    expect(stderr).toContain(`no session of ${TEST_ROLE}`);
    const json = await warm(ROOT, user, "--json");
    expect([json.exitCode, JSON.parse(json.stdout)]).toMatchObject([1, { warm: false, user }]);
    expect(JSON.parse(json.stdout).error).toContain("AssumeRoleUnauthorizedAccess");
  });

  test("who is refused by a rule ends with 1 and the rule's name", async () => {
    const { exitCode, stderr } = await warm(ROOT, "guest");
    expect([exitCode, stderr.includes('rule "guests" gives no role')]).toEqual([1, true]);
  });

  const wrong: [name: string, who: Who, args: string[], words: string][] = [
    ["another's session without root", { user: "alice" }, ["guest"], "only root may ask for another's"],
    ["root's own session", ROOT, [], "root keeps the instance role"],
    ["root by name", ROOT, ["root"], "root keeps the instance role"],
    ["no such account", ROOT, ["nobody-of-this-name"], 'there is no account "nobody-of-this-name"'],
  ];
  for (const [name, who, args, words] of wrong) {
    test(`${name} is 2`, async () => {
      const { exitCode, stderr } = await warm(who, ...args);
      expect([exitCode, stderr.includes(words), stderr]).toEqual([2, true, stderr]);
      expect(await assumed(proxied.node)).toEqual([]);
    });
  }

  test("with no proxy there it ends with 1, and nobody is asked for credentials", async () => {
    await proxied.proxy.stop();
    const { exitCode, stderr } = await warm(ROOT, someone());
    expect([exitCode, stderr.includes("nothing answers at the metadata address")]).toEqual([1, true]);
    await proxied.restart();
  });
});

const uidOf = (name: string): number => USERS.find((user) => user.name === name)?.uid ?? 0;
