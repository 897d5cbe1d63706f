import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { EXECUTABLE } from "../support/node.ts";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine, expectNoLeaks } from "./support/booted.ts";
import { bootTree, type Machine, until } from "./support/machine.ts";
import {
  addHammers,
  credentialsOf,
  forgetHammered,
  getsCredentials,
  getsRole,
  hammered,
  INSTANCE_ROLE,
  makeNode,
  marker,
  ROLE,
  ROLE_ARN,
  roleOf,
  STAND_IN,
  STS,
  sourceFile,
} from "./support/node.ts";

/** Puts a release where the machine's web server has it, and returns the digest of the compressed file. */
function addRelease(machine: Machine): string {
  const executable = readFileSync(EXECUTABLE);
  const compressed = gzipSync(executable, { level: 1 });
  const digest = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
  const sums: string[] = [];
  for (const name of ["imdsproxy-linux-x64", "imdsproxy-linux-x64-baseline", "imdsproxy-linux-arm64"]) {
    machine.write(`srv/${name}.gz`, compressed);
    sums.push(`${digest(executable)}  ${name}\n`, `${digest(compressed)}  ${name}.gz\n`);
  }
  machine.write("srv/SHA256SUMS", sums.join(""));
  machine.write("srv/install.sh", sourceFile("scripts/install.sh"));
  machine.write(
    "etc/systemd/system/files.service",
    `[Service]\nExecStart=${STAND_IN} files 127.0.0.1:8000\n[Install]\nWantedBy=multi-user.target\n`,
  );
  machine.enable("files.service");
  return digest(compressed);
}

const FLAGS = `--role-arn ${ROLE_ARN} --sts-endpoint ${STS} --region us-west-2`;

describeAsRoot("a node from its lifecycle script to its next boot", () => {
  const node = bootedMachine(
    () => {
      bootTree();
      const node = makeNode({ agent: "early" });
      digest = addRelease(node);
      addHammers(node);
      return node;
    },
    async () => {
      await node.ok(
        "curl -fsS --retry 60 --retry-connrefused --retry-delay 1 -o /dev/null http://127.0.0.1:8000/SHA256SUMS",
      );
    },
  );
  let digest: string;

  test("without imdsproxy, each way of coming early reaches the instance role: the attackers work", async () => {
    await until("each of them has got it", async () =>
      Object.values(await hammered(node)).every(({ leaks }) => leaks > 0),
    );
  });

  test("install.sh refuses a file with another SHA-256, and changes nothing", async () => {
    const wrong = "0".repeat(64);
    const ran = await node.run(
      `curl -fsS http://127.0.0.1:8000/install.sh | sh -s -- --from http://127.0.0.1:8000/ --sha256 ${wrong} ${FLAGS}`,
    );
    expect(ran.code).toBe(1);
    expect(ran.stderr).toContain("nothing was installed");
    expect(await node.run("ls -A /usr/local | grep imdsproxy; ls /usr/local/bin")).toMatchObject({
      stdout: "",
    });
  });

  test("install.sh over plain http wants the SHA-256 from elsewhere", async () => {
    const ran = await node.run(
      `curl -fsS http://127.0.0.1:8000/install.sh | sh -s -- --from http://127.0.0.1:8000/ ${FLAGS}`,
    );
    expect(ran.code).toBe(1);
    expect(ran.stderr.trim().split("\n")).toHaveLength(1);
  });

  test("a script that was cut off in its download does nothing", async () => {
    const half = sourceFile("scripts/install.sh").slice(0, -20);
    const ran = await node.run(`sh -s -- --from http://127.0.0.1:8000/ --sha256 ${digest} ${FLAGS}`, {
      input: half,
    });
    expect([ran.stdout, await roleOf(node, "alice")]).toEqual(["", INSTANCE_ROLE]);
  });

  test("curl | sh installs, starts and verifies", async () => {
    const ran = await node.run(
      `curl -fsS http://127.0.0.1:8000/install.sh | sh -s -- --from http://127.0.0.1:8000/ --sha256 ${digest} ${FLAGS}`,
    );
    expect([ran.code, ran.stderr]).toEqual([0, ""]);
    expect(ran.stdout).not.toContain("FAIL");
    expect(await roleOf(node, "alice")).toBe(ROLE);
    expect(await roleOf(node)).toBe(INSTANCE_ROLE);
    await getsCredentials(node, ROLE, "alice");
    expect(await credentialsOf(node, INSTANCE_ROLE, "alice")).not.toContain(await marker(node));
    expect(await node.ok("ls -A /usr/local | grep -c imdsproxy || true")).toBe("0\n");
  });

  for (const nth of ["first", "second"]) {
    test(`after the ${nth} reboot no attacker has reached the instance role, from the first moment on`, async () => {
      // What they write while the node shuts down counts too.
      await forgetHammered(node);
      await node.reboot();
      await getsRole(node, ROLE, "alice");
      await getsRole(node, INSTANCE_ROLE);
      await Bun.sleep(4000);
      await expectNoLeaks(node, 21);
    });
  }

  test("setup again changes nothing and verifies", async () => {
    const before = await node.ok(
      "systemctl show -p MainPID imdsproxy; sha256sum /usr/local/bin/imdsproxy /etc/imdsproxy/*",
    );
    const ran = await node.run("imdsproxy setup");
    expect([ran.code, ran.stderr]).toEqual([0, ""]);
    expect(
      await node.ok(
        "systemctl show -p MainPID imdsproxy; sha256sum /usr/local/bin/imdsproxy /etc/imdsproxy/*",
      ),
    ).toBe(before);
  });
});
