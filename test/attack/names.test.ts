import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { appendFileSync, mkdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { IMDS4, mustExec } from "../support/node.ts";
import { buildDirectoryModule, setDirectoryMode, writeDirectory } from "../support/nss/directory.ts";
import { eventually, type ProxiedNode, startProxiedNode, testConfig } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";

/**
 * Dora is refused by her group, carl has a role by his; both are accounts of a directory. She waits until it is away, hangs or
 * crashes, or comes before it at boot, to be a uid without a name, who has the default role. Alice, a local user who is refused by
 * her uid, tries it with her subordinate uids.
 *
 * The directory is a module of NSS in the place of one that glibc brings and nobody uses.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
const DORA: Who = { uid: 5001 };
const CARL: Who = { uid: 5002 };
const STRANGER: Who = { uid: 5999 };
const SERVICE = "hesiod";
const DIRECTORY = "/run/directory";
const DEFAULT_ROLE = "ImdsProxyTestRole";
const role = (name: string) => `arn:aws:iam::842413447717:role/${name}`;
const PEOPLE = [
  { name: "dora", uid: 5001, groups: ["blocked"] },
  { name: "carl", uid: 5002, groups: ["data-eng"] },
  { name: "erik", uid: 5003, groups: ["blocked"] },
  { name: "\xef\xbb\xbfbob", uid: 5010 },
  { name: "b\xff", uid: 5011 },
  { name: "b\xfe", uid: 5012 },
  { name: "uid=5999", uid: 5013 },
  // Two of one range of systemd-nsresourced's: as nss-systemd names them, and an account that has such a uid.
  { name: "ns-2001-web-5", uid: 983_045 },
  { name: "gina", uid: 983_046, groups: ["data-eng"] },
];
/** What systemd-nsresourced makes for alice's namespace, with 65,536 uids from 983040 on. */
const REGISTRY = "/run/systemd/nsresource/registry";
const REGISTERED = `${REGISTRY}/u983040.userns`;
const RULES = [
  { name: "local guests", match: { uid: [2001] }, role: "none" },
  { name: "blocked", match: { group: "blocked" }, role: "none" },
  { name: "data engineers", match: { group: "data-eng" }, role: role("DataEng") },
  { name: "bob", match: { user: "bob" }, role: role("Bob") },
];

const LIST = "/latest/meta-data/iam/security-credentials/";
const UIDS: Readonly<Record<string, number>> = { alice: 2001, bob: 2002 };

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

interface Whoami {
  readonly user: string | null;
  readonly role: string | null;
  readonly roleName: string | null;
  readonly sessionName: string | null;
  readonly rule: string | null;
  readonly reason: string;
}

const HAVE_GCC = Bun.which("gcc") !== null;

(HAVE_GCC ? describeAsRoot : describe.skip)("names by attack", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  let library: string;

  const config = (more: object = {}) =>
    testConfig(node, {
      log: { level: "debug", format: "json" },
      imds: { tokens: "optional" },
      rules: RULES,
      ...more,
    });
  const directory = () => node.path(DIRECTORY);
  const set = (mode: Parameters<typeof setDirectoryMode>[1]) => setDirectoryMode(directory(), mode);
  /** Anybody can have /etc/passwd written anew with chsh(1): then nothing in memory is used without asking. */
  const chsh = () => utimesSync(node.path("/etc/passwd"), new Date(), new Date());
  async function restart(more: object = {}): Promise<void> {
    await proxied.proxy.stop();
    node.write("/etc/imdsproxy/config.yaml", JSON.stringify(config(more)));
    await proxied.restart();
  }

  async function get(who: Who, path: string): Promise<Answer> {
    const uid = "uid" in who ? who.uid : UIDS[who.user];
    const argv = ["/usr/bin/python3", "-I", "-S", "/run/attack/as_uid.py", String(uid), path];
    return JSON.parse(await mustExec(node, ROOT, argv, { timeoutMs: 120_000 })) as Answer;
  }
  /** The name of the role that is listed, or the status where it is not 200. */
  async function list(who: Who): Promise<string> {
    const { status, body } = await get(who, LIST);
    return status === 200 ? body : String(status);
  }
  async function whoami(who: Who): Promise<Whoami> {
    const { status, body } = await get(who, "/imdsproxy/whoami");
    if (status !== 200) throw new Error(`whoami: ${status}`);
    return JSON.parse(body) as Whoami;
  }
  async function explain(name: string): Promise<{ kind: string; reason: string }> {
    const text = await mustExec(node, ROOT, ["imdsproxy", "explain", "--json", name]);
    return (JSON.parse(text) as { decision: { kind: string; reason: string } }).decision;
  }
  const subordinate = (offset: number, ...argv: string[]): string[] => [
    "unshare",
    "-U",
    "--map-auto",
    "--setuid",
    String(offset),
    ...argv,
  ];
  const askAsSubordinate = async (who: Who, offset: number): Promise<string> => {
    const argv = subordinate(offset, "curl", "-s", "-m", "10", "-w", "\n%{http_code}", `${IMDS4}${LIST}`);
    const lines = (await mustExec(node, who, argv)).split("\n");
    return lines.at(-1) === "200" ? (lines[0] ?? "") : (lines.at(-1) ?? "");
  };
  /** Asks until the answer is another than `from`; each that came. */
  async function whileIt(is: string, who: Who): Promise<string> {
    let now = is;
    await eventually(
      `the answer is no longer ${is}`,
      async () => {
        now = await list(who);
        return now !== is;
      },
      60_000,
    );
    return now;
  }

  beforeAll(async () => {
    library = buildDirectoryModule({ service: SERVICE, directory: DIRECTORY });
    proxied = await startProxiedNode(
      {
        users: [
          { name: "alice", uid: 2001, subordinate: [300_000, 65_536] },
          { name: "bob", uid: 2002, subordinate: [400_000, 65_536] },
        ],
        show: { "/run/module/libnss.so": library, ...SHOW_PROGRAMS },
      },
      { rules: RULES },
      async (built) => {
        node = built;
        const place = "ls /lib*/libnss_hesiod.so.2 /lib/*/libnss_hesiod.so.2 /usr/lib64/libnss_hesiod.so.2";
        const script = `for file in $(${place} 2>/dev/null); do mount --bind /run/module/libnss.so "$file"; done`;
        await mustExec(node, ROOT, ["sh", "-c", script]);
        for (const database of ["passwd", "group"]) {
          const conf = readFileSync(node.path("/etc/nsswitch.conf"), "utf8");
          const line = new RegExp(`^${database}:.*$`, "m");
          writeFileSync(node.path("/etc/nsswitch.conf"), conf.replace(line, `${database}: files ${SERVICE}`));
        }
        writeDirectory(directory(), PEOPLE);
        mkdirSync(node.path(REGISTRY), { recursive: true });
      },
    );
    await restart();
  });
  afterAll(async () => {
    await node?.stop();
    if (library !== undefined) rmSync(dirname(library), { recursive: true, force: true });
  });

  test("with the directory up: refused by group, a role by group, and the default role", async () => {
    expect([await list(DORA), await list(CARL), await list(ALICE), await list(BOB)]).toEqual([
      "404",
      "DataEng",
      "404",
      "Bob",
    ]);
  });

  test("a uid without a name is refused, as a rule names groups: explain and whoami say why", async () => {
    expect(await list(STRANGER)).toBe("404");
    const { role: given, reason } = await whoami(STRANGER);
    expect(given).toBeNull();
    expect(reason).toContain('rule "blocked" asks for groups, and the uid has no name');
    expect((await explain("5999")).reason).toBe(reason);
  });

  for (const mode of ["away", "again", "hang", "crash", "groups-away"] as const) {
    test(`with the directory ${mode}, who was known is known, for as long as that lasts`, async () => {
      await restart();
      set("up");
      expect([await list(DORA), await list(CARL)]).toEqual(["404", "DataEng"]);
      set(mode);
      const seen = new Set<string>();
      try {
        // Each time, whatever is in memory has to be asked for anew: as after a minute, or after an hour.
        for (let round = 0; round < 3; round++) {
          chsh();
          const kept = () => proxied.proxy.output().split("its earlier answer is used").length;
          const before = kept();
          await eventually(
            "it has been asked for anew",
            async () => {
              for (const who of [DORA, CARL]) seen.add(`${"uid" in who ? who.uid : ""} ${await list(who)}`);
              return kept() > before || round > 0;
            },
            // Each look-up of one who hangs takes five seconds.
            60_000,
          );
        }
      } finally {
        set("up");
      }
      expect([...seen].sort()).toEqual(["5001 404", "5002 DataEng"]);
    }, 180_000);

    test(`with the directory ${mode} from the start, as at boot, nobody gets another's role: 503 until it answers`, async () => {
      set(mode);
      try {
        await restart();
        const { status, headers } = await get(DORA, LIST);
        expect([status, headers["retry-after"]]).toEqual([503, "1"]);
        // Each look-up of one who hangs takes five seconds.
        if (mode !== "hang") expect(await list(CARL)).toBe("503");
        // Neither by their credentials' names.
        for (const name of mode === "hang" ? [DEFAULT_ROLE] : [DEFAULT_ROLE, "DataEng"]) {
          expect((await get(DORA, LIST + name)).status).toBe(503);
        }
        const said = await whoami(DORA);
        expect([said.role, said.rule]).toEqual([null, "blocked"]);
        const why = `rule "blocked" asks for ${mode === "groups-away" ? "groups, not all of which" : "the user's name, which"} can`;
        expect(said.reason).toStartWith(why);
        expect(said.reason).toContain(SERVICE);
        expect((await explain("5001")).reason).toStartWith(why);
        // Also where it hangs: no look-up of status's own waits for it without end.
        if (mode === "away" || mode === "hang") {
          const argv = ["imdsproxy", "status"];
          const { stdout, stderr } = await node.exec({ ...ROOT, argv, timeoutMs: 60_000 });
          const first = /^NOT healthy: the account database does not answer/;
          expect([stdout, stderr]).toEqual([expect.stringMatching(first), ""]);
        }
      } finally {
        set("up");
      }
      expect(await whileIt("503", DORA)).toBe("404");
      expect(await whileIt("503", CARL)).toBe("DataEng");
      await eventually("the log says so", () =>
        proxied.proxy.output().includes("NSS does not answer who a user is"),
      );
    }, 180_000);
  }

  test("who is refused by uid, and local, is so with the directory hanging; and bob, who is known, is served", async () => {
    await restart();
    set("up");
    expect(await list(BOB)).toBe("Bob");
    set("hang");
    try {
      chsh();
      expect([await list(ALICE), await list(BOB)]).toEqual(["404", "Bob"]);
    } finally {
      set("up");
    }
  });

  test("an account that the directory has no more is gone, and its uid is refused", async () => {
    await restart();
    expect(await list(CARL)).toBe("DataEng");
    writeDirectory(
      directory(),
      PEOPLE.filter(({ uid }) => uid !== 5002),
    );
    try {
      chsh();
      expect(await whileIt("DataEng", CARL)).toBe("404");
      // The one who is gone does not come back as one who is kept.
      set("away");
      chsh();
      expect(await whileIt("404", CARL)).toBe("503");
    } finally {
      writeDirectory(directory(), PEOPLE);
    }
  });

  describe("subordinate uids", () => {
    test("a rule by uid counts for what newuidmap gives its user", async () => {
      await restart();
      expect(await list(ALICE)).toBe("404");
      expect(await askAsSubordinate(ALICE, 5)).toBe("404");
      expect(await askAsSubordinate(BOB, 5)).toBe("Bob");
      expect((await explain("300005")).reason).toBe('rule "local guests" gives no role');
    });

    test("whose owner is a number in /etc/subuid are that account's", async () => {
      appendFileSync(node.path("/etc/subuid"), "2001:500000:65536\n");
      await eventually("the file was seen", async () => (await askAsSubordinate(BOB, 6)) === "Bob");
      expect(await list({ uid: 500_005 })).toBe("404");
      expect((await explain("500005")).reason).toBe('rule "local guests" gives no role');
    });

    test("that two own, or nobody, are refused", async () => {
      appendFileSync(node.path("/etc/subuid"), "bob:300000:10\nnobody-here:600000:65536\n");
      for (const uid of [300_005, 600_000]) {
        await eventually(`uid ${uid} is refused`, async () => (await list({ uid })) === "403");
        const { exitCode, stderr } = await node.exec({
          ...ROOT,
          argv: ["imdsproxy", "explain", String(uid)],
        });
        expect([exitCode, stderr]).toEqual([1, expect.stringContaining(`uid ${uid} is`)]);
      }
    });

    test("whose owner is an account of a directory that is away are refused for now", async () => {
      appendFileSync(node.path("/etc/subuid"), "carl:700000:65536\n");
      set("away");
      try {
        await restart();
        expect(await list({ uid: 700_000 })).toBe("503");
        const { exitCode, stderr } = await node.exec({ ...ROOT, argv: ["imdsproxy", "explain", "700000"] });
        expect([exitCode, stderr]).toEqual([1, expect.stringContaining("cannot tell for now whose")]);
      } finally {
        set("up");
      }
      expect(await whileIt("503", { uid: 700_000 })).toBe("DataEng");
    });

    test("that systemd-nsresourced has given away are nobody's, whatever they are called, and also where an account has one", async () => {
      await restart();
      const [given, gina] = [{ uid: 983_045 }, { uid: 983_046 }];
      expect(await list(gina)).toBe("DataEng");
      writeFileSync(node.path(REGISTERED), '{"owner":2001,"name":"2001-web","size":65536,"start":983040}');
      expect([await list(given), await list(gina), await list(CARL)]).toEqual(["403", "403", "DataEng"]);
      const { exitCode, stderr } = await node.exec({ ...ROOT, argv: ["imdsproxy", "explain", "983045"] });
      expect([exitCode, stderr]).toEqual([1, expect.stringContaining("systemd-nsresourced has given")]);
      rmSync(node.path(REGISTERED));
      expect(await list(gina)).toBe("DataEng");
    });

    test("that a service of nsswitch.conf is to know, and cannot tell, are refused; accounts are themselves", async () => {
      const conf = node.path("/etc/nsswitch.conf");
      const before = readFileSync(conf, "utf8");
      writeFileSync(conf, `${before}subid: nothing\n`);
      try {
        await restart();
        expect([await list({ uid: 700_000 }), await list(CARL), await list(BOB)]).toEqual([
          "403",
          "DataEng",
          "Bob",
        ]);
      } finally {
        writeFileSync(conf, before);
      }
    });
  });

  describe("names", () => {
    test("that differ in bytes are other people's: a byte order mark and bob is not bob", async () => {
      await restart({ nameless: "default" });
      const marked = await whoami({ uid: 5010 });
      expect([marked.user, marked.roleName]).toEqual(["\ufeffbob", DEFAULT_ROLE]);
      const sessions = await Promise.all(
        [5010, 5011, 5012, 5013, 5999].map(async (uid) => (await whoami({ uid })).sessionName),
      );
      expect(sessions.at(-1)).toStartWith("uid=5999@");
      expect(new Set(sessions).size).toBe(5);
      expect(sessions).not.toContain((await whoami(BOB)).sessionName);
      for (const session of sessions) expect(session).toMatch(/^[\w+=,.@-]{2,64}$/);
    });

    test("nameless: default gives a uid without a name what the rules leave", async () => {
      expect(await list(STRANGER)).toBe(DEFAULT_ROLE);
      expect(await list(DORA)).toBe("404");
      // It is for uids that have no name, and not for those whose name cannot be told.
      set("away");
      try {
        await restart({ nameless: "default" });
        expect([await list(STRANGER), await list(DORA)]).toEqual(["503", "503"]);
      } finally {
        set("up");
      }
    });
  });
});
