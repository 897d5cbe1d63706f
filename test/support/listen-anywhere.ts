/**
 * A port of 127.0.0.1 that nobody has at the moment, below those that the kernel gives to connections by itself (from 32768 by default,
 * net.ipv4.ip_local_port_range): no connection of another program's can take it in the meantime.
 */
export function freePort(): number {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    try {
      Bun.listen({ hostname: "127.0.0.1", port, socket: { data() {} } }).stop(true);
      return port;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
    }
  }
}

/**
 * Listens on a port of 127.0.0.1 that nobody has. Between looking for one and taking it another test can take it, so that is
 * tried again.
 *
 * @param listen takes the port, or throws what `Server.listen` or `Listener` throws where it is taken.
 * @returns the port.
 */
export function listenAnywhere(listen: (port: number) => void): number {
  for (;;) {
    const port = freePort();
    try {
      listen(port);
      return port;
    } catch (error) {
      if (!["port-taken", "EADDRINUSE"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    }
  }
}
