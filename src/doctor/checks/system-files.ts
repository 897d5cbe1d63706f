import { type Check, look } from "../types.ts";
import { useOf } from "../usable.ts";

interface SystemFile {
  readonly path: string;
  readonly use: "read" | "write";
  readonly what: string;
  /** It counts only where it has AWS secrets in it. */
  readonly onlyWithSecrets?: boolean;
}

const readable = (what: string, ...paths: readonly string[]): readonly SystemFile[] =>
  paths.map((path) => ({ path, use: "read", what }));
/** The socket of a program that starts containers for whoever may write to it. */
const engine = (name: string, ...paths: readonly string[]): readonly SystemFile[] =>
  paths.map((path) => ({ path, use: "write", what: `who connects to ${name} starts containers as root` }));

/** Files of the system, with what they hold or give, and how somebody would use them. */
export const SYSTEM_FILES: readonly SystemFile[] = [
  ...engine("Docker", "/run/docker.sock"),
  ...engine("root's Podman", "/run/podman/podman.sock"),
  ...engine("containerd", "/run/containerd/containerd.sock"),
  ...engine("CRI-O", "/run/crio/crio.sock"),
  ...engine("LXD", "/var/lib/lxd/unix.socket", "/var/snap/lxd/common/lxd/unix.socket"),
  ...engine("Incus", "/var/lib/incus/unix.socket"),
  ...readable("everybody's password hashes", "/etc/shadow"),
  {
    path: "/etc/environment",
    use: "read",
    what: "AWS secrets in everybody's environment",
    onlyWithSecrets: true,
  },
  ...readable("keys of boto for the whole node", "/etc/boto.cfg"),
  ...readable("keys of s3fs for the whole node", "/etc/passwd-s3fs"),
  ...readable("settings of the ECS agent, which may hold keys of a registry", "/etc/ecs/ecs.config"),
  ...readable("the ECS agent's state", "/var/lib/ecs/data/agent.db"),
  ...readable("the SSM agent's own key", "/var/lib/amazon/ssm/Vault/Store/RegistrationKey"),
  ...readable("keys of the CodeDeploy agent", "/etc/codedeploy-agent/conf/codedeploy.onpremises.yml"),
  {
    path: "/opt/aws/amazon-cloudwatch-agent/etc/common-config.toml",
    use: "write",
    what: "where the CloudWatch agent takes its credentials",
  },
  ...readable(
    "the instance's user data, which the proxy keeps from users",
    "/var/lib/cloud/instance/user-data.txt",
    "/var/lib/cloud/instance/user-data.txt.i",
    "/run/cloud-init/instance-data-sensitive.json",
  ),
  ...readable("the kubelet's key", "/var/lib/kubelet/pki/kubelet-client-current.pem"),
  ...readable("a cluster administrator's key", "/etc/kubernetes/admin.conf"),
  ...readable(
    "the cluster's MUNGE key, whose holder can act as anyone in Slurm, root included",
    "/etc/munge/munge.key",
  ),
  ...readable(
    "Slurm's key of tokens, whose holder can act as anyone in Slurm",
    "/var/spool/slurm/statesave/jwt_hs256.key",
    "/etc/slurm/jwt_hs256.key",
  ),
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
