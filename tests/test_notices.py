"""Notices to Hipchat and Slack: what they say, how they are posted, and failures."""

from __future__ import annotations

import itertools
import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from conftest import (
    NAME,
    Project,
    assert_says,
    eventually,
    imported,
    line_of,
    lines_of,
    posix,
)
from faults import Fault, html_page, not_ok, rate_limited
from mock_http import Request

import export_csv
from export_csv import NoResponse, NoticeDelivery, NoticeRequest, Response, StopSignal

HOST = socket.gethostname()


@pytest.fixture
def notified(project: Project) -> Project:
    """The project, with Hipchat and Slack enabled."""
    project.enable_notices()
    return project


def colors(project: Project) -> list[str]:
    return [notice["color"] for notice in project.services.hipchat]


def last_notice(project: Project) -> str:
    """Return the last notice to Hipchat; Slack's is the same, escaped and after an emoji."""
    message = project.services.hipchat[-1]["message"]
    escaped = message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    emoji, _, text = project.services.slack[-1]["text"].partition(" ")
    assert re.fullmatch(r":\w+:", emoji)
    assert text == escaped
    return message


#### What they say


def test_a_successful_run_is_yellow_then_green_with_the_count(
    notified: Project,
) -> None:
    """The first line says what ended, how and where; the second one has the counts."""
    notified.users(37)
    assert notified.run().status == 0
    assert colors(notified) == ["yellow", "green"]
    assert_says(notified.services.hipchat[0]["message"], f"started on {HOST}")
    first, counts = last_notice(notified).splitlines()
    assert NAME in first
    assert_says(first, rf"\(\d+ \w+ old\) finished on {HOST}$")
    assert counts.startswith(
        f"{NAME}: 37 added or updated, 0 unchanged, 0 not imported in 0:00:"
    )
    notified.write("user_id\nu1,x\n")
    notified.run()
    emoji = [notice["text"].split()[0] for notice in notified.services.slack]
    assert emoji == [
        ":hourglass_flowing_sand:",
        ":white_check_mark:",
        ":hourglass_flowing_sand:",
        ":x:",
    ]


def test_the_start_notice_is_posted_before_the_first_user(notified: Project) -> None:
    notices: list[int] = []
    services = notified.services
    services.fault_for = lambda _: notices.append(len(services.notice_requests))
    notified.users(1)
    assert notified.run().status == 0
    assert notices == [2]


def test_a_notice_has_a_line_for_each_kind_of_information(notified: Project) -> None:
    """Counts, omitted values, reasons, and where the rest is; the console prints the same."""
    notified.configure(
        user={"user_id": "user_id"}, custom_attributes={"years": "age : integer"}
    )
    notified.services.faults = [Fault(status=422, message="Email is invalid")]
    notified.write(
        "user_id,age\nu1,old\n,5\nu3,3,4,5\nu4,7\nu5,many\nu6,6,7\nu7,1\nu7,2\n"
    )
    result = notified.run()
    assert colors(notified) == ["yellow", "red"]
    first, counts, *others = last_notice(notified).splitlines()
    assert_says(first, "failed", HOST, "4 of 8 rows were not imported")
    assert NAME in first
    assert counts.startswith(
        f"{NAME}: 4 added or updated, 0 unchanged, 4 not imported in "
    )
    patterns = [
        "2 in 'age' .*integer",
        "^2 rows not imported: .*cells",
        "^1 row not imported: .*(user_id|Email is invalid)",
        "^1 row not imported: .*(user_id|Email is invalid)",
        "^1 row repeating the user of an earlier row",
        re.escape(str(result.reject_files[0])) + "$",
        r"_reasons\.csv$",
        re.escape(str(next((notified.folder / "logs").glob("*_error.log")))) + "$",
    ]
    assert len(others) == len(patterns), others
    for line, pattern in zip(others, patterns, strict=True):
        assert re.search(pattern, line), line
    assert result.out.splitlines() == [counts, *others]


def test_one_row_is_singular(notified: Project) -> None:
    notified.write("user_id\nu1,x\n")
    notified.run()
    assert_says(last_notice(notified).splitlines()[0], "1 of 1 row was not imported")


def test_unchanged_rows_are_reported_as_unchanged_since_they_were_sent(
    notified: Project,
) -> None:
    """Nobody knows whether they are still in Intercom."""
    notified.configure(intercom={"skip_unchanged": "true"})
    notified.users(3)
    notified.run()
    notified.run()
    message = last_notice(notified)
    assert ": 0 added or updated, 3 unchanged, 0 not imported in " in message
    assert_says(
        line_of(message, "last sent"), "3 .*unchanged since they were last sent"
    )
    assert not re.search("every (row|user) is in", message)


ALIKE = [
    ("Field 1 is wrong", "Field 25 is wrong"),
    ("ada@example.com is taken", "bob@example.com is taken"),
    ("No 'ada@x.eu'", "No 'bob@x.eu'"),
    ("id=6762f0dd1bb69 exists", "id=5ab3c exists"),
]


def test_reasons_are_counted_by_category(notified: Project) -> None:
    """Numbers, ids and addresses in them may differ, and their request_ids always do."""
    messages = [message for pair in ALIKE for message in pair]
    notified.services.faults = [
        Fault(status=422, message=message) for message in messages
    ]
    notified.users(len(messages))
    result = notified.run()
    for text in (result.out, last_notice(notified)):
        lines = lines_of(text, "rows not imported: 422 ")
        assert [line.split()[0] for line in lines] == ["2"] * len(ALIKE), text
        assert not re.search(r"\b(1|25|ada|bob|6762f0dd1bb69)\b", "".join(lines))


def test_many_long_reasons_leave_room_for_the_rest(notified: Project) -> None:
    """Categories beyond the tenth are counted together."""
    words = ["".join(pair) for pair in itertools.product("abcdef", "abcdef")]
    notified.services.faults = [
        Fault(status=409, message=f"{word} " * 60) for word in words
    ]
    notified.users(len(words))
    result = notified.run()
    assert result.counts() == (0, 0, len(words))
    message = last_notice(notified)
    assert f"{len(words)} not imported" in message
    assert str(result.reject_files[0]) in message
    lines = lines_of(message, "not imported: ")
    assert lines_of(message, f"{len(words) - 10} rows not imported: other reasons")
    assert len(lines) <= 12


STOPS: dict[str, tuple[dict[str, dict[str, object]], list[str]]] = {
    # what is set, and what the notice has to say
    "no file": ({"file": {"time_format": "user_%Y-%m-%d"}}, ["user_20"]),
    "no heading": ({"user": {"id": "user_id", "name": "customer"}}, ["customer"]),
    "no headings": (
        {"custom_attributes": {f"missing_{n}": f"heading {n}" for n in range(250)}},
        ["heading 0"],
    ),
    "no access": (
        {"intercom": {"access_token": "xyz"}},
        ["access_token", "401", "3 not imported", NAME],
    ),
    "no Intercom": (
        {"intercom": {"user_url": "http://127.0.0.1:9/users"}},
        ["Intercom", "unreachable", "3 not imported", NAME],
    ),
}


@pytest.mark.parametrize("case", STOPS)
def test_a_run_that_stops_is_red_with_the_reason(notified: Project, case: str) -> None:
    settings, words = STOPS[case]
    notified.configure(intercom={"retries": 0})
    notified.configure(**settings)
    notified.users(3)
    assert notified.run().status == 1
    assert colors(notified) == ["yellow", "red"]
    message = last_notice(notified)
    assert_says(message.splitlines()[0], "failed", HOST)
    (log,) = (notified.folder / "logs").glob("*_error.log")
    assert [word for word in [*words, str(log)] if word not in message] == [], message
    assert ("added or updated" in message) == ("3 not imported" in words)


#### Invalid settings


@pytest.mark.parametrize(
    ("settings", "posted"),
    [
        ({"csv": {"delimiter": "ab"}}, (1, 1)),
        ({"intercom": {f"unknown_{n}": 1 for n in range(300)}}, (1, 1)),
        ({"slack": {"channel": "imports"}}, (1, 0)),
        ({"slack": {"unknown": "imports"}}, (1, 0)),
        ({"hipchat": {"room_id": ""}}, (0, 1)),
        ({"hipchat": {"use_hipchat": "false"}, "csv": {"min_rows": "x"}}, (0, 1)),
        ({"hipchat": {"from": "x" * 16}, "slack": {"webhook_url": "x"}}, (0, 0)),
    ],
    ids=str,
)
def test_invalid_settings_are_reported_to_services_whose_own_are_valid(
    notified: Project, settings: dict[str, dict[str, object]], posted: tuple[int, int]
) -> None:
    """A long list is shortened; the last lines, which say where the rest is, stay."""
    notified.configure(**settings)
    result = notified.run()
    assert (result.status, notified.services.requests) == (2, [])
    services = notified.services
    assert (len(services.hipchat), len(services.slack)) == posted
    if posted == (1, 1):
        assert colors(notified) == ["red"]
        message = last_notice(notified)
        assert_says(message.splitlines()[0], HOST, "invalid settings", "config.ini")
        assert_says(message, r"\[csv\] delimiter|\[intercom\] unknown_0")
        assert_says(message.splitlines()[-1], "_error.log$")


def test_an_invalid_secret_in_the_environment_affects_only_its_service(
    notified: Project,
) -> None:
    assert notified.run(env={"SLACK_WEBHOOK_URL": "none"}).status == 2
    assert (len(notified.services.hipchat), len(notified.services.slack)) == (1, 0)


#### How they are posted


@posix("Windows doesn't allow such names")
def test_slack_gets_escapes_and_hipchat_plain_text(notified: Project) -> None:
    notified.write("user_id\nu1\n", "a & <b>.csv")
    notified.run("a & <b>.csv")
    assert "\na & <b>.csv: 1 added" in last_notice(notified)
    assert "\na &amp; &lt;b&gt;.csv: 1 added" in notified.services.slack[-1]["text"]


def test_a_reason_mentions_nobody(notified: Project) -> None:
    """Neither in Hipchat, with @all, nor in Slack."""
    notified.services.faults = [
        Fault(status=401, message="Ask @all, (@here) or <!channel>")
    ]
    notified.users(1)
    notified.run()
    message = notified.services.hipchat[-1]["message"]
    assert_says(message, "Ask .*all.*here.*channel")
    assert not re.search(r"(?<!\w)@\w", message)
    assert "<!" not in notified.services.slack[-1]["text"]


def test_slack_gets_only_the_fields_that_are_set(notified: Project) -> None:
    notified.users(1)
    notified.run()
    assert {tuple(notice) for notice in notified.services.slack} == {("text",)}
    extras = {
        "channel": "#imports",
        "username": "Import & Co",
        "icon_url": "https://example.com/icon.png",
        "icon_emoji": ":inbox_tray:",
    }
    notified.configure(slack=extras)
    notified.run()
    for notice in notified.services.slack[2:]:
        assert {key: notice[key] for key in notice if key != "text"} == extras
    assert len(notified.services.slack) == 4


def test_hipchat_gets_its_form_fields(notified: Project) -> None:
    notified.users(1)
    notified.run()
    notified.configure(hipchat={"from": "Night_Import-2", "room_id": "Imports & more"})
    notified.run()
    notices = notified.services.hipchat
    fields = {"room_id", "from", "message", "message_format", "color", "auth_token"}
    assert {frozenset(notice) for notice in notices} == {frozenset(fields)}
    assert {notice["message_format"] for notice in notices} == {"text"}
    assert [(notice["from"], notice["room_id"]) for notice in notices] == [
        *[("Intercom Import", "imports")] * 2,
        *[("Night_Import-2", "Imports & more")] * 2,
    ]


def test_notices_send_nothing_from_netrc(notified: Project) -> None:
    """Its default entry would be sent to any host."""
    (notified.folder / ".netrc").write_text(
        "default login ada password secret-of-netrc\n"
    )
    sent: list[str] = []
    notified.services.on_response = lambda request, _: sent.append(
        request.headers["Authorization"]
    )
    notified.users(1)
    assert notified.run().status == 0
    assert Counter(sent) == {"": 4, f"Bearer {notified.services.token}": 1}


#### What counts as delivered


def response(
    status: int, body: bytes, content_type: str = "application/json"
) -> Response:
    return Response(status, {"Content-Type": content_type}, body)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (response(200, b"ok", "text/html"), True),
        (response(200, b"ok", "text/plain; charset=utf-8"), True),
        (response(204, b""), True),
        (response(201, b'{"status": "sent"}'), True),
        (response(200, b'{"ok": true}'), True),
        (response(200, b'{"success": true, "ok": null}'), True),
        (response(200, b'["<b>"]'), True),
        (response(200, b'{"ok": false, "error": "invalid_auth"}'), False),
        (response(200, b'{"success": false}', "text/plain"), False),
        (response(200, b"<!DOCTYPE html><title>Sign in</title>", "text/html"), False),
        (
            response(200, b"Sign in <a href=x>here</a>", "text/html; charset=utf-8"),
            False,
        ),
        (response(200, b"\r\n <html></html>", "text/plain"), False),
        (response(302, b""), False),
        (response(404, b"no_service", "text/html"), False),
        (response(500, b"ok"), False),
        (NoResponse("timed out"), False),
    ],
    ids=str,
)
def test_a_notice_is_delivered_if_the_service_itself_says_so(
    answer: Response | NoResponse, expected: bool
) -> None:
    assert export_csv.is_delivered(answer) is expected


#### Failures and retries


class Deliveries:
    """Delivers a notice within this process, with all times divided by 50."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = project.services.webhook_url
        self.services = project.services
        self.stop = StopSignal()
        self.pauses: list[float] = []
        monkeypatch.setattr(export_csv, "NOTICE_TIMEOUT", 0.2)
        monkeypatch.setattr(export_csv, "NOTICE_PAUSES", (0.02, 0.08))

    def deliver(self, url: str = "") -> NoticeDelivery:
        request = NoticeRequest(
            "Slack", url or self.url, "application/json", '{"text": "x"}'
        )
        delivery = NoticeDelivery(request, self.stop)
        delivery.wait(is_end_notice=True)
        return delivery


@pytest.fixture
def deliveries(project: Project, monkeypatch: pytest.MonkeyPatch) -> Deliveries:
    return Deliveries(project, monkeypatch)


@pytest.mark.parametrize("kind", ["name server", "addresses"])
def test_a_notice_is_abandoned_in_time_whatever_blocks(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A lookup can't be interrupted if no name server answers, so its thread is left behind."""
    release = threading.Event()
    tried: list[object] = []

    def silent_name_server(*_: object, **__: object) -> Any:
        release.wait(60)
        raise OSError("no answer")

    def eight_addresses(host: str, port: int, **_: object) -> Any:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", port))
            for n in range(8)
        ]

    def silent_address(address: object, timeout: float, **_: object) -> Any:
        tried.append(address)
        release.wait(timeout)
        raise TimeoutError("timed out")

    if kind == "name server":
        monkeypatch.setattr(socket, "getaddrinfo", silent_name_server)
    else:
        monkeypatch.setattr(socket, "getaddrinfo", eight_addresses)
        monkeypatch.setattr(export_csv, "create_connection", silent_address)
    delivery = deliveries.deliver("http://silent.example/")
    assert not delivery.is_delivered
    assert re.search("no response|timed out", delivery.failure)
    if kind == "name server":
        assert delivery.thread.is_alive()
    else:
        assert len(set(tried)) == 8
    release.set()


def test_attempts_leave_time_for_those_after_them() -> None:
    """If nobody answers, the three attempts and both pauses take ten seconds together."""
    delivery = object.__new__(NoticeDelivery)
    now = [100.0]
    delivery.deadline = now[0] + export_csv.NOTICE_TIMEOUT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        for attempt in (1, 2, 3):
            seconds = delivery.seconds_for(attempt)
            assert seconds >= 1
            now[0] += seconds
            now[0] += [1, 4, 0][attempt - 1]
    assert now[0] == delivery.deadline


@pytest.mark.parametrize(
    ("seconds", "attempts"),
    [(0, 3), (3, 3), (5, 2), (30, 1)],
    ids="Retry-After {}".format,
)
def test_retry_after_is_obeyed_if_there_is_time(
    monkeypatch: pytest.MonkeyPatch, seconds: int, attempts: int
) -> None:
    """The pauses take one and four seconds, unless the service asks for longer ones."""
    now = [100.0]
    waited: list[float] = []
    requests: list[float] = []
    refusal = Response(429, {"Retry-After": str(seconds)}, b"")

    class Client:
        def __init__(self, *_: object) -> None:
            pass

        def request(self, *_: object, **__: object) -> Response:
            requests.append(now[0])
            return refusal

    def sleep(seconds: float) -> None:
        now[0] += seconds

    delivery = object.__new__(NoticeDelivery)
    delivery.request = NoticeRequest(
        "Slack", "https://example.com/", "application/json", "{}"
    )
    delivery.stop = StopSignal()
    delivery.stop.request(
        "a run that stopped for a reason other than a signal waits too"
    )
    delivery.is_delivered = False
    delivery.deadline = now[0] + export_csv.NOTICE_TIMEOUT
    monkeypatch.setattr(export_csv, "HttpClient", Client)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    delivery.deliver_with_retries()
    waited = [round(b - a, 1) for a, b in itertools.pairwise(requests)]
    assert waited == [max(1, seconds), max(4, seconds)][: attempts - 1]


FAULTS = {
    "errors": Fault(status=500),
    "pages": html_page(),
    "not ok": not_ok(),
    "no response": Fault(drop=True),
    "redirects": Fault(status=302, headers={"Location": "/users"}),
    "silence": Fault(delay=60),
    "headers that trickle": Fault(trickle_headers=40),
    "an endless body": Fault(endless=True, trickle=1),
}
TIMED_OUT = ("silence", "headers that trickle", "an endless body")


@pytest.mark.parametrize("case", FAULTS)
def test_a_notice_that_fails_is_reported_and_changes_nothing(
    project: Project, case: str
) -> None:
    """It is reported after three attempts, on standard error, even under --quiet.

    No redirect is followed.
    """
    project.set_constants(
        NOTICE_TIMEOUT=3.0 if case in TIMED_OUT else 20.0,
        NOTICE_PAUSES=(0.1, 0.2),
        MIN_ATTEMPT_TIME=0.3,
    )
    project.enable_notices()
    project.services.notice_faults_by_service = {
        "hipchat": [FAULTS[case]] * 6,
        "slack": [FAULTS[case]] * 4,
    }
    project.users(2)
    result = project.run("--quiet")
    assert (result.status, result.out, imported(project)) == (0, "", ["u1", "u2"])
    # Slack accepts the second attempt of the end notice, which is then not sent again.
    assert project.services.slack[-1]["text"].startswith(":white_check_mark:")
    # Nobody knows whether a service acts on a request if its response is late.
    assert not project.services.hipchat or case in TIMED_OUT
    requests = project.services.notice_requests
    # Once the mock has noticed that the script is gone.
    eventually(lambda: len(requests) == 11)
    tries = Counter(notice.service for notice in project.services.notice_requests)
    assert tries == {"hipchat": 6, "slack": 5}
    assert sorted(line.split()[1] for line in result.err.splitlines()) == [
        "Hipchat",
        "Hipchat",
        "Slack",
    ]
    assert len(lines_of(result.error_log, " WARNING ", "Hipchat notice failed")) == 6


def test_a_busy_service_gets_the_notice_when_it_asks_for_it(notified: Project) -> None:
    """The end notice of a run that stopped is tried three times too."""
    notified.set_constants(NOTICE_PAUSES=(0.1, 0.2))
    ok = Fault()
    notified.services.notice_faults = [ok, ok]
    busy = [Fault(status=500), rate_limited(1), ok]
    notified.services.notice_faults_by_service = {
        "slack": [ok, *busy],
        "hipchat": [ok, *busy],
    }
    notified.services.faults = [Fault(status=401)]
    notified.users(2)
    result = notified.run()
    assert result.status == 1
    assert colors(notified) == ["yellow", "red"]
    assert "notice failed" not in result.err


@posix("SIGTERM can't be sent on Windows")
@pytest.mark.parametrize("when", ["start notice", "user"])
def test_after_a_signal_a_notice_is_tried_once(notified: Project, when: str) -> None:
    """The run doesn't wait for a start notice that is still in flight."""
    notified.configure(hipchat={"use_hipchat": "false"})
    services = notified.services
    first = Fault(delay=60) if when == "start notice" else Fault()
    services.notice_faults = [first, Fault(status=500)]
    notified.users(3)
    child = notified.start()

    def terminate(request: Request) -> None:
        child.send(signal.SIGTERM)

    if when == "start notice":
        on_notice(services, lambda: child.send(signal.SIGTERM))
    else:
        services.fault_for = terminate
    result = child.wait()
    assert result.status == 143
    requests = services.notice_requests
    eventually(
        lambda: len(requests) == 2
    )  # the mock has to notice that the first one is gone
    assert len(lines_of(result.err, "Slack notice failed: 500")) == 1


def on_notice(services: Any, action: Callable[[], None]) -> None:
    """Call `action` once a notice has arrived, before it is answered."""
    next_fault = services.next_fault

    def wrapped(request: Request) -> Fault:
        fault: Fault = next_fault(request)
        if request.service == "slack" and fault.delay:
            action()
        return fault

    services.next_fault = wrapped


def test_a_response_to_a_notice_is_never_shown(notified: Project) -> None:
    """It may echo the webhook in an unknown encoding. Slack's error words are shown."""
    notified.set_constants(NOTICE_PAUSES=(0.1, 0.1))
    echo = {"error": "sandboxwebhooksecret SANDBOXWEBHOOK secret text"}
    page = b"<html><title>Blocked by Example</title>secret text</html>"
    notified.services.notice_faults_by_service = {
        "hipchat": [Fault(status=500, body=json.dumps(echo).encode())] * 3,
        "slack": [Fault(status=403, body=page)] * 2
        + [Fault(status=404, code="no_service")],
    }
    notified.users(1)
    result = notified.run()
    shown = result.out + result.err + result.debug_log
    assert "secret text" not in shown
    assert_says(line_of(result.err, "Slack"), "404", "no_service")
    assert_says(line_of(result.err, "Hipchat"), "500", "application/json", r"\d+ bytes")
    assert lines_of(result.error_log, "403", "Blocked by Example")
