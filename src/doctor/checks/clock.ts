import { type Check, look } from "../types.ts";

/** STS takes requests whose date is up to five minutes off (IAM User Guide, "Troubleshoot Signature Version 4"). */
const REFUSED_MS = 300_000;
const NOTED_MS = 30_000;

export const clock: Check = {
  id: "clock",
  title: "the node's clock against STS's",
  level: "warning",
  why: "AWS refuses requests whose date is more than five minutes off",
  remedy: "set the node's clock, and let chrony keep it (169.254.169.123)",
  command: "chronyc tracking; chronyc makestep",
  explain: [
    "Asks STS's endpoint for nothing but its answer's Date, without credentials. More than 30 s is reported: at five minutes requests fail.",
  ],
  run: ({ clock }) =>
    look(clock, (aheadMs) => {
      const seconds = Math.round(Math.abs(aheadMs) / 1000);
      if (Math.abs(aheadMs) < NOTED_MS) return [];
      const direction = aheadMs > 0 ? "ahead of" : "behind";
      const refused = Math.abs(aheadMs) >= REFUSED_MS ? ", so that requests are refused" : "";
      return [{ what: `the node's clock is ${seconds} s ${direction} STS's${refused}` }];
    }),
};
