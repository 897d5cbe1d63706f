import { describe, expect, test } from "bun:test";
import { FirewallWatch, RESOLVE_INTERVAL_MS, type WatchedRules } from "../../src/service/repair.ts";
import type { FirewallHealth } from "../../src/telemetry/firewall-health.ts";
import { FakeClock } from "../support/fake-clock.ts";

interface Spec {
  readonly upstream: string;
}

/** A node whose rules are a text that is right or wrong. */
class FakeRules implements WatchedRules<Spec> {
  spec: Spec | null = { upstream: "agent" };
  inPlace: string | null = null;
  stamp = "1";
  resolved = 0;
  applied = 0;
  broken = false;

  /** A directory that hangs: nothing is resolved until it answers. */
  hangs: Promise<void> | null = null;
  failsAtOnce = false;

  async resolve(): Promise<Spec> {
    this.resolved++;
    await this.hangs;
    if (this.spec === null) throw new Error("role: must be an ARN");
    return { ...this.spec };
  }
  configurationStamp(): string {
    return this.stamp;
  }
  /** What can be put back at once; null: nothing can. */
  known: string | null = null;
  restored = 0;
  restore(): readonly string[] {
    if (this.failsAtOnce) throw new Error("the kernel refused a change");
    if (this.known === null || this.inPlace === this.known) return [];
    const found = `lost ${this.inPlace}`;
    this.inPlace = this.known;
    this.restored++;
    return [found];
  }
  /** Somebody else's change, at the one moment before the next comparison. */
  beforeCompared: (() => void) | null = null;
  async deviations({ upstream }: Spec): Promise<readonly string[]> {
    this.beforeCompared?.();
    this.beforeCompared = null;
    return this.inPlace === upstream ? [] : [`found ${this.inPlace}, not ${upstream}`];
  }
  async apply({ upstream }: Spec): Promise<void> {
    if (this.broken) throw new Error("iptables-restore failed");
    this.applied++;
    this.inPlace = upstream;
  }
}

function watch(more: { remembered?: Spec; before?: FirewallHealth; by?: string } = {}) {
  const rules = new FakeRules();
  const clock = new FakeClock(Date.UTC(2030, 0, 1));
  const reports: FirewallHealth[] = [];
  const logs: string[] = [];
  const memory: Spec[] = [];
  const made = new FirewallWatch<Spec>({
    rules,
    clock,
    remembered: more.remembered ?? null,
    remember: (spec) => memory.push(spec),
    before: more.before ?? null,
    report: (health) => reports.push(health),
    log: (level, message) => logs.push(`${level}: ${message}`),
    changedBy: () => more.by ?? "",
  });
  return { made, rules, clock, reports, logs, memory, health: () => reports.at(-1) };
}

describe("FirewallWatch", () => {
  test("brings the rules at the first look, and counts no repair for it", async () => {
    const { made, rules, logs, memory, health } = watch();
    expect(await made.round()).toBe(true);
    expect(rules.inPlace).toBe("agent");
    expect(health()).toEqual({
      repairs: 0,
      lastRepair: null,
      lastCheck: "2030-01-01T00:00:00.000Z",
      healthy: true,
      repairsByKind: {},
    });
    expect(logs).toEqual(["notice: firewall rules applied: found null, not agent"]);
    expect(memory).toEqual([{ upstream: "agent" }]);
  });

  test("leaves alone what is right, and does not ask the node again for 30 s", async () => {
    const { made, rules, clock } = watch();
    await made.round();
    for (let i = 0; i < 5; i++) {
      await clock.advance(2_000);
      await made.round();
    }
    expect([rules.applied, rules.resolved]).toEqual([1, 1]);
    await clock.advance(RESOLVE_INTERVAL_MS);
    await made.round();
    expect(rules.resolved).toBe(2);
  });

  test("repairs, counts, and says what it found", async () => {
    const { made, rules, clock, logs, health } = watch({
      before: { repairs: 4, lastRepair: null, lastCheck: null, healthy: true },
    });
    await made.round();
    rules.inPlace = "somebody else's";
    await clock.advance(2_000);
    await made.round();
    expect(rules.inPlace).toBe("agent");
    expect(health()).toMatchObject({ repairs: 5, lastRepair: "2030-01-01T00:00:02.000Z", healthy: true });
    expect(logs.at(-1)).toBe("notice: firewall rules repaired: found somebody else's, not agent");
  });

  test("asks the node anew when somebody has changed the rules: the upstream may have moved with them", async () => {
    const { made, rules, health } = watch();
    await made.round();
    rules.spec = { upstream: "elsewhere" };
    rules.inPlace = "moved";
    await made.round();
    expect([rules.inPlace, health()?.repairs]).toEqual(["elsewhere", 1]);
  });

  test("a change of the configuration is no repair", async () => {
    const { made, rules, logs, health } = watch();
    await made.round();
    rules.spec = { upstream: "configured" };
    rules.stamp = "2";
    await made.round();
    expect([rules.inPlace, health()?.repairs]).toEqual(["configured", 0]);
    expect(logs.at(-1)).toStartWith("notice: firewall rules applied");
  });

  test("a configuration that goes bad keeps the rules as they were, and says so once", async () => {
    const { made, rules, logs } = watch();
    await made.round();
    rules.spec = null;
    rules.stamp = "2";
    rules.inPlace = "flushed";
    for (let i = 0; i < 3; i++) expect(await made.round()).toBe(true);
    expect(rules.inPlace).toBe("agent");
    expect(logs.filter((line) => line.includes("kept"))).toEqual([
      "error: kept the firewall rules as they were: role: must be an ARN",
    ]);
  });

  test("a configuration that is bad at boot brings what is remembered; without memory, nothing", async () => {
    const withMemory = watch({ remembered: { upstream: "remembered" } });
    withMemory.rules.spec = null;
    expect(await withMemory.made.round()).toBe(true);
    expect(withMemory.rules.inPlace).toBe("remembered");
    const without = watch();
    without.rules.spec = null;
    expect(await without.made.round()).toBe(false);
    expect(without.health()?.healthy).toBe(false);
  });

  test("rules that cannot be put right are unhealthy, complained of once, and tried again", async () => {
    const { made, rules, logs, health } = watch();
    rules.broken = true;
    for (let i = 0; i < 3; i++) expect(await made.round()).toBe(false);
    expect(health()?.healthy).toBe(false);
    expect(logs).toEqual(["error: the firewall rules cannot be put right: iptables-restore failed"]);
    rules.broken = false;
    expect(await made.round()).toBe(true);
    expect(health()?.healthy).toBe(true);
  });

  test("a clock that is set back a day does not keep an old answer for that day", async () => {
    const { made, rules, clock } = watch();
    await made.round();
    clock.jump(-86_400_000);
    await made.round();
    expect(rules.resolved).toBe(2);
  });

  describe("where the known rules can be put back at once", () => {
    const settled = async (more: Parameters<typeof watch>[0] = {}) => {
      const one = watch(more);
      await one.made.round();
      one.rules.known = "agent";
      return one;
    };

    test("they are, before anybody is asked and without iptables, and the log says what was gone and who did it", async () => {
      const { made, rules, logs, health } = await settled({ by: "changed by nft (pid 7)" });
      rules.inPlace = "flushed";
      made.glance();
      expect([rules.inPlace, rules.applied, rules.resolved]).toEqual(["agent", 1, 1]);
      expect(health()).toMatchObject({ repairs: 1, healthy: true, repairsByKind: { iptables: 1 } });
      expect(logs.at(-1)).toBe("notice: firewall rules repaired: lost flushed (changed by nft (pid 7))");
    });

    test("they are while the directory hangs, as often as they go; and it is asked once", async () => {
      const { made, rules, clock } = await settled();
      let answer = () => {};
      rules.hangs = new Promise((resolve) => {
        answer = resolve;
      });
      await clock.advance(RESOLVE_INTERVAL_MS);
      const refreshed = made.refresh();
      for (let i = 0; i < 3; i++) {
        rules.inPlace = "flushed";
        made.glance();
        expect(rules.inPlace).toBe("agent");
        void made.refresh();
      }
      expect([made.busy, rules.resolved]).toEqual([true, 2]);
      rules.spec = { upstream: "elsewhere" };
      rules.known = null;
      answer();
      await refreshed;
      expect([rules.inPlace, made.busy]).toEqual(["elsewhere", false]);
    });

    test("they are without iptables too where they go between the glance and the comparison of a check", async () => {
      const { made, rules, logs } = await settled();
      rules.beforeCompared = () => {
        rules.inPlace = "flushed";
      };
      expect(await made.check()).toBe(true);
      expect([rules.inPlace, rules.applied, rules.restored]).toEqual(["agent", 1, 1]);
      expect(logs.at(-1)).toBe("notice: firewall rules repaired: lost flushed");
    });

    test("but the kernel refuses: said once, and iptables puts them right", async () => {
      const { made, rules, logs } = await settled();
      rules.failsAtOnce = true;
      rules.inPlace = "flushed";
      made.glance();
      made.glance();
      expect(logs.filter((line) => line.includes("at once"))).toEqual([
        "error: the firewall rules cannot be put back at once: the kernel refused a change",
      ]);
      expect(await made.check()).toBe(true);
      expect(rules.inPlace).toBe("agent");
    });
  });

  test("rules that iptables has to put back are, while the directory hangs", async () => {
    const { made, rules, clock } = watch();
    await made.round();
    rules.hangs = new Promise(() => {});
    await clock.advance(RESOLVE_INTERVAL_MS);
    void made.refresh();
    // The directory is waited for, and no check is under way: what is heard meanwhile is looked at.
    expect([made.busy, made.checking]).toEqual([true, false]);
    rules.inPlace = "flushed";
    const check = made.check();
    expect(made.checking).toBe(true);
    expect(await check).toBe(true);
    expect([rules.inPlace, rules.applied, made.checking]).toEqual(["agent", 2, false]);
  });

  test("a repair that is under way is finished and logged where the end of the watch waits for it", async () => {
    const { made, rules, logs } = watch();
    await made.round();
    rules.inPlace = "flushed";
    void made.check();
    await made.checked();
    expect([rules.inPlace, logs.at(-1)]).toEqual([
      "agent",
      "notice: firewall rules repaired: found flushed, not agent",
    ]);
  });
});
