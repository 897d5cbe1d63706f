import { closeSync, existsSync, mkdirSync, rmSync } from "node:fs";
import { hostname } from "node:os";
import { defineCommand } from "citty";
import { DEFAULT_CONFIG_PATH, loadConfig } from "../config/load.ts";
import { ImdsProxyError } from "../errors.ts";
import { exemptionsHere } from "../firewall/exempt.ts";
import { platformFacts } from "../firewall/platform-accounts.ts";
import { subordinateFile } from "../identity/name-database.ts";
import { Shares } from "../identity/shares.ts";
import { sweep } from "../observe/capture.ts";
import { type Listened, listen } from "../observe/listen.ts";
import { prospects, shownOutcome } from "../observe/outcome.ts";
import { checkDirectory, type Observed, readObserved, writeObserved } from "../observe/record.ts";
import { missedText, type Row, reportText, screenLines, times } from "../observe/report.ts";
import { suggestion } from "../observe/suggest.ts";
import { armSweeper, disarmSweeper, rearmSweeper } from "../observe/sweeper.ts";
import { BoundedOutput } from "../platform/bounded-output.ts";
import { monotonicMs } from "../platform/clock.ts";
import { waitForLock } from "../platform/file-lock.ts";
import { writeWithoutWaiting } from "../platform/libc.ts";
import { compiledExecutable } from "../platform/self.ts";
import { ACCOUNT, OBSERVE_LOCK, OBSERVED, ROOT_STATE_DIRECTORY } from "../service/paths.ts";
import { systemNames } from "../wiring/identities.ts";
import { configArg, jsonArg } from "./common.ts";
import { print } from "./output.ts";
import { fittedComments, fittedReport, sayBeside } from "./say.ts";
import { jsonText, widthOf } from "./terminal.ts";

export default defineCommand({
  meta: {
    name: "observe",
    description:
      "Show who asks the metadata service, and what each would get. Changes nothing for anyone: its rules only log requests (NFLOG). " +
      "They go away when it ends; where it is killed on a kernel before 5.12, a unit or the next start removes them",
  },
  args: {
    for: {
      type: "string",
      description: "How long: 30s, 10m, 24h, 7d (default: until Ctrl-C)",
      valueHint: "TIME",
    },
    file: {
      type: "string",
      description: `The file to which every run adds; none: keep nothing (default ${OBSERVED})`,
      valueHint: "FILE",
    },
    config: configArg,
    show: { type: "boolean", description: "Show what is in the file, without listening", default: false },
    suggest: {
      type: "boolean",
      description:
        "Print a draft of a configuration from what was seen; without --for, from what is in the file, without listening",
      default: false,
    },
    sweep: {
      type: "boolean",
      description: "Remove the rules of an observe that was killed on a kernel before 5.12, and end",
      default: false,
    },
    json: jsonArg,
  },
  async run({ args }) {
    const modes = [args.show, args.suggest, args.sweep].filter(Boolean).length;
    if (modes > 1 || (args.json && args.suggest))
      throw new ImdsProxyError(
        "usage",
        "observe: --show, --suggest and --sweep exclude each other, and so do --json and --suggest",
        "name one of them",
      );
    if (args.for !== undefined && (args.show || args.sweep))
      throw new ImdsProxyError(
        "usage",
        "observe: --show and --sweep do not listen, so that --for means nothing to them",
        "leave out --for, or the other",
      );
    if (process.geteuid?.() !== 0) {
      throw new ImdsProxyError(
        "permission",
        "observe: only root may see what everybody on this node asks for",
        "run it with sudo",
      );
    }
    if (args.sweep) {
      const removed = sweep();
      const text = removed
        ? "removed the table of an observe that was killed"
        : "no killed observe has left a table";
      console.log(args.json ? jsonText({ removed }) : text);
      return;
    }
    const forMs = args.for === undefined ? null : timeOf(args.for);
    const view = await viewOf(args.config);
    const path = args.file === "none" ? null : (args.file ?? OBSERVED);
    if (args.show || (args.suggest && forMs === null)) {
      show(readOrRefuse(path), args, view);
      return;
    }
    const listening = () => listenHere({ forMs, path, view, live: isLive(args) });
    const observed = await alone(listening);
    show(observed, args, view);
  },
});

/** Runs something while no other observe of this node does. @throws ImdsProxyError `unhealthy` where one runs. */
async function alone<T>(run: () => Promise<T>): Promise<T> {
  const lock = await waitForLock(OBSERVE_LOCK, { limitMs: 0, pollMs: 0 });
  if (lock === null) {
    throw new ImdsProxyError(
      "unhealthy",
      "another imdsproxy observe runs on this node",
      `wait for its end, or end it: fuser -v ${OBSERVE_LOCK}`,
    );
  }
  try {
    return await run();
  } finally {
    rmSync(OBSERVE_LOCK, { force: true });
    closeSync(lock);
  }
}

/** `24h` in milliseconds. @throws ImdsProxyError `usage` */
function timeOf(text: string): number {
  const parts = /^(\d{1,6})([smhd])$/.exec(text);
  const unit = { s: 1, m: 60, h: 3_600, d: 86_400 }[parts?.[2] ?? ""] ?? 0;
  const seconds = Number(parts?.[1]) * unit;
  if (seconds > 0 && seconds <= MOST_SECONDS) return seconds * 1_000;
  throw new ImdsProxyError(
    "usage",
    `observe: --for must be a number with s, m, h or d, at most 365d (found ${JSON.stringify(text)})`,
    "such as --for 24h",
  );
}
const MOST_SECONDS = 365 * 86_400;

/** Adds to each caller what it would get, where there is a configuration. */
interface View {
  /** The configuration's path; null where this node has none. */
  readonly config: string | null;
  rows(observed: Observed): Row[];
}

async function viewOf(named: string | undefined): Promise<View> {
  if (named === undefined && !existsSync(DEFAULT_CONFIG_PATH))
    return { config: null, rows: ({ callers }) => callers.map((caller) => ({ caller, prospect: null })) };
  const config = loadConfig({ path: named });
  const prospect = prospects(config, await exemptionsHere(config));
  return {
    config: named ?? DEFAULT_CONFIG_PATH,
    rows: ({ callers }) => callers.map((caller) => ({ caller, prospect: prospect(caller) })),
  };
}

function readOrRefuse(path: string | null): Observed {
  const observed = path === null ? null : readObserved(path);
  if (observed !== null) return observed;
  throw new ImdsProxyError(
    "unhealthy",
    path === null
      ? "observe: --file none has nothing to show"
      : `observe: nothing was observed yet: there is no ${path}`,
    "listen first: imdsproxy observe --for 24h",
  );
}

const isLive = (args: { readonly json: boolean }): boolean => !args.json && process.stdout.isTTY === true;

/** Listens until the time is over or a signal ends it, and adds what was seen to the file. */
async function listenHere({
  forMs,
  path,
  view,
  live,
}: {
  forMs: number | null;
  path: string | null;
  view: View;
  live: boolean;
}): Promise<Observed> {
  if (path === OBSERVED) mkdirSync(ROOT_STATE_DIRECTORY, { recursive: true, mode: 0o700 });
  if (path !== null) checkDirectory(path);
  const earlier = path === null ? null : readObserved(path);
  const { accounts, close } = systemNames();
  const shares = new Shares({ read: subordinateFile(), monotonicMs });
  const screen = live ? new Screen(view) : null;
  let isEnded = false;
  let gaps = 0;
  let isSwept = false;
  const end = () => {
    isEnded = true;
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, end);
  try {
    const { observed, missed, atLeast } = await listen({
      accounts,
      node: hostname(),
      shareOf: (uid) => shares.of(uid),
      earlier,
      forMs,
      ended: () => isEnded,
      async onListening({ owned, notes }) {
        for (const note of notes) sayBeside(`note: ${note}`);
        if (!owned) {
          const problem = await armSweeper(compiledExecutable(), process.pid);
          isSwept = problem === null;
          if (problem !== null) sayBeside(`note: ${problem}`);
        }
        screen?.open();
        if (screen === null) console.error("listening; Ctrl-C ends it and prints what was seen");
      },
      async onRestored() {
        gaps++;
        // Whatever removed the rules may have stopped the unit too, which removes them when it stops.
        if (isSwept) await rearmSweeper(compiledExecutable(), process.pid);
      },
      onTick: (listened, leftMs) => screen?.draw(listened, leftMs),
      onSave: ({ observed: so }) => {
        if (path !== null) writeObserved(path, so);
      },
    });
    if (path !== null) writeObserved(path, observed);
    screen?.close();
    if (gaps > 0)
      sayBeside(
        `warning: something else removed the rules of observe ${times(gaps, "time")}, such as a reload of the firewall: requests were ` +
          "not seen until the rules were made again, about a second later",
      );
    else if (missed > 0 || atLeast)
      sayBeside(`warning: ${missedText(missed, atLeast)}: the kernel logged more than could be read`);
    return observed;
  } finally {
    screen?.close();
    for (const signal of signals) process.off(signal, end);
    if (isSwept) await disarmSweeper();
    close();
  }
}

function show(
  observed: Observed,
  args: { readonly json: boolean; readonly suggest: boolean },
  view: View,
): void {
  if (args.suggest) {
    const draft = suggestion(observed, platformFacts(), ACCOUNT);
    print(fittedComments(draft, widthOf(process.stdout)));
    return;
  }
  const rows = view.rows(observed);
  const missed = observed.runs.reduce((sum, run) => sum + run.missed, 0);
  if (args.json) {
    const callers = rows.map(({ caller, prospect }) => ({
      ...caller,
      wouldGet: prospect === null ? null : shownOutcome(prospect.outcome),
      wouldBe404: prospect?.lost ?? [],
    }));
    const { node, runs } = observed;
    console.log(jsonText({ node, runs, missed, config: view.config, callers }));
    return;
  }
  const columns = process.stdout.columns ?? 80;
  const report = reportText(rows, {
    runs: observed.runs,
    missed: missedText(
      missed,
      false,
      observed.runs.some(({ gap }) => gap === true),
    ),
    config: view.config,
    columns,
  });
  console.log(fittedReport(report, widthOf(process.stdout)));
}

const STDOUT = 1;

/** The live table, on the terminal's alternate screen, so that the text before it comes back at the end. */
class Screen {
  readonly #view: View;
  // A terminal that does not read (Ctrl-S) misses frames, and delays nothing.
  readonly #output = new BoundedOutput({
    write: (bytes) => writeWithoutWaiting(STDOUT, bytes),
    lostLine: () => "",
  });
  #isOpen = false;

  constructor(view: View) {
    this.#view = view;
  }

  open(): void {
    this.#isOpen = true;
    // xterm: ?1049 is the alternate screen, ?25 the cursor.
    this.#output.write("\x1b[?1049h\x1b[?25l");
  }

  draw(listened: Listened, leftMs: number | null): void {
    if (!this.#isOpen || this.#output.waitingBytes > 0) return;
    const lines = screenLines(
      this.#view.rows(listened.observed),
      {
        sinceMs: listened.sinceMs,
        leftMs,
        missed: missedText(listened.missed, listened.atLeast, listened.gap),
      },
      { columns: process.stdout.columns ?? 80, lines: process.stdout.rows ?? 24 },
    );
    // Moves the cursor home, clears the rest of each line, then everything below.
    this.#output.write(`\x1b[H${lines.map((line) => `${line}\x1b[K\r\n`).join("")}\x1b[J`);
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#output.write("\x1b[?25h\x1b[?1049l");
  }
}
