import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { SHOW_PROGRAMS } from "../attack/support/attack.ts";
import { mustExec, TEST_ROLE } from "../support/node.ts";
import { startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";

/**
 * Containers that users make without root, with the real programs: rootless Podman, and slirp4netns and pasta, which carry
 * its network. Whatever a container calls itself, its sockets on the node are made by its maker's processes.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const ALICE_UID = 2001;
const SUBORDINATE = [300_000, 65_536] as const;
const BETTER = "arn:aws:iam::842413447717:role/Better";

/**
 * What of a real node the simulated one lacks: a tun device that users may open, and cgroup v2 alone (crun does not run
 * where both are mounted).
 */
const LIKE_A_REAL_NODE = `
set -eu
mknod -m 666 /run/tun c 10 200
mount --bind /run/tun /dev/net/tun
mount -t cgroup2 none /sys/fs/cgroup
`;

/** An image of nothing but the node's /usr. */
const IMAGE = `
set -eu
mkdir -p $HOME/image $HOME/run
cd $HOME/image
mkdir -p usr etc proc dev tmp sys run
for directory in bin lib lib64 sbin; do ln -sfn usr/$directory $directory; done
`;
const WHOAMI = ["/usr/bin/python3", "/run/attack/whoami.py"];
const podman = (flags: readonly string[], argv: readonly string[] = WHOAMI): string[] => [
  "sh",
  "-c",
  'XDG_RUNTIME_DIR=$HOME/run exec podman --cgroup-manager=cgroupfs --storage-driver=vfs run --rm --cgroups=disabled "$@"',
  "podman",
  ...["--volume=/usr:/usr:ro", "--volume=/run/attack:/run/attack:ro", ...flags],
  ...["--rootfs", "/run/home/alice/image", ...argv],
];

/** What `whoami` says of a process. */
interface Said {
  readonly uid: number;
  readonly user: string | null;
  readonly roleName: string;
  readonly subordinate?: boolean;
}

describeAsRoot("a container of alice's own", () => {
  let node: SimulatedNode;
  beforeAll(async () => {
    const proxied = await startProxiedNode(
      {
        users: [
          { name: "alice", uid: ALICE_UID, subordinate: SUBORDINATE },
          { name: "bob", uid: 2002 },
        ],
        show: SHOW_PROGRAMS,
      },
      // A rule that would give uid 1000 what alice has not.
      { rules: [{ name: "better", match: { uid: 1000 }, role: BETTER }] },
    );
    node = proxied.node;
    await mustExec(node, ROOT, ["sh", "-c", LIKE_A_REAL_NODE]);
    await mustExec(node, ALICE, ["sh", "-c", IMAGE]);
  });
  afterAll(() => node?.stop());

  const said = async (argv: readonly string[]): Promise<Said> =>
    JSON.parse(await mustExec(node, ALICE, argv)) as Said;
  const roleName = TEST_ROLE.split("/").at(-1);

  describe("by Podman", () => {
    for (const user of ["0", "1000"]) {
      test(`with a network by slirp4netns, as its uid ${user}, is alice`, async () => {
        const found = await said(podman(["--network=slirp4netns", `--user=${user}`]));
        expect(found).toMatchObject({ uid: ALICE_UID, user: "alice", roleName });
      });
    }

    test("in the node's network, as its root, is alice", async () => {
      expect(await said(podman(["--network=host"]))).toMatchObject({
        uid: ALICE_UID,
        user: "alice",
        roleName,
      });
    });

    test("in the node's network, as its uid 1000, is a subordinate of alice's", async () => {
      expect(await said(podman(["--network=host", "--user=1000"]))).toMatchObject({
        uid: SUBORDINATE[0] + 999,
        user: "alice",
        subordinate: true,
        roleName,
      });
    });

    test("has no way to the agent behind the proxy", async () => {
      for (const network of ["slirp4netns", "host"]) {
        const curl = ["/usr/bin/curl", "-s", "-m", "20", "http://169.254.0.2:9081/latest/meta-data/"];
        const { exitCode, stdout } = await node.exec({
          ...ALICE,
          argv: podman([`--network=${network}`, "--user=1000"], curl),
        });
        expect([network, stdout, exitCode !== 0]).toEqual([network, "", true]);
      }
    });
  });

  test("by pasta is alice", async () => {
    const found = await said(["pasta", "--config-net", "--quiet", "--", ...WHOAMI]);
    expect(found).toMatchObject({ uid: ALICE_UID, user: "alice", roleName });
  });
});
