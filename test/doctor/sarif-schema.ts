import { expect, test } from "bun:test";
import { createRequire } from "node:module";
import { build } from "../../src/doctor/build.ts";
import { CHECKS } from "../../src/doctor/checks.ts";
import { sarif } from "../../src/doctor/sarif.ts";
import { known } from "../../src/doctor/types.ts";
import { clean, PROCESS } from "./support.ts";

/**
 * `doctor --sarif` against the schema of SARIF 2.1.0, which a package of npm has: `make test-sarif`, with SCHEMA the directory where it is
 * installed. Not a part of the suite, for it needs a registry.
 */

const load = createRequire(`${process.env["SCHEMA"]}/`);
const Ajv = load("ajv");
const schema = load("@microsoft/jest-sarif/lib/schemas/sarif-2.1.0-rtm.5.json");
const ajv = new Ajv({ allErrors: true, schemaId: "id", meta: false });
ajv.addMetaSchema(load("ajv/lib/refs/json-schema-draft-04.json"));
const validate = ajv.compile(schema);
const faults = (document: unknown): string[] => {
  validate(document);
  return (validate.errors ?? []).map(
    ({ dataPath, message }: { dataPath: string; message: string }) => `${dataPath} ${message}`,
  );
};

const HOSTILE = "x\u001b]0;pwned\u0007\n\u202e\ud800";
const reports = {
  "a clean node": build(clean()),
  "findings and gaps, with what a user can put into a name": build({
    ...clean(),
    processes: known([{ ...PROCESS, name: HOSTILE, secretInArguments: true }], "/proc", [HOSTILE]),
    groups: known([{ group: "docker", members: [HOSTILE] }], "getent group"),
  }),
};

for (const [name, report] of Object.entries(reports))
  test(`the schema finds no fault: ${name}`, () => {
    // As the command prints it.
    const document = JSON.parse(JSON.stringify(sarif(report, CHECKS, "1.2.3")));
    expect(faults(document)).toEqual([]);
  });

test("the schema finds one in a document that has one", () => {
  const document = JSON.parse(JSON.stringify(sarif(reports["a clean node"], CHECKS, "1.2.3")));
  document.runs[0].results = [{ level: "fatal", message: {} }];
  expect(faults(document).length).toBeGreaterThan(1);
});
