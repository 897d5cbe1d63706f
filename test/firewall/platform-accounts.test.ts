import { describe, expect, test } from "bun:test";
import {
  exemptOf,
  PLATFORM_ACCOUNTS,
  type PlatformFacts,
  platformLines,
  type Standing,
  standingAccounts,
} from "../../src/firewall/platform-accounts.ts";

const LOGIN = "pcluster-admin:x:400:400:AWS ParallelCluster Admin user:/home/pcluster-admin:/bin/bash";
const LOCKED = "pcluster-admin:!!:20000:0:99999:7:::";
const NODE: PlatformFacts = {
  passwd: `root:x:0:0:root:/root:/bin/bash\n${LOGIN}\nalice:x:1001:1001::/home/alice:/bin/bash\n`,
  shadow: `root:*:20000:0:99999:7:::\n${LOCKED}\nalice:$6$x$y:20000:0:99999:7:::\n`,
  exists: (path) => path === "/etc/parallelcluster",
};
const standing = (name: string, facts: Partial<PlatformFacts>): Standing | undefined =>
  standingAccounts("parallelcluster", { ...NODE, ...facts }).find((one) => one.name === name)?.standing;
const admin = (facts: Partial<PlatformFacts>) => standing("pcluster-admin", facts);
const passwd = (...lines: string[]) => ({ passwd: `root:x:0:0:root:/root:/bin/bash\n${lines.join("\n")}\n` });
const shadow = (password: string) => ({ shadow: `pcluster-admin:${password}:20000:0:99999:7:::\n` });

describe("standingAccounts()", () => {
  test("an account as the cookbook makes it is exempt: a login shell, a locked password, uid 400", () => {
    expect(admin({})).toEqual({ kind: "exempt", uid: 400 });
    expect(exemptOf(standingAccounts("parallelcluster", NODE))).toEqual([400]);
  });

  test("without a login shell the password does not matter", () => {
    const facts = {
      ...passwd("dcv:x:998:998::/:/sbin/nologin"),
      shadow: null,
      exists: (path: string) => path === "/usr/bin/dcv",
    };
    expect(standing("dcv", facts)).toEqual({ kind: "exempt", uid: 998 });
    expect(standing("dcv", { ...facts, ...passwd("dcv:x:998:998::/:/bin/false") })).toEqual({
      kind: "exempt",
      uid: 998,
    });
  });

  test("one that is not there is absent", () => {
    expect(admin(passwd())).toEqual({ kind: "absent" });
    // A name that only begins so, or that is commented out, is another.
    expect(admin(passwd(LOGIN.replace("admin", "administrator"), `#${LOGIN}`))).toEqual({ kind: "absent" });
  });

  const bad: readonly [string, Partial<PlatformFacts>, string][] = [
    ["a person's uid", passwd(LOGIN.replaceAll(":400", ":1002")), "its uid is 1002"],
    ["root's uid", passwd(LOGIN.replace(":400:", ":0:")), "its uid is 0"],
    ["a uid that is no number", passwd(LOGIN.replace(":400:", ":4e2:")), "its uid is 4e2"],
    ["no uid", passwd("pcluster-admin"), "its uid is "],
    ["an entry twice", passwd(LOGIN, LOGIN.replace(":400:", ":401:")), "more than once"],
    ["a uid that somebody else has too", passwd(LOGIN, "eve:x:0400:400::/:/bin/sh"), "the account eve has"],
    ["nothing of ParallelCluster on the node", { exists: () => false }, "nothing here makes such an account"],
    ["a password", shadow("$6$salt$hash"), "is not locked"],
    ["an empty password", shadow(""), "is not locked"],
    ["no entry in /etc/shadow", { shadow: "root:*:1::::::\n" }, "is not locked"],
    ["no /etc/shadow to be read", { shadow: null }, "only root can see"],
  ];
  for (const [what, facts, why] of bad) {
    test(`with ${what} it is not exempt`, () => {
      expect(admin(facts)).toMatchObject({ kind: "refused", why: expect.stringContaining(why) });
      expect(exemptOf(standingAccounts("parallelcluster", { ...NODE, ...facts }))).toEqual([]);
    });
  }

  test("another platform does not expect it, and none expects nobody", () => {
    for (const platform of ["ec2", "hyperpod", "pcs"] as const)
      expect(standingAccounts(platform, NODE).map(({ name }) => name)).not.toContain("pcluster-admin");
    expect(standingAccounts("none", NODE)).toEqual([]);
  });

  test("every account names its daemon and the files that show it", () => {
    for (const account of Object.values(PLATFORM_ACCOUNTS).flat()) {
      expect(account.evidence.every((path) => path.startsWith("/"))).toBe(true);
      expect([account.of !== "", account.evidence.length > 0]).toEqual([true, true]);
    }
  });
});

test("platformLines() says who is exempt, who is expected, and who is not exempt with the reason", () => {
  const exists = () => true;
  const facts = { ...NODE, ...passwd(LOGIN, "cwagent:x:1500:1500::/:/bin/false"), exists };
  expect(platformLines("parallelcluster", standingAccounts("parallelcluster", facts))).toEqual([
    "platform parallelcluster: exempt: pcluster-admin (uid 400): clustermgtd, clusterstatusmgtd, computemgtd and loginmgtd",
    "platform parallelcluster: not on this node yet, exempt once their packages make them: systemd-imds, ec2-instance-connect, dcv, dcvextauth",
    "platform parallelcluster: not exempt: cwagent: its uid is 1500, which is no system account's (1 to 999)",
  ]);
  expect(platformLines("none", [])).toEqual([]);
});
