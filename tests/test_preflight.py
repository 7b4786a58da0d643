"""The preflight: files that stop the run before it sends anything, or that don't."""

from __future__ import annotations

import gzip
import re
import signal
import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    FORMAT,
    NAME,
    Project,
    assert_says,
    eventually,
    imported,
    posix,
    stop_message,
)
from in_process import Reading, read

from export_csv import RepeatedUsersEvidence

H = "user_id,email,name\n"
MEBI = 2**20
Sections = dict[str, dict[str, Any]]
ID: Sections = {"user": {"user_id": "user_id"}}
USER: Sections = {"user": {"user_id": "user_id", "email": "email", "name": "name"}}


def rows(
    count: int, row: str = "u{0},u{0}@example.com,User {0}\n", first: int = 1
) -> str:
    return "".join(row.format(number) for number in range(first, first + count))


def stopped(project: Project, *words: str, file: str = "") -> str:
    """Run the script and return its stop message; check that notices contain it."""
    project.enable_notices()
    line = stop_message(project, project.run(*[file] if file else []))
    assert_says(line, *words)
    last = project.services.hipchat[-1]
    assert last["color"] == "red"
    assert_says(last["message"], *words)
    assert len(project.services.slack) == len(project.services.hipchat)
    assert not (project.folder / "not_imported").exists()
    return line


def reading_of(
    content: str | bytes, sections: Sections | None = None, name: str = "users.csv"
) -> Reading:
    """Read a file in this process, as a run would if the command line named it."""
    return read(content, name, **(sections or {}))


def assert_stops(reading: Reading, *words: str) -> None:
    assert reading.reason != ""
    assert_says(reading.reason, *words)


#### Old, future and empty files


def name_of(hours_old: float) -> str:
    """Return the name of a file that is this many hours old."""
    moment = datetime.now(timezone.utc) - timedelta(hours=hours_old)
    return f"{moment:{FORMAT}}.csv"


def test_an_old_file_stops_the_run_unless_the_command_line_names_it(
    project: Project,
) -> None:
    project.configure(file={"max_age_hours": 72})
    old = project.users(1, name_of(100)).name
    stopped(project, re.escape(old), "max_age_hours", r"\b72\b")
    project.configure(file={"select_latest": "false", "name": old})
    stopped(project, re.escape(old), "max_age_hours", r"\b72\b")
    assert project.run(old).status == 0
    project.configure(file={"select_latest": "true"})
    project.users(2, name_of(40))
    assert project.run().status == 0
    assert imported(project) == ["u1", "u1", "u2"]


def test_a_file_from_the_future_stops_the_run_unless_the_command_line_names_it(
    project: Project,
) -> None:
    """In another time zone, a file may be up to 24 hours ahead."""
    project.users(1, name_of(-23))
    assert project.run().status == 0
    future = project.users(2, name_of(-26)).name
    assert imported(project) == ["u1"]
    project.services.requests.clear()
    stopped(project, re.escape(future), "future", r"\b24 hours")
    assert project.run(future).status == 0
    assert imported(project) == ["u1", "u2"]


def test_the_offset_in_a_name_counts_for_its_age(project: Project) -> None:
    time_format = "%Y-%m-%dT%H-%M%z"
    project.configure(file={"max_age_hours": 3, "time_format": time_format})
    now = datetime.now(timezone(timedelta(hours=-12)))
    project.users(1, f"{now:{time_format}}.csv")
    assert project.run().status == 0


def test_too_few_rows_stop_the_run_unless_the_command_line_names_the_file(
    project: Project,
) -> None:
    project.configure(csv={"min_rows": 3})
    project.users(2)
    stopped(project, "min_rows = 3", r"\b2 rows")
    project.configure(file={"select_latest": "false", "name": NAME})
    stopped(project, "min_rows = 3", r"\b2 rows")
    assert project.run(NAME).counts() == (2, 0, 0)
    project.configure(csv={"min_rows": 2})
    assert project.run().counts() == (2, 0, 0)


EMPTY = ["", "\ufeff", H, f"\n{H}\n{H}\n", f"{H},,\n , ,\t\n", f"\ufeff{H}"]
HEADINGS: Sections = {"csv": {"headings": "user_id"}}


@pytest.mark.parametrize("content", EMPTY)
def test_a_file_without_any_row_stops_the_run(content: str) -> None:
    """Even if the command line names it, as here."""
    assert_stops(reading_of(content), "empty|no rows")
    assert_stops(reading_of(content.replace(H, "\n"), HEADINGS), "empty|no rows")


@pytest.mark.parametrize("content", EMPTY)
def test_min_rows_0_accepts_headings_alone(content: str) -> None:
    reading = reading_of(content, {"csv": {"min_rows": 0}})
    assert (reading.reason == "") == (H in content), reading


def test_a_file_of_0_bytes_always_stops_the_run() -> None:
    sections = {"csv": {"headings": "user_id", "min_rows": 0}}
    assert_stops(reading_of("", sections), "empty")
    assert_stops(reading_of(gzip.compress(b""), sections), "empty")
    assert reading_of("\n", sections).reason == ""


#### Files that can't be read to the end

PACKED = gzip.compress((H + rows(200)).encode(), mtime=0)
INCOMPLETE = "truncated or corrupt"
UTF_16 = (H + rows(5)).encode("utf-16")
LONG = "é" * (MEBI + 9)
# Settings, content, and the words of the message
UNREADABLE: dict[str, tuple[Sections, str | bytes, list[str]]] = {
    "half a gzip": ({}, PACKED[:-300], [INCOMPLETE]),
    "no trailer": ({}, PACKED[:-3], [INCOMPLETE]),
    "half a second member": ({}, PACKED + PACKED[:40], [INCOMPLETE]),
    "damaged": (
        {},
        PACKED[:99] + bytes([PACKED[99] ^ 255]) + PACKED[100:],
        [INCOMPLETE],
    ),
    "checksum": ({}, PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], [INCOMPLETE]),
    "quote": ({}, H + 'u1,,One\nu2,,"Two\nu3,,Three\n', ["quote", r"\bline 3\b"]),
    "quote in the headings": (
        {},
        'user_id,"email,name\nu1,,1\n',
        ["quote", r"\bline 1\b"],
    ),
    "quote after a record": (
        {},
        H + '1,,x\n"\n2","\n\n",x\n4,,"T\n5,,\n',
        [r"\bline 7\b"],
    ),
    "long line": ({}, H + f"1,,x\n2,,{LONG}\n3,,x\n", ["1,048,576", r"\bline 3\b"]),
    "long line of cells": ({}, H + f"1,,x\n2,,{'x,' * MEBI}\n", [r"\bline 3\b"]),
    "long headings": ({}, LONG, [r"\bline 1\b"]),
    "UTF-16": ({"csv": {"encoding": "utf-16"}}, UTF_16[:-1], ["utf-16"]),
    "UTF-16 by its BOM": ({}, UTF_16[:-1], ["utf-16"]),
}
READABLE: dict[str, tuple[Sections, str | bytes, int]] = {
    "a shorter line": ({}, H + "1,," + "é" * (MEBI - 4) + "\n", 1),
    "a shorter cell": ({}, H + '1,,"' + ("é" * 999 + "\n") * 1000 + '"\n', 1),
    "a lone surrogate": (
        {"csv": {"encoding": "utf-16"}},
        UTF_16 + b"\x00\xd8x\x00\n\x00",
        5,
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_cannot_be_read_to_its_end_stops_the_run(case: str) -> None:
    sections, content, words = UNREADABLE[case]
    assert_stops(reading_of(content, sections), *words)


@pytest.mark.parametrize("case", READABLE)
def test_a_file_that_is_barely_readable_is_imported(case: str) -> None:
    sections, content, users = READABLE[case]
    reading = reading_of(content, sections)
    assert (reading.reason, len(reading.users)) == ("", users)


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
@pytest.mark.parametrize(
    ("start", "filler"),
    [("u1,", b"x"), ('u1,,"', b"u2,,Two and so on\n")],
    ids=["line", "quote"],
)
def test_memory_stays_flat_if_a_line_or_quote_never_ends(
    project: Project, start: str, filler: bytes
) -> None:
    import resource  # not available on Windows

    member = gzip.compress(filler * (MEBI // len(filler)))
    project.write(gzip.compress((H + start).encode()) + member * 500, f"{NAME}.gz")
    child = project.start()
    resource.prlimit(child.process.pid, resource.RLIMIT_DATA, (120 * MEBI, 120 * MEBI))
    assert_says(stop_message(project, child.wait()), r"\bline 2\b")


#### Encodings

ZOE = "u{0},u{0}@example.com,Zoë\n"
PLAIN = rows(20)
LATIN = (H + rows(10, ZOE)).encode("cp1252")
NINE_LATIN = (H + rows(9, ZOE)).encode("cp1252") + PLAIN.encode()
SMALL_JAPANESE = (H + rows(3, "u{0},,東\n")).encode()
JAPANESE = (H + rows(5, "u{0},,東京\n")).encode()
WRONG_ENCODINGS: dict[str, tuple[str, bytes, str]] = {
    "ten rows of Latin-1": ("utf-8", LATIN, "cp1252"),
    "Japanese": ("utf-8", (H + rows(10, "u{0},,東京\n")).encode("cp932"), "cp1252"),
    "headings": (
        "utf-8",
        (H.replace("name", "prénom") + PLAIN).encode("cp1252"),
        "cp1252",
    ),
    "utf-8 as cp1252": ("cp1252", (H + PLAIN + rows(1, ZOE)).encode(), "utf-8"),
    "utf-8 as latin-1": ("latin-1", (H + rows(1, ZOE)).encode(), "utf-8"),
    "utf-8 as ascii": ("ascii", (H + rows(1, ZOE)).encode(), "utf-8"),
    "utf-8 headings": ("cp1250", ("é," + H + rows(1, "1,u1,,\n")).encode(), "utf-8"),
    "an unmapped cell": ("cp1252", (H[:-1] + ",é\nu1,,,né\n").encode(), "utf-8"),
    "ten letters as cp932": ("cp932", JAPANESE, "utf-8"),
    "ten letters as gb18030": ("gb18030", JAPANESE, "utf-8"),
}
RIGHT_ENCODINGS: dict[str, tuple[str, bytes]] = {
    "nine rows of Latin-1": ("utf-8", NINE_LATIN),
    "one valid row": ("utf-8", LATIN + rows(1, ZOE, 99).encode()),
    "cp1252": ("cp1252", LATIN),
    "one letter of cp1252": ("cp1252", (H + rows(1, ZOE)).encode("cp1252")),
    "cp1252, and a row that looks like UTF-8": (
        "cp1252",
        (H + rows(1, ZOE)).encode("cp1252") + "u9,,Ünal\n".encode(),
    ),
    "a few letters as cp932": ("cp932", SMALL_JAPANESE),
    "cp932": ("cp932", (H + rows(20, "u{0},,東京\n")).encode("cp932")),
    "big5": ("big5", (H + rows(20, "u{0},,東京\n")).encode("big5")),
    "a BOM takes precedence": ("cp1252", ("\ufeff" + H + rows(1, ZOE)).encode()),
    "ASCII": ("cp1252", (H + PLAIN).encode()),
    "UTF-16": ("utf-16", (H + rows(20, ZOE)).encode("utf-16")),
    "UTF-16 without a BOM": ("utf-16-le", (H + rows(20, ZOE)).encode("utf-16-le")),
    "EBCDIC": ("cp500", (H + rows(20, ZOE)).encode("cp500")),
    "utf-7": ("utf-7", (H + rows(20, ZOE)).encode("utf-7")),
}


@pytest.mark.parametrize("case", WRONG_ENCODINGS)
def test_a_wrong_encoding_stops_the_run_with_the_one_to_set(case: str) -> None:
    encoding, content, suggested = WRONG_ENCODINGS[case]
    reading = reading_of(content, {"csv": {"encoding": encoding}})
    assert_stops(reading, rf"encoding = {suggested}")


@pytest.mark.parametrize("case", RIGHT_ENCODINGS)
def test_a_plausible_encoding_does_not_stop_the_run(case: str) -> None:
    encoding, content = RIGHT_ENCODINGS[case]
    reading = reading_of(content, {"csv": {"encoding": encoding}})
    assert reading.reason == ""
    assert len(reading.users) + len(reading.rejected) == content.count(b"\n") - 1 or (
        encoding.startswith(("utf-16", "cp500"))
    )


#### Gzip by its content


@pytest.mark.parametrize("name", ["users.csv", "users.CSV.gz"])
@pytest.mark.parametrize("packed", [True, False])
def test_gzip_is_recognized_by_its_content(name: str, packed: bool) -> None:
    """If the name suggests otherwise, a note says so, but not under --quiet."""
    content = (H + rows(2)).encode()
    reading = reading_of(gzip.compress(content) if packed else content, name=name)
    assert ([user["user_id"] for user in reading.users], reading.is_silent) == (
        ["u1", "u2"],
        True,
    )
    is_named_gzip = name.endswith(".gz")
    assert len(reading.notes) == (packed != is_named_gzip)
    for note in reading.notes:
        assert_says(note, re.escape(name), "gzip" if packed else "not compressed")


#### Headings

NAMED: Sections = {"user": {"user_id": "user_id", "name": "Full name"}}
THREE: Sections = {"user": {"user_id": "User", "email": "Mail", "name": "Full name"}}
WRONG_HEADINGS: dict[str, tuple[Sections, str, list[str]]] = {
    "missing": (NAMED, "user_id,e-mail,Fullname\nu1,a,b\n", ["Full name", "Fullname"]),
    "twice": (NAMED, "user_id,Full name,Full name\nu1,a,b\n", ["Full name", "twice"]),
    "twice, invisibly": (
        NAMED,
        "user_id,Full name\u200b,Full name\xa0\nu1,,\n",
        ["twice"],
    ),
    "twice after NFC": (
        {"user": {"user_id": "Zoë"}},
        "Zoe\u0308,Zoë\nu1,a\n",
        ["twice"],
    ),
    "semicolon": (NAMED, "user_id;Full name;Plan\nu1;a;b\n", ["delimiter = ;"]),
    "tab": (NAMED, "user_id\tFull name\tPlan\nu1\ta\tb\n", ["delimiter = tab"]),
    "bar": (NAMED, "user_id|Full name|Plan\nu1|a|b\n", [r"delimiter = \|"]),
    "a bar instead of TAB": (
        {"csv": {"delimiter": "TAB"}, **NAMED},
        "user_id|Full name\nu1|a\n",
        [r"delimiter = \|"],
    ),
    "a delimiter that is also the quote": (
        {"csv": {"quote": ";"}, **NAMED},
        "user_id|Full name\nu1|a\n",
        [r"delimiter = \|"],
    ),
    "later": (NAMED, "Users of ACME\n\nuser_id,Full name\nu1,a\n", [r"\bline 3\b"]),
    "sep=": (
        NAMED,
        "sep=;\nuser_id;Full name\nu1;a\n",
        [r"\bline 2\b", "delimiter = ;"],
    ),
    "most": (
        THREE,
        "uid,nom,Mail\nu1,a,b\n",
        ["uid, nom", "user_id = User", "name = Full name"],
    ),
    "no identity": (
        {"user": {}},
        "name,User-ID\nAda,u1\n",
        ["user_id", "email", "User-ID"],
    ),
    "a constant": (
        {"user": {"user_id": "user_id", "name": "'Full name'"}},
        "user_id,Full  name\u200b\nu1,a\n",
        ["name", "'Full name'", "quotes"],
    ),
    "a constant attribute": (
        {**ID, "custom_attributes": {"plan": "'name'"}},
        H + "u1,,x\n",
        ["plan", "'name'", "quotes"],
    ),
    "from [csv] headings": (
        {"csv": {"headings": "user_id,Fulname"}, **NAMED},
        "u1,A\n",
        ["Full name", "Fulname"],
    ),
    "one heading, and blank": (NAMED, '"",user_id\n1,u1\n', ["Full name"]),
}
RIGHT_HEADINGS: dict[str, tuple[Sections, str]] = {
    "twice, but not mapped": (ID, "user_id,x,x\nu1,1,2\n"),
    "a constant that differs in case": (
        {**ID, "custom_attributes": {"plan": "'Name'"}},
        H + "u1,,x\n",
    ),
    "a blank constant and a blank heading": (
        {**ID, "custom_attributes": {"plan": "' '"}},
        "user_id,\nu1,x\n",
    ),
    "an empty constant and a blank heading": (
        {**ID, "custom_attributes": {"plan": "''"}},
        "user_id,\nu1,x\n",
    ),
}


@pytest.mark.parametrize("case", WRONG_HEADINGS)
def test_headings_that_do_not_match_are_named_once(case: str) -> None:
    sections, content, words = WRONG_HEADINGS[case]
    reading = reading_of(content, sections)
    assert_stops(reading, *words)
    reason = reading.reason.removesuffix("delimiter = ;").rstrip()
    assert not reason.endswith((";", ":", ","))
    assert "; ;" not in reading.reason
    assert reading.reason.count("Full name") <= 2


@pytest.mark.parametrize("case", RIGHT_HEADINGS)
def test_headings_that_match_are_accepted(case: str) -> None:
    sections, content = RIGHT_HEADINGS[case]
    reading = reading_of(content, sections)
    assert (reading.reason, len(reading.users)) == ("", 1)


SET: Sections = {
    "csv": {"headings": "user_id,email,name,since,visits"},
    "user": {
        "user_id": "user_id",
        "email": "email",
        "name": "name",
        "signed_up_at": "since",
    },
    "custom_attributes": {"visits": "visits : integer"},
}
SET_ROWS = "u2,b@x.eu,Bo,2026-01-02,4\nu3,,Cy,,\n"
# The first row, and whether it is taken for headings under other names
FIRST_ROWS = {
    "other names": ("id,mail,full name,joined,count", True),
    "a typed cell is enough": (",,Person,joined,", True),
    "the headings themselves": ("user_id,email,name,since,visits", False),
    "an ordinary user": ("u1,a@x.eu,Ada,2026-01-01,3", False),
    "a user without e-mail": ("u1,,Ada,soon,many", False),
    "nothing typed": ("ann,,Ada,,", False),
    "placeholders": ("ann,none,Ada,n/a,-", False),
    "one cell of its type": ("ann,mail,Ada,joined,yes 3", False),
}


@pytest.mark.parametrize("case", FIRST_ROWS)
def test_headings_in_the_file_are_noticed_though_config_ini_sets_them(
    case: str,
) -> None:
    first_row, is_headings = FIRST_ROWS[case]
    reading = reading_of(f"{first_row}\n{SET_ROWS}", SET)
    if is_headings:
        names = first_row.strip(",").split(",")
        assert_stops(reading, r"\[csv\] headings", re.escape(names[-1]))
    else:
        assert reading.reason == ""
        assert {"u2", "u3"} <= {user["user_id"] for user in reading.users}


def test_a_first_row_is_not_headings_if_the_next_rows_are_invalid_too() -> None:
    """Then nothing shows what the column should contain."""
    assert reading_of("a,soon\nb,later\n", SET_TWO).reason == ""
    assert reading_of("a,soon\nb,\n", SET_TWO).reason == ""
    assert_stops(reading_of("a,soon\nb,2026-01-01\n", SET_TWO), "soon")


SET_TWO: Sections = {
    "csv": {"headings": "user_id,since"},
    "user": {"user_id": "user_id", "signed_up_at": "since"},
}

#### Users as a whole


def users(rows_per_user: Iterable[int], row: str = "u{0},,x\n") -> str:
    """Return rows for users u1, u2, ...; the list has the number of rows for each."""
    return "".join(
        row.format(user) * count for user, count in enumerate(rows_per_user, 1)
    )


EMAIL: Sections = {"user": {"email": "email"}}
ID_AND_EMAIL: Sections = {"user": {"id": "user_id", "email": "email"}}
SHARED_ADDRESS = "u{0},info@x.eu,x\n"
WRONG_USERS: dict[str, tuple[Sections, str, list[str]]] = {
    "no identity": (ID, H + ",,Nobody\n" * 10, [r"\b10\b", "user_id"]),
    "ids of a data frame": (
        ID,
        H + rows(10, "{0}.0,,x\n"),
        [r"\b10\b", r"\bline 2\b", r"1\.0"],
    ),
    "six of ten": (
        ID,
        H + users([6, 1, 1, 1, 1]),
        [r"\b6 of 10\b", r"user_id=u1\b", r"\[user\]"],
    ),
    "six of ten, the others invalid": (
        ID,
        H + users([6]) + ",,\x01x\n" * 4,
        [r"\b6 of 10\b"],
    ),
    "most of many": (
        ID,
        H + rows(2500, "u0,,x\nu{0},,x\nu0,,x\n"),
        [r"\b5,000 of 7,500\b", "user_id=u0"],
    ),
    "in disguise": (
        ID,
        H + 'u0,,x\n="u0",,x\nu0\u200b,,x\n "u0",,x\n\0u0,,x\n' * 2,
        ["u0"],
    ),
    "one address": (EMAIL, H + ",u0@x.eu,x\n,U0@X.eu,x\n" * 5 + rows(3), ["u0@ ?x.eu"]),
    "two of twenty": (
        ID,
        H + users([10, 10]),
        [r"\b20 rows\b", r"\b2 users\b", "u1", "u2"],
    ),
    "49 of 490": (ID, H + users([10] * 49), [r"\b49 users\b"]),
    "with several addresses each": (
        USER,
        H + rows(20, "u0,{0}@x.eu,x\nu1,{0}@y.eu,x\n"),
        ["u0"],
    ),
    "one without an address": (
        USER,
        H + users([10, 10], "u{0},{0}@x.eu,x\n") + "u9,,x\n" * 10,
        [r"\b3 users\b"],
    ),
    "three addresses alone": (
        EMAIL,
        H + users([20] * 3, ",a{0}@x.eu,x\n"),
        [r"\b3 users\b"],
    ),
    "the first 10,000 rows": (
        ID,
        H + "u1,,\n" * 5_001 + rows(9_000),
        [r"\b5,002 of 10,000\b"],
    ),
}
RIGHT_USERS: dict[str, tuple[Sections, str]] = {
    "nine rows without an identity": (ID, H + ",,Nobody\n" * 9),
    "one of ten": (ID, H + ",,Nobody\n" * 9 + "u1,,x\n"),
    "half": (ID, H + users([5, 1, 1, 1, 1, 1])),
    "nine of one": (ID, H + users([9])),
    "an address shared by many": (USER, H + rows(30, SHARED_ADDRESS)),
    "19 rows": (ID, H + users([9, 9, 1])),
    "three users of 29 rows": (ID, H + users([10, 10, 9])),
    "fifty users": (ID, H + users([100] * 50)),
    "events with one address each": (USER, H + users([20] * 5, "u{0},{0}@x.eu,x\n")),
    "addresses that differ in case": (
        USER,
        H + users([10] * 5, "u{0},{0}@x.eu,x\nu{0},{0}@X.EU,x\n"),
    ),
    "events by id": (ID_AND_EMAIL, H + users([20] * 5, "5f{0},{0}@x.eu,x\n")),
    "18 invalid rows": (ID, H + ",,x\n" * 18 + users([1, 1])),
    "most of the rows after 10,000": (ID, H + rows(10_000) + "u1,,\n" * 12_000),
}


@pytest.mark.parametrize("case", WRONG_USERS)
def test_rows_that_name_the_wrong_users_stop_the_run(case: str) -> None:
    sections, content, words = WRONG_USERS[case]
    assert_stops(reading_of(content, sections), *words)


@pytest.mark.parametrize("case", RIGHT_USERS)
def test_rows_that_name_the_right_users_do_not_stop_the_run(case: str) -> None:
    sections, content = RIGHT_USERS[case]
    reading = reading_of(content, sections)
    assert reading.reason == ""
    assert len(reading.users) + len(reading.rejected) == content.count("\n") - 1


def ids(make_id: Callable[[int], int], count: int = 10) -> str:
    return H + "".join(f"{make_id(number)},,x\n" for number in range(1, count + 1))


ROUNDED = {
    "16 digits": ids(lambda n: (10**14 + n * 7) * 10),
    "19 digits": ids(lambda n: (10**14 + n * 7) * 10_000),
    "among short ones": ids(lambda n: (10**14 + n * 7) * 100) + rows(50),
}
NOT_ROUNDED = {
    "nine": ids(lambda n: (10**14 + n * 7) * 10, 9),
    "nine different ones": ids(lambda n: (10**14 + n * 7) * 10, 9) * 2,
    "one isn't": ids(lambda n: (10**14 + n * 7) * 10) + "1000000000000001,,x\n",
    "the 15th digit is the same": ids(lambda n: (10**13 + n) * 1000),
    "15 digits": ids(lambda n: 10**14 + n * 10),
    "all digits": ids(lambda n: 10**17 + n * 123_456_789),
    "letters": H + rows(20, "cus_12345678901{0:03}0,,x\n"),
}


@pytest.mark.parametrize("case", ROUNDED)
def test_ids_that_a_spreadsheet_has_rounded_stop_the_run(case: str) -> None:
    assert_stops(
        reading_of(ROUNDED[case]), "spreadsheet", "15 digits", r"\b100000000000\d+0\b"
    )


@pytest.mark.parametrize("case", NOT_ROUNDED)
def test_other_long_ids_do_not_stop_the_run(case: str) -> None:
    assert reading_of(NOT_ROUNDED[case]).reason == ""


#### Repeated users

# The user_id, email and id of each row, and how many rows repeat an earlier one
REPEATS: dict[str, tuple[list[str], int]] = {
    "other users": (["u1,a@x.eu,", "u2,b@x.eu,", "u3,,", ",c@x.eu,"], 0),
    "the same user_id": (["u1,a@x.eu,", "u1,b@x.eu,", "u1,,"], 2),
    "user_ids differ in case": (["u1,,", "U1,,"], 0),
    "the same address with two user_ids": (["u1,a@x.eu,", "u2,a@x.eu,"], 0),
    "the same address without a user_id": ([",a@x.eu,", ",A@x.eu,"], 1),
    "the second without": (["u1,a@x.eu,", ",a@x.eu,"], 1),
    "the first without": ([",a@x.eu,", "u1,a@x.eu,"], 1),
    "one without among two": (["u1,a@x.eu,", ",a@x.eu,", "u2,a@x.eu,"], 2),
    "the same id": ([",,5f", ",,5f"], 1),
    "an id that is another's user_id": (["17,,", ",,17"], 0),
    "an id and an address": ([",a@x.eu,5f", ",a@x.eu,5e"], 1),
}


@pytest.mark.parametrize("case", REPEATS)
def test_rows_of_the_same_user_are_counted(case: str) -> None:
    lines, repeats = REPEATS[case]
    found = repeats_of(lines)
    assert found.repeats == repeats
    assert bool(found.note()) == bool(repeats)
    if repeats:
        assert_says(found.note(), rf"^{repeats} rows?\b")


class FakeTable:
    """A table without columns, which is all that this evidence needs."""

    columns: tuple[()] = ()


def repeats_of(lines: Iterable[str]) -> RepeatedUsersEvidence:
    """Return the evidence of rows with user_id, email and id."""
    evidence = RepeatedUsersEvidence(FakeTable())  # type: ignore[arg-type]
    for line in lines:
        cells = zip(("user_id", "email", "id"), line.split(","), strict=True)
        user = {name: cell for name, cell in cells if cell}
        evidence.add(None, FakeRow(user))  # type: ignore[arg-type]
    return evidence


class FakeRow:
    """A mapped row without omitted cells."""

    def __init__(self, user: dict[str, str]) -> None:
        self.user = user
        self.omitted: list[object] = []


def test_beyond_100000_rows_the_number_of_repeats_is_a_lower_bound() -> None:
    lines = [f"u{number // 2},," for number in range(100_000)]
    assert_says(repeats_of(lines).note(), r"^50,000 rows")
    assert_says(repeats_of([*lines, "u1,,"]).note(), r"^at least 50,000 rows")


def test_repeated_users_are_reported_and_do_not_stop_the_run(project: Project) -> None:
    project.users(9)
    path = project.exports / NAME
    path.write_bytes(path.read_bytes() + b"u1,u1@example.com,Ada\n")
    for options in ["--dry-run"], ["--check"], []:
        result = project.run(*options)
        assert result.status == 0, result
        assert_says(result.out + result.err, r"\b1 row\b.*earlier row")


#### Cells beyond the headings

EXTRA = "u{0},,x,\n"
# The rows, and how many of them are imported
WIDTHS: dict[str, tuple[str, int]] = {
    "every row": (rows(10, EXTRA), 10),
    "nine in ten": (rows(9, EXTRA) + rows(1), 10),
    "nine in ten, the first isn't": (rows(1) + rows(9, EXTRA, 2), 10),
    "eight in ten": (rows(8, EXTRA) + rows(2), 2),
    "half, and the first": (rows(5, EXTRA) + rows(5), 5),
    "other numbers": (rows(9, EXTRA) + "u99,,x,,\n", 9),
    "text among them": (rows(19, EXTRA) + "u99,,x,y\n", 19),
    "with blank rows": (rows(9, EXTRA) + ",,,,,\n" * 20 + rows(1), 10),
}


@pytest.mark.parametrize("case", WIDTHS)
def test_blank_extra_cells_are_fine_if_nine_in_ten_rows_have_them(case: str) -> None:
    content, count = WIDTHS[case]
    reading = reading_of(H + content)
    assert (reading.reason, len(reading.users)) == ("", count)
    assert set(reading.rejected.values()) <= {
        "4 cells, expected 3",
        "5 cells, expected 3",
    }


#### A run


def test_a_run_stops_before_its_first_user_and_posts_notices(
    project: Project,
) -> None:
    project.write(H + "u1,,\n" * 10)
    stopped(project, r"\b10 of 10 rows\b", "user_id=u1")
    stopped(project, r"\b10 of 10 rows\b", file=NAME)


@posix("sends SIGTERM")
def test_a_signal_ends_the_preflight(project: Project) -> None:
    """The preflight checks for one every 500 rows, that is, within milliseconds."""
    project.enable_notices()
    path = project.exports / NAME
    with path.open("w") as file:
        file.write(H)
        for start in range(0, 400_000, 10_000):
            file.write(rows(10_000, first=start))
    child = project.start()
    eventually(lambda: project.services.slack)
    child.send(signal.SIGTERM)
    result = child.wait()
    assert (result.status, imported(project)) == (143, []), result
    assert not Path(project.folder / "not_imported").exists()
