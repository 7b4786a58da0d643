"""The command line: arguments, what is printed where, exit statuses, and no traceback ever."""

from __future__ import annotations

import gzip
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import (
    NAME,
    SCRIPT,
    Project,
    assert_says,
    eventually,
    line_of,
    passed_environment,
    posix,
)
from mock_http import Request


def is_summary(line: str, imported: int, unchanged: int, not_imported: int) -> bool:
    counts = f"{imported} added or updated, {unchanged} unchanged, {not_imported} not imported"
    speed = r"in \d+:\d\d:\d\d \(\d+\.\d users/s\)"
    return bool(re.fullmatch(f"{re.escape(NAME)}: {counts} {speed}", line))


def run_in_shell(
    project: Project,
    arguments: str,
    env: dict[str, str] | None = None,
    python: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run the script from a shell; `arguments` may contain redirections."""
    return subprocess.run(
        ["sh", "-c", f"exec {sys.executable} {python} {SCRIPT} {arguments}"],
        cwd=project.folder,
        env={**passed_environment(), "HOME": str(project.folder), **(env or {})},
        capture_output=True,
        text=True,
        timeout=100,
    )


#### --help, --version and invalid arguments


def test_help_has_options_defaults_examples_and_exit_statuses(project: Project) -> None:
    result = project.run("--help", env={"COLUMNS": "80"})
    assert (result.status, result.err) == (0, "")
    assert [line for line in result.out.splitlines() if len(line) > 80] == []
    options = [
        "--config",
        "--local",
        "--dry-run",
        "--check",
        "--notify",
        "--quiet",
        "--version",
    ]
    named = [
        "filename",
        *options,
        "default: config.ini next to",
        "python export_csv.py --dry-run",
    ]
    assert [words for words in named if words not in result.out] == []
    statuses = result.out.partition("exit status:\n")[2].splitlines()
    table = dict(line.split(maxsplit=1) for line in statuses)
    assert list(table) == ["0", "1", "2", "3", "130", "143"]
    for status, words in {
        "2": "settings",
        "3": "another run",
        "130": "Ctrl-C",
        "143": "SIGTERM",
    }.items():
        assert words in table[status]


def test_version_is_printed(project: Project) -> None:
    result = project.run("--version")
    assert (result.status, result.err) == (0, "")
    assert re.fullmatch(r"export_csv\.py \d+\.\d+\.\d+\n", result.out)


INVALID = [
    ["--nonsense"],
    ["one.csv", "two.csv"],
    ["--config"],
    ["--notify"],
    ["--dry-run", "--notify"],
    ["--check", "--dry-run"],
    [""],  # from a script whose variable isn't set
]


@pytest.mark.parametrize("arguments", INVALID, ids=" ".join)
def test_invalid_arguments_exit_with_2_and_send_nothing(
    project: Project, arguments: list[str]
) -> None:
    project.enable_notices()
    project.users(1)
    result = project.run(*arguments)
    assert (result.status, result.out) == (2, ""), result
    assert "usage: export_csv.py" in result.err
    assert [*project.services.requests, *project.services.notice_requests] == []


#### --quiet and the summary


def test_quiet_prints_nothing_if_all_is_well(project: Project) -> None:
    project.users(2)
    result = project.run("--quiet")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert len(project.services.users) == 2


# The file, the exit status, and what --quiet prints.
QUIET: dict[str, tuple[str | None, int, list[str]]] = {
    "a row": (
        "user_id\nu1,x\n",
        1,
        ["1 not imported", "1 row not imported: ", "_error.log"],
    ),
    "a value": ("user_id,signed_up_at\nu1,soon\n", 0, ["1 in 'signed_up_at'"]),
    "the headings": ("heading\nu1\n", 1, ["user_id", "heading", "_error.log"]),
    "no file": (None, 1, ["users_20", "exports"]),
}


@pytest.mark.parametrize("case", QUIET)
def test_quiet_prints_warnings_and_errors(project: Project, case: str) -> None:
    content, status, expected = QUIET[case]
    if content:
        project.write(content)
    result = project.run("--quiet")
    assert (result.status, result.out) == (status, "")
    assert [words for words in expected if words not in result.err] == [], result.err


def test_a_run_ends_with_one_summary_line(project: Project) -> None:
    project.users(2)
    project.configure(intercom={"skip_unchanged": "true"})
    result = project.run()
    assert (result.status, result.err) == (0, "")
    (line,) = result.out.splitlines()
    assert is_summary(line, 2, 0, 0), line
    result = project.run()
    assert (result.status, result.err) == (0, "")
    line, unchanged = result.out.splitlines()
    assert is_summary(line, 0, 2, 0), line
    assert unchanged == "2 users unchanged since they were last sent"


@pytest.mark.parametrize("option", ["--check", "--dry-run", "--quiet"])
def test_the_reason_why_a_run_stops_is_printed(project: Project, option: str) -> None:
    project.write("user_id\n" + "u0\n" * 10)
    result = project.run(option)
    text, other = result.err, result.out
    if option == "--check":
        text, other = other, text
    assert_says(text, r"\bu0\b", r"\b10\b")
    assert (result.status, other) == (1, "")
    assert not [request for request in project.services.requests if request.is_upsert]


def test_a_character_that_the_console_cannot_encode_is_escaped(
    project: Project,
) -> None:
    project.users(1, "é.csv")
    result = project.run("é.csv", env={"PYTHONIOENCODING": "ascii"})
    assert r"\xe9.csv: 1 added or updated" in result.out


def test_a_run_continues_if_its_output_is_closed(project: Project) -> None:
    project.users(2)
    child = project.start()
    for stream in child.process.stdout, child.process.stderr:
        assert stream
        stream.close()
    assert child.process.wait(60) == 0
    assert len(project.services.users) == 2


#### No traceback, whatever happens


@posix("needs a POSIX shell")
def test_a_failure_to_print_causes_no_traceback(project: Project) -> None:
    project.users(2)
    cases = [
        ("", "--help >/dev/full", 0),
        ("-u", "--version >/dev/full", 0),
        ("", "--nonsense 2>/dev/full", 2),
        ("", f"--config {project.config} >/dev/full", 0),
        ("-u", f"--config {project.config} >/dev/full", 0),
        ("", f"--config {project.config} --check >/dev/full", 0),
        ("-u", "--config nowhere.ini 2>&-", 2),
    ]
    env = {"PYTHONWARNINGS": "error"}
    for python, arguments, status in cases:  # -u: unbuffered
        run = run_in_shell(project, arguments, env, python)
        assert (run.returncode, run.stderr) == (status, ""), arguments
    assert len(project.services.users) == 2


def test_no_python_warning_is_printed(project: Project) -> None:
    """Python 3.13 warns of formats without a year, and PYTHONWARNINGS can make that an error."""
    project.configure(
        file={"time_format": "%d-%m"}, custom_attributes={"a_at": "a : timestamp %d/%m"}
    )
    for filters in "error", "always":
        result = project.run(env={"PYTHONWARNINGS": filters})
        assert result.status == 2
        first, second = result.err.splitlines()
        assert first.startswith("config.ini: [custom_attributes] a_at: ")
        assert second.startswith("config.ini: [file] time_format: ")


@pytest.mark.parametrize("options", [["-S"], ["-S", "-I"]], ids=" ".join)
def test_the_message_about_missing_packages_names_installboto(
    tmp_path: Path, options: list[str]
) -> None:
    """-S hides the installed packages."""
    run = subprocess.run(
        [sys.executable, *options, SCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={},
    )
    assert (run.returncode, run.stdout) == (1, "")
    (line,) = run.stderr.splitlines()
    assert "installboto.sh" in line
    assert "installboto.bat" in line


def sabotage(project: Project, name: str, code: str) -> dict[str, str]:
    """Return variables that make Python import this code under this name."""
    place = project.folder / "sabotage"
    place.mkdir()
    (place / f"{name}.py").write_text(code)
    return {"PYTHONPATH": str(place)}


def test_the_message_about_a_missing_boto3_names_installboto(project: Project) -> None:
    code = "raise ModuleNotFoundError(\"No module named 'boto3'\", name='boto3')\n"
    project.configure(aws={"use_aws": "true", "bucket": "bucket"})
    result = project.run(env=sabotage(project, "boto3", code))
    assert result.status == 1
    assert_says(result.err, "boto3", "installboto")
    assert "Traceback" not in result.err


BREAK_DIGEST = """
import hashlib
sha256 = hashlib.sha256
hashlib.sha256 = lambda data=b"", **options: sha256(data, **options) if b"%s" not in data else 1 / 0
"""
# Code that breaks a module, and the last user that is saved. Before the first request, none is.
UNEXPECTED = {
    "before the first row": (
        "import gzip; gzip.GzipFile.__init__ = lambda *_, **__: 1 / 0",
        [],
    ),
    "at the first row": (BREAK_DIGEST % "u1", []),
    "at the last row": (BREAK_DIGEST % "u300", ["u300"]),
}


@pytest.mark.parametrize(("code", "last_saved"), UNEXPECTED.values(), ids=UNEXPECTED)
def test_an_unexpected_error_is_one_line_and_a_traceback_in_the_debug_log(
    project: Project, code: str, last_saved: list[str]
) -> None:
    project.enable_notices()
    project.configure(intercom={"skip_unchanged": "true"})
    users = "".join(f"u{number}\n" for number in range(1, 301))
    project.write(gzip.compress(f"user_id\n{users}".encode()), NAME + ".gz")
    result = project.run("--quiet", env=sabotage(project, "sitecustomize", code))
    assert result.status == 1
    line = line_of(result.err, "unexpected error")
    assert "ZeroDivisionError" in line
    assert "Traceback" not in result.err
    assert "Traceback" in result.debug_log
    assert "ZeroDivisionError" in result.error_log
    rows = result.rejected_rows()[1:] if result.reject_files else []
    saved = [user for (user,) in rows]
    assert saved[-1:] == last_saved
    # Each user is either saved or in Intercom, unless the run sent nothing: then it saves nothing.
    assert len(project.services.users) + len(saved) == (300 if last_saved else 0)
    assert [notice["color"] for notice in project.services.hipchat] == ["yellow", "red"]


def test_an_unexpected_error_in_the_settings_is_one_line_too(project: Project) -> None:
    code = "import dotenv.parser; dotenv.parser.parse_stream = lambda *_: 1 / 0"
    project.write_env({"A": "1"})
    result = project.run(env=sabotage(project, "sitecustomize", code))
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert "unexpected error" in line
    assert "ZeroDivisionError" in line


# A package that takes a long time to import: it waits until the test lets it fail.
SLOW_PACKAGE = """
import pathlib, time
pathlib.Path("importing").touch()
end = time.monotonic() + 60
while not pathlib.Path("go").exists() and time.monotonic() < end:
    time.sleep(0.01)
raise ImportError(name="dotenv")
"""


@posix("needs a POSIX shell")
class TestCtrlCAtStartUp:
    """Ctrl-C while the packages are imported, which is the longest part of start-up."""

    def interrupt(self, project: Project, shell: str) -> tuple[int, str]:
        """Interrupt the script during start-up; return its exit status and stderr."""
        env = {**passed_environment(), **sabotage(project, "dotenv", SLOW_PACKAGE)}
        process = subprocess.Popen(
            ["sh", "-c", shell.format(f"exec {sys.executable} {SCRIPT}")],
            cwd=project.folder,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        eventually((project.folder / "importing").exists)
        process.send_signal(signal.SIGINT)
        if "trap" in shell:
            time.sleep(0.1)
            (project.folder / "go").touch()
        _, err = process.communicate(timeout=60)
        return process.returncode, err

    def test_it_exits_with_130_and_one_line(self, project: Project) -> None:
        assert self.interrupt(project, "{}") == (130, "export_csv.py: interrupted\n")

    def test_it_exits_with_130_if_standard_error_is_closed(
        self, project: Project
    ) -> None:
        assert self.interrupt(project, "{} 2>&-") == (130, "")

    def test_it_exits_with_130_if_the_disk_is_full(self, project: Project) -> None:
        assert self.interrupt(project, "{} 2>/dev/full") == (130, "")

    def test_it_is_ignored_if_the_parent_process_ignores_it(
        self, project: Project
    ) -> None:
        status, err = self.interrupt(project, "trap '' INT; {}")
        assert status == 1
        assert "the package dotenv is missing" in err


@posix("sends a signal")
@pytest.mark.parametrize("option", ["--check", "--dry-run"])
def test_ctrl_c_ends_a_check_or_a_dry_run_at_once(
    project: Project, option: str
) -> None:
    project.run_from_file()
    project.users(20_000)
    child = project.start(option)

    def interrupt(_: Request) -> None:
        child.send(signal.SIGINT)
        time.sleep(1)

    project.services.faults_on_me = True
    project.services.fault_for = interrupt
    if option == "--dry-run":
        assert child.process.stdout
        child.process.stdout.read(1)  # the pipe fills up, as nothing more is read
        child.send(signal.SIGINT)
    result = child.wait()
    assert (result.status, result.err) == (130, "export_csv.py: interrupted\n")
