"""concurrency: how many users are under way at once, whose turn it is, and that none gets lost."""

from __future__ import annotations

import itertools
import random
import signal
import threading
from collections import defaultdict
from collections.abc import Callable

import pytest
from conftest import Project, Result, eventually, posix
from sandbox import Fault, Request, Sandbox


def configure(project: Project, concurrency: int, **keys: object) -> None:
    project.configure(intercom={"concurrency": concurrency, **keys})


def keeps_the_law(result: Result, sandbox: Sandbox, count: int) -> set[str]:
    """Each of the rows u1, u2, ... is in Intercom or was kept; the user_ids of those kept."""
    added = {user["user_id"] for user in sandbox.users.values()}
    rows = [row[0] for row in result.not_imported_rows()[1:]] if result.not_imported else []
    assert result.counts() == (count - len(rows), 0, len(rows))
    assert len(set(rows)) == len(rows)
    every = {f"u{number}" for number in range(1, count + 1)}
    assert added | set(rows) == every
    assert not added & set(rows)
    return set(rows)


#### How many


@pytest.mark.parametrize(
    ("concurrency", "dialect"), [(2, "users"), (8, "users"), (8, "contacts"), (32, "users")]
)
def test_so_many_users_are_under_way_and_no_more(
    project: Project, sandbox: Sandbox, concurrency: int, dialect: str
) -> None:
    """While Intercom takes its time: it answers when so many have come together."""
    count, together = 1 + 3 * concurrency, threading.Barrier(concurrency, timeout=30)

    def meet(request: Request) -> None:
        if request.body["name"] != "User 1":  # the first may feel the way
            together.wait()

    sandbox.fault_for = meet
    configure(project, concurrency, user_url=f"{sandbox.url}/{dialect}")
    project.users(count)
    result = project.run()
    assert (result.status, result.counts()) == (0, (count, 0, 0))
    assert sandbox.max_under_way == concurrency
    assert len(sandbox.requests) == count


def test_one_is_strictly_one_by_one(project: Project, sandbox: Sandbox) -> None:
    sandbox.latency = 0.005
    sandbox.faults = [Fault()] * 3 + [Fault(status=503), Fault(drop=True)]
    configure(project, 1)
    project.users(30)
    assert project.run().status == 0
    assert sandbox.max_under_way == 1
    sent = [one.body["user_id"] for one in sandbox.requests]
    assert sent == ["u1", "u2", "u3", *["u4"] * 3, *(f"u{n}" for n in range(5, 31))]
    ends = [one.ended for one in sandbox.requests]
    begins = [one.began for one in sandbox.requests]
    assert all(end <= began for end, began in zip(ends, begins[1:], strict=False))


#### Whose turn it is

USERS = 5
ROWS = 60

SAME_USER: dict[str, tuple[str, Callable[[int, int], str]]] = {
    "user_id": ("user_id", lambda user, _: f"u{user}"),
    "email": ("email", lambda user, _: f"u{user}@example.com"),
    "email in any case": (
        "email",
        lambda user, row: f"{'uU'[row % 2]}{user}@{'Example' if row % 3 else 'eXample'}.com",
    ),
    "id": ("id", lambda user, _: f"known{user}"),
    "user_id with other emails": ("user_id,email", lambda user, row: f"u{user},e{row}@example.com"),
    "email where some lack the user_id": (
        "user_id,email",
        lambda user, row: f"{f'u{user}' if row % 2 else ''},u{user}@example.com",
    ),
}


@pytest.mark.parametrize(
    ("same", "dialect"),
    [*((same, "users") for same in SAME_USER), ("user_id", "contacts"), ("email", "contacts")],
)
def test_a_user_is_never_twice_under_way_and_ends_as_its_last_row(
    project: Project, sandbox: Sandbox, same: str, dialect: str
) -> None:
    random_numbers = random.Random(7)
    people = sandbox.users if dialect == "users" else sandbox.contacts
    for user in range(USERS):
        people[f"known{user}"] = {"email": f"u{user}@example.com", "role": "user"}
    headings, cells = SAME_USER[same]
    lines, rows = [f"{headings},name"], defaultdict[int, list[str]](list)
    for row in range(ROWS):
        user = random_numbers.randrange(USERS)
        lines.append(f"{cells(user, row)},{user} {row}")
        rows[user].append(f"{user} {row}")

    def trouble(request: Request) -> Fault:
        bad = random_numbers.random() < 0.2
        return Fault(status=503 if bad else None, delay=random_numbers.random() / 30)

    sandbox.fault_for = trouble
    configure(project, 8, user_url=f"{sandbox.url}/{dialect}")
    project.write("\n".join(lines) + "\n")
    result = project.run()
    assert (result.status, result.counts()) == (0, (ROWS, 0, 0))
    assert 1 < sandbox.max_under_way <= 8
    turns = defaultdict[int, list[Request]](list)
    for request in sandbox.requests:
        turns[int(request.body["name"].split()[0])].append(request)
    for user, requests in turns.items():
        for one, following in itertools.pairwise(requests):
            assert one.ended <= following.began
        done = [request.body["name"] for request in requests if request.status == 200]
        assert done == rows[user]
    names = sorted(one["name"] for one in people.values() if "name" in one)
    assert names == sorted(its_rows[-1] for its_rows in rows.values())


def test_different_users_do_not_wait_for_each_other(project: Project, sandbox: Sandbox) -> None:
    """One whose answer doesn't come, and one who waits for another try, hold up nobody else."""
    released = threading.Event()

    def hold(request: Request) -> Fault | None:
        if request.body["user_id"] == "u50":
            released.wait(60)
        tries = [one for one in sandbox.requests if one.body["user_id"] == "u3"]
        first = request.body["user_id"] == "u3" and len(tries) == 1
        return Fault(status=503) if first else None

    sandbox.fault_for = hold
    configure(project, 4, timeout=0.5)
    project.users(100)
    child = project.start()
    eventually(lambda: len(sandbox.users) >= 98)
    released.set()
    result = child.wait()
    assert (result.status, result.counts()) == (0, (100, 0, 0))


#### None gets lost


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_stop_keeps_what_is_left(project: Project, sandbox: Sandbox, concurrency: int) -> None:
    sandbox.latency = 0.01
    sandbox.faults_of = {"u20": Fault(status=401)}
    configure(project, concurrency)
    project.users(60)
    result = project.run()
    assert result.status == 1
    kept = keeps_the_law(result, sandbox, 60)
    assert "u20" in kept
    assert len(sandbox.requests) < 20 + 2 * concurrency
    assert len(sandbox.users) == sandbox.answers[200] > 19 - concurrency


def test_an_outage_is_not_tried_for_every_row(project: Project, sandbox: Sandbox) -> None:
    sandbox.fault_for = lambda _: Fault(status=503)
    configure(project, 8, retries=3)
    project.users(200)
    result = project.run()
    assert result.status == 1
    assert len(keeps_the_law(result, sandbox, 200)) == 200
    assert len(sandbox.requests) <= 8 * 4 + 8
    assert "down" in result.err


def test_users_far_apart_without_an_answer_end_no_run(project: Project, sandbox: Sandbox) -> None:
    sandbox.faults_of = {"u10": Fault(status=500), "u60": Fault(status=500)}
    sandbox.latency = 0.005
    configure(project, 8, retries=2)
    project.users(100)
    result = project.run()
    assert result.status == 1
    assert keeps_the_law(result, sandbox, 100) == {"u10", "u60"}


FEW_THREADS = """
import threading

start, left = threading.Thread.start, [{threads}]

def start_one_of_few(thread):
    if not left[0]:
        raise RuntimeError("can't start new thread")
    left[0] -= 1
    start(thread)

threading.Thread.start = start_one_of_few
"""


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_where_no_more_threads_can_be_started_the_counts_hold(
    project: Project, sandbox: Sandbox, threads: int
) -> None:
    sandbox.latency = 0.01
    sandbox.faults = [Fault(), Fault(status=503), Fault(status=422)]
    (project.folder / "sitecustomize.py").write_text(FEW_THREADS.format(threads=threads))
    configure(project, 8)
    project.users(30)
    result = project.run(env={"PYTHONPATH": str(project.folder)})
    assert (result.status, "Traceback" in result.err) == (1, False), result
    if threads:
        assert len(keeps_the_law(result, sandbox, 30)) == 1
    else:  # before the first user: nothing is sent, and nothing kept
        assert "can't start new thread" in result.err
        assert [*sandbox.requests, *result.not_imported] == []
        assert " added or updated" not in result.out


RAISES = """
import os, sqlite3

connect = sqlite3.connect

class Database(sqlite3.Connection):
    def execute(self, *arguments):
        if os.path.exists("odd"):
            raise {error}("odd")
        return super().execute(*arguments)

sqlite3.connect = lambda *arguments, **keys: connect(*arguments, **keys, factory=Database)
"""


@pytest.mark.parametrize(
    ("count", "error"),
    [(1, "RuntimeError"), (2, "sqlite3.OperationalError"), (5, "MemoryError"), (9, "ValueError")],
)
@pytest.mark.parametrize("concurrency", [1, 8])
def test_whatever_raises_the_counts_hold(
    project: Project, sandbox: Sandbox, concurrency: int, count: int, error: str
) -> None:
    """From the request with this number on: each row is counted once, who is in as added."""

    def fault(_: Request) -> Fault | None:
        if len(sandbox.requests) == count:
            (project.folder / "odd").touch()
        return Fault(status=422) if len(sandbox.requests) % 3 == 0 else None

    (project.folder / "sitecustomize.py").write_text(RAISES.format(error=error))
    sandbox.fault_for = fault
    sandbox.latency = 0.02
    configure(project, concurrency, skip_unchanged="true")
    project.users(40)
    result = project.run(env={"PYTHONPATH": str(project.folder)})
    assert (result.status, "odd" in result.err) == (1, True), result
    assert 0 < len(keeps_the_law(result, sandbox, 40)) < 40


@pytest.mark.parametrize("concurrency", [1, 8])
def test_an_answer_that_cannot_be_read_holds_up_no_run(project: Project, concurrency: int) -> None:
    """Whether the user is in can't be known then, so the row is kept."""
    text = "import json\n\ndef loads(text):\n    raise MemoryError('odd')\n\njson.loads = loads\n"
    (project.folder / "sitecustomize.py").write_text(text)
    configure(project, concurrency, retries=1)
    project.users(40)
    result = project.start(env={"PYTHONPATH": str(project.folder)}).wait(25)
    assert (result.status, result.counts()) == (1, (0, 0, 40)), result
    assert len(result.not_imported_rows()) == 41


SIGTERM = pytest.param(signal.SIGTERM, marks=posix("Windows has no way to send it"))


@pytest.mark.parametrize("number", [signal.SIGINT, SIGTERM], ids=lambda number: number.name)
def test_a_signal_keeps_the_law_among_troubles(
    project: Project, sandbox: Sandbox, number: signal.Signals
) -> None:
    random_numbers = random.Random(3)

    def trouble(_: Request) -> Fault:
        bad = random_numbers.random() < 0.3
        return Fault(status=503 if bad else None, delay=random_numbers.random() / 20)

    sandbox.fault_for = trouble
    configure(project, 8)
    project.users(400)
    child = project.start()
    eventually(lambda: sandbox.answers[200] >= 50)
    child.send(number)
    result = child.wait()
    assert result.status == 128 + number
    assert 0 < len(keeps_the_law(result, sandbox, 400)) <= 350
    assert sandbox.answers[200] == len(sandbox.users) == result.counts()[0]
