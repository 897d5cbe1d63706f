import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { FirewallSpec } from "../../../src/firewall/types.ts";
import { isClosedRule, isWallRule } from "../../../src/firewall/wall/own-rules.ts";
import { planClosedEnd, planWall } from "../../../src/firewall/wall/plan.ts";
import { USERS_SOURCE } from "../../../src/firewall/wall/tables.ts";
import { routeText, ruleText } from "../../../src/firewall/wall/text.ts";
import type { RoutingRule } from "../../../src/firewall/wall/types.ts";
import { SecondWall } from "../../../src/firewall/wall/wall.ts";
import { usersBut, wantedWall } from "../../../src/firewall/wall/wanted.ts";
import { holds } from "../../support/fuzz.ts";
import { EC2, HYPERPOD } from "../support.ts";
import { FakeRouting, tableRule } from "./fake-kernel.ts";

const AGENT_HERE: FirewallSpec = { ...HYPERPOD, localPorts: [9081] };
const rulesFor = (spec: FirewallSpec, family: "ipv4" | "ipv6") =>
  wantedWall(spec, new FakeRouting())
    .rules.filter((rule) => rule.family === family)
    .map(ruleText);

describe("usersBut()", () => {
  test.each<[number[], [number, number][]]>([
    [[], [[1, 4294967294]]],
    [[0], [[1, 4294967294]]],
    [[0, 1], [[2, 4294967294]]],
    [
      [0, 500],
      [
        [1, 499],
        [501, 4294967294],
      ],
    ],
    [
      [501, 500, 0, 500],
      [
        [1, 499],
        [502, 4294967294],
      ],
    ],
    [[0, 4294967294], [[1, 4294967293]]],
  ])("of %p is %p", (exempt, ranges) => {
    expect(usersBut(exempt)).toEqual(ranges);
  });
  test("names each uid but root's and the exempt ones, and each once", () => {
    const uid = fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 4294967280, max: 4294967294 }));
    holds(
      fc.property(fc.array(uid), uid, (exempt, one) => {
        const ranges = usersBut(exempt).filter(([first, last]) => first <= one && one <= last);
        expect(ranges).toHaveLength(one === 0 || exempt.includes(one) ? 0 : 1);
      }),
      100,
    );
  });
});

describe("wantedWall()", () => {
  test("lets users' connections to the metadata address go to lo alone, and from there to the proxy alone", () => {
    const users = ["uidrange 1-499", "uidrange 501-4294967294"];
    const metadata = "to 169.254.169.254/32 ipproto tcp dport 80";
    const agent = "to 169.254.0.2/32 ipproto tcp dport 9081";
    expect(rulesFor(HYPERPOD, "ipv4")).toEqual([
      ...users.flatMap((uids) => [
        `pref 0 from 0.0.0.0/32 ${metadata} ${uids} lookup 1692541 protocol kernel`,
        `pref 0 from ${USERS_SOURCE}/32 ${metadata} ${uids} lookup 1692541 protocol kernel`,
        `pref 0 ${metadata} ${uids} lookup 1692543 protocol kernel`,
        `pref 0 ${metadata} ${uids} prohibit protocol kernel`,
        `pref 0 ${agent} ${uids} lookup 1692543 protocol kernel`,
        `pref 0 ${agent} ${uids} prohibit protocol kernel`,
      ]),
      `pref 0 from ${USERS_SOURCE}/32 ipproto tcp dport 9081 lookup 1692543 protocol kernel`,
      `pref 0 from ${USERS_SOURCE}/32 ipproto tcp dport 9081 prohibit protocol kernel`,
      `pref 0 to ${USERS_SOURCE}/32 ipproto tcp sport 9081 lookup 1692543 protocol kernel`,
      `pref 0 to ${USERS_SOURCE}/32 ipproto tcp sport 9081 prohibit protocol kernel`,
      // Of any protocol: before linux 5.13 a redirected packet is routed again as if it had none.
      `pref 0 from ${USERS_SOURCE}/32 to 127.0.0.1/32 lookup 1692547 protocol kernel`,
      `pref 0 from ${USERS_SOURCE}/32 lookup 1692543 protocol kernel`,
      `pref 0 from ${USERS_SOURCE}/32 prohibit protocol kernel`,
      ...users.flatMap((uids) => [
        `pref 0 ipproto tcp sport 254 ${uids} lookup 1692543 protocol kernel`,
        `pref 0 ipproto tcp sport 254 ${uids} prohibit protocol kernel`,
      ]),
      "pref 0 from 169.254.0.2/32 ipproto tcp sport 9081 uidrange 1000-4294967294 lookup 1692543 protocol kernel",
      "pref 0 from 169.254.0.2/32 ipproto tcp sport 9081 uidrange 1000-4294967294 prohibit protocol kernel",
    ]);
    expect(rulesFor(HYPERPOD, "ipv6")).toEqual([
      ...users.flatMap((uids) => [
        `pref 0 to fd00:ec2::254/128 ipproto tcp dport 80 ${uids} lookup 1692541 protocol kernel`,
        `pref 0 to fd00:ec2::254/128 ipproto tcp dport 80 ${uids} prohibit protocol kernel`,
      ]),
      ...users.map((uids) => `pref 0 ipproto tcp sport 254 ${uids} prohibit protocol kernel`),
    ]);
    // On every kind of node, for the agent may come later.
    expect(rulesFor(EC2, "ipv4")).toEqual(rulesFor(HYPERPOD, "ipv4"));
  });
  test("guards an upstream of the configuration's, of either family", () => {
    const other: FirewallSpec = { ...EC2, exemptUids: [0], upstream: { address: "10.0.0.9", port: 8080 } };
    expect(rulesFor(other, "ipv4")).toContain(
      "pref 0 to 10.0.0.9/32 ipproto tcp dport 8080 uidrange 1-4294967294 lookup 1692543 protocol kernel",
    );
    const six: FirewallSpec = { ...other, upstream: { address: "fd00::9", port: 8080 } };
    expect(rulesFor(six, "ipv6")).toContain(
      "pref 0 to fd00::9/128 ipproto tcp dport 8080 uidrange 1-4294967294 prohibit protocol kernel",
    );
  });
  test("lets people send nothing from the place of an agent, in either family; exempt users and system accounts may", () => {
    const from = (spec: FirewallSpec, family: "ipv4" | "ipv6") =>
      rulesFor(spec, family).filter((text) => text.includes("sport") && !text.includes("sport 254"));
    const six: FirewallSpec = { ...EC2, exemptUids: [0, 1500], upstream: { address: "fd00::9", port: 8080 } };
    expect(from(six, "ipv6")).toEqual([
      "pref 0 from fd00::9/128 ipproto tcp sport 8080 uidrange 1000-1499 prohibit protocol kernel",
      "pref 0 from fd00::9/128 ipproto tcp sport 8080 uidrange 1501-4294967294 prohibit protocol kernel",
    ]);
    // The metadata service's own answers come from elsewhere.
    for (const family of ["ipv4", "ipv6"] as const)
      expect(from(EC2, family).join()).not.toMatch(/sport 80 |from (?:169\.254\.169\.254|fd00:ec2)/);
  });
  test("closes the port of an agent on this node on every address of it, and on no other", () => {
    const { routes } = wantedWall(AGENT_HERE, new FakeRouting());
    expect(routes.filter(({ table }) => table === 1692545).map(routeText)).toEqual([
      "route multicast 127.0.0.0/8 dev lo table 1692545 metric 1",
      "-6 route prohibit fe80::/10 table 1692545 metric 1024",
      "route multicast 169.254.0.2/32 dev lo table 1692545 metric 1",
      "route multicast 10.0.0.5/32 dev lo table 1692545 metric 1",
      "route multicast 10.0.0.5/32 dev if2 table 1692545 metric 2",
      "-6 route prohibit ::1/128 table 1692545 metric 1024",
    ]);
    for (const family of ["ipv4", "ipv6"] as const) {
      expect(rulesFor(AGENT_HERE, family)).toContain(
        "pref 0 ipproto tcp dport 9081 uidrange 1-499 lookup 1692545 protocol kernel",
      );
    }
    // By a rule: who connects to a link-local address names its interface, and a route on lo is passed by.
    expect(rulesFor(AGENT_HERE, "ipv6")).toContain(
      "pref 0 to fe80::/10 ipproto tcp dport 9081 uidrange 1-499 prohibit protocol kernel",
    );
  });
  test("leads users past the table `local` at that port, wherever that table is: what came since is in no table of ours", () => {
    const kernel = new FakeRouting();
    const port = "pref 0 ipproto tcp dport 9081 uidrange 501-4294967294";
    const last = (family: "ipv4" | "ipv6") => {
      const { rules, after } = wantedWall(AGENT_HERE, kernel);
      const users = rules
        .filter(
          (rule) => rule.family === family && rule.uids?.[0] === 501 && rule.tcpSourcePort === undefined,
        )
        .map(ruleText);
      const own = after.filter((rule) => rule.family === family).map(ruleText);
      return [...users.slice(users.indexOf(`${port} lookup 1692545 protocol kernel`) + 1), ...own];
    };
    const elsewhere = (behind: number) => [
      `${port} goto ${behind} protocol kernel`,
      `${port} unreachable protocol kernel`,
      `pref ${behind} nop protocol kernel`,
    ];
    // In IPv4 what is bound to lo arrives on this node, whatever its route is.
    const bound =
      "pref 0 oif lo ipproto tcp dport 9081 uidrange 501-4294967294 lookup 1692543 protocol kernel";
    expect(last("ipv4")).toEqual([bound, ...elsewhere(2)]);
    expect(last("ipv6")).toEqual(elsewhere(2));
    kernel.rules = [tableRule("ipv4", 100, 255), tableRule("ipv6", 0, 255)];
    expect(last("ipv4")).toEqual([bound, ...elsewhere(101)]);
    expect(last("ipv6")).toEqual(elsewhere(2));
    // Nothing of it where the upstream is another machine's.
    expect(wantedWall(HYPERPOD, kernel).after).toEqual([]);
  });
  test("says nothing of packets without a user while containers are left alone, and closes them else", () => {
    const withoutUser = (spec: FirewallSpec) =>
      rulesFor(spec, "ipv4").filter((text) => !text.includes("uidrange") && !text.includes(USERS_SOURCE));
    expect(withoutUser(AGENT_HERE)).toEqual([]);
    for (const containers of ["reject", "proxy"] as const) {
      expect(withoutUser({ ...AGENT_HERE, containers })).toEqual([
        "pref 0 iif lo goto 1 protocol kernel",
        "pref 0 from 169.254.0.2/32 goto 1 protocol kernel",
        "pref 0 to 169.254.0.2/32 ipproto tcp dport 9081 lookup 1692549 protocol kernel",
        "pref 0 to 169.254.0.2/32 ipproto tcp dport 9081 prohibit protocol kernel",
        "pref 0 to 169.254.169.254/32 ipproto tcp dport 80 lookup 1692549 protocol kernel",
        "pref 0 to 169.254.169.254/32 ipproto tcp dport 80 prohibit protocol kernel",
        "pref 0 ipproto tcp dport 9081 lookup 1692551 protocol kernel",
        // An address that came since is in no table of ours.
        "pref 0 ipproto tcp dport 9081 goto 2 protocol kernel",
        "pref 0 ipproto tcp dport 9081 unreachable protocol kernel",
      ]);
    }
  });
  test("where the metadata address is this node's, keeps whoever listens there from answering users' redirected connections", () => {
    const kernel = new FakeRouting();
    const answers = () =>
      wantedWall(HYPERPOD, kernel)
        .rules.map(ruleText)
        .filter((text) => text.includes(`from 169.254.169.254/32 to ${USERS_SOURCE}`));
    expect(answers()).toEqual([]);
    kernel.addresses = [...kernel.addresses, { family: "ipv4", address: "169.254.169.254", interface: 1 }];
    expect(answers()).toEqual([
      `pref 0 from 169.254.169.254/32 to ${USERS_SOURCE}/32 ipproto tcp lookup 1692543 protocol kernel`,
      `pref 0 from 169.254.169.254/32 to ${USERS_SOURCE}/32 ipproto tcp prohibit protocol kernel`,
    ]);
  });
  test("has an end for sockets that are bound to an interface, whichever it is", () => {
    const { routes } = wantedWall(HYPERPOD, new FakeRouting());
    expect(routes.filter(({ table }) => table === 1692543).map(routeText)).toEqual([
      "route multicast default dev lo table 1692543 metric 1",
      "route multicast default dev if2 table 1692543 metric 2",
    ]);
  });
});

describe("the second wall", () => {
  const CONFIGURATIONS: FirewallSpec[] = [
    HYPERPOD,
    EC2,
    AGENT_HERE,
    { ...AGENT_HERE, containers: "reject" },
    { ...EC2, containers: "proxy", exemptUids: [0] },
  ];
  const somebody = fc.constantFrom(...CONFIGURATIONS, null);

  test("is right after any configuration, says so, and is gone without a trace at last; `local` is always there", () => {
    holds(
      fc.property(fc.array(somebody, { minLength: 1, maxLength: 5 }), (specs) => {
        const kernel = new FakeRouting();
        const before = kernel.rules.map(ruleText);
        const wall = new SecondWall(kernel);
        kernel.after = () => {
          for (const family of kernel.families) {
            expect(
              kernel.rules.some(
                (rule) => rule.family === family && /^pref 0 lookup local/.test(ruleText(rule)),
              ),
            ).toBe(true);
          }
        };
        for (const spec of specs) {
          wall.bring(spec);
          expect(wall.problems(spec)).toEqual([]);
          expect(wall.isThere()).toBe(spec !== null);
          expect(wall.bring(spec)).toEqual([]);
        }
        wall.bring(null);
        expect(kernel.rules.map(ruleText)).toEqual(before);
        expect(kernel.routes).toEqual([]);
      }),
      100,
    );
  });
  test("is gone without a trace also where whoever brought it was killed after any of its changes", () => {
    holds(
      fc.property(fc.constantFrom(...CONFIGURATIONS), somebody, fc.nat(60), (first, then, last) => {
        const kernel = new FakeRouting();
        const before = kernel.rules.map(ruleText);
        new SecondWall(kernel).bring(first);
        let left = last;
        kernel.after = () => {
          if (left-- === 0) throw new Error("killed");
        };
        try {
          new SecondWall(kernel).bring(then);
        } catch {
          // The process is no more.
        }
        kernel.after = () => {};
        new SecondWall(kernel).bring(null);
        expect(kernel.rules.map(ruleText)).toEqual(before);
        expect(kernel.routes).toEqual([]);
      }),
      100,
    );
  });
  test("is never without a rule that holds a user while it is written anew", () => {
    const kernel = new FakeRouting();
    const wall = new SecondWall(kernel);
    wall.bring({ ...EC2, exemptUids: [0] });
    kernel.after = () => {
      const own = kernel.rules.filter(({ family }) => family === "ipv4");
      const held = own.findIndex(
        ({ action, to, uids }) =>
          action.kind === "prohibit" &&
          to === "169.254.0.2" &&
          (uids?.[0] ?? 1e9) <= 5000 &&
          (uids?.[1] ?? 0) >= 5000,
      );
      const local = own.findIndex((rule) => /^pref 0 lookup local/.test(ruleText(rule)));
      expect(held).toBeGreaterThanOrEqual(0);
      expect(held).toBeLessThan(local);
    };
    wall.bring({ ...EC2, exemptUids: [0, 600] });
    wall.bring({ ...AGENT_HERE, containers: "reject" });
  });
  test("is never without a rule that lets users through to the proxy while the proxy's port changes", () => {
    const kernel = new FakeRouting();
    const wall = new SecondWall(kernel);
    wall.bring(EC2);
    const others = () =>
      kernel.rules.filter(({ tcpSourcePort }) => tcpSourcePort === undefined).map(ruleText);
    const isLocal = (text: string) => text.startsWith("pref 0 lookup local");
    const before = others().filter((text) => !isLocal(text));
    const listen = { address: "127.0.0.1", port: 987 };
    kernel.after = () => expect(others().filter((text) => !isLocal(text))).toEqual(before);
    expect(wall.bring({ ...EC2, listen })).not.toEqual([]);
    kernel.after = () => {};
    expect(wall.problems({ ...EC2, listen })).toEqual([]);
  });
  test("takes the rules of versions that named a protocol for its own, and holds users while they are replaced", () => {
    const kernel = new FakeRouting();
    const wall = new SecondWall(kernel);
    wall.bring(HYPERPOD);
    const right = kernel.rules.map(ruleText);
    const isOpenToAny = (rule: RoutingRule) => rule.from === USERS_SOURCE && rule.uids === undefined;
    kernel.rules = kernel.rules
      .filter((rule) => rule.to !== USERS_SOURCE)
      .map((rule) => (isOpenToAny(rule) && rule.tcpPort === undefined ? { ...rule, tcp: true } : rule));
    const older = kernel.rules.map(ruleText);
    expect(older).toContain(`pref 0 from ${USERS_SOURCE}/32 ipproto tcp prohibit protocol kernel`);
    kernel.after = () => {
      const held = kernel.rules.find((rule) => isOpenToAny(rule) && rule.action.kind === "prohibit");
      expect(held).toBeDefined();
      const way = kernel.rules.find((rule) => isOpenToAny(rule) && rule.to === "127.0.0.1");
      expect(way).toBeDefined();
    };
    expect(wall.bring(HYPERPOD)).not.toEqual([]);
    expect(kernel.rules.map(ruleText)).toEqual(right);
    expect(wall.problems(HYPERPOD)).toEqual([]);
  });
  test("is put right whatever somebody did to it", () => {
    const pick = fc.nat();
    holds(
      fc.property(
        fc.constantFrom(...CONFIGURATIONS),
        fc.array(fc.tuple(fc.nat(4), pick), { maxLength: 6 }),
        (spec, harms) => {
          const kernel = new FakeRouting();
          const wall = new SecondWall(kernel);
          wall.bring(spec);
          const right = kernel.rules.map(ruleText);
          for (const [kind, at] of harms) {
            const own = kernel.rules.filter(isWallRule);
            const rule = own[at % Math.max(own.length, 1)];
            if (kind === 0 && rule !== undefined) kernel.rules.splice(kernel.rules.indexOf(rule), 1);
            if (kind === 1 && rule !== undefined) kernel.write([{ kind: "add-rule", rule }]);
            if (kind === 2)
              kernel.rules = kernel.rules.filter((one) => one.preference === 32766 || !isWallRule(one));
            if (kind === 3) kernel.routes.splice(at % Math.max(kernel.routes.length, 1), 1);
            if (kind === 4) kernel.write([{ kind: "add-rule", rule: tableRule("ipv4", 0, 255) }]);
          }
          wall.bring(spec);
          expect(wall.problems(spec)).toEqual([]);
          expect(kernel.rules.map(ruleText)).toEqual(right);
        },
      ),
      100,
    );
  });
  test("says so where another program undoes each attempt, and is put right once that has ended", () => {
    const kernel = new FakeRouting();
    const wall = new SecondWall(kernel);
    kernel.after = () => {
      const at = kernel.rules.findIndex(isWallRule);
      if (at !== -1) kernel.rules.splice(at, 1);
    };
    expect(() => wall.bring(EC2)).toThrow(
      /^the routing rules of the second wall were changed by somebody else in each of 6 attempts \(missing: ip rule .*\)\n {2}find out what changes them/,
    );
    kernel.after = () => {};
    wall.bring(EC2);
    expect(wall.problems(EC2)).toEqual([]);
  });
  test("follows interfaces and addresses that come and go", () => {
    const kernel = new FakeRouting();
    const wall = new SecondWall(kernel);
    wall.bring(AGENT_HERE);
    kernel.links = [...kernel.links, { index: 7, name: "docker0" }];
    kernel.addresses = [
      ...kernel.addresses.filter(({ address }) => address !== "10.0.0.5"),
      { family: "ipv4", address: "172.17.0.1", interface: 7 },
    ];
    expect(wall.bring(AGENT_HERE)).toEqual([
      "missing: ip route multicast default dev if7 table 1692543 metric 7",
      "missing: ip route multicast 172.17.0.1/32 dev lo table 1692545 metric 1",
      "missing: ip route multicast 172.17.0.1/32 dev if7 table 1692545 metric 7",
      "one too many: ip route multicast 10.0.0.5/32 dev lo table 1692545 metric 1",
      "one too many: ip route multicast 10.0.0.5/32 dev if2 table 1692545 metric 2",
    ]);
    expect(wall.problems(AGENT_HERE)).toEqual([]);
    // An interface has its link-local address a moment after it comes up: that is no reason to do anything.
    kernel.addresses = [...kernel.addresses, { family: "ipv6", address: "fe80::7", interface: 7 }];
    expect(wall.problems(AGENT_HERE)).toEqual([]);
  });
  test("follows the table `local` where somebody moves it, and is gone without a trace from there", () => {
    const kernel = new FakeRouting();
    const wall = new SecondWall(kernel);
    wall.bring(AGENT_HERE);
    kernel.rules = kernel.rules.filter((rule) => !/^pref 0 lookup local/.test(ruleText(rule)));
    kernel.write([{ kind: "add-rule", rule: tableRule("ipv4", 100, 255) }]);
    kernel.write([{ kind: "add-rule", rule: tableRule("ipv6", 100, 255) }]);
    const nops = () => kernel.rules.filter(({ action }) => action.kind === "nop").map(ruleText);
    expect(nops()).toEqual(["pref 2 nop protocol kernel", "pref 2 nop protocol kernel"]);
    wall.bring(AGENT_HERE);
    expect(wall.problems(AGENT_HERE)).toEqual([]);
    expect(nops()).toEqual(["pref 101 nop protocol kernel", "pref 101 nop protocol kernel"]);
    wall.bring(null);
    expect(kernel.rules.filter(({ preference }) => preference < 1000).map(ruleText)).toEqual([
      "pref 100 lookup local protocol kernel",
      "pref 100 lookup local protocol kernel",
    ]);
  });
  test("leaves `local` where somebody has moved it, and the rules of others alone", () => {
    const kernel = new FakeRouting();
    const vpn: RoutingRule = { ...tableRule("ipv4", 100, 51820), foreign: true };
    kernel.rules = [tableRule("ipv4", 100, 255), vpn, tableRule("ipv6", 0, 255)];
    const before = kernel.rules.map(ruleText);
    const wall = new SecondWall(kernel);
    wall.bring(HYPERPOD);
    expect(wall.problems(HYPERPOD)).toEqual([]);
    expect(kernel.rules.slice(-3).map(ruleText)[0]).not.toContain("lookup local");
    expect(kernel.rules.filter((rule) => rule.preference === 100).map(ruleText)).toEqual(before.slice(0, 2));
    wall.bring(null);
    expect(kernel.rules.map(ruleText)).toEqual(before);
  });
  test("takes a rule of others by the sender's port for none of its own, and not for that of `local`", () => {
    const kernel = new FakeRouting();
    const theirs: RoutingRule = { ...tableRule("ipv4", 0, 255), tcpSourcePort: 5000, protocol: 4 };
    kernel.rules = [tableRule("ipv4", 0, 255), theirs, tableRule("ipv6", 0, 255)];
    const wall = new SecondWall(kernel);
    const before = kernel.rules.map(ruleText);
    kernel.after = () => expect(kernel.rules.map(ruleText)).toContain(ruleText(theirs));
    wall.bring(HYPERPOD);
    expect(wall.problems(HYPERPOD)).toEqual([]);
    wall.bring(null);
    expect(kernel.rules.map(ruleText).sort()).toEqual(before.sort());
  });
  test("is nothing where the kernel has no such rules", () => {
    const kernel = new FakeRouting();
    kernel.problem = "linux 4.14 has no routing rules by port";
    const wall = new SecondWall(kernel);
    expect([wall.bring(HYPERPOD), wall.problems(HYPERPOD), wall.isThere(), kernel.written]).toEqual([
      [],
      [],
      false,
      [],
    ]);
  });
});

describe("the closed state of the boot", () => {
  const everybody = [1, 4294967294] as const;
  const closed: RoutingRule[] = [
    {
      family: "ipv4",
      preference: 0,
      to: "169.254.169.254",
      uids: everybody,
      action: { kind: "lookup", table: 169254 },
      protocol: 2,
    },
    {
      family: "ipv4",
      preference: 0,
      to: "169.254.169.254",
      uids: everybody,
      action: { kind: "prohibit" },
      protocol: 2,
    },
    {
      family: "ipv4",
      preference: 0,
      to: "169.254.0.2",
      uids: everybody,
      action: { kind: "prohibit" },
      protocol: 2,
    },
    {
      family: "ipv4",
      preference: 0,
      tcpPort: 9081,
      uids: everybody,
      action: { kind: "prohibit" },
      protocol: 2,
    },
    {
      family: "ipv6",
      preference: 0,
      to: "fd00:ec2::254",
      uids: everybody,
      action: { kind: "prohibit" },
      protocol: 2,
    },
  ];
  test("is told from the wall", () => {
    for (const rule of closed)
      expect([ruleText(rule), isClosedRule(rule), isWallRule(rule)]).toEqual([ruleText(rule), true, false]);
    for (const rule of wantedWall({ ...AGENT_HERE, exemptUids: [0], containers: "reject" }, new FakeRouting())
      .rules) {
      expect([ruleText(rule), isClosedRule(rule), isWallRule(rule)]).toEqual([ruleText(rule), false, true]);
    }
  });
  test("stays while the wall is built behind it, and goes when it is ended", () => {
    const kernel = new FakeRouting();
    kernel.rules = [...closed, ...kernel.rules];
    const wall = new SecondWall(kernel);
    wall.bring({ ...EC2, exemptUids: [0] });
    expect(kernel.rules.filter(isClosedRule)).toEqual(closed);
    kernel.routes.push({
      family: "ipv4",
      table: 169254,
      kind: "broadcast",
      to: "default",
      interface: 2,
      metric: 2,
    });
    kernel.write(planClosedEnd(kernel.read([169254])));
    expect(kernel.routes.some(({ table }) => table === 169254)).toBe(false);
    expect(kernel.rules.some(isClosedRule)).toBe(false);
    expect(wall.problems({ ...EC2, exemptUids: [0] })).toEqual([]);
  });
});

test("planWall() does nothing where everything is right", () => {
  const kernel = new FakeRouting();
  new SecondWall(kernel).bring(HYPERPOD);
  const state = kernel.read([1692541, 1692543, 1692545, 1692547, 1692549, 1692551]);
  expect(planWall(state, wantedWall(HYPERPOD, state))).toEqual({ problems: [], changes: [] });
});
