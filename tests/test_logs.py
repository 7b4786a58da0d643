"""The two logs of a run: what stands there, what never does, and who may read it."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from conftest import NAME, Project, Result, lines_of, posix
from sandbox import Fault

STAMP = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S* "
LEVEL = "DEBUG|INFO|WARNING|ERROR"


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


#### Two files a run


def test_a_run_that_goes_well_has_both_logs_too(project: Project) -> None:
    project.users(1)
    result = project.run()
    assert result.status == 0
    logs = sorted(path.name for path in (project.folder / "logs").iterdir())
    assert len(logs) == 2
    time = logs[0].removesuffix("_debug.log")
    assert logs == [f"{time}_debug.log", f"{time}_error.log"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d", time)  # no colons, for Windows
    assert result.error_log == ""
    assert result.debug_log


def test_runs_that_start_in_one_second_do_not_share_a_file(project: Project) -> None:
    """For each of the next seconds, there are the logs of another run that began in it."""
    logs = project.folder / "logs"
    logs.mkdir()
    began = datetime.now(timezone.utc)
    for second in range(120):
        name = f"{began + timedelta(seconds=second):%Y-%m-%dT%H-%M-%S}"
        (logs / f"{name}_debug.log").write_text("another run's")
        (logs / f"{name}_error.log").write_text("another run's")
    others = files(logs)
    project.write("user_id\nu1\nu2,x\n")
    project.run(env={"TZ": "UTC"})
    assert {path.read_text("utf-8") for path in others} == {"another run's"}
    debug, error = sorted(files(logs) - others)
    assert debug.name.endswith("_debug.log")
    assert error.name == debug.name.replace("_debug", "_error")
    assert "u1" in debug.read_text("utf-8")


def test_without_logs_no_file_is_made_and_the_screen_has_the_reasons(project: Project) -> None:
    project.configure(log={"use_logs": "false"})
    project.users(1)
    before = set(project.folder.rglob("*"))
    result = project.run()
    assert (result.status, result.err) == (0, "")
    assert set(project.folder.rglob("*")) == before
    project.write("user_id\nu1\nu2,x\n")
    result = project.run()
    assert result.status == 1
    assert lines_of(result.err, "line 3", "not imported")
    assert not (project.folder / "logs").exists()


OLD = ["2020-01-01T00-00-00_debug.log", "2020-01-01T00-00-00-2_error.log"]
OLD += ["2021-12-31T23-59-59_error.log"]
OTHERS = ["2020-01-01T00-00-00_debug.log.gz", "2020-01-01_debug.log"]
OTHERS += ["2020-13-01T00-00-00_debug.log", "of 2020-01-01T00-00-00_error.log"]
DAY_OLD = f"{datetime.now() - timedelta(days=1):%Y-%m-%dT%H-%M-%S}_debug.log"


@pytest.mark.parametrize(
    ("days", "removed"), [("", []), ("2.5", OLD), ("0", [*OLD, DAY_OLD])], ids=["ever", "2", "0"]
)
def test_only_old_logs_are_removed(project: Project, days: str, removed: list[str]) -> None:
    """This run's own stay in any case."""
    logs = project.folder / "logs"
    logs.mkdir()
    for name in *OLD, DAY_OLD, *OTHERS:
        (logs / name).write_text("")
    (logs / "2020-02-01T00-00-00_error.log").mkdir()
    before = {path.name for path in logs.iterdir()}
    project.configure(log={"keep_days": days})
    project.users(1)
    result = project.run()
    after = {path.name for path in logs.iterdir()}
    assert before - after == set(removed)
    assert len(after - before) == 2
    assert (result.status, result.error_log) == (0, "")


#### What stands there


def test_each_row_has_its_outcome_by_line_and_identity(project: Project) -> None:
    """The line is where the row begins, though cells hold line breaks."""
    project.configure(intercom={"skip_unchanged": "true"})
    project.write('user_id,email,name\n,same@example.com,\n"u 2",,\n')
    project.run()
    row = '\n"u 2",,\n,same@example.com,\nu3,a@example.com,"two\nlines"\nu4,b@example.com\n,c@d,x\n'
    project.write("user_id,email,name" + row)
    for old in files(project.folder / "logs"):
        old.unlink()
    log = project.run().debug_log
    for line, identity, outcome in (
        (2, "u 2", "unchanged"),
        (3, "same@example.com", "unchanged"),
        (4, "u3", r"200.*\d\.\d+ s"),
        (7, "c@d", r"200.*\d\.\d+ s"),
    ):
        pattern = rf"^{STAMP}(DEBUG|INFO) .*\bline {line}\b.*{identity}.*{outcome}"
        assert re.search(pattern, log, re.MULTILINE), (line, log)
    assert re.search(rf"^{STAMP}ERROR .*\bline 6\b.*not imported.*2 cells", log, re.MULTILINE)


def test_a_value_that_is_left_out_is_told_with_what_mends_it(project: Project) -> None:
    project.configure(custom_attributes={"age": "years old : integer"})
    project.write("user_id,years old\nu1,36\nu2,thirty\n")
    (line,) = project.run().error_log.splitlines()
    assert re.match(f"{STAMP}WARNING ", line)
    for word in "line 3", "u2", "years old", "thirty", "integer":
        assert word in line


def test_the_error_log_is_the_part_of_the_debug_log_that_matters(project: Project) -> None:
    project.sandbox.faults = [Fault(status=500), Fault(status=422)]
    project.write("user_id\nu1\nu2,x\nu3\n")
    result = project.run()
    debug = result.debug_log.splitlines()
    matters = [line for line in debug if re.match(f"{STAMP}(WARNING|ERROR) ", line)]
    assert result.error_log.splitlines() == matters
    assert 2 < len(matters) < len(debug)


#### Lines that nobody can forge

FORGED = "2026-11-01T03:00:00.000 ERROR forged"
CONTROLS = [*map(chr, range(32)), "\x7f", *map(chr, range(0x80, 0xA0)), "\u2028", "\u2029"]
EVIL = "evil" + "".join(CONTROLS).replace("\0", "") + "\n" + FORGED + "\r\n\x1b[2J"


def all_lines_are_our_own(text: str) -> None:
    """Each begins with a time that is no cell's, or is a marked part of a traceback."""
    lines = text.split("\n")
    assert lines.pop() == ""
    assert [line for line in lines if not re.match(rf"{STAMP}({LEVEL}) |    \| ", line)] == []
    assert [line for line in lines if line.startswith(FORGED)] == []
    no_controls("".join(lines))


def no_controls(text: str) -> None:
    assert [character for character in CONTROLS if character in text] == []


def as_cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def test_cells_cannot_forge_lines(project: Project) -> None:
    project.configure(
        user={"user_id": "user_id", "email": "email"}, custom_attributes={"age": "age : integer"}
    )
    evil = as_cell(EVIL)
    rows = [f"{evil},{evil},{evil}", f",{evil},1", f"{evil},{evil}"]
    project.write("user_id,email,age\n" + "\n".join(rows) + "\n")
    result = project.run()
    assert result.counts() == (2, 0, 1)
    assert EVIL.strip() in project.sandbox.requests[0].body["user_id"]
    for log in result.debug_log, result.error_log:
        all_lines_are_our_own(log)
        assert r"user_id=evil\x01\x02" in log
    no_controls(result.out.replace("\n", "") + result.err.replace("\n", ""))


def test_headings_and_settings_cannot_forge_lines(project: Project) -> None:
    project.write(f"user_id2,{as_cell(EVIL)}\nu1,x\n")
    project.configure(user={"user_id": "evil \x1b[2J\x85user"})
    result = project.run()
    assert result.status == 1
    assert len(result.err.splitlines()) == 1
    all_lines_are_our_own(result.error_log)
    all_lines_are_our_own(result.debug_log)
    no_controls(result.err.rstrip("\n"))


@posix("Windows has no such names")
def test_file_names_cannot_forge_lines(project: Project) -> None:
    """Neither the one that is skipped nor the one that is imported."""
    name = EVIL.replace("/", "")[-60:] + ".csv"
    project.users(1)
    project.users(1, name)
    (project.exports / "not_utf-8_\udcff.csv").write_bytes(b"")
    result = project.run()
    assert result.status == 0
    assert lines_of(result.debug_log, "forged", " DEBUG ")
    all_lines_are_our_own(result.debug_log)
    for log in (project.folder / "logs").iterdir():
        log.unlink()
    project.notices()
    result = project.run(name)
    assert result.status == 0
    all_lines_are_our_own(result.debug_log)
    assert len(result.out.splitlines()) == 1
    assert len(project.sandbox.slack[-1]["text"].splitlines()) == 2
    no_controls(result.out.rstrip("\n") + project.sandbox.slack[-1]["text"].replace("\n", ""))


@pytest.mark.parametrize("status", [422, 503, 401])
@pytest.mark.parametrize("listed", [True, False], ids=["error list", "words"])
def test_answers_cannot_forge_lines(project: Project, status: int, listed: bool) -> None:
    errors = [{"code": EVIL, "message": EVIL}]
    content = json.dumps({"type": "error.list", "request_id": EVIL, "errors": errors})
    body = content if listed else EVIL
    project.configure(intercom={"retries": 1})
    project.sandbox.faults = [Fault(status=status, body=body.encode())] * 2
    project.sandbox.notice_faults = [Fault(status=500, body=EVIL.encode())]
    project.users(2)
    project.notices()
    result = project.run()
    assert lines_of(result.error_log, "the notice to Hipchat failed", "evil")
    for log in result.debug_log, result.error_log:
        all_lines_are_our_own(log)
        assert len(lines_of(log, "evil")) > 1
    no_controls(result.err.replace("\n", ""))
    no_controls(project.sandbox.slack[-1]["text"].replace("\n", ""))
    assert "\n" + FORGED not in project.sandbox.slack[-1]["text"]


#### Files for their owner alone


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@posix("Windows has no such modes")
@pytest.mark.usefixtures("no_umask")
def test_what_the_program_makes_is_for_its_owner_alone(project: Project) -> None:
    """Folders on the way too, and whatever the umask; and it is where the settings say."""
    project.configure(
        intercom={"skip_unchanged": "true", "state_file": "state/of/it.sqlite3"},
        log={"folder": "logs/of/it"},
        csv={"not_imported_folder": "kept/of/it"},
    )
    project.write("user_id\nu1\nu2,x\n")
    before, modes = set(project.folder.rglob("*")), dict[Path, int]()

    def look(*_: object) -> None:
        for path in set(project.folder.rglob("*")) - before:
            modes[path] = stat.S_IMODE(path.stat().st_mode)

    project.sandbox.watch = look  # SQLite's own files are gone when the run has ended
    assert project.run().status == 1
    look()
    made = sorted(files(project.folder) - before)
    places = [path.parent.relative_to(project.folder).as_posix() for path in made]
    assert places == ["kept/of/it", "logs/of/it", "logs/of/it", "state/of"]
    assert len(modes) >= 8 + len(made) + 1  # with folders, and a file of SQLite's
    assert [path for path, mode in modes.items() if mode & 0o077] == []


#### No secret anywhere

TOKEN = "tok/en+of==\"inter\\com'%&:7"
PROXY_PASSWORD = "proxy+password/0"


def forms(secret: str) -> set[str]:
    """A secret in each form in which it may turn up."""
    in_json = json.dumps(secret)[1:-1]
    escaped = {in_json, in_json.replace("/", "\\/"), repr(secret)[1:-1]}
    encoded = base64.b64encode(secret.encode()).decode()
    return {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), encoded, *escaped}


class Secrets:
    """A project with secrets that are hard to hide, and all that a run of it shows."""

    def __init__(self, project: Project) -> None:
        self.project, sandbox = project, project.sandbox
        sandbox.token, sandbox.hipchat_key = TOKEN, "key+of/hipchat==8"
        sandbox.api_id, sandbox.api_key = "id_of_app", "key/of+app=9"
        project.notices()
        project.configure(intercom={"access_token": TOKEN, "retries": 0})
        project.users(3)
        self.forms: list[str] = []
        self.env: dict[str, str] = {}
        self.add(TOKEN, sandbox.hipchat_key, sandbox.webhook_url.removeprefix(sandbox.url))

    def add(self, *secrets: str) -> None:
        self.forms += sorted({form for secret in secrets for form in forms(secret)})

    def leaked(self, result: Result) -> list[str]:
        logs = [path.read_text("utf-8") for path in files(self.project.folder / "logs")]
        notices = [notice["text"] for notice in self.project.sandbox.slack]
        notices += [notice["message"] for notice in self.project.sandbox.hipchat]
        shown = "\n".join([result.out, result.err, *logs, *notices])
        return [form for form in self.forms if form in shown]


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def basic_pair_in_an_answer(secrets: Secrets) -> None:
    sandbox = secrets.project.sandbox
    pair = {"api_id": sandbox.api_id, "api_key": sandbox.api_key}
    secrets.project.configure(intercom={"access_token": "", **pair})
    secrets.forms = []
    secrets.add(sandbox.api_key, f"{sandbox.api_id}:{sandbox.api_key}")
    sandbox.faults = [Fault(status=422, message=" ".join(secrets.forms))]


def refused_with_an_echo(secrets: Secrets) -> None:
    """Intercom, Slack and Hipchat send back all that they know, as a proxy's error page may."""
    echo = " ".join(secrets.forms)
    listed = {"errors": [{"code": "x", "message": echo}], "request_id": echo}
    sandbox = secrets.project.sandbox
    sandbox.faults = [Fault(status=422, body=form.encode()) for form in secrets.forms]
    sandbox.faults += [Fault(status=401, body=json.dumps(listed).encode())]
    secrets.project.users(len(sandbox.faults))
    sandbox.notice_faults = [
        Fault(status=500, body=f"{sandbox.hipchat_key} {sandbox.webhook_url}".encode())
    ] * 4


def refused_and_cut_within_a_secret(secrets: Secrets) -> None:
    """What is shown of an answer is cut somewhere: not so that half of a secret stays."""
    sandbox = secrets.project.sandbox
    for most in 100, 200, 1000:
        for length in most - len(TOKEN) // 2 - 20, most - len(TOKEN) // 2:
            text = "x" * length + " " + TOKEN
            listed = {"errors": [{"message": text}], "request_id": text}
            sandbox.faults.append(Fault(status=422, body=text.encode()))
            sandbox.faults.append(Fault(status=422, body=json.dumps(listed).encode()))
    secrets.project.users(len(sandbox.faults))
    secrets.forms.append(TOKEN[:8])


def nobody_there(secrets: Secrets) -> None:
    """Connections to Intercom, Hipchat and Slack are refused; the URLs are in the exceptions."""
    url, project = closed_port(), secrets.project
    path = project.sandbox.webhook_url.removeprefix(project.sandbox.url)
    project.configure(
        intercom={"user_url": url + "/users"},
        hipchat={"api_url": url + "/v1/"},
        slack={"webhook_url": url + path},
    )


def dead_s3(secrets: Secrets) -> None:
    keys = {"access_key": "AKIAEXAMPLE", "secret_key": TOKEN, "region": "us-east-1"}
    secrets.project.configure(aws={"use_aws": "true", "bucket": "not a bucket's name", **keys})


def another_token(secrets: Secrets) -> None:
    """Intercom's answer is 401 to this one."""
    secrets.project.sandbox.token = "another"


def from_the_environment(secrets: Secrets) -> None:
    sandbox = secrets.project.sandbox
    secrets.env = {"INTERCOM_ACCESS_TOKEN": TOKEN, "HIPCHAT_API_KEY": sandbox.hipchat_key}
    secrets.env["SLACK_WEBHOOK_URL"] = sandbox.webhook_url
    secrets.project.configure(intercom={"access_token": ""}, hipchat={"api_key": ""})
    secrets.project.configure(slack={"webhook_url": ""})
    refused_with_an_echo(secrets)


def proxy_that_refuses(secrets: Secrets, scheme: str = "http") -> None:
    place = closed_port().removeprefix("http://")
    proxy = f"{scheme}://ada:{quote(PROXY_PASSWORD, safe='')}@{place}"
    secrets.env = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    secrets.project.configure(hipchat={"use_hipchat": "false"})
    secrets.add(PROXY_PASSWORD)


def proxy_that_the_packages_cannot_talk_to(secrets: Secrets) -> None:
    proxy_that_refuses(secrets, "socks5")


def proxy_that_tells(secrets: Secrets) -> None:
    """The stand-in is the proxy too, and tells what it was sent."""
    sandbox = secrets.project.sandbox
    secrets.add(PROXY_PASSWORD, f"ada:{PROXY_PASSWORD}")
    place = sandbox.url.removeprefix("http://")
    secrets.env = {"HTTP_PROXY": f"http://ada:{quote(PROXY_PASSWORD, safe='')}@{place}"}
    sandbox.faults = [Fault(status=422, message=" ".join(secrets.forms))]
    secrets.project.configure(hipchat={"use_hipchat": "false"}, slack={"use_slack": "false"})


TROUBLES: list[Callable[[Secrets], None]] = [
    basic_pair_in_an_answer,
    another_token,
    refused_with_an_echo,
    refused_and_cut_within_a_secret,
    nobody_there,
    dead_s3,
    from_the_environment,
    proxy_that_refuses,
    proxy_that_the_packages_cannot_talk_to,
    proxy_that_tells,
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
def test_no_secret_is_shown(project: Project, trouble: Callable[[Secrets], None]) -> None:
    secrets = Secrets(project)
    trouble(secrets)
    result = project.run(env=secrets.env)
    assert result.status in (1, 2), result
    assert secrets.leaked(result) == []


def test_hiding_leaves_the_rest_of_the_text_alone(project: Project) -> None:
    """Blank secrets, and secrets of a letter, don't turn messages into stars."""
    project.configure(intercom={"access_token": "", "api_id": "a", "api_key": "n"})
    project.sandbox.api_id, project.sandbox.api_key = "a", "n"
    project.users(1, f"not_{NAME}")
    result = project.run()
    assert result.status == 1
    assert "***" not in result.err + result.debug_log + result.out
