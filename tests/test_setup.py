"""Tests of installation and test scripts, the shipped settings, and the repository's layout."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT

Finished = subprocess.CompletedProcess[str]

#### installboto.sh

MODULES = ["boto3", "requests", "dotenv"]

# Runs the code of `python -c` as if this Python were older or had no ensurepip.
DISGUISE = """
import sys
if {version}:
    sys.version_info = {version}
if {without_venv}:
    sys.modules["ensurepip"] = None
if "-c" not in sys.argv:
    sys.exit("this Python must not be used to create .venv")
code = sys.argv[sys.argv.index("-c") + 1]
sys.argv = ["-c"]
exec(code)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a space in its name, with installboto.sh and a tiny package to install."""
    if sys.platform == "win32":
        pytest.skip("needs a POSIX shell")
    folder = tmp_path / "user import"
    folder.mkdir()
    shutil.copy(ROOT / "installboto.sh", folder)
    wheel = make_wheel(tmp_path)
    (folder / "requirements.txt").write_text(f"tiny @ {wheel.as_uri()}\n")
    return folder


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder to use as PATH, with the tools that installboto.sh calls but no Python."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("cat", "dirname", "readlink", "rm"):
        program = shutil.which(name)
        assert program, name
        (programs / name).symlink_to(program)
    return programs


def make_wheel(folder: Path) -> Path:
    """Build a package `tiny` with the real packages' modules, to install without a network."""
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    about = "tiny-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for module in MODULES:
            archive.writestr(f"{module}.py", "")
        archive.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        )
        archive.writestr(
            f"{about}/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        record = [f"{name},,\n" for name in archive.namelist()]
        archive.writestr(f"{about}/RECORD", "".join(record))
    return wheel


def add_python(
    path: Path,
    *,
    version: tuple[int, ...] = (),
    without_venv: bool = False,
) -> None:
    """Create a Python at `path` that pretends to be this version, or lacks venv."""
    disguise = path.with_name(f"{path.name}_disguise.py")
    disguise.write_text(DISGUISE.format(version=version, without_venv=without_venv))
    add_program(path, f'exec "{sys.executable}" "{disguise}" "$@"')


def add_program(path: Path, command: str) -> None:
    """Create a program at `path` that runs the shell command."""
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


def install(
    folder: Path,
    script: str = "installboto.sh",
    **environment: str,
) -> Finished:
    """Run the folder's installboto.sh from another folder."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    inherited = dict(os.environ)
    inherited.pop("PYTHON", None)
    finished = subprocess.run(
        [shutil.which("sh") or "sh", folder / script],
        cwd=elsewhere,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert list(elsewhere.iterdir()) == []
    return finished


def can_import(folder: Path) -> bool:
    """Return whether the folder's .venv has the packages."""
    python = folder / ".venv/bin/python"
    code = f"import {', '.join(MODULES)}"
    finished = subprocess.run([python, "-I", "-c", code], capture_output=True)
    return finished.returncode == 0


def assert_installed(finished: Finished, next_step: str) -> None:
    """Check for exit status 0 and one line that says what to do next."""
    assert finished.stderr == ""
    assert finished.stdout == f"Installed into .venv. Next: {next_step}\n"
    assert finished.returncode == 0


def assert_failed(finished: Finished, start: str) -> str:
    """Check that it failed and its last line begins with `start`; return the others."""
    assert finished.returncode == 1
    assert finished.stdout == ""
    *lines, last = finished.stderr.splitlines()
    assert last.startswith(f"installboto: {start}")
    return "\n".join(lines)


def assert_refused(finished: Finished, folder: Path, *words: str) -> None:
    """Check for exit status 1, one line with these words, and no .venv."""
    assert assert_failed(finished, "") == ""
    for word in words:
        assert word in finished.stderr
    assert not (folder / ".venv").exists()


def test_missing_python(folder: Path, programs: Path) -> None:
    finished = install(folder, PATH=str(programs))
    assert_refused(
        finished,
        folder,
        "install Python 3.10 or later",
        "apt install python3 python3-venv",
    )


@pytest.mark.parametrize("name", ["python3", "python"])
@pytest.mark.parametrize("version", ["2.7.18", "3.9.18"])
def test_python_too_old(folder: Path, programs: Path, name: str, version: str) -> None:
    numbers = tuple(map(int, version.split(".")))
    add_python(programs / name, version=numbers)
    finished = install(folder, PATH=str(programs))
    assert_refused(
        finished,
        folder,
        "Python 3.10 or later is required",
        f"{name} is {version};",
        "install a newer one",
    )


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("python3", "python3-venv"),
        ("python3.12", "python3.12-venv"),
    ],
)
def test_missing_venv_module(
    folder: Path, programs: Path, name: str, package: str
) -> None:
    add_python(programs / name, without_venv=True)
    finished = install(folder, PATH=str(programs))
    assert_refused(
        finished, folder, f"{name} has no venv module", f"apt install {package})"
    )


def test_missing_venv_module_is_reported_before_old_python(
    folder: Path, programs: Path
) -> None:
    add_python(programs / "python3", version=(3, 8, 18))
    add_python(programs / "python3.11", without_venv=True)
    finished = install(folder, PATH=str(programs))
    assert_refused(finished, folder, "python3.11 has no venv module")


def test_no_other_python_is_tried_if_one_is_chosen(
    folder: Path, programs: Path
) -> None:
    old = programs / "old"
    add_python(old, version=(3, 9, 1))
    add_python(programs / "python3")
    finished = install(folder, PATH=str(programs), PYTHON=str(old))
    assert_refused(finished, folder, f"{old} is 3.9.1")
    finished = install(folder, PATH=str(programs), PYTHON="/no/such/python")
    assert_refused(finished, folder, "PYTHON=/no/such/python can't be run")


def test_missing_requirements(folder: Path) -> None:
    (folder / "requirements.txt").unlink()
    finished = install(folder)
    assert_refused(finished, folder, f"no requirements.txt in {folder};")


def test_install_repair_and_fail(folder: Path, programs: Path) -> None:
    """One test for many cases, because creating a .venv takes seconds."""
    # With pyenv, a command on PATH may run no Python at all. Here, python3 is too old.
    add_program(programs / "python3.13", "exit 127")
    add_python(programs / "python3", version=(3, 9, 18))
    add_program(programs / "python3.10", f'exec "{sys.executable}" "$@"')
    # Packages on PYTHONPATH must not count as installed.
    packages = folder.parent / "packages"
    with zipfile.ZipFile(folder.parent / "tiny-1.0-py3-none-any.whl") as wheel:
        wheel.extractall(packages)
    environment = {"PATH": str(programs), "PYTHONPATH": str(packages)}
    wrong_folder = folder.parent / "wrong"
    misleading = {
        "PIP_TARGET": str(wrong_folder),
        "PIP_PREFIX": str(wrong_folder),
        "PIP_ROOT": str(wrong_folder),
        "PIP_DRY_RUN": "1",
        "PIP_USER": "1",
        "PIP_PYTHON": "/no/such/python",
    }
    # The .venv of a Python that is too old is replaced.
    bin_folder = folder / ".venv/bin"
    bin_folder.mkdir(parents=True)
    add_python(bin_folder / "python", version=(3, 9, 18))

    first = install(folder, **environment, **misleading)
    assert_installed(first, "fill in config.ini.")
    assert can_import(folder)
    assert not (bin_folder / "python_disguise.py").exists()
    assert not wrong_folder.exists()

    # A good .venv is kept, and the script may be called through links.
    kept = folder / ".venv/kept"
    kept.touch()
    links = folder.parent / "links"
    links.mkdir()
    (links / "second").symlink_to(folder / "installboto.sh")
    (links / "first").symlink_to("second")
    # The tested versions are installed if the tests are there.
    tests = folder / "tests"
    tests.mkdir()
    (tests / "sandbox.py").touch()
    (tests / "constraints.txt").write_text("tiny==1.0\nunused==1.0\n")
    second = install(folder, "../links/first", **environment)
    assert_installed(
        second,
        "try the demo (.venv/bin/python tests/sandbox.py), or fill in config.ini.",
    )
    assert kept.exists()
    (tests / "constraints.txt").write_text("tiny==2.0\n")
    untested = install(folder, **environment)
    assert "conflict" in assert_failed(
        untested, "pip failed (see above); fix it and run this"
    )
    (tests / "constraints.txt").unlink()

    (module,) = folder.glob(".venv/lib/python*/site-packages/dotenv.py")
    module.unlink()
    damaged = install(folder, **environment)
    assert (
        assert_failed(damaged, "pip succeeded, but the packages can't be imported")
        == ""
    )
    assert "No module named 'dotenv'" in (folder / ".venv/install.log").read_text()

    assert kept.exists()


def test_an_incomplete_venv_is_replaced(folder: Path, programs: Path) -> None:
    bin_folder = folder / ".venv/bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").symlink_to(folder / "no_such_python")
    fails = 'case $* in *"-m venv"*) exit 1 ;; *) echo "3.11.7 ok" ;; esac'
    add_program(programs / "python3", fails)
    finished = install(folder, PATH=str(programs))
    assert_failed(finished, "python3 -m venv failed (see above)")
    assert not (folder / ".venv").exists()


#### installboto.bat


def test_bat_is_ascii_with_windows_line_endings() -> None:
    content = (ROOT / "installboto.bat").read_bytes()
    assert content.isascii()
    assert content.endswith(b"\r\n")
    lines = content.split(b"\r\n")
    assert not any(b"\n" in line or b"\r" in line for line in lines)


def test_bat_jumps_to_existing_labels() -> None:
    text = (ROOT / "installboto.bat").read_text()
    labels = re.findall(r"^:(\w+)$", text, re.MULTILINE)
    jumps = re.findall(r"\bgoto (\w+)", text)
    calls = re.findall(r"\bcall :(\w+)", text)
    assert len(labels) == len(set(labels))
    assert set(labels) == set(jumps + calls)


def test_bat_installs_the_tested_versions() -> None:
    text = (ROOT / "installboto.bat").read_text()
    assert (
        r'if exist tests\constraints.txt set "CONSTRAINTS=-c tests\constraints.txt"'
        in text
    )
    assert "-r requirements.txt %CONSTRAINTS%" in text


#### tests/run.sh and .ci/run

# Writes each command to a file, and fails if it contains $FAILING.
FAKE_PYTHON = """
echo "$*" >>commands
case "$*" in
    *"${FAILING:-nothing}"*) exit 2 ;;
esac
"""
FAKE_INSTALLER = """
echo installboto.sh >>commands
exit "${INSTALLER_STATUS:-0}"
"""
STEPS = ["pip install", "ruff check", "ruff format", "mypy", "pytest"]


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A folder with the scripts, whose Python only records what it is asked to run."""
    if sys.platform == "win32":
        pytest.skip("needs a POSIX shell")
    for name in (".ci/run", "tests/run.sh"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "installboto.sh").write_text(FAKE_INSTALLER)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    add_program(tmp_path / ".venv/bin/python", FAKE_PYTHON)
    return tmp_path


def run_script(
    folder: Path, *command: str, **environment: str
) -> tuple[int, list[str]]:
    """Run one of the scripts; return its exit status and the commands that it ran."""
    finished = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        timeout=60,
    )
    lines = (folder / "commands").read_text().splitlines()
    # This one runs in parallel with the lint steps, and only saves time.
    commands = [line for line in lines if "--collect-only" not in line]
    return finished.returncode, commands


@pytest.mark.parametrize("command", ["sh tests/run.sh", "sh .ci/run"])
def test_run_has_all_steps(scripts: Path, command: str) -> None:
    status, commands = run_script(scripts, *command.split())
    assert status == 0
    assert commands[0] == "installboto.sh"
    assert "-r tests/requirements.txt -c tests/constraints.txt" in commands[1]
    assert len(commands) == 1 + len(STEPS)
    for step in STEPS:
        assert any(step in line for line in commands), step


@pytest.mark.parametrize("step", STEPS[1:])
def test_run_continues_after_a_failed_step_and_fails(scripts: Path, step: str) -> None:
    status, commands = run_script(scripts, "sh", "tests/run.sh", FAILING=step)
    assert status == 1
    assert len(commands) == 1 + len(STEPS)


def test_run_stops_if_the_program_is_not_installed(scripts: Path) -> None:
    status, commands = run_script(scripts, "sh", "tests/run.sh", INSTALLER_STATUS="1")
    assert status == 1
    assert commands == ["installboto.sh"]


def test_run_stops_if_the_test_tools_are_not_installed(scripts: Path) -> None:
    status, commands = run_script(scripts, "sh", "tests/run.sh", FAILING="pip install")
    assert status == 2
    assert len(commands) == 2


def test_run_passes_its_arguments_to_pytest(scripts: Path) -> None:
    _, commands = run_script(scripts, "sh", "tests/run.sh", "-n", "0", "-k", "setup")
    assert any(line.endswith("-n 0 -k setup tests") for line in commands)


def test_ci_only_calls_run() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    assert commands == ['cd "$(dirname "$0")/.." && exec sh tests/run.sh']


def test_scripts_are_executable() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert os.access(ROOT / "installboto.sh", os.X_OK)


#### Requirements


def read_requirements(name: str) -> list[str]:
    """Return the lines of a requirements file without comments and blank lines."""
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def package_name(requirement: str) -> str:
    """Return the normalized name of the package in a line of a requirements file."""
    name = re.split(r"[^\w.-]", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_requirements_are_three_packages_with_upper_bounds() -> None:
    requirements = read_requirements("requirements.txt")
    names = [package_name(line) for line in requirements]
    assert names == ["boto3", "requests", "python-dotenv"]
    for line in requirements:
        assert re.search(r">=[\d.]+,<\d+$", line), line


def test_every_requirement_has_a_tested_version() -> None:
    tested = set()
    for line in read_requirements("tests/constraints.txt"):
        pin, _, marker = line.partition(" ; ")
        assert re.fullmatch(r"[\w.-]+==[\w.]+", pin), line
        assert re.fullmatch(r'((python_version|sys_platform) \S+ "\S+")?', marker), line
        tested.add(package_name(line))
    required = read_requirements("requirements.txt")
    required += read_requirements("tests/requirements.txt")
    for line in required:
        assert package_name(line) in tested


def test_the_tested_versions_are_installed() -> None:
    if "OTHER_VERSIONS" in os.environ:
        pytest.skip(
            "tests/matrix.sh runs this with versions not in tests/constraints.txt"
        )
    text = (ROOT / "tests/constraints.txt").read_text()
    own_packages = text.partition("# tests/requirements.txt")[0]
    pins = re.findall(r"^([\w.-]+)==([\w.]+)$", own_packages, re.MULTILINE)
    assert len(pins) >= 3
    for name, version in pins:
        assert metadata.version(name) == version


#### Layout and shipped settings

TOP_LEVEL = {
    ".ci",
    ".env.example",
    ".gitattributes",
    ".gitignore",
    "README.md",
    "config.ini",
    "export_csv.py",
    "installboto.bat",
    "installboto.sh",
    "logs",
    "requirements.txt",
    "tests",
}
CONFIG_KEYS = {
    "aws": "use_aws access_key secret_key bucket folder region endpoint_url tmp_folder",
    "local": "folder",
    "file": "select_latest time_format max_age_hours name",
    "csv": "delimiter quote escape encoding headings decimal empty timezone min_rows"
    " max_not_imported not_imported_folder",
    "intercom": "api_id api_key access_token user_url api_version timeout retries concurrency"
    " skip_unchanged state_file unarchive create_attributes",
    "hipchat": "use_hipchat api_key room_id from api_url",
    "slack": "use_slack webhook_url channel username icon_url icon_emoji",
    "log": "use_logs folder keep_days",
    "user": "user_id email name signed_up_at last_seen_ip",
    "custom_attributes": "plan bookings_count rating is_owner last_booking_at",
}
SECRETS = [
    "INTERCOM_ACCESS_TOKEN",
    "INTERCOM_API_ID",
    "INTERCOM_API_KEY",
    "HIPCHAT_API_KEY",
    "SLACK_WEBHOOK_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
]
SECRET_KEYS = {
    "access_key",
    "secret_key",
    "api_id",
    "api_key",
    "access_token",
    "webhook_url",
}


def git(*arguments: str) -> str:
    """Return git's output, even if the clone belongs to another user."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    command = ["git", "-c", "safe.directory=*", *arguments]
    finished = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return finished.stdout


def shipped_config() -> configparser.RawConfigParser:
    """Return config.ini, read as export_csv.py reads it."""
    parser = configparser.RawConfigParser(
        delimiters=["="], inline_comment_prefixes=None
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "config.ini", encoding="utf-8")
    return parser


def test_top_level_layout() -> None:
    output = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = output.rstrip("\0").split("\0")
    existing = [name for name in names if (ROOT / name).exists()]
    assert {name.split("/")[0] for name in existing} == TOP_LEVEL


def test_git_keeps_line_endings() -> None:
    names = ["installboto.bat", "installboto.sh", "tests/run.sh", ".ci/run"]
    assert git("check-attr", "eol", *names).splitlines() == [
        "installboto.bat: eol: crlf",
        "installboto.sh: eol: lf",
        "tests/run.sh: eol: lf",
        ".ci/run: eol: lf",
    ]


def test_git_ignores_what_runs_create() -> None:
    created = [
        ".env",
        ".venv/bin/python",
        "logs/2026-11-01T09-00-00_debug.log",
        "not_imported/users_2026-11-01T09-00-00.csv",
        "sent_users.sqlite3",
        "sent_users.sqlite3-wal",
        "__pycache__/export_csv.cpython-310.pyc",
        "tests/.cache/pytest/README.md",
    ]
    assert git("check-ignore", "--no-index", *created).splitlines() == created
    kept = git("ls-files", "--cached", "--others", "--exclude-standard", "logs")
    assert kept == "logs/.gitkeep\n"


def test_config_has_every_setting_in_order() -> None:
    config = shipped_config()
    shipped = {section: " ".join(config[section]) for section in config.sections()}
    assert list(shipped.items()) == list(CONFIG_KEYS.items())


def test_each_setting_has_a_comment_above_it() -> None:
    text = (ROOT / "config.ini").read_text(encoding="utf-8")
    pairs = re.findall(r"^(.*)\n(\w+) =", text, re.MULTILINE)
    assert len(pairs) == len(" ".join(CONFIG_KEYS.values()).split())
    for line_above, key in pairs:
        assert line_above.startswith("# "), key


def test_config_mentions_the_environment_variables_and_the_default_url() -> None:
    text = (ROOT / "config.ini").read_text(encoding="utf-8")
    for name in SECRETS:
        assert name in text or name == "AWS_SESSION_TOKEN"
    assert "https://api.intercom.io/users" in text


def test_config_has_no_secrets() -> None:
    config = shipped_config()
    found = []
    for section in config.values():
        found += [value for key, value in section.items() if key in SECRET_KEYS]
    assert found == [""] * 7


def test_env_example_lists_every_secret_and_sets_none() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    names = [line.split("=")[0] for line in lines if "=" in line]
    assert names == [f"# {name}" for name in SECRETS]
    for line in lines:
        assert line == "" or line.startswith("#")
