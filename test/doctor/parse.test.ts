import { describe, expect, test } from "bun:test";
import { isSignedWith, parseAuthorization } from "../../src/demo/sts/signature.ts";
import { parseAccounts, parseSudo, uidsToAsk } from "../../src/doctor/gather/accounts.ts";
import { parseSimulation, rolesOf, signedHeaders } from "../../src/doctor/gather/aws.ts";
import { rulesAbove } from "../../src/doctor/gather/firewall.ts";
import { parseBridges, parseLxcUsers } from "../../src/doctor/gather/node.ts";
import { isContainer } from "../../src/doctor/gather/process.ts";
import { readFilesAnswer } from "../../src/doctor/gather/requests.ts";
import { argumentsHaveSecret, hasSecret, namesIn, pathsIn } from "../../src/doctor/gather/secrets.ts";
import { parseUnits } from "../../src/doctor/gather/units.ts";
import { parseSave } from "../../src/firewall/state.ts";
import { parseMounts, remoteAt } from "../../src/platform/mounts.ts";
import { config, ROLE } from "./support.ts";

describe("uidsToAsk()", () => {
  test("a user's subordinate uids do not push the accounts of a directory out", () => {
    const subordinate = Array.from({ length: 300 }, (_, i) => 100_000 + i);
    const asked = uidsToAsk([...subordinate, 5_001, 300_000], "alice:100000:65536\n");
    expect(asked.slice(0, 2)).toEqual([5_001, 300_000]);
    expect(asked).toHaveLength(100);
  });
});

describe("parseSudo()", () => {
  const head = (rules: string, defaults = "env_reset, mail_badpass") =>
    `Matching Defaults entries for alice on node:\n    ${defaults}\n\nUser alice may run the following commands on node:\n${rules}\n`;
  const cases: [what: string, text: string, found: ReturnType<typeof parseSudo>][] = [
    ["nothing", "User alice is not allowed to run sudo on node.\n", null],
    ["everything, with a password", head("    (ALL : ALL) ALL"), { all: true, passwordless: false }],
    ["everything, without one", head("    (ALL) NOPASSWD: ALL"), { all: true, passwordless: true }],
    ["one command", head("    (root) NOPASSWD: /usr/bin/apt-get"), { all: false, passwordless: true }],
    ["a tag of another kind", head("    (root) NOPASSWD: SETENV: ALL"), { all: true, passwordless: true }],
    ["another user's commands", head("    (postgres) NOPASSWD: ALL"), null],
    [
      "the password asked for again",
      head("    (root) NOPASSWD: /bin/a, PASSWD: /bin/b"),
      { all: false, passwordless: true },
    ],
    ["what is forbidden alone", head("    (root) !/bin/su"), null],
    [
      "a rule over two lines",
      head("    (root) NOPASSWD: /usr/bin/aaaa, /usr/bin/bbbb,\n        ALL"),
      { all: true, passwordless: true },
    ],
    [
      "no password by the defaults",
      head("    (ALL) ALL", "!authenticate"),
      { all: true, passwordless: true },
    ],
  ];
  for (const [what, text, found] of cases)
    test(`reads ${what}`, () => expect(parseSudo(text)).toEqual(found));
});

test("parseAccounts() knows a locked password from one that can be used, and from none", () => {
  const passwd =
    "root:x:0:0:root:/root:/bin/sh\na:x:5:5::/a:/bin/sh\nb:x:6:6::/b:/bin/sh\nc:x:7:7::/c:/bin/sh\nbroken:x\n";
  const shadow = "root:*:1::::::\na:!$6$x:1::::::\nb::1::::::\n";
  expect(parseAccounts(passwd, shadow).map(({ name, uid, locked }) => [name, uid, locked])).toEqual([
    ["root", 0, true],
    ["a", 5, true],
    ["b", 6, false],
    ["c", 7, null],
  ]);
});

test("parseUnits() reads what systemctl show prints", () => {
  const text = [
    'Id=app.service\nLoadState=loaded\nActiveState=active\nUser=app\nEnvironment=A=1 "AWS_SECRET_ACCESS_KEY=abc def" AWS_EC2_METADATA_DISABLED=true\nEnvironmentFiles=/etc/default/app (ignore_errors=yes)\nEnvironmentFiles=/etc/app.env (ignore_errors=no)\nTriggers=',
    "Id=web.socket\nLoadState=loaded\nActiveState=active\nListen=[::]:80 (Stream)\nListen=/run/web.sock (Stream)\nListen=53 (Datagram)\nTriggers=web.service",
    "Id=gone.service\nLoadState=not-found\nActiveState=inactive",
  ].join("\n\n");
  expect(parseUnits(`${text}\n`)).toEqual([
    {
      name: "app.service",
      active: true,
      user: "app",
      secretVariables: ["AWS_SECRET_ACCESS_KEY"],
      metadataVariables: ["AWS_EC2_METADATA_DISABLED"],
      environmentFiles: ["/etc/default/app", "/etc/app.env"],
      streams: [],
      triggers: "",
    },
    {
      name: "web.socket",
      active: true,
      user: "",
      secretVariables: [],
      metadataVariables: [],
      environmentFiles: [],
      streams: ["[::]:80"],
      triggers: "web.service",
    },
  ]);
});

test("parseBridges() counts the interfaces of each", () => {
  const json = JSON.stringify([
    { ifname: "lo" },
    { ifname: "docker0", linkinfo: { info_kind: "bridge" } },
    { ifname: "veth1", master: "docker0", linkinfo: { info_kind: "veth" } },
    { ifname: "br1", linkinfo: { info_kind: "bridge" } },
  ]);
  expect(parseBridges(json)).toEqual([
    { name: "docker0", ports: 1 },
    { name: "br1", ports: 0 },
  ]);
});

test("parseLxcUsers() leaves out comments, and whoever may attach none", () => {
  expect(
    parseLxcUsers("# alice veth br0 1\nbob veth lxcbr0 10\n@staff veth br0 2 # many\neve veth br0 0\n"),
  ).toEqual(["bob", "@staff"]);
});

describe("network file systems", () => {
  const at = remoteAt(
    parseMounts(
      "22 1 0:20 / / rw shared:1 - ext4 /dev/root rw\n30 22 0:40 / /fsx rw - lustre 10.0.0.1@tcp:/fsx rw\n" +
        "31 22 0:41 / /home\\040dir rw master:2 - nfs4 server:/ rw\n32 22 0:42 / /data rw - xfs /dev/nvme1n1 rw\n" +
        "33 22 0:43 / /auto rw - autofs systemd-1 rw\n34 22 0:44 / /mnt rw - fuse.sshfs x rw\n35 22 0:45 / /mnt rw - ext4 /dev/b rw\n",
    ),
  );
  const cases: [string, string | null][] = [
    ["/", null],
    ["/fsx", "lustre"],
    ["/home dir", "nfs4"],
    ["/data", null],
    ["/auto", "autofs"],
    ["/mnt", null],
  ];
  for (const [path, type] of cases) test(`${path}: ${type}`, () => expect(at(path)).toBe(type));
});

describe("secrets", () => {
  const KEY = "a".repeat(40);
  const ID = "AKIAABCDEFGHIJKLMNOP";
  const argv: [boolean, ...string[]][] = [
    [true, "env", `AWS_SECRET_ACCESS_KEY=${KEY}`, "app"],
    [true, "sh", "-c", `export AWS_SESSION_TOKEN=x; app`],
    [true, "app", "--secret-access-key", KEY],
    [true, "app", `--aws-secret-key=${KEY}`],
    [true, "s3fs", "-o", `${ID}:${KEY}`],
    [false, "app", "--secret-key", "/etc/keys/secret.pem-file"],
    [false, "app", "--secret-key", "$SECRET_ACCESS_KEY_VARIABLE"],
    [false, "app", "--access-key-id", ID],
    [false, "grep", "AWS_SECRET_ACCESS_KEY", "/etc/environment"],
    [false, "app", "AWS_SECRET_ACCESS_KEY="],
    [false],
  ];
  for (const [found, ...args] of argv)
    test(`${found ? "are" : "are not"} in: ${args.join(" ").replaceAll(KEY, "…")}`, () =>
      expect(argumentsHaveSecret(args)).toBe(found));

  test("are found in files of the AWS CLI and of variables", () => {
    expect(hasSecret(`[default]\naws_secret_access_key = ${KEY}\n`)).toBe(true);
    expect(hasSecret(`AWS_SECRET_ACCESS_KEY="${KEY}"\n`)).toBe(true);
    expect(hasSecret("[default]\nregion = us-west-2\n")).toBe(false);
    expect(hasSecret("PATH=/usr/bin\n")).toBe(false);
  });

  test("of an environment are told by name alone, and files by path", () => {
    const environment = [
      "A=1",
      `AWS_SESSION_TOKEN=${KEY}`,
      "AWS_SECRET_ACCESS_KEY=",
      "AWS_CONFIG_FILE=/etc/aws",
      "BOTO_CONFIG=boto",
    ];
    expect(namesIn(environment, ["AWS_SESSION_TOKEN", "AWS_SECRET_ACCESS_KEY"])).toEqual([
      "AWS_SESSION_TOKEN",
    ]);
    expect(pathsIn(environment, ["AWS_CONFIG_FILE", "BOTO_CONFIG"])).toEqual(["/etc/aws"]);
  });
});

describe("isContainer()", () => {
  const cases: [string, boolean][] = [
    ["0::/system.slice/docker-0123abcd.scope", true],
    ["0::/machine.slice/libpod-0123.scope/container", true],
    ["0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-1.scope", true],
    ["0::/ecstasks.slice/ecstasks-1.slice/2.scope", true],
    ["12:memory:/docker/0123abcd\n0::/", true],
    ["0::/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service", false],
    ["0::/system.slice/docker.service", false],
    ["0::/system.slice/slurmstepd.scope/job_1", false],
  ];
  for (const [text, found] of cases) test(text, () => expect(isContainer(text)).toBe(found));
});

test("rulesAbove() lists what stands before ours, five of a chain at the most", () => {
  const save = (rules: string[]) =>
    parseSave(
      `*nat\n:OUTPUT ACCEPT [0:0]\n:IMDSPROXY - [0:0]\n${rules.map((rule) => `-A OUTPUT ${rule}\n`).join("")}COMMIT\n`,
    );
  const ours = "-j IMDSPROXY";
  expect(rulesAbove(save([ours, "-j DOCKER"]), "ipv4")).toEqual([]);
  // Without ours there is nothing above it: that it is missing is another finding.
  expect(rulesAbove(save(["-j DOCKER"]), "ipv4")).toEqual([]);
  const many = Array.from({ length: 7 }, (_, i) => `-p tcp -m tcp --dport ${i + 1} -j ACCEPT`);
  const found = rulesAbove(save([...many, ours]), "ipv6");
  expect(found).toHaveLength(6);
  expect(found[0]).toBe("IPv6 nat OUTPUT, before ours: -p tcp -m tcp --dport 1 -j ACCEPT");
  expect(found[5]).toBe("IPv6 nat OUTPUT: 2 more before ours");
});

test("parseSimulation() reads what is allowed, and nothing that was not asked for", () => {
  const member = (action: string, decision: string) =>
    `<member><MatchedStatements><member><SourcePolicyId>p</SourcePolicyId></member></MatchedStatements><MissingContextValues/>` +
    `<EvalResourceName>*</EvalResourceName><EvalDecision>${decision}</EvalDecision><EvalActionName>${action}</EvalActionName></member>`;
  const xml =
    `<SimulatePrincipalPolicyResponse><SimulatePrincipalPolicyResult><IsTruncated>false</IsTruncated><EvaluationResults>` +
    `${member("ssm:SendCommand", "allowed")}${member("iam:PassRole", "implicitDeny")}${member("s3:GetObject", "allowed")}` +
    `${member("iam:PutRolePolicy", "allowed")}</EvaluationResults></SimulatePrincipalPolicyResult></SimulatePrincipalPolicyResponse>`;
  expect(parseSimulation(xml)).toEqual(["ssm:SendCommand", "iam:PutRolePolicy"]);
  expect(parseSimulation("<html>")).toEqual([]);
});

test("rolesOf() has each role of the configuration once", () => {
  const other = `${ROLE}2`;
  const rules = [
    { name: "a", match: { user: "a" }, role: other },
    { name: "b", match: { user: "b" }, role: ROLE },
    { name: "c", match: { user: "c" }, role: "none" },
  ];
  expect(rolesOf(config({ rules }))).toEqual([ROLE, other]);
});

test("signedHeaders() are signed as a service checks it", () => {
  const body = "Action=SimulatePrincipalPolicy&Version=2010-05-08";
  const headers = signedHeaders(
    { host: "iam.amazonaws.com", region: "us-east-1", service: "iam", body, date: "20261126T050000Z" },
    { accessKeyId: "ASIAEXAMPLE", secretAccessKey: "secret", sessionToken: "token" },
  );
  const claim = parseAuthorization(headers["authorization"]);
  if (claim === null) throw new Error("no claim");
  const request = { method: "POST", target: "/", headers, body: Buffer.from(body) };
  expect(isSignedWith("secret", claim, request)).toBe(true);
  expect(isSignedWith("secret", claim, { ...request, body: Buffer.from(`${body}x`) })).toBe(false);
  expect(JSON.stringify(headers)).not.toContain('"secret"');
});

describe("readFilesAnswer(), of a process that its user may have changed", () => {
  const file = { path: "/home/bob/.boto", of: "bob", use: "read", what: "keys" };
  test("takes what it should be, and nothing beside it", () => {
    expect(readFilesAnswer({ files: [{ ...file, more: 1 }], gaps: ["x"], more: 1 })).toEqual({
      files: [file as never],
      gaps: ["x"],
    });
  });
  const others: unknown[] = [
    null,
    1,
    [],
    {},
    { files: [] },
    { files: {}, gaps: [] },
    { files: [1], gaps: [] },
    { files: [{ ...file, path: 1 }], gaps: [] },
    { files: [{ ...file, of: {} }], gaps: [] },
    { files: [{ ...file, use: "execute" }], gaps: [] },
    { files: [], gaps: [{}] },
  ];
  for (const other of others)
    test(`takes no ${JSON.stringify(other)}`, () => expect(readFilesAnswer(other)).toBeNull());
});
