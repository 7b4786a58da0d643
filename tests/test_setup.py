"""The set-up: installboto, the shipped settings, and what lies at the repository's top level."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

Finished = subprocess.CompletedProcess[str]
TOP_LEVEL = ".ci .env.example .gitattributes .gitignore README.md config.ini export_csv.py"
TOP_LEVEL += " installboto.bat installboto.sh logs requirements.txt tests"

SETTINGS = {
    "aws": "use_aws access_key secret_key bucket folder region endpoint_url tmp_folder",
    "local": "folder",
    "file": "select_latest time_format max_age_hours name",
    "csv": "delimiter encoding headings decimal empty timezone min_rows not_imported_folder",
    "intercom": "api_id api_key access_token user_url api_version timeout retries concurrency"
    " skip_unchanged state_file unarchive create_attributes",
    "hipchat": "use_hipchat api_key room_id from api_url",
    "slack": "use_slack webhook_url channel username icon_url icon_emoji",
    "log": "use_logs folder keep_days",
    "user": "user_id email name signed_up_at last_seen_ip",
    "custom_attributes": "plan bookings_count rating is_owner last_booking_at",
}

SECRETS = ["INTERCOM_ACCESS_TOKEN", "INTERCOM_API_ID", "INTERCOM_API_KEY", "HIPCHAT_API_KEY"]
SECRETS += ["SLACK_WEBHOOK_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]


#### installboto.sh

# Runs what `python -c` would run, in a Python that seems older or lacks ensurepip.
DISGUISE = """
import sys
if {version}:
    sys.version_info = {version}
if {without_venv}:
    sys.modules["ensurepip"] = None
if "-c" not in sys.argv:
    sys.exit("this Python should not have been asked to make a .venv")
code = sys.argv[sys.argv.index("-c") + 1]
sys.argv = ["-c"]
exec(code)
"""

MODULES = ["boto3", "requests", "dotenv"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a blank in its name that holds installboto.sh and a tiny package for it."""
    if sys.platform == "win32":
        pytest.skip("takes a POSIX shell")
    folder = tmp_path / "user import"
    folder.mkdir()
    shutil.copy(ROOT / "installboto.sh", folder)
    wheel = make_wheel(tmp_path)
    (folder / "requirements.txt").write_text(f"tiny @ {wheel.as_uri()}\n")
    return folder


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH with the system's tools that installboto.sh calls, and no Python."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("cat", "dirname", "readlink", "rm"):
        (programs / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is missing"))
    return programs


def make_wheel(folder: Path) -> Path:
    """A package `tiny` that pip installs without a network, with modules named as the real ones."""
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    about = "tiny-1.0.dist-info"
    files = {f"{module}.py": "" for module in MODULES}
    files[f"{about}/METADATA"] = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
    files[f"{about}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


def add_python(path: Path, *, version: tuple[int, ...] = (), without_venv: bool = False) -> None:
    """Puts a Python at `path` that seems to be of another version, or to have no venv module."""
    disguise = path.with_name(f"{path.name}_disguise.py")
    disguise.write_text(DISGUISE.format(version=version, without_venv=without_venv))
    add_program(path, f'exec "{sys.executable}" "{disguise}" "$@"')


def add_program(path: Path, command: str) -> None:
    """Puts a program at `path` that runs the shell command."""
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


def install(folder: Path, script: str = "installboto.sh", **environment: str) -> Finished:
    """Runs the folder's installboto.sh from another folder."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHON"}
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
    """Whether the folder's .venv has the packages."""
    command = [str(folder / ".venv/bin/python"), "-I", "-c", f"import {', '.join(MODULES)}"]
    return subprocess.run(command, capture_output=True).returncode == 0


def failed_with(finished: Finished, start: str) -> list[str]:
    """What is said before the last line, which begins like this; exit status 1."""
    assert (finished.returncode, finished.stdout) == (1, "")
    *lines, last = finished.stderr.splitlines()
    assert last.startswith(f"installboto: {start}")
    return lines


def assert_refused(finished: Finished, folder: Path, *words: str) -> None:
    """One line that holds the words, exit status 1, and nothing left behind."""
    assert failed_with(finished, "") == []
    assert [word for word in words if word not in finished.stderr] == []
    assert not (folder / ".venv").exists()


def test_no_python_at_all_is_said_in_one_line(folder: Path, programs: Path) -> None:
    finished = install(folder, PATH=str(programs))
    assert_refused(finished, folder, "install 3.10 or later", "apt install python3 python3-venv")


@pytest.mark.parametrize("name", ["python3", "python"])
@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 18)])
def test_a_python_that_is_too_old_is_said_in_one_line(
    folder: Path, programs: Path, name: str, version: tuple[int, int, int]
) -> None:
    add_python(programs / name, version=version)
    finished = install(folder, PATH=str(programs))
    written = ".".join(map(str, version))
    assert_refused(finished, folder, "Python 3.10 or later", f"{name} is {written};", "install")


@pytest.mark.parametrize(
    ("name", "package"), [("python3", "python3-venv"), ("python3.12", "python3.12-venv")]
)
def test_python_without_venv(folder: Path, programs: Path, name: str, package: str) -> None:
    add_python(programs / name, without_venv=True)
    finished = install(folder, PATH=str(programs))
    assert_refused(finished, folder, f"{name} has no venv module", f"apt install {package},")


def test_a_venv_module_is_missing_rather_than_a_newer_python(folder: Path, programs: Path) -> None:
    add_python(programs / "python3", version=(3, 8, 18))
    add_python(programs / "python3.11", without_venv=True)
    finished = install(folder, PATH=str(programs))
    assert_refused(finished, folder, "python3.11 has no venv module")


def test_named_python_is_the_only_one_tried(folder: Path, programs: Path) -> None:
    old = programs / "old"
    add_python(old, version=(3, 9, 1))
    add_python(programs / "python3")
    finished = install(folder, PATH=str(programs), PYTHON=str(old))
    assert_refused(finished, folder, f"{old} is 3.9.1")
    finished = install(folder, PATH=str(programs), PYTHON="/no/such/python")
    assert_refused(finished, folder, "PYTHON=/no/such/python does not run")


def test_a_copy_beside_no_requirements_is_said_in_one_line(folder: Path) -> None:
    (folder / "requirements.txt").unlink()
    assert_refused(install(folder), folder, f"no requirements.txt in {folder};")


def test_install_again_and_with_a_failing_pip(folder: Path, programs: Path) -> None:
    # As with pyenv, a name on PATH may run no Python at all; and plain python3 is too old.
    add_program(programs / "python3.13", "exit 127")
    add_python(programs / "python3", version=(3, 9, 18))
    add_program(programs / "python3.10", f'exec "{sys.executable}" "$@"')
    # A package on PYTHONPATH is not one that is installed.
    packages = folder.parent / "packages"
    with zipfile.ZipFile(folder.parent / "tiny-1.0-py3-none-any.whl") as wheel:
        wheel.extractall(packages)
    environment = {"PATH": str(programs), "PYTHONPATH": str(packages)}
    astray = dict.fromkeys(["PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"], str(folder.parent / "astray"))
    astray |= dict.fromkeys(["PIP_DRY_RUN", "PIP_USER"], "1")
    astray["PIP_PYTHON"] = "/no/such/python"

    first = install(folder, **environment, **astray)
    assert (first.returncode, first.stderr) == (0, "")
    assert len(first.stdout.splitlines()) == 1
    assert ".venv/bin/python" in first.stdout
    assert can_import(folder)
    assert not Path(astray["PIP_TARGET"]).exists()

    kept = folder / ".venv/kept"
    kept.touch()
    links = folder.parent / "links"
    links.mkdir()
    (links / "second").symlink_to(folder / "installboto.sh")
    (links / "first").symlink_to("second")
    second = install(folder, "../links/first", **environment)
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert kept.exists()

    (module,) = folder.glob(".venv/lib/python*/site-packages/dotenv.py")
    module.unlink()
    damaged = install(folder, **environment)
    assert failed_with(damaged, "pip saw no error, but the packages can't be") == []
    assert "No module named 'dotenv'" in (folder / ".venv/install.log").read_text()

    (folder / "requirements.txt").write_text("no_such_file-1.0-py3-none-any.whl\n")
    failed = install(folder, **environment)
    assert "no_such_file" in "".join(failed_with(failed, "pip could not install"))
    assert kept.exists()


@pytest.mark.parametrize("state", ["half made", "of an old Python"])
def test_a_bad_venv_is_made_anew(folder: Path, state: str) -> None:
    bin_folder = folder / ".venv/bin"
    bin_folder.mkdir(parents=True)
    if state == "of an old Python":
        add_python(bin_folder / "python", version=(3, 9, 18))
    else:
        (bin_folder / "python").symlink_to(folder / "no_such_python")
    finished = install(folder, PYTHON=sys.executable)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert can_import(folder)
    assert not (bin_folder / "python_disguise.py").exists()


#### installboto.bat


def test_bat_has_windows_line_ends_and_is_ascii() -> None:
    content = (ROOT / "installboto.bat").read_bytes()
    assert content.endswith(b"\r\n")
    assert content.count(b"\n") == content.count(b"\r") == content.count(b"\r\n")
    assert content.isascii()


def test_bat_jumps_to_labels_that_are_there() -> None:
    text = (ROOT / "installboto.bat").read_text()
    labels = re.findall(r"^:(\w+)$", text, re.MULTILINE)
    jumps = re.findall(r"\bgoto (\w+)|\bcall :(\w+)", text)
    assert len(labels) == len(set(labels))
    assert set(labels) == {goto or call for goto, call in jumps}


#### What is shipped


def git(*arguments: str) -> str:
    """What git prints, also where the clone belongs to another user."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    command = ["git", "-c", "safe.directory=*", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def shipped_config() -> configparser.RawConfigParser:
    """config.ini, read as the design says."""
    parser = configparser.RawConfigParser(delimiters=["="], inline_comment_prefixes=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "config.ini", encoding="utf-8")
    return parser


def test_nothing_else_stands_at_the_top_level() -> None:
    files = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    tops = {name.split("/")[0] for name in files.split("\0") if name and (ROOT / name).exists()}
    assert tops == set(TOP_LEVEL.split())


def test_line_ends_survive_a_clone() -> None:
    names = ["installboto.bat", "installboto.sh", "tests/run.sh", ".ci/run"]
    assert git("check-attr", "eol", *names).splitlines() == [
        "installboto.bat: eol: crlf",
        "installboto.sh: eol: lf",
        "tests/run.sh: eol: lf",
        ".ci/run: eol: lf",
    ]


def test_runs_leave_nothing_for_git_to_add() -> None:
    left = [
        ".env",
        ".venv/bin/python",
        "logs/2026-11-01T09-00-00_debug.log",
        "not_imported/users_2026-11-01T09-00-00.csv",
        "sent_users.sqlite3",
        "sent_users.sqlite3-wal",
        "__pycache__/export_csv.cpython-310.pyc",
        "tests/.cache/pytest/README.md",
    ]
    assert git("check-ignore", "--no-index", *left).splitlines() == left
    kept = git("ls-files", "--cached", "--others", "--exclude-standard", "logs")
    assert kept == "logs/.gitkeep\n"


def test_config_has_the_settings_of_the_design() -> None:
    parser = shipped_config()
    shipped = {section: list(parser[section]) for section in parser.sections()}
    assert shipped == {section: keys.split() for section, keys in SETTINGS.items()}
    assert list(shipped) == list(SETTINGS)


def test_each_setting_has_a_comment_above_it() -> None:
    lines = (ROOT / "config.ini").read_text(encoding="utf-8").splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"\w+ =", line)]
    assert len(keys) == sum(len(keys.split()) for keys in SETTINGS.values())
    assert [lines[number] for number in keys if not lines[number - 1].startswith("# ")] == []


def test_config_comments_name_every_secret_of_the_environment() -> None:
    config = (ROOT / "config.ini").read_text(encoding="utf-8")
    for name in SECRETS:
        assert name in config or name == "AWS_SESSION_TOKEN"
    assert "https://api.intercom.io/users" in config


def test_config_holds_no_secret() -> None:
    secrets = {"access_key", "secret_key", "api_id", "api_key", "access_token", "webhook_url"}
    sections = shipped_config().values()
    assert [keys[key] for keys in sections for key in secrets & {*keys}] == [""] * 7


def test_env_example_names_every_secret_and_sets_none() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    names = [line.split("=")[0] for line in lines if "=" in line]
    assert names == [f"# {name}" for name in SECRETS]
    assert all(line == "" or line.startswith("#") for line in lines)


def test_requirements_are_three_and_bounded() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    names = [re.split(r"[^\w-]", package)[0] for package in packages]
    assert names == ["boto3", "requests", "python-dotenv"]
    assert all(re.search(r">=[\d.]+,<\d+$", package) for package in packages)


def test_scripts_can_be_executed() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert os.access(ROOT / "installboto.sh", os.X_OK)


def test_ci_calls_the_tests() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    assert commands == ['cd "$(dirname "$0")/.." && exec sh tests/run.sh']
