import { describe, expect, test } from "bun:test";
import { type Account, type AccountDatabase, Accounts, type KnownAs } from "../../src/identity/accounts.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

const ALICE: Account = { user: "alice", groups: ["alice", "domain admins"] };
const SECOND = 1_000;

/** NSS and the account files, as a test has them. */
class Database implements AccountDatabase {
  readonly accounts = new Map<number, Account>([[2001, ALICE]]);
  readonly owners = new Map<number, string[]>();
  files = "1";
  asked: number[] = [];
  /** Set, look-ups wait to be answered or failed by hand. */
  manual = false;
  readonly open: { uid: number; answer(): void; fail(): void }[] = [];
  down = false;

  byUid(uid: number): Promise<Account | null> {
    this.asked.push(uid);
    if (this.down) return Promise.reject(new Error("getent passwd did not answer"));
    const found = this.accounts.get(uid) ?? null;
    if (!this.manual) return Promise.resolve(found);
    return new Promise((resolve, reject) =>
      this.open.push({ uid, answer: () => resolve(found), fail: () => reject(new Error("did not answer")) }),
    );
  }

  byName(name: string): Promise<Account | null> {
    return Promise.resolve([...this.accounts.values()].find(({ user }) => user === name) ?? null);
  }

  subordinateOwners(uid: number): readonly string[] {
    return this.owners.get(uid) ?? [];
  }

  fingerprint(): string {
    return this.files;
  }
}

function aCache() {
  const clock = new FakeClock();
  const database = new Database();
  return { clock, database, accounts: new Accounts({ database, clock }) };
}

const alice: KnownAs = { ...ALICE, subordinate: false };
const nameless: KnownAs = { user: null, groups: [], subordinate: false };

describe("resolve()", () => {
  test("asks once, and answers at once after that; names of groups may hold spaces", async () => {
    const { accounts, database } = aCache();
    expect(await accounts.resolve(2001)).toEqual(alice);
    expect(accounts.resolve(2001)).toEqual(alice);
    expect(database.asked).toEqual([2001]);
  });

  test("asks once for a crowd that waits", async () => {
    const { accounts, database } = aCache();
    const crowd = await Promise.all(Array.from({ length: 100 }, () => accounts.resolve(2001)));
    expect(new Set(crowd).size).toBe(1);
    expect(database.asked).toEqual([2001]);
  });

  test("a uid without a name is known as that, for ten seconds", async () => {
    const { accounts, database, clock } = aCache();
    expect(await accounts.resolve(4_242)).toEqual(nameless);
    await clock.advance(10 * SECOND - 1);
    expect(accounts.resolve(4_242)).toEqual(nameless);
    await clock.advance(1);
    database.accounts.set(4_242, { user: "new", groups: [] });
    expect(await accounts.resolve(4_242)).toMatchObject({ user: "new" });
  });

  test("an answer is used for a minute and never after, however NSS fares", async () => {
    const { accounts, database, clock } = aCache();
    await accounts.resolve(2001);
    database.down = true;
    await clock.advance(60 * SECOND - 1);
    expect(accounts.resolve(2001)).toEqual(alice);
    await settle();
    await clock.advance(1);
    expect(Promise.resolve(accounts.resolve(2001))).rejects.toThrow("did not answer");
  });

  test("after half a minute it is asked anew beside the way, so that nobody waits", async () => {
    const { accounts, database, clock } = aCache();
    await accounts.resolve(2001);
    await clock.advance(30 * SECOND);
    expect(accounts.resolve(2001)).toEqual(alice);
    expect(database.asked).toHaveLength(1);
    await clock.advance(1);
    database.accounts.set(2001, { user: "alice", groups: ["alice"] });
    expect(accounts.resolve(2001)).toEqual(alice);
    await settle();
    expect(accounts.resolve(2001)).toMatchObject({ groups: ["alice"] });
    expect(database.asked).toHaveLength(2);
  });

  test("one refresh at a time, though many ask", async () => {
    const { accounts, database, clock } = aCache();
    await accounts.resolve(2001);
    await clock.advance(31 * SECOND);
    database.manual = true;
    for (let i = 0; i < 50; i++) expect(accounts.resolve(2001)).toEqual(alice);
    await settle();
    expect(database.open).toHaveLength(1);
  });

  test("a clock that is set back makes no answer live longer", async () => {
    const { accounts, database, clock } = aCache();
    await accounts.resolve(2001);
    clock.jump(-3_600 * SECOND);
    await accounts.resolve(2001);
    expect(database.asked).toHaveLength(2);
  });

  test("a failure is an error for who waits, and is not kept", async () => {
    const { accounts, database } = aCache();
    database.down = true;
    for (let i = 0; i < 2; i++) {
      expect(Promise.resolve(accounts.resolve(2001))).rejects.toThrow("did not answer");
      await settle();
    }
    database.down = false;
    expect(await accounts.resolve(2001)).toEqual(alice);
    expect(database.asked).toHaveLength(3);
  });

  test("a user who was deleted, and whose uid another has, is another within a quarter of a second", async () => {
    const { accounts, database, clock } = aCache();
    await accounts.resolve(2001);
    database.accounts.set(2001, { user: "mallory", groups: [] });
    database.files = "2";
    await clock.advance(250);
    expect(await accounts.resolve(2001)).toMatchObject({ user: "mallory" });
  });

  test("what was asked before the files changed is not kept", async () => {
    const { accounts, database, clock } = aCache();
    database.manual = true;
    const before = accounts.resolve(2001);
    await settle();
    await clock.advance(250);
    database.files = "2";
    database.accounts.set(2001, { user: "mallory", groups: [] });
    const after = accounts.resolve(2001);
    await settle();
    database.open[1]?.answer();
    expect(await after).toMatchObject({ user: "mallory" });
    database.open[0]?.answer();
    await before;
    expect(accounts.resolve(2001)).toMatchObject({ user: "mallory" });
  });

  test("remembers a bounded number", async () => {
    const { accounts, database } = aCache();
    for (let uid = 10_000; uid < 20_001; uid++) await accounts.resolve(uid);
    expect(accounts.resolve(20_000)).toEqual(nameless);
    database.asked = [];
    await accounts.resolve(10_000);
    expect(database.asked).toEqual([10_000]);
  }, 20_000);
});

describe("a subordinate uid", () => {
  test("is its owner's, and says so", async () => {
    const { accounts, database } = aCache();
    database.owners.set(165_000, ["alice"]);
    expect(await accounts.resolve(165_000)).toEqual({ ...ALICE, subordinate: true });
  });

  test("that two own is nobody's: either would be a guess", async () => {
    const { accounts, database } = aCache();
    database.accounts.set(2002, { user: "bob", groups: [] });
    database.owners.set(165_000, ["alice", "bob"]);
    expect(await accounts.resolve(165_000)).toEqual(nameless);
  });

  test("of an owner who is no account is nobody's", async () => {
    const { accounts, database } = aCache();
    database.owners.set(165_000, ["gone"]);
    expect(await accounts.resolve(165_000)).toEqual(nameless);
  });

  test("that is also an account is nobody's, and it is said why", async () => {
    const { accounts, database } = aCache();
    database.owners.set(2001, ["mallory"]);
    database.accounts.set(2003, { user: "mallory", groups: [] });
    expect(await accounts.resolve(2001)).toEqual({
      user: null,
      groups: [],
      subordinate: true,
      conflict: "uid 2001 is the account alice and, by /etc/subuid, a subordinate uid of mallory",
    });
  });

  test("has its owner's share of look-ups: 65,536 of them keep nobody else waiting", async () => {
    const { accounts, database } = aCache();
    database.manual = true;
    for (let uid = 100_000; uid < 100_500; uid++) {
      database.owners.set(uid, ["mallory"]);
      void Promise.resolve(accounts.resolve(uid));
    }
    await settle();
    expect(database.open.length).toBeLessThanOrEqual(4);
    void Promise.resolve(accounts.resolve(2001));
    await settle();
    expect(database.open.at(-1)?.uid).toBe(2001);
  });
});
