import { describe, expect, test } from "bun:test";
import { progress, terminalProgress } from "../../src/cli/progress.ts";
import { painter } from "../../src/cli/terminal.ts";
import { linesTo } from "../../src/service/progress.ts";

/** A terminal of so many columns that understands what is written to it: its rows, without spaces at their ends. */
function terminal(columns: number, colours = false) {
  let written = "";
  let nowMs = 0;
  const ticks = new Set<() => void>();
  const shown = terminalProgress({
    write: (text) => {
      written += text;
    },
    columns: () => columns,
    paint: painter(colours),
    monotonicMs: () => nowMs,
    every(intervalMs, run) {
      expect(intervalMs).toBe(1_000);
      ticks.add(run);
      return () => ticks.delete(run);
    },
  });
  return {
    ...shown,
    written: () => written,
    /** What a person sees: of what was written over, the last. */
    rows: () => written.split("\n").map((row) => (row.split("\r\u001b[K").at(-1) ?? "").trimEnd()),
    pass(ms: number) {
      nowMs += ms;
      for (const tick of ticks) tick();
    },
    ticking: () => ticks.size,
  };
}

describe("the steps on a terminal", () => {
  test("have the time that they take, drawn anew each second; what is said meanwhile stands above", async () => {
    const screen = terminal(80);
    await screen.step("make the account", async () => {
      expect(screen.rows()).toEqual(["         make the account"]);
      screen.pass(300);
    });
    await screen.step("start the proxy", async () => {
      screen.pass(2_000);
      expect(screen.rows()).toEqual(["  0.3 s  make the account", "    2 s  start the proxy"]);
      screen.say("waiting, 28 s at most");
      screen.pass(1_000);
      expect(screen.rows().slice(1)).toEqual(["waiting, 28 s at most", "    3 s  start the proxy"]);
      screen.pass(60_400);
      expect(screen.rows().at(-1)).toBe("   63 s  start the proxy");
    });
    expect(screen.rows()).toEqual([
      "  0.3 s  make the account",
      "waiting, 28 s at most",
      " 63.4 s  start the proxy",
      "",
    ]);
    expect(screen.ticking()).toBe(0);
  });

  test("fit into its columns: one row while they are at work, whole words over several afterwards", async () => {
    const screen = terminal(40);
    const what = "move into place: /usr/local/bin/imdsproxy, /etc/imdsproxy/config.yaml, and further files";
    await screen.step(what, async () => {
      screen.pass(1_000);
      screen.say(`warning: ${"word ".repeat(20).trim()}`);
    });
    for (const row of screen.written().split(/\r\u001b\[K|\n/)) expect(row.length).toBeLessThan(40);
    const rows = screen.rows();
    const six = "word word word word word word";
    expect(rows.slice(0, 3)).toEqual([`warning: ${six}`, `  ${six} word`, `  ${six} word`]);
    expect(
      rows
        .slice(3, -1)
        .map((row) => row.slice(9))
        .join(" "),
    ).toBe(what);
  });

  test("that fail say so, and end", async () => {
    const screen = terminal(80, true);
    const failing = screen.step("start", async () => {
      throw new Error("no");
    });
    await expect(failing).rejects.toThrow("no");
    expect(screen.written()).toEndWith("\u001b[31mstart: failed\u001b[0m\n");
    expect(screen.ticking()).toBe(0);
  });

  test("do nothing else to it, whatever their text is", async () => {
    const screen = terminal(80);
    await screen.step("\u001b]0;owned\u0007", async () => screen.say("\u009b2J"));
    expect(screen.written().replaceAll("\r\u001b[K", "")).not.toMatch(
      /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/,
    );
  });
});

test("where the output is no terminal, or one that erases nothing, each step is a line before it begins", async () => {
  const lines: string[] = [];
  const plain = linesTo((line) => lines.push(line));
  await plain.step("one", async () => lines.push("(works)"));
  plain.say("two");
  expect(lines).toEqual(["one", "(works)", "two"]);

  const written: string[] = [];
  const log = console.log;
  console.log = (line: string) => written.push(line);
  try {
    for (const [isTTY, TERM] of [
      [false, "xterm"],
      [true, "dumb"],
    ] as const) {
      const stream = { isTTY, columns: 80, write: () => expect.unreachable() };
      await progress(stream as never, { TERM }).step("a step", async () => {});
    }
  } finally {
    console.log = log;
  }
  expect(written).toEqual(["a step", "a step"]);
});

test("NO_COLOR takes the colours and leaves the time", async () => {
  for (const NO_COLOR of ["", "1"]) {
    let written = "";
    const stream = {
      isTTY: true,
      columns: 80,
      write(text: string) {
        written += text;
        return true;
      },
    };
    await progress(stream as never, { TERM: "xterm", NO_COLOR }).step("a step", async () => {});
    expect(written.includes("\u001b[2m")).toBe(NO_COLOR === "");
    expect(written.replaceAll(/\u001b\[\d*[mK]/g, "")).toMatch(/ \d+\.\d s {2}a step\n$/);
  }
});
