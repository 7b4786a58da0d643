"""Ctrl-C, SIGTERM, a second run and full disks: how a run ends too early, and what it keeps."""

from __future__ import annotations

import contextlib
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
from conftest import Child, Project, Result, eventually, not_wine, posix
from sandbox import Fault, Request, Sandbox

if sys.platform == "win32":
    BREAK = pytest.param(signal.SIGBREAK, marks=not_wine("delivers Ctrl-C alone"))
    SIGNALS: list[Any] = [signal.SIGINT, BREAK]
    SECOND: list[Any] = [(1, signal.SIGINT), (8, signal.SIGINT)]
else:
    SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    SECOND = [(1, signal.SIGINT), (8, signal.SIGINT), (8, signal.SIGTERM)]
each_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
SIGTERM = pytest.param(signal.SIGTERM, marks=posix("Windows has no way to send it"))


# Windows' Ctrl-C interrupts no answer that is waited for.
DELAY = 3 if sys.platform == "win32" else 30


class Gate:
    """Holds the upserts of some users until it is opened."""

    def __init__(self, sandbox: Sandbox, *user_ids: str) -> None:
        self.user_ids = set(user_ids)
        self.held: list[str] = []
        self.opened = threading.Event()
        sandbox.fault_for = self

    def __call__(self, request: Request) -> None:
        user_id = (request.body or {}).get("user_id")
        if user_id in self.user_ids:
            self.held.append(user_id)
            self.opened.wait(60)

    def run(self, project: Project, env: Mapping[str, str] | None = None) -> Child:
        """A run that is under way with all of these users."""
        child = project.start(env=env)
        eventually(lambda: set(self.held) == self.user_ids)
        return child


def ended(child: Child, number: signal.Signals, project: Project, notices: int = 2) -> Result:
    """How a run ended that a signal ends: status, red notice, complete logs and the law of rows."""
    result = child.wait(25)
    assert result.status == 128 + number, result
    assert "Traceback" not in result.err
    assert [notice["color"] for notice in project.sandbox.hipchat][-1:] == ["red"]
    assert len(project.sandbox.slack) == notices
    for text in (result.err, result.error_log, project.sandbox.slack[-1]["text"]):
        assert re.search(rf"{number.name}|Ctrl-C|interrupt", text), text
    assert result.debug_log.endswith("\n")
    assert result.error_log.endswith("\n")
    return result


def kept(result: Result) -> list[str]:
    """The user_id of each row in not_imported."""
    return [row[0] for row in result.not_imported_rows()[1:]]


def users(first: int, last: int) -> list[str]:
    return [f"u{number}" for number in range(first, last + 1)]


#### Signals


@each_signal
@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_requests_under_way_finish_and_the_rest_is_kept(
    project: Project, sandbox: Sandbox, number: signal.Signals, concurrency: int
) -> None:
    gate = Gate(sandbox, *users(5, 4 + concurrency))
    project.notices()
    project.configure(intercom={"concurrency": concurrency})
    project.users(40)
    child = gate.run(project)
    child.send(number)
    time.sleep(0.3)
    assert child.process.poll() is None
    gate.opened.set()
    result = ended(child, number, project)
    sent = {user["user_id"] for user in sandbox.users.values()}
    assert sent >= set(users(1, 4 + concurrency))
    assert len(sandbox.requests) == len(sent) < 40
    assert result.counts() == (len(sent), 0, 40 - len(sent))
    assert sorted([*sent, *kept(result)]) == sorted(users(1, 40))
    assert all(f"user_id={user_id}" in result.debug_log for user_id in sent)
    assert f"{len(sent)} added or updated" in result.debug_log


@pytest.mark.parametrize("number", [signal.SIGINT, SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_wait_before_another_try_is_left(
    project: Project, sandbox: Sandbox, number: signal.Signals, concurrency: int
) -> None:
    sandbox.faults_of = {"u3": Fault(status=503)}
    project.notices()
    project.configure(intercom={"timeout": 300, "concurrency": concurrency})
    project.users(3)
    child = project.start()
    eventually(lambda: len(sandbox.requests) == 3 and sandbox.answers[503])
    eventually(lambda: "retry" in next((project.folder / "logs").glob("*_debug.log")).read_text())
    child.send(number)
    result = ended(child, number, project)
    assert (result.counts(), kept(result)) == ((2, 0, 1), ["u3"])
    assert len(sandbox.requests) == 3


@each_signal
@pytest.mark.parametrize("status", [None, 429])
def test_the_wait_for_the_rate_limit_is_left(
    project: Project, sandbox: Sandbox, number: signal.Signals, status: int | None
) -> None:
    reset = str(int(sandbox.now()) + 200)
    headers = {"X-RateLimit-Limit": "2", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
    sandbox.faults = [Fault(), Fault(status=status, headers=headers)]
    project.notices()
    project.users(5)
    child = project.start()
    eventually(lambda: len(sandbox.requests) == 2)
    time.sleep(0.3)
    child.send(number)
    result = ended(child, number, project)
    count = 2 if status is None else 1
    assert (result.counts(), kept(result)) == ((count, 0, 5 - count), users(count + 1, 5))
    assert len(sandbox.requests) == 2


@each_signal
@pytest.mark.parametrize("what", ["notice", "check", "wait for another check"])
def test_what_comes_before_the_first_user_is_left(
    project: Project, sandbox: Sandbox, number: signal.Signals, what: str
) -> None:
    hangs, fails = Fault(delay=DELAY), Fault(status=503)
    sandbox.notice_faults = [hangs] if what == "notice" else []
    sandbox.faults = [hangs if what == "check" else fails]
    project.notices()
    project.configure(intercom={"user_url": sandbox.contacts_url, "timeout": 300})
    project.configure(custom_attributes={"plan": "name"})
    project.users(5)
    child = project.start()
    if what == "notice":
        eventually(lambda: not sandbox.notice_faults)
    else:
        eventually(lambda: sandbox.requests and (what == "check" or sandbox.answers[503]))
    child.send(number)
    told = int(what != "notice")
    ended(child, number, project, notices=1 + told)
    assert [one.path for one in sandbox.requests] == ["/data_attributes"] * told


@pytest.mark.parametrize(("concurrency", "second"), SECOND)
def test_a_second_signal_ends_the_run_at_once(
    project: Project, sandbox: Sandbox, second: signal.Signals, concurrency: int
) -> None:
    gate = Gate(sandbox, *users(2, 1 + concurrency))
    project.configure(intercom={"concurrency": concurrency})
    project.users(20)
    child = gate.run(project)
    child.send(signal.SIGINT)
    time.sleep(0.3)
    assert child.process.poll() is None
    child.send(second)
    result = child.wait(25)
    assert result.status in {130, 128 + second}
    assert not gate.opened.is_set()
    assert "Traceback" not in result.err
    gate.opened.set()


def test_a_signal_after_the_last_user_undoes_nothing(project: Project, sandbox: Sandbox) -> None:
    gate = Gate(sandbox, "u5")
    project.notices()
    project.users(5)
    child = gate.run(project)
    child.send(signal.SIGINT)
    time.sleep(0.3)
    gate.opened.set()
    result = child.wait()
    assert result.status in {0, 130}
    assert result.counts() == (5, 0, 0)
    assert not result.not_imported


@posix("Windows has no hangup")
@pytest.mark.parametrize("first", SIGNALS, ids=lambda number: number.name)
def test_a_hangup_behind_a_signal_does_not_end_the_run_at_once(
    project: Project, sandbox: Sandbox, first: signal.Signals
) -> None:
    """A terminal that is closed may send it twice: the shell does, and the kernel."""
    gate = Gate(sandbox, "u2")
    project.users(5)
    child = gate.run(project)
    child.send(first)
    time.sleep(0.1)
    child.send(signal.SIGHUP)
    time.sleep(0.1)
    gate.opened.set()
    result = child.wait()
    assert (result.status, result.counts()) == (128 + first, (2, 0, 3)), result
    assert len(result.not_imported_rows()) == 4


RAISED = """
import pathlib, signal, threading, time

def wait():
    while not pathlib.Path("now").exists():
        time.sleep(0.01)
    signal.raise_signal({number})
    pathlib.Path("now").unlink()

threading.Thread(target=wait, daemon=True).start()
"""


def test_a_signal_that_comes_in_a_thread_is_heard(project: Project, sandbox: Sandbox) -> None:
    """As Ctrl-Break is on Windows, and as Wine sends none."""
    number = getattr(signal, "SIGBREAK", signal.SIGTERM)
    gate, now = Gate(sandbox, "u2"), project.folder / "now"
    (project.folder / "sitecustomize.py").write_text(RAISED.format(number=int(number)))
    project.notices()
    project.users(5)
    child = gate.run(project, {"PYTHONPATH": str(project.folder)})
    now.touch()
    eventually(lambda: not now.exists())
    gate.opened.set()
    result = ended(child, number, project)
    assert result.counts() == (2, 0, 3)
    assert kept(result) == users(3, 5)


@each_signal
def test_a_dry_run_ends_too(project: Project, number: signal.Signals) -> None:
    """Be it by the signal itself, which a shell calls 128 + its number as well."""
    project.users(5000)
    child = project.start("--dry-run")
    assert child.process.stdout
    child.process.stdout.read(20)
    child.send(number)
    result = child.wait()
    assert result.status in (128 + number, -number)
    assert "Traceback" not in result.err
    assert len(result.out.splitlines()) < 5000


def test_ctrl_c_during_the_imports_is_one_line(project: Project) -> None:
    package = project.folder / "dotenv"
    package.mkdir()
    text = "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(60)\n"
    (package / "__init__.py").write_text(text)
    child = project.start(env={"PYTHONPATH": str(project.folder)})
    eventually((project.folder / "begun").exists)
    child.send(signal.SIGINT)
    result = child.wait(25)
    assert (result.status, result.out, len(result.err.splitlines())) == (130, "", 1), result


#### Two runs at once


@contextlib.contextmanager
def first_run(project: Project, sandbox: Sandbox) -> Iterator[tuple[Child, Gate]]:
    """A run that is under way with its second user, whom the gate holds."""
    gate = Gate(sandbox, "u2")
    project.notices()
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
        pytest.param("link.ini", [], marks=posix("Windows makes links for administrators")),
    ],
    ids=["same", "quiet", "link"],
)
def test_a_second_run_with_the_same_config_ends_at_once(
    project: Project, sandbox: Sandbox, path: str, quiet: list[str]
) -> None:
    """And changes nothing of the first."""
    if path == "link.ini":
        (project.folder / path).symlink_to("config.ini")
    with first_run(project, sandbox) as (child, gate):
        notices, logs = len(sandbox.notice_requests), list(project.folder.glob("logs/*"))
        result = project.start("--config", path, *quiet).wait(20)
        assert (result.status, result.out, result.err.count("\n")) == (3, "", 1), result
        assert "another run" in result.err
        assert len(sandbox.requests) == 2
        assert len(sandbox.notice_requests) == notices
        assert list(project.folder.glob("logs/*")) == logs
        gate.opened.set()
        first = child.wait()
        assert (first.status, first.counts()) == (0, (4, 0, 0))


def test_the_lock_dies_with_its_process(project: Project, sandbox: Sandbox) -> None:
    with first_run(project, sandbox) as (child, _):
        child.process.kill()
        child.wait()
        sandbox.fault_for = None
        result = project.run()
        assert (result.status, result.counts()) == (0, (4, 0, 0))


def test_another_config_runs_at_the_same_time(project: Project, sandbox: Sandbox) -> None:
    project.configure(intercom={"skip_unchanged": "true"})
    (project.folder / "other.ini").write_bytes(project.config.read_bytes())
    with first_run(project, sandbox) as (child, gate):
        project.write("user_id\nv1\nv2\n", "other.csv")
        result = project.run("--config", "other.ini", "other.csv")
        assert (result.status, result.counts()) == (0, (2, 0, 0))
        gate.opened.set()
        first = child.wait()
        assert (first.status, first.counts()) == (0, (4, 0, 0))
    assert len(sandbox.users) == 6


#### Full disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "size=64k"):
        pytest.skip("mount isn't permitted")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def mounted(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    return False


def fill(disk: Path) -> None:
    """Leave no byte."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


NO_SPACE = "No space left on device"


@pytest.mark.parametrize("case", ["debug log", "both logs", "full from the start"])
def test_logs_on_a_disk_that_fills_up_do_not_end_the_import(
    project: Project, sandbox: Sandbox, disk: Path, case: str
) -> None:
    wrong = case == "both logs"
    if case == "full from the start":
        fill(disk)
    project.configure(log={"folder": disk})
    project.configure(custom_attributes={"count": "name : integer"} if wrong else {})
    project.write("user_id,name\nu0,7\n" + "".join(f"u{n},User {n}\n" for n in range(1, 1000)))
    result = project.run("--quiet")
    assert (result.status, result.out) == (0, "")
    assert len(sandbox.users) == 1000
    lines = [line for line in result.err.splitlines() if NO_SPACE in line]
    assert 1 <= len(lines) <= 1 + wrong
    assert all("log" in line for line in lines)
    others = [line for line in result.err.splitlines() if line not in lines]
    assert ["999" in line for line in others] == [True] * wrong, others


@pytest.mark.parametrize("full", [False, True], ids=["fills up", "is full"])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_rows_that_can_not_be_kept_end_the_run_and_are_said(
    project: Project, sandbox: Sandbox, disk: Path, full: bool, concurrency: int
) -> None:
    if full:
        fill(disk)
    sandbox.faults_of = {f"u{n}": Fault(status=422) for n in range(1, 400, 2)}
    project.notices()
    project.configure(csv={"not_imported_folder": disk / "kept"})
    project.configure(intercom={"concurrency": concurrency})
    rows = [f"u{n},{n:x}{'x' * 1500}" for n in range(400)]
    project.write("user_id,name\n" + "\n".join(rows) + "\n")
    result = project.run()
    assert result.status == 1
    imported, unchanged, not_imported = result.counts()
    assert (imported, unchanged) == (sandbox.answers[200], 0)
    assert imported + not_imported == 400
    assert len(sandbox.requests) < 400
    assert sandbox.hipchat[-1]["color"] == "red"
    (line,) = [line for line in result.err.splitlines() if NO_SPACE in line]
    assert str(disk / "kept") in line
    assert "Traceback" not in result.err
    assert "Exception ignored" not in result.err
    # Half a row would be imported as if it were a whole one.
    files = list((disk / "kept").glob("*.csv"))
    lines = files[0].read_text().splitlines() if files else []
    assert set(lines) <= {"user_id,name", *rows}
    # The line that is named is the first that has to be looked for in the input.
    first = re.search(r"\bline (\d+)", result.out)
    assert first
    for number in range(2, int(first[1])):
        user_id = f"u{number - 2}"
        assert rows[number - 2] in lines or sandbox.find(user_id=user_id), user_id


@pytest.mark.parametrize("size", ["full", "64k", "160k"])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_state_on_a_full_disk_ends_the_run_and_skips_nobody_wrongly(
    project: Project, sandbox: Sandbox, disk: Path, size: str, concurrency: int
) -> None:
    if size == "full":
        fill(disk)
    else:
        assert mounted(disk, f"remount,size={size}")
    project.notices()
    project.configure(intercom={"skip_unchanged": "true", "state_file": disk / "state.db"})
    project.configure(intercom={"concurrency": concurrency})
    project.users(1500)
    result = project.run()
    assert result.status == 1
    assert "Traceback" not in result.err
    (line,) = [line for line in result.err.splitlines() if "stopped" in line]
    assert str(disk / "state.db") in line
    assert re.search("full|space|I/O", line), line
    assert sandbox.hipchat[-1]["color"] == "red"
    assert bool(sandbox.requests) == (size != "full")
    if sandbox.requests:
        count = len(sandbox.users)
        assert result.counts() == (count, 0, 1500 - count)
        assert len(kept(result)) == 1500 - count

    assert mounted(disk, "remount,size=8m")
    before = len(sandbox.users)
    last = project.run()
    assert last.status == 0
    assert sum(last.counts()) == 1500
    assert 1500 - before <= last.counts()[0] <= 1500 - before + concurrency
    assert len(sandbox.users) == 1500


#### The download from S3


def download(project: Project, folder: Path, seconds: float) -> None:
    """Let the stand-in be S3, with an object of 1 MB that takes so long, for this tmp_folder."""
    body = b"user_id\n" + b"u1x\n" * (2**18 - 2)
    project.sandbox.faults = [Fault(status=200, body=body, trickle=seconds)]
    keys = {"access_key": "sandbox", "secret_key": "sandbox-secret", "region": "us-east-1"}
    keys |= {"use_aws": "true", "bucket": "bucket", "endpoint_url": project.sandbox.url}
    project.configure(aws={**keys, "tmp_folder": folder})


@each_signal
def test_a_download_is_left(project: Project, sandbox: Sandbox, number: signal.Signals) -> None:
    """Though the rest of it never comes, and nothing of it stays on the disk."""
    download(project, project.exports, seconds=600)
    project.notices()
    child = project.start("users.csv")
    eventually(lambda: sandbox.requests)
    time.sleep(0.3)
    child.send(number)
    result = child.wait(30)
    assert result.status == 128 + number
    assert [notice["color"] for notice in sandbox.hipchat] == ["yellow", "red"]
    assert f"{number.name} ended it" in result.err
    assert not list(project.exports.iterdir())
    assert not result.not_imported
    assert [one.path for one in sandbox.requests] == ["/bucket/users.csv"]


def test_a_download_that_the_disk_has_no_room_for_ends_the_run(
    project: Project, sandbox: Sandbox, disk: Path
) -> None:
    download(project, disk, seconds=0)
    result = project.run("users.csv")
    assert result.status == 1
    assert [one.path for one in sandbox.requests] == ["/bucket/users.csv"]
    (line,) = result.err.splitlines()
    assert str(disk) in line
    assert NO_SPACE in line
