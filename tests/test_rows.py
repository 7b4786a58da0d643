"""From a row to a user: fields, headings, delimiters, encodings, quotes, line ends, damaged rows.

What a cell means is in test_cells.py, what stops a run in test_first_reading.py."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import Project, imported, line_of, sent

HEADING = "user_id,email,name\n"


#### Fields and their types


# its type where the settings name one, a cell, and what is sent
FIELDS: dict[str, tuple[str, str, Any]] = {
    "user_id": ("", "17", "17"),
    "email": ("", "ada@example.com", "ada@example.com"),
    "signed_up_at": ("", "1760000000", 1760000000),
    "name": ("", "Ada", "Ada"),
    "last_seen_ip": ("", "10.0.0.1", "10.0.0.1"),
    "last_seen_user_agent": ("", "Firefox" * 99, "Firefox" * 99),
    "last_request_at": ("", "2026-01-02", 1767312000),
    "unsubscribed_from_emails": ("", "yes", True),
    "update_last_request_at": ("", "no", False),
    "new_session": ("", "1", True),
}
ATTRIBUTES: dict[str, tuple[str, str, Any]] = {
    "plan": ("", "gold", "gold"),
    "nick": (" : string", "42", "42"),
    "bookings": (" : integer", "7", 7),
    "rating": (":float", "4.5", 4.5),
    "owner": (" :boolean", "off", False),
    "booked_at": (": timestamp", "2026-01-02T03:04Z", 1767323040),
}


def test_every_field_arrives_in_its_type(project: Project) -> None:
    project.configure(
        user={name: f"the {name}" for name in FIELDS},
        custom_attributes={name: f"the {name}{kind}" for name, (kind, *_) in ATTRIBUTES.items()},
    )
    columns = FIELDS | ATTRIBUTES
    headings, cells = [f"the {name}" for name in columns], [cell for _, cell, _ in columns.values()]
    project.write(",".join(headings) + "\n" + ",".join(cells) + "\n")
    result = project.run()
    assert result.status == 0, result
    user = {name: value for name, (*_, value) in FIELDS.items()}
    attributes = {name: value for name, (*_, value) in ATTRIBUTES.items()}
    assert sent(project) == [{**user, "custom_attributes": attributes}]


@pytest.mark.parametrize("identity", ["user_id", "email", "id"])
def test_each_identity_is_enough_and_no_other_is_sent(project: Project, identity: str) -> None:
    project.configure(user={identity: "who", "name": "name"})
    project.write("who,name,email,id\n007,James,e,8\n")
    assert project.run("--dry-run").dry_users() == [{identity: "007", "name": "James"}]


def test_a_key_that_is_no_field_is_discarded_and_told(project: Project) -> None:
    """Intercom's own others, too."""
    others = ["phone", "avatar", "owner_id", "role", "external_id", "last_seen_at", "companies"]
    others += ["tags", "shoe_size"]
    project.configure(user={"user_id": "user_id"} | dict.fromkeys(others, "name"))
    project.users(1)
    result = project.run()
    assert sent(project) == [{"user_id": "u1"}]
    assert result.status == 0
    for key in others:
        words = rf"\b{key}\b.*is not among the fields that are sent"
        for text in result.out + result.err, result.debug_log:
            assert len(re.findall(words, text)) == 1, (key, text)


@pytest.mark.parametrize("attributes", [{}, {"plan": "plan"}], ids=["no section", "attributes"])
def test_no_user_section_takes_what_is_there(project: Project, attributes: dict[str, str]) -> None:
    """Where [custom_attributes] has keys, too."""
    project.configure(user={}, custom_attributes=attributes)
    project.write(
        "plan,user_id,signed_up_at,Name,custom_attributes,new_session,phone\n"
        "gold,u1,1760000000,Ada,x,true,123\n"
    )
    user = {"user_id": "u1", "signed_up_at": 1760000000, "new_session": True}
    added = {"custom_attributes": {"plan": "gold"}} if attributes else {}
    assert project.run("--dry-run").dry_users() == [user | added]


def test_the_type_follows_the_last_colon_that_a_type_follows(project: Project) -> None:
    project.configure(
        user={
            "user_id": "ID: own",
            "name": "Name : String",
            "signed_up_at": "Signup: date : timestamp %d/%m/%Y %H:%M",
            "unsubscribed_from_emails": "News:letter : NOT boolean",
        },
        custom_attributes={"a": "a:b : INTEGER", "b": "c:integer:string", "c": "Note: text"},
    )
    headings = "ID: own,Name,Signup: date,News:letter,a:b,c:integer,Note: text\n"
    project.write(headings + "u1,Ada,24/11/2026 09:05,yes,1,2,3\n")
    assert project.run("--dry-run").dry_users() == [
        {
            "user_id": "u1",
            "name": "Ada",
            "signed_up_at": 1795511100,
            "unsubscribed_from_emails": False,
            "custom_attributes": {"a": 1, "b": "2", "c": "3"},
        }
    ]


def test_text_in_single_quotes_is_a_constant(project: Project) -> None:
    project.configure(
        user={"user_id": "user_id", "name": "'O'Hara: x'", "unsubscribed_from_emails": "'Yes'"},
        custom_attributes={
            "source": "'csv : integer'",
            "count": "'12' : integer",
            "seen_at": "'2026-01-02' : timestamp",
        },
    )
    project.write("user_id\nu1\nu2\n")
    same = {
        "name": "O'Hara: x",
        "unsubscribed_from_emails": True,
        "custom_attributes": {"source": "csv : integer", "count": 12, "seen_at": 1767312000},
    }
    users = project.run("--dry-run").dry_users()
    assert users == [{"user_id": "u1", **same}, {"user_id": "u2", **same}]


def test_a_blank_cell_is_not_filled_by_the_row_before(project: Project) -> None:
    project.configure(user={"user_id": "user_id", "name": "name", "new_session": "'yes'"})
    project.configure(custom_attributes={"plan": "plan", "source": "'csv'"})
    project.write("user_id,name,plan\nu1,Ada,gold\nu2,,\n")
    ada, other = project.run("--dry-run").dry_users()
    assert (ada["name"], ada["custom_attributes"]) == ("Ada", {"plan": "gold", "source": "csv"})
    same = {"new_session": True, "custom_attributes": {"source": "csv"}}
    assert other == {"user_id": "u2", **same}


def test_a_huge_wrong_cell_does_not_fill_the_log(project: Project) -> None:
    project.configure(custom_attributes={"count": "count : integer"})
    project.write(f"user_id,count\nu1,{'9' * 100_000}\nu2,5\n")
    result = project.run()
    assert result.counts() == (2, 0, 0)
    assert sent(project)[0] == {"user_id": "u1"}
    assert len(result.debug_log) < 5_000


def test_as_many_custom_attributes_as_intercom_takes(project: Project) -> None:
    project.configure(custom_attributes={f"a{n:0189}": "x" for n in range(250)})
    project.write("user_id,x\nu1,1\n")
    assert project.run().counts() == (1, 0, 0)
    assert len(sent(project)[0]["custom_attributes"]) == 250


#### Rows that are no users


NOBODY = ["user_id", "email", "id", "not imported"]
# content, who is imported, and what is said of the others, by their lines
DAMAGED: dict[str, tuple[str | bytes, list[str], dict[int, list[str]]]] = {
    "nobody": (HEADING + "u1,,\n,,x\n   , ,\nu4,,\n", ["u1", "u4"], {3: NOBODY, 4: NOBODY}),
    "cells": (
        HEADING + "u1,\nu2,,,more\nu3,,\nu4\n",
        ["u3"],
        {2: ["2 cells", "3 headings"], 3: ["4 cells", "3 headings"], 5: ["1 cells", "3 headings"]},
    ),
    "bytes": (
        HEADING.encode() + b"u1,,F\xefve\nu2,,\n\xed\xa0\x80,,Surrogate\nu4,,\n",
        ["u2", "u4"],
        {2: ["utf-8"], 4: ["utf-8"]},
    ),
    "blank lines": (f"\n \n{HEADING}\nu1,,\n\r\n\t\nu2,\nu3,,\n\n\n", ["u1", "u3"], {8: []}),
    "heading of two lines": ('user_id,"two\nlines",name\nu1,,Ada\nbad\n', ["u1"], {4: []}),
    "stray quote": (HEADING + 'u1,,\nu2,,"T\nu3,,x\nu4,,"F"\nu5,,\n', ["u1", "u5"], {3: []}),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_row_leaves_the_rows_around_it_alone(project: Project, case: str) -> None:
    content, users, damaged = DAMAGED[case]
    project.write(content)
    result = project.run()
    assert (result.status, imported(project)) == (1, users), result
    assert result.counts() == (len(users), 0, len(damaged))
    for line, words in damaged.items():
        line_of(result.error_log, f"line {line}:", *words)


def test_text_after_a_closing_quote_costs_its_row_alone(project: Project) -> None:
    rows = ["u1,,One\n", '"u2"x,,Two\n', 'u3,,"a\nb" c\n', 'u4,,a "quoted" word\n', 'u5,,""\n']
    project.write(HEADING + "".join(rows))
    result = project.run()
    assert imported(project) == ["u1", "u4", "u5"]
    assert sent(project)[1]["name"] == 'a "quoted" word'
    assert result.not_imported[0].read_text() == HEADING + rows[1] + rows[2]
    for line in (3, 4):
        line_of(result.error_log, f"line {line}:", "not imported")


#### Shapes of files


@pytest.mark.parametrize(("setting", "character"), [("tab", "\t"), (";", ";"), ("|", "|")])
def test_each_delimiter_parts_the_cells(project: Project, setting: str, character: str) -> None:
    project.configure(csv={"delimiter": setting})
    rows = [["user_id", "email", "name"], ["u1", "", "a, b"], ["u2", "", f'"a{character}b"']]
    project.write("".join(character.join(row) + "\n" for row in rows))
    result = project.run()
    assert result.counts() == (2, 0, 0), result
    assert [user["name"] for user in sent(project)] == ["a, b", f"a{character}b"]


def test_a_blank_that_parts_the_cells_is_not_skipped(project: Project) -> None:
    project.configure(csv={"delimiter": '" "'})
    project.write("user_id email name\nu1  Ada\n")
    assert project.run("--dry-run").dry_users() == [{"user_id": "u1", "name": "Ada"}]


@pytest.mark.parametrize(
    ("encoding", "text", "first"),
    [
        ("utf-8", "Zoë 😀", b""),
        ("utf-8-sig", "Zoë", b"\xef\xbb\xbf"),
        ("cp1252", "Zoë €", b""),
        ("shift_jis", "表示ソ能", b""),
        ("utf-16", "Zoë 😀", b""),
        ("utf-16-be", "Zoë 😀", b"\xfe\xff"),
    ],
)
def test_each_encoding_is_read(project: Project, encoding: str, text: str, first: bytes) -> None:
    project.configure(csv={"encoding": encoding})
    plain = "utf-8" if encoding == "utf-8-sig" else encoding
    project.write(first + f'"user_id","{text}"\nu1,{text}\n'.encode(plain))
    project.configure(user={"user_id": "user_id"}, custom_attributes={"x": text})
    result = project.run()
    assert result.counts() == (1, 0, 0), result
    assert sent(project)[0] == {"user_id": "u1", "custom_attributes": {"x": text}}


@pytest.mark.parametrize(
    ("encoding", "bad", "good"),
    [("cp1252", b"\x81", "é"), ("shift_jis", b"\x81", "表"), ("ascii", b"\xe9", "e")],
)
def test_bytes_that_are_not_in_the_encoding_cost_their_row_alone(
    project: Project, encoding: str, bad: bytes, good: str
) -> None:
    """And come back as they were in the file of such rows."""
    project.configure(csv={"encoding": encoding})
    heading, *rows = (
        text.encode(encoding) for text in (HEADING, f"u1,,{good}\n", "u2,,", "\n", f"u3,,{good}\n")
    )
    project.write(heading + rows[0] + rows[1] + bad + rows[2] + rows[3])
    result = project.run()
    assert result.counts() == (2, 0, 1), result
    assert [user["name"] for user in sent(project)] == [good, good]
    line_of(result.error_log, "line 3:", encoding)
    assert result.not_imported[0].read_bytes() == heading + rows[1] + bad + rows[2]


def test_quoted_cells_hold_delimiters_quotes_and_line_breaks(project: Project) -> None:
    """And the rows after them are named by their lines in the file all the same."""
    names = ["a,b", 'say ""hi""', "one\ntwo", "one\r\ntwo\r\n\r\nthree", "", "last"]
    rows = "".join(f'u{n},,"{name}"\n' for n, name in enumerate(names))
    project.write(f'"user_id","email","name"\n{rows}bad\n')
    result = project.run()
    texts = [user.get("name", "") for user in sent(project)]
    assert texts == [name.replace('""', '"').strip() for name in names]
    for line, user in ((2, "u0"), (3, "u1"), (4, "u2"), (6, "u3"), (10, "u4"), (11, "u5")):
        assert f"line {line} " in line_of(result.debug_log, user)
    line_of(result.error_log, "line 12:")


def test_only_line_ends_end_a_line(project: Project) -> None:
    """Not what Unicode calls one."""
    names = [f"a{mark}b" for mark in "\v\f\x1c\x1d\x1e\x85\u2028\u2029"]
    project.write(HEADING + "".join(f"u{n},,{name}\n" for n, name in enumerate(names)) + "bad\n")
    result = project.run()
    assert [user["name"] for user in sent(project)] == names
    line_of(result.error_log, "line 10:")


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("ended", [True, False])
def test_each_line_end_ends_a_row(project: Project, end: str, ended: bool) -> None:
    lines = ["user_id,email,name", "u1,,One", "bad", "u2,,Two"]
    project.write(end.join([*lines, ""] if ended else lines))
    result = project.run()
    assert result.counts() == (2, 0, 1), result
    assert sent(project) == [{"user_id": "u1", "name": "One"}, {"user_id": "u2", "name": "Two"}]
    line_of(result.error_log, "line 3:")
