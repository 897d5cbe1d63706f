import { configSchemaText } from "../config/known-keys.ts";
import { objectDirectory, objectPath } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { FIREWALL_LOCK } from "../firewall/iptables.ts";
import { needsShadow } from "../firewall/platform-accounts.ts";
import { NO_MODULES_DIRECTORY } from "../firewall/without-nss.ts";
import {
  BINARY,
  CONFIG,
  CONFIG_DIRECTORY,
  CONFIG_SCHEMA,
  HANDOVER_UNIT,
  JOURNAL,
  MODPROBE,
  OBJECT_UNITS,
  ROOT_STATE_DIRECTORY,
  RUNTIME_DIRECTORY,
  RUNTIME_UNIT_DIRECTORY,
  TO_RESTART,
  UNIT_DIRECTORY,
  UNITS,
  WANTED_BY,
} from "./paths.ts";
import { MODPROBE_TEXT } from "./smc.ts";
import type { FileChange } from "./transaction.ts";
import { handoverUnitText, objectUnitTexts, unitTexts } from "./units.ts";

/** Plans: a list of steps, which `--dry-run` prints and execute.ts carries out. Pure. */

export type Step =
  /** Writes the files beside their places. Undone where a later step fails before `commit`. */
  | { readonly kind: "stage"; readonly changes: readonly FileChange[] }
  /** Makes the service's account where there is none. Undone where a later step fails before `commit`. */
  | { readonly kind: "create-account" }
  /** Asks the new executable whether it accepts the new configuration. */
  | {
      readonly kind: "check-configuration";
      readonly binary: string;
      readonly config: string;
      /** The copy of the fleet's object; default the node's. */
      readonly object?: string | undefined;
    }
  /** Starts the new proxy beside the old one. Where it does not start, nothing has changed. */
  | {
      readonly kind: "start-handover";
      readonly unit: string;
      readonly config: string;
      /** Directories that it creates; removed again where the step fails. */
      readonly creates: readonly string[];
    }
  /** Moves the files into place, atomically. Nothing is undone after this. */
  | {
      readonly kind: "commit";
      readonly changes: readonly FileChange[];
      /**
       * The state directory of before where a proxy runs from files among these; else null. It is noted in {@link TO_RESTART} until
       * `start-proxy`.
       */
      readonly outdates: string | null;
    }
  /** Starts the proxy, or starts it again. */
  | { readonly kind: "start-proxy"; readonly verb: "start" | "restart" }
  | { readonly kind: "end-handover" }
  /** Stops the watch over the rules; an error where it still runs, because it would put back what comes to be removed. */
  | { readonly kind: "stop-watch" }
  | {
      readonly kind: "run";
      readonly argv: readonly string[];
      /** What to do where the command fails, for the error. */
      readonly remedy?: string;
      /** True where a failure is ignored, because what it undoes may not be there. */
      readonly mayFail?: true;
    }
  /** Removes files, and directories with their content; a missing one is no error. */
  | { readonly kind: "remove"; readonly paths: readonly string[] }
  | { readonly kind: "remove-account" }
  /** Makes root the owner of a path that stays, because the account's uid may be given to another user later. */
  | { readonly kind: "keep-for-root"; readonly path: string };

/** What an installation starts from. */
export interface Installation {
  /** The executable that is to be installed. */
  readonly executable: string;
  readonly systemdVersion: number;
  readonly config: Config;
  /** Text of the configuration to install. */
  readonly configText: string;
  /** The same for the proxy that runs only during the change. */
  readonly handoverConfigText: string;
  /** Whether a file is already as a change would make it. */
  readonly isCurrent: (change: FileChange) => boolean;
  /** Whether the service runs now. */
  readonly proxyActive: boolean;
  /** Whether the node has modprobe(8), and so the directory of its files: without it the kernel loads no module for anybody. */
  readonly hasModprobe: boolean;
  /** Whether the kernel has sockets of the family AF_SMC now; see smc.ts. */
  readonly hasSmc: boolean;
  /** Whether the second proxy of an interrupted setup is there. */
  readonly hasHandover: boolean;
  /** The text of the fleet's object that was fetched; null where there is none, or the copy stays. */
  readonly object: string | null;
  /** Whether the units that poll the fleet's object are there. */
  readonly hasObjectUnits: boolean;
  /** State directories: of the installed unit, and of the one from which the proxy runs where that was replaced since. */
  readonly state: { readonly installed: string; readonly outdated: string | null };
}

const HANDOVER_CONFIG = `${RUNTIME_DIRECTORY}/handover.yaml`;

/** Where the files of an installation go. */
export const INSTALLED_PATHS: readonly string[] = [
  BINARY,
  CONFIG,
  CONFIG_SCHEMA,
  MODPROBE,
  ...[...Object.values(UNITS), ...Object.values(OBJECT_UNITS)].map((name) => `${UNIT_DIRECTORY}/${name}`),
];

/** The links by which `systemctl enable` has the units start at boot (systemd.unit(5), [Install]). */
const ENABLEMENT_LINKS: readonly string[] = Object.entries(WANTED_BY).map(
  ([unit, target]) => `${UNIT_DIRECTORY}/${target}.wants/${unit}`,
);

/** Every file that an installation puts into place, whether or not it is there already. */
export function installedFiles(installation: Installation): readonly FileChange[] {
  const units = unitTexts({
    systemdVersion: installation.systemdVersion,
    stateDirectory: installation.config.stateDirectory,
    upstream: installation.config.upstream,
    readsShadow: needsShadow(installation.config.platform),
  });
  return [
    { path: BINARY, content: { copyOf: installation.executable }, mode: 0o755 },
    // Only root and the service may read it: it can hold external ids and policies.
    { path: CONFIG, content: { text: installation.configText }, mode: 0o640, forService: true },
    { path: CONFIG_SCHEMA, content: { text: configSchemaText() }, mode: 0o644 },
    ...(installation.hasModprobe ? [{ path: MODPROBE, content: { text: MODPROBE_TEXT }, mode: 0o644 }] : []),
    ...Object.entries({ ...units, ...objectUnits(installation) }).map(([name, text]) => ({
      path: `${UNIT_DIRECTORY}/${name}`,
      content: { text },
      mode: 0o644,
    })),
    ...(installation.object === null
      ? []
      : [
          {
            path: objectPath(installation.config),
            content: { text: installation.object },
            mode: 0o640,
            forService: true,
          },
        ]),
  ];
}

/** The units that poll the fleet's object, where the configuration has one. */
function objectUnits({ config, systemdVersion }: Installation): Readonly<Record<string, string>> {
  if (config.config == null) return {};
  return objectUnitTexts({
    systemdVersion,
    directory: objectDirectory(config),
    everySeconds: config.config.every,
  });
}

/** The files that the proxy is started from: where one of them changes, it has to be replaced. */
const PROXY_FILES: ReadonlySet<string> = new Set([BINARY, CONFIG, `${UNIT_DIRECTORY}/${UNITS.proxy}`]);

/**
 * Installs everything. Where a proxy runs, the new one is first started beside it.
 *
 * @param staged where a file waits before it is moved into place.
 */
export function installSteps(
  installation: Installation,
  staged: (path: string) => string,
  options: { readonly start: boolean },
): readonly Step[] {
  const changes = installedFiles(installation).filter((change) => !installation.isCurrent(change));
  const changed = new Set(changes.map(({ path }) => path));
  const binary = changed.has(BINARY) ? staged(BINARY) : BINARY;
  const outdates = [...PROXY_FILES].some((path) => changed.has(path));
  const replaceProxy =
    options.start && (!installation.proxyActive || installation.state.outdated !== null || outdates);
  const steps: Step[] = [];
  if (changes.length > 0) steps.push({ kind: "stage", changes });
  steps.push({ kind: "create-account" });
  const copy = objectPath(installation.config);
  const object = changed.has(copy) ? staged(copy) : undefined;
  if (changed.has(BINARY) || changed.has(CONFIG) || object !== undefined) {
    const config = changed.has(CONFIG) ? staged(CONFIG) : CONFIG;
    steps.push({ kind: "check-configuration", binary, config, object });
  }
  if (replaceProxy) {
    const unit = handoverUnitText({
      systemdVersion: installation.systemdVersion,
      stateDirectory: installation.config.stateDirectory,
      binary,
      config: HANDOVER_CONFIG,
      object,
    });
    const creates = [installation.config.stateDirectory, RUNTIME_DIRECTORY];
    steps.push({ kind: "start-handover", unit, config: installation.handoverConfigText, creates });
  }
  if (changes.length > 0) {
    steps.push({
      kind: "commit",
      changes,
      outdates: outdates && installation.proxyActive ? installation.state.installed : null,
    });
    steps.push({ kind: "run", argv: ["systemctl", "daemon-reload"] });
  }
  if (installation.hasSmc)
    steps.push({ kind: "run", argv: ["modprobe", "--remove", "--quiet", "smc_diag", "smc"], mayFail: true });
  if (!options.start) return steps;
  steps.push({ kind: "run", argv: ["systemctl", "--quiet", "enable", ...Object.values(UNITS)] });
  steps.push(...rulesSteps());
  steps.push({ kind: "start-proxy", verb: replaceProxy ? "restart" : "start" });
  if (replaceProxy || installation.hasHandover) steps.push({ kind: "end-handover" });
  const former = [installation.state.installed, installation.state.outdated].filter(
    (one) => one !== null && one !== installation.config.stateDirectory,
  );
  const current = [installation.config.stateDirectory, objectDirectory(installation.config)];
  for (const stateDirectory of new Set(former as string[])) {
    const paths = [stateDirectory, objectDirectory({ stateDirectory })].filter(
      (path) => !current.includes(path),
    );
    if (paths.length > 0) steps.push({ kind: "remove", paths });
  }
  if (installation.config.config != null) steps.push(...startPolling());
  else if (installation.hasObjectUnits) steps.push(...removePolling());
  return steps;
}

/** `restart`, so that a changed interval takes effect at once. */
const startPolling = (): readonly Step[] => [
  { kind: "run", argv: ["systemctl", "--quiet", "enable", OBJECT_UNITS.timer] },
  {
    kind: "run",
    argv: ["systemctl", "restart", OBJECT_UNITS.timer],
    remedy: `see: journalctl -u ${OBJECT_UNITS.timer}`,
  },
];

const stopPolling = (): readonly Step[] => [
  { kind: "run", argv: ["systemctl", "--quiet", "disable", "--now", OBJECT_UNITS.timer], mayFail: true },
  { kind: "run", argv: ["systemctl", "stop", OBJECT_UNITS.service], mayFail: true },
  { kind: "run", argv: ["systemctl", "reset-failed", OBJECT_UNITS.service], mayFail: true },
];

/** The copy of the object is kept: where the node polls again later, the serial of the copy keeps it from taking an older object. */
const removePolling = (): readonly Step[] => [
  ...stopPolling(),
  { kind: "remove", paths: Object.values(OBJECT_UNITS).map((name) => `${UNIT_DIRECTORY}/${name}`) },
  { kind: "run", argv: ["systemctl", "daemon-reload"] },
];

/** `restart`, even where the units run: the rules are applied again, atomically, and the watch runs the new executable. */
const rulesSteps = (): readonly Step[] => [
  {
    kind: "run",
    argv: ["systemctl", "restart", UNITS.iptables],
    remedy: `see: journalctl -u ${UNITS.iptables}`,
  },
  { kind: "run", argv: ["systemctl", "restart", UNITS.repair], remedy: `see: journalctl -u ${UNITS.repair}` },
];

/**
 * Starts what is installed, now and at every boot: first the proxy, so that nobody is refused in between. The closed unit
 * is not started: it would refuse users until the rules are there, and is for the boot alone.
 */
export function enableSteps(
  options: Pick<Installation, "hasObjectUnits"> & { readonly proxyOutdated: boolean },
): readonly Step[] {
  return [
    { kind: "run", argv: ["systemctl", "daemon-reload"] },
    { kind: "run", argv: ["systemctl", "--quiet", "enable", ...Object.values(UNITS)] },
    { kind: "start-proxy", verb: options.proxyOutdated ? "restart" : "start" },
    ...rulesSteps(),
    ...(options.hasObjectUnits ? startPolling() : []),
  ];
}

/**
 * Stops everything and gives the node its own firewall back; the installed files stay. What the closed unit put in place
 * goes with the rules.
 */
export function disableSteps(): readonly Step[] {
  return [
    { kind: "run", argv: ["systemctl", "--quiet", "disable", ...Object.values(UNITS)], mayFail: true },
    // The watch first, or it would put the rules back. The proxy last, so that no user is redirected to a port where nobody listens.
    { kind: "stop-watch" },
    { kind: "run", argv: ["systemctl", "stop", UNITS.iptables], mayFail: true },
    { kind: "run", argv: ["systemctl", "stop", UNITS.closed], mayFail: true },
    { kind: "run", argv: ["@self", "iptables", "remove"] },
    // A flush may have removed the agent's own entry together with our rules.
    { kind: "run", argv: ["@self", "iptables", "restore-original", "--if-seen"], mayFail: true },
    { kind: "run", argv: ["systemctl", "stop", HANDOVER_UNIT], mayFail: true },
    { kind: "run", argv: ["systemctl", "stop", UNITS.proxy], mayFail: true },
    ...stopPolling(),
    { kind: "run", argv: ["systemctl", "reset-failed", ...Object.values(UNITS)], mayFail: true },
    // systemctl leaves all of these links where it cannot load one of the units. Last: it fails on a read-only disk.
    { kind: "remove", paths: ENABLEMENT_LINKS },
  ];
}

/**
 * Removes everything from the node.
 *
 * @param keepState keeps the configuration and the key of the tokens.
 */
export function uninstallSteps(
  stateDirectory: string,
  staged: (path: string) => string,
  keepState: boolean,
): readonly Step[] {
  const files = INSTALLED_PATHS.filter((path) => path !== CONFIG);
  return [
    ...disableSteps(),
    {
      kind: "remove",
      paths: [
        ...[...files, CONFIG].map(staged),
        ...files,
        ...[
          `${RUNTIME_UNIT_DIRECTORY}/${HANDOVER_UNIT}`,
          RUNTIME_DIRECTORY,
          ROOT_STATE_DIRECTORY,
          FIREWALL_LOCK,
          NO_MODULES_DIRECTORY,
          TO_RESTART,
        ],
        ...(keepState ? [JOURNAL] : [CONFIG_DIRECTORY, stateDirectory, objectDirectory({ stateDirectory })]),
      ],
    },
    ...(keepState
      ? [stateDirectory, CONFIG, objectDirectory({ stateDirectory })].map(
          (path): Step => ({ kind: "keep-for-root", path }),
        )
      : []),
    { kind: "run", argv: ["systemctl", "daemon-reload"] },
    { kind: "remove-account" },
  ];
}

export { HANDOVER_CONFIG };
