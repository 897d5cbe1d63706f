import { describe, expect, test } from "bun:test";
import {
  accountOfName,
  accountOfUid,
  type NamedAccount,
  type NameService,
  type ServiceReply,
  type Walk,
} from "../../src/identity/name-walk.ts";
import { parseNameSwitch } from "../../src/identity/nsswitch.ts";

/** A service with accounts and the gids of their groups, or one that cannot tell. */
interface Service {
  readonly accounts?: Readonly<Record<string, NamedAccount & { readonly gids?: readonly number[] }>>;
  readonly groups?: Readonly<Record<number, string>>;
  readonly away?: boolean;
  /** Whether only its groups of accounts cannot be told. */
  readonly groupsAway?: boolean;
}

const UNAVAILABLE = { status: "unavail", why: "unavailable" } as const;
const NONE = { status: "notfound" } as const;

function walk(conf: string, services: Readonly<Record<string, Service>>): Walk {
  const told = <T>(value: T | undefined): ServiceReply<T> =>
    value === undefined ? NONE : { status: "success", value };
  return {
    services: parseNameSwitch(conf),
    open(name): NameService {
      const service = services[name] ?? {};
      const accounts = Object.values(service.accounts ?? {});
      const unless = <T>(reply: ServiceReply<T>) => (service.away === true ? UNAVAILABLE : reply);
      return {
        accountByUid: (uid) => unless(told(accounts.find((one) => one.uid === uid))),
        // Without regard to case, as LDAP.
        accountByName: (user) =>
          unless(told(accounts.find((one) => one.user.toLowerCase() === user.toLowerCase()))),
        groupName: (gid) => unless(told(service.groups?.[gid])),
        groupsOf: (user) =>
          service.groupsAway === true
            ? UNAVAILABLE
            : unless(told(accounts.find((one) => one.user === user)?.gids)),
      };
    },
  };
}

const alice = { user: "alice", uid: 2001, gid: 100 };
const LOCAL = { accounts: { alice }, groups: { 100: "users", 7: "wheel" } };
const AWAY = [{ service: "sss", why: "unavailable" }];

describe("accountOfUid()", () => {
  test("without an account in any service: there is none, and nothing is unavailable", () => {
    expect(accountOfUid(walk("passwd: files sss", { files: LOCAL }), 4711, null)).toEqual({
      account: null,
      unavailable: [],
    });
  });

  // The order must not matter: RHEL asks sss first, Debian last, and with getent(1) the last answer hides the others.
  for (const order of ["files sss", "sss files", "sss files systemd", "sss [NOTFOUND=return] files"]) {
    test(`passwd: ${order}: with sss away, a uid that files lacks cannot be told`, () => {
      const services = { files: LOCAL, sss: { away: true } };
      expect(accountOfUid(walk(`passwd: ${order}`, services), 4711, null)).toEqual({
        account: null,
        unavailable: AWAY,
      });
    });
    test(`passwd: ${order}: with sss away, an account of files is told`, () => {
      const services = { files: LOCAL, sss: { away: true } };
      const { account } = accountOfUid(walk(`passwd: ${order}\ngroup: ${order}`, services), 2001, null);
      expect(account).toMatchObject({
        user: "alice",
        service: "files",
        kept: false,
        groupsUnavailable: AWAY,
      });
    });
  }

  test("[UNAVAIL=return] ends the search, as glibc does, and it is unavailable", () => {
    const services = { files: LOCAL, sss: { away: true } };
    const found = accountOfUid(walk("passwd: sss [UNAVAIL=return] files", services), 2001, null);
    expect(found).toEqual({ account: null, unavailable: AWAY });
  });

  test("groups are those of every service, each with who told it", () => {
    const services = {
      files: { accounts: { alice: { ...alice, gids: [100, 7] } }, groups: { 100: "users", 7: "wheel" } },
      sss: { accounts: { alice: { ...alice, gids: [7, 9] } }, groups: { 9: "domain users" } },
    };
    const { account } = accountOfUid(walk("passwd: files sss\ngroup: files sss", services), 2001, null);
    expect(account?.groups).toEqual([
      { gid: 100, name: "users", nameUnavailable: [], by: ["files"] },
      { gid: 7, name: "wheel", nameUnavailable: [], by: ["files", "sss"] },
      { gid: 9, name: "domain users", nameUnavailable: [], by: ["sss"] },
    ]);
    expect(account?.groupsUnavailable).toEqual([]);
  });

  test("a line for initgroups ends with the first that has some", () => {
    const services = {
      files: { accounts: { alice: { ...alice, gids: [7] } }, groups: { 7: "wheel" } },
      sss: { accounts: { alice: { ...alice, gids: [9] } } },
    };
    const conf = "passwd: files sss\ngroup: files sss\ninitgroups: files sss";
    const { account } = accountOfUid(walk(conf, services), 2001, null);
    expect(account?.groups.map(({ gid }) => gid)).toEqual([100, 7]);
  });

  test("groups that a service cannot tell are not none: it is said", () => {
    const services = { files: LOCAL, sss: { groupsAway: true } };
    const { account } = accountOfUid(walk("passwd: files\ngroup: files sss", services), 2001, null);
    expect(account?.groupsUnavailable).toEqual(AWAY);
  });

  test("a gid whose name cannot be told is not one without a name", () => {
    const gone = accountOfUid(walk("group: files sss", { files: { accounts: { alice } } }), 2001, null);
    expect(gone.account?.groups).toEqual([{ gid: 100, name: null, nameUnavailable: [], by: ["files"] }]);
    const services = { files: { accounts: { alice } }, sss: { away: true } };
    const unavailable = accountOfUid(walk("group: files sss", services), 2001, null);
    expect(unavailable.account?.groups[0]).toMatchObject({ name: null, nameUnavailable: AWAY });
  });

  describe("with the account of before", () => {
    const before = { ...alice, service: "sss" };
    const conf = "passwd: files sss\ngroup: files sss";
    test("whose service cannot tell now: it is kept, with the groups that others tell", () => {
      const services = {
        files: { accounts: { x: { ...alice, uid: 1, gids: [7] } }, groups: { 7: "wheel" } },
        sss: { away: true },
      };
      const { account } = accountOfUid(walk(conf, services), 2001, before);
      expect(account).toMatchObject({ user: "alice", kept: true, groupsUnavailable: AWAY });
      expect(account?.groups.map(({ name }) => name)).toEqual([null, "wheel"]);
    });
    test("whose service tells that it is gone: it is gone", () => {
      expect(accountOfUid(walk(conf, { files: {}, sss: {} }), 2001, before)).toEqual({
        account: null,
        unavailable: [],
      });
    });
    test("that another service has now: that one's", () => {
      const services = { files: { accounts: { m: { ...alice, user: "mallory" } } }, sss: { away: true } };
      expect(accountOfUid(walk(conf, services), 2001, before).account).toMatchObject({
        user: "mallory",
        service: "files",
        kept: false,
      });
    });
  });
});

describe("accountOfName()", () => {
  test("takes no account of another spelling, which LDAP gives", () => {
    expect(accountOfName(walk("passwd: files", { files: LOCAL }), "ALICE").account).toBeNull();
    expect(accountOfName(walk("passwd: files", { files: LOCAL }), "alice").account).toMatchObject({
      uid: 2001,
    });
  });
});
