import type { Check } from "../types.ts";

export const configuration: Check = {
  id: "configuration",
  title: "a configuration that cannot be read",
  level: "warning",
  why: "the proxy does not start with it, and doctor cannot tell what should be there",
  remedy: "mend what the finding says",
  command: "imdsproxy config check",
  explain: ["Reads the configuration (--config FILE, else /etc/imdsproxy/config.yaml) as the proxy does."],
  run: ({ config }) => (config.kind === "known" ? [] : [{ what: config.why, source: config.source }]),
};
