"""A stand-in for Intercom, Slack and Hipchat on loopback, as strict as the real ones are.

    python tests/sandbox.py             imports the sample CSV into it and shows who received what
    python tests/sandbox.py --serve     stays up for your own config.ini, and shows what arrives

Tests import Sandbox and Fault. Intercom's rules are those of its documentation of 1.4 (/users) and
of its OpenAPI description, 2.14 to 2.16 (/contacts): https://github.com/intercom/Intercom-OpenAPI
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import io
import json
import os
import re
import select
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

#### Requests, answers, and what can go wrong between the two

JsonObject = dict[str, Any]


class Headers(dict[str, str]):
    """A request's header, kept in lower case and looked up in any; what is missing is blank."""

    def __missing__(self, name: str) -> str:
        return self.get(name.lower(), "")

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())


@dataclass
class Request:
    """What came in. Times are seconds of time.monotonic(); status is 0 where no answer went out."""

    method: str
    path: str  # as it was sent: percent-encoded, without the query
    query: dict[str, str]
    headers: Headers
    raw: bytes
    body: Any  # the parsed JSON, None where it isn't JSON
    connection: int  # each TCP connection has its number
    service: str  # intercom, slack or hipchat
    began: float
    ended: float = 0.0
    status: int = 0

    @property
    def upserts(self) -> bool:
        if self.method == "PUT":
            return self.path.startswith("/contacts/")
        return self.method == "POST" and self.path in ("/users", "/contacts")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request; one with nothing but times and headers is answered well."""

    status: int | None = None  # an error list, with code and message, unless there is a body
    code: str | None = None
    message: str | None = None
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    acts: bool = False  # the service does its work nevertheless, before the fault
    drop: bool = False  # no answer: the connection is closed
    reset: bool = False  # no answer: the connection is reset
    cut: bool = False  # half of the body, then the connection is closed
    endless: bool = False  # blanks behind the body, for ever; one in a tenth of trickle's seconds
    early: int | None = None  # a 1xx in front, before anything else; status=103 is one alone
    chunk: int = 0  # the body in chunks of so many bytes
    delay: float = 0.0  # seconds before the answer
    trickle: float = 0.0  # seconds over which the body goes out in pieces
    trickle_headers: float = 0.0  # seconds over which the status line and headers do, byte by byte

    @property
    def lets_through(self) -> bool:
        answers = self.status is None and self.body is None
        broken = self.drop or self.reset or self.cut or self.endless
        return self.acts or (answers and not broken)


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"


class Notice(NamedTuple):
    """One request to Slack or Hipchat; status is 0 where no answer went out."""

    service: str
    status: int


class Refusal(Exception):
    """A request breaks a rule of Intercom's."""

    def __init__(
        self, message: str | None, code: str | None = None, status: int = 400, **headers: str
    ) -> None:
        super().__init__(message)
        self.answer, self.headers = error_list(status, code, message), headers


NO_FAULT = Fault()
USUAL_ERRORS = {
    400: ("parameter_invalid", "Bad Request"),
    401: ("unauthorized", "Access Token Invalid"),
    403: ("api_plan_restricted", "Active subscription needed."),
    404: ("not_found", "Resource Not Found"),
    429: ("rate_limit_exceeded", "Exceeded rate limit of 167 in 10_seconds"),
}
REASONS = {status.value: status.phrase for status in HTTPStatus}


def error_list(status: int, code: str | None, message: str | None) -> Answer:
    reason = REASONS.get(status, "Unknown")
    usual = USUAL_ERRORS.get(status, (reason.lower().replace(" ", "_"), reason))
    errors = [{"code": code or usual[0], "message": message or usual[1]}]
    body = {"type": "error.list", "request_id": str(uuid.uuid4()), "errors": errors}
    return Answer(status, dump(body))


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


JSON = json.JSONDecoder(parse_constant=refuse_constant)


def parse_json(raw: bytes) -> Any:
    try:
        return JSON.decode(raw.decode())
    except ValueError:
        return None


#### What Intercom takes

Fields = dict[str, tuple[type, ...]]
NULL = type(None)
USER_FIELDS: Fields = {
    **dict.fromkeys(("id", "user_id", "email", "name"), (str,)),
    **dict.fromkeys(("last_seen_ip", "last_seen_user_agent"), (str,)),
    **dict.fromkeys(("signed_up_at", "last_request_at"), (int,)),
    **dict.fromkeys(("unsubscribed_from_emails", "update_last_request_at", "new_session"), (bool,)),
    "custom_attributes": (dict,),
}
# create_contact_request and update_contact_request of the OpenAPI descriptions
CONTACT_FIELDS: Fields = {
    **dict.fromkeys(("role", "external_id", "email"), (str,)),
    **dict.fromkeys(("phone", "name", "avatar"), (str, NULL)),
    **dict.fromkeys(("signed_up_at", "last_seen_at"), (int, NULL)),
    "owner_id": (int, str, NULL),  # up to 2.14 the one, then the other
    "unsubscribed_from_emails": (bool, NULL),
    "custom_attributes": (dict, NULL),
}
DATA_TYPES: Fields = {
    "string": (str,),
    "integer": (int,),
    "float": (float, int),
    "boolean": (bool,),
    "date": (int,),  # UNIX seconds
    "datetime": (int,),
}
ATTRIBUTE_FIELDS: Fields = {
    **dict.fromkeys(("name", "model", "data_type", "description"), (str,)),
    "messenger_writable": (bool,),
}
STANDARD_ATTRIBUTES = {"name": "string", "email": "string", "signed_up_at": "date"}
SHARED_EMAIL = (
    "Multiple existing users match this email address - must be more specific using user_id"
)
WRONG_NAME = (
    "Your name for this attribute must only contain alphanumeric characters, currency symbols, and"
    " hyphens"
)
ATTRIBUTE_EXISTS = (
    "You already have '{}' in your people data. To save this as new people data, use a different"
    " name."
)
MERGED = "This contact has been merged. See the 'Link' header for the canonical contact."
NEW_CONTACT = {
    "type": "contact",
    "role": "user",
    **dict.fromkeys(("external_id", "email", "phone", "name", "signed_up_at", "last_seen_at")),
    "unsubscribed_from_emails": False,
}


def check_fields(body: JsonObject, fields: Fields) -> None:
    for name, value in body.items():
        if name not in fields:
            raise Refusal(f"{name} is not a field")
        if type(value) not in fields[name]:
            kinds = " or ".join(kind.__name__ for kind in fields[name])
            raise Refusal(f"{name} is not {kinds}")


def check_person(body: JsonObject, fields: Fields) -> None:
    check_fields(body, fields)
    attributes: JsonObject = body.get("custom_attributes") or {}
    if len(attributes) > 250:
        raise Refusal("More than 250 custom attributes")
    for name, value in attributes.items():
        if not 0 < len(name) <= 190 or "." in name or "$" in name:
            raise Refusal(f"Custom attribute '{name}' has a wrong name")
        if type(value) not in (str, int, float, bool):
            raise Refusal(f"Custom attribute '{name}' is not a string, a number or a boolean")
        if isinstance(value, str) and len(value) > 255:
            raise Refusal(f"Custom attribute '{name}' is longer than 255 characters")


def fits_name(character: str) -> bool:
    """Whether a data attribute may have it in its name."""
    return character.isalnum() or character in "-_ " or unicodedata.category(character) == "Sc"


def data_attribute(name: str, data_type: str, custom: bool) -> JsonObject:
    full_name = f"custom_attributes.{name}" if custom else name
    one: JsonObject = {"type": "data_attribute", "model": "contact", "name": name, "label": name}
    one |= {"full_name": full_name, "data_type": data_type, "custom": custom, "archived": False}
    return {**one, "api_writable": True, "ui_writable": False, "messenger_writable": False}


class People:
    """Users or contacts by id, found by other fields without a walk through all of them."""

    def __init__(self, *fields: str) -> None:
        self.records: dict[str, JsonObject] = {}  # tests may put theirs into it
        self._fields = fields
        self._ids: dict[tuple[str, str], dict[str, None]] = {}
        self._indexed = 0

    def matching(self, name: str, value: str | None) -> list[JsonObject]:
        if self._indexed != len(self.records):
            for known, record in self.records.items():
                record.setdefault("id", known)
                self._index(record)
            self._indexed = len(self.records)
        key = self._key(name, value)
        ids = self._ids.get(key, {}) if value else {}
        found = [self.records[known] for known in ids if known in self.records]
        return [record for record in found if self._key(name, record.get(name)) == key]

    def put(self, record: JsonObject) -> None:
        self._indexed += record["id"] not in self.records
        self.records[record["id"]] = record
        self._index(record)

    def _index(self, record: JsonObject) -> None:
        for name in self._fields:
            self._ids.setdefault(self._key(name, record.get(name)), {})[record["id"]] = None

    def _key(self, name: str, value: str | None) -> tuple[str, str]:
        return name, (value or "").lower() if name == "email" else value or ""


#### The three services


class Sandbox:
    """Intercom, Slack and Hipchat on one port of 127.0.0.1, from now until close().

    latency is in seconds and Intercom's. limit is the number of requests to Intercom in a window
    of so many whole seconds of the server's clock, which is clock_offset seconds ahead of ours.
    attributes are the workspace's data attributes of contacts, with their data types. A contact
    that tests put into `contacts` may be archived, or merged_into another one's id.
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
        self.token, self.record = token, record
        self.api_id, self.api_key = "sandbox-app", "sandbox-key-0123456789"
        self.latency, self.clock_offset = latency, clock_offset
        self.limit, self.window = limit, window
        self.attributes = dict(attributes or {})
        self.archived_attributes = set[str]()

        self.requests: list[Request] = []  # to Intercom
        self.answers: Counter[int] = Counter()  # Intercom's, by their status
        self.max_under_way = 0
        self.slack: list[JsonObject] = []
        self.hipchat: list[dict[str, str]] = []
        self.notice_requests: list[Notice] = []
        self.faults: list[Fault] = []
        self.faults_of: dict[str, Fault] = {}  # for each request for the user with this user_id
        self.fault_for: Callable[[Request], Fault | None] | None = None
        self.faults_on_me = False  # else GET /me is always answered well
        self.notice_faults: list[Fault] = []
        self.watch: Callable[[Request, Answer], None] | None = None  # sees each answer go out

        self._users, self._contacts = People("user_id", "email"), People("external_id", "email")
        self.users, self.contacts = self._users.records, self._contacts.records
        self._under_way = self._window_end = self._window_used = 0
        self._ids = count(1)
        self.lock, self.closing = threading.RLock(), threading.Event()
        self.connections, self.sockets = count(1), set[socket.socket]()

        self._server = Server(("127.0.0.1", port), Connection)
        self._server.sandbox = self
        self.url = f"http{'s' * bool(tls)}://127.0.0.1:{self._server.server_address[1]}"
        if tls:  # each connection shakes hands in its own thread, with its first request
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.users_url, self.contacts_url = self.url + "/users", self.url + "/contacts"
        self.webhook_url = self.url + "/services/T0SANDBOX/B0SANDBOX/sandboxwebhooksecret"
        self.hipchat_url, self.hipchat_key = self.url + "/v1/", "sandbox-hipchat-key"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop at once, whatever hangs."""
        if self.closing.is_set():
            return
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        with self.lock:
            for connection in self.sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def find(self, **fields: object) -> list[JsonObject]:
        """The users and contacts that have these fields."""
        with self.lock:
            people = [*self.users.values(), *self.contacts.values()]
        return [one for one in people if all(one.get(key) == fields[key] for key in fields)]

    def now(self) -> float:
        """UNIX seconds of the server's clock."""
        return time.time() + self.clock_offset

    # A request begins, is answered, and ends

    def respond(self, request: Request) -> tuple[Answer, dict[str, str], Fault]:
        """The answer, headers to send with it, and the fault to send it with."""
        headers: dict[str, str] = {}
        self._begin(request)
        fault = self._fault(request)
        try:
            with self.lock:
                answer = self._answer(request, fault, headers)
        except Refusal as refusal:
            answer, headers = refusal.answer, headers | refusal.headers
        if fault.status is not None and fault.status >= 400:
            answer = error_list(fault.status, fault.code, fault.message)
        if fault.body is not None:
            kind = "text/html" if fault.body.startswith(b"<") else answer.content_type
            answer = Answer(answer.status, fault.body, kind)
        answer = answer._replace(status=fault.status or answer.status)
        if self.watch:
            self.watch(request, answer)
        return answer, headers | fault.headers, fault

    def _begin(self, request: Request) -> None:
        with self.lock:
            if self.record and request.service == "intercom":
                self.requests.append(request)
            self._under_way += request.upserts
            self.max_under_way = max(self.max_under_way, self._under_way)

    def _fault(self, request: Request) -> Fault:
        """fault_for is called without the lock: it may block its request, and no other."""
        intercom = request.service == "intercom"
        if intercom and request.path == "/me" and not self.faults_on_me:
            return NO_FAULT
        fault = self.fault_for(request) if intercom and self.fault_for else None
        if intercom and isinstance(request.body, dict):
            user_id = request.body.get("user_id", request.body.get("external_id"))
            fault = fault or self.faults_of.get(str(user_id))
        with self.lock:
            faults = self.faults if intercom else self.notice_faults
            return fault or (faults.pop(0) if faults else NO_FAULT)

    def _answer(self, request: Request, fault: Fault, headers: dict[str, str]) -> Answer:
        if request.service == "slack":
            return self._slack(request, fault)
        if request.service == "hipchat":
            return self._hipchat(request, fault)
        self._authenticate(request)
        if self.limit is not None:
            self._count(self.limit, headers)
        if not fault.lets_through:
            return Answer(200, b'{"type": "list", "data": []}')
        return self._intercom(request)

    def end(self, request: Request, status: int) -> None:
        """Note that a request is over; only the first call for it counts."""
        with self.lock:
            if request.ended:
                return
            request.status, request.ended = status, time.monotonic()
            if request.service == "intercom":
                self.answers[status] += 1
                self._under_way -= request.upserts
            else:
                self.notice_requests.append(Notice(request.service, status))

    # Intercom

    def _authenticate(self, request: Request) -> None:
        sent = request.headers["Authorization"]
        basic = base64.b64encode(f"{self.api_id}:{self.api_key}".encode()).decode()
        if sent not in (f"Bearer {self.token}", f"Basic {basic}"):
            raise Refusal(None, "unauthorized" if sent else "token_not_found", 401)

    def _count(self, limit: int, headers: dict[str, str]) -> None:
        window_end = (int(self.now()) // self.window + 1) * self.window
        if window_end != self._window_end:
            self._window_end, self._window_used = window_end, 0
        self._window_used += 1
        headers["X-RateLimit-Limit"] = str(limit)
        headers["X-RateLimit-Remaining"] = str(max(0, limit - self._window_used))
        headers["X-RateLimit-Reset"] = str(window_end)
        if self._window_used > limit:
            message = f"Exceeded rate limit of {limit} in {self.window}_seconds"
            raise Refusal(message, status=429)

    def _intercom(self, request: Request) -> Answer:
        path, version = request.path, request.headers["Intercom-Version"]
        if "application/json" not in request.headers["Accept"]:
            raise Refusal("Accept lacks application/json", status=406)
        if version and not re.fullmatch(r"1\.[0-4]|2\.(\d|1[0-6])", version):
            raise Refusal("There is no such Intercom-Version", "intercom_version_invalid")
        kind, *parts = path[1:].split("/")
        if kind in ("users", "contacts") and (kind == "users") == version.startswith("2."):
            message = f"{path} does not exist in version {version or 'unknown'}"
            raise Refusal(message, "intercom_version_invalid")
        known = unquote(parts[0]) if parts else ""
        body = self._body(request) if request.upserts or kind == "data_attributes" else {}
        routes: dict[str, Callable[[], Answer]] = {
            "POST /users": lambda: self._upsert_user(body),
            "POST /contacts": lambda: self._save_contact(dict(NEW_CONTACT), body),
            "GET /contacts/": lambda: Answer(
                200, dump(NEW_CONTACT | self._contact(known, version))
            ),
            "PUT /contacts/": lambda: self._save_contact(self._contact(known, version), body),
            "POST /contacts//unarchive": lambda: self._unarchive(known, version),
            "GET /data_attributes": lambda: self._list_attributes(request.query),
            "POST /data_attributes": lambda: self._create_attribute(body),
            "GET /me": self._me,
        }
        form = "/".join([kind, *([""] if parts else []), *parts[1:]])
        if answer := routes.get(f"{request.method} /{form}"):
            return answer()
        is_there = any(route.endswith(f" /{form}") for route in routes)
        raise Refusal(None, status=405 if is_there else 404)

    def _body(self, request: Request) -> JsonObject:
        if request.method == "GET":
            return {}
        if request.headers["Content-Type"].split(";")[0] != "application/json":
            raise Refusal("Content-Type is not application/json", status=415)
        if not isinstance(request.body, dict):
            raise Refusal("The body is not a JSON object", "bad_request")
        return request.body

    def _me(self) -> Answer:
        app = {"type": "app", "id_code": "sandbox", "name": "Sandbox", "region": "US"}
        me = {"type": "admin", "id": "1", "name": "Ada", "email": "ada@example.com"}
        return Answer(200, dump({**me, "email_verified": True, "app": app}))

    def _upsert_user(self, body: JsonObject) -> Answer:
        """The user is looked up by id, then user_id, then email."""
        check_person(body, USER_FIELDS)
        known, user_id, email = body.get("id"), body.get("user_id"), body.get("email")
        if not (known or user_id or email):
            raise Refusal("Neither user_id nor email nor id", "parameter_not_found")
        found = self._users.matching("user_id", user_id)
        if known:
            if known not in self.users:
                raise Refusal("User Not Found", status=404)
            if found and found[0] is not self.users[known]:
                raise Refusal("Another user has this user_id", status=409)
            found = [self.users[known]]
        elif not found:
            found = self._users.matching("email", email)
            if user_id:
                found = [user for user in found if not user.get("user_id")]
            elif len(found) > 1:
                raise Refusal(SHARED_EMAIL, status=409)
        user: JsonObject = {"type": "user", "user_id": None, "email": None, "name": None}
        user, changes = found[0] if found else user, dict(body)
        if changes.pop("update_last_request_at", False):
            changes["last_request_at"] = int(self.now())
        if changes.pop("new_session", False):
            changes["session_count"] = user.get("session_count", 0) + 1
        return self._save(self._users, user, changes)

    def _contact(self, known: str, version: str, archived: bool = False) -> JsonObject:
        """A contact by its id; an archived one is found where it is to be brought back."""
        record = self.contacts.get(known, {"merged_into": None})
        if version == "2.16" and (into := record.get("merged_into")):
            link = f'</contacts/{into}>; rel="canonical"'
            raise Refusal(MERGED, "contact_merged", 410, Link=link)
        if "merged_into" in record or (record.get("archived") and not archived):
            raise Refusal("User Not Found", status=404)
        record.setdefault("id", known)
        return record

    def _unarchive(self, known: str, version: str) -> Answer:
        contact = self._contact(known, version, archived=True)
        contact["archived"] = False
        told = {name: contact.get(name) for name in ("id", "external_id", "archived")}
        return Answer(200, dump({"type": "contact", **told}))

    def _save_contact(self, contact: JsonObject, body: JsonObject) -> Answer:
        """A lead has no external_id: one gets it with role user, and loses what it had for one."""
        check_person(body, CONTACT_FIELDS)
        is_new, changes = "id" not in contact, dict(body)
        if is_new and not body.keys() & {"role", "external_id", "email"}:
            raise Refusal("Neither role nor external_id nor email", "parameter_not_found")
        was = "" if is_new else contact.get("role", "user")
        role = body.get("role", was or "user")
        if role not in ("user", "lead"):
            raise Refusal("role is neither user nor lead")
        if (was, role) == ("user", "lead"):
            raise Refusal("Contact with user role can't be converted to a lead", "client_error")
        if role == "lead" and body.get("external_id"):
            raise Refusal("External IDs cannot be set if the role is lead")
        if (was, role) == ("lead", "user"):
            changes.setdefault("external_id", None)
        after = {**contact, **changes}
        if role == "user" and not (after.get("external_id") or after.get("email")):
            raise Refusal("A user has an external_id or an email", "parameter_not_found")
        self._check_attributes(body.get("custom_attributes") or {})
        self._check_conflict(contact, body)
        return self._save(self._contacts, contact, changes)

    def _check_attributes(self, attributes: JsonObject) -> None:
        for name, value in attributes.items():
            if name not in self.attributes or name in self.archived_attributes:
                raise Refusal(f"Custom attribute '{name}' does not exist")
            if type(value) not in DATA_TYPES[self.attributes[name]]:
                raise Refusal(f"Custom attribute '{name}' is not {self.attributes[name]}")

    def _check_conflict(self, own: JsonObject, body: JsonObject) -> None:
        """No two contacts share an external_id or an e-mail, whatever their role."""
        for name in ("external_id", "email"):
            for other in self._contacts.matching(name, body.get(name)):
                if other is not own and "merged_into" not in other:
                    which = "An archived" if other.get("archived") else "A"
                    message = f"{which} contact matching those details already exists"
                    raise Refusal(f"{message} with id={other['id']}", "conflict", 409)

    def _save(self, people: People, person: JsonObject, changes: JsonObject) -> Answer:
        now = int(self.now())
        person.setdefault("id", f"6762f0dd{next(self._ids):016x}")
        person.setdefault("created_at", now)
        attributes = person.get("custom_attributes", {}) | (changes.get("custom_attributes") or {})
        person.update({**changes, "custom_attributes": attributes, "updated_at": now})
        if person.get("email"):
            person["email"] = person["email"].lower()
        people.put(person)
        return Answer(200, dump(person))

    def _list_attributes(self, query: dict[str, str]) -> Answer:
        """Without archived ones, as include_archived isn't asked for."""
        model, data = query.get("model", "contact"), list[JsonObject]()
        if model not in ("contact", "company", "conversation"):
            raise Refusal("There is no such model")
        for own, attributes in (False, STANDARD_ATTRIBUTES), (True, self.attributes):
            for name, data_type in attributes.items() if model == "contact" else ():
                if not (own and name in self.archived_attributes):
                    data.append(data_attribute(name, data_type, own))
        return Answer(200, dump({"type": "list", "data": data}))

    def _create_attribute(self, body: JsonObject) -> Answer:
        check_fields(body, ATTRIBUTE_FIELDS)
        name, data_type = body.get("name", ""), body.get("data_type")
        if body.get("model") != "contact":  # companies are no matter of the stand-in
            raise Refusal("The Data Attribute model field must be either contact or company")
        if not 0 < len(name) <= 190 or not all(map(fits_name, name)):
            raise Refusal(WRONG_NAME)
        if data_type not in DATA_TYPES:
            raise Refusal("Data Type isn't an option")
        if name in self.attributes or name in self.archived_attributes:
            raise Refusal(ATTRIBUTE_EXISTS.format(name))
        self.attributes[name] = data_type
        made = {"id": next(self._ids), "admin_id": "1", "created_at": int(self.now())}
        return Answer(200, dump(data_attribute(name, data_type, True) | made))

    # Slack, whose errors are words, and Hipchat's version 1

    def _slack(self, request: Request, fault: Fault) -> Answer:
        body, mime = request.body, request.headers["Content-Type"]
        texts = isinstance(body, dict) and all(isinstance(text, str) for text in body.values())
        known = {"text", "channel", "username", "icon_url", "icon_emoji"}
        if self.url + request.path != self.webhook_url:
            return Answer(404, b"no_service", "text/html")
        if request.method != "POST" or not mime.startswith("application/json"):
            return Answer(400, b"invalid_payload", "text/html")
        if not texts or not body.keys() <= known:
            return Answer(400, b"invalid_payload", "text/html")
        if not body.get("text"):
            return Answer(400, b"no_text", "text/html")
        if fault.lets_through:
            self.slack.append(body)
        return Answer(200, b"ok", "text/html")

    def _hipchat(self, request: Request, fault: Fault) -> Answer:
        form = request.headers["Content-Type"].startswith("application/x-www-form-urlencoded")
        fields = dict(parse_qsl(request.raw.decode("utf-8", "replace"))) if form else {}
        colors = {"yellow", "green", "red", "purple", "gray", "random"}
        rules = (
            (404, "path", (request.method, request.path) == ("POST", "/v1/rooms/message")),
            (401, "auth_token", request.query.get("auth_token") == self.hipchat_key),
            (400, "room_id", "room_id" in fields),
            (400, "from", re.fullmatch(r"[A-Za-z0-9 _-]{1,15}", fields.get("from", ""))),
            (400, "message", 0 < len(fields.get("message", "")) <= 10_000),
            (400, "message_format", fields.get("message_format", "html") in ("html", "text")),
            (400, "color", fields.get("color", "yellow") in colors),
            (400, "notify", fields.get("notify", "0") in ("0", "1")),
            (400, "format", request.query.get("format", "json") == "json"),
        )
        for status, name, kept in rules:
            if not kept:
                error = {"code": status, "type": REASONS[status], "message": f"Invalid {name}"}
                return Answer(status, dump({"error": error}))
        if fault.lets_through:
            self.hipchat.append({**fields, "auth_token": self.hipchat_key})
        return Answer(200, b'{"status": "sent"}')


#### HTTP, without http.server: parsing its way costs more than all of the above


def head(status: int, headers: dict[str, str]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\n{fields}\r\n".encode("latin-1")


def chunked(body: bytes, size: int) -> bytes:
    chunks = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def written(answer: Answer, headers: dict[str, str], fault: Fault) -> tuple[bytes, bytes]:
    """The status line with the headers, and the body, as they go out."""
    body, length = answer.body, {"Content-Length": str(len(answer.body))}
    if answer.status < 200:
        return head(answer.status, {}), b""
    if fault.chunk:
        body, length = chunked(body, fault.chunk), {"Transfer-Encoding": "chunked"}
    if fault.endless:
        length = {}
    top = head(answer.status, {"Content-Type": answer.content_type, **length, **headers})
    return top, body[: len(body) // 2] if fault.cut else body


def pieces(top: bytes, body: bytes, fault: Fault) -> Iterator[tuple[bytes, float]]:
    """What goes out at once, and for how many seconds nothing does then."""
    if fault.trickle_headers:
        yield from ((bytes([byte]), fault.trickle_headers / len(top)) for byte in top)
        top = b""
    size = max(1, len(body) // 10 if fault.trickle else len(body))
    yield top + body[:size], fault.trickle / 10
    for start in range(size, len(body), size):
        yield body[start : start + size], fault.trickle / 10


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    allow_reuse_address = os.name != "nt"  # --port, just after a run; Windows would share it
    sandbox: Sandbox

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep silent: clients come and go."""


class Connection(socketserver.StreamRequestHandler):
    """Reads requests and sends answers until one end leaves; a thread for each connection."""

    disable_nagle_algorithm = True
    server: Server

    def handle(self) -> None:
        sandbox, number = self.server.sandbox, next(self.server.sandbox.connections)
        with sandbox.lock:
            sandbox.sockets.add(self.connection)
        try:
            while not sandbox.closing.is_set() and (request := self._read(number)):
                try:
                    stays = self._answer(sandbox, request)
                finally:
                    sandbox.end(request, 0)
                if not stays:
                    break
        finally:
            with sandbox.lock:
                sandbox.sockets.discard(self.connection)

    def _read(self, number: int) -> Request | None:
        words = self.rfile.readline(65536).decode("latin-1").split()
        if len(words) != 3:
            return None
        headers = Headers()
        while (line := self.rfile.readline(65536).decode("latin-1")) not in ("\r\n", "\n", ""):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers["Content-Length"] or 0)
        raw = self.rfile.read(length)
        if len(raw) < length:
            return None
        url, service = urlsplit(words[1]), "intercom"  # a proxy is sent the whole URL
        if url.path.startswith(("/services/", "/v1/")):
            service = "slack" if url.path.startswith("/services/") else "hipchat"
        query, body = dict(parse_qsl(url.query)), parse_json(raw)
        began = time.monotonic()
        return Request(words[0], url.path, query, headers, raw, body, number, service, began)

    def _answer(self, sandbox: Sandbox, request: Request) -> bool:
        """Send the answer, or what the fault leaves of it; False where the connection is done."""
        try:
            answer, own_headers, fault = sandbox.respond(request)
        except Exception as error:  # a test's fault_for: somebody should see what is wrong with it
            answer, own_headers, fault = error_list(500, "sandbox", repr(error)), {}, NO_FAULT
        if fault.early:
            self.connection.sendall(head(fault.early, {}))
        if sandbox.latency and request.service == "intercom":
            sandbox.closing.wait(sandbox.latency)
        if fault.delay and not self._wait(sandbox, fault.delay):
            return False
        if fault.drop or fault.reset:
            sandbox.end(request, 0)
            self._hang_up(fault.reset)
            return False
        stays = request.headers["Connection"].lower() != "close"
        stays = stays and not (fault.cut or fault.endless)
        usual = {
            "Date": formatdate(sandbox.now(), usegmt=True),
            "Connection": "keep-alive" if stays else "close",
        }
        *first, last = pieces(*written(answer, usual | own_headers, fault), fault)
        for piece, seconds in first:
            self.connection.sendall(piece)
            if not self._wait(sandbox, seconds):
                return False
        sandbox.end(request, answer.status)  # before its client can know and send the next one
        self.connection.sendall(last[0])
        while fault.endless and self._wait(sandbox, fault.trickle / 10):
            self.connection.sendall(b" " if fault.trickle else b" " * 65536)
        return stays

    def _hang_up(self, reset: bool) -> None:
        if reset:
            linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.rfile.close()
            self.connection.close()

    def _wait(self, sandbox: Sandbox, seconds: float) -> bool:
        """False, and at once, when the client leaves or the sandbox closes."""
        until = time.monotonic() + seconds
        while not sandbox.closing.is_set() and (left := until - time.monotonic()) > 0:
            readable, _, _ = select.select([self.connection], [], [], min(left, 0.05))
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return False
        return not sandbox.closing.is_set()


#### The demonstration, and the server of its own

SCRIPT = Path(__file__).resolve().parent.parent / "export_csv.py"
SAMPLE = Path(__file__).resolve().parent / "sample" / "users_2026-11-01T09-00-00.csv"
SERVICES = """
[hipchat]
use_hipchat = true
api_key = {0.hipchat_key}
room_id = Imports
api_url = {0.hipchat_url}
[slack]
use_slack = true
webhook_url = {0.webhook_url}
[intercom]
access_token = {0.token}
user_url = {0.users_url}
"""
DEMO_CONFIG = f"""{SERVICES}
timeout = 1
retries = 3
[local]
folder = "{{sample}}"
[file]
time_format = users_%Y-%m-%dT%H-%M-%S
[csv]
not_imported_folder = "{{folder}}/not_imported"
[log]
folder = "{{folder}}/logs"
[custom_attributes]
plan = plan
bookings_count = bookings_count : integer
rating = rating : float
is_owner = is_owner : boolean
last_booking_at = last_booking_at : timestamp
"""
REHEARSAL = f"""
# A rehearsal: nothing leaves this machine. Put these into your config.ini, and take the secrets
# out of .env meanwhile, for they would win.
{SERVICES}
# ... or, for an app on Intercom's API 2.x: user_url = {{0.contacts_url}}
# What arrives is shown below, until Ctrl-C.
"""


def demo_environment() -> dict[str, str]:
    """Our own without what wins over config.ini, or leads around the stand-in."""
    foreign = re.compile(r"(INTERCOM|HIPCHAT|SLACK)_.*|(https?|all)_proxy", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not foreign.fullmatch(name)}
    return {**kept, "NO_PROXY": "127.0.0.1", "PYTHONUTF8": "1"}


def demonstrate() -> int:
    """Import the sample and print what everybody received; 0 where all of it arrived."""
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:
        config, logs = Path(folder, "config.ini"), Path(folder, "logs")
        text = DEMO_CONFIG.format(sandbox, sample=SAMPLE.parent, folder=folder)
        config.write_text(text, encoding="utf-8")
        print(f"$ python {SCRIPT.name} --config {config.name}", flush=True)
        run = subprocess.run(
            [sys.executable, str(SCRIPT), "--config", str(config)],
            cwd=folder,
            env=demo_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        print(run.stdout.rstrip())
        show_received(sandbox, sorted(logs.glob("*.log")))

        with SAMPLE.open(encoding="utf-8-sig", newline="") as sample:
            rows = sum(1 for _ in csv.DictReader(sample))
        right = {
            f"exit status {run.returncode}": run.returncode == 0,
            f"{len(sandbox.users)} users of {rows}": len(sandbox.users) == rows,
            f"{len(sandbox.slack)} notices to Slack": len(sandbox.slack) == 2,
            f"{len(sandbox.hipchat)} notices to Hipchat": len(sandbox.hipchat) == 2,
            "not two logs": len(list(logs.glob("*.log"))) == 2,
        }
        wrong = ", ".join(what for what, is_right in right.items() if not is_right)
        print(f"\nWrong: {wrong}" if wrong else f"\nAll {rows} users arrived.")
        return 1 if wrong else 0


def show_received(sandbox: Sandbox, logs: list[Path]) -> None:
    sent = [f"{one.method} {one.path} {one.status}{in_words(one.body)}" for one in sandbox.requests]
    show(f"Intercom received {len(sent)} requests:", sent)
    for name, notices in (("Slack", sandbox.slack), ("Hipchat", sandbox.hipchat)):
        show(f"{name} received:", (line for notice in notices for line in notice_lines(notice)))
    show("Logs:", (f"{log.name}, {log.stat().st_size} bytes" for log in logs))
    for log in logs:
        if log.name.endswith("_error.log"):
            errors = log.read_text(encoding="utf-8").splitlines()
            show(f"{log.name}:", errors or ["(empty: nothing went wrong)"])


def show(title: str, lines: Iterable[str]) -> None:
    print(f"\n{title}")
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        print(textwrap.fill(line.strip(), 98, initial_indent=indent, subsequent_indent=indent))


def notice_lines(fields: Mapping[str, object]) -> list[str]:
    """A notice as its reader sees it; in brackets what makes it stand out."""
    known = ("color", "channel", "username", "icon_url", "icon_emoji")
    look = ", ".join(str(fields[name]) for name in known if name in fields)
    first, *others = str(fields.get("text", fields.get("message", ""))).splitlines() or [""]
    return [f"[{look}] {first}" if look else first, *(f"    {line}" for line in others)]


def in_words(body: Any) -> str:
    """A request's fields, behind a colon where there are any."""
    if not body or not isinstance(body, dict):
        return ""
    return ": " + ", ".join(f"{name} {value!r}" for name, value in body.items())


def say(*lines: str) -> None:
    """Print at once, without what could move a terminal; quietly not where nobody reads on."""
    shown = ("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines)
    try:
        print("".join(f"{line}\n" for line in shown), end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def serve(sandbox: Sandbox) -> None:
    """Say which settings lead here, then show what arrives, until Ctrl-C or SIGTERM."""
    sandbox.watch = show_arrival
    for number in (signal.SIGINT, signal.SIGTERM):  # which a shell's & may have set to be ignored
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        say(*(line for line in REHEARSAL.format(sandbox).splitlines() if line))
        while not sandbox.closing.wait(0.5):  # Windows' Ctrl-C comes between two waits
            pass
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    refused = sum(number for status, number in sandbox.answers.items() if status >= 400)
    people = f"users: {len(sandbox.users)}, contacts: {len(sandbox.contacts)}"
    notices = f"notices: {len(sandbox.slack) + len(sandbox.hipchat)}"
    say(f"{people}, {notices}; requests: {sandbox.answers.total()}, refused: {refused}")


def show_arrival(request: Request, answer: Answer) -> None:
    status = str(answer.status)
    if answer.status >= 400:
        told = parse_json(answer.body) or {}
        error = told.get("error") or (told.get("errors") or [{}])[0]
        status += f" ({error.get('message') or answer.body.decode()})"
    if request.service == "intercom":
        say(f"{request.method} {request.path} {status}{in_words(request.body)}")
        return
    form = dict(parse_qsl(request.raw.decode("utf-8", "replace")))
    first, *others = notice_lines(request.body if isinstance(request.body, dict) else form)
    say(f"{request.service.capitalize()} {status}: {first}", *others)


def serve_programs(sandbox: Sandbox) -> None:
    """Print a line of JSON with the URLs, and when stdin closes or SIGTERM comes what came in."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    names = ("url", "users_url", "contacts_url", "webhook_url", "hipchat_url")
    print(json.dumps({name: getattr(sandbox, name) for name in names}), flush=True)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        sys.stdin.buffer.read()
    told = {"users": len(sandbox.users), "contacts": len(sandbox.contacts)}
    told |= {"max_under_way": sandbox.max_under_way}
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({**told, "answers": sandbox.answers}), flush=True)


def attribute(pair: str) -> tuple[str, str]:
    name, _, data_type = pair.rpartition(":")
    if not name or data_type not in DATA_TYPES:
        raise argparse.ArgumentTypeError(f"NAME:TYPE, with a TYPE of {', '.join(DATA_TYPES)}")
    return name, data_type


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", action="store_true", help="stay up, and show what arrives")
    parser.add_argument("--port", type=int, default=0, help="the port to serve on; 0: a free one")
    parser.add_argument("--json", action="store_true", help="serve a program, until stdin closes")
    parser.add_argument("--token", default="sandbox-token-0123456789", help="Intercom's token")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--limit", type=int, help="Intercom requests in a window")
    parser.add_argument("--window", type=int, default=10, help="seconds of a window")
    parser.add_argument("--clock-offset", type=float, default=0.0, help="seconds ahead of time")
    parser.add_argument(
        "--attribute", type=attribute, action="append", metavar="NAME:TYPE", help="of contacts"
    )
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names in any script, terminals that lack it
        sys.stdout.reconfigure(errors="backslashreplace")
    if not options.serve:
        return demonstrate()
    names = ("token", "latency", "limit", "window", "clock_offset", "port")
    keys: dict[str, Any] = {name: getattr(options, name) for name in names}
    try:
        sandbox = Sandbox(**keys, attributes=dict(options.attribute or ()), record=False)
    except (OSError, OverflowError) as error:
        print(f"Port {options.port} can't be had: {error}", file=sys.stderr)
        return 1
    with sandbox:
        (serve_programs if options.json else serve)(sandbox)
    return 0


if __name__ == "__main__":
    sys.exit(main())
