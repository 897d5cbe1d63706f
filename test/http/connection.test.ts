import { describe, expect, test } from "bun:test";
import type { Socket } from "bun";
import fc from "fast-check";
import { type Answer, text } from "../../src/http/answer.ts";
import { Connection } from "../../src/http/connection.ts";
import type { Request } from "../../src/http/request.ts";
import { holdsAsync } from "../support/fuzz.ts";

const HOST = "Host: 169.254.169.254\r\n";
const GET = `GET /a HTTP/1.1\r\n${HOST}\r\n`;
const LAST = `GET /a HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n`;
/** Milliseconds that src/http/connection.ts gives: a head, an idle connection, a slow client, a first request while stopping. */
const HEAD_MS = 5_000;
const IDLE_MS = 75_000;
const STALL_MS = 10_000;
const STOPPING_MS = 1_000;

/** Lets promises that are settled be seen. */
const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A connection whose socket and whose server follow a script, and that writes down what it does to either. */
function aConnection() {
  const script = {
    nowMs: 1_000_000,
    /** How many bytes the socket takes of each write; -1 for a socket that is broken. */
    takes: Number.POSITIVE_INFINITY,
    withinBudget: true,
    busy: false,
    answersAtOnce: false,
  };
  /** What was done since it was looked at last. */
  let log: string[] = [];
  let sent = "";
  /** Requests under way whose connection is closed. */
  let abandoned = 0;
  const waiting: { request: Request; answer: (answer: Answer) => void }[] = [];
  const socket = {
    write(bytes: Buffer): number {
      if (script.takes < 0) {
        log.push("write fails");
        return -1;
      }
      const taken = Math.min(script.takes, bytes.length);
      sent += bytes.toString("latin1", 0, taken);
      log.push(taken < bytes.length ? "write in part" : "write");
      return taken;
    },
    pause: () => void log.push("pause"),
    resume: () => void log.push("resume"),
    shutdown: () => void log.push("shutdown"),
    end: () => void log.push("end"),
    close: () => void log.push("close"),
    terminate: () => void log.push("terminate"),
  };
  const connection = new Connection(
    socket as unknown as Socket<Connection | undefined>,
    { kind: "unknown" },
    2001,
    {
      serverName: "test",
      handler: {
        handle: (request) => {
          log.push("handle");
          if (script.answersAtOnce) return text("x".repeat(100));
          return new Promise<Answer>((resolve) => waiting.push({ request, answer: resolve }));
        },
      },
      roughMs: () => script.nowMs,
      enqueue: () => void log.push("enqueue"),
      spendRead: () => script.withinBudget,
      isBusy: () => script.busy,
      requestAbandoned: () => {
        abandoned++;
      },
      abandonedRequestEnded: () => {
        abandoned--;
      },
      turnedAway: (_, kind, status) => void log.push(`turned away: ${kind} ${status}`),
      closed: () => void log.push("closed"),
    },
  );
  return {
    script,
    connection,
    waiting,
    sent: () => sent,
    statuses: () => [...sent.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status)),
    abandoned: () => abandoned,
    /** What was done since the last call. */
    done(): string[] {
      const all = log;
      log = [];
      return all;
    },
    receive: (bytes: string) => connection.received(Buffer.from(bytes, "latin1")),
    /** Answers the request that has waited the longest. */
    async answer(answer: Answer = text("x".repeat(100))): Promise<void> {
      waiting.shift()?.answer(answer);
      await settled();
    },
    /** Whether the deadline is over so many milliseconds from now; ends the connection where it is. */
    isOverAfter(ms: number): boolean {
      connection.expire(script.nowMs + ms);
      return connection.state === "closed";
    },
  };
}

type Scripted = ReturnType<typeof aConnection>;

/** An answer that is the last one by the server's choice: its client may have sent another request meanwhile. */
const WITH_CLOSE: Answer = { ...text("x".repeat(100)), close: true };

/** How to bring a new connection into each state. */
const STATES: Record<string, (one: Scripted) => Promise<void>> = {
  "reading, nothing yet": async () => {},
  "reading, a part of a head": async ({ receive }) => receive("GET /a HT"),
  idle: async ({ receive, connection, answer }) => {
    receive(GET);
    connection.handleNext();
    await answer();
  },
  queued: async ({ receive }) => receive(GET),
  handling: async ({ receive, connection }) => {
    receive(GET);
    connection.handleNext();
  },
  writing: async ({ receive, connection, answer, script }) => {
    receive(GET);
    connection.handleNext();
    script.takes = 10;
    await answer();
  },
  "writing the last answer": async ({ receive, connection, answer, script }) => {
    receive(GET);
    connection.handleNext();
    script.takes = 10;
    await answer(WITH_CLOSE);
  },
  "writing the answer after which its client wants no other": async ({
    receive,
    connection,
    answer,
    script,
  }) => {
    receive(LAST);
    connection.handleNext();
    script.takes = 10;
    await answer();
  },
  lingering: async ({ receive, connection, answer }) => {
    receive(GET);
    connection.handleNext();
    await answer(WITH_CLOSE);
  },
  closed: async ({ connection }) => connection.terminate(),
};

/** What can happen to a connection in each state. */
const EVENTS: Record<string, (one: Scripted) => void | Promise<void>> = {
  "a part of a head": ({ receive }) => receive("GET /b"),
  "a whole head": ({ receive }) => receive(GET),
  "more than a head may have": ({ receive }) => receive("x".repeat(8_193)),
  "its turn": ({ connection }) => void connection.handleNext(),
  "the answer": ({ answer }) => answer(),
  "room for all of the answer": ({ connection, script }) => {
    script.takes = Number.POSITIVE_INFINITY;
    connection.drained();
  },
  "room for a part": ({ connection, script }) => {
    script.takes = 10;
    connection.drained();
  },
  "a broken socket": ({ connection, script }) => {
    script.takes = -1;
    connection.drained();
  },
  "the client has sent all": ({ connection }) => connection.ended(),
  "the socket is closed": ({ connection }) => connection.closed(),
  "the longest deadline is over": ({ connection, script }) => connection.expire(script.nowMs + IDLE_MS),
  "the server stops": ({ connection }) => connection.finish(),
};

/**
 * What each event does in each state: what is done to the socket and the server, and the state after it. What is not listed
 * does nothing.
 */
const GONE = "closed, -> closed";
const ENDED = "terminate, closed, -> closed";
const READING = {
  "a part of a head": "-> reading",
  "a whole head": "enqueue, -> queued",
  "more than a head may have": "enqueue, -> queued",
  "the client has sent all": "end, -> lingering",
  "the socket is closed": GONE,
  "the longest deadline is over": ENDED,
};
const TAKES_NO_MORE = {
  "a part of a head": "pause, -> SAME",
  "a whole head": "pause, -> SAME",
  "more than a head may have": "pause, -> SAME",
  "the socket is closed": GONE,
};
const WRITING = {
  ...TAKES_NO_MORE,
  "room for a part": "write in part, -> writing",
  "a broken socket": `write fails, ${ENDED}`,
  "the longest deadline is over": ENDED,
};
const TABLE: Record<string, { state: Connection["state"]; does: Record<string, string> }> = {
  "reading, nothing yet": { state: "reading", does: READING },
  "reading, a part of a head": { state: "reading", does: READING },
  idle: { state: "idle", does: { ...READING, "the server stops": "shutdown, -> lingering" } },
  queued: { state: "queued", does: { ...TAKES_NO_MORE, "its turn": "handle, -> handling" } },
  handling: { state: "handling", does: { ...TAKES_NO_MORE, "the answer": "write, -> idle" } },
  writing: { state: "writing", does: { ...WRITING, "room for all of the answer": "write, -> idle" } },
  "writing the last answer": {
    state: "writing",
    does: { ...WRITING, "room for all of the answer": "write, shutdown, -> lingering" },
  },
  "writing the answer after which its client wants no other": {
    state: "writing",
    does: { ...WRITING, "room for all of the answer": "write, close, closed, -> closed" },
  },
  lingering: {
    state: "lingering",
    does: {
      "the client has sent all": ENDED,
      "the socket is closed": GONE,
      "the longest deadline is over": ENDED,
    },
  },
  closed: { state: "closed", does: {} },
};

describe("a connection that is", () => {
  for (const [name, bring] of Object.entries(STATES)) {
    for (const [event, happen] of Object.entries(EVENTS)) {
      const row = TABLE[name];
      const expected = (row?.does[event] ?? "-> SAME").replace("SAME", row?.state ?? "");
      test(`${name}, at ${event}: ${expected}`, async () => {
        const one = aConnection();
        await bring(one);
        expect(one.connection.state).toBe(row?.state ?? "closed");
        one.done();
        await happen(one);
        await settled();
        expect([...one.done(), `-> ${one.connection.state}`].join(", ")).toBe(expected);
      });
    }
  }
});

describe("a connection has", () => {
  const deadlines: [what: string, ms: number, bring: (one: Scripted) => Promise<void> | void][] = [
    ["5 s for its first byte", HEAD_MS, () => {}],
    [
      "5 s for a head, from its first byte",
      HEAD_MS,
      ({ script, receive }) => {
        script.nowMs += 3_000;
        receive("GET /a");
        script.nowMs += 1;
        receive(" HTTP");
        script.nowMs -= 1;
      },
    ],
    ["75 s between two requests", IDLE_MS, async (one) => STATES["idle"]?.(one)],
    [
      "5 s for a head of which a part came with the request before it",
      HEAD_MS,
      async ({ receive, connection, answer }) => {
        receive(`${GET}GET /b`);
        connection.handleNext();
        await answer();
      },
    ],
    ["10 s to take an answer", STALL_MS, async (one) => STATES["writing"]?.(one)],
    [
      "10 s to take an answer, however many parts it takes it in",
      STALL_MS,
      async (one) => {
        await STATES["writing"]?.(one);
        one.script.nowMs += 6_000;
        one.connection.drained();
        one.script.nowMs -= 6_000;
      },
    ],
    [
      "75 s after an answer that was taken in parts",
      IDLE_MS,
      async (one) => {
        await STATES["writing"]?.(one);
        await EVENTS["room for all of the answer"]?.(one);
      },
    ],
    ["10 s to close after the last answer", STALL_MS, async (one) => STATES["lingering"]?.(one)],
    [
      "1 s for its first request when the server stops",
      STOPPING_MS,
      async (one) => EVENTS["the server stops"]?.(one),
    ],
    [
      "1 s for the rest of a head when the server stops",
      STOPPING_MS,
      async (one) => {
        one.receive("GET /a");
        await EVENTS["the server stops"]?.(one);
      },
    ],
  ];
  for (const [what, ms, bring] of deadlines) {
    test(what, async () => {
      const one = aConnection();
      await bring(one);
      expect(one.isOverAfter(ms - 1)).toBe(false);
      expect(one.isOverAfter(ms)).toBe(true);
    });
  }
});

describe("requests", () => {
  test("are answered one after the other, in their order, also where they come at once", async () => {
    const one = aConnection();
    one.receive(`${GET}${GET.replace("/a", "/b")}${LAST.replace("/a", "/c")}`);
    const targets: string[] = [];
    for (let turn = 0; turn < 3; turn++) {
      one.connection.handleNext();
      expect(one.waiting).toHaveLength(1);
      targets.push(one.waiting[0]?.request.target ?? "");
      await one.answer();
    }
    expect(targets).toEqual(["/a", "/b", "/c"]);
    expect(one.statuses()).toEqual([200, 200, 200]);
    expect(one.connection.state).toBe("closed");
  });

  test("after which the client wants no other end the connection at once, unless more is here or to come", async () => {
    const rest = `GET /a HTTP/1.1\r\n${HOST}Connection: close\r\nContent-Length: 3\r\n\r\n`;
    const chunks = `PUT /a HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`;
    const cases: [bytes: string, state: string][] = [
      [LAST, "closed"],
      ["GET /a HTTP/1.0\r\n\r\n", "closed"],
      [`${rest}abc`, "closed"],
      [`${rest}ab`, "lingering"],
      [`${LAST}G`, "lingering"],
      [LAST + GET, "lingering"],
      [chunks, "lingering"],
    ];
    for (const [bytes, state] of cases) {
      const one = aConnection();
      one.receive(bytes);
      one.connection.handleNext();
      await one.answer();
      expect([bytes, one.connection.state]).toEqual([bytes, state]);
      expect(one.statuses()).toEqual([200]);
    }
  });

  test("whose answer cannot be written are not abandoned: they are over", async () => {
    for (const answersAtOnce of [true, false]) {
      const one = aConnection();
      Object.assign(one.script, { answersAtOnce, takes: -1 });
      one.receive(GET);
      one.connection.handleNext();
      await one.answer();
      expect([one.connection.state, one.abandoned()]).toEqual(["closed", 0]);
    }
  });

  test("that are answered without a promise are written at once, and those sent ahead wait for their turn", () => {
    const one = aConnection();
    one.script.answersAtOnce = true;
    one.receive(GET + LAST);
    one.connection.handleNext();
    expect(one.done()).toEqual(["enqueue", "handle", "write", "enqueue"]);
    one.connection.handleNext();
    expect(one.done()).toEqual(["handle", "write", "close", "closed"]);
    expect(one.abandoned()).toBe(0);
  });

  test("that were sent ahead keep the socket paused until they are needed", async () => {
    const one = aConnection();
    one.receive(GET);
    one.receive(GET);
    one.receive(GET);
    expect(one.done()).toEqual(["enqueue", "pause"]);
    one.connection.handleNext();
    await one.answer();
    expect(one.done()).toEqual(["handle", "write", "enqueue"]);
    one.connection.handleNext();
    await one.answer();
    one.connection.handleNext();
    await one.answer();
    expect(one.done()).toEqual(["handle", "write", "enqueue", "handle", "write", "resume"]);
    expect(one.connection.state).toBe("idle");
  });

  test("that were sent ahead are answered also where the client has sent all, and the last one is told so", async () => {
    const one = aConnection();
    one.receive(`${GET}${GET}`);
    one.connection.ended();
    one.connection.handleNext();
    await one.answer();
    expect(one.connection.state).toBe("queued");
    one.connection.handleNext();
    await one.answer();
    expect([...one.sent().matchAll(/Connection: (\S+)/g)].map(([, value]) => value)).toEqual([
      "keep-alive",
      "close",
    ]);
    expect(one.done().slice(-2)).toEqual(["write", "end"]);
    expect(one.connection.state).toBe("lingering");
  });

  test("of which a part was sent ahead are none where the client has sent all", async () => {
    const one = aConnection();
    one.receive(`${GET}GET /b`);
    one.connection.handleNext();
    one.connection.ended();
    await one.answer();
    expect([one.statuses(), one.connection.state]).toEqual([[200], "lingering"]);
  });

  test("under way when the server stops get the last answer", async () => {
    for (const state of ["queued", "handling"]) {
      const one = aConnection();
      await STATES[state]?.(one);
      await EVENTS["the server stops"]?.(one);
      one.connection.handleNext();
      await one.answer();
      expect([one.sent().includes("Connection: close"), one.connection.state]).toEqual([true, "lingering"]);
    }
  });

  test("whose answer is being written when the server stops end the connection", async () => {
    const one = aConnection();
    await STATES["writing"]?.(one);
    await EVENTS["the server stops"]?.(one);
    await EVENTS["room for all of the answer"]?.(one);
    expect(one.connection.state).toBe("lingering");
  });

  test("end the connection where the handler says so", async () => {
    const one = aConnection();
    await STATES["handling"]?.(one);
    await one.answer({ ...text("x"), close: true });
    expect([one.sent().includes("Connection: close"), one.connection.state]).toEqual([true, "lingering"]);
  });

  test("by HEAD get the headers alone", async () => {
    const one = aConnection();
    one.receive(GET.replace("GET", "HEAD"));
    one.connection.handleNext();
    await one.answer(text("body"));
    expect(one.sent()).toContain("Content-Length: 4\r\n");
    expect(one.sent().endsWith("\r\n\r\n")).toBe(true);
  });

  test("of a user of whom too many abandoned ones wait get 503, and no handler sees them", async () => {
    const one = aConnection();
    one.script.busy = true;
    one.receive(GET);
    one.connection.handleNext();
    await settled();
    expect(one.done()).toEqual(["enqueue", "turned away: busy 503", "write"]);
    expect([one.statuses(), one.connection.state]).toEqual([[503], "idle"]);
  });

  test("whose client is gone are counted until they are answered", async () => {
    const one = aConnection();
    await STATES["handling"]?.(one);
    expect(one.abandoned()).toBe(0);
    one.connection.terminate();
    expect(one.abandoned()).toBe(1);
    one.done();
    await one.answer();
    expect([one.abandoned(), one.done()]).toEqual([0, []]);
  });

  for (const [what, bytes, status] of [
    ["whose head is malformed", "G\r\n\r\n", 400],
    ["whose head is too long", `GET /${"a".repeat(8_192)}`, 400],
    ["whose head is too long, and whole", `GET /${"a".repeat(8_192)} HTTP/1.1\r\n${HOST}\r\n`, 400],
    ["with an expectation", GET.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"), 417],
    ["with a body that is too long", GET.replace("\r\n\r\n", "\r\nContent-Length: 65537\r\n\r\n"), 413],
  ] as const) {
    test(`${what} get ${status}, and are the last`, async () => {
      const one = aConnection();
      one.receive(`${bytes}${GET}`);
      one.connection.handleNext();
      await settled();
      expect(one.done()).toEqual(["enqueue", `turned away: malformed ${status}`, "write", "shutdown"]);
      expect([one.statuses(), one.connection.state]).toEqual([[status], "lingering"]);
    });
  }

  test("that are refused end the connection also where the answer is taken in parts", async () => {
    const one = aConnection();
    one.script.takes = 10;
    one.receive("G\r\n\r\n");
    one.connection.handleNext();
    expect(one.connection.state).toBe("writing");
    await EVENTS["room for all of the answer"]?.(one);
    expect([one.statuses(), one.connection.state]).toEqual([[400], "lingering"]);
  });

  test("with a head of exactly 8,192 bytes are taken", () => {
    const one = aConnection();
    const rest = " HTTP/1.1\r\nHost: a";
    one.receive(`GET /${"a".repeat(8_192 - 5 - rest.length)}${rest}\r\n\r\n`);
    one.connection.handleNext();
    expect(one.connection.state).toBe("handling");
  });

  test("with a body have it read over: no byte of it is a request, nor moves a deadline", async () => {
    const put = `PUT /a HTTP/1.1\r\n${HOST}Content-Length: ${GET.length * 2}\r\n\r\n`;
    const one = aConnection();
    one.receive(`${put}${GET.slice(0, 10)}`);
    one.connection.handleNext();
    one.receive(GET.slice(10));
    expect(one.done()).toEqual(["enqueue", "handle"]);
    await one.answer();
    expect(one.connection.state).toBe("idle");
    one.receive(GET.slice(0, 20));
    expect(one.connection.state).toBe("idle");
    one.receive(`${GET.slice(20)}${GET}`);
    expect(one.connection.state).toBe("queued");
    one.connection.handleNext();
    expect(one.waiting.map(({ request }) => request.method)).toEqual(["GET"]);
  });

  test("where the empty chunks do not follow, the head has five seconds from its turn, also on a kept connection", async () => {
    const first = `GET /a HTTP/1.1\r\n${HOST}\r\n`;
    for (const before of [[], [first]]) {
      const one = aConnection();
      for (const head of before) {
        one.receive(head);
        one.connection.handleNext();
        await one.answer();
      }
      one.receive(`PUT /a HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n`);
      expect(one.connection.state).toBe("queued");
      one.connection.handleNext();
      expect(one.connection.state).toBe("reading");
      expect(one.isOverAfter(HEAD_MS - 1)).toBe(false);
      // A byte more is no new beginning.
      one.script.nowMs += HEAD_MS - 1;
      one.receive("0");
      expect(one.isOverAfter(1)).toBe(true);
    }
  });

  test("with the empty chunks of s3fs-fuse wait for them, and are the last", async () => {
    const one = aConnection();
    one.receive(`PUT /a HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n0\r`);
    one.connection.handleNext();
    expect(one.connection.state).toBe("reading");
    one.receive("\n\r");
    expect(one.connection.state).toBe("reading");
    one.receive(`\n${GET}`);
    expect(one.connection.state).toBe("queued");
    one.connection.handleNext();
    await one.answer();
    expect([one.statuses(), one.connection.state]).toEqual([[200], "lingering"]);
  });
});

describe("reading", () => {
  test("pauses where the budget is exceeded, and resumes when it is told to", () => {
    const one = aConnection();
    one.script.withinBudget = false;
    one.receive("GET");
    one.receive(" /a");
    expect(one.done()).toEqual(["pause"]);
    one.connection.resumeReading();
    expect(one.done()).toEqual(["resume"]);
  });

  test("does not resume for the budget while a request was sent ahead, nor for that while the budget is exceeded", async () => {
    const one = aConnection();
    one.receive(GET);
    one.script.withinBudget = false;
    one.receive(GET);
    expect(one.done()).toEqual(["enqueue", "pause"]);
    one.connection.resumeReading();
    expect(one.done()).toEqual([]);
    one.receive("GET");
    one.connection.handleNext();
    await one.answer();
    one.connection.handleNext();
    await one.answer();
    expect(one.done().includes("resume")).toBe(false);
    one.connection.resumeReading();
    expect(one.done()).toEqual(["resume"]);
  });

  test("resumes for the last answer, so that the client's end is seen", async () => {
    const one = aConnection();
    one.receive(LAST);
    one.receive(GET);
    one.connection.handleNext();
    await one.answer();
    expect(one.done()).toEqual(["enqueue", "pause", "handle", "write", "resume", "shutdown"]);
  });

  test("ignores 262,144 bytes after the last answer, and then ends the connection", async () => {
    const one = aConnection();
    await STATES["lingering"]?.(one);
    one.receive("x".repeat(262_144));
    expect(one.connection.state).toBe("lingering");
    one.receive("x");
    expect(one.connection.state).toBe("closed");
  });

  test("keeps a copy of what it got: Bun uses its buffer again", async () => {
    const one = aConnection();
    const bytes = Buffer.from("GET /first HTTP/1.1\r\n");
    one.connection.received(bytes);
    bytes.fill("x");
    one.receive(`${HOST}\r\n`);
    one.connection.handleNext();
    expect(one.waiting[0]?.request.target).toBe("/first");
  });
});

describe("a connection", () => {
  test("can be closed for another where no request is being handled, and only there: the one that is missed least first", async () => {
    const order: Record<string, number | null> = {};
    for (const [name, bring] of Object.entries(STATES)) {
      const one = aConnection();
      await bring(one);
      order[name] = one.connection.evictionOrder;
    }
    expect(order).toEqual({
      lingering: 0,
      idle: 1,
      "reading, nothing yet": 2,
      "reading, a part of a head": 2,
      queued: null,
      handling: null,
      writing: 3,
      "writing the last answer": 3,
      "writing the answer after which its client wants no other": 3,
      closed: null,
    });
  });

  test("keeps its promises in whatever order things happen", async () => {
    const names = [
      ...Object.keys(EVENTS),
      "the budget is exceeded",
      "reading resumes",
      "a pipeline",
    ] as const;
    await holdsAsync(
      fc.asyncProperty(fc.array(fc.constantFrom(...names), { maxLength: 25 }), async (events) => {
        const one = aConnection();
        const all: string[] = [];
        for (const event of events) {
          one.script.takes = Number.POSITIVE_INFINITY;
          if (event === "the budget is exceeded") one.script.withinBudget = false;
          else if (event === "reading resumes") {
            one.script.withinBudget = true;
            one.connection.resumeReading();
          } else if (event === "a pipeline") one.receive(`${GET}${GET}`);
          else await EVENTS[event]?.(one);
          all.push(...one.done());
        }
        const count = (what: string) => all.filter((one) => one === what).length;
        // Closed once, and nothing is done to a socket that is.
        expect(count("closed")).toBe(one.connection.state === "closed" ? 1 : 0);
        if (count("closed") === 1) expect(all.at(-1)).toBe("closed");
        // Pauses and resumptions take turns.
        const flow = all.filter((what) => what === "pause" || what === "resume");
        expect(flow.every((what, index) => what === (index % 2 === 0 ? "pause" : "resume"))).toBe(true);
        // No request is handled before the one before it is answered.
        expect(count("handle") - count("write") - count("write in part")).toBeLessThanOrEqual(1);
        // Our side ends once.
        expect(count("shutdown") + count("end")).toBeLessThanOrEqual(1);
        // Whoever is gone has left at most the one request that the handler has.
        expect(one.waiting.length).toBeLessThanOrEqual(1);
        expect(one.abandoned()).toBe(one.connection.state === "closed" ? one.waiting.length : 0);
      }),
      400,
    );
  });
});
