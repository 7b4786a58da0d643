"""What the tests share: a folder with a config.ini, a stand-in for the services, and the program
as a child process, as its user would start it."""

from __future__ import annotations

import csv
import ctypes
import json
import locale
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest
from sandbox import Sandbox

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "export_csv.py"
NAME = "users_2026-11-01T09-00-00.csv"
OLDER, NEWER = "users_2026-10-31T09-00-00.csv", "users_2026-11-02T09-00-00.csv"
FORMAT = "users_%Y-%m-%dT%H-%M-%S"
PASSED_ON = ("PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "LANG", "COVERAGE_PROCESS_START", "PYTHONPATH")
OWN_CONSOLE = 0x08000000 if sys.platform == "win32" else 0  # of Windows' process flags
# Windows knows no other way to press Ctrl-C for a process: from within its console.
PRESS = """
import ctypes, signal, sys
kernel = ctypes.WinDLL("kernel32", use_last_error=True)
process, event = map(int, sys.argv[1:])
signal.signal(signal.SIGBREAK, signal.SIG_IGN)
kernel.FreeConsole()
if not (
    kernel.AttachConsole(process)
    and kernel.SetConsoleCtrlHandler(None, True)
    and kernel.GenerateConsoleCtrlEvent(event, 0)
):
    raise ctypes.WinError(ctypes.get_last_error())
"""


def posix(reason: str) -> pytest.MarkDecorator:
    """Marks what is not to run on Windows."""
    return pytest.mark.skipif(sys.platform == "win32", reason=reason)


def not_wine(reason: str) -> pytest.MarkDecorator:
    """Marks what real Windows does, and Wine doesn't."""
    is_wine = False
    if sys.platform == "win32":
        is_wine = hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
    return pytest.mark.skipif(is_wine, reason=reason)


def passed_on() -> dict[str, str]:
    """What of this environment a child process needs."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


class Result(NamedTuple):
    """How a run ended: its exit status, what it printed, and the folder in which it ran."""

    status: int
    out: str
    err: str
    folder: Path

    def log(self, kind: str) -> str:
        """The text of the newest debug or error log."""
        return max((self.folder / "logs").glob(f"*_{kind}.log")).read_text("utf-8")

    @property
    def debug_log(self) -> str:
        return self.log("debug")

    @property
    def error_log(self) -> str:
        return self.log("error")

    @property
    def not_imported(self) -> list[Path]:
        """The files of rows that were not imported, oldest first."""
        return sorted((self.folder / "not_imported").glob("*.csv"))

    def not_imported_rows(self) -> list[list[str]]:
        """The rows of the newest of these files, headings included."""
        with self.not_imported[-1].open(encoding="utf-8", newline="") as file:
            return list(csv.reader(file))

    def counts(self) -> tuple[int, int, int]:
        """Added or updated, unchanged, not imported, as the summary line has them."""
        line = line_of(self.out + self.err, " added or updated, ")
        words = line.rpartition(": ")[2].split()
        return int(words[0]), int(words[4]), int(words[6])

    def dry_users(self) -> list[dict[str, Any]]:
        """The bodies that a dry run has printed."""
        assert "Traceback" not in self.err, self
        return [json.loads(line) for line in self.out.split("\n")[:-1]]


class Project:
    """A folder in which export_csv.py is run, with config.ini and CSV files in it.

    The config has [local] folder = exports, a /users stand-in with its token, timeout = 0.01 and
    logs on; `configure` changes keys and writes it anew.
    """

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.script = SCRIPT
        self.sandbox = sandbox
        self.exports = folder / "exports"
        self.exports.mkdir()
        self.settings: dict[str, dict[str, object]] = {
            "local": {"folder": "exports"},
            "file": {"time_format": FORMAT},
            "intercom": {
                "access_token": sandbox.token,
                "user_url": sandbox.users_url,
                "timeout": 0.01,
            },
        }
        self.configure()

    @property
    def config(self) -> Path:
        return self.folder / "config.ini"

    def configure(self, **sections: Mapping[str, object]) -> None:
        """Set keys, as configure(intercom={"retries": 3}); None takes a key out."""
        for section, keys in sections.items():
            place = self.settings.setdefault(section, {})
            place.update(keys)
            for key in [key for key, value in place.items() if value is None]:
                del place[key]
        lines = []
        for section, place in self.settings.items():
            lines += [f"[{section}]", *(f"{key} = {value}" for key, value in place.items())]
        self.config.write_text("\n".join(lines) + "\n", "utf-8")

    def write_env(self, values: Mapping[str, str]) -> None:
        """A .env beside the config."""
        lines = [f"{name}={value}\n" for name, value in values.items()]
        (self.folder / ".env").write_text("".join(lines), "utf-8")

    def with_constants(self, **constants: object) -> None:
        """From here on, run a copy of the program with these constants, so that tests are quick."""
        text = SCRIPT.read_text("utf-8")
        for name, value in constants.items():
            text, count = re.subn(rf"^{name} = .*", f"{name} = {value!r}", text, flags=re.MULTILINE)
            assert count == 1, name
        self.script = self.folder / SCRIPT.name
        self.script.write_text(text, "utf-8")

    def notices(self) -> None:
        """Switch Hipchat and Slack on, both at the stand-in."""
        self.configure(
            hipchat={
                "use_hipchat": "true",
                "api_key": self.sandbox.hipchat_key,
                "room_id": "imports",
                "api_url": self.sandbox.hipchat_url,
            },
            slack={"use_slack": "true", "webhook_url": self.sandbox.webhook_url},
        )

    def write(self, content: str | bytes, name: str = NAME) -> Path:
        """A file among the exports."""
        path = self.exports / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def users(self, count: int, name: str = NAME) -> Path:
        """A file of `count` good users u1, u2, ... with user_id, email and name."""
        rows = "".join(f"u{n},u{n}@example.com,User {n}\n" for n in range(1, count + 1))
        return self.write("user_id,email,name\n" + rows, name)

    def start(
        self, *arguments: object, env: Mapping[str, str] | None = None, **streams: IO[bytes] | int
    ) -> Child:
        """The program, started in the folder with only the environment that it needs."""
        home = dict.fromkeys(("HOME", "USERPROFILE"), str(self.folder))
        usual = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, self.script, "--config", self.config, *map(str, arguments)],
            cwd=self.folder,
            env={**passed_on(), **home, **(env or {})},
            creationflags=OWN_CONSOLE,
            **{**usual, **streams},  # type: ignore[call-overload]
        )
        return Child(process, self.folder)

    def run(self, *arguments: object, env: Mapping[str, str] | None = None) -> Result:
        """How a run with these arguments ended."""
        return self.start(*arguments, env=env).wait()


class Child:
    """A run that is under way."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder

    def send(self, number: signal.Signals) -> None:
        send(self.process, number)

    def wait(self, seconds: float = 100) -> Result:
        """How it ended; killed, and a failed test, where it doesn't end in time."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            pytest.fail(f"the run hung; it had printed {out!r} and {err!r}")
        printed, told = (as_text(text or b"") for text in (out, err))  # None: it went elsewhere
        return Result(self.process.returncode, printed, told, self.folder)


def send(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    """Send a signal; on Windows Ctrl-C or Ctrl-Break, to what was started with OWN_CONSOLE."""
    if sys.platform == "win32":
        event = {signal.SIGINT: signal.CTRL_C_EVENT, signal.SIGBREAK: signal.CTRL_BREAK_EVENT}
        arguments = [str(process.pid), str(event[number].value)]
        subprocess.run([sys.executable, "-c", PRESS, *arguments], check=True)
    else:
        process.send_signal(number)


def as_text(printed: bytes) -> str:
    """What a child printed; on Windows, what isn't a dry run's is in the system's encoding."""
    try:
        text = printed.decode()
    except UnicodeDecodeError:
        if os.name != "nt":
            raise
        text = printed.decode(locale.getpreferredencoding(False))
    return text.replace(os.linesep, "\n")


def one_user(user_id: str) -> bytes:
    return f"user_id\n{user_id}\n".encode()


def sent(project: Project) -> list[dict[str, Any]]:
    """What Intercom was sent, in that order."""
    return [request.body for request in project.sandbox.requests]


def imported(project: Project) -> list[str]:
    """The user_id of each user that Intercom was sent."""
    return [user["user_id"] for user in sent(project)]


def lines_of(text: str, *words: object) -> list[str]:
    """The lines that hold all these words."""
    return [line for line in text.splitlines() if all(str(word) in line for word in words)]


def line_of(text: str, *words: object) -> str:
    """The one line that holds all these words."""
    lines = lines_of(text, *words)
    assert len(lines) == 1, (words, text)
    return lines[0]


def says(text: str, *patterns: str) -> None:
    """It holds each of these patterns, in any case; the usual file's own name is not looked at."""
    text = text.replace(NAME, "")
    missing = [words for words in patterns if not re.search(words, text, re.IGNORECASE)]
    assert missing == [], text


def refusal(project: Project, result: Result) -> str:
    """The one line in which a run says why it has no file; nothing was sent."""
    assert (result.status, project.sandbox.requests) == (1, []), result
    assert "Traceback" not in result.out
    assert "foresaw" not in result.err
    return line_of(result.err)


def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something has become true; a failed test where it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A stand-in of its own for each test."""
    with Sandbox() as started:
        yield started


@pytest.fixture
def project(tmp_path: Path, sandbox: Sandbox) -> Project:
    """A folder with a config.ini that fits the stand-in; tests add the CSV files."""
    return Project(tmp_path, sandbox)
