import { ImdsProxyError } from "../../src/errors.ts";

/**
 * Listens on a port of 127.0.0.1 that nobody has. Between looking for one and taking it somebody else can take it, so that is
 * tried again.
 *
 * @param listen takes the port, or throws what `Server.listen` throws where it is taken.
 * @returns the port.
 */
export function listenAnywhere(listen: (port: number) => void): number {
  for (;;) {
    const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const { port } = probe;
    probe.stop(true);
    try {
      listen(port);
      return port;
    } catch (error) {
      if (!(error instanceof ImdsProxyError) || error.code !== "port-taken") throw error;
    }
  }
}
