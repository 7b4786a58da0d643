"""The two logs of a run: what is in them, what never is, and who may read them."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from conftest import Project, assert_says, line_of, lines_of, posix
from faults import Fault

STAMP = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S* "
LEVEL = "DEBUG|INFO|WARNING|ERROR"


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


#### Two files per run


def test_a_successful_run_has_both_logs_too(project: Project) -> None:
    project.users(1)
    result = project.run()
    assert result.status == 0
    logs = sorted(path.name for path in (project.folder / "logs").iterdir())
    assert len(logs) == 2
    time = logs[0].removesuffix("_debug.log")
    assert logs == [f"{time}_debug.log", f"{time}_error.log"]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d", time
    )  # no colons, for Windows
    assert result.error_log == ""
    assert result.debug_log


def test_runs_that_start_in_one_second_do_not_share_a_file(project: Project) -> None:
    """Here, other runs have already created logs for each of the next 120 seconds."""
    logs = project.folder / "logs"
    logs.mkdir()
    began = datetime.now(timezone.utc)
    for second in range(120):
        name = f"{began + timedelta(seconds=second):%Y-%m-%dT%H-%M-%S}"
        (logs / f"{name}_debug.log").write_text("another run's")
        (logs / f"{name}_error.log").write_text("another run's")
    others = files(logs)
    project.write("user_id\nu1\nu2,x\n")
    project.run(env={"TZ": "UTC"})
    assert {path.read_text("utf-8") for path in others} == {"another run's"}
    debug, error = sorted(files(logs) - others)
    assert debug.name.endswith("_debug.log")
    assert error.name == debug.name.replace("_debug", "_error")
    assert "u1" in debug.read_text("utf-8")


def test_without_logs_the_console_has_the_warnings_and_errors(project: Project) -> None:
    """No log file is created, and nothing less important is printed."""
    project.configure(log={"use_logs": "false"}, intercom={"retries": 1})
    project.users(1)
    before = set(project.folder.rglob("*"))
    result = project.run()
    assert (result.status, result.err, len(result.out.splitlines())) == (0, "", 1)
    assert set(project.folder.rglob("*")) == before
    project.services.faults = [Fault(status=503)]
    project.write("user_id\nu1\nu2,x\n")
    result = project.run("--quiet")
    assert result.status == 1
    assert_says(line_of(result.err, "line 2"), "WARNING", "503")
    assert_says(line_of(result.err, "line 3"), "ERROR", "not imported", "2 cells")
    assert "DEBUG" not in result.err
    assert "details:" not in result.err
    assert not (project.folder / "logs").exists()


OLD = ["2020-01-01T00-00-00_debug.log", "2020-01-01T00-00-00-2_error.log"]
OLD += ["2021-12-31T23-59-59_error.log"]
OTHERS = ["2020-01-01T00-00-00_debug.log.gz", "2020-01-01_debug.log"]
OTHERS += ["2020-13-01T00-00-00_debug.log", "of 2020-01-01T00-00-00_error.log"]
DAY_OLD = f"{datetime.now() - timedelta(days=1):%Y-%m-%dT%H-%M-%S}_debug.log"


@pytest.mark.parametrize(
    ("days", "removed"),
    [("", []), ("2.5", OLD), ("0", [*OLD, DAY_OLD])],
    ids=["forever", "2.5", "0"],
)
def test_only_old_logs_are_removed(
    project: Project, days: str, removed: list[str]
) -> None:
    """The run's own logs always stay, and so do files that aren't logs."""
    logs = project.folder / "logs"
    logs.mkdir()
    for name in *OLD, DAY_OLD, *OTHERS:
        (logs / name).write_text("")
    (logs / "2020-02-01T00-00-00_error.log").mkdir()
    before = {path.name for path in logs.iterdir()}
    project.configure(log={"keep_days": days})
    project.users(1)
    result = project.run()
    after = {path.name for path in logs.iterdir()}
    assert before - after == set(removed)
    assert len(after - before) == 2
    assert (result.status, result.error_log) == (0, "")


#### What is in them


def test_each_row_has_its_outcome_by_line_and_identity(project: Project) -> None:
    """The line is the row's first one, even if its cells contain line breaks."""
    project.configure(intercom={"skip_unchanged": "true"})
    project.write('user_id,email,name\n,same@example.com,\n"u 2",,\n')
    project.run()
    rows = '\n"u 2",,\n,same@example.com,\nu3,a@example.com,"two\nlines"\nu4,1,2,3\n,c@d,x\n'
    project.write("user_id,email,name" + rows)
    for old in files(project.folder / "logs"):
        old.unlink()
    log = project.run().debug_log
    for line, identity, outcome in (
        (2, "u 2", "unchanged"),
        (3, "same@example.com", "unchanged"),
        (4, "u3", r"200.*\d\.\d+ s"),
        (7, "c@d", r"200.*\d\.\d+ s"),
    ):
        pattern = rf"^{STAMP}(DEBUG|INFO) .*\bline {line}\b.*{identity}.*{outcome}"
        assert re.search(pattern, log, re.MULTILINE), (line, log)
    assert re.search(
        rf"^{STAMP}ERROR .*\bline 6\b.*not imported.*4 cells", log, re.MULTILINE
    )


@pytest.mark.parametrize("new", [0, 1], ids=["all unchanged", "the last one is new"])
def test_each_unchanged_row_is_logged_once(project: Project, new: int) -> None:
    """It is logged before the run waits for the response for a later row."""
    project.configure(intercom={"skip_unchanged": "true"})
    project.users(45)
    project.run()
    for old in files(project.folder / "logs"):
        old.unlink()
    project.users(45 + new)
    log = project.run().debug_log
    logged = re.findall(r"line (\d+) user_id=u(\d+)(?=.*(unchanged|accepted))", log)
    expected = [(str(number + 1), str(number), "unchanged") for number in range(1, 46)]
    expected += [("47", "46", "accepted")][:new]
    assert logged == expected


def test_an_omitted_value_is_logged_with_its_column_and_type(project: Project) -> None:
    project.configure(custom_attributes={"age": "years old : integer"})
    project.write("user_id,years old\nu1,36\nu2,thirty\n")
    line = line_of(project.run().error_log, "thirty")
    assert re.match(f"{STAMP}WARNING ", line)
    for word in ("line 3", "u2", "years old", "thirty", "integer"):
        assert word in line


def test_the_error_log_has_the_warnings_and_errors_of_the_debug_log(
    project: Project,
) -> None:
    project.services.faults = [Fault(status=500), Fault(status=422)]
    project.write("user_id\nu1\nu2,x\nu3\n")
    result = project.run()
    debug = result.debug_log.splitlines()
    important = [line for line in debug if re.match(f"{STAMP}(WARNING|ERROR) ", line)]
    assert result.error_log.splitlines() == important
    assert 2 < len(important) < len(debug)


def test_each_retry_and_the_time_of_each_request_are_logged(project: Project) -> None:
    project.services.faults = [Fault(status=503), Fault(status=500)]
    project.services.latency = 0.05
    project.users(1)
    result = project.run()
    request = r"DEBUG line 2 user_id=u1: (?:accepted: )?(\d+)\b.* in (\d+\.\d+) s$"
    found = re.findall(request, result.debug_log, re.MULTILINE)
    assert [status for status, _ in found] == ["503", "500", "200"]
    assert all(0.04 < float(seconds) < 60 for _, seconds in found), found
    retry = r"WARNING line 2 user_id=u1: .*\b(\d+ of 50)\b"
    assert re.findall(retry, result.error_log) == ["1 of 50", "2 of 50"]


def test_the_traceback_of_an_unexpected_error_is_only_in_the_debug_log(
    project: Project,
) -> None:
    project.set_constants(JSON_ENCODER=None)  # it encodes each request
    project.write("user_id\nu1\n")
    project.services.faults = [Fault(status=422)]
    result = project.run()
    assert result.status == 1
    assert "Traceback" not in result.out + result.err + result.error_log
    assert_says(line_of(result.err, "unexpected error"), "AttributeError", "debug log")
    assert lines_of(result.debug_log, "    | Traceback")
    assert_no_forged_lines(result.debug_log)


#### A disk that fills up


@posix("Windows has no ulimit")
def test_unwritable_logs_cause_one_warning_and_the_import_goes_on(
    project: Project,
) -> None:
    """A file size limit acts like a full disk, but only the logs reach it."""
    limit = "trap '' XFSZ; ulimit -f 8; exec \"$@\""
    project.command = ["sh", "-c", limit, "sh", *project.script_command]
    project.users(100)
    result = project.run("--quiet")
    assert (result.status, result.out) == (0, "")
    assert len(project.services.requests) == 100
    (line,) = result.err.splitlines()
    assert_says(line, "can't write", r"_debug\.log", "File too large", "continues")


#### Lines that nobody can forge

FORGED = "2026-11-01T03:00:00.000 ERROR forged"
CONTROLS = [
    *map(chr, range(32)),
    "\x7f",
    *map(chr, range(0x80, 0xA0)),
    "\u2028",
    "\u2029",
]
EVIL = "evil" + "".join(CONTROLS).replace("\0", "") + "\n" + FORGED + "\r\n\x1b[2J"


def assert_no_forged_lines(text: str) -> None:
    """Assert that each line has our own timestamp or is a marked traceback line."""
    lines = text.split("\n")
    assert lines.pop() == ""
    assert [
        line for line in lines if not re.match(rf"{STAMP}({LEVEL}) |    \| ", line)
    ] == []
    assert [line for line in lines if line.startswith(FORGED)] == []
    assert_no_control_characters("".join(lines))


def assert_no_control_characters(text: str) -> None:
    assert [character for character in CONTROLS if character in text] == []


def as_cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def test_cells_cannot_forge_lines(project: Project) -> None:
    project.configure(
        user={"user_id": "user_id", "email": "email"},
        custom_attributes={"age": "age : integer"},
    )
    evil = as_cell(EVIL)
    rows = [f"u1,{evil},{evil}", f"{evil},a@example.com,1", f"u3,,1,{evil}"]
    project.write("user_id,email,age\n" + "\n".join(rows) + "\n")
    result = project.run()
    assert result.counts() == (1, 0, 2)
    for log in (result.debug_log, result.error_log):
        assert_no_forged_lines(log)
        assert len(lines_of(log, r"evil\x01\x02")) >= 3, log
    assert_no_control_characters(
        result.out.replace("\n", "") + result.err.replace("\n", "")
    )
    path = result.reject_files[0]
    reasons = (
        path.with_name(f"{path.stem}_reasons.csv").read_bytes().decode("utf-8-sig")
    )
    assert_no_control_characters(reasons.replace("\r\n", ""))


def test_headings_and_settings_cannot_forge_lines(project: Project) -> None:
    project.write(f"user_id2,{as_cell(EVIL)}\nu1,x\n")
    project.configure(user={"user_id": "evil \x1b[2J\x85user"})
    result = project.run()
    assert result.status == 1
    assert len(result.err.splitlines()) == 1
    assert_no_forged_lines(result.error_log)
    assert_no_forged_lines(result.debug_log)
    assert_no_control_characters(result.err.rstrip("\n"))


@posix("Windows doesn't allow such names")
def test_file_names_cannot_forge_lines(project: Project) -> None:
    """Neither the one that is skipped nor the one that is imported."""
    name = EVIL.replace("/", "")[-60:] + ".csv"
    project.users(1)
    project.users(1, name)
    (project.exports / "not_utf-8_\udcff.csv").write_bytes(b"")
    result = project.run()
    assert result.status == 0
    assert lines_of(result.debug_log, "forged", " DEBUG ", "skipping")
    assert_no_forged_lines(result.debug_log)
    for log in (project.folder / "logs").iterdir():
        log.unlink()
    project.enable_notices()
    result = project.run(name)
    assert result.status == 0
    assert_no_forged_lines(result.debug_log)
    assert len(result.out.splitlines()) == 1
    assert len(project.services.slack[-1]["text"].splitlines()) == 2
    assert_no_control_characters(
        result.out.rstrip("\n") + project.services.slack[-1]["text"].replace("\n", "")
    )


@pytest.mark.parametrize("status", [422, 503, 401])
@pytest.mark.parametrize("listed", [True, False], ids=["error list", "words"])
def test_responses_cannot_forge_lines(
    project: Project, status: int, listed: bool
) -> None:
    errors = [{"code": EVIL, "message": EVIL}]
    content = json.dumps({"type": "error.list", "request_id": EVIL, "errors": errors})
    body = content if listed else EVIL
    project.configure(intercom={"retries": 1})
    project.services.faults = [Fault(status=status, body=body.encode())] * 2
    failure = Fault(status=500, body=EVIL.encode())
    project.services.notice_faults_by_service["hipchat"] = [failure]
    project.users(2)
    project.enable_notices()
    result = project.run()
    assert lines_of(result.error_log, "Hipchat notice failed", "500")
    for log in result.debug_log, result.error_log:
        assert_no_forged_lines(log)
        assert bool(lines_of(log, "evil")) == listed
    assert_no_control_characters(result.err.replace("\n", ""))
    assert_no_control_characters(project.services.slack[-1]["text"].replace("\n", ""))
    assert "\n" + FORGED not in project.services.slack[-1]["text"]


#### Their permissions


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@posix("Windows has no such modes")
@pytest.mark.usefixtures("no_umask")
def test_files_are_readable_by_their_owner_only(project: Project) -> None:
    """So are their folders, whatever the umask; and all are where the settings say."""
    project.configure(
        intercom={"skip_unchanged": "true", "state_file": "state/of/it.sqlite3"},
        log={"folder": "logs/of/it"},
        csv={"not_imported_folder": "kept/of/it"},
    )
    project.write("user_id\nu1\nu2,x\n")
    before, modes = set(project.folder.rglob("*")), dict[Path, int]()

    def look(*_: object) -> None:
        for path in set(project.folder.rglob("*")) - before:
            modes[path] = stat.S_IMODE(path.stat().st_mode)

    project.services.on_response = (
        look  # SQLite's own files are gone when the run has ended
    )
    assert project.run().status == 1
    look()
    made = sorted(files(project.folder) - before)
    places = [path.parent.relative_to(project.folder).as_posix() for path in made]
    assert places == ["kept/of/it"] * 2 + ["logs/of/it"] * 2 + ["state/of"]
    assert len(modes) >= 8 + len(made) + 1  # with folders, and one of SQLite's files
    assert [path for path, mode in modes.items() if mode & 0o077] == []
