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
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from conftest import Project, Result, eventually
from sandbox import Fault, Request, Sandbox

import export_csv

CONTACTS = "https://api.intercom.io/contacts"
PAGE = b"<html><h1>Access\nblocked</h1></html>"


def ids(sandbox: Sandbox) -> list[str]:
    """The users of all requests, in their order."""
    return [request.body["user_id"] for request in sandbox.requests]


def of(users: dict[str, Fault]) -> Callable[[Request], Fault | None]:
    """A fault for each request of some users."""
    return lambda request: users.get((request.body or {}).get("user_id", ""))


def lines_of(log: str, *words: object) -> list[str]:
    return [line for line in log.splitlines() if all(str(word) in line for word in words)]


def unkept(result: Result) -> list[str]:
    """The user_ids of the rows that were not imported."""
    return [row[0] for row in result.not_imported_rows()[1:]]


#### In, and in after some tries

IN: list[dict[str, Any]] = [
    *({"type": "user"}, {"type": "contact"}, {"id": "6762-f_0"}),
    *({"type": "user", "id": None}, {"type": "contact", "id": "a/b", "role": "lead"}),
]
NOT_IN: list[dict[str, Any]] = [
    *({"id": None}, {"id": ""}, {"id": "a b"}, {"id": True}, {"id": ["6762f0"]}),
    *({"type": ["user"]}, {"type": "admin", "id": "1"}, {"id": "1", "errors": [{"code": "x"}]}),
    *({"type": "list", "data": [{"id": "1"}]}, {"type": "error.list", "id": "1", "errors": []}),
]


def test_a_user_with_its_type_or_id_is_in_and_nothing_else(
    project: Project, sandbox: Sandbox
) -> None:
    """Whatever 2xx it is; what is something else is tried again."""
    left = {f"u{n}": json.dumps(body).encode() for n, body in enumerate([*IN, *NOT_IN], 1)}
    count, statuses = len(left), itertools.cycle([200, 201, 202, 299])

    def fault(request: Request) -> Fault | None:
        body = left.pop(request.body["user_id"], None)
        return Fault(status=next(statuses), body=body) if body else None

    sandbox.fault_for = fault
    project.users(count)
    result = project.run()
    assert (result.status, result.counts()) == (0, (count, 0, 0)), result
    tries = [ids(sandbox).count(f"u{n}") for n in range(1, count + 1)]
    assert tries == [1] * len(IN) + [2] * len(NOT_IN)


@pytest.mark.parametrize("body", [PAGE, b'{"status": "ok"}', json.dumps(NOT_IN[-1]).encode()])
def test_a_check_believes_no_page_that_says_200(
    project: Project, sandbox: Sandbox, body: bytes
) -> None:
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
    """Each kind of it: the request is sent again, the user is in once, the logs tell. Where the
    answer was not whole and final, its connection is not used again."""
    troubles = TROUBLE | BROKEN
    left = {f"u{n}": [fault] * (n % 3 + 1) for n, fault in enumerate(troubles.values(), 1)}

    def fault(request: Request) -> Fault | None:
        faults = left[request.body["user_id"]]
        return faults.pop() if faults else None

    sandbox.fault_for = fault
    project.users(len(troubles))
    result = project.run()
    assert result.status == 0, result
    assert result.counts() == (len(troubles), 0, 0)
    assert len(sandbox.users) == len(troubles)
    assert ids(sandbox) == [f"u{n}" for n in range(1, len(troubles) + 1) for _ in range(n % 3 + 2)]
    for n, name in enumerate(troubles, 1):
        for log in (result.debug_log, result.error_log):
            retries = lines_of(log, f"line {n + 1} ", f"u{n}", "retry")
            assert len(retries) == n % 3 + 1, (name, log)
            assert not name.isdigit() or all(name in line for line in retries)
        connections = [one.connection for one in sandbox.requests if one.body["user_id"] == f"u{n}"]
        assert len(set(connections)) == (len(connections) if name in BROKEN else 1), name


def test_what_follows_a_1xx_is_not_the_next_ones_answer(project: Project, sandbox: Sandbox) -> None:
    """Though it comes while that one waits for its own."""
    refused, late = Fault(status=422, early=100), Fault(status=422, early=103, delay=0.1)
    sandbox.fault_for = of({"u2": late, "u4": refused, "u5": Fault(early=100), "u6": late})
    project.configure(intercom={"retries": 1})
    project.users(8)
    result = project.run()
    assert (result.status, result.counts()) == (1, (5, 0, 3)), result
    assert unkept(result) == ["u2", "u4", "u6"]
    assert [user["user_id"] for user in sandbox.users.values()] == ["u1", "u3", "u5", "u7", "u8"]


def test_an_answer_of_a_mebibyte_is_one(project: Project, sandbox: Sandbox) -> None:
    body = b'{"type": "user"}'
    sandbox.faults = [Fault(body=body + b" " * (2**20 - len(body)))]
    project.users(1)
    assert project.run().counts() == (1, 0, 0)
    assert len(sandbox.requests) == 1


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
    sandbox.fault_for = of({"u2": fault})
    project.users(5)
    child = project.start()
    eventually(lambda: ids(sandbox).count("u2") == 3)
    child.send(signal.SIGTERM)
    result = child.wait(25)
    assert (result.status, result.counts()) == (143, (1, 0, 4)), result
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
        server.shutdown(socket.SHUT_RDWR)
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


def test_a_user_that_used_up_its_retries_is_not_imported(
    project: Project, sandbox: Sandbox
) -> None:
    """And the next one is, as often as this happens."""
    project.configure(intercom={"retries": 3})
    sandbox.fault_for = of(dict.fromkeys(("u2", "u4", "u6"), Fault(status=503)))
    project.users(7)
    result = project.run()
    assert (result.status, result.counts()) == (1, (4, 0, 3)), result
    assert unkept(result) == ["u2", "u4", "u6"]
    assert ids(sandbox).count("u2") == 4
    assert lines_of(result.error_log, "line 3 ", "u2", "not imported", "503")
    assert "stopped" not in result.err


@pytest.mark.parametrize("fault", [Fault(drop=True), Fault(status=200, body=PAGE)], ids=str)
def test_two_in_a_row_stop_the_run(project: Project, sandbox: Sandbox, fault: Fault) -> None:
    project.configure(intercom={"retries": 2})
    sandbox.fault_for = of({f"u{n}": fault for n in range(3, 7)})
    project.users(6)
    result = project.run()
    assert (result.status, result.counts()) == (1, (2, 0, 4)), result
    assert unkept(result) == ["u3", "u4", "u5", "u6"]
    assert ids(sandbox) == ["u1", "u2", *["u3"] * 3, *["u4"] * 3]
    assert "Intercom is down" in result.err


def test_retries_of_0_try_once(project: Project, sandbox: Sandbox) -> None:
    project.configure(intercom={"retries": 0})
    sandbox.fault_for = of({"u1": Fault(status=500)})
    project.users(2)
    assert project.run().counts() == (1, 0, 1)
    assert ids(sandbox) == ["u1", "u2"]


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
        sandbox.fault_for = of({"u2": fault})
        project.users(4)
        result = project.run()
        assert not elsewhere.requests
    assert (result.status, result.counts()) == (1, (1, 0, 3)), result
    assert ids(sandbox) == ["u1", "u2"]
    assert unkept(result) == ["u2", "u3", "u4"]
    for text in (result.err, result.error_log):
        for word in (case[:3], *words):
            assert word in text


@pytest.mark.parametrize(("status", "imported"), [(404, 2), (405, 1), (406, 1)])
def test_of_a_row_with_an_id_404_alone_is_about_that_row(
    project: Project, sandbox: Sandbox, status: int, imported: int
) -> None:
    sandbox.faults = [Fault(), Fault(status=status, code="not-found", message="No such")]
    project.write("id,user_id\n,u1\nnobody,u2\n,u3\n")
    result = project.run()
    assert (result.status, result.counts()) == (1, (imported, 0, 3 - imported)), result
    assert lines_of(result.error_log, "line 3 ", status, "not-found", "No such")


#### Users that Intercom refuses

REFUSED = [400, 407, 409, 410, 411, 413, 415, 422, 423, 451, 499]


def test_any_other_4xx_is_about_its_row_and_final(project: Project, sandbox: Sandbox) -> None:
    sandbox.faults = [Fault(status=status) for status in REFUSED]
    project.users(len(REFUSED) + 1)
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, len(REFUSED))), result
    for line, status in enumerate(REFUSED, 2):
        assert lines_of(result.error_log, f"line {line} ", "not imported", status)


def test_a_refused_user_is_told_with_code_message_and_request_id(
    project: Project, sandbox: Sandbox
) -> None:
    for n in (1, 2):
        sandbox.users[f"x{n}"] = {"id": f"x{n}", "user_id": f"x{n}", "email": "a@example.com"}
    listed = [{"code": f"c-{n}", "message": f"No. {n}"} for n in (1, 2)]
    errors = {"type": "error.list", "request_id": "r-17", "errors": listed}
    sandbox.fault_for = of({"u1": Fault(status=422, body=json.dumps(errors).encode())})
    project.write("user_id,email\nu1,\n,a@example.com\nu3,\n")
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, 2)), result
    assert [request.status for request in sandbox.requests] == [422, 409, 200]
    assert lines_of(
        result.error_log, "line 2 ", "u1", "422", "c-1", "No. 1", "c-2", "No. 2", "r-17"
    )
    assert lines_of(result.error_log, "line 3 ", "a@example.com", "Multiple existing users")


def test_errors_in_any_shape(project: Project, sandbox: Sandbox) -> None:
    bodies = [
        *(b"", b"<html>", b"null", b"[]", b"{}", b"17", b'"x"', b"\xff\xfe", b"nonsense", b"NaN"),
        *(b'{"errors": null}', b'{"errors": []}', b'{"errors": {}}', b'{"errors": ["x", 3, null]}'),
        b'{"errors": [{}, {"code": 5, "message": [1]}], "request_id": {}}',
        b'{"errors": [{"code": "\\u0000\\n2026-01-01T00:00:00 forged", "message": "\\ud800"}]}',
        b"[" * 100_000,
        b'{"errors": [{"code": "x", "message": "' + b"y" * 500_000 + b'"}]}',
        b"9" * 5000,
        b"x" * 2**20,
    ]
    sandbox.faults = [Fault(status=400, body=body) for body in bodies]
    project.users(len(bodies) + 1)
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, len(bodies))), result
    assert "Traceback" not in result.debug_log
    for n in range(len(bodies)):
        (line,) = lines_of(result.error_log, f"line {n + 2} ", "400")
        assert len(line) < 20_000
    assert not [line for line in result.debug_log.splitlines() if line.startswith("2026-01-01")]


@pytest.mark.parametrize(("refused", "status"), [(100, 400), (100, 422), (99, 400)])
def test_the_first_100_users_refused(
    project: Project, sandbox: Sandbox, refused: int, status: int
) -> None:
    """Then the settings don't suit the workspace: the run stops; not where one of them was in."""
    sandbox.faults = [Fault(status=status)] * refused
    sandbox.faults[50:50] = [Fault(status=503)]
    project.users(103)
    result = project.run()
    assert result.status == 1, result
    if refused == 100:
        assert result.counts() == (0, 0, 103)
        assert len(sandbox.requests) == 101
        assert unkept(result) == [f"u{n}" for n in range(1, 104)]
        assert CONTACTS in result.err
        assert "100" in result.err
        assert "field id" not in result.err
    else:
        assert result.counts() == (4, 0, 99)
        assert "stopped" not in result.err


@pytest.mark.parametrize(
    "faults", [[Fault(), *[Fault(status=400)] * 101], [Fault(status=409)] * 101]
)
def test_100_refused_later_on_or_by_conflicts_do_not_stop_the_run(
    project: Project, sandbox: Sandbox, faults: list[Fault]
) -> None:
    sandbox.faults = faults
    project.users(103)
    assert project.run().counts() == (2, 0, 101)


#### What a request looks like

PAIR = base64.b64encode(b"sandbox-app:sandbox-key-0123456789").decode()


@pytest.mark.parametrize(
    ("keys", "authorization", "version"),
    [
        ({}, "Bearer sandbox-token-0123456789", "1.4"),
        (API_KEY, f"Basic {PAIR}", "1.4"),
        ({"api_version": "1.1"}, "Bearer sandbox-token-0123456789", "1.1"),
    ],
    ids=["token", "key", "version"],
)
def test_the_headers_of_a_request(
    project: Project, sandbox: Sandbox, keys: dict[str, Any], authorization: str, version: str
) -> None:
    """Neither .netrc nor a cookie adds to them."""
    netrc = project.folder / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    sandbox.faults = [Fault(headers={"Set-Cookie": "a=b; Path=/"})]
    project.configure(intercom=keys)
    project.users(2)
    assert project.run(env={"NETRC": str(netrc)}).status == 0
    for request in sandbox.requests:
        assert (request.method, request.path, request.query) == ("POST", "/users", {})
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


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_the_proxy_of_the_environment_is_used(
    project: Project, sandbox: Sandbox, name: str
) -> None:
    """The stand-in takes the requests of a proxy."""
    with Sandbox() as proxy:
        project.users(2)
        result = project.run(env={name: proxy.url})
        assert result.counts() == (2, 0, 0), result
        assert ids(proxy) == ["u1", "u2"]
    assert not sandbox.requests


def test_no_proxy_is_honoured(project: Project, sandbox: Sandbox) -> None:
    with Sandbox() as proxy:
        project.users(2)
        result = project.run(env={"HTTP_PROXY": proxy.url, "NO_PROXY": "127.0.0.1"})
        assert result.counts() == (2, 0, 0), result
        assert not proxy.requests
    assert ids(sandbox) == ["u1", "u2"]


class Tls:
    """The stand-in, behind a certificate that nobody knows."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.certificate, key = folder / "certificate.pem", folder / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate, key)
        self.target = sandbox.url.rpartition(":")[2]
        self.tried = 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self.server.getsockname()[1]}/users"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.server.accept()
                self.tried += 1
                with connection, suppress(OSError):
                    self._forward(connection)

    def _forward(self, connection: socket.socket) -> None:
        """One request and its answer at a time, until the client leaves."""
        with (
            self.context.wrap_socket(connection, server_side=True) as client,
            socket.create_connection(("127.0.0.1", int(self.target))) as service,
        ):
            while heard := client.recv(65536):
                while not heard.endswith(b"}"):
                    heard += client.recv(65536)
                service.sendall(heard)
                answer = service.recv(65536)
                while not answer.endswith(b"}"):
                    answer += service.recv(65536)
                client.sendall(answer)

    def close(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


@pytest.fixture
def tls(sandbox: Sandbox, tmp_path: Path) -> Iterator[Tls]:
    if not which("openssl"):
        pytest.skip("makes a certificate with openssl")
    server = Tls(sandbox, tmp_path)
    yield server
    server.close()


@pytest.mark.parametrize(
    "environment",
    [
        {"REQUESTS_CA_BUNDLE": "/nowhere/certificates.pem"},
        {"REQUESTS_CA_BUNDLE": __file__},
        {"HTTPS_PROXY": "unheard-of://127.0.0.1:9"},
        {"HTTPS_PROXY": "socks5://127.0.0.1:9"},
    ],
    ids=["missing certificates", "no certificates", "no proxy", "no SOCKS"],
)
def test_what_can_never_connect_stops_the_run_at_once(
    project: Project, tls: Tls, environment: dict[str, str]
) -> None:
    project.configure(intercom={"user_url": tls.url})
    project.users(3)
    result = project.run(env=environment)
    assert (result.status, result.counts()) == (1, (0, 0, 3)), result
    assert next(iter(environment)) in result.err
    assert "retry" not in result.debug_log
    assert unkept(result) == ["u1", "u2", "u3"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_unknown_certificate_or_one_for_another_name_stops_the_run(
    project: Project, sandbox: Sandbox, tls: Tls, host: str
) -> None:
    project.configure(intercom={"user_url": tls.url.replace("127.0.0.1", host)})
    project.users(3)
    known = {"REQUESTS_CA_BUNDLE": str(tls.certificate)} if host == "localhost" else {}
    result = project.run(env=known)
    assert (result.status, result.counts()) == (1, (0, 0, 3)), result
    assert "certificate" in result.err.lower()
    assert "retry" not in result.debug_log
    assert unkept(result) == ["u1", "u2", "u3"]
    assert (tls.tried, sandbox.requests) == (1, [])


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_of_the_environment_are_known(
    project: Project, sandbox: Sandbox, tls: Tls, name: str
) -> None:
    project.configure(intercom={"user_url": tls.url})
    project.users(2)
    result = project.run(env={name: str(tls.certificate)})
    assert result.counts() == (2, 0, 0), result
    assert ids(sandbox) == ["u1", "u2"]
    assert tls.tried == 1
