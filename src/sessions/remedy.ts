import { isOwnCredentialsCode, isThrottlingCode } from "./sts-failures.ts";

/**
 * What an administrator can do about a transient failure of AssumeRole. imdsproxy retries by itself until the cause is gone.
 *
 * @param code `StsFailure.code`.
 * @param endpoint the STS that was asked, as a URL; null where it is not known.
 */
export function passingRemedy(code: string, endpoint: string | null): string {
  const sts = endpoint ?? "STS";
  if (code === "clock") return "set the node's clock: chronyc tracking; chronyc makestep";
  if (isOwnCredentialsCode(code)) {
    return "see that the node's clock is right (chronyc tracking) and that its instance role still has credentials";
  }
  if (isThrottlingCode(code)) {
    return `${sts} is asked too often by this account; imdsproxy tries again by itself, more slowly`;
  }
  if (code === "credentials") {
    return "see that the node has an instance role, and that its metadata service gives root its credentials";
  }
  if (code === "answer")
    return "see sts.endpoint in the configuration, and whether a proxy stands in between";
  return `see that this node can reach ${sts} (DNS, security group, NAT or VPC endpoint); imdsproxy tries again by itself`;
}
