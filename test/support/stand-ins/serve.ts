import { partOf, servePart } from "../../../src/demo/part.ts";
import { type FaultyImdsOptions, startFaultyImds } from "./imds.ts";
import { type FaultyStsOptions, startFaultySts } from "./sts.ts";

/** Serves one of the stand-ins that misbehave, as `imdsproxy demo-part` serves those of the demo. */
await servePart({
  imds: (options) => partOf("IMDS", startFaultyImds(options as FaultyImdsOptions)),
  sts: async (options) => partOf("STS", await startFaultySts(options as FaultyStsOptions)),
});
