"""Which file is imported from disk: the newest by the time in its name, or the named one."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import signal
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import IO

import pytest
from conftest import (
    NAME,
    NEWER,
    OLDER,
    Project,
    assert_says,
    eventually,
    imported,
    lines_of,
    one_user,
    posix,
    stop_message,
)
from in_process import load_settings

import export_csv
from export_csv import Candidate, RunAborted, find_newest, parse_timestamp

#### The newest by its name


def newest(time_format: str, *names: str) -> str:
    """Return the newest of these files, which were modified in this order, a second apart."""
    candidates = [Candidate(name, 1000.0 + index) for index, name in enumerate(names)]
    return find_newest(candidates, time_format, "the folder exports").name


NEWEST = {
    "by its name, not its modification time": (
        "u_%d.%m.%Y",
        ["u_02.11.2026.csv", "u_30.10.2026.csv"],
        "u_02.11.2026.csv",
    ),
    "by time, not alphabetically": (
        "%d-%m-%Y",
        ["30-10-2026.csv", "02-11-2026.csv", "31-12-2025.csv"],
        "02-11-2026.csv",
    ),
    "month first": (
        "users_%m%d%Y",
        ["users_11102025.csv", "users_11122025.csv", "users_11272025.csv"],
        "users_11272025.csv",
    ),
    "other shapes are skipped": (
        "users_%Y%m%d",
        ["users_20250131.csv", "users_2025228.csv"],
        "users_20250131.csv",
    ),
    "without leading zeros": (
        "users_%Y-%m-%d",
        ["users_2025-9-30.csv", "users_2025-10-1.csv"],
        "users_2025-10-1.csv",
    ),
    "other endings are skipped": (
        "users_%Y-%m-%d",
        [
            "users_2025-10-01.csv",
            "users_2025-10-02 (1).csv",
            "users_2025-10-02.csv.bak",
        ],
        "users_2025-10-01.csv",
    ),
    "same time: the plain file": (
        "%Y-%m-%d",
        ["2025-10-01.CSV", "2025-10-01.csv.gz"],
        "2025-10-01.CSV",
    ),
    "same time: the file changed last": (
        "%Y-%m-%d",
        ["2025-10-01.csv", "2025-10-1.csv"],
        "2025-10-1.csv",
    ),
    "compressed": (
        "%Y-%m-%d",
        ["2025-10-01.csv", "2025-10-02.csv.GZ"],
        "2025-10-02.csv.GZ",
    ),
    "by the time in UTC, not by the digits": (
        "%Y-%m-%dT%H%z",
        ["2026-11-01T23+0000.csv", "2026-11-02T00+0200.csv"],
        "2026-11-01T23+0000.csv",
    ),
    "afternoon": (
        "%d-%b-%Y %I-%M %p",
        ["01-Dec-2026 09-00 PM.csv", "01-Dec-2026 10-00 AM.csv"],
        "01-Dec-2026 09-00 PM.csv",
    ),
    "the same shape, changed earlier": (
        "%d%m%Y",
        ["31312026.csv", "01022026.csv"],
        "01022026.csv",
    ),
    "the shape of an older one": (
        "u_%d%m%Y%f",
        ["u_010120261.csv", "u_02012026123.csv", "u_320120261.csv"],
        "u_02012026123.csv",
    ),
    "not a CSV, whatever its shape": (
        "u_%Y-%m-%d",
        [
            "u_2026-01-01.csv",
            "u_2026-99-99.txt",
            "u_2026-99-99",
            "u_2026-99-99.csv.zip",
        ],
        "u_2026-01-01.csv",
    ),
}


@pytest.mark.parametrize(
    ("time_format", "names", "expected"), NEWEST.values(), ids=NEWEST
)
def test_the_newest_file_is_found_by_its_name(
    time_format: str, names: list[str], expected: str
) -> None:
    assert newest(time_format, *names) == expected


# The format, the names in the folder, and what the message says
WRONG_FORMATS = {
    "day and month swapped": (
        "users_%d%m%Y",
        ["users_11102025.csv", "users_11122025.csv", "users_11272025.csv"],
        [r"users_11122025\.csv", r"users_11272025\.csv", "time_format", "users_%d%m%Y"],
    ),
    "the other one is compressed": (
        "%d-%m-%Y",
        ["01-02-2026.csv", "01-31-2026.CSV.gz"],
        [r"01-02-2026\.csv", r"01-31-2026\.CSV\.gz"],
    ),
    "numbers without separators": (
        "users_%Y%m%d",
        ["users_2025111.csv", "users_2025228.csv"],
        [r"expected.* users_20\d{6}\.csv", r"users_2025(111|228)\.csv"],
    ),
    "an empty folder": ("%Y", [], ["the folder exports", r"expected.* 20\d\d\.csv"]),
    "an offset": ("%Y-%m-%d%z", ["all.csv"], [r"-\d\d[+-]\d{4}\.csv", "all"]),
    "a CSV is a better example": ("%Y", ["zzz.txt", "all.csv"], [r"all\.csv"]),
}


@pytest.mark.parametrize(
    ("time_format", "names", "words"), WRONG_FORMATS.values(), ids=WRONG_FORMATS
)
def test_a_wrong_format_stops_the_run(
    time_format: str, names: list[str], words: list[str]
) -> None:
    with pytest.raises(RunAborted) as stop:
        newest(time_format, *names)
    assert_says(str(stop.value), *words)


# Names that match a format, with their time
SPELLINGS = [
    ("%Y%m%d", "20261101", "2026-11-01T00:00:00"),
    ("%Y-%m-%d", "2026-1-1", "2026-01-01T00:00:00"),
    ("%Y-%m-%d %H.%M", "2026-1-1 9.5", "2026-01-01T09:05:00"),
    ("%Y-%j", "2026-7", "2026-01-07T00:00:00"),
    ("USERS_%d%b%Y", "users_01NOV2026", "2026-11-01T00:00:00"),
    ("%d %B %Y %I%p", "1 november 2026 9am", "2026-11-01T09:00:00"),
    ("%Y-%m-%dT%H%M%S.%f", "2026-11-01T090000.5", "2026-11-01T09:00:00.500000"),
    ("%Y-%m-%dT%H%M%S.%f", "2026-11-01T090000.500", "2026-11-01T09:00:00.500000"),
    ("%Y-%m-%dT%H%M%S.%f", "2026-11-01T090000.050", "2026-11-01T09:00:00.050000"),
    ("%Y-%m-%dT%H%M%S.%f", "2026-11-01T090000.0", "2026-11-01T09:00:00"),
    ("%Y-%m-%dT%H%M%S.%f", "2026-11-01T090000.123456", "2026-11-01T09:00:00.123456"),
    ("%Y-%m-%dT%H%z", "2026-11-01T09+0100", "2026-11-01T09:00:00+01:00"),
    ("%Y-%m-%dT%H%z", "2026-11-01T09+01:00", "2026-11-01T09:00:00+01:00"),
    ("%Y-%m-%dT%H%z", "2026-11-01T09-0330", "2026-11-01T09:00:00-03:30"),
    ("%Y-%m-%dT%H%z", "2026-11-01T09Z", "2026-11-01T09:00:00+00:00"),
    ("%Y-%m-%dT%H%z", "2026-11-01T09-00:00", "2026-11-01T09:00:00+00:00"),
    ("100%%_%Y", "100%_2026", "2026-01-01T00:00:00"),
    ("%%f_%Y", "%f_2026", "2026-01-01T00:00:00"),
    ("export_v007_%Y%m%d", "export_v007_20261101", "2026-11-01T00:00:00"),
]
# Names that strptime accepts, although formatting the time again gives another name
DIFFERENT_SPELLINGS = [
    ("%Y%m%d", "2026111"),
    ("%Y%m%d", "202611 1"),
    ("%d%m%Y", "1112026"),
    ("%H%M%S_%Y%m%d", "9000_20261101"),
    ("users %Y", "users  2026"),
    ("%Y-%m-%d", "٢٠٢٦-11-01"),
]
# Names that are not in the format at all
OTHER_NAMES = [
    ("%Y", "2026.txt"),
    ("%Y", "2026"),
    ("%Y", "2026.csv.zip"),
    ("%Y", "users_2026.csv"),
    ("%Y", "2026_v2.csv"),
    ("%Y-%m-%d", "2026-02-30.csv"),
    ("%Y", ".csv"),
    ("%Y", "2026\n.csv"),
]


@pytest.mark.parametrize(("time_format", "stem", "moment"), SPELLINGS)
@pytest.mark.parametrize("ending", [".csv", ".CSV.gz"])
def test_a_name_is_read_in_any_spelling_of_its_time(
    time_format: str, stem: str, moment: str, ending: str
) -> None:
    assert parse_timestamp(stem + ending, time_format) == datetime.fromisoformat(moment)


@pytest.mark.parametrize(("time_format", "stem"), DIFFERENT_SPELLINGS)
def test_a_name_that_is_written_differently_does_not_match(
    time_format: str, stem: str
) -> None:
    datetime.strptime(stem, time_format)  # must not raise
    assert parse_timestamp(stem + ".csv", time_format) is None


@pytest.mark.parametrize(("time_format", "name"), OTHER_NAMES)
def test_another_name_does_not_match(time_format: str, name: str) -> None:
    assert parse_timestamp(name, time_format) is None


def test_a_format_with_a_zone_name_is_a_settings_error(project: Project) -> None:
    """Python reads the name of a zone and ignores it."""
    project.configure(file={"time_format": "users_%Y-%m-%d %Z"})
    project.write(one_user("u1"), "users_2025-10-01 UTC.csv")
    result = project.run()
    assert (result.status, imported(project)) == (2, [])
    assert_says(result.err, r"\[file\] time_format", "%Z")


def test_skipped_names_are_in_the_debug_log(project: Project) -> None:
    project.configure(file={"time_format": "users_%d.%m.%Y"})
    others = ["users_03.11.2026.txt", "all.csv", "users_03.11.2026_v2.csv"]
    for name in ["users_02.11.2026.csv", *others]:
        project.write(one_user(name), name)
    result = project.run()
    assert imported(project) == ["users_02.11.2026.csv"], result
    for name in others:
        assert lines_of(result.debug_log, f"{name}: ", " DEBUG "), name


@posix("needs links and named pipes")
def test_only_regular_files_and_links_to_them_count(project: Project) -> None:
    """A broken link, a link to itself, a device, a folder and a pipe are newer."""
    itself = "users_2027-03-01T00-00-00.csv"
    for month, target in enumerate(["/dev/zero", "gone", itself], start=1):
        link = project.exports / f"users_2027-{month:02}-01T00-00-00.csv"
        link.symlink_to(target)
    (project.exports / "users_2028-01-01T00-00-00.csv").mkdir()
    os.mkfifo(project.exports / "users_2029-01-01T00-00-00.csv")
    project.write(one_user("older"), OLDER)
    project.write(one_user("linked"), "linked.data")
    (project.exports / NAME).symlink_to("linked.data")
    assert project.run().status == 0
    assert imported(project) == ["linked"]


@pytest.mark.parametrize("ending", [".csv.gz", ".CSV", ".CSV.GZ"])
def test_the_newest_may_be_compressed_and_end_in_capitals(
    project: Project, ending: str
) -> None:
    project.write(one_user("older"))
    content = one_user("newer")
    if ending.lower().endswith(".gz"):
        content = gzip.compress(content)
    project.write(content, NEWER.removesuffix(".csv") + ending)
    assert project.run().status == 0
    assert imported(project) == ["newer"]


#### The named file

# Where vip.csv is, and what the command line says
NAMED_FILES = {
    "folder": (["exports/vip.csv"], "vip.csv"),
    "current": (["vip.csv"], "vip.csv"),
    "folder before current": (["exports/vip.csv", "vip.csv"], "vip.csv"),
    "absolute": (["elsewhere/vip.csv"], "{folder}/elsewhere/vip.csv"),
    "below": (["exports/elsewhere/vip.csv"], "elsewhere/vip.csv"),
}


@pytest.mark.parametrize(("places", "argument"), NAMED_FILES.values(), ids=NAMED_FILES)
def test_the_argument_selects_the_file(
    project: Project, places: list[str], argument: str
) -> None:
    """It overrides [file] in config.ini; if the name is in both folders, the run says so."""
    project.configure(file={"select_latest": "false", "name": OLDER})
    project.write(one_user("wrong"), OLDER)
    project.write(one_user("wrong"), NEWER)
    for place in places:
        path = project.folder / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(one_user(place))
    result = project.run(argument.format(folder=project.folder))
    assert (result.status, imported(project)) == (0, places[:1]), result
    notes = lines_of(result.out, "vip.csv", "using", project.exports / "vip.csv")
    assert len(notes) == len(places) - 1


def test_the_config_can_name_the_file(project: Project) -> None:
    project.configure(file={"select_latest": "false", "name": "vip.csv"})
    project.write(one_user("newer"), NEWER)
    project.write(one_user("vip"), "vip.csv")
    assert project.run().status == 0
    assert imported(project) == ["vip"]


def test_a_missing_file_or_folder_is_named(project: Project) -> None:
    assert_says(stop_message(project, project.run("vip.csv")), r"vip\.csv", "exports")
    project.configure(file={"select_latest": "false", "name": "named.csv"})
    assert "named.csv" in stop_message(project, project.run())
    project.configure(file={"select_latest": "true"}, local={"folder": "nowhere"})
    line = stop_message(project, project.run())
    assert_says(line, re.escape(str(project.folder / "nowhere")), r"\[local\] folder")


@pytest.mark.parametrize("kind", ["folder", "loop", "failing disk"])
def test_an_unreadable_file_is_named_in_one_line(project: Project, kind: str) -> None:
    """/proc/self/mem can be opened, but reading it from the start fails."""
    name = "vip.csv"
    expected = r"vip\.csv"
    if kind == "folder":
        (project.exports / name).mkdir()
    elif kind == "loop" and os.name == "posix":
        (project.exports / name).symlink_to(name)
    elif kind == "failing disk" and sys.platform == "linux":
        name = "/proc/self/mem"
        expected = "Input/output error"
    else:
        pytest.skip("needs links, or Linux")
    assert_says(stop_message(project, project.run(name)), expected)


@pytest.mark.skipif(
    os.name != "posix" or os.getuid() == 0, reason="root may read everything"
)
def test_the_newest_file_is_named_if_it_is_unreadable(project: Project) -> None:
    project.write(one_user("u1")).chmod(0)
    assert_says(
        stop_message(project, project.run()), re.escape(str(project.exports / NAME))
    )


#### The copy


@posix("limits file sizes with ulimit")
def test_a_temporary_folder_that_cannot_be_used_is_named(project: Project) -> None:
    project.users(5000)
    project.configure(aws={"tmp_folder": "nowhere"})
    line = stop_message(project, project.run())
    assert_says(line, "nowhere", r"\[aws\] tmp_folder")
    # Writing more than 8 blocks fails as it does on a full disk.
    project.configure(aws={"tmp_folder": None})
    project.command = [
        "sh",
        "-c",
        'ulimit -f 8; exec "$0" "$@"',
        *project.script_command,
    ]
    line = stop_message(project, project.run())
    assert_says(line, "File too large", r"\[aws\] tmp_folder")


@posix("on Windows, the copy has a name until the process ends")
def test_the_copy_leaves_nothing_behind(project: Project) -> None:
    """The copy never has a name, so the folder is empty even during the run."""
    temporary = project.folder / "tmp"
    temporary.mkdir()
    project.configure(aws={"tmp_folder": temporary})
    project.users(3)
    during: list[Path] = []
    project.services.fault_for = lambda request: during.extend(temporary.iterdir())
    assert project.run().counts() == (3, 0, 0)
    assert (during, list(temporary.iterdir())) == ([], [])


def copy_of(path: Path) -> bytes:
    """Return a run's copy of this file, or raise RunAborted as the run would."""
    settings = load_settings(
        user={"user_id": "user_id"},
        local={"folder": path.parent},
        file={"select_latest": "false", "name": path.name},
    )
    with contextlib.closing(export_csv.find_input(settings, lambda: False)) as file:
        file.copy.seek(0)
        return file.copy.read()


@pytest.mark.parametrize("half", [True, False], ids=["shorter", "longer"])
def test_a_file_that_changes_while_it_is_copied_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    path = tmp_path / "vip.csv"
    content = one_user("u1") * 2
    path.write_bytes(content)
    copy_stream = export_csv.copy_stream

    def copy_and_change(source: IO[bytes], target: IO[bytes]) -> None:
        copy_stream(source, target)
        path.write_bytes(content[:9] if half else content * 2)

    monkeypatch.setattr(export_csv, "copy_stream", copy_and_change)
    with pytest.raises(RunAborted, match=r"vip\.csv is still being written"):
        copy_of(path)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r", "\n".encode("utf-16-le")])
def test_a_complete_file_is_copied_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: bytes
) -> None:
    monkeypatch.setattr(
        export_csv, "sleep_unless_stopped", lambda *_: pytest.fail("it waited")
    )
    path = tmp_path / "vip.csv"
    path.write_bytes(b"user_id" + ending)
    assert copy_of(path) == b"user_id" + ending


@pytest.mark.parametrize(
    ("content", "age", "waits"),
    [
        (b"user_id\nu1", 5, True),
        (b"user_id\nu1", -1, True),
        (b"user_id\nu1", 300, False),
        (b"user_id\nu1\n", 5, False),
        (gzip.compress(b"user_id\nu1"), 5, False),
    ],
    ids=["recent", "a clock ahead", "old", "complete", "gzip"],
)
def test_a_file_with_an_unfinished_last_line_is_checked_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    age: float,
    waits: bool,
) -> None:
    """A file that was written just now may grow if its last line isn't complete."""
    path = tmp_path / "vip.csv"
    path.write_bytes(content)
    modified = time.time() - age
    os.utime(path, (modified, modified))
    pauses: list[float] = []

    def grow(seconds: float, should_stop: object) -> None:
        pauses.append(seconds)
        with path.open("ab") as file:
            file.write(b"00\n")

    monkeypatch.setattr(export_csv, "sleep_unless_stopped", grow)
    if waits:
        with pytest.raises(RunAborted, match="still being written"):
            copy_of(path)
        assert pauses == [export_csv.GROWTH_CHECK_PAUSE]
    else:
        assert copy_of(path) == content
        assert pauses == []


def test_a_file_that_does_not_grow_is_imported(project: Project) -> None:
    project.set_constants(GROWTH_CHECK_PAUSE=0.2)
    project.write(b"user_id\nu1\nu2")
    assert project.run().counts() == (2, 0, 0)


def change(path: Path, how: str) -> None:
    """Change a file as another program might during a run."""
    other_rows = path.read_bytes().replace(b"\nu", b"\nw")  # of the same size
    if how == "append":
        with path.open("ab") as file:
            file.write(b"w1\nw2\n")
    elif how == "rewrite":
        path.write_bytes(other_rows)
    elif how == "truncate":
        os.truncate(path, 20)
    elif how == "touch":
        os.utime(path, (1, 1))
    elif how == "remove":
        path.unlink()
    elif how == "replace":
        path.with_name("other").write_bytes(other_rows)
        path.with_name("other").replace(path)


CHANGES = ["append", "rewrite", "truncate", "touch"]
NEW_FILES = [
    pytest.param("replace", marks=posix("Windows can't replace an open file")),
    pytest.param("remove", marks=posix("Windows can't remove an open file")),
]


@pytest.mark.parametrize("how", [*CHANGES, *NEW_FILES])
def test_the_copy_is_imported_whatever_happens_to_the_original(
    project: Project, how: str
) -> None:
    """A changed original is an error at the end; a replaced or removed one isn't."""
    project.enable_notices()
    path = project.users(30)

    def change_once(request: object) -> None:
        if request is project.services.requests[0]:
            change(path, how)

    project.services.fault_for = change_once
    result = project.run()
    assert imported(project) == [f"u{number}" for number in range(1, 31)]
    assert result.counts() == (30, 0, 0)
    color = project.services.hipchat[-1]["color"]
    if how in CHANGES:
        assert (result.status, color) == (1, "red")
        for text in result.err, project.services.hipchat[-1]["message"]:
            assert_says(text, "changed during the run")
    else:
        assert (result.status, color) == (0, "green")


#### Pipes


@posix("needs named pipes")
@pytest.mark.parametrize("kind", ["fifo", "stdin"])
@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_pipe_can_be_imported(
    project: Project, kind: str, options: list[str]
) -> None:
    """It can be read only once, and its writer may be done before the run begins to read."""
    content = b"user_id\n" + b"".join(b"u%d\n" % number for number in range(200))
    temporary = project.folder / "tmp"
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
    count = len(imported(project))
    if options:
        count = len(result.dry_users())
    assert count == 200
    assert list(temporary.iterdir()) == []


def has_copied(pid: int) -> bool:
    """Return whether a process has written something to a file without a name."""
    paths = list(Path(f"/proc/{pid}/fd").iterdir())
    unnamed = [path for path in paths if str(path.readlink()).endswith("(deleted)")]
    return any(path.stat().st_size for path in unnamed)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("stalls", ["before it opens", "in the middle"])
def test_a_signal_ends_a_run_whose_pipe_stalls(project: Project, stalls: str) -> None:
    """The data read from the pipe is saved, because it can't be read again."""
    project.enable_notices()
    path = project.folder / "pipe"
    os.mkfifo(path)
    child = project.start(path)
    # The run handles signals before it sends its first notice.
    eventually(lambda: project.services.slack)
    rejected = []
    writer = None
    if stalls == "in the middle":
        writer = os.open(path, os.O_WRONLY)
        os.write(writer, b"user_id\nu1\nu2\n")
        eventually(lambda: has_copied(child.process.pid))
        rejected = [["user_id"], ["u1"], ["u2"]]
    child.send(signal.SIGTERM)
    result = child.wait()
    if writer is not None:
        os.close(writer)
    assert result.status == 143
    assert_says(result.err, "SIGTERM")
    assert imported(project) == []
    assert [result.rejected_rows() for _ in result.reject_files] == [rejected] * bool(
        rejected
    )


def test_a_file_without_a_time_in_its_name_has_its_modification_time(
    project: Project,
) -> None:
    """max_age_hours applies to a file from [file] name, but not to one from the command line."""
    project.configure(
        file={"select_latest": "false", "name": "vip.csv", "max_age_hours": 72}
    )
    path = project.write(one_user("u1"), "vip.csv")
    moment = time.time() - 100 * 3600
    os.utime(path, (moment, moment))
    line = stop_message(project, project.run())
    assert_says(line, r"vip\.csv", "max_age_hours", r"\b100 hours", r"\b72\b")
    assert project.run("vip.csv").status == 0
