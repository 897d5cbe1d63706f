import { type Check, look } from "../types.ts";

export const processEnvironment: Check = {
  id: "process-environment",
  title: "AWS credentials in the environments of services that do not run as root",
  level: "warning",
  why: "whoever takes over that account, or has it run a program, reads them; every program that the service starts inherits them",
  remedy: "let the service have its credentials by the metadata service, as its own account",
  command: "systemctl status PID; systemctl show -p Environment,EnvironmentFiles UNIT",
  explain: [
    "Reads the environments of root's processes and of system services for the names of AWS's variables. Of root's own processes only the files that they name are looked at, under `system-files`: nobody else can read the environment of a process of root's. Values are never kept.",
  ],
  run: ({ processes }) =>
    look(processes, (all) =>
      all
        .filter(({ uid, secretVariables }) => uid !== 0 && secretVariables.length > 0)
        .map(({ pid, uid, name, secretVariables }) => ({
          what: `process ${pid} (${name}, uid ${uid}) of a service has ${secretVariables.join(", ")} in its environment`,
        })),
    ),
};
