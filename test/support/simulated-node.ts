import { join } from "node:path";
import type { ImdsLogEntry } from "../../src/demo/imds/server.ts";
import * as demo from "../../src/demo/node.ts";
import type { StsLogEntry } from "../../src/demo/sts/server.ts";
import type { FaultyImdsMode } from "./stand-ins/imds.ts";
import type { FaultyStsMode } from "./stand-ins/sts.ts";

export type { Who } from "../../src/demo/node.ts";

export interface NodeOptions extends Omit<demo.NodeOptions, "imdsMode" | "stsMode" | "parts"> {
  /** How the metadata service behaves at first. */
  readonly imdsMode?: Partial<FaultyImdsMode>;
  /** How STS behaves at first. */
  readonly stsMode?: Partial<FaultyStsMode>;
}

type ImdsControls = demo.Controls<ImdsLogEntry, FaultyImdsMode>;

/** A simulated node whose stand-ins fail, are late or give secrets away as a test orders. */
export interface SimulatedNode extends Omit<demo.SimulatedNode, "imds" | "agent" | "sts"> {
  readonly imds: ImdsControls;
  readonly agent: ImdsControls | null;
  readonly sts: demo.Controls<StsLogEntry, FaultyStsMode>;
}

const PARTS = [process.execPath, join(import.meta.dir, "stand-ins/serve.ts")];

/** The demo's node, with the stand-ins of test/support/stand-ins. */
export const startNode = (options: NodeOptions = {}): Promise<SimulatedNode> =>
  demo.startNode({ ...options, parts: PARTS });
