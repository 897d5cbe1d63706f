/** What the service can have of values that are valid for a proxy started by hand. Pure. */

/** A directory in /var/lib: systemd makes it for the service, which can write nowhere else (StateDirectory= in systemd.exec(5)). */
export const isServiceState = (path: string): boolean =>
  /^\/var\/lib\/[A-Za-z0-9_-][A-Za-z0-9_.-]*$/.test(path);

/** A port that only root can bind, so that no user takes it while the proxy is away. */
export const isServicePort = (port: number): boolean => port < 1024;
