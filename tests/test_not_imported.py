"""Nothing is lost: the file of the rows that were not imported, and importing it again."""

from __future__ import annotations

import gzip
import os
import re
import shutil

import pytest
from conftest import NAME, Project, Result, posix
from sandbox import Fault, Request

HEADING = "user_id,email,name\n"
REFUSED = Fault(status=400)
KEPT_NAME = re.escape(NAME.removesuffix(".csv")) + r"_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(-\d)?\.csv"


def names(project: Project) -> dict[str, str]:
    """The name of each user that Intercom has, by user_id."""
    return {user["user_id"]: user["name"] for user in project.sandbox.find()}


def content(result: Result) -> bytes:
    """What the newest file of such rows holds."""
    return result.not_imported[-1].read_bytes()


#### Shape, name and mode


@pytest.mark.parametrize(
    ("delimiter", "encoding", "mark", "end"),
    [
        (",", "utf-8", b"", "\n"),
        (",", "utf-8", b"\xef\xbb\xbf", "\r\n"),
        (";", "cp1252", b"", "\r\n"),
        ("tab", "utf-16-le", b"\xff\xfe", "\r\n"),
        ("|", "shift_jis", b"", "\r"),
    ],
)
@pytest.mark.parametrize("headings", [True, False])
def test_the_rows_are_as_they_were(
    project: Project, delimiter: str, encoding: str, mark: bytes, end: str, headings: bool
) -> None:
    """Byte by byte, refused ones and damaged ones, with the heading row where there was one."""
    letter = "表" if encoding == "shift_jis" else "é"
    cells = ["user_id", " email ", '"name"']
    rows = [
        ["u1", "", "fine"],
        ["u2", "", f'"refused, ""{letter}"";|\t{end}{end}x"'],
        ["u3", " padded ", "  refused too  "],
        ["", "", "nobody"],
        ["u4", '"quoted"', '"fine"'],
        ["u5", "short"],
        ["", '"u6"', letter, '"long"'],
    ]
    mid = "\t" if delimiter == "tab" else delimiter
    heading, *lines = ((mid.join(row) + end).encode(encoding) for row in [cells, *rows])
    project.configure(csv={"delimiter": delimiter})
    project.configure(csv={"encoding": "utf-16" if mark == b"\xff\xfe" else encoding})
    if not headings:
        project.configure(csv={"headings": "user_id,email,name"})
        heading = b""
    project.write(mark + heading + b"".join(lines))
    project.sandbox.faults_of = {"u2": REFUSED, "u3": REFUSED}
    result = project.run()
    assert result.counts() == (2, 0, 5), result
    kept = mark + heading + b"".join(lines[n] for n in (1, 2, 3, 5, 6))
    assert content(result) == kept


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_last_row_without_a_line_end_gets_no_foreign_one(project: Project, end: str) -> None:
    project.write(f"user_id,email,name{end}u1,,One{end}bad")
    result = project.run()
    assert content(result).decode().removesuffix(end) == f"user_id,email,name{end}bad"


@pytest.mark.parametrize("compressed", [False, True])
def test_the_file_has_the_name_of_the_input(project: Project, compressed: bool) -> None:
    """With the time of the run behind it, and never compressed."""
    rows = (HEADING + "bad\n").encode()
    if compressed:
        project.write(gzip.compress(rows), NAME + ".gz")
    else:
        project.write(rows)
    result = project.run()
    (path,) = (project.folder / "not_imported").iterdir()
    assert re.fullmatch(KEPT_NAME, path.name)
    assert path.read_bytes() == rows
    assert str(path) in result.out
    assert "_error.log" in result.out


def test_runs_in_one_second_do_not_share_a_file(project: Project) -> None:
    contents = [f"{HEADING}{word}\n" for word in ("a", "b", "c")]
    for text in contents:
        project.write(text)
        result = project.run()
    assert sorted(path.read_text() for path in result.not_imported) == contents


LINK = pytest.param("link/{kept.name}", marks=posix("Windows makes links for administrators"))


@pytest.mark.parametrize("way", ["{kept}", "../not_imported/{kept.name}", LINK])
def test_names_do_not_grow_from_round_to_round(project: Project, way: str) -> None:
    """However the folder is come to."""
    if way.startswith("link"):
        (project.folder / "not_imported").mkdir()
        (project.folder / "link").symlink_to("not_imported")
        project.configure(csv={"not_imported_folder": "link"})
    project.write(HEADING + "bad\n")
    kept = project.run().not_imported[0]
    for _ in range(2):
        result = project.run(way.format(kept=kept))
        assert result.counts() == (0, 0, 1)
        kept = result.not_imported[-1]
    assert len(result.not_imported) == 3
    assert all(re.fullmatch(KEPT_NAME, path.name) for path in result.not_imported)


def test_a_name_as_long_as_a_name_can_be(project: Project) -> None:
    name = ":" * (os.name != "nt") + "ü" * 120 + ".csv"
    project.write(HEADING + "bad\nu1,,One\n", name)
    result = project.run(name)
    assert result.counts() == (1, 0, 1), result
    assert content(result).decode() == HEADING + "bad\n"
    assert re.match("-?ü+_20", result.not_imported[-1].name)


def test_a_run_that_stops_keeps_all_that_it_did_not_come_to(project: Project) -> None:
    project.write(HEADING + "".join(f"u{n},,N{n}\n" for n in range(5)) + "bad\n\n,,Nobody\n")
    project.sandbox.faults_of = {"u2": Fault(status=401)}
    result = project.run()
    assert (result.status, result.counts()) == (1, (2, 0, 5)), result
    assert re.findall(r"(?m)^(\d+) x", result.out) == ["1"]
    assert content(result).decode() == HEADING + "u2,,N2\nu3,,N3\nu4,,N4\nbad\n,,Nobody\n"


#### Importing it again


def test_importing_the_file_again_brings_in_who_was_left(project: Project) -> None:
    """Also where the rows came from S3, and a second time where the first was disturbed too."""
    project.write(HEADING + "".join(f'u{n},,"Name\n{n}"\n' for n in range(6)))
    project.configure(aws={"use_aws": "true", "bucket": "none"})
    project.sandbox.faults_of = dict.fromkeys(("u1", "u3", "u5"), REFUSED)
    first = project.run("--local")
    assert first.counts() == (3, 0, 3)
    (oldest,) = first.not_imported
    project.sandbox.faults_of = {"u3": REFUSED}
    second = project.run("--local", oldest.relative_to(project.folder))
    assert second.counts() == (2, 0, 1)
    project.sandbox.faults_of = {}
    (newest,) = set(second.not_imported) - {oldest}
    third = project.run("--local", newest)
    assert (third.status, third.counts()) == (0, (1, 0, 0)), third
    assert len(third.not_imported) == 2
    assert names(project) == {f"u{n}": f"Name\n{n}" for n in range(6)}


def test_a_byte_order_mark_never_gets_into_the_middle(project: Project) -> None:
    """The first row carries it where there is no heading row; it may be refused after the last
    one, which has no line end."""
    project.configure(
        csv={"headings": "user_id,email,name"}, intercom={"concurrency": 2, "retries": 1000}
    )

    def late(request: Request) -> Fault | None:
        done = any(one.ended and one.body["user_id"] == "u2" for one in project.sandbox.requests)
        return Fault(status=400 if done or request.body["user_id"] == "u2" else 503)

    project.write("\ufeffu1,,One\nu2,,Two")
    project.sandbox.fault_for = late
    first = project.run()
    assert first.counts() == (0, 0, 2), first
    assert b"\xef\xbb\xbf" not in content(first)[3:]
    project.sandbox.fault_for = None
    assert project.run("--local", first.not_imported[0]).counts() == (2, 0, 0)
    assert names(project) == {"u1": "One", "u2": "Two"}


def test_rows_of_one_user_keep_their_order_where_the_run_stops(project: Project) -> None:
    """While one row waits for its next try, a later one of its user waits for it."""
    project.configure(intercom={"concurrency": 3, "retries": 1000})
    rows = ["u1,,Old\n", "u2,,Two\n", "u1,,New\n", "u3,,Three\n", "u1,,Newest\n"]
    project.write(HEADING + "".join(rows))

    def fault(request: Request) -> Fault:
        tried = sum(one.body["user_id"] == "u1" for one in project.sandbox.requests)
        stops = request.body["user_id"] == "u2" and tried > 3
        return Fault(status=401 if stops else 503)

    project.sandbox.fault_for = fault
    first = project.run()
    assert first.counts() == (0, 0, 5), first
    kept = content(first).decode().splitlines(keepends=True)[1:]
    assert sorted(kept) == sorted(rows)
    assert [row for row in kept if "u1" in row] == [rows[0], rows[2], rows[4]]
    project.sandbox.fault_for = None
    assert project.run("--local", first.not_imported[0]).counts() == (5, 0, 0)
    assert names(project)["u1"] == "Newest"


def test_an_older_row_never_overwrites_a_newer_one_of_its_user(project: Project) -> None:
    """One row used up its retries; the next ones of this user, by whatever it is known, wait."""
    project.configure(intercom={"retries": 1})
    project.write(HEADING + "u1,,Old\nu2,,Two\nu1,one@example.com,Newer\n,one@example.com,New\n")
    project.sandbox.fault_for = lambda request: (
        Fault(status=503) if request.body["name"] == "Old" else None
    )
    first = project.run()
    assert first.counts() == (1, 0, 3)
    assert "line 4 user_id=u1: not imported: an earlier row" in first.error_log
    project.sandbox.fault_for = None
    assert project.run("--local", first.not_imported[0]).status == 0
    assert names(project)["u1"] == "New"


#### Folders that fail


def test_a_folder_that_cannot_be_made(project: Project) -> None:
    """The run stops; the users before are counted, and the rows behind are said to be unkept."""
    (project.folder / "taken").write_text("a file")
    project.configure(csv={"not_imported_folder": "taken/here"})
    project.write(HEADING + "u1,,One\nu2,,Two\nbad\nu3,,Three\nbad\n")
    result = project.run()
    assert (result.status, result.counts()) == (1, (2, 0, 3)), result
    assert len(project.sandbox.requests) == 2
    (line,) = result.err.splitlines()
    taken = f"taken{os.sep}here"
    assert taken in line
    assert re.search("Not a directory|exists", line)
    assert "from line 4 on" in result.out
    assert taken in result.error_log


@posix("Windows removes no file that is open")
def test_a_file_that_is_removed_during_the_run_is_told(project: Project) -> None:
    """And no path is named that isn't there."""

    def remove(request: Request) -> Fault | None:
        if request.body["user_id"] == "u2":
            shutil.rmtree(project.folder / "not_imported")
        return REFUSED

    project.sandbox.fault_for = remove
    project.users(4)
    result = project.run()
    assert (result.status, result.counts()) == (1, (0, 0, 4)), result
    assert "removed" in result.err
    assert "from line 3 on" in result.out
    assert str(project.folder / "not_imported") + "/" not in result.out
