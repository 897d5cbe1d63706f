import { describe, expect, test } from "bun:test";
import { Rtnetlink } from "../../../src/firewall/wall/kernel.ts";
import { SockDiag } from "../../../src/firewall/wall/sock-diag.ts";
import type { NetlinkSocket } from "../../../src/platform/netlink-socket.ts";

/** A socket that the kernel never answers on. */
function silent() {
  const state = { isClosed: false };
  const socket = {
    portId: 1,
    send() {},
    receive: () => null,
    checkStrictly() {},
    close() {
      state.isClosed = true;
    },
  } as unknown as NetlinkSocket;
  return { socket, state };
}

describe("what cannot be opened as a whole leaves no socket open: the watch tries again and again", () => {
  test("the kernel's routing, where it lists no rules", () => {
    const { socket, state } = silent();
    expect(() => new Rtnetlink(socket)).toThrow("the kernel does not list its rules");
    expect(state.isClosed).toBe(true);
  });

  test("the kernel's TCP sockets, where connection tracking cannot be asked", () => {
    const { socket, state } = silent();
    const open = (_: number, what: string): NetlinkSocket => {
      if (what === "tracked connections") throw new Error("no file is left");
      return socket;
    };
    expect(() => new SockDiag(open)).toThrow("no file is left");
    expect(state.isClosed).toBe(true);
  });
});
