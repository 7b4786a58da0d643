"""Contacts, Intercom's API 2.x: created, found and updated by id, and checked beforehand."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from urllib.parse import unquote

import pytest
from conftest import Project
from sandbox import Fault, Sandbox

ATTRIBUTES = {"plan": "string", "bookings": "integer", "rating": "float", "booked_at": "date"}


@pytest.fixture
def contacts(project: Project) -> Project:
    """A project whose user_url ends in /contacts."""
    project.configure(intercom={"user_url": project.sandbox.contacts_url})
    return project


def sent(sandbox: Sandbox) -> list[str]:
    """What was asked of Intercom, as `POST /contacts 200`."""
    return [f"{one.method} {one.path} {one.status}" for one in sandbox.requests]


#### From a row to a contact


def test_a_new_user_is_created_with_role_user(contacts: Project, sandbox: Sandbox) -> None:
    contacts.write("user_id,email,name\nu1,Ada@Example.com,Ada\n")
    result = contacts.run()
    assert result.status == 0, result
    (request,) = sandbox.requests
    assert (request.method, request.path) == ("POST", "/contacts")
    expected = {"role": "user", "external_id": "u1", "email": "Ada@Example.com", "name": "Ada"}
    assert request.body == expected


def test_a_user_without_user_id_is_no_lead(contacts: Project, sandbox: Sandbox) -> None:
    contacts.write("email\nada@example.com\n")
    assert contacts.run().status == 0
    assert [one["role"] for one in sandbox.contacts.values()] == ["user"]


@pytest.mark.parametrize("version", ["", "2.15"])
def test_the_version_is_2_14_or_that_of_the_settings(
    contacts: Project, sandbox: Sandbox, version: str
) -> None:
    sandbox.attributes = dict(ATTRIBUTES)
    contacts.configure(intercom={"api_version": version}, custom_attributes={"plan": "plan"})
    contacts.write("user_id,plan\nu1,gold\n")
    assert contacts.run().status == 0
    assert len(sandbox.requests) == 2
    assert {one.headers["Intercom-Version"] for one in sandbox.requests} == {version or "2.14"}


USER_CSV = (
    "user_id,email,signed_up_at,name,last_seen_ip,last_seen_user_agent,last_request_at,"
    "unsubscribed_from_emails,update_last_request_at,new_session\n"
    "u1,a@example.com,1600000000,Ada,192.0.2.1,Mozilla,2026-01-02,yes,no,yes\n"
    "u2,b@example.com,1600000001,Bob,192.0.2.2,Lynx,2026-01-03,no,no,no\n"
)
MAPPED = dict.fromkeys(USER_CSV.partition("\n")[0].split(","))


@pytest.mark.parametrize("section", [{}, {name: name for name in MAPPED}], ids=["empty", "full"])
def test_fields_are_renamed_and_what_contacts_lack_is_left_out_and_said_once(
    contacts: Project, sandbox: Sandbox, section: dict[str, str]
) -> None:
    contacts.configure(user=section)
    contacts.write(USER_CSV)
    result = contacts.run()
    assert result.status == 0, result
    assert [one.body for one in sandbox.requests] == [
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
        lines = [line for line in result.debug_log.splitlines() if name in line]
        assert len(lines) == 1, (name, lines)


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_update_last_request_at_is_last_seen_at_now(
    contacts: Project, sandbox: Sandbox, wanted: str
) -> None:
    contacts.write(f"user_id,last_request_at,update_last_request_at\nu1,1600000000,{wanted}\n")
    before = int(time.time())
    assert contacts.run().status == 0
    (request,) = sandbox.requests
    assert request.body.keys() == {"role", "external_id", "last_seen_at"}
    seen = request.body["last_seen_at"]
    assert before <= seen <= time.time() if wanted == "true" else seen == 1600000000


def test_a_dry_run_prints_the_bodies_that_are_sent(contacts: Project, sandbox: Sandbox) -> None:
    sandbox.attributes = dict(ATTRIBUTES)
    sandbox.contacts["c3"] = {"external_id": "u3", "role": "user"}
    contacts.configure(
        user={"user_id": "user_id", "id": "id", "last_request_at": "seen", "last_seen_ip": "'::1'"},
        custom_attributes={"plan": "plan", "bookings": "bookings : integer"},
    )
    contacts.write("user_id,id,seen,plan,bookings\nu1,,1600000000,gold,1\nu2,,,,\nu3,c3,,,2\n")
    dry = contacts.run("--dry-run")
    assert dry.status == 0, dry
    assert not sandbox.requests
    assert contacts.run().status == 0
    bodies = [one.body for one in sandbox.requests if one.upserts]
    assert [json.loads(line) for line in dry.out.splitlines()] == bodies
    assert bodies[0]["custom_attributes"] == {"plan": "gold", "bookings": 1}


#### Contacts that exist


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_contact_that_exists_is_updated(
    contacts: Project, sandbox: Sandbox, concurrency: int
) -> None:
    sandbox.contacts["c1"] = {"external_id": "u1", "role": "user", "name": "Old"}
    sandbox.contacts["c2"] = {"email": "two@example.com", "role": "user", "name": "Old"}
    contacts.configure(intercom={"concurrency": concurrency})
    contacts.write("user_id,email,name\nu1,one@example.com,New\nu2,two@example.com,New\nu3,,New\n")
    result = contacts.run()
    assert (result.status, result.counts()) == (0, (3, 0, 0))
    assert len(sandbox.contacts) == 3
    assert {one["name"] for one in sandbox.contacts.values()} == {"New"}
    assert sandbox.contacts["c1"]["email"] == "one@example.com"
    assert sandbox.contacts["c2"]["external_id"] == "u2"
    assert sorted(sent(sandbox)) == [
        "POST /contacts 200",
        "POST /contacts 409",
        "POST /contacts 409",
        "PUT /contacts/c1 200",
        "PUT /contacts/c2 200",
    ]


def test_the_update_of_a_contact_that_exists_is_tried_again(
    contacts: Project, sandbox: Sandbox
) -> None:
    sandbox.contacts["c1"] = {"external_id": "u1", "role": "user"}
    sandbox.faults = [Fault(), Fault(status=503), Fault(drop=True)]
    contacts.write("user_id,name\nu1,New\n")
    assert contacts.run().status == 0
    put = [f"PUT /contacts/c1 {status}" for status in (503, 0, 200)]
    assert sent(sandbox) == ["POST /contacts 409", *put]
    assert sandbox.contacts["c1"]["name"] == "New"


def test_a_creation_whose_answer_was_lost_makes_no_second_contact(
    contacts: Project, sandbox: Sandbox
) -> None:
    sandbox.faults = [Fault(acts=True, drop=True)]
    contacts.write("user_id,name\nu1,Ada\n")
    result = contacts.run()
    assert (result.status, result.counts()) == (0, (1, 0, 0))
    assert len(sandbox.contacts) == 1


def test_an_archived_contact_is_not_imported_and_the_reason_says_so(
    contacts: Project, sandbox: Sandbox
) -> None:
    sandbox.contacts["c1"] = {"external_id": "u1", "role": "user", "archived": True}
    contacts.write("user_id,name\nu1,Ada\nu2,Bob\n")
    result = contacts.run()
    assert (result.status, result.counts()) == (1, (1, 0, 1))
    assert "name" not in sandbox.contacts["c1"]
    assert result.not_imported_rows() == [["user_id", "name"], ["u1", "Ada"]]
    (line,) = [line for line in result.error_log.splitlines() if "user_id=u1" in line]
    assert "archived" in line


def test_another_conflict_is_not_taken_for_a_contact_that_exists(
    contacts: Project, sandbox: Sandbox
) -> None:
    for number in "12":
        sandbox.contacts[f"c{number}"] = {
            "external_id": f"u{number}",
            "email": "shared@example.com",
            "role": "user",
        }
    contacts.write("email,name\nshared@example.com,Ada\nown@example.com,Bob\n")
    result = contacts.run()
    assert (result.status, result.counts()) == (1, (1, 0, 1))
    assert "Multiple existing users" in result.error_log
    assert sent(sandbox) == ["POST /contacts 409", "POST /contacts 200"]


def test_a_conflict_that_never_ends_ends_with_the_row(contacts: Project, sandbox: Sandbox) -> None:
    message = "A contact matching those details already exists with id=c1"
    sandbox.contacts["c1"] = {"external_id": "other", "role": "user"}
    conflict = Fault(status=409, code="conflict", message=message)
    sandbox.fault_for = lambda one: conflict if one.body.get("external_id") == "u1" else None
    contacts.write("user_id,name\nu1,Ada\nu2,Bob\n")
    result = contacts.run()
    assert (result.status, result.counts()) == (1, (1, 0, 1))
    assert len(sandbox.requests) == 3


#### Rows that carry Intercom's own id


def test_a_row_with_id_is_updated_straight_away(contacts: Project, sandbox: Sandbox) -> None:
    sandbox.contacts["c1"] = {"external_id": "u1", "role": "user", "name": "Old"}
    contacts.write("id,user_id,name\nc1,new,New\n")
    assert contacts.run().status == 0
    assert sent(sandbox) == ["PUT /contacts/c1 200"]
    assert sandbox.requests[0].body == {"external_id": "new", "name": "New"}


@pytest.mark.parametrize("skip", ["true", "false"])
def test_an_id_that_intercom_does_not_know_is_the_matter_of_its_row_alone(
    contacts: Project, sandbox: Sandbox, skip: str
) -> None:
    sandbox.contacts["c2"] = {"external_id": "u2", "role": "user"}
    contacts.configure(intercom={"skip_unchanged": skip})
    contacts.write("id,user_id,name\nc1,u1,Ada\nc2,u2,Bob\n,u3,Cy\n")
    result = contacts.run()
    assert (result.status, result.counts()) == (1, (2, 0, 1))
    assert sent(sandbox) == [
        "PUT /contacts/c1 404",
        "PUT /contacts/c2 200",
        "POST /contacts 200",
    ]
    assert result.not_imported_rows()[1:] == [["c1", "u1", "Ada"]]
    assert "404" in result.error_log


ODD_IDS = ["a/b", "a?b=c", "a#b", "50%", "%2e", "..", ".", "ü ñ", "a\\b", 'a"b', "a;b", "a\tb"]


def test_ids_of_odd_characters_stay_in_their_place_of_the_path(
    contacts: Project, sandbox: Sandbox
) -> None:
    for known in ODD_IDS:
        sandbox.contacts[known] = {"email": "a@example.com", "external_id": known, "role": "user"}
    cells = [known.replace('"', '""') for known in ODD_IDS]
    contacts.write("id,name\n" + "".join(f'"{cell}",Ada\n' for cell in cells))
    result = contacts.run()
    assert (result.status, result.counts()) == (0, (len(ODD_IDS), 0, 0)), result
    for known, request in zip(ODD_IDS, sandbox.requests, strict=True):
        assert unquote(request.path) == f"/contacts/{known}"
        assert request.path.count("/") == 2
        assert not request.query
        assert sandbox.contacts[known]["name"] == "Ada"


#### The check of custom attributes

ALL_KINDS = {
    "plan": "plan",
    "bookings": "bookings : integer",
    "rating": "rating : float",
    "booked_at": "booked_at : timestamp",
    "owner": "owner : boolean",
}
ALL_CSV = "user_id,plan,bookings,rating,booked_at,owner\nu1,gold,1,4.5,2026-01-02,yes\n"


def test_attributes_that_fit_are_sent(contacts: Project, sandbox: Sandbox) -> None:
    sandbox.attributes = {**ATTRIBUTES, "owner": "boolean"}
    contacts.configure(custom_attributes=ALL_KINDS)
    contacts.write(ALL_CSV)
    result = contacts.run()
    assert result.status == 0, result
    assert sandbox.requests[0].query == {"model": "contact"}
    assert sent(sandbox) == ["GET /data_attributes 200", "POST /contacts 200"]
    expected = {"plan": "gold", "bookings": 1, "rating": 4.5, "booked_at": 1767312000}
    assert sandbox.find(external_id="u1")[0]["custom_attributes"] == {**expected, "owner": True}


WRONG: dict[str, tuple[dict[str, str], tuple[str, ...], Iterable[str]]] = {
    "missing": ({}, (), dict.fromkeys(ALL_KINDS)),
    "of another type": (
        {
            "plan": "integer",
            "bookings": "float",
            "rating": "string",
            "booked_at": "boolean",
            "owner": "date",
        },
        (),
        ALL_KINDS,
    ),
    "archived": ({**ATTRIBUTES, "owner": "boolean"}, ("plan", "owner"), ("plan", "owner")),
    "one of five": ({**ATTRIBUTES}, (), ("owner",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_attributes_that_do_not_fit_stop_the_run_before_the_first_user(
    contacts: Project, sandbox: Sandbox, case: str
) -> None:
    sandbox.attributes, sandbox.archived_attributes, wrong = (
        dict(WRONG[case][0]),
        set(WRONG[case][1]),
        list(WRONG[case][2]),
    )
    contacts.configure(custom_attributes=ALL_KINDS)
    contacts.write(ALL_CSV)
    result = contacts.run()
    assert result.status == 1
    assert sent(sandbox) == ["GET /data_attributes 200"]
    assert not sandbox.contacts
    kinds = {**ATTRIBUTES, "owner": "boolean"}
    (line,) = [line for line in result.err.splitlines() if "plan" in line or "owner" in line]
    told = {name: part for part in line.split(";") for name in kinds if name in part.split()}
    assert told.keys() == set(wrong)
    assert all(kinds[name] in part for name, part in told.items()), told
    assert all(name in result.error_log for name in wrong)


@pytest.mark.parametrize("section", [{}, {"plan": ""}], ids=["none", "blank"])
def test_without_custom_attributes_there_is_no_check(
    contacts: Project, sandbox: Sandbox, section: dict[str, str]
) -> None:
    contacts.configure(custom_attributes=section)
    contacts.users(1)
    assert contacts.run().status == 0
    assert sent(sandbox) == ["POST /contacts 200"]


def test_users_of_1_4_need_no_check(project: Project, sandbox: Sandbox) -> None:
    project.configure(custom_attributes={"plan": "plan"})
    project.write("user_id,plan\nu1,gold\n")
    assert project.run().status == 0
    assert sent(sandbox) == ["POST /users 200"]


@pytest.mark.parametrize(
    "fault",
    [Fault(status=503), Fault(status=429), Fault(drop=True), Fault(body=b'{"data": [', cut=True)],
    ids=["503", "429", "drop", "cut"],
)
def test_the_check_is_tried_again(contacts: Project, sandbox: Sandbox, fault: Fault) -> None:
    sandbox.attributes = dict(ATTRIBUTES)
    sandbox.faults = [fault, fault]
    contacts.configure(custom_attributes={"plan": "plan"})
    contacts.write("user_id,plan\nu1,gold\n")
    result = contacts.run()
    assert result.status == 0, result
    assert [one.path for one in sandbox.requests] == [*["/data_attributes"] * 3, "/contacts"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=401),
        Fault(status=403),
        Fault(status=503),
        Fault(body=b"<html>hello</html>"),
        Fault(body=b'{"type": "list", "data": {"plan": 1}}'),
        Fault(body=b'{"type": "list", "data": null}'),
        Fault(body=b'{"type": "list", "data": [null, 1, "plan"]}'),
        Fault(body=b'{"data": [{"name": "plan", "data_type": "string", "custom": false}]}'),
        Fault(
            body=b'{"data": [{"name": "plan", "data_type": "string", "custom": true,'
            b' "archived": true}]}'
        ),
    ],
    ids=["401", "403", "503", "HTML", "a hash", "null", "things", "not custom", "archived"],
)
def test_a_check_with_an_answer_of_no_use_stops_the_run(
    contacts: Project, sandbox: Sandbox, fault: Fault
) -> None:
    sandbox.attributes = dict(ATTRIBUTES)
    sandbox.fault_for = lambda one: fault if one.path == "/data_attributes" else None
    contacts.configure(custom_attributes={"plan": "plan"}, intercom={"retries": 2})
    contacts.write("user_id,plan\nu1,gold\n")
    result = contacts.run()
    assert result.status == 1
    assert not sandbox.contacts
    assert "Traceback" not in result.err
    assert result.err.count("\n") == 1


def test_both_spellings_of_the_url_find_the_attributes(contacts: Project, sandbox: Sandbox) -> None:
    sandbox.attributes = dict(ATTRIBUTES)
    url = sandbox.contacts_url.replace("127.0.0.1", "localhost")
    contacts.configure(intercom={"user_url": url}, custom_attributes={"plan": "plan"})
    contacts.write("user_id,plan\nu1,gold\n")
    assert contacts.run().status == 0
    assert {one.headers["Host"].partition(":")[0] for one in sandbox.requests} == {"localhost"}


#### Ids that are remembered


def rows(name: str, count: int = 3) -> str:
    return "user_id,name\n" + "".join(f"u{n},{name} {n}\n" for n in range(1, count + 1))


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("known", [True, False], ids=["known before", "new"])
def test_a_second_run_costs_one_request_a_user(
    contacts: Project, sandbox: Sandbox, known: bool, concurrency: int
) -> None:
    for number in range(1, 4 if known else 1):
        sandbox.contacts[f"c{number}"] = {"external_id": f"u{number}", "role": "user"}
    contacts.configure(intercom={"skip_unchanged": "true", "concurrency": concurrency})
    contacts.write(rows("Old"))
    assert contacts.run().status == 0
    ids = {one["external_id"]: one["id"] for one in sandbox.contacts.values()}
    sandbox.requests.clear()

    contacts.write(rows("New"))
    result = contacts.run()
    assert (result.status, result.counts()) == (0, (3, 0, 0))
    assert sorted(sent(sandbox)) == sorted(f"PUT /contacts/{one} 200" for one in ids.values())
    assert {one["name"] for one in sandbox.contacts.values()} == {"New 1", "New 2", "New 3"}

    result = contacts.run()
    assert (result.status, result.counts()) == (0, (0, 3, 0))
    assert len(sandbox.requests) == 3


def test_a_remembered_contact_that_is_gone_is_created_anew(
    contacts: Project, sandbox: Sandbox
) -> None:
    contacts.configure(intercom={"skip_unchanged": "true"})
    contacts.write(rows("Old"))
    assert contacts.run().status == 0
    gone = sandbox.find(external_id="u2")[0]["id"]
    del sandbox.contacts[gone]
    sandbox.requests.clear()

    contacts.write(rows("New"))
    result = contacts.run()
    assert (result.status, result.counts()) == (0, (3, 0, 0))
    assert sent(sandbox)[1:3] == [f"PUT /contacts/{gone} 404", "POST /contacts 200"]
    assert len(sandbox.requests) == 4
    assert sandbox.requests[2].body["role"] == "user"
    (new,) = sandbox.find(external_id="u2", name="New 2")

    sandbox.requests.clear()
    contacts.write(rows("Newer"))
    assert contacts.run().status == 0
    assert sent(sandbox)[1] == f"PUT /contacts/{new['id']} 200"


def test_a_remembered_contact_that_became_another_is_found(
    contacts: Project, sandbox: Sandbox
) -> None:
    contacts.configure(intercom={"skip_unchanged": "true"})
    contacts.write(rows("Old", 1))
    assert contacts.run().status == 0
    sandbox.contacts.clear()
    sandbox.contacts["c8"] = {"external_id": "u8", "role": "user"}
    sandbox.contacts["c9"] = {"external_id": "u1", "role": "user"}
    contacts.write(rows("New", 1))
    result = contacts.run()
    assert (result.status, result.counts()) == (0, (1, 0, 0))
    assert sandbox.contacts["c9"]["name"] == "New 1"


def test_ids_of_one_workspace_are_not_used_in_another(contacts: Project, sandbox: Sandbox) -> None:
    contacts.configure(intercom={"skip_unchanged": "true"})
    contacts.write(rows("Old", 1))
    assert contacts.run().status == 0
    with Sandbox() as other:
        contacts.configure(intercom={"user_url": other.contacts_url})
        contacts.write(rows("New", 1))
        assert contacts.run().status == 0
        assert sent(other) == ["POST /contacts 200"]


def test_ids_are_not_remembered_where_nothing_is(contacts: Project, sandbox: Sandbox) -> None:
    contacts.write(rows("Old", 1))
    assert contacts.run().status == 0
    contacts.write(rows("New", 1))
    assert contacts.run().status == 0
    methods = [one.method for one in sandbox.requests]
    assert methods == ["POST", "POST", "PUT"]
    assert not list(contacts.folder.glob("*.sqlite3*"))


def test_a_file_of_the_same_contact_twice_creates_it_once(
    contacts: Project, sandbox: Sandbox
) -> None:
    sandbox.latency = 0.02
    contacts.configure(intercom={"skip_unchanged": "true", "concurrency": 8})
    contacts.write("user_id,name\n" + "".join(f"u{n % 3},Name {n}\n" for n in range(12)))
    result = contacts.run()
    assert (result.status, result.counts()) == (0, (12, 0, 0))
    assert len(sandbox.contacts) == 3
    last = {f"u{n % 3}": f"Name {n}" for n in range(12)}
    assert {one["external_id"]: one["name"] for one in sandbox.contacts.values()} == last


def test_a_dry_run_asks_nobody(contacts: Project, sandbox: Sandbox) -> None:
    contacts.configure(custom_attributes={"plan": "plan"})
    contacts.write("user_id,plan\nu1,gold\n")
    result = contacts.run("--dry-run")
    assert result.status == 0, result
    assert not sandbox.requests
    (line,) = result.out.splitlines()
    expected = {"role": "user", "external_id": "u1", "custom_attributes": {"plan": "gold"}}
    assert json.loads(line) == expected


def test_a_conflict_with_another_contact_is_not_called_archived(
    project: Project, sandbox: Sandbox
) -> None:
    """The row's id is one contact's, its email another's."""
    project.configure(intercom={"user_url": sandbox.contacts_url, "api_version": None})
    project.write("id,email\nc1,new@example.com\n")
    message = "A contact matching those details already exists with id=c2"
    sandbox.faults = [Fault(status=409, code="conflict", message=message)]
    result = project.run()
    assert result.counts() == (0, 0, 1)
    assert message in result.error_log
    assert "archived" not in result.error_log
