import { endpointText } from "../../identity/endpoint.ts";
import { type Check, type Found, look } from "../types.ts";

/** The kernel's default of net.ipv4.ip_unprivileged_port_start. */
const DEFAULT = 1024;

export const unprivilegedPorts: Check = {
  id: "unprivileged-ports",
  title: "ports below 1024 that every user may bind",
  level: "warning",
  why: "a user who takes the proxy's port while it is down keeps it from starting, but can answer nobody",
  remedy: "set net.ipv4.ip_unprivileged_port_start to 1024, here and in /etc/sysctl.d",
  command: "sysctl -w net.ipv4.ip_unprivileged_port_start=1024",
  explain: [
    "Reads net.ipv4.ip_unprivileged_port_start. The rules drop every packet that a user's socket sends from the proxy's port, so nobody can stand in for the proxy; the port can still be taken from it.",
  ],
  run: ({ port }) =>
    look(port, ({ listen, facts: { unprivilegedFrom } }): readonly Found[] => {
      if (listen.port >= unprivilegedFrom)
        return [
          {
            what: `every user may bind port ${listen.port} of ${endpointText(listen)}: net.ipv4.ip_unprivileged_port_start is ${unprivilegedFrom}`,
          },
        ];
      return unprivilegedFrom >= DEFAULT
        ? []
        : [
            {
              what: `every user may bind ports from ${unprivilegedFrom} on (net.ipv4.ip_unprivileged_port_start); the proxy's, ${listen.port}, is below that`,
            },
          ];
    }),
};
