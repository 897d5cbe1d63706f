import { afterAll, beforeAll, expect, test } from "bun:test";
import { type AuditedNode, startAuditedNode } from "../support/audited.ts";
import { curl, IMDS4 } from "../support/node.ts";
import { eventually } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

describeAsRoot("the audit of a node on which alice and bob have called AWS:", () => {
  let audited: AuditedNode;
  beforeAll(async () => {
    audited = await startAuditedNode();
  });
  afterAll(() => audited?.proxied.node.stop());

  test("each call that STS saw leads by its key to the user, the group and the rule", () => {
    const { events, lines } = audited;
    const calls = events.filter(({ eventName }) => eventName === "GetCallerIdentity");
    expect(calls.length).toBeGreaterThanOrEqual(3);
    const people = new Set<string>();
    for (const { userIdentity } of calls) {
      const { accessKeyId } = userIdentity as { accessKeyId: string };
      const [line, ...more] = lines().filter((one) => one.accessKeyId === accessKeyId);
      // One line for one caller, however often they asked.
      expect(more).toEqual([]);
      const alice = line?.user === "alice";
      expect(line).toMatchObject({
        decision: "granted",
        uid: alice ? 2001 : 2002,
        rule: alice ? "alice's own" : "everybody else",
        sourceIdentity: line?.user,
        imdsVersion: 2,
      });
      if (alice) expect(line?.tags).toEqual({ team: "data", who: "alice" });
      people.add(line?.user ?? "");
      // And CloudTrail's own AssumeRole event has the same key, role and source identity.
      const made = events.find(
        ({ responseElements }) => responseElements?.credentials.accessKeyId === accessKeyId,
      );
      expect(made?.requestParameters).toMatchObject({
        roleArn: line?.role,
        sourceIdentity: line?.sourceIdentity,
      });
    }
    expect([...people].sort()).toEqual(["alice", "bob"]);
  });

  test("no secret is in a line", () => {
    const { lines } = audited;
    expect(lines().length).toBeGreaterThanOrEqual(2);
    expect(JSON.stringify(lines())).not.toContain("SESSION/");
  });

  test("who asks for another's role is refused with a line: once, whatever they do", async () => {
    const { proxied, lines } = audited;
    for (let time = 0; time < 5; time++) {
      const path = `/latest/meta-data/iam/security-credentials/Other${time}`;
      const { status } = await curl(proxied.node, { user: "bob" }, `${IMDS4}${path}`);
      expect([401, 404]).toContain(status);
    }
    const refused = () => lines().filter(({ decision, user }) => decision === "refused" && user === "bob");
    await eventually("it is told", () => refused().length > 0);
    // Lines of one kind are ten seconds apart; tokens may be required, which is a kind of its own.
    for (const line of refused()) expect(["role", "token"]).toContain(line.kind ?? "");
    expect(JSON.stringify(refused())).not.toContain("Other");
  });
});
