import { describe, expect, test } from "bun:test";
import type { RequestEvent } from "../../src/imds/request-event.ts";
import { NamesHealth } from "../../src/telemetry/names-health.ts";
import { RecentErrors } from "../../src/telemetry/recent-errors.ts";
import { SeenUsers } from "../../src/telemetry/seen-users.ts";
import {
  errorRows,
  MOST_BYTES,
  problemRows,
  sessionRows,
  userRows,
} from "../../src/telemetry/status-document.ts";
import { ownerOf } from "../support/callers.ts";
import { granted } from "./audit-support.ts";

/** What the proxy remembers for `imdsproxy status`. */

const HOUR = 3_600_000;
const TEST_ROLE = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";
const ROLE = "arn:aws:iam::123456789012:role/R";
/** A request of alice's, uid 2001, that says nothing of what she gets. */
const request = (over: Partial<RequestEvent> = {}): RequestEvent =>
  granted({ accessKeyId: null, decided: null, ...over });

describe("SeenUsers", () => {
  const aList = () => {
    let nowMs = 0;
    const users = new SeenUsers({ now: () => nowMs });
    return {
      users,
      advance: (ms: number) => {
        nowMs += ms;
      },
    };
  };

  test("counts requests by version, with the last outcome", () => {
    const { users, advance } = aList();
    users.request(request({ route: "token" }));
    users.request({ ...granted(), accessKeyId: null, route: "role-list", imdsVersion: 1 });
    expect(users.list()).toMatchObject([
      { requests: 2, v1: 1, v2: 1, user: "alice", outcome: "metadata", role: null },
    ]);
    advance(1_000);
    users.request(granted());
    users.request(request({ route: "metadata" }));
    expect(users.list()).toMatchObject([
      {
        share: 2001,
        firstMs: 0,
        lastMs: 1_000,
        requests: 4,
        outcome: "credentials",
        role: TEST_ROLE,
        why: null,
      },
    ]);
  });

  test("whoever has the uid by now has nothing of what its former account asked for", () => {
    const { users, advance } = aList();
    users.request(granted());
    advance(1_000);
    const { decided } = granted();
    if (decided === null) throw new Error("granted() decides");
    const identity = { ...decided.identity, user: "zoe" };
    users.request({ ...granted(), accessKeyId: null, decided: { ...decided, identity }, route: "role-list" });
    expect(users.list()).toMatchObject([
      { user: "zoe", firstMs: 1_000, requests: 1, outcome: "metadata", role: null },
    ]);
    // While the directory is away nobody has a name, and nobody has changed either.
    users.request({ ...granted(), decided: { ...decided, identity: { ...identity, user: null } } });
    users.request({ ...granted(), decided: { ...decided, identity } });
    expect(users.of(2001)?.requests).toBe(3);
  });

  const outcomes: [Partial<RequestEvent>, string][] = [
    [{ failure: { kind: "denied", message: "no" } }, "denied"],
    [{ failure: { kind: "unavailable", message: "away" }, status: 503 }, "unavailable"],
    [{ refusal: "rule", why: "no rule", status: 404 }, "refused"],
    [{ refusal: "identity", why: "two users", status: 403 }, "refused"],
    [{ refusal: "unavailable", why: "NSS", status: 503 }, "unavailable"],
    [{ refusal: "token", why: "no token", status: 401 }, "metadata"],
  ];
  for (const [event, outcome] of outcomes) {
    test(`tells ${JSON.stringify(event)} as ${outcome}`, () => {
      const { users } = aList();
      users.request(request(event));
      expect(users.of(2001)?.outcome).toBe(outcome as "denied");
    });
  }

  test("does not count who looks at themselves, nor root's look at the health", () => {
    const { users } = aList();
    users.request(request({ route: "whoami" }));
    users.request(request({ route: "token", subject: 0, caller: ownerOf(0) }));
    users.request(request({ subject: null, caller: { kind: "unknown" } }));
    expect(users.list()).toEqual([]);
  });

  test("has all subordinate uids of a user in one row, so that 65,536 of them drive nobody out", () => {
    const { users } = aList();
    users.request(request());
    for (let uid = 100_000; uid < 165_536; uid++)
      users.request(request({ subject: uid, caller: ownerOf(uid, "alice") }));
    expect(users.list().map(({ share, subject, requests }) => [share, subject, requests])).toEqual([
      [2001, 2001, 1],
      ["alice", 165_535, 65_536],
    ]);
  });

  test("remembers 1,024 users, and forgets who asked longest ago", () => {
    const { users, advance } = aList();
    for (let uid = 0; uid < 1_025; uid++) {
      advance(1);
      users.request(request({ subject: uid, caller: ownerOf(uid) }));
    }
    expect([users.list().length, users.of(0), users.of(1)?.share]).toEqual([1_024, null, 1]);
  });

  test("remembers 256 containers, which drive no user out by taking other addresses", () => {
    const { users, advance } = aList();
    users.request(granted());
    for (let at = 0; at < 2_000; at++) {
      advance(1);
      users.request(request({ caller: { kind: "container", address: `172.17.${at >> 8}.${at & 0xff}` } }));
    }
    const seen = users.list();
    expect(seen).toHaveLength(257);
    expect(seen[0]).toMatchObject({ subject: "172.17.7.207" });
    expect(seen.at(-1)).toMatchObject({ user: "alice" });
  });
  test("forgets after four hours", () => {
    const { users, advance } = aList();
    users.request(request());
    advance(4 * HOUR);
    expect(users.list()).toHaveLength(1);
    advance(1);
    expect([users.of(2001), users.list()]).toEqual([null, []]);
  });
});

describe("RecentErrors", () => {
  test("has each kind once, the last first, with its count, its last words and its remedy", () => {
    let nowMs = 0;
    const errors = new RecentErrors({ now: () => nowMs });
    errors.note("a", "first", () => "do this");
    nowMs = 5;
    errors.note("b", "other", () => null);
    nowMs = 9;
    errors.note("a", "second", () => "do that");
    expect(errors.list()).toEqual([
      { what: "second", count: 2, firstMs: 0, lastMs: 9, remedy: "do that" },
      { what: "other", count: 1, firstMs: 5, lastMs: 5, remedy: null },
    ]);
    nowMs = 5 + 4 * HOUR + 1;
    expect(errors.list().map(({ what }) => what)).toEqual(["second"]);
  });
  test("has 64 kinds at most", () => {
    const errors = new RecentErrors({ now: () => 0 });
    for (let i = 0; i < 100; i++) errors.note(`${i}`, `${i}`, () => null);
    expect(errors.list()).toHaveLength(64);
    expect(errors.list()[0]?.what).toBe("99");
  });
});

describe("NamesHealth", () => {
  test("is a finding from a failed look-up until none has failed for a minute", () => {
    let nowMs = 0;
    const names = new NamesHealth({ now: () => nowMs });
    expect(names.finding()).toBeNull();
    names.unavailable({ uid: 1, outcome: "unknown", why: "sss timed out" });
    names.unavailable({ uid: 1, outcome: "kept", why: "sss timed out" });
    expect(names.finding()?.what).toContain("does not answer (sss timed out): for one user");
    names.unavailable({ uid: 2, outcome: "kept", why: "sss timed out" });
    expect(names.finding()?.what).toContain("2 users");
    nowMs = 60_000;
    expect(names.finding()).not.toBeNull();
    nowMs = 60_001;
    expect(names.finding()).toBeNull();
    names.unavailable({ uid: 3, outcome: "kept", why: "sss timed out" });
    expect(names.finding()?.what).toContain("one user");
  });
});

describe("the document", () => {
  test("is bounded, and says how much more there is", () => {
    const long = "\u0001".repeat(100_000);
    const seen = Array.from({ length: 1_024 }, (_, share) => ({
      share,
      subject: share,
      user: "a",
      firstMs: 0,
      lastMs: 0,
      requests: 1,
      v1: 0,
      v2: 1,
      outcome: "refused" as const,
      role: ROLE,
      grants: [long, long],
      why: long,
    }));
    const roles = Array.from({ length: 300 }, (_, i) => ({
      role: `${ROLE}${i}`,
      sessions: 1,
      firstEndMs: 0,
      notRenewed: 0,
      denied: 0,
      failing: 0,
    }));
    const texts = Array.from({ length: 64 }, () => ({
      id: "sts",
      what: long,
      since: "",
      remedy: long,
      lasting: true,
      count: 1,
      firstMs: 0,
      lastMs: 0,
    }));
    const document = {
      users: userRows(seen),
      sessions: sessionRows(roles),
      problems: problemRows(texts),
      errors: errorRows(texts),
    };
    expect([document.users.more, document.sessions.more, document.errors.more]).toEqual([824, 100, 44]);
    expect(Buffer.byteLength(JSON.stringify(document))).toBeLessThan(MOST_BYTES);
  });
  test("has a container by its address, and nobody's share", () => {
    const seen = { share: "10.0.0.2", subject: "10.0.0.2", firstMs: 0, lastMs: 0, requests: 1, v1: 1, v2: 0 };
    const { rows } = userRows([
      { ...seen, user: null, outcome: "metadata", role: null, grants: null, why: null },
    ]);
    expect(rows[0]).toEqual({
      user: null,
      uid: null,
      container: "10.0.0.2",
      first: "1970-01-01T00:00:00.000Z",
      last: "1970-01-01T00:00:00.000Z",
      requests: 1,
      v1: 1,
      v2: 0,
      outcome: "metadata",
      role: null,
      grants: null,
      why: null,
    });
  });
});
