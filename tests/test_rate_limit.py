"""Intercom's rate limit: a run alone never exceeds it, and waits if others use it up."""

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
from conftest import Project, Result, eventually, lines_of
from faults import Fault
from mock_http import Request
from mock_services import MockServices

from export_csv import NoResponse, RateLimiter, Response, StopSignal, retry_pause

LIMIT = "X-RateLimit-Limit"
REMAINING = "X-RateLimit-Remaining"
RESET = "X-RateLimit-Reset"
# Seconds. A run that waits for a window may take 300; one that doesn't takes far less.
SOON = 100

#### Decisions

NOW = 1_800_000_000  # the server's clock, which may be years ahead of ours
DATE = {"Date": formatdate(NOW, usegmt=True)}


def reply(status: int = 200, **headers: object) -> Response:
    """Return a response with these headers; `reset` is in seconds from its date."""
    names = {"limit": LIMIT, "remaining": REMAINING}
    written = {
        names[name]: str(value) for name, value in headers.items() if name in names
    }
    if "reset" in headers:
        written[RESET] = str(NOW + int(str(headers["reset"])))
    return Response(status, DATE | written)


def limiter(*responses: Response | NoResponse, in_flight: int = 0) -> RateLimiter:
    """Return a limiter after these responses, with this many requests in flight now."""
    limiter = RateLimiter(StopSignal())
    limiter.in_flight = len(responses)
    for response in responses:
        limiter.release(response)
    limiter.in_flight += in_flight
    return limiter


def wait_of(limiter: RateLimiter) -> float:
    """Return the seconds that another request has to wait, or 0 if it needn't wait."""
    now = time.monotonic()
    return max(0.0, limiter.next_slot(now) - now)


def test_until_the_first_response_one_request_is_in_flight() -> None:
    assert wait_of(limiter()) == 0
    assert wait_of(limiter(in_flight=1)) == math.inf
    assert wait_of(limiter(reply(), in_flight=99)) == 0  # there is no limit
    assert wait_of(limiter(NoResponse("lost"), in_flight=1)) == math.inf


def test_requests_in_flight_count_as_sent() -> None:
    for in_flight, has_to_wait in (0, False), (4, False), (5, True), (9, True):
        window = limiter(reply(limit=20, remaining=5, reset=90), in_flight=in_flight)
        assert (wait_of(window) > 60) == has_to_wait


def test_after_the_window_the_next_one_is_as_large() -> None:
    """Nothing else is known about it until its first response."""
    window = limiter(reply(limit=20, remaining=0, reset=90))
    later = time.monotonic() + 91
    for in_flight, may_go in (0, True), (19, True), (20, False):
        window.in_flight = in_flight
        assert (window.next_slot(later) == 0) == may_go


def test_a_request_without_a_response_may_have_been_counted() -> None:
    lost = NoResponse("timed out")
    first = reply(limit=20, remaining=3, reset=90)
    assert wait_of(limiter(first, lost, lost)) == 0
    assert wait_of(limiter(first, lost, lost, lost)) > 60


def test_a_request_lost_during_another_may_have_been_counted_after_it() -> None:
    """If so, the response to the other doesn't include it, even if it opens a new window."""
    for old_window in ([], [reply(limit=20, remaining=9, reset=50)]):
        for lost in NoResponse("cut off"), Response(503):
            window = limiter(*old_window, in_flight=2)
            sent_at = time.monotonic()
            window.release(lost)
            window.release(reply(limit=20, remaining=3, reset=90), sent_at)
            assert wait_of(window) == 0
            window.in_flight = 2  # with the lost one, all three are used up
            assert wait_of(window) > 60


def test_a_request_that_was_lost_before_another_was_counted_before_it() -> None:
    window = limiter(NoResponse("cut off"), in_flight=1)
    window.release(reply(limit=20, remaining=3, reset=90), time.monotonic() + 0.001)
    window.in_flight = 2
    assert wait_of(window) == 0


def test_requests_lost_in_a_new_window_count_until_its_first_response() -> None:
    window = limiter(reply(limit=20, remaining=0, reset=90), in_flight=19)
    later = time.monotonic() + 91
    for in_flight, may_go in (10, True), (10, False), (0, True):
        window.in_flight = in_flight
        assert (window.next_slot(later) == 0) == may_go
        for _ in range(10):
            window.update(NoResponse("lost"), later + 1)


def test_without_a_limit_lost_requests_do_not_count() -> None:
    assert wait_of(limiter(reply(), *[NoResponse("lost")] * 99, in_flight=9)) == 0


@pytest.mark.parametrize("waits", [(90, 40), (40, 90)])
def test_the_earliest_reported_end_of_a_window_counts(waits: tuple[int, int]) -> None:
    """Date has whole seconds, so most responses report an end that is too late."""
    window = RateLimiter(StopSignal())
    for wait in waits:
        date = formatdate(NOW + 90 - wait, usegmt=True)
        window.update(
            Response(
                200, {LIMIT: "20", REMAINING: "0", RESET: str(NOW + 90), "Date": date}
            ),
            time.monotonic(),
        )
    assert 30 < wait_of(window) <= 40


def test_responses_may_arrive_out_of_order() -> None:
    """The lowest number counts, and an earlier window is ignored."""
    earlier = reply(limit=20, remaining=7, reset=50)
    last = reply(limit=20, remaining=0, reset=90)
    same_window = reply(limit=20, remaining=5, reset=90)
    assert wait_of(limiter(last, same_window, earlier)) > 60


def test_a_429_holds_up_other_users_whatever_their_responses_say() -> None:
    pause = Response(429, {"Retry-After": "9"})
    assert wait_of(limiter(pause, Response(200), Response(429))) > 5


# A Reset that says nothing useful: seconds from now
@pytest.mark.parametrize("reset", [-60, 0, 301, 86400, NOW * 999])
def test_a_reset_in_the_past_or_more_than_five_minutes_ahead_is_ignored(
    reset: int,
) -> None:
    assert wait_of(limiter(reply(limit=20, remaining=0, reset=reset))) == 0
    assert wait_of(limiter(reply(limit=20, remaining=0, reset=300))) > 200


# The headers of a 429, and how many seconds it asks to wait
PAUSES: list[tuple[dict[str, str], float]] = [
    ({}, 0),
    ({"Retry-After": "7"}, 7),
    ({"Retry-After": "0"}, 0),
    ({"Retry-After": formatdate(NOW + 8, usegmt=True)}, 8),
    ({"Retry-After": formatdate(NOW - 8, usegmt=True)}, 0),
    ({RESET: str(NOW + 9)}, 9),
    ({RESET: str(NOW - 9)}, 0),
    ({RESET: str(NOW + 9), "Retry-After": "7"}, 9),
    ({RESET: str(NOW + 7), "Retry-After": "9"}, 9),
    ({"Retry-After": "301"}, 300),
    ({"Retry-After": "9" * 11}, 300),
    ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 300),
    *[
        ({name: text}, 0)
        for name in ("Retry-After", RESET)
        for text in (
            "",
            "soon",
            "-5",
            "1e9",
            "0x10",
            "\u0663",
            "\xb2",
            "\x01",
            "NaN",
            "9" * 999,
        )
    ],
    ({"Retry-After": "Thu, 99 Foo 2026"}, 0),
    ({"Retry-After": "Mon, 01 Jan 0001 00:00:00 GMT"}, 0),
    ({"Retry-After": "Fri, 31 Dec 1999 23:59:59 -9999"}, 0),
]


@pytest.mark.parametrize(("headers", "seconds"), PAUSES)
def test_how_long_a_run_waits_after_a_429(
    headers: dict[str, str], seconds: float
) -> None:
    """Both headers are measured against Date, so that a wrong local clock does no harm."""
    assert retry_pause(Response(429, DATE | headers)) == seconds
    assert retry_pause(Response(503, DATE | headers)) == 0


def test_without_a_date_the_local_clock_counts() -> None:
    assert 5 < retry_pause(Response(429, {RESET: str(int(time.time()) + 9)})) <= 9


def test_requests_of_users_in_flight_are_sent_although_the_run_stops() -> None:
    """They are sent until their time is used up; other requests aren't sent anymore."""
    stop = StopSignal()
    window = RateLimiter(stop)
    stop.request("a reason")
    assert not window.acquire()
    assert window.acquire(grace=0.0)
    window.release(reply())
    stop.since -= 121
    assert not window.acquire(grace=0.0)
    assert window.acquire(grace=10.0)


#### A run that is alone on its token


def set_limit(
    services: MockServices, limit: int, window: int = 1, clock_offset: float = 0
) -> None:
    services.limit = limit
    services.window = window
    services.clock_offset = clock_offset


def check_import(result: Result, services: MockServices, count: int) -> None:
    """Fail the test unless u1, u2, ... have all been imported."""
    assert (result.status, result.counts()) == (0, (count, 0, 0)), result
    users = {user.get("user_id", user.get("external_id")) for user in services.find()}
    assert users >= {f"u{number}" for number in range(1, count + 1)}


# concurrency, the limit, its window, the server's clock, and how many users
ALONE = {
    "one by one": (1, 40, 1, 300, 70),
    "5, clock behind": (5, 40, 1, -300, 70),
    "32, clock ahead": (32, 40, 1, 300, 70),
    "fewer than in flight": (32, 5, 1, 0, 12),
    "one per window": (8, 1, 1, 0, 3),
    "two seconds": (5, 20, 2, 0, 30),
    "one more than in flight": (32, 33, 1, 0, 60),
}


@pytest.mark.parametrize("case", ALONE)
def test_a_run_that_is_alone_never_gets_a_429(
    project: Project, services: MockServices, case: str
) -> None:
    concurrency, limit, window, clock_offset, count = ALONE[case]
    set_limit(services, limit, window, clock_offset)
    services.latency = 0.005
    project.configure(intercom={"concurrency": concurrency})
    project.users(count)
    check_import(project.run(), services, count)
    assert services.responses == {200: count}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_failed_requests_count_too(
    project: Project, services: MockServices, concurrency: int
) -> None:
    set_limit(services, 20)
    services.faults = [
        Fault(),
        Fault(status=503),
        Fault(drop=True),
        Fault(status=422),
    ] * 4
    project.configure(intercom={"concurrency": concurrency})
    project.users(40)
    result = project.run()
    assert result.counts() == (36, 0, 4)
    assert services.responses[429] == 0


def test_the_requests_for_a_contact_and_for_attributes_count_too(
    project: Project, services: MockServices
) -> None:
    set_limit(services, 30)
    services.attributes = {"plan": "string"}
    for number in range(1, 31):
        services.contacts[f"c{number}"] = {"external_id": f"u{number}", "role": "user"}
    project.configure(
        intercom={"concurrency": 8, "user_url": services.contacts_url},
        custom_attributes={"plan": "name"},
    )
    project.users(30)
    check_import(project.run(), services, 30)
    assert services.responses == {200: 61, 409: 30}


def test_the_limit_is_used_up_and_not_exceeded(
    project: Project, services: MockServices
) -> None:
    """A run that the limit slows down sends all that a window allows."""
    set_limit(services, 30)
    services.latency = 0.002
    project.configure(intercom={"concurrency": 8})
    project.users(70)
    check_import(project.run(), services, 70)
    ahead = time.time() - time.monotonic()
    windows = [int(request.started_at + ahead) for request in services.requests]
    assert max(len(list(group)) for _, group in itertools.groupby(windows)) >= 29, (
        windows
    )


#### A limit that others use too


def use_up(services: MockServices, is_wanted: Callable[[], bool]) -> None:
    """Use up each window, as another program with the same token may do."""
    host = services.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    headers = {
        "Authorization": f"Bearer {services.token}",
        "Intercom-Version": "1.4",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    body = json.dumps({"user_id": "neighbour"})
    while is_wanted():
        status = 200
        while status != 429:
            connection.request("POST", "/users", body, headers)
            with connection.getresponse() as response:
                response.read()
                status = response.status
        time.sleep(0.1)
    connection.close()


def rate_limited_requests(services: MockServices) -> list[Request]:
    """Return the run's requests that were answered with 429."""
    own = [one for one in services.requests if one.body["user_id"] != "neighbour"]
    return [one for one in own if one.status == 429]


@pytest.mark.parametrize(("concurrency", "clock_offset"), [(1, 300), (32, -300)])
def test_a_run_waits_if_others_use_up_the_limit(
    project: Project, services: MockServices, concurrency: int, clock_offset: float
) -> None:
    """A user that got a 429 is sent again in a later window."""
    set_limit(services, 30, 1, clock_offset)
    project.configure(intercom={"concurrency": concurrency})
    project.users(60)
    has_ended = threading.Event()

    def is_wanted() -> bool:
        return not (has_ended.is_set() or rate_limited_requests(services))

    neighbour = threading.Thread(target=use_up, args=(services, is_wanted), daemon=True)
    neighbour.start()
    try:
        result = project.run()
    finally:
        has_ended.set()
        neighbour.join()
    check_import(result, services, 60)
    ahead = services.now() - time.monotonic()
    for one in rate_limited_requests(services):
        same_user = [other for other in services.requests if other.body == one.body]
        following = same_user[same_user.index(one) + 1]
        assert math.floor(following.started_at + ahead) > math.floor(
            one.started_at + ahead
        )
    assert len(rate_limited_requests(services)) <= 4 * concurrency


def test_a_run_waits_after_a_429_as_long_as_it_says(
    project: Project, services: MockServices
) -> None:
    """By the server's clock, which is five minutes behind here."""
    services.clock_offset = -300

    def fault(request: Request) -> Fault | None:
        until = services.now() + 2
        asks = {
            2: {"Retry-After": "1"},
            4: {"Retry-After": formatdate(until, usegmt=True)},
            6: {"Retry-After": "0", RESET: str(int(until))},
        }
        if len(services.requests) not in asks:
            return None
        return Fault(status=429, headers=asks[len(services.requests)])

    services.fault_for = fault
    project.users(5)
    check_import(project.run(), services, 5)
    assert len(services.requests) == 8
    for number in (1, 3, 5):
        refused = services.requests[number]
        again = services.requests[number + 1]
        assert refused.body == again.body
        assert again.started_at - refused.ended_at > 0.9


def test_a_429_pauses_the_run_for_five_minutes_at_most(
    project: Project, services: MockServices
) -> None:
    """A signal ends the pause."""
    services.faults = [Fault(status=429, headers={"Retry-After": "9" * 11})]
    project.users(2)
    child = project.start()
    logs = project.folder / "logs"
    eventually(
        lambda: any("retrying" in log.read_text() for log in logs.glob("*_error.log"))
    )
    child.send(signal.SIGINT)
    result = child.wait()
    assert (result.status, result.counts()) == (130, (0, 0, 2)), result
    assert re.search(r"retrying in 300 s", result.error_log)


#### Headers that say nothing useful

USELESS = {
    "missing": {},
    "without a reset": {LIMIT: "100", REMAINING: "0"},
    "without a remaining count": {LIMIT: "100", RESET: "+100"},
    "without a limit": {REMAINING: "50", RESET: "+100"},
    "reset in the past": {LIMIT: "100", REMAINING: "0", RESET: "-60"},
    "reset now": {LIMIT: "100", REMAINING: "0", RESET: "+0"},
    "reset in milliseconds": {LIMIT: "100", REMAINING: "0", RESET: "1793700000000"},
    "reset years ahead": {LIMIT: "100", REMAINING: "0", RESET: "99999999999"},
    "reset of zero": {LIMIT: "0", REMAINING: "0", RESET: "0"},
    "words": {LIMIT: "many", REMAINING: "none", RESET: "soon"},
    "blank": {LIMIT: "", REMAINING: "", RESET: ""},
    "fractions": {LIMIT: "1e3", REMAINING: "0.5", RESET: "1e10"},
    "negative numbers": {LIMIT: "-1", REMAINING: "-5", RESET: "-1"},
    "superscript digits": {LIMIT: "\xb2", REMAINING: "\xb9", RESET: "\xb3"},
    "too many digits": {LIMIT: "9" * 5000, REMAINING: "9" * 5000, RESET: "9" * 5000},
    "no date": {LIMIT: "100", REMAINING: "50", RESET: "+100", "Date": "yesterday"},
    "truncated date": {
        LIMIT: "100",
        REMAINING: "50",
        RESET: "+1",
        "Date": "Fri, 31 Dec 9999",
    },
    "more than the limit": {LIMIT: "1", REMAINING: "1000000", RESET: "+100"},
}


def test_useless_headers_do_no_harm(project: Project, services: MockServices) -> None:
    """Not even if each response has different ones, as with a load balancer."""
    cases = itertools.cycle(USELESS.values())

    def fault(_: Request) -> Fault:
        headers = dict(next(cases))
        if (
            re.fullmatch(r"[+-]\d{1,3}", headers.get(RESET, ""))
            and headers[RESET] != "-1"
        ):
            headers[RESET] = str(int(services.now()) + int(headers[RESET]))
        return Fault(headers=headers)

    services.fault_for = fault
    project.configure(intercom={"concurrency": 5})
    count = 3 * len(USELESS)
    project.users(count)
    result = project.start().wait(SOON)
    check_import(result, services, count)
    assert len(services.requests) == count
    assert not result.error_log


@pytest.mark.parametrize("headers", USELESS.values(), ids=USELESS)
def test_useless_headers_of_every_response_hold_nothing_up(
    headers: dict[str, str],
) -> None:
    written = dict(DATE | headers)
    if re.fullmatch(r"[+-]\d{1,3}", headers.get(RESET, "")) and headers[RESET] != "-1":
        written[RESET] = str(NOW + int(headers[RESET]))
    window = limiter(*[Response(200, written)] * 3)
    assert wait_of(window) == 0


def test_a_429_that_says_nothing_useful_is_retried_after_timeout(
    project: Project, services: MockServices
) -> None:
    texts = [
        "",
        "soon",
        "-5",
        "1e9",
        "\xb2",
        "0" * 999,
        "Wed, 21 Oct 2015 07:28:00 GMT",
    ]
    services.faults = [Fault(), Fault(status=429)]
    for name in ("Retry-After", RESET, "Date"):
        services.faults += [Fault(status=429, headers={name: text}) for text in texts]
    count = len(services.faults) - 1
    project.users(3)
    result = project.start().wait(SOON)
    check_import(result, services, 3)
    assert services.responses == {200: 3, 429: count}
    assert len(lines_of(result.error_log, "retrying in 0.01 s")) == count


def test_a_limit_that_ends_is_noticed(project: Project, services: MockServices) -> None:
    """Responses with headers are followed by others without any."""
    headers = {LIMIT: "10", REMAINING: "0", RESET: str(int(services.now()) + 2)}
    services.faults = [Fault(), Fault(headers=headers)]
    project.configure(intercom={"concurrency": 4})
    project.users(30)
    check_import(project.start().wait(SOON), services, 30)
