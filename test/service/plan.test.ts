import { describe, expect, test } from "bun:test";
import { configSchema } from "../../src/config/schema.ts";
import { describeStep } from "../../src/service/execute.ts";
import {
  enableSteps,
  type Installation,
  installSteps,
  type Step,
  uninstallSteps,
} from "../../src/service/plan.ts";
import { hasSmc, smcWarnings } from "../../src/service/smc.ts";

const KEY = "MCowBQYDK2VwAyEAujAO4EEu3XCCxkiGKy1DpeYV+1o2RXWeJNF7GRHfb9s=";
const REMOTE = {
  config: { source: "s3://bucket/rules.yaml", every: "5m", fleet: "research", publicKey: KEY },
};
const COPY = "/var/lib/imdsproxy-fleet/object.yaml";
const staged = (path: string) => `${path}.staged`;

function installationSteps(config: object, more: Partial<Installation> = {}): readonly Step[] {
  const installation: Installation = {
    executable: "/bin/true",
    systemdVersion: 252,
    config: configSchema.parse(config),
    configText: "",
    handoverConfigText: "",
    isCurrent: () => false,
    proxyActive: true,
    hasHandover: false,
    hasModprobe: true,
    hasSmc: false,
    state: { installed: "/var/lib/imdsproxy", outdated: null },
    object: null,
    hasObjectUnits: false,
    ...more,
  };
  return installSteps(installation, staged, { start: true });
}
const plan = (config: object, more: Partial<Installation> = {}): string[] =>
  installationSteps(config, more).map(describeStep);
const of = (steps: readonly string[], pattern: RegExp) => steps.filter((step) => pattern.test(step));

describe("the schema beside the configuration, for editors,", () => {
  const SCHEMA = "/etc/imdsproxy/config.schema.json";
  test("comes with the configuration, for all to read, and replaces no proxy where it alone changes", () => {
    const [commit = ""] = of(plan({}), /^move into place/);
    expect([commit.includes("/etc/imdsproxy/config.yaml"), commit.includes(SCHEMA)]).toEqual([true, true]);
    const isCurrent = ({ path }: { path: string }) => path !== SCHEMA;
    const alone = plan({}, { isCurrent });
    expect(of(alone, /^move into place/)[0]).toContain(SCHEMA);
    expect(of(alone, /second proxy|new proxy/)).toEqual([]);
  });
  test("goes with the service, also where the configuration stays", () => {
    for (const keepState of [false, true]) {
      const steps = uninstallSteps("/var/lib/imdsproxy", staged, keepState).map(describeStep);
      expect(steps.join("\n")).toContain(SCHEMA);
    }
  });
});

describe("installSteps() on a node with a fleet's object", () => {
  test("puts its units into place, and starts the timer once the proxy runs", () => {
    const steps = plan(REMOTE);
    expect(steps.join("\n")).toContain("/etc/systemd/system/imdsproxy-config.timer");
    expect(steps.slice(-2)).toEqual([
      "systemctl --quiet enable imdsproxy-config.timer",
      "systemctl restart imdsproxy-config.timer",
    ]);
  });

  test("moves the object that it fetched into place together with the configuration that trusts it", () => {
    const steps = plan(REMOTE, { object: "signed" });
    const [commit = ""] = of(steps, /^move into place/);
    expect([commit.includes("/etc/imdsproxy/config.yaml"), commit.includes(COPY)]).toEqual([true, true]);
    expect(of(steps, /config check/)[0]).toEndWith(`--object ${COPY}.staged`);
  });

  test("tries the new proxy with that object, before it is in its place", () => {
    const trial = installSteps(
      {
        ...{ executable: "/bin/true", systemdVersion: 252, configText: "", handoverConfigText: "" },
        ...{ isCurrent: () => false, proxyActive: true, object: "signed", hasObjectUnits: false },
        ...{
          hasHandover: false,
          hasModprobe: true,
          hasSmc: false,
          state: { installed: "/var/lib/imdsproxy", outdated: null },
        },
        config: configSchema.parse(REMOTE),
      },
      staged,
      { start: true },
    ).find(({ kind }) => kind === "start-handover");
    expect(JSON.stringify(trial)).toContain(`--object ${COPY}.staged`);
  });

  test("does not replace the proxy for another object: that takes it up by itself", () => {
    const isCurrent = ({ path }: { path: string }) => path !== COPY;
    expect(of(plan(REMOTE, { object: "signed", isCurrent }), /second proxy|new proxy/)).toEqual([]);
  });
});

describe("installSteps() on a node without", () => {
  test("knows nothing of its units", () => expect(of(plan({}), /imdsproxy-config/)).toEqual([]));

  test("removes the units that an earlier configuration had, and keeps the copy, whose serial counts", () => {
    const steps = plan({}, { hasObjectUnits: true });
    expect(of(steps, /imdsproxy-config/)).toEqual([
      "systemctl --quiet disable --now imdsproxy-config.timer",
      "systemctl stop imdsproxy-config.service",
      "systemctl reset-failed imdsproxy-config.service",
      "remove /etc/systemd/system/imdsproxy-config.service, /etc/systemd/system/imdsproxy-config.timer",
    ]);
    expect(of(steps, /imdsproxy-fleet/)).toEqual([]);
  });
});

test("enableSteps() starts the timer where it is installed, and only there", () => {
  expect(
    of(enableSteps({ hasObjectUnits: true, proxyOutdated: false }).map(describeStep), /imdsproxy-config/),
  ).toHaveLength(2);
  expect(
    of(enableSteps({ hasObjectUnits: false, proxyOutdated: false }).map(describeStep), /imdsproxy-config/),
  ).toEqual([]);
});

describe("a proxy that runs from files which were replaced since", () => {
  const isCurrent = () => true;
  const INSTALLED = "/var/lib/imdsproxy";
  test("is replaced by setup, and started again by enable; one that runs from what is there is left alone", () => {
    const steps = (proxyOutdated: boolean) =>
      of(
        plan({}, { isCurrent, state: { installed: INSTALLED, outdated: proxyOutdated ? INSTALLED : null } }),
        / (re)?start imdsproxy.service$|second/,
      );
    expect(steps(true)).toEqual([
      "systemctl restart imdsproxy.service",
      "stop the second proxy: systemctl stop imdsproxy-handover.service",
    ]);
    expect(steps(false)).toEqual(["systemctl start imdsproxy.service"]);
    const enabled = (proxyOutdated: boolean) =>
      of(
        enableSteps({ hasObjectUnits: false, proxyOutdated }).map(describeStep),
        / (re)?start imdsproxy.service$/,
      );
    expect([enabled(true), enabled(false)]).toEqual([
      ["systemctl restart imdsproxy.service"],
      ["systemctl start imdsproxy.service"],
    ]);
  });

  test("is one whose configuration, unit or executable is moved into place, where it runs", () => {
    const outdates = (changed: string, proxyActive: boolean) => {
      const is = ({ path }: { path: string }) => path !== changed;
      const commits = installationSteps({}, { isCurrent: is, proxyActive }).filter(
        ({ kind }) => kind === "commit",
      );
      return commits.map((step) => step.kind === "commit" && step.outdates);
    };
    expect(outdates("/etc/imdsproxy/config.yaml", true)).toEqual(["/var/lib/imdsproxy"]);
    expect(outdates("/etc/imdsproxy/config.yaml", false)).toEqual([null]);
    expect(outdates("/etc/imdsproxy/config.schema.json", true)).toEqual([null]);
  });

  test("the second proxy that an interrupted setup has left is stopped", () => {
    expect(of(plan({}, { isCurrent, hasHandover: true }), /second/)).toHaveLength(1);
  });

  test("the state directory of before is removed when the proxy has another, and not before", () => {
    const steps = plan({}, { state: { installed: "/var/lib/other", outdated: null } });
    const last = steps.indexOf("remove /var/lib/other, /var/lib/other-fleet");
    expect(last).toBeGreaterThan(steps.indexOf("systemctl restart imdsproxy.service"));
    // Never the one that it has now, whatever it is called.
    const state = { installed: "/var/lib/imdsproxy", outdated: null };
    const removed = of(plan({ stateDirectory: "/var/lib/imdsproxy-fleet" }, { state }), /^remove \/var/);
    expect(removed).toEqual(["remove /var/lib/imdsproxy"]);
  });
});

test("modprobe is told to load AF_SMC for nobody, and a module that is there is removed", () => {
  const [commit = ""] = of(plan({}), /^move into place/);
  expect(commit).toContain("/etc/modprobe.d/imdsproxy.conf");
  expect(of(plan({}, { hasModprobe: false }), /^move into place/)[0]).not.toContain("modprobe");
  const removes = (hasSmc: boolean) => of(plan({}, { hasSmc }), /^modprobe/);
  expect([removes(true), removes(false)]).toEqual([["modprobe --remove --quiet smc_diag smc"], []]);
  expect(uninstallSteps("/var/lib/imdsproxy", staged, true).map(describeStep).join()).toContain(
    "/etc/modprobe.d/imdsproxy.conf",
  );
  // As linux 6.12 lists it.
  expect(
    hasSmc(() => "protocol  size sockets\nSMC6        984      0      -1   NI       0   yes  smc\nTCP 2\n"),
  ).toBe(true);
  expect(hasSmc(() => "protocol  size sockets\nTCP 2432\nSMCX 1\n")).toBe(false);
  expect([smcWarnings(true).length, smcWarnings(false)]).toEqual([1, []]);
});

test("uninstallSteps() takes units, copy and all away; --keep-state keeps the copy, as root's", () => {
  const removed = (keep: boolean) =>
    uninstallSteps("/var/lib/imdsproxy", staged, keep)
      .map(describeStep)
      .filter((step) => /^remove |^keep /.test(step))
      .join("\n");
  for (const keep of [true, false])
    expect(removed(keep)).toContain("/etc/systemd/system/imdsproxy-config.timer");
  expect(removed(false)).toContain(" /var/lib/imdsproxy-fleet");
  expect(removed(true)).toContain("keep /var/lib/imdsproxy-fleet, as root's");
});
