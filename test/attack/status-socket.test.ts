import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { mustExec } from "../support/node.ts";
import { eventually, givenCredentials, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";

/**
 * The socket of `imdsproxy status`: alice wants to stand in its place, to read what is bob's or root's, to keep others from it, and
 * to stop or slow the proxy by it.
 */

const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;
const BOB = { user: "bob" } as const;
const DIRECTORY = "/run/imdsproxy/proxy";
const USERS = `${DIRECTORY}/users.sock`;

/** Connects, sends `argv[2]` and prints what it reads. */
const READ = `
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
s.connect(sys.argv[1])
s.send(sys.argv[2].encode())
got = b""
while True:
    part = s.recv(65536)
    if not part: break
    got += part
print(got.decode())
`;
/** Holds four connections until a file is there, then prints what each was told. */
const HOLD = `
import os, socket, sys, time
held = []
for _ in range(4):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(sys.argv[1])
    held.append(s)
print("held", flush=True)
while not os.path.exists(sys.argv[2]): time.sleep(0.05)
for s in held:
    got = b""
    while True:
        part = s.recv(65536)
        if not part: break
        got += part
    print(got.decode(), flush=True)
`;
/** Listens at a path as a uid who may not write there, with root's help, and tells everybody that all is well. */
const IMPOSTOR = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
os.setresgid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
os.setresuid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
s.listen(8)
print("listening", flush=True)
while True:
    c, _ = s.accept()
    try:
        c.send(b"{}")
    except OSError:
        pass
    c.close()
`;

describeAsRoot("the status socket by attack:", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({ show: SHOW_PROGRAMS });
    await givenCredentials(proxied.node, BOB);
  });
  afterAll(() => proxied?.node.stop());

  const run = (who: { user: string }, ...argv: string[]) => proxied.node.exec({ ...who, argv });
  const read = (who: { user: string }, path: string, text: string) =>
    run(who, "python3", "-c", READ, path, text);
  const statusOf = async (who: { user: string }) =>
    JSON.parse((await run(who, "imdsproxy", "status", "--json")).stdout);

  test("a second proxy that root starts to try something takes it from nobody, neither while it runs nor when it ends", async () => {
    const answers = async () => (await statusOf(ROOT)).proxy;
    const { started, listen } = await answers();
    const second = await proxied.node.startProxy({
      flags: ["--listen", "127.0.0.1:253", "--state-dir", "/var/lib/second"],
      port: 253,
    });
    expect(second.output()).toContain("another proxy answers at");
    expect(await answers()).toMatchObject({ running: true, started, listen });
    await second.stop();
    expect(await answers()).toMatchObject({ running: true, started, listen });
  });

  test("alice can put nothing in its place, whether the proxy runs or not", async () => {
    const attempts = [
      `rm ${USERS}`,
      `mv ${USERS} /tmp/away`,
      `ln -sf /tmp/mine ${USERS}`,
      `touch ${DIRECTORY}/root.sock.new`,
      `mv ${DIRECTORY} /run/imdsproxy/other`,
      `mkdir /run/imdsproxy/proxy2`,
      `python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('${DIRECTORY}/new')"`,
    ];
    const tryAll = async () => {
      for (const attempt of attempts) {
        const { exitCode } = await run(ALICE, "sh", "-c", attempt);
        expect([attempt, exitCode === 0]).toEqual([attempt, false]);
      }
    };
    await tryAll();
    await proxied.proxy.stop();
    try {
      await tryAll();
      expect(await mustExec(proxied.node, ROOT, ["ls", DIRECTORY])).toBe("");
    } finally {
      await proxied.restart();
    }
    await givenCredentials(proxied.node, BOB);
  });

  test("alice cannot ask as root, nor for bob, whatever she sends", async () => {
    expect((await read(ALICE, `${DIRECTORY}/root.sock`, "")).stderr).toContain("PermissionError");
    for (const text of ["", "bob", '{"uid": 2002}', "GET /imdsproxy/health HTTP/1.1\r\n\r\n"]) {
      const { stdout } = await read(ALICE, USERS, text);
      const found = JSON.parse(stdout);
      expect([found.for, found.uid]).toEqual(["user", 2001]);
      expect(found.users.rows.map(({ uid }: { uid: number }) => uid)).not.toContain(2002);
      expect(stdout).not.toContain("bob");
    }
    // Root in a user namespace of her own is alice.
    const inside = await run(ALICE, "unshare", "--user", "--map-root-user", "python3", "-c", READ, USERS, "");
    if (inside.exitCode === 0) expect(JSON.parse(inside.stdout)).toMatchObject({ for: "user", uid: 2001 });
    const root = await run(ALICE, "unshare", "--user", "--map-root-user", "imdsproxy", "status", "--json");
    expect(root.stdout).not.toContain("bob");
  });

  describe("while alice holds what she can of it, reads nothing, and connects without rest", () => {
    test("the proxy holds four connections of hers, root is told all, and bob is served and told of himself", async () => {
      const { node, proxy } = proxied;
      const descriptors = () => readdirSync(`/proc/${proxy.pid}/fd`).length;
      const before = descriptors();
      const floods = [1, 2, 3].map(() =>
        node.spawn({
          ...ALICE,
          argv: ["/usr/bin/python3", "/run/attack/status_flood.py", USERS, "200"],
          timeoutMs: 0,
        }),
      );
      try {
        await eventually(
          "she has connected",
          () => floods.every((one) => one.stdout().includes("connected")),
          120_000,
        );
        const held: number[] = [];
        for (let i = 0; i < 5; i++) {
          held.push(descriptors() - before);
          const root = await statusOf(ROOT);
          expect(root.healthy).toBe(true);
          expect(root.users.rows.map(({ user }: { user: string }) => user)).toContain("bob");
          expect((await givenCredentials(node, BOB)).status).toBe(200);
        }
        // Four of hers; one more may be just being closed, and bob's and root's requests have a few of their own.
        for (const count of held) expect(count).toBeLessThan(24);
        const bob = await statusOf(BOB);
        expect([bob.healthy, bob.you.uid]).toEqual([true, 2002]);
      } finally {
        for (const one of floods) one.kill("SIGKILL");
        await Promise.all(floods.map(({ done }) => done));
      }
      await eventually("what she held is let go", async () => {
        const { stdout } = await read(ALICE, USERS, "");
        return stdout.includes('"uid":2001');
      });
    }, 240_000);
  });

  test("twenty accounts that each hold four connections and read nothing keep bob from nothing, and lose no answer", async () => {
    const { node } = proxied;
    const go = "/run/read-now";
    const holders = Array.from({ length: 20 }, (_, index) =>
      node.spawn({
        user: "root",
        argv: [
          ...["/usr/bin/setpriv", "--reuid", String(5_001 + index), "--regid", "65534", "--clear-groups"],
          ...["/usr/bin/python3", "-c", HOLD, USERS, go],
        ],
        timeoutMs: 0,
      }),
    );
    const linesOf = (one: (typeof holders)[number]) =>
      one
        .stdout()
        .split("\n")
        .filter((line) => line !== "");
    try {
      await eventually("all hold", () => holders.every((one) => one.stdout().includes("held")), 120_000);
      for (let i = 0; i < 5; i++) {
        const { healthy, you } = await statusOf(BOB);
        expect([healthy, you.uid]).toEqual([true, 2002]);
      }
      node.write(go, "");
      await eventually("all have read", () => holders.every((one) => linesOf(one).length === 5), 60_000);
      for (const [index, one] of holders.entries()) {
        const uids = linesOf(one)
          .slice(1)
          .map((line) => JSON.parse(line).uid);
        expect(uids).toEqual(Array(4).fill(5_001 + index));
      }
    } finally {
      for (const one of holders) one.kill("SIGKILL");
      await Promise.all(holders.map(({ done }) => done));
    }
  }, 240_000);

  test("what listens there as another uid than the service's is told as that, and not believed", async () => {
    const { node } = proxied;
    await proxied.proxy.stop();
    const impostor = node.spawn({
      ...ROOT,
      argv: ["/usr/bin/python3", "-c", IMPOSTOR, `${DIRECTORY}/root.sock`, "2001"],
      timeoutMs: 0,
    });
    try {
      await eventually("it listens", () => impostor.stdout().includes("listening"));
      const found = await statusOf(ROOT);
      expect([found.healthy, found.proxy.running]).toEqual([false, false]);
      expect(found.summary).toContain("is not the proxy: it runs as uid 2001");
    } finally {
      impostor.kill("SIGKILL");
      await impostor.done;
      await proxied.restart();
    }
    expect((await statusOf(ROOT)).healthy).toBe(true);
  });
});
