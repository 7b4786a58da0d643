"""A small HTTP/1.1 server for the mock services: keep-alive, one thread per connection.

It is built on socketserver rather than http.server, because the latter's parsing of headers takes
longer than everything the mock services do with a request, and the benchmark would measure it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

MAX_LINE = 65536
REASON_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Headers(dict[str, str]):
    """Request headers: names match in any case, and a missing header is blank."""

    def __missing__(self, name: str) -> str:
        return self.get(name.lower(), "")

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())


@dataclass
class Request:
    """A request as it arrived, and how it ended. Times are seconds of time.monotonic()."""

    method: str
    path: str  # as it was sent: percent-encoded, without the query
    query: dict[str, str]
    headers: Headers
    raw: bytes
    body: Any  # the parsed JSON; None if it isn't JSON
    connection: int  # the number of its TCP connection
    service: str  # intercom, slack or hipchat
    started_at: float
    ended_at: float = 0.0  # 0 until the response is out
    status: int = 0  # of the response; 0 if none was sent

    @property
    def is_upsert(self) -> bool:
        """Whether the request creates or updates a user or contact."""
        if self.method == "PUT":
            return self.path.startswith("/contacts/")
        return self.method == "POST" and self.path in ("/users", "/contacts")


@dataclass
class Response:
    """A response before it is encoded; Content-Length and the like are added later."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


def encode_head(status: int, headers: dict[str, str]) -> bytes:
    """Return the status line and headers as they go over the wire."""
    lines = [f"HTTP/1.1 {status} {REASON_PHRASES.get(status, 'Unknown')}"]
    for name, value in headers.items():
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reject_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's json accepts but JSON doesn't have."""
    raise ValueError(f"{name} is not JSON")


STRICT_JSON = json.JSONDecoder(parse_constant=reject_constant)


def parse_json(raw: bytes) -> Any:
    """Return the parsed JSON, or None if `raw` isn't JSON."""
    try:
        return STRICT_JSON.decode(raw.decode())
    except ValueError:
        return None


def service_of(path: str) -> str:
    """Return which of the three services a path belongs to."""
    if path.startswith("/services/"):
        return "slack"
    if path.startswith("/v1/"):
        return "hipchat"
    return "intercom"


class Connection(socketserver.StreamRequestHandler):
    """Reads one client's requests, one after the other, and passes each to `Server.answer`."""

    disable_nagle_algorithm = True
    server: Server
    # Set by a fault: the connection looks alive until the client uses it again.
    close_on_next_request = False

    def handle(self) -> None:
        number = self.server.register(self.connection)
        try:
            while not self.server.closing.is_set():
                request = self._read_request(number)
                if request is None:
                    return
                keep_alive = self.server.answer(request, self)
                if not keep_alive:
                    return
        finally:
            self.server.unregister(self.connection)

    def _read_request(self, number: int) -> Request | None:
        """Return the next request, or None if there is none or it is malformed."""
        words = self.rfile.readline(MAX_LINE).decode("latin-1").split()
        if len(words) != 3:
            return None
        method, target, _ = words
        headers = Headers()
        while True:
            line = self.rfile.readline(MAX_LINE).decode("latin-1")
            if line in ("\r\n", "\n", ""):
                break
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers["Content-Length"] or 0)
        raw = self.rfile.read(length)
        if len(raw) < length:
            return None
        # A proxy is sent the whole URL; the host doesn't matter here.
        url = urlsplit(target)
        return Request(
            method=method,
            path=url.path,
            query=dict(parse_qsl(url.query)),
            headers=headers,
            raw=raw,
            body=parse_json(raw),
            connection=number,
            service=service_of(url.path),
            started_at=time.monotonic(),
        )

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def wait(self, seconds: float) -> bool:
        """Wait this long, and return True.

        Return False early if the client disconnects or the server is stopping.
        """
        deadline = time.monotonic() + seconds
        while not self.server.closing.is_set():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return True
            pause = min(remaining, 0.05)
            if isinstance(self.connection, ssl.SSLSocket):
                # TLS doesn't support MSG_PEEK: a disconnect is noticed only at the end.
                self.server.closing.wait(pause)
                continue
            readable, _, _ = select.select([self.connection], [], [], pause)
            if not readable:
                continue
            if not self.connection.recv(1, socket.MSG_PEEK):
                return False
            # The client's next request is here already: it has to wait its turn.
            self.server.closing.wait(pause)
        return False

    def reset(self) -> None:
        """Close the connection so that the client gets a RST instead of a FIN."""
        linger_format = "ii"
        if os.name == "nt":
            linger_format = "hh"
        linger = struct.pack(linger_format, 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.rfile.close()
        self.connection.close()


class Server(socketserver.ThreadingTCPServer):
    """Listens on a port of 127.0.0.1; each request goes to `answer`.

    `answer` sends the response over the connection it is given, and returns whether that
    connection may be used for another request. Port 0 means any free one.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    # So that a fixed port can be used again right after a run. On Windows the same option would
    # let two servers share the port.
    allow_reuse_address = os.name != "nt"

    def __init__(
        self,
        port: int,
        tls: ssl.SSLContext | None,
        answer: Callable[[Request, Connection], bool],
    ) -> None:
        super().__init__(("127.0.0.1", port), Connection)
        self.answer = answer
        self.closing = threading.Event()
        self.connection_count = 0  # so far
        self._open_sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        scheme = "http"
        if tls:
            scheme = "https"
            # Without a handshake here: each connection's own thread does that with its first
            # read, so that one slow client doesn't hold up the others.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{scheme}://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Close the port and every connection at once, whatever they are waiting for."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            for open_socket in self._open_sockets:
                with contextlib.suppress(OSError):
                    open_socket.shutdown(socket.SHUT_RDWR)

    def register(self, open_socket: socket.socket) -> int:
        """Note an open connection, and return its number."""
        with self._lock:
            self._open_sockets.add(open_socket)
            self.connection_count += 1
            return self.connection_count

    def unregister(self, open_socket: socket.socket) -> None:
        with self._lock:
            self._open_sockets.discard(open_socket)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that leave early; anything else is a bug in a mock or a test."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)
