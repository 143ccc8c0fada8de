"""One request by a connection that states a client's address first, as a host's node does: PROXY protocol, version 2.

For tests, and as a program inside a container, where it prints what came back as JSON:

    proxied.py ADDRESS PORT CLIENT PATH
"""

import http.client
import json
import socket
import ssl
import struct
import sys
from collections.abc import Mapping
from ipaddress import ip_address

NODE = {4: "100.64.0.1", 6: "fd7a:115c:a1e0::1"}


def header(client: str, to_port: int) -> bytes:
    """https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt section 2.2: PROXY, TCP over IPv4 or IPv6."""
    source = ip_address(client)
    addresses = source.packed + ip_address(NODE[source.version]).packed + struct.pack("!HH", 40000, to_port)
    family = 0x11 if source.version == 4 else 0x21
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack("!BBH", 0x21, family, len(addresses)) + addresses


class Proxied(http.client.HTTPConnection):
    def __init__(self, at: tuple[str, int], client: str, tls: ssl.SSLContext | None, name: str) -> None:
        super().__init__(*at, timeout=10)
        self.client, self.tls, self.name = client, tls, name

    def connect(self) -> None:
        self.sock = socket.create_connection((self.host, self.port), self.timeout)
        self.sock.sendall(header(self.client, self.port))
        if self.tls:
            self.sock = self.tls.wrap_socket(self.sock, server_hostname=self.name)


def ask(
    at: tuple[str, int],
    client: str,
    path: str,
    headers: Mapping[str, str],
    tls: ssl.SSLContext | None = None,
    name: str = "gateway",
) -> tuple[int, str]:
    """Status and text; 0 and the reason where there is no connection."""
    connection = Proxied(at, client, tls, name)
    try:
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()


if __name__ == "__main__":
    address, port, stated, asked = sys.argv[1:]
    print(json.dumps(ask((address, int(port)), stated, asked, {})))
