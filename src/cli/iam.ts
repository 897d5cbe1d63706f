import { defineCommand } from "citty";
import { instanceRoleArn } from "../client/instance-role.ts";
import { loadConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import { UNKNOWN_IDENTITY } from "../identity/types.ts";
import { compileRules } from "../rules/decide.ts";
import { isRoleArn } from "../sessions/arn.ts";
import { permissionStatement, trustStatement } from "../sessions/denial.ts";
import type { SessionRequest } from "../sessions/types.ts";
import { configArg, jsonArg } from "./common.ts";

/** One AssumeRole request for each rule with a role, and one for the default role: their fields decide which actions IAM must allow. */
function requestsOf(config: Config): SessionRequest[] {
  // In a job: a tag of the job's number is left out where there is none.
  const anyone = { ...UNKNOWN_IDENTITY, user: "user", cgroup: "/", slurmJobId: "1" };
  const alone = config.rules.map((rule) => ({ ...config, role: null, rules: [{ ...rule, match: {} }] }));
  return [{ ...config, rules: [] }, ...alone].flatMap((one) => {
    const decision = compileRules(one).decide(anyone, "i-INSTANCE");
    return decision.kind === "role" ? [decision.request] : [];
  });
}

function requireRoles(requests: readonly SessionRequest[]): void {
  if (requests.length > 0) return;
  throw new ImdsProxyError("config", "the configuration assumes no role", "set role, or a rule with a role");
}

const policy = (statements: readonly object[]): string => {
  const distinct = [
    ...new Map(statements.map((statement) => [JSON.stringify(statement), statement])).values(),
  ];
  return JSON.stringify({ Version: "2012-10-17", Statement: distinct }, null, 2);
};

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
    json: jsonArg,
  },
  async run({ args }) {
    const given = args["instance-role-arn"] ?? null;
    if (given !== null && !isRoleArn(given)) {
      throw new ImdsProxyError(
        "usage",
        `iam: --instance-role-arn must be the ARN of an IAM role (found ${JSON.stringify(given)})`,
      );
    }
    const instanceRole = given ?? (await instanceRoleArn());
    if (instanceRole === null) {
      console.error(
        "note: ROLE-OF-THIS-NODE stands for the node's role: run it as root on the node, or name it with --instance-role-arn ARN",
      );
    } else if (given === null) {
      console.error(
        `note: the node's role is ${instanceRole}, by its metadata service; add the role's path if it has one`,
      );
    }
    const requests = requestsOf(loadConfig({ path: args.config }));
    requireRoles(requests);
    const roles = [...new Set(requests.map(({ roleArn }) => roleArn))];
    const wanted = args["role-arn"] === undefined ? roles : roles.filter((role) => role === args["role-arn"]);
    if (wanted.length === 0) {
      throw new ImdsProxyError(
        "usage",
        `iam: the configuration does not assume ${args["role-arn"]}`,
        `roles: ${roles.join(", ")}`,
      );
    }
    const policies = wanted.map((role) => ({
      role,
      text: policy(
        requests
          .filter(({ roleArn }) => roleArn === role)
          .map((request) => trustStatement(request, instanceRole)),
      ),
    }));
    if (args.json)
      console.log(
        JSON.stringify(
          Object.fromEntries(policies.map(({ role, text }) => [role, JSON.parse(text)])),
          null,
          2,
        ),
      );
    else if (policies.length === 1) console.log(policies[0]?.text);
    else for (const { role, text } of policies) console.log(`${role}:\n${text}`);
  },
});

const permissionsPolicy = defineCommand({
  meta: { name: "permissions-policy", description: "Print what the node's role must be allowed" },
  args: { config: configArg, json: jsonArg },
  run({ args }) {
    const requests = requestsOf(loadConfig({ path: args.config }));
    requireRoles(requests);
    console.log(policy(requests.map((request) => permissionStatement(request))));
  },
});

export default defineCommand({
  meta: { name: "iam", description: "Print the IAM policies that the configuration needs" },
  subCommands: { "trust-policy": trustPolicy, "permissions-policy": permissionsPolicy },
});
