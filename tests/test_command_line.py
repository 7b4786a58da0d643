"""The command line: arguments, what is printed where, exit statuses, and the line on a terminal."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import NAME, SCRIPT, Project, Result, eventually, passed_on
from sandbox import Fault, Request, Sandbox

OPTIONS = ("filename", "--config", "--local", "--dry-run", "--check", "--quiet", "--version")
SUMMARY = (
    r"{file}: {imported} added or updated, {unchanged} unchanged, {not_imported} not imported"
    r" in \d+:\d\d:\d\d \(\d+\.\d users/s\)"
)


def is_summary(line: str, imported: int, unchanged: int, not_imported: int) -> bool:
    pattern = SUMMARY.format(
        file=re.escape(NAME), imported=imported, unchanged=unchanged, not_imported=not_imported
    )
    return bool(re.fullmatch(pattern, line))


def nobody_heard(project: Project) -> bool:
    return not (project.sandbox.requests or project.sandbox.notice_requests)


#### Help, version, and arguments that are wrong


def test_help_fits_a_screen_and_has_examples(project: Project) -> None:
    result = project.run("--help", env={"COLUMNS": "80"})
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert len(lines) <= 24
    assert [line for line in lines if len(line) > 79] == []
    assert [option for option in OPTIONS if option not in result.out] == []
    assert "python export_csv.py --dry-run" in result.out


def test_version_is_printed(project: Project) -> None:
    result = project.run("--version")
    assert (result.status, result.err) == (0, "")
    assert re.fullmatch(r"export_csv\.py \d+\.\d+\.\d+\n", result.out)


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["one.csv", "two.csv"], ["--config"]], ids=" ".join
)
def test_wrong_arguments_end_with_2_and_send_nothing(
    project: Project, arguments: list[str]
) -> None:
    project.notices()
    project.users(1)
    result = project.run(*arguments)
    assert (result.status, result.out) == (2, ""), result
    assert "usage: export_csv.py" in result.err
    assert nobody_heard(project)


#### --dry-run

TROUBLED = "user_id,name,age\nu1,Ada,36\nu2,Zoë,old\n,Nobody,1\nu4,A\nu5,\u2028 new line,5\n"


def test_a_dry_run_prints_exactly_what_intercom_would_get(project: Project) -> None:
    project.notices()
    project.configure(user={"user_id": "user_id", "name": "name"})
    project.configure(custom_attributes={"age": "age : integer"})
    project.write(TROUBLED)
    dry = project.run("--dry-run")
    assert nobody_heard(project)
    real = project.run()
    assert (dry.status, real.status) == (1, 1)
    assert dry.out.encode().split(b"\n")[:-1] == [one.raw for one in project.sandbox.requests]
    assert [json.loads(line)["user_id"] for line in dry.out.splitlines()] == ["u1", "u2", "u5"]


def test_a_dry_run_tells_problems_and_summary_on_standard_error(project: Project) -> None:
    project.configure(user={"user_id": "user_id"}, custom_attributes={"age": "age : integer"})
    project.write(TROUBLED)
    result = project.run("--dry-run")
    lines = result.err.splitlines()
    assert [line for line in lines if is_summary(line, 3, 0, 2)], result.err
    for line, words in (3, "age.*old.*integer"), (4, "not imported"), (5, "not imported"):
        assert [told for told in lines if re.search(rf"line {line}\b.*{words}", told)], result.err


def test_a_dry_run_where_all_is_well_ends_with_0(project: Project) -> None:
    project.users(2)
    result = project.run("--dry-run")
    assert result.status == 0
    (summary,) = result.err.splitlines()
    assert is_summary(summary, 2, 0, 0)


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
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="takes Linux")
@pytest.mark.parametrize("count", [2, 20_000])
def test_a_dry_run_that_has_no_room_for_its_output_says_so(project: Project, count: int) -> None:
    project.users(count)
    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(
            [sys.executable, SCRIPT, "--config", project.config, "--dry-run"],
            cwd=project.folder,
            env=passed_on() | {"HOME": str(project.folder)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert run.returncode == 1
    stopped, summary, *_ = [line for line in run.stderr.splitlines() if " ERROR " not in line]
    assert "standard output" in stopped
    assert "No space left" in stopped
    assert sum(map(int, re.findall(r"(\d+) (?:added|unchanged|not)", summary))) == count


@pytest.mark.skipif(os.name == "nt", reason="takes a POSIX shell")
def test_a_dry_run_without_standard_output_says_so(project: Project) -> None:
    project.users(3)
    run = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} {SCRIPT} --dry-run --config {project.config} >&-"],
        cwd=project.folder,
        env=passed_on() | {"HOME": str(project.folder)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.returncode == 1
    told = [line for line in run.stderr.splitlines() if " ERROR " not in line]
    assert "no standard output" in told[0]
    assert is_summary(told[1], 0, 0, 3)


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


@pytest.mark.parametrize(
    ("content", "named"),
    [("user_id\nu1\nu2,x\n", "1 not imported"), ("heading\nu1\n", "user_id"), (None, "users_20")],
    ids=["a row", "the headings", "no file"],
)
def test_quiet_prints_errors(project: Project, content: str | None, named: str) -> None:
    if content:
        project.write(content)
    result = project.run("--quiet")
    assert (result.status, result.out) == (1, "")
    assert named in result.err


#### --check


def check(project: Project, *arguments: object) -> Result:
    """A check, which asks Intercom for nothing but /me, and tells nobody anything."""
    project.notices()
    result = project.run("--check", *arguments)
    asked = {(one.method, one.path) for one in project.sandbox.requests}
    assert asked <= {("GET", "/me"), ("GET", "/data_attributes")}
    assert project.sandbox.notice_requests == []
    assert "Traceback" not in result.out + result.err
    return result


def test_check_says_in_a_line_each_that_a_run_would_work(project: Project) -> None:
    project.users(1)
    result = check(project)
    assert (result.status, result.err) == (0, "")
    assert [one.path for one in project.sandbox.requests] == ["/me"]
    lines = result.out.splitlines()
    for named in "config.ini", NAME, "Intercom", "Hipchat", "Slack":
        assert len([line for line in lines if named in line]) == 1, lines
    assert len(lines) == 5


def test_check_is_silent_with_quiet_where_a_run_would_work(project: Project) -> None:
    project.users(1)
    result = check(project, "--quiet")
    assert (result.status, result.out, result.err) == (0, "", "")


CHECKS: dict[str, tuple[dict[str, dict[str, object]], str]] = {
    "settings": ({"intercom": {"timeout": "soon"}}, r"config\.ini: \[intercom\] timeout: "),
    "file": ({"local": {"folder": "nowhere"}}, "nowhere"),
    "headings": ({"user": {"user_id": "customer", "name": "nmae"}}, "'customer'.*'nmae'.*name"),
    "credentials": ({"intercom": {"access_token": "another-token"}}, "Intercom.*access_token.*401"),
    "unreachable": ({"intercom": {"user_url": "http://127.0.0.1:9/users"}}, "Intercom.*refused"),
}


@pytest.mark.parametrize(("sections", "named"), CHECKS.values(), ids=CHECKS)
def test_check_says_in_one_line_what_would_fail(
    project: Project, sections: dict[str, dict[str, object]], named: str
) -> None:
    project.users(1)
    project.configure(**sections)
    result = check(project)
    assert result.status == 1, result
    (line,) = result.err.splitlines()
    assert re.search(named, line), line


def test_check_names_each_service_that_would_fail(project: Project) -> None:
    project.configure(intercom={"access_token": "another-token"})
    result = check(project)
    assert result.status == 1
    assert len(result.err.splitlines()) == 2, result
    assert re.search("Intercom.*401", result.err)
    assert str(project.exports) in result.err


def test_check_asks_for_the_attributes_of_contacts(project: Project) -> None:
    project.users(1)
    project.sandbox.attributes.update({"plan": "string", "age": "string"})
    project.configure(
        intercom={"user_url": project.sandbox.contacts_url},
        custom_attributes={"plan": "name", "age": "name : integer", "city": "name"},
    )
    result = check(project)
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert re.search(r"\bage\b.*\bstring\b.*\binteger\b.*\bcity\b", line), line
    assert "plan" not in line
    project.sandbox.attributes.update({"age": "integer", "city": "string"})
    assert check(project).status == 0


def test_check_says_which_times_intercom_shows_as_numbers(project: Project) -> None:
    project.configure(custom_attributes={"last_booking": "name : timestamp"})
    project.users(1)
    result = check(project)
    assert result.status == 0
    (line,) = [line for line in result.out.splitlines() if "last_booking" in line]
    assert "number" in line
    assert "_at" in line


#### The summary


def test_the_end_prints_one_summary_line(project: Project) -> None:
    project.users(2)
    result = project.run()
    assert (result.status, result.err) == (0, "")
    (line,) = result.out.splitlines()
    assert is_summary(line, 2, 0, 0), line


def test_the_summary_says_where_the_rows_and_the_reasons_are(project: Project) -> None:
    project.write("user_id\nu1\nu2,x\n")
    result = project.run()
    assert result.status == 1
    first, *others = (result.out + result.err).splitlines()
    assert is_summary(first, 1, 0, 1), first
    (rows,) = result.not_imported
    (log,) = (project.folder / "logs").glob("*_error.log")
    told = "\n".join(others)
    assert str(rows) in told
    assert str(log) in told


def test_unchanged_users_are_counted_apart(project: Project) -> None:
    project.configure(intercom={"skip_unchanged": "true"})
    project.users(2)
    project.run()
    (line,) = project.run().out.splitlines()
    assert is_summary(line, 0, 2, 0), line


#### Exit statuses


@pytest.fixture
def held(project: Project) -> Iterator[threading.Event]:
    """Intercom answers nothing until this is set."""
    answers = threading.Event()

    def hold(_: Request) -> Fault | None:
        answers.wait(60)
        return None

    project.sandbox.fault_for = hold
    yield answers
    answers.set()


def test_all_rows_imported_ends_with_0(project: Project) -> None:
    project.users(1)
    assert project.run().status == 0


def test_a_value_left_out_ends_with_0(project: Project) -> None:
    """The row is in Intercom all the same."""
    project.configure(custom_attributes={"age": "name : integer"})
    project.users(1)
    assert project.run().status == 0


@pytest.mark.parametrize("fault", [Fault(status=422), Fault(status=401)], ids=["a row", "the run"])
def test_what_is_not_imported_ends_with_1(project: Project, fault: Fault) -> None:
    project.sandbox.faults = [fault]
    project.users(2)
    assert project.run().status == 1


def test_wrong_settings_end_with_2(project: Project) -> None:
    project.configure(intercom={"retries": "many"})
    project.users(1)
    assert project.run().status == 2
    assert nobody_heard(project)


def test_a_second_run_ends_with_3_and_does_nothing(project: Project, held: threading.Event) -> None:
    project.users(1)
    first = project.start()
    eventually(lambda: project.sandbox.requests)
    project.notices()
    second = project.run()
    assert (second.status, second.out) == (3, ""), second
    assert len(second.err.splitlines()) == 1
    assert len(project.sandbox.requests) == 1
    assert project.sandbox.notice_requests == []
    assert len(list((project.folder / "logs").iterdir())) == 2
    held.set()
    assert first.wait().status == 0
    assert project.run().status == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_ends_with_its_status_after_the_request_under_way(
    project: Project, held: threading.Event, number: signal.Signals, status: int
) -> None:
    project.notices()
    project.users(3)
    child = project.start()
    eventually(lambda: project.sandbox.requests)
    child.send(number)
    held.set()
    result = child.wait()
    assert (result.status, result.counts()) == (status, (1, 0, 2)), result
    assert len(result.not_imported_rows()) == 3
    assert project.sandbox.hipchat[-1]["color"] == "red"
    assert number.name in project.sandbox.hipchat[-1]["message"]


#### No traceback, whatever is amiss


@pytest.mark.parametrize("options", [["-S"], ["-S", "-I"]], ids=" ".join)
def test_missing_packages_are_a_line_that_names_installboto(
    tmp_path: Path, options: list[str]
) -> None:
    """-S keeps whatever is installed out of sight."""
    run = subprocess.run(
        [sys.executable, *options, SCRIPT], cwd=tmp_path, capture_output=True, text=True, env={}
    )
    assert run.returncode != 0
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert "installboto.sh" in line
    assert "installboto.bat" in line


def test_a_missing_boto3_is_a_line_that_names_installboto(project: Project) -> None:
    hidden = project.folder / "hidden" / "boto3.py"
    hidden.parent.mkdir()
    hidden.write_text("raise ModuleNotFoundError(\"No module named 'boto3'\", name='boto3')\n")
    project.configure(aws={"use_aws": "true", "bucket": "bucket"})
    result = project.run(env={"PYTHONPATH": str(hidden.parent)})
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert "boto3" in line
    assert "installboto" in line


UNREADABLE: dict[str, bytes | None] = {
    "folder.csv": None,
    "empty.csv": b"",
    "blank.csv": b"\n\n",
    "spreadsheet.csv": b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\x00",
    "nothing-but-a-quote.csv": b'"',
    "no-gzip.csv.gz": b"user_id\nu1\n",
    "half-a-gzip.csv.gz": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}


@pytest.mark.parametrize(("name", "content"), UNREADABLE.items(), ids=UNREADABLE)
def test_what_is_no_csv_is_told_in_one_line(
    project: Project, name: str, content: bytes | None
) -> None:
    if content is None:
        (project.exports / name).mkdir()
    else:
        project.write(content, name)
    result = project.run(name)
    assert (result.status, project.sandbox.requests) == (1, []), result
    (line,) = result.err.splitlines()
    assert "Traceback" not in result.out + line
    assert name in result.out + line
    assert "foresaw" not in line


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="takes Linux")
def test_a_disk_that_fails_is_told_in_one_line(project: Project) -> None:
    """/proc/self/mem can be opened by everybody, and not be read from its start by anybody."""
    result = project.run("/proc/self/mem")
    assert result.status == 1, result
    (line,) = result.err.splitlines()
    assert "Input/output error" in line


def sabotage(project: Project, code: str) -> dict[str, str]:
    """The environment of a Python whose libraries fail as none of their pages says."""
    place = project.folder / "sabotage"
    place.mkdir()
    (place / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(place)}


@pytest.mark.parametrize(
    ("code", "lost"),
    [
        ("import gzip; gzip.open = lambda *_: 1 / 0", []),
        (
            "import concurrent.futures as f; f.ThreadPoolExecutor = lambda *_: 1 / 0",
            ["u1", "u2", "u3"],
        ),
    ],
    ids=["before the first row", "at the first row"],
)
def test_an_error_that_nobody_foresaw_is_a_line_and_a_traceback_in_the_debug_log(
    project: Project, code: str, lost: list[str]
) -> None:
    project.notices()
    text = "user_id\n" + "".join(f"{user}\n" for user in ("u1", "u2", "u3"))
    project.write(gzip.compress(text.encode()), NAME + ".gz")
    result = project.run(env=sabotage(project, code))
    assert (result.status, len(project.sandbox.users)) == (1, 0)
    (line,) = result.err.splitlines()
    assert "nobody foresaw" in line
    assert "ZeroDivisionError" in line
    assert "Traceback" in result.debug_log
    assert "ZeroDivisionError" in result.error_log
    rows = result.not_imported_rows()[1:] if result.not_imported else []
    assert [user for (user,) in rows] == lost
    assert [notice["color"] for notice in project.sandbox.hipchat] == ["yellow", "red"]


def test_an_error_that_nobody_foresaw_before_there_are_settings_is_a_line_too(
    project: Project,
) -> None:
    code = "import dotenv; dotenv.load_dotenv = lambda *_, **__: 1 / 0"
    result = project.run(env=sabotage(project, code))
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
        for piece in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
            if piece == "\n":
                self.lines.append("")
            elif piece == "\r":
                self.column = 0
            elif piece.startswith("\x1b"):
                assert piece in ("\x1b[K", "\x1b[2K"), f"the screen doesn't know {piece!r}"
                self.lines[-1] = self.lines[-1][: self.column if piece == "\x1b[K" else 0]
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
        self.drawn.append(self.lines[-1])

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]


class Watched(NamedTuple):
    status: int
    out: str  # blank where it went to the terminal too
    raw: str
    screen: Screen


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
class TestOnATerminal:
    """The whole run with standard error on a pseudo-terminal."""

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
        self.process = child = subprocess.Popen(
            [sys.executable, SCRIPT, "--config", project.config, *map(str, arguments)],
            cwd=project.folder,
            env=passed_on() | {"HOME": str(project.folder), "TERM": term},
            stdin=subprocess.DEVNULL,
            stdout=theirs if all_of_it else subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        content = b""
        with suppress(OSError):  # that is how a pseudo-terminal says that its other end is gone
            while piece := os.read(ours, 65536):
                content += piece
        os.close(ours)
        out = child.communicate(timeout=60)[0] or b""
        screen = Screen(columns)
        screen.write(content.decode())
        return Watched(child.returncode, out.decode(), content.decode(), screen)

    def test_one_line_shows_how_far_the_run_is_and_is_gone_in_the_end(
        self, project: Project
    ) -> None:
        run = self.watch(project)
        assert run.status == 0
        assert run.screen.shown == []
        assert run.screen.drawn
        for line in filter(str.strip, run.screen.drawn):
            assert re.search(r"\d+%.*\b\d+ users\b.*\d users/s.*left", line), line
        assert is_summary(run.out.rstrip("\n"), 3, 0, 0)

    @pytest.mark.parametrize("name", [NAME, NAME + ".gz"])
    def test_the_share_and_the_time_left_are_of_the_rows(self, project: Project, name: str) -> None:
        """However much of the file has been read ahead."""
        content = project.users(9).read_bytes()
        project.write(gzip.compress(content) if name.endswith(".gz") else content, name)
        project.sandbox.faults = [Fault(delay=0.3)] * 9
        lines = [line for line in self.watch(project, name).screen.drawn if line.strip()]
        found = [re.match(r" *(\d+)% +(\d+) users .* (\S+) left", line) for line in lines]
        seen = [(int(m[1]), int(m[2]), m[3]) for m in found if m]
        assert len(seen) == len(lines) > 4, lines
        for share, users, left in seen:
            assert abs(share - 100 * (users + 1.5) / 11) <= 15
            assert (left == "?") == (users == 0)
            assert users > 6 or not left.startswith("0:00:00")

    def test_a_pipe_as_the_file_has_a_line_too(self, project: Project) -> None:
        """Though nobody knows how long it is."""
        content = (project.exports / NAME).read_bytes()
        pipe = project.exports / "pipe.csv"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=[content])
        writer.start()
        run = self.watch(project, pipe.name)
        writer.join()
        assert is_summary(run.out.rstrip("\n").replace(pipe.name, NAME), 3, 0, 0)
        drawn = [line for line in run.screen.drawn if line.strip()]
        assert any("users/s" in line for line in drawn)
        assert "100%" not in "".join(drawn)

    def test_it_says_what_a_retry_waits_for(self, project: Project) -> None:
        project.configure(intercom={"timeout": 0.6})
        project.sandbox.faults = [Fault(status=503), Fault(delay=0.3), Fault(delay=0.3)]
        run = self.watch(project, columns=200)
        assert run.status == 0
        assert [line for line in run.screen.drawn if re.search("retry 1 in 0.6 s: 503", line)]
        assert "503" not in [line for line in run.screen.drawn if line.strip()][-1]

    def test_a_dumb_terminal_gets_no_line_that_is_drawn_again(self, project: Project) -> None:
        run = self.watch(project, term="dumb")
        assert (run.status, run.raw) == (0, "")

    def test_the_first_ctrl_c_says_what_is_waited_for(
        self, project: Project, held: threading.Event
    ) -> None:
        def press() -> None:
            eventually(lambda: project.sandbox.requests)
            self.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            held.set()

        presser = threading.Thread(target=press)
        presser.start()
        run = self.watch(project, columns=200)
        presser.join()
        assert run.status == 130
        assert [line for line in run.screen.shown if line.startswith("stopping after the request")]

    def test_the_summary_stands_alone_below_it(self, project: Project) -> None:
        run = self.watch(project, all_of_it=True, columns=200)
        (line,) = run.screen.shown
        assert is_summary(line, 3, 0, 0), line

    @pytest.mark.parametrize(
        ("columns", "all_of_it"), [(40, True), (30, False)], ids=["terminal", "pipe"]
    )
    def test_it_fits_a_narrow_terminal_wherever_the_output_goes(
        self, project: Project, columns: int, all_of_it: bool
    ) -> None:
        run = self.watch(project, columns=columns, all_of_it=all_of_it)
        drawn = [piece for piece in re.split(r"\r|\x1b\[2?K", run.raw) if "%" in piece]
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


def test_a_blank_filename_is_a_bad_argument(project: Project, sandbox: Sandbox) -> None:
    """As a script passes it whose variable is not set."""
    project.users(2)
    result = project.run("")
    assert (result.status, sandbox.requests) == (2, [])
    assert "filename" in result.err


def test_check_says_that_nobody_answers(project: Project) -> None:
    project.users(2)
    project.configure(intercom={"user_url": "http://127.0.0.1:9/users"})
    result = project.run("--check")
    (line,) = result.err.splitlines()
    assert result.status == 1
    assert "no answer" in line
    assert "redirection" not in line
    assert "/contacts" not in line
