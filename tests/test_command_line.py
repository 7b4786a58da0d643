"""The command line: arguments, what is printed where, exit statuses, and the line on a terminal."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import (
    FORMAT,
    NAME,
    SCRIPT,
    Child,
    Project,
    line_of,
    lines_of,
    passed_on,
    posix,
    says,
    sent,
)
from sandbox import Fault, Request

OPTIONS = ("filename", "--config", "--local", "--dry-run", "--check", "--notify", "--quiet")
STATUSES = {"0 all rows", "1 stopped", "2 wrong settings", "3 another run", "130 Ctrl-C"}


def is_summary(line: str, imported: int, unchanged: int, not_imported: int) -> bool:
    counts = f"{imported} added or updated, {unchanged} unchanged, {not_imported} not imported"
    speed = r"in \d+:\d\d:\d\d \(\d+\.\d users/s\)"
    return bool(re.fullmatch(f"{re.escape(NAME)}: {counts} {speed}", line))


#### Help, version, and arguments that are wrong


def test_help_has_every_option_examples_and_exit_statuses(project: Project) -> None:
    result = project.run("--help", env={"COLUMNS": "80"})
    assert (result.status, result.err) == (0, "")
    assert [line for line in result.out.splitlines() if len(line) > 80] == []
    named = [*OPTIONS, *STATUSES, "143 SIGTERM", "--version", "python export_csv.py --dry-run"]
    assert [words for words in named if words not in result.out] == []


def test_version_is_printed(project: Project) -> None:
    result = project.run("--version")
    assert (result.status, result.err) == (0, "")
    assert re.fullmatch(r"export_csv\.py \d+\.\d+\.\d+\n", result.out)


WRONG = [["--nonsense"], ["one.csv", "two.csv"], ["--config"], ["--notify"], [""]]


@pytest.mark.parametrize("arguments", [*WRONG, ["--check", "--dry-run"]], ids=" ".join)
def test_wrong_arguments_end_in_2_and_send_nothing(project: Project, arguments: list[str]) -> None:
    """A blank filename is what a script passes whose variable is not set."""
    project.notices()
    project.users(1)
    result = project.run(*arguments)
    assert (result.status, result.out) == (2, ""), result
    assert "usage: export_csv.py" in result.err
    assert [*project.sandbox.requests, *project.sandbox.notice_requests] == []


#### --dry-run


MIXED = (
    "id,Joined,Count,Name\n"
    "u1,soon,12,\n"
    "u2,24/11/2026,many,Zoë 日本\n"
    ",24/11/2026,12,\n"
    "u4,24/11/2026,12,x,too much\n"
)


def mixed(project: Project, content: str = MIXED, name: str = NAME) -> Path:
    """A file with something of everything, and all on that could write another."""
    project.notices()
    project.configure(
        user={"user_id": "id", "name": "Name", "signed_up_at": "Joined : timestamp %d/%m/%Y"},
        custom_attributes={"n": "Count : integer", "source": "'csv'"},
        intercom={"skip_unchanged": "true"},
    )
    return project.write(content, name)


def test_a_dry_run_prints_what_intercom_would_get(project: Project) -> None:
    project.configure(user={"user_id": "user_id", "name": "name"})
    project.configure(custom_attributes={"age": "age : integer"})
    project.write("user_id,name,age\nu1,Ada,36\nu2,Zoë,old\n,Nobody,1\nu4,A\nu5,\u2028 line,5\n")
    dry = project.run("--dry-run")
    real = project.run()
    assert (dry.status, real.status) == (1, 1)
    assert dry.dry_users() == sent(project)
    assert len(sent(project)) == 3


def test_a_dry_run_shows_users_in_letters_and_counts_the_rest(project: Project) -> None:
    """Without a token or a webhook, for it needs neither."""
    mixed(project)
    project.configure(intercom={"access_token": None}, slack={"webhook_url": None})
    result = project.run("--dry-run")
    one, two = result.dry_users()
    assert one == {"user_id": "u1", "custom_attributes": {"n": 12, "source": "csv"}}
    user = {"user_id": "u2", "name": "Zoë 日本", "signed_up_at": 1795478400}
    assert two == {**user, "custom_attributes": {"source": "csv"}}
    assert "Zoë 日本" in result.out
    lines = result.err.splitlines()
    summary = "2 would be added or updated, 0 are unchanged, 2 would not be imported"
    assert lines[-1] == f"{NAME}: {summary}"
    says(result.err, "Joined", r"line 2\b.*soon", "Count", r"line 3\b.*many")
    says(result.err, r"line 4\b", r"line 5\b")
    assert len(lines) <= 12


def test_a_dry_runs_account_stays_short_whatever_the_file(project: Project) -> None:
    """Of each heading and of each reason the number and the first three."""
    content = "id,Joined,Count\n"
    content += "".join(f"u{n},wrong{n},\n" for n in range(2, 27))
    content += "".join(f"u{n},24/11/2026,{n}\n" for n in range(27, 40))
    content += "".join(f",24/11/2026,{n}\n" for n in range(40, 61))
    content += "".join(f"u{n},24/11/2026,5,6,7,8\n" for n in range(61, 83))
    mixed(project, content + f"u83,24/11/2026,{'9x' * 50_000}\n")
    project.configure(user={"name": None})
    result = project.run("--dry-run")
    assert (result.status, len(result.out.splitlines())) == (1, 39)
    says(result.err, "39 would be added or updated, 0 are unchanged, 43 would not be imported")
    says(result.err, r"\b25\b", r"\b21\b", r"\b22\b", r"line 83\b.*9x9x")
    for first in 2, 40, 61:
        found = [n for n in range(first, first + 20) if re.search(rf"line {n}\b", result.err)]
        assert found == [first, first + 1, first + 2], result.err
    assert set(re.findall(r"wrong\d+", result.err)) == {"wrong2", "wrong3", "wrong4"}
    assert len(result.err.splitlines()) <= 16
    assert len(result.err) < 4000


@pytest.mark.parametrize("option", [[], ["--quiet"]], ids=["plain", "quiet"])
def test_a_dry_run_where_all_is_well_ends_with_0(project: Project, option: list[str]) -> None:
    project.users(2)
    result = project.run("--dry-run", *option)
    line = f"{NAME}: 2 would be added or updated, 0 are unchanged, 0 would not be imported\n"
    assert (result.status, result.err) == (0, "" if option else line)
    assert len(result.out.splitlines()) == 2


def test_a_dry_run_into_a_pipe_that_closes_ends_quietly(project: Project) -> None:
    project.users(3000)
    child = project.start("--dry-run")
    assert child.process.stdout
    assert child.process.stderr
    assert json.loads(child.process.stdout.readline())["user_id"] == "u1"
    child.process.stdout.close()
    err = child.process.stderr.read().decode()
    child.process.stderr.close()
    assert child.process.wait(60) == 0
    assert err == ""


@posix("takes a POSIX shell")
@pytest.mark.parametrize(
    ("count", "output", "named"),
    [(2, ">/dev/full", "No space"), (20_000, ">/dev/full", "No space"), (2, ">&-", "no standard")],
)
def test_a_dry_run_needs_an_output(project: Project, count: int, output: str, named: str) -> None:
    """Where it can't print, it says so."""
    project.users(count)
    command = f"exec {sys.executable} {SCRIPT} --dry-run --config {project.config} {output}"
    environment = passed_on() | {"HOME": str(project.folder)}
    run = subprocess.run(
        ["sh", "-c", command], cwd=project.folder, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert "standard output" in line
    assert named in line


def test_a_run_whose_screen_is_gone_goes_on(project: Project) -> None:
    project.users(2)
    child = project.start()
    for stream in child.process.stdout, child.process.stderr:
        assert stream
        stream.close()
    assert child.process.wait(60) == 0
    assert len(project.sandbox.users) == 2


#### --quiet


def test_quiet_prints_nothing_where_all_is_well(project: Project) -> None:
    project.users(2)
    result = project.run("--quiet")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert len(project.sandbox.users) == 2


QUIET: dict[str, tuple[str | None, int, list[str]]] = {
    "a row": ("user_id\nu1,x\n", 1, ["1 not imported", "1 x more or fewer cells", "_error.log"]),
    "a value": ("user_id,signed_up_at\nu1,soon\n", 0, ["1 x 'signed_up_at'"]),
    "the headings": ("heading\nu1\n", 1, ["user_id", "_error.log"]),
    "no file": (None, 1, ["users_20"]),
}


@pytest.mark.parametrize("case", QUIET)
def test_quiet_prints_what_needs_somebody(project: Project, case: str) -> None:
    content, status, named = QUIET[case]
    if content:
        project.write(content)
    result = project.run("--quiet")
    assert (result.status, result.out) == (status, "")
    assert [words for words in named if words not in result.err] == [], result.err


#### --check


def test_check_says_that_a_run_would_work(project: Project) -> None:
    """In lines on standard output, and to nobody else."""
    project.notices()
    project.users(1)
    result = project.run("--check")
    assert (result.status, result.err) == (0, "")
    for named in "config.ini", os.sep + NAME, "Intercom: ", "Hipchat: ", "Slack: ":
        line_of(result.out, named)
    assert [(one.method, one.path) for one in project.sandbox.requests] == [("GET", "/me")]
    assert project.sandbox.notice_requests == []
    quiet = project.run("--check", "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")
    project.write("user_id,signed_up_at\nu1,soon\n")
    quiet = project.run("--check", "--quiet")
    assert (quiet.status, quiet.err) == (0, "")
    assert re.search("signed_up_at.*\n.*line 2.*soon", quiet.out)
    assert len(quiet.out.splitlines()) == 2


def test_check_shows_a_value_of_each_mapped_field_and_what_would_be_sent(project: Project) -> None:
    written = datetime.now(timezone.utc) - timedelta(hours=49)
    path = mixed(project, name=f"{written:{FORMAT}}.csv")
    result = project.run("--check", env={"PYTHONUTF8": "1"})  # a console shows every letter
    assert (result.status, result.err) == (1, "")
    says(result.out, re.escape(str(path)), r"\b(2 days|2 d|49 h)", "hipchat", "slack")
    for words in (
        ("user_id", r"\bid\b", "u1"),
        ("name", "Name", "Zoë 日本"),
        ("signed_up_at", "Joined", "24/11/2026", "1795478400", r"\b1\b"),
        (r"\bn\b", "Count", r"\b12\b", r"\b1\b"),
        ("source", "csv"),
    ):
        lines = [line for line in result.out.splitlines() if all(re.search(w, line) for w in words)]
        assert lines, (words, result.out)


# what is changed of settings that are right, the exit status, and the one line about it
CHECKS: dict[str, tuple[dict[str, dict[str, Any]], int, str]] = {
    "settings": ({"intercom": {"retries": "many"}}, 2, r"config\.ini: \[intercom\] retries: "),
    "file": ({"local": {"folder": "nowhere"}}, 1, "file: .*nowhere"),
    "headings": ({"user": {"user_id": "customer"}}, 1, "file: .*user_id, email, name"),
    "credentials": ({"intercom": {"access_token": "another"}}, 1, "Intercom: .*access_token.*401"),
    "nobody": ({"intercom": {"user_url": "http://127.0.0.1:9/users"}}, 1, "Intercom: .*no answer"),
}


@pytest.mark.parametrize("case", CHECKS)
def test_check_says_what_would_fail(project: Project, case: str) -> None:
    """With --quiet, nothing else."""
    sections, status, pattern = CHECKS[case]
    project.users(1)
    project.configure(**sections)
    result = project.run("--check", "--quiet")
    assert (result.status, result.err) == (status, "")
    (line,) = result.out.splitlines()
    assert re.search(pattern, line), line
    assert "/contacts" not in line
    assert line.partition(" (")[0] in project.run("--check").out


def test_check_goes_on_behind_what_would_fail(project: Project) -> None:
    """A token that is missing is no reason not to look at the file."""
    project.configure(intercom={"access_token": "another-token"})
    result = project.run("--check")
    assert result.status == 1
    assert lines_of(result.out, "file: ", str(project.exports))
    assert lines_of(result.out, "Intercom: ", "401")
    project.users(3)
    project.configure(intercom={"access_token": None})
    result = project.run("--check")
    assert result.status == 2
    assert lines_of(result.out, "3 rows")
    assert len(project.sandbox.requests) == 1


def test_check_asks_for_the_attributes_of_contacts(project: Project) -> None:
    project.users(1)
    project.sandbox.attributes.update({"plan": "string", "age": "string"})
    project.configure(
        intercom={"user_url": project.sandbox.contacts_url},
        custom_attributes={"plan": "name", "age": "user_id : string", "city": "name"},
    )
    for status, create in (1, "false"), (0, "true"):
        project.configure(intercom={"create_attributes": create})
        result = project.run("--check")
        assert result.status == status
        assert "plan" not in line_of(result.out, "Intercom", "city")
    assert {one.method for one in project.sandbox.requests} == {"GET"}


def test_check_says_which_times_intercom_shows_as_numbers(project: Project) -> None:
    project.configure(custom_attributes={"last_booking": "b : timestamp", "b_at": "b : timestamp"})
    project.write("user_id,b\nu1,1760000000\n")
    for text in project.run("--check").out, project.run().debug_log:
        assert "last_booking" in line_of(text, "shows as a number")


# the exit status, what is said of the service, and how often it was tried
TEST_NOTICES = {
    "right": (0, "took the test notice", 1),
    "deaf": (1, "did not take the test notice", 3),
    "wrong": (2, "not asked", 0),
    "unused": (0, "not used", 0),
}


@pytest.mark.parametrize("service", ["hipchat", "slack"])
@pytest.mark.parametrize("state", TEST_NOTICES)
def test_check_notify_says_whether_it_was_taken(project: Project, service: str, state: str) -> None:
    """To each service that is used and whose settings are right."""
    status, said, tries = TEST_NOTICES[state]
    project.users(1)
    project.notices()
    other = "hipchat" if service == "slack" else "slack"
    project.configure(**{other: {f"use_{other}": "false"}})
    if state == "deaf":
        project.sandbox.notice_faults = [Fault(status=404)] * 3
    elif state == "unused":
        project.configure(**{service: {f"use_{service}": "false"}})
    elif state == "wrong":
        project.configure(**{service: {"channel" if service == "slack" else "from": "a.b"}})
    result = project.run("--check", "--notify")
    assert (result.status, result.err) == (status, "")
    assert said in line_of(result.out, f"{service.title()}: ")
    assert [notice.service for notice in project.sandbox.notice_requests] == [service] * tries


#### Both: looking without touching


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file and folder with size and time; a file that came and went shows in its folder's."""
    paths = [folder, *folder.rglob("*")]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


@pytest.mark.parametrize("option", ["--check", "--dry-run"])
def test_looking_writes_no_file_and_sends_no_user(project: Project, option: str) -> None:
    mixed(project)
    (project.folder / "tmp").mkdir()
    before = snapshot(project.folder)
    result = project.run(option, env={"TMPDIR": str(project.folder / "tmp")})
    assert result.status == 1, result
    assert snapshot(project.folder) == before
    asked = [request.path for request in project.sandbox.requests]
    assert asked == (["/me"] if option == "--check" else [])
    assert not project.sandbox.notice_requests


@pytest.mark.parametrize("option", ["--check", "--dry-run", "--quiet"])
def test_the_reason_for_which_a_run_would_stop_is_told(project: Project, option: str) -> None:
    project.write("user_id\n" + "u0\n" * 10)
    result = project.run(option)
    told, silent = (result.out, result.err) if option == "--check" else (result.err, result.out)
    says(told, r"\bu0\b", r"\b10\b")
    assert (result.status, silent) == (1, "")
    assert not [request for request in project.sandbox.requests if request.upserts]


#### The summary


def test_the_end_prints_one_summary_line(project: Project) -> None:
    project.users(2)
    project.configure(intercom={"skip_unchanged": "true"})
    for counts in (2, 0, 0), (0, 2, 0):
        result = project.run()
        assert (result.status, result.err) == (0, "")
        (line,) = result.out.splitlines()
        assert is_summary(line, *counts), line


def test_a_screen_that_lacks_a_letter_shows_its_escape(project: Project) -> None:
    project.users(1, "é.csv")
    result = project.run("é.csv", env={"PYTHONIOENCODING": "ascii"})
    assert r"\xe9.csv: 1 added or updated" in result.out


#### No traceback, whatever is amiss


@pytest.mark.parametrize("options", [["-S"], ["-S", "-I"]], ids=" ".join)
def test_missing_packages_lead_to_installboto(tmp_path: Path, options: list[str]) -> None:
    """-S keeps whatever is installed out of sight."""
    run = subprocess.run(
        [sys.executable, *options, SCRIPT], cwd=tmp_path, capture_output=True, text=True, env={}
    )
    assert (run.returncode, run.stdout) == (1, "")
    (line,) = run.stderr.splitlines()
    assert "installboto.sh" in line
    assert "installboto.bat" in line


def sabotage(project: Project, name: str, code: str) -> dict[str, str]:
    """The environment of a Python with this module, which is not what its name says."""
    place = project.folder / "sabotage"
    place.mkdir()
    (place / f"{name}.py").write_text(code)
    return {"PYTHONPATH": str(place)}


def test_a_missing_boto3_leads_to_installboto(project: Project) -> None:
    code = "raise ModuleNotFoundError(\"No module named 'boto3'\", name='boto3')\n"
    project.configure(aws={"use_aws": "true", "bucket": "bucket"})
    result = project.run(env=sabotage(project, "boto3", code))
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert "boto3" in line
    assert "installboto" in line


UNFORESEEN = {
    "before the first row": ("import gzip; gzip.GzipFile.__init__ = lambda *_, **__: 1 / 0", []),
    "at the first row": ("import hashlib; hashlib.sha256 = lambda *_: 1 / 0", ["u1", "u2", "u3"]),
}


@pytest.mark.parametrize(("code", "lost"), UNFORESEEN.values(), ids=UNFORESEEN)
def test_an_error_that_nobody_foresaw_is_a_line_and_a_traceback_in_the_debug_log(
    project: Project, code: str, lost: list[str]
) -> None:
    project.notices()
    project.configure(intercom={"skip_unchanged": "true"})
    project.write(gzip.compress(b"user_id\nu1\nu2\nu3\n"), NAME + ".gz")
    result = project.run(env=sabotage(project, "sitecustomize", code))
    assert (result.status, len(project.sandbox.users)) == (1, 0)
    (line,) = result.err.splitlines()
    assert "nobody foresaw" in line
    assert "ZeroDivisionError" in line
    assert "Traceback" in result.debug_log
    assert "ZeroDivisionError" in result.error_log
    rows = result.not_imported_rows()[1:] if result.not_imported else []
    assert [user for (user,) in rows] == lost
    assert [notice["color"] for notice in project.sandbox.hipchat] == ["yellow", "red"]


def test_an_error_that_nobody_foresaw_in_the_settings_is_a_line_too(project: Project) -> None:
    code = "import dotenv.parser; dotenv.parser.parse_stream = lambda *_: 1 / 0"
    project.write_env({"A": "1"})
    result = project.run(env=sabotage(project, "sitecustomize", code))
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert "nobody foresaw" in line
    assert "ZeroDivisionError" in line


#### The progress line


class Screen:
    """What a terminal of so many columns shows of what is written to it."""

    def __init__(self, columns: int) -> None:
        self.columns, self.lines, self.column, self.drawn = columns, [""], 0, list[str]()

    def write(self, text: str) -> None:
        assert "\x1b" not in text, "old consoles know no escapes"
        for piece in re.findall(r"\r|\n|[^\r\n]+", text):
            if piece == "\n":
                self.lines.append("")
            elif piece == "\r":
                self.column = 0
            else:
                self.put(piece)

    def put(self, text: str) -> None:
        for character in text:
            if self.column == self.columns:
                self.lines.append("")
                self.column = 0
            line = self.lines[-1].ljust(self.column)
            self.lines[-1] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1
        if text.strip():
            self.drawn.append(self.lines[-1])

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]


class Watched(NamedTuple):
    status: int
    out: str  # blank where it went to the terminal too
    raw: str
    screen: Screen


@posix("Windows has no pseudo-terminals")
class TestOnATerminal:
    """The whole run with standard error on a pseudo-terminal."""

    child: Child

    @pytest.fixture(autouse=True)
    def slow_rows(self, project: Project) -> None:
        """The line is drawn a few times a second, so some of it has to happen in between."""
        project.users(3)
        project.sandbox.faults = [Fault(delay=0.3), Fault(delay=0.3)]

    def watch(
        self,
        project: Project,
        *arguments: object,
        columns: int = 80,
        all_of_it: bool = False,
        term: str = "xterm",
    ) -> Watched:
        import fcntl
        import pty
        import struct
        import termios

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        stdout = theirs if all_of_it else subprocess.PIPE
        env = {"TERM": term}
        self.child = project.start(*arguments, env=env, stdout=stdout, stderr=theirs)
        os.close(theirs)
        content = b""
        with suppress(OSError):  # that is how a pseudo-terminal says that its other end is gone
            while piece := os.read(ours, 65536):
                content += piece
        os.close(ours)
        result, screen = self.child.wait(60), Screen(columns)
        screen.write(content.decode())
        return Watched(result.status, result.out, content.decode(), screen)

    def test_one_line_shows_how_far_the_run_is_and_is_gone_at_last(self, project: Project) -> None:
        run = self.watch(project)
        assert run.status == 0
        assert run.screen.shown == []
        assert run.screen.drawn
        for line in run.screen.drawn:
            assert re.search(r"\d+%.*\b\d+ users\b.*\d users/s.*left  0 not imported", line), line
        assert is_summary(run.out.rstrip("\n"), 3, 0, 0)

    def test_the_share_and_the_time_left_are_of_the_rows(self, project: Project) -> None:
        """However much of the file has been read ahead."""
        project.users(9)
        project.sandbox.faults = [Fault(delay=0.3)] * 9
        lines = self.watch(project).screen.drawn
        found = [re.match(r" *(\d+)% +(\d+) users .* (\S+) left", line) for line in lines]
        seen = [(int(m[1]), int(m[2]), m[3]) for m in found if m]
        assert len(seen) == len(lines) > 4, lines
        for share, users, left in seen:
            assert abs(share - 100 * (users + 1.5) / 11) <= 15
            assert (left == "?") == (users == 0)
            assert users > 6 or not left.startswith("0:00:00")

    def test_it_shows_how_many_rows_were_not_imported(self, project: Project) -> None:
        project.sandbox.faults = [Fault(status=422), Fault(delay=0.3), Fault(status=422, delay=0.3)]
        run = self.watch(project, columns=200)
        assert run.status == 1
        assert "  1 not imported" in "".join(run.screen.drawn)

    def test_it_says_what_a_retry_waits_for(self, project: Project) -> None:
        project.configure(intercom={"timeout": 0.6})
        project.sandbox.faults = [Fault(status=503), Fault(delay=0.3), Fault(delay=0.3)]
        run = self.watch(project, columns=200)
        assert run.status == 0
        assert [line for line in run.screen.drawn if re.search("retry 1 in 0.6 s: 503", line)]
        assert "503" not in run.screen.drawn[-1]

    def test_a_dumb_terminal_gets_no_line_that_is_drawn_again(self, project: Project) -> None:
        run = self.watch(project, term="dumb")
        assert (run.status, run.raw) == (0, "")

    def test_the_first_ctrl_c_says_what_is_waited_for(self, project: Project) -> None:
        def press(_: Request) -> None:
            self.child.send(signal.SIGINT)
            time.sleep(0.5)

        project.sandbox.fault_for = press
        run = self.watch(project, columns=200)
        assert run.status == 130
        assert [line for line in run.screen.shown if line.startswith("stopping after the request")]

    def test_the_summary_stands_alone_below_it(self, project: Project) -> None:
        run = self.watch(project, all_of_it=True, columns=200)
        (line,) = run.screen.shown
        assert is_summary(line, 3, 0, 0), line

    @pytest.mark.parametrize(
        ("columns", "all_of_it"), [(40, True), (30, False)], ids=["terminal", "pipe"]
    )
    def test_it_fits_narrow_terminals(
        self, project: Project, columns: int, all_of_it: bool
    ) -> None:
        run = self.watch(project, columns=columns, all_of_it=all_of_it)
        drawn = [piece for piece in run.raw.split("\r") if "%" in piece]
        assert drawn
        assert [line for line in drawn if len(line) > columns] == []
        assert re.search(r"\d+%.*\b\d+ users\b", drawn[-1])
        assert "%" not in "".join(run.screen.shown)

    @pytest.mark.parametrize("columns", [0, 1, 5])
    def test_a_terminal_without_room_is_no_error(self, project: Project, columns: int) -> None:
        """A pseudo-terminal whose size nobody has set has no columns."""
        run = self.watch(project, columns=columns)
        assert run.status == 0
        assert is_summary(run.out.rstrip("\n"), 3, 0, 0)

    def test_quiet_draws_nothing(self, project: Project) -> None:
        run = self.watch(project, "--quiet")
        assert (run.status, run.out, run.raw) == (0, "", "")

    def test_warnings_on_the_screen_have_lines_of_their_own(self, project: Project) -> None:
        """Without logs, the screen is where the reasons are told."""
        project.configure(log={"use_logs": "false"})
        project.sandbox.faults = [Fault(delay=0.3), Fault(status=422, message="No such thing")]
        run = self.watch(project, columns=300)
        assert run.status == 1
        lines = [line for line in run.screen.shown if "No such thing" in line]
        assert lines
        assert "%" not in "".join(lines)


def test_no_progress_and_no_escapes_in_a_pipe(project: Project) -> None:
    project.users(3)
    project.sandbox.faults = [Fault(delay=0.3)]
    result = project.run()
    assert result.err == ""
    assert "\x1b" not in result.out
    assert "\r" not in result.out
