import { BINARY, CONFIG, OBJECT_UNITS, WANTED_BY } from "../paths.ts";
import { belowState, LEFT_OUT, type Line, sandbox, type UnitFacts } from "./parts.ts";

/** The units that poll the fleet's object. */

/** The facts on which the units of the fleet's object depend. */
export interface ObjectUnitFacts extends Pick<UnitFacts, "systemdVersion" | "binary" | "config"> {
  /** The directory of the copy: a path below /var/lib. */
  readonly directory: string;
  /** Seconds from the end of a poll to the next. */
  readonly everySeconds: number;
}

/** One poll. */
export function objectService({ directory, binary, config }: ObjectUnitFacts): readonly Line[] {
  return [
    "[Unit]",
    "Description=imdsproxy: one poll of the fleet's object of rules",
    "# No unit waits for it: the proxy starts with the copy on the disk.",
    "After=network-online.target",
    "StartLimitIntervalSec=0",
    "",
    "[Service]",
    "Type=oneshot",
    "# A poll that fails is a failed unit until the next one, and its reason is in the journal.",
    `ExecStart=${binary ?? BINARY} config fetch --config ${config ?? CONFIG}`,
    "TimeoutStartSec=60s",
    `StateDirectory=${belowState(directory)}`,
    "StateDirectoryMode=0755",
    "UMask=0077",
    "Nice=5",
    "# CHOWN gives the copy to the service's group, NET_ADMIN reaches a metadata address that systemd has locked.",
    "CapabilityBoundingSet=CAP_CHOWN CAP_NET_ADMIN",
    ...sandbox.filter((line) => typeof line !== "string" || !line.startsWith("# What runs stays")),
    "# fchown(2) is among @privileged.",
    "SystemCallFilter=@chown",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    ...LEFT_OUT,
    "#   PrivateUsers=            its files are root's and the service's group's",
    "#   IPAddressDeny=           S3's addresses are known only to DNS",
    "#   RootDirectory=           it asks the node's NSS for the service's group",
    "#   ProcSubset=              its look for networks reads /proc/net",
    "#   User=                    root alone reaches the instance role past the proxy, which has no part in it",
  ];
}

/** The longest random delay of a poll, as a share of the interval, so that a thousand nodes do not ask in the same second. */
const JITTER = 0.25;

/** When to poll. */
export const objectTimer = ({ everySeconds }: ObjectUnitFacts): readonly Line[] => [
  "[Unit]",
  "Description=imdsproxy: polls the fleet's object of rules",
  "",
  "[Timer]",
  "OnBootSec=5s",
  `OnUnitInactiveSec=${everySeconds}s`,
  `RandomizedDelaySec=${Math.ceil(everySeconds * JITTER)}s`,
  "AccuracySec=1s",
  "",
  "[Install]",
  `WantedBy=${WANTED_BY[OBJECT_UNITS.timer]}`,
];
