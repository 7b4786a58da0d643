"""config.ini, .env and the environment: what they mean, and what is said of what is wrong."""

from __future__ import annotations

import base64
import csv
import os
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import NAME, Project, Result

ROOT = Path(__file__).resolve().parent.parent
Sections = dict[str, dict[str, object]]


def refused(project: Project, *arguments: object) -> list[str]:
    """What a run says of its wrong settings, by line; it has sent nothing to Intercom."""
    project.users(1)
    result = project.run(*arguments)
    assert (result.status, result.out) == (2, ""), result
    assert "Traceback" not in result.err
    assert project.sandbox.requests == []
    return result.err.splitlines()


def unmatched(lines: list[str], patterns: dict[str, str]) -> tuple[list[str], list[str]]:
    """The expected problems that no line has, and the lines that nobody expected."""
    missing, extra = [], list(lines)
    for where, pattern in patterns.items():
        start = f"config.ini: {where}: "
        found = [line for line in lines if line.startswith(start)]
        extra = [line for line in extra if line not in found]
        if not [line for line in found if re.search(pattern, line.removeprefix(start))]:
            missing.append(f"{start}{pattern}")
    return missing, extra


def raw_config(project: Project, text: str) -> None:
    """A config.ini that is right, and this text in front of it."""
    project.configure()
    project.config.write_text(text + project.config.read_text("utf-8"), "utf-8")


#### What is wrong, and what to write

HTTPS = "write .*https://"
NO_TYPES = ["number", "int", "decimal", "double", "bool", "date", "datetime", "text", "str"]
WRONG: dict[str, tuple[Sections, dict[str, str]]] = {
    "switches": (
        {
            "aws": {"use_aws": "maybe"},
            "file": {"select_latest": "2"},
            "intercom": {"skip_unchanged": "perhaps"},
            "hipchat": {"use_hipchat": "si"},
            "slack": {"use_slack": "ja"},
            "log": {"use_logs": "never"},
        },
        {
            "[aws] use_aws": "'maybe'.*write true or false",
            "[file] select_latest": "write true or false",
            "[intercom] skip_unchanged": "write true or false",
            "[hipchat] use_hipchat": "write true or false",
            "[slack] use_slack": "write true or false",
            "[log] use_logs": "write true or false",
        },
    ),
    "numbers": (
        {"intercom": {"timeout": "inf", "retries": "1.5", "concurrency": "two"}},
        {
            "[intercom] timeout": "write .*number",
            "[intercom] retries": "'1.5'.*write .*whole number",
            "[intercom] concurrency": "'two'.*write .*whole number",
        },
    ),
    "numbers out of range": (
        {"intercom": {"timeout": -1, "retries": -1, "concurrency": 0}, "log": {"keep_days": -1}},
        {
            "[intercom] timeout": "write .*number",
            "[intercom] retries": "'-1'.*write .*number",
            "[intercom] concurrency": "'0'.*write .*1",
            "[log] keep_days": "'-1'.*write .*number",
        },
    ),
    "other digits": ({"intercom": {"api_version": "٢.١٤"}}, {"[intercom] api_version": "2.14"}),
    "two characters between cells, and an encoding that nobody knows": (
        {"csv": {"delimiter": ";;", "encoding": "latin-99"}},
        {"[csv] delimiter": "write .*tab", "[csv] encoding": "write .*utf-8"},
    ),
    "a word in capitals, and a codec that is no encoding": (
        {"csv": {"delimiter": "TAB", "encoding": "base64"}},
        {"[csv] delimiter": "write .*the word tab", "[csv] encoding": "write .*utf-8"},
    ),
    "no file": (
        {"file": {"select_latest": "false", "name": ""}},
        {"[file] name": "is blank.*select_latest = true"},
    ),
    "no time format": (
        {"file": {"time_format": "users_%Q"}},
        {"[file] time_format": r"write .*%Y"},
    ),
    "a bucket that is missing": (
        {"aws": {"use_aws": "true", "access_key": "AKIA"}},
        {
            "[aws] bucket": "is blank.*use_aws = false",
            "[aws] secret_key": "is blank.*both keys, or none",
        },
    ),
    "half of the AWS keys": (
        {"aws": {"use_aws": "true", "bucket": "b", "secret_key": "x", "endpoint_url": "minio"}},
        {
            "[aws] access_key": "is blank.*both keys, or none",
            "[aws] endpoint_url": HTTPS,
        },
    ),
    "no credentials": (
        {"intercom": {"access_token": ""}},
        {"[intercom] access_token": "is blank.*INTERCOM_ACCESS_TOKEN"},
    ),
    "an api_id alone": (
        {"intercom": {"access_token": "", "api_id": "app"}},
        {"[intercom] api_key": "is blank.*write"},
    ),
    "an api_key alone": (
        {"intercom": {"access_token": "", "api_key": "key"}},
        {"[intercom] api_id": "is blank.*write"},
    ),
    "Hipchat without a key and a room": (
        {"hipchat": {"use_hipchat": "true", "from": "Import of the night", "api_url": "chat"}},
        {
            "[hipchat] api_key": "is blank.*write",
            "[hipchat] room_id": "is blank.*write",
            "[hipchat] from": "1 to 15",
            "[hipchat] api_url": HTTPS,
        },
    ),
    "Hipchat in the clear, from a name with a dot": (
        {"hipchat": {"from": "a.b", "api_url": "http://chat.example.com/v1/"}},
        {"[hipchat] from": "write .*letters, digits", "[hipchat] api_url": HTTPS},
    ),
    "Slack without a webhook": (
        {"slack": {"use_slack": "true", "channel": "imports"}},
        {"[slack] webhook_url": "is blank.*write", "[slack] channel": "write #channel or @user"},
    ),
    "Slack in the clear": (
        {"slack": {"use_slack": "true", "webhook_url": "http://hooks.slack.com/services/x"}},
        {"[slack] webhook_url": HTTPS},
    ),
    "no identity among the fields": (
        {"user": {"name": "name"}},
        {"[user]": "write .*user_id, email or id"},
    ),
    "constants that are not of their field's type": (
        {
            "user": {"user_id": "user_id", "signed_up_at": "'yesterday'"},
            "custom_attributes": {"age": "'old' : integer"},
        },
        {"[user] signed_up_at": "'yesterday'", "[custom_attributes] age": "'old'"},
    ),
    "names of attributes that Intercom doesn't take, and types that don't exist": (
        {
            "custom_attributes": {
                "a.b": "name",
                "price_$": "name",
                "n" * 191: "name",
                "age": "age : integr",
                **{name: f"name : {name}" for name in NO_TYPES},
            }
        },
        {
            "[custom_attributes] a.b": "rename it",
            "[custom_attributes] price_$": "rename it",
            "[custom_attributes] " + "n" * 191: "rename it|190",
            "[custom_attributes] age": r"\bintegr\b.*write.*\binteger\b.*boolean",
            **{f"[custom_attributes] {name}": f"unknown type {name}" for name in NO_TYPES},
        },
    ),
    "too many attributes": (
        {"custom_attributes": {f"a{n}": "name" for n in range(251)}},
        {"[custom_attributes]": "250"},
    ),
    "names that nobody knows": (
        {
            "intercom": {"acces_token": "sk-other", "retrys": 1, "x" * 30: 1},
            "slak": {"use_slack": "true"},
        },
        {
            "[intercom] acces_token": r"unknown.*\baccess_token\b",
            "[intercom] retrys": r"unknown.*\bretries\b",
            f"[intercom] {'x' * 30}": "unknown",
            "[slak]": r"unknown.*\[slack\]",
        },
    ),
}


@pytest.mark.parametrize(("sections", "expected"), WRONG.values(), ids=WRONG)
def test_each_problem_is_named_with_what_to_write(
    project: Project, sections: Sections, expected: dict[str, str]
) -> None:
    project.configure(**sections)
    lines = refused(project)
    assert unmatched(lines, expected) == ([], []), lines
    assert "sk-other" not in "".join(lines)


@pytest.mark.parametrize(
    ("user_url", "advice"),
    [
        ("api.intercom.io/users", HTTPS),
        ("https://", HTTPS),
        ("https://api.intercom.io:port/users", HTTPS),
        ("https://ada:secret-of-ada@api.intercom.io/users", "without name or password"),
        ("http://api.intercom.io/users", HTTPS),
        ("http://127.0.0.1.example.com/users", HTTPS),
        ("https://api.intercom.io/companies", "/users or /contacts"),
        ("https://api.intercom.io/Contacts", "/users or /contacts"),
        ("https://api.intercom.io", "/users or /contacts"),
    ],
)
def test_a_user_url_that_is_of_no_use_is_a_problem(
    project: Project, user_url: str, advice: str
) -> None:
    project.configure(intercom={"user_url": user_url, "api_version": "the newest"})
    lines = refused(project)
    expected = {"[intercom] user_url": advice, "[intercom] api_version": r"1\.4"}
    assert unmatched(lines, expected) == ([], []), lines
    assert "secret-of-ada" not in "".join(lines)


def test_problems_are_in_both_logs(project: Project) -> None:
    project.configure(intercom={"timeout": "soon"}, slak={})
    project.users(1)
    result = project.run()
    for log in result.debug_log, result.error_log:
        assert "config.ini: [intercom] timeout: " in log
        assert "config.ini: [slak]: " in log


#### A secret in a line that is broken

TOKEN, PASSWORD = "dG9rOmFiY2RlZjEyMzQ1Njc4OTA=", "pq7"
# section, what is written there, and where the problem is, {} being the line of the secret
BROKEN: dict[str, tuple[str, str, str]] = {
    "a colon for =": ("intercom", f"access_token: {TOKEN}", "line {}"),
    "a colon for =, none at its end": ("intercom", f"access_token: {TOKEN[:-1]}", "line {}"),
    "no =": ("intercom", f"access_token {TOKEN[:-1]}", "line {}"),
    "two =": ("intercom", f"access_token = = {TOKEN}", "[intercom] access_token"),
    "the token alone": ("intercom", TOKEN, "line {}"),
    "the token alone, without =": ("intercom", TOKEN[:-1], "line {}"),
    "the token as a key": ("intercom", f"{TOKEN[:-1]} = access_token", "line {}"),
    "the token as a field": ("user", f"{TOKEN[:-1]} =\nuser_id =", "[user]"),
    "a key that stands there twice": ("intercom", f"{TOKEN} 1\n{TOKEN} 2", "line {}"),
    "the token as a section": (TOKEN, "access_token = x", "line {}"),
    "a section that doesn't close": ("intercom", f"[{TOKEN[:-1]}", "line {}"),
    "two sections in a line": ("", f"[log] [{TOKEN}]", "line {}"),
    "an indented section": ("csv", f"empty = x\n  [log]\nW{TOKEN} = x", "[csv] empty"),
    "all in one line": ("", f"[log] folder = {TOKEN}", "line {}"),
    "a continued line": ("intercom", f"retries = 5\n  {TOKEN}", "[intercom] retries"),
    "a continued heading": (
        "custom_attributes",
        f"plan = name\n  access_token: {TOKEN}",
        "[custom_attributes] plan",
    ),
    "a continued field": ("user", f"user_id = user_id\n  {TOKEN}", "[user] user_id"),
    "a comment behind it": ("intercom", f"access_token = {TOKEN} ; x", "[intercom] access_token"),
    "above all sections": ("", f"access_token = {TOKEN}", "line {}"),
    "as a timeout": ("intercom", f"timeout = {TOKEN[:20]}", "[intercom] timeout"),
    "as a version": ("intercom", f"api_version = {TOKEN[:20]}", "[intercom] api_version"),
    "as a channel": ("slack", f"channel = {TOKEN[:20]}", "[slack] channel"),
    "webhook without scheme": ("slack", f"webhook_url = a.b/{TOKEN[:9]}", "[slack] webhook_url"),
    "a password": (
        "intercom",
        f"user_url = https://ada:{PASSWORD}@api.intercom.io/users",
        "[intercom] user_url",
    ),
    "a short one": ("hipchat", f"api_url = https://a:{PASSWORD}@b/", "[hipchat] api_url"),
    "no scheme": ("aws", f"endpoint_url = ada:{PASSWORD}@minio", "[aws] endpoint_url"),
    "of S3": ("aws", f"bucket = s3://a:{PASSWORD}@b", "[aws] bucket"),
    "of S3, without a host": ("aws", f"bucket = s3://a:{PASSWORD}/", "[aws] bucket"),
}


@pytest.mark.parametrize(("section", "text", "where"), BROKEN.values(), ids=BROKEN)
def test_a_broken_line_shows_no_secret(
    project: Project, section: str, text: str, where: str
) -> None:
    """The line is named by its place, or where that could be the secret too, by its number."""
    project.notices()
    project.configure(intercom={"access_token": "right"})
    key = text.partition(" =")[0]
    lines = project.config.read_text("utf-8").splitlines()
    lines = [line for line in lines if not line.startswith(f"{key} =")]
    at = lines.index(f"[{section}]") + 1 if f"[{section}]" in lines else 0
    given = [*([f"[{section}]"] if section and not at else []), *text.split("\n")]
    lines[at:at] = given
    project.config.write_text("\n".join(lines) + "\n", "utf-8")
    number = next(n for n, line in enumerate(lines, 1) if TOKEN[:9] in line or PASSWORD in line)
    told = refused(project)
    assert [line for line in told if line.startswith(f"config.ini: {where.format(number)}: ")], told
    logs = [path.read_text("utf-8") for path in (project.folder / "logs").iterdir()]
    shown = f"{told}{logs}{project.sandbox.slack}{project.sandbox.hipchat}"
    assert [part for part in (TOKEN[:6], TOKEN[6:12], PASSWORD) if part in shown] == []


#### How the file is written


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[csv]\nempty = NU\0LL\n", "line 2"),
        ("[cs\0v]\nempty = NULL\n", "line 1"),
        ("[csv]\nEmp\0ty = NULL\n", "line 2"),
        ("[csv]\nempty = NULL\n# a comment\0\n", "line 3"),
    ],
    ids=["value", "section", "key", "comment"],
)
def test_a_nul_in_the_config_is_one_problem(project: Project, text: str, where: str) -> None:
    raw_config(project, text)
    lines = refused(project)
    assert unmatched(lines, {where: "NUL|unknown"}) == ([], []), lines


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[csv]\ndelimiter = ;\ndelimiter = ,\n", "[csv] delimiter"),
        ("[csv]\nencoding = utf-8\n[csv]\ndelimiter = ,\n", "[csv]"),
    ],
    ids=["key", "section"],
)
def test_what_stands_there_twice_is_the_only_problem(
    project: Project, text: str, where: str
) -> None:
    """What stands below it is read nevertheless, so nothing there is called blank."""
    raw_config(project, text)
    lines = refused(project)
    assert unmatched(lines, {where: "twice"}) == ([], []), lines


def test_problems_below_a_duplicate_are_reported_with_it(project: Project) -> None:
    project.configure(intercom={"retries": "many"})
    raw_config(project, "[csv]\ndelimiter = ;\ndelimiter = ,\n")
    lines = refused(project)
    expected = {"[csv] delimiter": "twice", "[intercom] retries": "'many'"}
    assert unmatched(lines, expected) == ([], []), lines


def test_problems_are_told_where_there_can_be_no_log(project: Project) -> None:
    project.configure(intercom={"retries": "many"}, log={"folder": "/proc/nowhere"})
    assert unmatched(refused(project), {"[intercom] retries": "many"}) == ([], [])


def test_a_config_in_utf_16_is_one_problem_and_not_one_a_line(project: Project) -> None:
    project.config.write_text(project.config.read_text("utf-8"), "utf-16")
    lines = refused(project)
    assert "UTF-8" in lines[0]
    assert len(lines) < 4, lines


def test_a_config_that_is_not_utf_8_is_a_problem(project: Project) -> None:
    project.config.write_bytes(b"[slack]\nusername = Jos\xe9\n")
    assert any("UTF-8" in line and line.startswith("config.ini: ") for line in refused(project))


@pytest.mark.parametrize("name", ["nowhere.ini", "exports"], ids=["missing", "a folder"])
def test_a_config_that_cannot_be_read_is_named_in_one_line(project: Project, name: str) -> None:
    (line,) = refused(project, "--config", project.folder / name)
    assert name in line
    assert "--config" in line


def test_a_config_from_windows_with_quotes_and_marks_is_read(project: Project) -> None:
    """Byte-order mark, CRLF, quoted values, blanks that count, and # and ; inside of values."""
    project.notices()
    project.configure(
        local={"folder": '"exports"'},
        csv={"delimiter": '" "'},
        intercom={"access_token": f'"{project.sandbox.token}"', "retries": '"3"'},
        user={"user_id": '"my id"', "name": "'= Mr. %(Smith)s ; # 5'"},
        slack={"username": "Import # 1 ; $5 = 50%"},
        custom_attributes={
            "Plan": '"the plan : b" : integer',
            "plan": "'\"gold\"'",
            "plan: b": "my id",
        },
    )
    text = project.config.read_text("utf-8").replace("\n", "\r\n")
    project.config.write_bytes(b"\xef\xbb\xbf; a comment\r\n# and another\r\n" + text.encode())
    project.write('"my id" "the plan : b"\nu1 5\n')
    assert project.run().status == 0
    body = project.sandbox.requests[0].body
    assert body == {
        "user_id": "u1",
        "name": "= Mr. %(Smith)s ; # 5",
        "custom_attributes": {"Plan": 5, "plan": '"gold"', "plan: b": "u1"},
    }
    assert project.sandbox.slack[0]["username"] == "Import # 1 ; $5 = 50%"


def test_percent_signs_and_equals_signs_belong_to_the_value(project: Project) -> None:
    project.sandbox.token = "a%b%(timeout)s${c}=="
    project.configure(intercom={"access_token": project.sandbox.token})
    project.users(1)
    assert project.run().status == 0


def test_blank_values_are_the_defaults(project: Project) -> None:
    """Every key of the listing stands there, and nothing behind it but what a test needs."""
    keys = """
        aws: use_aws access_key secret_key bucket folder region endpoint_url tmp_folder
        local: folder
        file: select_latest time_format max_age_hours name
        csv: delimiter encoding headings decimal empty timezone min_rows not_imported_folder
        intercom: api_id api_key api_version retries concurrency skip_unchanged state_file
        intercom: unarchive create_attributes
        hipchat: use_hipchat api_key room_id from api_url
        slack: use_slack webhook_url channel username icon_url icon_emoji
        log: use_logs folder keep_days
        user: user_id email
        custom_attributes: plan
    """
    for line in keys.split("\n")[1:-1]:
        section, _, names = line.strip().partition(": ")
        project.configure(**{section: dict.fromkeys(names.split(), "")})
    (project.folder / "2026-11-01T09:00:00.csv").write_text("user_id\nu1\nu2,x\n")
    result = project.run()
    assert result.counts() == (1, 0, 1), result
    assert project.sandbox.requests[0].headers["Intercom-Version"] == "1.4"
    assert {path.name for path in project.folder.iterdir() if path.is_dir()} == {
        "exports",
        "logs",
        "not_imported",
    }


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that leads nowhere: its URL, and whom it was asked for."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        def log_message(self, format: str, *values: Any) -> None:
            """Keep silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def test_blank_urls_lead_to_intercom_and_hipchat_themselves(
    project: Project, proxy: tuple[str, list[str]]
) -> None:
    project.configure(
        intercom={"user_url": "", "retries": 0},
        hipchat={"use_hipchat": "true", "api_key": "key", "room_id": 1, "api_url": ""},
    )
    project.users(1)
    url, asked = proxy
    assert project.run(env={"HTTPS_PROXY": url}).status == 1
    assert set(asked) == {"api.intercom.io:443", "api.hipchat.com:443"}


def test_an_empty_config_only_lacks_the_credentials(project: Project) -> None:
    project.config.write_text("")
    lines = refused(project)
    assert unmatched(lines, {"[intercom] access_token": "is blank"}) == ([], []), lines


#### .env and the environment


def wrong_everywhere(project: Project) -> dict[str, str]:
    """Put wrong secrets into config.ini; the right ones, by their names in the environment."""
    project.notices()
    project.configure(
        intercom={"access_token": "wrong"},
        hipchat={"api_key": "wrong"},
        slack={"webhook_url": "https://127.0.0.1:1/wrong"},
    )
    project.users(1)
    return {
        "INTERCOM_ACCESS_TOKEN": project.sandbox.token,
        "HIPCHAT_API_KEY": project.sandbox.hipchat_key,
        "SLACK_WEBHOOK_URL": project.sandbox.webhook_url,
    }


def all_heard(project: Project, result: Result) -> None:
    assert result.status == 0, result
    assert len(project.sandbox.hipchat) == len(project.sandbox.slack) == 2


def write_env(project: Project, values: dict[str, str]) -> None:
    lines = [f"{name}={value}\n" for name, value in values.items()]
    (project.folder / ".env").write_text("".join(lines), "utf-8")


def test_dot_env_wins_over_config(project: Project) -> None:
    write_env(project, wrong_everywhere(project))
    all_heard(project, project.run())


def test_the_environment_wins_over_dot_env(project: Project) -> None:
    secrets = wrong_everywhere(project)
    write_env(project, dict.fromkeys(secrets, "https://127.0.0.1:1/wrong"))
    all_heard(project, project.run(env=secrets))


@pytest.mark.parametrize("place", [".env", "environment"])
def test_id_and_key_are_taken_from_dot_env_and_from_the_environment(
    project: Project, place: str
) -> None:
    project.configure(intercom={"access_token": "", "api_id": "wrong", "api_key": "wrong"})
    project.users(1)
    right = {"INTERCOM_API_ID": project.sandbox.api_id, "INTERCOM_API_KEY": project.sandbox.api_key}
    wrong = dict.fromkeys(right, "wrong")
    write_env(project, right if place == ".env" else wrong)
    assert project.run(env=right if place == "environment" else {}).status == 0
    pair = f"{project.sandbox.api_id}:{project.sandbox.api_key}".encode()
    sent = project.sandbox.requests[0].headers["Authorization"]
    assert sent == f"Basic {base64.b64encode(pair).decode()}"


def test_another_config_has_its_dot_env_and_its_state_beside_it(project: Project) -> None:
    """Whatever the current folder, so that nobody is sent twice."""
    write_env(project, {"INTERCOM_ACCESS_TOKEN": "wrong"})
    project.configure(intercom={"access_token": "", "skip_unchanged": "true"})
    other = project.folder / "europe" / "eu.ini"
    other.parent.mkdir()
    shutil.copy(project.config, other)
    (other.parent / ".env").write_text(f"INTERCOM_ACCESS_TOKEN={project.sandbox.token}\n")
    project.users(1)
    assert project.run("--config", "europe/eu.ini").counts() == (1, 0, 0)
    states = [path.parent for path in project.folder.rglob("sent_users.sqlite3")]
    assert states == [other.parent]


def test_problems_name_the_config_that_was_asked_for(project: Project) -> None:
    project.configure(intercom={"timeout": "soon"})
    project.config.rename(project.folder / "eu.ini")
    (line,) = refused(project, "--config", "eu.ini")
    assert line.startswith("eu.ini: [intercom] timeout: ")


def test_dollar_signs_in_dot_env_stay_what_they_are(project: Project) -> None:
    project.sandbox.token = "a${HOME}$b"
    write_env(project, {"INTERCOM_ACCESS_TOKEN": project.sandbox.token})
    project.users(1)
    assert project.run().status == 0


DOT_ENVS: dict[str, tuple[bytes, str]] = {
    "another encoding": (b"A=sk-\xe9-secret\n", "UTF-8"),
    "no =": (b"# fine\nA=1\nsk secret\n", "line 3"),
    "no name": (b"\n=sk-secret\n", "line 2"),
    "a quote that never closes": (b"A=1\nB='sk-secret\nC=2\n", "line 2"),
    "a NUL in a value": (b"A=sk\0secret\n", "line 1"),
    "a NUL in a name": (b"A=1\nsk\0secret=1\n", "line 2"),
    "a name with =": (b"'sk=secret'=1\n", "line 1"),
}


@pytest.mark.parametrize(("content", "where"), DOT_ENVS.values(), ids=DOT_ENVS)
def test_a_dot_env_that_cannot_be_read_is_one_problem_and_not_shown(
    project: Project, content: bytes, where: str
) -> None:
    (project.folder / ".env").write_bytes(content)
    (line,) = refused(project)
    assert ".env" in line
    assert where in line
    assert "secret" not in line


@pytest.mark.skipif(os.name == "nt", reason="Windows has none of them")
@pytest.mark.parametrize("name", [".env", "other.ini"])
@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_is_no_file_is_not_read(project: Project, name: str, kind: str) -> None:
    """It has no end, or nobody who writes to it."""
    path = project.folder / name
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    (line,) = refused(project, *(["--config", path] if name == "other.ini" else []))
    assert name in line


@pytest.mark.parametrize(
    "proxy", ["http://", ":8080", "two words:80", "http://[::1", f"http://a:{PASSWORD}@host:port"]
)
def test_a_proxy_that_is_no_url_is_one_problem(project: Project, proxy: str) -> None:
    project.users(1)
    result = project.run(env={"HTTP_PROXY": proxy})
    assert (result.status, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith("config.ini: HTTP_PROXY: ")
    assert PASSWORD not in line


#### Who hears of wrong settings


@pytest.mark.parametrize(
    ("wrong", "hipchat", "slack"),
    [
        ({"intercom": {"timeout": "soon"}}, 1, 1),
        ({"hipchat": {"from": "x" * 16}}, 0, 1),
        ({"slack": {"webhook_url": "http://example.com/"}}, 1, 0),
        ({"slackk": {"use_slack": "true"}}, 1, 1),
    ],
    ids=["Intercom's", "Hipchat's own", "Slack's own", "nobody's"],
)
def test_a_red_notice_goes_where_the_settings_are_right(
    project: Project, wrong: Sections, hipchat: int, slack: int
) -> None:
    project.notices()
    project.configure(**wrong)
    (line,) = refused(project)
    assert [notice["color"] for notice in project.sandbox.hipchat] == ["red"] * hipchat
    assert len(project.sandbox.slack) == slack
    told = [notice["message"] for notice in project.sandbox.hipchat]
    told += [notice["text"] for notice in project.sandbox.slack]
    assert all(line in text for text in told), told


def test_a_dry_run_tells_nobody_of_wrong_settings(project: Project) -> None:
    project.notices()
    project.configure(intercom={"timeout": "soon"})
    refused(project, "--dry-run")
    assert project.sandbox.notice_requests == []


#### The file as it is shipped


def test_the_shipped_config_imports_the_sample_once_a_token_is_there(project: Project) -> None:
    text = (ROOT / "config.ini").read_text("utf-8")
    assert len(re.findall("^user_url =$", text, re.MULTILINE)) == 1
    text = text.replace("\nuser_url =\n", f"\nuser_url = {project.sandbox.users_url}\n")
    project.config.write_text(text, "utf-8")
    sample = project.folder / "tests" / "sample"
    shutil.copytree(ROOT / "tests" / "sample", sample)
    with (sample / NAME).open(encoding="utf-8-sig", newline="") as file:
        rows = sum(1 for _ in csv.DictReader(file))
    result = project.run(env={"INTERCOM_ACCESS_TOKEN": project.sandbox.token})
    assert (result.status, result.counts()) == (0, (rows, 0, 0)), result
    assert result.error_log == ""
    attributes = project.sandbox.requests[0].body["custom_attributes"]
    assert {name: type(value) for name, value in attributes.items()} == {
        "plan": str,
        "bookings_count": int,
        "rating": float,
        "is_owner": bool,
        "last_booking_at": int,
    }
