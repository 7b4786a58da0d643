"""To Intercom: what each answer leads to, and what each request looks like."""

from __future__ import annotations

import base64
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from shutil import which

import pytest
from conftest import Project, Result, eventually
from sandbox import Fault, Request, Sandbox

import export_csv
from export_csv import verdict

CONTACTS = "https://api.intercom.io/contacts"


def ids(sandbox: Sandbox) -> list[str]:
    """The users of all requests, in their order."""
    return [request.body["user_id"] for request in sandbox.requests]


def of(user: str, fault: Fault) -> Callable[[Request], Fault | None]:
    """A fault for each request of one user."""
    return lambda request: fault if (request.body or {}).get("user_id") == user else None


def lines_of(log: str, *words: object) -> list[str]:
    return [line for line in log.splitlines() if all(str(word) in line for word in words)]


def unkept(result: Result) -> list[str]:
    """The user_ids of the rows that were not imported."""
    return [row[0] for row in result.not_imported_rows()[1:]]


#### The table


@pytest.mark.parametrize(
    ("statuses", "by_id", "meaning"),
    [
        ((200, 201, 202, 204, 299), False, "accepted"),
        ((200, 204), True, "accepted"),
        ((0, 408, 429, 500, 501, 502, 503, 504, 507, 520, 599), False, "retry"),
        ((0, 408, 429, 500, 503), True, "retry"),
        ((300, 301, 302, 303, 304, 307, 308, 401, 402, 403, 404, 405, 406), False, "stop"),
        ((301, 307, 401, 402, 403, 405, 406), True, "stop"),
        ((404,), True, "refused"),
        ((400, 409, 410, 411, 413, 415, 422, 423, 451, 499), False, "refused"),
        ((400, 409, 422), True, "refused"),
    ],
)
def test_what_a_status_means(statuses: tuple[int, ...], by_id: bool, meaning: str) -> None:
    meanings = {status: verdict(status, by_id) for status in statuses}
    assert meanings == dict.fromkeys(statuses, meaning)


def test_nobody_is_waited_for_longer_than_a_minute() -> None:
    assert export_csv.TIMEOUTS == (10, 60)


#### In, and in after some tries


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_2xx_is_in_whatever_the_body(project: Project, sandbox: Sandbox, status: int) -> None:
    bodies = [b"", b"<html>fine</html>", b"[1]", b"null", b'"x"', b"\xff", b"[" * 100_000, None]
    bodies = [b""] if status == 204 else bodies
    sandbox.faults = [Fault(status=status, body=body, acts=True) for body in bodies]
    project.users(len(bodies))
    result = project.run()
    assert result.status == 0, result
    assert result.counts() == (len(bodies), 0, 0)
    assert len(sandbox.requests) == len(bodies)
    assert not result.error_log


TROUBLE = {
    **{str(status): Fault(status=status) for status in (408, 429, 500, 501, 502, 503, 504, 599)},
    "drop": Fault(drop=True),
    "drop after acting": Fault(drop=True, acts=True),
    "reset": Fault(reset=True),
    "reset after acting": Fault(reset=True, acts=True),
    "cut": Fault(status=200, body=b"x" * 999, cut=True),
    "cut after acting": Fault(acts=True, cut=True),
    "cut error": Fault(status=400, cut=True),
    "HTML": Fault(status=502, body=b"<html><h1>Bad\nGateway</h1></html>"),
    "half JSON": Fault(status=500, body=b'{"type": "error.list", "errors": [{'),
    "no body": Fault(status=503, body=b""),
    "late": Fault(status=503, trickle=0.05),
}


def test_trouble_that_passes_is_overcome(project: Project, sandbox: Sandbox) -> None:
    """Each kind of it: the request is sent again, the user is in once, the logs tell."""
    left = {f"u{n}": [fault] * (n % 3 + 1) for n, fault in enumerate(TROUBLE.values(), 1)}

    def fault(request: Request) -> Fault | None:
        faults = left[request.body["user_id"]]
        return faults.pop() if faults else None

    sandbox.fault_for = fault
    project.users(len(TROUBLE))
    result = project.run()
    assert result.status == 0, result
    assert result.counts() == (len(TROUBLE), 0, 0)
    assert len(sandbox.users) == len(TROUBLE)
    assert ids(sandbox) == [f"u{n}" for n in range(1, len(TROUBLE) + 1) for _ in range(n % 3 + 2)]
    for n, name in enumerate(TROUBLE, 1):
        for log in (result.debug_log, result.error_log):
            retries = lines_of(log, f"line {n + 1} ", f"u{n}", "retry")
            assert len(retries) == n % 3 + 1, (name, log)
            if name.isdigit():
                assert all(name in line for line in retries)


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
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


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
                            reply(connection, number)
                            number += 1
                            connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_what_is_no_http_is_tried_again(project: Project) -> None:
    project.users(1)
    replies = [*GARBAGE, GOOD]
    with raw_server(lambda connection, n: connection.sendall(replies[n])) as url:
        project.configure(intercom={"user_url": f"{url}/users"})
        result = project.run()
    assert result.status == 0, result
    assert result.counts() == (1, 0, 0)
    assert len(lines_of(result.error_log, "line 2 ", "retry")) >= len(GARBAGE)
    assert "Traceback" not in result.debug_log
    assert max(map(len, result.debug_log.splitlines())) < 2000


def test_a_server_that_is_not_there_is_tried_again(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    project.users(3)
    project.configure(intercom={"user_url": f"{url}/users", "retries": 2})
    result = project.run()
    assert result.status == 1, result
    assert result.counts() == (0, 0, 3)
    assert len(lines_of(result.error_log, "retry")) == 4
    assert "refused" in result.err


@pytest.mark.parametrize("concurrency", [1, 5])
def test_endless_answers_are_read_to_a_limit(project: Project, concurrency: int) -> None:
    """Whatever they say of their length."""
    sizes = [0] * 4
    heads = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 422 X\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ]

    def reply(connection: socket.socket, number: int) -> None:
        connection.sendall(heads[number])
        data = b"x" * 2**16
        data = b"10000\r\n" + data + b"\r\n" if b"chunked" in heads[number] else data
        while sizes[number] < 2**28:
            connection.sendall(data)
            sizes[number] += len(data)

    project.users(4)
    with raw_server(reply) as url:
        project.configure(intercom={"user_url": f"{url}/users", "concurrency": concurrency})
        result = project.run()
    assert sum(result.counts()) == 4, result
    assert max(sizes) < 2**26
    assert len(result.debug_log) < 20_000


#### Retries used up


def test_a_user_that_used_up_its_retries_is_not_imported(
    project: Project, sandbox: Sandbox
) -> None:
    """And the next one is, as often as this happens."""
    project.configure(intercom={"retries": 3})
    sandbox.fault_for = lambda request: (
        Fault(status=503) if request.body["user_id"] in ("u2", "u4", "u6") else None
    )
    project.users(7)
    result = project.run()
    assert result.status == 1, result
    assert result.counts() == (4, 0, 3)
    assert unkept(result) == ["u2", "u4", "u6"]
    assert ids(sandbox).count("u2") == 4
    assert lines_of(result.error_log, "line 3 ", "u2", "not imported", "503")
    assert "stopped" not in result.err


def test_two_in_a_row_stop_the_run(project: Project, sandbox: Sandbox) -> None:
    project.configure(intercom={"retries": 2})
    sandbox.fault_for = lambda request: (
        Fault(drop=True) if request.body["user_id"] not in ("u1", "u2") else None
    )
    project.users(6)
    result = project.run()
    assert result.status == 1, result
    assert result.counts() == (2, 0, 4)
    assert unkept(result) == ["u3", "u4", "u5", "u6"]
    assert ids(sandbox) == ["u1", "u2", *["u3"] * 3, *["u4"] * 3]
    assert "Intercom" in result.err
    assert "down" in result.err


def test_retries_of_0_try_once(project: Project, sandbox: Sandbox) -> None:
    project.configure(intercom={"retries": 0})
    sandbox.fault_for = of("u1", Fault(status=500))
    project.users(2)
    assert project.run().counts() == (1, 0, 1)
    assert ids(sandbox) == ["u1", "u2"]


#### Wrong settings


API_KEY = {"access_token": None, "api_id": "sandbox-app", "api_key": "sandbox-key-0123456789"}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, ("access_token",)),
        (402, ("plan",)),
        (403, ("token",)),
        *((status, ("user_url", CONTACTS)) for status in (300, 301, 302, 307, 308, 404, 405, 406)),
    ],
)
def test_wrong_settings_stop_the_run_at_once(
    project: Project, sandbox: Sandbox, status: int, words: tuple[str, ...]
) -> None:
    with Sandbox() as elsewhere:
        sandbox.fault_for = of("u2", Fault(status, headers={"Location": elsewhere.users_url}))
        project.users(4)
        result = project.run()
        assert not elsewhere.requests
    assert result.status == 1, result
    assert ids(sandbox) == ["u1", "u2"]
    assert result.counts() == (1, 0, 3)
    assert unkept(result) == ["u2", "u3", "u4"]
    for text in (result.err, result.error_log):
        for word in (str(status), *words):
            assert word in text


def test_credentials_that_are_really_wrong(project: Project, sandbox: Sandbox) -> None:
    project.configure(intercom={"access_token": "another"})
    project.users(3)
    result = project.run()
    assert [request.status for request in sandbox.requests] == [401]
    assert result.counts() == (0, 0, 3)
    assert "Access Token Invalid" in result.err
    assert "access_token" in result.err


def test_404_for_a_row_with_an_id_is_about_that_row_alone(
    project: Project, sandbox: Sandbox
) -> None:
    project.write("id,user_id\n,u1\nnobody,u2\n,u3\n")
    result = project.run()
    assert result.status == 1, result
    assert result.counts() == (2, 0, 1)
    assert [request.status for request in sandbox.requests] == [200, 404, 200]
    assert lines_of(result.error_log, "line 3 ", "404", "not_found", "User Not Found")


#### Users that Intercom refuses


def test_a_refused_user_is_told_with_code_message_and_request_id(
    project: Project, sandbox: Sandbox
) -> None:
    for n in (1, 2):
        sandbox.users[f"x{n}"] = {"id": f"x{n}", "user_id": f"x{n}", "email": "a@example.com"}
    errors = (
        b'{"type": "error.list", "request_id": "r-17", "errors": [{"code": "c-1", "message": "One"}'
        b', {"code": "c-2", "message": "Two"}]}'
    )
    sandbox.fault_for = of("u1", Fault(status=422, body=errors))
    project.write("user_id,email\nu1,\n,a@example.com\nu3,\n")
    result = project.run()
    assert result.status == 1, result
    assert [request.status for request in sandbox.requests] == [422, 409, 200]
    assert result.counts() == (1, 0, 2)
    (line,) = lines_of(result.error_log, "line 2 ")
    for word in ("u1", "422", "c-1", "One", "c-2", "Two", "r-17"):
        assert word in line
    (line,) = lines_of(result.error_log, "line 3 ")
    assert "a@example.com" in line
    assert "Multiple existing users" in line


def test_what_is_no_secret_is_shown_as_it_is(project: Project, sandbox: Sandbox) -> None:
    """Settings that are blank are no secrets, nor is the colon between two of them."""
    sandbox.faults = [Fault(status=400, message='"plan" : "gold" :: no')]
    project.users(1)
    assert '"plan" : "gold" :: no' in project.run().error_log


def test_errors_in_any_shape(project: Project, sandbox: Sandbox) -> None:
    bodies = [
        *(b"", b"<html>", b"null", b"[]", b"{}", b"17", b'"x"', b"\xff\xfe", b"nonsense", b"NaN"),
        *(b'{"errors": null}', b'{"errors": []}', b'{"errors": {}}', b'{"errors": ["x", 3, null]}'),
        b'{"errors": [{}, {"code": 5, "message": [1]}], "request_id": {}}',
        b'{"errors": [{"code": "\\u0000\\n2026-01-01T00:00:00 forged", "message": "\\ud800"}]}',
        b"[" * 100_000,
        b'{"errors": [{"code": "x", "message": "' + b"y" * 500_000 + b'"}]}',
        b"9" * 5000,
        b"x" * 3_000_000,
    ]
    sandbox.faults = [Fault(status=400, body=body) for body in bodies]
    project.users(len(bodies) + 1)
    result = project.run()
    assert result.status == 1, result
    assert result.counts() == (1, 0, len(bodies))
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
    else:
        assert result.counts() == (4, 0, 99)
        assert "stopped" not in result.err


def test_100_refused_later_on_do_not_stop_the_run(project: Project, sandbox: Sandbox) -> None:
    sandbox.faults = [Fault(), *[Fault(status=400)] * 101]
    project.users(103)
    assert project.run().counts() == (2, 0, 101)


def test_100_conflicts_do_not_stop_the_run(project: Project, sandbox: Sandbox) -> None:
    sandbox.faults = [Fault(status=409)] * 101
    project.users(102)
    assert project.run().counts() == (1, 0, 101)


#### 429


def test_429_waits_as_long_as_it_says(project: Project) -> None:
    """By Retry-After in seconds or as a date, or X-RateLimit-Reset, by Intercom's own clock."""
    with Sandbox(clock_offset=-5000) as sandbox:
        project.configure(intercom={"user_url": sandbox.users_url})
        waits: dict[str, float] = {}

        def fault(request: Request) -> Fault | None:
            user = request.body["user_id"]
            if user in waits:
                return None
            now = int(sandbox.now())
            header = {
                "u1": {"Retry-After": "1"},
                "u2": {"Retry-After": formatdate(now + 2, usegmt=True)},
                "u3": {"X-RateLimit-Reset": str(now + 2)},
                "u4": {"X-RateLimit-Reset": str(now - 50), "Retry-After": "0"},
            }[user]
            waits[user] = sandbox.now() + 1 if user == "u1" else now + 2
            waits["u4"] = 0
            return Fault(status=429, headers=header)

        sandbox.fault_for = fault
        arrived: dict[str, float] = {}
        answer = sandbox.respond

        def respond(request: Request) -> object:
            arrived[request.body["user_id"]] = sandbox.now()
            return answer(request)

        sandbox.respond = respond  # type: ignore[assignment,method-assign]
        project.users(4)
        result = project.run()
    assert result.counts() == (4, 0, 0), result
    for user, wait in waits.items():
        assert arrived[user] > wait - 0.1


def test_429_with_absurd_values_is_no_trouble(project: Project, sandbox: Sandbox) -> None:
    values = [
        "",
        "soon",
        "-5",
        "1e9",
        "0x10",
        "٣",
        "1.5e308",
        "\x01",
        "Thu, 99 Foo 2026",
        "0" * 999,
    ]
    values += ["Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 1999 23:59:59 -9999", "NaN"]
    sandbox.faults = [
        Fault(status=429, headers={name: value.encode().decode("latin-1")})
        for name in ("Retry-After", "X-RateLimit-Reset", "Date")
        for value in values
    ]
    sandbox.faults += [Fault(headers={"X-RateLimit-Remaining": value}) for value in ("-1", "x")]
    project.users(3)
    result = project.run()
    assert result.counts() == (3, 0, 0), result
    assert not sandbox.faults
    assert "Traceback" not in result.debug_log


@pytest.mark.parametrize("header", ["Retry-After", "X-RateLimit-Reset"])
@pytest.mark.parametrize("value", ["99999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_429_never_waits_more_than_five_minutes(
    project: Project, sandbox: Sandbox, header: str, value: str
) -> None:
    sandbox.faults = [Fault(status=429, headers={header: value})]
    project.users(2)
    if header.startswith("X") and not value.isdigit():
        assert project.run().counts() == (2, 0, 0)
        return
    child = project.start()
    logs = project.folder / "logs"
    eventually(lambda: any("retry" in log.read_text() for log in logs.glob("*_error.log")))
    child.send(signal.SIGTERM)
    result = child.wait()
    assert result.status == 143, result
    (line,) = lines_of(result.error_log, "retry")
    assert " 300 s" in line or "5 min" in line
    assert result.counts() == (0, 0, 2)


#### What a request looks like


def test_headers_with_an_access_token(project: Project, sandbox: Sandbox) -> None:
    project.users(1)
    assert project.run().status == 0
    (request,) = sandbox.requests
    assert (request.method, request.path, request.query) == ("POST", "/users", {})
    assert request.headers["Authorization"] == f"Bearer {sandbox.token}"
    assert request.headers["Intercom-Version"] == "1.4"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Content-Type"].split(";")[0] == "application/json"
    assert request.raw.isascii()


def test_headers_with_an_api_key(project: Project, sandbox: Sandbox) -> None:
    project.configure(intercom=API_KEY)
    project.users(1)
    assert project.run().status == 0
    pair = base64.b64encode(b"sandbox-app:sandbox-key-0123456789").decode()
    assert sandbox.requests[0].headers["Authorization"] == f"Basic {pair}"


def test_the_config_names_the_version(project: Project, sandbox: Sandbox) -> None:
    project.configure(intercom={"api_version": "1.1"})
    project.users(1)
    assert project.run().status == 0
    assert sandbox.requests[0].headers["Intercom-Version"] == "1.1"


def test_netrc_is_not_used(project: Project, sandbox: Sandbox) -> None:
    (project.folder / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    project.users(1)
    assert project.run(env={"NETRC": str(project.folder / ".netrc")}).status == 0
    assert sandbox.requests[0].headers["Authorization"] == f"Bearer {sandbox.token}"


def test_cookies_are_not_kept(project: Project, sandbox: Sandbox) -> None:
    sandbox.faults = [Fault(headers={"Set-Cookie": "a=b; Path=/"})]
    project.users(2)
    assert project.run().status == 0
    assert "Cookie" not in sandbox.requests[1].headers


@pytest.mark.parametrize("concurrency", [1, 4])
def test_connections_are_kept(project: Project, sandbox: Sandbox, concurrency: int) -> None:
    project.configure(intercom={"concurrency": concurrency})
    sandbox.faults = [Fault(status=400), Fault(status=503)]
    project.users(60)
    assert project.run().counts() == (59, 0, 1)
    assert len({request.connection for request in sandbox.requests}) <= concurrency


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("http://api.intercom.io/users", False),
        ("http://10.0.0.1/users", False),
        ("http://127.0.0.1.example.com/users", False),
        ("http://localhost.example.com/users", False),
        ("http://[::2]/users", False),
        ("ftp://127.0.0.1/users", False),
        ("https://api.intercom.io/visitors", False),
        ("https://me:secret-word@api.intercom.io/users", False),
        ("api.intercom.io/users", False),
        ("http://127.0.0.1:8080/users", True),
        ("http://127.1.2.3/users", True),
        ("http://localhost:1/users", True),
        ("http://[::1]:1/users", True),
        ("https://api.eu.intercom.io/users", True),
        ("https://gateway.example.com:8443/intercom/users", True),
    ],
)
def test_https_only_save_on_loopback(project: Project, url: str, fine: bool) -> None:
    project.configure(intercom={"user_url": url})
    project.users(1)
    result = project.run("--dry-run")
    assert result.status == (0 if fine else 2), result
    assert ("[intercom] user_url" in result.err) is not fine
    assert "secret-word" not in result.err


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
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
        ]
        command += ["-addext", "subjectAltName=IP:127.0.0.1"]
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


def test_an_unknown_certificate_stops_the_run(project: Project, sandbox: Sandbox, tls: Tls) -> None:
    project.configure(intercom={"user_url": tls.url})
    project.users(3)
    result = project.run()
    assert result.status == 1, result
    assert result.counts() == (0, 0, 3)
    assert "certificate" in result.err.lower()
    assert "retry" not in result.debug_log
    assert unkept(result) == ["u1", "u2", "u3"]
    assert tls.tried == 1
    assert not sandbox.requests


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


def test_a_certificate_for_another_name_stops_the_run(
    project: Project, sandbox: Sandbox, tls: Tls
) -> None:
    project.configure(intercom={"user_url": tls.url.replace("127.0.0.1", "localhost")})
    project.users(2)
    result = project.run(env={"REQUESTS_CA_BUNDLE": str(tls.certificate)})
    assert result.status == 1, result
    assert result.counts() == (0, 0, 2)
    assert "certificate" in result.err.lower()
    assert "retry" not in result.debug_log
    assert not sandbox.requests
