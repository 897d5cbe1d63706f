import { type Check, look } from "../types.ts";

export const processArguments: Check = {
  id: "process-arguments",
  title: "AWS secrets in the arguments of processes",
  level: "open",
  why: "every user may read the arguments of every process (ps -ef)",
  remedy: "give the program its credentials by a file or by the metadata service",
  command: "systemctl cat UNIT, or who starts the process: ps -o pid,ppid,user,lstart -p PID",
  explain: [
    "Reads /proc/PID/cmdline of every process for AWS secret keys, session tokens, and options and assignments that carry them. Only the pid, the uid and the program's name are shown. A process that does not answer within 3 s is left out and named.",
  ],
  run: ({ processes }) =>
    look(processes, (all) =>
      all
        .filter(({ secretInArguments }) => secretInArguments)
        .map(({ pid, uid, name }) => ({
          what: `the arguments of process ${pid} (${name}, uid ${uid}) hold an AWS secret`,
        })),
    ),
};
