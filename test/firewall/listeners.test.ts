import { expect, test } from "bun:test";
import { listenerLines, parseListeners } from "../../src/firewall/listeners.ts";

const HEAD =
  "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

test("parseListeners() reads who listens where, and leaves connections aside", () => {
  const tcp = `${HEAD}   0: 0200FEA9:2379 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 00000000:2379 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 4712 1 0 100 0 0 10 0
   2: 0100007F:2379 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
`;
  expect(parseListeners(tcp)).toEqual([
    { address: "169.254.0.2", port: 9081, uid: 0 },
    { address: "0.0.0.0", port: 9081, uid: 1001 },
  ]);
  const tcp6 = `${HEAD}   0: 00000000000000000000000001000000:2379 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 00000000000000000000000000000000:2379 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
`;
  expect(parseListeners(tcp6).map(({ address }) => address)).toEqual(["::1", "::"]);
  expect(parseListeners("")).toEqual([]);
});

test("listenerLines() says which of them is every address of the node", () => {
  expect(
    listenerLines([
      { address: "169.254.0.2", port: 9081, uid: 0 },
      { address: "::", port: 9081, uid: 0 },
    ]),
  ).toEqual([
    "uid 0 listens at 169.254.0.2:9081",
    "uid 0 listens at [::]:9081, which is every address of this node: closed to users on each of them",
  ]);
});
