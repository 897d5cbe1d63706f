import { closeSync, type Stats } from "node:fs";
import { posix } from "node:path";
import { beginningOf, mayUse, walkTo } from "../../platform/careful-path.ts";
import { mountsHere, remoteAt } from "../../platform/mounts.ts";
import type { UsableFile } from "../types.ts";
import type { FilesAnswer, FilesRequest } from "./requests.ts";
import { hasSecret } from "./secrets.ts";

/** Looks at files as the user of this process, who is ordinary. An edge: runs in a child process that can be killed. */

const MOST_BYTES = 64 * 1024;

/** Files and directories are read, sockets connected to. A pipe that somebody made under such a name is nothing. */
const isUsable = (stat: Stats, use: "read" | "write"): boolean =>
  stat.isFile() || (use === "read" ? stat.isDirectory() : stat.isSocket());

/** @param networkHomes whether network file systems are entered. */
export function lookAtFiles({ base, of, files }: FilesRequest, networkHomes: boolean): FilesAnswer {
  const remote = networkHomes ? () => null : remoteAt(mountsHere());
  const whose = of === null ? "" : ` of ${of}`;
  const found: UsableFile[] = [];
  const gaps = new Set<string>();
  for (const { path, use, what, onlyWithSecrets } of files) {
    const whole = posix.join(base, path);
    const place = walkTo(whole, remote);
    switch (place.kind) {
      case "absent":
      case "closed":
        break;
      case "link":
        gaps.add(`${place.at}${whose} is a link, which is not followed`);
        break;
      case "mount":
        gaps.add(`${place.at}${whose} is on ${place.type}: --network-homes looks there as well`);
        break;
      case "failed":
        gaps.add(`${place.at}${whose} cannot be looked at (errno ${place.errno})`);
        break;
      case "there":
        try {
          if (!isUsable(place.stat, use)) break;
          // What users can do with their own files is no finding.
          if (place.stat.uid === process.getuid?.() || !mayUse(place.descriptor, use)) break;
          if (onlyWithSecrets === true && !hasSecret(beginningOf(place.descriptor, MOST_BYTES))) break;
          found.push({ path: whole, of, use, what });
        } finally {
          closeSync(place.descriptor);
        }
    }
  }
  return { files: found, gaps: [...gaps] };
}
