/**
 * The proxy with a real directory: users who are in LDAP alone, by SSSD, which goes away at boot and later.
 * Opt-in: `make test-directory` (CI has not the time to build its tree).
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type Machine, until } from "../boot/support/machine.ts";
import { DOWNLOADED, makeNode, STS } from "../boot/support/node.ts";
import { useDirectoryTree } from "./support/directory-tree.ts";

const MINUTES = 60_000;
const DAVE = 6001;
const ERIN = 6002;
/** Of nobody in the directory. */
const NOBODY_UID = 6099;
/** Dave's and erin's subordinate uids. */
const DAVE_SUB = 300_005;
const ERIN_SUB = 400_005;
/** Whose owner is in /etc/subuid by a name that only the directory has, and the directory has it not. */
const ORPHAN_SUB = 500_005;

const LDIF = `dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: example

${["dave", "erin"]
  .map(
    (name, i) => `dn: uid=${name},dc=example,dc=org
objectClass: account
objectClass: posixAccount
uid: ${name}
cn: ${name}
uidNumber: ${DAVE + i}
gidNumber: ${7000 + i}
homeDirectory: /home/${name}
loginShell: /bin/sh
`,
  )
  .join("\n")}
dn: cn=data eng,dc=example,dc=org
objectClass: posixGroup
cn: data eng
gidNumber: 7100
memberUid: dave

dn: cn=barred,dc=example,dc=org
objectClass: posixGroup
cn: barred
gidNumber: 7101
memberUid: erin
`;

const SLAPD = `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
pidfile /run/slapd/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix "dc=example,dc=org"
rootdn "cn=admin,dc=example,dc=org"
directory /var/lib/ldap-test
`;

const SSSD = `[sssd]
services = nss
domains = LDAP
[nss]
entry_negative_timeout = 1
memcache_timeout = 0
[domain/LDAP]
id_provider = ldap
auth_provider = none
access_provider = permit
ldap_uri = ldap://127.0.0.1
ldap_search_base = dc=example,dc=org
entry_cache_timeout = 5
ldap_opt_timeout = 3
ldap_network_timeout = 3
ldap_connection_expire_timeout = 5
offline_timeout = 3
offline_timeout_random_offset = 0
`;

const CONFIGURATION = `listen: 127.0.0.1:254
region: us-west-2
sts: { endpoint: "${STS}" }
role: arn:aws:iam::842413447717:role/ImdsProxyTestRole
sessionName: "{user}"
rules:
  - name: barred
    match: { group: [barred] }
    role: none
  - name: data engineers
    match: { group: [data eng] }
    role: arn:aws:iam::842413447717:role/DataEng
`;

/** Refused, for good or for now: never a role. */
const REFUSED = expect.stringMatching(/^(?:403|404|503)$/);

const BASE = "http://169.254.169.254/latest/meta-data/iam/security-credentials/";
/** What one uid gets: a role's name, or the status. Not through an account: the node may not know one. */
async function asked(node: Machine, uid: number): Promise<string> {
  const ran = await node.run(
    `setpriv --reuid=${uid} --regid=${uid} --clear-groups curl -sS -m 30 -w ' %{http_code}' ${BASE}`,
  );
  const [, body = "", status = ""] = /^(.*?) ?(\d{3})$/s.exec(ran.stdout) ?? [];
  return status === "200" ? body : status;
}
const becomes = (node: Machine, uid: number, what: string | RegExp) =>
  until(
    `${uid} gets ${what}`,
    async () => {
      const got = await asked(node, uid);
      return typeof what === "string" ? got === what : what.test(got);
    },
    MINUTES,
  );

describe("users of a directory, by SSSD and LDAP", () => {
  let node: Machine;
  const service = (verb: string, ...names: string[]) => node.ok(`systemctl ${verb} ${names.join(" ")}`);
  const uidOfAlice = async () => Number((await node.ok("id -u alice")).trim());

  beforeAll(async () => {
    useDirectoryTree();
    node = makeNode();
    node.write("etc/ldap/slapd.conf", SLAPD);
    node.write("root/directory.ldif", LDIF);
    node.write("etc/sssd/sssd.conf", SSSD, 0o600);
    node.write("root/config.yaml", CONFIGURATION);
    node.write("etc/nsswitch.conf", "passwd: files sss\ngroup: files sss\nshadow: files\nhosts: files\n");
    node.write(
      "etc/subuid",
      `alice:100000:65536\ndave:300000:65536\nerin:400000:65536\nformer:500000:65536\n`,
    );
    node.write(
      "etc/systemd/system/directory.service",
      "[Unit]\nAfter=network.target\n[Service]\nRuntimeDirectory=slapd\nExecStart=/usr/sbin/slapd -d 0 -h ldap://127.0.0.1 -f /etc/ldap/slapd.conf\n[Install]\nWantedBy=multi-user.target\n",
    );
    await node.boot();
    await node.ok("mkdir -p /var/lib/ldap-test && slapadd -f /etc/ldap/slapd.conf -l /root/directory.ldif");
    await service("enable --now", "directory", "sssd");
    await until("SSSD knows dave", async () => (await node.run("getent passwd dave")).code === 0);
    await node.ok(`${DOWNLOADED} setup --config /root/config.yaml --verify-as alice`);
  }, 10 * MINUTES);
  afterAll(() => node?.destroy(), MINUTES);

  /** As it is while the directory answers. */
  async function everybodyIsWho(): Promise<void> {
    await becomes(node, DAVE, "DataEng");
    await becomes(node, ERIN, "404");
    expect(await asked(node, DAVE_SUB)).toBe("DataEng");
    expect(await asked(node, ERIN_SUB)).toBe("404");
  }

  test(
    "are told apart by their groups in the directory, one with a space in its name",
    everybodyIsWho,
    2 * MINUTES,
  );

  test("a uid that the directory does not have has no role, nor a subordinate uid whose owner it does not have", async () => {
    expect(await asked(node, NOBODY_UID)).toBe("404");
    expect(await asked(node, ORPHAN_SUB)).toMatch(/403|404|503/);
  });

  test(
    "keep their role, and their refusal, while LDAP is away and SSSD answers from its cache",
    async () => {
      await service("stop", "directory");
      for (let i = 0; i < 45; i++) {
        expect([await asked(node, DAVE), await asked(node, ERIN)]).toEqual(["DataEng", "404"]);
        await Bun.sleep(1000);
      }
      await service("start", "directory");
    },
    3 * MINUTES,
  );

  test(
    "keep them while SSSD itself is away, for longer than any name is kept for",
    async () => {
      await service("stop", "sssd");
      for (let i = 0; i < 45; i++) {
        expect([await asked(node, DAVE), await asked(node, ERIN)]).toEqual(["DataEng", "404"]);
        await Bun.sleep(1000);
      }
      await service("start", "sssd");
      await everybodyIsWho();
    },
    3 * MINUTES,
  );

  test(
    "whom a proxy that has just started never saw get nothing while SSSD is away: not the default role",
    async () => {
      await service("stop", "sssd");
      await node.ok("systemctl stop imdsproxy; rm -f /var/lib/imdsproxy/callers*; systemctl start imdsproxy");
      for (const uid of [DAVE, ERIN, NOBODY_UID, DAVE_SUB, ERIN_SUB]) {
        expect([uid, await asked(node, uid)]).toEqual([uid, REFUSED]);
      }
      // Nor a local account: SSSD could have her in a group that a rule names.
      expect(await asked(node, await uidOfAlice())).toBe("503");
      await service("start", "sssd");
      await everybodyIsWho();
    },
    3 * MINUTES,
  );
});
