"""One request, as the connector sends it: over nginx's Unix socket, or to `host:port`; prints what came back as JSON.

ask.py SOCKET-OR-ADDRESS METHOD PATH HEADERS-AS-JSON [BODY-BYTES]
"""

import http.client
import json
import socket
import sys


class OverSocket(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("unix", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


where, method, path, headers = sys.argv[1:5]
body = b"x" * int(sys.argv[5]) if len(sys.argv) > 5 else None
connection = OverSocket(where) if where.startswith("/") else http.client.HTTPConnection(where, timeout=5)
try:
    connection.request(method, path, body, json.loads(headers))
    answer = connection.getresponse()
    print(json.dumps({"status": answer.status, "text": answer.read().decode()}))
except OSError as error:
    print(json.dumps({"status": 0, "text": str(error)}))
