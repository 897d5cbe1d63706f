import { afterAll, beforeAll, expect, test } from "bun:test";
import { AGENT, ALICE, FirewallNode, METADATA, ROOT } from "../firewall/node-support.ts";
import { describeAsRoot } from "../support/root.ts";

/** The accounts of ParallelCluster's daemons, as its cookbook makes them, and accounts that only bear their names. */

const SERVICE_UID = 990;
const PASSWD = [
  `imdsproxy:x:${SERVICE_UID}:${SERVICE_UID}::/nonexistent:/usr/sbin/nologin`,
  "pcluster-admin:x:400:400:AWS ParallelCluster Admin user:/home/pcluster-admin:/bin/bash",
  // DCV is not on this node: a person chose the name.
  "dcv:x:2010:2010::/home/dcv:/bin/bash",
];
/** By the reset of the rules, or by the routing rules of the second wall. */
const CLOSED = expect.stringMatching(/^(?:ECONNREFUSED|ENETUNREACH|EACCES)$/);

describeAsRoot("the accounts of a platform's daemons", () => {
  let node: FirewallNode;
  const configure = (platform: string) =>
    node.node.write("/etc/imdsproxy/config.yaml", JSON.stringify({ platform }));
  const askAs = (uid: number, place: readonly [string, string]) =>
    node
      .shell(
        `setpriv --reuid=${uid} --clear-groups python3 /run/repository/test/firewall/probe.py ask ${place.join(" ")}`,
      )
      .then((text) => text.trim());
  const both = async (uid: number) => [await askAs(uid, METADATA), await askAs(uid, AGENT)];

  beforeAll(async () => {
    node = await FirewallNode.start({ kind: "hyperpod" });
    await node.shell(
      `mkdir /etc/parallelcluster; cat >>/etc/passwd <<'EOF'\n${PASSWD.join("\n")}\nEOF\necho 'pcluster-admin:!:20000:0:99999:7:::' >>/etc/shadow`,
    );
    await node.listen(["127.0.0.1", "254"]);
  });
  afterAll(() => node?.node.stop());

  test("get what users get where no platform is configured", async () => {
    configure("none");
    await node.must("apply");
    expect(await both(400)).toEqual(["proxy", CLOSED]);
  });

  test("keep the instance role where theirs is; a person who bears such a name does not", async () => {
    configure("parallelcluster");
    await node.must("apply");
    expect(await both(400)).toEqual(["other", "other"]);
    expect(await both(2010)).toEqual(["proxy", CLOSED]);
    expect(await node.ask(ALICE, "ask", ...METADATA)).toBe("proxy");
    expect(await node.ask(ROOT, "ask", ...METADATA)).toBe("other");
    expect((await node.iptables("status")).exitCode).toBe(0);
  });

  test("explain says so of both", async () => {
    const explain = async (user: string) =>
      JSON.parse(await node.shell(`imdsproxy explain --json ${user}`)) as {
        exempt: boolean;
        assumptions: string[];
      };
    expect(await explain("pcluster-admin")).toMatchObject({ exempt: true, assumptions: [] });
    const person = await explain("dcv");
    expect(person.exempt).toBe(false);
    expect(person.assumptions.join()).toContain(
      "dcv is not exempt, though platform parallelcluster expects it: its uid is 2010",
    );
  });

  test("lose it with the lock of their password, and with the account", async () => {
    await node.shell("sed -i 's/^pcluster-admin:!/pcluster-admin:x$y/' /etc/shadow");
    await node.must("apply");
    expect(await both(400)).toEqual(["proxy", CLOSED]);
    await node.shell("sed -i 's/^pcluster-admin:x$y/pcluster-admin:!/' /etc/shadow");
    await node.must("apply");
    expect(await both(400)).toEqual(["other", "other"]);
    await node.shell("sed -i '/^pcluster-admin:/d' /etc/passwd");
    await node.must("apply");
    expect(await both(400)).toEqual(["proxy", CLOSED]);
  });
});
