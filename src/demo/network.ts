/** The simulated network: "aws", where the EC2 services answer, and the node, joined by one cable. Pure. */

export const ADDRESSES = {
  /** The metadata service of EC2. */
  imds4: "169.254.169.254",
  imds6: "fd00:ec2::254",
  /** SageMaker HyperPod's agent, on the node itself. */
  agent: "169.254.0.2",
  agentPort: 9081,
  /** Both ends of the cable. */
  aws4: "10.77.0.1",
  aws6: "fd77::1",
  node4: "10.77.0.2",
  node6: "fd77::2",
  /** The port of the STS stand-in at `aws4`. */
  stsPort: 8080,
} as const;

/** Commands for `ip -batch` in the aws namespace; `nodePid` names the namespace of the other end. */
export function awsNetwork(nodePid: number, ipv6: boolean): string {
  const { imds4, imds6, aws4, aws6 } = ADDRESSES;
  return batch([
    "link set lo up",
    `address add ${imds4}/32 dev lo`,
    `link add node0 type veth peer name eth0 netns ${nodePid}`,
    `address add ${aws4}/24 dev node0`,
    ...(ipv6 ? [`address add ${imds6}/128 dev lo nodad`, `address add ${aws6}/64 dev node0 nodad`] : []),
    "link set node0 up",
  ]);
}

/** Commands for `ip -batch` in the node's namespace, after awsNetwork's. */
export function nodeNetwork(hasAgent: boolean, ipv6: boolean): string {
  const { agent, aws4, aws6, node4, node6 } = ADDRESSES;
  return batch([
    "link set lo up",
    ...(hasAgent ? [`address add ${agent}/32 dev lo`] : []),
    `address add ${node4}/24 dev eth0`,
    ...(ipv6 ? [`address add ${node6}/64 dev eth0 nodad`] : []),
    "link set eth0 up",
    `route add default via ${aws4}`,
    ...(ipv6 ? [`route add default via inet6 ${aws6}`] : []),
  ]);
}

/** The rule that the HyperPod agent leaves in nat OUTPUT, as iptables arguments. */
export const ORIGINAL_ENTRY: readonly string[] = [
  ...["-d", `${ADDRESSES.imds4}/32`, "-p", "tcp", "--dport", "80"],
  ...["-j", "DNAT", "--to-destination", `${ADDRESSES.agent}:${ADDRESSES.agentPort}`],
];

const batch = (lines: readonly string[]): string => lines.map((line) => `${line}\n`).join("");
