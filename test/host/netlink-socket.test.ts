import { expect, test } from "bun:test";
import { readdirSync, readlinkSync } from "node:fs";
import { NetlinkSocket } from "../../src/platform/netlink-socket.ts";
import { describeAsRoot } from "../support/root.ts";

const NETLINK_ROUTE = 0;
const NETLINK_NETFILTER = 12;
/** NFNLGRP_NFTABLES, as a bit: only a process with CAP_NET_ADMIN may listen to it. */
const NFTABLES_GROUP = 1 << 6;
const NOBODY = 65_534;

/** The sockets of this process. */
const sockets = (): number =>
  readdirSync("/proc/self/fd").filter((descriptor) => {
    try {
      return readlinkSync(`/proc/self/fd/${descriptor}`).startsWith("socket:");
    } catch {
      return false;
    }
  }).length;

/** Runs `work` without capabilities. */
function asNobody(work: () => void): void {
  process.seteuid?.(NOBODY);
  try {
    work();
  } finally {
    process.seteuid?.(0);
  }
}

describeAsRoot("NetlinkSocket", () => {
  test("leaves no descriptor open where it cannot be bound", () => {
    const before = sockets();
    asNobody(() => {
      for (let i = 0; i < 10; i++)
        expect(() => new NetlinkSocket(NETLINK_NETFILTER, "a test", NFTABLES_GROUP)).toThrow(
          "cannot bind a netlink socket for a test (errno 1)",
        );
    });
    // Some other socket of the runtime may come or go meanwhile; ten would be these.
    expect(sockets()).toBeLessThan(before + 5);
  });

  test("has a port of its own until it is closed", () => {
    const [one, other] = [
      new NetlinkSocket(NETLINK_ROUTE, "a test"),
      new NetlinkSocket(NETLINK_ROUTE, "a test"),
    ];
    expect(one.portId).not.toBe(other.portId);
    expect(one.receive()).toBeNull();
    one.close();
    other.close();
  });
});
