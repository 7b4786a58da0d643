"""To Intercom: what each answer leads to, and what each request looks like."""

from __future__ import annotations

import base64
import itertools
import json
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from shutil import which
from typing import Any

import pytest
from conftest import Project, Result, eventually, imported, lines_of
from sandbox import Fault, Request, Sandbox

import export_csv

CONTACTS = "https://api.intercom.io/contacts"
PAGE = b"<html><h1>Access\nblocked</h1></html>"


def unkept(result: Result) -> list[str]:
    """The user_ids of the rows that were not imported."""
    return [row[0] for row in result.not_imported_rows()[1:]]


#### In, and in after some tries

IN: list[dict[str, Any]] = [
    *({"type": "user"}, {"type": "contact"}, {"id": "6762-f_0"}),
    *({"type": "user", "id": None}, {"type": "contact", "id": "a/b", "role": "lead"}),
    {"type": "user", "name": "x" * (2**20 - 28)},  # in JSON, a mebibyte, which is the most
]
NOT_IN: list[dict[str, Any]] = [
    *({"id": None}, {"id": ""}, {"id": "a b"}, {"id": True}, {"id": ["6762f0"]}),
    *({"type": ["user"]}, {"type": "admin", "id": "1"}, {"id": "1", "errors": [{"code": "x"}]}),
    *({"type": "list", "data": [{"id": "1"}]}, {"type": "error.list", "id": "1", "errors": []}),
]


def test_only_an_answer_with_a_type_or_id_is_a_user(project: Project, sandbox: Sandbox) -> None:
    """Whatever 2xx it is; what is something else is tried again."""
    left = {f"u{n}": json.dumps(body).encode() for n, body in enumerate([*IN, *NOT_IN], 1)}
    assert max(map(len, left.values())) == 2**20
    count, statuses = len(left), itertools.cycle([200, 201, 202, 299])

    def fault(request: Request) -> Fault | None:
        body = left.pop(request.body["user_id"], None)
        return Fault(status=next(statuses), body=body) if body else None

    sandbox.fault_for = fault
    project.users(count)
    result = project.run()
    assert (result.status, result.counts()) == (0, (count, 0, 0)), result
    tries = [imported(project).count(f"u{n}") for n in range(1, count + 1)]
    assert tries == [1] * len(IN) + [2] * len(NOT_IN)


@pytest.mark.parametrize("body", [PAGE, b'{"status": "ok"}', json.dumps(NOT_IN[-1]).encode()])
def test_a_check_believes_no_page(project: Project, sandbox: Sandbox, body: bytes) -> None:
    sandbox.faults, sandbox.faults_on_me = [Fault(status=200, body=body)], True
    project.users(1)
    result = project.run("--check", "--quiet")
    assert result.status == 1, result
    assert lines_of(result.out, "Intercom: ", 200)


TROUBLE = {
    **{str(status): Fault(status=status) for status in (408, 429, 500, 501, 502, 503, 504, 599)},
    "HTML": Fault(status=502, body=b"<html><h1>Bad\nGateway</h1></html>"),
    "half JSON": Fault(status=500, body=b'{"type": "error.list", "errors": [{'),
    "no body": Fault(status=503, body=b""),
    "late": Fault(status=503, trickle=0.05),
    "page": Fault(status=200, body=PAGE),
}
BROKEN = {
    "drop": Fault(drop=True),
    "drop after acting": Fault(drop=True, acts=True),
    "reset": Fault(reset=True),
    "reset after acting": Fault(reset=True, acts=True),
    "cut": Fault(status=200, body=b"x" * 999, cut=True),
    "cut after acting": Fault(acts=True, cut=True),
    "cut error": Fault(status=400, cut=True),
    "103 alone": Fault(status=103),
    "103 and more": Fault(early=103),
    "199 and an error": Fault(status=422, early=199),
    "too long": Fault(status=200, body=b'{"type": "user"}' + b" " * 2**21),
}


def test_trouble_that_passes_is_overcome(project: Project, sandbox: Sandbox) -> None:
    """Each kind of it: the request is sent again, the user is in once, both logs tell. Where the
    answer was not whole and final, its connection is not used again."""
    troubles = TROUBLE | BROKEN
    left = {f"u{n}": [fault] * (n % 3 + 1) for n, fault in enumerate(troubles.values(), 1)}

    def fault(request: Request) -> Fault | None:
        faults = left[request.body["user_id"]]
        return faults.pop() if faults else None

    sandbox.fault_for = fault
    project.users(len(troubles))
    result = project.run()
    assert (result.status, result.counts()) == (0, (len(troubles), 0, 0)), result
    assert len(sandbox.users) == len(troubles)
    for n, name in enumerate(troubles, 1):
        reason = name if name.isdigit() else "no answer" if name in ("drop", "reset") else ""
        for log in (result.debug_log, result.error_log):
            words = (" WARNING ", f"line {n + 1} ", f"u{n}", "retry", "0.01 s", reason)
            assert len(lines_of(log, *words)) == n % 3 + 1, (name, log)
        connections = [one.connection for one in sandbox.requests if one.body["user_id"] == f"u{n}"]
        assert len(connections) == n % 3 + 2
        assert len(set(connections)) == (len(connections) if name in BROKEN else 1), name


def test_what_follows_a_1xx_is_not_the_next_ones_answer(project: Project, sandbox: Sandbox) -> None:
    """Though it comes while that one waits for its own."""
    refused, late = Fault(status=422, early=100), Fault(status=422, early=103, delay=0.1)
    sandbox.faults_of = {"u2": late, "u4": refused, "u5": Fault(early=100), "u6": late}
    project.configure(intercom={"retries": 1})
    project.users(8)
    result = project.run()
    assert (result.status, result.counts()) == (1, (5, 0, 3)), result
    assert unkept(result) == ["u2", "u4", "u6"]
    assert [user["user_id"] for user in sandbox.users.values()] == ["u1", "u3", "u5", "u7", "u8"]


#### Answers that don't come to an end

SLOW = {
    "headers": Fault(trickle_headers=60),
    "body": Fault(trickle=60),
    "error": Fault(status=422, trickle=60),
    "chunks": Fault(trickle=60, chunk=5),
    "endless": Fault(endless=True, trickle=2),
    "nothing": Fault(delay=60),
}


@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW)
def test_an_answer_that_trickles_is_none_and_holds_up_no_end(
    project: Project, sandbox: Sandbox, fault: Fault
) -> None:
    """It is given up after MAX_ANSWER_TIME and asked for again; the run ends in that time too."""
    assert export_csv.MAX_ANSWER_TIME == 120
    project.with_constants(MAX_ANSWER_TIME=0.4)
    sandbox.faults_of = {"u2": fault}
    project.users(5)
    child = project.start()
    eventually(lambda: imported(project).count("u2") == 3)
    child.send(signal.SIGINT)
    result = child.wait(25)
    assert (result.status, result.counts()) == (130, (1, 0, 4)), result
    assert unkept(result) == ["u2", "u3", "u4", "u5"]
    connections = [one.connection for one in sandbox.requests[1:]]
    assert len(set(connections)) == len(connections)


GARBAGE = [
    b"",
    b"\0\1\2\3\r\n\r\n",
    b"no HTTP at all\r\n\r\n",
    b"HTTP/1.1 twohundred OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
    b"HTTP/1.1 503 Caf\xe9\r\nContent-Length: 1\r\nRetry-After: \xff\r\n\r\n\xff",
    b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
]
ENDLESS = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    b"HTTP/1.1 422 X\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
]
GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"type": "user"}'


@contextmanager
def raw_server(reply: Callable[[socket.socket, int], None]) -> Iterator[str]:
    """The URL of a server that hears one request a connection and replies in its own way."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            number = 0
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        heard = b""
                        while not heard.endswith(b"}") and (part := connection.recv(65536)):
                            heard += part
                        if heard:
                            number += 1
                            reply(connection, number - 1)
                            connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/users"
        with suppress(OSError):  # Windows' accept ends when the socket is closed
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


@pytest.mark.parametrize("concurrency", [1, 5])
def test_what_is_no_http_or_has_no_end_is_tried_again(project: Project, concurrency: int) -> None:
    """Whatever is said of its length, it is read to a limit."""
    replies, sizes = [*GARBAGE, *ENDLESS, GOOD], [0] * 50

    def reply(connection: socket.socket, number: int) -> None:
        connection.sendall(replies[number])
        data = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
        while replies[number] in ENDLESS and sizes[number] < 2**28:
            connection.sendall(data)
            sizes[number] += len(data)

    project.users(1)
    with raw_server(reply) as url:
        project.configure(intercom={"user_url": url, "concurrency": concurrency})
        result = project.run()
    assert (result.status, result.counts()) == (0, (1, 0, 0)), result
    assert len(lines_of(result.error_log, "line 2 ", "retry")) == len(replies) - 1
    assert 0 < max(sizes) < 2**26
    assert "Traceback" not in result.debug_log
    assert max(map(len, result.debug_log.splitlines())) < 2000


def test_a_server_that_is_not_there_is_tried_again(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/users"
    project.users(3)
    project.configure(intercom={"user_url": url, "retries": 2})
    result = project.run()
    assert (result.status, result.counts()) == (1, (0, 0, 3)), result
    assert len(lines_of(result.error_log, "retry")) == 4
    assert "refused" in result.err


#### Retries used up


@pytest.mark.parametrize("retries", [0, 3])
def test_a_user_out_of_retries_is_kept(project: Project, sandbox: Sandbox, retries: int) -> None:
    """And the next one is, as often as this happens."""
    project.configure(intercom={"retries": retries})
    sandbox.faults_of = dict.fromkeys(("u2", "u4", "u6"), Fault(status=503))
    project.users(7)
    result = project.run()
    assert (result.status, result.counts()) == (1, (4, 0, 3)), result
    assert unkept(result) == ["u2", "u4", "u6"]
    assert imported(project).count("u2") == 1 + retries
    assert lines_of(result.error_log, "line 3 ", "u2", "not imported", "503")
    assert "stopped" not in result.err


@pytest.mark.parametrize("fault", [Fault(drop=True), Fault(status=200, body=PAGE)], ids=str)
def test_two_in_a_row_stop_the_run(project: Project, sandbox: Sandbox, fault: Fault) -> None:
    project.configure(intercom={"retries": 2})
    sandbox.faults_of = {f"u{n}": fault for n in range(3, 7)}
    project.users(6)
    result = project.run()
    assert (result.status, result.counts()) == (1, (2, 0, 4)), result
    assert unkept(result) == ["u3", "u4", "u5", "u6"]
    assert imported(project) == ["u1", "u2", *["u3"] * 3, *["u4"] * 3]
    assert "Intercom is down" in result.err


#### Wrong settings

API_KEY = {"access_token": None, "api_id": "sandbox-app", "api_key": "sandbox-key-0123456789"}
ON_CONTACTS = [300, 301, 302, 304, 307, 308, 404, 405, 406]
STOPPING = {
    "401": (Fault(status=401), ("access_token",)),
    "402": (Fault(status=402), ("plan",)),
    "403": (Fault(status=403), ("token",)),
    "401 of no Intercom": (Fault(status=401, body=PAGE), ("access_token",)),
    "402 of no Intercom": (Fault(status=402, body=PAGE), ("plan",)),
    **{str(status): (Fault(status=status), ("user_url", CONTACTS)) for status in ON_CONTACTS},
}


@pytest.mark.parametrize("case", STOPPING)
def test_wrong_settings_stop_the_run_at_once(project: Project, sandbox: Sandbox, case: str) -> None:
    """Though a user was accepted before; what it says with them is not followed."""
    fault, words = STOPPING[case]
    with Sandbox() as elsewhere:
        fault.headers["Location"] = elsewhere.users_url
        sandbox.faults_of = {"u2": fault}
        project.users(4)
        result = project.run()
        assert not elsewhere.requests
    assert (result.status, result.counts()) == (1, (1, 0, 3)), result
    assert imported(project) == ["u1", "u2"]
    assert unkept(result) == ["u2", "u3", "u4"]
    assert lines_of(result.error_log, "line 4 ", "not imported", "stopped")
    for text in (result.err, result.error_log):
        for word in (case[:3], *words):
            assert word in text


@pytest.mark.parametrize(("status", "count"), [(404, 2), (405, 1), (406, 1)])
def test_of_a_row_with_an_id_404_alone_is_about_that_row(
    project: Project, sandbox: Sandbox, status: int, count: int
) -> None:
    sandbox.faults = [Fault(), Fault(status=status, code="not-found", message="No such")]
    project.write("id,user_id\n,u1\nnobody,u2\n,u3\n")
    result = project.run()
    assert (result.status, result.counts()) == (1, (count, 0, 3 - count)), result
    assert lines_of(result.error_log, "line 3 ", status, "not-found", "No such")


#### Users that Intercom refuses


def test_a_refusal_has_code_message_and_request_id(project: Project, sandbox: Sandbox) -> None:
    for n in (1, 2):
        sandbox.users[f"x{n}"] = {"id": f"x{n}", "user_id": f"x{n}", "email": "a@example.com"}
    listed = [{"code": f"c-{n}", "message": f"No. {n}"} for n in (1, 2)]
    errors = {"type": "error.list", "request_id": "r-17", "errors": listed}
    sandbox.faults_of = {"u1": Fault(status=422, body=json.dumps(errors).encode())}
    project.write("user_id,email\nu1,\n,a@example.com\nu3,\n")
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, 2)), result
    assert [request.status for request in sandbox.requests] == [422, 409, 200]
    words = ("u1", "not imported", 422, "c-1", "No. 1", "c-2", "No. 2", "r-17")
    assert lines_of(result.error_log, " ERROR ", "line 2 ", *words)
    assert lines_of(result.error_log, "line 3 ", "a@example.com", "Multiple existing users")


def test_any_other_4xx_is_about_its_row_and_final(project: Project, sandbox: Sandbox) -> None:
    """Whatever the shape of its error list, of which None is the usual one."""
    refused = [400, 407, 409, 410, 411, 413, 415, 422, 423, 451, 499]
    bodies = [
        *[None] * len(refused),
        *(b"", b"<html>", b"null", b"[]", b"{}", b"17", b'"x"', b"\xff\xfe", b"nonsense", b"NaN"),
        *(b'{"errors": null}', b'{"errors": []}', b'{"errors": {}}', b'{"errors": ["x", 3, null]}'),
        b'{"errors": [{}, {"code": 5, "message": [1]}], "request_id": {}}',
        b'{"errors": [{"code": "\\u0000\\n2026-01-01T00:00:00 forged", "message": "\\ud800"}]}',
        b"[" * 100_000,
        b'{"errors": [{"code": "x", "message": "' + b"y" * 500_000 + b'"}]}',
        b"9" * 5000,
        b"x" * 2**20,
    ]
    statuses = itertools.cycle(refused)
    faults = [Fault(status=next(statuses), body=body) for body in bodies]
    sandbox.faults = list(faults)
    project.users(len(bodies) + 1)
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, len(bodies))), result
    assert "Traceback" not in result.debug_log
    for number, fault in enumerate(faults, 2):
        (line,) = lines_of(result.error_log, f"line {number} ", "not imported", fault.status)
        assert len(line) < 20_000
    assert not [line for line in result.debug_log.splitlines() if line.startswith("2026-01-01")]


@pytest.mark.parametrize("status", [400, 422])
def test_the_first_100_users_refused(project: Project, sandbox: Sandbox, status: int) -> None:
    """Then the settings don't suit the workspace: the run stops."""
    sandbox.faults = [Fault(status=status)] * 100
    sandbox.faults[50:50] = [Fault(status=503)]
    project.users(103)
    result = project.run()
    assert (result.status, result.counts()) == (1, (0, 0, 103)), result
    assert len(sandbox.requests) == 101
    assert unkept(result) == [f"u{n}" for n in range(1, 104)]
    assert CONTACTS in result.err
    assert "100" in result.err
    assert "field id" not in result.err


@pytest.mark.parametrize(
    "statuses", [[400] * 99, [None, *[400] * 101], [409] * 101], ids=["99", "later on", "conflicts"]
)
def test_other_refused_users_do_not_stop_the_run(
    project: Project, sandbox: Sandbox, statuses: list[int | None]
) -> None:
    sandbox.faults = [Fault(status=status) for status in statuses]
    project.users(103)
    refused = len([*filter(None, statuses)])
    assert project.run().counts() == (103 - refused, 0, refused)
    assert len(sandbox.requests) == 103


#### What a request looks like

BEARER = "Bearer sandbox-token-0123456789"
BASIC = f"Basic {base64.b64encode(b'sandbox-app:sandbox-key-0123456789').decode()}"
# the path of user_url, other keys, and what is sent for Authorization and Intercom-Version
HEADERS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "token": ("/users", {}, BEARER, "1.4"),
    "key": ("/users", API_KEY, BASIC, "1.4"),
    "version": ("/users", {"api_version": "1.1"}, BEARER, "1.1"),
    "contacts": ("/contacts", {}, BEARER, "2.14"),
    "version of contacts": ("/contacts", {"api_version": "2.15"}, BEARER, "2.15"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_the_headers_of_a_request(project: Project, sandbox: Sandbox, case: str) -> None:
    """Neither .netrc nor a cookie adds to them."""
    path, keys, authorization, version = HEADERS[case]
    netrc = project.folder / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    sandbox.faults = [Fault(headers={"Set-Cookie": "a=b; Path=/"})]
    project.configure(intercom={**keys, "user_url": sandbox.url + path})
    project.users(2)
    assert project.run(env={"NETRC": str(netrc)}).status == 0
    assert len(sandbox.requests) == 2
    for request in sandbox.requests:
        assert (request.method, request.path, request.query) == ("POST", path, {})
        assert request.headers["Authorization"] == authorization
        assert request.headers["Intercom-Version"] == version
        assert request.headers["Accept"] == "application/json"
        assert request.headers["Content-Type"].split(";")[0] == "application/json"
        assert "Cookie" not in request.headers
        assert request.raw.isascii()


@pytest.mark.parametrize("concurrency", [1, 8])
def test_connections_are_kept(project: Project, sandbox: Sandbox, concurrency: int) -> None:
    """Also behind whole answers that are no acceptance."""
    sandbox.latency = 0.005
    project.configure(intercom={"concurrency": concurrency})
    sandbox.faults = [Fault(status=400), Fault(status=503), Fault(status=200, body=PAGE)]
    project.users(60)
    assert project.run().counts() == (59, 0, 1)
    assert len({request.connection for request in sandbox.requests}) <= concurrency


URLS = {
    **dict.fromkeys(["http://10.0.0.1/users", "http://localhost.example.com/users"], 2),
    **dict.fromkeys(["http://[::2]/users", "ftp://127.0.0.1/users"], 2),
    **dict.fromkeys(
        ["http://127.1.2.3/users", "http://localhost:1/users", "http://[::1]:1/users"], 0
    ),
    "https://gateway.example.com:8443/intercom/users": 0,
}


@pytest.mark.parametrize("url", URLS)
def test_https_only_save_on_loopback(project: Project, url: str) -> None:
    project.configure(intercom={"user_url": url})
    project.users(1)
    result = project.run("--dry-run")
    assert result.status == URLS[url], result
    assert ("[intercom] user_url" in result.err) == bool(URLS[url])


#### Proxies and certificates


@pytest.mark.parametrize(
    ("name", "no_proxy"),
    [("HTTP_PROXY", ""), ("http_proxy", ""), ("ALL_PROXY", ""), ("HTTP_PROXY", "127.0.0.1")],
)
def test_the_proxy_of_the_environment_is_used(project: Project, name: str, no_proxy: str) -> None:
    """Unless NO_PROXY names the host. The stand-in takes the requests of a proxy."""
    with Sandbox() as proxy:
        project.users(2)
        result = project.run(env={name: proxy.url, "NO_PROXY": no_proxy})
        assert result.counts() == (2, 0, 0), result
        asked, others = (project.sandbox, proxy) if no_proxy else (proxy, project.sandbox)
        assert (len(asked.requests), others.requests) == (2, [])


CERTIFICATE = "certificate.pem"


@pytest.fixture
def tls(project: Project) -> Iterator[Sandbox]:
    """A stand-in behind a certificate that nobody knows, for the project's user_url."""
    if not which("openssl"):
        pytest.skip("makes a certificate with openssl")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", "key.pem", "-out", CERTIFICATE]
    subprocess.run(command, check=True, capture_output=True, cwd=project.folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(project.folder / CERTIFICATE, project.folder / "key.pem")
    with Sandbox(tls=context) as sandbox:
        project.configure(intercom={"user_url": sandbox.users_url})
        yield sandbox


BUNDLE, PROXY = "REQUESTS_CA_BUNDLE", "HTTPS_PROXY"
# the host of user_url, the environment, and a word that tells
NO_WAY = {
    "missing certificates": ("127.0.0.1", {BUNDLE: "/nowhere/certificates.pem"}, BUNDLE),
    "no certificates": ("127.0.0.1", {BUNDLE: __file__}, BUNDLE),
    "no proxy": ("127.0.0.1", {PROXY: "unheard-of://127.0.0.1:9"}, PROXY),
    "no SOCKS": ("127.0.0.1", {PROXY: "socks5://127.0.0.1:9"}, PROXY),
    "an unknown certificate": ("127.0.0.1", {}, "CERTIFICATE_VERIFY_FAILED"),
    "another name's": ("localhost", {BUNDLE: CERTIFICATE}, "localhost"),
}


@pytest.mark.parametrize("case", NO_WAY)
def test_what_can_never_connect_stops_the_run(project: Project, tls: Sandbox, case: str) -> None:
    """At the first try."""
    host, environment, word = NO_WAY[case]
    project.configure(intercom={"user_url": tls.users_url.replace("127.0.0.1", host)})
    project.users(3)
    result = project.run(env=environment)
    assert (result.status, result.counts()) == (1, (0, 0, 3)), result
    assert word in result.err
    assert "retry" not in result.debug_log
    assert unkept(result) == ["u1", "u2", "u3"]
    assert tls.requests == []
    assert next(tls.connections) <= 2  # so there was one at most


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_of_the_environment_count(project: Project, tls: Sandbox, name: str) -> None:
    project.users(2)
    assert project.run(env={name: CERTIFICATE}).counts() == (2, 0, 0)
    assert len(tls.requests) == 2
    assert next(tls.connections) == 2  # so there was one
