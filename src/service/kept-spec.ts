import type { FirewallSpec } from "../firewall/types.ts";

/** Checks what was read: only root writes these files, but an older version may have written another format. */
export function asSpec(value: unknown): FirewallSpec | null {
  const spec = value as FirewallSpec | null;
  const endpoint = (e: unknown) =>
    typeof (e as { address?: unknown } | undefined)?.address === "string" &&
    typeof (e as { port?: unknown } | undefined)?.port === "number";
  const good =
    endpoint(spec?.listen) &&
    endpoint(spec?.upstream) &&
    Array.isArray(spec?.exemptUids) &&
    ["leave", "reject", "proxy"].includes(spec.containers);
  return good ? spec : null;
}
