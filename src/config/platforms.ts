/** The platforms whose own daemons are known: see src/firewall/platform-accounts.ts. */
export const PLATFORMS = ["hyperpod", "parallelcluster", "pcs", "ec2"] as const;

/** A value of the key `platform`; `none` exempts no account. */
export type Platform = (typeof PLATFORMS)[number] | "none";
