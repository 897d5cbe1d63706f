import { describe, expect, test } from "bun:test";
import { commandIn, type NodeFindings, nodeStatus } from "../../src/service/node-status.ts";
import type { Problem } from "../../src/telemetry/health.ts";
import type { RootStatus } from "../../src/telemetry/status-document.ts";

const NONE = { rows: [], more: 0 };
const STATUS: RootStatus = {
  for: "root",
  version: "1.2.3",
  started: "2030-01-01T00:00:00.000Z",
  listen: ["127.0.0.1:254"],
  upstream: { url: "http://169.254.169.254:80", reason: "the configuration says so" },
  configuration: {
    object: null,
    path: "/etc/imdsproxy/config.yaml",
    current: true,
    rules: 1,
    defaultRole: null,
    lastReload: null,
  },
  problems: NONE,
  sessions: NONE,
  users: NONE,
  errors: NONE,
};
const units = (active = "active") => ({
  installed: true,
  account: true,
  version: "imdsproxy 1.2.3 (0123456789ab)",
  units: [{ name: "imdsproxy.service", enabled: "enabled", active }],
  problems:
    active === "active"
      ? []
      : [{ unit: "imdsproxy.service", what: `imdsproxy.service is enabled, ${active}`, remedy: "enable" }],
});
const HEALTHY: NodeFindings = {
  proxy: { kind: "answered", status: STATUS },
  units: units(),
  configured: true,
  rules: { healthy: true, differences: [], notes: [] },
  dropped: null,
  upstream: null,
  configurationProblem: null,
  notes: [],
  atWork: null,
};
const NOT_INSTALLED = { ...units(), installed: false, version: null, problems: [] };
const problem = (id: string): Problem => ({
  id,
  what: `${id} is wrong`,
  since: "",
  remedy: null,
  lasting: true,
});
const withProblems = (...ids: string[]): NodeFindings["proxy"] => ({
  kind: "answered",
  status: { ...STATUS, problems: { rows: ids.map(problem), more: 0 } },
});
const DOWN: NodeFindings["proxy"] = { kind: "silent", why: "the proxy is not running" };
const FLUSHED = {
  healthy: false,
  differences: ["IPv4 nat: OUTPUT does not enter IMDSPROXY", "another"],
  notes: [],
};

describe("nodeStatus()", () => {
  test("of a node where all is well has no trouble", () => {
    expect(nodeStatus(HEALTHY)).toMatchObject({
      healthy: true,
      summary: expect.stringMatching(/^healthy: /),
      troubles: [],
      proxy: { running: true, version: "1.2.3" },
      rules: { inPlace: true },
      upstream: STATUS.upstream,
    });
  });

  const cases: [name: string, found: Partial<NodeFindings>, ids: string[], first: RegExp][] = [
    [
      "the proxy is dead",
      { proxy: DOWN, units: units("failed") },
      ["proxy"],
      /not running \(imdsproxy.service is failed\)/,
    ],
    [
      "the rules are gone",
      { rules: FLUSHED },
      ["rules"],
      /rules are not as they should be.*OUTPUT does not enter.*and 1 more/,
    ],
    [
      "the rules are gone, the proxy is dead: what lets users through comes first",
      { proxy: DOWN, rules: FLUSHED },
      ["rules", "proxy"],
      /rules.*; and 1 more, below$/,
    ],
    [
      "STS denies: in the order of the proxy, before a unit",
      {
        proxy: withProblems("sts", "callers"),
        units: {
          ...units(),
          problems: [{ unit: "imdsproxy-repair.service", what: "it is off", remedy: "on" }],
        },
      },
      ["sts", "callers", "unit"],
      /sts is wrong/,
    ],
    [
      "the agent is away, and therefore STS cannot be asked: the cause comes first",
      { proxy: withProblems("sts", "configuration", "upstream") },
      ["upstream", "sts", "configuration"],
      /upstream is wrong/,
    ],
    [
      "the watch has reported what is compared here",
      { proxy: withProblems("firewall"), rules: FLUSHED },
      ["rules"],
      /rules/,
    ],
    [
      "the rules cannot be compared",
      { proxy: withProblems("firewall"), rules: null },
      ["firewall"],
      /firewall/,
    ],
    [
      "the configuration is broken, and the proxy runs by the old one",
      {
        proxy: withProblems("configuration"),
        rules: null,
        configurationProblem: { what: "no", remedy: null },
      },
      ["configuration"],
      /configuration is wrong/,
    ],
    [
      "the configuration is broken, and the proxy is dead",
      { proxy: DOWN, rules: null, configurationProblem: { what: "line 3", remedy: null } },
      ["proxy", "configuration"],
      /not running/,
    ],
    [
      "nothing is there",
      { proxy: DOWN, units: NOT_INSTALLED, configured: false, rules: FLUSHED },
      ["not-installed"],
      /not installed/,
    ],
    [
      "nothing is installed, and there is a configuration",
      { proxy: DOWN, units: NOT_INSTALLED },
      ["proxy"],
      /not running: users get no credentials/,
    ],
  ];
  for (const [name, found, ids, first] of cases) {
    test(name, () => {
      const status = nodeStatus({ ...HEALTHY, ...found });
      expect(status.troubles.map(({ id }) => id)).toEqual(ids);
      expect(status.summary).toMatch(first);
      expect(status.summary).toStartWith("NOT healthy: ");
      expect(status.healthy).toBe(false);
    });
  }

  test("of a proxy that was started by hand is well, and says so", () => {
    const status = nodeStatus({ ...HEALTHY, units: NOT_INSTALLED });
    expect([status.healthy, status.installed]).toEqual([true, null]);
    expect(status.notes).toEqual(["the proxy was started by hand: no service is installed"]);
  });

  describe("while a setup is at work,", () => {
    const busy = { ...HEALTHY, atWork: { pid: 4321, command: "setup" } };
    const another: NodeFindings["proxy"] = {
      kind: "silent",
      why: "the proxy that runs is another version than this program",
      otherVersion: true,
    };
    const passing: [name: string, found: NodeFindings, ids: string[]][] = [
      ["nothing is wrong", busy, []],
      ["units start", { ...busy, units: units("activating") }, ["unit"]],
      ["the proxy is the one from before", { ...busy, proxy: another }, ["proxy"]],
    ];
    for (const [name, found, ids] of passing) {
      test(`${name}: an upgrade is under way, which is no trouble where the proxy serves`, () => {
        const units = found.units.problems.map((one) => ({ ...one, unit: "imdsproxy-repair.service" }));
        const status = nodeStatus({ ...found, units: { ...found.units, problems: units } });
        expect(status.summary).toStartWith(
          "an upgrade is under way: imdsproxy setup (pid 4321) is at work, and the proxy serves",
        );
        expect(status).toMatchObject({ healthy: true, setupPid: 4321 });
        // What is found is told all the same.
        expect(status.troubles.map(({ id }) => id)).toEqual(ids);
      });
    }
    test("what it does not put right is as wrong as ever: open rules, a dead proxy, STS", () => {
      for (const found of [{ rules: FLUSHED }, { proxy: DOWN }, { proxy: withProblems("sts") }]) {
        const status = nodeStatus({ ...busy, ...found });
        expect([status.healthy, status.setupPid]).toEqual([false, 4321]);
        expect(status.summary).toStartWith("NOT healthy: ");
      }
    });
    const commands: [command: string | null, first: string][] = [
      ["service enable", "imdsproxy service enable (pid 4321) is at work, and the proxy serves"],
      ["service disable", "imdsproxy service disable (pid 4321) is at work, and the proxy still serves"],
      ["service uninstall", "imdsproxy service uninstall (pid 4321) is at work, and the proxy still serves"],
      [null, "a change of the installation (pid 4321) is at work, and the proxy serves"],
    ];
    for (const [command, first] of commands) {
      test(`the first line names what it is: ${command ?? "unknown"}`, () => {
        const status = nodeStatus({ ...HEALTHY, atWork: { pid: 4321, command } });
        expect(status).toMatchObject({
          healthy: true,
          summary: first,
          setupPid: 4321,
          setupCommand: command,
        });
      });
    }
    test("what takes the service away explains what is missing, and mends nothing of it", () => {
      const atWork = { pid: 4321, command: "service disable" };
      for (const found of [{ rules: FLUSHED }, { proxy: DOWN }, { proxy: another }]) {
        const { healthy, summary } = nodeStatus({ ...HEALTHY, atWork, ...found });
        expect([healthy, summary]).toEqual([
          false,
          expect.stringMatching(
            /^NOT healthy: imdsproxy service disable \(pid 4321\) is at work; for now: the /,
          ),
        ]);
      }
    });
    test("commandIn() knows it by its arguments, and nothing else by a name in them", () => {
      const cases: [args: string[], command: string | null][] = [
        [["/root/imdsproxy", "setup", "--config", "c.yaml"], "setup"],
        [["bun", "src/main.ts", "setup"], "setup"],
        [["imdsproxy", "service", "disable"], "service disable"],
        [["imdsproxy", "service", "status"], null],
        [["flock", "/run/imdsproxy-setup.lock", "sleep", "setup"], null],
        [[], null],
      ];
      for (const [args, command] of cases) expect(commandIn(`${args.join("\0")}\0`)).toBe(command);
    });
    test("and without one, a proxy of another version is a trouble, though it does not say that users get nothing", () => {
      const status = nodeStatus({ ...HEALTHY, proxy: another });
      expect(status.healthy).toBe(false);
      expect(status.summary).toStartWith("NOT healthy: the proxy that runs is another version");
      expect(status.summary).not.toContain("no credentials");
    });
  });
});
