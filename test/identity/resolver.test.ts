import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Accounts, KnownAs } from "../../src/identity/accounts.ts";
import { Cgroups } from "../../src/identity/cgroup.ts";
import { cgroupTree } from "../../src/identity/cgroup-tree.ts";
import { AmbiguousIdentity, IdentityResolver } from "../../src/identity/resolver.ts";
import { systemClock } from "../../src/platform/clock.ts";
import { compileMatch } from "../../src/rules/match.ts";

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
    cgroups: { resolve: path, writableAbove: () => null } as unknown as Cgroups,
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

test("a job of a SLUID that cannot be told for now is asked for again, and one that is told is kept", async () => {
  const at = "/system.slice/slurmstepd.scope/s62DM8BYG18900/step_0/user/task_0";
  const answers = [{ slurmJobId: null, jobUnknown: "WHY" }, Promise.resolve({ slurmJobId: "7" })];
  const known = alice();
  const resolver = new IdentityResolver({
    accounts: { resolve: () => known } as unknown as Accounts,
    cgroups: { resolve: () => at, writableAbove: () => null } as unknown as Cgroups,
    sluids: { resolve: () => answers.shift() ?? { slurmJobId: "8" } },
  });
  expect(await resolver.resolve(owner(2001, 1n))).toMatchObject({ slurmJobId: null, jobUnknown: "WHY" });
  const told = await resolver.resolve(owner(2001, 1n));
  expect(told).toMatchObject({ user: "alice", cgroup: at, slurmJobId: "7" });
  expect(told.jobUnknown).toBeUndefined();
  expect(resolver.resolve(owner(2001, 1n))).toBe(told);
});

test("a cgroup that alice makes in a slice that root gave her is no system service, whatever its name", async () => {
  const mount = mkdtempSync(join(tmpdir(), "imdsproxy-cgroup-"));
  try {
    const make = (path: string): bigint => {
      mkdirSync(`${mount}${path}`, { recursive: true, mode: 0o755 });
      return statSync(`${mount}${path}`, { bigint: true }).ino;
    };
    const real = make("/system.slice/slurmd.service");
    const delegated = make("/system.slice/agent.service/slurmd.service");
    const hers = make("/batch.slice/slurmd.service/task");
    const deep = make("/theirs.slice/a.slice/slurmd.service");
    // As chmod(1) gives it; one that was given by chown(1) is the same to cgroupTree().
    chmodSync(`${mount}/batch.slice`, 0o777);
    chmodSync(`${mount}/theirs.slice`, 0o775);
    chmodSync(`${mount}/system.slice/agent.service`, 0o775);
    const cgroups = new Cgroups(cgroupTree(mount), systemClock);
    const accounts = { resolve: alice } as unknown as Accounts;
    const resolver = new IdentityResolver({ accounts, cgroups });
    const matches = async (unit: string, id: bigint) =>
      compileMatch(
        { uid: [{ from: 2001, to: 2001 }], unit: [unit] },
        "refuse",
      )(await resolver.resolve(owner(2001, id)));
    expect(await matches("slurmd.service", real)).toBe(true);
    expect(await matches("slurmd.service", hers)).toBe(false);
    expect(await matches("slurmd.service", deep)).toBe(false);
    expect(await matches("slurmd.service", delegated)).toBe(false);
    expect(await matches("agent.service", delegated)).toBe(true);
    // One that was forgotten between its look-up and the answer of NSS counts for nobody.
    expect(cgroups.writableAbove(real + 1_000_000n)).toBe("/");
  } finally {
    rmSync(mount, { recursive: true, force: true });
  }
});
