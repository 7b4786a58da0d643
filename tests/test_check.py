"""--check: it finds whatever would stop a run before its first user, and changes nothing."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    FORMAT,
    NAME,
    Project,
    Result,
    assert_says,
    line_of,
    lines_of,
    posix,
)
from faults import Fault, html_page
from mock_services import MockServices

import export_csv

Sections = dict[str, dict[str, Any]]
is_root = os.name == "posix" and os.geteuid() == 0
not_root = pytest.mark.skipif(is_root, reason="root can write anywhere")


@pytest.fixture
def quiet_project(project: Project) -> Project:
    """A project without warnings: one valid file, and a config.ini with mode 0600."""
    project.users(1)
    project.configure(file={"max_age_hours": 900_000})
    project.config.chmod(0o600)
    return project


@pytest.fixture
def check_run(monkeypatch: pytest.MonkeyPatch) -> export_csv.ImportRun:
    """A run of --check in this process, with default settings."""
    monkeypatch.setattr(export_csv, "NOTICE_PAUSES", (0.01, 0.01))
    arguments = export_csv.parse_arguments(["--check"])
    return export_csv.ImportRun(
        export_csv.Settings(),
        export_csv.Problems(),
        Path("config.ini"),
        arguments,
        datetime.now(),
    )


def requests_of(project: Project) -> list[tuple[str, str, dict[str, str]]]:
    return [(one.method, one.path, one.query) for one in project.services.requests]


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the size and modification time of each file and folder.

    A folder's time shows whether a temporary file was created in it. On Windows, the unnamed copy
    of the input has a name while it is open, so folders are left out.
    """
    paths = [folder, *folder.rglob("*")]
    if os.name == "nt":
        paths = [path for path in paths if path.is_file()]
    stats = {path: path.lstat() for path in paths}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def assert_run_stops(project: Project, result: Result) -> None:
    """Assert that a run has stopped before its first user."""
    assert result.status == 1, result
    assert [one for one in project.services.requests if one.is_upsert] == []


#### What it prints


def test_check_says_that_a_run_would_work(quiet_project: Project) -> None:
    """It does so on standard output, and posts no notice."""
    project = quiet_project
    project.enable_notices()
    result = project.run("--check")
    assert (result.status, result.err) == (0, "")
    for words in "config.ini: OK", os.sep + NAME, "Intercom: ", "Hipchat: ", "Slack: ":
        line_of(result.out, words)
    assert requests_of(project) == [
        ("GET", "/me", {}),
        ("GET", "/users", {"per_page": "1"}),
    ]
    assert project.services.notice_requests == []
    quiet = project.run("--check", "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")


def test_check_quiet_prints_warnings(quiet_project: Project) -> None:
    quiet_project.write("user_id,signed_up_at\nu1,soon\n")
    result = quiet_project.run("--check", "--quiet")
    assert (result.status, result.err) == (0, "")
    first, second = result.out.splitlines()
    assert_says(first, "signed_up_at", r"\b1\b")
    assert_says(second, "line 2", "soon")


MAPPED: Sections = {
    "user": {
        "user_id": "id",
        "name": "Name",
        "signed_up_at": "Joined : timestamp %d/%m/%Y",
    },
    "custom_attributes": {"n": "Count : integer", "source": "'csv'", "empty": "Empty"},
}


def columns_of(line: str, headings: str) -> list[str]:
    """Cut a line of the table at the places where its headings begin."""
    starts = [match.start() for match in re.finditer(r"\S+( \S+)*", headings)]
    ends = [*starts[1:], len(line) + 1]
    return [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]


def test_check_shows_what_would_be_sent_for_each_field(project: Project) -> None:
    written = datetime.now(timezone.utc) - timedelta(hours=49)
    project.configure(**MAPPED)
    path = project.write(
        "id,Joined,Count,Name,Empty\nu1,soon,many,,\nu2,24/11/2026,12,Zoë 日本,\n",
        f"{written:{FORMAT}}.csv",
    )
    result = project.run("--check", env={"PYTHONUTF8": "1"})
    assert (result.status, result.err) == (0, "")
    assert_says(
        result.out, f"{re.escape(str(path))}.*2 days", "2 rows", "hipchat", "slack"
    )
    lines = result.out.splitlines()
    headings = line_of(result.out, "field", "column", "type", "example", "omitted")
    first = lines.index(headings) + 1
    table = [columns_of(line, headings) for line in lines[first : first + 6]]
    assert table == [
        ["user_id", "id", "id", "u1", '"u1"', "0"],
        [
            "signed_up_at",
            "Joined",
            "timestamp %d/%m/%Y",
            "24/11/2026",
            "1795478400",
            "1",
        ],
        ["name", "Name", "string", "Zoë 日本", '"Zoë 日本"', "0"],
        ["empty", "Empty", "string", "(no value)", "", "0"],
        ["n", "Count", "integer", "12", "12", "1"],
        ["source", "(constant)", "", "", '"csv"', ""],
    ]


def table_line(*cells: str) -> export_csv.TableLine:
    return export_csv.TableLine(*cells, *[""] * (6 - len(cells)))


@pytest.mark.parametrize("length", [3, 40, 60, 5000])
def test_the_table_fits_100_characters_and_cuts_only_what_is_too_long(
    length: int,
) -> None:
    short = table_line("name", "Full name", "string", "Ada", '"Ada"', "0")
    long = table_line("notes", "Notes", "string", "x" * length, "y", "0")
    first, second = export_csv.align([short, long])
    assert max(len(first), len(second)) <= 100
    assert first.split() == ["name", "Full", "name", "string", "Ada", '"Ada"', "0"]
    assert ("x" * length in second) == (length <= 60)
    assert ("..." in second) == (length > 60)
    assert first.index("string") == second.index("string")
    assert first.index('"Ada"') == second.index("y ")


def test_the_table_is_readable_if_every_column_is_too_long() -> None:
    lines = export_csv.align([table_line(*("x" * 80,) * 6), table_line("a", "b")])
    assert len(lines[0]) <= 100
    assert lines[0].count("...") == 6


AGES = {
    timedelta(minutes=5): "5 minutes old",
    timedelta(hours=1, minutes=50): "1 hour old",
    timedelta(hours=26): "26 hours old",
    timedelta(hours=49): "2 days old",
    timedelta(hours=-3): "dated 3 hours in the future",
}


def test_ages_are_in_words() -> None:
    assert {age: export_csv.describe_age(age) for age in AGES} == AGES


def test_check_says_which_times_intercom_shows_as_numbers(project: Project) -> None:
    project.configure(
        custom_attributes={"last_booking": "b : timestamp", "b_at": "b : timestamp"}
    )
    project.write("user_id,b\nu1,1760000000\n")
    for text in project.run("--check").out, project.run().debug_log:
        assert "last_booking" in line_of(text, "shown as a number")


#### What would stop a run

# Changes to valid settings, the exit status, and a pattern for --quiet's only line.
FAILURES: dict[str, tuple[Sections, int, str]] = {
    "settings": (
        {"intercom": {"retries": "many"}},
        2,
        r"config\.ini: \[intercom\] retries: ",
    ),
    "no file": ({"local": {"folder": "nowhere"}}, 1, "file: .*nowhere"),
    "headings": ({"user": {"user_id": "customer"}}, 1, "user_id.*customer"),
    "credentials": ({"intercom": {"access_token": "another"}}, 1, "Intercom: .*401"),
    "no server": (
        {"intercom": {"user_url": "http://127.0.0.1:9/users"}},
        1,
        "Intercom: no valid",
    ),
    "version": (
        {"intercom": {"api_version": "2.14"}},
        1,
        r"api_version \(2\.14\).*/contacts",
    ),
    "log folder": (
        {"log": {"folder": "config.ini"}},
        1,
        r"\[log\] folder: .*not a folder",
    ),
    "reject folder": (
        {"csv": {"not_imported_folder": "config.ini/rejected"}},
        1,
        r"\[csv\] not_imported_folder: .*config\.ini is not a folder",
    ),
    "state file": (
        {"intercom": {"skip_unchanged": "true", "state_file": "config.ini"}},
        1,
        "config.ini.* not .*state file|state file .*config.ini",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_check_finds_what_stops_a_run(quiet_project: Project, case: str) -> None:
    """The run stops too, with the same exit status."""
    sections, status, pattern = FAILURES[case]
    project = quiet_project
    project.configure(intercom={"retries": 0})
    project.configure(**sections)
    result = project.run("--check", "--quiet")
    assert (result.status, result.err) == (status, "")
    (line,) = result.out.splitlines()
    assert re.search(pattern, line), line
    run = project.run()
    assert run.status == status, run
    assert project.services.users == {}


def test_check_goes_on_after_a_failure(quiet_project: Project) -> None:
    """The file can be checked without a token, which a new user doesn't have yet."""
    project = quiet_project
    (project.exports / NAME).unlink()
    project.configure(intercom={"access_token": "another-token"})
    result = project.run("--check")
    assert result.status == 1
    assert lines_of(result.out, "file: ", str(project.exports))
    assert lines_of(result.out, "Intercom: ", "401")
    project.users(3)
    project.configure(intercom={"access_token": None}, slack={"channel": "x"})
    result = project.run("--check")
    assert result.status == 2
    assert lines_of(result.out, "[intercom] access_token", "blank")
    assert lines_of(result.out, "3 rows")
    assert len(project.services.requests) == 1


def test_check_reports_rows_that_would_not_be_imported(quiet_project: Project) -> None:
    project = quiet_project
    project.write("user_id\nu1\nu2,x\n")
    for allowed, status in (0, 1), (1, 0):
        project.configure(csv={"max_not_imported": allowed})
        result = project.run("--check", "--quiet")
        assert result.status == status
        assert_says(result.out, "1 row would not be imported", "line 3")


def test_check_warns_if_max_age_hours_is_blank(quiet_project: Project) -> None:
    project = quiet_project
    project.configure(file={"max_age_hours": None})
    result = project.run("--check", "--quiet")
    assert result.status == 0
    line_of(result.out, "[file] max_age_hours")
    named = project.run("--check", "--quiet", NAME)
    assert (named.status, named.out) == (0, "")


#### Intercom

# The faults of GET /me and of GET /users, 1 if a run would stop, and a pattern for the only line.
ERROR_LIST = (
    b'{"type": "error.list", "errors": [{"code": "not_found", "message": "No"}]}'
)
RESPONSES: dict[str, tuple[Fault, Fault, int, str]] = {
    "a portal's page": (html_page(), Fault(), 1, "Intercom: .*Sign in"),
    "a JSON object from elsewhere": (Fault(body=b"{}"), Fault(), 1, "Intercom: "),
    "an outage": (Fault(status=503), Fault(), 1, "Intercom: .*503"),
    "a token without rights": (Fault(status=403), Fault(), 1, "Intercom: .*403"),
    "a token that may not read users": (
        Fault(),
        Fault(status=403),
        0,
        "403.*may still work",
    ),
    "a gateway that takes POST alone": (
        Fault(),
        Fault(status=405, body=b"POST"),
        0,
        "405",
    ),
    "a gateway without that page": (Fault(), html_page("Not found", 404), 0, "404"),
    "a portal that lets /me through": (
        Fault(),
        html_page(),
        0,
        "Sign in.*may still work",
    ),
    "an outage of one page": (Fault(), Fault(status=500), 0, "500.*may still work"),
    "no such page in Intercom": (Fault(), Fault(status=404, body=ERROR_LIST), 1, "404"),
    "not for this admin": (Fault(), Fault(status=405, body=ERROR_LIST), 1, "405"),
    "a token that just expired": (Fault(), Fault(status=401), 1, "401"),
    "another 400": (Fault(), Fault(status=400, code="parameter_invalid"), 0, "400"),
    "an invalid version": (
        Fault(),
        Fault(status=400, code="intercom_version_invalid"),
        1,
        "1.4",
    ),
}


@dataclass
class Report(export_csv.CheckReport):
    """Collects the lines of --check, by their kind."""

    good: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def ok(self, line: str) -> None:
        self.good.append(line)

    def warning(self, line: str) -> None:
        self.warnings.append(line)

    def problem(self, line: str) -> None:
        self.problems.append(line)


@pytest.mark.parametrize("case", RESPONSES)
def test_check_asks_intercom_once(
    services: MockServices, check_run: export_csv.ImportRun, case: str
) -> None:
    me, page, status, pattern = RESPONSES[case]
    check_run.settings.intercom.access_token = services.token
    check_run.settings.intercom.user_url = services.users_url
    services.faults_on_me = True
    services.faults = [me, page]
    report = Report()
    export_csv.check_intercom(check_run, report)
    (line,) = report.problems + report.warnings
    assert len(report.problems) == status, line
    assert re.search(pattern, line), line
    paths = [request.path for request in services.requests]
    assert paths == ["/me", "/users"][: 1 + (me == Fault())]


def test_check_asks_for_the_attributes_of_contacts(project: Project) -> None:
    project.users(1)
    project.services.attributes.update({"plan": "string", "age": "string"})
    project.configure(
        intercom={"user_url": project.services.contacts_url},
        custom_attributes={"plan": "name", "age": "user_id : string", "city": "name"},
    )
    for status, create in (1, "false"), (0, "true"):
        project.configure(intercom={"create_attributes": create})
        result = project.run("--check")
        assert result.status == status
        line = line_of(result.out, "Intercom", "city")
        assert "plan" not in line
        assert ("create_attributes = true" in line) == (create == "false")
    assert {one.method for one in project.services.requests} == {"GET"}


#### Files and folders that a run writes


def file_instead_of_folder(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file"


def folder_below_a_file(folder: Path) -> Path:
    return file_instead_of_folder(folder) / "below" / "it"


def link_to_nowhere(folder: Path) -> Path:
    (folder / "link").symlink_to("nowhere")
    return folder / "link"


def loop_of_links(folder: Path) -> Path:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")
    return folder / "one"


def long_name(folder: Path) -> Path:
    return folder / ("x" * 300)


def new_folders(folder: Path) -> Path:
    return folder / "a" / "b" / "c"


def link_to_a_folder(folder: Path) -> Path:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    return folder / "link" / "new"


UNWRITABLE: dict[Callable[[Path], Path], str] = {
    file_instead_of_folder: "file is not a folder",
    folder_below_a_file: "file is not a folder",
    link_to_nowhere: "link is a broken link",
    loop_of_links: "can't use .*one: Too many levels",
    long_name: "can't use .*xxx: File name too long",
}


@posix("needs symbolic links and POSIX error messages")
@pytest.mark.parametrize("make", UNWRITABLE, ids=lambda make: make.__name__)
def test_an_unusable_folder_is_reported(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    problem = export_csv.write_problem(export_csv.WriteCheck("[log] folder", path))
    assert re.search(UNWRITABLE[make], problem), problem


@posix("needs symbolic links")
@pytest.mark.parametrize(
    "make", [new_folders, link_to_a_folder], ids=lambda make: make.__name__
)
def test_folders_that_can_be_created_are_fine(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    before = snapshot(tmp_path)
    assert export_csv.write_problem(export_csv.WriteCheck("[log] folder", path)) == ""
    state = export_csv.WriteCheck("[intercom] state_file", path, path / "state")
    assert export_csv.write_problem(state) == ""
    assert snapshot(tmp_path) == before


def test_a_folder_of_another_account_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """os.access is replaced: the tests may run as root, who can write anywhere."""

    def access(path: Path, mode: int) -> bool:
        return path != tmp_path

    monkeypatch.setattr(os, "access", access)
    check = export_csv.WriteCheck("[log] folder", tmp_path / "new" / "logs")
    assert_says(
        export_csv.write_problem(check),
        f"{re.escape(str(tmp_path))} .*not writable by this account",
    )
    state = tmp_path / "sent_users.sqlite3"
    state.touch()
    check = export_csv.WriteCheck("[intercom] state_file", tmp_path, state)
    assert_says(
        export_csv.write_problem(check), f"{re.escape(str(tmp_path))} .*not writable"
    )


def test_a_state_file_that_is_read_only_or_a_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    check = export_csv.WriteCheck("[intercom] state_file", tmp_path, state)
    state.mkdir()
    assert_says(
        export_csv.write_problem(check), f"{re.escape(str(state))} is not a file"
    )
    state.rmdir()
    state.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != state)
    assert_says(
        export_csv.write_problem(check), f"{re.escape(str(state))} is not writable"
    )


@not_root
@posix("sets permissions")
def test_check_finds_folders_that_this_account_may_not_write(
    quiet_project: Project,
) -> None:
    project = quiet_project
    locked = project.folder / "locked"
    locked.mkdir(mode=0o500)
    project.configure(
        log={"folder": "locked"},
        csv={"not_imported_folder": "locked/rejected"},
        intercom={"skip_unchanged": "true", "state_file": "locked/state"},
    )
    result = project.run("--check", "--quiet")
    assert result.status == 1
    for place in "[log] folder", "[csv] not_imported_folder", "[intercom] state_file":
        line_of(result.out, place, str(locked), "not writable")
    assert_run_stops(project, project.run())


def damage(state: Path) -> None:
    state.write_bytes(state.read_bytes()[:100] + b"x" * 5000)


def make_another_database(state: Path) -> None:
    state.unlink()
    database = sqlite3.connect(state)
    database.execute("CREATE TABLE users (name TEXT)")
    database.commit()
    database.close()


def make_a_text_file(state: Path) -> None:
    state.write_text("not a database, whatever its name says\n" * 20)


@pytest.mark.parametrize(
    "break_state",
    [damage, make_another_database, make_a_text_file],
    ids=lambda break_state: break_state.__name__,
)
def test_check_finds_an_unusable_state_file(
    quiet_project: Project, break_state: Callable[[Path], None]
) -> None:
    project = quiet_project
    project.configure(intercom={"skip_unchanged": "true"})
    assert project.run().status == 0
    state = project.folder / "sent_users.sqlite3"
    break_state(state)
    project.services.requests.clear()
    content = state.read_bytes()
    result = project.run("--check", "--quiet")
    assert result.status == 1
    line_of(result.out, str(state))
    assert_run_stops(project, project.run())
    assert state.read_bytes() == content


#### Who may read the secrets


@posix("Windows has no such permissions")
def test_check_warns_of_secrets_that_others_can_read(quiet_project: Project) -> None:
    project = quiet_project
    project.config.chmod(0o640)
    project.write_env({"INTERCOM_API_KEY": "sk-other"})
    (project.folder / ".env").chmod(0o604)
    result = project.run("--check", "--quiet")
    assert result.status == 0
    assert len(result.out.splitlines()) == 2
    for name in "config.ini", ".env":
        line_of(
            result.out,
            f"{name}: contains secrets, and other users can read",
            f"chmod 600 {project.folder / name}",
        )


@posix("Windows has no such permissions")
@pytest.mark.parametrize(
    "dotenv", ["# INTERCOM_ACCESS_TOKEN=x\n", "INTERCOM_ACCESS_TOKEN=\nA=1\n"]
)
def test_files_without_secrets_may_be_read_by_all(
    quiet_project: Project, dotenv: str
) -> None:
    project = quiet_project
    project.configure(intercom={"access_token": ""})
    project.config.chmod(0o644)
    (project.folder / ".env").write_text(dotenv)
    (project.folder / ".env").chmod(0o644)
    env = {"INTERCOM_ACCESS_TOKEN": project.services.token}
    result = project.run("--check", "--quiet", env=env)
    assert (result.status, result.out) == (0, "")


#### Notices

# The kind of line, its text about the service, and how many test notices were posted.
TEST_NOTICES = {
    "right": ("good", "test notice sent", 1),
    "failing": ("problems", "test notice failed", 3),
    "invalid": ("good", "settings are invalid", 0),
    "disabled": ("good", "disabled", 0),
}


@pytest.mark.parametrize("service", ["hipchat", "slack"])
@pytest.mark.parametrize("state", TEST_NOTICES)
def test_check_notify_posts_to_each_service_in_use(
    services: MockServices, check_run: export_csv.ImportRun, service: str, state: str
) -> None:
    kind, said, tries = TEST_NOTICES[state]
    settings = check_run.settings
    settings.hipchat.api_url = services.hipchat_url
    settings.hipchat.api_key = services.hipchat_key
    settings.hipchat.room_id = "imports"
    settings.slack.webhook_url = services.webhook_url
    if state != "disabled":
        setattr(getattr(settings, service), f"use_{service}", True)
    if state == "failing":
        services.notice_faults = [Fault(status=404)] * 3
    if state == "invalid":
        check_run.problems.add(f"[{service}] channel", "invalid value")
    check_run.arguments.notify = True
    report = Report()
    export_csv.check_notices(check_run, report)
    (line,) = [
        line
        for line in getattr(report, kind)
        if line.startswith(f"{service.title()}: ")
    ]
    assert said in line
    assert [notice.service for notice in services.notice_requests] == [service] * tries


def test_check_notify_fails_if_a_notice_fails(project: Project) -> None:
    project.users(1)
    project.set_constants(NOTICE_PAUSES=[0.01, 0.01])
    project.enable_notices()
    project.services.notice_faults_by_service = {"slack": [Fault(status=404)] * 3}
    result = project.run("--check", "--notify")
    assert (result.status, result.err) == (1, "")
    assert lines_of(result.out, "Hipchat: test notice sent")
    assert lines_of(result.out, "Slack: test notice failed")


#### It changes nothing


def test_check_writes_no_file_and_sends_no_user(project: Project) -> None:
    """This holds even with a tmp_folder, with keep_days, and with an earlier run's state file."""
    project.configure(
        **MAPPED,
        intercom={"skip_unchanged": "true", "concurrency": 8},
        aws={"tmp_folder": "tmp"},
        log={"keep_days": 0},
    )
    (project.folder / "tmp").mkdir()
    project.write("id,Joined,Count,Name,Empty\nu1,24/11/2026,12,Ada,\n")
    assert project.run().status == 0
    project.write("id,Joined,Count,Name,Empty\nu1,24/11/2026,12,Ada,\n,soon,x,,\n")
    project.enable_notices()
    project.services.requests.clear()
    shutil.rmtree(project.folder / "logs")
    before = snapshot(project.folder)
    result = project.run("--check")
    assert result.status == 1, result
    assert snapshot(project.folder) == before
    assert [path for _, path, _ in requests_of(project)] == ["/me", "/users"]
    assert project.services.notice_requests == []
