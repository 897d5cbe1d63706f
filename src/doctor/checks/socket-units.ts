import { isTrusted } from "../trusted.ts";
import { type Check, look } from "../types.ts";

export const socketUnits: Check = {
  id: "socket-units",
  title: "services of users whose TCP socket systemd opened as root",
  level: "warning",
  why: "the kernel counts such a socket as root's: a process that holds it can connect it anew, and reach the instance role",
  remedy: "let the service bind its port itself, with AmbientCapabilities=CAP_NET_BIND_SERVICE",
  command: "systemctl cat UNIT",
  explain: [
    "Looks for socket units with a TCP ListenStream= whose service has User= of an account that is neither root nor exempt. connect(2) with AF_UNSPEC resets a listening socket, and the connection that follows has the uid of the socket's maker (docs/threat-model.md, What remains).",
  ],
  run: (inputs) =>
    look(inputs.units, (all) =>
      all.flatMap(({ name, streams, triggers }) => {
        const user = all.find((one) => one.name === triggers)?.user ?? "";
        if (streams.length === 0 || user === "" || user === "0" || isTrusted(inputs, user)) return [];
        return [
          { what: `${name} listens at ${streams.join(", ")} as root for ${triggers}, which runs as ${user}` },
        ];
      }),
    ),
};
