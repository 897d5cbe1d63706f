import { isIP } from "node:net";
import { z } from "zod";
import { isRoleArn } from "../sessions/arn.ts";

/** The shape of `tests`, in the configuration or in a file of their own; src/rules/policy-tests.ts runs them. */

const text = z.string().min(1, "must not be empty");

/** Who asks. What is left out is as follows: no groups, a login's cgroup, the instance id `i-INSTANCE`, the region `REGION`. */
const given = z.strictObject({
  user: text.optional(),
  uid: z
    .number()
    .int("must be a uid, such as 1000")
    .min(0, "must be a uid, such as 1000")
    .max(4_294_967_294, "must be a uid, such as 1000")
    .optional(),
  groups: z.union([z.array(text), text.transform((one) => [one])]).optional(),
  /** The id of the Slurm job that the caller is in. */
  slurmJob: z
    .union([z.number().int().min(0).transform(String), z.string().regex(/^\d+$/)], {
      error: "must be the id of a Slurm job, such as 12",
    })
    .optional(),
  /** The system service that the caller is in. */
  unit: text
    .refine((one) => one.endsWith(".service"), "must be the name of a service, such as nightly.service")
    .optional(),
  /** The path of the caller's cgroup v2. */
  cgroup: z
    .string()
    .startsWith("/", "must be a path below the mount of cgroup v2, such as /user.slice")
    .optional(),
  /** The address of a bridged container, which has no uid. */
  container: z
    .string()
    .refine((one) => isIP(one) !== 0, "must be the IP address of a container")
    .optional(),
  instanceId: text.optional(),
  region: text.optional(),
});

/** What the rules must say; what is left out may be anything. */
const expected = z
  .strictObject({
    /** The ARN of the role, or none: the caller is refused. */
    role: z
      .union([z.literal("none"), z.string().refine(isRoleArn, "must be none, or the ARN of an IAM role")])
      .optional(),
    /** The name of the rule that decides; null: none matches. */
    rule: text.nullable().optional(),
    sessionName: text.optional(),
    sourceIdentity: text.nullable().optional(),
    /** All tags of the session. */
    tags: z.record(text, z.union([z.string(), z.number().transform(String)])).optional(),
    /** All managed session policies, in any order. */
    policyArns: z.array(text).optional(),
    /** Names of the grants that match, of a rule with grant: union, in any order; none of them: everything is denied. */
    grants: z.array(text).optional(),
    /** Whether the caller is exempt, and keeps the instance role. Platform accounts are not known here. */
    exempt: z.boolean().optional(),
  })
  .refine((all) => Object.values(all).some((one) => one !== undefined), {
    message:
      "must say what is expected: role, rule, sessionName, sourceIdentity, tags, policyArns, grants or exempt",
  });

/** The list of tests, as `tests` has it. */
export const policyTestsSchema = z.array(z.strictObject({ name: text.optional(), given, expect: expected }));
