import { describe, expect, test } from "bun:test";
import { Fleet, type Sample } from "../../scripts/fleet/fleet.ts";
import { plotOf } from "../../scripts/fleet/plot.ts";
import { summaryOf } from "../../scripts/fleet/scenarios.ts";
import { Generator } from "../simulation/generator.ts";

const HOUR = 3_600;
const NODES = 200;
const IDENTITIES = 10;
const SESSIONS = NODES * IDENTITIES;

/** A small cluster whose account has a quota that is smaller by as much as the cluster is smaller than 10,000 nodes with 50 each. */
function aFleet(jitter = true, quota = (600 * SESSIONS) / 500_000): Fleet {
  const [random, chance] = [new Generator(1), new Generator(2)];
  return new Fleet({
    ...{ nodes: NODES, identities: IDENTITIES, sampleSeconds: 300, stepMs: 1_000 },
    ...{ quota: { perSecond: quota, burst: Math.ceil(quota) }, chance: () => chance.fraction() },
    random: jitter ? () => random.fraction() : () => 0,
  });
}
const calls = (samples: readonly Sample[]) => samples.reduce((sum, one) => sum + one.calls * 300, 0);

describe(`${NODES} nodes whose users come at once, of an account whose quota allows 14 minutes' worth of them`, () => {
  test("all have a session as soon as the quota allows; from then on no five minutes have 1.5 times the mean of calls", async () => {
    const fleet = aFleet();
    fleet.start(5_000);
    await fleet.run(2.5 * HOUR);
    const { served, peakByMean, mean } = summaryOf(fleet.samples);
    expect(served).toBeLessThanOrEqual(20 * 60);
    expect(peakByMean).toBeLessThan(1.5);
    // A call for each session in 24 to 31 minutes: the first round is shorter.
    expect(SESSIONS / mean / 60).toBeGreaterThan(24);
    expect(SESSIONS / mean / 60).toBeLessThan(31);
    // Before the node as a whole slowed down, it was eighteen times the quota, over the whole quarter of an hour.
    const wave = fleet.samples.filter(({ atSeconds }) => atSeconds <= 900);
    expect(calls(wave) / SESSIONS).toBeLessThan(4);
  });

  test("STS is away for 30 minutes: nobody loses more than a few sessions, and no second wave exceeds the first", async () => {
    const fleet = aFleet();
    fleet.start(5_000);
    await fleet.run(1 * HOUR);
    fleet.forgetSamples();
    fleet.setAway(true);
    await fleet.run(HOUR / 2);
    fleet.setAway(false);
    await fleet.run(1.5 * HOUR);
    const first = fleet.samples.filter((_, at) => at < 9);
    const second = fleet.samples.filter((_, at) => at >= 9);
    const most = (samples: readonly Sample[]) => Math.max(...samples.map((one) => one.calls));
    expect(most(second)).toBeLessThan(most(first));
    expect(summaryOf(fleet.samples, 45 * 60).peakByMean).toBeLessThan(1.5);
    expect(fleet.samples.at(-1)?.without).toBe(0);
    expect(Math.max(...fleet.samples.map(({ without }) => without))).toBeLessThan(SESSIONS / 5);
  });
});

describe("where the quota is no limit, so that all get their session in the same seconds", () => {
  const peakByMean = async (jitter: boolean) => {
    const fleet = aFleet(jitter, 600);
    fleet.start(5_000);
    await fleet.run(300);
    fleet.forgetSamples();
    await fleet.run(1.5 * HOUR);
    const mean = calls(fleet.samples) / fleet.samples.length / 300;
    return Math.max(...fleet.samples.map((one) => one.calls)) / mean;
  };
  test("their refreshes are spread from the first round on", async () => {
    expect(await peakByMean(true)).toBeLessThan(1.5);
  });
  test("which is the jitter's doing: without it they come together", async () => {
    expect(await peakByMean(false)).toBeGreaterThan(5);
  });
});

test("the plot has a line for each run, and the quota", () => {
  const samples = [60, 120].map((atSeconds) => ({ atSeconds, calls: 10, granted: 10, without: 0 }));
  const svg = plotOf([{ title: "a day", quota: 600, lines: [{ name: "with jitter", samples }] }]);
  expect(svg).toContain("a day: calls of STS a second");
  expect(svg.match(/<polyline/g)).toHaveLength(1);
  expect(svg).toContain("stroke-dasharray");
});
