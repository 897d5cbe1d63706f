import { describe, expect, test } from "bun:test";
import { configSchema, parseEndpoint } from "../../src/config/schema.ts";
import { ImdsProxyError } from "../../src/errors.ts";
import type { Accounts } from "../../src/firewall/accounts.ts";
import { lastingAccounts, systemAccounts, uidInPasswd } from "../../src/firewall/accounts.ts";
import { type DetectionSources, detectUpstream, type Reached } from "../../src/firewall/detect.ts";
import { buildFirewallSpec, exemptUids } from "../../src/firewall/spec.ts";
import type { RuleSet } from "../../src/firewall/types.ts";

/** What a directory says, and what /etc/passwd does; default the same. */
const accounts = (known: Record<string, number>, local: Record<string, number> = known): Accounts => ({
  uidOf: async (name) => known[name] ?? null,
  localUidOf: (name) => local[name] ?? null,
});
const config = (over: object = {}) => configSchema.parse(over);
const detected = {
  upstream: { address: "169.254.0.2", port: 9081 },
  reason: "a test says so",
  certain: true,
};
const node = (known: Record<string, number> = {}) => ({
  accounts: accounts(known),
  detectUpstream: async () => detected,
});

describe("buildFirewallSpec()", () => {
  test("has root and the service's account exempt, the upstream found, the default listener", async () => {
    const { spec, upstream, unknownExempt } = await buildFirewallSpec(
      config(),
      node({ imdsproxy: 991, root: 0 }),
      { conntrackMax: () => 262_144, subordinateUids: () => "alice:100000:65536\nbob:165536:65536\n" },
    );
    expect(spec).toEqual({
      upstream: { address: "169.254.0.2", port: 9081 },
      listen: { address: "127.0.0.1", port: 254 },
      exemptUids: [0, 991],
      containers: "leave",
      limits: {
        exemptUids: [0, 991],
        subordinates: [
          { first: 100_000, ranges: [[100_000, 165_535]] },
          { first: 165_536, ranges: [[165_536, 231_071]] },
        ],
        newConnections: {
          user: { perSecond: 2_000, burst: 4_000 },
          own: { perSecond: 250, burst: 64 },
          everyone: { perSecond: 4_000, burst: 3_584 },
        },
        tracked: {
          user: { live: 16_384, begun: { perSecond: 4_096, burst: 16_384 } },
          everyone: { live: 98_304, begun: { perSecond: 8_192, burst: 32_768 } },
        },
        agents: [{ address: "169.254.0.2", port: 9081 }],
      },
      localPorts: [9081],
    });
    expect([upstream.reason, unknownExempt]).toEqual(["a test says so", null]);
  });
  test.each<[string, string[], number[] | undefined]>([
    ["http://10.1.2.3:81", ["127.0.0.1", "10.0.0.5"], undefined],
    ["http://10.1.2.3:81", ["10.1.2.3"], [81]],
    ["http://127.0.0.1:9000", ["127.0.0.1"], [9000]],
    ["http://[::1]:9000", ["::1"], [9000]],
    ["http://10.1.2.3:81", ["169.254.0.2"], [9081]],
    ["http://169.254.169.254", ["10.0.0.5"], undefined],
    // The agent is this node's also while it is not there yet.
    ["http://169.254.0.2:9081", [], [9081]],
  ])(
    "with the upstream %p on a node of %p closes the ports %p on every local address",
    async (upstream, addresses, ports) => {
      const { spec } = await buildFirewallSpec(config({ upstream }), {
        ...node({ root: 0 }),
        addresses: () => addresses,
      });
      expect(spec.localPorts).toEqual(ports);
    },
  );
  test("asks nobody for an upstream that the configuration names", async () => {
    const { spec } = await buildFirewallSpec(config({ upstream: "http://10.1.2.3:81" }), {
      accounts: accounts({}),
      detectUpstream: () => Promise.reject(new Error("asked")),
    });
    expect(spec.upstream).toEqual({ address: "10.1.2.3", port: 81 });
  });
  test("spells IPv6 as iptables-save does", async () => {
    const { spec } = await buildFirewallSpec(
      config({ listen: "[0:0:0:0:0:0:0:1]:254", upstream: "http://[FD00:0EC2:0::254]" }),
      node(),
    );
    expect([spec.listen.address, spec.upstream.address]).toEqual(["::1", "fd00:ec2::254"]);
  });
  test.each([
    [{ listen: "127.0.0.1:254", upstream: "127.0.0.1:254" }, "the proxy would ask itself"],
    [{ listen: "169.254.169.254:80" }, "an address of the metadata service itself"],
    [{ listen: "[fd00:ec2:0::254]:254" }, "an address of the metadata service itself"],
    [{ listen: "169.254.0.2:254" }, "an address of the metadata service itself"],
    [{ upstream: "0.0.0.0:80" }, "is no destination"],
  ])("refuses %p", async (over: { listen?: string; upstream?: string }, problem) => {
    // As of flags: some of these the file's own check refuses before.
    const given = Object.entries(over).map(([key, text]) => [key, parseEndpoint(text)]);
    const asked = { ...config({}), ...Object.fromEntries(given) };
    await expect(buildFirewallSpec(asked, node())).rejects.toMatchObject({
      code: "config",
      problem: expect.stringContaining(problem),
    });
  });
});

describe("exemptUids()", () => {
  test("takes names and uids, each once, in order", async () => {
    const known = accounts({ root: 0, ops: 1200, imdsproxy: 991 });
    expect(await exemptUids(["ops", "root", "1500", "1200"], known)).toEqual({
      uids: [0, 991, 1200, 1500],
      unknown: null,
    });
  });
  test("leaves an unknown user out and names all of them", async () => {
    const { uids, unknown } = await exemptUids(["gone", "ops", "4294967295"], accounts({ ops: 1200 }));
    expect(uids).toEqual([0, 1200]);
    expect(unknown?.code).toBe("config");
    expect(unknown?.problem).toBe(
      'exempt: there is no account "gone"; 4294967295 is no uid: the highest is 4294967294',
    );
  });
  const broken: Accounts = {
    uidOf: () => Promise.reject(new ImdsProxyError("command-failed", "getent hangs")),
    localUidOf: () => {
      throw new ImdsProxyError("command-failed", "no /etc/passwd");
    },
  };
  test("has root even where nothing can be looked up", async () => {
    const { uids, unknown } = await exemptUids(["root", "ops"], broken);
    expect(uids).toEqual([0]);
    expect(unknown?.problem).toBe("exempt: no /etc/passwd; no /etc/passwd");
  });
  test("takes the service and root from no directory, and of others those that /etc/passwd has not", async () => {
    const directory = { imdsproxy: 5001, root: 5002, ops: 5003, ldap: 5004 };
    expect(await exemptUids(["root", "ops", "ldap"], accounts(directory, {}))).toEqual({
      uids: [0, 5003, 5004],
      unknown: null,
    });
    expect(await exemptUids(["root", "ops"], accounts(directory, { imdsproxy: 991, ops: 1200 }))).toEqual({
      uids: [0, 991, 1200],
      unknown: null,
    });
  });
  test("asks a directory for nobody whom /etc/passwd has", async () => {
    const { uidOf } = broken;
    const hanging = { uidOf, localUidOf: (name: string) => (name === "ops" ? 1200 : null) };
    expect(await exemptUids(["root", "ops"], hanging)).toEqual({ uids: [0, 1200], unknown: null });
  });
});

describe("lastingAccounts()", () => {
  test("an account keeps its last uid while a look-up fails, and loses it where there is none of that name", async () => {
    let fails = false;
    let known: Record<string, number> = { ops: 1200 };
    const told = <T>(answer: T): T => {
      if (fails) throw new Error("not now");
      return answer;
    };
    const lasting = lastingAccounts({
      uidOf: async (name) => told(known[name] ?? null),
      localUidOf: (name) => told(known[name] ?? null),
    });
    const both = async () => [await lasting.uidOf("ops"), lasting.localUidOf("ops")];
    expect(await both()).toEqual([1200, 1200]);
    fails = true;
    expect(await both()).toEqual([1200, 1200]);
    expect(() => lasting.localUidOf("other")).toThrow("not now");
    await expect(lasting.uidOf("other")).rejects.toThrow("not now");
    fails = false;
    known = {};
    expect(await both()).toEqual([null, null]);
    fails = true;
    expect(() => lasting.localUidOf("ops")).toThrow("not now");
  });
});

test.each<[string, number | null]>([
  ["ops:x:1200:1200::/:/bin/sh", 1200],
  ["# ops:x:1:1\n\nops:x:1200:1200", 1200],
  ["ops:x:1200:1200\nops:x:1300:1300", 1200],
  ["+ops:x:1200:1200::/:", null],
  ["+::::::", null],
  ["-ops::::::", null],
  ["opsx:x:1200:1200", null],
  ["ops:x:+1200:1200", null],
  ["ops:x:-1:1200", null],
  ["ops", null],
  ["", null],
])("uidInPasswd(%p) is %p", (text, uid) => {
  expect(uidInPasswd(text, "ops")).toBe(uid);
});

describe("systemAccounts", () => {
  test.each([
    ["root", 0],
    // getent answers a number with the account of that uid: that is another name.
    ["0", null],
    ["no-such-account-here", null],
    ["--help", null],
  ])("uidOf(%p) is %p", async (name, uid) => {
    expect(await systemAccounts.uidOf(name)).toBe(uid);
  });
});

const natOutput = (...rules: string[]): RuleSet =>
  new Map([["nat", new Map([["OUTPUT", { policy: "ACCEPT", rules }]])]]);
const entryTo = (target: string) =>
  `-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination ${target}`;
const ownChain = (target: string): RuleSet =>
  new Map([
    [
      "nat",
      new Map([
        [
          "IMDSPROXY",
          {
            policy: null,
            rules: [
              `-d 169.254.169.254/32 -p tcp -m owner --uid-owner 0 -m tcp --dport 80 ${target}`,
              entryTo("127.0.0.1:254"),
            ],
          },
        ],
      ]),
    ],
  ]);

describe("detectUpstream()", () => {
  const sources = (over: {
    rules?: RuleSet | ImdsProxyError;
    other?: RuleSet;
    addresses?: string[];
    reached?: Reached;
    isRoot?: boolean;
  }): DetectionSources => ({
    iptables: {
      read: async () => {
        if (over.rules instanceof Error) throw over.rules;
        return over.rules ?? new Map();
      },
      readOtherBackend: async () => over.other ?? null,
    },
    addresses: () => over.addresses ?? ["127.0.0.1", "10.0.0.5"],
    reach: async () => over.reached ?? "silent",
    isRoot: over.isRoot ?? true,
  });
  const agent = "169.254.0.2:9081";
  const ec2 = "169.254.169.254:80";
  const noRules = new ImdsProxyError("permission", "cannot read the rules");
  test.each([
    ["the agent's entry", { rules: natOutput(entryTo(agent)) }, agent, true],
    [
      "an entry that leads elsewhere",
      { rules: natOutput(entryTo("169.254.0.7:9090")) },
      "169.254.0.7:9090",
      true,
    ],
    ["an entry in the other backend", { other: natOutput(entryTo(agent)) }, agent, true],
    [
      "our own rules, when the entry is gone",
      { rules: ownChain(`-j DNAT --to-destination ${agent}`) },
      agent,
      true,
    ],
    ["our own rules of a plain node", { rules: ownChain("-j RETURN") }, ec2, true],
    ["the agent's address on the node", { addresses: ["169.254.0.2"] }, agent, true],
    ["an agent that answers", { reached: "open" }, agent, true],
    ["no sign at all", {}, ec2, true],
    // An unreachable network looks like a refusal: at boot, before the network, a plain node is none of HyperPod's.
    ["a refusal", { reached: "refused" }, ec2, true],
    ["an entry that leads to a proxy here", { rules: natOutput(entryTo("127.0.0.1:8080")) }, ec2, true],
    [
      "no right to read, and a refusal that may be ours",
      { rules: noRules, reached: "refused", isRoot: false },
      ec2,
      false,
    ],
    [
      "no right to read, but an agent that answers",
      { rules: noRules, reached: "open", isRoot: false },
      agent,
      true,
    ],
    ["no right to read, and silence", { rules: noRules, isRoot: false }, ec2, false],
  ] as const)("by %s", async (_, over, expected, certain) => {
    const found = await detectUpstream(sources(over as Parameters<typeof sources>[0]));
    expect(`${found.upstream.address}:${found.upstream.port}`).toBe(expected);
    expect(found.certain).toBe(certain);
    expect(found.reason).not.toBe("");
  });
  test("says what it could not look at", async () => {
    const found = await detectUpstream(sources({ rules: noRules, reached: "refused", isRoot: false }));
    expect(found.reason).toBe(
      "no sign of the HyperPod agent at 169.254.0.2:9081, but the firewall could not be read (cannot read the rules), " +
        "and 169.254.0.2:9081 could not be reached, which may be our own block",
    );
  });
});
