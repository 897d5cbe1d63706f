import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { AGENT, FirewallNode, METADATA } from "../firewall/node-support.ts";
import { buildDirectoryModule, setDirectoryMode, writeDirectory } from "../support/nss/directory.ts";
import { describeAsRoot } from "../support/root.ts";

/**
 * Who may make accounts in a directory calls one `imdsproxy`, or as a daemon of the platform that is exempt; or /etc/passwd brings
 * such accounts in by lines that begin with `+`. None of them is let pass by its name, whichever service is asked first.
 */

const PROBE = "/run/repository/test/firewall/probe.py";
const AS_UID =
  "import os, sys; os.setgroups([]); os.setuid(int(sys.argv[1])); os.execv(sys.executable, [sys.executable] + sys.argv[2:])";
/** By the reset of the rules, or by the routing rules of the second wall. */
const CLOSED = expect.stringMatching(/^(?:ECONNREFUSED|ENETUNREACH|EACCES)$/);
const USERS = ["proxy", CLOSED];
const EXEMPT = ["other", "other"];
const SERVICE_UID = 990;
const DAEMON_UID = 400;
const DIRECTORY = "/run/directory";
/** By their names, their uids in the directory; 401 is a system account's. */
const PEOPLE = { imdsproxy: 5001, root: 5003, "pcluster-admin": 401, dcv: 5002 } as const;
const UIDS = Object.values(PEOPLE);
const SERVICE_LINE = `imdsproxy:x:${SERVICE_UID}:${SERVICE_UID}::/nonexistent:/usr/sbin/nologin`;
const DAEMON_LINE = `pcluster-admin:x:${DAEMON_UID}:${DAEMON_UID}::/:/usr/sbin/nologin`;

const HAVE_GCC = Bun.which("gcc") !== null;

(HAVE_GCC ? describeAsRoot : describe.skip)("accounts of a directory that are called as exempt ones", () => {
  let node: FirewallNode;
  let library: string | undefined;
  let passwd: string;

  /** What each uid gets at the metadata address, and at the agent's; all of them ask at the same time. */
  const asked = async (...uids: number[]): Promise<Record<string, readonly unknown[]>> => {
    const places = [METADATA, AGENT].map((place) => place.join(" "));
    const asks = uids.flatMap((uid) =>
      places.map((place, i) => `(echo ${uid} ${i} $(python3 -c '${AS_UID}' ${uid} ${PROBE} ask ${place})) &`),
    );
    const said = (await node.shell(`${asks.join("\n")}\nwait`)).trim().split("\n").sort();
    const answers: Record<string, string[]> = {};
    for (const line of said) {
      const [uid = "", , answer = ""] = line.split(" ");
      answers[uid] = [...(answers[uid] ?? []), answer];
    }
    return answers;
  };
  /** What `asked` says where all of them get the same. */
  const all = (uids: readonly number[], get: readonly unknown[]) =>
    Object.fromEntries(uids.map((uid) => [uid, get]));
  /** The services of nsswitch.conf(5), and the lines of /etc/passwd besides those of the machine. */
  const accounts = async (services: string, ...lines: string[]) => {
    const conf = node.node.path("/etc/nsswitch.conf");
    writeFileSync(conf, readFileSync(conf, "utf8").replace(/^passwd:.*$/m, `passwd: ${services}`));
    writeFileSync(node.node.path("/etc/passwd"), [passwd.trimEnd(), ...lines, ""].join("\n"));
    await node.must("apply");
  };
  const known = (name: string) => node.shell(`getent passwd ${name} || :`);

  beforeAll(async () => {
    library = buildDirectoryModule({ service: "hesiod", directory: DIRECTORY });
    node = await FirewallNode.start({ kind: "hyperpod" });
    copyFileSync(library, node.node.path("/run/libnss.so"));
    await node.shell(
      "for file in $(ls /lib*/libnss_hesiod.so.2 /lib/*/libnss_hesiod.so.2 /usr/lib64/libnss_hesiod.so.2 2>/dev/null); do " +
        'mount --bind /run/libnss.so "$file"; done; mkdir -p /etc/parallelcluster /etc/dcv; : >/etc/dcv/dcv.conf',
    );
    writeDirectory(
      node.node.path(DIRECTORY),
      Object.entries(PEOPLE).map(([name, uid]) => ({ name, uid })),
    );
    passwd = readFileSync(node.node.path("/etc/passwd"), "utf8")
      .split("\n")
      .filter((line) => !line.startsWith("imdsproxy:"))
      .join("\n");
    await node.listen(["127.0.0.1", "254"]);
    node.node.write("/etc/imdsproxy/config.yaml", JSON.stringify({ platform: "parallelcluster" }));
  });
  afterAll(async () => {
    await node?.node.stop();
    if (library !== undefined) rmSync(dirname(library), { recursive: true, force: true });
  });

  test("are users, where /etc/passwd has none of that name", async () => {
    await accounts("files hesiod");
    expect(await known("imdsproxy")).toStartWith("imdsproxy:x:5001:");
    expect(await asked(...UIDS)).toEqual(all(UIDS, USERS));
  });

  test("are users, where the directory is asked first; the local ones keep their place", async () => {
    await accounts("hesiod files", SERVICE_LINE, DAEMON_LINE);
    expect(await known("imdsproxy")).toStartWith("imdsproxy:x:5001:");
    const local = [SERVICE_UID, DAEMON_UID];
    expect(await asked(...UIDS, ...local)).toEqual({ ...all(UIDS, USERS), ...all(local, EXEMPT) });
  });

  test("are users, where /etc/passwd brings them in by `+`, or by a second line of that name", async () => {
    await accounts(
      "compat",
      ...["+imdsproxy::::::", "+pcluster-admin:x:400:400:::/usr/sbin/nologin", "+::::::/usr/sbin/nologin"],
      ...["dcv:x:998:998::/:/usr/sbin/nologin", "dcv:x:5002:5002::/:/bin/sh"],
    );
    const everybody = [...UIDS, DAEMON_UID, SERVICE_UID, 998];
    expect(await asked(...everybody)).toEqual(all(everybody, USERS));
    // The C library skips blanks before a name, and takes what follows for the account of that name.
    await accounts("files", " dcv:x:5002:5002::/:/bin/sh", "dcv:x:998:998::/:/usr/sbin/nologin");
    expect(await asked(PEOPLE.dcv)).toEqual(all([PEOPLE.dcv], USERS));
  });

  test("are not even asked for: with the directory hanging the service is let pass at once", async () => {
    setDirectoryMode(node.node.path(DIRECTORY), "hang");
    try {
      await accounts("hesiod files", SERVICE_LINE, DAEMON_LINE);
      const local = [SERVICE_UID, DAEMON_UID];
      expect(await asked(...local, PEOPLE.imdsproxy)).toEqual({
        ...all(local, EXEMPT),
        ...all([PEOPLE.imdsproxy], USERS),
      });
    } finally {
      setDirectoryMode(node.node.path(DIRECTORY), "up");
    }
  });
});
