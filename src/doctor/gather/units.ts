import { existsSync } from "node:fs";
import { runProgram, SYSTEM_PATH } from "../../platform/programs.ts";
import { type Known, known, type UnitFacts, unknown } from "../types.ts";
import { METADATA_VARIABLES, SECRET_VARIABLES } from "./secrets.ts";

/** The services and sockets that systemd has loaded. An edge: runs systemctl. */

const PROPERTIES = "Id,LoadState,ActiveState,User,Environment,EnvironmentFiles,Listen,Triggers";
const UNITS_MS = 30_000;

/** Names of variables that are assigned in the text of Environment=, as systemctl prints it. */
const assigned = (text: string, names: readonly string[]): string[] =>
  names.filter((name) => new RegExp(`(?:^|[\\s"'])${name}=[^\\s"']`).test(text));

/** A unit, and whether it is active. */
export interface LoadedUnit extends UnitFacts {
  readonly active: boolean;
}

/** Reads what `systemctl show` prints for several units: `Name=value` lines, a blank line between units. Pure. */
export function parseUnits(text: string): LoadedUnit[] {
  return text.split(/\n\n+/).flatMap((block) => {
    const values = new Map<string, string[]>();
    for (const line of block.split("\n")) {
      const [, name, value] = /^(\w+)=(.*)$/.exec(line) ?? [];
      if (name !== undefined && value !== undefined) values.set(name, [...(values.get(name) ?? []), value]);
    }
    const one = (name: string) => values.get(name)?.[0] ?? "";
    if (one("Id") === "" || one("LoadState") !== "loaded") return [];
    const environment = (values.get("Environment") ?? []).join(" ");
    return [
      {
        name: one("Id"),
        active: one("ActiveState") === "active",
        user: one("User"),
        secretVariables: assigned(environment, SECRET_VARIABLES),
        metadataVariables: assigned(environment, METADATA_VARIABLES),
        environmentFiles: (values.get("EnvironmentFiles") ?? []).flatMap((file) => {
          const path = file.replace(/ \(ignore_errors=\w+\)$/, "");
          return path.startsWith("/") ? [path] : [];
        }),
        // "127.0.0.1:631 (Stream)"; a socket of the file system begins with a slash.
        streams: (values.get("Listen") ?? []).flatMap((listen) => {
          const address = /^(\S*:\d+) \(Stream\)$/.exec(listen)?.[1];
          return address === undefined ? [] : [address];
        }),
        triggers: one("Triggers"),
      },
    ];
  });
}

export async function unitsHere(): Promise<Known<readonly LoadedUnit[]>> {
  const source = "systemctl show '*.service' '*.socket'";
  if (!existsSync("/run/systemd/system")) return unknown("this node was not booted with systemd", source);
  const { exitCode, stdout, stderr } = await runProgram(
    ["systemctl", "show", "--no-pager", "--all", `--property=${PROPERTIES}`, "*.service", "*.socket"],
    { timeoutMs: UNITS_MS, path: SYSTEM_PATH },
  );
  if (exitCode !== 0)
    return unknown(`it ended with ${exitCode}: ${stderr.trim().split("\n")[0] ?? ""}`, source);
  return known(parseUnits(stdout), source);
}

/** Where systemd-imdsd answers local programs (systemd 261). */
const IMDSD_SOCKETS = ["/run/systemd/io.systemd.InstanceMetadata"];

/** Traces of systemd-imdsd that runs, or would. */
export function imdsdHere(units: Known<readonly LoadedUnit[]>): Known<readonly string[]> {
  const sockets = IMDSD_SOCKETS.filter((path) => existsSync(path)).map(
    (path) => `its socket ${path} is there`,
  );
  const active =
    units.kind === "known"
      ? units.value
          .filter(({ name, active }) => active && name.startsWith("systemd-imds"))
          .map(({ name }) => `${name} is active`)
      : [];
  return known([...sockets, ...active], `${IMDSD_SOCKETS.join(", ")}; systemctl`);
}
