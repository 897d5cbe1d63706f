import { describe, expect, test } from "bun:test";
import { type ReadMessage, readMessages } from "../../../src/firewall/nftables/batch.ts";
import {
  decodeAddress,
  decodeLink,
  decodeRoute,
  decodeRule,
  encodeChange,
  encodeDump,
} from "../../../src/firewall/wall/rtnetlink.ts";
import type { Route, RoutingRule } from "../../../src/firewall/wall/types.ts";

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
/** Annotated bytes: all but hexadecimal digits at the beginning of a line is a comment. */
const bytes = (text: string) =>
  Uint8Array.from(
    Buffer.from(
      text
        .split("\n")
        .map((line) => /^\s*([0-9a-f ]*)/.exec(line)?.[1]?.replaceAll(" ", "") ?? "")
        .join(""),
      "hex",
    ),
  );
const first = (data: Uint8Array): ReadMessage => {
  const message = readMessages(new DataView(data.buffer, data.byteOffset, data.byteLength))?.[0];
  if (message === undefined) throw new Error("no message");
  return message;
};

const RULE: RoutingRule = {
  family: "ipv4",
  preference: 0,
  from: "127.169.254.1",
  to: "169.254.169.254",
  tcpPort: 80,
  uids: [1, 499],
  action: { kind: "lookup", table: 1692541 },
  protocol: 2,
};

describe("encodeChange()", () => {
  test("asks for a rule as linux/fib_rules.h has it", () => {
    expect(hex(encodeChange({ kind: "add-rule", rule: RULE }, 7))).toBe(
      hex(
        bytes(`
          60000000            . nlmsg_len 96
          2000 0504           . RTM_NEWRULE; NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, without NLM_F_EXCL
          07000000 00000000   . nlmsg_seq, nlmsg_pid
          02 20 20 00         . AF_INET, dst_len 32, src_len 32, tos
          00 00 00 01         . table by its attribute, action FR_ACT_TO_TBL
          00000000            . flags
          0800 0100 a9fea9fe  . FRA_DST 169.254.169.254
          0800 0200 7fa9fe01  . FRA_SRC 127.169.254.1
          0800 0600 00000000  . FRA_PRIORITY 0
          0800 0f00 7dd31900  . FRA_TABLE 1692541
          0c00 1400 01000000 f3010000   . FRA_UID_RANGE 1 499
          0500 1500 02000000  . FRA_PROTOCOL RTPROT_KERNEL
          0500 1600 06000000  . FRA_IP_PROTO IPPROTO_TCP
          0800 1800 5000 5000 . FRA_DPORT_RANGE 80 80
        `),
      ),
    );
  });
  test("asks for a route as linux/rtnetlink.h has it", () => {
    const route: Route = {
      family: "ipv4",
      table: 1692543,
      kind: "multicast",
      to: "default",
      interface: 3,
      metric: 3,
    };
    expect(hex(encodeChange({ kind: "add-route", route }, 8))).toBe(
      hex(
        bytes(`
          34000000            . nlmsg_len 52
          1800 0506           . RTM_NEWROUTE; NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
          08000000 00000000
          02 00 00 00         . AF_INET, dst_len 0, src_len, tos
          00 02 fe 05         . table by its attribute, RTPROT_KERNEL, RT_SCOPE_HOST, RTN_MULTICAST
          00000000
          0800 0f00 7fd31900  . RTA_TABLE 1692543
          0800 0600 03000000  . RTA_PRIORITY
          0800 0400 03000000  . RTA_OIF
        `),
      ),
    );
  });
  test("asks for lists by family and table", () => {
    expect(hex(encodeDump("rules", "ipv6", 9))).toBe(
      `1c00000022000103${"09000000"}00000000${"0a".padEnd(24, "0")}`,
    );
    expect(hex(encodeDump("routes", "ipv4", 9, 255))).toBe(
      `240000001a000103${"09000000"}00000000${"02".padEnd(24, "0")}08000f00ff000000`,
    );
  });
});

describe("the decoders", () => {
  test("read back what was written", () => {
    const rules: RoutingRule[] = [
      RULE,
      {
        family: "ipv4",
        preference: 0,
        from: "0.0.0.0",
        to: "169.254.169.254",
        tcpPort: 80,
        uids: [1, 4294967294],
        action: { kind: "prohibit" },
        protocol: 2,
      },
      {
        family: "ipv4",
        preference: 0,
        from: "127.169.254.1",
        tcp: true,
        action: { kind: "prohibit" },
        protocol: 2,
      },
      {
        family: "ipv6",
        preference: 0,
        to: "fd00:ec2::254",
        tcpPort: 80,
        uids: [1, 4],
        action: { kind: "lookup", table: 1692541 },
        protocol: 2,
      },
      {
        family: "ipv6",
        preference: 0,
        to: "fe80::/10",
        tcpPort: 9081,
        uids: [1, 4],
        action: { kind: "prohibit" },
        protocol: 2,
      },
      { family: "ipv6", preference: 0, iif: "lo", action: { kind: "goto", preference: 1 }, protocol: 2 },
      {
        family: "ipv4",
        preference: 0,
        oif: "lo",
        tcpPort: 9081,
        uids: [1, 4],
        action: { kind: "lookup", table: 1692543 },
        protocol: 2,
      },
      { family: "ipv4", preference: 0, tcpPort: 9081, action: { kind: "unreachable" }, protocol: 2 },
      { family: "ipv6", preference: 2, action: { kind: "nop" }, protocol: 2 },
    ];
    for (const rule of rules) {
      expect(decodeRule(first(encodeChange({ kind: "add-rule", rule }, 1))) as RoutingRule).toEqual(rule);
    }
    const routes: Route[] = [
      {
        family: "ipv4",
        table: 1692541,
        kind: "unicast",
        to: "169.254.169.254/32",
        interface: 1,
        metric: 0,
        source: "127.169.254.1",
      },
      { family: "ipv6", table: 1692545, kind: "prohibit", to: "fe80::1/128", interface: 1, metric: 1024 },
    ];
    for (const route of routes) {
      expect(decodeRoute(first(encodeChange({ kind: "add-route", route }, 1)))).toEqual(route);
    }
  });
  test("read a rule as linux 6.18 lists it", () => {
    const listed = bytes(`
      60000000 2000 0200 01000000 01000000
      02 20 00 00 fc 00 00 01 00000000   . table RT_TABLE_COMPAT: the attribute has it
      0800 0f00 7dd31900                 . FRA_TABLE
      0800 0e00 ffffffff                 . FRA_SUPPRESS_PREFIXLEN -1: none
      0500 1500 02000000                 . FRA_PROTOCOL
      0c00 1400 01000000 f3010000        . FRA_UID_RANGE
      0500 1600 06000000                 . FRA_IP_PROTO
      0800 1800 5000 5000                . FRA_DPORT_RANGE
      0600 1d00 ffff0000                 . FRA_DPORT_MASK, linux 6.15
      0800 0100 a9fea9fe                 . FRA_DST
    `);
    const { from: _, ...rest } = RULE;
    expect(decodeRule(first(listed)) as RoutingRule).toEqual(rest);
  });
  test("read a rule by the sender's port, as linux 6.18 lists it and as it was asked for", () => {
    const { tcpPort: _, ...base } = RULE;
    const rule: RoutingRule = { ...base, tcpSourcePort: 9081 };
    const asked = encodeChange({ kind: "add-rule", rule }, 1);
    expect(hex(asked)).toContain(hex(bytes("0800 1700 7923 7923 . FRA_SPORT_RANGE 9081 9081")));
    expect(decodeRule(first(asked)) as RoutingRule).toEqual(rule);
    const more = (attribute: string) => {
      const data = Uint8Array.from([...asked, ...Buffer.from(attribute, "hex")]);
      new DataView(data.buffer).setUint32(0, data.length, true);
      return decodeRule(first(data));
    };
    expect(more("06001c00ffff0000")).toEqual(rule); // FRA_SPORT_MASK, linux 6.15
    expect(more("06001c000f000000")?.foreign).toBe(true);
  });
  test("tell a rule that asks for more: a mark, half a port, the opposite", () => {
    const base = encodeChange({ kind: "add-rule", rule: RULE }, 1);
    const more = (attribute: string) => {
      const data = Uint8Array.from([...base, ...Buffer.from(attribute, "hex")]);
      new DataView(data.buffer).setUint32(0, data.length, true);
      return decodeRule(first(data))?.foreign;
    };
    expect(more("08000a0001000000")).toBe(true); // FRA_FWMARK
    expect(more("06001d000f000000")).toBe(true); // FRA_DPORT_MASK 0x000f
    const inverted = Uint8Array.from(base);
    inverted[24] = 2; // FIB_RULE_INVERT
    expect(decodeRule(first(inverted))?.foreign).toBe(true);
    expect(decodeRule(first(base))?.foreign).toBeUndefined();
  });
  test("read interfaces and addresses, and the own end of a point-to-point one", () => {
    const link = bytes(`
      2c000000 1000 0200 01000000 01000000
      00 00 0100 03000000 43100100 00000000  . AF_UNSPEC, ARPHRD_ETHER, index 3, flags, change
      0900 0300 6574683000 000000            . IFLA_IFNAME eth0
    `);
    expect(decodeLink(first(link))).toEqual({ index: 3, name: "eth0" });
    const address = bytes(`
      28000000 1400 0200 01000000 01000000
      02 20 80 00 03000000                   . AF_INET, prefix, flags, scope, index 3
      0800 0100 0a000001                     . IFA_ADDRESS: the other end
      0800 0200 0a000005                     . IFA_LOCAL
    `);
    expect(decodeAddress(first(address))).toEqual({ family: "ipv4", address: "10.0.0.5", interface: 3 });
  });
  test("are null for what is damaged or something else", () => {
    const cut = encodeChange({ kind: "add-rule", rule: RULE }, 1).slice(0, 20);
    new DataView(cut.buffer).setUint32(0, 20, true);
    expect([
      decodeRule(first(cut)),
      decodeRoute(first(cut)),
      decodeLink(first(cut)),
      decodeAddress(first(cut)),
    ]).toEqual([null, null, null, null]);
  });
});
