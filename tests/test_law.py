"""The invariant: rows = added or updated + unchanged + not imported, whatever happens.

Random files are imported with random faults: lost and repeated responses, closed connections,
responses for other users, errors, and SIGTERM, which is often sent twice. The requests that the
mock received show which rows were accepted. By default, the same few cases run every time;
EXAMPLES=500 runs 500 of them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import random
import re
import shutil
import signal
import sys
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import NAME, Child, Project, Result, eventually
from faults import Fault
from mock_http import Request
from mock_services import MockServices

EXAMPLES = int(os.environ.get("EXAMPLES", "18"))
HEADINGS = ["user_id", "email", "name", "plan"]
FORGED = "1999-01-01T00:00:00.000 ERROR forged"
LOG_LINE = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d|    \| ")
TEXTS = [
    *[
        "",
        "",
        "Ada",
        "é",
        ",",
        ";",
        '"',
        '""',
        "\n",
        "\r\n",
        "x, y",
        "=1+1",
        "%s{0}",
        "***",
    ],
    *[" ", "\xa0", "\x1b[2J", "\u2028", "\\", "'"],
    *[f"\n{FORGED}", f"\u2028{FORGED}"],
]

#### Random files


@dataclass
class FileRow:
    """A row of a file, and the user in it."""

    number: int  # its name begins with this, so that its requests can be recognized
    raw: bytes  # with its line ending
    user_id: str
    email: str
    is_valid: bool


@dataclass
class Case:
    """A file, and what happens while it is imported."""

    seed: int
    concurrency: int
    dialect: str
    skip_unchanged: bool
    delimiter: str
    heading: bytes
    rows: list[FileRow]
    signal_at: int  # the number of the request at which SIGTERM is sent; 0: never
    signal_count: int
    stop_at: int  # the number of the request that is answered with 401; 0: none
    fault_share: float
    random: random.Random = field(repr=False)


def write_row(cells: list[str], delimiter: str, ending: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=ending).writerow(cells)
    return text.getvalue().encode()


def make_identities(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Return user_ids and e-mail addresses of users, some of whom share an address."""
    identities = []
    for number in range(count):
        user_id = f"u{number}"
        own_address = f"U{number}@example.com"
        kinds = [(user_id, ""), (user_id, own_address), ("", own_address)]
        kinds.append((user_id, "noreply@example.com"))
        identities.append(rng.choice(kinds))
    return identities


def make_row(
    rng: random.Random,
    number: int,
    identity: tuple[str, str],
    delimiter: str,
    ending: str,
) -> FileRow:
    user_id, email = identity
    name = f"r{number}-{rng.choice(TEXTS)}{rng.choice(TEXTS)}-"
    cells = [user_id, email, name, rng.choice(TEXTS)]
    kind = rng.choice(["valid"] * 9 + ["nobody", "mangled", "wide"])
    if kind == "nobody":
        cells[:2] = ["", ""]
    elif kind == "mangled":
        cells[0] = "1.23E+05"
    elif kind == "wide":
        cells.append("x")
    raw = write_row(cells, delimiter, ending)
    return FileRow(number, raw, user_id, email, kind == "valid")


def make_case(seed: int) -> Case:
    rng = random.Random(seed)
    delimiter = rng.choice([",", ";", "\t"])
    ending = rng.choice(["\n", "\r\n"])
    count = rng.choice([1, 3, 8, 15, 30, 50])
    # About half of the users have one row, and the others have two.
    identities = make_identities(rng, max(1, count * 2 // 3))
    rows = []
    for number in range(count):
        identity = identities[number % len(identities)]
        rows.append(make_row(rng, number, identity, delimiter, ending))
    rng.shuffle(rows)
    can_signal = sys.platform != "win32"
    return Case(
        seed=seed,
        concurrency=[1, 8, 34][seed % 3],
        dialect=rng.choice(["users", "users", "contacts"]),
        skip_unchanged=rng.random() < 0.4,
        delimiter=delimiter,
        heading=write_row(HEADINGS, delimiter, ending),
        rows=rows,
        signal_at=rng.choice([0, 0, 1, count // 2, count]) * can_signal,
        signal_count=rng.choice([1, 2, 2]),
        stop_at=rng.choice([0, 0, 0, count // 2]),
        fault_share=rng.choice([0, 0.1, 0.3, 0.6]),
        random=rng,
    )


#### Random faults

EMPTY_LIST = b'{"type": "list", "data": []}'
FORGED_ERROR = (
    f'{{"errors": [{{"code": "\\n{FORGED}", "message": "\\u2028"}}]}}'.encode()
)
FAULTS = [
    # The response is complete, but sent in an unusual way.
    Fault(delay=0.01),
    Fault(chunk=1),
    Fault(trickle=0.01),
    Fault(early=100),
    # (Both copies go out at once. If the second one arrived later, a 409, which doesn't name its
    # user, could be mistaken for the response to the next request.)
    Fault(twice=True),
    Fault(close_after=True),
    Fault(close_silently=True),
    Fault(close_silently=True),
    # There is no response, or none that counts.
    Fault(early=103, acts=True),
    Fault(drop=True),
    Fault(reset=True),
    Fault(drop=True, acts=True),
    Fault(cut=True, acts=True),
    Fault(status=422, cut=True),
    # The response isn't from Intercom.
    Fault(status=200, body=b"<html>\nSign in\n</html>"),
    Fault(status=200, body=b""),
    Fault(status=201, body=EMPTY_LIST, acts=True),
    Fault(status=502, body=f"\n{FORGED}\n".encode()),
    Fault(status=403, body=b"<html>Forbidden</html>"),
    # Intercom rejects the user, or asks for another attempt.
    Fault(status=422),
    Fault(status=400, body=FORGED_ERROR),
    Fault(status=409),
    Fault(status=503),
    Fault(status=500, acts=True),
    Fault(status=429, headers={"Retry-After": "0"}),
]
WRONG_USER = Fault(as_user="somebody-else")


class FaultInjector:
    """Decides which fault each request of a run gets, and remembers it."""

    def __init__(self, case: Case, services: MockServices) -> None:
        self.case = case
        self.services = services
        self.child: Child | None = None
        self.count = 0  # of upserts
        self.faults: dict[int, Fault] = {}  # by the id of the request
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Fault | None:
        if not request.is_upsert:
            return None
        with self.lock:
            self.count += 1
            count = self.count
            fault = self.choose(request, count)
            self.faults[id(request)] = fault
        if count == self.case.signal_at:
            self.send_signals()
        return fault

    def choose(self, request: Request, count: int) -> Fault:
        rng = self.case.random
        if count == self.case.stop_at:
            return Fault(status=401)
        if rng.random() >= self.case.fault_share:
            return Fault()
        has_user_id = "user_id" in request.body or "external_id" in request.body
        if has_user_id and rng.random() < 0.1:
            return WRONG_USER
        return rng.choice(FAULTS)

    def send_signals(self) -> None:
        eventually(lambda: self.child)
        assert self.child
        self.child.send(signal.SIGTERM)
        if self.case.signal_count > 1:
            delay = self.case.random.choice([0.001, 0.01, 0.1])
            threading.Timer(delay, self.send_again).start()

    def send_again(self) -> None:
        assert self.child
        with contextlib.suppress(ProcessLookupError):
            self.child.send(signal.SIGTERM)

    def is_accepted(self, request: Request) -> bool:
        """Return whether the client saw that Intercom accepted this request's user."""
        fault = self.faults.get(id(request), Fault())
        is_lost = fault.drop or fault.reset or fault.cut or fault.early == 103
        is_other = fault.status or fault.body is not None or fault.as_user
        return request.status == 200 and not is_lost and not is_other


#### The invariant


def number_of(name: str) -> int:
    """Return the number of the row with this name."""
    return int(name[1:].partition("-")[0])


def check_logs(result: Result) -> None:
    """Check that no cell and no response forges a line, and that nothing unexpected happened."""
    for text in (result.debug_log, result.error_log):
        for line in text.splitlines():
            assert LOG_LINE.match(line), line
    for line in (result.out + result.err).splitlines():
        assert not line.startswith("1999"), line
    assert "unexpected error" not in result.err
    assert "Traceback" not in result.err


def rejected_numbers(case: Case, result: Result) -> list[int]:
    """Check the bytes of the reject file, and return the numbers of its rows."""
    if not result.reject_files:
        return []
    content = result.reject_files[-1].read_bytes()
    text = io.StringIO(content.decode(), newline="")
    _, *rows = csv.reader(text, delimiter=case.delimiter)
    numbers = [number_of(cells[2]) for cells in rows]
    raw_by_number = {row.number: row.raw for row in case.rows}
    assert content == case.heading + b"".join(
        raw_by_number[number] for number in numbers
    )
    return numbers


def same_user_keys(row: FileRow) -> list[str]:
    """Return the keys that identify the row's user; a shared address isn't one."""
    keys = []
    if row.user_id:
        keys.append(row.user_id)
    if row.email.startswith("U"):
        keys.append(row.email.lower())
    return keys


def check_requests(
    case: Case, requests: list[Request], injector: FaultInjector
) -> set[int]:
    """Check the order of a run's requests; return the numbers of the rows that were accepted."""
    rows = {row.number: row for row in case.rows}
    position = {row.number: index for index, row in enumerate(case.rows)}
    accepted = set()
    last_position = defaultdict[str, int](lambda: -1)
    for request in requests:
        if not request.is_upsert:
            continue
        number = number_of(request.body["name"])
        assert rows[number].is_valid
        assert number not in accepted, "an accepted row is sent again"
        for key in same_user_keys(rows[number]):
            # So Intercom ends up with the data of the last row.
            assert position[number] >= last_position[key], (
                "an earlier row of the same user is sent after a later one"
            )
            last_position[key] = position[number]
        if injector.is_accepted(request):
            accepted.add(number)
    return accepted


def check_run(
    case: Case, result: Result, accepted: set[int], numbers: list[int]
) -> set[int]:
    """Check that each row has one outcome; return the numbers of the unchanged ones."""
    rejected = rejected_numbers(case, result)
    assert len(set(rejected)) == len(rejected)
    assert not set(rejected) & accepted
    rest = set(numbers) - set(rejected) - accepted
    assert result.counts() == (len(accepted), len(rest), len(rejected))
    assert case.skip_unchanged or not rest
    if result.status == 0:
        assert rejected == []
    if case.concurrency == 1:
        # If users are sent one by one, the reject file is in the order of the input.
        assert rejected == [number for number in numbers if number in rejected]
    return rest


def start_import(case: Case, project: Project, *arguments: object) -> FaultInjector:
    injector = FaultInjector(case, project.services)
    project.services.requests.clear()
    project.services.fault_for = injector
    injector.child = project.start(*arguments)
    return injector


def configure(case: Case, project: Project) -> None:
    services = project.services
    services.attributes["plan"] = "string"
    keys: dict[str, Any] = {
        "timeout": 0.001,
        "retries": 2,
        "concurrency": case.concurrency,
    }
    keys["user_url"] = f"{services.url}/{case.dialect}"
    keys["skip_unchanged"] = str(case.skip_unchanged).lower()
    project.configure(
        csv={"delimiter": case.delimiter.replace("\t", "tab")},
        intercom=keys,
        user={name: name for name in HEADINGS[:3]},
        custom_attributes={"plan": "plan"},
    )
    project.write(case.heading + b"".join(row.raw for row in case.rows))


def run_again(
    case: Case, project: Project, *arguments: object
) -> tuple[Result, set[int]]:
    """Run without faults; return the result and the numbers of the accepted rows."""
    case.fault_share = 0
    case.signal_at = 0
    case.stop_at = 0
    injector = start_import(case, project, *arguments)
    assert injector.child
    result = injector.child.wait()
    check_logs(result)
    return result, check_requests(case, project.services.requests, injector)


def import_rejected_rows(case: Case, project: Project, first: Result) -> set[int]:
    """Import the reject file; return the numbers of the rows accepted this time."""
    rejected = rejected_numbers(case, first)
    if not rejected:
        return set()
    result, accepted = run_again(case, project, "--local", first.reject_files[-1])
    left = set(rejected) - accepted
    has_valid_rows = any(row.is_valid for row in case.rows if row.number in rejected)
    if len(rejected) >= 10 and not has_valid_rows:
        # Such a file isn't imported at all.
        assert (result.status, accepted, len(result.reject_files)) == (1, set(), 1)
        return set()
    assert result.counts() == (len(accepted), 0, len(left))
    assert (len(result.reject_files) > 1) == bool(left)
    for row in case.rows:
        if row.number in left and row.is_valid:
            # A contact with this address has another external_id and isn't overwritten.
            is_shared = case.dialect == "contacts" and row.email.startswith("noreply")
            assert is_shared, "a user is lost"
    return accepted


def import_everything_again(case: Case, project: Project, accepted: set[int]) -> None:
    """Import the whole file; users unchanged since they were last sent are skipped."""
    shutil.rmtree(project.folder / "not_imported", ignore_errors=True)
    result, sent_again = run_again(case, project, NAME)
    numbers = [row.number for row in case.rows]
    unchanged = check_run(case, result, sent_again, numbers)
    assert unchanged <= accepted
    rows_by_key = Counter(key for row in case.rows for key in same_user_keys(row))
    for row in case.rows:
        has_one_row = all(rows_by_key[key] == 1 for key in same_user_keys(row))
        if row.is_valid and row.user_id and has_one_row and row.number in accepted:
            assert row.number in unchanged, "an unchanged user is sent again"


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_each_row_is_accepted_or_unchanged_or_saved(
    project: Project, services: MockServices, seed: int
) -> None:
    case = make_case(seed)
    configure(case, project)
    injector = start_import(case, project)
    assert injector.child
    result = injector.child.wait()
    check_logs(result)
    accepted = check_requests(case, services.requests, injector)
    if " added or updated" not in result.out:
        # The run stopped before it sent a user, so the input has all rows.
        assert accepted == set()
        assert not any(request.is_upsert for request in services.requests)
        assert not result.reject_files
        assert result.status != 0
        return
    unchanged = check_run(case, result, accepted, [row.number for row in case.rows])
    assert not unchanged
    accepted |= import_rejected_rows(case, project, result)
    if case.skip_unchanged:
        import_everything_again(case, project, accepted)
