"""The HTTP chapter, tested against loopback servers that send a test's exact bytes."""

from __future__ import annotations

import contextlib
import datetime
import gc
import ipaddress
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import eventually
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import export_csv
from export_csv import HttpClient, NoResponse, Response

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}'
OTHER = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"b": 2}'
HEADERS = {"Authorization": "Bearer token", "User-Agent": "tests"}
LIMIT = 0.3  # seconds, for a time limit that the test exceeds
FOREVER = 300  # seconds, for a server that sends nothing more
# Seconds within which every request ends, even on a busy machine; less than FOREVER.
SOON = 60

Tls = ssl.SSLContext | None


class Connection:
    """The server's end of a connection."""

    def __init__(self, sock: socket.socket, closing: threading.Event) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")
        self.closing = closing

    def read_request(self) -> bytes:
        """Return the next request, or b"" at the end of the connection."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.file.readline()
            if not line:
                return b""
            head += line
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return head + self.file.read(int(line.split(b":")[1]))
        return head

    def run(self, step: Step) -> None:
        if isinstance(step, bytes):
            self.sock.sendall(step)
        elif isinstance(step, int | float):
            self.closing.wait(step)
        else:
            step(self)

    def reset(self) -> None:
        """Close the connection so that the client gets a RST instead of a FIN."""
        linger_format = "hh" if sys.platform == "win32" else "ii"
        linger = struct.pack(linger_format, 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.file.close()
        self.sock.close()

    def close(self) -> None:
        self.file.close()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


# Bytes to send, seconds to wait, or something to do with the connection
Step = bytes | float | Callable[[Connection], object]


class Server:
    """Follows one script per connection: the steps for each request, then closes the connection.

    The last script is also used for all further connections. If `reads` is False, the steps are
    followed without reading requests.
    """

    running: ClassVar[list[Server]] = []

    def __init__(
        self,
        *scripts: list[list[Step]],
        tls: Tls = None,
        port: int = 0,
        reads: bool = True,
    ) -> None:
        self.scripts = scripts
        self.tls = tls
        self.reads = reads
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = 0
        self.closing = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=1000)
        self.port: int = self.listener.getsockname()[1]
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}/users"
        self.running.append(self)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                script = self.scripts[min(self.connections, len(self.scripts) - 1)]
                self.connections += 1
                threading.Thread(
                    target=self.play, args=(sock, script), daemon=True
                ).start()

    def play(self, sock: socket.socket, script: list[list[Step]]) -> None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
            with sock:
                self.follow(script, Connection(sock, self.closing))
        self.closed += 1

    def follow(self, script: list[list[Step]], connection: Connection) -> None:
        for steps in script:
            if self.reads:
                request = connection.read_request()
                if not request:
                    break
                self.requests.append(request)
            for step in steps:
                connection.run(step)
        connection.close()

    def stop(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture(autouse=True)
def stop_servers() -> Iterator[None]:
    """Stop the servers that a test has started."""
    yield
    while Server.running:
        Server.running.pop().stop()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def make_certificate(folder: Path, name: str, *hosts: str) -> ssl.SSLContext:
    """Make a self-signed certificate `name`.pem; return an SSL context that uses it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names: list[x509.GeneralName] = []
    for host in hosts:
        if host[0].isdigit():
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        else:
            names.append(x509.DNSName(host))
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private_key = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificate_file = folder / f"{name}.pem"
    key_file = folder / f"{name}.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return context


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Make an SSL context for a server whose certificate is in REQUESTS_CA_BUNDLE."""
    context = make_certificate(tmp_path, "trusted", "127.0.0.1", "localhost")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "trusted.pem"))
    return context


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest) -> Tls:
    """Run the test twice, the second time over TLS."""
    if request.param == "http":
        return None
    context: ssl.SSLContext = request.getfixturevalue("trusted")
    return context


def client_for(server: Server, connections: int = 1) -> HttpClient:
    return HttpClient(server.url, HEADERS, connections=connections)


def post(
    client: HttpClient,
    body: bytes = b"{}",
    *,
    timeout: float | None = None,
    fresh: bool = False,
) -> Response | NoResponse:
    return client.request("POST", client.url, body, timeout=timeout, fresh=fresh)


def ok(answer: Response | NoResponse, expected: object = None) -> Response:
    """Return the response; fail the test if there is none, or if it has another body."""
    assert isinstance(answer, Response), answer
    assert expected is None or answer.json == expected
    return answer


def no_response(answer: Response | NoResponse, reason: str) -> NoResponse:
    """Return the NoResponse; fail the test if there is a response or another reason."""
    assert isinstance(answer, NoResponse), answer
    assert reason in answer.reason
    assert "\n" not in answer.reason
    return answer


def timed_out(answer: Response | NoResponse, started: float) -> NoResponse:
    """Fail the test unless the request timed out."""
    assert time.monotonic() - started < SOON
    return no_response(answer, "timed out: no complete response within ")


#### Response


def test_json_is_the_body_if_it_is_an_object() -> None:
    assert Response(200, {}, b'{"a": 1}').json == {"a": 1}
    assert Response(200, {}, b'\xef\xbb\xbf{"a": 1}').json == {"a": 1}
    for body in (
        b"",
        b"[1]",
        b'"x"',
        b"null",
        b"<html>",
        b'{"a": 1',
        b"\xff",
        b"[" * 100_000,
    ):
        assert Response(200, {}, body).json == {}


NUMBERS = [
    ("0", 0),
    ("12345678901", 12345678901),
    (" 7 ", 7),
    ("123456789012", None),
    ("-1", None),
    ("1.5", None),
    ("", None),
    ("1, 2", None),
    ("\u0663", None),
]


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_a_header_that_is_a_number(text: str, number: int | None) -> None:
    assert Response(200, {"X": text}).int_header("X") == number
    assert Response(200, {}).int_header("X") is None


DATES = [
    ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
    ("Sun Nov  6 08:49:37 1994", 784111777),
    ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
    ("Sun, 06 Nov 1994 08:49:37 -0000", 784111777),
    ("", None),
    (" ", None),
    ("5", None),
    ("Sun, 99 Nov 1994 08:49:37 GMT", None),
]


def test_a_header_that_is_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an offset it is GMT, whatever the local time zone is."""
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        if sys.platform != "win32":
            time.tzset()
        for text, seconds in DATES:
            assert Response(200, {"Date": text}).date_header("Date") == seconds, text
    finally:
        monkeypatch.undo()
        if sys.platform != "win32":
            time.tzset()


def test_a_foreign_response_is_described_without_its_text() -> None:
    """Only a page's title is shown, or a single word such as an error from Slack."""
    html = {"Content-Type": "text/html; charset=utf-8"}
    page = (
        b"<html><TITLE lang=en>\n Bad &amp; gate\x1bway\n</TITLE>you sent: a@b.de"
        + b"x" * 1234
    )
    text = Response(502, html, page).describe_foreign()
    assert text == r"502 (text/html, 1,300 bytes, title 'Bad & gate\x1bway')"
    word = Response(404, html, b"no_service").describe_foreign()
    assert word == "404 (text/html, 10 bytes, no_service)"
    assert Response(204).describe_foreign() == "204 (no content type, 0 bytes)"
    for body in (b"a@b.de", b"ada", b"ada_99", b"you sent ada", b"{}"):
        assert body.decode() not in Response(500, html, body).describe_foreign()
    long = Response(500, html, b"<title>" + b"y" * 500 + b"</title>").describe_foreign()
    assert len(long) < 150
    forged = Response(
        500, {"Content-Type": "text/\x1b[2J a@b.de"}, b""
    ).describe_foreign()
    assert forged == "500 (no content type, 0 bytes)"


#### Requests


def test_no_cookies_and_no_extra_headers_are_sent(tls: Tls) -> None:
    """No cookie is sent back, and urllib3 adds no headers of its own."""
    with_cookie = OK.replace(b"OK\r\n", b"OK\r\nSet-Cookie: a=b\r\n", 1)
    server = Server([[with_cookie], [OK], [OK]], tls=tls)
    client = client_for(server)
    ok(post(client, b'{"x": 1}'), {"a": 1})
    ok(client.request("GET", server.url + "?per_page=1#part"))
    ok(client.request("POST", server.url))
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert line == "POST /users HTTP/1.1"
    assert body == b'{"x": 1}'
    assert sorted(headers) == [
        "Accept-Encoding: identity",
        "Authorization: Bearer token",
        "Content-Length: 8",
        f"Host: 127.0.0.1:{server.port}",
        "User-Agent: tests",
    ]
    assert server.requests[1].startswith(b"GET /users?per_page=1 HTTP/1.1\r\n")
    assert b"ookie" not in server.requests[1]
    assert b"Content-Length: 0" in server.requests[2]
    assert server.connections == 1


def test_without_a_user_agent_none_is_sent() -> None:
    server = Server([[OK]])
    ok(HttpClient(server.url, {}).request("GET", server.url))
    assert b"user-agent" not in server.requests[0].lower()


def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = Server([[OK]])
    ok(HttpClient(server.url, {}).request("GET", server.url))
    assert b"authorization" not in server.requests[0].lower()


def test_headers_and_body_arrive_together(tls: Tls) -> None:
    """They arrive in one packet, on a new connection and on a reused one."""
    arrived = []

    def read_once(connection: Connection) -> None:
        data = connection.sock.recv(65536)
        arrived.append((data.startswith(b"POST"), data.endswith(b'{"x": 1}')))

    server = Server([[read_once, OK], [read_once, OK]], tls=tls, reads=False)
    client = client_for(server)
    for _ in range(2):
        ok(post(client, b'{"x": 1}'))
    assert arrived == [(True, True)] * 2


STATUSES = [200, 201, 204, 302, 400, 401, 404, 409, 413, 429, 500, 503]


def test_each_status_is_a_response_and_never_retried() -> None:
    """No redirect is followed, and the connection is kept."""
    rest = b"Content-Length: 0\r\nRetry-After: 0\r\nLocation: /elsewhere\r\n\r\n"
    server = Server([[b"HTTP/1.1 %d X\r\n" % status + rest] for status in STATUSES])
    client = client_for(server)
    for number, status in enumerate(STATUSES, start=1):
        answer = ok(post(client))
        assert (answer.status, len(server.requests)) == (status, number)
        assert answer.headers["location"] == "/elsewhere"
    assert server.connections == 1


def test_300_threads_share_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_csv, "CONNECT_TIMEOUT", SOON)
    count = 300
    server = Server([[OK]] * count)
    client = client_for(server, connections=count)
    answers: list[Response | NoResponse] = []

    def work() -> None:
        answers.append(post(client))

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(server.requests) == count
    for answer in answers:
        ok(answer, {"a": 1})


def test_a_fresh_request_closes_idle_connections() -> None:
    server = Server([[OK], [OK]])
    client = client_for(server)
    ok(post(client))
    gc.disable()  # reference counting alone has to do it
    try:
        ok(post(client, fresh=True))
        assert server.connections == 2
        eventually(lambda: server.closed == 1)
    finally:
        gc.enable()
    ok(post(client))
    assert server.connections == 2


#### The time limit


def trickle(data: bytes, pause: float = 0.05) -> list[Step]:
    """Return the steps that send the data byte by byte."""
    steps: list[Step] = []
    for byte in data:
        steps += [bytes([byte]), pause]
    return steps


ENDLESS: dict[str, list[Step]] = {
    "silent": [FOREVER],
    "status": [*trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 1"), FOREVER],
    "headers": [b"HTTP/1.1 200 OK\r\n", *trickle(b"X: y\r\n" * 20), FOREVER],
    "body": [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        *trickle(b"x" * 99),
        FOREVER,
    ],
    "chunks": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        *trickle(b"1\r\nx\r\n" * 30),
        FOREVER,
    ],
    "until close": [b"HTTP/1.1 200 OK\r\n\r\n", *trickle(b"x" * 200), FOREVER],
    "100": [*trickle(b"HTTP/1.1 100 Continue\r\n\r\n" * 10, 0.005), FOREVER],
    "last byte": [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 99,
        FOREVER,
    ],
}


@pytest.mark.parametrize("case", ENDLESS)
def test_the_whole_response_has_one_time_limit(
    case: str, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """urllib3's own limits never fire if a byte arrives now and then."""
    server = Server([ENDLESS[case]], [[OK]], tls=tls)
    client = client_for(server)
    with monkeypatch.context() as patch:
        patch.setattr(export_csv, "RESPONSE_TIMEOUT", LIMIT)
        started = time.monotonic()
        answer = timed_out(post(client), started)
    assert not answer.is_permanent
    assert not answer.is_stale_connection
    ok(post(client))
    assert server.connections == 2


def test_a_slow_response_within_the_time_limit_is_accepted(tls: Tls) -> None:
    server = Server([trickle(OK, 0.005), [OK]], tls=tls)
    client = client_for(server)
    ok(post(client), {"a": 1})
    ok(post(client))
    assert server.connections == 1


def test_timeout_shortens_one_request(tls: Tls) -> None:
    """A kept-alive connection that exceeds it isn't reported as stale."""
    server = Server([[OK], [FOREVER]], [[OK]], tls=tls)
    client = client_for(server)
    ok(post(client))
    answer = timed_out(post(client, timeout=LIMIT), time.monotonic())
    assert not answer.is_stale_connection
    ok(post(client))
    timed_out(post(client, timeout=0), time.monotonic())


def test_connecting_has_its_own_time_limit(
    trusted: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It covers the TLS handshake, but not the response."""
    monkeypatch.setattr(export_csv, "CONNECT_TIMEOUT", 2)
    slow = Server([[2.5, OK]], tls=trusted)
    ok(post(client_for(slow)), {"a": 1})
    monkeypatch.setattr(export_csv, "CONNECT_TIMEOUT", LIMIT)
    silent = Server([[FOREVER]], reads=False)
    silent.url = silent.url.replace("http:", "https:")
    timed_out(post(client_for(silent)), time.monotonic())


def test_the_time_limit_applies_to_sending_too(tls: Tls) -> None:
    server = Server([[FOREVER]], tls=tls, reads=False)
    body = b"x" * 30_000_000
    timed_out(post(client_for(server), body, timeout=LIMIT), time.monotonic())


def name_lookup(*addresses: str) -> Callable[..., object]:
    """Return a getaddrinfo that finds these addresses for the host many.example."""
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: int, **kwargs: int) -> object:
        if host != "many.example":
            return real(host, port, *args, **kwargs)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in addresses
        ]

    return look_up


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Yield a port with a full backlog on each of 127.0.0.2 to 127.0.0.9: connecting hangs."""
    sockets = []
    port = 0
    for number in range(2, 10):
        listener = socket.create_server((f"127.0.0.{number}", port), backlog=0)
        port = listener.getsockname()[1]
        sockets.append(listener)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((f"127.0.0.{number}", port))
            sockets.append(filler)
    yield port
    for each in sockets:
        each.close()


@pytest.mark.skipif(
    sys.platform != "linux", reason="needs 127.0.0.2 and a full backlog"
)
def test_all_addresses_of_a_host_share_the_connect_timeout(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one is tried too, though those before it are silent."""
    silent = [f"127.0.0.{number}" for number in range(2, 10)]
    monkeypatch.setattr(export_csv, "CONNECT_TIMEOUT", 1)
    monkeypatch.setattr(socket, "getaddrinfo", name_lookup(*silent))
    url = f"http://many.example:{silent_port}/users"
    client = HttpClient(url, {})
    timed_out(client.request("POST", url), time.monotonic())
    timed_out(client.request("POST", url, timeout=0.2), time.monotonic())
    Server([[OK]], port=silent_port)
    monkeypatch.setattr(socket, "getaddrinfo", name_lookup(*silent[:2], "127.0.0.1"))
    ok(client.request("POST", url), {"a": 1})


#### The size limit


def test_a_body_is_limited_to_one_mebibyte(tls: Tls) -> None:
    def body(size: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size

    server = Server(
        [[body(2**20)], [body(2**20 + 1)]],
        [[body(2**21)], [OTHER]],
        [[OK]],
        tls=tls,
    )
    client = client_for(server)
    assert len(ok(post(client)).body) == 2**20
    no_response(post(client), "more than 1,048,576 bytes")
    no_response(post(client, fresh=True), "more than 1,048,576 bytes")
    ok(post(client), {"a": 1})
    assert server.connections == 3


def send_forever(data: bytes) -> Callable[[Connection], None]:
    """Return a step that ends only when the client closes the connection."""

    def flood(connection: Connection) -> None:
        while True:
            connection.sock.sendall(data)

    return flood


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FLOODS: dict[str, list[Step]] = {
    "chunks": [CHUNKED, send_forever(b"10000\r\n" + b"x" * 65536 + b"\r\n")],
    "until close": [b"HTTP/1.1 200 OK\r\n\r\n", send_forever(b"x" * 65536)],
    "negative chunk": [CHUNKED + b"-1\r\n", send_forever(b"x" * 65536)],
    "headers": [b"HTTP/1.1 200 OK\r\n", send_forever(b"X: " + b"y" * 60000 + b"\r\n")],
}


@pytest.mark.parametrize("case", FLOODS)
def test_a_response_without_an_end_is_not_read_forever(case: str) -> None:
    no_response(post(client_for(Server([FLOODS[case]]))), "more than 1,048,576 bytes")


def test_interim_responses_without_an_end_are_not_read_forever() -> None:
    server = Server([[send_forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)]])
    no_response(post(client_for(server)), "")


#### Incomplete responses

CUT_OFF = {
    "no body": b"Content-Length: 20\r\n\r\n",
    "half a body": b'Content-Length: 20\r\n\r\n{"a": 1}',
    "no last chunk": b'Transfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n',
    "no end of the chunk": b'Transfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1}',
    "half a chunk": b'Transfer-Encoding: chunked\r\n\r\n9\r\n{"a": 1}',
    "no chunk": b"Transfer-Encoding: chunked\r\n\r\n",
    "no blank line": b"Content-Type: a/b\r\n",
    "half a header": b"Content-Type: a/",
    "no header": b"",
}


@pytest.mark.parametrize("case", CUT_OFF)
def test_a_response_that_is_cut_off_counts_as_no_response(case: str, tls: Tls) -> None:
    """This holds for any status: with urllib3 1.26, a 400 would be considered complete."""
    cut_off = CUT_OFF[case]
    scripts: list[list[list[Step]]] = [
        [[OK], [b"HTTP/1.1 %d X\r\n" % status + cut_off]] for status in (200, 400, 500)
    ]
    server = Server(*scripts, [[OK]], tls=tls)
    client = client_for(server)
    for number in range(1, 4):
        ok(post(client))
        answer = no_response(post(client), "the response was cut off")
        assert not answer.is_stale_connection
        assert not answer.is_permanent
        assert server.connections == number
    ok(post(client), {"a": 1})


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_a_body_that_ends_with_the_connection_is_complete(
    version: bytes, tls: Tls
) -> None:
    server = Server([[version + b' 200 OK\r\nX: y\r\n\r\n{"a": 1}']], [[OK]], tls=tls)
    client = client_for(server)
    ok(post(client), {"a": 1})
    ok(post(client))
    assert server.connections == 2


def test_chunks_are_put_together(tls: Tls) -> None:
    data = CHUNKED + b'4;x=y\r\n{"a"\r\n4\r\n: 1}\r\n0\r\nTrailer: z\r\n\r\n'
    server = Server([[data], trickle(data, 0.001), [OK]], tls=tls)
    client = client_for(server)
    for _ in range(3):
        ok(post(client), {"a": 1})
    assert server.connections == 1


NOT_HTTP = {
    "page": b"<html>secret</html>",
    "version": b"HTTP/9.9 200 OK\r\n\r\n",
    "status": b"HTTP/1.1 abc\r\n\r\n",
    "binary": b"\0" * 70000,
    "200 headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 7\r\n\r\nsecret",
}


@pytest.mark.parametrize("case", NOT_HTTP)
def test_data_that_is_not_http_counts_as_no_response_and_is_not_shown(
    case: str,
) -> None:
    server = Server([[NOT_HTTP[case]]], [[OK]])
    client = client_for(server)
    answer = no_response(post(client), "no response (")
    assert "secret" not in answer.reason
    assert not answer.is_permanent
    ok(post(client))


#### Unsolicited bytes


@pytest.mark.parametrize("status", [101, 102, 103, 199])
def test_an_interim_response_is_the_last_one_of_its_connection(
    status: int, tls: Tls
) -> None:
    """A final response that arrives later would be taken for the next request's."""
    data = b"HTTP/1.1 %d X\r\n\r\n" % status
    server = Server([[data, 0.2, OTHER], [OTHER]], [[OK], [OK]], tls=tls)
    client = client_for(server)
    assert ok(post(client)).status == status
    ok(post(client), {"a": 1})
    eventually(lambda: server.closed == 1)
    ok(post(client), {"a": 1})


def test_100_continue_is_skipped(tls: Tls) -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\n"
    server = Server([[data, 0.1, OK], [data + OK]], tls=tls)
    client = client_for(server)
    ok(post(client), {"a": 1})
    ok(post(client), {"a": 1})
    assert server.connections == 1


UNSOLICITED: dict[str, list[Step]] = {
    "another response": [OK + OTHER],
    "more than http.client's buffer": [OK + OTHER * 500],
    "a blank line": [OK + b"\r\n"],
    "at once": [OK, OTHER],
    "later": [OK, 0.05, OTHER],
    "half of it later": [OK + OTHER[:20], 0.1, OTHER[20:]],
    "after 204": [b"HTTP/1.1 204 No Content\r\n\r\n" + OTHER],
    "body of a 204": [b'HTTP/1.1 204 No Content\r\n\r\n{"b": 2}'],
    "body of a 304": [
        b'HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\n{"b": 2}'
    ],
    "after chunks": [CHUNKED + b"0\r\n\r\n" + OTHER],
}


@pytest.mark.parametrize("case", UNSOLICITED)
def test_unsolicited_bytes_are_not_the_next_response(case: str, tls: Tls) -> None:
    sent = threading.Event()
    server = Server(
        [[*UNSOLICITED[case], lambda _: sent.set()], [OTHER]], [[OK]], tls=tls
    )
    client = client_for(server)
    ok(post(client))
    sent.wait(SOON)
    time.sleep(0.05)  # loopback delivers them within that time
    ok(post(client), {"a": 1})
    assert server.connections == 2


@pytest.mark.parametrize("size", [8192, 16384])
def test_a_response_that_just_fills_the_buffer_keeps_its_connection(
    size: int, tls: Tls
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    body = b"x" * (size - len(head) + 2 - len(str(size - len(head))))
    data = head % len(body) + body
    assert len(data) == size
    sent = threading.Event()
    server = Server(
        [[data], [data + OTHER, lambda _: sent.set()], [OTHER]], [[OK]], tls=tls
    )
    client = client_for(server)
    assert ok(post(client)).body == body
    assert ok(post(client)).body == body
    assert server.connections == 1
    sent.wait(SOON)
    time.sleep(0.05)  # over TLS, OTHER is a separate record and may arrive later
    ok(post(client), {"a": 1})
    assert server.connections == 2


def test_length_and_chunks_together_end_the_connection() -> None:
    """A proxy may disagree about where such a response ends."""
    both = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    server = Server([[both], [OTHER]], [[OK]])
    client = client_for(server)
    ok(post(client))
    ok(post(client), {"a": 1})


def test_connection_close_is_obeyed(tls: Tls) -> None:
    closing = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n", 1)
    server = Server([[closing], [OTHER]], [[OK]], tls=tls)
    client = client_for(server)
    ok(post(client), {"a": 1})
    ok(post(client), {"a": 1})
    assert server.connections == 2


#### Stale connections

ENDS: dict[str, Step] = {"closed": Connection.close, "reset": Connection.reset}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_kept_alive_connection_that_is_closed_is_stale(end: Step, tls: Tls) -> None:
    server = Server([[OK], [end]], [[OK]], tls=tls)
    client = client_for(server)
    ok(post(client))
    answer = no_response(post(client), "the server closed the idle connection")
    assert answer.is_stale_connection
    assert not answer.is_permanent
    ok(post(client, fresh=True), {"a": 1})
    assert server.connections == 2


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_new_connection_that_is_closed_is_not_stale(end: Step, tls: Tls) -> None:
    server = Server([[end]], [[OK], [0.1, end]], tls=tls)
    client = client_for(server)
    assert not no_response(post(client), "connection lost").is_stale_connection
    ok(post(client))
    assert no_response(post(client), "").is_stale_connection


STARTS = [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", OK[:-1]]


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_connection_closed_after_some_bytes_is_not_stale(end: Step, tls: Tls) -> None:
    scripts: list[list[list[Step]]] = [[[OK], [start, 0.05, end]] for start in STARTS]
    server = Server(*scripts, tls=tls)
    client = client_for(server)
    for _ in STARTS:
        ok(post(client))
        assert not no_response(post(client), "").is_stale_connection


def test_an_idle_connection_that_was_closed_is_replaced_silently(tls: Tls) -> None:
    server = Server([[OK]], tls=tls)
    client = client_for(server)
    for number in (1, 2, 3):
        ok(post(client))
        eventually(lambda number=number: server.closed == number)  # type: ignore[misc]
    assert server.connections == 3


def test_a_broken_pipe_on_a_kept_alive_connection_is_stale(tls: Tls) -> None:
    def close_while_receiving(connection: Connection) -> None:
        connection.sock.recv(1000)
        connection.reset()

    server = Server([[OK, close_while_receiving]], [[OK]], tls=tls)
    client = client_for(server)
    ok(post(client))
    assert no_response(post(client, b"x" * 20_000_000), "").is_stale_connection
    ok(post(client), {"a": 1})


def test_a_response_may_come_before_the_request_is_complete() -> None:
    """A 413, for instance, is read although the rest of the body can't be sent."""

    def answer_early(connection: Connection) -> None:
        connection.sock.recv(1000)
        connection.sock.sendall(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
        connection.sock.shutdown(socket.SHUT_WR)
        connection.sock.settimeout(0.2)
        with contextlib.suppress(OSError):
            while connection.sock.recv(1_000_000):
                pass

    server = Server([[answer_early]], reads=False)
    assert ok(post(client_for(server), b"x" * 3_000_000)).status == 413


#### Network, TLS and proxy errors


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_refused_connection_is_reported_without_the_url() -> None:
    url = f"http://127.0.0.1:{free_port()}/users?auth_token=secret"
    answer = no_response(
        HttpClient(url, {}).request("POST", url),
        "no response (ConnectionRefusedError: ",
    )
    assert "secret" not in answer.reason
    assert not answer.is_permanent
    assert not answer.is_stale_connection


def test_an_unknown_host_is_not_permanent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    url = "https://nowhere.example/users"
    assert not no_response(
        HttpClient(url, {}).request("POST", url), "gaierror"
    ).is_permanent


def test_an_untrusted_certificate_is_permanent(tmp_path: Path) -> None:
    server = Server([[OK]], tls=make_certificate(tmp_path, "unknown", "127.0.0.1"))
    assert no_response(
        post(client_for(server)), "certificate verify failed"
    ).is_permanent
    assert not server.requests


@pytest.mark.parametrize("host", ["other.example", "127.0.0.2"])
def test_a_certificate_for_another_host_is_permanent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    server = Server([[OK]], tls=make_certificate(tmp_path, "other", host))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "other.pem"))
    assert no_response(post(client_for(server)), "ertificate").is_permanent
    assert not server.requests


@pytest.mark.parametrize(
    "content", [None, "", "nonsense", "-----BEGIN CERTIFICATE-----\nxx\n"]
)
def test_an_invalid_ca_bundle_is_permanent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trusted: ssl.SSLContext,
    content: str | None,
) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    assert no_response(post(client_for(Server([[OK]], tls=trusted))), "").is_permanent


def test_the_ca_bundle_may_be_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: ssl.SSLContext
) -> None:
    """It lacks the hashed links that OpenSSL looks for, so no certificate is found."""
    server = Server([[OK]], tls=trusted)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    assert no_response(
        post(client_for(server)), "certificate verify failed"
    ).is_permanent


def test_plain_http_on_a_tls_port_is_not_permanent() -> None:
    server = Server([[b"HTTP/1.1 400 Bad Request\r\n\r\n"]], reads=False)
    server.url = server.url.replace("http:", "https:")
    assert not no_response(post(client_for(server)), "").is_permanent


INVALID_PROXIES = [
    "http://",
    "ftp://127.0.0.1:1",
    "http://127.0.0.1:port",
    "socks5://127.0.0.1:1",
    "http://user:secret@[::1",
    "http://user:secret@:80",
]


@pytest.mark.parametrize("proxy", INVALID_PROXIES)
def test_an_invalid_proxy_is_permanent(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    url = "http://intercom.example/users"
    answer = no_response(HttpClient(url, {}).request("POST", url), "")
    assert answer.is_permanent
    assert "secret" not in answer.reason


def test_http_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Server([[OK], [OK], [OK + OTHER]], [[OK]])
    monkeypatch.setenv("http_proxy", f"http://user:pass@127.0.0.1:{proxy.port}")
    url = "http://intercom.example/users?a=b"
    client = HttpClient(url, HEADERS)
    for _ in range(4):
        ok(client.request("POST", url, b"{}"), {"a": 1})
    request = proxy.requests[0]
    assert request.startswith(b"POST http://intercom.example/users?a=b HTTP/1.1\r\n")
    assert b"\r\nHost: intercom.example\r\n" in request
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n" in request
    assert proxy.connections == 2


def test_no_proxy_exempts_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server([[OK]])
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    no_response(post(client_for(server)), "")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ok(post(client_for(server)), {"a": 1})


def tunnel_to(server: Server, tls: Tls = None) -> Server:
    """Start a proxy that connects to `server`, whatever host it is asked for."""

    def forward(connection: Connection) -> None:
        connection.sock.sendall(
            b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"
        )
        other = socket.create_connection(("127.0.0.1", server.port))
        back = threading.Thread(target=copy, args=(other, connection.sock), daemon=True)
        back.start()
        copy(connection.sock, other)
        back.join()
        other.close()

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    return Server([[forward]], tls=tls)


def test_https_goes_through_a_tunnel(
    monkeypatch: pytest.MonkeyPatch, trusted: ssl.SSLContext
) -> None:
    """Only the proxy gets the proxy credentials; stale connections are detected."""
    scripts: list[list[list[Step]]] = [
        [[OK], [OK], [OK + OTHER], [OTHER]],
        [[OK], [Connection.close]],
        [[OK]],
    ]
    server = Server(*scripts, tls=trusted)
    proxy = tunnel_to(server)
    monkeypatch.setenv("https_proxy", f"http://user:pass@127.0.0.1:{proxy.port}")
    url = "https://localhost/users?a=b"
    client = HttpClient(url, HEADERS)
    for _ in range(3):
        ok(client.request("POST", url, b"{}"), {"a": 1})
    assert (server.connections, len(proxy.requests)) == (1, 1)
    ok(client.request("POST", url, b"{}"), {"a": 1})
    assert no_response(
        client.request("POST", url, b"{}"), "idle connection"
    ).is_stale_connection
    ok(client.request("POST", url, b"{}", fresh=True), {"a": 1})
    assert server.connections == 3
    assert proxy.requests[0].startswith(b"CONNECT localhost:443 HTTP/1.")
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n" in proxy.requests[0]
    assert b"Bearer token" not in proxy.requests[0]
    assert server.requests[0].startswith(b"POST /users?a=b HTTP/1.1\r\n")
    assert b"Proxy-Authorization" not in server.requests[0]


def test_the_proxy_may_be_reached_over_tls(
    monkeypatch: pytest.MonkeyPatch, trusted: ssl.SSLContext
) -> None:
    server = Server([[OK], [OK]], tls=trusted)
    proxy = tunnel_to(server, trusted)
    monkeypatch.setenv("https_proxy", f"https://127.0.0.1:{proxy.port}")
    url = "https://localhost/users"
    client = HttpClient(url, HEADERS)
    for _ in range(2):
        ok(client.request("POST", url, b"{}"), {"a": 1})


REFUSALS = [(407, True), (403, True), (429, False), (502, False), (503, False)]


@pytest.mark.parametrize(("status", "is_permanent"), REFUSALS)
def test_the_status_of_a_proxy_that_refuses_to_connect_is_reported(
    monkeypatch: pytest.MonkeyPatch, status: int, is_permanent: bool
) -> None:
    page = b"HTTP/1.1 %d you sent a secret\r\nContent-Length: 6\r\n\r\nsecret" % status
    proxy = Server([[page]])
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    url = "https://localhost/users"
    answer = no_response(HttpClient(url, {}).request("POST", url), f"status {status}")
    assert answer.is_permanent == is_permanent
    assert "secret" not in answer.reason


SLOW_PROXIES: dict[str, list[Step]] = {
    "silent": [FOREVER],
    "trickles": [*trickle(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20), FOREVER],
}


@pytest.mark.parametrize("case", SLOW_PROXIES)
@pytest.mark.parametrize("constant", ["CONNECT_TIMEOUT", "RESPONSE_TIMEOUT"])
def test_the_time_limits_apply_to_a_proxy_too(
    monkeypatch: pytest.MonkeyPatch, case: str, constant: str
) -> None:
    monkeypatch.setattr(export_csv, constant, LIMIT)
    proxy = Server([SLOW_PROXIES[case]])
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    url = "https://localhost/users"
    timed_out(HttpClient(url, {}).request("POST", url), time.monotonic())


def test_no_request_raises() -> None:
    server = Server([[OK]])
    impossible = [
        ("POST", "http://[::1"),
        ("PO ST\r\n", server.url),
        ("POST", "http://" + "a" * 70 + ".example/x"),
        ("POST", "nonsense"),
        ("POST", ""),
    ]
    for method, url in impossible:
        no_response(HttpClient(url, {}).request(method, url), "")
    no_response(post(HttpClient(server.url, {"X": "a\r\nb: c"})), "")


def test_the_time_limits_are_those_of_the_design() -> None:
    """Two minutes for a response, ten seconds of them for connecting."""
    assert (export_csv.RESPONSE_TIMEOUT, export_csv.CONNECT_TIMEOUT) == (120, 10)
