"""Compare the speed and memory of export_csv.py with simpler programs for the same job.

    .venv/bin/python -m pip install -r tests/bench-requirements.txt
    .venv/bin/python tests/bench.py --plot bench.png

Each row of the table compares two programs that run alternately (A B A B), each in its own child
process, against mock services in another one. The figures are medians. Most exclude start-up: the
time of a run with few users is subtracted from that of a run with many. The benchmark needs a POSIX
system and an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import http.client
import importlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

TESTS = Path(__file__).resolve().parent
SCRIPT = TESTS.parent / "export_csv.py"
TOKEN = "sandbox-token-0123456789"
UNUSED_URL = "https://api.intercom.io/users"  # a dry run sends nothing
HEADINGS = ["user_id", "email", "name", "signed_up_at", "plan", "bookings_count"]
ATTRIBUTES = ["--attribute", "plan:string", "--attribute", "bookings_count:integer"]
TYPES = {"plan": "string", "bookings_count": "integer"}
# Ten columns: five strings, an integer, a float, a boolean and two timestamps.
WIDE_TYPES = {
    **TYPES,
    "city": "string",
    "rating": "float",
    "is_owner": "boolean",
    "seen_at": "timestamp",
}
WIDE_HEADINGS = [*HEADINGS[:4], *WIDE_TYPES]

# For measure_limit; the plot uses LATENCY too
LATENCY = 0.1  # seconds
LIMIT = 550  # requests per window
WINDOW = 2  # seconds
CONCURRENCY = 32

FEW = 20  # users of the short run that is subtracted


@dataclass(frozen=True)
class Sizes:
    """The size of each measurement."""

    rounds: int
    slow_users: int  # sent one by one, at 20 ms each
    cpu_users: int  # whose CPU time is counted
    windows: int  # of the rate limit
    dry_rows: int
    unchanged_rows: int
    large_file: int  # rows
    endless_line: int  # bytes
    waves: int  # users sent per unit of concurrency, for the plot


FULL = Sizes(5, 250, 5000, 15, 200_000, 100_000, 1_000_000, 2**30, 30)
QUICK = Sizes(3, 50, 500, 2, 20_000, 2_000, 20_000, 2**26, 8)


@dataclass(frozen=True)
class Result:
    """A row of the results table."""

    metric: str
    ours: str
    baseline: str
    ratio: str
    target: str
    meets_target: bool


@dataclass(frozen=True)
class Cost:
    """The cost of a child process."""

    wall: float  # seconds
    cpu: float  # seconds, user and system
    peak: float  # MB of memory


@dataclass
class Timings:
    """The costs of two programs that ran alternately, per user or row."""

    ours: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)

    def ratio(self) -> float:
        """Return the median of the rounds' ratios.

        Within a round, a slowdown of the machine affects both programs.
        """
        pairs = zip(self.ours, self.baseline, strict=True)
        return median(ours / baseline for ours, baseline in pairs)


#### Baselines


def make_users(count: int) -> Iterator[dict[str, Any]]:
    """Yield the users of `write_csv` as Intercom receives them."""
    for number in range(count):
        yield {
            "user_id": f"u{number}",
            "email": f"user{number}@example.com",
            "name": f"User {number}",
            "signed_up_at": 1_600_000_000 + number,
            "custom_attributes": {"plan": "gold", "bookings_count": number % 50},
        }


def request_headers(version: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {TOKEN}",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Intercom-Version": version,
    }


def send_with_http_client(url: str, count: int) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    headers = request_headers("1.4")
    for user in make_users(count):
        connection.request("POST", "/users", json.dumps(user), headers)
        response = connection.getresponse()
        response.read()
        assert response.status == 200


def send_with_requests(url: str, count: int) -> None:
    session = importlib.import_module("requests").Session()
    session.headers.update(request_headers("1.4"))
    for user in make_users(count):
        session.post(f"{url}/users", json=user, timeout=60).raise_for_status()


def send_with_sdk(url: str, count: int) -> None:
    intercom = importlib.import_module("intercom")
    headers = request_headers("2.14")
    client = intercom.Intercom(token=TOKEN, base_url=url, headers=headers)
    for user in make_users(count):
        request = intercom.CreateContactRequestWithExternalId(
            external_id=user["user_id"],
            email=user["email"],
            name=user["name"],
            signed_up_at=user["signed_up_at"],
            custom_attributes=user["custom_attributes"],
        )
        client.contacts.create(request=request)


def print_rows(path: str, _: int) -> None:
    """Read a file with csv.DictReader and print its rows as JSON."""
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            print(json.dumps(row))


def row_digests(path: str) -> Iterator[tuple[str, bytes]]:
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["user_id"], hashlib.sha256(json.dumps(row).encode()).digest()


def open_baseline_database(path: str) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(Path(path).with_name("baseline.sqlite3")))


def save_digests(path: str, _: int) -> None:
    """Save the digests that `look_up_digests` reads."""
    with open_baseline_database(path) as database:
        database.execute("CREATE TABLE sent (user TEXT PRIMARY KEY, digest BLOB)")
        database.executemany("INSERT INTO sent VALUES (?, ?)", row_digests(path))
        database.commit()


def look_up_digests(path: str, _: int) -> None:
    statement = "SELECT digest FROM sent WHERE user = ?"
    with open_baseline_database(path) as database:
        for user, digest in row_digests(path):
            assert database.execute(statement, (user,)).fetchone() == (digest,)


BASELINES: dict[str, Callable[[str, int], None]] = {
    "http.client": send_with_http_client,
    "requests": send_with_requests,
    "sdk": send_with_sdk,
    "print rows": print_rows,
    "save digests": save_digests,
    "look up digests": look_up_digests,
}


#### Running the programs


def start(
    command: list[object], folder: Path, *, quiet: bool = False
) -> subprocess.Popen[bytes]:
    """Start a command without the secrets and proxies of this environment."""
    foreign = re.compile(
        r"(INTERCOM|HIPCHAT|SLACK|AWS)_.*|(https?|all)_proxy", re.IGNORECASE
    )
    environment = {
        name: value for name, value in os.environ.items() if not foreign.fullmatch(name)
    }
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else None,
    )


def wait_for(process: subprocess.Popen[bytes], started: float) -> Cost:
    """Wait for a process to end, and return its cost."""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)


def run(command: list[object], folder: Path, status: int = 0) -> Cost:
    """Run a command, check its exit status, and return its cost."""
    started = time.perf_counter()
    process = start(command, folder, quiet=status != 0)
    cost = wait_for(process, started)
    if process.returncode != status:
        raise SystemExit(f"{command[1:]} exited with {process.returncode} in {folder}")
    return cost


def run_to_first_request(folder: Path, name: str, types: dict[str, str]) -> Cost:
    """Run an import until its first request arrives, kill it, and return its cost."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/users"
        command = import_command(folder, url, name, types=types)
        server.settimeout(0.5)
        started = time.perf_counter()
        process = start(command, folder)
        connection = None
        while connection is None:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
            if connection is None and process.poll() is not None:
                raise SystemExit(f"{command[1:]} exited without a request")
        with connection:
            connection.recv(65536)
            wall = time.perf_counter() - started
            process.kill()
            cost = wait_for(process, started)
            return Cost(wall, cost.cpu, cost.peak)


@contextlib.contextmanager
def mock_services(*options: object) -> Iterator[dict[str, Any]]:
    """Run mock services in another process and yield a dictionary with their URLs.

    The counts are added to it when the services stop.
    """
    command = [
        sys.executable,
        TESTS / "sandbox.py",
        "--serve",
        "--json",
        "--token",
        TOKEN,
    ]
    arguments = [str(part) for part in (*command, *options)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        report: dict[str, Any] = json.loads(process.stdout.readline())
        yield report
        report |= json.loads(process.communicate()[0])


def write_csv(folder: Path, count: int) -> Path:
    """Write a file of `count` users, unless it exists."""
    path = folder / f"users{count}.csv"
    if path.exists():
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADINGS)
        for user in make_users(count):
            attributes = user.pop("custom_attributes")
            writer.writerow([*user.values(), *attributes.values()])
    return path


def write_wide_csv(folder: Path, count: int, variant: str = "") -> Path:
    """Write a file with the columns of WIDE_HEADINGS, unless it exists.

    Variants: "index" has a first column without a heading, as data frames write it; in "prefix",
    every first cell begins with the heading of its column.
    """
    path = folder / f"wide{variant}{count}.csv"
    if path.exists():
        return path
    headings = list(WIDE_HEADINGS)
    if variant == "index":
        headings.insert(0, "")
    if variant == "prefix":
        headings.insert(0, "user")
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(headings) + "\n")
        for number in range(count):
            first_cell = {"index": f"{number},", "prefix": f"user{number},"}.get(
                variant, ""
            )
            file.write(first_cell + wide_row(number))
    return path


def wide_row(number: int) -> str:
    signed_up = datetime.fromtimestamp(1_600_000_000 + number, timezone.utc).isoformat()
    seen = datetime.fromtimestamp(1_700_000_000 + number, timezone.utc).isoformat()
    return (
        f"u{number},user{number}@example.com,User {number},{signed_up},gold,"
        f"{number % 50},Köln,{number % 500 / 100},{number % 3 == 0},{seen}\n"
    )


def import_command(
    folder: Path,
    url: str,
    *arguments: object,
    types: dict[str, str] = TYPES,
    **keys: object,
) -> list[object]:
    """Write a config.ini and return the command that imports with it.

    `types` are those of the custom attributes, `keys` the other settings of [intercom].
    """
    config = folder / "config.ini"
    settings = {
        "access_token": TOKEN,
        "user_url": url,
        "state_file": folder / "state",
        **keys,
    }
    lines = [
        "[local]",
        f"folder = {folder}",
        "[log]",
        f"folder = {folder}/logs",
        "[csv]",
        f"not_imported_folder = {folder}/not_imported",
        "[custom_attributes]",
        *(f"{name} = {name} : {type_name}" for name, type_name in types.items()),
        "[intercom]",
        *(f"{key} = {value}" for key, value in settings.items()),
    ]
    config.write_text("\n".join(lines) + "\n")
    return [sys.executable, SCRIPT, "--config", config, *arguments]


def baseline_command(name: str, url: object, count: int) -> list[object]:
    return [sys.executable, __file__, "--baseline", name, url, count]


def import_cost(
    folder: Path, endpoint: str, count: int, options: tuple[object, ...] = ()
) -> Cost:
    """Return the cost of an import of `count` users, against new mock services."""
    name = write_csv(folder, count).name
    with mock_services(*ATTRIBUTES, *options) as services:
        return run(
            import_command(folder, f"{services['url']}/{endpoint}", name), folder
        )


def baseline_cost(
    folder: Path, name: str, count: int, options: tuple[object, ...] = ()
) -> Cost:
    with mock_services(*ATTRIBUTES, *options) as services:
        return run(baseline_command(name, services["url"], count), folder)


def dry_run_cost(folder: Path, count: int) -> Cost:
    name = write_csv(folder, count).name
    return run(import_command(folder, UNUSED_URL, name, "--dry-run", "--quiet"), folder)


def baseline_rows_cost(folder: Path, name: str, count: int) -> Cost:
    return run(baseline_command(name, write_csv(folder, count), 0), folder)


def take_turns(
    rounds: int,
    ours: Callable[[int], Cost],
    baseline: Callable[[int], Cost],
    many: int,
    cost_field: str,
) -> Timings:
    """Run both programs alternately and return their seconds per user or row.

    `cost_field` is "wall" or "cpu".
    """
    turns = Timings()
    for _ in range(rounds):
        for cost, seconds in ((baseline, turns.baseline), (ours, turns.ours)):
            short = getattr(cost(FEW), cost_field)
            long = getattr(cost(many), cost_field)
            seconds.append((long - short) / (many - FEW))
    return turns


#### Measurements


def speed_line(metric: str, turns: Timings, unit: str, minimum: float) -> Result:
    """Return a row with the script's speed as a fraction of the baseline's."""
    ratio = 1 / turns.ratio()
    return Result(
        metric,
        unit.format(1 / median(turns.ours)),
        unit.format(1 / median(turns.baseline)),
        f"{ratio:.3f}",
        f">= {minimum}",
        ratio >= minimum,
    )


def measure_one_by_one(folder: Path, sizes: Sizes) -> Iterator[Result]:
    latency = ("--latency", 0.02)
    turns = take_turns(
        sizes.rounds,
        partial(import_cost, folder, "users", options=latency),
        partial(baseline_cost, folder, "http.client", options=latency),
        sizes.slow_users,
        "wall",
    )
    metric = "one by one at 20 ms, against a bare http.client loop"
    yield speed_line(metric, turns, "{:.1f} users/s", 0.95)


def measure_cpu(folder: Path, sizes: Sizes) -> Iterator[Result]:
    yield cpu_line(
        folder, sizes, "requests", "users", "a requests.Session().post loop", 0.85
    )
    yield cpu_line(folder, sizes, "sdk", "contacts", "a loop on the official SDK", 0.5)


def cpu_line(
    folder: Path,
    sizes: Sizes,
    baseline: str,
    endpoint: str,
    description: str,
    maximum: float,
) -> Result:
    turns = take_turns(
        sizes.rounds,
        partial(import_cost, folder, endpoint),
        partial(baseline_cost, folder, baseline),
        sizes.cpu_users,
        "cpu",
    )
    ratio = turns.ratio()
    return Result(
        f"CPU per user, against {description}",
        f"{median(turns.ours) * 1e6:.0f} us",
        f"{median(turns.baseline) * 1e6:.0f} us",
        f"{ratio:.2f}",
        f"<= {maximum}",
        ratio <= maximum,
    )


def measure_limit(folder: Path, sizes: Sizes) -> Iterator[Result]:
    """Compare the rate with the highest one that the rate limit allows.

    Each run starts at the beginning of a window.
    """
    count = sizes.windows * LIMIT
    ideal_seconds = (sizes.windows - 1) * WINDOW + LIMIT * LATENCY / CONCURRENCY
    allowed = count / ideal_seconds
    rates = []
    too_many = 0
    for _ in range(sizes.rounds):
        name = write_csv(folder, count).name
        options = ("--latency", LATENCY, "--limit", LIMIT, "--window", WINDOW)
        with mock_services(*options) as services:
            url = services["users_url"]
            command = import_command(folder, url, name, concurrency=CONCURRENCY)
            time.sleep(WINDOW - time.time() % WINDOW)
            rates.append(count / run(command, folder).wall)
        too_many += services["responses"].get("429", 0)
    rate = median(rates)
    ratio = rate / allowed
    yield Result(
        f"{CONCURRENCY} in flight at 100 ms, limit {LIMIT} per {WINDOW} s",
        f"{rate:.1f} users/s",
        f"{allowed:.1f} (the limit)",
        f"{ratio:.3f}",
        ">= 0.95",
        ratio >= 0.95,
    )
    yield Result(
        "  429 responses in all these runs", str(too_many), "", "", "0", too_many == 0
    )


def measure_preflight(folder: Path, sizes: Sizes) -> Iterator[Result]:
    """Measure copy and preflight: the whole file is read before the first request."""
    for variant, description in (
        ("", "ten columns"),
        ("index", "a file whose first heading is blank"),
        ("prefix", "a file whose first cells begin with their heading"),
    ):
        yield preflight_line(folder, sizes, variant, description)


def preflight_line(
    folder: Path, sizes: Sizes, variant: str, description: str
) -> Result:
    turns = Timings()
    types = dict(WIDE_TYPES)
    large = write_wide_csv(folder, sizes.dry_rows, variant)
    small = write_wide_csv(folder, FEW, variant)
    rows = sizes.dry_rows - FEW
    for _ in range(sizes.rounds):
        bare = [
            run(baseline_command("print rows", path, 0), folder).wall
            for path in (large, small)
        ]
        own = [
            run_to_first_request(folder, path.name, types).wall
            for path in (large, small)
        ]
        turns.baseline.append((bare[0] - bare[1]) / rows)
        turns.ours.append((own[0] - own[1]) / rows)
    metric = (
        f"copy and preflight of {description}, against csv.DictReader and json.dumps"
    )
    return speed_line(metric, turns, "{:,.0f} rows/s", 0.4)


def measure_dry_run(folder: Path, sizes: Sizes) -> Iterator[Result]:
    turns = take_turns(
        sizes.rounds,
        partial(dry_run_cost, folder),
        partial(baseline_rows_cost, folder, "print rows"),
        sizes.dry_rows,
        "wall",
    )
    metric = "dry run, against csv.DictReader and json.dumps"
    yield speed_line(metric, turns, "{:,.0f} rows/s", 0.3)


def measure_unchanged(folder: Path, sizes: Sizes) -> Iterator[Result]:
    path = write_csv(folder, sizes.unchanged_rows)
    run(baseline_command("save digests", path, 0), folder)
    with mock_services() as services:
        url = services["users_url"]
        run(
            import_command(
                folder, url, path.name, concurrency=8, skip_unchanged="true"
            ),
            folder,
        )

        def import_rows(count: int) -> Cost:
            name = write_csv(folder, count).name
            command = import_command(folder, url, name, skip_unchanged="true")
            return run(command, folder)

        turns = take_turns(
            sizes.rounds,
            import_rows,
            partial(baseline_rows_cost, folder, "look up digests"),
            sizes.unchanged_rows,
            "wall",
        )
    if sum(services["responses"].values()) != sizes.unchanged_rows:
        raise SystemExit(f"unchanged users were sent: {services}")
    metric = "unchanged rows, against csv.DictReader, json.dumps, sha256 and SQLite"
    yield speed_line(metric, turns, "{:,.0f} rows/s", 0.3)


def measure_memory(folder: Path, sizes: Sizes) -> Iterator[Result]:
    """Compare peak memory with that of a tenth of the rows.

    With FULL sizes, a tenth is 100,000 rows, up to which the preflight counts repeated users.
    """
    large = dry_run_cost(folder, sizes.large_file).peak
    small = dry_run_cost(folder, sizes.large_file // 10).peak
    ratio = large / small
    yield Result(
        f"peak memory of {sizes.large_file:,} rows, against a tenth of them",
        f"{large:.1f} MB",
        f"{small:.1f} MB",
        f"{ratio:.2f}",
        "<= 1.05",
        ratio <= 1.05,
    )
    for description, write in (
        (
            f"{sizes.endless_line // 2**20:,} MiB without a line ending",
            write_endless_line,
        ),
        ("600 ids of a megabyte each", write_long_ids),
        ("one record of a million tiny quoted cells", write_long_record),
    ):
        path = folder / "large.csv"
        write(path, sizes)
        command = import_command(folder, UNUSED_URL, path.name, "--dry-run", types={})
        peak = run(command, folder, status=1).peak
        path.unlink()
        yield Result(
            f"peak memory of {description}",
            f"{peak:.1f} MB",
            "",
            "",
            "< 120 MB",
            peak < 120,
        )


def write_endless_line(path: Path, sizes: Sizes) -> None:
    with path.open("wb") as file:
        file.write(b"user_id,email\n")
        for _ in range(sizes.endless_line // 2**20):
            file.write(b"x" * 2**20)


def write_long_ids(path: Path, sizes: Sizes) -> None:
    with path.open("wb") as file:
        file.write(b"user_id,email\n")
        for number in range(600):
            file.write(b"%d" % number + b"9" * 1_000_000 + b",a@example.com\n")


def write_long_record(path: Path, sizes: Sizes) -> None:
    with path.open("wb") as file:
        file.write(b"user_id,email\n" + b'"1",' * 1_000_000 + b"\n")


def measure_start_up(folder: Path, sizes: Sizes) -> Iterator[Result]:
    name = write_csv(folder, FEW).name
    turns = Timings()
    for _ in range(3 * sizes.rounds):
        turns.ours.append(run_to_first_request(folder, name, TYPES).wall)
        turns.baseline.append(
            run([sys.executable, "-c", "import requests"], folder).wall
        )
    pairs = zip(turns.ours, turns.baseline, strict=True)
    difference = median(ours - baseline for ours, baseline in pairs)
    yield Result(
        'start-up to the first request, against -c "import requests"',
        f"{median(turns.ours):.3f} s",
        f"{median(turns.baseline):.3f} s",
        f"+{difference:.3f} s",
        "<= +0.1 s",
        difference <= 0.1,
    )


MEASUREMENTS = {
    "one_by_one": measure_one_by_one,
    "cpu": measure_cpu,
    "limit": measure_limit,
    "preflight": measure_preflight,
    "dry_run": measure_dry_run,
    "unchanged": measure_unchanged,
    "memory": measure_memory,
    "start_up": measure_start_up,
}


def plot(folder: Path, sizes: Sizes, path: Path) -> None:
    """Draw users per second against concurrency, as a PNG."""
    steps = [1, 2, 4, 8, 16, 32, 64]
    rates = [rate_at(folder, sizes, concurrency) for concurrency in steps]
    pyplot = importlib.import_module("matplotlib.pyplot")
    _, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    axes.loglog(steps, rates, "o-", label="export_csv.py")
    ideal = [step / LATENCY for step in steps]
    axes.loglog(steps, ideal, ":", label="concurrency / latency")
    limit_label = "Intercom's limit of 10,000 per minute"
    axes.axhline(10_000 / 60, color="gray", linestyle="--", label=limit_label)
    axes.set(
        xlabel="concurrency", ylabel="users per second", title="100 ms per request"
    )
    axes.set_xticks(steps, [str(step) for step in steps])
    ticks = [10, 20, 50, 100, 200, 500]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    pyplot.savefig(path, dpi=120)


def rate_at(folder: Path, sizes: Sizes, concurrency: int) -> float:
    """Return the users per second at a concurrency, without start-up."""
    many = concurrency * sizes.waves + FEW
    walls = []
    for count in (FEW, many):
        name = write_csv(folder, count).name
        with mock_services("--latency", LATENCY) as services:
            url = services["users_url"]
            command = import_command(folder, url, name, concurrency=concurrency)
            walls.append(run(command, folder).wall)
    return (many - FEW) / (walls[1] - walls[0])


def print_table(lines: list[Result]) -> None:
    """Print the table in Markdown."""
    rows = [["metric", "this script", "baseline", "ratio", "target", ""]]
    for line in lines:
        verdict = "" if line.meets_target else "missed"
        rows.append(
            [line.metric, line.ours, line.baseline, line.ratio, line.target, verdict]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"| {' | '.join(cells)} |", flush=True)
        if number == 0:
            print(f"|{'|'.join('-' * (width + 2) for width in widths)}|")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="use small sizes, to check that it works"
    )
    parser.add_argument(
        "--plot",
        metavar="FILE.png",
        type=Path,
        help="also plot speed against concurrency",
    )
    parser.add_argument(
        "--only", choices=MEASUREMENTS, help="run only this measurement"
    )
    parser.add_argument(
        "--baseline", nargs=3, metavar=("NAME", "URL", "COUNT"), help=argparse.SUPPRESS
    )
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    if options.baseline:
        name, url, count = options.baseline
        BASELINES[name](url, int(count))
        return 0
    sizes = QUICK if options.quick else FULL
    lines: list[Result] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, measure in MEASUREMENTS.items():
            if options.only in (None, name):
                print(f"measuring: {name}", file=sys.stderr, flush=True)
                lines += measure(folder, sizes)
        if options.plot:
            plot(folder, sizes, options.plot)
    print_table(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
