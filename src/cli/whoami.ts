import { defineCommand } from "citty";
import { askMetadata, type MetadataReply } from "../client/metadata-address.ts";
import { ImdsProxyError } from "../errors.ts";
import type { Whoami } from "../imds/whoami.ts";
import { systemClock } from "../platform/clock.ts";
import { grantsText, jsonArg } from "./common.ts";
import { table } from "./table.ts";
import { jsonText, momentText, widthOf } from "./terminal.ts";

export default defineCommand({
  meta: { name: "whoami", description: "Show what the proxy sees of you, and which role you get" },
  args: { json: jsonArg },
  async run({ args }) {
    const found = await askWhoami();
    if (args.json) console.log(jsonText(found));
    else console.log(whoamiText(found, systemClock.now(), widthOf(process.stdout)));
    if (found.role === null) process.exitCode = 1;
  },
});

/**
 * What the proxy says of this process.
 *
 * @throws ImdsProxyError `unhealthy` where nothing answers, or something other than the proxy.
 */
export async function askWhoami(): Promise<Whoami> {
  const answer = await askMetadata("/imdsproxy/whoami");
  const found = answer.status === 200 ? readWhoami(answer.body) : null;
  if (found === null) throw notAnswered(answer);
  return found;
}

const isTextOrNull = (value: unknown): boolean => value === null || typeof value === "string";

/** The proxy's answer; null where it is something else's: anything may answer at the metadata address of a node without rules. Pure. */
export function readWhoami(body: string): Whoami | null {
  let found: Partial<Record<keyof Whoami, unknown>> | null;
  try {
    found = JSON.parse(body);
  } catch {
    return null;
  }
  const isOurs =
    typeof found === "object" &&
    found !== null &&
    (found.uid === null || typeof found.uid === "number") &&
    typeof found.reason === "string" &&
    Array.isArray(found.groups) &&
    [found.user, found.container, found.slurmJobId, found.rule, found.role].every(isTextOrNull) &&
    [found.roleName, found.sessionName, found.sessionEnds].every(isTextOrNull) &&
    (found.lastError === null || typeof found.lastError === "object");
  return isOurs ? (found as unknown as Whoami) : null;
}

function notAnswered(answer: MetadataReply): ImdsProxyError {
  if (answer.status === 403) {
    return new ImdsProxyError(
      "unhealthy",
      "the proxy refuses you: it could not tell from the kernel whose connection this is",
      "an administrator finds the reason in: journalctl -u imdsproxy",
    );
  }
  if (answer.status === 503) {
    return new ImdsProxyError(
      "unhealthy",
      "the proxy cannot say for now: the account database or the metadata service upstream does not answer",
      "try again; an administrator finds the reason in: journalctl -u imdsproxy",
    );
  }
  const root = process.getuid?.() === 0;
  return new ImdsProxyError(
    "unhealthy",
    `the metadata service itself answered, not imdsproxy (status ${answer.status}): you are not redirected`,
    root
      ? "that is right for root, who is exempt and keeps the instance role; ask as another user"
      : "you are exempt, or the firewall rules are not in place: sudo imdsproxy iptables status",
  );
}

const noSession = ({ lastError }: Whoami): string =>
  lastError === null
    ? "no session yet: one is made when it is asked for"
    : "no session: STS gave none when it was asked";

/** A time in words, with the exact time behind it. */
const momentAndTime = (iso: string, nowMs: number): string => `${momentText(iso, nowMs)} (${iso})`;

/**
 * The answer for people; pure.
 *
 * @param nowMs milliseconds since the epoch.
 * @param width columns to wrap at; null, the default, for lines as they are.
 */
export function whoamiText(found: Whoami, nowMs: number, width: number | null = null): string {
  const rows: [string, string][] = [
    ["user", `${found.user ?? "(no name)"}${found.subordinate ? " (by a subordinate uid)" : ""}`],
    found.container === null ? ["uid", String(found.uid)] : ["container", found.container],
    ["groups", found.groups.length === 0 ? "none" : found.groups.join(", ")],
  ];
  if (found.slurmJobId !== null) rows.push(["Slurm job", found.slurmJobId]);
  rows.push(["rule", found.rule ?? "none"], ["role", found.role ?? "none: you are refused"]);
  if (found.sessionName !== null) rows.push(["session name", found.sessionName]);
  if (found.grants != null) rows.push(["grants", grantsText(found.grants)]);
  for (const arn of found.policyArns ?? []) rows.push(["policy", arn]);
  if (found.role !== null) {
    const { sessionEnds } = found;
    rows.push(["session ends", sessionEnds === null ? noSession(found) : momentAndTime(sessionEnds, nowMs)]);
  }
  if (found.lastError !== null) {
    const { message, since, remedy } = found.lastError;
    rows.push(["last error", `${message} (since ${momentText(since, nowMs)}: ${since})`], ["to do", remedy]);
  }
  rows.push(["why", found.reason]);
  return table(rows, width);
}
