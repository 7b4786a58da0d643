"""Intercom's limit of requests in a window: kept by a run that is alone, survived by others."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import re
import signal
import threading
import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
from conftest import Project, Result, eventually
from sandbox import Fault, Request, Sandbox

from export_csv import Answer, RateLimit

LIMIT, LEFT, RESET = "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"
SOON = 25  # seconds: far more than a run takes that waits for nothing, far less than one that does


def limited(sandbox: Sandbox, limit: int, window: int = 1, clock_offset: float = 0) -> None:
    sandbox.limit, sandbox.window, sandbox.clock_offset = limit, window, clock_offset


def is_in(result: Result, sandbox: Sandbox, count: int) -> None:
    """Every one of u1, u2, ... has arrived."""
    assert (result.status, result.counts()) == (0, (count, 0, 0)), result
    users = {user.get("user_id", user.get("external_id")) for user in sandbox.find()}
    assert users >= {f"u{number}" for number in range(1, count + 1)}


#### A run that is alone


# concurrency, the limit, its window, the server's clock, and how many users
ALONE = {
    "one by one": (1, 40, 1, 300, 70),
    "five, clock behind": (5, 40, 1, -300, 70),
    "five": (5, 40, 1, 0, 70),
    "32, clock behind": (32, 40, 1, -300, 70),
    "32, clock ahead": (32, 40, 1, 300, 70),
    "fewer than under way": (32, 5, 1, 0, 12),
    "one a window": (8, 1, 1, 0, 3),
    "two seconds": (5, 20, 2, 0, 30),
    "one more than under way": (32, 33, 1, 0, 60),
}


@pytest.mark.parametrize("case", ALONE)
def test_a_run_that_is_alone_earns_no_429(project: Project, sandbox: Sandbox, case: str) -> None:
    concurrency, limit, window, clock_offset, count = ALONE[case]
    limited(sandbox, limit, window, clock_offset)
    sandbox.latency = 0.005
    project.configure(intercom={"concurrency": concurrency})
    project.users(count)
    is_in(project.run(), sandbox, count)
    assert sandbox.answers == {200: count}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_failed_requests_count_too(project: Project, sandbox: Sandbox, concurrency: int) -> None:
    limited(sandbox, 20)
    sandbox.faults = [Fault(), Fault(status=503), Fault(drop=True), Fault(status=422)] * 4
    project.configure(intercom={"concurrency": concurrency})
    project.users(40)
    result = project.run()
    assert result.counts() == (36, 0, 4)
    assert sandbox.answers[429] == 0


def test_a_request_without_an_answer_is_counted(project: Project, sandbox: Sandbox) -> None:
    """It is the last one of its window, but where a window ends between the two."""
    limited(sandbox, 2, 2)
    sandbox.faults = [Fault(), Fault(drop=True)]
    project.users(2)
    is_in(project.run(), sandbox, 2)
    assert sandbox.answers == {0: 1, 200: 2}


def test_a_request_without_an_answer_may_have_been_counted() -> None:
    date = formatdate(1_800_000_000, usegmt=True)
    window = {LIMIT: "20", RESET: "1800000009", "Date": date}
    limit = RateLimit()
    limit.learn(Answer(200, window | {LEFT: "3"}))
    for _ in range(2):
        assert limit.opens(under_way=1) == 0
        limit.learn(Answer(0, failure="no answer"))
    assert limit.opens(under_way=1) > time.monotonic() + 5


@pytest.mark.parametrize("waits", [(90, 40), (40, 90)])
def test_of_a_windows_answers_the_earliest_end_counts(waits: tuple[int, int]) -> None:
    limit, window = RateLimit(), {LIMIT: "20", LEFT: "0", RESET: "1800000090"}
    for wait in waits:
        date = formatdate(1_800_000_090 - wait, usegmt=True)
        limit.learn(Answer(200, window | {"Date": date}))
    assert 30 < limit.opens(under_way=0) - time.monotonic() <= 40


def test_a_429_holds_up_the_other_users_whatever_their_answers_say() -> None:
    limit = RateLimit()
    for answer in Answer(429, {"Retry-After": "9"}), Answer(200), Answer(429):
        limit.learn(answer)
    assert limit.opens(under_way=0) > time.monotonic() + 5


def test_three_requests_for_a_contact_keep_the_limit(project: Project, sandbox: Sandbox) -> None:
    limited(sandbox, 30)
    sandbox.attributes = {"plan": "string"}
    for number in range(1, 31):
        sandbox.contacts[f"c{number}"] = {"external_id": f"u{number}", "role": "user"}
    project.configure(
        intercom={"concurrency": 8, "user_url": sandbox.contacts_url},
        custom_attributes={"plan": "name"},
    )
    project.users(30)
    is_in(project.run(), sandbox, 30)
    assert sandbox.answers == {200: 61, 409: 30}


def test_the_check_of_attributes_counts_too(project: Project, sandbox: Sandbox) -> None:
    limited(sandbox, 1)
    sandbox.attributes = {"plan": "string"}
    project.configure(intercom={"concurrency": 4, "user_url": sandbox.contacts_url})
    project.configure(custom_attributes={"plan": "name"})
    project.users(2)
    is_in(project.run(), sandbox, 2)
    assert sandbox.answers == {200: 3}


def test_the_limit_is_used_up_and_not_more(project: Project, sandbox: Sandbox) -> None:
    """A run that is slowed down by the limit sends all that a window allows."""
    limited(sandbox, 30)
    sandbox.latency = 0.002
    project.configure(intercom={"concurrency": 8})
    project.users(70)
    is_in(project.run(), sandbox, 70)
    ahead = time.time() - time.monotonic()
    windows = [int(request.began + ahead) for request in sandbox.requests]
    assert max(len(list(group)) for _, group in itertools.groupby(windows)) >= 29, windows


#### A limit that is shared


def use_up(sandbox: Sandbox, wanted: Callable[[], bool]) -> None:
    """What another program with the same token does to each window, while it is wanted."""
    connection = http.client.HTTPConnection(sandbox.url.removeprefix("http://"), timeout=30)
    headers = {"Authorization": f"Bearer {sandbox.token}", "Intercom-Version": "1.4"}
    headers |= dict.fromkeys(("Accept", "Content-Type"), "application/json")
    while wanted():
        status = 200
        while status != 429:
            connection.request("POST", "/users", json.dumps({"user_id": "neighbour"}), headers)
            with connection.getresponse() as answer:
                answer.read()
                status = answer.status
        time.sleep(0.1)
    connection.close()


def refused(sandbox: Sandbox) -> list[Request]:
    """The run's requests that were answered 429."""
    own = [one for one in sandbox.requests if one.body["user_id"] != "neighbour"]
    return [one for one in own if one.status == 429]


@pytest.mark.parametrize(("concurrency", "clock_offset"), [(1, 300), (5, -300), (32, 300)])
def test_a_limit_that_others_use_up_is_waited_for(
    project: Project, sandbox: Sandbox, concurrency: int, clock_offset: float
) -> None:
    limited(sandbox, 30, 1, clock_offset)
    project.configure(intercom={"concurrency": concurrency})
    project.users(60)
    ended = threading.Event()

    def wanted() -> bool:
        return not (ended.is_set() or refused(sandbox))

    neighbour = threading.Thread(target=use_up, args=(sandbox, wanted), daemon=True)
    neighbour.start()
    try:
        result = project.start().wait(60)
    finally:
        ended.set()
        neighbour.join()
    is_in(result, sandbox, 60)
    ahead = sandbox.now() - time.monotonic()
    for one in refused(sandbox):
        same = [other for other in sandbox.requests if other.body == one.body]
        following = same[same.index(one) + 1]
        assert math.floor(following.began + ahead) > math.floor(one.began + ahead)
    assert len(refused(sandbox)) <= 4 * concurrency


@pytest.mark.parametrize(
    ("retry_after", "reset"),
    [("1", None), ("date", None), ("0", 2), ("1", 0)],
    ids=["seconds", "date", "reset later", "reset earlier"],
)
def test_a_429_is_waited_out_as_long_as_it_says(
    project: Project, sandbox: Sandbox, retry_after: str, reset: int | None
) -> None:
    sandbox.clock_offset = -300

    def refuse(request: Request) -> Fault | None:
        headers = {"Retry-After": retry_after}
        if retry_after == "date":
            headers["Retry-After"] = formatdate(sandbox.now() + 2, usegmt=True)
        if reset is not None:
            headers[RESET] = str(int(sandbox.now()) + reset)
        return Fault(status=429, headers=headers) if len(sandbox.requests) == 2 else None

    sandbox.fault_for = refuse
    project.users(3)
    is_in(project.run(), sandbox, 3)
    _, first, second, _ = sandbox.requests
    assert second.began - first.ended > 0.9


#### Headers that are of no use

ABSURD = {
    "missing": {},
    "without a reset": {LIMIT: "100", LEFT: "0"},
    "without a rest": {LIMIT: "100", RESET: "+100"},
    "without a limit": {LEFT: "50", RESET: "+100"},
    "reset in the past": {LIMIT: "100", LEFT: "0", RESET: "-60"},
    "reset now": {LIMIT: "100", LEFT: "0", RESET: "+0"},
    "reset in milliseconds": {LIMIT: "100", LEFT: "0", RESET: "1793700000000"},
    "reset years ahead": {LIMIT: "100", LEFT: "0", RESET: "99999999999"},
    "reset of zero": {LIMIT: "0", LEFT: "0", RESET: "0"},
    "words": {LIMIT: "many", LEFT: "none", RESET: "soon"},
    "blank": {LIMIT: "", LEFT: "", RESET: ""},
    "fractions": {LIMIT: "1e3", LEFT: "0.5", RESET: "1e10"},
    "less than nothing": {LIMIT: "-1", LEFT: "-5", RESET: "-1"},
    "digits that are no numbers": {LIMIT: "\xb2", LEFT: "\xb9", RESET: "\xb3"},
    "too many digits": {LIMIT: "9" * 5000, LEFT: "9" * 5000, RESET: "9" * 5000},
    "no date": {LIMIT: "100", LEFT: "50", RESET: "+100", "Date": "yesterday"},
    "an endless date": {LIMIT: "100", LEFT: "50", RESET: "+1", "Date": "Fri, 31 Dec 9999"},
    "more left than the limit": {LIMIT: "1", LEFT: "1000000", RESET: "+100"},
}


def filled_in(headers: dict[str, str], sandbox: Sandbox) -> dict[str, str]:
    """+60 and -60 as seconds from now; a Reset of -1 stays."""
    told = dict(headers)
    if len(told.get(RESET, "")) > 1 and told[RESET][0] in "+-" and told[RESET] != "-1":
        told[RESET] = str(int(sandbox.now()) + int(told[RESET]))
    return told


@pytest.mark.parametrize("headers", ABSURD)
def test_headers_of_no_use_do_no_harm(project: Project, sandbox: Sandbox, headers: str) -> None:
    sandbox.fault_for = lambda _: Fault(headers=filled_in(ABSURD[headers], sandbox))
    project.configure(intercom={"concurrency": 5})
    project.users(20)
    result = project.start().wait(SOON)
    is_in(result, sandbox, 20)
    assert len(sandbox.requests) == 20
    assert not result.error_log


def test_a_429_that_says_nothing_useful_is_tried_again(project: Project, sandbox: Sandbox) -> None:
    values = ["", "soon", "-5", "1e9", "0x10", "٣", "\xb2", "1.5e308", "\x01", "0" * 999, "NaN"]
    values += ["Thu, 99 Foo 2026", "Wed, 21 Oct 2015 07:28:00 GMT", "1793700000000"]
    values += ["Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 1999 23:59:59 -9999"]
    sandbox.faults = [Fault(), Fault(status=429)] + [
        Fault(status=429, headers={name: value.encode().decode("latin-1")})
        for name in ("Retry-After", RESET, "Date")
        for value in values
    ]
    count = len(sandbox.faults) - 1
    project.users(3)
    is_in(project.start().wait(SOON), sandbox, 3)
    assert sandbox.answers == {200: 3, 429: count}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Retry-After", "9" * 11),
        ("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"),
        (RESET, "9" * 11),
    ],
    ids=["seconds", "date", "reset"],
)
def test_a_429_holds_a_run_up_for_five_minutes_at_most(
    project: Project, sandbox: Sandbox, name: str, value: str
) -> None:
    sandbox.faults = [Fault(status=429, headers={name: value})]
    project.users(2)
    child, logs = project.start(), project.folder / "logs"
    eventually(lambda: any("retry" in log.read_text() for log in logs.glob("*_error.log")))
    child.send(signal.SIGINT)
    result = child.wait()
    assert (result.status, result.counts()) == (130, (0, 0, 2)), result
    assert re.search(r"retry.* 300 s", result.error_log)


def test_a_limit_that_ends_is_noticed(project: Project, sandbox: Sandbox) -> None:
    """Answers with headers, and then answers without any."""
    headers = {LIMIT: "10", LEFT: "0", RESET: str(int(sandbox.now()) + 2)}
    sandbox.faults = [Fault(), Fault(headers=headers)]
    project.configure(intercom={"concurrency": 4})
    project.users(30)
    is_in(project.start().wait(SOON), sandbox, 30)
