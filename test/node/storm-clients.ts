/**
 * `make test-storms`: what users of real clients see while something fails, and after how long. Each asks for the first time. The time is
 * that from the question to the outcome, in the client itself; the AWS CLI's is that of its process. Then the fault ends, nobody does
 * anything, and the same user asks until there are credentials.
 *
 *   ONLY='hangs|resets'   only these, by a part of the name
 *   WRITE=1               writes the table of docs/scale.md
 */
import { test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { withTable } from "../../scripts/bench/report.ts";
import { awsCallerIdentity, mustExec } from "../support/node.ts";
import { applyRules, eventually, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { STORMS, stormConfig } from "../support/storms.ts";

const REPOSITORY = resolve(import.meta.dir, "../..");
const PAGE = "docs/scale.md";
const ONLY = (process.env["ONLY"] ?? "").split("|");
const USERS = Array.from({ length: 120 }, (_, index) => ({ name: `user${index}`, uid: 3000 + index }));
const RECOVERY_MS = 300_000;

interface Asked {
  readonly says: string;
  readonly tookMs: number;
}
interface FirstTry {
  readonly outcome: string;
  readonly tookMs: readonly number[];
}

const seconds = (ms: number): string => (ms / 1_000).toFixed(1);
/** The last line, without what is of this run alone. */
const short = (text: string): string => {
  const line = (text.trim().split("\n").at(-1) ?? "").replaceAll("|", "/");
  if (/:assumed-role\//.test(line)) return "their session";
  return `\`${line.length > 90 ? `${line.slice(0, 88)} …` : line}\``;
};

test("what users of real clients see in a storm", async () => {
  let next = 0;
  const someone = () => ({ user: USERS[next++ % USERS.length]?.name ?? "" });
  const proxied: ProxiedNode = await startProxiedNode({
    users: USERS,
    show: { "/run/repository": REPOSITORY, "/run/bin/bun": process.execPath },
  });
  const { node } = proxied;
  const clients = "/run/repository/test/support/clients";
  const asked = async (who: { user: string }, ...argv: string[]): Promise<Asked> =>
    JSON.parse(await mustExec(node, who, [...argv, node.stsEndpoint], { timeoutMs: 120_000 })) as Asked;
  const boto3 = (who: { user: string }) => asked(who, "/usr/bin/python3", `${clients}/boto3-asks.py`);
  const npm = (who: { user: string }) => asked(who, "/run/bin/bun", `${clients}/npm-asks.ts`);
  const cli = async (who: { user: string }): Promise<Asked> => {
    const beganMs = performance.now();
    const { stdout, stderr, exitCode } = await awsCallerIdentity(node, who);
    return {
      says: exitCode === 0 ? stdout.replaceAll("\n", " ") : stderr,
      tookMs: performance.now() - beganMs,
    };
  };
  const firstTry = async (who: { user: string }): Promise<FirstTry> => {
    const argv = ["/usr/bin/python3", `${clients}/first-try.py`, "v2", "30"];
    return JSON.parse(await mustExec(node, who, argv)) as FirstTry;
  };
  const cell = ({ says, tookMs }: Asked): string => `${seconds(tookMs)}: ${short(says)}`;

  try {
    node.write("/etc/imdsproxy/config.yaml", JSON.stringify(stormConfig(node)));
    await applyRules(node);
    await proxied.proxy.stop();
    await proxied.restart();
    const had = someone();
    const served = async (who: { user: string }): Promise<boolean> =>
      (await firstTry(who)).outcome === "Success";
    await eventually("there is a session", () => served(had));

    const rows: string[] = [];
    const nothing = { name: "nothing", begin: async () => {}, end: async () => {} };
    for (const storm of [nothing, ...STORMS]) {
      if (!ONLY.some((part) => storm.name.includes(part))) continue;
      const keepsProxy = proxied.proxy.pid;
      await storm.begin(proxied);
      const first = someone();
      const answers = await firstTry(first);
      const cells = [await boto3(someone()), await npm(someone()), await cli(someone())].map(cell);
      // A proxy that was started anew has no sessions.
      const keeps = proxied.proxy.pid !== keepsProxy ? "–" : (await served(had)) ? "yes" : "no";
      await storm.end(proxied);
      const endedMs = performance.now();
      await eventually(`${first.user} has credentials`, () => served(first), RECOVERY_MS);
      const again = performance.now() - endedMs;
      const row = [storm.name, ...cells, Math.max(...answers.tookMs), keeps, seconds(again)];
      rows.push(`| ${row.join(" | ")} |`);
      console.log(rows.at(-1));
      await eventually("who had a session is served", () => served(had), RECOVERY_MS);
    }
    const load = readFileSync("/proc/loadavg", "utf8").split(" ").slice(0, 3).join(" ");
    const table = [
      `${new Date().toISOString().slice(0, 10)}, load ${load} at the end:`,
      "",
      "| what fails | boto3 | npm's SDK | AWS CLI, its process | longest answer, ms | who has a session keeps it | session after the fault, s |",
      "| --- | --- | --- | --- | --- | --- | --- |",
      ...rows,
    ].join("\n");
    if (process.env["WRITE"] === "1")
      writeFileSync(PAGE, withTable(readFileSync(PAGE, "utf8"), `${table}\n`, "make test-storms"));
  } finally {
    await node.stop();
  }
}, 1_800_000);
