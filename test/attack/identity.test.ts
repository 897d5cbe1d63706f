import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { ADDRESSES } from "../../src/demo/network.ts";
import { USERS_SOURCE } from "../../src/firewall/wall/tables.ts";
import { mustExec } from "../support/node.ts";
import { eventually, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";
import { attack, SHOW_PROGRAMS, whileStopped } from "./support/attack.ts";

/**
 * Alice wants to be bob, whose role is the better one, or root. Each attack ends with the right identity, or with a refusal.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
const ALICE_UID = 2001;
const BOB_UID = 2002;
const DEFAULT_ROLE = "ImdsProxyTestRole";
const BETTER = "arn:aws:iam::842413447717:role/Better";
const SUBORDINATE = [300_000, 65_536] as const;
/** The port that bob's connection has, as everyone can see in /proc/net/tcp. */
const BOBS_PORT = 45_000;
/** Where the kernel has one port to give away. */
const ONE_PORT = BOBS_PORT + 200;
/** The first of those that two users' connections have at a time. */
const SHARED_PORT = BOBS_PORT + 400;
const NAIVE_PORT = 989;
/** Somebody whose requests are this test's marks in the log. */
const MARKING_UID = 2_999_999;
/** For how long an attack that depends on chance is made, until it has taken place. */
const TRIED_MS = 60_000;
const LOST = "connection tracking has lost the connection";

interface Whoami {
  readonly user: string | null;
  readonly uid: number;
  readonly subordinate: boolean;
  readonly sessionName: string | null;
  readonly roleName: string | null;
}
interface RequestLine {
  readonly message: string;
  readonly subject?: number | null;
  readonly route?: string;
  readonly status?: number;
  readonly why?: string;
}

describeAsRoot("identity by attack", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;

  const python = (program: string, ...args: readonly (string | number)[]): string[] => [
    "/usr/bin/python3",
    `/run/attack/${program}.py`,
    ...args.map(String),
  ];
  const whoami = (who: Who, prefix: readonly string[] = []): Promise<Whoami> =>
    mustExec(node, who, [...prefix, ...python("whoami")]).then((text) => JSON.parse(text) as Whoami);
  const linesFrom = (start: number): RequestLine[] =>
    proxied.proxy
      .output()
      .slice(start)
      .split("\n")
      // The last may have come in part.
      .slice(0, -1)
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line) as RequestLine);
  const isMark = ({ subject }: RequestLine) => subject === MARKING_UID;
  /** Waits for the line of a request of our own: those of the requests that were answered before it have come by then. */
  async function mark(): Promise<void> {
    const start = proxied.proxy.output().lastIndexOf("\n") + 1;
    await eventually("the line has come", async () => {
      await whoami({ uid: MARKING_UID });
      return linesFrom(start).some(isMark);
    });
  }
  /** What the proxy logs of requests and refusals while something happens, at level debug. */
  async function logged(act: () => Promise<unknown>): Promise<RequestLine[]> {
    await mark();
    const before = proxied.proxy.output().lastIndexOf("\n") + 1;
    await act();
    await mark();
    // Whatever comes of those who were gone before their answer has come when nothing more has come for a while.
    for (let length = -1; length !== proxied.proxy.output().length; await Bun.sleep(200)) {
      length = proxied.proxy.output().length;
    }
    return linesFrom(before).filter((line) => !isMark(line));
  }

  beforeAll(async () => {
    proxied = await startProxiedNode(
      {
        users: [
          { name: "alice", uid: ALICE_UID, subordinate: SUBORDINATE },
          { name: "bob", uid: BOB_UID },
          { name: "carol", uid: 2050 },
          // Somebody whose uid the directory gave, and useradd too, to alice.
          { name: "erin", uid: SUBORDINATE[0] + 7 },
        ],
        show: SHOW_PROGRAMS,
      },
      {
        log: { level: "debug", format: "json" },
        nameless: "default",
        rules: [{ name: "bob", match: { user: ["bob", "erin"] }, role: BETTER }],
      },
    );
    node = proxied.node;
  });
  afterAll(() => node?.stop());

  describe("a socket like the victim's", () => {
    test("127.0.0.2 on the victim's port is the victim to a proxy that looks at the port", async () => {
      const naive = node.spawn({ ...ROOT, argv: python("naive", "port", NAIVE_PORT), timeoutMs: 0 });
      try {
        await eventually("the naive proxy answers", async () => {
          const answer = await node.exec({ ...BOB, argv: ["curl", "-s", `http://127.0.0.1:${NAIVE_PORT}/`] });
          return answer.stdout === String(BOB_UID);
        });
        // Which address comes first in the kernel's table is another for each node, and the same for each port: so bob has
        // some, and she tries some, each on a port of its own, where no closed socket of hers stands before his.
        const told: string[] = [];
        for (let last = 2; last < 12 && !told.includes(String(BOB_UID)); last++) {
          const port = BOBS_PORT + last;
          const bobs = [1, 2, 3, 4, 5, 6].map((bob) =>
            node.spawn({
              ...BOB,
              argv: python("holder", 60, `127.0.1.${bob}`, port, "127.0.0.1", NAIVE_PORT),
            }),
          );
          for (const bob of bobs) await eventually("bob is connected", () => bob.stdout().includes("ready"));
          const from = ["--interface", `127.0.0.${last}`, "--local-port", String(port)];
          const argv = ["curl", "-s", ...from, `http://127.0.0.1:${NAIVE_PORT}/`];
          told.push((await node.exec({ ...ALICE, argv })).stdout);
          for (const bob of bobs) bob.kill("SIGKILL");
          await Promise.all(bobs.map((bob) => bob.done));
        }
        expect(told).toContain(String(BOB_UID));
      } finally {
        naive.kill("SIGKILL");
        await naive.done;
      }
    }, 180_000);

    test("is alice's own, whatever address, device and option she gives it", async () => {
      const bob = node.spawn({
        ...BOB,
        argv: python("holder", 8, USERS_SOURCE, BOBS_PORT, ADDRESSES.imds4, 80),
      });
      await eventually("bob is connected", () => bob.stdout().includes("ready"));
      const attempts = await attack<Record<string, string>>(
        node,
        ALICE,
        "sockets",
        [BOBS_PORT, BOB_UID],
        150_000,
      );
      // Some of them are connected, others the kernel or the firewall forbids; none is somebody else.
      const outcomes = new Set(Object.values(attempts));
      expect(outcomes).toContain(DEFAULT_ROLE);
      expect([...outcomes].filter((one) => /better|MySageMaker|^status 200/i.test(one))).toEqual([]);
      const allowed = new RegExp(
        `^(?:E[A-Z]+|status 40[34]|timed out|itself|closed without an answer|${DEFAULT_ROLE})$`,
      );
      expect(Object.entries(attempts).filter(([, outcome]) => !allowed.test(outcome))).toEqual([]);
      for (const privileged of [
        "IP_TRANSPARENT",
        "TCP_REPAIR: a connection made up",
        "a raw socket",
        "the socket given away with fchown",
        "the socket given to root with fchown",
        "a name in the kernel's eyes other than the process's: setuid",
      ]) {
        expect([privileged, attempts[privileged]]).toEqual([privileged, "EPERM"]);
      }
      expect(attempts["both ends opened at once, on the proxy's own port"]).toBe("EACCES");
      expect(attempts["dissolved with AF_UNSPEC and connected again"]).toBe(DEFAULT_ROLE);
      // And bob was bob all the while.
      const roles = JSON.parse((await bob.done).stdout.split("\n")[1] ?? "{}") as Record<string, number>;
      expect(Object.keys(roles)).toEqual(["Better"]);
    }, 180_000);
  });

  test("a connection of hers that she binds to an interface leaves its port to bob, who is himself on it", async () => {
    const range = (await mustExec(node, ROOT, ["sysctl", "-n", "net.ipv4.ip_local_port_range"])).trim();
    const givePorts = (some: string) =>
      mustExec(node, ROOT, ["sysctl", "-qw", `net.ipv4.ip_local_port_range=${some}`]);
    try {
      for (const [index, how] of [
        ["lo", 4],
        ["eth0", 4],
        ["lo", 6],
      ].entries()) {
        const port = SHARED_PORT + index;
        await givePorts(`${port} ${port}`);
        const found = await attack<{ after: string }>(node, ROOT, "overlap", [ALICE_UID, BOB_UID, ...how]);
        expect(found).toMatchObject({ first: `${ALICE_UID}`, second: `${BOB_UID}`, samePort: true });
        // What she kept is no connection any more, whatever the kernel says of it: his own took its place.
        expect(found.after).not.toContain("HTTP/");
      }
    } finally {
      await givePorts(range);
    }
  });

  describe("a socket's fate", () => {
    test("a client that has sent all that it will send is still answered", async () => {
      expect((await mustExec(node, ALICE, python("fates", "half"))).trim()).toBe(String(ALICE_UID));
    });

    for (const fate of ["close", "linger", "exit", "half-exit"]) {
      test(`gone by "${fate}" before the proxy came to it, it is nobody's: not root's, and not the next one's`, async () => {
        const { pid } = proxied.proxy;
        const lines = await logged(async () => {
          const port = BOBS_PORT + 100;
          const bob = await whileStopped(pid, async () => {
            await mustExec(node, ALICE, python("fates", fate, port));
            // Bob's connection comes after hers in the queue, from the port that was hers, where the kernel lets him.
            const running = node.spawn({ ...BOB, argv: python("fates", "half", port) });
            await Bun.sleep(200);
            return running;
          });
          expect((await bob.done).stdout.trim()).toMatch(
            new RegExp(`^(?:${BOB_UID}|EADDR[A-Z]+|status 403)$`),
          );
        });
        const served = lines.filter(({ message, status }) => message === "request" && status === 200);
        expect(served.filter(({ subject }) => subject !== BOB_UID)).toEqual([]);
        const refused = lines.filter(({ message }) => message === "a caller could not be identified");
        for (const { why } of refused)
          expect(why).toMatch(/no owner any more|no socket of this node|TCP state/);
      });
    }

    test("asked and gone a hundred times: nobody is served as root, or as anybody but alice", async () => {
      const script = `for i in $(seq 25); do for fate in close linger exit half-exit; do
        /usr/bin/python3 /run/attack/fates.py $fate >/dev/null & done; wait; done`;
      const lines = await logged(() => mustExec(node, ALICE, ["sh", "-c", script], { timeoutMs: 150_000 }));
      const subjects = new Set(
        lines.filter(({ message }) => message === "request").map(({ subject }) => subject),
      );
      subjects.delete(null);
      subjects.delete(BOB_UID);
      expect([...subjects].filter((subject) => subject !== ALICE_UID)).toEqual([]);
    }, 180_000);

    test("in another's hands it speaks for whoever made it", async () => {
      const told = await attack<Record<string, string>>(node, ROOT, "hands", [ALICE_UID, BOB_UID]);
      expect(Object.keys(told)).toHaveLength(4);
      expect([...new Set(Object.values(told))]).toEqual([String(ALICE_UID)]);
      // What root was handed is not root's either.
      const toRoot = await attack<Record<string, string>>(node, ROOT, "hands", [ALICE_UID, 0]);
      expect([...new Set(Object.values(toRoot))]).toEqual([String(ALICE_UID)]);
    });

    for (const [how, flush] of [
      ["connection tracking is emptied", ["conntrack", "-F"]],
      ["the filter is flushed as well", ["sh", "-c", "conntrack -F; iptables -w 5 -F IMDSPROXY"]],
    ] as const) {
      test(`where ${how} before the proxy came to it: refused or right`, async () => {
        try {
          const lines = await logged(async () => {
            const [alice, bob] = await whileStopped(proxied.proxy.pid, async () => {
              const running = [
                node.spawn({ ...ALICE, argv: python("whoami") }),
                node.spawn({ ...BOB, argv: python("whoami") }),
              ] as const;
              await Bun.sleep(300);
              await node.exec({ ...ROOT, argv: flush });
              return running;
            });
            const said = [await alice.done, await bob.done].map(
              ({ stdout }) => JSON.parse(stdout) as Partial<Whoami>,
            );
            expect([ALICE_UID, undefined]).toContain(said[0]?.uid);
            expect([BOB_UID, undefined]).toContain(said[1]?.uid);
          });
          expect(lines.filter(({ subject }) => subject === 0)).toEqual([]);
        } finally {
          await mustExec(node, ROOT, ["/run/bin/imdsproxy", "iptables", "apply"]);
        }
      });
    }

    test("an entry that vanished does not make the victim an attacker who waits on their port", async () => {
      // With the filter flushed alice holds a connection straight to the proxy from bob's port; its entry is lost, so that the
      // redirect gives bob the same port; then his entry is lost too. What is left is a socket of alice's in bob's place.
      const range = (await mustExec(node, ROOT, ["sysctl", "-n", "net.ipv4.ip_local_port_range"])).trim();
      const givePorts = (some: string) =>
        mustExec(node, ROOT, ["sysctl", "-qw", `net.ipv4.ip_local_port_range=${some}`]);
      await mustExec(node, ROOT, ["iptables", "-w", "5", "-F", "IMDSPROXY"]);
      try {
        // Until the attack took place: on a busy machine her connection can be gone before his entry is lost.
        let tookPlace = false;
        const endMs = performance.now() + TRIED_MS;
        for (let port = ONE_PORT; !tookPlace && performance.now() < endMs; port++) {
          const lines = await logged(async () => {
            await givePorts(`${port} ${port}`);
            const bob = await whileStopped(proxied.proxy.pid, async () => {
              const alice = node.spawn({
                ...ALICE,
                argv: python("holder", 6, ADDRESSES.node4, 0, "127.0.0.1", 254),
                timeoutMs: 0,
              });
              await eventually("alice is connected", () => alice.stdout().includes("ready"));
              await mustExec(node, ROOT, ["conntrack", "-F"]);
              const running = node.spawn({ ...BOB, argv: python("fates", "half") });
              // His first SYN meets her connection and ends it on our side; the second, a second later, is his own.
              // Once he has asked, he has nothing more to say: his end is in FIN-WAIT.
              const states = ["established", "fin-wait-1", "fin-wait-2"].flatMap((state) => ["state", state]);
              const his = ["ss", "-Htn", ...states, "dst", `${ADDRESSES.imds4}:80`, "sport", "=", `:${port}`];
              await eventually(
                "bob is connected",
                async () => (await mustExec(node, ROOT, his)).trim() !== "",
              );
              await mustExec(node, ROOT, ["conntrack", "-F"]);
              return running;
            });
            expect((await bob.done).stdout.trim()).not.toBe(String(ALICE_UID));
            await givePorts(range);
          });
          // Alice asks for the list of roles, and bob who he is.
          const whoBobIs = lines.filter(({ message, route }) => message === "request" && route === "whoami");
          expect(whoBobIs.filter(({ subject }) => subject === ALICE_UID)).toEqual([]);
          tookPlace = lines.some(({ why }) => why === LOST);
        }
        expect(tookPlace).toBe(true);
      } finally {
        await givePorts(range);
        await mustExec(node, ROOT, ["/run/bin/imdsproxy", "iptables", "apply"]);
      }
    });

    test("while entries vanish at any moment and alice sits on every port: refused or right", async () => {
      // What a full table does to connections by eviction; the table's size is the machine's, so they are deleted instead.
      const range = (await mustExec(node, ROOT, ["sysctl", "-n", "net.ipv4.ip_local_port_range"])).trim();
      await mustExec(node, ROOT, ["sysctl", "-qw", "net.ipv4.ip_local_port_range=46000 46199"]);
      await mustExec(node, ROOT, ["iptables", "-w", "5", "-F", "IMDSPROXY"]);
      const deleting = "while :; do conntrack -F; sleep 0.02; done";
      const vanishing = node.spawn({ ...ROOT, argv: ["sh", "-c", deleting], timeoutMs: 0 });
      try {
        type Told = { identities: Record<string, number> };
        const uids = ({ identities }: Told) => Object.keys(identities).filter((who) => /^\d+$/.test(who));
        // Until the attack took place: until there were connections that had lost their entry when we came to them.
        let tookPlace = false;
        const endMs = performance.now() + TRIED_MS;
        while (!tookPlace && performance.now() < endMs) {
          let alice: Told = { identities: {} };
          let bob: Told = { identities: {} };
          const lines = await logged(async () => {
            [alice, bob] = await Promise.all([
              attack<Told>(node, ALICE, "collide", [ADDRESSES.node4, "127.0.0.1", 254, 4]),
              attack<Told>(node, BOB, "asker", [ADDRESSES.imds4, 80, 4]),
            ]);
          });
          // Refused or right: on a busy machine each of the four seconds' connections may have lost its entry.
          for (const [told, uid] of [
            [alice, ALICE_UID],
            [bob, BOB_UID],
          ] as const) {
            expect(Object.keys(told.identities)).not.toEqual([]);
            expect([[], [String(uid)]]).toContainEqual(uids(told));
          }
          tookPlace = lines.some(({ why }) => why === LOST);
        }
        expect(tookPlace).toBe(true);
      } finally {
        vanishing.kill("SIGKILL");
        await vanishing.done;
        await mustExec(node, ROOT, ["sysctl", "-qw", `net.ipv4.ip_local_port_range=${range}`]);
        await mustExec(node, ROOT, ["/run/bin/imdsproxy", "iptables", "apply"]);
      }
    }, 180_000);
  });

  describe("namespaces", () => {
    test("root of a user namespace is the user who made it", async () => {
      expect(await whoami(ALICE, ["unshare", "-Ur"])).toMatchObject({ uid: ALICE_UID, user: "alice" });
    });

    test("a socket that threads of the kernel make and use for her (io_uring) is hers, and leads nowhere else", async () => {
      const found = await attack<Record<string, readonly unknown[] | null>>(node, ALICE, "uring");
      expect(Object.keys(found)).toEqual(["workers", "polled"]);
      // Null where users have no io_uring (kernel.io_uring_disabled).
      for (const asked of Object.values(found).filter((one) => one !== null))
        expect(asked).toEqual([
          ALICE_UID,
          expect.stringMatching(/^(?:Network is unreachable|Permission denied|Connection refused)$/),
        ]);
    });
    test("root of a user namespace takes no rule or route of the node's away", async () => {
      const state = () =>
        mustExec(node, ROOT, ["sh", "-c", "iptables-save | grep -v '^[#:]'; ip rule; nft list tables || :"]);
      const before = await state();
      for (const line of [
        "nft delete table inet imdsproxy_limits",
        "nft flush ruleset",
        "iptables -F",
        "ip rule del pref 0",
        "ip route flush table 1692541",
      ])
        await node.exec({ ...ALICE, argv: ["unshare", "--user", "--map-root-user", "sh", "-c", line] });
      expect(await state()).toBe(before);
      const { stdout } = await node.exec({
        ...ALICE,
        argv: ["unshare", "--user", "--map-root-user", "id", "-u"],
      });
      expect(stdout.trim()).toBe("0");
    });
    test("in a network namespace of her own there is no proxy, and no metadata service", async () => {
      const said = JSON.parse(await mustExec(node, ALICE, ["unshare", "-Urn", ...python("whoami")]));
      expect(said).toEqual({ refused: "Network is unreachable" });
    });

    test("a subordinate uid is its owner's by name, and itself by number", async () => {
      const said = await whoami(ALICE, ["unshare", "-U", "--map-auto", "--setuid", "5"]);
      expect(said).toMatchObject({ uid: SUBORDINATE[0] + 5, user: "alice", subordinate: true });
      expect(said.sessionName).toStartWith("alice@");
    });

    test("a socket is given away to none but a subordinate uid of its maker's, and is counted as such", async () => {
      const given = async (prefix: readonly string[], uid: number) =>
        JSON.parse(await mustExec(node, ALICE, [...prefix, ...python("chown", uid)])) as Whoami;
      for (const uid of [0, BOB_UID, SUBORDINATE[0] + 5])
        expect([uid, await given([], uid)]).toEqual([uid, { refused: "Operation not permitted" } as never]);
      // There 1 is the first of her range.
      const inside = await given(["unshare", "-U", "--map-auto", "--map-root-user"], 6);
      expect(inside).toMatchObject({ uid: SUBORDINATE[0] + 5, user: "alice", subordinate: true });
    });

    test("a subordinate uid that is an account's as well is neither's", async () => {
      // Alice reaches erin's uid through her own range: the kernel cannot tell them apart, and neither can we.
      const argv = ["unshare", "-U", "--map-auto", "--setuid", "7", ...python("whoami")];
      const said = JSON.parse(await mustExec(node, ALICE, argv)) as { refused?: number };
      expect(said).toEqual({ refused: 403 });
    });

    test("two hundred processes at once are all alice", async () => {
      const [alice, bob] = await Promise.all([
        attack<Record<string, number>>(node, ALICE, "whoami", [200]),
        attack<Record<string, number>>(node, BOB, "whoami", [200]),
      ]);
      expect([alice, bob]).toEqual([{ [ALICE_UID]: 200 }, { [BOB_UID]: 200 }]);
    });

    test("who sends the very bytes that another sends is not taken for them, while others are pushed out of memory", async () => {
      // More than the proxy keeps (http/recent-heads.ts), by each.
      const asked = [ALICE, BOB].map((who) => attack<Record<string, number>>(node, who, "heads", [400]));
      expect(await Promise.all(asked)).toEqual([{ [ALICE_UID]: 400 }, { [BOB_UID]: 400 }]);
    });
  });

  describe("uids", () => {
    for (const uid of [4_294_967_294, 2_147_483_648, 2_147_483_647, 3_000_000]) {
      test(`${uid}, without a name, is itself`, async () => {
        const said = await whoami({ uid, gid: 60_000 });
        expect(said).toMatchObject({ uid, user: null, roleName: DEFAULT_ROLE });
        expect(said.sessionName).toStartWith(`uid=${uid}@`);
      });
    }
    test("65534 is the account that has it, not a stand-in for the unknown", async () => {
      expect(await whoami({ uid: 65_534, gid: 65_534 })).toMatchObject({ uid: 65_534, user: "nobody" });
    });
    test("4294967295 is no uid: no process can take it", async () => {
      const script =
        "import os\nfor set in os.setuid, os.seteuid:\n  try: set(4294967295)\n  except (OSError, OverflowError): print('no')\nprint(os.getuid())";
      expect(await mustExec(node, ROOT, ["/usr/bin/python3", "-c", script])).not.toContain("4294967295");
    });

    test("of a deleted account, given to another: the new holder is never called by the old one's name", async () => {
      const carol: Who = { user: "carol" };
      expect(await whoami(carol)).toMatchObject({ user: "carol" });
      // As usermod and its kind do it: a new file in the place of the old one, of the same size.
      const path = node.path("/etc/passwd");
      writeFileSync(`${path}.new`, readFileSync(path, "utf8").replaceAll("carol", "david"));
      renameSync(`${path}.new`, path);
      // What the proxy knows of an account it looks up anew once it has seen the file change: it looks four times a second.
      await eventually(
        "the file was seen",
        async () => (await whoami({ uid: 2050, gid: 2050 })).user !== "carol",
      );
      for (let i = 0; i < 5; i++) {
        const said = await whoami({ uid: 2050, gid: 2050 });
        expect(said).toMatchObject({ user: "david", uid: 2050 });
        expect(said.sessionName).toStartWith("david@");
      }
    });
  });
});
