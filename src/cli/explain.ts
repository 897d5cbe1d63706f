import { hostname } from "node:os";
import { defineCommand } from "citty";
import { askMetadata } from "../client/metadata-address.ts";
import { loadWithObject } from "../config/load.ts";
import { asksForJobs } from "../config/warnings.ts";
import { ImdsProxyError } from "../errors.ts";
import { accountsHere, exemptOf } from "../firewall/platform-accounts.ts";
import { exemptUids } from "../firewall/spec.ts";
import { NamesUnavailable } from "../identity/accounts.ts";
import { jobOf } from "../identity/slurm-job.ts";
import { slurmProblem } from "../identity/slurm-settings.ts";
import type { Identity } from "../identity/types.ts";
import { compileRules, type Decision } from "../rules/decide.ts";
import { systemNames, systemSluids } from "../wiring/identities.ts";
import { configArg, grantsText, jsonArg, withoutRules } from "./common.ts";
import { table } from "./table.ts";
import { jsonText, widthOf } from "./terminal.ts";

/** Replaces the instance id on a machine without a metadata service. */
const INSTANCE_ID = "i-INSTANCE";
/** The same for the region. */
const REGION = "REGION";
/** Timeout of the metadata service, in milliseconds. */
const METADATA_MS = 1_000;

export default defineCommand({
  meta: { name: "explain", description: "Show which role a user gets by the configuration, and why" },
  args: {
    user: { type: "positional", description: "An account's name, or a uid", required: true },
    config: configArg,
    "slurm-job": { type: "string", description: "As if inside this Slurm job", valueHint: "ID" },
    cgroup: { type: "string", description: "As if in this cgroup v2", valueHint: "PATH" },
    json: jsonArg,
  },
  async run({ args }) {
    const { config, object } = loadWithObject({ path: args.config });
    const { cgroup, assumption } = cgroupOf(args.cgroup, args["slurm-job"]);
    const jobsUnknown = asksForJobs(config) ? slurmProblem() : null;
    const identity = await identityOf(args.user, cgroup, jobsUnknown);
    const platformAccounts = accountsHere(config.platform);
    // Compared by uid, as in the firewall's rules: an account of a directory can have the name of an exempt one.
    const exemptions = [...(await exemptUids(config.exempt)).uids, ...exemptOf(platformAccounts)];
    const exempt = exemptions.some((uid) => uid === identity.uid);
    const rules = compileRules(config, { hostname: hostname() });
    const instanceId =
      rules.needs.instanceId && !exempt ? await metadataHere("instance-id", /^[\w-]{1,64}$/) : null;
    const region =
      rules.needs.region && !exempt
        ? await metadataHere("placement/region", /^[a-z]+(?:-[a-z]+)+-\d+$/)
        : null;
    const decision = rules.decide(identity, instanceId ?? INSTANCE_ID, region ?? REGION);
    /** Values that were assumed, because they could not be looked up. */
    const assumptions = [
      ...(exempt || assumption === null ? [] : [assumption]),
      ...platformAccounts.flatMap(({ name, standing }) =>
        standing.kind === "refused" && standing.uid === identity.uid
          ? [`${name} is not exempt, though platform ${config.platform} expects it: ${standing.why}`]
          : [],
      ),
      ...(rules.needs.instanceId && !exempt && instanceId === null
        ? [`${INSTANCE_ID} stands for the node's instance id: no metadata service answered here with it`]
        : []),
      ...(rules.needs.region && !exempt && region === null
        ? [`${REGION} stands for the node's region: no metadata service answered here with it`]
        : []),
    ];
    const warnings = exempt ? [] : [withoutRules(object), jobsUnknown].filter((one) => one !== null);
    if (args.json) {
      const shown = exempt ? null : withoutSecrets(decision);
      console.log(jsonText({ identity, exempt, decision: shown, assumptions, warnings }));
      return;
    }
    const notes = [
      ...warnings.map((text): [string, string] => ["warning", text]),
      ...assumptions.map((text): [string, string] => ["assumed", text]),
    ];
    const shown = [...(exempt ? exemptRows(identity) : rows(identity, decision)), ...notes];
    console.log(table(shown, widthOf(process.stdout)));
  },
});

/** Asks whatever answers at the metadata address; null where nothing answers, or the value has another form. */
async function metadataHere(name: string, kind: RegExp): Promise<string | null> {
  try {
    const { status, body } = await askMetadata(`/latest/meta-data/${name}`, { timeoutMs: METADATA_MS });
    return status === 200 && kind.test(body.trim()) ? body.trim() : null;
  } catch (error) {
    if (error instanceof ImdsProxyError) return null;
    throw error;
  }
}

/** The cgroup to explain for; where the flags do not name it, with the assumption that was made. */
function cgroupOf(
  cgroup: string | undefined,
  slurmJob: string | undefined,
): { cgroup: string; assumption: string | null } {
  if (cgroup !== undefined && slurmJob !== undefined) {
    throw new ImdsProxyError(
      "usage",
      "explain: --cgroup and --slurm-job exclude each other",
      "name one of them",
    );
  }
  if (slurmJob !== undefined && !/^\d+$/.test(slurmJob)) {
    throw new ImdsProxyError(
      "usage",
      `explain: --slurm-job must be a number (found ${JSON.stringify(slurmJob)})`,
      "such as --slurm-job 1234",
    );
  }
  if (slurmJob !== undefined) {
    return {
      cgroup: `/system.slice/slurmstepd.scope/job_${slurmJob}/step_0/user/task_0`,
      assumption: "the cgroup is one that Slurm would make for the job (step 0, task 0)",
    };
  }
  if (cgroup !== undefined) return { cgroup, assumption: null };
  return { cgroup: "/user.slice", assumption: "the cgroup is that of a login; --cgroup PATH names another" };
}

async function identityOf(name: string, cgroup: string, jobsUnknown: string | null): Promise<Identity> {
  // The same look-up as the proxy's, so that both give the same result.
  const { accounts, close } = systemNames();
  try {
    const uid = /^\d+$/.test(name) ? Number(name) : await accounts.uidOf(name);
    if (uid === null || uid > 4_294_967_294) {
      throw new ImdsProxyError(
        "usage",
        `explain: there is no account ${JSON.stringify(name)}`,
        "name an account that getent passwd knows, or a uid",
      );
    }
    const { conflict, ...known } = await accounts.resolve(uid);
    if (conflict !== undefined) {
      throw new ImdsProxyError(
        "unhealthy",
        `explain: refused, for ${conflict}`,
        "give the account a uid outside of every subordinate range, or move the range",
      );
    }
    return {
      uid,
      container: null,
      ...known,
      cgroup,
      ...(await jobOf(cgroup, uid, jobsUnknown, systemSluids())),
    };
  } catch (error) {
    if (!(error instanceof NamesUnavailable)) throw error;
    throw new ImdsProxyError(
      "unhealthy",
      `explain: ${error.message}`,
      "the proxy answers 503 until NSS can tell; look at the service that is named: systemctl status sssd, nslcd or winbind",
    );
  } finally {
    close();
  }
}

/** Hides the external id, which is treated as a secret: whoever knows it may assume the role. */
const withoutSecrets = (decision: Decision): Decision =>
  decision.kind === "role" && decision.request.externalId !== null
    ? { ...decision, request: { ...decision.request, externalId: "(set)" } }
    : decision;

function groupsText({ groups, groupsUnavailable, userUnavailable }: Identity): string {
  if (userUnavailable !== undefined) return "cannot be told for now";
  const known = groups.length === 0 ? "none" : groups.join(", ");
  return groupsUnavailable === undefined
    ? known
    : `${known}; others cannot be told for now: ${groupsUnavailable}`;
}

const who = (identity: Identity): [string, string][] => [
  [
    "user",
    identity.userUnavailable !== undefined
      ? "cannot be told for now"
      : `${identity.user ?? "(no name)"}${identity.subordinate ? " (by a subordinate uid)" : ""}`,
  ],
  ["uid", String(identity.uid)],
  ["groups", groupsText(identity)],
  [
    "cgroup",
    `${identity.cgroup}${identity.slurmJobId === null ? "" : ` (Slurm job ${identity.slurmJobId})`}`,
  ],
];

const exemptRows = (identity: Identity): [string, string][] => [
  ...who(identity),
  ["role", "the instance role"],
  ["why", "exempt: the firewall sends this user straight to the node's own metadata service"],
];

/** The rows for what limits the session besides its role: grants and session policies. */
function policyRows({ request, grants }: Extract<Decision, { kind: "role" }>): [string, string][] {
  const granted: [string, string][] = grants === undefined ? [] : [["grants", grantsText(grants)]];
  if (grants?.length === 0) return granted;
  return [
    ...granted,
    ...request.policyArns.map((arn): [string, string] => ["policy", arn]),
    ...(request.policy === null
      ? []
      : [["policy", `inline, ${request.policy.length} characters`] as [string, string]]),
  ];
}

function rows(identity: Identity, decision: Decision): [string, string][] {
  if (decision.kind === "refuse") {
    return [
      ...who(identity),
      ["rule", decision.rule ?? "none"],
      ["role", decision.passing === true ? "none: 503 until it can be told" : "none: refused"],
      ["why", decision.reason],
    ];
  }
  const { request } = decision;
  return [
    ...who(identity),
    ["rule", decision.rule ?? "none"],
    ["role", decision.roleArn],
    ["session name", request.sessionName],
    ...(request.sourceIdentity === null
      ? []
      : ([["source identity", request.sourceIdentity]] as [string, string][])),
    ...request.tags.map(([key, value]): [string, string] => ["tag", `${key}=${value}`]),
    ...policyRows(decision),
    ["why", decision.reason],
  ];
}
