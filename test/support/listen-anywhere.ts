/**
 * Listens on a port of 127.0.0.1 that nobody has. Between looking for one and taking it somebody else can take it, so that is
 * tried again.
 *
 * @param listen takes the port, or throws what `Server.listen` or `Listener` throws where it is taken.
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
      if (!["port-taken", "EADDRINUSE"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    }
  }
}
