import type { Caller } from "../../src/observe/callers.ts";
import type { NamedCaller } from "../../src/observe/outcome.ts";

/** An IPv4 TCP segment, or an IPv6 one where the addresses are texts with colons. */
export function packet(options: {
  from?: readonly number[];
  to?: readonly number[];
  fromPort?: number;
  toPort?: number;
  sequence?: number;
  flags?: number;
  data?: string | Uint8Array;
  /** Bytes that were captured; default all. */
  snaplen?: number;
}): DataView {
  const from = options.from ?? [10, 0, 0, 5];
  const to = options.to ?? [169, 254, 169, 254];
  const data = Buffer.from(options.data ?? "");
  const isV6 = from.length === 16;
  const ipLength = isV6 ? 40 : 20;
  const bytes = new Uint8Array(ipLength + 20 + data.length);
  const view = new DataView(bytes.buffer);
  if (isV6) {
    view.setUint8(0, 0x60);
    view.setUint16(4, 20 + data.length);
    view.setUint8(6, 6);
    bytes.set(from, 8);
    bytes.set(to, 24);
  } else {
    view.setUint8(0, 0x45);
    view.setUint16(2, bytes.length);
    view.setUint8(9, 6);
    bytes.set(from, 12);
    bytes.set(to, 16);
  }
  view.setUint16(ipLength, options.fromPort ?? 40_000);
  view.setUint16(ipLength + 2, options.toPort ?? 80);
  view.setUint32(ipLength + 4, options.sequence ?? 1_000);
  view.setUint8(ipLength + 12, 0x50);
  view.setUint8(ipLength + 13, options.flags ?? 0x18);
  bytes.set(data, ipLength + 20);
  return new DataView(bytes.buffer, 0, Math.min(bytes.length, options.snaplen ?? bytes.length));
}

export const SYN = 0x02;

/** A caller that asked for credentials once, with what is given changed. */
export function caller(more: Partial<Caller> = {}): Caller {
  return {
    uid: 2001,
    container: null,
    place: { kind: "login" },
    program: "/opt/bin/python3.11",
    arguments: null,
    parents: [],
    cgroup: "/user.slice/user-2001.slice/session-1.scope",
    jobs: [],
    connections: 1,
    requests: 1,
    firstMs: 1_000,
    lastMs: 2_000,
    v1: 0,
    v2: 1,
    categories: [["meta-data/iam/security-credentials", 1]],
    userAgents: [],
    ...more,
  };
}

export const named = (user: string | null, more: Partial<Caller> = {}): NamedCaller => ({
  ...caller(more),
  account: user === null ? null : { user, groups: [user], subordinate: false },
});
