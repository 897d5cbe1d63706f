import { defineCommand } from "citty";
import { ImdsProxyError } from "../errors.ts";
import { completionScript, SHELLS } from "./completion-scripts.ts";
import { describeCommand } from "./describe.ts";
import { print } from "./output.ts";

export default defineCommand({
  meta: { name: "completion", description: "Print a script that completes commands and flags in a shell" },
  args: {
    shell: { type: "positional", description: `The shell: ${SHELLS.join(", ")}`, required: true },
  },
  async run({ args }) {
    const shell = SHELLS.find((one) => one === args.shell);
    if (shell === undefined) {
      throw new ImdsProxyError(
        "usage",
        `completion: ${JSON.stringify(args.shell)} is no shell that is known`,
        `one of ${SHELLS.join(", ")}`,
      );
    }
    // Loaded here: it has this command in it.
    const { root } = await import("./root.ts");
    print(completionScript(shell, await describeCommand(root)));
  },
});
