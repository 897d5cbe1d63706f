import { defineCommand } from "citty";
import { askStatus, type StatusReply } from "../client/status-socket.ts";
import { ImdsProxyError } from "../errors.ts";
import type { Whoami } from "../imds/whoami.ts";
import { monotonicMs, sleep, systemClock } from "../platform/clock.ts";
import type { NodeStatus, Trouble } from "../service/node-status.ts";
import {
  MOST_BYTES,
  ROOT_SOCKET,
  STATUS_DIRECTORY,
  type StatusDocument,
  USERS_SOCKET,
  type UserStatus,
} from "../telemetry/status-document.ts";
import { configArg, jsonArg } from "./common.ts";
import { type Line, nodeLines, type OwnStatus, ownLines, type Screen } from "./status-text.ts";
import { jsonText, painter, takesColours, widthOf } from "./terminal.ts";
import { askWhoami } from "./whoami.ts";

/** Milliseconds between two screens of --watch. */
const WATCH_MS = 2_000;
/** Milliseconds for which the proxy is asked again while a setup is at work, and between two tries. */
const SETUP_MS = 20_000;
const AGAIN_MS = 200;
/** Moves the cursor home and erases to the end of the screen (ECMA-48, CUP and ED). */
const REDRAW = "\u001b[H\u001b[J";

export default defineCommand({
  meta: {
    name: "status",
    description: "Show on one screen whether all is well, and what is not; exit 1 where it is not",
  },
  args: {
    config: configArg,
    watch: {
      type: "boolean",
      description: "Draw the screen again every two seconds; Ctrl-C ends it",
      default: false,
    },
    json: jsonArg,
  },
  async run({ args }) {
    const look = process.geteuid?.() === 0 ? () => lookAtNode(args.config) : lookAtOneself;
    if (args.watch) return watch(look, args.json);
    const { found, show } = await look();
    console.log(args.json ? jsonText(found) : textOf(show({ ...now(), width: widthOf(process.stdout) })));
    if (!found.healthy) process.exitCode = 1;
  },
});

interface Looked {
  readonly found: NodeStatus | OwnStatus;
  readonly show: (screen: Screen) => Line[];
}

const now = () => ({ nowMs: systemClock.now() });

function textOf(lines: readonly Line[]): string {
  const paint = painter(takesColours(process.stdout));
  return lines.map(({ text, style }) => (style === undefined ? text : paint(style, text))).join("\n");
}

async function watch(look: () => Promise<Looked>, json: boolean): Promise<void> {
  if (json || process.stdout.isTTY !== true) {
    throw new ImdsProxyError(
      "usage",
      json
        ? "status: --watch and --json exclude each other"
        : "status: --watch draws on a terminal, and the output is none",
      "a script asks again by itself: imdsproxy status --json",
    );
  }
  for (;;) {
    const { show } = await look();
    const screen = { ...now(), width: widthOf(process.stdout) };
    const rows = Math.max(4, (process.stdout.rows ?? 24) - 1);
    const lines = show(screen);
    const shown = lines.length <= rows ? lines : [...lines.slice(0, rows - 1), { text: "…" }];
    process.stdout.write(`${REDRAW}${textOf(shown)}\n`);
    await sleep(WATCH_MS);
  }
}

async function lookAtNode(configPath: string | undefined): Promise<Looked> {
  const { findNode, nodeStatus, takesAway, workOnInstallation } = await import("../service/node-status.ts");
  const startsProxy = () => {
    const work = workOnInstallation();
    return work !== null && !takesAway(work);
  };
  const asked = askWhile(startsProxy).then((reply) => {
    if (reply.kind === "silent") return reply;
    const status = documentOf(reply.text);
    return status?.for === "root"
      ? ({ kind: "answered", status } as const)
      : ({ kind: "silent", why: ANOTHER_VERSION, otherVersion: true } as const);
  });
  const found = nodeStatus(await findNode(configPath, asked));
  return { found, show: (screen) => nodeLines(found, screen) };
}

/** Asks again where there is no answer, as long as something is at work that starts the proxy again. */
async function askWhile(startsProxy: () => boolean): Promise<StatusReply> {
  const startedMs = monotonicMs();
  for (;;) {
    const mayComeYet = startsProxy() && monotonicMs() - startedMs < SETUP_MS;
    const reply = await ask(ROOT_SOCKET);
    if (reply.kind === "answered" || !mayComeYet) return reply;
    await sleep(AGAIN_MS);
  }
}

const ANOTHER_VERSION =
  "the proxy that runs is another version than this program: ask by /usr/local/bin/imdsproxy";

/** An unsafe socket becomes the reason why there is no answer, so that the rest of the screen is still shown. */
async function ask(path: string): Promise<StatusReply> {
  try {
    return await askStatus({ path, directory: STATUS_DIRECTORY, mostBytes: MOST_BYTES });
  } catch (error) {
    if (error instanceof ImdsProxyError) return { kind: "silent", why: error.problem };
    throw error;
  }
}

/** Null where it is no document that this version knows. */
export function documentOf(text: string): StatusDocument | null {
  try {
    const found = JSON.parse(text) as Record<string, unknown>;
    const isRoot = found["for"] === "root";
    const lists = ["sessions", "users", ...(isRoot ? ["problems", "errors"] : [])];
    const isKnown =
      (isRoot || found["for"] === "user") &&
      [found["version"], found["started"]].every((value) => typeof value === "string") &&
      lists.every((list) => Array.isArray((found[list] as { rows?: unknown } | undefined)?.rows)) &&
      (!isRoot ||
        [found["listen"], found["upstream"], found["configuration"]].every(
          (value) => value instanceof Object,
        ));
    return isKnown ? (found as unknown as StatusDocument) : null;
  } catch {
    return null;
  }
}

async function lookAtOneself(): Promise<Looked> {
  const [reply, you] = await Promise.all([
    ask(USERS_SOCKET),
    askWhoami().catch((error: unknown) => {
      if (error instanceof ImdsProxyError) return error;
      throw error;
    }),
  ]);
  const document = reply.kind === "answered" ? documentOf(reply.text) : null;
  const found = ownStatus(document?.for === "user" ? document : null, you);
  return { found, show: (screen) => ownLines(found, screen) };
}

/** Puts together what a user is shown; pure. */
export function ownStatus(proxy: UserStatus | null, you: Whoami | ImdsProxyError): OwnStatus {
  const troubles: Trouble[] = [];
  if (you instanceof ImdsProxyError) {
    troubles.push({ id: "proxy", what: you.problem, since: null, remedy: you.remedy });
  } else {
    if (you.role === null) {
      troubles.push({
        id: "refused",
        what: `you get no role: ${you.reason}`,
        since: null,
        remedy: "an administrator of the node gives roles, in /etc/imdsproxy/config.yaml",
      });
    }
    if (you.lastError !== null) {
      const { message, since, remedy } = you.lastError;
      troubles.push({ id: "sts", what: message, since, remedy });
    }
  }
  const [first] = troubles;
  const role = you instanceof ImdsProxyError ? null : you.role;
  return {
    healthy: first === undefined,
    summary: first === undefined ? `healthy: you get ${role}` : `NOT healthy: ${first.what}`,
    troubles,
    proxy,
    you: you instanceof ImdsProxyError ? null : you,
  };
}
