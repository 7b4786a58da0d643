"""The meaning of each response from Intercom, and the format of each request."""

from __future__ import annotations

import base64
import itertools
import json
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, Result, eventually, imported, line_of, lines_of
from faults import Fault, html_page, rate_limited, redirect
from mock_http import Request
from mock_services import MockServices
from test_http_client import make_certificate

import export_csv
from export_csv import (
    IntercomSettings,
    NoResponse,
    RequestContext,
    Response,
    Settings,
    Verdict,
    classify,
    describe_response,
    fatal_reason,
    response_category,
    response_id,
)

USERS = "https://api.intercom.io/users"
CONTACTS = "https://api.intercom.io/contacts"
PAGE = b"<html><h1>Access\nblocked</h1></html>"


def rejected_ids(result: Result) -> list[str]:
    """Return the user_ids of the rows that were not imported."""
    return [row[0] for row in result.rejected_rows()[1:]]


#### What a response means

Json = dict[str, Any]
USER: Json = {"type": "user", "id": "1"}
NOT_FOUND: Json = {
    "type": "error.list",
    "errors": [{"code": "not_found", "message": "No"}],
}
WRONG_VERSION: Json = {
    "type": "error.list",
    "errors": [{"code": "intercom_version_invalid"}],
}


def verdict(status: int, body: object = PAGE, **context: Any) -> Verdict:
    """Classify a response; a body that isn't bytes is encoded as JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return classify(Response(status, {}, body), RequestContext(**context))


ACCEPTED_BODIES: list[Json] = [
    {"type": "user"},
    {"type": "contact"},
    {"type": "lead"},
    {"id": "6762-f_0"},
    {"id": 17},
    {"type": "user", "id": None},
    {"type": "contact", "id": "a/b", "role": "lead"},
]
OTHER_BODIES: list[object] = [
    {"id": None},
    {"id": ""},
    {"id": "a b"},
    {"id": True},
    {"id": ["6762f0"]},
    {"type": ["user"]},
    {"type": "admin", "id": "1"},
    {"id": "1", "errors": [{"code": "x"}]},
    {"type": "list", "data": [{"id": "1"}]},
    {"type": "error.list", "id": "1", "errors": []},
    {},
    [USER],
    "user",
    None,
    PAGE,
    b"",
    b'{"type": "user"',
]


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_only_a_user_or_contact_counts_as_accepted(status: int) -> None:
    for body in ACCEPTED_BODIES:
        assert verdict(status, body) is Verdict.ACCEPTED, body
    for other in OTHER_BODIES:
        assert verdict(status, other) is Verdict.RETRY, other


def test_an_id_counts_only_if_it_looks_like_an_id() -> None:
    for found in ("6762-f_0", "a", 17):
        assert response_id(
            Response(200, {}, json.dumps({"id": found}).encode())
        ) == str(found)
    for other in (None, "", "a/b", "..", "a b", "ä", True, 1.5, ["a"], {"a": 1}):
        assert (
            response_id(Response(200, {}, json.dumps({"id": other}).encode())) == ""
        ), other


# The row's user_id, and the id in the response
SAME_USER = [
    ("u1", "u1"),
    ("u1", "U1"),
    ("u1", " u1 "),
    ("u 1", "u 1"),
    ("Ren\u00e9", "Rene\u0301"),
    ("STRASSE", "straße"),
    ("17", 17),
    ("u1", None),
    ("u1", ""),
    ("", "u2"),
]
OTHER_USER = [
    ("u1", "u2"),
    ("u1", "u11"),
    ("u 1", "u1"),
    ("Ren\u00e9", "Rene"),
    ("17", 18),
    ("17", "17.0"),
    ("0", 1),
    ("u1", ["u1"]),
]


@pytest.mark.parametrize("name", ["user_id", "external_id"])
def test_a_response_about_another_user_is_not_accepted(name: str) -> None:
    """If the row has no user_id, there is nothing to compare."""
    for user_id, found in SAME_USER:
        assert (
            verdict(200, {**USER, name: found}, user_id=user_id) is Verdict.ACCEPTED
        ), found
    for user_id, found in OTHER_USER:
        assert (
            verdict(200, {**USER, name: found}, user_id=user_id) is Verdict.WRONG_USER
        ), found


BODIES: list[object] = [PAGE, b"", {}, NOT_FOUND, WRONG_VERSION]
CONTEXTS = [
    {
        "is_user_url": is_user_url,
        "has_intercom_id": has_intercom_id,
        "some_accepted": some_accepted,
    }
    for is_user_url in (True, False)
    for has_intercom_id in (True, False)
    for some_accepted in (True, False)
]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([*range(100, 300), 408, 429, *range(500, 600), 999], Verdict.RETRY),
        ([*range(300, 400), 401, 402, 407], Verdict.FATAL),
    ],
    ids=["retried", "fatal"],
)
def test_some_statuses_mean_the_same_for_every_request(
    statuses: list[int], expected: Verdict
) -> None:
    for status in statuses:
        for body in BODIES:
            for context in CONTEXTS:
                assert verdict(status, body, **context) is expected, (
                    status,
                    body,
                    context,
                )


def test_most_4xx_concern_their_row_alone() -> None:
    special = {401, 402, 403, 404, 405, 406, 407, 408, 429}
    for status in set(range(400, 500)) - special:
        for body in BODIES[:-1]:
            for context in CONTEXTS:
                assert verdict(status, body, **context) is Verdict.REJECTED, (
                    status,
                    body,
                )


# Status, body, context and verdict. Anything that isn't in the context makes no difference.
DECISIONS: list[tuple[int, object, Json, Verdict]] = [
    (400, WRONG_VERSION, {}, Verdict.FATAL),
    (400, NOT_FOUND, {}, Verdict.REJECTED),
    (400, {"errors": [{"message": "intercom_version_invalid"}]}, {}, Verdict.REJECTED),
    (422, WRONG_VERSION, {}, Verdict.REJECTED),
    # 403: from Intercom, it is about the token; from a firewall, about the row's content.
    (403, NOT_FOUND, {}, Verdict.FATAL),
    (403, PAGE, {"some_accepted": False}, Verdict.FATAL),
    (403, PAGE, {"some_accepted": True}, Verdict.BLOCKED),
    (403, {"errors": []}, {"some_accepted": True}, Verdict.BLOCKED),
    # 404: from Intercom, it may be about the user, if others were accepted or if the row has an id.
    (404, NOT_FOUND, {"some_accepted": True}, Verdict.REJECTED),
    (404, NOT_FOUND, {"has_intercom_id": True}, Verdict.REJECTED),
    (404, NOT_FOUND, {"is_user_url": False}, Verdict.REJECTED),
    (404, PAGE, {"is_user_url": True}, Verdict.FATAL),
    (404, PAGE, {"is_user_url": False}, Verdict.REJECTED),
    (
        404,
        NOT_FOUND,
        {"is_user_url": True, "has_intercom_id": False, "some_accepted": False},
        Verdict.FATAL,
    ),
    (405, NOT_FOUND, {"is_user_url": True}, Verdict.FATAL),
    (405, PAGE, {"is_user_url": True}, Verdict.FATAL),
    (405, NOT_FOUND, {"is_user_url": False}, Verdict.REJECTED),
    (406, NOT_FOUND, {"is_user_url": True}, Verdict.FATAL),
    (406, PAGE, {"is_user_url": False}, Verdict.REJECTED),
]


@pytest.mark.parametrize(("status", "body", "known", "expected"), DECISIONS)
def test_the_meaning_of_some_statuses_depends_on_the_context(
    status: int, body: object, known: Json, expected: Verdict
) -> None:
    matching = [context for context in CONTEXTS if known.items() <= context.items()]
    assert matching
    for context in matching:
        assert verdict(status, body, **context) is expected, context


def test_a_missing_response_is_retried_unless_that_cannot_help() -> None:
    assert classify(NoResponse("timed out"), RequestContext()) is Verdict.RETRY
    assert (
        classify(NoResponse("TLS", is_permanent=True), RequestContext())
        is Verdict.FATAL
    )


#### Messages about responses

ECHO_PAGE = b"<html><title>Sign in</title>you sent ada@example.com</html>"
# Status and body, words in the message, and whether it recommends /contacts if user_url is /users
REASONS: dict[str, tuple[int, object, tuple[str, ...], bool]] = {
    "400": (400, WRONG_VERSION, ("user_url", "api_version", "1.4"), True),
    "401": (401, NOT_FOUND, ("access_token", "api_id", "INTERCOM_ACCESS_TOKEN"), False),
    "402": (402, ECHO_PAGE, ("plan",), False),
    "403": (403, NOT_FOUND, ("token",), True),
    "404": (404, ECHO_PAGE, ("user_url",), True),
    "405": (405, NOT_FOUND, ("token's owner",), True),
    "406": (406, NOT_FOUND, ("user_url",), True),
    "407": (407, ECHO_PAGE, ("proxy", "HTTPS_PROXY"), False),
    "another page": (200, ECHO_PAGE, ("user_url", "proxy", "Sign in"), False),
}


@pytest.mark.parametrize("case", REASONS)
def test_the_message_about_a_fatal_response_names_the_setting(case: str) -> None:
    """Apps on API 2.x need /contacts.

    That hint would mislead in errors about credentials, the plan or a proxy.
    """
    status, body, words, advises_contacts = REASONS[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    for url in (USERS, CONTACTS):
        settings = Settings(intercom=IntercomSettings(user_url=url, api_version="1.4"))
        message = fatal_reason(Response(status, {}, content), settings)
        assert [word for word in (str(status), *words) if word not in message] == [], (
            message
        )
        assert (CONTACTS in message) == (advises_contacts and url == USERS), message
        assert "\n" not in message
        assert "ada@example.com" not in message


def test_tls_errors_name_the_environment_and_not_contacts() -> None:
    settings = Settings(intercom=IntercomSettings(user_url=USERS))
    permanent = fatal_reason(NoResponse("bad certificate", is_permanent=True), settings)
    transient = fatal_reason(NoResponse("timed out"), settings)
    for word in ("bad certificate", "REQUESTS_CA_BUNDLE", "HTTPS_PROXY"):
        assert word in permanent
    assert "timed out" in transient
    assert "/contacts" not in permanent + transient


@pytest.mark.parametrize("status", [100, 200, 302, 400, 403, 404, 409, 422, 429, 500])
def test_the_text_of_a_response_not_from_intercom_is_never_shown(status: int) -> None:
    """It may echo what was sent. Status, type, length and a page's title are shown."""
    bodies = [
        ECHO_PAGE,
        b"you sent ada@example.com",
        b'{"you_sent": "ada@example.com"}',
    ]
    bodies += [
        b'["ada@example.com"]',
        b'{"message": "ada@example.com"}',
        b"\xff ada@example.com",
    ]
    for body in bodies:
        response = Response(
            status, {"Content-Type": "text/html; x=ada@example.com"}, body
        )
        shown = describe_response(response)
        assert "ada" not in shown + response_category(response)
        assert str(status) in shown
        assert "text/html" in shown
        assert f"{len(body)} bytes" in shown


def test_intercoms_errors_are_shown_in_whatever_shape() -> None:
    for errors in (
        [{"code": "c-1", "message": "No 1"}, {"code": "c-2", "message": "No 2"}],
        ["c-1: No 1", "c-2: No 2"],
        {"code": "c-1 No 1 c-2", "message": "No 2"},
        "c-1 No 1 c-2 No 2",
    ):
        body = json.dumps({"errors": errors, "request_id": "r-17"}).encode()
        shown = describe_response(Response(422, {}, body))
        for word in ("422", "c-1", "No 1", "c-2", "No 2", "r-17"):
            assert word in shown


def test_categories_have_no_details_of_a_row() -> None:
    """Otherwise a notice would list every row."""
    texts = ("ada@example.com is invalid", "id=6762f0dd is invalid", "'u17' is invalid")
    categories = set()
    for text in texts:
        errors = {"errors": [{"code": "parameter_invalid", "message": text}]}
        response = Response(400, {}, json.dumps(errors).encode())
        categories.add(response_category(response).replace("'", "").replace("id=", ""))
    assert categories == {"400 parameter_invalid: # is invalid"}


#### Accepted, at once or after some retries

TRANSIENT_FAULTS = {
    **{
        str(status): Fault(status=status)
        for status in (408, 429, 500, 501, 502, 503, 504, 599)
    },
    "HTML": Fault(status=502, body=b"<html><h1>Bad\nGateway</h1></html>"),
    "half JSON": Fault(status=500, body=b'{"type": "error.list", "errors": [{'),
    "no body": Fault(status=503, body=b""),
    "late": Fault(status=503, trickle=0.05),
    "page": Fault(status=200, body=PAGE),
    "created page": Fault(status=201, body=PAGE),
}
BROKEN_RESPONSES = {
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


def test_transient_faults_are_retried_until_the_user_is_accepted(
    project: Project, services: MockServices
) -> None:
    """Each user is stored once, and both logs name each retry.

    After a response that wasn't complete and final, the connection is not used again.
    """
    faults_by_name = TRANSIENT_FAULTS | BROKEN_RESPONSES
    left = {
        f"u{n}": [fault] * (n % 3 + 1)
        for n, fault in enumerate(faults_by_name.values(), 1)
    }

    def fault(request: Request) -> Fault | None:
        faults = left[request.body["user_id"]]
        return faults.pop() if faults else None

    services.fault_for = fault
    project.users(len(faults_by_name))
    result = project.run()
    assert (result.status, result.counts()) == (0, (len(faults_by_name), 0, 0)), result
    assert len(services.users) == len(faults_by_name)
    for n, name in enumerate(faults_by_name, 1):
        check_retries(result, services, name, user=f"u{n}", retries=n % 3 + 1)


def check_retries(
    result: Result, services: MockServices, name: str, user: str, retries: int
) -> None:
    """Check a user's retries in the logs, and the connections that they used."""
    # A kept-alive connection that is closed before any byte of the response costs no retry.
    if name.startswith(("drop", "reset")):
        retries -= 1
    reason = name if name.isdigit() else ""
    for log in (result.debug_log, result.error_log):
        lines = lines_of(
            log, " WARNING ", f"user_id={user}:", "retrying in 0.01 s", reason
        )
        assert len(lines) == retries, (name, log)
    requests = [each for each in services.requests if each.body["user_id"] == user]
    connections = {each.connection for each in requests}
    is_broken = name in BROKEN_RESPONSES
    assert len(connections) == (len(requests) if is_broken else 1), name


def test_a_response_after_a_1xx_is_not_taken_for_the_next_one(
    project: Project, services: MockServices
) -> None:
    """It may even arrive while the next user waits for its own."""
    rejected = Fault(status=422, early=100)
    late = Fault(status=422, early=103, delay=0.1)
    services.faults_by_user_id = {
        "u2": late,
        "u4": rejected,
        "u5": Fault(early=100),
        "u6": late,
    }
    project.configure(intercom={"retries": 1})
    project.users(8)
    result = project.run()
    assert (result.status, result.counts()) == (1, (5, 0, 3)), result
    assert rejected_ids(result) == ["u2", "u4", "u6"]
    stored = [user["user_id"] for user in services.users.values()]
    assert stored == ["u1", "u3", "u5", "u7", "u8"]


#### Kept-alive connections


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_kept_alive_connection_that_was_closed_costs_no_retry(
    project: Project, services: MockServices, concurrency: int
) -> None:
    """The request is sent again at once, without waiting for `timeout`."""
    closing = itertools.cycle(
        [Fault(close_silently=True), Fault(), Fault(close_after=True)]
    )
    services.fault_for = lambda _: next(closing)
    project.configure(
        intercom={"retries": 0, "timeout": 300, "concurrency": concurrency}
    )
    project.users(30)
    result = project.run()
    assert (result.status, result.counts()) == (0, (30, 0, 0)), result
    assert len(services.users) == 30
    assert "retrying" not in result.debug_log


def test_a_new_connection_that_is_lost_costs_a_retry(
    project: Project, services: MockServices
) -> None:
    """It costs no retry only if the connection has been used before."""
    services.faults = [Fault(drop=True), Fault(), Fault(drop=True)]
    project.users(3)
    result = project.run()
    assert (result.status, result.counts()) == (0, (3, 0, 0)), result
    assert len(lines_of(result.error_log, "retrying")) == 1


@pytest.mark.parametrize("concurrency", [1, 8])
def test_connections_are_kept_alive(
    project: Project, services: MockServices, concurrency: int
) -> None:
    """After a complete response, the connection is reused, whatever the status."""
    services.latency = 0.005
    project.configure(intercom={"concurrency": concurrency})
    services.faults = [
        Fault(status=400),
        Fault(status=503),
        Fault(status=200, body=PAGE),
    ]
    project.users(60)
    assert project.run().counts() == (59, 0, 1)
    assert len({request.connection for request in services.requests}) <= concurrency


#### Responses about another user


@pytest.mark.parametrize("dialect", ["users", "contacts"])
def test_a_user_whose_responses_name_another_is_tried_three_times(
    project: Project, services: MockServices, dialect: str
) -> None:
    """Each time on a new connection, without using up a retry or waiting for `timeout`."""
    services.faults_by_user_id = {
        "u2": Fault(as_user="u1"),
        "u3": Fault(as_user=" U3 "),
    }
    project.configure(
        intercom={"user_url": f"{services.url}/{dialect}", "retries": 0, "timeout": 300}
    )
    project.users(4)
    result = project.run()
    assert (result.status, result.counts()) == (1, (3, 0, 1)), result
    assert rejected_ids(result) == ["u2"]
    requests = services.requests[1:4]
    ids = {
        request.body.get("user_id", request.body.get("external_id"))
        for request in requests
    }
    assert ids == {"u2"}
    assert len({request.connection for request in services.requests}) == 3
    assert "another user" in result.reasons()[0][2]
    assert len(services.requests) == 6
    times = r"DEBUG line 3 user_id=u2: 200 in \d+\.\d+ s$"
    assert len(re.findall(times, result.debug_log, re.MULTILINE)) == 3


def test_if_the_very_first_response_names_another_user_the_run_stops(
    project: Project, services: MockServices
) -> None:
    services.faults = [Fault(as_user="u9")]
    project.users(3)
    result = project.run()
    assert (result.status, result.counts()) == (1, (0, 0, 3)), result
    assert len(services.requests) == 1
    assert "different user" in result.err
    assert rejected_ids(result) == ["u1", "u2", "u3"]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_second_copy_of_a_response_is_not_taken_for_the_next_one(
    project: Project, services: MockServices, concurrency: int
) -> None:
    """It arrives at once, or later, when the next request may already be sent."""
    repeated = Fault(twice=True)
    later = Fault(twice=True, twice_after=0.02)
    services.faults_by_user_id = {
        f"u{n}": (repeated, later)[n % 2] for n in range(1, 31, 3)
    }
    services.faults_by_user_id |= {"u2": Fault(status=422), "u5": Fault(status=422)}
    project.configure(intercom={"concurrency": concurrency})
    project.users(30)
    result = project.run()
    assert (result.status, result.counts()) == (1, (28, 0, 2)), result
    assert sorted(rejected_ids(result)) == ["u2", "u5"]
    assert len(services.users) == 28


#### Slow, invalid and endless responses


@pytest.mark.parametrize(
    "fault", [Fault(status=422, trickle=60), Fault(delay=60)], ids=str
)
def test_a_response_that_takes_too_long_is_abandoned(
    project: Project, services: MockServices, fault: Fault
) -> None:
    """After RESPONSE_TIMEOUT, it counts as no response.

    After a signal, the run waits no longer than that either.
    """
    project.set_constants(RESPONSE_TIMEOUT=0.4)
    services.faults_by_user_id = {"u2": fault}
    project.users(5)
    child = project.start()
    eventually(lambda: imported(project).count("u2") == 3)
    child.send(signal.SIGINT)
    result = child.wait(25)
    assert (result.status, result.counts()) == (130, (1, 0, 4)), result
    assert rejected_ids(result) == ["u2", "u3", "u4", "u5"]
    connections = [one.connection for one in services.requests[1:]]
    assert len(set(connections)) == len(connections)
    assert "timed out" in result.error_log


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
    """Run a server that calls `reply` for one request per connection; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            number = 0
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        received = b""
                        while not received.endswith(b"}") and (
                            part := connection.recv(65536)
                        ):
                            received += part
                        if received:
                            number += 1
                            reply(connection, number - 1)
                            connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/users"
        with suppress(OSError):  # on Windows, close() ends accept()
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


def test_invalid_and_endless_responses_are_retried(project: Project) -> None:
    """They are read up to a limit, whatever their headers say about the length."""
    replies = [*GARBAGE, *ENDLESS, GOOD]
    sizes = [0] * len(replies)

    def reply(connection: socket.socket, number: int) -> None:
        connection.sendall(replies[number])
        data = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
        while replies[number] in ENDLESS and sizes[number] < 2**28:
            connection.sendall(data)
            sizes[number] += len(data)

    project.users(1)
    with raw_server(reply) as url:
        project.configure(intercom={"user_url": url})
        result = project.run()
    assert (result.status, result.counts()) == (0, (1, 0, 0)), result
    assert len(lines_of(result.error_log, "line 2 ", "retrying")) == len(replies) - 1
    assert 0 < max(sizes) < 2**26
    assert "Traceback" not in result.debug_log
    assert max(map(len, result.debug_log.splitlines())) < 2000


def test_a_server_that_refuses_connections_is_retried(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/users"
    project.users(3)
    project.configure(intercom={"user_url": url, "retries": 2})
    result = project.run()
    assert (result.status, result.counts()) == (1, (0, 0, 3)), result
    assert len(lines_of(result.error_log, "retrying")) == 4
    assert "refused" in result.err


#### Retries used up


@pytest.mark.parametrize("retries", [0, 3])
def test_a_user_that_used_up_its_retries_is_not_imported(
    project: Project, services: MockServices, retries: int
) -> None:
    """The users in between are imported, however often this happens."""
    project.configure(intercom={"retries": retries})
    services.faults_by_user_id = dict.fromkeys(("u2", "u4", "u6"), Fault(status=503))
    project.users(7)
    result = project.run()
    assert (result.status, result.counts()) == (1, (4, 0, 3)), result
    assert rejected_ids(result) == ["u2", "u4", "u6"]
    assert imported(project).count("u2") == 1 + retries
    assert lines_of(result.error_log, "line 3 ", "u2", "not imported", "503")
    assert "stopped" not in result.err


OUTAGES = {
    "dropped": ([Fault(drop=True)], ["connection lost"]),
    "a portal": ([html_page("Sign in")], ["200 (text/html", "Sign in"]),
    "rate limited": ([rate_limited(0)], ["429", "Exceeded rate limit"]),
    "two kinds": ([Fault(status=503), html_page("Busy", 502)], ["503", "502", "Busy"]),
}


@pytest.mark.parametrize("case", OUTAGES)
def test_an_outage_stops_the_run_and_names_the_last_responses(
    project: Project, services: MockServices, case: str
) -> None:
    """Two users in a row have used up their retries. No other user is tried."""
    faults, words = OUTAGES[case]
    services.faults_by_user_id = {"u3": faults[0], "u4": faults[-1]}
    project.configure(intercom={"retries": 2})
    project.users(6)
    result = project.run()
    assert (result.status, result.counts()) == (1, (2, 0, 4)), result
    assert rejected_ids(result) == ["u3", "u4", "u5", "u6"]
    again = (
        1 if case == "dropped" else 0
    )  # sent again on a new connection, which isn't a retry
    assert imported(project) == ["u1", "u2", *["u3"] * (3 + again), *["u4"] * 3]
    assert "u5" not in result.debug_log
    for word in words:
        assert word in result.err


#### Responses that stop the run

API_KEY = {
    "access_token": None,
    "api_id": "sandbox-app",
    "api_key": "sandbox-key-0123456789",
}
STOPPING = {
    "401": (Fault(status=401), "access_token"),
    "404": (Fault(status=404, body=PAGE), "user_url"),
    "407": (Fault(status=407), "HTTPS_PROXY"),
    "400": (Fault(status=400, code="intercom_version_invalid"), CONTACTS),
}


@pytest.mark.parametrize("status", STOPPING)
def test_a_response_that_every_user_would_get_stops_the_run(
    project: Project, services: MockServices, status: str
) -> None:
    """It does so even if users were accepted before."""
    fault, word = STOPPING[status]
    services.faults_by_user_id = {"u2": fault}
    project.users(4)
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, 3)), result
    assert imported(project) == ["u1", "u2"]
    assert rejected_ids(result) == ["u2", "u3", "u4"]
    for text in (result.err, result.error_log):
        assert status in text
        assert word in text


def test_a_redirect_is_named_but_not_followed(
    project: Project, services: MockServices
) -> None:
    with MockServices() as elsewhere:
        services.faults = [redirect(elsewhere.users_url, 307)]
        project.users(2)
        result = project.run()
        assert not elsewhere.requests
    assert (result.status, result.counts()) == (1, (0, 0, 2)), result
    line = line_of(result.err, "307")
    assert elsewhere.users_url in line
    assert CONTACTS in line


@pytest.mark.parametrize(
    "fault",
    [Fault(status=403, body=PAGE), Fault(status=404)],
    ids=["403 page", "404 list"],
)
def test_403_and_404_concern_only_their_row_once_users_were_accepted(
    project: Project, services: MockServices, fault: Fault
) -> None:
    """That may be in this run, or in an earlier one that the state file remembers."""
    project.configure(intercom={"skip_unchanged": "true"})
    project.users(3)
    services.faults = [fault]
    first = project.run()
    assert (first.status, first.counts()) == (1, (0, 0, 3)), first
    services.faults = [Fault(), fault]
    later = project.run()
    assert (later.status, later.counts()) == (1, (2, 0, 1)), later
    services.faults = [fault]
    known = project.run()
    assert (known.status, known.counts()) == (1, (0, 2, 1)), known


def test_404_concerns_only_its_row_if_the_row_has_an_id(
    project: Project, services: MockServices
) -> None:
    services.faults = [Fault(status=404, code="not-found", message="No such")]
    project.write("id,user_id\nnobody,u2\n,u3\n")
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, 1)), result
    assert lines_of(result.error_log, "line 2 ", "404", "not-found", "No such")


#### Users that Intercom rejects


def test_a_rejection_is_logged_with_codes_messages_and_request_id(
    project: Project, services: MockServices
) -> None:
    for n in (1, 2):
        services.users[f"x{n}"] = {
            "id": f"x{n}",
            "user_id": f"x{n}",
            "email": "a@example.com",
        }
    listed = [{"code": f"c-{n}", "message": f"No. {n}"} for n in (1, 2)]
    errors = {"type": "error.list", "request_id": "r-17", "errors": listed}
    services.faults_by_user_id = {
        "u1": Fault(status=422, body=json.dumps(errors).encode())
    }
    project.write("user_id,email\nu1,\n,a@example.com\nu3,\n")
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, 2)), result
    assert [request.status for request in services.requests] == [422, 409, 200]
    words = ("u1", "not imported", 422, "c-1", "No. 1", "c-2", "No. 2", "r-17")
    assert lines_of(result.error_log, " ERROR ", "line 2 ", *words)
    assert lines_of(
        result.error_log, "line 3 ", "a@example.com", "Multiple existing users"
    )


def test_any_other_4xx_concerns_its_row_and_is_final(
    project: Project, services: MockServices
) -> None:
    """The error list may have any shape. For None, the mock sends the usual one."""
    rejected = [400, 409, 410, 411, 413, 415, 422, 423, 451, 499]
    bodies = [
        *[None] * len(rejected),
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b"17",
        b'"x"',
        b"\xff\xfe",
        b"NaN",
        b'{"errors": null}',
        b'{"errors": []}',
        b'{"errors": {}}',
        b'{"errors": ["x", 3, null]}',
        b'{"errors": [{}, {"code": 5, "message": [1]}], "request_id": {}}',
        b'{"errors": [{"code": "\\u0000\\n2026-01-01T00:00:00 forged", "message": "\\ud800"}]}',
        b"[" * 100_000,
        b'{"errors": [{"code": "x", "message": "' + b"y" * 500_000 + b'"}]}',
        b"9" * 5000,
        b"x" * 2**20,
    ]
    statuses = itertools.cycle(rejected)
    faults = [Fault(status=next(statuses), body=body) for body in bodies]
    services.faults = list(faults)
    project.users(len(bodies) + 1)
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, len(bodies))), result
    assert len(services.requests) == len(bodies) + 1
    assert "Traceback" not in result.debug_log
    for number, fault in enumerate(faults, 2):
        (line,) = lines_of(
            result.error_log, f"line {number} ", "not imported", fault.status
        )
        assert len(line) < 20_000
    assert not [
        line for line in result.debug_log.splitlines() if line.startswith("2026-01-01")
    ]


#### What a request looks like

BEARER = "Bearer sandbox-token-0123456789"
BASIC = f"Basic {base64.b64encode(b'sandbox-app:sandbox-key-0123456789').decode()}"
# The path of user_url, other keys, and the Authorization and Intercom-Version headers
HEADERS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "token": ("/users", {}, BEARER, "1.4"),
    "key and version": ("/users", {**API_KEY, "api_version": "1.1"}, BASIC, "1.1"),
    "contacts": ("/contacts", {}, BEARER, "2.14"),
    "preview": ("/contacts", {"api_version": "Preview"}, BEARER, "Preview"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_the_headers_of_a_request(
    project: Project, services: MockServices, case: str
) -> None:
    """Neither .netrc nor a cookie adds any."""
    path, keys, authorization, version = HEADERS[case]
    netrc = project.folder / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    services.faults = [Fault(headers={"Set-Cookie": "a=b; Path=/"})]
    project.configure(intercom={**keys, "user_url": services.url + path})
    project.write("user_id,name\nu1,René\nu2,\n")
    result = project.run(env={"NETRC": str(netrc)})
    assert result.status == 0, result
    assert len(services.requests) == 2
    for request in services.requests:
        assert (request.method, request.path, request.query) == ("POST", path, {})
        assert request.headers["Authorization"] == authorization
        assert request.headers["Intercom-Version"] == version
        assert request.headers["Accept"] == "application/json"
        assert request.headers["Content-Type"].split(";")[0] == "application/json"
        assert request.headers["User-Agent"] == f"IntercomImporter/{export_csv.VERSION}"
        assert "Cookie" not in request.headers
        assert request.raw.isascii()


URLS = {
    "http://10.0.0.1/users": False,
    "http://localhost.example.com/users": False,
    "http://[::2]/users": False,
    "ftp://127.0.0.1/users": False,
    "http://127.1.2.3/users": True,
    "http://localhost:1/users": True,
    "http://[::1]:1/users": True,
    "https://gateway.example.com:8443/intercom/users": True,
}


@pytest.mark.parametrize("url", URLS)
def test_http_is_allowed_on_loopback_only(tmp_path: Path, url: str) -> None:
    config = tmp_path / "config.ini"
    config.write_text(f"[intercom]\nuser_url = {url}\n")
    arguments = export_csv.parse_arguments(["--config", str(config), "--dry-run"])
    _, problems = export_csv.load_settings(config, arguments)
    expected = [] if URLS[url] else ["[intercom] user_url"]
    assert list(problems.by_place) == expected


#### Proxies and certificates


@pytest.mark.parametrize(
    ("name", "no_proxy"),
    [("HTTP_PROXY", ""), ("ALL_PROXY", ""), ("HTTP_PROXY", "127.0.0.1")],
)
def test_the_proxy_from_the_environment_is_used(
    project: Project, name: str, no_proxy: str
) -> None:
    """NO_PROXY exempts a host. The mock can also act as the proxy."""
    with MockServices() as proxy:
        project.users(2)
        result = project.run(env={name: proxy.url, "NO_PROXY": no_proxy})
        assert result.counts() == (2, 0, 0), result
        asked = proxy
        other = project.services
        if no_proxy:
            asked, other = other, asked
        assert (len(asked.requests), other.requests) == (2, [])


@pytest.fixture
def tls(project: Project) -> Iterator[MockServices]:
    """Run mock services with an untrusted certificate, and point user_url to them."""
    context = make_certificate(project.folder, "certificate", "127.0.0.1")
    with MockServices(tls=context) as services:
        project.configure(intercom={"user_url": services.users_url})
        yield services


# The host of user_url, the environment, and a word in the message
IMPOSSIBLE = {
    "missing bundle": (
        "127.0.0.1",
        {"REQUESTS_CA_BUNDLE": "/nowhere/certificates.pem"},
        "REQUESTS_CA_BUNDLE",
    ),
    "SOCKS proxy": (
        "127.0.0.1",
        {"HTTPS_PROXY": "socks5://127.0.0.1:9"},
        "HTTPS_PROXY",
    ),
    "unknown certificate": ("127.0.0.1", {}, "CERTIFICATE_VERIFY_FAILED"),
    "certificate of another host": (
        "localhost",
        {"REQUESTS_CA_BUNDLE": "certificate.pem"},
        "localhost",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_connection_that_can_never_work_stops_the_run(
    project: Project, tls: MockServices, case: str
) -> None:
    """It stops at the first attempt, and doesn't mention /contacts."""
    host, environment, word = IMPOSSIBLE[case]
    project.configure(intercom={"user_url": tls.users_url.replace("127.0.0.1", host)})
    project.users(3)
    result = project.run(env=environment)
    assert (result.status, result.counts()) == (1, (0, 0, 3)), result
    assert word in result.err
    assert "/contacts" not in result.err
    assert "retrying" not in result.debug_log
    assert rejected_ids(result) == ["u1", "u2", "u3"]
    assert tls.requests == []
    assert tls.connection_count <= 1


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_from_the_environment_are_accepted(
    project: Project, tls: MockServices, name: str
) -> None:
    project.users(2)
    assert project.run(env={name: "certificate.pem"}).counts() == (2, 0, 0)
    assert len(tls.requests) == 2
    assert tls.connection_count == 1
