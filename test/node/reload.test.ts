import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { mustExec } from "../support/node.ts";
import {
  assumed,
  eventually,
  getWithToken,
  givenCredentials,
  type ProxiedNode,
  startProxiedNode,
  testConfig,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

/** A change of the configuration from outside: what the next request gets, and what becomes of sessions. */

const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;
const BOB = { user: "bob" } as const;
const CONFIG = "/etc/imdsproxy/config.yaml";
const LIST = "/latest/meta-data/iam/security-credentials/";
const OF_ALICE = { name: "alice", match: { user: "alice" }, role: "arn:aws:iam::842413447717:role/Alice" };
const NOT_ALICE = { name: "not alice", match: { user: "alice" }, role: "none" };

describeAsRoot("when the configuration changes", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({}, { sessionName: "{user}", rules: [OF_ALICE] });
  });
  afterAll(() => proxied?.node.stop());

  let count = 0;
  /** Each time another text, so that it is known when it runs. */
  const textOf = (rules: readonly object[]) =>
    `${JSON.stringify(testConfig(proxied.node, { sessionName: "{user}", rules }))}\n# ${count++}\n`;
  const loadedText = "the configuration was loaded again";
  const root = (script: string) => mustExec(proxied.node, ROOT, ["sh", "-euc", script]);
  /** Writes a file beside the configuration and renames it over it, as configuration tools do. */
  async function replace(text: string): Promise<void> {
    proxied.node.write(`${CONFIG}.new`, text);
    await root(`mv ${CONFIG}.new ${CONFIG}`);
  }
  /** The same, and waits until it runs. */
  async function replaceAndWait(rules: readonly object[]): Promise<void> {
    const loaded = said(loadedText);
    await replace(textOf(rules));
    await eventually("it is loaded", () => said(loadedText) > loaded);
  }
  const listOf = async (who: { user: string }) => {
    const { status, body } = await getWithToken(proxied.node, who, LIST);
    return status === 200 ? body : status;
  };
  const said = (text: string) => proxied.proxy.output().split(text).length - 1;
  /** Without the proxy's own check of the default role, which may be late. */
  const assumedByUsers = async () =>
    (await assumed(proxied.node)).filter((name) => name === "alice" || name === "bob");
  const keyOf = async (who: { user: string }) =>
    (JSON.parse((await givenCredentials(proxied.node, who)).body) as { AccessKeyId: string }).AccessKeyId;

  test("by SIGHUP: the next request is decided by the new rules, and a session that none gives is forgotten at once", async () => {
    const { node, proxy } = proxied;
    const [key, bobs] = [await keyOf(ALICE), await keyOf(BOB)];
    await node.sts.clearLog();
    node.write(CONFIG, textOf([NOT_ALICE]));
    const loaded = said(loadedText);
    process.kill(proxy.pid, "SIGHUP");
    await eventually("it is loaded", () => said(loadedText) > loaded);
    // No request in between: whoever asks next has what the new rules say.
    expect(await listOf(ALICE)).toBe(404);
    const forgotten = proxy
      .output()
      .split("\n")
      .filter((line) => line.includes("session forgotten"));
    expect(forgotten).toHaveLength(1);
    expect(JSON.parse(forgotten[0] ?? "{}")).toMatchObject({ reason: "withdrawn", accessKeyId: key });
    // Bob's stays as it was, and nobody's is asked for.
    expect(await keyOf(BOB)).toBe(bobs);
    expect(await assumedByUsers()).toEqual([]);
    // What was forgotten is not given again by rules that give it back: it is another session.
    node.write(CONFIG, textOf([OF_ALICE]));
    process.kill(proxy.pid, "SIGHUP");
    await eventually("alice has her role again", async () => (await listOf(ALICE)) === "Alice");
    expect(await keyOf(ALICE)).not.toBe(key);
    expect(await assumedByUsers()).toEqual(["alice"]);
  });

  test("by another file that is renamed over it: without a signal", async () => {
    const key = await keyOf(ALICE);
    await replaceAndWait([NOT_ALICE]);
    expect(await listOf(ALICE)).toBe(404);
    await eventually("her session is forgotten", () => proxied.proxy.output().includes(`"${key}"`));
    await replaceAndWait([OF_ALICE]);
    expect(await listOf(ALICE)).toBe("Alice");
  });

  test("by a link in its path that leads elsewhere: without a signal", async () => {
    const { node } = proxied;
    for (const [version, rules] of [
      ["1", [OF_ALICE]],
      ["2", [NOT_ALICE]],
    ] as const)
      node.write(`/etc/imdsproxy/versions/${version}/config.yaml`, textOf(rules));
    const swap = (to: string) => root(`cd /etc/imdsproxy/versions; ln -s ${to} next; mv -T next current`);
    await swap("1");
    await root(`ln -s versions/current/config.yaml ${CONFIG}.new; mv -T ${CONFIG}.new ${CONFIG}`);
    await swap("2");
    await eventually("alice is refused", async () => (await listOf(ALICE)) === 404);
    await swap("1");
    await eventually("alice has her role again", async () => (await listOf(ALICE)) === "Alice");
    await replaceAndWait([OF_ALICE]);
  });

  test("in place: not before somebody reloads, for it may be half written", async () => {
    const { node, proxy } = proxied;
    const loaded = said(loadedText);
    node.write(CONFIG, textOf([NOT_ALICE]));
    // Nothing can be waited for where nothing happens: a slow machine makes this pass without its reason, never fail.
    await Bun.sleep(1_500);
    expect([await listOf(ALICE), said(loadedText)]).toEqual(["Alice", loaded]);
    process.kill(proxy.pid, "SIGHUP");
    await eventually("alice is refused", async () => (await listOf(ALICE)) === 404);
    await replaceAndWait([OF_ALICE]);
    expect(await listOf(ALICE)).toBe("Alice");
  });

  test("by a file that is wrong, or that another user can change: nothing, and it is said once", async () => {
    const refused = () => said("the configuration was not reloaded: the previous one stays in effect");
    const before = refused();
    await replace("rules: nonsense\n");
    await eventually("it is said", () => refused() === before + 1);
    proxied.node.write(`${CONFIG}.new`, textOf([NOT_ALICE]));
    await root(`chmod 666 ${CONFIG}.new; mv ${CONFIG}.new ${CONFIG}`);
    await eventually("it is said", () => refused() === before + 2);
    expect(await listOf(ALICE)).toBe("Alice");
    // The one that runs, renamed over the wrong one, ends the problem.
    await replaceAndWait([OF_ALICE]);
    expect(refused()).toBe(before + 2);
  });

  test("by SIGHUP while no descriptor is free: once one is, without another signal, and it is said once", async () => {
    const { node, proxy } = proxied;
    const refused = () => said("the configuration was not reloaded: the previous one stays in effect");
    const before = refused();
    // By the machine's own number of the process.
    const limit = (soft: string) => {
      const set = Bun.spawnSync(["prlimit", "--pid", String(proxy.pid), `--nofile=${soft}:`]);
      expect([set.exitCode, set.stderr.toString()]).toEqual([0, ""]);
    };
    const soft = /^Max open files +(\d+)/m.exec(readFileSync(`/proc/${proxy.pid}/limits`, "utf8"))?.[1] ?? "";
    node.write(CONFIG, textOf([NOT_ALICE]));
    limit("3");
    process.kill(proxy.pid, "SIGHUP");
    await eventually("it is said", () => refused() === before + 1);
    expect(proxy.output()).toContain('EMFILE","again":"each second"');
    limit(soft);
    await eventually("alice is refused", async () => (await listOf(ALICE)) === 404);
    expect(refused()).toBe(before + 1);
  });
});
