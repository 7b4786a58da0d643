"""Fixtures: a project folder, mock services, and the script as a child process."""

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

# Tests have their bytecode cached, but no __pycache__ may appear next to the script.
WRITES_NO_BYTECODE = sys.dont_write_bytecode
sys.dont_write_bytecode = True
import export_csv  # noqa: E402, F401

sys.dont_write_bytecode = WRITES_NO_BYTECODE

import pytest  # noqa: E402
from fork_server import ForkedPopen, ForkServer, is_available  # noqa: E402
from mock_services import MockServices  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "export_csv.py"
RUN_WITH_CONSTANTS = ROOT / "tests" / "run_with_constants.py"
NAME = "users_2026-11-01T09-00-00.csv"
OLDER, NEWER = "users_2026-10-31T09-00-00.csv", "users_2026-11-02T09-00-00.csv"
FORMAT = "users_%Y-%m-%dT%H-%M-%S"
PASSED_ENVIRONMENT = (
    "PATH",
    "SYSTEMROOT",
    "TMPDIR",
    "TEMP",
    "LANG",
    "PYTHONPATH",
)
# subprocess.CREATE_NO_WINDOW, which exists only on Windows.
CREATE_NO_WINDOW = 0x08000000 if sys.platform == "win32" else 0
# On Windows, only a process attached to the same console can send Ctrl-C to another.
SEND_CTRL_C = """
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


# A shell ignores Ctrl-C in its background jobs, and nohup ignores SIGHUP. The script would inherit
# that, and the tests that send these signals would wait in vain.
for ignored in {"SIGINT", "SIGQUIT", "SIGHUP"} & {each.name for each in signal.Signals}:
    if signal.getsignal(signal.Signals[ignored]) == signal.SIG_IGN:
        signal.signal(signal.Signals[ignored], signal.SIG_DFL)


def posix(reason: str) -> pytest.MarkDecorator:
    """Mark a test that does not run on Windows."""
    return pytest.mark.skipif(sys.platform == "win32", reason=reason)


def not_wine(reason: str) -> pytest.MarkDecorator:
    """Mark a test of something that Windows does but Wine doesn't."""
    is_wine = False
    if sys.platform == "win32":
        is_wine = hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
    return pytest.mark.skipif(is_wine, reason=reason)


def passed_environment() -> dict[str, str]:
    """Return the variables of this environment that a child process needs."""
    return {name: os.environ[name] for name in PASSED_ENVIRONMENT if name in os.environ}


class Result(NamedTuple):
    """A finished run: its exit status, what it printed, and the folder in which it ran."""

    status: int
    out: str
    err: str
    folder: Path

    def log(self, kind: str) -> str:
        """Return the text of the newest debug or error log."""
        return max((self.folder / "logs").glob(f"*_{kind}.log")).read_text("utf-8")

    @property
    def debug_log(self) -> str:
        return self.log("debug")

    @property
    def error_log(self) -> str:
        return self.log("error")

    @property
    def reject_files(self) -> list[Path]:
        """The reject files, oldest first."""
        paths = sorted((self.folder / "not_imported").glob("*.csv"))
        return [path for path in paths if not path.stem.endswith("_reasons")]

    def rejected_rows(self) -> list[list[str]]:
        """Return the rows of the newest reject file, headings included."""
        with self.reject_files[-1].open(encoding="utf-8", newline="") as file:
            return list(csv.reader(file))

    def reasons(self) -> list[list[str]]:
        """Return the rows of the newest file of reasons: line, user and reason."""
        path = self.reject_files[-1]
        reasons_path = path.with_name(f"{path.stem}_reasons.csv")
        with reasons_path.open(encoding="utf-8-sig", newline="") as file:
            headings, *rows = csv.reader(file)
        assert headings == ["line", "user", "reason"]
        return rows

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of the summary line: added or updated, unchanged, not imported."""
        line = line_of(self.out + self.err, " added or updated, ")
        words = line.rpartition(": ")[2].split()
        return int(words[0]), int(words[4]), int(words[6])

    def dry_users(self) -> list[dict[str, Any]]:
        """Return the request bodies that a dry run has printed."""
        assert "Traceback" not in self.err, self
        return [json.loads(line) for line in self.out.split("\n")[:-1]]


def needs_interpreter(env: Mapping[str, str]) -> bool:
    """Return whether these variables take effect only in a new interpreter."""
    names = {name for name in env if name.startswith("PYTHON")}
    if names == {"PYTHONPATH"}:
        # A fork can still import a sitecustomize that replaces functions, but it can't replace a
        # package that is already imported.
        return not Path(env["PYTHONPATH"], "sitecustomize.py").exists()
    return bool(names)


class Project:
    """A folder in which export_csv.py is run, with config.ini and CSV files in it.

    The config has [local] folder = exports, the mock's /users URL and token, and timeout = 0.01,
    and logging is enabled; `configure` changes keys and rewrites it.

    Most runs are forked from a process that has imported the script, which saves half a second
    each. After `run_from_file`, with a custom `command`, or with a variable that takes effect only
    in a new interpreter, the script is started as a user would start it.
    """

    def __init__(
        self, folder: Path, services: MockServices, server: ForkServer | None
    ) -> None:
        self.folder = folder
        self.server = server
        self.constants: dict[str, object] = {}
        self.command: list[str | Path] = []
        self.services = services
        self.exports = folder / "exports"
        self.exports.mkdir()
        self.settings: dict[str, dict[str, object]] = {
            "local": {"folder": "exports"},
            "file": {"time_format": FORMAT},
            "intercom": {
                "access_token": services.token,
                "user_url": services.users_url,
                "timeout": 0.01,
            },
        }
        self.configure()

    @property
    def config(self) -> Path:
        return self.folder / "config.ini"

    def configure(self, **sections: Mapping[str, object]) -> None:
        """Set keys, as in configure(intercom={"retries": 3}); None removes a key."""
        for section, keys in sections.items():
            section_values = self.settings.setdefault(section, {})
            section_values.update(keys)
            for key in [key for key, value in section_values.items() if value is None]:
                del section_values[key]
        lines = []
        for section, section_values in self.settings.items():
            lines += [
                f"[{section}]",
                *(f"{key} = {value}" for key, value in section_values.items()),
            ]
        self.config.write_text("\n".join(lines) + "\n", "utf-8")

    def write_env(self, values: Mapping[str, str]) -> None:
        """Write a .env next to the config file."""
        lines = [f"{name}={value}\n" for name, value in values.items()]
        (self.folder / ".env").write_text("".join(lines), "utf-8")

    def set_constants(self, **constants: object) -> None:
        """Run the script with other constants from now on, so that tests don't wait for minutes."""
        self.constants = constants

    def run_from_file(self) -> None:
        """From now on, start the script as a user would, in a new interpreter."""
        self.server = None

    @property
    def script_command(self) -> list[str | Path]:
        """The command that starts the script, with the constants that were set."""
        if self.constants:
            return [sys.executable, RUN_WITH_CONSTANTS, json.dumps(self.constants)]
        return [sys.executable, SCRIPT]

    def enable_notices(self) -> None:
        """Enable Hipchat and Slack notices, both sent to the mock."""
        self.configure(
            hipchat={
                "use_hipchat": "true",
                "api_key": self.services.hipchat_key,
                "room_id": "imports",
                "api_url": self.services.hipchat_url,
            },
            slack={"use_slack": "true", "webhook_url": self.services.webhook_url},
        )

    def write(self, content: str | bytes, name: str = NAME) -> Path:
        """Write a file to the exports folder."""
        path = self.exports / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        # The script waits if a file has just changed, since it may be incomplete.
        minutes_ago = time.time() - 600
        os.utime(path, (minutes_ago, minutes_ago))
        return path

    def users(self, count: int, name: str = NAME) -> Path:
        """Write a file of `count` valid users u1, u2, ... with user_id, email and name."""
        rows = "".join(f"u{n},u{n}@example.com,User {n}\n" for n in range(1, count + 1))
        return self.write("user_id,email,name\n" + rows, name)

    def start(
        self,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        **streams: IO[bytes] | int,
    ) -> Child:
        """Start the script in the folder, with only the environment that it needs."""
        home = dict.fromkeys(("HOME", "USERPROFILE"), str(self.folder))
        options: dict[str, Any] = {
            "cwd": self.folder,
            "env": {**passed_environment(), **home, **(env or {})},
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **streams,
        }
        command = ["--config", str(self.config), *map(str, arguments)]
        process: subprocess.Popen[bytes]
        if self.server and not self.command and not needs_interpreter(env or {}):
            process = ForkedPopen(
                self.server, command, constants=self.constants, **options
            )
        else:
            command = [*map(str, self.command or self.script_command), *command]
            process = subprocess.Popen(
                command, creationflags=CREATE_NO_WINDOW, **options
            )
        return Child(process, self.folder)

    def run(self, *arguments: object, env: Mapping[str, str] | None = None) -> Result:
        """Run the script with these arguments and wait for it to exit."""
        return self.start(*arguments, env=env).wait()


class Child:
    """A run in progress."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder

    def send(self, number: signal.Signals) -> None:
        send(self.process, number)

    def wait(self, seconds: float = 100) -> Result:
        """Wait for the run to end. If it doesn't in time, kill it and fail the test."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            if isinstance(self.process, ForkedPopen):
                self.process.send_signal(signal.SIGUSR1)  # it prints where it hangs
                time.sleep(1)
            self.process.kill()
            out, err = self.process.communicate()
            pytest.fail(f"the run hung; it had printed {out!r} and {err!r}")
        # None: the stream was redirected.
        return Result(
            self.process.returncode,
            as_text(out or b""),
            as_text(err or b""),
            self.folder,
        )


def send(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    """Send a signal. On Windows, send Ctrl-C or Ctrl-Break to a process with its own console."""
    if sys.platform == "win32":
        event = {
            signal.SIGINT: signal.CTRL_C_EVENT,
            signal.SIGBREAK: signal.CTRL_BREAK_EVENT,
        }
        arguments = [str(process.pid), str(event[number].value)]
        subprocess.run([sys.executable, "-c", SEND_CTRL_C, *arguments], check=True)
    else:
        process.send_signal(number)


def as_text(printed: bytes) -> str:
    """Decode what a child printed; on Windows, only a dry run prints UTF-8."""
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
    """Return the request bodies that Intercom received, in order."""
    return [request.body for request in project.services.requests]


def imported(project: Project) -> list[str]:
    """Return the user_id of each user that Intercom received."""
    return [user["user_id"] for user in sent(project)]


def lines_of(text: str, *words: object) -> list[str]:
    """Return the lines that contain all these words."""
    return [
        line for line in text.splitlines() if all(str(word) in line for word in words)
    ]


def line_of(text: str, *words: object) -> str:
    """Return the only line that contains all these words."""
    lines = lines_of(text, *words)
    assert len(lines) == 1, (words, text)
    return lines[0]


def assert_says(text: str, *patterns: str) -> None:
    """Assert that the text, without NAME, matches each pattern, ignoring case."""
    text = text.replace(NAME, "")
    missing = [words for words in patterns if not re.search(words, text, re.IGNORECASE)]
    assert missing == [], text


def stop_message(project: Project, result: Result) -> str:
    """Return the only line printed by a run that stopped before sending anything."""
    assert (result.status, project.services.requests) == (1, []), result
    assert "Traceback" not in result.out
    assert "unexpected" not in result.err
    return line_of(result.err)


def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until the condition is true; fail the test if it never is."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.01)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the installation, which takes as long as a hundred other tests."""
    items.sort(key=lambda item: item.path.name != "test_setup.py")


@pytest.fixture
def services() -> Iterator[MockServices]:
    """Start separate mock services for each test."""
    with MockServices() as started:
        yield started


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer | None]:
    """Start the process that runs are forked from, on systems that support it."""
    if not is_available():
        yield None
        return
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def project(
    tmp_path: Path, services: MockServices, fork_server: ForkServer | None
) -> Project:
    """Make a folder with a config.ini for the mock services; tests add the CSV files."""
    return Project(tmp_path, services, fork_server)
