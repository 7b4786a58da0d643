"""From a row to a user: fields and their types, headings, and rows that can't be imported.

Converting cells is tested in test_cells.py, and reading records in test_csv_reader.py.
"""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from conftest import Project, assert_says, imported, line_of, lines_of
from hypothesis import given
from hypothesis import strategies as st
from in_process import IDENTITY, NO_DEADLINE, USER, read

import export_csv

H = "user_id,email,name\n"

#### Fields and their types

# For each field: its type in config.ini (if needed), a cell, and the value sent for it.
FIELDS: dict[str, tuple[str, str, Any]] = {
    "user_id": ("", "17", "17"),
    "email": ("", "ada@example.com", "ada@example.com"),
    "signed_up_at": ("", "1760000000", 1760000000),
    "name": ("", "Ada", "Ada"),
    "last_seen_ip": ("", "10.0.0.1", "10.0.0.1"),
    "last_seen_user_agent": ("", "Firefox" * 99, "Firefox" * 99),
    "last_request_at": (" : TimeStamp", "2026-01-02", 1767312000),
    "unsubscribed_from_emails": ("", "yes", True),
    "update_last_request_at": (":NOT  boolean", "no", True),
    "new_session": ("", "1", True),
}
ATTRIBUTES: dict[str, tuple[str, str, Any]] = {
    "plan": ("", "gold", "gold"),
    "nick": (" : String", "42", "42"),
    "bookings": (" : INTEGER", "7", 7),
    "rating": (":float", "4.5", 4.5),
    "owner": (" :boolean", "off", False),
    "booked_at": (": timestamp", "2026-01-02T03:04Z", 1767323040),
}


def test_every_field_is_sent_in_its_type() -> None:
    columns = FIELDS | ATTRIBUTES
    headings = ",".join(f"the {name}" for name in columns)
    cells = ",".join(cell for _, cell, _ in columns.values())
    found = read(
        f"{headings}\n{cells}\n",
        user={name: f"the {name}{kind}" for name, (kind, _, _) in FIELDS.items()},
        custom_attributes={
            name: f"the {name}{kind}" for name, (kind, _, _) in ATTRIBUTES.items()
        },
    )
    user = {name: value for name, (_, _, value) in FIELDS.items()}
    user["custom_attributes"] = {
        name: value for name, (_, _, value) in ATTRIBUTES.items()
    }
    assert found.users == [user]
    assert found.is_silent


@pytest.mark.parametrize("identity", ["user_id", "email", "id"])
def test_each_identity_is_enough(identity: str) -> None:
    found = read(
        "who,name,other\na@x,James,8\n", user={identity: "who", "name": "name"}
    )
    assert found.users == [{identity: "a@x", "name": "James"}]


@pytest.mark.parametrize("attributes", [{}, {"plan": "plan"}])
def test_an_empty_user_section_maps_each_field_to_its_heading(
    attributes: dict[str, str],
) -> None:
    found = read(
        "plan,user_id,signed_up_at,Name,custom_attributes,new_session,phone\n"
        "gold,u1,1760000000,Ada,x,true,123\n",
        user={},
        custom_attributes=attributes,
    )
    user: dict[str, Any] = {
        "user_id": "u1",
        "signed_up_at": 1760000000,
        "new_session": True,
    }
    if attributes:
        user["custom_attributes"] = {"plan": "gold"}
    assert found.users == [user]


def test_headings_and_formats_may_contain_colons() -> None:
    found = read(
        "ID: own,Name,Signup: date,News:letter,a:b,c:integer,Note: text,time: timestamp\n"
        "u1,Ada,24/11/2026 09:05,yes,1,2,3,4\n",
        user={
            "user_id": "ID: own",
            "name": "Name : String",
            "signed_up_at": "Signup: date : timestamp %d/%m/%Y %H:%M",
            "unsubscribed_from_emails": "News:letter : NOT boolean",
        },
        custom_attributes={
            "a": "a:b : INTEGER",
            "b": "c:integer:string",
            "c": "Note: text",
            "d": "time: timestamp : string",
        },
    )
    assert found.users == [
        {
            "user_id": "u1",
            "name": "Ada",
            "signed_up_at": 1795511100,
            "unsubscribed_from_emails": False,
            "custom_attributes": {"a": 1, "b": "2", "c": "3", "d": "4"},
        }
    ]


def test_text_in_single_quotes_is_a_constant_for_every_user() -> None:
    found = read(
        "user_id,plan\nu1,gold\nu2,\n",
        user={
            "user_id": "user_id",
            "name": "'O'Hara: x'",
            "unsubscribed_from_emails": "'Yes'",
        },
        custom_attributes={
            "source": "'csv : integer'",
            "count": "'12' : integer",
            "seen_at": "'2026-01-02' : timestamp",
            "plan": "plan",
            "blank": "''",
        },
    )
    constants = {"source": "csv : integer", "count": 12, "seen_at": 1767312000}
    same = {"name": "O'Hara: x", "unsubscribed_from_emails": True}
    assert found.users == [
        {"user_id": "u1", **same, "custom_attributes": {**constants, "plan": "gold"}},
        {"user_id": "u2", **same, "custom_attributes": constants},
    ]


def test_as_many_custom_attributes_as_intercom_allows_are_sent() -> None:
    attributes = {f"a{n:0189}": "x" for n in range(250)}
    assert len(read("user_id,x\nu1,1\n", custom_attributes=attributes).users[0]) == 2


def test_a_huge_invalid_cell_does_not_fill_the_log(project: Project) -> None:
    project.configure(custom_attributes={"count": "count : integer"})
    project.write(f"user_id,count\nu1,{'9' * 100_000}\nu2,5\n")
    result = project.run()
    assert result.counts() == (2, 0, 0)
    assert len(result.debug_log) < 5_000


#### Headings

# The mapping, the headings, and patterns that the message must match.
MISMATCHES: dict[str, tuple[dict[str, str], str, list[str]]] = {
    "missing": (
        {**USER, "signed_up_at": "joined"},
        "user_id,email,name,Joined at,plan",
        ["'joined'", "signed_up_at", "Joined at"],
    ),
    "missing, with a blank heading": (
        USER,
        "user_id,email,,fullname",
        ["'name'", "closest: .*fullname"],
    ),
    "twice": (USER, "user_id,email,name,email", ["'email'", "twice"]),
    "three times": (USER, "name,user_id,email,name,name", ["'name'", "3 times"]),
    "most": (
        {**USER, "signed_up_at": "joined"},
        "uid,mail,name,since",
        [
            "user_id = user_id",
            "email = email",
            "signed_up_at = joined",
            "uid, mail, name, since",
        ],
    ),
    "delimiter": (USER, "user_id;email;name", ["delimiter = ;"]),
    "tab": (USER, "user_id\temail\tname", ["delimiter = tab"]),
    "later": (USER, "Users\n\nuser_id,email,name", ["line 3"]),
    "a constant": (
        {**USER, "name": "'Full name'"},
        "user_id,email,Full name",
        ["'Full name'", "single quotes"],
    ),
    "no field": ({}, "uid,mail", ["user_id, email or id", "uid, mail"]),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_headings_that_do_not_match_stop_the_run(case: str) -> None:
    mapping, headings, words = MISMATCHES[case]
    reason = read(f"{headings}\nu1,a@x.eu,Ada\n", user=mapping).reason
    assert_says(reason, r"users\.csv", *words)
    assert not reason.endswith(("; ", ": ", ", "))
    assert len(reason.splitlines()) == 1


def test_headings_that_look_alike_match() -> None:
    found = read(
        '\ufeffUser\xa0 ID,Pre\u0301nom,\u200bE-mail\xad,"Line\nbreak"\nu1,Ada,a@x.eu,x\n',
        user={"user_id": "User ID", "name": "Prénom", "email": "E-mail"},
        custom_attributes={"b": "Line break"},
    )
    user = {
        "user_id": "u1",
        "email": "a@x.eu",
        "name": "Ada",
        "custom_attributes": {"b": "x"},
    }
    assert found.users == [user]


DIFFERENT_CASE = ["user id,numéro,N", '"User\nID",NUMÉRO,n']
REPEATED = [
    *("User  ID,Nume\u0301ro,n", "User\xa0ID,Numéro,n,,", "\ufeffUser ID,Numéro,n"),
    *("User\xad ID, Numéro ,n\u200b", '="User ID",Numéro,n', *DIFFERENT_CASE),
]


@pytest.mark.parametrize("heading", REPEATED)
def test_a_repeated_heading_row_is_skipped_however_it_is_written(heading: str) -> None:
    user = {"user_id": "User ID", "name": "Numéro"}
    # Mapped headings are case-sensitive, so these can't be the heading row itself.
    firsts = [first for first in REPEATED if first not in DIFFERENT_CASE]
    for first in firsts:
        found = read(f"{first}\nu1,x,1\n{heading}\nu2,y,2\n{heading}\n", user=user)
        assert [each["user_id"] for each in found.users] == ["u1", "u2"]
        assert found.is_silent


def test_a_row_that_only_resembles_the_headings_is_a_user() -> None:
    found = read(
        H + "user_id,x@y,name\nUSER,email@x,\nuser_id2,,name\n",
        user=USER,
    )
    assert [each["user_id"] for each in found.users] == ["user_id", "USER", "user_id2"]


#### Rows

PLAN = {"plan": "plan"}
SIGNUP = {**IDENTITY, "signed_up_at": "joined"}
NAME = {**IDENTITY, "name": "name"}
MANY = "".join(f"v{n},,,\n" for n in range(9))
NINE_IN_TEN = H + MANY + "u9,,\n"
# Content, mapping, the lines that are not imported, and patterns for the reasons.
ROWS: dict[str, tuple[str, dict[str, str], list[int], list[str]]] = {
    "no identity": (H + "u1,,\n,,x\n   , ,\nu4,,\n", USER, [3], ["user_id, email or id"]),
    "invalid address": (H + ",none,x\n,a@x,y\n", USER, [2], ["user_id, email or id"]),
    "more cells": (H + "u1,,\nu2,,,more\nu3,,,\n", USER, [3, 4], ["4 cells", "3"]),
    "nine in ten rows have an extra blank cell": (NINE_IN_TEN, USER, [], []),
    "nine in ten, and one with text": (H + MANY + "u9,,,x\n", USER, [11], ["4 cells"]),
    "nine in ten, and one wider": (H + MANY + "u9,,,,\n", USER, [11], ["5 cells"]),
    "nine in ten, but not the first": (H + "u9,,\n" + MANY, USER, [], []),
    "eight in ten": (
        H + "a,,\nb,,\n" + "".join(f"v{n},,,\n" for n in range(8)),
        USER, list(range(4, 12)), ["4 cells"],
    ),
    "trimmed": ("user_id,email,name,plan\nu1,a@x.eu\nu2,,Bo\nu3,,C,p\n", USER, [], []),
    "trimmed, with typed cells": (
        "user_id,joined,a,b\nu1,2026-01-02\nu2,1760000000,x\nu3,,x\n", SIGNUP, [], [],
    ),
    "trimmed, a spreadsheet error": ("user_id,name,a,b\nu1,#N/A,x\n", NAME, [], []),
    "shifted: a typed cell": (
        "user_id,joined,a,b\nu1,gold,x\nu2,2026-13-01,x\nu3,,x\n", SIGNUP, [2, 3], ["3 cells", "4"],
    ),
    "shifted: an e-mail in a string column": (
        "user_id,name,a,b\nu1,a@x.eu,x\nu2,a @ x,x\n", NAME, [2], ["3 cells"],
    ),
    "shifted: no e-mail in its column": (
        "user_id,email,name,a\nu1,Ada,x\nu2,,x\n", USER, [2], ["3 cells"],
    ),
    "identity cut off": ("a,name,user_id\nx,y\nx,y,u2\n", NAME, [2], ["2 cells"]),
    "no identity in a short row": ("user_id,name,a\n,y\nu2,y\n", NAME, [2], ["2 cells"]),
    "one cell": (
        "user_id,plan,note\nu1,pro,first\nsecond line\nasap\n", IDENTITY, [3, 4], ["1 cell"],
    ),
    "one cell for two headings": ("user_id,plan\nu1,pro\nu2\n", IDENTITY, [3], ["1 cell"]),
    "one cell for one heading": ("user_id\nu1\nu2\n", IDENTITY, [], []),
    "one cell for one heading and a comma": ("user_id,\nu1\nu2,\n", IDENTITY, [], []),
    "ruled lines": (
        H + "-------,---,----\n===,===,===\n:--,---,--:\nu1,,-\nu-1,,---\n",
        USER, [2, 3, 4], ["ruled"],
    ),
    "blank rows": (
        H + "u1,,\n,,\n,,,,,,\n,\n \n\t\n\n\"\",\"\"\n\u200b,\xa0\nu2,,\n,,\n", USER, [], [],
    ),
    "text after a closing quote": (
        H + 'u1,,One\n"u2"x,,Two\nu3,,"a\nb" c\nu4,,a "quoted" word\nu5,,""\n', USER, [3, 4],
        ["quote"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_a_damaged_row_is_not_imported_and_the_rows_around_it_are(case: str) -> None:
    content, mapping, rejected, words = ROWS[case]
    found = read(content, user=mapping)
    assert found.reason == ""
    assert list(found.rejected) == rejected
    for reason in found.rejected.values():
        assert_says(reason, *words)
    assert found.users


def test_words_for_empty_do_not_identify_a_user() -> None:
    found = read(r"user_id,a,b" "\n" r"\N,x" "\n" r"u1,\N,x" "\n", csv={"empty": r"\N"})
    assert (list(found.rejected), len(found.users)) == ([2], 1)


# In SWALLOWED, a stray quote has swallowed the rows after it. MULTI_LINE is ordinary text with line
# breaks.
SWALLOWED = {
    "both": 'user_id,name,email\nu1,"Ada,a@x.eu\nu2,Bo 5\'11",b@x.eu\n',
    "three": 'user_id,name,email\nu1,"Ada,a@x.eu\nu2,Bo,b@x.eu\nu3,Cy",c@x.eu\n',
    "at the end": 'user_id,email,name\nu1,a@x.eu,"Ada\nu2,b@x.eu,Bo"\n',
    "an id in digits": 'user_id,email,name\n1,a@x.eu,"Ada\n2,b@x.eu,Bo"\n',
    "without an e-mail column": 'user_id,name\n1,"Ada\n2,Bo"\n',
    "by id": 'id,name\n1,"Ada\n2,Bo"\n',
    "by e-mail alone": 'email,name\na@x.eu,"Ada\nb@x.eu,Bo"\n',
}
MULTI_LINE = {
    "commas": 'user_id,email,name\nu1,a@x.eu,"Dear Ada,\nthank you, and see you, Bo"\n',
    "an address": 'user_id,email,name\nu1,a@x.eu,"7, Main Street, London\n8, Elm Road, Leeds"\n',
    "ids of another form": 'user_id,email,name\nu1,a@x.eu,"Ada\n2,b@x.eu,Bo"\n',
    "words for ids": 'user_id,name\nu1,"Ada\nand,Bo"\n',
    "an id by itself": 'id,name\n17,"a\nb,c"\n',
    "other widths": 'user_id,email,name\nu1,a@x.eu,"Ada\nu2,b@x.eu"\n',
    "a blank line": 'user_id,email,name\nu1,a@x.eu,"Ada\n\nu2,b@x.eu,Bo"\n',
    "no e-mail": 'user_id,email,name\nu1,a@x.eu,"Ada\nu2,at x.eu,Bo"\n',
}


@pytest.mark.parametrize("case", SWALLOWED)
def test_a_record_that_has_swallowed_rows_is_not_imported(case: str) -> None:
    heading = SWALLOWED[case].partition("\n")[0].split(",")
    user = {name: name for name in heading}
    last = ",".join(
        {"email": "z@x.eu", "name": "Zoe"}.get(name, "9u"[:1]) for name in heading
    )
    found = read(SWALLOWED[case] + last + "\n", user=user)
    assert list(found.rejected) == [2]
    assert_says(found.rejected[2], "quote")
    assert len(found.users) == 1


@pytest.mark.parametrize("case", MULTI_LINE)
def test_multi_line_text_is_imported(case: str) -> None:
    content = MULTI_LINE[case]
    user = {name: name for name in content.partition("\n")[0].split(",")}
    found = read(content, user=user)
    assert found.is_silent
    assert "\n" in found.users[0]["name"]


@pytest.mark.parametrize(
    ("encoding", "bad", "good"),
    [
        ("cp1252", b"\x81", "é"),
        ("shift_jis", b"\x81", "表"),
        ("utf-8", b"\xed\xa0\x80", "é"),
    ],
)
def test_only_the_row_with_invalid_bytes_is_rejected_and_its_bytes_are_kept(
    project: Project, encoding: str, bad: bytes, good: str
) -> None:
    project.configure(csv={"encoding": encoding}, user=USER)
    good_rows = f"u1,,{good}\n".encode(encoding) * 2
    bad_row = b"u2,," + bad + b"\n"
    project.write(H.encode() + bad_row + good_rows)
    result = project.run()
    assert result.counts() == (2, 0, 1)
    line_of(result.error_log, "line 2", encoding)
    assert result.reject_files[0].read_bytes() == H.encode() + bad_row


def test_rows_are_named_by_the_lines_on_which_they_begin(project: Project) -> None:
    """Only LF, CRLF and CR end a line, not the other line separators of Unicode."""
    names = ["one\ntwo", "one\r\n\r\nthree", "a\vb\fc\x1cd\x85e\u2028f\u2029g", "last"]
    rows = "".join(f'u{n},,"{name}"\n' for n, name in enumerate(names))
    project.write(f'"user_id","email","name"\n{rows}bad\n')
    result = project.run()
    assert imported(project) == ["u0", "u1", "u2", "u3"]
    for line, user in ((2, "u0"), (4, "u1"), (7, "u2"), (8, "u3")):
        assert lines_of(result.debug_log, f"line {line} ", user)
    assert result.reasons()[0][0] == "9"


#### Random tables

TEXT = st.text(
    st.one_of(
        st.sampled_from("\"',;|\t \\\n=aé表"),
        st.characters(exclude_categories=["Cs", "Cc"]),
    ),
    max_size=12,
)
DELIMITERS = {",": ",", ";": ";", "|": "|", "tab": "\t", '" "': " "}


def as_imported(cell: str) -> str:
    """Return the value sent for a cell, or "" for a spreadsheet error or U+FFFD."""
    cell = export_csv.clean_cell(cell)
    try:
        return export_csv.to_attribute_text(cell)
    except ValueError:
        return ""


@NO_DEADLINE
@given(
    st.lists(st.lists(TEXT, min_size=3, max_size=3), min_size=1, max_size=12),
    st.sampled_from(sorted(DELIMITERS)),
    st.sampled_from(['"', "'", "none"]),
    st.sampled_from(["", "\\"]),
    st.sampled_from(["utf-8", "utf-16", "gb18030"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_random_tables_in_any_csv_dialect_are_read_back_without_warnings(
    table: list[list[str]],
    delimiter: str,
    quote: str,
    escape: str,
    encoding: str,
    ending: str,
) -> None:
    if quote == "none":
        escape = "\\"
    written = io.StringIO(newline="")
    writer = csv.writer(
        written,
        delimiter=DELIMITERS[delimiter],
        quotechar=None if quote == "none" else quote,
        quoting=csv.QUOTE_NONE if quote == "none" else csv.QUOTE_MINIMAL,
        escapechar=escape or None,
        doublequote=not escape,
        lineterminator=ending,
    )
    writer.writerow(["user_id", "a", "b", "c"])
    for number, cells in enumerate(table):
        writer.writerow([f"u{number}", *cells])
    found = read(
        written.getvalue().encode(encoding),
        csv={
            "delimiter": delimiter,
            "quote": quote,
            "escape": escape,
            "encoding": encoding,
        },
        custom_attributes={"a": "a", "b": "b", "c": "c"},
    )
    assert found.reason == ""
    assert found.rejected == {}
    assert found.warnings == []
    for number, (cells, user) in enumerate(zip(table, found.users, strict=True)):
        expected = {
            name: as_imported(cell) for name, cell in zip("abc", cells, strict=True)
        }
        attributes = user.get("custom_attributes", {})
        assert user["user_id"] == f"u{number}"
        assert {name: attributes.get(name, "") for name in "abc"} == expected
