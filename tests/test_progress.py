"""The progress line on a terminal, and colors; neither is ever in a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TextIO

import pytest
from conftest import NAME, Child, Project, assert_says, eventually, lines_of, posix
from faults import Fault
from mock_http import Request

import export_csv
from export_csv import ProgressLine, ProgressState, RetryStatus, StopSignal

if sys.platform != "win32":
    import fcntl
    import pty
    import struct
    import termios

#### What it shows

RETRY = RetryStatus(number=3, limit=50, due=1012.4, reason="503 (text/html)")
LATER = RetryStatus(number=1, limit=50, due=1030.0, reason="timed out")


def shown(now: float = 1010.0, **values: object) -> str:
    state = ProgressState(**{"phase": "sending", "started": 1000.0, **values})  # type: ignore[arg-type]
    return "  ".join(state.parts(now))


def test_it_shows_the_share_of_the_file_that_has_been_read() -> None:
    assert_says(
        shown(phase="reading", share=0.25, done=12345),
        "reading",
        r"\b25%",
        "12,345 rows",
    )


def test_it_shows_done_of_total_speed_time_left_and_rejected_rows() -> None:
    line = shown(total=2000, done=500, not_imported=3)
    assert_says(
        line,
        "sending",
        r"\b25%",
        "500 of 2,000",
        r"50.0 users/s",
        "0:00:30 left",
        "3 not imported",
    )
    assert "left" not in shown(total=2000)  # not known yet
    assert_says(shown(total=2000), r"\b0%", "0 of 2,000")
    assert_says(shown(total=3, done=3, now=1000.0), "100%", "0:00:00 left")


def test_it_shows_the_number_and_the_seconds_left_of_the_next_retry() -> None:
    line = shown(total=2, waiting={7: LATER, 8: RETRY})
    assert_says(line, r"retry 3 of 50 in 3 s: 503 \(text/html\)$")
    assert_says(shown(total=2, waiting={8: RETRY}, now=1020.0), "in 0 s")


#### How it is drawn


class Terminal:
    """A pseudo-terminal that records the bytes written to it and can render them."""

    def __init__(self, columns: int = 80) -> None:
        self.columns = columns
        self.ours, self.theirs = pty.openpty()
        if columns != 80:
            size = struct.pack("HHHH", 24, columns, 0, 0)
            fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, size)
        self.raw = b""
        self.reader = threading.Thread(target=self.read, daemon=True)

    def read(self) -> None:
        with contextlib.suppress(OSError):  # the other end is gone
            while piece := os.read(self.ours, 65536):
                self.raw += piece

    def read_to_end(self) -> str:
        """Return everything that was written, once no process has the terminal open."""
        os.close(self.theirs)
        if self.reader.ident is None:  # it hasn't been started yet
            self.reader.start()
        self.reader.join(60)
        os.close(self.ours)
        return self.raw.decode()

    def screen(self) -> Screen:
        screen = Screen(self.columns)
        screen.write(self.raw.decode())
        return screen


class Screen:
    """The lines of a terminal without escape codes, such as an old Windows console."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self.column = 0

    def write(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self.lines.append("")
            elif character == "\r":
                self.column = 0
            else:
                self.put(character)

    def put(self, character: str) -> None:
        if self.column == self.columns:
            self.lines.append("")
            self.column = 0
        line = self.lines[-1].ljust(self.column)
        self.lines[-1] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]


def drawn(raw: str) -> list[str]:
    """Return each version of the progress line."""
    return [piece.rstrip() for piece in re.split("[\r\n]+", raw) if "%" in piece]


class OpenLine(NamedTuple):
    terminal: Terminal
    line: ProgressLine
    stream: TextIO
    stop: StopSignal


@pytest.fixture
def no_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(export_csv, "REDRAW_INTERVAL", 0.01)


@contextlib.contextmanager
def progress_line(
    monkeypatch: pytest.MonkeyPatch, columns: int = 80
) -> Iterator[OpenLine]:
    """Draw a progress line on a terminal, within this process."""
    terminal = Terminal(columns)
    terminal.reader.start()
    with open(terminal.theirs, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        stop = StopSignal()
        line = ProgressLine(stop, is_wanted=True)
        yield OpenLine(terminal, line, stream, stop)
        line.close()
    terminal.read_to_end()


@posix("Windows has no pseudo-terminals")
@pytest.mark.usefixtures("no_dumb_terminal")
class TestOnATerminal:
    """The line itself, on a pseudo-terminal of this process."""

    @pytest.mark.parametrize(
        ("columns", "length"), [(80, 79), (0, 79), (30, 29), (1, 0)]
    )
    def test_it_fits_the_terminal_or_80_columns(
        self, monkeypatch: pytest.MonkeyPatch, columns: int, length: int
    ) -> None:
        """Even if a page's title has characters that are two columns wide."""
        with progress_line(monkeypatch, columns) as opened:
            opened.line.start_sending(1000, {1: replace(RETRY, reason="表" * 100)})
            eventually(lambda: opened.terminal.raw.count(b"\r") > 6)
        raw = opened.terminal.raw.decode("ascii")
        assert max(len(piece) for piece in raw.split("\r")) == length
        assert "\n" not in raw

    def test_lines_printed_meanwhile_replace_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They are never mixed with what is left of it."""
        with progress_line(monkeypatch) as opened:
            opened.line.start_sending(1000, {})
            for number in range(5):
                count = opened.terminal.raw.count(b"sending")
                eventually(
                    lambda seen=count: opened.terminal.raw.count(b"sending") > seen  # type: ignore[misc]
                )
                export_csv.echo(f"note {number}", opened.stream)
        assert opened.terminal.screen().shown() == [
            f"note {number}" for number in range(5)
        ]

    def test_ctrl_c_says_once_what_the_run_waits_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with progress_line(monkeypatch, 200) as opened:
            opened.line.start_sending(1000, {})
            opened.stop.on_signal(signal.SIGINT, None)
            eventually(lambda: opened.terminal.raw.count(b"sending") > 3)
        text = " ".join(opened.terminal.screen().shown())
        assert text.count("finishing the current request") == 1
        assert_says(
            text, r"press Ctrl-C again to abort \(remaining rows won't be saved\)$"
        )

    @pytest.mark.parametrize("number", [signal.SIGTERM, None])
    def test_that_line_is_not_printed_without_ctrl_c(
        self, monkeypatch: pytest.MonkeyPatch, number: signal.Signals | None
    ) -> None:
        with progress_line(monkeypatch) as opened:
            opened.line.start_sending(1000, {})
            if number:
                opened.stop.on_signal(number, None)
            eventually(lambda: opened.terminal.raw.count(b"sending") > 3)
        assert opened.terminal.screen().shown() == []

    def test_colors_are_printed_only_if_supported_and_wanted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terminal = Terminal()
        with open(terminal.theirs, "w", closefd=False) as stream:
            for name, value in (("A", "1"), ("NO_COLOR", "1"), ("TERM", "dumb")):
                with monkeypatch.context() as patch:
                    patch.setenv(name, value)
                    export_csv.echo(name, stream, "green")
            export_csv.echo("plain", stream)
        pipe = io.StringIO()
        export_csv.echo("pipe", pipe, "red")
        assert pipe.getvalue() == "pipe\n"
        raw = terminal.read_to_end()
        assert raw.split("\r\n") == [
            "\x1b[32mA\x1b[0m",
            "NO_COLOR",
            "TERM",
            "plain",
            "",
        ]


#### Whole runs


class Watched(NamedTuple):
    status: int
    out: str  # blank if it went to the terminal
    raw: str
    shown: list[str]


@posix("Windows has no pseudo-terminals")
class TestRuns:
    """Runs with standard error on a pseudo-terminal, and with a slow Intercom."""

    child: Child

    @pytest.fixture(autouse=True)
    def slow_users(self, project: Project) -> None:
        project.users(3)
        project.set_constants(REDRAW_INTERVAL=0.05)
        project.services.faults = [Fault(delay=0.3), Fault(delay=0.3)]

    def watch(
        self,
        project: Project,
        *arguments: object,
        columns: int = 80,
        include_stdout: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Watched:
        terminal = Terminal(columns)
        terminal.reader.start()
        stdout = terminal.theirs if include_stdout else subprocess.PIPE
        self.child = project.start(
            *arguments,
            env={"TERM": "xterm", **(env or {})},
            stdout=stdout,
            stderr=terminal.theirs,
        )
        result = self.child.wait()
        raw = terminal.read_to_end()
        return Watched(result.status, result.out, raw, terminal.screen().shown())

    def test_the_line_is_gone_at_the_end(self, project: Project) -> None:
        run = self.watch(project)
        assert (run.status, run.shown) == (0, [])
        assert lines_of("\n".join(drawn(run.raw)), "sending", "of 3", "0 not imported")
        assert run.out.startswith(f"{NAME}: 3 added or updated")

    def test_a_retry_and_its_countdown_are_shown(self, project: Project) -> None:
        project.configure(intercom={"timeout": 1.5, "retries": 7})
        project.services.faults = [Fault(status=422), Fault(status=503)]
        run = self.watch(project, columns=200)
        text = "\n".join(drawn(run.raw))
        assert_says(
            text, "1 not imported  retry 1 of 7 in 2 s: 503", "retry 1 of 7 in 1 s: 503"
        )

    def test_outcome_lines_have_a_color_unless_no_color_is_set(
        self, project: Project
    ) -> None:
        colors = {}
        for name, rows, tolerated in (
            ("green", "u1\n", 0),
            ("yellow", "u1\nu2,x\n", 1),
            ("red", "u1\nu2,x\n", 0),
        ):
            project.write(f"user_id\n{rows}")
            project.configure(csv={"max_not_imported": tolerated})
            project.services.faults = []
            run = self.watch(project, include_stdout=True, columns=300)
            colors[name] = re.findall(r"\x1b\[(3\d)m[^\x1b]* added or updated", run.raw)
        assert colors == {"green": ["32"], "yellow": ["33"], "red": ["31"]}
        run = self.watch(
            project, include_stdout=True, columns=300, env={"NO_COLOR": "1"}
        )
        assert "\x1b" not in run.raw
        assert [line for line in run.shown if "added or updated" in line]
        assert "%" not in "".join(run.shown)

    def test_without_logs_the_console_lines_are_not_mixed_with_the_progress_line(
        self, project: Project
    ) -> None:
        project.configure(log={"use_logs": "false"})
        project.services.faults = [
            Fault(delay=0.3),
            Fault(status=422, message="No such thing"),
        ]
        run = self.watch(project, columns=300)
        assert run.status == 1
        (line,) = [line for line in run.shown if "No such thing" in line]
        assert re.match(r"\d{4}-\S+ ERROR line 3 ", line)
        assert drawn(run.raw)
        assert "%" not in "".join(run.shown)

    def test_ctrl_c_leaves_nothing_garbled(self, project: Project) -> None:
        def press(_: Request) -> None:
            self.child.send(signal.SIGINT)
            time.sleep(0.5)

        project.services.fault_for = press
        run = self.watch(project, columns=200)
        assert run.status == 130
        finishing, *others = run.shown
        assert finishing.startswith(
            "finishing the current request... press Ctrl-C again"
        )
        assert_says(others[0], r"^(\x1b\[31m)?export_csv.py: .*interrupted")
        assert "%" not in "".join(run.shown)

    @pytest.mark.parametrize("case", ["quiet", "dumb"])
    def test_quiet_runs_and_dumb_terminals_have_no_line(
        self, project: Project, case: str
    ) -> None:
        run = self.watch(
            project,
            *["--quiet"] * (case == "quiet"),
            env={"TERM": "dumb"} if case == "dumb" else {},
        )
        assert (run.status, run.raw) == (0, "")

    def test_a_terminal_that_blocks_delays_no_request(self, project: Project) -> None:
        """Nobody reads the pseudo-terminal until all users have arrived, so its buffer is full."""
        project.users(30)
        project.set_constants(REDRAW_INTERVAL=0.0001)
        project.services.faults = [Fault(delay=0.02)] * 30
        terminal = Terminal(8000)
        self.child = project.start(env={"TERM": "xterm"}, stderr=terminal.theirs)
        eventually(lambda: len(project.services.requests) == 30)
        terminal.reader.start()
        assert self.child.wait().status == 0
        assert len(terminal.read_to_end()) > 8000


def test_there_is_no_line_and_no_color_in_a_pipe(project: Project) -> None:
    project.users(3)
    project.services.faults = [Fault(delay=0.3)]
    result = project.run(env={"TERM": "xterm"})
    assert result.err == ""
    assert "\x1b" not in result.out
    assert "\r" not in result.out
