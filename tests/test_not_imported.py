"""Nothing is lost: the file of the rows that were not imported, and importing it again."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from conftest import NAME, Project, Result
from sandbox import Fault, Request, Sandbox

HEADING = "user_id,email,name\n"
REFUSED = Fault(status=400)
CHANGING = ("id", "created_at", "updated_at")


def state(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The users that the stand-in has, without what each run makes anew."""
    users = [
        {name: value for name, value in user.items() if name not in CHANGING}
        for user in sandbox.users.values()
    ]
    return sorted(users, key=lambda user: (user["user_id"] or "", user["email"] or ""))


def refuse(*users: str) -> Callable[[Request], Fault | None]:
    """A fault for these users, by their user_id."""
    return lambda request: REFUSED if (request.body or {}).get("user_id") in users else None


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
    project.sandbox.fault_for = refuse("u2", "u3")
    result = project.run()
    assert result.counts() == (2, 0, 5), result
    kept = mark + heading + b"".join(lines[n] for n in (1, 2, 3, 5, 6))
    assert content(result) == kept


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_last_row_without_a_line_end_gets_no_foreign_one(project: Project, end: str) -> None:
    project.write(f"user_id,email,name{end}u1,,One{end}bad")
    result = project.run()
    assert content(result).decode() in (
        f"user_id,email,name{end}bad",
        f"user_id,email,name{end}bad{end}",
    )


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
    stem = re.escape(NAME.removesuffix(".csv"))
    assert re.fullmatch(stem + r"_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.csv", path.name)
    assert path.read_bytes() == rows
    assert str(path) in result.out
    assert "_error.log" in result.out


def test_the_file_is_in_the_folder_that_the_config_names(project: Project) -> None:
    project.configure(csv={"not_imported_folder": '"deep/in/it"'})
    project.write(HEADING + "bad\n")
    project.run()
    assert [path.suffix for path in (project.folder / "deep/in/it").iterdir()] == [".csv"]
    assert not (project.folder / "not_imported").exists()


def test_where_every_row_is_imported_there_is_no_file(project: Project) -> None:
    project.users(3)
    result = project.run()
    assert result.status == 0, result
    assert not (project.folder / "not_imported").exists()
    assert "not_imported" not in result.out + result.err


def test_runs_in_one_second_do_not_share_a_file(project: Project) -> None:
    names = ["a.csv", "b.csv", "c.csv"]
    for name in names:
        folder = project.exports / name[0]
        folder.mkdir()
        (folder / NAME).write_text(HEADING + name[0] + "\n")
    for name in names:
        result = project.run(f"{name[0]}/{NAME}")
    kept = sorted(path.read_text() for path in result.not_imported)
    assert kept == [f"{HEADING}{name[0]}\n" for name in names]


@pytest.mark.parametrize("way", ["{kept}", "../not_imported/{kept.name}", "link/{kept.name}"])
def test_names_do_not_grow_from_round_to_round(project: Project, way: str) -> None:
    """However the folder is come to."""
    (project.folder / "not_imported").mkdir()
    (project.folder / "link").symlink_to("not_imported")
    project.configure(csv={"not_imported_folder": "link"})
    project.write(HEADING + "bad\n")
    kept = project.run().not_imported[0]
    for _ in range(2):
        result = project.run(way.format(kept=kept))
        assert result.counts() == (0, 0, 1)
        kept = result.not_imported[-1]
    stem = re.escape(NAME.removesuffix(".csv"))
    pattern = re.compile(stem + r"_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(-\d)?\.csv")
    assert [path.name for path in result.not_imported if not pattern.fullmatch(path.name)] == []
    assert len(result.not_imported) == 3


def test_a_name_as_long_as_a_name_can_be(project: Project) -> None:
    name = ":" * (os.name != "nt") + "ü" * 120 + ".csv"
    project.write(HEADING + "bad\nu1,,One\n", name)
    result = project.run(name)
    assert result.counts() == (1, 0, 1), result
    assert content(result).decode() == HEADING + "bad\n"
    assert re.match("-?ü+_20", result.not_imported[-1].name)


def test_a_run_that_stops_keeps_all_that_it_did_not_come_to(project: Project) -> None:
    project.write(HEADING + "".join(f"u{n},,N{n}\n" for n in range(5)) + "bad\n\n,,Nobody\n")
    project.sandbox.fault_for = lambda request: (
        Fault(status=401) if request.body["user_id"] == "u2" else None
    )
    result = project.run()
    assert result.status == 1, result
    assert result.counts() == (2, 0, 5)
    assert re.findall(r"(?m)^(\d+) x", result.out) == ["1"]
    assert content(result).decode() == HEADING + "u2,,N2\nu3,,N3\nu4,,N4\nbad\n,,Nobody\n"


#### Importing it again


def test_importing_the_file_again_gives_what_an_undisturbed_run_gives(project: Project) -> None:
    """Also where the rows came from S3, and a second time where the first was disturbed too."""
    rows = "".join(f'u{n},u{n}@example.com,"Name\n{n}"\n' for n in range(6))
    project.write(HEADING + rows)
    with Sandbox() as calm:
        project.configure(intercom={"user_url": calm.users_url})
        assert project.run().counts() == (6, 0, 0)
        undisturbed = state(calm)
    project.configure(
        intercom={"user_url": project.sandbox.users_url},
        aws={"use_aws": "true", "bucket": "none"},
    )
    project.sandbox.fault_for = refuse("u1", "u3", "u5")
    first = project.run("--local")
    assert first.counts() == (3, 0, 3)
    (oldest,) = first.not_imported
    project.sandbox.fault_for = refuse("u3")
    second = project.run("--local", oldest.relative_to(project.folder))
    assert second.counts() == (2, 0, 1)
    assert state(project.sandbox) != undisturbed
    project.sandbox.fault_for = None
    (newest,) = set(second.not_imported) - {oldest}
    third = project.run("--local", newest)
    assert third.status == 0, third
    assert third.counts() == (1, 0, 0)
    assert len(third.not_imported) == 2
    assert state(project.sandbox) == undisturbed


def test_files_without_headings_can_be_imported_again(project: Project) -> None:
    project.configure(csv={"headings": "user_id,email,name", "encoding": "utf-16"})
    project.write("u1,,One\nu2,,Two\nu3,,Three\n".encode("utf-16"))
    project.sandbox.fault_for = refuse("u1", "u3")
    first = project.run()
    assert first.counts() == (1, 0, 2), first
    project.sandbox.fault_for = None
    assert project.run("--local", first.not_imported[0]).counts() == (2, 0, 0)
    assert [user["user_id"] for user in state(project.sandbox)] == ["u1", "u2", "u3"]


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
    assert [user["user_id"] for user in state(project.sandbox)] == ["u1", "u2"]


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
    (user,) = project.sandbox.find(user_id="u1")
    assert user["name"] == "Newest"


def test_an_older_row_never_overwrites_a_newer_one_of_its_user(project: Project) -> None:
    """One row used up its retries, the next one of this user would be accepted."""
    project.configure(intercom={"retries": 1})
    project.write(HEADING + "u1,,Old\nu2,,Two\nu1,,New\n")
    project.sandbox.fault_for = lambda request: (
        Fault(status=503) if request.body["name"] == "Old" else None
    )
    first = project.run()
    assert first.counts() == (1, 0, 2)
    assert "line 4 user_id=u1: not imported: an earlier row" in first.error_log
    project.sandbox.fault_for = None
    assert project.run("--local", first.not_imported[0]).status == 0
    (user,) = project.sandbox.find(user_id="u1")
    assert user["name"] == "New"


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
    assert re.search("taken/here.*Not a directory", line)
    assert "from line 4 on" in result.out
    assert "taken/here" in result.error_log


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no file that is open")
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
