/** A node as EC2 makes it, and what an operator's hook fetches there. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { EXECUTABLE } from "../../support/node.ts";
import type { Machine } from "./machine.ts";
import { makeNode, ROLE_ARN, STAND_IN, STS, sourceFile } from "./node.ts";

const early = (body: string) => `[Unit]\nDefaultDependencies=no\n${body}`;

/** The metadata service is on the link, behind eth0, and not at an address of the node itself, as it is in the other tests. */
const NETWORK = early(`Before=network.target
After=systemd-remount-fs.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'ip netns add far; ip link add eth0 type veth peer name far0 netns far; ip addr add 10.0.0.2/24 dev eth0; ip link set eth0 up; ip -n far link set lo up; ip -n far addr add 10.0.0.1/24 dev far0; ip -n far addr add 169.254.169.254/32 dev far0; ip -n far link set far0 up; ip route add default via 10.0.0.1'
`);
const METADATA_SERVICE = early(`After=node-network.service
[Service]
ExecStart=/bin/ip netns exec far ${STAND_IN} imds 169.254.169.254:80
Restart=always
`);

/** The server of the release; the boot waits until it answers, as a release of an operator's is there before the node. */
const RELEASE = `[Service]
ExecStart=${STAND_IN} files 127.0.0.1:8000
ExecStartPost=/usr/bin/curl -fsS --retry 120 --retry-connrefused --retry-delay 1 -o /dev/null http://127.0.0.1:8000/SHA256SUMS
TimeoutStartSec=150
`;

const digest = (content: string | Uint8Array) => createHash("sha256").update(content).digest("hex");

/** Makes the machine, off, with a release behind http://127.0.0.1:8000/. */
export function makeEc2Node(): Machine {
  const node = makeNode({ kind: "ec2" });
  const executable = readFileSync(EXECUTABLE);
  const names = ["imdsproxy-linux-x64", "imdsproxy-linux-x64-baseline", "imdsproxy-linux-arm64"];
  node.write("srv/imdsproxy", executable);
  for (const name of names) node.link("imdsproxy", `srv/${name}`);
  node.write("srv/SHA256SUMS", names.map((name) => `${digest(executable)}  ${name}\n`).join(""));
  node.write("srv/install.sh", sourceFile("scripts/install.sh"));
  for (const [name, text, target] of [
    ["node-network.service", NETWORK, "sysinit.target"],
    ["hyperpod-agent.service", METADATA_SERVICE, "sysinit.target"],
    ["files.service", RELEASE, "multi-user.target"],
  ] as const) {
    node.write(`etc/systemd/system/${name}`, text);
    node.enable(name, target);
  }
  return node;
}

/** scripts/lifecycle/user-data.yaml with an operator's values, as text and by its keys. */
export function userData(): { readonly text: string; readonly bootcmd: string; readonly runcmd: string } {
  const text = sourceFile("scripts/lifecycle/user-data.yaml")
    .replace(/RELEASE=.*/, "RELEASE=http://127.0.0.1:8000/")
    .replace(/ROLE_ARN=.*/, `ROLE_ARN=${ROLE_ARN}`)
    .replace(/0{64}/, digest(sourceFile("scripts/install.sh")))
    .replace('--region "$REGION"', `--sts-endpoint ${STS} --region "$REGION"`);
  const { bootcmd = [], runcmd = [] } = parse(text) as Partial<Record<"bootcmd" | "runcmd", string[]>>;
  return { text, bootcmd: bootcmd.join("\n"), runcmd: runcmd.join("\n") };
}
