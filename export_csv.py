#!/usr/bin/env python3
"""Add or update the users of a CSV file in Intercom, one request a user.

Run by hand or by cron; every setting stands in config.ini and is explained there. The chapters
follow a run, down to `main` at the end: read it from top to bottom.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # until a run begins, Ctrl-C has nothing to wait for
    CTRL_C = b"export_csv.py: ended by Ctrl-C\n"
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, CTRL_C) and 130))

import argparse
import base64
import codecs
import contextlib
import csv
import difflib
import email.utils
import errno
import gzip
import hashlib
import http.client
import io
import itertools
import json
import logging
import math
import queue
import re
import shutil
import socket
import sqlite3
import stat
import tempfile
import threading
import time
import unicodedata
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TextIO
from urllib.parse import quote, quote_plus, unquote, urlencode, urlsplit

INSTALL = "run `sh installboto.sh` (Windows: installboto.bat), then start it with .venv's python"
try:
    import dotenv.parser
    import requests.adapters
    import urllib3.connection
except ImportError as error:
    sys.exit(f"export_csv.py: the package {error.name} is missing: {INSTALL}")
if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

VERSION = "1.1.0"
# Exit statuses; a run that a signal ended has 128 + its number.
COMPLETE, INCOMPLETE, WRONG_SETTINGS, UNDER_WAY = 0, 1, 2, 3
POLL = 0.1  # seconds between two looks for a signal, or at what a thread is doing
STOPPED = "the run stopped"
log = logging.getLogger("export_csv")


class StopRun(Exception):
    """What ends the run: its text says why, and where it can, what to do."""


class RowError(Exception):
    """Why one row can't be imported: a kind, which many rows may share, and this row's detail."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(detail or kind)
        self.kind = kind


#### What may be seen

secrets: list[str] = []  # in each form in which they may turn up


def mask(secret: str) -> None:
    """Never show `secret` again: as it is, escaped, percent-encoded or in base64."""
    for text in {secret, re.sub(r"^\w+://[^/]*", "", secret)}:  # of a URL, its path as well
        as_json, encoded = json.dumps(text)[1:-1], base64.b64encode(text.encode()).decode()
        forms = {text, as_json, as_json.replace("/", "\\/"), repr(text)[1:-1], encoded}
        forms |= {quote(text), quote(text, ""), quote_plus(text)}
        secrets.extend(forms - {"", "/"})
    secrets.sort(key=len, reverse=True)


def redact(text: object) -> str:
    """`text` as it may be seen: without secrets, control characters as escapes."""
    seen = str(text)
    if "://" in seen:
        seen = re.sub(r"://[^/\s@]*@", "://***@", seen)
    for secret in secrets:
        if secret in seen:
            # One of a few letters is only a secret where it stands alone.
            word = r"(?<!\w){}(?!\w)" if len(secret) < 8 else "{}"
            seen = re.sub(word.format(re.escape(secret)), "***", seen)
    if seen.isprintable():
        return seen
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in seen)


def root_cause(error: BaseException) -> str:
    """The error at the bottom, without the URLs in the texts of those above it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {error}"


def unforeseen(error: Exception) -> str:
    """What to tell of an error that no line of the program expects; the traceback is logged."""
    log.debug("the traceback", exc_info=error)
    return f"an error that nobody foresaw, {root_cause(error)}"


def counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


#### Intercom's vocabulary

Value = str | int | float | bool
User = dict[str, Any]
MAX_ATTRIBUTES, MAX_ATTRIBUTE_NAME, MAX_ATTRIBUTE_TEXT = 250, 190, 255
FIELDS = {  # columns are sent in this order: another one changes every digest
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
# Fields of Intercom's that are left alone, and no misspellings of those above.
UNSENT = ("phone", "avatar", "owner_id", "role", "external_id", "last_seen_at", "companies", "tags")
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


#### What a cell means

# Unicode's white space, and what has no width: marks of order and of direction, joiners, fillers.
SPACES = filter(str.isspace, map(chr, range(0x3001)))
UNSEEN = [0, 0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180E, *range(0x200B, 0x2010)]
UNSEEN += [*range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164, 0xFEFF, 0xFFA0]
BLANKS = "".join([*SPACES, *map(chr, UNSEEN)])
GUARDED = re.compile('="((?:[^"]|"")*)"')
BOOLEANS = dict.fromkeys(("true", "t", "yes", "y", "on", "1", "1.0"), True)
BOOLEANS |= dict.fromkeys(("false", "f", "no", "n", "off", "0", "0.0"), False)
ISO_8601 = re.compile(
    r"(\d{4})(-?)(\d\d)\2(\d\d)(?:[Tt ](\d?\d(?=:)|\d\d):?(\d\d)(?::?(\d\d)(?:[.,]\d+)?)?"
    r"(?: ?((?i:Z|UTC|GMT)|([+-]\d\d):?([0-5]\d)?))?)?",
    re.ASCII,
)
# The shapes of it that datetime reads by itself, on every Python.
USUAL = re.compile(r"(?!0000)\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d([+-]\d\d:\d\d)?)?", re.ASCII)
# What spreadsheets and data frames make of a long id, of a whole number, or of a lost cell.
REWRITTEN = re.compile(
    r"[+-]?\d+([.,]\d+)?[eE][+-]\d+|[+-]?\d+[.,]0+"
    r"|#(N/A|REF!|VALUE!|NAME\?|DIV/0!|NUM!|NULL!)|#{3,}"
)
DATE_IN_DIGITS = re.compile(r"(19|20|21)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\d{4}|\d{6})?")
TEN_DIGITS = re.compile("[1-6][0-9]{9}")
SECONDS = re.compile(r"([+-]?[0-9]+)(?:[.,][0-9]*)?")
EARLIEST, LATEST = -2_208_988_800, 7_289_654_399  # UNIX seconds: the years from 1900 to 2200
MILLISECONDS = 10**11  # as UNIX seconds, this is the year 5138
NO_DATE = "a date that means none: before 1900, after 2200, or 1970-01-01T00:00Z"
LAST_SERIAL = 109_938  # a spreadsheet's number of the end of 2200, in days


def clean(cell: str) -> str:
    """The cell without what nobody sees at its ends, and without a spreadsheet's ="..."."""
    cell = cell.strip(BLANKS)
    guarded = GUARDED.fullmatch(cell)
    return guarded[1].replace('""', '"').strip(BLANKS) if guarded else cell


def normal(heading: str) -> str:
    """The heading by which two that look the same are the same."""
    seen = clean(heading).translate(dict.fromkeys(UNSEEN))
    return " ".join(unicodedata.normalize("NFC", seen).split())


def to_identity(cell: str) -> str:
    """The cell; RowError where a tool has rewritten it, so that it names nobody, or another."""
    if REWRITTEN.fullmatch(cell):
        detail = f"{cell!r} is no id any more: a spreadsheet or a data frame has rewritten it"
        raise RowError("an id that a tool has rewritten", f"{detail}; export ids as text")
    return cell


def to_attribute_text(cell: str, **_: Any) -> str:
    """The cell; ValueError where it is longer than a custom attribute may be."""
    if len(cell) > MAX_ATTRIBUTE_TEXT:
        raise ValueError(f"{len(cell)} characters, where Intercom takes {MAX_ATTRIBUTE_TEXT}")
    return cell


def to_integer(cell: str, decimal: str, **_: Any) -> int:
    """`12`, also `12.0` as spreadsheets write it, but not `1.000`; ValueError otherwise."""
    whole = re.fullmatch(rf"([+-]?[0-9]+)(?:[.{decimal}](?!000$)0*)?", cell)
    if not whole:
        raise ValueError("not a whole number")
    return int(whole[1])


def to_float(cell: str, decimal: str, **_: Any) -> float:
    """A finite number, whose thousands may stand in groups; ValueError otherwise."""
    group = "," if decimal == "." else "."
    digits = rf"(?:[0-9]*|[1-9][0-9]{{0,2}}(?:[{group}][0-9]{{3}})+)"
    is_number = re.fullmatch(rf"[+-]?{digits}(?:[{decimal}][0-9]*)?(?:[eE][+-]?[0-9]+)?", cell)
    with contextlib.suppress(ValueError):  # there may be no digit at all
        value = float(cell.replace(group, "").replace(decimal, ".")) if is_number else math.nan
        if math.isfinite(value):
            return value
    raise ValueError(f"not a finite number with {decimal} before its decimals")


def to_boolean(cell: str, **_: Any) -> bool:
    """One of the words of BOOLEANS, in any case; ValueError otherwise."""
    if cell.lower() not in BOOLEANS:
        raise ValueError("not one of true/false, t/f, yes/no, y/n, on/off, 1/0")
    return BOOLEANS[cell.lower()]


def to_opposite(cell: str, **_: Any) -> bool:
    """For a column that says the contrary, such as one of who still subscribes to e-mails."""
    return not to_boolean(cell)


def to_timestamp(cell: str, zone: tzinfo, form: str, **_: Any) -> int:
    """UNIX seconds of a number of seconds, an ISO 8601 date, or a date in strptime's `form`.

    `zone` is that of dates that name none. ValueError says what the cell is instead.
    """
    if not form and TEN_DIGITS.fullmatch(cell):
        return int(cell)  # as nearly always, where it is a number
    moment = None
    if form:
        moment = datetime.strptime(cell, form)
    elif USUAL.fullmatch(cell):
        moment = datetime.fromisoformat(cell)
    elif not cell.isdecimal() and (iso := ISO_8601.fullmatch(cell)):
        moment = from_iso(iso)
    if moment:
        seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp())
    else:
        seconds = to_seconds(cell)
    if not EARLIEST <= seconds <= LATEST or seconds in (0, -1):
        raise ValueError(NO_DATE)
    return seconds


def from_iso(iso: re.Match[str]) -> datetime:
    """The moment that a match of ISO_8601 names, also with what datetime doesn't read by itself."""
    year, _, month, day, hour, minute, second, zulu, hours, minutes = iso.groups("00")
    if year == "0000":
        raise ValueError(NO_DATE)
    offset = "" if zulu == "00" else "+00:00" if hours == "00" else f"{hours}:{minutes}"
    return datetime.fromisoformat(f"{year}-{month}-{day}T{hour:0>2}:{minute}:{second}{offset}")


def to_seconds(cell: str) -> int:
    """A number of UNIX seconds, without its decimals; ValueError says what it is instead."""
    number = SECONDS.fullmatch(cell)
    if not number:
        raise ValueError("neither UNIX seconds nor an ISO 8601 date")
    seconds = int(number[1][:25])
    for is_so, what in (
        (DATE_IN_DIGITS.fullmatch(number[1]), "a date without its dashes"),
        (abs(seconds) >= MILLISECONDS, "in milliseconds, where Intercom takes seconds"),
        (1900 <= seconds <= 2200, "a year"),
        (0 < seconds <= LAST_SERIAL, "a spreadsheet's serial number of a date"),
    ):
        if is_so:
            raise ValueError(what)
    return seconds


class CellType(NamedTuple):
    """What config.ini can say that a column's cells are."""

    convert: Callable[..., Value]  # is given decimal, zone and form, and takes what it needs
    taken_by: tuple[str, ...]  # types of Intercom's attributes; the first is the one to make
    advice: str  # for a column without such a cell


TYPES = {
    "string": CellType(to_attribute_text, ("string",), "shorten it, or leave it out"),
    "integer": CellType(
        to_integer, ("integer", "float"), "export whole numbers, or write : string"
    ),
    "float": CellType(to_float, ("float",), "export numbers such as 12.5, or write : string"),
    "boolean": CellType(to_boolean, ("boolean",), "export true or false"),
    "not boolean": CellType(to_opposite, ("boolean",), "export true or false"),
    "timestamp": CellType(to_timestamp, ("date", "datetime"), "export dates such as 2026-11-24"),
}


def converter(type_name: str, decimal: str, zone: tzinfo, form: str = "") -> Callable[[str], Value]:
    """What turns a cell into a value of this type; the last cells are remembered."""
    convert = partial(TYPES[type_name].convert, decimal=decimal, zone=zone, form=form)
    return lru_cache(2**12)(convert)


#### What can be set


@dataclass(slots=True, eq=False)
class Source:
    """What fills a field or a custom attribute: the cell below a heading, or a constant."""

    name: str
    text: str  # the heading, or the constant
    type: str  # a key of TYPES
    form: str  # of a timestamp, as strptime has it; blank: ISO 8601
    is_attribute: bool
    convert: Callable[[str], Value]
    is_constant: bool = False
    value: Value | None = None  # of a constant that is not blank
    column: int = -1  # from when the headings are known

    def __str__(self) -> str:
        return f"{self.type} {self.form}".rstrip()


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
    file_max_age_hours: float = math.inf
    file_name: str = ""
    csv_delimiter: str = ","
    csv_encoding: str = "utf-8"
    csv_headings: str = ""
    csv_decimal: str = "."
    csv_empty: str = ""
    csv_timezone: str = "UTC"
    csv_min_rows: int = 1
    csv_not_imported_folder: str = "not_imported"
    intercom_api_id: str = ""
    intercom_api_key: str = ""
    intercom_access_token: str = ""
    intercom_user_url: str = "https://api.intercom.io/users"
    intercom_api_version: str = ""
    intercom_timeout: float = 30.0  # between two tries; no socket's
    intercom_retries: int = 50
    intercom_concurrency: int = 1
    intercom_skip_unchanged: bool = False
    intercom_state_file: str = ""  # until it is known where the config file lies
    intercom_unarchive: bool = False
    intercom_create_attributes: bool = False
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
    log_keep_days: float = math.inf
    # What follows is no key of its own, and so has no underscore.
    zone: tzinfo = timezone.utc  # of csv_timezone
    sources: tuple[Source, ...] = ()  # of [user] and [custom_attributes]
    discarded: tuple[str, ...] = ()  # places in [user] of what is not among the fields sent

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


KEYS = {name: default for name, default in Settings._field_defaults.items() if "_" in name}
SECRETS = {  # and what wins over them: variables of the environment, or of .env
    "intercom_api_id": "INTERCOM_API_ID",
    "intercom_api_key": "INTERCOM_API_KEY",
    "intercom_access_token": "INTERCOM_ACCESS_TOKEN",
    "hipchat_api_key": "HIPCHAT_API_KEY",
    "slack_webhook_url": "SLACK_WEBHOOK_URL",
    "aws_access_key": "AWS_ACCESS_KEY_ID",
    "aws_secret_key": "AWS_SECRET_ACCESS_KEY",
}
# Where a secret is easily pasted by mistake, what is refused isn't shown either.
NEVER_SHOWN = {*SECRETS, "slack_channel", "intercom_api_version", "intercom_timeout"}
URL = r"(https://(?=[^/])|http://(localhost|127(\.\d+){3}|\[::1\])(?=[:/]))[^\s@?#]*"
URL_FORM = "an https:// URL (http:// only on this machine) without name or password"
# What a value has to look like, and how that is said behind "write".
FORMS = dict.fromkeys(SECRETS, ("[!-~]*", "it anew: no key holds such a character")) | {
    "aws_bucket": (r"(?!s3:)\S+", "the name alone, without s3://"),
    "aws_endpoint_url": (r"https?://[^/\s]\S*", "a URL such as https://host"),
    "csv_delimiter": ('tab|[^"\r\n]', "one character, or the word tab"),
    "csv_decimal": ("[.,]", ". or ,"),
    "intercom_user_url": (URL + "/(users|contacts)", URL_FORM + ", ending in /users or /contacts"),
    "intercom_api_version": (r"[0-9]+\.[0-9]+", "a version such as 1.4 or 2.14"),
    "intercom_concurrency": ("[1-9][0-9]{0,2}", "a whole number from 1 to 999"),
    "hipchat_from": ("[A-Za-z0-9 _-]{1,15}", "1 to 15 letters, digits, spaces, - or _"),
    "hipchat_api_url": (URL, URL_FORM),
    "slack_webhook_url": (URL, URL_FORM),
    "slack_channel": ("[#@].+", "#channel or @user"),
}
TYPE_FORMS = {
    bool: ("(?i)true|t|yes|y|on|1|false|f|no|n|off|0", "true or false"),
    int: (r"[0-9]{1,9}", "a whole number such as 50"),
    float: (r"[0-9]{1,9}(\.[0-9]*)?", "a number such as 30"),
    str: (".*", ""),
}
NEEDED = ("aws_bucket", "hipchat_api_key", "hipchat_room_id", "slack_webhook_url")
CONSTANT = re.compile("'(.*)'")  # in single quotes, where otherwise a heading stands
TYPE_NAMES = "|".join(TYPES).replace(" ", r"\s+")
TYPED = re.compile(rf"(.*):\s*(?:((?i:{TYPE_NAMES}))|(?i:timestamp)\s+(\S.*))")
OTHER_TYPES = ("number", "int", "decimal", "double", "bool", "date", "datetime", "text", "str")


#### Reading the settings


# Text by section and key, and its place as it may be shown: [section] key, or where that could be
# a misplaced secret, its line alone. A blank key is the section itself.
Entries = dict[tuple[str, str], tuple[str, str]]


def parse_config(path: Path, problems: dict[str, str]) -> Entries:
    """The file's entries by the rules of configparser, which would end with its first problem."""
    entries: Entries = {}
    text = path.read_bytes().decode("utf-8-sig", "replace")
    if "\N{REPLACEMENT CHARACTER}" in text:
        problems["encoding"] = "the file is not UTF-8; save it as UTF-8"
        text = "" if "\0" in text else text  # UTF-16: each line would be a problem
    section, place, depth = "", "", math.inf
    for number, raw in enumerate(text.split("\n"), 1):
        line, indent = raw.replace("\0", "").strip(), len(raw) - len(raw.lstrip())
        header = re.fullmatch(r"\[(.+)\]", line)
        key, equals, value = map(str.strip, line.partition("="))
        section, key = (header[1], "") if header else (section, key)
        # What is no entry of its own.
        where, problem = f"line {number}", ""
        if "\0" in raw:
            problem = "holds a NUL character; write the line anew"
        elif not line or line[0] in "#;":
            depth = math.inf  # a value goes on in the lines directly below it, further in
        elif indent > depth:
            where, problem = place, f"goes on in line {number}; write it on one line"
        elif not (header or (section and key and equals and line[0] != "[")):
            problem = "is not `key = value` below a [section]; write it so"
        else:
            # An entry, and the place by which it may be named.
            is_safe = all(re.fullmatch("[a-z0-9_]{0,30}", word) for word in (section, key))
            place = f"[{section}] {key}".rstrip() if is_safe else where
            depth = math.inf if header else indent
            if (section, key) in entries:
                where = entries[section, key][1]
                problem = f"stands there twice, again in line {number}; write it once"
            entries[section, key] = re.sub('^"([^"]*)"$', r"\1", value), place
        if problem:
            problems[where] = problem
    return entries


def load_dotenv(path: Path, problems: dict[str, str]) -> None:
    """Put what .env defines into the environment, where the environment doesn't define it."""
    try:
        if path.exists() and not path.is_file():
            raise OSError  # a pipe would hang the run
        text = path.read_text("utf-8-sig") if path.exists() else ""
    except (OSError, UnicodeDecodeError):
        problems[".env"] = "can't be read; make it a file in UTF-8 that this account may read"
        return
    for binding in dotenv.parser.parse_stream(io.StringIO(text)):
        if binding.error or re.search("[\0=]", binding.key or "") or "\0" in (binding.value or ""):
            original = binding.original.string
            blank_lines = original[: len(original) - len(original.lstrip())].count("\n")
            line = binding.original.line + blank_lines
            problems[f".env, line {line}"] = "is not NAME=value; write it so"
        elif binding.key and binding.value is not None:
            os.environ.setdefault(binding.key, binding.value)


def orders_times(form: str) -> bool:
    """Whether strptime's `form` tells which of two times is newer: it has a year, and no part
    without the next larger one, as an hour without its day, or %I without %p."""
    moments = [datetime(2025, 11, 23, 22, 47, 38, 123456, timezone.utc)]
    for part in ("microsecond", "second", "minute", "hour", "day", "month"):
        least: dict[str, Any] = {part: 1 if part in ("day", "month") else 0}
        moments.append(moments[-1].replace(**least))
    try:  # a form with an hour and no day is read as some other day
        written = format(moments[0], form)
        read = datetime.strptime(written, form).replace(tzinfo=timezone.utc)
    except (ValueError, re.error):
        return False
    return read in moments and format(read, form) == written


def find_zone(name: str) -> tzinfo | None:
    """The zone of IANA's list, by the system or, where it has none (Windows), by dateutil's."""
    import zoneinfo

    if name.upper() in ("UTC", "GMT"):
        return timezone.utc
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        from dateutil.zoneinfo import get_zonefile_instance

        zone: tzinfo | None = get_zonefile_instance().get(name)
        return zone


def is_valid(action: Callable[..., object], *arguments: object) -> bool:
    """Whether a library takes what it is given."""
    try:
        action(*arguments)
    except (ValueError, LookupError, requests.RequestException):
        return False
    return True


def read_keys(entries: Entries, problems: dict[str, str]) -> dict[str, Any]:
    """The settings that file and environment give, taken out of the entries, so that what nobody
    takes is unknown; what is wrong with one is a problem."""
    given: dict[str, Any] = {}
    for name, default in KEYS.items():
        section, key = name.split("_", 1)
        text = entries.pop((section, key), ("", ""))[0]
        if name.endswith(("_folder", "_file")) and name != "aws_folder":
            text = os.path.expanduser(text)  # noqa: PTH111 - which lets an unknown ~user be
        if name in SECRETS:
            text = os.environ.get(SECRETS[name]) or text
            mask(text)
        value_type: Any = type(default)
        pattern, form = FORMS.get(name, TYPE_FORMS[value_type])
        if text and re.fullmatch(pattern, text):
            given[name] = to_boolean(text) if value_type is bool else value_type(text)
        elif text:
            is_url = name.endswith("_url") or "://" in text  # which may hold a password
            is_shown = name not in NEVER_SHOWN and not is_url and len(text) <= 20
            wrong = f"is {text!r}; " if is_shown else ""
            problems[f"[{section}] {key}"] = f"{wrong}write {form}"
    return {**KEYS, **given}


def split_type(text: str, own: str) -> tuple[str, str, str]:
    """The heading or constant in `text`, the type behind it, `own` where there is none, and its
    format; ValueError where one is unknown."""
    # What follows the last colon that a type follows is the type.
    typed = None if CONSTANT.fullmatch(text) else TYPED.fullmatch(text)
    if not typed:
        word = re.search(r"\s:\s*(\w+)$", text)
        if word and (word[1].lower() in OTHER_TYPES or nearest(word[1], TYPES, 1, 0.75)):
            known = f"{', '.join(TYPES)}, timestamp FORMAT"
            raise ValueError(f"unknown type {word[1]}; write one of {known}")
        return text, own, ""
    type_name, form = " ".join((typed[2] or "timestamp").lower().split()), typed[3] or ""
    if form and not orders_times(form):
        wrong = repr(form[:20])
        raise ValueError(f"the format {wrong} names no full date; write one such as %d/%m/%Y")
    return typed[1].strip(), type_name, form


def read_source(name: str, text: str, is_attribute: bool, decimal: str, zone: tzinfo) -> Source:
    """What `name = text` of [user] or [custom_attributes] means; ValueError says what is wrong."""
    if is_attribute and not re.fullmatch(f"[^.$]{{1,{MAX_ATTRIBUTE_NAME}}}", name):
        raise ValueError(f"rename it: no . or $, at most {MAX_ATTRIBUTE_NAME} characters")
    own = "string" if is_attribute else FIELDS[name]
    text, type_name, form = split_type(text, own)
    if not is_attribute and type_name.removeprefix("not ") != own:
        type_text = f"{type_name} {form}".rstrip()
        raise ValueError(
            f"is sent as {own}, so that the type {type_text} doesn't fit; leave it out"
        )
    if is_attribute or own != "string":
        convert = converter(type_name, decimal, zone, form)
    else:  # of any length, unlike an attribute's
        convert = to_identity if name in IDENTITY else str
    text = re.sub('^"([^"]*)"$', r"\1", text)
    constant = CONSTANT.fullmatch(text)
    source = Source(name, normal(text), type_name, form, is_attribute, convert, bool(constant))
    if constant:
        source.text, cell = constant[1], clean(constant[1])
        try:
            source.value = convert(cell) if cell else None
        except (ValueError, RowError) as error:
            raise ValueError(f"the constant {text}: {error}; write one that fits") from None
    return source


def read_sources(
    entries: Entries, problems: dict[str, str], decimal: str, zone: tzinfo
) -> tuple[Source, ...]:
    """What [user] and [custom_attributes] give, taken out of the entries; what is wrong with one is
    a problem. Their order is not the file's, so that it changes nothing of what is sent."""
    sources = []
    keys = [("user", name) for name in FIELDS]
    keys += sorted(key for key in entries if key[0] == "custom_attributes" and key[1])
    for section, name in keys:
        text = entries.pop((section, name), ("", ""))[0]
        try:
            if text:
                sources.append(read_source(name, text, section != "user", decimal, zone))
        except ValueError as error:
            problems[f"[{section}] {name}"] = str(error)
    return tuple(sources)


def nearest(name: str, known: Iterable[str], most: int = 1, at_least: float = 0.0) -> str:
    """The names of `known` that are spelt most like `name`, case aside; blank where none is."""
    spelt = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), spelt, most, at_least)
    return ", ".join(spelt[match] for match in matches)


def name_unknown(entries: Entries, problems: dict[str, str]) -> tuple[str, ...]:
    """Whatever nobody has taken is misspelt, and a problem; but the places of those keys in [user]
    that are like no field, or other fields of Intercom's, which are discarded."""
    sections: dict[str, list[str]] = {"user": [*FIELDS], "custom_attributes": []}
    for section, key in (name.split("_", 1) for name in KEYS):
        sections.setdefault(section, []).append(key)
    discarded = []
    for (section, key), (_, place) in entries.items():
        near = nearest(key, sections.get(section, ()), 1, 0.75 if section == "user" else 0.0)
        if section not in sections and not key:
            problems.setdefault(place, f"unknown section; write [{nearest(section, sections)}]?")
        elif section == "user" and key and (key in UNSENT or not near):
            discarded.append(place)
        elif section in sections and key:
            problems.setdefault(place, f"unknown key; write {near}?")
    return tuple(discarded)


def read_settings(path: Path, arguments: argparse.Namespace) -> tuple[Settings, dict[str, str]]:
    """The settings of command line, environment, .env and file, and what is wrong with them."""
    problems: dict[str, str] = {}
    entries = parse_config(path, problems)
    load_dotenv(path.parent / ".env", problems)
    given = read_keys(entries, problems)
    zone = given["zone"] = find_zone(given["csv_timezone"]) or timezone.utc
    beside = str(path.absolute().parent / "sent_users.sqlite3")
    given["intercom_state_file"] = given["intercom_state_file"] or beside
    given["sources"] = read_sources(entries, problems, given["csv_decimal"], zone)
    given["discarded"] = name_unknown(entries, problems)
    given |= {"aws_use_aws": False} if arguments.local else {}
    if arguments.filename:
        given |= {"file_select_latest": False, "file_name": arguments.filename}
    settings = Settings(**given)
    mask_passwords(settings)
    for is_wrong, where, text in wrong_values(settings, arguments.dry_run):
        if is_wrong:
            problems.setdefault(where, text)
    return settings, problems


def mask_passwords(settings: Settings) -> None:
    """Mask the secrets that no key holds by itself: those inside URLs, and those of boto3."""
    if settings.intercom_api_key:
        mask(f"{settings.intercom_api_id}:{settings.intercom_api_key}")
    mask(os.environ.get("AWS_SESSION_TOKEN", ""))
    urls = [text for name, text in os.environ.items() if name.startswith("AWS_ENDPOINT_URL")]
    urls += [settings.aws_endpoint_url, settings.intercom_user_url, settings.hipchat_api_url]
    for url in [*urls, *urllib.request.getproxies().values()]:
        if credentials := re.match(r"(?:\w+://)?([^:/]*):(.+)@", url):
            user, password = map(unquote, credentials.groups())
            for secret in (credentials[2], password, f"{user}:{password}"):
                mask(secret)


def wrong_values(s: Settings, dry_run: bool) -> Iterator[tuple[bool, str, str]]:
    """What can be wrong with values that fit their form: whether it is, where, what to write."""
    # The services and the file.
    for section, key in (name.split("_", 1) for name in NEEDED):
        is_used = getattr(s, f"{section}_use_{section}") and (section == "aws" or not dry_run)
        bad = is_used and not getattr(s, f"{section}_{key}")
        yield bad, f"[{section}] {key}", f"is blank; write it, or use_{section} = false"
    bad = s.aws_use_aws and bool(s.aws_access_key) != bool(s.aws_secret_key)
    key = "secret_key" if s.aws_access_key else "access_key"
    yield bad, f"[aws] {key}", "is blank; write both keys, or none for boto3's own chain"
    bad = not s.file_select_latest and not s.file_name
    yield bad, "[file] name", "is blank; name the file, or write select_latest = true"
    bad = s.file_select_latest and not orders_times(s.file_time_format)
    text = f"is {s.file_time_format[:40]!r}, which doesn't tell which of two files is newer; "
    yield bad, "[file] time_format", text + "write one such as %Y-%m-%dT%H-%M-%S"
    bad = not is_valid(io.TextIOWrapper, io.BytesIO(), s.csv_encoding)
    yield bad, "[csv] encoding", f"is {s.csv_encoding[:20]!r}; write one such as utf-8 or cp1252"
    text = f"is {s.csv_timezone[:20]!r}; write a name of IANA's list, such as Europe/Berlin"
    yield not find_zone(s.csv_timezone), "[csv] timezone", text
    # Intercom: credentials, URLs, and what is mapped.
    key = "api_key" if s.intercom_api_id else "api_id" if s.intercom_api_key else "access_token"
    bad = not (s.intercom_access_token or dry_run or (s.intercom_api_id and s.intercom_api_key))
    text = f"is blank; write it here, or in .env as {SECRETS[f'intercom_{key}']}=..."
    yield bad, f"[intercom] {key}", text
    for name in ("intercom_user_url", "hipchat_api_url", "slack_webhook_url"):
        url, place = getattr(s, name), "[{}] {}".format(*name.split("_", 1))
        bad = bool(url) and not is_valid(requests.Request("GET", url).prepare)
        yield bad, place, f"is no URL; write {URL_FORM}"
    names = [source.name for source in s.sources if not source.is_attribute]
    bad = bool(names or s.discarded) and not set(names) & set(IDENTITY)
    yield bad, "[user]", "names no identity; write user_id, email or id"
    bad = len(s.sources) - len(names) > MAX_ATTRIBUTES
    yield bad, "[custom_attributes]", f"has more than {MAX_ATTRIBUTES} keys; leave some out"
    # The environment.
    for scheme in ("http", "https", "all"):
        proxy = urllib.request.getproxies().get(scheme, "http://none")
        url = proxy if "://" in proxy else f"http://{proxy}"
        bad = not (is_valid(urllib3.util.parse_url, url) and urllib3.util.parse_url(url).host)
        yield bad, f"{scheme.upper()}_PROXY", "is no URL; mend that variable of the environment"


#### Finding the file

MAX_SILENCE = 120  # seconds in which S3 has to send another page or piece
S3_ERRORS = {
    "NoSuchBucket": "there is no such bucket; see [aws] bucket",
    "NoSuchKey": "there is no such file; see [aws] folder, or use --local for one on disk",
    "AccessDenied": "the keys may not do this: they need s3:ListBucket and s3:GetObject there",
    "InvalidAccessKeyId": "S3 doesn't know the key; see [aws] access_key",
    "SignatureDoesNotMatch": "the secret is wrong; see [aws] secret_key",
    "NoCredentialsError": "there are no credentials; see [aws] access_key and secret_key",
    "CredentialRetrievalError": "boto3 can't get credentials; see the profile's credential_process",
}


class CsvFile(NamedTuple):
    """The file that a run imports, whose bytes can be read more than once."""

    name: str
    path: str  # in full, for those who look for it
    content: IO[bytes]
    state: os.stat_result  # from when it was opened
    written: datetime  # the time in its name, otherwise that of its last change

    def open(self) -> io.BufferedReader[Any] | gzip.GzipFile:
        """The bytes of the CSV from the start, unpacked where it is a .gz."""
        content = io.BufferedReader(FrozenFile(self), 2**16)
        return Unpacked(fileobj=content) if self.name.lower().endswith(".gz") else content

    def check(self) -> None:
        """StopRun where the file isn't any more as it was."""
        now = os.fstat(self.content.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.state.st_size, self.state.st_mtime_ns):
            raise StopRun("the file changed after it was looked at (size or time); run it again")


class FrozenFile(io.FileIO):
    """The bytes of a file that is to stay as it is, from the start."""

    def __init__(self, file: CsvFile) -> None:
        super().__init__(file.content.fileno(), closefd=False)
        self.check = file.check
        self.seek(0)

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self.check()
        return count


class Unpacked(gzip.GzipFile):
    """What a .gz has packed, in all of its members; what stands behind the last is ignored."""

    has_rest = False

    def read1(self, size: int = -1) -> bytes:
        try:
            return super().read1(size)
        except gzip.BadGzipFile as error:
            if not (self.tell() and "Not a gzipped file" in str(error)):
                raise
            self.has_rest = True
            return b""


def stem(name: str) -> str:
    """A file's name without .csv or .csv.gz; blank where it has neither."""
    match = re.fullmatch(r"(?is)(.*)\.csv(\.gz)?", name)
    return match[1] if match else ""


def newest(names: Iterable[str], time_format: str, place: str) -> tuple[datetime, str]:
    """The latest time stamp and its name; StopRun with an example where none has one."""
    stamped, others = [], []
    for name in names:
        try:
            stamped.append((datetime.strptime(stem(name), time_format), name))
        except ValueError:
            others.append(name)
            log.debug("%s is skipped: it doesn't fit [file] time_format", name)
    if stamped:
        return max(stamped)
    like = f"that fits [file] time_format, such as {datetime.now():{time_format}}.csv"
    near = max(others, key=lambda name: (bool(stem(name)), name), default="")
    raise StopRun(f"{place} holds no file {like}{f'; one that is there: {near!r}' if near else ''}")


def open_file(settings: Settings) -> CsvFile:
    """The file that is named, or the newest; StopRun where there is none, or it can't be read."""
    if settings.aws_use_aws:
        return open_s3(settings)
    folder = Path(settings.local_folder).absolute()
    name, written = settings.file_name, None
    try:
        if settings.file_select_latest:
            # Path's is_file, unlike an entry's, takes a loop of links for no file.
            files = [entry.name for entry in os.scandir(folder) if Path(entry).is_file()]
            written, name = newest(files, settings.file_time_format, f"the folder {folder}")
        path = folder / name if (folder / name).exists() else Path(name).absolute()
        content: IO[bytes] = path.open("rb")
        status = os.fstat(content.fileno())
        if not stat.S_ISREG(status.st_mode):  # a pipe can't be read twice
            pipe, content = content, tempfile.TemporaryFile(dir=settings.aws_tmp_folder or None)
            shutil.copyfileobj(pipe, content)
            content.flush()
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the name
        tried = folder if settings.file_select_latest else f"{name}, here or in {folder},"
        reason = getattr(error, "strerror", None) or error
        raise StopRun(f"{tried} can't be read: {reason}; see [local] folder") from None
    written = written or datetime.fromtimestamp(status.st_mtime, timezone.utc)
    return CsvFile(path.name, str(path), content, os.fstat(content.fileno()), written)


def in_time(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What the call returns, in a thread that is left behind where it takes longer than
    MAX_SILENCE: nothing else ends a server that sends a byte now and then. StopRun then."""
    future: futures.Future[Any] = futures.Future()

    def work() -> None:
        try:
            future.set_result(call(*arguments, **options))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    for _ in range(math.ceil(MAX_SILENCE / POLL)):  # Windows' Ctrl-C comes between two waits
        if futures.wait([future], POLL).done:
            return future.result()
    raise StopRun(f"S3 has sent nothing of use for {MAX_SILENCE:.3g} seconds; try again later")


def open_s3(settings: Settings) -> CsvFile:
    """A whole copy of the object that is named, or of the newest, in a file without a name,
    of which not even kill -9 leaves anything.

    Only immediate children of the folder are listed: see Delimiter in
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise StopRun(f"the package {error.name} is missing: {INSTALL}") from None
    bucket, name, written = settings.aws_bucket, settings.file_name, None
    own_key, token = map(os.environ.get, ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"))
    folder = f"{settings.aws_folder.strip('/')}/".lstrip("/")
    place = f"s3://{bucket}/{folder}"
    try:
        # Keys of config.ini go with a session token only where they are the environment's own.
        client = in_time(
            boto3.client,
            "s3",
            aws_access_key_id=settings.aws_access_key or None,
            aws_secret_access_key=settings.aws_secret_key or None,
            aws_session_token=token if settings.aws_access_key == own_key else None,
            region_name=settings.aws_region or None,
            endpoint_url=settings.aws_endpoint_url or None,
            config=Config(connect_timeout=10, retries={"mode": "standard", "max_attempts": 5}),
        )
        # Which object it is.
        if settings.file_select_latest:
            listing = client.get_paginator("list_objects_v2")
            pages = iter(listing.paginate(Bucket=bucket, Prefix=folder, Delimiter="/"))
            every_page = iter(partial(in_time, next, pages, None), None)
            items = (item for page in every_page for item in page.get("Contents", ()))
            names = (item["Key"][len(folder) :] for item in items)
            written, name = newest(names, settings.file_time_format, place)
        # A copy of it, whole.
        for _ in range(5):
            answer = in_time(client.get_object, Bucket=bucket, Key=folder + name)
            if copy := download(answer, settings.aws_tmp_folder or tempfile.gettempdir()):
                written = written or answer.get("LastModified") or datetime.now(timezone.utc)
                short, state = name.rpartition("/")[2], os.fstat(copy.fileno())
                return CsvFile(short, place + name, copy, state, written)
    except (BotoCoreError, ClientError, ValueError, OSError) as error:
        raise StopRun(f"{place}{name}: {s3_reason(error)}") from None
    raise StopRun(f"{place}{name}: the download broke off five times; try again later")


def s3_reason(error: Exception) -> str:
    """What S3 or boto3 says, in our words where these help, and in S3's own."""
    answer = (getattr(error, "response", None) or {}).get("Error", {})
    known = S3_ERRORS.get(answer.get("Code", type(error).__name__))
    said = f" (S3 says: {answer['Message']})" if answer.get("Message") else ""
    return f"{known}{said}" if known else f"{error}; see [aws] in config.ini"


def download(answer: dict[str, Any], folder: str) -> IO[bytes] | None:
    """What S3 sends, in a file without a name; None where not all of it came.

    boto3's own download_fileobj would hide Ctrl-C, and give a part as the whole.
    """
    from botocore.exceptions import BotoCoreError

    try:
        copy = tempfile.TemporaryFile(dir=folder)
        while part := in_time(answer["Body"].read, 2**18):
            copy.write(part)
        copy.flush()
    except BotoCoreError as error:
        log.warning("the download broke off: %s", error)
        return None
    except OSError as error:
        raise StopRun(f"the download can't be written to {folder}: {error.strerror}") from None
    # What comes in chunks tells no length; its last chunk has told the end.
    in_chunks = "transfer-encoding" in answer["ResponseMetadata"]["HTTPHeaders"]
    size = answer.get("ContentLength", copy.tell() if in_chunks else -1)
    return copy if size == copy.tell() else None


#### Reading the file

LONGEST = 2**20  # characters of a line, or of a cell
csv.field_size_limit(LONGEST)
READ_ERRORS = (OSError, EOFError, zlib.error, UnicodeError)
SURROGATE = re.compile("[\ud800-\udfff]")  # what bytes that are not in the encoding are read as
# UTF-32 before UTF-16, as a mark of the one begins with one of the other.
ENCODINGS = ("utf-8", "utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
MARKS = {"\ufeff".encode(encoding): encoding for encoding in ENCODINGS}
WITHOUT_MARK = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
FOREIGN = {  # what a file begins with that is no CSV, and what it is
    rb"\x1f\x8b": "packed with gzip, once more than its name says; unpack it",
    rb"PK\x03\x04": "an Excel workbook (or another zip archive); save its sheet as CSV",
    rb"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    rb"\s*<(!doctype html|html|head|body)": "HTML, such as a log-in page; see where it comes from",
    rb"\s*<\?xml": "XML; export it as CSV",
    rb'\s*(\{\s*"|\[\s*[{\]])': "JSON; export it as CSV",
    rb"%PDF-": "a PDF; export it as CSV",
    rb"BZh\d1AY|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf": "a packed file; unpack it",
    rb"PAR1|Obj\x01|SQLite format 3": "a data file of another kind; export it as CSV",
    rb"([^\0]\0){4}": "UTF-16 without its mark; write [csv] encoding = utf-16-le",
    rb"(\0[^\0]){4}": "UTF-16 without its mark; write [csv] encoding = utf-16-be",
}


class Row(NamedTuple):
    """A record of the file."""

    line: int  # where it begins
    text: str  # as it stands in the file
    cells: list[str]  # clean ones
    problem: str = ""


@dataclass
class Sheet:
    """A CSV file that is being read, and where in its rows a user's values are."""

    name: str
    stream: io.TextIOWrapper
    delimiter: str
    mark: str  # the byte-order mark that the file begins with
    rows: Iterator[Row] = field(init=False)
    headings: list[str] = field(default_factory=list)  # normal ones
    heading_row: str = ""  # as it stands in the file; none where [csv] headings are used
    columns: list[Source] = field(default_factory=list)  # those that have a column
    # The same as tuples, as no loop is run through as often as the one over them.
    flat_columns: list[tuple[int, str, Any, bool, Source]] = field(default_factory=list)
    constants: User = field(default_factory=dict)
    blanks: frozenset[str] = frozenset()

    def is_heading(self, cells: list[str]) -> bool:
        """Whether a row repeats the headings, case and blank ones at the end aside."""
        # As nearly always, the first cell is enough.
        if not (cells and self.headings) or self.headings[0].casefold() not in cells[0].casefold():
            return False
        found, own = "\0".join(map(normal, cells)), "\0".join(self.headings)
        return found.rstrip("\0").casefold() == own.rstrip("\0").casefold()


def open_text(file: CsvFile, settings: Settings) -> tuple[io.TextIOWrapper, str]:
    """The file's text and its byte-order mark; StopRun where it is no CSV at all."""
    content = file.open()
    try:
        head = content.peek(2**12)
    except READ_ERRORS as error:
        raise StopRun(f"{file.name} is damaged, and can't be unpacked: {error}") from None
    encoding = codecs.lookup(settings.csv_encoding).name
    mark = next((mark for mark in MARKS if head.startswith(mark)), b"")
    encoding = MARKS.get(mark, WITHOUT_MARK.get(encoding, encoding))
    content.read(len(mark))
    head, errors, ascii_bytes = head[len(mark) :], "strict", bytes(range(128))
    if encoding.startswith(("utf-16", "utf-32")):
        head = head.replace(b"\0", b"")
        errors = "surrogatepass"  # a lone surrogate is the fault of its row alone
    elif ascii_bytes.decode(encoding, "replace") == ascii_bytes.decode("ascii"):
        errors = "surrogateescape"  # so is a wrong byte, where ASCII's bytes mean the same
    for pattern, what in FOREIGN.items():
        if re.match(pattern, head, re.IGNORECASE):
            raise StopRun(f"{file.name} is no CSV but {what}")
    return io.TextIOWrapper(content, encoding, errors, newline=""), "\ufeff" if mark else ""


def read_lines(sheet: Sheet, record: list[str]) -> Iterator[str]:
    """Each line for the csv module, with the line as it stands in the file added to `record`."""
    # The csv module takes no blank behind a closing quote.
    blank = re.compile(f'(?<=[^"])" +(?={re.escape(sheet.delimiter)}|[\r\n]|$)')
    for number, line in enumerate(iter(partial(sheet.stream.readline, LONGEST + 1), ""), 1):
        if len(line) > LONGEST:
            raise StopRun(f"{sheet.name}: line {number} has more than {LONGEST:,} characters")
        record.append(line)
        # A NUL is nothing, and Python 3.10's csv module takes none; a mark in the middle is where
        # files were glued together.
        text = line.replace("\0", "").removeprefix("\ufeff")
        yield blank.sub('"', text) if '" ' in text else text


def read_rows(sheet: Sheet) -> Iterator[Row]:
    """Every record but blank lines and repeated headings; StopRun where reading can't go on."""
    number, lines = 1, list[str]()  # where the record begins, and what stands there
    how: Any = {"delimiter": sheet.delimiter, "skipinitialspace": sheet.delimiter != " "}
    reader = csv.reader(read_lines(sheet, lines), strict=True, **how)
    while True:
        cells, problem = [], ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = f"it is no CSV: {error}"
            if re.search("field limit|unexpected end", problem):
                record = "".join(lines)
                # The last quote that opens: one that is doubled neither opens nor closes.
                quotes = re.finditer('"(?:[^"]+|"")*"?', record)
                opening = max((quote.start() for quote in quotes), default=0)
                number += len(re.findall("\r\n|\r|\n", record[:opening]))
                what = f"a quote opens in line {number} and doesn't close"
                reason = f"{what} in {LONGEST:,} characters, or at all"
                raise StopRun(f"{sheet.name}: {reason}") from None
        except READ_ERRORS as error:
            where = f"after line {number + len(lines) - 1}"
            reason = f"is cut off or damaged {where}: {root_cause(error)}"
            raise StopRun(f"{sheet.name} {reason}") from None
        # A record, with what is wrong with its text.
        record = lines[0] if len(lines) == 1 else "".join(lines)
        if not record.isascii() and SURROGATE.search(record):
            problem = f"it holds bytes that are not {sheet.stream.encoding}; see [csv] encoding"
        # Its cells: as nearly always, there are but blanks to take off, in ASCII those of strip.
        blanks, is_plain = None if record.isascii() else BLANKS, '="' not in record
        cells = [cell.strip(blanks) if is_plain else clean(cell) for cell in cells]
        if problem or not (cells in ([], [""]) or sheet.is_heading(cells)):
            yield Row(number, record, cells, problem)
        number += len(lines)
        lines.clear()


def open_sheet(file: CsvFile, settings: Settings) -> Sheet:
    """The file's rows below its headings; StopRun where these don't fit the settings."""
    stream, mark = open_text(file, settings)
    delimiter = "\t" if settings.csv_delimiter == "tab" else settings.csv_delimiter
    sheet = Sheet(file.name, stream, delimiter, mark)
    sheet.rows = read_rows(sheet)
    first = next(sheet.rows, None)
    sheet.headings = [normal(cell) for cell in next(csv.reader([settings.csv_headings]), [])]
    if first and sheet.headings and not sheet.is_heading(first.cells):
        sheet.rows = itertools.chain([first], sheet.rows)
    elif first and first.problem:
        raise StopRun(f"{file.name}: the row of headings: {first.problem}")
    elif first:
        sheet.headings = sheet.headings or [normal(cell) for cell in first.cells]
        sheet.heading_row = first.text
    elif not sheet.headings:
        raise StopRun(f"{file.name} is empty")
    words = next(csv.reader([settings.csv_empty]), [])
    sheet.blanks = frozenset(["", *map(clean, words)])
    map_columns(sheet, file, settings)
    for source in settings.sources:
        if source.value is not None:
            user = sheet.constants
            values = user.setdefault("custom_attributes", {}) if source.is_attribute else user
            values[source.name] = source.value
    return sheet


def map_columns(sheet: Sheet, file: CsvFile, settings: Settings) -> None:
    """Find each source's column; StopRun with all that doesn't fit."""
    headings, sources = sheet.headings, settings.sources
    if all(source.is_attribute for source in sources):
        names = [name for name in FIELDS if name in headings]
        how = settings.csv_decimal, settings.zone
        sources = (*(read_source(name, name, False, *how) for name in names), *sources)
    mapped = [source for source in sources if not source.is_constant]
    missing = [source for source in mapped if source.text not in headings]
    problems = []
    # Where nearly nothing fits, the file's own headings say more than a line for each of ours.
    if not any(source.name in IDENTITY and not source.is_attribute for source in sources):
        problems.append("none is user_id, email or id")
    if problems or len(missing) * 2 > len(mapped):
        elsewhere = find_headings(file, settings, {source.text for source in mapped})
        problems.append(f"the file has {', '.join(headings)[:500]}{elsewhere}")
        missing = []
    for source in sources:
        what, times = f"{source.text!r} (for {source.name})", headings.count(normal(source.text))
        if source in missing:
            near = nearest(source.text, headings, 3)[:100]
            problems.append(f"{what} is missing; the nearest: {near}")
        elif times and source.value is not None:
            problems.append(f"{what} is a heading: take its single quotes off")
        elif times > 1 and not source.is_constant:
            problems.append(f"{what} stands there {times} times")
    if problems:
        raise StopRun(f"{file.name}: the headings don't fit the settings: {'; '.join(problems)}")
    sheet.columns = [replace(source, column=headings.index(source.text)) for source in mapped]
    sheet.flat_columns = [(s.column, s.name, s.convert, s.is_attribute, s) for s in sheet.columns]


def find_headings(file: CsvFile, settings: Settings, wanted: set[str]) -> str:
    """Where else in the file's first lines the headings stand, and what to do about it."""
    stream, _ = open_text(file, settings)
    own, head = settings.csv_delimiter, list[str]()
    with contextlib.suppress(*READ_ERRORS):  # it may be damaged as well
        head.extend(itertools.islice(iter(partial(stream.readline, LONGEST), ""), 20))
    for number, line in enumerate(head, 1):
        for name in (own, ",", ";", "tab", "|"):
            delimiter = "\t" if name == "tab" else name
            reader = csv.reader([line.replace("\0", "")], delimiter=delimiter)
            cells = set(map(normal, next(reader, [])))
            if wanted <= cells and cells & (wanted or set(IDENTITY)):
                above = f"they stand in line {number}: remove what is above it"
                other = f"write [csv] delimiter = {name}"
                advice = [above if number > 1 else "", other if name != own else ""]
                return f"; {', and '.join(filter(None, advice))}"
    return ""


#### Rows to users


def to_user(row: Row, sheet: Sheet) -> tuple[User, list[tuple[Source, str, str]]]:
    """The user in a row, and the cells that have to be left out: their source, text and what is
    wrong. RowError where the row can't be imported."""
    cells = row.cells
    if row.problem:
        raise RowError(row.problem)
    if len(cells) != len(sheet.headings):
        check_width(cells, sheet)
    user, wrong = sheet.constants.copy(), []
    attributes: User = user.pop("custom_attributes", {}).copy()
    for column, name, convert, is_attribute, source in sheet.flat_columns:
        cell = cells[column]
        if cell not in sheet.blanks:
            try:
                (attributes if is_attribute else user)[name] = convert(cell)
            except ValueError as error:
                wrong.append((source, cell, str(error)))
    if user.keys().isdisjoint(IDENTITY):
        raise RowError("no user_id, email or id")
    if attributes:
        user["custom_attributes"] = attributes
    return user, wrong


def check_width(cells: list[str], sheet: Sheet) -> None:
    """RowError where a row has more or fewer cells than headings, and these are not blank."""
    width, needed = len(sheet.headings), max((s.column for s in sheet.columns), default=-1) + 1
    if len(cells) < needed or any(cells[width:]):
        detail = f"{len(cells)} cells, where there are {width} headings"
        raise RowError("more or fewer cells than headings", detail)


def identities(user: User) -> list[str]:
    """Whom the user's data are about, as Intercom would look them up."""
    names = ["user_id=" + user["user_id"]] if "user_id" in user else []
    if "email" in user:
        names.append("email=" + user["email"].lower())
    return [*names, "id=" + user["id"]] if "id" in user else names


@dataclass(slots=True, eq=False)
class Job:
    """A row on its way to Intercom."""

    row: Row
    user: User
    identities: list[str]
    intercom_id: str = ""  # the id by which Intercom is asked for it
    stale_id: str = ""  # one that was remembered, and that Intercom doesn't know any more
    digest: bytes = b""

    def __str__(self) -> str:
        name = next(filter(self.user.__contains__, IDENTITY))
        return f"line {self.row.line} {name}={self.user[name]}"


#### Looking at the file

FEW = 10  # rows or cells, of which it may be chance that all are wrong
MOST_COUNTED = 1000  # identities whose rows are counted at once
ORDERS = ("%d{0}%m{0}%Y", "%m{0}%d{0}%Y", "%Y{0}%m{0}%d", "%d{0}%m{0}%y", "%m{0}%d{0}%y")
DATES = [order.format(mark) for order in ORDERS for mark in "/.- "]
DATES += ["%d-%b-%Y", "%d %b %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y", "%d-%b-%y", "%Y%m%d"]
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


def other_types(source: Source, settings: Settings) -> dict[str, Any]:
    """What could be written so that a column's cells might be of their type, and what it does."""
    line = f"{source.name} = {source.text} :"
    decimal, zone = settings.csv_decimal, settings.zone
    other = "," if decimal == "." else "."
    if source.type == "timestamp":
        forms = ["", *(date + time for date in DATES for time in TIMES)]
        return {
            f"{line} timestamp {form}".rstrip(): converter("timestamp", decimal, zone, form)
            for form in forms
        }
    types = {}
    if source.type == "integer":
        types[f"{line} float"] = converter("float", decimal, zone)
        types[f"{line} float, with [csv] decimal = {other}"] = converter("float", other, zone)
    elif source.type == "float":
        types[f"[csv] decimal = {other}"] = converter("float", other, zone)
    return types


@dataclass
class Examples:
    """How often something was found, and the first three: line, value (or blank), reason."""

    count: int = 0
    first: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, line: int, value: str, reason: str) -> None:
        self.count += 1
        if self.count <= 3:
            self.first.append((line, value, reason))

    def lines(self) -> list[str]:
        return [
            f"  line {line}: {f'{redact(cell)[:100]!r}: ' if cell else ''}{reason}"
            for line, cell, reason in self.first
        ]


@dataclass
class Survey:
    """What one reading of the whole file has found."""

    file: CsvFile
    settings: Settings
    sheet: Sheet
    rows: int = 0
    left_out: dict[Source, Examples] = field(default_factory=dict)  # cells
    rejected: dict[str, Examples] = field(default_factory=dict)  # rows, by kind of reason
    samples: dict[Source, tuple[str, Value]] = field(default_factory=dict)  # cell, value
    # The columns without a right cell so far, and the other types that would fit all their cells.
    unproven: dict[Source, dict[str, Any]] = field(default_factory=dict)
    rows_of: dict[str, int] = field(default_factory=dict)  # by identity, at least so many

    def take(self, row: Row) -> None:
        """Take a row into account."""
        self.rows += 1
        try:
            user, wrong = to_user(row, self.sheet)
        except RowError as error:
            self.rejected.setdefault(error.kind, Examples()).add(row.line, "", str(error))
            return
        for source, cell, reason in wrong:
            self.left_out.setdefault(source, Examples()).add(row.line, cell, reason)
        if self.unproven:
            self.prove(row, user, wrong)
        # Misra and Gries's way: whoever has more than a thousandth of the rows stays in it.
        identity = identities(user)[0]
        self.rows_of[identity] = self.rows_of.get(identity, 0) + 1
        if len(self.rows_of) > MOST_COUNTED:
            self.rows_of = {who: count - 1 for who, count in self.rows_of.items() if count > 1}

    def prove(self, row: Row, user: User, wrong: list[tuple[Source, str, str]]) -> None:
        """Note the first right cell of a column; until there is one, which types would fit."""
        for source in [*self.unproven]:
            values = user.get("custom_attributes", {}) if source.is_attribute else user
            if source.name in values:
                self.samples[source] = row.cells[source.column], values[source.name]
                del self.unproven[source]
        for source, cell, _ in wrong:
            if types := self.unproven.get(source):
                self.unproven[source] = {
                    what: to for what, to in types.items() if is_valid(to, cell)
                }

    def reason_to_stop(self, is_named: bool) -> str:
        """Why a run with this file is not to begin; blank where nothing speaks against it."""
        rows, minimum = counted(self.rows, "row"), self.settings.csv_min_rows
        who, count = max(self.rows_of.items(), key=lambda pair: pair[1], default=("", 0))
        reason = "; ".join(filter(None, map(self.advice, self.unproven)))
        if self.rows < minimum and not is_named:
            what = f"has {rows}, and [csv] min_rows = {minimum}"
            reason = f"{what}: the export came out empty, or broke off"
        elif self.rows >= FEW and sum(e.count for e in self.rejected.values()) == self.rows:
            kinds = [
                f"{e.count} x {kind} ({e.lines()[0].strip()})" for kind, e in self.rejected.items()
            ]
            reason = f"none of its {rows} can be imported: {'; '.join(kinds)}"
        elif self.rows >= FEW and count * 2 > self.rows:
            reason = f"{count} of its {rows} name one user, {who}; see [user] in config.ini"
        return f"{self.file.name}: {reason}" if reason else ""

    def advice(self, source: Source) -> str:
        """What to do about a column that has ten or more cells, none of them of its type."""
        examples = self.left_out.get(source, Examples())
        if examples.count < FEW:
            return ""
        fitting = ", or ".join(self.unproven[source])
        advice = f"write {fitting}" if fitting else TYPES[source.type].advice
        what = f"{examples.count} cells below {source.text!r} (for {source.name})"
        line, cell, reason = examples.first[0]
        reason = f"in line {line}, {redact(cell)[:100]!r} is {reason}"
        return f"of {what} none is of the type {source}: {reason}; {advice}"


def survey(file: CsvFile, settings: Settings) -> Survey:
    """Read the file from start to end, as the sending will; StopRun where that can't be done."""
    hours, limit = age(file, settings) / 3600, settings.file_max_age_hours
    if settings.file_select_latest and hours > limit:
        what = f"is {hours:.0f} hours old, and [file] max_age_hours = {limit:g}"
        raise StopRun(f"{file.name} {what}: the export has stopped")
    sheet = open_sheet(file, settings)
    types = {source: other_types(source, settings) for source in sheet.columns}
    found = Survey(file, settings, sheet, unproven=types)
    for row in sheet.rows:
        found.take(row)
    if getattr(sheet.stream.buffer, "has_rest", False):
        log.warning("%s: what stands behind its last packed part is ignored", file.name)
    return found


def age(file: CsvFile, settings: Settings) -> float:
    """Seconds since the time in the file's name, in [csv] timezone, or since its last change."""
    written = file.written if file.written.tzinfo else file.written.replace(tzinfo=settings.zone)
    return time.time() - written.timestamp()


#### Talking to a server

CONNECT_TIMEOUT = 10  # seconds
MAX_ANSWER_TIME = 120  # seconds, headers and body together
MAX_ANSWER = 2**20  # bytes
MAX_PAUSE = 300  # seconds that a rate limit may hold a run up
ID = re.compile("[A-Za-z0-9_-]+")
OF_ONE_ROW = re.compile(r"[^\s'\"()\[\]]*(\d|@)[^\s'\"()\[\]]*")  # numbers, ids and addresses


class Answer(NamedTuple):
    """What a server answered, or with status 0, why it didn't; -1 where no retry will bring one."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""
    content: dict[str, Any] = {}  # the body, where it is a JSON object
    failure: str = ""

    @property
    def is_user(self) -> bool:
        """Whether it is Intercom's word that the user or contact is in."""
        what = self.content.get("type")
        is_one = what in ("user", "contact", "lead") if what else bool(self.id)
        return 200 <= self.status < 300 and is_one and "errors" not in self.content

    @property
    def id(self) -> str:
        """The id in the body; blank where there is none that looks like one."""
        known = self.content.get("id")
        is_one = type(known) in (str, int) and ID.fullmatch(str(known))
        return str(known) if is_one else ""

    @property
    def errors(self) -> str:
        """The codes and messages of Intercom's error list, whatever its shape; blank without one.

        https://developers.intercom.com/docs/references/rest-api/errors/error-objects
        """
        listed = self.content.get("errors")
        said = []
        for error in listed if isinstance(listed, list) else [listed]:
            named = [error.get("code"), error.get("message")] if isinstance(error, dict) else None
            words = [str(word) for word in named or [error] if isinstance(word, str | int)]
            said.append(": ".join(words))
        return "; ".join(filter(None, said))

    @property
    def kind(self) -> str:
        """What many answers may have in common: nothing of one row's details."""
        said = self.failure or self.errors or "an answer that is not Intercom's"
        said = OF_ONE_ROW.sub("#", redact(said)[:1000])
        return said if self.failure else f"{self.status} {said[:200]}"

    def __str__(self) -> str:
        if self.failure or self.is_user:
            return self.failure or str(self.status)
        request_id = self.content.get("request_id")
        known = f" (request_id {redact(request_id)[:99]})" if isinstance(request_id, str) else ""
        text = redact(self.errors)[:1000] or redact(self.body.decode(errors="replace"))[:200]
        return f"{self.status} {text or 'without a word'}{known}"

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


class TimedReader(io.RawIOBase):
    """What comes through a socket, until as much time has gone as the socket has for one piece."""

    def __init__(self, connection: socket.socket, raw: Any) -> None:
        self.connection, self.raw = connection, raw
        self.end = time.monotonic() + (connection.gettimeout() or 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        # No less, as 0 would be no timeout at all.
        self.connection.settimeout(max(0.001, self.end - time.monotonic()))
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class TimedResponse(http.client.HTTPResponse):
    """An answer that has to be there in time as a whole."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp: Any = io.BufferedReader(TimedReader(sock, self.fp.detach()))


class Server:
    """Keep-alive connections to a URL's host, by the proxies and certificates of the environment.

    Each request is sent as it is: no redirect, no cookie, no .netrc. Times are in seconds: to
    connect, and for an answer as a whole.
    """

    def __init__(
        self, url: str, headers: dict[str, str], times: tuple[float, float], connections: int = 1
    ) -> None:
        self.request = requests.Request("POST", url, headers).prepare()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=connections)
        how: Any = requests.Session().merge_environment_settings(url, {}, True, None, None)
        self.transmit: Any = partial(adapter.send, timeout=times, **how)
        with contextlib.suppress(Exception):  # what is wrong with a proxy, each exchange will say
            places = how["verify"], how["proxies"], how["cert"]
            pool: Any = adapter.get_connection_with_tls_context(self.request, *places)
            timed = {"response_class": TimedResponse}
            pool.ConnectionCls = type("TimedConnection", (pool.ConnectionCls,), timed)

    def exchange(self, method: str, url: str, body: bytes = b"") -> Answer:
        """The answer to a request, or why there is none."""
        request = self.request.copy()
        request.method, request.url, request.body = method, url, body
        request.headers["Content-Length"] = str(len(body))
        content, parsed = bytearray(), None
        try:
            response = self.transmit(request)
            if response.status_code < 200:
                response.close()  # the final answer is still to come, and would be the next one's
            for part in response.iter_content(2**16):
                content += part
                if len(content) > MAX_ANSWER:
                    response.close()
                    raise ValueError(f"more than {MAX_ANSWER} bytes")
        except Exception as error:  # whatever it is, there is no answer, and the run has to know
            failure = f"no answer ({root_cause(error)})"
            proxy = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
            hopeless = isinstance(error, proxy) or re.search("(?i)certificate|PEM lib", failure)
            return Answer(-1 if hopeless else 0, failure=failure)
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(content)
        known = parsed if isinstance(parsed, dict) else {}
        return Answer(response.status_code, response.headers, bytes(content), known)


#### Talking to Intercom

REDIRECTED = "[intercom] user_url answers with a redirection, which is never followed"
STOPS = dict.fromkeys(range(300, 400), REDIRECTED) | {
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
USE_CONTACTS = "; apps on Intercom's API 2.x want user_url = https://api.intercom.io/contacts"
ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def verdict(
    answer: Answer, of_row: Iterable[int] = (), some_accepted: bool = False
) -> Literal["accepted", "retry", "refused", "stop"]:
    """What an answer means for a user; statuses `of_row` are about that user alone.

    So is a 403 that isn't Intercom's own, where other users were accepted: something on the way
    refuses what this row holds.

    https://developers.intercom.com/docs/references/rest-api/errors/http-responses
    """
    status = answer.status
    if answer.is_user:
        return "accepted"
    if 0 <= status < 300 or status in (408, 429) or status >= 500:
        return "retry"
    if status in of_row or (status == 403 and some_accepted and not answer.errors):
        return "refused"
    return "stop" if status in STOPS else "refused"


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


class Intercom(Server):
    """The server at user_url, whose limit all threads keep together."""

    def __init__(self, settings: Settings, is_stopped: Callable[[], bool]) -> None:
        self.settings, self.is_stopped = settings, is_stopped
        version = "2.14" if settings.contacts else "1.4"
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Authorization": settings.authorization,
            "Content-Type": "application/json",
            "Intercom-Version": settings.intercom_api_version or version,
            "User-Agent": f"IntercomImporter/{VERSION}",
        }
        times = CONNECT_TIMEOUT, MAX_ANSWER_TIME
        super().__init__(settings.intercom_user_url, headers, times, settings.intercom_concurrency)
        self.threads = futures.ThreadPoolExecutor(settings.intercom_concurrency)
        # Windows' Ctrl-C interrupts no answer that the main thread waits for.
        self.has_threads = settings.intercom_concurrency > 1 or sys.platform == "win32"
        if self.has_threads:
            self.threads.submit(int).result()  # fails now where not even one can be made
        self.results: queue.SimpleQueue[tuple[Job, Answer | Exception]] = queue.SimpleQueue()
        self.limit, self.turn = RateLimit(), threading.Condition()
        self.under_way = 0
        self.waiting_for = ""  # what the last retry waits for
        self.while_waiting: Callable[[], None] = lambda: None  # until send_users knows better

    def start(self, action: Callable[[Job, Intercom], None], job: Job) -> None:
        """Do it in a thread, where there are any."""
        if not self.has_threads:
            action(job, self)
            return
        with contextlib.suppress(RuntimeError):  # no more threads: those there are will take it
            self.threads.submit(action, job, self)

    def ask(
        self,
        method: str,
        url: str,
        body: User,
        holds: str = "",
        who: object = "",
        retries: Iterator[int] | None = None,
    ) -> Answer:
        """The first answer that is a user, or `holds` this key, or that no retry betters; or the
        last one; where the run stops first, one with status 0 that says so.

        Each request waits for its turn by Intercom's limit. `retries` counts on where a user takes
        several requests.
        """
        content = ENCODER.encode(body).encode() if body else b""
        retries, due = retries or itertools.count(1), 0.0
        while True:
            # Wait until it is due, and the limit allows another request.
            with self.turn:
                while not self.is_stopped():
                    pause = max(due, self.limit.opens(self.under_way)) - time.monotonic()
                    if pause <= 0:
                        break
                    self.while_waiting()
                    self.turn.wait(min(POLL, pause))
                else:
                    return Answer(0, failure=STOPPED)
                self.under_way += 1
            # Send it, and take in what its answer says of the limit.
            began = time.monotonic()
            answer = self.exchange(method, url, content)
            with self.turn:
                self.under_way -= 1
                self.limit.learn(answer)
                self.turn.notify_all()
            log.debug("%s: %s in %.3f s", who or url, answer, time.monotonic() - began)
            # Try again where that may help.
            self.waiting_for = ""
            fits = answer.status == 200 and holds in answer.content if holds else answer.is_user
            if fits or verdict(answer) in ("refused", "stop") or self.is_stopped():
                return answer
            number = next(retries)
            if number > self.settings.intercom_retries:
                return answer
            wait = max(self.settings.intercom_timeout, answer.pause())
            due = time.monotonic() + wait
            self.waiting_for = f"retry {number} in {wait:.3g} s: {answer}"
            log.warning("%s: %s: retry %d in %.3g s", who or url, answer, number, wait)


def stop_reason(answer: Answer, settings: Settings) -> str:
    """Why an answer ends the run, and what to do."""
    if answer.status not in STOPS:
        places = "[intercom] user_url and api_version, the network and its proxy"
        return f"no useful answer; see {places} ({answer})"
    advice = "" if settings.contacts or answer.status in (-1, 401, 402) else USE_CONTACTS
    return f"{STOPS[answer.status]}{advice} ({answer})"


def attributes_to_make(intercom: Intercom) -> dict[str, str]:
    """Our custom attributes that the workspace's contacts lack, and their types there; StopRun
    with all that don't fit, missing ones too where create_attributes = false.

    https://developers.intercom.com/docs/references/rest-api/api.intercom.io/data-attributes
    """
    settings = intercom.settings
    wanted = {s.name: TYPES[s.type].taken_by for s in settings.sources if s.is_attribute}
    if not wanted or not settings.contacts:
        return {}
    url = settings.intercom_user_url.removesuffix("/contacts")
    answer = intercom.ask("GET", f"{url}/data_attributes?model=contact", {}, "data")
    listed = answer.content.get("data")
    if not isinstance(listed, list):
        raise StopRun(stop_reason(answer, settings))
    known = {
        str(item.get("name")): item.get("data_type")
        for item in listed
        if isinstance(item, dict) and item.get("custom") and not item.get("archived")
    }
    missing = {name: types[0] for name, types in wanted.items() if name not in known}
    wrong = {} if settings.intercom_create_attributes else dict.fromkeys(missing, "is missing")
    for name, types in wanted.items():
        if name in known and known[name] not in types:
            wrong[name] = f"is {known[name]}"
    if wrong:
        texts = [f"{name} {what}, should be {wanted[name][0]}" for name, what in wrong.items()]
        texts += ["create_attributes = true makes those that are missing"] if missing else []
        raise StopRun(f"the workspace's custom attributes don't fit: {'; '.join(texts)}")
    return missing


def create_attribute(intercom: Intercom, name: str, data_type: str) -> None:
    """Make a custom attribute of contacts; StopRun where Intercom refuses it."""
    body = {"name": name, "model": "contact", "data_type": data_type}
    url = intercom.settings.intercom_user_url.removesuffix("/contacts")
    answer = intercom.ask("POST", f"{url}/data_attributes", body, "name")
    if answer.status != 200 or answer.content.get("name") != name:
        raise StopRun(f"the custom attribute {name} can't be made ({answer})")
    log.info("the custom attribute %s is made, as %s", name, data_type)


#### What was sent before

BUSY_TIMEOUT = 5.0  # seconds that another program's lock is waited for
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
        # Without `write`, not even SQLite's own files are made beside it.
        is_whole = not Path(f"{self.path}-wal").exists()
        mode = "rwc" if write else "ro&immutable=1" if is_whole else "ro"
        try:
            if write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            uri = f"{self.path.as_uri()}?mode={mode}"
            how: Any = {"timeout": BUSY_TIMEOUT, "isolation_level": None, "uri": True}
            self.database = sqlite3.connect(uri, **how)
        except (OSError, sqlite3.Error) as error:
            raise StopRun(f"the state file {self.path} can't be opened: {error}") from None
        self.execute("PRAGMA synchronous = NORMAL")
        is_new = write and self.execute("SELECT count(*) FROM sqlite_master") == (0,)
        for statement in STATE_SCHEMA.split(";") if is_new else ():
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

    def key(self, identity: str) -> bytes:
        return hashlib.sha256(self.scope + identity.encode()).digest()

    def recall(self, job: Job) -> tuple[bytes, str]:
        """The digest and Intercom's id of a user; blank where they aren't known."""
        statement = "SELECT digest, id FROM users WHERE key = ?"
        return self.execute(statement, self.key(job.identities[0])) or (b"", "")

    def forget(self, job: Job) -> None:
        """Void all that sending it may change: it is looked up by id, then user_id, then email."""
        keys = [self.key(identity) for identity in job.identities]
        email_key = None if "user_id" in job.user else keys[0]  # NULL, which equals nothing
        where = f"key IN ({', '.join('?' * len(keys))}) OR email = ? OR id = ?"
        statement = f"UPDATE users SET digest = x'' WHERE {where}"  # noqa: S608
        self.execute(statement, *keys, email_key, job.user.get("id"))

    def forget_id(self, intercom_id: str) -> None:
        """Intercom doesn't know this id any more."""
        self.execute("DELETE FROM users WHERE id = ?", intercom_id)

    def remember(self, job: Job, intercom_id: str) -> None:
        """What Intercom has accepted; other entries of the same user of Intercom's are void."""
        if intercom_id:
            self.forget_id(intercom_id)
        emails = (self.key(name) for name in job.identities if name.startswith("email="))
        values = self.key(job.identities[0]), job.digest, intercom_id or None, next(emails, None)
        self.execute("INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?)", *values)


#### Telling people

TIME_IN_NAME = "%Y-%m-%dT%H-%M-%S"  # no colons, which Windows refuses
LOG_NAME = re.compile(r"([0-9-]{10}T[0-9-]{8})(-\d+)?_(debug|error)\.log")
NOTICE_TIMES = (1.0, 2.0)  # seconds to connect, and for an answer: three tries take ten at most
NOTICE_LENGTH = 4000  # characters; Hipchat takes 10,000
SIGNS = {"green": ":white_check_mark:", "red": ":x:", "yellow": ":hourglass_flowing_sand:"}
SERVICES = ("Hipchat", "Slack")
CONSOLE = logging.StreamHandler()  # stands in for the logs until the end is told


def echo(text: object, stream: TextIO | None) -> None:
    """Print a line; a screen that has gone away is no error."""
    try:
        print(redact(text), file=stream or io.StringIO(), flush=True)
    except (OSError, ValueError):
        drop(stream)


def drop(stream: TextIO | None) -> None:
    """Throw away what is still written to a stream whose reader has gone."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno() if stream else -1)


def create(folder: str | Path, name: str, ending: str, **how: Any) -> TextIO:
    """A new file, in a folder that is made where it is missing."""
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = folder / f"{name}{f'-{number}' if number > 1 else ''}{ending}"
        with contextlib.suppress(FileExistsError):
            file: TextIO = open(path, "x", **how)
            return file
    raise AssertionError


@lru_cache(1)
def local_time(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(second))


class SafeFormatter(logging.Formatter):
    """A line for each record, whatever its text holds; the lines of a traceback are marked."""

    def format(self, record: logging.LogRecord) -> str:
        moment = f"{local_time(int(record.created))}.{int(record.msecs):03}"
        line = f"{moment} {record.levelname} {redact(record.getMessage())}"
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join([line, *(f"    | {redact(part)}" for part in trace)])


class LogFile(logging.StreamHandler):  # type: ignore[type-arg]  # 3.10 takes none
    """A log file; where its disk fails, the screen says so once and the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        logging.getLogger().removeHandler(self)
        echo(f"the log can't be written any more: {sys.exc_info()[1]}", sys.stderr)
        drop(self.stream)


def open_logs(settings: Settings, started: datetime) -> Path | None:
    """The path of the error log; None without logs, when the console gets warnings and errors."""
    files: list[TextIO] = []
    try:
        for ending in ("_debug.log", "_error.log") if settings.log_use_logs else ():
            stamp = f"{started:{TIME_IN_NAME}}"
            files.append(create(settings.log_folder, stamp, ending, encoding="utf-8"))
    except OSError as error:
        raise StopRun(f"[log] folder {settings.log_folder}: {error.strerror}") from None
    for handler in map(LogFile, files) if files else [CONSOLE]:
        handler.setFormatter(SafeFormatter())
        if handler.stream in files[1:]:
            handler.setLevel("WARNING")
        logging.getLogger().addHandler(handler)
    log.setLevel("DEBUG")
    # What no line shows is not looked up: https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.captureWarnings(True)
    return Path(files[-1].name) if files else None


def remove_old_logs(settings: Settings, now: datetime) -> None:
    """Remove this program's logs from before [log] keep_days, told by the time in their names."""
    try:
        for path in sorted(Path(settings.log_folder).iterdir()):
            name, written = LOG_NAME.fullmatch(path.name), now
            with contextlib.suppress(ValueError):  # a name that holds no date
                written = datetime.strptime(name[1], TIME_IN_NAME) if name else now
            days = (now.replace(microsecond=0) - written) / timedelta(days=1)
            if days > settings.log_keep_days and path.is_file():
                path.unlink()
                log.debug("%s is older than [log] keep_days: removed", path.name)
    except OSError as error:
        log.warning("old logs can't be removed: %s", error)


def notify(
    settings: Settings,
    lines: list[str],
    color: str,
    services: Iterable[str] = SERVICES,
    screen: TextIO | None = None,
) -> bool:
    """Tell Hipchat, in `color`, and Slack, where they are used; whether all of them took it.

    A notice that fails is said on the screen, standard error, and logged, and that is all.
    https://api.slack.com/messaging/webhooks
    """
    # What each service is posted.
    text = "\n".join(map(redact, lines))[:NOTICE_LENGTH]
    posts: dict[str, tuple[str, str, str]] = {}
    if settings.hipchat_use_hipchat and "Hipchat" in services:
        query = {"format": "json", "auth_token": settings.hipchat_api_key}
        url = f"{settings.hipchat_api_url.rstrip('/')}/rooms/message?{urlencode(query)}"
        form = {"room_id": settings.hipchat_room_id, "from": settings.hipchat_from}
        calm = re.sub(r"(?<!\w)@", "@ ", text)  # which calls nobody
        form |= {"message": calm, "message_format": "text", "color": color}
        posts["Hipchat"] = url, "application/x-www-form-urlencoded", urlencode(form)
    if settings.slack_use_slack and "Slack" in services:
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        extras = ("channel", "username", "icon_url", "icon_emoji")
        message = {key: value for key in extras if (value := getattr(settings, f"slack_{key}"))}
        message["text"] = f"{SIGNS[color]} {escaped}"
        posts["Slack"] = settings.slack_webhook_url, "application/json", json.dumps(message)
    # Three tries each.
    all_took_it = True
    for name, (url, content_type, body) in posts.items():
        server = Server(url, {"Content-Type": content_type}, NOTICE_TIMES)
        for attempt in (1, 2, 3):
            time.sleep(0.4 if attempt > 1 else 0)
            answer = server.exchange("POST", url, body.encode())
            if 200 <= answer.status < 300:
                break
            log.warning("the notice to %s failed, try %d of 3: %s", name, attempt, answer)
        else:
            all_took_it = False
            what = f"export_csv.py: the notice to {name} failed three times: {answer}"
            echo(what, screen or sys.stderr)
    return all_took_it


#### A run, and what stops it

LAST_REQUEST = "stopping after the request under way; once more ends it at once, with rows lost"


@dataclass
class Run:
    """What a run is about, and what stops it."""

    settings: Settings
    problems: dict[str, str]  # of the settings, by place
    config: Path
    arguments: argparse.Namespace
    started: datetime
    began: float = field(default_factory=time.monotonic)
    error_log: Path | None = None
    survey: Survey | None = None  # of the file, from when it has been looked at
    ledger: Ledger | None = None  # from when rows are counted
    reason: str = ""  # why the run stopped
    signum: int = 0  # of the signal that ended it

    def problem_lines(self) -> list[str]:
        return [f"{self.config.name}: {where}: {text}" for where, text in self.problems.items()]

    def has_problem_in(self, section: str) -> bool:
        return any(where.startswith(f"[{section}]") for where in self.problems)

    def on_signal(self, signum: int, _: object) -> None:
        again, self.signum = self.signum, self.signum or signum
        if again and signum == getattr(signal, "SIGHUP", None):
            return  # a terminal that is closed may send it twice
        if again or not self.ledger:
            raise KeyboardInterrupt(signum)
        if sys.stderr and sys.stderr.isatty():
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), f"\n{LAST_REQUEST}\n".encode())

    def stop(self, reason: str | Exception) -> None:
        """Note why the run stops; the first reason counts."""
        if isinstance(reason, Exception) and not isinstance(reason, StopRun):
            reason = f"{unforeseen(reason)}; see the debug log"
        log.debug("the run stops: %s", reason)
        self.reason = self.reason or str(reason)

    def is_stopped(self) -> bool:
        """Whether the run is to stop, as it also is by a signal."""
        if self.signum and not self.reason:
            self.stop(f"{signal.Signals(self.signum).name} ended it")
        return bool(self.reason)


#### What becomes of each row

KINDS_SHOWN = 10  # of reasons, in the screen's and the notices' lines


class KeptRows:
    """The file of the rows that are not imported, in the shape of the input; made when needed."""

    file: TextIO | None = None
    path: Path | None = None
    size = 0  # bytes up to the last row that is whole
    first_unkept = 0  # the line of the first row that could not be kept

    def __init__(self, file: CsvFile, sheet: Sheet, run: Run) -> None:
        folder = Path(run.settings.csv_not_imported_folder).absolute()
        short = stem(file.name) or file.name
        if Path(file.path).resolve().parent == folder.resolve():
            short = re.sub(r"_[0-9-]{10}T[0-9-]{8,}$", "", short)  # it doesn't grow each round
        short = re.sub(r'[<>:"/\\|?*]', "-", short)  # which Windows refuses
        short = short.encode(errors="replace")[:200].decode(errors="ignore")
        self.folder, self.name = folder, f"{short}_{run.started:{TIME_IN_NAME}}"
        self.sheet, self.stop = sheet, run.stop

    def add(self, row: Row) -> None:
        """Append the row as it stands in the input; where that fails, the run is to stop."""
        if self.first_unkept:
            self.first_unkept = min(self.first_unkept, row.line)  # behind a gap, no row is of use
            return
        try:
            self.write(row)
        except (OSError, ValueError) as error:
            self.first_unkept = row.line
            where = f"[csv] not_imported_folder {self.folder}"
            self.stop(f"{where} can't be written: {getattr(error, 'strerror', error)}")

    def write(self, row: Row) -> None:
        head, source = self.sheet.heading_row, self.sheet.stream
        if self.file is None or self.path is None:
            how = {"encoding": source.encoding, "errors": source.errors, "newline": ""}
            self.file = create(self.folder, self.name, ".csv", **how)
            self.path = Path(self.file.name)
            self.file.write(self.sheet.mark + head)
        if not self.path.exists():
            raise FileNotFoundError(errno.ENOENT, "it was removed during the run")
        ending = re.search(r"(\r\n|\r|\n)?\Z", head)
        try:
            self.file.write(row.text)
            if not row.text.endswith(("\n", "\r")):
                self.file.write((ending and ending[0]) or "\n")
            self.file.flush()
            self.size = os.fstat(self.file.fileno()).st_size
        except OSError:
            os.ftruncate(self.file.fileno(), self.size)  # half a row could pass for a whole one
            drop(self.file)
            raise


@dataclass
class Ledger:
    """What became of the rows so far: rows = imported + unchanged + not imported."""

    kept: KeptRows | None = None  # none in a dry run
    imported: int = 0
    unchanged: int = 0
    not_imported: int = 0
    kinds: Counter[str] = field(default_factory=Counter)  # of reasons
    unread: int = 0  # rows that were there at the first reading, and are not any more

    @property
    def done(self) -> int:
        return self.imported + self.unchanged + self.not_imported

    def keep(self, row: Row, reason: RowError | Answer | None, job: Job | None = None) -> None:
        """Count and keep a row that is not imported, and log the reason; None for the rows that a
        run which stopped didn't come to: of these, one line speaks for all."""
        self.not_imported += 1
        if reason:
            log.error("%s: not imported: %s", job or f"line {row.line}", reason)
            known = reason.kind in self.kinds or len(self.kinds) < KINDS_SHOWN
            self.kinds[reason.kind if known else "other reasons"] += 1
        if self.kept:
            self.kept.add(row)

    def whereabouts(self) -> list[str]:
        """Where the rows are that were not imported."""
        lines = []
        if self.kept and self.kept.first_unkept:
            where = f"from line {self.kept.first_unkept} on"
            lines.append(f"{where}, rows that were not imported are only in the input")
        if self.unread:
            lines.append(f"{self.unread} rows were there at first, and could not be read again")
        if self.kept and self.kept.path and self.kept.path.exists():
            lines.append(f"the rows that were not imported: {self.kept.path}")
        return lines


#### Sending users

EXISTS = re.compile(
    f"(archived )?contact matching those details already exists with id=({ID.pattern})"
)


@dataclass
class Traffic:
    """What is read, and not counted yet; and what the answers so far say of the others."""

    ledger: Ledger
    sent: SentUsers | None
    next: Job | None = None  # held back as long as its user is under way
    under_way: int = 0  # users
    busy: set[str] = field(default_factory=set)  # their identities
    given_up: int = 0  # users in a row that used up their retries
    settled: int = 0  # users
    all_refused: bool = True  # whether all of those were
    # Identities of users with a row that used up its retries, or that waits for such a one.
    unsafe: set[str] = field(default_factory=set)


def make_jobs(rows: Iterable[Row], sheet: Sheet, ledger: Ledger) -> Iterator[Job]:
    """A job for each row that has a user; all other rows are counted here."""
    for row in rows:
        try:
            user, wrong = to_user(row, sheet)
        except RowError as error:
            ledger.keep(row, error)
            continue
        job = Job(row, user, identities(user), user.get("id", ""))
        for source, cell, reason in wrong:
            text = f"heading {source.text!r}, value {redact(repr(cell))[:100]}, no {source}"
            log.warning("%s: left out: %s: %s", job, text, reason)
        yield job


def admit(job: Job, traffic: Traffic, settings: Settings) -> bool:
    """Whether the job is to be sent; otherwise it is counted here."""
    ledger, sent = traffic.ledger, traffic.sent
    if traffic.unsafe and not traffic.unsafe.isdisjoint(job.identities):
        # The earlier row, imported later on, would undo this one; and this one what follows it.
        traffic.unsafe.update(job.identities)
        ledger.keep(job.row, RowError("an earlier row of this user was not imported"), job)
        return False
    if sent:
        job.digest = hashlib.sha256(ENCODER.encode(job.user).encode()).digest()
        digest, contact_id = sent.recall(job)
        if digest == job.digest and not any(job.user.get(name) for name in ALWAYS_SENT):
            ledger.unchanged += 1
            log.debug("%s: unchanged", job)
            return False
        if settings.contacts:
            job.intercom_id = job.intercom_id or contact_id or ""
    return True


def request_of(job: Job, settings: Settings) -> tuple[str, str, User]:
    """Method, URL and body of the request that adds or updates the job's user."""
    url = settings.intercom_user_url
    if not settings.contacts:
        return "POST", url, job.user
    if not job.intercom_id:
        return "POST", url, {"role": "user"} | to_contact(job.user)
    place = quote(job.intercom_id, safe="").replace(".", "%2E")
    return "PUT", f"{url}/{place}", to_contact(job.user)


def upsert(job: Job, intercom: Intercom) -> Answer:
    """The last answer to a job; RowError where the contact is archived, or somebody else's.

    https://developers.intercom.com/docs/references/rest-api/api.intercom.io/contacts
    """
    settings = intercom.settings
    ask = partial(intercom.ask, who=job, retries=itertools.count(1))
    # As nearly always, this is all; a remembered contact may have been merged or deleted.
    answer = ask(*request_of(job, settings))
    is_remembered = job.intercom_id and "id" not in job.user
    if is_remembered and answer.status in (404, 410):
        job.stale_id, job.intercom_id = job.intercom_id, ""
        answer = ask(*request_of(job, settings))
    is_conflict = settings.contacts and answer.status == 409 and not job.intercom_id
    exists = EXISTS.search(answer.errors) if is_conflict else None
    if not exists:
        return answer
    # The contact is there, under an id that the answer tells.
    job.intercom_id = exists[2]
    method, url, body = request_of(job, settings)
    if exists[1]:  # archived
        if not settings.intercom_unarchive:
            detail = f"the contact {exists[2]} is archived; see [intercom] unarchive"
            raise RowError("an archived contact", detail)
        answer = ask("POST", f"{url}/unarchive", {})
        if not answer.is_user:
            return answer
    # With an e-mail that others may share, see whose it is before it is overwritten.
    if "user_id" in job.user and "email" in job.user:
        answer = ask("GET", url, {})
        if not answer.is_user:
            return answer
        other, own = answer.content.get("external_id"), job.user["user_id"]
        if answer.content.get("role") == "lead":
            body["role"] = "user"
        elif other and other != own:
            what = f"contact {exists[2]} has these details, and the external_id {other}, not {own}"
            raise RowError("the e-mail of another contact", what)
    return ask(method, url, body)


def bring_in(job: Job, intercom: Intercom) -> None:
    """Upsert the job's user; what comes of it is going to be among the results."""
    try:
        intercom.results.put((job, upsert(job, intercom)))
    except Exception as error:
        intercom.results.put((job, error))


class Progress:
    """One line on a terminal that somebody looks at: share done, users, users a second, time left,
    rows not imported, and what a retry waits for."""

    def __init__(self, run: Run, ledger: Ledger, intercom: Intercom) -> None:
        self.ledger, self.intercom = ledger, intercom
        is_terminal = sys.stderr and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        is_watched = is_terminal and run.error_log and not run.arguments.quiet
        self.rows = run.survey.rows if run.survey and is_watched else 0
        self.began = self.drawn = time.monotonic()

    def draw(self, is_end: bool = False) -> None:
        """Replace the line by what fits; with blanks, as old consoles know no escapes."""
        now = time.monotonic()
        if not self.rows or now < self.drawn + 0.25 * (not is_end):
            return
        done, self.drawn, seconds = self.ledger.done, now, max(0.001, now - self.began)
        share = done / self.rows
        left = timedelta(seconds=round(seconds / share - seconds)) if done else "?"
        parts = [f"{share:4.0%}", f"{done} users", f"{done / seconds:.1f} users/s", f"{left} left"]
        parts.append(f"{self.ledger.not_imported} not imported")
        parts.append(redact(self.intercom.waiting_for))
        parts = [] if is_end else parts
        with contextlib.suppress(OSError):
            room = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            while len(line := "  ".join(filter(None, parts))) > room and parts:
                parts = parts[:-1]
            sys.stderr.write(f"\r{line.ljust(room)}\r")
            sys.stderr.flush()


def send_users(jobs: Iterator[Job], intercom: Intercom, run: Run, traffic: Traffic) -> None:
    """Send all jobs, as many at once as settings and Intercom allow; in the end all are counted.

    Only this thread counts. Whatever it fails at stops the run, but what is under way is collected
    first.
    """
    settings, progress = run.settings, Progress(run, traffic.ledger, intercom)
    intercom.while_waiting = progress.draw
    while True:
        progress.draw()
        try:
            # Take the next user in, where there is room and it isn't under way already.
            has_room = traffic.under_way < settings.intercom_concurrency and not run.is_stopped()
            job = traffic.next = traffic.next or (next(jobs, None) if has_room else None)
            if has_room and job and traffic.busy.isdisjoint(job.identities):
                if admit(job, traffic, settings):
                    if traffic.sent:
                        traffic.sent.forget(job)
                    traffic.busy.update(job.identities)
                    intercom.start(bring_in, job)
                    traffic.under_way += 1
                traffic.next = None
            elif traffic.under_way:
                settle(*intercom.results.get(timeout=POLL), traffic, run)
            else:
                break
        except queue.Empty:
            continue
        except Exception as error:
            run.stop(error)
    progress.draw(is_end=True)


def settle(job: Job, answer: Answer | Exception, traffic: Traffic, run: Run) -> None:
    """Count the job by the last answer to it, or by why there is none; stop the run where an
    answer says so."""
    ledger, by_id = traffic.ledger, bool(job.intercom_id)
    traffic.under_way -= 1
    traffic.settled += 1
    traffic.busy.difference_update(job.identities)
    if traffic.sent and job.stale_id:
        traffic.sent.forget_id(job.stale_id)
    # What becomes of its row.
    if not isinstance(answer, Answer):
        failure = answer if isinstance(answer, RowError) else RowError(STOPPED, str(answer))
        ledger.keep(job.row, failure, job)
        traffic.given_up, traffic.all_refused = 0, False
        if failure is not answer:
            run.stop(answer)
        return
    of_row = () if not by_id else (404, 405, 406) if run.settings.contacts else (404,)
    meaning = verdict(answer, of_row, ledger.imported > 0)
    if meaning == "accepted":
        ledger.imported += 1
        if traffic.sent:
            traffic.sent.remember(job, answer.id or job.intercom_id)
    else:
        ledger.keep(job.row, answer, job)
    # What the answer says of the other users.
    has_given_up = meaning == "retry" and not run.reason  # a run that stops hasn't tried it all
    traffic.given_up = traffic.given_up + 1 if has_given_up else 0
    traffic.unsafe.update(job.identities if has_given_up else ())
    # By id, 405 and 406 come of an id that makes another URL, which is one row's fault alone.
    is_refused = answer.status in (400, 422) or (by_id and answer.status == 404)
    traffic.all_refused = traffic.all_refused and is_refused
    if meaning == "stop":
        run.stop(stop_reason(answer, run.settings))
    elif traffic.given_up == 2:
        down = "Intercom is down or out of reach: two users in a row used up their retries"
        run.stop(f"{down} ({answer})")
    elif traffic.all_refused and traffic.settled == 100:
        advice = "" if run.settings.contacts else USE_CONTACTS
        own_id = "; the field id is Intercom's own: an id of yours belongs into user_id"
        advice += own_id if "id" in job.user else ""
        run.stop(f"the first 100 users were all refused{advice} ({answer})")


#### The end of a run, told

MAX_REASON = 1500  # characters, so that the counts still fit into a notice


class Outcome(NamedTuple):
    """How a run ended, for whoever reads of it."""

    status: int
    headline: str
    reason: str  # blank where all went well
    lines: list[str]  # counts, and where the rest stands
    urgent: list[str]  # of these lines, those that even --quiet prints


def outcome_of(run: Run) -> Outcome:
    """How the run ended, by what it has counted and why it stopped."""
    reason, lines, wrong = run.reason, list[str](), list[str]()
    found, ledger = run.survey, run.ledger
    if found and ledger:
        seconds = time.monotonic() - run.began
        lines.append(
            f"{found.file.name}: {ledger.imported} added or updated, {ledger.unchanged} unchanged, "
            f"{ledger.not_imported} not imported in {timedelta(seconds=int(seconds))} "
            f"({ledger.imported / max(seconds, 0.001):.1f} users/s)"
        )
        if ledger.not_imported and not reason:
            reason = f"{ledger.not_imported} of {ledger.done} rows were not imported"
        values = [f"{e.count} x {s.text!r} (no {s})" for s, e in found.left_out.items()]
        wrong = [f"values left out: {', '.join(values)}"] if values else []
        kinds = [f"{count} x {kind}" for kind, count in ledger.kinds.most_common()]
        lines += [*wrong, *kinds, *ledger.whereabouts()]
    if run.error_log and (reason or wrong):
        lines.append(f"the reasons: {run.error_log}")
    # A signal after the last row has ended nothing.
    status = 128 + run.signum if run.signum and run.reason else INCOMPLETE if reason else COMPLETE
    what = f"Import of {found.file.name if found else 'users'} to Intercom"
    headline = f"{what} {'stopped' if run.reason else 'ended'} on {socket.gethostname()}"
    return Outcome(status, headline, redact(reason)[:MAX_REASON], lines, lines if status else wrong)


def conclude(run: Run) -> int:
    """Tell the screen, the logs, Hipchat and Slack how the run ended; its exit status."""
    logging.getLogger().removeHandler(CONSOLE)
    outcome, quiet = outcome_of(run), run.arguments.quiet
    for line in outcome.lines:
        log.log(logging.ERROR if outcome.reason else logging.INFO, "%s", line)
    if outcome.reason:
        log.error("failed: %s", outcome.reason)
        what = "the run stopped: " if run.reason else ""
        echo(f"export_csv.py: {what}{outcome.reason}", sys.stderr)
    for line in outcome.urgent if quiet else outcome.lines:
        echo(line, sys.stderr if quiet else sys.stdout)
    first = f"{outcome.headline}: {outcome.reason or 'every row is in Intercom'}"
    notify(run.settings, [first, *outcome.lines], "red" if outcome.reason else "green")
    if run.error_log:
        remove_old_logs(run.settings, run.started)
    return outcome.status


def refuse_settings(run: Run) -> int:
    """Say what is wrong with the settings, also to those of Hipchat and Slack that are right."""
    logging.getLogger().removeHandler(CONSOLE)
    lines = run.problem_lines()
    for line in lines:
        log.error("%s", line)
        echo(line, sys.stderr)
    what = f"Import of users to Intercom not started on {socket.gethostname()}"
    first = f"{what}: the settings in {run.config.absolute()} are wrong"
    last = [f"the reasons: {run.error_log}"] if run.error_log else []
    able = [name for name in SERVICES if not run.has_problem_in(name.lower())]
    notify(run.settings, [first, *lines, *last], "red", able)
    return WRONG_SETTINGS


#### The run


def remarks(settings: Settings, sheet: Sheet) -> Iterator[tuple[int, str]]:
    """What is worth knowing of settings that are not wrong, and at which level to log it."""
    for place in settings.discarded:
        text = "is not among the fields that are sent, so it is left out; they are"
        yield logging.WARNING, f"{place} {text} {', '.join(FIELDS)}"
    for source in sheet.columns:
        if not source.is_attribute and settings.contacts and source.name in NOT_IN_CONTACTS:
            yield logging.WARNING, f"[user] {source.name}: contacts don't have it: left out"
        is_number_there = source.type == "timestamp" and not source.name.endswith("_at")
        if source.is_attribute and is_number_there and not settings.contacts:
            text = "shows as a number in Intercom; with a name ending in _at, as a date"
            yield logging.DEBUG, f"[custom_attributes] {source.name} {text}"


def look_at(file: CsvFile, run: Run) -> Survey:
    """What the whole file holds; StopRun where it is not to be imported."""
    found = survey(file, run.settings)
    if reason := found.reason_to_stop(is_named=bool(run.arguments.filename)):
        raise StopRun(reason)
    return found


def known_users(run: Run, write: bool) -> SentUsers | None:
    """What was sent before, where that is to be left out; there may be nothing to read yet."""
    state = Path(run.settings.intercom_state_file)
    is_there = write or (state.exists() and state.stat().st_size)
    is_used = run.settings.intercom_skip_unchanged and is_there
    sent = SentUsers(run.settings, write, run.stop) if is_used else None
    if run.reason:
        raise StopRun(run.reason)
    return sent


def import_users(run: Run) -> None:
    """Bring the file's users into Intercom; StopRun where a run can't begin."""
    settings = run.settings
    what = f"Import of users to Intercom started on {socket.gethostname()}"
    notify(settings, [f"{what}, with {run.config.absolute()}"], "yellow")
    file = open_file(settings)
    with file.content:
        log.info("version %s, importing %s of %d bytes", VERSION, file.path, file.state.st_size)
        run.survey = found = look_at(file, run)
        for level, text in remarks(settings, found.sheet):
            log.log(level, "%s", text)
            if level == logging.WARNING and run.error_log and not run.arguments.quiet:
                echo(text, sys.stdout)
        intercom = Intercom(settings, run.is_stopped)
        for name, data_type in attributes_to_make(intercom).items():
            create_attribute(intercom, name, data_type)
        sent = known_users(run, write=True)
        sheet = open_sheet(file, settings)
        rows = itertools.islice(sheet.rows, found.rows)  # and no row that came in later
        # From here on, whatever happens, each row is counted.
        run.ledger = ledger = Ledger(KeptRows(file, sheet, run))
        traffic = Traffic(ledger, sent)
        send_users(make_jobs(rows, sheet, ledger), intercom, run, traffic)
        keep_rest(rows, traffic, run)
        ledger.unread = found.rows - ledger.done
        ledger.not_imported += ledger.unread
        file.check()


def keep_rest(rows: Iterable[Row], traffic: Traffic, run: Run) -> None:
    """Keep what a run that stopped didn't come to."""
    if traffic.next:
        traffic.ledger.keep(traffic.next.row, RowError(STOPPED), traffic.next)
    try:
        for number, row in enumerate(rows):
            if number == 0:
                log.error("line %d and all after it: not imported: %s", row.line, STOPPED)
            traffic.ledger.keep(row, None)
    except Exception as error:
        run.stop(error)


def catch_signals(run: Run) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # the last is Windows', SIGHUP is not
        number = getattr(signal, name, None)
        if number and (name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN):  # nohup
            signal.signal(number, run.on_signal)


#### A dry run, and a check

LETTERS = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False)
FINE, WORTH_KNOWING, WRONG = 0, 1, 2
CREDENTIALS = ("access_token", "api_id", "api_key")


def dry_run(run: Run) -> int:
    """Print the bodies that Intercom would get, and what would become of the file."""
    if sys.stdout is None:
        raise StopRun("there is no standard output to print the users on")
    file = open_file(run.settings)
    with file.content:
        found = look_at(file, run)
        ledger, sheet = Ledger(), open_sheet(file, run.settings)
        traffic = Traffic(ledger, known_users(run, write=False))
        lines = list(account(found))
        try:
            for job in make_jobs(sheet.rows, sheet, ledger):
                if admit(job, traffic, run.settings):
                    text = LETTERS.encode(request_of(job, run.settings)[2])
                    sys.stdout.buffer.write(text.encode() + b"\n")
                    ledger.imported += 1
            sys.stdout.flush()
            lines.append(
                f"{file.name}: {ledger.imported} would be added or updated, {ledger.unchanged} "
                f"are unchanged, {ledger.not_imported} would not be imported"
            )
        except OSError as error:  # or else whoever reads them has had enough
            drop(sys.stdout)
            if error.errno not in (errno.EPIPE, errno.EINVAL):  # the latter on Windows
                raise StopRun(f"standard output can't be written: {error.strerror}") from None
    if run.reason:
        raise StopRun(run.reason)
    for line in lines if len(lines) > 1 or not run.arguments.quiet else ():
        echo(line, sys.stderr)
    return INCOMPLETE if found.rejected else COMPLETE


def account(found: Survey) -> Iterator[str]:
    """What of the file would not be sent, with the first three of each."""
    for source, examples in found.left_out.items():
        what = f"of {source.text!r} would be left out, being no {source}:"
        yield f"{counted(examples.count, 'value')} {what}"
        yield from examples.lines()
    for kind, examples in found.rejected.items():
        yield f"{counted(examples.count, 'row')} would not be imported: {kind}"
        yield from examples.lines()


def check_setup(run: Run) -> int:
    """Say of settings, file, Intercom and notices whether a run would work; the exit status."""
    worst = FINE
    for level, line in check_lines(run):
        worst = max(worst, level)
        if level or not run.arguments.quiet:
            echo(line, sys.stdout)
    return WRONG_SETTINGS if run.problems else INCOMPLETE if worst == WRONG else COMPLETE


def check_lines(run: Run) -> Iterator[tuple[int, str]]:
    """What is found, a line each, and whether it is FINE, WORTH_KNOWING or WRONG."""
    settings = run.settings
    yield from ((WRONG, line) for line in run.problem_lines())
    if not run.problems:
        yield FINE, f"{run.config.name}: is right"
    # The file can be looked at without credentials, which are what is still missing at first.
    if run.problems.keys() <= {f"[intercom] {key}" for key in CREDENTIALS}:
        yield from check_file(run)
    if not run.problems:
        yield from check_intercom(run)
    for name in SERVICES:
        if not getattr(settings, f"{name.lower()}_use_{name.lower()}"):
            yield FINE, f"{name}: not used"
        elif not run.arguments.notify or run.has_problem_in(name.lower()):
            yield FINE, f"{name}: set up, not asked; --check --notify posts a test notice"
        else:
            text = f"A test notice of the import of users to Intercom, from {socket.gethostname()}"
            took_it = notify(settings, [text], "yellow", [name], sys.stdout)
            what = "took" if took_it else "did not take"
            yield FINE if took_it else WRONG, f"{name}: {what} the test notice"


def check_file(run: Run) -> Iterator[tuple[int, str]]:
    """Which file it would be, and for each mapped field an example of what would be sent."""
    settings, place = run.settings, "S3" if run.settings.aws_use_aws else "file"
    try:
        file = open_file(settings)
        with file.content:
            old = timedelta(seconds=max(0, int(age(file, settings))))
            yield FINE, f"{place}: {file.path}, {old} old"
            found = survey(file, settings)
    except StopRun as error:
        yield WRONG, f"{place}: {error}"
        return
    yield FINE, f"{place}: {counted(found.rows, 'row')}"
    for source in found.sheet.columns:
        cell, value = found.samples.get(source, ("", None))
        count = found.left_out.get(source, Examples()).count
        sent = f"{cell[:50]!r} is sent as {LETTERS.encode(value)[:80]}" if cell else "no value"
        wrong = f"; {count} left out" if count else ""
        yield FINE, f"  {source.name} = {source.text} : {source}: {sent}{wrong}"
    for name, value in found.sheet.constants.items():
        yield FINE, f"  {name}: every user is sent {LETTERS.encode(value)[:80]}"
    yield from ((FINE, text) for _, text in remarks(settings, found.sheet))
    yield from ((WRONG if found.rejected else WORTH_KNOWING, line) for line in account(found))
    if reason := found.reason_to_stop(is_named=bool(run.arguments.filename)):
        yield WRONG, f"a run would stop: {reason}"


def check_intercom(run: Run) -> Iterator[tuple[int, str]]:
    """Whether Intercom would have us."""
    intercom, url = Intercom(run.settings, run.is_stopped), urlsplit(run.settings.intercom_user_url)
    answer = intercom.exchange("GET", f"{url.scheme}://{url.netloc}/me")
    try:
        if answer.status != 200 or answer.content.get("type") not in ("admin", "app"):
            raise StopRun(stop_reason(answer, run.settings))
        missing = attributes_to_make(intercom)
    except StopRun as error:
        yield WRONG, f"Intercom: {error}"
        return
    yield FINE, f"Intercom: accepts the credentials of {answer.content.get('name') or 'an app'}"
    if missing:
        yield FINE, f"Intercom: custom attributes that a run would make: {', '.join(missing)}"


#### The command line

EXAMPLES = """\
examples:
  python export_csv.py                       the newest file, as config.ini says
  python export_csv.py users_2026.csv        this file
  python export_csv.py --dry-run > out.jsonl what Intercom would get
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
    add("--notify", action="store_true", help="with --check: post a test notice to each service")
    add("--quiet", action="store_true", help="print nothing but what needs somebody: for cron")
    add("--version", action="version", version=f"%(prog)s {VERSION}")
    arguments = parser.parse_args(argv)
    if arguments.filename == "":
        parser.error("the filename is blank")
    if arguments.notify and not arguments.check:
        parser.error("--notify goes with --check")
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
    """Check, rehearse or run with these settings, or say what is wrong with them."""
    settings, problems = read_settings(config, arguments)
    run = Run(settings, problems, config, arguments, datetime.now())
    if arguments.check:
        return check_setup(run)
    if arguments.dry_run:
        for line in run.problem_lines():
            echo(line, sys.stderr)
        return WRONG_SETTINGS if problems else dry_run(run)
    CONSOLE.setLevel("ERROR" if arguments.quiet else "WARNING")
    try:
        if not run.has_problem_in("log"):
            run.error_log = open_logs(settings, run.started)
        if not problems:
            catch_signals(run)
            import_users(run)
    except KeyboardInterrupt as error:
        if run.ledger:
            raise
        run.stop(f"{signal.Signals(error.args[0]).name} ended it")
    except Exception as error:
        run.stop(error)
    return refuse_settings(run) if problems else conclude(run)


def main(argv: list[str] | None = None) -> int:
    """Lock the config, so that no two runs send the same users, and run; the exit status."""
    arguments = parse_arguments(argv)
    config: Path = arguments.config
    # What the process is to be like.
    os.umask(0o077)  # what is made is its owner's alone
    logging.getLogger().addHandler(logging.NullHandler())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # The config, and its lock.
    try:
        if config.exists() and not config.is_file():
            raise OSError(errno.EINVAL, "it is no file")  # a pipe would hang the run
        file = config.open("rb")
    except OSError as error:
        echo(f"export_csv.py: {config} can't be read: {error.strerror}; see --config", sys.stderr)
        return WRONG_SETTINGS
    try:
        if not (arguments.check or arguments.dry_run or lock(file)):
            echo(f"export_csv.py: another run with {config} is under way", sys.stderr)
            return UNDER_WAY
        return run_once(config, arguments)
    except StopRun as error:
        echo(f"export_csv.py: {error}", sys.stderr)
        return INCOMPLETE
    except KeyboardInterrupt as error:  # the second one, or before there is anything to end
        echo("export_csv.py: ended at once: what is left is only in the input", sys.stderr)
        os._exit(128 + (error.args[0] if error.args else signal.SIGINT))
    except Exception as error:
        echo(f"export_csv.py: {unforeseen(error)}", sys.stderr)
        return INCOMPLETE
    finally:
        file.close()


if __name__ == "__main__":
    sys.exit(main())
