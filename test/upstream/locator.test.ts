import { expect, test } from "bun:test";
import { HYPERPOD_AGENT, METADATA } from "../../src/firewall/addresses.ts";
import type { DetectedUpstream } from "../../src/firewall/detect.ts";
import type { Endpoint } from "../../src/identity/endpoint.ts";
import { followAgent } from "../../src/upstream/locator.ts";
import { FakeClock } from "../support/fake-clock.ts";

/** The search for the agent, on a node that has none until `state.agent` is true. */
function aSearch() {
  const clock = new FakeClock();
  const state = { agent: false, looks: 0, moved: 0, broken: false };
  const upstream = {
    endpoint: METADATA.ipv4 as Endpoint,
    url: "http://upstream",
    moveTo(endpoint: Endpoint) {
      upstream.endpoint = endpoint;
    },
  };
  const stop = followAgent({
    upstream,
    onMoved: () => void state.moved++,
    log: { debug() {}, info() {}, warn() {}, error() {} },
    clock,
    async detect(): Promise<DetectedUpstream> {
      state.looks++;
      if (state.broken) throw new Error("EMFILE");
      return { upstream: state.agent ? HYPERPOD_AGENT : METADATA.ipv4, reason: "the test", certain: true };
    },
  });
  return { clock, state, upstream, stop };
}

test("an agent that starts after the proxy is found within half a minute, also where the clock is set at boot", async () => {
  const { clock, state, upstream, stop } = aSearch();
  await clock.advance(1_000);
  clock.jump(86_400_000);
  await clock.advance(60_000);
  state.agent = true;
  await clock.advance(30_000);
  expect(upstream.endpoint).toEqual(HYPERPOD_AGENT);
  expect([state.moved, clock.pending]).toEqual([1, 0]);
  stop();
});

test("after a quarter of an hour it is looked for every five minutes", async () => {
  const { clock, state, stop } = aSearch();
  await clock.advance(1_000_000);
  const before = state.looks;
  await clock.advance(3_600_000);
  expect(state.looks - before).toBe(12);
  stop();
  expect(clock.pending).toBe(0);
});

test("a look that fails, as where no descriptor is free, does not end the search", async () => {
  const { clock, state, upstream, stop } = aSearch();
  state.broken = true;
  await clock.advance(10_000);
  state.broken = false;
  state.agent = true;
  await clock.advance(30_000);
  expect(upstream.endpoint).toEqual(HYPERPOD_AGENT);
  stop();
});
