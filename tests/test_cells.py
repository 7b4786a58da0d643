"""What a cell means, by its column's type and the settings, and which mappings are settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from conftest import Project, Result, refusal

TIMES = {  # where nothing else names a zone, they are UTC's
    "1760000000": 1760000000, "1760000000.25": 1760000000, "-2208988800": -2208988800,
    "2026-11-24": 1795478400, "2026-11-24T09:05": 1795511100, "2026-11-24 9:05": 1795511100,
    "2026-11-24T9:05:07": 1795511107, "2026-11-24T09:05:07Z": 1795511107,
    "2026-11-24 09:05:07 UTC": 1795511107, "2026-11-24 9:05 GMT": 1795511100,
    "2026-11-24T09:05:07+02:00": 1795503907, "2026-11-24T09:05:07-0530": 1795530907,
    "2026-11-24 09:05:07 +02:00": 1795503907, "2026-11-24T09:05:07.123456789Z": 1795511107,
    "1900-01-01": -2208988800, "1969-12-31T23:00Z": -3600, "1970-01-01T00:00:01Z": 1,
    "2199-12-31T23:59:59Z": 7258118399, "\u200b2026-11-24\xa0": 1795478400,
}  # fmt: skip
NO_TIMES = [
    *("0", "0.0", "20261124", "46350", "46350.375", "2026", "1760000000000", "1795511107000000"),
    *("1970-01-01", "1970-01-01T00:00:00Z", "1970-01-01T01:00+01:00", "1899-12-31T23:59:59Z"),
    *("1899-12-30", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "00000000"),
    *(
        "2201-01-01",
        "9999-12-31",
        "9999-12-31 23:59:59.9999999",
        "0001-01-01",
        "0000-00-00 00:00:00",
    ),
    *(
        "-2208988801",
        "7289654400",
        "-62135596800",
        "253402300799",
        "2026-02-30",
        "2026-11-24T25:00",
    ),
    *("24/11/2026", "2026-11-24 09:05:07 CET", "2026-11-24 9:05 PM", "yesterday", "nan", "1e9"),
]
IN_BERLIN = {
    "2026-12-01 12:00": 1796122800, "2026-07-01 12:00": 1782900000, "2026-07-01": 1782856800,
    "2026-10-25 02:30": 1792888200,  # the doubled hour's first
    "2026-10-25 02:30:00Z": 1792895400, "2026-10-25 02:30+01:00": 1792891800,
    "2026-07-01 12:00 UTC": 1782907200, "1760000000": 1760000000,
}  # fmt: skip
YES, NO = ["true", "T", "yes", "Y", "ON", "1", "1.0"], ["False", "f", "No", "n", "off", "0", "0.0"]
NEITHER = ["1.00", "2", "-1", "10", "ja", "Yes.", "VRAI", "FAUX", "WAHR", "N/A", "\x01"]
BERLIN, COMMA, WORDS = {"timezone": "Europe/Berlin"}, {"decimal": ","}, {"empty": r"NULL, \N ,#N/A"}
# type, [csv] settings, what cells mean, and cells that are not of this type
MEANINGS: list[tuple[str, dict[str, str], Mapping[str, object], list[str]]] = [
    ("integer", {}, {"12": 12, "-5": -5, "12.0": 12, "12.00": 12, "\x00 1\u200b": 1, '="007"': 7},
     ["1.000", "1,000", "12.5", "12,0", "1e3", "0x10", "1_000", "twelve", "1 2", "inf"]),
    ("Integer", COMMA, {"12": 12, "12,0": 12, "-12,00": -12}, ["1.000", "1,000", "12,5"]),
    ("float", {}, {"12.5": 12.5, "-0.5": -0.5, "3": 3, "1,234.5": 1234.5, "1,234,567": 1234567},
     ["12,50", "1,23,456.0", "1.234,5", "1_0.0", "nan", "inf", "-Infinity", "1e999", "x"]),
    ("FLOAT", COMMA, {"12,50": 12.5, "-0,5": -0.5, "3": 3, "1.234,5": 1234.5, "1.234": 1234},
     ["12.50", "1,234.5", "1,2,3", "1.23.456,0"]),
    ("boolean", {}, dict.fromkeys(YES, True) | dict.fromkeys(NO, False), NEITHER),
    ("Not Boolean", {}, dict.fromkeys(YES, False) | dict.fromkeys(NO, True), NEITHER),
    ("timestamp", {}, TIMES, NO_TIMES),
    ("TIMESTAMP", BERLIN, IN_BERLIN, ["2026-10-25 02:30 CET"]),
    ("timestamp %d.%m.%Y %H:%M", BERLIN,
     {"24.11.2026 9:05": 1795507500, "25.10.2026 02:30": 1792888200},
     ["11.24.2026 09:05", "24.11.2026", "2026-11-24", "1760000000", "01.01.1899 00:00"]),
    ("Timestamp %Y%m%d", {}, {"20261124": 1795478400}, ["19700101", "99991231", "2026-11-24", "0"]),
    ("timestamp %Y-%m-%dT%H:%M%z", BERLIN,
     {"2026-11-24T09:05+0200": 1795503900}, ["2026-11-24T09:05"]),
    ("string", WORDS, {"x" * 255: "x" * 255, "NULLER": "NULLER", "0012": "0012"}, ["x" * 256]),
]  # fmt: skip


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A CSV with every cell in quotes, and with NULs, which csv.writer refuses before 3.11."""
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in [headings, *rows]]
    return "".join(",".join(row) + "\n" for row in quoted)


def users(result: Result) -> list[dict[str, Any]]:
    """What a dry run would send."""
    assert "Traceback" not in result.err, result
    return [json.loads(line) for line in result.out.split("\n")[:-1]]


@pytest.mark.parametrize(
    ("kind", "settings", "right", "wrong"), MEANINGS, ids=[row[0] for row in MEANINGS]
)
def test_a_cell_means(
    project: Project,
    kind: str,
    settings: dict[str, str],
    right: dict[str, object],
    wrong: list[str],
) -> None:
    """What is right is sent in its type; what isn't is left out, counted, and its user is sent."""
    cells = [*right, *wrong]
    project.configure(
        csv=settings, user={"user_id": "row"}, custom_attributes={"x_at": f"The cell : {kind}"}
    )
    project.write(table(["row", "The cell"], [[f"u{n}", cell] for n, cell in enumerate(cells)]))
    result = project.run("--dry-run")
    sent = [user.get("custom_attributes", {}).get("x_at") for user in users(result)]
    assert dict(zip(cells, sent, strict=True)) == {**right, **dict.fromkeys(wrong)}, result.err
    types = {type(value) for value in [*right.values(), None]}
    assert kind.lower() == "float" or {type(value) for value in sent} == types
    assert result.status == 0
    (count, *_) = [line for line in result.err.splitlines() if "The cell" in line]
    assert re.search(rf"\b{len(wrong)}\b", count), result.err


def test_what_is_empty_leaves_its_field_out_and_is_no_wrong_cell(project: Project) -> None:
    project.configure(
        csv=WORDS,
        user={"user_id": "user_id", "name": "name", "signed_up_at": "since"},
        custom_attributes={"n": "n : integer"},
    )
    empty = ["", " ", "NULL", r" \N", "#N/A", "\x00", "\u200b\u200f", '=""', "\ufeff", "\xad"]
    rows = [[f"u{n}", word, word, word] for n, word in enumerate(empty)]
    project.write(table(["user_id", "name", "since", "n"], rows))
    result = project.run("--dry-run")
    assert users(result) == [{"user_id": f"u{n}"} for n in range(len(empty))]
    assert (result.status, len(result.err.splitlines())) == (0, 1), result.err


def test_what_is_no_moment_is_told_for_what_it_is(project: Project) -> None:
    why = {
        "20261124": "dash",
        "46350": "serial|spreadsheet",
        "2026": "a year",
        "0000-00-00": "none",
    }
    why |= {"1760000000000": "millisecond", "9999-12-31": "none", "1899-12-30": "none"}
    attributes = {f"t{n}_at": f"Heading {n} : timestamp" for n in range(len(why))}
    project.configure(user={"user_id": "user_id"}, custom_attributes=attributes)
    headings = ["user_id", *[f"Heading {n}" for n in range(len(why))]]
    project.write(table(headings, [["u1", *why], ["u2", *["2026-11-24"] * len(why)]]))
    err = project.run("--dry-run").err
    for cell, words in why.items():
        assert re.search(rf"line 2\b.*\b{cell}\b.*({words})", err, re.IGNORECASE), err


@pytest.mark.parametrize("field", ["user_id", "email", "id"])
def test_an_identity_that_a_tool_rewrote_is_none(project: Project, field: str) -> None:
    """Though another field of the row could identify it."""
    rewritten = ["1.23E+05", "1,23457E+11", "1e+16", "1001.0", "1001.00", " 1001.0\u200b"]
    kept = ["1001", "0012", "1.2.3", "v1.0", "user.0", "a@x.eu", "12E", "E+5"]
    project.configure(user={field: "who", "email" if field == "user_id" else "user_id": "other"})
    rows = [[cell, f"o{n}@x.eu"] for n, cell in enumerate([*rewritten, *kept])]
    project.write(table(["who", "other"], rows))
    result = project.run("--dry-run")
    assert [user[field] for user in users(result)] == kept
    assert result.status == 1
    assert re.search(r"line 2\b.*1\.23E\+05", result.err), result.err


#### Settings


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
    headings = ["ID: own", "Name", "Signup: date", "News:letter", "a:b", "c:integer", "Note: text"]
    project.write(table(headings, [["u1", "Ada", "24/11/2026 09:05", "yes", "1", "2", "3"]]))
    assert users(project.run("--dry-run")) == [
        {
            "user_id": "u1",
            "name": "Ada",
            "signed_up_at": 1795511100,
            "unsubscribed_from_emails": False,
            "custom_attributes": {"a": 1, "b": "2", "c": "3"},
        }
    ]


def problem(result: Result, place: str) -> str:
    """The one line about this key among those of wrong settings."""
    assert (result.status, result.out) == (2, ""), result
    lines = [line for line in result.err.splitlines() if f"config.ini: {place}: " in line]
    assert len(lines) == 1, (place, result.err)
    return lines[0].partition(f"{place}: ")[2]


def test_wrong_mappings_are_told_together_with_what_is_meant(project: Project) -> None:
    """A type that isn't the field's, a format that is none, a key that is almost a field."""
    project.notices()
    types = {"user_id": "integer", "name": "not boolean", "signed_up_at": "boolean"}
    types |= {"new_session": "timestamp", "last_request_at": "timestamp %Q"}
    near = {"userid": "user_id", "nmae": "name", "signedup_at": "signed_up_at"}
    project.configure(user={field: f"name : {kind}" for field, kind in types.items()})
    project.configure(user={**dict.fromkeys(near, "name"), "Email": "email"})
    project.users(1)
    result = project.run()
    for key, words in (types | near).items():
        assert words.removeprefix("timestamp ") in problem(result, f"[user] {key}")
    # A key in capitals could be a secret, so its line's number stands for it.
    assert re.search(r"config\.ini: line \d+: .*\bemail\b", result.err)
    assert not project.sandbox.requests
    assert project.sandbox.hipchat[-1]["color"] == "red"


def test_a_key_that_is_no_field_is_discarded_and_told(project: Project) -> None:
    """Intercom's own others, too."""
    others = ["phone", "avatar", "owner_id", "role", "external_id", "last_seen_at", "companies"]
    others += ["tags", "shoe_size"]
    project.configure(user={"user_id": "user_id"} | dict.fromkeys(others, "name"))
    project.users(1)
    result = project.run()
    assert [request.body for request in project.sandbox.requests] == [{"user_id": "u1"}]
    assert result.status == 0
    for key in others:
        words = rf"\b{key}\b.*is not among the fields that are sent"
        for text in result.out + result.err, result.debug_log:
            assert len(re.findall(words, text)) == 1, (key, text)


def test_values_that_no_setting_can_have_are_told_together(project: Project) -> None:
    wrong = {"decimal": ";", "timezone": "Mars/Olympus", "min_rows": "few"}
    project.configure(csv=wrong, file={"max_age_hours": "-1"})
    result = project.run()
    for key, value in wrong.items():
        assert value in problem(result, f"[csv] {key}")
    assert "-1" in problem(result, "[file] max_age_hours")


BLIND = ["users_%d-%m", "%Y-%d", "%Y-%m-%H", "%Y-%m-%dT%I-%M", "%Y-%m-%dT%M", "%Y-%W"]
SEEING = ["%Y", "%y%m%d", "%Y-%j", "%d-%b-%Y %I-%M %p", "%Y-%m-%dT%H-%M-%S%z"]


@pytest.mark.parametrize("form", BLIND + SEEING)
def test_a_time_format_has_to_tell_which_file_is_newer(project: Project, form: str) -> None:
    project.configure(file={"time_format": form})
    result = project.run()
    if form in BLIND:
        assert form in problem(result, "[file] time_format")
    else:  # there is no file
        assert str(project.exports) in refusal(project, result)


def test_headings_without_an_identity_stop_a_run_that_maps_what_is_there(project: Project) -> None:
    project.write("name,User-ID,plan\n" + "Ada,u1,gold\n" * 3)
    line = refusal(project, project.run())
    assert re.search("user_id.*email.*id", line)
    assert "User-ID" in line
