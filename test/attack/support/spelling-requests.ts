import fc from "fast-check";
import { PATH_FAMILIES, type Pick, secretPaths, utf8, versioned } from "./spelling-paths.ts";

/**
 * Requests for what a user must not have, in every spelling that we know to have fooled a server, and at random between
 * them. They are bytes, as Latin-1 text, and go onto the wire as they are.
 */

/** One attack. */
export interface Attack {
  /** What it tries, for reports. */
  readonly family: string;
  /** What is sent, in this order, with a pause between the parts. */
  readonly parts: readonly string[];
  /** Whether it is one request, whole in every reading, after which the connection goes on if the server lets it. */
  readonly whole: boolean;
}

/** Stands in every header and body that we send: nothing of it may ever reach the upstream. */
export const CANARY = "from-alice";

/** Where the sender puts a token of its own, which is good: a refusal must not be for want of one. */
export const TOKEN_PLACE = "@TOKEN@";

const HOST = "Host: 169.254.169.254";
const TAG = `X-Tag: ${CANARY}`;

const request = (line: string, headers: readonly string[] = [HOST, TAG], body = ""): string =>
  `${[line, ...headers].join("\r\n")}\r\n\r\n${body}`;

/** Header lines that some front end takes for the path. */
const PATH_HEADERS = [
  "X-Original-URL",
  "X-Rewrite-URL",
  "X-Original-URI",
  "X-Forwarded-Uri",
  "X-Forwarded-Path",
  "X-Forwarded-Prefix",
  "X-Request-URI",
  "X-Override-URL",
  "X-Envoy-Original-Path",
  "X-Accel-Redirect",
  "X-Sendfile",
  "X-Proxy-URL",
  "X-Waf-Bypass",
  "Referer",
  "Destination",
  "Location",
  "Content-Location",
  "Forwarded",
  "Base-Url",
  "Request-Uri",
  "Uri",
  "Url",
  "Cookie",
  ":path",
  "Path",
];

/** Header lines that change who asks, or for what. */
const ODD_HEADERS = [
  "X-Forwarded-For: 127.0.0.1",
  "x-forwarded-for: 169.254.169.254",
  "X-Forwarded-For:",
  "X_Forwarded_For: 127.0.0.1",
  "X-Forwarded-For : 127.0.0.1",
  "X-Forwarded-Host: 169.254.169.254",
  "X-Forwarded-Host: localhost",
  "X-Forwarded-Server: localhost",
  "X-Forwarded-Proto: https",
  "X-Real-IP: 127.0.0.1",
  "X-Client-IP: 127.0.0.1",
  "True-Client-IP: 127.0.0.1",
  "Forwarded: for=127.0.0.1;host=169.254.169.254",
  "Via: 1.1 localhost",
  "X-HTTP-Method-Override: GET",
  "X-HTTP-Method: GET",
  "X-Method-Override: PUT",
  "Authorization: Basic cm9vdDo=",
  "Proxy-Authorization: Basic cm9vdDo=",
  "Proxy-Connection: keep-alive",
  "Connection: X-Aws-Ec2-Metadata-Token",
  "Connection: Host",
  "Connection: close, Host",
  "Connection: keep-alive, Transfer-Encoding",
  "Connection: Upgrade",
  "Keep-Alive: timeout=0",
  "Range: bytes=0-0",
  "Range: bytes=-1",
  "If-None-Match: *",
  "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
  "If-Match: *",
  "Accept-Encoding: gzip, br, zstd",
  "Accept: */*;q=0",
  "TE: trailers",
  "Trailer: X-Original-URL",
  "Content-Type: application/x-www-form-urlencoded",
  "Content-Encoding: gzip",
  "Max-Forwards: 0",
  "Host: 169.254.169.254",
  "Host: 169.254.0.2:9081",
  "Host:",
  " Host: rebound.example",
  "X-Aws-Ec2-Metadata-Token: x",
  "X-Aws-Ec2-Metadata-Token:",
  "X-Aws-Ec2-Metadata-Token\0: x",
  "X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 60",
  "Metadata-Flavor: Google",
  "Metadata: true",
  "Upgrade-Insecure-Requests: 1",
  "User-Agent: () { :;}; /bin/true",
  "Expect: 100-continue",
  "Expect: 200-ok",
];

const METHODS = [
  "GET",
  "HEAD",
  "POST",
  "PUT",
  "DELETE",
  "PATCH",
  "OPTIONS",
  "TRACE",
  "TRACK",
  "DEBUG",
  "PROPFIND",
  "SEARCH",
  "COPY",
  "MOVE",
  "PURGE",
  "LINK",
  "BREW",
  "CONNECT",
  "PRI",
  "QUERY",
  "get",
  "Get",
  "GET\t",
  "G\0ET",
  "GET,PUT",
  "G%45T",
  "X",
  "",
  " GET",
  "GET ",
  "\r\nGET",
  "GETGETGETGETGETGETGETGETGETGETGETGET",
  utf8("\uff27\uff25\uff34"),
];

const PROTOCOLS = [
  " HTTP/1.1",
  " HTTP/1.0",
  " HTTP/0.9",
  " HTTP/2",
  " HTTP/2.0",
  " HTTP/3",
  " HTTP/1.2",
  " HTTP/1.",
  " HTTP/01.1",
  " HTTP/1.01",
  " HTTP/11",
  " HTTP/1.1 ",
  " HTTP/1.1\t",
  " HTTP/1.1\0",
  " HTTP/1.1 HTTP/1.1",
  " http/1.1",
  " HTTPS/1.1",
  " RTSP/1.0",
  "\tHTTP/1.1",
  "  HTTP/1.1",
  "\x0bHTTP/1.1",
  "\x0cHTTP/1.1",
  "\xa0HTTP/1.1",
  " /x HTTP/1.1",
  "",
  " ",
];

/** What may stand in front of a path, or around it, in a target. */
const TARGETS: readonly ((path: string) => string)[] = [
  (path) => `http://169.254.169.254${path}`,
  (path) => `http://169.254.169.254:80${path}`,
  (path) => `HTTP://169.254.169.254${path}`,
  (path) => `http://instance-data${path}`,
  (path) => `http://[fd00:ec2::254]${path}`,
  (path) => `http://[::ffff:169.254.169.254]${path}`,
  (path) => `http://169.254.0.2:9081${path}`,
  (path) => `http://2852039166${path}`,
  (path) => `http://0xa9fea9fe${path}`,
  (path) => `http://0251.0376.0251.0376${path}`,
  (path) => `http://169.254.43518${path}`,
  (path) => `http://localhost:254${path}`,
  (path) => `http://x@169.254.169.254${path}`,
  (path) => `http://169.254.169.254@rebound.example${path}`,
  (path) => `http://169.254.169.254\\@rebound.example${path}`,
  (path) => `http://169.254.169.254#@rebound.example${path}`,
  (path) => `http://169.254.169.254?${path}`,
  (path) => `http://169.254.169.254/latest/meta-data/instance-id?${path}`,
  (path) => `http://169.254.169.254/latest/meta-data/placement/..${path}`,
  (path) => `http://169.254.169.254.${path}`,
  (path) => `http://rebound.example${path}`,
  (path) => `http://${path}`,
  (path) => `http:${path}`,
  (path) => `http:/${path}`,
  (path) => `https://169.254.169.254${path}`,
  (path) => `file://${path}`,
  (path) => `gopher://169.254.169.254:80/_GET%20${path}`,
  (path) => `//169.254.169.254${path}`,
  (path) => `//${path}`,
  (path) => `\\\\169.254.169.254${path}`,
  (path) => `/http://169.254.169.254${path}`,
  (path) => `/http:/169.254.169.254${path}`,
  (path) => `@169.254.169.254${path}`,
  (path) => `:80${path}`,
  (path) => `169.254.169.254:80${path}`,
  (path) => `*${path}`,
  (path) => path.slice(1),
  (path) => `.${path}`,
  (path) => `?${path}`,
  (path) => `#${path}`,
  (path) => `;${path}`,
  (path) => `~${path}`,
  (path) => `"${path}"`,
  (path) => `<${path}>`,
];

const AUTHORITIES: readonly ((path: string) => string)[] = [
  (path) => `169.254.169.254${path}`,
  (path) => `169.254.169.254:80${path}`,
  (path) => `169.254.169.254?${path}`,
  (path) => `169.254.169.254#${path}`,
  (path) => `169.254.169.254/..${path}`,
  (path) => `x@169.254.169.254${path}`,
  (path) => `169.254.169.254:80@rebound.example${path}`,
  (path) => `169.254.169.254, ${path}`,
  (path) => `169.254.169.254\t${path}`,
  (path) => `169.254.169.254\0${path}`,
  (path) => `169.254.169.254\r ${path}`,
  (path) => `http://169.254.169.254${path}`,
  (path) => path,
  () => "169.254.0.2:9081",
  () => "169.254.0.2",
  () => "rebound.example",
  () => "169.254.169.254.",
  () => "169.254.169.254:254",
  () => "169.254.169.254:65616",
  () => "169.254.169.254:",
  () => "169.254.169.254:80:80",
  () => "[::1]:254",
  () => "[fd00:ec2::254%25lo]",
  () => "localhost",
  () => "0",
  () => "",
  () => "*",
];

const TRANSFER_ENCODINGS = [
  "Transfer-Encoding: chunked",
  "transfer-encoding: CHUNKED",
  "Transfer-Encoding : chunked",
  "Transfer-Encoding:\tchunked",
  "Transfer-Encoding:\x0bchunked",
  "Transfer-Encoding: \xa0chunked",
  " Transfer-Encoding: chunked",
  "X: y\nTransfer-Encoding: chunked",
  "X: y\rTransfer-Encoding: chunked",
  "Transfer-Encoding\n: chunked",
  "Transfer-Encoding:\n chunked",
  "Transfer-Encoding:\r\n chunked",
  "Transfer-Encoding: xchunked",
  "Transfer-Encoding: chunked, identity",
  "Transfer-Encoding: identity, chunked",
  "Transfer-Encoding: gzip, chunked",
  "Transfer-Encoding: chunked;q=1",
  'Transfer-Encoding: "chunked"',
  "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
  "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
  "Transfer-Encoding:",
  "Transfer_Encoding: chunked",
  "Transfer-Encoding\0: chunked",
  "\0Transfer-Encoding: chunked",
  "X-Transfer-Encoding: chunked",
  `${utf8("\uff34")}ransfer-Encoding: chunked`,
];

const LENGTHS: readonly ((length: number) => string)[] = [
  (length) => `Content-Length: ${length}`,
  (length) => `content-length:${length}`,
  (length) => `Content-Length : ${length}`,
  (length) => `Content-Length: +${length}`,
  (length) => `Content-Length: 0${length}`,
  (length) => `Content-Length: 0x${length.toString(16)}`,
  (length) => `Content-Length: ${length}, ${length}`,
  (length) => `Content-Length: ${length}\r\nContent-Length: 0`,
  (length) => `Content-Length: 0\r\nContent-Length: ${length}`,
  (length) => `Content-Length: ${length} 0`,
  (length) => `Content-Length: ${length}\0`,
  (length) => `Content-Length:\x0b${length}`,
  (length) => `Content-Length: \xa0${length}`,
  (length) => `Content-Length: ${length}.0`,
  (length) => `Content-Length: ${length}e0`,
  (length) => `Content-Length: -${length}`,
  (length) => `Content-Length: ${2 ** 32 + length}`,
  (length) => `Content-Length: 18446744073709551616${length}`,
  (length) => `Content-Length:\r\n ${length}`,
  (length) => `Content_Length: ${length}`,
  () => "Content-Length: 0",
  () => "Content-Length:",
  () => "Content-Length: 65536",
  () => "Content-Length: 65537",
  () => "Content-Length: 999999999999999999999",
  (length) =>
    `Content-Length: ${utf8([...String(length)].map((digit) => String.fromCharCode(digit.charCodeAt(0) + 0xfee0)).join(""))}`,
];

/** Bodies in chunks, right and wrong, before what is to be smuggled. */
const CHUNKS: readonly ((smuggled: string) => string)[] = [
  (smuggled) => `0\r\n\r\n${smuggled}`,
  (smuggled) => `0;x=y\r\n\r\n${smuggled}`,
  (smuggled) => `0\n\n${smuggled}`,
  (smuggled) => `0\r\nX-Trailer: y\r\n\r\n${smuggled}`,
  (smuggled) => `00000000000000000000\r\n\r\n${smuggled}`,
  (smuggled) => `-0\r\n\r\n${smuggled}`,
  (smuggled) => `${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`,
  (smuggled) => `${smuggled.length.toString(16)}\n${smuggled}\n0\n\n`,
  (smuggled) => `100000000${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`,
  (smuggled) => `0x${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`,
  (smuggled) => `1;\n${smuggled}\r\nx\r\n0\r\n\r\n`,
  (smuggled) => `2\r\n;a\r\n${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`,
  (smuggled) => `ffffffffffffffff\r\n${smuggled}`,
  (smuggled) => `x\r\n${smuggled}`,
  (smuggled) => smuggled,
];

const HONEST = request("GET /latest/meta-data/instance-id HTTP/1.1");

/** What takes a spelled path and makes bytes of it. */
interface Family {
  readonly whole?: boolean;
  make(context: {
    path: string;
    plain: string;
    pick: Pick;
    bytes: (count: number) => string;
  }): string | readonly string[];
}

const get = (target: string, protocol = " HTTP/1.1"): string => request(`GET ${target}${protocol}`);

const REQUEST_FAMILIES: Readonly<Record<string, Family>> = {
  path: { whole: true, make: ({ path }) => get(path) },
  "path, with a token": {
    whole: true,
    make: ({ path }) =>
      request(`GET ${path} HTTP/1.1`, [HOST, `X-aws-ec2-metadata-token: ${TOKEN_PLACE}`, TAG]),
  },
  "path, HTTP/1.0": { make: ({ path }) => get(path, " HTTP/1.0") },
  "absolute form": { whole: true, make: ({ path, pick }) => get(pick(TARGETS)(path)) },
  Host: {
    whole: true,
    make: ({ path, plain, pick }) =>
      request(`GET ${pick(["/", "/latest/meta-data/instance-id", path, plain])} HTTP/1.1`, [
        `${pick(["Host: ", "host:", "HOST: \t"])}${pick(AUTHORITIES)(path)}`,
        TAG,
      ]),
  },
  "two Hosts": {
    make: ({ path, pick }) =>
      request(
        `GET ${path} HTTP/1.1`,
        pick([
          [HOST, HOST],
          [HOST, "Host: rebound.example"],
          ["Host: rebound.example", HOST],
          [],
          [`${HOST}, x`],
        ]),
      ),
  },
  "a header for the path": {
    whole: true,
    make: ({ path, plain, pick }) =>
      request(
        `GET ${pick(["/", "/latest/meta-data/instance-id", "/latest/meta-data/placement/region", "/x"])} HTTP/1.1`,
        [
          HOST,
          `${pick(PATH_HEADERS)}: ${pick([path, plain, `http://169.254.169.254${plain}`])}`,
          `${pick(PATH_HEADERS)}: ${plain}`,
          TAG,
        ],
      ),
  },
  "odd headers": {
    whole: true,
    make: ({ path, pick }) =>
      request(`GET ${path} HTTP/1.1`, [HOST, pick(ODD_HEADERS), pick(ODD_HEADERS), TAG]),
  },
  methods: { make: ({ path, pick }) => request(`${pick(METHODS)} ${path} HTTP/1.1`) },
  "methods with a body": {
    make: ({ path, plain, pick }) =>
      request(`${pick(METHODS)} ${path} HTTP/1.1`, [HOST, `Content-Length: ${plain.length}`, TAG], plain),
  },
  protocols: { make: ({ path, pick }) => request(`GET ${path}${pick(PROTOCOLS)}`) },
  "HTTP/0.9": {
    make: ({ path, pick }) =>
      `${pick(["GET ", "get ", "GET\t", ""])}${path}${pick(["\r\n", "\n", "\r\n\r\n", "\n\n", "\r", ""])}`,
  },
  "HTTP/2": {
    make: ({ path, pick }) => {
      const frame = (type: number, flags: number, stream: number, payload: string): string =>
        String.fromCharCode(0, payload.length >> 8, payload.length & 0xff, type, flags, 0, 0, 0, stream) +
        payload;
      const literal = (index: number, value: string): string =>
        String.fromCharCode(index, value.length & 0x7f) + value.slice(0, 127);
      // HPACK: :method GET, :scheme http, a literal :path and :authority (RFC 7541, appendix A).
      const headers = `\x82\x86${literal(4, path)}${literal(1, "169.254.169.254")}`;
      const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
      const frames = frame(4, 0, 0, "") + frame(1, 5, 1, headers);
      const upgrade = request(`GET ${pick([path, "/latest/meta-data/instance-id"])} HTTP/1.1`, [
        HOST,
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
      ]);
      return pick([preface + frames, upgrade + preface + frames, frames, preface, HONEST + preface + frames]);
    },
  },
  Upgrade: {
    make: ({ path, plain, pick }) =>
      request(`GET ${pick([path, "/latest/meta-data/instance-id"])} HTTP/1.1`, [
        HOST,
        "Connection: Upgrade",
        `Upgrade: ${pick(["websocket", "h2c", "HTTP/2.0", "TLS/1.0", "tcp", "IRC/6.9"])}`,
        "Sec-WebSocket-Version: 777",
        "Sec-WebSocket-Key: eA==",
      ]) + get(plain),
  },
  CONNECT: {
    make: ({ path, plain, pick }) =>
      request(
        `CONNECT ${pick(["169.254.169.254:80", "169.254.0.2:9081", `169.254.169.254:80${path}`, path, "localhost:80", "/", "*"])} HTTP/1.1`,
      ) + get(plain),
  },
  "CL and TE": {
    make: ({ path, plain, pick }) => {
      const smuggled = get(pick([path, plain]));
      const body = pick(CHUNKS)(smuggled);
      const length = pick(LENGTHS)(pick([body.length, 0, 4, body.length - smuggled.length, 5]));
      const headers = pick([
        [length, pick(TRANSFER_ENCODINGS)],
        [pick(TRANSFER_ENCODINGS), length],
        [pick(TRANSFER_ENCODINGS)],
        [length],
      ]);
      return request(
        `${pick(["GET", "POST", "PUT", "HEAD", "OPTIONS"])} ${pick(["/latest/meta-data/instance-id", "/latest/api/token", "/", path])} HTTP/1.${pick(["1", "0"])}`,
        [HOST, ...headers, pick(["Connection: keep-alive", "Connection: close", TAG])],
        body,
      );
    },
  },
  "a body that is a request": {
    make: ({ path, plain, pick }) => {
      const smuggled = get(pick([path, plain])) + pick(["", HONEST]);
      const claimed = pick([
        smuggled.length,
        0,
        smuggled.length - 1,
        smuggled.length + 1,
        Math.trunc(smuggled.length / 2),
      ]);
      return request(
        `${pick(["GET", "POST", "PUT"])} /latest/meta-data/instance-id HTTP/1.1`,
        [HOST, `Content-Length: ${claimed}`],
        smuggled,
      );
    },
  },
  "an expectation": {
    make: ({ path, plain, pick }) => [
      request(`${pick(["PUT", "POST", "GET"])} ${pick(["/latest/api/token", path])} HTTP/1.1`, [
        HOST,
        `Expect: ${pick(["100-continue", "100-Continue", "x", ""])}`,
        `Content-Length: ${plain.length}`,
      ]),
      get(plain),
    ],
  },
  pipelined: {
    make: ({ path, plain, pick }) => {
      const all = [
        get(path),
        HONEST,
        get(plain),
        request("PUT /latest/api/token HTTP/1.1", [HOST, "X-aws-ec2-metadata-token-ttl-seconds: 60"]),
      ];
      return Array.from({ length: pick([2, 3, 8, 20]) }, () => pick(all)).join("");
    },
  },
  "a prefix for what comes next": {
    make: ({ path, plain, pick }) => [
      `${HONEST}GET ${pick([path, plain])} HTTP/1.1\r\n${HOST}\r\nX: `,
      pick(["y\r\n\r\n", HONEST, `\r\n\r\n${HONEST}`, ""]),
    ],
  },
  "line ends": {
    make: ({ path, pick }) => {
      const end = pick([
        "\n",
        "\r",
        "\r\r\n",
        "\n\r",
        "\r\n ",
        "\x0b",
        "\x0c",
        "\x85",
        utf8("\u2028"),
        "\0\r\n",
        "%0d%0a",
      ]);
      return pick([
        get(path).replaceAll("\r\n", end),
        get(path).replace("\r\n", end),
        `${get(path).slice(0, -2)}${end}`,
        `${end}${get(path)}`,
        `GET /latest/meta-data/instance-id HTTP/1.1${end}GET ${path} HTTP/1.1\r\n${HOST}\r\n\r\n`,
      ]);
    },
  },
  "a response split": {
    make: ({ path, pick }) => {
      const end = pick(["%0d%0a", "%0a", "%0d", "\r\n", "%E5%98%8D%E5%98%8A", "%250d%250a", "%u000d%u000a"]);
      return get(
        `/latest/meta-data/instance-id${pick(["?", "/", "#", " HTTP/1.1"])}${end}${HOST}${end}${end}GET%20${path}`,
      );
    },
  },
  "header lines": {
    make: ({ path, pick }) =>
      request(`GET ${path} HTTP/1.1`, [
        HOST,
        pick([
          "X",
          "X :y",
          ":y",
          " X: y",
          "\tX: y",
          "X\t: y",
          "X: y\0",
          "X: y\n ",
          "\0: y",
          "X: y\r\n\tz",
          "(X): y",
          `X: ${"y".repeat(9_000)}`,
          `${"X".repeat(9_000)}: y`,
          `${"X: y\r\n".repeat(80)}X: y`,
          "X: \x7f",
          "X: \x08",
          utf8("X\u2028: y"),
        ]),
      ]),
  },
  long: {
    make: ({ path, plain, pick }) => {
      const filler = pick(["/.", "/", "/x/..", "%2f", "a", "%25", "?", ";a=b"]);
      const text = filler.repeat(Math.ceil(pick([8_100, 8_170, 8_192, 16_400, 40_000]) / filler.length));
      return pick([
        get(`${text}${path}`),
        get(`${path}${text}`),
        get(`${plain}?${text}`),
        `${get("/").slice(0, -2)}X: ${text}\r\n\r\n`,
      ]);
    },
  },
  "in pieces": {
    make: ({ path, pick }) => {
      const text = get(path);
      const cut = pick([1, 3, 4, 5, 10, text.length - 1, text.length - 2, text.length - 3]);
      return [text.slice(0, cut), text.slice(cut)];
    },
  },
  "another protocol": {
    make: ({ path, pick }) => {
      const spoofed = ["127.0.0.1 127.0.0.1 40000 254", "169.254.169.254 169.254.169.254 1 80"];
      return pick([
        `PROXY TCP4 ${pick(spoofed)}\r\n${get(path)}`,
        `PROXY UNKNOWN\r\n${get(path)}`,
        // The PROXY protocol, version 2: its signature, PROXY over TCP4 of 127.0.0.1, then the request.
        `\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\x9c\x40\x03\xdc${get(path)}`,
        `\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03${path}`,
        `\x04\x01\0\x50\xa9\xfe\xa9\xfe\0${get(path)}`,
        `\x05\x01\0\x05\x01\0\x01\xa9\xfe\xa9\xfe\0\x50${get(path)}`,
        `EHLO x\r\nGET ${path}\r\n`,
        `\x01\x01\0\x01\0\x08\0\0\0\x01\0\0\0\0\0\0${path}`,
        `\x12\x34\0\x64\x02\x02\0\x08HTTP/1.1\0${path}`,
      ]);
    },
  },
  "random bytes": {
    make: ({ path, bytes, pick }) =>
      pick([
        bytes(60),
        `${bytes(8)}${get(path)}`,
        get(path + bytes(6)),
        `GET ${bytes(20)} HTTP/1.1\r\n${HOST}\r\n\r\n`,
      ]),
  },
};

/** Turns, drops, doubles or puts in bytes at places of its own choice. */
function mutated(text: string, pick: Pick, number: (below: number) => number): string {
  let bytes = text;
  for (let change = pick([1, 1, 2, 3, 8]); change > 0; change--) {
    const at = number(bytes.length + 1);
    const odd = pick([
      "\0",
      "\r",
      "\n",
      "\r\n",
      " ",
      "\t",
      ":",
      "/",
      "%",
      "%2f",
      "..",
      ";",
      "\\",
      "\xff",
      "\x80",
      "?",
      "#",
      "\r\n\r\n",
    ]);
    bytes = pick([
      bytes.slice(0, at) + odd + bytes.slice(at),
      bytes.slice(0, at) + bytes.slice(at + 1),
      bytes.slice(0, at) + String.fromCharCode(number(256)) + bytes.slice(at + 1),
      bytes.slice(0, at) + bytes.slice(Math.max(0, at - 12), at) + bytes.slice(at),
      bytes.slice(0, at) +
        String.fromCharCode((bytes.charCodeAt(at) || 0) ^ (1 << number(8))) +
        bytes.slice(at + 1),
    ]);
  }
  return bytes;
}

/** How many numbers an attack is made of; after that many it picks the plainest. */
const ENTROPY = 48;

/** Names of all families, of requests and of paths. */
export const FAMILIES = { request: Object.keys(REQUEST_FAMILIES), path: Object.keys(PATH_FAMILIES) };

/** Attacks on a service whose instance role has this name. */
export function attacks(roleName: string): fc.Arbitrary<Attack> {
  const secrets = secretPaths(roleName);
  return fc
    .tuple(
      fc.constantFrom(...FAMILIES.request, "path", "path", "path", "path", "absolute form"),
      fc.constantFrom(...FAMILIES.path),
      fc.uint8Array({ minLength: ENTROPY, maxLength: ENTROPY }),
    )
    .map(([requestName, pathName, entropy]) => {
      let used = 0;
      const number = (below: number): number => {
        const value = (entropy[used % ENTROPY] ?? 0) * 256 + (entropy[(used + 7) % ENTROPY] ?? 0);
        used++;
        return used > 4 * ENTROPY ? 0 : value % below;
      };
      const pick: Pick = (choices) => choices[number(choices.length)] as (typeof choices)[number];
      const bytes = (count: number): string =>
        Array.from({ length: count }, () => String.fromCharCode(number(256))).join("");
      const plain = versioned(pick(secrets), pick);
      const path = PATH_FAMILIES[pathName]?.(plain, pick) ?? plain;
      const family = REQUEST_FAMILIES[requestName];
      const made = family?.make({ path, plain, pick, bytes }) ?? "";
      const parts = typeof made === "string" ? [made] : [...made];
      if (number(6) === 0) {
        return {
          family: `${requestName}, ${pathName}, damaged`,
          parts: parts.map((part) => mutated(part, pick, number)),
          whole: false,
        };
      }
      // A path with a line's end in it is no longer one request.
      const oneRequest =
        family?.whole === true && (parts[0]?.indexOf("\r\n\r\n") ?? -1) === (parts[0]?.length ?? 0) - 4;
      return { family: `${requestName}, ${pathName}`, parts, whole: oneRequest };
    });
}
