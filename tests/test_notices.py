"""Who hears what: the notices to Hipchat and Slack, and a run that cannot give them."""

from __future__ import annotations

import itertools
import re
import socket
from collections import Counter
from collections.abc import Callable

import pytest
from conftest import NAME, Project
from sandbox import Fault

HOST = socket.gethostname()
BROKEN = "user_id,name\nu1,Ada\nu2,Bob,too much\nu3,Cleo\n"


@pytest.fixture(autouse=True)
def switched_on(project: Project) -> None:
    project.notices()


def colours(project: Project) -> list[str]:
    return [notice["color"] for notice in project.sandbox.hipchat]


def last_notice(project: Project) -> str:
    """The last one to Hipchat, which Slack was sent too, with its own escapes."""
    message = project.sandbox.hipchat[-1]["message"]
    escaped = message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert project.sandbox.slack[-1]["text"] == escaped
    return message


#### What is said


def test_a_run_that_goes_well_is_yellow_then_green_with_the_number_of_users(
    project: Project,
) -> None:
    project.users(37)
    assert project.run().status == 0
    assert colours(project) == ["yellow", "green"]
    assert len(project.sandbox.slack) == 2
    assert f"{NAME}: 37 added or updated" in last_notice(project)


def test_the_start_is_told_before_the_first_user_is_sent(project: Project) -> None:
    told: list[int] = []
    project.sandbox.fault_for = lambda _: told.append(len(project.sandbox.notice_requests))
    project.users(1)
    assert project.run().status == 0
    assert told == [2]


def test_a_value_left_out_is_green_and_counted(project: Project) -> None:
    project.configure(custom_attributes={"age": "name : integer"})
    project.users(3)
    assert project.run().status == 0
    assert colours(project) == ["yellow", "green"]
    assert re.search(r"\b3 values\b", last_notice(project))


def test_rows_that_are_not_imported_make_it_red(project: Project) -> None:
    """It says which file, how many, and where the rows and the reasons are, on which machine."""
    project.write(BROKEN)
    result = project.run()
    assert colours(project) == ["yellow", "red"]
    message = last_notice(project)
    (rows,) = result.not_imported
    (log,) = (project.folder / "logs").glob("*_error.log")
    counts = f"{NAME}: 2 added or updated, 0 unchanged, 1 not imported"
    for named in counts, str(rows), str(log), HOST:
        assert named in message


def test_the_reason_of_a_row_is_in_the_red_notice(project: Project) -> None:
    project.sandbox.faults = [Fault(status=422, message="Email is invalid")]
    project.users(2)
    project.run()
    assert "1 x 422" in last_notice(project)
    assert "Email is invalid" in last_notice(project)


def test_reasons_of_one_kind_are_counted_together(project: Project) -> None:
    """Though numbers in them differ, and request_ids always do."""
    project.sandbox.faults = [
        Fault(status=422, message=f"Field {number} is wrong") for number in (1, 2, 3)
    ]
    project.write("user_id,name\nu1,A\nu2,B\nu3,C\nu4,D,E\nu5,E\n")
    result = project.run()
    assert result.counts() == (1, 0, 4)
    for told in result.err, last_notice(project):
        assert re.search(r"3 x 422 .*Field 1 is wrong", told), told
        assert re.search(r"1 x 3 cells, where there are 2 headings", told), told
        assert "Field 2" not in told


def test_addresses_in_reasons_do_not_make_kinds_of_their_own(project: Project) -> None:
    project.sandbox.faults = [
        Fault(status=422, message=f"{name}@example.com is taken") for name in ("ada", "bob")
    ]
    project.users(2)
    project.run()
    assert "2 x 422" in last_notice(project)


def test_kinds_beyond_the_tenth_are_counted_without_a_name(project: Project) -> None:
    words = "abcdefghijklm"
    project.sandbox.faults = [Fault(status=422, message=f"No {word}") for word in words]
    project.users(len(words))
    result = project.run()
    assert "3 x other reasons" in result.err
    assert "1 x 422 unprocessable_entity: No j" in result.err
    assert "No k" not in result.err


def test_many_long_reasons_leave_room_for_the_counts(project: Project) -> None:
    words = ["".join(pair) for pair in itertools.product("abcdef", "abcdef")]
    project.sandbox.faults = [Fault(status=409, message=f"{word} " * 30) for word in words]
    project.users(len(words))
    result = project.run()
    assert result.counts() == (0, 0, len(words))
    assert f"{len(words)} not imported" in last_notice(project)
    assert str(result.not_imported[0]) in last_notice(project)


def no_file(project: Project) -> None:
    (project.exports / NAME).unlink()


def no_heading(project: Project) -> None:
    project.write("customer,name\nu1,Ada\n")


def no_access(project: Project) -> None:
    project.configure(intercom={"access_token": "another-token"})


def no_intercom(project: Project) -> None:
    project.configure(intercom={"retries": 0})
    project.sandbox.faults = [Fault(drop=True)] * 2


STOPS: dict[str, tuple[Callable[[Project], None], list[str]]] = {
    "no file": (no_file, ["such as users_20"]),
    "no heading": (no_heading, ["user_id", "customer"]),
    "no access": (no_access, ["access_token", "401", "3 not imported", NAME]),
    "no Intercom": (no_intercom, ["down", "3 not imported", NAME]),
}


@pytest.mark.parametrize(("trouble", "named"), STOPS.values(), ids=STOPS)
def test_a_run_that_stops_is_red_with_the_reason(
    project: Project, trouble: Callable[[Project], None], named: list[str]
) -> None:
    project.users(3)
    trouble(project)
    assert project.run().status == 1
    assert colours(project) == ["yellow", "red"]
    message = last_notice(project)
    (log,) = (project.folder / "logs").glob("*_error.log")
    assert [word for word in [*named, HOST, str(log)] if word not in message] == [], message


#### How it is said


def test_slack_is_sent_its_escapes_and_hipchat_plain_text(project: Project) -> None:
    project.write("user_id\nu1\n", "a & <b>.csv")
    project.run("a & <b>.csv")
    assert "a & <b>.csv: 1 added" in last_notice(project)
    assert "a &amp; &lt;b&gt;.csv: 1 added" in project.sandbox.slack[-1]["text"]


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
    project.configure(intercom={f"unknown_{n}_{'x' * 50}": 1 for n in range(150)})
    assert project.run().status == 2
    assert colours(project) == ["red"]
    assert len(project.sandbox.slack) == 1


#### Where nobody listens

FAULTS = {
    "errors": Fault(status=500),
    "refusals": Fault(status=404),
    "no answer": Fault(drop=True),
    "redirections": Fault(status=302, headers={"Location": "/users"}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_notice_that_fails_is_tried_three_times_and_changes_nothing(
    project: Project, fault: Fault
) -> None:
    """Nor is a redirection followed: the stand-in's users would hear of it."""
    project.sandbox.notice_faults = [fault] * 12
    project.users(2)
    result = project.run()
    assert (result.status, result.counts(), result.err) == (0, (2, 0, 0), "")
    assert [request.body["user_id"] for request in project.sandbox.requests] == ["u1", "u2"]
    tries = Counter(notice.service for notice in project.sandbox.notice_requests)
    assert tries == {"hipchat": 6, "slack": 6}
    assert project.sandbox.slack == project.sandbox.hipchat == []
    for service in "Hipchat", "Slack":
        assert re.search(f" WARNING .*notice to {service} failed", result.error_log)


def test_a_port_that_is_closed_changes_nothing(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    project.configure(hipchat={"api_url": url}, slack={"use_slack": "false"})
    project.users(2)
    result = project.run()
    assert (result.status, result.counts(), result.err) == (0, (2, 0, 0), "")
    assert re.search("notice to Hipchat failed.*refused", result.error_log)


def test_a_service_that_hangs_changes_nothing(project: Project) -> None:
    """And the notice of the end is sent, now that it answers again."""
    project.configure(hipchat={"use_hipchat": "false"})
    project.sandbox.notice_faults = [Fault(delay=60)] * 3
    project.users(2)
    result = project.run()
    assert (result.status, result.counts(), result.err) == (0, (2, 0, 0), "")
    (notice,) = (one for one in project.sandbox.notice_requests if one.status)
    assert notice.status == 200
    assert "2 added or updated" in project.sandbox.slack[-1]["text"]


def test_a_notice_that_gets_through_is_not_sent_again(project: Project) -> None:
    project.configure(hipchat={"use_hipchat": "false"})
    project.sandbox.notice_faults = [Fault(status=500)] * 2
    project.users(1)
    assert project.run().status == 0
    statuses = [notice.status for notice in project.sandbox.notice_requests]
    assert statuses == [500, 500, 200, 200]
    assert len(project.sandbox.slack) == 2


def test_slack_hears_what_hipchat_does_not(project: Project) -> None:
    project.configure(hipchat={"api_key": "wrong"})
    project.write(BROKEN)
    assert project.run().status == 1
    assert project.sandbox.hipchat == []
    assert len(project.sandbox.slack) == 2


#### The same failure, night after night


def night(project: Project, number: int) -> str:
    """What is said of a run, whose logs then are those of that night."""
    project.run()
    for kind in "debug", "error":
        (log,) = [
            path
            for path in (project.folder / "logs").glob(f"*_{kind}.log")
            if not path.name.startswith("2025-01-")
        ]
        log.rename(log.with_name(f"2025-01-{number:02}T03-00-00_{kind}.log"))
    return str(project.sandbox.slack[-1]["text"])


def test_a_run_that_fails_as_the_ones_before_says_how_many(project: Project) -> None:
    project.configure(hipchat={"use_hipchat": "false"}, intercom={"access_token": "another-token"})
    project.users(2)
    first, _, third = (night(project, number) for number in (1, 2, 3))
    assert not re.search(r"\bruns?\b.*\b2025-01-", first)
    assert re.search(r"\b[23] runs\b.*\b2025-01-01", third), third

    project.configure(intercom={"access_token": project.sandbox.token})
    project.write("user_id\nu1\nu2,x\n")
    assert "2025-01-" not in night(project, 4)  # it fails for another reason
    project.users(2)
    night(project, 5)
    project.configure(intercom={"access_token": "another-token"})
    assert "2025-01-" not in night(project, 6)  # the one before it went well


def test_a_notice_that_fails_does_not_make_it_another_failure(project: Project) -> None:
    """The last lines of the error log then are about that."""
    project.configure(
        hipchat={"api_url": "http://127.0.0.1:9/v1/"}, intercom={"access_token": "another-token"}
    )
    project.users(2)
    night(project, 1)
    assert "the 1 run before it, since 2025-01-01" in night(project, 2)


def test_another_kind_of_reason_is_another_failure(project: Project) -> None:
    project.configure(hipchat={"use_hipchat": "false"})
    project.write("user_id\nu1\nu2,x\n")
    night(project, 1)
    project.sandbox.faults = [Fault(status=422, message="Email is invalid")]
    assert "2025-01-" not in night(project, 2)


def test_wrong_settings_are_told_like_any_failure(project: Project) -> None:
    project.configure(hipchat={"use_hipchat": "false"}, intercom={"retries": "many"})
    first, second = night(project, 1), night(project, 2)
    assert str(project.config) in first
    assert "_error.log" in first
    assert "2025-01-" not in first
    assert "the 1 run before it, since 2025-01-01" in second


def test_the_number_of_rows_does_not_make_it_another_failure(project: Project) -> None:
    project.configure(hipchat={"use_hipchat": "false"})
    project.write("user_id\nu1\nu2,x\n")
    night(project, 1)
    project.write("user_id\nu1,x\nu2,x\n")
    assert "2025-01-01" in night(project, 2)


def test_a_log_that_cannot_be_read_keeps_nobody_from_hearing(project: Project) -> None:
    logs = project.folder / "logs"
    logs.mkdir()
    (logs / "2025-01-01T00-00-00_error.log").symlink_to("gone")
    project.notices()
    assert project.run("missing.csv").status == 1
    assert [notice["color"] for notice in project.sandbox.hipchat] == ["yellow", "red"]
