import { readFileSync, readlinkSync } from "node:fs";
import { beginningOfFile } from "../../bounded-read.ts";
import type { ProcessFacts } from "../types.ts";
import { argumentsHaveSecret, FILE_VARIABLES, namesIn, pathsIn, SECRET_VARIABLES } from "./secrets.ts";

/**
 * Looks at one process. An edge: runs as root in a child process that can be killed, since the kernel waits for a process's memory
 * when its arguments are read, and a user can make that memory one that never answers.
 */

/** A limit, because prctl(2) lets a process set where in its memory its arguments are, and how long they are. */
const MOST_BYTES = 1024 * 1024;

const textOf = (path: string): string => beginningOfFile(path, MOST_BYTES).toString();

const strings = (text: string): string[] => text.split("\0").filter((one) => one !== "");

/** Cgroups of containers, as Docker, Podman, containerd, CRI-O, Kubernetes, ECS and LXC call them. */
const CONTAINER =
  /(?:^|\/)(?:(?:docker|libpod|crio|cri-containerd|nerdctl|buildkit)-[0-9a-f]|lxc\.payload\.)|\/(?:docker|lxc|ecstasks(?:\.slice)?|kubepods(?:\.slice)?|machine\.slice)\//;

/** Whether the text of /proc/PID/cgroup is a container's. Pure. */
export const isContainer = (cgroups: string): boolean =>
  cgroups
    .split("\n")
    .some((line) => CONTAINER.test(line.slice(line.indexOf(":", line.indexOf(":") + 1) + 1)));

/** Null where it has ended meanwhile. */
export function lookAtProcess(pid: number): ProcessFacts | null {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    const uid = Number(/^Uid:\t(\d+)/m.exec(status)?.[1] ?? "-1");
    const name = readFileSync(`/proc/${pid}/comm`, "utf8").replace(/\n$/, "");
    const cgroups = readFileSync(`/proc/${pid}/cgroup`, "utf8");
    const cgroup = /^0::(.*)$/m.exec(cgroups)?.[1] ?? "";
    const namespace = (of: number | "self", kind: string) => readlinkSync(`/proc/${of}/ns/${kind}`);
    const isSystems = uid === 0 || cgroup.startsWith("/system.slice/");
    const environment = isSystems ? strings(textOf(`/proc/${pid}/environ`)) : [];
    return {
      pid,
      uid,
      name,
      cgroup,
      hostNetworkContainer:
        isContainer(cgroups) &&
        namespace(pid, "net") === namespace("self", "net") &&
        namespace(pid, "mnt") !== namespace("self", "mnt"),
      secretInArguments: argumentsHaveSecret(strings(textOf(`/proc/${pid}/cmdline`))),
      secretVariables: namesIn(environment, SECRET_VARIABLES),
      credentialFiles: uid === 0 ? pathsIn(environment, FILE_VARIABLES) : [],
    };
  } catch {
    return null;
  }
}
