import { isTrusted } from "../trusted.ts";
import { type Check, look } from "../types.ts";

export const CAPTURE_GROUPS: readonly string[] = ["wireshark", "pcap"];

export const packetCapture: Check = {
  id: "packet-capture",
  title: "users who may capture packets",
  level: "open",
  why: "the metadata service speaks plain HTTP: whoever sees packets reads the credentials of the instance role and of every user",
  remedy: "take the capability from the program, or the user out of the group",
  command: "setcap -r FILE; gpasswd -d USER wireshark",
  explain: [
    `Looks for members of ${CAPTURE_GROUPS.join(" and ")}, and asks getcap(8) for capture programs (dumpcap, tcpdump, tshark, ngrep, tcpflow) that every user may run and that have CAP_NET_RAW or CAP_NET_ADMIN.`,
  ],
  run: (inputs) => [
    ...look(inputs.captures, (all) => all.map((what) => ({ what }))),
    ...look(inputs.groups, (groups) =>
      groups
        .filter(({ group }) => CAPTURE_GROUPS.includes(group))
        .flatMap(({ group, members }) =>
          members
            .filter((member) => !isTrusted(inputs, member))
            .map((member) => ({ what: `${member} is in the group ${group}, which may capture packets` })),
        ),
    ),
  ],
};
