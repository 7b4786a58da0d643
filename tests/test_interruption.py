"""Signals, a second run and full disks: how a run ends early, and what it saves."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    Child,
    Project,
    Result,
    assert_says,
    eventually,
    imported,
    not_wine,
    posix,
)
from faults import Fault
from mock_http import Request
from mock_services import MockServices

import export_csv

if sys.platform == "win32":
    BREAK = pytest.param(signal.SIGBREAK, marks=not_wine("Wine only delivers Ctrl-C"))
    SIGNALS: list[Any] = [signal.SIGINT, BREAK]
    SIGTERM = signal.SIGINT
    SIGHUP = signal.SIGINT
else:
    SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    SIGTERM = signal.SIGTERM
    SIGHUP = signal.SIGHUP
each_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
only_posix = posix("Windows only has Ctrl-C and Ctrl-Break")

SILENCE = 60  # seconds; no test waits that long for a response


class Gate:
    """Holds back the responses to the upserts of some users until it is opened.

    Then each of them gets `fault`, if there is one.
    """

    def __init__(
        self, services: MockServices, *user_ids: str, fault: Fault | None = None
    ) -> None:
        self.user_ids = set(user_ids)
        self.fault = fault
        self.held: list[str] = []
        self.opened = threading.Event()
        services.fault_for = self

    def __call__(self, request: Request) -> Fault | None:
        body = request.body or {}
        user_id = body.get("user_id", body.get("external_id"))
        if user_id not in self.user_ids:
            return None
        self.held.append(user_id)
        self.opened.wait(60)
        return self.fault

    def run(self, project: Project, env: Mapping[str, str] | None = None) -> Child:
        """Start a run, and wait until all of these users are in flight."""
        child = project.start(env=env)
        eventually(lambda: set(self.held) == self.user_ids)
        return child


def wait_for_end(child: Child, number: signal.Signals, project: Project) -> Result:
    """Wait for a run that a signal ends. Check its status, red notice and logs."""
    result = child.wait(25)
    assert result.status == 128 + number, result
    assert "Traceback" not in result.err
    for text in (result.err, result.error_log):
        assert_says(text, rf"{number.name}|interrupted")
    assert result.debug_log.endswith("\n")
    if "slack" in project.settings:
        assert project.services.hipchat[-1]["color"] == "red"
        assert_says(project.services.slack[-1]["text"], rf"{number.name}|interrupted")
    return result


def rejected_ids(result: Result) -> list[str]:
    """Return the user_id of each row in the reject file, or nothing if there is none."""
    if not result.reject_files:
        return []
    return [row[0] for row in result.rejected_rows()[1:]]


def users(first: int, last: int) -> list[str]:
    return [f"u{number}" for number in range(first, last + 1)]


#### One signal


@each_signal
@pytest.mark.parametrize("concurrency", [1, 8])
def test_users_in_flight_are_finished_and_the_other_rows_saved(
    project: Project, services: MockServices, number: signal.Signals, concurrency: int
) -> None:
    gate = Gate(services, *users(5, 4 + concurrency))
    project.enable_notices()
    project.configure(intercom={"concurrency": concurrency})
    project.users(40)
    child = gate.run(project)
    child.send(number)
    time.sleep(0.3)
    assert child.process.poll() is None
    gate.opened.set()
    result = wait_for_end(child, number, project)
    accepted = {user["user_id"] for user in services.users.values()}
    assert accepted >= set(users(1, 4 + concurrency))
    assert len(services.requests) == len(accepted) < 40
    assert result.counts() == (len(accepted), 0, 40 - len(accepted))
    assert sorted([*accepted, *rejected_ids(result)]) == sorted(users(1, 40))
    # One line covers all rows that the run never reached.
    first_line = len(accepted) + 2
    (reason,) = result.reasons()
    assert reason[0] == f"lines {first_line} to 41"
    assert_says(reason[2], "stopped")
    assert all(f"user_id={user_id}" in result.debug_log for user_id in accepted)


@each_signal
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_signal_ends_the_wait_before_a_retry(
    project: Project, services: MockServices, number: signal.Signals, concurrency: int
) -> None:
    services.faults_by_user_id = {"u3": Fault(status=503)}
    project.enable_notices()
    project.configure(intercom={"timeout": 300, "concurrency": concurrency})
    project.users(3)
    child = project.start()
    eventually(lambda: len(services.requests) == 3 and services.responses[503])
    eventually(lambda: "retrying" in read_debug_log(project))
    child.send(number)
    result = wait_for_end(child, number, project)
    assert (result.counts(), rejected_ids(result)) == ((2, 0, 1), ["u3"])
    assert len(services.requests) == 3
    ((line, user, reason),) = result.reasons()
    assert (line, user) == ("4", "user_id=u3")
    assert "503" in reason


def read_debug_log(project: Project) -> str:
    return next((project.folder / "logs").glob("*_debug.log")).read_text("utf-8")


@each_signal
@pytest.mark.parametrize("status", [None, 429])
def test_a_signal_ends_the_wait_for_the_rate_limit(
    project: Project, services: MockServices, number: signal.Signals, status: int | None
) -> None:
    reset = str(int(services.now()) + 200)
    headers = {
        "X-RateLimit-Limit": "2",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": reset,
    }
    services.faults = [Fault(), Fault(status=status, headers=headers)]
    project.users(5)
    child = project.start()
    eventually(lambda: len(services.requests) == 2)
    time.sleep(0.3)
    child.send(number)
    result = wait_for_end(child, number, project)
    count = 2 if status is None else 1
    assert result.counts() == (count, 0, 5 - count)
    assert rejected_ids(result) == users(count + 1, 5)
    assert len(services.requests) == 2
    # The user that only waited for its turn is one of those that the run never reached.
    assert result.reasons()[-1][0] == "lines 4 to 6"


@each_signal
@pytest.mark.parametrize("phase", ["notice", "attributes", "retry"])
def test_a_signal_ends_a_run_before_its_first_user(
    project: Project, services: MockServices, number: signal.Signals, phase: str
) -> None:
    """During the start notice, the attributes request, or the pause before a retry."""
    silence = Fault(delay=SILENCE)
    if phase == "notice":
        services.notice_faults = [silence] * 2
    elif phase == "attributes":
        services.faults = [silence]
    else:
        services.faults = [Fault(status=503)]
    project.enable_notices()
    project.configure(intercom={"user_url": services.contacts_url, "timeout": 300})
    project.configure(custom_attributes={"plan": "name"})
    project.users(5)
    child = project.start()
    if phase == "notice":
        eventually(lambda: not services.notice_faults)
    elif phase == "attributes":
        eventually(lambda: services.requests)
    else:
        eventually(lambda: services.responses[503])
    child.send(number)
    result = wait_for_end(child, number, project)
    assert len(services.requests) == int(phase != "notice")
    assert not result.reject_files
    assert " added or updated" not in result.out
    assert "check the network" not in result.err


@only_posix
def test_a_signal_ends_a_run_that_reads_a_large_file(
    project: Project, services: MockServices
) -> None:
    rows = "".join(
        f"u{number},u{number}@example.com,2026-01-02\n" for number in range(200_000)
    )
    project.write("user_id,email,signed_up_at\n" + rows)
    project.enable_notices()
    child = project.start()
    eventually(lambda: list(project.folder.glob("logs/*_debug.log")))
    eventually(lambda: "importing" in read_debug_log(project))
    child.send(SIGTERM)
    result = wait_for_end(child, SIGTERM, project)
    assert services.requests == []
    assert not result.reject_files
    assert " added or updated" not in result.out


@only_posix
def test_a_signal_ends_a_run_among_many_invalid_rows(
    project: Project, services: MockServices
) -> None:
    count = 20_000
    valid = "".join(f"u{number},\n" for number in range(60))
    invalid = "".join(f",{number:05}\n" for number in range(count))
    project.write("user_id,name\n" + valid + invalid)
    child = project.start()
    eventually(lambda: services.responses[200] == 60)
    child.send(SIGTERM)
    result = wait_for_end(child, SIGTERM, project)
    assert result.counts() == (60, 0, count)
    rejected = [row[1] for row in result.rejected_rows()[1:]]
    assert rejected == [f"{number:05}" for number in range(count)]
    last_reason = result.reasons()[-1]
    assert re.fullmatch(rf"lines \d+ to {count + 61}", last_reason[0])


@only_posix
def test_a_signal_ends_a_run_whose_input_pipe_stalls(
    project: Project, services: MockServices
) -> None:
    """The data read from the pipe is saved, because it can't be read again."""
    project.enable_notices()
    child = project.start("/dev/stdin", stdin=subprocess.PIPE)
    assert child.process.stdin
    child.process.stdin.write(b"user_id\nu1\nu2\n")
    child.process.stdin.flush()
    eventually(lambda: len(services.slack) == 1)
    time.sleep(0.5)
    child.send(SIGTERM)
    # (Child.wait would close the pipe, and the input would end.)
    assert child.process.wait(25) == 128 + SIGTERM
    result = child.wait()
    (saved,) = result.reject_files
    assert saved.read_bytes() == b"user_id\nu1\nu2\n"
    assert services.requests == []
    assert "Traceback" not in result.err


#### The last user


@only_posix
@pytest.mark.parametrize(
    ("concurrency", "end", "fault", "status"),
    [
        (1, "", Fault(), 0),
        (8, "", Fault(), 0),
        (1, "\n\n  \nuser_id,email,name\n", Fault(), 0),  # no more rows follow
        (1, "", Fault(status=422), 1),
        (8, "u6,,\n", Fault(), 0),
        (1, "u6,,\n", Fault(), 143),  # there is another row
        (1, "", Fault(status=503), 143),  # it would have been tried again
    ],
)
def test_a_signal_only_counts_if_a_row_is_unfinished(
    project: Project,
    services: MockServices,
    concurrency: int,
    end: str,
    fault: Fault,
    status: int,
) -> None:
    gate = Gate(services, "u5", fault=fault)
    project.enable_notices()
    project.configure(intercom={"concurrency": concurrency})
    path = project.users(5)
    path.write_text(path.read_text() + end)
    child = gate.run(project)
    if concurrency > 1:
        eventually(lambda: services.responses[200] == 4 + end.count("u6"))
    child.send(SIGTERM)
    child.send(SIGTERM)
    time.sleep(0.2)
    gate.opened.set()
    result = child.wait()
    assert result.status == status, result
    accepted = len(services.users)
    assert result.counts() == (accepted, 0, len(rejected_ids(result)))
    assert accepted + len(rejected_ids(result)) == 5 + end.count("u6")
    expected_color = "green" if status == 0 else "red"
    assert services.hipchat[-1]["color"] == expected_color
    assert ("SIGTERM" in result.err) == (status == 143)


@only_posix
def test_a_signal_among_unchanged_rows_only_counts_if_some_are_left(
    project: Project, services: MockServices
) -> None:
    """Without a request for a user, a run that stops early prints no counts, and saves nothing."""
    project.configure(intercom={"skip_unchanged": "true"})
    project.users(2)
    assert project.run().status == 0
    (project.folder / "sitecustomize.py").write_text(SIGNAL_AT_ROW)
    for row, status in (("u2", 0), ("u1", 143)):
        result = project.run(env={"PYTHONPATH": str(project.folder), "SIGNAL_AT": row})
        assert result.status == status, result
        assert (" 2 unchanged" in result.out) == (status == 0)
        assert not result.reject_files


# Sends SIGTERM to its own process while this user is looked up in the state file.
SIGNAL_AT_ROW = """
import os, signal, hashlib

sha256 = hashlib.sha256

def hash_and_signal(data=b"", **options):
    at = os.environ["SIGNAL_AT"].encode()
    if bytes(data).endswith(b"user_id=" + at):
        os.kill(os.getpid(), signal.SIGTERM)
    return sha256(data, **options)

hashlib.sha256 = hash_and_signal
"""


@only_posix
def test_a_signal_at_the_end_of_a_poll_does_not_make_it_wait_forever() -> None:
    """With SimpleQueue it would, because the rest of the timeout would be negative."""
    end = time.monotonic() + 0.5
    # The handler takes longer than a poll, whose timeout has passed when it returns.
    previous = signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.2))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(export_csv.RunAborted):
            export_csv.run_in_background(
                lambda: time.sleep(10), lambda: time.monotonic() > end
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


#### A disk that fails

UNREADABLE_LATER = """
import errno, io

class FileThatFails(io.FileIO):
    opened = 0

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        FileThatFails.opened += 1
        self.is_second = FileThatFails.opened == 2

    def read(self, size=-1):
        if self.is_second and self.tell() > 60_000:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)

io.FileIO = FileThatFails
"""


@only_posix
@pytest.mark.parametrize("concurrency", [1, 8])
def test_rows_that_cannot_be_read_again_are_counted_and_named(
    project: Project, services: MockServices, concurrency: int
) -> None:
    """The preflight could read them; then the disk with the temporary copy failed."""
    (project.folder / "sitecustomize.py").write_text(UNREADABLE_LATER)
    project.configure(intercom={"concurrency": concurrency})
    rows = [f"u{number},{'x' * 1000}\n" for number in range(1, 101)]
    project.write("user_id,name\n" + "".join(rows))
    result = project.run(env={"PYTHONPATH": str(project.folder)})
    added = len(services.users)
    assert 0 < added < 100
    assert result.status == 1
    assert result.counts() == (added, 0, 100 - added)
    assert_says(result.err, "Input/output error")
    # A user that is waiting for its turn when the run stops is saved instead of sent.
    saved = result.rejected_rows()[1:] if result.reject_files else []
    first_lost_line = added + len(saved) + 2
    assert_says(
        result.out, rf"rows from line {first_lost_line} on .* only in the input"
    )


#### Two signals


@only_posix
@pytest.mark.parametrize("delay", [0.001, 0.01, 0.1])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (SIGTERM, SIGTERM),
        (SIGHUP, SIGHUP),
        (signal.SIGINT, signal.SIGINT),
        (SIGTERM, SIGHUP),
    ],
)
def test_a_repeated_signal_changes_nothing(
    project: Project,
    services: MockServices,
    first: signal.Signals,
    second: signal.Signals,
    delay: float,
) -> None:
    """`timeout`, systemd, shells and the kernel may send a signal twice.

    In the cases with the longest delay, no response is held back.
    """
    is_held = delay < 0.1
    gate = Gate(services, *["u5"] * is_held)
    services.latency = 0.01
    project.enable_notices()
    project.users(40)
    child = gate.run(project)
    eventually(lambda: services.responses[200] >= 4)
    child.send(first)
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        child.send(second)
    time.sleep(0.1)
    gate.opened.set()
    # If both are pending, Python runs the handler of the lower signal number first.
    result = child.wait(25)
    assert result.status in (128 + first, 128 + second)
    assert project.services.hipchat[-1]["color"] == "red"
    accepted = imported(project)
    assert result.counts() == (len(accepted), 0, 40 - len(accepted))
    assert accepted + rejected_ids(result) == users(1, 40)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_second_ctrl_c_after_a_while_aborts_at_once(
    project: Project, services: MockServices, concurrency: int
) -> None:
    gate = Gate(services, *users(2, 1 + concurrency))
    project.set_constants(SECOND_CTRL_C_DELAY=0.2)
    project.configure(intercom={"concurrency": concurrency})
    project.users(20)
    child = gate.run(project)
    child.send(signal.SIGINT)
    time.sleep(0.5)
    assert child.process.poll() is None
    child.send(signal.SIGINT)
    result = child.wait(25)
    assert result.status == 130
    assert not gate.opened.is_set()
    assert_says(result.err, "aborted", "input")
    assert "Traceback" not in result.err
    gate.opened.set()


@only_posix
def test_other_signals_never_abort(project: Project, services: MockServices) -> None:
    gate = Gate(services, "u2")
    project.set_constants(SECOND_CTRL_C_DELAY=0)
    project.users(5)
    child = gate.run(project)
    for number in (SIGTERM, SIGTERM, SIGHUP, SIGHUP, signal.SIGINT, SIGTERM):
        child.send(number)
        time.sleep(0.1)
    gate.opened.set()
    result = wait_for_end(child, SIGTERM, project)
    assert (result.counts(), rejected_ids(result)) == ((2, 0, 3), users(3, 5))


@only_posix
def test_a_second_ctrl_c_aborts_though_nobody_reads_standard_error(
    project: Project, services: MockServices
) -> None:
    reader, writer = os.pipe()
    gate = Gate(services, "u2")
    project.set_constants(SECOND_CTRL_C_DELAY=0.2)
    project.users(5)
    child = project.start(stderr=writer)
    eventually(lambda: gate.held)
    child.send(signal.SIGINT)
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    time.sleep(0.5)
    child.send(signal.SIGINT)
    assert child.process.wait(25) == 130
    gate.opened.set()
    os.close(reader)
    os.close(writer)
    child.wait()


IGNORING = ["sh", "-c", 'trap "" INT HUP; exec "$@"', "sh"]


@only_posix
def test_signals_that_the_parent_ignores_stay_ignored(
    project: Project, services: MockServices
) -> None:
    """nohup ignores SIGHUP, and shells ignore SIGINT for background jobs."""
    project.command = [*IGNORING, *project.script_command]
    gate = Gate(services, "u2")
    project.users(3)
    child = gate.run(project)
    for number in (signal.SIGINT, SIGHUP, signal.SIGINT):
        child.send(number)
        time.sleep(0.1)
    gate.opened.set()
    result = child.wait()
    assert (result.status, result.counts()) == (0, (3, 0, 0)), result


#### Requests for users in flight


@only_posix
def test_all_requests_of_a_user_in_flight_are_sent(
    project: Project, services: MockServices
) -> None:
    """After a 409, the contact is still compared and updated before the run stops."""
    services.contacts["c1"] = {
        "email": "u1@example.com",
        "role": "user",
        "external_id": None,
    }
    gate = Gate(services, "u1")
    project.configure(intercom={"user_url": services.contacts_url})
    project.users(5)
    child = gate.run(project)
    child.send(SIGTERM)
    time.sleep(0.3)
    gate.opened.set()
    result = wait_for_end(child, SIGTERM, project)
    requests = [f"{request.method} {request.path}" for request in services.requests]
    assert requests == ["POST /contacts", "GET /contacts/c1", "PUT /contacts/c1"]
    assert services.contacts["c1"]["external_id"] == "u1"
    assert (result.counts(), rejected_ids(result)) == ((1, 0, 4), users(2, 5))


@only_posix
@pytest.mark.parametrize(
    "fault", [Fault(status=503), Fault(drop=True), Fault(as_user="u9")]
)
def test_nothing_is_retried_after_a_signal(
    project: Project, services: MockServices, fault: Fault
) -> None:
    gate = Gate(services, "u2", fault=fault)
    project.users(3)
    child = gate.run(project)
    child.send(SIGTERM)
    time.sleep(0.3)
    gate.opened.set()
    result = wait_for_end(child, SIGTERM, project)
    assert imported(project) == ["u1", "u2"]
    assert (result.counts(), rejected_ids(result)) == ((1, 0, 2), ["u2", "u3"])
    (own, rest) = result.reasons()
    assert own[:2] == ["3", "user_id=u2"]
    assert rest[0] == "4"


@only_posix
@pytest.mark.parametrize(
    ("grace_period", "abandon_after"),
    [(0.5, 60), (0.3, 0.3)],
    ids=["follow-up", "request that doesn't end"],
)
def test_a_run_ends_whatever_intercom_does(
    project: Project, services: MockServices, grace_period: float, abandon_after: float
) -> None:
    """Follow-up requests share the grace period; a request sent before the signal is abandoned."""
    services.contacts["c1"] = {
        "email": "u1@example.com",
        "role": "user",
        "external_id": None,
    }
    is_follow_up = abandon_after > 1
    gate = Gate(services, "u1")

    def hold(request: Request) -> Fault | None:
        if request.method == "GET" or not is_follow_up:
            gate.held = ["u1"]
            return Fault(delay=SILENCE)
        gate(request)
        return None

    services.fault_for = hold
    project.set_constants(STOP_GRACE_PERIOD=grace_period, ABANDON_AFTER=abandon_after)
    project.enable_notices()
    project.configure(intercom={"user_url": services.contacts_url})
    project.users(3)
    child = gate.run(project)
    services.notice_faults = [Fault(status=500)] * 9
    child.send(SIGTERM)
    time.sleep(0.1)
    gate.opened.set()
    result = child.wait(25)
    assert result.status == 143, result
    assert (result.counts(), rejected_ids(result)) == ((0, 0, 3), users(1, 3))
    assert len(services.requests) == 1 + is_follow_up
    # After a signal, a notice is tried once.
    assert len(services.notice_faults) == 9 - 2


#### Signals elsewhere

RAISED = """
import pathlib, signal, threading, time

def wait():
    while not pathlib.Path("now").exists():
        time.sleep(0.01)
    signal.raise_signal({number})
    pathlib.Path("now").unlink()

threading.Thread(target=wait, daemon=True).start()
"""


def test_a_signal_that_arrives_in_another_thread_is_noticed(
    project: Project, services: MockServices
) -> None:
    """Ctrl-Break does so on Windows. Wine can't send it, so a thread raises the signal here."""
    number = getattr(signal, "SIGBREAK", signal.SIGTERM)
    gate = Gate(services, "u2")
    now = project.folder / "now"
    (project.folder / "sitecustomize.py").write_text(RAISED.format(number=int(number)))
    project.users(5)
    child = gate.run(project, {"PYTHONPATH": str(project.folder)})
    now.touch()
    eventually(lambda: not now.exists())
    gate.opened.set()
    result = wait_for_end(child, number, project)
    assert (result.counts(), rejected_ids(result)) == ((2, 0, 3), users(3, 5))


@each_signal
def test_a_dry_run_ends_too(project: Project, number: signal.Signals) -> None:
    """It exits with 128 + n or is killed by signal n; a shell reports both as 128 + n."""
    project.run_from_file()
    project.users(5000)
    child = project.start("--dry-run")
    assert child.process.stdout
    child.process.stdout.read(20)
    child.send(number)
    result = child.wait()
    assert result.status in (128 + number, -number)
    assert "Traceback" not in result.err
    assert len(result.out.splitlines()) < 5000


@pytest.mark.parametrize("is_closed", [False, pytest.param(True, marks=only_posix)])
def test_ctrl_c_during_the_imports_prints_one_line(
    project: Project, is_closed: bool
) -> None:
    package = project.folder / "dotenv"
    package.mkdir()
    text = "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(60)\n"
    (package / "__init__.py").write_text(text)
    if is_closed:
        project.command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *project.script_command]
    child = project.start(env={"PYTHONPATH": str(project.folder)})
    eventually((project.folder / "begun").exists)
    child.send(signal.SIGINT)
    result = child.wait(25)
    assert (result.status, result.out) == (130, "")
    assert len(result.err.splitlines()) == int(not is_closed)


#### Two runs at once


@contextlib.contextmanager
def first_run(project: Project, services: MockServices) -> Iterator[tuple[Child, Gate]]:
    """Start a run, and hold back the response to its second user."""
    gate = Gate(services, "u2")
    project.enable_notices()
    project.users(4)
    child = gate.run(project)
    try:
        yield child, gate
    finally:
        gate.opened.set()
        child.process.kill()
        child.process.communicate()


@pytest.mark.parametrize(
    ("path", "quiet"),
    [
        ("config.ini", []),
        ("config.ini", ["--quiet"]),
        pytest.param("link.ini", [], marks=posix("Windows restricts symbolic links")),
    ],
    ids=["same", "quiet", "link"],
)
def test_a_second_run_with_the_same_config_ends_at_once(
    project: Project, services: MockServices, path: str, quiet: list[str]
) -> None:
    """It doesn't affect the first one, and sends no notice."""
    if path == "link.ini":
        (project.folder / path).symlink_to("config.ini")
    with first_run(project, services) as (child, gate):
        notices = len(services.notice_requests)
        logs = list(project.folder.glob("logs/*"))
        result = project.start("--config", path, *quiet).wait(20)
        assert (result.status, result.out, result.err.count("\n")) == (3, "", 1), result
        assert_says(result.err, "another run", path)
        assert len(services.requests) == 2
        assert len(services.notice_requests) == notices
        assert list(project.folder.glob("logs/*")) == logs
        gate.opened.set()
        first = child.wait()
        assert (first.status, first.counts()) == (0, (4, 0, 0))


FAILING_LOCK = """
import errno, fcntl

def flock(file, operation):
    raise OSError(errno.{error}, "no locks here")

fcntl.flock = flock
"""


@only_posix
@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS", "EBADF"])
def test_a_file_system_without_locks_is_only_a_warning(
    project: Project, services: MockServices, error: str
) -> None:
    (project.folder / "sitecustomize.py").write_text(FAILING_LOCK.format(error=error))
    project.users(2)
    result = project.run("--quiet", env={"PYTHONPATH": str(project.folder)})
    assert (result.status, len(services.users)) == (0, 2), result
    (line,) = result.err.splitlines()
    assert_says(line, "config.ini", "lock", "overlap")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_config_file_that_cannot_be_read_is_reported_in_one_line(
    project: Project,
) -> None:
    """Reading this file fails with EIO, as on a failing disk."""
    project.users(2)
    result = project.run("--config", "/proc/self/mem")
    assert (result.status, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert_says(line, "/proc/self/mem", "Input/output error", "--config")


def test_the_lock_dies_with_its_process(
    project: Project, services: MockServices
) -> None:
    with first_run(project, services) as (child, _):
        child.process.kill()
        child.wait()
        services.fault_for = None
        result = project.run()
        assert (result.status, result.counts()) == (0, (4, 0, 0))


def test_another_config_runs_at_the_same_time(
    project: Project, services: MockServices
) -> None:
    project.configure(intercom={"skip_unchanged": "true"})
    (project.folder / "other.ini").write_bytes(project.config.read_bytes())
    with first_run(project, services) as (child, gate):
        project.write("user_id\nv1\nv2\n", "other.csv")
        result = project.run("--config", "other.ini", "other.csv")
        assert (result.status, result.counts()) == (0, (2, 0, 0))
        gate.opened.set()
        first = child.wait()
        assert (first.status, first.counts()) == (0, (4, 0, 0))
    assert len(services.users) == 6


#### Full disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not try_mount(folder, "size=64k"):
        pytest.skip("mount isn't permitted")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def try_mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    return False


def fill(disk: Path) -> None:
    """Fill the disk completely."""
    with (
        (disk / "filler").open("wb", buffering=0) as file,
        contextlib.suppress(OSError),
    ):
        while True:
            file.write(bytes(4096))


NO_SPACE = "No space left on device"


@pytest.mark.parametrize("case", ["debug log", "both logs", "full from the start"])
def test_the_import_goes_on_if_the_disk_with_the_logs_is_full(
    project: Project, services: MockServices, disk: Path, case: str
) -> None:
    wrong = case == "both logs"
    if case == "full from the start":
        fill(disk)
    project.configure(log={"folder": disk})
    project.configure(custom_attributes={"count": "name : integer"} if wrong else {})
    project.write(
        "user_id,name\nu0,7\n" + "".join(f"u{n},User {n}\n" for n in range(1, 1200))
    )
    result = project.run("--quiet")
    assert (result.status, result.out) == (0, "")
    assert len(services.users) == 1200
    lines = [line for line in result.err.splitlines() if NO_SPACE in line]
    assert 1 <= len(lines) <= 1 + wrong
    assert all("log" in line for line in lines)
    others = [line for line in result.err.splitlines() if line not in lines]
    assert ["1,199" in line for line in others] == [True] * wrong, others


@pytest.mark.parametrize("full", [False, True], ids=["fills up", "is full"])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_run_stops_if_rows_cannot_be_saved_and_names_the_first(
    project: Project, services: MockServices, disk: Path, full: bool, concurrency: int
) -> None:
    if full:
        fill(disk)
    services.faults_by_user_id = {f"u{n}": Fault(status=422) for n in range(1, 400, 2)}
    project.enable_notices()
    project.configure(csv={"not_imported_folder": disk / "kept"})
    project.configure(intercom={"concurrency": concurrency})
    rows = [f"u{n},{n:x}{'x' * 1500}" for n in range(400)]
    project.write("user_id,name\n" + "\n".join(rows) + "\n")
    result = project.run()
    assert result.status == 1
    imported, unchanged, not_imported = result.counts()
    assert (imported, unchanged) == (services.responses[200], 0)
    assert imported + not_imported == 400
    assert len(services.requests) < 400
    assert services.hipchat[-1]["color"] == "red"
    (line,) = [line for line in result.err.splitlines() if NO_SPACE in line]
    assert str(disk / "kept") in line
    assert "Traceback" not in result.err
    assert "Exception ignored" not in result.err
    # Half a row would be imported as if it were a whole one.
    files = [
        path for path in (disk / "kept").glob("*.csv") if "reasons" not in path.name
    ]
    lines = files[0].read_text().splitlines() if files else []
    assert set(lines) <= {"user_id,name", *rows}
    # The reported line is the first one that is only in the input.
    first = re.search(r"\bline (\d+)", result.out)
    assert first
    for number in range(2, int(first[1])):
        user_id = f"u{number - 2}"
        assert rows[number - 2] in lines or services.find(user_id=user_id), user_id


@pytest.mark.parametrize(
    ("size", "concurrency"), [("full", 1), ("64k", 1), ("64k", 8), ("160k", 8)]
)
def test_a_run_stops_if_the_state_disk_is_full_and_the_next_one_completes_it(
    project: Project, services: MockServices, disk: Path, size: str, concurrency: int
) -> None:
    if size == "full":
        fill(disk)
    else:
        assert try_mount(disk, f"remount,size={size}")
    project.enable_notices()
    project.configure(
        intercom={"skip_unchanged": "true", "state_file": disk / "state.db"}
    )
    project.configure(intercom={"concurrency": concurrency})
    project.users(400)
    result = project.run()
    assert result.status == 1
    assert "Traceback" not in result.err
    (line,) = [line for line in result.err.splitlines() if "stopped" in line]
    assert str(disk / "state.db") in line
    assert re.search("full|space|I/O", line), line
    assert services.hipchat[-1]["color"] == "red"
    assert bool(services.requests) == (size != "full")
    if services.requests:
        count = len(services.users)
        assert result.counts() == (count, 0, 400 - count)
        assert len(rejected_ids(result)) == 400 - count

    assert try_mount(disk, "remount,size=8m")
    before = len(services.users)
    last = project.run()
    assert last.status == 0
    assert sum(last.counts()) == 400
    assert 400 - before <= last.counts()[0] <= 400 - before + concurrency
    assert len(services.users) == 400


#### The download from S3


def set_up_download(project: Project, folder: Path, seconds: float) -> None:
    """Make the mock act as S3, with an object of 1 MB that takes this many seconds."""
    body = b"user_id\n" + b"u1x\n" * (2**18 - 2)
    project.services.faults = [Fault(status=200, body=body, trickle=seconds)]
    keys = {
        "access_key": "sandbox",
        "secret_key": "sandbox-secret",
        "region": "us-east-1",
    }
    keys |= {
        "use_aws": "true",
        "bucket": "bucket",
        "endpoint_url": project.services.url,
    }
    project.configure(aws={**keys, "tmp_folder": folder})


@each_signal
def test_a_download_ends_with_the_run(
    project: Project, services: MockServices, number: signal.Signals
) -> None:
    """It ends even if the rest of the object never arrives, and leaves nothing on the disk."""
    set_up_download(project, project.exports, seconds=600)
    project.enable_notices()
    child = project.start("users.csv")
    eventually(lambda: services.requests)
    time.sleep(0.3)
    child.send(number)
    result = wait_for_end(child, number, project)
    assert [notice["color"] for notice in services.hipchat] == ["yellow", "red"]
    assert not list(project.exports.iterdir())
    assert not result.reject_files
    assert [one.path for one in services.requests] == ["/bucket/users.csv"]


def test_a_run_stops_if_the_disk_has_no_room_for_the_download(
    project: Project, services: MockServices, disk: Path
) -> None:
    set_up_download(project, disk, seconds=0)
    result = project.run("users.csv")
    assert result.status == 1
    assert [one.path for one in services.requests] == ["/bucket/users.csv"]
    (line,) = result.err.splitlines()
    assert_says(line, "tmp_folder", NO_SPACE)
