import { z } from "zod";

/**
 * The configuration's `limits`: how much of the shared resources one user may take. A user is a uid, or an owner in /etc/subuid
 * together with all subordinate uids.
 */

const MOST_PER_SECOND = 1_000_000;
/** What fits the kernel's 32 bits with room to spare (NFTA_LIMIT_BURST, NFTA_CONNLIMIT_COUNT). */
const MOST_AT_ONCE = 100_000_000;

const count = (most: number) =>
  z.number().int("must be a whole number").min(1, `must be 1 to ${most}`).max(most, `must be 1 to ${most}`);

const rate = (perSecond: z.ZodNumber) =>
  z.strictObject({
    perSecond: perSecond.describe("The rate in a second, in the long run"),
    burst: count(MOST_AT_ONCE).describe("The burst: how many may come at once"),
  });

const callRate = rate(
  z
    .number()
    .min(0.01, "must be 0.01 to 600: STS gives a whole account 600 calls a second")
    .max(600, "must be 0.01 to 600: STS gives a whole account 600 calls a second"),
);

const AUTO_OR_NUMBER = "must be auto, a number of connections such as 16384, or null for no limit";

export const limitsSchema = z.strictObject({
  // 200 at once: a job for each processor, each with a session of its own.
  assumeRolePerUser: callRate
    .default({ perSecond: 2, burst: 200 })
    .describe("AssumeRole calls for one user's new sessions"),
  assumeRolePerNode: callRate
    .default({ perSecond: 20, burst: 500 })
    .describe("AssumeRole calls for new sessions of all users of the node together"),
  // By nf_tables; see src/firewall/limits/figures.ts.
  newConnectionsPerUser: rate(count(MOST_PER_SECOND))
    .nullable()
    .default({ perSecond: 2_000, burst: 4_000 })
    .describe(
      "New connections of one user to the metadata address; null for no limit. All users together have twice the rate",
    ),
  // By nf_tables.
  trackedConnectionsPerUser: z
    .union([z.literal("auto", AUTO_OR_NUMBER), count(MOST_AT_ONCE)], AUTO_OR_NUMBER)
    .nullable()
    .default("auto")
    .describe(
      "Connections of one user, to any address, that the kernel tracks at the same time; null for no limit. auto: a sixteenth of " +
        "net.netfilter.nf_conntrack_max, and at least 12288",
    ),
});
