import { connect } from "node:net";

/** An answer as it came over the wire. */
export interface RawAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
}

/** Sends one request, byte for byte as given, on a connection of its own; rejects where no answer comes. */
export function rawHttp(
  to: { address: string; port: number },
  requestLine: string,
  headers: Readonly<Record<string, string>> = {},
  body = "",
): Promise<RawAnswer> {
  const lines = Object.entries({ ...headers, Connection: "close" }).map(
    ([name, value]) => `${name}: ${value}`,
  );
  return new Promise((resolve, reject) => {
    const socket = connect(to.port, to.address);
    const chunks: Buffer[] = [];
    socket.setTimeout(10_000, () => socket.destroy(new Error("no answer in 10 s")));
    socket.on("connect", () =>
      socket.write(Buffer.from(`${[requestLine, ...lines].join("\r\n")}\r\n\r\n${body}`, "latin1")),
    );
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    socket.on("error", reject);
    socket.on("close", () => {
      const text = Buffer.concat(chunks).toString("latin1");
      const end = text.indexOf("\r\n\r\n");
      if (end < 0) return reject(new Error(`no answer, but ${JSON.stringify(text)}`));
      const [statusLine = "", ...rest] = text.slice(0, end).split("\r\n");
      const answered = new Headers();
      for (const line of rest) {
        const colon = line.indexOf(":");
        answered.append(line.slice(0, colon), line.slice(colon + 1).trim());
      }
      resolve({ status: Number(statusLine.split(" ")[1]), headers: answered, body: text.slice(end + 4) });
    });
  });
}
