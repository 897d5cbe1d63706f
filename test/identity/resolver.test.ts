import { describe, expect, test } from "bun:test";
import type { Accounts, KnownAs } from "../../src/identity/accounts.ts";
import type { Cgroups } from "../../src/identity/cgroup.ts";
import { AmbiguousIdentity, IdentityResolver } from "../../src/identity/resolver.ts";

const JOB = "/system.slice/slurmstepd.scope/job_7/step_0";
const owner = (uid: number, cgroupId: bigint | null = null) => ({ uid, cgroupId, redirected: true });
const alice = (): KnownAs => ({ user: "alice", groups: ["alice"], subordinate: false });

/** A resolver whose accounts and cgroups a test has in its hands. */
function aResolver(
  known: () => KnownAs | Promise<KnownAs>,
  path: (id: bigint) => string | null = () => null,
) {
  return new IdentityResolver({
    accounts: { resolve: known } as unknown as Accounts,
    cgroups: { resolve: path } as unknown as Cgroups,
  });
}

describe("an identity", () => {
  test("is the same object for as long as the answer of NSS and the cgroup are the same", async () => {
    let known = alice();
    const resolver = aResolver(
      () => known,
      (id) => (id === 1n ? JOB : "/user.slice"),
    );
    const first = resolver.resolve(owner(2001, 1n));
    expect(first).toEqual({
      uid: 2001,
      container: null,
      user: "alice",
      groups: ["alice"],
      subordinate: false,
      cgroup: JOB,
      slurmJobId: "7",
    });
    expect(resolver.resolve(owner(2001, 1n))).toBe(first);
    const elsewhere = resolver.resolve(owner(2001, 2n));
    expect(elsewhere).toMatchObject({ cgroup: "/user.slice", slurmJobId: null });
    expect(resolver.resolve(owner(2001, 1n))).toBe(first);
    // NSS is asked anew: she has another group by now.
    known = { ...alice(), groups: ["alice", "data"] };
    expect(resolver.resolve(owner(2001, 1n))).toMatchObject({ groups: ["alice", "data"], cgroup: JOB });
  });

  test("is never another uid's, also where two have the same answer", () => {
    const nameless: KnownAs = { user: null, groups: [], subordinate: false };
    const resolver = aResolver(() => nameless);
    for (const uid of [2001, 2002, 2001]) expect(resolver.resolve(owner(uid))).toMatchObject({ uid });
  });

  test("is refused each time where two users can have the uid", () => {
    const resolver = aResolver(() => ({ ...alice(), conflict: "two users have it" }));
    for (let times = 0; times < 2; times++)
      expect(() => resolver.resolve(owner(2001))).toThrow(AmbiguousIdentity);
  });

  test("is the same one where it had to be waited for", async () => {
    const known = alice();
    let isThere = false;
    const resolver = aResolver(() => (isThere ? known : Promise.resolve(known)));
    const first = await resolver.resolve(owner(2001));
    isThere = true;
    expect(resolver.resolve(owner(2001))).toBe(first);
  });
});
