import { expect, test } from "bun:test";
import { limitsSpec } from "../../../src/firewall/limits/figures.ts";
import { limitsLines } from "../../../src/firewall/limits/operations.ts";
import { HYPERPOD } from "../support.ts";

test("limitsLines() names what is wrong and what the kernel cannot do, and is silent where all is right", () => {
  const limits = limitsSpec(
    { newConnectionsPerUser: null, trackedConnectionsPerUser: "auto" },
    { exemptUids: [0], conntrackMax: null, subordinates: [] },
  );
  const spec = { ...HYPERPOD, limits };
  expect(limitsLines(spec, () => ({ problems: ["the table is missing"], notes: ["no connlimit"] }))).toEqual([
    "limits of connections: the table is missing",
    "limits of connections: no connlimit",
  ]);
  expect(limitsLines(spec, () => ({ problems: [], notes: [] }))).toEqual([]);
});
