import { describe, expect, test } from "bun:test";
import { parseConfig } from "../../src/config/load.ts";
import { wantedConfiguration, withoutMetrics } from "../../src/service/configuration.ts";

const ROLE = "arn:aws:iam::123456789012:role/R";
const FILE = `# our node\nregion: us-west-2 # here\nrole: ${ROLE}\n`;
const none = { installed: null, given: null, overrides: {} };

describe("wantedConfiguration()", () => {
  test("writes flags into an empty file where there is none", () => {
    const { text, config } = wantedConfiguration({
      ...none,
      overrides: { role: ROLE, stsEndpoint: "http://127.0.0.1:1" },
    });
    expect(config).toMatchObject({ role: ROLE, sts: { endpoint: "http://127.0.0.1:1" } });
    expect(parseConfig(text, "again")).toEqual(config);
    // The schema beside it, which editors take.
    expect(text).toStartWith("# yaml-language-server: $schema=config.schema.json\n# imdsproxy's");
  });

  test("keeps the installed file to the letter where nothing else is asked", () => {
    expect(wantedConfiguration({ ...none, installed: FILE }).text).toBe(FILE);
  });

  test("prefers the given file, and keeps its comments under a flag", () => {
    const { text } = wantedConfiguration({
      installed: "role: arn:aws:iam::123456789012:role/Old\n",
      given: { path: "/x.yaml", text: FILE },
      overrides: { region: "eu-west-1" },
    });
    expect(text).toContain("# our node");
    expect(text).toContain("region: eu-west-1");
    expect(text).toContain(ROLE);
  });

  test("a wrong file is named with its own line", () => {
    const given = { path: "/x.yaml", text: "# \nroel: x\n" };
    expect(() => wantedConfiguration({ ...none, given })).toThrow("/x.yaml:2: roel");
  });

  const wrong: readonly [string, string, string][] = [
    ["a first installation that gives nobody a role", "region: us-west-2\n", "no role is configured"],
    ["rules that all refuse", "rules: [{name: x, match: {user: a}, role: none}]\n", "no role is configured"],
    ["a state directory elsewhere", `role: ${ROLE}\nstateDirectory: /home/x\n`, "in /var/lib"],
    ["a state directory that climbs out", `role: ${ROLE}\nstateDirectory: /var/lib/..\n`, "in /var/lib"],
    ["a port that users could take", `role: ${ROLE}\nlisten: 127.0.0.1:8080\n`, "below 1024"],
  ];
  for (const [what, text, says] of wrong) {
    test(`refuses ${what}`, () => {
      expect(() => wantedConfiguration({ ...none, given: { path: "/x.yaml", text } })).toThrow(says);
    });
  }

  describe("the port that a node has by a former default", () => {
    const former = { address: "127.0.0.1", port: 988 };
    const installed = `${FILE}\n`;

    test("is written down by an upgrade, with nothing else changed", () => {
      const { text, config } = wantedConfiguration({ ...none, installed, lastListen: former });
      expect(config.listen).toEqual(former);
      expect(parseConfig(text, "again")).toEqual({ ...parseConfig(installed, "x"), listen: former });
      expect(text).toContain("# our node");
      // And stays so when the next upgrade finds it.
      expect(wantedConfiguration({ ...none, installed: text, lastListen: former }).text).toBe(text);
    });

    test("gives way to a flag, to a given file, and to a listen in the installed one", () => {
      const moved = { address: "127.0.0.1", port: 254 };
      const given = { path: "/x.yaml", text: FILE };
      expect(wantedConfiguration({ ...none, installed, given, lastListen: former }).config.listen).toEqual(
        moved,
      );
      const flag = { listen: "127.0.0.1:254" };
      expect(
        wantedConfiguration({ given: null, installed, overrides: flag, lastListen: former }).config.listen,
      ).toEqual(moved);
      const own = `${FILE}listen: 127.0.0.1:253\n`;
      expect(wantedConfiguration({ ...none, installed: own, lastListen: former }).text).toBe(own);
    });

    test("is no reason to write where the node has another, or none is remembered", () => {
      for (const lastListen of [null, { address: "127.0.0.1", port: 254 }]) {
        expect(wantedConfiguration({ ...none, installed, lastListen }).text).toBe(installed);
      }
      expect(
        wantedConfiguration({ ...none, given: { path: "/x", text: FILE }, lastListen: former }).text,
      ).toBe(FILE);
    });
  });

  test("an installed configuration that refuses everybody stays one", () => {
    expect(wantedConfiguration({ ...none, installed: "role: null\n" }).config.role).toBeNull();
  });
});

describe("withoutMetrics()", () => {
  test("changes nothing but the metrics", () => {
    const before = parseConfig(FILE, "x");
    expect(parseConfig(withoutMetrics(FILE), "x")).toEqual({ ...before, metrics: null });
  });
});
