import { defineCommand } from "citty";
import { askIdentity, askUrl } from "../demo/ask.ts";
import { jsonLine } from "./terminal.ts";

export default defineCommand({
  meta: {
    name: "demo-ask",
    description: "What a user of the simulated node does; the demo starts it",
    hidden: true,
  },
  args: {
    url: { type: "string", description: "Ask this address", valueHint: "URL" },
    region: { type: "string", description: "Ask STS who this is", valueHint: "REGION" },
    "sts-endpoint": { type: "string", description: "Where STS is", valueHint: "URL" },
  },
  async run({ args }) {
    const answer =
      args.url === undefined
        ? await askIdentity(args.region ?? "", args["sts-endpoint"] ?? "")
        : await askUrl(args.url);
    console.log(jsonLine(answer));
  },
});
