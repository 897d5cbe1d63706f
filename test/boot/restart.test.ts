import { expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine } from "./support/booted.ts";
import { until } from "./support/machine.ts";
import { executableOf, INSTANCE_ROLE, makeNode, ROLE, roleOf, SETUP, sourceFile } from "./support/node.ts";

const MINUTES = 60_000;
const DIRECTORY = "/home/alice/load";
/** How many requests the long run makes over restarts, kills and upgrades: IMDSPROXY_REQUESTS=100000. Without it there is none. */
const REQUESTS = Number(process.env["IMDSPROXY_REQUESTS"] ?? "0");

/** What became of the tries of all clients together, by kind; see support/load.py. */
type Counts = Record<string, number>;

describeAsRoot("restarts under load", () => {
  const node = bootedMachine(
    () => {
      const node = makeNode();
      node.write("usr/local/lib/load.py", sourceFile("test/boot/support/load.py"));
      node.copyIn(executableOf("9.9.9"), "/root/imdsproxy-next");
      return node;
    },
    async () => {
      await node.ok(SETUP);
    },
  );

  /** Runs something while clients are at work. */
  async function underLoad(work: () => Promise<void>): Promise<Counts> {
    await node.ok(`rm -rf ${DIRECTORY} && install -d -o alice ${DIRECTORY}`);
    const load = node.run(`python3 /usr/local/lib/load.py ${ROLE} ${DIRECTORY}`, { as: "alice" });
    await until(
      "they are at work",
      async () => (await node.ok(`ls ${DIRECTORY} | grep -c up || true`)).trim() === "8",
    );
    try {
      await work();
    } finally {
      await node.ok(`touch ${DIRECTORY}/stop`);
    }
    expect((await load).stderr).toBe("");
    const total: Counts = {};
    const said = (await node.ok(`for f in ${DIRECTORY}/*.json; do cat $f; echo; done`)).trim().split("\n");
    for (const line of said) {
      const { counts, longestMs } = JSON.parse(line) as { counts: Counts; longestMs: number };
      for (const [kind, count] of Object.entries(counts)) total[kind] = (total[kind] ?? 0) + count;
      total["longestMs"] = Math.max(total["longestMs"] ?? 0, longestMs);
    }
    console.log(JSON.stringify(total));
    return total;
  }
  const mainPid = async () => (await node.ok("systemctl show -p MainPID --value imdsproxy")).trim();
  const isReady = async (before: string) => {
    const [pid, state] = (await node.ok("systemctl show -p MainPID -p ActiveState --value imdsproxy")).split(
      "\n",
    );
    return pid !== before && pid !== "0" && state === "active";
  };
  /** Until the clients have had their turn as well. */
  const served = async () => {
    for (let n = 0; n < 3; n++) expect(await roleOf(node, "alice")).toBe(ROLE);
  };
  /** All kinds of outcomes but those that are right, and the time. */
  const wrong = ({ ok: _, longestMs: __, ...others }: Counts) => others;

  test("systemctl restart, ten times: no connection is refused, reset or left without an answer", async () => {
    const counts = await underLoad(async () => {
      for (let round = 0; round < 10; round++) {
        await node.ok("systemctl restart imdsproxy");
        await served();
      }
    });
    expect(counts["ok"]).toBeGreaterThan(100);
    expect(wrong(counts)).toEqual({});
  });

  test("kill -9, ten times: none is refused; what ends is what the killed process had accepted", async () => {
    const counts = await underLoad(async () => {
      for (let round = 0; round < 10; round++) {
        const pid = await mainPid();
        await node.ok(`kill -KILL ${pid}`);
        await until("systemd has started it again", () => isReady(pid));
        await served();
      }
    });
    expect(counts["ok"]).toBeGreaterThan(100);
    const {
      reset = 0,
      closed = 0,
      "token reset": ofToken = 0,
      "token closed": closedOfToken = 0,
      ...others
    } = wrong(counts);
    expect(others).toEqual({});
    // Each of the eight clients has one connection at a time.
    expect(reset + closed + ofToken + closedOfToken).toBeLessThanOrEqual(10 * 8);
  });

  test("an upgrade: none is refused, reset or left without an answer, and the setting of the kernel is as before", async () => {
    const counts = await underLoad(async () => {
      const ran = await node.run("/root/imdsproxy-next setup");
      expect([ran.code, ran.stderr]).toEqual([0, ""]);
    });
    expect(counts["ok"]).toBeGreaterThan(200);
    expect(wrong(counts)).toEqual({});
    expect(
      (
        await node.ok("cat /proc/sys/net/ipv4/tcp_migrate_req; ls /run | grep -c imdsproxy-tcp || true")
      ).trim(),
    ).toBe("0\n0");
  });

  test("between two proxies the port is kept: nobody else can have it, and a stop gives it back", async () => {
    expect((await node.ok("systemctl show -p NFileDescriptorStore --value imdsproxy")).trim()).toBe("2");
    const listeners = async () => (await node.ok("ss -Hltn 'sport = :254' | wc -l")).trim();
    await node.ok("systemctl stop imdsproxy");
    // systemd closes what it kept when the stop is done.
    await until("nobody listens", async () => (await listeners()) === "0");
    await node.ok("systemctl start imdsproxy");
    expect(await listeners()).toBe("2");
    expect(await roleOf(node, "alice")).toBe(ROLE);
  });

  test("a start that fails gives the port back: whoever asks is refused at once, and does not wait", async () => {
    await node.ok(
      "cp -p /etc/imdsproxy/config.yaml /root/config.good && echo 'nonsense: 1' >> /etc/imdsproxy/config.yaml",
    );
    const pid = await mainPid();
    await node.ok(`kill -KILL ${pid}`);
    const asks = async () =>
      (
        await node.run("curl -s -m 5 -o /dev/null http://169.254.169.254/latest/meta-data/", {
          as: "alice",
        })
      ).code;
    await until("alice is refused", async () => (await asks()) === 7);
    await node.ok("cp -p /root/config.good /etc/imdsproxy/config.yaml");
    await until("she is served again", async () => (await asks()) === 0);
    expect(await roleOf(node, "alice")).toBe(ROLE);
    expect(await roleOf(node)).toBe(INSTANCE_ROLE);
  });

  test("another port: what systemd keeps of the old one goes", async () => {
    await node.ok("/root/imdsproxy-next setup --listen 127.0.0.1:253");
    // systemd is told to let go of them by a message.
    await until(
      "the old port is free",
      async () => (await node.ok("ss -Hltn 'sport = :254' | wc -l")).trim() === "0",
    );
    expect((await node.ok("ss -Hltn 'sport = :253' | wc -l")).trim()).toBe("2");
    await node.ok("systemctl restart imdsproxy");
    expect(await roleOf(node, "alice")).toBe(ROLE);
  });

  test("a setup that is killed while two proxies run leaves the kernel's setting as it was", async () => {
    const setting = "/proc/sys/net/ipv4/tcp_migrate_req";
    // Where setup is done before it is killed, once more: to another port, so that there is something to do.
    for (let port = 254; ; port = port === 254 ? 253 : 254) {
      const killed = await node.run(
        `/root/imdsproxy setup --listen 127.0.0.1:${port} >/tmp/setup.log 2>&1 & setup=$!
until [ "$(cat ${setting})" = 1 ]; do kill -0 $setup || break; done
kill -KILL $setup; wait $setup`,
      );
      if (killed.code !== 0) break;
    }
    // What systemd does when RuntimeMaxSec= is over, at the latest.
    await node.run("systemctl stop imdsproxy-handover");
    expect((await node.ok(`cat ${setting}`)).trim()).toBe("0");
    await node.ok("/root/imdsproxy setup --listen 127.0.0.1:254");
    expect((await node.ok(`cat ${setting}`)).trim()).toBe("0");
    expect(await roleOf(node, "alice")).toBe(ROLE);
  });

  if (REQUESTS > 0) {
    /** How many tries the clients make at least between two events of the long run. */
    const BETWEEN = 800;
    const tries = async () => 10 * Number(await node.ok(`cat ${DIRECTORY}/*.tens | wc -c`));
    /** Until so many more tries have been made. */
    const moreTries = async (count: number) => {
      const before = await tries();
      await until(`${count} more tries`, async () => (await tries()) >= before + count, 2 * MINUTES);
    };
    test(
      `${REQUESTS} requests over restarts, kills and upgrades: none is refused, none is 401; only kills end connections`,
      async () => {
        const sum: Counts = {};
        const done = { requests: 0, restarts: 0, kills: 0, upgrades: 0 };
        const add = (counts: Counts) => {
          for (const [kind, count] of Object.entries(counts)) {
            if (kind === "longestMs") sum[kind] = Math.max(sum[kind] ?? 0, count);
            else {
              sum[kind] = (sum[kind] ?? 0) + count;
              done.requests += count;
            }
          }
          return counts;
        };
        while (done.requests < REQUESTS) {
          const orderly = await underLoad(async () => {
            for (const executable of ["/root/imdsproxy-next", "/root/imdsproxy"]) {
              for (let round = 0; round < 10; round++, done.restarts++) {
                await node.ok("systemctl restart imdsproxy");
                await served();
                await moreTries(BETWEEN);
              }
              await node.ok(`${executable} setup`);
              await moreTries(BETWEEN);
              done.upgrades++;
            }
          });
          expect(wrong(add(orderly))).toEqual({});
          const killed = await underLoad(async () => {
            for (let round = 0; round < 10; round++, done.kills++) {
              const pid = await mainPid();
              await node.ok(`kill -KILL ${pid}`);
              await until("systemd has started it again", () => isReady(pid));
              await served();
              await moreTries(BETWEEN / 4);
            }
          });
          const ends = ["reset", "closed", "token reset", "token closed"];
          expect(Object.keys(wrong(add(killed))).filter((kind) => !ends.includes(kind))).toEqual([]);
        }
        console.log(JSON.stringify({ ...done, ...sum }));
      },
      60 * MINUTES,
    );
  }
});
