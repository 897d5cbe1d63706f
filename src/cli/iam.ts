import { defineCommand } from "citty";
import { instanceRoleArn } from "../client/instance-role.ts";
import { loadWithObject } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import { type Asked, askedOfIam, type Conditions } from "../rules/conditions.ts";
import { grantsOf, policiesOf } from "../rules/grants.ts";
import { isRoleArn, parseRoleArn } from "../sessions/arn.ts";
import { permissionStatement, trustStatement } from "../sessions/denial.ts";
import { configArg, jsonArg, withoutRules } from "./common.ts";
import {
  FORMATS,
  type Format,
  type PolicyDocument,
  permissionsResource,
  permissionsTemplate,
  trustResources,
  trustTemplate,
} from "./iam/formats.ts";
import { objectStatement } from "./iam/object-statement.ts";
import { sayBeside } from "./say.ts";
import { jsonText } from "./terminal.ts";

/** `aws:userid` of a session that EC2 gave to an instance ends in the instance's id (IAM User Guide, "Information available in all requests"). */
const OF_AN_INSTANCE = { StringLike: { "aws:userid": "*:i-*" } };

/** Both conditions together. */
function joined(one: Conditions, other: Conditions): Conditions {
  const operators = new Set([...Object.keys(one), ...Object.keys(other)]);
  return Object.fromEntries([...operators].map((name) => [name, { ...one[name], ...other[name] }]));
}

const formatArg = {
  type: "string",
  description: "json, cloudformation or terraform",
  valueHint: "FORMAT",
  default: "json",
} as const;

function formatOf(text: string): Format {
  const found = FORMATS.find((one) => one === text);
  if (found !== undefined) return found;
  throw new ImdsProxyError(
    "usage",
    `iam: there is no format ${JSON.stringify(text)}`,
    `one of ${FORMATS.join(", ")}`,
  );
}

/** The value of --instance-role-arn. */
function requireRoleArn(arn: string): string {
  if (isRoleArn(arn)) return arn;
  throw new ImdsProxyError(
    "usage",
    `iam: --instance-role-arn must be the ARN of an IAM role (found ${JSON.stringify(arn)})`,
    "such as arn:aws:iam::123456789012:role/NODE",
  );
}

function requireRoles(requests: readonly Asked[]): void {
  if (requests.length > 0) return;
  throw new ImdsProxyError("config", "the configuration assumes no role", "set role, or a rule with a role");
}

function documentOf(statements: readonly object[]): PolicyDocument {
  const distinct = new Map(statements.map((statement) => [JSON.stringify(statement), statement]));
  return { Version: "2012-10-17", Statement: [...distinct.values()] };
}

/** Notes that a role of `grant: union` must itself allow what its grants allow: a session policy only limits its role. */
function noteGrants(config: Config, roleArn: string): void {
  const grants = config.rules.filter(({ role }) => role === roleArn).flatMap((rule) => grantsOf(rule) ?? []);
  if (grants.length === 0) return;
  sayBeside(
    `note: the session policies below limit the sessions of ${roleArn}: its own permissions must allow all that they allow:\n` +
      policiesOf(grants)
        .map((arn) => `  ${arn}`)
        .join("\n"),
  );
}

const text = (document: PolicyDocument): string => jsonText(document);

const trustPolicy = defineCommand({
  meta: { name: "trust-policy", description: "Print what the trust policy of a substitute role must allow" },
  args: {
    config: configArg,
    "instance-role-arn": {
      type: "string",
      description: "The node's role; without it, root asks the metadata service, others get a placeholder",
      valueHint: "ARN",
    },
    "role-arn": {
      type: "string",
      description: "One role of the configuration; without it, each",
      valueHint: "ARN",
    },
    instances: {
      type: "boolean",
      description:
        "Only sessions of EC2 instances may assume it (not on HyperPod, whose sessions name no instance)",
    },
    format: formatArg,
    json: jsonArg,
  },
  async run({ args }) {
    const format = formatOf(args.format);
    const named = args["instance-role-arn"];
    const given = named === undefined ? null : requireRoleArn(named);
    const instanceRole = given ?? (await instanceRoleArn());
    if (instanceRole === null) {
      sayBeside(
        "note: ROLE-OF-THIS-NODE stands for the node's role: run it as root on the node, or name it with --instance-role-arn ARN",
      );
    } else if (given === null) {
      sayBeside(
        `note: the node's role is ${instanceRole}, by its metadata service; add the role's path if it has one`,
      );
    }
    const { config, object } = loadWithObject({ path: args.config });
    const note = withoutRules(object);
    if (note !== null)
      throw new ImdsProxyError(
        "config",
        `iam: the roles stand in the fleet's object, and ${note}`,
        "run it as root on a node that has the object",
      );
    const asked = askedOfIam(config);
    requireRoles(asked);
    const roles = [...new Set(asked.map(({ request }) => request.roleArn))];
    const wanted = args["role-arn"] === undefined ? roles : roles.filter((role) => role === args["role-arn"]);
    if (wanted.length === 0) {
      throw new ImdsProxyError(
        "usage",
        `iam: the configuration does not assume ${args["role-arn"]}`,
        `roles: ${roles.join(", ")}`,
      );
    }
    for (const roleArn of wanted) noteGrants(config, roleArn);
    const policies = wanted.map((roleArn) => ({
      roleArn,
      document: documentOf(
        asked
          .filter(({ request }) => request.roleArn === roleArn)
          .map(({ request, conditions }) =>
            trustStatement(
              request,
              instanceRole,
              args.instances ? joined(conditions, OF_AN_INSTANCE) : conditions,
            ),
          ),
      ),
    }));
    if (args.json) {
      const byRole = policies.map(({ roleArn, document }) => [roleArn, document]);
      console.log(jsonText(Object.fromEntries(byRole)));
    } else if (format === "cloudformation") console.log(trustTemplate(policies));
    else if (format === "terraform") console.log(trustResources(policies));
    else if (policies.length === 1) for (const { document } of policies) console.log(text(document));
    else for (const { roleArn, document } of policies) console.log(`${roleArn}:\n${text(document)}`);
  },
});

/** Null where the node takes no object. The partition is that of the node's role, else of a role that it assumes, which has the same. */
function objectStatementOf(
  { config: remote, region }: Config,
  nodeRole: ReturnType<typeof parseRoleArn>,
  assumed: ReturnType<typeof parseRoleArn>,
) {
  if (remote == null) return null;
  return objectStatement(remote.source, {
    partition: nodeRole?.partition ?? assumed?.partition ?? "aws",
    region: remote.region ?? (region === "auto" ? null : region),
    account: nodeRole?.account ?? null,
  });
}

const permissionsPolicy = defineCommand({
  meta: { name: "permissions-policy", description: "Print what the node's role must be allowed" },
  args: {
    config: configArg,
    "instance-role-arn": {
      type: "string",
      description: "The node's role, for a format that names it; without it, a parameter of the template",
      valueHint: "ARN",
    },
    format: formatArg,
    json: jsonArg,
  },
  run({ args }) {
    const format = formatOf(args.format);
    const given = args["instance-role-arn"];
    const nodeRole = given === undefined ? null : parseRoleArn(requireRoleArn(given));
    const { config, object } = loadWithObject({ path: args.config });
    const asked = askedOfIam(config);
    const ofObject = objectStatementOf(config, nodeRole, parseRoleArn(asked[0]?.request.roleArn ?? ""));
    if (object !== null && object.kind !== "good") {
      const why = object.kind === "missing" ? "there is none here" : object.problem;
      sayBeside(
        `note: the roles stand in the fleet's object, and ${why}: the policy that is printed lets the node fetch the object, and ` +
          "nothing else; for the whole policy, run this as root on a node that has the object",
      );
    } else requireRoles(asked);
    const document = documentOf([
      ...asked.map(({ request }) => permissionStatement(request)),
      ...(ofObject === null ? [] : [ofObject]),
    ]);
    const name = nodeRole?.name ?? null;
    if (args.json || format === "json") console.log(text(document));
    else if (format === "cloudformation") console.log(permissionsTemplate(document, name));
    else console.log(permissionsResource(document, name));
  },
});

export default defineCommand({
  meta: { name: "iam", description: "Print the IAM policies that the configuration needs" },
  subCommands: { "trust-policy": trustPolicy, "permissions-policy": permissionsPolicy },
});
