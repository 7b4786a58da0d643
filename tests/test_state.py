"""skip_unchanged skips a user only if Intercom last accepted exactly the same data."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Project, Result, eventually, line_of, lines_of, posix
from faults import Fault
from in_process import load_settings, read
from mock_http import Request
from mock_services import MockServices

from export_csv import Row, Settings, SyncState, Upload, identity_key, load_remembered

STATE = "sent_users.sqlite3"


@pytest.fixture
def skipping(project: Project) -> Project:
    """Return a project with skip_unchanged."""
    project.configure(intercom={"skip_unchanged": "true"})
    return project


def csv_of(*rows: str) -> str:
    """Return a CSV with the columns user_id, email and name."""
    return "user_id,email,name\n" + "".join(f"{row}\n" for row in rows)


def import_rows(project: Project, *rows: str) -> Result:
    """Import a file with these rows."""
    project.write(csv_of(*rows))
    return project.run()


def name_of(services: MockServices, user_id: str) -> object:
    (user,) = services.find(user_id=user_id)
    return user["name"]


def state_files(project: Project) -> list[Path]:
    return sorted(project.folder.glob(STATE + "*"))


#### What is left out, and what is not


@pytest.mark.parametrize("concurrency", [1, 8])
def test_unchanged_users_are_left_out_and_changed_ones_sent(
    skipping: Project, services: MockServices, concurrency: int
) -> None:
    skipping.configure(intercom={"concurrency": concurrency})
    first = import_rows(skipping, "u1,,Ada", "u2,,Bob", "u3,,Cy")
    assert (first.status, first.counts()) == (0, (3, 0, 0))
    second = import_rows(skipping, "u1,,Ada", "u2,,Bea", "u3,,Cy", "u4,,Di")
    assert (second.status, second.counts()) == (0, (2, 2, 0))
    assert Counter(one.body["user_id"] for one in services.requests[3:]) == {
        "u2": 1,
        "u4": 1,
    }
    third = import_rows(skipping, "u1,,Ada", "u2,,Bea", "u3,,Cy", "u4,,Di")
    assert (third.status, third.counts()) == (0, (0, 4, 0))
    assert len(services.requests) == 5
    # Users deleted in Intercom aren't noticed, so no line says that it has all users.
    assert lines_of(first.out, "unchanged since") == []
    assert line_of(third.out, "unchanged since").startswith("4 users ")
    assert "in Intercom" not in third.out


def test_a_notice_says_how_many_users_are_unchanged(
    skipping: Project, services: MockServices
) -> None:
    skipping.users(3)
    skipping.enable_notices()
    for _ in range(2):
        assert skipping.run().status == 0
    assert "unchanged since" not in services.slack[1]["text"]
    assert "3 users unchanged since they were last sent" in services.slack[3]["text"]
    assert "in Intercom" not in services.slack[3]["text"]


def test_unchanged_means_the_data_and_not_the_file(
    skipping: Project, services: MockServices
) -> None:
    skipping.write(csv_of("u1,a@example.com,Ada"))
    assert skipping.run().status == 0
    skipping.write(
        "name;x;email;user_id\n Ada ;1;a@example.com;u1\n",
        "users_2026-11-02T00-00-00.csv",
    )
    skipping.configure(csv={"delimiter": ";"})
    assert skipping.run().counts() == (0, 1, 0)
    assert len(services.requests) == 1


def test_the_order_of_keys_in_the_config_changes_no_digest(
    skipping: Project, services: MockServices
) -> None:
    fields = {"user_id": "u", "email": "e", "name": "'Ada'", "signed_up_at": "t"}
    attributes = {
        "plan": "p",
        "age": "a : integer",
        "from": "'here'",
        "at": "t : timestamp",
    }
    skipping.write("u,e,p,a,t\nu1,a@x.eu,gold,7,2026-01-02\n")
    for order in (list, reversed):
        skipping.settings["user"] = dict(order(list(fields.items())))
        skipping.settings["custom_attributes"] = dict(order(list(attributes.items())))
        skipping.settings = dict(order(list(skipping.settings.items())))
        skipping.configure()
        assert sum(skipping.run().counts()[:2]) == 1
    assert len(services.requests) == 1


def test_a_newly_mapped_field_is_a_change(
    skipping: Project, services: MockServices
) -> None:
    skipping.configure(user={"user_id": "user_id"})
    assert import_rows(skipping, "u1,,Ada").counts() == (1, 0, 0)
    skipping.configure(user={"name": "name"})
    assert skipping.run().counts() == (1, 0, 0)
    assert name_of(services, "u1") == "Ada"


@pytest.mark.parametrize("field", ["update_last_request_at", "new_session"])
def test_users_with_a_true_action_field_are_always_sent(
    skipping: Project, field: str
) -> None:
    skipping.write(f"user_id,{field}\nu1,true\nu2,false\nu3,\n")
    assert skipping.run().counts() == (3, 0, 0)
    assert skipping.run().counts() == (1, 2, 0)
    requests = skipping.services.requests
    assert [one.body["user_id"] for one in requests] == ["u1", "u2", "u3", "u1"]


def test_without_skip_unchanged_all_are_sent_and_no_state_is_kept(
    project: Project,
) -> None:
    project.users(3)
    assert project.run().counts() == (3, 0, 0)
    assert project.run().counts() == (3, 0, 0)
    assert not state_files(project)


def test_a_user_is_remembered_whatever_id_the_response_has(
    skipping: Project, services: MockServices
) -> None:
    ids = [None, 17, "\ud800", "a/b", "", ["x"], "x" * 10_000, "\0"]
    bodies = [json.dumps({"type": "user", "id": known}).encode() for known in ids]
    services.faults = [Fault(body=body, acts=True) for body in bodies]
    skipping.users(len(ids))
    result = skipping.run()
    assert (result.status, result.counts()) == (0, (len(ids), 0, 0)), result
    assert skipping.run().counts() == (0, len(ids), 0)


def test_rows_with_a_lone_surrogate_are_rejected_with_skip_unchanged_too(
    skipping: Project,
) -> None:
    """UTF-16 can contain a lone surrogate, which can't be encoded for a digest."""
    rows = [
        "user_id,email,name\n",
        "u1,,Ada\n",
        "u2\ud800,,Bob\n",
        "u3,,\udc00\n",
        "u4,,Di\n",
    ]
    skipping.configure(csv={"encoding": "utf-16"})
    skipping.write("".join(["\ufeff", *rows]).encode("utf-16-le", "surrogatepass"))
    for counts in (2, 0, 2), (0, 2, 2):
        result = skipping.run()
        assert (result.status, result.counts()) == (1, counts)
        kept = result.reject_files[-1].read_bytes().decode("utf-16", "surrogatepass")
        assert kept == rows[0] + rows[2] + rows[3]
    assert skipping.run("--local", result.reject_files[-1]).counts() == (0, 0, 2)


#### Users that must not be skipped

LOST = Fault(acts=True, drop=True)
FAILURES = {
    "rejected": (Fault(status=422), "New"),
    "request lost": (Fault(drop=True), "New"),
    "response lost": (LOST, "New"),
    "response lost, then reverted": (LOST, "Old"),
    "response truncated, then reverted": (Fault(acts=True, cut=True), "Old"),
    "HTML page, then reverted": (
        Fault(status=200, body=b"<html></html>", acts=True),
        "Old",
    ),
    "502, then reverted": (Fault(status=502, acts=True), "Old"),
    "422, then reverted": (Fault(status=422, acts=True), "Old"),
    "run stopped, then reverted": (Fault(status=403, acts=True), "Old"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_user_whose_update_failed_is_sent(
    skipping: Project, services: MockServices, case: str
) -> None:
    failure, then = FAILURES[case]
    skipping.configure(intercom={"retries": 0})
    assert import_rows(skipping, "u1,,Old").counts() == (1, 0, 0)
    services.faults = [failure]
    assert import_rows(skipping, "u1,,New").counts() == (0, 0, 1)
    last = import_rows(skipping, f"u1,,{then}")
    assert (last.status, last.counts()) == (0, (1, 0, 0))
    assert name_of(services, "u1") == then


def test_a_404_only_concerns_its_row_if_intercom_has_accepted_users_before(
    skipping: Project, services: MockServices
) -> None:
    """In that case, user_url is right, unless the 404 is an HTML page."""
    assert import_rows(skipping, "u1,,Old", "u2,,Old").counts() == (2, 0, 0)
    services.faults = [Fault(status=404)]
    assert import_rows(skipping, "u1,,New", "u2,,New").counts() == (1, 0, 1)
    services.faults = [Fault(status=404, body=b"<html>Not Found</html>")]
    result = import_rows(skipping, "u1,,Newer", "u2,,Newer")
    assert result.counts() == (0, 0, 2)
    assert "user_url" in result.err


@pytest.mark.parametrize("then", ["New", "Old"])
def test_a_user_in_flight_when_the_run_is_killed_is_sent_again(
    skipping: Project, services: MockServices, then: str
) -> None:
    assert import_rows(skipping, "u1,,Old").counts() == (1, 0, 0)
    services.faults = [Fault(delay=60)]
    skipping.write(csv_of("u1,,New"))
    child = skipping.start()
    eventually(lambda: name_of(services, "u1") == "New")
    child.process.kill()
    child.wait()
    assert import_rows(skipping, f"u1,,{then}").counts() == (1, 0, 0)
    assert name_of(services, "u1") == then


# A row for u1, and another one that Intercom considers the same user
SAME = {
    "email": ("u1,a@example.com,Ada", "email,name\na@example.com,Bea\n"),
    "email in another case": (
        "u1,a@example.com,Ada",
        "email,name\nA@Example.com,Bea\n",
    ),
    "email that only Intercom knew": ("u1,,Ada", "email,name\na@example.com,Bea\n"),
    "id": ("u1,,Ada", "id,name\nknown,Bea\n"),
}
LOST_TOO = [(same, True) for same in ("email", "email in another case", "id")]


@pytest.mark.parametrize(
    ("same", "lost"), [*((same, False) for same in SAME), *LOST_TOO]
)
def test_another_row_for_the_same_user_clears_the_digest(
    skipping: Project, services: MockServices, same: str, lost: bool
) -> None:
    """Even if the response that would show that both rows are one user was lost."""
    row, other = SAME[same]
    services.users["known"] = {"user_id": "u1", "email": "a@example.com"}
    skipping.configure(intercom={"retries": 0})
    assert import_rows(skipping, row).counts() == (1, 0, 0)
    services.faults = [LOST] * lost
    skipping.write(other)
    assert skipping.run().counts() == (not lost, 0, lost)
    assert name_of(services, "u1") == "Bea"
    assert import_rows(skipping, row).counts() == (1, 0, 0)
    assert name_of(services, "u1") == "Ada"
    skipping.write(other)
    assert skipping.run().counts() == (1, 0, 0)
    assert len(services.users) == 1


BY_EMAIL = ",a@example.com,Old"


@pytest.mark.parametrize(
    ("first", "concurrency"),
    [(BY_EMAIL, 1), (",A@example.com,Old", 2), (BY_EMAIL, 8), (f"u1{BY_EMAIL}", 8)],
)
def test_a_user_with_two_rows_ends_up_with_the_data_of_the_last(
    skipping: Project, services: MockServices, first: str, concurrency: int
) -> None:
    """The last row equals what an earlier run sent, and still has to be sent after the first."""
    skipping.configure(intercom={"concurrency": concurrency})
    services.latency = 0.05
    rows = [f"x{n},," for n in range(3)]
    assert import_rows(skipping, "u1,a@example.com,New").counts() == (1, 0, 0)
    result = import_rows(skipping, *rows, first, "u1,a@example.com,New", "y,,")
    assert result.status == 0
    assert name_of(services, "u1") == "New"


def test_an_unchanged_last_row_waits_for_the_retry_of_the_first(
    skipping: Project, services: MockServices
) -> None:
    skipping.configure(intercom={"concurrency": 4, "timeout": 0.3})
    assert import_rows(skipping, "u1,,New").counts() == (1, 0, 0)
    services.faults = [Fault(status=503)]
    assert import_rows(skipping, "u1,,Old", "u1,,New").status == 0
    assert name_of(services, "u1") == "New"


#### Several workspaces


def other_token(project: Project, services: MockServices) -> None:
    services.token = "another-token-0123456789"
    project.configure(intercom={"access_token": services.token})


def other_key(project: Project, services: MockServices) -> None:
    keys = {
        "access_token": None,
        "api_id": services.api_id,
        "api_key": services.api_key,
    }
    project.configure(intercom=keys)


def other_dialect(project: Project, services: MockServices) -> None:
    project.configure(intercom={"user_url": services.contacts_url})


@pytest.mark.parametrize("change", [other_token, other_key, other_dialect])
def test_digests_are_separate_for_each_url_and_credentials(
    skipping: Project,
    services: MockServices,
    change: Callable[[Project, MockServices], None],
) -> None:
    skipping.users(3)
    assert skipping.run().counts() == (3, 0, 0)
    change(skipping, services)
    assert skipping.run().counts() == (3, 0, 0)


def test_workspaces_do_not_affect_each_other(
    skipping: Project, services: MockServices
) -> None:
    skipping.users(3)
    assert skipping.run().counts() == (3, 0, 0)
    with MockServices() as other:
        for number in (1, 2, 3):  # Intercom's ids are unique across workspaces
            other.users[f"other{number}"] = {"user_id": f"u{number}"}
        skipping.configure(intercom={"user_url": other.users_url})
        assert skipping.run().counts() == (3, 0, 0)
    skipping.configure(intercom={"user_url": services.users_url})
    assert skipping.run().counts() == (0, 3, 0)


#### Killed, and run again


@pytest.mark.parametrize(("concurrency", "moment"), [(1, 25), (8, 9)])
def test_after_a_kill_exactly_the_missing_users_are_sent(
    skipping: Project, services: MockServices, concurrency: int, moment: int
) -> None:
    services.latency = 0.01
    skipping.configure(intercom={"concurrency": concurrency})
    skipping.users(60)
    child = skipping.start()
    eventually(lambda: services.responses[200] >= moment)
    child.process.kill()
    assert child.wait().status in {-9, 1}
    eventually(lambda: all(one.ended_at for one in services.requests))
    before = {one.body["user_id"] for one in services.requests}
    assert len(before) < 60
    sent = len(services.requests)

    result = skipping.run()
    assert result.status == 0
    assert sum(result.counts()) == 60
    after = Counter(one.body["user_id"] for one in services.requests[sent:])
    assert set(after) | before == {f"u{n}" for n in range(1, 61)}
    assert len(set(after) & before) <= concurrency
    assert set(after.values()) == {1}
    assert len(services.users) == 60
    assert skipping.run().counts() == (0, 60, 0)


KILLS_ITSELF = """
import os, sqlite3

connect, left = sqlite3.connect, [{statements}]

class Database(sqlite3.Connection):
    def execute(self, *arguments):
        if not left[0]:
            os.kill(os.getpid(), 9)
        left[0] -= 1
        return super().execute(*arguments)

sqlite3.connect = lambda *arguments, **keys: connect(*arguments, **keys, factory=Database)
"""


@pytest.mark.parametrize("statements", [3, 4, 5, 6, 7, 8, 9, 12, 14])
def test_the_state_is_usable_after_a_kill_between_any_two_statements(
    skipping: Project, services: MockServices, statements: int
) -> None:
    patch = skipping.folder / "sitecustomize.py"
    patch.write_text(KILLS_ITSELF.format(statements=statements))
    skipping.users(2)
    killed = skipping.run(env={"PYTHONPATH": str(skipping.folder)})
    assert killed.status in {-9, 9, 0}
    result = skipping.run()
    assert (result.status, sum(result.counts())) == (0, 2), result
    assert len(services.users) == 2
    assert skipping.run().counts() == (0, 2, 0)


#### State files that can't be used


def run_refused(project: Project, *words: str) -> str:
    """Return the only line of a run that can't use its state file; nothing is sent."""
    project.enable_notices()
    result = project.run()
    assert result.status == 1, result
    assert not project.services.requests
    assert "Traceback" not in result.err
    assert "unexpected" not in result.err
    (line,) = [line for line in result.err.splitlines() if "stopped" in line]
    assert all(word in line for word in words), line
    assert "red" in [notice["color"] for notice in project.services.hipchat]
    return line


def database(path: Path, *statements: str) -> bytes:
    """Return the bytes of an SQLite file created by these statements."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path.read_bytes()


VERSIONED = "PRAGMA user_version = 1"
OURS = "PRAGMA application_id = 0x49435331"
NOT_STATE_FILES: dict[str, bytes | list[str]] = {
    "text": b"no database\n",
    "bytes": bytes(range(256)) * 64,
    "header": b"SQLite format 3\0" + b"\xff" * 4080,
    "truncated": b"SQLite format 3\0",
    "without a version": ["CREATE TABLE users (name TEXT)"],
    "with other tables": ["CREATE TABLE orders (number INTEGER)", VERSIONED],
    "another users table": ["CREATE TABLE users (id TEXT, name TEXT)", VERSIONED],
    "without its table": [OURS, VERSIONED, "CREATE TABLE other (id TEXT)"],
    "with other columns": [OURS, VERSIONED, "CREATE TABLE users (key BLOB, name TEXT)"],
}


@pytest.mark.parametrize("made_of", NOT_STATE_FILES.values(), ids=NOT_STATE_FILES)
def test_a_damaged_or_foreign_file_stops_the_run_and_stays_as_it_is(
    skipping: Project, made_of: bytes | list[str]
) -> None:
    skipping.users(3)
    state = skipping.folder / STATE
    content = made_of if isinstance(made_of, bytes) else database(state, *made_of)
    state.write_bytes(content)
    run_refused(skipping, STATE, "state_file")
    assert state.read_bytes() == content
    for option in ("--dry-run", "--check"):
        result = skipping.run(option)
        assert (result.status, STATE in result.out + result.err) == (1, True), result
        assert state.read_bytes() == content


def test_the_state_of_a_newer_version_is_left_as_it_is(
    skipping: Project, services: MockServices
) -> None:
    skipping.users(3)
    assert skipping.run().status == 0
    services.requests.clear()
    content = database(skipping.folder / STATE, "PRAGMA application_id = 0x49435332")
    line = run_refused(skipping, STATE, "version")
    assert "damaged" not in line
    assert (skipping.folder / STATE).read_bytes() == content


def test_an_empty_state_file_counts_as_a_new_one(skipping: Project) -> None:
    skipping.users(3)
    (skipping.folder / STATE).touch()
    assert skipping.run().counts() == (3, 0, 0)
    assert skipping.run().counts() == (0, 3, 0)


proc = posix("Windows has no /proc")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("a file/state.db", "not a folder"),
        ("a file/folder/state.db", "not a folder"),
        ("exports", "not a file"),
        pytest.param("x" * 300, "too long", marks=posix("differs on Windows")),
        pytest.param(
            "loop/state.db", "link", marks=posix("Windows: needs administrator rights")
        ),
        pytest.param("/proc/x/y", "", marks=proc),
    ],
)
def test_a_state_file_that_cannot_be_created_stops_the_run(
    skipping: Project, place: str, reason: str
) -> None:
    skipping.users(3)
    (skipping.folder / "a file").touch()
    if place.startswith("loop"):
        (skipping.folder / "loop").symlink_to("loop")
    skipping.configure(intercom={"state_file": place})
    run_refused(skipping, "[intercom] state_file", reason)


LOCKER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the database from another process."""
    command = [sys.executable, "-c", LOCKER, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as locker:
        assert locker.stdout
        assert locker.stdout.readline().strip() == b"locked"
        yield
        locker.communicate()


def test_a_state_that_another_program_locks_stops_the_run(
    skipping: Project, services: MockServices
) -> None:
    skipping.set_constants(SQLITE_BUSY_TIMEOUT=0.2)
    skipping.users(3)
    assert skipping.run().status == 0
    services.requests.clear()
    skipping.users(4)
    with locked(skipping.folder / STATE):
        run_refused(skipping, STATE, "locked")
    assert skipping.run().counts() == (1, 3, 0)


def test_a_lock_does_not_matter_if_nothing_has_changed(skipping: Project) -> None:
    skipping.users(3)
    assert skipping.run().status == 0
    with locked(skipping.folder / STATE):
        assert skipping.run().counts() == (0, 3, 0)


def test_a_lock_in_the_middle_of_a_run_loses_no_row(
    skipping: Project, services: MockServices
) -> None:
    arrived = threading.Event()
    go_on = threading.Event()

    def hold(request: Request) -> None:
        if request.body["user_id"] == "u5":
            arrived.set()
            go_on.wait(60)

    services.fault_for = hold
    skipping.set_constants(SQLITE_BUSY_TIMEOUT=0.2)
    skipping.users(20)
    child = skipping.start()
    assert arrived.wait(30)
    with locked(skipping.folder / STATE):
        go_on.set()
        result = child.wait()
    assert (result.status, result.counts()) == (1, (5, 0, 15)), result
    assert len(result.rejected_rows()) == 16
    assert "locked" in result.err
    assert "Traceback" not in result.err
    last = skipping.run()
    assert last.status == 0
    assert last.counts() in {(15, 5, 0), (16, 4, 0)}
    assert len(services.users) == 20


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_state_never_skips_a_changed_user(
    skipping: Project, services: MockServices, seed: int
) -> None:
    count = 300
    skipping.configure(intercom={"concurrency": 4})
    rows = [f"u{n},u{n}@example.com," for n in range(count)]
    first = import_rows(skipping, *(row + "Old" for row in rows))
    assert first.counts() == (count, 0, 0)
    path = skipping.folder / STATE
    noise = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(3):
        start = noise.randrange(4096, len(content))
        content[start : start + 3000] = noise.randbytes(
            len(content[start : start + 3000])
        )
    path.write_bytes(content)

    names = ["Old" if n % 2 else "New" for n in range(count)]
    before = len(services.requests)
    result = import_rows(skipping, *map(str.__add__, rows, names))
    assert "Traceback" not in result.err
    if len(services.requests) == before:  # detected before the first user
        assert (result.status, STATE in result.err) == (1, True), result
        return
    assert sum(result.counts()) == count
    assert result.status == (1 if result.counts()[2] else 0)
    rejected = set()
    if result.reject_files:
        rejected = {row[0] for row in result.rejected_rows()}
    for number, name in enumerate(names):
        assert f"u{number}" in rejected or name_of(services, f"u{number}") == name


#### Files from version 1.1

# The key and digest that version 1.1.0 stored for each of the rows below.
OLD_URL = "http://127.0.0.1:45678/users"
OLD_TOKEN = "sandbox-token-0123456789"
OLD_ROWS = """\
user_id,email,signed_up_at,name,unsub,plan,age,score,vip,seen
u1,Ada@Example.com,2026-01-02,Ada "É",no,gold,7,1.50,yes,2026-01-02T03:04:05+01:00
,bob@example.com,,Bob,,,,,,
u3,,1767312000,,,,,,,
"""
OLD_STATE = [
    (
        "25873282d72b6d6d132cec5720f3ec752f8f6eaabf9d9c44863db5c60e801193",
        "cd06f308e577c9ffdfa45bcbd4f363e7d4f19475ec45e1a34d08d83001260091",
    ),
    (
        "475ebde2ab77526bb91de6c11991320cf4c5c5dacd74cb25c0d2edead7f9bf1d",
        "c42411dc3d178bc4cc0334d52d9ccbba4e9dfe4eda3e806dae9602c47749e438",
    ),
    (
        "9d50bcc1b913072cb5b9dab5f4d9573c854f2009ee7e920677b35462c3188211",
        "1ce2254fdadb766fafcd6cf8d5cbf032b79bae4225c0a8650233b70eb897fb29",
    ),
]
OLD_FIELDS = {
    "name": "name",
    "unsubscribed_from_emails": "unsub : boolean",
    "user_id": "user_id",
    "email": "email",
    "signed_up_at": "signed_up_at : timestamp",
}
OLD_ATTRIBUTES = {
    "vip": "vip : boolean",
    "age": "age : integer",
    "seen_at": "seen : timestamp",
    "plan": "plan",
    "score": "score : float",
}


def settings_of_old_state(path: Path) -> Settings:
    return load_settings(
        intercom={
            "access_token": OLD_TOKEN,
            "user_url": OLD_URL,
            "skip_unchanged": "true",
            "state_file": path,
        }
    )


def test_keys_and_digests_are_those_of_version_1_1(tmp_path: Path) -> None:
    """Otherwise the first run after an upgrade would send every user again."""
    settings = settings_of_old_state(tmp_path / STATE)
    reading = read(OLD_ROWS, user=OLD_FIELDS, custom_attributes=OLD_ATTRIBUTES)
    state = SyncState(settings, write=True)
    for user, (key, digest) in zip(reading.users, OLD_STATE, strict=True):
        upload = Upload(Row(2, b"", []), user)
        assert not load_remembered(upload, state, settings)
        assert (state.key(identity_key(user)).hex(), upload.digest.hex()) == (
            key,
            digest,
        )
    state.close()


@pytest.mark.parametrize("digest", [OLD_STATE[0][1], ""])
def test_digests_in_a_file_from_version_1_1_show_that_users_were_accepted(
    tmp_path: Path, digest: str
) -> None:
    """Such a file has no marker. In newer files, all digests may have been cleared."""
    path = tmp_path / STATE
    with contextlib.closing(sqlite3.connect(path)) as connection:
        table = "CREATE TABLE users (key BLOB PRIMARY KEY, digest BLOB, id TEXT, email BLOB)"
        connection.execute(table)
        row = (bytes.fromhex(OLD_STATE[0][0]), bytes.fromhex(digest))
        connection.execute("INSERT INTO users VALUES (?, ?, NULL, NULL)", row)
        connection.execute(OURS)
        connection.commit()
    settings = settings_of_old_state(path)
    (user, *_) = read(OLD_ROWS, user=OLD_FIELDS, custom_attributes=OLD_ATTRIBUTES).users
    for write in (False, True):
        state = SyncState(settings, write=write)
        assert state.remembers_accepted_users() == bool(digest)
        assert load_remembered(Upload(Row(2, b"", []), user), state, settings) == bool(
            digest
        )
        state.close()


def test_a_state_remembers_that_users_were_accepted_after_their_digests_are_cleared(
    tmp_path: Path,
) -> None:
    settings = settings_of_old_state(tmp_path / STATE)
    user = {"user_id": "u1"}
    upload = Upload(Row(2, b"", []), user)
    for is_known in (False, True):
        state = SyncState(settings, write=True)
        assert state.remembers_accepted_users() == is_known
        load_remembered(upload, state, settings)
        state.save(upload, "")
        state.invalidate(user)
        assert not load_remembered(upload, state, settings)
        state.close()
    other = load_settings(
        intercom={
            "access_token": "another-token-012345",
            "state_file": tmp_path / STATE,
        }
    )
    state = SyncState(other, write=True)
    assert not state.remembers_accepted_users()  # in another workspace
    state.close()


#### Contents of the file, and runs that don't change it


@pytest.mark.parametrize("basic", [False, True], ids=["token", "key"])
def test_the_state_holds_no_credentials(
    skipping: Project, services: MockServices, basic: bool
) -> None:
    if basic:
        other_key(skipping, services)
    skipping.users(2)
    assert skipping.run().status == 0
    (state,) = state_files(skipping)
    content = state.read_bytes()
    pair = f"{services.api_id}:{services.api_key}".encode()
    for secret in (services.token, services.api_key, base64.b64encode(pair).decode()):
        assert secret.encode() not in content


@pytest.mark.parametrize("option", ["--dry-run", "--check"])
@pytest.mark.parametrize("before", ["nothing", "an empty file", "a run", "a kill"])
def test_check_and_dry_run_leave_the_state_as_it_is(
    skipping: Project, services: MockServices, before: str, option: str
) -> None:
    """They create no file next to it. A dry run reads it."""
    skipping.write(csv_of("u1,,Ada", "u2,,Bob", "u3,,Cy"))
    if before == "an empty file":
        (skipping.folder / STATE).touch()
    elif before == "a run":
        assert import_rows(skipping, "u1,,Ada", "u2,,Bob").status == 0
    elif before == "a kill":
        services.faults = [Fault(), Fault(), Fault(delay=60)]
        child = skipping.start()
        eventually(lambda: len(services.requests) == 3)
        child.process.kill()
        child.wait()
    files = state_files(skipping)
    contents = [path.read_bytes() for path in files if not path.name.endswith("-shm")]
    skipping.write(csv_of("u1,,Ada", "u2,,Bea", "u3,,Cy"))
    result = skipping.run(option)
    assert result.status == 0, result
    assert state_files(skipping) == files
    assert [
        path.read_bytes() for path in files if not path.name.endswith("-shm")
    ] == contents
    if option == "--dry-run":
        known = before.startswith("a ")
        words = f"{3 - known} would be added or updated, {int(known)} are unchanged, 0 would not"
        assert words in result.err
