import { parseDocument } from "yaml";
import { SCHEMA_LINE } from "../config/known-keys.ts";
import { parseConfig } from "../config/load.ts";
import { type ConfigOverrides, givenOverrides } from "../config/overrides.ts";
import type { Platform } from "../config/platforms.ts";
import type { Config } from "../config/schema.ts";
import { isServicePort, isServiceState } from "../config/service-values.ts";
import { ImdsProxyError } from "../errors.ts";
import { sameEndpoint } from "../firewall/addresses.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import { CONFIG } from "./paths.ts";

/** Computes the configuration to install. Pure. */

/** What it is computed from. */
export interface ConfigurationSource {
  /** What is installed now; null where nothing is. */
  readonly installed: string | null;
  /** The file given to setup, and what to call it in errors; null where none was. */
  readonly given: { readonly path: string; readonly text: string } | null;
  /** Flags given to setup: they are written into the file. */
  readonly overrides: ConfigOverrides;
  /** The platform of `--platform`, detected for `auto`; default: the file's own value stays. */
  readonly platform?: Platform;
  /** Users who become exempt besides those of the file. */
  readonly exempt?: readonly string[];
  /** Where the installed rules send users now; null where none are remembered. */
  readonly lastListen?: Endpoint | null;
}

/** The default of `listen` up to version 0.1. */
const FORMER_DEFAULT: Endpoint = { address: "127.0.0.1", port: 988 };

const HEADER = `${SCHEMA_LINE}
# imdsproxy's configuration. \`imdsproxy config schema\` describes every key, \`imdsproxy config check\` checks the file.
`;

/**
 * The text to install, and the configuration that it means. The text is the given file, else the installed one, else an empty
 * one, with the flags written into it, and the port where the node uses that of a former default. Comments and order are kept.
 *
 * @throws ImdsProxyError `config` where it is wrong; `usage` where a new installation would give a role to nobody.
 */
export function wantedConfiguration(source: ConfigurationSource): { text: string; config: Config } {
  const path = source.given?.path ?? CONFIG;
  const base = source.given?.text ?? source.installed ?? HEADER;
  // The text is parsed before the flags are written into it, so that an error names the line of the operator's own file.
  const given = parseConfig(base, path, source.overrides);
  const keys: { readonly path: readonly string[]; readonly value: unknown }[] = [
    ...givenOverrides(withFormerListen(source)),
  ];
  if (source.platform !== undefined && source.platform !== given.platform)
    keys.push({ path: ["platform"], value: source.platform });
  const exempt = (source.exempt ?? []).filter((name) => !given.exempt.includes(name));
  if (exempt.length > 0) keys.push({ path: ["exempt"], value: [...given.exempt, ...exempt] });
  let text = base;
  if (keys.length > 0) {
    const document = parseDocument(base);
    for (const { path, value } of keys) document.setIn(path, value);
    text = document.toString({ lineWidth: 0 });
  }
  const config = parseConfig(text, path);
  if (
    config.config == null &&
    config.role === null &&
    config.rules.every((rule) => rule.role === "none") &&
    source.installed === null
  ) {
    throw new ImdsProxyError(
      "usage",
      "setup: no role is configured, so every user would be refused",
      "name the role with --role-arn ARN, or a configuration with --config FILE",
    );
  }
  if (!isServiceState(config.stateDirectory)) {
    throw new ImdsProxyError(
      "config",
      `${path}: stateDirectory is ${config.stateDirectory}: the service can write only to a directory in /var/lib`,
      "such as /var/lib/imdsproxy, the default",
    );
  }
  if (!isServicePort(config.listen.port)) {
    throw new ImdsProxyError(
      "config",
      `${path}: listen has port ${config.listen.port}, which any user could take while the proxy is away`,
      "a port below 1024, such as the default 254",
    );
  }
  return { text, config };
}

/**
 * The flags. Where the installed file has no `listen` and the node's rules lead to its former default, that default is added to
 * them: an upgrade alone must not move the port.
 */
function withFormerListen({ installed, given, overrides, lastListen }: ConfigurationSource): ConfigOverrides {
  const runsOnIt =
    lastListen !== undefined && lastListen !== null && sameEndpoint(lastListen, FORMER_DEFAULT);
  if (!runsOnIt || installed === null || given !== null || overrides.listen !== undefined) return overrides;
  if (parseDocument(installed).has("listen")) return overrides;
  return { ...overrides, listen: endpointText(FORMER_DEFAULT) };
}

/** Whether the text sets the key `platform` itself. */
export const namesPlatform = (text: string | null): boolean =>
  text !== null && parseDocument(text).has("platform");

/** The same configuration without a metrics listener: two proxies cannot share its port during an upgrade. */
export function withoutMetrics(text: string): string {
  const document = parseDocument(text);
  document.set("metrics", null);
  return document.toString({ lineWidth: 0 });
}
