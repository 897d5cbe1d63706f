import { afterEach, beforeEach, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { EXECUTABLE } from "../support/node.ts";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine } from "./support/booted.ts";
import { LIMIT_MS, until } from "./support/machine.ts";
import {
  getsRole,
  INSTANCE_ROLE,
  makeNode,
  ROLE,
  ROLE_ARN,
  roleOf,
  STAND_IN,
  STS,
  sourceFile,
} from "./support/node.ts";

const NAMES = ["imdsproxy-linux-x64", "imdsproxy-linux-x64-baseline", "imdsproxy-linux-arm64"];
const MORE = `--sts-endpoint ${STS} --region us-west-2`;

/**
 * What alice has before HyperPod's OnInitComplete: connections that she opened at the metadata address and at the agent and has
 * not used yet, and a loop that asks for the instance role's credentials. Ends when the loop got no more for a while after she
 * was told that the hook has ended, and prints what became of it.
 */
const BEFORE = `
import os, socket, time
path = b"/latest/meta-data/iam/security-credentials/${INSTANCE_ROLE}"
def dial(target):
    s = socket.socket()
    s.settimeout(20)
    s.connect(target)
    return s
def ask(s):
    try:
        s.sendall(b"GET " + path + b" HTTP/1.1\\r\\nHost: 169.254.169.254\\r\\nConnection: close\\r\\n\\r\\n")
        got = b""
        while True:
            piece = s.recv(65536)
            if not piece: return got
            got += piece
    except OSError:
        return b""
targets = [("169.254.169.254", 80), ("169.254.0.2", 9081)]
held = [dial(target) for target in targets for _ in range(20)]
last = 0
tries = 0
while not os.path.exists("/home/alice/over"):
    for target in targets:
        tries += 1
        try:
            if b"AccessKeyId" in ask(dial(target)): last = time.monotonic()
        except OSError: pass
    if tries == 2: open("/home/alice/up", "w").close()
after = 0
for target in targets * 20:
    try: after += b"AccessKeyId" in ask(dial(target))
    except OSError: pass
print(tries, last, after, sum(b"AccessKeyId" in ask(s) for s in held))
`;

/** The scripts as an operator would lay them out, and the steps of the documentation that this project began from. */
describeAsRoot("what an operator's scripts do on a node", () => {
  const node = bootedMachine(
    () => {
      const node = makeNode();
      const compressed = gzipSync(readFileSync(EXECUTABLE), { level: 1 });
      digest = createHash("sha256").update(compressed).digest("hex");
      for (const directory of ["srv", "opt/base-config"]) {
        node.write(`${directory}/imdsproxy.gz`, compressed);
        for (const name of NAMES) node.link("imdsproxy.gz", `${directory}/${name}.gz`);
        node.write(`${directory}/SHA256SUMS`, NAMES.map((name) => `${digest}  ${name}.gz\n`).join(""));
        node.write(`${directory}/install.sh`, sourceFile("scripts/install.sh"));
      }
      for (const name of ["hyperpod", "parallelcluster", "user-data"]) {
        node.write(`opt/base-config/${name}.sh`, sourceFile(`scripts/lifecycle/${name}.sh`));
      }
      node.write(
        "opt/base-config/imdsproxy.yaml",
        `role: ${ROLE_ARN}\nsts: { endpoint: "${STS}" }\nregion: us-west-2\n`,
      );
      node.write("usr/local/lib/before.py", BEFORE);
      node.write("srv/plain", readFileSync(EXECUTABLE));
      node.write("srv/damaged", readFileSync(EXECUTABLE).subarray(0, 1_000_000));
      node.write(
        "etc/systemd/system/files.service",
        `[Service]\nExecStart=${STAND_IN} files 127.0.0.1:8000\n[Install]\nWantedBy=multi-user.target\n`,
      );
      node.enable("files.service");
      return node;
    },
    async () => {
      await node.ok(
        "curl -fsS --retry 60 --retry-connrefused --retry-delay 1 -o /dev/null http://127.0.0.1:8000/SHA256SUMS",
      );
    },
  );
  let digest: string;

  const PCS = (
    JSON.parse(sourceFile("scripts/lifecycle/pcs.json")).stages.nodeBootstrapped[0].arguments as string[]
  )
    .map((word) => (word === "EXECUTABLE_SHA256" ? "DIGEST" : word.replace(/^arn:.*/, ROLE_ARN)))
    .join(" ");

  const INSTALL = "sh /opt/base-config/install.sh";

  for (const [what, command, says] of [
    ["no source", INSTALL, "where from?"],
    ["a missing file", `${INSTALL} --from /nowhere --sha256 ${"0".repeat(64)}`, "there is no file /nowhere"],
    ["no digest", `${INSTALL} --from /srv/plain`, "--sha256"],
    ["a digest that is none", `${INSTALL} --from /srv/plain --sha256 abc`, "64 hexadecimal digits"],
    ["a wrong digest", `${INSTALL} --from /srv/plain --sha256 ${"a".repeat(64)}`, "nothing was installed"],
    [
      "a server that has no such file, without the signature of a presigned URL",
      `IMDSPROXY_FROM='http://127.0.0.1:8000/absent?X-Amz-Signature=hidden' ${INSTALL} --sha256 ${"a".repeat(64)}`,
      "cannot download http://127.0.0.1:8000/absent (",
    ],
    [
      "a damaged executable",
      `${INSTALL} --from /srv/damaged --sha256 $(sha256sum </srv/damaged | cut -d ' ' -f 1)`,
      "does not run here",
    ],
  ] as const) {
    test(`install.sh refuses ${what} and leaves nothing`, async () => {
      const ran = await node.run(command);
      expect(ran.code).toBe(1);
      expect(ran.stderr).toContain(`install.sh: `);
      expect(ran.stderr).toContain(says);
      expect(ran.stderr).not.toContain("hidden");
      expect(await node.ok("ls -A /usr/local/bin; ls -A /usr/local | grep install || true")).toBe("");
    });
  }

  const installing = {
    "install.sh from a presigned URL": `IMDSPROXY_FROM='http://127.0.0.1:8000/plain?X-Amz-Signature=hidden' IMDSPROXY_SHA256=$(sha256sum </srv/plain | cut -d ' ' -f 1) ${INSTALL} --role-arn ${ROLE_ARN} ${MORE}`,
    "install.sh with wget, where there is no curl": `mv /usr/bin/curl /usr/bin/curl.off; install -m 755 /opt/wget /usr/bin/wget; ${INSTALL} --from http://127.0.0.1:8000/ --sha256 DIGEST --role-arn ${ROLE_ARN} ${MORE}; code=$?; mv /usr/bin/curl.off /usr/bin/curl; rm /usr/bin/wget; exit $code`,
    "parallelcluster.sh with its arguments": `IMDSPROXY_SHA256=DIGEST sh /opt/base-config/parallelcluster.sh http://127.0.0.1:8000/ --role-arn ${ROLE_ARN} ${MORE}`,
    "install.sh as pcs.json has it": `install -m 755 /opt/aws /usr/bin/aws; sh /srv/install.sh ${PCS} ${MORE}; code=$?; rm /usr/bin/aws; exit $code`,
    "user-data.sh with its four values": `sed -e "s|^RELEASE=.*|RELEASE=http://127.0.0.1:8000/|" -e "s|^ROLE_ARN=.*|ROLE_ARN=${ROLE_ARN}|" -e "s|^INSTALL_SH_SHA256=.*|INSTALL_SH_SHA256=$(sha256sum </srv/install.sh | cut -d ' ' -f 1)|" -e 's|--region|--sts-endpoint ${STS} --region|' /opt/base-config/user-data.sh > /root/user-data.sh && IMDSPROXY_SHA256=DIGEST sh /root/user-data.sh`,
  };
  beforeEach(async () => {
    // Programs that a node may have instead, as far as the scripts call them.
    await node.ok(`
      printf '%s\\n' '#!/bin/sh' 'for a; do case $a in --output-document=*) out=\${a#*=};; esac; done' \\
        'read -r url; exec /usr/bin/curl.off -fsS -o "$out" "$url"' > /opt/wget
      printf '%s\\n' '#!/bin/sh' 'for to; do from=\${last-}; last=$to; done' 'cp "/srv/\${from##*/}" "$to"' > /opt/aws`);
  });
  afterEach(() => node.run("/root/imdsproxy service uninstall"), LIMIT_MS);

  for (const [what, command] of Object.entries(installing)) {
    test(`${what} sets the node up`, async () => {
      const ran = await node.run(command.replaceAll("DIGEST", digest));
      expect([ran.code, ran.stderr]).toEqual([0, ""]);
      expect(await roleOf(node, "alice")).toBe(ROLE);
      expect(await roleOf(node)).toBe(INSTANCE_ROLE);
      expect(await node.ok("ls -A /usr/local | grep -i imds || true")).toBe("");
      expect(ran.stdout).not.toContain("hidden");
    });
  }

  test("hyperpod.sh as OnInitComplete closes what users had opened since the boot, and the new from the rules on", async () => {
    await getsRole(node, INSTANCE_ROLE, "alice");
    const before = node.run("python3 /usr/local/lib/before.py", { as: "alice" });
    await until("alice has opened hers", async () => (await node.run("ls /home/alice/up")).code === 0);
    const clock = "python3 -c 'import time; print(time.monotonic())'";
    const started = Number(await node.ok(clock));
    const ran = await node.run("bash /opt/base-config/hyperpod.sh");
    const ended = Number(await node.ok(clock));
    await node.ok("touch /home/alice/over");
    const said = await before;
    expect(said.stderr).toBe("");
    const [tries, last = Number.NaN, after, held] = said.stdout.trim().split(" ").map(Number);
    await node.ok("rm /home/alice/up /home/alice/over");
    expect([ran.code, ran.stderr]).toEqual([0, ""]);
    expect(tries).toBeGreaterThan(2);
    expect([after, held]).toEqual([0, 0]);
    expect(last).toBeGreaterThan(0);
    expect(last).toBeLessThan(ended);
    if (process.env["FIGURES"] !== undefined)
      console.log(
        `open for ${(last - started).toFixed(2)} s of the hook's ${(ended - started).toFixed(2)} s`,
      );
    expect(await roleOf(node, "alice")).toBe(ROLE);
    expect(await roleOf(node)).toBe(INSTANCE_ROLE);
    expect(await node.ok("ls -A /usr/local | grep -i imds || true")).toBe("");
  });

  test("service install, enable and status, by the steps of the old documentation", async () => {
    const install = await node.run(`/root/imdsproxy service install --role-arn ${ROLE_ARN} ${MORE}`);
    expect([install.code, install.stderr]).toEqual([0, ""]);
    expect(await roleOf(node, "alice")).toBe(INSTANCE_ROLE);
    expect((await node.run("imdsproxy service status")).code).toBe(1);
    await node.ok("imdsproxy service enable");
    const status = await node.ok("imdsproxy service status --json");
    expect(JSON.parse(status)).toMatchObject({ installed: true, account: true, healthy: true });
    expect(await roleOf(node, "alice")).toBe(ROLE);
    await node.reboot();
    await until("alice has her role", async () => (await roleOf(node, "alice")) === ROLE);
  });

  // useradd and userdel write /etc/passwd first, /etc/group next.
  for (const [left, command] of [
    [
      "the account without its group",
      "useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin imdsproxy; sed -i '/^imdsproxy:/d' /etc/shadow /etc/group /etc/gshadow",
    ],
    [
      "the group without its account, and a lock with a pid that another process has by now",
      "groupadd --system imdsproxy; printf '1\\0' > /etc/passwd.lock; touch --date=2001-01-01 /etc/passwd.lock",
    ],
  ] as const) {
    test(`where a power cut left ${left}, setup completes it, and uninstall leaves neither`, async () => {
      await node.ok(command);
      const ran = await node.run(`/root/imdsproxy setup --role-arn ${ROLE_ARN} ${MORE}`);
      expect([ran.code, ran.stderr]).toEqual([0, ""]);
      expect(await node.ok("id -gn imdsproxy")).toBe("imdsproxy\n");
      expect(await roleOf(node, "alice")).toBe(ROLE);
      await node.ok("/root/imdsproxy service uninstall");
      expect(await node.ok("grep imdsproxy /etc/passwd /etc/group /etc/shadow /etc/gshadow || true")).toBe(
        "",
      );
      // What is left of an account alone goes, too.
      await node.ok("groupadd --system imdsproxy; /root/imdsproxy service uninstall");
      expect(await node.ok("grep imdsproxy /etc/group || true")).toBe("");
    });
  }

  test("setup without a role says what is missing; an account that is not ours stops it", async () => {
    const without = await node.run("/root/imdsproxy setup");
    expect([without.code, without.stderr]).toEqual([
      2,
      "imdsproxy: setup: no role is configured, so every user would be refused\n  name the role with --role-arn ARN, or a configuration with --config FILE\n",
    ]);
    await node.ok("useradd --shell /bin/bash imdsproxy");
    const foreign = await node.run(`/root/imdsproxy setup --role-arn ${ROLE_ARN} ${MORE}`);
    await node.ok("userdel imdsproxy");
    expect(foreign.code).toBe(1);
    expect(foreign.stderr).toContain("which is no system account's");
    expect(await node.ok("ls -A /usr/local/bin; ls -d /etc/imdsproxy 2>/dev/null || true")).toBe("");
  });

  test("setup that cannot verify exits 1 and says what does not hold", async () => {
    await node.ok("systemctl stop sts");
    const ran = await node.run(`timeout 200 /root/imdsproxy setup --role-arn ${ROLE_ARN} ${MORE}`);
    await node.ok("systemctl start sts");
    expect(ran.code).toBe(1);
    expect(ran.stdout).toMatch(/^FAIL nobody gets ImdsProxyTestRole/m);
    expect(ran.stdout).toMatch(/^ok {3}nobody cannot reach 169\.254\.0\.2:9081/m);
    // The reason, while it waits and at the end.
    expect(ran.stdout).toMatch(/^waiting, \d+ s at most: .*STS cannot be reached/m);
    expect(ran.stdout).toMatch(/^PROBLEM .*ImdsProxyTestRole could not be assumed for now \(connection/m);
    expect(ran.stdout).toMatch(/^ {2}to do: .*127\.0\.0\.1:8080/m);
    expect(ran.stderr).toContain("The rules are in place");
  });

  test("a role that is denied: setup says so at once, with the statements that are missing; so does service status until it is mended", async () => {
    const fault = {
      kind: "error",
      status: 403,
      code: "AccessDenied",
      message: `User: arn:aws:sts::842413447717:assumed-role/${INSTANCE_ROLE}/SageMaker is not authorized to perform: sts:AssumeRole on resource: ${ROLE_ARN}`,
    };
    const directory = "/var/lib/stand-in";
    const isTaken = (word: string) =>
      until("STS has the fault", async () =>
        (await node.run(`cat ${directory}/sts-fault.taken`)).stdout.includes(word),
      );
    await node.ok(`cat > ${directory}/new && mv ${directory}/new ${directory}/sts-fault`, {
      input: JSON.stringify(fault),
    });
    await isTaken("AccessDenied");
    const ran = await node.run(`/root/imdsproxy setup --role-arn ${ROLE_ARN} ${MORE}`);
    const status = await node.run("imdsproxy service status");
    const json = JSON.parse((await node.run("imdsproxy service status --json")).stdout);
    await node.ok(`rm ${directory}/sts-fault`);
    await isTaken("none");
    expect(ran.code).toBe(1);
    expect(ran.stdout).not.toMatch(/^waiting/m);
    expect(ran.stdout).toMatch(/^PROBLEM .*cannot be assumed \(AccessDenied/m);
    expect(ran.stdout).toContain(`arn:aws:iam::842413447717:role/${INSTANCE_ROLE} need this statement`);
    expect(status.code).toBe(1);
    expect(status.stdout).toMatch(/^PROBLEM .*AccessDenied/m);
    expect(status.stdout).toMatch(/^ {2}since \d{4}-/m);
    expect(json).toMatchObject({ healthy: false, proxy: { kind: "answered" } });
    expect(json.problems[0]).toMatchObject({ id: "sts", lasting: true });
    await node.ok("systemctl restart imdsproxy");
    expect((await node.run("imdsproxy service status")).code).toBe(0);
  });

  test("a reload of a file that cannot be taken fails with what is wrong with it, and what ran before runs on", async () => {
    await node.ok(`/root/imdsproxy setup --role-arn ${ROLE_ARN} ${MORE}`);
    await node.ok(
      "cp /etc/imdsproxy/config.yaml /root/good.yaml; echo 'roel: x' >> /etc/imdsproxy/config.yaml",
    );
    const reload = await node.run("systemctl reload imdsproxy");
    const status = await node.run("imdsproxy service status");
    // The journal may have a line later than whoever waited for the command.
    await until("the journal says what is wrong", async () =>
      /config\.yaml:\d+: roel/.test(await node.ok("journalctl -u imdsproxy -o cat --no-pager | tail -20")),
    );
    await node.ok("cp /root/good.yaml /etc/imdsproxy/config.yaml");
    expect(reload.code).not.toBe(0);
    expect(status.code).toBe(1);
    expect(status.stderr).toContain("roel");
    expect(await roleOf(node, "alice")).toBe(ROLE);
    await node.ok("systemctl reload imdsproxy");
    expect((await node.run("imdsproxy service status")).code).toBe(0);
  });

  test("an executable that is gone or cannot be run is told by status, service status and --json, and setup mends it", async () => {
    await node.ok(
      `/root/imdsproxy setup --role-arn ${ROLE_ARN} ${MORE}; mv /usr/local/bin/imdsproxy /root/kept`,
    );
    const told = async () => {
      const [text, service] = [
        await node.run("/root/imdsproxy status"),
        await node.run("/root/imdsproxy service status"),
      ];
      const json = await node.run("/root/imdsproxy status --json");
      expect([text.code, service.code, json.code]).toEqual([1, 1, 1]);
      expect(JSON.parse(json.stdout)).toMatchObject({ healthy: false, proxy: { running: true } });
      return text.stdout + service.stderr;
    };
    expect(await told()).toContain("the installed executable /usr/local/bin/imdsproxy is gone");
    await node.ok("cp /root/kept /usr/local/bin/imdsproxy; chmod 644 /usr/local/bin/imdsproxy");
    expect(await told()).toContain("the installed executable /usr/local/bin/imdsproxy cannot be run");
    await node.ok(
      "head -c 1000 /root/kept >/root/damaged; chmod 755 /root/damaged; mv /root/damaged /usr/local/bin/imdsproxy",
    );
    expect(await told()).toContain("cannot be run");
    await node.ok("/root/imdsproxy setup");
    expect((await node.run("imdsproxy status")).code).toBe(0);
  });

  test("setup over itself needs no room for the executable that is there, and says of an exempt user whom nobody knows", async () => {
    await node.ok(`/root/imdsproxy setup --role-arn ${ROLE_ARN} ${MORE}`);
    const ran = await node.run(
      "mount -t tmpfs -o size=130m tmpfs /mnt && cp /usr/local/bin/imdsproxy /mnt/ && mount --bind /mnt /usr/local/bin && " +
        `/root/imdsproxy setup --role-arn ${ROLE_ARN} ${MORE} --exempt nosuch; c=$?; umount -l /usr/local/bin; umount -l /mnt; exit $c`,
    );
    expect([ran.code, ran.stderr]).toEqual([0, ""]);
    expect(ran.stdout).toContain('exempt names the user "nosuch", whom this node does not know');
  });

  test("config sign where it cannot write, observe and config check with options that mean nothing: errors with what would be right", async () => {
    await node.ok(
      "(umask 077; openssl genpkey -algorithm ed25519 -out K.pem); echo 'role: arn:aws:iam::842413447717:role/R' >rules.yaml",
    );
    const failing = async (command: string) => {
      const { code, stderr } = await node.run(command);
      expect([command, code]).toEqual([command, 2]);
      return stderr;
    };
    expect(
      await failing(
        "/root/imdsproxy config sign --key K.pem --fleet f --serial 1 --out /nonexistent/x rules.yaml",
      ),
    ).toContain("the object cannot be written to /nonexistent/x (ENOENT)");
    expect(await failing("/root/imdsproxy config check --object K.pem rules.yaml")).toContain(
      "takes no object",
    );
    for (const what of ["--show", "--sweep"])
      expect(await failing(`/root/imdsproxy observe ${what} --for 10s`)).toContain("--for means nothing");
    expect(JSON.parse(await node.ok("/root/imdsproxy observe --sweep --json"))).toEqual({ removed: false });
  });

  test("setup has modprobe load the module of AF_SMC for nobody; uninstall takes that back", async () => {
    await node.ok(`mkdir /etc/modprobe.d && /root/imdsproxy setup --role-arn ${ROLE_ARN} ${MORE}`);
    expect(await node.ok("cat /etc/modprobe.d/imdsproxy.conf")).toMatch(
      /^blacklist smc$[\s\S]*^install smc \/bin\/false$/m,
    );
    await node.ok("/root/imdsproxy service uninstall");
    // An empty directory stays as it was.
    await node.ok("rmdir /etc/modprobe.d");
  });

  test("a look at the service's health asks STS for nothing", async () => {
    await node.ok(`/root/imdsproxy setup --role-arn ${ROLE_ARN} ${MORE}`);
    await node.ok("systemctl restart imdsproxy; imdsproxy service status; imdsproxy status");
    expect(
      await node.ok("journalctl -u imdsproxy -o cat --no-pager | grep -c 'sessionName\":\"root@' || true"),
    ).toBe("0\n");
  });
});
