"""skip_unchanged: what Intercom has is left out, and nothing that it might not have ever is."""

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
from conftest import Project, Result, eventually, posix
from sandbox import Fault, Request, Sandbox

STATE = "sent_users.sqlite3"


@pytest.fixture
def skipping(project: Project) -> Project:
    """A project with skip_unchanged."""
    project.configure(intercom={"skip_unchanged": "true"})
    return project


def csv_of(*rows: str) -> str:
    """A file of user_id, email and name."""
    return "user_id,email,name\n" + "".join(f"{row}\n" for row in rows)


def imported(project: Project, *rows: str) -> Result:
    """How a run of a file with these rows ended."""
    project.write(csv_of(*rows))
    return project.run()


def name_of(sandbox: Sandbox, user_id: str) -> object:
    (user,) = sandbox.find(user_id=user_id)
    return user["name"]


def state_files(project: Project) -> list[Path]:
    return sorted(project.folder.glob(STATE + "*"))


#### What is left out, and what is not


@pytest.mark.parametrize("concurrency", [1, 8])
def test_unchanged_rows_are_left_out_and_changed_ones_sent(
    skipping: Project, sandbox: Sandbox, concurrency: int
) -> None:
    skipping.configure(intercom={"concurrency": concurrency})
    first = imported(skipping, "u1,,Ada", "u2,,Bob", "u3,,Cy")
    assert (first.status, first.counts()) == (0, (3, 0, 0))
    second = imported(skipping, "u1,,Ada", "u2,,Bea", "u3,,Cy", "u4,,Di")
    assert (second.status, second.counts()) == (0, (2, 2, 0))
    assert Counter(one.body["user_id"] for one in sandbox.requests[3:]) == {"u2": 1, "u4": 1}
    third = imported(skipping, "u1,,Ada", "u2,,Bea", "u3,,Cy", "u4,,Di")
    assert (third.status, third.counts()) == (0, (0, 4, 0))
    assert len(sandbox.requests) == 5


def test_unchanged_means_the_data_and_not_the_file(skipping: Project, sandbox: Sandbox) -> None:
    skipping.write(csv_of("u1,a@example.com,Ada"))
    assert skipping.run().status == 0
    skipping.write(
        "name;x;email;user_id\n Ada ;1;a@example.com;u1\n", "users_2026-12-01T00-00-00.csv"
    )
    skipping.configure(csv={"delimiter": ";"})
    assert skipping.run().counts() == (0, 1, 0)
    assert len(sandbox.requests) == 1


def test_the_order_of_keys_in_the_config_is_no_change(skipping: Project, sandbox: Sandbox) -> None:
    fields = {"user_id": "u", "email": "e", "name": "'Ada'", "signed_up_at": "t"}
    attributes = {"plan": "p", "age": "a : integer", "from": "'here'", "at": "t : timestamp"}
    skipping.write("u,e,p,a,t\nu1,a@x.eu,gold,7,2026-01-02\n")
    for order in (list, reversed):
        skipping.settings["user"] = dict(order(list(fields.items())))
        skipping.settings["custom_attributes"] = dict(order(list(attributes.items())))
        skipping.settings = dict(order(list(skipping.settings.items())))
        skipping.configure()
        assert sum(skipping.run().counts()[:2]) == 1
    assert len(sandbox.requests) == 1


def test_a_field_that_the_settings_add_is_a_change(skipping: Project, sandbox: Sandbox) -> None:
    skipping.configure(user={"user_id": "user_id"})
    assert imported(skipping, "u1,,Ada").counts() == (1, 0, 0)
    skipping.configure(user={"name": "name"})
    assert skipping.run().counts() == (1, 0, 0)
    assert name_of(sandbox, "u1") == "Ada"


@pytest.mark.parametrize("field", ["update_last_request_at", "new_session"])
def test_users_with_something_to_do_are_always_sent(skipping: Project, field: str) -> None:
    skipping.write(f"user_id,{field}\nu1,true\nu2,false\nu3,\n")
    assert skipping.run().counts() == (3, 0, 0)
    assert skipping.run().counts() == (1, 2, 0)
    requests = skipping.sandbox.requests
    assert [one.body["user_id"] for one in requests] == ["u1", "u2", "u3", "u1"]


def test_without_skip_unchanged_all_are_sent_and_no_state_is_kept(project: Project) -> None:
    project.users(3)
    assert project.run().counts() == (3, 0, 0)
    assert project.run().counts() == (3, 0, 0)
    assert not state_files(project)


def test_whatever_id_it_is_given_a_user_is_remembered(skipping: Project, sandbox: Sandbox) -> None:
    ids = [None, 17, "\ud800", "a/b", "", ["x"], "x" * 10_000, "\0"]
    bodies = [json.dumps({"type": "user", "id": known}).encode() for known in ids]
    sandbox.faults = [Fault(body=body, acts=True) for body in bodies]
    skipping.users(len(ids))
    result = skipping.run()
    assert (result.status, result.counts()) == (0, (len(ids), 0, 0)), result
    assert skipping.run().counts() == (0, len(ids), 0)


def test_rows_with_half_a_letter_are_counted_beside_skipped_ones(skipping: Project) -> None:
    """A lone surrogate, which UTF-16 can hold, and no digest can."""
    rows = ["user_id,email,name\n", "u1,,Ada\n", "u2\ud800,,Bob\n", "u3,,\udc00\n", "u4,,Di\n"]
    skipping.configure(csv={"encoding": "utf-16"})
    skipping.write("".join(["\ufeff", *rows]).encode("utf-16-le", "surrogatepass"))
    for counts in (2, 0, 2), (0, 2, 2):
        result = skipping.run()
        assert (result.status, result.counts()) == (1, counts)
        kept = result.not_imported[-1].read_bytes().decode("utf-16", "surrogatepass")
        assert kept == rows[0] + rows[2] + rows[3]
    assert skipping.run("--local", result.not_imported[-1]).counts() == (0, 0, 2)


#### No wrong skip

LOST = Fault(acts=True, drop=True)
FAILURES = {
    "refused": (Fault(status=422), "New"),
    "lost on the way": (Fault(drop=True), "New"),
    "answer lost": (LOST, "New"),
    "answer lost and back to the old": (LOST, "Old"),
    "cut off and back to the old": (Fault(acts=True, cut=True), "Old"),
    "a page and back to the old": (Fault(status=200, body=b"<html></html>", acts=True), "Old"),
    "502 and back to the old": (Fault(status=502, acts=True), "Old"),
    "422 and back to the old": (Fault(status=422, acts=True), "Old"),
    "stopped and back to the old": (Fault(status=403, acts=True), "Old"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_user_whose_update_failed_is_sent(skipping: Project, sandbox: Sandbox, case: str) -> None:
    failure, then = FAILURES[case]
    skipping.configure(intercom={"retries": 0})
    assert imported(skipping, "u1,,Old").counts() == (1, 0, 0)
    sandbox.faults = [failure]
    assert imported(skipping, "u1,,New").counts() == (0, 0, 1)
    last = imported(skipping, f"u1,,{then}")
    assert (last.status, last.counts()) == (0, (1, 0, 0))
    assert name_of(sandbox, "u1") == then


def test_a_404_stops_the_run_though_its_user_is_remembered(
    skipping: Project, sandbox: Sandbox
) -> None:
    """It is about user_url, as only contacts are asked for by the id that Intercom told."""
    assert imported(skipping, "u1,,Old", "u2,,Old").counts() == (2, 0, 0)
    sandbox.faults = [Fault(status=404)]
    assert imported(skipping, "u1,,New", "u2,,New").counts() == (0, 0, 2)
    assert len(sandbox.requests) == 3


@pytest.mark.parametrize("then", ["New", "Old"])
def test_a_user_whose_update_was_under_way_at_a_kill_is_sent_again(
    skipping: Project, sandbox: Sandbox, then: str
) -> None:
    assert imported(skipping, "u1,,Old").counts() == (1, 0, 0)
    sandbox.faults = [Fault(delay=60)]
    skipping.write(csv_of("u1,,New"))
    child = skipping.start()
    eventually(lambda: name_of(sandbox, "u1") == "New")
    child.process.kill()
    child.wait()
    assert imported(skipping, f"u1,,{then}").counts() == (1, 0, 0)
    assert name_of(sandbox, "u1") == then


# a row of u1, and another one that is the same user of Intercom's
SAME = {
    "email": ("u1,a@example.com,Ada", "email,name\na@example.com,Bea\n"),
    "email in another case": ("u1,a@example.com,Ada", "email,name\nA@Example.com,Bea\n"),
    "email that only Intercom knew": ("u1,,Ada", "email,name\na@example.com,Bea\n"),
    "id": ("u1,,Ada", "id,name\nknown,Bea\n"),
}
LOST_TOO = [(same, True) for same in ("email", "email in another case", "id")]


@pytest.mark.parametrize(("same", "lost"), [*((same, False) for same in SAME), *LOST_TOO])
def test_another_row_of_the_same_user_makes_the_data_unknown(
    skipping: Project, sandbox: Sandbox, same: str, lost: bool
) -> None:
    """Also where the answer never came that would have told that the two rows are one user."""
    row, other = SAME[same]
    sandbox.users["known"] = {"user_id": "u1", "email": "a@example.com"}
    skipping.configure(intercom={"retries": 0})
    assert imported(skipping, row).counts() == (1, 0, 0)
    sandbox.faults = [LOST] * lost
    skipping.write(other)
    assert skipping.run().counts() == (not lost, 0, lost)
    assert name_of(sandbox, "u1") == "Bea"
    assert imported(skipping, row).counts() == (1, 0, 0)
    assert name_of(sandbox, "u1") == "Ada"
    skipping.write(other)
    assert skipping.run().counts() == (1, 0, 0)
    assert len(sandbox.users) == 1


BY_EMAIL = ",a@example.com,Old"


@pytest.mark.parametrize(
    ("first", "concurrency"),
    [(BY_EMAIL, 1), (",A@example.com,Old", 2), (BY_EMAIL, 8), (f"u1{BY_EMAIL}", 8)],
)
def test_a_user_who_is_twice_in_the_file_ends_as_its_last_row(
    skipping: Project, sandbox: Sandbox, first: str, concurrency: int
) -> None:
    """The last row is what was sent before, and still has to be sent after the first."""
    skipping.configure(intercom={"concurrency": concurrency})
    sandbox.latency = 0.05
    rows = [f"x{n},," for n in range(3)]
    assert imported(skipping, "u1,a@example.com,New").counts() == (1, 0, 0)
    result = imported(skipping, *rows, first, "u1,a@example.com,New", "y,,")
    assert result.status == 0
    assert name_of(sandbox, "u1") == "New"


def test_a_last_row_that_is_the_old_one_counts(skipping: Project, sandbox: Sandbox) -> None:
    """While the first row waits for the second try of its own."""
    skipping.configure(intercom={"concurrency": 4, "timeout": 0.3})
    assert imported(skipping, "u1,,New").counts() == (1, 0, 0)
    sandbox.faults = [Fault(status=503)]
    assert imported(skipping, "u1,,Old", "u1,,New").status == 0
    assert name_of(sandbox, "u1") == "New"


#### Workspaces apart


def other_token(project: Project, sandbox: Sandbox) -> None:
    sandbox.token = "another-token-0123456789"
    project.configure(intercom={"access_token": sandbox.token})


def other_key(project: Project, sandbox: Sandbox) -> None:
    keys = {"access_token": None, "api_id": sandbox.api_id, "api_key": sandbox.api_key}
    project.configure(intercom=keys)


def other_dialect(project: Project, sandbox: Sandbox) -> None:
    project.configure(intercom={"user_url": sandbox.contacts_url})


@pytest.mark.parametrize("change", [other_token, other_key, other_dialect])
def test_what_was_sent_to_one_workspace_says_nothing_of_another(
    skipping: Project, sandbox: Sandbox, change: Callable[[Project, Sandbox], None]
) -> None:
    skipping.users(3)
    assert skipping.run().counts() == (3, 0, 0)
    change(skipping, sandbox)
    assert skipping.run().counts() == (3, 0, 0)


def test_workspaces_do_not_disturb_each_other(skipping: Project, sandbox: Sandbox) -> None:
    skipping.users(3)
    assert skipping.run().counts() == (3, 0, 0)
    with Sandbox() as other:
        for number in (1, 2, 3):  # Intercom's ids are unique in all workspaces
            other.users[f"other{number}"] = {"user_id": f"u{number}"}
        skipping.configure(intercom={"user_url": other.users_url})
        assert skipping.run().counts() == (3, 0, 0)
    skipping.configure(intercom={"user_url": sandbox.users_url})
    assert skipping.run().counts() == (0, 3, 0)


#### Killed, and run again


@pytest.mark.parametrize(("concurrency", "moment"), [(1, 0), (1, 25), (8, 9), (8, 33)])
def test_after_a_kill_exactly_the_missing_users_are_sent(
    skipping: Project, sandbox: Sandbox, concurrency: int, moment: int
) -> None:
    sandbox.latency = 0.01
    skipping.configure(intercom={"concurrency": concurrency})
    skipping.users(60)
    child = skipping.start()
    eventually(lambda: sandbox.answers[200] >= moment)
    child.process.kill()
    assert child.wait().status in {-9, 1}
    eventually(lambda: all(one.ended for one in sandbox.requests))
    before = {one.body["user_id"] for one in sandbox.requests}
    assert len(before) < 60
    sent = len(sandbox.requests)

    result = skipping.run()
    assert result.status == 0
    assert sum(result.counts()) == 60
    after = Counter(one.body["user_id"] for one in sandbox.requests[sent:])
    assert set(after) | before == {f"u{n}" for n in range(1, 61)}
    assert len(set(after) & before) <= concurrency
    assert set(after.values()) == {1}
    assert len(sandbox.users) == 60
    assert skipping.run().counts() == (0, 60, 0)


KILLED_BY_ITSELF = """
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
def test_a_kill_between_any_two_statements_leaves_a_state_to_go_on_with(
    skipping: Project, sandbox: Sandbox, statements: int
) -> None:
    patch = skipping.folder / "sitecustomize.py"
    patch.write_text(KILLED_BY_ITSELF.format(statements=statements))
    skipping.users(2)
    killed = skipping.run(env={"PYTHONPATH": str(skipping.folder)})
    assert killed.status in {-9, 9, 0}
    result = skipping.run()
    assert (result.status, sum(result.counts())) == (0, 2), result
    assert len(sandbox.users) == 2
    assert skipping.run().counts() == (0, 2, 0)


#### A state file that is of no use


def refuses(project: Project, *words: str) -> str:
    """The one line in which a run says why it can't use the state; nothing is sent."""
    project.notices()
    result = project.run()
    assert result.status == 1, result
    assert not project.sandbox.requests
    assert "Traceback" not in result.err
    assert "nobody foresaw" not in result.err
    (line,) = [line for line in result.err.splitlines() if "stopped" in line]
    assert all(word in line for word in words), line
    assert "red" in [notice["color"] for notice in project.sandbox.hipchat]
    return line


def database(path: Path, *statements: str) -> bytes:
    """The bytes of an SQLite file that these make."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path.read_bytes()


NUMBERED = "PRAGMA user_version = 1"
NO_STATES: dict[str, bytes | list[str]] = {
    "text": b"no database\n",
    "bytes": bytes(range(256)) * 64,
    "header": b"SQLite format 3\0" + b"\xff" * 4080,
    "broken off": b"SQLite format 3\0",
    "unnumbered": ["CREATE TABLE users (name TEXT)"],
    "of other tables": ["CREATE TABLE orders (number INTEGER)", NUMBERED],
    "of another users table": ["CREATE TABLE users (id TEXT, name TEXT)", NUMBERED],
}


@pytest.mark.parametrize("made_of", NO_STATES.values(), ids=NO_STATES)
def test_what_is_damaged_or_of_another_program_is_said_and_kept(
    skipping: Project, made_of: bytes | list[str]
) -> None:
    skipping.users(3)
    state = skipping.folder / STATE
    content = made_of if isinstance(made_of, bytes) else database(state, *made_of)
    state.write_bytes(content)
    refuses(skipping, STATE)
    assert state.read_bytes() == content


def test_the_state_of_a_newer_version_is_left_as_it_is(skipping: Project, sandbox: Sandbox) -> None:
    skipping.users(3)
    assert skipping.run().status == 0
    sandbox.requests.clear()
    content = database(skipping.folder / STATE, "PRAGMA application_id = 0x49435332")
    line = refuses(skipping, STATE, "version")
    assert "damaged" not in line
    assert (skipping.folder / STATE).read_bytes() == content


def test_an_empty_state_file_is_a_new_one(skipping: Project) -> None:
    skipping.users(3)
    (skipping.folder / STATE).touch()
    assert skipping.run().counts() == (3, 0, 0)
    assert skipping.run().counts() == (0, 3, 0)


proc = posix("Windows has no /proc")


@pytest.mark.parametrize(
    "place",
    ["a file/state.db", "a file/folder/state.db", "exports", pytest.param("/proc/x/y", marks=proc)],
)
def test_a_state_file_that_cannot_be_made_is_said(skipping: Project, place: str) -> None:
    skipping.users(3)
    (skipping.folder / "a file").touch()
    skipping.configure(intercom={"state_file": place})
    refuses(skipping, str(Path(place)))


LOCKER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process is writing to the database."""
    command, pipe = [sys.executable, "-c", LOCKER, str(path)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as locker:
        assert locker.stdout
        assert locker.stdout.readline().strip() == b"locked"
        yield
        locker.communicate()


def test_a_state_that_another_program_locks_is_said(skipping: Project, sandbox: Sandbox) -> None:
    skipping.with_constants(BUSY_TIMEOUT=0.2)
    skipping.users(3)
    assert skipping.run().status == 0
    sandbox.requests.clear()
    skipping.users(4)
    with locked(skipping.folder / STATE):
        refuses(skipping, STATE, "locked")
    assert skipping.run().counts() == (1, 3, 0)


def test_a_lock_does_not_matter_where_nothing_has_changed(skipping: Project) -> None:
    skipping.users(3)
    assert skipping.run().status == 0
    with locked(skipping.folder / STATE):
        assert skipping.run().counts() == (0, 3, 0)


def test_a_lock_in_the_middle_of_a_run_loses_no_row(skipping: Project, sandbox: Sandbox) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def hold(request: Request) -> None:
        if request.body["user_id"] == "u5":
            arrived.set()
            go_on.wait(60)

    sandbox.fault_for = hold
    skipping.with_constants(BUSY_TIMEOUT=0.2)
    skipping.users(20)
    child = skipping.start()
    assert arrived.wait(30)
    with locked(skipping.folder / STATE):
        go_on.set()
        result = child.wait()
    assert (result.status, result.counts()) == (1, (5, 0, 15)), result
    assert len(result.not_imported_rows()) == 16
    assert "locked" in result.err
    assert "Traceback" not in result.err
    last = skipping.run()
    assert last.status == 0
    assert last.counts() in {(15, 5, 0), (16, 4, 0)}
    assert len(sandbox.users) == 20


@pytest.mark.parametrize("seed", range(2))
def test_damage_inside_makes_no_wrong_skip(skipping: Project, sandbox: Sandbox, seed: int) -> None:
    count = 300
    skipping.configure(intercom={"concurrency": 4})
    rows = [f"u{n},u{n}@example.com," for n in range(count)]
    assert imported(skipping, *(row + "Old" for row in rows)).counts() == (count, 0, 0)
    path, noise = skipping.folder / STATE, random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(3):
        start = noise.randrange(4096, len(content))
        content[start : start + 3000] = noise.randbytes(len(content[start : start + 3000]))
    path.write_bytes(content)

    names = ["Old" if n % 2 else "New" for n in range(count)]
    result = imported(skipping, *map(str.__add__, rows, names))
    assert sum(result.counts()) == count
    assert result.status == (1 if result.counts()[2] else 0)
    assert "Traceback" not in result.err
    left_out = {row[0] for row in result.not_imported_rows()} if result.not_imported else set()
    for number, name in enumerate(names):
        assert f"u{number}" in left_out or name_of(sandbox, f"u{number}") == name


#### What is in the file, and who changes it


@pytest.mark.parametrize("basic", [False, True], ids=["token", "key"])
def test_the_state_holds_no_credentials(skipping: Project, sandbox: Sandbox, basic: bool) -> None:
    if basic:
        other_key(skipping, sandbox)
    skipping.users(2)
    assert skipping.run().status == 0
    (state,) = state_files(skipping)
    content = state.read_bytes()
    pair = f"{sandbox.api_id}:{sandbox.api_key}".encode()
    for secret in (sandbox.token, sandbox.api_key, base64.b64encode(pair).decode()):
        assert secret.encode() not in content


@pytest.mark.parametrize("option", ["--dry-run", "--check"])
@pytest.mark.parametrize("before", ["nothing", "an empty file", "a run", "a kill"])
def test_looking_leaves_the_state_as_it_is(
    skipping: Project, sandbox: Sandbox, before: str, option: str
) -> None:
    """And makes no file beside it; a dry run knows what it says."""
    skipping.write(csv_of("u1,,Ada", "u2,,Bob", "u3,,Cy"))
    if before == "an empty file":
        (skipping.folder / STATE).touch()
    elif before == "a run":
        assert imported(skipping, "u1,,Ada", "u2,,Bob").status == 0
    elif before == "a kill":
        sandbox.faults = [Fault(), Fault(), Fault(delay=60)]
        child = skipping.start()
        eventually(lambda: len(sandbox.requests) == 3)
        child.process.kill()
        child.wait()
    files = state_files(skipping)
    contents = [path.read_bytes() for path in files if not path.name.endswith("-shm")]
    skipping.write(csv_of("u1,,Ada", "u2,,Bea", "u3,,Cy"))
    result = skipping.run(option)
    assert result.status == 0, result
    assert state_files(skipping) == files
    assert [path.read_bytes() for path in files if not path.name.endswith("-shm")] == contents
    if option == "--dry-run":
        known = before.startswith("a ")
        words = f"{3 - known} would be added or updated, {int(known)} are unchanged, 0 would not"
        assert words in result.err
