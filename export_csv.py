#!/usr/bin/env python3
"""Add or update the users of a CSV file in Intercom, one request a user.

Run by hand or by cron; every setting stands in config.ini and is explained there. The chapters
follow a run, from Intercom's vocabulary to `main` at the end: read it from top to bottom.
"""

from __future__ import annotations

import argparse
import base64
import codecs
import concurrent.futures
import configparser
import contextlib
import csv
import difflib
import email.utils
import errno
import gzip
import hashlib
import io
import itertools
import json
import logging
import math
import os
import queue
import re
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TextIO
from urllib.parse import quote, quote_plus, urlsplit

INSTALL = "run `sh installboto.sh` (Windows: installboto.bat), then start it with .venv's python"
try:
    import dotenv
    import requests.adapters
except ImportError as error:
    sys.exit(f"export_csv.py: the package {error.name} is missing: {INSTALL}")
if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

VERSION = "1.0.0"
log = logging.getLogger("export_csv")


class StopRun(Exception):
    """What ends the run: its text says why, and where it can, what to do."""


#### What may be seen

hidden: list[str] = []  # secrets, in each form in which they may turn up


def hide(secret: str) -> None:
    """Never show `secret` again: as it is, percent-encoded or in base64."""
    path = re.sub(r"^\w+://[^/]*", "", secret) if "://" in secret else ""
    for text in (secret, path):
        encoded = base64.b64encode(text.encode()).decode()
        hidden.extend({text, quote(text), quote(text, ""), quote_plus(text), encoded} - {"", "/"})
    hidden.sort(key=len, reverse=True)


def show(text: object) -> str:
    """`text` as it may be seen: without secrets, control characters as escapes."""
    shown = str(text)
    for secret in hidden:
        if secret in shown:
            # One of a few letters is only a secret where it stands alone.
            word = r"(?<!\w){}(?!\w)" if len(secret) < 8 else "{}"
            shown = re.sub(word.format(re.escape(secret)), "***", shown)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


def cause(error: BaseException) -> str:
    """The error at the bottom, without the URLs in the texts of those above it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {error}"


#### Intercom's vocabulary

Value = str | int | float | bool
User = dict[str, Any]
MAX_ATTRIBUTES, MAX_ATTRIBUTE_NAME, MAX_ATTRIBUTE_TEXT = 250, 190, 255
MILLISECONDS = 10**11  # as UNIX seconds, this is the year 5138
BOOLEANS = dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True)
BOOLEANS |= dict.fromkeys(("false", "f", "no", "n", "off", "0"), False)
WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)(\.0*)?")
ISO_8601 = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)(?:[Tt ](\d\d):?(\d\d)(?::?(\d\d)(?:[.,]\d+)?)?"
    r" ?(?:[Zz]|([+-]\d\d):?([0-5]\d)?)?)?",
    re.ASCII,
)


def to_integer(cell: str) -> int:
    """`12`, also `12.0` as spreadsheets write it; ValueError otherwise."""
    match = WHOLE_NUMBER.fullmatch(cell)
    if not match:
        raise ValueError("not a whole number")
    return int(match[1])


def to_float(cell: str) -> float:
    """A finite number; ValueError otherwise."""
    if not cell.isascii() or "_" in cell or not math.isfinite(float(cell)):
        raise ValueError("not a finite number")
    return float(cell)


def to_boolean(cell: str) -> bool:
    """One of the words of BOOLEANS, in any case; ValueError otherwise."""
    if cell.lower() not in BOOLEANS:
        raise ValueError("not one of true/false, t/f, yes/no, y/n, on/off, 1/0")
    return BOOLEANS[cell.lower()]


def to_timestamp(cell: str) -> int:
    """UNIX seconds of a number of seconds or an ISO 8601 date (no zone: UTC); else ValueError."""
    match = ISO_8601.fullmatch(cell)
    if match and not cell.isdecimal():
        year, month, day, hour, minute, second, _, minutes = match.groups("00")
        moment = f"{year}-{month}-{day}T{hour}:{minute}:{second}{match[7] or '+00'}:{minutes}"
        return int(datetime.fromisoformat(moment).timestamp())
    if not WHOLE_NUMBER.fullmatch(cell):
        raise ValueError("neither UNIX seconds nor an ISO 8601 date")
    if abs(to_integer(cell)) >= MILLISECONDS:
        raise ValueError("in milliseconds, where Intercom takes seconds")
    return to_integer(cell)


def to_attribute_text(cell: str) -> str:
    """The cell; ValueError where it is longer than a custom attribute may be."""
    if len(cell) > MAX_ATTRIBUTE_TEXT:
        raise ValueError(f"{len(cell)} characters, where Intercom takes {MAX_ATTRIBUTE_TEXT}")
    return cell


CONVERTERS: dict[str, Callable[[str], Value]] = {
    "string": to_attribute_text,
    "integer": to_integer,
    "float": to_float,
    "boolean": to_boolean,
    "timestamp": to_timestamp,
}
FIELDS = {
    "user_id": "string",
    "email": "string",
    "id": "string",
    "signed_up_at": "timestamp",
    "name": "string",
    "last_seen_ip": "string",
    "last_seen_user_agent": "string",
    "last_request_at": "timestamp",
    "unsubscribed_from_emails": "boolean",
    "update_last_request_at": "boolean",
    "new_session": "boolean",
}
IDENTITY = ("user_id", "email", "id")
ALWAYS_SENT = ("new_session", "update_last_request_at")
CONTACT_NAMES = {"user_id": "external_id", "last_request_at": "last_seen_at"}
NOT_IN_CONTACTS = ("last_seen_ip", "last_seen_user_agent", "new_session")


def to_contact(user: User) -> User:
    """The user in the words of Intercom's API 2.x, where it is a contact."""
    left_out = (*NOT_IN_CONTACTS, "id", "update_last_request_at")
    contact = {CONTACT_NAMES.get(k, k): v for k, v in user.items() if k not in left_out}
    now = {"last_seen_at": int(time.time())} if user.get("update_last_request_at") else {}
    return contact | now


#### Settings


class Source(NamedTuple):
    """What fills a field or a custom attribute: the cell below a heading, or a constant."""

    name: str
    text: str  # the heading, or the constant
    constant: bool
    kind: str
    convert: Callable[[str], Value]
    attribute: bool


class Settings(NamedTuple):
    """Every key of config.ini, named section_key; its default also tells its type."""

    aws_use_aws: bool = False
    aws_access_key: str = ""
    aws_secret_key: str = ""
    aws_bucket: str = ""
    aws_folder: str = ""
    aws_region: str = ""
    aws_endpoint_url: str = ""
    aws_tmp_folder: str = ""
    local_folder: str = "."
    file_select_latest: bool = True
    file_time_format: str = "%Y-%m-%dT%H:%M:%S"
    file_name: str = ""
    csv_delimiter: str = ","
    csv_encoding: str = "utf-8"
    csv_headings: str = ""
    csv_not_imported_folder: str = "not_imported"
    intercom_api_id: str = ""
    intercom_api_key: str = ""
    intercom_access_token: str = ""
    intercom_user_url: str = "https://api.intercom.io/users"
    intercom_api_version: str = ""
    intercom_timeout: float = 30.0
    intercom_retries: int = 50
    intercom_concurrency: int = 1
    intercom_skip_unchanged: bool = False
    intercom_state_file: str = "sent_users.sqlite3"
    hipchat_use_hipchat: bool = False
    hipchat_api_key: str = ""
    hipchat_room_id: str = ""
    hipchat_from: str = "Intercom Import"
    hipchat_api_url: str = "https://api.hipchat.com/v1/"
    slack_use_slack: bool = False
    slack_webhook_url: str = ""
    slack_channel: str = ""
    slack_username: str = ""
    slack_icon_url: str = ""
    slack_icon_emoji: str = ""
    log_use_logs: bool = True
    log_folder: str = "logs"
    sources: tuple[Source, ...] = ()  # of [user] and [custom_attributes]
    discarded: tuple[str, ...] = ()  # keys of [user] that are no field of Intercom's

    @property
    def contacts(self) -> bool:
        """Whether user_url speaks API 2.x, where users are contacts."""
        return self.intercom_user_url.endswith("/contacts")

    @property
    def authorization(self) -> str:
        """The Authorization header: bearer where there is a token, else basic."""
        pair = f"{self.intercom_api_id}:{self.intercom_api_key}".encode()
        token = self.intercom_access_token
        return f"Bearer {token}" if token else f"Basic {base64.b64encode(pair).decode()}"


SECRETS = {  # and what wins over them: variables of the environment, or of .env
    "intercom_api_id": "INTERCOM_API_ID",
    "intercom_api_key": "INTERCOM_API_KEY",
    "intercom_access_token": "INTERCOM_ACCESS_TOKEN",
    "hipchat_api_key": "HIPCHAT_API_KEY",
    "slack_webhook_url": "SLACK_WEBHOOK_URL",
    "aws_access_key": "AWS_ACCESS_KEY_ID",
    "aws_secret_key": "AWS_SECRET_ACCESS_KEY",
}
URL = r"(https://(?=[^/])|http://(localhost|127(\.\d+){3}|\[::1\])(?=[:/]))[^\s@?#]*"
URL_FORM = "an https:// URL (http:// only on this machine) without name or password"
KEY_FORM = "it anew: it holds a character that no key has"
# What a value has to look like, and how that is said behind "write".
FORMS = dict.fromkeys(SECRETS, ("[!-~]*", KEY_FORM)) | {
    "aws_bucket": (r"(?!s3:)\S+", "the name alone, without s3://"),
    "aws_endpoint_url": (r"https?://[^/\s]\S*", "a URL such as https://host"),
    "csv_delimiter": ('tab|[^"\r\n]', "one character, or the word tab"),
    "intercom_user_url": (URL + "/(users|contacts)", URL_FORM + ", ending in /users or /contacts"),
    "intercom_api_version": (r"[\w.]+", "a version such as 1.4 or 2.14"),
    "intercom_concurrency": ("[1-9][0-9]{0,2}", "a number from 1 to 999"),
    "hipchat_from": ("[A-Za-z0-9 _-]{1,15}", "1 to 15 letters, digits, spaces, - or _"),
    "hipchat_api_url": (URL, URL_FORM),
    "slack_webhook_url": (URL, URL_FORM),
    "slack_channel": ("[#@].+", "#channel or @user"),
}
TYPE_FORMS = {
    bool: ("(?i)" + "|".join(BOOLEANS), "true or false"),
    int: (r"[0-9]{1,9}", "a whole number such as 50"),
    float: (r"[0-9]{1,9}(\.[0-9]*)?", "a number such as 30"),
    str: ("[^\n]*", "it on one line"),
}
NEEDED = ("aws_bucket", "hipchat_api_key", "hipchat_room_id", "slack_webhook_url")


def nearest(name: str, known: Iterable[str], most: int = 1) -> str:
    """The names of `known` that are spelt most like `name`, case aside."""
    spelt = {candidate.lower(): candidate for candidate in known}
    return ", ".join(spelt[n] for n in difflib.get_close_matches(name.lower(), spelt, most, 0.0))


def unquote(text: str) -> str:
    """`text` without the double quotes that may stand around it."""
    return text[1:-1] if re.fullmatch('"[^"]*"', text) else text


def parse_config(config: Path, problems: dict[str, str]) -> dict[str, dict[str, str]]:
    """Each section's values as text; what can't be parsed is named by its line, never shown."""
    text = config.read_bytes().decode("utf-8-sig", "replace")
    if "\N{REPLACEMENT CHARACTER}" in text:
        problems["encoding"] = "the file is not UTF-8; save it as UTF-8"
        text = "" if "\0" in text else text  # UTF-16: each line would be a problem
    for strict in (True, False):  # strict finds what stands there twice, but only the first
        parser = configparser.ConfigParser(
            interpolation=None,
            delimiters="=",
            default_section="",
            empty_lines_in_values=False,
            strict=strict,
        )
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            parser.read_string("[above]\n" + text)
            break
        except (configparser.DuplicateSectionError, configparser.DuplicateOptionError) as error:
            where = f"[{error.section}] {getattr(error, 'option', '')}".rstrip()
            again = f"again in line {(error.lineno or 1) - 1}"
            problems[where] = f"stands there twice, {again}; write it once"
        except configparser.ParsingError as error:
            for number, _ in error.errors:
                problems[f"line {number - 1}"] = "is not `key = value`; write it so"
    values = {name: {k: unquote(v) for k, v in parser[name].items()} for name in parser.sections()}
    if values.pop("above"):
        problems["above the first [section]"] = "there are settings; move each into its own section"
    return values


def read_value(name: str, text: str, default: Value) -> Value:
    """`text` in the type of `default`; ValueError says what to write."""
    kind = type(default)
    for pattern, form in (TYPE_FORMS[kind], FORMS.get(name, TYPE_FORMS[str])):
        if text and not re.fullmatch(pattern, text):
            shown = "" if name in SECRETS or "://" in text else f"is {text!r}; "
            raise ValueError(f"{shown}write {form}")
    return (to_boolean(text) if kind is bool else kind(text)) if text else default


def read_source(name: str, text: str, attribute: bool) -> Source:
    """What `name = text` of [user] or [custom_attributes] means; ValueError says what is wrong."""
    kind = "" if attribute else FIELDS[name]
    if attribute and not re.fullmatch(f"[^.$]{{1,{MAX_ATTRIBUTE_NAME}}}", name):
        raise ValueError(f"rename it: no . or $, at most {MAX_ATTRIBUTE_NAME} characters")
    if attribute and ":" in text and not re.fullmatch("'.*'", text):
        text, kind = (part.strip() for part in text.rsplit(":", 1))
        if kind and kind not in CONVERTERS:
            near = nearest(kind, CONVERTERS)
            raise ValueError(f"unknown type {kind}; write {', '.join(CONVERTERS)} ({near}?)")
    kind, text = kind or "string", unquote(text)
    convert = CONVERTERS[kind] if attribute or kind != "string" else str
    if not re.fullmatch("'.*'", text):
        return Source(name, text, False, kind, convert, attribute)
    try:
        convert(text[1:-1].strip())
    except ValueError as error:
        raise ValueError(f"the constant {text} is {error}; write one that fits") from None
    return Source(name, text[1:-1], True, kind, convert, attribute)


def read_keys(values: dict[str, dict[str, str]], problems: dict[str, str]) -> dict[str, Any]:
    """The settings that file and environment give; what is wrong with one is a problem."""
    given: dict[str, Any] = {}
    for name, default in Settings._field_defaults.items():
        section, _, key = name.partition("_")
        if not key:
            continue  # those that read_sources reads
        text = values.get(section, {}).pop(key, "")
        if name.endswith(("_folder", "_file")) and name != "aws_folder":
            text = os.path.expanduser(text)  # noqa: PTH111 - which lets an unknown ~user be
        if name in SECRETS:
            text = os.environ.get(SECRETS[name]) or text
            hide(text)
        try:
            given[name] = read_value(name, text, default)
        except ValueError as error:
            problems[f"[{section}] {key}"] = str(error)
    return given


def read_sources(values: dict[str, dict[str, str]], problems: dict[str, str]) -> dict[str, Any]:
    """The settings of [user] and [custom_attributes]; what is wrong with one is a problem."""
    sources: list[Source] = []
    discarded: list[str] = []
    for section in ("user", "custom_attributes"):
        for key, text in values.pop(section, {}).items():
            try:
                if section == "user" and key not in FIELDS:
                    discarded.append(key)
                elif text:
                    sources.append(read_source(key, text, section != "user"))
            except ValueError as error:
                problems[f"[{section}] {key}"] = str(error)
    return {"sources": tuple(sources), "discarded": tuple(discarded)}


def name_unknown(values: dict[str, dict[str, str]], problems: dict[str, str]) -> None:
    """Whatever nobody has read is misspelt, and a problem."""
    names = [name.split("_", 1) for name in Settings._fields if "_" in name]
    for section, unknown in values.items():
        known = [key for place, key in names if place == section]
        if not known:
            near = nearest(section, ["user", "custom_attributes", *dict(names)])
            problems[f"[{section}]"] = f"unknown section; write [{near}]?"
        for key in unknown if known else ():
            problems[f"[{section}] {key}"] = f"unknown key; write {nearest(key, known)}?"


def read_settings(config: Path, arguments: argparse.Namespace) -> tuple[Settings, dict[str, str]]:
    """The settings of command line, environment, .env and file, and what is wrong with them."""
    problems: dict[str, str] = {}
    values = parse_config(config, problems)
    try:
        dotenv.load_dotenv(config.parent / ".env", interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problems[".env"] = f"can't be read ({type(error).__name__}); make it readable, in UTF-8"
    given = read_keys(values, problems) | read_sources(values, problems)
    name_unknown(values, problems)
    given |= {"aws_use_aws": False} if arguments.local else {}
    if arguments.filename:
        given |= {"file_select_latest": False, "file_name": arguments.filename}
    settings = Settings(**given)
    if settings.intercom_api_key:
        hide(f"{settings.intercom_api_id}:{settings.intercom_api_key}")
    hide(os.environ.get("AWS_SESSION_TOKEN", ""))
    for proxy in urllib.request.getproxies().values():
        user, password = requests.utils.get_auth_from_url(proxy)
        for secret in (password, f"{user}:{password}") if password else ():
            hide(secret)
    for wrong, where, text in wrong_values(settings, arguments.dry_run):
        if wrong:
            problems.setdefault(where, text)
    return settings, problems


def wrong_values(s: Settings, dry_run: bool) -> Iterator[tuple[bool, str, str]]:
    """What can be wrong with values that fit their form: whether it is, where, what to write."""
    for section, key in (name.split("_", 1) for name in NEEDED):
        bad = getattr(s, f"{section}_use_{section}") and not getattr(s, f"{section}_{key}")
        yield bad, f"[{section}] {key}", f"is blank; write it, or use_{section} = false"
    bad = s.aws_use_aws and bool(s.aws_access_key) != bool(s.aws_secret_key)
    key = "secret_key" if s.aws_access_key else "access_key"
    yield bad, f"[aws] {key}", "is blank; write both keys, or none for boto3's own chain"
    bad = not s.file_select_latest and not s.file_name
    yield bad, "[file] name", "is blank; name the file, or write select_latest = true"
    form = s.file_time_format
    bad = s.file_select_latest and not works(
        lambda: datetime.strptime(f"{datetime.now():{form}}", form)
    )
    yield bad, "[file] time_format", "is no time format; write one such as %Y-%m-%dT%H-%M-%S"
    bad = not works(lambda: io.TextIOWrapper(io.BytesIO(), s.csv_encoding))
    yield bad, "[csv] encoding", "is unknown; write one such as utf-8 or cp1252"
    bad = not (s.intercom_access_token or dry_run or (s.intercom_api_id and s.intercom_api_key))
    key = "api_key" if s.intercom_api_id else "api_id" if s.intercom_api_key else "access_token"
    name = SECRETS[f"intercom_{key}"]
    yield bad, f"[intercom] {key}", f"is blank; write it here, or in .env as {name}=..."
    bad = not works(lambda: requests.Request("GET", s.intercom_user_url).prepare())
    yield bad, "[intercom] user_url", "is no URL; write one such as https://api.intercom.io/users"
    names = [source.name for source in s.sources if not source.attribute]
    bad = bool(names or s.discarded) and not set(names) & set(IDENTITY)
    yield bad, "[user]", "names no identity; write user_id, email or id"
    bad = len(s.sources) - len(names) > MAX_ATTRIBUTES
    yield bad, "[custom_attributes]", f"has more than {MAX_ATTRIBUTES} keys; leave some out"


def works(action: Callable[[], object]) -> bool:
    """Whether a library takes what it is given here."""
    try:
        action()
    except (ValueError, LookupError, re.error):
        return False
    return True


#### Finding the file

S3_ERRORS = {
    "NoSuchBucket": "there is no such bucket; see [aws] bucket",
    "NoSuchKey": "there is no such file; see [aws] folder, or use --local for one on disk",
    "AccessDenied": "the keys may not do this: they need s3:ListBucket and s3:GetObject there",
    "InvalidAccessKeyId": "S3 doesn't know the key; see [aws] access_key",
    "SignatureDoesNotMatch": "the secret is wrong; see [aws] secret_key",
    "NoCredentialsError": "there are no credentials; see [aws] access_key and secret_key",
}


class CsvFile(NamedTuple):
    """The file that a run imports: its name, and its bytes from the start."""

    name: str
    content: IO[bytes]
    size: int

    def unpacked(self) -> Any:
        """The bytes of the CSV, which a .gz has packed."""
        return gzip.open(self.content) if self.name.lower().endswith(".gz") else self.content

    def count_lines(self) -> int:
        """How many there are, of a file that is at its start, and then is so again."""
        lines = 1
        if self.content.seekable():
            with contextlib.suppress(*READ_ERRORS):  # which the first row is going to say
                content = self.unpacked()
                while part := content.read(2**20):
                    lines += part.count(b"\n")
            self.content.seek(0)
        return lines


def stem(name: str) -> str:
    """A file's name without .csv or .csv.gz; blank where it has neither."""
    match = re.fullmatch(r"(?is)(.*)\.csv(\.gz)?", name)
    return match[1] if match else ""


def newest(names: Iterable[str], time_format: str, place: str) -> str:
    """The name with the latest time stamp; StopRun with an example where none has one."""
    stamped = []
    for name in names:
        try:
            stamped.append((datetime.strptime(stem(name), time_format), name))
        except ValueError:
            log.debug("%s is skipped: it doesn't fit [file] time_format", name)
    if not stamped:
        like = f"that fits [file] time_format, such as {datetime.now():{time_format}}.csv"
        raise StopRun(f"{place} holds no file {like}")
    return max(stamped)[1]


def open_file(settings: Settings) -> CsvFile:
    """The file that is named, or the newest; StopRun where there is none, or it can't be read."""
    if settings.aws_use_aws:
        return open_s3(settings)
    folder = Path(settings.local_folder).absolute()
    try:
        name = settings.file_name
        if settings.file_select_latest:
            files = [entry.name for entry in os.scandir(folder) if entry.is_file()]
            name = newest(files, settings.file_time_format, f"the folder {folder}")
        path = folder / name if (folder / name).exists() else Path(name)
        file = path.open("rb")
        return CsvFile(path.name, file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        tried = folder if settings.file_select_latest else f"{name}, here or in {folder},"
        raise StopRun(f"{tried} can't be read: {error.strerror}; see [local] folder") from None


def s3_client(settings: Settings) -> Any:
    """A connection with the keys of the settings, or where there are none, boto3's own chain."""
    import boto3
    from botocore.config import Config

    keys_of_environment = settings.aws_access_key == os.environ.get("AWS_ACCESS_KEY_ID")
    return boto3.client(
        "s3",
        aws_access_key_id=settings.aws_access_key or None,
        aws_secret_access_key=settings.aws_secret_key or None,
        aws_session_token=os.environ.get("AWS_SESSION_TOKEN") if keys_of_environment else None,
        region_name=settings.aws_region or None,
        endpoint_url=settings.aws_endpoint_url or None,
        config=Config(connect_timeout=10, retries={"mode": "standard", "max_attempts": 5}),
    )


def open_s3(settings: Settings) -> CsvFile:
    """A whole copy of the object that is named, or of the newest.

    Only immediate children of the folder are listed: see Delimiter in
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    """
    try:
        import boto3  # noqa: F401 - which s3_client uses
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise StopRun(f"the package {error.name} is missing: {INSTALL}") from None
    bucket, name = settings.aws_bucket, settings.file_name
    folder = f"{settings.aws_folder.strip('/')}/".lstrip("/")
    place = f"s3://{bucket}/{folder}"
    tmp_folder = settings.aws_tmp_folder or tempfile.gettempdir()
    try:
        client = s3_client(settings)
        if settings.file_select_latest:
            listing = client.get_paginator("list_objects_v2")
            pages = listing.paginate(Bucket=bucket, Prefix=folder, Delimiter="/")
            keys = (item["Key"] for page in pages for item in page.get("Contents", ()))
            name = newest((key[len(folder) :] for key in keys), settings.file_time_format, place)
        # A file without a name, of which not even kill -9 leaves anything.
        copy = tempfile.TemporaryFile(dir=tmp_folder)
        for _ in range(5):
            if download(client, bucket, folder + name, copy):
                return CsvFile(name.rpartition("/")[2], copy, os.fstat(copy.fileno()).st_size)
    except (BotoCoreError, ClientError, ValueError) as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
        log.debug("S3: %s", error)
        why = S3_ERRORS.get(code, f"{error}; see [aws] in config.ini")
        raise StopRun(f"{place}{name}: {why}") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise StopRun(f"the download can't be written to {tmp_folder}: {why}") from None
    raise StopRun(f"{place}{name}: the download broke off five times; try again later")


def download(client: Any, bucket: str, key: str, copy: IO[bytes]) -> bool:
    """Copy the object; whether all of it is there, from one state of the object, and undamaged.

    boto3's own download_fileobj would hide Ctrl-C, and give a part as the whole.
    """
    from botocore.exceptions import BotoCoreError

    answer = client.get_object(Bucket=bucket, Key=key)
    copy.seek(0)
    copy.truncate()
    try:
        shutil.copyfileobj(answer["Body"], copy)
    except BotoCoreError as error:
        log.warning("the download of %s broke off: %s", key, error)
        return False
    size = copy.tell()
    copy.seek(0)
    return size == int(answer.get("ContentLength", -1))


#### Rows to users


class Row(NamedTuple):
    """A record of the file: its cells, or the problem that keeps it from being imported."""

    line: int
    lines: Iterable[str]  # as they stand in the file
    cells: list[str]
    problem: str = ""


@dataclass
class Sheet:
    """A CSV file that is being read, and where in its rows a user's values are."""

    text: io.TextIOWrapper
    delimiter: str
    rows: Iterator[Row] = field(init=False)
    line: int = 1  # where the next record begins
    tail: tuple[Row, ...] = ()  # a quote that never closes: behind it, no row can be kept
    broken: str = ""  # why the file can't be read to its end
    heading_lines: Iterable[str] = ()  # none where [csv] headings stand for them
    width: int = 0
    constants: list[str] = field(default_factory=list)  # appended to each row's cells
    columns: list[tuple[int, Source]] = field(default_factory=list)


# A UTF-16 file that ends in half a character is a UnicodeError.
READ_ERRORS = (OSError, EOFError, zlib.error, UnicodeError)
csv.field_size_limit(2**20)  # characters of a cell, so that a lost quote can't fill the memory
SURROGATE = re.compile("[\ud800-\udfff]")  # what bytes that are not in the encoding are read as


def read_rows(sheet: Sheet) -> Iterator[Row]:
    """Every record but blank lines; the sheet knows what is behind the last."""
    text = sheet.text
    lines: list[str] = []

    def pull() -> Iterator[str]:
        for number, line in enumerate(text):
            lines.append(line)
            yield line if number else line.removeprefix("\ufeff")

    def rest() -> Iterator[str]:
        yield from lines
        try:
            yield from text
        except READ_ERRORS as error:
            sheet.broken = f"the file breaks off after line {sheet.line}: {error}"

    reader = csv.reader(pull(), delimiter=sheet.delimiter, strict=True)
    while True:
        cells, problem = [], ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = f"it is no CSV: {error}"
            if re.search("field limit|unexpected end", problem):
                problem = "a quote opens here and never closes; the rest of the file is inside it"
                sheet.tail = (Row(sheet.line, rest(), cells, problem),)
                return
        except READ_ERRORS as error:
            if lines:
                yield Row(sheet.line, lines, cells, "the file breaks off in this row")
            sheet.broken = f"the file breaks off after line {sheet.line - 1}: {error}"
            return
        # isascii is much faster, and nearly always enough.
        if not all(map(str.isascii, lines)) and any(map(SURROGATE.search, lines)):
            problem = f"it holds bytes that are not {text.encoding}; see [csv] encoding"
        if problem or len(cells) > 1 or (cells and cells[0].strip()):
            yield Row(sheet.line, lines[:], cells, problem)
        sheet.line += len(lines)
        lines.clear()


def open_sheet(file: CsvFile, settings: Settings) -> Sheet:
    """The file's rows below its headings; StopRun where these don't fit the settings."""
    content = file.unpacked()
    encoding = codecs.lookup(settings.csv_encoding).name
    with contextlib.suppress(*READ_ERRORS):  # which the first row is going to say
        # So that not_imported begins with the mark, too.
        if encoding == "utf-8" and content.peek(3).startswith(codecs.BOM_UTF8):
            encoding = "utf-8-sig"
    errors = "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
    text = io.TextIOWrapper(content, encoding, errors, newline="")
    sheet = Sheet(text, "\t" if settings.csv_delimiter == "tab" else settings.csv_delimiter)
    sheet.rows = rows = read_rows(sheet)
    first = next(rows, None)
    headings = [cell.strip() for cell in next(csv.reader([settings.csv_headings]), [])]
    found = [cell.strip() for cell in first.cells] if first else []
    end = sheet.tail[0].problem if sheet.tail else sheet.broken or "the file is empty"
    problem = first.problem if first else end
    if headings and found != headings:
        sheet.rows = itertools.chain([first] if first else [], rows)
    elif problem or first is None:
        raise StopRun(f"{file.name}: the row of headings: {problem}")
    else:
        headings, sheet.heading_lines = found, first.lines
    sheet.width = len(headings)
    sheet.constants, sheet.columns = map_columns(settings, headings, file.name)
    return sheet


def map_columns(
    settings: Settings, headings: list[str], name: str
) -> tuple[list[str], list[tuple[int, Source]]]:
    """The constants, and each source's place in cells + constants; StopRun names all misfits."""
    sources = settings.sources
    if all(source.attribute for source in sources):
        sources += tuple(read_source(name, name, False) for name in FIELDS if name in headings)
    constants = [source.text for source in sources if source.constant]
    problems = []
    for source in sources:
        times = 1 if source.constant else headings.count(source.text)
        if times != 1:
            near = nearest(source.text, headings, 3)[:100]
            what = f"stands there {times} times" if times else f"is missing; the nearest: {near}"
            problems.append(f"{source.text!r} (for {source.name}) {what}")
    if not any(source.name in IDENTITY for source in sources if not source.attribute):
        there = ", ".join(headings)[:500]
        problems.append(f"none is user_id, email or id (there are: {there})")
    if problems and len(headings) == 1:
        problems.insert(0, "there is only one; see [csv] delimiter")
    if problems:
        raise StopRun(f"{name}: the headings don't fit the settings: {'; '.join(problems)}")
    places = iter(range(len(headings), len(headings) + len(constants)))
    where = [next(places) if s.constant else headings.index(s.text) for s in sources]
    return constants, list(zip(where, sources, strict=True))


def to_user(cells: list[str], sheet: Sheet) -> tuple[User, list[str]]:
    """The user in a row, and what is wrong with the cells that had to be left out."""
    user: User = {}
    attributes: User = {}
    wrong = []
    cells = cells + sheet.constants
    for index, (name, text, _, kind, convert, is_attribute) in sheet.columns:
        cell = cells[index].strip()
        if cell:
            try:
                (attributes if is_attribute else user)[name] = convert(cell)
            except ValueError as error:
                shown = show(repr(cell))[:100]
                wrong.append(f"heading {text!r}, value {shown}, no {kind}: {error}")
    if attributes:
        user["custom_attributes"] = attributes
    return user, wrong


#### Talking to Intercom

TIMEOUTS = (10, 60)  # seconds to connect, and to answer
MAX_CHUNKS = 16  # of 64 KB each, that are read of an answer
MAX_PAUSE = 300  # seconds that a rate limit may hold a run up
EXISTS = re.compile("(archived )?contact matching those details already exists with id=([^ ;]+)")
STOPS = {
    -1: "no connection with these certificates and this proxy; see REQUESTS_CA_BUNDLE "
    "and HTTPS_PROXY",
    401: "the credentials are wrong; see [intercom] access_token (or api_id and api_key), "
    "and INTERCOM_ACCESS_TOKEN in .env or the environment, which wins over them",
    402: "the workspace's plan doesn't cover this, or is not paid",
    403: "the credentials may not do this; see the token's permissions in Intercom",
    404: "there is nothing at [intercom] user_url",
    405: "[intercom] user_url takes no users",
    406: "[intercom] user_url doesn't speak Intercom's JSON",
}
REDIRECTED = "[intercom] user_url answers with a redirection, which is never followed"
USE_CONTACTS = "; apps on Intercom's API 2.x want user_url = https://api.intercom.io/contacts"


def verdict(status: int, by_id: bool) -> Literal["accepted", "retry", "refused", "stop"]:
    """What a status means for a user: 0 is no answer, -1 one that no retry will bring.

    Where the request named the user by Intercom's id, 404 is about that user alone.

    https://developers.intercom.com/docs/references/rest-api/errors/http-responses
    """
    if 200 <= status < 300:
        return "accepted"
    if 0 <= status < 200 or status in (408, 429) or status >= 500:
        return "retry"
    if status < 400 or (status in STOPS and not (status == 404 and by_id)):
        return "stop"
    return "refused"


class Answer(NamedTuple):
    """What Intercom answered, or with status 0, why it didn't."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    failure: str
    seconds: float

    def json(self) -> dict[str, Any]:
        """The body, where it is a JSON object; else an empty one."""
        try:
            body = json.loads(self.body)
        except (ValueError, RecursionError):
            body = None
        return body if isinstance(body, dict) else {}

    def __str__(self) -> str:
        """The status and what is said of an error: Intercom's codes, messages and request_id."""
        if self.status < 300:
            return self.failure or str(self.status)
        content = self.json()
        errors = content.get("errors")
        if not isinstance(errors, list):
            return f"{self.status} {show(self.body.decode(errors='replace'))[:200]}"
        said = "; ".join(
            f"{e.get('code')}: {e.get('message')}" for e in errors if isinstance(e, dict)
        )
        return (
            f"{self.status} {show(said)[:1000]} (request_id {show(content.get('request_id'))[:99]})"
        )

    def number(self, header: str) -> int | None:
        """A header that is a number of up to 11 digits; None for anything else."""
        text = self.headers.get(header, "")
        return int(text) if re.fullmatch("[0-9]{1,11}", text) else None

    def moment(self, header: str, otherwise: float) -> float:
        """UNIX seconds of a header that is an HTTP date."""
        try:
            return email.utils.parsedate_to_datetime(self.headers.get(header, "")).timestamp()
        except (ValueError, TypeError, OverflowError):
            return otherwise

    def until_reset(self) -> float:
        """Seconds to X-RateLimit-Reset by Intercom's own clock; negative where it isn't known.

        https://developers.intercom.com/docs/references/rest-api/errors/rate-limiting
        """
        return (self.number("X-RateLimit-Reset") or 0) - self.moment("Date", time.time())

    def pause(self) -> float:
        """Seconds that a 429 asks for, at most MAX_PAUSE; 0 for any other answer."""
        if self.status != 429:
            return 0
        now = self.moment("Date", time.time())
        after = self.number("Retry-After") or self.moment("Retry-After", now) - now
        return min(MAX_PAUSE, max(0, after, self.until_reset()))


class RateLimit:
    """When Intercom takes another request, by what its answers say of the window they fall in."""

    def __init__(self) -> None:
        self.per_window = 1.0  # until the first answer, one request feels its way
        self.left = self.reset = 0  # requests, and UNIX seconds
        self.ends = self.held_until = 0.0  # time.monotonic() of the window, and of a 429's pause

    def learn(self, answer: Answer) -> None:
        """Take in what an answer says, also one that comes out of order."""
        now, wait = time.monotonic(), answer.until_reset()
        if answer.status > 0:
            self.per_window = answer.number("X-RateLimit-Limit") or math.inf
        else:
            self.left -= 1  # Intercom may have counted the request nevertheless
        self.held_until = max(self.held_until, now + answer.pause())
        reset = answer.number("X-RateLimit-Reset")
        remaining = answer.number("X-RateLimit-Remaining")
        if reset is None or remaining is None or reset < self.reset or not 0 < wait <= MAX_PAUSE:
            return
        if reset > self.reset:
            self.reset, self.left, self.ends = reset, remaining, now + wait
        self.left = min(self.left, remaining)
        # Date has whole seconds, so of a window's answers the earliest end is the exact one.
        self.ends = min(self.ends, now + wait)

    def opens(self, under_way: int) -> float:
        """The time.monotonic() from which another request may go, if no answer changes it."""
        now = time.monotonic()
        if now < self.held_until:
            return self.held_until
        if now < self.ends:
            return 0.0 if self.left > under_way else self.ends
        return 0.0 if self.per_window > under_way else math.inf


class Intercom:
    """Keep-alive connections to Intercom, by the proxies and certificates of the environment."""

    def __init__(self, settings: Settings) -> None:
        url = settings.intercom_user_url
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Authorization": settings.authorization,
            "Content-Type": "application/json",
            "Intercom-Version": settings.intercom_api_version
            or ("2.14" if settings.contacts else "1.4"),
            "User-Agent": f"IntercomImporter/{VERSION}",
        }
        # Prepared once, sent by the adapter: no redirect, no cookie, no .netrc, and less work.
        self.request = requests.Request("POST", url, headers).prepare()
        session = requests.Session()
        self.environment: Any = session.merge_environment_settings(url, {}, True, None, None)
        self.limit = RateLimit()  # for the thread that counts
        self.adapter = requests.adapters.HTTPAdapter(pool_maxsize=settings.intercom_concurrency)

    def exchange(self, method: str, url: str, body: bytes = b"") -> Answer:
        """Intercom's answer to a request, or why there is none."""
        request = self.request.copy()
        request.method, request.url, request.body = method, url, body
        request.headers["Content-Length"] = str(len(body))
        began = time.monotonic()
        try:
            response = self.adapter.send(request, timeout=TIMEOUTS, **self.environment)
            content = b"".join(itertools.islice(response.iter_content(2**16), MAX_CHUNKS))
        except Exception as error:  # whatever it is, there is no answer, and the run has to know
            why = f"no answer ({cause(error)})"
            proxy = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
            hopeless = isinstance(error, proxy) or re.search("(?i)certificate|PEM lib", why)
            status = -1 if hopeless else 0
            return Answer(status, {}, b"", why, time.monotonic() - began)
        seconds = time.monotonic() - began
        return Answer(response.status_code, response.headers, content, "", seconds)


def stop_reason(answer: Answer, settings: Settings) -> str:
    """Why an answer ends the run, and what to do."""
    if verdict(answer.status, by_id=False) != "stop":
        places = "[intercom] user_url and api_version, the network and its proxy"
        return f"no useful answer; see {places} ({answer})"
    advice = "" if settings.contacts or answer.status in (-1, 401, 402) else USE_CONTACTS
    return f"{STOPS.get(answer.status, REDIRECTED)}{advice} ({answer})"


def check_attributes(intercom: Intercom, settings: Settings) -> None:
    """StopRun with the custom attributes that the workspace's contacts have not, or not so.

    https://developers.intercom.com/docs/references/rest-api/api.intercom.io/data-attributes
    """
    kinds = {source.name: source.kind for source in settings.sources if source.attribute}
    wanted = {name: "date" if kind == "timestamp" else kind for name, kind in kinds.items()}
    if not wanted or not settings.contacts:
        return
    url = settings.intercom_user_url.removesuffix("contacts") + "data_attributes?model=contact"
    pause = 0.0
    for _ in range(settings.intercom_retries + 1):
        time.sleep(pause)
        answer = intercom.exchange("GET", url)
        pause = max(answer.pause(), settings.intercom_timeout)
        intercom.limit.learn(answer)
        if verdict(answer.status, by_id=False) != "retry":
            break
        log.warning("GET data_attributes: %s; to be tried again", answer)
    if answer.status != 200:
        raise StopRun(stop_reason(answer, settings))
    listed = answer.json().get("data")
    if not isinstance(listed, list):
        raise StopRun(f"Intercom doesn't say which custom attributes there are: {answer}")
    listed = [item for item in listed if isinstance(item, dict) and item.get("custom")]
    types = {item.get("name"): item.get("data_type") for item in listed if not item.get("archived")}
    wrong = [
        f"{name} {f'is {types[name]}' if name in types else 'is missing'}, should be {kind}"
        for name, kind in wanted.items()
        if types.get(name) != kind
    ]
    if wrong:
        raise StopRun("the workspace's custom attributes don't fit: " + "; ".join(wrong))


#### What was sent before

STATE_FORMAT = 0x49435331  # SQLite's application_id; another one where the tables change
STATE_SCHEMA = f"""
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS users (key BLOB PRIMARY KEY, digest BLOB, id TEXT, email BLOB);
CREATE INDEX IF NOT EXISTS users_by_id ON users (id);
CREATE INDEX IF NOT EXISTS users_by_email ON users (email);
PRAGMA application_id = {STATE_FORMAT};
COMMIT
"""


class SentUsers:
    """Of each user, a digest of what Intercom last accepted, and Intercom's own id of it.

    Apart for each user_url and credentials. What isn't certain is forgotten: a digest goes before
    its user is sent anew, and when another row turns out to be the same user of Intercom's.
    """

    def __init__(self, settings: Settings, write: bool, stop: Callable[[str], None]) -> None:
        self.stop = stop
        self.path = Path(settings.intercom_state_file).absolute()
        self.scope = f"{settings.intercom_user_url}\0{settings.authorization}\0".encode()
        try:
            if write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self.database = sqlite3.connect(self.path, timeout=5, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StopRun(f"the state file {self.path} can't be opened: {error}") from None
        self.execute("PRAGMA synchronous = NORMAL")
        new = write and self.execute("SELECT count(*) FROM sqlite_master") == (0,)
        if new and self.execute("PRAGMA application_id") == (0,):
            for statement in STATE_SCHEMA.split(";"):
                self.execute(statement)
        if self.execute("PRAGMA application_id") != (STATE_FORMAT,):
            stop(f"{self.path} is no state file of this version; see [intercom] state_file")

    def execute(self, statement: str, *values: object) -> Any:
        """The first row of the result; where the state can't be relied on, the run is to stop.

        It doesn't raise, as the requests under way have to be counted first.
        """
        try:
            return self.database.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            damaged = re.search("malformed|no such|corrupt", str(error))
            advice = "; delete it, and every user is sent once more" if damaged else ""
            self.stop(f"the state file {self.path}: {error}{advice}")
            return None

    def digest(self, text: str) -> bytes:
        return hashlib.sha256(self.scope + text.encode()).digest()

    def recall(self, job: Job) -> tuple[bytes, str]:
        """The digest and Intercom's id of a user; blank where they aren't known."""
        statement = "SELECT digest, id FROM users WHERE key = ?"
        return self.execute(statement, self.digest(job.identities[0])) or (b"", "")

    def forget(self, job: Job) -> None:
        """Void all that the job may change: it is looked up by id, then user_id, then email."""
        keys = [self.digest(identity) for identity in job.identities]
        email = None if "user_id" in job.user else keys[0]  # NULL, which equals nothing
        where = f"key IN ({', '.join('?' * len(keys))}) OR email = ? OR id = ?"
        statement = f"UPDATE users SET digest = x'' WHERE {where}"  # noqa: S608
        self.execute(statement, *keys, email, job.user.get("id"))

    def remember(self, job: Job, data: bytes, intercom_id: str) -> None:
        """What Intercom has accepted; other entries of the same user of Intercom's are void."""
        if intercom_id:
            self.execute("DELETE FROM users WHERE id = ?", intercom_id)
        emails = (self.digest(key) for key in job.identities if key.startswith("email="))
        values = self.digest(job.identities[0]), data, intercom_id or None, next(emails, None)
        self.execute("INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?)", *values)


#### Telling people

MAX_REASON = 1500  # characters of a reason in a notice, so that the counts still fit in
TIME_IN_NAME = "%Y-%m-%dT%H-%M-%S"  # no colons, which Windows refuses


def say(text: object, stream: TextIO | None) -> None:
    """Print a line; a screen that has gone away is no error."""
    if stream is None:
        return
    try:
        print(show(text), file=stream, flush=True)
    except (OSError, ValueError):
        drop(stream)


def drop(stream: TextIO) -> None:
    """Throw away what is still written to a stream whose reader has gone."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def create(folder: str, name: str, ending: str) -> tuple[Path, int]:
    """A new file for its owner's eyes alone, in a folder made where it is missing: path and fd."""
    place = Path(folder).absolute()
    place.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = place / f"{name}{f'-{number}' if number > 1 else ''}{ending}"
        try:
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            number += 1


class SafeFormatter(logging.Formatter):
    """A line for each record, whatever its text holds; the lines of a traceback are marked."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self.formatTime(record)} {record.levelname} {show(record.getMessage())}"
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join([line, *(f"    | {show(part)}" for part in trace)])


class LogFile(logging.StreamHandler):  # type: ignore[type-arg]  # 3.10 takes none
    """A log file; where its disk fails, the screen says so once and the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        logging.getLogger().removeHandler(self)
        say(f"the log can't be written any more: {sys.exc_info()[1]}", sys.stderr)
        drop(self.stream)


SCREEN = logging.StreamHandler()  # for what no log has, until refuse or conclude say the rest


def open_logs(settings: Settings, started: datetime, screen: bool) -> Path | None:
    """The path of the error log, None without logs: then, or on demand, the screen gets errors."""
    handlers: list[logging.Handler] = []
    stamp = f"{started:{TIME_IN_NAME}}"
    path = None
    try:
        for kind in ("debug", "error") if settings.log_use_logs else ():
            path, descriptor = create(settings.log_folder, stamp, f"_{kind}.log")
            handlers.append(LogFile(open(descriptor, "w", encoding="utf-8")))
    except OSError as error:
        raise StopRun(f"[log] folder {settings.log_folder}: {error.strerror}") from None
    if screen or not handlers:
        handlers.append(SCREEN)
    for number, handler in enumerate(handlers):
        handler.setLevel("DEBUG" if path and number == 0 else "WARNING")
        handler.setFormatter(SafeFormatter())
        logging.getLogger().addHandler(handler)
    log.setLevel("DEBUG")
    logging.captureWarnings(True)
    return path


def notify(settings: Settings, text: str, color: str) -> None:
    """Tell Hipchat, in `color`, and Slack; one that fails three times is logged, and that is all.

    https://api.slack.com/messaging/webhooks
    """
    posts: list[tuple[str, str, dict[str, Any]]] = []
    if settings.hipchat_use_hipchat:
        url = settings.hipchat_api_url.rstrip("/") + "/rooms/message"
        query = {"format": "json", "auth_token": settings.hipchat_api_key}
        form = {"room_id": settings.hipchat_room_id, "from": settings.hipchat_from}
        form |= {"message": show(text)[:4000], "message_format": "text", "color": color}
        posts.append(("Hipchat", url, {"params": query, "data": form}))
    if settings.slack_use_slack:
        escaped = show(text)[:4000].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        keys = ("channel", "username", "icon_url", "icon_emoji")
        extras = {key: getattr(settings, f"slack_{key}") for key in keys}
        message = {"text": escaped} | {key: value for key, value in extras.items() if value}
        posts.append(("Slack", settings.slack_webhook_url, {"json": message}))
    for name, url, content in posts:
        for attempt in (1, 2, 3):
            time.sleep(0.5 if attempt > 1 else 0)
            try:
                with requests.post(
                    url, **content, timeout=2.5, allow_redirects=False, stream=True
                ) as answer:
                    if 200 <= answer.status_code < 300:
                        break
                    said = next(answer.iter_content(4096), b"").decode(errors="replace")
                    why = f"{answer.status_code} {show(said)[:200]}"
            except (requests.RequestException, OSError, ValueError) as error:
                why = cause(error)
            log.warning("the notice to %s failed, try %d of 3: %s", name, attempt, why)


class Progress:
    """One line on a terminal: share done, users, users a second, time left."""

    def __init__(self, sheet: Sheet, lines: int) -> None:
        self.sheet, self.lines = sheet, lines  # of the file; 0 where nothing is to be drawn
        self.began = self.drawn = time.monotonic()
        self.width = 0

    def draw(self, users: int, trouble: str) -> None:
        now = time.monotonic()
        if not self.lines or now < self.drawn + 0.25:
            return
        self.drawn, seconds = now, now - self.began
        share = self.sheet.line / self.lines  # over 1 for a pipe, whose lines nobody has counted
        left = timedelta(seconds=round(seconds / share - seconds)) if users and share <= 1 else "?"
        done = f"{share:4.0%}" if share <= 1 else "  ?%"
        parts = [done, f"{users} users", f"{users / seconds:.1f} users/s", f"{left} left"]
        parts += [show(trouble)] if trouble else []
        self.write(parts)

    def write(self, parts: list[str]) -> None:
        """Replace the line by what fits; with blanks, as old consoles know no escapes."""
        if self.lines:
            with contextlib.suppress(OSError):
                room = os.get_terminal_size(sys.stderr.fileno()).columns - 1
                while len(line := "  ".join(parts)) > room and parts:
                    parts = parts[:-1]
                sys.stderr.write(f"\r{' ' * min(self.width, room)}\r{line}")
                sys.stderr.flush()
                self.width = len(line)


#### The run

LAST_REQUEST = "stopping after the request under way; once more ends it at once, with rows lost"
POLL = 0.1  # seconds between two looks for a signal
ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@dataclass(slots=True, eq=False)
class Job:
    """A row on its way to Intercom."""

    row: Row
    user: User
    intercom_id: str = ""  # the id by which Intercom is asked for it
    id_is_remembered: bool = False  # that id is from an earlier run
    digest: bytes = b""
    tries: int = 0
    due: float = 0.0

    @property
    def identities(self) -> list[str]:
        """Whom it is about; jobs that share one of these are never under way at once."""
        values = [(name, self.user[name]) for name in IDENTITY if name in self.user]
        return [f"{name}={v.lower() if name == 'email' else v}" for name, v in values]

    def __str__(self) -> str:
        name = next(filter(self.user.__contains__, IDENTITY))
        return f"line {self.row.line} {name}={self.user[name]}"


class KeptRows:
    """The file of the rows that are not imported, in the shape of the input; made when needed."""

    def __init__(self, folder: str, name: str, started: datetime, sheet: Sheet) -> None:
        short = re.sub(r'[<>:"/\\|?*]', "-", stem(name) or name)  # which Windows refuses
        short = short.encode(errors="replace")[:200].decode(errors="ignore")
        self.folder, self.name, self.sheet = folder, f"{short}_{started:{TIME_IN_NAME}}", sheet
        self.path: Path | None = None
        self.size = 0  # bytes up to the last row that is whole

    def add(self, row: Row) -> None:
        """Append the row as it stands in the input; OSError where it can't be kept."""
        if self.path is None:
            self.path, self.descriptor = create(self.folder, self.name, ".csv")
            text, headings = self.sheet.text, self.sheet.heading_lines
            ending = re.search(r"(\r\n|\r|\n)?\Z", "".join(headings))
            self.line_end = (ending and ending[0]) or "\n"
            self.file = open(
                self.descriptor, "w", encoding=text.encoding, errors=text.errors, newline=""
            )
            self.file.writelines(headings)
        try:
            line = ""
            for line in row.lines:
                self.file.write(line)
            self.file.write("" if line.endswith(("\n", "\r")) else self.line_end)
            self.file.flush()
            self.size = os.fstat(self.descriptor).st_size
        except OSError:
            os.ftruncate(self.descriptor, self.size)  # half a row could pass for a whole one
            drop(self.file)
            raise


def essence(reason: str) -> str:
    """A reason without what differs from row to row or from night to night."""
    return re.sub(r"request_id \S+|\S*[\d@]\S*", "#", reason)


@dataclass
class Run:
    """What a run is about, and how far it has come."""

    settings: Settings
    dry: bool
    quiet: bool
    started: datetime
    began: float = field(default_factory=time.monotonic)
    error_log: Path | None = None
    file: str = ""
    kept: KeptRows = field(init=False)  # from when rows are counted
    sent: SentUsers | None = None
    imported: int = 0
    unchanged: int = 0
    not_imported: int = 0
    wrong_values: int = 0
    given_up: int = 0  # users in a row that used up their retries
    refused: int | None = 0  # of the first users sent; None since one was not
    unsafe: set[str] = field(default_factory=set)  # keys of users that used up their retries
    # Read, but not counted yet: held back, waiting for a retry, or under way.
    unsettled: list[Job] = field(default_factory=list)
    first_lost: int = 0  # the first line that could not be kept
    kinds: dict[str, list[Any]] = field(default_factory=dict)  # of reasons: how often, and one
    trouble: str = ""  # what a retry is waiting for
    reason: str = ""  # why the run stopped
    signal: int = 0
    counting: bool = False  # rows are counted, so a signal waits for the requests under way

    def on_signal(self, number: int, _: object) -> None:
        again, self.signal = self.signal, self.signal or number
        if again and number == getattr(signal, "SIGHUP", None):
            return  # a terminal that is closed may send it twice
        if again or not self.counting:
            raise KeyboardInterrupt(number)
        if sys.stderr and sys.stderr.isatty():
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), f"\n{LAST_REQUEST}\n".encode())

    def stop(self, reason: str | Exception) -> None:
        """Note why the run stops; the first reason counts."""
        if isinstance(reason, Exception) and not isinstance(reason, StopRun):
            log.debug("the traceback", exc_info=reason)
            reason = f"an error that nobody foresaw, {cause(reason)}; see the debug log"
        log.debug("the run stops: %s", reason)
        self.reason = self.reason or str(reason)

    def stopped(self) -> bool:
        """Whether the run is to stop; a signal that has been noted is a reason to."""
        if self.signal and not self.reason:
            self.stop(f"{signal.Signals(self.signal).name} ended it")
        return bool(self.reason)

    def keep(self, row: Row, reason: str = "", job: Job | None = None) -> None:
        """Count and keep a row that is not imported; log the reason where it has one of its own."""
        self.not_imported += 1
        if reason:
            log.error("%s: not imported: %s", job or f"line {row.line}", reason)
            kind = essence(reason)
            kind = kind if kind in self.kinds or len(self.kinds) < 10 else "others"
            self.kinds.setdefault(kind, [0, reason if kind != "others" else "other reasons"])[
                0
            ] += 1
        try:
            if self.first_lost:  # behind a gap in the file, none is of use
                self.first_lost = min(self.first_lost, row.line)
            else:
                self.kept.add(row)
        except (OSError, ValueError) as error:
            self.first_lost = row.line
            place = Path(self.settings.csv_not_imported_folder).absolute()
            self.stop(f"[csv] not_imported_folder {place} can't be written: {cause(error)}")

    def summary(self) -> str:
        seconds = time.monotonic() - self.began
        return (
            f"{self.file}: {self.imported} added or updated, {self.unchanged} unchanged, "
            f"{self.not_imported} not imported in {timedelta(seconds=int(seconds))} "
            f"({self.imported / max(seconds, 0.001):.1f} users/s)"
        )


#### Sending users


def make_jobs(sheet: Sheet, run: Run) -> Iterator[Job]:
    """A job for each row that has a user; all other rows are counted here."""
    for row in sheet.rows:
        problem = row.problem
        if not problem and len(row.cells) != sheet.width:
            problem = f"{len(row.cells)} cells, where there are {sheet.width} headings"
        user, wrong = ({}, []) if problem else to_user(row.cells, sheet)
        if problem or user.keys().isdisjoint(IDENTITY):
            run.keep(row, problem or "no user_id, email or id")
            continue
        job = Job(row, user, user.get("id", ""))
        for text in wrong:
            log.warning("%s: left out: %s", job, text)
        run.wrong_values += len(wrong)
        yield job


def admit(job: Job, run: Run) -> bool:
    """Whether the job is to be sent; otherwise it is counted here."""
    if run.unsafe and not run.unsafe.isdisjoint(job.identities):
        # The earlier row, imported once the trouble is over, would undo this one.
        run.keep(job.row, "an earlier row of this user was not imported", job)
        return False
    if run.sent:
        job.digest = hashlib.sha256(ENCODER.encode(job.user).encode()).digest()
        digest, contact = run.sent.recall(job)
        if digest == job.digest and not any(job.user.get(name) for name in ALWAYS_SENT):
            run.unchanged += 1
            log.debug("%s: unchanged", job)
            return False
        if contact and not job.intercom_id and run.settings.contacts:
            job.intercom_id, job.id_is_remembered = contact, True
        if not run.dry:
            run.sent.forget(job)
    return True


def request_of(job: Job, settings: Settings) -> tuple[str, str, bytes]:
    """Method, URL and body that add or update the job's user."""
    method, url, body = "POST", settings.intercom_user_url, job.user
    if settings.contacts:
        body = to_contact(job.user)
        if job.intercom_id:
            method, url = "PUT", f"{url}/{quote(job.intercom_id, safe='').replace('.', '%2E')}"
        else:
            body = {"role": "user"} | body
    return method, url, ENCODER.encode(body).encode()


def print_users(jobs: Iterator[Job], run: Run) -> None:
    """The bodies that Intercom would get, on standard output, one a line."""
    if sys.stdout is None:
        raise StopRun("there is no standard output to print the users on")
    try:
        for job in jobs:
            run.unsettled = [job]
            if run.stopped():
                break
            if admit(job, run):
                sys.stdout.buffer.write(request_of(job, run.settings)[2] + b"\n")
                run.imported += 1
            run.unsettled = []
        sys.stdout.flush()
    except OSError as error:
        drop(sys.stdout)
        if error.errno in (errno.EPIPE, errno.EINVAL):  # EINVAL is a closed pipe on Windows
            raise SystemExit(0) from None  # whoever reads them has had enough
        raise StopRun(f"standard output can't be written: {error.strerror}") from None


def send_users(jobs: Iterator[Job], intercom: Intercom, run: Run, progress: Progress) -> None:
    """Send all jobs, as many at once as settings and Intercom allow; in the end all are settled.

    Only this thread counts, logs and decides; the others do nothing but talk to Intercom.
    """
    limit, most = intercom.limit, run.settings.intercom_concurrency
    threads = concurrent.futures.ThreadPoolExecutor(most)
    answers: queue.SimpleQueue[tuple[Job, Answer]] = queue.SimpleQueue()
    waiting: list[Job] = []
    held_back: Job | None = None  # the next one, as long as its user is under way
    busy: set[str] = set()
    under_way = 0

    def exchange(job: Job, *request: Any) -> None:
        answers.put((job, intercom.exchange(*request)))

    send: Callable[..., Any] = threads.submit if most > 1 else lambda run_it, *what: run_it(*what)
    while True:
        progress.draw(run.imported + run.unchanged + run.not_imported, run.trouble)
        stopping = run.stopped()
        if not stopping and under_way + len(waiting) < most:
            if held_back is None and (held_back := next(jobs, None)):
                run.unsettled.append(held_back)
            if held_back and busy.isdisjoint(held_back.identities):
                if admit(held_back, run):
                    busy.update(held_back.identities)
                    waiting.append(held_back)
                else:
                    run.unsettled.remove(held_back)
                held_back = None
                continue
        next_due = min([] if stopping else waiting, key=lambda job: job.due, default=None)
        ready = max(next_due.due, limit.opens(under_way)) if next_due else math.inf
        now = time.monotonic()
        if next_due and ready <= now:
            waiting.remove(next_due)
            send(exchange, next_due, *request_of(next_due, run.settings))
            under_way += 1
        elif under_way:
            with contextlib.suppress(queue.Empty):
                job, answer = answers.get(timeout=min(POLL, ready - now))
                under_way -= 1
                limit.learn(answer)
                log.debug("%s: %s in %.3f s", job, answer, answer.seconds)
                if is_sent_again(job, answer, run):
                    waiting.append(job)
                else:
                    settle(job, answer, run)
                    run.unsettled.remove(job)
                    busy.difference_update(job.identities)
        elif next_due:
            time.sleep(min(POLL, ready - now))
        else:
            return


def is_sent_again(job: Job, answer: Answer, run: Run) -> bool:
    """Whether the answer asks for another request, which the job then knows with its time."""
    settings = run.settings
    exists = EXISTS.search(str(answer)) if settings.contacts and answer.status == 409 else None
    if exists and not exists[1] and not job.intercom_id:
        job.intercom_id = exists[2]
        return True
    if job.id_is_remembered and answer.status == 404:
        job.intercom_id, job.id_is_remembered = "", False
        return True
    is_to_retry = verdict(answer.status, bool(job.intercom_id)) == "retry" and not run.reason
    if is_to_retry and job.tries < settings.intercom_retries:
        wait = max(settings.intercom_timeout, answer.pause())
        job.tries, job.due = job.tries + 1, time.monotonic() + wait
        run.trouble = f"retry {job.tries} in {wait:.3g} s: {answer}"
        log.warning("%s: %s: retry %d in %.3g s", job, answer, job.tries, wait)
        return True
    return False


def settle(job: Job, answer: Answer, run: Run) -> None:
    """Count the job by the last answer to it; stop the run where that says so."""
    settings = run.settings
    meaning = verdict(answer.status, bool(job.intercom_id))
    run.trouble = ""
    if meaning == "retry" and not run.reason:  # a run that stops has not used up the retries
        run.given_up += 1
        run.unsafe.update(job.identities)
    else:
        run.given_up = 0
    in_row = run.refused is not None and answer.status in (400, 422)
    run.refused = (run.refused or 0) + 1 if in_row else None
    if meaning == "accepted":
        run.imported += 1
        if run.sent:
            intercom_id = answer.json().get("id") or job.intercom_id
            run.sent.remember(job, job.digest, str(intercom_id))
        return
    if meaning == "stop":
        run.stop(stop_reason(answer, settings))
    elif run.given_up == 2:
        why = "Intercom is down or out of reach: two users in a row used up their retries"
        run.stop(f"{why} ({answer})")
    elif run.refused == 100:
        advice = "" if settings.contacts else USE_CONTACTS
        run.stop(f"the first 100 users were all refused{advice} ({answer})")
    run.keep(job.row, str(answer), job)


#### Start and end of a run


def remarks(settings: Settings, sheet: Sheet) -> Iterator[tuple[int, str]]:
    """What is worth knowing of settings that are not wrong, and at which level to log it."""
    for key in settings.discarded:
        near = nearest(key, FIELDS)
        yield logging.WARNING, f"[user] {key} is no field of Intercom's: left out (nearest: {near})"
    for _, source in sheet.columns:
        if not source.attribute and settings.contacts and source.name in NOT_IN_CONTACTS:
            yield logging.WARNING, f"[user] {source.name}: contacts don't have it: left out"
        if source.kind == "timestamp" and source.attribute and not source.name.endswith("_at"):
            text = "shows as a number in Intercom; with a name ending in _at, as a date"
            yield logging.DEBUG, f"[custom_attributes] {source.name} {text}"


def import_file(file: CsvFile, run: Run) -> None:
    """Bring the file's rows into Intercom; StopRun where a run can't begin or the file breaks."""
    settings = run.settings
    run.file = file.name
    log.info("version %s, importing %s of %d bytes", VERSION, file.name, file.size)
    drawn = not run.quiet and not run.dry and run.error_log and sys.stderr and sys.stderr.isatty()
    lines = file.count_lines() if drawn and os.environ.get("TERM") != "dumb" else 0
    sheet = open_sheet(file, settings)
    intercom = Intercom(settings)
    for level, text in remarks(settings, sheet):
        log.log(level, "%s", text)
    if not run.dry:
        check_attributes(intercom, settings)
    state = Path(settings.intercom_state_file)
    if settings.intercom_skip_unchanged and (
        not run.dry or (state.exists() and state.stat().st_size)
    ):
        run.sent = SentUsers(settings, not run.dry, run.stop)
    run.kept = KeptRows(settings.csv_not_imported_folder, file.name, run.started, sheet)
    run.counting = True
    jobs = make_jobs(sheet, run)
    progress = Progress(sheet, lines)
    try:
        if run.dry:
            print_users(jobs, run)
        else:
            send_users(jobs, intercom, run, progress)
    except Exception as error:
        run.stop(error)
    progress.write([])
    keep_rest(sheet, run)


def keep_rest(sheet: Sheet, run: Run) -> None:
    """Keep what a run that stopped didn't come to, and what the file's end has spoilt."""
    for job in sorted(run.unsettled, key=lambda job: job.row.line):
        run.keep(job.row, "the run stopped", job)
    for number, row in enumerate(sheet.rows):
        if number == 0:
            log.error("line %d and all after it: not imported: the run stopped", row.line)
        run.keep(row)
    for row in sheet.tail:
        run.keep(row, row.problem)
    if sheet.broken:
        run.stop(sheet.broken)


def conclude(run: Run) -> int:
    """Tell the screen, the logs, Hipchat and Slack how the run ended; its exit status."""
    logging.getLogger().removeHandler(SCREEN)
    why = run.reason
    if run.not_imported and not why:
        kinds = [f"{count} x {reason}" for _, (count, reason) in sorted(run.kinds.items())]
        why = "; ".join(["some rows were not imported", *kinds])
    if run.first_lost:
        why += f"; from line {run.first_lost} on, rows that are not imported are only in the input"
    status = 128 + run.signal if run.signal and run.reason else int(bool(why))
    told = [run.summary()] if run.counting else []
    if run.wrong_values:
        told.append(f"{run.wrong_values} values were left out, not being of their type")
    if run.counting and run.kept.path:
        told.append(f"the rows that were not imported: {run.kept.path}")
    for text in told:
        log.log(logging.ERROR if why else logging.INFO, "%s", text)
    if run.error_log and (why or run.wrong_values):
        told.append(f"the reasons: {run.error_log}")
    if why:
        what = "the run stopped: " if run.reason else ""
        say(f"export_csv.py: {what}{why[:MAX_REASON]}", sys.stderr)
    for text in told if status or not run.quiet else ():
        say(text, sys.stderr if run.dry or run.quiet else sys.stdout)
    announce(run, run.settings, "stopped" if run.reason else "ended", why, told)
    return status


def announce(run: Run, settings: Settings, how: str, why: str, told: list[str]) -> None:
    """Say how the run ended in the error log's last line, and to Hipchat and Slack."""
    text = f"Import {how} on {socket.gethostname()}"
    if why:
        why = why[:MAX_REASON]
        text += f": {why}{earlier_failures(run.error_log, why) if run.error_log else ''}"
        log.error("failed: %s", why)
    if not run.dry:
        notify(settings, ". ".join([text, *told]), "red" if why else "green")


def earlier_failures(error_log: Path, why: str) -> str:
    """How many runs in a row have failed like this, by what their error logs say last."""

    def time_order(path: Path) -> tuple[str, int, str]:
        return path.name[:19], len(path.name), path.name  # of one second, -2 is before -10

    since, count = "", 0
    for path in sorted(error_log.parent.glob("*_error.log"), key=time_order, reverse=True):
        if time_order(path) < time_order(error_log):
            last = ""
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 2**16))
                last = file.read().decode(errors="replace")
            failed = re.findall(r"^\S+ ERROR failed: (.*)", last, re.MULTILINE)
            if not failed or essence(failed[-1]) != essence(show(why)):
                break
            since, count = path.name.removesuffix("_error.log"), count + 1
    runs = "1 run" if count == 1 else f"{count} runs"
    return f" (as in the {runs} before it, since {since})" if count else ""


def check_setup(settings: Settings, config: str, quiet: bool) -> int:
    """Say of file, Intercom, Hipchat and Slack whether a run would work; 0 or 1."""

    def file_ready() -> str:
        file = open_file(settings)
        with file.content:
            sheet = open_sheet(file, settings)
        notes = (text for _, text in remarks(settings, sheet))
        return "; ".join([f"{file.name}, its headings fit", *notes])

    def intercom_ready() -> str:
        intercom, url = Intercom(settings), urlsplit(settings.intercom_user_url)
        answer = intercom.exchange("GET", f"{url.scheme}://{url.netloc}/me")
        if verdict(answer.status, by_id=False) != "accepted":
            raise StopRun(stop_reason(answer, settings))
        check_attributes(intercom, settings)
        return f"accepts the credentials of {answer.json().get('name')}"

    status, screen = 0, None if quiet else sys.stdout
    say(f"{config}: is right", screen)
    place = "S3" if settings.aws_use_aws else "file"
    for name, ready in ((place, file_ready), ("Intercom", intercom_ready)):
        try:
            say(f"{name}: {ready()}", screen)
        except StopRun as error:
            status = 1
            say(f"{name}: {error}", sys.stderr)
    say(f"Hipchat: {'set up, not asked' if settings.hipchat_use_hipchat else 'not used'}", screen)
    say(f"Slack: {'set up, not asked' if settings.slack_use_slack else 'not used'}", screen)
    return status


def refuse(run: Run, problems: dict[str, str], config: Path) -> None:
    """Say what is wrong with the settings, also to those of Hipchat and Slack that are right."""
    logging.getLogger().removeHandler(SCREEN)
    lines = [f"{config.name}: {where}: {text}" for where, text in problems.items()]
    for line in lines:
        log.error("%s", line)
        say(line, sys.stderr)
    wrong = " ".join(problems)
    able = run.settings._replace(
        hipchat_use_hipchat=run.settings.hipchat_use_hipchat and "[hipchat]" not in wrong,
        slack_use_slack=run.settings.slack_use_slack and "[slack]" not in wrong,
    )
    why = f"the settings in {config.absolute()} are wrong: {'; '.join(lines)}"
    told = [f"the reasons: {run.error_log}"] if run.error_log else []
    announce(run, able, "not started", why, told)


#### The command line

EXAMPLES = """\
examples:
  python export_csv.py                     the newest file, as config.ini says
  python export_csv.py users_2026.csv      this file
  python export_csv.py --dry-run | head    what Intercom would get
exit status: 0 all rows are in Intercom, 1 stopped or rows not imported,
  2 wrong settings, 3 another run is under way, 130 Ctrl-C, 143 SIGTERM
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="export_csv.py",
        description="Add or update the users of a CSV file in Intercom.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Path(__file__).resolve().with_name("config.ini")
    add, either = parser.add_argument, parser.add_mutually_exclusive_group()
    add("filename", nargs="?", help="the file, whatever [file] in config.ini says")
    add("--config", metavar="FILE", type=Path, default=default, help="instead of config.ini")
    add("--local", action="store_true", help="read from disk, even where use_aws = true")
    either.add_argument("--dry-run", action="store_true", help="print the users, send nothing")
    either.add_argument("--check", action="store_true", help="say whether a run would work")
    add("--quiet", action="store_true", help="print nothing but errors: for cron")
    add("--version", action="version", version=f"%(prog)s {VERSION}")
    arguments = parser.parse_args(argv)
    if arguments.filename == "":
        parser.error("the filename is blank")
    return arguments


def lock(file: IO[bytes]) -> bool:
    """Whether no other run has locked the file; the lock dies with its process."""
    try:
        if sys.platform == "win32":
            file.seek(2**30)  # a lock hides what it covers from others, so not the text
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def run_once(config: Path, arguments: argparse.Namespace) -> int:
    """Run with these settings, or say what is wrong with them; the exit status."""
    settings, problems = read_settings(config, arguments)
    if arguments.check and not problems:
        return check_setup(settings, config.name, arguments.quiet)
    dry = arguments.dry_run or arguments.check
    run = Run(settings, dry, arguments.quiet, datetime.now())
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # the last is Windows', SIGHUP is not
        number = getattr(signal, name, None)
        if number and (name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN):  # nohup
            signal.signal(number, run.on_signal)
    try:
        if not arguments.check and "[log]" not in " ".join(problems):
            with contextlib.suppress(StopRun) if problems else contextlib.nullcontext():
                run.error_log = open_logs(settings, run.started, screen=dry)
        if run.quiet:
            SCREEN.setLevel("ERROR")
        if problems:
            refuse(run, problems, config)
            return 1 if arguments.check else 2
        if not dry:
            host = socket.gethostname()
            text = f"Import of users to Intercom started on {host}, with {config.absolute()}"
            notify(settings, text, "yellow")
        file = open_file(settings)
        with file.content:
            import_file(file, run)
    except KeyboardInterrupt as error:
        if run.counting:
            raise
        run.stop(f"{signal.Signals(error.args[0]).name} ended it")
    except Exception as error:
        run.stop(error)
    return conclude(run)


def main(argv: list[str] | None = None) -> int:
    """Lock the config, so that no two runs send the same users, and run; the exit status."""
    arguments = parse_arguments(argv)
    config: Path = arguments.config
    logging.getLogger().addHandler(logging.NullHandler())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        file = config.open("rb")
    except OSError as error:
        say(f"export_csv.py: {config} can't be read: {error.strerror}; see --config", sys.stderr)
        return 2
    try:
        if not (arguments.check or arguments.dry_run or lock(file)):
            say(f"export_csv.py: another run with {config} is under way", sys.stderr)
            return 3
        return run_once(config, arguments)
    except KeyboardInterrupt as error:  # the second one, or before there is anything to end
        say("export_csv.py: ended at once: what is left is only in the input", sys.stderr)
        os._exit(128 + (error.args[0] if error.args else signal.SIGINT))
    except Exception as error:
        log.debug("the traceback", exc_info=error)
        say(f"export_csv.py: an error that nobody foresaw, {cause(error)}", sys.stderr)
        return 1
    finally:
        file.close()


if __name__ == "__main__":
    sys.exit(main())
