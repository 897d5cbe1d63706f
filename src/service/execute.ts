import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import { ImdsProxyError } from "../errors.ts";
import { getent } from "../platform/getent.ts";
import { removeInheritedLocks } from "./account-locks.ts";
import { mustRun, type RunCommand } from "./command.ts";
import { findAccount, hasLocalAccount, hasLocalGroup } from "./facts.ts";
import { ENDING_SIGNALS } from "./interrupted.ts";
import { ACCOUNT, HANDOVER_UNIT, JOURNAL, RUNTIME_UNIT_DIRECTORY, TO_RESTART, UNITS } from "./paths.ts";
import { HANDOVER_CONFIG, type Step } from "./plan.ts";
import type { Progress } from "./progress.ts";
import { commit, type FileChange, grant, stage } from "./transaction.ts";

/** Executes a plan. Where a step up to the commit fails, it undoes the steps before it. */

/** Steps that are not undone. */
const LASTING: readonly Step["kind"][] = [
  ...(["commit", "run", "start-proxy", "stop-watch"] as const),
  ...(["remove", "remove-account", "keep-for-root"] as const),
];

export interface Executor extends Progress {
  readonly run: RunCommand;
}

type Undo = () => void | Promise<void>;

/** @throws ImdsProxyError what failed, and in what state the node is. */
export async function execute(steps: readonly Step[], executor: Executor): Promise<void> {
  let undo: Undo[] = [];
  let staged: readonly FileChange[] = [];
  let unstage = () => {};
  let interrupted = false;
  let committed = false;
  /** Whether a step of {@link LASTING} was begun. */
  let lasts = false;
  const onSignal = () => {
    interrupted = true;
  };
  const carryOut = async (step: Step): Promise<void> => {
    switch (step.kind) {
      case "stage":
        staged = step.changes;
        unstage = stage(staged);
        break;
      case "create-account":
        await createAccount(executor.run, staged, undo);
        break;
      case "check-configuration":
        await mustRun(executor.run, checkCommand(step));
        break;
      case "start-handover":
        undo.push(undoHandover(executor.run, step.creates));
        await startHandover(executor.run, step.unit, step.config);
        break;
      case "commit":
        // First, so that whoever comes after a kill knows what the proxy runs from.
        if (step.outdates !== null && !existsSync(TO_RESTART))
          writeFileSync(TO_RESTART, step.outdates, { mode: 0o644 });
        commit(JOURNAL, step.changes, () => {
          undo = [];
          committed = true;
        });
        break;
      case "start-proxy":
        await mustRun(
          executor.run,
          ["systemctl", step.verb, UNITS.proxy],
          `see: journalctl -u ${UNITS.proxy}`,
        );
        rmSync(TO_RESTART, { force: true });
        break;
      case "stop-watch":
        await stopWatch(executor.run);
        break;
      case "end-handover":
        await endHandover(executor.run);
        break;
      case "run": {
        const argv = step.argv.map((word) => (word === "@self" ? process.execPath : word));
        if (step.mayFail === true) await executor.run(argv);
        else await mustRun(executor.run, argv, step.remedy ?? null);
        break;
      }
      case "remove":
        for (const path of step.paths) rmSync(path, { recursive: true, force: true });
        break;
      case "remove-account":
        await removeAccount(executor.run);
        break;
      case "keep-for-root":
        if (existsSync(step.path))
          await mustRun(executor.run, ["chown", "--recursive", "-h", "root:root", step.path]);
        break;
    }
  };
  for (const signal of ENDING_SIGNALS) process.on(signal, onSignal);
  try {
    for (const step of steps) {
      // A signal after a lasting step is ignored: a change that cannot be undone is completed, not left half done.
      if (interrupted && !lasts)
        throw new ImdsProxyError("command-failed", "interrupted; nothing was changed", "run it again");
      lasts ||= LASTING.includes(step.kind);
      await executor.step(describeStep(step), () => carryOut(step));
    }
  } catch (error) {
    // The staged files are removed first, because on a full disk nothing else can be undone before that.
    if (!committed) unstage();
    for (const back of undo.reverse()) await attempt(back, executor.say);
    throw error;
  } finally {
    for (const signal of ENDING_SIGNALS) process.off(signal, onSignal);
  }
}

/** Undoes one step. Its failure is reported, and the other steps are undone all the same. */
async function attempt(back: Undo, say: (line: string) => void): Promise<void> {
  try {
    await back();
  } catch (error) {
    say(`could not be undone: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function undoHandover(run: RunCommand, creates: readonly string[]): Undo {
  const absent = creates.filter((path) => !existsSync(path));
  return async () => {
    await endHandover(run);
    for (const path of absent) rmSync(path, { recursive: true, force: true });
  };
}

/** @param undo gets what undoes this step, before anything is made: the step may fail when it has made a part. */
async function createAccount(run: RunCommand, staged: readonly FileChange[], undo: Undo[]): Promise<void> {
  let account = await findAccount();
  removeInheritedLocks();
  // useradd writes /etc/passwd before /etc/group, and userdel as well: a power cut between leaves one without the other.
  if (account === null) {
    undo.push(() => removeAccount(run));
    await mustRun(run, [
      ...["useradd", "--system", ...(hasLocalGroup() ? ["--gid", ACCOUNT] : ["--user-group"])],
      ...["--no-create-home", "--home-dir", "/nonexistent"],
      ...["--shell", "/usr/sbin/nologin", "--comment", "imdsproxy", ACCOUNT],
    ]);
    account = await findAccount();
  } else if ((await getent("group", ACCOUNT)) === null) {
    // The group gets the gid that the account has, so that the account can still read the installed files.
    await mustRun(run, ["groupadd", "--system", "--gid", String(account.gid), ACCOUNT]);
  }
  if (account === null)
    throw new ImdsProxyError(
      "command-failed",
      `useradd made no account ${ACCOUNT}`,
      `see what it says: useradd --system ${ACCOUNT}`,
    );
  grant(staged, account.gid);
}

async function removeAccount(run: RunCommand): Promise<void> {
  removeInheritedLocks();
  // Only /etc/passwd is read: setup makes its account there. An account of a directory, which may not answer, is not ours.
  if (hasLocalAccount()) await mustRun(run, ["userdel", ACCOUNT]);
  // userdel removes the group with the account where USERGROUPS_ENAB says so in /etc/login.defs. A group whose account is
  // gone already, as after a power cut, is removed as well.
  if (hasLocalGroup()) await mustRun(run, ["groupdel", ACCOUNT]);
}

/**
 * Stops the watch over the rules, which would put back whatever is removed.
 *
 * @throws ImdsProxyError where it still runs. Where there is no such unit, or systemd tells nothing, there is nothing to stop.
 */
async function stopWatch(run: RunCommand): Promise<void> {
  const { exitCode, stderr } = await run(["systemctl", "stop", UNITS.repair]);
  if (exitCode === 0) return;
  const { stdout } = await run(["systemctl", "is-active", UNITS.repair]);
  if (!["active", "activating", "deactivating", "reloading"].includes(stdout.trim())) return;
  throw new ImdsProxyError(
    "command-failed",
    `the watch over the firewall's rules does not stop, and would put them back, so nothing was removed: ${stderr.trim() || stdout.trim()}`,
    `systemctl kill --signal=KILL ${UNITS.repair}, and run it again`,
  );
}

const HANDOVER_UNIT_PATH = `${RUNTIME_UNIT_DIRECTORY}/${HANDOVER_UNIT}`;

async function startHandover(run: RunCommand, unit: string, config: string): Promise<void> {
  // An interrupted setup may have left one behind.
  await run(["systemctl", "stop", HANDOVER_UNIT]);
  const account = await findAccount();
  mkdirSync(RUNTIME_UNIT_DIRECTORY, { recursive: true });
  mkdirSync(dirname(HANDOVER_CONFIG), { recursive: true });
  // Not subject to the umask of whoever made it.
  chmodSync(dirname(HANDOVER_CONFIG), 0o755);
  rmSync(HANDOVER_CONFIG, { force: true });
  writeFileSync(HANDOVER_CONFIG, config, { mode: 0o600, flag: "wx" });
  chownSync(HANDOVER_CONFIG, 0, account?.gid ?? 0);
  chmodSync(HANDOVER_CONFIG, 0o640);
  writeFileSync(`${HANDOVER_UNIT_PATH}.new`, unit, { mode: 0o644 });
  renameSync(`${HANDOVER_UNIT_PATH}.new`, HANDOVER_UNIT_PATH);
  await mustRun(run, ["systemctl", "daemon-reload"]);
  const { exitCode, stderr } = await run(["systemctl", "start", HANDOVER_UNIT]);
  if (exitCode === 0) return;
  const invocation = (
    await run(["systemctl", "show", "--property=InvocationID", "--value", HANDOVER_UNIT])
  ).stdout.trim();
  const journal = await run([
    ...["journalctl", "--no-pager", "-o", "cat", "-n", "12"],
    `_SYSTEMD_UNIT=${HANDOVER_UNIT}`,
    // Not what an earlier one has said.
    ...(invocation === "" ? [] : [`_SYSTEMD_INVOCATION_ID=${invocation}`]),
  ]);
  throw new ImdsProxyError(
    "command-failed",
    `the new proxy does not start, so nothing was changed; it said:\n${(journal.stdout || stderr).trim()}`,
    "mend what it says, and run it again; the configuration alone: imdsproxy config check FILE",
  );
}

async function endHandover(run: RunCommand): Promise<void> {
  await run(["systemctl", "stop", HANDOVER_UNIT]);
  for (const path of [HANDOVER_UNIT_PATH, HANDOVER_CONFIG]) rmSync(path, { force: true });
  await run(["systemctl", "daemon-reload"]);
  await run(["systemctl", "reset-failed", HANDOVER_UNIT]);
}

const checkCommand = ({
  binary,
  config,
  object,
}: Step & { readonly kind: "check-configuration" }): string[] => [
  ...[binary, "config", "check", "--config", config],
  ...(object === undefined ? [] : ["--object", object]),
];

/** One line for a step, as `--dry-run` and the progress show it. */
export function describeStep(step: Step): string {
  switch (step.kind) {
    case "stage":
      return `write beside their places: ${step.changes.map(({ path }) => path).join(", ")}`;
    case "create-account":
      return `make the system account ${ACCOUNT}, unless it is there`;
    case "check-configuration":
      return `ask the new executable whether it takes the configuration: ${checkCommand(step).join(" ")}`;
    case "start-handover":
      return `start the new proxy beside whatever runs: systemctl start ${HANDOVER_UNIT}`;
    case "commit":
      return `move into place: ${step.changes.map(({ path }) => path).join(", ")}`;
    case "start-proxy":
      return `systemctl ${step.verb} ${UNITS.proxy}`;
    case "stop-watch":
      return `systemctl stop ${UNITS.repair}`;
    case "end-handover":
      return `stop the second proxy: systemctl stop ${HANDOVER_UNIT}`;
    case "run":
      return step.argv.map((word) => (word === "@self" ? "imdsproxy" : word)).join(" ");
    case "remove":
      return `remove ${step.paths.join(", ")}`;
    case "remove-account":
      return `remove the account ${ACCOUNT}`;
    case "keep-for-root":
      return `keep ${step.path}, as root's`;
  }
}

/** Everything that a plan would do, with the whole text of each file. */
export function describePlan(steps: readonly Step[]): string {
  const lines: string[] = [];
  for (const step of steps) {
    lines.push(`# ${describeStep(step)}`);
    if (step.kind === "stage") for (const change of step.changes) lines.push(describeFile(change));
    if (step.kind === "start-handover") {
      lines.push(describeFile({ path: HANDOVER_UNIT_PATH, content: { text: step.unit }, mode: 0o644 }));
    }
  }
  return lines.join("\n");
}

function describeFile({ path, content, mode, forService }: FileChange): string {
  const owner = forService === true ? `root:${ACCOUNT}` : "root:root";
  const head = `--- ${path} (${owner}, ${mode.toString(8).padStart(4, "0")})`;
  if ("copyOf" in content)
    return `${head}: a copy of ${content.copyOf}, ${statSync(content.copyOf).size} bytes`;
  return `${head}\n${content.text.replace(/^/gm, "    ").trimEnd()}`;
}
