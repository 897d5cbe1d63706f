import { describe, expect, test } from "bun:test";
import type { Accounts } from "../../src/identity/accounts.ts";
import type { Cgroups } from "../../src/identity/cgroup.ts";
import { mayHideCgroups } from "../../src/identity/hidden-cgroups.ts";
import { IdentityResolver } from "../../src/identity/resolver.ts";
import type { Identity } from "../../src/identity/types.ts";
import { compileMatch } from "../../src/rules/match.ts";

const UNIFIED = "30 23 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
const NET_CLS =
  "36 30 0:32 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid shared:15 - cgroup cgroup rw,net_cls,net_prio";
const MEMORY = "37 30 0:33 / /sys/fs/cgroup/memory rw,nosuid shared:16 - cgroup cgroup rw,memory";

describe("mayHideCgroups()", () => {
  const cases: readonly [string, string, boolean][] = [
    ["5.10.0-28-cloud-amd64", `${UNIFIED}\n${NET_CLS}`, true],
    ["4.19.0-26-amd64", `${NET_CLS}\n${UNIFIED}`, true],
    ["5.14.21", "1 1 0:1 / /x rw - cgroup cgroup rw,net_prio", true],
    ["5.10.0-28-cloud-amd64", `${UNIFIED}\n${MEMORY}`, false],
    ["5.15.0-1", `${UNIFIED}\n${NET_CLS}`, false],
    ["6.1.0-18", NET_CLS, false],
  ];
  for (const [kernel, mountinfo, hides] of cases)
    test(`linux ${kernel}: ${hides}`, () => expect(mayHideCgroups(mountinfo, kernel)).toBe(hides));
});

test("where the kernel may hide cgroups, a rule that needs one does not pass over a caller in the root cgroup", () => {
  const identity = (rootIsUnknown: boolean) =>
    new IdentityResolver({
      accounts: { resolve: () => ({ user: "alice", groups: [], subordinate: false }) } as unknown as Accounts,
      cgroups: { resolve: () => "/", writableAbove: () => null } as unknown as Cgroups,
      rootIsUnknown,
    }).resolve({ uid: 2001, cgroupId: 1n, redirected: true }) as Identity;
  for (const match of [{ slurmJob: true }, { unit: ["cron.service"] }, { cgroup: ["/system.slice/*"] }]) {
    const matches = compileMatch(match, "refuse");
    expect(matches(identity(true))).toEqual({ what: "the cgroup, which is not known", passing: false });
    expect(matches(identity(false))).toBe(false);
  }
});
