"""Contacts, Intercom's API 2.x: created, found and updated by id, and checked beforehand."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from urllib.parse import unquote

import pytest
from conftest import Project, Result, lines_of
from sandbox import Fault, Sandbox


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
    """By e-mail alone it would be a lead otherwise."""
    contacts.write("user_id,email,name\nu1,Ada@Example.com,Ada\n,bob@example.com,\n")
    assert contacts.run().status == 0
    assert {(one.method, one.path) for one in sandbox.requests} == {("POST", "/contacts")}
    assert [one.body for one in sandbox.requests] == [
        {"role": "user", "external_id": "u1", "email": "Ada@Example.com", "name": "Ada"},
        {"role": "user", "email": "bob@example.com"},
    ]


USER_CSV = (
    "user_id,email,signed_up_at,name,last_seen_ip,last_seen_user_agent,last_request_at,"
    "unsubscribed_from_emails,update_last_request_at,new_session\n"
    "u1,a@example.com,1600000000,Ada,192.0.2.1,Mozilla,2026-01-02,yes,no,yes\n"
    "u2,b@example.com,1600000001,Bob,192.0.2.2,Lynx,2026-01-03,no,no,no\n"
)
MAPPED = dict.fromkeys(USER_CSV.partition("\n")[0].split(","))


@pytest.mark.parametrize("section", [{}, {name: name for name in MAPPED}], ids=["empty", "full"])
def test_fields_are_renamed_or_left_out_and_that_is_said_once(
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
        assert len(lines_of(result.debug_log, name)) == 1, name


def test_update_last_request_at_is_last_seen_at_now(contacts: Project, sandbox: Sandbox) -> None:
    contacts.write("user_id,last_request_at,update_last_request_at\nu1,1600000000,true\n")
    before = int(time.time())
    assert contacts.run().status == 0
    (request,) = sandbox.requests
    assert request.body.keys() == {"role", "external_id", "last_seen_at"}
    assert before <= request.body["last_seen_at"] <= time.time()


def test_a_dry_run_prints_the_bodies_that_are_sent(contacts: Project, sandbox: Sandbox) -> None:
    sandbox.attributes = {"plan": "string", "bookings": "integer"}
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

BOTH = "u{0},u{0}@x.eu,New"
# the contact, the row, and what is asked of Intercom after its 409
CONFLICTS: list[tuple[dict[str, str], str, list[str]]] = [
    ({"external_id": "u1", "email": "u1@x.eu"}, BOTH, ["GET", "PUT"]),
    ({"external_id": "u2", "email": "old@x.eu"}, BOTH, ["GET", "PUT"]),
    ({"email": "u3@x.eu"}, BOTH, ["GET", "PUT"]),
    ({"email": "u4@x.eu", "role": "lead"}, BOTH, ["GET", "PUT"]),
    ({"external_id": "u5"}, "u{0},,New", ["PUT"]),
    ({"external_id": "other", "email": "u6@x.eu"}, ",U{0}@X.eu,New", ["PUT"]),
    ({"external_id": "others", "email": "u7@x.eu"}, BOTH, ["GET"]),
    ({"external_id": "U8", "email": "u8@x.eu"}, BOTH, ["GET"]),
]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("unarchive", [None, "true", "false"])
def test_a_contact_is_updated_unless_it_is_somebody_elses_or_archived(
    contacts: Project, sandbox: Sandbox, unarchive: str | None, concurrency: int
) -> None:
    """Where unarchive is set, all of them are archived."""
    for number, (contact, _, _) in enumerate(CONFLICTS, 1):
        archived = {"archived": True} if unarchive else {}
        sandbox.contacts[f"c{number}"] = {"role": "user", **contact, "name": "Old", **archived}
    rows = [row.format(number) for number, (_, row, _) in enumerate(CONFLICTS, 1)]
    contacts.configure(intercom={"unarchive": unarchive, "concurrency": concurrency})
    contacts.write("\n".join(["user_id,email,name", *rows]))
    result = contacts.run()
    left = rows if unarchive == "false" else rows[-2:]
    assert (result.status, result.counts()) == (1, (8 - len(left), 0, len(left))), result
    kind = "an archived contact" if unarchive == "false" else "the e-mail of another contact"
    assert f"\n{len(left)} x {kind}\n" in result.out
    assert len(sandbox.contacts) == 8
    for number, (before, row, asked) in enumerate(CONFLICTS, 1):
        own = [one for one in sandbox.requests if f"/c{number}" in one.path]
        contact, is_left = sandbox.contacts[f"c{number}"], row.format(number) in left
        expected = [] if unarchive == "false" else ["POST"] * bool(unarchive) + asked
        assert [one.method for one in own] == expected, row
        assert contact["name"] == ("Old" if is_left else "New")
        if is_left:
            reason = "archived" if unarchive == "false" else before["external_id"]
            assert lines_of(result.error_log, f"line {number + 1} ", f"c{number}", reason)
        else:
            user_id = row.format(number).partition(",")[0]
            assert contact["external_id"] == (user_id or "other")
            assert own[-1].body.get("role") == ("user" if "role" in before else None)
            assert contact["role"] == "user"


EXISTS = "A contact matching those details already exists with id="
LONG = "c" * 300
WITH_IDS: dict[str, Fault] = {
    "0": Fault(message=f"{EXISTS}0."),
    "a-b_C": Fault(message=f"{EXISTS}a-b_C, so update it"),
    "6762f0": Fault(message=f"({EXISTS}6762f0)"),
    "c4": Fault(message=f"'{EXISTS}c4'; see {{the docs}}"),
    LONG: Fault(message=f"{'x' * 5000} {EXISTS}{LONG}"),
    "x-sandbox-token-0123456789-y": Fault(message=f"{EXISTS}x-sandbox-token-0123456789-y!"),
    "c6": Fault(body=json.dumps({"errors": [f"{EXISTS}c6\n"]}).encode()),
    "c7": Fault(body=json.dumps({"errors": {"message": f"{EXISTS}c7"}}).encode()),
}


def test_the_id_of_a_contact_is_read_from_the_json(contacts: Project, sandbox: Sandbox) -> None:
    """Whatever stands around it, whole, and though it is a secret that no log shows."""
    faults = {}
    for number, (known, fault) in enumerate(WITH_IDS.items()):
        sandbox.contacts[known] = {"external_id": f"other{number}"}
        faults[f"u{number}"] = replace(fault, status=409, chunk=1)
    sandbox.fault_for = lambda one: faults.pop(one.body["external_id"], None)
    contacts.write("user_id,name\n" + "".join(f"{user_id},New\n" for user_id in faults))
    result = contacts.run()
    assert (result.status, result.counts()) == (0, (len(WITH_IDS), 0, 0)), result
    assert sent(sandbox)[1::2] == [f"PUT /contacts/{known} 200" for known in WITH_IDS]
    assert "sandbox-token" not in result.debug_log


NO_IDS = {
    "page": Fault(body=f"<html>{EXISTS}c1</html>".encode()),
    "text": Fault(body=f"{EXISTS}c1".encode()),
    "no list": Fault(body=json.dumps({"message": f"{EXISTS}c1"}).encode()),
    "no id": Fault(message=f"{EXISTS}"),
    "no such id": Fault(message=f"{EXISTS}/../c1"),
    "other conflict": Fault(message="Multiple existing users match this email address; id=c1"),
    "takes ages to search": Fault(message="A contact matching " * 50_000),
}


def test_what_only_looks_like_such_an_answer_is_none(contacts: Project, sandbox: Sandbox) -> None:
    sandbox.contacts["c1"] = {"external_id": "other"}
    sandbox.faults = [replace(fault, status=409) for fault in NO_IDS.values()]
    contacts.users(len(NO_IDS) + 1)
    result = contacts.start().wait(25)
    assert (result.status, result.counts()) == (1, (1, 0, len(NO_IDS))), result
    assert set(sent(sandbox)) == {"POST /contacts 409", "POST /contacts 200"}


def test_each_request_for_a_contact_is_tried_again(contacts: Project, sandbox: Sandbox) -> None:
    """A page in place of a contact is none."""
    sandbox.contacts["c1"] = {"external_id": "u1", "archived": True}
    troubles = [Fault(status=503), Fault(drop=True), Fault(status=200, body=b"<html></html>")]
    sandbox.faults = [Fault(), *troubles, Fault(), *troubles, Fault(), *troubles]
    contacts.configure(intercom={"unarchive": "true"})
    contacts.write("user_id,email,name\nu1,u1@x.eu,New\n")
    assert contacts.run().status == 0
    asked = ("POST /contacts/c1/unarchive", "GET /contacts/c1", "PUT /contacts/c1")
    steps = [f"{step} {status}" for step in asked for status in (503, 0, 200, 200)]
    assert sent(sandbox) == ["POST /contacts 409", *steps]
    assert sandbox.contacts["c1"]["name"] == "New"


def test_a_creation_whose_answer_is_lost_is_not_repeated(contacts: Project) -> None:
    contacts.sandbox.faults = [Fault(acts=True, drop=True)]
    contacts.users(1)
    assert contacts.run().counts() == (1, 0, 0)
    assert len(contacts.sandbox.contacts) == 1


def test_an_archived_contact_is_an_answer_of_intercoms(contacts: Project, sandbox: Sandbox) -> None:
    """So it isn't down: the first and third users use up their retries, not two in a row."""
    sandbox.contacts["c2"] = {"external_id": "u2", "archived": True}
    sandbox.faults_of = {"u1": Fault(status=503), "u3": Fault(status=503)}
    contacts.configure(intercom={"retries": 0})
    contacts.users(4)
    assert contacts.run().counts() == (1, 0, 3)
    sandbox.faults_of["u4"] = Fault(status=503)
    contacts.users(5)
    assert contacts.run().counts() == (0, 0, 5)


@pytest.mark.parametrize("then", [404, 409, 410])
def test_a_conflict_that_does_not_end_ends_with_its_row(
    contacts: Project, sandbox: Sandbox, then: int
) -> None:
    exists = f"{EXISTS}c1"
    sandbox.faults = [Fault(status=409, message=exists), Fault(status=then, message=exists)]
    contacts.configure(intercom={"skip_unchanged": "true"})
    contacts.write("user_id,name\nu1,Ada\nu2,Bob\n")
    assert contacts.run().counts() == (1, 0, 1)
    assert sent(sandbox) == ["POST /contacts 409", f"PUT /contacts/c1 {then}", "POST /contacts 200"]


#### Rows that carry Intercom's own id


@pytest.mark.parametrize("skip", ["true", "false"])
@pytest.mark.parametrize(("version", "status"), [("2.14", 404), ("2.16", 410)])
def test_a_row_with_an_id_is_updated_straight_away_or_is_not_imported(
    contacts: Project, sandbox: Sandbox, version: str, status: int, skip: str
) -> None:
    """Where Intercom doesn't know the id, that concerns this row alone."""
    sandbox.contacts["c1"] = {"merged_into": "c2"}
    sandbox.contacts["c2"] = {"external_id": "u2", "role": "user"}
    contacts.configure(intercom={"skip_unchanged": skip, "api_version": version})
    contacts.write("id,user_id,name\nc1,u1,Ada\nc2,u2,Bob\n,u3,Cy\n")
    result = contacts.run()
    assert (result.status, result.counts()) == (1, (2, 0, 1))
    asked = [f"PUT /contacts/c1 {status}", "PUT /contacts/c2 200", "POST /contacts 200"]
    assert sent(sandbox) == asked
    assert sandbox.requests[1].body == {"external_id": "u2", "name": "Bob"}
    assert result.not_imported_rows()[1:] == [["c1", "u1", "Ada"]]
    assert str(status) in result.error_log


@pytest.mark.parametrize("status", [405, 406])
def test_what_is_said_of_an_ids_url_stops_no_run(
    contacts: Project, sandbox: Sandbox, status: int
) -> None:
    sandbox.faults = [Fault(status=status)]
    contacts.write("id,user_id\nc1,u1\n,u2\n")
    assert contacts.run().counts() == (1, 0, 1)


def test_a_conflict_of_a_row_with_an_id_fails_the_row(contacts: Project, sandbox: Sandbox) -> None:
    """The id in the answer is another contact's."""
    sandbox.contacts["c1"] = {"external_id": "u1"}
    sandbox.contacts["c2"] = {"email": "new@example.com"}
    contacts.configure(intercom={"unarchive": "true"})
    contacts.write("id,email\nc1,new@example.com\n")
    result = contacts.run()
    assert result.counts() == (0, 0, 1)
    assert sent(sandbox) == ["PUT /contacts/c1 409"]
    assert f"{EXISTS}c2" in result.error_log
    assert "archived" not in result.error_log


ODD_IDS = ["a/b", "a?b=c", "a#b", "50%", "%2e", "..", ".", "ü ñ", "a\\b", 'a"b', "a;b", "a\tb"]


def test_ids_of_odd_characters_stay_in_the_path(contacts: Project, sandbox: Sandbox) -> None:
    for known in ODD_IDS:
        sandbox.contacts[known] = {"type": "contact", "external_id": known}
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

ATTRIBUTES = {"plan": "string", "bookings": "integer", "rating": "float", "booked_at": "date"}
KINDS = {**ATTRIBUTES, "owner": "boolean"}


@pytest.fixture
def of_all_kinds(contacts: Project) -> Project:
    """A project with a custom attribute of each type, and a user who has them."""
    mapped = {"plan": "plan", "bookings": "bookings : integer", "rating": "rating : float"}
    mapped |= {"booked_at": "booked_at : timestamp", "owner": "owner : boolean"}
    contacts.configure(custom_attributes=mapped)
    contacts.write("user_id,plan,bookings,rating,booked_at,owner\nu1,gold,1,4.5,2026-01-02,yes\n")
    return contacts


@pytest.mark.parametrize("others", [{}, {"bookings": "float", "booked_at": "datetime"}])
def test_attributes_that_fit_are_sent(
    of_all_kinds: Project, sandbox: Sandbox, others: dict[str, str]
) -> None:
    sandbox.attributes = KINDS | others
    result = of_all_kinds.run()
    assert result.status == 0, result
    assert sandbox.requests[0].query == {"model": "contact"}
    assert sent(sandbox) == ["GET /data_attributes 200", "POST /contacts 200"]
    expected = {"plan": "gold", "bookings": 1, "rating": 4.5, "booked_at": 1767312000}
    assert sandbox.find(external_id="u1")[0]["custom_attributes"] == {**expected, "owner": True}


OTHERS = {"plan": "integer", "bookings": "string", "rating": "integer", "booked_at": "float"}
# the workspace's attributes, those that are archived, and those that are named
WRONG: dict[str, tuple[dict[str, str], set[str], set[str]]] = {
    "missing": ({}, set(), {*KINDS}),
    "of another type": ({**OTHERS, "owner": "date"}, set(), {*KINDS}),
    "archived": (KINDS, {"plan", "owner"}, {"plan", "owner"}),
    "one of five": (ATTRIBUTES, set(), {"owner"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_attributes_that_do_not_fit_stop_the_run_before_the_first_user(
    of_all_kinds: Project, sandbox: Sandbox, case: str
) -> None:
    attributes, sandbox.archived_attributes, wrong = WRONG[case]
    sandbox.attributes = dict(attributes)
    result = of_all_kinds.run()
    assert result.status == 1
    assert sent(sandbox) == ["GET /data_attributes 200"]
    assert not sandbox.contacts
    (line,) = result.err.splitlines()
    told = {name: part for part in line.split(";") for name in KINDS if name in part.split()}
    assert told.keys() == wrong
    assert all(KINDS[name] in part for name, part in told.items()), told
    assert all(name in result.error_log for name in wrong)


def test_create_attributes_makes_what_is_missing(of_all_kinds: Project, sandbox: Sandbox) -> None:
    sandbox.attributes = {"plan": "string", "bookings": "float"}
    of_all_kinds.configure(intercom={"create_attributes": "true"})
    dry = of_all_kinds.run("--dry-run")
    assert (dry.status, sandbox.requests) == (0, [])
    sandbox.faults = [Fault(), Fault(status=503), Fault(status=200, body=b"<html></html>")]
    result = of_all_kinds.run()
    assert (result.status, result.counts()) == (0, (1, 0, 0)), result
    made = {name: KINDS[name] for name in ("rating", "booked_at", "owner")}
    assert sandbox.attributes == {"plan": "string", "bookings": "float", **made}
    for name in KINDS:
        assert bool(lines_of(result.debug_log, f" {name} ", "made")) == (name in made)
    assert of_all_kinds.run().status == 0
    asked = [one.method for one in sandbox.requests if one.path == "/data_attributes"]
    assert asked == ["GET", *["POST"] * 5, "GET"]


REFUSED_ATTRIBUTES = {
    "a name": ({"100%": "plan"}, None, "alphanumeric"),
    "archived": ({"gone": "plan"}, None, "already have"),
    "a page": ({"new": "plan"}, Fault(status=200, body=b"<html></html>"), "200"),
    "another's": ({"new": "plan"}, Fault(status=200, body=b'{"name": "other"}'), "200"),
    "no right to": ({"new": "plan"}, Fault(status=403), "403"),
}


@pytest.mark.parametrize("case", REFUSED_ATTRIBUTES)
def test_an_attribute_that_cannot_be_made_stops_the_run(
    contacts: Project, sandbox: Sandbox, case: str
) -> None:
    section, fault, word = REFUSED_ATTRIBUTES[case]
    sandbox.archived_attributes = {"gone"}
    sandbox.fault_for = lambda one: fault if one.body else None
    contacts.configure(custom_attributes=section)
    contacts.configure(intercom={"create_attributes": "true", "retries": 1})
    contacts.write("user_id,plan\nu1,gold\n")
    result = contacts.run()
    assert (result.status, result.not_imported) == (1, [])
    assert not sandbox.contacts
    assert {one.path for one in sandbox.requests} == {"/data_attributes"}
    (line,) = lines_of(result.err, next(iter(section)))
    assert word in line


@pytest.mark.parametrize(("dialect", "plan"), [("contacts", ""), ("users", "name")])
def test_without_custom_attributes_of_contacts_there_is_no_check(
    project: Project, dialect: str, plan: str
) -> None:
    url = f"{project.sandbox.url}/{dialect}"
    project.configure(intercom={"user_url": url}, custom_attributes={"plan": plan})
    project.users(1)
    assert project.run().status == 0
    assert sent(project.sandbox) == [f"POST /{dialect} 200"]


def test_the_check_is_tried_again(of_all_kinds: Project, sandbox: Sandbox) -> None:
    sandbox.attributes = dict(KINDS)
    sandbox.faults = [Fault(status=status) for status in (503, 429)]
    sandbox.faults += [Fault(drop=True), Fault(body=b'{"data": [', cut=True)]
    result = of_all_kinds.run()
    assert result.status == 0, result
    assert [one.path for one in sandbox.requests] == [*["/data_attributes"] * 5, "/contacts"]


PLAN = {"name": "plan", "data_type": "string", "custom": True}
NO_LISTS: dict[str, object] = {
    "a hash": {"plan": 1},
    "null": None,
    "things": [None, 1, "plan", {"name": 7, "custom": True}],
    "names": [{**PLAN, "name": ["plan"], "data_type": {}}],
    "types": [{**PLAN, "data_type": ["string"]}],
    "not custom": [{**PLAN, "custom": False}],
    "archived": [{**PLAN, "archived": True}],
}
OF_NO_USE = {str(status): Fault(status=status) for status in (401, 403, 503)}
OF_NO_USE["HTML"] = Fault(body=b"<html>hello</html>")
for case, data in NO_LISTS.items():
    OF_NO_USE[case] = Fault(body=json.dumps({"type": "list", "data": data}).encode())


@pytest.mark.parametrize("fault", OF_NO_USE.values(), ids=OF_NO_USE)
def test_a_check_with_an_answer_of_no_use_stops_the_run(
    contacts: Project, sandbox: Sandbox, fault: Fault
) -> None:
    sandbox.attributes = {"plan": "string"}
    sandbox.fault_for = lambda one: fault if one.path == "/data_attributes" else None
    contacts.configure(custom_attributes={"plan": "plan"}, intercom={"retries": 2})
    contacts.write("user_id,plan\nu1,gold\n")
    result = contacts.run()
    assert result.status == 1
    assert not sandbox.contacts
    assert (result.err.count("\n"), "nobody foresaw" in result.err) == (1, False), result.err


#### Ids that are remembered


@pytest.fixture
def skipping(contacts: Project) -> Project:
    """A project with skip_unchanged."""
    contacts.configure(intercom={"skip_unchanged": "true"})
    return contacts


def run_named(project: Project, name: str, count: int = 3) -> Result:
    """How a run ended with users of this name."""
    rows = "".join(f"u{n},{name} {n}\n" for n in range(1, count + 1))
    project.write("user_id,name\n" + rows)
    return project.run()


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("known", [True, False], ids=["known before", "new"])
def test_a_second_run_costs_one_request_a_user(
    skipping: Project, sandbox: Sandbox, known: bool, concurrency: int
) -> None:
    for number in range(1, 4 if known else 1):
        sandbox.contacts[f"c{number}"] = {"external_id": f"u{number}", "role": "user"}
    skipping.configure(intercom={"concurrency": concurrency})
    assert run_named(skipping, "Old").status == 0
    assert len(sandbox.contacts) == 3
    sandbox.requests.clear()
    assert run_named(skipping, "New").counts() == (3, 0, 0)
    assert sorted(sent(sandbox)) == sorted(f"PUT /contacts/{one} 200" for one in sandbox.contacts)
    assert {one["name"] for one in sandbox.contacts.values()} == {"New 1", "New 2", "New 3"}
    assert run_named(skipping, "New").counts() == (0, 3, 0)
    assert len(sandbox.requests) == 3


@pytest.mark.parametrize(("version", "status"), [("", 404), ("2.14", 404), ("2.16", 410)])
def test_a_remembered_contact_that_is_gone_is_asked_for_anew(
    skipping: Project, sandbox: Sandbox, version: str, status: int
) -> None:
    """Deleted, or merged into another."""
    skipping.configure(intercom={"api_version": version})
    assert run_named(skipping, "Old").status == 0
    gone = sandbox.find(external_id="u2")[0]["id"]
    sandbox.contacts[gone] = {"id": gone, "merged_into": "other"}
    if not version:
        del sandbox.contacts[gone]
    sandbox.requests.clear()
    sandbox.faults = [Fault(), Fault(), Fault(status=422)]
    for name, counts, asked in (
        ("New", (2, 0, 1), [f"PUT /contacts/{gone} {status}", "POST /contacts 422"]),
        ("Newer", (3, 0, 0), ["POST /contacts 200"]),
    ):
        assert run_named(skipping, name).counts() == counts
        assert sent(sandbox)[1:-1] == asked
        sandbox.requests.clear()
    (new,) = sandbox.find(external_id="u2", name="Newer 2", role="user")
    assert run_named(skipping, "Newest").status == 0
    assert sent(sandbox)[1] == f"PUT /contacts/{new['id']} 200"


def test_a_contact_that_became_another_is_found(skipping: Project, sandbox: Sandbox) -> None:
    assert run_named(skipping, "Old", 1).status == 0
    sandbox.contacts.clear()
    sandbox.contacts["c8"] = {"external_id": "u8", "role": "user"}
    sandbox.contacts["c9"] = {"external_id": "u1", "role": "user"}
    assert run_named(skipping, "New", 1).counts() == (1, 0, 0)
    assert sandbox.contacts["c9"]["name"] == "New 1"


def test_ids_of_one_workspace_are_not_used_in_another(skipping: Project) -> None:
    assert run_named(skipping, "Old", 1).status == 0
    with Sandbox() as other:
        skipping.configure(intercom={"user_url": other.contacts_url})
        assert run_named(skipping, "New", 1).status == 0
        assert sent(other) == ["POST /contacts 200"]
