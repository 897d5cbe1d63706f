import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const EXECUTABLE = resolve(import.meta.dir, "../../dist/imdsproxy");

/** Runs the built executable as it stands, in an empty environment. */
function run(...args: string[]): { exitCode: number; stdout: string; stderr: string } {
  const { exitCode, stdout, stderr } = Bun.spawnSync([EXECUTABLE, ...args], {
    env: { PATH: "/usr/bin:/bin" },
    cwd: "/",
  });
  return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
}

describe("imdsproxy", () => {
  test("--version names the version of package.json and the commit", () => {
    const { version } = JSON.parse(readFileSync(resolve(import.meta.dir, "../../package.json"), "utf8"));
    const [, said] =
      /^imdsproxy (\d+\.\d+\.\d+) \([0-9a-f]{12}(?:-dirty)?\)\n$/.exec(run("--version").stdout) ?? [];
    expect(said).toBe(version);
  });
  test("version says what it was built from, as words and as JSON", () => {
    const { stdout } = run("version", "--json");
    const found = JSON.parse(stdout);
    expect(found).toEqual({
      version: expect.stringMatching(/^\d+\.\d+\.\d+$/),
      commit: expect.stringMatching(/^[0-9a-f]{12}(?:-dirty)?$/),
      date: expect.stringMatching(/^\d{4}-\d{2}-\d{2}$/),
      target: `linux-${process.arch}`,
      bun: Bun.version,
      // Of what the executable prints, and of a release's config.schema.json.
      schemaSha256: createHash("sha256").update(run("config", "schema").stdout).digest("hex"),
    });
    const text = run("version").stdout;
    expect(text).toStartWith(run("--version").stdout);
    for (const value of Object.values<string>(found)) expect(text).toContain(value);
  });
  test("--help lists the commands that people run, without colours where no terminal is", () => {
    const { exitCode, stdout } = run("--help");
    expect(exitCode).toBe(0);
    for (const command of [
      "serve",
      "iptables",
      "service",
      "setup",
      "whoami",
      "warm",
      "doctor",
      "explain",
      "config",
      "iam",
      "demo",
    ]) {
      expect(stdout).toContain(command);
    }
    expect(stdout).not.toContain("\u001b[");
    expect(stdout).not.toContain("demo-part");
  });
  test("every command and subcommand has a --help that ends with 0", () => {
    for (const path of [
      ["serve"],
      ["whoami"],
      ["warm"],
      ["setup"],
      ["demo"],
      ["doctor"],
      ["explain"],
      ["service"],
      ["service", "install"],
      ["service", "uninstall"],
      ["iptables"],
      ["iptables", "apply"],
      ["iptables", "status"],
      ["config"],
      ["config", "check"],
      ["iam"],
      ["iam", "trust-policy"],
    ]) {
      const { exitCode, stdout } = run(...path, "--help");
      expect([path.join(" "), exitCode]).toEqual([path.join(" "), 0]);
      expect(stdout).toContain("USAGE");
    }
  });
});

describe("called wrongly, it ends with 2, says what was found and what there is:", () => {
  const cases: [string, string[], string[]][] = [
    ["no command", [], ["which command?"]],
    ["an unknown command", ["srve"], ['no command "srve"', "serve"]],
    ["an unknown subcommand", ["iptables", "aply"], ['no command "aply"', "apply"]],
    ["a command that is a property of every object", ["constructor"], ['no command "constructor"']],
    ["a mistyped flag", ["iptables", "apply", "--dryrun"], ["--dryrun", "--dry-run"]],
    ["a flag without its value", ["serve", "--config"], ["--config"]],
    ["a value for a flag that has none", ["iptables", "apply", "--dry-run=yes"], ["--dry-run"]],
    ["an empty value", ["serve", "--listen="], ["--listen is empty"]],
    ["an argument too many", ["whoami", "alice"], ['does not take the argument "alice"']],
    ["root's own session", ["warm", "0"], ["root keeps the instance role", "imdsproxy warm USER"]],
    [
      "a spread that is no time",
      ["warm", "1", "--spread", "soon"],
      ["--spread must be 0 to 3600 seconds", "soon"],
    ],
    ["a spread of a day", ["warm", "1", "--spread", "9999"], ["--spread must be 0 to 3600 seconds"]],
    ["an argument too few", ["explain"], ["USER is missing"]],
    ["two files to check", ["config", "check", "/a.yaml", "--config", "/b.yaml"], ["/a.yaml", "/b.yaml"]],
    [
      "a file to check that is not there",
      ["config", "check", "/nowhere.yaml"],
      ["/nowhere.yaml: no such file"],
    ],
    [
      "a configuration that is not there",
      ["config", "check", "--config", "/nowhere.yaml"],
      ["/nowhere.yaml: no such file"],
    ],
  ];
  if (!existsSync("/etc/imdsproxy/config.yaml"))
    cases.push(["nothing to check", ["config", "check"], ["there is no /etc/imdsproxy/config.yaml", "FILE"]]);
  for (const [name, args, expected] of cases) {
    test(name, () => {
      const { exitCode, stdout, stderr } = run(...args);
      expect([exitCode, stdout]).toEqual([2, ""]);
      for (const part of expected) expect(stderr).toContain(part);
    });
  }
});

describe("what it says of itself", () => {
  test("an error names the program once, and the command where there is one", () => {
    expect(run("frob").stderr).toStartWith('imdsproxy: no command "frob"\n');
    expect(run("iptables", "frob").stderr).toStartWith('imdsproxy: iptables: no command "frob"\n');
    expect(run().stderr).toStartWith("imdsproxy: which command?\n");
    expect(run("explain").stderr).toStartWith("imdsproxy: explain: USER is missing\n");
  });
  test("one rule is `1 rule`", () => {
    const directory = mkdtempSync(join(tmpdir(), "imdsproxy-cli-"));
    const rule = { name: "one", role: "arn:aws:iam::123456789012:role/R" };
    try {
      for (const [count, words] of [
        [0, "0 rules"],
        [1, "1 rule,"],
        [2, "2 rules"],
      ] as const) {
        const file = join(directory, `${count}.yaml`);
        const rules = Array.from({ length: count }, (_, i) => ({
          ...rule,
          name: `rule ${i}`,
          match: { user: `user${i}` },
        }));
        writeFileSync(file, JSON.stringify({ rules }));
        expect(run("config", "check", file).stdout).toContain(words);
        expect(run("config", "check", "--config", file).stdout).toContain(words);
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

describe("a configuration whose rules stand in the fleet's object, which is not there,", () => {
  let directory: string;
  let config: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "imdsproxy-config-"));
    config = join(directory, "config.yaml");
    const publicKey = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
    const stateDirectory = join(directory, "state");
    const remote = { source: "s3://bucket/rules.yaml", fleet: "research", publicKey };
    writeFileSync(config, JSON.stringify({ config: remote, stateDirectory, sessionName: "{uid}" }));
  });
  afterAll(() => rmSync(directory, { recursive: true }));
  const why = "every user is refused until the fleet's object is in";

  test("is what explain says, and not that no rule matches alone", () => {
    const { stdout, exitCode } = run("explain", "4242", "--config", config);
    expect([exitCode, stdout.replaceAll(/\s+/g, " ")]).toEqual([0, expect.stringContaining(why)]);
    const { warnings } = JSON.parse(run("explain", "4242", "--config", config, "--json").stdout);
    expect(warnings).toEqual([expect.stringContaining(why)]);
  });
  test("is what config show says beside its JSON, which has no rules", () => {
    const { stdout, stderr } = run("config", "show", "--config", config);
    expect([JSON.parse(stdout).rules, stderr]).toEqual([[], expect.stringContaining(why)]);
  });
  test("is why iam trust-policy prints none: not that a role is to be set here", () => {
    const { exitCode, stderr } = run(
      "iam",
      "trust-policy",
      "--config",
      config,
      "--instance-role-arn",
      "arn:aws:iam::123456789012:role/N",
    );
    expect([exitCode, stderr]).toEqual([2, expect.stringContaining(why)]);
    expect(stderr).not.toContain("set role");
  });
});

describe("config", () => {
  test("check runs the tests of the configuration and those of a file", () => {
    const directory = mkdtempSync(join(tmpdir(), "imdsproxy-config-"));
    const file = (name: string, content: object) => {
      const path = join(directory, name);
      writeFileSync(path, JSON.stringify(content));
      return path;
    };
    try {
      const root = { given: { uid: 0 }, expect: { exempt: true } };
      const eve = { name: "eve", given: { user: "eve", uid: 1 }, expect: { role: "none" } };
      const good = file("good.yaml", { tests: [root, eve] });
      expect(run("config", "check", good).stdout).toContain(", 2 tests passed");
      expect(JSON.parse(run("config", "check", good, "--json").stdout)).toMatchObject({ ok: true, tests: 2 });
      const more = file("more.yaml", { tests: [eve] });
      expect(run("config", "check", good, "--tests", more).stdout).toContain(", 3 tests passed");

      const wrong = { ...eve, expect: { role: "none", rule: "guests" } };
      for (const found of [
        run("config", "check", file("bad.yaml", { tests: [root, wrong] })),
        run("config", "check", good, "--tests", file("wrong.yaml", { tests: [wrong] })),
      ]) {
        expect(found.exitCode).toBe(2);
        expect(found.stderr).toContain('("eve") expects rule guests, and gets none');
        expect(found.stderr).toContain("^");
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
  test("schema is JSON Schema with every key", () => {
    const schema = JSON.parse(run("config", "schema").stdout);
    expect(Object.keys(schema.properties).sort()).toEqual([
      "cluster",
      "config",
      "containers",
      "durationSeconds",
      "exempt",
      "imds",
      "limits",
      "listen",
      "log",
      "metrics",
      "nameless",
      "platform",
      "region",
      "role",
      "rules",
      "sessionName",
      "stateDirectory",
      "sts",
      "tests",
      "upstream",
    ]);
  });
});
