import { ImdsProxyError } from "../../src/errors.ts";

/** The error of ours that `run` throws. @throws any other error, and one where nothing is thrown. */
export function failure(run: () => unknown): ImdsProxyError {
  try {
    run();
  } catch (error) {
    if (error instanceof ImdsProxyError) return error;
    throw error;
  }
  throw new Error("it did not fail");
}
