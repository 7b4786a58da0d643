"""Mocks of Intercom, Slack and Hipchat on one loopback port, with fault injection."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from urllib.parse import parse_qsl

from faults import NO_FAULT, Delivery, Fault, FaultPlan
from mock_http import REASON_PHRASES, Connection, Request, Response, Server, parse_json
from mock_intercom import JsonObject, MockIntercom, intercom_error

SLACK_FIELDS = ("text", "channel", "username", "icon_url", "icon_emoji")
MAX_SLACK_TEXT = 40_000  # the rest is cut off
HIPCHAT_COLORS = ("yellow", "green", "red", "purple", "gray", "random")
MAX_HIPCHAT_MESSAGE = 10_000


def slack_error(status: int, word: str) -> Response:
    """Return an error of an incoming webhook, which is a single word as text."""
    return Response(status, word.encode(), "text/html")


def hipchat_error(status: int, message: str) -> Response:
    error_type = REASON_PHRASES.get(status, "Unknown")
    error = {"code": status, "type": error_type, "message": message}
    return Response(status, json.dumps({"error": error}).encode())


def service_error(service: str, status: int, fault: Fault) -> Response:
    """Return an error of this status as the service would write it."""
    if service == "intercom":
        return intercom_error(status, fault.code, fault.message)
    text = fault.message or fault.code or "error"
    if service == "slack":
        return slack_error(status, text)
    return hipchat_error(status, text)


def body_as_user(request: Request, response: Response, user_id: str) -> bytes:
    """Return the body of a good response that is about another user.

    If the service has acted, this is its response under another identity. If not, it is what
    somebody else's response would look like.
    """
    if request.path.startswith("/contacts"):
        kind = "contact"
        id_field = "external_id"
    else:
        kind = "user"
        id_field = "user_id"
    person = parse_json(response.body)
    if not isinstance(person, dict) or person.get("type") != kind:
        person = {"type": kind, "id": "6762f0ddffffffffffffffff"}
    person[id_field] = user_id
    return json.dumps(person).encode()


def find_invalid_hipchat_field(fields: dict[str, str]) -> str:
    """Return the name of a missing or invalid field of rooms/message, or ""."""
    if not fields.get("room_id"):
        return "room_id"
    if not re.fullmatch(r"[A-Za-z0-9 _-]{1,15}", fields.get("from", "")):
        return "from"
    if not 0 < len(fields.get("message", "")) <= MAX_HIPCHAT_MESSAGE:
        return "message"
    if fields.get("message_format", "html") not in ("html", "text"):
        return "message_format"
    if fields.get("color", "yellow") not in HIPCHAT_COLORS:
        return "color"
    if fields.get("notify", "0") not in ("0", "1"):
        return "notify"
    return ""


class MockServices(MockIntercom, FaultPlan):
    """Intercom, Slack and Hipchat on one port of 127.0.0.1, from creation until close().

    `latency` is Intercom's, in seconds. `limit` is the number of requests that Intercom accepts
    per window of `window` whole seconds of the server's clock, which is `clock_offset` seconds
    ahead of ours. `attributes` are the workspace's custom attributes with their data types. With
    `record=False`, requests to Intercom aren't kept in `requests`.

    Tests may change any of these later, and add people to `users` and `contacts`. A contact may
    have `archived` set, or the id of another contact in `merged_into`. `attribute_details`
    overrides properties of an attribute, such as archived, api_writable or options: {"plan":
    {"archived": True}}. An attribute that is only in `attribute_details` is a string.
    """

    def __init__(
        self,
        *,
        token: str = "sandbox-token-0123456789",
        latency: float = 0.0,
        limit: int | None = None,
        window: int = 10,
        clock_offset: float = 0.0,
        attributes: dict[str, str] | None = None,
        record: bool = True,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        MockIntercom.__init__(self)
        FaultPlan.__init__(self)
        self.token = token
        self.latency = latency
        self.limit = limit
        self.window = window
        self.clock_offset = clock_offset
        self.attributes.update(attributes or {})
        self.hipchat_key = "sandbox-hipchat-key"

        # What has arrived.
        self.record = record
        self.requests: list[Request] = []  # to Intercom
        self.notice_requests: list[
            Request
        ] = []  # to Slack and Hipchat, once they are answered
        self.slack: list[JsonObject] = []  # the notices that Slack accepted
        self.hipchat: list[dict[str, str]] = []
        # The number of Intercom's responses by status; 0 counts requests without a response.
        self.responses: Counter[int] = Counter()
        self.max_in_flight = 0
        self._in_flight = 0
        # Called with each request and its response, before the response is sent.
        self.on_response: Callable[[Request, Response], None] | None = None

        self._server = Server(port, tls, self._answer)
        self.closing = self._server.closing
        self.url = self._server.url
        self.users_url = self.url + "/users"
        self.contacts_url = self.url + "/contacts"
        self.webhook_url = (
            self.url + "/services/T0SANDBOX/B0SANDBOX/sandboxwebhooksecret"
        )
        self.hipchat_url = self.url + "/v1/"
        self._server.start()

    def __enter__(self) -> MockServices:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop immediately, even if requests are still waiting."""
        if not self.closing.is_set():
            self._server.stop()

    @property
    def connection_count(self) -> int:
        """The number of TCP connections so far."""
        return self._server.connection_count

    def find(self, **fields: object) -> list[JsonObject]:
        """Return the users and contacts that have these fields."""
        with self.lock:
            people = [*self.users.values(), *self.contacts.values()]
        wanted = fields.items()
        return [
            person
            for person in people
            if all(person.get(name) == value for name, value in wanted)
        ]

    #### From a request to its response

    def _answer(self, request: Request, connection: Connection) -> bool:
        """Answer a request; return whether its connection stays open for another."""
        self._begin(request)
        try:
            if connection.close_on_next_request:
                return False
            delivery = self._prepare(request, connection)
            if self.latency and request.service == "intercom":
                self.closing.wait(self.latency)
            return delivery.send()
        finally:
            self._end(request, 0)

    def _begin(self, request: Request) -> None:
        with self.lock:
            if self.record and request.service == "intercom":
                self.requests.append(request)
            if request.is_upsert:
                self._in_flight += 1
                self.max_in_flight = max(self.max_in_flight, self._in_flight)

    def _end(self, request: Request, status: int) -> None:
        """Note that a request is over; only the first call for it counts."""
        with self.lock:
            if request.ended_at:
                return
            request.status = status
            request.ended_at = time.monotonic()
            if request.is_upsert:
                self._in_flight -= 1
            if request.service == "intercom":
                self.responses[status] += 1
            else:
                self.notice_requests.append(request)

    def _prepare(self, request: Request, connection: Connection) -> Delivery:
        try:
            fault = self.next_fault(request)
            response = self._respond(request, fault)
        except Exception as error:
            # From a test's fault_for or on_response: its author should see what went wrong.
            fault = NO_FAULT
            response = intercom_error(500, "mock_error", repr(error))
        return Delivery(
            connection=connection,
            request=request,
            response=response,
            fault=fault,
            date=formatdate(self.now(), usegmt=True),
            on_end=lambda status: self._end(request, status),
        )

    def _respond(self, request: Request, fault: Fault) -> Response:
        """Return the service's response, as changed by the fault."""
        with self.lock:
            response = self._service_response(request, fault.lets_service_act)
        if fault.status is not None:
            if fault.status >= 400:
                error = service_error(request.service, fault.status, fault)
                response.body = error.body
                response.content_type = error.content_type
            response.status = fault.status
        if fault.as_user is not None:
            response.body = body_as_user(request, response, fault.as_user)
        if fault.body is not None:
            response.body = fault.body
            if fault.body.startswith(b"<"):
                response.content_type = "text/html"
        if self.on_response:
            self.on_response(request, response)
        return response

    def _service_response(self, request: Request, acts: bool) -> Response:
        if request.service == "slack":
            return self._slack(request, acts)
        if request.service == "hipchat":
            return self._hipchat(request, acts)
        return self.intercom_response(request, acts)

    #### Slack and Hipchat

    def _slack(self, request: Request, acts: bool) -> Response:
        """Return the response of an incoming webhook."""
        if self.url + request.path != self.webhook_url:
            return slack_error(404, "no_service")
        body = request.body
        is_json = request.headers["Content-Type"].startswith("application/json")
        if request.method != "POST" or not is_json or not isinstance(body, dict):
            return slack_error(400, "invalid_payload")
        for name, value in body.items():
            if name not in SLACK_FIELDS or not isinstance(value, str):
                return slack_error(400, "invalid_payload")
        if not body.get("text"):
            return slack_error(400, "no_text")
        if acts:
            notice = dict(body)
            notice["text"] = notice["text"][:MAX_SLACK_TEXT]
            self.slack.append(notice)
        return Response(200, b"ok", "text/html")

    def _hipchat(self, request: Request, acts: bool) -> Response:
        """Return the response of API version 1's rooms/message."""
        if request.method != "POST" or request.path != "/v1/rooms/message":
            return hipchat_error(404, "Not found")
        if request.query.get("auth_token") != self.hipchat_key:
            return hipchat_error(401, "Invalid auth_token")
        if request.query.get("format", "json") != "json":
            return hipchat_error(400, "Invalid format")
        fields: dict[str, str] = {}
        if request.headers["Content-Type"].startswith(
            "application/x-www-form-urlencoded"
        ):
            fields = dict(parse_qsl(request.raw.decode("utf-8", "replace")))
        invalid_field = find_invalid_hipchat_field(fields)
        if invalid_field:
            return hipchat_error(400, f"Invalid {invalid_field}")
        if acts:
            self.hipchat.append({**fields, "auth_token": self.hipchat_key})
        return Response(200, b'{"status": "sent"}')
