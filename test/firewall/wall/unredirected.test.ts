import { describe, expect, test } from "bun:test";
import { bytes, nest, u32 } from "../../../src/firewall/nftables/attributes.ts";
import { encodeMessage, type ReadMessage, readMessages } from "../../../src/firewall/nftables/batch.ts";
import { USERS_SOURCE } from "../../../src/firewall/wall/tables.ts";
import {
  decodeUnredirected,
  encodeForget,
  encodeUsersTracked,
  unredirectedTargets,
} from "../../../src/firewall/wall/unredirected.ts";
import { parseAddress } from "../../../src/identity/address.ts";
import { TYPE_NEW } from "../../../src/identity/netlink/conntrack.ts";

const SPEC = { listen: { address: "127.0.0.1", port: 254 } };
const IMDS = "169.254.169.254";
const AGENT = "169.254.0.2";

const address = (text: string) => parseAddress(text) as Uint8Array;
const port = (number: number) => new Uint8Array([number >> 8, number & 0xff]);
/** CTA_TUPLE_ORIG or CTA_TUPLE_REPLY of a TCP connection over IPv4. */
const tuple = (type: number, source: string, destination: string, ports: readonly [number, number]) =>
  nest(
    type,
    nest(1, bytes(1, address(source)), bytes(2, address(destination))),
    nest(2, bytes(1, new Uint8Array([6])), bytes(2, port(ports[0])), bytes(3, port(ports[1]))),
  );

/** An entry as the kernel lists it. @param answers who answers, and from which port. */
function entry(source: string, answers: string, from = 9081, zone?: number): ReadMessage {
  const message = encodeMessage(TYPE_NEW, 0, 7, { family: 2, resource: 0 }, [
    tuple(1, source, IMDS, [40_000, 80]),
    tuple(2, answers, source, [from, 40_000]),
    u32(3, 0x188),
    u32(12, 0xabcdef),
    ...(zone === undefined ? [] : [bytes(18, port(zone))]),
  ]);
  return readMessages(new DataView(message.buffer))?.[0] as ReadMessage;
}

describe("tracked connections that users began while the redirect was missing", () => {
  test("are those from the users' source address that lead elsewhere than to the proxy", () => {
    expect(decodeUnredirected(entry(USERS_SOURCE, AGENT), SPEC)).not.toBeNull();
    expect(decodeUnredirected(entry(USERS_SOURCE, IMDS, 80), SPEC)).not.toBeNull();
    expect(decodeUnredirected(entry(USERS_SOURCE, "127.0.0.1", 254), SPEC)).toBeNull();
    // An agent at the proxy's own address.
    expect(decodeUnredirected(entry(USERS_SOURCE, "127.0.0.1"), SPEC)).not.toBeNull();
    // Root's.
    expect(decodeUnredirected(entry("10.0.0.5", AGENT), SPEC)).toBeNull();
  });

  test("are compared with the loopback address where the proxy listens everywhere", () => {
    const everywhere = { listen: { address: "0.0.0.0", port: 254 } };
    expect(decodeUnredirected(entry(USERS_SOURCE, "127.0.0.1", 254), everywhere)).toBeNull();
    expect(decodeUnredirected(entry(USERS_SOURCE, AGENT), everywhere)).not.toBeNull();
  });

  test("are deleted by their tuple, their id and their zone, so that no later one is", () => {
    for (const zone of [undefined, 3]) {
      const found = decodeUnredirected(entry(USERS_SOURCE, AGENT, 9081, zone), SPEC);
      const request = encodeForget(found as NonNullable<typeof found>, 9);
      const wanted = encodeMessage((1 << 8) | 2, 0x4, 9, { family: 2, resource: 0 }, [
        tuple(1, USERS_SOURCE, IMDS, [40_000, 80]),
        u32(12, 0xabcdef),
        ...(zone === undefined ? [] : [bytes(18, port(zone))]),
      ]);
      expect(request).toEqual(wanted);
    }
  });

  test("are listed by a filter of the kernel's, by where they come from and where they lead", () => {
    const [agent, imds] = [
      { address: AGENT, port: 9081 },
      { address: IMDS, port: 80 },
    ];
    expect(unredirectedTargets({ upstream: agent })).toEqual([agent, imds]);
    expect(unredirectedTargets({ upstream: imds })).toEqual([imds]);
    expect(unredirectedTargets({ upstream: { address: "fd00:ec2::254", port: 80 } })).toEqual([imds]);
    const text = Buffer.from(encodeUsersTracked(agent, 1)).toString("hex");
    for (const one of [USERS_SOURCE, AGENT])
      expect(text).toContain(Buffer.from(address(one)).toString("hex"));
    // CTA_PROTO_NUM: TCP, CTA_PROTO_SRC_PORT: 9081; a user can have any number of entries of UDP.
    expect(text).toContain("05000100060000000600020023790000");
    // CTA_FILTER { CTA_FILTER_ORIG_FLAGS: IP_SRC, CTA_FILTER_REPLY_FLAGS: IP_SRC, PROTO_NUM, PROTO_SRC_PORT }
    expect(text).toEndWith("1400198008000100010000000800020019000000");
  });

  test("a message that is no entry is none", () => {
    const done = encodeMessage(3, 0, 7, { family: 0, resource: 0 }, []);
    expect(decodeUnredirected(readMessages(new DataView(done.buffer))?.[0] as ReadMessage, SPEC)).toBeNull();
  });
});
