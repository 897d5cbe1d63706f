import { defineCommand } from "citty";
import { servePart } from "../demo/part.ts";

export default defineCommand({
  meta: {
    name: "demo-part",
    description: "A stand-in of the simulated node; the demo starts it",
    hidden: true,
  },
  run: () => servePart(),
});
