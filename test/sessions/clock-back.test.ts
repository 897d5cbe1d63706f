import { describe, expect, test } from "bun:test";
import { CallAllowance } from "../../src/sessions/allowance.ts";
import type { SessionOutcome } from "../../src/sessions/types.ts";
import { aBroker, aRequest, DAY, HOUR, MINUTE, passing, SECOND } from "./support.ts";

/** The wall clock is set back, as by NTP on a node whose clock was in local time: nobody waits for it to catch up. */

const RATES = { user: { perSecond: 2, burst: 200 }, node: { perSecond: 20, burst: 500 } };
const BOB = 2_002;

for (const back of [MINUTE, 10 * MINUTE, HOUR, 8 * HOUR, DAY]) {
  describe(`after the clock was set back by ${back / MINUTE} min`, () => {
    test("first sessions are made at once, for whoever asks, and early ones as well", async () => {
      const { broker, clock, jump } = aBroker({ allowance: new CallAllowance(RATES) });
      void broker.get(aRequest(), 2_001);
      await clock.advance(SECOND);
      jump(-back);
      for (let i = 0; i < 5; i++) {
        let got: SessionOutcome | null = null;
        void broker.get(aRequest({ sessionName: `bob-${i}` }), BOB).then((outcome) => {
          got = outcome;
        });
        await clock.advance(SECOND);
        expect(got).toMatchObject({ kind: "session" });
      }
      expect(broker.prepareEarly(aRequest({ sessionName: "carol" }), 2_003)).not.toBeNull();
    });

    test("who asks again is made to wait for the attempt that comes within the second", async () => {
      const { broker, clock, jump, sts } = aBroker();
      sts.failing = () => passing();
      void broker.get(aRequest(), BOB);
      await clock.advance(10);
      sts.failing = null;
      jump(-back);
      let got: SessionOutcome | null = null;
      void broker.get(aRequest(), BOB).then((outcome) => {
        got = outcome;
      });
      await clock.advance(SECOND);
      expect(got).toMatchObject({ kind: "session" });
    });

    test("Retry-After is what is left to wait", async () => {
      const slow = { ...RATES, user: { perSecond: 0.2, burst: 1 } };
      const { broker, clock, jump } = aBroker({ allowance: new CallAllowance(slow) });
      void broker.get(aRequest(), BOB);
      const second = aRequest({ sessionName: "second" });
      void broker.get(second, BOB);
      await clock.advance(10);
      jump(-back);
      let got: SessionOutcome | null = null;
      void broker.get(second, BOB).then((outcome) => {
        got = outcome;
      });
      await clock.advance(3 * SECOND);
      const { kind, retryAfterMs = 0 } = got as unknown as SessionOutcome & { retryAfterMs?: number };
      expect(kind).toBe("unavailable");
      expect(retryAfterMs).toBeGreaterThan(0);
      expect(retryAfterMs).toBeLessThan(5 * SECOND);
    });
  });
}
