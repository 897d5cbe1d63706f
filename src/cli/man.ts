import { defineCommand } from "citty";
import { configJsonSchema } from "../config/known-keys.ts";
import { ImdsProxyError } from "../errors.ts";
import { date, version } from "../version.ts";
import { describeCommand } from "./describe.ts";
import type { Schema } from "./man-keys.ts";
import { PAGES, type PageName } from "./man-pages.ts";

const names = Object.keys(PAGES) as PageName[];

/** The text of a page, in roff. */
export async function manPage(name: PageName): Promise<string> {
  // Imported here, because root.ts imports this file.
  const { root } = await import("./root.ts");
  return PAGES[name]({
    program: await describeCommand(root),
    schema: configJsonSchema() as Schema,
    version,
    date,
  });
}

export default defineCommand({
  meta: { name: "man", description: "Print a man page, to be read by: imdsproxy man | man -l -" },
  args: {
    page: { type: "positional", description: `The page: ${names.join(" (default) or ")}`, required: false },
  },
  async run({ args }) {
    const name = names.find((one) => one === (args.page ?? names[0]));
    if (name === undefined) {
      throw new ImdsProxyError(
        "usage",
        `man: there is no page ${JSON.stringify(args.page)}`,
        `one of ${names.join(", ")}`,
      );
    }
    console.log((await manPage(name)).trimEnd());
  },
});
