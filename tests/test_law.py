"""The law: rows = added or updated + unchanged + not imported, whatever is in the file and whatever
Intercom does, and importing what was left over gives what an undisturbed run would have given.
Or the run stops before its first user: then nothing is sent, and nothing kept.

Random files meet random faults, always the same ones; EXAMPLES=2000 tries so many new ones.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from conftest import NAME, Project, Result
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from sandbox import Fault, Sandbox

LONG = "EXAMPLES" in os.environ
HEADINGS = ["user_id", "email", "name", "plan", "count"]
FORGED = "1999-01-01T00:00:00.000 ERROR forged"
LOG_LINE = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d|    \| ")


#### Random files, whose meaning is known since they are made from it

TOKENS = ['"', '""', ",", ";", "\t", "\n", "\r\n", "\r", " ", "'", "a", "é", "\xa0", "\v", "\x1c"]
TOKENS += ["\x85", "\u2028", "\x1b[2J", "\x7f", "\u202e", "\x9b", "=1+1", "\\", "%s{0}", "***"]
TOKENS += [*(end + FORGED for end in ("\n", "\r", "\u2028", "\x85")), '" ,', '="1"', "x" * 99]
TOKENS += ["\udc81", "\udcff\udcfe"]  # bytes that are outside the encoding, or half of a letter
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")
INNER = st.lists(st.one_of(st.sampled_from(TOKENS), CHARACTERS), max_size=5).map("".join)
BLANK = st.sampled_from(["", "", "", " ", "\t", "\xa0", "\u200b", "\0", "\xad", "\u202a\u200b \0"])
COUNTS: dict[str, int | None] = {"": None, "12": 12, "12.0": 12, "+7.00": 7, "9" * 40: 10**40 - 1}
COUNTS |= dict.fromkeys(["many", "1.000", "1e3", "\u0663", f"x\n{FORGED}"])
KINDS = ["user"] * 8 + ["again", "wider", "nobody", "rewritten", "quotes", "short", "wide"]


class Row(NamedTuple):
    """A row as it stands in the file, without its line end, and what it means."""

    text: str
    user: dict[str, Any] | None = None  # None where there can't be one
    has_wrong_count: bool = False


class Case(NamedTuple):
    """A file, and what goes wrong when it is imported."""

    content: bytes
    rows: list[Row]  # without blank lines and repeated headings
    heading: str  # with its line end; blank where [csv] headings are used
    is_open: bool  # with a quote that never closes
    delimiter: str
    encoding: str
    faults: list[Fault]
    skips: bool


def to_bytes(text: str, encoding: str) -> bytes:
    """`text` where the encoding has it; what stands for a byte outside of it as that byte."""
    if encoding == "utf-16":
        return text.encode("utf-16-le", "surrogatepass")
    parts = re.split("([\udc80-\udcff])", text)
    escapes = (part.encode("utf-8", "surrogateescape") for part in parts[1::2])
    texts = (part.encode(encoding, "ignore") for part in parts[::2])
    return next(texts) + b"".join(byte + plain for byte, plain in zip(escapes, texts, strict=True))


def to_text(content: bytes, encoding: str) -> str:
    if encoding == "utf-16":
        return content.decode("utf-16-le", "surrogatepass").removeprefix("\ufeff")
    return content.decode(encoding, "surrogateescape").removeprefix("\ufeff")


@st.composite
def as_text(draw: st.DrawFn, cells: list[str], delimiter: str) -> str:
    """Cells as a row, quoted where it must be and elsewhere at random."""
    written = []
    for cell in cells:
        needed = any(mark in cell for mark in (delimiter, "\r", "\n"))
        quote = draw(st.sampled_from(['"', ' "'] if needed else ["", "", "", '"', ' "']))
        written.append(quote + cell.replace('"', '""') + '"' if quote else cell)
    return delimiter.join(written)


@st.composite
def rows(draw: st.DrawFn, number: int, kind: str, delimiter: str, encoding: str) -> Row:
    """A row of this kind, as it is read."""

    def as_read(text: str) -> str:
        return to_text(to_bytes(text, encoding), encoding)

    if kind == "quotes":
        return Row(f'"u{number}"x{delimiter}y')
    identity = [f"u{number}{draw(INNER)}z", draw(st.sampled_from(["", f"U{number}@example.com"]))]
    text = st.one_of(st.just(""), INNER.map("a{}b".format))
    cells = [*identity, draw(text), draw(text), draw(st.sampled_from(sorted(COUNTS)))]
    cells[4] = "many" if kind == "many" else cells[4]
    if kind == "again":
        cells[:2] = ["again", ""]
    elif kind in ("nobody", "rewritten"):
        cells[0] = "" if kind == "nobody" else draw(st.sampled_from(["1.23E+05", "1001.0"]))
        cells[1] = "" if kind == "nobody" else cells[1]
    values = dict(zip(HEADINGS, map(as_read, cells), strict=True))
    user: dict[str, Any] = {name: values[name] for name in HEADINGS[:3] if values[name]}
    user["custom_attributes"] = {"plan": values["plan"]} if 0 < len(values["plan"]) < 256 else {}
    if (count := COUNTS[cells[4]]) is not None:
        user["custom_attributes"]["count"] = count
    cells = [draw(BLANK) + cell + draw(BLANK) for cell in cells]
    cells = cells[: draw(st.integers(1, 4))] if kind == "short" else cells
    cells += [draw(BLANK)] if kind == "wider" else ["x"] if kind == "wide" else []
    written = as_read(draw(as_text(cells, delimiter)))
    is_user = kind in ("user", "many", "again", "wider") and not re.search(
        "[\ud800-\udfff]", written
    )
    has_wrong_count = is_user and count is None and bool(values["count"])
    return Row(written, user if is_user else None, has_wrong_count)


#### Random faults

BODIES = [b"", b"<html>\nno\n</html>", b'{"errors": [', b"[]", b"\xff\0", b"[" * 5000]
BODIES += [f"\n{FORGED}\n".encode(), b'{"errors": [{"code": 1}, 2, {"message": null}]}']
BODIES += [f'{{"errors": [{{"code": "\\n{FORGED}", "message": "\\u2028\\u0000"}}]}}'.encode()]
BODIES += [b'{"errors": ["email is invalid"]}', b'{"type": "list", "data": []}']
STATUSES = [400, 409, 413, 422, 408, 429, 500, 502, 503, 599]
STOPPING = [301, 401, 402, 403, 404, 405, 406]
GOOD = Fault()
ODD = [Fault(delay=0.003), Fault(chunk=1), Fault(trickle=0.01), Fault(early=100), Fault(early=103)]
ODD += [Fault(status=103), Fault(status=422, early=103), Fault(status=403, body=BODIES[1])]
ODD += [Fault(endless=True)]
YES, MAYBE = st.just(True), st.booleans()
SILENT = st.builds(Fault, acts=MAYBE, drop=YES, reset=MAYBE, delay=st.sampled_from([0, 0.003]))
CUT = st.builds(Fault, status=st.sampled_from([None, 400, 503]), acts=YES, cut=YES)
PAGES = st.builds(Fault, status=st.sampled_from([200, 201]), body=st.sampled_from(BODIES))
ERRORS = st.builds(
    Fault,
    status=st.sampled_from(STATUSES),
    body=st.sampled_from([None, None, None, *BODIES]),
    acts=st.booleans(),
    headers=st.sampled_from([{}, {"Retry-After": "0"}, {"X-RateLimit-Reset": "1"}]),
)
STOPS = st.builds(Fault, status=st.sampled_from(STOPPING), body=st.sampled_from([None, *BODIES]))
FAULTS = st.one_of(
    st.sampled_from([GOOD] * len(ODD) + ODD), st.just(GOOD), PAGES, ERRORS, ERRORS, SILENT, CUT
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    delimiter = draw(st.sampled_from([",", ";", "\t"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "cp1252", "utf-16"]))
    has_heading = encoding == "utf-16" or draw(st.booleans())  # a NUL behind its mark is UTF-32's
    heading = draw(as_text(HEADINGS, delimiter)) + end if has_heading else ""
    # Some files have so much of one kind that they are not to be imported.
    mood = draw(st.sampled_from([*[""] * 8, "again", "nobody", "quotes", "many"]))
    found, texts = list[Row](), list[str]()
    for number in range(draw(st.sampled_from([*range(1, 10), 8, 7, 0])) + 6 * bool(mood)):
        kind = draw(st.sampled_from(KINDS + [mood] * 30 if mood else KINDS))
        found.append(draw(rows(number, kind, delimiter, encoding)))
        texts += [found[-1].text]
        texts += draw(
            st.sampled_from([[]] * 8 + [[""], ["  "], ["\v"], ["\0"], [heading.rstrip()]])
        )
    is_open = draw(st.sampled_from([*[False] * 11, True]))
    if is_open:
        texts.append(f'u99{delimiter}"never closed{end}' + draw(INNER).replace('"', ""))
    is_marked = encoding == "utf-16" or (encoding == "utf-8" and draw(st.booleans()))
    whole = "\ufeff" * is_marked + heading + end.join(texts) + draw(st.sampled_from(["", end]))
    faults = draw(st.lists(FAULTS, max_size=12))
    if draw(st.booleans()):
        faults.append(draw(STOPS))
    content, skips = to_bytes(whole, encoding), draw(st.booleans())
    return Case(content, found, heading, is_open, delimiter, encoding, faults, skips)


#### The law


def is_to_stop(rows: list[Row], is_named: bool = False) -> bool:
    """Whether a run with a file of these rows is to stop before the first user."""
    users = [row.user for row in rows if row.user]
    named = Counter(user.get("user_id", user.get("email")) for user in users)
    most = max(named.values(), default=0)
    wrong = sum(row.has_wrong_count for row in rows)
    right = sum("count" in user["custom_attributes"] for user in users)
    if len(rows) < 10:
        return not (rows or is_named)
    return not users or most * 2 > len(rows) or (wrong >= 10 and not right)


def kept_rows(path: Path, case: Case) -> list[Row]:
    """The rows in a file of those that were not imported, which has the shape of the input."""
    text = to_text(path.read_bytes(), case.encoding)
    assert text.startswith(case.heading)
    text, found = text.removeprefix(case.heading), list[Row]()
    left = sorted(case.rows, key=lambda row: -len(row.text))
    while text:
        fitting = [row for row in left if re.match(re.escape(row.text) + r"(\r|\n|\Z)", text)]
        assert fitting, text
        found.append(fitting[0])
        left.remove(fitting[0])
        text = re.sub(r"\A(\r\n|\r|\n)", "", text.removeprefix(fitting[0].text))
    return found


def check_told(result: Result) -> None:
    """No cell and no answer forges a line, and nothing is unforeseen."""
    note(f"{result.out}{result.err}{result.debug_log}")
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


def check(case: Case, concurrency: int, folder: Path, sandbox: Sandbox) -> None:
    project = Project(folder, sandbox)
    shape = {"delimiter": case.delimiter.replace("\t", "tab"), "encoding": case.encoding}
    shape["headings"] = "" if case.heading else ",".join(HEADINGS)
    project.configure(
        csv=shape,
        intercom={"timeout": 0.001, "retries": 2, "concurrency": concurrency},
        user={name: name for name in HEADINGS[:3]},
        custom_attributes={"plan": "plan", "count": "count : integer"},
    )
    project.configure(intercom={"skip_unchanged": str(case.skips).lower()})
    sandbox.faults = list(case.faults)
    project.write(case.content)
    result = project.run()
    check_told(result)
    if case.is_open or is_to_stop(case.rows):
        assert (result.status, sandbox.requests, result.not_imported) == (1, [], [])
        return

    users = [row.user for row in case.rows if row.user]
    damaged = len(case.rows) - len(users)
    alone = sum(user.get("user_id") == "again" for user in users) < 2
    imported, unchanged, not_imported = result.counts()
    assert imported + unchanged + not_imported == len(case.rows)
    assert unchanged == 0 or (case.skips and not alone)
    assert result.status == (1 if not_imported else 0)
    assert bool(result.not_imported) == bool(not_imported)
    kept = kept_rows(result.not_imported[0], case) if not_imported else []
    assert len(kept) == not_imported

    # Each row is in exactly one place, in order: across users where they are sent one by one.
    left = list(case.rows)
    for row in kept:
        left.remove(row)
    assert all(row.user for row in left)
    if concurrency == 1:
        position = iter(case.rows)
        assert all(row in position for row in kept)

    # Where rows are not about the same users, the stand-in tells who is in.
    if alone:
        assert all(is_known(row.user, sandbox) for row in left if row.user)
    sandbox.faults = []
    if kept:
        again = project.run("--local", result.not_imported[0])
        check_told(again)
        if is_to_stop(kept, is_named=True):
            assert again.status == 1
            return
        assert sum(again.counts()) == not_imported
        if alone:
            assert again.counts() == (not_imported - damaged, 0, damaged)
    if alone:
        assert all(is_known(user, sandbox) for user in users)
        assert len(sandbox.users) == len(users)
    if alone and case.skips:
        assert project.run(NAME).counts() == (0, len(users), damaged)


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
