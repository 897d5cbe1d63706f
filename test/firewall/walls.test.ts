import { describe, expect, test } from "bun:test";
import type { RoutingRule } from "../../src/firewall/wall/types.ts";
import { SecondWall } from "../../src/firewall/wall/wall.ts";
import { applyWalls } from "../../src/firewall/walls.ts";
import { FakeIptables, HYPERPOD } from "./support.ts";
import { FakeRouting } from "./wall/fake-kernel.ts";

/** A node whose iptables rules and one rule of the second wall are gone, where a program undoes each correction of the wall. */
async function undone() {
  const [iptables, kernel] = [new FakeIptables(), new FakeRouting()];
  const walls = { iptables, wall: new SecondWall(kernel) };
  await applyWalls(walls, HYPERPOD);
  const rules = iptables.text("ipv4");
  const broken: readonly RoutingRule[] = kernel.rules.slice(0, 1).concat(kernel.rules.slice(2));
  const undo = () => {
    kernel.rules = [...broken];
  };
  for (const family of ["ipv4", "ipv6"] as const) iptables.states.set(family, new Map());
  undo();
  kernel.after = undo;
  return { walls, iptables, kernel, rules };
}

describe("apply, where another program undoes each correction of the second wall", () => {
  test("brings the iptables rules all the same, and then says what it could not do", async () => {
    const { walls, iptables, rules } = await undone();
    await expect(applyWalls(walls, HYPERPOD)).rejects.toThrow(
      /changed by somebody else in each of 6 attempts/,
    );
    expect(iptables.text("ipv4")).toBe(rules);
  });

  test("succeeds where that program ends once the rules are there", async () => {
    const { walls, iptables, kernel, rules } = await undone();
    iptables.beforeWrite = () => {
      kernel.after = () => {};
    };
    const { routing } = await applyWalls(walls, HYPERPOD);
    expect(routing.length).toBeGreaterThan(0);
    expect(iptables.text("ipv4")).toBe(rules);
    expect(walls.wall.problems(HYPERPOD)).toEqual([]);
  });
});
