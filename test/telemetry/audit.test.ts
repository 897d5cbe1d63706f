import { describe, expect, test } from "bun:test";
import type { Caller } from "../../src/identity/caller.ts";
import { UNKNOWN_IDENTITY } from "../../src/identity/types.ts";
import type { RefusalKind } from "../../src/imds/refusal.ts";
import { MESSAGE_IDS } from "../../src/telemetry/audit.ts";
import { auditFields, JOURNAL_FIELD_NAMES } from "../../src/telemetry/audit-record.ts";
import { encodeJournalEntry } from "../../src/telemetry/journal-entry.ts";
import { aRequest } from "../sessions/support.ts";
import { ownerOf } from "../support/callers.ts";
import { anAudit, granted, identityOf, lateNames, refused, roleDecision } from "./audit-support.ts";

describe("a line says", () => {
  test("who got what, by which rule, and by which key CloudTrail knows it", () => {
    const { audit, lines } = anAudit();
    const request = aRequest({
      sourceIdentity: "alice",
      tags: [["team", "data"]],
      externalId: "shared-4711",
    });
    audit.request(
      granted({
        decided: {
          identity: identityOf({
            cgroup: "/system.slice/slurmstepd.scope/job_12/step_0/user/task_0",
            slurmJobId: "12",
          }),
          decision: roleDecision({ request }),
          namedGroups: new Set(["data-eng", "wheel"]),
        },
      }),
    );
    expect(lines).toEqual([
      {
        level: "info",
        message: "granted",
        fields: {
          time: "2030-01-01T00:00:00.000Z",
          decision: "granted",
          reason: 'rule "data engineers" matched',
          user: "alice",
          uid: 2001,
          groups: ["data-eng"],
          cgroup: "/system.slice/slurmstepd.scope/job_12/step_0/user/task_0",
          unit: "slurmstepd.scope",
          slurmJob: "12",
          imdsVersion: 2,
          route: "role-credentials",
          status: 200,
          rule: "data engineers",
          role: "arn:aws:iam::842413447717:role/ImdsProxyTestRole",
          sessionName: "alice@i-0123",
          sourceIdentity: "alice",
          tags: { team: "data" },
          accessKeyId: "ASIA1",
          durationMs: 1.235,
          count: 1,
        },
      },
    ]);
  });

  test("that STS gave no session, in the words that the caller may read", () => {
    const { audit, lines } = anAudit();
    const failure = { kind: "denied", message: "STS refuses to assume it" } as const;
    audit.request(granted({ accessKeyId: null, failure }));
    expect(lines[0]).toMatchObject({
      message: "refused",
      fields: { kind: "denied", reason: "STS refuses to assume it", rule: "data engineers", user: "alice" },
    });
  });

  test("who was refused, and why; a warning where it passes by itself", () => {
    const { audit, lines } = anAudit();
    audit.request(refused());
    audit.request(refused({ status: 503, refusal: "unavailable", why: "away" }));
    expect(lines.map(({ level, message }) => [level, message])).toEqual([
      ["info", "refused"],
      ["warn", "refused"],
    ]);
    expect(lines[0]?.fields).toMatchObject({
      decision: "refused",
      kind: "rule",
      reason: 'rule "guests" gives no role',
      uid: 2001,
      status: 404,
    });
  });

  test("that somebody was turned away before they were looked at", () => {
    const { audit, lines } = anAudit();
    for (const kind of ["busy", "malformed", "crowded"] as const)
      audit.turnedAway({ kind, caller: ownerOf(2001), status: null });
    expect(lines.map(({ level, message }) => [level, message])).toEqual(
      Array(3).fill(["warn", "turned away"]),
    );
    expect(new Set(lines.map(({ fields }) => fields["reason"])).size).toBe(3);
  });

  test("nothing of an answer that gives no credentials, and of HEAD, which gives only their length", () => {
    const { audit, lines } = anAudit();
    audit.request(refused({ status: 200, refusal: null, why: undefined }));
    audit.request(granted({ method: "HEAD" }));
    expect(lines).toEqual([]);
  });

  test("a container by its address, and a caller whom nobody knows by nothing", () => {
    const { audit, lines } = anAudit();
    audit.request(refused({ caller: { kind: "container", address: "172.17.0.2" } }));
    audit.request(refused({ caller: { kind: "unknown" }, refusal: "identity", status: 403, why: "no" }));
    expect(lines.map(({ fields }) => [fields["container"], fields["uid"]])).toEqual([
      ["172.17.0.2", undefined],
      [undefined, undefined],
    ]);
  });

  test("no text without an end, and only so many groups", () => {
    const { audit, lines } = anAudit();
    const groups = Array.from({ length: 1_000 }, (_, index) => `group-${index}`);
    audit.request(
      granted({
        decided: {
          identity: identityOf({ user: "u".repeat(100_000), cgroup: `/${"c".repeat(100_000)}`, groups }),
          decision: roleDecision(),
          namedGroups: new Set(groups),
        },
      }),
    );
    expect(JSON.stringify(lines).length).toBeLessThan(8_000);
  });
});

describe("credentials are one line", () => {
  test("for each session and caller, however often they ask", () => {
    const { audit, lines } = anAudit();
    for (let time = 0; time < 100; time++) {
      audit.request(granted());
      audit.request(granted({ caller: ownerOf(2002), subject: 2002 }));
      audit.request(granted({ accessKeyId: "ASIA2" }));
    }
    expect(lines.map(({ fields }) => [fields["uid"], fields["accessKeyId"]])).toEqual([
      [2001, "ASIA1"],
      [2002, "ASIA1"],
      [2001, "ASIA2"],
    ]);
    expect(audit.counts()).toEqual({ journal: 0, stderr: 3, suppressed: 0 });
  });

  test("for each job and login, that is for each cgroup", () => {
    const { audit, lines } = anAudit();
    const inCgroup = (cgroupId: bigint): Caller => ({
      kind: "owner",
      owner: { uid: 2001, cgroupId, redirected: true },
      share: 2001,
    });
    for (const id of [1n, 2n, 1n, 2n]) audit.request(granted({ caller: inCgroup(id) }));
    expect(lines).toHaveLength(2);
  });

  test("sooner or later also for those of a user who has more callers than lines", async () => {
    const { audit, lines, clock } = anAudit();
    const callers = Array.from(
      { length: 100 },
      (_, index): Caller => ({
        kind: "owner",
        owner: { uid: 2001, cgroupId: BigInt(index), redirected: true },
        share: 2001,
      }),
    );
    for (const caller of callers) audit.request(granted({ caller }));
    expect(lines).toHaveLength(60);
    expect(audit.counts().suppressed).toBe(40);
    for (let seconds = 0; seconds < 400; seconds += 5) {
      await clock.advance(5_000);
      for (const caller of callers) audit.request(granted({ caller }));
    }
    expect(lines).toHaveLength(100);
    const total = lines.reduce((sum, { fields }) => sum + Number(fields["count"]), 0);
    expect(total).toBeGreaterThanOrEqual(100);
  });
});

describe("what users cause does not fill the journal:", () => {
  test("ten thousand refusals are a line in ten seconds, and the next says how many there were", async () => {
    const { audit, lines, clock } = anAudit();
    for (let i = 0; i < 10_000; i++) audit.request(refused({ refusal: "request", status: 400 }));
    expect(lines.map(({ fields }) => fields["count"])).toEqual([1]);
    await clock.advance(10_000);
    audit.request(refused({ refusal: "request", status: 400 }));
    expect(lines.map(({ fields }) => fields["count"])).toEqual([1, 10_000]);
  });

  test.each(["rule", "token"] as const)(
    "a refusal of the kind %s is a line in ten minutes",
    async (refusal) => {
      const { audit, lines, clock } = anAudit();
      for (let second = 0; second < 600; second++) {
        audit.request(refused({ refusal }));
        await clock.advance(1_000);
      }
      expect(lines).toHaveLength(1);
      audit.request(refused({ refusal }));
      expect(lines.map(({ fields }) => fields["count"])).toEqual([1, 600]);
    },
  );

  test("all kinds of one user together have 60 lines, and then one in five seconds; another user has their own", async () => {
    const { audit, lines, clock } = anAudit();
    const all = (uid: number) => {
      for (let i = 0; i < 1_000; i++)
        audit.request(
          refused({ caller: ownerOf(uid), refusal: `kind-${i}` as RefusalKind, status: 400, why: `${uid}` }),
        );
    };
    all(2001);
    expect(lines).toHaveLength(60);
    audit.request(refused({ caller: ownerOf(2002) }));
    expect(lines).toHaveLength(61);
    await clock.advance(60_000);
    all(2001);
    expect(lines).toHaveLength(61 + 12);
  });

  test("all subordinate uids of a user are that user", () => {
    const { audit, lines } = anAudit();
    for (let uid = 100_000; uid < 110_000; uid++)
      audit.request(refused({ caller: ownerOf(uid, "subordinate to alice"), subject: uid }));
    expect(lines).toHaveLength(1);
  });

  test("a container that takes ten thousand addresses is one user with all other containers", () => {
    const { audit, lines } = anAudit();
    for (let i = 0; i < 10_000; i++)
      audit.request(refused({ caller: { kind: "container", address: `172.17.${i >> 8}.${i & 255}` } }));
    expect(lines).toHaveLength(1);
  });

  test("ten thousand users are remembered in a bounded memory, and those beyond share their lines", () => {
    const { audit, lines } = anAudit();
    for (let uid = 1; uid <= 10_000; uid++) audit.request(refused({ caller: ownerOf(uid), subject: uid }));
    expect(lines.length).toBeLessThanOrEqual(4_096 + 60);
  });

  test("what no line has counted gets one in the end, and at the stop", async () => {
    const { audit, lines, clock } = anAudit();
    for (let i = 0; i < 5; i++) audit.request(refused());
    await clock.advance(720_000);
    expect(lines.at(-1)).toEqual({
      level: "info",
      message: "decisions without a line of their own",
      fields: { user: "2001", count: 4 },
    });
    for (let i = 0; i < 5; i++) audit.request(refused({ refusal: "role" }));
    audit.stop();
    expect(lines.at(-1)?.fields).toEqual({ user: "2001", count: 4 });
    expect(clock.pending).toBe(0);
  });
});

describe("where no rule needed the caller's name or cgroup", () => {
  test("they are found out for the line, and what the decision was made by stays", async () => {
    const names = lateNames();
    const { audit, lines, clock } = anAudit({ identify: names.identify });
    audit.request(
      granted({
        decided: { identity: identityOf({ cgroup: null }), decision: roleDecision(), namedGroups: new Set() },
      }),
    );
    audit.request(refused());
    expect(lines).toEqual([]);
    const found = identityOf({ user: "renamed-meanwhile", cgroup: "/system.slice/cron.service" });
    for (const { tell } of names.asked) tell(found);
    await clock.advance(0);
    expect(lines.map(({ fields }) => [fields["user"], fields["unit"]])).toEqual([
      ["alice", "cron.service"],
      ["renamed-meanwhile", "cron.service"],
    ]);
  });

  test("the line waits for five seconds, says what is known, and comes once", async () => {
    const names = lateNames();
    const { audit, lines, clock } = anAudit({ identify: names.identify });
    audit.request(refused());
    await clock.advance(4_999);
    expect(lines).toEqual([]);
    await clock.advance(1);
    expect(lines.map(({ fields }) => [fields["uid"], fields["user"], fields["time"]])).toEqual([
      [2001, undefined, "2030-01-01T00:00:00.000Z"],
    ]);
    names.asked[0]?.tell(identityOf());
    await clock.advance(10);
    expect(lines).toHaveLength(1);
  });

  test("a look-up that fails costs no line, and neither does the end of the service", async () => {
    const names = lateNames();
    const { audit, lines, clock } = anAudit({ identify: names.identify });
    audit.request(refused());
    names.asked[0]?.fail();
    await clock.advance(0);
    audit.request(refused({ refusal: "role" }));
    audit.stop();
    expect(lines.filter(({ message }) => message === "refused")).toHaveLength(2);
    const throwing = anAudit({
      identify: () => {
        throw new Error("away");
      },
    });
    throwing.audit.request(refused());
    expect(throwing.lines).toHaveLength(1);
  });
});

/** The fields of an entry, read as journald reads them (journald-native.c). */
function decode(entry: Uint8Array): [string, string][] {
  const fields: [string, string][] = [];
  const bytes = Buffer.from(entry);
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf(10, at);
    const line = bytes.subarray(at, end).toString("latin1");
    const equals = line.indexOf("=");
    if (equals >= 0) {
      fields.push([line.slice(0, equals), line.slice(equals + 1)]);
      at = end + 1;
      continue;
    }
    const length = Number(bytes.readBigUInt64LE(end + 1));
    fields.push([line, bytes.subarray(end + 9, end + 9 + length).toString("utf8")]);
    expect(bytes[end + 9 + length]).toBe(10);
    at = end + 10 + length;
  }
  return fields;
}

describe("where standard error is the journal's, a line is an entry with fields:", () => {
  test("the message is the line, and each field stands for itself; nothing goes to standard error", () => {
    const entries: Uint8Array[] = [];
    const { audit, lines } = anAudit({ journal: (entry) => entries.push(entry) > 0 });
    audit.request(granted());
    expect(lines).toEqual([]);
    expect(audit.counts()).toEqual({ journal: 1, stderr: 0, suppressed: 0 });
    const fields = decode(entries[0] ?? new Uint8Array());
    const { MESSAGE, ...rest } = Object.fromEntries(fields);
    expect(JSON.parse(MESSAGE ?? "")).toMatchObject({ level: "info", message: "granted", user: "alice" });
    expect(rest).toMatchObject({
      MESSAGE_ID: MESSAGE_IDS.granted,
      PRIORITY: "6",
      SYSLOG_IDENTIFIER: "imdsproxy",
      IMDSPROXY_DECISION: "granted",
      IMDSPROXY_USER: "alice",
      IMDSPROXY_UID: "2001",
      IMDSPROXY_GROUP: "data-eng",
      IMDSPROXY_UNIT: "session-3.scope",
      IMDSPROXY_RULE: "data engineers",
      IMDSPROXY_ACCESS_KEY_ID: "ASIA1",
    });
    for (const name of Object.keys(rest).filter((one) => one.startsWith("IMDSPROXY_")))
      expect(JOURNAL_FIELD_NAMES).toContain(name);
  });

  test("a text that a user chose ends no field and begins none, whatever bytes it has", () => {
    const entries: Uint8Array[] = [];
    const { audit } = anAudit({ journal: (entry) => entries.push(entry) > 0 });
    const forged = "/user.slice/x\nIMDSPROXY_USER=root\nPRIORITY=0\n\0=\nMESSAGE\n";
    audit.request(
      granted({
        decided: {
          identity: identityOf({ cgroup: forged, user: "alice\nIMDSPROXY_UID=0" }),
          decision: roleDecision(),
          namedGroups: new Set(),
        },
      }),
    );
    const fields = decode(entries[0] ?? new Uint8Array());
    const of = (name: string) => fields.filter(([one]) => one === name).map(([, value]) => value);
    expect(of("IMDSPROXY_USER")).toEqual(["alice\nIMDSPROXY_UID=0"]);
    expect(of("IMDSPROXY_CGROUP")).toEqual([forged]);
    expect([of("IMDSPROXY_UID"), of("PRIORITY"), of("MESSAGE").length]).toEqual([["2001"], ["6"], 1]);
  });

  test("an entry that journald does not take is a line of standard error", () => {
    const { audit, lines } = anAudit({ journal: () => false });
    audit.request(granted());
    expect(lines).toHaveLength(1);
    expect(audit.counts()).toEqual({ journal: 0, stderr: 1, suppressed: 0 });
  });

  test("a name that is no UTF-8 is sent as its bytes", () => {
    const entry = Buffer.from(encodeJournalEntry([["IMDSPROXY_USER", "al\udce9ce"]]));
    expect(entry.subarray(-6)).toEqual(Buffer.from([0x61, 0x6c, 0xe9, 0x63, 0x65, 0x0a]));
    expect(() => encodeJournalEntry([["lower=x", ""]])).toThrow("no name of a field");
  });
});

test("a value that is cut within a character is cut before it: half of one would make journald's bytes no text at all", () => {
  const fields = (cgroup: string) =>
    auditFields({
      ...{ atMs: 0, decision: "granted", reason: "", kind: null, caller: { kind: "unknown" } },
      identity: { ...UNKNOWN_IDENTITY, uid: 1, user: "a", cgroup },
      ...{
        namedGroups: new Set(),
        rules: null,
        imdsVersion: 2,
        route: "x",
        status: 200,
        accessKeyId: null,
        tookMs: 0,
        count: 1,
      },
    } as never) as { cgroup?: string };
  const long = `/${"é".repeat(1_022)}`;
  expect(fields(`${long}😀x`).cgroup).toBe(`${long}…`);
  expect(fields(`${long}ab`).cgroup).toBe(`${long}a…`);
});
