import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, rmdirSync } from "node:fs";
import type { Running } from "../../src/demo/run.ts";
import { mustExec } from "../support/node.ts";
import { eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";
import { BESIEGED, Siege } from "./support/siege.ts";

/**
 * Other firewalls of Debian's, the real ones, and Docker, in each thing that they do to the rules, while users and a container ask for the instance
 * role in each way that they have and the watch puts our rules back. `make test-firewalls` runs it.
 */

/** How often each is done: IMDSPROXY_FLUSHES=100 for a long run. */
const TIMES = Number(process.env["IMDSPROXY_FLUSHES"] ?? "1");
const TIMEOUT_MS = 60_000 + 30_000 * TIMES;
const ROOT = { user: "root" } as const;
const ENTRY = "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081";
/** The agent puts its entry back at once: the worst case. */
const AGAIN = `iptables -t nat -C OUTPUT ${ENTRY} 2>/dev/null || iptables -t nat -A OUTPUT ${ENTRY}`;

/** What dockerd needs of a simulated node, whose /sys has no cgroups, and an image with nothing but busybox in it. */
const FOR_DOCKER = `
mount -t tmpfs cgroup /sys/fs/cgroup
if [ "$(awk '$1 == "pids" { print $2 }' /proc/cgroups)" = 0 ]; then
  mount -t cgroup2 none /sys/fs/cgroup
else
  for c in $(awk 'NR > 1 && $2 != 0 { print $1 }' /proc/cgroups); do
    mkdir /sys/fs/cgroup/$c
    mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c || rmdir /sys/fs/cgroup/$c
  done
fi
mkdir -p /run/image/bin
cp /bin/busybox /run/image/bin/
ln -s busybox /run/image/bin/sh
`;
/** The machine's own tree of cgroups is the node's as well: what Docker makes there has one place, which is taken away. */
const CGROUPS = `imdsproxy-docker-${process.pid}`;
const DOCKERD = [
  "dockerd",
  "--storage-driver=vfs",
  `--cgroup-parent=/${CGROUPS}`,
  "--pidfile=/run/docker.pid",
];
/** A container that asks over each way to the instance role, and prints whatever it is answered. */
const ASKING = (rounds: string) =>
  `docker run --rm --name asker --network asked -p 8088:80 box /bin/sh -c '
    i=0
    while [ $i -lt ${rounds} ]; do
      for place in "169.254.169.254 80" "169.254.0.2 9081" "172.30.0.1 9081"; do
        printf "GET /latest/ HTTP/1.0\\r\\n\\r\\n" | busybox nc -w 1 $place 2>/dev/null
      done
      i=$((i+1))
    done'`;

describeAsRoot("beside another firewall", () => {
  let node: SimulatedNode;
  let siege: Siege;
  let watch: Running;
  const shell = (line: string) => mustExec(node, ROOT, ["sh", "-euc", line], { timeoutMs: TIMEOUT_MS });

  beforeAll(async () => {
    ({ node } = await startProxiedNode(
      { iptables: "nft", show: SHOW_PROGRAMS },
      { containers: "reject" },
      (started) => mustExec(started, ROOT, ["sh", "-euc", BESIEGED]),
    ));
    watch = node.spawn({ ...ROOT, argv: ["imdsproxy", "iptables", "watch"], timeoutMs: 0 });
    await eventually("the watch has looked", () => existsSync(node.path("/run/imdsproxy/firewall.json")));
    siege = await Siege.begin(node);
  });
  const stillClosed = async () => {
    await siege.rounds(1);
    expect(siege.leaks).toBe(0);
    await eventually(
      "the watch has put everything back",
      async () => (await node.exec({ ...ROOT, argv: ["imdsproxy", "iptables", "status"] })).exitCode === 0,
    );
  };
  afterAll(async () => {
    await node?.stop();
    for (const place of ["", ...readdirSync("/sys/fs/cgroup")]) {
      const left = `/sys/fs/cgroup/${place}/${CGROUPS}`;
      if (existsSync(left)) rmdirSync(left);
    }
  });

  const repeated = async (...lines: readonly string[]) => {
    for (let i = 0; i < TIMES; i++)
      for (const line of lines) await shell(`${line} >/dev/null 2>&1; ${AGAIN}`);
  };

  test(
    "ufw is enabled, reloads, is disabled and reset",
    async () => {
      await repeated("ufw --force enable", "ufw reload", "ufw disable", "ufw --force reset");
      await stillClosed();
    },
    TIMEOUT_MS,
  );
  test(
    "firewalld starts, reloads, reloads completely and ends",
    async () => {
      await shell("mkdir -p /run/dbus; dbus-daemon --system --fork --nopidfile");
      for (let i = 0; i < TIMES; i++) {
        const firewalld = node.spawn({
          ...ROOT,
          argv: ["firewalld", "--nofork", "--nopid"],
          timeoutMs: 0,
        });
        await eventually(
          "firewalld runs",
          async () => (await node.exec({ ...ROOT, argv: ["firewall-cmd", "--state"] })).exitCode === 0,
        );
        expect(await shell("nft list tables")).toContain("firewalld");
        for (const command of ["--reload", "--complete-reload", "--panic-on", "--panic-off"])
          await shell(`firewall-cmd ${command}; ${AGAIN}`);
        firewalld.kill("SIGTERM");
        await firewalld.done;
        await shell(AGAIN);
      }
      await stillClosed();
    },
    TIMEOUT_MS,
  );
  const startDocker = async () => {
    const dockerd = node.spawn({ ...ROOT, argv: DOCKERD, timeoutMs: 0 });
    await eventually(
      "dockerd answers",
      async () => (await node.exec({ ...ROOT, argv: ["docker", "version"] })).exitCode === 0,
      60_000,
    );
    return {
      async end() {
        dockerd.kill("SIGTERM");
        await dockerd.done;
      },
    };
  };
  test(
    "Docker starts, makes a network, runs a container with a published port, takes both away and ends",
    async () => {
      await shell(FOR_DOCKER);
      for (let i = 0; i < TIMES; i++) {
        const docker = await startDocker();
        await shell(AGAIN);
        expect(await shell("iptables-save")).toContain("DOCKER-ISOLATION-STAGE-1");
        if (i === 0) await shell("tar -C /run/image -c . | docker import - box");
        await shell(`docker network create --subnet 172.30.0.0/24 asked; ${AGAIN}`);
        expect(await shell(ASKING("3"))).toBe("");
        await shell(`docker network rm asked; ${AGAIN}`);
        await docker.end();
        await shell(AGAIN);
      }
      await stillClosed();
    },
    TIMEOUT_MS,
  );
  test("at the end, nobody but root has had it, and alice was served", async () => {
    const { alice, box, root } = await siege.end();
    if (process.env["IMDSPROXY_FLUSHES"] !== undefined)
      console.log(JSON.stringify([alice, box, root].map(({ asked, outcomes }) => ({ asked, outcomes }))));
    expect([alice.ways, box.ways]).toEqual([{}, {}]);
    expect(root.leaks).toBeGreaterThan(0);
    expect(alice.outcomes["own"]).toBeGreaterThan(0);
  });
  test(
    "without the rules, Docker's container is answered",
    async () => {
      watch.kill("SIGTERM");
      await watch.done;
      await shell(`imdsproxy iptables remove; ${AGAIN}`);
      const docker = await startDocker();
      await shell("docker network create --subnet 172.30.0.0/24 asked");
      expect(await shell(ASKING("1"))).toContain("HTTP/1.1");
      await docker.end();
    },
    TIMEOUT_MS,
  );
});
