#!/usr/bin/env python3
"""Add or update the users of a CSV file in Intercom, one request a user.

Run by hand or by cron; every setting stands in config.ini and is explained there. The chapters
follow a run, from Intercom's vocabulary to `main` at the end: read it from top to bottom.
"""

from __future__ import annotations

import argparse
import base64
import codecs
import configparser
import contextlib
import csv
import difflib
import email.utils
import enum
import gzip
import hashlib
import heapq
import html
import io
import ipaddress
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
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any, NamedTuple, TextIO
from urllib.parse import quote, quote_plus, urlsplit

INSTALL = "run `sh installboto.sh` (Windows: installboto.bat), then start with the python of .venv"
try:
    import dotenv
    import requests
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


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, at a moment when no request to Intercom has to be waited for."""


#### Intercom's vocabulary

Value = str | int | float | bool
User = dict[str, Any]
MAX_ATTRIBUTES, MAX_ATTRIBUTE_NAME, MAX_ATTRIBUTE_TEXT = 250, 190, 255
MILLISECONDS = 10**11  # as UNIX seconds, this is the year 5138
BOOLEANS = dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True)
BOOLEANS |= dict.fromkeys(("false", "f", "no", "n", "off", "0"), False)
WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)(\.0*)?")
ISO_8601 = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)(?:[T ](\d\d):?(\d\d)(?::?(\d\d)(?:[.,]\d+)?)?"
    r" ?(?:Z|([+-])(\d\d):?(\d\d)?)?)?",
    re.ASCII | re.IGNORECASE,
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
    if WHOLE_NUMBER.fullmatch(cell):
        if abs(to_integer(cell)) >= MILLISECONDS:
            raise ValueError("this is in milliseconds; Intercom takes seconds")
        return to_integer(cell)
    match = ISO_8601.fullmatch(cell)
    if not match:
        raise ValueError("neither UNIX seconds nor an ISO 8601 date")
    *moment, hours, minutes = (int(match[part] or 0) for part in (1, 2, 3, 4, 5, 6, 8, 9))
    offset = timedelta(hours=hours, minutes=minutes) * (-1 if match[7] == "-" else 1)
    return int(datetime(*moment, tzinfo=timezone(offset)).timestamp())  # type: ignore[misc,arg-type]


def to_attribute_text(cell: str) -> str:
    """The cell, unless it is longer than Intercom's custom attributes: ValueError."""
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
FIELDS: dict[str, Callable[[str], Value]] = {
    "user_id": str,
    "email": str,
    "id": str,
    "signed_up_at": to_timestamp,
    "name": str,
    "last_seen_ip": str,
    "last_seen_user_agent": str,
    "last_request_at": to_timestamp,
    "unsubscribed_from_emails": to_boolean,
    "update_last_request_at": to_boolean,
    "new_session": to_boolean,
}
IDENTITY = ("user_id", "email", "id")
ALWAYS_SENT = ("new_session", "update_last_request_at")
CONTACT_NAMES = {"user_id": "external_id", "last_request_at": "last_seen_at"}
NOT_IN_CONTACTS = ("last_seen_ip", "last_seen_user_agent", "new_session")


def to_contact(user: User) -> User:
    """The user in the words of Intercom's API 2.x, where it is a contact."""
    left_out = (*NOT_IN_CONTACTS, "id", "update_last_request_at")
    contact = {CONTACT_NAMES.get(k, k): v for k, v in user.items() if k not in left_out}
    if user.get("update_last_request_at"):
        contact["last_seen_at"] = int(time.time())
    return contact


#### Settings

SECRETS = {
    "intercom_api_id": "INTERCOM_API_ID",
    "intercom_api_key": "INTERCOM_API_KEY",
    "intercom_access_token": "INTERCOM_ACCESS_TOKEN",
    "hipchat_api_key": "HIPCHAT_API_KEY",
    "slack_webhook_url": "SLACK_WEBHOOK_URL",
    "aws_access_key": "AWS_ACCESS_KEY_ID",
    "aws_secret_key": "AWS_SECRET_ACCESS_KEY",
}


class Source(NamedTuple):
    """What fills a field or a custom attribute: the cell below a heading, or a constant."""

    name: str
    text: str  # the heading, or the constant
    constant: bool
    kind: str  # as the log calls the type
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
    sources: tuple[Source, ...] = ()  # [user] and [custom_attributes]
    discarded: tuple[str, ...] = ()  # keys of [user] that are no field of Intercom's

    @property
    def contacts(self) -> bool:
        """Whether user_url speaks API 2.x, where users are contacts."""
        return self.intercom_user_url.endswith("/contacts")

    @property
    def version(self) -> str:
        """The Intercom-Version header."""
        return self.intercom_api_version or ("2.14" if self.contacts else "1.4")

    @property
    def authorization(self) -> str:
        """The Authorization header: bearer where there is a token, else basic."""
        pair = f"{self.intercom_api_id}:{self.intercom_api_key}".encode()
        token = self.intercom_access_token
        return f"Bearer {token}" if token else f"Basic {base64.b64encode(pair).decode()}"


def nearest(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.0) -> str:
    """The names of `known` that are spelt most like `name`, case aside."""
    spelt = {candidate.lower(): candidate for candidate in known}
    return ", ".join(spelt[n] for n in difflib.get_close_matches(name.lower(), spelt, most, cutoff))


def unquote(value: str) -> str:
    """`value` without the double quotes that may stand around it."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def parse_config(config: Path, problems: dict[str, str]) -> dict[str, dict[str, str]]:
    """Each section's values as text; what can't be parsed is named by its line, never shown."""
    parser = configparser.ConfigParser(
        interpolation=None, delimiters="=", default_section="", empty_lines_in_values=False
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(config.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        problems["encoding"] = f"byte {error.start} is not UTF-8; save the file as UTF-8"
    except (configparser.DuplicateSectionError, configparser.DuplicateOptionError) as error:
        where = f"[{error.section}] {getattr(error, 'option', '')}".rstrip()
        problems[where] = f"stands there twice, again in line {error.lineno}; write it once"
    except configparser.ParsingError as error:
        for number in [n for n, _ in getattr(error, "errors", ())] or [error.lineno]:  # type: ignore[attr-defined]
            problems[f"line {number}"] = "is not `key = value` below a [section]; write it so"
    return {section: dict(parser[section]) for section in parser.sections()}


def read_value(text: str, default: Value) -> Value:
    """`text` in the type of `default`; ValueError says what to write."""
    if "\n" in text:
        raise ValueError("stands on several lines; write it on one")
    if isinstance(default, str) or not text:
        return text or default
    try:
        if isinstance(default, bool):
            return to_boolean(text)
        return to_integer(text) if isinstance(default, int) else to_float(text)
    except ValueError:
        example = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise ValueError(f"is {text!r}; write {example}, such as {str(default).lower()}") from None


def read_source(name: str, text: str, attribute: bool) -> Source:
    """What `name = text` of [user] or [custom_attributes] means; ValueError says what is wrong."""
    kind, convert = "", FIELDS.get(name, to_attribute_text)
    if attribute:
        if len(name) > MAX_ATTRIBUTE_NAME or "." in name or "$" in name:
            raise ValueError(
                "Intercom's names have no . or $ and at most 190 characters; rename it"
            )
        if not re.fullmatch("'.*'", text):
            heading, _, last = text.rpartition(":")
            text, kind = (unquote(heading.strip()), last.strip()) if heading else (text, "")
        if kind and kind not in CONVERTERS:
            near = nearest(kind, CONVERTERS)
            raise ValueError(f"unknown type {kind}; write one of {', '.join(CONVERTERS)} ({near}?)")
        convert = CONVERTERS[kind or "string"]
    constant = bool(re.fullmatch("'.*'", text))
    if constant:
        text = text[1:-1]
        try:
            convert(text.strip())
        except ValueError as error:
            raise ValueError(f"the constant '{text}' is {error}; write one that fits") from None
    return Source(name, text, constant, kind or convert.__name__[3:], convert, attribute)


def read_settings(config: Path, arguments: argparse.Namespace) -> tuple[Settings, dict[str, str]]:
    """The settings of the file, .env, the environment and the command line, and what is wrong."""
    problems: dict[str, str] = {}
    values = parse_config(config, problems)
    try:
        dotenv.load_dotenv(config.parent / ".env", interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        problems[".env"] = f"can't be read ({type(error).__name__}); make it readable, in UTF-8"
    given: dict[str, Any] = {}
    for name, default in Settings._field_defaults.items():
        section, _, key = name.partition("_")
        if key:
            text = values.get(section, {}).pop(key, "")
            text = os.environ.get(SECRETS.get(name, ""), "") or unquote(text)
            if name in SECRETS:
                hide(text)
            try:
                given[name] = read_value(text, default)
            except ValueError as error:
                problems[f"[{section}] {key}"] = str(error)
    sources, discarded = [], []
    for section in ("user", "custom_attributes"):
        for key, text in values.pop(section, {}).items():
            if section == "user" and key not in FIELDS:
                discarded.append(key)
            elif unquote(text):
                try:
                    sources.append(read_source(key, unquote(text), section != "user"))
                except ValueError as error:
                    problems[f"[{section}] {key}"] = str(error)
    keys = [name.split("_", 1) for name in Settings._fields[:-2]]
    for section, rest in values.items():
        known = [key for place, key in keys if place == section]
        if not known:
            sections = {place for place, _ in keys} | {"user", "custom_attributes"}
            problems[f"[{section}]"] = f"unknown section; write [{nearest(section, sections)}]?"
        for key in rest if known else ():
            problems[f"[{section}] {key}"] = f"unknown key; write {nearest(key, known)}?"
    if arguments.local:
        given["aws_use_aws"] = False
    if arguments.filename:
        given |= {"file_select_latest": False, "file_name": arguments.filename}
    settings = Settings(**given, sources=tuple(sources), discarded=tuple(discarded))
    hide(f"{settings.intercom_api_id}:{settings.intercom_api_key}")
    for url in (os.environ.get("AWS_SESSION_TOKEN", ""), *urllib.request.getproxies().values()):
        hide(urlsplit(url).password or "" if "://" in url else url)
    for wrong, where, text in checks(settings, arguments.dry_run):
        if wrong:
            problems.setdefault(where, text)
    return settings, problems


def url_problem(url: str) -> str:
    """What is wrong with an URL that secrets are sent to; blank where nothing is."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https") or re.search(r"[^!-~]|@", url):
        return "is no URL to use; write one such as https://host/path, without name or password"
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback:
            return ""
    return "" if parts.scheme == "https" else "would send secrets in the clear; write https://..."


def works(function: Callable[..., object], *values: object) -> bool:
    """Whether the standard library takes these values."""
    try:
        function(*values)
    except (ValueError, LookupError, re.error):
        return False
    return True


def checks(s: Settings, dry_run: bool) -> Iterator[tuple[bool, str, str]]:
    """What can be wrong with values that are readable: whether it is, where, and what to write."""
    yield s.aws_use_aws and not s.aws_bucket, "[aws] bucket", "is blank; name the bucket"
    pair = {"access_key": s.aws_access_key, "secret_key": s.aws_secret_key}
    for key in pair:
        half = s.aws_use_aws and not pair[key] and any(pair.values())
        yield half, f"[aws] {key}", "is blank; write both keys, or none for boto3's own chain"
    bad = not re.match(r"https?://[^/]|$", s.aws_endpoint_url)
    yield bad, "[aws] endpoint_url", "is no URL; write one such as https://host"
    bad = not s.file_select_latest and not s.file_name
    yield bad, "[file] name", "is blank; name the file, or write select_latest = true"
    example = datetime.now().strftime(s.file_time_format) if s.file_select_latest else ""
    bad = not works(datetime.strptime, example, s.file_time_format) and s.file_select_latest
    yield bad, "[file] time_format", "is no time format; write one such as %Y-%m-%dT%H-%M-%S"
    bad = s.csv_delimiter != "tab" and (len(s.csv_delimiter) != 1 or s.csv_delimiter in '"\r\n')
    yield bad, "[csv] delimiter", "is not one character; write one, or the word tab"
    bad = not works(io.TextIOWrapper, io.BytesIO(), s.csv_encoding)
    yield bad, "[csv] encoding", "is unknown; write one such as utf-8 or cp1252"
    pair = {"api_id": s.intercom_api_id, "api_key": s.intercom_api_key}
    for key in pair if any(pair.values()) and not s.intercom_access_token else ("access_token",):
        bad = not pair.get(key) and not s.intercom_access_token and not dry_run
        yield bad, f"[intercom] {key}", "is blank; write an access token, or api_id and api_key"
    bad = not re.search("/(users|contacts)$", s.intercom_user_url)
    text = url_problem(s.intercom_user_url) or "does not end in /users or /contacts; write it so"
    yield bool(bad or url_problem(s.intercom_user_url)), "[intercom] user_url", text
    bad = not re.fullmatch(r"[\w.]*", s.intercom_api_version, re.ASCII)
    yield bad, "[intercom] api_version", "is no version; write one such as 1.4 or 2.14"
    bad = not 0 <= s.intercom_timeout <= 86400
    yield bad, "[intercom] timeout", "is out of range; write 0 to 86400 seconds"
    yield s.intercom_retries < 0, "[intercom] retries", "is negative; write 0 or more"
    bad = not 1 <= s.intercom_concurrency <= 1000
    yield bad, "[intercom] concurrency", "is out of range; write 1 to 1000"
    for key in ("api_key", "room_id") if s.hipchat_use_hipchat else ():
        bad = not getattr(s, f"hipchat_{key}")
        yield bad, f"[hipchat] {key}", "is blank; write it, or use_hipchat = false"
    bad = not re.fullmatch("[A-Za-z0-9 _-]{1,15}", s.hipchat_from)
    yield bad, "[hipchat] from", "is not 1 to 15 letters, digits, spaces, - or _; write it so"
    yield bool(url_problem(s.hipchat_api_url)), "[hipchat] api_url", url_problem(s.hipchat_api_url)
    if s.slack_use_slack:
        text = url_problem(s.slack_webhook_url) if s.slack_webhook_url else "is blank; write it"
        yield bool(text), "[slack] webhook_url", text
        yield not re.match("[#@]|$", s.slack_channel), "[slack] channel", "write #channel or @user"
    for name in SECRETS:
        bad = bool(re.search("[^!-~]", getattr(s, name)))
        section, _, key = name.partition("_")
        yield bad, f"[{section}] {key}", "holds a character that no key has; copy it anew"
    names = [source.name for source in s.sources if not source.attribute]
    bad = bool(names or s.discarded) and not set(names) & set(IDENTITY)
    yield bad, "[user]", "names no identity; write user_id, email or id"
    bad = len(s.sources) - len(names) > MAX_ATTRIBUTES
    yield bad, "[custom_attributes]", f"has more than {MAX_ATTRIBUTES} keys; leave some out"


#### Finding the file


class CsvFile(NamedTuple):
    """The file that a run imports: its name, and its bytes from the start."""

    name: str
    content: IO[bytes]
    size: int


def newest(names: Iterable[str], time_format: str, place: str) -> str:
    """The name with the latest time stamp; StopRun with an example where none has one."""
    stamped = []
    for name in names:
        try:
            stem = re.sub(r"\.csv(\.gz)?$", "", name)
            stamped.append((datetime.strptime(stem if stem != name else "", time_format), name))
        except ValueError:
            log.debug("%s is skipped: it doesn't fit [file] time_format", name)
    if not stamped:
        example = datetime.now().strftime(time_format) + ".csv"
        raise StopRun(f"{place} holds no file that fits [file] time_format, such as {example}")
    return max(stamped)[1]


def open_local(settings: Settings) -> CsvFile:
    """The file on disk that is named, or the newest; StopRun where there is none."""
    folder = Path(settings.local_folder).expanduser()
    name = settings.file_name
    try:
        if settings.file_select_latest:
            files = [entry.name for entry in os.scandir(folder) if entry.is_file()]
            name = newest(files, settings.file_time_format, f"the folder {folder.absolute()}")
        path = folder / name if (folder / name).exists() else Path(name)
        file = path.open("rb")
        return CsvFile(path.name, file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        where = folder.absolute() if settings.file_select_latest else folder.absolute() / name
        raise StopRun(f"{where}: there is no such file or folder") from None
    except OSError as error:
        raise StopRun(f"{error.filename} can't be read: {error.strerror}") from None


def open_s3(settings: Settings) -> CsvFile:
    """A copy of the object that is named, or of the newest; StopRun where there is none.

    Only immediate children of the folder are listed: see Delimiter in
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    """
    try:
        import boto3
        import botocore.config
        import botocore.exceptions
    except ImportError as error:
        raise StopRun(f"the package {error.name} is missing: {INSTALL}") from None
    bucket, name = settings.aws_bucket, settings.file_name
    folder = f"{settings.aws_folder.strip('/')}/".removeprefix("/")
    place = f"s3://{bucket}/{folder}{name}"
    retries = {"mode": "standard", "max_attempts": 5}
    from_env = settings.aws_access_key == os.environ.get("AWS_ACCESS_KEY_ID")
    try:
        client = boto3.client(
            "s3",
            aws_access_key_id=settings.aws_access_key or None,
            aws_secret_access_key=settings.aws_secret_key or None,
            aws_session_token=os.environ.get("AWS_SESSION_TOKEN") if from_env else None,
            region_name=settings.aws_region or None,
            endpoint_url=settings.aws_endpoint_url or None,
            config=botocore.config.Config(connect_timeout=10, read_timeout=60, retries=retries),
        )
        if settings.file_select_latest:
            lister = client.get_paginator("list_objects_v2")
            pages = lister.paginate(Bucket=bucket, Prefix=folder, Delimiter="/")
            keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
            names = [key[len(folder) :] for key in keys]
            name = newest(names, settings.file_time_format, place)
        return download(client, settings, folder + name)
    except (
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
        ValueError,
    ) as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
        raise StopRun(f"{place}: {S3_REASONS.get(code, code)} ({error})") from None


S3_REASONS = {
    "NoSuchBucket": "there is no such bucket; see [aws] bucket",
    "NoSuchKey": "there is no such file; see [aws] folder, or use --local for a file on disk",
    "AccessDenied": "access is denied; the keys need s3:ListBucket and s3:GetObject",
    "InvalidAccessKeyId": "S3 doesn't know the key; see [aws] access_key",
    "SignatureDoesNotMatch": "the key's secret is another; see [aws] secret_key",
    "NoCredentialsError": "there are no AWS credentials; see [aws] access_key and secret_key",
    "EndpointConnectionError": "S3 can't be reached",
}


def download(client: Any, settings: Settings, key: str) -> CsvFile:
    """The whole object, in a file without a name, of which not even kill -9 leaves anything.

    What breaks off is begun anew, so that no two states of the object are mixed.
    """
    from botocore.exceptions import BotoCoreError

    folder = Path(settings.aws_tmp_folder or tempfile.gettempdir()).expanduser()
    try:
        copy = tempfile.TemporaryFile(dir=folder)
        for attempt in range(5):
            answer = client.get_object(Bucket=settings.aws_bucket, Key=key)
            copy.seek(0)
            copy.truncate()
            with contextlib.suppress(BotoCoreError):
                shutil.copyfileobj(answer["Body"], copy)
            if copy.tell() == answer["ContentLength"]:
                copy.seek(0)
                return CsvFile(key.rpartition("/")[2], copy, answer["ContentLength"])
            log.warning("the download of %s broke off, try %d of 5", key, attempt + 1)
    except OSError as error:
        raise StopRun(f"the download can't be written to {folder}: {error.strerror}") from None
    raise StopRun(f"the download of {key} broke off five times; try again later")


#### Rows to users


class Row(NamedTuple):
    """A record of the file: its cells, or the problem that keeps it from being imported."""

    line: int
    lines: Iterable[str]  # as they stand in the file
    cells: list[str] = []
    problem: str = ""


class Sheet(NamedTuple):
    """A CSV file whose headings have been read."""

    rows: Iterator[Row]
    headings: list[str]
    heading_lines: list[str]  # none where [csv] headings stand for them
    text: io.TextIOWrapper


READ_ERRORS = (OSError, EOFError, zlib.error, UnicodeError)
SURROGATE = re.compile("[\ud800-\udfff]")  # what bytes outside the encoding are read as


def read_rows(text: io.TextIOWrapper, delimiter: str) -> Iterator[Row]:
    """Every record but blank lines; StopRun where the file can't be read to its end.

    A quote that never closes makes one record of all that follows it.
    """
    lines: list[str] = []

    def pull() -> Iterator[str]:
        for number, line in enumerate(text):
            lines.append(line)
            yield line if number else line.removeprefix("\ufeff")

    pulled = pull()
    reader = csv.reader(pulled, delimiter=delimiter, strict=True)
    line = 1
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
                yield Row(line, itertools.chain(lines[:], text), cells, problem)
                return
        except READ_ERRORS as error:
            if lines:
                yield Row(line, lines, cells, "the file breaks off in this row")
            raise StopRun(f"the file breaks off after line {line - 1}: {error}") from None
        if not problem and any(map(SURROGATE.search, lines)):
            problem = f"it holds bytes that are not {text.encoding}; see [csv] encoding"
        if problem or len(cells) > 1 or (cells and cells[0].strip()):
            yield Row(line, lines[:], cells, problem)
        line += len(lines)
        lines.clear()


def open_sheet(file: CsvFile, settings: Settings) -> Sheet:
    """The file's headings and rows; StopRun where it has no headings."""
    name = codecs.lookup(settings.csv_encoding).name
    errors = "surrogatepass" if name.startswith(("utf-16", "utf-32")) else "surrogateescape"
    content: Any = file.content if not file.name.endswith(".gz") else gzip.open(file.content)
    text = io.TextIOWrapper(content, settings.csv_encoding, errors, newline="")
    rows = read_rows(text, "\t" if settings.csv_delimiter == "tab" else settings.csv_delimiter)
    first = next(rows, None)
    found = [cell.strip() for cell in first.cells] if first else []
    headings = [cell.strip() for cell in next(csv.reader([settings.csv_headings]), [])]
    if headings and found != headings:
        return Sheet(itertools.chain([first] if first else [], rows), headings, [], text)
    if first is None or first.problem:
        raise StopRun(f"the row of headings: {first.problem if first else 'the file is empty'}")
    return Sheet(rows, found, list(first.lines), text)


class Layout(NamedTuple):
    """Where each value of a user stands in a row that the constants are appended to."""

    width: int
    constants: list[str]
    columns: list[tuple[int, Source]]


def map_columns(settings: Settings, headings: list[str]) -> Layout:
    """Each source's place; StopRun with all headings that are missing or ambiguous."""
    sources = settings.sources
    if all(source.attribute for source in sources):
        own = [read_source(name, name, attribute=False) for name in FIELDS if name in headings]
        sources = (*own, *sources)
    constants = [source.text for source in sources if source.constant]
    columns, problems, place = [], [], itertools.count(len(headings))
    for source in sources:
        times = headings.count(source.text)
        if source.constant:
            columns.append((next(place), source))
        elif times == 1:
            columns.append((headings.index(source.text), source))
        else:
            near = nearest(source.text, headings, 3, 0.5) or ", ".join(headings)
            what = f"stands there {times} times" if times else f"is missing (nearest: {near})"
            problems.append(f"{source.text!r}, for {source.name}, {what}")
    if not any(source.name in IDENTITY for source in sources if not source.attribute):
        problems.append(f"none is user_id, email or id (there are: {', '.join(headings)})")
    if problems:
        raise StopRun(
            "the headings don't fit [user] and [custom_attributes]: " + "; ".join(problems)
        )
    return Layout(len(headings), constants, columns)


def to_user(cells: list[str], layout: Layout) -> tuple[User, list[str]]:
    """The user in a row, and what is wrong with the cells that had to be left out."""
    user: User = {}
    attributes: User = {}
    wrong = []
    cells = cells + layout.constants
    for index, source in layout.columns:
        cell = cells[index].strip()
        if cell:
            try:
                (attributes if source.attribute else user)[source.name] = source.convert(cell)
            except ValueError as error:
                shown = f"{cell[:80]!r}{'...' if len(cell) > 80 else ''}"
                wrong.append(f"heading {source.text!r}, value {shown}, type {source.kind}: {error}")
    if attributes:
        user["custom_attributes"] = attributes
    return user, wrong


#### Talking to Intercom

TIMEOUTS = (10, 60)  # seconds to connect, and to answer
MAX_ANSWER = 2**20  # bytes that are read of an answer
MAX_PAUSE = 300  # seconds that a rate limit may hold a run up
EXISTS = re.compile(
    r"(A|An archived) contact matching those details already exists with id=([\w-]+)"
)
STOPS = {
    401: "the credentials are wrong; see [intercom] access_token (or api_id and api_key)",
    402: "the workspace's plan doesn't cover this, or is not paid",
    403: "the credentials may not do this; see the token's permissions in Intercom",
    404: "there is nothing at [intercom] user_url",
    405: "[intercom] user_url takes no users",
    406: "[intercom] user_url doesn't speak Intercom's JSON",
}
REDIRECTED = "[intercom] user_url answers with a redirection, which is not followed"
USE_CONTACTS = "; apps on Intercom's API 2.x want user_url = https://api.intercom.io/contacts"


class Verdict(enum.Enum):
    ACCEPTED = "added or updated"
    RETRY = "to be tried again"
    REFUSED = "refused"
    STOP = "the settings are wrong"


def verdict(status: int, by_id: bool) -> Verdict:
    """What a status (0: no answer) means for a user, and whether it was looked up by Intercom's id.

    https://developers.intercom.com/docs/references/rest-api/errors/http-responses
    """
    if 200 <= status < 300:
        return Verdict.ACCEPTED
    if status < 200 or status in (408, 429) or status >= 500:
        return Verdict.RETRY
    if status < 400 or (status in STOPS and not (status == 404 and by_id)):
        return Verdict.STOP
    return Verdict.REFUSED


class Answer(NamedTuple):
    status: int = 0  # there was none, and `failure` says why
    headers: Mapping[str, str] = {}
    body: bytes = b""
    failure: str = ""
    fatal: bool = False  # no use to try again
    seconds: float = 0.0

    def json(self) -> dict[str, Any]:
        """The body, where it is a JSON object; else an empty one."""
        try:
            body = json.loads(self.body)
        except (ValueError, RecursionError):
            body = None
        return body if isinstance(body, dict) else {}

    def __str__(self) -> str:
        """The status, and what Intercom says of an error: codes, messages and request_id."""
        content = self.json()
        errors = content.get("errors")
        if self.status < 300 or not isinstance(errors, list):
            text = self.body[:200].decode(errors="replace") if self.status >= 300 else ""
            return self.failure or f"{self.status} {text}".rstrip()
        listed = [f"{e.get('code')}: {e.get('message')}" for e in errors if isinstance(e, dict)]
        return f"{self.status} {'; '.join(listed)} (request_id {content.get('request_id')})"

    def number(self, header: str) -> int | None:
        """A header that is a number of at most 11 digits, None for anything else."""
        text = self.headers.get(header, "")
        return int(text) if re.fullmatch("[0-9]{1,11}", text) else None

    def time(self, header: str, otherwise: float) -> float:
        """UNIX seconds of a header that is an HTTP date."""
        try:
            return email.utils.parsedate_to_datetime(self.headers.get(header, "")).timestamp()
        except (ValueError, TypeError, OverflowError):
            return otherwise

    def until_reset(self) -> float:
        """Seconds to X-RateLimit-Reset by Intercom's own clock; negative where it isn't known.

        https://developers.intercom.com/docs/references/rest-api/errors/rate-limiting
        """
        return (self.number("X-RateLimit-Reset") or 0) - self.time("Date", time.time())

    def pause(self) -> float:
        """Seconds that a 429 asks for, at most MAX_PAUSE; 0 for any other answer."""
        if self.status != 429:
            return 0
        date = self.time("Date", time.time())
        asked = self.number("Retry-After") or self.time("Retry-After", date) - date
        return min(MAX_PAUSE, max(0, asked, self.until_reset()))


class RateLimit:
    """When Intercom takes another request, by what its answers say of the window they fall in."""

    def __init__(self) -> None:
        self.limit = 1.0  # until the first answer, one request feels its way
        self.remaining = self.reset = 0
        self.ends = self.held = 0.0  # time.monotonic() of the window's end, and after a 429

    def learn(self, answer: Answer) -> None:
        now, wait = time.monotonic(), answer.until_reset()
        self.held = max(self.held, now + answer.pause())
        reset, remaining = (
            answer.number("X-RateLimit-Reset"),
            answer.number("X-RateLimit-Remaining"),
        )
        self.limit = answer.number("X-RateLimit-Limit") or math.inf
        if reset is None or remaining is None or not 0 < wait <= MAX_PAUSE or reset < self.reset:
            return
        if reset > self.reset:
            self.reset, self.remaining, self.ends = reset, remaining, now + wait
        # Date has whole seconds, so of a window's answers the earliest end is the exact one.
        self.remaining, self.ends = min(self.remaining, remaining), min(self.ends, now + wait)

    def opens(self, under_way: int) -> float:
        """The time.monotonic() from which another request may go, if no answer changes it."""
        now = time.monotonic()
        if now < self.held:
            return self.held
        if now < self.ends:
            return 0.0 if self.remaining > under_way else self.ends
        return 0.0 if self.limit > under_way else math.inf


class Intercom:
    """Keep-alive connections to Intercom, by the proxies and certificates of the environment."""

    def __init__(self, settings: Settings) -> None:
        url = settings.intercom_user_url
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Authorization": settings.authorization,
            "Content-Type": "application/json",
            "Intercom-Version": settings.version,
            "User-Agent": f"IntercomImporter/{VERSION}",
        }
        # Prepared once, sent by the adapter: no redirect, no cookie, no .netrc, and less work.
        self.request = requests.Request("POST", url, headers).prepare()
        self.environment: Any = requests.Session().merge_environment_settings(
            url, {}, True, None, None
        )
        self.adapter = requests.adapters.HTTPAdapter(pool_maxsize=settings.intercom_concurrency)

    def exchange(self, method: str, url: str, body: bytes = b"") -> Answer:
        """Intercom's answer to a request, or why there is none; StopRun for a bad certificate."""
        request = self.request.copy()
        request.method, request.url, request.body = method, url, body
        request.headers["Content-Length"] = str(len(body))
        content = b""
        began = time.monotonic()
        try:
            response = self.adapter.send(request, timeout=TIMEOUTS, **self.environment)
            for chunk in response.iter_content(2**16):
                content += chunk
                if len(content) > MAX_ANSWER:
                    response.close()
                    break
        except (requests.RequestException, OSError, ValueError) as error:
            fatal = "CERTIFICATE_VERIFY_FAILED" in str(error)
            text = f"no answer ({cause(error)})"
            return Answer(failure=text, fatal=fatal, seconds=time.monotonic() - began)
        seconds = time.monotonic() - began
        return Answer(response.status_code, response.headers, content, seconds=seconds)


def cause(error: BaseException) -> str:
    """The error at the bottom, without the URLs in the texts of those above it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {error}"


def check_attributes(intercom: Intercom, settings: Settings) -> None:
    """StopRun with the custom attributes that the workspace's contacts have not, or not so.

    https://developers.intercom.com/docs/references/rest-api/api.intercom.io/data-attributes
    """
    url = settings.intercom_user_url.removesuffix("contacts") + "data_attributes?model=contact"
    for attempt in range(settings.intercom_retries + 1):
        answer = intercom.exchange("GET", url)
        if verdict(answer.status, by_id=False) is not Verdict.RETRY:
            break
        log.warning("GET data_attributes: %s; try %d", answer, attempt + 1)
        time.sleep(max(answer.pause(), settings.intercom_timeout))
    if answer.status != 200:
        raise StopRun(
            f"Intercom's data attributes: {answer}: {STOPS.get(answer.status, 'see there')}"
        )
    defined = {
        attribute.get("name"): attribute.get("data_type")
        for attribute in answer.json().get("data", ())
        if attribute.get("custom") and not attribute.get("archived")
    }
    wrong = []
    for source in settings.sources:
        wanted = "date" if source.kind == "timestamp" else source.kind
        if source.attribute and defined.get(source.name) != wanted:
            found = f"is {defined[source.name]}" if source.name in defined else "is missing"
            wrong.append(f"{source.name} {found}, should be {wanted}")
    if wrong:
        raise StopRun("the workspace's custom attributes don't fit: " + "; ".join(wrong))


#### What was sent before


class SentUsers:
    """Of each user, a digest of what Intercom last accepted and Intercom's own id of it.

    Apart for each user_url and credentials. What isn't certain is forgotten: a digest goes before
    its user is sent anew, and when another row turns out to be the same user of Intercom's.
    """

    VERSION = 1

    def __init__(self, settings: Settings) -> None:
        self.path = Path(settings.intercom_state_file).expanduser()
        self.scope = f"{settings.intercom_user_url}\0{settings.authorization}\0".encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StopRun(f"the state file {self.path}: {error.strerror}") from None
        self.database = sqlite3.connect(self.path, timeout=5, isolation_level=None)
        version = self.execute("PRAGMA user_version")[0]
        if version > self.VERSION or (not version and self.execute("SELECT 1 FROM sqlite_master")):
            raise StopRun(
                f"{self.path} is no state file of this version; see [intercom] state_file"
            )
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = NORMAL")
        self.execute(
            "CREATE TABLE IF NOT EXISTS users (key BLOB PRIMARY KEY, digest BLOB, id TEXT)"
        )
        self.execute("CREATE INDEX IF NOT EXISTS users_by_id ON users (id)")
        self.execute(f"PRAGMA user_version = {self.VERSION}")

    def execute(self, statement: str, *values: object) -> Any:
        """The first row of the result; StopRun where the state can't be relied on."""
        try:
            return self.database.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            advice = "; if it is damaged, delete it, and every user is sent once more"
            raise StopRun(f"the state file {self.path}: {error}{advice}") from None

    def key(self, identity: str) -> bytes:
        return hashlib.sha256(self.scope + identity.encode()).digest()

    def recall(self, identity: str) -> tuple[bytes, str]:
        """The digest and Intercom's id of a user; blank where they aren't known."""
        statement = "SELECT digest, id FROM users WHERE key = ?"
        return self.execute(statement, self.key(identity)) or (b"", "")

    def forget(self, identity: str) -> None:
        self.execute("UPDATE users SET digest = x'' WHERE key = ?", self.key(identity))

    def remember(self, identity: str, digest: bytes, intercom_id: str) -> None:
        if intercom_id:
            self.execute("DELETE FROM users WHERE id = ?", intercom_id)
        statement = "INSERT OR REPLACE INTO users VALUES (?, ?, ?)"
        self.execute(statement, self.key(identity), digest, intercom_id)


#### Telling people

hidden: list[str] = []  # secrets, in each form in which they may turn up


def hide(secret: str) -> None:
    """Never show `secret` again: as it is, percent-encoded or in base64."""
    path = urlsplit(secret).path if "://" in secret else ""
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


def say(text: object, stream: TextIO) -> None:
    """Print a line; a screen that has gone away is no error."""
    with contextlib.suppress(OSError, ValueError):
        print(show(text), file=stream, flush=True)


def create(folder: str, name: str, ending: str) -> tuple[Path, int]:
    """A new file for its owner's eyes alone, in a folder made where it is missing: path and fd."""
    place = Path(folder).expanduser().absolute()
    place.mkdir(parents=True, exist_ok=True)
    for extra in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
        path = place / f"{name}{extra}{ending}"
        with contextlib.suppress(FileExistsError):
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    raise AssertionError


class SafeFormatter(logging.Formatter):
    """A line for each record, whatever its text holds; the lines of a traceback are marked."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self.formatTime(record)} {record.levelname} {show(record.getMessage())}"
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join([line, *(f"    | {show(part)}" for part in trace)])


class LogFile(logging.StreamHandler[TextIO]):
    """A log file; where its disk fails, the screen says so once and the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        logging.getLogger().removeHandler(self)
        say(f"the log can't be written any more: {sys.exc_info()[1]}", sys.stderr)


def open_logs(settings: Settings, started: datetime, screen: bool) -> Path | None:
    """The path of the error log, None without logs; what isn't logged is shown on the screen."""
    handlers: list[logging.Handler] = []
    path = None
    name = started.strftime("%Y-%m-%dT%H-%M-%S")
    try:
        for kind, level in (("debug", "DEBUG"), ("error", "WARNING")) * settings.log_use_logs:
            path, descriptor = create(settings.log_folder, name, f"_{kind}.log")
            handlers.append(LogFile(open(descriptor, "w", encoding="utf-8")))
            handlers[-1].setLevel(level)
    except OSError as error:
        raise StopRun(f"[log] folder {settings.log_folder}: {error.strerror}") from None
    if screen or not handlers:
        handlers.append(logging.StreamHandler())
        handlers[-1].setLevel("WARNING")
    for handler in handlers:
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
        form |= {"message": show(text), "message_format": "text", "color": color}
        posts.append(("Hipchat", url, {"params": query, "data": form}))
    if settings.slack_use_slack:
        message = {"text": html.escape(show(text), quote=False)}
        for key in ("channel", "username", "icon_url", "icon_emoji"):
            message |= {key: value} if (value := getattr(settings, f"slack_{key}")) else {}
        posts.append(("Slack", settings.slack_webhook_url, {"json": message}))
    for name, url, content in posts:
        for attempt in (1, 2, 3):
            try:
                answer = requests.post(url, **content, timeout=2.5, allow_redirects=False)
                if 200 <= answer.status_code < 300:
                    break
                why = f"{answer.status_code} {answer.text[:200]}"
            except (requests.RequestException, OSError, ValueError) as error:
                why = cause(error)
            log.warning("the notice to %s failed, try %d of 3: %s", name, attempt, why)
            time.sleep(0.5)


class Progress:
    """One line on a terminal: share done, users, users a second, time left."""

    def __init__(self, file: CsvFile, wanted: bool) -> None:
        self.file, self.began, self.drawn = file, time.monotonic(), 0.0
        self.wanted = wanted and sys.stderr.isatty()

    def draw(self, users: int) -> None:
        now = time.monotonic()
        if not self.wanted or now < self.drawn + 0.25:
            return
        self.drawn, elapsed = now, now - self.began
        share = min(1.0, self.file.content.tell() / max(1, self.file.size))
        left = timedelta(seconds=round(elapsed / share - elapsed)) if share else "?"
        line = (
            f"{share:4.0%}  {users} users  {users / max(elapsed, 0.001):.1f} users/s  {left} left"
        )
        print("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1], end="", file=sys.stderr)

    def clear(self) -> None:
        if self.wanted:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


#### The run

POLL = 0.1  # seconds between two looks for a signal
ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
Request = tuple[str, str, bytes]  # method, URL, body


@dataclass
class Job:
    """A row on its way to Intercom."""

    row: Row
    name: str  # in the logs
    user: User
    identity: str
    keys: frozenset[str]  # jobs that share one are never under way at once
    contact: str = ""  # the id by which Intercom is asked for it
    remembered: bool = False  # that id is from an earlier run
    digest: bytes = b""
    tries: int = 0
    due: float = 0.0


class NotImported:
    """The file of the rows that are not imported, in the shape of the input; made when needed."""

    def __init__(self, folder: str, name: str, sheet: Sheet) -> None:
        self.folder, self.name, self.sheet = folder, name, sheet
        self.path: Path | None = None
        self.failed = False

    def add(self, row: Row) -> None:
        """Append the row as it stands in the input; OSError the first time that this fails."""
        if self.failed:
            return
        try:
            if self.path is None:
                self.path, descriptor = create(self.folder, self.name, ".csv")
                encoding, errors = self.sheet.text.encoding, self.sheet.text.errors
                self.file = open(descriptor, "w", encoding=encoding, errors=errors, newline="")
                self.file.writelines(self.sheet.heading_lines)
            line = ""
            for line in row.lines:
                self.file.write(line)
            self.file.write("" if line.endswith(("\n", "\r")) else "\n")
            self.file.flush()
        except OSError:
            self.failed = True
            raise


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
    rejects: NotImported | None = None
    sent: SentUsers | None = None
    imported: int = 0
    unchanged: int = 0
    not_imported: int = 0
    wrong_values: int = 0
    given_up: int = 0  # users in a row that used up their retries
    refused: int | None = 0  # of the first users sent; None since one was not
    reason: str = ""  # why the run stopped
    signal: int = 0
    deferred: bool = False  # whether a signal waits for the requests under way

    def on_signal(self, number: int, _: object) -> None:
        again, self.signal = self.signal, number
        if again or not self.deferred:
            raise Interrupted(number)

    def stop(self, reason: str | BaseException) -> None:
        """Note why the run stops; the first reason counts."""
        if isinstance(reason, Exception) and not isinstance(reason, StopRun):
            log.debug("the traceback", exc_info=reason)
            reason = f"an error that nobody foresaw, {cause(reason)}; see the debug log"
        log.debug("the run stops: %s", reason)
        self.reason = self.reason or str(reason)

    def reject(self, row: Row, reason: str = "", name: str = "") -> None:
        """Count and keep a row that is not imported; log the reason where it has one of its own."""
        self.not_imported += 1
        if reason:
            log.error("%s: not imported: %s", name or f"line {row.line}", reason)
        try:
            if self.rejects:
                self.rejects.add(row)
        except (OSError, ValueError) as error:
            place = self.settings.csv_not_imported_folder
            rest = f"rows that are not imported, from line {row.line} on, are only in the input"
            self.stop(f"{place} can't be written: {getattr(error, 'strerror', error)}; {rest}")

    def summary(self) -> str:
        seconds = time.monotonic() - self.began
        return (
            f"{self.file}: {self.imported} added or updated, {self.unchanged} unchanged, "
            f"{self.not_imported} not imported in {timedelta(seconds=int(seconds))} "
            f"({self.imported / max(seconds, 0.001):.1f} users/s)"
        )


def make_jobs(sheet: Sheet, layout: Layout, run: Run) -> Iterator[Job]:
    """A job for each row that has to be sent; all other rows are counted here."""
    for row in sheet.rows:
        problem = row.problem
        if not problem and len(row.cells) != layout.width:
            problem = f"{len(row.cells)} cells below {layout.width} headings"
        user, wrong = ({}, []) if problem else to_user(row.cells, layout)
        ids = [f"{name}={user[name]}" for name in IDENTITY if name in user]
        if problem or not ids:
            run.reject(row, problem or "no user_id, email or id")
            continue
        name = f"line {row.line} {ids[0]}"
        for text in wrong:
            log.warning("%s: left out: %s", name, text)
        run.wrong_values += len(wrong)
        keys = frozenset(key.lower() for key in ids)
        job = Job(row, name, user, ids[0], keys, contact=user.get("id", ""))
        if run.sent and is_unchanged(job, run, run.sent):
            run.unchanged += 1
            log.debug("%s: unchanged", name)
        else:
            yield job


def is_unchanged(job: Job, run: Run, sent: SentUsers) -> bool:
    """Whether Intercom has the job's data; notes what is known of its contact."""
    job.digest = hashlib.sha256(ENCODER.encode(job.user).encode()).digest()
    try:
        digest, contact = sent.recall(job.identity)
    except StopRun as error:
        run.stop(error)
        return False
    if contact and not job.contact:
        job.contact, job.remembered = contact, True
    return digest == job.digest and not any(job.user.get(name) for name in ALWAYS_SENT)


def request_of(job: Job, settings: Settings) -> Request:
    """The request that adds or updates the job's user."""
    method, url, body = "POST", settings.intercom_user_url, job.user
    if settings.contacts:
        body = to_contact(job.user)
        if job.contact:
            method, url = "PUT", f"{url}/{quote(job.contact, safe='').replace('.', '%2E')}"
        else:
            body = {"role": "user"} | body
    return method, url, ENCODER.encode(body).encode()


def print_users(jobs: Iterator[Job], run: Run) -> None:
    """The bodies that Intercom would get, on standard output, one a line."""
    try:
        for job in jobs:
            sys.stdout.write(request_of(job, run.settings)[2].decode() + "\n")
            run.imported += 1
            if run.signal or run.reason:
                break
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads them has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def start_workers(intercom: Intercom, count: int) -> tuple[Callable[..., None], Any]:
    """What sends a job's request, and the queue of its answers; a count of 1 needs no thread."""
    tasks: queue.SimpleQueue[tuple[Job, Request]] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[Job, Answer | Exception]] = queue.SimpleQueue()

    def exchange(job: Job, request: Request) -> None:
        try:
            answers.put((job, intercom.exchange(*request)))
        except Exception as error:  # for the thread that counts
            answers.put((job, error))

    def work() -> None:
        while True:
            exchange(*tasks.get())

    if count == 1:
        return exchange, answers
    for _ in range(count):
        threading.Thread(target=work, daemon=True).start()
    return lambda *task: tasks.put(task), answers


def send_users(jobs: Iterator[Job], intercom: Intercom, run: Run, progress: Progress) -> None:
    """Send all jobs, as many at once as settings and Intercom allow; in the end all are settled.

    Only this thread counts, logs and decides; the workers do nothing but talk to Intercom.
    """
    limit, most = RateLimit(), run.settings.intercom_concurrency
    send, answers = start_workers(intercom, most)
    waiting: list[tuple[float, int, Job]] = []  # a heap: what is due first
    following: list[Job] = []  # the next one, as long as its user is under way
    busy: set[str] = set()
    under_way = 0
    while True:
        try:
            progress.draw(run.imported + run.unchanged + run.not_imported)
            if run.signal and not run.reason:
                run.stop(f"{signal.Signals(run.signal).name} ended it")
            while run.reason and (waiting or following):
                job = following.pop() if following else waiting.pop()[2]
                run.reject(job.row, "the run stopped", job.name)
            if not run.reason and under_way + len(waiting) < most:
                following = following or list(itertools.islice(jobs, 1))
                if following and not following[0].keys & busy:
                    busy |= following[0].keys
                    heapq.heappush(waiting, (0.0, following[0].row.line, following.pop()))
            now = time.monotonic()
            ready = max(waiting[0][0], limit.opens(under_way)) if waiting else math.inf
            if ready <= now:
                job = waiting[0][2]
                if run.sent:
                    run.sent.forget(job.identity)
                send(heapq.heappop(waiting)[2], request_of(job, run.settings))
                under_way += 1
            elif under_way:
                with contextlib.suppress(queue.Empty):
                    job, answer = answers.get(timeout=min(POLL, ready - now))
                    under_way -= 1
                    limit.learn(answer)
                    if settle(job, answer, run):
                        heapq.heappush(waiting, (job.due, job.row.line, job))
                    else:
                        busy -= job.keys
            elif waiting:
                time.sleep(min(POLL, ready - now))
            elif not following:
                return
        except Exception as error:
            run.stop(error)


def settle(job: Job, answer: Answer, run: Run) -> bool:
    """Do what the answer asks for; whether the job is to be sent again, when it is due."""
    settings = run.settings
    log.debug("%s: %s in %.3f s", job.name, answer, answer.seconds)
    meaning = verdict(answer.status, bool(job.contact))
    exists = EXISTS.search(str(answer)) if settings.contacts and answer.status == 409 else None
    if exists and exists[1] == "A" and not job.contact:
        job.contact = exists[2]
        return True
    if job.remembered and answer.status == 404:
        job.contact, job.remembered = "", False
        return True
    if meaning is Verdict.RETRY and job.tries < settings.intercom_retries and not run.reason:
        wait = max(settings.intercom_timeout, answer.pause())
        job.tries, job.due = job.tries + 1, time.monotonic() + wait
        log.warning("%s: %s: retry %d in %.3g s", job.name, answer, job.tries, wait)
        return True
    run.given_up = run.given_up + 1 if meaning is Verdict.RETRY and not run.reason else 0
    in_row = run.refused is not None and answer.status in (400, 422)
    run.refused = (run.refused or 0) + 1 if in_row else None
    if meaning is Verdict.ACCEPTED:
        run.imported += 1
        if run.sent:
            intercom_id = answer.json().get("id") or job.contact
            run.sent.remember(job.identity, job.digest, str(intercom_id))
        return False
    run.reject(job.row, f"{answer}{'; it is archived in Intercom' if exists else ''}", job.name)
    advice = "" if settings.contacts or answer.status in (401, 402) else USE_CONTACTS
    if answer.fatal:
        run.stop(answer.failure)
    elif meaning is Verdict.STOP:
        run.stop(f"{STOPS.get(answer.status, REDIRECTED)}{advice} ({answer})")
    elif run.given_up == 2:
        run.stop(f"Intercom is down: two users in a row used up their retries ({answer})")
    elif run.refused == 100:
        run.stop(f"the first 100 users were all refused{advice} ({answer})")
    return False


def remarks(settings: Settings) -> Iterator[tuple[int, str]]:
    """What is worth knowing of settings that are not wrong, and at which level to log it."""
    for key in settings.discarded:
        near = nearest(key, FIELDS)
        yield logging.WARNING, f"[user] {key}: no field of Intercom's, left out (nearest: {near})"
    for source in settings.sources:
        if not source.attribute and settings.contacts and source.name in NOT_IN_CONTACTS:
            yield logging.WARNING, f"[user] {source.name}: contacts don't have it, left out"
        if source.kind == "timestamp" and source.attribute and not source.name.endswith("_at"):
            text = "shows as a number in Intercom; a name ending in _at shows as a date"
            yield logging.DEBUG, f"[custom_attributes] {source.name}: {text}"


def import_file(file: CsvFile, run: Run) -> None:
    """Bring the file's rows into Intercom; StopRun where a run can't begin or the file breaks."""
    settings = run.settings
    run.file = file.name
    sheet = open_sheet(file, settings)
    layout = map_columns(settings, sheet.headings)
    intercom = Intercom(settings)
    for level, text in remarks(settings):
        log.log(level, "%s", text)
    if settings.contacts and not run.dry and any(source.attribute for source in settings.sources):
        check_attributes(intercom, settings)
    state = Path(settings.intercom_state_file).expanduser()
    if settings.intercom_skip_unchanged and (state.exists() or not run.dry):
        run.sent = SentUsers(settings)
    stem = re.sub(r"\.csv(\.gz)?$", "", file.name)
    name = f"{stem}_{run.started:%Y-%m-%dT%H-%M-%S}"
    run.rejects = NotImported(settings.csv_not_imported_folder, name, sheet)
    run.deferred = True
    jobs = make_jobs(sheet, layout, run)
    if run.dry:
        print_users(jobs, run)
    else:
        progress = Progress(file, not run.quiet)
        send_users(jobs, intercom, run, progress)
        progress.clear()
    for number, row in enumerate(sheet.rows):
        if number == 0:
            log.error("line %d and all after it: not imported: the run stopped", row.line)
        run.reject(row)


def conclude(run: Run) -> int:
    """Tell the screen, the logs, Hipchat and Slack how the run ended; its exit status."""
    why = run.reason or ("some rows were not imported" if run.not_imported else "")
    status = 128 + run.signal if run.signal and run.reason else int(bool(why))
    told = [run.summary()] if run.rejects else []
    if run.wrong_values:
        told.append(f"{run.wrong_values} values were left out, not being of their type")
    if run.rejects and run.rejects.path:
        told.append(f"the rows that were not imported: {run.rejects.path}")
    if run.error_log and (why or run.wrong_values):
        told.append(f"the reasons: {run.error_log}")
    for text in told:
        log.info("%s", text)
    again = earlier_failures(run.error_log, why) if run.error_log and why else ""
    if run.reason:
        say(f"export_csv.py: the run stopped: {why}", sys.stderr)
    for text in told if status or not run.quiet else ():
        say(text, sys.stderr if run.dry or run.quiet else sys.stdout)
    if why:
        log.error("failed: %s", why)
    if not run.dry:
        where = f"on {socket.gethostname()}"
        head = f"Import {'stopped' if run.reason else 'ended'} {where}"
        notice = f"{head}: {run.reason}{again}" if run.reason else f"{head}{again}"
        notify(run.settings, ". ".join([notice, *told]), "red" if status else "green")
    return status


def earlier_failures(error_log: Path, why: str) -> str:
    """How many runs in a row have failed like this, by the last lines of their error logs."""
    alike = re.compile(re.sub(r"\d+", r"\\d+", re.escape(f"failed: {show(why)}")))
    since, count = "", 0
    for path in sorted(error_log.parent.glob("*_error.log"), reverse=True):
        if path.name < error_log.name:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 4096))
                last = file.read().decode(errors="replace").rstrip().rpartition("\n")[2]
            if not alike.search(last):
                break
            since, count = path.name.removesuffix("_error.log"), count + 1
    return f" (like the {count} runs before it, since {since})" if count else ""


#### The command line

EPILOG = """\
examples:
  python export_csv.py                      the newest file, as config.ini says
  python export_csv.py users_2026.csv       this file
  python export_csv.py --dry-run | head     what Intercom would get
  python export_csv.py --local not_imported/users_2026_2026-11-23T03-00-00.csv

exit status: 0 all rows are in Intercom, 1 the run stopped or rows were not imported, 2 wrong
arguments or settings, 3 another run is under way, 130 and 143 ended by Ctrl-C and SIGTERM
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="export_csv.py",
        description="Add or update the users of a CSV file in Intercom.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Path(__file__).resolve().parent / "config.ini"
    parser.add_argument("filename", nargs="?", help="the file, whatever [file] in config.ini says")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, default=default, help="instead of config.ini"
    )
    parser.add_argument("--local", action="store_true", help="read from disk, even with use_aws")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--dry-run", action="store_true", help="print the users, send nothing")
    either.add_argument("--check", action="store_true", help="say whether a run would work")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors, for cron")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    return parser.parse_args(argv)


@contextlib.contextmanager
def only_run(config: Path) -> Iterator[bool]:
    """Whether no other run uses this config; the lock dies with its process."""
    with config.open("rb") as file:
        try:
            if sys.platform == "win32":
                file.seek(2**30)  # a lock hides what it covers from others, so not the text
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            yield False
        else:
            yield True


def check(settings: Settings, problems: list[str], quiet: bool) -> int:
    """Say of settings, file, Intercom, Hipchat and Slack whether a run would work; 0 or 1."""
    if problems:
        for line in problems:
            say(line, sys.stderr)
        return 1
    intercom = Intercom(settings)

    def ask_settings() -> str:
        return "; ".join(["they are right", *(text for _, text in remarks(settings))])

    def ask_file() -> str:
        file = (open_s3 if settings.aws_use_aws else open_local)(settings)
        with file.content:
            map_columns(settings, open_sheet(file, settings).headings)
        return f"{file.name} is the one to import, and its headings fit"

    def ask_intercom() -> str:
        url = urlsplit(settings.intercom_user_url)
        answer = intercom.exchange("GET", f"{url.scheme}://{url.netloc}/me")
        if verdict(answer.status, by_id=False) is not Verdict.ACCEPTED:
            raise StopRun(f"{STOPS.get(answer.status, 'no use')} ({answer})")
        if settings.contacts:
            check_attributes(intercom, settings)
        return f"accepts the credentials of {answer.json().get('name')}"

    status = 0
    place = "S3" if settings.aws_use_aws else "File"
    for name, ask in (("Settings", ask_settings), (place, ask_file), ("Intercom", ask_intercom)):
        try:
            if not quiet:
                say(f"{name}: {ask()}", sys.stdout)
        except StopRun as error:
            status = 1
            say(f"{name}: {error}", sys.stderr)
    for name, used in (
        ("Hipchat", settings.hipchat_use_hipchat),
        ("Slack", settings.slack_use_slack),
    ):
        if not quiet:
            say(f"{name}: {'set up, not asked' if used else 'not used'}", sys.stdout)
    return status


def start(config: Path, arguments: argparse.Namespace) -> int:
    """Run with these settings, or say what is wrong with them; the exit status."""
    started = datetime.now()
    settings, found = read_settings(config, arguments)
    problems = [f"{config.name}: {where}: {text}" for where, text in found.items()]
    if arguments.check:
        return check(settings, problems, arguments.quiet)
    run = Run(settings, arguments.dry_run, arguments.quiet, started)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, run.on_signal)
    try:
        if not any(where.startswith("[log]") for where in found):
            run.error_log = open_logs(settings, started, screen=arguments.dry_run)
        if problems:
            return refuse(settings, problems, found, arguments.dry_run)
        if not run.dry:
            notify(
                settings, f"Import of users to Intercom started on {socket.gethostname()}", "yellow"
            )
        file = (open_s3 if settings.aws_use_aws else open_local)(settings)
        with file.content:
            import_file(file, run)
    except Interrupted as error:
        if run.deferred:
            raise
        run.stop(f"{signal.Signals(error.args[0]).name} ended it")
    except Exception as error:
        run.stop(error)
    return conclude(run)


def refuse(settings: Settings, problems: list[str], where: Iterable[str], dry: bool) -> int:
    """Say what is wrong with the settings, also to those of Hipchat and Slack that are right."""
    for line in problems:
        log.error("%s", line)
        say(line, sys.stderr)
    wrong = " ".join(where)
    able = settings._replace(
        hipchat_use_hipchat=settings.hipchat_use_hipchat and "[hipchat]" not in wrong,
        slack_use_slack=settings.slack_use_slack and "[slack]" not in wrong,
    )
    if not dry:
        text = f"Import not started on {socket.gethostname()}, the settings are wrong"
        notify(able, f"{text}: {'; '.join(problems)}", "red")
    return 2


def main(argv: list[str] | None = None) -> int:
    """Lock the config, so that no two runs send the same users, and run; the exit status."""
    arguments = parse_arguments(argv)
    config: Path = arguments.config
    logging.getLogger().addHandler(logging.NullHandler())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if arguments.check or arguments.dry_run:
            return start(config, arguments)
        with only_run(config) as alone:
            if alone:
                return start(config, arguments)
            say(f"export_csv.py: another run with {config} is under way", sys.stderr)
            return 3
    except OSError as error:
        say(f"export_csv.py: {config} can't be read: {error.strerror}; see --config", sys.stderr)
        return 2
    except KeyboardInterrupt as error:  # the second one, or before there is anything to end
        return 128 + (error.args[0] if error.args else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
