import { afterAll, beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { describeAsRoot } from "../support/root.ts";
import { FIRST_BOOT_LIMIT_MS, LIMIT_MS, type Machine } from "./support/machine.ts";
import { makeNode, ROLE, ROLE_ARN, STS } from "./support/node.ts";

/**
 * Writes docs/first-hour.md: what a newcomer types and sees, recorded by script(1) on a booted node, in a terminal of 80 columns.
 * `make transcript`, as root. test/docs/first-hour.test.ts holds that the page is of today's program.
 */

const PAGE = "docs/first-hour.md";
const COLUMNS = 80;

const CONFIG = `role: ${ROLE_ARN}
region: us-west-2
sts: { endpoint: "${STS}" }   # the stand-in for STS; a real node needs no such line
rules:
  - name: guests
    match: { user: bob }
    role: none
`;

/** What a terminal shows in the end of what was written to it: without its other screen, colours and lines that were written over. */
function shown(written: string): string {
  return written
    .replaceAll(/\u001b\[\?1049h.*?\u001b\[\?1049l/gs, "")
    .replaceAll(/\u001b\[[\d;?]*[mhl]/g, "")
    .split("\n")
    .map(
      (row) =>
        row
          .replace(/\r$/, "")
          .split(/\r\u001b\[K|\r/)
          .at(-1)
          ?.trimEnd() ?? "",
    )
    .join("\n")
    .trimEnd();
}

describeAsRoot("a newcomer's first hour", () => {
  let node: Machine;
  beforeAll(async () => {
    node = makeNode();
    node.write("root/config.yaml", CONFIG);
    await node.boot();
  }, FIRST_BOOT_LIMIT_MS);
  afterAll(() => node?.destroy(), LIMIT_MS);

  /** What a terminal shows of a command, with the prompt and the command above. */
  async function typed(command: string, who?: "alice"): Promise<string> {
    const inside = `stty cols ${COLUMNS} rows 40; export TERM=xterm; cd; ${command}`;
    const { stdout } = await node.run(`script -qec "${inside.replaceAll(/["$\\`]/g, "\\$&")}" /dev/null`, {
      ...(who === undefined ? {} : { as: who }),
    });
    expect(stdout).not.toContain("SecretAccessKey");
    const screen = shown(stdout);
    return `${who === undefined ? "#" : `${who}$`} ${command}\n${screen}`;
  }

  test(
    "is recorded",
    async () => {
      const block = (...screens: string[]) => `\`\`\`\n${screens.join("\n")}\n\`\`\``;
      const base = "http://169.254.169.254/latest/meta-data";
      const version = await typed(`./imdsproxy --version`);
      const listening = typed("./imdsproxy observe --for 10s --config config.yaml");
      // While it listens: alice by version 1, bob for what he will not get, and a daemon of root's.
      for (let round = 0; round < 3; round++) {
        await node.run(`curl -s ${base}/iam/security-credentials/`, { as: "alice" });
        await node.run(`curl -s ${base}/iam/security-credentials/`, { as: "bob" });
        await node.run("curl -s http://169.254.169.254/latest/user-data", { as: "alice" });
        await node.run(`curl -s ${base}/placement/region`);
        await Bun.sleep(1_000);
      }
      const observed = await listening;
      const check = await typed("./imdsproxy config check config.yaml");
      const setup = await typed("./imdsproxy setup --config config.yaml");
      expect(setup).toContain("done in ");
      await node.ok("echo '127.0.0.1 iam.amazonaws.com' >> /etc/hosts");
      const whoami = await typed("imdsproxy whoami", "alice");
      const asked = await typed(`curl -s ${base}/iam/security-credentials/; echo`, "alice");
      expect(asked).toContain(ROLE);
      const status = await typed("imdsproxy status");
      expect(status).toContain("healthy: ");
      const doctor = await typed("imdsproxy doctor");
      const mine = await typed("imdsproxy status", "alice");
      const refused = await typed("imdsproxy explain bob");
      const text = `# The first hour

What a newcomer types on a node, and what a terminal of ${COLUMNS} columns shows: recorded by script(1) on a booted node of the tests. \`make transcript\`
writes this page; do not edit it. HyperPod's agent, the metadata service and STS are stand-ins, so \`config.yaml\` names an endpoint of STS,
which a real node does not need. Colours are left out, and a line that the terminal breaks is whole here.

## The file

The executable is one file. Nothing is installed yet.

${block(version)}

## Who asks today

\`observe\` changes nothing. A day is better than ten seconds: \`--for 24h\`.

${block(observed)}

## Which role for whom

${block(`# cat config.yaml\n${CONFIG.trimEnd()}`, check)}

## Setup

It changes nothing before the trial has succeeded, and ends with a check as an ordinary user and as root.

${block(setup)}

## The users

They change nothing: every SDK asks the same address as before.

${block(asked, whoami, mine)}

## Is all well?

${block(status)}

## Is there a way past it?

${block(doctor)}

## Why has somebody no role?

${block(refused)}

What to do next is in [operations.md](operations.md); what a message means, in [troubleshooting.md](troubleshooting.md).
`;
      expect(text).not.toMatch(/(?:ASIA|AKIA)[A-Z0-9]{16}/);
      writeFileSync(PAGE, text);
    },
    FIRST_BOOT_LIMIT_MS,
  );
});
