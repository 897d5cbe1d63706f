import { describe, expect, test } from "bun:test";
import {
  type AccountDatabase,
  Accounts,
  type KnownAs,
  type UnavailableEvent,
} from "../../src/identity/accounts.ts";
import type { OwnersAnswer } from "../../src/identity/name-protocol.ts";
import type { AccountAnswer, BeforeAccount, Membership, Unavailable } from "../../src/identity/name-walk.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

/** An account as a service has it; the first of the groups is the primary one. */
interface Account {
  readonly user: string;
  readonly groups: readonly string[];
  /** Default: sss. */
  readonly service?: string;
}
const ALICE: Account = { user: "alice", groups: ["alice", "domain admins"] };
const SECOND = 1_000;
const AWAY: Unavailable = { service: "sss", why: "unavailable, errno 111" };

/** NSS with the services files and sss, and the account files, as a test has them. */
class Database implements AccountDatabase {
  readonly accounts = new Map<number, Account>([[2001, ALICE]]);
  readonly owners = new Map<number, string[]>();
  service: string | null = null;
  ownersTold: OwnersAnswer = { status: "success", owners: [] };
  files = "1";
  readonly allocated = new Set<number>();
  asked: number[] = [];
  /** Set, look-ups wait to be answered by hand. */
  manual = false;
  readonly open: { uid: number; answer(): void }[] = [];
  /** Whether sss cannot tell: its accounts, and the groups of anybody. */
  down = false;
  /** Whether nothing can be asked at all. */
  gone = false;

  isAllocated(uid: number): boolean {
    return this.allocated.has(uid);
  }

  byUid(uid: number, before: BeforeAccount | null): Promise<AccountAnswer> {
    this.asked.push(uid);
    const found = this.#answer(uid, this.accounts.get(uid), before);
    if (!this.manual) return Promise.resolve(found);
    return new Promise((resolve) => this.open.push({ uid, answer: () => resolve(found) }));
  }

  #answer(uid: number, told: Account | undefined, before: BeforeAccount | null): AccountAnswer {
    if (this.gone) return { account: null, unavailable: [{ service: "NSS", why: "cannot be asked" }] };
    const unavailable = this.down ? [AWAY] : [];
    const service = told?.service ?? "sss";
    const seen = told !== undefined && !(this.down && service === "sss") ? told : undefined;
    const kept = seen === undefined && this.down && before?.service === "sss" ? before : null;
    const user = seen?.user ?? kept?.user;
    if (user === undefined) return { account: null, unavailable };
    const groups = (seen?.groups ?? []).map((name, index): Membership => {
      const by = this.down && index > 0 && name.startsWith("domain") ? [] : [service];
      return { gid: gidOf(name), name, nameUnavailable: [], by };
    });
    return {
      account: {
        user,
        uid,
        gid: uid,
        service: seen === undefined ? "sss" : service,
        groups: groups.filter(({ by }) => by.length > 0),
        groupsUnavailable: unavailable,
        kept: kept !== null,
      },
      unavailable,
    };
  }

  byName(name: string): Promise<AccountAnswer> {
    const entry = [...this.accounts].find(([, { user }]) => user === name);
    if (this.gone)
      return Promise.resolve({ account: null, unavailable: [{ service: "NSS", why: "cannot be asked" }] });
    const unavailable = this.down ? [AWAY] : [];
    const service = entry?.[1].service ?? "sss";
    if (entry === undefined || (this.down && service === "sss"))
      return Promise.resolve({ account: null, unavailable });
    const account = {
      user: name,
      uid: entry[0],
      gid: entry[0],
      service,
      groups: [],
      groupsUnavailable: [],
      kept: false,
    };
    return Promise.resolve({ account, unavailable });
  }

  ownersInFile(uid: number): readonly string[] {
    return this.owners.get(uid) ?? [];
  }
  ownersService(): string | null {
    return this.service;
  }
  ownersByService(): Promise<OwnersAnswer> {
    return Promise.resolve(this.ownersTold);
  }
  fingerprint(): string {
    return this.files;
  }
}

const gids = new Map<string, number>();
function gidOf(name: string): number {
  const known = gids.get(name) ?? 5_000 + gids.size;
  gids.set(name, known);
  return known;
}

function aCache() {
  const clock = new FakeClock();
  const database = new Database();
  const events: UnavailableEvent[] = [];
  const accounts = new Accounts({ database, clock, onUnavailable: (event) => events.push(event) });
  return { clock, database, accounts, events };
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

  test("an answer is asked for anew after a minute, and waited for", async () => {
    const { accounts, database, clock } = aCache();
    await accounts.resolve(2001);
    await clock.advance(60 * SECOND);
    database.accounts.set(2001, { user: "mallory", groups: ["mallory"] });
    expect(await accounts.resolve(2001)).toMatchObject({ user: "mallory", groups: ["mallory"] });
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

  test("what is told again is the same object, by which what was made of it is found; another answer is another", async () => {
    const { accounts, database, clock } = aCache();
    const first = await accounts.resolve(2001);
    const later = async () => {
      await clock.advance(40 * SECOND);
      accounts.resolve(2001);
      await settle();
      return accounts.resolve(2001);
    };
    expect(await later()).toBe(first);
    expect(await later()).toBe(first);
    database.accounts.set(2001, { user: "alice", groups: ["alice"] });
    expect(await later()).toEqual({ ...first, groups: ["alice"] });
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
    await settle();
    database.asked = [];
    await accounts.resolve(10_000);
    expect(database.asked).toEqual([10_000]);
  });
});

describe("where the directory cannot tell", () => {
  test("a uid whose name is not known is not one without a name: it is said why", async () => {
    const { accounts, database, events } = aCache();
    database.down = true;
    const known = await accounts.resolve(2001);
    expect(known).toEqual({ ...nameless, userUnavailable: "sss (unavailable, errno 111)" });
    expect(events).toEqual([{ uid: 2001, outcome: "unknown", why: "sss (unavailable, errno 111)" }]);
  });

  test("who asks a second later is looked up anew, so that the directory's return is seen", async () => {
    const { accounts, database, clock } = aCache();
    database.down = true;
    await accounts.resolve(2001);
    database.down = false;
    await clock.advance(1 * SECOND);
    expect(await accounts.resolve(2001)).toEqual(alice);
  });

  test("a name and groups that were known stay, however long it lasts, and it is told", async () => {
    const { accounts, database, clock, events } = aCache();
    await accounts.resolve(2001);
    database.down = true;
    for (let hour = 0; hour < 48; hour++) {
      await clock.advance(3_600 * SECOND);
      expect(await accounts.resolve(2001)).toEqual(alice);
    }
    expect(events.at(-1)).toEqual({ uid: 2001, outcome: "kept", why: "sss (unavailable, errno 111)" });
    database.down = false;
    database.accounts.set(2001, { user: "alice", groups: ["alice"] });
    await clock.advance(20 * SECOND);
    expect(await accounts.resolve(2001)).toMatchObject({ groups: ["alice"] });
  });

  test("they stay also where the local files change meanwhile, as anybody can have them changed with chsh", async () => {
    const { accounts, database, clock } = aCache();
    await accounts.resolve(2001);
    database.down = true;
    database.files = "2";
    await clock.advance(250);
    expect(await accounts.resolve(2001)).toEqual(alice);
  });

  test("they stay where nothing can be asked at all, as with a full process table", async () => {
    const { accounts, database, clock } = aCache();
    await accounts.resolve(2001);
    database.gone = true;
    await clock.advance(60 * SECOND);
    expect(await accounts.resolve(2001)).toEqual(alice);
    expect(await accounts.resolve(2002)).toMatchObject({
      user: null,
      userUnavailable: "NSS (cannot be asked)",
    });
  });

  test("they go where it says that there is no such account", async () => {
    const { accounts, database, clock } = aCache();
    await accounts.resolve(2001);
    database.accounts.delete(2001);
    await clock.advance(60 * SECOND);
    expect(await accounts.resolve(2001)).toEqual(nameless);
    database.down = true;
    await clock.advance(60 * SECOND);
    expect(await accounts.resolve(2001)).toMatchObject({ user: null, userUnavailable: expect.any(String) });
  });

  test("a name of the local files does not stay for it: the files told that it is gone", async () => {
    const { accounts, database, clock } = aCache();
    database.accounts.set(2003, { user: "local", groups: ["local"], service: "files" });
    await accounts.resolve(2003);
    database.accounts.delete(2003);
    database.down = true;
    database.files = "2";
    await clock.advance(60 * SECOND);
    expect(await accounts.resolve(2003)).toMatchObject({ user: null, userUnavailable: expect.any(String) });
  });

  test("a local account's groups cannot all be told, and it is said why; those known before stay, less those that are gone", async () => {
    const { accounts, database, clock } = aCache();
    const groups = ["local", "wheel", "domain users"];
    database.accounts.set(2003, { user: "local", groups, service: "files" });
    const fresh = aCache();
    fresh.database.accounts.set(2003, { user: "local", groups, service: "files" });
    fresh.database.down = true;
    expect(await fresh.accounts.resolve(2003)).toEqual({
      user: "local",
      groups: ["local", "wheel"],
      subordinate: false,
      groupsUnavailable: "sss (unavailable, errno 111)",
    });
    expect(await accounts.resolve(2003)).toMatchObject({ groups });
    database.down = true;
    database.accounts.set(2003, { user: "local", groups: ["local"], service: "files" });
    await clock.advance(60 * SECOND);
    expect(await accounts.resolve(2003)).toMatchObject({ groups: ["local"] });
  });

  test("ten thousand subordinate uids push no account's name out", async () => {
    const { accounts, database, clock } = aCache();
    await accounts.resolve(2001);
    database.accounts.set(2003, { user: "mallory", groups: [], service: "files" });
    for (let uid = 100_000; uid < 110_100; uid++) {
      database.owners.set(uid, ["mallory"]);
      await accounts.resolve(uid);
    }
    database.down = true;
    await clock.advance(60 * SECOND);
    expect(await accounts.resolve(2001)).toEqual(alice);
  });
});

describe("a subordinate uid", () => {
  test("is its owner's, and says so", async () => {
    const { accounts, database } = aCache();
    database.owners.set(165_000, ["alice"]);
    expect(await accounts.resolve(165_000)).toEqual({ ...ALICE, subordinate: true, ownerUid: 2001 });
  });

  test("whose owner is a number in the file is that account's", async () => {
    const { accounts, database } = aCache();
    database.owners.set(165_000, ["2001"]);
    expect(await accounts.resolve(165_000)).toEqual({ ...ALICE, subordinate: true, ownerUid: 2001 });
  });

  test("that one owns by name and by number is that one's", async () => {
    const { accounts, database } = aCache();
    database.owners.set(165_000, ["alice", "2001"]);
    expect(await accounts.resolve(165_000)).toMatchObject({ user: "alice", ownerUid: 2001 });
  });

  test("whose owner in digits is an account's name and another's uid is nobody's", async () => {
    const { accounts, database } = aCache();
    database.accounts.set(2009, { user: "2001", groups: [] });
    database.owners.set(165_000, ["2001"]);
    expect(await accounts.resolve(165_000)).toMatchObject({
      user: null,
      conflict: "uid 165000 is a subordinate uid of 2001 and of alice",
    });
  });

  test("that two own is nobody's: either would be a guess", async () => {
    const { accounts, database } = aCache();
    database.accounts.set(2002, { user: "bob", groups: [] });
    database.owners.set(165_000, ["alice", "bob"]);
    expect(await accounts.resolve(165_000)).toMatchObject({
      user: null,
      conflict: "uid 165000 is a subordinate uid of alice and of bob",
    });
  });

  test("of an owner who is no account is nobody's, and it is said why", async () => {
    const { accounts, database } = aCache();
    database.owners.set(165_000, ["gone"]);
    expect(await accounts.resolve(165_000)).toMatchObject({
      user: null,
      conflict: 'uid 165000 is in a range of /etc/subuid whose owner "gone" is no account',
    });
  });

  test("whose owner cannot be told is refused for now, and remembered where it was known", async () => {
    const { accounts, database, clock } = aCache();
    database.owners.set(165_000, ["alice"]);
    database.owners.set(165_001, ["alice"]);
    database.down = true;
    await expect(Promise.resolve(accounts.resolve(165_000))).rejects.toThrow(
      "NSS cannot tell for now whose subordinate uid 165000 is: sss (unavailable, errno 111)",
    );
    await settle();
    database.down = false;
    const known = { ...ALICE, subordinate: true, ownerUid: 2001 };
    expect(await accounts.resolve(165_000)).toEqual(known);
    database.down = true;
    await clock.advance(60 * SECOND);
    expect(await accounts.resolve(165_000)).toEqual(known);
    // A uid that was never asked for may be an account of the directory.
    await expect(Promise.resolve(accounts.resolve(165_001))).rejects.toThrow("whether it is an account");
  });

  describe("by a service of nsswitch.conf", () => {
    const CANNOT = "which knows subordinate uids by nsswitch.conf, cannot tell whose it is";
    const withService = () => {
      const cache = aCache();
      cache.database.service = "sss";
      return cache;
    };
    test("is its owner's, whatever /etc/subuid says", async () => {
      const { accounts, database } = withService();
      database.ownersTold = { status: "success", owners: [2001] };
      database.owners.set(165_000, ["mallory"]);
      expect(await accounts.resolve(165_000)).toMatchObject({
        user: "alice",
        subordinate: true,
        ownerUid: 2001,
      });
    });
    test("that does not answer: refused for now", async () => {
      const { accounts, database } = withService();
      database.ownersTold = { status: "unavail" };
      await expect(Promise.resolve(accounts.resolve(165_000))).rejects.toThrow("sss does not answer");
    });
    test("that cannot tell: whoever has no name is refused, an account is itself", async () => {
      const { accounts, database } = withService();
      database.ownersTold = { status: "unsupported" };
      expect(await accounts.resolve(165_000)).toMatchObject({ conflict: expect.stringContaining(CANNOT) });
      expect(await accounts.resolve(2001)).toEqual(alice);
    });
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

  test("that is given away for a namespace is nobody's from that moment on, and an account's again after it", async () => {
    const { accounts, database } = aCache();
    expect(await accounts.resolve(2001)).toEqual(alice);
    database.allocated.add(2001);
    expect(await accounts.resolve(2001)).toMatchObject({
      user: null,
      conflict: expect.stringContaining("systemd-nsresourced has given"),
    });
    database.allocated.clear();
    expect(await accounts.resolve(2001)).toEqual(alice);
  });

  test("has its owner's share of look-ups: 65,536 of them keep nobody else waiting", async () => {
    const { accounts, database } = aCache();
    database.manual = true;
    for (let uid = 100_000; uid < 100_500; uid++) {
      database.owners.set(uid, ["mallory"]);
      void Promise.resolve(accounts.resolve(uid));
    }
    await settle();
    expect(database.open.length).toBeLessThanOrEqual(2);
    void Promise.resolve(accounts.resolve(2001));
    await settle();
    expect(database.open.at(-1)?.uid).toBe(2001);
  });
});

test("a look-up that hung while the files changed does not replace the later answer that is kept for an outage", async () => {
  const clock = new FakeClock();
  const account = (user: string) => ({
    account: { user, uid: 5_001, gid: 1, service: "files", groups: [], groupsUnavailable: [], kept: false },
    unavailable: [],
  });
  const hung = Promise.withResolvers<AccountAnswer>();
  let fingerprint = "1";
  let answers: (() => Promise<AccountAnswer>)[] = [() => hung.promise, async () => account("carol")];
  const kept: (AccountAnswer["account"] | null)[] = [];
  const accounts = new Accounts({
    clock,
    database: {
      byUid: (_uid, before) => {
        const next = answers.shift();
        if (next !== undefined) return next();
        kept.push(before as never);
        return Promise.resolve({
          account: null,
          unavailable: [{ service: "sss", status: "unavailable" }],
        } as never);
      },
      byName: async () => ({ account: null, unavailable: [] }),
      ownersInFile: () => [],
      ownersService: () => null,
      ownersByService: async () => ({ status: "success", owners: [] }),
      isAllocated: () => false,
      fingerprint: () => fingerprint,
    },
  });
  const first = accounts.resolve(5_001);
  fingerprint = "2";
  await clock.advance(1_000);
  expect((await accounts.resolve(5_001)).user).toBe("carol");
  hung.resolve(account("alice"));
  await first;
  answers = [];
  await clock.advance(120_000);
  await Promise.resolve(accounts.resolve(5_001)).catch(() => {});
  expect(kept.at(-1)).toMatchObject({ user: "carol" });
});
