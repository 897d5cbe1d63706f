/**
 * What users of the simulated node do, in a process of their own: a real SDK, or a request by hand.
 * The answer goes to standard output as one line of JSON.
 */
import { GetCallerIdentityCommand, STSClient } from "@aws-sdk/client-sts";

/** The outcome. */
export type AskAnswer =
  /** The caller's ARN, as STS says. */
  | { readonly kind: "identity"; readonly arn: string }
  | { readonly kind: "http"; readonly status: number; readonly body: string }
  /** Nobody listened, or the connection was reset. */
  | { readonly kind: "refused" }
  | { readonly kind: "failed"; readonly message: string };

/** GetCallerIdentity with the SDK's own provider chain, which ends at the metadata service. */
export async function askIdentity(region: string, endpoint: string): Promise<AskAnswer> {
  try {
    const { Arn } = await new STSClient({ region, endpoint, maxAttempts: 1 }).send(
      new GetCallerIdentityCommand({}),
    );
    return { kind: "identity", arn: Arn ?? "" };
  } catch (error) {
    return { kind: "failed", message: error instanceof Error ? error.message : String(error) };
  }
}

/** Error codes of Bun and Node for a refused connection; ENETUNREACH and EACCES come from the second wall. */
const REFUSALS = [
  "ConnectionRefused",
  "ECONNREFUSED",
  "ECONNRESET",
  "ConnectionClosed",
  "FailedToOpenSocket",
  "ENETUNREACH",
  "EACCES",
];
const PATIENCE_MS = 5000;

/** GET with an IMDSv2 token where one is to be had, as a careful attacker would. */
export async function askUrl(url: string): Promise<AskAnswer> {
  const signal = AbortSignal.timeout(PATIENCE_MS);
  try {
    const ttl = { "X-aws-ec2-metadata-token-ttl-seconds": "60" };
    const minted = await fetch(new URL("/latest/api/token", url), { method: "PUT", headers: ttl, signal });
    const token = minted.ok ? { "X-aws-ec2-metadata-token": await minted.text() } : {};
    const response = await fetch(url, { headers: token, redirect: "manual", signal });
    return { kind: "http", status: response.status, body: await response.text() };
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "";
    if (REFUSALS.includes(code)) return { kind: "refused" };
    return { kind: "failed", message: error instanceof Error ? error.message : String(error) };
  }
}
