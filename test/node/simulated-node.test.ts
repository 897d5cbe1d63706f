import { afterAll, beforeAll, expect, test } from "bun:test";
import { processTree } from "../../src/demo/namespace.ts";
import {
  awsArn,
  curl,
  IMDS4,
  IMDS6,
  machineState,
  mustExec,
  namespacesBelow,
  namespacesGone,
  startTestNode,
} from "../support/node.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

const alice = { user: "alice" };
const root = { user: "root" };

describeAsRoot("a simulated HyperPod node", () => {
  let before: unknown;
  let node: SimulatedNode;
  beforeAll(async () => {
    before = machineState();
    node = await startTestNode({
      users: [
        { name: "alice", uid: 2001, groups: ["domain users"], subordinate: [300_000, 65_536] },
        { name: "bob", uid: 2002 },
      ],
    });
  });
  afterAll(() => node.stop());

  test("changes nothing of the machine while it stands", () => {
    expect(machineState()).toEqual(before);
  });

  test("has users with their own groups, home and no capability", async () => {
    const told = await mustExec(node, alice, [
      "sh",
      "-c",
      "id -un; id -Gn; pwd; echo $HOME; grep CapEff /proc/self/status",
    ]);
    const lines = ["alice", "alice domain users", "/", "/run/home/alice", "CapEff:\t0000000000000000", ""];
    expect(told).toBe(lines.join("\n"));
    expect(await mustExec(node, root, ["cat", "/etc/subuid"])).toContain("alice:300000:65536\n");
  });

  test("runs a command as a uid without an account and without groups", async () => {
    expect(await mustExec(node, { uid: 54_321 }, ["id"])).toBe("uid=54321 gid=54321 groups=54321\n");
  });

  test("shows its own files by relative paths too: nobody stands in the machine's root", async () => {
    expect(await mustExec(node, alice, ["sh", "-c", "ls -d run/home/alice"])).toBe("run/home/alice\n");
  });

  test("passes nothing of this process's environment on", async () => {
    const environment = await mustExec(node, alice, ["env"], { env: { ASKED: "1" } });
    const names = environment
      .trim()
      .split("\n")
      .map((line) => line.split("=")[0]);
    expect(names.sort()).toEqual(["ASKED", "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"]);
  });

  test("kills a command that takes too long, children included", async () => {
    const result = await node.exec({
      ...alice,
      argv: ["sh", "-c", "sleep 987 & sleep 988"],
      timeoutMs: 2_000,
    });
    expect(result).toMatchObject({ timedOut: true, exitCode: 137 });
    expect(await mustExec(node, root, ["ps", "-e", "-o", "args"])).not.toContain("sleep 98");
  });

  test("a command whose time is over is not waited for where a daemon of its own holds its output", async () => {
    const daemon =
      "import os,time\nif os.fork()==0: os.setsid(); os.fork() or os.execvp('sleep', ['sleep', '986']); os._exit(0)\ntime.sleep(60)";
    const argv = ["/usr/bin/python3", "-c", daemon];
    const result = await node.exec({ user: "alice", argv, timeoutMs: 4_000 });
    expect(result.timedOut).toBe(true);
    expect(await mustExec(node, root, ["ps", "-e", "-o", "args"])).toContain("sleep 986");
    await mustExec(node, root, ["pkill", "-f", "^sleep 986$"]);
  });

  test("gives any user the instance role: the hole that the proxy is there to close", async () => {
    const { body } = await curl(
      node,
      alice,
      `${IMDS4}/latest/meta-data/iam/security-credentials/${node.roleName}`,
    );
    expect(JSON.parse(body).SecretAccessKey).toBe(node.secrets.role.secretAccessKey);
    const asked = (await node.agent?.log())?.at(-1);
    expect(asked?.target).toBe(`/latest/meta-data/iam/security-credentials/${node.roleName}`);
  });

  test("has the agent's entry for IPv4, and EC2's own service behind IPv6", async () => {
    await node.imds.clearLog();
    expect((await curl(node, alice, `${IMDS6}/latest/meta-data/instance-id`)).status).toBe(200);
    expect(await node.imds.log()).toHaveLength(1);
    expect(await mustExec(node, root, ["iptables-save", "-t", "nat"])).toContain(
      "-A OUTPUT -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081",
    );
  });

  test("has an STS that knows the instance role by its signature", async () => {
    const arn = "arn:aws:sts::842413447717:assumed-role/MySageMakerClusterInstanceRole/SageMaker";
    expect(await awsArn(node, alice)).toBe(arn);
  });

  test("answers as the mode says, for agent and EC2 alike", async () => {
    await Promise.all([node.imds.set({ tokens: "required" }), node.agent?.set({ tokens: "required" })]);
    expect((await curl(node, alice, `${IMDS4}/latest/meta-data/`)).status).toBe(401);
    expect((await curl(node, alice, `${IMDS6}/latest/meta-data/`)).status).toBe(401);
    await Promise.all([node.imds.set({ tokens: "optional" }), node.agent?.set({ tokens: "optional" })]);
  });
});

describeAsRoot("a simulated EC2 node", () => {
  for (const iptables of ["nft", "legacy"] as const) {
    test(`has no agent and no rules, and its iptables is ${iptables}`, async () => {
      const node = await startTestNode({ kind: "ec2", iptables });
      try {
        expect(node.agent).toBeNull();
        expect((await curl(node, alice, `${IMDS4}/latest/meta-data/instance-id`)).status).toBe(200);
        expect(await mustExec(node, root, ["iptables-save", "-t", "nat"])).not.toContain("-A ");
        expect(await mustExec(node, root, ["ip6tables", "-V"])).toContain(
          iptables === "nft" ? "nf_tables" : "legacy",
        );
      } finally {
        await node.stop();
      }
    });
  }
});

describeAsRoot("a simulated node's end", () => {
  test("comes with the death of the process that made it, even by SIGKILL", async () => {
    const script = `
      import { startTestNode } from ${JSON.stringify(require.resolve("../support/node.ts"))};
      const node = await startTestNode();
      node.spawn({ user: "alice", argv: ["sleep", "600"], timeoutMs: 0 });
      console.log("up");
      await Bun.sleep(600_000);
    `;
    const maker = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" });
    const { value } = await maker.stdout.getReader().read();
    expect(Buffer.from(value ?? []).toString()).toContain("up");
    const spaces = namespacesBelow(processTree(maker.pid));
    expect(spaces.size).toBe(2);

    maker.kill("SIGKILL");
    await maker.exited;
    expect(await namespacesGone(spaces, 40_000)).toEqual([]);
  });
});
