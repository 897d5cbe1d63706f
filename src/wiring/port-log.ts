import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import { firstUnprivilegedPort } from "../platform/unprivileged-port.ts";
import type { Log } from "../telemetry/log.ts";

/** Warns in the log where users may bind the port that the proxy listens on. */
export function warnOfPort(listen: Endpoint, log: Pick<Log, "warn">): void {
  if (listen.port > 1023) {
    log.warn(
      "the port is above 1023: while the proxy is away, any user can take it and answer in its place",
      {
        listen: endpointText(listen),
        remedy: "choose a listen port below 1024, such as 127.0.0.1:254",
      },
    );
  }
  const unprivilegedFrom = firstUnprivilegedPort();
  if (listen.port <= 1023 && listen.port >= unprivilegedFrom) {
    log.warn(
      "every user of this node may bind the port: while the proxy is away, one can keep it from starting",
      {
        listen: endpointText(listen),
        setting: `net.ipv4.ip_unprivileged_port_start is ${unprivilegedFrom}`,
        remedy: "sysctl -w net.ipv4.ip_unprivileged_port_start=1024, and the same in /etc/sysctl.d",
      },
    );
  }
}
