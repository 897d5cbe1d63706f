import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { AGENT, ALICE, FirewallNode, METADATA, ROOT } from "../firewall/node-support.ts";
import { buildDirectoryModule, writeDirectory } from "../support/nss/directory.ts";
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

/** A node on which ParallelCluster has its files and accounts, and a stand-in for the proxy listens. */
async function clusterNode(kind: "hyperpod" | "ec2"): Promise<FirewallNode> {
  const node = await FirewallNode.start({ kind });
  await node.shell(
    `mkdir /etc/parallelcluster; cat >>/etc/passwd <<'EOF'\n${PASSWD.join("\n")}\nEOF\necho 'pcluster-admin:!:20000:0:99999:7:::' >>/etc/shadow`,
  );
  await node.listen(["127.0.0.1", "254"]);
  return node;
}

/** Who answers a uid at an address, or why nobody does. */
const ask = async (node: FirewallNode, uid: number, place: readonly [string, string]): Promise<string> => {
  const probe = `python3 /run/repository/test/firewall/probe.py ask ${place.join(" ")}`;
  return (await node.shell(`setpriv --reuid=${uid} --clear-groups ${probe}`)).trim();
};

describeAsRoot("the accounts of a platform's daemons", () => {
  let node: FirewallNode;
  const configure = (platform: string) =>
    node.node.write("/etc/imdsproxy/config.yaml", JSON.stringify({ platform }));
  const both = async (uid: number) => [await ask(node, uid, METADATA), await ask(node, uid, AGENT)];

  beforeAll(async () => {
    node = await clusterNode("hyperpod");
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

  test("a container with the node's network is the uid that it runs as: root, a user, or exempt by its number", async () => {
    const contained = async (uid: number) => {
      const probe = `python3 /run/repository/test/firewall/probe.py ask ${METADATA.join(" ")}`;
      return (
        await node.shell(
          `unshare --mount --pid --fork --uts --ipc setpriv --reuid=${uid} --regid=${uid} --clear-groups ${probe}`,
        )
      ).trim();
    };
    expect([await contained(0), await contained(10001)]).toEqual(["other", "proxy"]);
    node.node.write(
      "/etc/imdsproxy/config.yaml",
      JSON.stringify({ platform: "parallelcluster", exempt: ["root", "10001"] }),
    );
    await node.must("apply");
    expect([await contained(0), await contained(10001)]).toEqual(["other", "other"]);
    configure("parallelcluster");
    await node.must("apply");
    expect(await contained(10001)).toBe("proxy");
  });

  test("an account of such a name that a directory makes is a user, with a system uid and the daemon's files there too", async () => {
    const directory = "/run/directory";
    const library = buildDirectoryModule({ service: "hesiod", directory });
    const { node: simulated } = node;
    try {
      copyFileSync(library, simulated.path("/run/libnss.so"));
      const places = "ls /lib*/libnss_hesiod.so.2 /lib/*/libnss_hesiod.so.2 /usr/lib64/libnss_hesiod.so.2";
      await node.shell(`
        for file in $(${places} 2>/dev/null); do mount --bind /run/libnss.so "$file"; done
        sed -i 's/^\\(passwd\\|group\\):.*/\\1: files hesiod/' /etc/nsswitch.conf
        # /etc is the node's own; /opt would be the machine's, where the directory would stay.
        mount -t tmpfs tmpfs /opt
        mkdir -p /etc/dcv /opt/parallelcluster; touch /etc/dcv/dcv.conf`);
      writeDirectory(simulated.path(directory), [
        { name: "dcvextauth", uid: 450 },
        { name: "systemd-imds", uid: 451 },
      ]);
      await node.shell(`sed -i 's#/bin/sh$#/usr/sbin/nologin#' ${directory}/passwd`);
      configure("parallelcluster");
      expect(await node.shell("id -un 450; id -u systemd-imds")).toBe("dcvextauth\n451\n");
      await node.must("apply");
      expect([await both(450), await both(451)]).toEqual([
        ["proxy", CLOSED],
        ["proxy", CLOSED],
      ]);
    } finally {
      rmSync(dirname(library), { recursive: true });
      await node.shell(
        "sed -i 's/^\\(passwd\\|group\\):.*/\\1: files/' /etc/nsswitch.conf; rm /etc/dcv/dcv.conf",
      );
    }
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

/** The chain as imds-access.sh of the cookbook makes it: appended to filter's OUTPUT. */
const IMDS_CHAIN = `
  iptables --new PARALLELCLUSTER_IMDS
  for uid in 0 400 ${SERVICE_UID}; do
    iptables -A PARALLELCLUSTER_IMDS --destination 169.254.169.254 -j ACCEPT -m owner --uid-owner $uid
  done
  iptables -A PARALLELCLUSTER_IMDS --destination 169.254.169.254 -j REJECT`;
const ENTER = "OUTPUT --destination 169.254.169.254 -j PARALLELCLUSTER_IMDS";

for (const [order, enter] of [
  ["below ours", `iptables -A ${ENTER}`],
  ["above ours", `iptables -I ${ENTER}`],
] as const) {
  describeAsRoot(`ParallelCluster's own chain on its head node, ${order}`, () => {
    let node: FirewallNode;
    beforeAll(async () => {
      node = await clusterNode("ec2");
      node.node.write("/etc/imdsproxy/config.yaml", JSON.stringify({ platform: "parallelcluster" }));
    });
    afterAll(() => node?.node.stop());
    const asked = (uid: number) => ask(node, uid, METADATA);

    test("changes nothing for users, for the daemons' account, for the service or for root", async () => {
      await node.shell(IMDS_CHAIN);
      if (order === "below ours") await node.shell(enter);
      await node.must("apply");
      if (order === "above ours") await node.shell(enter);
      expect(await asked(2001)).toBe("proxy");
      expect(await asked(2010)).toBe("proxy");
      for (const uid of [0, 400, SERVICE_UID]) expect([uid, await asked(uid)]).toEqual([uid, "other"]);
    });

    test("stands as it was when ours are removed", async () => {
      await node.must("remove");
      expect(await asked(2001)).toMatch(/^ECONNREFUSED$/);
      expect(await asked(400)).toBe("other");
    });
  });
}
