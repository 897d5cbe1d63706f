import { type Check, look } from "../types.ts";
import { useOf } from "../usable.ts";

/** Files of the system, with what they hold or give, and how somebody would use them. */
export const SYSTEM_FILES: readonly {
  readonly path: string;
  readonly use: "read" | "write";
  readonly what: string;
  /** It counts only where it has AWS secrets in it. */
  readonly onlyWithSecrets?: boolean;
}[] = [
  { path: "/run/docker.sock", use: "write", what: "who connects to Docker starts containers as root" },
  {
    path: "/run/podman/podman.sock",
    use: "write",
    what: "who connects to root's Podman starts containers as root",
  },
  {
    path: "/run/containerd/containerd.sock",
    use: "write",
    what: "who connects to containerd starts containers as root",
  },
  { path: "/run/crio/crio.sock", use: "write", what: "who connects to CRI-O starts containers as root" },
  { path: "/var/lib/lxd/unix.socket", use: "write", what: "who connects to LXD starts containers as root" },
  {
    path: "/var/snap/lxd/common/lxd/unix.socket",
    use: "write",
    what: "who connects to LXD starts containers as root",
  },
  {
    path: "/var/lib/incus/unix.socket",
    use: "write",
    what: "who connects to Incus starts containers as root",
  },
  { path: "/etc/shadow", use: "read", what: "everybody's password hashes" },
  {
    path: "/etc/environment",
    use: "read",
    what: "AWS secrets in everybody's environment",
    onlyWithSecrets: true,
  },
  { path: "/etc/boto.cfg", use: "read", what: "keys of boto for the whole node" },
  { path: "/etc/passwd-s3fs", use: "read", what: "keys of s3fs for the whole node" },
  {
    path: "/etc/ecs/ecs.config",
    use: "read",
    what: "settings of the ECS agent, which may hold keys of a registry",
  },
  { path: "/var/lib/ecs/data/agent.db", use: "read", what: "the ECS agent's state" },
  { path: "/var/lib/amazon/ssm/Vault/Store/RegistrationKey", use: "read", what: "the SSM agent's own key" },
  {
    path: "/etc/codedeploy-agent/conf/codedeploy.onpremises.yml",
    use: "read",
    what: "keys of the CodeDeploy agent",
  },
  {
    path: "/opt/aws/amazon-cloudwatch-agent/etc/common-config.toml",
    use: "write",
    what: "where the CloudWatch agent takes its credentials",
  },
  {
    path: "/var/lib/cloud/instance/user-data.txt",
    use: "read",
    what: "the instance's user data, which the proxy keeps from users",
  },
  {
    path: "/var/lib/cloud/instance/user-data.txt.i",
    use: "read",
    what: "the instance's user data, which the proxy keeps from users",
  },
  {
    path: "/run/cloud-init/instance-data-sensitive.json",
    use: "read",
    what: "the instance's user data, which the proxy keeps from users",
  },
  { path: "/var/lib/kubelet/pki/kubelet-client-current.pem", use: "read", what: "the kubelet's key" },
  { path: "/etc/kubernetes/admin.conf", use: "read", what: "a cluster administrator's key" },
  {
    path: "/etc/munge/munge.key",
    use: "read",
    what: "the cluster's key of MUNGE, with which anybody is anyone to Slurm, root included",
  },
  {
    path: "/var/spool/slurm/statesave/jwt_hs256.key",
    use: "read",
    what: "Slurm's key of tokens, with which anybody is anyone to Slurm",
  },
  {
    path: "/etc/slurm/jwt_hs256.key",
    use: "read",
    what: "Slurm's key of tokens, with which anybody is anyone to Slurm",
  },
];

export const systemFiles: Check = {
  id: "system-files",
  title: "files of agents, keys and sockets of root's that ordinary users can use",
  level: "open",
  why: "they hold credentials of the node, or give root's power",
  remedy: "close the file to others; for a socket, look at the unit or the setting that opened it",
  command: "ls -l FILE; chmod o-rwx FILE",
  explain: [
    `Looks, as the user, at ${SYSTEM_FILES.map(({ path }) => path).join(", ")}. Modes decide; where it says so, a file counts only if it has AWS secrets in it, which a process of that user looks for. Links are followed only where root alone can change them.`,
    "Also at files of credentials that the environments of root's processes name (AWS_SHARED_CREDENTIALS_FILE and others), and at the EnvironmentFile= of units that have AWS secrets in them.",
  ],
  run: ({ systemFiles }) => look(systemFiles, (files) => files.map((file) => ({ what: useOf(file) }))),
};
