"""Takes push notifications, in a process of its own: `python -m tests.system.receiver [later | CERTIFICATE]`.

Says its port, waits for a line where it is to be there `later` (until then it refuses who comes), then says each
request as a line of JSON; those over TLS, where there is a file of a certificate and its key. Paths beginning with
`/500`, `/302` or `/410` are answered with that, `/hang` not at all, `/first` with 500 the first time; any other with
200.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_SEEN: set[str] = set()
_TELLING = threading.Lock()


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Say what came."""
        body = self.rfile.read(int(self.headers["content-length"]))
        told = {"path": self.path, "headers": dict(self.headers.items()), "body": json.loads(body)}
        with _TELLING:  # a line and its end are two writes, and requests come at once
            print(json.dumps(told), flush=True)  # noqa: T201
        if self.path.startswith("/hang"):
            threading.Event().wait(120)
        code = int(self.path[1:4]) if self.path[1:4].isdigit() else 200
        if self.path.startswith("/first") and self.path not in _SEEN:
            _SEEN.add(self.path)
            code = 500
        self.send_response(code)
        if code == 302:
            self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *about: object) -> None:
        """Say nothing else."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hook, bind_and_activate=False)
    server.daemon_threads = True
    server.server_bind()
    print(server.server_address[1], flush=True)  # noqa: T201
    if sys.argv[1:] == ["later"]:
        sys.stdin.readline()
    elif sys.argv[1:]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(sys.argv[1])
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.server_activate()
    server.serve_forever()
