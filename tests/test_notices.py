"""Who hears what: the notices to Hipchat and Slack, and a run that cannot give them."""

from __future__ import annotations

import itertools
import re
import socket
from collections import Counter

import pytest
from conftest import NAME, Project, imported, posix
from sandbox import Fault

HOST = socket.gethostname()


@pytest.fixture(autouse=True)
def switched_on(project: Project) -> None:
    project.notices()


def colours(project: Project) -> list[str]:
    return [notice["color"] for notice in project.sandbox.hipchat]


def last_notice(project: Project) -> str:
    """The last one to Hipchat, which Slack was sent too, with its own escapes, behind a sign."""
    message = project.sandbox.hipchat[-1]["message"]
    escaped = message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    sign, _, text = project.sandbox.slack[-1]["text"].partition(" ")
    assert re.fullmatch(r":\w+:", sign)
    assert text == escaped
    return message


#### What is said


def test_a_run_that_goes_well_is_yellow_then_green_with_a_count(project: Project) -> None:
    """A glance tells how it ended, what and where."""
    project.users(37)
    assert project.run().status == 0
    assert colours(project) == ["yellow", "green"]
    first, counts = last_notice(project).splitlines()
    assert re.search(rf"{NAME} .*\bended on {HOST}: every row is in Intercom", first)
    assert f"{NAME}: 37 added or updated, 0 unchanged, 0 not imported" in counts
    assert "started" in project.sandbox.hipchat[0]["message"]
    project.write("user_id\nu1,x\n")
    project.run()
    signs = [notice["text"].split()[0] for notice in project.sandbox.slack]
    assert signs[0] == signs[2]
    assert len(set(signs)) == 3


def test_the_start_is_told_before_the_first_user_is_sent(project: Project) -> None:
    told: list[int] = []
    project.sandbox.fault_for = lambda _: told.append(len(project.sandbox.notice_requests))
    project.users(1)
    assert project.run().status == 0
    assert told == [2]


def test_a_notice_has_a_line_for_each_thing_that_counts(project: Project) -> None:
    """Rows that are not imported make it red; the screen says the same."""
    project.configure(user={"user_id": "user_id"}, custom_attributes={"years": "age : integer"})
    project.sandbox.faults = [Fault(status=422, message="Email is invalid")]
    project.write("user_id,age\nu1,old\n,5\nu3,3,4,5\nu4\nu5,many\nu6,6\n")
    result = project.run()
    assert colours(project) == ["yellow", "red"]
    first, counts, *others = last_notice(project).splitlines()
    assert re.search(rf"{NAME} .*\bended on {HOST}: 4 of 6 rows were not imported", first)
    assert f"{NAME}: 2 added or updated, 0 unchanged, 4 not imported" in counts
    (rows,) = result.not_imported
    (log,) = (project.folder / "logs").glob("*_error.log")
    for line, pattern in zip(
        others,
        (
            r"left out: 2 x 'age' \(no integer\)",
            "^2 x more or fewer cells than headings$",
            "^1 x .*(user_id, email or id|Email is invalid)",
            "^1 x .*(user_id, email or id|Email is invalid)",
            f"{re.escape(str(rows))}$",
            f"{re.escape(str(log))}$",
        ),
        strict=True,
    ):
        assert re.search(pattern, line), line
    assert result.out.splitlines() == [counts, *others]


ALIKE = [
    ("Field 1 is wrong", "Field 25 is wrong"),
    ("ada@example.com is taken", "bob@example.com is taken"),
    ("No 'ada@x.eu'", "No 'bob@x.eu'"),
    ("id=6762f0dd1bb69 exists", "id=5ab3c exists"),
]


def test_reasons_of_one_kind_are_counted_together(project: Project) -> None:
    """Though numbers, ids and addresses in them differ, and request_ids always do."""
    messages = [message for pair in ALIKE for message in pair]
    project.sandbox.faults = [Fault(status=422, message=message) for message in messages]
    project.users(len(messages))
    result = project.run()
    for text in result.out, last_notice(project):
        kinds = [line for line in text.splitlines() if " x 422 " in line]
        assert [line.split()[0] for line in kinds] == ["2"] * len(ALIKE), text
        assert not re.search(r"\b(1|25|ada|bob|6762f0dd1bb69)\b", "".join(kinds))


def test_kinds_beyond_the_tenth_are_counted_without_a_name(project: Project) -> None:
    words = "abcdefghijklm"
    project.sandbox.faults = [Fault(status=422, message=f"No {word}") for word in words]
    project.users(len(words))
    result = project.run()
    assert "3 x other reasons" in result.out
    assert re.search("1 x 422 unprocessable_[a-z]+: No j", result.out)
    assert "No k" not in result.out


def test_many_long_reasons_leave_room_for_the_counts(project: Project) -> None:
    words = ["".join(pair) for pair in itertools.product("abcdef", "abcdef")]
    project.sandbox.faults = [Fault(status=409, message=f"{word} " * 30) for word in words]
    project.users(len(words))
    result = project.run()
    assert result.counts() == (0, 0, len(words))
    assert f"{len(words)} not imported" in last_notice(project)
    assert str(result.not_imported[0]) in last_notice(project)


# So many that there would be no room for where the reasons are.
MISSING = {f"missing_{n}": f"heading {n}" for n in range(60)}
MISSING |= {f"there_{n}": "name" for n in range(70)}
ALL_LEFT = ["3 not imported", NAME]
# what is set, and the words that tell
STOPS: dict[str, tuple[dict[str, dict[str, object]], list[str]]] = {
    "no file": ({"file": {"time_format": "user_%Y-%m-%d"}}, ["such as user_20"]),
    "no heading": ({"user": {"id": "user_id", "name": "customer"}}, ["'customer' (for name)"]),
    "no headings": ({"custom_attributes": {**MISSING}}, ["'heading 0' (for missing_0)"]),
    "no access": ({"intercom": {"access_token": "x"}}, ["access_token", "401", *ALL_LEFT]),
    "no Intercom": ({"intercom": {"user_url": "http://127.0.0.1:9/users"}}, ["down", *ALL_LEFT]),
}


@pytest.mark.parametrize("case", STOPS)
def test_a_run_that_stops_is_red_with_the_reason(project: Project, case: str) -> None:
    settings, named = STOPS[case]
    project.configure(intercom={"retries": 0})
    project.configure(**settings)
    project.users(3)
    assert project.run().status == 1
    assert colours(project) == ["yellow", "red"]
    message = last_notice(project)
    assert f"stopped on {HOST}" in message.splitlines()[0]
    (log,) = (project.folder / "logs").glob("*_error.log")
    assert [word for word in [*named, str(log)] if word not in message] == [], message


#### How it is said


@posix("Windows has no such names")
def test_slack_is_sent_its_escapes_and_hipchat_plain_text(project: Project) -> None:
    project.write("user_id\nu1\n", "a & <b>.csv")
    project.run("a & <b>.csv")
    assert "\na & <b>.csv: 1 added" in last_notice(project)
    assert "\na &amp; &lt;b&gt;.csv: 1 added" in project.sandbox.slack[-1]["text"]


def test_a_reason_calls_nobody(project: Project) -> None:
    """Neither in Hipchat, with @all, nor in Slack."""
    project.sandbox.faults = [Fault(status=401, message="Ask @all, (@here) or <!channel>")]
    project.users(1)
    project.run()
    message = project.sandbox.hipchat[-1]["message"]
    assert re.search("Ask .*all.*here.*channel", message)
    assert not re.search(r"(?<!\w)@\w", message)
    assert "<!" not in project.sandbox.slack[-1]["text"]


def test_slack_is_sent_only_what_is_set(project: Project) -> None:
    project.users(1)
    project.run()
    assert {tuple(notice) for notice in project.sandbox.slack} == {("text",)}
    extras = {
        "channel": "#imports",
        "username": "Import & Co",
        "icon_url": "https://example.com/icon.png",
        "icon_emoji": ":inbox_tray:",
    }
    project.configure(slack=extras)
    project.run()
    for notice in project.sandbox.slack[2:]:
        assert {key: notice[key] for key in notice if key != "text"} == extras
    assert len(project.sandbox.slack) == 4


def test_hipchat_is_sent_its_form(project: Project) -> None:
    project.users(1)
    project.run()
    project.configure(hipchat={"from": "Night_Import-2", "room_id": "Imports & more"})
    project.run()
    fields = {"room_id", "from", "message", "message_format", "color", "auth_token"}
    assert {frozenset(notice) for notice in project.sandbox.hipchat} == {frozenset(fields)}
    assert {notice["message_format"] for notice in project.sandbox.hipchat} == {"text"}
    assert [(notice["from"], notice["room_id"]) for notice in project.sandbox.hipchat] == [
        *[("Intercom Import", "imports")] * 2,
        *[("Night_Import-2", "Imports & more")] * 2,
    ]


def test_a_long_notice_is_cut_to_what_hipchat_takes(project: Project) -> None:
    project.configure(intercom={f"unknown_{n}": 1 for n in range(250)})
    assert project.run().status == 2
    assert colours(project) == ["red"]
    assert len(project.sandbox.slack) == 1


def test_notices_use_no_netrc(project: Project) -> None:
    """Its default entry would go to whatever host."""
    (project.folder / ".netrc").write_text("default login ada password secret-of-netrc\n")
    heard: list[str] = []
    project.sandbox.watch = lambda request, _: heard.append(request.headers["Authorization"])
    project.users(1)
    assert project.run().status == 0
    assert Counter(heard) == {"": 4, f"Bearer {project.sandbox.token}": 1}


#### Where nobody listens

FAULTS = {
    "errors": Fault(status=500),
    "refusals": Fault(status=404),
    "no answer": Fault(drop=True),
    "redirections": Fault(status=302, headers={"Location": "/users"}),
    "silence": Fault(delay=60),
    "headers that trickle": Fault(trickle_headers=40),
    "a body that trickles": Fault(body=b"x" * 100, trickle=3),
    "a body without end": Fault(endless=True, trickle=1),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_notice_that_fails_is_said_and_changes_nothing(project: Project, fault: Fault) -> None:
    """After three tries, and with --quiet, so that cron mails it. No redirection is followed: the
    stand-in's users would hear of it. The notice of the end gets through, and is sent no more."""
    project.with_constants(NOTICE_TIMES=(1.0, 0.2))
    project.sandbox.notice_faults = [fault] * 8
    project.users(2)
    result = project.run("--quiet")
    assert (result.status, result.out, imported(project)) == (0, "", ["u1", "u2"])
    tries = Counter(notice.service for notice in project.sandbox.notice_requests)
    assert tries == {"hipchat": 3 + 3, "slack": 3 + 1}
    assert "2 added or updated" in last_notice(project)
    lines = result.err.splitlines()
    for service in "Hipchat", "Slack":
        assert sum(f"the notice to {service} failed three times: " in line for line in lines) == 1
        assert re.search(f" WARNING .*notice to {service} failed", result.error_log)
    assert len(lines) == 2
