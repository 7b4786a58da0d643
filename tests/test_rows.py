"""From a row to a user: fields and types, wrong cells, headings, delimiters, encodings, and what
becomes of rows and files that are damaged."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import NAME, Project, Result
from sandbox import Sandbox

from export_csv import to_boolean, to_float, to_integer, to_timestamp

HEADING = "user_id,email,name\n"


def sent(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The users that were sent, in their order."""
    return [request.body for request in sandbox.requests]


def ids(sandbox: Sandbox) -> list[str]:
    return [user["user_id"] for user in sent(sandbox)]


def dry(result: Result) -> list[dict[str, Any]]:
    """The users that a dry run printed."""
    return [json.loads(line) for line in result.out.splitlines()]


def line_of(log: str, *words: object) -> str:
    """The one line of a log that holds all these words."""
    lines = [line for line in log.splitlines() if all(str(word) in line for word in words)]
    assert len(lines) == 1, (words, log)
    return lines[0]


#### Fields and their types


def test_every_field_arrives_in_its_type(project: Project, sandbox: Sandbox) -> None:
    fields = (
        *("user_id", "email", "signed_up_at", "name", "last_seen_ip", "last_seen_user_agent"),
        *("last_request_at", "unsubscribed_from_emails", "update_last_request_at", "new_session"),
    )
    project.configure(
        user={field: f"the {field}" for field in fields},
        custom_attributes={
            "plan": "Plan",
            "nick": "Nick : string",
            "bookings": "Bookings : integer",
            "rating": "Rating:float",
            "owner": "Owner :boolean",
            "booked_at": "Booked: timestamp",
        },
    )
    headings = [f"the {field}" for field in fields]
    headings += ["Plan", "Nick", "Bookings", "Rating", "Owner", "Booked"]
    cells = ["17", "ada@example.com", "1760000000", "Ada", "10.0.0.1", "Firefox"]
    cells += ["2026-01-02", "yes", "no", "1", "gold", "42", "7", "4.5", "off", "2026-01-02T03:04Z"]
    project.write(",".join(headings) + "\n" + ",".join(cells) + "\n")
    result = project.run()
    assert result.status == 0, result
    assert sent(sandbox) == [
        {
            "user_id": "17",
            "email": "ada@example.com",
            "signed_up_at": 1760000000,
            "name": "Ada",
            "last_seen_ip": "10.0.0.1",
            "last_seen_user_agent": "Firefox",
            "last_request_at": 1767312000,
            "unsubscribed_from_emails": True,
            "update_last_request_at": False,
            "new_session": True,
            "custom_attributes": {
                "plan": "gold",
                "nick": "42",
                "bookings": 7,
                "rating": 4.5,
                "owner": False,
                "booked_at": 1767323040,
            },
        }
    ]


@pytest.mark.parametrize("identity", ["user_id", "email", "id"])
def test_each_identity_is_enough(project: Project, identity: str) -> None:
    project.configure(user={identity: "who", "name": "name"})
    project.write("who,name\n007,James\n")
    assert dry(project.run("--dry-run")) == [{identity: "007", "name": "James"}]


def test_an_empty_user_section_takes_every_allowed_field_that_is_there(project: Project) -> None:
    project.configure(user={})
    project.write(
        "plan,user_id,signed_up_at,Name,custom_attributes,new_session,phone\n"
        "gold,u1,1760000000,Ada,x,true,123\n"
    )
    users = dry(project.run("--dry-run"))
    assert users == [{"user_id": "u1", "signed_up_at": 1760000000, "new_session": True}]


def test_custom_attributes_alone_leave_the_user_section_empty(project: Project) -> None:
    project.configure(custom_attributes={"plan": "plan"})
    project.write("plan,user_id\ngold,u1\n")
    users = dry(project.run("--dry-run"))
    assert users == [{"user_id": "u1", "custom_attributes": {"plan": "gold"}}]


def test_only_mapped_headings_are_sent(project: Project) -> None:
    project.configure(user={"email": "email"})
    project.write("user_id,email,name\nu1,ada@example.com,Ada\n")
    assert dry(project.run("--dry-run")) == [{"email": "ada@example.com"}]


def test_an_unknown_field_is_discarded_and_the_log_says_so_once(project: Project) -> None:
    project.configure(user={"user_id": "user_id", "nmae": "name", "phone": "name"})
    project.users(3)
    result = project.run()
    assert result.status == 0, result
    assert [user.get("name") for user in sent(project.sandbox)] == [None] * 3
    for key in ("nmae", "phone"):
        line_of(result.debug_log, key)
    line_of(result.error_log, "nmae", "name")


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
    users = dry(project.run("--dry-run"))
    assert users == [{"user_id": "u1", **same}, {"user_id": "u2", **same}]


def test_the_type_follows_the_last_colon(project: Project) -> None:
    project.configure(
        user={"user_id": "user_id"},
        custom_attributes={"a": "a:b : integer", "b": "c:integer:string", "c": "plain"},
    )
    project.write("user_id,a:b,c:integer,plain\nu1,1,2,3\n")
    users = dry(project.run("--dry-run"))
    assert users == [{"user_id": "u1", "custom_attributes": {"a": 1, "b": "2", "c": "3"}}]


def test_cells_are_stripped_and_empty_ones_left_out(project: Project) -> None:
    project.configure(custom_attributes={"plan": "plan", "count": "count : integer"})
    project.write(
        "user_id, email ,name,signed_up_at,plan,count\n"
        "  u1 ,\tada@example.com,   ,  ,,\n"
        'u2," ","  Ada  Lovelace ", 1760000000 , gold , 7 \n'
    )
    result = project.run()
    assert result.status == 0, result
    assert sent(project.sandbox) == [
        {"user_id": "u1", "email": "ada@example.com"},
        {
            "user_id": "u2",
            "name": "Ada  Lovelace",
            "signed_up_at": 1760000000,
            "custom_attributes": {"plan": "gold", "count": 7},
        },
    ]
    assert "left out" not in result.debug_log


def test_a_wrong_cell_costs_itself_alone(project: Project, sandbox: Sandbox) -> None:
    project.configure(
        custom_attributes={
            "count": "Count : integer",
            "rating": "Rating : float",
            "owner": "Owner : boolean",
            "seen_at": "Seen : timestamp",
        },
    )
    project.write(
        "user_id,signed_up_at,unsubscribed_from_emails,Count,Rating,Owner,Seen\n"
        "u1,1760000000000,maybe,12.5,nan,jein,yesterday\n"
        "u2,1760000000,no,12,1.5,no,2026-01-02\n"
        "u3,,,many,,,\n"
    )
    result = project.run()
    assert result.status == 0, result
    assert result.counts() == (3, 0, 0)
    assert [len(user) for user in sent(sandbox)] == [1, 4, 1]
    assert "custom_attributes" not in sent(sandbox)[0]
    for line, user, heading, value, kind in (
        (2, "u1", "signed_up_at", "1760000000000", "timestamp"),
        (2, "u1", "unsubscribed_from_emails", "maybe", "boolean"),
        (2, "u1", "Count", "12.5", "integer"),
        (2, "u1", "Rating", "nan", "float"),
        (2, "u1", "Owner", "jein", "boolean"),
        (2, "u1", "Seen", "yesterday", "timestamp"),
        (4, "u3", "Count", "many", "integer"),
    ):
        line_of(result.error_log, f"line {line} ", user, f"'{heading}'", f"'{value}'", kind)
    assert "milliseconds" in line_of(result.error_log, "1760000000000")
    assert re.search(r"^7\b.*left out", result.out, re.MULTILINE), result.out


def test_a_huge_wrong_cell_does_not_fill_the_log(project: Project) -> None:
    project.configure(custom_attributes={"count": "count : integer"})
    project.write(f"user_id,count\nu1,{'9' * 100_000}\nu2,5\n")
    result = project.run()
    assert result.counts() == (2, 0, 0)
    assert sent(project.sandbox)[0] == {"user_id": "u1"}
    assert len(result.debug_log) < 5_000


#### What a cell means


NO_NUMBERS = ("", " ", "x", "-", "1_000", "1,5", "0x10", "١٢", "１２", "12 ", "1 2", "nan", "inf")


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        *(("12", 12), ("12.0", 12), ("12.00", 12), ("-3", -3), ("+3", 3), ("007", 7), ("0", 0)),
        ("-0.0", 0),
        ("9" * 4000, 10**4000 - 1),
    ],
)
def test_what_an_integer_is(cell: str, value: int) -> None:
    assert to_integer(cell) == value
    assert type(to_integer(cell)) is int


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        *(("12", 12.0), ("1.5", 1.5), ("-.5", -0.5), ("5.", 5.0), ("1e3", 1000.0), ("+2", 2.0)),
        ("0" * 4000 + "7", 7.0),
    ],
)
def test_what_a_float_is(cell: str, value: float) -> None:
    assert to_float(cell) == value
    assert type(to_float(cell)) is float


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (spelt, value)
        for value, words in (
            (True, ("true", "t", "yes", "y", "on", "1")),
            (False, ("false", "f", "no", "n", "off", "0")),
        )
        for word in words
        for spelt in dict.fromkeys((word, word.upper(), word.title()))
    ],
)
def test_what_a_boolean_is(cell: str, value: bool) -> None:
    assert to_boolean(cell) is value


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1760000000", 1760000000),
        ("1760000000.0", 1760000000),
        ("0", 0),
        ("-86400", -86400),
        ("99999999999", 99999999999),
        ("2026-01-02", 1767312000),
        ("2026-01-02T03:04:05", 1767323045),
        ("2026-01-02 03:04:05", 1767323045),
        ("2026-01-02T03:04", 1767323040),
        ("2026-01-02T03:04:05Z", 1767323045),
        ("2026-01-02T03:04:05+00:00", 1767323045),
        ("2026-01-02T03:04:05+02:00", 1767315845),
        ("2026-01-02T03:04:05-0530", 1767342845),
        ("2026-01-02T03:04:05+01", 1767319445),
        ("2026-01-02T03:04:05.678Z", 1767323045),
        ("2026-01-02T03:04:05.678901+00:00", 1767323045),
        ("20260102T030405Z", 1767323045),
        ("2024-02-29", 1709164800),
        ("1970-01-01", 0),
        ("1969-12-31", -86400),
        ("0001-01-01T00:00:00+14:00", -62135647200),
        ("9999-12-31T23:59:59-12:00", 253402343999),
    ],
)
def test_what_a_timestamp_is(cell: str, value: int) -> None:
    assert to_timestamp(cell) == value
    assert type(to_timestamp(cell)) is int


@pytest.mark.parametrize(
    ("convert", "cells"),
    [
        (to_integer, (*NO_NUMBERS, "12.5", "1e3", "9" * 5000, "12.0\n")),
        (to_float, (*NO_NUMBERS[:9], "1 2", "nan", "NaN", "inf", "-Infinity", "1e400", "9" * 4000)),
        (to_boolean, ("", "2", "-1", "maybe", "tru", "yess", "1.0", "ＴＲＵＥ", "oui")),
        (
            to_timestamp,
            (
                *(*NO_NUMBERS, "12.5", "yesterday", "2026-13-01", "2026-02-29", "2026-01-32"),
                *("01/02/2026", "2026-1-2", "2026-01-02T25:00", "2026-01-02T03:04:61", "2026-01"),
                *("2026-01-02T03:04:05+25:00", "2026-01-02T03:04:05+01:99", "0000-01-01"),
                *("２０２６-01-02", "2026-01-02T03:04:05 CET", "2026-01-02x"),
                *("1760000000000", "1760000000000.0", "-1760000000000", "9" * 4000, "9" * 5000),
            ),
        ),
    ],
)
def test_cells_that_are_not_of_their_type(
    convert: Callable[[str], object], cells: tuple[str, ...]
) -> None:
    taken = []
    for cell in cells:
        try:
            taken.append((cell[:40], convert(cell)))
        except ValueError:
            continue
    assert not taken


@pytest.mark.parametrize("cell", ["1760000000000", "1760000000000.0", "9" * 4000])
def test_milliseconds_are_called_so(cell: str) -> None:
    with pytest.raises(ValueError, match="milliseconds"):
        to_timestamp(cell)


#### The limits of custom attributes


def test_names_and_types_that_intercom_would_refuse_are_wrong_settings(project: Project) -> None:
    wrong = {"a.b": "x", "a$b": "x", "n" * 191: "x", "kind": "x : number", "whole": "'a' : integer"}
    project.configure(custom_attributes={**wrong, "n" * 190: "x"})
    project.write("user_id,x\nu1,1\n")
    result = project.run()
    assert result.status == 2, result
    assert not project.sandbox.requests
    lines = [line for line in result.err.splitlines() if "[custom_attributes]" in line]
    assert len(lines) == len(wrong)
    for name in wrong:
        line_of(result.err, f"config.ini: [custom_attributes] {name}:")
    assert "integer" in line_of(result.err, "kind")


@pytest.mark.parametrize(("count", "status"), [(250, 0), (251, 2)])
def test_at_most_250_custom_attributes(project: Project, count: int, status: int) -> None:
    project.configure(custom_attributes={f"a{n:0189}": "x" for n in range(count)})
    project.write("user_id,x\nu1,1\n")
    result = project.run()
    assert result.status == status, result
    if status:
        line_of(result.err, "[custom_attributes]", "250")
    else:
        assert len(sent(project.sandbox)[0]["custom_attributes"]) == 250


def test_a_custom_attribute_of_more_than_255_characters_is_a_wrong_cell(project: Project) -> None:
    project.configure(
        user={"user_id": "user_id", "name": "name"}, custom_attributes={"plan": "plan"}
    )
    project.write(
        f"user_id,name,plan\nu1,,{'é' * 255}\nu2,,{'é' * 256}\nu3,{'n' * 256},  {'😀' * 255} \n"
    )
    result = project.run()
    assert result.status == 0, result
    assert sent(project.sandbox) == [
        {"user_id": "u1", "custom_attributes": {"plan": "é" * 255}},
        {"user_id": "u2"},
        {"user_id": "u3", "name": "n" * 256, "custom_attributes": {"plan": "😀" * 255}},
    ]
    assert "256" in line_of(result.error_log, "line 3 ", "'plan'", "string")


def test_the_debug_log_remarks_timestamps_that_intercom_shows_as_numbers(project: Project) -> None:
    project.configure(
        custom_attributes={"booked": "b : timestamp", "booked_at": "b : timestamp", "n": "b"}
    )
    project.write("user_id,b\nu1,1760000000\n")
    result = project.run()
    assert result.status == 0, result
    assert "_at" in line_of(result.debug_log, "[custom_attributes]", "booked", "number")
    assert not result.error_log
    check = project.run("--check")
    assert "booked" in check.out
    assert "_at" in check.out


#### Rows that are no users


def test_a_damaged_row_leaves_the_rows_around_it_alone(project: Project, sandbox: Sandbox) -> None:
    project.write(
        HEADING.encode() + b"u1,,One\n,,Nobody\n   , ,\nu2,,Two\nu3,\nu4,,Four,more\n"
        b"u5,,F\xefve\nu6\n\xed\xa0\x80,,Surrogate\nu7,,Seven\n"
    )
    result = project.run()
    assert result.status == 1, result
    assert ids(sandbox) == ["u1", "u2", "u7"]
    assert result.counts() == (3, 0, 7)
    log = result.error_log
    for line in (3, 4):
        for name in ("user_id", "email", "id"):
            assert name in line_of(log, f"line {line}:")
    for line, cells in ((6, 2), (7, 4), (9, 1)):
        assert f"{cells} cells" in line_of(log, f"line {line}:")
        assert "3 headings" in line_of(log, f"line {line}:")
    for line in (8, 10):
        assert "utf-8" in line_of(log, f"line {line}:")


def test_text_after_a_closing_quote_costs_its_row_alone(project: Project, sandbox: Sandbox) -> None:
    rows = ["u1,,One\n", '"u2"x,,Two\n', 'u3,,"a\nb" c\n', 'u4,,a "quoted" word\n', 'u5,,""\n']
    project.write(HEADING + "".join(rows))
    result = project.run()
    assert ids(sandbox) == ["u1", "u4", "u5"]
    assert result.counts() == (3, 0, 2)
    assert sent(sandbox)[1]["name"] == 'a "quoted" word'
    assert result.not_imported[0].read_text() == HEADING + rows[1] + rows[2]
    for line in (3, 4):
        line_of(result.error_log, f"line {line}:", "not imported")


def test_blank_lines_are_skipped(project: Project, sandbox: Sandbox) -> None:
    project.write(f"\n \n{HEADING}\nu1,,\n\r\n\t\nu2,\nu3,,Three\n\n\n")
    result = project.run()
    assert ids(sandbox) == ["u1", "u3"]
    assert result.counts() == (2, 0, 1)
    line_of(result.error_log, "line 8:")


def test_nul_bytes_do_no_harm_to_the_rows_around(project: Project, sandbox: Sandbox) -> None:
    project.write(HEADING.encode() + b"u1,,One\nu2,,T\0wo\nu3,,Three\n\0\nu4,,Four\n")
    result = project.run()
    known = ids(sandbox)
    assert [user for user in known if user != "u2"] == ["u1", "u3", "u4"]
    assert result.counts() == (len(known), 0, 5 - len(known))
    assert "\0" not in result.debug_log


#### Headings


def stopped_before_the_first_user(result: Result) -> str:
    """What was said of a run that sent nothing."""
    assert result.status == 1, result
    assert "Traceback" not in result.err + result.debug_log
    return result.err


def test_missing_and_ambiguous_headings_are_reported_together(
    project: Project, sandbox: Sandbox
) -> None:
    project.configure(
        user={"user_id": "uid", "email": "E-Mail", "name": "name", "last_seen_ip": "IP"},
        custom_attributes={"plan": "Plan:string", "count": "bookings_count : integer"},
    )
    project.write(
        "UID,email,name,Plan,IP,IP,mail,ID,bookings,other,other,count,booking_count\nu1,,,,,,,,,,,,\n"
    )
    said = stopped_before_the_first_user(project.run())
    assert not sandbox.requests
    for missing, near in (("uid", "UID"), ("E-Mail", "email"), ("bookings_count", "booking_count")):
        assert f"'{missing}'" in said
        assert near in said.replace(f"'{missing}'", "")
    assert "IP" in said
    assert "2 times" in said or "twice" in said
    for fine in ("other", "'Plan'", "'name'"):
        assert fine not in said


def test_a_heading_that_is_there_twice_and_not_mapped_is_no_problem(project: Project) -> None:
    project.configure(user={"user_id": "user_id"})
    project.write("user_id,x,x\nu1,1,2\n")
    assert project.run().counts() == (1, 0, 0)


def test_headings_without_any_identity_stop_the_run(project: Project, sandbox: Sandbox) -> None:
    project.write("Email,Name\nada@example.com,Ada\n")
    said = stopped_before_the_first_user(project.run())
    assert not sandbox.requests
    assert "user_id" in said
    assert "Email" in said


def test_headings_of_the_settings_are_checked_too(project: Project, sandbox: Sandbox) -> None:
    project.configure(csv={"headings": "user_id,nane"}, user={"user_id": "user_id", "name": "name"})
    project.write("u1,Ada\n")
    said = stopped_before_the_first_user(project.run())
    assert not sandbox.requests
    assert "'name'" in said
    assert "nane" in said


@pytest.mark.parametrize("first", ["", HEADING, ' user_id ,"email",name\r\n', "\ufeff" + HEADING])
def test_headings_of_the_settings(project: Project, sandbox: Sandbox, first: str) -> None:
    """They stand for a heading row, or are it where the file begins with them."""
    project.configure(csv={"headings": "user_id, email ,name"})
    project.write(first + "u1,,One\nu2,,Two\n")
    result = project.run()
    assert result.counts() == (2, 0, 0), result
    assert ids(sandbox) == ["u1", "u2"]


#### Shapes of files


@pytest.mark.parametrize(("setting", "character"), [("tab", "\t"), (";", ";"), ("|", "|")])
def test_each_delimiter_parts_the_cells(
    project: Project, sandbox: Sandbox, setting: str, character: str
) -> None:
    project.configure(csv={"delimiter": setting})
    rows = [["user_id", "email", "name"], ["u1", "", "a, b"], ["u2", "", f'"a{character}b"']]
    project.write("".join(character.join(row) + "\n" for row in rows))
    result = project.run()
    assert result.counts() == (2, 0, 0), result
    assert [user["name"] for user in sent(sandbox)] == ["a, b", f"a{character}b"]


@pytest.mark.parametrize(
    ("encoding", "text", "first"),
    [
        ("utf-8", "Zoë 😀", b""),
        ("utf-8", "Zoë", b"\xef\xbb\xbf"),
        ("utf-8-sig", "Zoë", b"\xef\xbb\xbf"),
        ("cp1252", "Zoë €", b""),
        ("shift_jis", "表示ソ能", b""),
        ("utf-16", "Zoë 😀", b""),
        ("utf-16-be", "Zoë 😀", b"\xfe\xff"),
    ],
)
def test_each_encoding_is_read(
    project: Project, sandbox: Sandbox, encoding: str, text: str, first: bytes
) -> None:
    project.configure(csv={"encoding": encoding})
    plain = "utf-8" if encoding == "utf-8-sig" else encoding
    project.write(first + f'"user_id","{text}"\nu1,{text}\n'.encode(plain))
    project.configure(user={"user_id": "user_id"}, custom_attributes={"x": text})
    result = project.run()
    assert result.counts() == (1, 0, 0), result
    assert sent(sandbox)[0] == {"user_id": "u1", "custom_attributes": {"x": text}}


@pytest.mark.parametrize(
    ("encoding", "bad", "good"),
    [
        ("cp1252", b"\x81", "é"),
        ("shift_jis", b"\x81", "表"),
        ("utf-16-le", b"\x00\xd8", "é"),
        ("ascii", b"\xe9", "e"),
    ],
)
def test_bytes_outside_other_encodings(
    project: Project, sandbox: Sandbox, encoding: str, bad: bytes, good: str
) -> None:
    """They cost their row alone, and come back as they were in the file of such rows."""
    project.configure(csv={"encoding": encoding})
    heading, *rows = (
        text.encode(encoding) for text in (HEADING, f"u1,,{good}\n", "u2,,", "\n", f"u3,,{good}\n")
    )
    project.write(heading + rows[0] + rows[1] + bad + rows[2] + rows[3])
    result = project.run()
    assert result.counts() == (2, 0, 1), result
    assert [user["name"] for user in sent(sandbox)] == [good, good]
    line_of(result.error_log, "line 3:", encoding)
    assert result.not_imported[0].read_bytes() == heading + rows[1] + bad + rows[2]


def test_quoted_cells_hold_delimiters_quotes_and_line_breaks(
    project: Project, sandbox: Sandbox
) -> None:
    """And the rows after them are named by their lines in the file all the same."""
    names = ["a,b", 'say ""hi""', "one\ntwo", "one\r\ntwo\r\n\r\nthree", "", "last"]
    rows = "".join(f'u{n},,"{name}"\n' for n, name in enumerate(names))
    project.write(f'"user_id","email","name"\n{rows}bad\n')
    result = project.run()
    texts = [user.get("name", "") for user in sent(sandbox)]
    assert texts == [name.replace('""', '"').strip() for name in names]
    for line, user in ((2, "u0"), (3, "u1"), (4, "u2"), (6, "u3"), (10, "u4"), (11, "u5")):
        assert f"line {line} " in line_of(result.debug_log, user)
    line_of(result.error_log, "line 12:")


def test_a_heading_may_hold_line_breaks(project: Project, sandbox: Sandbox) -> None:
    project.write('user_id,"two\nlines",name\nu1,,Ada\nbad\n')
    result = project.run()
    assert sent(sandbox) == [{"user_id": "u1", "name": "Ada"}]
    line_of(result.error_log, "line 4:")


def test_only_line_ends_end_a_line(project: Project, sandbox: Sandbox) -> None:
    """Not what Unicode calls one."""
    names = [f"a{mark}b" for mark in "\v\f\x1c\x1d\x1e\x85\u2028\u2029"]
    project.write(HEADING + "".join(f"u{n},,{name}\n" for n, name in enumerate(names)) + "bad\n")
    result = project.run()
    assert [user["name"] for user in sent(sandbox)] == names
    line_of(result.error_log, "line 10:")


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("ended", [True, False])
def test_each_line_end_ends_a_row(
    project: Project, sandbox: Sandbox, end: str, ended: bool
) -> None:
    lines = ["user_id,email,name", "u1,,One", "bad", "u2,,Two"]
    project.write(end.join([*lines, ""] if ended else lines))
    result = project.run()
    assert result.counts() == (2, 0, 1), result
    assert sent(sandbox) == [{"user_id": "u1", "name": "One"}, {"user_id": "u2", "name": "Two"}]
    line_of(result.error_log, "line 3:")


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_stops_the_run(project: Project, content: str) -> None:
    project.write(content)
    said = stopped_before_the_first_user(project.run())
    assert "empty" in said
    assert not (project.folder / "not_imported").exists()


@pytest.mark.parametrize("content", [HEADING, HEADING.rstrip(), HEADING + "\n\n"])
def test_a_file_of_headings_alone_is_imported(project: Project, content: str) -> None:
    project.write(content)
    result = project.run()
    assert result.status == 0, result
    assert result.counts() == (0, 0, 0)
    assert not result.not_imported


#### Quotes that never close, and cells without end


@pytest.mark.parametrize("rest", ["u3,,Three\nu4,,Four\n", "u3,,Three\n" * 20_000])
def test_a_quote_that_never_closes(project: Project, sandbox: Sandbox, rest: str) -> None:
    """It is one row, which opens where the quote does, and which holds all that follows."""
    damaged = f'u2,,"Two\n{rest}'
    project.write(f"{HEADING}u1,,One\n{damaged}")
    result = project.run()
    assert result.status == 1, result
    assert ids(sandbox) == ["u1"]
    assert result.counts() == (1, 0, 1)
    assert "quote" in line_of(result.error_log, "line 3:")
    assert result.not_imported[0].read_text() == HEADING + damaged


def test_a_stray_quote_ends_at_the_next_one(project: Project, sandbox: Sandbox) -> None:
    project.write(f'{HEADING}u1,,One\nu2,,"Two\nu3,,Three\nu4,,"Four"\nu5,,Five\n')
    result = project.run()
    assert ids(sandbox) == ["u1", "u5"]
    assert result.counts() == (2, 0, 1)
    line_of(result.error_log, "line 3:")


def test_a_quote_in_the_headings_that_never_closes_stops_the_run(project: Project) -> None:
    project.write('user_id,"email,name\nu1,,One\n')
    assert "quote" in stopped_before_the_first_user(project.run())
    assert not project.sandbox.requests


def test_a_very_long_cell_costs_its_row_at_most(project: Project, sandbox: Sandbox) -> None:
    project.write(f"{HEADING}u1,,One\nu2,,{'x' * 200_000}\nu3,,Three\n")
    result = project.run()
    assert [user for user in ids(sandbox) if user != "u2"] == ["u1", "u3"]
    assert sum(result.counts()) == 3


def limit_memory(project: Project, megabytes: int) -> Result:
    """How a run ends that may not have more than this."""
    import resource  # which not every system has

    child = project.start()
    size = megabytes * 2**20
    resource.prlimit(child.process.pid, resource.RLIMIT_DATA, (size, size))
    return child.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit of Linux")
def test_memory_does_not_grow_with_what_follows_an_open_quote(project: Project) -> None:
    with project.write(f'{HEADING}u1,,One\nu2,,"Two\n').open("ab") as file:
        for _ in range(150):
            file.write(b"u3,,Three, and so on and so on\n" * 2**15)
    result = limit_memory(project, 100)
    assert result.status == 1, result
    assert result.counts() == (1, 0, 1)
    assert result.not_imported[0].stat().st_size > 140 * 2**20
    result.not_imported[0].unlink()
    (project.exports / NAME).unlink()


#### Compressed files


def test_a_compressed_file_is_read_as_it_is(project: Project, sandbox: Sandbox) -> None:
    plain = f"{HEADING}u1,,One\nbad\nu2,,Two\n".encode()
    project.write(gzip.compress(plain[:20]) + gzip.compress(plain[20:]), f"{NAME}.gz")
    result = project.run()
    assert result.counts() == (2, 0, 1), result
    assert ids(sandbox) == ["u1", "u2"]
    assert result.not_imported[0].read_text() == f"{HEADING}bad\n"


def noisy_users(count: int) -> str:
    """Rows that do not compress to nothing."""
    return "".join(f"u{n},,{digest(n)}\n" for n in range(count))


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.mark.parametrize("damage", ["short", "checksum", "rubbish"])
def test_a_compressed_file_that_is_damaged(project: Project, sandbox: Sandbox, damage: str) -> None:
    """What comes before the damage is imported, and the run tells that this was not all."""
    whole = gzip.compress((HEADING + noisy_users(60)).encode())
    if damage == "short":
        whole = whole[: len(whole) * 2 // 3]
    elif damage == "checksum":
        whole = whole[:-8] + b"\0" * 8
    else:
        whole += b"rubbish"
    project.write(whole, f"{NAME}.gz")
    result = project.run()
    assert result.status == 1, result
    imported, _, not_imported = result.counts()
    assert 20 < imported <= 60
    assert (imported == 60) == (damage != "short")
    assert ids(sandbox) == [f"u{n}" for n in range(imported)]
    assert not_imported <= 1
    assert sent(sandbox)[-1]["name"] == digest(imported - 1)
    assert "breaks off" in result.err or "ends early" in result.err
    assert "Traceback" not in result.err + result.debug_log


def test_a_file_that_breaks_off_in_a_cell_of_many_lines(project: Project, sandbox: Sandbox) -> None:
    """What there is of that row is kept."""
    whole = gzip.compress(f'{HEADING}u0,,Zero\nu1,,"{noisy_users(60)}"\n'.encode())
    project.write(whole[: len(whole) * 2 // 3], f"{NAME}.gz")
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, 1)), result
    assert ids(sandbox) == ["u0"]
    assert "line 3: not imported: the file breaks off in this row" in result.error_log
    kept = result.not_imported[0].read_text()
    assert kept.startswith(f'{HEADING}u1,,"u0,,{digest(0)}\n')
    assert len(kept.splitlines()) > 20


@pytest.mark.parametrize("damage", ["short", "checksum"])
def test_a_quote_that_never_closes_in_a_file_that_breaks_off_is_told_as_both(
    project: Project, sandbox: Sandbox, damage: str
) -> None:
    """With more behind the quote than a cell may hold, so that the rest is read when it is kept."""
    whole = gzip.compress(f'{HEADING}u0,,Zero\nu1,,"{noisy_users(60_000)}'.encode(), 1)
    whole = whole[: len(whole) * 2 // 3] if damage == "short" else whole[:-8] + b"\0" * 8
    project.write(whole, f"{NAME}.gz")
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, 1)), result
    assert "breaks off" in result.err
    assert "can't be written" not in result.err
    assert "never closes" in result.error_log
    assert len(result.not_imported[0].read_text()) > 2**20


def test_a_file_that_is_not_compressed_but_says_so(project: Project, sandbox: Sandbox) -> None:
    project.write(HEADING + "u1,,One\n", f"{NAME}.gz")
    said = stopped_before_the_first_user(project.run())
    assert not sandbox.requests
    assert len(said.splitlines()) <= 3


def test_utf_16_that_ends_in_half_a_character(project: Project, sandbox: Sandbox) -> None:
    project.configure(csv={"encoding": "utf-16"})
    project.write((HEADING + "u1,,One\nu2,,Two").encode("utf-16") + b"\0")
    result = project.run()
    assert result.status == 1, result
    assert ids(sandbox) == ["u1"]
    assert "Traceback" not in result.err + result.debug_log


def test_the_folder_is_as_it_was(project: Project, tmp_path: Path) -> None:
    """Nothing but logs and the file of damaged rows is left behind."""
    project.write(HEADING + "u1,,One\nbad\n")
    before = {path.name for path in tmp_path.iterdir()}
    project.run()
    assert {path.name for path in tmp_path.iterdir()} - before == {"logs", "not_imported"}
