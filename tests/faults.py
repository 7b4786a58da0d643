"""Fault injection: what can go wrong between a client and the mock services.

A Fault describes what goes wrong with one request, a FaultPlan says which request gets which fault,
and a Delivery sends a response as its fault requires.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from mock_http import Connection, Request, Response, encode_head

TRICKLE_PIECES = 10


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    If a fault lets the service's own response through, perhaps late or in pieces, the service acts
    on the request. Any other fault keeps it from acting, unless `acts` is set.
    """

    # The response. An error status without a body gets the service's usual kind of error, with
    # this code and message.
    status: int | None = None
    code: str | None = None
    message: str | None = None
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    as_user: str | None = (
        None  # a good response, but with this user_id or external_id in it
    )
    acts: bool = False  # the service does its work all the same, before the fault

    # The connection
    drop: bool = False  # closed without a response
    reset: bool = False  # reset without a response
    cut: bool = False  # closed after half of the body
    endless: bool = (
        False  # spaces after the body, forever; with trickle, one every trickle / 10 s
    )
    early: int | None = (
        None  # a 1xx response before the real one; status=103 sends only a 1xx
    )
    chunk: int = 0  # the body in chunks of this many bytes
    twice: bool = False  # the complete response goes out twice
    twice_after: float = 0.0  # the same, with this many seconds in between
    close_after: bool = False  # a keep-alive response, then closed at once
    close_silently: bool = (
        False  # a keep-alive response, then closed when the next request comes
    )

    # The time it takes, in seconds
    delay: float = 0.0  # before the response
    trickle: float = 0.0  # for the body, which goes out in ten pieces
    trickle_headers: float = 0.0  # for status line and headers, byte by byte

    @property
    def lets_service_act(self) -> bool:
        if self.acts:
            return True
        if self.status is not None or self.body is not None or self.as_user is not None:
            return False
        return not (self.drop or self.reset or self.cut or self.endless)


NO_FAULT = Fault()


def redirect(location: str, status: int = 302) -> Fault:
    """Return a redirect to another URL."""
    return Fault(status=status, headers={"Location": location}, body=b"")


def rate_limited(seconds: int) -> Fault:
    """Return a 429 that asks the client to wait for this many seconds."""
    return Fault(status=429, headers={"Retry-After": str(seconds)})


def html_page(title: str = "Sign in", status: int = 200) -> Fault:
    """Return the page that a captive portal or proxy sends instead of the service."""
    page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body></body></html>\n"
    return Fault(status=status, body=page.encode())


def not_ok() -> Fault:
    """Return a failure that is only visible in the body: 200 {"ok": false}."""
    return Fault(status=200, body=b'{"ok": false, "error": "invalid_auth"}')


class FaultPlan:
    """Decides which request gets which fault; tests set the attributes, at any time.

    A request to Intercom gets the first of these: what `fault_for` returns, the entry of
    `faults_by_user_id`, the next of `faults`. A notice gets the next of its service's list in
    `notice_faults_by_service`, or else the next of `notice_faults`.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        # For every request that carries this user_id or external_id
        self.faults_by_user_id: dict[str, Fault] = {}
        self.fault_for: Callable[[Request], Fault | None] | None = None
        # GET /me succeeds unless this is set, so that --check can be tested with other faults.
        self.faults_on_me = False
        self.notice_faults: list[Fault] = []
        self.notice_faults_by_service: dict[str, list[Fault]] = {}
        self.lock = threading.RLock()

    def next_fault(self, request: Request) -> Fault:
        """Return the fault for a request, or NO_FAULT."""
        if request.service != "intercom":
            return self._next_notice_fault(request.service)
        if request.path == "/me" and not self.faults_on_me:
            return NO_FAULT
        if self.fault_for:
            # Without the lock: a test may hold up one request here while others go on.
            fault = self.fault_for(request)
            if fault:
                return fault
        if self.faults_by_user_id and isinstance(request.body, dict):
            user_id = request.body.get("user_id", request.body.get("external_id"))
            if str(user_id) in self.faults_by_user_id:
                return self.faults_by_user_id[str(user_id)]
        with self.lock:
            if self.faults:
                return self.faults.pop(0)
        return NO_FAULT

    def _next_notice_fault(self, service: str) -> Fault:
        with self.lock:
            own_faults = self.notice_faults_by_service.get(service)
            if own_faults:
                return own_faults.pop(0)
            if self.notice_faults:
                return self.notice_faults.pop(0)
        return NO_FAULT


def encode_chunks(body: bytes, size: int) -> bytes:
    """Return the body in the chunked transfer coding."""
    encoded = b""
    for start in range(0, len(body), size):
        chunk = body[start : start + size]
        encoded += b"%x\r\n%b\r\n" % (len(chunk), chunk)
    return encoded + b"0\r\n\r\n"


@dataclass
class Delivery:
    """Sends one response, with everything that its fault does to it on the way.

    `on_end` is called with the status, or 0 if there is no response, just before the last byte goes
    out, so that a request has ended before its client can send the next.
    """

    connection: Connection
    request: Request
    response: Response
    fault: Fault
    date: str  # the server's, for the Date header
    on_end: Callable[[int], None]

    def send(self) -> bool:
        """Send the response; return whether the connection stays open for another request."""
        fault = self.fault
        if fault.early:
            self.connection.send(encode_head(fault.early, {}))
        if fault.delay and not self.connection.wait(fault.delay):
            return False
        if fault.drop or fault.reset:
            self.on_end(0)
            if fault.reset:
                self.connection.reset()
            return False
        if not self._send_response():
            return False
        while fault.endless and self.connection.wait(fault.trickle / TRICKLE_PIECES):
            self._send_blanks()
        self.connection.close_on_next_request = fault.close_silently
        return self._announces_keep_alive() and not fault.close_after

    def _send_response(self) -> bool:
        """Send the response at the fault's pace.

        Return False if the client disconnects.
        """
        fault = self.fault
        head = self._encode_head()
        body = self._encode_body()
        whole = head + body
        if fault.trickle_headers:
            if not self._trickle_bytes(head, fault.trickle_headers):
                return False
            head = b""
        *pieces, last_piece = self._split(head, body)
        if fault.twice and not fault.twice_after:
            # In one go, so that the client always finds both.
            last_piece += whole
        for piece in pieces:
            self.connection.send(piece)
            if not self.connection.wait(fault.trickle / TRICKLE_PIECES):
                return False
        self.on_end(self.response.status)
        self.connection.send(last_piece)
        if fault.twice_after:
            if not self.connection.wait(fault.twice_after):
                return False
            self.connection.send(whole)
        return True

    def _trickle_bytes(self, data: bytes, seconds: float) -> bool:
        for byte in data:
            self.connection.send(bytes([byte]))
            if not self.connection.wait(seconds / len(data)):
                return False
        return True

    def _announces_keep_alive(self) -> bool:
        if self.fault.cut or self.fault.endless:
            return False
        return self.request.headers["Connection"].lower() != "close"

    def _encode_head(self) -> bytes:
        response = self.response
        if response.status < 200:
            return encode_head(response.status, {})
        headers = {"Content-Type": response.content_type}
        if self.fault.chunk:
            headers["Transfer-Encoding"] = "chunked"
        elif not self.fault.endless:
            headers["Content-Length"] = str(len(response.body))
        headers["Date"] = self.date
        headers["Connection"] = "close"
        if self._announces_keep_alive():
            headers["Connection"] = "keep-alive"
        headers.update(response.headers)
        headers.update(self.fault.headers)
        return encode_head(response.status, headers)

    def _encode_body(self) -> bytes:
        body = self.response.body
        if self.response.status < 200:
            return b""
        if self.fault.chunk:
            body = encode_chunks(body, self.fault.chunk)
        if self.fault.cut:
            body = body[: len(body) // 2]
        return body

    def _split(self, head: bytes, body: bytes) -> list[bytes]:
        """Split the response into the pieces that go out one by one."""
        size = len(body)
        if self.fault.trickle:
            size = len(body) // TRICKLE_PIECES
        size = max(1, size)
        rest = [body[start : start + size] for start in range(size, len(body), size)]
        return [head + body[:size], *rest]

    def _send_blanks(self) -> None:
        if self.fault.trickle:
            self.connection.send(b" ")
        else:
            self.connection.send(b" " * 65536)
