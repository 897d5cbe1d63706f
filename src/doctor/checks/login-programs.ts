import { type Check, look } from "../types.ts";

export const loginPrograms: Check = {
  id: "login-programs",
  title: "login programs that connect for users as root, or need the metadata service",
  level: "warning",
  why: "a connection that root opens for a user reaches the instance role",
  remedy: "do what the finding says",
  command: "systemctl status dropbear ssh",
  explain: [
    "The same look as `setup` takes: Dropbear, whose forwarding runs as root, and EC2 Instance Connect.",
  ],
  run: ({ loginPrograms }) => look(loginPrograms, (all) => all.map((what) => ({ what }))),
};
