import { isIP } from "node:net";
import { z } from "zod";
import { MOST_POLICIES } from "../rules/grants.ts";
import { describePlaceholders, PLACEHOLDERS, SOURCE_IDENTITY_PLACEHOLDERS } from "../rules/placeholders.ts";
import { mentions, templateProblem } from "../rules/template.ts";
import { isRoleArn } from "../sessions/arn.ts";
import { categoryProblem } from "./categories.ts";
import { limitsSchema } from "./limits.ts";
import { PLATFORMS } from "./platforms.ts";
import { policyTestsSchema } from "./policy-tests.ts";
import { remoteSchema } from "./remote.ts";

/**
 * The configuration file's shape, its defaults and its checks. Every message says what would be right; load.ts adds
 * what was found and the line. Every key has a description: editors show it, and imdsproxy-config(5) is made from it.
 */

// By default zod compiles its checks, which takes longer than the one check of a file.
z.config({ jitless: true });

/** An IP address and a port. */
interface Endpoint {
  address: string;
  port: number;
}

const endpointText = /^(?:\[([0-9a-fA-F:.]+)\]|([^:\s]+)):(\d{1,5})$/;

/** The addresses of the metadata service. */
const METADATA_ADDRESSES = ["169.254.169.254", "fd00:ec2::254"];

/** Parses `127.0.0.1:254` or `[::1]:254`; null where it is not an IP address with a port of 1 to 65535. */
export function parseEndpoint(text: string): Endpoint | null {
  const parts = endpointText.exec(text);
  const address = parts?.[1] ?? parts?.[2] ?? "";
  const port = Number(parts?.[3]);
  const wantedFamily = parts?.[1] === undefined ? 4 : 6;
  if (isIP(address) !== wantedFamily || !(port >= 1 && port <= 65535)) return null;
  return { address, port };
}

const endpoint = z.string().transform((text, context) => {
  const parsed = parseEndpoint(text);
  if (parsed !== null) return parsed;
  context.addIssue({
    code: "custom",
    message: "must be an IP address and a port, such as 127.0.0.1:254 or [::1]:254",
  });
  return z.NEVER;
});

/** `http://169.254.0.2:9081` or `169.254.0.2:9081`: the upstream is always plain HTTP at an IP address. */
const upstream = z.string().transform((text, context) => {
  if (text === "auto") return "auto" as const;
  const authority = /^(?:http:\/\/)?([^/?#@\s]+)\/?$/.exec(text)?.[1] ?? "";
  const parsed = parseEndpoint(authority) ?? parseEndpoint(`${authority}:80`);
  if (parsed !== null) return parsed;
  context.addIssue({
    code: "custom",
    message:
      "must be auto, or a URL of an IP address such as http://169.254.169.254 or http://169.254.0.2:9081",
  });
  return z.NEVER;
});

const roleArn = z
  .string()
  .refine(isRoleArn, "must be the ARN of an IAM role, such as arn:aws:iam::123456789012:role/NAME");

const listOf = <T extends z.ZodType>(item: T) =>
  z.union([
    z.array(item).min(1, "must not be empty: leave the key out to match anyone"),
    item.transform((one) => [one]),
  ]);

const uidRange = z.union([z.number(), z.string()]).transform((value, context) => {
  const parts = /^(\d{1,10})(?:-(\d{1,10}))?$/.exec(String(value));
  const from = Number(parts?.[1]);
  const to = parts?.[2] === undefined ? from : Number(parts[2]);
  // 4294967295 is (uid_t)-1, which is no uid.
  if (parts === null || to > 4_294_967_294 || from > to) {
    context.addIssue({
      code: "custom",
      message: "must be a uid or a range from low to high, such as 1000 or 1000-1999",
    });
    return z.NEVER;
  }
  return { from, to };
});

const name = z.string().min(1, "must not be empty");

const match = z
  .strictObject({
    user: listOf(name).optional().describe("Account names"),
    uid: listOf(uidRange).optional().describe("Uids, and ranges of uids such as 1000-1999"),
    group: listOf(name).optional().describe("Group names, exactly; they may hold spaces"),
    cgroup: listOf(name)
      .optional()
      .describe("Globs over the path in cgroup v2: * stays within one segment, ** crosses them"),
    slurmJob: z.boolean().optional().describe("Whether the caller is inside a Slurm job"),
    unit: listOf(
      name.refine(
        (text) => text.endsWith(".service"),
        "must be the name of a service, such as nightly.service",
      ),
    )
      .optional()
      .describe(
        "Globs over the name of the system service in whose cgroup the caller is; only beside user, uid or group",
      ),
  })
  .refine(
    // Users run inside of services: cron.service, sshd.service, slurmd.service.
    ({ unit, user, uid, group }) => unit === undefined || [user, uid, group].some((who) => who !== undefined),
    {
      path: ["unit"],
      message:
        "must stand beside user, uid or group: processes of any user can be in a service (cron.service, sshd.service), so that a " +
        "unit alone does not say who asks",
    },
  );

const template = (allowed?: readonly string[]) =>
  z.string().superRefine((text, context) => {
    const problem = templateProblem(text, allowed);
    if (problem !== null) context.addIssue({ code: "custom", message: problem });
  });

/** Begins the second part of the description of a key with placeholders. The man page has a section of its own for that part. */
export const PLACEHOLDERS_FOLLOW = "Text with placeholders.";
const withPlaceholders = (what: string, allowed?: readonly string[]): string =>
  `${what}. ${PLACEHOLDERS_FOLLOW} ${describePlaceholders(allowed)}`;

const durationSeconds = z
  .number()
  .int("must be a whole number of seconds")
  .min(900, "must be 900 to 3600 seconds: STS gives no shorter session")
  .max(3600, "must be 900 to 3600 seconds: AWS caps a role that was assumed from a role at one hour");

const tagKey = z
  .string()
  .regex(/^[\p{L}\p{Z}\p{N}_.:/=+\-@]{1,128}$/u, "must be 1 to 128 letters, digits, spaces or _.:/=+-@")
  .refine((key) => !/^aws:/i.test(key), "must not begin with aws:, which AWS keeps for itself");

/** The templates of a rule, by their keys in it. */
const textsOf = (rule: {
  readonly sessionName?: string | undefined;
  readonly sourceIdentity?: string | null | undefined;
  readonly tags: Readonly<Record<string, string>>;
}): (readonly [path: readonly string[], text: string | null | undefined])[] => [
  [["sessionName"], rule.sessionName],
  [["sourceIdentity"], rule.sourceIdentity],
  ...Object.entries(rule.tags).map(([key, text]) => [["tags", key], text] as const),
];

const policyArn = z
  .string()
  .regex(/^arn:aws[a-z-]*:iam::(?:aws|\d{12}):policy\/.+$/, "must be the ARN of a managed policy");

/** Session policies for those of a rule's callers whom `match` matches too. */
const grant = z.strictObject({
  name: name.describe("What the grant is called, in explain and whoami"),
  match: match.default({}).describe("What the caller must match, as in a rule; empty: everybody"),
  policyArns: z
    .array(policyArn)
    .min(1, "must not be empty: a grant is its policies")
    .max(MOST_POLICIES, `must be at most ${MOST_POLICIES} policies, as STS takes no more`)
    .describe("ARNs of the managed policies that it gives"),
});

const rule = z
  .strictObject({
    name: name.describe("What the rule is called, in explain, whoami and the log"),
    match: match
      .default({})
      .describe("What the caller must match: every key, and any item of each list; empty: everybody"),
    role: z
      .union([z.literal("none", "must be the ARN of an IAM role, or none"), roleArn])
      .describe("The ARN of the role that the caller gets, or none: the caller is refused"),
    sessionName: template()
      .optional()
      .describe(withPlaceholders("The name of the sessions; default: the key sessionName of the file")),
    durationSeconds: durationSeconds
      .optional()
      .describe("How long the sessions last; default: the key durationSeconds of the file"),
    sourceIdentity: template(SOURCE_IDENTITY_PLACEHOLDERS)
      .nullish()
      .describe(
        withPlaceholders(
          "The source identity of the sessions, which stays with them when they assume a further role",
          SOURCE_IDENTITY_PLACEHOLDERS,
        ),
      ),
    tags: z
      .record(tagKey, z.union([template(), z.number().transform(String)]))
      .default({})
      .describe(withPlaceholders("Session tags, by their keys")),
    transitiveTagKeys: z
      .array(tagKey)
      .default([])
      .describe("The tags that stay with a session when it assumes a further role"),
    policyArns: z
      .array(policyArn)
      .max(MOST_POLICIES, `must be at most ${MOST_POLICIES} policies, as STS takes no more`)
      .default([])
      .describe("ARNs of managed policies that limit the sessions"),
    grant: z
      .enum(["union"], "must be union: the policies of all grants that match, together")
      .optional()
      .describe(
        "union: a session may do what any policy of the matching grants allows, as far as the role allows it",
      ),
    grants: z
      .array(grant)
      .min(1, "must not be empty: nobody would be granted anything")
      .optional()
      .describe("Session policies, each for those of the rule's callers whom the grant matches too"),
    policy: z
      .union([z.record(z.string(), z.unknown()).transform((value) => JSON.stringify(value)), z.string()])
      .nullable()
      .default(null)
      .superRefine((text, context) => {
        if (text === null) return;
        try {
          if (typeof JSON.parse(text) === "object") return;
        } catch {
          // Reported below without the parser's message, which may quote the policy.
        }
        context.addIssue({
          code: "custom",
          message: "must be a policy document: JSON text, or the same as YAML",
        });
      })
      .describe("A policy document that limits the sessions, as JSON text or as YAML"),
    externalId: z
      .string()
      .regex(/^[\w+=,.@:/-]{2,1224}$/, "must be 2 to 1224 characters of A-Z a-z 0-9 _+=,.@:/-")
      .nullable()
      .default(null)
      .describe("The external id that the role's trust policy asks for"),
  })
  .superRefine((rule, context) => {
    for (const { path, message } of grantProblems(rule)) context.addIssue({ code: "custom", path, message });
  })
  .superRefine((rule, context) => {
    if (rule.match.group !== undefined) return;
    for (const [path, text] of textsOf(rule)) {
      if (!mentions(text ?? "", "group")) continue;
      const message = "uses {group}, so its rule must match by group: match: { group: [NAME] }";
      context.addIssue({ code: "custom", path: [...path], message });
    }
  });

/** What is wrong with a rule's grants as a whole. */
function grantProblems(rule: {
  readonly role: string;
  readonly grant?: "union" | undefined;
  readonly grants?: readonly z.output<typeof grant>[] | undefined;
  readonly policyArns: readonly string[];
  readonly policy: string | null;
}): { readonly path: (string | number)[]; readonly message: string }[] {
  const { grants, role } = rule;
  if (rule.grant === undefined) {
    const message = "must stand beside grant: union, which says what several grants are together";
    return grants === undefined ? [] : [{ path: ["grants"], message }];
  }
  if (grants === undefined) {
    const message =
      "must have grants beside it: a list of { name, match, policyArns }; a caller whom none of them matches is denied everything";
    return [{ path: ["grant"], message }];
  }
  const found: { path: (string | number)[]; message: string }[] = [];
  if (role === "none")
    found.push({ path: ["grant"], message: "has no role to grant something of: role is none" });
  const here = { policyArns: rule.policyArns.length > 0, policy: rule.policy !== null };
  for (const key of ["policyArns", "policy"] as const) {
    // Session policies add up: a caller whom no grant matches would be granted this.
    const message =
      "must not stand beside grant: union; for what everybody of the rule shall have, add a grant without a match";
    if (here[key]) found.push({ path: [key], message });
  }
  const [, partition, , , account] = role.split(":");
  for (const [index, { name, policyArns }] of grants.entries()) {
    if (grants.slice(0, index).some((other) => other.name === name)) {
      const message = `is the name of an earlier grant of this rule (found ${JSON.stringify(name)}); give it one of its own`;
      found.push({ path: ["grants", index, "name"], message });
    }
    for (const [place, arn] of policyArns.entries()) {
      const [, itsPartition, , , itsAccount] = arn.split(":");
      if (role === "none" || (itsPartition === partition && ["aws", account].includes(itsAccount))) continue;
      const message = `must be a policy of AWS's or of the role's own account, ${account}`;
      found.push({ path: ["grants", index, "policyArns", place], message });
    }
  }
  return found;
}

const category = z.string().superRefine((text, context) => {
  const problem = categoryProblem(text);
  if (problem !== null) context.addIssue({ code: "custom", message: problem });
});

/**
 * Where the proxy listens unless `listen` says otherwise. Below 512: bindresvport(3) and rresvport(3), by which NFS takes
 * ports for itself, choose from 512 to 1023, and Lustre's LNet listens on 988, the default of earlier versions.
 */
export const DEFAULT_LISTEN: Endpoint = { address: "127.0.0.1", port: 254 };

/** The default session name is also that of callers whom no rule matches. */
const WITHOUT_GROUP = PLACEHOLDERS.map((one) => one.name).filter((one) => one !== "group");

/** The whole file. An empty file is valid: without a role every caller is refused. */
export const configSchema = z
  .strictObject({
    // prefault(): the default is parsed like the file's own text, so the JSON Schema shows it as it would be written.
    listen: endpoint
      .prefault(`${DEFAULT_LISTEN.address}:${DEFAULT_LISTEN.port}`)
      .describe("Where the proxy listens. Below port 512: no user, NFS or Lustre can take it"),
    upstream: upstream
      .prefault("auto")
      .describe(
        "The URL of the node's own metadata service; auto: HyperPod's agent where there is one, else 169.254.169.254",
      ),
    region: z
      .string()
      .regex(/^(?:auto|[a-z]{2,}(?:-[a-z]+)+-\d{1,2})$/, "must be auto or a region such as us-west-2")
      .default("auto")
      .describe("The region of STS; auto: the node's own"),
    sts: z
      .strictObject({
        endpoint: z
          .url({
            protocol: /^https?$/,
            error: "must be a URL such as https://sts.us-west-2.amazonaws.com, or null",
          })
          .nullable()
          .default(null)
          .describe("The URL of STS; null: the regional endpoint"),
      })
      .default({ endpoint: null })
      .describe("Where STS is asked"),
    config: remoteSchema
      .nullish()
      .describe(
        "Where the object is that many nodes share: role and rules come from it, and not from this file",
      ),
    role: roleArn
      .nullable()
      .default(null)
      .describe("The role of every caller whom no rule matches; null: they are refused"),
    sessionName: template(WITHOUT_GROUP)
      .default("{user}@{instanceId}")
      .describe(withPlaceholders("The name of the sessions, unless a rule says otherwise", WITHOUT_GROUP)),
    durationSeconds: durationSeconds
      .default(3600)
      .describe("How long sessions last, unless a rule says otherwise"),
    cluster: name.nullish().describe("The name of the cluster, for the placeholder {cluster}"),
    nameless: z
      .enum(["refuse", "default"], "must be refuse or default")
      .default("refuse")
      .describe(
        "What a rule by user or group does with a uid that has no name. refuse: it refuses the caller; default: it does not match, and the rules below and the default role decide",
      ),
    exempt: z
      .array(z.union([name, z.number().int().min(0).transform(String)]))
      .prefault(["root"])
      .describe("Users who keep the instance role, by name or uid; root and the service's account always do"),
    // Which accounts these are: src/firewall/platform-accounts.ts.
    platform: z
      .enum([...PLATFORMS, "none"], `must be ${PLATFORMS.join(", ")} or none`)
      .default("none")
      .describe("The platform whose daemons' accounts are exempt too, where the node has them"),
    imds: z
      .strictObject({
        tokens: z
          .enum(["auto", "optional", "required"], "must be auto, optional or required")
          .default("auto")
          .describe("Whether a request needs a token (IMDSv2); auto: as the upstream does"),
        allow: z
          .array(category)
          .default([])
          .describe("Metadata categories to open besides the default ones; credentials can never be opened"),
        deny: z.array(category).default([]).describe("Metadata categories to close"),
      })
      .default({ tokens: "auto", allow: [], deny: [] })
      .describe("Which metadata users can read, and how"),
    containers: z
      .enum(["leave", "reject", "proxy"], "must be leave, reject or proxy")
      .default("leave")
      .describe(
        "What happens to bridged containers, which have no uid. leave: nothing; reject: they are refused; proxy: they get the default role",
      ),
    limits: limitsSchema
      .prefault({})
      .describe(
        "How much of the shared resources one user may take. A user is a uid with its subordinate uids",
      ),
    rules: z
      .array(rule)
      .default([])
      .describe(
        "Who gets which role: the first rule that matches decides. Where none matches, the key role does",
      ),
    tests: policyTestsSchema
      .optional()
      .describe(
        "Tests of the rules: a caller, and what the rules must decide; a file whose tests fail is not loaded",
      ),
    metrics: z
      .strictObject({
        listen: endpoint.prefault("127.0.0.1:9254").describe("Where the metrics are served"),
        roles: z
          .boolean("must be true or false")
          .default(false)
          .describe("Whether ARNs of roles are labels of metrics, which every local user can read"),
      })
      .nullable()
      .prefault({})
      .describe("Metrics for Prometheus; null for none"),
    stateDirectory: z
      .string()
      .startsWith("/", "must be an absolute path")
      .default("/var/lib/imdsproxy")
      .describe("Holds the key of the tokens, and who asked for credentials last, for a restart"),
    log: z
      .strictObject({
        level: z
          .enum(["debug", "info", "warn", "error"], "must be debug, info, warn or error")
          .default("info")
          .describe("The lowest level that is logged"),
        format: z
          .enum(["auto", "json", "pretty"], "must be auto, json or pretty")
          .default("auto")
          .describe("How lines are written; auto: json under systemd, pretty on a terminal"),
      })
      .default({ level: "info", format: "auto" })
      .describe("The log of the proxy"),
  })
  .superRefine(({ listen, upstream, metrics }, context) => {
    const refuse = (path: PropertyKey[], message: string) =>
      context.addIssue({ code: "custom", path, message });
    const isListen = (other: Endpoint) => other.address === listen.address && other.port === listen.port;
    if (METADATA_ADDRESSES.includes(listen.address))
      refuse(["listen"], "must not be the metadata address: the firewall leads users from there to listen");
    if (upstream !== "auto" && isListen(upstream))
      refuse(["upstream"], "must not be where the proxy itself listens: it would ask itself");
    if (metrics !== null && isListen(metrics.listen))
      refuse(["metrics", "listen"], "must not be where the proxy listens: give it a port of its own");
  })
  .superRefine(({ cluster, sessionName, rules }, context) => {
    if (cluster != null) return;
    const texts: (readonly [path: readonly PropertyKey[], text: string | null | undefined])[] = [
      [["sessionName"], sessionName],
      ...rules.flatMap((rule, index) =>
        textsOf(rule).map(([path, text]) => [["rules", index, ...path], text] as const),
      ),
    ];
    for (const [path, text] of texts) {
      if (!mentions(text ?? "", "cluster")) continue;
      const message = "uses {cluster}: set the key cluster to the cluster's name";
      context.addIssue({ code: "custom", path: [...path], message });
    }
  });

/** The configuration as the rest of the program sees it: complete, checked, with its defaults. */
export type Config = z.output<typeof configSchema>;
/** One rule of the configuration. */
export type Rule = Config["rules"][number];
/** What a rule asks of an identity. */
export type Match = Rule["match"];
