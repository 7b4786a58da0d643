#!/usr/bin/env python3
"""Create or update Intercom users from a CSV file, one request per user.

Run it by hand or from cron. All settings are in config.ini and documented there. The code follows
the order of a run, from reading the settings to the summary; `main` is at the end. Chapters begin
with `####`, their parts with `##`.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings

if __name__ == "__main__":

    def exit_at_once(signum: int, frame: object) -> None:
        """Exit: until an import begins, there is nothing to wait for and nothing to save."""
        try:
            # sys.stderr is None if the program was started without standard error; descriptor 2 may
            # then belong to another file.
            if sys.stderr:
                os.write(2, b"export_csv.py: interrupted\n")
        finally:
            os._exit(128 + signum)

    # Libraries' warnings are for developers, and PYTHONWARNINGS=error would make them fatal.
    warnings.simplefilter("ignore")
    # Importing the packages below takes a while, during which Ctrl-C would print a traceback.
    # If the parent process ignores the signal (nohup, background jobs), it stays ignored.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, exit_at_once)

import argparse
import base64
import calendar
import codecs
import contextlib
import csv
import difflib
import email.utils
import errno
import gc
import gzip
import hashlib
import html
import http.client
import io
import itertools
import json
import logging
import math
import queue
import re
import select
import shutil
import socket
import sqlite3
import ssl
import stat
import tempfile
import threading
import time
import unicodedata
import urllib.request
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta, timezone, tzinfo
from enum import Enum, IntEnum, auto
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import (
    IO,
    Any,
    AnyStr,
    BinaryIO,
    ClassVar,
    NamedTuple,
    NoReturn,
    TextIO,
    TypeGuard,
)
from urllib.parse import quote, unquote, urlencode, urlsplit

INSTALL_HINT = (
    "run `sh installboto.sh` (Windows: installboto.bat), then use .venv/bin/python"
)
try:
    import dotenv
    import dotenv.parser
    import requests
    import requests.adapters
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.exceptions import NewConnectionError
    from urllib3.util import SKIP_HEADER
    from urllib3.util.connection import create_connection
    from urllib3.util.ssl_match_hostname import CertificateError
except ImportError as error:
    sys.exit(f"export_csv.py: the package {error.name} is missing; {INSTALL_HINT}")
if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

VERSION = "1.2.0"
POLL_INTERVAL = 0.1  # seconds between checks for a signal
RUN_STOPPED = "run stopped"
# Once the run stops, all requests for users that are in flight have this many seconds to finish.
STOP_GRACE_PERIOD = 120
SECOND_CTRL_C_DELAY = 1  # seconds after which a second Ctrl-C counts as deliberate
log = logging.getLogger("export_csv")


class ExitStatus(IntEnum):
    """Exit statuses of the program. A run ended by a signal exits with 128 + its number."""

    OK = 0  # every row was accepted or is unchanged
    INCOMPLETE = 1  # the run stopped, or some rows were not imported
    CONFIG_ERROR = 2  # invalid arguments or settings; nothing was sent
    ALREADY_RUNNING = 3  # another run with the same config file is in progress


class RunAborted(Exception):
    """Ends the run. The message says why and, if possible, how to fix it."""


class RowRejected(Exception):
    """One row can't be imported.

    `category` groups rows in the summary and in notices; the message is specific to this row.
    """

    def __init__(self, category: str, message: str = "") -> None:
        super().__init__(message or category)
        self.category = category


class StopSignal:
    """Records why the run has to stop, and since when.

    The cause is a signal, or a call to `request`.

    The signal handler only sets attributes. An exception raised in it could appear anywhere, even
    while Python shuts down, and a repeated SIGTERM (`timeout` and process managers send two) would
    lose rows.
    """

    def __init__(self) -> None:
        self.reason = ""  # the first one wins
        self.signum = 0  # of the first signal
        self.signal_came_first = False  # True if no other reason came first
        self.all_rows_done = False  # every row is done, so a signal no longer matters
        self.since = math.inf  # time.monotonic()
        self.first_ctrl_c = math.inf  # time.monotonic()

    def request(self, reason: str | Exception) -> None:
        """Ask the run to stop."""
        if isinstance(reason, Exception) and not isinstance(reason, RunAborted):
            reason = f"{describe_unexpected(reason)}; see the debug log"
        log.debug("stopping: %s", reason)
        self.reason = self.reason or str(reason)
        # A second reason must not extend the time that users in flight have left.
        self.since = min(self.since, time.monotonic())

    def add_reason(self, reason: str) -> None:
        """Add a reason for a failure that occurs while the run is stopping."""
        if self.reason:
            reason = f"{self.reason}; {reason}"
        self.reason = reason

    def is_set(self) -> bool:
        return bool(self.signum or self.reason)

    def deadline(self) -> float:
        """Return the deadline for users in flight, or inf if the run isn't stopping."""
        return self.since + STOP_GRACE_PERIOD

    def describe(self) -> str:
        """Return the reason, or "" if the run was not stopped."""
        if not self.was_signaled():
            return self.reason
        text = f"stopped by {signal.Signals(self.signum).name}"
        if self.signum == signal.SIGINT:
            text = "interrupted"
        return f"{text}; {self.reason}" if self.reason else text

    def was_signaled(self) -> bool:
        """Return whether a signal stopped the run before every row was done."""
        return self.signal_came_first and not self.all_rows_done

    def on_signal(self, signum: int, frame: object) -> None:
        """Record a signal. Only another Ctrl-C, at least a second later, exits at once.

        Terminals and process managers send a signal twice within milliseconds: to the process and
        to its group. The second one must not keep the run from saving the remaining rows.
        """
        now = time.monotonic()
        if signum == signal.SIGINT:
            # Measured from the first Ctrl-C, not from when the run stopped: a terminal may send
            # two even if a 401 or SIGTERM stopped the run long before.
            if now - self.first_ctrl_c >= SECOND_CTRL_C_DELAY:
                abort_at_once()
            self.first_ctrl_c = min(self.first_ctrl_c, now)
        # The exit status is 128 + the first signal: a SIGHUP may follow the SIGTERM.
        if not self.signum:
            self.signum = signum
            self.signal_came_first = not self.reason
        self.since = min(self.since, now)

    def catch_signals(self) -> None:
        """Handle the signals that end a program, except those that the parent process ignores."""
        # SIGHUP doesn't exist on Windows, and SIGBREAK (Ctrl-Break) exists only there.
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.on_signal)


def abort_at_once() -> None:
    """Exit without saving anything else, after a second Ctrl-C."""
    message = b"\nexport_csv.py: aborted; remaining rows are only in the input file\n"
    if sys.stderr:
        with contextlib.suppress(OSError, ValueError):
            # If nothing reads from the pipe, a write to it could block forever.
            if os.name == "nt" or select.select([], [2], [], 0)[1]:
                os.write(2, message)
    os._exit(128 + signal.SIGINT)


def pluralize(count: int, word: str) -> str:
    """Return the count and the word, such as "1 row" or "2,000 rows"."""
    plural = "" if count == 1 else "s"
    return f"{count:,} {word}{plural}"


#### Secrets and redaction

MASK = "***"
# A secret that has only letters or only digits, or is very short, may be part of an ordinary
# sentence. If the token is `1`, masking it everywhere would turn a count into "*** not imported".
MIN_WORD_SECRET_LENGTH = 16
MIN_MIXED_SECRET_LENGTH = 6
# Shorter parts of an encoded secret reveal nothing, and would match by chance.
MIN_BASE64_LENGTH = 8
# Text that precedes an everyday word used as a secret: `Bearer wrong`, `"api_key": "wrong"`,
# `?auth_token=wrong`.
CREDENTIAL_CONTEXT = (
    r"(?:bearer|basic)\s+"
    r"|(?:key|token|secret|password)\\*['\"]?\s*[:=]\s*\\*['\"]?"
    r"|[?&][\w.-]+="
)
ESCAPE_CHARACTERS = ("%", "&", "\\", "+")  # every encoded secret contains one of these
URL_CREDENTIALS = r"://[^/\s@]*@"


class SecretMask:
    """Masks the registered secrets in a string, in any common encoding.

    The program never prints a secret on purpose. But exception messages contain URLs, and a server
    may echo the request, escaped as JSON, HTML, a URL or base64.
    """

    def __init__(self) -> None:
        # Whole secrets, longest first, because one may be part of another.
        self.secrets: list[str] = []
        self.words: list[str] = []  # masked only where they are used as secrets
        self.patterns: SecretPatterns | None = None

    def add(self, secret: str) -> None:
        """Add a secret; a blank one is ignored."""
        if not secret:
            return
        if is_everyday_word(secret):
            encoded = base64.b64encode(secret.encode(errors="replace")).decode()
            self.words = longest_first({*self.words, secret, encoded})
        else:
            self.secrets = longest_first({*self.secrets, secret, *base64_forms(secret)})
        self.patterns = None

    def apply(self, text: str) -> str:
        """Return the text without the secrets."""
        # Most text is log lines without secrets, so the fast check comes first.
        for secret in self.secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        if self.patterns is None:
            self.patterns = SecretPatterns(self.secrets, self.words)
        if self.secrets and any(sign in text for sign in ESCAPE_CHARACTERS):
            text = self.patterns.encoded.sub(MASK, text)
        if any(word in text for word in self.words):
            text = self.patterns.words.sub(rf"\1\2{MASK}", text)
        return text


class SecretPatterns:
    """The regular expressions for a set of secrets, compiled when they are first needed."""

    def __init__(self, secrets: list[str], words: list[str]) -> None:
        encoded = "|".join(map(encoded_pattern, secrets))
        self.encoded = re.compile(encoded, re.IGNORECASE)
        word = "|".join(map(re.escape, words))
        self.words = re.compile(
            rf"((?i:{CREDENTIAL_CONTEXT}))(?:{word})(?!\w)|(['\"])(?:{word})(?=\\*['\"])"
        )


def is_everyday_word(secret: str) -> bool:
    """Return whether the secret could be part of an ordinary sentence, such as `1` or `wrong`."""
    if secret.isalpha() or secret.isdigit():
        return len(secret) < MIN_WORD_SECRET_LENGTH
    return len(secret) < MIN_MIXED_SECRET_LENGTH


def longest_first(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=len, reverse=True)


def base64_forms(secret: str) -> set[str]:
    """Return a secret in base64, for each position at which it may begin in the encoded text.

    Base64 encodes three bytes at a time, so the same secret has three encodings, depending on
    how many bytes precede it. The characters at the ends also depend on the neighboring bytes.
    In an echo of `Bearer TOKEN`, the token has the second form; in an echo of `id:key`, the whole
    string has the first.
    """
    raw = secret.encode(errors="replace")
    forms = set()
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + raw).decode().rstrip("=")
        # Only characters whose six bits all belong to the secret are kept.
        first_own = (offset * 8 + 5) // 6
        last_own = (offset + len(raw)) * 8 // 6
        own = encoded[first_own:last_own]
        # The URL-safe alphabet has - and _ instead.
        forms |= {own, own.replace("+", "-").replace("/", "_")}
    return {form for form in forms if len(form) >= MIN_BASE64_LENGTH}


def encoded_pattern(secret: str) -> str:
    """Return a pattern that matches the secret, whichever of its characters are encoded."""
    return "".join(map(character_pattern, secret))


def character_pattern(character: str) -> str:
    """Return a pattern for a character, plain or escaped as in JSON, Python, URLs and HTML.

    Proxies and log viewers may encode encoded text again: %252F, and long runs of backslashes.
    """
    if character.isascii() and character.isalnum():
        return character
    code = ord(character)
    octets = character.encode(errors="replace")
    # For "=", these match \=, \u003d, \x3d, %3D, %253D, &#61;, &amp;#61; and &#x3d;.
    spellings = [
        r"\\*" + re.escape(character),
        rf"\\+u{code:04x}",
        rf"\\+x{code:02x}",
        re.escape(json.dumps(character)[1:-1]),
        "".join(f"%(?:25)*{octet:02x}" for octet in octets),
        rf"&(?:amp;)*#0*{code};",
        rf"&(?:amp;)*#x0*{code:x};",
        re.escape(html.escape(character)),
    ]
    if character == " ":
        spellings.append(r"\+")
    return f"(?:{'|'.join(spellings)})"


secret_mask = SecretMask()


def register_secret(secret: str) -> None:
    """Make `redact` hide a secret from now on."""
    secret_mask.add(secret)


def register_secret_url(url: str) -> None:
    """Hide a secret URL, such as a webhook's: its path, and each long part of the path.

    The parts are hidden too, because an echo of the URL may have its slashes encoded.
    """
    register_secret(url)
    # urllib3's messages contain only the path: `Max retries exceeded with url: /services/...`.
    path = re.sub(r"^\w+://[^/]*", "", url)
    register_secret(path)
    for part in path.split("/"):
        if not is_everyday_word(part):  # not "services" or "hooks"
            register_secret(part)


def redact(text: object) -> str:
    """Return `text` with secrets masked and control characters escaped."""
    shown = str(text)
    # Any URL may contain a password, even one that isn't in the settings.
    if "://" in shown:
        shown = re.sub(URL_CREDENTIALS, f"://{MASK}@", shown)
    shown = secret_mask.apply(shown)
    if shown.isprintable():
        return shown
    return "".join(escape_control_character(character) for character in shown)


def escape_control_character(character: str) -> str:
    r"""Return the character, or an escape such as \n, so that no cell can forge a log line."""
    if character.isprintable():
        return character
    return ascii(character)[1:-1]


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that led to it, innermost last.

    These are the exceptions that a traceback shows, in reverse order.
    """
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        if cause.__cause__ is not None or cause.__suppress_context__:
            cause = cause.__cause__
        else:
            cause = cause.__context__


def root_cause(error: BaseException) -> str:
    """Describe the innermost exception; the outer ones may contain URLs with secrets."""
    *_, cause = causes(error)
    return f"{type(cause).__name__}: {cause}"


def describe_unexpected(error: Exception) -> str:
    """Log the traceback of an unexpected error and return a message for the user."""
    log.debug("traceback of the unexpected error", exc_info=error)
    return f"unexpected error: {root_cause(error)}"


#### Intercom fields

CellValue = str | int | float | bool
UserPayload = dict[str, Any]
# Intercom's limits: active custom attributes per workspace, and the length of a name.
MAX_ATTRIBUTES = 250
MAX_ATTRIBUTE_NAME = 190  # characters
FIELDS = {  # in a fixed order: changing it would change the digest of every user
    "user_id": "id",
    "email": "email",
    "id": "id",
    "signed_up_at": "timestamp",
    "name": "string",
    "last_seen_ip": "string",
    "last_seen_user_agent": "string",
    "last_request_at": "timestamp",
    "unsubscribed_from_emails": "boolean",
    "update_last_request_at": "boolean",
    "new_session": "boolean",
}
# Unsupported Intercom fields. They must not be reported as misspellings of those above.
UNSUPPORTED_FIELDS = (
    "phone",
    "avatar",
    "owner_id",
    "role",
    "external_id",
    "last_seen_at",
    "companies",
    "tags",
)
IDENTITY_FIELDS = ("user_id", "email", "id")
# Times of user activity: unlike a renewal date, they can't be in the future.
ACTIVITY_FIELDS = ("signed_up_at", "last_request_at")
# Intercom acts on these each time, so a user with one of them is never skipped as unchanged.
FIELDS_WITH_SIDE_EFFECTS = ("new_session", "update_last_request_at")
# API 2.x has other names for these fields.
CONTACT_FIELD_NAMES = {"user_id": "external_id", "last_request_at": "last_seen_at"}
# API 2.x has no equivalent of these.
USER_ONLY_FIELDS = ("last_seen_ip", "last_seen_user_agent", "new_session")


def to_contact(user: UserPayload) -> UserPayload:
    """Translate a user to the field names of API 2.x, where users are contacts."""
    contact: UserPayload = {}
    for name, value in user.items():
        # `id` is in the URL of PUT /contacts/{id}, not in the body.
        if name not in (*USER_ONLY_FIELDS, "id", "update_last_request_at"):
            contact[CONTACT_FIELD_NAMES.get(name, name)] = value
    # API 2.x has no such field, but the current time has the same effect.
    if user.get("update_last_request_at"):
        contact["last_seen_at"] = int(time.time())
    return contact


#### Cell types

MAX_TYPED_CELL = 255  # characters; also Intercom's limit for a custom attribute
MAX_CACHED_CELLS = 4096  # per column

# A converter returns a cell's value, or raises ValueError with a reason that completes
# "'x' is", such as "not an integer". Huge cells are rejected first, before they
# reach a regular expression or a log message.

NOT_INTEGER = "not an integer"
NOT_BOOLEAN = "not a boolean (true/false, t/f, yes/no, y/n, on/off, 1/0)"
NOT_EMAIL = "not an e-mail address"
NOT_TIMESTAMP = "not UNIX seconds or an ISO 8601 date"
NO_SUCH_DATE = "not a date that exists"
DATE_WITHOUT_DASHES = "a date without dashes"
PLACEHOLDER_DATE = "not a plausible date (before 1900, after 2200, or a placeholder)"
IN_THE_FUTURE = "more than a day in the future"

## Placeholders

# The words that tools write for a missing value: SQL, Python, Ruby, JavaScript, R, C's printf.
MISSING_WORD = re.compile(
    r"(?i)null|none|nil|undefined|nan|n/a|[-\u2013\u2014]|\((?:null|none)\)"
)
# In a typed column these mean a missing value too, but an id or a name may well be NA or Never.
MISSING_IN_TYPED_COLUMN = (
    r"(?i)n\.?a\.?|nat|<(?:na|null|none)>|\[null\]|\\n|--|---|\?|\.\.\.|unknown|never|unset|missing"
    r"|not set|not available|not applicable|empty|\((?:not set|blank|empty)\)"
)
# Errors end in ! or ?, in every language: #REF!, #BEZUG!, #NAME?, #\xa1VALOR!; a hashtag such as
# #1 Flo or #42 doesn't. The errors for "not available" and "still loading" don't either.
SPREADSHEET_ERROR = re.compile(
    r"\#[\xa1\xbf]?[^\W\d_]\S*[!?]"
    r"|\#(?:N/?A|N/D|N/B|N/V|NB|NV|I/T|YOK|\u041d/\u0414|\u0394/\u03a5|HI\xc1NYZIK"
    r"|NEN\xcd_K_DISPOZICI|NEDOSTUPN\xdd|GETTING_DATA|DATEN_ABRUFEN|CHARGEMENT_DONNEES"
    r"|OBTENIENDO_DATOS|ERROR)"
    r"|\#{2,}"  # a number that is wider than its column
    r"|(?:Err|Fehler|Erreur|Errore|Erro|Fout):5\d\d"  # LibreOffice
    r"|(?:Loading|Wird geladen|Laden|Chargement|Cargando|Caricamento|Carregando|Indl\xe6ser"
    r"|L\xe4ser in|Laster inn|Ladataan|Y\xfckleniyor|\u0141adowanie|Na\u010d\xedt\xe1n\xed"
    r"|\u0417\u0430\u0433\u0440\u0443\u0437\u043a\u0430"
    r"|\u8aad\u307f\u8fbc\u307f\u4e2d|\u6b63\u5728\u52a0\u8f7d)"
    r"(?: \w+){0,3} ?(?:\.\.\.|\u2026)"
)

# Databases and tools write 0001-01-01, 9999-12-31 and the like for "no date".
EARLIEST_YEAR = 1900
LATEST_YEAR = 2200
# Three numbers with the same separator, and perhaps a time: 2026-11-24, 24.11.26, 11/24/2026 9:05.
NUMERIC_DATE = re.compile(
    r"(?P<first>\d\d?|\d{4})(?P<separator>[-/. ])(?P<second>\d\d?)(?P=separator)"
    r"(?P<third>\d\d?|\d{4})(?![\d./-])(?P<rest>(?:[T ,].*)?)",
    re.ASCII | re.DOTALL,
)
# The time after 1970-01-01 in a placeholder: "T00:00:00Z", " 0:00", ", 12:00 AM".
MIDNIGHT = (
    r"[T ,]*(?:00?:00(?::00(?:[.,]0*)?)?|12:00(?::00)? ?[Aa][Mm])"
    r" ?(?:Z|UTC|GMT|\+00(?::?00)?)?"
)
# For example, 00000000000000 is MySQL's zero date without separators.
ALL_ZEROS = "[0 :/.,T+Z-]{8,}"
# An empty or invalid date in UNIX seconds; C's mktime returns -1 for an error.
ZERO_OR_MINUS_ONE = r"[+-]?0+(?:[.,]0*)?|-1(?:[.,]0*)?"
# The first and last dates of .NET, SQL Server and other databases, without dashes or as numbers.
SENTINELS = (
    r"(?:00010101|99991231|18991230|17530101)(?:\d{4}|\d{6})?"
    r"|-62135596800(?:000)?|253402300799(?:999)?|25340[12]\d{6}(?:000)?"
)
# A year, but not an offset or a fraction of a second: only 2023 is matched in "4 May 2023
# 10:11:05.1234 +0200".
FOUR_DIGIT_YEAR = r"(?a)(?<![+:.\d])(?<! -)\d{4}(?![:\d])"
# In English, whatever the system's language is: the program doesn't call setlocale.
MONTHS = [name.lower() for name in calendar.month_name[1:]]
MONTH_NUMBERS = {name: number for number, name in enumerate(MONTHS, 1)}
MONTH_NUMBERS |= {name[:3]: number for number, name in enumerate(MONTHS, 1)}
WEEKDAYS = [name.lower() for name in calendar.day_name]


def is_spreadsheet_error(cell: str) -> bool:
    """Return whether the cell is a spreadsheet error (#REF!) or status (Loading...)."""
    # These comparisons rule out most cells, and are faster than the regular expression.
    if not (cell.startswith("#") or cell.endswith((".", "\u2026")) or ":5" in cell):
        return False
    if len(cell) > MAX_TYPED_CELL or not SPREADSHEET_ERROR.fullmatch(cell):
        return False
    # "#wow!" is a hashtag; spreadsheets write their errors in capitals.
    return cell[0] != "#" or cell == cell.upper()


def is_missing_word(cell: str) -> bool:
    """Return whether the cell is a word for a missing value that is never a valid id."""
    return len(cell) <= MAX_TYPED_CELL and MISSING_WORD.fullmatch(cell) is not None


def is_placeholder(cell: str) -> bool:
    """Return whether a cell of a typed column is a placeholder: n/a, #REF!, 0000-00-00."""
    if len(cell) > MAX_TYPED_CELL:
        return False
    if is_missing_word(cell) or re.fullmatch(MISSING_IN_TYPED_COLUMN, cell):
        return True
    return is_spreadsheet_error(cell) or is_placeholder_date(cell)


def is_placeholder_date(cell: str, is_activity_time: bool = False) -> bool:
    """Return whether the cell is a placeholder date, in any common notation.

    1970-01-01 without a time may be a birthday, unless `is_activity_time`.
    """
    date = NUMERIC_DATE.fullmatch(cell)
    if date is None:
        return is_named_placeholder_date(cell)
    first, second, third = map(int, date.group("first", "second", "third"))
    # Day and month may be in either order, so the tests below treat both alike.
    if len(date["first"]) == 4:
        year = first
        day = third
    elif len(date["third"]) == 4:
        year = third
        day = first
    else:
        # A two-digit year comes last: 00 means 2000, unless the other parts are 0 too.
        return second == 0 or first == third == 0
    if day > 31 or second > 31:
        return False  # 123-45-6789 isn't a date
    if day == 0 or second == 0 or not EARLIEST_YEAR <= year <= LATEST_YEAR:
        return True
    # Only the start of 1970 is suspicious: it is 0 in UNIX seconds.
    if (year, second, day) != (1970, 1, 1):
        return False
    if is_activity_time and not date["rest"]:
        return True
    return re.fullmatch(MIDNIGHT, date["rest"]) is not None


def is_named_placeholder_date(cell: str) -> bool:
    """Return whether a date with a month name, or with only digits, is a placeholder."""
    if re.fullmatch(SENTINELS, cell) or re.fullmatch(ALL_ZEROS, cell):
        return True
    # "1 Jan 0001" or "Dec 31, 9999": a month's name, and a single year that isn't plausible.
    words = re.findall("[a-z]+", cell.lower())
    if MONTH_NUMBERS.keys().isdisjoint(words):
        return False
    years = re.findall(FOUR_DIGIT_YEAR, cell)
    return len(years) == 1 and not EARLIEST_YEAR <= int(years[0]) <= LATEST_YEAR


## Texts

# All kinds of quotes are excluded too, but ' may appear in the local part: o'di@example.com.
EMAIL = re.compile(
    "(?!')[^\\s\\x00-\\x1f\\x7f\ufffd@,;:<>()\\[\\]{}\"`\xab\xbb\u2018\u201c\u201d\u201e]+"
    "@[^\\s\\x00-\\x1f\\x7f\ufffd@,;:<>()\\[\\]{}\"`\xab\xbb\u2018\u201c\u201d\u201e'\u2019]+"
)


def to_email(cell: str) -> str:
    """Return the cell; raise ValueError if it isn't one bare address, such as ada@example.com."""
    if len(cell) > MAX_TYPED_CELL or not EMAIL.fullmatch(cell):
        raise ValueError(NOT_EMAIL)
    return cell


def to_text(cell: str) -> str:
    """Return the cell; raise ValueError if it is a spreadsheet error or has lost characters."""
    # Most cells are a single word, and need no further checks.
    if cell.isalnum():
        return cell
    if "\ufffd" in cell:
        raise ValueError("text with U+FFFD, left by a conversion that lost characters")
    if is_spreadsheet_error(cell):
        raise ValueError("a spreadsheet error")
    return cell


def to_attribute_text(cell: str) -> str:
    """Return the cell; raise ValueError if it isn't valid or is too long for an attribute."""
    if len(cell) > MAX_TYPED_CELL:
        reason = f"{len(cell)} characters long (Intercom's limit: {MAX_TYPED_CELL})"
        raise ValueError(reason)
    return to_text(cell)


## Booleans

# A data frame turns 1 into 1.0 in a column with empty cells.
BOOLEANS = dict.fromkeys(("true", "t", "yes", "y", "on", "1", "1.0"), True)
BOOLEANS |= dict.fromkeys(("false", "f", "no", "n", "off", "0", "0.0"), False)


def to_boolean(cell: str) -> bool:
    """Parse true, false and their synonyms, ignoring case."""
    if len(cell) > MAX_TYPED_CELL or cell.lower() not in BOOLEANS:
        raise ValueError(NOT_BOOLEAN)
    return BOOLEANS[cell.lower()]


def to_negated_boolean(cell: str) -> bool:
    """Parse a boolean in a column, such as "subscribed", that means the opposite of the field."""
    return not to_boolean(cell)


## Numbers

# Unicode's category Sc, as a list: Python versions differ in their version of Unicode.
CURRENCY_SIGN = re.compile(
    "[$\xa2-\xa5\u058f\u060b\u07fe\u07ff\u09f2\u09f3\u09fb\u0af1\u0bf9\u0e3f\u17db\u20a0-\u20c1"
    "\ua838\ufdfc\ufe69\uff04\uffe0\uffe1\uffe5\uffe6]"
)
# U+2212: some locales, such as Swedish, write it in numbers instead of a hyphen.
MINUS_SIGN = "\u2212"
SPACE = re.compile("[ \xa0\u202f\u2009]")
# Signs that may surround a number. # stands for its digits and $ for any currency sign: "-#" is a
# minus sign before the digits. Accounting software writes -12.50 as (12.50) or 12.50-.
POSITIVE = re.compile(r"[+]?[$]?#|[$][+]#|[+]?#[$]")
NEGATIVE = re.compile(
    r"-[$]?#[$]?|[$]-#|[$]?#-[$]?|#[$]-"  # -$12, $-12, 12-$, 12$-
    r"|\([$]?#[$]?\)|[$]\(#\)|\(#\)[$]"  # ($12), $(12), (12)$
)
# "-$ 1,234.50" is split into "-$ ", "1,234.50" and "".
DIGITS_INSIDE = re.compile(
    "(?P<before>[^0-9.,]*)(?P<digits>[.,]?[0-9](?:.*[0-9])?[.,]?)(?P<after>[^0-9]*)",
    re.DOTALL,
)


def number_pattern(decimal: str) -> re.Pattern[str]:
    """Return a pattern for the digits of a number: 1234.50, 1,234.50, 1'234, 1e3."""
    # All groups have three digits and the same separator: neither 1,234'567 nor 12,34,567.
    other = "," if decimal == "." else "."
    return re.compile(
        rf"(?P<whole>[0-9]*|[1-9][0-9]{{0,2}}(?P<group>[{other} \xa0\u202f\u2009'\u2019])[0-9]{{3}}"
        rf"(?:(?P=group)[0-9]{{3}})*)"
        rf"(?:[{decimal}](?P<fraction>[0-9]*))?(?P<exponent>[eE][+-]?[0-9]+)?"
    )


NUMBERS = {".": number_pattern("."), ",": number_pattern(",")}


@dataclass(slots=True)
class NumberParts:
    """The parts of a number as written, without thousands separators or currency."""

    sign: str  # "-" or ""
    whole: str  # digits, or ""
    fraction: str  # digits, or ""
    exponent: str  # such as "e3", or ""


def parse_number(cell: str, decimal: str) -> NumberParts | None:
    """Split a number into its parts, or return None if the cell isn't a number."""
    if len(cell) > MAX_TYPED_CELL:
        return None
    inside = DIGITS_INSIDE.fullmatch(cell)
    if inside is None:
        return None
    if inside["after"] and inside["digits"][-1] in ".,":
        return None  # a price in Switzerland, 12.-, isn't negative
    # The text around the digits, in the notation of POSITIVE and NEGATIVE: "(€ 12)" becomes "($#)".
    frame = SPACE.sub("", f"{inside['before']}#{inside['after']}")
    frame = CURRENCY_SIGN.sub("$", frame).replace(MINUS_SIGN, "-")
    number = NUMBERS[decimal].fullmatch(inside["digits"])
    is_negative = NEGATIVE.fullmatch(frame) is not None
    if number is None or not (is_negative or POSITIVE.fullmatch(frame)):
        return None
    whole = re.sub("[^0-9]", "", number["whole"])
    sign = ""
    if is_negative:
        sign = "-"
    return NumberParts(sign, whole, number["fraction"] or "", number["exponent"] or "")


def to_integer(cell: str, *, decimal: str) -> int:
    """Parse a whole number: 12, 1'234, (12), or 12.0, as spreadsheets write it.

    1.000 is rejected, because it means a thousand in half of Europe.
    """
    # The usual case. isdecimal() alone is also true for the digits of other scripts.
    if len(cell) <= MAX_TYPED_CELL and cell.isdecimal() and cell.isascii():
        return int(cell)
    number = parse_number(cell, decimal)
    if number is None or number.exponent or not number.whole:
        raise ValueError(NOT_INTEGER)
    if number.fraction.strip("0") or number.fraction == "000":
        raise ValueError(NOT_INTEGER)
    return int(number.sign + number.whole)


def to_float(cell: str, *, decimal: str) -> float:
    """Parse a finite number with this decimal separator; thousands separators are allowed."""
    digits = cell.removeprefix("-").replace(decimal, "", 1)
    if digits.isdecimal() and digits.isascii() and len(cell) <= MAX_TYPED_CELL:
        # Adding zero turns -0.0 into 0.0.
        return float(cell.replace(",", ".")) + 0.0
    number = parse_number(cell, decimal)
    if number is None:
        raise ValueError(f"not a number (decimal separator is {decimal})")
    value = float(f"{number.sign}{number.whole}.{number.fraction}{number.exponent}")
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return value + 0.0


## Timestamps

EPOCH = datetime(1970, 1, 1)
UTC = timezone.utc
EPOCH_IN_UTC = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = -2_208_988_800  # 1900-01-01 in UNIX seconds
LATEST = 7_289_654_399  # 2200-12-31T23:59:59Z
ONE_DAY = 86_400
# Numbers this large are in this unit: as seconds, even the smallest would be in the year 5138.
SMALLER_UNITS = {"nanoseconds": 10**17, "microseconds": 10**14, "milliseconds": 10**11}
MAX_DATE_SERIAL = 109_938  # 2200-12-31 in a spreadsheet
# From 2001 to 2191: these numbers can't mean anything else.
FAST_UNIX_SECONDS = re.compile("[1-6][0-9]{9}")
# 1700000000, and 1700000000.25 from databases that count fractions of a second.
UNIX_SECONDS = re.compile("([+-]?[0-9]+)(?:[.,]([0-9]*))?")
COMPACT_DATE = re.compile(
    r"(?:19|20|21)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{4}|\d{6})?"
    # 24112026 and 11242026, which as UNIX seconds are in 1970
    r"|(?:(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])|(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))"
    r"(?:19|20)\d\d",
    re.ASCII,
)
# ISO 8601 as exports write it, including forms that datetime.fromisoformat rejects: two spaces for
# the T, a one-digit hour, and UTC or GMT for the Z.
ISO_8601 = re.compile(
    r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"(?:(?:T| {1,2})(?P<hour>\d\d|\d(?=:))"
    r"(?::?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?)?)?"
    r"(?: ?(?P<zone>Z|UTC|GMT|(?P<sign>[+-])(?P<hours>\d\d)(?::?(?P<minutes>[0-5]\d))?))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(slots=True)
class WrittenDate:
    """A date as written in a cell."""

    moment: datetime  # naive
    offset: int | None  # in seconds; None: [csv] timezone applies
    has_time: bool


def to_timestamp(cell: str, *, timezone: tzinfo, is_activity_time: bool = False) -> int:
    """Parse UNIX seconds, or an ISO 8601 date or date and time, into UNIX seconds.

    `timezone` applies to dates without an offset. In the hour that occurs twice when clocks go
    back, the first occurrence is used. `is_activity_time` is for fields that are never in the
    future or in 1970.
    """
    seconds = None
    if not cell.isdecimal():  # digits alone are UNIX seconds
        seconds = parse_plain_iso_8601(cell, timezone)
    if seconds is None:
        seconds = parse_any_timestamp(cell, timezone, is_activity_time)
    if is_activity_time and seconds > time.time() + ONE_DAY:
        raise ValueError(IN_THE_FUTURE)
    return seconds


def parse_plain_iso_8601(cell: str, timezone: tzinfo) -> int | None:
    """Return the UNIX seconds of `2026-11-24` or `2026-11-24T09:05:00+01:00`.

    The T may be a space, and the offset may be Z or missing. Most exports write dates like this,
    and reading them without a regular expression takes half the time.
    Return None for anything else, and for dates that might be placeholders.
    """
    # The positions of the separators are tested: 2026-11-24T09:05:00+01:00 has 25 characters.
    text = cell.removesuffix("Z")
    has_offset = len(cell) == 25 and cell[19] in "+-" and cell[22] == ":"
    has_time = len(text) == 19 or (has_offset and text == cell)
    if has_time:
        has_time = text[13] == text[16] == ":" and text[10] in "T "
    if not (has_time or len(cell) == 10) or not text[4] == text[7] == "-":
        return None
    try:
        # Python 3.11 and later read more notations, but no others of this shape.
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if has_offset:
        since_epoch = moment - EPOCH_IN_UTC
        seconds = since_epoch.days * ONE_DAY + since_epoch.seconds
    elif timezone is UTC or cell.endswith("Z"):
        since_epoch = moment - EPOCH
        seconds = since_epoch.days * ONE_DAY + since_epoch.seconds
    else:
        seconds = math.floor(moment.replace(tzinfo=timezone).timestamp())
    # A date before 1970, near the epoch or near 2200 may be a placeholder: the slow path decides.
    if ONE_DAY < seconds < LATEST - ONE_DAY:
        return seconds
    return None


def parse_any_timestamp(cell: str, timezone: tzinfo, is_activity_time: bool) -> int:
    """Return the UNIX seconds of a timestamp in any supported notation."""
    if FAST_UNIX_SECONDS.fullmatch(cell):
        return int(cell)
    if len(cell) > MAX_TYPED_CELL:
        raise ValueError(NOT_TIMESTAMP)
    if number := UNIX_SECONDS.fullmatch(cell):
        return parse_unix_seconds(number)
    return seconds_of(parse_iso_8601(cell), timezone, is_activity_time)


def parse_iso_8601(cell: str) -> WrittenDate:
    """Read an ISO 8601 date or date and time in any notation, even `2026-11-24 9:05 UTC`."""
    iso = ISO_8601.fullmatch(cell)
    if iso is None and is_placeholder_date(cell):
        raise ValueError(PLACEHOLDER_DATE)
    # ISO 8601 has no offset after a date alone, such as 2026-11-24+01:00.
    if iso is None or (iso["hour"] is None and iso["sign"]):
        raise ValueError(NOT_TIMESTAMP)
    # 20261124Z; without the Z it would have been read as a number.
    if not iso["dash"] and iso["hour"] is None:
        raise ValueError(DATE_WITHOUT_DASHES)
    try:
        moment = moment_of(iso)
    # 9999-12-31T24:00 raises OverflowError.
    except (ValueError, OverflowError):
        if is_placeholder_date(cell):
            raise ValueError(PLACEHOLDER_DATE) from None
        raise ValueError(NO_SUCH_DATE) from None
    offset = None
    if iso["sign"]:
        offset = parse_offset(iso["sign"], iso["hours"], iso["minutes"] or "0")
    elif iso["zone"]:
        offset = 0
    return WrittenDate(moment, offset, iso["hour"] is not None)


def moment_of(iso: re.Match[str]) -> datetime:
    """Return the naive datetime of a match of ISO_8601; raise ValueError if it doesn't exist."""
    names = ("year", "month", "day", "hour", "minute", "second")
    year, month, day, hour, minute, second = (int(iso[name] or 0) for name in names)
    if hour == 24 and minute == second == 0:
        # 24:00:00 is midnight at the end of the day.
        return datetime(year, month, day) + timedelta(days=1)
    return datetime(year, month, day, hour, minute, second)


def parse_offset(sign: str, hours: str, minutes: str) -> int:
    """Return an offset such as +05:30 in seconds."""
    seconds = int(hours) * 3600 + int(minutes) * 60
    # Python, too, only allows offsets of less than a day; +99:00 is a typo.
    if seconds >= ONE_DAY:
        raise ValueError(NO_SUCH_DATE)
    if sign == "-":
        return -seconds
    return seconds


def seconds_of(date: WrittenDate, timezone: tzinfo, is_activity_time: bool) -> int:
    """Return a date in UNIX seconds; raise ValueError if it is a placeholder."""
    moment = date.moment
    if not EARLIEST_YEAR <= moment.year <= LATEST_YEAR:
        raise ValueError(PLACEHOLDER_DATE)
    # In an attribute, 1970-01-01 without a time may be a birthday.
    if is_activity_time and moment == EPOCH:
        raise ValueError(PLACEHOLDER_DATE)
    if date.offset is None and timezone is not UTC:
        # datetime's default, fold = 0, means the first occurrence of an hour that occurs twice.
        seconds = math.floor(moment.replace(tzinfo=timezone).timestamp())
    else:
        # Omitting the microseconds rounds down, because they are never negative in a timedelta.
        since_epoch = moment - EPOCH
        seconds = since_epoch.days * ONE_DAY + since_epoch.seconds - (date.offset or 0)
    # 1970-01-01T01:00+01:00 is the epoch as well.
    if seconds in (0, -1) and date.has_time:
        raise ValueError(PLACEHOLDER_DATE)
    return seconds


def parse_unix_seconds(number: re.Match[str]) -> int:
    """Return whole UNIX seconds; raise ValueError if the number has another meaning."""
    digits = number[1]
    seconds = int(digits)
    # A data frame writes 1700000000.0 for whole seconds if the column has empty cells.
    is_whole = not (number[2] or "").strip("0")
    # As UNIX seconds, 20261124 would be in August 1970.
    if COMPACT_DATE.fullmatch(digits) and is_whole:
        raise ValueError(DATE_WITHOUT_DASHES)
    if re.fullmatch(SENTINELS, digits):
        raise ValueError(PLACEHOLDER_DATE)
    for unit, smallest in SMALLER_UNITS.items():
        if abs(seconds) >= smallest:
            raise ValueError(f"in {unit}; Intercom expects seconds")
    if EARLIEST_YEAR <= seconds <= LATEST_YEAR and is_whole:
        raise ValueError("a year")
    # 46350: 24 November 2026 in a spreadsheet, but 12:52 on 1 January 1970 as UNIX seconds.
    if 0 < seconds <= MAX_DATE_SERIAL:
        raise ValueError("a spreadsheet date serial number")
    if seconds in (0, -1) or not EARLIEST <= seconds <= LATEST:
        raise ValueError(PLACEHOLDER_DATE)
    return seconds


## Dates in a strptime format

DIRECTIVE = "%."
YEAR_DIRECTIVES = ("%Y", "%y", "%G", "%c", "%x")
TIME_DIRECTIVES = ("%H", "%I", "%M", "%S", "%f", "%p", "%X", "%c")
# As in %Y-%m-%dT%H:%M:%SZ, but not as a letter of a word such as Zone.
UTC_IN_FORMAT = r"(?<![A-Za-z])(?:UTC|GMT|Z)(?![A-Za-z])"
# strptime also accepts 2026111 for %Y%m%d, and picks one of the two dates it could mean.
RUN_OF_DIRECTIVES = "(?:%[YymdHIMS]){2,}(?!%f)"
DIGITS = re.compile("[0-9]+")
# strptime's errors begin like this, unless the cell matches the format but no such date exists.
NOT_IN_FORMAT = ("time data", "unconverted data")


@dataclass(frozen=True)
class DateFormat:
    """A strptime format, and properties derived from it."""

    text: str
    has_year: bool
    has_time: bool
    is_utc: bool  # it has a literal UTC, GMT or Z, so its times are not in `timezone`
    runs: tuple[int, ...]  # the length of each run of adjacent numbers


@lru_cache
def parse_date_format(text: str) -> DateFormat:
    """Return a strptime format with the properties that the converter needs."""
    directives = re.findall(DIRECTIVE, text)
    literals = re.sub(DIRECTIVE, "\0", text)
    # Two digits for each directive, four for the year.
    runs = [
        len(run) + 2 * run.count("%Y") for run in re.findall(RUN_OF_DIRECTIVES, text)
    ]
    return DateFormat(
        text=text,
        has_year=any(name in directives for name in YEAR_DIRECTIVES),
        has_time=any(name in directives for name in TIME_DIRECTIVES),
        is_utc=bool("%z" not in directives and re.search(UTC_IN_FORMAT, literals)),
        runs=tuple(runs),
    )


def to_formatted_timestamp(
    cell: str,
    *,
    date_format: DateFormat,
    timezone: tzinfo,
    is_activity_time: bool = False,
) -> int:
    """Parse a date in a strptime format into UNIX seconds."""
    date = parse_formatted_date(cell, date_format, is_activity_time)
    seconds = seconds_of(date, timezone, is_activity_time)
    if is_activity_time and seconds > time.time() + ONE_DAY:
        raise ValueError(IN_THE_FUTURE)
    return seconds


def parse_formatted_date(
    cell: str, date_format: DateFormat, is_activity_time: bool
) -> WrittenDate:
    """Read a date in a strptime format; raise ValueError if the cell isn't in that format."""
    not_in_format = f"not in the format {date_format.text}"
    # Without a year there is no timestamp, and Python 3.13 would warn on standard error.
    if len(cell) > MAX_TYPED_CELL or not date_format.has_year:
        raise ValueError(not_in_format)
    if date_format.runs and not has_runs(cell, date_format.runs):
        raise ValueError(not_in_format)
    try:
        moment = datetime.strptime(cell, date_format.text)
    except ValueError as error:
        if is_placeholder_date(cell, is_activity_time):
            raise ValueError(PLACEHOLDER_DATE) from None
        # For 31/02/2026, for example, the message is "day is out of range for month".
        if not str(error).startswith(NOT_IN_FORMAT):
            raise ValueError(NO_SUCH_DATE) from None
        raise ValueError(not_in_format) from None
    zone_offset = moment.utcoffset()
    offset = None
    if zone_offset is not None:
        # %z reads offsets with fractions of a second, too.
        offset = round(zone_offset.total_seconds())
    elif date_format.is_utc:
        offset = 0
    return WrittenDate(moment.replace(tzinfo=None), offset, date_format.has_time)


def has_runs(cell: str, runs: tuple[int, ...]) -> bool:
    """Return whether a cell has runs of digits of these lengths."""
    lengths = [len(digits) for digits in DIGITS.findall(cell)]
    return all(run in lengths for run in runs)


## All types


@dataclass(frozen=True)
class CellType:
    """A type that a column's cells can have."""

    convert: Callable[..., CellValue]
    # Types of Intercom attributes that accept its values; the first is for new attributes.
    intercom_types: tuple[str, ...]
    noun: str  # for messages: "none of its values is ..."
    hint: str  # what to do if a column has no valid value


CELL_TYPES = {
    "string": CellType(
        to_attribute_text,
        ("string",),
        "valid text",
        "fix the text, or remove the line from config.ini",
    ),
    "integer": CellType(
        to_integer,
        ("integer", "float"),
        "an integer",
        "export integers, or change the type to string",
    ),
    "float": CellType(
        to_float,
        ("float",),
        "a number",
        "export numbers such as 12.5, or change the type to string",
    ),
    "boolean": CellType(to_boolean, ("boolean",), "a boolean", "export true or false"),
    "not boolean": CellType(
        to_negated_boolean, ("boolean",), "a boolean", "export true or false"
    ),
    "timestamp": CellType(
        to_timestamp,
        ("date", "datetime"),
        "a timestamp",
        "export dates such as 2026-11-24",
    ),
    # Only the email field has this type; config.ini can't name it.
    "email": CellType(
        to_email,
        (),
        "an e-mail address",
        "map the column that has the e-mail addresses",
    ),
}


def make_converter(
    type_name: str,
    *,
    decimal: str,
    timezone: tzinfo,
    date_format: str = "",
    is_activity_time: bool = False,
) -> Callable[[str], CellValue]:
    """Return a function that converts a cell.

    With a date format, it caches the last few thousand cells: strptime is slow, and dates recur.
    Exceptions are not cached, so huge cells aren't either.
    """
    # Every cell goes through one of these. Nested functions are faster than functools.partial with
    # keywords.
    convert = CELL_TYPES[type_name].convert
    parsed_format = parse_date_format(date_format)

    def convert_number(cell: str) -> CellValue:
        return convert(cell, decimal=decimal)

    def convert_timestamp(cell: str) -> CellValue:
        return to_timestamp(cell, timezone=timezone, is_activity_time=is_activity_time)

    @lru_cache(MAX_CACHED_CELLS)
    def convert_formatted_timestamp(cell: str) -> CellValue:
        return to_formatted_timestamp(
            cell,
            date_format=parsed_format,
            timezone=timezone,
            is_activity_time=is_activity_time,
        )

    if type_name in ("integer", "float"):
        return convert_number
    if type_name != "timestamp":
        return convert
    if date_format:
        return convert_formatted_timestamp
    return convert_timestamp


#### Ids

MAX_IDENTITY = 255  # characters
# The ids of most products, UUIDs and e-mail addresses; a mangled id never looks like this.
PLAIN_ID = re.compile(
    r"(?!-?\d+[eE]-\d)[\w-]*[0-9][\w-]*|\w[\w.+-]*@\w[\w.-]*", re.ASCII
)
# Ids that spreadsheets, data frames and programs have mangled.
MANGLED_NUMBER = (
    r"[+-]?\d+([.,]\d+)?[eE][+-]\d+"  # 1.23E+05; but 9e10 and 12E5 may be hexadecimal
    r"|[+-]?\d[.,]\d+[eE]\d+"  # 1.23E5, as Java writes it
    r"|[+-]?\d+[.,]0+"  # 1001.0
    r"|\d{1,3}(,\d{2,3})*,\d{3}"  # 1,001, and 12,34,567 in India
    r"|\d{1,3}([\u00a0\u2009\u202f'\u2019]\d{3})+"  # 1 001 and 1'001
)
GERMAN_GROUPS = r"\d{1,3}(\.\d{3})+"  # if the decimal separator is a comma
RENDERED_ID = r"""(?xs)
      (?:new\s)? [A-Za-z_][\w.:]* \( \s* (['"]) .* \1 \s* \)   # UUID('...'), ObjectId("...")
    | (?:\w+\.)* (?:ObjectI[dD]|C?S?L?UUID|Guid|Decimal\d*|Number\w+|u?[iI]nt\d*|Long|float\d*
        |str_?|BinData|Binary|Some|Just) \( .* \)       # ObjectId(...), np.int64(7)
    | \w+\(0x[0-9A-Fa-f]+\)                             # HASH(0x55d5c8)
    | [bBuUrR]{1,2} (['"]) .* \2                        # b'u1'
    | \\x (?:[0-9A-Fa-f]{2})+                           # \x7531: bytes in PostgreSQL
    | (?:Optional)? \[ .* \]                            # ['u1'], Optional[u1]
    | \( .* , .* \)                                     # ('u1',)
    | \{ \s* [:'"$\w]+ ['"]? \s* [:=] .* \}             # {"$oid": ...}; but {uuid} is an id
    """
QUOTED_ID = (
    r"""(?s)(['"`]).*\1|[\u2018\u201c\u201e\u00ab].*[\u2019\u201d\u201c\u00bb]"""
)
TEXT_PREFIX = r"'\d+"  # a spreadsheet's mark for "this number is text"
# <br />, and Python's <User: u1>; but a < b > c is text.
HTML_TAG = r"<[A-Za-z/!?][^<>]*>"
CONTROL_CHARACTER = r"[\x00-\x1f\x7f-\x9f]"
RULED_LINE = r":?[-\u2013\u2014\u2500=_+]{2,}:?"  # :---: in Markdown
# The last row of a report: "Total:", "Grand total", "Sub-totals".
SUMMARY_LABEL = re.compile(r"(?i)(?:(?:grand|sub)?[\s-]*totals?|sum)\s*:?")


def check_identity(cell: str, decimal: str = ".") -> str:
    """Return the id unchanged; raise RowRejected if it isn't an id, or a tool mangled it.

    With an id such as 1.23E+05, Intercom would create a second user, and the next export a third.
    """
    if len(cell) <= MAX_IDENTITY and PLAIN_ID.fullmatch(cell):
        return cell
    if problem := identity_problem(cell, decimal):
        shown = repr(cell[:60])
        reason = f"{shown} is not a valid id: {problem.detail}"
        raise RowRejected(problem.category, reason)
    return cell


class IdentityProblem(NamedTuple):
    """Why a cell can't be an id."""

    category: str
    detail: str


def identity_problem(cell: str, decimal: str) -> IdentityProblem | None:
    """Return why a cell can't be an id, or None if it can."""
    if len(cell) > MAX_IDENTITY:
        detail = f"{len(cell):,} characters; Intercom allows {MAX_IDENTITY}"
        return IdentityProblem("id that is too long", detail)
    # If the decimal separator is a point, 1.001 may be a real id.
    has_german_groups = decimal == "," and re.fullmatch(GERMAN_GROUPS, cell)
    if has_german_groups or re.fullmatch(MANGLED_NUMBER, cell):
        detail = "a spreadsheet or data frame reformatted it; export ids as text"
        return IdentityProblem("id reformatted by a spreadsheet or data frame", detail)
    if is_spreadsheet_error(cell) or "\N{REPLACEMENT CHARACTER}" in cell:
        detail = "a spreadsheet or a faulty conversion lost the value; export it again"
        return IdentityProblem(
            "id lost by a spreadsheet or a faulty conversion", detail
        )
    if is_missing_word(cell):
        detail = "it stands for a missing value; leave the cell empty"
        return IdentityProblem("placeholder instead of an id", detail)
    # sqlcmd and psql print such a line below the headings.
    if re.fullmatch(RULED_LINE, cell):
        return IdentityProblem("ruled line", "it is part of a ruled line, not a user")
    return rendered_identity_problem(cell)


def rendered_identity_problem(cell: str) -> IdentityProblem | None:
    """Return the problem if a cell is an id with markup or source code around it, or None."""
    # ="00123" is fine: clean_cell has already unwrapped it.
    if cell.startswith("="):
        detail = "it is a spreadsheet formula; export values instead"
    elif re.search(HTML_TAG, cell):
        detail = "it contains an HTML tag"
    elif re.search(CONTROL_CHARACTER, cell):
        detail = "it contains a control character or line break"
    elif re.fullmatch(QUOTED_ID, cell) or re.fullmatch(TEXT_PREFIX, cell):
        detail = "it starts with a quote; export ids without quotes"
    elif re.fullmatch(RENDERED_ID, cell):
        detail = "a program wrote it as source code or JSON; export the id alone"
    else:
        return None
    return IdentityProblem("id that contains markup or source code", detail)


#### Settings

# To add a key, add a line to the class of its section and to config.ini. The type of the default is
# the type of the key; a blank value means the default, such as math.inf for "no limit". Checks that
# depend on other keys are in the `validate_...` functions in the next chapter.

# Tokens and user data are never sent unencrypted, except to a test server on the same machine.
# URLs can't contain credentials, because they would end up in logs and in library messages.
URL_PATTERN = (
    r"(https://(?=[^/])|http://(localhost|127(\.\d+){3}|\[::1\])(?=[:/]))[^\s@?#]*"
)
URL_HINT = "an https:// URL (http:// only for localhost) without credentials"
# Longest invalid value that a message shows. Tokens and keys are longer, and are easily pasted on
# the wrong line; the message would then reveal them in a log or a chat.
MAX_SHOWN_VALUE = 20
# Tokens are often copied together with the header that the documentation shows around them.
HINT_FOR_SECRETS = (
    "the value alone, without spaces, quotes or the word Bearer; copy it again"
)


@dataclass(frozen=True)
class SettingRule:
    """The rule for a key of config.ini."""

    default: Any  # its type is the key's type
    # A regular expression for the whole value; a blank value is never checked.
    pattern: str
    hint: str  # the expected value, for the message about an invalid one
    env: str = ""  # the environment variable that takes precedence
    is_secret: bool = False
    # Never show the value, even if it is invalid: a secret is easily pasted here by mistake.
    is_hidden: bool = False
    is_path: bool = False  # ~ is the home folder


# A pattern for the whole value, and the hint for messages, by the type of the default.
TYPE_PATTERNS = {
    bool: ("(?i)true|t|yes|y|on|1|false|f|no|n|off|0", "true or false"),
    int: ("[0-9]{1,9}", "a whole number such as 50"),
    float: (r"[0-9]{1,9}(\.[0-9]*)?", "a number such as 30"),
    str: (".*", "text"),
}


def setting(default: Any, pattern: str = "", hint: str = "", **options: Any) -> Any:
    """Declare a key of config.ini. Without a pattern, any value of the default's type is valid."""
    usual_pattern, usual_hint = TYPE_PATTERNS[type(default)]
    rule = SettingRule(default, pattern or usual_pattern, hint or usual_hint, **options)
    return field(default=default, metadata={"rule": rule})


def secret(env: str, pattern: str = "[!-~]*", hint: str = HINT_FOR_SECRETS) -> Any:
    """Declare a key whose value is never shown, and the environment variable that overrides it."""
    return setting("", pattern, hint, env=env, is_secret=True, is_hidden=True)


def path_setting(default: str = "") -> Any:
    return setting(default, is_path=True)


@dataclass
class AwsSettings:
    use_aws: bool = setting(False)
    access_key: str = secret("AWS_ACCESS_KEY_ID")
    secret_key: str = secret("AWS_SECRET_ACCESS_KEY")
    bucket: str = setting("", r"(?!s3:)\S+", "the bucket name only, without s3://")
    folder: str = setting("")
    region: str = setting("")
    endpoint_url: str = setting("", r"https?://[^/\s]\S*", "a URL such as https://host")
    tmp_folder: str = path_setting()


@dataclass
class LocalSettings:
    folder: str = path_setting(".")


@dataclass
class FileSettings:
    select_latest: bool = setting(True)
    time_format: str = setting("%Y-%m-%dT%H:%M:%S")
    max_age_hours: float = setting(math.inf, hint="a number of hours such as 26")
    name: str = path_setting()


@dataclass
class CsvSettings:
    delimiter: str = setting(",", "(?i:tab)|[^\r\n]", "one character, or the word tab")
    quote: str = setting('"', "(?i:none)|[^\r\n]", "one character, or the word none")
    escape: str = setting("", "[^\r\n]", "one character such as \\, or blank")
    encoding: str = setting("utf-8")
    headings: str = setting("")
    decimal: str = setting(".", "[.,]", ". or ,")
    empty: str = setting("")
    timezone: str = setting("UTC")
    min_rows: int = setting(1)
    max_not_imported: int = setting(0)
    not_imported_folder: str = path_setting("not_imported")


@dataclass
class IntercomSettings:
    api_id: str = secret("INTERCOM_API_ID")
    api_key: str = secret("INTERCOM_API_KEY")
    access_token: str = secret("INTERCOM_ACCESS_TOKEN")
    user_url: str = setting(
        "https://api.intercom.io/users",
        f"{URL_PATTERN}/(users|contacts)",
        f"{URL_HINT}, ending in /users or /contacts",
    )
    api_version: str = setting(
        "",
        r"[0-9]+\.[0-9]+|(?i:Preview)",
        "a version such as 1.4, 2.14 or Preview",
        is_hidden=True,
    )
    timeout: float = setting(30.0, is_hidden=True)  # between retries
    retries: int = setting(50)
    concurrency: int = setting(1, "[1-9][0-9]{0,2}", "a whole number from 1 to 999")
    skip_unchanged: bool = setting(False)
    state_file: str = path_setting()  # by default, next to the config file
    unarchive: bool = setting(False)
    create_attributes: bool = setting(False)


@dataclass
class HipchatSettings:
    use_hipchat: bool = setting(False)
    api_key: str = secret("HIPCHAT_API_KEY")
    room_id: str = setting("")
    sender: str = setting(
        "Intercom Import",
        "[A-Za-z0-9 _-]{1,15}",
        "1 to 15 characters: letters, digits, space, - and _",
    )
    api_url: str = setting("https://api.hipchat.com/v1/", URL_PATTERN, URL_HINT)


@dataclass
class SlackSettings:
    use_slack: bool = setting(False)
    webhook_url: str = secret("SLACK_WEBHOOK_URL", URL_PATTERN, URL_HINT)
    channel: str = setting("", "[#@].+", "#channel or @user", is_hidden=True)
    username: str = setting("")
    icon_url: str = setting("")
    icon_emoji: str = setting("")


@dataclass
class LogSettings:
    use_logs: bool = setting(True)
    folder: str = path_setting("logs")
    keep_days: float = setting(math.inf, hint="a number of days such as 90")


# Keys whose names Python doesn't allow as attributes: `from` is a keyword.
ATTRIBUTE_NAMES = {"from": "sender"}


@dataclass
class Settings:
    """All settings, one attribute per section of config.ini, and values derived from them."""

    aws: AwsSettings = field(default_factory=AwsSettings)
    local: LocalSettings = field(default_factory=LocalSettings)
    file: FileSettings = field(default_factory=FileSettings)
    csv: CsvSettings = field(default_factory=CsvSettings)
    intercom: IntercomSettings = field(default_factory=IntercomSettings)
    hipchat: HipchatSettings = field(default_factory=HipchatSettings)
    slack: SlackSettings = field(default_factory=SlackSettings)
    log: LogSettings = field(default_factory=LogSettings)

    mappings: list[FieldMapping] = field(default_factory=list)
    # Places of keys in [user] that aren't supported fields, such as "[user] phone".
    ignored_keys: list[str] = field(default_factory=list)
    timezone: tzinfo = timezone.utc  # from [csv] timezone
    files_with_secrets: list[Path] = field(default_factory=list)  # config.ini, .env
    exports_are_in_s3: bool = False  # even if --local makes this run read from disk

    @property
    def uses_contacts(self) -> bool:
        """Whether user_url is the /contacts endpoint of API 2.x."""
        return self.intercom.user_url.endswith("/contacts")

    @property
    def api_version(self) -> str:
        """The Intercom-Version header. Users became contacts in version 2.0."""
        # `preview` is valid in config.ini, but Intercom's own spelling is Preview.
        if self.intercom.api_version:
            return self.intercom.api_version.capitalize()
        return "2.14" if self.uses_contacts else "1.4"

    @property
    def authorization(self) -> str:
        """The Authorization header: Bearer if an access token is set, otherwise Basic."""
        if self.intercom.access_token:
            return f"Bearer {self.intercom.access_token}"
        credentials = f"{self.intercom.api_id}:{self.intercom.api_key}"
        return f"Basic {base64.b64encode(credentials.encode()).decode()}"

    @property
    def csv_format(self) -> CsvFormat:
        """The [csv] settings for the reader, with the words tab and none replaced."""
        delimiter = self.csv.delimiter
        if delimiter.lower() == "tab":
            delimiter = "\t"
        quote_character = self.csv.quote
        if quote_character.lower() == "none":
            quote_character = ""
        return CsvFormat(
            delimiter=delimiter,
            quote=quote_character,
            escape=self.csv.escape,
            encoding=self.csv.encoding,
        )

    @property
    def attribute_mappings(self) -> list[FieldMapping]:
        return [mapping for mapping in self.mappings if mapping.is_attribute]


SECTIONS = ("aws", "local", "file", "csv", "intercom", "hipchat", "slack", "log")
MAPPING_SECTIONS = ("user", "custom_attributes")


def rules_of(section: object) -> dict[str, SettingRule]:
    """Return the rule of each key of a section, by the key as it is spelled in config.ini."""
    key_names = {attribute: key for key, attribute in ATTRIBUTE_NAMES.items()}
    rules = {}
    for attribute in fields(section):  # type: ignore[arg-type]  # each section is a dataclass
        key = key_names.get(attribute.name, attribute.name)
        rules[key] = attribute.metadata["rule"]
    return rules


class Problems:
    """Problems with the settings, by place, in the order in which they were found."""

    def __init__(self) -> None:
        self.by_place: dict[str, str] = {}

    def add(self, place: str, problem: str) -> None:
        """Add a problem. Only the first one per place counts: later ones follow from it.

        A place is "[section] key", "[section]", "line 12", "the file", or the name of another file
        or of an environment variable.
        """
        self.by_place.setdefault(place, problem)

    def __bool__(self) -> bool:
        return bool(self.by_place)

    def affect(self, section: str) -> bool:
        """Return whether any of the problems is in this section."""
        return any(place.startswith(f"[{section}]") for place in self.by_place)

    def lines(self, config_name: str) -> list[str]:
        """Return one line per problem. Places in the config file are prefixed with its name."""
        lines = []
        for place, problem in self.by_place.items():
            line = f"{place}: {problem}"
            # Other places are not in the config file: HTTPS_PROXY, or ".env, line 3".
            if place.startswith(("[", "line ", "the ")):
                line = f"{config_name}: {line}"
            lines.append(line)
        return lines


@dataclass(eq=False)
class FieldMapping:
    """Maps a column, or a constant, to an Intercom field or custom attribute."""

    name: str  # of the field or attribute
    heading: str  # normalized; blank for a constant
    type_name: str  # a key of CELL_TYPES
    date_format: str  # of a timestamp, as in strptime; blank: UNIX seconds or ISO 8601
    is_attribute: bool
    convert: Callable[[str], CellValue]  # raises ValueError or RowRejected
    is_constant: bool = False
    constant: str = ""  # as written
    value: CellValue | None = None  # of a constant that isn't blank

    def describe_type(self) -> str:
        return f"{self.type_name} {self.date_format}".rstrip()

    @property
    def place(self) -> str:
        """Its place in config.ini."""
        section = "custom_attributes" if self.is_attribute else "user"
        return f"[{section}] {self.name}"


QUOTED_CONSTANT = "'(.*)'"  # text in single quotes, in place of a heading
# Type names in other programs. After a colon, such a word is unlikely to belong to the heading.
COMMON_WRONG_TYPE = "(?i)number|int|decimal|double|bool|date|datetime|text|str"
# The types that [user] and [custom_attributes] may have after the last colon.
MAPPING_TYPES = ("string", "integer", "float", "boolean", "not boolean", "timestamp")
TYPE_NAMES_PATTERN = "|".join(MAPPING_TYPES).replace(" ", r"\s+")
TYPE_SUFFIX = rf"(.*):\s*(?:((?i:{TYPE_NAMES_PATTERN}))|(?i:timestamp)\s+(\S.*))"


@dataclass(frozen=True)
class TypedHeading:
    """The three parts of `heading : type format`."""

    heading: str
    type_name: str
    date_format: str


def split_type(text: str, default_type: str) -> TypedHeading:
    """Split `heading : type format` at the last colon that is followed by a type.

    This allows colons in headings and formats: `Date: of joining : timestamp %d/%m/%Y %H:%M`.
    Raise ValueError if the type is unknown or the format is not a complete date.
    """
    # In `'Plan: string'`, the colon is part of the constant.
    if re.fullmatch(QUOTED_CONSTANT, text):
        return TypedHeading(text, default_type, "")
    match = re.fullmatch(TYPE_SUFFIX, text)
    if not match:
        check_last_word(text)
        return TypedHeading(text, default_type, "")
    heading, type_name, date_format = match.groups("")
    if date_format:
        check_date_format(date_format)
        return TypedHeading(heading.strip(), "timestamp", date_format)
    # The type may be written as `Not  Boolean`.
    return TypedHeading(heading.strip(), " ".join(type_name.lower().split()), "")


def check_last_word(text: str) -> None:
    """Raise ValueError if the last word after ` :` looks like a type but isn't one.

    Without a space before the colon, it is more likely the end of a heading, as in `Note: text`.
    """
    match = re.search(r"\s:\s*(\w+)$", text)
    if not match:
        return
    word = match[1]
    # A misspelling such as `intger`, or another program's word such as `date`.
    similar = closest_names(word, MAPPING_TYPES, cutoff=0.75)
    if similar or re.fullmatch(COMMON_WRONG_TYPE, word):
        known = ", ".join(MAPPING_TYPES)
        raise ValueError(
            f"unknown type '{word[:20]}' (expected {known}, or timestamp FORMAT)"
        )


def check_date_format(date_format: str) -> None:
    """Raise ValueError if a strptime format contains %Z or its dates can't be sorted by time."""
    shown = ""
    if len(date_format) <= MAX_SHOWN_VALUE:
        shown = f"'{date_format}' "
    if has_zone_name(date_format):
        raise ValueError(
            f"the format {shown}contains %Z, which is ignored when a date is read; "
            "use %z for an offset, or write the zone's name literally"
        )
    if not is_sortable_format(date_format):
        raise ValueError(
            f"the format {shown}is not a complete date format; use one such as %d/%m/%Y"
        )


def has_zone_name(date_format: str) -> bool:
    """Return whether a strptime format contains %Z (but %%Z is a percent sign and a Z).

    strptime accepts UTC, GMT and the names of the local zone there, and ignores them: "10:00 EST"
    would be read as ten o'clock in [csv] timezone.
    """
    return re.search(r"(?<!%)(%%)*%Z", date_format) is not None


def is_sortable_format(date_format: str) -> bool:
    """Return whether dates in this strptime format can be sorted by time.

    The format needs a year, and no unit without the next larger one: no hour without a day, no
    %I without %p. To find out, format a time and parse it again: the result has to be the same
    time, possibly without its smallest units.
    """
    # The hour is after noon, because %I without %p reads 22:47 as 10:47. No unit has its lowest
    # value.
    moment = datetime(2025, 11, 23, 22, 47, 38, 123456, timezone.utc)
    # The moment itself, then without microseconds, without seconds, and so on up to the year.
    expected = [moment]
    for unit in ("microsecond", "second", "minute", "hour", "day", "month"):
        lowest: dict[str, Any] = {unit: 1 if unit in ("day", "month") else 0}
        expected.append(expected[-1].replace(**lowest))
    try:
        written = moment.strftime(date_format)
        read = datetime.strptime(written, date_format).replace(tzinfo=timezone.utc)
    # re.error: strptime builds a pattern, in which %d %d would be the same group twice.
    except (ValueError, re.error):
        return False
    # strptime reads %U and ignores it; writing the date again shows that.
    return read in expected and read.strftime(date_format) == written


def parse_mapping(
    name: str, text: str, *, is_attribute: bool, settings: Settings
) -> FieldMapping:
    """Parse one `name = text` of [user] or [custom_attributes]; raise ValueError if it's wrong."""
    if is_attribute and not re.fullmatch(f"[^.$]{{1,{MAX_ATTRIBUTE_NAME}}}", name):
        raise ValueError(
            f"attribute names can't contain . or $ or exceed {MAX_ATTRIBUTE_NAME} characters"
        )
    default_type = "string" if is_attribute else FIELDS[name]
    typed = split_type(text, default_type)
    type_name = typed.type_name
    if not is_attribute:
        check_field_type(name, typed)
        if type_name == "string":
            # `email = Mail : string` is still an e-mail address.
            type_name = default_type
    heading = unquote_value(typed.heading)  # also in `"Joined : on" : timestamp`
    mapping = FieldMapping(
        name,
        normalize_heading(heading),
        type_name,
        typed.date_format,
        is_attribute,
        mapping_converter(name, type_name, typed.date_format, is_attribute, settings),
    )
    if constant := re.fullmatch(QUOTED_CONSTANT, heading):
        set_constant(mapping, constant[1])
    return mapping


def check_field_type(name: str, typed: TypedHeading) -> None:
    """Raise ValueError if the given type isn't allowed for the field."""
    own_type = FIELDS[name]
    allowed = {own_type}
    if own_type == "boolean":
        allowed.add("not boolean")
    # In config.ini, the type of these two is called string.
    if own_type in ("id", "email"):
        allowed.add("string")
    if typed.type_name in allowed:
        return
    # "id" is an internal name for the type that config.ini calls string.
    if own_type == "id":
        own_type = "string"
    raise ValueError(f"the type is always {own_type}; remove ': {typed.type_name}'")


def mapping_converter(
    name: str, type_name: str, date_format: str, is_attribute: bool, settings: Settings
) -> Callable[[str], CellValue]:
    """Return the function that converts the cells of a mapped column."""
    decimal = settings.csv.decimal
    if type_name == "id":
        return lambda cell: check_identity(cell, decimal)
    if type_name == "string":
        return to_attribute_text if is_attribute else to_text
    return make_converter(
        type_name,
        decimal=decimal,
        timezone=settings.timezone,
        date_format=date_format,
        is_activity_time=not is_attribute and name in ACTIVITY_FIELDS,
    )


def set_constant(mapping: FieldMapping, constant: str) -> None:
    """Make a mapping send the same value for every user; raise ValueError if it isn't valid."""
    mapping.is_constant = True
    mapping.constant = constant
    mapping.heading = ""
    # Constants are cleaned as cells are: ' 12 ' is the integer 12.
    cell = clean_cell(constant)
    # '' is valid too: like an empty cell, it leaves the field out.
    if not cell:
        return
    try:
        mapping.value = mapping.convert(cell)
    except (ValueError, RowRejected) as error:
        shown = ""
        if len(constant) <= MAX_SHOWN_VALUE:
            shown = f"'{constant}' "
        raise ValueError(f"the constant {shown}is invalid: {error}") from None


#### Reading config.ini

HARMLESS_NAME = "[a-z0-9_]{0,30}"
MAX_BAD_LINES = 3  # lines that aren't settings; any others are only counted


@dataclass
class RawEntry:
    """A key of config.ini as written, or a [section] if the key is blank."""

    value: str
    place: str  # for messages: "[section] key", or "line 12" if a name may be a secret


RawEntries = dict[tuple[str, str], RawEntry]  # by section and key


def closest_names(
    name: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.0
) -> list[str]:
    """Return the known names closest to `name`, ignoring case.

    A cutoff of 0 accepts any name, and 1 only an identical one. At 0.6, names look alike. At 0.75,
    one is probably a misspelling of the other (`nmae` and `name`, but not `role` and `name`).
    """
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, count, cutoff)
    return [by_lower_case[match] for match in matches]


def unquote_value(text: str) -> str:
    """Remove the double quotes that preserve spaces at the ends of a value. A lone `"` is kept."""
    return re.sub('^"([^"]*)"$', r"\1", text)


class ConfigFileParser:
    """Parses config.ini by configparser's rules, but collects all errors.

    configparser itself would stop at the first duplicate key, and show lines that may be secrets.
    """

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.entries: RawEntries = {}
        self.bad_lines: list[int] = []  # lines that are neither entries nor comments
        self.section = ""
        self.last_place = ""
        # configparser would add a line that is indented deeper than this to the value above it.
        self.continuation_indent = math.inf

    def parse(self, text: str) -> RawEntries:
        """Parse the text of the file; errors are added to `problems`."""
        # Like configparser: str.splitlines would also split a value at a form feed or U+2028.
        for number, line in enumerate(text.split("\n"), 1):
            self.parse_line(number, line)
        self.report_bad_lines()
        return self.entries

    def report_bad_lines(self) -> None:
        if self.bad_lines and not self.entries:
            # Most likely --config names a CSV file, and listing its lines would not help.
            self.problems.add(
                f"line {self.bad_lines[0]}",
                "is not `key = value` inside a [section], nor is any other line; "
                "is this a config file?",
            )
            return
        for number in self.bad_lines[:MAX_BAD_LINES]:
            self.problems.add(
                f"line {number}",
                "is not a [section], or `key = value` inside one; "
                "a comment must be on its own line and start with #",
            )
        more = len(self.bad_lines) - MAX_BAD_LINES
        if more > 0:
            lines = pluralize(more, "other line")
            self.problems.add("the file", f"has {lines} like that")

    def parse_line(self, number: int, line: str) -> None:
        if "\0" in line:
            self.problems.add(
                f"line {number}", "contains a NUL character; retype the line"
            )
            # The rest of the line is parsed too, in case it has other errors.
            line = line.replace("\0", "")
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        # A blank line or comment ends a value, so an indented line below it is a new entry.
        if not stripped or stripped[0] in "#;":
            self.continuation_indent = math.inf
        elif indent > self.continuation_indent:
            self.problems.add(
                self.last_place, f"continues on line {number}; put it on one line"
            )
        else:
            self.parse_entry(number, stripped, indent)

    def parse_entry(self, number: int, line: str, indent: int) -> None:
        header = re.match(r"\[([^\]]+)\]", line)
        if header:
            self.section = header[1]
            self.continuation_indent = math.inf
            if header.end() < len(line):
                # configparser ignores the rest of the line, even if it is a setting.
                self.bad_lines.append(number)
            else:
                # A section is an entry, too: it may be unknown, or appear twice.
                self.add_entry(number, "", "")
            return
        key, equals, value = (part.strip() for part in line.partition("="))
        # `[aws` without its bracket isn't a key, even with an equals sign after it.
        if self.section and key and equals and line[0] != "[":
            self.continuation_indent = indent
            self.add_entry(number, key, unquote_value(value))
        else:
            self.bad_lines.append(number)

    def add_entry(self, number: int, key: str, value: str) -> None:
        """Keep an entry. Its names are shown only if they can't be a misplaced secret."""
        # A token pasted to the left of the equals sign would become the key.
        place = f"line {number}"
        names = (self.section, key)
        if all(re.fullmatch(HARMLESS_NAME, name) for name in names):
            place = f"[{self.section}] {key}".rstrip()
        if (self.section, key) in self.entries:
            earlier = self.entries[self.section, key].place
            self.problems.add(
                earlier, f"appears twice, again on line {number}; keep only one"
            )
        self.entries[self.section, key] = RawEntry(value, place)
        self.last_place = place


def read_config(path: Path, problems: Problems) -> RawEntries:
    """Read the config file. Raise OSError if it can't be read."""
    # With invalid bytes replaced, the other lines (most are ASCII) can still be checked.
    text = path.read_text("utf-8-sig", errors="replace")
    if "\N{REPLACEMENT CHARACTER}" in text:
        problems.add("the file", "is not UTF-8; save it as UTF-8")
        if "\0" in text:
            return {}  # UTF-16: every line would be reported
    return ConfigFileParser(problems).parse(text)


def read_dotenv(path: Path, problems: Problems) -> dict[str, str]:
    """Return the variables that .env sets; if a name appears twice, the last one wins.

    python-dotenv only logs lines it can't parse; here they are reported as problems. Unlike its
    dotenv_values(), this doesn't replace ${NAME} in a value: a token may contain such characters.
    """
    variables: dict[str, str] = {}
    try:
        if not path.exists():
            return variables
        if not path.is_file():
            raise OSError  # reading a named pipe would block
        # Older versions of Notepad write a byte-order mark, which isn't part of the first name.
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        problems.add(
            ".env", "can't be read; it must be a UTF-8 file readable by this account"
        )
        return variables
    for binding in dotenv.parser.parse_stream(io.StringIO(text)):
        # Comments and blank lines are bindings as well, but without a key.
        name = binding.key or ""
        value = binding.value or ""
        # os.environ accepts neither names with = nor a NUL.
        if binding.error or "=" in name or "\0" in name + value:
            # python-dotenv counts the blank lines above it as part of the line.
            written = binding.original.string
            blank_lines = written[: len(written) - len(written.lstrip())].count("\n")
            line = binding.original.line + blank_lines
            problems.add(f".env, line {line}", "is not NAME=value")
            return variables
        if name:
            variables[name] = value
    return variables


def load_dotenv(path: Path, settings: Settings, problems: Problems) -> None:
    """Load .env into os.environ. Variables that are already set and not blank win."""
    variables = read_dotenv(path, problems)
    for name, value in variables.items():
        if value and not os.environ.get(name, "").strip():
            # Libraries read some variables themselves, such as AWS_PROFILE and HTTPS_PROXY.
            os.environ[name] = value
    secret_names = {rule.env for rule in secret_rules(settings).values()}
    # A secret that config.ini has no key for: it belongs to temporary access keys.
    secret_names.add("AWS_SESSION_TOKEN")
    # --check warns if other accounts may read a file with secrets.
    if any(variables.get(name) for name in secret_names):
        settings.files_with_secrets.append(path)


def load_timezone(name: str) -> tzinfo | None:
    """Look up an IANA time zone in the system's database or, on Windows, in dateutil's copy."""
    import zoneinfo

    # Minimal containers have no time zone data, but the default should work there.
    if name.upper() in ("UTC", "GMT"):
        return timezone.utc
    try:
        return zoneinfo.ZoneInfo(name)
    # No such zone, a path such as ../UTC, or a folder such as Europe.
    except (KeyError, ValueError, OSError):
        from dateutil.zoneinfo import get_zonefile_instance

        zone: tzinfo | None = get_zonefile_instance().get(name)
        return zone


def parse_section(
    section_name: str, section: object, entries: RawEntries, problems: Problems
) -> None:
    """Set a section's attributes from the entries and the environment, and remove those entries."""
    for key, rule in rules_of(section).items():
        # Known entries are removed; those that are left at the end are unknown.
        entry = entries.pop((section_name, key), None)
        text = entry.value if entry else ""
        origin = ""
        if rule.is_path:
            text = os.path.expanduser(text)  # noqa: PTH111 - keeps an unknown ~user as it is
        # A blank variable counts as unset: `NAME: ${NAME}` in a compose file can cause it.
        if rule.env and os.environ.get(rule.env, "").strip():
            text = os.environ[rule.env].strip()
            origin = f" of {rule.env}, in the environment or .env"
        if not text:
            continue
        if re.fullmatch(rule.pattern, text):
            value = parse_value(text, rule)
            setattr(section, ATTRIBUTE_NAMES.get(key, key), value)
        else:
            shown = describe_invalid(text, rule)
            problems.add(
                f"[{section_name}] {key}", f"{shown}{origin} (expected {rule.hint})"
            )


def parse_value(text: str, rule: SettingRule) -> Any:
    """Convert a valid value to the type of the key's default."""
    # bool("false") would be True.
    if isinstance(rule.default, bool):
        return to_boolean(text)
    return type(rule.default)(text)


def describe_invalid(text: str, rule: SettingRule) -> str:
    """Return "invalid value 'x'", without the value if it could be a secret."""
    has_password = "://" in text or "@" in text  # such as ada:password@minio
    if rule.is_hidden or has_password or len(text) > MAX_SHOWN_VALUE:
        return "invalid value"
    return f"invalid value '{text}'"


def parse_mappings(settings: Settings, entries: RawEntries, problems: Problems) -> None:
    """Parse [user] and [custom_attributes], and remove their entries.

    The mappings are in a fixed order, so reordering config.ini doesn't change any digest.
    """
    keys = [("user", name) for name in FIELDS]
    keys += sorted(key for key in entries if key[0] == "custom_attributes" and key[1])
    for section, name in keys:
        entry = entries.pop((section, name), None)
        # `name =` without a value maps nothing.
        if not entry or not entry.value:
            continue
        is_attribute = section == "custom_attributes"
        try:
            mapping = parse_mapping(
                name, entry.value, is_attribute=is_attribute, settings=settings
            )
            settings.mappings.append(mapping)
        except ValueError as error:
            place = entry.place
            if is_attribute and len(name) <= MAX_ATTRIBUTE_NAME:
                # Attributes may have any name, and without it, the message would not say which
                # attribute is wrong.
                place = f"[{section}] {name}"
            problems.add(place, str(error))


def report_unknown_entries(
    settings: Settings, entries: RawEntries, problems: Problems
) -> None:
    """Report the remaining entries as unknown; fields that are merely unsupported are ignored.

    Keys of an unknown section aren't reported one by one: the section's name is the problem.
    """
    for (section, key), entry in entries.items():
        if not key:
            if section not in (*SECTIONS, *MAPPING_SECTIONS):
                problems.add(entry.place, unknown_section(section))
        elif section == "user":
            report_unknown_field(key, entry, settings, problems)
        elif section in SECTIONS:
            problems.add(entry.place, unknown_key(section, key, settings))


def unknown_section(name: str) -> str:
    known = (*SECTIONS, *MAPPING_SECTIONS)
    # There are so few sections that listing them all helps more than a poor guess.
    similar = closest_names(name, known, cutoff=0.6)
    if similar:
        return f"unknown section (did you mean [{similar[0]}]?)"
    return f"unknown section (known sections: {', '.join(known)})"


def unknown_key(section: str, key: str, settings: Settings) -> str:
    # A key in the wrong section, such as max_age_hours in [csv], isn't misspelled.
    homes = [
        f"[{name}]" for name in SECTIONS if key in rules_of(getattr(settings, name))
    ]
    if homes:
        return f"unknown key in this section (it belongs in {' or '.join(homes)})"
    known = list(rules_of(getattr(settings, section)))
    similar = closest_names(key, known)
    return f"unknown key (did you mean {similar[0]}?)"


def report_unknown_field(
    key: str, entry: RawEntry, settings: Settings, problems: Problems
) -> None:
    """Report a misspelled field of [user] as a problem; other keys are ignored.

    Ignoring `userid` would lose the identity, but `phone` is an Intercom field that isn't supported
    here.
    """
    similar = closest_names(key, FIELDS, cutoff=0.75)
    if similar and key not in UNSUPPORTED_FIELDS:
        place = f"[user] {key}"  # too similar to a field name to be a secret
        problems.add(place, f"unknown field (did you mean {similar[0]}?)")
    else:
        settings.ignored_keys.append(entry.place)


def load_settings(
    path: Path, arguments: argparse.Namespace
) -> tuple[Settings, Problems]:
    """Merge command line, environment, .env and config file; return settings and problems.

    Raise OSError if the config file can't be read.
    """
    problems = Problems()
    settings = Settings()
    entries = read_config(path, problems)
    if problems and not entries:
        # It isn't a config file, and all other problems would follow from that.
        return settings, problems
    # This comes first, because parse_section removes the entries it reads.
    if has_secrets(settings, entries):
        settings.files_with_secrets.append(path)
    # Next to the config file, because cron starts the program in the home folder.
    load_dotenv(path.parent / ".env", settings, problems)
    for section_name in SECTIONS:
        parse_section(section_name, getattr(settings, section_name), entries, problems)
    # From here on, `redact` knows every secret.
    register_all_secrets(settings)
    set_timezone(settings, problems)  # before the mappings, whose converters need it
    parse_mappings(settings, entries, problems)
    report_unknown_entries(settings, entries, problems)
    if not settings.intercom.state_file:
        state_file = path.absolute().parent / "sent_users.sqlite3"
        settings.intercom.state_file = str(state_file)
    apply_arguments(settings, arguments)
    # A dry run sends nothing, so it needs neither token nor webhook.
    validate(settings, problems, needs_services=not arguments.dry_run)
    return settings, problems


def set_timezone(settings: Settings, problems: Problems) -> None:
    """Look up [csv] timezone."""
    zone = load_timezone(settings.csv.timezone)
    if zone:
        settings.timezone = zone
        return
    shown = describe_invalid(settings.csv.timezone, rules_of(settings.csv)["timezone"])
    problems.add(
        "[csv] timezone", f"{shown} (expected an IANA name such as Europe/Berlin)"
    )


def apply_arguments(settings: Settings, arguments: argparse.Namespace) -> None:
    """Let the command line override the settings."""
    settings.exports_are_in_s3 = settings.aws.use_aws
    if arguments.local:
        settings.aws.use_aws = False
    if arguments.filename:
        settings.file.select_latest = False
        settings.file.name = arguments.filename


def secret_rules(settings: Settings) -> dict[tuple[str, str], SettingRule]:
    """Return the rules of the keys whose values are secrets, by section and key."""
    rules = {}
    for section_name in SECTIONS:
        for key, rule in rules_of(getattr(settings, section_name)).items():
            if rule.is_secret:
                rules[section_name, key] = rule
    return rules


def has_secrets(settings: Settings, entries: RawEntries) -> bool:
    """Return whether config.ini itself contains a secret."""
    found = [entries.get(place) for place in secret_rules(settings)]
    return any(entry and entry.value for entry in found)


def register_all_secrets(settings: Settings) -> None:
    """Register secret settings, passwords in URLs, and boto3's session token."""
    for section_name, key in secret_rules(settings):
        # The parts of a webhook's URL are secrets too.
        if key != "webhook_url":
            register_secret(getattr(getattr(settings, section_name), key))
    register_secret_url(settings.slack.webhook_url)
    if settings.intercom.access_token:
        register_secret(f"Bearer {settings.intercom.access_token}")
    # Basic authentication sends both as one string, in base64.
    if settings.intercom.api_key:
        register_secret(f"{settings.intercom.api_id}:{settings.intercom.api_key}")
    register_secret(os.environ.get("AWS_SESSION_TOKEN", ""))
    urls = [
        value
        for name, value in os.environ.items()
        # A URL for S3 alone, AWS_ENDPOINT_URL_S3, takes precedence in boto3.
        if name.startswith("AWS_ENDPOINT_URL")
    ]
    urls += [
        settings.aws.endpoint_url,
        settings.intercom.user_url,
        settings.hipchat.api_url,
    ]
    for url in [*urls, *urllib.request.getproxies().values()]:
        register_url_password(url)


def register_url_password(url: str) -> None:
    """Register the password in `https://user:password@host`, if there is one.

    Libraries' messages may contain it as written in the URL, percent-decoded, or in base64 as in an
    Authorization header.
    """
    # The user may be blank, as in `https://:password@proxy`.
    credentials = re.match(r"(?:\w+://)?([^:/]*):(.+)@", url)
    if credentials:
        user, password = (unquote(part) for part in credentials.groups())
        for text in (credentials[2], password, f"{user}:{password}"):
            register_secret(text)


def validate(settings: Settings, problems: Problems, *, needs_services: bool) -> None:
    """Check values that depend on other values or on a library."""
    validate_aws(settings, problems)
    validate_file(settings, problems)
    validate_csv(settings, problems)
    validate_mappings(settings, problems)
    validate_urls(settings, problems)
    if needs_services:
        validate_credentials(settings, problems)
        validate_notices(settings, problems)


def validate_aws(settings: Settings, problems: Problems) -> None:
    aws = settings.aws
    if not aws.use_aws:
        return
    if not aws.bucket:
        problems.add("[aws] bucket", "is blank; set it, or set use_aws = false")
    advice = "is blank; set both keys, or neither to use boto3's credential chain"
    if aws.access_key and not aws.secret_key:
        problems.add("[aws] secret_key", advice)
    if aws.secret_key and not aws.access_key:
        problems.add("[aws] access_key", advice)


def validate_file(settings: Settings, problems: Problems) -> None:
    file = settings.file
    shown = describe_invalid(file.time_format, rules_of(file)["time_format"])
    if has_zone_name(file.time_format):
        problems.add(
            "[file] time_format",
            f"{shown} (%Z is ignored when a file name is parsed; "
            "use %z, or the literal zone name)",
        )
    elif not is_sortable_format(file.time_format):
        problems.add(
            "[file] time_format",
            f"{shown} (it can't order files by time; use one such as %Y-%m-%dT%H-%M-%S)",
        )
    if not file.select_latest and not file.name:
        problems.add("[file] name", "is blank; set it, or set select_latest = true")


def validate_csv(settings: Settings, problems: Problems) -> None:
    """Check encoding, delimiter, quote and escape (all different), and not_imported_folder."""
    csv_format = settings.csv_format
    if not is_valid_encoding(csv_format.encoding):
        shown = describe_invalid(
            csv_format.encoding, rules_of(settings.csv)["encoding"]
        )
        problems.add(
            "[csv] encoding", f"{shown} (expected one such as utf-8 or cp1252)"
        )
    if csv_format.quote == csv_format.delimiter:
        problems.add(
            "[csv] quote", "is the same as delimiter; use another, or the word none"
        )
    if csv_format.escape and csv_format.escape == csv_format.delimiter:
        problems.add("[csv] escape", "is the same as delimiter; use another")
    if csv_format.escape and csv_format.escape == csv_format.quote:
        problems.add(
            "[csv] escape", "is the same as quote; leave it blank if quotes are doubled"
        )
    # A run would mistake the newest reject file for the newest export. Unlike
    # Path.resolve(), realpath doesn't fail if links form a loop: write_problems reports that.
    reject_folder = os.path.realpath(settings.csv.not_imported_folder)
    exports_folder = os.path.realpath(settings.local.folder)
    if not settings.exports_are_in_s3 and reject_folder == exports_folder:
        problems.add(
            "[csv] not_imported_folder",
            "is the folder that exports are read from, [local] folder; "
            "use another one, or rejected rows could be mistaken for an export",
        )


def is_valid_encoding(name: str) -> bool:
    """Return whether text can be read in this encoding."""
    try:
        io.TextIOWrapper(io.BytesIO(), name)  # rejects rot13, base64 and the like
    except (LookupError, ValueError):
        return False
    # The first two are for host names, and "undefined" always fails.
    return codecs.lookup(name).name not in ("idna", "punycode", "undefined")


def validate_mappings(settings: Settings, problems: Problems) -> None:
    field_names = [
        mapping.name for mapping in settings.mappings if not mapping.is_attribute
    ]
    # An empty [user] section is fine: the headings then determine the mapping.
    has_fields = bool(field_names or settings.ignored_keys)
    has_identity = any(name in IDENTITY_FIELDS for name in field_names)
    # If a line of [user] is wrong, the identity may be missing because of that.
    if has_fields and not has_identity and not problems.affect("user"):
        problems.add("[user]", "must map at least one of user_id, email and id")
    if len(settings.attribute_mappings) > MAX_ATTRIBUTES:
        problems.add(
            "[custom_attributes]", f"has more than {MAX_ATTRIBUTES} keys; remove some"
        )


def validate_urls(settings: Settings, problems: Problems) -> None:
    """Check the URLs and proxies as the HTTP library will read them."""
    urls = {
        "[intercom] user_url": settings.intercom.user_url,
        "[hipchat] api_url": settings.hipchat.api_url,
        "[slack] webhook_url": settings.slack.webhook_url,
    }
    for place, url in urls.items():
        if url and not is_valid_url(url):
            problems.add(place, f"invalid value (expected {URL_HINT})")
    # With an invalid proxy, every request would fail, and be retried for hours.
    proxies = urllib.request.getproxies()
    for scheme in ("http", "https", "all"):
        proxy = proxies.get(scheme, "")
        if proxy and not is_valid_proxy(proxy):
            problems.add(
                f"{scheme.upper()}_PROXY",
                "is not a valid URL; fix this environment variable",
            )


def is_valid_url(url: str) -> bool:
    # The patterns accept some URLs that requests rejects, such as one with port 99999.
    try:
        requests.Request("GET", url).prepare()
    except (ValueError, requests.RequestException):
        return False
    return True


def is_valid_proxy(proxy: str) -> bool:
    # Like requests, add the scheme if it is missing, as in proxy.example.com:3128.
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        return bool(urllib3.util.parse_url(url).host)
    except (ValueError, urllib3.exceptions.HTTPError):
        return False


def validate_credentials(settings: Settings, problems: Problems) -> None:
    intercom = settings.intercom
    if intercom.access_token or (intercom.api_id and intercom.api_key):
        return
    # The message names the missing half of a pair, or else the token, which Intercom issues today.
    key = "access_token"
    if intercom.api_id:
        key = "api_key"
    elif intercom.api_key:
        key = "api_id"
    variable = rules_of(intercom)[key].env
    problems.add(f"[intercom] {key}", f"is blank; set it, or {variable} in .env")


def validate_notices(settings: Settings, problems: Problems) -> None:
    if settings.hipchat.use_hipchat:
        for key in ("api_key", "room_id"):
            if not getattr(settings.hipchat, key):
                problems.add(
                    f"[hipchat] {key}", "is blank; set it, or set use_hipchat = false"
                )
    if settings.slack.use_slack and not settings.slack.webhook_url:
        problems.add(
            "[slack] webhook_url", "is blank; set it, or set use_slack = false"
        )


#### Finding the input file

COPY_CHUNK = 2**20  # bytes
MAX_CLOCK_SKEW_HOURS = 24  # how far in the future a file's timestamp may be
RECENT_CHANGE = 60  # seconds during which a changed file may still be growing
GROWTH_CHECK_PAUSE = 2  # seconds between two checks of such a file's size
S3_STALL_TIMEOUT = 120  # seconds within which S3 has to send another page or chunk
S3_TIMEOUT = 60  # seconds that botocore waits for one read from a socket
S3_ATTEMPTS = 5
S3_CHUNK = 2**18  # bytes
S3_OPERATIONS = ("ListObjectsV2", "GetObject", "HeadBucket")
# By S3's error code or, if there was no response, by the name of botocore's exception.
S3_ERRORS = {
    "NoSuchBucket": "bucket not found; check [aws] bucket",
    "NoSuchKey": "object not found; check [aws] folder, or use --local for a file on disk",
    "AccessDenied": "access denied; the credentials need s3:ListBucket and s3:GetObject",
    "InvalidAccessKeyId": "unknown access key; check [aws] access_key",
    "SignatureDoesNotMatch": "wrong secret key; check [aws] secret_key",
    "NoCredentialsError": "no AWS credentials found; set [aws] access_key and secret_key",
    "CredentialRetrievalError": "boto3 can't get credentials; check credential_process",
    "PermanentRedirect": "the bucket is in another region; check [aws] region and endpoint_url",
    "ParamValidationError": "invalid bucket name; check [aws] bucket",
    "InvalidBucketName": "invalid bucket name; check [aws] bucket",
    "ExpiredToken": "the session token has expired; get new temporary keys for [aws]",
    "AuthorizationHeaderMalformed": "the bucket is in another region; check [aws] region",
}


@dataclass
class InputFile:
    """The file that a run imports, and the unnamed temporary copy that it reads.

    Changes to the original after it was copied can't affect the run.
    """

    name: str
    location: str  # the full path or S3 URL, for messages
    copy: IO[bytes]
    # The time in its name if the name matches time_format, otherwise the time of its last change.
    timestamp: datetime
    # Left open, to see whether it changes during the run; None for S3.
    original: IO[bytes] | None = None
    original_stat: os.stat_result | None = None  # from before it was copied
    is_pipe: bool = False  # it can't be read again
    note: str = ""  # about how it was found

    @property
    def size(self) -> int:
        return os.fstat(self.copy.fileno()).st_size

    def age(self, zone: tzinfo) -> timedelta:
        """Return how old the file is, by its timestamp; negative if that is in the future."""
        timestamp = self.timestamp
        # A time without an offset is in the time zone of [csv] timezone.
        if timestamp.tzinfo is None:
            timestamp = timestamp.replace(tzinfo=zone)
        return datetime.now(timezone.utc) - timestamp

    def open(self) -> LenientGzipFile | io.BufferedReader:
        """Return the content of the copy from its start, decompressed if it is gzip."""
        # The preflight and the import each read the same copy, so it stays open.
        return open_content(io.FileIO(self.copy.fileno(), closefd=False))

    def original_changed(self) -> bool:
        """Return whether the original's size or modification time changed after it was copied.

        If it was removed, or replaced by another file, it counts as unchanged.
        """
        if not self.original or not self.original_stat:
            return False
        try:
            status = os.fstat(self.original.fileno())
        except OSError:  # NFS: it was removed
            return False
        return not is_same_version(status, self.original_stat)

    def close(self) -> None:
        # `open` moves the file position, bypassing the copy's buffer. Closing the copy may then
        # fail to restore the position, and that error would hide why the run stops.
        with contextlib.suppress(OSError):
            self.copy.close()
        if self.original:
            self.original.close()


def describe_age(age: timedelta) -> str:
    """Return an age in words, such as "26 days old" or "3 hours old"."""
    # Up to a day ahead is fine, because clocks and time zones may differ.
    if age < timedelta(0):
        return f"dated {describe_duration(-age)} in the future"
    return f"{describe_duration(age)} old"


def describe_duration(duration: timedelta) -> str:
    hours = duration // timedelta(hours=1)
    # "30 hours old" says more about a daily export than "1 day old".
    if hours >= 48:
        return pluralize(hours // 24, "day")
    if hours:
        return pluralize(hours, "hour")
    return pluralize(duration // timedelta(minutes=1), "minute")


def is_same_version(left: os.stat_result, right: os.stat_result) -> bool:
    return (left.st_size, left.st_mtime_ns) == (right.st_size, right.st_mtime_ns)


def export_name(name: str) -> str:
    """Return the name without .csv or .csv.gz, or "" if it has neither."""
    match = re.fullmatch(r"(?is)(.*)\.csv(\.gz)?", name)
    return match[1] if match else ""


class Candidate(NamedTuple):
    """A file in the folder of exports."""

    name: str
    modified: float  # UNIX seconds


class StampedFile(NamedTuple):
    """A file whose name matches time_format. The greatest one is the newest."""

    timestamp: datetime
    is_plain: bool  # .csv wins over .csv.gz
    modified: float
    name: str


def parse_timestamp(name: str, time_format: str) -> datetime | None:
    """Return the time in a file's name, or None if the name doesn't match time_format.

    strptime is lenient: for %Y%m%d it also accepts 2026111, as 11 January, although it could be
    1 November. Therefore, formatting the time again has to give the same name, apart from leading
    zeros of a number, trailing zeros of a fraction, upper and lower case, and the spelling of an
    offset.
    """
    stem = export_name(name)
    try:
        timestamp = datetime.strptime(stem, time_format)
        spellings = written_spellings(timestamp, time_format)
    except ValueError:
        return None
    if comparable_name(stem) in spellings:
        return timestamp
    return None


def written_spellings(timestamp: datetime, time_format: str) -> set[str]:
    """Return the ways to write a timestamp in the format, normalized by `comparable_name`."""
    fraction = f"{timestamp.microsecond:06}"
    # 09-05-00.500000 may also be written as 09-05-00.5, but needs at least one digit.
    shortest = max(1, len(fraction.rstrip("0")))
    choices = {
        "%f": [fraction[:length] for length in range(shortest, len(fraction) + 1)],
        "%z": offset_spellings(timestamp.strftime("%z")),
    }
    parts = re.findall("%.|[^%]+", time_format, re.DOTALL)
    written = [choices.get(part) or [timestamp.strftime(part)] for part in parts]
    return {comparable_name("".join(each)) for each in itertools.product(*written)}


def offset_spellings(offset: str) -> list[str]:
    """Return the spellings that strptime reads as an offset such as "+0100"."""
    with_colons = offset[:1] + ":".join(re.findall("..", offset[1:]))
    spellings = [offset, with_colons]
    # strptime reads each of these as an offset of zero.
    if offset == "+0000":
        spellings += ["Z", "-0000", "-00:00"]
    return spellings


def comparable_name(name: str) -> str:
    """Return the name in lower case, without leading zeros of its numbers."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name).casefold()


def name_shape(name: str) -> str:
    """Return a name's shape: without .csv or .csv.gz, and with 0 for every digit."""
    return re.sub(r"\d", "0", export_name(name))


def find_newest(
    candidates: Iterable[Candidate], time_format: str, location: str
) -> StampedFile:
    """Return the file with the latest timestamp in its name.

    Raise RunAborted if no name matches. Also raise it if a file that doesn't match was changed
    later than the newest match and its name has the same shape: the format must be wrong. (MMDDYYYY
    read as %d%m%Y matches only the first twelve days of a month.)
    """
    matching: list[StampedFile] = []
    others: list[Candidate] = []
    for candidate in candidates:
        timestamp = parse_timestamp(candidate.name, time_format)
        if timestamp:
            is_plain = candidate.name.lower().endswith(".csv")
            matching.append(
                StampedFile(timestamp, is_plain, candidate.modified, candidate.name)
            )
        else:
            log.debug(
                "skipping %s: name doesn't match [file] time_format", candidate.name
            )
            others.append(candidate)
    if not matching:
        raise RunAborted(no_match_message(others, time_format, location))
    newest = max(matching)
    for other in others:
        has_same_shape = name_shape(other.name) == name_shape(newest.name)
        if has_same_shape and other.modified > newest.modified:
            raise RunAborted(
                f"[file] time_format = {time_format} is wrong: the newest match in "
                f"{location} is {newest.name}, but {other.name}, whose name has "
                "the same shape, doesn't match and was changed later; are day and month "
                "swapped?"
            )
    return newest


def no_match_message(others: list[Candidate], time_format: str, location: str) -> str:
    now = datetime.now().astimezone()  # with an offset, for %z
    example = f"{now.strftime(time_format)}.csv"
    message = f"no file in {location} matches [file] time_format; expected a name like {example}"
    if not others:
        return message
    # Prefer a CSV to other files and, among several, the last one by name.
    closest = max(others, key=lambda other: (bool(export_name(other.name)), other.name))
    return f"{message}, but found '{closest.name}', for example"


def run_in_background(
    action: Callable[[], Any],
    should_stop: Callable[[], bool],
    has_stalled: Callable[[], bool] = lambda: False,
) -> Any:
    """Return what `action` returns, but raise RunAborted as soon as the run has to stop.

    `action` runs in a daemon thread, which is then abandoned, because a blocking read can't be
    canceled, whether from a pipe, a network disk, or a server that sends a byte now and then
    (botocore's read_timeout counts from the last byte). On Windows, even Ctrl-C doesn't interrupt
    it.
    """
    # Not a SimpleQueue: if a signal arrives just as the timeout of its get() ends, the rest of the
    # timeout is negative, which means "wait forever" there (CPython's _queue.c).
    results: queue.Queue[Any] = queue.Queue()

    def work() -> None:
        try:
            results.put(action())
        # Raised again below, in the thread that waits for the result.
        except BaseException as error:
            results.put(error)

    threading.Thread(target=work, daemon=True).start()
    while not should_stop():
        try:
            result = results.get(timeout=POLL_INTERVAL)
        except queue.Empty:
            if has_stalled():
                raise RunAborted(
                    f"timed out: S3 made no progress within {S3_STALL_TIMEOUT} seconds; "
                    "try again later"
                ) from None
            continue
        if isinstance(result, BaseException):
            raise result
        return result
    raise RunAborted(RUN_STOPPED)


def find_input(settings: Settings, should_stop: Callable[[], bool]) -> InputFile:
    """Find and copy the input. Raise RunAborted if there is none or it can't be read."""
    if settings.aws.use_aws:
        return download_input(settings, should_stop)
    found = find_local_path(settings)
    path = found.path
    copy = open_temporary(settings)
    try:
        original = run_in_background(partial(open_original, path), should_stop)
        # fstat, not stat: by now, the path may belong to a newer export.
        status = os.fstat(original.fileno())
        modified = datetime.fromtimestamp(status.st_mtime, timezone.utc)
        file = InputFile(
            path.name,
            str(path),
            copy,
            timestamp=found.timestamp or modified,
            original=original,
            is_pipe=not stat.S_ISREG(status.st_mode),
            note=found.note,
        )
        copy_original(original, file, should_stop)
    except (OSError, ValueError) as error:
        raise RunAborted(unreadable_message(path, settings, error)) from None
    # A pipe has neither a size nor a modification time that could be compared.
    if not file.is_pipe:
        file.original_stat = status
        try:
            check_copy_is_complete(file, should_stop)
        except RunAborted:
            file.close()
            raise
    return file


def open_original(path: Path) -> IO[bytes]:
    """Open the original. If it is a named pipe, block until a writer opens it."""
    if str(path) == "/dev/stdin" and stat.S_ISFIFO(os.fstat(0).st_mode):
        # Opening a named pipe again would wait for another writer.
        return open(0, "rb", buffering=0, closefd=False)
    return path.open("rb", buffering=0)


def copy_original(
    original: IO[bytes], file: InputFile, should_stop: Callable[[], bool]
) -> None:
    """Copy the original. Raise InputInterrupted if the run stops during the copy."""
    try:
        run_in_background(partial(copy_stream, original, file.copy), should_stop)
    except RunAborted as error:
        raise InputInterrupted(str(error), file) from None


class InputInterrupted(RunAborted):
    """The run stopped while the input was being copied.

    `file` lets the caller save data that came from a pipe, which can't be read again.
    """

    def __init__(self, message: str, file: InputFile) -> None:
        super().__init__(message)
        self.file = file


class LocalPath(NamedTuple):
    path: Path
    timestamp: datetime | None  # None: use its modification time
    note: str


def find_local_path(settings: Settings) -> LocalPath:
    """Return the path of the newest file, or of the named one. Raise RunAborted if there's none."""
    folder = Path(settings.local.folder).absolute()
    time_format = settings.file.time_format
    if settings.file.select_latest:
        try:
            candidates = list_folder(folder)
        except (OSError, ValueError) as error:
            raise RunAborted(unreadable_message(folder, settings, error)) from None
        newest = find_newest(candidates, time_format, f"the folder {folder}")
        return LocalPath(folder / newest.name, newest.timestamp, "")
    name = settings.file.name
    # If the name is absolute, pathlib ignores the folder.
    in_folder = folder / name
    in_current = Path(name).absolute()
    note = ""
    try:
        path = in_folder if in_folder.exists() else in_current
        is_ambiguous = in_folder.exists() and in_current.exists()
        # They are the same file if the [local] folder is the current one.
        if is_ambiguous and not in_folder.samefile(in_current):
            note = (
                f"{name} exists in both the [local] folder and the current folder; "
                f"using {in_folder}"
            )
    except (OSError, ValueError) as error:  # ValueError: the name contains a NUL
        raise RunAborted(unreadable_message(in_folder, settings, error)) from None
    return LocalPath(path, parse_timestamp(path.name, time_format), note)


def list_folder(folder: Path) -> list[Candidate]:
    """List the regular files in a folder, and links to them."""
    candidates = []
    for entry in os.scandir(folder):
        try:
            status = entry.stat()
        except OSError:
            continue  # a broken link, or a symlink loop
        if stat.S_ISREG(status.st_mode):
            candidates.append(Candidate(entry.name, status.st_mtime))
    return candidates


def unreadable_message(path: Path, settings: Settings, error: Exception) -> str:
    # The text of an OSError repeats the path, and contains the error number.
    reason = getattr(error, "strerror", None) or error
    looked_in = ""
    if not settings.file.select_latest and not Path(settings.file.name).is_absolute():
        looked_in = f" (looked in the current folder and {Path(settings.local.folder).absolute()})"
    return (
        f"can't read {path}{looked_in}: {reason}; check [local] folder and [file] name"
    )


def open_temporary(settings: Settings) -> IO[bytes]:
    """Open an unnamed file for the copy. It leaves nothing behind, even after kill -9."""
    folder = settings.aws.tmp_folder
    try:
        return tempfile.TemporaryFile(dir=folder or None)
    except OSError as error:
        raise RunAborted(
            f"can't write the temporary copy to {folder or 'the temporary folder'}: "
            f"{error.strerror}; check [aws] tmp_folder"
        ) from None


def copy_stream(source: IO[bytes], target: IO[bytes]) -> None:
    """Copy to the temporary file. Raise RunAborted if it can't be written."""
    while chunk := source.read(COPY_CHUNK):
        write_copy(target, chunk)


def write_copy(target: IO[bytes], chunk: bytes) -> None:
    try:
        # Flushed, so that a full disk is reported here rather than when the copy is read.
        target.write(chunk)
        target.flush()
    except OSError as error:
        raise RunAborted(
            f"can't write the temporary copy: {error.strerror}; "
            "set [aws] tmp_folder to a folder with more space"
        ) from None


def check_copy_is_complete(file: InputFile, should_stop: Callable[[], bool]) -> None:
    """Raise RunAborted if the original changed while it was being copied.

    In that case, the export isn't finished yet.
    """
    status = file.original_stat
    if not status:
        return
    message = (
        f"{file.name} is still being written (its size or modification time changed "
        "while it was being read); try again when the export is finished"
    )
    # The size also differs if a network disk delivered less than the whole file.
    if file.size != status.st_size or file.original_changed():
        raise RunAborted(message)
    # The clock of a network disk may be ahead of this one, hence abs().
    has_changed_recently = abs(time.time() - status.st_mtime) < RECENT_CHANGE
    if has_changed_recently and not ends_with_line_ending(file.copy):
        # Its last line may be incomplete, with the rest still in the writer's buffer.
        sleep_unless_stopped(GROWTH_CHECK_PAUSE, should_stop)
        if file.original_changed():
            raise RunAborted(message)


def ends_with_line_ending(copy: IO[bytes]) -> bool:
    """Return whether the copy ends with a line ending, or is gzip.

    In UTF-16 and UTF-32, NULs precede or follow the line feed.
    """
    copy.seek(0)
    if copy.read(len(GZIP_MAGIC)) == GZIP_MAGIC:
        return True  # an incomplete .gz fails to decompress
    size = copy.seek(0, os.SEEK_END)
    # In UTF-32, a line feed has four bytes.
    copy.seek(max(0, size - 4))
    return copy.read().strip(b"\0").endswith((b"\n", b"\r"))


def sleep_unless_stopped(seconds: float, should_stop: Callable[[], bool]) -> None:
    """Sleep, but raise RunAborted as soon as the run has to stop."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if should_stop():
            raise RunAborted(RUN_STOPPED)
        time.sleep(min(left, POLL_INTERVAL))


class S3Download:
    """Downloads the named or the newest object to a temporary file."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bucket = settings.aws.bucket
        # "exports/users/", or "" for the top level of the bucket.
        self.folder = f"{settings.aws.folder.strip('/')}/".lstrip("/")
        self.location = f"s3://{self.bucket}/{self.folder}"
        self.last_progress = time.monotonic()

    def has_stalled(self) -> bool:
        return time.monotonic() - self.last_progress > S3_STALL_TIMEOUT

    def run(self) -> InputFile:
        """Download the object. Raise RunAborted if S3 refuses or all attempts fail."""
        # Import boto3 only here: it takes half a second, and local runs don't need it.
        try:
            import boto3
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise RunAborted(
                f"the package {error.name} is missing; {INSTALL_HINT}"
            ) from None

        key = self.folder
        try:
            client = self.make_client(boto3)
            if self.settings.file.select_latest:
                key += self.find_newest(client).name
            else:
                key += self.settings.file.name
            return self.download(client, key)
        # botocore raises a plain ValueError if endpoint_url is invalid.
        except (BotoCoreError, ClientError, ValueError, OSError) as error:
            raise RunAborted(
                f"s3://{self.bucket}/{key}: {describe_s3_error(error)}"
            ) from None

    def make_client(self, boto3: ModuleType) -> Any:
        """Return a client for S3."""
        from botocore.config import Config

        aws = self.settings.aws
        # The environment's session token belongs to the environment's keys, not to others.
        session_token = None
        if aws.access_key == os.environ.get("AWS_ACCESS_KEY_ID"):
            session_token = os.environ.get("AWS_SESSION_TOKEN")
        # boto3 looks up anything that is None here: environment, ~/.aws, the machine's role.
        client = boto3.client(
            "s3",
            aws_access_key_id=aws.access_key or None,
            aws_secret_access_key=aws.secret_key or None,
            aws_session_token=session_token,
            region_name=aws.region or None,
            endpoint_url=aws.endpoint_url or None,
            config=Config(
                connect_timeout=10,
                read_timeout=S3_TIMEOUT,
                retries={"mode": "standard", "total_max_attempts": S3_ATTEMPTS},
            ),
        )
        # https://boto3.amazonaws.com/v1/documentation/api/latest/guide/events.html
        client.meta.events.register_first("needs-retry.s3.HeadBucket", refuse_redirect)
        return client

    def find_newest(self, client: Any) -> StampedFile:
        """Return the newest of the folder's immediate children.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html (Delimiter)
        """
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.folder, Delimiter="/"
        )
        candidates = []
        for page in pages:
            self.last_progress = time.monotonic()
            for item in page.get("Contents", ()):
                # The S3 console represents a folder as an empty object, whose name is blank here.
                name = item["Key"][len(self.folder) :]
                candidates.append(Candidate(name, item["LastModified"].timestamp()))
        return find_newest(candidates, self.settings.file.time_format, self.location)

    def download(self, client: Any, key: str) -> InputFile:
        """Download an object, starting over if the connection breaks."""
        name = key.rpartition("/")[2]
        for attempt in range(1, S3_ATTEMPTS + 1):
            response = client.get_object(Bucket=self.bucket, Key=key)
            copy = open_temporary(self.settings)
            if self.save_body(response, copy):
                modified = response.get("LastModified") or datetime.now(timezone.utc)
                timestamp = (
                    parse_timestamp(name, self.settings.file.time_format) or modified
                )
                return InputFile(name, f"s3://{self.bucket}/{key}", copy, timestamp)
            copy.close()
            log.warning("%s: the download was interrupted (attempt %d)", key, attempt)
        raise RunAborted(
            f"s3://{self.bucket}/{key}: download failed {S3_ATTEMPTS} times; try again later"
        )

    def save_body(self, response: dict[str, Any], copy: IO[bytes]) -> bool:
        """Save the body, and return whether it is complete.

        boto3's download_fileobj isn't used: it treats part of an object as the whole if the server
        closes the connection early.
        """
        from botocore.exceptions import BotoCoreError

        try:
            while chunk := response["Body"].read(S3_CHUNK):
                self.last_progress = time.monotonic()
                write_copy(copy, chunk)
        except (BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
            log.warning("the download was interrupted: %s", root_cause(error))
            return False
        # A chunked body has no length, but its last chunk marks the end.
        is_chunked = "transfer-encoding" in response["ResponseMetadata"]["HTTPHeaders"]
        expected = response.get("ContentLength")
        if expected is None:
            return is_chunked
        return bool(expected == copy.tell())


def download_input(settings: Settings, should_stop: Callable[[], bool]) -> InputFile:
    """Download the input from S3, to an unnamed temporary file."""
    download = S3Download(settings)
    file: InputFile = run_in_background(download.run, should_stop, download.has_stalled)
    return file


class PermanentRedirect(ValueError):
    """S3 redirects a request, but doesn't say to which region."""


def refuse_redirect(
    response: tuple[Any, dict[str, Any]] | None, **event: object
) -> None:
    """Raise PermanentRedirect if S3 redirects botocore's search for the bucket's region.

    After a redirect without the region, botocore asks for it with HeadBucket. Some S3-compatible
    stores redirect that request in the same way, and botocore repeats it until Python's stack
    overflows.
    """
    if response is None:
        return  # there was no response
    http_response, parsed = response
    has_region = "x-amz-bucket-region" in parsed["ResponseMetadata"]["HTTPHeaders"]
    if http_response.status_code in (301, 302, 307) and not has_region:
        raise PermanentRedirect


def describe_s3_error(error: Exception) -> str:
    """Explain an error from S3 or boto3, and add the message that S3 sent."""
    response = getattr(error, "response", None) or {}
    details = response.get("Error", {})
    operation = getattr(error, "operation_name", "")
    explanation = S3_ERRORS.get(details.get("Code", type(error).__name__))
    service = "S3"
    if operation and operation not in S3_OPERATIONS:
        # STS or IAM Identity Center, where boto3 asks for the credentials of a role
        service = "AWS"
        explanation = f"AWS refused {operation}; check the role in the AWS profile"
    if not explanation:
        return f"{error}; check [aws] in config.ini"
    if details.get("Message"):
        return f"{explanation} ({service}: {details['Message']})"
    return explanation


#### Reading CSV

BLOCK_SIZE = 2**16  # bytes read at once
INVALID_BYTES = "contains bytes that are not valid"
MAX_RECORD_SIZE = 2**20  # characters
# CsvReader enforces MAX_RECORD_SIZE itself, for records of many small cells too.
csv.field_size_limit(8 * MAX_RECORD_SIZE)

# Zero-width characters: NUL, soft hyphen, joiners, fillers, direction marks, byte-order mark.
INVISIBLE_SINGLE = "\0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u3164\ufeff\uffa0"
INVISIBLE_RANGES = (
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
)
INVISIBLE = INVISIBLE_SINGLE + "".join(map(chr, INVISIBLE_RANGES))
WITHOUT_INVISIBLE = str.maketrans("", "", INVISIBLE)
# No character above U+3000, the space in Chinese and Japanese text, is white space.
WHITESPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))
STRIPPABLE = WHITESPACE + INVISIBLE
STRIPPABLE_ASCII = "".join(filter(str.isascii, STRIPPABLE))
# Half of a surrogate pair. On its own it is invalid, but "surrogatepass" lets it pass.
SURROGATE = re.compile("[\ud800-\udfff]")

# UTF-32 comes before UTF-16, whose little-endian mark is the start of UTF-32's.
BOM_ENCODINGS = ("utf-8", "utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
BOMS = {"\ufeff".encode(encoding): encoding for encoding in BOM_ENCODINGS}
# These codecs expect or write a byte-order mark, which is handled here.
ENCODING_WITHOUT_BOM = {
    "utf-8-sig": "utf-8",
    "utf-16": "utf-16-le",
    "utf-32": "utf-32-le",
}
# ASCII characters, and sequences of them that some encodings use for other characters:
# unicode_escape, raw_unicode_escape, utf-7, hz, iso2022_jp.
ASCII_PROBE = (
    bytes(range(128)).replace(b"\\", b"")
    + rb"\x41 \u0041 +AEE- ~{VPND~} "
    + b"\x1b$BF|\x1b(B"
)

CSV_WRITER_QUOTE = '"'  # csv.writer escapes it even if cells are never quoted
GZIP_MAGIC = b"\x1f\x8b"
COMPRESSED = "a compressed file; decompress it"
BINARY_DATA = "a binary data file; export the data as CSV"
FILE_SIGNATURES = {
    GZIP_MAGIC: "gzip-compressed more than once; decompress it",
    # An .xlsx file is a zip archive; the other two are an empty archive and a split one.
    rb"PK(\x03\x04|\x05\x06|\x07\x08)": "an Excel workbook or zip archive; export the sheet as CSV",
    rb"\xd0\xcf\x11\xe0\xa1\xb1": "an old Excel workbook; export the sheet as CSV",
    rb"%PDF-": "a PDF; export the data as CSV",
    rb"BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf|\x1f\x9d|Rar!\x1a": COMPRESSED,
    # A heading may also begin with PAR1 or ORC, but it isn't followed by binary data.
    rb"PAR1[^\t -~]|ORC[^\t -~]|Obj\x01|SQLite format 3\0|ARROW1\0": BINARY_DATA,
    # tar's magic is at offset 257, after the name and other properties of the first file.
    rb".{257}ustar": "a tar archive; extract the CSV",
    rb"([^\0]\0\0\0){3}": "UTF-32 without a byte-order mark; set [csv] encoding = utf-32-le",
    rb"(\0\0\0[^\0]){3}": "UTF-32 without a byte-order mark; set [csv] encoding = utf-32-be",
    rb"([^\0]\0){4}": "UTF-16 without a byte-order mark; set [csv] encoding = utf-16-le",
    rb"(\0[^\0]){4}": "UTF-16 without a byte-order mark; set [csv] encoding = utf-16-be",
}
# A heading such as <head> or <id> is followed by a delimiter, a tag by text or another tag.
TEXT_SIGNATURES = {
    r"(<!--.*?-->\s*)?<(!doctype html|html[\s>]|"
    r"(head|body|table|meta|script|style|div|title|h1|p|pre)\b[^<>]*>\s*[^\s,;|])": (
        "HTML, such as a login page; check where the file comes from"
    ),
    r"<\?xml|<[a-z][\w:.-]*(\s[^<>]*)?>\s*<[a-z/!]": "XML; export the data as CSV",
    r"\{\\rtf": "a text document (RTF); export the data as CSV",
}


@dataclass(frozen=True)
class CsvFormat:
    """The CSV dialect of the file, as described by [csv] in config.ini."""

    delimiter: str = ","
    quote: str = '"'  # "": cells are never quoted
    escape: str = ""
    encoding: str = "utf-8"


@dataclass(slots=True)
class Row:
    """One record of the file."""

    line: int  # the first line of the record, 1-based
    raw: bytes  # as it is in the (decompressed) file, line ending included
    cells: list[str]  # cleaned
    error: str = ""  # why it can't be read; blank if it can
    line_count: int = 1


class Batch(NamedTuple):
    """Consecutive lines of the file."""

    raws: list[bytes]
    texts: Iterable[str]
    text: str  # the texts, joined
    invalid: Set[int] = frozenset()  # indexes of the lines with invalid bytes


class LineScan(NamedTuple):
    """The result of `QuoteScanner.scan` for a line."""

    text: str  # without blanks around quoted cells
    is_open: bool = False  # a quoted cell continues on the next line
    opens: bool = False  # that cell begins on this line


class LenientGzipFile(gzip.GzipFile):
    """A GzipFile that ignores trailing garbage, as gzip does. Read it with `read1` or `peek`."""

    has_trailing_garbage = False

    def read1(self, size: int = -1) -> bytes:
        try:
            return super().read1(size)
        except gzip.BadGzipFile as error:
            # The first member's magic number has been checked by `open_content`.
            if "Not a gzipped file" not in str(error):
                raise
            self.has_trailing_garbage = True
            return b""


def open_content(stream: BinaryIO) -> LenientGzipFile | io.BufferedReader:
    """Return a reader of the stream's content from its start, decompressed if it is gzip."""
    stream.seek(0)
    magic = stream.read(len(GZIP_MAGIC))
    stream.seek(0)
    if magic == GZIP_MAGIC:
        return LenientGzipFile(fileobj=stream, mode="rb")
    return io.BufferedReader(NonClosingStream(stream), BLOCK_SIZE)


class NonClosingStream(io.RawIOBase):
    """Reads from a stream that stays open when its reader is discarded."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def describe_foreign_format(head: bytes, name: str, encoding: str = "utf-8") -> str:
    """Return a message with the format and the remedy if `head` isn't CSV, or ""."""
    bom = next((bom for bom in BOMS if head.startswith(bom)), b"")
    encoding = BOMS.get(bom, encoding)
    head = head[len(bom) :]
    # HTML and the like may be in UTF-16 too, but the signatures are in ASCII.
    if encoding.startswith(("utf-16", "utf-32")):
        head = head.decode(encoding, "ignore").encode("utf-8", "ignore")
    text = head.decode("utf-8", "replace").lstrip(STRIPPABLE)
    for signature, description in FILE_SIGNATURES.items():
        if re.match(signature, head, re.DOTALL):
            return f"{name} can't be read as CSV: it is {description}"
    for pattern, description in TEXT_SIGNATURES.items():
        if re.match(pattern, text, re.DOTALL | re.IGNORECASE):
            return f"{name} can't be read as CSV: it is {description}"
    if is_json(text):
        return f"{name} can't be read as CSV: it is JSON; export the data as CSV"
    return ""


def is_json(text: str) -> bool:
    """Return whether the text begins with a JSON object or array, which may be cut off.

    `[id],user_id` and `{x},b` are real headings.
    """
    if not text.startswith(("{", "[")):
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated string"):
            return True
        # The text may be cut off before a value, or within a word, as in `nul`.
        rest = text[error.pos :]
        return any(word.startswith(rest) for word in ("true", "false", "null", "-"))
    except RecursionError:
        return True
    # Several values may follow each other, one per line, with or without commas.
    rest = text[end:].lstrip(", \t\r\n")
    return rest == "" or rest.startswith(("{", "["))


def clean_cell(cell: str) -> str:
    """Strip whitespace and invisible characters, and unwrap a spreadsheet's ="00123"."""
    strippable = STRIPPABLE
    if cell.isascii():
        # This is faster, because each character is compared with fewer others.
        strippable = STRIPPABLE_ASCII
    cell = cell.strip(strippable)
    if not (cell.startswith('="') and cell.endswith('"') and len(cell) > 2):
        return cell
    content = cell[2:-1]
    if '"' in content.replace('""', ""):
        return cell  # more than one string: a formula such as ="a"&"b"
    return content.replace('""', '"').strip(STRIPPABLE)


def needs_cleaning(text: str) -> bool:
    """Return whether a text may contain cells that str.strip alone doesn't clean."""
    # The first test is faster than the second, and sufficient for most text.
    if "=" in text and '="' in text:
        return True
    if text.isascii():
        return False
    return any(character in text for character in INVISIBLE)


def normalize_heading(heading: str) -> str:
    """Normalize a heading so that headings that look alike compare equal."""
    visible = clean_cell(heading).translate(WITHOUT_INVISIBLE)
    return " ".join(unicodedata.normalize("NFC", visible).split())


def is_ascii_superset(encoding: str) -> bool:
    """Return whether ASCII characters are the same bytes in this encoding."""
    return ASCII_PROBE.decode(encoding, "replace") == ASCII_PROBE.decode("ascii")


def split_text(text: str) -> list[str]:
    """Split at line endings, keeping them. (str.splitlines would also split at U+2028.)"""
    return list(io.StringIO(text, newline=""))


def split_bytes(data: bytes) -> list[bytes]:
    """Split at line endings, keeping them."""
    return data.splitlines(keepends=True)


def complete_lines(
    pieces: Iterable[AnyStr],
    split: Callable[[AnyStr], list[AnyStr]],
    line_feed: AnyStr,
    check_unfinished: Callable[[AnyStr], None],
) -> Iterator[list[AnyStr]]:
    """Yield the complete lines of each piece of a file; the last line may lack its ending.

    `check_unfinished` raises RunAborted if a line is too long.
    """
    unfinished = line_feed[:0]
    for piece in pieces:
        lines = split(unfinished + piece)
        unfinished = line_feed[:0]
        # A carriage return at the end may be one half of "\r\n".
        if lines and not lines[-1].endswith(line_feed):
            unfinished = lines.pop()
        if lines:
            yield lines
        check_unfinished(unfinished)
    if unfinished:
        yield split(unfinished)


def decode_ascii_superset(
    lines: Iterable[list[bytes]], encoding: str
) -> Iterator[Batch]:
    """Decode lines in an encoding that has the same line endings and quotes as ASCII.

    Invalid bytes in a line affect neither the other lines nor the boundaries of its own cells.
    """
    for raws in lines:
        block = b"".join(raws)
        # The usual case, in which no line can have invalid bytes.
        if block.isascii():
            yield Batch(raws, map(bytes.decode, raws), block.decode("ascii"))
            continue
        try:
            texts = [raw.decode(encoding) for raw in raws]
            invalid: set[int] = set()
        except UnicodeDecodeError:
            texts = [raw.decode(encoding, "replace") for raw in raws]
            invalid = {
                index
                for index, raw in enumerate(raws)
                if not is_decodable(raw, encoding)
            }
        yield Batch(raws, texts, "".join(texts), invalid)


def is_decodable(raw: bytes, encoding: str) -> bool:
    """Return whether the bytes are valid in the encoding."""
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def decode_wide(lines: Iterable[list[str]], encoding: str) -> Iterator[Batch]:
    """Yield decoded lines of UTF-16 or UTF-32 together with their bytes.

    With surrogatepass, encoding a line again restores exactly its original bytes.
    """
    for texts in lines:
        raws = [text.encode(encoding, "surrogatepass") for text in texts]
        invalid = {index for index, text in enumerate(texts) if SURROGATE.search(text)}
        yield Batch(raws, texts, "".join(texts), invalid)


def decode_incrementally(
    lines: Iterable[list[bytes]], encoding: str
) -> Iterator[Batch]:
    """Decode lines in any other encoding, such as utf-7, unicode_escape or cp500.

    The meaning of a byte may depend on earlier lines, so an error affects everything after it.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    for raws in lines:
        all_raws: list[bytes] = []
        all_texts: list[str] = []
        for raw in raws:
            texts = split_text(decoder.decode(raw))
            all_texts += texts
            # A raw line may decode to several lines, as with unicode_escape's `\n`.
            all_raws += split_like(texts, raw, encoding)
        yield Batch(all_raws, all_texts, "".join(all_texts))
    if rest := decoder.decode(b"", True):
        yield Batch([b""], [rest], rest)


def split_like(texts: list[str], raw: bytes, encoding: str) -> Iterator[bytes]:
    """Yield the bytes of each of the texts that `raw` was decoded to."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    start = 0
    end = 0
    missing = 0  # characters of this text that haven't been decoded yet
    for text in texts[:-1]:
        missing += len(text)
        # Byte by byte, because an escape sequence such as iso2022_kr's produces no character.
        while missing > 0 and end < len(raw):
            missing -= len(decoder.decode(raw[end : end + 1]))
            end += 1
        yield raw[start:end]
        start = end
    yield raw[start:]


class QuoteScanner:
    """Prepares lines for csv.reader.

    csv.reader is too strict about blanks and too lax about escapes.
    """

    def __init__(self, csv_format: CsvFormat) -> None:
        self.quote = csv_format.quote
        self.escape = csv_format.escape
        self.delimiter = csv_format.delimiter
        # A tab or space that is used as the delimiter doesn't count as a blank.
        blanks = {" ": "", "\t": " "}.get(self.delimiter, " \t")
        quote = re.escape(self.quote)
        delimiter = re.escape(self.delimiter)
        escaped = f"{re.escape(self.escape)}.|" * bool(self.escape)
        # None of these can backtrack: each repeats a single set of characters.
        any_blanks = f"[{blanks}]*" * bool(blanks)
        self.opening = re.compile(f"{any_blanks}{quote}")
        self.after_closing = re.compile(rf"{any_blanks}(?={delimiter}|[\r\n]|\Z)")
        self.quotes = re.compile(f"{escaped}(?:{quote})+", re.DOTALL)
        self.delimiters = re.compile(f"{escaped}{delimiter}", re.DOTALL)
        escape = re.escape(self.escape)
        literal = f"{escape}|{delimiter}|{quote or CSV_WRITER_QUOTE}"
        self.escapes = re.compile(f"({escape}(?:{literal}))|({escape})")
        # csv.reader can skip spaces before a quote (skipinitialspace), but not tabs.
        self.allows_spaces_around_quotes = bool(self.quote) and " " in blanks
        self.allows_tabs_around_quotes = bool(self.quote) and "\t" in blanks

    def needs_preparation(self, text: str) -> bool:
        """Return whether csv.reader may misread a line (or several) without preparation."""
        return (
            "\0" in text
            or "\ufeff" in text
            or (self.escape != "" and self.escape in text)
            or self.may_have_blanks_around_quotes(text)
        )

    def may_have_blanks_around_quotes(self, text: str) -> bool:
        """Return whether there may be blanks after a closing quote, or a tab before a quote."""
        if self.allows_spaces_around_quotes and self.quote + " " in text:
            return True
        if not self.allows_tabs_around_quotes or "\t" not in text:
            return False  # the usual case, because tabs are rare
        return self.quote + "\t" in text or "\t" + self.quote in text

    def prepare(self, line: str, is_open: bool) -> str:
        """Prepare a line for csv.reader. `is_open`: the line begins inside quotes."""
        # csv.reader before Python 3.11 rejects NULs. A byte-order mark appears where files
        # were joined.
        line = line.replace("\0", "").removeprefix("\ufeff")
        if self.escape and self.escape in line:
            line = self.double_ordinary_escapes(line, is_open)
        if self.may_have_blanks_around_quotes(line):
            line = self.scan(line, is_open).text
        return line

    def double_ordinary_escapes(self, line: str, is_open: bool) -> str:
        r"""Double each escape character that escapes nothing (\N, C:\temp): csv would drop it.

        MySQL and Redshift also write it before a line break inside a cell. At the end of an
        unquoted cell, it is an ordinary character if the format has quotes, as in `1,C:\temp\`.
        """
        content = line.rstrip("\r\n")
        line_ending = line[len(content) :]
        trailing_escapes = len(content) - len(content.rstrip(self.escape))
        doubled = self.escapes.sub(r"\1\2\2", content)
        if trailing_escapes % 2 == 0 or not line_ending:
            return doubled + line_ending
        unescaped = doubled[: -2 * len(self.escape)]
        if not self.quote:
            return unescaped + "".join(
                self.escape + character for character in line_ending
            )
        if self.scan(doubled + line_ending, is_open).is_open:
            return unescaped + line_ending
        return doubled + line_ending

    def scan(self, line: str, is_open: bool) -> LineScan:
        """Walk through the cells of a line, removing the blanks before and after quoted ones."""
        kept = io.StringIO()
        opens = False
        position = 0
        while position < len(line):
            if not is_open:
                opening = self.opening.match(line, position)
                # Quotes inside an unquoted cell, as in `Bo 5'11"`, are ordinary characters.
                if not opening:
                    end = self.end_of_unquoted(line, position)
                    kept.write(line[position:end])
                    position = end
                    continue
                kept.write(self.quote)
                opens = True
                position = opening.end()
            closing = self.end_of_quoted(line, position)
            if closing < 0:
                kept.write(line[position:])
                return LineScan(kept.getvalue(), is_open=True, opens=opens)
            kept.write(line[position:closing])
            is_open = False
            after = self.after_closing.match(line, closing)
            if not after:  # malformed; csv.reader will report it
                kept.write(line[closing:])
                break
            position = self.end_of_unquoted(line, after.end())
            kept.write(line[after.end() : position])
        return LineScan(kept.getvalue())

    def end_of_quoted(self, line: str, position: int) -> int:
        """Return where the closing quote ends, or -1 if there is none."""
        for quotes in self.quotes.finditer(line, position):
            # An even number of quotes in a row are doubled ones: "say ""hi""".
            if quotes[0][0] == self.quote and len(quotes[0]) % 2:
                return quotes.end()
        return -1

    def end_of_unquoted(self, line: str, position: int) -> int:
        """Return where the next cell begins."""
        for match in self.delimiters.finditer(line, position):
            if match[0] == self.delimiter:
                return match.end()
        return len(line)

    def begins_with_opening_quote(self, line: str) -> bool:
        """Return whether the first quote of a line is at the start of a cell.

        In a line that begins inside quotes, csv.reader takes it for the closing quote. But at the
        start of a cell, it was meant as an opening quote, and the earlier one was never closed.
        """
        closing = self.end_of_quoted(line, 0)
        before = (
            line[:closing].rstrip(self.quote).rstrip(" \t".replace(self.delimiter, ""))
        )
        return before == "" or before.endswith(self.delimiter)


class CsvReader:
    """Iterates over the records of a CSV file, except blank lines.

    Raises RunAborted if it can't continue.
    """

    def __init__(
        self, name: str, stream: io.BufferedIOBase, csv_format: CsvFormat
    ) -> None:
        self.name = name
        self.format = csv_format
        self._stream = stream
        self._lines_read = 0
        self._read_error = ""
        # Read now, because the start of the file decides how all of it is decoded.
        self.head = self._read_block()
        self.bom = next((bom for bom in BOMS if self.head.startswith(bom)), b"")
        configured = codecs.lookup(csv_format.encoding).name
        # A byte-order mark takes precedence over the setting.
        self.encoding = BOMS.get(
            self.bom, ENCODING_WITHOUT_BOM.get(configured, configured)
        )
        self._scanner = QuoteScanner(csv_format)
        # Lines passed to csv.reader, or about to be, that aren't part of a Row yet.
        self._raws: deque[bytes] = deque()
        self._invalid_lines: set[int] = set()
        self._lines_to_repeat: list[str] = []
        self._is_plain = True  # str.strip is enough to clean the cells

    def text_lines(self, row: Row) -> list[str]:
        """Return the decoded lines of a row."""
        return split_text(self._decode_leniently(row.raw))

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows, starting with the first. The stream can be read only once."""
        lines = itertools.chain.from_iterable(self._feed())
        reader = self._parse(lines)
        line = 1
        lines_parsed = 0  # by this csv.reader
        take_line = self._raws.popleft
        while True:
            try:
                # The script's hottest loop: it costs little more than csv.reader itself.
                for raw_cells in reader:
                    line_count = reader.line_num - lines_parsed
                    lines_parsed += line_count
                    raw = take_line()
                    if line_count > 1:
                        raw = self._complete_record(raw, line, line_count)
                    if self._is_plain:
                        cells = [cell.strip() for cell in raw_cells]
                    else:
                        cells = [clean_cell(cell) for cell in raw_cells]
                    if self._invalid_lines and self._has_invalid_line(line, line_count):
                        yield Row(line, raw, cells, self._encoding_error(), line_count)
                    # csv.reader returns [] for an empty line, and [""] for one that contains only
                    # spaces.
                    elif len(cells) > 1 or (cells and cells[0]):
                        yield Row(line, raw, cells, "", line_count)
                    line += line_count
                return
            except csv.Error as error:
                row = self._reject_record(
                    line, reader.line_num - lines_parsed, str(error)
                )
            yield row
            line += row.line_count
            # After an error, the same csv.reader could continue with the next line, but the last
            # line of this record may have to be read again.
            reader = self._parse(itertools.chain(self._lines_to_repeat, lines))
            lines_parsed = 0

    def _parse(self, lines: Iterable[str]) -> Any:
        """Return a csv.reader of the lines."""
        options: dict[str, Any] = {"quotechar": self.format.quote}
        if not self.format.quote:
            options = {"quotechar": None, "quoting": csv.QUOTE_NONE}
        # Without strict, a quote still open at the end of the file wouldn't be an error, and
        # without skipinitialspace, a quote after a space would be part of the cell.
        return csv.reader(
            lines,
            strict=True,
            delimiter=self.format.delimiter,
            escapechar=self.format.escape or None,
            skipinitialspace=self.format.delimiter != " ",
            **options,
        )

    def _feed(self) -> Iterator[Iterable[str]]:
        """Yield the file's lines, prepared for csv.reader; add their bytes to _raws."""
        try:
            for batch in self._decode():
                self._check_unfinished(b"")
                self._check_lines(batch)
                needs_preparation = self._scanner.needs_preparation(batch.text)
                # A record that began in an earlier batch needs the same cleaning as that batch.
                self._is_plain = (
                    (self._is_plain or not self._raws)
                    and not needs_preparation
                    and not needs_cleaning(batch.text)
                )
                if needs_preparation or batch.invalid:
                    yield from self._prepare_one_by_one(batch)
                else:
                    self._raws.extend(batch.raws)
                    self._lines_read += len(batch.raws)
                    yield batch.texts
        except UnicodeError:
            self._abort(
                f"the text after line {self._lines_read} {self._encoding_error()}"
            )

    def _prepare_one_by_one(self, batch: Batch) -> Iterator[Iterable[str]]:
        """Prepare and yield each line once csv.reader has parsed the lines before it.

        Only then is it known whether the line begins inside quotes.
        """
        for index, text in enumerate(batch.texts):
            self._lines_read += 1
            if index in batch.invalid:
                self._invalid_lines.add(self._lines_read)
            # The only earlier lines still in _raws are those of the current record.
            is_open = bool(self._raws)
            self._raws.append(batch.raws[index])
            yield [self._scanner.prepare(text, is_open)]

    def _decode(self) -> Iterator[Batch]:
        """Yield the file's lines."""
        blocks = self._blocks()
        check = self._check_unfinished
        if self.encoding.startswith(("utf-16", "utf-32")):
            # With surrogatepass, invalid UTF-16 affects only its own rows, not the whole file.
            pieces = codecs.iterdecode(blocks, self.encoding, "surrogatepass")
            return decode_wide(
                complete_lines(pieces, split_text, "\n", check), self.encoding
            )
        if is_ascii_superset(self.encoding):
            lines = complete_lines(blocks, split_bytes, b"\n", check)
            return decode_ascii_superset(lines, self.encoding)
        line_feed = "\n".encode(self.encoding)
        if len(line_feed) != 1:  # unicode_escape
            line_feed = b"\n"
        # EBCDIC has a different line feed, but the same carriage return.
        pattern = b"[^\r%b]*(?:\r%b|\r|%b)|[^\r%b]+" % ((re.escape(line_feed),) * 4)
        lines = complete_lines(blocks, re.compile(pattern).findall, line_feed, check)
        return decode_incrementally(lines, self.encoding)

    def _blocks(self) -> Iterator[bytes]:
        """Yield the file's bytes without the byte-order mark."""
        if head := self.head[len(self.bom) :]:
            yield head
        while block := self._read_block():
            yield block

    def _read_block(self) -> bytes:
        """Return about BLOCK_SIZE bytes, or fewer at the end of the file.

        A .gz is read in smaller pieces, which are joined. If reading fails, the bytes read so far
        are returned first.
        """
        block = b""
        if self._read_error:
            self._abort(f"{self._read_error} after line {self._lines_read}")
        try:
            while len(block) < BLOCK_SIZE and (piece := self._stream.read1(BLOCK_SIZE)):
                block += piece
        # BadGzipFile is an OSError as well, so these come first.
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self._read_error = "the file is truncated or corrupt"
        except OSError as error:
            self._read_error = f"read error ({error.strerror})"
        if self._read_error and not block:
            self._abort(f"{self._read_error} after line {self._lines_read}")
        return block

    def _complete_record(self, first_raw: bytes, line: int, line_count: int) -> bytes:
        """Return the bytes of a record that spans several lines."""
        raws = [first_raw]
        raws.extend(self._raws.popleft() for _ in range(line_count - 1))
        self._check_record(raws, line)
        return b"".join(raws)

    def _check_unfinished(self, unfinished: bytes | str) -> None:
        """Raise RunAborted if the record that is being read is already too long."""
        # A text never has more characters than bytes; _check_record counts exactly.
        if sum(map(len, self._raws)) + len(unfinished) <= MAX_RECORD_SIZE:
            return
        if isinstance(unfinished, str):
            unfinished = unfinished.encode(self.encoding, "surrogatepass")
        line = self._lines_read - len(self._raws) + 1
        self._check_record([*self._raws, unfinished], line)

    def _check_lines(self, batch: Batch) -> None:
        """Raise RunAborted if one of the lines is too long."""
        if len(batch.text) > MAX_RECORD_SIZE:
            for number, raw in enumerate(batch.raws, self._lines_read + 1):
                self._check_record([raw], number)

    def _check_record(self, raws: list[bytes], line: int) -> None:
        """Raise RunAborted if a record, whose first line is `line`, is too long."""
        if sum(map(len, raws)) <= MAX_RECORD_SIZE:
            return
        size = len(self._decode_leniently(b"".join(raws)))
        if size <= MAX_RECORD_SIZE:
            return
        limit = f"{MAX_RECORD_SIZE:,} characters"
        # Only the first line has any bytes, so that line itself is too long.
        if not any(raws[1:]):
            self._abort(f"line {line} is longer than {limit}")
        opened = self._find_open_quote(raws)
        # A quote is the cause only if it has been open for that long.
        size_within_quote = len(self._decode_leniently(b"".join(raws[opened:])))
        if size_within_quote > MAX_RECORD_SIZE:
            self._abort(
                f"unclosed quote: opened on line {line + opened}, not closed within {limit}"
            )
        self._abort(f"the record that begins on line {line} is longer than {limit}")

    def _abort(self, reason: str) -> NoReturn:
        """Raise RunAborted."""
        raise RunAborted(f"{self.name}: {reason}")

    def _has_invalid_line(self, line: int, line_count: int) -> bool:
        """Return whether a line of the record has invalid bytes, and forget such lines."""
        invalid = self._invalid_lines.intersection(range(line, line + line_count))
        self._invalid_lines -= invalid
        return bool(invalid)

    def _encoding_error(self) -> str:
        return f"{INVALID_BYTES} {self.encoding}; check [csv] encoding"

    def _reject_record(self, line: int, line_count: int, error: str) -> Row:
        """Return a row for a record that csv.reader rejected after `line_count` lines."""
        self._lines_to_repeat = []
        raws = [self._raws.popleft() for _ in range(line_count)]
        # "unexpected end of data": a quote is open, or nothing follows an escape.
        if "unexpected end" in error:
            if self.format.quote:
                opened = self._find_open_quote(raws)
                self._abort(
                    f"unclosed quote: opened on line {line + opened}, "
                    "not closed by the end of the file"
                )
            reason = "the file ends with an escape character before a line break"
            return Row(line, b"".join(raws), [], reason, line_count)
        reason = "malformed quotes: text after a closing quote"
        last_text = self._decode_leniently(raws[-1])
        if line_count > 1 and self._scanner.begins_with_opening_quote(last_text):
            # In `u1,"Ada` above `u2,"Bo"`, the quote before Ada was never closed, and csv.reader
            # mistook the one before Bo for the closing one. The last line is a separate record.
            reason = "malformed quotes: an opening quote is never closed"
            self._raws.appendleft(raws.pop())
            self._lines_to_repeat = [self._scanner.prepare(last_text, is_open=False)]
        if self._has_invalid_line(line, len(raws)):
            reason = self._encoding_error()
        return Row(line, b"".join(raws), [], reason, len(raws))

    def _find_open_quote(self, raws: list[bytes]) -> int:
        """Return the index of the line whose quote is still open at the end."""
        is_open = False
        opened = 0
        for index, raw in enumerate(raws):
            text = self._scanner.prepare(self._decode_leniently(raw), is_open)
            scan = self._scanner.scan(text, is_open)
            is_open = scan.is_open
            if scan.opens:
                opened = index
        return opened

    def _decode_leniently(self, raw: bytes) -> str:
        """Decode bytes, some of which may be invalid."""
        return raw.decode(self.encoding, "replace")


# An e-mail address, after the blanks and stray quotes around it have been stripped.
EMAIL_CELL = r"[^@\s]+@[^@\s]+"


class ExpectedRow(NamedTuple):
    """The properties that identify a line as a row of the file."""

    width: int
    id_column: int | None = None  # None: not mapped
    email_column: int | None = None
    first_id: str = ""  # of the record in question


def contains_joined_rows(
    lines: list[str], csv_format: CsvFormat, expected: ExpectedRow
) -> bool:
    """Return whether each line of a record looks like a row, joined to the next by a stray quote.

    In `u1,"Ada,a@example.com` above `u2,Bo 5'11",b@example.com`, the quotes don't enclose a cell.
    """
    strippable = STRIPPABLE + csv_format.quote
    for line in lines:
        cells = [cell.strip(strippable) for cell in line.split(csv_format.delimiter)]
        if len(cells) != expected.width:
            return False
        if expected.email_column is not None:
            address = cells[expected.email_column]
            if not re.fullmatch(EMAIL_CELL, address):
                return False
        if expected.id_column is not None:
            line_id = cells[expected.id_column]
            if id_form(line_id) != id_form(expected.first_id):
                return False
    return True


def id_form(text: str) -> tuple[bool, bool]:
    """Return whether an id has digits, and whether it has letters."""
    return any(map(str.isdigit, text)), any(map(str.isalpha, text))


#### Mapping rows to users

NO_ATTRIBUTES: UserPayload = {}
# With the section, because a custom attribute may be called email, too.
IDENTITY_SETTINGS = ("[user] user_id", "[user] email", "[user] id")
# If at least this share of the rows have the same number of extra cells, extra cells that are blank
# are accepted.
USUAL_WIDTH_SHARE = 0.9
ROWS_SEARCHED_FOR_HEADINGS = 20


# Not a NamedTuple: a column's attributes are read for every cell, and slots are faster.
@dataclass(frozen=True, slots=True)
class Column:
    """A mapped column."""

    position: int  # of its cells in a row
    name: str
    convert: Callable[[str], CellValue]
    is_attribute: bool
    mapping: FieldMapping


class OmittedCell(NamedTuple):
    """A cell that doesn't match the type of its column. The user is sent without it."""

    mapping: FieldMapping
    cell: str
    reason: str


@dataclass(slots=True)
class MappedRow:
    """The result of mapping a row."""

    user: UserPayload  # keys are from FIELDS; blank and invalid cells are left out
    omitted: list[OmittedCell]


@dataclass
class CsvTable:
    """An open CSV file, its headings, and the columns that are mapped to fields."""

    reader: CsvReader
    records: Iterator[Row]  # from the reader; they can be read only once
    content: LenientGzipFile | io.BufferedReader
    headings: list[str]  # normalized
    heading_raw: bytes = b""  # the heading row as it is in the file, if it has one
    first_row: Row | None = None  # already read, if the file has no heading row
    columns: list[Column] = field(default_factory=list)
    constants: UserPayload = field(default_factory=dict)
    null_words: frozenset[str] = frozenset()  # those of [csv] empty
    # The number of cells a row may have if those beyond the headings are blank; 0: no extra cells.
    accepted_width: int = 0

    def __post_init__(self) -> None:
        # Comparing every row with all headings would take longer than reading it, so at
        # first only two characters of one column are compared. The longest heading is the
        # least likely to begin and end like a cell below it; the first may be blank, like that
        # of a data frame's index.
        probe_heading = max(self.headings, key=len, default="")
        self.probe = 0
        if self.headings:
            self.probe = self.headings.index(probe_heading)
        self.probe_heading = probe_heading.casefold()
        # É may also be written as E and an accent.
        decomposed = unicodedata.normalize("NFD", probe_heading)
        starts = probe_heading[:1] + decomposed[:1]
        ends = probe_heading[-1:] + decomposed[-1:]
        self.probe_starts = {*starts.upper(), *starts.lower()}
        self.probe_ends = {*ends.upper(), *ends.lower()}
        self.folded_headings = self.fold(self.headings)

    @staticmethod
    def fold(headings: Iterable[str]) -> str:
        """Return normalized headings as one string, ignoring case and trailing blank headings."""
        return "\0".join(headings).rstrip("\0").casefold()

    def is_heading_row(self, cells: list[str]) -> bool:
        """Return whether a row repeats the headings, as in files that were joined."""
        if len(cells) <= self.probe:
            return False
        cell = cells[self.probe]
        # In some files, most cells in this column begin and end like the heading, so a cheap
        # comparison comes before the expensive one.
        if cell.isascii() and " ".join(cell.split()).casefold() != self.probe_heading:
            return False
        return self.fold(map(normalize_heading, cells)) == self.folded_headings

    def rows(self) -> Iterator[Row]:
        """Yield the rows below the headings, except blank rows and repeated headings."""
        if self.first_row:
            yield self.first_row
        probe = self.probe
        starts = self.probe_starts
        ends = self.probe_ends
        for row in self.records:
            cells = row.cells
            # Excel writes ;;; for rows that once had content.
            if not any(cells) and not row.error:
                continue
            if len(cells) > probe:
                cell = cells[probe]
                may_be_headings = cell[:1] in starts and cell[-1:] in ends
                if may_be_headings and self.is_heading_row(cells):
                    continue
            yield row


def split_words(text: str) -> list[str]:
    """Split a comma-separated setting."""
    # csv.reader, so that quotes may enclose a heading with a comma: "Name, first",Email
    return next(csv.reader([text]), [])


def open_csv(file: InputFile, settings: Settings) -> CsvTable:
    """Open the CSV and resolve its headings. Raise RunAborted if they don't match the settings."""
    content = file.open()
    reader = CsvReader(file.name, content, settings.csv_format)
    # A workbook or a login page has no headings, so its format is reported first.
    if problem := describe_foreign_format(reader.head, file.name, reader.encoding):
        raise RunAborted(problem)
    if not reader.head:
        raise RunAborted(f"{file.name} is empty: it has no headings")
    configured_headings = [
        normalize_heading(word) for word in split_words(settings.csv.headings)
    ]
    records = iter(reader)
    # Blank rows may precede the headings. An unreadable row may be the heading row.
    first = next((row for row in records if any(row.cells) or row.error), None)
    if configured_headings:
        table = CsvTable(reader, records, content, configured_headings)
        # [csv] headings may be set even though the file has a heading row.
        if first and table.is_heading_row(first.cells):
            table.heading_raw = first.raw
        else:
            table.first_row = first
    # The file contains only blank lines.
    elif not first:
        raise RunAborted(f"{file.name} is empty: it has no headings")
    elif first.error:
        message = f"{file.name}: can't read the headings: {first.error}"
        if reader.encoding == "utf-8" and first.error.startswith(INVALID_BYTES):
            message += " (for example, set encoding = cp1252)"
        raise RunAborted(message)
    else:
        headings = [normalize_heading(cell) for cell in first.cells]
        table = CsvTable(reader, records, content, headings, heading_raw=first.raw)
    words = split_words(settings.csv.empty)
    # Cleaned like cells, so that they compare equal.
    table.null_words = frozenset(clean_cell(word) for word in words)
    resolve_columns(table, file, settings)
    return table


def resolve_columns(table: CsvTable, file: InputFile, settings: Settings) -> None:
    """Find the column of each mapping. Raise RunAborted, listing every mismatch."""
    mappings = settings.mappings
    # If [user] is empty, each field that is also a heading maps to itself.
    if all(mapping.is_attribute for mapping in mappings):
        mappings = [*default_mappings(table.headings, settings), *mappings]
    problems = heading_problems(mappings, table, file, settings)
    if problems:
        raise RunAborted(
            f"{file.name}: headings don't match config.ini: {'; '.join(problems)}"
        )
    for mapping in mappings:
        if not mapping.is_constant:
            # The heading appears exactly once; otherwise the run would have stopped above.
            table.columns.append(
                Column(
                    position=table.headings.index(mapping.heading),
                    name=mapping.name,
                    convert=mapping.convert,
                    is_attribute=mapping.is_attribute,
                    mapping=mapping,
                )
            )
        # The constant '' has no value and is never sent.
        elif mapping.value is not None:
            values = table.constants
            if mapping.is_attribute:
                values = table.constants.setdefault("custom_attributes", {})
            values[mapping.name] = mapping.value


def default_mappings(headings: list[str], settings: Settings) -> list[FieldMapping]:
    """Map each field that is also a heading to itself, for an empty [user] section."""
    return [
        parse_mapping(name, name, is_attribute=False, settings=settings)
        for name in FIELDS
        if name in headings
    ]


def heading_problems(
    mappings: list[FieldMapping], table: CsvTable, file: InputFile, settings: Settings
) -> list[str]:
    """List the mappings that don't match the file's headings."""
    headings = table.headings
    columns = [mapping for mapping in mappings if not mapping.is_constant]
    missing = [mapping for mapping in columns if mapping.heading not in headings]
    has_identity = any(mapping.place in IDENTITY_SETTINGS for mapping in mappings)
    # It's probably the wrong file or delimiter, so a line for each heading would not help.
    if not has_identity or len(missing) * 2 > len(columns):
        return headings_overview(columns, missing, table, file, settings)
    problems = [heading_problem(mapping, headings) for mapping in mappings]
    return [problem for problem in problems if problem]


def heading_problem(mapping: FieldMapping, headings: list[str]) -> str:
    """Return why a mapping doesn't match the headings, or ""."""
    # 'Full name' in single quotes was probably meant as a column, not as a constant.
    if mapping.is_constant:
        heading = normalize_heading(mapping.constant)
        if heading and heading in headings:
            label = f"'{mapping.constant}' (for {mapping.name})"
            return f"{label} is a heading; remove the single quotes"
        return ""
    label = f"'{mapping.heading}' (for {mapping.name})"
    times = headings.count(mapping.heading)
    if times == 0:
        named = filter(None, headings)
        similar = ", ".join(closest_names(mapping.heading, named, count=3))[:200]
        return f"{label} not found; closest: {similar}"
    if times == 2:
        return f"{label} appears twice"
    if times > 2:
        return f"{label} appears {times} times"
    return ""


def headings_overview(
    columns: list[FieldMapping],
    missing: list[FieldMapping],
    table: CsvTable,
    file: InputFile,
    settings: Settings,
) -> list[str]:
    """Describe the mismatch as a whole: the unmatched mappings, and the file's headings."""
    unmatched = "no column is named user_id, email or id"
    if missing:
        lines_of_config = [f"{each.name} = {each.heading}" for each in missing]
        unmatched = f"no column for {', '.join(lines_of_config)[:500]}"
    # Truncated, because in a file without line endings, all of the text is headings.
    found = f"the file's headings are {', '.join(table.headings)[:500]}"
    lines = [unmatched, found]
    wanted = {mapping.heading for mapping in columns}
    # If config.ini maps no columns, any identity field among the headings will do.
    if not wanted:
        wanted = set(IDENTITY_FIELDS)
    if advice := find_headings_elsewhere(file, settings, wanted):
        lines.append(advice)
    return lines


def find_headings_elsewhere(
    file: InputFile, settings: Settings, wanted: set[str]
) -> str:
    """Look for the headings further down, or with another delimiter; return advice, or "".

    A report's title may be above them, or `sep=;`, which sets the delimiter for Excel.
    """
    configured = settings.csv_format
    # Try the configured delimiter first: if it works, it doesn't have to be changed.
    for delimiter in (configured.delimiter, ",", ";", "\t", "|"):
        if delimiter in (configured.quote, configured.escape):
            continue  # csv.reader raises ValueError from Python 3.13 on
        csv_format = replace(configured, delimiter=delimiter)
        try:
            reader = CsvReader(file.name, file.open(), csv_format)
            rows = list(itertools.islice(reader, ROWS_SEARCHED_FOR_HEADINGS))
        except RunAborted:
            continue  # quotes may be malformed with this delimiter
        for row in rows:
            headings = {normalize_heading(cell) for cell in row.cells}
            if not contains_headings(headings, wanted):
                continue
            advice = []
            if row.line > 1:
                advice.append(
                    f"the headings are on line {row.line}: remove the lines above"
                )
            if delimiter != configured.delimiter:
                name = delimiter.replace("\t", "tab")
                advice.append(f"set [csv] delimiter = {name}")
            return ", and ".join(advice)
    return ""


def contains_headings(headings: set[str], wanted: set[str]) -> bool:
    """Return whether a row has all of the wanted headings (any, if fields map to themselves)."""
    if wanted == set(IDENTITY_FIELDS):
        return bool(headings & wanted)
    return wanted <= headings


def map_row(row: Row, table: CsvTable) -> MappedRow:
    """Convert a row to a user, and list the cells that had to be omitted.

    Raise RowRejected if the row can't be imported.
    """
    cells = row.cells
    # Neither its cells nor their number can be trusted: invalid bytes, or malformed quotes.
    if row.error:
        raise RowRejected(row.error)
    is_short = len(cells) < len(table.headings)
    if is_short:
        cells = pad_short_row(row, table)
    elif len(cells) > len(table.headings):
        check_extra_cells(row, table)
    mapped = convert_cells(cells, table)
    # In `u2,gold` under `user_id,joined,plan`, a cell is missing in the middle.
    if is_short and any(each.mapping.type_name != "string" for each in mapped.omitted):
        raise wrong_cell_count(row, table)
    if row.line_count > 1 and is_joined_record(row, table):
        raise RowRejected(
            "a stray quote joined several rows",
            "each line of this record is a separate row; fix the quote that joins them",
        )
    check_identity_fields(mapped.user, cells)
    return mapped


def convert_cells(cells: list[str], table: CsvTable) -> MappedRow:
    """Convert the mapped cells to the values of a user."""
    # Copied, because all rows share the constants.
    user = table.constants.copy()
    attributes = user.pop("custom_attributes", NO_ATTRIBUTES).copy()
    omitted: list[OmittedCell] = []
    null_words = table.null_words
    # Empty cells are omitted: an import never erases data.
    for column in table.columns:
        cell = cells[column.position]
        if not cell or (null_words and cell in null_words):
            continue
        try:
            value = column.convert(cell)
        # A mangled id raises RowRejected instead, which rejects the whole row.
        except ValueError as error:
            omitted.append(OmittedCell(column.mapping, cell, str(error)))
            continue
        if column.is_attribute:
            attributes[column.name] = value
        else:
            user[column.name] = value
    if attributes:
        user["custom_attributes"] = attributes
    return MappedRow(user, omitted)


def check_identity_fields(user: UserPayload, cells: list[str]) -> None:
    """Raise RowRejected if a row has no identity, or is a spreadsheet's summary row."""
    identity = user.get("user_id")
    if identity is None:
        if user.keys().isdisjoint(IDENTITY_FIELDS):
            raise RowRejected("no user_id, email or id")
        identity = user.get("id", "")
    # No label ends with a digit, as most ids do.
    if identity[-1:].isdigit():
        return
    # A real user named Total would have an e-mail address somewhere.
    if SUMMARY_LABEL.fullmatch(identity) and not any(is_email(cell) for cell in cells):
        reason = f"'{identity}' is the label of a summary row, not a user"
        raise RowRejected("summary row", reason)


def wrong_cell_count(row: Row, table: CsvTable) -> RowRejected:
    cells = pluralize(len(row.cells), "cell")
    return RowRejected(
        "wrong number of cells", f"{cells}, expected {len(table.headings)}"
    )


def check_extra_cells(row: Row, table: CsvTable) -> None:
    """Raise RowRejected for extra cells, unless they are blank and nearly all rows have them.

    An export that ends each row with a comma is fine. In `u2,Lovelace, Ada,pro,`, a comma that
    isn't quoted has shifted the cells after it.
    """
    has_extra_text = any(row.cells[len(table.headings) :])
    if has_extra_text or len(row.cells) != table.accepted_width:
        raise wrong_cell_count(row, table)


def pad_short_row(row: Row, table: CsvTable) -> list[str]:
    """Return the cells of a row that has too few, padded with blank ones.

    An export may trim blank cells at the end of a row. Raise RowRejected if the row could be part
    of another row, or if a cell could be missing in the middle.
    """
    cells = row.cells
    columns = table.columns
    identities = [
        each.position for each in columns if each.mapping.place in IDENTITY_SETTINGS
    ]
    # If an identity cell is missing, or all are blank, this may be the end of another row.
    is_cut_off = any(position >= len(cells) for position in identities)
    if is_cut_off or not any(cells[position] for position in identities):
        raise wrong_cell_count(row, table)
    # A single cell, such as `second line`, belongs to the row above, unless only one heading has a
    # name, as in `user_id,`.
    named_headings = [heading for heading in table.headings if heading]
    if len(cells) == 1 and len(named_headings) > 1:
        raise wrong_cell_count(row, table)
    # An e-mail address below `name` has come from the column to its right.
    for column in columns:
        is_text = column.mapping.type_name == "string" and column.position < len(cells)
        if is_text and is_email(cells[column.position]):
            raise wrong_cell_count(row, table)
    return cells + [""] * (len(table.headings) - len(cells))


def is_joined_record(row: Row, table: CsvTable) -> bool:
    """Return whether each line of a multi-line record looks like a separate row."""
    expected = ExpectedRow(width=len(table.headings))
    for column in table.columns:
        place = column.mapping.place
        # An id identifies the rows only if there is no user_id.
        has_id = expected.id_column is not None
        if place == "[user] user_id" or (place == "[user] id" and not has_id):
            first_id = row.cells[column.position]
            expected = expected._replace(id_column=column.position, first_id=first_id)
        elif place == "[user] email":
            expected = expected._replace(email_column=column.position)
    return contains_joined_rows(
        table.reader.text_lines(row), table.reader.format, expected
    )


def is_email(cell: str) -> bool:
    """Return whether a cell is an e-mail address."""
    try:
        to_email(cell)
    except ValueError:
        return False
    return True


def identity_label(row: Row, table: CsvTable) -> str:
    """Return the identity in a row's cells, valid or not, such as "user_id=17"; or ""."""
    found = {}
    for column in table.columns:
        is_present = column.position < len(row.cells)
        if is_present and column.mapping.place in IDENTITY_SETTINGS:
            found[column.name] = row.cells[column.position]
    for name in IDENTITY_FIELDS:
        if found.get(name):
            # If the row was rejected because of its id, the id may have any length.
            return f"{name}={found[name][:MAX_IDENTITY]}"
    return ""


def identity_keys(user: UserPayload) -> Iterator[str]:
    """Yield the keys by which Intercom may identify a user, such as "user_id=17"."""
    for name in IDENTITY_FIELDS:
        if name in user:
            value = user[name]
            if name == "email":
                value = value.lower()  # as Intercom does
            yield f"{name}={value}"


def identity_key(user: UserPayload) -> str:
    """Return the first of a user's identity keys, or "" if there is none."""
    return next(identity_keys(user), "")


#### Evidence about columns

MIN_EVIDENCE = 10  # values or rows; fewer may all be wrong by chance
# This many values that can be read in only one way, such as UNIX seconds, settle a column.
ENOUGH_VALID = 10_000
MAX_SHOWN = 60  # characters of a value in a message
# About 27 years of days, or this many cells if they don't begin with a date.
MAX_REMEMBERED_DAYS = 10_000
# ISO 8601, or a format that begins with a date in digits
NUMERIC_DATE_FIRST = r"$|%[Yymd]\W%[Yymd]\W%[Yymd]"


@dataclass(slots=True)
class Example:
    """A value in the file, and its line."""

    line: int
    cell: str
    reason: str = ""

    def __str__(self) -> str:
        # repr escapes control characters; its quotes are removed, because messages add their own.
        return repr(self.cell[:MAX_SHOWN])[1:-1]


## Guessing the format of a date

# To find the format of a date without trying hundreds of formats, split its shape: first the time,
# which is easy to recognize, then the words and numbers of the date. Each candidate is then tried
# on all cells of the column, so a wrong one does no harm.

# A shape is a cell with each digit replaced by 0: "May 4, 2023" is "May 0, 0000".
DIGIT = re.compile("[0-9]")
WHITE_SPACE = re.compile(r"\s+")
MAX_SHAPE = 90  # JavaScript's dates have 60 characters, with the name of the time zone
PIECE = "0+|[A-Za-z]+|[^0A-Za-z]"
ZONE_OF_TIME = r"(?P<zone> ?(?:(?:GMT|UTC)?[+-]00:?00|Z))?"
TIME_PATTERNS = (
    # 9:05, 09:05:00.123 AM, 09:05:00 +01:00, and 9h05 as in French.
    re.compile(
        r"(?<!0)(?P<hour>00?)(?P<colon>[:h])00(?P<second>:00(?P<fraction>[.,:]0{1,9})?)?"
        rf"(?P<am_pm> ?[AaPp][Mm])?{ZONE_OF_TIME}(?![0A-Za-z])"
    ),
    # 9 AM
    re.compile(r"(?<!0)(?P<hour>00?)(?P<am_pm> ?[AaPp][Mm])(?![0A-Za-z])"),
    None,  # no time: tried before times such as 10.11.12, which may be a date
    # 9.05 and 09.05.00, as in Finnish and Danish; only after a blank or other separator.
    re.compile(
        r"(?<=[ ,T_-])(?P<hour>00?)(?P<colon>\.)00(?P<second>\.00(?P<fraction>[.,]0{1,9})?)?"
        rf"(?P<am_pm> ?[AaPp][Mm])?{ZONE_OF_TIME}(?![0A-Za-z.])"
    ),
)
PACKED_OFFSET = "(?<=000000000000)[+-]00:?00$"  # 20230501101112+0000
# The text after the date and time: an offset, or JavaScript's (Coordinated Universal Time).
TAIL = r" \([A-Za-z ]+\)$| ?%z$"
TIME_MARK = "\0"  # where the time was in a shape
# "May 4, 2023 at 9:05 AM" (macOS) and "4.5.2023 um 9:05 Uhr" (German)
LITERAL_WORDS = ("T", "UTC", "GMT", "at", "um", "Uhr")
PUNCTUATION = " ,./-:_" + TIME_MARK

# The numbers of a date, by the position of its year.
NUMBERS_WITH_MONTH = {
    "year last": (("%d", "%Y"),),
    "year first": (("%Y", "%d"),),
    "short year": (("%d", "%y"),),
}
THREE_NUMBERS = {
    "year last": (("%d", "%m", "%Y"), ("%m", "%d", "%Y")),
    "year first": (("%Y", "%m", "%d"), ("%Y", "%d", "%m")),
    "short year": (("%d", "%m", "%y"), ("%m", "%d", "%y"), ("%y", "%m", "%d")),
}
RARE_ORDERS = ("Ydm", "ymd")  # only suggested if no other fits
# Dates without separators, by their number of digits: 20261124, 202611240905.
PACKED_DATES = {
    6: ("%y%m%d", "%d%m%y", "%m%d%y"),
    8: ("%Y%m%d", "%d%m%Y", "%m%d%Y"),
    10: ("%Y%m%d%H", "%y%m%d%H%M"),
    12: ("%Y%m%d%H%M", "%y%m%d%H%M%S"),
    14: ("%Y%m%d%H%M%S",),
    17: ("%Y%m%d%H%M%S%f",),
}
PACKED_TIMES = {4: "%H%M", 6: "%H%M%S"}


def shape_of(cell: str) -> str:
    """Return the cell with each digit replaced by 0 and whitespace by single spaces."""
    return WHITE_SPACE.sub(" ", DIGIT.sub("0", cell))


@lru_cache(2048)
def formats_for_shape(shape: str) -> tuple[str, ...]:
    """Return the strptime formats in which a date of this shape may be written.

    For "00/00/0000 00:00 AM": %d/%m/%Y %I:%M %p and %m/%d/%Y %I:%M %p.
    """
    if "%" in shape or "0" not in shape:
        return ()  # strptime would take the percent sign for a directive
    text = re.sub(PACKED_OFFSET, "%z", shape)
    tail = ""
    if found := re.search(TAIL, text):
        tail = found[0]
        text = text.removesuffix(tail)
    # Times are tried one after the other, until the rest of the cell is a date.
    for pattern in TIME_PATTERNS:
        time_format = ""
        date_text = text
        if pattern is not None:
            found = pattern.search(text)
            if found is None:
                continue
            time_format = format_of_time(found)
            date_text = text[: found.start()] + TIME_MARK + text[found.end() :]
        formats = formats_of_date(date_text)
        if formats:
            return tuple(
                date_format.replace(TIME_MARK, time_format) + tail
                for date_format in formats
            )
    return ()


def format_of_time(found: re.Match[str]) -> str:
    """Return the strptime format of a time that one of the patterns matched."""
    parts = found.groupdict()
    text = "%H"
    if parts["am_pm"]:
        text = "%I"
    if parts.get("colon"):
        text += parts["colon"] + "%M"
    if parts.get("second"):
        text += parts["second"][0] + "%S"
    fraction = parts.get("fraction")
    if fraction:
        # %f reads six digits at most; Oracle and .NET write more, usually zeros.
        text += fraction[0] + "%f" + "0" * (len(fraction) - 1 - 6)
    if parts["am_pm"]:
        # The blank before AM, if there is one, is part of the format.
        text += parts["am_pm"][:-2] + "%p"
    zone = parts.get("zone")
    if zone:
        # In " GMT+01:00", " GMT" is literal, and %z reads the rest.
        text += zone.rstrip("Z0:+-") + "%z"
    return text


def formats_of_date(text: str) -> list[str]:
    """Return the formats of a shape whose time, if it has one, is already a TIME_MARK."""
    pieces = [directive_of(piece) for piece in re.findall(PIECE, text)]
    if not all(pieces):
        return []
    numbers = [index for index, piece in enumerate(pieces) if piece[0] == "0"]
    # The possible meanings of a number depend on its length: 2023-05-14, 20230514.
    widths = [len(pieces[index]) for index in numbers]
    has_month_name = "%b" in pieces or "%B" in pieces
    formats = []
    for order in orders_of_numbers(widths, has_month_name, TIME_MARK in pieces):
        for index, directive in zip(numbers, order, strict=True):
            pieces[index] = directive
        formats.append("".join(pieces))
    if "%b" in pieces and "may" in text.lower():
        # May is both the short and the long name.
        formats += [date_format.replace("%b", "%B") for date_format in formats]
    return formats


def directive_of(piece: str) -> str:
    """Return the directive for a piece of a date, the piece itself, or "" if unknown.

    Numbers are returned unchanged, because their meaning depends on the other numbers.
    """
    if piece.isalpha():
        return directive_of_word(piece)
    if piece[0] == "0" or piece in PUNCTUATION:
        return piece
    return ""


def directive_of_word(word: str) -> str:
    """Return the directive that reads a word of a date, the word if it is a literal, or ""."""
    lower = word.lower()
    if lower in MONTH_NUMBERS:
        if len(lower) == 3:
            return "%b"
        return "%B"
    if lower in WEEKDAYS:
        return "%A"
    if any(lower == name[:3] for name in WEEKDAYS):
        return "%a"
    if word in LITERAL_WORDS:
        return word
    # %z reads Z as +0000.
    if word == "Z":
        return "%z"
    return ""


def orders_of_numbers(
    widths: list[int], has_month_name: bool, has_time: bool
) -> Iterable[tuple[str, ...]]:
    """Return the possible directives for the numbers of a date, given their lengths."""
    # Two numbers in "4 May 2023", three in 4/5/2023.
    if len(widths) == 3 - has_month_name:
        place = year_position(widths)
        if has_month_name:
            return NUMBERS_WITH_MONTH.get(place, ())
        return THREE_NUMBERS.get(place, ())
    if has_month_name or not widths:
        return ()
    packed = PACKED_DATES.get(widths[0], ())
    # A time may follow 20230504, but not 202305040905, which already has one.
    if len(widths) == 1 and (not has_time or widths[0] <= 8):
        return [(text,) for text in packed]
    if len(widths) == 2 and widths[1] == 1 and not has_time:
        # A data frame turns 20261124 into 20261124.0 in a column with empty cells.
        return [(text, "0") for text in packed]
    # 20230504 0905, 20230504T090500
    if len(widths) == 2 and widths[0] == 8 and widths[1] in PACKED_TIMES:
        return [(text, PACKED_TIMES[widths[1]]) for text in packed]
    return ()


def year_position(widths: list[int]) -> str:
    """Return where the year is: "year first", "year last", "short year", or ""."""
    long = [width for width in widths if width > 2]
    if not long:
        # Even a short year has two digits: 4/5/6 isn't a date.
        if 2 in (widths[0], widths[-1]):
            return "short year"
    elif long == [4] and widths[0] == 4:
        return "year first"
    elif long == [4] and widths[-1] == 4:
        return "year last"
    return ""


def order_of(date_format: str) -> str:
    """Return the order of year, month and day, such as "dmY"; for ISO 8601 (""), "Ymd"."""
    if not date_format:
        return "Ymd"
    letters = [name[1] for name in re.findall(DIRECTIVE, date_format)]
    order = "".join(letter for letter in letters if letter in "YymbBd")
    # All month directives become m, so formats that write months differently compare equal.
    return order.replace("B", "m").replace("b", "m")


## Other readings of a column

Readings = dict[str, CellValue]  # a cell's values, keyed by the name of the reading


class OtherReadings:
    """Reads cells in ways other than the configured one. Most types have none."""

    def read(self, cell: str, reason: str = "") -> Readings:
        """Return the cell's value in each reading that fits it.

        `reason` is why the configured reading doesn't fit, or "".
        """
        return {}

    def may_disagree(self, name: str) -> bool:
        """Return whether a reading may disagree with the configured one."""
        return False

    def choose(self, names: Iterable[str]) -> list[str]:
        """Return the best of the given readings."""
        return list(names)

    def describe(self, name: str) -> str:
        """Return the phrase for a reading, to follow "can be read" in a message."""
        return ""

    def suggest(self, name: str) -> str:
        """Return the line of config.ini that selects this reading."""
        return ""


class OtherDates(OtherReadings):
    """Reads cells in every date format that fits them; readings are named by format."""

    def __init__(self, mapping: FieldMapping, timezone: tzinfo) -> None:
        self.configured = mapping.date_format
        self.setting = f"{mapping.name} = {mapping.heading} : timestamp"
        # The decimal separator doesn't matter for dates.
        self.make_converter = partial(
            make_converter,
            "timestamp",
            decimal=".",
            timezone=timezone,
            is_activity_time=not mapping.is_attribute
            and mapping.name in ACTIVITY_FIELDS,
        )
        self.converters: dict[str, Callable[[str], CellValue]] = {}

    def convert(self, cell: str, date_format: str) -> CellValue | None:
        """Return the cell's value in this format, or None if it doesn't match."""
        converter = self.converters.get(date_format)
        if converter is None:
            if len(self.converters) > 256:
                self.converters.clear()  # only a column of nonsense has so many shapes
            converter = self.make_converter(date_format=date_format)
            self.converters[date_format] = converter
        try:
            return converter(cell)
        except ValueError:
            return None

    def read(self, cell: str, reason: str = "") -> Readings:
        if len(cell) > MAX_SHAPE:
            return {}
        readings: Readings = {}
        # The type without a format, UNIX seconds or ISO 8601, is a reading like any other.
        iso_value = self.convert(cell, "")
        if iso_value is not None and self.configured:
            readings[""] = iso_value
        is_iso_date = iso_value is not None and not LOOKS_LIKE_SECONDS.fullmatch(cell)
        for date_format in formats_for_shape(shape_of(cell)):
            if date_format == self.configured:
                continue
            if is_iso_date and order_of(date_format) == "Ymd":
                continue  # ISO 8601 implies that order
            if reason == NO_SUCH_DATE and self.moves_year(date_format):
                continue  # 29/02/26 is a typo; 85/02/26 does begin with the year
            value = self.convert(cell, date_format)
            if value is not None:
                readings[date_format] = value
        return readings

    def moves_year(self, name: str) -> bool:
        """Return whether a format has the year in a different place than the configured one."""
        order = order_of(name).lower()
        configured_order = order_of(self.configured).lower()
        return order.find("y") != configured_order.find("y")

    def may_disagree(self, name: str) -> bool:
        # No cell fits two formats that differ only in separators or times.
        return order_of(name).lower() != order_of(self.configured).lower()

    def choose(self, names: Iterable[str]) -> list[str]:
        """Return the readings to suggest, without duplicates, and rare ones only if needed."""
        chosen: dict[str, str] = {}
        for name in sorted(names):
            key = order_of(name)
            if re.search(RUN_OF_DIRECTIVES, name):
                key = name
                # 2026110108 isn't UNIX seconds if all cells are dates like it.
                chosen.pop("Ymd", None)
            # In sorted order, %b comes after %B and replaces it.
            chosen[key] = name
        usual = [name for key, name in chosen.items() if key not in RARE_ORDERS]
        if usual:
            return usual
        return list(chosen.values())

    def describe(self, name: str) -> str:
        return f"as timestamp {name}".rstrip()

    def suggest(self, name: str) -> str:
        return f"{self.setting} {name}".rstrip()


class OtherNumbers(OtherReadings):
    """Reads cells with the other decimal separator, and cells of integer columns as floats."""

    SEPARATOR = "separator"
    FLOAT = "float"
    FLOAT_AND_SEPARATOR = "float and separator"

    def __init__(self, mapping: FieldMapping, decimal: str, timezone: tzinfo) -> None:
        self.other_decimal = "," if decimal == "." else "."
        self.as_float = f"{mapping.name} = {mapping.heading} : float"
        convert = partial(make_converter, timezone=timezone)
        self.converters = {
            self.SEPARATOR: convert(mapping.type_name, decimal=self.other_decimal)
        }
        if mapping.type_name == "integer":
            self.converters[self.FLOAT] = convert("float", decimal=decimal)
            self.converters[self.FLOAT_AND_SEPARATOR] = convert(
                "float", decimal=self.other_decimal
            )

    def read(self, cell: str, reason: str = "") -> Readings:
        readings: Readings = {}
        for name, convert in self.converters.items():
            try:
                readings[name] = convert(cell)
            except ValueError:
                continue
        return readings

    def may_disagree(self, name: str) -> bool:
        """Return whether a reading may disagree; integers read as floats never do."""
        return name != self.FLOAT

    def choose(self, names: Iterable[str]) -> list[str]:
        """Return the readings to suggest: an integer rather than a float, if both fit."""
        chosen = set(names)
        if self.SEPARATOR in chosen:
            chosen.discard(self.FLOAT_AND_SEPARATOR)
        return [name for name in self.converters if name in chosen]

    def describe(self, name: str) -> str:
        if name == self.FLOAT:
            return "as float"
        return f"with '{self.other_decimal}' as the decimal separator"

    def suggest(self, name: str) -> str:
        separator = f"[csv] decimal = {self.other_decimal}"
        if name == self.FLOAT:
            return self.as_float
        if name == self.SEPARATOR:
            return separator
        return f"{self.as_float}, with {separator}"


class FittingReadings:
    """Keeps the readings that fit every value, ignoring values that no reading fits."""

    def __init__(self) -> None:
        self.names: set[str] | None = None  # None until the first call of `keep`
        self.count = 0  # of values that any reading fits

    def keep(self, names: Iterable[str]) -> None:
        """Record a value, and drop the readings that don't fit it; `names` are those that do."""
        self.count += 1
        if self.names is None:
            self.names = set(names)
        else:
            self.names.intersection_update(names)


## A column


def type_with_article(mapping: FieldMapping) -> str:
    """Return the type of a mapping as part of a sentence, such as "an integer"."""
    noun = CELL_TYPES[mapping.type_name].noun
    return f"{noun} {mapping.date_format}".rstrip()


class ColumnEvidence:
    """Judges a typed column by all of its values.

    The values that fit any reading determine which readings remain possible for the column. Those
    that fit none (typos, placeholders) can't hide a wrong setting, and stop a run only if no value
    is valid.
    """

    def __init__(self, mapping: FieldMapping, others: OtherReadings) -> None:
        self.mapping = mapping
        self.others = others
        self.column = f"column {mapping.heading!r} ({mapping.name})"
        # No further valid value can change the reason or the hint. Most columns are settled after
        # a few values, which keeps the preflight fast.
        self.is_settled = False
        self.is_reason_settled = False  # no further valid value can change the reason
        self.valid = 0
        self.invalid = 0
        self.last_line = 0  # of the last valid value that was counted
        self.first_invalid: Example | None = None
        self.fitting = FittingReadings()  # all values
        self.fitting_invalid = FittingReadings()  # only the invalid ones
        self.differing: set[str] = set()  # readings that read a valid value differently
        self.explained: dict[str, Example] = {}  # reading -> first invalid value

    def add_valid(self, line: int, cell: str, value: CellValue) -> None:
        """Record a valid value."""
        self.valid += 1
        self.last_line = line
        if self.is_reason_settled or self.is_known(cell):
            return
        # Once no other reading is left, none can be added again.
        if self.fitting.names is None or self.fitting.names:
            self.compare(cell, value)
        self.inspect(line, cell)
        self.is_reason_settled = not self.fitting.names and self.is_clear()
        # The share of invalid values is needed for the hint.
        self.is_settled = self.is_reason_settled and not self.fitting_invalid.names

    def is_known(self, cell: str) -> bool:
        """Return whether a valid value adds nothing to the earlier ones."""
        return False

    def inspect(self, line: int, cell: str) -> None:
        """Record a value, valid or not, for checks specific to this kind of column."""

    def is_clear(self) -> bool:
        """Return whether values seen by `inspect` can no longer be a reason to stop."""
        return True

    def compare(self, cell: str, value: CellValue) -> None:
        """Drop the other readings that don't fit a valid value, or never disagree."""
        readings = self.others.read(cell)
        rivals = [name for name in readings if self.others.may_disagree(name)]
        self.fitting.keep(rivals)
        self.differing.update(name for name in rivals if readings[name] != value)

    def add_invalid(self, line: int, cell: str, reason: str) -> None:
        """Record an invalid value."""
        # n/a or 0000-00-00 says nothing about how the other values are written.
        if reason == PLACEHOLDER_DATE or self.is_placeholder(cell):
            return
        self.invalid += 1
        example = Example(line, cell[:MAX_SHOWN], reason)
        if self.first_invalid is None:
            self.first_invalid = example
        self.inspect(line, cell)
        readings = self.others.read(cell, reason)
        # A typo, which fits no reading, must not rule out a reading that fits all other values.
        if not readings:
            return
        if self.is_settled:
            # Once this is settled, no valid values are passed, so assume one per line.
            self.valid += max(0, line - self.last_line - 1)
        self.fitting.keep(readings)
        self.fitting_invalid.keep(readings)
        self.is_settled = self.is_reason_settled and not self.fitting_invalid.names
        for name in readings:
            self.explained.setdefault(name, example)

    def is_placeholder(self, cell: str) -> bool:
        """Return whether a cell stands for a missing value."""
        return is_placeholder(cell)

    def reason_to_stop(self) -> str:
        """Return why the run must stop because of this column, and what to change; or ""."""
        return self.reason_none_valid() or self.reason_other_reading()

    def reason_none_valid(self) -> str:
        """Return a reason if there are enough values and none is valid."""
        first = self.first_invalid
        if self.valid or self.invalid < MIN_EVIDENCE or first is None:
            return ""
        advice = CELL_TYPES[self.mapping.type_name].hint
        # None of the values is valid, so each reading that fits them is better than the setting.
        if suggestions := self.suggestions(self.fitting.names):
            advice = f"set {suggestions}"
        expected = type_with_article(self.mapping)
        return (
            f"{self.column}: none of its {self.invalid} values is {expected}"
            f" (line {first.line}: '{first}' is {first.reason}); {advice}"
        )

    def reason_other_reading(self) -> str:
        """Return a reason if another reading fits all values and reads some differently."""
        fitting = self.fitting.names or set()
        # A reading that explains no invalid value is no better than the configured one: the days
        # of early January fit %d/%m/%Y and %m/%d/%Y.
        names = [name for name in fitting & self.differing if name in self.explained]
        chosen = self.others.choose(names)
        if not chosen:
            return ""
        examples = [self.explained[name] for name in chosen]
        first = min(examples, key=lambda example: example.line)
        readings = " or ".join(self.others.describe(name) for name in chosen)
        expected = type_with_article(self.mapping)
        return (
            f"{self.column}: {first} on line {first.line} isn't {expected}, but every"
            f" value can be read {readings}; as configured, "
            f"other values would be sent incorrectly; set {self.suggestions(names)}"
        )

    def suggestions(self, names: Iterable[str] | None) -> str:
        """Return the lines of config.ini for these readings, or ""."""
        chosen = self.others.choose(names or ())
        return " or ".join(self.others.suggest(name) for name in chosen)

    def hint(self) -> str:
        """Return a suggestion if most values are omitted and another reading fits those."""
        # Most values have to be invalid, and most of those have to fit another reading: three
        # dates among a hundred remarks prove nothing.
        if self.invalid <= self.valid or self.fitting_invalid.count * 2 <= self.invalid:
            return ""
        return self.suggestions(self.fitting_invalid.names)


class NumberEvidence(ColumnEvidence):
    """Judges a column of integers or floats."""

    def is_known(self, cell: str) -> bool:
        """Return whether the cell has only digits, which mean the same in every reading."""
        if not cell.isdigit():
            return False
        # Enough of them settle the column: if it had values such as `4,5`, one would have appeared
        # among ten thousand.
        if self.valid > ENOUGH_VALID and not self.fitting_invalid.count:
            self.is_settled = True
        return True


## Columns of dates

# "Thu, 4-May-23", "4 May 2023", "May 4, 2023"
DATE_WITH_NAME = (
    r"(?a)(?:[A-Za-z]{3,9},? )?"
    r"(?:(?P<day>\d\d?)[- /.]?(?P<month>[A-Za-z]{3,9})\.?,?[- /.]?\d{2,4}"
    r"|(?P<us_month>[A-Za-z]{3,9})\.?[- ](?P<us_day>\d\d?),?[ -]\d{2,4})(?![\d/.-])"
)
# Whether day and month have leading zeros (07/10), lack them (7/10), or need none (10/11).
PADDED = "padded"
UNPADDED = "unpadded"
EITHER = "either"


@dataclass(slots=True)
class DateShape:
    """The dates of a column that are written in the same way."""

    first: Example
    padding: str
    count: int = 0
    is_small: bool = True  # day and month of each are at most 12
    is_large: bool = True  # each has a part above 12

    def merge(self, other: DateShape) -> DateShape:
        """Return this shape and another combined into one."""
        return DateShape(
            min(self.first, other.first, key=lambda example: example.line),
            self.padding,
            self.count + other.count,
            self.is_small and other.is_small,
            self.is_large and other.is_large,
        )


@dataclass(slots=True)
class DateParts:
    """The properties of a date by which shapes are compared."""

    shape: str  # separator, place of the year, precision of the time
    padding: str
    has_large_part: bool


def split_date(cell: str) -> DateParts | None:
    """Return the parts of the date at the start of a cell, or None if there is none."""
    date = NUMERIC_DATE.match(cell[:32])
    if date is None:
        return split_date_with_name(cell)
    first, second, third = date.group("first", "second", "third")
    # 9/19/88 and 9/19/1988 are two notations.
    kind = f"{len(third)} digits"
    day = first
    if len(first) == 4:
        kind = "year first"
        day = third
    # Sorted, because the day may come first or second.
    small, large = sorted((int(day), int(second)))
    if not (1 <= small <= 12 and large <= 31):
        return None  # not a day and a month in either order
    padding = EITHER
    if day[0] == "0" or second[0] == "0":
        padding = PADDED
    elif len(day) == 1 or len(second) == 1:
        padding = UNPADDED
    # Spreadsheets also change the time: 9/7/1983 0:00 next to 19/09/1983.
    shape = f"{kind} {date['separator']} {date['rest'].count(':')}"
    return DateParts(shape, padding, large > 12)


def split_date_with_name(cell: str) -> DateParts | None:
    """Return the parts of a date such as 4-May-23 or May 4, 2023, whose month can't be swapped."""
    date = re.match(DATE_WITH_NAME, cell[:48])
    if date is None:
        return None
    month = date["month"] or date["us_month"]
    day = date["day"] or date["us_day"]
    if month.lower() not in MONTH_NUMBERS:
        return None
    return DateParts("name", PADDED, int(day) > 12)


class HalfSwappedDates:
    """Finds columns in which a spreadsheet has swapped day and month of some dates.

    A spreadsheet that expects month/day reads 07/10/1983, which was the 7th of October, as a date
    and writes it in its own notation; it leaves 19/09/1983 unchanged.
    """

    def __init__(self) -> None:
        self.shapes: dict[tuple[str, str], DateShape] = {}

    def add(self, line: int, cell: str) -> DateShape | None:
        """Count a date by its shape, and return the shape; ignore other values."""
        date = split_date(cell)
        if date is None:
            return None
        key = (date.shape, date.padding)
        shape = self.shapes.get(key)
        if shape is None:
            shape = DateShape(Example(line, cell[:MAX_SHOWN]), date.padding)
            self.shapes[key] = shape
        shape.count += 1
        if date.has_large_part:
            shape.is_small = False
        else:
            shape.is_large = False
        return shape

    def merged_shapes(self) -> list[DateShape]:
        """Return the shapes, with EITHER merged into the only other padding.

        10/11/1983 counts with 7/10/1983, or with 07/10/1983, unless both kinds exist.
        """
        merged = []
        for name in dict.fromkeys(name for name, _ in self.shapes):
            found = [shape for key, shape in self.shapes.items() if key[0] == name]
            if len(found) == 2 and EITHER in (shape.padding for shape in found):
                found = [found[0].merge(found[1])]
            merged += found
        return merged

    def is_clear(self) -> bool:
        """Return whether one notation has days above 12 and days up to 12, so none can be swapped.

        10/11/1983 and 25/11/1983 don't show whether the notation has leading zeros.
        """
        return not self.shapes or any(
            not (shape.is_small or shape.is_large) and shape.padding != EITHER
            for shape in self.shapes.values()
        )

    def find(self) -> tuple[Example, Example] | None:
        """Return a swapped date and an unchanged one, or None."""
        shapes = [
            shape for shape in self.merged_shapes() if shape.count >= MIN_EVIDENCE
        ]
        small = [shape.first for shape in shapes if shape.is_small]
        large = [shape.first for shape in shapes if shape.is_large]
        # Small ones alone prove nothing: renewals may be due on the first of each month.
        if small and large:
            return small[0], large[0]
        return None


# Ten digits, to which a data frame adds .0 if the column has empty cells.
LOOKS_LIKE_SECONDS = re.compile(r"[0-9]{10}(?:\.0)?")


class PackedDates:
    """Finds columns of YYYYMMDDHH or YYMMDDHHMM, which look like UNIX seconds."""

    def __init__(self, dates: OtherReadings) -> None:
        self.dates = dates
        self.fitting = FittingReadings()
        self.first: Example | None = None
        self.different: set[str] = set()

    def add(self, line: int, cell: str) -> None:
        """Record a value if it looks like UNIX seconds."""
        if not LOOKS_LIKE_SECONDS.fullmatch(cell):
            return
        if self.first is None:
            self.first = Example(line, cell)
        # Once no format fits all values (as after a real UNIX timestamp), no format can fit again.
        if self.fitting.names is None or self.fitting.names:
            self.fitting.keep(self.dates.read(cell))
        # Only different values count: the same default in each row would prove nothing.
        if len(self.different) < MIN_EVIDENCE:
            self.different.add(cell)

    def formats(self) -> list[str]:
        """Return the formats that read all values, if there are enough."""
        if len(self.different) < MIN_EVIDENCE:
            return []
        return self.dates.choose(self.fitting.names or ())


class DateEvidence(ColumnEvidence):
    """Judges a column of timestamps."""

    def __init__(self, mapping: FieldMapping, others: OtherReadings) -> None:
        super().__init__(mapping, others)
        self.half_swapped = HalfSwappedDates()
        self.packed = PackedDates(others)
        # The shape of each day seen so far. Without it, each row of a column that is never settled
        # (one with only days up to 12) would need a comparison. Times of day don't matter.
        self.days: dict[str, DateShape | None] = {}
        self.has_date_first = bool(re.match(NUMERIC_DATE_FIRST, mapping.date_format))

    def day_of(self, cell: str) -> str:
        # The day of "2026-11-24T09:05:00" is "2026-11-24".
        if self.has_date_first:
            return cell[:10]
        return cell

    def is_known(self, cell: str) -> bool:
        """Return whether the day is known; if so, count it."""
        day = self.day_of(cell)
        if day not in self.days:
            if len(self.days) < MAX_REMEMBERED_DAYS:
                self.days[day] = None  # until `inspect` finds its shape
            return False
        shape = self.days[day]
        if shape is not None:
            shape.count += 1
        return True

    def inspect(self, line: int, cell: str) -> None:
        shape = self.half_swapped.add(line, cell)
        # With a format, no value is read as UNIX seconds.
        if not self.mapping.date_format:
            self.packed.add(line, cell)
        day = self.day_of(cell)
        if day in self.days:
            self.days[day] = shape

    def is_clear(self) -> bool:
        if not self.half_swapped.shapes and self.valid < ENOUGH_VALID:
            return False  # UNIX seconds so far
        return self.half_swapped.is_clear() and not self.packed.fitting.names

    def is_placeholder(self, cell: str) -> bool:
        # A tool may export an empty date as 0, whatever the column's format.
        return is_placeholder(cell) or re.fullmatch(ZERO_OR_MINUS_ONE, cell) is not None

    def reason_to_stop(self) -> str:
        return (
            self.reason_half_swapped()  # first, because no setting can repair it
            or super().reason_to_stop()
            or self.reason_packed_dates()
        )

    def reason_half_swapped(self) -> str:
        """Return a reason if a spreadsheet has swapped day and month of some dates."""
        found = self.half_swapped.find()
        if found is None:
            return ""
        swapped, unchanged = found
        return (
            f"{self.column}: dates like {swapped} on line {swapped.line} never have a"
            f" day or month above 12, and dates like {unchanged} on line"
            f" {unchanged.line} always do: a spreadsheet has swapped day and month in"
            " the first kind; no setting can fix this, so export the file again"
            " without opening it in a spreadsheet"
        )

    def reason_packed_dates(self) -> str:
        """Return a reason if values that look like UNIX seconds are dates in digits."""
        formats = self.packed.formats()
        first = self.packed.first
        if not formats or first is None:
            return ""
        readings = " or ".join(self.others.describe(name) for name in formats)
        return (
            f"{self.column}: {first} on line {first.line} would be sent as UNIX seconds, but every"
            f" value can be read {readings}; set {self.suggestions(formats)}"
        )


def column_evidence(
    mapping: FieldMapping, decimal: str, timezone: tzinfo
) -> ColumnEvidence:
    """Return the evidence that suits a column's type."""
    if mapping.type_name in ("integer", "float"):
        return NumberEvidence(mapping, OtherNumbers(mapping, decimal, timezone))
    if mapping.type_name == "timestamp":
        return DateEvidence(mapping, OtherDates(mapping, timezone))
    return ColumnEvidence(mapping, OtherReadings())


#### Preflight

ROWS_PER_CHECK = 500  # rows between checks for a signal and for settled evidence
MAX_EXAMPLES = 3
MAX_EXAMPLE_TEXT = 100  # characters
USER_SAMPLE_SIZE = 10_000  # rows; enough to judge the users
REPEAT_SAMPLE_SIZE = 100_000  # rows in which repeated users are counted
MIN_ROWS_FOR_FEW_USERS = 20
MIN_PLAUSIBLE_USERS = 50
SUSPICIOUS_ROWS_PER_USER = 10
ROUNDED_DIGITS = 15  # a spreadsheet's numbers have no more significant digits
MAX_WIDTHS = 100  # distinct row widths that are counted


class Occurrence(NamedTuple):
    line: int
    value: str  # blank if it is about the row as a whole
    reason: str


@dataclass
class Occurrences:
    """Counts occurrences, and keeps the first few as examples."""

    count: int = 0
    examples: list[Occurrence] = field(default_factory=list)

    def add(self, line: int, value: str, reason: str) -> None:
        self.count += 1
        # A few show the pattern. There could be as many as the file has cells.
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(Occurrence(line, value[:MAX_EXAMPLE_TEXT], reason))

    def lines(self) -> list[str]:
        lines = []
        for example in self.examples:
            value = f"{redact(example.value)!r}: " if example.value else ""
            lines.append(f"  line {example.line}: {value}{example.reason}")
        return lines


class Evidence:
    """Gathers one kind of evidence about the whole file, row by row.

    To add a rule, subclass this and list it in Preflight.prepare_evidence. A run, --dry-run and
    --check all report the reason through FileReport.reason, so nothing else has to change.
    """

    # True if no more rows are needed; reason_to_stop then returns the final answer.
    is_settled = False

    def add(self, row: Row, mapped: MappedRow | None) -> None:
        """Look at a row; `mapped` is None if it would not be imported.

        `mapped.user` contains the converted values, constants included. This is called for every
        row, so it has to be fast. Rows may still be added once is_settled is True;
        they must not change the answer.
        """
        raise NotImplementedError

    def reason_to_stop(self) -> str:
        """Return why the file must not be imported and what to do, or "".

        The file's name is added in front of the reason.
        """
        return ""


class WrongUtf8Evidence(Evidence):
    """Finds a file that isn't UTF-8, rather than one with a few broken rows.

    Ten or more of its rows are invalid in UTF-8, and no row has valid non-ASCII text.
    """

    def __init__(self) -> None:
        self.invalid_rows = 0

    def add(self, row: Row, mapped: MappedRow | None) -> None:
        # ASCII has the same bytes in UTF-8 and in cp1252, so such a row proves nothing.
        if row.raw.isascii():
            return
        if row.error.startswith(INVALID_BYTES):
            self.invalid_rows += 1
        else:
            # One valid C3 A9 is hardly an accident: the file is UTF-8 with some broken rows.
            self.is_settled = True

    def reason_to_stop(self) -> str:
        if self.is_settled or self.invalid_rows < MIN_EVIDENCE:
            return ""
        return (
            f"{self.invalid_rows:,} rows contain bytes that are not valid utf-8, and "
            "no row has valid non-ASCII text; set [csv] encoding = cp1252 (or "
            "the file's actual encoding)"
        )


class Utf8Evidence(Evidence):
    """Finds a file that is UTF-8 although config.ini names another encoding.

    This is the case if all of its non-ASCII text is valid UTF-8. In a single-byte encoding, this
    hardly ever happens by chance; in others, ten or more characters are needed as evidence.
    """

    def __init__(self, encoding: str, heading_raw: bytes) -> None:
        self.encoding = encoding
        self.characters = 0
        # The headings may be the only non-ASCII text.
        self.inspect(heading_raw)

    def add(self, row: Row, mapped: MappedRow | None) -> None:
        if not row.raw.isascii():
            self.inspect(row.raw)

    def inspect(self, raw: bytes) -> None:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            self.is_settled = True
            return
        self.characters += sum(1 for character in text if character > "\x7f")

    def reason_to_stop(self) -> str:
        needed = 1 if is_single_byte(self.encoding) else MIN_EVIDENCE
        if self.is_settled or self.characters < needed:
            return ""
        return (
            f"[csv] encoding = {self.encoding} is wrong: all of the file's text is valid UTF-8; "
            "set encoding = utf-8"
        )


def is_single_byte(encoding: str) -> bool:
    """Return whether each byte is a character in this encoding."""
    # In cp932, for example, some pairs of these bytes form one character.
    every_byte = bytes(range(256))
    return len(every_byte.decode(encoding, "replace")) == len(every_byte)


class OtherHeadingsEvidence(Evidence):
    """Finds a first row of headings that differ from those in [csv] headings.

    None of its typed cells is valid, and no cell has a digit or an @, but the typed cells below
    are valid. (A real first user has an e-mail address, a date or a number.)
    """

    def __init__(self, table: CsvTable) -> None:
        self.null_words = table.null_words
        # Any text can be an id or a string, so only other types distinguish headings from data.
        self.typed = [
            column
            for column in table.columns
            if column.mapping.type_name not in ("id", "string")
        ]
        self.first_cells: list[str] = []
        # The typed columns whose first cell isn't of the type.
        self.suspects: list[Column] = []
        self.has_valid_cell = False  # below the first row, in one of these
        self.rows = 0

    def add(self, row: Row, mapped: MappedRow | None) -> None:
        self.rows += 1
        if self.rows == 1:
            self.inspect_first(row)
        else:
            self.inspect_next(row)
        if not self.suspects or self.rows > MIN_EVIDENCE:
            self.is_settled = True

    def inspect_first(self, row: Row) -> None:
        # `jane@example.com` and `2026-11-01` are data; `Signup date` may be a heading.
        if any(re.search(r"[\d@]", cell) for cell in row.cells):
            return
        self.first_cells = row.cells
        suspects = [column for column in self.typed if self.has_value(column, row)]
        if not any(self.is_valid(column, row) for column in suspects):
            self.suspects = suspects

    def inspect_next(self, row: Row) -> None:
        """Clear the suspects if one of their cells is invalid in a later row, too."""
        for column in self.suspects:
            if not self.has_value(column, row):
                continue
            # If a later row has `soon` as its date too, the first row is like the others.
            if not self.is_valid(column, row):
                self.suspects = []
                return
            self.has_valid_cell = True

    def has_value(self, column: Column, row: Row) -> bool:
        """Return whether a row has a cell in the column that isn't blank or a placeholder."""
        if column.position >= len(row.cells):
            return False
        cell = row.cells[column.position]
        if not cell or cell in self.null_words:
            return False
        return not is_placeholder(cell)

    def is_valid(self, column: Column, row: Row) -> bool:
        try:
            column.convert(row.cells[column.position])
        except ValueError:
            return False
        return True

    def reason_to_stop(self) -> str:
        if not self.suspects or not self.has_valid_cell:
            return ""
        return (
            "the first row looks like headings, with names other than those in [csv] headings: "
            f"{', '.join(self.first_cells)[:200]}; clear [csv] headings and map these names, "
            "or remove that row"
        )


class SeenStrings:
    """A set of strings that keeps only their hashes, because each string may be long."""

    def __init__(self) -> None:
        self.hashes: set[int] = set()

    def __contains__(self, text: str) -> bool:
        return hash(text) in self.hashes

    def add(self, text: str) -> bool:
        """Add a string; return whether it was already there."""
        # Two of 100,000 strings share a 64-bit hash less than once in a billion runs.
        count = len(self.hashes)
        self.hashes.add(hash(text))
        return len(self.hashes) == count


class RepeatedUsersEvidence(Evidence):
    """Finds a wrong mapping: most rows have the same user, or there are far too few users.

    The first 10,000 rows are enough for that. Rows that repeat the user of an earlier row are
    counted over the first 100,000.
    """

    def __init__(self, table: CsvTable) -> None:
        mapped = {column.mapping.place for column in table.columns}
        self.has_email_and_id = "[user] email" in mapped and not mapped.isdisjoint(
            ("[user] user_id", "[user] id")
        )
        self.rows = 0
        self.rows_by_user: Counter[str] = Counter()
        # At most two per user: enough to tell one address from several.
        self.emails_by_user: dict[str, set[str]] = {}
        self.user_ids = SeenStrings()
        self.emails = SeenStrings()
        self.emails_without_user_id = SeenStrings()
        self.ids = SeenStrings()
        self.repeats = 0

    def add(self, row: Row, mapped: MappedRow | None) -> None:
        self.rows += 1
        # Memory must not grow with the file, so beyond this the count is a lower bound.
        if self.rows > REPEAT_SAMPLE_SIZE:
            self.is_settled = True
        elif mapped:
            self.count_repeat(mapped.user)
            if self.rows <= USER_SAMPLE_SIZE:
                self.count_user(mapped.user)

    def count_user(self, user: UserPayload) -> None:
        key = identity_key(user)
        self.rows_by_user[key] += 1
        emails = self.emails_by_user.setdefault(key, set())
        # Intercom lower-cases addresses, so Ada@example.com and ada@example.com are the same.
        if "email" in user and len(emails) < 2:
            emails.add(user["email"].lower())

    def count_repeat(self, user: UserPayload) -> None:
        """Count a row that repeats the user of an earlier row, by Intercom's rules.

        Two rows are for the same user if they have the same user_id or id, or if they have the
        same e-mail address and at least one of them has no user_id.
        """
        user_id = user.get("user_id")
        is_repeated = False
        if user_id is not None:
            is_repeated = self.user_ids.add(user_id)
        if "email" in user:
            address = user["email"].lower()
            is_known = self.emails.add(address)
            if user_id is None:
                self.emails_without_user_id.add(address)
                is_repeated = is_known
            # Users with different user_ids may share an address, but a row with the same address
            # and no user_id is the same user.
            elif is_known and address in self.emails_without_user_id:
                is_repeated = True
        if "id" in user and self.ids.add(user["id"]):
            is_repeated = True
        if is_repeated:
            self.repeats += 1

    def reason_to_stop(self) -> str:
        if not self.rows_by_user:
            return ""
        # One user in most rows: user_id is mapped to a column such as `country`.
        rows = min(self.rows, USER_SAMPLE_SIZE)
        user, count = self.rows_by_user.most_common(1)[0]
        if rows >= MIN_EVIDENCE and count * 2 > rows:
            return (
                f"{count:,} of {rows:,} rows have the same user ({user[:100]}); "
                "check the mapping in [user]"
            )
        # Few users in all: user_id is mapped to a column such as `plan`.
        rows = self.rows_by_user.total()
        users = len(self.rows_by_user)
        if rows < MIN_ROWS_FOR_FEW_USERS or users >= MIN_PLAUSIBLE_USERS:
            return ""
        if users * SUSPICIOUS_ROWS_PER_USER > rows or self.each_user_has_one_email():
            return ""
        examples = ", ".join(key[:40] for key, _ in self.rows_by_user.most_common(3))
        return (
            f"{rows:,} rows name only {pluralize(users, 'user')} ({examples}); "
            "check the mapping in [user]"
        )

    def each_user_has_one_email(self) -> bool:
        """Return whether each user has exactly one e-mail address.

        If so, the ids are right, and the file is an export of events, with many rows per user.
        """
        if not self.has_email_and_id:
            return False
        return all(len(emails) == 1 for emails in self.emails_by_user.values())

    def note(self) -> str:
        """Return a line about the rows that repeat an earlier row's user, or ""."""
        if not self.repeats:
            return ""
        at_least = "at least " if self.is_settled else ""
        return (
            f"{at_least}{pluralize(self.repeats, 'row')} repeating the user of an earlier row: "
            "the last one wins"
        )


class RoundedIdsEvidence(Evidence):
    """Finds long ids that a spreadsheet has rounded to 15 digits."""

    def __init__(self) -> None:
        self.ids: set[str] = set()

    def add(self, row: Row, mapped: MappedRow | None) -> None:
        if not mapped:
            return
        user = mapped.user
        identity = user.get("user_id") or user.get("id", "")
        if len(identity) <= ROUNDED_DIGITS or not (
            identity.isascii() and identity.isdecimal()
        ):
            return
        # Excel turns 12345678901234567 into 12345678901234500. A single id with other digits at the
        # end rules that out.
        if identity[ROUNDED_DIGITS:].strip("0"):
            self.is_settled = True
        elif len(self.ids) < USER_SAMPLE_SIZE:
            self.ids.add(identity)

    def reason_to_stop(self) -> str:
        if self.is_settled or len(self.ids) < MIN_EVIDENCE:
            return ""
        # If the 15th digit never varies, as in 4200000000000000, the ids may really be round.
        if len({identity[ROUNDED_DIGITS - 1] for identity in self.ids}) == 1:
            return ""
        example = min(self.ids)
        return (
            f"a spreadsheet has rounded ids such as {example} to {ROUNDED_DIGITS} "
            "digits; export them as text, without using a spreadsheet"
        )


class AllColumnsEvidence(Evidence):
    """Passes each cell to the evidence about its column, until that is settled."""

    def __init__(self, table: CsvTable, settings: Settings) -> None:
        self.evidence: dict[FieldMapping, ColumnEvidence] = {}
        self.positions: dict[FieldMapping, int] = {}
        for column in table.columns:
            mapping = column.mapping
            if mapping.type_name != "id":  # a wrong id rejects its whole row
                self.positions[mapping] = column.position
                self.evidence[mapping] = column_evidence(
                    mapping, settings.csv.decimal, settings.timezone
                )
        self.unsettled = list(self.evidence.values())

    def add(self, row: Row, mapped: MappedRow | None) -> None:
        # A row that isn't imported says nothing about the columns: its cells may have been shifted
        # into other columns.
        if not mapped:
            return
        for omitted in mapped.omitted:
            evidence = self.evidence[omitted.mapping]
            evidence.add_invalid(row.line, omitted.cell, omitted.reason)
            # An invalid cell can reopen a column that was already settled.
            if not evidence.is_settled and evidence not in self.unsettled:
                self.unsettled.append(evidence)
        if self.unsettled:
            self.add_valid_cells(row, mapped)

    def add_valid_cells(self, row: Row, mapped: MappedRow) -> None:
        user = mapped.user
        attributes = user.get("custom_attributes", NO_ATTRIBUTES)
        has_settled = False
        for evidence in self.unsettled:
            mapping = evidence.mapping
            values = attributes if mapping.is_attribute else user
            value = values.get(mapping.name)
            if value is None:
                continue
            cell = row.cells[self.positions[mapping]]
            evidence.add_valid(row.line, cell, value)
            has_settled = has_settled or evidence.is_settled
        if has_settled:
            self.unsettled = [each for each in self.unsettled if not each.is_settled]

    def reason_to_stop(self) -> str:
        reasons = [evidence.reason_to_stop() for evidence in self.evidence.values()]
        return "; ".join(reason for reason in reasons if reason)

    def hint(self, mapping: FieldMapping) -> str:
        return self.evidence[mapping].hint()


class WidthEvidence(Evidence):
    """Counts the rows with more cells than headings.

    If nine in ten rows have the same number of extra cells, the export ends every row with a
    delimiter or two. If only some rows have extra cells, an unquoted delimiter has shifted cells.
    """

    def __init__(self, table: CsvTable) -> None:
        self.heading_count = len(table.headings)
        self.rows_by_width: Counter[int] = Counter()

    def add(self, row: Row, mapped: MappedRow | None) -> None:
        width = len(row.cells)
        if width > self.heading_count:
            # A broken file may have rows of any width, but the memory for the counts is limited.
            is_counted = width in self.rows_by_width
            if is_counted or len(self.rows_by_width) < MAX_WIDTHS:
                self.rows_by_width[width] += 1

    def usual_width(self, rows: int) -> int:
        """Return the number of cells that nine in ten rows have.

        Return 0 if there is no such number, or if it isn't larger than the number of headings.
        """
        for width, count in self.rows_by_width.items():
            if count >= USUAL_WIDTH_SHARE * rows:
                return width
        return 0


class Sample(NamedTuple):
    cell: str
    value: CellValue


class SampleEvidence(Evidence):
    """Keeps the first valid cell of each column, to be shown by --check."""

    def __init__(self, table: CsvTable) -> None:
        self.pending_columns = list(table.columns)
        self.samples: dict[FieldMapping, Sample] = {}

    def add(self, row: Row, mapped: MappedRow | None) -> None:
        if not mapped:
            return
        for column in self.pending_columns:
            values = mapped.user
            if column.is_attribute:
                values = values.get("custom_attributes", {})
            if column.name in values and column.position < len(row.cells):
                cell = row.cells[column.position][:MAX_EXAMPLE_TEXT]
                self.samples[column.mapping] = Sample(cell, values[column.name])
        self.pending_columns = [
            column
            for column in self.pending_columns
            if column.mapping not in self.samples
        ]
        self.is_settled = not self.pending_columns


@dataclass
class FileReport:
    """The result of reading the whole file once."""

    file: InputFile
    table: CsvTable
    rows: int = 0
    omitted: dict[FieldMapping, Occurrences] = field(default_factory=dict)
    hints: dict[FieldMapping, str] = field(default_factory=dict)
    rejected: dict[str, Occurrences] = field(default_factory=dict)  # rows, by category
    samples: dict[FieldMapping, Sample] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # worth knowing, but not a problem
    warnings: list[str] = field(default_factory=list)
    repeated_users: str = ""  # a line about rows that repeat the user of an earlier row
    reason: str = ""  # why the file must not be imported

    @property
    def rejected_rows(self) -> int:
        return sum(occurrences.count for occurrences in self.rejected.values())

    def add_omitted(self, line: int, omitted: OmittedCell) -> None:
        occurrences = self.omitted.setdefault(omitted.mapping, Occurrences())
        occurrences.add(line, omitted.cell, omitted.reason)

    def add_rejected(self, line: int, rejection: RowRejected) -> None:
        occurrences = self.rejected.setdefault(rejection.category, Occurrences())
        occurrences.add(line, "", str(rejection))

    def omitted_lines(self) -> list[str]:
        """Return a line per column with omitted values, followed by its examples."""
        lines = []
        for mapping, occurrences in self.omitted.items():
            values = pluralize(occurrences.count, "value")
            lines.append(
                f"{values} in '{mapping.heading}' ({mapping.name}) "
                f"would be omitted: not {type_with_article(mapping)}"
            )
            lines += occurrences.lines()
            if mapping in self.hints:
                lines.append(f"  {self.hints[mapping]}")
        return lines

    def rejected_lines(self) -> list[str]:
        """Return a line per reason for rows that aren't imported, followed by its examples."""
        lines = []
        for category, occurrences in self.rejected.items():
            rows = pluralize(occurrences.count, "row")
            lines.append(f"{rows} would not be imported: {category}")
            lines += occurrences.lines()
        return lines


class AllRejectedEvidence(Evidence):
    """Finds a file in which no row can be imported.

    It gathers nothing itself, because FileReport already counts the rejected rows.
    """

    is_settled = True

    def __init__(self, report: FileReport) -> None:
        self.report = report

    def add(self, row: Row, mapped: MappedRow | None) -> None:
        pass

    def reason_to_stop(self) -> str:
        rows = self.report.rows
        # In a file of three rows, such as a reject file, all may be invalid without a common cause.
        if rows < MIN_EVIDENCE or self.report.rejected_rows < rows:
            return ""
        reasons = []
        for category, occurrences in self.report.rejected.items():
            example = occurrences.lines()[0].strip()
            reasons.append(
                f"{pluralize(occurrences.count, 'row')}: {category} ({example})"
            )
        return f"none of the {rows:,} rows can be imported: {'; '.join(reasons)}"


def wide_row_width(row: Row, table: CsvTable) -> int:
    """Return a row's cell count if there are more cells than headings, else 0."""
    width = len(row.cells)
    return width if width > len(table.headings) else 0


class Preflight:
    """Reads the whole file once, exactly as the import will read it, before anything is sent."""

    def __init__(
        self,
        file: InputFile,
        settings: Settings,
        should_stop: Callable[[], bool],
        on_progress: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self.file = file
        self.settings = settings
        self.should_stop = should_stop
        self.on_progress = on_progress

    def run(self, *, is_from_command_line: bool) -> FileReport:
        """Return a report on the file, with the reason if it must not be imported.

        Raise RunAborted if it is too old, or can't be read to the end. If `is_from_command_line`,
        its age and min_rows don't matter. (It still needs a row.)
        """
        # The age is checked before a large file has to be read.
        age_problem = "" if is_from_command_line else self.age_problem()
        if age_problem:
            raise RunAborted(age_problem)
        # The first row decides how many cells a row may have, until all rows have been counted.
        report = self.scan(accepted_width=None)
        width = self.width.usual_width(report.rows)
        if width != report.table.accepted_width:
            # The width was guessed from the first row, which differs from the others.
            report = self.scan(accepted_width=width)
        self.conclude(report, is_from_command_line=is_from_command_line)
        return report

    def age_problem(self) -> str:
        age = self.file.age(self.settings.timezone)
        hours = age / timedelta(hours=1)
        limit = self.settings.file.max_age_hours
        if hours > limit:
            return (
                f"{self.file.name} is {hours:.0f} hours old, older than [file] max_age_hours = "
                f"{limit:g}; has the export stopped?"
            )
        # A file with 2062 instead of 2026 in its name would be the newest one for decades.
        if -hours > MAX_CLOCK_SKEW_HOURS:
            return (
                f"{self.file.name} is dated more than "
                f"{MAX_CLOCK_SKEW_HOURS} hours in the future; rename or remove it"
            )
        return ""

    def scan(self, accepted_width: int | None) -> FileReport:
        """Read all rows, and pass them to each kind of evidence.

        Rows with `accepted_width` cells may end with blank ones; None means the first row's width.
        """
        table = open_csv(self.file, self.settings)
        table.accepted_width = accepted_width or 0
        report = FileReport(self.file, table)
        self.prepare_evidence(table, report)
        active = [evidence.add for evidence in self.evidence]
        for row in table.rows():
            report.rows += 1
            if report.rows == 1 and accepted_width is None:
                table.accepted_width = wide_row_width(row, table)
            if report.rows % ROWS_PER_CHECK == 0:
                self.checkpoint(report)
                active = [each.add for each in self.evidence if not each.is_settled]
            # Even a rejected row counts as evidence, of the encoding or the width.
            mapped = None
            try:
                mapped = map_row(row, table)
            except RowRejected as rejection:
                report.add_rejected(row.line, rejection)
            else:
                for omitted in mapped.omitted:
                    report.add_omitted(row.line, omitted)
            for add_evidence in active:
                add_evidence(row, mapped)
        self.note_compression(report, table)
        return report

    def note_compression(self, report: FileReport, table: CsvTable) -> None:
        """Note a name that doesn't match the compression, and warn about trailing data."""
        name = self.file.name
        is_named_gzip = name.lower().endswith(".gz")
        if not isinstance(table.content, LenientGzipFile):
            if is_named_gzip:
                report.notes.append(f"{name} is not compressed; reading it as is")
            return
        if not is_named_gzip:
            report.notes.append(f"{name} is gzip-compressed; decompressing it")
        # Like GNU gzip, ignore trailing data with a warning.
        if table.content.has_trailing_garbage:
            report.warnings.append(f"{name}: ignoring data after the gzip stream")

    def checkpoint(self, report: FileReport) -> None:
        if self.should_stop():
            raise RunAborted(RUN_STOPPED)
        self.on_progress(report.rows)

    def prepare_evidence(self, table: CsvTable, report: FileReport) -> None:
        """Choose the kinds of evidence. The first one in this list with a reason is reported.

        Therefore, causes come before their consequences.
        """
        self.width = WidthEvidence(table)
        self.users = RepeatedUsersEvidence(table)
        self.columns = AllColumnsEvidence(table, self.settings)
        self.samples = SampleEvidence(table)
        self.evidence: list[Evidence] = []
        # The encoding comes first: if it is wrong, cells and headings look wrong as a result.
        encoding = table.reader.encoding
        if encoding == "utf-8":
            self.evidence.append(WrongUtf8Evidence())
        # A byte-order mark is proof enough. UTF-16 and EBCDIC encode even ASCII text differently.
        elif not table.reader.bom and is_ascii_superset(encoding):
            self.evidence.append(Utf8Evidence(encoding, table.heading_raw))
        # With [csv] headings set, the file's first row is a user, unless it repeats the headings.
        if table.first_row:
            self.evidence.append(OtherHeadingsEvidence(table))
        self.evidence += [
            AllRejectedEvidence(report),
            self.users,
            RoundedIdsEvidence(),
            self.columns,
            self.samples,
            self.width,
        ]

    def conclude(self, report: FileReport, *, is_from_command_line: bool) -> None:
        """Add to the report the results that depend on all rows."""
        report.samples = self.samples.samples
        report.repeated_users = self.users.note()
        for mapping in report.omitted:
            if hint := self.columns.hint(mapping):
                report.hints[mapping] = hint
        # The first reason is enough, because later ones often follow from it.
        reason = self.row_count_problem(
            report, is_from_command_line=is_from_command_line
        )
        for evidence in self.evidence:
            reason = reason or evidence.reason_to_stop()
        if reason:
            report.reason = f"{self.file.name}: {reason}"

    def row_count_problem(
        self, report: FileReport, *, is_from_command_line: bool
    ) -> str:
        minimum = self.settings.csv.min_rows
        # Even a file named on the command line needs a row, unless min_rows = 0 says otherwise.
        if report.rows == 0 and minimum > 0:
            return (
                "has no rows below its headings; the export may be empty or incomplete"
            )
        # A reject file is named on the command line, and is shorter than an export.
        if report.rows < minimum and not is_from_command_line:
            rows = pluralize(report.rows, "row")
            return (
                f"has {rows}, fewer than [csv] min_rows = {minimum}; "
                "the export may be empty or incomplete"
            )
        return ""


#### HTTP

# Seconds, for all addresses of the host and the TLS handshake together.
CONNECT_TIMEOUT = 10
RESPONSE_TIMEOUT = 120  # seconds, for connecting, sending, headers and body together
# Responses from Intercom are a few kilobytes long. A server that never stops sending must not
# exhaust memory.
MAX_RESPONSE_SIZE = 2**20  # bytes of the body
MAX_HEADER_SIZE = 2**16  # bytes, including all interim (100) responses
MAX_TITLE_LENGTH = 80
READ_SIZE = 2**16
SEND_SIZE = 2**14  # bytes in a TLS record
# Only the caller knows whether a request may be sent again, and how long to wait.
NO_RETRIES = urllib3.Retry(False)

MEDIA_TYPE = r"[a-z]+/[a-z0-9.+-]{1,40}"
HTML_TITLE = r"(?is)<title[^>]*>(.*?)</title"
# https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling_errors
SLACK_ERROR = r"(?=.{1,40}$)[a-z]+(_[a-z]+)+"
# The error that http.client raises if a proxy answers CONNECT with a status other than 200.
REFUSED_TUNNEL = r"Tunnel connection failed: (\d+)"
# OpenSSL's errors for a certificate that can't be verified, and for a CA bundle that contains no
# certificates.
CERTIFICATE_PROBLEM = r"(?i)certificate|PEM lib"
# The exceptions raised if the other side has closed a connection: plain, or over TLS.
CONNECTION_CLOSED_ERRORS = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


@dataclass(slots=True)
class Response:
    """A complete HTTP response, from the service or something in front of it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)  # case-insensitive
    body: bytes = b""
    # From the start of the attempt, including connecting, to the end of the response.
    seconds: float = 0.0
    # The body if it is a JSON object, otherwise empty.
    json: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.json = parse_json_object(self.body)

    @property
    def content_type(self) -> str:
        """The media type without its parameters, or "" if there is no valid one."""
        value = self.headers.get("Content-Type", "")
        media_type, _, _ = value.partition(";")
        media_type = media_type.strip().lower()
        if re.fullmatch(MEDIA_TYPE, media_type):
            return media_type
        return ""

    def int_header(self, name: str) -> int | None:
        """Return a header that is a number of up to 11 digits, or None."""
        text = self.headers.get(name, "").strip()
        # int() alone would also accept 1_000, +5, and digits of other scripts.
        if re.fullmatch("[0-9]{1,11}", text):
            return int(text)
        return None

    def date_header(self, name: str) -> float | None:
        """Return a header that is an HTTP date, in UNIX seconds, or None (RFC 9110, 5.6.7)."""
        try:
            text = self.headers.get(name, "")
            date = email.utils.parsedate_to_datetime(text)
            if date.tzinfo is None:
                # HTTP's oldest format has no time zone but means GMT; Python assumes local time.
                date = date.replace(tzinfo=timezone.utc)
            return date.timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            return None

    def describe_foreign(self) -> str:
        """Describe a response that isn't from the service itself, without its text.

        The text may echo the request. Only a page's title is shown, or an error from Slack,
        which is a single word such as no_service.
        """
        content_type = self.content_type
        if not content_type:
            content_type = "no content type"
        details = [content_type, f"{len(self.body):,} bytes"]
        text = self.body.decode(errors="replace")
        title = re.search(HTML_TITLE, text)
        if title:
            words = html.unescape(title[1])
            words = " ".join(words.split())
            if len(words) > MAX_TITLE_LENGTH:
                words = words[:MAX_TITLE_LENGTH] + "..."
            details.append(f"title '{redact(words)}'")
        elif re.fullmatch(SLACK_ERROR, text):
            details.append(redact(text))
        return f"{self.status} ({', '.join(details)})"


@dataclass(slots=True)
class NoResponse:
    """The reason why a request has no complete response."""

    reason: str
    # Certificates or proxy settings: retrying won't help.
    is_permanent: bool = False
    # A kept-alive connection was closed before any byte of the response.
    is_stale_connection: bool = False
    seconds: float = 0.0  # until the attempt failed


def parse_json_object(text: bytes) -> dict[str, Any]:
    """Parse `text`; return an empty dict if it isn't a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        # RecursionError: a body of nothing but [[[[ is nested too deeply for Python.
        return {}
    if isinstance(value, dict):
        return value
    return {}


class ResponseTooLarge(Exception):
    """The response is larger than any that the program expects."""


class StaleConnection(Exception):
    """A kept-alive connection was closed before any byte of the response.

    Servers may close idle connections at any time, even while the next request is on its way.
    That says nothing about the request (RFC 9112, 9.3.1).
    """


class Deadline(threading.local):
    """The time by which the request of the current thread has to be complete.

    urllib3's timeouts apply to each address, each read and each TLS record, so a server that
    sends a byte now and then never exceeds them. urllib3 can't pass a deadline to its connections,
    so this is a thread-local.
    """

    def __init__(self) -> None:
        self.connect_end = 0.0  # both by time.monotonic()
        self.end = 0.0
        self.is_connecting = False

    def start(self, connect_timeout: float, timeout: float) -> None:
        now = time.monotonic()
        self.end = now + timeout
        self.connect_end = min(now + connect_timeout, self.end)
        self.is_connecting = False

    def remaining(self) -> float:
        """Return the seconds left; raise TimeoutError if there are none."""
        end = self.end
        if self.is_connecting:
            end = self.connect_end
        seconds = end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        return seconds


deadline = Deadline()


class DeadlineReader(io.RawIOBase):
    """Reads a response from a socket until the deadline, and counts its bytes."""

    def __init__(
        self,
        connection: DeadlineConnection,
        sock: socket.socket,
        raw: Any,
    ) -> None:
        self.connection = connection
        self.sock = sock
        self.raw = raw
        # Set once the response is complete: there is nothing more to read.
        self.is_finished = False
        # Set once the server has closed the connection.
        self.is_at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        if self.is_finished:
            return 0
        # Each read gets less time than the one before it, so a trickle ends too.
        self.sock.settimeout(deadline.remaining())
        count = self.raw.readinto(buffer)
        self.is_at_end = count == 0
        self.connection.received += count
        if self.connection.received > MAX_RESPONSE_SIZE + MAX_HEADER_SIZE:
            raise ResponseTooLarge
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class ResponseBuffer(io.BufferedReader):
    """Closes the connection if more bytes have arrived after the response.

    http.client would drop only those in its buffer. The rest of an unsolicited response would be
    mistaken for the response to the next request (RFC 9112, 9.2). Bytes that arrive later are
    detected by urllib3, which doesn't reuse an idle connection that is readable.
    """

    def __init__(self, raw: DeadlineReader) -> None:
        super().__init__(raw)
        self.reader = raw

    def close(self) -> None:
        if not self.closed:
            # This makes peek() return the buffer without reading more.
            self.reader.is_finished = True
            if self.peek(1) or has_pending_bytes(self.reader.sock):
                self.reader.connection.close()
        super().close()


def has_pending_bytes(sock: socket.socket) -> bool:
    """Return whether the TLS layer may hold bytes, which poll() on the socket would not show."""
    if isinstance(sock, ssl.SSLSocket):
        return sock.pending() > 0
    # urllib3's TLS within TLS, for an https:// proxy, isn't a real socket and has no pending().
    return not isinstance(sock, socket.socket)


class DeadlineResponse(http.client.HTTPResponse):
    """A response that has to be complete by the deadline, headers and body together."""

    def __init__(
        self,
        connection: DeadlineConnection,
        sock: socket.socket,
        **options: Any,
    ) -> None:
        super().__init__(sock, **options)
        # http.client's buffer is still empty, so it can be replaced.
        raw = self.fp.detach()
        self.reader = DeadlineReader(connection, sock, raw)
        self.fp: io.BufferedReader = ResponseBuffer(self.reader)

    def begin(self) -> None:
        super().begin()
        if self.reader.is_at_end:
            # http.client mistakes the end of the connection for the blank line after the headers.
            raise http.client.IncompleteRead(b"")
        if self.status < 200:
            # http.client treats 103 (and every 1xx except 100) as final. The response that follows
            # would be mistaken for the response to the next request (RFC 9110, 15.2).
            self.will_close = True
        if self.chunked and "Content-Length" in self.headers:
            # A proxy may disagree about where this response ends (RFC 9112, 6.3).
            self.will_close = True


class DeadlineConnection(HTTPConnection):
    """A connection that enforces the deadline at each step, and detects when it is stale."""

    is_reused = False  # whether it has already had a response
    received = 0  # bytes of the current response
    unsent: list[bytes] | None = None  # while a request is being put together

    def response_class(self, sock: socket.socket, **options: Any) -> Any:  # type: ignore[override]
        return DeadlineResponse(self, sock, **options)

    def connect(self) -> None:
        self.is_reused = False
        self.received = 0
        deadline.is_connecting = True
        super().connect()
        # If connecting failed, the flag stays set until the next request starts its own deadline.
        deadline.is_connecting = False

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers, by the deadline for all of them.

        urllib3 allows the whole timeout for each address, which takes minutes for a host with eight
        addresses that don't respond. Here, each gets an equal share of the time left, so the last
        one is tried too.
        """
        # A URL has brackets around an IPv6 address; getaddrinfo() expects none.
        host = self.host.strip("[]")
        addresses = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        failure = OSError("the host has no address")
        untried = len(addresses)
        for *_, address in addresses:
            try:
                sock = create_connection(
                    (str(address[0]), self.port),
                    timeout=deadline.remaining() / untried,
                    source_address=self.source_address,
                    socket_options=self.socket_options,
                )
                # A TLS handshake or a proxy's CONNECT may follow, within the same deadline.
                sock.settimeout(deadline.remaining())
                return sock
            except OSError as error:
                failure = error
                untried -= 1
        raise NewConnectionError(self, str(failure)) from failure

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send headers and body at once, as one packet if they fit.

        http.client sends them separately. For a proxy, urllib3 leaves Nagle's algorithm on, which
        delays the body until the headers are acknowledged, up to 40 ms later.
        """
        self.unsent = []
        super().request(*args, **kwargs)
        message = b"".join(self.unsent)
        self.unsent = None
        self.send(message)

    def send(self, data: Any) -> None:
        """Send `data` by the deadline; ssl's sendall() would apply its timeout to each record."""
        if self.unsent is not None:
            self.unsent.append(data)
            return
        try:
            for start in range(0, len(data), SEND_SIZE):
                record = data[start : start + SEND_SIZE]
                if self.sock is not None:
                    self.sock.settimeout(deadline.remaining())
                super().send(record)
        except CONNECTION_CLOSED_ERRORS as error:
            # After a BrokenPipeError, urllib3 still reads the response that the server may have
            # sent before it closed. TLS and Windows raise other errors instead.
            raise BrokenPipeError(str(error)) from error

    def getresponse(self) -> Any:
        self.received = 0
        try:
            response = super().getresponse()
        except CONNECTION_CLOSED_ERRORS as error:
            # On a new connection, the server has probably read the request and failed.
            if self.is_reused and self.received == 0:
                raise StaleConnection from error
            raise
        self.is_reused = True
        return response


class DeadlineHTTPSConnection(DeadlineConnection, HTTPSConnection):
    """A DeadlineConnection over TLS."""


class DeadlinePool(urllib3.HTTPConnectionPool):
    ConnectionCls = DeadlineConnection


class DeadlineHTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = DeadlineHTTPSConnection


class DeadlineAdapter(requests.adapters.HTTPAdapter):
    """Finds the connection pool for a URL as requests does, but with the connections above."""

    POOLS: Mapping[str, Any] = {
        "http": DeadlinePool,
        "https": DeadlineHTTPSPool,
    }

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self.POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if proxy.lower().startswith("socks"):
            # These need PySocks, which the program doesn't install, and another connection class.
            raise requests.exceptions.InvalidSchema("SOCKS proxies aren't supported")
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self.POOLS
        return manager


class HttpClient:
    """A keep-alive client for one host, for any number of threads.

    It honors the environment's proxies and certificates as requests does, but follows no
    redirects and sends no cookies and nothing from .netrc. Requests go straight to urllib3's
    connection pool: requests itself spends half of its time on features not needed here.
    """

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        *,
        connections: int = 1,
    ) -> None:
        self.url = url
        self.connections = connections
        # Otherwise, urllib3 would add its own User-Agent.
        self.headers = {
            "User-Agent": SKIP_HEADER,
            "Accept-Encoding": "identity",
            **headers,
        }
        self.pool: urllib3.HTTPConnectionPool | None = None
        self.lock = threading.Lock()

    def request(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        *,
        timeout: float | None = None,
        fresh: bool = False,
    ) -> Response | NoResponse:
        """Send a request to `url`, which is on the client's host. This never raises.

        `timeout`, in seconds, shortens the deadline of this request. Only the DNS lookup
        may take longer, because it can't be interrupted. `fresh` closes all idle
        connections and sends the request on a new one.
        """
        try:
            pool = self.current_pool(fresh)
        except Exception as error:
            reason = f"invalid proxy or CA bundle in the environment ({describe_error(error)})"
            return NoResponse(reason, is_permanent=True)
        seconds: float = RESPONSE_TIMEOUT
        if timeout is not None:
            seconds = min(seconds, timeout)
        started = time.monotonic()
        deadline.start(CONNECT_TIMEOUT, seconds)
        try:
            return self.send(pool, method, url, body)
        except Exception as error:
            # Whatever the cause, the caller has to know that there is no response.
            return explain_failure(error, time.monotonic() - started)

    def current_pool(self, fresh: bool) -> urllib3.HTTPConnectionPool:
        with self.lock:
            if self.pool is None or fresh:
                # The old pool closes its idle connections once no thread uses it anymore.
                self.pool = self.open_pool()
            return self.pool

    def open_pool(self) -> urllib3.HTTPConnectionPool:
        """Make a pool of connections to the host, or to the proxy on the way to it.

        Raise an exception if the environment's proxy or CA bundle is invalid.
        """
        # requests implements the rules for proxies and CA bundles. Its session would also add
        # cookies and passwords from .netrc to each request, so only its settings are used.
        adapter = DeadlineAdapter(pool_maxsize=self.connections)
        request = requests.Request("GET", self.url)
        session = requests.Session()
        environment: Any = session.merge_environment_settings(
            self.url, proxies={}, stream=None, verify=True, cert=None
        )
        verify = environment["verify"]
        pool: Any = adapter.get_connection_with_tls_context(
            request.prepare(),
            verify,
            proxies=environment["proxies"],
        )
        adapter.cert_verify(pool, self.url, verify, None)  # type: ignore[no-untyped-call]
        return pool  # type: ignore[no-any-return]

    def send(
        self,
        pool: urllib3.HTTPConnectionPool,
        method: str,
        url: str,
        body: bytes,
    ) -> Response:
        """Send one request; raise an exception if there is no complete response."""
        parts = urlsplit(url)
        target = parts.path or "/"
        if parts.query:
            target += "?" + parts.query
        if parts.scheme == "http" and pool.proxy is not None:
            target = f"http://{parts.netloc}{target}"  # for the proxy (RFC 9112, 3.2.2)
        # urllib3 must not retry, follow or decode anything: each response is judged as received.
        raw = pool.urlopen(
            method,
            target,
            # With b"", a GET would be sent with Content-Length: 0.
            body=body or None,
            headers=self.headers,
            retries=NO_RETRIES,
            redirect=False,
            assert_same_host=False,
            timeout=RESPONSE_TIMEOUT,
            preload_content=False,
            decode_content=False,
            enforce_content_length=True,  # otherwise urllib3 1.26 accepts a body that is cut off
        )
        content = bytearray()
        try:
            # An incomplete body is only detected by the read after the last byte.
            while chunk := raw.read(READ_SIZE):
                content += chunk
                if len(content) > MAX_RESPONSE_SIZE:
                    raise ResponseTooLarge
        except BaseException:
            raw.close()  # and the connection with it
            raise
        return Response(
            status=raw.status,
            headers=raw.headers,
            body=bytes(content),
        )


def describe_error(error: BaseException) -> str:
    """Describe the innermost cause in one line.

    The messages of outer exceptions contain URLs, and those of HTTP errors contain received data,
    so only operating system errors and errors about a setting are shown with their messages.
    """
    *_, cause = causes(error)
    name = type(cause).__name__
    if isinstance(cause, OSError | CertificateError | requests.RequestException):
        return redact(f"{name}: {cause}")
    return name


def explain_failure(error: Exception, elapsed: float) -> NoResponse:
    """Explain why a request has no response, given the exception raised after `elapsed` seconds."""
    chain = list(causes(error))

    # urllib3 and requests wrap the original exception, once or several times.
    def has(kind: type[BaseException]) -> bool:
        return any(isinstance(cause, kind) for cause in chain)

    if has(StaleConnection):
        return NoResponse(
            "the server closed the idle connection", is_stale_connection=True
        )
    if has(ResponseTooLarge):
        return NoResponse(f"more than {MAX_RESPONSE_SIZE:,} bytes")
    if has(TimeoutError):
        return NoResponse(
            f"timed out: no complete response within {elapsed:.1f} seconds"
        )
    # RemoteDisconnected is a ConnectionResetError too, but this message says more.
    if has(http.client.RemoteDisconnected):
        return NoResponse("connection lost: closed without a response")
    if has(http.client.IncompleteRead):
        return NoResponse("the response was cut off")
    return explain_connection_error(chain[-1])


def explain_connection_error(error: BaseException) -> NoResponse:
    """Explain an error from the network, TLS or the proxy."""
    refusal = re.match(REFUSED_TUNNEL, str(error))
    if refusal:
        # A 4xx other than 408 and 429 is about the proxy credentials or the host.
        status = int(refusal[1])
        is_temporary = status in (408, 429) or status >= 500
        return NoResponse(
            f"the proxy refused to connect, with status {status}", not is_temporary
        )
    reason = describe_error(error)
    if isinstance(error, ssl.SSLError | CertificateError):
        # urllib3 1.26 verifies the hostname itself, and raises CertificateError on a mismatch.
        is_permanent = re.search(CERTIFICATE_PROBLEM, reason) is not None
        return NoResponse(f"no response ({reason})", is_permanent)
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return NoResponse(f"connection lost ({reason})")
    return NoResponse(f"no response ({reason})")


#### Intercom API

# Seconds for archiving another user's contact again after STOP_GRACE_PERIOD is used up.
CLEANUP_TIMEOUT = 10
# Seconds for which a rate limit may delay a run. Intercom's windows last 10 seconds; a longer time
# is probably a header in another unit, or a wrong clock.
MAX_PAUSE = 300
# Requests whose ends are remembered because Intercom may have counted them. A window rarely has
# more.
MAX_UNCOUNTED = 1000
MAX_WRONG_USER_ATTEMPTS = 3  # responses about another user that one row may get
USE_CONTACTS = "; apps on API 2.x need user_url = https://api.intercom.io/contacts"
INTERCOM_ID = re.compile("[A-Za-z0-9_-]+")
# Parts of a message that are about one row: numbers, ids and addresses.
ROW_DETAIL = r"[^\s'\"()\[\]]*(\d|@)[^\s'\"()\[\]]*"
# NaN isn't valid JSON, though Python writes it. No cell becomes NaN, so one would be a bug.
JSON_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
CREDENTIALS_ADVICE = (
    "check [intercom] access_token (or api_id and api_key), or INTERCOM_ACCESS_TOKEN in .env or "
    "the environment, which takes precedence"
)
NO_VALID_RESPONSE = (
    "no valid response from Intercom; check [intercom] user_url and api_version, and "
    "the network and proxy"
)
# Explanations of the responses that every other user would get too, and what to change.
FATAL_STATUSES = {
    401: f"Intercom rejected the credentials; {CREDENTIALS_ADVICE}",
    402: "the workspace's plan does not include this, or payment is due",
    403: "permission denied; check the permissions of the token in Intercom",
    404: "not found; check [intercom] user_url",
    405: "the token's owner isn't allowed to do that; use an admin's token, and check user_url",
    406: "not acceptable; check [intercom] user_url",
    407: "the proxy requires credentials; set HTTPS_PROXY=http://user:password@host:port",
}
# These have nothing to do with the URL or the API version.
NOT_ABOUT_THE_URL = (401, 402, 407)


class Verdict(Enum):
    """The meaning of a response for a user. Sender.evaluate and shared_failure act on it."""

    ACCEPTED = auto()
    # The failure may be temporary: the request is retried, up to [intercom] retries times. If the
    # last retry fails, OutageDetector decides whether the run stops.
    RETRY = auto()
    # This row can't be imported. RejectionDetector detects if every row is rejected.
    REJECTED = auto()
    # A 403 from a firewall, not from Intercom, about this row; 100 in succession stop the run.
    BLOCKED = auto()
    # A response to another user's request: the request is retried, up to twice.
    WRONG_USER = auto()
    FATAL = auto()  # every other user would get the same, so the run stops


@dataclass
class ErrorDetails:
    """The error list in a response, in any shape.

    https://developers.intercom.com/docs/references/rest-api/errors/error-objects
    """

    codes: list[str]
    text: str  # codes and messages, or "" if the response isn't an error list
    request_id: str


def parse_errors(response: Response) -> ErrorDetails:
    """Read Intercom's error list; gateways and older versions use other shapes."""
    listed = response.json.get("errors")
    if not isinstance(listed, list):
        listed = [listed]  # one error, or None
    codes: list[str] = []
    texts: list[str] = []
    for error in listed:
        words = [error]
        if isinstance(error, dict):
            words = [error.get("code"), error.get("message")]
            codes.append(str(error.get("code")))
            if not any(words):  # {"email": "is invalid"}
                words = list(error.values())
        # A gateway may write null or an object for a code or a message.
        shown = [str(word) for word in words if isinstance(word, str | int)]
        if shown:
            texts.append(": ".join(shown))
    request_id = ""
    if response.json.get("request_id"):
        request_id = str(response.json["request_id"])
    return ErrorDetails(codes, "; ".join(texts), request_id)


def has_error_list(response: Response | NoResponse) -> bool:
    return isinstance(response, Response) and bool(parse_errors(response).text)


def is_user_or_contact(response: Response | NoResponse) -> TypeGuard[Response]:
    """Return whether Intercom confirms a user or contact with this response.

    A captive portal's page has status 200 too, so the status alone proves nothing.
    """
    if isinstance(response, NoResponse):
        return False
    if not 200 <= response.status < 300 or "errors" in response.json:
        return False
    kind = response.json.get("type")
    if kind:
        # {"type": "list"} and {"type": "admin", "id": "1"} are Intercom's too, but not users.
        return kind in ("user", "contact", "lead")
    return bool(response_id(response))


def response_id(response: Response | NoResponse) -> str:
    """Return the id in a response, or "" if it has no valid one."""
    if isinstance(response, NoResponse):
        return ""
    found = response.json.get("id")
    # An id becomes part of a URL, and of the state file. True is an int to Python.
    if type(found) in (str, int) and INTERCOM_ID.fullmatch(str(found)):
        return str(found)
    return ""


def names_another_user(response: Response, user_id: str) -> bool:
    """Return whether the response is about a user with another user_id (or external_id).

    A proxy that sends a response twice makes the second one look like the next user's.
    """
    if not user_id:
        return False
    # /users calls it user_id, /contacts external_id.
    for name in ("user_id", "external_id"):
        found = response.json.get(name)
        # A response that doesn't name an id may still be about this user.
        if found in (None, "", user_id):
            continue
        if normalize_id(str(found)) != normalize_id(user_id):
            return True
    return False


def normalize_id(text: str) -> str:
    """Normalize an id's Unicode form, case, and leading and trailing whitespace.

    Intercom may change all of these.
    """
    return unicodedata.normalize("NFC", text).strip().casefold()


def describe_response(response: Response | NoResponse) -> str:
    """Describe a response for logs and messages: its status, and the errors from Intercom."""
    if isinstance(response, NoResponse):
        return response.reason
    # The rest of such a response is personal data, which doesn't belong in a log.
    if is_user_or_contact(response):
        return str(response.status)
    errors = parse_errors(response)
    if not errors.text:
        return response.describe_foreign()
    described = f"{response.status} {redact(errors.text)[:1000]}"
    if errors.request_id:
        # Intercom's support asks for it.
        described += f" (request_id {redact(errors.request_id)[:99]})"
    return described


def describe_with_time(response: Response | NoResponse) -> str:
    return f"{describe_response(response)} in {response.seconds:.3f} s"


def response_category(response: Response | NoResponse) -> str:
    """Describe a response without the details of one row, so that many rows can share the text.

    Notices count rejected rows by this text:
    "12 x 400 parameter_invalid: # is not an email address".
    """
    if isinstance(response, NoResponse):
        return re.sub(ROW_DETAIL, "#", response.reason[:1000])
    text = parse_errors(response).text
    if not text:
        return f"{response.status}, response not from Intercom"
    # With `#` in place of `jane@example.com`, the same problem in many rows is one category.
    return f"{response.status} {re.sub(ROW_DETAIL, '#', redact(text)[:1000])[:200]}"


@dataclass(slots=True)
class RequestContext:
    """The properties of a request that `classify` needs."""

    is_user_url: bool = True  # not the URL of one contact, whose id may be wrong
    has_intercom_id: bool = False  # the row carries Intercom's id
    user_id: str = ""  # of the row; blank if it has none
    # Whether users were accepted in this run or, according to the state file, in an earlier one.
    # Only Sender.verdict_of sets this. In worker threads, it is always False, which makes no
    # difference there, because retries never depend on it.
    some_accepted: bool = False


def classify(response: Response | NoResponse, context: RequestContext) -> Verdict:
    """Return what a response means for a user.

    https://developers.intercom.com/docs/references/rest-api/errors/http-responses
    """
    if isinstance(response, NoResponse):
        if response.is_permanent:
            return Verdict.FATAL
        return Verdict.RETRY
    status = response.status
    if is_user_or_contact(response):
        if names_another_user(response, context.user_id):
            return Verdict.WRONG_USER
        return Verdict.ACCEPTED
    if status < 300 or status in (408, 429) or status >= 500:
        # This includes a page with status 200, and a 103 without a final response.
        return Verdict.RETRY
    if is_fatal(response, context):
        return Verdict.FATAL
    if status == 403:
        # Without Intercom's error list, it is from a firewall that rejected this row's content.
        return Verdict.BLOCKED
    return Verdict.REJECTED


def is_fatal(response: Response, context: RequestContext) -> bool:
    """Return whether every other user would also get this response (status 300 to 499)."""
    status = response.status
    if status < 400 or status in (401, 402, 407):
        # A redirect isn't from Intercom. Following it would reveal the token to another server.
        return True
    # A 400 is taken to be about this user's data unless it reports a wrong API version.
    if status == 400:
        return is_wrong_version(response)
    if status == 403:
        # A 403 with an error list is from Intercom and about the token. Any other comes from a
        # firewall, and is about every request unless users have been accepted before.
        return has_error_list(response) or not context.some_accepted
    may_concern_row = context.some_accepted or context.has_intercom_id
    if status == 404 and may_concern_row and has_error_list(response):
        # Intercom returns 404 for a wrong URL, but also for an id or a user that it can't find.
        return False
    # If the URL is that of one contact, these statuses are about that contact.
    return status in (404, 405, 406) and context.is_user_url


def is_wrong_version(response: Response) -> bool:
    """Return whether Intercom reports that the API version doesn't match the URL.

    Apps on API 2.x respond like this to POST /users.
    """
    return "intercom_version_invalid" in parse_errors(response).codes


def fatal_reason(response: Response | NoResponse, settings: Settings) -> str:
    """Explain a response that ends the run, and add advice."""
    described = describe_response(response)
    if isinstance(response, NoResponse):
        if response.is_permanent:
            return f"TLS or proxy error; check REQUESTS_CA_BUNDLE and HTTPS_PROXY ({described})"
        return (
            "no valid response from Intercom; check the network and proxy "
            f"({described})"
        )
    advice = ""
    # A 5xx or a page with status 200 doesn't hint at the wrong API version.
    is_about_url = (
        300 <= response.status < 500 and response.status not in NOT_ABOUT_THE_URL
    )
    if is_about_url and not settings.uses_contacts:
        advice = USE_CONTACTS
    return f"{explain_fatal(response, settings)}{advice} ({described})"


def explain_fatal(response: Response, settings: Settings) -> str:
    status = response.status
    if is_user_or_contact(response):
        return (
            "the first response is about a different user than the request; check the "
            "proxy or gateway between this machine and Intercom"
        )
    if 300 <= status < 400:
        target = redact(response.headers.get("Location", ""))[:200]
        if not target:
            target = "an unknown address"
        return f"[intercom] user_url redirects to {target}; redirects are not followed"
    if is_wrong_version(response):
        return (
            f"[intercom] user_url or api_version ({settings.api_version}) doesn't match the "
            "workspace"
        )
    if status == 403 and not has_error_list(response):
        return (
            "permission denied, but not by Intercom: check the firewall or proxy, "
            "and the permissions of the token"
        )
    return FATAL_STATUSES.get(status, NO_VALID_RESPONSE)


def retry_pause(response: Response | NoResponse) -> float:
    """Return the seconds to wait after a 429, at most MAX_PAUSE, or 0 for other responses."""
    if isinstance(response, NoResponse) or response.status != 429:
        return 0.0
    # Intercom sends X-RateLimit-Reset, and gateways in front of it Retry-After.
    pause = seconds_of_retry_after(response)
    until_reset = seconds_until_reset(response)
    if until_reset is not None:
        pause = max(pause, until_reset)
    return min(MAX_PAUSE, max(0.0, pause))


def seconds_of_retry_after(response: Response) -> float:
    """Return the delay in seconds that Retry-After asks for, or 0 if there is none.

    The header may be a number of seconds or an HTTP date.
    """
    seconds = response.int_header("Retry-After")
    if seconds is not None:
        return float(seconds)
    moment = response.date_header("Retry-After")
    if moment is None:
        return 0.0
    return moment - server_time(response)


def server_time(response: Response) -> float:
    """Return the server's time in UNIX seconds, or the local time if it isn't sent."""
    date = response.date_header("Date")
    if date is None:
        return time.time()
    return date


def seconds_until_reset(response: Response) -> float | None:
    """Return the seconds until X-RateLimit-Reset, or None if the header is missing.

    Both times are from the server, so a wrong local clock does no harm.

    https://developers.intercom.com/docs/references/rest-api/errors/rate-limiting
    """
    reset = response.int_header("X-RateLimit-Reset")
    if reset is None:
        return None
    return reset - server_time(response)


class RateLimiter:
    """Tracks Intercom's rate limit window, as reported in response headers.

    Call `acquire` before each request, and `release` with its response.
    """

    def __init__(self, stop: StopSignal) -> None:
        self.stop = stop
        self.condition = threading.Condition()
        self.in_flight = 0
        # The number of requests per window. Until the first response, requests are sent one at a
        # time, because the limit may be shared and used up.
        self.per_window = 1.0
        self.remaining = 0  # of the current window
        # The end of the window in UNIX seconds by Intercom's clock; it identifies the window.
        self.reset = 0
        self.window_end = 0.0  # the same by time.monotonic()
        self.paused_until = 0.0  # time.monotonic() when the pause after a 429 ends
        # The ends of the latest requests that Intercom may have counted, but that had no response
        # with a count (time.monotonic()).
        self.uncounted: deque[float] = deque(maxlen=MAX_UNCOUNTED)

    def acquire(self, not_before: float = 0.0, *, grace: float | None = None) -> bool:
        """Wait until another request may be sent; return False if the run stops first.

        With `grace`, the request belongs to a user in flight: it is sent even if the run stops, up
        to that many seconds after the deadline that such requests share. `not_before` is a
        time.monotonic() value.
        """
        with self.condition:
            while True:
                now = time.monotonic()
                if not self.may_send(now, grace):
                    return False
                pause = max(not_before, self.next_slot(now)) - now
                if pause <= 0:
                    self.in_flight += 1
                    return True
                # Wait only briefly, so that a signal is noticed. A response, which may change the
                # window, ends the wait sooner.
                self.condition.wait(min(POLL_INTERVAL, pause))

    def may_send(self, now: float, grace: float | None) -> bool:
        if grace is None:
            return not self.stop.is_set()
        # The deadline is infinite as long as the run isn't stopping.
        return now < self.stop.deadline() + grace

    def release(
        self, response: Response | NoResponse, sent_at: float = math.inf
    ) -> None:
        """Account for the response to a request that `acquire` let through.

        `sent_at` is a time.monotonic() value.
        """
        with self.condition:
            self.in_flight -= 1
            self.update(response, time.monotonic(), sent_at)
            self.condition.notify_all()

    def next_slot(self, now: float) -> float:
        """Return the earliest time at which a request may be sent, as far as is known."""
        if now < self.paused_until:
            return self.paused_until
        if now < self.window_end:
            # `remaining` doesn't include the requests in flight yet.
            if self.remaining > self.in_flight:
                return 0.0
            return self.window_end
        # A new window has begun. All that is known about it is its size.
        if self.per_window == math.inf or self.in_flight == 0:
            return 0.0
        if self.per_window > self.in_flight + self.uncounted_since(self.window_end):
            return 0.0
        return math.inf  # until a response arrives

    def update(
        self, response: Response | NoResponse, now: float, sent_at: float = math.inf
    ) -> None:
        """Update the window from a response; responses may arrive out of order."""
        if isinstance(response, NoResponse):
            self.add_uncounted(now)
            return
        self.per_window = math.inf  # a gateway may have no limit
        limit = response.int_header("X-RateLimit-Limit")
        if limit:
            self.per_window = limit
        # The limit applies to the token, so after a 429 every thread waits, not only the one that
        # received it.
        self.paused_until = max(self.paused_until, now + retry_pause(response))
        reset = response.int_header("X-RateLimit-Reset")
        remaining = response.int_header("X-RateLimit-Remaining")
        wait = seconds_until_reset(response)
        if reset is None or remaining is None or wait is None:
            self.add_uncounted(now)
            return
        # `remaining` may not include requests that failed while this one was in flight, because
        # Intercom may have counted them after it, perhaps in a new window.
        remaining -= self.uncounted_since(sent_at)
        if reset < self.reset or not 0 < wait <= MAX_PAUSE:
            return  # an earlier window, or a wrong unit such as milliseconds
        if reset > self.reset:
            self.reset = reset
            self.remaining = remaining
            self.window_end = now + wait
        # An earlier response may arrive after a later one, so the lowest number is the newest.
        self.remaining = min(self.remaining, remaining)
        # The Date header has whole seconds, so the earliest end of a window is the most accurate.
        self.window_end = min(self.window_end, now + wait)

    def add_uncounted(self, now: float) -> None:
        """Account for a request that Intercom may have counted, but without reporting it."""
        self.remaining -= 1
        self.uncounted.append(now)

    def uncounted_since(self, moment: float) -> int:
        """Return how many requests have ended since `moment` without a reported count."""
        latest_first = reversed(self.uncounted)
        return sum(
            1 for _ in itertools.takewhile(lambda end: end >= moment, latest_first)
        )


@dataclass
class RetryStatus:
    """A pending retry, for the progress line."""

    number: int
    limit: int
    due: float  # time.monotonic()
    reason: str


@dataclass
class RetryBudget:
    """Counts the retries that all requests for one user share."""

    limit: int
    used: int = 0
    # time.perf_counter() of the user's first attempt; 0: not sent yet.
    started: float = 0.0

    def is_used_up(self) -> bool:
        return self.used >= self.limit


@dataclass(slots=True)
class ApiRequest:
    """A request to Intercom's API."""

    method: str
    url: str
    payload: UserPayload | None = None
    label: object = ""  # of the user in logs; blank: the URL is logged
    # Only set for a request that creates or updates a user. If Intercom accepts that request, it is
    # logged later, as the outcome of the row.
    context: RequestContext | None = None

    def __str__(self) -> str:
        if self.label:
            return str(self.label)
        return self.url


# Returned instead of a response if the run stops before a request is sent.
UNSENT = NoResponse(RUN_STOPPED)


class WorkspaceAttribute(NamedTuple):
    """A custom attribute of the workspace, as GET /data_attributes lists it."""

    data_type: str
    is_archived: bool
    is_writable: bool
    options: tuple[str, ...]

    def problem(self, expected: tuple[str, ...]) -> str:
        """Return why values of the expected types can't be sent for it, or ""."""
        if self.is_archived:
            return "is archived; restore it in Intercom"
        if not self.is_writable:
            return "is not writable through the API"
        if self.data_type not in expected:
            return f"is {self.data_type} (expected {expected[0]})"
        return ""


class IntercomClient:
    """Sends requests to Intercom, within its rate limit and with retries. All threads share it."""

    def __init__(self, settings: Settings, stop: StopSignal) -> None:
        self.settings = settings
        self.stop = stop
        self.url = settings.intercom.user_url
        self.limiter = RateLimiter(stop)
        self.http = HttpClient(
            self.url,
            {
                # Without it, Intercom returns 406.
                "Accept": "application/json",
                "Authorization": settings.authorization,
                "Content-Type": "application/json",
                # Without it, the version set in Intercom's own app settings applies.
                "Intercom-Version": settings.api_version,
                "User-Agent": f"IntercomImporter/{VERSION}",
            },
            connections=settings.intercom.concurrency,
        )
        self.waiting: dict[int, RetryStatus] = {}  # by thread
        self.has_responded = False  # to a request for any user

    # One request

    def send(
        self,
        request: ApiRequest,
        *,
        not_before: float = 0.0,
        grace: float | None = None,
        budget: RetryBudget | None = None,
        fresh: bool = False,
    ) -> Response | NoResponse:
        """Send one request when the rate limit allows it, and log how long it took.

        For an accepted user, Sender.count_imported logs it instead.

        See RateLimiter.acquire for `not_before` and `grace`. With `fresh`, a new connection is
        used. Return UNSENT if the run stops first.
        """
        body = b""
        if request.payload is not None:
            # The body is pure ASCII, so no gateway can get the encoding wrong.
            body = JSON_ENCODER.encode(request.payload).encode()
        while self.limiter.acquire(not_before, grace=grace):
            began = time.monotonic()
            if budget and not budget.started:
                budget.started = time.perf_counter()
            # After a signal, all requests share the same deadline, which may pass while this one
            # is in flight.
            time_left = self.stop.deadline() + (grace or 0.0) - began
            response = self.http.request(
                request.method,
                request.url,
                body,
                timeout=max(POLL_INTERVAL, time_left),
                fresh=fresh,
            )
            self.limiter.release(response, sent_at=began)
            response.seconds = time.monotonic() - began
            if not is_accepted(request, response):
                log.debug("%s: %s", request, describe_with_time(response))
            if isinstance(response, Response) or not response.is_stale_connection:
                return response
            # The server closed the connection before the request arrived. That isn't a failure, so
            # try again at once, on a new connection.
            fresh = True
        return UNSENT

    def send_with_retries(
        self,
        request: ApiRequest,
        needs_no_retry: Callable[[Response], bool],
        *,
        budget: RetryBudget | None = None,
        grace: float = 0.0,
        fresh: bool = False,
    ) -> Response | NoResponse:
        """Send a request until a response needs no retry, or the user's retries are used up.

        Return the last response. Once the run stops, nothing is retried, and a user's first
        request is no longer sent. Further requests for a user in flight are sent until `grace`
        seconds after the deadline that all of them share (StopSignal.deadline).
        """
        # Requests about the workspace don't belong to a user, so each has its own retries.
        if budget is None:
            budget = RetryBudget(self.settings.intercom.retries)
        if budget.started:
            # All requests for one user belong together.
            response = self.send(request, grace=grace, fresh=fresh)
        else:
            response = self.send(request, budget=budget, fresh=fresh)
        while self.should_retry(response, budget, needs_no_retry):
            budget.used += 1
            due = self.announce_retry(request, response, budget)
            next_response = self.send(request, not_before=due, fresh=fresh)
            self.waiting.pop(threading.get_ident(), None)
            if next_response is UNSENT:
                break  # the previous response says more about this user
            response = next_response
        return response

    def should_retry(
        self,
        response: Response | NoResponse,
        budget: RetryBudget,
        needs_no_retry: Callable[[Response], bool],
    ) -> bool:
        if self.stop.is_set() or budget.is_used_up():
            return False
        if isinstance(response, NoResponse):
            return not response.is_permanent
        return not needs_no_retry(response)

    def announce_retry(
        self,
        request: ApiRequest,
        response: Response | NoResponse,
        budget: RetryBudget,
    ) -> float:
        """Log a retry, show it in the progress line, and return when it is due."""
        described = describe_response(response)
        # A 429 may ask for a longer pause than [intercom] timeout, but not for a shorter one.
        pause = max(self.settings.intercom.timeout, retry_pause(response))
        due = time.monotonic() + pause
        retry = RetryStatus(budget.used, budget.limit, due, described)
        self.waiting[threading.get_ident()] = retry
        log.warning(
            "%s: %s; retrying in %.3g s (retry %d of %d)",
            request,
            described,
            pause,
            budget.used,
            budget.limit,
        )
        return due

    # The workspace

    def api_url(self, path: str) -> str:
        """Return user_url with `path` as its last segment: .../data_attributes."""
        return self.url.rpartition("/")[0] + path

    def me(self) -> Response | NoResponse:
        """Request the owner of the credentials, without retries."""
        parts = urlsplit(self.url)
        return self.send(ApiRequest("GET", f"{parts.scheme}://{parts.netloc}/me"))

    def first_page(self) -> Response | NoResponse:
        """Request one user, without retries, to check the API version and the URL."""
        return self.send(ApiRequest("GET", f"{self.url}?per_page=1"))

    def list_attributes(self, *, retry: bool) -> Response | NoResponse:
        """Request the workspace's contact attributes, including archived ones.

        https://developers.intercom.com/docs/references/rest-api/api.intercom.io/data-attributes
        """
        # Archived ones are included, so the message can be more specific than "missing".
        url = self.api_url("/data_attributes?model=contact&include_archived=true")
        request = ApiRequest("GET", url)
        if not retry:
            return self.send(request)
        return self.send_with_retries(request, is_attribute_list_or_refusal)

    def create_attribute(self, name: str, data_type: str) -> Response | NoResponse:
        request = ApiRequest(
            "POST",
            self.api_url("/data_attributes"),
            {"name": name, "model": "contact", "data_type": data_type},
            label=f"custom attribute {name}",
        )
        return self.send_with_retries(request, is_attribute_or_refusal)


def is_accepted(request: ApiRequest, response: Response | NoResponse) -> bool:
    """Return whether Intercom accepted the request's user."""
    if request.context is None:
        return False
    return classify(response, request.context) is Verdict.ACCEPTED


def is_temporary_failure(response: Response) -> bool:
    """Return whether an unexpected response may be a temporary failure."""
    # No context is needed: whether to retry never depends on the row.
    return classify(response, RequestContext()) is Verdict.RETRY


def is_attribute_list(response: Response | NoResponse) -> TypeGuard[Response]:
    if isinstance(response, NoResponse):
        return False
    return response.status == 200 and isinstance(response.json.get("data"), list)


def is_attribute_list_or_refusal(response: Response) -> bool:
    return is_attribute_list(response) or not is_temporary_failure(response)


def is_attribute_or_refusal(response: Response) -> bool:
    # A captive portal's page contains no name, so the request is retried.
    is_attribute = response.status == 200 and "name" in response.json
    return is_attribute or not is_temporary_failure(response)


def parse_attributes(response: Response) -> dict[str, WorkspaceAttribute]:
    """Return the custom attributes of a response to GET /data_attributes, by name."""
    attributes: dict[str, WorkspaceAttribute] = {}
    for item in response.json["data"]:
        if isinstance(item, dict) and item.get("custom"):
            name = str(item.get("name"))
            attribute = parse_attribute(item)
            # The name of an archived attribute may have been given to a new one.
            if not (attribute.is_archived and name in attributes):
                attributes[name] = attribute
    return attributes


def parse_attribute(item: dict[str, Any]) -> WorkspaceAttribute:
    options: tuple[str, ...] = ()
    if isinstance(item.get("options"), list):
        options = tuple(option_text(option) for option in item["options"])
    data_type = str(item.get("data_type"))
    if data_type in ("options", "list"):
        data_type = "string"  # its name in requests and in Intercom's UI
    return WorkspaceAttribute(
        data_type,
        is_archived=bool(item.get("archived")),
        # A response without this property must not stop the run.
        is_writable=item.get("api_writable") is not False,
        options=options,
    )


def option_text(option: object) -> str:
    """Return the text of an option, which the API returns as a string or an object."""
    if isinstance(option, dict):
        return str(option.get("value", option.get("label", "")))
    return str(option)


class AttributeReport:
    """The differences between the mapped custom attributes and the workspace's."""

    def __init__(
        self, settings: Settings, existing: dict[str, WorkspaceAttribute]
    ) -> None:
        self.existing = existing
        self.may_create = settings.intercom.create_attributes
        self.missing: dict[str, tuple[str, ...]] = {}  # by name: the types it may have
        self.problems: list[str] = []
        self.options: dict[str, tuple[str, ...]] = {}
        for mapping in settings.attribute_mappings:
            self.compare(mapping.name, CELL_TYPES[mapping.type_name].intercom_types)
        if self.missing and not self.may_create:
            self.problems.append("set create_attributes = true to create missing ones")

    def compare(self, name: str, types: tuple[str, ...]) -> None:
        attribute = self.existing.get(name)
        if attribute is None:
            self.compare_missing(name, types)
        elif problem := attribute.problem(types):
            self.problems.append(f"{name} {problem}")
        elif attribute.options:
            self.options[name] = attribute.options

    def compare_missing(self, name: str, types: tuple[str, ...]) -> None:
        """Record a missing attribute, and suggest the existing one that was probably meant."""
        similar = [
            each for each in self.existing if plain_name(each) == plain_name(name)
        ]
        # Without create_attributes, a missing attribute stops the run: contacts would be refused.
        if not self.may_create:
            self.missing[name] = types
            hint = ""
            if similar:
                hint = f"; did you mean {similar[0]}?"
            self.problems.append(f"{name} is missing (expected {types[0]}{hint})")
            return
        for each in similar:
            if each.casefold() == name.casefold():
                # Intercom treats "Plan" and "plan" as two attributes, probably not as intended.
                self.problems.append(
                    f"{name} differs from the existing {each} only in case; use one spelling in "
                    "[custom_attributes]"
                )
                return
        self.missing[name] = types


def plain_name(name: str) -> str:
    """Return an attribute's name without punctuation, and with case folded."""
    # `Plan name`, `plan_name` and `planName` are alike.
    return "".join(character for character in name.casefold() if character.isalnum())


def check_attributes(client: IntercomClient, *, retry: bool) -> AttributeReport | None:
    """Compare the mapped custom attributes with the workspace's, for /contacts.

    Return None if there is nothing to compare, or if the token isn't allowed to read the
    workspace's attributes. Raise RunAborted if the request fails for any other reason.
    """
    settings = client.settings
    if not settings.uses_contacts or not settings.attribute_mappings:
        return None
    response = client.list_attributes(retry=retry)
    if is_attribute_list(response):
        return AttributeReport(settings, parse_attributes(response))
    if status_of(response) in (403, 404):
        # A token may be allowed to write contacts but not to read attributes. If an attribute is
        # missing, Intercom rejects its users with a reason.
        return None
    raise RunAborted(fatal_reason(response, settings))


def attributes_problem(report: AttributeReport) -> str:
    if not report.problems:
        return ""
    return f"custom attributes don't match the workspace: {'; '.join(report.problems)}"


def create_missing_attributes(client: IntercomClient, report: AttributeReport) -> None:
    """Create the missing custom attributes.

    If a creation fails, read the list again, because the response to an earlier attempt may have
    been lost. Raise RunAborted if the attribute is still missing or doesn't match.
    """
    for name, types in report.missing.items():
        response = client.create_attribute(name, types[0])
        # A web page with status 200 doesn't mean that the attribute was created.
        if isinstance(response, Response) and response.json.get("name") == name:
            log.info("created custom attribute %s (%s)", name, types[0])
            continue
        listed = client.list_attributes(retry=True)
        attribute = None
        if is_attribute_list(listed):
            attribute = parse_attributes(listed).get(name)
        if attribute is None or attribute.problem(types):
            described = describe_response(response)
            raise RunAborted(f"can't create custom attribute {name} ({described})")
        log.info("custom attribute %s (%s) already exists", name, attribute.data_type)


@dataclass(eq=False)
class Upload:
    """A user to be sent, with the row it came from."""

    row: Row
    user: UserPayload
    contact_id: str = ""  # Intercom's id, from the state file or the row
    digest: bytes = b""

    @property
    def user_id(self) -> str:
        return str(self.user.get("user_id", ""))

    def __str__(self) -> str:
        """Return its name in logs, such as "line 7 user_id=u6"."""
        return f"line {self.row.line} {identity_key(self.user)}"


def build_request(
    upload: Upload, settings: Settings, contact_id: str, role: str = ""
) -> ApiRequest:
    """Return the request for a user; `contact_id` is blank if the contact isn't known."""
    payload = request_payload(upload.user, settings, contact_id, role)
    if settings.uses_contacts and contact_id:
        url = contact_url(settings, contact_id)
        return ApiRequest("PUT", url, payload, label=upload)
    # POST /users creates or updates, so the same request works for every user.
    return ApiRequest("POST", settings.intercom.user_url, payload, label=upload)


def request_payload(
    user: UserPayload, settings: Settings, contact_id: str, role: str = ""
) -> UserPayload:
    """Return the body of the request for a user."""
    if not settings.uses_contacts:
        return user
    contact = to_contact(user)
    if not contact_id:
        # Without a role, a contact that has only an e-mail address would be a lead.
        role = "user"
    # A contact that exists keeps its role, unless it is a lead that becomes a user.
    if role:
        contact = {"role": role, **contact}
    return contact


def contact_url(settings: Settings, contact_id: str) -> str:
    """Return the URL of a contact. A row's id may be `../users`, so dots are encoded too."""
    encoded = quote(contact_id, safe="").replace(".", "%2E")
    return f"{settings.intercom.user_url}/{encoded}"


class ExistingContact(NamedTuple):
    """A contact that already has the user_id or the e-mail address of a row."""

    contact_id: str
    is_archived: bool


# The text without "archived" is documented; the one with "archived" appears only in a draft of
# Intercom's API description (Intercom-OpenAPI#543).
EXISTING_CONTACT = (
    "(archived )?contact matching those details already exists with id=([A-Za-z0-9_-]+)"
)


def find_existing_contact(response: Response | NoResponse) -> ExistingContact | None:
    """Return the contact that a 409 names, or None if it isn't that kind of response."""
    if not isinstance(response, Response) or response.status != 409:
        return None
    # Search only the JSON, because a page may echo such a sentence.
    match = re.search(EXISTING_CONTACT, parse_errors(response).text)
    if not match:
        return None
    return ExistingContact(match[2], is_archived=bool(match[1]))


@dataclass
class UpsertResult:
    """The outcome of the requests for one user."""

    response: Response | NoResponse
    context: RequestContext = field(default_factory=RequestContext)
    contact_id: str = ""
    stale_contact_id: str = ""  # a remembered one that no longer exists in Intercom
    rejection: RowRejected | None = None  # decided here, not by a response
    error: Exception | None = None  # an unexpected one, raised in the worker thread
    started: float = 0.0  # time.perf_counter() of the first attempt
    is_unsent: bool = False  # the run stopped before the first request
    # The response is about another user, and no earlier one was about the right user.
    has_wrong_first_response: bool = False


class Upsert:
    """Creates or updates one user, with all the requests that are needed.

    https://developers.intercom.com/docs/references/rest-api/api.intercom.io/contacts
    """

    def __init__(self, client: IntercomClient, upload: Upload) -> None:
        self.client = client
        self.settings = client.settings
        self.upload = upload
        self.budget = RetryBudget(self.settings.intercom.retries)
        self.contact_id = upload.contact_id
        self.has_wrong_first_response = False

    def run(self) -> UpsertResult:
        # An id that the row itself contains is never replaced by that of another contact.
        is_remembered = self.contact_id != "" and "id" not in self.upload.user
        stale_contact_id = ""
        result = self.send_user()
        if is_remembered and status_of(result.response) in (404, 409, 410):
            # The remembered contact was merged or deleted, or now belongs to another user.
            stale_contact_id = self.contact_id
            self.contact_id = ""
            result = self.send_user()
        if self.settings.uses_contacts and not self.contact_id:
            # Only after a POST: a 409 in response to a PUT names another contact, which already has
            # this one's new address.
            existing = find_existing_contact(result.response)
            if existing:
                result = self.update_existing(existing)
        # Only the main thread writes to the state, so the stale id is returned to it.
        result.stale_contact_id = stale_contact_id
        result.started = self.budget.started
        result.is_unsent = not self.budget.started
        return result

    def send_user(self, role: str = "") -> UpsertResult:
        """Send the user, up to three times if the response is about another user."""
        request = build_request(self.upload, self.settings, self.contact_id, role)
        context = RequestContext(
            is_user_url=request.url == self.client.url,
            has_intercom_id="id" in self.upload.user,
            user_id=self.upload.user_id,
        )
        request.context = context
        response = self.attempt(request, context)
        for _ in range(MAX_WRONG_USER_ATTEMPTS - 1):
            if classify(response, context) is not Verdict.WRONG_USER:
                break
            log.warning("%s: the response is about another user", self.upload)
            if not self.client.has_responded:
                # Every response may be about another user, so the run has to stop.
                self.has_wrong_first_response = True
            if self.has_wrong_first_response or self.client.stop.is_set():
                break
            # A new connection can't hold another request's response.
            response = self.attempt(request, context, fresh=True)
        if isinstance(response, Response):
            # From now on, a response about another user is no reason to stop the run.
            self.client.has_responded = True
        return self.result(response, context)

    def attempt(
        self, request: ApiRequest, context: RequestContext, *, fresh: bool = False
    ) -> Response | NoResponse:
        return self.client.send_with_retries(
            request,
            lambda response: classify(response, context) is not Verdict.RETRY,
            budget=self.budget,
            fresh=fresh,
        )

    def result(
        self, response: Response | NoResponse, context: RequestContext
    ) -> UpsertResult:
        contact_id = self.contact_id
        if is_user_or_contact(response):
            contact_id = response_id(response) or contact_id
        return UpsertResult(
            response,
            context,
            contact_id,
            has_wrong_first_response=self.has_wrong_first_response,
        )

    def update_existing(self, existing: ExistingContact) -> UpsertResult:
        """Update the contact that Intercom found by the row's details, if it is the same user."""
        self.contact_id = existing.contact_id
        if existing.is_archived and not self.settings.intercom.unarchive:
            return self.rejected(
                "archived contact",
                f"contact {self.contact_id} is archived; "
                "set [intercom] unarchive = true to restore it",
            )
        if existing.is_archived:
            restored = self.send_contact_request("POST", "/unarchive")
            if not is_user_or_contact(restored):
                return self.result(restored, RequestContext(is_user_url=False))
        if self.upload.user_id and "email" not in self.upload.user:
            # Intercom can only have found this contact by its user_id.
            return self.send_user()
        # The 409 doesn't say whether the user_id or only the e-mail address was found.
        found = self.send_contact_request("GET")
        if not is_user_or_contact(found) or self.belongs_to_other_user(found):
            return self.leave_existing(existing, found)
        if found.json.get("role") == "lead":
            # A lead has only used the messenger; its e-mail address now belongs to a user.
            return self.send_user(role="user")
        return self.send_user()

    def belongs_to_other_user(self, contact: Response) -> bool:
        """Return whether a contact is another user with the same e-mail address."""
        if contact.json.get("role") == "lead":
            return False  # Intercom generates the external_id of a lead
        user_id = self.upload.user_id
        other_id = contact.json.get("external_id")
        # If either has no id, the e-mail address is all that there is to compare.
        return bool(user_id and other_id) and str(other_id) != user_id

    def leave_existing(
        self, existing: ExistingContact, found: Response | NoResponse
    ) -> UpsertResult:
        """Don't import the row. If its contact was restored for comparison, archive it again."""
        note = ""
        if existing.is_archived and not self.archive_again():
            note = (
                f"contact {self.contact_id} had been archived, was restored for comparison, and "
                "could not be archived again: archive it in Intercom"
            )
            log.warning("%s: %s", self.upload, note)
        if not is_user_or_contact(found):
            return self.result(found, RequestContext(is_user_url=False))
        message = (
            f"the e-mail address belongs to contact {self.contact_id} with external_id "
            f"{found.json.get('external_id')}, not {self.upload.user_id}"
        )
        if note:
            message += f"; {note}"
        return self.rejected("e-mail address of another contact", message)

    def archive_again(self) -> bool:
        """Archive the contact again, even if the run has stopped; return whether that worked."""
        return is_user_or_contact(
            self.send_contact_request("POST", "/archive", grace=CLEANUP_TIMEOUT)
        )

    def send_contact_request(
        self, method: str, path: str = "", *, grace: float = 0.0
    ) -> Response | NoResponse:
        """Send a request about the existing contact, within the retries of this user."""
        payload: UserPayload | None = None
        # /archive and /unarchive need no data, but the Content-Type header declares a JSON body.
        if method == "POST":
            payload = {}
        url = contact_url(self.settings, self.contact_id) + path
        response = self.client.send_with_retries(
            ApiRequest(method, url, payload, label=self.upload),
            self.needs_no_retry,
            budget=self.budget,
            grace=grace,
        )
        if is_user_or_contact(response) and not self.is_about_contact(response):
            # Comparing it might let this row overwrite another contact.
            return NoResponse("the response is about another contact")
        return response

    def needs_no_retry(self, response: Response) -> bool:
        if is_user_or_contact(response):
            return self.is_about_contact(response)
        return not is_temporary_failure(response)

    def is_about_contact(self, response: Response) -> bool:
        return response_id(response) in ("", self.contact_id)

    def rejected(self, category: str, message: str) -> UpsertResult:
        """Return a rejection whose reason isn't a single response."""
        result = UpsertResult(NoResponse(message))
        result.rejection = RowRejected(category, message)
        return result


def status_of(response: Response | NoResponse) -> int | None:
    if isinstance(response, Response):
        return response.status
    return None


def json_of(response: Response | NoResponse) -> dict[str, Any]:
    """Return the body if it is a JSON object, otherwise an empty dict."""
    if isinstance(response, Response):
        return response.json
    return {}


#### Sync state

SQLITE_BUSY_TIMEOUT = 5.0  # seconds to wait for another program's lock
# Identifies a SQLite file as a state file. It has to change if the tables change.
STATE_APPLICATION_ID = 0x49435331
STATE_VERSION = 1  # 0: written by version 1.1, which had no marker of accepted users
# With a write-ahead log, saving a user needs no fsync, and kill -9 loses nothing that was saved.
STATE_SCHEMA = f"""
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS users (key BLOB PRIMARY KEY, digest BLOB, id TEXT, email BLOB);
CREATE INDEX IF NOT EXISTS users_by_id ON users (id);
CREATE INDEX IF NOT EXISTS users_by_email ON users (email);
PRAGMA application_id = {STATE_APPLICATION_ID};
PRAGMA user_version = {STATE_VERSION};
COMMIT
"""
# The key of a record that shows that Intercom has accepted a user. Digests can't show it, because
# they are cleared before a user is sent again. Keys of users begin with "user_id=" or the like.
ACCEPTED_MARKER = "\0accepted"


class RememberedUser(NamedTuple):
    """A user's record in the state file."""

    digest: bytes  # b"" if the user's state in Intercom is unknown
    contact_id: str


class SyncState:
    """Stores a digest of each user as last accepted by Intercom, and the contact's id.

    Records are separate for each user_url and credentials. When in doubt, a digest is cleared:
    before its user is sent again, or if another row turns out to be the same contact.
    """

    def __init__(self, settings: Settings, *, write: bool) -> None:
        self.path = Path(settings.intercom.state_file).absolute()
        # Part of every key, and only as a hash: the file contains no credentials.
        namespace = f"{settings.intercom.user_url}\0{settings.authorization}\0"
        self.namespace = namespace.encode()
        self.has_marker = False
        self.snapshot_folder: tempfile.TemporaryDirectory[str] | None = None
        try:
            self.database = self.connect(write=write)
        except (OSError, ValueError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunAborted(
                f"can't open the state file {self.path}: {reason}; check [intercom] state_file"
            ) from None
        try:
            self.prepare(write=write)
        finally:
            # SQLite has opened its files. Except on Windows, they can be deleted now, so they don't
            # remain even if Ctrl-C ends the process.
            self.remove_snapshot()

    def connect(self, *, write: bool) -> sqlite3.Connection:
        """Open the database. Without `write`, SQLite creates no files next to it."""
        options = "mode=rwc"
        path = self.path
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif Path(f"{path}-wal").exists():
            # A run was killed, or is in progress. To read its log, SQLite would create a -shm file
            # next to it.
            path = self.copy_with_log()
        else:
            # Without immutable=1, SQLite would create a -wal and a -shm file just to find that
            # there is no log.
            options = "mode=ro&immutable=1"
        uri = f"{path.as_uri()}?{options}"
        return sqlite3.connect(
            uri, uri=True, timeout=SQLITE_BUSY_TIMEOUT, isolation_level=None
        )

    def copy_with_log(self) -> Path:
        """Copy the database and its write-ahead log to a temporary folder."""
        self.snapshot_folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        copy = Path(self.snapshot_folder.name, "state")
        shutil.copyfile(self.path, copy)
        shutil.copyfile(f"{self.path}-wal", f"{copy}-wal")
        return copy

    def remove_snapshot(self) -> None:
        if self.snapshot_folder:
            # Windows can't delete an open file. `close` tries again.
            with contextlib.suppress(OSError):
                self.snapshot_folder.cleanup()

    def prepare(self, *, write: bool) -> None:
        """Create the tables in a new file. Raise RunAborted if it's another kind of file."""
        # SQLite keeps these settings per connection and not in the file.
        self.execute("PRAGMA synchronous = NORMAL")
        # Keys are hashes, so each row may need any page of the file. A hundred thousand users take
        # about this much, in KiB.
        self.execute("PRAGMA cache_size = -32000")
        is_new = write and self.execute("SELECT count(*) FROM sqlite_master") == (0,)
        if is_new:
            for statement in STATE_SCHEMA.split(";"):
                self.execute(statement)
        if self.execute("PRAGMA application_id") != (STATE_APPLICATION_ID,):
            raise RunAborted(
                f"{self.path} is not a state file, or is from another version; "
                "check [intercom] state_file"
            )
        # This detects a damaged schema before the first user is sent.
        self.execute("SELECT key, digest, id, email FROM users LIMIT 1")

    def close(self) -> None:
        """Close the database, which moves everything saved to its main file."""
        with contextlib.suppress(sqlite3.Error):
            self.database.close()
        self.remove_snapshot()

    def execute(self, statement: str, *values: object) -> Any:
        """Return the first row of the result. Raise RunAborted if the file can't be used."""
        try:
            return self.database.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            advice = ""
            if re.search(
                "malformed|no such|corrupt|not a database|has no column", str(error)
            ):
                # It may be another program's file, so deleting it isn't suggested first.
                advice = (
                    "; check [intercom] state_file, or delete it if it is damaged: the next run "
                    "will then send every user again"
                )
            raise RunAborted(f"the state file {self.path}: {error}{advice}") from None

    def key(self, identity: str) -> bytes:
        return hashlib.sha256(self.namespace + identity.encode()).digest()

    def remembers_accepted_users(self) -> bool:
        """Return whether Intercom has accepted users before, with these credentials and URL.

        A file from version 1.1 has no marker, and its keys don't show which URL and credentials a
        user belongs to, so any user counts.
        """
        marker = self.execute(
            "SELECT 1 FROM users WHERE key = ?", self.key(ACCEPTED_MARKER)
        )
        if marker:
            return True
        if self.execute("PRAGMA user_version") != (0,):
            return False
        return self.execute("SELECT 1 FROM users WHERE length(digest) > 0") is not None

    def load(self, user: UserPayload) -> RememberedUser:
        statement = "SELECT digest, id FROM users WHERE key = ?"
        found = self.execute(statement, self.key(identity_key(user)))
        if not found:
            return RememberedUser(b"", "")
        digest, contact_id = found
        return RememberedUser(digest or b"", contact_id or "")

    def invalidate(self, user: UserPayload) -> None:
        """Clear every digest that may become wrong when this user is sent.

        Intercom matches by id, then user_id, then e-mail address. Call this before sending the
        request: if its response is lost, the user's state in Intercom is unknown.
        """
        keys = [self.key(identity) for identity in identity_keys(user)]
        email_key = None  # NULL, which equals nothing
        if "user_id" not in user:
            email_key = keys[0]
        placeholders = ", ".join("?" * len(keys))
        self.execute(
            "UPDATE users SET digest = x'' "  # noqa: S608 - only adds question marks
            f"WHERE key IN ({placeholders}) OR email = ? OR id = ?",
            *keys,
            email_key,
            user.get("id"),
        )

    def delete_contact(self, contact_id: str) -> None:
        """Delete the record of a contact that no longer exists."""
        self.execute("DELETE FROM users WHERE id = ?", contact_id)

    def save(self, upload: Upload, contact_id: str) -> None:
        """Save an accepted user, replacing other records of the same contact.

        A user may have a user_id in one file and only an e-mail address in another. If both records
        were kept, the older one would hide changes made by the other file.
        """
        if not self.has_marker:
            self.execute(
                "INSERT OR REPLACE INTO users VALUES (?, x'', NULL, NULL)",
                self.key(ACCEPTED_MARKER),
            )
            self.has_marker = True
        if contact_id:
            self.delete_contact(contact_id)
        email_key = None
        if "email" in upload.user:
            email_key = self.key(f"email={upload.user['email'].lower()}")
        self.execute(
            "INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?)",
            self.key(identity_key(upload.user)),
            upload.digest,
            contact_id or None,
            email_key,
        )


def open_state(settings: Settings, *, write: bool) -> SyncState | None:
    """Open the state file if skip_unchanged is on and, when read-only, the file exists."""
    if not settings.intercom.skip_unchanged:
        return None
    if not write:
        try:
            # SQLite creates an empty file before it writes to it.
            exists = Path(settings.intercom.state_file).stat().st_size > 0
        except (OSError, ValueError):
            exists = False
        if not exists:
            return None
    return SyncState(settings, write=write)


def load_remembered(upload: Upload, state: SyncState, settings: Settings) -> bool:
    """Load the contact's id, and return whether the user is unchanged since it was last sent."""
    upload.digest = hashlib.sha256(JSON_ENCODER.encode(upload.user).encode()).digest()
    remembered = state.load(upload.user)
    if settings.uses_contacts and not upload.contact_id:
        upload.contact_id = remembered.contact_id
    # `new_session` is an event and not data: the same row means another session each time.
    if any(upload.user.get(name) for name in FIELDS_WITH_SIDE_EFFECTS):
        return False
    return remembered.digest == upload.digest


#### Logging and notices

TIME_IN_NAME = "%Y-%m-%dT%H-%M-%S"  # without colons, which Windows doesn't allow
# Only these files are ever removed; other files in the folder aren't ours.
LOG_NAME = r"([0-9-]{10}T[0-9-]{8})(-\d+)?_(debug|error)\.log"
NOTICE_TIMEOUT = 10.0  # seconds in total, including DNS lookups
NOTICE_ATTEMPTS = 3
NOTICE_PAUSES = (1.0, 4.0)  # seconds after the first and the second attempt
MIN_ATTEMPT_TIME = 1.0  # seconds
MAX_NOTICE_LENGTH = 8000  # characters; Hipchat allows 10,000
MAX_NOTICE_LINE = 2000
# Lines at the end that are never omitted: they say where the rest is.
NOTICE_TAIL_LINES = 4
# Slack's messages have no color, so an emoji shows at a glance how a run ended.
EMOJI = {
    "green": ":white_check_mark:",
    "red": ":x:",
    "yellow": ":hourglass_flowing_sand:",
}
SERVICES = ("Hipchat", "Slack")
COLORS = {"green": "\x1b[32m", "yellow": "\x1b[33m", "red": "\x1b[31m"}


def echo(text: object, stream: TextIO | None, color: str = "") -> None:
    """Print a line, in color on a terminal. Ignore a closed stream."""
    line = redact(text)
    if color and uses_color(stream):
        line = f"{COLORS[color]}{line}\x1b[0m"
    try:
        with progress_line_hidden(stream):
            print(line, file=stream or io.StringIO(), flush=True)
    except (OSError, ValueError):
        # The terminal or the reader of the pipe is gone. The import matters more than its output.
        discard_stream(stream)


def uses_color(stream: TextIO | None) -> bool:
    """Return whether the stream is a terminal that shows colors (https://no-color.org)."""
    if not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return False
    # Older Windows consoles show escape codes as text. Windows Terminal, which supports them, sets
    # this variable.
    return os.name != "nt" or "WT_SESSION" in os.environ


def is_terminal(stream: TextIO | None) -> bool:
    try:
        return bool(stream and stream.isatty() and os.environ.get("TERM") != "dumb")
    except ValueError:  # it is closed
        return False


def discard_stream(stream: Any) -> None:
    """Redirect a broken stream to the null device, so that Python doesn't fail to flush it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def create_unique(folder: str | Path, name: str, suffix: str) -> Path:
    """Create a new file with a unique name, and the folder if needed. Return the file's path."""
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{suffix}"
    number = 1
    while True:
        try:
            # Unlike a check for its existence beforehand, this can't give two runs the same file.
            path.open("x").close()
            return path
        except FileExistsError:
            number += 1
            path = folder / f"{name}-{number}{suffix}"


# Many lines are logged per second, and strftime is slower than formatting the rest of a line.
@lru_cache(1)
def format_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(second))


class RedactingFormatter(logging.Formatter):
    """Formats each record as one redacted line; the lines of a traceback are prefixed."""

    def format(self, record: logging.LogRecord) -> str:
        timestamp = f"{format_second(int(record.created))}.{int(record.msecs):03}"
        lines = [f"{timestamp} {record.levelname} {redact(record.getMessage())}"]
        if record.exc_info:
            # Lines are marked, so an exception's message can't be mistaken for a log line.
            trace = self.formatException(record.exc_info)
            lines += [f"    | {redact(line)}" for line in trace.split("\n")]
        return "\n".join(lines)


class ConsoleHandler(logging.Handler):
    """Prints warnings and errors if there are no log files."""

    def emit(self, record: logging.LogRecord) -> None:
        echo(self.format(record), sys.stderr)


CONSOLE_HANDLER = ConsoleHandler(logging.WARNING)


class LogFileHandler(logging.FileHandler):
    """A log file that reports a write error once and lets the run continue."""

    def handleError(self, record: logging.LogRecord) -> None:
        # logging would print a traceback here, once for every later record.
        logging.getLogger().removeHandler(self)
        error = sys.exc_info()[1]
        reason = getattr(error, "strerror", None) or error
        echo(
            f"export_csv.py: can't write to the log {self.baseFilename}: {reason}; "
            "the import continues without it",
            sys.stderr,
        )
        discard_stream(self.stream)


def open_logs(settings: Settings, started: datetime) -> Path | None:
    """Open the log files. Return the error log's path, or None if logs go to the console.

    Raise RunAborted if they can't be created.
    """
    # The libraries' warnings go to the same files, but not their debug messages: urllib3 and
    # botocore log whole requests, tokens included.
    root = logging.getLogger()
    log.setLevel("DEBUG")
    if not settings.log.use_logs:
        CONSOLE_HANDLER.setFormatter(RedactingFormatter())
        root.addHandler(CONSOLE_HANDLER)
        return None
    stamp = f"{started:{TIME_IN_NAME}}"
    try:
        debug_log = create_unique(settings.log.folder, stamp, "_debug.log")
        error_log = create_unique(settings.log.folder, stamp, "_error.log")
        handlers = [
            LogFileHandler(path, encoding="utf-8") for path in (debug_log, error_log)
        ]
    except OSError as error:
        raise RunAborted(
            f"can't write to [log] folder {settings.log.folder}: {error.strerror}"
        ) from None
    handlers[1].setLevel("WARNING")
    for handler in handlers:
        handler.setFormatter(RedactingFormatter())
        root.addHandler(handler)
    return error_log


def remove_old_logs(settings: Settings, now: datetime) -> None:
    """Delete logs older than [log] keep_days, judging by the time in their names."""
    try:
        for path in sorted(Path(settings.log.folder).iterdir()):
            written = parse_log_time(path.name)
            if not written:
                continue
            # The times in the names are in whole seconds. With keep_days = 0, a fraction of a
            # second would make this run's own logs too old.
            age = now.replace(microsecond=0) - written
            if age / timedelta(days=1) > settings.log.keep_days and path.is_file():
                path.unlink()
                log.debug("removed %s (older than [log] keep_days)", path.name)
    except OSError as error:
        log.warning("can't remove old logs: %s", error)


def parse_log_time(name: str) -> datetime | None:
    """Return the time in the name of one of our logs, or None for any other name."""
    match = re.fullmatch(LOG_NAME, name)
    if not match:
        return None
    try:
        return datetime.strptime(match[1], TIME_IN_NAME)
    except ValueError:
        # 2026-13-40T00-00-00 matches, but isn't a date.
        return None


@dataclass(frozen=True)
class NoticeRequest:
    """A notice in the form that a chat service expects."""

    service: str
    url: str
    content_type: str
    body: str


def hipchat_request(settings: Settings, text: str, color: str) -> NoticeRequest:
    """Return the request for API version 1 of Hipchat.

    Hipchat itself was shut down in 2019; api_url is for servers that still support its API.
    """
    query = {"format": "json", "auth_token": settings.hipchat.api_key}
    form = {
        "room_id": settings.hipchat.room_id,
        "from": settings.hipchat.sender,
        # Break mentions: a reason may contain "@all", which would notify everybody in the room.
        # (The @ in an e-mail address isn't a mention.)
        "message": re.sub(r"(?<!\w)@", "@ ", text),
        "message_format": "text",
        "color": color,
    }
    return NoticeRequest(
        "Hipchat",
        f"{settings.hipchat.api_url.rstrip('/')}/rooms/message?{urlencode(query)}",
        "application/x-www-form-urlencoded",
        urlencode(form),
    )


def slack_request(settings: Settings, text: str, color: str) -> NoticeRequest:
    """Return the request for an incoming webhook.

    https://docs.slack.dev/messaging/formatting-message-text#escaping
    """
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    message = {"text": f"{EMOJI[color]} {escaped}"}
    for key in ("channel", "username", "icon_url", "icon_emoji"):
        if value := getattr(settings.slack, key):
            message[key] = value
    return NoticeRequest(
        "Slack", settings.slack.webhook_url, "application/json", json.dumps(message)
    )


def is_delivered(response: Response | NoResponse) -> bool:
    """Return whether the chat service itself accepted the notice.

    Captive portals return 200 with a page. Slack's API, and servers that imitate it, report errors
    as 200 with {"ok": false}.
    """
    if isinstance(response, NoResponse) or not 200 <= response.status < 300:
        return False
    if response.json.get("ok") is False or response.json.get("success") is False:
        return False
    # Slack's "ok" is text/html too, but contains no tag.
    is_page = response.content_type == "text/html" and b"<" in response.body
    return not is_page and not response.body.lstrip().startswith(b"<")


def describe_notice_response(response: Response | NoResponse) -> str:
    if isinstance(response, NoResponse):
        return response.reason
    return response.describe_foreign()


class NoticeDelivery:
    """Delivers one notice in a separate thread, with up to three attempts.

    The thread is abandoned if a DNS lookup hangs, because getaddrinfo can't be interrupted.
    """

    def __init__(self, request: NoticeRequest, stop: StopSignal) -> None:
        self.request = request
        self.stop = stop
        self.deadline = time.monotonic() + NOTICE_TIMEOUT
        self.failure = f"no response within {NOTICE_TIMEOUT:.0f} seconds"
        self.is_delivered = False
        self.thread = threading.Thread(target=self.deliver, daemon=True)
        self.thread.start()

    def deliver(self) -> None:
        try:
            self.deliver_with_retries()
        except Exception as error:  # the notice is less important than the run
            self.failure = describe_unexpected(error)

    def deliver_with_retries(self) -> None:
        client = HttpClient(
            self.request.url, {"Content-Type": self.request.content_type}
        )
        for attempt in range(1, NOTICE_ATTEMPTS + 1):
            response = client.request(
                "POST",
                self.request.url,
                self.request.body.encode(),
                timeout=self.seconds_for(attempt),
                fresh=True,  # the service may have closed the connection during the pause
            )
            if is_delivered(response):
                self.is_delivered = True
                return
            self.failure = describe_notice_response(response)
            log.warning(
                "%s notice failed (attempt %d of %d): %s",
                self.request.service,
                attempt,
                NOTICE_ATTEMPTS,
                self.failure,
            )
            if attempt == NOTICE_ATTEMPTS or not self.pause(attempt, response):
                return

    def seconds_for(self, attempt: int) -> float:
        """Return how long an attempt may take, leaving time for the ones after it.

        Without any response, the attempts end after 2.5, 4.75 and 10 seconds.
        """
        time_left = self.deadline - time.monotonic()
        share = time_left - sum(NOTICE_PAUSES[attempt - 1 :])
        if attempt < NOTICE_ATTEMPTS:
            share /= 2
        return max(share, min(time_left, MIN_ATTEMPT_TIME))

    def pause(self, attempt: int, response: Response | NoResponse) -> bool:
        """Wait before the next attempt; return False if there is none.

        After a signal, there is only one attempt, because whatever sent it is waiting for the
        process to exit.
        """
        seconds = NOTICE_PAUSES[attempt - 1]
        if isinstance(response, Response):
            seconds = max(seconds, seconds_of_retry_after(response))
        due = time.monotonic() + seconds
        if due >= self.deadline:
            return False
        while not self.stop.signum and (left := due - time.monotonic()) > 0:
            time.sleep(min(POLL_INTERVAL, left))
        return not self.stop.signum

    def wait(self, *, is_end_notice: bool) -> bool:
        """Wait until the notice is delivered or has failed; return whether it was delivered.

        Unless `is_end_notice`, stop waiting as soon as the run has to stop.
        """
        while self.thread.is_alive() and time.monotonic() < self.deadline:
            # The start notice isn't worth delaying the end of the run.
            if self.stop.is_set() and not is_end_notice:
                self.failure = "the run stopped before there was a response"
                break
            self.thread.join(POLL_INTERVAL)
        return self.is_delivered


def fit_notice(lines: list[str]) -> str:
    """Return the text of a notice. If it is too long, lines before the last few are omitted."""
    shown = [shorten(redact(line), MAX_NOTICE_LINE) for line in lines]
    # The first line always stays: it says how the run ended.
    while (
        len("\n".join(shown)) > MAX_NOTICE_LENGTH and len(shown) > NOTICE_TAIL_LINES + 1
    ):
        del shown[-NOTICE_TAIL_LINES - 1]
    return shorten("\n".join(shown), MAX_NOTICE_LENGTH)


def notify(
    settings: Settings,
    lines: list[str],
    color: str,
    stop: StopSignal,
    *,
    services: Iterable[str] = SERVICES,
    is_end_notice: bool = True,
    stream: TextIO | None = None,
) -> bool:
    """Post to Hipchat and Slack if enabled; return whether all succeeded.

    Failures are printed (to standard error, or `stream`) and logged, but never raised.
    """
    text = fit_notice(lines)
    # Both are sent at the same time: if neither responds, it takes ten seconds, not twenty.
    deliveries = []
    if settings.hipchat.use_hipchat and "Hipchat" in services:
        deliveries.append(NoticeDelivery(hipchat_request(settings, text, color), stop))
    if settings.slack.use_slack and "Slack" in services:
        deliveries.append(NoticeDelivery(slack_request(settings, text, color), stop))
    all_delivered = True
    for delivery in deliveries:
        if not delivery.wait(is_end_notice=is_end_notice):
            all_delivered = False
            echo(
                f"export_csv.py: {delivery.request.service} notice failed: {delivery.failure}",
                stream or sys.stderr,
            )
    return all_delivered


#### Progress

REDRAW_INTERVAL = 0.25  # seconds; a shorter one would only waste time
DEFAULT_COLUMNS = 80  # if the width of the terminal is unknown
FINISHING = (
    "finishing the current request... press Ctrl-C again to abort "
    "(remaining rows won't be saved)"
)


@dataclass
class ProgressState:
    """The contents of the progress line, set by the main thread and drawn by another."""

    phase: str = "reading"
    done: int = 0  # rows
    total: int = 0  # rows; 0 while it isn't known
    share: float = 0.0  # of the file that has been read; used until `total` is known
    not_imported: int = 0
    started: float = field(default_factory=time.monotonic)  # of the phase
    waiting: dict[int, RetryStatus] = field(default_factory=dict)

    def parts(self, now: float) -> list[str]:
        """Return the parts to show, the most important one first."""
        seconds = max(0.001, now - self.started)
        share = self.share
        if self.total:
            share = self.done / self.total
        if self.phase == "reading":
            return [f"reading {share:4.0%}", f"{self.done:,} rows"]
        parts = [f"sending {share:4.0%}", f"{self.done:,} of {self.total:,}"]
        parts.append(f"{self.done / seconds:.1f} users/s")
        if self.done:  # otherwise, the time left is unknown
            # From the rate so far, including pauses for retries and rate limits.
            left = timedelta(seconds=round(seconds / share - seconds))
            parts.append(f"{left} left")
        parts.append(f"{self.not_imported:,} not imported")
        # Copied, because worker threads keep changing it. There is only room for the next retry.
        retries = sorted(self.waiting.copy().values(), key=lambda retry: retry.due)
        if retries:
            retry = retries[0]
            seconds_left = max(0, math.ceil(retry.due - now))
            parts.append(
                f"retry {retry.number} of {retry.limit} in {seconds_left} s: {redact(retry.reason)}"
            )
        return parts


class ProgressLine:
    """One line on a terminal, redrawn by a thread, so a blocked terminal doesn't delay requests.

    (Ctrl-S blocks a terminal, and so does a hanging ssh connection.)
    """

    shown: ClassVar[ProgressLine | None] = None  # the one that is currently shown

    def __init__(self, stop: StopSignal, *, is_wanted: bool) -> None:
        self.stop = stop
        self.state = ProgressState()
        # A pipe or a log file would collect thousands of these lines.
        self.is_shown = is_wanted and is_terminal(sys.stderr)
        self.has_announced_stop = False
        self.lock = threading.Lock()  # held while anything is printed to the terminal
        self.finished = threading.Event()
        self.thread: threading.Thread | None = None
        if self.is_shown:
            ProgressLine.shown = self
            # Unlike sys.stderr.write(), os.write() has no buffer, and no lock that a blocked write
            # would keep holding.
            self.descriptor = sys.stderr.fileno()
            self.thread = threading.Thread(target=self.redraw_forever, daemon=True)
            self.thread.start()

    def start_sending(self, total: int, waiting: dict[int, RetryStatus]) -> None:
        # A new object, so that the drawing thread never sees a partial update.
        self.state = ProgressState("sending", total=total, waiting=waiting)

    def redraw_forever(self) -> None:
        # Wait first, so that the line doesn't flash up in a run of a few milliseconds.
        while not self.finished.wait(REDRAW_INTERVAL):
            with self.lock:
                self.announce_stop()
                self.write("  ".join(self.state.parts(time.monotonic())))
        with self.lock:
            self.write("")

    def announce_stop(self) -> None:
        """After Ctrl-C, print once what the run is waiting for.

        The signal handler can't do this: it only sets attributes.
        """
        # While the file is being read, nothing is in flight, so the run stops almost at once.
        is_waiting = self.stop.signum == signal.SIGINT and self.state.phase == "sending"
        if not is_waiting or self.has_announced_stop:
            return
        self.has_announced_stop = True
        self.write("")
        with contextlib.suppress(OSError):
            os.write(self.descriptor, f"{FINISHING}\n".encode())

    def write(self, text: str) -> None:
        """Replace the line. Spaces clear it, because old Windows consoles lack escape codes.

        A retry's reason may contain a page's title in any language, but only ASCII characters are
        guaranteed to take one column each.
        """
        # Many terminals wrap a line that fills the last column.
        width = self.columns() - 1
        line = text[:width].ljust(width)
        # The cursor returns to the start, so that whatever is printed next replaces the line.
        with contextlib.suppress(OSError):
            os.write(self.descriptor, f"\r{line}\r".encode("ascii", "replace"))

    def columns(self) -> int:
        """Return the width of the terminal, which may change during the run."""
        try:
            # Serial consoles and some terminals in containers report a width of 0.
            return os.get_terminal_size(self.descriptor).columns or DEFAULT_COLUMNS
        except OSError:
            return DEFAULT_COLUMNS

    def close(self) -> None:
        """Clear the line, but wait at most a second for a blocked terminal."""
        self.finished.set()
        # From here on, `echo` doesn't wait for the lock, which a blocked write may still hold.
        ProgressLine.shown = None
        if self.thread:
            self.thread.join(timeout=1.0)
            self.thread = None


@contextlib.contextmanager
def progress_line_hidden(stream: TextIO | None) -> Iterator[None]:
    """Clear the progress line while something else is printed to the terminal."""
    progress = ProgressLine.shown
    # Redirected output doesn't go to the terminal, so the line may stay.
    if progress is None or not is_terminal(stream):
        yield
        return
    # The lock keeps the line from being redrawn in the middle of the output.
    with progress.lock:
        progress.write("")
        yield


#### Row counts and reject file

MAX_CATEGORIES = 10  # of reasons in the summary; the others are counted together
OTHER_REASONS = "other reasons"
FLUSH_INTERVAL = 1.0  # seconds after which rejected rows are on disk
MAX_REJECT_NAME = 150  # bytes of the input's name; most file systems allow 255 in all
# Matches the end of a reject file's name: the time of the run, and a number if two runs began in
# the same second.
TIME_AT_END = r"_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(-\d+)?$"
FORBIDDEN_IN_NAMES = r'[<>:"/\\|?*\x00-\x1f]'  # on Windows
# A cell that a spreadsheet treats as a formula:
# https://owasp.org/www-community/attacks/CSV_Injection
# (also after a semicolon, which separates the cells of .csv files in many locales)
FORMULA_START = re.compile("(^\\s*|;)(?=[=+@\uff1d\uff0b\uff0d\uff20-])")


@dataclass
class RowCounts:
    """Counts rows by outcome: rows = imported + unchanged + not_imported, always."""

    imported: int = 0
    unchanged: int = 0
    not_imported: int = 0
    # The number of rows that were not imported, by category.
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def processed(self) -> int:
        return self.imported + self.unchanged + self.not_imported

    def reject(self, category: str, rows: int = 1) -> None:
        """Count rows that are not imported."""
        self.not_imported += rows
        # Each of Intercom's messages is a category, but a notice has room for only a few.
        if category not in self.reasons and len(self.reasons) >= MAX_CATEGORIES:
            category = OTHER_REASONS
        self.reasons[category] += rows


def reject_name(file: InputFile, folder: Path, started: datetime) -> str:
    """Return the reject file's name without .csv, such as users_2026-11-01T09-00-00."""
    name = export_name(file.name) or file.name
    # realpath(), because the same folder may be reached through `..` or a symbolic link.
    if os.path.realpath(Path(file.location).parent) == os.path.realpath(folder):
        # The input is itself a reject file, whose name must not grow with each run.
        name = re.sub(TIME_AT_END, "", name)
    name = re.sub(FORBIDDEN_IN_NAMES, "-", name)
    # Truncated by bytes, because 150 characters may take 600. A split character is dropped.
    name = name.encode(errors="replace")[:MAX_REJECT_NAME].decode(errors="ignore")
    return f"{name}_{started:{TIME_IN_NAME}}"


def find_line_ending(raw: bytes, encoding: str) -> bytes:
    """Return the line ending of a row, or b"" if it has none (only the last row of a file).

    The decoded text is searched, because a line ending consists of different bytes in UTF-16, and
    because in unicode_escape, its bytes may differ from those that the codec would write.
    """
    text = raw.decode(encoding, "replace")
    for ending in ("\r\n", "\n", "\r"):
        if text.endswith(ending):
            return ending.encode(encoding)
    return b""


class RejectStreams(NamedTuple):
    """The open files for the rejected rows and for the reasons."""

    rows: BinaryIO
    reasons: TextIO


class RejectSizes(NamedTuple):
    """The size of the complete rows on disk, in bytes, for each file."""

    rows: int = 0
    reasons: int = 0


class RejectFile:
    """The rows that are not imported, as they are in the input, and a file with the reasons.

    The rows are the input's bytes: encoding the decoded text again would change it in cp932 or
    utf-7, which have several encodings of the same character.

    Both files are created with the first row, so they are never empty. Rows are on disk within a
    second of being added, so kill -9 loses at most the last second's rows. If they can't be
    written, `first_lost_line` is the line of the first row that is only in the input.
    """

    def __init__(
        self, file: InputFile, table: CsvTable, settings: Settings, started: datetime
    ):
        self.folder = Path(settings.csv.not_imported_folder).absolute()
        self.name = reject_name(file, self.folder, started)
        self.encoding = table.reader.encoding
        self.header = table.reader.bom + table.heading_raw
        self.path: Path | None = None
        self.reasons_path: Path | None = None
        self.streams: RejectStreams | None = None
        self.is_line_open = False  # the last row written has no line ending
        # The lowest lines of the rows that were added. Rows may be added out of order if several
        # are in flight at once.
        self.first_line: int | None = None
        self.first_unflushed_line: int | None = None
        self.first_lost_line: int | None = None
        self.sizes = RejectSizes()
        self.flushed_at = 0.0

    def add(self, row: Row, user: str = "", reason: str = "") -> None:
        """Append a row and its reason, if any. Raise RunAborted if that fails."""
        if self.first_lost_line:
            # With a gap in the file, it would be unclear which rows are only in the input.
            self.first_lost_line = min(self.first_lost_line, row.line)
            return
        self.first_line = min(self.first_line or row.line, row.line)
        self.first_unflushed_line = min(self.first_unflushed_line or row.line, row.line)
        try:
            streams = self.streams or self.create()
            self.write_row(streams.rows, row.raw)
            if reason:
                write_reason(streams.reasons, str(row.line), user, reason)
            self.flush_if_due()
        except (OSError, ValueError) as error:
            self.give_up(error)

    def write_row(self, stream: BinaryIO, raw: bytes) -> None:
        """Write a row unchanged, on a separate line.

        The last row of the input may lack its line ending, and need not be the last one here:
        others in flight at the same time may be rejected after it.
        """
        ending = find_line_ending(raw, self.encoding)
        if self.is_line_open:
            stream.write(ending or "\n".encode(self.encoding))
        stream.write(raw)
        self.is_line_open = not ending

    def flush_if_due(self) -> None:
        """Write buffered data once a second. Raise RunAborted if that fails."""
        if self.first_unflushed_line is None or self.first_lost_line:
            return
        if time.monotonic() - self.flushed_at < FLUSH_INTERVAL:
            return
        try:
            self.flush()
        except (OSError, ValueError) as error:
            self.give_up(error)

    def create(self) -> RejectStreams:
        """Create both files, with their headings."""
        path = create_unique(self.folder, self.name, ".csv")
        reasons_path = path.with_name(f"{path.stem}_reasons.csv")
        self.path = path
        self.reasons_path = reasons_path
        rows = path.open("wb")
        try:
            # Excel recognizes UTF-8 only if the file begins with a byte-order mark.
            reasons = reasons_path.open("w", encoding="utf-8-sig", newline="")
        except OSError:
            rows.close()  # Windows can't remove an open file
            raise
        self.streams = RejectStreams(rows, reasons)
        rows.write(self.header)
        csv.writer(reasons).writerow(["line", "user", "reason"])
        return self.streams

    def add_reason_for_rest(self, first_line: int, last_line: int, reason: str) -> None:
        """Add a single reason for all rows that the run never reached."""
        if self.streams is None or self.first_lost_line:
            return
        # Not 3-12, which a spreadsheet would show as the third of December.
        lines = f"lines {first_line} to {last_line}"
        if first_line == last_line:
            lines = str(first_line)
        try:
            write_reason(self.streams.reasons, lines, "", reason)
        except (OSError, ValueError) as error:
            self.first_unflushed_line = self.first_unflushed_line or first_line
            self.give_up(error)

    def flush(self) -> None:
        """Write buffered data. Raise OSError if that fails, or if the file was deleted."""
        if self.streams is None or self.path is None:
            return
        for stream in self.streams:
            stream.flush()
        self.flushed_at = time.monotonic()
        if not self.path.exists():
            # Writing to a deleted file succeeds silently, but the rows already written are gone
            # too.
            self.first_unflushed_line = self.first_line
            raise FileNotFoundError(
                errno.ENOENT, f"{self.path.name} was deleted during the run"
            )
        sizes = [os.fstat(stream.fileno()).st_size for stream in self.streams]
        self.sizes = RejectSizes(*sizes)
        self.first_unflushed_line = None

    def give_up(self, error: OSError | ValueError) -> NoReturn:
        """Remove incomplete rows, and raise RunAborted."""
        # All rows up to the last flush are on disk; later ones are cut off below.
        self.first_lost_line = self.first_unflushed_line or self.first_line
        self.close_quietly()
        with contextlib.suppress(OSError):
            self.truncate()
        reason = getattr(error, "strerror", None) or error
        raise RunAborted(
            f"can't write to [csv] not_imported_folder {self.folder}: {reason}"
        )

    def truncate(self) -> None:
        """Cut both files after the last complete row: half a row could look like a whole one."""
        if self.path is None or self.reasons_path is None:
            return
        if self.sizes.rows:
            os.truncate(self.path, self.sizes.rows)
            os.truncate(self.reasons_path, self.sizes.reasons)
        else:
            self.remove()

    def remove(self) -> None:
        for path in (self.path, self.reasons_path):
            if path:
                path.unlink(missing_ok=True)

    def close_quietly(self) -> None:
        for stream in self.streams or ():
            with contextlib.suppress(OSError, ValueError):
                stream.close()

    def close(self) -> None:
        """Write everything to disk. Raise RunAborted if that fails."""
        if self.streams is None or self.first_lost_line:
            return
        try:
            self.flush()
            for stream in self.streams:
                # A full network disk may be reported only here.
                os.fsync(stream.fileno())
                stream.close()
        except OSError as error:
            self.give_up(error)

    def discard(self) -> None:
        """Remove both files. (No request was sent, so the input still has all rows.)"""
        self.close_quietly()
        self.remove()
        self.path = None
        self.streams = None

    def location_lines(self) -> list[str]:
        """Return lines that show where the rejected rows are."""
        lines = []
        if self.first_lost_line:
            lines.append(
                f"rows from line {self.first_lost_line} on could not be saved and are only in the "
                "input file"
            )
        if self.path and self.path.exists():
            lines.append(f"rows not imported: {self.path}")
            lines.append(f"reasons: {self.reasons_path}")
        return lines


def write_reason(stream: TextIO, line: str, user: str, reason: str) -> None:
    csv.writer(stream).writerow([line, safe_cell(user), safe_cell(reason)])


def safe_cell(text: str) -> str:
    """Escape text so that no spreadsheet treats it, or part of it, as a formula."""
    return FORMULA_START.sub(r"\1'", redact(text))


def save_whole_input(file: InputFile, settings: Settings, started: datetime) -> Path:
    """Save all data from a pipe, which can't be read again. Return the file's path.

    Raise OSError if that fails.
    """
    folder = Path(settings.csv.not_imported_folder).absolute()
    file.copy.seek(0)
    is_gzip = file.copy.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.copy.seek(0)
    name = reject_name(file, folder, started)
    path = create_unique(folder, name, ".csv.gz" if is_gzip else ".csv")
    try:
        with path.open("wb") as target:
            shutil.copyfileobj(file.copy, target, COPY_CHUNK)
    except OSError:
        path.unlink()  # part of it could be mistaken for the whole
        raise
    return path


#### Sending

# The run stops if something between this machine and Intercom rejects this many consecutive users.
# A firewall that blocks a word in one user's data must not stop a run; one that blocks every user
# must.
MAX_BLOCKED_IN_A_ROW = 100
# If all of the first users are rejected, the settings don't match the workspace. The limit is
# higher if Intercom has accepted users before: otherwise, with skip_unchanged, 100 rows that it
# always rejects would stop every later run before it reached the changed users after them in the
# file.
FIRST_USERS = 100
FIRST_USERS_IF_ACCEPTED_BEFORE = 1000
MIN_USERS_ALL_REJECTED = 5  # for shorter files: fewer may all be rejected by chance
# Seconds after the grace period until the run stops waiting for a hanging request, because a DNS
# lookup can't be interrupted.
ABANDON_AFTER = 30
EARLIER_ROW_FAILED = "an earlier row for the same user was not imported"
# Writing a log line takes longer than anything else done for an unchanged row, so several rows
# share one.
UNCHANGED_PER_LOG_LINE = 20
# The preflight could still read these rows, but then the disk with the temporary copy failed.
UNREADABLE_ROWS = "the copy of the input could not be read again"


class IdentityIndex:
    """A set of users that are compared by Intercom's rules.

    Two rows are for the same user if they have the same user_id or id, or if they have the same
    e-mail address and at least one of them has no user_id. Users with different user_ids may share
    an address, such as noreply@example.com; they don't affect each other.
    """

    def __init__(self) -> None:
        self.user_ids: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.emails: Counter[str] = Counter()
        self.emails_without_user_id: Counter[str] = Counter()
        # The combinations of identity fields that the users have.
        self.kinds: Counter[frozenset[str]] = Counter()

    def add(self, user: UserPayload) -> None:
        self.change_counts(user, 1)

    def remove(self, user: UserPayload) -> None:
        self.change_counts(user, -1)

    def change_counts(self, user: UserPayload, change: int) -> None:
        if "user_id" in user:
            change_count(self.user_ids, user["user_id"], change)
        if "id" in user:
            change_count(self.ids, user["id"], change)
        if "email" in user:
            address = user["email"].lower()
            change_count(self.emails, address, change)
            if "user_id" not in user:
                change_count(self.emails_without_user_id, address, change)
        change_count(self.kinds, identity_fields_of(user), change)

    def contains(self, user: UserPayload) -> bool:
        """Return whether the user is in the set."""
        if user.get("user_id") in self.user_ids or user.get("id") in self.ids:
            return True
        if "email" not in user:
            return False
        emails = self.emails
        # If both rows have a user_id, only these are compared, never the addresses.
        if "user_id" in user:
            emails = self.emails_without_user_id
        return user["email"].lower() in emails

    def may_contain(self, user: UserPayload) -> bool:
        """Return whether the user is in the set, or may be.

        A user may be in the set if it can't be compared with one there, because the two have no
        identity field in common. For example, three rows with user_id and e-mail, only user_id, and
        only e-mail may all be for one user. While the second is in flight, only the first row,
        which may already be done, shows that the third is for the same user.
        """
        if self.contains(user):
            return True
        kinds = identity_fields_of(user)
        return any(kinds.isdisjoint(other_kinds) for other_kinds in self.kinds)


def change_count(counter: Counter[Any], key: object, change: int) -> None:
    counter[key] += change
    if counter[key] == 0:
        del counter[key]  # a run may see millions of users


def identity_fields_of(user: UserPayload) -> frozenset[str]:
    return frozenset(name for name in IDENTITY_FIELDS if name in user)


class OutageDetector:
    """Distinguishes failures of single users from failures that affect every user.

    One row that always fails must not block the rows after it, several such rows must not look like
    an outage, and in an outage, the run must not try every row 50 times.
    """

    def __init__(self) -> None:
        # Times are time.perf_counter() values. On Windows, time.monotonic() advances in steps of
        # 16 ms, in which a response and the next user's first attempt would seem simultaneous.
        self.last_useful_response = -math.inf
        # The latest first attempt for any user that used up its retries.
        self.latest_failed_start = -math.inf
        self.last_failure = ""  # the last response for the user that failed last

    def record_useful_response(self, now: float) -> None:
        """Record that Intercom accepted a user, or rejected one with its error list."""
        self.last_useful_response = now

    def record_failure(self, first_attempt: float, description: str) -> str:
        """Record a user that used up its retries; return a reason to stop the run, or "".

        The run stops at the second such user if there was no useful response since the first
        attempt for the first one. Two such rows among many accepted ones aren't an outage, even if
        they are close together in the file: with several users in flight, others succeed in the
        meantime.
        """
        # Both start at -inf, so the first failure alone is never an outage.
        is_outage = self.latest_failed_start > self.last_useful_response
        last_responses = description
        if self.last_failure not in ("", description):
            last_responses = f"{self.last_failure}; {description}"
        # With several users in flight, the one that began first may fail last.
        self.latest_failed_start = max(self.latest_failed_start, first_attempt)
        self.last_failure = description
        if not is_outage:
            return ""
        return (
            "Intercom is down or unreachable: two users used up their retries, and no other was "
            f"accepted in the meantime (last responses: {last_responses})"
        )


class RejectionDetector:
    """Detects settings that don't match the workspace and so get every row rejected.

    It also detects a firewall that rejects one user after another.
    """

    def __init__(self, settings: Settings, *, accepted_before: bool) -> None:
        self.settings = settings
        self.accepted_before = accepted_before
        self.users = 0
        self.rejected_users = 0  # with a status that may be caused by the settings
        self.has_id_field = False
        self.last_response = ""
        self.blocked_in_a_row = 0

    def record(
        self, upload: Upload, response: Response | NoResponse, verdict: Verdict
    ) -> str:
        """Record a user's last response; return a reason to stop the run, or ""."""
        self.users += 1
        if verdict is Verdict.BLOCKED:
            return self.record_blocked(response)
        self.blocked_in_a_row = 0
        # Intercom responds with these if the mapping doesn't match the workspace. A 409 is about
        # one contact.
        statuses = {400, 422}
        if "id" in upload.user:
            statuses.add(404)  # Intercom has no such id; it may be your product's
        if verdict is not Verdict.REJECTED or status_of(response) not in statuses:
            return ""
        self.rejected_users += 1
        self.has_id_field = "id" in upload.user
        self.last_response = describe_response(response)
        limit = FIRST_USERS
        if self.accepted_before:
            limit = FIRST_USERS_IF_ACCEPTED_BEFORE
        if self.rejected_users == self.users == limit:
            return self.explain(f"all of the first {limit:,} users")
        return ""

    def record_blocked(self, response: Response | NoResponse) -> str:
        self.blocked_in_a_row += 1
        if self.blocked_in_a_row < MAX_BLOCKED_IN_A_ROW:
            return ""
        return (
            f"{MAX_BLOCKED_IN_A_ROW} consecutive users were rejected by something "
            "between this machine and Intercom; check the firewall or proxy "
            f"({describe_response(response)})"
        )

    def reason_at_end(self) -> str:
        """Return why all users of a short file were rejected, or "" if they weren't."""
        # With skip_unchanged, the few users left may be those that Intercom always rejects.
        if self.accepted_before or self.rejected_users != self.users:
            return ""
        if not MIN_USERS_ALL_REJECTED <= self.users < FIRST_USERS:
            return ""
        return self.explain(f"all {self.users} users")

    def explain(self, which: str) -> str:
        advice = ""
        if not self.settings.uses_contacts:
            advice = USE_CONTACTS
        if self.has_id_field:
            advice += "; `id` is Intercom's own id: map your ids to user_id"
        return f"Intercom rejected {which}{advice} ({self.last_response})"


class FinishedUpload(NamedTuple):
    upload: Upload
    result: UpsertResult


class WorkerPool:
    """Threads that upsert users and queue the results, but never count, print or log outcomes.

    Unlike those of ThreadPoolExecutor, these are daemon threads: on exit, the process doesn't wait
    for a thread that is still in a DNS lookup.
    """

    def __init__(self, client: IntercomClient, size: int) -> None:
        self.client = client
        self.size = size
        self.started = 0
        self.uploads: queue.SimpleQueue[Upload] = queue.SimpleQueue()
        # Not a SimpleQueue, for the same reason as in run_in_background: the main thread waits here
        # with a timeout.
        self.results: queue.Queue[FinishedUpload] = queue.Queue()

    def submit(self, upload: Upload) -> None:
        """Queue a user. Raise RuntimeError if no thread can be started."""
        # Threads are started as needed: a file of three users takes three at most.
        if self.started < self.size:
            try:
                threading.Thread(target=self.work, daemon=True).start()
                self.started += 1
            except RuntimeError:
                # The account's thread limit is reached, so use only the threads that are running.
                if not self.started:
                    raise
                self.size = self.started
        self.uploads.put(upload)

    def work(self) -> None:
        while True:
            upload = self.uploads.get()
            try:
                result = Upsert(self.client, upload).run()
            except Exception as error:
                # Without a result, the run would wait for this user forever.
                result = UpsertResult(NoResponse(str(error)), error=error)
            self.results.put(FinishedUpload(upload, result))

    def next_result(self, timeout: float) -> FinishedUpload | None:
        """Return the next result, or None if there is none within `timeout` seconds."""
        try:
            return self.results.get(timeout=timeout)
        except queue.Empty:
            return None


class Sender:
    """Sends the users of a table, several at once if configured, and counts each row's outcome.

    Only the thread that calls `send_all` counts, logs outcomes and writes files. A row is
    `next_row` until its user is in flight. After that, it is either counted, or added to
    `unreached` if the run stopped before its request was sent. Therefore, no exception can cause a
    row to be counted twice or lost.
    """

    def __init__(
        self,
        table: CsvTable,
        client: IntercomClient,
        state: SyncState | None,
        counts: RowCounts,
        rejects: RejectFile,
        progress: ProgressLine,
    ) -> None:
        self.table = table
        self.client = client
        self.settings = client.settings
        self.stop = client.stop
        self.state = state
        self.counts = counts
        self.rejects = rejects
        self.progress = progress
        accepted_before = bool(state and state.remembers_accepted_users())

        self.rows = table.rows()
        self.is_read = False  # True once the whole file is read
        self.is_unreadable = False  # True if it can't be read after last_line_read
        self.last_line_read = 0
        self.next_row: Row | None = None
        self.next_upload: Upload | None = None  # of next_row, if it is a valid one
        self.in_flight: dict[Upload, None] = {}  # a set that keeps the order
        self.unreached: list[Row] = []
        self.unlogged: list[Upload] = []  # unchanged ones
        self.last_counted_line = 0

        self.pool = WorkerPool(client, self.settings.intercom.concurrency)
        self.busy_users = IdentityIndex()
        self.failed_users = IdentityIndex()  # with a row that used up its retries
        self.outages = OutageDetector()
        self.rejections = RejectionDetector(
            self.settings, accepted_before=accepted_before
        )
        self.has_sent_user = False
        self.was_cut_short = False  # a user was not retried because the run stopped

    def send_all(self) -> None:
        """Send all users. Any error stops the run, but users in flight are finished."""
        # An exception must not escape from this loop: Intercom may still accept the users in
        # flight. If their results were never recorded, these rows would be missing from both the
        # counts and the reject file.
        while not self.is_finished():
            try:
                self.step()
            except Exception as error:
                self.stop.request(error)
        try:
            self.log_unchanged()
        except Exception as error:
            self.stop.request(error)

    def is_finished(self) -> bool:
        return not self.in_flight and (self.is_read or self.stop.is_set())

    def step(self) -> None:
        """Send the next user; if that isn't possible yet, wait for the next result."""
        # Results are handled first, so that each accepted user is in the state file at once.
        while self.in_flight and (finished := self.pool.next_result(timeout=0)):
            self.finish(finished)
        has_sent = self.has_room() and self.send_next()
        if not has_sent and self.in_flight:
            self.receive()
        self.progress.state.done = self.counts.processed
        self.progress.state.not_imported = self.counts.not_imported
        self.rejects.flush_if_due()

    def has_room(self) -> bool:
        """Return whether another user may be in flight."""
        if self.stop.is_set() or self.is_read:
            return False
        return len(self.in_flight) < self.settings.intercom.concurrency

    def send_next(self) -> bool:
        """Process the next row; return False if its user has to wait for one in flight."""
        if self.next_upload is None:
            self.read_next()
        upload = self.next_upload
        if upload is None:
            return True  # the row was counted immediately, or there is none
        if self.in_flight and self.busy_users.may_contain(upload.user):
            # If two rows for one user were in flight, they could arrive in any order. Later rows
            # wait too, because keeping all blocked rows would need unlimited memory.
            return False
        self.send_or_skip(upload)
        return True

    def read_next(self) -> None:
        """Read the next row; turn it into an upload, or reject it if it is invalid."""
        row = self.next_row = self.take_row()
        if row is None:
            self.is_read = True
            return
        try:
            mapped = map_row(row, self.table)
        except RowRejected as rejection:
            # Before `reject` counts it: if saving it fails, it must not be counted twice.
            self.forget_next_row()
            self.reject(row, rejection)
            return
        upload = Upload(row, mapped.user, contact_id=mapped.user.get("id", ""))
        for omitted in mapped.omitted:
            log_omitted(upload, omitted)
        self.next_upload = upload

    def take_row(self) -> Row | None:
        """Return the next row of the file, or None at its end."""
        try:
            row = next(self.rows, None)
        except Exception:
            # This has ended the iterator, so the next call would look like the end of the file.
            self.is_unreadable = True
            raise
        if row:
            self.last_line_read = row.line + row.line_count - 1
        return row

    def forget_next_row(self) -> None:
        """Make room for another row; the caller counts this one, or has submitted it."""
        self.next_row = None
        self.next_upload = None

    def send_or_skip(self, upload: Upload) -> None:
        """Send a user, unless it is unchanged, or an earlier row of the same user failed."""
        if self.failed_users.contains(upload.user):
            # The earlier row may be imported later, from the reject file, and would overwrite this
            # one. The same applies to later rows for this user.
            self.failed_users.add(upload.user)
            self.forget_next_row()
            self.reject(upload.row, RowRejected(EARLIER_ROW_FAILED))
            return
        if self.state:
            if load_remembered(upload, self.state, self.settings):
                self.count_unchanged(upload)
                return
            self.state.invalidate(upload.user)
        self.pool.submit(upload)  # if this raises, the row is still the next one
        self.forget_next_row()
        self.in_flight[upload] = None
        self.busy_users.add(upload.user)

    def receive(self) -> None:
        """Record the next result, if one arrives within POLL_INTERVAL."""
        self.log_unchanged()  # the result may be a long time coming
        if time.monotonic() > self.stop.deadline() + ABANDON_AFTER:
            # Their threads are stuck in a call that can't be interrupted, so stop waiting for them.
            for upload in list(self.in_flight):
                unanswered = NoResponse("no response, even long after the run stopped")
                self.finish(FinishedUpload(upload, UpsertResult(unanswered)))
            return
        finished = self.pool.next_result(POLL_INTERVAL)
        if finished:
            self.finish(finished)

    def finish(self, finished: FinishedUpload) -> None:
        """Record the result of a user that was in flight."""
        upload = finished.upload
        result = finished.result
        del self.in_flight[upload]
        self.busy_users.remove(upload.user)
        # Nothing was sent, so this row is one of those that the run never reached.
        if result.is_unsent:
            self.unreached.append(upload.row)
            return
        self.has_sent_user = True
        try:
            rejection = self.evaluate(upload, result)
        except Exception as error:
            # It is unknown whether Intercom has this user, so the row has to be kept.
            self.stop.request(error)
            rejection = RowRejected(RUN_STOPPED, f"{RUN_STOPPED}: {error}")
        # The row is counted first: writing the state or the reject file may fail.
        if rejection:
            self.reject(upload.row, rejection)
        else:
            self.count_imported(upload, result)
        # Even if the row was rejected, the contact that was remembered for it is gone.
        if self.state and result.stale_contact_id:
            self.state.delete_contact(result.stale_contact_id)
        if self.state and not rejection:
            self.state.save(upload, result.contact_id)

    def evaluate(self, upload: Upload, result: UpsertResult) -> RowRejected | None:
        """Return why a row was not imported, or None if Intercom accepted its user.

        Stop the run if every other user would get the same response.
        """
        if result.error:
            raise result.error  # as if it had happened in this thread
        verdict = self.verdict_of(result)
        may_try_again = verdict in (Verdict.RETRY, Verdict.WRONG_USER)
        if may_try_again and self.stop.is_set():
            # Not all retries were used, so this says nothing about the other users.
            self.was_cut_short = True
        elif reason := self.shared_failure(upload, result, verdict):
            self.stop.request(reason)
        if verdict is Verdict.ACCEPTED:
            return None
        return result.rejection or rejection_of(result.response, verdict)

    def verdict_of(self, result: UpsertResult) -> Verdict:
        # If even the first response is another user's, no response can be trusted.
        if result.has_wrong_first_response:
            return Verdict.FATAL
        if result.rejection:
            return Verdict.REJECTED
        # Once any user has been accepted, a 403 without an error list concerns only this row.
        some_accepted = self.counts.imported > 0 or self.rejections.accepted_before
        result.context.some_accepted = some_accepted
        return classify(result.response, result.context)

    def shared_failure(
        self, upload: Upload, result: UpsertResult, verdict: Verdict
    ) -> str:
        """Return why every other user would get the same response, or "" if they wouldn't."""
        response = result.response
        if verdict is Verdict.FATAL:
            return fatal_reason(response, self.settings)
        if verdict is Verdict.RETRY:
            # Later rows for this user must not be imported before this one: see `send_or_skip`.
            self.failed_users.add(upload.user)
            description = describe_response(response)
            reason = self.outages.record_failure(result.started, description)
            if reason:
                return reason
        # A rejection that the worker decided on follows a 409, which has an error list.
        is_rejected_by_intercom = verdict is Verdict.REJECTED and (
            result.rejection or has_error_list(response)
        )
        if verdict is Verdict.ACCEPTED or is_rejected_by_intercom:
            self.outages.record_useful_response(time.perf_counter())
        return self.rejections.record(upload, response, verdict)

    def count_imported(self, upload: Upload, result: UpsertResult) -> None:
        self.counts.imported += 1
        self.last_counted_line = max(self.last_counted_line, upload.row.line)
        log.debug("%s: accepted: %s", upload, describe_with_time(result.response))

    def count_unchanged(self, upload: Upload) -> None:
        self.forget_next_row()
        self.counts.unchanged += 1
        self.last_counted_line = max(self.last_counted_line, upload.row.line)
        self.unlogged.append(upload)
        if len(self.unlogged) >= UNCHANGED_PER_LOG_LINE:
            self.log_unchanged()

    def log_unchanged(self) -> None:
        """Log the unchanged rows that haven't been logged yet, all in one line."""
        uploads = self.unlogged
        # Emptied first: if logging fails, the next call must not fail again.
        self.unlogged = []
        if uploads:
            log.debug("%s: unchanged", ", ".join(map(str, uploads)))

    def reject(self, row: Row, rejection: RowRejected) -> None:
        """Count and save a row that is not imported, and log why."""
        # From the cells, because a row that can't be mapped has no user to name.
        user = identity_label(row, self.table)
        label = f"line {row.line} {user}".rstrip()
        self.log_unchanged()  # the rows before this one
        log.error("%s: not imported: %s", label, rejection)
        self.counts.reject(rejection.category)
        self.last_counted_line = max(self.last_counted_line, row.line)
        # Last, because it raises if the disk is full. By then, the row is counted.
        self.rejects.add(row, user, str(rejection))

    def is_complete(self) -> bool:
        """Return whether every row was fully processed, even if the run has stopped."""
        if self.next_row is None:
            # A signal during the last user's requests stops the run before it notices that there
            # are no more rows.
            self.next_row = next(self.remaining_rows(), None)
        if self.is_unreadable or self.was_cut_short:
            return False
        return not (self.next_row or self.unreached)

    def remaining_rows(self) -> Iterator[Row]:
        """Yield the rows that haven't been read yet, up to the first unreadable one."""
        try:
            while row := self.take_row():
                yield row
        except Exception as error:
            self.stop.request(error)

    def reject_unreached(self) -> None:
        """Save the rows that a stopped run never reached, with one reason for all of them.

        Some may come before rows that were sent, because users in flight wait for the rate limit in
        no particular order. They get separate reasons, because a range of lines would be wrong.
        """
        rows = sorted(self.unreached, key=lambda row: row.line)
        if self.next_row:
            rows.append(self.next_row)
        reason = f"{RUN_STOPPED}: {self.stop.describe()}"
        last_counted_line = self.last_counted_line
        first_line = 0
        last_line = 0
        count = 0
        # First the rows that were read but not sent, then the rest of the file.
        for row in itertools.chain(rows, self.remaining_rows()):
            try:
                # Only rows of `unreached` can come before a row that was counted.
                if row.line < last_counted_line:
                    self.reject(row, RowRejected(RUN_STOPPED, reason))
                    continue
                count += 1
                first_line = first_line or row.line
                last_line = row.line
                self.rejects.add(row)
            except RunAborted as error:
                # Continue counting. The reject file knows the first line that it couldn't save.
                self.stop.request(error)
        if count:
            log.error("line %d onwards: not imported (%s)", first_line, reason)
            self.counts.reject(RUN_STOPPED, count)
            self.rejects.add_reason_for_rest(first_line, last_line, reason)


def rejection_of(response: Response | NoResponse, verdict: Verdict) -> RowRejected:
    """Return why a row was not imported, from the last response."""
    if verdict is Verdict.WRONG_USER:
        return RowRejected(
            "the response was about another user",
            "the responses were about another user; Intercom may or may not have this one",
        )
    return RowRejected(response_category(response), describe_response(response))


def log_omitted(upload: Upload, omitted: OmittedCell) -> None:
    log.warning(
        "%s: column '%s' (%s): '%s' is %s; omitted",
        upload,
        omitted.mapping.heading,
        omitted.mapping.describe_type(),
        omitted.cell[:MAX_EXAMPLE_TEXT],
        omitted.reason,
    )


#### Summary

# A reason may list hundreds of settings. The counts still have to fit into the notice.
MAX_REASON_LENGTH = 1500  # characters


@dataclass
class ImportRun:
    """The state of one run."""

    settings: Settings
    problems: Problems
    config: Path
    arguments: argparse.Namespace
    started: datetime
    stop: StopSignal = field(default_factory=StopSignal)
    started_at: float = field(default_factory=time.monotonic)
    error_log: Path | None = None
    file: InputFile | None = None
    report: FileReport | None = None  # None before the preflight
    counts: RowCounts | None = None  # None if the run stopped before sending users
    rejects: RejectFile | None = None
    saved_input: Path | None = None  # all data that came through a pipe
    failure: str = ""  # why a run is incomplete even though it processed every row

    @property
    def quiet(self) -> bool:
        return bool(self.arguments.quiet)

    @property
    def is_file_from_command_line(self) -> bool:
        """Whether the file was named on the command line, not selected by [file]."""
        return bool(self.arguments.filename)

    def name(self) -> str:
        """Return the input's name, or "users" if the run stopped before there was one."""
        if self.file:
            return self.file.name
        return "users"


class Severity(NamedTuple):
    """How to show the outcome of a run."""

    color: str  # on a terminal
    level: int  # in the logs


SUCCESS = Severity("green", logging.INFO)
WARNING = Severity("yellow", logging.WARNING)
FAILURE = Severity("red", logging.ERROR)


@dataclass
class Summary:
    """The outcome of a run, for console, logs and notices."""

    status: int
    headline: str  # without the reason
    reason: str  # blank if the run was successful
    counts_line: str = ""
    omitted_lines: list[str] = field(default_factory=list)
    other_lines: list[str] = field(default_factory=list)
    has_rejected_rows: bool = False

    @property
    def first_line(self) -> str:
        """The first line of a notice, which shows the outcome at a glance."""
        if self.reason:
            return f"{self.headline}: {self.reason}"
        return self.headline

    @property
    def lines(self) -> list[str]:
        lines = [*self.omitted_lines, *self.other_lines]
        if self.counts_line:
            lines.insert(0, self.counts_line)
        return lines

    @property
    def severity(self) -> Severity:
        if self.reason:
            return FAILURE
        # Rows that max_not_imported tolerates are still worth a look.
        if self.has_rejected_rows or self.omitted_lines:
            return WARNING
        return SUCCESS

    @property
    def notice_color(self) -> str:
        """The color in Hipchat, where yellow means that a run has started."""
        if self.severity is FAILURE:
            return "red"
        # Rows that max_not_imported tolerates leave the notice green.
        return "green"

    def quiet_lines(self) -> list[str]:
        """Return the lines that are printed even with --quiet, so that cron mails them."""
        if self.reason or self.has_rejected_rows:
            return self.lines
        return self.omitted_lines


def summarize(run: ImportRun) -> Summary:
    """Summarize the run."""
    # The reason for stopping is more useful than the number of rows not imported because of it.
    reason = run.stop.describe() or run.failure
    counts = run.counts
    if counts and not reason:
        reason = too_many_rejected(counts, run.settings)
    outcome = "finished"
    status: int = ExitStatus.OK
    if reason:
        outcome = "failed"
        status = ExitStatus.INCOMPLETE
    if run.stop.was_signaled():
        status = 128 + run.stop.signum  # as shells do
    # Several machines may post to the same channel, so the host is named.
    headline = (
        f"Intercom import of {name_with_age(run)} {outcome} on {socket.gethostname()}"
    )
    # Redact before truncating: a secret that is cut in the middle would not be masked.
    summary = Summary(status, headline, redact(reason)[:MAX_REASON_LENGTH])
    # A run that stopped before its first request has no counts: all of its rows are in the input.
    if counts and run.report:
        summary.counts_line = counts_line(run, counts)
        summary.has_rejected_rows = counts.not_imported > 0
        summary.omitted_lines = omitted_summary(run.report)
        summary.other_lines = outcome_lines(run, counts)
    if run.saved_input:
        summary.other_lines.append(f"data from the pipe saved to: {run.saved_input}")
    # After a complete success, the error log is empty.
    if run.error_log and summary.severity is not SUCCESS:
        summary.other_lines.append(f"details: {run.error_log}")
    return summary


def name_with_age(run: ImportRun) -> str:
    """Return the input's name and age, so that an old export is noticed at a glance."""
    if not run.file:
        return run.name()
    age = describe_age(run.file.age(run.settings.timezone))
    return f"{run.name()} ({age})"


def too_many_rejected(counts: RowCounts, settings: Settings) -> str:
    """Return how many rows were not imported, or "" if max_not_imported allows that many."""
    if counts.not_imported <= settings.csv.max_not_imported:
        return ""
    rows = pluralize(counts.processed, "row")
    verb = "was" if counts.not_imported == 1 else "were"
    return f"{counts.not_imported:,} of {rows} {verb} not imported"


def counts_line(run: ImportRun, counts: RowCounts) -> str:
    """Return the summary line with the counts, in a format that scripts can rely on."""
    seconds = time.monotonic() - run.started_at
    # Unchanged users need no request, so they don't count toward the rate.
    rate = counts.imported / max(seconds, 0.001)
    # Unlike other lines, this has no thousands separators, because scripts may parse it.
    return (
        f"{run.name()}: {counts.imported} added or updated, {counts.unchanged} unchanged, "
        f"{counts.not_imported} not imported in {timedelta(seconds=int(seconds))} "
        f"({rate:.1f} users/s)"
    )


def omitted_summary(report: FileReport) -> list[str]:
    """Return a line with the number of omitted values per column, and hints."""
    columns = [
        f"{occurrences.count:,} in '{mapping.heading}' (not {type_with_article(mapping)})"
        for mapping, occurrences in report.omitted.items()
    ]
    if not columns:
        return []
    return [f"omitted values: {', '.join(columns)}", *report.hints.values()]


def outcome_lines(run: ImportRun, counts: RowCounts) -> list[str]:
    """Return lines about reasons, repeated users, unchanged users, and where rejected rows are."""
    lines = [
        f"{pluralize(rows, 'row')} not imported: {category}"
        for category, rows in counts.reasons.most_common()
    ]
    if run.report and run.report.repeated_users:
        lines.append(run.report.repeated_users)
    # Not "are in Intercom": they may have been deleted there since then.
    if counts.unchanged:
        lines.append(
            f"{pluralize(counts.unchanged, 'user')} unchanged since they were last sent"
        )
    # Last, because `fit_notice` keeps the last lines of a long notice.
    if run.rejects:
        lines += run.rejects.location_lines()
    return lines


def report_outcome(run: ImportRun) -> int:
    """Report the outcome on the console, in the logs and in notices; return the exit status."""
    # The summary is printed separately.
    logging.getLogger().removeHandler(CONSOLE_HANDLER)
    summary = summarize(run)
    # Console and logs first, because a notice may take ten seconds.
    log_summary(summary)
    print_summary(run, summary)
    notify(
        run.settings,
        [summary.first_line, *summary.lines],
        summary.notice_color,
        run.stop,
    )
    if run.error_log:
        remove_old_logs(run.settings, run.started)
    return summary.status


def log_summary(summary: Summary) -> None:
    for line in summary.lines:
        log.log(summary.severity.level, "%s", line)
    if summary.reason:
        log.error("failed: %s", summary.reason)


def print_summary(run: ImportRun, summary: Summary) -> None:
    if summary.reason:
        # Rows that were not imported don't stop a run; it continues to the end.
        prefix = ""
        if run.stop.describe():
            prefix = "run stopped: "
        echo(f"export_csv.py: {prefix}{summary.reason}", sys.stderr, FAILURE.color)
    # cron mails whatever is printed, so a run without problems prints nothing.
    if run.quiet:
        for line in summary.quiet_lines():
            echo(line, sys.stderr)
        return
    if summary.counts_line:
        echo(summary.counts_line, sys.stdout, summary.severity.color)
    for line in [*summary.omitted_lines, *summary.other_lines]:
        echo(line, sys.stdout)


def report_config_errors(run: ImportRun) -> int:
    """Report config errors, including to the chat services whose own settings are valid."""
    # Otherwise the log would print each line a second time.
    logging.getLogger().removeHandler(CONSOLE_HANDLER)
    lines = run.problems.lines(run.config.name)
    for line in lines:
        log.error("%s", line)
        echo(line, sys.stderr)
    host = socket.gethostname()
    config = run.config.absolute()
    first_line = f"Intercom import not started on {host}: invalid settings in {config}"
    notice = [first_line, *lines]
    if run.error_log:
        notice.append(f"details: {run.error_log}")
    # A notice can't be sent through a webhook whose own settings are invalid.
    services = [name for name in SERVICES if not run.problems.affect(name.lower())]
    notify(run.settings, notice, "red", run.stop, services=services)
    return ExitStatus.CONFIG_ERROR


#### Running an import


def config_warnings(settings: Settings, table: CsvTable) -> list[str]:
    """Return warnings about settings that are valid but may not have the intended effect."""
    supported = ", ".join(FIELDS)
    found = [
        f"{place} is not a supported field and will be ignored; supported fields: {supported}"
        for place in settings.ignored_keys
    ]
    # `email` in [custom_attributes] becomes an attribute that only looks like the field.
    found += [
        f"{mapping.place} creates a custom attribute, and the field {mapping.name} stays empty; "
        "to set the field, move the line to [user]"
        for mapping in settings.attribute_mappings
        if mapping.name in FIELDS
    ]
    if settings.uses_contacts:
        names = [column.name for column in table.columns if not column.is_attribute]
        found += [
            f"[user] {name}: not supported by /contacts; ignored"
            for name in [*names, *table.constants]
            if name in USER_ONLY_FIELDS
        ]
    return found


def numeric_timestamp_notes(settings: Settings) -> list[str]:
    """Return notes about timestamps that Intercom shows as numbers (/users only)."""
    # API 1.x treats a UNIX timestamp as a date only if the attribute's name ends in _at. On
    # /contacts, attributes have types.
    if settings.uses_contacts:
        return []
    return [
        f"{mapping.place} will be shown as a number; end its name in _at to show it as a date"
        for mapping in settings.attribute_mappings
        if mapping.type_name == "timestamp" and not mapping.name.endswith("_at")
    ]


def warn(run: ImportRun, text: str) -> None:
    """Log a warning and print it, even with --quiet."""
    log.warning("%s", text)
    if run.error_log:  # otherwise the log is the console
        echo(text, sys.stderr)


def print_note(run: ImportRun, text: str) -> None:
    """Log a note, and print it unless --quiet is set."""
    log.info("%s", text)
    if not run.quiet:
        echo(text, sys.stdout)


class WriteCheck(NamedTuple):
    """A folder or file that a run must be able to write to."""

    setting: str  # its section and key, such as "[log] folder"
    folder: Path
    file: Path | None = None


def write_checks(settings: Settings) -> list[WriteCheck]:
    """Return the folders and files that a run writes to.

    They are tested first: otherwise, a run that can't save rejected rows or its state would have
    to stop halfway through the file.
    """
    places = []
    if settings.log.use_logs:
        places.append(WriteCheck("[log] folder", Path(settings.log.folder).absolute()))
    reject_folder = Path(settings.csv.not_imported_folder).absolute()
    places.append(WriteCheck("[csv] not_imported_folder", reject_folder))
    if settings.intercom.skip_unchanged:
        state = Path(settings.intercom.state_file).absolute()
        places.append(WriteCheck("[intercom] state_file", state.parent, state))
    return places


def write_problems(settings: Settings) -> list[str]:
    """Return the reasons why a run can't write its files, without writing anything.

    The nearest existing parent has to be a folder that is writable by this account.
    """
    problems = []
    for check in write_checks(settings):
        problem = write_problem(check)
        if problem:
            problems.append(f"{check.setting}: {problem}")
    return problems


def nearest_existing(path: Path) -> Path:
    """Return the path if it exists, otherwise its nearest parent that does.

    Raise RunAborted if nothing can be created there: a broken link, a loop of links, a name that
    is too long. Path.exists() hides some of these, depending on the version of Python.
    """
    while True:
        try:
            path.stat()
            return path
        except (FileNotFoundError, NotADirectoryError):
            # stat() follows links: the link exists, but its target doesn't.
            if path.is_symlink():
                raise RunAborted(f"{path} is a broken link") from None
            path = path.parent
        except OSError as error:
            raise RunAborted(f"can't use {path}: {error.strerror}") from None


def write_problem(check: WriteCheck) -> str:
    """Return why the file or folder can't be written to, or "" if it can."""
    try:
        path = nearest_existing(check.file or check.folder)
    except RunAborted as error:
        return str(error)
    # The file exists already, so it has to be writable itself.
    if path == check.file:
        if not path.is_file():
            return f"{path} is not a file"
        if not os.access(path, os.R_OK | os.W_OK):
            return f"{path} is not writable by this account"
        path = path.parent  # SQLite creates files next to it
    if not path.is_dir():
        return f"{path} is not a folder"
    # Unlike the mode bits, this also considers ACLs and read-only file systems.
    if not os.access(path, os.W_OK | os.X_OK):
        return f"the folder {path} is not writable by this account"
    return ""


def import_users(run: ImportRun, progress: ProgressLine) -> None:
    """Import the file. Raise RunAborted if the run can't start."""
    settings = run.settings
    host = socket.gethostname()
    # Announce the run, and make sure that it can write its files before anything is sent.
    started_line = (
        f"Intercom import started on {host} (config: {run.config.absolute()})"
    )
    notify(settings, [started_line], "yellow", run.stop, is_end_notice=False)
    if problems := write_problems(settings):
        raise RunAborted("; ".join(problems))

    # Find the file, and read it once from start to end.
    run.file = file = find_input(settings, run.stop.is_set)
    if file.note:
        print_note(run, file.note)
    log.info("version %s, importing %s (%d bytes)", VERSION, file.location, file.size)
    run.report = report = run_preflight(run, file, progress)
    if report.reason:
        raise RunAborted(report.reason)
    print_findings(run, report)

    # Prepare the workspace and the state file, and send the users.
    client = IntercomClient(settings, run.stop)
    prepare_attributes(run, client, report)
    state = open_state(settings, write=True)
    try:
        send_users(run, file, report, client, state, progress)
    finally:
        if state:
            state.close()  # before the end notice, which may trigger another program
    # If the original has changed, the export may not have been finished when it was copied.
    if file.original_changed():
        run.failure = (
            f"{file.location} changed during the run: all rows of the copy were processed, but "
            "the file may have new rows; run the import again"
        )


def print_findings(run: ImportRun, report: FileReport) -> None:
    """Print and log the notes and warnings of the preflight.

    Its findings about omitted values, rejected rows and repeated users are in the summary.
    """
    for note in report.notes:
        print_note(run, note)
    for warning in [*report.warnings, *config_warnings(run.settings, report.table)]:
        warn(run, warning)
    # These are the same in every run, so they are not printed. --check shows them.
    for note in numeric_timestamp_notes(run.settings):
        log.debug("%s", note)


def run_preflight(
    run: ImportRun, file: InputFile, progress: ProgressLine
) -> FileReport:
    """Read the input from start to end, with progress."""

    def show(rows: int) -> None:
        progress.state.done = rows
        if progress.is_shown:
            progress.state.share = fraction_read(file)

    preflight = Preflight(file, run.settings, run.stop.is_set, show)
    return preflight.run(is_from_command_line=run.is_file_from_command_line)


def fraction_read(file: InputFile) -> float:
    """Return the fraction of the copy that was read. (Its rows aren't counted yet.)"""
    position = os.lseek(file.copy.fileno(), 0, os.SEEK_CUR)
    return position / max(1, file.size)


def prepare_attributes(
    run: ImportRun, client: IntercomClient, file_report: FileReport
) -> None:
    """Compare the custom attributes with the workspace's, and create missing ones if enabled.

    Requests are sent in the background: no user is in flight yet, so a signal ends the run without
    waiting for their responses.
    """
    settings = run.settings
    if not (settings.uses_contacts and settings.attribute_mappings):
        return
    should_stop = run.stop.is_set
    compare = partial(check_attributes, client, retry=True)
    report: AttributeReport | None = run_in_background(compare, should_stop)
    if report is None:
        warn(
            run,
            "the token isn't allowed to read the workspace's custom attributes; "
            "they were not checked",
        )
        return
    # /contacts rejects attributes that the workspace lacks, so every user would be rejected.
    if problem := attributes_problem(report):
        raise RunAborted(problem)
    for line in values_outside_options(
        file_report, settings, report.options, should_stop
    ):
        warn(run, line)
    # Only with create_attributes = true; otherwise, each of them is a problem above.
    if report.missing:
        run_in_background(
            partial(create_missing_attributes, client, report), should_stop
        )


def values_outside_options(
    report: FileReport,
    settings: Settings,
    options: dict[str, tuple[str, ...]],
    should_stop: Callable[[], bool],
) -> list[str]:
    """Return a line per attribute with values that aren't among its options in Intercom.

    Such values don't stop the run, because it isn't known whether Intercom rejects users that have
    them: starting in April 2026, its API specification said so, but that statement has since been
    removed (Intercom-OpenAPI#457 and #466).
    """
    if not options:
        return []
    found: dict[str, Occurrences] = {name: Occurrences() for name in options}
    table = open_csv(report.file, settings)
    table.accepted_width = report.table.accepted_width
    for number, row in enumerate(table.rows()):
        if number % ROWS_PER_CHECK == 0 and should_stop():
            raise RunAborted(RUN_STOPPED)
        try:
            mapped = map_row(row, table)
        except RowRejected:
            continue
        values = mapped.user.get("custom_attributes", {})
        for name, known in options.items():
            if name in values and str(values[name]) not in known:
                found[name].add(row.line, str(values[name]), "not an option")
    return [
        describe_values_outside_options(name, occurrences)
        for name, occurrences in found.items()
        if occurrences.count
    ]


def describe_values_outside_options(name: str, occurrences: Occurrences) -> str:
    values = pluralize(occurrences.count, "value")
    example = occurrences.examples[0]
    return (
        f"{name}: {values} not among the attribute's options in Intercom, such as "
        f"'{example.value}' in line {example.line}; Intercom may reject these users"
    )


def send_users(
    run: ImportRun,
    file: InputFile,
    report: FileReport,
    client: IntercomClient,
    state: SyncState | None,
    progress: ProgressLine,
) -> None:
    """Send all users. From the first request on, every row is counted, even after an error."""
    # Read the copy again, with the row width that the preflight has found.
    table = open_csv(file, run.settings)
    table.accepted_width = report.table.accepted_width
    counts = RowCounts()
    rejects = RejectFile(file, table, run.settings, run.started)
    progress.start_sending(report.rows, client.waiting)
    sender = Sender(table, client, state, counts, rejects, progress)
    sender.send_all()
    is_complete = sender.is_complete()
    if not (is_complete or sender.has_sent_user or file.is_pipe):
        # No user was sent, so the input file can be imported again, unless it is a pipe.
        rejects.discard()
        return
    # From here on, the summary shows counts, so each row has to be in one of them.
    run.counts = counts
    run.rejects = rejects
    sender.reject_unreached()
    try:
        rejects.close()
    except RunAborted as error:
        run.stop.request(error)
    if sender.is_unreadable:
        counts.reject(UNREADABLE_ROWS, report.rows - counts.processed)
        rejects.first_lost_line = rejects.first_lost_line or sender.last_line_read + 1
    if is_complete:
        # A signal may have come during the last user's request, or while the files were being
        # closed.
        run.stop.all_rows_done = True
        if reason := sender.rejections.reason_at_end():
            run.stop.request(reason)


def save_pipe(run: ImportRun, file: InputFile) -> None:
    """Save all data from a pipe if the run stopped before it could save individual rows."""
    try:
        if file.size:
            run.saved_input = save_whole_input(file, run.settings, run.started)
    except OSError as error:
        run.stop.add_reason(
            f"the data from the pipe could not be saved ({error.strerror})"
        )


def run_import(run: ImportRun) -> int:
    """Run an import, and report its outcome; return the exit status."""
    progress = ProgressLine(run.stop, is_wanted=not run.quiet)
    try:
        import_users(run, progress)
    except Exception as error:
        # find_input didn't return, but the data already read from the pipe must be saved.
        if isinstance(error, InputInterrupted):
            run.file = error.file
        # RUN_STOPPED only means that a check found the signal, which is already the reason.
        if not (run.stop.is_set() and str(error) == RUN_STOPPED):
            run.stop.request(error)
    # The progress line has to be gone before the summary is printed.
    progress.close()
    if run.file:
        # If there are counts, the reject file already has the rows.
        if run.file.is_pipe and run.stop.is_set() and not run.counts:
            save_pipe(run, run.file)
        run.file.close()
    return report_outcome(run)


#### --dry-run and --check

# Like JSON_ENCODER, but doesn't escape non-ASCII characters, because people read the output too.
JSON_UNICODE = json.JSONEncoder(
    separators=(",", ":"), allow_nan=False, ensure_ascii=False
)
# Sections that don't affect the file and its columns. An error in one of them, such as a token
# that is still missing, doesn't keep --check from reading the file.
SERVICE_SECTIONS = ("[intercom]", "[hipchat]", "[slack]", "[log]")
REPORT_WIDTH = 100  # characters per line of the table of --check, if possible
# Characters of a value that the table shows even if many columns are wide.
MIN_CELL_SHOWN = 8


def never_stop() -> bool:
    """Return False: --check and --dry-run have nothing to save, so Ctrl-C ends them at once."""
    return False


def dry_run(run: ImportRun) -> int:
    """Print the request bodies, then a summary.

    Raise RunAborted if there is no usable file, or standard output can't be written to.

    The bodies go to standard output and everything else to standard error, so that
    `--dry-run > users.jsonl` writes a file that contains only JSON.
    """
    if sys.stdout is None:  # it was closed, as with `>&-`
        raise RunAborted("standard output is closed")
    settings = run.settings
    # Find, copy and check the file exactly as a run does.
    with contextlib.closing(find_input(settings, never_stop)) as file:
        report = Preflight(file, settings, never_stop).run(
            is_from_command_line=run.is_file_from_command_line
        )
        if report.reason:
            raise RunAborted(report.reason)
        state = open_state(settings, write=False)
        try:
            counts = print_payloads(file, report, state, settings)
        finally:
            if state:
                state.close()
    # Printed after the bodies, which would otherwise scroll these lines off the screen.
    lines = dry_run_lines(run, file, report)
    # There are no counts if the reader, such as `head`, didn't read to the end.
    if counts and (lines or not run.quiet):
        lines.append(
            f"{file.name}: {counts.imported} would be added or updated, {counts.unchanged} are "
            f"unchanged, {counts.not_imported} would not be imported"
        )
    for line in lines:
        echo(line, sys.stderr)
    if report.rejected_rows > settings.csv.max_not_imported:
        return ExitStatus.INCOMPLETE
    return ExitStatus.OK


def print_payloads(
    file: InputFile, report: FileReport, state: SyncState | None, settings: Settings
) -> RowCounts | None:
    """Print a line of JSON per user; return None if the reader closes the pipe."""
    counts = RowCounts()
    table = open_csv(file, settings)
    table.accepted_width = report.table.accepted_width
    # JSON is UTF-8 (RFC 8259, 8.1), regardless of the console's encoding.
    output = sys.stdout.buffer
    try:
        for row in table.rows():
            try:
                mapped = map_row(row, table)
            except RowRejected as rejection:
                counts.reject(rejection.category)
                continue
            contact_id = mapped.user.get("id", "")
            if state:
                upload = Upload(row, mapped.user, contact_id)
                if load_remembered(upload, state, settings):
                    counts.unchanged += 1
                    continue
                contact_id = upload.contact_id
            payload = request_payload(mapped.user, settings, contact_id)
            line = JSON_UNICODE.encode(payload)
            # A lone surrogate (some encodings produce them) is escaped, as JSON allows.
            output.write(line.encode(errors="backslashreplace") + b"\n")
            counts.imported += 1
        # A full disk may be reported only here.
        output.flush()
    except OSError as error:
        discard_stream(sys.stdout)
        # The reader has closed the pipe, as `head` does. On Windows, the error is EINVAL.
        if error.errno in (errno.EPIPE, errno.EINVAL):
            return None
        raise RunAborted(f"can't write to standard output: {error.strerror}") from None
    return counts


def dry_run_lines(run: ImportRun, file: InputFile, report: FileReport) -> list[str]:
    """Return config warnings and the preflight's findings, except reasons to stop."""
    lines = []
    if not run.quiet:
        lines += [note for note in (file.note, *report.notes) if note]
    lines += report.warnings
    lines += config_warnings(run.settings, report.table)
    lines += report.omitted_lines()
    lines += report.rejected_lines()
    if report.repeated_users:
        lines.append(report.repeated_users)
    return lines


class CheckReport:
    """The lines of --check, printed as they are found, and whether one of them is a problem.

    They all go to standard output, because they are the requested output. Reading a large file and
    querying Intercom take a while, so lines are printed immediately.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.has_problem = False

    def ok(self, line: str) -> None:
        if not self.quiet:
            echo(line, sys.stdout)

    def warning(self, line: str) -> None:
        echo(line, sys.stdout, "yellow")

    def problem(self, line: str) -> None:
        """Print a line about something that would stop a run, or keep rows from being imported."""
        self.has_problem = True
        echo(line, sys.stdout, "red")


def check(run: ImportRun) -> int:
    """Check settings, file, folders, Intercom and notices; return the exit status."""
    report = CheckReport(quiet=run.quiet)
    for line in run.problems.lines(run.config.name):
        report.problem(line)
    if not run.problems:
        report.ok(f"{run.config.name}: OK")
    check_permissions(run, report)
    # Each step runs regardless of the others' results, so everything can be fixed at once.
    if all(place.startswith(SERVICE_SECTIONS) for place in run.problems.by_place):
        check_file(run, report)
        check_folders(run, report)
    # Without valid credentials and a valid URL, Intercom can't be queried.
    if not run.problems:
        check_intercom(run, report)
    if run.file:
        run.file.close()
    check_notices(run, report)
    # As in a run, invalid settings have a separate exit status.
    if run.problems:
        return ExitStatus.CONFIG_ERROR
    return ExitStatus.INCOMPLETE if report.has_problem else ExitStatus.OK


def check_permissions(run: ImportRun, report: CheckReport) -> None:
    """Warn if other users can read the secrets in .env or config.ini."""
    for path in run.settings.files_with_secrets:
        if is_readable_by_others(path):
            report.warning(
                f"{path.name}: contains secrets, and other users can read it; "
                f"run chmod 600 {path}"
            )


def is_readable_by_others(path: Path) -> bool:
    if os.name != "posix":
        return False  # Windows has no permission bits
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def check_file(run: ImportRun, report: CheckReport) -> None:
    """Check the input file, and show an example per mapped field."""
    settings = run.settings
    source = "S3" if settings.aws.use_aws else "file"
    try:
        run.file = file = find_input(settings, never_stop)
    except RunAborted as error:
        report.problem(f"{source}: {error}")
        return
    if file.note:
        report.ok(file.note)
    report.ok(f"{source}: {file.location}, {describe_age(file.age(settings.timezone))}")
    # A file named on the command line may be of any age: it was chosen by hand.
    if settings.file.max_age_hours == math.inf and not run.is_file_from_command_line:
        report.warning(
            "[file] max_age_hours is blank: if exports stop arriving, last month's "
            "file will be imported again without warning"
        )
    try:
        preflight = Preflight(file, settings, never_stop)
        run.report = preflight.run(is_from_command_line=run.is_file_from_command_line)
    except RunAborted as error:
        report.problem(f"{source}: this file would not be imported: {error}")
        return
    report_file(run, run.report, report)


def report_file(run: ImportRun, file_report: FileReport, report: CheckReport) -> None:
    """Report the findings of the preflight."""
    settings = run.settings
    rows = pluralize(file_report.rows, "row")
    columns = pluralize(len(file_report.table.headings), "column")
    for line in [f"{rows}, {columns}", *mapping_table(file_report), *file_report.notes]:
        report.ok(line)
    warnings_found = [
        *file_report.warnings,
        *config_warnings(settings, file_report.table),
    ]
    # In a run, these notes are only in the debug log.
    warnings_found += numeric_timestamp_notes(settings)
    warnings_found += file_report.omitted_lines()
    if file_report.repeated_users:
        warnings_found.append(file_report.repeated_users)
    for line in warnings_found:
        report.warning(line)
    # With up to max_not_imported rejected rows, a run succeeds, so they are only a warning.
    report_rejected = report.warning
    if file_report.rejected_rows > settings.csv.max_not_imported:
        report_rejected = report.problem
    for line in file_report.rejected_lines():
        report_rejected(line)
    if file_report.reason:
        report.problem(f"this file would not be imported: {file_report.reason}")


class TableLine(NamedTuple):
    """A line of the table that --check prints, one per mapped field."""

    name: str
    source: str  # the column's heading, or the constant
    type_name: str
    cell: str
    sent: str
    omitted: str


TABLE_HEADINGS = TableLine("field", "column", "type", "example", "sent as", "omitted")


def mapping_table(file_report: FileReport) -> list[str]:
    """Return aligned lines that show, for each mapped field, an example and the value sent."""
    lines = [TABLE_HEADINGS]
    lines += [
        column_line(column.mapping, file_report) for column in file_report.table.columns
    ]
    constants = dict(file_report.table.constants)
    attributes = constants.pop("custom_attributes", {})
    for name, value in [*constants.items(), *attributes.items()]:
        shown = JSON_UNICODE.encode(value)
        lines.append(TableLine(name, "(constant)", "", "", shown, ""))
    return align(lines)


def column_line(mapping: FieldMapping, file_report: FileReport) -> TableLine:
    sample = file_report.samples.get(mapping)
    cell = "(no value)"
    sent = ""
    if sample:
        cell = sample.cell
        sent = JSON_UNICODE.encode(sample.value)
    occurrences = file_report.omitted.get(mapping)
    omitted = "0"
    if occurrences:
        omitted = str(occurrences.count)
    return TableLine(
        mapping.name, mapping.heading, mapping.describe_type(), cell, sent, omitted
    )


def align(lines: list[TableLine]) -> list[str]:
    """Return the lines in aligned columns, and cut the longest values until the lines fit."""
    # Masked and escaped first, because that changes the length of a value.
    columns = [[redact(cell) for cell in column] for column in zip(*lines, strict=True)]
    limit = REPORT_WIDTH
    aligned = join_columns(columns, limit)
    # Shorten only the longest values, one character at a time.
    while limit > MIN_CELL_SHOWN and max(map(len, aligned)) > REPORT_WIDTH:
        limit -= 1
        aligned = join_columns(columns, limit)
    return aligned


def join_columns(columns: list[list[str]], limit: int) -> list[str]:
    """Return the lines of the table, with cells of `limit` characters at most."""
    padded = []
    for column in columns:
        cells = [shorten(cell, limit) for cell in column]
        width = max(map(len, cells))
        padded.append([cell.ljust(width) for cell in cells])
    lines = ["  " + "  ".join(cells) for cells in zip(*padded, strict=True)]
    return [line.rstrip() for line in lines]


def shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit - 3]}..."


def check_folders(run: ImportRun, report: CheckReport) -> None:
    """Check that a run could write its logs, its reject file and its state file."""
    problems = write_problems(run.settings)
    for problem in problems:
        report.problem(problem)
    if not problems:
        report.ok("logs, rejected rows and state: can be written")
    if run.settings.intercom.skip_unchanged:
        # A damaged state file, or another kind of file, is only detected when it is read.
        try:
            state = open_state(run.settings, write=False)
        except RunAborted as error:
            report.problem(str(error))
        else:
            if state:
                state.close()


def check_intercom(run: ImportRun, report: CheckReport) -> None:
    """Check that Intercom accepts the credentials, the API version and the custom attributes."""
    settings = run.settings
    client = IntercomClient(settings, run.stop)
    me = client.me()
    # A captive portal returns 200 too, but only Intercom returns the owner of the token.
    owner_types = ("admin", "app")
    if status_of(me) == 200 and json_of(me).get("type") not in owner_types:
        report.problem(f"Intercom: {NO_VALID_RESPONSE} ({describe_response(me)})")
        return
    if status_of(me) != 200:
        report.problem(f"Intercom: {fatal_reason(me, settings)}")
        return
    report.ok(f"Intercom: authenticated as {json_of(me).get('name') or 'an app'}")
    # GET /me works with any API version, so user_url itself has to be tried too.
    first_page = client.first_page()
    if is_wrong_api(first_page):
        report.problem(f"Intercom: {fatal_reason(first_page, settings)}")
    elif status_of(first_page) != 200 or not json_of(first_page):
        # A gateway may allow only POST, and the token may not be allowed to read users.
        report.warning(
            f"Intercom: can't read {settings.intercom.user_url} "
            f"({describe_response(first_page)}); adding users may still work"
        )
    # Without retries, so that --check finishes quickly.
    try:
        attributes = check_attributes(client, retry=False)
    except RunAborted as error:
        report.problem(f"Intercom: {error}")
        return
    report_attributes(run, attributes, report)


def is_wrong_api(response: Response | NoResponse) -> bool:
    """Return whether a response to GET user_url shows that a run would stop at its first user."""
    if not isinstance(response, Response):
        return False
    # Apps on API 2.x reject every request to /users like this.
    if response.status == 400:
        return is_wrong_version(response)
    # A gateway that only allows POST returns the same statuses, but without Intercom's error list.
    if response.status in (404, 405):
        return has_error_list(response)
    # Other statuses, such as 403, may only mean that this token can't read users.
    return response.status == 401


def report_attributes(
    run: ImportRun, attributes: AttributeReport | None, report: CheckReport
) -> None:
    settings = run.settings
    if attributes is None:
        if settings.uses_contacts and settings.attribute_mappings:
            report.warning(
                "Intercom: the token isn't allowed to read custom attributes; "
                "they were not checked"
            )
        return
    if problem := attributes_problem(attributes):
        report.problem(f"Intercom: {problem}")
    elif attributes.missing:
        report.ok(
            f"Intercom: custom attributes to be created: {', '.join(attributes.missing)}"
        )
    if run.report:  # otherwise check_file has reported that the file can't be read
        options = attributes.options
        for line in values_outside_options(run.report, settings, options, never_stop):
            report.warning(line)


def check_notices(run: ImportRun, report: CheckReport) -> None:
    """Report which notices are enabled; with --notify, post a test notice to each service."""
    enabled = {
        "Hipchat": run.settings.hipchat.use_hipchat,
        "Slack": run.settings.slack.use_slack,
    }
    for service, is_enabled in enabled.items():
        if not is_enabled:
            report.ok(f"{service}: disabled")
        elif run.problems.affect(service.lower()):
            report.ok(f"{service}: not tested, because its settings are invalid")
        # Posted only on request, because it could confuse others who read the channel.
        elif not run.arguments.notify:
            report.ok(f"{service}: configured, not tested (use --check --notify)")
        else:
            post_test_notice(run, service, report)


def post_test_notice(run: ImportRun, service: str, report: CheckReport) -> None:
    text = f"Test notice from the Intercom import on {socket.gethostname()}"
    is_sent = notify(
        run.settings,
        [text],
        "yellow",
        run.stop,
        services=[service],
        stream=sys.stdout,
    )
    if is_sent:
        report.ok(f"{service}: test notice sent")
    else:
        report.problem(f"{service}: test notice failed")


#### Command line

EPILOG = """\
examples:
  python export_csv.py                          import the newest file
  python export_csv.py users_2026.csv           import this file
  python export_csv.py --check                  check whether a run would work
  python export_csv.py --dry-run > users.jsonl  print what would be sent

exit status:
  0    every row was imported or is unchanged
  1    the run stopped, or some rows were not imported
  2    invalid arguments or settings; nothing was sent
  3    another run with the same config file is in progress
  130  interrupted (Ctrl-C)
  143  terminated (SIGTERM); in general, 128 + the number of the signal
"""


class ArgumentParser(argparse.ArgumentParser):
    """A parser that exits quietly if its message can't be printed (full disk, closed stream).

    Python 3.12 and later do that themselves; 3.10 and 3.11 would print a traceback.
    """

    def _print_message(self, message: str, file: Any = None) -> None:
        # A stream that was closed before Python started is None: an AttributeError.
        with contextlib.suppress(OSError, AttributeError):
            super()._print_message(message, file)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line. Exit with status 2 if it is invalid, or with 0 after --help."""
    parser = ArgumentParser(
        prog="export_csv.py",
        description="Create or update Intercom users from a CSV file, one request per user.",
        epilog=EPILOG,
        # Keeps the line breaks of EPILOG.
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # cron starts the script in another folder, and the script may be a link.
    default_config = Path(__file__).resolve().with_name("config.ini")
    modes = parser.add_mutually_exclusive_group()
    parser.add_argument(
        "filename",
        nargs="?",
        help="CSV file to import: a path or, in S3, a key below [aws] folder "
        "(default: the file selected by [file] in the config file)",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=default_config,
        help="config file (default: config.ini next to export_csv.py)",
    )
    parser.add_argument(
        "--local", action="store_true", help="read from disk even if use_aws = true"
    )
    modes.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be sent, as JSON lines; send nothing",
    )
    modes.add_argument(
        "--check",
        action="store_true",
        help="check settings, file and credentials; send nothing",
    )
    parser.add_argument(
        "--notify",
        action="store_true",
        help="with --check: post a test notice to each chat service in use",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print only warnings and errors (for cron)"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    arguments = parser.parse_args(argv)
    # An empty name usually comes from an unset variable in a shell script, and must not select the
    # newest file.
    if arguments.filename == "":
        parser.error("filename is empty")
    if arguments.notify and not arguments.check:
        parser.error("--notify requires --check")
    return arguments


class LockResult(Enum):
    """The result of trying to lock the config file."""

    LOCKED = auto()
    TAKEN = auto()  # by another run
    UNSUPPORTED = auto()  # the file system doesn't support locking


def try_lock(file: IO[bytes]) -> LockResult:
    """Try to lock the config file. The system releases the lock when the process exits.

    Therefore, unlike with a PID file, a killed run doesn't prevent the next one from starting.
    Runs with different config files don't block each other.
    """
    try:
        if sys.platform == "win32":
            # Locked bytes can't be read there, so lock one far beyond the end of the text.
            file.seek(2**30)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        # flock() raises BlockingIOError, and locking() on Windows PermissionError.
        return LockResult.TAKEN
    except OSError:  # ENOLCK, ENOSYS, EOPNOTSUPP: network file systems
        return LockResult.UNSUPPORTED
    return LockResult.LOCKED


def open_config(path: Path) -> IO[bytes]:
    """Open the config file. Raise OSError if it can't be read."""
    if path.exists() and not path.is_file():
        # Reading a named pipe would block.
        raise OSError(errno.EINVAL, "not a regular file")
    file = path.open("rb")
    try:
        file.read()  # a failing disk or network share is only detected here
    except OSError:
        file.close()
        raise
    return file


def run_mode(config: Path, arguments: argparse.Namespace, lock_warning: str) -> int:
    """Run the selected mode: --check, --dry-run or an import; return the exit status."""
    settings, problems = load_settings(config, arguments)
    run = ImportRun(settings, problems, config, arguments, datetime.now())
    # --check reports invalid settings itself, and goes on with whatever it can still check.
    if arguments.check:
        return check(run)
    if not arguments.dry_run:
        return start_import(run, lock_warning)
    if not problems:
        return dry_run(run)
    # Neither logged nor posted: a dry run writes no files and sends no notices.
    for line in problems.lines(config.name):
        echo(line, sys.stderr)
    return ExitStatus.CONFIG_ERROR


def start_import(run: ImportRun, lock_warning: str) -> int:
    """Open the logs, and run an import unless that fails or settings are invalid."""
    try:
        if not run.problems.affect("log"):
            run.error_log = open_logs(run.settings, run.started)
    except RunAborted as error:
        run.stop.request(error)
    # cron's mail may go unread, so errors are also posted to the chat services.
    if run.problems:
        return report_config_errors(run)
    # The logs couldn't be opened, and nothing has been sent yet.
    if run.stop.is_set():
        return report_outcome(run)
    if lock_warning:
        warn(run, lock_warning)
    # Until now, Ctrl-C ended the process at once, because there was nothing to save.
    run.stop.catch_signals()
    return run_import(run)


def main(argv: list[str] | None = None) -> int:
    """Lock the config file so that two runs can't overlap, and run; return the exit status."""
    arguments = parse_arguments(argv)
    config: Path = arguments.config
    # Logs and reject files contain users' data, so only their owner may read them.
    os.umask(0o077)
    # The objects that exist by now, mostly modules, live until the process exits. Without this, the
    # garbage collector would scan all of them again and again while rows are read, and use up a
    # tenth of that time.
    gc.freeze()
    # Without a handler, Python would print libraries' warnings to standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    # If the console can't show a character, print its escape instead of failing.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        file = open_config(config)
    except (OSError, ValueError) as error:
        # A NUL in the path is a ValueError, which has no strerror.
        reason = getattr(error, "strerror", None) or error
        echo(
            f"export_csv.py: can't read {config}: {reason}; check --config", sys.stderr
        )
        return ExitStatus.CONFIG_ERROR
    # The lock is held as long as the file is open.
    with file:
        lock_warning = ""
        # --check and --dry-run change nothing, so they may run during an import.
        if not (arguments.check or arguments.dry_run):
            result = try_lock(file)
            if result is LockResult.TAKEN:
                # No notice is sent: a run that outlasts cron's interval is nothing to worry about.
                echo(
                    f"export_csv.py: another run is already using {config}", sys.stderr
                )
                return ExitStatus.ALREADY_RUNNING
            if result is LockResult.UNSUPPORTED:
                lock_warning = (
                    f"{config} can't be locked on this file system: make sure that no two runs "
                    "overlap"
                )
        return run_safely(config, arguments, lock_warning)


def run_safely(config: Path, arguments: argparse.Namespace, lock_warning: str) -> int:
    """Run the selected mode, and report exceptions in one line."""
    try:
        return run_mode(config, arguments, lock_warning)
    except RunAborted as error:
        echo(f"export_csv.py: {error}", sys.stderr, "red")
    except Exception as error:
        # Its traceback is in the debug log, if one is open.
        echo(f"export_csv.py: {describe_unexpected(error)}", sys.stderr, "red")
    return ExitStatus.INCOMPLETE


def exit_process(status: int) -> NoReturn:
    """End the process without waiting for threads that are still in a blocking call.

    A request in flight may take two more minutes, and a silent name server even longer. os._exit
    also keeps Python from printing an error if standard output can't be flushed.
    """
    # os._exit() doesn't flush anything, so do it here.
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)


def run_and_exit() -> NoReturn:
    """Run the program, and end the process."""
    try:
        exit_status = main()
    except SystemExit as error:  # argparse's: 0 for --help and --version, 2 for errors
        exit_status = int(error.code or ExitStatus.OK)
    exit_process(exit_status)


if __name__ == "__main__":
    run_and_exit()
