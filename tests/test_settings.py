"""config.ini, .env and the environment: what they mean, and what is said of what is wrong."""

from __future__ import annotations

import csv
import os
import re
import shutil
from socketserver import StreamRequestHandler, TCPServer
from threading import Thread

import pytest
from conftest import NAME, ROOT, Project, Result, posix, sent

Sections = dict[str, dict[str, object]]


def refused(project: Project, *arguments: object) -> list[str]:
    """What a run says of its wrong settings, by line; it has sent nothing to Intercom."""
    project.users(1)
    result = project.run(*arguments)
    assert (result.status, result.out) == (2, ""), result
    assert "Traceback" not in result.err
    assert project.sandbox.requests == []
    return result.err.splitlines()


def refused_for(project: Project, expected: dict[str, str]) -> list[str]:
    """The same, where these are the problems, each by its place, and no other."""
    lines = refused(project)
    missing, extra = [], list(lines)
    for where, pattern in expected.items():
        start = f"config.ini: {where}: "
        found = [line for line in lines if line.startswith(start)]
        extra = [line for line in extra if line not in found]
        if not [line for line in found if re.search(pattern, line.removeprefix(start))]:
            missing.append(f"{start}{pattern}")
    assert (missing, extra) == ([], []), lines
    return lines


#### What is wrong, and what to write

HTTPS, TRUE_OR_FALSE = "write .*https://", "write true or false"
KEYS_OR_NONE = "is blank.*both keys, or none"
NO_TYPES = ("number", "int", "decimal", "double", "bool", "date", "datetime", "text", "str")
# what is written into config.ini, and what is said of it; or the place, and what is said of that
WRONG: dict[str, list[tuple[str, str]]] = {
    "switches": [
        ("[aws] use_aws = maybe", f"'maybe'.*{TRUE_OR_FALSE}"),
        ("[file] select_latest = 2", TRUE_OR_FALSE),
        ("[intercom] skip_unchanged = perhaps", TRUE_OR_FALSE),
        ("[hipchat] use_hipchat = si", TRUE_OR_FALSE),
        ("[slack] use_slack = ja", TRUE_OR_FALSE),
        ("[log] use_logs = never", TRUE_OR_FALSE),
    ],
    "numbers": [
        ("[csv] min_rows = few", "'few'.*write .*whole number"),
        ("[intercom] timeout = inf", "write .*number"),
        ("[intercom] retries = 1.5", "'1.5'.*write .*whole number"),
        ("[intercom] concurrency = two", "'two'.*write .*whole number"),
        ("[intercom] api_version = ٢.١٤", "2.14"),
    ],
    "numbers out of range": [
        ("[file] max_age_hours = -1", "'-1'.*write .*number"),
        ("[intercom] timeout = -1", "write .*number"),
        ("[intercom] retries = -1", "'-1'.*write .*number"),
        ("[intercom] concurrency = 0", "'0'.*write .*1"),
        ("[log] keep_days = -1", "'-1'.*write .*number"),
    ],
    "what a CSV can't have": [
        ("[csv] delimiter = ;;", "write .*tab"),
        ("[csv] encoding = latin-99", "write .*utf-8"),
        ("[csv] decimal = ;", "';'"),
        ("[csv] timezone = Mars/Olympus", "'Mars/Olympus'"),
    ],
    "a word in capitals, and a codec that is no encoding": [
        ("[csv] delimiter = TAB", "write .*the word tab"),
        ("[csv] encoding = base64", "write .*utf-8"),
    ],
    "no file": [
        ("[file] select_latest = false", ""),
        ("[file] name", "is blank.*select_latest = true"),
    ],
    "half of the AWS keys": [
        ("[aws] use_aws = true", ""),
        ("[aws] access_key = AKIA", ""),
        ("[aws] secret_key", KEYS_OR_NONE),
        ("[aws] bucket", "is blank.*use_aws = false"),
    ],
    "the other half": [
        ("[aws] use_aws = true", ""),
        ("[aws] access_key", KEYS_OR_NONE),
        ("[aws] secret_key = x", ""),
        ("[aws] bucket = b", ""),
        ("[aws] endpoint_url = minio", HTTPS),
    ],
    "no credentials": [("[intercom] access_token = ", "is blank.*INTERCOM_ACCESS_TOKEN")],
    "an api_id alone": [
        ("[intercom] access_token = ", ""),
        ("[intercom] api_id = app", ""),
        ("[intercom] api_key", "is blank.*write"),
    ],
    "an api_key alone": [
        ("[intercom] access_token = ", ""),
        ("[intercom] api_key = key", ""),
        ("[intercom] api_id", "is blank.*write"),
    ],
    "Hipchat without a key and a room": [
        ("[hipchat] use_hipchat = true", ""),
        ("[hipchat] api_key", "is blank.*write"),
        ("[hipchat] room_id", "is blank.*write"),
        ("[hipchat] from = Import of the night", "1 to 15"),
        ("[hipchat] api_url = chat", HTTPS),
    ],
    "Hipchat in the clear, from a name with a dot": [
        ("[hipchat] from = a.b", "write .*letters, digits"),
        ("[hipchat] api_url = http://chat.example.com/v1/", HTTPS),
    ],
    "Slack without a webhook": [
        ("[slack] use_slack = true", ""),
        ("[slack] webhook_url", "is blank.*write"),
        ("[slack] channel = imports", "write #channel or @user"),
    ],
    "Slack in the clear": [
        ("[slack] use_slack = true", ""),
        ("[slack] webhook_url = http://hooks.slack.com/services/x", HTTPS),
    ],
    "no identity among the fields": [
        ("[user] name = name", ""),
        ("[user]", "write .*user_id, email or id"),
    ],
    "types that their field doesn't have": [
        ("[user] user_id = name : integer", "integer"),
        ("[user] name = name : not boolean", "not boolean"),
        ("[user] signed_up_at = name : boolean", "boolean"),
        ("[user] new_session = name : timestamp", "timestamp"),
        ("[user] last_request_at = name : timestamp %Q", "%Q"),
    ],
    "keys that are almost a field's": [
        ("[user] userid = name", "user_id"),
        ("[user] nmae = name", r"\bname\b"),
        ("[user] signedup_at = name", "signed_up_at"),
        ("[user] Email = email", ""),
        ("line 13", r"\bemail\b"),  # a key in capitals could be a secret
    ],
    "constants that are not of their field's type": [
        ("[user] user_id = user_id", ""),
        ("[user] signed_up_at = 'yesterday'", "'yesterday'"),
        ("[custom_attributes] age = 'old' : integer", "'old'"),
    ],
    "names of attributes that Intercom doesn't take, and types that don't exist": [
        ("[custom_attributes] a.b = name", "rename it"),
        ("[custom_attributes] price_$ = name", "rename it"),
        (f"[custom_attributes] {'n' * 191} = name", "rename it|190"),
        *(
            (f"[custom_attributes] {word} = x : {word}", f"unknown type {word}")
            for word in NO_TYPES
        ),
        ("[custom_attributes] age = age : integr", r"\bintegr\b.*write.*\binteger\b.*boolean"),
    ],
    "too many attributes": [
        *((f"[custom_attributes] a{n} = name", "") for n in range(251)),
        ("[custom_attributes]", "250"),
    ],
    "names that nobody knows": [
        ("[intercom] acces_token = sk-other", r"unknown.*\baccess_token\b"),
        ("[intercom] retrys = 1", r"unknown.*\bretries\b"),
        (f"[intercom] {'x' * 30} = 1", "unknown"),
        ("[slak] use_slack = true", ""),
        ("[slak]", r"unknown.*\[slack\]"),
    ],
}
# One that can't tell which of two files is newer is none.
TIME_FORMATS = ["users_%Q", "users_%d-%m", "%Y-%d", "%Y-%m-%H", "%Y-%m-%dT%I-%M", "%Y-%m-%dT%M"]
for form in [*TIME_FORMATS, "%Y-%W"]:
    WRONG[form] = [(f"[file] time_format = {form}", f"'{form}'.*write .*%Y")]
USER_URLS = {
    **dict.fromkeys(["api.intercom.io/users", "https://", "https://a.eu:port/users"], HTTPS),
    **dict.fromkeys(["http://a.eu/users", "http://127.0.0.1.example.com/users"], HTTPS),
    "https://ada:sk-other@api.intercom.io/users": "without name or password",
    "https://api.intercom.io/companies": "/users or /contacts",
    "https://api.intercom.io/Contacts": "/users or /contacts",
    "https://api.intercom.io": "/users or /contacts",
}
for url, advice in USER_URLS.items():
    version = ("[intercom] api_version = the newest", r"1\.4")
    WRONG[url] = [(f"[intercom] user_url = {url}", advice), version]


@pytest.mark.parametrize("case", WRONG)
def test_each_problem_is_named_with_what_to_write(project: Project, case: str) -> None:
    expected = {}
    for setting, said in WRONG[case]:
        place, is_set, value = setting.partition(" = ")
        section, _, key = place.partition("] ")
        if is_set:
            project.configure(**{section.lstrip("["): {key: value}})
        if said:
            expected[place] = said
    assert "sk-other" not in "".join(refused_for(project, expected))


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
        *("custom_attributes", f"plan = name\n  access_token: {TOKEN}"),
        "[custom_attributes] plan",
    ),
    "a continued field": ("user", f"user_id = user_id\n  {TOKEN}", "[user] user_id"),
    "a comment behind it": ("intercom", f"access_token = {TOKEN} ; x", "[intercom] access_token"),
    "above all sections": ("", f"access_token = {TOKEN}", "line {}"),
    "as a timeout": ("intercom", f"timeout = {TOKEN[:20]}", "[intercom] timeout"),
    "as a version": ("intercom", f"api_version = {TOKEN[:20]}", "[intercom] api_version"),
    "as a channel": ("slack", f"channel = {TOKEN[:20]}", "[slack] channel"),
    "webhook without scheme": ("slack", f"webhook_url = a.b/{TOKEN[:9]}", "[slack] webhook_url"),
    "a password": ("intercom", f"user_url = https://a:{PASSWORD}@b/users", "[intercom] user_url"),
    "a short one": ("hipchat", f"api_url = https://a:{PASSWORD}@b/", "[hipchat] api_url"),
    "no scheme": ("aws", f"endpoint_url = ada:{PASSWORD}@minio", "[aws] endpoint_url"),
    "of S3": ("aws", f"bucket = s3://a:{PASSWORD}@b", "[aws] bucket"),
    "of S3, without a host": ("aws", f"bucket = s3://a:{PASSWORD}/", "[aws] bucket"),
}


@pytest.mark.parametrize(("section", "text", "where"), BROKEN.values(), ids=BROKEN)
def test_broken_lines_show_no_secret(project: Project, section: str, text: str, where: str) -> None:
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


NUL, TWICE = "NUL|unknown", "[csv]\ndelimiter = ;\ndelimiter = ,\n"
RAW: dict[str, tuple[str, dict[str, str]]] = {
    "NUL in a value": ("[csv]\nempty = NU\0LL\n", {"line 2": NUL}),
    "NUL in a section": ("[cs\0v]\nempty = NULL\n", {"line 1": NUL}),
    "NUL in a key": ("[csv]\nEmp\0ty = NULL\n", {"line 2": NUL}),
    "NUL in a comment": ("[csv]\nempty = NULL\n# a comment\0\n", {"line 3": NUL}),
    "a key that stands there twice": (TWICE, {"[csv] delimiter": "twice"}),
    "a section that stands there twice": (
        *("[csv]\nencoding = utf-8\n[csv]\ndelimiter = ,\n", {"[csv]": "twice"}),
    ),
    "another problem behind it": (
        TWICE + "min_rows = few\n",
        {"[csv] delimiter": "twice", "[csv] min_rows": "'few'"},
    ),
}


@pytest.mark.parametrize("case", RAW)
def test_what_stands_below_a_wrong_line_is_read(project: Project, case: str) -> None:
    """So nothing there is called blank, and what is wrong there is told too."""
    text, expected = RAW[case]
    project.config.write_text(text + project.config.read_text("utf-8"), "utf-8")
    refused_for(project, expected)


def test_problems_are_told_where_there_can_be_no_log(project: Project) -> None:
    project.configure(intercom={"retries": "many"}, log={"folder": "/proc/nowhere"})
    refused_for(project, {"[intercom] retries": "many"})


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_config_in_another_encoding_is_one_problem(project: Project, encoding: str) -> None:
    """And not one a line."""
    project.configure(slack={"username": "José"})
    project.config.write_text(project.config.read_text("utf-8"), encoding)
    lines = refused(project)
    assert lines[0].startswith("config.ini: ")
    assert "UTF-8" in lines[0]
    assert len(lines) < 4, lines


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
    assert sent(project) == [
        {
            "user_id": "u1",
            "name": "= Mr. %(Smith)s ; # 5",
            "custom_attributes": {"Plan": 5, "plan": '"gold"', "plan: b": "u1"},
        }
    ]
    assert project.sandbox.slack[0]["username"] == "Import # 1 ; $5 = 50%"


@pytest.mark.parametrize("place", ["config.ini", ".env"])
def test_signs_that_other_formats_use_belong_to_the_value(project: Project, place: str) -> None:
    project.sandbox.token = token = "a%b%(timeout)s${HOME}$c=="
    project.configure(intercom={"access_token": token if place == "config.ini" else ""})
    if place == ".env":
        project.write_env({"INTERCOM_ACCESS_TOKEN": token})
    project.users(1)
    assert project.run().status == 0


def shipped(project: Project) -> str:
    """The config.ini of the repository, with the stand-in's user_url."""
    text = (ROOT / "config.ini").read_text("utf-8")
    assert len(re.findall("^user_url =$", text, re.MULTILINE)) == 1
    return text.replace("\nuser_url =\n", f"\nuser_url = {project.sandbox.users_url}\n")


def test_blank_values_are_the_defaults(project: Project) -> None:
    """Every key of config.ini stands there, and nothing behind it but where Intercom is."""
    text = re.sub("^(?!user_url)([a-z_]+ =).*", r"\1", shipped(project), flags=re.MULTILINE)
    project.config.write_text(text, "utf-8")
    (project.folder / "2026-11-01T09:00:00.csv").write_text("user_id\nu1\nu2,x\n")
    result = project.run(env={"INTERCOM_ACCESS_TOKEN": project.sandbox.token})
    assert result.counts() == (1, 0, 1), result
    assert project.sandbox.requests[0].headers["Intercom-Version"] == "1.4"
    folders = {path.name for path in project.folder.iterdir() if path.is_dir()}
    assert folders == {"exports", "logs", "not_imported"}


def test_blank_urls_lead_to_intercom_and_hipchat_themselves(project: Project) -> None:
    asked = set()

    class Proxy(StreamRequestHandler):
        """Leads nowhere."""

        def handle(self) -> None:
            asked.add(self.rfile.readline().split()[1])

    project.configure(
        intercom={"user_url": "", "retries": 0},
        hipchat={"use_hipchat": "true", "api_key": "key", "room_id": 1, "api_url": ""},
    )
    project.users(1)
    with TCPServer(("127.0.0.1", 0), Proxy) as proxy:
        Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{proxy.server_address[1]}"
        assert project.run(env={"HTTPS_PROXY": url}).status == 1
        proxy.shutdown()
    assert asked == {b"api.intercom.io:443", b"api.hipchat.com:443"}


def test_an_empty_config_only_lacks_the_credentials(project: Project) -> None:
    project.config.write_text("")
    refused_for(project, {"[intercom] access_token": "is blank"})


#### .env and the environment


each_place = pytest.mark.parametrize("place", [".env", "environment"])


def run_with(project: Project, place: str, right: dict[str, str]) -> Result:
    """A run with these secrets in this place, and wrong ones in .env where that is another."""
    wrong = dict.fromkeys(right, "https://127.0.0.1:1/wrong")
    project.write_env(right if place == ".env" else wrong)
    project.users(1)
    return project.run(env=right if place == "environment" else {})


@each_place
def test_environment_wins_over_dot_env_and_that_over_config(project: Project, place: str) -> None:
    project.notices()
    project.configure(
        intercom={"access_token": "wrong"},
        hipchat={"api_key": "wrong"},
        slack={"webhook_url": "https://127.0.0.1:1/wrong"},
    )
    right = {
        "INTERCOM_ACCESS_TOKEN": project.sandbox.token,
        "HIPCHAT_API_KEY": project.sandbox.hipchat_key,
        "SLACK_WEBHOOK_URL": project.sandbox.webhook_url,
    }
    result = run_with(project, place, right)
    assert result.status == 0, result
    assert len(project.sandbox.hipchat) == len(project.sandbox.slack) == 2


@each_place
def test_id_and_key_are_such_secrets_too(project: Project, place: str) -> None:
    project.configure(intercom={"access_token": "", "api_id": "wrong", "api_key": "wrong"})
    sandbox = project.sandbox
    right = {"INTERCOM_API_ID": sandbox.api_id, "INTERCOM_API_KEY": sandbox.api_key}
    assert run_with(project, place, right).status == 0
    assert sandbox.requests[0].headers["Authorization"].startswith("Basic ")


def test_another_config_has_its_dot_env_and_its_state_beside_it(project: Project) -> None:
    """Whatever the current folder, so that nobody is sent twice."""
    project.write_env({"INTERCOM_ACCESS_TOKEN": "wrong"})
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
def test_a_broken_dot_env_shows_no_secret(project: Project, content: bytes, where: str) -> None:
    (project.folder / ".env").write_bytes(content)
    (line,) = refused(project)
    assert ".env" in line
    assert where in line
    assert "secret" not in line


@posix("Windows has none of them")
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
    """All of it but unsubscribed_from_emails, which would subscribe those again who opted out."""
    project.config.write_text(shipped(project), "utf-8")
    sample = project.folder / "tests" / "sample"
    shutil.copytree(ROOT / "tests" / "sample", sample)
    with (sample / NAME).open(encoding="utf-8-sig", newline="") as file:
        headings, *rows = csv.reader(file)
    result = project.run(env={"INTERCOM_ACCESS_TOKEN": project.sandbox.token})
    assert (result.status, result.counts()) == (0, (len(rows), 0, 0)), result
    assert result.error_log == ""
    user = sent(project)[0]
    attributes = user.pop("custom_attributes")
    assert {*user, *attributes} == set(headings) - {"unsubscribed_from_emails"}
    assert {name: type(value) for name, value in attributes.items()} == {
        "plan": str,
        "bookings_count": int,
        "rating": float,
        "is_owner": bool,
        "last_booking_at": int,
    }
