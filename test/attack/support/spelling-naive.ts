/**
 * Forwarders as others have built them, to show that the attacks are some: against these they succeed. Each answers what
 * it knows itself, refuses what it holds to be secret, and passes the rest on as it came.
 */
import { readRequest, type WireRequest } from "../../../src/demo/imds/wire.ts";
import type { Endpoint } from "../../../src/identity/endpoint.ts";

/** What a forwarder does with a request: whether it goes on to the upstream. */
export type Filter = (request: WireRequest) => boolean;

/** Answers two exact paths itself and passes on all others: the proxy of the documentation that this project began from. */
export const twoExactPaths: Filter = ({ target }) =>
  target !== "/latest/meta-data/iam/security-credentials/" &&
  target !== "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole";

const SECRET =
  /security-credentials|identity-credentials|user-data|instance-identity\/(?!document)|managed-ssh-keys|\/iam/;

/** Refuses what looks like a secret's path as it was sent (lyft/metadataproxy matches the raw path, then normalises it). */
export const rawDenyList: Filter = ({ target }) => !SECRET.test(target);

/** Decodes once, takes slashes and dot segments together, and refuses what then looks like a secret's path. */
export const cleanedDenyList: Filter = ({ target }) => {
  let path = target.replace(/[?#].*$/s, "");
  try {
    path = decodeURIComponent(path);
  } catch {
    // As it is.
  }
  const kept: string[] = [];
  for (const segment of path.split("/")) {
    if (segment === "..") kept.pop();
    else if (segment !== "" && segment !== ".") kept.push(segment);
  }
  return !SECRET.test(`/${kept.join("/")}`);
};

/** Passes on only what begins like an allowed category, as it was sent. */
export const prefixAllowList: Filter = ({ target }) =>
  /^\/[^/]+\/(meta-data\/(placement|instance-id|tags|public-keys)|dynamic\/instance-identity\/document)/.test(
    target,
  );

interface Connection {
  unread: string;
  /** Answers go back in the order of the requests. */
  turn: Promise<unknown>;
}

/** Serves in front of an upstream, on a free port of 127.0.0.1. */
export function startForwarder(upstream: Endpoint, passes: Filter): { endpoint: Endpoint; stop(): void } {
  const listener = Bun.listen<Connection>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(socket) {
        socket.data = { unread: "", turn: Promise.resolve() };
      },
      data(socket, bytes) {
        const connection = socket.data;
        connection.unread += bytes.toString("latin1");
        for (;;) {
          const found = readRequest(connection.unread);
          if (found.kind === "incomplete") return;
          if (found.kind === "malformed") {
            socket.end("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            return;
          }
          connection.unread = found.rest;
          connection.turn = connection.turn.then(async () => {
            socket.write(
              passes(found.request)
                ? await forward(upstream, found.request)
                : "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            );
          });
        }
      },
      error(socket) {
        socket.terminate();
      },
    },
  });
  return { endpoint: { address: "127.0.0.1", port: listener.port }, stop: () => listener.stop(true) };
}

/** The request as it came, and the answer as it came. */
function forward(upstream: Endpoint, request: WireRequest): Promise<Buffer> {
  const headers = request.headers.filter(
    ([name]) => !/^(connection|transfer-encoding|content-length|expect)$/i.test(name.trim()),
  );
  const lines = [
    `${request.method} ${request.target} HTTP/1.1`,
    ...headers.map(([name, value]) => `${name}: ${value}`),
    `Content-Length: ${request.body.length}`,
    "Connection: close",
  ];
  return new Promise((resolve) => {
    const parts: Buffer[] = [];
    const done = () => resolve(Buffer.concat(parts));
    Bun.connect({
      hostname: upstream.address,
      port: upstream.port,
      socket: {
        open(socket) {
          socket.write(Buffer.from(`${lines.join("\r\n")}\r\n\r\n${request.body}`, "latin1"));
        },
        data(_, bytes) {
          parts.push(Buffer.from(bytes));
        },
        close: done,
        error: done,
      },
    }).catch(done);
  });
}
