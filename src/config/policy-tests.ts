import { isIP } from "node:net";
import { z } from "zod";
import { isRoleArn } from "../sessions/arn.ts";

/** The shape of `tests`, in the configuration or in a file of their own; src/rules/policy-tests.ts runs them. */

const text = z.string().min(1, "must not be empty");

/** Who asks. Defaults: no groups, a login's cgroup, the instance id `i-INSTANCE`, the region `REGION`. */
const given = z.strictObject({
  user: text.optional().describe("The account's name"),
  uid: z
    .number()
    .int("must be a uid, such as 1000")
    .min(0, "must be a uid, such as 1000")
    .max(4_294_967_294, "must be a uid, such as 1000")
    .optional()
    .describe("The uid"),
  groups: z
    .union([z.array(text), text.transform((one) => [one])])
    .optional()
    .describe("The names of all groups that the caller is in; default none"),
  slurmJob: z
    .union([z.number().int().min(0).transform(String), z.string().regex(/^\d+$/)], {
      error: "must be the id of a Slurm job, such as 12",
    })
    .optional()
    .describe("The id of the Slurm job that the caller is in"),
  unit: text
    .refine((one) => one.endsWith(".service"), "must be the name of a service, such as nightly.service")
    .optional()
    .describe("The system service that the caller is in"),
  cgroup: z
    .string()
    .startsWith("/", "must be a path below the mount of cgroup v2, such as /user.slice")
    .optional()
    .describe("The path of the caller's cgroup v2; default a login's"),
  container: z
    .string()
    .refine((one) => isIP(one) !== 0, "must be the IP address of a container")
    .optional()
    .describe("The address of a bridged container, which has no uid"),
  instanceId: text.optional().describe("The node's instance id; default i-INSTANCE"),
  region: text.optional().describe("The node's region; default REGION"),
});

/** What the rules must say; what is left out may be anything. */
const expected = z
  .strictObject({
    role: z
      .union([z.literal("none"), z.string().refine(isRoleArn, "must be none, or the ARN of an IAM role")])
      .optional()
      .describe("The ARN of the role, or none: the caller is refused"),
    rule: text.nullable().optional().describe("The name of the rule that decides; null: none matches"),
    sessionName: text.optional().describe("The session's name"),
    sourceIdentity: text.nullable().optional().describe("The session's source identity; null: it has none"),
    tags: z
      .record(text, z.union([z.string(), z.number().transform(String)]))
      .optional()
      .describe("All tags of the session"),
    policyArns: z.array(text).optional().describe("All managed session policies, in any order"),
    grants: z
      .array(text)
      .optional()
      .describe(
        "Names of the grants that match, of a rule with grant: union, in any order; none of them: everything is denied",
      ),
    exempt: z
      .boolean()
      .optional()
      .describe(
        "Whether the caller is exempt, and keeps the instance role. Accounts of the platform are not known here",
      ),
  })
  .refine((all) => Object.values(all).some((one) => one !== undefined), {
    message:
      "must say what is expected: role, rule, sessionName, sourceIdentity, tags, policyArns, grants or exempt",
  });

/** The list of tests, as `tests` has it. */
export const policyTestsSchema = z.array(
  z.strictObject({
    name: text.optional().describe("What the test is called where it fails"),
    given: given.describe("Who asks"),
    expect: expected.describe("What the rules must say; what is left out may be anything"),
  }),
);
