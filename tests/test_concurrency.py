"""Users in flight: how many, which have to wait, when the run stops, and that none is lost."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Project, Result, eventually, imported
from faults import Fault
from mock_http import Request
from mock_services import MockServices


def configure(project: Project, concurrency: int, **keys: object) -> None:
    project.configure(intercom={"concurrency": concurrency, **keys})


def check_no_row_is_lost(
    result: Result, services: MockServices, count: int
) -> set[str]:
    """Check that each of the rows u1, u2, ... is either in Intercom or in the reject file.

    Return the user_ids in the reject file.
    """
    accepted = {user["user_id"] for user in services.users.values()}
    rows: list[str] = []
    if result.reject_files:
        rows = [row[0] for row in result.rejected_rows()[1:]]
    assert result.counts() == (count - len(rows), 0, len(rows))
    assert len(set(rows)) == len(rows)
    assert accepted | set(rows) == {f"u{number}" for number in range(1, count + 1)}
    assert not accepted & set(rows)
    return set(rows)


#### How many


@pytest.mark.parametrize(
    ("concurrency", "dialect"),
    [(2, "users"), (8, "users"), (8, "contacts"), (32, "users")],
)
def test_as_many_users_are_in_flight_as_configured_and_no_more(
    project: Project, services: MockServices, concurrency: int, dialect: str
) -> None:
    """The mock holds back its responses until `concurrency` requests are waiting."""
    count = 1 + 3 * concurrency
    together = threading.Barrier(concurrency, timeout=30)

    def meet(_: Request) -> None:
        # Until the first response, only one request is in flight.
        if len(services.requests) > 1:
            together.wait()

    services.fault_for = meet
    configure(project, concurrency, user_url=f"{services.url}/{dialect}")
    project.users(count)
    result = project.run()
    assert (result.status, result.counts()) == (0, (count, 0, 0))
    assert services.max_in_flight == concurrency
    assert len(services.requests) == count


def test_a_concurrency_of_one_is_strictly_one_by_one(
    project: Project, services: MockServices
) -> None:
    services.latency = 0.005
    services.faults = [Fault()] * 3 + [Fault(status=503), Fault(drop=True)]
    configure(project, 1)
    project.users(30)
    assert project.run().status == 0
    assert services.max_in_flight == 1
    assert imported(project) == [
        "u1",
        "u2",
        "u3",
        *["u4"] * 3,
        *(f"u{n}" for n in range(5, 31)),
    ]
    for one, following in itertools.pairwise(services.requests):
        assert one.ended_at <= following.started_at


#### Which users have to wait

USERS = 8
ROWS = 60


def mixed_case_address(user: int, row: int) -> str:
    first = "uU"[row % 2]
    domain = ["eXample.com", "Example.com", "example.com"][row % 3]
    return f"{first}{user}@{domain}"


def address_with_or_without_user_id(user: int, row: int) -> str:
    user_id = ["", f"u{user}"][row % 2]
    return f"{user_id},u{user}@example.com"


def one_identity_after_the_other(user: int, row: int) -> str:
    """Only the first of three rows shows that the other two belong to the same user."""
    return [
        f"u{user},u{user}@example.com",
        f"u{user},",
        f",u{user}@example.com",
    ][row % 3]


# How rows identify their user: the headings, and the cells of a user's n-th row.
SAME_USER: dict[str, tuple[str, Callable[[int, int], str]]] = {
    "user_id": ("user_id", lambda user, _: f"u{user}"),
    "email": ("email", lambda user, _: f"u{user}@example.com"),
    "email in any case": ("email", mixed_case_address),
    "id": ("id", lambda user, _: f"known{user}"),
    "user_id with other emails": (
        "user_id,email",
        lambda user, row: f"u{user},e{row}@example.com",
    ),
    "email, some with a user_id": ("user_id,email", address_with_or_without_user_id),
    "both, user_id, email": ("user_id,email", one_identity_after_the_other),
}


def write_rows_of_few_users(
    project: Project, same: str, random_numbers: random.Random
) -> dict[int, list[str]]:
    """Write a file of rows in random order; return the names in each user's rows."""
    headings, cells = SAME_USER[same]
    lines = [f"{headings},name"]
    names = defaultdict[int, list[str]](list)
    for row in range(ROWS):
        user = random_numbers.randrange(USERS)
        lines.append(f"{cells(user, len(names[user]))},{user} {row}")
        names[user].append(f"{user} {row}")
    project.write("\n".join(lines) + "\n")
    return names


@pytest.mark.parametrize(
    ("same", "dialect", "concurrency"),
    [
        *((same, "users", 8) for same in SAME_USER),
        ("user_id", "contacts", 8),
        ("email", "contacts", 8),
        ("both, user_id, email", "users", 34),
    ],
)
def test_rows_of_one_user_are_sent_in_order_and_never_concurrently(
    project: Project, services: MockServices, same: str, dialect: str, concurrency: int
) -> None:
    random_numbers = random.Random(7)
    people = services.users if dialect == "users" else services.contacts
    for user in range(USERS):
        people[f"known{user}"] = {"email": f"u{user}@example.com", "role": "user"}
    names = write_rows_of_few_users(project, same, random_numbers)

    def fail_sometimes(_: Request) -> Fault:
        delay = random_numbers.random() / 30
        if random_numbers.random() < 0.2:
            return Fault(status=503, delay=delay)
        return Fault(delay=delay)

    services.fault_for = fail_sometimes
    configure(project, concurrency, user_url=f"{services.url}/{dialect}")
    result = project.run()
    assert (result.status, result.counts()) == (0, (ROWS, 0, 0)), result
    # (A row known only by e-mail and one known only by user_id are never in flight together, even
    # if they belong to different users.)
    assert services.max_in_flight > 1 or "both" in same

    requests_by_user = defaultdict[int, list[Request]](list)
    for request in services.requests:
        if request.is_upsert:
            user = int(request.body["name"].split()[0])
            requests_by_user[user].append(request)
    for user, requests in requests_by_user.items():
        for one, following in itertools.pairwise(requests):
            assert one.ended_at <= following.started_at
        accepted = [
            request.body["name"] for request in requests if request.status == 200
        ]
        assert accepted == names[user]
    # Each user has the data of its last row, and nobody was created twice.
    final_names = sorted(
        person["name"] for person in people.values() if "name" in person
    )
    assert final_names == sorted(of_user[-1] for of_user in names.values())


def test_different_users_do_not_wait_for_each_other(
    project: Project, services: MockServices
) -> None:
    """Neither a missing response nor a wait for a retry holds up other users."""
    released = threading.Event()
    attempts = Counter[str]()

    def hold(request: Request) -> Fault | None:
        user_id = request.body["user_id"]
        attempts[user_id] += 1
        if user_id == "u50":
            released.wait(60)
        if user_id == "u3" and attempts["u3"] == 1:
            return Fault(status=503)
        return None

    services.fault_for = hold
    configure(project, 4, timeout=0.5)
    project.users(100)
    child = project.start()
    eventually(lambda: len(services.users) >= 98)
    released.set()
    result = child.wait()
    assert (result.status, result.counts()) == (0, (100, 0, 0))


def test_users_who_share_an_address_do_not_wait_for_each_other(
    project: Project, services: MockServices
) -> None:
    """They have different user_ids, but one address, such as noreply@example.com."""
    together = threading.Barrier(20, timeout=30)

    def meet(_: Request) -> None:
        if len(services.requests) > 1:
            together.wait()

    services.fault_for = meet
    configure(project, 20)
    rows = [f"u{number},noreply@example.com\n" for number in range(61)]
    project.write("user_id,email\n" + "".join(rows))
    result = project.run()
    assert (result.status, result.counts()) == (0, (61, 0, 0))
    assert services.max_in_flight == 20
    assert len(services.users) == 61


#### Rows of a user whose earlier row failed

each_concurrency = pytest.mark.parametrize("concurrency", [1, 8, 34])


@each_concurrency
def test_only_rows_of_the_same_user_fail_with_an_earlier_one(
    project: Project, services: MockServices, concurrency: int
) -> None:
    """Rows named "bad" always get a 500.

    Which other rows belong to the same user follows Intercom's rules.
    """
    rows = [
        # The same user_id, with and without an address
        "u1,shared@example.com,bad",
        "u1,,later",
        "u1,other@example.com,later",
        # The same address, but other user_ids
        *(f"v{number},shared@example.com,fine" for number in range(5)),
        # The same address, and one of the two rows has no user_id. The last of these fails because
        # of u1's third row, which wasn't imported either.
        ",lone@example.com,bad",
        "u2,Lone@Example.com,later",
        ",other@example.com,later",
        # Known by e-mail alone or by user_id alone: maybe the same user, maybe not
        ",somebody@example.com,fine",
        "u3,,fine",
    ]

    def fail(request: Request) -> Fault | None:
        if request.body["name"] == "bad":
            # Others are accepted meanwhile, so two failures aren't an outage.
            return Fault(status=500)
        return None

    services.fault_for = fail
    # The rows in between keep the two failures apart at a concurrency of 1.
    project.write("\n".join(["user_id,email,name", *rows]) + "\n")
    configure(project, concurrency, retries=1)
    result = project.run()
    rejected = [row[2] for row in result.rejected_rows()[1:]]
    assert Counter(rejected) == {"bad": 2, "later": 4}, result
    assert {user["name"] for user in services.users.values()} == {"fine"}
    assert result.counts() == (7, 0, 6)
    reasons = [reason for _, _, reason in result.reasons()]
    assert sum("earlier row" in reason for reason in reasons) == 4


@each_concurrency
def test_a_rejected_row_does_not_hold_back_a_later_row_of_its_user(
    project: Project, services: MockServices, concurrency: int
) -> None:
    """The rejected row would have to be changed before it could be imported again."""

    def reject(request: Request) -> Fault | None:
        if request.body["name"] == "bad":
            return Fault(status=422)
        return None

    services.fault_for = reject
    configure(project, concurrency)
    rows = [f"u{number % 4},{'bad' if number < 4 else 'good'}\n" for number in range(8)]
    project.write("user_id,name\n" + "".join(rows))
    result = project.run()
    assert (result.status, result.counts()) == (1, (4, 0, 4)), result
    assert {user["name"] for user in services.users.values()} == {"good"}
    assert [row[1] for row in result.rejected_rows()[1:]] == ["bad"] * 4


#### Outages


def test_two_users_that_always_fail_among_others_are_not_an_outage(
    project: Project, services: MockServices
) -> None:
    attempts = Counter[str]()

    def fail(request: Request) -> Fault | None:
        user_id = request.body["user_id"]
        if user_id not in ("u5", "u9"):
            return None
        attempts[user_id] += 1
        if attempts[user_id] == 3:
            # Others are accepted between its first attempt and its last.
            accepted = services.responses[200]
            eventually(lambda: services.responses[200] >= accepted + 30)
        return Fault(status=500)

    services.fault_for = fail
    configure(project, 34, retries=2)
    project.users(300)
    result = project.run()
    assert result.status == 1
    assert check_no_row_is_lost(result, services, 300) == {"u5", "u9"}


@pytest.mark.parametrize(("concurrency", "poisoned"), [(1, "u4"), (8, "u4"), (1, "u1")])
def test_one_user_that_always_fails_is_not_an_outage(
    project: Project, services: MockServices, concurrency: int, poisoned: str
) -> None:
    services.faults_by_user_id = {poisoned: Fault(status=500)}
    configure(project, concurrency, retries=2)
    project.users(30)
    result = project.run()
    assert result.status == 1
    assert check_no_row_is_lost(result, services, 30) == {poisoned}


def test_at_a_concurrency_of_one_two_neighbours_that_fail_are_an_outage(
    project: Project, services: MockServices
) -> None:
    services.faults_by_user_id = {"u4": Fault(status=500), "u5": Fault(drop=True)}
    configure(project, 1, retries=1)
    project.users(30)
    result = project.run()
    assert result.status == 1
    assert check_no_row_is_lost(result, services, 30) == {
        f"u{number}" for number in range(4, 31)
    }
    assert "500" in result.err
    assert "down" in result.err


@pytest.mark.parametrize("between", [Fault(), Fault(status=422)])
def test_a_user_accepted_or_rejected_between_two_that_fail_rules_out_an_outage(
    project: Project, services: MockServices, between: Fault
) -> None:
    services.faults_by_user_id = {
        "u4": Fault(status=500),
        "u5": between,
        "u6": Fault(status=500),
    }
    configure(project, 1, retries=1)
    project.users(10)
    result = project.run()
    assert check_no_row_is_lost(result, services, 10) >= {"u4", "u6"}
    assert len(services.users) >= 7


@each_concurrency
def test_in_an_outage_not_every_row_is_tried(
    project: Project, services: MockServices, concurrency: int
) -> None:
    page = b"<html><title>Bad gateway</title></html>"
    services.fault_for = lambda _: Fault(status=502, body=page)
    configure(project, concurrency, retries=3)
    project.users(200)
    result = project.run()
    assert result.status == 1
    assert len(check_no_row_is_lost(result, services, 200)) == 200
    # Two users use up their retries; others in flight make at most as many attempts. One more user
    # may have started when the first of the two failed.
    assert 8 <= len(services.requests) <= (concurrency + 1) * 4
    assert "down" in result.err
    assert "Bad gateway" in result.err  # what the responses were


#### Settings that don't suit the workspace


@pytest.mark.parametrize("concurrency", [1, 34])
def test_a_run_whose_first_hundred_users_are_all_rejected_stops(
    project: Project, services: MockServices, concurrency: int
) -> None:
    services.fault_for = lambda _: Fault(status=400, message="no such attribute")
    configure(project, concurrency)
    project.users(300)
    result = project.run()
    assert result.status == 1
    assert len(check_no_row_is_lost(result, services, 300)) == 300
    assert 100 <= len(services.requests) < 100 + concurrency
    assert "no such attribute" in result.err
    assert "/contacts" in result.err


def test_a_run_after_a_successful_one_gets_past_a_hundred_rejected_users(
    project: Project, services: MockServices
) -> None:
    """Rows that are always rejected must not keep a run from reaching the changed users."""
    configure(project, 8, skip_unchanged="true")
    project.write("user_id,name\nz,first\n")
    assert project.run().counts() == (1, 0, 0)
    services.faults_by_user_id = {
        f"u{number}": Fault(status=422) for number in range(1, 151)
    }
    project.users(170)
    result = project.run()
    assert (result.status, result.counts()) == (1, (20, 0, 150)), result
    assert "stopped" not in result.err


def test_a_run_after_a_successful_one_stops_after_a_thousand_rejected_users(
    project: Project, services: MockServices
) -> None:
    configure(project, 8, skip_unchanged="true")
    project.write("user_id,name\nz,first\n")
    assert project.run().counts() == (1, 0, 0)
    services.fault_for = lambda _: Fault(status=422)
    project.users(1100)
    result = project.run()
    assert (result.status, result.counts()) == (1, (0, 0, 1100))
    assert 1000 <= len(services.requests) - 1 < 1000 + 8
    assert "1,000" in result.err


@pytest.mark.parametrize(("count", "is_explained"), [(4, False), (5, True)])
def test_a_short_file_whose_users_are_all_rejected_gets_an_explanation(
    project: Project, services: MockServices, count: int, is_explained: bool
) -> None:
    services.fault_for = lambda _: Fault(status=400)
    project.configure(csv={"max_not_imported": 100})
    project.users(count)
    result = project.run()
    assert result.status == int(is_explained)
    assert len(check_no_row_is_lost(result, services, count)) == count
    assert ("/contacts" in result.err) == is_explained


def test_unknown_ids_under_id_suggest_mapping_user_id(
    project: Project, services: MockServices
) -> None:
    project.write("id,name\n" + "".join(f"{number},User\n" for number in range(6)))
    for dialect in ("users", "contacts"):
        project.configure(intercom={"user_url": f"{services.url}/{dialect}"})
        result = project.run()
        assert (result.status, result.counts()) == (1, (0, 0, 6))
        assert "user_id" in result.err


def test_a_hundred_users_blocked_in_a_row_stop_the_run(
    project: Project, services: MockServices
) -> None:
    """A firewall answers 403 without Intercom's error list.

    Sixty of these in a row don't stop the run, even if that happens twice.
    """
    page = Fault(status=403, body=b"<html>Forbidden</html>")

    def block(request: Request) -> Fault | None:
        number = int(request.body["user_id"][1:])
        is_blocked = 2 <= number <= 61 or 63 <= number <= 122 or number >= 130
        return page if is_blocked else None

    services.fault_for = block
    project.users(300)
    result = project.run()
    assert result.status == 1
    assert len(check_no_row_is_lost(result, services, 300)) == 300 - 9
    assert len(services.requests) == 229
    assert "100" in result.err
    assert "firewall" in result.err


#### No row is lost


@pytest.mark.parametrize("concurrency", [1, 8])
def test_when_the_run_stops_the_rest_is_saved(
    project: Project, services: MockServices, concurrency: int
) -> None:
    services.latency = 0.01
    services.faults_by_user_id = {"u20": Fault(status=401)}
    configure(project, concurrency)
    project.users(60)
    result = project.run()
    assert result.status == 1
    assert "u20" in check_no_row_is_lost(result, services, 60)
    assert len(services.requests) < 20 + 2 * concurrency
    assert len(services.users) == services.responses[200] > 19 - concurrency


def test_a_row_that_waits_for_its_user_survives_the_rejection_of_another(
    project: Project, services: MockServices
) -> None:
    """It is neither in flight nor counted when another row is saved."""

    def respond(request: Request) -> Fault | None:
        if request.body["name"] == "held":
            eventually(lambda: services.responses[422])
        return Fault(status=422) if request.body["user_id"] == "bad" else None

    services.fault_for = respond
    configure(project, 4)
    project.write("user_id,name\nu0,x\nu1,held\nbad,x\nu1,last\nu2,x\n")
    result = project.run()
    assert (result.status, result.counts()) == (1, (4, 0, 1)), result
    assert services.find(user_id="u1")[0]["name"] == "last"


# Only worker threads are limited, not those that read the input.
FEW_THREADS = """
import threading

start, left = threading.Thread.start, [{threads}]

def start_one_of_few(thread):
    if "WorkerPool" in getattr(thread._target, "__qualname__", ""):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
    start(thread)

threading.Thread.start = start_one_of_few
"""


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_without_enough_threads_the_run_makes_do_with_what_it_has(
    project: Project, services: MockServices, threads: int
) -> None:
    services.latency = 0.01
    services.faults = [Fault(), Fault(status=503), Fault(status=422)]
    (project.folder / "sitecustomize.py").write_text(
        FEW_THREADS.format(threads=threads)
    )
    configure(project, 8)
    project.users(30)
    result = project.run(env={"PYTHONPATH": str(project.folder)})
    assert (result.status, "Traceback" in result.err) == (1, False), result
    if threads:
        assert len(check_no_row_is_lost(result, services, 30)) == 1
    else:  # before the first user: nothing is sent, and nothing is saved
        assert "can't start new thread" in result.err
        assert services.requests == []
        assert result.reject_files == []
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
    ("concurrency", "count", "error"),
    [
        (1, 1, "RuntimeError"),
        (1, 5, "MemoryError"),
        (8, 2, "sqlite3.OperationalError"),
        (8, 9, "ValueError"),
    ],
)
def test_whatever_the_state_file_raises_each_row_is_counted_once(
    project: Project, services: MockServices, concurrency: int, count: int, error: str
) -> None:
    """It raises from request number `count` on. Accepted users count as accepted."""

    def respond(_: Request) -> Fault | None:
        if len(services.requests) == count:
            (project.folder / "odd").touch()
        return Fault(status=422) if len(services.requests) % 3 == 0 else None

    (project.folder / "sitecustomize.py").write_text(RAISES.format(error=error))
    services.fault_for = respond
    services.latency = 0.02
    configure(project, concurrency, skip_unchanged="true")
    project.users(40)
    result = project.run(env={"PYTHONPATH": str(project.folder)})
    assert (result.status, "odd" in result.err) == (1, True), result
    assert 0 < len(check_no_row_is_lost(result, services, 40)) < 40


BROKEN_LOG = """
import logging, os, time

debug = logging.Logger.debug

def debug_some(logger, message, *arguments, **options):
    if message.endswith("unchanged"):
        while not os.path.exists("sent"):
            time.sleep(0.01)
        raise MemoryError("odd")
    debug(logger, message, *arguments, **options)

logging.Logger.debug = debug_some
"""


@pytest.mark.parametrize("order", [1, -1], ids=["at the end", "in flight"])
def test_an_error_while_unchanged_rows_are_logged_loses_no_row(
    project: Project, services: MockServices, order: int
) -> None:
    configure(project, 1, skip_unchanged="true")
    project.users(3)
    project.run()
    (project.folder / "sitecustomize.py").write_text(BROKEN_LOG)

    def respond(_: Request) -> None:
        (project.folder / "sent").touch()

    services.fault_for = respond
    rows = [f"u{n},u{n}@example.com,User {n}\n" for n in (9, 1, 2, 3)]
    project.write("user_id,email,name\n" + "".join(rows[::order]))
    result = project.run(env={"PYTHONPATH": str(project.folder)})
    assert (result.status, "odd" in result.err) == (1, True), result
    assert result.counts() == (1, 3, 0)


BROKEN_WORKER = """
import threading, json

encode = json.JSONEncoder.encode

def encode_some(encoder, value):
    if threading.current_thread() is not threading.main_thread() and "u7" in str(value):
        raise {error}("odd")
    return encode(encoder, value)

json.JSONEncoder.encode = encode_some
"""


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("error", ["MemoryError", "RuntimeError"])
def test_an_error_while_a_user_is_sent_stops_the_run_and_saves_the_row(
    project: Project, services: MockServices, concurrency: int, error: str
) -> None:
    (project.folder / "sitecustomize.py").write_text(BROKEN_WORKER.format(error=error))
    configure(project, concurrency)
    project.users(40)
    result = project.start(env={"PYTHONPATH": str(project.folder)}).wait(25)
    assert (result.status, "Traceback" in result.err) == (1, False), result
    assert "odd" in result.err
    assert "u7" in check_no_row_is_lost(result, services, 40)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_responses_that_cannot_be_parsed_do_not_hang_the_run(
    project: Project, concurrency: int
) -> None:
    """Nobody knows whether their users are in Intercom, so the rows are saved."""
    patch = "import json\n\ndef loads(text):\n    raise MemoryError('odd')\n\njson.loads = loads\n"
    (project.folder / "sitecustomize.py").write_text(patch)
    configure(project, concurrency, retries=1)
    project.users(40)
    result = project.start(env={"PYTHONPATH": str(project.folder)}).wait(25)
    assert (result.status, result.counts()) == (1, (0, 0, 40)), result
    assert len(result.rejected_rows()) == 41


def sent_names(services: MockServices) -> list[Any]:
    return [request.body["name"] for request in services.requests]


def test_an_unchanged_row_waits_for_another_row_of_its_user(
    project: Project, services: MockServices
) -> None:
    """Whether it is unchanged depends on the outcome of that row."""
    configure(project, 8, skip_unchanged="true")
    project.write("user_id,name\nu1,New\n")
    assert project.run().counts() == (1, 0, 0)
    services.latency = 0.05
    project.write("user_id,name\nu1,Old\nu1,New\n")
    assert project.run().counts() == (2, 0, 0)
    assert sent_names(services) == ["New", "Old", "New"]
