import { describe, expect, test } from "bun:test";
import { type KnownAccount, outcomeOf } from "../../src/identity/known-account.ts";
import type { AccountAnswer, Membership, Unavailable } from "../../src/identity/name-walk.ts";

const AWAY: Unavailable = { service: "sss", why: "unavailable, errno 111" };
const DAVE = { user: "dave", uid: 6001, gid: 7000, service: "sss" };

/** Dave, as the walk tells of him. */
const told = (groups: readonly Membership[]): AccountAnswer => ({
  account: { ...DAVE, groups, groupsUnavailable: [], kept: false },
  unavailable: [],
});
/** The same while sss cannot tell: he and the number of his primary group are known from before. */
const WHILE_AWAY: AccountAnswer = {
  account: {
    ...DAVE,
    groups: [{ gid: 7000, name: null, nameUnavailable: [AWAY], by: ["sss"] }],
    groupsUnavailable: [AWAY],
    kept: true,
  },
  unavailable: [AWAY],
};
const known = (answer: AccountAnswer, before: KnownAccount | undefined): KnownAccount => {
  const { account } = outcomeOf(answer, before);
  if (account === null) throw new Error("there is no account");
  return account;
};

describe("outcomeOf() while the service of an account cannot tell", () => {
  const DATA_ENG: Membership = { gid: 7100, name: "data eng", nameUnavailable: [], by: ["sss"] };

  test("keeps that the primary group has no name, as in a directory where it is only a number", () => {
    const before = known(
      told([{ gid: 7000, name: null, nameUnavailable: [], by: ["sss"] }, DATA_ENG]),
      undefined,
    );
    const first = known(WHILE_AWAY, before);
    expect(first).toEqual(before);
    // However often it is asked.
    expect(known(WHILE_AWAY, first)).toEqual(before);
  });

  test("keeps the name that the primary group had, however often it is asked", () => {
    const before = known(
      told([{ gid: 7000, name: "dave", nameUnavailable: [], by: ["sss"] }, DATA_ENG]),
      undefined,
    );
    const first = known(WHILE_AWAY, before);
    expect(first).toEqual(before);
    expect(known(WHILE_AWAY, first)).toEqual(before);
  });

  test("does not take a name that could not be told before for none", () => {
    const before = known(
      told([{ gid: 7000, name: null, nameUnavailable: [AWAY], by: ["sss"] }, DATA_ENG]),
      undefined,
    );
    expect(before.groupsUnavailable).toBe("sss (unavailable, errno 111)");
    expect(known(WHILE_AWAY, before).groupsUnavailable).toBe("sss (unavailable, errno 111)");
  });
});
