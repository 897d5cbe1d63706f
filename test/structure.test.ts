import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

/**
 * The house: which rooms may know which. Each rule says why; each fails when a room in it is no more.
 */

const sources = readdirSync("src", { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".ts"))
  .map((name) => join("src", name));

interface Import {
  readonly from: string;
  /** A file of this tree, or a package's name. */
  readonly to: string;
  /** True where only types are imported, which leaves nothing in the program. */
  readonly typeOnly: boolean;
  /** True for `import()`, which loads when it is reached. */
  readonly lazy: boolean;
}

const STATIC = /^(?:import|export)\s+(type\s+)?(?:[\s\S]*?\sfrom\s+)?"([^"]+)";/gm;
const LAZY = /\bimport\(\s*"([^"]+)"\s*\)/g;

const imports: Import[] = sources.flatMap((from) => {
  const text = readFileSync(from, "utf8");
  const target = (name: string) => (name.startsWith(".") ? normalize(join(dirname(from), name)) : name);
  return [
    ...[...text.matchAll(STATIC)].map(([, type, name = ""]) => ({
      from,
      to: target(name),
      typeOnly: type !== undefined,
      lazy: false,
    })),
    ...[...text.matchAll(LAZY)].map(([, name = ""]) => ({
      from,
      to: target(name),
      typeOnly: false,
      lazy: true,
    })),
  ];
});

const inside = (path: string, room: string) => path === room || path.startsWith(`${room}/`);
const shown = ({ from, to }: Import) => `${from} -> ${to}`;

/** Imports out of `from` into any of `rooms`. */
const leading = (from: string, rooms: readonly string[], except: readonly string[] = []) =>
  imports.filter(
    (one) =>
      inside(one.from, from) &&
      !inside(one.to, from) &&
      rooms.some((room) => inside(one.to, room)) &&
      !except.includes(one.to),
  );

test("the imports are read: there are hundreds, and every file that they name is there", () => {
  expect(imports.length).toBeGreaterThan(200);
  expect(imports.filter(({ to }) => to.startsWith("src/") && !existsSync(to)).map(shown)).toEqual([]);
});

describe("imports point one way:", () => {
  const ROOMS = [
    "cli",
    "doctor",
    "wiring",
    "service",
    "observe",
    "demo",
    "telemetry",
    "client",
    "http",
    "imds",
    "upstream",
    "firewall",
    "sessions",
    "rules",
    "identity",
    "config",
    "platform",
  ];
  const rules: { from: string; never: string[]; except?: string[]; why: string }[] = [
    ...ROOMS.filter((room) => room !== "cli").map((room) => ({
      from: `src/${room}`,
      never: ["src/cli", "src/main.ts"],
      why: "commands read arguments and call one thing; nothing calls a command",
    })),
    ...[
      "client",
      "http",
      "imds",
      "upstream",
      "firewall",
      "sessions",
      "rules",
      "identity",
      "config",
      "platform",
    ].map((room) => ({
      from: `src/${room}`,
      never: ["src/doctor", "src/wiring", "src/service", "src/demo", "src/observe"],
      why: "a part can be used and tested without the whole",
    })),
    ...["wiring", "service", "demo"].map((room) => ({
      from: `src/${room}`,
      never: ["src/doctor"],
      why: "doctor looks at the whole from outside; nothing depends on what it finds",
    })),
    {
      from: "src/doctor",
      never: ["src/wiring", "src/demo", "src/imds", "src/http"],
      why: "a node is judged by what it does, not by the parts of the proxy",
    },
    {
      from: "src/observe",
      never: ["http", "upstream", "client", "telemetry", "wiring", "service", "demo"].map(
        (room) => `src/${room}`,
      ),
      why: "it listens to the kernel alone: it asks no metadata service, and the proxy knows nothing of it",
    },
    ...["src/wiring", "src/service", "src/demo", "src/telemetry"].map((from) => ({
      from,
      never: ["src/observe"],
      why: "what is observed decides nothing",
    })),
    {
      from: "src/http",
      never: ["imds", "upstream", "client", "sessions", "rules", "config", "firewall", "telemetry"].map(
        (room) => `src/${room}`,
      ),
      why: "the HTTP server knows who asks, and nothing of what is answered; metrics are served by it, too",
    },
    {
      from: "src/imds",
      never: ["src/firewall", "src/telemetry", "src/client"],
      why: "requests are answered from rules, sessions and metadata; who logs and counts them is told by events",
    },
    {
      from: "src/upstream",
      never: ["src/imds", "src/http", "src/rules", "src/client"],
      why: "nothing that a caller sent goes upstream",
    },
    {
      from: "src/client",
      never: ["imds", "http", "upstream", "sessions", "rules", "config", "firewall", "telemetry"].map(
        (room) => `src/${room}`,
      ),
      why: "a command asks the metadata address as any other program of the node does",
    },
    {
      from: "src/sessions",
      never: ["src/http", "src/imds", "src/upstream", "src/firewall", "src/config"],
      why: "sessions know requests to STS, not who asked for them, or how",
    },
    {
      from: "src/identity",
      never: ["http", "imds", "upstream", "sessions", "rules", "firewall", "config"].map(
        (room) => `src/${room}`,
      ),
      why: "who somebody is depends on the kernel and NSS alone",
    },
    {
      from: "src/rules",
      never: [
        "src/http",
        "src/imds",
        "src/upstream",
        "src/firewall",
        "src/platform",
        "src/wiring",
        "src/config",
      ],
      why: "a decision is a pure function of the identity and the rules, wherever they are read from",
    },
    {
      from: "src/config",
      never: ["src/http", "src/imds", "src/upstream", "src/firewall", "src/identity", "src/platform"],
      why: "a configuration can be checked on any machine",
    },
    {
      from: "src/firewall",
      never: ["src/http", "src/imds", "src/upstream", "src/sessions", "src/rules"],
      why: "rules are built from addresses and uids",
    },
    {
      from: "src/platform",
      never: ROOMS.filter((room) => room !== "platform").map((room) => `src/${room}`),
      why: "the platform knows nothing of the project",
    },
  ];
  for (const { from, never, except, why } of rules) {
    test(`${from} knows nothing of ${never.join(", ")}: ${why}`, () => {
      for (const room of [from, ...never]) expect([room, existsSync(room)]).toEqual([room, true]);
      expect(leading(from, never, except).map(shown)).toEqual([]);
    });
  }
});

describe("edges are few:", () => {
  const only = (what: string, pattern: RegExp, allowed: readonly string[], why: string) =>
    test(`${what} only in ${allowed.join(", ")}: ${why}`, () => {
      for (const room of allowed) expect([room, existsSync(room)]).toEqual([room, true]);
      const found = sources.filter(
        (file) => pattern.test(readFileSync(file, "utf8")) && !allowed.some((room) => inside(file, room)),
      );
      expect(found).toEqual([]);
    });
  only("bun:ffi", /from "bun:ffi"/, ["src/platform"], "a wrong signature is memory gone wrong");
  only(
    "process.exit",
    /\bprocess\.exit\(/,
    ["src/main.ts", "src/demo"],
    "what was begun is ended, not cut off",
  );
  only("fetch", /(?<![#.\w])fetch\(/, ["src/demo/ask.ts"], "Bun's fetch goes through HTTP_PROXY");
  only(
    "the time and timers",
    /\bDate\.now\b|\bnew Date\(\)|\bperformance\.now\b|(?<![.\w])set(?:Timeout|Interval)\b|\bBun\.(?:sleep|sleepSync|nanoseconds)\b/,
    ["src/platform/clock.ts"],
    "what depends on time can be found, and tested by a clock that is turned by hand",
  );
});

describe("pure parts are pure:", () => {
  const PURE = [
    "src/imds/routes.ts",
    "src/http/request.ts",
    "src/imds/target.ts",
    "src/upstream/answer.ts",
    "src/rules",
    "src/identity/netlink",
    "src/identity/address.ts",
    "src/firewall/rules.ts",
    "src/firewall/plan.ts",
    "src/firewall/state.ts",
    "src/firewall/rule-text.ts",
    "src/firewall/nftables/attributes.ts",
    "src/firewall/nftables/batch.ts",
    "src/firewall/nftables/names.ts",
    "src/firewall/nftables/snapshot.ts",
    "src/firewall/uid-text.ts",
    "src/firewall/wall/own-rules.ts",
    "src/firewall/wall/plan.ts",
    "src/firewall/wall/rtnetlink.ts",
    "src/firewall/wall/tables.ts",
    "src/firewall/wall/text.ts",
    "src/firewall/wall/wanted.ts",
    "src/service/units.ts",
    "src/service/units",
    "src/sessions/entries.ts",
    "src/sessions/key.ts",
    "src/sessions/life.ts",
    "src/config/categories.ts",
    "src/config/reachable.ts",
    "src/doctor/build.ts",
    "src/doctor/checks.ts",
    "src/doctor/checks",
    "src/doctor/harmless.ts",
    "src/doctor/render.ts",
    "src/doctor/types.ts",
    "src/observe/arguments.ts",
    "src/observe/callers.ts",
    "src/observe/connections.ts",
    "src/observe/diff.ts",
    "src/observe/nflog.ts",
    "src/observe/observer.ts",
    "src/observe/outcome.ts",
    "src/observe/packet.ts",
    "src/observe/place.ts",
    "src/observe/plain-text.ts",
    "src/observe/report.ts",
    "src/observe/request.ts",
    "src/observe/rules.ts",
    "src/observe/suggest.ts",
  ];
  test("no clock, no file, no process, no network", () => {
    for (const room of PURE) expect([room, existsSync(room)]).toEqual([room, true]);
    const touches =
      /\bDate\.now\(|\bperformance\.now\(|\bMath\.random\(|\bBun\.|\bsetTimeout\(|"node:(?:fs|net|http|child_process|os)/;
    const found = sources.filter(
      (file) => PURE.some((room) => inside(file, room)) && touches.test(readFileSync(file, "utf8")),
    );
    expect(found).toEqual([]);
  });
});

describe("what a command loads", () => {
  /** Everything that is loaded with a file: static imports that are not types alone, and theirs. */
  function loadedWith(start: string): Set<string> {
    const loaded = new Set([start]);
    const waiting = [start];
    for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
      for (const { to, typeOnly, lazy } of imports.filter(({ from }) => from === file)) {
        if (typeOnly || lazy || loaded.has(to)) continue;
        loaded.add(to);
        waiting.push(to);
      }
    }
    return loaded;
  }
  for (const start of [
    "src/main.ts",
    "src/cli/whoami.ts",
    "src/cli/warm.ts",
    "src/cli/iptables.ts",
    "src/cli/doctor.ts",
    "src/cli/explain.ts",
    "src/cli/config.ts",
    "src/cli/serve.ts",
    "src/cli/demo.ts",
    "src/cli/setup.ts",
    "src/cli/service.ts",
    "src/cli/observe.ts",
    "src/cli/config-diff.ts",
  ]) {
    test(`with ${start} is no AWS SDK`, () => {
      const sdk = [...loadedWith(start)].filter((name) => /^@(?:aws-sdk|smithy|aws-crypto)\//.test(name));
      expect(sdk).toEqual([]);
    });
  }
  test("the search finds the SDK where it is: behind an import() in sessions/sts.ts", () => {
    expect(
      imports.filter(
        ({ from, to, lazy }) => from === "src/sessions/sts.ts" && to === "@aws-sdk/client-sts" && lazy,
      ),
    ).toHaveLength(2);
  });
  test("with the running proxy is no package but those that its start needs", () => {
    const packages = [...loadedWith("src/wiring/serve.ts")].filter(
      (name) => !/^(?:src\/|node:|bun:)/.test(name),
    );
    // Not all of prom-client, which loads node:http and OpenTelemetry, and no consola, which is for a terminal.
    expect(packages.sort()).toEqual([
      "prom-client/lib/gauge.js",
      "prom-client/lib/registry.js",
      "yaml",
      "zod",
    ]);
  });
  test("serve, which everything hangs on, is loaded by its command alone", () => {
    expect(loadedWith("src/main.ts").has("src/wiring/serve.ts")).toBe(false);
  });
});

describe("nothing that users chose acts on root's terminal:", () => {
  test("commands print JSON by jsonText() and jsonLine(), which escape what JSON.stringify() leaves, such as C1", () => {
    const printing = /console\.log\([^;]*\bJSON\.stringify\(/;
    const found = sources.filter(
      (file) => inside(file, "src/cli") && printing.test(readFileSync(file, "utf8")),
    );
    expect(found).toEqual([]);
  });
});
