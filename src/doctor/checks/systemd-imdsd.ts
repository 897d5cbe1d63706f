import { type Check, look } from "../types.ts";

export const systemdImdsd: Check = {
  id: "systemd-imdsd",
  title: "systemd-imdsd, which asks the metadata service for others",
  level: "warning",
  why: "it answers local programs from the real metadata service, user data included, by rules of its own; locked, it keeps the proxy out",
  remedy: "switch it off where nothing needs it, or see what polkit lets users ask",
  command: "systemctl mask --now systemd-imdsd.socket",
  explain: [
    "Looks for the units and the socket of systemd-imdsd (systemd 261). Its account is exempt where `platform` expects it.",
  ],
  run: ({ imdsd }) => look(imdsd, (traces) => traces.map((what) => ({ what }))),
};
