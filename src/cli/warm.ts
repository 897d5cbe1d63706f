import { defineCommand } from "citty";
import { askForCredentials } from "../client/metadata-address.ts";
import { ImdsProxyError } from "../errors.ts";
import { sleep } from "../platform/clock.ts";
import { type Said, saidBy } from "../service/said-by.ts";
import { spawnAs } from "../service/spawn-as.ts";
import { systemNames } from "../wiring/identities.ts";
import { NOGROUP } from "./become.ts";
import { jsonArg } from "./common.ts";
import { say } from "./say.ts";
import { jsonText, plain } from "./terminal.ts";
import { askWhoami } from "./whoami.ts";

/** The deadline for STS in milliseconds, retries included. */
const LIMIT_MS = 20_000;
const MOST_SPREAD_SECONDS = 3_600;
/** Milliseconds for a process of the user's beside the spread: STS, three more requests, and its start on a busy machine. */
const ENDS_MS = 60_000;
/** The longest output of such a process that is accepted. */
const MOST_LETTERS = 20_000;

export default defineCommand({
  meta: {
    name: "warm",
    description: "Get a user's session ready before their programs ask: for a prolog or a login hook",
  },
  args: {
    user: {
      type: "positional",
      description:
        "An account's name, or a uid; only root may name another user (default: yourself). The session is the one outside of any job",
      required: false,
    },
    spread: {
      type: "string",
      description:
        "Sleep for a random time of up to so many seconds first, for a prolog on many nodes (default 0)",
      valueHint: "SECONDS",
    },
    json: jsonArg,
  },
  async run({ args }) {
    const spreadSeconds = spreadOf(args.spread ?? "0");
    const own = process.getuid?.() ?? 0;
    const uid = args.user === undefined ? own : await uidOf(args.user);
    if (uid === 0) {
      throw new ImdsProxyError(
        "usage",
        "warm: root keeps the instance role and has no session of the proxy's",
        "name a user: imdsproxy warm USER",
      );
    }
    if (uid !== own) {
      if (own !== 0) {
        throw new ImdsProxyError(
          "usage",
          `warm: only root may ask for another's session (you are uid ${own}, and asked for uid ${uid})`,
          "leave USER out, or use sudo",
        );
      }
      await warmAs(uid, args.spread ?? "0", args.json === true);
      return;
    }
    await sleep(Math.random() * spreadSeconds * 1000);
    // Check who answers before asking for credentials: it may not be the proxy.
    const before = await askWhoami();
    if (before.role === null || before.roleName === null) {
      throw new ImdsProxyError(
        "unhealthy",
        `warm: the proxy gives uid ${uid} no role: ${before.reason}`,
        `an administrator sees which rule decides: imdsproxy explain ${uid}`,
      );
    }
    const outcome = await askForCredentials(before.roleName, LIMIT_MS);
    const after = await askWhoami();
    const warm = outcome === "made";
    if (args.json) {
      const { user, role, sessionName, sessionEnds, lastError } = after;
      console.log(
        jsonText({
          warm,
          uid,
          user,
          role,
          sessionName,
          sessionEnds,
          error: warm ? null : outcome,
          lastError,
        }),
      );
      if (!warm) process.exitCode = 1;
      return;
    }
    if (!warm) {
      throw new ImdsProxyError(
        "unhealthy",
        `warm: no session of ${after.role} for uid ${uid}: ${after.lastError?.message ?? outcome}`,
        after.lastError?.remedy ?? "an administrator finds the reason in: journalctl -u imdsproxy",
      );
    }
    say(
      `${after.user ?? `uid ${uid}`} has a session of ${after.role} as ${after.sessionName} until ${after.sessionEnds}`,
    );
  },
});

/**
 * Does the same in a process of that user, because the proxy identifies callers by the uid of their socket. This process waits for it
 * within a time limit: the user can stop or kill that process, and Slurm drains a node whose prolog hangs.
 */
async function warmAs(uid: number, spread: string, json: boolean): Promise<void> {
  const argv = ["warm", "--spread", spread, ...(json ? ["--json"] : [])];
  const limitMs = spreadOf(spread) * 1000 + ENDS_MS;
  const said = await saidBy(spawnAs({ uid, gid: NOGROUP }, argv), { limitMs, mostLetters: MOST_LETTERS });
  if (said.exitCode === null) {
    throw new ImdsProxyError(
      "unhealthy",
      `warm: the process that asks as uid ${uid} ${endOf(said, limitMs)}`,
      "another process of that user may have stopped or killed it: run it again",
    );
  }
  const shown = (text: string) => text.split("\n").map(plain).join("\n");
  process.stdout.write(shown(said.text));
  process.stderr.write(shown(said.complaint));
  process.exitCode = said.exitCode;
}

const endOf = ({ late, text }: Said, limitMs: number): string =>
  late
    ? `did not end within ${Math.round(limitMs / 1000)} s`
    : text.length > MOST_LETTERS
      ? "wrote too much output"
      : "was ended by a signal";

/** @throws ImdsProxyError `usage` where it is no number of seconds, or more than an hour's. */
function spreadOf(text: string): number {
  const seconds = /^\d{1,4}(?:\.\d{1,3})?$/.test(text) ? Number(text) : Number.NaN;
  if (seconds <= MOST_SPREAD_SECONDS) return seconds;
  throw new ImdsProxyError(
    "usage",
    `warm: --spread must be 0 to ${MOST_SPREAD_SECONDS} seconds (found ${JSON.stringify(text)})`,
    "such as --spread 5",
  );
}

/** @throws ImdsProxyError `usage` where there is no such account. */
async function uidOf(name: string): Promise<number> {
  if (/^\d{1,10}$/.test(name) && Number(name) <= 4_294_967_294) return Number(name);
  const { accounts, close } = systemNames();
  try {
    const uid = await accounts.uidOf(name);
    if (uid !== null) return uid;
  } finally {
    close();
  }
  throw new ImdsProxyError(
    "usage",
    `warm: there is no account ${JSON.stringify(name)}`,
    "name an account that getent passwd knows, or a uid",
  );
}
