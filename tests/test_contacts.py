"""Contacts (Intercom's API 2.x): creating, finding and updating them; custom attributes."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest
from conftest import Project, Result, assert_says, line_of, lines_of, posix
from faults import Fault
from in_process import load_settings
from mock_http import Request
from mock_services import MockServices

from export_csv import (
    AttributeReport,
    IntercomClient,
    NoResponse,
    Response,
    Row,
    RunAborted,
    StopSignal,
    Upload,
    Upsert,
    UpsertResult,
    check_attributes,
    classify,
    create_missing_attributes,
    parse_attributes,
)

Json = dict[str, Any]


@pytest.fixture
def contacts(project: Project) -> Project:
    """Return a project whose user_url ends in /contacts."""
    project.configure(intercom={"user_url": project.services.contacts_url})
    return project


def client_for(
    services: MockServices, attributes: dict[str, str] | None = None, **intercom: object
) -> IntercomClient:
    """Return a client for contacts, for calls without a child process."""
    settings = load_settings(
        intercom={
            "access_token": services.token,
            "user_url": services.contacts_url,
            "timeout": 0.01,
            "retries": 3,
            **intercom,
        },
        custom_attributes=attributes or {},
    )
    return IntercomClient(settings, StopSignal())


def upsert(client: IntercomClient, user: Json, remembered_id: str = "") -> UpsertResult:
    """Create or update a contact as the import does."""
    row = Row(2, b"", [])
    return Upsert(client, Upload(row, user, user.get("id", remembered_id))).run()


def outcome(result: UpsertResult) -> str:
    """Return the reason for a rejection, or else the verdict, such as "accepted"."""
    if result.rejection:
        return str(result.rejection)
    return classify(result.response, result.context).name.lower()


def requests_of(services: MockServices) -> list[str]:
    """Return each request and its status, as in `POST /contacts 200`."""
    return [f"{one.method} {one.path} {one.status}" for one in services.requests]


#### From a row to a contact


def test_a_new_user_is_created_with_role_user(
    contacts: Project, services: MockServices
) -> None:
    """Otherwise, a row with only an e-mail address would become a lead."""
    contacts.write("user_id,email,name\nu1,Ada@Example.com,Ada\n,bob@example.com,\n")
    assert contacts.run().status == 0
    assert requests_of(services) == ["POST /contacts 200"] * 2
    assert [one.body for one in services.requests] == [
        {
            "role": "user",
            "external_id": "u1",
            "email": "Ada@Example.com",
            "name": "Ada",
        },
        {"role": "user", "email": "bob@example.com"},
    ]


USER_CSV = (
    "user_id,email,signed_up_at,name,last_seen_ip,last_seen_user_agent,last_request_at,"
    "unsubscribed_from_emails,update_last_request_at,new_session\n"
    "u1,a@example.com,1600000000,Ada,192.0.2.1,Mozilla,2026-01-02,yes,no,yes\n"
    "u2,b@example.com,1600000001,Bob,192.0.2.2,Lynx,2026-01-03,no,no,no\n"
)
HEADINGS = USER_CSV.partition("\n")[0].split(",")


@pytest.mark.parametrize("has_constants", [False, True], ids=["columns", "constants"])
def test_fields_are_translated_or_left_out_and_each_omission_is_logged_once(
    contacts: Project, services: MockServices, has_constants: bool
) -> None:
    if has_constants:
        constants = {"last_seen_ip": "'::1'", "new_session": "'true'"}
        contacts.configure(user={name: name for name in HEADINGS} | constants)
    contacts.write(USER_CSV)
    result = contacts.run()
    assert result.status == 0, result
    assert [one.body for one in services.requests] == [
        {
            "role": "user",
            "external_id": f"u{number}",
            "email": f"{email}@example.com",
            "signed_up_at": 1599999999 + number,
            "name": name,
            "last_seen_at": 1767225600 + number * 86400,
            "unsubscribed_from_emails": number == 1,
        }
        for number, email, name in ((1, "a", "Ada"), (2, "b", "Bob"))
    ]
    for name in ("last_seen_ip", "last_seen_user_agent", "new_session"):
        assert len(lines_of(result.debug_log, name)) == 1, name


def test_update_last_request_at_is_last_seen_at_now(services: MockServices) -> None:
    before = int(time.time())
    user = {
        "user_id": "u1",
        "last_request_at": 1600000000,
        "update_last_request_at": True,
    }
    assert outcome(upsert(client_for(services), user)) == "accepted"
    (request,) = services.requests
    assert request.body.keys() == {"role", "external_id", "last_seen_at"}
    assert before <= request.body["last_seen_at"] <= time.time()


def test_a_dry_run_prints_the_bodies_that_are_sent(
    contacts: Project, services: MockServices
) -> None:
    services.attributes = {"plan": "string", "bookings": "integer"}
    services.contacts["c3"] = {"external_id": "u3", "role": "user"}
    contacts.configure(
        user={
            "user_id": "user_id",
            "id": "id",
            "last_request_at": "seen",
            "last_seen_ip": "'::1'",
        },
        custom_attributes={"plan": "plan", "bookings": "bookings : integer"},
    )
    contacts.write(
        "user_id,id,seen,plan,bookings\nu1,,1600000000,gold,1\nu2,,,,\nu3,c3,,,2\n"
    )
    dry = contacts.run("--dry-run")
    assert dry.status == 0, dry
    assert not services.requests
    assert contacts.run().status == 0
    bodies = [one.body for one in services.requests if one.is_upsert]
    assert dry.dry_users() == bodies
    assert bodies[0]["custom_attributes"] == {"plan": "gold", "bookings": 1}


#### Contacts that exist

BOTH: Json = {"user_id": "u1", "email": "u1@x.eu", "name": "New"}
ID_ALONE: Json = {"user_id": "u1", "name": "New"}
EMAIL_ALONE: Json = {"email": "U1@X.eu", "name": "New"}

# The contact, the user, the requests after the 409, and whether the user is accepted
CONFLICTS: dict[str, tuple[Json, Json, list[str], bool]] = {
    "the same": ({"external_id": "u1", "email": "u1@x.eu"}, BOTH, ["GET", "PUT"], True),
    "another address": (
        {"external_id": "u1", "email": "old@x.eu"},
        BOTH,
        ["GET", "PUT"],
        True,
    ),
    "no external_id": ({"email": "u1@x.eu"}, BOTH, ["GET", "PUT"], True),
    "a lead": ({"email": "u1@x.eu", "role": "lead"}, BOTH, ["GET", "PUT"], True),
    "a lead with Intercom's own external_id": (
        {"email": "u1@x.eu", "role": "lead", "external_id": "7b2e"},
        BOTH,
        ["GET", "PUT"],
        True,
    ),
    "user_id alone": ({"external_id": "u1"}, ID_ALONE, ["PUT"], True),
    "e-mail alone": (
        {"external_id": "x", "email": "u1@x.eu"},
        EMAIL_ALONE,
        ["GET", "PUT"],
        True,
    ),
    "e-mail of a lead": (
        {"email": "u1@x.eu", "role": "lead"},
        EMAIL_ALONE,
        ["GET", "PUT"],
        True,
    ),
    "somebody else's": (
        {"external_id": "u9", "email": "u1@x.eu"},
        BOTH,
        ["GET"],
        False,
    ),
    "in upper case": ({"external_id": "U1", "email": "u1@x.eu"}, BOTH, ["GET"], False),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_an_existing_contact_is_updated_unless_it_is_somebody_elses(
    services: MockServices, case: str
) -> None:
    contact, user, asked, is_accepted = CONFLICTS[case]
    services.contacts["c1"] = {"id": "c1", "role": "user", "name": "Old", **contact}
    result = upsert(client_for(services), user)
    assert [one.method for one in services.requests] == ["POST", *asked]
    check_conflict(services, case, result)
    if is_accepted:
        assert (result.contact_id, outcome(result)) == ("c1", "accepted")
        role = services.requests[-1].body.get("role")
        assert role == ("user" if contact.get("role") == "lead" else None)


def check_conflict(services: MockServices, case: str, result: UpsertResult) -> None:
    """Check that the contact was updated, or that the reason names it and both ids."""
    contact, user, _, is_accepted = CONFLICTS[case]
    after = services.contacts["c1"]
    assert len(services.contacts) == 1
    if is_accepted:
        assert after["name"] == "New"
        assert after["role"] == "user"
        if "user_id" in user:
            assert after["external_id"] == user["user_id"]
    else:
        assert after["name"] == "Old"
        for word in ("c1", contact["external_id"], user["user_id"]):
            assert word in outcome(result)


@pytest.mark.parametrize("case", CONFLICTS)
def test_an_archived_contact_is_restored_only_with_unarchive(
    services: MockServices, case: str
) -> None:
    """If it turns out to be somebody else's, it is archived again."""
    contact, user, asked, is_accepted = CONFLICTS[case]
    archived = {"id": "c1", "role": "user", "name": "Old", **contact, "archived": True}
    services.contacts["c1"] = dict(archived)
    reason = outcome(upsert(client_for(services), user))
    assert requests_of(services) == ["POST /contacts 409"]
    assert services.contacts["c1"] == archived
    for word in ("c1", "archived", "unarchive = true"):
        assert word in reason

    services.requests.clear()
    result = upsert(client_for(services, unarchive="true"), user)
    again = [] if is_accepted else ["POST"]
    assert [one.method for one in services.requests] == ["POST", "POST", *asked, *again]
    check_conflict(services, case, result)
    assert services.contacts["c1"]["archived"] is not is_accepted
    assert "archived" not in outcome(result)


def upsert_archived(services: MockServices, user: Json = BOTH) -> str:
    """Send a user whose e-mail address is an archived contact's; return the outcome."""
    services.contacts["c1"] = {
        "external_id": "u9",
        "email": "u1@x.eu",
        "archived": True,
    }
    return outcome(upsert(client_for(services, unarchive="true"), user))


@pytest.mark.parametrize(
    "fault", [Fault(status=403), Fault(status=503)], ids=["403", "503"]
)
def test_the_reason_says_so_if_a_contact_cannot_be_archived_again(
    services: MockServices, fault: Fault
) -> None:
    services.fault_for = lambda one: fault if one.path.endswith("/archive") else None
    reason = upsert_archived(services)
    assert not services.contacts["c1"]["archived"]
    for word in ("c1", "u9", "u1", "could not be archived again"):
        assert word in reason


def test_a_contact_that_could_not_be_compared_is_archived_again(
    services: MockServices,
) -> None:
    services.fault_for = lambda one: Fault(status=503) if one.method == "GET" else None
    assert upsert_archived(services) == "retry"
    assert services.contacts["c1"]["archived"]


# Seconds since the run stopped, and whether the contact is archived again
@pytest.mark.parametrize(
    ("seconds", "is_archived"), [(1, True), (125, True), (200, False)]
)
def test_a_contact_is_archived_again_although_the_run_has_stopped(
    services: MockServices, seconds: float, is_archived: bool
) -> None:
    """There is some time for it even if the users in flight have used up theirs."""
    client = client_for(services, unarchive="true")
    services.contacts["c1"] = {
        "external_id": "u9",
        "email": "u1@x.eu",
        "archived": True,
    }

    def stop_after_comparing(request: Request, _: object) -> None:
        if request.method == "GET":
            client.stop.request("stopped by a test")
            client.stop.since = time.monotonic() - seconds

    services.on_response = stop_after_comparing
    reason = outcome(upsert(client, BOTH))
    assert services.contacts["c1"]["archived"] == is_archived
    assert ("could not be archived again" in reason) != is_archived


def test_a_response_about_another_contact_is_not_compared(
    services: MockServices,
) -> None:
    """Otherwise a repeated response might let a row overwrite somebody else's contact."""
    services.contacts["c1"] = {"external_id": "u9", "email": "u1@x.eu", "name": "Old"}
    other = json.dumps({"type": "contact", "id": "c2", "external_id": "u1"}).encode()
    services.faults = [Fault(), Fault(body=other)]
    assert "u9" in outcome(upsert(client_for(services), BOTH))
    services.fault_for = lambda one: Fault(body=other) if one.method == "GET" else None
    assert outcome(upsert(client_for(services), BOTH)) == "retry"
    assert services.contacts["c1"]["name"] == "Old"
    assert "PUT" not in {one.method for one in services.requests}


def test_rows_of_existing_contacts_are_counted_and_explained(
    contacts: Project, services: MockServices
) -> None:
    """The summary counts reasons by category, and the error log has the details."""
    services.contacts["c1"] = {"external_id": "u1", "email": "u1@x.eu", "role": "user"}
    for number in (2, 3):
        services.contacts[f"c{number}"] = {
            "external_id": "x",
            "email": f"u{number}@x.eu",
        }
    services.contacts["c4"] = {"external_id": "u4", "archived": True}
    contacts.configure(intercom={"concurrency": 4})
    contacts.write(
        "user_id,email\n" + "".join(f"u{n},u{n}@x.eu\n" for n in range(1, 6))
    )
    result = contacts.run()
    assert (result.status, result.counts()) == (1, (2, 0, 3)), result
    assert line_of(result.out, "another contact").startswith("2 ")
    assert line_of(result.out, "archived contact").startswith("1 ")
    assert lines_of(result.error_log, "line 4 ", "c3", "x", "u3")
    assert sorted(row[0] for row in result.rejected_rows()[1:]) == ["u2", "u3", "u4"]


EXISTS = "A contact matching those details already exists with id="
LONG = "c" * 300
WITH_IDS: dict[str, Fault] = {
    "0": Fault(message=f"{EXISTS}0."),
    "a-b_C": Fault(message=f"{EXISTS}a-b_C, so update it"),
    "6762f0": Fault(message=f"({EXISTS}6762f0)"),
    "c4": Fault(message=f"'{EXISTS}c4'; see {{the docs}}"),
    LONG: Fault(message=f"{'x' * 5000} {EXISTS}{LONG}"),
    "x-sandbox-token-0123456789-y": Fault(
        message=f"{EXISTS}x-sandbox-token-0123456789-y!"
    ),
    "c6": Fault(body=json.dumps({"errors": [f"{EXISTS}c6\n"]}).encode()),
    "c7": Fault(body=json.dumps({"errors": {"message": f"{EXISTS}c7"}}).encode()),
}


def test_the_id_of_a_contact_is_read_from_the_json(
    contacts: Project, services: MockServices
) -> None:
    """It is read whole, whatever surrounds it.

    That includes an id that contains a secret, which is masked in the log.
    """
    faults = {}
    for number, (known, fault) in enumerate(WITH_IDS.items()):
        services.contacts[known] = {"external_id": f"other{number}"}
        faults[f"u{number}"] = replace(fault, status=409, chunk=1)
    services.fault_for = lambda one: faults.pop(one.body["external_id"], None)
    contacts.write("user_id,name\n" + "".join(f"{user_id},New\n" for user_id in faults))
    result = contacts.run()
    assert (result.status, result.counts()) == (0, (len(WITH_IDS), 0, 0)), result
    updates = [f"PUT /contacts/{known} 200" for known in WITH_IDS]
    assert requests_of(services)[1::2] == updates
    assert "sandbox-token" not in result.debug_log


NO_IDS = {
    "page": Fault(body=f"<html>{EXISTS}c1</html>".encode()),
    "text": Fault(body=f"{EXISTS}c1".encode()),
    "no list": Fault(body=json.dumps({"message": f"{EXISTS}c1"}).encode()),
    "no id": Fault(message=f"{EXISTS}"),
    "path": Fault(message=f"{EXISTS}/../c1"),
    "other conflict": Fault(
        message="Multiple existing users match this email address; id=c1"
    ),
    "takes ages to search": Fault(message="A contact matching " * 50_000),
}


@pytest.mark.parametrize("case", NO_IDS)
def test_a_response_that_only_looks_like_a_conflict_rejects_the_row(
    services: MockServices, case: str
) -> None:
    services.contacts["c1"] = {"external_id": "other"}
    services.faults = [replace(NO_IDS[case], status=409)]
    assert outcome(upsert(client_for(services), ID_ALONE)) == "rejected"
    assert requests_of(services) == ["POST /contacts 409"]


def test_each_request_for_a_contact_is_retried(services: MockServices) -> None:
    """They share their user's retries. A page instead of a contact is retried too."""
    services.contacts["c1"] = {"external_id": "u1", "archived": True}
    page = Fault(status=200, body=b"<html></html>")
    troubles = [Fault(status=503), Fault(cut=True, acts=True), page]
    services.faults = [Fault(), *troubles, Fault(), *troubles, Fault(), *troubles]
    client = client_for(services, unarchive="true", retries=9)
    assert outcome(upsert(client, BOTH)) == "accepted"
    asked = ("POST /contacts/c1/unarchive", "GET /contacts/c1", "PUT /contacts/c1")
    steps = [f"{step} {status}" for step in asked for status in (503, 200, 200, 200)]
    assert requests_of(services) == ["POST /contacts 409", *steps]
    assert services.contacts["c1"]["name"] == "New"

    services.contacts["c1"]["archived"] = True
    services.faults = [Fault(), *troubles, Fault(), *troubles, Fault(), *troubles]
    assert (
        outcome(upsert(client_for(services, unarchive="true", retries=8), BOTH))
        == "retry"
    )


def test_a_creation_whose_response_is_lost_makes_one_contact(
    services: MockServices,
) -> None:
    """The second POST gets a 409, and the contact that exists is the row's own."""
    services.faults = [Fault(acts=True, drop=True)]
    assert outcome(upsert(client_for(services), BOTH)) == "accepted"
    assert len(services.contacts) == 1


def test_a_409_for_an_archived_contact_counts_as_a_response_from_intercom(
    contacts: Project, services: MockServices
) -> None:
    """So Intercom isn't down, though the first and third users use up their retries."""
    services.contacts["c2"] = {"external_id": "u2", "archived": True}
    services.faults_by_user_id = {"u1": Fault(status=503), "u3": Fault(status=503)}
    contacts.configure(intercom={"retries": 0})
    contacts.users(4)
    assert contacts.run().counts() == (1, 0, 3)


@pytest.mark.parametrize("then", [404, 409, 410])
def test_a_conflict_that_cannot_be_resolved_rejects_the_row(
    services: MockServices, then: int
) -> None:
    message = f"{EXISTS}c1"
    services.faults = [
        Fault(status=409, message=message),
        Fault(status=then, message=message),
    ]
    assert outcome(upsert(client_for(services), ID_ALONE)) == "rejected"
    assert requests_of(services) == ["POST /contacts 409", f"PUT /contacts/c1 {then}"]


#### Rows that carry Intercom's own id


@pytest.mark.parametrize("skip", ["true", "false"])
@pytest.mark.parametrize(("version", "status"), [("2.14", 404), ("2.16", 410)])
def test_a_row_with_an_id_is_updated_at_once_or_not_imported(
    contacts: Project, services: MockServices, version: str, status: int, skip: str
) -> None:
    """If Intercom doesn't know the id, that concerns this row alone."""
    services.contacts["c1"] = {"merged_into": "c2"}
    services.contacts["c2"] = {"external_id": "u2", "role": "user"}
    contacts.configure(intercom={"skip_unchanged": skip, "api_version": version})
    contacts.write("id,user_id,name\nc1,u1,Ada\nc2,u2,Bob\n,u3,Cy\n")
    result = contacts.run()
    assert (result.status, result.counts()) == (1, (2, 0, 1))
    asked = [f"PUT /contacts/c1 {status}", "PUT /contacts/c2 200", "POST /contacts 200"]
    assert requests_of(services) == asked
    assert services.requests[1].body == {"external_id": "u2", "name": "Bob"}
    assert result.rejected_rows()[1:] == [["c1", "u1", "Ada"]]
    assert str(status) in result.error_log


@pytest.mark.parametrize("status", [404, 405, 406])
def test_an_error_status_for_the_url_of_an_id_concerns_only_its_row(
    services: MockServices, status: int
) -> None:
    """This holds for the very first response too, and for one from a gateway."""
    for body in (None, b"<html></html>"):
        services.faults = [Fault(status=status, body=body)]
        assert outcome(upsert(client_for(services), {"id": "c1"})) == "rejected"


def test_a_conflict_of_a_row_with_an_id_rejects_the_row(services: MockServices) -> None:
    """The id in the response is another contact's."""
    services.contacts["c1"] = {"external_id": "u1"}
    services.contacts["c2"] = {"email": "new@example.com"}
    client = client_for(services, unarchive="true")
    result = upsert(client, {"id": "c1", "email": "new@example.com"})
    assert outcome(result) == "rejected"
    assert isinstance(result.response, Response)
    assert b"id=c2" in result.response.body
    assert requests_of(services) == ["PUT /contacts/c1 409"]


ODD_IDS = [
    "a/b",
    "a?b=c",
    "a#b",
    "50%",
    "%2e",
    "..",
    ".",
    "ü ñ",
    "a\\b",
    'a"b',
    "a;b",
    "../users",
]


def test_ids_with_special_characters_stay_in_the_path(services: MockServices) -> None:
    client = client_for(services)
    for known in ODD_IDS:
        services.contacts[known] = {"type": "contact", "external_id": known}
        assert outcome(upsert(client, {"id": known, "name": "Ada"})) == "accepted"
    for known, request in zip(ODD_IDS, services.requests, strict=True):
        assert unquote(request.path) == f"/contacts/{known}"
        assert request.path.count("/") == 2
        assert "." not in request.path  # a proxy would resolve `..`
        assert not request.query
        assert services.contacts[known]["name"] == "Ada"


#### Remembered ids


@pytest.mark.parametrize("status", [404, 409, 410])
@pytest.mark.parametrize("body", [None, b"<html></html>"], ids=["list", "page"])
def test_a_remembered_id_that_intercom_rejects_is_forgotten(
    services: MockServices, status: int, body: bytes | None
) -> None:
    """The user is sent again with POST, and found by its user_id."""
    services.contacts["c2"] = {"external_id": "u1", "role": "user"}
    services.faults = [Fault(status=status, body=body)]
    result = upsert(client_for(services), ID_ALONE, remembered_id="c1")
    assert (outcome(result), result.contact_id) == ("accepted", "c2")
    assert result.stale_contact_id == "c1"
    assert requests_of(services) == [
        f"PUT /contacts/c1 {status}",
        "POST /contacts 409",
        "PUT /contacts/c2 200",
    ]


@pytest.mark.parametrize("status", [400, 422, 503])
def test_other_failures_do_not_forget_an_id(
    services: MockServices, status: int
) -> None:
    services.fault_for = lambda _: Fault(status=status)
    result = upsert(client_for(services), ID_ALONE, remembered_id="c1")
    assert outcome(result) in ("rejected", "retry")
    assert result.stale_contact_id == ""
    assert {one.method for one in services.requests} == {"PUT"}


@pytest.fixture
def skipping(contacts: Project) -> Project:
    """Return a project for contacts with skip_unchanged."""
    contacts.configure(intercom={"skip_unchanged": "true"})
    return contacts


def run_named(project: Project, name: str, count: int = 3) -> Result:
    """Run with users u1, u2, ... whose names start with `name`."""
    rows = "".join(f"u{n},{name} {n}\n" for n in range(1, count + 1))
    project.write("user_id,name\n" + rows)
    return project.run()


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("is_known", [True, False], ids=["existing", "new"])
def test_a_second_run_costs_one_request_per_user(
    skipping: Project, services: MockServices, is_known: bool, concurrency: int
) -> None:
    for number in range(1, 4 if is_known else 1):
        services.contacts[f"c{number}"] = {"external_id": f"u{number}", "role": "user"}
    skipping.configure(intercom={"concurrency": concurrency})
    assert run_named(skipping, "Old").status == 0
    assert len(services.contacts) == 3
    services.requests.clear()
    assert run_named(skipping, "New").counts() == (3, 0, 0)
    updates = [f"PUT /contacts/{contact_id} 200" for contact_id in services.contacts]
    assert sorted(requests_of(services)) == sorted(updates)
    names = {contact["name"] for contact in services.contacts.values()}
    assert names == {"New 1", "New 2", "New 3"}
    assert run_named(skipping, "New").counts() == (0, 3, 0)
    assert len(services.requests) == 3


def test_the_id_of_a_deleted_contact_is_not_used_again(
    skipping: Project, services: MockServices
) -> None:
    """It is forgotten even if the POST that follows is rejected."""
    assert run_named(skipping, "Old").status == 0
    gone = services.find(external_id="u2")[0]["id"]
    del services.contacts[gone]
    services.requests.clear()
    services.faults = [Fault(), Fault(), Fault(status=422)]
    for name, counts, asked in (
        ("New", (2, 0, 1), [f"PUT /contacts/{gone} 404", "POST /contacts 422"]),
        ("Newer", (3, 0, 0), ["POST /contacts 200"]),
    ):
        assert run_named(skipping, name).counts() == counts
        assert requests_of(services)[1:-1] == asked
        services.requests.clear()
    (new,) = services.find(external_id="u2", name="Newer 2", role="user")
    assert run_named(skipping, "Newest").status == 0
    assert requests_of(services)[1] == f"PUT /contacts/{new['id']} 200"


def test_ids_of_one_workspace_are_not_used_in_another(skipping: Project) -> None:
    assert run_named(skipping, "Old", 1).status == 0
    with MockServices() as other:
        skipping.configure(intercom={"user_url": other.contacts_url})
        assert run_named(skipping, "New", 1).status == 0
        assert requests_of(other) == ["POST /contacts 200"]


#### Custom attributes of the workspace

MAPPED = {
    "plan": "plan",
    "bookings": "bookings : integer",
    "rating": "rating : float",
    "booked_at": "booked_at : timestamp",
    "owner": "owner : boolean",
}
TYPES = {
    "plan": "string",
    "bookings": "integer",
    "rating": "float",
    "booked_at": "date",
    "owner": "boolean",
}


@pytest.fixture
def all_types_project(contacts: Project) -> Project:
    """Return a project with a custom attribute of each type, and a user who has them."""
    contacts.configure(custom_attributes=MAPPED)
    contacts.write(
        "user_id,plan,bookings,rating,booked_at,owner\nu1,gold,1,4.5,2026-01-02,yes\n"
    )
    return contacts


def report(
    services: MockServices, mapped: dict[str, str], **intercom: object
) -> AttributeReport:
    """Compare mapped attributes with the workspace's."""
    compared = check_attributes(client_for(services, mapped, **intercom), retry=True)
    assert compared is not None
    return compared


def test_attributes_that_fit_are_sent(
    all_types_project: Project, services: MockServices
) -> None:
    """An integer may go into a float, and a timestamp into a datetime."""
    services.attributes = TYPES | {"bookings": "float", "booked_at": "datetime"}
    result = all_types_project.run()
    assert result.status == 0, result
    assert services.requests[0].query == {
        "model": "contact",
        "include_archived": "true",
    }
    assert requests_of(services) == ["GET /data_attributes 200", "POST /contacts 200"]
    assert services.find(external_id="u1")[0]["custom_attributes"] == {
        "plan": "gold",
        "bookings": 1,
        "rating": 4.5,
        "booked_at": 1767312000,
        "owner": True,
    }


@pytest.mark.parametrize(
    "version", ["2.11", "2.12", "2.13", "2.15", "2.16", "2.17", "Preview"]
)
def test_every_version_has_the_same_bodies(
    services: MockServices, version: str
) -> None:
    services.attributes = dict(TYPES)
    client = client_for(services, MAPPED, api_version=version)
    compared = check_attributes(client, retry=True)
    assert compared is not None
    assert (compared.problems, compared.missing) == ([], {})
    user = {"user_id": "u1", "custom_attributes": {"plan": "gold", "bookings": 1}}
    assert outcome(upsert(client, user)) == "accepted"
    assert {one.headers["Intercom-Version"] for one in services.requests} == {version}


def test_attributes_of_other_types_are_named(services: MockServices) -> None:
    services.attributes = {
        "plan": "integer",
        "bookings": "string",
        "rating": "integer",
        "booked_at": "float",
        "owner": "date",
    }
    problems = report(services, MAPPED).problems
    assert len(problems) == len(MAPPED)
    for name, expected in TYPES.items():
        problem = line_of("\n".join(problems), name)
        assert f"is {services.attributes[name]}" in problem
        assert f"expected {expected}" in problem


def test_attributes_that_cannot_be_written_are_named(services: MockServices) -> None:
    services.attributes = dict(TYPES)
    services.attribute_details = {
        "plan": {"archived": True},
        "owner": {"api_writable": False},
    }
    for create in ("false", "true"):
        owner, plan = report(services, MAPPED, create_attributes=create).problems
        assert "plan" in plan
        assert "archived" in plan
        assert "owner" in owner
        assert "not writable" in owner


def test_missing_attributes_are_named_with_the_nearest_name(
    services: MockServices,
) -> None:
    """A name is suggested only if it differs in nothing but case or punctuation."""
    services.attributes = {"Plan": "string", "booked at": "date", "planet": "string"}
    mapped = {"plan": "a", "booked_at": "b : timestamp", "plane": "c"}
    booked_at, plan, plane, advice = report(services, mapped).problems
    assert "did you mean Plan?" in plan
    assert "did you mean booked at?" in booked_at
    assert "date" in booked_at
    assert "did you mean" not in plane
    assert "create_attributes = true" in advice
    existing = report(services, {"Plan": "a", "planet": "b"})
    assert (existing.problems, existing.missing) == ([], {})


def test_with_create_attributes_only_names_that_differ_in_case_are_a_problem(
    services: MockServices,
) -> None:
    services.attributes = {"Plan": "string", "booked at": "date"}
    mapped = {"plan": "a", "booked_at": "b : timestamp", "new": "c : integer"}
    compared = report(services, mapped, create_attributes="true")
    (problem,) = compared.problems
    assert "plan" in problem
    assert "Plan" in problem
    assert "create_attributes" not in problem
    assert list(compared.missing) == ["booked_at", "new"]


def test_an_archived_attribute_does_not_hide_a_new_one_of_its_name() -> None:
    old = {"name": "plan", "data_type": "integer", "custom": True, "archived": True}
    new = {"name": "plan", "data_type": "string", "custom": True, "archived": False}
    for listed in ([old, new], [new, old]):
        body = json.dumps({"type": "list", "data": listed}).encode()
        assert parse_attributes(Response(200, {}, body))["plan"].data_type == "string"


def test_attributes_that_do_not_fit_stop_the_run_before_the_first_user(
    all_types_project: Project, services: MockServices
) -> None:
    services.attributes = {"Plan": "string", "bookings": "string", "rating": "float"}
    services.attribute_details = {"rating": {"archived": True}}
    result = all_types_project.run()
    assert (result.status, result.reject_files) == (1, [])
    assert requests_of(services) == ["GET /data_attributes 200"]
    line = line_of(result.err)
    for name in (*TYPES, "Plan", "create_attributes = true"):
        assert name in line
        assert name in result.error_log


def test_create_attributes_creates_what_is_missing(
    all_types_project: Project, services: MockServices
) -> None:
    services.attributes = {"plan": "string", "bookings": "float"}
    all_types_project.configure(intercom={"create_attributes": "true"})
    dry = all_types_project.run("--dry-run")
    assert (dry.status, services.requests) == (0, [])
    page = Fault(status=200, body=b"<html></html>")
    services.faults = [Fault(), Fault(status=503), page]
    result = all_types_project.run()
    assert (result.status, result.counts()) == (0, (1, 0, 0)), result
    created = {name: TYPES[name] for name in ("rating", "booked_at", "owner")}
    assert services.attributes == {"plan": "string", "bookings": "float", **created}
    for name in TYPES:
        assert bool(lines_of(result.debug_log, f" {name} ", "created")) == (
            name in created
        )
    assert all_types_project.run().status == 0
    asked = [one.method for one in services.requests if one.path == "/data_attributes"]
    assert asked == ["GET", *["POST"] * 5, "GET"]


def create(services: MockServices, name: str, **intercom: object) -> None:
    """Create a missing attribute of type string."""
    client = client_for(services, {name: "plan"}, create_attributes="true", **intercom)
    compared = check_attributes(client, retry=True)
    assert compared is not None
    assert compared.problems == []
    create_missing_attributes(client, compared)


def test_an_attribute_whose_creation_was_not_confirmed_is_looked_up(
    services: MockServices,
) -> None:
    """The response was lost, and the next attempt says that the name is taken."""
    services.faults = [Fault(), Fault(acts=True, cut=True)]
    create(services, "new")
    assert services.attributes == {"new": "string"}
    assert [one.method for one in services.requests] == ["GET", "POST", "POST", "GET"]


NOT_CREATED = {
    "a name": ("100%", None, "alphanumeric"),
    "a page": ("new", Fault(status=200, body=b"<html></html>"), "200"),
    "another's": ("new", Fault(status=200, body=b'{"name": "other"}'), "200"),
    "no permission": ("new", Fault(status=403), "403"),
}


@pytest.mark.parametrize("case", NOT_CREATED)
def test_an_attribute_that_cannot_be_created_stops_the_run(
    services: MockServices, case: str
) -> None:
    name, fault, word = NOT_CREATED[case]
    services.fault_for = lambda one: fault if one.method == "POST" else None
    with pytest.raises(RunAborted, match=word) as stopped:
        create(services, name)
    assert name in str(stopped.value)
    assert services.attributes == {}


@pytest.mark.parametrize(("dialect", "plan"), [("contacts", ""), ("users", "name")])
def test_without_custom_attributes_of_contacts_none_are_compared(
    project: Project, dialect: str, plan: str
) -> None:
    url = f"{project.services.url}/{dialect}"
    project.configure(intercom={"user_url": url}, custom_attributes={"plan": plan})
    project.users(1)
    assert project.run().status == 0
    assert requests_of(project.services) == [f"POST /{dialect} 200"]


def test_the_list_of_attributes_is_retried(services: MockServices) -> None:
    services.attributes = dict(TYPES)
    services.faults = [
        Fault(status=503),
        Fault(status=429),
        Fault(body=b'{"data": [', cut=True),
    ]
    assert report(services, MAPPED).problems == []
    assert len(services.requests) == 4


@pytest.mark.parametrize("status", [403, 404])
def test_a_token_that_may_not_read_attributes_causes_a_warning(
    contacts: Project, services: MockServices, status: int
) -> None:
    services.attributes = {"plan": "string"}
    services.fault_for = lambda one: (
        Fault(status=status) if one.method == "GET" else None
    )
    contacts.configure(custom_attributes={"plan": "plan"})
    contacts.write("user_id,plan\nu1,gold\n")
    result = contacts.run("--quiet")
    assert (result.status, len(services.contacts)) == (0, 1), result
    line_of(result.err, "custom attributes")
    line_of(result.error_log, "custom attributes")


PLAN: Json = {"name": "plan", "data_type": "string", "custom": True}
ODD_LISTS: dict[str, object] = {
    "a hash": {"plan": 1},
    "null": None,
    "things": [None, 1, "plan", {"name": 7, "custom": True}],
    "names": [{**PLAN, "name": ["plan"], "data_type": {}}],
    "types": [{**PLAN, "data_type": ["string"]}],
    "not custom": [{**PLAN, "custom": False}],
    "archived": [{**PLAN, "archived": True}],
}
USELESS_LISTS = {str(status): Fault(status=status) for status in (401, 503)}
USELESS_LISTS["page"] = Fault(body=b"<html>hello</html>")
USELESS_LISTS["version"] = Fault(status=400, code="intercom_version_invalid")
for case, data in ODD_LISTS.items():
    USELESS_LISTS[case] = Fault(
        body=json.dumps({"type": "list", "data": data}).encode()
    )


@pytest.mark.parametrize("fault", USELESS_LISTS.values(), ids=USELESS_LISTS)
def test_a_list_that_shows_no_such_attribute_stops_the_run(
    services: MockServices, fault: Fault
) -> None:
    services.fault_for = lambda _: fault
    client = client_for(services, {"plan": "plan"})
    stopped = ""
    compared = None
    try:
        compared = check_attributes(client, retry=True)
    except RunAborted as reason:
        stopped = str(reason)
    if compared is None:
        assert str(fault.status or 200) in stopped
    else:
        assert "plan" in compared.problems[0]


#### Attributes with a list of options


@pytest.mark.parametrize("as_objects", [False, True], ids=["texts", "objects"])
def test_values_outside_the_options_are_reported_before_the_first_user(
    contacts: Project, services: MockServices, as_objects: bool
) -> None:
    """--check reports them too. Intercom may reject their users, or may not."""
    options: list[object] = ["gold", "silver"]
    if as_objects:
        options = [{"value": option, "archived": False} for option in options]
    services.attributes = {"plan": "string", "city": "string"}
    services.attribute_details = {"plan": {"options": options}}
    services.enforce_options = False
    contacts.configure(custom_attributes={"plan": "plan", "city": "city"})
    plans = ["gold", "Gold", "silver", "", "bronze", "bronze"]
    rows = "".join(f"u{number},{plan},Rome\n" for number, plan in enumerate(plans))
    contacts.write("user_id,plan,city\n" + rows)
    check = contacts.run("--check")
    assert check.status == 0, check
    result = contacts.run()
    assert (result.status, result.counts()) == (0, (6, 0, 0)), result
    for text in (check.out, result.err, result.error_log):
        line = line_of(text, "options")
        assert "3 values" in line
        assert "plan" in line
        assert "Gold" in line
    assert services.requests[-6].is_upsert
    log = result.debug_log
    assert log.index("options") < log.index("user_id=u0")


def test_values_outside_the_options_are_found_in_rows_that_end_with_a_delimiter(
    contacts: Project, services: MockServices
) -> None:
    services.attributes = {"plan": "string"}
    services.attribute_details = {"plan": {"options": ["gold"]}}
    services.enforce_options = False
    contacts.configure(custom_attributes={"plan": "plan"})
    contacts.write("user_id,plan\nu1,gold,\nu2,bronze,\n")
    for result in contacts.run("--check"), contacts.run():
        assert_says(line_of(result.out + result.err, "options"), "1 value ", "bronze")


@posix("Windows has no /dev/stdin")
def test_check_reads_a_pipe_once(contacts: Project, services: MockServices) -> None:
    services.attributes = {"plan": "string"}
    services.attribute_details = {"plan": {"options": ["gold"]}}
    contacts.configure(custom_attributes={"plan": "plan"})
    child = contacts.start("--check", "/dev/stdin", stdin=subprocess.PIPE)
    assert child.process.stdin
    child.process.stdin.write(b"user_id,plan\nu1,bronze\n")
    child.process.stdin.close()
    child.process.stdin = None  # as communicate() would flush it
    assert_says(line_of(child.wait().out, "options"), "1 value ", "bronze")


def test_nothing_is_reported_if_all_values_are_options(
    contacts: Project, services: MockServices
) -> None:
    services.attributes = {"plan": "string"}
    services.attribute_details = {"plan": {"options": ["gold", "silver"]}}
    contacts.configure(custom_attributes={"plan": "plan"})
    contacts.write("user_id,plan\nu1,gold\nu2,\n,lost\n")
    result = contacts.run()
    assert result.counts() == (2, 0, 1)
    assert "option" not in result.err + result.debug_log


def test_an_attribute_with_options_is_a_string(services: MockServices) -> None:
    """This is so even if the API version lists its data_type as "options"."""
    services.attribute_details = {
        "plan": {"options": ["1", "2"], "data_type": "options"}
    }
    assert report(services, {"plan": "plan"}).problems == []
    (problem,) = report(services, {"plan": "plan : integer"}).problems
    assert "expected integer" in problem


def test_attributes_are_not_requested_once_the_run_stops(
    services: MockServices,
) -> None:
    client = client_for(services, {"plan": "plan"})
    client.stop.request("a reason")
    assert isinstance(client.list_attributes(retry=True), NoResponse)
    assert services.requests == []
