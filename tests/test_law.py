"""The law: rows = added or updated + unchanged + not imported, whatever is in the file and whatever
Intercom does, and importing what was left over gives what an undisturbed run would have given.

Random files meet random faults, always the same ones; EXAMPLES=2000 tries so many new ones.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from conftest import Project, Result
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from sandbox import Fault, Sandbox

from export_csv import to_integer

LONG = "EXAMPLES" in os.environ
HEADINGS = ["user_id", "email", "name", "plan", "count"]
FORGED = "1999-01-01T00:00:00.000 ERROR forged"
LOG_LINE = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d|    \| ")


#### Random files

TOKENS = ['"', '""', ",", ";", "\t", "\n", "\r\n", "\r", " ", "'", "a", "é", "\xa0", "\v", "\x1c"]
TOKENS += ["\x85", "\u2028", "\x1b[2J", "\x7f", "\u202e", "\x9b", "=1+1", "\\", "%s{0}", "***"]
TOKENS += [f"\n{FORGED}", f"\r{FORGED}", f"\u2028{FORGED}", f"\x85{FORGED}"]
TOKENS += ["\udc81", "\udcff\udcfe"]  # bytes that are outside the encoding
TOKENS += ["\0"] if sys.version_info >= (3, 11) else []  # no csv module before that takes it
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")
TEXTS = st.lists(st.one_of(st.sampled_from(TOKENS), CHARACTERS), max_size=5).map("".join)
COUNTS = st.sampled_from(["", "12", "12.0", " 7 ", "many", "9" * 40, f"x\n{FORGED}"])


class Case(NamedTuple):
    """A file, and what goes wrong when it is imported."""

    content: bytes
    delimiter: str
    encoding: str
    headed: bool
    faults: list[Fault]


def to_bytes(text: str, encoding: str) -> bytes:
    """`text` where the encoding has it; what stands for a byte outside of it as that byte."""
    parts = re.split("([\udc80-\udcff])", text)
    escapes = (part.encode("utf-8", "surrogateescape") for part in parts[1::2])
    texts = (part.encode(encoding, "ignore") for part in parts[::2])
    return next(texts) + b"".join(byte + plain for byte, plain in zip(escapes, texts, strict=True))


@st.composite
def cells_as_text(draw: st.DrawFn, cells: list[str], delimiter: str) -> str:
    """A row, quoted where it must be and elsewhere at random."""
    written = []
    for cell in cells:
        needed = cell.startswith('"') or any(mark in cell for mark in (delimiter, "\r", "\n"))
        quoted = needed or draw(st.booleans())
        written.append('"' + cell.replace('"', '""') + '"' if quoted else cell)
    return delimiter.join(written)


@st.composite
def rows(draw: st.DrawFn, number: int, delimiter: str) -> str:
    """A row without its line end: three of five times a user, otherwise something else."""
    kind = draw(st.sampled_from(["user"] * 6 + ["nobody", "width", "raw", "blank"]))
    identity = [f"u{number}{draw(TEXTS)}", draw(st.sampled_from(["", f"U{number}@example.com"]))]
    cells = [*identity, draw(TEXTS), draw(TEXTS), draw(COUNTS)]
    if kind == "nobody":
        cells[:2] = ["", draw(st.sampled_from(["", "  ", "\t", "\xa0"]))]
    elif kind == "width":
        cells = draw(st.sampled_from([cells[:3], [*cells, ""], cells[:1]]))
    elif kind == "blank":
        return draw(st.sampled_from(["", "  ", "\v"]))
    elif kind == "raw":
        return delimiter.join(cells)
    return draw(cells_as_text(cells, delimiter))


#### Random faults

BODIES = [b"", b"<html>\nno\n</html>", b'{"errors": [', b"[]", b"\xff\0", b"[" * 5000]
BODIES += [f"\n{FORGED}\n".encode(), b'{"errors": [{"code": 1}, 2, {"message": null}]}']
BODIES += [f'{{"errors": [{{"code": "\\n{FORGED}", "message": "\\u2028\\u0000"}}]}}'.encode()]
STATUSES = [400, 409, 413, 422, 408, 429, 500, 502, 503, 599]
STOPPING = [301, 401, 402, 403, 404, 405, 406]
GOOD = Fault()
LATE = Fault(delay=0.003)
SILENT = st.builds(
    Fault,
    acts=st.booleans(),
    drop=st.just(True),
    reset=st.booleans(),
    delay=st.sampled_from([0, 0.003]),
)
CUT = st.builds(
    Fault, status=st.sampled_from([None, 400, 503]), acts=st.just(True), cut=st.just(True)
)
ERRORS = st.builds(
    Fault,
    status=st.sampled_from(STATUSES),
    body=st.sampled_from([None, None, None, *BODIES]),
    acts=st.booleans(),
    headers=st.sampled_from([{}, {"Retry-After": "0"}, {"X-RateLimit-Reset": "1"}]),
)
STOPS = st.builds(Fault, status=st.sampled_from(STOPPING), body=st.sampled_from([None, *BODIES]))
FAULTS = st.one_of(st.just(GOOD), st.just(GOOD), st.just(LATE), ERRORS, ERRORS, SILENT, CUT)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    delimiter = draw(st.sampled_from([",", ";", "\t"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "cp1252"]))
    headed = draw(st.booleans())
    lines = [draw(rows(number, delimiter)) for number in range(draw(st.integers(0, 8)))]
    if draw(st.integers(0, 5)) == 0:
        lines.append(f'u99{delimiter}"never closed{end}{draw(TEXTS)}'.replace('""', '"x'))
    text = end.join(lines) + draw(st.sampled_from(["", end]))
    heading = draw(cells_as_text(HEADINGS, delimiter)) + end if headed else ""
    mark = "\ufeff" if encoding == "utf-8" and draw(st.booleans()) else ""
    faults = draw(st.lists(FAULTS, max_size=12))
    if draw(st.integers(0, 3)) == 0:
        faults.append(draw(STOPS))
    return Case(to_bytes(mark + heading + text, encoding), delimiter, encoding, headed, faults)


#### What is in a file, without the csv module


class Record(NamedTuple):
    """A row as it stands in the file, and the user in it, None where there can't be one."""

    text: str
    user: dict[str, Any] | None


def split(text: str, delimiter: str) -> Iterable[tuple[str, list[str] | None]]:
    """Each record and its cells; None where quotes are wrong: to the end of the line, or, where
    one never closes, of the file."""
    quoted = re.compile(r'"((?:[^"]|"")*)"(?!")')
    plain = re.compile(f"[^{delimiter}\r\n]*")
    end = re.compile("\r\n|\r|\n|$(?![\r\n])")
    place = 0
    while place < len(text):
        start, cells = place, list[str]()
        right = True
        while right:
            if text.startswith('"', place):
                match = quoted.match(text, place)
                if not match:
                    yield text[start:], None
                    return
                cells.append(match[1].replace('""', '"'))
            else:
                match = plain.match(text, place)
                assert match
                cells.append(match[0])
            place = match.end()
            right = text.startswith((delimiter, "\r", "\n"), place) or place == len(text)
            if not text.startswith(delimiter, place):
                break
            place += 1
        match = end.search(text, place)
        place = match.end() if match else len(text)
        yield text[start:place], cells if right else None


def to_user(cells: list[str] | None) -> dict[str, Any] | None:
    if cells is None or len(cells) != len(HEADINGS):
        return None
    values = {name: cell.strip() for name, cell in zip(HEADINGS, cells, strict=True)}
    user: dict[str, Any] = {name: values[name] for name in HEADINGS[:3] if values[name]}
    if not user.keys() & {"user_id", "email"}:
        return None
    attributes: dict[str, Any] = {}
    if 0 < len(values["plan"]) <= 255:
        attributes["plan"] = values["plan"]
    try:
        attributes["count"] = to_integer(values["count"])
    except ValueError:
        attributes.pop("count", None)
    return {**user, "custom_attributes": attributes}


def records(content: bytes, case: Case) -> list[Record]:
    """The rows of a file, the heading row aside, by the design's words."""
    text = content.decode(case.encoding, "surrogateescape").removeprefix("\ufeff")
    found = []
    for raw, cells in split(text, case.delimiter):
        bad = re.search("[\udc80-\udcff]", raw)
        blank = cells is not None and len(cells) == 1 and not cells[0].strip()
        if bad or not blank:
            found.append(Record(raw.rstrip("\r\n"), None if bad else to_user(cells)))
    return found[case.headed :]


#### The law


def check_logs(result: Result) -> None:
    """No cell and no answer forges a line."""
    for log in (result.debug_log, result.error_log):
        for line in log.splitlines():
            assert LOG_LINE.match(line), line
    for line in (result.out + result.err).splitlines():
        assert not line.startswith("1999"), line
    assert "an error that nobody foresaw" not in result.err
    assert "Traceback" not in result.err


def is_known(user: dict[str, Any], sandbox: Sandbox) -> bool:
    """Whether the stand-in has exactly one such user."""
    lowered = {name: user[name].lower() for name in ("email",) if name in user}
    return len(sandbox.find(**{**user, **lowered})) == 1


def names(user: dict[str, Any]) -> list[str]:
    return [user[key].lower() for key in ("user_id", "email") if key in user]


def check(case: Case, concurrency: int, folder: Path, sandbox: Sandbox) -> None:
    project = Project(folder, sandbox)
    project.configure(
        csv={
            "delimiter": "tab" if case.delimiter == "\t" else case.delimiter,
            "encoding": case.encoding,
            "headings": None if case.headed else ",".join(HEADINGS),
        },
        intercom={"timeout": 0.001, "retries": 2, "concurrency": concurrency},
        user={name: name for name in HEADINGS[:3]},
        custom_attributes={"plan": "plan", "count": "count : integer"},
    )
    every = records(case.content, case)
    sandbox.faults = list(case.faults)
    project.write(case.content)
    result = project.run()
    note(f"{result.out}{result.err}{result.debug_log}")
    check_logs(result)

    imported, unchanged, not_imported = result.counts()
    assert imported + unchanged + not_imported == len(every)
    assert unchanged == 0
    assert result.status == (1 if not_imported else 0)
    assert bool(result.not_imported) == bool(not_imported)
    kept = records(result.not_imported[0].read_bytes(), case) if not_imported else []
    assert len(kept) == not_imported

    # Each row is in exactly one place, in order: across users where they are sent one by one.
    left = list(every)
    for record in kept:
        assert record in left
        left.remove(record)
    assert all(record.user for record in left)
    if concurrency == 1:
        position = iter(every)
        assert all(record in position for record in kept)

    # Where rows are not about the same users, the stand-in tells who is in.
    users = [record.user for record in every if record.user]
    known = [name for user in users for name in names(user)]
    alone = len(set(known)) == len(known)
    if alone:
        assert all(is_known(record.user, sandbox) for record in left if record.user)
    if kept:
        sandbox.faults = []
        again = project.run("--local", result.not_imported[0])
        note(f"{again.out}{again.err}{again.debug_log}")
        check_logs(again)
        damaged = sum(record.user is None for record in every)
        if alone:
            assert again.counts() == (not_imported - damaged, 0, damaged)
        else:
            assert sum(again.counts()) == not_imported
    if alone:
        assert all(is_known(user, sandbox) for user in users)
        assert len(sandbox.users) == len(users)


@pytest.mark.parametrize("concurrency", [1, 5])
@settings(
    max_examples=int(os.environ.get("EXAMPLES", "16")),
    derandomize=not LONG,
    deadline=None,
    database=None,
    print_blob=LONG,
    phases=list(Phase) if LONG else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(case=cases())
def test_each_row_is_in_intercom_or_in_the_file_of_the_others(case: Case, concurrency: int) -> None:
    with TemporaryDirectory() as folder, Sandbox() as sandbox:
        check(case, concurrency, Path(folder), sandbox)
