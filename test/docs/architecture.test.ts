import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import type { ArgsDef, CommandDef } from "citty";
import { root } from "../../src/cli/root.ts";
import { categoryFilter } from "../../src/config/categories.ts";
import { objectPath } from "../../src/config/load.ts";
import { configSchema } from "../../src/config/schema.ts";
import { TABLE_NAME } from "../../src/firewall/limits/table.ts";
import { OWN_CHAINS } from "../../src/firewall/rules.ts";
import { TABLES, USERS_SOURCE } from "../../src/firewall/wall/tables.ts";
import { parseRoute } from "../../src/imds/routes.ts";
import { TABLE_NAME as OBSERVE_TABLE } from "../../src/observe/rules.ts";
import {
  ACCOUNT,
  BINARY,
  CONFIG,
  CONFIG_SCHEMA,
  OBJECT_UNITS,
  OBSERVED,
  ROOT_STATE_DIRECTORY,
  RUNTIME_DIRECTORY,
  UNITS,
} from "../../src/service/paths.ts";
import { Metrics } from "../../src/telemetry/metrics.ts";
import { ROOT_SOCKET, USERS_SOCKET } from "../../src/telemetry/status-document.ts";
import { SOURCES } from "../telemetry/metrics-support.ts";

/** docs/architecture.md against the code. */

const page = readFileSync("docs/architecture.md", "utf8");

/** The rows of the table below a heading, each as its cells; without the head. */
function tableOf(heading: string): string[][] {
  const section = page.split(new RegExp(`^#+ ${heading}$`, "m"))[1]?.split(/^#+ /m)[0] ?? "";
  const rows = section.split("\n").filter((line) => line.startsWith("|"));
  expect([heading, rows.length > 2]).toEqual([heading, true]);
  return rows.slice(2).map((row) =>
    row
      .slice(1, -1)
      .split(" | ")
      .map((cell) => cell.trim()),
  );
}
/** What stands in backquotes. */
const quoted = (cell = ""): string[] => [...cell.matchAll(/`([^`]+)`/g)].map(([, text = ""]) => text);

describe("rooms", () => {
  const layers = new Map(
    tableOf("Rooms, and which way imports point").map(([layer, room]) => [
      quoted(room)[0] ?? "",
      Number(layer),
    ]),
  );
  test("are the folders of src", () => {
    const folders = readdirSync("src", { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name);
    expect([...layers.keys()].sort()).toEqual(folders.sort());
  });
  test("import code of lower layers alone", () => {
    const wrong: string[] = [];
    let seen = 0;
    for (const name of readdirSync("src", { recursive: true, encoding: "utf8" })) {
      if (!name.endsWith(".ts")) continue;
      const file = join("src", name);
      const text = readFileSync(file, "utf8");
      const found = text.matchAll(
        /^(?:import|export)\s+(type\s+)?(?:[^;]*?\sfrom\s+)?"(\.[^"]+)";|\bimport\(\s*"(\.[^"]+)"\s*\)/gm,
      );
      for (const [, type, fixed, lazy] of found) {
        const to = normalize(join(dirname(file), fixed ?? lazy ?? ""));
        const [from, into] = [file, to].map((path) => layers.get(path.split("/")[1] ?? ""));
        if (type !== undefined || from === undefined || into === undefined) continue;
        if (file.split("/")[1] === to.split("/")[1]) continue;
        seen++;
        if (into <= from) wrong.push(`${file} (${from}) imports ${to} (${into})`);
      }
    }
    expect(seen).toBeGreaterThan(100);
    expect(wrong).toEqual([]);
  });
});

describe("contracts", () => {
  test("routes: each target is of its kind", () => {
    const rows = tableOf("Routes");
    for (const [target, kind] of rows) {
      const found = parseRoute(quoted(target)[0] ?? "", categoryFilter([], []));
      expect([target, `\`${found.kind}\``]).toEqual([target, kind as string]);
    }
    const kinds = [...readFileSync("src/imds/routes.ts", "utf8").matchAll(/readonly kind: "([a-z-]+)"/g)];
    expect(new Set(rows.map(([, kind]) => quoted(kind)[0]))).toEqual(new Set(kinds.map(([, kind]) => kind)));
  });

  test("configuration: each key, with its default", () => {
    const rows = tableOf("Configuration").map(([key, value]) => [
      quoted(key)[0],
      JSON.parse(quoted(value)[0] ?? ""),
    ]);
    expect(Object.fromEntries(rows)).toEqual(JSON.parse(JSON.stringify(configSchema.parse({}))));
  });

  test("commands: each, with its subcommands; a star for those that no help shows", async () => {
    const resolve = async <T>(value: unknown): Promise<T> =>
      (typeof value === "function" ? value() : value) as T;
    const subCommands = async (command: CommandDef<ArgsDef>) =>
      Promise.all(
        Object.entries((await resolve<Record<string, unknown> | undefined>(command.subCommands)) ?? {}).map(
          async ([name, lazy]) => {
            const sub = await resolve<CommandDef<ArgsDef>>(lazy);
            const { hidden } = await resolve<{ hidden?: boolean }>(sub.meta ?? {});
            return { name: `\`${name}\`${hidden === true ? "*" : ""}`, sub };
          },
        ),
      );
    const found: Record<string, string[]> = {};
    for (const { name, sub } of await subCommands(root)) {
      found[name] = (await subCommands(sub)).map((one) => one.name).sort();
    }
    const listed: Record<string, string[]> = {};
    const names = (cell = "") => cell.split(", ").filter(Boolean);
    for (const [commands, subs] of tableOf("Commands")) {
      for (const command of names(commands)) listed[command] = names(subs).sort();
    }
    expect(listed).toEqual(found);
  });

  test("firewall: its names", () => {
    const rows = new Map(tableOf("Firewall").map(([what = "", name]) => [what, quoted(name)]));
    expect(rows.get("chains in `filter`, IPv4 and IPv6")).toEqual([...OWN_CHAINS.filter]);
    expect(rows.get("chains in `nat`")).toEqual([...OWN_CHAINS.nat]);
    expect(rows.get("routing tables")).toEqual(Object.values(TABLES).map(String));
    for (const name of Object.keys(TABLES)) expect(page).toContain(`\` ${name}`);
    expect(rows.get("source address of users' requests")).toEqual([USERS_SOURCE]);
    expect(rows.get("nftables table, family inet")).toEqual([TABLE_NAME]);
    expect(rows.get("the same, only while `observe` runs")).toEqual([OBSERVE_TABLE]);
  });

  test("units and files: their names", () => {
    const rows = new Map(tableOf("Units and files").map(([what = "", name]) => [what, quoted(name).sort()]));
    expect(rows.get("units")).toEqual(Object.values(UNITS).sort());
    expect(rows.get("units that poll the fleet's object, where there is one")).toEqual(
      Object.values(OBJECT_UNITS).sort(),
    );
    expect(rows.get("the copy of the fleet's object")).toEqual([
      objectPath({ stateDirectory: "/var/lib/imdsproxy" }),
    ]);
    expect(rows.get("configuration, and its schema for editors")).toEqual([CONFIG_SCHEMA, CONFIG]);
    expect(rows.get("account")).toEqual([ACCOUNT]);
    expect(rows.get("executable")).toEqual([BINARY]);
    expect(rows.get("root's state")).toEqual([ROOT_STATE_DIRECTORY]);
    expect(rows.get("what was observed")).toEqual([OBSERVED]);
    expect(rows.get("state of this boot")).toEqual([RUNTIME_DIRECTORY]);
    expect(rows.get("sockets of `imdsproxy status`")).toEqual([ROOT_SOCKET, USERS_SOCKET]);
  });

  test("metrics: each, with its type and its help text", async () => {
    const metrics = new Metrics(SOURCES);
    const all = [...(await metrics.text()).matchAll(/^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)/gm)];
    expect(tableOf("Metrics")).toEqual(
      all.map(([, name, help = "", type = ""]) => [`\`${name}\``, type, help]),
    );
  });
});

test("the states of a connection are those that it has", () => {
  const source = readFileSync("src/http/connection.ts", "utf8");
  const type = /^export type ConnectionState = ([^;]+);/m.exec(source)?.[1] ?? "";
  const states = [...type.matchAll(/"(\w+)"/g)].map(([, state]) => state);
  const rows = tableOf("The states of a connection").map(([state]) => quoted(state)[0]);
  expect(rows.sort()).toEqual(states.sort());
});
