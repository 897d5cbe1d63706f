"""An S3 with one object: PORT DIRECTORY. Serves DIRECTORY/object with the status in DIRECTORY/status, and heeds If-None-Match.

By POST it is an SSM that has the object as each of its parameters."""
import hashlib
import http.server
import json
import sys

PORT, DIRECTORY = int(sys.argv[1]), sys.argv[2]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with open(DIRECTORY + "/status") as file:
            status = int(file.read())
        with open(DIRECTORY + "/object", "rb") as file:
            body = file.read()
        etag = '"' + hashlib.md5(body).hexdigest() + '"'
        if not self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 "):
            status = 403
        if status == 200 and self.headers.get("If-None-Match") == etag:
            status = 304
        if status == 304:
            body = b""
        elif status != 200:
            body = b"<Error><Code>Fault</Code></Error>"
        self.send_response(status)
        self.send_header("ETag", etag)
        if status == 307:
            self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        signed = self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 ")
        with open(DIRECTORY + "/status") as file:
            status = 200 if signed and file.read() == "200" else 400
        with open(DIRECTORY + "/object") as file:
            found = {"Parameter": {"Value": file.read()}}
        body = json.dumps(found if status == 200 else {"__type": "ParameterNotFound"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
print("listens", flush=True)
server.serve_forever()
