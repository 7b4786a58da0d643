"""A mock of one Intercom workspace: users, contacts and data attributes, and the rules for them.

The rules are those of Intercom's documentation of API 1.4 (/users) and of its OpenAPI description
of 2.14 to 2.16 (/contacts): https://github.com/intercom/Intercom-OpenAPI. If neither says what
happens, the stricter of two possibilities was chosen.
"""

from __future__ import annotations

import base64
import json
import re
import time
import unicodedata
import uuid
from itertools import count
from typing import Any
from urllib.parse import unquote

from mock_http import REASON_PHRASES, Request, Response

JsonObject = dict[str, Any]
Version = tuple[int, int]

#### Errors


class RequestRejected(Exception):
    """Intercom rejects the request, with this response."""

    def __init__(
        self,
        status: int,
        code: str | None = None,
        message: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.response = intercom_error(status, code, message)
        self.response.headers.update(headers or {})


def invalid(message: str) -> RequestRejected:
    """Return the rejection of a request with an invalid value in its body."""
    return RequestRejected(400, "parameter_invalid", message)


# Code and message, unless the rule that was broken has its own.
USUAL_ERRORS = {
    400: ("parameter_invalid", "Bad Request"),
    401: ("unauthorized", "Access Token Invalid"),
    403: ("api_plan_restricted", "Active subscription needed."),
    404: ("not_found", "Resource Not Found"),
    410: (
        "contact_merged",
        "This contact has been merged. See the 'Link' header for the canonical contact.",
    ),
    429: ("rate_limit_exceeded", "Exceeded rate limit of 167 in 10_seconds"),
}
SHARED_EMAIL = (
    "Multiple existing users match this email address - "
    "must be more specific using user_id"
)
INVALID_ATTRIBUTE_NAME = (
    "Your name for this attribute must only contain alphanumeric characters, currency symbols, and"
    " hyphens"
)
ATTRIBUTE_EXISTS = (
    "You already have '{}' in your people data. To save this as new people data, use a different"
    " name."
)


def json_response(value: object) -> Response:
    return Response(200, json.dumps(value).encode())


def intercom_error(status: int, code: str | None, message: str | None) -> Response:
    """Return an error list, Intercom's response to any request that it rejects."""
    if status in USUAL_ERRORS:
        usual_code, usual_message = USUAL_ERRORS[status]
    else:
        usual_message = REASON_PHRASES.get(status, "Unknown")
        usual_code = usual_message.lower().replace(" ", "_")
    error = {"code": code or usual_code, "message": message or usual_message}
    error_list = {
        "type": "error.list",
        "request_id": str(uuid.uuid4()),
        "errors": [error],
    }
    return Response(status, json.dumps(error_list).encode())


#### Intercom's fields and types

FieldTypes = dict[str, tuple[type, ...]]

NULL = type(None)
TEXT = (str,)
TEXT_OR_NULL = (str, NULL)
INTEGER = (int,)
INTEGER_OR_NULL = (int, NULL)
NUMBER = (float, int)
BOOLEAN = (bool,)
BOOLEAN_OR_NULL = (bool, NULL)
LIST = (list,)
OBJECT = (dict,)
OBJECT_OR_NULL = (dict, NULL)

USER_FIELDS: FieldTypes = {
    "id": TEXT,
    "user_id": TEXT,
    "email": TEXT,
    "name": TEXT,
    "signed_up_at": INTEGER,
    "last_request_at": INTEGER,
    "last_seen_ip": TEXT,
    "last_seen_user_agent": TEXT,
    "unsubscribed_from_emails": BOOLEAN,
    "update_last_request_at": BOOLEAN,
    "new_session": BOOLEAN,
    "custom_attributes": OBJECT,
}
CONTACT_FIELDS: FieldTypes = {
    "role": TEXT,
    "external_id": TEXT,
    "email": TEXT,
    "phone": TEXT_OR_NULL,
    "name": TEXT_OR_NULL,
    "avatar": TEXT_OR_NULL,
    "signed_up_at": INTEGER_OR_NULL,
    "last_seen_at": INTEGER_OR_NULL,
    # An integer up to 2.14, a string since.
    "owner_id": (int, str, NULL),
    "unsubscribed_from_emails": BOOLEAN_OR_NULL,
    "custom_attributes": OBJECT_OR_NULL,
}
ATTRIBUTE_FIELDS: FieldTypes = {
    "name": TEXT,
    "model": TEXT,
    "data_type": TEXT,
    "description": TEXT,
    "messenger_writable": BOOLEAN,
    "options": LIST,
}
DATA_TYPES: FieldTypes = {
    "string": TEXT,
    "integer": INTEGER,
    "float": NUMBER,
    "boolean": BOOLEAN,
    # Both in UNIX seconds
    "date": INTEGER,
    "datetime": INTEGER,
}
STANDARD_ATTRIBUTES = {"name": "string", "email": "string", "signed_up_at": "date"}
NEW_USER: JsonObject = {
    "type": "user",
    "user_id": None,
    "email": None,
    "name": None,
}
NEW_CONTACT: JsonObject = {
    "type": "contact",
    "role": "user",
    "external_id": None,
    "email": None,
    "phone": None,
    "name": None,
    "signed_up_at": None,
    "last_seen_at": None,
    "unsubscribed_from_emails": False,
}

# "Preview" comes after every numbered version.
PREVIEW: Version = (2, 99)
VERSION_PATTERN = re.compile(r"1\.[0-4]|2\.([0-9]|1[0-7])")
# From this version on, list attributes can be created.
OPTIONS_SINCE: Version = (2, 14)
# From this version on, a merged contact is 410 contact_merged instead of 404.
MERGED_IS_GONE_SINCE: Version = (2, 16)

MAX_ATTRIBUTES = 250
MAX_ATTRIBUTE_NAME = 190
MAX_ATTRIBUTE_TEXT = 255
DEFAULT_PER_PAGE = 50
MAX_USERS_PER_PAGE = 60
MAX_CONTACTS_PER_PAGE = 150


def parse_version(header: str) -> Version:
    """Given an Intercom-Version, return its numbers.

    Raise RequestRejected if there is no such version.
    """
    if header == "Preview":
        return PREVIEW
    if not VERSION_PATTERN.fullmatch(header):
        raise RequestRejected(
            400, "intercom_version_invalid", "The requested version is invalid"
        )
    major, minor = header.split(".")
    return int(major), int(minor)


def check_fields(body: JsonObject, fields: FieldTypes) -> None:
    """Raise RequestRejected if a field is unknown or of the wrong type."""
    for name, value in body.items():
        if name not in fields:
            raise invalid(f"{name} is not a known field")
        if type(value) not in fields[name]:
            type_names = " or ".join(expected.__name__ for expected in fields[name])
            raise invalid(f"{name} must be of type {type_names}")


def check_person(body: JsonObject, fields: FieldTypes) -> None:
    """Raise RequestRejected if a user or contact has invalid fields or attributes.

    Rules that depend on the rest of the workspace are checked elsewhere.
    """
    check_fields(body, fields)
    attributes: JsonObject = body.get("custom_attributes") or {}
    if len(attributes) > MAX_ATTRIBUTES:
        raise invalid(f"There are more than {MAX_ATTRIBUTES} custom attributes")
    for name, value in attributes.items():
        if not 0 < len(name) <= MAX_ATTRIBUTE_NAME or "." in name or "$" in name:
            raise invalid(f"Custom attribute '{name}' has an invalid name")
        if type(value) not in (str, int, float, bool):
            raise invalid(
                f"Custom attribute '{name}' is not a string, number or boolean"
            )
        if isinstance(value, str) and len(value) > MAX_ATTRIBUTE_TEXT:
            raise invalid(f"Custom attribute '{name}' is longer than 255 characters")


def is_valid_attribute_name(name: str) -> bool:
    """Return whether a data attribute may be created under this name."""
    if not 0 < len(name) <= MAX_ATTRIBUTE_NAME:
        return False
    for character in name:
        is_currency = unicodedata.category(character) == "Sc"
        # Intercom's error text doesn't mention spaces and underscores, but they are accepted.
        if not (character.isalnum() or character in "-_ " or is_currency):
            return False
    return True


def option_values(options: list[Any]) -> list[str]:
    """Return the values of a list attribute's options, each of which is {"value": "a"} or "a".

    They are objects in a request. In a response, Intercom's description has them as text.
    """
    values = []
    for option in options:
        if isinstance(option, dict):
            values.append(option.get("value", ""))
        else:
            values.append(option)
    return values


def creation_time(person: JsonObject) -> int:
    """Return when a user was created, or 0 if a test has added it without a time."""
    created_at: int = person.get("created_at", 0)
    return created_at


class PersonTable:
    """Users or contacts by id, with an index of the other fields they are looked up by."""

    def __init__(self, *indexed_fields: str) -> None:
        self.records: dict[str, JsonObject] = {}  # tests may add to it directly
        self._indexed_fields = indexed_fields
        # The ids by field and value. They are in a dict because it keeps their order.
        self._index: dict[tuple[str, str], dict[str, None]] = {}
        self._indexed_count = 0

    def find(self, field: str, value: str | None) -> list[JsonObject]:
        """Return the records in which the field has this value; none if the value is blank."""
        if not value:
            return []
        if self._indexed_count != len(self.records):
            self._index_all()
        key = self._key(field, value)
        found = []
        for person_id in self._index.get(key, {}):
            record = self.records.get(person_id)
            # The index still has the values that a record had earlier.
            if record and self._key(field, record.get(field)) == key:
                found.append(record)
        return found

    def save(self, record: JsonObject) -> None:
        if record["id"] not in self.records:
            self._indexed_count += 1
        self.records[record["id"]] = record
        self._index_record(record)

    def _index_all(self) -> None:
        for person_id, record in self.records.items():
            record.setdefault("id", person_id)
            self._index_record(record)
        self._indexed_count = len(self.records)

    def _index_record(self, record: JsonObject) -> None:
        for field in self._indexed_fields:
            key = self._key(field, record.get(field))
            self._index.setdefault(key, {})[record["id"]] = None

    def _key(self, field: str, value: str | None) -> tuple[str, str]:
        text = value or ""
        if field == "email":
            text = text.lower()
        return field, text


def wrong_version(request: Request) -> RequestRejected:
    """Return the rejection of a path that the requested version doesn't have."""
    message = f"{request.path} does not exist in the requested version"
    return RequestRejected(400, "intercom_version_invalid", message)


def checked_body(request: Request) -> JsonObject:
    """Return a request's JSON object. Raise RequestRejected if it has none."""
    if request.headers["Content-Type"].split(";")[0] != "application/json":
        raise RequestRejected(415, message="Content-Type must be application/json")
    if not isinstance(request.body, dict):
        raise RequestRejected(400, "bad_request", "The body is not a JSON object")
    return request.body


def parse_per_page(query: dict[str, str], maximum: int) -> int:
    text = query.get("per_page", str(DEFAULT_PER_PAGE))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= maximum):
        raise invalid(f"per_page must be between 1 and {maximum}")
    return int(text)


def describe_pages(total: int, per_page: int) -> JsonObject:
    """Return the page numbers of a list. Only first pages are mocked."""
    total_pages = (total + per_page - 1) // per_page
    return {
        "type": "pages",
        "page": 1,
        "per_page": per_page,
        "total_pages": total_pages,
    }


def describe_attribute(
    name: str, data_type: str, details: JsonObject, *, custom: bool
) -> JsonObject:
    """Return a data attribute of contacts as Intercom lists it."""
    full_name = name
    if custom:
        full_name = f"custom_attributes.{name}"
    return {
        "type": "data_attribute",
        "model": "contact",
        "name": name,
        "label": name,
        "full_name": full_name,
        "data_type": data_type,
        "custom": custom,
        "archived": False,
        "api_writable": True,
        "ui_writable": False,
        "messenger_writable": False,
        **details,
    }


#### The workspace


class MockIntercom:
    """A workspace and its API. See MockServices for the attributes that tests set."""

    def __init__(self) -> None:
        self.token = ""
        self.api_id = "sandbox-app"
        self.api_key = "sandbox-key-0123456789"
        self.limit: int | None = None
        self.window = 10
        self.clock_offset = 0.0
        # The app's own version, for requests without Intercom-Version
        self.default_version = "1.4"
        self.attributes: dict[str, str] = {}
        self.attribute_details: dict[str, JsonObject] = {}
        # Whether a value outside an attribute's options is rejected. Intercom's documentation
        # has said both.
        self.enforce_options = True
        self._users = PersonTable("user_id", "email")
        self._contacts = PersonTable("external_id", "email")
        self.users = self._users.records
        self.contacts = self._contacts.records
        self._ids = count(1)
        self._window_end = 0
        self._window_count = 0

    def now(self) -> float:
        """Return the time of the server's clock in UNIX seconds."""
        return time.time() + self.clock_offset

    def intercom_response(self, request: Request, acts: bool) -> Response:
        """Return the response to a request; process the request only if `acts`."""
        headers: dict[str, str] = {}
        try:
            self._authenticate(request)
            if self.limit is not None:
                headers = self._count_request(self.limit)
            response = json_response({"type": "list", "data": []})
            if acts:
                response = self._route(request)
        except RequestRejected as rejected:
            response = rejected.response
        response.headers.update(headers)
        return response

    def _authenticate(self, request: Request) -> None:
        sent = request.headers["Authorization"]
        if not sent:
            raise RequestRejected(401, "token_not_found")
        pair = f"{self.api_id}:{self.api_key}".encode()
        if sent not in (
            f"Bearer {self.token}",
            f"Basic {base64.b64encode(pair).decode()}",
        ):
            raise RequestRejected(401)

    def _count_request(self, limit: int) -> dict[str, str]:
        """Count a request in the current window, and return the rate limit headers.

        Raise RequestRejected, with the same headers, if the limit is exceeded.
        """
        current_window = int(self.now()) // self.window
        window_end = (current_window + 1) * self.window
        if window_end != self._window_end:
            self._window_end = window_end
            self._window_count = 0
        self._window_count += 1
        headers = {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - self._window_count)),
            "X-RateLimit-Reset": str(window_end),
        }
        if self._window_count > limit:
            message = f"Exceeded rate limit of {limit} in {self.window}_seconds"
            raise RequestRejected(429, message=message, headers=headers)
        return headers

    def _route(self, request: Request) -> Response:
        if "application/json" not in request.headers["Accept"]:
            raise RequestRejected(
                406, message="The Accept header lacks application/json"
            )
        version = parse_version(
            request.headers["Intercom-Version"] or self.default_version
        )
        resource, *parts = request.path.removeprefix("/").split("/")
        parts = [unquote(part) for part in parts]
        if resource == "users":
            return self._route_users(request, version, parts)
        if resource == "contacts":
            return self._route_contacts(request, version, parts)
        if resource == "data_attributes":
            return self._route_data_attributes(request, version, parts)
        if resource == "me" and request.method == "GET" and not parts:
            return self._me()
        raise RequestRejected(404)

    def _route_users(
        self, request: Request, version: Version, parts: list[str]
    ) -> Response:
        # Users and leads became contacts in 2.0.
        if version >= (2, 0):
            raise wrong_version(request)
        if request.method == "GET" and not parts:
            return self._list_users(request.query)
        if request.method == "POST" and not parts:
            return self._upsert_user(checked_body(request))
        # A method that isn't supported is a 404 too.
        raise RequestRejected(404)

    def _route_contacts(
        self, request: Request, version: Version, parts: list[str]
    ) -> Response:
        if version < (2, 0):
            raise wrong_version(request)
        if parts:
            return self._route_contact(request, version, parts[0], parts[1:])
        if request.method == "GET":
            return self._list_contacts(request.query)
        if request.method == "POST":
            return self._create_contact(checked_body(request))
        raise RequestRejected(404)

    def _route_contact(
        self, request: Request, version: Version, contact_id: str, actions: list[str]
    ) -> Response:
        if request.method == "POST" and actions == ["archive"]:
            return self._set_archived(contact_id, version, True)
        if request.method == "POST" and actions == ["unarchive"]:
            return self._set_archived(contact_id, version, False)
        if request.method == "GET" and not actions:
            contact = self._contact(contact_id, version)
            return json_response(NEW_CONTACT | contact)
        if request.method == "PUT" and not actions:
            body = checked_body(request)
            contact = self._contact(contact_id, version)
            return self._update_contact(contact, body)
        raise RequestRejected(404)

    def _route_data_attributes(
        self, request: Request, version: Version, parts: list[str]
    ) -> Response:
        if request.method == "GET" and not parts:
            return self._list_attributes(request.query)
        if request.method == "POST" and not parts:
            return self._create_attribute(checked_body(request), version)
        raise RequestRejected(404)

    def _me(self) -> Response:
        return json_response(
            {
                "type": "admin",
                "id": "1",
                "name": "Ada",
                "email": "ada@example.com",
                "email_verified": True,
                "app": {
                    "type": "app",
                    "id_code": "sandbox",
                    "name": "Sandbox",
                    "region": "US",
                },
            }
        )

    #### users (API 1.x)

    def _list_users(self, query: dict[str, str]) -> Response:
        per_page = parse_per_page(query, MAX_USERS_PER_PAGE)
        users = list(self.users.values())
        users.sort(key=creation_time, reverse=True)
        page = {
            "type": "user.list",
            "total_count": len(users),
            "users": users[:per_page],
            "pages": describe_pages(len(users), per_page),
        }
        return json_response(page)

    def _upsert_user(self, body: JsonObject) -> Response:
        check_person(body, USER_FIELDS)
        has_identity = body.get("id") or body.get("user_id") or body.get("email")
        if not has_identity:
            message = "One of id, user_id and email is required"
            raise RequestRejected(400, "parameter_not_found", message)
        user = self._find_user(body)
        if user is None:
            user = dict(NEW_USER)
        changes = dict(body)
        if changes.pop("update_last_request_at", False):
            changes["last_request_at"] = int(self.now())
        if changes.pop("new_session", False):
            changes["session_count"] = user.get("session_count", 0) + 1
        return self._save(self._users, user, changes)

    def _find_user(self, body: JsonObject) -> JsonObject | None:
        """Return the user that a request is for, looked up by id, then user_id, then email."""
        user_id = body.get("user_id")
        with_user_id = self._users.find("user_id", user_id)
        if body.get("id"):
            user = self.users.get(body["id"])
            if user is None:
                raise RequestRejected(404, message="User Not Found")
            if with_user_id and with_user_id[0] is not user:
                raise RequestRejected(409, message="Another user has this user_id")
            return user
        if with_user_id:
            return with_user_id[0]
        with_email = self._users.find("email", body.get("email"))
        if user_id:
            # A user without user_id gets this one. One that has another user_id is somebody
            # else: several users may share an address.
            with_email = [user for user in with_email if not user.get("user_id")]
        elif len(with_email) > 1:
            raise RequestRejected(409, "conflict", SHARED_EMAIL)
        return next(iter(with_email), None)

    #### contacts (API 2.x)

    def _list_contacts(self, query: dict[str, str]) -> Response:
        per_page = parse_per_page(query, MAX_CONTACTS_PER_PAGE)
        contacts = []
        for contact_id, contact in self.contacts.items():
            if not contact.get("archived") and "merged_into" not in contact:
                contacts.append({**NEW_CONTACT, "id": contact_id, **contact})
        page = {
            "type": "list",
            "total_count": len(contacts),
            "data": contacts[:per_page],
            "pages": describe_pages(len(contacts), per_page),
        }
        return json_response(page)

    def _contact(
        self, contact_id: str, version: Version, include_archived: bool = False
    ) -> JsonObject:
        """Return a contact by its id. Raise RequestRejected if it's missing, merged or archived."""
        contact = self.contacts.get(contact_id)
        if contact is None:
            raise RequestRejected(404, message="User Not Found")
        if "merged_into" in contact:
            if version < MERGED_IS_GONE_SINCE:
                raise RequestRejected(404, message="User Not Found")
            link = f'</contacts/{contact["merged_into"]}>; rel="canonical"'
            raise RequestRejected(410, headers={"Link": link})
        if contact.get("archived") and not include_archived:
            raise RequestRejected(404, message="User Not Found")
        contact.setdefault("id", contact_id)
        return contact

    def _set_archived(
        self, contact_id: str, version: Version, archived: bool
    ) -> Response:
        contact = self._contact(contact_id, version, include_archived=True)
        contact["archived"] = archived
        reference = {
            "type": "contact",
            "id": contact_id,
            "external_id": contact.get("external_id"),
            "archived": archived,
        }
        return json_response(reference)

    def _create_contact(self, body: JsonObject) -> Response:
        check_person(body, CONTACT_FIELDS)
        if not ("role" in body or "external_id" in body or "email" in body):
            message = "One of role, external_id and email is required"
            raise RequestRejected(400, "parameter_not_found", message)
        role = body.get("role", "user")
        return self._save_contact(dict(NEW_CONTACT), body, role)

    def _update_contact(self, contact: JsonObject, body: JsonObject) -> Response:
        check_person(body, CONTACT_FIELDS)
        old_role: str = contact.get("role", "user")
        new_role: str = body.get("role", old_role)
        if old_role == "user" and new_role == "lead":
            message = "Contact with user role can't be converted to a lead"
            raise RequestRejected(400, "client_error", message)
        if old_role == "lead" and new_role == "user":
            # A lead's external_id is generated by Intercom, and is dropped here.
            body = {"external_id": None, **body}
        return self._save_contact(contact, body, new_role)

    def _save_contact(
        self, contact: JsonObject, changes: JsonObject, role: str
    ) -> Response:
        if role not in ("user", "lead"):
            raise invalid("role must be user or lead")
        if role == "lead" and changes.get("external_id"):
            raise invalid("External IDs cannot be set if the role is lead")
        result = {**contact, **changes}
        has_identity = result.get("external_id") or result.get("email")
        if role == "user" and not has_identity:
            message = "A user needs an external_id or an email"
            raise RequestRejected(400, "parameter_not_found", message)
        attributes = changes.get("custom_attributes") or {}
        for name, value in attributes.items():
            self._check_attribute(name, value)
        self._check_conflict(contact, changes)
        return self._save(self._contacts, contact, changes)

    def _check_attribute(self, name: str, value: object) -> None:
        """Raise RequestRejected if an attribute is missing or can't have this value."""
        details = self.attribute_details.get(name, {})
        if not self._has_attribute(name) or details.get("archived"):
            raise invalid(f"Custom attribute '{name}' does not exist")
        if details.get("api_writable") is False:
            raise invalid(f"Custom attribute '{name}' is not writable through the API")
        data_type = self.attributes.get(name, "string")
        if type(value) not in DATA_TYPES[data_type]:
            raise invalid(f"Custom attribute '{name}' must be of type {data_type}")
        options = details.get("options")
        if options and self.enforce_options and value not in option_values(options):
            raise invalid(f"Custom attribute '{name}' must be one of its options")

    def _check_conflict(self, contact: JsonObject, changes: JsonObject) -> None:
        """Raise RequestRejected if another contact has the external_id or email.

        Archived contacts keep theirs; a merged contact's went to the one it was merged into.
        """
        for field in ("external_id", "email"):
            for other in self._contacts.find(field, changes.get(field)):
                if other is contact or "merged_into" in other:
                    continue
                kind = "A contact"
                if other.get("archived"):
                    kind = "An archived contact"
                message = f"{kind} matching those details already exists with id={other['id']}"
                raise RequestRejected(409, "conflict", message)

    def _save(
        self, table: PersonTable, person: JsonObject, changes: JsonObject
    ) -> Response:
        now = int(self.now())
        person.setdefault("id", f"6762f0dd{next(self._ids):016x}")
        person.setdefault("created_at", now)
        attributes = dict(person.get("custom_attributes", {}))
        attributes.update(changes.get("custom_attributes") or {})
        person.update(changes)
        person["custom_attributes"] = attributes
        person["updated_at"] = now
        if person.get("email"):
            person["email"] = person["email"].lower()
        table.save(person)
        return json_response(person)

    #### data attributes

    def _has_attribute(self, name: str) -> bool:
        return name in self.attributes or name in self.attribute_details

    def _list_attributes(self, query: dict[str, str]) -> Response:
        model = query.get("model", "contact")
        if model not in ("contact", "company", "conversation"):
            raise invalid(
                "The Data Attribute model field must be either contact or company"
            )
        include_archived = query.get("include_archived") == "true"
        listed = []
        if model == "contact":
            for name, data_type in STANDARD_ATTRIBUTES.items():
                listed.append(describe_attribute(name, data_type, {}, custom=False))
            # attribute_details may name attributes that `attributes` doesn't have.
            for name in {**self.attributes, **self.attribute_details}:
                attribute = self._custom_attribute(name)
                if include_archived or not attribute["archived"]:
                    listed.append(attribute)
        return json_response({"type": "list", "data": listed})

    def _custom_attribute(self, name: str) -> JsonObject:
        data_type = self.attributes.get(name, "string")
        details = self.attribute_details.get(name, {})
        return describe_attribute(name, data_type, details, custom=True)

    def _create_attribute(self, body: JsonObject, version: Version) -> Response:
        check_fields(body, ATTRIBUTE_FIELDS)
        name = body.get("name", "")
        # Companies have attributes too, but aren't mocked.
        if body.get("model") != "contact":
            raise invalid(
                "The Data Attribute model field must be either contact or company"
            )
        if not is_valid_attribute_name(name):
            raise invalid(INVALID_ATTRIBUTE_NAME)
        if self._has_attribute(name):
            raise invalid(ATTRIBUTE_EXISTS.format(name))
        if self._active_attribute_count() >= MAX_ATTRIBUTES:
            raise invalid(f"A workspace has at most {MAX_ATTRIBUTES} custom attributes")
        if body.get("data_type") == "options" and version >= OPTIONS_SINCE:
            self._add_list_attribute(name, body.get("options", []))
        elif body.get("data_type") in DATA_TYPES:
            self.attributes[name] = body["data_type"]
        else:
            raise invalid("Data Type isn't an option")
        created = self._custom_attribute(name)
        created["id"] = next(self._ids)
        created["admin_id"] = "1"
        created["created_at"] = int(self.now())
        return json_response(created)

    def _add_list_attribute(self, name: str, options: list[Any]) -> None:
        """Add an attribute of type list, which from then on is a string with options."""
        values = option_values(options)
        if len(values) < 2:
            raise invalid("A list attribute needs at least two options")
        self.attributes[name] = "string"
        self.attribute_details[name] = {"options": values}

    def _active_attribute_count(self) -> int:
        """Return how many attributes count towards the limit: archived ones don't."""
        active = 0
        for name in self.attributes:
            if not self.attribute_details.get(name, {}).get("archived"):
                active += 1
        return active
