"""From a row to a user: fields, headings, delimiters, encodings, quotes, line ends, damaged rows.

What a cell means is in test_cells.py, what stops a run in test_first_reading.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Project, Result, imported, refusal
from sandbox import Sandbox

HEADING = "user_id,email,name\n"


def sent(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The users that were sent, in their order."""
    return [request.body for request in sandbox.requests]


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
    cells = ["17", "ada@example.com", "1760000000", "Ada", "10.0.0.1", "Firefox" * 99]
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
            "last_seen_user_agent": "Firefox" * 99,
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
def test_each_identity_is_enough_and_only_what_is_mapped_is_sent(
    project: Project, identity: str
) -> None:
    project.configure(user={identity: "who", "name": "name"})
    project.write("who,name,email,id\n007,James,e,8\n")
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


def test_a_blank_cell_is_not_filled_by_the_row_before(project: Project) -> None:
    project.configure(user={"user_id": "user_id", "name": "name", "new_session": "'yes'"})
    project.configure(custom_attributes={"plan": "plan", "source": "'csv'"})
    project.write("user_id,name,plan\nu1,Ada,gold\nu2,,\n")
    ada, other = dry(project.run("--dry-run"))
    assert (ada["name"], ada["custom_attributes"]) == ("Ada", {"plan": "gold", "source": "csv"})
    same = {"new_session": True, "custom_attributes": {"source": "csv"}}
    assert other == {"user_id": "u2", **same}


def test_a_huge_wrong_cell_does_not_fill_the_log(project: Project) -> None:
    project.configure(custom_attributes={"count": "count : integer"})
    project.write(f"user_id,count\nu1,{'9' * 100_000}\nu2,5\n")
    result = project.run()
    assert result.counts() == (2, 0, 0)
    assert sent(project.sandbox)[0] == {"user_id": "u1"}
    assert len(result.debug_log) < 5_000


def test_digits_are_ascii(project: Project) -> None:
    """Python's own int, float and date take others too."""
    cells = {"１２": "integer", "١٢": "integer", "１.5": "float", "２０２６-01-02": "timestamp"}
    cells |= {"1760000００0": "timestamp", "1.0e３": "float"}
    project.configure(
        custom_attributes={f"a{n}": f"{n} : {kind}" for n, kind in enumerate(cells.values())}
    )
    headings = ",".join(map(str, range(len(cells))))
    project.write(f"user_id,{headings}\nu1,{','.join(cells)}\n")
    assert dry(project.run("--dry-run")) == [{"user_id": "u1"}]


def test_as_many_custom_attributes_as_intercom_takes(project: Project) -> None:
    project.configure(custom_attributes={f"a{n:0189}": "x" for n in range(250)})
    project.write("user_id,x\nu1,1\n")
    assert project.run().counts() == (1, 0, 0)
    assert len(sent(project.sandbox)[0]["custom_attributes"]) == 250


#### Rows that are no users


def test_a_damaged_row_leaves_the_rows_around_it_alone(project: Project, sandbox: Sandbox) -> None:
    project.write(
        HEADING.encode() + b"u1,,One\n,,Nobody\n   , ,\nu2,,Two\nu3,\nu4,,Four,more\n"
        b"u5,,F\xefve\nu6\n\xed\xa0\x80,,Surrogate\nu7,,Seven\n"
    )
    result = project.run()
    assert result.status == 1, result
    assert imported(project) == ["u1", "u2", "u7"]
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
    left = {path.name for path in project.folder.iterdir()}
    assert left == {"config.ini", "exports", "logs", "not_imported"}


def test_text_after_a_closing_quote_costs_its_row_alone(project: Project, sandbox: Sandbox) -> None:
    rows = ["u1,,One\n", '"u2"x,,Two\n', 'u3,,"a\nb" c\n', 'u4,,a "quoted" word\n', 'u5,,""\n']
    project.write(HEADING + "".join(rows))
    result = project.run()
    assert imported(project) == ["u1", "u4", "u5"]
    assert result.counts() == (3, 0, 2)
    assert sent(sandbox)[1]["name"] == 'a "quoted" word'
    assert result.not_imported[0].read_text() == HEADING + rows[1] + rows[2]
    for line in (3, 4):
        line_of(result.error_log, f"line {line}:", "not imported")


def test_blank_lines_are_skipped(project: Project, sandbox: Sandbox) -> None:
    project.write(f"\n \n{HEADING}\nu1,,\n\r\n\t\nu2,\nu3,,Three\n\n\n")
    result = project.run()
    assert imported(project) == ["u1", "u3"]
    assert result.counts() == (2, 0, 1)
    line_of(result.error_log, "line 8:")


#### Headings


def test_a_heading_that_is_there_twice_and_not_mapped_is_no_problem(project: Project) -> None:
    project.configure(user={"user_id": "user_id"})
    project.write("user_id,x,x\nu1,1,2\n")
    assert project.run().counts() == (1, 0, 0)


def test_headings_of_the_settings_are_checked_too(project: Project) -> None:
    project.configure(csv={"headings": "user_id,nane"}, user={"user_id": "user_id", "name": "name"})
    project.write("u1,Ada\n")
    line = refusal(project, project.run())
    assert "'name'" in line
    assert "nane" in line


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


def test_a_blank_that_parts_the_cells_is_not_skipped(project: Project) -> None:
    project.configure(csv={"delimiter": '" "'})
    project.write("user_id email name\nu1  Ada\n")
    assert dry(project.run("--dry-run")) == [{"user_id": "u1", "name": "Ada"}]


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


def test_a_stray_quote_ends_at_the_next_one(project: Project, sandbox: Sandbox) -> None:
    project.write(f'{HEADING}u1,,One\nu2,,"Two\nu3,,Three\nu4,,"Four"\nu5,,Five\n')
    result = project.run()
    assert imported(project) == ["u1", "u5"]
    assert result.counts() == (2, 0, 1)
    line_of(result.error_log, "line 3:")
