import { Generator } from "../../test/simulation/generator.ts";
import { ACCOUNT_QUOTA } from "./account.ts";
import { Fleet, type Sample } from "./fleet.ts";

const HOUR = 3_600;

export interface Size {
  readonly nodes: number;
  readonly identities: number;
  /** Calls a second that the account may make. */
  readonly quota: number;
  readonly seed: number;
  /** Without it, the brokers' random numbers are all 0. */
  readonly jitter: boolean;
}

export interface Scenario {
  readonly id: "cold-start" | "day" | "outage" | "role";
  readonly title: string;
  /** Seconds of its samples; those of before are not kept. */
  readonly run: (fleet: Fleet) => Promise<void>;
}

/** Everybody in the cluster begins within five seconds, as where one job starts on all nodes at once. */
const START_WITHIN_MS = 5_000;
/** How long a cluster ran before something happened to it. */
const BEFORE_SECONDS = 2 * HOUR;

export const SCENARIOS: readonly Scenario[] = [
  {
    id: "cold-start",
    title: "cold start: all want a session within 5 s",
    async run(fleet) {
      fleet.start(START_WITHIN_MS);
      await fleet.run(3 * HOUR);
    },
  },
  {
    id: "day",
    title: "a day after a start within 5 s",
    async run(fleet) {
      fleet.start(START_WITHIN_MS);
      await fleet.run(24 * HOUR);
    },
  },
  {
    id: "outage",
    title: "STS is away for 30 minutes",
    async run(fleet) {
      fleet.start(START_WITHIN_MS);
      await fleet.run(BEFORE_SECONDS);
      fleet.forgetSamples();
      fleet.setAway(true);
      await fleet.run(HOUR / 2);
      fleet.setAway(false);
      await fleet.run(3 * HOUR);
    },
  },
  {
    id: "role",
    title: "another role for all, asked for within 5 minutes",
    async run(fleet) {
      fleet.start(START_WITHIN_MS);
      await fleet.run(BEFORE_SECONDS);
      fleet.forgetSamples();
      fleet.changeRole("Others", 300_000);
      await fleet.run(3 * HOUR);
    },
  },
];

/** Runs one of them, and returns what happened in each sample. */
export async function samplesOf(
  scenario: Scenario,
  size: Size,
  sampleSeconds: number,
): Promise<readonly Sample[]> {
  const [jitter, chance] = [new Generator(size.seed), new Generator(size.seed + 1)];
  const fleet = new Fleet({
    ...{ nodes: size.nodes, identities: size.identities, sampleSeconds },
    quota: { perSecond: size.quota, burst: (size.quota * ACCOUNT_QUOTA.burst) / ACCOUNT_QUOTA.perSecond },
    random: size.jitter ? () => jitter.fraction() : () => 0,
    chance: () => chance.fraction(),
  });
  await scenario.run(fleet);
  return fleet.samples;
}

/** What an administrator wants to know of a scenario. */
export interface Summary {
  /** Calls a second in the sample that had most of them. */
  readonly peak: number;
  /** From the end of the first wave on: the mean of calls a second, and the most by the mean. */
  readonly mean: number;
  readonly peakByMean: number;
  /** Most identities that wanted a session and had none. */
  readonly without: number;
  /** Seconds until all had one again. */
  readonly served: number | null;
}

/**
 * @param after samples up to this second are the first wave, whatever they hold; it also lasts until everybody has a session.
 */
export function summaryOf(samples: readonly Sample[], after = 0): Summary {
  const most = (values: readonly number[]) => values.reduce((a, b) => Math.max(a, b), 0);
  const firstSecond = (samples[0]?.atSeconds ?? 0) - 1;
  const last = samples.findLastIndex(({ without }) => without > 0);
  const isServed = last < samples.length - 1;
  const calm = samples.filter(({ atSeconds }, at) => at > last && atSeconds - firstSecond > after);
  const mean = calm.reduce((sum, { calls }) => sum + calls, 0) / Math.max(1, calm.length);
  return {
    peak: most(samples.map(({ calls }) => calls)),
    mean,
    peakByMean: most(calm.map(({ calls }) => calls)) / mean,
    without: most(samples.map(({ without }) => without)),
    served: isServed ? (samples[last]?.atSeconds ?? firstSecond) - firstSecond : null,
  };
}
