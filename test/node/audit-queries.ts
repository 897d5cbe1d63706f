import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { type AuditedNode, startAuditedNode } from "../support/audited.ts";
import { describeAsRoot } from "../support/root.ts";

// make test-audit. CI does not run it: DuckDB comes from PyPI.

const CACHE = resolve(".cache/duckdb");
const DUCKDB = "duckdb==2.0.1";
const LIMIT_MS = 10 * 60_000;

/** Reads the events, makes the tables of Athena and of CloudTrail Lake, and runs a query: rows as JSON. */
const RUN = `
import duckdb, json, sys
events, query = sys.argv[1:3]
db = duckdb.connect()
db.execute("CREATE MACRO json_extract_scalar(text, path) AS json_extract_string(text, path)")
# DuckDB's own gives a list.
db.execute("CREATE MACRO element_at(elements, key) AS elements[key]")
db.execute("CREATE TABLE raw AS SELECT * FROM read_json(?, format='array')", [events])
# As the table of AWS's documentation: the names in lower case are the same to both, the elements are text.
db.execute("""CREATE TABLE cloudtrail_logs AS SELECT * REPLACE (
  CAST(to_json(requestParameters) AS VARCHAR) AS requestParameters,
  CAST(to_json(responseElements) AS VARCHAR) AS responseElements) FROM raw""")
# As an event data store has it: maps of texts.
db.execute("""CREATE TABLE EVENT_DATA_STORE AS SELECT * REPLACE (
  CAST(CAST(to_json(requestParameters) AS JSON) AS MAP(VARCHAR, VARCHAR)) AS requestParameters,
  CAST(CAST(to_json(responseElements) AS JSON) AS MAP(VARCHAR, VARCHAR)) AS responseElements,
  CAST(eventTime AS TIMESTAMP) AS eventTime) FROM raw""")
found = db.execute(query)
names = [column[0] for column in found.description]
print(json.dumps([dict(zip(names, map(lambda value: value if value is None else str(value), row))) for row in found.fetchall()]))
`;

function run(argv: string[], env: Record<string, string> = {}): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv, { env: { ...process.env, ...env } });
  if (exitCode !== 0) throw new Error(`${argv.slice(0, 4).join(" ")}: exit ${exitCode}\n${stdout}${stderr}`);
  return stdout.toString();
}

describeAsRoot("the SQL of docs/audit.md on events of what alice and bob called:", () => {
  let audited: AuditedNode;
  const file = `${CACHE}/events-${process.pid}.json`;
  const queries = new Map(
    [...readFileSync("docs/audit.md", "utf8").matchAll(/^```sql (\w+)=(\w+)\n([\s\S]*?)\n```$/gm)].map(
      ([, where, name, text = ""]) => [`${where} ${name}`, text],
    ),
  );
  const ask = (name: string, key: string) =>
    JSON.parse(
      run(["python3", "-c", RUN, file, queries.get(name)?.replaceAll("ASIAEXAMPLEEXAMPLE12", key) ?? ""], {
        PYTHONPATH: CACHE,
      }),
    ) as Record<string, string | null>[];
  const keysOf = (user: string) =>
    audited
      .lines()
      .flatMap((line) => (line.user === user && line.decision === "granted" ? [line.accessKeyId ?? ""] : []));

  beforeAll(async () => {
    mkdirSync(CACHE, { recursive: true });
    if (!existsSync(`${CACHE}/duckdb`))
      run(["python3", "-m", "pip", "install", "-q", "--only-binary=:all:", "--target", CACHE, DUCKDB]);
    audited = await startAuditedNode();
    writeFileSync(file, JSON.stringify(audited.events));
  }, LIMIT_MS);
  afterAll(async () => {
    rmSync(file, { force: true });
    await audited?.proxied.node.stop();
  });

  test("each is there for Athena and for CloudTrail Lake", () => {
    const names = ["key", "calls", "person"];
    expect([...queries.keys()]).toEqual([
      ...names.map((name) => `athena ${name}`),
      ...names.map((name) => `lake ${name}`),
    ]);
  });

  for (const where of ["athena", "lake"]) {
    test(`${where}: a key leads to its session and its node, and to nobody else's`, () => {
      for (const user of ["alice", "bob"]) {
        const [key = ""] = keysOf(user);
        expect(key).toStartWith("ASIA");
        const rows = ask(`${where} key`, key);
        expect(rows).toHaveLength(1);
        expect(rows[0]).toMatchObject({ session_name: user, source_identity: user });
        expect(rows[0]?.["node"]).toContain(":assumed-role/");
        expect(rows[0]?.["role"]).toBe(audited.lines().find((line) => line.accessKeyId === key)?.role ?? "");
      }
    });

    test(`${where}: what was done with a key`, () => {
      const [key = ""] = keysOf("bob");
      const made = audited.events.filter(
        ({ userIdentity }) => (userIdentity as { accessKeyId: string }).accessKeyId === key,
      );
      const rows = ask(`${where} calls`, key);
      expect(rows).toHaveLength(made.length);
      expect(rows.map((row) => row["eventName"] ?? row["eventname"])).toContain("GetCallerIdentity");
    });

    test(`${where}: everything of a person's`, () => {
      const rows = ask(`${where} person`, "");
      expect(rows.length).toBeGreaterThan(0);
      for (const row of rows) expect(keysOf("alice")).toContain(row["access_key_id"] ?? "");
    });
  }
});
