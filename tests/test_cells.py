"""What a cell means, by its column's type and the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from conftest import Project

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
    *("1899-12-30", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "00000000", "0001-01-01"),
    *("2201-01-01", "9999-12-31", "9999-12-31 23:59:59.9999999", "0000-00-00 00:00:00"),
    *("-2208988801", "7289654400", "-62135596800", "253402300799", "2026-02-30"),
    *("2026-11-24T25:00", "24/11/2026", "2026-11-24 09:05:07 CET", "2026-11-24 9:05 PM"),
    *("yesterday", "nan", "1e9", "２０２６-01-02", "1760000００0"),
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
Meaning = tuple[str, dict[str, str], Mapping[str, object], list[str]]
MEANINGS: list[Meaning] = [
    ("integer", {}, {"12": 12, "-5": -5, "12.0": 12, "12.00": 12, "\x00 1\u200b": 1, '="007"': 7},
     ["1.000", "1,000", "12.5", "12,0", "1e3", "0x10", "1_000", "twelve", "1 2", "inf",
      "１２", "١٢"]),
    ("Integer", COMMA, {"12": 12, "12,0": 12, "-12,00": -12}, ["1.000", "1,000", "12,5"]),
    ("float", {}, {"12.5": 12.5, "-0.5": -0.5, "3": 3, "1,234.5": 1234.5, "1,234,567": 1234567},
     ["12,50", "1,23,456.0", "1.234,5", "1_0.0", "nan", "inf", "-Infinity", "1e999", "x",
      "１.5", "1.0e３"]),
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


@pytest.mark.parametrize("meaning", MEANINGS, ids=[row[0] for row in MEANINGS])
def test_a_cell_means(project: Project, meaning: Meaning) -> None:
    """What is right is sent in its type; what isn't is left out, counted, and its user is sent."""
    kind, settings, right, wrong = meaning
    cells = [*right, *wrong]
    project.configure(
        csv=settings, user={"user_id": "row"}, custom_attributes={"x_at": f"The cell : {kind}"}
    )
    project.write(table(["row", "The cell"], [[f"u{n}", cell] for n, cell in enumerate(cells)]))
    result = project.run("--dry-run")
    sent = [user.get("custom_attributes", {}).get("x_at") for user in result.dry_users()]
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
    assert result.dry_users() == [{"user_id": f"u{n}"} for n in range(len(empty))]
    assert (result.status, len(result.err.splitlines())) == (0, 1), result.err


def test_what_is_no_moment_is_told_for_what_it_is(project: Project) -> None:
    why = {"20261124": "dash", "46350": "serial|spreadsheet", "2026": "a year"}
    why |= {"1760000000000": "millisecond", "9999-12-31": "none", "1899-12-30": "none"}
    why["0000-00-00"] = "none"
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
    assert [user[field] for user in result.dry_users()] == kept
    assert result.status == 1
    assert re.search(r"line 2\b.*1\.23E\+05", result.err), result.err
