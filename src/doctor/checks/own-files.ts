import { type Check, look } from "../types.ts";

export const ownFiles: Check = {
  id: "own-files",
  title: "files of imdsproxy's own that others could change",
  level: "open",
  why: "root runs them, or takes the rules of the node from them",
  remedy: "make them root's again",
  command: "chown root FILE; chmod go-w FILE",
  explain: [
    "Looks at the executable, the configuration, the units and root's state, at what they link to, and at each directory above them: root must own them, and neither group nor others may write.",
  ],
  run: ({ ownFiles }) => look(ownFiles, (files) => files.map((what) => ({ what }))),
};
