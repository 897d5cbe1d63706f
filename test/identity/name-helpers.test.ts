import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NameHelpers } from "../../src/identity/name-helpers.ts";
import type { AccountAnswer } from "../../src/identity/name-walk.ts";

/** A process that answers as a script says, in the place of `imdsproxy resolve-names`. */
const directory = mkdtempSync(join(tmpdir(), "helpers-"));
const STARTS = join(directory, "starts");

/** @param body of a function (question, say): what is done with a question. */
function script(body: string): string[] {
  const path = join(directory, `helper-${Math.random().toString(36).slice(2)}.ts`);
  writeFileSync(
    path,
    `import { appendFileSync, writeSync } from "node:fs";
appendFileSync(${JSON.stringify(STARTS)}, process.pid + "\\n");
const say = (message) => writeSync(1, JSON.stringify(message) + "\\n");
const answer = (user, unavailable = []) => say({ account: { account: user === null ? null : { user, uid: 1, gid: 1, service: "files", groups: [], groupsUnavailable: [], kept: false }, unavailable } });
for await (const line of console) { const question = JSON.parse(line); ${body} }`,
  );
  return [process.execPath, path];
}
const starts = () => {
  try {
    return readFileSync(STARTS, "utf8").trim().split("\n");
  } catch {
    return [];
  }
};

async function gone(pid: string): Promise<void> {
  for (let waited = 0; waited < 20_000; waited += 20) {
    try {
      process.kill(Number(pid), 0);
    } catch {
      return;
    }
    await Bun.sleep(20);
  }
  throw new Error(`process ${pid} is still there`);
}

/** The time that a service may take: told from the limit of a whole question by its length alone. */
const TIMEOUT_MS = 3_000;

/** Timers that a test lets ring: `set` is called with the number of limits of {@link TIMEOUT_MS} that were set so far. */
function timers(set: (count: number, ring: () => void) => void) {
  let count = 0;
  const held = { waiting: 0, after: (_delayMs: number, _run: () => void) => () => {} };
  held.after = (delayMs, run) => {
    if (delayMs !== TIMEOUT_MS) return () => {};
    let waits = true;
    held.waiting++;
    const end = () => {
      if (waits) held.waiting--;
      waits = false;
    };
    set(++count, () => {
      if (waits) run();
      end();
    });
    return end;
  };
  return held;
}

describe("NameHelpers", () => {
  let helpers: NameHelpers | undefined;
  const make = (body: string, { after }: Pick<ReturnType<typeof timers>, "after"> = timers(() => {})) => {
    rmSync(STARTS, { force: true });
    helpers = new NameHelpers({
      command: script(body),
      // It stands: a service is slow for some seconds, which a machine may take between two questions.
      monotonicMs: () => 1_000_000,
      timeoutMs: TIMEOUT_MS,
      after,
    });
    return helpers;
  };
  afterEach(() => helpers?.close());
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  const ask = (from: NameHelpers, before: Parameters<NameHelpers["byUid"]>[1]["before"] = null) =>
    from.byUid(1, { before });
  const BEFORE = { user: "alice", uid: 1, gid: 1, service: "sss" };
  const userOf = ({ account }: AccountAnswer) => account?.user ?? null;

  test("one process answers one question after the other", async () => {
    const from = make("answer(question.kind === 'name' ? question.user : 'alice');");
    for (let i = 0; i < 20; i++) expect(userOf(await ask(from))).toBe("alice");
    expect(userOf(await from.byName("żółć\udcff", { hurry: false }))).toBe("żółć\udcff");
    expect(starts()).toHaveLength(1);
  });

  test("several questions at once have a process each, and each its own answer", async () => {
    const from = make("await Bun.sleep(50); answer(question.user);");
    const users = ["a", "b", "c"];
    const told = await Promise.all(users.map((user) => from.byName(user, { hurry: false })));
    expect(told.map(userOf)).toEqual(users);
    expect(starts()).toHaveLength(3);
  });

  const hangs =
    "if (question.skip.includes('sss')) answer('local', [{ service: 'sss', why: '' }]); else { say({ asking: 'files' }); say({ asking: 'sss' }); await new Promise(() => {}); }";
  /** The question's limit, that of files, that of sss: the third is the one that is used up. */
  const untilSssHangs = () => timers((count, ring) => count === 3 && setImmediate(ring));
  test("a service that hangs is passed over, the others are asked, and its process is gone", async () => {
    const from = make(hangs, untilSssHangs());
    const answer = await ask(from);
    expect(userOf(answer)).toBe("local");
    expect(answer.unavailable).toEqual([{ service: "sss", why: "did not answer in time" }]);
    const [first = ""] = starts();
    await gone(first);
  });

  test("for whom an account is known already, it is passed over at once the next time", async () => {
    const from = make(hangs, untilSssHangs());
    await ask(from);
    const before = starts().length;
    const { unavailable } = await ask(from, BEFORE);
    expect(unavailable).toEqual([{ service: "sss", why: "did not answer a moment ago" }]);
    expect(starts()).toHaveLength(before);
  });

  test("a module that ends the process costs its service's answer, and the next question is answered", async () => {
    const from = make(
      "if (question.skip.includes('sss')) answer(null, [{ service: 'sss', why: '' }]); else { say({ asking: 'sss' }); process.kill(process.pid, 'SIGSEGV'); await new Promise(() => {}); }",
    );
    for (let i = 0; i < 3; i++) {
      expect(await ask(from)).toEqual({
        account: null,
        unavailable: [{ service: "sss", why: "its module ended the process" }],
      });
    }
  });

  test("a module that writes to the output of the process is no answer", async () => {
    const from = make(
      "say({ asking: 'sss' }); writeSync(1, 'warning: no server\\n'); await new Promise(() => {});",
    );
    const { account, unavailable } = await ask(from);
    expect([account, unavailable.length]).toEqual([null, 1]);
  });

  test("progress keeps a long question alive: many groups, each of them quick", async () => {
    const most: number[] = [];
    const held = timers(() => most.push(held.waiting));
    const from = make("for (let i = 0; i < 8; i++) say({ asking: 'sss' }); answer('alice');", held);
    expect(userOf(await ask(from))).toBe("alice");
    // One limit for the start and one for each group, and never two at a time: each begins anew.
    expect(most).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 1]);
    expect(held.waiting).toBe(0);
  });

  test("where no process can be started, nobody can be told, and it is said", async () => {
    helpers = new NameHelpers({
      command: [join(directory, "not-there")],
      monotonicMs: () => performance.now(),
    });
    expect(await ask(helpers)).toEqual({
      account: null,
      unavailable: [{ service: "NSS", why: "cannot be asked: no process can be started (ENOENT)" }],
    });
  });

  test("after close() nothing is left running", async () => {
    const from = make("answer('alice');");
    await ask(from);
    from.close();
    const [pid = ""] = starts();
    await gone(pid);
  });
});

describe("the helper itself, asked for an account that no service tells now", () => {
  /** Its answer, where it is told to skip every service. */
  async function keptName(user: string): Promise<unknown> {
    const helper = Bun.spawn([process.execPath, "src/main.ts", "resolve-names"], {
      stdin: "pipe",
      stderr: "inherit",
    });
    const skip = ["files", "compat", "systemd", "sss", "ldap", "db", "nis", "winbind"];
    const before = { user, uid: 3_999_999_999, gid: 1, service: "files" };
    helper.stdin.write(`${JSON.stringify({ kind: "uid", uid: before.uid, before, skip })}\n`);
    await helper.stdin.end();
    const lines = (await new Response(helper.stdout).text()).trim().split("\n");
    await helper.exited;
    return JSON.parse(lines.at(-1) ?? "").account.account?.user;
  }
  for (const user of ["josé", "日本".repeat(1_500), "a\udc80\udcff", "\ufeffalice"]) {
    test(`keeps the name ${JSON.stringify(user.slice(0, 6))}, of ${user.length} characters, as it is`, async () => {
      expect(await keptName(user)).toBe(user);
    });
  }
});

test("a helper that takes no question, of which a pipe holds a part alone, is given up and rejects nothing that nobody awaits", async () => {
  const unhandled: unknown[] = [];
  const note = (error: unknown) => void unhandled.push(error);
  process.on("unhandledRejection", note);
  const helpers = new NameHelpers({
    command: ["/bin/sh", "-c", "exec sleep 600"],
    monotonicMs: () => performance.now(),
    timeoutMs: 200,
  });
  try {
    const before = { user: "x".repeat(300_000), uid: 1, gid: 1, service: "files" };
    const { account, unavailable } = await helpers.byUid(1, { before });
    expect([account?.user.length ?? null, unavailable.length > 0]).toEqual([null, true]);
  } finally {
    helpers.close();
    // Rejections are told at the end of a turn of the event loop.
    for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
    process.off("unhandledRejection", note);
  }
  expect(unhandled).toEqual([]);
});
