import { CLOSED_TABLE } from "./closed-state.ts";
import { Rtnetlink } from "./wall/kernel.ts";
import { isClosedRule } from "./wall/own-rules.ts";
import { planClosedEnd } from "./wall/plan.ts";

/** The edge to the closed state of this node (closed-state.ts): whether it is there, and its end. By netlink. */

function withKernel<T>(work: (kernel: Rtnetlink) => T): T {
  const kernel = new Rtnetlink();
  try {
    return work(kernel);
  } finally {
    kernel.close();
  }
}

/** Whether users are kept from the metadata service by the closed state. */
export const isClosed = (): boolean => withKernel((kernel) => kernel.read([]).rules.some(isClosedRule));

/** Takes the closed state away; safe to repeat. The table `local` stays where it is: at preference 0. */
export const endClosedState = (): void =>
  withKernel((kernel) => kernel.write(planClosedEnd(kernel.read([CLOSED_TABLE]))));
