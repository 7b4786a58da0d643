"""The file is read once before anything is sent: what stops a run there."""

from __future__ import annotations

import gzip
import os
import re
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import FORMAT, NAME, Project, imported, posix, refusal, says
from sandbox import Fault, Request

H = "user_id,email,name\n"
LONG = 2**20


def stopped(project: Project, *words: str, file: str | None = None) -> str:
    """The line of a run that stopped before its first user: told to all, and nothing is kept."""
    project.notices()
    line = refusal(project, project.run(*[file] if file else []))
    says(line, *words)
    last = project.sandbox.hipchat[-1]
    assert last["color"] == "red"
    says(last["message"], *words)
    assert len(project.sandbox.slack) == len(project.sandbox.hipchat)
    assert not (project.folder / "not_imported").exists()
    return line


def rows(count: int, row: str = "u{0},u{0}@x.eu,User {0}\n") -> str:
    return "".join(row.format(n) for n in range(1, count + 1))


def hours_old(hours: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(hours=hours)).strftime(FORMAT) + ".csv"


#### Stale and empty files


def test_an_old_file_stops_the_run_unless_it_is_named(project: Project) -> None:
    project.configure(file={"max_age_hours": 72})
    old = project.users(1, hours_old(100)).name
    stopped(project, re.escape(old), "max_age_hours", r"\b72\b")
    assert project.run(old).status == 0
    project.users(2, hours_old(40))
    assert project.run().status == 0
    assert imported(project) == ["u1", "u1", "u2"]


def test_the_zone_in_a_files_name_counts_for_its_age(project: Project) -> None:
    form = "%Y-%m-%dT%H-%M%z"
    project.configure(file={"max_age_hours": 3, "time_format": form})
    project.users(1, datetime.now(timezone(timedelta(hours=-12))).strftime(form) + ".csv")
    assert project.run().status == 0


def test_too_few_rows_stop_the_run_unless_the_file_is_named(project: Project) -> None:
    project.configure(csv={"min_rows": 3})
    project.users(2)
    stopped(project, "min_rows", r"\b2 row")
    assert project.run(NAME).counts() == (2, 0, 0)


@pytest.mark.parametrize(
    ("content", "words"), [(H + "u1,,\n" * 10, "u1"), ("", "empty")], ids=["one user", "empty"]
)
def test_a_named_file_has_no_other_exemption(project: Project, content: str, words: str) -> None:
    project.write(content, "named.csv")
    stopped(project, words, file="named.csv")


#### What stops a run, and what is as near to it as can be

PACKED = gzip.compress((H + rows(200)).encode(), mtime=0)
NOT_WHOLE = "breaks off|cut off|damaged|unpacked|checksum"
UTF_16 = (H + rows(5)).encode("utf-16")
Settings = dict[str, dict[str, Any]]
SAME: Settings = {}
NAMED: Settings = {"user": {"user_id": "user_id", "name": "Full name"}}
ID_ALONE: Settings = {"user": {"user_id": "user_id"}}
QUOTED: Settings = {"user": {"user_id": "user_id", "email": "'Full name'"}}


def quote(line: int) -> tuple[str, str]:
    return "quote", rf"\bline {line}\b"


def length(line: int) -> tuple[str, str]:
    return "character", rf"\bline {line}\b"


# settings, content, and what the line says
STOPS: dict[str, tuple[Any, ...]] = {
    "no rows": (SAME, H, "min_rows", r"\b(0|no) rows"),
    "no rows but blank lines and headings": (SAME, f"\n{H}\n{H}\n", "min_rows"),
    # a file that cannot be read to its end
    "half.gz": (SAME, PACKED[:-300], NOT_WHOLE),
    "no trailer.gz": (SAME, PACKED[:-3], NOT_WHOLE),
    "half a second member.gz": (SAME, PACKED + PACKED[:40], NOT_WHOLE),
    "damaged.gz": (SAME, PACKED[:99] + bytes([PACKED[99] ^ 255]) + PACKED[100:], NOT_WHOLE),
    "checksum.gz": (SAME, PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], NOT_WHOLE),
    "quote": (SAME, H + 'u1,,One\nu2,,"Two\nu3,,Three\n', *quote(3)),
    "quote in a record": (SAME, H + '1,,x\n"\n2","\n\n",x\n"\n3","\n","T\n4,,\n', *quote(9)),
    "quote in the headings": (SAME, 'user_id,"email,name\nu1,,One\n', *quote(1)),
    "quote before a mebibyte": (SAME, H + '1,,"One\n' + "2,,Two\n" * 150_000, *quote(2)),
    "quote in the last line": (SAME, H + '"u1,,One', *quote(2)),
    "quote and CRLF": (SAME, f'{H}"u\n1",,x\nu2,,"T\n'.replace("\n", "\r\n"), *quote(4)),
    "long line": (SAME, H + f"1,,x\n2,,{'é' * LONG}\n3,,x\n", *length(3)),
    "long line of cells": (SAME, H + f"1,,x\n2,,{'x,' * LONG}\n", *length(3)),
    "long cell": (SAME, H + '1,,x\n2,,"' + ("é" * 999 + "\n") * 1100 + '"\n', *length(3)),
    "long headings": (SAME, "x" * (LONG + 9), *length(1)),
    "UTF-16 cut off": ({"csv": {"encoding": "utf-16"}}, UTF_16[:-1], "utf-16"),
    "UTF-16 by its mark": (SAME, UTF_16[:-1], "utf-16"),
    "UTF-32": ({"csv": {"encoding": "utf-32-be"}}, H.encode("utf-32-be") + b"\xff" * 4, "utf-32"),
    # headings that don't fit
    "missing": (NAMED, "user_id,e-mail,Fullname\nu1,a,b\n", "Full name", "Fullname"),
    "twice": (NAMED, "user_id,Full name,Full name\nu1,a,b\n", "Full name", "twice|2"),
    "twice after NFC": ({"user": {"user_id": "Zoë"}}, "Zoe\u0308,Zoë\nu1,a\n", "Zoë", "twice|2"),
    "twice, invisibly": (NAMED, "user_id,Full name\u200b,Full name\xa0\n", "Full name", "twice|2"),
    "semicolon": (NAMED, "user_id;Full name;Plan\nu1;a;b\n", "delimiter = ;", "Plan"),
    "tab": (NAMED, "user_id\tFull name\tPlan\nu1\ta\tb\n", "delimiter = tab", "Plan"),
    "bar": (NAMED, "user_id|Full name|Plan\nu1|a|b\n", r"delimiter = \|", "Plan"),
    "most": (NAMED, "uid,nom,Plan\nu1,a,b\n", "uid.*nom.*Plan"),
    "constant": (QUOTED, "user_id,Full name\nu1,a\n", "email", "'Full name'", "quotes"),
    "attribute": ({"custom_attributes": {"plan": "'name'"}}, H + "u1,,x\n", "plan", "'name'"),
    "of the settings": ({"csv": {"headings": "user_id,Fulname"}, **NAMED}, "u1,A\n", "Fulname"),
    "no identity": (SAME, "name,User-ID,plan\nAda,u1,gold\n", "user_id.*email.*id", "User-ID"),
    # rows that look right and are not
    "nobody": (SAME, H + ",,Nobody\n" * 10, "user_id", r"\b10\b"),
    "ids of a data frame": (SAME, H + rows(10, "{0}.0,,x\n"), r"\bline 2\b", r"1\.0"),
    "six of ten": (SAME, H + "u0,,x\n" * 6 + rows(4), r"\bu0\b", "user_id"),
    "most of many": (SAME, H + rows(2500, "u0,,x\nu{0},,x\nu0,,x\n"), r"\b499\d of its 7500\b.*u0"),
    "in disguise": (SAME, H + 'u0,,x\n="u0",,x\nu0\u200b,,x\n "u0",,x\n\0u0,,x\n' * 2, r"\bu0\b"),
    "one address": (SAME, H + ",u0@x.eu,x\n,U0@X.eu,x\n" * 5 + rows(3), "u0@ ?x.eu", "email"),
}  # fmt: skip
# settings, content, how many are added, and how many not imported
GOES: dict[str, tuple[Settings, str | bytes, int, int]] = {
    "no rows are enough": ({"csv": {"min_rows": 0}}, H, 0, 0),
    "just enough": ({"csv": {"min_rows": 2}}, H + rows(2), 2, 0),
    "twice and not mapped": (ID_ALONE, "user_id,x,x\nu1,1,2\n", 1, 0),
    "a little shorter line": (ID_ALONE, H + "1,," + "é" * (LONG - 4) + "\n", 1, 0),
    "a little shorter cell": (ID_ALONE, H + '1,,"' + ("é" * 999 + "\n") * 1000 + '"\n', 1, 0),
    "half a letter": ({"csv": {"encoding": "utf-16"}}, UTF_16 + b"\x00\xd8x\x00\n\x00", 5, 1),
    "nine of nobody": (SAME, H + ",,Nobody\n" * 9, 0, 9),
    "one of ten": (SAME, H + ",,Nobody\n" * 9 + "u1,,x\n", 1, 9),
    "half": (SAME, H + "u0,,x\n" * 5 + rows(5), 10, 0),
    "nine of one": (SAME, H + "u0,,x\n" * 9, 9, 0),
    "address of many": (SAME, H + rows(10, "u{0},info@x.eu,x\n"), 10, 0),
    "constant in other letters": ({"custom_attributes": {"plan": "'Name'"}}, H + "u1,,x\n", 1, 0),
}  # fmt: skip


@pytest.mark.parametrize("what", STOPS)
def test_what_stops_a_run_before_its_first_user(project: Project, what: str) -> None:
    settings, content, *words = STOPS[what]
    project.configure(**settings)
    project.write(content, NAME + ".gz" * what.endswith(".gz"))
    assert stopped(project, *words).count("Plan") <= 1


@pytest.mark.parametrize("what", GOES)
def test_what_stops_no_run(project: Project, what: str) -> None:
    settings, content, added, not_imported = GOES[what]
    project.configure(**settings)
    project.write(content)
    result = project.run()
    assert result.counts() == (added, 0, not_imported)
    assert result.status == (1 if not_imported else 0)


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit of Linux")
@pytest.mark.parametrize(
    ("start", "filler"), [("u1,", b"x"), ('u1,,"', b"u2,,Two and so on\n")], ids=["line", "quote"]
)
def test_memory_stays_flat_whatever_has_no_end(project: Project, start: str, filler: bytes) -> None:
    import resource  # which not every system has

    member = gzip.compress(filler * (LONG // len(filler)))
    project.write(gzip.compress((H + start).encode()) + member * 500, NAME + ".gz")
    child = project.start()
    resource.prlimit(child.process.pid, resource.RLIMIT_DATA, (120 * LONG, 120 * LONG))
    says(refusal(project, child.wait()), r"\bline 2\b")


#### Columns that look right and are not

# type, cells that take turns, and what to write
WRONG_TYPES: list[tuple[str, list[str], list[str]]] = [
    ("timestamp", ["31/12/2025", "1/2/2026"], ["timestamp %d/%m/%Y"]),
    ("timestamp", ["12/31/2025", "2/1/2026"], ["timestamp %m/%d/%Y"]),
    ("timestamp", ["01/02/2026", "3/4/2026"], ["timestamp %d/%m/%Y", "timestamp %m/%d/%Y"]),
    ("timestamp", ["31.12.2025"], ["timestamp %d.%m.%Y"]),
    ("timestamp", ["31-12-2025 9:05"], ["timestamp %d-%m-%Y %H:%M"]),
    ("timestamp", ["31/12/2025 14:05:59"], ["timestamp %d/%m/%Y %H:%M:%S"]),
    ("timestamp", ["12/31/2025 2:05 PM"], ["timestamp %m/%d/%Y %I:%M %p"]),
    ("timestamp", ["20261124", "20251231"], ["timestamp %Y%m%d"]),
    ("timestamp", ["2025/12/31"], ["timestamp %Y/%m/%d"]),
    ("timestamp", ["31/12/25"], ["timestamp %d/%m/%y"]),
    ("timestamp %d/%m/%Y", ["12/31/2025"], ["timestamp %m/%d/%Y"]),
    ("timestamp", ["31/12/2025", "12/31/2025"], []),
    ("timestamp", ["46350"], []),
    ("timestamp", ["1760000000000"], []),
    ("float", ["12,50", "3,5"], ["decimal = ,"]),
    ("float", ["1.234,50", "3,5"], ["decimal = ,"]),
    ("integer", ["many"], []),
    ("boolean", ["VRAI", "FAUX"], []),
]


@pytest.mark.parametrize(
    ("kind", "cells", "advice"), WRONG_TYPES, ids=[" ".join(row[1]) for row in WRONG_TYPES]
)
def test_a_column_without_one_cell_of_its_type_stops_the_run_with_what_to_write(
    project: Project, kind: str, cells: list[str], advice: list[str]
) -> None:
    """Written into config.ini, it is what the file wants."""
    project.configure(user={"user_id": "user_id"}, custom_attributes={"x_at": f"The cell : {kind}"})
    lines = [f'u{n},"{cells[n % len(cells)]}"\n' for n in range(10)]
    project.write("user_id,The cell\n" + "".join(lines))
    line = stopped(project, "The cell", re.escape(cells[0]), r"\bline 2\b")
    assert ("export " in line) == (not advice)
    formats = set(re.findall(r"%[a-zA-Z](?:[-/.: ]*%[a-zA-Z])*", line))
    assert formats <= {text.partition(" ")[2] for text in [kind, *advice]}, line
    for text in advice:
        assert text.removeprefix("timestamp ") in line
        if text == "decimal = ,":
            project.configure(csv={"decimal": ","})
        else:
            project.configure(custom_attributes={"x_at": f"The cell : {text}"})
        assert project.run("--dry-run").out.count("x_at") == 10


FEW = {"nine": ["soon"] * 9, "blank": ["soon"] * 9 + [""], "right": ["soon"] * 30 + ["2026-11-24"]}


@pytest.mark.parametrize("cells", FEW.values(), ids=FEW)
def test_a_column_with_one_of_its_type_or_few_does_not(project: Project, cells: list[str]) -> None:
    """The rows go, without those values, and everybody hears of them, cron too."""
    project.notices()
    project.configure(user={"user_id": "user_id", "signed_up_at": "Since"})
    project.write("user_id,Since\n" + "".join(f"u{n},{cell}\n" for n, cell in enumerate(cells)))
    result = project.run("--quiet")
    assert (result.status, len(project.sandbox.requests)) == (0, len(cells))
    last, wrong = project.sandbox.hipchat[-1], cells.count("soon")
    assert last["color"] == "green"
    for text in result.err, last["message"], project.sandbox.slack[-1]["text"]:
        says(text, rf"\b{wrong}\b.*Since|Since.*\b{wrong}\b")


#### A file that changes, and one that can be read but once


def change(path: Path, how: str) -> None:
    other_rows = path.read_bytes().replace(b"\nu", b"\nw")  # and as many bytes
    if how == "append":
        with path.open("ab") as file:
            file.write(b"w1,,One\nw2,,Two\n")
    elif how == "rewrite":
        path.write_bytes(other_rows)
    elif how == "touch":
        os.utime(path, (1, 1))
    elif how == "replace":
        path.with_name("other").write_bytes(other_rows)
        path.with_name("other").replace(path)


REPLACE = pytest.param("replace", marks=posix("Windows replaces no file that is open"))


@pytest.mark.parametrize("how", ["append", "rewrite", "touch", REPLACE])
def test_a_file_is_sent_as_it_was_when_it_was_looked_at(project: Project, how: str) -> None:
    """One that takes its name is another file, and changes nothing."""
    project.notices()
    path = project.write(H + rows(300, "u{0},," + "x" * 3000 + "\n"))
    original = [f"u{n}" for n in range(1, 301)]

    def change_once(request: Request) -> Fault | None:
        if request is project.sandbox.requests[0]:
            change(path, how)
        return None

    project.sandbox.fault_for = change_once
    result = project.run()
    sent = imported(project)
    assert sent == original[: len(sent)]
    last = project.sandbox.hipchat[-1]
    if how == "replace":
        assert (result.status, last["color"], sent) == (0, "green", original)
    else:
        assert (result.status, last["color"]) == (1, "red")
        says(result.err, "chang")
        says(last["message"], "chang")
        assert how == "rewrite" or sum(result.counts()) == 300


@posix("POSIX has them")
@pytest.mark.parametrize("kind", ["fifo", "stdin"])
@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_pipe_is_a_file_too(project: Project, kind: str, options: list[str]) -> None:
    """Though it can be read but once."""
    project.configure(csv={"min_rows": 5000})
    content, temporary = (H + rows(800, "u{},," + "x" * 99 + "\n")).encode(), project.folder / "tmp"
    temporary.mkdir()
    path = project.folder / "pipe"
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=[content], daemon=True).start()
    environment = {"TMPDIR": str(temporary)}
    if kind == "stdin":
        with path.open("rb") as stdin:
            child = project.start("/dev/stdin", *options, env=environment, stdin=stdin)
    else:
        child = project.start(path, *options, env=environment)
    result = child.wait()
    assert result.status == 0, result
    assert len(result.out.splitlines() if options else imported(project)) == 800
    assert list(temporary.iterdir()) == []
