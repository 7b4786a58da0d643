"""config.ini, .env and the environment: how they are read, and how errors in them are reported."""

from __future__ import annotations

import csv
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import StreamRequestHandler, TCPServer
from threading import Thread
from typing import Any
from unittest import mock

import pytest
from conftest import NAME, ROOT, Project, posix, sent
from hypothesis import given, settings, strategies

import export_csv

Sections = Mapping[str, Mapping[str, object]]
TOKEN = "dG9rOmFiY2RlZjEyMzQ1Njc4OTA="
PASSWORD = "pq7"
VALID = "[intercom]\naccess_token = sk-valid\n"


@dataclass
class Loaded:
    """The settings of a config file, and its problems by location."""

    settings: export_csv.Settings
    problems: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for config.ini and .env; the secrets in them are not masked in other tests."""
    monkeypatch.setattr(export_csv, "register_all_secrets", lambda _: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(
    folder: Path,
    content: str | bytes,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    dotenv: str | bytes | None = None,
) -> Loaded:
    """Load settings as a run with this config.ini, .env and environment does."""
    config = folder / "config.ini"
    config.write_bytes(content if isinstance(content, bytes) else content.encode())
    if dotenv is not None:
        (folder / ".env").write_bytes(
            dotenv if isinstance(dotenv, bytes) else dotenv.encode()
        )
    parsed = export_csv.parse_arguments(["--config", str(config), *arguments])
    environment = {"HOME": str(folder), **(env or {})}
    # The script ignores warnings too, such as Python 3.13's about formats without a year.
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        loaded, problems = export_csv.load_settings(config, parsed)
    return Loaded(loaded, problems.by_place, problems.lines("config.ini"))


def with_lines(*lines: str) -> str:
    """Return a valid config with these lines added, each as `[section] key = value`."""
    sections: dict[str, dict[str, str]] = {"intercom": {"access_token": "sk-valid"}}
    for line in lines:
        place, _, value = line.partition(" = ")
        section, _, key = place.removeprefix("[").partition("] ")
        sections.setdefault(section, {})[key] = value
    text = []
    for section, keys in sections.items():
        text.append(f"[{section}]")
        text += [f"{key} = {value}" for key, value in keys.items() if key]
    return "\n".join(text) + "\n"


#### Invalid values

EXPECTS_BOOLEAN = "expected true or false"
EXPECTS_HTTPS = "expected an https://"
BOTH_KEYS = "is blank.*set both keys, or neither"
# The lines of a config, and the places of all problems with a pattern for each message.
INVALID: dict[str, tuple[list[str], dict[str, str]]] = {
    "booleans": (
        [
            "[aws] use_aws = maybe",
            "[file] select_latest = 2",
            "[intercom] skip_unchanged = perhaps",
            "[hipchat] use_hipchat = si",
            "[slack] use_slack = ja",
            "[log] use_logs = never",
        ],
        {
            "[aws] use_aws": f"'maybe'.*{EXPECTS_BOOLEAN}",
            "[file] select_latest": f"'2'.*{EXPECTS_BOOLEAN}",
            "[intercom] skip_unchanged": f"'perhaps'.*{EXPECTS_BOOLEAN}",
            "[hipchat] use_hipchat": f"'si'.*{EXPECTS_BOOLEAN}",
            "[slack] use_slack": f"'ja'.*{EXPECTS_BOOLEAN}",
            "[log] use_logs": f"'never'.*{EXPECTS_BOOLEAN}",
        },
    ),
    "numbers": (
        [
            "[csv] min_rows = few",
            "[csv] max_not_imported = 1%",
            "[file] max_age_hours = -1",
            "[intercom] timeout = inf",
            "[intercom] retries = 1.5",
            "[intercom] concurrency = 0",
            "[intercom] api_version = ٢.١٤",
            "[log] keep_days = nan",
        ],
        {
            "[csv] min_rows": "'few'.*whole number",
            "[csv] max_not_imported": "'1%'.*whole number",
            "[file] max_age_hours": "'-1'.*hours",
            "[intercom] timeout": "expected a number",
            "[intercom] retries": "'1.5'.*whole number",
            "[intercom] concurrency": "'0'.*from 1",
            "[intercom] api_version": r"2\.14.*Preview",
            "[log] keep_days": "'nan'.*days",
        },
    ),
    "negative numbers": (
        ["[intercom] timeout = -1", "[intercom] retries = -1", "[log] keep_days = -1"],
        {
            "[intercom] timeout": "expected a number",
            "[intercom] retries": "'-1'.*whole number",
            "[log] keep_days": "'-1'.*days",
        },
    ),
    "CSV format": (
        [
            "[csv] delimiter = ;;",
            "[csv] quote = ''",
            "[csv] escape = \\\\",
            "[csv] encoding = latin-99",
            "[csv] decimal = ;",
            "[csv] timezone = Mars/Olympus",
        ],
        {
            "[csv] delimiter": "';;'.*the word tab",
            "[csv] quote": "\"''\"|''''.*the word none",
            "[csv] escape": "one character",
            "[csv] encoding": "'latin-99'.*utf-8",
            "[csv] decimal": r"';'.*\. or ,",
            "[csv] timezone": "'Mars/Olympus'.*Europe/Berlin",
        },
    ),
    "quote and escape same as delimiter": (
        ["[csv] delimiter = |", "[csv] quote = |", "[csv] escape = |"],
        {"[csv] quote": "same as delimiter.*none", "[csv] escape": "same as delimiter"},
    ),
    "escape same as quote": (
        ['[csv] escape = "'],
        {"[csv] escape": "same as quote.*blank"},
    ),
    "no name": (
        ["[file] select_latest = false"],
        {"[file] name": "is blank.*select_latest = true"},
    ),
    "AWS without a secret key and a bucket": (
        ["[aws] use_aws = true", "[aws] access_key = AKIA"],
        {"[aws] bucket": "is blank.*use_aws = false", "[aws] secret_key": BOTH_KEYS},
    ),
    "AWS without an access key": (
        [
            "[aws] use_aws = true",
            "[aws] secret_key = x",
            "[aws] bucket = b",
            "[aws] endpoint_url = minio",
        ],
        {"[aws] access_key": BOTH_KEYS, "[aws] endpoint_url": "'minio'.*https://"},
    ),
    "no credentials": (
        ["[intercom] access_token = "],
        {"[intercom] access_token": "is blank.*INTERCOM_ACCESS_TOKEN"},
    ),
    "api_id alone": (
        ["[intercom] access_token = ", "[intercom] api_id = app"],
        {"[intercom] api_key": "is blank.*INTERCOM_API_KEY"},
    ),
    "api_key alone": (
        ["[intercom] access_token = ", "[intercom] api_key = key"],
        {"[intercom] api_id": "is blank.*INTERCOM_API_ID"},
    ),
    "a token with the word Bearer": (
        ["[intercom] access_token = Bearer sk-1"],
        {"[intercom] access_token": "without.*Bearer"},
    ),
    "Hipchat without a key and a room": (
        [
            "[hipchat] use_hipchat = true",
            "[hipchat] from = Import of the night",
            "[hipchat] api_url = chat",
        ],
        {
            "[hipchat] from": "'Import of the night'.*1 to 15",
            "[hipchat] api_url": f"'chat'.*{EXPECTS_HTTPS}",
            "[hipchat] api_key": "is blank.*use_hipchat = false",
            "[hipchat] room_id": "is blank.*use_hipchat = false",
        },
    ),
    "Hipchat without https, from a name with a dot": (
        ["[hipchat] from = a.b", "[hipchat] api_url = http://chat.example.com/v1/"],
        {
            "[hipchat] from": "'a.b'.*letters, digits",
            "[hipchat] api_url": EXPECTS_HTTPS,
        },
    ),
    "Slack without a webhook": (
        ["[slack] use_slack = true", "[slack] channel = imports"],
        {
            "[slack] webhook_url": "is blank.*use_slack = false",
            "[slack] channel": "expected #channel or @user",
        },
    ),
    "Slack without https": (
        ["[slack] webhook_url = http://hooks.slack.com/services/x"],
        {"[slack] webhook_url": EXPECTS_HTTPS},
    ),
    "no identity": (["[user] name = name"], {"[user]": "user_id, email and id"}),
    "no identity among unsupported fields": (
        ["[user] phone = Phone"],
        {"[user]": "user_id, email and id"},
    ),
    "types that their fields don't have": (
        [
            "[user] user_id = name : integer",
            "[user] email = name : boolean",
            "[user] name = name : not boolean",
            "[user] signed_up_at = name : boolean",
            "[user] new_session = name : timestamp %d.%m.%Y",
            "[user] last_request_at = name : timestamp %Q",
        ],
        {
            "[user] user_id": "string.*remove ': integer'",
            "[user] email": "email.*remove ': boolean'",
            "[user] name": "string.*remove ': not boolean'",
            "[user] signed_up_at": "timestamp.*remove ': boolean'",
            "[user] new_session": "boolean.*remove ': timestamp'",
            "[user] last_request_at": "'%Q'.*%d/%m/%Y",
        },
    ),
    "date formats without a day, or with a zone's name": (
        [
            "[custom_attributes] a_at = a : timestamp %d/%m",
            "[custom_attributes] b_at = b : timestamp %Y-%m-%d %I:%M",
            "[custom_attributes] c_at = c : timestamp %d/%m/%Y %H:%M %Z",
        ],
        {
            "[custom_attributes] a_at": "'%d/%m'.*complete.*%d/%m/%Y",
            "[custom_attributes] b_at": "'%Y-%m-%d %I:%M'.*complete",
            "[custom_attributes] c_at": "%Z.*ignored.*%z",
        },
    ),
    "misspelled fields": (
        [
            "[user] userid = a",
            "[user] nmae = b",
            "[user] signedup_at = c",
            "[user] Email = d",
            "[user] name = e",
        ],
        {
            "[user] userid": r"did you mean user_id\?",
            "[user] nmae": r"did you mean name\?",
            "[user] signedup_at": r"did you mean signed_up_at\?",
            "[user] Email": r"did you mean email\?",
        },
    ),
    "invalid constants": (
        [
            "[user] user_id = 'null'",
            "[user] signed_up_at = 'yesterday'",
            "[custom_attributes] age = 'old' : integer",
            f"[custom_attributes] note = '{'x' * 256}'",
        ],
        {
            "[user] user_id": "'null'",
            "[user] signed_up_at": "'yesterday'",
            "[custom_attributes] age": "'old'",
            "[custom_attributes] note": "constant.*255",
        },
    ),
    "names of attributes": (
        [
            "[custom_attributes] a.b = name",
            "[custom_attributes] price_$ = name",
            f"[custom_attributes] {'n' * 191} = name",
        ],
        {
            "[custom_attributes] a.b": r"\. or \$",
            "[custom_attributes] price_$": r"\. or \$",
            "line 6": "190 characters",
        },
    ),
    "types of other programs": (
        [
            "[custom_attributes] a = x : number",
            "[custom_attributes] b = x : Int",
            "[custom_attributes] c = x : datetime",
            "[custom_attributes] d = x : text",
            "[custom_attributes] e = x : integr",
        ],
        {
            "[custom_attributes] a": "unknown type 'number'.*integer, float",
            "[custom_attributes] b": "unknown type 'Int'.*integer",
            "[custom_attributes] c": "unknown type 'datetime'.*timestamp",
            "[custom_attributes] d": "unknown type 'text'.*string",
            "[custom_attributes] e": "unknown type 'integr'.*integer",
        },
    ),
    "too many attributes": (
        [f"[custom_attributes] a{number} = name" for number in range(251)],
        {"[custom_attributes]": "250"},
    ),
    "unknown keys": (
        [
            "[intercom] acces_token = sk-other",
            "[intercom] retrys = 1",
            f"[intercom] {'x' * 30} = 1",
            f"[intercom] {'x' * 31} = 1",
            "[csv] max_age_hours = 26",
            "[slack] api_key = 1",
        ],
        {
            "[intercom] acces_token": r"unknown key.*did you mean access_token\?",
            "[intercom] retrys": r"unknown key.*did you mean retries\?",
            f"[intercom] {'x' * 30}": "unknown key",
            "line 6": "unknown key",
            "[csv] max_age_hours": r"belongs in \[file\]",
            "[slack] api_key": r"belongs in \[intercom\] or \[hipchat\]",
        },
    ),
    "unknown sections": (
        ["[slak] use_slack = true", "[Intercom] retries = 3", "[zzz] x = 1"],
        {
            "[slak]": r"unknown section.*did you mean \[slack\]\?",
            "line 5": r"unknown section.*did you mean \[intercom\]\?",
            "[zzz]": r"unknown section.*known sections: .*\buser\b",
        },
    ),
    "rejected rows among the exports": (
        [
            "[local] folder = exports",
            "[csv] not_imported_folder = ./exports/../exports",
        ],
        {"[csv] not_imported_folder": r"\[local\] folder"},
    ),
    "rejected rows among the exports of the current folder": (
        ["[csv] not_imported_folder = ."],
        {"[csv] not_imported_folder": r"\[local\] folder"},
    ),
}
UNSORTABLE = [
    "%Q",
    "%d-%m",
    "%Y-%d",
    "%Y-%m-%H",
    "%Y-%m-%dT%I-%M",
    "%Y-%m-%dT%M",
    "%Y-%W",
    "x",
]
for text in UNSORTABLE:
    lines = [
        f"[file] time_format = {text}",
        "[file] select_latest = false",
        "[file] name = a.csv",
    ]
    INVALID[f"time_format {text}"] = (
        lines,
        {"[file] time_format": f"'{text}'.*order.*%Y"},
    )
INVALID["time_format with the zone's name"] = (
    ["[file] time_format = %Y-%m-%d_%Z"],
    {"[file] time_format": "'%Y-%m-%d_%Z'.*%Z.*%z"},
)
for encoding in ["idna", "punycode", "undefined", "rot13", "base64", "hex", "../utf_8"]:
    INVALID[f"encoding {encoding}"] = (
        [f"[csv] encoding = {encoding}"],
        {"[csv] encoding": "expected.*utf-8"},
    )
USER_URLS = [
    "api.intercom.io/users",
    "https://",
    "https://a.eu:port/users",
    "http://a.eu/users",
    "http://127.0.0.1.example.com/users",
    "https://ada:sk-other@api.intercom.io/users",
    "https://api.intercom.io/companies",
    "https://api.intercom.io/Contacts",
    "https://api.intercom.io",
    "https://api.intercom.io/users?a=b",
]
for url in USER_URLS:
    expected = f"{EXPECTS_HTTPS}.*without credentials"
    INVALID[url] = ([f"[intercom] user_url = {url}"], {"[intercom] user_url": expected})


@pytest.mark.parametrize("case", INVALID)
def test_each_problem_is_named_with_its_remedy(folder: Path, case: str) -> None:
    given_lines, expected = INVALID[case]
    loaded = load(folder, with_lines(*given_lines))
    assert loaded.problems.keys() == expected.keys(), loaded.lines
    for place, pattern in expected.items():
        assert re.search(pattern, loaded.problems[place]), (
            pattern,
            loaded.problems[place],
        )
    assert all(line.startswith("config.ini: ") for line in loaded.lines)
    assert "sk-" not in "".join(loaded.lines)


LONG_TIME_FORMAT = "%A users of %Y-%m-%dT%H-%M-%S.%f%z"
# Lines that look like the invalid ones, the attribute of the settings, and its value.
ACCEPTED: list[tuple[str, str, object]] = [
    *[
        ("[aws] use_aws = " + word, "aws.use_aws", False)
        for word in ("No", "OFF", "0", "f", "n")
    ],
    *[
        ("[log] use_logs = " + word, "log.use_logs", True)
        for word in ("True", "T", "on", "1")
    ],
    ("[intercom] timeout = 0.01", "intercom.timeout", 0.01),
    ("[intercom] retries = 0", "intercom.retries", 0),
    ("[intercom] concurrency = 34", "intercom.concurrency", 34),
    ("[intercom] api_version = 2.14", "api_version", "2.14"),
    ("[intercom] api_version = Preview", "api_version", "Preview"),
    ("[intercom] api_version = preview", "api_version", "Preview"),
    ("[file] max_age_hours = 26.5", "file.max_age_hours", 26.5),
    ("[csv] max_not_imported = 3", "csv.max_not_imported", 3),
    ("[csv] min_rows = 0", "csv.min_rows", 0),
    ("[csv] delimiter = TAB", "csv_format.delimiter", "\t"),
    ("[csv] delimiter = ;", "csv_format.delimiter", ";"),
    ('[csv] delimiter = " "', "csv_format.delimiter", " "),
    ("[csv] delimiter = #", "csv_format.delimiter", "#"),
    ("[csv] quote = None", "csv_format.quote", ""),
    ('[csv] quote = "', "csv_format.quote", '"'),
    ("[csv] quote = '", "csv_format.quote", "'"),
    ("[csv] escape = \\", "csv_format.escape", "\\"),
    ("[csv] escape = ", "csv_format.escape", ""),
    *[
        (f"[csv] encoding = {name}", "csv.encoding", name)
        for name in (
            "cp1252",
            "UTF8",
            "latin-1",
            "utf-16",
            "utf-7",
            "cp932",
            "unicode_escape",
        )
    ],
    ("[csv] timezone = gmt", "csv.timezone", "gmt"),
    ("[csv] timezone = America/Argentina/Buenos_Aires", "csv.min_rows", 1),
    *[
        (f"[intercom] user_url = {url}", "intercom.user_url", url)
        for url in (
            "https://api.eu.intercom.io/users",
            "https://api.au.intercom.io/contacts",
            "https://gateway.example.com:8443/intercom/v1/users",
            "http://localhost:5901/users",
            "http://127.0.0.1/contacts",
            "http://[::1]:80/users",
        )
    ],
    ("[hipchat] from = Import-Bot_1 x", "hipchat.sender", "Import-Bot_1 x"),
    ("[slack] channel = @ada", "slack.channel", "@ada"),
    ("[slack] username = a = b # c ; d", "slack.username", "a = b # c ; d"),
    *[
        (f"[file] time_format = {text}", "file.time_format", text)
        for text in (
            "%Y",
            "%y%m",
            "%d.%m.%Y",
            "%Y-%j",
            "%G-W%V-%u",
            "%Y-%m-%d %I %p",
            "%Y%%Z",
        )
    ],
    (f"[file] time_format = {LONG_TIME_FORMAT}", "file.time_format", LONG_TIME_FORMAT),
    ("[csv] not_imported_folder = exports/rejected", "csv.min_rows", 1),
]


@pytest.mark.parametrize(
    ("line", "attribute", "value"), ACCEPTED, ids=[a[0] for a in ACCEPTED]
)
def test_valid_values_are_accepted(
    folder: Path, line: str, attribute: str, value: object
) -> None:
    loaded = load(folder, with_lines("[local] folder = exports", line))
    assert loaded.lines == []
    found: Any = loaded.settings
    for name in attribute.split("."):
        found = getattr(found, name)
    assert found == value


def test_rejected_rows_may_be_in_the_local_folder_if_exports_are_in_s3(
    folder: Path,
) -> None:
    text = with_lines(
        "[aws] use_aws = true",
        "[aws] bucket = b",
        "[local] folder = not_imported",
        "[csv] not_imported_folder = not_imported",
    )
    # `--local not_imported/...csv` tries rejected rows again.
    for arguments in ([], ["--local", "not_imported/a.csv"]):
        assert load(folder, text, *arguments).lines == []


@posix("needs symbolic links")
def test_a_link_to_the_local_folder_is_the_local_folder(folder: Path) -> None:
    (folder / "exports").mkdir()
    (folder / "link").symlink_to("exports")
    text = with_lines("[local] folder = exports", "[csv] not_imported_folder = link")
    assert load(folder, text).problems.keys() == {"[csv] not_imported_folder"}


def test_fields_of_intercom_that_are_not_supported_are_ignored(folder: Path) -> None:
    loaded = load(
        folder,
        with_lines(
            "[user] user_id = id",
            "[user] phone = Phone",
            "[user] external_id = id",
            "[user] last_seen_at = Seen",
            "[user] Favourite_Color = Color",
        ),
    )
    assert loaded.lines == []
    ignored = ["[user] phone", "[user] external_id", "[user] last_seen_at", "line 8"]
    assert loaded.settings.ignored_keys == ignored


# The value of a key in [custom_attributes], and its parts: heading, type and format.
TYPED_HEADINGS: dict[str, tuple[str, str, str]] = {
    "Plan": ("Plan", "string", ""),
    "Plan:integer": ("Plan", "integer", ""),
    "Plan : INTEGER": ("Plan", "integer", ""),
    "Plan : Not  Boolean": ("Plan", "not boolean", ""),
    "Note: text": ("Note: text", "string", ""),
    "Ratio 1:2": ("Ratio 1:2", "string", ""),
    "Plan : b": ("Plan : b", "string", ""),
    "a : string : integer": ("a : string", "integer", ""),
    "At: when : timestamp": ("At: when", "timestamp", ""),
    "At : timestamp %d/%m/%Y %H:%M:%S": ("At", "timestamp", "%d/%m/%Y %H:%M:%S"),
    "At: timestamp %Y: %m: %d": ("At", "timestamp", "%Y: %m: %d"),
    # Quotes around the whole value are config.ini syntax, not part of the value.
    '"Plan : integer"': ("Plan", "integer", ""),
    '"Plan : a" : float': ("Plan : a", "float", ""),
    "'Plan : integer'": ("", "string", ""),
}


@pytest.mark.parametrize("text", TYPED_HEADINGS)
def test_a_value_is_split_into_heading_type_and_format(folder: Path, text: str) -> None:
    loaded = load(folder, VALID + f"[custom_attributes]\nx = {text}\n")
    assert loaded.lines == []
    (mapping,) = loaded.settings.mappings
    parts = (mapping.heading, mapping.type_name, mapping.date_format)
    assert parts == TYPED_HEADINGS[text]


def test_the_order_of_config_ini_does_not_affect_the_mappings(folder: Path) -> None:
    """Otherwise reordering the lines would change each user's digest."""
    lines = ["[user] name = n", "[user] email = e", "[user] user_id = u"]
    lines += ["[custom_attributes] b = b", "[custom_attributes] a = a"]
    found = [
        [
            mapping.name
            for mapping in load(folder, with_lines(*given_lines)).settings.mappings
        ]
        for given_lines in (lines, lines[::-1])
    ]
    assert found == [["user_id", "email", "name", "a", "b"]] * 2


def test_an_empty_config_only_lacks_credentials(folder: Path) -> None:
    assert load(folder, "").problems.keys() == {"[intercom] access_token"}


#### Secrets in the wrong place

# A section, its lines, and the place that is reported; {} is the line of the secret.
MISPLACED: dict[str, tuple[str, str, str]] = {
    "a colon instead of =": ("intercom", f"access_token: {TOKEN}", "line {}"),
    "a colon, and no = at all": ("intercom", f"access_token: {TOKEN[:-1]}", "line {}"),
    "no =": ("intercom", f"access_token {TOKEN[:-1]}", "line {}"),
    "two =": ("intercom", f"access_token = = {TOKEN}", "[intercom] access_token"),
    "the token alone": ("intercom", TOKEN, "line {}"),
    "the token alone, without =": ("intercom", TOKEN[:-1], "line {}"),
    "the token as a key": ("intercom", f"{TOKEN[:-1]} = access_token", "line {}"),
    "a lower-case token as a key": (
        "intercom",
        f"{'a1' * 16} = access_token",
        "line {}",
    ),
    "a key twice": ("intercom", f"{TOKEN} 1\n{TOKEN} 2", "line {}"),
    "the token as a section": (TOKEN, "access_token = x", "line {}"),
    "a section that isn't closed": ("intercom", f"[{TOKEN[:-1]}", "line {}"),
    "two sections in one line": ("", f"[log] [{TOKEN}]", "line {}"),
    "an indented section": ("csv", f"empty = x\n  [log]\nW{TOKEN} = x", "[csv] empty"),
    "all in one line": ("", f"[log] folder = {TOKEN}", "line {}"),
    "a continued line": ("intercom", f"retries = 5\n  {TOKEN}", "[intercom] retries"),
    "a continued heading": (
        "custom_attributes",
        f"plan = name\n  access_token: {TOKEN}",
        "[custom_attributes] plan",
    ),
    "a continued field": ("user", f"user_id = user_id\n  {TOKEN}", "[user] user_id"),
    "an inline comment": (
        "intercom",
        f"access_token = {TOKEN} ; x",
        "[intercom] access_token",
    ),
    "above all sections": ("", f"access_token = {TOKEN}", "line {}"),
    "a short token as a timeout": (
        "intercom",
        f"timeout = {TOKEN[:20]}",
        "[intercom] timeout",
    ),
    "a version": ("intercom", f"api_version = {TOKEN[:20]}", "[intercom] api_version"),
    "a channel": ("slack", f"channel = {TOKEN[:20]}", "[slack] channel"),
    "a webhook without scheme": (
        "slack",
        f"webhook_url = a.b/{TOKEN[:9]}",
        "[slack] webhook_url",
    ),
    "a password": (
        "intercom",
        f"user_url = https://a:{PASSWORD}@b/users",
        "[intercom] user_url",
    ),
    "a short URL": (
        "hipchat",
        f"api_url = https://a:{PASSWORD}@b/",
        "[hipchat] api_url",
    ),
    "a URL without scheme": (
        "aws",
        f"endpoint_url = a:{PASSWORD}@b",
        "[aws] endpoint_url",
    ),
    "a bucket's URL": ("aws", f"bucket = s3://a:{PASSWORD}@b", "[aws] bucket"),
    "a bucket's URL without a host": (
        "aws",
        f"bucket = s3://a:{PASSWORD}/",
        "[aws] bucket",
    ),
    "a date format": (
        "custom_attributes",
        f"x = y : timestamp {TOKEN}",
        "[custom_attributes] x",
    ),
    "a constant": ("user", f"signed_up_at = '{TOKEN}'", "[user] signed_up_at"),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_no_message_shows_a_misplaced_secret(folder: Path, case: str) -> None:
    """A secret is shown neither as a value nor as a name.

    Therefore, some locations are only a line number.
    """
    section, text, place = MISPLACED[case]
    header = f"[{section}]\n" if section else ""
    content = f"{header}{text}\n{VALID}"
    secrets = (TOKEN[:9], PASSWORD, "a1a1")
    numbers = [
        number
        for number, line in enumerate(content.splitlines(), 1)
        if any(secret in line for secret in secrets)
    ]
    loaded = load(folder, content)
    assert place.format(numbers[0]) in loaded.problems, loaded.lines
    shown = "\n".join(loaded.lines)
    assert [secret for secret in (*secrets, TOKEN[9:16]) if secret in shown] == []


@settings(max_examples=25, deadline=None)
@given(strategies.data())
def test_a_token_in_any_key_is_never_shown(data: strategies.DataObject) -> None:
    sections = strategies.sampled_from(export_csv.SECTIONS)
    section = data.draw(sections)
    rules = export_csv.rules_of(getattr(export_csv.Settings(), section))
    key = data.draw(strategies.sampled_from(sorted(rules)))
    secret = data.draw(
        strategies.text("abcdef0123456789=-_/+.:@ ", min_size=21, max_size=60)
    )
    secret = f"Zq{secret}Zq"
    problems = export_csv.Problems()
    entries = export_csv.ConfigFileParser(problems).parse(
        f"[{section}]\n{key} = {secret}\n"
    )
    with mock.patch.dict(os.environ, clear=True):
        target = getattr(export_csv.Settings(), section)
        export_csv.parse_section(section, target, entries, problems)
    assert secret not in "".join(problems.lines("config.ini"))


def test_a_long_invalid_value_is_not_shown(folder: Path) -> None:
    for value in ("x" * 20, "x" * 21):
        loaded = load(folder, with_lines(f"[csv] encoding = {value}"))
        assert (value in loaded.problems["[csv] encoding"]) == (len(value) <= 20)


def test_misplaced_secrets_are_in_no_log_and_no_notice(project: Project) -> None:
    project.enable_notices()
    project.configure(
        intercom={"timeout": TOKEN}, csv={"encoding": TOKEN}, log={TOKEN: "x"}
    )
    err = "\n".join(reported_problems(project))
    logs = [path.read_text("utf-8") for path in (project.folder / "logs").iterdir()]
    shown = f"{err}{logs}{project.services.slack}{project.services.hipchat}"
    assert "[csv] encoding" in err
    assert TOKEN[:6] not in shown


#### The syntax of config.ini

NUL = "NUL"
TWICE = "[csv]\ndelimiter = ;\ndelimiter = ,\n"
NOT_A_SETTING = "key = value"
# The lines above a valid config, and the places of all problems with a pattern for each.
SYNTAX: dict[str, tuple[str, dict[str, str]]] = {
    "NUL in a value": ("[csv]\nempty = NU\0LL\n", {"line 2": NUL}),
    "NUL in a section": ("[cs\0v]\nempty = NULL\n", {"line 1": NUL}),
    "NUL in a key": ("[csv]\nemp\0ty = NULL\n", {"line 2": NUL}),
    "NUL in a comment": ("[csv]\nempty = NULL\n# a comment\0\n", {"line 3": NUL}),
    "a key twice": (TWICE, {"[csv] delimiter": "twice.*line 3"}),
    "a section twice": (
        "[csv]\nencoding = utf-8\n[csv]\ndelimiter = ,\n",
        {"[csv]": "twice.*line 3"},
    ),
    "another problem below it": (
        TWICE + "min_rows = few\n",
        {"[csv] delimiter": "twice", "[csv] min_rows": "'few'"},
    ),
    "a comment after a section": (
        "[csv]  # how cells are separated\ndelimiter = ;\n",
        {"line 1": "comment"},
    ),
    "a line that isn't a setting": (
        "[csv]\ndelimiter\nmin_rows = 2\n",
        {"line 2": NOT_A_SETTING},
    ),
    "many lines that aren't settings": (
        "[csv]\n" + "what is this\n" * 41,
        {
            "line 2": NOT_A_SETTING,
            "line 3": NOT_A_SETTING,
            "line 4": NOT_A_SETTING,
            "the file": "38",
        },
    ),
    "a value on two lines": (
        "[csv]\nempty = NULL,\n    nil\n",
        {"[csv] empty": "continues on line 3"},
    ),
}


@pytest.mark.parametrize("case", SYNTAX)
def test_lines_after_an_invalid_line_are_read(folder: Path, case: str) -> None:
    """So their settings aren't reported as blank, and their errors are reported too."""
    text, expected = SYNTAX[case]
    loaded = load(folder, text + VALID)
    assert loaded.problems.keys() == expected.keys(), loaded.lines
    for place, pattern in expected.items():
        assert re.search(pattern, loaded.problems[place]), loaded.lines


def test_indented_lines_and_comments_are_fine(folder: Path) -> None:
    text = "# a comment\n\n[csv]\n  ; another\n  min_rows = 2\n\n  decimal=,\n  # 3\nempty=\n"
    loaded = load(folder, text + VALID)
    assert loaded.lines == []
    assert (loaded.settings.csv.min_rows, loaded.settings.csv.decimal) == (2, ",")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_any_line_ending_will_do(folder: Path, end: str) -> None:
    text = VALID + "[csv]\nmin_rows = 2\n"
    loaded = load(folder, ("\ufeff" + text.replace("\n", end)).encode())
    assert loaded.lines == []
    assert loaded.settings.csv.min_rows == 2


def test_a_config_in_latin_1_is_one_problem(folder: Path) -> None:
    loaded = load(folder, (VALID + "[slack]\nusername = José\n").encode("latin-1"))
    assert loaded.problems.keys() == {"the file"}
    assert "UTF-8" in loaded.problems["the file"]


CSV = "user_id,email,note\n" + "".join(
    f"u{n},u{n}@example.com,a = b\n" for n in range(40)
)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (CSV.encode(), "line 1"),
        (VALID.encode("utf-16"), "UTF-8"),
        (b'{"access_token": "sk-secret"}\n', "line 1"),
    ],
    ids=["a CSV", "UTF-16", "JSON"],
)
def test_another_kind_of_file_as_config_is_reported_in_one_line(
    folder: Path, content: bytes, named: str
) -> None:
    (line,) = load(folder, content).lines
    assert named in line
    assert "secret" not in line


@pytest.mark.parametrize(
    "name", ["nowhere.ini", "exports"], ids=["missing", "a folder"]
)
def test_a_config_that_cannot_be_read_is_named_in_one_line(
    project: Project, name: str
) -> None:
    (line,) = reported_problems(project, "--config", project.folder / name)
    assert name in line
    assert "--config" in line


def test_quotes_keep_spaces_and_special_characters_are_literal(
    project: Project,
) -> None:
    """Byte-order mark, CRLF, quoted values, and # ; % ' inside values."""
    project.enable_notices()
    project.configure(
        local={"folder": '"exports"'},
        csv={"delimiter": '" "'},
        intercom={"access_token": f'"{project.services.token}"', "retries": '"3"'},
        user={"user_id": '"my id"', "name": "'= Mr. %(Smith)s ; # 5'"},
        slack={"username": "Import # 1 ; $5 = 50%"},
        custom_attributes={
            "Plan": '"the plan : b" : integer',
            "plan": "'\"gold\"'",
            "plan: b": "my id",
        },
    )
    text = project.config.read_text("utf-8").replace("\n", "\r\n")
    project.config.write_bytes(
        b"\xef\xbb\xbf; a comment\r\n# and another\r\n" + text.encode()
    )
    project.write('"my id" "the plan : b"\nu1 5\n')
    assert project.run().status == 0
    assert sent(project) == [
        {
            "user_id": "u1",
            "name": "= Mr. %(Smith)s ; # 5",
            "custom_attributes": {"Plan": 5, "plan": '"gold"', "plan: b": "u1"},
        }
    ]
    assert project.services.slack[0]["username"] == "Import # 1 ; $5 = 50%"


#### .env and the environment

SECRETS = {
    "INTERCOM_ACCESS_TOKEN": "intercom.access_token",
    "INTERCOM_API_ID": "intercom.api_id",
    "INTERCOM_API_KEY": "intercom.api_key",
    "HIPCHAT_API_KEY": "hipchat.api_key",
    "SLACK_WEBHOOK_URL": "slack.webhook_url",
    "AWS_ACCESS_KEY_ID": "aws.access_key",
    "AWS_SECRET_ACCESS_KEY": "aws.secret_key",
}


def secret_value(loaded: Loaded, variable: str) -> object:
    assert loaded.lines == []
    section, key = SECRETS[variable].split(".")
    return getattr(getattr(loaded.settings, section), key)


@pytest.mark.parametrize("variable", SECRETS)
def test_the_environment_overrides_dot_env_and_dot_env_overrides_config(
    folder: Path, variable: str
) -> None:
    urls = [
        f"https://example.com/{place}" for place in ("config", "dotenv", "environment")
    ]
    section, key = SECRETS[variable].split(".")
    text = with_lines(
        "[intercom] api_id = i",
        "[intercom] api_key = k",
        f"[{section}] {key} = {urls[0]}",
    )
    dotenv = f"{variable}={urls[1]}\n"
    assert secret_value(load(folder, text), variable) == urls[0]
    assert secret_value(load(folder, text, dotenv=dotenv), variable) == urls[1]
    env = {variable: urls[2]}
    assert secret_value(load(folder, text, dotenv=dotenv, env=env), variable) == urls[2]


# The environment, .env, and the token that counts.
TOKENS: dict[str, tuple[dict[str, str], str, str]] = {
    "a blank variable hides nothing in .env": (
        {"INTERCOM_ACCESS_TOKEN": ""},
        "INTERCOM_ACCESS_TOKEN=sk-dotenv\n",
        "sk-dotenv",
    ),
    "a variable of blanks hides nothing in .env": (
        {"INTERCOM_ACCESS_TOKEN": "  "},
        "INTERCOM_ACCESS_TOKEN=sk-dotenv\n",
        "sk-dotenv",
    ),
    "a blank variable hides nothing in config.ini": (
        {"INTERCOM_ACCESS_TOKEN": ""},
        "",
        "sk-valid",
    ),
    "a blank line of .env hides nothing in config.ini": (
        {},
        "INTERCOM_ACCESS_TOKEN=\n",
        "sk-valid",
    ),
    "a blank line of .env hides nothing in the environment": (
        {"INTERCOM_ACCESS_TOKEN": "sk-env"},
        "INTERCOM_ACCESS_TOKEN=\n",
        "sk-env",
    ),
    "the last of two lines counts": (
        {},
        "INTERCOM_ACCESS_TOKEN=sk-first\nA=1\nINTERCOM_ACCESS_TOKEN=sk-last\n",
        "sk-last",
    ),
    "the last of two lines counts, even if it is blank": (
        {},
        "INTERCOM_ACCESS_TOKEN=sk-first\nINTERCOM_ACCESS_TOKEN=\n",
        "sk-valid",
    ),
    "export, quotes and comments": (
        {},
        "# secrets\nexport INTERCOM_ACCESS_TOKEN='sk-quoted'  # mine\n",
        "sk-quoted",
    ),
    "a byte-order mark": ({}, "\ufeffINTERCOM_ACCESS_TOKEN=sk-bom\r\n", "sk-bom"),
    "special characters of other formats": (
        {},
        "INTERCOM_ACCESS_TOKEN=a%b%(timeout)s${HOME}$c==\n",
        "a%b%(timeout)s${HOME}$c==",
    ),
}


@pytest.mark.parametrize("case", TOKENS)
def test_which_token_counts(folder: Path, case: str) -> None:
    env, dotenv, token = TOKENS[case]
    loaded = load(folder, VALID, env=env, dotenv=dotenv)
    assert secret_value(loaded, "INTERCOM_ACCESS_TOKEN") == token


def test_an_invalid_variable_is_named(folder: Path) -> None:
    env = {"INTERCOM_ACCESS_TOKEN": "Bearer sk-secret"}
    (line,) = load(folder, VALID, env=env).lines
    assert "INTERCOM_ACCESS_TOKEN" in line
    assert "Bearer" in line
    assert "secret" not in line


def test_secrets_of_environment_and_dot_env_are_used(project: Project) -> None:
    project.enable_notices()
    project.configure(
        intercom={"access_token": "", "api_id": "wrong", "api_key": "wrong"},
        hipchat={"api_key": "wrong"},
        slack={"webhook_url": "https://127.0.0.1:1/wrong"},
    )
    services = project.services
    project.write_env(
        {
            "INTERCOM_API_ID": services.api_id,
            "INTERCOM_API_KEY": "wrong",
            "HIPCHAT_API_KEY": services.hipchat_key,
        }
    )
    project.users(1)
    env = {
        "INTERCOM_API_KEY": services.api_key,
        "SLACK_WEBHOOK_URL": services.webhook_url,
    }
    result = project.run(env=env)
    assert result.status == 0, result
    assert services.requests[0].headers["Authorization"].startswith("Basic ")
    assert len(services.hipchat) == len(services.slack) == 2


def test_dot_env_and_state_are_next_to_the_config_file(project: Project) -> None:
    """They don't depend on the current folder, or users would be sent twice."""
    project.write_env({"INTERCOM_ACCESS_TOKEN": "wrong"})
    project.configure(intercom={"access_token": "", "skip_unchanged": "true"})
    other = project.folder / "europe" / "eu.ini"
    other.parent.mkdir()
    shutil.copy(project.config, other)
    (other.parent / ".env").write_text(
        f"INTERCOM_ACCESS_TOKEN={project.services.token}\n"
    )
    project.users(1)
    assert project.run("--config", "europe/eu.ini").counts() == (1, 0, 0)
    states = [path.parent for path in project.folder.rglob("sent_users.sqlite3")]
    assert states == [other.parent]


DOT_ENVS: dict[str, tuple[bytes, str]] = {
    "another encoding": (b"A=sk-\xe9-secret\n", "UTF-8"),
    "no =": (b"# fine\nA=1\nsk secret\n", "line 3"),
    "no name": (b"\n=sk-secret\n", "line 2"),
    "a quote that isn't closed": (b"A=1\nB='sk-secret\nC=2\n", "line 2"),
    "a NUL in a value": (b"A=sk\0secret\n", "line 1"),
    "a NUL in a name": (b"A=1\nsk\0secret=1\n", "line 2"),
    "a name with =": (b"'sk=secret'=1\n", "line 1"),
}


@pytest.mark.parametrize(("content", "place"), DOT_ENVS.values(), ids=DOT_ENVS)
def test_an_invalid_dot_env_is_one_problem(
    folder: Path, content: bytes, place: str
) -> None:
    (line,) = load(folder, VALID, dotenv=content).lines
    assert line.startswith(".env")
    assert place in line
    assert "secret" not in line


def test_a_problem_in_dot_env_is_reported_with_the_others(folder: Path) -> None:
    loaded = load(folder, with_lines("[csv] min_rows = few"), dotenv="not a setting\n")
    assert loaded.problems.keys() == {".env, line 1", "[csv] min_rows"}


@posix("Windows has no FIFOs or device files")
@pytest.mark.parametrize("name", [".env", "other.ini"])
@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_pipes_and_devices_are_not_read(project: Project, name: str, kind: str) -> None:
    """A device may never end, and a pipe may have no writer."""
    path = project.folder / name
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    (line,) = reported_problems(
        project, *(["--config", path] if name == "other.ini" else [])
    )
    assert name in line


PROXIES = ["http://", ":8080", "http://[::1", f"http://a:{PASSWORD}@host:port"]


@pytest.mark.parametrize("proxy", PROXIES)
def test_an_invalid_proxy_is_one_problem(folder: Path, proxy: str) -> None:
    (line,) = load(folder, VALID, env={"HTTPS_PROXY": proxy}).lines
    assert line.startswith("HTTPS_PROXY: ")
    assert PASSWORD not in line


@pytest.mark.parametrize(
    "proxy", ["http://proxy:8080", "10.0.0.1:3128", "http://a:b@proxy/"]
)
def test_a_valid_proxy_is_no_problem(folder: Path, proxy: str) -> None:
    assert load(folder, VALID, env={"HTTPS_PROXY": proxy}).lines == []


#### How errors are reported


def reported_problems(project: Project, *arguments: object) -> list[str]:
    """Run with invalid settings, and return the lines reported; nothing is sent."""
    project.users(1)
    result = project.run(*arguments)
    assert (result.status, result.out) == (2, ""), result
    assert "Traceback" not in result.err
    assert project.services.requests == []
    return result.err.splitlines()


def test_all_problems_are_reported_together_and_in_both_logs(project: Project) -> None:
    """Each line begins with the name of the config file."""
    project.configure(intercom={"timeout": "soon"}, slak={})
    project.config.rename(project.folder / "eu.ini")
    project.users(1)
    result = project.run("--config", "eu.ini")
    lines = result.err.splitlines()
    starts = ["eu.ini: [intercom] timeout: ", "eu.ini: [slak]: "]
    assert result.status == 2
    assert len(lines) == 2
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
        assert line in result.debug_log
        assert line in result.error_log


def test_problems_are_reported_even_if_no_log_can_be_written(project: Project) -> None:
    (project.folder / "file").touch()
    project.configure(intercom={"retries": "many"}, log={"folder": "file"})
    (line,) = reported_problems(project)
    assert line.startswith("config.ini: [intercom] retries: ")


NOTICES: dict[str, tuple[Sections, int, int]] = {
    "Intercom's": ({"intercom": {"timeout": "soon"}}, 1, 1),
    "Hipchat's own": ({"hipchat": {"from": "x" * 16}}, 0, 1),
    "Slack's own": ({"slack": {"webhook_url": "http://example.com/"}}, 1, 0),
    "an unknown section": ({"slackk": {"use_slack": "true"}}, 1, 1),
}


@pytest.mark.parametrize("case", NOTICES)
def test_a_red_notice_goes_to_services_with_valid_settings(
    project: Project, case: str
) -> None:
    sections, hipchat, slack = NOTICES[case]
    project.enable_notices()
    project.configure(**sections)
    (line,) = reported_problems(project)
    assert [notice["color"] for notice in project.services.hipchat] == ["red"] * hipchat
    assert len(project.services.slack) == slack
    texts = [notice["message"] for notice in project.services.hipchat]
    texts += [notice["text"] for notice in project.services.slack]
    assert all(line in text for text in texts), texts


def test_a_dry_run_with_invalid_settings_posts_no_notice(project: Project) -> None:
    project.enable_notices()
    project.configure(intercom={"timeout": "soon"})
    (line,) = reported_problems(project, "--dry-run")
    assert line.startswith("config.ini: [intercom] timeout: ")
    assert project.services.notice_requests == []
    assert not (project.folder / "logs").exists()


#### The shipped config.ini


def shipped(project: Project) -> str:
    """Return config.ini as it is shipped, but with the mock's user_url."""
    text = (ROOT / "config.ini").read_text("utf-8")
    assert len(re.findall("^user_url =$", text, re.MULTILINE)) == 1
    return text.replace(
        "\nuser_url =\n", f"\nuser_url = {project.services.users_url}\n"
    )


def shipped_keys() -> dict[str, list[str]]:
    """Return the keys of each section of config.ini, and check that each has a comment above it."""
    sections: dict[str, list[str]] = {}
    keys: list[str] = []
    above = ""
    for line in (ROOT / "config.ini").read_text("utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            keys = sections.setdefault(header[1], [])
        elif entry := re.match("([a-z_]+) =", line):
            assert above.startswith("# "), f"{entry[1]} has no comment"
            keys.append(entry[1])
        above = line
    return sections


def test_the_shipped_config_has_every_key_and_no_other() -> None:
    found = shipped_keys()
    for section in export_csv.SECTIONS:
        rules = export_csv.rules_of(getattr(export_csv.Settings(), section))
        assert found.pop(section) == list(rules), section
    assert found.keys() == {"user", "custom_attributes"}
    assert set(found["user"]) < export_csv.FIELDS.keys()
    assert "unsubscribed_from_emails" not in found["user"]


def test_dot_env_example_has_every_variable() -> None:
    text = (ROOT / ".env.example").read_text("utf-8")
    variables = re.findall("^# ([A-Z_]+)=", text, re.MULTILINE)
    assert set(variables) == {*SECRETS, "AWS_SESSION_TOKEN"}


def test_the_shipped_values_are_the_defaults(folder: Path) -> None:
    """Only folder and time_format are different, to match the sample."""
    text = (ROOT / "config.ini").read_text("utf-8")
    as_shipped = load(folder, text, "--dry-run").settings
    blank = re.sub("^([a-z_]+ =).*", r"\1", text, flags=re.MULTILINE)
    defaults = load(folder, blank, "--dry-run").settings
    assert as_shipped.local.folder == "tests/sample"
    assert as_shipped.file.time_format == "users_%Y-%m-%dT%H-%M-%S"
    as_shipped.local = defaults.local
    as_shipped.file = defaults.file
    for section in export_csv.SECTIONS:
        assert getattr(as_shipped, section) == getattr(defaults, section)


def test_blank_values_are_the_defaults(project: Project) -> None:
    text = re.sub(
        "^(?!user_url)([a-z_]+ =).*", r"\1", shipped(project), flags=re.MULTILINE
    )
    project.config.write_text(text, "utf-8")
    (project.folder / "2026-11-01T09:00:00.csv").write_text("user_id\nu1\nu2,x\n")
    result = project.run(env={"INTERCOM_ACCESS_TOKEN": project.services.token})
    assert result.counts() == (1, 0, 1), result
    assert project.services.requests[0].headers["Intercom-Version"] == "1.4"
    folders = {path.name for path in project.folder.iterdir() if path.is_dir()}
    assert folders == {"exports", "logs", "not_imported"}


def test_blank_urls_default_to_those_of_intercom_and_hipchat(project: Project) -> None:
    asked = set()

    class Proxy(StreamRequestHandler):
        """A proxy that closes each connection."""

        def handle(self) -> None:
            asked.add(self.rfile.readline().split()[1])

    project.configure(
        intercom={"user_url": "", "retries": 0},
        hipchat={"use_hipchat": "true", "api_key": "key", "room_id": 1, "api_url": ""},
    )
    project.set_constants(NOTICE_PAUSES=[0.01, 0.01])
    project.users(1)
    with TCPServer(("127.0.0.1", 0), Proxy) as proxy:
        Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{proxy.server_address[1]}"
        assert project.run(env={"HTTPS_PROXY": url}).status == 1
        proxy.shutdown()
    assert asked == {b"api.intercom.io:443", b"api.hipchat.com:443"}


def test_the_shipped_config_imports_the_sample_once_it_has_a_token(
    project: Project,
) -> None:
    """All columns but unsubscribed_from_emails: it would resubscribe users who opted out."""
    project.config.write_text(shipped(project), "utf-8")
    sample = project.folder / "tests" / "sample"
    shutil.copytree(ROOT / "tests" / "sample", sample)
    with (sample / NAME).open(encoding="utf-8-sig", newline="") as file:
        headings, *rows = csv.reader(file)
    result = project.run(env={"INTERCOM_ACCESS_TOKEN": project.services.token})
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
