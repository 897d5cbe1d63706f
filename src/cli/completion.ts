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
        `completion: there is no script for the shell ${JSON.stringify(args.shell)}`,
        `one of ${SHELLS.join(", ")}`,
      );
    }
    // Imported here, because root.ts imports this file.
    const { root } = await import("./root.ts");
    print(completionScript(shell, await describeCommand(root)));
  },
});
