import { describe, expect, test } from "bun:test";
import { apply, remove, removeOriginalEntry, restoreOriginalEntry } from "../../src/firewall/operations.ts";
import { rulesOf } from "../../src/firewall/state.ts";
import { firewallStatus } from "../../src/firewall/status.ts";
import { EC2, FakeIptables, HYPERPOD } from "./support.ts";

const ENTRY = "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081";
const outputOf = (iptables: FakeIptables) =>
  rulesOf(iptables.states.get("ipv4") ?? new Map(), "nat", "OUTPUT");

describe("apply()", () => {
  test("writes one restore a family, the block before the redirect", async () => {
    const iptables = new FakeIptables();
    expect((await apply(iptables, HYPERPOD)).changed).toBe(true);
    expect(iptables.written).toHaveLength(1);
    const [restores = []] = iptables.written;
    expect(restores.map(({ family }) => family)).toEqual(["ipv4", "ipv6"]);
    for (const { text } of restores) expect(text.match(/^\*\w+/gm)).toEqual(["*filter", "*nat"]);
    expect((await firewallStatus(iptables, HYPERPOD)).healthy).toBe(true);
  });
  test("writes nothing the second time", async () => {
    const iptables = new FakeIptables();
    await apply(iptables, HYPERPOD);
    const before = iptables.text("ipv4") + iptables.text("ipv6");
    expect(await apply(iptables, HYPERPOD)).toEqual({ changed: false, restores: [], notes: [] });
    expect(iptables.written).toHaveLength(1);
    expect(iptables.text("ipv4") + iptables.text("ipv6")).toBe(before);
  });
  test("writes nothing and takes no lock in a dry run, and shows what it would write", async () => {
    const iptables = new FakeIptables();
    const dry = await apply(iptables, HYPERPOD, "both", true);
    expect([iptables.written.length, iptables.locked]).toEqual([0, 0]);
    expect((await apply(iptables, HYPERPOD)).restores).toEqual(dry.restores);
  });
  test("tries again where somebody changes rules in between", async () => {
    const iptables = new FakeIptables();
    await apply(iptables, HYPERPOD);
    iptables.add("ipv4", `*nat\n-I OUTPUT 1 ${ENTRY}\nCOMMIT\n`);
    let times = 0;
    iptables.beforeWrite = () => {
      // Takes our jump away under our hands, so that the first -D fails; the entry comes back above ours at the second.
      times++;
      if (times === 1) iptables.add("ipv4", "*nat\n-D OUTPUT -j IMDSPROXY\nCOMMIT\n");
    };
    expect((await apply(iptables, HYPERPOD)).changed).toBe(true);
    expect(times).toBe(2);
    expect(outputOf(iptables)).toEqual(["-j IMDSPROXY", ENTRY]);
  });
  test("gives up where somebody undoes it every time", async () => {
    const iptables = new FakeIptables();
    await apply(iptables, HYPERPOD);
    const write = iptables.write.bind(iptables);
    iptables.add("ipv4", "*nat\n-I OUTPUT 1 -j ACCEPT\nCOMMIT\n");
    iptables.write = async (restores) => {
      const failure = await write(restores);
      iptables.add("ipv4", "*nat\n-I OUTPUT 1 -j ACCEPT\nCOMMIT\n");
      return failure;
    };
    await expect(apply(iptables, HYPERPOD)).rejects.toMatchObject({ code: "command-failed" });
    expect(iptables.written.length).toBeLessThan(10);
  });
  test("leaves nothing of a first installation that the kernel refuses half-way", async () => {
    const iptables = new FakeIptables();
    iptables.refuses = { family: "ipv4", table: "nat" };
    await expect(apply(iptables, HYPERPOD)).rejects.toMatchObject({ code: "command-failed" });
    expect(iptables.text("ipv4") + iptables.text("ipv6")).not.toContain("IMDSPROXY");
  });
  test("keeps the block where a repair is refused half-way", async () => {
    const iptables = new FakeIptables();
    await apply(iptables, HYPERPOD);
    iptables.add("ipv4", "*filter\n-F IMDSPROXY\nCOMMIT\n*nat\n-F IMDSPROXY\nCOMMIT\n");
    iptables.refuses = { family: "ipv4", table: "nat" };
    await expect(apply(iptables, HYPERPOD)).rejects.toMatchObject({ code: "command-failed" });
    expect(iptables.text("ipv4")).toContain("-d 169.254.0.2/32 -p tcp -m tcp --dport 9081 -j REJECT");
  });
  test("keeps IPv4 where IPv6 alone is refused, and says so", async () => {
    const iptables = new FakeIptables();
    iptables.refuses = { family: "ipv6", table: "nat" };
    await expect(apply(iptables, HYPERPOD)).rejects.toMatchObject({
      problem: expect.stringMatching(/^IPv4 is done, IPv6 is not: /),
    });
    expect(iptables.text("ipv4")).toContain("-j DNAT --to-destination 127.0.0.1:254");
    expect(iptables.text("ipv6")).toContain("-d fd00:ec2::254/128 -p tcp -m tcp --dport 80 -j REJECT");
  });
  test("does IPv4 and says why not IPv6 where there is none", async () => {
    const iptables = new FakeIptables();
    iptables.ipv6 = "IPv6 is off in this kernel: there is nothing to guard";
    const outcome = await apply(iptables, HYPERPOD);
    expect(outcome.notes).toEqual(["IPv6 is off in this kernel: there is nothing to guard"]);
    expect(outcome.restores.map(({ family }) => family)).toEqual(["ipv4"]);
    const status = await firewallStatus(iptables, HYPERPOD);
    expect([status.healthy, status.notes]).toEqual([true, outcome.notes]);
  });
  test("replaces what another configuration made", async () => {
    const iptables = new FakeIptables();
    await apply(iptables, { ...EC2, containers: "proxy" });
    await apply(iptables, HYPERPOD);
    const fresh = new FakeIptables();
    await apply(fresh, HYPERPOD);
    expect(iptables.text("ipv4")).toBe(fresh.text("ipv4"));
    expect(iptables.text("ipv6")).toBe(fresh.text("ipv6"));
  });
  test.each(["nat", "filter"] as const)(
    "brings the part %s alone, and remove takes it alone",
    async (part) => {
      const iptables = new FakeIptables();
      await apply(iptables, HYPERPOD, part);
      const other = part === "nat" ? "filter" : "nat";
      expect(iptables.states.get("ipv4")?.has(other)).toBe(false);
      await apply(iptables, HYPERPOD);
      await remove(iptables, part);
      expect(iptables.states.get("ipv4")?.get(part)?.has("IMDSPROXY")).toBe(false);
      expect(iptables.states.get("ipv4")?.get(other)?.has("IMDSPROXY")).toBe(true);
    },
  );
});

describe("remove()", () => {
  test("takes the redirect away before the block", async () => {
    const iptables = new FakeIptables();
    await apply(iptables, { ...HYPERPOD, containers: "proxy" });
    const { restores } = await remove(iptables);
    for (const { text } of restores) expect(text.match(/^\*\w+/gm)).toEqual(["*nat", "*filter"]);
    expect(iptables.text("ipv4") + iptables.text("ipv6")).not.toContain("IMDSPROXY");
  });
  test("makes no table where nothing is there", async () => {
    const iptables = new FakeIptables();
    expect(await remove(iptables)).toEqual({ changed: false, restores: [], notes: [] });
    expect(iptables.states.get("ipv4")?.size).toBe(0);
  });
});

describe("removeOriginalEntry() and restoreOriginalEntry()", () => {
  test("takes every copy, and nothing else", async () => {
    const iptables = new FakeIptables();
    const commented = ENTRY.replace("-j DNAT", '-m comment --comment "sagemaker agent" -j DNAT');
    const mine = ENTRY.replace("9081", "9082");
    iptables.add(
      "ipv4",
      `*nat\n-A OUTPUT ${ENTRY}\n-A OUTPUT ${mine}\n-A OUTPUT ${commented}\n-A OUTPUT ${ENTRY}\nCOMMIT\n`,
    );
    expect((await removeOriginalEntry(iptables)).changed).toBe(true);
    expect(outputOf(iptables)).toEqual([mine]);
    expect((await removeOriginalEntry(iptables)).changed).toBe(false);
  });
  test("puts it back once, at the end", async () => {
    const iptables = new FakeIptables();
    await apply(iptables, HYPERPOD);
    expect((await restoreOriginalEntry(iptables)).changed).toBe(true);
    expect((await restoreOriginalEntry(iptables)).changed).toBe(false);
    expect(outputOf(iptables)).toEqual(["-j IMDSPROXY", ENTRY]);
  });
});

describe("firewallStatus()", () => {
  test("says what is missing, and where the original entry is", async () => {
    const iptables = new FakeIptables();
    await apply(iptables, HYPERPOD);
    await restoreOriginalEntry(iptables);
    expect(await firewallStatus(iptables, HYPERPOD)).toEqual({
      healthy: true,
      deviations: [],
      original: { copies: 1, aboveOurs: false },
      notes: [],
    });
    iptables.add("ipv4", `*nat\n-I OUTPUT 1 ${ENTRY}\nCOMMIT\n`);
    iptables.add("ipv6", "*filter\n-D OUTPUT -j IMDSPROXY\nCOMMIT\n");
    const status = await firewallStatus(iptables, HYPERPOD);
    expect(status.healthy).toBe(false);
    expect(status.original).toEqual({ copies: 2, aboveOurs: true });
    expect(status.deviations.map(({ family, table, kind }) => `${family} ${table} ${kind}`)).toEqual([
      "ipv4 nat jump-not-first",
      "ipv6 filter jump-missing",
    ]);
  });
  test("says that the other backend redirects too", async () => {
    const iptables = new FakeIptables();
    await apply(iptables, HYPERPOD);
    iptables.other = new Map([["nat", new Map([["OUTPUT", { policy: "ACCEPT", rules: [ENTRY] }]])]]);
    // The kernel may ask the other one first, and users' connections would end at the block.
    const { healthy, deviations } = await firewallStatus(iptables, HYPERPOD);
    expect(healthy).toBe(false);
    expect(deviations.map(({ detail }) => detail).join()).toContain("legacy");
  });

  test("says of another redirect in the other backend that the kernel chooses, and leaves it", async () => {
    const iptables = new FakeIptables();
    await apply(iptables, HYPERPOD);
    const elsewhere = ENTRY.replace("169.254.0.2:9081", "10.0.0.9:8181");
    iptables.other = new Map([["nat", new Map([["OUTPUT", { policy: "ACCEPT", rules: [elsewhere] }]])]]);
    const { healthy, notes } = await firewallStatus(iptables, HYPERPOD);
    expect(healthy).toBe(true);
    expect(notes.join()).toContain("legacy");
  });
});
