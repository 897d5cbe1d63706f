import { type Check, look, type Outcome } from "../types.ts";

export const kernelFeatures: Check = {
  id: "kernel-features",
  title: "what the kernel lacks",
  level: "warning",
  why: "the proxy does not start, or runs without a limit that keeps one user from starving the others",
  remedy: "load the module that is named, or use a kernel that has it",
  command: "modprobe -a tcp_diag nf_conntrack_netlink nf_tables; imdsproxy iptables status",
  explain: [
    "Asks the kernel for a socket and for a tracked connection as the proxy does, and compares the table of limits. `second-wall` looks at routing rules.",
  ],
  run: ({ kernel, firewall }): readonly Outcome[] => [
    ...look(kernel, ({ release, socketLookup, connectionTracking }) => [
      ...(socketLookup === null
        ? []
        : [
            {
              what: `linux ${release} cannot say who owns a socket (${socketLookup})`,
              command: "modprobe tcp_diag",
            },
          ]),
      ...(connectionTracking === null
        ? []
        : [
            {
              what: `connection tracking of linux ${release} cannot be asked (${connectionTracking})`,
              command: "modprobe nf_conntrack_netlink",
            },
          ]),
    ]),
    ...look(firewall, ({ limitNotes }) =>
      limitNotes.map((note) => ({ what: `limits of connections: ${note}` })),
    ),
  ],
};
