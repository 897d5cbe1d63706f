import type { Socket } from "bun";

/**
 * The least that a server by Bun can do with a request: it finds the end of the head and the path, and writes bytes that are ready. It
 * identifies nobody, checks nothing and limits nobody.
 *
 * @param bodies the body for each path; any other path is 404.
 * @returns to be called with what a socket received, which is taken to be one head.
 */
export function leastAnswers(
  bodies: Readonly<Record<string, string>>,
): (socket: Pick<Socket<unknown>, "write" | "end">, bytes: Buffer) => void {
  const answerOf = (status: string, body: string, connection: string): Buffer =>
    Buffer.from(
      `HTTP/1.1 ${status}\r\nServer: hello\r\nDate: ${new Date().toUTCString()}\r\nContent-Type: text/plain\r\n` +
        `Content-Length: ${body.length}\r\nConnection: ${connection}\r\n\r\n${body}`,
      "latin1",
    );
  const answers = new Map(
    Object.entries(bodies).map(([path, body]) => [
      path,
      { kept: answerOf("200 OK", body, "keep-alive"), last: answerOf("200 OK", body, "close") },
    ]),
  );
  const absent = answerOf("404 Not Found", "", "close");
  return (socket, bytes) => {
    const head = bytes.toString("latin1");
    if (!head.endsWith("\r\n\r\n")) return;
    const path = head.slice(head.indexOf(" ") + 1, head.indexOf(" HTTP/"));
    const isLast = head.includes("Connection: close");
    const answer = answers.get(path);
    socket.write(answer === undefined ? absent : isLast ? answer.last : answer.kept);
    if (isLast || answer === undefined) socket.end();
  };
}
