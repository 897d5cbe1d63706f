import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { SimulatedNode, Who } from "../../src/demo/node.ts";
import type { Running } from "../../src/demo/run.ts";
import { curl, mustExec } from "../support/node.ts";
import { eventually, startProxiedNode, TOKEN_HEADER, TTL_HEADER } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import { attack, SHOW_PROGRAMS } from "./support/attack.ts";

/**
 * What root does for a user: the kernel knows a socket by who made it, so a connection that root's process opens for a user is
 * root's, and so is a socket that root hands to one.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const ALICE_UID = 2001;
const AGENT = "http://169.254.0.2:9081";
const IMDS = "http://169.254.169.254";

/** Longer than all that is asked through one ssh, so that one that hangs ends the test with an error of its own. */
const SSH_MS = 80_000;

/** Each server with its port, and with what starts it in the foreground; `/run/ssh` has the keys. */
const SERVERS = {
  openssh: {
    port: 2222,
    start:
      "mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e -p 2222 -h /run/ssh/host -o UsePAM=no -o StrictModes=no -o PidFile=none",
  },
  dropbear: { port: 2223, start: "exec dropbear -F -E -p 127.0.0.1:2223 -r /run/ssh/dropbear" },
  "dropbear -j": { port: 2224, start: "exec dropbear -F -E -j -p 127.0.0.1:2224 -r /run/ssh/dropbear" },
} as const;

describeAsRoot("what root does for alice", () => {
  let node: SimulatedNode;
  const running: Running[] = [];

  beforeAll(async () => {
    ({ node } = await startProxiedNode({ show: SHOW_PROGRAMS }));
    await mustExec(node, ROOT, [
      "sh",
      "-euc",
      `mkdir -p /run/ssh /run/home/alice/.ssh
       ssh-keygen -q -t ed25519 -N '' -f /run/ssh/host
       dropbearkey -t ed25519 -f /run/ssh/dropbear
       ssh-keygen -q -t ed25519 -N '' -f /run/home/alice/.ssh/id
       cp /run/home/alice/.ssh/id.pub /run/home/alice/.ssh/authorized_keys
       chown -R alice: /run/home/alice
       chmod -R go= /run/home/alice`,
    ]);
    for (const { start } of Object.values(SERVERS)) {
      running.push(node.spawn({ ...ROOT, argv: ["sh", "-euc", start], timeoutMs: 0 }));
    }
    await listening(Object.values(SERVERS).map(({ port }) => port));
  });
  afterAll(() => node?.stop());

  for (const kind of ["fresh", "listening", "accepted"]) {
    test(`with a TCP socket of root's in her hands (${kind}) alice is root, which no firewall by uid can tell`, async () => {
      const found = await attack(node, ROOT, "heirloom", [ALICE_UID, kind]);
      expect(found).toEqual({ uid: ALICE_UID, role: node.roleName });
    });
  }

  async function listening(ports: readonly number[]): Promise<void> {
    await eventually("the servers listen", async () => {
      const found = await mustExec(node, ROOT, ["ss", "-Hltn"]);
      return ports.every((port) => found.includes(`:${port} `));
    });
  }

  /** The role that the metadata service at `base` names to alice, asked through `ssh -D`; what curl's exit code is where it names none. */
  async function roleBy(server: { readonly port: number }, base: string): Promise<string> {
    const socks = server.port + 1_000;
    const options = ["UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no", "LogLevel=ERROR"];
    const client = node.spawn({
      ...ALICE,
      argv: [
        ...["ssh", "-N", "-D", String(socks), "-p", String(server.port), "-i", "/run/home/alice/.ssh/id"],
        ...options.flatMap((option) => ["-o", option]),
        "alice@127.0.0.1",
      ],
      timeoutMs: SSH_MS,
    });
    try {
      await listening([socks]);
      const through = ["--proxy", `socks5h://127.0.0.1:${socks}`, "-H", "Host: 169.254.169.254"];
      const ask = (path: string, ...more: string[]) => curl(node, ALICE, base + path, [...through, ...more]);
      const token = await ask("/latest/api/token", "-X", "PUT", "-H", `${TTL_HEADER}: 60`);
      if (token.status === 0) return `curl ended with ${token.exitCode}`;
      const header = `${TOKEN_HEADER}: ${token.body}`;
      return (await ask("/latest/meta-data/iam/security-credentials/", "-H", header)).body;
    } finally {
      // Not by SIGTERM, after which ssh still has something to say to the server: nothing here is about how it ends.
      client.kill("SIGKILL");
      await client.done;
    }
  }

  test("connections that OpenSSH opens for her are hers: her own role, and no way to the agent", async () => {
    expect(await roleBy(SERVERS.openssh, IMDS)).toBe("ImdsProxyTestRole");
    expect(await roleBy(SERVERS.openssh, AGENT)).toStartWith("curl ended with ");
  });

  describe("connections that Dropbear opens for her", () => {
    test("are root's, which no firewall by uid can tell: setup warns of it", async () => {
      expect(await roleBy(SERVERS.dropbear, IMDS)).toBe(node.roleName);
    });
    test("are none with -j, as the warning says", async () => {
      for (const base of [IMDS, AGENT]) {
        expect(await roleBy(SERVERS["dropbear -j"], base)).toStartWith("curl ended with ");
      }
    });
  });
});
