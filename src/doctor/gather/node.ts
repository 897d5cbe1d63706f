import { lstatSync, readFileSync, readlinkSync, realpathSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { objectPath } from "../../config/load.ts";
import type { Config } from "../../config/schema.ts";
import { asksForJobs } from "../../config/warnings.ts";
import { slurmProblem } from "../../identity/slurm-settings.ts";
import { findProgram, runProgram, SYSTEM_PATH } from "../../platform/programs.ts";
import { matchesOf } from "../../rules/grants.ts";
import { runCommand } from "../../service/command.ts";
import { gatherFacts, portFacts } from "../../service/facts.ts";
import { loginWarnings } from "../../service/login-warnings.ts";
import {
  BINARY,
  CONFIG,
  IP,
  OBJECT_UNITS,
  ROOT_STATE_DIRECTORY,
  UNIT_DIRECTORY,
  UNITS,
} from "../../service/paths.ts";
import { type Bridge, type DoctorInputs, type KernelFacts, type Known, known, unknown } from "../types.ts";

/** Facts about the node itself: kernel, bridges, ports, own files, programs. An edge. */

export async function kernelHere(config: Config | null): Promise<Known<KernelFacts>> {
  const { kernel, socketLookup, connectionTracking, cgroups } = await gatherFacts(
    runCommand,
    process.execPath,
  );
  const byCgroup = config?.rules.find((rule) => matchesOf(rule).some(({ cgroup }) => cgroup !== undefined));
  const byJob = config !== null && asksForJobs(config);
  return known(
    {
      release: kernel,
      socketLookup,
      connectionTracking,
      cgroups,
      needsCgroups:
        byCgroup !== undefined
          ? `the rule ${JSON.stringify(byCgroup.name)} matches by cgroup`
          : byJob
            ? "the configuration asks for Slurm jobs"
            : null,
      slurm: byJob ? slurmProblem() : null,
    },
    "the kernel, /sys/fs/cgroup, slurm.conf",
  );
}

export const portHere = (config: Config | null): DoctorInputs["port"] => {
  const source = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
  return config === null
    ? unknown("the configuration cannot be read", source)
    : known({ listen: config.listen, facts: portFacts() }, source);
};

interface Link {
  readonly ifname?: string;
  readonly master?: string;
  readonly linkinfo?: { readonly info_kind?: string };
}

/** Reads what `ip -json -details link` prints. Pure. */
export function parseBridges(json: string): Bridge[] {
  const links = JSON.parse(json) as readonly Link[];
  return links
    .filter(({ linkinfo }) => linkinfo?.info_kind === "bridge")
    .map(({ ifname = "" }) => ({
      name: ifname,
      ports: links.filter(({ master }) => master === ifname).length,
    }));
}

export async function bridgesHere(): Promise<Known<readonly Bridge[]>> {
  const source = "ip -json -details link";
  const { exitCode, stdout, stderr } = await runProgram([IP, "-json", "-details", "link"], {
    path: SYSTEM_PATH,
  });
  if (exitCode !== 0) return unknown(`it ended with ${exitCode}: ${stderr.trim()}`, source);
  try {
    return known(parseBridges(stdout), source);
  } catch {
    return unknown("its output is no JSON", source);
  }
}

const LXC_USERNET = "/etc/lxc/lxc-usernet";

/** Users in lxc-usernet(5): `USER veth BRIDGE NUMBER`; a group begins with @. */
export const parseLxcUsers = (text: string): string[] => [
  ...new Set(
    text.split("\n").flatMap((line) => {
      const [user = "", type, bridge, count] = line.replace(/#.*/, "").trim().split(/\s+/);
      return user !== "" && type === "veth" && bridge !== undefined && Number(count) > 0 ? [user] : [];
    }),
  ),
];

export function bridgeUsersHere(): Known<readonly string[]> {
  try {
    return known(parseLxcUsers(readFileSync(LXC_USERNET, "utf8")), LXC_USERNET);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    return code === "ENOENT" ? known([], LXC_USERNET) : unknown(code ?? "cannot be read", LXC_USERNET);
  }
}

/** Files of ours that somebody else than root could change. @param config null where it cannot be read. */
export function ownFilesHere(config: Pick<Config, "stateDirectory"> | null): Known<readonly string[]> {
  const files = [
    BINARY,
    CONFIG,
    ROOT_STATE_DIRECTORY,
    objectPath(config ?? { stateDirectory: "/var/lib/imdsproxy" }),
    ...[...Object.values(UNITS), ...Object.values(OBJECT_UNITS)].map((unit) => `${UNIT_DIRECTORY}/${unit}`),
  ];
  return known(changeable(files), `ls -ld ${BINARY} ${CONFIG} …`);
}

/** Which of these files, of what they link to, and of the directories above either others than root could change; with the reason. */
export function changeable(files: readonly string[]): string[] {
  const all = new Set<string>();
  const waiting = [...files];
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop())
    for (let path = file; !all.has(path); path = dirname(path)) {
      all.add(path);
      if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true)
        waiting.push(resolve(realpathSync(dirname(path)), readlinkSync(path)));
    }
  return [...all].sort().flatMap((path) => {
    const found = lstatSync(path, { throwIfNoEntry: false });
    if (found === undefined || found.isSymbolicLink()) return [];
    if (found.uid !== 0) return [`${path} belongs to uid ${found.uid}`];
    return (found.mode & 0o022) === 0
      ? []
      : [`${path} can be written by others (mode ${(found.mode & 0o7777).toString(8)})`];
  });
}

export const loginProgramsHere = (): Known<readonly string[]> =>
  known(loginWarnings(), "the places of Dropbear and EC2 Instance Connect");

const CAPTURE_PROGRAMS = ["dumpcap", "tcpdump", "tshark", "ngrep", "tcpflow", "dumpcap.real"];
const CAPTURE_DIRECTORIES = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

/** Capture programs that everybody may run and that have a capability for it. */
export async function capturesHere(): Promise<Known<readonly string[]>> {
  const source = "getcap";
  const programs = CAPTURE_DIRECTORIES.flatMap((directory) =>
    CAPTURE_PROGRAMS.map((name) => `${directory}/${name}`),
  ).filter((path) => {
    const found = lstatSync(path, { throwIfNoEntry: false });
    return found?.isFile() === true && (found.mode & 0o001) !== 0;
  });
  const setuid = programs
    .filter((path) => (lstatSync(path).mode & 0o4000) !== 0 && lstatSync(path).uid === 0)
    .map((path) => `every user may run ${path}, which is set-user-id root`);
  if (programs.length === 0) return known([], source);
  if (findProgram("getcap", SYSTEM_PATH) === null)
    return known(setuid, source, [`the capabilities of ${programs.join(", ")}: there is no getcap`]);
  const { stdout } = await runProgram(["getcap", ...programs], { path: SYSTEM_PATH });
  const capable = stdout.split("\n").flatMap((line) => {
    const [, path] = /^(\S+)\s.*cap_net_(?:raw|admin)/.exec(line) ?? [];
    return path === undefined
      ? []
      : [`every user may run ${path}, which has ${line.slice(path.length).replace(/^[\s=]+/, "")}`];
  });
  return known([...setuid, ...capable], source);
}
