import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { parseRule } from "../../src/firewall/rule-text.ts";
import { guardedEndpoints, OWN_CHAINS, silence, wantedTable } from "../../src/firewall/rules.ts";
import { FAMILIES, type Family, type FirewallSpec, type TableName } from "../../src/firewall/types.ts";
import type { Endpoint } from "../../src/identity/endpoint.ts";
import { holds } from "../support/fuzz.ts";
import { EC2, HYPERPOD } from "./support.ts";

const chain = (spec: FirewallSpec, family: Family, table: TableName, name = "IMDSPROXY"): readonly string[] =>
  wantedTable(spec, family, table).chains.find((found) => found.name === name)?.rules ?? [];

describe("wantedTable()", () => {
  test("builds the redirect of a HyperPod node", () => {
    expect(chain(HYPERPOD, "ipv4", "nat")).toEqual([
      "-d 169.254.169.254/32 -p tcp -m owner --uid-owner 0 -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081",
      "-d 169.254.169.254/32 -p tcp -m owner --uid-owner 500 -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081",
      "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:254",
    ]);
  });
  test("leaves the exempt alone where the upstream is the metadata address itself", () => {
    expect(chain(EC2, "ipv4", "nat")).toEqual([
      "-d 169.254.169.254/32 -p tcp -m owner --uid-owner 0 -m tcp --dport 80 -j RETURN",
      "-d 169.254.169.254/32 -p tcp -m owner --uid-owner 500 -m tcp --dport 80 -j RETURN",
      "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:254",
    ]);
  });
  test("redirects the IPv6 metadata address to the IPv6 loopback", () => {
    for (const spec of [HYPERPOD, EC2]) {
      expect(chain(spec, "ipv6", "nat")).toEqual([
        "-d fd00:ec2::254/128 -p tcp -m owner --uid-owner 0 -m tcp --dport 80 -j RETURN",
        "-d fd00:ec2::254/128 -p tcp -m owner --uid-owner 500 -m tcp --dport 80 -j RETURN",
        "-d fd00:ec2::254/128 -p tcp -m tcp --dport 80 -j DNAT --to-destination [::1]:254",
      ]);
    }
  });
  test("blocks the agent, the metadata address and the listener, on every kind of node", () => {
    for (const spec of [HYPERPOD, EC2]) {
      expect(chain(spec, "ipv4", "filter")).toEqual([
        "-m owner --uid-owner 0 -j RETURN",
        "-m owner --uid-owner 500 -j RETURN",
        "-p tcp -m owner ! --uid-owner 0-4294967294 -m tcp --tcp-flags SYN NONE -j RETURN",
        ...(spec === HYPERPOD ? [9081, 80] : [80, 9081]).map(
          (port) =>
            `-d ${port === 80 ? "169.254.169.254" : "169.254.0.2"}/32 -p tcp -m tcp --dport ${port} -j REJECT --reject-with tcp-reset`,
        ),
        "-p tcp -m owner --socket-exists -m tcp --sport 254 -j DROP",
        "-s 169.254.0.2/32 -p tcp -m owner --uid-owner 1000-4294967294 -m tcp --sport 9081 -j DROP",
        "-d 127.0.0.1/32 -p tcp -m tcp --dport 254 -m conntrack ! --ctstate DNAT -j REJECT --reject-with tcp-reset",
      ]);
    }
  });
  test("lets only the exempt answer at the listener's port, in both families, whatever the address", () => {
    for (const address of ["127.0.0.1", "10.0.0.5", "0.0.0.0", "::1"]) {
      const spec = { ...HYPERPOD, listen: { address, port: 253 } };
      for (const family of FAMILIES) {
        const rules = chain(spec, family, "filter");
        const at = rules.indexOf("-p tcp -m owner --socket-exists -m tcp --sport 253 -j DROP");
        expect(at).toBeGreaterThan(rules.indexOf("-m owner --uid-owner 500 -j RETURN"));
      }
    }
  });
  test("can silence a port for a range of uids", () => {
    expect(silence(9081, { impostors: "1000-4294967294" })).toBe(
      "-p tcp -m owner --uid-owner 1000-4294967294 -m tcp --sport 9081 -j DROP",
    );
    expect(silence(9081, { impostors: "1000-4294967294", from: { address: "10.0.0.5", port: 9081 } })).toBe(
      "-s 10.0.0.5/32 -p tcp -m owner --uid-owner 1000-4294967294 -m tcp --sport 9081 -j DROP",
    );
  });
  test("enters each chain once, and from nowhere but OUTPUT while containers are left alone", () => {
    for (const family of FAMILIES) {
      for (const table of ["filter", "nat"] as const) {
        expect(wantedTable(HYPERPOD, family, table).hooks).toEqual([{ from: "OUTPUT", to: "IMDSPROXY" }]);
      }
    }
  });
  test("containers: reject resets what is forwarded and what comes in for the upstream or the listener", () => {
    const spec: FirewallSpec = { ...HYPERPOD, containers: "reject" };
    expect(wantedTable(spec, "ipv4", "filter").hooks.map(({ from }) => from)).toEqual([
      "OUTPUT",
      "FORWARD",
      "INPUT",
    ]);
    expect(chain(spec, "ipv4", "filter", "IMDSPROXY-FORWARD")).toEqual([
      "-s 169.254.0.2/32 -j RETURN",
      "-d 169.254.0.2/32 -p tcp -m tcp --dport 9081 -j REJECT --reject-with tcp-reset",
      "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset",
    ]);
    expect(chain(spec, "ipv4", "filter", "IMDSPROXY-INPUT")).toEqual([
      "! -i lo -d 169.254.0.2/32 -p tcp -m tcp --dport 9081 -j REJECT --reject-with tcp-reset",
      "! -i lo -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset",
      "-d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 254 -j REJECT --reject-with tcp-reset",
    ]);
    expect(wantedTable(spec, "ipv4", "nat").hooks).toHaveLength(1);
  });
  test("closes the port of an upstream on this node on every local address, in both families, and on no other", () => {
    const spec: FirewallSpec = { ...HYPERPOD, localPorts: [9081], containers: "reject" };
    for (const family of FAMILIES) {
      expect(chain(spec, family, "filter")).toContain(
        "-p tcp -m addrtype --dst-type LOCAL -m tcp --dport 9081 -j REJECT --reject-with tcp-reset",
      );
      expect(chain(spec, family, "filter", "IMDSPROXY-FORWARD")).toContain(
        "-p tcp -m addrtype --dst-type LOCAL -m tcp --dport 9081 -j REJECT --reject-with tcp-reset",
      );
      expect(chain(spec, family, "filter", "IMDSPROXY-INPUT")).toContain(
        "! -i lo -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 9081 -j REJECT --reject-with tcp-reset",
      );
    }
  });
  test("lets nobody forward from the agent's address where the agent is not the upstream", () => {
    for (const containers of ["reject", "proxy"] as const) {
      // What leaves the node itself is another chain's.
      const rules = wantedTable({ ...EC2, containers }, "ipv4", "filter")
        .chains.filter(({ name }) => name !== "IMDSPROXY")
        .flatMap(({ rules }) => rules);
      expect(rules.length).toBeGreaterThan(0);
      expect(rules.filter((rule) => rule.startsWith("-s "))).toEqual([]);
    }
  });
  test("containers: proxy redirects them, and lets in only what it redirected", () => {
    const spec: FirewallSpec = { ...HYPERPOD, containers: "proxy" };
    expect(chain(spec, "ipv4", "nat", "IMDSPROXY-PREROUTING")).toEqual([
      "-s 169.254.0.2/32 -j RETURN",
      "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 254",
    ]);
    expect(chain(spec, "ipv6", "nat", "IMDSPROXY-PREROUTING")).toEqual([
      "-d fd00:ec2::254/128 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 254",
    ]);
    expect(chain(spec, "ipv4", "filter", "IMDSPROXY-INPUT").at(-1)).toBe(
      "! -i lo -p tcp -m tcp --dport 254 -m conntrack ! --ctstate DNAT -j REJECT --reject-with tcp-reset",
    );
    // The proxy has the port on every local address then.
    expect(chain(spec, "ipv4", "filter").at(-1)).toBe(
      "-p tcp -m addrtype --dst-type LOCAL -m tcp --dport 254 -m conntrack ! --ctstate DNAT -j REJECT --reject-with tcp-reset",
    );
  });
});

/** A packet that leaves the node, as the filter's OUTPUT sees it. */
interface Packet {
  readonly to: Endpoint;
  /** Its source. */
  readonly from: number;
  readonly source: string;
  /** Who made the socket; null where there is no socket, or none with a file. */
  readonly uid: number | null;
  /** Whether there is a socket. Where `uid` is a number there is. */
  readonly socket: boolean;
  readonly syn: boolean;
  readonly redirected: boolean;
  readonly local: boolean;
}

const MATCHES: Record<string, (value: string, packet: Packet) => boolean> = {
  "-s": (value, { source }) => value.replace(/\/\d+$/, "") === source,
  "--socket-exists": (_value, { uid, socket }) => socket || uid !== null,
  "-d": (value, { to }) => value.replace(/\/\d+$/, "") === to.address,
  "-p": (value) => value === "tcp",
  "--dport": (value, { to }) => Number(value) === to.port,
  "--sport": (value, { from }) => Number(value) === from,
  "--uid-owner": (value, { uid }) => {
    const [from = 0, until = from] = value.split("-").map(Number);
    return uid !== null && uid >= from && uid <= until;
  },
  "--ctstate": (value, { redirected }) => value === "DNAT" && redirected,
  "--dst-type": (value, { local }) => value === "LOCAL" && local,
  "--tcp-flags": (value, { syn }) => value === "SYN NONE" && !syn,
};

/** What a chain makes of a packet: the target of the first rule that matches, or null. */
function verdict(rules: readonly string[], packet: Packet): string | null {
  for (const text of rules) {
    const { base, matches, target } = parseRule(text);
    const options = [...base, ...matches.flatMap(({ options }) => options)];
    const holds = options.every((option) => {
      const [, negated, name = "", value = ""] = /^(! )?(\S+)(?: (.*))?$/.exec(option) ?? [];
      const match = MATCHES[name];
      if (match === undefined) throw new Error(`the test does not know ${option}`);
      return match(value, packet) !== (negated !== undefined);
    });
    if (holds) return target;
  }
  return null;
}

const address = fc.constantFrom(
  "127.0.0.1",
  "169.254.0.2",
  "169.254.169.254",
  "10.0.0.5",
  "203.0.113.9",
  "169.254.0.3",
);
const endpoint = fc.record({ address, port: fc.constantFrom(80, 254, 9081, 443) });
const uid = fc.oneof(fc.constantFrom(0, 500, 1000, 65_534, 4_294_967_294), fc.nat());
const spec: fc.Arbitrary<FirewallSpec> = fc.record({
  upstream: endpoint,
  listen: fc.record({
    address: fc.constantFrom("127.0.0.1", "10.0.0.5", "0.0.0.0"),
    port: fc.constantFrom(254, 80),
  }),
  exemptUids: fc.uniqueArray(uid).map((uids) => [...new Set([0, ...uids])].sort((a, b) => a - b)),
  containers: fc.constantFrom("leave", "reject", "proxy"),
});
const packet: fc.Arbitrary<Packet> = fc.record({
  to: endpoint,
  from: fc.oneof(fc.constantFrom(80, 254, 9081), fc.integer({ min: 1, max: 65_535 })),
  source: address,
  socket: fc.boolean(),
  uid: fc.option(uid),
  syn: fc.boolean(),
  redirected: fc.boolean(),
  local: fc.boolean(),
});

describe("the rules, walked as the kernel would", () => {
  const filter = (built: FirewallSpec) => chain(built, "ipv4", "filter");
  test("no packet of a user who is not exempt passes to a guarded endpoint, whatever conntrack says", () => {
    holds(
      fc.property(spec, packet, (built, sent) => {
        fc.pre(sent.uid !== null && !built.exemptUids.includes(sent.uid));
        for (const to of guardedEndpoints(built, "ipv4")) {
          expect(verdict(filter(built), { ...sent, to })).toBe("REJECT");
        }
      }),
      100,
    );
  });
  test("nobody's socket opens a connection to a guarded endpoint", () => {
    holds(
      fc.property(spec, packet, (built, sent) => {
        for (const to of guardedEndpoints(built, "ipv4")) {
          expect(verdict(filter(built), { ...sent, to, uid: null, syn: true })).toBe("REJECT");
        }
      }),
      100,
    );
  });
  test("no packet of the exempt is ever refused, nor the last ones of their connections", () => {
    holds(
      fc.property(spec, packet, (built, sent) => {
        const [exempt = 0] = built.exemptUids;
        expect(verdict(filter(built), { ...sent, uid: exempt })).toBe("RETURN");
        expect(verdict(filter(built), { ...sent, uid: null, syn: false })).toBe("RETURN");
      }),
      100,
    );
  });
  test("what is refused is guarded, or a direct connection to the listener", () => {
    holds(
      fc.property(spec, packet, (built, sent) => {
        if (verdict(filter(built), sent) !== "REJECT") return;
        const guarded = guardedEndpoints(built, "ipv4").some(
          ({ address, port }) => address === sent.to.address && port === sent.to.port,
        );
        expect(guarded || (sent.to.port === built.listen.port && !sent.redirected)).toBe(true);
      }),
      100,
    );
  });
  test("whoever is not exempt sends nothing from the listener's port, by a socket of theirs or of the kernel's", () => {
    holds(
      fc.property(spec, packet, (built, sent) => {
        const from = built.listen.port;
        fc.pre(sent.uid === null || !built.exemptUids.includes(sent.uid));
        const syn = sent.uid === null || sent.syn;
        expect(verdict(filter(built), { ...sent, from, syn, socket: true })).toMatch(/^(?:DROP|REJECT)$/);
      }),
      100,
    );
  });
  test("a SYN-ACK without a socket, as syncookies make it, passes wherever nobody's may not connect", () => {
    holds(
      fc.property(spec, packet, (built, sent) => {
        const found = verdict(filter(built), { ...sent, uid: null, syn: true, socket: false });
        expect(found).not.toBe("DROP");
      }),
      100,
    );
  });
  test("people send nothing from the place of an agent that is somebody else's", () => {
    holds(
      fc.property(spec, packet, fc.integer({ min: 1_000, max: 4_294_967_294 }), (built, sent, user) => {
        fc.pre(!built.exemptUids.includes(user));
        for (const { address, port } of guardedEndpoints(built, "ipv4")) {
          if (address === "169.254.169.254" && port === 80) continue;
          const packet = { ...sent, source: address, from: port, uid: user };
          expect(verdict(filter(built), packet)).toMatch(/^(?:DROP|REJECT)$/);
        }
      }),
      100,
    );
  });
  test("what is dropped comes from the listener's port, or from a guarded endpoint", () => {
    holds(
      fc.property(spec, packet, (built, sent) => {
        if (verdict(filter(built), sent) !== "DROP" || sent.from === built.listen.port) return;
        const guarded = guardedEndpoints(built, "ipv4").some(
          ({ address, port }) => address === sent.source && port === sent.from,
        );
        expect([guarded, (sent.uid ?? 0) >= 1_000]).toEqual([true, true]);
      }),
      100,
    );
  });
  test("a caller of the metadata address goes to the proxy unless exempt", () => {
    const metadata = { address: "169.254.169.254", port: 80 };
    holds(
      fc.property(spec, packet, (built, sent) => {
        const rules = chain(built, "ipv4", "nat");
        const asked = { ...sent, to: metadata };
        const exempt = sent.uid !== null && built.exemptUids.includes(sent.uid);
        const hit = rules.find((rule) => verdict([rule], asked) !== null) ?? "";
        expect(hit === rules.at(-1)).toBe(!exempt);
        expect(rules.at(-1)).toContain(`:${built.listen.port}`);
      }),
      100,
    );
  });
});

describe("OWN_CHAINS", () => {
  test("names every chain that any configuration builds, so that remove finds them", () => {
    holds(
      fc.property(spec, (built) => {
        for (const family of FAMILIES) {
          for (const table of ["filter", "nat"] as const) {
            for (const { name } of wantedTable(built, family, table).chains) {
              expect(OWN_CHAINS[table]).toContain(name);
              // XT_EXTENSION_MAXNAMELEN, linux/netfilter/x_tables.h: 29 with the NUL.
              expect(name.length).toBeLessThanOrEqual(28);
            }
          }
        }
      }),
      100,
    );
  });
});
