import { readFileSync } from "node:fs";

/**
 * An S3 with one object, as a program on a booted machine: `bun s3-object.ts DIRECTORY` serves DIRECTORY/object with the status in
 * DIRECTORY/status at 127.0.0.1:9000, and heeds If-None-Match.
 */

const directory = process.argv[2] ?? "";
const read = (name: string) => readFileSync(`${directory}/${name}`);

Bun.serve({
  hostname: "127.0.0.1",
  port: 9_000,
  fetch(request) {
    const body = read("object");
    const ETag = `"${Bun.hash(body)}"`;
    const wanted = Number(read("status").toString());
    const status = wanted === 200 && request.headers.get("if-none-match") === ETag ? 304 : wanted;
    const fault = "<Error><Code>Fault</Code></Error>";
    return new Response(status === 304 ? null : status === 200 ? body : fault, {
      status,
      headers: { ETag },
    });
  },
});
