"""Decisions about sending, without a server: who is the same user, and when a run has to stop."""

from __future__ import annotations

import itertools
import math
import os
import signal
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

import export_csv
from export_csv import (
    IdentityIndex,
    IntercomSettings,
    OutageDetector,
    RejectionDetector,
    Response,
    Row,
    RunAborted,
    Settings,
    StopSignal,
    Upload,
    Verdict,
)

#### Who is the same user

ADA: dict[str, Any] = {"user_id": "u1", "email": "a@example.com"}

# Two users, whether they are the same, and whether one has to wait for the other.
PAIRS = {
    "same user_id": ({"user_id": "u1"}, {"user_id": "u1"}, True, True),
    "other user_id": ({"user_id": "u1"}, {"user_id": "u2"}, False, False),
    "user_ids differ in case": ({"user_id": "u1"}, {"user_id": "U1"}, False, False),
    "same user_id, other address": (
        ADA,
        {"user_id": "u1", "email": "b@example.com"},
        True,
        True,
    ),
    "shared address": (ADA, {"user_id": "u2", "email": "a@example.com"}, False, False),
    "address of a user with user_id": (ADA, {"email": "a@example.com"}, True, True),
    "address in another case": (ADA, {"email": "A@Example.com"}, True, True),
    "other address": (ADA, {"email": "b@example.com"}, False, False),
    "same address without user_ids": ({"email": "a@b"}, {"email": "a@b"}, True, True),
    "user_id alone next to address alone": (
        {"user_id": "u1"},
        {"email": "a@b"},
        False,
        True,
    ),
    "same id": ({"id": "x"}, {"id": "x", "user_id": "u1"}, True, True),
    "other id": ({"id": "x"}, {"id": "y"}, False, False),
    "id alone next to user_id": ({"id": "x"}, ADA, False, True),
    "user_id that equals an address": (
        {"user_id": "a@b"},
        {"email": "a@b"},
        False,
        True,
    ),
}


@pytest.mark.parametrize(
    ("one", "other", "is_same", "has_to_wait"), PAIRS.values(), ids=PAIRS
)
def test_which_two_rows_are_the_same_user(
    one: dict[str, Any], other: dict[str, Any], is_same: bool, has_to_wait: bool
) -> None:
    for first, second in ((one, other), (other, one)):
        index = IdentityIndex()
        index.add(first)
        assert index.contains(second) == is_same
        assert index.may_contain(second) == has_to_wait


def test_a_removed_user_is_no_longer_in_the_index() -> None:
    index = IdentityIndex()
    users = [ADA, {"user_id": "u1"}, {"email": "A@example.com"}, {"id": "x"}]
    for user in users:
        index.add(user)
        index.add(user)
    for user in users:
        index.remove(user)
        assert index.contains(user)  # it was added twice
    for user in users:
        index.remove(user)
    assert not any(index.may_contain(user) for user in users)
    leftovers = [counter for counter in vars(index).values() if counter]
    assert leftovers == []  # or memory would grow with the file


def test_the_third_row_of_a_user_waits_for_the_second() -> None:
    """By the time it is sent, the first one may have been accepted."""
    index = IdentityIndex()
    index.add({"user_id": "u1"})
    assert index.may_contain({"email": "a@example.com"})
    assert not index.may_contain({"user_id": "u2", "email": "a@example.com"})


#### Outages


def outage_of(*events: tuple[float, float | None]) -> list[bool]:
    """Return, for each failure, whether a detector reports an outage.

    An event is the time of a failure and the time of its user's first attempt, or the time of a
    useful response and None.
    """
    detector = OutageDetector()
    found = []
    for moment, first_attempt in events:
        if first_attempt is None:
            detector.record_useful_response(moment)
        else:
            found.append(
                bool(detector.record_failure(first_attempt, "500 (no content type)"))
            )
    return found


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(9, 1)], [False]),
        ([(9, 1), (18, 10)], [False, True]),
        ([(0, None), (9, 1), (18, 10)], [False, True]),
        ([(9, 1), (10, None), (18, 11)], [False, False]),
        # In flight at the same time: without and with another user accepted between their first
        # attempts.
        ([(9, 1), (9, 3), (9, 3)], [False, True, True]),
        ([(2, None), (9, 1), (9, 3)], [False, False]),
        # The last two failures count, not the very first one.
        ([(9, 1), (10, None), (19, 11), (29, 20)], [False, False, True]),
        # A user is tried for a long time, while others are accepted; then others fail.
        ([(50, None), (60, 0), (70, 61)], [False, False]),
        ([(50, None), (60, 0), (70, 61), (80, 71)], [False, False, True]),
    ],
)
def test_outages_are_detected(
    events: list[tuple[float, float | None]], expected: list[bool]
) -> None:
    assert outage_of(*events) == expected


def test_an_outage_names_the_last_responses() -> None:
    detector = OutageDetector()
    assert detector.record_failure(1, "429 rate_limit_exceeded") == ""
    reason = detector.record_failure(2, "timed out")
    assert "429 rate_limit_exceeded" in reason
    assert "timed out" in reason
    assert detector.record_failure(3, "timed out").count("timed out") == 1


#### Rejected users

CONTACTS = IntercomSettings(user_url="https://api.intercom.io/contacts")
USERS = replace(CONTACTS, user_url="https://api.intercom.io/users")


def detector_for(
    intercom: IntercomSettings = USERS, *, known: bool = False
) -> RejectionDetector:
    return RejectionDetector(Settings(intercom=intercom), accepted_before=known)


def record(
    detector: RejectionDetector,
    status: int,
    verdict: Verdict,
    count: int = 1,
    **user: str,
) -> list[str]:
    """Record this response for `count` users; return the detector's results."""
    upload = Upload(Row(2, b"", []), {"user_id": "u1", **user})
    body = b'{"type": "error.list", "errors": [{"code": "bad", "message": "no good"}]}'
    response = Response(status, body=body)
    return [detector.record(upload, response, verdict) for _ in range(count)]


REJECTED = Verdict.REJECTED


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(("known", "limit"), [(False, 100), (True, 1000)])
def test_if_all_of_the_first_users_are_rejected_the_run_stops(
    status: int, known: bool, limit: int
) -> None:
    said = record(detector_for(known=known), status, REJECTED, limit)
    assert not any(said[:-1])
    assert f"{limit:,}" in said[-1]
    assert "no good" in said[-1]
    assert "/contacts" in said[-1]
    contacts = record(detector_for(CONTACTS, known=known), status, REJECTED, limit)
    assert contacts[-1]
    assert "/contacts" not in contacts[-1]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.ACCEPTED),
        (409, REJECTED),  # another contact has the address
        (413, REJECTED),
        (404, REJECTED),  # the row has no `id`
        (500, Verdict.RETRY),
        (403, Verdict.BLOCKED),
    ],
)
@pytest.mark.parametrize("position", [0, 50, 99])
def test_one_user_with_another_response_shows_that_the_settings_are_right(
    status: int, verdict: Verdict, position: int
) -> None:
    detector = detector_for()
    said = record(detector, 400, REJECTED, position)
    said += record(detector, status, verdict)
    said += record(detector, 400, REJECTED, 2000)
    assert not any(said)
    assert detector.reason_at_end() == ""


def test_ids_that_intercom_does_not_know_are_explained() -> None:
    said = record(detector_for(CONTACTS), 404, REJECTED, 100, id="17")
    assert not any(said[:-1])
    assert "user_id" in said[-1]


@pytest.mark.parametrize(
    ("count", "known", "stops"),
    [
        (4, False, False),
        (5, False, True),
        (99, False, True),
        (5, True, False),
        (99, True, False),
    ],
)
def test_a_short_file_whose_users_are_all_rejected_is_explained(
    count: int, known: bool, stops: bool
) -> None:
    detector = detector_for(known=known)
    assert not any(record(detector, 422, REJECTED, count))
    assert bool(detector.reason_at_end()) == stops
    if stops:
        assert str(count) in detector.reason_at_end()
        assert "no good" in detector.reason_at_end()


def test_no_reason_is_given_for_a_file_without_users() -> None:
    assert detector_for().reason_at_end() == ""


def test_a_hundred_users_blocked_on_the_way_stop_the_run() -> None:
    detector = detector_for(known=True)
    said = record(detector, 403, Verdict.BLOCKED, 99)
    said += record(detector, 200, Verdict.ACCEPTED)
    said += record(detector, 403, Verdict.BLOCKED, 99)
    assert not any(said)
    (reason,) = record(detector, 403, Verdict.BLOCKED)
    assert "firewall" in reason
    assert "403" in reason


#### Stopping


class Clock:
    now = 1000.0
    aborts = 0

    def abort(self) -> None:
        self.aborts += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the script's clock, and count aborts instead of ending the process."""
    fake = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: fake.now)
    monkeypatch.setattr(export_csv, "abort_at_once", fake.abort)
    return fake


SIGHUP = getattr(signal, "SIGHUP", signal.SIGTERM)
C, T, H = signal.SIGINT, signal.SIGTERM, SIGHUP


@pytest.mark.parametrize(
    ("signals", "aborts"),
    [
        ([(0.0, C)], 0),
        ([(0.0, C), (0.01, C)], 0),
        ([(0.0, C), (0.99, C)], 0),
        ([(0.0, C), (1.0, C)], 1),
        ([(0.0, C), (0.5, C), (1.1, C)], 1),
        ([(0.0, T), (0.01, T), (5.0, T), (60.0, T)], 0),
        ([(0.0, H), (0.01, H), (5.0, H), (60.0, T)], 0),
        ([(0.0, C), (5.0, T), (6.0, H)], 0),
        # After another signal, a Ctrl-C counts as the first one; a terminal may send it twice.
        ([(0.0, T), (5.0, C), (5.01, C)], 0),
        ([(0.0, T), (5.0, C), (6.0, C)], 1),
    ],
)
def test_only_a_second_ctrl_c_after_a_second_aborts(
    clock: Clock, signals: list[tuple[float, signal.Signals]], aborts: int
) -> None:
    stop = StopSignal()
    for seconds, number in signals:
        clock.now = 1000.0 + seconds
        stop.on_signal(number, None)
    assert clock.aborts == aborts
    assert stop.signum == signals[0][1]
    assert stop.is_set()
    assert stop.was_signaled()


def test_a_double_ctrl_c_after_the_run_stopped_by_itself_does_not_abort(
    clock: Clock,
) -> None:
    stop = StopSignal()
    stop.request("401")
    clock.now += 60
    stop.on_signal(signal.SIGINT, None)
    stop.on_signal(signal.SIGINT, None)
    assert clock.aborts == 0
    assert not stop.was_signaled()  # the 401 is why the run stopped
    assert stop.describe() == "401"


def test_the_first_reason_and_the_earliest_time_count(clock: Clock) -> None:
    stop = StopSignal()
    assert not stop.is_set()
    assert stop.deadline() == math.inf
    stop.request(RunAborted("first"))
    deadline = stop.deadline()
    clock.now += 10
    stop.request("second")
    stop.on_signal(signal.SIGTERM, None)
    assert stop.describe() == "first"
    assert stop.deadline() == deadline == 1000.0 + export_csv.STOP_GRACE_PERIOD


def test_a_signal_is_described_with_what_went_wrong_after_it() -> None:
    stop = StopSignal()
    stop.on_signal(signal.SIGTERM, None)
    assert "SIGTERM" in stop.describe()
    stop.request("disk full")
    assert "SIGTERM" in stop.describe()
    assert "disk full" in stop.describe()


def test_a_signal_after_the_last_row_is_not_a_reason(clock: Clock) -> None:
    for moments in itertools.permutations(["signal", "over"]):
        stop = StopSignal()
        for moment in moments:
            if moment == "over":
                stop.all_rows_done = True
            else:
                stop.on_signal(signal.SIGTERM, None)
        assert not stop.was_signaled()
        assert stop.describe() == ""


def test_an_unexpected_error_is_a_reason_without_a_traceback() -> None:
    stop = StopSignal()
    stop.request(ValueError("odd"))
    assert "ValueError: odd" in stop.describe()
    assert "\n" not in stop.describe()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_signals_that_the_parent_ignores_stay_ignored() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    stop = StopSignal()
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop.catch_signals()
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGINT)
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.is_set():
            time.sleep(0.001)
        assert stop.signum == signal.SIGTERM
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
