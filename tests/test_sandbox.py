"""The mock services, and the sandbox.py command.

The mocks are as strict as the real services, and faulty only on request.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from conftest import CREATE_NO_WINDOW, eventually, passed_environment, posix, send
from faults import Fault, html_page, not_ok, rate_limited, redirect
from mock_services import MockServices

PROGRAM = [sys.executable, str(Path(__file__).with_name("sandbox.py"))]
EXISTS = "contact matching those details already exists with id="


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Client:
    """Talks to the mocks over one connection, which http.client opens again when it is closed."""

    def __init__(self, services: MockServices) -> None:
        self.connection = http.client.HTTPConnection(
            urlsplit(services.url).netloc, timeout=30
        )
        self.headers = {
            "Authorization": f"Bearer {services.token}",
            "Accept": "application/json",
            "Content-Type": "application/json",
        }

    def request(self, line: str, body: object = None, **headers: str) -> Reply:
        """Send a request such as "GET /contacts 2.14"; the version is optional."""
        method, path, *version = line.split()
        if version:
            headers["Intercom-Version"] = version[0]
        data = None
        if body is not None:
            data = json.dumps(body)
        self.connection.request(method, path, data, {**self.headers, **headers})
        with self.connection.getresponse() as response:
            text = response.read().decode()
            return Reply(response.status, dict(response.getheaders()), text)


@pytest.fixture
def client(services: MockServices) -> Iterator[Client]:
    """A client with the right token; its connection is closed at the end."""
    opened = Client(services)
    yield opened
    opened.connection.close()


#### Intercom: access and versions


def test_a_request_without_the_right_token_is_refused(client: Client) -> None:
    assert client.request("GET /me", Authorization="Bearer wrong").status == 401
    del client.headers["Authorization"]
    reply = client.request("GET /me")
    assert (reply.status, reply.json["errors"][0]["code"]) == (401, "token_not_found")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /users?per_page=1", 200),
        ("GET /users?per_page=1 1.0", 200),
        ("GET /users?per_page=1 1.4", 200),
        ("GET /users?per_page=1 2.0", 400),
        ("GET /users?per_page=1 2.14", 400),
        ("GET /users?per_page=1 Preview", 400),
        ("GET /contacts?per_page=1", 400),
        ("GET /contacts?per_page=1 1.4", 400),
        ("GET /contacts?per_page=1 2.0", 200),
        ("GET /contacts?per_page=1 2.17", 200),
        ("GET /contacts?per_page=1 Preview", 200),
        ("GET /contacts?per_page=1 2.18", 400),
        ("GET /me 1.5", 400),
        ("GET /me 2", 400),
        ("GET /me Unstable", 400),
    ],
)
def test_users_are_for_1x_and_contacts_for_2x(
    client: Client, line: str, status: int
) -> None:
    reply = client.request(line)
    assert reply.status == status, reply
    if status == 400:
        assert reply.json["errors"][0]["code"] == "intercom_version_invalid"


def test_without_a_version_the_default_version_of_the_app_applies(
    services: MockServices, client: Client
) -> None:
    services.default_version = "2.14"
    assert client.request("GET /contacts").status == 200
    assert client.request("GET /users").status == 400


@pytest.mark.parametrize(
    "line", ["DELETE /users 1.4", "PATCH /contacts/c1 2.14", "GET /tags"]
)
def test_an_unsupported_path_or_method_is_not_found(client: Client, line: str) -> None:
    assert client.request(line).status == 404


#### Intercom: users


def test_users_are_listed_newest_first(services: MockServices, client: Client) -> None:
    services.users["old"] = {"id": "old", "created_at": 1}
    services.users["new"] = {"id": "new", "created_at": 2}
    page = client.request("GET /users?per_page=1 1.4").json
    assert (page["type"], page["total_count"]) == ("user.list", 2)
    assert [user["id"] for user in page["users"]] == ["new"]
    assert page["pages"]["total_pages"] == 2
    for invalid in ("0", "61", "all"):
        assert client.request(f"GET /users?per_page={invalid} 1.4").status == 400


def test_an_email_address_is_lower_cased(
    services: MockServices, client: Client
) -> None:
    assert client.request("POST /users", {"email": "Ada@Example.com"}).status == 200
    assert (
        client.request(
            "POST /users", {"email": "ADA@example.com", "name": "Ada"}
        ).status
        == 200
    )
    (user,) = services.find(email="ada@example.com")
    assert user["name"] == "Ada"


def test_an_email_address_shared_by_several_users_is_not_enough(
    services: MockServices, client: Client
) -> None:
    client.request("POST /users", {"user_id": "u1", "email": "a@example.com"})
    # One user so far: the address is enough.
    assert (
        client.request("POST /users", {"email": "a@example.com"}).json["user_id"]
        == "u1"
    )
    client.request("POST /users", {"user_id": "u2", "email": "a@example.com"})
    reply = client.request("POST /users", {"email": "a@example.com"})
    assert reply.status == 409
    assert "must be more specific" in reply.text
    # With a user_id, it is clear which user is meant; a new user_id creates a user.
    assert (
        client.request(
            "POST /users", {"user_id": "u2", "email": "a@example.com"}
        ).status
        == 200
    )
    client.request("POST /users", {"user_id": "u3", "email": "a@example.com"})
    assert len(services.users) == 3


def test_a_user_without_user_id_gets_one(
    services: MockServices, client: Client
) -> None:
    client.request("POST /users", {"email": "a@example.com"})
    client.request("POST /users", {"user_id": "u1", "email": "a@example.com"})
    assert [user["user_id"] for user in services.users.values()] == ["u1"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"name": "Ada"}, "One of id, user_id and email"),
        ({"user_id": "u1", "nmae": "Ada"}, "nmae is not a known field"),
        ({"user_id": 1}, "user_id must be of type str"),
        ({"user_id": "u1", "signed_up_at": True}, "signed_up_at must be of type int"),
        ({"user_id": "u1", "unsubscribed_from_emails": None}, "must be of type bool"),
        ({"user_id": "u1", "custom_attributes": {"a.b": 1}}, "invalid name"),
        (
            {"user_id": "u1", "custom_attributes": {"a": None}},
            "not a string, number or boolean",
        ),
        ({"user_id": "u1", "custom_attributes": {"a": "x" * 256}}, "longer than 255"),
        (["u1"], "not a JSON object"),
    ],
)
def test_an_invalid_user_is_rejected(client: Client, body: object, text: str) -> None:
    reply = client.request("POST /users", body)
    assert reply.status == 400
    assert text in reply.json["errors"][0]["message"]


#### Intercom: contacts


@pytest.fixture
def contacts(services: MockServices) -> MockServices:
    """A workspace with a user, a lead, an archived contact and a merged one."""
    services.attributes |= {"rating": "float", "seen_at": "datetime"}
    services.contacts["user"] = {"external_id": "u1", "email": "One@example.com"}
    services.contacts["lead"] = {"role": "lead", "email": "two@example.com"}
    services.contacts["away"] = {"external_id": "u3", "archived": True}
    services.contacts["merged"] = {"email": "four@example.com", "merged_into": "user"}
    return services


@pytest.mark.parametrize(
    ("line", "body", "status", "text"),
    [
        ("GET /contacts/user", None, 200, '"email": "One@example.com"'),
        ("POST /contacts", {"email": "ONE@example.com"}, 409, f"A {EXISTS}user"),
        (
            "POST /contacts",
            {"external_id": "9", "email": "two@example.com"},
            409,
            f"{EXISTS}lead",
        ),
        ("POST /contacts", {"external_id": "u3"}, 409, f"An archived {EXISTS}away"),
        ("POST /contacts", {"email": "four@example.com"}, 200, '"role": "user"'),
        ("POST /contacts", {"role": "lead", "external_id": "9"}, 400, "External IDs"),
        ("POST /contacts", {"name": "Ada"}, 400, "One of role, external_id and email"),
        (
            "PUT /contacts/lead",
            {"external_id": "9", "role": "user"},
            200,
            '"external_id": "9"',
        ),
        ("PUT /contacts/user", {"role": "lead"}, 400, "can't be converted"),
        ("PUT /contacts/user", {"email": "two@example.com"}, 409, f"A {EXISTS}lead"),
        (
            "PUT /contacts/user",
            {"email": "one@example.com"},
            200,
            '"external_id": "u1"',
        ),
        (
            "PUT /contacts/user",
            {"custom_attributes": {"rating": 4, "seen_at": 1}},
            200,
            "",
        ),
        (
            "PUT /contacts/user",
            {"custom_attributes": {"seen_at": "2026-11-01"}},
            400,
            "datetime",
        ),
        (
            "PUT /contacts/user",
            {"custom_attributes": {"plan": "gold"}},
            400,
            "does not exist",
        ),
        ("PUT /contacts/away", {"name": "Ada"}, 404, "not_found"),
        ("GET /contacts/nobody", None, 404, "not_found"),
    ],
)
def test_requests_for_a_contact(
    contacts: MockServices,
    client: Client,
    line: str,
    body: object,
    status: int,
    text: str,
) -> None:
    reply = client.request(f"{line} 2.14", body)
    assert reply.status == status, reply
    assert text in reply.text


@pytest.mark.parametrize(
    ("version", "status", "code"),
    [
        ("2.14", 404, "not_found"),
        ("2.15", 404, "not_found"),
        ("2.16", 410, "contact_merged"),
        ("2.17", 410, "contact_merged"),
        ("Preview", 410, "contact_merged"),
    ],
)
def test_a_merged_contact_is_gone(
    contacts: MockServices, client: Client, version: str, status: int, code: str
) -> None:
    for method, body in ("GET", None), ("PUT", {"name": "Ada"}):
        reply = client.request(f"{method} /contacts/merged {version}", body)
        assert (reply.status, reply.json["errors"][0]["code"]) == (status, code)
        assert ("Link" in reply.headers) == (status == 410)


def test_a_contact_is_archived_and_unarchived(
    contacts: MockServices, client: Client
) -> None:
    reply = client.request("POST /contacts/user/archive 2.14")
    reference = {"type": "contact", "id": "user", "external_id": "u1"}
    assert (reply.status, reply.json) == (200, {**reference, "archived": True})
    assert client.request("GET /contacts/user 2.14").status == 404
    reply = client.request("POST /contacts/user/unarchive 2.14")
    assert (reply.status, reply.json) == (200, {**reference, "archived": False})
    assert client.request("GET /contacts/user 2.14").status == 200
    assert client.request("POST /contacts/merged/archive 2.14").status == 404


def test_the_list_has_neither_archived_nor_merged_contacts(
    contacts: MockServices, client: Client
) -> None:
    page = client.request("GET /contacts?per_page=150 2.14").json
    assert page["type"] == "list"
    assert [contact["id"] for contact in page["data"]] == ["user", "lead"]
    assert client.request("GET /contacts?per_page=151 2.14").status == 400


@pytest.mark.parametrize("status", [404, 409, 410])
def test_a_remembered_contact_may_be_gone(
    contacts: MockServices, client: Client, status: int
) -> None:
    contacts.faults = [Fault(status=status)]
    assert client.request("PUT /contacts/user 2.14", {"name": "Ada"}).status == status
    assert "name" not in contacts.contacts["user"]
    assert client.request("PUT /contacts/user 2.14", {"name": "Ada"}).status == 200


#### Intercom: data attributes


def listed_attributes(client: Client, query: str) -> dict[str, dict[str, Any]]:
    attributes = client.request(f"GET /data_attributes?{query} 2.14").json["data"]
    return {one["name"]: one for one in attributes if one["custom"]}


def test_archived_attributes_are_listed_on_request(
    services: MockServices, client: Client
) -> None:
    services.attributes = {"plan": "string", "old": "date"}
    services.attribute_details["old"] = {"archived": True}
    assert listed_attributes(client, "model=contact").keys() == {"plan"}
    attributes = listed_attributes(client, "model=contact&include_archived=true")
    assert attributes["old"]["archived"] is True
    assert attributes["old"]["data_type"] == "date"
    assert attributes["plan"]["archived"] is False
    body = {"external_id": "u1", "custom_attributes": {"old": 1}}
    assert "does not exist" in client.request("POST /contacts 2.14", body).text


def test_an_attribute_may_be_read_only(services: MockServices, client: Client) -> None:
    services.attribute_details = {"plan": {"api_writable": False}, "source": {}}
    attributes = listed_attributes(client, "model=contact")
    assert attributes["plan"]["api_writable"] is False
    assert attributes["source"]["api_writable"] is True
    body = {"external_id": "u1", "custom_attributes": {"plan": "gold"}}
    assert "not writable" in client.request("POST /contacts 2.14", body).text
    body = {"external_id": "u1", "custom_attributes": {"source": "csv"}}
    assert client.request("POST /contacts 2.14", body).status == 200


@pytest.mark.parametrize("options", [["a", "b"], [{"value": "a"}, {"value": "b"}]])
def test_an_attribute_may_have_options(
    services: MockServices, client: Client, options: list[Any]
) -> None:
    services.attribute_details["plan"] = {"options": options}
    assert listed_attributes(client, "model=contact")["plan"]["options"] == options
    body = {"external_id": "u1", "custom_attributes": {"plan": "a"}}
    assert client.request("POST /contacts 2.14", body).status == 200
    body = {"external_id": "u2", "custom_attributes": {"plan": "c"}}
    assert "one of its options" in client.request("POST /contacts 2.14", body).text
    services.enforce_options = False
    assert client.request("POST /contacts 2.14", body).status == 200


def attribute(**changes: object) -> dict[str, object]:
    return {"name": "new", "model": "contact", "data_type": "date", **changes}


OPTIONS = [{"value": "a"}, {"value": "b"}]


@pytest.mark.parametrize(
    ("version", "body", "status", "text"),
    [
        ("2.14", attribute(name="Prix en € - net_2"), 200, '"custom": true'),
        ("2.14", attribute(name="Prix, net"), 400, "must only contain"),
        ("2.14", attribute(name="old"), 400, "You already have 'old' in your"),
        ("2.14", attribute(data_type="timestamp"), 400, "isn't an option"),
        ("2.14", attribute(model="company"), 400, "either contact or company"),
        ("2.14", attribute(data_type="datetime"), 200, '"data_type": "datetime"'),
        (
            "2.14",
            attribute(data_type="options", options=OPTIONS),
            200,
            '"options": ["a", "b"]',
        ),
        (
            "2.14",
            attribute(data_type="options", options=OPTIONS[:1]),
            400,
            "at least two",
        ),
        (
            "2.13",
            attribute(data_type="options", options=OPTIONS),
            400,
            "isn't an option",
        ),
    ],
)
def test_creating_an_attribute(
    services: MockServices,
    client: Client,
    version: str,
    body: dict[str, Any],
    status: int,
    text: str,
) -> None:
    services.attribute_details["old"] = {"archived": True}
    reply = client.request(f"POST /data_attributes {version}", body)
    assert reply.status == status, reply
    assert text in reply.text
    assert (body["name"] in services.attributes) == (status == 200)


def test_a_workspace_has_at_most_250_active_attributes(
    services: MockServices, client: Client
) -> None:
    services.attributes = {f"a{number}": "string" for number in range(250)}
    assert client.request("POST /data_attributes 2.14", attribute()).status == 400
    services.attribute_details["a7"] = {"archived": True}
    assert client.request("POST /data_attributes 2.14", attribute()).status == 200


#### Intercom: rate limit


def test_requests_beyond_the_limit_of_a_window_are_rejected(
    services: MockServices, client: Client
) -> None:
    services.limit = 2
    services.window = 3600
    remaining = []
    for _ in range(3):
        reply = client.request("GET /me")
        remaining.append((reply.status, reply.headers["X-RateLimit-Remaining"]))
    assert remaining == [(200, "1"), (200, "0"), (429, "0")]
    assert int(reply.headers["X-RateLimit-Reset"]) > services.now()
    refused = client.request("GET /me", Authorization="Bearer wrong")
    assert "X-RateLimit-Limit" not in refused.headers


#### Slack and Hipchat


def post_to_slack(services: MockServices, client: Client, body: object) -> Reply:
    path = services.webhook_url.removeprefix(services.url)
    return client.request(f"POST {path}", body)


def test_slack(services: MockServices, client: Client) -> None:
    assert post_to_slack(services, client, {"text": "x" * 40_001}).text == "ok"
    assert services.slack == [{"text": "x" * 40_000}]
    assert post_to_slack(services, client, {"txt": "x"}).text == "invalid_payload"
    assert post_to_slack(services, client, {"text": ""}).text == "no_text"
    reply = client.request("POST /services/another", {"text": "x"})
    assert (reply.status, reply.text) == (404, "no_service")
    assert len(services.slack) == 1


@pytest.mark.parametrize(
    ("changes", "query", "status"),
    [
        ("", "format=json", 200),
        ("&color=green", "format=json", 200),
        ("&color=blue", "format=json", 400),
        ("&from=A+name+that+is+long", "format=json", 400),
        ("x" * 10_000, "format=json", 400),
        ("", "format=xml", 400),
        ("", "auth_token=wrong", 401),
    ],
)
def test_hipchat(
    services: MockServices, client: Client, changes: str, query: str, status: int
) -> None:
    form = f"room_id=x&from=Import&message=Hello{changes}"
    path = f"/v1/rooms/message?auth_token={services.hipchat_key}&{query}"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    client.connection.request("POST", path, form, headers)
    with client.connection.getresponse() as response:
        assert (response.status, bool(response.read())) == (status, True)
    assert len(services.hipchat) == (status == 200)


def test_notices_may_fail_per_service(services: MockServices, client: Client) -> None:
    services.notice_faults_by_service = {
        "hipchat": [Fault(status=500)],
        "slack": [
            rate_limited(7),
            html_page(),
            not_ok(),
            Fault(status=404, message="no_service"),
        ],
    }
    limited = post_to_slack(services, client, {"text": "x"})
    assert (limited.status, limited.headers["Retry-After"]) == (429, "7")
    page = post_to_slack(services, client, {"text": "x"})
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html")
    assert post_to_slack(services, client, {"text": "x"}).json["ok"] is False
    assert post_to_slack(services, client, {"text": "x"}).text == "no_service"
    assert services.slack == []
    assert post_to_slack(services, client, {"text": "x"}).text == "ok"
    assert [notice.status for notice in services.notice_requests] == [
        429,
        200,
        200,
        404,
        200,
    ]
    assert len(services.notice_faults_by_service["hipchat"]) == 1


#### Faults

OK = b"HTTP/1.1 200 OK\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\n\r\n"


class RawClient:
    """A socket to the mocks, to see exactly which bytes go out, and when the connection ends."""

    def __init__(self, services: MockServices) -> None:
        self.token = services.token
        port = int(services.url.rpartition(":")[2])
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)

    def send(self, connection: str = "keep-alive") -> None:
        lines = [
            "GET /me HTTP/1.1",
            f"Authorization: Bearer {self.token}",
            "Accept: application/json",
            f"Connection: {connection}",
        ]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())

    def read_response(self) -> bytes:
        """Read until the JSON object of one response is complete."""
        received = b""
        while not received.endswith(b"}}"):
            received += self.socket.recv(1)
        return received

    def read_rest(self, limit: int = 2**21) -> bytes:
        """Read until the other side closes the connection."""
        received = b""
        while len(received) < limit:
            piece = self.socket.recv(65536)
            if not piece:
                break
            received += piece
        return received


@pytest.fixture
def raw_client(services: MockServices) -> Iterator[RawClient]:
    """Open a socket for tests of faults, and apply faults to GET /me too."""
    services.faults_on_me = True
    opened = RawClient(services)
    with opened.socket:
        yield opened


@pytest.mark.parametrize(
    ("fault", "begin", "end"),
    [
        (Fault(), OK, b"}}"),
        (Fault(early=103), EARLY + OK, b"}}"),
        (Fault(early=103, drop=True), EARLY, b""),
        (Fault(status=103), EARLY, b""),
        (Fault(chunk=7), OK, b"\r\n0\r\n\r\n"),
        (Fault(endless=True), OK, b" " * 2**20),
        (redirect("https://example.com/login"), b"HTTP/1.1 302 Found\r\n", b"\r\n\r\n"),
        (html_page("Sign in"), OK, b"</html>\n"),
    ],
)
def test_a_fault_on_the_wire(
    services: MockServices,
    raw_client: RawClient,
    fault: Fault,
    begin: bytes,
    end: bytes,
) -> None:
    services.fault_for = lambda _: fault
    raw_client.send(connection="close")
    received = raw_client.read_rest()
    assert received.startswith(begin)
    assert received.endswith(end)
    if not end:
        assert received == begin


def test_a_connection_without_faults_is_kept_alive(
    services: MockServices, raw_client: RawClient
) -> None:
    for _ in range(3):
        raw_client.send()
        assert b"\r\nConnection: keep-alive\r\n" in raw_client.read_response()
    assert services.connection_count == 1


def test_a_response_is_sent_twice(
    services: MockServices, raw_client: RawClient
) -> None:
    services.faults = [Fault(twice=True)]
    raw_client.send()
    first = raw_client.read_response()
    assert raw_client.read_response() == first
    # The connection stays open, so a client may take the copy for its next response.
    raw_client.send(connection="close")
    assert raw_client.read_rest().startswith(OK)
    assert len(services.requests) == 2


def test_the_second_copy_may_be_late(
    services: MockServices, raw_client: RawClient
) -> None:
    services.faults = [Fault(twice_after=0.3)]
    raw_client.send()
    first = raw_client.read_response()
    started = time.monotonic()
    # The next response comes after the copy, so a client takes the copy for it.
    raw_client.send(connection="close")
    assert raw_client.read_response() == first
    assert time.monotonic() - started > 0.2
    assert raw_client.read_rest().startswith(OK)


def test_a_keep_alive_connection_is_closed_when_it_is_used_again(
    services: MockServices, raw_client: RawClient
) -> None:
    services.faults = [Fault(close_silently=True)]
    raw_client.send()
    assert b"\r\nConnection: keep-alive\r\n" in raw_client.read_response()
    raw_client.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        raw_client.socket.recv(1)
    raw_client.socket.settimeout(30)
    raw_client.send()
    assert raw_client.read_rest() == b""
    assert [request.status for request in services.requests] == [200, 0]


def test_a_connection_is_closed_in_spite_of_keep_alive(
    services: MockServices, raw_client: RawClient
) -> None:
    services.faults = [Fault(close_after=True)]
    raw_client.send()
    received = raw_client.read_rest()
    assert b"\r\nConnection: keep-alive\r\n" in received
    assert received.endswith(b"}}")
    assert services.responses == {200: 1}


@pytest.mark.parametrize(("acts", "names"), [(False, []), (True, ["Ada"])])
def test_a_response_may_name_another_user(
    services: MockServices, client: Client, acts: bool, names: list[str]
) -> None:
    services.faults = [Fault(as_user="other", acts=acts)]
    reply = client.request("POST /users", {"user_id": "u1", "name": "Ada"})
    assert (reply.status, reply.json["type"], reply.json["user_id"]) == (
        200,
        "user",
        "other",
    )
    assert [user["name"] for user in services.find(user_id="u1")] == names
    services.faults = [Fault(as_user="other", acts=acts)]
    reply = client.request("POST /contacts 2.14", {"external_id": "u1", "name": "Ada"})
    assert (reply.json["type"], reply.json["external_id"]) == ("contact", "other")


@pytest.mark.parametrize(
    "fault", [Fault(status=503), Fault(drop=True), Fault(cut=True)]
)
def test_a_fault_keeps_the_service_from_acting(
    services: MockServices, client: Client, fault: Fault
) -> None:
    acting = Fault(status=fault.status, drop=fault.drop, cut=fault.cut, acts=True)
    services.faults_by_user_id = {"u1": fault, "u2": acting}
    for user_id in ("u1", "u2", "u3"):
        try:
            client.request("POST /users", {"user_id": user_id})
        except (http.client.HTTPException, ConnectionError):
            client.connection.close()
    users = [user["user_id"] for user in services.users.values()]
    assert users == ["u2", "u3"]


def test_a_mistake_in_a_test_is_reported(
    services: MockServices, client: Client
) -> None:
    services.fault_for = lambda request: request.body["user_id"]
    assert "TypeError" in client.request("GET /contacts 2.14").text


#### The command

CONFIG = """\
# the token was s3cret-0 once
[aws]
use_aws = true
secret_key = s3cret-1
[local]
folder = exports
[intercom]
access_token = s3cret-2
acces_token = s3cret-3
user_url = "https://api.eu.intercom.io/contacts"
state_file = sent_users.sqlite3
retries = 7
[slack]
use_slack = true
webhook_url = https://hooks.slack.com/services/s3cret-4
[hipchat]
api_key = s3cret-5
api_url = https://hipchat.example.com/v1/
[user]
user_id = Id
email = E-mail
[custom_attributes]
plan = Plan : string
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=folder,
        env=passed_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        creationflags=CREATE_NO_WINDOW,
    )


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    with start(folder, *arguments) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def read_introduction(process: subprocess.Popen[str]) -> list[str]:
    """Return what the command prints before anything has arrived."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        if line.startswith("Press Ctrl-C"):
            break
        lines.append(line.rstrip())
    return lines


def test_a_rehearsal_shows_what_arrives_until_it_is_interrupted(tmp_path: Path) -> None:
    with start(tmp_path, "--serve", "--port", "0") as process:
        lines = read_introduction(process)
        (url,) = {
            line.removeprefix("user_url = ")
            for line in lines
            if line.endswith("/users")
        }
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        headers = {
            "Authorization": "Bearer sandbox-token-0123456789",
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        for path, body in (
            ("/users", {"user_id": "\x1b[2J"}),
            ("/users", {"name": "Ada"}),
        ):
            connection.request("POST", path, json.dumps(body), headers)
            connection.getresponse().read()
        connection.close()
        send(process, signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.splitlines() == [
        "POST /users 200: user_id '\\x1b[2J'",
        "POST /users 400 (One of id, user_id and email is required): name 'Ada'",
        "Received: 1 users, 0 contacts, 0 notices; 2 requests to Intercom, 1 of them rejected",
    ]


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = run(tmp_path, "--serve", "--port", str(port))
    assert (status, out, err) == (1, "", f"port {port} is already in use\n")
    assert run(tmp_path, "--serve", "--port", "65536")[0] == 2
    assert run(tmp_path, "--port", "0")[0] == 2


def test_another_port_is_used_if_the_default_port_is_taken(tmp_path: Path) -> None:
    # The first one has the default port, unless another program had it before.
    with start(tmp_path, "--serve") as first:
        first_lines = read_introduction(first)
        with start(tmp_path, "--serve") as second:
            second_lines = read_introduction(second)
            send(second, signal.SIGINT)
        send(first, signal.SIGINT)
    assert second_lines[0].startswith("Port 8765 is already in use; using http")
    first_url, second_url = (
        next(line for line in lines if line.endswith("/users"))
        for lines in (first_lines, second_lines)
    )
    assert first_url != second_url


def test_a_rehearsal_config_uses_the_mocks_and_has_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "config.ini").write_text(CONFIG)
    with start(tmp_path, "--serve", "--port", "0", "--config", "config.ini") as process:
        introduction = "\n".join(read_introduction(process))
        send(process, signal.SIGINT)
    text = (tmp_path / "rehearsal.ini").read_text()
    lines = text.splitlines()
    for secret in range(6):
        assert f"s3cret-{secret}" not in text
    assert "https://" not in text
    assert "user_url = http://127.0.0.1:" in text
    assert [line for line in lines if line.endswith("/contacts")]
    for line in (
        "use_aws = false",
        "retries = 7",
        "create_attributes = true",
        "use_slack = true",
    ):
        assert lines.count(line) == 1
    assert lines[lines.index("[user]") :] == [
        "[user]",
        "user_id = Id",
        "email = E-mail",
        "",
        "[custom_attributes]",
        "plan = Plan : string",
    ]
    assert f'state_file = "{tmp_path / "rehearsal" / "sent_users.sqlite3"}"' in text
    assert f"--config {tmp_path / 'rehearsal.ini'} FILE.csv" in introduction


def test_a_rehearsal_config_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.ini").write_text(CONFIG)
    (tmp_path / "rehearsal.ini").write_text("mine")
    status, _, err = run(tmp_path, "--serve", "--port", "0", "--config", "config.ini")
    assert (status, err.count("\n")) == (1, 1)
    assert "rehearsal.ini already exists" in err
    assert (tmp_path / "rehearsal.ini").read_text() == "mine"


@pytest.mark.parametrize(
    ("line", "is_refused"),
    [
        ("SLACK_WEBHOOK_URL=https://hooks.slack.com/services/x", True),
        ("export INTERCOM_ACCESS_TOKEN = x", True),
        ("SLACK_WEBHOOK_URL=", False),
        ('HIPCHAT_API_KEY=""', False),
        ("# SLACK_WEBHOOK_URL=x", False),
        ("AWS_REGION=eu-west-1", False),
    ],
)
def test_a_variable_that_takes_precedence_is_refused(
    tmp_path: Path, line: str, is_refused: bool
) -> None:
    (tmp_path / "config.ini").write_text(CONFIG)
    (tmp_path / ".env").write_text(f"A=1\n{line}\n")
    if is_refused:
        status, _, err = run(
            tmp_path, "--serve", "--port", "0", "--config", "config.ini"
        )
        assert (status, err.count("\n")) == (1, 1)
        assert "take precedence" in err
        assert not (tmp_path / "rehearsal.ini").exists()
        return
    with start(tmp_path, "--serve", "--port", "0", "--config", "config.ini") as process:
        eventually((tmp_path / "rehearsal.ini").exists)
        read_introduction(process)
        send(process, signal.SIGINT)


@posix("Windows has no file modes")
def test_only_its_owner_can_read_a_rehearsal_config(tmp_path: Path) -> None:
    (tmp_path / "config.ini").write_text(CONFIG)
    with start(tmp_path, "--serve", "--port", "0", "--config", "config.ini") as process:
        read_introduction(process)
        send(process, signal.SIGINT)
    assert os.stat(tmp_path / "rehearsal.ini").st_mode & 0o777 == 0o600  # noqa: PTH116


def test_programs_get_json(tmp_path: Path) -> None:
    command = [*PROGRAM, "--serve", "--json", "--attribute", "plan:string"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=tmp_path) as process:
        assert process.stdout
        urls = json.loads(process.stdout.readline())
        out, _ = process.communicate(timeout=30)
    assert urls["users_url"] == urls["url"] + "/users"
    counts = json.loads(out)
    assert counts == {"users": 0, "contacts": 0, "max_in_flight": 0, "responses": {}}
    assert process.returncode == 0


def test_the_demo_succeeds_from_any_folder(tmp_path: Path) -> None:
    status, out, err = run(tmp_path)
    assert (status, err) == (0, ""), out
    assert out.splitlines()[-1] == "OK: all 12 users were imported."


def test_the_demo_says_what_failed(tmp_path: Path) -> None:
    """Here export_csv.py is a program that does nothing but fail."""
    (tmp_path / "export_csv.py").write_text("import sys; sys.exit('no')")
    tests = Path(__file__).parent
    (tmp_path / "tests" / "sample").mkdir(parents=True)
    for path in (*tests.glob("mock_*.py"), tests / "faults.py", tests / "sandbox.py"):
        (tmp_path / "tests" / path.name).write_bytes(path.read_bytes())
    for path in tests.glob("sample/*.csv"):
        (tmp_path / "tests" / "sample" / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, str(tmp_path / "tests" / "sandbox.py")]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stdout.splitlines()[-1] == (
        "FAILED: exit status 1, 0 of 12 users, 0 of 2 notices to Slack, 0 of 2 notices to Hipchat,"
        " 0 of 2 log files"
    )
