/**
 * `make test-iam`: what `imdsproxy iam` prints for CloudFormation and Terraform, read by cfn-lint and by a parser of Terraform's
 * language. Not among the tests that CI runs: both come from Python's registry. LINTERS is where they are installed.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const LINTERS = process.env["LINTERS"] ?? "";
const NODE = "arn:aws:iam::842413447717:role/cluster/Node";
const role = (name: string) => `arn:aws:iam::842413447717:role/${name}`;
const CONFIG = {
  role: role("Login"),
  rules: [
    {
      name: "data",
      match: { group: "data-eng" },
      role: role("hpc/Data-Eng"),
      sessionName: "hpc.{user}",
      sourceIdentity: "{user}",
      tags: { team: "data", job: "{slurmJobId}" },
      transitiveTagKeys: ["team"],
      externalId: "pin-1",
    },
  ],
};

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-iam-"));
  writeFileSync(join(directory, "config.yaml"), JSON.stringify(CONFIG));
});
afterAll(() => rmSync(directory, { recursive: true }));

function run(...argv: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv);
  expect([argv.join(" "), exitCode, stderr.toString(), exitCode === 0 ? "" : stdout.toString()]).toEqual([
    argv.join(" "),
    0,
    expect.any(String),
    "",
  ]);
  return stdout.toString();
}

const printed = (command: string, format: string, ...more: string[]) =>
  run(
    "dist/imdsproxy",
    "iam",
    command,
    "--config",
    join(directory, "config.yaml"),
    "--format",
    format,
    ...more,
  );

const CALLS: [what: string, command: string, more: string[]][] = [
  ["the roles' trust", "trust-policy", ["--instance-role-arn", NODE]],
  ["the roles' trust, of instances alone", "trust-policy", ["--instance-role-arn", NODE, "--instances"]],
  ["one role's trust", "trust-policy", ["--instance-role-arn", NODE, "--role-arn", role("Login")]],
  ["the node's permissions", "permissions-policy", []],
  ["the node's permissions, by name", "permissions-policy", ["--instance-role-arn", NODE]],
];

describe("CloudFormation", () => {
  test.each(CALLS)("%s", (_, command, more) => {
    const path = join(directory, "template.json");
    writeFileSync(path, printed(command, "cloudformation", ...more));
    run(join(LINTERS, "cfn-lint"), "--include-checks", "I", "--", path);
  });
});

describe("Terraform", () => {
  test.each(CALLS)("%s", (_, command, more) => {
    const path = join(directory, "main.tf");
    writeFileSync(path, printed(command, "terraform", ...more));
    const parsed = JSON.parse(run(join(LINTERS, "hcl2tojson"), path));
    const count = command === "permissions-policy" || more.includes("--role-arn") ? 1 : 2;
    expect(parsed.resource).toHaveLength(count);
  });
});
