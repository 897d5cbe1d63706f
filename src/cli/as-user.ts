import { defineCommand } from "citty";
import { ImdsProxyError } from "../errors.ts";
import { become, type Credentials } from "./become.ts";
import { run } from "./run.ts";

const IDS = /^(\d{1,10}):(\d{1,10})$/;
/** 4294967295 is (uid_t)-1, which is nobody. */
const MOST_ID = 4_294_967_294;

/** The other end of service/spawn-as.ts, which says why a process becomes a user by itself. */
export default defineCommand({
  meta: {
    name: "as-user",
    description: "Becomes a user, and then runs a command of this program, for the process that started it",
    hidden: true,
  },
  args: {
    ids: { type: "positional", description: "UID:GID, in digits", required: true },
    command: { type: "positional", description: "The command with its arguments, as JSON", required: true },
  },
  async run({ args }) {
    const ids = readIds(args.ids);
    const argv = readCommand(args.command);
    if (ids === null || argv === null) {
      throw new ImdsProxyError(
        "usage",
        "as-user: not UID:GID in digits and a list of words in JSON",
        "other commands of imdsproxy start it; use sudo -u USER imdsproxy COMMAND",
      );
    }
    become(ids);
    await run(argv);
  },
});

function readIds(text: string): Credentials | null {
  const [, uid, gid] = IDS.exec(text) ?? [];
  const ids = { uid: Number(uid), gid: Number(gid) };
  return ids.uid <= MOST_ID && ids.gid <= MOST_ID ? ids : null;
}

function readCommand(text: string): string[] | null {
  try {
    const found: unknown = JSON.parse(text);
    return Array.isArray(found) && found.every((word) => typeof word === "string") ? found : null;
  } catch {
    return null;
  }
}
